//! Header fields: which are forwarded, which the gateway sets, and method overrides.

use serde_json::{Value, json};

use crate::support::http2::{self, Http2Client};
use crate::support::{Answer, Request, TestEnv, Verdict, WRITER};

const ITEM: &str = "/api/v2/items/5";
/// The names that only the gateway may set.
const IDENTITY: [&str; 4] = ["X-Token-Id", "X-Token-Name", "X-Token-Abilities", "X-Workspace-Id"];
/// Spellings of these and other fields for backends that fold names.
const SPELLINGS: [&str; 12] = [
    "X-Token-Id",
    "x-token-id",
    "X_Token_Id",
    "X.Token.Id",
    "X-Token_Name",
    "X.Token-Name",
    "x_token_abilities",
    "X-Token+Abilities",
    "X-TOKEN-ABILITIES",
    "X-Workspace.Id",
    "X_WORKSPACE_ID",
    "X-Workspace-Id",
];

/// The identity fields of a request as a backend sees them that folds names like PHP and lighttpd.
fn seen(request: &Request) -> Vec<(String, String)> {
    let fold = |name: &str| name.to_ascii_uppercase().replace(|it: char| !it.is_ascii_alphanumeric(), "_");
    let names = IDENTITY.map(fold);
    let fields = request.fields.0.iter().map(|(name, value)| (fold(name), value.clone()));
    let mut seen: Vec<_> = fields.filter(|(name, _)| names.contains(name)).collect();
    seen.sort();
    seen
}

fn described(data: &Value) -> Verdict {
    Verdict::Answer(Answer::json(200, &json!({"data": data})))
}

/// A gateway with these sections whose introspector returns this verdict for `7|token`.
fn describing(wanted: &str, data: &Value, yaml: &str) -> TestEnv {
    TestEnv::builder()
        .verdict("7|token", described(data))
        .yaml("introspection:\n  response: {workspace_id: /data/workspace/id}\n")
        .yaml(&format!("identity_headers: [{wanted}]\n{yaml}"))
        .start()
}

const TOKEN: (&str, &str) = ("Authorization", "Bearer 7|token");

#[test]
fn only_the_gateway_sets_identity_headers() {
    let data = json!({
        "id": 7, "name": "Scanner", "abilities": ["items:read", "items:update"], "workspace": {"id": "w-3"},
        "expires_at": null,
    });
    let all = [
        ("X_TOKEN_ABILITIES", "items:read items:update"),
        ("X_TOKEN_ID", "7"),
        ("X_TOKEN_NAME", "Scanner"),
        ("X_WORKSPACE_ID", "w-3"),
    ];
    let claims: Vec<(&str, &str)> = SPELLINGS.iter().map(|name| (*name, "1")).collect();
    let named_away = ("Connection", "X-Token-Id, x-token-name, X-Token-Abilities, X-Workspace-Id");
    for (trusted, wanted, expected) in [
        (false, "", &[][..]),
        (false, "id, name, abilities, workspace_id", &all),
        (true, "id, name, abilities, workspace_id", &all),
        (true, "abilities", &all[..1]),
        (false, "workspace_id, id", &[all[1], all[3]]),
    ] {
        let proxies = if trusted { "listen:\n  trusted_proxies: [127.0.0.0/8]\n" } else { "" };
        let env = describing(wanted, &data, proxies);
        let mut client = env.gateway.client();
        for fields in [&[TOKEN][..], &[&[TOKEN, named_away][..], &claims].concat()] {
            for _ in 0..2 {
                env.backend.forget_requests();
                let response = client.request("GET", ITEM, fields, b"");
                assert_eq!(response.status, 200, "{}", response.text());
                let expected: Vec<_> =
                    expected.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
                assert_eq!(seen(&env.backend.only_request()), expected, "{wanted}: {fields:?}");
            }
        }
        env.backend.forget_requests();
        assert_eq!(client.request("GET", "/up", &claims, b"").status, 200);
        assert_eq!(seen(&env.backend.only_request()), [], "a public route has no token");
        assert_eq!(env.introspector.calls(), 1);
    }
}

