//! `check --online`: each step of the probe, and its correction.

use std::io::Write;
use std::net::TcpListener;
use std::thread;

use serde_json::{Value, json};

use super::{Application, MAP, TOKEN};
use crate::support::{Answer, Authority, Introspector, Upstream, Verdict};

#[test]
fn probe_ticks_every_step_without_side_effects() {
    let application = Application::start();
    let run = application.check(Some(TOKEN));
    let backend = application.backend.url();
    let endpoint = format!("{}/api/v2/token", application.introspector.server().url());
    assert_eq!(
        run.1,
        format!(
            "gateway.yaml: fine, 3 routes\n\
             ✓ backend          {backend} answers HEAD /up with 200\n\
             ✓ unknown token    {endpoint} answers with 401\n\
             ✓ given token      active: sync\u{fffd}prod (id 17), does not expire; items:read\n\
             ✓ allowed request  HEAD /items: the backend answers 200 (/items GET: items:read)\n\
             ✓ refused request  HEAD /rents with the given token gets 403 (/rents GET: rents:read)\n"
        )
    );
    assert_eq!((run.0, &*run.2), (0, ""));
    let requests: Vec<(String, String)> =
        application.backend.requests().into_iter().map(|it| (it.method, it.target)).collect();
    let head = |target: &str| ("HEAD".to_owned(), target.to_owned());
    assert_eq!(requests, [head("/up"), head("/items")], "the refused request does not arrive");
    assert!(application.introspector.requests().iter().all(|it| it.method == "GET"));

    // Without a token only the decision is tested.
    let run = application.check(None);
    assert_eq!(run.0, 0, "{}{}", run.1, run.2);
    assert!(run.step("given token").starts_with("- given token      no token given"), "{}", run.1);
    assert!(run.1.ends_with(
        "✓ allowed request  GET /items would be forwarded (/items GET: items:read)\n\
         ✓ refused request  GET /items without a token would get 401 (/items GET: items:read)\n"
    ));
    assert_eq!(application.backend.requests().len(), 3);
}

#[test]
fn probe_with_rfc_7662_and_a_token_file() {
    let application = Application::with(Introspector::start_rfc7662("gateway", "a-secret-of-the-gateway"));
    application.write("token", &format!("{TOKEN}\nsecond line\n"));
    assert_eq!(application.check(Some(TOKEN)).0, 0);
    let run = application.run(&["check", "--online", "gateway.yaml", "--token-file", "token"], None);
    assert_eq!(run.0, 0, "{}{}", run.1, run.2);
    assert!(run.step("unknown token").ends_with("/api/v2/token answers that it is inactive\n"), "{}", run.1);
    assert!(run.step("given token").contains("active: sync"), "{}", run.1);

    for (file, code, words) in [
        ("missing", 1, "error: cannot read `missing`: No such file"),
        ("/dev/null", 1, "the given token is malformed"),
    ] {
        let run = application.run(&["check", "--online", "gateway.yaml", "--token-file", file], None);
        assert!(run.0 == code && format!("{}{}", run.1, run.2).contains(words), "{file}: {}{}", run.1, run.2);
    }
    let run = application.run(&["check", "gateway.yaml", "--token-file", "token"], None);
    assert!(run.0 == 2 && run.2.contains("only with `--online`"), "{}", run.2);

    application.introspector.fail_with(Answer::message(401, "invalid_client"));
    application.check(Some(TOKEN)).fails(
        "unknown token",
        &["rejected the gateway's client credentials with 401", "`introspection.client_secret_file` must be"],
    );
}

#[test]
fn probe_explains_an_unreachable_backend() {
    let mut application = Application::start();
    application.backend.stop();
    application.check(None).fails(
        "backend",
        &["Connection refused", "`backend.url`: http://127.0.0.1:", "start the application"],
    );

    application.backend.resume();
    application.backend.answer(|_| Answer::message(500, "Server Error"));
    application.check(None).fails("backend", &["answers HEAD /up with 500", "log of the application"]);
    application.backend.answer(|_| Answer::raw("SSH-2.0-OpenSSH\r\n").then_close());
    application
        .check(None)
        .fails("backend", &["truncated or malformed", "write `https://` in `backend.url`"]);
    application.backend.answer(|_| Answer::hang());
    let limits = "  timeout: 300ms\n";
    let text = application.read("gateway.yaml").replace("introspection:", &format!("{limits}introspection:"));
    application.write("gateway.yaml", &text);
    let run = application.run(&["check", "--online", "gateway.yaml"], None);
    run.fails("backend", &["the backend took longer than 300ms", "why the application is slow"]);
}

