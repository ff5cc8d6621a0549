//! The sidecar in a Deployment that is independent of the gateway, by the kustomize component and by the chart's
//! templates.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use super::kubernetes::{
    ENDPOINT_REMOVAL, MARGIN, VERSIONS, container, copy_with, directory, documents, list, program, rendered,
    schema_error, settings,
};

const GUIDE: &str = include_str!("../../docs/operations/kubernetes.md");

/// An application with a second container, an init container and a volume, its Service, and another application.
const APPLICATION: &str = "\
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, annotations: {team: shop}}
spec:
  replicas: 3
  selector:
    matchLabels: {app: web}
  template:
    metadata:
      labels: {app: web}
    spec:
      serviceAccountName: web
      initContainers:
        - {name: migrate, image: 'web:1.0', command: [php, artisan, migrate]}
      containers:
        - name: web
          image: web:1.0
          ports: [{name: http, containerPort: 8000}]
          env: [{name: APP_ENV, value: production}]
          volumeMounts: [{name: storage, mountPath: /storage}]
          readinessProbe: {httpGet: {path: /up, port: 8000}}
        - {name: cron, image: 'web:1.0'}
      volumes:
        - {name: storage, emptyDir: {}}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: 8000}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: other}
spec:
  selector:
    matchLabels: {app: other}
  template:
    metadata:
      labels: {app: other}
    spec:
      containers: [{name: other, image: 'other:1.0'}]
";

/// A block of the guide that begins with the name of a file.
fn block(language: &str, first_line: &str) -> String {
    let start = format!("```{language}\n{first_line}\n");
    let (_, rest) = GUIDE.split_once(&start).unwrap_or_else(|| panic!("{first_line}"));
    rest.split("```").next().unwrap().to_owned()
}

fn resources(text: &str) -> Vec<Value> {
    documents(text).into_iter().map(|(_, resource)| resource).collect()
}

fn find<'a>(resources: &'a [Value], kind: &str, name: &str) -> &'a Value {
    let mut found = resources.iter().filter(|it| it["kind"] == kind && it["metadata"]["name"] == name);
    found.next().unwrap_or_else(|| panic!("no {kind} {name}"))
}

/// A kustomization with the guide's component and `application` as its `web.yaml`.
fn kustomization(components: &str, application: &str) -> tempfile::TempDir {
    let text = block("yaml", "# deploy/kubernetes/shop/kustomization.yaml");
    let changed = text.replace("[select, ../components/sidecar]", components);
    let copy = copy_with(&changed);
    let own = copy.path().join("own");
    fs::create_dir(own.join("select")).unwrap();
    let select = block("yaml", "# deploy/kubernetes/shop/select/kustomization.yaml");
    fs::write(own.join("select/kustomization.yaml"), select).unwrap();
    fs::write(own.join("web.yaml"), application).unwrap();
    fs::copy(directory("components/sidecar/gateway.yaml"), own.join("gateway.yaml")).unwrap();
    copy
}

/// Removes a value; panics if it is missing.
fn take(value: &mut Value, key: &str) -> Value {
    value.as_object_mut().unwrap().remove(key).unwrap_or_else(|| panic!("no {key}"))
}

/// Removes the element with this name from a list.
fn take_named(value: &mut Value, name: &str) -> Value {
    let list = value.as_array_mut().unwrap();
    let position = list.iter().position(|it| it["name"] == name).unwrap();
    list.remove(position)
}

/// Asserts that the sidecar equals that of `base`, with a security context that does not depend on the pod's.
fn assert_is_the_gateway(sidecar: &Value) {
    let base = fs::read_to_string(directory("base").join("deployment.yaml")).unwrap();
    let base: Value = serde_yaml::from_str(&base).unwrap();
    let mut expected = container(&base["spec"]["template"]["spec"]["initContainers"], "gateway").clone();
    expected["image"] = json!(concat!("registry.example/stockaj-gateway:", env!("CARGO_PKG_VERSION")));
    expected["securityContext"]["runAsNonRoot"] = json!(true);
    expected["securityContext"]["seccompProfile"] = json!({"type": "RuntimeDefault"});
    assert_eq!(*sidecar, expected);
}