#[test]
fn token_name_cannot_inject_or_imitate_a_field() {
    for (name, expected) in [
        (json!("Süd 1"), Some("S%C3%BCd%201")),
        (json!(" a"), Some("%20a")),
        (json!("a "), Some("a%20")),
        (json!("%20a"), Some("%2520a")),
        (
            json!("a\r\nX-Token-Id: 1\r\n\r\nGET / HTTP/1.1"),
            Some("a%0D%0AX-Token-Id:%201%0D%0A%0D%0AGET%20/%20HTTP/1.1"),
        ),
        (json!("a\u{0}\u{7f}"), Some("a%00%7F")),
        (json!(""), Some("")),
        (json!(null), None),
        (json!(17), None),
    ] {
        let data = json!({"id": "a,b", "name": name, "abilities": ["items:read", "a b"], "expires_at": null});
        let env = describing("id, name, abilities, workspace_id", &data, "");
        assert_eq!(env.gateway.get(ITEM, Some("7|token")).status, 200, "{name}");
        let request = env.backend.only_request();
        assert_eq!(request.field("x-token-name"), expected, "{name}");
        assert_eq!(request.field("x-token-id"), Some("a%2Cb"));
        assert_eq!(request.field("x-token-abilities"), Some("a%20b items:read"));
        assert_eq!(request.field("x-workspace-id"), None, "the introspector returned no workspace");
    }
}

#[test]
fn identity_headers_follow_a_renewed_verdict() {
    let env = describing("name", &json!({"id": 7, "name": "old", "abilities": ["items:read"]}), "");
    let mut client = env.gateway.client();
    assert_eq!(client.get(ITEM, Some("7|token")).status, 200);
    env.introspector
        .set_verdict("7|token", described(&json!({"id": 7, "name": "new", "abilities": ["items:read"]})));
    env.backend.answer(|_| Answer::message(401, "Unauthenticated."));
    assert_eq!(client.get(ITEM, Some("7|token")).status, 401, "the backend contradicts the verdict");
    assert_eq!(client.get(ITEM, Some("7|token")).status, 401);
    let names: Vec<_> =
        env.backend.requests().iter().map(|it| it.field("x-token-name").unwrap().to_owned()).collect();
    assert_eq!(names, ["old", "old", "new"]);
}

#[test]
fn cookies_are_forwarded_with_a_token_only_if_configured() {
    for (yaml, expected) in [("", None), ("backend:\n  cookies: true\n", Some("session=1; theme=dark"))] {
        let env = TestEnv::start(yaml);
        let sent = [WRITER, ("Cookie", "session=1; theme=dark"), ("Connection", "Cookie")];
        assert_eq!(env.gateway.client().request("GET", ITEM, &sent, b"").status, 200);
        let request = env.backend.only_request();
        assert_eq!((request.field("cookie"), request.bearer()), (expected, Some("1|writer")), "{yaml}");
    }
}

