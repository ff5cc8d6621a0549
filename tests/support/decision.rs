//! Asks the decision listener in each of its styles, as a proxy does.

use std::net::{IpAddr, SocketAddr};

use super::Authority;
use super::client::{RawClient, Response};
use super::http2::{Http2Client, request};

/// The path of Envoy's gRPC method.
pub const CHECK: &str = "/envoy.service.auth.v3.Authorization/Check";

/// How a request is described.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// X-Forwarded-Method, -Uri, -Host and -Proto.
    Forwarded,
    /// X-Original-Method and X-Original-URI.
    Original,
    /// Below `/decision`.
    PathPrefix,
    /// `CheckRequest` with `headers`.
    Grpc,
    /// `CheckRequest` with `header_map`.
    GrpcRaw,
}

impl Style {
    /// All styles of one configuration: `style: path_prefix`, or `style: forwarded`.
    pub fn all(path_prefix: bool) -> &'static [Self] {
        if path_prefix {
            &[Self::PathPrefix, Self::Grpc]
        } else {
            &[Self::Forwarded, Self::Original, Self::Grpc, Self::GrpcRaw]
        }
    }

    fn is_grpc(self) -> bool {
        matches!(self, Self::Grpc | Self::GrpcRaw)
    }
}

/// The answer to a proxy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// The status of the decision.
    pub status: u16,
    /// By gRPC, `google.rpc.Status.code` or else the status of the call.
    pub code: Option<u32>,
    /// Over HTTP, the fields of the answer. By gRPC, the fields to set if allowed, and the client's if not.
    pub fields: Vec<(String, String)>,
    /// The fields to remove.
    pub removed: Vec<String>,
    /// By gRPC, the fields of the response to the client if allowed.
    pub to_client: Vec<(String, String)>,
    /// The body.
    pub body: String,
}

impl Decision {
    /// The value of the only field with that name.
    pub fn field(&self, name: &str) -> Option<&str> {
        let mut values = self.fields.iter().filter(|(its, _)| its == name).map(|(_, value)| &**value);
        values.next().filter(|_| values.next().is_none())
    }

    /// Whether the request may be forwarded.
    pub fn is_allowed(&self) -> bool {
        self.status == 200 && self.code.is_none_or(|code| code == 0)
    }
}

enum Connection {
    Http(Box<RawClient>),
    Http2(Box<Http2Client>),
}

/// A proxy with a connection to the decision listener.
pub struct Asker {
    style: Style,
    connection: Connection,
    /// `attributes.source`, and X-Forwarded-For over HTTP.
    pub source: Option<IpAddr>,
}

impl Asker {
    /// Connects. By gRPC that is HTTP/2 with prior knowledge.
    pub fn connect(address: SocketAddr, style: Style) -> Self {
        Self::over(
            style,
            match style.is_grpc() {
                true => Connection::Http2(Box::new(Http2Client::connect(address))),
                false => Connection::Http(Box::new(RawClient::connect(address))),
            },
        )
    }

    /// Connects with TLS.
    pub fn connect_tls(address: SocketAddr, style: Style, authority: &Authority) -> Self {
        Self::over(
            style,
            match style.is_grpc() {
                true => Connection::Http2(Box::new(Http2Client::connect_tls(address, authority))),
                false => Connection::Http(Box::new(RawClient::connect_tls(address, authority))),
            },
        )
    }

    /// Connects to a Unix socket.
    pub fn connect_unix(path: &std::path::Path, style: Style) -> Self {
        Self::over(
            style,
            match style.is_grpc() {
                true => Connection::Http2(Box::new(Http2Client::connect_unix(path))),
                false => Connection::Http(Box::new(RawClient::connect_unix(path))),
            },
        )
    }

    fn over(style: Style, connection: Connection) -> Self {
        Self { style, connection, source: Some("192.0.2.7".parse().unwrap()) }
    }

    /// Asks about a request of stockaj.example with these fields.
    pub fn ask(&mut self, method: &str, target: &str, fields: &[(&str, &str)]) -> Decision {
        let bytes: Vec<(&[u8], &[u8])> =
            fields.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())).collect();
        self.ask_of("stockaj.example", method, target, &bytes).expect("an answer")
    }

    /// The same for a bearer token.
    pub fn ask_with(&mut self, method: &str, target: &str, token: &str) -> Decision {
        self.ask(method, target, &[("authorization", &format!("Bearer {token}"))])
    }

    /// Asks about any bytes; `None` if the connection is closed instead of an answer.
    pub fn ask_of(
        &mut self,
        host: &str,
        method: &str,
        target: &str,
        fields: &[(&[u8], &[u8])],
    ) -> Option<Decision> {
        let (style, source) = (self.style, self.source);
        match &mut self.connection {
            Connection::Http(client) => {
                let head = head(style, source, host, method, target, fields);
                client.try_send(head).ok()?;
                client.try_response(style == Style::PathPrefix && method == "HEAD").ok().map(over_http)
            }
            Connection::Http2(client) => {
                let raw = style == Style::GrpcRaw;
                let message = check_request(&Checked { method, target, host, fields, source, raw });
                Some(called(&call(client, CHECK, &frame(&message))))
            }
        }
    }
}

