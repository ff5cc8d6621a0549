//! Judges whether a request may reach the backend, parsed as leniently as Laravel does.
//!
//! Independent of the gateway's own parsers: a table of the map's requirements, one decoding step, the last `Bearer`,
//! and the override before the method.

use super::ABILITIES;
use crate::support::Request;

/// A value that no request may carry to the backend.
pub(super) const EVIL: &str = "evil";

/// The requirements of the maps of these tests. `{}` is one segment.
const NEEDED: [(&str, &str, &[&str]); 12] = [
    ("GET", "up", &[]),
    ("GET", "open/{}", &[]),
    ("GET", "open/{}/{}", &[]),
    ("GET", "api/v2/items", &["items:read"]),
    ("POST", "api/v2/items", &["items:create"]),
    ("GET", "api/v2/items/{}", &["items:read"]),
    ("PUT", "api/v2/items/{}", &["items:update"]),
    ("PATCH", "api/v2/items/{}", &["items:update"]),
    ("DELETE", "api/v2/items/{}", &["items:delete"]),
    ("POST", "api/v2/kiosk/scan", &["kiosk:scan"]),
    ("POST", "api/v2/exports", &["items:read", "rents:read"]),
    ("GET", "api/v2/internal", &["nobody has this"]),
];

/// Names whose values an untrusted client must not choose; a trailing `-` marks a prefix.
const OURS: [&str; 11] = [
    "http-forwarded",
    "http-proxy",
    "http-x-forwarded-",
    "http-x-http-method",
    "http-x-original-",
    "http-x-real-ip",
    "http-x-rewrite-url",
    "http-x-token-abilities",
    "http-x-token-id",
    "http-x-token-name",
    "http-x-workspace-id",
];

/// The fault of a request that has arrived, if any.
pub(super) fn judge(request: &Request) -> Result<(), String> {
    let evil = |(name, value): &&(String, String)| value.contains(EVIL) || name.contains(EVIL);
    match request.fields.0.iter().chain(&request.trailers.0).find(evil) {
        Some((name, value)) => Err(format!("{name}: {value}")),
        None => judge_damaged(request),
    }
}

/// The same, but `evil` is permitted in harmless places.
pub(super) fn judge_damaged(request: &Request) -> Result<(), String> {
    let method = method(request)?;
    let path = path(&request.target);
    if is_preflight(request) {
        return fields(request);
    }
    let abilities = abilities(request)?;
    match needed(&method, &path) {
        Some([]) => {}
        Some(needed) => {
            let granted = abilities.ok_or("no known token")?;
            let lacks = |ability: &&&str| !granted.contains(ability) && granted != ["*"];
            if let Some(ability) = needed.iter().find(lacks) {
                return Err(format!("{method} {path} asks for {ability}"));
            }
            no_session(request)?;
        }
        // A route that the backend lacks grants nothing; a known token is still required.
        None => {
            abilities.ok_or("no known token, and no public route")?;
            no_session(request)?;
        }
    }
    fields(request)
}

/// Whether it is a preflight without credentials, which Laravel responds to before it authenticates. Laravel dispatches
/// no OPTIONS as another method.
fn is_preflight(request: &Request) -> bool {
    let has = |folded| values(request, folded).next().is_some();
    request.method == "OPTIONS"
        && request.body.is_empty()
        && values(request, "http-origin").count() == 1
        && values(request, "http-access-control-request-method").count() == 1
        && !["http-authorization", "http-cookie", "http-php-auth-user", "http-php-auth-digest"]
            .into_iter()
            .any(has)
}

/// The method of a request in Laravel.
fn method(request: &Request) -> Result<String, String> {
    let overrides: Vec<&str> = values(request, "http-x-http-method-override").collect();
    match (&*request.method, &overrides[..]) {
        // GET routes serve HEAD.
        ("HEAD", []) => Ok("GET".to_owned()),
        ("POST", ["POST"]) => Ok("POST".to_owned()),
        ("POST", _) => Err(format!("a POST that may be another verb: {overrides:?}")),
        (method, []) => Ok(method.to_owned()),
        (method, _) => Err(format!("{method} with an override: {overrides:?}")),
    }
}

/// The path that Laravel matches: without query and fragment, decoded once, without leading and trailing slashes and
/// without the front controller's name.
fn path(target: &str) -> String {
    let path = target.split(['?', '#']).next().unwrap_or_default();
    let mut decoded = Vec::new();
    let mut rest = path.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let hex = tail.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        match (byte, hex.and_then(|digits| u8::from_str_radix(digits, 16).ok())) {
            (b'%', Some(byte)) => {
                decoded.push(byte);
                rest = &tail[2..];
            }
            _ => {
                decoded.push(byte);
                rest = tail;
            }
        }
    }
    let decoded = String::from_utf8_lossy(&decoded).into_owned();
    let path = decoded.trim_start_matches('/');
    path.strip_prefix("index.php").unwrap_or(path).trim_matches('/').to_owned()
}

fn needed(method: &str, path: &str) -> Option<&'static [&'static str]> {
    let segments: Vec<&str> = path.split('/').collect();
    let fits = |pattern: &str| {
        let pattern: Vec<&str> = pattern.split('/').collect();
        pattern.len() == segments.len() && pattern.iter().zip(&segments).all(|(p, s)| *p == "{}" || p == s)
    };
    NEEDED.iter().find(|(its, pattern, _)| *its == method && fits(pattern)).map(|(_, _, needed)| *needed)
}