#[test]
fn token_in_query_or_body_does_not_authenticate() {
    let env = TestEnv::start("");
    let mut client = env.gateway.client();
    for (target, fields, body) in [
        ("/api/v2/items?access_token=1|writer", &[][..], ""),
        ("/api/v2/items?api_token=1|writer&token=1|writer", &[], ""),
        ("/api/v2/items?Authorization=Bearer%201|writer", &[], ""),
        ("/api/v2/items", &[("Content-Type", "application/x-www-form-urlencoded")], "access_token=1|writer"),
        ("/api/v2/items", &[("Content-Type", "application/json")], r#"{"api_token":"1|writer"}"#),
        ("/api/v2/items", &[("Cookie", "token=1|writer; access_token=1|writer")], ""),
        ("/api/v2/items", &[("X-Api-Token", "1|writer"), ("X-Authorization", "Bearer 1|writer")], ""),
        (
            "/api/v2/items",
            &[("PHP-Auth-Digest", "Bearer 1|writer"), ("Proxy-Authorization", "Bearer 1|writer")],
            "",
        ),
        ("/api/v2/items", &[("Authorization", "Basic MXx3cml0ZXI6")], ""),
    ] {
        let method = if body.is_empty() { "GET" } else { "POST" };
        let response = client.request(method, target, fields, body.as_bytes());
        assert_eq!(
            (response.status, response.text()),
            (401, r#"{"message":"Unauthenticated."}"#),
            "{target} {fields:?}"
        );
    }
    assert_eq!((env.backend.requests().len(), env.introspector.calls()), (0, 0));
    let sent = [("Authorization", "Bearer 2|unknown")];
    assert_eq!(client.request("GET", "/api/v2/items?access_token=1|writer", &sent, b"").status, 401);
    assert_eq!(env.introspector.calls_for("1|writer"), 0);
}

#[test]
fn upgrades_other_than_websocket_are_not_forwarded() {
    let env = TestEnv::start("");
    let mut client = env.gateway.client();
    for fields in [
        &[
            ("Connection", "Upgrade, HTTP2-Settings"),
            ("Upgrade", "h2c"),
            ("HTTP2-Settings", "AAMAAABkAAQAoAAAAAIAAAAA"),
        ][..],
        &[("Connection", "upgrade"), ("Upgrade", "TLS/1.0, HTTP/1.1")],
        &[("Connection", "Upgrade"), ("Upgrade", "foo/2")],
        &[("Upgrade", "h2c")],
    ] {
        for (method, body) in [("GET", ""), ("PUT", "some")] {
            env.backend.forget_requests();
            let response = client.request(method, ITEM, &[&[WRITER], fields].concat(), body.as_bytes());
            assert_eq!(response.status, 200, "{fields:?}");
            let request = env.backend.only_request();
            assert_eq!((&*request.method, request.text()), (method, body));
            for name in ["connection", "upgrade", "http2-settings"] {
                assert_eq!(request.field(name), None, "{name} of {fields:?}");
            }
        }
    }
    assert_eq!(env.backend.connections(), 1, "the connections stay open");
}

/// A gateway that honours method overrides, and a token for each ability.
fn with_override(mode: &str) -> TestEnv {
    TestEnv::builder()
        .token("1|update", &["items:update"])
        .token("2|delete", &["items:delete"])
        .token("3|create", &["items:create"])
        .yaml(&format!("backend:\n  method_override: {mode}\n"))
        .start()
}

const OVERRIDE: &str = "X-HTTP-Method-Override";

fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

#[test]
fn honoured_override_is_decided_and_forwarded_as_its_method() {
    let env = with_override("honour");
    let mut client = env.gateway.client();
    for (token, method, name, status) in [
        ("1|update", "PUT", OVERRIDE, 200),
        ("1|update", "PATCH", "x-http-method-override", 200),
        ("1|update", "DELETE", OVERRIDE, 403),
        ("2|delete", "DELETE", OVERRIDE, 200),
        ("2|delete", "PUT", OVERRIDE, 403),
        ("3|create", "PUT", OVERRIDE, 403),
    ] {
        env.backend.forget_requests();
        let authorization = bearer(token);
        let fields = [
            ("Authorization", &*authorization),
            (name, method),
            ("Content-Type", "multipart/form-data; boundary=b"),
            ("Connection", "X-HTTP-Method-Override"),
        ];
        let body = b"--b\r\nContent-Disposition: form-data; name=\"_method\"\r\n\r\nDELETE\r\n--b--\r\n";
        let response = client.request("POST", &format!("{ITEM}?_method=DELETE"), &fields, body);
        assert_eq!(response.status, status, "{token} {method}");
        if status == 200 {
            let request = env.backend.only_request();
            assert_eq!(request.method, "POST", "PHP parses multipart forms only for POST");
            assert_eq!(request.field(OVERRIDE), Some(method), "exactly one field, set by the gateway");
            assert_eq!(request.body, body);
            let line = env.gateway.wait_for_log(|line| line["method"] == method && line["status"] == 200);
            assert_eq!(line["route"], "/api/v2/items/{id}");
        } else {
            assert_eq!(env.backend.requests().len(), 0);
        }
    }
    env.gateway.wait_for_metric("requests_total{method=\"DELETE\",reason=\"allowed\"}", 1.0);
    env.gateway.wait_for_metric("requests_total{method=\"DELETE\",reason=\"missing_ability\"}", 1.0);
    assert_eq!(env.gateway.metrics().metric("requests_total{method=\"POST\"}"), 0.0);
}

#[test]
fn ambiguous_method_override_is_400() {
    let env = with_override("honour");
    let mut client = env.gateway.client();
    let mut count = 0.0;
    for fields in [
        &[(OVERRIDE, "POST")][..],
        &[(OVERRIDE, "GET")],
        &[(OVERRIDE, "HEAD")],
        &[(OVERRIDE, "OPTIONS")],
        &[(OVERRIDE, "TRACE")],
        &[(OVERRIDE, "put")],
        &[(OVERRIDE, "")],
        &[(OVERRIDE, "PUT, PUT")],
        &[(OVERRIDE, "PUT,DELETE")],
        &[(OVERRIDE, "PUT"), (OVERRIDE, "PUT")],
        &[(OVERRIDE, "PUT"), (OVERRIDE, "DELETE")],
        &[(OVERRIDE, "PUT"), ("X_HTTP_Method_Override", "DELETE")],
        &[(OVERRIDE, "PUT"), ("X.HTTP.Method.Override", "PUT")],
        &[("X_HTTP_Method_Override", "PUT")],
        &[("X-HTTP.Method-Override", "PUT")],
        &[("X-HTTP-Method", "PUT")],
        &[("X-Method-Override", "PUT")],
    ] {
        for target in [ITEM, "/up", "/nowhere"] {
            let response = client.request("POST", target, &[&[WRITER], fields].concat(), b"");
            assert_eq!(response.status, 400, "{target} {fields:?}");
            count += 1.0;
        }
    }
    env.gateway.wait_for_metric("requests_total{status=\"400\",route=\"none\"}", count);
    assert_eq!((env.backend.requests().len(), env.introspector.calls()), (0, 0));
    // An override applies only to POST; without one a POST stays a POST.
    assert_eq!(client.request("POST", "/api/v2/items?_method=PUT", &[WRITER], b"_method=PUT").status, 200);
    let put = [WRITER, (OVERRIDE, "DELETE"), ("X-HTTP-Method", "DELETE")];
    assert_eq!(client.request("PUT", ITEM, &put, b"").status, 200);
    let requests = env.backend.requests();
    assert_eq!((&*requests[0].method, requests[0].field(OVERRIDE)), ("POST", Some("POST")));
    assert_eq!((&*requests[1].method, requests[1].field(OVERRIDE)), ("PUT", None));
}

#[test]
fn pinned_post_is_decided_and_forwarded_as_post() {
    let env = with_override("pin");
    let mut client = env.gateway.client();
    for value in ["PUT", "DELETE", "", "put, x"] {
        let fields = [WRITER, (OVERRIDE, value), ("X-HTTP-Method", value)];
        assert_eq!(client.request("POST", ITEM, &fields, b"").status, 403, "the route does not allow POST");
        assert_eq!(client.request("POST", "/api/v2/items", &fields, b"").status, 200);
    }
    let overrides: Vec<_> = env
        .backend
        .requests()
        .iter()
        .map(|it| (it.method.clone(), it.target.clone(), it.field(OVERRIDE).unwrap().to_owned()))
        .collect();
    let post = ("POST".to_owned(), "/api/v2/items".to_owned(), "POST".to_owned());
    assert_eq!(overrides, vec![post; 4]);
}

#[test]
fn identity_fields_pass_only_from_trusted_proxies_that_may_set_them() {
    const CLAIMS: [&str; 22] = [
        "Remote-User",
        "Proxy-Client-IP",
        "LOGON-USER",
        "SMUSER",
        "mail",
        "X-Hasura-Role",
        "X-On-Behalf-Of",
        "X-Auth-Request-User",
        "Client-IP",
        "X-SSL-Client-Verify",
        "X-Goog-Authenticated-User-Email",
        "X-Amzn-Oidc-Data",
        "Cf-Access-Jwt-Assertion",
        "Tailscale-User-Login",
        "X-Forwarded-User",
        "X-Forwarded-Client-Cert",
        "X-MS-CLIENT-PRINCIPAL",
        "X-Consumer-Username",
        "X-User-Id",
        "iv-user",
        "X-Badge",
        "OIDC_CLAIM_email",
    ];
    const LISTED: [&str; 3] = ["Remote-User", "X-Badge", "OIDC_CLAIM_email"];
    let sent: Vec<(&str, &str)> = [WRITER, ("X-Forwarded-Port", "443"), ("X-Requested-With", "app")]
        .into_iter()
        .chain(CLAIMS.iter().map(|name| (*name, "ada")))
        .collect();
    let listed = format!("trusted_fields: [{}]", LISTED.join(", "));
    for (yaml, arriving) in [
        ("listen:\n  trusted_proxies: []\n".to_owned(), &["x-badge"][..]),
        ("listen:\n  trusted_proxies: [127.0.0.1]\n".to_owned(), &["x-badge", "x-forwarded-port"]),
        (format!("listen:\n  trusted_proxies: [192.0.2.1]\n  {listed}\n"), &[]),
        (
            format!("listen:\n  trusted_proxies: [127.0.0.1]\n  {listed}\n"),
            &["oidc_claim_email", "remote-user", "x-badge", "x-forwarded-port"],
        ),
    ] {
        let env = TestEnv::start(&yaml);
        for target in [ITEM, "/up"] {
            env.backend.forget_requests();
            assert_eq!(env.gateway.client().request("GET", target, &sent, b"").status, 200);
            let request = env.backend.only_request();
            assert_eq!(request.field("x-requested-with"), Some("app"));
            let names = request.fields.0.iter().map(|(name, _)| name.to_ascii_lowercase());
            let is_claim = |name: &String| {
                name == "x-forwarded-port" || CLAIMS.iter().any(|claim| claim.eq_ignore_ascii_case(name))
            };
            let mut found: Vec<String> = names.filter(is_claim).collect();
            found.sort();
            assert_eq!(found, arriving, "{target} with {yaml}");
        }
    }
}

#[test]
fn trusted_fields_are_reloaded_and_a_dropped_field_is_logged_by_name_once() {
    let env = TestEnv::start("listen:\n  trusted_proxies: [127.0.0.1]\n  trusted_fields: [Remote-User]\n");
    let mut client = env.gateway.client();
    let sent = [WRITER, ("Remote-User", "ada"), ("Remote-Groups", "staff")];
    let mut arriving = || {
        env.backend.forget_requests();
        assert_eq!(client.request("GET", ITEM, &sent, b"").status, 200);
        let request = env.backend.only_request();
        ["remote-user", "remote-groups"].map(|name| request.field(name).map(str::to_owned))
    };
    let (user, groups) = (Some("ada".to_owned()), Some("staff".to_owned()));
    assert_eq!(arriving(), [user, None]);
    assert_eq!(arriving()[1], None);
    let line = env.gateway.wait_for_log(|line| line["field"] == "remote-groups");
    assert_eq!(line["level"], "WARN");
    env.gateway.edit("trusted_fields: [Remote-User]", "trusted_fields: [Remote-Groups]");
    assert!(env.gateway.reload());
    assert_eq!(arriving(), [None, groups], "on the same connection");
    let count = env.gateway.logs().iter().filter(|line| line.contains("\"field\":")).count();
    assert_eq!(count, 1, "one log line for all requests");
}

/// The lines of a field in the received request.
fn lines<'a>(request: &'a Request, name: &str) -> Vec<&'a str> {
    let is_line = |(it, value): &'a (String, String)| it.eq_ignore_ascii_case(name).then_some(&**value);
    request.fields.0.iter().filter_map(is_line).collect()
}

