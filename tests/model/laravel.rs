//! A model of how nginx, PHP and Laravel choose a route.

use http::Method;
use stockaj_gateway::internals::policy::ability::Requirement;
use stockaj_gateway::internals::policy::map::AbilityMap;

/// A request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    pub method: String,
    pub target: String,
    pub fields: Vec<(String, String)>,
    pub body: String,
}

impl Sent {
    /// A request without fields and body.
    pub fn new(method: &str, target: impl Into<String>) -> Self {
        Self { method: method.to_owned(), target: target.into(), fields: Vec::new(), body: String::new() }
    }

    /// The same with an additional field.
    pub fn field(mut self, name: &str, value: &str) -> Self {
        self.fields.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The same with a body.
    pub fn body(self, content_type: &str, body: &str) -> Self {
        Self { body: body.to_owned(), ..self.field("Content-Type", content_type) }
    }

    /// The values of every field with that name.
    fn all<'a>(&'a self, name: &'a str) -> impl DoubleEndedIterator<Item = &'a str> {
        let named = self.fields.iter().filter(move |(it, _)| it.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.as_str())
    }
}

/// A request that Laravel dispatched to a controller.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Dispatched {
    pub verb: String,
    /// The template as the map spells it: `/api/v2/items/{id}`.
    pub route: String,
}

impl Dispatched {
    /// The requirement in the map; `deny` without a route.
    pub fn requirement(&self, map: &AbilityMap) -> Requirement {
        let method: Method = self.verb.parse().unwrap();
        let mut routes = map.routes().filter(|route| route.template() == self.route);
        let rule = routes.next().and_then(|route| route.rule(&method));
        rule.map_or_else(Requirement::deny, |rule| rule.requirement.clone())
    }
}

/// Laravel 8 with Symfony 5.4 on PHP 8.2, behind nginx with the configuration of Laravel's manual.
pub struct Laravel {
    /// Verbs and templates, in the order of matching.
    routes: Vec<(String, String)>,
}

impl Laravel {
    /// The application with the routes of a map.
    pub fn with_routes_of(map: &AbilityMap) -> Self {
        let routes = map.routes().flat_map(|route| {
            route.rules().map(|(method, _)| (method.to_string(), route.template().to_owned()))
        });
        Self { routes: routes.collect() }
    }

    /// Its routes: verb and template, in the order of matching.
    pub fn routes(&self) -> &[(String, String)] {
        &self.routes
    }

    /// The route that is dispatched to a controller; `None` for a rejection, a 404, a 405, and an OPTIONS that Laravel
    /// answers itself.
    pub fn dispatches(&self, sent: &Sent) -> Option<Dispatched> {
        if !nginx_serves(sent) {
            return None;
        }
        let verb = verb(sent)?;
        let path = path(&sent.target)?;
        let served = if verb == "HEAD" { "GET" } else { &*verb };
        let (_, route) =
            self.routes.iter().find(|(it, template)| it == served && matches(template, &path))?;
        Some(Dispatched { verb, route: route.clone() })
    }
}

/// Whether nginx passes the request to `index.php`.
fn nginx_serves(sent: &Sent) -> bool {
    if !sent.method.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_' || byte == b'-')
        || sent.method == "TRACE"
        || sent.method == "CONNECT"
        || ["Host", "Authorization"].iter().any(|name| sent.all(name).nth(1).is_some())
    {
        return false;
    }
    let Some(origin) = origin_form(&sent.target) else { return false };
    if !origin.bytes().all(|byte| byte > b' ' && byte != 0x7f) {
        return false;
    }
    let Some(path) = normalised(origin.split(['?', '#']).next().unwrap_or_default()) else { return false };
    // `location ~ \.php$`: a script other than the front controller does not exist, but PHP looks for one in the parent
    // directories of the path.
    !path.ends_with(b".php") || path.starts_with(b"/index.php/") || path == b"/index.php"
}

