//! Which header fields pass, which go, and which the gateway sets.
//!
//! One pass over the names finds what must go; then the gateway's own fields are set, so that nothing a client
//! sends can stand in their place (RFC 9110 section 7.6).

use http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_LENGTH, COOKIE, Entry, FORWARDED, HOST, HeaderName, TE,
    TRANSFER_ENCODING, VIA,
};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Version};

/// `X-Request-Id`
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// `X-Forwarded-For`
pub const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// `X-Forwarded-Proto`
pub const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// `X-Forwarded-Host`
pub const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
/// `X-HTTP-Method-Override`
pub const X_HTTP_METHOD_OVERRIDE: HeaderName = HeaderName::from_static("x-http-method-override");

/// The longest `X-Request-Id` that is taken over from a trusted peer, in bytes.
const LONGEST_REQUEST_ID: usize = 128;

/// What the gateway knows of a request and says in the fields that it sets.
#[derive(Debug)]
pub struct Forwarding<'a> {
    /// As the client sent it.
    pub method: &'a Method,
    /// As the client sent it, for `Via`.
    pub version: Version,
    /// The peer's address as text.
    pub client: &'a HeaderValue,
    /// Whether the client's connection is encrypted.
    pub encrypted: bool,
    /// Whether the peer is one whose forwarding fields are believed.
    pub trusted: bool,
    /// The request's id.
    pub request_id: &'a HeaderValue,
    /// What Host says behind the gateway, where it is not what the client sent.
    pub host: Option<&'a HeaderValue>,
    /// On a route that asks for a token [the field of the one that was decided on](super::bearer::Token::authorization);
    /// the client's cookies stay behind then, since a backend may put a session above a token. None on a
    /// `public` route, where Authorization and Cookie pass as they came.
    pub authorization: Option<HeaderValue>,
}

/// Turns the fields of a client's request into those that the backend gets. Says whether fields were dropped
/// in which a peer that is not trusted told for whom it forwards.
pub fn prepare_request(fields: &mut HeaderMap, forwarding: Forwarding<'_>) -> bool {
    let mut distrusted = false;
    let mut going = Vec::new();
    let mut wants_trailers = false;
    let mut has_connection = false;
    for name in fields.keys() {
        let goes = match fate(name.as_str()) {
            Fate::Passes => false,
            Fate::HopByHop => {
                has_connection |= *name == CONNECTION;
                wants_trailers |= *name == TE && accepts_trailers(fields);
                true
            }
            Fate::Forwarding => {
                // Many clients name their requests; that says nothing of a proxy between.
                distrusted |= !forwarding.trusted && *name != X_REQUEST_ID;
                !forwarding.trusted
            }
            Fate::NeverSent => true,
        };
        if goes {
            going.push(name.clone());
        }
    }
    if has_connection {
        name_options(fields, &mut going);
    }
    for name in &going {
        fields.remove(name);
    }
    if wants_trailers {
        // RFC 9110 section 10.1.4: TE goes with a Connection option of its name.
        fields.insert(TE, HeaderValue::from_static("trailers"));
        fields.insert(CONNECTION, HeaderValue::from_static("te"));
    }
    set_fields(fields, forwarding);
    distrusted
}

/// Turns the fields of the backend's answer into those that the client gets: hop-by-hop fields go, all else is
/// as it came.
///
/// # Errors
/// Says why the answer may not be passed on: two parsers would find its end in different places.
pub fn prepare_answer(status: StatusCode, fields: &mut HeaderMap) -> Result<(), &'static str> {
    let mut going: Vec<HeaderName> = Vec::new();
    let mut names_options = false;
    let (mut has_length, mut has_coding) = (false, false);
    for name in fields.keys() {
        if *name == CONTENT_LENGTH {
            has_length = true;
        } else if *name == CONNECTION {
            // What most backends send names nothing: it goes, and nothing else with it.
            names_options =
                !matches!(fields.get(CONNECTION).map(HeaderValue::as_bytes), Some(b"keep-alive" | b"close"))
                    || fields.get_all(CONNECTION).iter().nth(1).is_some();
            if names_options {
                going.push(CONNECTION);
            }
        } else if fate(name.as_str()) == Fate::HopByHop {
            has_coding |= *name == TRANSFER_ENCODING;
            going.push(name.clone());
        }
    }
    if has_coding {
        check_coding(status, fields, has_length)?;
    } else if has_length {
        check_length(status, fields)?;
    }
    if names_options {
        name_options(fields, &mut going);
    } else {
        fields.remove(CONNECTION);
    }
    for name in &going {
        fields.remove(name);
    }
    Ok(())
}

