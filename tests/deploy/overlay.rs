//! Several replicas in Kubernetes: the generated secrets, and the shared Redis with its configuration.

use std::collections::BTreeMap;
use std::fs;
use std::process::{Command, Stdio};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use super::kubernetes::{assert_taken, copy_with, rendered};
use crate::support::ports::free_address;
use crate::support::{Gateway, Introspector, KillOnDrop, RawClient, Upstream};

/// The decoded values of a Secret.
fn secret(resources: &[Value], name: &str) -> BTreeMap<String, String> {
    let all = resources.iter().filter(|it| it["kind"] == "Secret");
    let mut named = all.filter(|it| it["metadata"]["name"].as_str().unwrap().starts_with(name));
    let data = named.next().unwrap()["data"].as_object().unwrap();
    // Long values span several lines.
    let decoded = |value: &Value| BASE64_STANDARD.decode(value.as_str().unwrap().replace('\n', "")).unwrap();
    data.iter().map(|(key, value)| (key.clone(), String::from_utf8(decoded(value)).unwrap())).collect()
}

/// Killed when dropped.
#[test]
#[ignore = "needs overlay: tests/run"]
fn replicas_share_a_redis_closed_to_other_clients() {
    let copy = copy_with("");
    let overlay = copy.path().join("overlays/replicas");
    let make = || {
        let made = Command::new(overlay.join("make-secrets")).status().unwrap();
        assert!(made.success());
        let read = |name| fs::read_to_string(overlay.join("secrets").join(name)).unwrap();
        ["admin-token", "webhook-secret", "redis-url", "redis.conf"].map(read)
    };
    for name in ["admin-token", "redis-password", "redis-url", "redis.conf", "webhook-secret"] {
        let _ = fs::remove_file(overlay.join("secrets").join(name));
    }
    assert_eq!(make(), make(), "existing secrets are kept");

    let resources = assert_taken("replicas", &rendered(&overlay), &overlay.join("gateway.yaml"));
    let named = |kind: &str, name: &str| {
        let mut all = resources.iter().filter(|it| it["kind"] == kind);
        all.find(|it| it["metadata"]["name"] == name).unwrap()
    };
    let pods = named("StatefulSet", "stockaj");
    assert_eq!(pods["spec"]["replicas"], 3);
    let secrets = secret(&resources, "stockaj-gateway");
    assert_eq!(secrets.keys().collect::<Vec<_>>(), ["admin-token", "redis-url", "webhook-secret"]);
    assert!(secrets.values().all(|it| it.len() >= 32 && it.trim() == it));
    // The files have the paths in gateway.yaml, and Stockaj signs with the same secret.
    let spec = &pods["spec"]["template"]["spec"];
    let mounts = spec["initContainers"][0]["volumeMounts"].as_array().unwrap();
    assert!(
        mounts.iter().any(|it| it["name"] == "secrets" && it["mountPath"] == "/run/secrets/stockaj-gateway")
    );
    let environment = spec["containers"][0]["env"].as_array().unwrap();
    let signing = environment.iter().find(|it| it["name"] == "STOCKAJ_GATEWAY_WEBHOOK_SECRET").unwrap();
    assert_eq!(
        signing["valueFrom"]["secretKeyRef"],
        json!({"name": "stockaj-gateway", "key": "webhook-secret"})
    );
    // Only the gateways can connect to Redis.
    let policy = &named("NetworkPolicy", "stockaj-redis")["spec"];
    assert_eq!(policy["ingress"].as_array().unwrap().len(), 1);
    let from = &policy["ingress"][0]["from"];
    let gateways = &pods["spec"]["template"]["metadata"]["labels"];
    assert_eq!(*from, json!([{"podSelector": {"matchLabels": gateways}}]));

    // Runs Redis with the arguments of the manifest.
    let container = &named("Deployment", "stockaj-redis")["spec"]["template"]["spec"]["containers"][0];
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("redis.conf"), &secret(&resources, "stockaj-redis")["redis.conf"])
        .unwrap();
    let port = free_address().port();
    let words = |value: &Value| -> Vec<String> {
        value.as_array().unwrap().iter().map(|it| it.as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(words(&container["command"]), ["valkey-server", "/etc/valkey/redis.conf"]);
    let mut command = Command::new("redis-server");
    command.arg("redis.conf").args(words(&container["args"])).args(["--port", &port.to_string()]);
    command.current_dir(directory.path()).stdin(Stdio::null()).stdout(Stdio::null());
    let _redis = KillOnDrop(command.spawn().unwrap());

    // The gateway's Redis user may run exactly the commands it needs, other users none.
    let url = secrets["redis-url"].replace("stockaj-redis:6379", &format!("127.0.0.1:{port}"));
    assert_ne!(url, secrets["redis-url"]);
    let token = directory.path().join("admin-token");
    fs::write(&token, &secrets["admin-token"]).unwrap();
    let gateway = Gateway::builder()
        .backend(&Upstream::start())
        .introspector(&Introspector::start())
        .yaml(&format!("admin:\n  token_file: {}\nredis: {{url: \"{url}\"}}\n", token.display()))
        .start();
    gateway.wait_for_metric("redis_connected", 1.0);
    let authorization = format!("Bearer {}", secrets["admin-token"]);
    let fields = [("Authorization", &*authorization), ("Content-Type", "application/json")];
    let revoked =
        RawClient::connect(gateway.admin()).request("POST", "/tokens/revoke", &fields, b"{\"id\": \"17\"}");
    assert_eq!(revoked.status, 200, "{}", revoked.text());
    gateway.wait_for_metric("redis_messages_total{direction=\"sent\"}", 1.0);
    let stranger = Command::new("redis-cli").args(["-p", &port.to_string(), "GET", "x"]).output().unwrap();
    let said = format!("{stranger:?}");
    assert!(said.contains("NOAUTH"), "{said}");
}
