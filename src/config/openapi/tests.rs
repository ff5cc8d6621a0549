use super::*;

#[test]
fn paths_of_servers() {
    for (url, path) in [
        ("https://app.stockaj.com/api/v2", "/api/v2"),
        ("https://app.stockaj.com/api/v2/", "/api/v2"),
        ("https://app.stockaj.com", ""),
        ("https://app.stockaj.com/", ""),
        ("/api/v2", "/api/v2"),
        ("/", ""),
        ("api/v2?x#y", "/api/v2"),
        ("./api", "/api"),
        ("", ""),
    ] {
        assert_eq!(path_of_url(url), path, "{url}");
    }
}

/// What a document's operations are, or the lines of its report.
fn described(text: &str) -> Vec<String> {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("api.yaml");
    std::fs::write(&file, text).unwrap();
    let show = |report: &Report| -> Vec<String> {
        let directory = format!("{}/", directory.path().display());
        report.lines().map(|line| line.replace(&directory, "")).collect()
    };
    match load_description(&file, None) {
        Ok(LoadedDescription { description, warnings }) => {
            let operations =
                description.operations.iter().map(|Operation { method, path, security, .. }| {
                    let security = match security {
                        Security::Scopes(scopes) => {
                            let all =
                                |it: &BTreeSet<String>| it.iter().cloned().collect::<Vec<_>>().join("+");
                            scopes.iter().map(all).collect::<Vec<_>>().join("|")
                        }
                        other => format!("{other:?}"),
                    };
                    format!("{method} {path} {security}")
                });
            operations.chain(show(&warnings)).collect()
        }
        Err(report) => show(&report),
    }
}

#[test]
fn what_operations_ask_for() {
    for (security, expected) in [
        ("[{o: [a]}]", "a"),
        ("[{o: [b, a], p: [c]}]", "a+b+c"),
        ("[{o: [a]}, {o: [b]}, {p: [a]}]", "a|b"),
        ("[{o: [a, b]}, {p: [b]}]", "b"),
        ("[{o: [a, b]}, {p: [c]}]", "a+b|c"),
        ("[{o: [a]}, {p: []}]", "a"),
        ("[{o: []}]", "Credentials"),
        ("[]", "Public"),
        ("[{}]", "Public"),
        ("[{o: [a]}, {}]", "Public"),
    ] {
        let operation = format!("paths: {{/a: {{get: {{security: {security}}}}}}}");
        let by_itself = format!("{{openapi: 3.1.0, {operation}}}");
        assert_eq!(described(&by_itself), [format!("GET /a {expected}")], "{security}");
        let by_global = format!("{{openapi: 3.0.3, security: {security}, paths: {{/a: {{get: {{}}}}}}}}");
        // An empty list says nothing there.
        let by_default = if security == "[]" { "Unsaid" } else { expected };
        assert_eq!(described(&by_global), [format!("GET /a {by_default}")], "{security}");
        let over_global = format!("{{openapi: 3.0.3, security: [{{o: [z]}}], {operation}}}");
        assert_eq!(described(&over_global), [format!("GET /a {expected}")], "{security}");
    }
    assert_eq!(described("{openapi: 3.1.0, paths: {/a: {get: {}}}}"), ["GET /a Unsaid"]);
}

#[test]
fn servers_references_and_what_is_left_out() {
    for (text, expected) in [
        (
            "{openapi: 3.0.0, servers: [{url: 'https://{host}/{base}', variables: {host: {default: h}, base: \
             {default: api/v2}}}], paths: {/a: {get: {}}, /b: {servers: [{url: /v3}], put: {}, post: {servers: \
             [{url: /v4/}]}}}}",
            &["GET /api/v2/a Unsaid", "POST /v4/b Unsaid", "PUT /v3/b Unsaid"][..],
        ),
        ("{swagger: '2.0', basePath: /v1, paths: {/a: {get: {}}}}", &["GET /v1/a Unsaid"]),
        (
            "{openapi: 3.1.0, components: {pathItems: {A: {get: {}, put: {}}}}, paths: {/a: {$ref: \
             '#/components/pathItems/A', put: {security: []}}, /b~: {$ref: '#/paths/~1a'}, /c: {$ref: '#/paths/~1b~0'}}}",
            &[
                "GET /a Unsaid",
                "PUT /a Public",
                "GET /b~ Unsaid",
                "PUT /b~ Public",
                "GET /c Unsaid",
                "PUT /c Public",
            ],
        ),
        (
            "{openapi: 3.1.0, paths: {/a: {trace: {}, gte: {}, x-get: 5, parameters: []}, x-b: 1}}",
            &[
                "api.yaml:1:31: warning: `paths.\"/a\".trace`: left out; TRACE is not served",
                "api.yaml:1:42: warning: `paths.\"/a\".gte`: left out; not a method; did you mean `get`?",
            ],
        ),
        (
            "{openapi: 3.1.0, servers: [{url: /a}, {url: /b}], paths: {/c: {get: {}}}}",
            &[
                "GET /a/c Unsaid",
                "api.yaml:1:39: warning: `servers`: servers with different paths; this one is not looked at; the \
                 first one's path is `/a`; `--prefix PATH` takes another one",
            ],
        ),
        (
            "{openapi: 3.1.0, components: {securitySchemes: {oauth: {}}}, paths: {/a: {get: {security: [{oath: [a]}]}}}}",
            &[
                "GET /a a",
                "api.yaml:1:93: warning: `paths.\"/a\".get.security`: unknown security scheme; not one of \
                 `components.securitySchemes`; did you mean `oauth`?",
            ],
        ),
    ] {
        assert_eq!(described(text), expected, "{text}");
    }
}

