//! The Kubernetes manifests: invariants, and validation by Kubernetes' own tools.
//!
//! The reload of a map in its own ConfigMap is tested by `reload::changed_file_is_reloaded_automatically`.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use stockaj_gateway::internals::config::{Settings, load_with};

use crate::support::{PATIENCE, TestEnv};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
/// How long Services and load balancers still send requests to a pod that is terminating.
pub(super) const ENDPOINT_REMOVAL: Duration = Duration::from_secs(10);
/// Additional time for the gateway beside its draining.
pub(super) const MARGIN: Duration = Duration::from_secs(5);
/// The oldest and the newest supported Kubernetes. The `sleep` action of preStop hooks is enabled by default since the
/// first, as are native sidecars; the second is the latest with published schemas.
pub(super) const VERSIONS: [&str; 2] = ["1.30", "1.37"];

/// Checks that the operator's own types accept a ServiceMonitor and keep every field. Its schema is not among those of
/// Kubernetes.
const SERVICE_MONITOR: &str = "
import sys, yaml
from cloudcoil.models.prometheus_operator.v1 import ServiceMonitor
written = yaml.safe_load(sys.argv[1])
read = ServiceMonitor.model_validate(written).model_dump(by_alias=True, exclude_unset=True)
sys.exit(None if read == written else f'{read} is not {written}')
";

pub(super) fn directory(name: &str) -> PathBuf {
    Path::new(ROOT).join("deploy/kubernetes").join(name)
}

fn read(file: &Path) -> Value {
    serde_yaml::from_str(&fs::read_to_string(file).unwrap()).unwrap()
}

/// The resources of `base`, as written.
fn written() -> Vec<Value> {
    let base = directory("base");
    let files = read(&base.join("kustomization.yaml"))["resources"].clone();
    files.as_array().unwrap().iter().map(|file| read(&base.join(file.as_str().unwrap()))).collect()
}

/// Loads a gateway.yaml with the files that the pod has: the image's map and the Secret.
pub(super) fn settings(file: &Path) -> Settings {
    let environment = |name: &str| {
        let there = match name {
            "STOCKAJ_ABILITY_MAP" => "config/stockaj.yaml",
            "STOCKAJ_SECRETS" => "tests/deploy/secrets",
            _ => return None,
        };
        Some(Path::new(ROOT).join(there).display().to_string())
    };
    load_with(file, &environment).unwrap_or_else(|report| panic!("{report}")).settings
}

pub(super) fn the<'a>(resources: &'a [Value], kind: &str) -> &'a Value {
    let found: Vec<&Value> = resources.iter().filter(|it| it["kind"] == kind).collect();
    found.iter().find(|it| it["metadata"]["name"] == "stockaj").unwrap_or_else(|| panic!("{kind}: {found:?}"))
}

pub(super) fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// The workload: a StatefulSet if each pod has a volume of its own.
fn workload(resources: &[Value]) -> &Value {
    let is_stateful = resources.iter().any(|it| it["kind"] == "StatefulSet");
    the(resources, if is_stateful { "StatefulSet" } else { "Deployment" })
}

fn pod(resources: &[Value]) -> &Value {
    &workload(resources)["spec"]["template"]
}

pub(super) fn container<'a>(containers: &'a Value, name: &str) -> &'a Value {
    list(containers).iter().find(|it| it["name"] == name).unwrap()
}

