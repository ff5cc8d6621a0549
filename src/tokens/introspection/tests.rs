use std::path::PathBuf;

use http::{Method, Uri};
use http_body_util::BodyExt;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::config::settings::{ClientTls, Destination, ResponsePointers};
use crate::policy::expected_claims::{Claim, ExpectedClaims};

const HASH: [u8; 32] = [0xA5; 32];

const NOW: SystemTime = SystemTime::UNIX_EPOCH;

fn pointer(tokens: &[&str]) -> JsonPointer {
    JsonPointer(tokens.iter().map(|&token| token.into()).collect())
}

fn settings(style: IntrospectionStyle, response: ResponsePointers) -> Introspection {
    Introspection {
        destination: Destination::Unix(PathBuf::from("/unused")),
        authority: HeaderValue::from_static("stockaj.example:8000"),
        target: Uri::from_static("/api/v2/token?full=1"),
        style,
        tls: ClientTls::default(),
        timeout: Duration::from_secs(2),
        max_concurrent: 32,
        response,
        expect: ExpectedClaims::default(),
    }
}

fn bearer() -> Introspection {
    let data = |name| pointer(&["data", name]);
    settings(
        IntrospectionStyle::Bearer,
        ResponsePointers {
            abilities: data("abilities"),
            expires_at: data("expires_at"),
            id: data("id"),
            name: data("name"),
            context: Some(data("context")),
            created_at: Some(data("created_at")),
            workspace_id: Some(data("workspace_id")),
            allowed_from: Some(data("allowed_from")),
        },
    )
}

fn rfc7662(client_id: Option<&str>, client_secret: Option<&str>) -> Introspection {
    let style = IntrospectionStyle::Rfc7662 {
        client_id: client_id.map(Into::into),
        client_secret: client_secret.map(SecretString::from),
    };
    let response = ResponsePointers {
        abilities: pointer(&["scope"]),
        expires_at: pointer(&["exp"]),
        id: pointer(&["jti"]),
        name: pointer(&["client_id"]),
        context: None,
        created_at: None,
        workspace_id: None,
        allowed_from: None,
    };
    settings(style, response)
}

fn ok(settings: &Introspection, body: &Value) -> IntrospectionResponse {
    read(settings, StatusCode::OK, body.to_string().as_bytes())
}

fn read(settings: &Introspection, status: StatusCode, body: &[u8]) -> IntrospectionResponse {
    let response = ReceivedResponse { status, fields: &HeaderMap::new(), body };
    super::read(settings, &response, &HASH, NOW)
}

fn verdict(settings: &Introspection, body: &Value) -> Verdict {
    match ok(settings, body) {
        IntrospectionResponse::Active(verdict) => verdict,
        other => panic!("{body}: {other:?}"),
    }
}

/// A response's verdict, as a word or the reason's sentence.
fn summary(answer: IntrospectionResponse) -> String {
    match answer {
        IntrospectionResponse::Active(_) => "active".into(),
        IntrospectionResponse::Inactive { why: Inactive::Reported, .. } => "inactive".into(),
        IntrospectionResponse::Inactive { why, .. } => panic!("{why:?}"),
        IntrospectionResponse::NoVerdict(reason) => reason.to_string(),
    }
}

fn seconds(seconds: f64) -> Option<SystemTime> {
    Some(SystemTime::UNIX_EPOCH + Duration::from_secs_f64(seconds))
}

fn before_1970(milliseconds: u64) -> Option<SystemTime> {
    Some(SystemTime::UNIX_EPOCH - Duration::from_millis(milliseconds))
}

async fn body(request: Request<Full<Bytes>>) -> Bytes {
    request.into_body().collect().await.unwrap().to_bytes()
}

#[tokio::test]
async fn bearer_style_sends_the_token_of_the_client() {
    let request = request(&bearer(), "17|a+b/c=%").unwrap();
    assert_eq!(request.method(), Method::GET);
    assert_eq!(request.uri(), "/api/v2/token?full=1");
    let fields = request.headers();
    assert_eq!(fields[AUTHORIZATION], "Bearer 17|a+b/c=%");
    assert!(fields[AUTHORIZATION].is_sensitive());
    assert!(!format!("{request:?}").contains("17|"));
    assert_eq!(fields[ACCEPT], "application/json");
    assert_eq!(fields[HOST], "stockaj.example:8000");
    assert_eq!(fields.len(), 3);
    assert!(body(request).await.is_empty());
}

