//! Requests that the backend may read differently from a server in front of it.

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use stockaj_gateway::internals::policy::map::AbilityMap;

use super::token_for;
use crate::model::generator::{Override, fill, requests};
use crate::model::{Laravel, Sent, seen};

/// A request with its token.
#[derive(Clone, Debug)]
pub struct Case {
    pub sent: Sent,
    pub token: String,
    pub framing: Framing,
}

/// The encoding of the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// HTTP/1.1, the body with Content-Length.
    Length,
    /// HTTP/1.1, the body in chunks.
    Chunked,
    /// The same, with a trailer that overrides the method.
    Trailer,
    /// HTTP/1.0.
    Old,
}

impl Case {
    fn new(sent: Sent, token: String, framing: Framing) -> Self {
        Self { sent, token: String::new(), framing }.with_token(token)
    }

    /// The same with another token; without a token if it is empty.
    pub fn with_token(mut self, token: String) -> Self {
        let own = |token: &str| format!("Bearer {token}");
        let earlier = own(&self.token);
        self.sent.fields.retain(|(name, value)| name != "Authorization" || *value != earlier);
        if !token.is_empty() {
            self.sent.fields.insert(0, ("Authorization".to_owned(), own(&token)));
        }
        Self { token, ..self }
    }

    /// The bytes of the message, for the case with this number.
    pub fn bytes(&self, number: usize) -> Vec<u8> {
        let Sent { method, target, fields, body } = &self.sent;
        let version = if self.framing == Framing::Old { "1.0" } else { "1.1" };
        let mut text = format!("{method} {target} HTTP/{version}\r\nX-Case: {number}\r\n");
        if !fields.iter().any(|(name, _)| name == "Host") {
            text += "Host: stockaj.example\r\n";
        }
        for (name, value) in fields {
            text += &format!("{name}: {value}\r\n");
        }
        match self.framing {
            Framing::Length | Framing::Old if body.is_empty() => text += "\r\n",
            Framing::Length | Framing::Old => {
                text += &format!("Content-Length: {}\r\n\r\n{body}", body.len())
            }
            Framing::Chunked | Framing::Trailer => {
                text += "Transfer-Encoding: chunked\r\n\r\n";
                // In two chunks that split the parameter's name.
                let (first, second) = body.split_at(body.len() / 2);
                for chunk in [first, second].into_iter().filter(|it| !it.is_empty()) {
                    text += &format!("{:x}\r\n{chunk}\r\n", chunk.len());
                }
                text += "0\r\n";
                if self.framing == Framing::Trailer {
                    text += "X-HTTP-Method-Override: DELETE\r\n";
                }
                text += "\r\n";
            }
        }
        text.into_bytes()
    }
}

/// Every spelling of a path that is meant for `{path}`, which begins with `/`.
const SPELLINGS: [&str; 63] = [
    "{path}",
    "{path}/",
    "{path}//",
    "{path}/.",
    "{path}/..",
    "{path}/./",
    "{path}/../5",
    "{path}%2F",
    "{path}%2f..",
    "{path}%2frestore",
    "{path}%2Fphotos",
    "{path}/restore",
    "{path}%5Crestore",
    "{path}\\restore",
    "{path}%00",
    "{path}%0A",
    "{path}%20",
    "{path}%09",
    "{path};x",
    "{path};/restore",
    "{path}%3B",
    "{path}%3Fx",
    "{path}%23x",
    "{path}#",
    "{path}#/photos",
    "{path}#?_method=DELETE",
    "{path}?x#y",
    "{path}?/../../x",
    "{path}.json",
    "{path}.php",
    "{path}/index.php",
    "{path}%C3%A9",
    "{path}%FF",
    "{path}%C0%AF",
    "{path}%25",
    "{path}%252F",
    "{path}%252e%252e",
    "{path}%",
    "{path}%zz",
    "/{path}",
    "//stockaj.example{path}",
    "/.{path}",
    "/./{path}",
    "/x/..{path}",
    "/%2e%2e{path}",
    "/..;{path}",
    "%2F{path}",
    "/index.php{path}",
    "/index.php/{path}",
    "/index.php/index.php{path}",
    "/index.php/.{path}",
    "/index.php%2F{path}",
    "/%69ndex.php{path}",
    "/index%2ephp{path}",
    "/%2569ndex.php{path}",
    "/INDEX.PHP{path}",
    "/index.php;x{path}",
    "/index.php?{path}",
    "/index.php#{path}",
    "http://stockaj.example{path}",
    "http://stockaj.example/index.php{path}",
    "http://other.example{path}",
    "https://stockaj.example{path}",
];