/// Of an answer with Transfer-Encoding. hyper takes every coding before `chunked`, or in its place, and passes
/// the body on without its name.
fn check_coding(status: StatusCode, fields: &HeaderMap, has_length: bool) -> Result<(), &'static str> {
    if has_length {
        return Err("both Content-Length and Transfer-Encoding");
    }
    let mut codings = fields.get_all(TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (Some(_), None) if status == StatusCode::NO_CONTENT => Err("204 with Transfer-Encoding"),
        (Some(coding), None) if coding.as_bytes().eq_ignore_ascii_case(b"chunked") => Ok(()),
        _ => Err("Transfer-Encoding other than chunked"),
    }
}

/// Of an answer with Content-Length. hyper merges equal ones, and reads none of them in an answer to HEAD.
fn check_length(status: StatusCode, fields: &mut HeaderMap) -> Result<(), &'static str> {
    let mut lengths = fields.get_all(CONTENT_LENGTH).iter();
    let (Some(length), None) = (lengths.next(), lengths.next()) else {
        return Err("several Content-Length fields");
    };
    let digits = length.as_bytes();
    // As many as 64 bits have for sure.
    if digits.is_empty() || digits.len() > 19 || !digits.iter().all(u8::is_ascii_digit) {
        return Err("malformed Content-Length");
    }
    if status == StatusCode::NO_CONTENT {
        if digits.iter().any(|&digit| digit != b'0') {
            return Err("204 with a body");
        }
        // RFC 9110 section 8.6: it may not be there at all.
        fields.remove(CONTENT_LENGTH);
    }
    Ok(())
}

/// The `X-Request-Id` that a trusted peer gave a request: one of letters, digits, `-`, `_`, `.`, `:`, `/`, `+`
/// and `=`, at most 128.
pub fn trusted_request_id(fields: &HeaderMap) -> Option<&HeaderValue> {
    let mut values = fields.get_all(X_REQUEST_ID).iter();
    let value = values.next().filter(|_| values.next().is_none())?;
    let is_fit = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.:/+=".contains(byte);
    let bytes = value.as_bytes();
    ((1..=LONGEST_REQUEST_ID).contains(&bytes.len()) && bytes.iter().all(is_fit)).then_some(value)
}

/// Takes away the trailer fields that may not pass, in either direction.
pub fn prepare_trailers(trailers: &mut HeaderMap) {
    let going: Vec<HeaderName> = trailers.keys().filter(|name| !trailer_allowed(name)).cloned().collect();
    for name in &going {
        trailers.remove(name);
    }
}

/// Whether a trailer field of this name may pass (RFC 9110 section 6.5.1): none that frames, routes,
/// authenticates or controls a message, and none that may not be in a head.
fn trailer_allowed(name: &HeaderName) -> bool {
    let name = name.as_str();
    !name.starts_with("content-")
        && !name.starts_with("if-")
        && !name.starts_with("access-control-")
        && fate(name) == Fate::Passes
        && !matches!(
            name,
            "accept-encoding"
                | "age"
                | "authorization"
                | "cache-control"
                | "cookie"
                | "date"
                | "expires"
                | "host"
                | "location"
                | "max-forwards"
                | "origin"
                | "pragma"
                | "range"
                | "retry-after"
                | "set-cookie"
                | "strict-transport-security"
                | "trailer"
                | "vary"
                | "via"
                | "warning"
                | "www-authenticate"
        )
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Passes,
    /// Concerns one connection only (RFC 9110 section 7.6.1).
    HopByHop,
    /// Says who forwarded the request for whom: believed from trusted peers.
    Forwarding,
    /// Passes from nobody.
    NeverSent,
}

