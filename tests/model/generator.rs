//! Generates requests in the spellings of an attacker.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::Sent;

const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];

/// Values for a template's parameters.
const SEGMENTS: [&str; 20] = [
    "5",
    "17",
    "0f8fad5b-d9cb-469f-a165-70867728950e",
    "caf%C3%A9",
    "a%20b",
    "a+b",
    "a.b",
    "search",
    "preferences",
    "..",
    ".",
    "%2e%2E",
    "5%2Frestore",
    "5%2F..",
    "%252e%252e",
    "5;x",
    "5%0A",
    "5%3F",
    "5%23",
    "%FF",
];

/// Pieces to insert between segments.
const PIECES: [&str; 40] = [
    "/",
    "//",
    "/.",
    "/./",
    "/..",
    "/../",
    "%2F",
    "%2f..",
    "%5C",
    "\\",
    ";",
    ";a=b",
    "#",
    "#/../",
    "?",
    "%23",
    "%3F",
    "%00",
    "%0A",
    "%20",
    " ",
    "%C3%A9",
    "é",
    "%FF",
    "%",
    "%2",
    ".json",
    ".php",
    "/restore",
    "/photos",
    "/search",
    "5",
    "%35",
    "%2535",
    "\"",
    "|",
    "[",
    "{id}",
    "%252F",
    "%25%32%46",
];

/// Prefixes; mostly empty.
const PREFIXES: [&str; 13] = [
    "/index.php",
    "/%69ndex.php",
    "/index%2ephp",
    "/INDEX.php",
    "/index%252ephp",
    "/index.php/index.php",
    "/public/..",
    "/",
    "/.",
    "%2F",
    "http://stockaj.example",
    "HTTP://STOCKAJ.EXAMPLE:80",
    "http://other.example",
];

/// Any request that could be meant for one of the routes (verb and template), and many unusual ones.
pub fn requests(routes: &[(String, String)]) -> impl Strategy<Value = Sent> + use<> {
    // Where a route accepts POST, a method override may have an effect.
    let posts = routes.iter().filter(|(method, _)| method == "POST");
    let routes: Vec<_> = routes.iter().chain(posts.clone()).chain(posts).cloned().collect();
    let other_method = prop::option::weighted(0.2, select(&METHODS[..]));
    let prefix = prop::option::weighted(0.3, (select(&PREFIXES[..]), prop::bool::weighted(0.2)));
    let edits = prop::option::weighted(0.6, vec((0..10u8, any::<Index>(), select(&PIECES[..])), 1..4));
    let end = prop::option::weighted(0.1, select(&PIECES[..]));
    (select(routes), other_method, vec(select(&SEGMENTS[..]), 4), prefix, (edits, end), overrides()).prop_map(
        |((method, template), other_method, segments, prefix, (edits, end), overrides)| {
            let path = edits.into_iter().flatten().fold(fill(&template, &segments), edit);
            let path = path + end.unwrap_or_default();
            let target = match prefix {
                Some((prefix, true)) => format!("{prefix}{}", path.trim_start_matches('/')),
                Some((prefix, false)) => format!("{prefix}{path}"),
                None => path,
            };
            let sent = Sent::new(other_method.unwrap_or(&method), target);
            overrides.into_iter().fold(sent, |sent, it| it.add_to(sent))
        },
    )
}

/// The template with segments in place of its parameters.
pub fn fill(template: &str, segments: &[&str]) -> String {
    let mut segments = segments.iter();
    let filled = template.split('/').map(|it| match it.starts_with('{') {
        true => segments.next().unwrap_or(&"5"),
        false => it,
    });
    filled.collect::<Vec<_>>().join("/")
}