#[tokio::test]
async fn rfc7662_posts_a_form_with_the_clients_credentials() {
    let long = "9|".repeat(500);
    let escaped_long = format!("token={}&token_type_hint=access_token", "9%7C".repeat(500));
    for (token, expected) in [
        ("17|a+b/c=%&d", "token=17%7Ca%2Bb%2Fc%3D%25%26d&token_type_hint=access_token"),
        ("Az09*-._~", "token=Az09*-._%7E&token_type_hint=access_token"),
        (&long, &escaped_long),
    ] {
        let request = request(&rfc7662(None, None), token).unwrap();
        assert_eq!(request.method(), Method::POST);
        assert_eq!(request.headers()[CONTENT_TYPE], "application/x-www-form-urlencoded");
        assert_eq!(request.headers()[ACCEPT], "application/json");
        assert!(!request.headers().contains_key(AUTHORIZATION));
        assert_eq!(body(request).await, expected.as_bytes());
    }
    // RFC 6749 section 2.3.1: the decoded credentials.
    for (id, secret, expected) in [
        ("gateway", Some("secret"), "gateway:secret"),
        ("gateway", None, "gateway:"),
        ("a:b c", Some("p%w+ä"), "a%3Ab+c:p%25w%2B%C3%A4"),
    ] {
        let request = request(&rfc7662(Some(id), secret), "t").unwrap();
        let field = &request.headers()[AUTHORIZATION];
        assert!(field.is_sensitive());
        let encoded = field.to_str().unwrap().strip_prefix("Basic ").unwrap();
        assert_eq!(BASE64.decode(encoded).unwrap(), expected.as_bytes());
    }
}

#[test]
fn token_invalid_in_a_header_field_is_refused() {
    for token in ["a\r\nX-Evil: 1", "a\0"] {
        assert!(matches!(request(&bearer(), token), Err(NoVerdict::Request(_))));
    }
}

#[test]
fn status_other_than_200_is_no_active_verdict() {
    let good = json!({"data": {"abilities": ["items:read"]}, "scope": "items:read", "active": true});
    let good = good.to_string();
    let (bearer, rfc7662) = (bearer(), rfc7662(Some("gateway"), None));
    for (status, by_bearer, by_rfc7662) in [
        (200, "active", "active"),
        (201, "responded with 201", "responded with 201"),
        (204, "responded with 204", "responded with 204"),
        (206, "responded with 206", "responded with 206"),
        (301, "redirect", "redirect"),
        (302, "redirect", "redirect"),
        (304, "redirect", "redirect"),
        (308, "redirect", "redirect"),
        (400, "responded with 400", "responded with 400"),
        (401, "inactive", "rejected the gateway's client credentials"),
        (403, "responded with 403", "rejected the gateway's client credentials"),
        (404, "responded with 404", "responded with 404"),
        (429, "responded with 429", "responded with 429"),
        (500, "responded with 500", "responded with 500"),
        (503, "responded with 503", "responded with 503"),
        (599, "responded with 599", "responded with 599"),
    ] {
        let status = StatusCode::from_u16(status).unwrap();
        for (settings, expected) in [(&bearer, by_bearer), (&rfc7662, by_rfc7662)] {
            let answer = read(settings, status, good.as_bytes());
            if let IntrospectionResponse::NoVerdict(reason) = &answer {
                assert_eq!(reason.is_misconfiguration(), expected.contains("credentials"));
            }
            let found = summary(answer);
            assert!(found.contains(expected), "{status} in {:?}: {found}", settings.style);
        }
    }
}

