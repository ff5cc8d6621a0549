//! Logs and metrics of candidate maps, which change no response.

use super::{CREATOR, EXPIRED, MAP, READER, UNKNOWN, USER, builder, send, start_with, with_candidate};
use crate::support::{Answer, Builder, Response, Verdict};

/// The difference that the candidate makes to each rule.
const CANDIDATE: &str = "\
routes:
  /up:       {GET: items:read}
  /items:    {GET: items:create, POST: public, PUT: items:read}
  /closed:   {GET: authenticated, mode: shadow}
  /me:       {GET: deny}
  /strict:   {GET: items:read}
  /new/{id}: {GET: items:read}
  /open:     {GET: public}
";

#[test]
fn candidate_map_is_logged_and_changes_no_response() {
    let env = builder().yaml(MAP).configure(|gateway| with_candidate(gateway.one_core(), CANDIDATE)).start();
    let mut client = env.gateway.client();
    let (deny, allow) = (Some("would_deny"), Some("would_allow"));
    for (method, target, token, status, change, route) in [
        // The token is not cached, and a public route does not introspect it.
        ("GET", "/up", Some(READER), 200, None, ""),
        ("GET", "/up", Some(CREATOR), 200, None, ""),
        ("GET", "/up", None, 200, deny, "/up"),
        ("GET", "/items", Some(READER), 200, deny, "/items"),
        ("GET", "/items", Some(USER), 200, None, ""),
        ("GET", "/items", Some(CREATOR), 403, allow, "/items"),
        ("GET", "/items", Some(UNKNOWN), 401, None, ""),
        ("GET", "/items", None, 401, None, ""),
        ("POST", "/items", None, 401, allow, "/items"),
        ("POST", "/items", Some(UNKNOWN), 401, allow, "/items"),
        ("POST", "/items", Some(EXPIRED), 401, allow, "/items"),
        ("POST", "/items", Some(READER), 403, allow, "/items"),
        ("POST", "/items", Some(CREATOR), 200, None, ""),
        ("PUT", "/items", Some(READER), 403, allow, "/items"),
        ("PUT", "/items", Some(CREATOR), 403, None, ""),
        ("PUT", "/items", Some(UNKNOWN), 403, None, ""),
        ("PUT", "/items", None, 401, None, ""),
        ("GET", "/closed", Some(READER), 403, allow, "/closed"),
        ("GET", "/closed", Some("8|nobody"), 403, None, ""),
        ("GET", "/me", Some(READER), 200, deny, "/me"),
        ("GET", "/strict", Some(READER), 200, None, ""),
        ("GET", "/strict", Some(CREATOR), 403, None, ""),
        ("GET", "/new/5", Some(READER), 403, allow, "/new/{id}"),
        ("GET", "/new/5", Some(CREATOR), 403, None, ""),
        ("GET", "/open", Some(UNKNOWN), 403, allow, "/open"),
        ("GET", "/open", None, 401, allow, "/open"),
        ("GET", "/nowhere", Some(READER), 403, None, ""),
        // `/tried` forwards requests that its rule would refuse, and the candidate has no such route.
        ("GET", "/tried", Some(READER), 200, deny, "/tried"),
        // The token is cached by now.
        ("GET", "/up", Some(READER), 200, None, ""),
        ("GET", "/up", Some(CREATOR), 200, deny, "/up"),
        ("GET", "/up", Some(UNKNOWN), 200, deny, "/up"),
        ("GET", "/up", Some("a,b"), 200, deny, "/up"),
    ] {
        let context = format!("{method} {target} by {token:?}");
        let change_word = change.unwrap_or("none");
        let labels =
            format!("{{change=\"{change_word}\",map=\"candidate\",method=\"{method}\",route=\"{route}\"}}");
        let (before, all) = (env.shadow_total(&labels), env.shadow_total(""));
        let calls = env.introspector.calls();
        assert_eq!(send(&mut client, method, target, token).status, status, "{context}");
        if status == 200 && target == "/up" {
            assert_eq!(env.introspector.calls(), calls, "{context}: a public route was introspected");
        }
        let arrived = env.backend.take_requests();
        assert_eq!(arrived.len(), usize::from(status == 200), "{context}");
        let counted = f64::from(u8::from(change.is_some()));
        assert_eq!(env.shadow_total(""), all + counted, "{context}");
        assert_eq!(env.shadow_total(&labels), before + counted, "{context}");
    }
    let metrics = env.gateway.metrics();
    assert_eq!(metrics.metric("shadow_mode"), 1.0, "/tried");
    assert_eq!(metrics.metric("shadow_total{map=\"enforced\"}"), 0.0);
}

/// The shipped map with one ability misspelled in one rule.
fn misspelled() -> String {
    let map = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/config/stockaj.yaml")).unwrap();
    let wrong = map.replacen("POST: items:create", "POST: items:craete", 1);
    assert_ne!(map, wrong);
    wrong
}