#[test]
fn probe_explains_a_tls_mismatch() {
    let authority = Authority::new();
    let mut application = Application::start();
    // TLS to a server without TLS.
    application.check(None);
    let plain = application.read("gateway.yaml");
    let https = plain.replacen("url: http://", "url: https://", 1);
    application.write("gateway.yaml", &https);
    let run = application.run(&["check", "--online", "gateway.yaml"], None);
    run.fails("backend", &["TLS handshake with 127.0.0.1", "write `http://` in `backend.url`"]);
    // Most servers respond in plain text.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let _ = stream.unwrap().write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
        }
    });
    let own = application.backend.url().replace("http://", "https://");
    application.write("gateway.yaml", &https.replace(&own, &format!("https://{address}")));
    let run = application.run(&["check", "--online", "gateway.yaml"], None);
    run.fails("backend", &["does not use TLS on this port: write `http://`"]);

    // Plain text to a server with TLS.
    application.backend = Upstream::start_tls(&authority);
    application.backend.answer(|_| Answer::with(200, &[], ""));
    assert_eq!(application.check(None).0, 0);
    let trusted = application.read("gateway.yaml");
    let address = application.backend.address();
    let line = |text: &str| {
        let line = text.lines().find(|line| line.contains("url: https://")).unwrap();
        line.trim().to_owned()
    };
    let plain = trusted.replace(&line(&trusted), &format!("url: http://{address}"));
    application.write("gateway.yaml", &plain);
    let run = application.run(&["check", "--online", "gateway.yaml"], None);
    run.fails("backend", &["write `https://` in `backend.url`"]);

    // A certificate of an unknown authority, and one for another name.
    let unknown: String = trusted
        .lines()
        .filter(|line| !line.contains("ca_file"))
        .fold(String::new(), |text, it| format!("{text}{}\n", it.replace("tls:", "tls: {roots: bundled}")));
    application.write("gateway.yaml", &unknown);
    let run = application.run(&["check", "--online", "gateway.yaml"], None);
    run.fails("backend", &["UnknownIssuer", "`backend.tls.ca_file`", "`backend.tls.roots: platform`"]);
    let named = trusted.replacen("{ca_file", "{server_name: elsewhere.example, ca_file", 1);
    application.write("gateway.yaml", &named);
    let run = application.run(&["check", "--online", "gateway.yaml"], None);
    run.fails("backend", &["`backend.tls.server_name`"]);
}

#[test]
fn probe_explains_an_introspection_that_does_not_work() {
    let mut application = Application::start();
    let active = json!({"data": {"id": 1, "abilities": ["*"], "expires_at": null}});
    for (answer, words) in [
        (Answer::json(200, &active), &["calls a token active that does not exist", "`auth:sanctum`"][..]),
        (Answer::message(500, "Server Error"), &["responded with 500", "see the log of the introspector"]),
        (Answer::message(404, "Not Found"), &["responded with 404", "path of `introspection.url`"]),
        (Answer::message(403, "Forbidden"), &["responded with 403", "must get 401"]),
        (Answer::message(405, "Method"), &["responded with 405", "`introspection.style: rfc7662`"]),
        (Answer::message(429, "Too Many"), &["responded with 429", "`throttle:api`"]),
        (Answer::message(204, ""), &["responded with 204", "200 for an active token and 401"]),
        (
            Answer::with(302, &[("Location", "/login")], ""),
            &["responded with 302 Found, a redirect", "redirects unknown paths and guests"],
        ),
        (Answer::message(200, "fine"), &["an unknown token gets 200", "absent", "must get 401"]),
        (Answer::with(200, &[], "<html>"), &["an unknown token gets 200", "not JSON", "must get 401"]),
        (Answer::with(200, &[], vec![b' '; 70_000]), &["longer than 65536 bytes"]),
        (Answer::close(), &["closed before a response"]),
        (Answer::hang(), &["took longer than 500ms", "`introspection.timeout`"]),
    ] {
        application.introspector.fail_with(answer);
        let run = application.check(None);
        run.fails("unknown token", &[words, &["`introspection.url`: http://127.0.0.1:"]].concat());
    }
    // A token adds nothing until introspection works.
    let run = application.check(Some(TOKEN));
    assert!(
        run.step("given token").starts_with("- given token      introspection does not work"),
        "{}",
        run.1
    );
    application.introspector.stop();
    application.check(None).fails("unknown token", &["Connection refused", "start the introspector"]);
}