/// The head of a proxy's own request.
fn head(
    style: Style,
    source: Option<IpAddr>,
    host: &str,
    method: &str,
    target: &str,
    fields: &[(&[u8], &[u8])],
) -> Vec<u8> {
    let mut head = match style {
        Style::PathPrefix => format!("{method} /decision{target} HTTP/1.1\r\nHost: {host}\r\n"),
        Style::Original => format!(
            "GET /auth HTTP/1.1\r\nHost: {host}\r\nX-Original-Method: {method}\r\nX-Original-URI: {target}\r\n"
        ),
        _ => format!(
            "GET /auth HTTP/1.1\r\nHost: decision\r\nX-Forwarded-Method: {method}\r\nX-Forwarded-Uri: {target}\r\n\
             X-Forwarded-Host: {host}\r\nX-Forwarded-Proto: https\r\n"
        ),
    };
    if let Some(source) = source {
        head += &format!("X-Forwarded-For: {source}\r\n");
    }
    let mut head = head.into_bytes();
    for (name, value) in fields {
        head.extend([name, &b": "[..], value, b"\r\n"].concat());
    }
    head.extend(b"\r\n");
    head
}

/// The decision in an answer over HTTP.
pub fn over_http(response: Response) -> Decision {
    let body = response.text().to_owned();
    let removed = response.field("x-envoy-auth-headers-to-remove").map(str::to_owned);
    Decision {
        status: response.status,
        code: None,
        fields: response.fields.0.into_iter().map(|(name, value)| (name.to_lowercase(), value)).collect(),
        removed: removed.iter().flat_map(|names| names.split(',')).map(str::to_owned).collect(),
        to_client: Vec::new(),
        body,
    }
}

/// Calls a method of gRPC with these bytes as its body.
pub fn call(client: &mut Http2Client, path: &str, body: &[u8]) -> Response {
    let fields = [("content-type", "application/grpc"), ("te", "trailers")];
    if body.is_empty() {
        return client.request("POST", path, &fields, b"").answer();
    }
    client.upload(path, &fields, body, [65_535; 2]).answer()
}

/// The decision in the response to a call. A call that failed is a refusal without a status.
pub fn called(response: &Response) -> Decision {
    assert_eq!(response.status, 200, "{response:?}");
    assert_eq!(response.field("content-type"), Some("application/grpc"));
    let status = response.field("grpc-status").or_else(|| response.trailers.get("grpc-status"));
    let status: u32 = status.expect("grpc-status").parse().unwrap();
    if status != 0 {
        assert!(response.body.is_empty());
        return Decision { code: Some(status), ..Decision::default() };
    }
    assert_eq!(response.trailers.get("grpc-status"), Some("0"), "in trailers");
    let [0, a, b, c, d, message @ ..] = &response.body[..] else { panic!("{:?}", response.body) };
    assert_eq!(u32::from_be_bytes([*a, *b, *c, *d]) as usize, message.len());
    read_check_response(message)
}

/// The parts of a `CheckRequest`.
pub struct Checked<'a> {
    pub method: &'a str,
    pub target: &'a str,
    pub host: &'a str,
    pub fields: &'a [(&'a [u8], &'a [u8])],
    pub source: Option<IpAddr>,
    /// Whether the fields are in `header_map`.
    pub raw: bool,
}

/// An encoded `CheckRequest`, by the numbers of Envoy's definitions.
pub fn check_request(checked: &Checked<'_>) -> Vec<u8> {
    let mut http = [message(2, checked.method), message(4, checked.target)].concat();
    http.extend([message(5, checked.host), message(6, "http"), message(10, "HTTP/1.1")].concat());
    let pseudo: [(&[u8], &[u8]); 4] = [
        (b":method", checked.method.as_bytes()),
        (b":path", checked.target.as_bytes()),
        (b":authority", checked.host.as_bytes()),
        (b":scheme", b"http"),
    ];
    let fields = pseudo.iter().chain(checked.fields);
    if checked.raw {
        let lines: Vec<u8> = fields
            .flat_map(|(name, value)| message(1, [message(1, name), message(3, value)].concat()))
            .collect();
        http.extend(message(13, lines));
    } else {
        // Envoy joins the values of repeated names.
        let mut joined: Vec<(&[u8], Vec<u8>)> = Vec::new();
        for (name, value) in fields {
            match joined.iter_mut().find(|(its, _)| its == name) {
                Some((_, before)) => {
                    before.extend(if *name == b"cookie" { &b"; "[..] } else { b"," });
                    before.extend(*value);
                }
                None => joined.push((name, value.to_vec())),
            }
        }
        let entry =
            |(name, value): (&[u8], Vec<u8>)| message(3, [message(1, name), message(2, value)].concat());
        http.extend(joined.into_iter().flat_map(entry));
    }
    let mut attributes = Vec::new();
    if let Some(source) = checked.source {
        let socket_address = [message(2, source.to_string()), vec![3 << 3, 80]].concat();
        attributes.extend(message(1, message(1, message(1, socket_address))));
    }
    attributes.extend(message(4, message(2, http)));
    message(1, attributes)
}