/// The parts of a response that do not differ between any two responses.
fn seen(response: &Response) -> (u16, Vec<(String, String)>, Vec<u8>) {
    let mut fields = response.fields.0.clone();
    fields.retain(|(name, _)| !["date", "x-request-id"].contains(&&*name.to_lowercase()));
    (response.status, fields, response.body.clone())
}

#[test]
fn candidate_map_names_the_tokens_it_would_deny() {
    let alone = builder().configure(Builder::shipped_map).start();
    let beside = builder().configure(|gateway| with_candidate(gateway.shipped_map(), &misspelled())).start();
    let all = ["items:read", "items:create", "rents:read", "kiosk:scan"];
    for env in [&alone, &beside] {
        for (number, abilities) in
            [&all[..], &all[..1], &["items:read", "items:create"], &[]].iter().enumerate()
        {
            let name = format!("integration-{number}");
            let token = format!("{number}|secret");
            env.introspector.set_verdict(&token, Verdict::active(abilities).named(number, &name));
        }
        env.backend.answer(|_| Answer::json(200, &serde_json::json!({"data": []})));
    }
    let tokens: Vec<String> = (0..4).map(|number| format!("{number}|secret")).collect();
    let tokens = tokens.iter().map(|it| Some(&**it)).chain([None, Some(UNKNOWN), Some(USER), Some("a,b")]);
    let (mut one, mut other) = (alone.gateway.client(), beside.gateway.client());
    for token in tokens {
        for target in
            ["/api/v2/items", "/api/v2/items/5", "/api/v2/rents", "/api/v2/kiosk/scan", "/nowhere", "/"]
        {
            for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"] {
                let context = format!("{method} {target} by {token:?}");
                let answers = [&mut one, &mut other].map(|client| {
                    let field = token.map(|token| format!("Authorization: Bearer {token}\r\n"));
                    let field = field.unwrap_or_default();
                    client.send(format!("{method} {target} HTTP/1.1\r\nHost: a\r\n{field}\r\n"));
                    seen(&client.try_response(method == "HEAD").unwrap())
                });
                assert_eq!(answers[0], answers[1], "{context}");
                let arrived = [&alone, &beside].map(|env| {
                    let requests = env.backend.take_requests();
                    requests.into_iter().map(|it| (it.method, it.target)).collect::<Vec<_>>()
                });
                assert_eq!(arrived[0], arrived[1], "{context}");
            }
        }
    }
    assert_eq!(alone.introspector.calls(), beside.introspector.calls());
    assert_eq!(beside.shadow_total(""), 2.0, "the user's `*` has any ability, however it is spelled");
    let labels = "{change=\"would_deny\",map=\"candidate\",method=\"POST\",route=\"/api/v2/items\"}";
    assert_eq!(beside.shadow_total(labels), 2.0);
    beside.shadow_line(2);
    for name in ["integration-0", "integration-2"] {
        let line =
            beside.gateway.wait_for_log(|line| line["token_name"] == name && line.get("shadow").is_some());
        let rule = line["shadow_rule"].as_str().unwrap();
        assert!(rule.starts_with("candidate ") && rule.contains("candidate.yaml:"), "{line}");
        assert!(rule.ends_with("items:craete (missing_ability)"), "{line}");
    }
    // The misspelled ability was logged at the start.
    beside.gateway.wait_for_log(|line| {
        line["message"]
            .as_str()
            .is_some_and(|it| it.contains("candidate.yaml:") && it.contains("items:craete"))
    });
}

#[test]
fn changed_candidate_map_is_reloaded_and_an_invalid_one_rejected() {
    let env = start_with(MAP, "routes: {/items: {GET: items:read}}\n");
    let mut client = env.gateway.client();
    let denied = "{change=\"would_deny\"}";
    let mut get = || assert_eq!(send(&mut client, "GET", "/items", Some(READER)).status, 200);
    get();
    assert_eq!(env.shadow_total(denied), 0.0);
    std::fs::write(env.candidate(), "routes: {/items: {GTE: items:read}}\n").unwrap();
    assert!(!env.gateway.reload());
    env.gateway.wait_for_log(|line| {
        line["level"] == "ERROR" && line["message"].as_str().is_some_and(|it| it.contains("GTE"))
    });
    get();
    assert_eq!(env.shadow_total(denied), 0.0, "by the previous candidate");
    assert_eq!(env.gateway.metrics().metric("config_reload_success"), 0.0);
    let reloads = env.gateway.reloads().len();
    std::fs::write(env.candidate(), "routes: {/items: {GET: items:create}}\n").unwrap();
    assert!(env.gateway.wait_for_reload(reloads), "the file is watched");
    get();
    assert_eq!(env.shadow_total(denied), 1.0);
    env.gateway.edit("shadow: ", "# ");
    assert!(env.gateway.reload());
    get();
    assert_eq!(env.shadow_total(denied), 1.0, "without a candidate nothing is counted");
}
