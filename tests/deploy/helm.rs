//! The chart: it renders the same resources as the kustomization, and rejects invalid values.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Output;

use serde_json::{Value, json};

use super::kubernetes::{assert_taken, copy_with, directory, documents, program, rendered};

const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/helm");

fn helm(release: &str, values: &str) -> Output {
    run(&["template", release], values)
}

/// Runs a command on the chart.
fn run(words: &[&str], values: &str) -> Output {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("values.yaml");
    fs::write(&file, values).unwrap();
    let mut command = program("helm");
    // Isolated from the machine's own helm configuration.
    for variable in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
        command.env(variable, directory.path());
    }
    command.args(words).args([CHART, "--values"]).arg(file).output().unwrap()
}

fn template(release: &str, values: &str) -> String {
    let output = helm(release, values);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.strip_prefix("---\n").unwrap().to_owned()
}

/// The resources by kind and name, without the labels that helm or kustomize adds.
fn resources(text: &str) -> BTreeMap<String, Value> {
    let resources = documents(text).into_iter().map(|(_, mut resource)| {
        let name = format!("{} {}", resource["kind"], resource["metadata"]["name"]);
        resource["metadata"].as_object_mut().unwrap().remove("labels");
        (name, resource)
    });
    resources.collect()
}

#[test]
#[ignore = "needs kubernetes: tests/run"]
fn chart_defaults_render_the_kustomization() {
    let copy = copy_with("resources: [../base]\ncomponents: [../components/prometheus-operator]\n");
    for (values, kustomization) in
        [("{}", directory("base")), ("serviceMonitor: {enabled: true}", copy.path().join("own"))]
    {
        let (chart, kustomized) = (template("stockaj", values), rendered(&kustomization));
        let (chart_s, others) = (resources(&chart), resources(&kustomized));
        assert_eq!(chart_s.keys().collect::<Vec<_>>(), others.keys().collect::<Vec<_>>());
        for (name, resource) in &chart_s {
            assert_eq!(*resource, others[name], "{name}");
        }
        assert_taken("the chart", &chart, &directory("base").join("gateway.yaml"));
    }
}

/// With `usage` in gateway.yaml the chart equals the kustomization with the component.
#[test]
#[ignore = "needs kubernetes: tests/run"]
fn chart_has_a_volume_for_a_usage_ledger() {
    let copy = copy_with("resources: [../base]\ncomponents: [../components/usage]\n");
    let kustomized = resources(&rendered(&copy.path().join("own")));
    let base = fs::read_to_string(directory("base").join("gateway.yaml")).unwrap();
    let file = copy.path().join("own/gateway.yaml");
    for line in ["usage: {}\n", "usage: {path: /var/lib/stockaj-gateway/usage.redb}\n"] {
        let configuration = format!("{base}{line}");
        fs::write(&file, &configuration).unwrap();
        let values = json!({"gateway": {"configuration": configuration}});
        let text = template("stockaj", &values.to_string());
        assert_taken(line, &text, &file);
        let name = "\"StatefulSet\" \"stockaj\"";
        assert_eq!(resources(&text)[name], kustomized[name], "{line}");
    }
    let usage = json!({"size": "20Gi", "storageClass": "fast"});
    let values = json!({"gateway": {"configuration": format!("{base}usage: {{}}\n"), "usage": usage}});
    let text = template("stockaj", &values.to_string());
    assert!(text.contains("storageClassName: fast\n") && text.contains("storage: 20Gi}"), "{text}");
    let values = json!({"gateway": {"configuration": format!("{base}usage: null\n")}});
    assert!(template("stockaj", &values.to_string()).contains("kind: Deployment\n"));
}

/// The termination grace period and the ports follow from gateway.yaml.
#[test]
#[ignore = "needs kubernetes: tests/run"]
fn chart_renders_resources_for_its_gateway_yaml() {
    let base = fs::read_to_string(directory("base").join("gateway.yaml")).unwrap();
    for (from, to, pre_stop, grace) in [
        ("timeout: 30s", "timeout: 2m", 135, 160),
        ("drain_timeout: 10s", "drain_timeout: 1500ms", 45, 62),
        ("  drain_timeout: 10s\n", "", 45, 90),
        ("drain_delay: 0s", "drain_delay: 20s", 45, 90),
        ("0.0.0.0:8080", "0.0.0.0:8081", 45, 70),
    ] {
        let configuration = base.replace(from, to);
        assert_ne!(configuration, base);
        let text = template("stockaj", &json!({"gateway": {"configuration": configuration}}).to_string());
        let resources = resources(&text);
        let spec = &resources["\"Deployment\" \"stockaj\""]["spec"]["template"]["spec"];
        assert_eq!(spec["terminationGracePeriodSeconds"], grace, "{to}");
        assert_eq!(spec["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"], pre_stop, "{to}");
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("gateway.yaml");
        fs::write(&file, &configuration).unwrap();
        assert_taken(to, &text, &file);
    }
}