#[test]
fn abilities_are_a_list_an_object_a_string_or_null() {
    for (value, expected) in [
        (json!(["items:read", "items:create"]), Ok(vec!["items:create", "items:read"])),
        (json!(["*"]), Ok(vec!["*"])),
        (json!([]), Ok(vec![])),
        (json!(null), Ok(vec![])),
        (json!("rents:read  items:read "), Ok(vec!["items:read", "rents:read"])),
        (json!(""), Ok(vec![])),
        (json!("*"), Ok(vec!["*"])),
        (json!({"0": "items:read", "2": "items:create"}), Ok(vec!["items:create", "items:read"])),
        (json!({"a": "*"}), Ok(vec!["*"])),
        (json!({}), Ok(vec![])),
        (json!({"0": "a", "1": 7}), Err("an object with a value that is a number, not a string")),
        (json!({"0": null}), Err("an object with a value that is null")),
        (json!({"items:read": true}), Err("an object with a value that is a boolean")),
        (json!({"0": ["a"]}), Err("an object with a value that is a list")),
        (json!({"0": {"0": "a"}}), Err("an object with a value that is an object")),
        (json!("[\"items:read\"]"), Err("are JSON inside a string")),
        (json!(" [\"*\"]"), Err("are JSON inside a string")),
        (json!("[]"), Err("are JSON inside a string")),
        (json!("{\"0\":\"items:read\"}"), Err("are JSON inside a string")),
        (json!("\"*\""), Err("are JSON inside a string")),
        (json!(true), Err("abilities in the introspector's response are a boolean")),
        (json!(7), Err("abilities in the introspector's response are a number")),
        (json!(["a", 7]), Err("ability 1 in the introspector's response is a number, not a string")),
        (json!([null, "a"]), Err("ability 0 in the introspector's response is null")),
        (json!([["a"]]), Err("ability 0 in the introspector's response is a list")),
        (json!([{"name": "a"}]), Err("ability 0 in the introspector's response is an object")),
    ] {
        for (settings, body) in [
            (bearer(), json!({"data": {"abilities": value}})),
            (rfc7662(None, None), json!({"active": true, "scope": value})),
        ] {
            match (ok(&settings, &body), &expected) {
                (IntrospectionResponse::Active(verdict), Ok(names)) => {
                    assert_eq!(&verdict.abilities.names().collect::<Vec<_>>(), names, "{body}");
                }
                (IntrospectionResponse::NoVerdict(reason), Err(why)) => {
                    assert!(reason.to_string().contains(why), "{body}: {reason}");
                }
                (answer, _) => panic!("{body}: {answer:?}"),
            }
        }
    }
    let absent = "the abilities in the introspector's response are absent";
    for body in [json!({}), json!({"data": {}}), json!({"data": null}), json!([]), json!("x"), json!(1)] {
        let found = summary(ok(&bearer(), &body));
        assert!(found.starts_with(absent), "{body}: {found}");
    }
    assert!(summary(ok(&rfc7662(None, None), &json!({"active": true}))).starts_with(absent));
}

#[test]
fn expiry_is_rfc3339_epoch_seconds_or_null() {
    for (value, expected) in [
        (json!("2026-01-01T00:00:00.000000Z"), seconds(1_767_225_600.0)),
        (json!("2026-01-01T00:00:00Z"), seconds(1_767_225_600.0)),
        (json!("2026-01-01t00:00:00z"), seconds(1_767_225_600.0)),
        (json!("2026-01-01 00:00:00Z"), seconds(1_767_225_600.0)),
        (json!("2026-01-01T02:30:00+02:30"), seconds(1_767_225_600.0)),
        (json!("2025-12-31T19:00:00.25-05:00"), seconds(1_767_225_600.25)),
        (json!("1999-12-31T23:59:59Z"), seconds(946_684_799.0)),
        (json!(1_767_225_600), seconds(1_767_225_600.0)),
        (json!(1_767_225_600.5), seconds(1_767_225_600.5)),
        (json!(0), seconds(0.0)),
        (json!(null), None),
        (json!("1969-12-31T23:59:59Z"), before_1970(1000)),
        (json!(-1), before_1970(1000)),
        (json!(-1.5), before_1970(1500)),
    ] {
        let body = json!({"data": {"abilities": [], "expires_at": value}});
        assert_eq!(verdict(&bearer(), &body).expires_at, expected, "{body}");
        let body = json!({"active": true, "scope": "", "exp": value});
        assert_eq!(verdict(&rfc7662(None, None), &body).expires_at, expected, "{body}");
    }
    assert_eq!(verdict(&bearer(), &json!({"data": {"abilities": []}})).expires_at, None);
    for value in [
        json!(""),
        json!("never"),
        json!("2026-01-01"),
        json!("2026-01-01T00:00:00"),
        json!("2026-01-01 00:00:00"),
        json!("2026-01-01T00:00Z"),
        json!("2026-01-01T00:00:00.Z"),
        json!("2026-01-01T00:00:00.5"),
        json!("2026-01-01T00:00:00+0200"),
        json!("2026-01-01T00:00:00Z[UTC]"),
        json!("2026-02-30T00:00:00Z"),
        json!("9999-12-32T00:00:00Z"),
        json!("9999-12-31T24:00:00Z"),
        json!("9999-12-31T23:59:59+99:00"),
        json!("10000-01-01T00:00:00Z"),
        json!("2026-13-01T00:00:00Z"),
        json!("+002026-01-01T00:00:00Z"),
        json!("20260101T000000Z"),
        json!(" 2026-01-01T00:00:00Z"),
        json!("2026-01-01T00:00:00Z "),
        json!("２026-01-01T00:00:00Z"),
        json!("1767225600"),
        json!(false),
        json!([1_767_225_600]),
        json!({"date": "2026-01-01T00:00:00Z"}),
    ] {
        let body = json!({"data": {"abilities": ["*"], "expires_at": value}});
        assert!(
            matches!(ok(&bearer(), &body), IntrospectionResponse::NoVerdict(NoVerdict::Expiry(_))),
            "{body}"
        );
    }
}