#[test]
fn probe_explains_a_token_that_does_not_work() {
    let application = Application::start();
    let introspector = &application.introspector;
    let check = |token: &str| application.check(Some(token));
    check("18|unknown").fails("given token", &["does not know the given token", "the part before `|`"]);
    check("18|two words").fails("given token", &["malformed", "--> STOCKAJ_GATEWAY_TOKEN"]);
    introspector
        .set_verdict("18|late", Verdict::active(&[]).named(18, "late").expiring("2001-01-01T00:00:00Z"));
    check("18|late").fails("given token", &["has expired", "late (id 18)"]);
    let odd = json!({"data": {"id": 1, "scopes": ["a"]}});
    introspector.set_verdict("18|odd", Verdict::Answer(Answer::json(200, &odd)));
    check("18|odd")
        .fails("given token", &["abilities", "`introspection.response.abilities` is `/data/abilities`"]);
    let expiry = json!({"data": {"abilities": ["a"], "expires_at": "tomorrow"}});
    introspector.set_verdict("18|odd", Verdict::Answer(Answer::json(200, &expiry)));
    check("18|odd")
        .fails("given token", &["expiry", "`introspection.response.expires_at` is `/data/expires_at`"]);
    introspector.set_verdict("18|none", Verdict::active(&["other:read"]));
    let run = application.check_with("{/items: {GET: items:read}}", "", Some("18|none"));
    run.fails("allowed request", &["allows no request with the given token", "`abilities`"]);
    // A token whose ability only permits POST is not tried.
    let run = application.check_with("{/items: {POST: other:read}}", "", Some("18|none"));
    assert!(run.0 == 0 && run.step("allowed request").starts_with("- "), "{}{}", run.1, run.2);
}

#[test]
fn probe_explains_what_the_backend_answers_to_an_allowed_request() {
    let application = Application::start();
    for (status, words) in [
        (401, "the same guard"),
        (403, "checks more than the map"),
        (404, "correct the path in the map"),
        (429, "rate-limited"),
        (503, "maintenance"),
        (500, "log of the application"),
    ] {
        application.backend.answer(move |request| match &*request.target {
            "/up" => Answer::with(200, &[], ""),
            _ => Answer::message(status, "no"),
        });
        application.check(Some(TOKEN)).fails("allowed request", &["HEAD /items", words]);
    }
    application.backend.answer(|request| match &*request.target {
        "/up" => Answer::with(200, &[], ""),
        _ => Answer::message(405, "Method Not Allowed"),
    });
    assert_eq!(application.check(Some(TOKEN)).0, 0, "it has arrived");
}

#[test]
fn probe_explains_a_map_that_allows_or_refuses_nothing() {
    let application = Application::start();
    for map in ["{/items: {GET: deny}}", "{/a: {GET: deny, POST: deny}, '/b/{id}': {GET: deny}}"] {
        let run = application.check_with(map, "", None);
        run.fails(
            "allowed request",
            &["the map allows no request", "`abilities`", "a rule that is not `deny`"],
        );
    }
    let run = application.check_with("{'/{*rest}': {GET: public}, /: {GET: public}}", "", None);
    run.fails("refused request", &["the map refuses nothing", "make it narrower"]);
    // Parameters are filled in.
    let map = "{'/items/{id}/files/{*rest}': {GET: items:read}}";
    let run = application.check_with(map, "", Some(TOKEN));
    assert!(
        run.step("allowed request").contains("HEAD /items/1/files/1: the backend answers 200"),
        "{}",
        run.1
    );
    // Shadow mode refuses nothing, so the probe does not send the request that would be refused.
    let run = application.check_with(MAP, "mode: shadow", Some(TOKEN));
    let refused = run.step("refused request");
    assert!(refused.starts_with("- refused request  shadow mode: GET /rents would get 403"), "{refused}");
    assert!(run.0 == 0 && application.backend.requests().iter().all(|it| it.target != "/rents"));
}

#[test]
fn probe_leaves_the_configured_listener_ledger_and_log_alone() {
    let application = Application::start();
    // The gateway may be running, with its addresses in use.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let more = format!(
        "listen: {{address: '{}'}}\nusage: {{path: usage.redb}}\nlog: {{level: trace}}\nredis: {{url: 'redis://127.0.0.1:1'}}\n\
         limits: {{requests_per_address: 1}}",
        taken.local_addr().unwrap()
    );
    let run = application.check_with(MAP, &more, Some(TOKEN));
    assert_eq!((run.0, run.1.lines().count()), (0, 6), "{}{}", run.1, run.2);
    assert!(!application.file("usage.redb").exists());
}

