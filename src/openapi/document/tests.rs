use super::servers::path_of_url;
use super::*;

#[test]
fn path_of_a_server_url_is_the_prefix() {
    for (url, path) in [
        ("https://app.stockaj.com/api/v2", "/api/v2"),
        ("https://app.stockaj.com/api/v2/", "/api/v2"),
        ("https://app.stockaj.com", ""),
        ("https://app.stockaj.com/", ""),
        ("//app.stockaj.com/api", "/api"),
        ("/api/v2", "/api/v2"),
        ("/", ""),
        ("api/v2?x#y", "/api/v2"),
        ("./api", "/api"),
        ("", ""),
    ] {
        assert_eq!(path_of_url(url), path, "{url}");
    }
}

/// The operations of a document, then the lines of its report.
fn described(text: &str) -> Vec<String> {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("api.yaml");
    std::fs::write(&file, text).unwrap();
    let show = |report: &Report| -> Vec<String> {
        let directory = format!("{}/", directory.path().display());
        report.lines().map(|line| line.replace(&directory, "")).collect()
    };
    let words = |scopes: &[BTreeSet<String>]| {
        let all = |it: &BTreeSet<String>| it.iter().cloned().collect::<Vec<_>>().join("+");
        scopes.iter().map(all).collect::<Vec<_>>().join("|")
    };
    match load_description(&file, None) {
        Ok(LoadedDescription { description, warnings }) => {
            let operations =
                description.operations.iter().map(|Operation { method, path, security, .. }| {
                    let security = match security {
                        Security::Scopes(scopes) => words(scopes),
                        Security::Optional(scopes) => format!("[{}]", words(scopes)),
                        other => format!("{other:?}"),
                    };
                    format!("{method} {path} {security}")
                });
            operations.chain(show(&warnings)).collect()
        }
        Err(report) => show(&report),
    }
}

/// A document with the schemes `o` and `p`.
fn document(rest: &str) -> String {
    format!("{{openapi: 3.1.0, components: {{securitySchemes: {{o: {{}}, p: {{}}}}}}, {rest}}}")
}

#[test]
fn security_of_an_operation_becomes_its_requirement() {
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
        ("[{}, {}]", "Public"),
        ("[{o: [a]}, {}]", "[a]"),
        ("[{}, {o: [a]}, {p: [b]}]", "[a|b]"),
        ("[{o: []}, {}]", "[]"),
        ("[{}, {o: [], p: []}]", "[]"),
    ] {
        let operation = format!("paths: {{/a: {{get: {{security: {security}}}}}}}");
        assert_eq!(described(&document(&operation)), [format!("GET /a {expected}")], "{security}");
        let by_global = document(&format!("security: {security}, paths: {{/a: {{get: {{}}}}}}"));
        // An empty list at the root requires nothing.
        let by_default = if security == "[]" { "Unspecified" } else { expected };
        assert_eq!(described(&by_global), [format!("GET /a {by_default}")], "{security}");
        let over_global = document(&format!("security: [{{o: [z]}}], {operation}"));
        assert_eq!(described(&over_global), [format!("GET /a {expected}")], "{security}");
    }
    assert_eq!(described(&document("paths: {/a: {get: {}}}")), ["GET /a Unspecified"]);
}