#[test]
fn second_identity_line_of_a_trusted_proxy_is_rejected() {
    const NAMES: [&str; 3] = ["Remote-User", "X-Badge", "X-Real-IP"];
    let trusting = |addresses: &str| {
        TestEnv::start(&format!(
            "listen:\n  h2c: true\n  trusted_proxies: [{addresses}]\n  trusted_fields: [Remote-User, X-Badge]\n"
        ))
    };
    let (trusted, untrusted) = (trusting("127.0.0.1"), trusting("192.0.2.1"));
    for name in NAMES {
        for second in ["192.0.2.7", "192.0.2.8", ""] {
            let sent = [WRITER, (name, "192.0.2.7"), ("Accept", "a/b"), (name, second)];
            for target in [ITEM, "/up"] {
                for (env, status) in [(&trusted, 400), (&untrusted, 200)] {
                    let response = env.gateway.client().request("GET", target, &sent, b"");
                    assert_eq!(response.status, status, "{name}: {second:?}");
                    let arrived = env.backend.take_requests();
                    assert!(arrived.iter().all(|request| lines(request, name).is_empty()), "{name}");
                }
            }
            let lower = name.to_ascii_lowercase();
            let fields = [(&*lower, "192.0.2.7"), (&*lower, second)];
            let mut client = Http2Client::connect(trusted.gateway.address());
            let stream = client.open(&http2::request("GET", "/up", &fields), true);
            assert_eq!(client.outcome(stream).answer().status, 400, "{name}: {second:?}");
        }
        let response = trusted.gateway.client().request("GET", ITEM, &[WRITER, (name, "192.0.2.7")], b"");
        assert_eq!(response.status, 200);
        assert_eq!(lines(&trusted.backend.only_request(), name), ["192.0.2.7"]);
        trusted.backend.forget_requests();
    }
}