/// Modifications of the path itself.
const TRANSFORMATIONS: [fn(&str) -> String; 9] = [
    |path| path.replacen("api", "%61pi", 1),
    |path| path.replacen("api", "%2561pi", 1),
    |path| path.replacen("/v2/", "%2Fv2%2F", 1),
    |path| path.replacen("/v2/", "//v2/", 1),
    |path| path.replacen("/v2/", "/./v2/", 1),
    |path| path.replacen("/v2/", "/v1/../v2/", 1),
    str::to_uppercase,
    |path| path.bytes().skip(1).fold("/".to_owned(), |path, byte| format!("{path}%{byte:02X}")),
    |path| format!("/index.php{}", path.trim_start_matches('/')),
];

/// Values for an id.
const IDS: [&str; 24] = [
    "5",
    "search",
    "preferences",
    "..",
    ".",
    "...",
    "%2e%2e",
    ".%2E",
    "5%2Frestore",
    "5%2Fphotos",
    "..%2Fme",
    "5;x",
    ";",
    "5%0A",
    "5%20",
    "+",
    "5%3Fx=1",
    "5%23",
    "%2523",
    "caf%C3%A9",
    "%E2%80%AE",
    "%F0%9F%98%80",
    "5,6",
    "a%7Cb",
];

/// Fields by which some framework or proxy overrides the request line.
const FIELDS: [(&str, &str); 32] = [
    ("X-Original-URL", "/api/v2/instance"),
    ("X-Rewrite-URL", "/api/v2/instance"),
    ("X_Original_URL", "/api/v2/instance"),
    ("X-Original-URI", "/api/v2/instance"),
    ("X-Request-URI", "/api/v2/instance"),
    ("Request-URI", "/api/v2/instance"),
    ("Unencoded-URL", "/api/v2/instance"),
    ("IIS-WasUrlRewritten", "1"),
    ("Orig-Path-Info", "/api/v2/instance"),
    ("Path-Info", "/api/v2/instance"),
    ("Script-Name", "/api"),
    ("X-Forwarded-Prefix", "/index.php"),
    ("X-Forwarded-Path", "/api/v2/instance"),
    ("X-Forwarded-Host", "other.example/api/v2/instance?"),
    ("X-Forwarded-Uri", "/api/v2/instance"),
    ("X-Accel-Redirect", "/api/v2/instance"),
    ("X-Sendfile", "/etc/passwd"),
    ("Forwarded", "for=1;host=other.example;proto=https"),
    ("Proxy", "http://other.example"),
    ("Cookie", "laravel_session=abc; XSRF-TOKEN=def"),
    ("Cookie", "_method=DELETE"),
    ("Authorization", "Bearer 1|instance:manage+items:delete"),
    ("X-Authorization", "Bearer 1|instance:manage+items:delete"),
    ("Proxy-Authorization", "Bearer 1|instance:manage+items:delete"),
    ("Redirect-Http-Authorization", "Bearer 1|instance:manage+items:delete"),
    ("Authorization_", "Bearer 1|instance:manage+items:delete"),
    ("Connection", "Authorization"),
    ("Connection", "X-HTTP-Method-Override, Host, Content-Length"),
    ("Upgrade", "h2c"),
    ("TE", "trailers"),
    ("Range", "bytes=0-1"),
    ("Host", "stockaj.example:80"),
];