#[test]
fn malformed_security_is_a_warning_and_never_public() {
    for (security, expected, warning) in [
        (
            "[[]]",
            "Malformed",
            "malformed `security`; found a list, expected a mapping of security schemes such as",
        ),
        ("[[], []]", "Malformed", "malformed `security`; found a list"),
        ("[[], {}]", "Malformed", "malformed `security`; found a list"),
        ("[[], {o: [a]}]", "a", "malformed `security`; found a list"),
        ("[null]", "Malformed", "malformed `security`; found nothing"),
        ("[o]", "Malformed", "malformed `security`; found `o`"),
        ("o", "Malformed", "malformed `security`; found `o`, expected a list of alternatives"),
        ("''", "Malformed", "malformed `security`; found an empty text, expected a list of alternatives"),
        ("null", "Malformed", "malformed `security`; found nothing, expected a list of alternatives"),
        (
            "false",
            "Malformed",
            "malformed `security`; found the boolean `false`, expected a list of alternatives",
        ),
        ("{}", "Malformed", "malformed `security`; found a mapping, expected a list of alternatives"),
        ("{o: [a]}", "Malformed", "malformed `security`; found a mapping, expected a list of alternatives"),
        ("[{o: a}]", "Malformed", "malformed `security`; found `a`, expected a list of scopes"),
        ("[{o: {}}, {}]", "Malformed", "malformed `security`; found a mapping, expected a list of scopes"),
        ("[{o: null}]", "Malformed", "malformed `security`; found nothing, expected a list of scopes"),
        ("[{o: [a, [b]]}]", "Malformed", "malformed `security`; found a list, expected a scope"),
        ("[{o: [null]}]", "Malformed", "malformed `security`; found nothing, expected a scope"),
        ("[{q: []}]", "Credentials", "unknown security scheme; not one of `components.securitySchemes`"),
        ("[{q: [a]}, {}]", "[a]", "unknown security scheme"),
        ("[{$ref: '#/x'}]", "Malformed", "unknown security scheme"),
    ] {
        for place in ["paths: {/a: {get: {security: HERE}}}", "security: HERE, paths: {/a: {get: {}}}"] {
            let found = described(&document(&place.replace("HERE", security)));
            assert_eq!(found[0], format!("GET /a {expected}"), "{security}: {found:?}");
            let is_warned = |line: &&String| {
                line.starts_with("api.yaml:1:") && line.contains("security") && line.contains(warning)
            };
            assert!(found[1..].iter().any(|line| is_warned(&line)), "{security}: {found:?}");
        }
    }
    let found = described(
        "{openapi: 3.0.0, paths: {/a: {get: {security: [{o: [a]}]}, put: {security: [{o: [b]}]}}}}",
    );
    assert_eq!(found[..2], ["GET /a a", "PUT /a b"]);
    assert_eq!(found.len(), 3, "one warning for all operations: {found:?}");
    assert!(found[2].contains("the document has no `components.securitySchemes`"), "{found:?}");
}

#[test]
fn references_are_followed_everywhere() {
    let rest = "x-operations: {Read: {security: [{o: [r]}]}, Again: {$ref: '#/x-operations/Read'}, 'a/b c': {security: []}}, \
                x-list: [{get: {}}]";
    for (paths, expected) in [
        ("{/a: {get: {$ref: '#/x-operations/Read'}}}", &["GET /a r"][..]),
        ("{/a: {get: {$ref: '#/x-operations/Again'}}}", &["GET /a r"]),
        ("{/a: {get: {$ref: '#/x-operations/Read', summary: s}}}", &["GET /a r"]),
        ("{/a: {get: {$ref: '#/x-operations/a~1b%20c'}}}", &["GET /a Public"]),
        ("{/a: {get: {$ref: '#/x-operations/a%7E1b c'}}}", &["GET /a Public"]),
        ("{/a: {$ref: '#/x-list/0'}}", &["GET /a Unspecified"]),
        (
            "{'/a/{id}': {put: {security: [{o: [u]}]}}, /b: {$ref: '#/paths/~1a~1%7Bid%7D'}}",
            &["PUT /a/{id} u", "PUT /b u"],
        ),
        (
            "{'/a/{id}': {put: {security: [{o: [u]}]}}, /b: {get: {$ref: '#/paths/~1a~1{id}/put'}}}",
            &["PUT /a/{id} u", "GET /b u"],
        ),
        ("{$ref: '#/components/paths'}", &["GET /c Public"]),
    ] {
        let text = format!(
            "{{openapi: 3.1.0, components: {{securitySchemes: {{o: {{}}}}, paths: {{/c: {{get: {{security: []}}}}}}}}, \
             {rest}, paths: {paths}}}"
        );
        assert_eq!(described(&text), expected, "{text}");
    }
    // Through a mapping that is large enough to be indexed.
    let many: String =
        (0..100).map(|number| format!("p{number}: {{get: {{security: [{{o: [s{number}]}}]}}}}, ")).collect();
    let text = format!(
        "{{openapi: 3.1.0, components: {{securitySchemes: {{o: {{}}}}, pathItems: {{{many}}}}}, paths: {{/a: {{$ref: \
         '#/components/pathItems/p77'}}}}}}"
    );
    assert_eq!(described(&text), ["GET /a s77"]);
}

