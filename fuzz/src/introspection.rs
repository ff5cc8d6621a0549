//! Compares the interpretation of introspection responses with serde_json's JSON Pointers.
//!
//! `data` is a first line `STYLE STATUS ABILITIES EXPIRES_AT ID NAME` or `… NAME ALLOWED_FROM`, the last ones JSON Pointers
//! (`-` for the whole document), then the body. STYLE is `bearer`, `rfc7662`, or `expecting` for `rfc7662` with an
//! expected audience.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderValue, StatusCode, Uri};
use serde_json::Value;
use stockaj_gateway::internals::config::settings::{
    ClientTls, Destination, Introspection, IntrospectionStyle, JsonPointer, ResponsePointers,
};
use stockaj_gateway::internals::policy::expected_claims::{Claim, ExpectedClaims};
use stockaj_gateway::internals::policy::network::MOST_NETWORKS;
use stockaj_gateway::internals::tokens::introspection::{
    Inactive, IntrospectionResponse, LONGEST_ABILITIES, MAX_ANSWER, MAX_NAME, MAX_TEXT, MOST_ABILITIES,
    NoVerdict, ReceivedResponse, read,
};
use stockaj_gateway::internals::tokens::verdict::Verdict;

const HASH: [u8; 32] = [0xab; 32];

/// The expected audience.
const AUDIENCE: &str = "api";

/// The time of the response, in seconds since 1970.
const NOW: f64 = 1_800_000_000.0;

/// The latest representable second: 9999-12-30T22:00:00Z. Later expiries are clamped to it.
const LAST: f64 = 253_402_207_200.0;

pub fn check(data: &[u8]) {
    let Some(end) = data.iter().position(|&byte| byte == b'\n') else { return };
    let (Ok(line), body) = (std::str::from_utf8(&data[..end]), &data[end + 1..]) else { return };
    let words: Vec<&str> = line.split(' ').collect();
    let [style, status, pointers @ ..] = &*words else { return };
    let Ok(status) = StatusCode::from_bytes(status.as_bytes()) else { return };
    let Some(pointers): Option<Vec<Pointer>> = pointers.iter().map(|text| Pointer::parse(text)).collect()
    else {
        return;
    };
    let [abilities, expires_at, id, name, rest @ ..] = &*pointers else { return };
    let allowed_from = rest.first();
    let expecting = *style == "expecting";
    let rfc7662 = *style == "rfc7662" || expecting;
    let settings = Introspection {
        destination: Destination::Unix("/introspector".into()),
        authority: HeaderValue::from_static("introspector"),
        target: Uri::from_static("/"),
        style: match rfc7662 {
            true => IntrospectionStyle::Rfc7662 { client_id: None, client_secret: None },
            false => IntrospectionStyle::Bearer,
        },
        tls: ClientTls::default(),
        timeout: Duration::from_secs(1),
        max_concurrent: 1,
        response: ResponsePointers {
            abilities: abilities.ours.clone(),
            expires_at: expires_at.ours.clone(),
            id: id.ours.clone(),
            name: name.ours.clone(),
            context: Some(name.ours.clone()),
            created_at: Some(expires_at.ours.clone()),
            workspace_id: Some(id.ours.clone()),
            allowed_from: allowed_from.map(|pointer| pointer.ours.clone()),
        },
        expect: ExpectedClaims {
            audiences: if expecting { [AUDIENCE.into()].into() } else { Box::default() },
            ..ExpectedClaims::default()
        },
    };
    let document: Option<Value> =
        serde_json::from_slice(body).ok().filter(|_| status == StatusCode::OK && body.len() <= MAX_ANSWER);
    let active = document.as_ref().and_then(|document| document.get("active"));
    let has_audience = match document.as_ref().and_then(|document| document.get("aud")) {
        Some(Value::Array(items)) => {
            items.iter().all(Value::is_string) && items.iter().any(|item| *item == AUDIENCE)
        }
        other => other.is_some_and(|aud| *aud == AUDIENCE),
    };
    let not_before = document.as_ref().and_then(|document| document.get("nbf"));
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs_f64(NOW);
    let response = ReceivedResponse { status, fields: &HeaderMap::new(), body };
    match read(&settings, &response, &HASH, now) {
        IntrospectionResponse::Active(verdict) => {
            let document = document.as_ref().expect("a verdict is in the JSON of a 200");
            assert!(!rfc7662 || *active.expect("`active`") == Value::Bool(true));
            assert!(!expecting || has_audience);
            if rfc7662 {
                assert!(matches!(not_before, None | Some(Value::Null | Value::Number(_) | Value::String(_))));
                assert!(not_before.and_then(Value::as_f64).is_none_or(|from| from <= NOW + 1e-3));
            }
            check_abilities(&verdict, document.pointer(abilities.text));
            check_expiry(verdict.expires_at, document.pointer(expires_at.text));
            check_id(&verdict.id, document.pointer(id.text));
            check_networks(&verdict, allowed_from.and_then(|pointer| document.pointer(pointer.text)));
            let name = document.pointer(name.text).and_then(Value::as_str);
            assert_eq!(verdict.name.as_deref(), name);
            assert_eq!(verdict.context.as_deref(), name);
            assert!(name.is_none_or(|name| name.len() <= MAX_TEXT && name.chars().count() <= MAX_NAME));
            assert!(verdict.id.len() <= MAX_TEXT);
        }
        IntrospectionResponse::Inactive { why: Inactive::UnexpectedClaim(mismatch), .. } => {
            assert_eq!((active, mismatch.claim), (Some(&Value::Bool(true)), Claim::Audience));
            assert!(expecting && !has_audience && mismatch.found.len() <= 256);
        }
        IntrospectionResponse::Inactive { why: Inactive::NotYetValid(from), .. } => {
            assert_eq!((rfc7662, active), (true, Some(&Value::Bool(true))));
            assert!(from > now && not_before.and_then(Value::as_f64).is_none_or(|from| from > NOW - 1e-3));
        }
        IntrospectionResponse::Inactive { why: Inactive::Reported, .. } if rfc7662 => {
            assert_eq!(active, Some(&Value::Bool(false)));
        }
        IntrospectionResponse::Inactive { why: Inactive::Reported, .. } => {
            assert_eq!(status, StatusCode::UNAUTHORIZED)
        }
        IntrospectionResponse::NoVerdict(why) => {
            assert!(rfc7662 || status != StatusCode::UNAUTHORIZED);
            assert_eq!(matches!(why, NoVerdict::ClientRefused(_)), why.is_misconfiguration());
            // Nothing of the body, which may contain tokens.
            let shown = why.to_string();
            assert!(shown.is_ascii() && shown.len() < 160 && !shown.contains('\n'), "{shown}");
        }
    }
}

