//! Settings that are off by default, in a real Laravel.

use serde_json::{Value, json};

use super::site::{Front, Site, exchange};
use super::{connect, gateway, introspector};
use crate::model::{self, Laravel};
use crate::support::{Answer, Gateway, Introspector, Verdict};

fn site() -> (Site, String) {
    let map = model::maps()[0].1.clone();
    (Site::start(&Laravel::with_routes_of(&model::compile(&map))), map)
}

/// The status of a response, and the request as Laravel parsed it.
fn ask(gateway: &Gateway, request: &str, fields: &str, body: &str) -> (u16, Value) {
    let length = body.len();
    let message = format!(
        "{request} HTTP/1.1\r\nHost: stockaj.example\r\n{fields}Content-Length: {length}\r\n\r\n{body}"
    );
    let response = exchange(connect(gateway), message.as_bytes(), false).expect("a response");
    (response.status, serde_json::from_slice(&response.body).unwrap_or_default())
}

const UPLOAD: &str = "\
--b\r\nContent-Disposition: form-data; name=\"name\"\r\n\r\nDrill\r\n\
--b\r\nContent-Disposition: form-data; name=\"_method\"\r\n\r\nDELETE\r\n\
--b\r\nContent-Disposition: form-data; name=\"photo\"; filename=\"a.png\"\r\nContent-Type: image/png\r\n\r\nPNG\r\n\
--b--\r\n";

#[test]
#[ignore = "needs laravel: tests/run"]
fn honoured_put_keeps_its_uploaded_files() {
    let (site, map) = site();
    let introspector = introspector(["1|items:update"].into_iter());
    let yaml = format!("backend:\n  method_override: honour\n{map}");
    let gateway = gateway(&site, Front::Plain, &yaml, &introspector);
    let fields = "Authorization: Bearer 1|items:update\r\nContent-Type: multipart/form-data; boundary=b\r\n";
    for (method, status) in [("PUT", 200), ("PATCH", 200), ("DELETE", 403)] {
        let fields = format!("{fields}X-HTTP-Method-Override: {method}\r\n");
        let (answered, understood) = ask(&gateway, "POST /api/v2/items/5?_method=DELETE", &fields, UPLOAD);
        assert_eq!(answered, status, "{method}");
        if status == 200 {
            assert_eq!(
                (&understood["verb"], &understood["input"]["name"]),
                (&json!(method), &json!("Drill"))
            );
            assert_eq!(understood["files"]["photo"][0], "a.png", "{understood}");
        }
    }
    assert_eq!(site.take_dispatches().len(), 2);
    // PHP parses no form of an actual PUT, hence the POST.
    let (_, understood) = ask(&gateway, "PUT /api/v2/items/5", fields, UPLOAD);
    assert_eq!((&understood["verb"], &understood["files"]), (&json!("PUT"), &json!([])), "{understood}");
}

#[test]
#[ignore = "needs laravel: tests/run"]
fn laravel_receives_identity_headers_from_the_gateway_only() {
    const NAMES: [&str; 4] = ["X-Token-Id", "X-Token-Name", "X-Token-Abilities", "X-Workspace-Id"];
    let (site, map) = site();
    let introspector = Introspector::start();
    let data = json!({"id": 17, "name": "Süd, 100 %", "abilities": ["items:read", "a b"], "workspace": "w3"});
    introspector.set_verdict("1|told", Verdict::Answer(Answer::json(200, &json!({"data": data}))));
    let response = "introspection:\n  response: {workspace_id: /data/workspace}\n";
    let wanted = "identity_headers: [id, name, abilities, workspace_id]\n";
    let claims: String = NAMES
        .iter()
        .flat_map(|name| ["-", "_", ".", "+", "!", "~"].map(|separator| name.replace('-', separator)))
        .map(|name| format!("{name}: 1\r\n"))
        .collect();
    // PHP's own server passes and folds fields that nginx drops.
    for front in [Front::Plain, Front::Serve] {
        let gateway = gateway(&site, front, &format!("{response}{wanted}{map}"), &introspector);
        for claims in ["", &claims, &format!("{claims}Connection: {}\r\n", NAMES.join(", "))] {
            let fields = format!("Authorization: Bearer 1|told\r\n{claims}");
            let (status, understood) = ask(&gateway, "GET /api/v2/items", &fields, "");
            let told = json!({
                "id": ["17"], "name": ["S%C3%BCd%2C%20100%20%25"], "abilities": ["a%20b items:read"], "workspace": ["w3"],
            });
            assert_eq!((status, &understood["told"]), (200, &told), "{claims}");
            let (status, understood) = ask(&gateway, "GET /up", claims, "");
            let nothing = json!({"id": [], "name": [], "abilities": [], "workspace": []});
            assert_eq!((status, &understood["told"]), (200, &nothing), "{claims}");
        }
    }
}

/// Laravel dispatches no preflight to a controller, neither through the gateway nor directly.
#[test]
#[ignore = "needs laravel: tests/run"]
fn laravel_dispatches_a_preflight_to_no_controller() {
    let (site, map) = site();
    let introspector = introspector(["1|items:read"].into_iter());
    let gateway = gateway(&site, Front::Plain, &map, &introspector);
    let mut answered = 0;
    for target in ["/api/v2/items", "/api/v2/items/5", "/up", "/api/v2/items?_method=GET"] {
        for method in ["GET", "POST", "DELETE"] {
            for extra in ["", "X-HTTP-Method-Override: GET\r\n", "Authorization: Bearer 1|items:read\r\n"] {
                let message = format!(
                    "OPTIONS {target} HTTP/1.1\r\nHost: stockaj.example\r\nOrigin: https://shop.example\r\n\
                     Access-Control-Request-Method: {method}\r\n{extra}\r\n"
                );
                let straight = exchange(site.connect(Front::Plain), message.as_bytes(), false).unwrap();
                let through = exchange(connect(&gateway), message.as_bytes(), false).unwrap();
                assert_eq!(straight.status, 200, "{message}");
                assert!(matches!(through.status, 200 | 403), "{message}");
                answered += u32::from(through.status == 200);
            }
        }
    }
    assert!(answered > 10 && site.take_dispatches().is_empty());
    assert_eq!(introspector.calls(), 0);
}