#[test]
fn reference_that_cannot_be_followed_is_an_error() {
    for (reference, expected) in [
        ("'b.yaml#/c'", "reference to another document; expected a reference into this document"),
        ("'./api.yaml#/paths'", "reference to another document"),
        ("'https://example.com/api.yaml'", "reference to another document"),
        ("''", "reference to another document"),
        ("'#/nothing/here'", "unresolved reference; the document has no `nothing` here"),
        ("'#/paths/~1b'", "unresolved reference; the document has no `/b` here"),
        ("'#/paths/%2Fa'", "unresolved reference; the document has no `` here"),
        ("'#/x/01'", "unresolved reference; the document has no `01` here"),
        ("'#item'", "unsupported reference; expected a JSON Pointer"),
        ("'#item/x'", "unsupported reference"),
        ("5", "reference to another document"),
        ("[a]", "wrong type; found a list, expected a reference such as"),
        ("{}", "wrong type; found a mapping, expected a reference such as"),
        ("'#/paths/~1a'", "too many references; more than 16 references in a row"),
        ("'#/components/x'", "too many references"),
        ("'#'", "no operations"),
        ("'#/x'", "wrong type; found a list, expected a"),
    ] {
        for item in ["{$ref: HERE}", "{get: {$ref: HERE}}"] {
            let item = item.replace("HERE", reference);
            let found = described(&format!(
                "{{openapi: 3.1.0, x: [1], components: {{x: {{$ref: '#/components/y'}}, y: {{$ref: '#/components/x'}}}}, \
                 paths: {{/a: {item}}}}}"
            ));
            let errors: Vec<&String> = found.iter().filter(|line| line.contains(": error: ")).collect();
            if item == "{get: {$ref: '#'}}" || item == "{get: {$ref: '#/paths/~1a'}}" {
                // The whole document, or the path item, as an operation.
                let warning = "unknown field; not a field of an operation";
                assert!(found.iter().any(|line| line.contains(warning)), "{item}: {found:?}");
                continue;
            }
            assert!(errors.len() == 1 && errors[0].contains(expected), "{item}: {found:?}");
            assert!(errors[0].starts_with("api.yaml:1:"), "{found:?}");
        }
    }
}

#[test]
fn fields_beside_a_reference_count_unless_programs_disagree() {
    let components =
        "components: {securitySchemes: {o: {}}, pathItems: {A: {get: {}, put: {security: [{o: [a]}]}}}}";
    let text = |paths: &str| format!("{{openapi: 3.1.0, {components}, paths: {paths}}}");
    let reference = "$ref: '#/components/pathItems/A'";
    assert_eq!(
        described(&text(&format!("{{/a: {{{reference}, post: {{security: []}}}}}}"))),
        ["GET /a Unspecified", "POST /a Public", "PUT /a a"]
    );
    let found = described(&text(&format!("{{/a: {{{reference}, put: {{security: []}}}}}}")));
    assert_eq!(found[..2], ["GET /a Unspecified", "PUT /a Malformed"]);
    assert!(
        found[2].contains("`paths.\"/a\".put`: duplicate field; this one, next to the `$ref`, applies"),
        "{found:?}"
    );

    let operation = "$ref: '#/components/pathItems/A/put'";
    let found = described(&text(&format!("{{/a: {{get: {{{operation}, security: []}}}}}}")));
    assert!(found.len() == 2 && found[0] == "GET /a Malformed", "{found:?}");
    assert!(found[1].contains("duplicate field"), "{found:?}");
    let operation = "$ref: '#/components/pathItems/A/get'";
    let found = described(&text(&format!("{{/a: {{get: {{{operation}, security: []}}}}}}")));
    assert!(found.len() == 2 && found[0] == "GET /a Malformed", "{found:?}");
    assert!(found[1].contains("OpenAPI does not define fields next to a `$ref`"), "{found:?}");
    let found = described(&text(&format!("{{/a: {{get: {{{operation}, security: [{{o: [b]}}]}}}}}}")));
    assert_eq!(found[0], "GET /a b");
}

