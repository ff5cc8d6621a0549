//! A whole connection: any bytes pass the scanner and hyper into a gateway with one cached token and neither backend
//! nor introspector.
//!
//! A naive parser parses the bytes that the scanner accepts. hyper must parse the same messages from them, and the
//! gateway must decide on each message by the contract.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Uri, Version};
use http_body_util::{BodyExt, Empty};
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use stockaj_gateway::internals::backend::forward::Backend;
use stockaj_gateway::internals::client::Connector;
use stockaj_gateway::internals::client::pool::Pool;
use stockaj_gateway::internals::config;
use stockaj_gateway::internals::config::settings::Destination;
use stockaj_gateway::internals::downstream::Downstream;
use stockaj_gateway::internals::gateway::Gateway;
use stockaj_gateway::internals::gateway::tunnel::TunnelSlot;
use stockaj_gateway::internals::limits::Limiter;
use stockaj_gateway::internals::policy::ability::{Abilities, RequirementKind};
use stockaj_gateway::internals::policy::bearer::{Token, at_most_one};
use stockaj_gateway::internals::policy::expectation::waits;
use stockaj_gateway::internals::policy::framing::{Bounds, FramingFault, Scan, Scanner};
use stockaj_gateway::internals::policy::map::{AbilityMap, RouteMatch};
use stockaj_gateway::internals::policy::singleton;
use stockaj_gateway::internals::policy::target::{Target, add_missing_host};
use stockaj_gateway::internals::policy::upgrade::Handshake;
use stockaj_gateway::internals::response::record::Recorder;
use stockaj_gateway::internals::telemetry::access::AccessLog;
use stockaj_gateway::internals::telemetry::metrics::Metrics;
use stockaj_gateway::internals::telemetry::unmapped::UncoveredRequests;
use stockaj_gateway::internals::tokens::cache::TokenCache;
use stockaj_gateway::internals::tokens::hash::TokenHashes;
use stockaj_gateway::internals::tokens::introspection_limiter::IntrospectionLimiter;
use stockaj_gateway::internals::tokens::introspector::Introspector;
use stockaj_gateway::internals::tokens::lookup::{Lookup, SharedVerdicts};
use stockaj_gateway::internals::tokens::verdict::Verdict;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::runtime::{self, LocalOptions, LocalRuntime};

use super::message::{self, Message};

const BOUNDS: Bounds = Bounds { head: 2048, fields: 20, target: 512 };
const LONGEST_BODY: u64 = 100;
const LONGEST_TOKEN: usize = 64;
const TOKEN: &str = "1|reader";
const YAML: &str = "\
backend: {url: 'unix:/nowhere/backend'}
introspection: {url: 'http://127.0.0.1:9/'}
cache: {ttl: 87600h, negative_ttl: 87600h, max_tokens: 100}
limits: {body: 100B, token_bytes: 64B}
abilities:
  routes:
    /up: {GET: public, POST: public}
    /items: {GET: items:read, POST: items:create}
    /items/{id}: {GET: items:read, PUT: items:update, DELETE: deny}
    /me/{*rest}: {GET: authenticated}
";

pub fn check(data: &[u8]) {
    let pieces = pieces(data);
    let (clear, fault, messages) = scan(&pieces);
    let (whole, whole_fault, count) = scan(&[data]);
    let of_clear: Vec<u8> = clear.concat();
    assert_eq!((&of_clear, &fault, messages), (&whole.concat(), &whole_fault, count), "in pieces or not");

    let mut expected = message::read(&of_clear);
    assert_eq!(expected.len() as u64, messages);
    if fault.is_some() && !matches!(fault, Some(FramingFault::Body(_))) {
        assert!(expected.iter().all(|message| message.complete));
    }
    HOUSE.with(|house| {
        for message in &mut expected {
            message.target = as_hyper_has_it(&message.target);
            // A field map keeps the order of fields with the same name.
            message.fields.sort_by(|(one, _), (other, _)| one.cmp(other));
        }
        let mut seen = house.hyper(&clear);
        for message in &mut seen {
            message.fields.sort_by(|(one, _), (other, _)| one.cmp(other));
        }
        assert_eq!(seen, expected);
        let statuses = house.decide(&clear);
        let foretold: Vec<u16> = expected.iter().map(|message| foretell(message, &house.map)).collect();
        // The connection ends if the body of a refused request stays unread.
        assert!(foretold.starts_with(&statuses), "{statuses:?} instead of {foretold:?}");
        assert!(statuses.is_empty() == foretold.is_empty());
    });
}