/// Attempts to override the method of a POST.
fn overrides(verb: &'static str) -> Vec<Vec<Override>> {
    use Override::{Field, Form, Json, Multipart, Query};
    const FIELD: &str = "X-HTTP-Method-Override";
    let alone = [
        Field(FIELD, verb),
        Field("x-http-method-override", verb),
        Field("X_HTTP_Method_Override", verb),
        Field("X-HTTP_Method-Override", verb),
        Field("X.HTTP.Method.Override", verb),
        Field("X-HTTP-Method", verb),
        Field("X-Method-Override", verb),
        Field("X-Method", verb),
        Field("_method", verb),
        Field("Content-HTTP-Method-Override", verb),
        Query("_method", verb),
        Query("%5Fmethod", verb),
        Query("%5f%6Dethod", verb),
        Query(".method", verb),
        Query("%20_method", verb),
        Query("+_method", verb),
        Query("_method%00x", verb),
        Query("_method[]", verb),
        Query("_method[", verb),
        Query("_Method", verb),
        Query("a=b&_method=POST&_method", verb),
        Form("_method", verb),
        Form("%5Fmethod", verb),
        Form("_method=POST&_method", verb),
        Form("+.method", verb),
        Form("_method%00", verb),
        Multipart("_method", verb),
        Multipart(".method", verb),
        Json("_method", verb),
        Json("\\u005fmethod", verb),
        Json("_method\":\"POST\",\"_method", verb),
    ];
    let mut tries: Vec<Vec<Override>> = alone.into_iter().map(|it| vec![it]).collect();
    tries.extend([
        vec![Field(FIELD, "POST"), Field(FIELD, verb)],
        vec![Field(FIELD, verb), Field(FIELD, "POST")],
        vec![Field(FIELD, ""), Query("_method", verb)],
        vec![Field(FIELD, "0"), Form("_method", verb)],
        vec![Field(FIELD, "POST"), Json("_method", verb)],
        vec![Field("Connection", FIELD), Query("_method", verb)],
        vec![Field("Connection", FIELD), Field(FIELD, verb)],
        vec![Field("Connection", FIELD), Form("_method", verb)],
        vec![Query("_method", "POST"), Form("_method", verb)],
        vec![Query("_method", verb), Form("_method", "POST")],
        vec![Query("_method", verb), Field("Content-Type", "application/x-www-form-urlencoded")],
    ]);
    tries
}

/// Bodies whose type is spelled so that only some parsers recognise it.
const BODIES: [(&str, &str); 16] = [
    ("application/x-www-form-urlencoded; charset=UTF-8", "_method=DELETE"),
    ("APPLICATION/X-WWW-FORM-URLENCODED", "_method=DELETE"),
    ("application/x-www-form-urlencoded,text/plain", "_method=DELETE"),
    ("application/x-www-form-urlencoded", "_method=%20DELETE%0A"),
    ("application/x-www-form-urlencoded", "_method=delete"),
    ("application/x-www-form-urlencoded", "&&_method=DELETE&"),
    ("application/x-www-form-urlencoded", "_method"),
    (
        "multipart/form-data; boundary=\"B\"",
        "--B\r\nContent-Disposition: form-data; name=_method\r\n\r\nDELETE\r\n--B--\r\n",
    ),
    (
        "multipart/form-data; charset=x; boundary=B",
        "--B\r\ncontent-disposition: form-data; name='_method'\r\n\r\nDELETE\r\n--B--\r\n",
    ),
    (
        "multipart/form-data; boundary=B",
        "--B\r\nContent-Disposition: form-data; name=\"_method\"; filename=\"a\"\r\n\r\nDELETE\r\n--B--\r\n",
    ),
    ("application/vnd.api+json", "{\"_method\":\"DELETE\"}"),
    ("text/json", "{\"_method\":\" DELETE \"}"),
    ("application/json", "{\"_method\":[\"DELETE\"]}"),
    ("application/json", "{\"_method\":null}"),
    ("application/json;a=b", "[{\"_method\":\"DELETE\"}]"),
    ("text/plain", "_method=DELETE"),
];