#[test]
#[ignore = "needs kubernetes: tests/run"]
fn release_has_the_resources_of_its_values() {
    let values = json!({
        "gateway": {
            "image": {"repository": "registry.example/gateway", "tag": "1.2.3", "pullPolicy": "Always"},
            "secret": "of-the-gateway",
        },
        "stockaj": {"env": [{"name": "APP_ENV", "value": "production"}]},
        "serviceMonitor": {"enabled": true, "labels": {"release": "prometheus"}},
    });
    let text = template("shop", &values.to_string());
    let resources = resources(&text);
    assert_eq!(text.matches("name: stockaj\n").count(), 1, "only the container has this name");
    let spec = &resources["\"Deployment\" \"shop\""]["spec"]["template"]["spec"];
    let gateway = &spec["initContainers"][0];
    assert_eq!(
        (&gateway["image"], &gateway["imagePullPolicy"]),
        (&json!("registry.example/gateway:1.2.3"), &json!("Always"))
    );
    assert_eq!(gateway["volumeMounts"][1]["mountPath"], "/run/secrets/stockaj-gateway");
    assert_eq!(spec["volumes"][1]["secret"]["secretName"], "of-the-gateway");
    assert_eq!(spec["volumes"][0]["configMap"]["name"], "shop-gateway");
    assert!(resources.contains_key("\"ConfigMap\" \"shop-gateway\""));
    assert_eq!(spec["containers"][0]["env"][0]["value"], "production");
    let labels = json!({"app.kubernetes.io/name": "shop"});
    assert_eq!(resources["\"NetworkPolicy\" \"shop\""]["spec"]["podSelector"]["matchLabels"], labels);
    assert_eq!(resources["\"Service\" \"shop\""]["spec"]["selector"], labels);
    assert!(text.contains("    release: prometheus\n"));
}

#[test]
#[ignore = "needs kubernetes: tests/run"]
fn pods_have_the_pull_secrets_and_nodes_of_the_values() {
    let values = json!({
        "imagePullSecrets": [{"name": "registry"}],
        "nodeSelector": {"kubernetes.io/arch": "arm64"},
        "tolerations": [{"key": "shop", "operator": "Exists", "effect": "NoSchedule"}],
    });
    let text = template("stockaj", &values.to_string());
    assert_taken("nodes", &text, &directory("base").join("gateway.yaml"));
    let spec = &resources(&text)["\"Deployment\" \"stockaj\""]["spec"]["template"]["spec"];
    for (key, value) in values.as_object().unwrap() {
        assert_eq!(spec[key], *value, "{key}");
    }
}

#[test]
#[ignore = "needs kubernetes: tests/run"]
fn notes_say_what_to_do_next() {
    let notes = |values: Value| {
        let output =
            run(&["install", "shop", "--dry-run=client", "--namespace", "sales"], &values.to_string());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let said = String::from_utf8(output.stdout).unwrap();
        said.split_once("\nNOTES:\n").unwrap_or_else(|| panic!("{said}")).1.to_owned()
    };
    let said = notes(json!({}));
    for expected in [
        "kubectl rollout status deployment/shop --namespace sales\n",
        "curl --include http://127.0.0.1:8080/up\n",
        "listen.trusted_proxies is still 10.244.0.0/16",
    ] {
        assert!(said.contains(expected), "{said}");
    }
    let base = fs::read_to_string(directory("base").join("gateway.yaml")).unwrap();
    let configuration = base.replace("10.244.0.0/16", "10.1.0.0/16") + "usage: {}\n";
    let said = notes(json!({"gateway": {"configuration": configuration}}));
    assert!(said.contains(" statefulset/shop ") && !said.contains("is still"), "{said}");
    let said = notes(json!({"stockaj": {"enabled": false}, "selector": {"app": "web", "tier": "front"}}));
    assert!(said.contains("--selector app=web,tier=front\n"), "{said}");
}

#[test]
#[ignore = "needs kubernetes: tests/run"]
fn chart_rejects_values_the_gateway_cannot_run_with() {
    for (values, expected) in [
        (json!({"stockaj": {"enabled": false}}), "name the labels of your own pods"),
        (json!({"imagePullSecrets": ["registry"]}), "got string, want object"),
        (json!({"replica": 3}), "additional properties 'replica' not allowed"),
        (json!({"networkPolicy": {"clients": []}}), "minItems"),
        (json!({"networkPolicy": {"monitoring": [{}]}}), "minProperties"),
        (
            json!({"gateway": {"configuration": "admin: {address: '127.0.0.1:9090'}"}}),
            "must be 0.0.0.0 and a port",
        ),
        (
            json!({"gateway": {"configuration": "backend: {url: http://127.0.0.1:8000}"}}),
            "must be 0.0.0.0 and a port",
        ),
        (
            json!({"gateway": {"configuration": "admin: {address: '0.0.0.0:9090'}\nbackend: {timeout: soon}"}}),
            "\"soon\" is not a duration",
        ),
        (json!({"gateway": {"configuration": "admin: {"}}), "gateway.configuration: "),
        (
            json!({"gateway": {"configuration": "admin: {address: '0.0.0.0:9090'}\nusage: {path: /tmp/usage.redb}"}}),
            "usage.path must be below /var/lib/stockaj-gateway",
        ),
    ] {
        let output = helm("stockaj", &values.to_string());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(expected), "{values}: {said}");
    }
}

#[test]
fn chart_version_equals_the_crate_version() {
    let chart = fs::read_to_string(Path::new(CHART).join("Chart.yaml")).unwrap();
    assert!(chart.contains(&format!("\nappVersion: {}\n", env!("CARGO_PKG_VERSION"))));
}