/// The invariants between the manifests and their gateway.yaml.
fn assert_sound(resources: &[Value], settings: &Settings) {
    let spec = &pod(resources)["spec"];
    let gateway = container(&spec["initContainers"], "gateway");
    let stockaj = container(&spec["containers"], "stockaj");
    assert_eq!(gateway["restartPolicy"], "Always", "a native sidecar");

    // Listener addresses and trusted proxies.
    let proxy: SocketAddr = settings.listen.address.to_string().parse().unwrap();
    assert_eq!(settings.admin.address.to_string(), "0.0.0.0:9090", "the kubelet comes from outside the pod");
    assert!(proxy.ip().is_unspecified());
    assert!(!settings.listen.trusted_proxies.is_empty(), "the ingress says https");
    let ports: BTreeSet<i64> =
        list(&gateway["ports"]).iter().map(|port| port["containerPort"].as_i64().unwrap()).collect();
    assert_eq!(ports, BTreeSet::from([i64::from(proxy.port()), 9090]));

    // Each probe requests an existing path.
    for (container, probe, path, port) in [
        (gateway, "startupProbe", "/readyz", 9090),
        (gateway, "readinessProbe", "/readyz", 9090),
        (gateway, "livenessProbe", "/healthz", 9090),
        (stockaj, "startupProbe", "/up", proxy.port()),
        (stockaj, "readinessProbe", "/up", proxy.port()),
    ] {
        assert_eq!(container[probe]["httpGet"], json!({"path": path, "port": port}), "{probe}");
    }

    // A request in flight when the pod terminates has its full timeout.
    let seconds = |value: &Value| Duration::from_secs(value.as_u64().unwrap());
    let before = seconds(&stockaj["lifecycle"]["preStop"]["sleep"]["seconds"]);
    assert!(before >= ENDPOINT_REMOVAL + settings.backend.timeout, "{before:?}");
    let grace = seconds(&spec["terminationGracePeriodSeconds"]);
    let needed = before + settings.listen.drain_delay + settings.listen.drain_timeout + MARGIN;
    assert!(grace >= needed, "{grace:?} is less than {needed:?}");

    // Only the intended peers reach the two ports, and no other port is reachable.
    let labels = &pod(resources)["metadata"]["labels"];
    let policy = &the(resources, "NetworkPolicy")["spec"];
    assert_eq!(policy["policyTypes"], json!(["Ingress"]));
    let mut reached = BTreeSet::new();
    for rule in list(&policy["ingress"]) {
        assert!(
            !list(&rule["from"]).is_empty() && !list(&rule["ports"]).is_empty(),
            "rule without peers or ports: {rule}"
        );
        for peer in list(&rule["from"]) {
            assert!(
                peer.as_object().is_some_and(|peer| !peer.is_empty()),
                "rule that matches every peer: {rule}"
            );
        }
        // By port number, since not every implementation resolves port names of init containers.
        reached.extend(list(&rule["ports"]).iter().map(|port| port["port"].as_i64().unwrap()));
    }
    assert_eq!(reached, ports);
    assert_eq!(settings.backend.authority, "127.0.0.1:8000", "the containers share the loopback interface");
    assert!(!ports.contains(&8000));

    // Selectors match the pod's labels; Services target a port of the gateway by number.
    for selector in [
        &policy["podSelector"]["matchLabels"],
        &workload(resources)["spec"]["selector"]["matchLabels"],
        &the(resources, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        &the(resources, "Service")["spec"]["selector"],
    ] {
        assert!(!selector.as_object().unwrap().is_empty());
        assert!(
            selector.as_object().unwrap().iter().all(|(name, value)| labels[name] == *value),
            "{selector}"
        );
    }
    for port in list(&the(resources, "Service")["spec"]["ports"]) {
        assert_eq!(port["targetPort"], proxy.port(), "clients reach only the proxy's port");
    }

    // Complies with the "restricted" Pod Security Standard.
    assert_eq!(spec["securityContext"]["runAsNonRoot"], true);
    assert_eq!(spec["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
    for container in [gateway, stockaj] {
        assert_eq!(container["securityContext"]["allowPrivilegeEscalation"], false);
        assert_eq!(container["securityContext"]["capabilities"]["drop"], json!(["ALL"]));
    }
    assert_eq!(gateway["securityContext"]["readOnlyRootFilesystem"], true);

    // A ledger has a volume of its own with enough space, writable by the container's user.
    let volumes = list(&workload(resources)["spec"]["volumeClaimTemplates"]);
    assert_eq!(volumes.len(), usize::from(settings.usage.is_some()));
    if let (Some(usage), [volume]) = (&settings.usage, volumes) {
        let mut mounts = list(&gateway["volumeMounts"]).iter();
        let mount = mounts.find(|it| it["name"] == volume["metadata"]["name"]).unwrap();
        assert_eq!(Path::new(mount["mountPath"].as_str().unwrap()), usage.path.parent().unwrap());
        assert_eq!(mount["readOnly"], Value::Null);
        let size = volume["spec"]["resources"]["requests"]["storage"].as_str().unwrap();
        let size: u64 = size.strip_suffix("Gi").unwrap().parse().unwrap();
        assert!(size << 30 >= 2 * usage.max_size, "{size} GiB for {}", usage.max_size);
        assert_eq!(spec["securityContext"]["fsGroup"], gateway["securityContext"]["runAsGroup"]);
        assert_eq!(volume["spec"]["accessModes"], json!(["ReadWriteOnce"]));
    }

    // A directory is mounted, since a single mounted file would not be updated.
    for mount in list(&gateway["volumeMounts"]) {
        assert_eq!(mount["subPath"], Value::Null);
    }
}

#[test]
fn kubernetes_base_matches_its_gateway_yaml() {
    assert_sound(&written(), &settings(&directory("base").join("gateway.yaml")));
}

/// Updates a mounted ConfigMap as the kubelet does: writes a new directory, swaps one symlink, and removes the old
/// directory.
#[test]
fn changed_config_map_is_reloaded() {
    let env = TestEnv::start("");
    let at = |name: &str| env.gateway.directory().join(name);
    let text = fs::read_to_string(at("gateway.yaml")).unwrap();
    let bring = |version: &str, text: &str| {
        fs::create_dir(at(version)).unwrap();
        fs::write(at(version).join("gateway.yaml"), text).unwrap();
        symlink(version, at("..data_tmp")).unwrap();
        fs::rename(at("..data_tmp"), at("..data")).unwrap();
    };
    bring("..2026_11_27_1", &text);
    symlink("..data/gateway.yaml", at("..gateway.yaml")).unwrap();
    fs::rename(at("..gateway.yaml"), at("gateway.yaml")).unwrap();
    let status = || env.gateway.get("/api/v2/items", Some("1|writer")).status;
    assert_eq!(status(), 200);

    let from = "GET: items:read, POST";
    assert!(text.contains(from));
    bring("..2026_11_27_2", &text.replace(from, "GET: deny, POST"));
    fs::remove_dir_all(at("..2026_11_27_1")).unwrap();
    let end = Instant::now() + PATIENCE;
    while status() != 403 {
        assert!(Instant::now() < end, "{}", env.gateway.logs().join("\n"));
        thread::sleep(Duration::from_millis(20));
    }
    // An invalid configuration changes nothing and is logged.
    bring("..2026_11_27_3", &text.replace(from, "GET: , POST"));
    env.gateway.wait_for_metric("config_reload_success", 0.0);
    assert_eq!(status(), 403);
    bring("..2026_11_27_4", &text);
    env.gateway.wait_for_metric("config_reload_success", 1.0);
    assert_eq!(status(), 200);
}

/// A Kubernetes tool: from tests/run, otherwise from PATH.
pub(super) fn program(name: &str) -> Command {
    let installed = Path::new(ROOT).join("target/kubernetes/bin").join(name);
    Command::new(if installed.exists() { installed } else { name.into() })
}

/// The resources that `kubectl apply --kustomize` would send.
pub(super) fn rendered(directory: &Path) -> String {
    let output = program("kubectl").arg("kustomize").arg(directory).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The violations of Kubernetes' schemas in a file, including unknown fields; empty if it is valid.
pub(super) fn schema_error(text: &str, version: &str) -> Option<String> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    std::io::Write::write_all(&mut file, text.as_bytes()).unwrap();
    let output = program("kubernetes-validate")
        .args(["--strict", "--kubernetes-version", version])
        .arg(file.path())
        .output()
        .unwrap();
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (!output.status.success()).then_some(said)
}

pub(super) fn documents(text: &str) -> Vec<(String, Value)> {
    text.split("\n---\n").map(|text| (text.to_owned(), serde_yaml::from_str(text).unwrap())).collect()
}

/// The faults of a ServiceMonitor.
fn operator_error(text: &str) -> Option<String> {
    let output = program("python3").args(["-c", SERVICE_MONITOR, text]).output().unwrap();
    (!output.status.success()).then(|| String::from_utf8_lossy(&output.stderr).into_owned())
}

/// Validates the rendered resources by the schemas of Kubernetes and the operator, and checks the invariants of the
/// files.
pub(super) fn assert_taken(name: &str, text: &str, file: &Path) -> Vec<Value> {
    let documents = documents(text);
    let is_operators = |it: &Value| it["apiVersion"].as_str().unwrap().starts_with("monitoring.");
    let own: Vec<&str> =
        documents.iter().filter(|(_, it)| !is_operators(it)).map(|(text, _)| &**text).collect();
    assert!(own.len() >= 5, "{name}");
    for version in VERSIONS {
        assert_eq!(schema_error(&own.join("\n---\n"), version), None, "{name} in Kubernetes {version}");
    }
    for (text, _) in documents.iter().filter(|(_, it)| is_operators(it)) {
        assert_eq!(operator_error(text), None, "{name}");
    }

    let resources: Vec<Value> = documents.into_iter().map(|(_, it)| it).collect();
    assert_sound(&resources, &settings(file));
    let map = resources.iter().find(|it| it["kind"] == "ConfigMap").unwrap();
    assert_eq!(map["data"]["gateway.yaml"], fs::read_to_string(file).unwrap(), "{name}");

    // Every referenced volume exists under a stable name, without a content hash.
    for volume in list(&pod(&resources)["spec"]["volumes"]) {
        for (kind, named) in
            [("ConfigMap", &volume["configMap"]["name"]), ("Secret", &volume["secret"]["secretName"])]
        {
            let is_there = |it: &Value| it["kind"] == kind && it["metadata"]["name"] == *named;
            assert!(named.is_null() || resources.iter().any(is_there), "{name}: {volume}");
        }
    }
    resources
}

/// A copy of the manifests with an additional kustomization.
pub(super) fn copy_with(kustomization: &str) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    let own = copy.path().join("own");
    let from = Path::new(ROOT).join("deploy/kubernetes/.");
    assert!(Command::new("cp").arg("-R").arg(from).arg(copy.path()).status().unwrap().success());
    fs::create_dir(&own).unwrap();
    fs::write(own.join("kustomization.yaml"), kustomization).unwrap();
    copy
}

#[test]
#[ignore = "needs kubernetes: tests/run"]
fn kubernetes_accepts_the_base() {
    let base = directory("base");
    let text = rendered(&base);
    assert_taken("base", &text, &base.join("gateway.yaml"));
    let wrong = text.replacen("readinessProbe:", "readynessProbe:", 1);
    assert!(schema_error(&wrong, VERSIONS[0]).is_some_and(|said| said.contains("readynessProbe")));
}

#[test]
#[ignore = "needs kubernetes: tests/run"]
fn prometheus_reaches_every_admin_listener_and_clients_none() {
    let copy = copy_with("resources: [../base]\ncomponents: [../components/prometheus-operator]\n");
    let text = rendered(&copy.path().join("own"));
    let resources = assert_taken("prometheus-operator", &text, &directory("base").join("gateway.yaml"));
    let named = |kind: &str, name: &str| {
        let mut all = resources.iter().filter(|it| it["kind"] == kind);
        all.find(|it| it["metadata"]["name"] == name).unwrap()
    };
    let service = named("Service", "stockaj-gateway-admin");
    let monitor = named("ServiceMonitor", "stockaj-gateway");
    let labels = &service["metadata"]["labels"];
    let selected = monitor["spec"]["selector"]["matchLabels"].as_object().unwrap();
    assert!(!selected.is_empty() && selected.iter().all(|(name, value)| labels[name] == *value));
    // The Service for clients is not scraped.
    let of_clients = &named("Service", "stockaj")["metadata"]["labels"];
    assert!(selected.iter().any(|(name, value)| of_clients[name] != *value));
    assert_eq!(labels[monitor["spec"]["jobLabel"].as_str().unwrap()], "stockaj-gateway");
    let endpoint = &monitor["spec"]["endpoints"][0];
    assert_eq!(endpoint["port"], service["spec"]["ports"][0]["name"]);
    assert_eq!(service["spec"]["ports"][0]["targetPort"], 9090);

    let wrong = text.split("\n---\n").find(|it| it.contains("kind: ServiceMonitor")).unwrap();
    let wrong = wrong.replace("interval:", "intervall:");
    assert!(operator_error(&wrong).is_some_and(|said| said.contains("intervall")));
}

/// The component and the required line.
#[test]
#[ignore = "needs kubernetes: tests/run"]
fn each_pod_has_its_own_usage_ledger() {
    const LINE: &str = "usage: {path: /var/lib/stockaj-gateway/usage.redb}";
    let component = directory("components/usage/kustomization.yaml");
    assert!(fs::read_to_string(component).unwrap().contains(LINE));
    let generator = "configMapGenerator: [{name: stockaj-gateway, behavior: replace, files: [gateway.yaml], \
                     options: {disableNameSuffixHash: true}}]\n";
    let copy = copy_with(&format!("resources: [../base]\ncomponents: [../components/usage]\n{generator}"));
    let file = copy.path().join("own/gateway.yaml");
    let base = fs::read_to_string(directory("base").join("gateway.yaml")).unwrap();
    fs::write(&file, format!("{base}{LINE}\n")).unwrap();
    let resources = assert_taken("usage", &rendered(&copy.path().join("own")), &file);
    assert!(resources.iter().all(|it| it["kind"] != "Deployment"));
}

/// The kustomization at the beginning of the guide.
#[test]
#[ignore = "needs kubernetes: tests/run"]
fn kubernetes_accepts_the_manifests_of_the_guide() {
    let guide = fs::read_to_string(Path::new(ROOT).join("docs/operations/kubernetes.md")).unwrap();
    let block = guide
        .split("```yaml\n# deploy/kubernetes/production/kustomization.yaml")
        .nth(1)
        .unwrap()
        .split("```")
        .next()
        .unwrap();
    let copy = copy_with(&format!("#{block}"));
    let file = copy.path().join("own/gateway.yaml");
    let text = fs::read_to_string(directory("base").join("gateway.yaml")).unwrap();
    fs::write(&file, text.replace("10.244.0.0/16", "10.1.0.0/16")).unwrap();
    let resources = assert_taken("the guide's", &rendered(&copy.path().join("own")), &file);
    assert!(resources.iter().all(|it| it["metadata"]["namespace"] == "stockaj"));
    let spec = &pod(&resources)["spec"];
    for (containers, name) in [("initContainers", "gateway"), ("containers", "stockaj")] {
        let image = container(&spec[containers], name)["image"].as_str().unwrap();
        assert!(image.starts_with("registry.example/"), "{image}");
    }
}