/// `name` is in lower case, as [`HeaderName`] keeps it.
fn fate(name: &str) -> Fate {
    // CGI folds `-` and `_` into one, PHP `.` too: a name with an underscore goes, one with a dot goes where it
    // folds into a name that means something here.
    let mut has_dot = false;
    for byte in name.bytes() {
        match byte {
            b'_' => return Fate::NeverSent,
            b'.' => has_dot = true,
            _ => {}
        }
    }
    if has_dot {
        let folded = name.replace('.', "-");
        return if fate_of(&folded) == Fate::Passes && !is_kept(&folded) {
            Fate::Passes
        } else {
            Fate::NeverSent
        };
    }
    fate_of(name)
}

fn fate_of(name: &str) -> Fate {
    match name.as_bytes().first() {
        Some(b'c') if name == "connection" => Fate::HopByHop,
        // The gateway asks for the body when the request is permitted.
        Some(b'e') if name == "expect" => Fate::HopByHop,
        Some(b'f') if name == "forwarded" => Fate::Forwarding,
        Some(b'h') if name == "http2-settings" => Fate::HopByHop,
        Some(b'k') if name == "keep-alive" => Fate::HopByHop,
        Some(b'p') => match name {
            "proxy-connection" | "proxy-authenticate" | "proxy-authorization" => Fate::HopByHop,
            // CGI makes HTTP_PROXY of it, which HTTP clients of the backend obey.
            "proxy" => Fate::NeverSent,
            _ => Fate::Passes,
        },
        Some(b't') if name == "te" || name == "transfer-encoding" => Fate::HopByHop,
        Some(b'u') if name == "upgrade" => Fate::HopByHop,
        Some(b'x') => match name {
            "x-original-url"
            | "x-rewrite-url"
            | "x-forwarded-prefix"
            | "x-http-method-override"
            | "x-http-method"
            | "x-method-override"
            | "x-token-id"
            | "x-token-name"
            | "x-token-abilities"
            | "x-workspace-id" => Fate::NeverSent,
            "x-real-ip" | "x-request-id" => Fate::Forwarding,
            _ if name.starts_with("x-forwarded-") => Fate::Forwarding,
            _ => Fate::Passes,
        },
        _ => Fate::Passes,
    }
}

/// Whether `Connection` cannot name the field away: what decides who asks whom for what, what frames the body,
/// and what the gateway sets.
fn is_kept(name: &str) -> bool {
    *name == AUTHORIZATION
        || *name == HOST
        || *name == CONTENT_LENGTH
        || *name == COOKIE
        || *name == VIA
        || *name == FORWARDED
        || name.starts_with("content-")
        || matches!(fate_of(name), Fate::Forwarding | Fate::NeverSent)
}

/// Adds what every `Connection` line names (RFC 9110 section 7.6.1).
fn name_options(fields: &HeaderMap, going: &mut Vec<HeaderName>) {
    for option in options(fields, &CONNECTION) {
        if option.eq_ignore_ascii_case(b"close") || option.eq_ignore_ascii_case(b"keep-alive") {
            continue;
        }
        if let Ok(name) = HeaderName::from_bytes(option)
            && fields.contains_key(&name)
            && !is_kept(name.as_str())
        {
            going.push(name);
        }
    }
}

/// The members of a list in every line of a field, without parameters.
fn options<'a>(fields: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a [u8]> {
    fields
        .get_all(name)
        .iter()
        .flat_map(|line| line.as_bytes().split(|&byte| byte == b','))
        .map(<[u8]>::trim_ascii)
}

fn accepts_trailers(fields: &HeaderMap) -> bool {
    options(fields, &TE).any(|coding| coding.eq_ignore_ascii_case(b"trailers"))
}