/// Changes the path somewhere or at its end: mostly inserts a piece or encodes a character.
fn edit(path: String, (kind, index, piece): (u8, Index, &str)) -> String {
    let characters: Vec<char> = path.chars().collect();
    let at = index.index(characters.len() + 1);
    let text = |characters: &[char]| characters.iter().collect::<String>();
    let (before, after) = (text(&characters[..at]), text(characters.get(at + 1..).unwrap_or_default()));
    let Some(&character) = characters.get(at) else { return before + piece };
    let encoded = |percent: &str| {
        let bytes = character.to_string().into_bytes();
        bytes.iter().map(|byte| format!("{percent}{byte:02x}")).collect::<String>()
    };
    let changed = match kind {
        0..=3 => format!("{piece}{character}"),
        4..=6 => encoded("%"),
        7 => encoded("%25"),
        8 if character.is_ascii_uppercase() => character.to_ascii_lowercase().into(),
        8 => character.to_ascii_uppercase().into(),
        _ => String::new(),
    };
    format!("{before}{changed}{after}")
}

/// An attempt to override the method.
#[derive(Clone, Debug)]
pub enum Override {
    /// A header field: its name and the verb.
    Field(&'static str, &'static str),
    /// A parameter in the query.
    Query(&'static str, &'static str),
    /// A parameter in an urlencoded body.
    Form(&'static str, &'static str),
    /// A part of a multipart body.
    Multipart(&'static str, &'static str),
    /// A member of a JSON object.
    Json(&'static str, &'static str),
}

impl Override {
    /// Adds the attempt to a request.
    pub fn add_to(&self, mut sent: Sent) -> Sent {
        match *self {
            Self::Field(name, verb) => sent.field(name, verb),
            Self::Query(name, verb) => {
                let mark = if sent.target.contains('?') { '&' } else { '?' };
                sent.target.push_str(&format!("{mark}{name}={verb}"));
                sent
            }
            Self::Form(name, verb) => {
                sent.body("application/x-www-form-urlencoded", &format!("a=b&{name}={verb}"))
            }
            Self::Multipart(name, verb) => {
                let head = format!("Content-Disposition: form-data; name=\"{name}\"");
                sent.body(
                    "multipart/form-data; boundary=B",
                    &format!("--B\r\n{head}\r\n\r\n{verb}\r\n--B--\r\n"),
                )
            }
            Self::Json(name, verb) => sent.body("application/json", &format!("{{\"{name}\":\"{verb}\"}}")),
        }
    }
}

fn overrides() -> impl Strategy<Value = Vec<Override>> {
    const VERBS: [&str; 9] = ["GET", "PUT", "PATCH", "DELETE", "delete", "PoSt", "HEAD", "", "X-Y"];
    const FIELDS: [&str; 6] = [
        "X-HTTP-Method-Override",
        "x-http-method-override",
        "X_HTTP_Method_Override",
        "X.HTTP-Method.Override",
        "X-HTTP-Method",
        "X-Method-Override",
    ];
    const PARAMETERS: [&str; 8] =
        ["_method", "_method", "%5Fmethod", ".method", "%20_method", "_method%00x", "_method[]", "_method["];
    const MEMBERS: [&str; 2] = ["_method", "\\u005fmethod"];
    let verb = || select(&VERBS[..]);
    let field = (select(&FIELDS[..]), verb()).prop_map(|(name, verb)| Override::Field(name, verb));
    let query = (select(&PARAMETERS[..]), verb()).prop_map(|(name, verb)| Override::Query(name, verb));
    // At most one body, since a second Content-Type would be a different attack.
    let body = prop_oneof![
        (select(&PARAMETERS[..]), verb()).prop_map(|(name, verb)| Override::Form(name, verb)),
        verb().prop_map(|verb| Override::Multipart("_method", verb)),
        (select(&MEMBERS[..]), verb()).prop_map(|(name, verb)| Override::Json(name, verb)),
    ];
    let now_and_then = |it: BoxedStrategy<Override>| prop::option::weighted(0.3, it);
    (now_and_then(field.boxed()), now_and_then(query.boxed()), now_and_then(body.boxed()))
        .prop_map(|(field, query, body)| field.into_iter().chain(query).chain(body).collect())
}