#[test]
fn expiry_beyond_the_last_instant_is_clamped_to_it() {
    let last = SystemTime::try_from(Timestamp::MAX).unwrap();
    for value in [
        json!("9999-12-31T23:59:59Z"),
        json!("9999-12-31T23:59:59.999999Z"),
        json!("9999-12-31 23:59:59Z"),
        json!("9999-12-31T00:00:00+00:00"),
        json!("9999-12-30T23:00:00Z"),
        json!("9999-12-31T23:59:59-23:59"),
        json!(253_402_300_799_u64),
        json!(253_402_300_799.5),
        json!(1_767_225_600_000_u64),
        json!(i64::MAX),
        json!(u64::MAX),
        json!(9_223_372_036_854_775_807_f64),
        json!(1e300),
    ] {
        for (settings, body) in [
            (bearer(), json!({"data": {"abilities": [], "expires_at": value}})),
            (rfc7662(None, None), json!({"active": true, "scope": "", "exp": value})),
        ] {
            let verdict = verdict(&settings, &body);
            assert_eq!(verdict.expires_at, Some(last), "{body}");
            assert!(!verdict.has_expired(SystemTime::now()));
        }
    }
    // Expiries before the maximum stay exact.
    let body = json!({"data": {"abilities": [], "expires_at": "9999-12-30T22:00:00Z"}});
    assert_eq!(verdict(&bearer(), &body).expires_at, Some(last - Duration::from_nanos(999_999_999)));
    for value in
        [json!(i64::MIN), json!(-1e300), json!("0001-01-01T00:00:00Z"), json!("0000-01-01T00:00:00Z")]
    {
        let body = json!({"data": {"abilities": [], "expires_at": value}});
        assert!(verdict(&bearer(), &body).has_expired(SystemTime::now()), "{body}");
    }
}

#[test]
fn last_of_duplicate_members_counts_as_in_php() {
    let body = br#"{"data": {"abilities": ["*"], "abilities": ["items:read"], "id": 1, "id": 2}}"#;
    let IntrospectionResponse::Active(verdict) = read(&bearer(), StatusCode::OK, body) else {
        panic!("no verdict")
    };
    assert_eq!((&*verdict.id, verdict.abilities), ("2", Abilities::new(["items:read"])));
    let body = br#"{"data": {"abilities": {"0": "*", "0": "items:read"}}}"#;
    let IntrospectionResponse::Active(verdict) = read(&bearer(), StatusCode::OK, body) else {
        panic!("no verdict")
    };
    assert_eq!(verdict.abilities, Abilities::new(["items:read"]));
}

#[test]
fn response_longer_than_the_limits_of_a_token_is_no_verdict() {
    let many = |count: usize, length: usize| -> Vec<String> {
        (0..count).map(|number| format!("{number:0length$}")).collect()
    };
    let member = |name: &str, value: Value| {
        let mut data = json!({"abilities": []});
        data[name] = value;
        json!({"data": data})
    };
    for (name, value, expected) in [
        ("id", json!("1".repeat(255)), "active"),
        (
            "id",
            json!("1".repeat(256)),
            "the token's id in the introspector's response is longer than 255 bytes",
        ),
        ("workspace_id", json!("w".repeat(255)), "active"),
        ("workspace_id", json!("w".repeat(256)), "the token's workspace id"),
        ("context", json!("c".repeat(255)), "active"),
        ("context", json!("c".repeat(256)), "the token's context"),
        ("name", json!("\u{1F600}".repeat(255)), "active"),
        (
            "name",
            json!("n".repeat(256)),
            "the token's name in the introspector's response is longer than 255 characters",
        ),
        ("abilities", json!(many(1024, 16)), "active"),
        (
            "abilities",
            json!(many(1025, 4)),
            "the list of abilities in the introspector's response is longer than 1024",
        ),
        ("abilities", json!(many(1024, 17)), "is longer than 16384 bytes"),
        ("abilities", json!(many(1025, 4).join(" ")), "is longer than 1024 abilities"),
        ("abilities", json!(vec!["a"; 1025]), "is longer than 1024 abilities"),
        ("abilities", json!(many(1, 255)), "active"),
        (
            "abilities",
            json!(many(1, 256)),
            "the name of an ability in the introspector's response is longer than 255",
        ),
        ("abilities", json!({"0": "a".repeat(256)}), "the name of an ability"),
    ] {
        let found = summary(ok(&bearer(), &member(name, value)));
        assert!(found.contains(expected), "{name}: {found}");
    }
}