#[test]
fn yaml_merge_keys_and_anchors_are_followed() {
    let found = described(
        "openapi: 3.1.0\n\
         components: {securitySchemes: &schemes {o: {}}}\n\
         x-common: &common {security: [&read {o: [r]}]}\n\
         x-open: &open {security: [{o: [w]}], deprecated: true}\n\
         x-item: &item\n  get: {<<: *common}\n\
         x-paths: &paths\n  /p: *item\n\
         paths:\n\
        \x20 <<: *paths\n\
        \x20 /a: {<<: *item, put: {<<: [*open, *common]}}\n\
        \x20 /b: {get: {<<: *common, security: []}}\n\
        \x20 /c: {get: {security: [*read, {}]}, <<: {delete: {}}}\n",
    );
    assert_eq!(
        found[..7],
        [
            "GET /a r",
            "PUT /a w",
            "GET /b Public",
            "GET /c [r]",
            "DELETE /c Unspecified",
            "GET /p r",
            found[6].as_str()
        ]
    );
    assert!(
        found.len() == 7 && found[6].contains("`\"x-paths\"`: ignored; paths in extensions"),
        "{found:?}"
    );
    let found = described("{openapi: 3.1.0, paths: {/a: {<<: [5], get: {}}}}");
    assert!(
        found.len() == 1 && found[0].contains("wrong type; found a list, expected a mapping to merge"),
        "{found:?}"
    );
}

#[test]
fn innermost_servers_count() {
    for (text, expected) in [
        (
            "servers: [{url: 'https://{host}/{base}', variables: {host: {default: h}, base: {default: api/v2}}}], paths: \
             {/a: {get: {}}, /b: {servers: [{url: /v3}], put: {}, post: {servers: [{url: /v4/}]}}, /c: {servers: [], get: {}}}",
            &[
                "GET /api/v2/a Unspecified",
                "POST /v4/b Unspecified",
                "PUT /v3/b Unspecified",
                "GET /c Unspecified",
            ][..],
        ),
        (
            "servers: [{url: /a}, {url: /b}], paths: {/c: {get: {}}}",
            &[
                "GET /a/c Unspecified",
                "api.yaml:1:39: warning: `servers`: servers with different paths; ignored; the first server has the path \
                 `/a`; `--prefix PATH` selects another path",
            ],
        ),
        (
            "servers: [{url: '/{v}', variables: {v: {default: v1, enum: [v1, v2]}}}], paths: {/c: {get: {}}}",
            &[
                "GET /v1/c Unspecified",
                "api.yaml:1:54: warning: `servers`: variable with several values; only the default is used: the path is \
                 `/v1`; `--prefix PATH` selects another path",
            ],
        ),
        (
            "servers: [{url: '/{v}'}], paths: {/c: {get: {}}}",
            &[
                "GET /{v}/c Unspecified",
                "api.yaml:1:28: warning: `servers`: unresolved variable; a variable in the path has no default: \
                 `/{v}`; `--prefix PATH` selects another path",
            ],
        ),
    ] {
        assert_eq!(described(&format!("{{openapi: 3.1.0, {text}}}")), expected, "{text}");
    }
}