/// The abilities of the token that Laravel finds: the text after the last `Bearer `, up to a comma, in all joined
/// lines.
fn abilities(request: &Request) -> Result<Option<&'static [&'static str]>, String> {
    let lines: Vec<&str> = values(request, "http-authorization").collect();
    let [] = lines[..] else {
        let joined = lines.join(", ");
        let lower = joined.to_ascii_lowercase();
        let Some(start) = lower.rfind("bearer ") else { return Ok(None) };
        let token = joined[start + "bearer ".len()..].split(',').next().unwrap_or_default();
        return Ok(ABILITIES.iter().find(|(known, _)| *known == token).map(|(_, abilities)| *abilities));
    };
    Ok(None)
}

/// Laravel's guard checks a session before a token.
fn no_session(request: &Request) -> Result<(), String> {
    match values(request, "http-cookie").next() {
        Some(cookie) => Err(format!("a session beside a token: {cookie}")),
        None => Ok(()),
    }
}

fn fields(request: &Request) -> Result<(), String> {
    for (name, value) in request.fields.0.iter().chain(&request.trailers.0) {
        if name.contains('_') {
            return Err(format!("a name that folds: {name}"));
        }
        // A client may choose the host.
        let is_host = fold(name) == "http-x-forwarded-host" && request.fields.all("host").eq([&**value]);
        if value.contains(EVIL) && is_ours(&fold(name)) && !is_host {
            return Err(format!("{name}: {value}"));
        }
    }
    for name in ["http-x-forwarded-for", "http-x-forwarded-proto", "http-x-forwarded-host", "http-host"] {
        let values: Vec<&str> = values(request, name).collect();
        let [_] = values[..] else { return Err(format!("{name}: {values:?}")) };
    }
    let lengths = request.fields.all("content-length").count();
    let encodings: Vec<&str> = request.fields.all("transfer-encoding").collect();
    match (lengths, &encodings[..]) {
        (0 | 1, []) | (0, ["chunked"]) => Ok(()),
        _ => Err(format!("framed by {lengths} lengths and {encodings:?}")),
    }
}

fn is_ours(folded: &str) -> bool {
    OURS.iter().any(|ours| *ours == folded || ours.ends_with('-') && folded.starts_with(ours))
}

/// The values of a field by its name in PHP.
fn values<'a>(request: &'a Request, folded: &'a str) -> impl Iterator<Item = &'a str> {
    request.fields.0.iter().filter(move |(name, _)| fold(name) == folded).map(|(_, value)| value.as_str())
}

/// Maps every character of a name other than letters and digits to `-`, ignoring case.
fn fold(name: &str) -> String {
    let mut folded = String::from("http-");
    folded.extend(
        name.chars().map(|it| if it.is_ascii_alphanumeric() { it.to_ascii_lowercase() } else { '-' }),
    );
    folded
}

#[test]
fn judge_rejects_every_harmful_request() {
    let judged = |head: &str| {
        let mut stream = head.as_bytes();
        let head = crate::support::wire::Head::read(&mut stream).unwrap().unwrap();
        judge(&Request::new(head, 0))
    };
    let ours = "Host: a\r\nX-Forwarded-For: b\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: a\r\n";
    for (good, request, lines) in [
        (true, "GET /up", ""),
        (true, "GET /api/v2/items?x=/api/v2/internal", "Authorization: Bearer 1|Secret0Reader\r\n"),
        (true, "DELETE /api/v2/items/5", "Authorization: Bearer 3|Secret0User\r\n"),
        (true, "GET /api/v2/nothing", "Authorization: Bearer 1|Secret0Reader\r\n"),
        (false, "GET /api/v2/nothing", ""),
        (false, "GET /api/v2/items", ""),
        (false, "GET /api/v2/items", "Authorization: Bearer 6|Secret0Unknown\r\n"),
        (false, "GET /api/v2/items", "Authorization: Bearer 1|Secret0Reader, Bearer 6|Secret0Unknown\r\n"),
        (false, "GET /api/v2/items", "Authorization: Bearer 1|Secret0Reader\r\nCookie: session=1\r\n"),
        (false, "DELETE /api/v2/items/5", "Authorization: Bearer 1|Secret0Reader\r\n"),
        (false, "DELETE /api/v2/items%2F5", "Authorization: Bearer 1|Secret0Reader\r\n"),
        (false, "DELETE //index.php/%61pi/v2/items/5/#x", "Authorization: Bearer 1|Secret0Reader\r\n"),
        (false, "POST /api/v2/items", "Authorization: Bearer 2|Secret0Writer\r\n"),
        (true, "OPTIONS /api/v2/items", "Origin: https://a\r\nAccess-Control-Request-Method: GET\r\n"),
        (false, "OPTIONS /api/v2/items", "Origin: https://a\r\n"),
        (false, "OPTIONS /api/v2/items", "Access-Control-Request-Method: GET\r\n"),
        (false, "GET /api/v2/items", "Origin: https://a\r\nAccess-Control-Request-Method: GET\r\n"),
        (
            false,
            "OPTIONS /api/v2/items",
            "Origin: https://a\r\nAccess-Control-Request-Method: GET\r\nCookie: session=1\r\n",
        ),
        (
            false,
            "OPTIONS /api/v2/items",
            "Origin: https://a\r\nAccess-Control-Request-Method: GET\r\nPHP-Auth-Digest: Bearer 1\r\n",
        ),
        (false, "GET /up", "X-HTTP-Method-Override: DELETE\r\n"),
        (false, "GET /up", "X-Other: evil\r\n"),
        (false, "GET /up", "X_Other: 1\r\n"),
        (false, "GET /up", "X.Forwarded.For: 1\r\n"),
        (false, "GET /up", "Content-Length: 1\r\nContent-Length: 1\r\n"),
        (false, "GET /up", "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n"),
    ] {
        let verdict = judged(&format!("{request} HTTP/1.1\r\n{ours}{lines}\r\n"));
        assert_eq!(verdict.is_ok(), good, "{request} {lines}: {verdict:?}");
    }
}