/// Splits a target at its path. nginx skips spaces after it.
fn origin_form(target: &str) -> Option<&str> {
    let target = target.trim_end_matches(' ');
    if target.starts_with('/') {
        return Some(target);
    }
    let rest = ["http://", "https://"].iter().find_map(|scheme| {
        let (start, rest) = target.split_at_checked(scheme.len())?;
        start.eq_ignore_ascii_case(scheme).then_some(rest)
    })?;
    let (authority, _) = rest.split_once('/')?;
    let (host, port) = authority.split_once(':').unwrap_or((authority, ""));
    let is_host = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-');
    let is_authority =
        !host.is_empty() && host.bytes().all(is_host) && port.bytes().all(|byte| byte.is_ascii_digit());
    is_authority.then(|| &rest[authority.len()..])
}

/// The path by which nginx chooses a location: decoded, without dot segments and empty segments.
fn normalised(path: &str) -> Option<Vec<u8>> {
    let decoded = decode(path.as_bytes(), false)?;
    if decoded.contains(&0) {
        return None;
    }
    let mut kept: Vec<&[u8]> = Vec::new();
    let mut ends_with_slash = false;
    for segment in decoded.split(|&byte| byte == b'/').skip(1) {
        ends_with_slash = matches!(segment, b"" | b"." | b"..");
        match segment {
            b"" | b"." => {}
            b".." => {
                kept.pop()?;
            }
            other => kept.push(other),
        }
    }
    let mut path = vec![b'/'];
    path.extend(kept.join(&b'/'));
    if ends_with_slash && path.len() > 1 {
        path.push(b'/');
    }
    Some(path)
}

/// `rawurldecode`, or `None` with `lenient: false` if a `%` is not followed by two hex digits.
fn decode(text: &[u8], lenient: bool) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, others)) = rest.split_first() {
        let digits = others.get(..2).filter(|it| it.iter().all(u8::is_ascii_hexdigit) && byte == b'%');
        let value = digits.and_then(|it| u8::from_str_radix(std::str::from_utf8(it).ok()?, 16).ok());
        match value {
            Some(value) => {
                decoded.push(value);
                rest = &others[2..];
            }
            None if byte == b'%' && !lenient => return None,
            None => {
                decoded.push(byte);
                rest = others;
            }
        }
    }
    Some(decoded)
}

/// Symfony's path info, as Laravel matches it: cuts `#…` and the query, removes the front controller's name and
/// trailing slashes, and decodes the rest once. `None` if that is not UTF-8, which no pattern matches.
fn path(target: &str) -> Option<String> {
    const FRONT_CONTROLLER: &str = "/index.php";
    let origin = origin_form(target)?;
    let path = origin.split(['#', '?']).next()?;
    // Symfony looks for the name in the decoded target, and cuts that many characters, counting `%XX` as one.
    let is_named = decode(path.as_bytes(), true)?.starts_with(FRONT_CONTROLLER.as_bytes());
    let mut info = path;
    if is_named {
        for _ in 0..FRONT_CONTROLLER.len() {
            let encoded = info.as_bytes().first() == Some(&b'%')
                && info.as_bytes().get(1..3).is_some_and(|it| it.iter().all(u8::is_ascii_hexdigit));
            info = info.get(if encoded { 3 } else { 1 }..)?;
        }
    }
    let info = if info.starts_with('/') { info.to_owned() } else { format!("/{info}") };
    let trimmed = match info.trim_end_matches('/') {
        "" => "/",
        other => other,
    };
    String::from_utf8(decode(trimmed.as_bytes(), true)?).ok()
}

/// Whether the pattern that Symfony compiles from a template matches.
pub fn matches(template: &str, path: &str) -> bool {
    let (mut wanted, mut segments) = (template.split('/'), path.split('/'));
    loop {
        match (wanted.next(), segments.next()) {
            (None, None) => return true,
            (Some("{*rest}"), Some(first)) => return !first.is_empty() || segments.next().is_some(),
            (Some(it), Some(segment)) if it.starts_with('{') && !segment.is_empty() => {}
            (Some(it), Some(segment)) if it == segment => {}
            _ => return false,
        }
    }
}

/// Symfony's `getMethod`: PHP keeps the last of repeated fields, and Laravel enables method overrides. `None` if the
/// method is rejected.
fn verb(sent: &Sent) -> Option<String> {
    if sent.method != "POST" {
        return Some(sent.method.clone());
    }
    let wanted = match sent.all("X-HTTP-Method-Override").next_back() {
        Some(value) if !matches!(value, "" | "0") => Value::Text(value.to_owned()),
        _ => parameter(sent),
    };
    let verb = match wanted {
        Value::Text(text) => text.to_ascii_uppercase(),
        Value::Other => return Some("POST".to_owned()),
    };
    (!verb.is_empty() && verb.bytes().all(|byte| byte.is_ascii_uppercase())).then_some(verb)
}

