//! Methods and method overrides.

use super::{Arrives, Case, READER, Refused, USER, WRITER, bare, by, case, start};

const FORM: &str = "Content-Type: application/x-www-form-urlencoded\r\n";

/// A POST with a token that may create but not delete.
fn post(name: &'static str, target: &str, lines: &str, body: &str, arrives: &'static [&'static str]) -> Case {
    let lines = format!("{lines}Content-Length: {}\r\n", body.len());
    case(name, by(WRITER, &format!("POST {target}"), &lines) + body, Arrives(arrives))
}

/// A preflight for a method.
fn preflight(target: &str, method: &str, lines: &str) -> String {
    let lines = format!("Origin: https://shop.example\r\nAccess-Control-Request-Method: {method}\r\n{lines}");
    bare(&format!("OPTIONS {target}"), &lines)
}

const CREATED: &[&str] = &["POST /api/v2/items"];

pub(super) fn cases() -> Vec<Case> {
    let method = |name, request: &str, outcome| case(name, by(USER, request, ""), outcome);
    let mut cases = vec![
        method("TRACE", "TRACE /api/v2/items", Refused(400)),
        method("TRACK", "TRACK /api/v2/items", Refused(400)),
        method("CONNECT to a path", "CONNECT /api/v2/items", Refused(400)),
        method("CONNECT to this host", "CONNECT stockaj.example:80", Refused(400)),
        method("CONNECT to another host", "CONNECT evil.example:25", Refused(400)),
        method("PROPFIND", "PROPFIND /api/v2/items", Refused(400)),
        method("QUERY", "QUERY /api/v2/items", Refused(400)),
        method("PURGE", "PURGE /api/v2/items", Refused(400)),
        method("lower case", "get /api/v2/items", Refused(400)),
        method("lower-case delete", "delete /api/v2/items/5", Refused(400)),
        method("mixed case", "Get /api/v2/items", Refused(400)),
        method("a method and more", "GETX /api/v2/items", Refused(400)),
        method("less than a method", "GE /api/v2/items", Refused(400)),
        method("a symbol", "! /api/v2/items", Refused(400)),
        method("a long method", &format!("{} /api/v2/items", "X".repeat(300)), Refused(400)),
        method("LINK", "LINK /api/v2/items/5", Refused(400)),
        method("OPTIONS *", "OPTIONS *", Refused(403)),
        method("OPTIONS that no route names", "OPTIONS /api/v2/items", Refused(403)),
        method("HEAD of a route without GET", "HEAD /api/v2/kiosk/scan", Refused(403)),
        method("DELETE of a route without it", "DELETE /api/v2/items", Refused(403)),
        case(
            "HEAD with the ability of GET",
            by(READER, "HEAD /api/v2/items", ""),
            Arrives(&["HEAD /api/v2/items"]),
        ),
        case("HEAD without a token", bare("HEAD /api/v2/items", ""), Refused(401)),
        case("DELETE with the ability of GET", by(READER, "DELETE /api/v2/items/5", ""), Refused(403)),
        case(
            "PUT with the ability of GET",
            by(READER, "PUT /api/v2/items/5", "Content-Length: 0\r\n"),
            Refused(403),
        ),
        case(
            "PATCH with the ability of GET",
            by(READER, "PATCH /api/v2/items/5", "Content-Length: 0\r\n"),
            Refused(403),
        ),
        case("a preflight", preflight("/api/v2/items", "POST", ""), Arrives(&["OPTIONS /api/v2/items"])),
        case(
            "a preflight with credentials",
            preflight(
                "/api/v2/items",
                "POST",
                "Authorization: Bearer 3|Secret0User\r\nCookie: session=evil\r\nPHP-Auth-Digest: Bearer evil\r\n",
            ),
            Arrives(&["OPTIONS /api/v2/items"]),
        ),
        case(
            "a preflight with several tokens",
            preflight(
                "/api/v2/items",
                "POST",
                "Authorization: Bearer evil\r\nAuthorization: Bearer evil\r\n",
            ),
            Arrives(&["OPTIONS /api/v2/items"]),
        ),
        case(
            "a preflight that is to arrive as none",
            preflight(
                "/api/v2/items",
                "POST",
                "Connection: Access-Control-Request-Method, Origin, Access-Control-Request-Headers\r\n",
            ),
            Arrives(&["OPTIONS /api/v2/items"]),
        ),
        case(
            "an OPTIONS that is to arrive as a preflight",
            bare(
                "OPTIONS /api/v2/items",
                "Origin: https://shop.example\r\nAccess.Control.Request.Method: POST\r\n",
            ),
            Refused(401),
        ),
        case(
            "a preflight with an override",
            preflight("/api/v2/items?_method=DELETE", "POST", "X-HTTP-Method-Override: DELETE\r\n"),
            Arrives(&["OPTIONS /api/v2/items?_method=DELETE"]),
        ),
        case(
            "a preflight for a method that is not mapped",
            preflight("/api/v2/items", "DELETE", ""),
            Refused(403),
        ),
        case(
            "a preflight for a method that is not served",
            preflight("/api/v2/items", "TRACE", ""),
            Refused(403),
        ),
        case("a preflight for a method in lower case", preflight("/api/v2/items", "post", ""), Refused(403)),
        case("a preflight for several methods", preflight("/api/v2/items", "GET, POST", ""), Refused(403)),
        case("a preflight for what is denied", preflight("/api/v2/internal", "GET", ""), Refused(403)),
        case(
            "a preflight for a path that is not mapped",
            preflight("/api/v2/nowhere", "GET", ""),
            Refused(403),
        ),
        case("a preflight for no path", preflight("*", "GET", ""), Refused(403)),
        case("a preflight for a dot segment", preflight("/api/v2/items/..", "GET", ""), Refused(400)),
        case(
            "a preflight with a body",
            preflight("/api/v2/items", "POST", "Content-Length: 4\r\n") + "evil",
            Refused(400),
        ),
        case(
            "a preflight that asks twice",
            preflight("/api/v2/items", "POST", "Access-Control-Request-Method: GET\r\n"),
            Refused(400),
        ),
        case(
            "a preflight of two origins",
            preflight("/api/v2/items", "POST", "Origin: https://other.example\r\n"),
            Refused(400),
        ),
        case(
            "OPTIONS with an origin alone",
            bare("OPTIONS /api/v2/items", "Origin: https://shop.example\r\n"),
            Refused(401),
        ),
        case(
            "GET that looks like a preflight",
            bare(
                "GET /api/v2/items",
                "Origin: https://shop.example\r\nAccess-Control-Request-Method: GET\r\n",
            ),
            Refused(401),
        ),
        case(
            "GET with an override",
            by(READER, "GET /api/v2/items/5", "X-HTTP-Method-Override: DELETE\r\n"),
            Arrives(&["GET /api/v2/items/5"]),
        ),
        case(
            "GET with _method",
            by(READER, "GET /api/v2/items/5?_method=DELETE", ""),
            Arrives(&["GET /api/v2/items/5?_method=DELETE"]),
        ),
        case(
            "PUT with an override",
            by(WRITER, "PUT /api/v2/items/5", "X-HTTP-Method-Override: DELETE\r\nContent-Length: 0\r\n"),
            Arrives(&["PUT /api/v2/items/5"]),
        ),
        // The map has no POST for a single item, whatever its override.
        case(
            "POST to an id as DELETE",
            by(WRITER, "POST /api/v2/items/5", "X-HTTP-Method-Override: DELETE\r\nContent-Length: 0\r\n"),
            Refused(403),
        ),
        case(
            "POST to an id as GET",
            by(WRITER, "POST /api/v2/items/5", "X-HTTP-Method-Override: GET\r\nContent-Length: 0\r\n"),
            Refused(403),
        ),
    ];
    for (name, line) in [
        ("override", "X-HTTP-Method-Override: DELETE\r\n"),
        ("override in lower case", "x-http-method-override: delete\r\n"),
        ("override in upper case", "X-HTTP-METHOD-OVERRIDE: DELETE\r\n"),
        ("override with underscores", "X_HTTP_Method_Override: DELETE\r\n"),
        ("override with one underscore", "X-HTTP-Method_Override: DELETE\r\n"),
        ("override with dots", "X.HTTP.Method.Override: DELETE\r\n"),
        ("override twice", "X-HTTP-Method-Override: POST\r\nX-HTTP-Method-Override: DELETE\r\n"),
        ("override in a list", "X-HTTP-Method-Override: POST, DELETE\r\n"),
        ("override that is empty", "X-HTTP-Method-Override:\r\n"),
        ("another override", "X-HTTP-Method: DELETE\r\n"),
        ("a third override", "X-Method-Override: DELETE\r\n"),
        (
            "the gateway's override named away",
            "Connection: X-HTTP-Method-Override\r\nX-HTTP-Method-Override: DELETE\r\n",
        ),
    ] {
        cases.push(post(name, "/api/v2/items", line, "", CREATED));
    }
    for (name, target, arrives) in [
        ("_method in the query", "/api/v2/items?_method=DELETE", &["POST /api/v2/items?_method=DELETE"][..]),
        ("_method encoded", "/api/v2/items?%5Fmethod=DELETE", &["POST /api/v2/items?%5Fmethod=DELETE"]),
        (
            "_method after a space",
            "/api/v2/items?%20_method=DELETE",
            &["POST /api/v2/items?%20_method=DELETE"],
        ),
        (".method", "/api/v2/items?.method=DELETE", &["POST /api/v2/items?.method=DELETE"]),
        ("_method and NUL", "/api/v2/items?_method%00x=DELETE", &["POST /api/v2/items?_method%00x=DELETE"]),
    ] {
        cases.push(post(name, target, "", "", arrives));
    }
    for (name, kind, body) in [
        ("_method in a form", FORM, "_method=DELETE"),
        ("_method in a form twice", FORM, "_method=POST&_method=DELETE"),
        ("_method in JSON", "Content-Type: application/json\r\n", r#"{"_method":"DELETE"}"#),
        ("_method in JSON, escaped", "Content-Type: application/ld+json\r\n", r#"{"\u005fmethod":"DELETE"}"#),
        (
            "_method in a multipart form",
            "Content-Type: multipart/form-data; boundary=x\r\n",
            "--x\r\nContent-Disposition: form-data; name=\"_method\"\r\n\r\nDELETE\r\n--x--\r\n",
        ),
        (
            "_method and an override",
            "X-HTTP-Method-Override: DELETE\r\nContent-Type: application/x-www-form-urlencoded\r\n",
            "_method=DELETE",
        ),
    ] {
        cases.push(post(name, "/api/v2/items", kind, body, CREATED));
    }
    cases
}

#[test]
fn attacks_by_methods_fail() {
    start("").run_attacks(&cases());
}
