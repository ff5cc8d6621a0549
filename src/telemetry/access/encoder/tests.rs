use std::cell::OnceCell;

use serde_json::{Value, json};

use super::super::fields::encode;
use super::super::line::RequestFields;
use super::*;
use crate::policy::ability::{Abilities, Requirement};
use crate::policy::expected_claims::{Claim, ExpectedClaims};
use crate::policy::refusal::{Limit, Reason};

/// A line with every field but those of the request's head.
fn full<'a>(
    requirement: &'a Requirement,
    abilities: &'a Abilities,
    destination: &'a Destination,
    token: LoggedToken<'a>,
) -> AccessLine<'a> {
    let client =
        Client { peer: Some([192, 0, 2, 7].into()), subject: Some("CN=scanner"), ..Client::unknown() };
    AccessLine {
        request_id: b"7f3a",
        client_request_id: Some(b"of-the-client"),
        listener: Some("decision"),
        client,
        protocol: Some("HTTP/1.1"),
        tls_version: Some("1.3"),
        request: None,
        method: "GET",
        route: "/api/v2/items/{id}",
        path: Some("/api/v2/items/{id}"),
        status: 403,
        reason: Reason::MissingAbility,
        cause: Some(LoggedCause::Limit(Limit::InFlight)),
        denied_by: Some(DeniedBy { requirement, abilities: Some(abilities) }),
        detail: Some(&"gateway.yaml\n:3"),
        token: Some(token),
        cache: Some(LookupResult::Hit),
        duration: Duration::from_micros(1_234),
        introspection_duration: Duration::from_millis(1),
        upstream_duration: Duration::from_micros(20),
        upstream: Some(Upstream { address: Some(IpAddr::from([192, 0, 2, 9])), destination }),
        upstream_status: Some(200),
        bytes_in: 3,
        bytes_out: 44,
        shadow: Some(Change::WouldDeny),
        shadow_rule: Some("candidate \"a.yaml\":7:12"),
    }
}

#[test]
fn unexpected_claim_is_logged_with_what_was_expected() {
    let expect = ExpectedClaims {
        audiences: ["https://api.example".into(), "legacy".into()].into(),
        ..ExpectedClaims::default()
    };
    let cause = Some(LoggedCause::Claim(expect.describe(Claim::Audience)));
    let line = AccessLine { reason: Reason::UnexpectedClaim, cause, ..AccessLine::minimal() };
    let json = written(&line, LogFormat::Json);
    assert!(
        json.contains(
            r#""reason":"unexpected_claim","claim":"aud","expected":"https://api.example or legacy","#
        ),
        "{json}"
    );
    let text = written(&line, LogFormat::Text);
    assert!(text.contains(" reason=unexpected_claim claim=aud expected="), "{text}");
}

fn tcp() -> Destination {
    Destination::Tcp { host: "app".into(), port: 8000, tls: false }
}

fn written(line: &AccessLine<'_>, format: LogFormat) -> String {
    let mut buffer = Vec::new();
    write_line(&mut buffer, b"2026-11-30T03:04:50.123456Z", line, format, &mut LastUpstream::default());
    String::from_utf8(buffer).unwrap()
}

fn request(format: LogFormat, host: &[u8], user_agent: &[u8]) -> RequestFields {
    encode(format, Some(host), Some(user_agent), &mut Vec::new())
}

/// A line with every field, including those that the client sent.
fn written_with_request(line: &AccessLine<'_>, format: LogFormat) -> String {
    let request = request(format, b"app.example:8443", b"curl/8.5 \"x\"\x1b[2J");
    written(&AccessLine { request: Some(&request), ..*line }, format)
}

fn token<'a>(id: &'a str, name: &'a str, fields: &'a OnceCell<TokenFields>) -> LoggedToken<'a> {
    LoggedToken { id, name: Some(name), fields }
}