/// All cases, deterministically.
pub fn all(map: &AbilityMap) -> Vec<Case> {
    let laravel = Laravel::with_routes_of(map);
    let mut cases = Vec::new();
    let mut add = |sent: Sent, token: &str, framing| {
        cases.push(Case::new(sent, token.to_owned(), framing));
    };
    // Each with a token that has exactly the abilities of the apparent request.
    let token = |method: &str, template: &str| {
        let dispatched = crate::model::Dispatched { verb: method.to_owned(), route: template.to_owned() };
        token_for(&dispatched.requirement(map))
    };

    for (number, (method, template)) in laravel.routes().iter().enumerate() {
        let token = token(method, template);
        let path = fill(template, &["5"; 4]);
        // Every spelling for some routes, a few spellings for each route.
        let is_main = ["/items/{id}", "/items", "/items/{id}/restore", "/reports/{*rest}", "/up", "/me"]
            .iter()
            .any(|end| template.ends_with(end) && !template.contains("renters"));
        for (index, spelling) in SPELLINGS.iter().enumerate() {
            if is_main || index % 8 == number % 8 {
                add(Sent::new(method, spelling.replace("{path}", &path)), &token, Framing::Length);
            }
        }
        for (index, transformation) in TRANSFORMATIONS.iter().enumerate() {
            if is_main || index % 3 == number % 3 {
                add(Sent::new(method, transformation(&path)), &token, Framing::Length);
            }
        }
        if template.contains('{') && is_main {
            for id in IDS {
                add(Sent::new(method, fill(template, &[id; 4])), &token, Framing::Length);
            }
        }
        // A method that the route may lack, with the token of its existing method, and without a token.
        for other in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"] {
            add(Sent::new(other, path.as_str()), &token, Framing::Length);
        }
        // Overrides that may be honoured: a POST with the token of the target verb, with a contradicting form or
        // another verb.
        if ["PUT", "PATCH", "DELETE"].contains(&method.as_str()) {
            let meant = Sent::new("POST", path.as_str()).field("X-HTTP-Method-Override", method);
            add(meant.clone(), &token, Framing::Length);
            add(Override::Form("_method", "POST").add_to(meant.clone()), &token, Framing::Length);
            add(Override::Query("_method", "GET").add_to(meant.clone()), &token, Framing::Length);
            add(meant.field("X-HTTP-Method-Override", "GET"), &token, Framing::Length);
        }
        // Preflights need no token; only preflights may pass without one.
        let preflight = Sent::new("OPTIONS", path.as_str())
            .field("Origin", "https://shop.example")
            .field("Access-Control-Request-Method", method);
        add(preflight.clone(), "", Framing::Length);
        add(preflight.field("X-HTTP-Method-Override", method), "", Framing::Length);
        add(Sent::new(method, path.as_str()), "", Framing::Length);
        add(Sent::new(method, path.as_str()), &token, Framing::Old);
    }

    let posts = || laravel.routes().iter().filter(|(method, _)| method == "POST");
    for (number, (_, template)) in posts().enumerate() {
        let token = token("POST", template);
        let post = || Sent::new("POST", fill(template, &["5"; 4]));
        let is_main = ["/items", "/photos", "/me", "/webhooks"].iter().any(|end| template.ends_with(end));
        for verb in ["GET", "DELETE"] {
            for (index, tries) in overrides(verb).iter().enumerate() {
                if is_main || index % 8 == number % 8 {
                    let sent = tries.iter().fold(post(), |sent, it| it.add_to(sent));
                    let has_body = !sent.body.is_empty();
                    add(sent.clone(), &token, Framing::Length);
                    if has_body && is_main {
                        add(sent, &token, Framing::Chunked);
                    }
                }
            }
        }
        for (content_type, body) in BODIES {
            let framing = if number % 2 == 0 { Framing::Length } else { Framing::Old };
            add(post().body(content_type, body), &token, framing);
        }
        add(post().body("text/plain", "x"), &token, Framing::Trailer);
        add(post().field("X-HTTP-Method-Override", "X-Y"), &token, Framing::Length);
    }

    for (method, template) in
        [("GET", "/api/v2/items"), ("GET", "/up"), ("POST", "/api/v2/items"), ("GET", "/x")]
    {
        for (name, value) in FIELDS {
            let sent = Sent::new(method, template).field(name, value);
            add(sent, &token(method, template), Framing::Length);
        }
    }

    for (sent, _) in seen() {
        let token = token(&sent.method, "/api/v2/items/{id}");
        add(sent, &token, Framing::Length);
    }

    // Random requests of the generator in addition.
    let config = Config { failure_persistence: None, ..Config::default() };
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(config, rng);
    let strategy = requests(laravel.routes());
    for _ in 0..800 {
        let sent = strategy.new_tree(&mut runner).unwrap().current();
        let (method, template) = &laravel.routes()[cases.len() % laravel.routes().len()];
        let own = laravel.routes().iter().find(|(method, template)| {
            *method == sent.method && sent.target.starts_with(template.split("/{").next().unwrap())
        });
        let (method, template) = own.unwrap_or(&(method.clone(), template.clone())).clone();
        cases.push(Case::new(sent, token(&method, &template), Framing::Length));
    }
    cases
}