#[test]
fn what_is_no_such_document() {
    for (text, expected) in [
        ("[]", "not an OpenAPI document; found a list, expected a mapping; an OpenAPI document begins with"),
        ("{a: b}", "not an OpenAPI document; expected the key `openapi` in here; an OpenAPI document begins"),
        ("routes: {}", "in here; this is a map: `openapi DOCUMENT --config MAP` compares the two"),
        ("openapi: 4.0.0", "`openapi`: a version that is not known; found `4.0.0`, expected one that is"),
        ("swagger: 1.2", "`swagger`: a version that is not known; found the number `1.2`"),
        ("openapi: 3.0.0", "`paths`: missing; expected the key `paths` in here"),
        ("{openapi: 3.0.0, paths: []}", "`paths`: wrong type; found a list, expected a mapping of paths"),
        ("{openapi: 3.0.0, paths: {a: {}}}", "`paths.a`: not a path; a path begins with `/`"),
        ("{openapi: 3.0.0, paths: {/a: {get: 5}}}", "`paths.\"/a\".get`: wrong type; found the number `5`"),
        ("{openapi: 3.0.0, paths: {/a: {get: {security: {}}}}}", "expected a list of alternatives"),
        ("{openapi: 3.0.0, security: [a], paths: {}}", "found `a`, expected a mapping of security schemes"),
        ("{openapi: 3.0.0, security: [{o: a}], paths: {}}", "found `a`, expected a list of scopes"),
        ("{openapi: 3.0.0, paths: {/a: {$ref: 'b.yaml#/c'}}}", "a reference to another document"),
        ("{openapi: 3.0.0, paths: {/a: {$ref: '#/x'}}}", "a reference to nothing; there is no such place"),
        ("{openapi: 3.0.0, paths: {/a: {$ref: '#/paths/~1a'}}}", "references without an end; more than 16"),
    ] {
        let found = described(text);
        assert!(found.len() == 1 && found[0].contains(expected), "{text}: {found:?}");
        assert!(found[0].starts_with("api.yaml:1:"), "{found:?}");
    }
}

#[test]
fn operations_are_bounded() {
    const ITEM: &str = "{get: {}, put: {}, post: {}, patch: {}, delete: {}, head: {}}";
    for (anchor, item, expected) in [
        ("&item ", "*item", "the aliases explode"),
        ("", "{$ref: '#/x'}", "more than 10000 operations up to here"),
    ] {
        let paths: String = (0..2000).map(|number| format!("  /p{number}: {item}\n")).collect();
        let found = described(&format!("openapi: 3.1.0\nx: {anchor}{ITEM}\npaths:\n{paths}"));
        assert!(found.len() == 1 && found[0].contains(expected), "{}: {:?}", found.len(), found.first());
    }
}

/// Each of these is small, and would stand for more than there is memory or time.
#[test]
fn what_stands_for_more_than_it_is_has_its_bounds() {
    let list =
        |count: usize, text: &dyn Fn(usize) -> String| (0..count).map(text).collect::<Vec<_>>().join(", ");
    let alternatives = list(3000, &|number| format!("{{o: [s{number}]}}"));
    let operations = list(9000, &|number| format!("/p{number}: {{get: {{}}}}"));
    let told = described(&format!("{{openapi: 3.1.0, security: [{alternatives}], paths: {{{operations}}}}}"));
    assert!(told[0].contains("too many scopes; more than 100"), "{}", told[0]);

    let references = list(9000, &|number| format!("/p{number}: {{$ref: '#/components/pathItems/x'}}"));
    let keys = list(9000, &|number| format!("x-{number}: 0"));
    let told = described(&format!(
        "{{openapi: 3.1.0, paths: {{{references}}}, components: {{pathItems: {{x: {{{keys}}}}}}}}}"
    ));
    assert!(told.iter().any(|line| line.contains("too many references; more than 2000000")), "{}", told[0]);

    let variables = list(30, &|number| {
        format!("v{number}: {{default: '{}'}}", format!("{{v{}}}", number + 1).repeat(10))
    });
    let told = described(&format!(
        "{{openapi: 3.1.0, servers: [{{url: '/{{v0}}', variables: {{{variables}}}}}], paths: {{/a: {{get: {{}}}}}}}}"
    ));
    assert!(told[0].contains("too long; its URL has at most 8192 bytes"), "{}", told[0]);
}