#[test]
fn lines_of_a_forwarding_field_are_joined_in_order() {
    let env = TestEnv::start("listen:\n  trusted_proxies: [127.0.0.1]\n");
    for name in ["Forwarded", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Forwarded-Port", "X-Forwarded-By"] {
        env.backend.forget_requests();
        let sent = [WRITER, (name, "a, b"), ("Accept", "a/b"), (name, "c"), ("Accept", "a/c")];
        assert_eq!(env.gateway.client().request("GET", ITEM, &sent, b"").status, 200);
        let request = env.backend.only_request();
        assert_eq!(lines(&request, name), ["a, b, c"], "{name}");
        assert_eq!(lines(&request, "Accept"), ["a/b", "a/c"]);
    }
}

#[test]
fn connection_field_of_either_side_has_at_most_100_options() {
    let env = TestEnv::start("");
    let options = |count: usize| vec!["x-hop"; count].join(",");
    for (lines, status) in [
        (vec![options(100)], 200),
        (vec![options(101)], 400),
        (vec![options(50), options(51)], 400),
        (vec![",".repeat(100)], 400),
    ] {
        let mut sent = vec![WRITER, ("X-Hop", "1")];
        sent.extend(lines.iter().map(|line| ("Connection", &**line)));
        env.backend.forget_requests();
        let response = env.gateway.client().request("GET", ITEM, &sent, b"");
        assert_eq!(response.status, status, "{lines:?}");
        if status == 200 {
            assert_eq!(env.backend.only_request().field("x-hop"), None);
        }
    }
    for (count, status) in [(100, 200), (101, 502)] {
        let line = options(count);
        env.backend.answer(move |_| Answer::with(200, &[("Connection", &line), ("X-Hop", "1")], ""));
        let response = env.gateway.client().request("GET", ITEM, &[WRITER], b"");
        assert_eq!((response.status, response.field("x-hop")), (status, None));
    }
}