/// A line with every field, for a token without a cached encoding.
fn with_full(act: impl FnOnce(AccessLine<'_>)) {
    let requirement = Requirement::all(["items:read", "items:update"]).unwrap();
    let fields = OnceCell::new();
    let token = token("17", "scanner \"A\"\r\n\x1b[2J", &fields);
    act(full(&requirement, &Abilities::new(["items:read"]), &tcp(), token));
}

#[test]
fn json_line_has_every_field() {
    with_full(|line| {
        let text = written_with_request(&line, LogFormat::Json);
        assert!(text.ends_with("}\n") && text.lines().count() == 1 && !text.contains('\x1b'), "{text}");
        let object: Value = serde_json::from_str(&text).unwrap();
        let expected = json!({
            "timestamp": "2026-11-30T03:04:50.123456Z",
            "level": "INFO",
            "message": "request",
            "request_id": "7f3a",
            "client_request_id": "of-the-client",
            "listener": "decision",
            "client": "192.0.2.7",
            "client_subject": "CN=scanner",
            "protocol": "HTTP/1.1",
            "tls_version": "1.3",
            "host": "app.example:8443",
            "user_agent": "curl/8.5 \"x\"\u{1b}[2J",
            "method": "GET",
            "route": "/api/v2/items/{id}",
            "path": "/api/v2/items/{id}",
            "status": 403,
            "reason": "missing_ability",
            "limit": "in_flight",
            "required": "{all: [items:read, items:update]}",
            "missing": ["items:update"],
            "detail": "gateway.yaml\n:3",
            "token_id": "17",
            "token_name": "scanner \"A\"\r\n\u{1b}[2J",
            "cache": "hit",
            "duration_ms": 1.234,
            "introspection_duration_ms": 1.0,
            "upstream_duration_ms": 0.02,
            "upstream_address": "192.0.2.9:8000",
            "upstream_status": 200,
            "bytes_in": 3,
            "bytes_out": 44,
            "shadow": "would_deny",
            "shadow_rule": "candidate \"a.yaml\":7:12",
        });
        assert_eq!(object, expected);
        let mut from = 0;
        // Those of the other cause than a limit.
        let fields = || FIELDS.iter().filter(|name| !matches!(**name, "claim" | "expected"));
        for name in fields() {
            let at = text[from..].find(&format!("\"{name}\":")).unwrap_or_else(|| panic!("{name} in {text}"));
            from += at;
        }
        assert_eq!(object.as_object().unwrap().len(), fields().count());
    });
}

#[test]
fn text_line_has_every_field() {
    with_full(|line| {
        let text = written_with_request(&line, LogFormat::Text);
        assert_eq!(
            text,
            "2026-11-30T03:04:50.123456Z  INFO request request_id=\"7f3a\" client_request_id=\"of-the-client\" \
             listener=decision client=192.0.2.7 client_subject=\"CN=scanner\" protocol=HTTP/1.1 tls_version=1.3 \
             host=\"app.example:8443\" user_agent=\"curl/8.5 \\\"x\\\"\\u001b[2J\" method=GET \
             route=\"/api/v2/items/{id}\" path=/api/v2/items/{id} status=403 reason=missing_ability \
             limit=in_flight required=\"{all: [items:read, items:update]}\" missing=[\"items:update\"] detail=\"gateway.yaml\\n:3\" \
             token_id=\"17\" token_name=\"scanner \\\"A\\\"\\r\\n\\u001b[2J\" cache=hit duration_ms=1.234 \
             introspection_duration_ms=1.000 upstream_duration_ms=0.020 upstream_address=\"192.0.2.9:8000\" \
             upstream_status=200 bytes_in=3 bytes_out=44 shadow=would_deny \
             shadow_rule=\"candidate \\\"a.yaml\\\":7:12\"\n"
        );
    });
}

#[test]
fn unknown_values_of_a_line_are_omitted() {
    let (method, route, status, reason) = ("other", "none", 400, Reason::BadRequest);
    let line = AccessLine { method, route, status, reason, ..AccessLine::minimal() };
    assert_eq!(
        written(&line, LogFormat::Json),
        "{\"timestamp\":\"2026-11-30T03:04:50.123456Z\",\"level\":\"INFO\",\"message\":\"request\",\
         \"request_id\":\"7f3a\",\"method\":\"other\",\"route\":\"none\",\"status\":400,\"reason\":\"bad_request\",\
         \"duration_ms\":0.000,\"bytes_in\":0,\"bytes_out\":0}\n"
    );
}

#[test]
fn values_that_may_hold_a_token_are_hidden() {
    with_full(|line| {
        let token = b"17|Qz7mXw4LkP9vTs2RbN6yHc8JdG5fUa3EeWiOx1Zq";
        let line = AccessLine { client_request_id: Some(&token[3..]), ..line };
        for format in [LogFormat::Json, LogFormat::Text] {
            let request = request(format, b"17|x.example", token);
            let line = AccessLine { request: Some(&request), ..line };
            let fields = OnceCell::new();
            let line = AccessLine { token: Some(self::token("17", "scanner", &fields)), ..line };
            let text = written(&line, format);
            assert!(!text.contains("Qz7m") && !text.contains("17|"), "{text}");
            assert_eq!(text.matches(HIDDEN).count(), 3, "{text}");
        }
    });
}

#[test]
fn values_of_clients_and_tokens_are_bounded() {
    let many: Vec<String> = (0..40).map(|number| format!("ability-number-{number:0100}")).collect();
    let requirement = Requirement::all(many.iter().map(String::as_str)).unwrap();
    let (long, destination) = ("é".repeat(5000), tcp());
    let (abilities, fields) = (Abilities::default(), OnceCell::new());
    let request = request(LogFormat::Json, long.as_bytes(), long.as_bytes());
    let line = AccessLine {
        request: Some(&request),
        client: Client { subject: Some(&long), ..Client::unknown() },
        ..full(&requirement, &abilities, &destination, token(&long, &long, &fields))
    };
    let text = written(&line, LogFormat::Json);
    let object: Value = serde_json::from_str(&text).unwrap();
    for (name, most) in [
        ("user_agent", MAX_USER_AGENT),
        ("host", MAX_HOST),
        ("token_name", MAX_NAME),
        ("required", MAX_REQUIREMENT),
    ] {
        let value = object[name].as_str().unwrap();
        assert!(value.len() <= most + 3 && value.ends_with('…'), "{name}: {value}");
    }
    assert_eq!(object["missing"].as_array().unwrap().len(), MAX_MISSING);
    assert!(text.len() < 6000, "{}", text.len());
}

#[test]
fn missing_abilities_are_all_of_any_and_none_of_a_keyword() {
    let destination = tcp();
    for (requirement, held, required, missing) in [
        (Requirement::any(["a", "b"]), &["c"][..], "{any: [a, b]}", json!(["a", "b"])),
        (Requirement::all(["a", "b"]), &["c"], "{all: [a, b]}", json!(["a", "b"])),
        (Requirement::all(["a"]), &[], "a", json!(["a"])),
        (Ok(Requirement::deny()), &["a"], "deny", Value::Null),
    ] {
        let requirement = requirement.unwrap();
        let abilities = Abilities::new(held.iter().copied());
        let fields = OnceCell::new();
        let line = full(&requirement, &abilities, &destination, token("17", "scanner", &fields));
        let object: Value = serde_json::from_str(&written(&line, LogFormat::Json)).unwrap();
        assert_eq!((&object["required"], &object["missing"]), (&json!(required), &missing));
    }
}

#[test]
fn addresses_are_written_as_they_display() {
    let (tcp, unix) = (tcp(), Destination::Unix("/run/app.sock".into()));
    for (address, destination, expected) in [
        (Some(IpAddr::from([127, 0, 0, 1])), &tcp, "127.0.0.1:8000"),
        (Some(IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1])), &tcp, "[::1]:8000"),
        (None, &tcp, "app:8000"),
        (None, &unix, "unix:/run/app.sock"),
    ] {
        let upstream = Upstream { address, destination };
        assert_eq!(upstream.to_string(), expected);
        with_full(|line| {
            let expected_client = address.map_or(Value::Null, |address| address.to_string().into());
            let peer = Client { peer: address, ..Client::unknown() };
            for client in [peer, Client { forwarded: address, ..Client::unknown() }] {
                let line = AccessLine { upstream: Some(upstream), client, ..line };
                let object: Value = serde_json::from_str(&written(&line, LogFormat::Json)).unwrap();
                let found = (&object["upstream_address"], &object["client"]);
                assert_eq!(found, (&json!(expected), &expected_client));
            }
        });
    }
}