#[test]
#[ignore = "needs kubernetes: tests/run"]
fn sidecar_component_changes_only_the_selected_deployment_and_service() {
    let copy = kustomization("[select, ../components/sidecar]", APPLICATION);
    let text = rendered(&copy.path().join("own"));
    for version in VERSIONS {
        assert_eq!(schema_error(&text, version), None, "Kubernetes {version}");
    }
    let (before, after) = (resources(APPLICATION), resources(&text));
    assert_eq!(find(&after, "Deployment", "other"), find(&before, "Deployment", "other"));

    let mut deployment = find(&after, "Deployment", "web").clone();
    assert_eq!(take(&mut deployment["metadata"], "labels"), json!({"stockaj-gateway": "sidecar"}));
    let template = &mut deployment["spec"]["template"];
    assert_eq!(take(&mut template["metadata"]["labels"], "stockaj-gateway"), "sidecar");
    let spec = &mut template["spec"];
    assert_eq!(spec["initContainers"][0]["name"], "gateway", "the sidecar is the first container");
    assert_is_the_gateway(&take_named(&mut spec["initContainers"], "gateway"));
    let volume = take_named(&mut spec["volumes"], "gateway");
    assert_eq!(volume["configMap"]["name"], "stockaj-gateway");
    assert_eq!(take_named(&mut spec["volumes"], "state")["emptyDir"]["sizeLimit"], "64Mi");
    let lifecycle = take(&mut spec["containers"][0], "lifecycle");
    let grace = take(spec, "terminationGracePeriodSeconds");
    assert_eq!(deployment, *find(&before, "Deployment", "web"), "nothing else differs");

    // The grace period covers the longest request.
    let file = directory("components/sidecar/gateway.yaml");
    let settings = settings(&file);
    let seconds = |value: &Value| Duration::from_secs(value.as_u64().unwrap());
    let wait = seconds(&lifecycle["preStop"]["sleep"]["seconds"]);
    assert!(wait >= ENDPOINT_REMOVAL + settings.backend.timeout);
    assert!(seconds(&grace) >= wait + settings.listen.drain_delay + settings.listen.drain_timeout + MARGIN);

    let mut service = find(&after, "Service", "web").clone();
    take(&mut service["metadata"], "labels");
    assert_eq!(service["spec"]["ports"][0]["targetPort"].take(), 8080);
    let mut expected = find(&before, "Service", "web").clone();
    expected["spec"]["ports"][0]["targetPort"].take();
    assert_eq!(service, expected);

    let policy = &find(&after, "NetworkPolicy", "stockaj-gateway")["spec"];
    assert_eq!(policy["podSelector"]["matchLabels"], json!({"stockaj-gateway": "sidecar"}));
    let ports: Vec<&Value> = list(&policy["ingress"]).iter().map(|rule| &rule["ports"][0]["port"]).collect();
    assert_eq!(ports, [8080, 9090]);
    let map = find(&after, "ConfigMap", "stockaj-gateway");
    assert_eq!(map["data"]["gateway.yaml"], fs::read_to_string(file).unwrap());

    // A label in the manifests selects the same pods.
    let labelled = APPLICATION
        .replace("{name: web, annotations", "{name: web, labels: {stockaj-gateway: sidecar}, annotations")
        .replace("metadata: {name: web}", "metadata: {name: web, labels: {stockaj-gateway: sidecar}}");
    let copy = kustomization("[../components/sidecar]", &labelled);
    assert_eq!(rendered(&copy.path().join("own")), text);
}

#[test]
#[ignore = "needs kubernetes: tests/run"]
fn sidecar_component_keeps_a_lifecycle_of_the_application() {
    let own = "image: web:1.0\n          lifecycle: {postStart: {exec: {command: [warm-up]}}}\n";
    let application = APPLICATION.replacen("image: web:1.0\n", own, 1);
    let copy = kustomization("[select, ../components/sidecar]", &application);
    let output = program("kubectl").arg("kustomize").arg(copy.path().join("own")).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("containers/0/lifecycle"), "{said}");
}

/// Runs helm on a chart that has ours as a dependency, with the guide's values and Deployment.
fn own_chart(from: &str, to: &str) -> std::process::Output {
    let chart = tempfile::tempdir().unwrap();
    let at = |name: &str| chart.path().join(name);
    for name in ["templates", "charts"] {
        fs::create_dir(at(name)).unwrap();
    }
    let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/helm");
    assert!(Command::new("cp").arg("-R").arg(ours).arg(at("charts/stockaj")).status().unwrap().success());
    fs::write(
        at("Chart.yaml"),
        concat!(
            "apiVersion: v2\nname: shop\nversion: 1.0.0\ndependencies: [{name: stockaj, version: ",
            env!("CARGO_PKG_VERSION"),
            "}]\n"
        ),
    )
    .unwrap();
    let values = block("yaml", "# values.yaml");
    fs::write(at("values.yaml"), values.replace(from, to)).unwrap();
    let deployment = format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: web}}\nspec:\n  selector:\n    \
         matchLabels: {{app: web}}\n  template:\n    metadata:\n      labels: {{app: web}}\n    spec:\n{}",
        block("text", "# templates/deployment.yaml, in the pod's spec")
    );
    fs::write(at("templates/deployment.yaml"), deployment).unwrap();
    let mut helm = program("helm");
    for variable in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
        helm.env(variable, at("home"));
    }
    helm.args(["template", "shop"]).arg(chart.path()).output().unwrap()
}

#[test]
#[ignore = "needs kubernetes: tests/run"]
fn chart_templates_add_the_sidecar_to_a_chart_that_includes_them() {
    let output = own_chart("", "");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let text = text.strip_prefix("---\n").unwrap();
    for version in VERSIONS {
        assert_eq!(schema_error(text, version), None, "Kubernetes {version}");
    }
    let resources = resources(text);
    let kinds: Vec<&str> = resources.iter().map(|it| it["kind"].as_str().unwrap()).collect();
    assert_eq!(
        kinds,
        ["NetworkPolicy", "ConfigMap", "Deployment"],
        "the selector matches the other chart's pods"
    );

    let spec = &find(&resources, "Deployment", "web")["spec"]["template"]["spec"];
    assert_is_the_gateway(&spec["initContainers"][0]);
    assert_eq!(
        spec["volumes"],
        json!([
            {"name": "gateway", "configMap": {"name": "shop-gateway"}},
            {"name": "state", "emptyDir": {"sizeLimit": "64Mi"}},
        ])
    );
    assert_eq!(spec["containers"][0]["lifecycle"], json!({"preStop": {"sleep": {"seconds": 45}}}));
    // 45 s: 10 s of the application, 30 s and 5 s of the gateway.
    assert_eq!(spec["terminationGracePeriodSeconds"], 90);
    let policy = &find(&resources, "NetworkPolicy", "shop")["spec"];
    assert_eq!(policy["podSelector"]["matchLabels"], json!({"app": "web"}));
    find(&resources, "ConfigMap", "shop-gateway");

    // Without labels the policy would select no pod or all pods.
    let output = own_chart("selector: {app: web}", "selector: {}");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("name the labels of your own pods"), "{said}");
}