#[test]
fn online_check_reports_failed_steps_in_every_format() {
    let mut application = Application::start();
    application.backend.stop();
    application.check(None);
    let run = application.run(&["check", "--online", "-c", "gateway.yaml", "--format", "json"], None);
    let findings: Value = serde_json::from_str(&run.1).unwrap();
    assert_eq!(run.0, 1);
    assert_eq!(findings.as_array().unwrap().len(), 1, "{findings:#}");
    assert_eq!(findings[0]["key"], "backend.url");
    assert_eq!(findings[0]["severity"], "error");
    assert!(findings[0]["message"].as_str().unwrap().contains("Connection refused"), "{findings:#}");
    assert!(findings[0]["help"].as_str().unwrap().starts_with("start the application"), "{findings:#}");
    let run = application.run(&["check", "--online", "gateway.yaml", "--format", "github"], None);
    assert!(run.0 == 1 && run.1.starts_with("::error file=gateway.yaml"), "{}", run.1);

    // Nothing is sent for a configuration with errors, and a map file has no servers.
    application.backend.resume();
    application.write("gateway.yaml", &application.read("gateway.yaml").replace("items:read", "[]"));
    let run = application.run(&["check", "--online", "gateway.yaml"], None);
    assert!(
        run.0 == 1 && run.1.is_empty() && application.backend.requests().is_empty(),
        "{}{}",
        run.1,
        run.2
    );
    application.write("map.yaml", "routes: {/up: {GET: public}}\n");
    let run = application.run(&["check", "--online", "map.yaml"], None);
    assert!(run.0 == 2 && run.2.contains("`--online` probes a gateway.yaml"), "{}", run.2);
}

#[test]
fn probe_names_refusals_of_the_gateway_as_its_own() {
    let application = Application::start();
    let check = |more: &str, token: &str| application.check_with(MAP, more, Some(token));
    // A configured block holds in the probed gateway.
    let run = check("blocked: {ids: [17]}", TOKEN);
    run.fails(
        "given token",
        &["is blocked: the gateway answers 401", "--> `blocked`: STOCKAJ_GATEWAY_TOKEN"],
    );
    application.introspector.set_verdict("18|named", Verdict::active(&["items:read"]).named(18, "scanner"));
    check("blocked: {names: [scanner]}", "18|named")
        .fails("given token", &["is blocked", "--> `blocked`: scanner (id 18)", "`blocked.names`"]);

    // A token's networks need not include the probe. Missing abilities come first.
    let office = Verdict::active(&["items:read"]).named(19, "office").restricted_to(json!(["192.0.2.0/24"]));
    application.introspector.set_verdict("19|office", office);
    let networks = "  response: {allowed_from: /data/allowed_from}";
    for more in [networks.to_owned(), format!("{networks}\nlisten: {{trusted_proxies: [127.0.0.1]}}")] {
        let run = check(&more, "19|office");
        assert_eq!(run.0, 0, "{}{}", run.1, run.2);
        assert!(run.step("given token").ends_with("items:read; only from [192.0.2.0/24]\n"), "{}", run.1);
        let step = run.step("allowed request");
        let expected = "- allowed request  HEAD /items: the gateway answers 403 (wrong_network: 127.0.0.1 is outside \
                        the token's networks 192.0.2.0/24) to the probe";
        assert!(step.starts_with(expected), "{step}");
        assert!(
            run.step("refused request")
                .starts_with("✓ refused request  HEAD /rents with the given token gets 403")
        );
    }

    // Failures of the connection to the backend are not its answers.
    for (answer, words) in [
        (Answer::close(), &["the gateway itself answers 502 (backend_broken", "see the step `backend`"][..]),
        (Answer::hang(), &["the gateway itself answers 504 (backend_timeout", "the route's `timeout`"]),
    ] {
        application.backend.answer(move |request| match &*request.target {
            "/up" => Answer::with(200, &[], ""),
            _ => answer.clone(),
        });
        let map = MAP.replace("GET: items:read", "timeout: 300ms, GET: items:read");
        application.check_with(&map, "", Some(TOKEN)).fails("allowed request", words);
    }
    assert_eq!(application.backend.requests().iter().filter(|it| it.target == "/rents").count(), 0);
}