#[test]
fn omitted_operations_are_reported_with_their_location() {
    for (text, expected) in [
        (
            "paths: {/a: {get: {}, trace: {}, gte: {}, GET: {}, x-get: 5, parameters: [], security: [], query: {}}, x-b: 1}",
            &[
                "GET /a Unspecified",
                "api.yaml:1:40: warning: `paths.\"/a\".trace`: ignored; the gateway does not serve TRACE",
                "api.yaml:1:51: warning: `paths.\"/a\".gte`: ignored; not a method; did you mean `get`?",
                "api.yaml:1:60: warning: `paths.\"/a\".GET`: ignored; not a method; did you mean `get`?",
                "api.yaml:1:95: warning: `paths.\"/a\".security`: ignored; paths do not have `security`; set `security` in \
                 each operation",
                "api.yaml:1:109: warning: `paths.\"/a\".query`: ignored; the gateway does not serve QUERY",
            ][..],
        ),
        (
            "paths: {/a: {get: {}, additionalOperations: {LINK: {}, POST: {}}}}",
            &[
                "GET /a Unspecified",
                "api.yaml:1:63: warning: `paths.\"/a\".additionalOperations.LINK`: ignored; the gateway does not serve LINK",
                "api.yaml:1:73: warning: `paths.\"/a\".additionalOperations.POST`: ignored; not allowed here; write it as `post`",
            ],
        ),
        (
            "paths: {/a: {get: {}, x-put: {responses: {}}}, x-c: {get: {}}}, x-ms-paths: {'/a?b=c': {get: {}}}",
            &[
                "GET /a Unspecified",
                "api.yaml:1:40: warning: `paths.\"/a\".\"x-put\"`: ignored; operations in extensions are not supported",
                "api.yaml:1:65: warning: `paths.\"x-c\"`: ignored; paths in extensions are not supported",
                "api.yaml:1:82: warning: `\"x-ms-paths\"`: ignored; paths in extensions are not supported",
            ],
        ),
        (
            "paths: {/a: {get: {callbacks: {}, Security: []}, put: {callbacks: {}}}}, webhooks: {a: {}}, secuirty: [], tags: []",
            &[
                "GET /a Unspecified",
                "PUT /a Unspecified",
                "api.yaml:1:52: warning: `paths.\"/a\".get.Security`: unknown field; not a field of an operation; did you mean \
                 `security`?",
                "api.yaml:1:110: warning: `secuirty`: unknown field; not a field of OpenAPI 3; did you mean `security`?",
            ],
        ),
        (
            "components: {securitySchemes: {oauth: {}}}, paths: {/a: {get: {security: [{oath: [a]}]}}}",
            &[
                "GET /a a",
                "api.yaml:1:93: warning: `paths.\"/a\".get.security`: unknown security scheme; not one of \
                 `components.securitySchemes`; did you mean `oauth`?",
            ],
        ),
    ] {
        assert_eq!(described(&format!("{{openapi: 3.1.0, {text}}}")), expected, "{text}");
    }
}