#[test]
fn active_is_a_boolean() {
    let settings = rfc7662(None, None);
    for (value, expected) in [
        (json!(true), "active"),
        (json!(false), "inactive"),
        (json!("true"), "is a string, not true or false"),
        (json!(1), "is a number"),
        (json!(null), "is null"),
        (json!([true]), "is a list"),
    ] {
        let found = summary(ok(&settings, &json!({"active": value, "scope": "a"})));
        assert!(found.contains(expected), "{value}: {found}");
        assert_eq!(found == "active", expected == "active");
    }
    for body in [json!({"scope": "a"}), json!([]), json!("active"), json!(null)] {
        assert!(summary(ok(&settings, &body)).contains("is absent"), "{body}");
    }
    assert_eq!(summary(ok(&settings, &json!({"active": false, "scope": 7}))), "inactive");
}

#[test]
fn inactive_token_has_the_id_and_the_name_of_its_response() {
    let expect = ExpectedClaims { audiences: ["api".into()].into(), ..ExpectedClaims::default() };
    let settings = Introspection { expect, ..rfc7662(None, None) };
    let hashed = hex::encode(HASH);
    for (body, id, name) in [
        (json!({"active": false}), &*hashed, None),
        (json!({"active": false, "jti": "t-1", "client_id": "app"}), "t-1", Some("app")),
        (json!({"active": true, "aud": "payroll", "jti": 7}), "7", None),
        (
            json!({"active": true, "aud": "api", "nbf": 32_472_144_000_u64, "client_id": "app"}),
            &*hashed,
            Some("app"),
        ),
        (json!({"active": true, "aud": "payroll", "jti": "", "client_id": 7}), &*hashed, None),
    ] {
        match ok(&settings, &body) {
            IntrospectionResponse::Inactive { id: its_id, name: its_name, .. } => {
                assert_eq!((&*its_id, its_name.as_deref()), (id, name), "{body}");
            }
            other => panic!("{body}: {other:?}"),
        }
    }
}

#[test]
fn token_before_its_nbf_is_inactive_until_then() {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    let at = |settings: &Introspection, nbf: Value| {
        let body = json!({"active": true, "scope": "a", "nbf": nbf, "data": {"abilities": []}}).to_string();
        let response =
            ReceivedResponse { status: StatusCode::OK, fields: &HeaderMap::new(), body: body.as_bytes() };
        match super::read(settings, &response, &HASH, now) {
            IntrospectionResponse::Inactive { why: Inactive::NotYetValid(from), .. } => Err(Some(from)),
            IntrospectionResponse::Active(_) => Ok(()),
            IntrospectionResponse::NoVerdict(NoVerdict::NotBefore(_)) => Err(None),
            other => panic!("{other:?}"),
        }
    };
    let later = |milliseconds: u64| Err(Some(now + Duration::from_millis(milliseconds)));
    let (rfc7662, bearer) = (rfc7662(None, None), bearer());
    for (nbf, expected) in [
        (json!(null), Ok(())),
        (json!(0), Ok(())),
        (json!(-1), Ok(())),
        (json!(1_799_999_999), Ok(())),
        (json!(1_800_000_000), Ok(())),
        (json!(1_800_000_000.0), Ok(())),
        (json!(1_800_000_000.5), later(500)),
        (json!(1_800_000_001), later(1000)),
        (json!(1_800_000_060), later(60_000)),
        (json!("2027-01-15T08:00:00Z"), Ok(())),
        (json!("2027-01-15T08:00:01Z"), later(1000)),
        (json!("1800000060"), Err(None)),
        (json!("tomorrow"), Err(None)),
        (json!(""), Err(None)),
        (json!(true), Err(None)),
        (json!([1_800_000_060]), Err(None)),
        (json!({}), Err(None)),
    ] {
        assert_eq!(at(&rfc7662, nbf.clone()), expected, "{nbf}");
        assert_eq!(at(&bearer, nbf), Ok(()), "only RFC 7662 has it");
    }
    for nbf in [json!(i64::MAX), json!(u64::MAX), json!(1e300)] {
        assert!(matches!(at(&rfc7662, nbf.clone()), Err(Some(_))), "{nbf}");
    }
}