/// The value of a parameter in PHP.
#[derive(Clone, Debug)]
enum Value {
    Text(String),
    /// A list, a number or null.
    Other,
}

/// `_method` in the body, otherwise in the query.
fn parameter(sent: &Sent) -> Value {
    let query = sent.target.split('#').next().and_then(|it| it.split_once('?')).map(|(_, query)| query);
    let content_type = sent.all("Content-Type").next_back().unwrap_or_default();
    let media_type = content_type.split([';', ',', ' ']).next().unwrap_or_default().to_ascii_lowercase();
    let in_body = if content_type.contains("/json") || content_type.contains("+json") {
        in_json(&sent.body)
    } else {
        match &*media_type {
            "application/x-www-form-urlencoded" => in_form(&sent.body),
            "multipart/form-data" => in_multipart(content_type, &sent.body),
            _ => None,
        }
    };
    // Two middlewares: TrimStrings, and ConvertEmptyStringsToNull.
    match in_body.or_else(|| in_form(query?)) {
        Some(Value::Text(text)) => match text.trim_matches([' ', '\t', '\n', '\r', '\0', '\x0b']) {
            "" => Value::Other,
            trimmed => Value::Text(trimmed.to_owned()),
        },
        Some(Value::Other) | None => Value::Other,
    }
}

fn in_json(body: &str) -> Option<Value> {
    let object: serde_json::Value = serde_json::from_str(body).ok()?;
    object.get("_method").map(|value| match value {
        serde_json::Value::String(text) => Value::Text(text.clone()),
        _ => Value::Other,
    })
}

/// The last `_method` of `application/x-www-form-urlencoded`.
fn in_form(form: &str) -> Option<Value> {
    let mut found = None;
    for pair in form.split('&') {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let text = |it: &str| decode(it.replace('+', " ").as_bytes(), true);
        let value = String::from_utf8_lossy(&text(value)?).into_owned();
        found = named_method(&text(name)?, value).or(found);
    }
    found
}

/// `value` if PHP registers `name` as `_method`.
fn named_method(name: &[u8], value: String) -> Option<Value> {
    let name = name.trim_ascii_start_of_spaces();
    let name = name.split(|&byte| byte == 0).next().unwrap_or_default();
    let bracket = name.iter().position(|&byte| byte == b'[').unwrap_or(name.len());
    let (name, index) = name.split_at(bracket);
    let folded: Vec<u8> =
        name.iter().map(|&byte| if matches!(byte, b'.' | b' ') { b'_' } else { byte }).collect();
    if folded != b"_method" {
        return None;
    }
    match index {
        [] => Some(Value::Text(value)),
        index if index.contains(&b']') => Some(Value::Other),
        _ => None,
    }
}

trait TrimSpaces {
    fn trim_ascii_start_of_spaces(&self) -> &Self;
}

impl TrimSpaces for [u8] {
    fn trim_ascii_start_of_spaces(&self) -> &Self {
        &self[self.iter().take_while(|&&byte| byte == b' ').count()..]
    }
}

/// The last `_method` of `multipart/form-data`; parses only what the generators produce.
fn in_multipart(content_type: &str, body: &str) -> Option<Value> {
    let (_, boundary) = content_type.split_once("boundary=")?;
    let boundary = boundary.trim_matches('"');
    let mut found = None;
    for part in body.split(&format!("--{boundary}")).skip(1) {
        let Some((head, value)) = part.split_once("\r\n\r\n") else { continue };
        let Some((_, name)) = head.split_once("name=") else { continue };
        if head.contains("filename=") {
            continue;
        }
        let name = match name.strip_prefix(['"', '\'']) {
            Some(quoted) => quoted.split(['"', '\'']).next(),
            None => name.split([';', '\r', ' ']).next(),
        };
        let value = value.strip_suffix("\r\n").unwrap_or(value).to_owned();
        found = named_method(name?.as_bytes(), value).or(found);
    }
    found
}