#[test]
fn fields_of_a_token_are_escaped_for_its_first_line_and_copied_to_the_next() {
    with_full(|line| {
        let first = written(&line, LogFormat::Json);
        let TokenFields(fields) = line.token.unwrap().fields.get().expect("the first line keeps the fields");
        assert_eq!(
            &**fields,
            br#","token_id":"17","token_name":"scanner \"A\"\r\n\u001b[2J""#,
            "{}",
            String::from_utf8_lossy(fields)
        );
        let other = LoggedToken { id: "not written again", ..line.token.unwrap() };
        assert_eq!(written(&AccessLine { token: Some(other), ..line }, LogFormat::Json), first);
    });
}
#[test]
fn fields_of_a_connection_are_encoded_for_its_first_line_unless_a_proxy_names_the_client() {
    with_full(|line| {
        let first = written(&line, LogFormat::Json);
        let other = Client { peer: Some([192, 0, 2, 8].into()), ..line.client };
        assert_eq!(written(&AccessLine { client: other, ..line }, LogFormat::Json), first);
        let forwarded = Client { forwarded: Some([198, 51, 100, 1].into()), ..line.client };
        let text = written(&AccessLine { client: forwarded, ..line }, LogFormat::Json);
        let object: Value = serde_json::from_str(&text).unwrap();
        let found = (&object["client"], &object["client_subject"]);
        assert_eq!(found, (&json!("198.51.100.1"), &json!("CN=scanner")));
    });
}

#[test]
fn encoded_upstream_is_not_reused_for_another() {
    let mut last = LastUpstream::default();
    for (address, port, expected) in [
        ("127.0.0.1", 80, "127.0.0.1:80"),
        ("127.0.0.1", 80, "127.0.0.1:80"),
        ("127.0.0.1", 81, "127.0.0.1:81"),
        ("::1", 81, "[::1]:81"),
    ] {
        assert_eq!(last.encode(address.parse().unwrap(), port), expected.as_bytes());
    }
}