#[test]
fn response_about_a_token_for_another_service_is_not_read_further() {
    let expect = ExpectedClaims { audiences: ["api".into()].into(), ..ExpectedClaims::default() };
    let settings = Introspection { expect, ..rfc7662(None, None) };
    for rest in [
        json!({"scope": "a"}),
        json!({"scope": 7}),
        json!({}),
        json!({"scope": "a", "nbf": "tomorrow"}),
        json!({"scope": "a", "nbf": 32_472_144_000_u64}),
        json!({"scope": "a", "exp": "yesterday"}),
    ] {
        let mut body = rest.clone();
        body["active"] = true.into();
        body["aud"] = "payroll".into();
        match ok(&settings, &body) {
            IntrospectionResponse::Inactive { why: Inactive::UnexpectedClaim(mismatch), .. } => {
                assert_eq!((mismatch.claim, &*mismatch.found), (Claim::Audience, "\"payroll\""));
            }
            other => panic!("{rest}: {other:?}"),
        }
        body["active"] = false.into();
        assert_eq!(summary(ok(&settings, &body)), "inactive");
        body["active"] = "true".into();
        assert!(summary(ok(&settings, &body)).contains("not true or false"));
    }
    let body = json!({"active": true, "aud": ["payroll", "api"], "scope": "a"});
    assert_eq!(summary(ok(&settings, &body)), "active");
}

#[test]
fn signed_response_is_no_verdict_in_every_spelling_of_its_type() {
    let body = json!({"active": true, "scope": "a", "data": {"abilities": []}}).to_string();
    for (types, is_signed) in [
        (&["application/token-introspection+jwt"][..], true),
        (&["Application/Token-Introspection+JWT; charset=utf-8"], true),
        (&[" application/token-introspection+jwt ;x"], true),
        (&["application/json", "application/token-introspection+jwt"], true),
        (&["application/json"], false),
        (&["application/token-introspection+json"], false),
        (&[], false),
    ] {
        let mut fields = HeaderMap::new();
        for value in types {
            fields.append(CONTENT_TYPE, HeaderValue::from_static(value));
        }
        for settings in [bearer(), rfc7662(None, None)] {
            let response =
                ReceivedResponse { status: StatusCode::OK, fields: &fields, body: body.as_bytes() };
            let found = summary(super::read(&settings, &response, &HASH, NOW));
            assert_eq!(found.contains("is signed"), is_signed, "{types:?}: {found}");
            assert_eq!(found == "active", !is_signed, "{types:?}: {found}");
        }
    }
}

#[test]
fn token_id_is_a_string_or_integer_else_the_hash() {
    let hash = "a5".repeat(32);
    for (value, expected) in [
        (json!("17"), "17"),
        (json!(17), "17"),
        (json!(-3), "-3"),
        (json!(u64::MAX), "18446744073709551615"),
        (json!("9c2d-uuid"), "9c2d-uuid"),
        (json!(""), &*hash),
        (json!(1.5), &hash),
        (json!(1e30), &hash),
        (json!(null), &hash),
        (json!(true), &hash),
        (json!([17]), &hash),
    ] {
        let body = json!({"data": {"abilities": [], "id": value}});
        assert_eq!(&*verdict(&bearer(), &body).id, expected, "{body}");
    }
    let full = json!({"data": {
        "id": 17, "name": "warehouse-scanner-prod", "abilities": ["items:read"], "context": "instance",
        "created_at": "2025-12-31T23:59:59.000000Z", "workspace_id": 3, "expires_at": null,
    }});
    let expected = Verdict {
        id: "17".into(),
        name: Some("warehouse-scanner-prod".into()),
        abilities: Abilities::new(["items:read"]),
        expires_at: None,
        context: Some("instance".into()),
        created_at: seconds(1_767_225_599.0),
        workspace_id: Some("3".into()),
        allowed_from: None,
    };
    assert_eq!(verdict(&bearer(), &full), expected);
    let bare = verdict(&bearer(), &json!({"data": {"abilities": [], "name": 7, "created_at": "yesterday"}}));
    assert_eq!((bare.name, bare.created_at, bare.context, bare.workspace_id), (None, None, None, None));
}