#[test]
fn other_documents_are_rejected_by_kind() {
    for (text, expected) in [
        ("[]", "not an OpenAPI document; found a list, expected a mapping; an OpenAPI document starts with"),
        (
            "{a: b}",
            "not an OpenAPI document; expected the key `openapi` here; an OpenAPI document starts with",
        ),
        ("", "not an OpenAPI document; found nothing"),
        ("routes: {}", "this is a map file; `openapi DOCUMENT --config MAP` compares a document with a map"),
        ("abilities: {}", "this is a gateway.yaml; `openapi DOCUMENT --config MAP`"),
        (
            "{swagger: '2.0', paths: {/a: {get: {}}}}",
            "this is a Swagger 2.0 document, which is not supported; convert it",
        ),
        ("{swagger: 2.0, basePath: /a}", "this is a Swagger 2.0 document"),
        ("{asyncapi: 3.0.0, channels: {}}", "this is an AsyncAPI document, which is not supported"),
        ("openapi: 4.0.0", "`openapi`: unsupported version; found `4.0.0`, expected 3.0, 3.1 or 3.2"),
        ("openapi: 3.10.0", "`openapi`: unsupported version"),
        ("openapi: 3", "`openapi`: unsupported version; found the number `3`"),
        (
            "openapi: '2.0'",
            "unsupported version; found `2.0`, expected 3.0, 3.1 or 3.2, such as `3.1.0`; convert",
        ),
        ("{openapi: {}, paths: {}}", "`openapi`: unsupported version; found a mapping"),
        ("openapi: 3.0.0", "`paths`: missing key; expected the key `paths` here"),
        ("{openapi: 3.1.0, components: {}, webhooks: {}}", "`paths`: missing"),
        ("{openapi: 3.0.0, paths: {}}", "`paths`: no operations; expected at least one path with a method"),
        ("{openapi: 3.0.0, paths: {/a: {}, x-b: {}}}", "`paths`: no operations"),
        ("{openapi: 3.0.0, paths: null}", "`paths`: wrong type; found nothing, expected a mapping of paths"),
        ("{openapi: 3.0.0, paths: []}", "`paths`: wrong type; found a list, expected a mapping of paths"),
        ("{openapi: 3.0.0, paths: {a: {}}}", "`paths.a`: invalid path; a path starts with `/`"),
        ("{openapi: 3.0.0, paths: {/a: {get: 5}}}", "`paths.\"/a\".get`: wrong type; found the number `5`"),
        ("{openapi: 3.0.0, paths: {/a: {get: {}}, /a: {put: {}}}}", "duplicate key `/a`; second value"),
    ] {
        let found = described(text);
        assert!(found.len() == 1 && found[0].contains(expected), "{text}: {found:?}");
        assert!(found[0].starts_with("api.yaml:1:") && found[0].contains(": error: "), "{found:?}");
    }
    for version in ["3.0.0", "3.0.4", "3.1.0", "3.1", "'3.1.1'", "3.2.0", "3.1.0-rc1"] {
        assert_eq!(
            described(&format!("{{openapi: {version}, paths: {{/a: {{get: {{}}}}}}}}")),
            ["GET /a Unspecified"]
        );
    }
}

#[test]
fn operations_are_bounded() {
    const ITEM: &str = "{get: {}, put: {}, post: {}, patch: {}, delete: {}, head: {}}";
    for (anchor, item, expected) in [
        ("&item ", "*item", "too many aliased values"),
        ("", "{$ref: '#/x'}", "the document has more than 50000 operations"),
    ] {
        let paths: String = (0..9000).map(|number| format!("  /p{number}: {item}\n")).collect();
        let found = described(&format!("openapi: 3.1.0\nx: {anchor}{ITEM}\npaths:\n{paths}"));
        let errors = found.iter().filter(|line| line.contains(": error: ")).collect::<Vec<_>>();
        assert!(errors.len() == 1 && errors[0].contains(expected), "{}: {:?}", found.len(), found.first());
    }
}