/// Splits the data into pieces whose size is derived from it.
fn pieces(data: &[u8]) -> Vec<&[u8]> {
    const SIZES: [usize; 5] = [usize::MAX, 1, 3, 17, 100];
    let sum = data.iter().fold(0_usize, |sum, &byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
    data.chunks(SIZES[sum % SIZES.len()]).collect()
}

/// The bytes of each piece that the scanner accepts, as in connections of the gateway; its fault; and the number of
/// messages that began.
fn scan(pieces: &[&[u8]]) -> (Vec<Vec<u8>>, Option<FramingFault>, u64) {
    let mut scanner = Scanner::new(BOUNDS);
    let mut held: Vec<u8> = Vec::new();
    let mut through = Vec::new();
    for piece in pieces {
        held.extend_from_slice(piece);
        loop {
            let Scan { clear, fault } = scanner.scan(&held);
            let rest = held.split_off(clear);
            through.push(std::mem::replace(&mut held, rest));
            if fault.is_some() || scanner.is_over() {
                return (through, fault, scanner.messages());
            }
            if !scanner.awaits() {
                break;
            }
            // No backend could switch protocols.
            scanner.go_on();
        }
    }
    (through, None, scanner.messages())
}

/// The expected status of the gateway's response.
fn foretell(message: &Message, map: &AbilityMap) -> u16 {
    let method = Method::from_bytes(message.method.as_bytes()).expect("a method");
    let uri = Uri::try_from(&*message.target).expect("a target that hyper accepts");
    let mut fields = HeaderMap::new();
    for (name, value) in &message.fields {
        let name = HeaderName::from_bytes(name.as_bytes()).expect("a name");
        fields.append(name, HeaderValue::from_bytes(value).expect("a value"));
    }
    if message.http_1_0 {
        add_missing_host(&uri, &mut fields, &HeaderValue::from_static("localhost"));
    }
    let Ok(target) = Target::read(&method, &uri, &fields) else { return 400 };
    if singleton::check(&fields).is_err() || map.check_path(&target.path).is_err() {
        return 400;
    }
    let version = if message.http_1_0 { Version::HTTP_10 } else { Version::HTTP_11 };
    let has_length = message.all("content-length").any(|length| length != b"0");
    let has_body = has_length || message.all("transfer-encoding").next().is_some();
    if waits(version, &fields).is_err() || Handshake::begun(&method, version, &fields, has_body).is_err() {
        return 400;
    }
    let mut origins = message.all("origin");
    let mut asked = message.all("access-control-request-method");
    if let ("OPTIONS", Some(_), None, Some(asked), None) =
        (&*message.method, origins.next(), origins.next(), asked.next(), asked.next())
    {
        return foretell_preflight(message, asked, &target, map);
    }
    let found = map.find(&method, &target.path);
    let public = matches!(&found, RouteMatch::Rule { rule, .. } if matches!(rule.requirement.kind(), RequirementKind::Public));
    if public {
        if at_most_one(&fields).is_err() {
            return 400;
        }
    } else {
        let Ok(token) = Token::from_fields(&fields, LONGEST_TOKEN) else { return 401 };
        let Ok(requirement) = map.requirement(&found) else { return 403 };
        // There is no introspector.
        if token.secret() != TOKEN {
            return 503;
        }
        let (read, authenticated) =
            (message.method == "GET" || message.method == "HEAD", target.path.as_str());
        let may = requirement.check(&abilities()).is_ok();
        assert!(!may || read && (authenticated.starts_with("/items") || authenticated.starts_with("/me/")));
        if !may {
            return 403;
        }
    }
    let length = message.all("content-length").next().and_then(|length| std::str::from_utf8(length).ok());
    match length.and_then(|length| length.parse::<u64>().ok()) {
        Some(length) if length > LONGEST_BODY => 413,
        // There is no backend either.
        _ => 502,
    }
}

/// Decided by the requested method, and without a body.
fn foretell_preflight(message: &Message, asked: &[u8], target: &Target<'_>, map: &AbilityMap) -> u16 {
    let chunked = message.all("transfer-encoding").next().is_some();
    if chunked || message.all("content-length").any(|length| length != b"0") {
        return 400;
    }
    let may = |method: &Method| {
        let found = map.find(method, &target.path);
        matches!(&found, RouteMatch::Rule { rule, .. } if *rule.requirement.kind() != RequirementKind::Deny)
    };
    if Method::from_bytes(asked).is_ok_and(|asked| may(&asked)) { 502 } else { 403 }
}

fn abilities() -> Abilities {
    Abilities::new(["items:read"])
}

thread_local! {
    static HOUSE: House = House::new();
}

/// A gateway on a runtime with a paused clock.
struct House {
    runtime: LocalRuntime,
    gateway: Rc<Gateway>,
    map: Arc<AbilityMap>,
}

impl House {
    fn new() -> Self {
        let settings = Arc::new(config::load_text("gateway.yaml", YAML.to_owned()).unwrap().settings);
        let map = Arc::clone(&settings.abilities);
        let metrics = Metrics::new(1);
        let core = metrics.worker(0);
        let routes = metrics.routes(map.templates());
        let cache = TokenCache::new(&settings.cache, Arc::default(), Arc::default(), Box::new(|_| {}));
        let verdict = Verdict {
            id: "1".into(),
            name: None,
            abilities: abilities(),
            expires_at: None,
            context: None,
            created_at: None,
            workspace_id: None,
            allowed_from: None,
        };
        let now = Instant::now();
        cache.store(TokenHashes::of(TOKEN), verdict, cache.generation(), now, now, SystemTime::now());
        let shared = Arc::new(SharedVerdicts { cache, introspections: IntrospectionLimiter::new(8) });
        let second = Duration::from_secs(1);
        let introspection = &settings.introspection;
        let nowhere = Destination::Unix("/nowhere/introspector".into());
        let connector = Connector::new(&nowhere, &introspection.tls, second).unwrap();
        let pool = Pool::new(Arc::new(connector), second, None, second);
        let introspector = Introspector::new(Arc::clone(&settings), pool);
        let lookup = Lookup::new(shared, introspector, core.clone());
        let backend = &settings.backend;
        let connector = Connector::new(&backend.destination, &backend.tls, second).unwrap();
        let backend =
            Backend::new(Arc::clone(&settings), Pool::new(Arc::new(connector), second, None, second));
        let limiter = Arc::new(Limiter::new(&settings));
        let recorder = Rc::new(Recorder {
            metrics: core,
            access: AccessLog::off(),
            uncovered: UncoveredRequests::new(1).worker(0),
            tracer: None,
            usage: None,
        });
        let gateway = Rc::new(Gateway::new(settings, routes, lookup, backend, limiter, recorder));
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build_local(LocalOptions::default())
            .unwrap();
        Self { runtime, gateway, map }
    }

    /// The messages that hyper parses.
    fn hyper(&self, pieces: &[Vec<u8>]) -> Vec<Message> {
        let seen: Rc<RefCell<Vec<Message>>> = Rc::default();
        let service = |request: Request<Incoming>| {
            let seen = Rc::clone(&seen);
            async move {
                let (head, mut body) = request.into_parts();
                let index = seen.borrow().len();
                seen.borrow_mut().push(Message {
                    method: head.method.as_str().to_owned(),
                    target: head.uri.to_string(),
                    http_1_0: head.version == Version::HTTP_10,
                    fields: head
                        .headers
                        .iter()
                        .map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec()))
                        .collect(),
                    body: Vec::new(),
                    complete: false,
                });
                let complete = loop {
                    match body.frame().await {
                        None => break true,
                        Some(Err(_)) => break false,
                        Some(Ok(frame)) => {
                            let data = frame.data_ref().map(|data| &**data).unwrap_or_default();
                            seen.borrow_mut()[index].body.extend_from_slice(data);
                        }
                    }
                };
                seen.borrow_mut()[index].complete = complete;
                Response::builder().status(400).body(Empty::<Bytes>::new())
            }
        };
        self.serve(pieces, service);
        seen.take()
    }

    /// The responses of the gateway, by message.
    fn decide(&self, pieces: &[Vec<u8>]) -> Vec<u16> {
        let statuses: Rc<RefCell<Vec<u16>>> = Rc::default();
        let downstream = Rc::new(Downstream::new(None, false, false, Instant::now()));
        let service = |request: Request<Incoming>| {
            let (statuses, gateway, downstream) =
                (Rc::clone(&statuses), Rc::clone(&self.gateway), Rc::clone(&downstream));
            let (mut head, body) = request.into_parts();
            async move {
                let response = gateway.answer(&downstream, &mut head, body, &TunnelSlot::default()).await;
                statuses.borrow_mut().push(response.status().as_u16());
                Ok::<_, Infallible>(response)
            }
        };
        self.serve(pieces, service);
        statuses.take()
    }

    /// Serves a connection until it makes no more progress.
    fn serve<S, F, B, E>(&self, pieces: &[Vec<u8>], service: S)
    where
        S: Fn(Request<Incoming>) -> F,
        F: Future<Output = Result<Response<B>, E>>,
        B: Body + 'static,
        B::Error: std::error::Error + Send + Sync,
        E: std::error::Error + Send + Sync + 'static,
    {
        let wire = Wire(pieces.iter().filter(|piece| !piece.is_empty()).cloned().collect());
        self.runtime.block_on(async {
            let mut http1 = http1::Builder::new();
            http1.header_read_timeout(None).writev(false);
            http1.max_header_size(BOUNDS.head + 1).max_buf_size(64 * 1024 + 1);
            let connection = http1.serve_connection(TokioIo::new(wire), service_fn(service));
            // The clock advances only when all tasks wait.
            if let Ok(Err(error)) = tokio::time::timeout(Duration::from_secs(60), connection).await {
                assert!(!error.is_parse(), "the scanner accepted a message that hyper rejects: {error}");
            }
        });
    }
}

/// The path byte by byte; for the absolute form only its normalised URI, since hyper does not keep more.
fn as_hyper_has_it(target: &str) -> String {
    match target.starts_with('/') {
        true => target.to_owned(),
        false => Uri::try_from(target).expect("a target that hyper accepts").to_string(),
    }
}

/// A client that sends its pieces, then nothing, and reads everything that it receives.
struct Wire(VecDeque<Vec<u8>>);

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let pieces = &mut self.get_mut().0;
        let Some(mut piece) = pieces.pop_front() else { return Poll::Pending };
        let rest = piece.split_off(piece.len().min(buffer.remaining()));
        buffer.put_slice(&piece);
        if !rest.is_empty() {
            pieces.push_front(rest);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