#[test]
fn networks_are_a_list_of_addresses_and_networks_or_null() {
    let many =
        |count: usize| -> Vec<String> { (0..count).map(|number| format!("fd00:{number:x}::/32")).collect() };
    for (value, expected) in [
        (json!(null), Ok(None)),
        (json!([]), Ok(Some(""))),
        (json!(["10.0.0.0/8", "192.0.2.7", "fd00::/8"]), Ok(Some("10.0.0.0/8, 192.0.2.7, fd00::/8"))),
        (json!(["::ffff:10.1.2.3", "10.9.9.9/8"]), Ok(Some("10.0.0.0/8, 10.1.2.3"))),
        (json!("10.0.0.0/8"), Err("the networks in the introspector's response are a string, not a list")),
        (json!(""), Err("the networks in the introspector's response are a string, not a list")),
        (json!({"0": "10.0.0.0/8"}), Err("are an object, not a list")),
        (json!(10), Err("are a number, not a list")),
        (json!(false), Err("are a boolean, not a list")),
        (
            json!(["10.0.0.0/8", null]),
            Err("network 1 in the introspector's response (null) is not an address"),
        ),
        (json!(["10.0.0.0/8", ["::1"]]), Err("network 1 in the introspector's response (a list)")),
        (json!([""]), Err("network 0 in the introspector's response (a string)")),
        (json!(["10.0.0.0/8", "office"]), Err("network 1")),
        (json!(["010.0.0.1"]), Err("network 0")),
        (json!(["10.1"]), Err("network 0")),
        (json!(["0x0a000001"]), Err("network 0")),
        (json!(["fe80::1%eth0"]), Err("network 0")),
        (json!(["10.0.0.0/8, 192.0.2.7"]), Err("network 0")),
        (
            json!(many(257)),
            Err("the list of networks in the introspector's response is longer than 256 networks"),
        ),
    ] {
        let body = json!({"data": {"id": 17, "abilities": ["items:read"], "allowed_from": value}});
        match (ok(&bearer(), &body), expected) {
            (IntrospectionResponse::Active(verdict), Ok(expected)) => {
                let networks = verdict.allowed_from.map(|networks| networks.to_string());
                assert_eq!(networks.as_deref(), expected, "{body}");
            }
            (IntrospectionResponse::NoVerdict(why), Err(expected)) => {
                assert!(why.to_string().contains(expected), "{body}: {why}");
                assert_eq!(why.kind(), "malformed");
            }
            (found, expected) => panic!("{body}: {found:?}, not {expected:?}"),
        }
    }
    let most = json!({"data": {"abilities": [], "allowed_from": many(256)}});
    let networks = verdict(&bearer(), &most).allowed_from.unwrap();
    assert_eq!(networks.iter().len(), 256);
    // Without a value the token may be used from anywhere; without a pointer a value has no effect.
    assert_eq!(verdict(&bearer(), &json!({"data": {"abilities": []}})).allowed_from, None);
    let unused = json!({"active": true, "scope": "", "allowed_from": ["10.0.0.0/8"]});
    assert_eq!(verdict(&rfc7662(None, None), &unused).allowed_from, None);
    let mut settings = rfc7662(None, None);
    settings.response.allowed_from = Some(pointer(&["allowed_from"]));
    let networks = verdict(&settings, &unused).allowed_from.unwrap();
    assert_eq!(networks.to_string(), "10.0.0.0/8");
}

#[test]
fn networks_count_in_the_size_of_a_verdict_and_are_shared() {
    let body = json!({"data": {"abilities": [], "allowed_from": ["10.0.0.0/8", "192.0.2.7"]}});
    let first = verdict(&bearer(), &body);
    let mut second = verdict(&bearer(), &body);
    let unrestricted = Verdict { allowed_from: None, ..first.clone() };
    assert!(first.heap_bytes() >= unrestricted.heap_bytes() + 2 * size_of::<ipnet::IpNet>());
    second.share(&first);
    let pointer = |verdict: &Verdict| {
        verdict.allowed_from.as_ref().and_then(|it| it.iter().next().map(std::ptr::from_ref))
    };
    assert_eq!(pointer(&first), pointer(&second));
    second.share(&unrestricted);
    assert!(second.allowed_from.is_some());
}

#[test]
fn token_is_expired_from_the_instant_of_its_expiry() {
    let mut verdict = verdict(&bearer(), &json!({"data": {"abilities": [], "expires_at": 1000}}));
    let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    assert!(!verdict.has_expired(at(999)) && verdict.has_expired(at(1000)) && verdict.has_expired(at(1001)));
    verdict.expires_at = None;
    assert!(!verdict.has_expired(at(u32::MAX.into())));
}

#[test]
fn pointers_reach_into_lists_and_odd_names() {
    let document = json!({"a/b": {"~": {"": [10, [20, {"x": 30}]]}}, "0": "zero", "-": "dash"});
    for (tokens, expected) in [
        (&[][..], Some(document.clone())),
        (&["a/b", "~", "", "0"], Some(json!(10))),
        (&["a/b", "~", "", "1", "1", "x"], Some(json!(30))),
        (&["0"], Some(json!("zero"))),
        (&["-"], Some(json!("dash"))),
        (&["a/b", "~", "", "2"], None),
        (&["a/b", "~", "", "00"], None),
        (&["a/b", "~", "", "01"], None),
        (&["a/b", "~", "", "+1"], None),
        (&["a/b", "~", "", "-"], None),
        (&["a/b", "~", "", ""], None),
        (&["a/b", "~", "", "99999999999999999999999"], None),
        (&["0", "0"], None),
        (&["absent"], None),
    ] {
        assert_eq!(pointer(tokens).find(&document), expected.as_ref(), "{tokens:?}");
    }
    let mut whole = bearer();
    whole.response.abilities = pointer(&[]);
    assert!(verdict(&whole, &json!(["items:read"])).abilities.can("items:read"));
}