/// Small documents that would expand beyond any memory or time.
#[test]
fn documents_that_expand_are_bounded() {
    let list =
        |count: usize, text: &dyn Fn(usize) -> String| (0..count).map(text).collect::<Vec<_>>().join(", ");
    let has_error = |found: &[String], text: &str| {
        found.iter().any(|line| line.contains(": error: ") && line.contains(text))
    };
    for (alternatives, expected) in [(3000, "too many scopes; more than 100"), (100, "document too large")] {
        let alternatives = list(alternatives, &|number| format!("{{o: [s{number}]}}"));
        let own = format!("/own: {{get: {{security: [{alternatives}]}}}}");
        let copies = list(300, &|number| format!("/q{number}: {{get: {{$ref: '#/paths/~1own/get'}}}}"));
        let found = described(&format!("{{openapi: 3.1.0, paths: {{{own}, {copies}}}}}"));
        assert!(has_error(&found, expected), "{:?}", found.first());
    }

    let references = list(9000, &|number| format!("/p{number}: {{$ref: '#/components/pathItems/x'}}"));
    let keys = list(9000, &|number| format!("x-{number}: 0"));
    let found = described(&format!(
        "{{openapi: 3.1.0, paths: {{{references}}}, components: {{pathItems: {{x: {{{keys}}}}}}}}}"
    ));
    assert!(has_error(&found, "document too large; more than 2000000"), "{:?}", found.first());

    let variables = list(30, &|number| {
        format!("v{number}: {{default: '{}'}}", format!("{{v{}}}", number + 1).repeat(10))
    });
    let found = described(&format!(
        "{{openapi: 3.1.0, servers: [{{url: '/{{v0}}', variables: {{{variables}}}}}], paths: {{/a: {{get: {{}}}}}}}}"
    ));
    assert!(
        has_error(&found, "server URL too long; a server URL has at most 8192 bytes"),
        "{:?}",
        found.first()
    );
}

/// As many references as in a large document, each through a mapping with as many keys, are resolved quickly.
#[test]
fn many_references_into_a_large_mapping_are_followed() {
    let list = |text: &dyn Fn(usize) -> String| (0..10_000).map(text).collect::<Vec<_>>().join(", ");
    let paths = list(&|number| format!("/p{number}: {{$ref: '#/components/pathItems/i{number}'}}"));
    let items = list(&|number| format!("i{number}: {{get: {{security: [{{o: [s{number}]}}]}}}}"));
    let found = described(&format!(
        "{{openapi: 3.1.0, components: {{securitySchemes: {{o: {{}}}}, pathItems: {{{items}}}}}, paths: {{{paths}}}}}"
    ));
    assert_eq!(found.len(), 10_000);
    assert_eq!(found[9_999], "GET /p9999 s9999");
}

#[test]
fn listed_values_of_query_parameters_are_read() {
    let parameters =
        "{name: include, in: query, explode: false, schema: {type: array, items: {$ref: '#/x/Relation'}}}";
    for (of_path, of_operation, expected) in [
        (parameters, "", "include Some(\",\") [\"renters\", \"tags\"]"),
        ("", parameters, "include Some(\",\") [\"renters\", \"tags\"]"),
        ("", "{name: 'include[]', in: query, schema: {items: {enum: [a]}}}", "include None [\"a\"]"),
        (
            "",
            "{name: a, in: query, style: pipeDelimited, schema: {items: {enum: [1, 2]}}}",
            "a Some(\"|\") [\"1\", \"2\"]",
        ),
        ("", "{name: sort, in: query, schema: {enum: [name]}}", "sort None [\"name\"]"),
        (parameters, "{name: include, in: query, schema: {type: string}}", ""),
        ("", "{name: include, in: header, schema: {enum: [a]}}", ""),
        ("", "{$ref: '#/nowhere'}, {name: b, in: query, schema: {enum: [c]}}", "b None [\"c\"]"),
        (
            "",
            "{$ref: 'other.yaml#/x'}, 7, {name: [], in: query}, {name: a, in: query, schema: {enum: {}}}",
            "",
        ),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("api.yaml");
        let text = format!(
            "openapi: 3.1.0\nx: {{Relation: {{enum: [renters, tags]}}}}\npaths:\n  /a:\n    parameters: [{of_path}]\n    \
             get: {{parameters: [{of_operation}]}}\n"
        );
        std::fs::write(&file, text).unwrap();
        let loaded = load_description(&file, None).unwrap();
        let found: Vec<String> = loaded.description.operations[0]
            .parameters
            .iter()
            .map(|QueryParameter { name, split, values }| format!("{name} {split:?} {values:?}"))
            .collect();
        assert_eq!(found.join(", "), expected, "{of_path} {of_operation}");
    }
}