fn set_fields(fields: &mut HeaderMap, forwarding: Forwarding<'_>) {
    // For those that are added, in one step.
    fields.reserve(6);
    let via = match forwarding.version {
        Version::HTTP_10 => "1.0 stockaj-gateway",
        Version::HTTP_2 => "2 stockaj-gateway",
        _ => "1.1 stockaj-gateway",
    };
    fields.append(VIA, HeaderValue::from_static(via));

    match fields.entry(X_FORWARDED_FOR) {
        Entry::Vacant(entry) => {
            entry.insert(forwarding.client.clone());
        }
        // One line: what reads only the first or the last of several would lose the chain.
        Entry::Occupied(mut entry) => {
            let lines: Vec<&[u8]> =
                entry.iter().chain([forwarding.client]).map(HeaderValue::as_bytes).collect();
            let chain = HeaderValue::from_bytes(&lines.join(&b", "[..]));
            entry.insert(chain.unwrap_or_else(|_| forwarding.client.clone()));
        }
    }
    if let Entry::Vacant(entry) = fields.entry(X_FORWARDED_PROTO) {
        entry.insert(HeaderValue::from_static(if forwarding.encrypted { "https" } else { "http" }));
    }
    if !fields.contains_key(X_FORWARDED_HOST)
        && let Some(host) = fields.get(HOST).cloned()
    {
        fields.insert(X_FORWARDED_HOST, host);
    }
    fields.insert(X_REQUEST_ID, forwarding.request_id.clone());
    if let Some(host) = forwarding.host {
        fields.insert(HOST, host.clone());
    }
    if let Some(authorization) = forwarding.authorization {
        fields.insert(AUTHORIZATION, authorization);
        fields.remove(COOKIE);
    }
    // Laravel takes the verb from here first, then from `_method` in the query or the body.
    if *forwarding.method == Method::POST {
        fields.insert(X_HTTP_METHOD_OVERRIDE, HeaderValue::from_static("POST"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(lines: &[(&str, &str)]) -> HeaderMap {
        lines
            .iter()
            .map(|(name, value)| (name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(value).unwrap()))
            .collect()
    }

    fn lines(fields: &HeaderMap) -> Vec<(String, String)> {
        let mut lines: Vec<_> = fields
            .iter()
            .map(|(name, value)| (name.as_str().to_owned(), value.to_str().unwrap().to_owned()))
            .collect();
        lines.sort();
        lines
    }

    /// What the gateway sets on a GET of 192.0.2.1 for `Host: app`, in order.
    const SET: [(&str, &str); 6] = [
        ("host", "app"),
        ("via", "1.1 stockaj-gateway"),
        ("x-forwarded-for", "192.0.2.1"),
        ("x-forwarded-host", "app"),
        ("x-forwarded-proto", "http"),
        ("x-request-id", "r1"),
    ];

    struct Case<'a> {
        trusted: bool,
        method: Method,
        authorization: Option<&'a str>,
        host: Option<HeaderValue>,
    }

    const PUBLIC: Case<'_> = Case { trusted: false, method: Method::GET, authorization: None, host: None };

    impl Case<'_> {
        fn prepare(self, sent: &[(&str, &str)]) -> Vec<(String, String)> {
            self.prepare_and_tell(sent).0
        }

        fn prepare_and_tell(self, sent: &[(&str, &str)]) -> (Vec<(String, String)>, bool) {
            let mut fields = fields(sent);
            fields.append(HOST, HeaderValue::from_static("app"));
            let distrusted = prepare_request(
                &mut fields,
                Forwarding {
                    method: &self.method,
                    version: Version::HTTP_11,
                    client: &HeaderValue::from_static("192.0.2.1"),
                    encrypted: false,
                    trusted: self.trusted,
                    request_id: &HeaderValue::from_static("r1"),
                    host: self.host.as_ref(),
                    authorization: self.authorization.map(|it| HeaderValue::from_str(it).unwrap()),
                },
            );
            (lines(&fields), distrusted)
        }
    }

    #[test]
    fn what_a_stranger_tells_of_a_proxy_is_noticed() {
        for (name, noticed) in [
            ("X-Forwarded-Proto", true),
            ("Forwarded", true),
            ("X-Real-IP", true),
            ("X-Request-Id", false),
            ("X-Token-Id", false),
            ("Accept", false),
        ] {
            assert_eq!(PUBLIC.prepare_and_tell(&[(name, "a")]).1, noticed, "{name}");
            let trusted = Case { trusted: true, ..PUBLIC };
            assert!(!trusted.prepare_and_tell(&[(name, "a")]).1, "{name} of a trusted peer");
        }
    }

    /// [`SET`] with these lines instead of those of the same name.
    fn set_and(others: &[(&str, &str)]) -> Vec<(String, String)> {
        let mut expected: Vec<_> = SET
            .iter()
            .filter(|(name, _)| !others.iter().any(|(other, _)| other == name))
            .chain(others)
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        expected.sort();
        expected
    }

    #[test]
    fn what_passes_and_what_goes() {
        for (sent, passes) in [
            (&[][..], &[][..]),
            (
                &[
                    ("Accept", "a"),
                    ("Accept", "b"),
                    ("X-Custom", "c"),
                    ("X-User", "d"),
                    ("X.User", "e"),
                    ("Range", "f"),
                ],
                &[
                    ("accept", "a"),
                    ("accept", "b"),
                    ("x-custom", "c"),
                    ("x-user", "d"),
                    ("x.user", "e"),
                    ("range", "f"),
                ],
            ),
            // Authorization and cookies of a public route are as they came.
            (
                &[("Authorization", "bEARER  x"), ("Cookie", "s=1")],
                &[("authorization", "bEARER  x"), ("cookie", "s=1")],
            ),
            (
                &[
                    ("Connection", "keep-alive"),
                    ("Keep-Alive", "timeout=5"),
                    ("Proxy-Connection", "keep-alive"),
                    ("Proxy-Authenticate", "Basic"),
                    ("Proxy-Authorization", "Basic x"),
                    ("TE", "gzip"),
                    ("Transfer-Encoding", "chunked"),
                    ("Upgrade", "h2c"),
                    ("HTTP2-Settings", "x"),
                    ("Expect", "100-continue"),
                ],
                &[],
            ),
            (
                &[("Trailer", "X-Checksum"), ("Content-Length", "3")],
                &[("trailer", "X-Checksum"), ("content-length", "3")],
            ),
            (
                &[("TE", "gzip;q=1, Trailers"), ("Connection", "TE")],
                &[("te", "trailers"), ("connection", "te")],
            ),
            // What each line of Connection names.
            (
                &[
                    ("Connection", "close, X-A,,x-b "),
                    ("Connection", "X-C"),
                    ("X-A", "1"),
                    ("X-B", "2"),
                    ("X-C", "3"),
                    ("X-D", "4"),
                ],
                &[("x-d", "4")],
            ),
            (&[("Connection", "\"x-a\", é, ,"), ("X-A", "1")], &[("x-a", "1")]),
            // What Connection cannot name.
            (
                &[
                    ("Connection", "authorization, Host, content-length, content-type, cookie, via"),
                    ("Connection", "x-forwarded-for, x-request-id, x-token-id, x-http-method-override"),
                    ("Authorization", "Basic x"),
                    ("Content-Length", "3"),
                    ("Content-Type", "t"),
                    ("Cookie", "s=1"),
                ],
                &[
                    ("authorization", "Basic x"),
                    ("content-length", "3"),
                    ("content-type", "t"),
                    ("cookie", "s=1"),
                ],
            ),
            (&[("Via", "1.0 far")], &[("via", "1.0 far"), ("via", "1.1 stockaj-gateway")]),
        ] {
            assert_eq!(PUBLIC.prepare(sent), set_and(passes), "{sent:?}");
        }
    }

    #[test]
    fn a_client_says_nothing_about_who_forwards_for_whom() {
        for name in [
            "Forwarded",
            "X-Forwarded-For",
            "X-Forwarded-Proto",
            "X-Forwarded-Host",
            "X-Forwarded-Port",
            "X-Forwarded-Whatever",
            "X-Real-IP",
            "X-Request-Id",
        ] {
            assert_eq!(PUBLIC.prepare(&[(name, "1"), (name, "2")]), set_and(&[]), "{name}");
        }
    }

    #[test]
    fn nobody_says_what_only_the_gateway_may_or_what_rewrites_the_request() {
        for name in [
            "X-Token-Id",
            "X-Token-Name",
            "X-Token-Abilities",
            "X-Workspace-Id",
            "X-Original-URL",
            "X-Rewrite-URL",
            "X-Forwarded-Prefix",
            "X-HTTP-Method-Override",
            "X-HTTP-Method",
            "X-Method-Override",
            "Proxy",
            // Folded, these are others.
            "X_Token_Id",
            "X_Token-Id",
            "X-Token_Abilities",
            "X.Token.Id",
            "X.Token-Name",
            "X.Forwarded.For",
            "X-Forwarded.Proto",
            "X_Forwarded_For",
            "X.Request.Id",
            "X_Original_URL",
            "X.HTTP.Method.Override",
            "Content_Length",
            "Content.Length",
            "Content.Type",
            "Transfer.Encoding",
            "Transfer_Encoding",
            "Proxy.Authorization",
            "Any_Thing",
            "_",
        ] {
            for trusted in [false, true] {
                assert_eq!(
                    Case { trusted, ..PUBLIC }.prepare(&[(name, "1"), (name, "2")]),
                    set_and(&[]),
                    "{name}"
                );
            }
        }
    }

    #[test]
    fn a_trusted_peer_is_believed() {
        let trusted = Case { trusted: true, ..PUBLIC };
        let sent = [
            ("forwarded", "for=1"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "outside"),
            ("x-forwarded-port", "443"),
            ("x-real-ip", "198.51.100.7"),
        ];
        let chains = [("X-Forwarded-For", "198.51.100.7"), ("X-Forwarded-For", "203.0.113.1, 203.0.113.2")];
        let named_away =
            [("Connection", "X-Forwarded-For, X-Forwarded-Proto, Forwarded, X-Real-IP, X-Forwarded-Port")];
        let mut expected = sent.to_vec();
        expected.push(("x-forwarded-for", "198.51.100.7, 203.0.113.1, 203.0.113.2, 192.0.2.1"));
        assert_eq!(trusted.prepare(&[&sent[..], &chains, &named_away].concat()), set_and(&expected));
    }

    #[test]
    fn a_token_route_sends_the_token_and_no_cookie() {
        let case = Case { authorization: Some("Bearer 17|x"), ..PUBLIC };
        let sent = [("Authorization", "bearer   17|x"), ("Cookie", "s=1"), ("Cookie", "t=2")];
        assert_eq!(case.prepare(&sent), set_and(&[("authorization", "Bearer 17|x")]));
    }

    #[test]
    fn a_post_stays_a_post() {
        let sent = [("X-HTTP-Method-Override", "DELETE"), ("X-HTTP-Method-Override", "PUT")];
        for (method, expected) in [
            (Method::POST, &[("x-http-method-override", "POST")][..]),
            (Method::GET, &[]),
            (Method::PUT, &[]),
            (Method::DELETE, &[]),
        ] {
            assert_eq!(Case { method, ..PUBLIC }.prepare(&sent), set_and(expected));
        }
    }

    #[test]
    fn another_host_behind_the_gateway() {
        let case = Case { host: Some(HeaderValue::from_static("backend:8000")), ..PUBLIC };
        assert_eq!(case.prepare(&[]), set_and(&[("host", "backend:8000"), ("x-forwarded-host", "app")]));
    }

    #[test]
    fn an_answer_loses_what_concerns_the_connection_only() {
        let mut answer = fields(&[
            ("Connection", "X-Hop, Content-Length, close"),
            ("X-Hop", "1"),
            ("Keep-Alive", "timeout=5"),
            ("Proxy-Authenticate", "Basic"),
            ("Upgrade", "h2c"),
            ("Content-Length", "3"),
            ("Set-Cookie", "a=1"),
            ("Set-Cookie", "b=2"),
            ("Trailer", "X-Checksum"),
            ("Via", "1.1 php"),
            ("X-Forwarded-For", "x"),
            ("X_Odd", "y"),
            ("X-Request-Id", "z"),
        ]);
        assert_eq!(prepare_answer(StatusCode::OK, &mut answer), Ok(()));
        let expected = fields(&[
            ("Content-Length", "3"),
            ("Set-Cookie", "a=1"),
            ("Set-Cookie", "b=2"),
            ("Trailer", "X-Checksum"),
            ("Via", "1.1 php"),
            ("X-Forwarded-For", "x"),
            ("X_Odd", "y"),
            ("X-Request-Id", "z"),
        ]);
        assert_eq!(lines(&answer), lines(&expected));
    }

    #[test]
    fn an_answer_has_one_end() {
        const LENGTH: &str = "Content-Length";
        const CODING: &str = "Transfer-Encoding";
        for (why, status, lines) in [
            (None, 200, &[(LENGTH, "0")][..]),
            (None, 200, &[(LENGTH, "9999999999999999999")]),
            (None, 200, &[(CODING, "chunked")]),
            (None, 200, &[(CODING, "Chunked")]),
            (None, 200, &[]),
            (None, 204, &[]),
            (None, 204, &[(LENGTH, "0")]),
            (None, 304, &[(LENGTH, "5")]),
            (Some("both Content-Length and Transfer-Encoding"), 200, &[(LENGTH, "5"), (CODING, "chunked")]),
            (Some("both Content-Length and Transfer-Encoding"), 200, &[(CODING, "gzip"), (LENGTH, "5")]),
            (Some("several Content-Length fields"), 200, &[(LENGTH, "5"), (LENGTH, "5")]),
            (Some("malformed Content-Length"), 200, &[(LENGTH, "5, 5")]),
            (Some("malformed Content-Length"), 200, &[(LENGTH, "")]),
            (Some("malformed Content-Length"), 304, &[(LENGTH, "+5")]),
            (Some("malformed Content-Length"), 200, &[(LENGTH, "10000000000000000000")]),
            (Some("Transfer-Encoding other than chunked"), 200, &[(CODING, "gzip")]),
            (Some("Transfer-Encoding other than chunked"), 200, &[(CODING, "gzip, chunked")]),
            (Some("Transfer-Encoding other than chunked"), 200, &[(CODING, "chunked"), (CODING, "chunked")]),
            (Some("Transfer-Encoding other than chunked"), 200, &[(CODING, "")]),
            (Some("204 with Transfer-Encoding"), 204, &[(CODING, "chunked")]),
            (Some("204 with a body"), 204, &[(LENGTH, "5")]),
        ] {
            let mut answer = fields(lines);
            let found = prepare_answer(StatusCode::from_u16(status).unwrap(), &mut answer).err();
            assert_eq!(found, why, "{status} {lines:?}");
            if why.is_none() {
                assert!(!answer.contains_key(CODING), "{status} {lines:?}");
                assert!(status != 204 || !answer.contains_key(LENGTH), "{lines:?}");
            }
        }
    }

    #[test]
    fn trailers_that_may_not_pass() {
        for name in [
            "Authorization",
            "Host",
            "Content-Length",
            "Content-Type",
            "Content-Encoding",
            "Content-Range",
            "Transfer-Encoding",
            "Trailer",
            "TE",
            "Connection",
            "Cookie",
            "Set-Cookie",
            "Cache-Control",
            "Location",
            "If-Match",
            "Range",
            "Expect",
            "WWW-Authenticate",
            "Proxy-Authorization",
            "X-Forwarded-For",
            "Forwarded",
            "X-Request-Id",
            "X-Token-Id",
            "X-HTTP-Method-Override",
            "X_Checksum",
            "X.Token.Id",
            "Via",
            "Age",
            "Vary",
            "Access-Control-Allow-Origin",
        ] {
            assert!(!trailer_allowed(&name.parse().unwrap()), "{name}");
        }
        for name in
            ["X-Checksum", "Digest", "Repr-Digest", "Server-Timing", "ETag", "grpc-status", "Signature"]
        {
            assert!(trailer_allowed(&name.parse().unwrap()), "{name}");
        }
    }

    #[test]
    fn a_request_id_is_taken_over_where_it_is_one() {
        let long = "a".repeat(LONGEST_REQUEST_ID + 1);
        for (sent, taken) in [
            (&[][..], false),
            (&["0123-abc_X.y:z/+="], true),
            (&[&long[1..]], true),
            (&[&*long], false),
            (&[""], false),
            (&["a b"], false),
            (&["a,b"], false),
            (&["a\"b"], false),
            (&["a", "a"], false),
        ] {
            let lines: Vec<_> = sent.iter().map(|id| ("x-request-id", *id)).collect();
            assert_eq!(trusted_request_id(&fields(&lines)).is_some(), taken, "{sent:?}");
        }
    }
}