#[test]
fn hostile_bodies_are_no_verdict() {
    let deep = |depth: usize| {
        format!("{{\"data\":{{\"abilities\":[],\"x\":{}{}}}}}", "[".repeat(depth), "]".repeat(depth))
    };
    for body in [
        String::new(),
        "null garbage".into(),
        "<html>".into(),
        "{\"data\":{\"abilities\":[\"*\"]}".into(),
        "{\"data\":{\"abilities\":[\"*\"]}} x".into(),
        "{'data':{'abilities':['*']}}".into(),
        deep(30_000),
        format!("{{\"data\":{{\"abilities\":[],\"x\":1e{}}}}}", "9".repeat(400)),
        "{\"data\":{\"abilities\":[\"\\ud800\"]}}".into(),
    ] {
        let answer = read(&bearer(), StatusCode::OK, body.as_bytes());
        assert!(
            matches!(answer, IntrospectionResponse::NoVerdict(NoVerdict::NotJson(_))),
            "{:.60}: {answer:?}",
            body
        );
    }
    let invalid_utf8 = b"{\"data\":{\"abilities\":[\"\xFF\"]}}";
    let answer = read(&bearer(), StatusCode::OK, invalid_utf8);
    assert!(matches!(answer, IntrospectionResponse::NoVerdict(NoVerdict::NotJson(_))));
    assert_eq!(summary(read(&bearer(), StatusCode::OK, deep(100).as_bytes())), "active");

    let padded = |length: usize| {
        let answer = "{\"data\":{\"abilities\":[]}}";
        answer.to_owned() + &" ".repeat(length - answer.len())
    };
    let answer = read(&bearer(), StatusCode::OK, padded(MAX_ANSWER).as_bytes());
    assert!(matches!(answer, IntrospectionResponse::Active(_)));
    let answer = read(&bearer(), StatusCode::OK, padded(MAX_ANSWER + 1).as_bytes());
    assert!(matches!(answer, IntrospectionResponse::NoVerdict(NoVerdict::TooLarge)));
}

/// Small JSON documents around the relevant names, so that near misses are common.
fn documents() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-z:* ]{0,8}".prop_map(Value::from),
        Just(json!("2026-01-01T00:00:00Z")),
    ];
    let name = prop_oneof![
        Just("data"),
        Just("abilities"),
        Just("expires_at"),
        Just("id"),
        Just("active"),
        Just("scope"),
        Just("exp"),
        Just("Abilities"),
    ];
    leaf.prop_recursive(4, 32, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((name.clone(), inner), 0..6).prop_map(|members| {
                Value::Object(members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
            }),
        ]
    })
}

proptest! {
    #[test]
    fn arbitrary_responses_neither_panic_nor_yield_a_verdict(
        status in 100_u16..1000,
        body in prop::collection::vec(any::<u8>(), 0..256),
    ) {
        let status = StatusCode::from_u16(status).unwrap();
        for settings in [bearer(), rfc7662(None, None)] {
            let active = matches!(read(&settings, status, &body), IntrospectionResponse::Active(_));
            prop_assert!(!active, "random bytes are not a verdict");
        }
    }

    #[test]
    fn rfc7662_token_needs_readable_abilities_to_be_active(document in documents(), status in prop_oneof![Just(200_u16), Just(201), Just(401)]) {
        let status = StatusCode::from_u16(status).unwrap();
        let body = document.to_string();
        for (settings, abilities, willing) in [
            (bearer(), document.pointer("/data/abilities"), true),
            (rfc7662(None, None), document.pointer("/scope"), document.pointer("/active") == Some(&json!(true))),
        ] {
            if let IntrospectionResponse::Active(verdict) = read(&settings, status, body.as_bytes()) {
                prop_assert!(status == StatusCode::OK && willing);
                let named: Vec<&str> = match abilities {
                    Some(Value::Null) => vec![],
                    Some(Value::String(names)) => names.split_ascii_whitespace().collect(),
                    Some(Value::Array(names)) => names.iter().map(|name| name.as_str().unwrap()).collect(),
                    Some(Value::Object(names)) => names.values().map(|name| name.as_str().unwrap()).collect(),
                    other => panic!("{other:?}"),
                };
                prop_assert_eq!(verdict.abilities, Abilities::new(named));
            }
        }
    }
}
