//! The demo's stand-in for Stockaj.

use std::net::SocketAddr;
use std::thread;

use stockaj_gateway::internals::demo::Stockaj;
use stockaj_gateway::internals::demo::tokens::{self, EXPIRED, READER, SCANNER, USER, WRITER};

use crate::support::{RawClient, Response};

/// The stand-in on a thread and a free port, until the test process exits.
fn stand_in() -> SocketAddr {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let stockaj = runtime.block_on(Stockaj::bind(([127, 0, 0, 1], 0).into())).unwrap();
    let address = stockaj.address();
    thread::spawn(move || runtime.block_on(stockaj.serve(std::future::pending())));
    address
}

fn ask(client: &mut RawClient, request: &str, token: &str, body: &str) -> Response {
    let (method, path) = request.split_once(' ').unwrap();
    let fields = [("Authorization", &*format!("Bearer {token}")), ("Content-Type", "application/json")];
    client.request(method, path, &fields, body.as_bytes())
}

#[test]
fn stand_in_introspection_returns_the_abilities_of_each_token() {
    let mut client = RawClient::connect(stand_in());
    for token in [USER, READER, SCANNER, WRITER] {
        let response = client.get("/api/v2/token", Some(&token.plain_text()));
        let data = &response.json()["data"];
        assert_eq!(response.status, 200);
        assert_eq!(data["id"], token.id);
        assert_eq!(data["name"], token.name);
        assert_eq!(data["abilities"], serde_json::json!(token.abilities));
        let expiry = token.expires_at(std::time::SystemTime::now());
        assert_eq!(data["expires_at"].is_string(), expiry.is_some(), "{data}");
    }
    for token in [&EXPIRED.plain_text(), "1|unknown", ""] {
        let response = client.get("/api/v2/token", Some(token));
        assert_eq!((response.status, response.text()), (401, r#"{"message":"Unauthenticated."}"#));
    }
    let expiring = tokens::ALL.iter().filter(|token| token.abilities != ["*"]).count();
    assert_eq!(expiring, tokens::ALL.len() - 1, "exactly one User token");
}

#[test]
fn stand_in_answers_like_laravel() {
    let mut client = RawClient::connect(stand_in());
    let token = USER.plain_text();
    for (request, body, status, expected) in [
        ("GET /up", "", 200, r#"{"status":"up"}"#),
        (
            "GET /api/v2/items/2",
            "",
            200,
            r#"{"data":{"code":"WASH-01","id":2,"name":"Pressure washer","stock":2,"type_id":1}}"#,
        ),
        ("POST /api/v2/tags", r#"{"name":"fragile","id":9}"#, 201, r#"{"data":{"id":2,"name":"fragile"}}"#),
        (
            "POST /api/v2/tags",
            "{}",
            422,
            r#"{"errors":{"name":["The name field is required."]},"message":"The name field is required."}"#,
        ),
        (
            "PATCH /api/v2/rentals/1",
            r#"{"status":"returned"}"#,
            200,
            r#"{"data":{"due_on":"2027-01-15","id":1,"item_id":1,"renter_id":1,"status":"returned"}}"#,
        ),
        ("DELETE /api/v2/tags/2", "", 204, ""),
        ("DELETE /api/v2/tags/2", "", 404, r#"{"message":"Record not found."}"#),
        ("GET /api/v2/tags", "", 200, r#"{"data":[{"id":1,"name":"heavy"}]}"#),
        ("POST /api/v2/tags/2/restore", "", 200, r#"{"data":{"id":2,"name":"fragile"}}"#),
        (
            "POST /api/v2/kiosk/scan",
            r#"{"code":"TENT-01"}"#,
            200,
            r#"{"data":{"item":{"code":"TENT-01","id":3,"name":"Party tent 6 x 3 m","stock":1,"type_id":2},"rental":null}}"#,
        ),
        ("POST /api/v2/kiosk/scan", r#"{"code":"none"}"#, 404, r#"{"message":"Record not found."}"#),
        (
            "GET /api/v2/kiosk/search?q=WASH",
            "",
            200,
            r#"{"data":[{"code":"WASH-01","id":2,"name":"Pressure washer","stock":2,"type_id":1}]}"#,
        ),
        (
            "PATCH /api/v2/instance",
            r#"{"currency":"USD"}"#,
            200,
            r#"{"data":{"currency":"USD","id":1,"name":"Demo Rentals"}}"#,
        ),
        ("GET /api/v2/nothing", "", 404, r#"{"message":"The route api/v2/nothing could not be found."}"#),
        (
            "PUT /api/v2/items",
            "",
            405,
            r#"{"message":"The PUT method is not supported for route api/v2/items. Supported methods: GET, HEAD, POST."}"#,
        ),
    ] {
        let response = ask(&mut client, request, &token, body);
        assert_eq!((response.status, response.text()), (status, expected), "{request}");
    }
    let head = ask(&mut client, "HEAD /api/v2/items", &token, "");
    assert_eq!((head.status, head.text()), (200, ""));
    assert_eq!(ask(&mut client, "OPTIONS /api/v2/items", &token, "").field("allow"), Some("GET, HEAD, POST"));
}

#[test]
fn stand_in_rejects_missing_unknown_and_expired_tokens() {
    let mut client = RawClient::connect(stand_in());
    for request in ["GET /api/v2/items", "POST /api/v2/kiosk/scan", "PATCH /api/v2/rentals/1"] {
        for token in ["", "1|unknown", &EXPIRED.plain_text()] {
            assert_eq!(ask(&mut client, request, token, "").status, 401, "{request} with {token:?}");
        }
    }
    assert_eq!(client.get("/up", None).status, 200);
}