/// One pointer in both forms.
struct Pointer<'a> {
    text: &'a str,
    ours: JsonPointer,
}

impl<'a> Pointer<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let text = if text == "-" { "" } else { text };
        let tokens = text.split('/').skip(1);
        // The configuration rejects other escapes.
        let is_escape = |rest: &str| rest.starts_with(['0', '1']);
        let plain = text.is_empty() || text.starts_with('/');
        if !plain || !text.split('~').skip(1).all(is_escape) {
            return None;
        }
        let tokens = tokens.map(|token| token.replace("~1", "/").replace("~0", "~").into());
        Some(Self { text, ours: JsonPointer(tokens.collect()) })
    }
}

fn check_abilities(verdict: &Verdict, value: Option<&Value>) {
    let mut expected: Vec<&str> = match value.expect("absent abilities are no verdict") {
        Value::Null => Vec::new(),
        Value::String(names) => {
            // The text of a list, an object or a string never begins an ability.
            assert!(!matches!(names.trim_start().as_bytes().first(), Some(b'[' | b'{' | b'"')), "{names}");
            names.split(' ').filter(|name| !name.is_empty()).collect()
        }
        Value::Array(names) => names.iter().map(|name| name.as_str().expect("only strings")).collect(),
        Value::Object(names) => names.values().map(|name| name.as_str().expect("only strings")).collect(),
        other => panic!("abilities {other}"),
    };
    assert!(expected.len() <= MOST_ABILITIES && expected.iter().all(|name| name.len() <= MAX_TEXT));
    assert!(expected.iter().map(|name| name.len()).sum::<usize>() <= LONGEST_ABILITIES);
    expected.sort_unstable();
    expected.dedup();
    assert_eq!(verdict.abilities.names().collect::<Vec<_>>(), expected);
    for name in &expected {
        assert!(verdict.abilities.can(name));
    }
    let every = expected.contains(&"*");
    for other in ["items:delete", "", "**", "items:*"] {
        assert_eq!(verdict.abilities.can(other), every || expected.contains(&other), "{other}");
    }
}

fn check_networks(verdict: &Verdict, value: Option<&Value>) {
    let written = match (&verdict.allowed_from, value) {
        (None, None | Some(Value::Null)) => return,
        (Some(networks), Some(Value::Array(written))) => {
            assert!(written.len() <= MOST_NETWORKS && networks.iter().len() <= written.len());
            written
        }
        (networks, value) => panic!("{value:?} was read as {networks:?}"),
    };
    for text in written {
        let text = text.as_str().expect("only strings");
        let (address, length) = text.split_once('/').unwrap_or((text, ""));
        let address: IpAddr = address.parse().expect("only addresses");
        // Each network of a list includes the address that it is written with, in both of its forms.
        let mapped = match address {
            IpAddr::V4(address) => address.to_ipv6_mapped().into(),
            IpAddr::V6(_) => address,
        };
        let is_wide_mapped =
            address.to_canonical() != address && length.parse::<u8>().is_ok_and(|it| it < 96);
        for address in [address, mapped] {
            let includes = verdict.allowed_from.as_ref().is_some_and(|it| it.include(Some(address).into()));
            assert!(includes || is_wide_mapped, "{text}");
        }
    }
}

fn check_expiry(expiry: Option<SystemTime>, value: Option<&Value>) {
    let seconds =
        |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).map_or(-1.0, |it| it.as_secs_f64());
    match (expiry, value) {
        (None, None | Some(Value::Null)) => {}
        (Some(at), Some(Value::Number(number))) => {
            let number = number.as_f64().expect("a number");
            let is_exact = (seconds(at) - number).abs() < 1e-3;
            assert!(is_exact || number >= LAST && seconds(at) >= LAST || number < 0.0, "{number}");
            assert_eq!(seconds(at) < 0.0, number < 0.0, "{number}");
        }
        (Some(at), Some(Value::String(text))) => {
            // RFC 3339 with a year of four digits.
            assert!(text.is_ascii() && text.len() >= "2026-01-01T00:00:00Z".len(), "{text}");
            assert!(text.as_bytes()[..4].iter().all(u8::is_ascii_digit), "{text}");
            assert!(seconds(at) <= LAST + 1.0, "{text}");
            assert!(seconds(at) < LAST || text.starts_with("9999-12-3"), "{text}");
        }
        (expiry, value) => panic!("{value:?} was read as {expiry:?}"),
    }
}

fn check_id(id: &str, value: Option<&Value>) {
    match value {
        Some(Value::String(text)) if !text.is_empty() => assert_eq!(id, text),
        Some(Value::Number(number)) if number.is_u64() || number.is_i64() => {
            assert_eq!(id, number.to_string())
        }
        _ => assert_eq!(id, "ab".repeat(32)),
    }
}