/// The bytes of a call with one message.
pub fn frame(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap();
    [&[0][..], &length.to_be_bytes(), message].concat()
}

/// A field with this number that is a text or a message.
pub fn message(number: u8, content: impl AsRef<[u8]>) -> Vec<u8> {
    let content = content.as_ref();
    let mut bytes = vec![number << 3 | 2];
    let mut length = content.len();
    while length >= 128 {
        bytes.push((length % 128) as u8 | 128);
        length /= 128;
    }
    bytes.push(length as u8);
    bytes.extend(content);
    bytes
}

/// The fields of a message: their number and their content, or their value.
fn read(mut bytes: &[u8]) -> Vec<(u64, Result<&[u8], u64>)> {
    fn varint(bytes: &mut &[u8]) -> u64 {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let (first, rest) = bytes.split_first().unwrap();
            *bytes = rest;
            number |= u64::from(first & 127) << shift;
            if first & 128 == 0 {
                break;
            }
        }
        number
    }
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes);
        let value = varint(&mut bytes);
        fields.push((
            key >> 3,
            match key & 7 {
                0 => Err(value),
                2 => {
                    let (content, rest) = bytes.split_at(usize::try_from(value).unwrap());
                    bytes = rest;
                    Ok(content)
                }
                other => panic!("wire type {other}"),
            },
        ));
    }
    fields
}

/// The contents of the fields with this number.
fn contents(bytes: &[u8], number: u64) -> Vec<&[u8]> {
    read(bytes).into_iter().filter(|(its, _)| *its == number).map(|(_, content)| content.unwrap()).collect()
}

fn number(bytes: &[u8], field: u64) -> u64 {
    let found = read(bytes).into_iter().find(|(its, _)| *its == field);
    found.map_or(0, |(_, value)| value.unwrap_err())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// The fields of options with this number, and whether each is appended.
fn options(bytes: &[u8], number_of: u64) -> Vec<((String, String), bool)> {
    let option = |option| {
        let [header] = contents(option, 1)[..] else { panic!("{option:?}") };
        let [append] = contents(option, 2)[..] else { panic!("append must be present: {option:?}") };
        let value = contents(header, 2).first().map_or(String::new(), |value| text(value));
        ((text(contents(header, 1)[0]), value), number(append, 1) == 1)
    };
    contents(bytes, number_of).into_iter().map(option).collect()
}

/// The fields for a request or a response that is forwarded. Each name must be replaced first, except those that are
/// joined with the backend's.
fn forwarded_options(bytes: &[u8], number_of: u64, joined: &[&str]) -> Vec<(String, String)> {
    let mut all: Vec<(String, String)> = Vec::new();
    for ((name, value), append) in options(bytes, number_of) {
        let is_appended = all.iter().any(|(its, _)| *its == name) || joined.contains(&&*name);
        assert_eq!(append, is_appended, "{name} must replace Envoy's first");
        all.push((name, value));
    }
    all
}

/// The fields for a refused client, of which Envoy drops those that are appended.
fn denied_options(bytes: &[u8]) -> Vec<(String, String)> {
    let all = options(bytes, 2).into_iter();
    all.inspect(|(field, append)| assert!(!append, "{field:?} must not be appended"))
        .map(|(field, _)| field)
        .collect()
}

fn read_check_response(bytes: &[u8]) -> Decision {
    let code = contents(bytes, 1).first().map_or(0, |status| number(status, 1));
    let code = Some(u32::try_from(code).unwrap());
    let (denied, ok) = (contents(bytes, 2), contents(bytes, 3));
    match (&denied[..], &ok[..]) {
        ([denied], []) => {
            assert_ne!(code, Some(0));
            Decision {
                status: u16::try_from(number(contents(denied, 1)[0], 1)).unwrap(),
                code,
                fields: denied_options(denied),
                removed: Vec::new(),
                to_client: Vec::new(),
                body: contents(denied, 3).first().map_or(String::new(), |body| text(body)),
            }
        }
        ([], [ok]) => {
            assert_eq!(code, Some(0));
            Decision {
                status: 200,
                code,
                fields: forwarded_options(ok, 2, &[]),
                removed: contents(ok, 5).into_iter().map(text).collect(),
                to_client: forwarded_options(ok, 6, &["access-control-expose-headers", "link", "vary"]),
                body: String::new(),
            }
        }
        other => panic!("{other:?}"),
    }
}
