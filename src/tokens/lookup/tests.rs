use std::future::Future;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Condvar, Mutex, mpsc};
use std::thread;

use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue};
use tokio::runtime::{self, LocalOptions, LocalRuntime};
use tokio::task::{JoinHandle, spawn_local, yield_now};

use super::*;
use crate::client::Connector;
use crate::client::pool::Pool;
use crate::config;
use crate::config::settings::Settings;
use crate::telemetry::metrics::Metrics;
use crate::tokens::blocklist::record::{Block, BlockSource, BlockSubject};
use crate::tokens::revocation::Revocation;

const PATIENCE: Duration = Duration::from_secs(5);
const ACTIVE: &str = r#"{"data":{"id":17,"name":"scanner","abilities":["items:read"],"expires_at":null}}"#;
const WITHOUT_ID: &str =
    r#"{"data":{"name":"scanner","abilities":["items:read"],"expires_at":"2100-01-01T00:00:00Z"}}"#;
const RENAMED: &str = r#"{"data":{"id":17,"name":"renamed","abilities":["items:read"],"expires_at":null}}"#;

/// An introspector that responds only while the test lets it.
#[derive(Clone)]
struct Introspected {
    address: SocketAddr,
    script: Arc<(Mutex<Script>, Condvar)>,
}

struct Script {
    calls: usize,
    open: bool,
    status: u16,
    body: &'static str,
}

impl Introspected {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let script = Script { calls: 0, open: true, status: 200, body: ACTIVE };
        let this = Self { address, script: Arc::new((Mutex::new(script), Condvar::new())) };
        let server = this.clone();
        thread::spawn(move || {
            for socket in listener.incoming().map_while(Result::ok) {
                let server = server.clone();
                thread::spawn(move || server.serve(&socket));
            }
        });
        this
    }

    fn serve(&self, mut socket: &TcpStream) -> Option<()> {
        let mut lines = BufReader::new(socket).lines();
        loop {
            while !lines.next()?.ok()?.is_empty() {}
            let (script, changed) = &*self.script;
            let mut script = script.lock().unwrap();
            script.calls += 1;
            let Script { status, body, .. } = *script;
            let script = changed.wait_while(script, |script| !script.open).unwrap();
            drop(script);
            let head = format!("HTTP/1.1 {status} Said\r\nContent-Length: {}\r\n\r\n", body.len());
            socket.write_all(format!("{head}{body}").as_bytes()).ok()?;
        }
    }

    fn set(&self, change: impl FnOnce(&mut Script)) {
        change(&mut self.script.0.lock().unwrap());
        self.script.1.notify_all();
    }

    fn calls(&self) -> usize {
        self.script.0.lock().unwrap().calls
    }

    fn settings(&self, yaml: &str) -> Arc<Settings> {
        let text = format!(
            "backend: {{url: http://127.0.0.1:9}}\nintrospection:\n  url: http://{}/\n  {yaml}\n\
             abilities: {{routes: {{/up: {{GET: public}}}}}}\n",
            self.address
        );
        Arc::new(config::load_text("test", text).unwrap().settings)
    }
}

fn share(settings: &Settings) -> Arc<SharedVerdicts> {
    Arc::new(SharedVerdicts {
        cache: TokenCache::new(&settings.cache, Arc::default(), Arc::default(), Box::new(|_| {})),
        introspections: IntrospectionLimiter::new(settings.introspection.max_concurrent),
    })
}

/// A worker's lookup in `shared`, in the caller's runtime.
fn lookup(settings: &Arc<Settings>, shared: &Arc<SharedVerdicts>) -> Rc<Lookup> {
    let introspection = &settings.introspection;
    let connector =
        Connector::new(&introspection.destination, &introspection.tls, introspection.timeout).unwrap();
    let pool = Pool::new(Arc::new(connector), PATIENCE, None, introspection.timeout);
    let introspector = Introspector::new(Arc::clone(settings), pool);
    Lookup::new(Arc::clone(shared), introspector, Metrics::new(1).worker(0))
}

fn core() -> LocalRuntime {
    runtime::Builder::new_current_thread().enable_all().build_local(LocalOptions::default()).unwrap()
}

/// Runs `test` with a worker of its own, for `PATIENCE` at most.
fn on_a_core<F: Future<Output = ()>>(yaml: &str, test: impl FnOnce(Introspected, Rc<Lookup>) -> F) {
    let introspector = Introspected::start();
    let settings = introspector.settings(yaml);
    core().block_on(async {
        let lookup = lookup(&settings, &share(&settings));
        tokio::time::timeout(PATIENCE, test(introspector, lookup)).await.expect("the test does not hang");
    });
}

fn fields(token: &str) -> HeaderMap {
    let value = HeaderValue::try_from(format!("Bearer {token}")).unwrap();
    HeaderMap::from_iter([(AUTHORIZATION, value)])
}

/// Looks up `1|a` as for a request that missed the front cache.
fn introspect(lookup: &Rc<Lookup>) -> JoinHandle<Result<Rc<CachedToken>, Refusal>> {
    let lookup = Rc::clone(lookup);
    spawn_local(async move {
        let fields = fields("1|a");
        let token = Token::from_fields(&fields, 1024).unwrap();
        lookup
            .get_or_introspect(hash(), &request(token, Instant::now()), None, &mut LookupStats::default())
            .await
    })
}

fn get_local(lookup: &Rc<Lookup>, now: Instant) -> Option<Rc<CachedToken>> {
    let fields = fields("1|a");
    lookup.get_local(&hash(), &request(Token::from_fields(&fields, 1024).unwrap(), now))
}

fn request(token: Token<'_>, now: Instant) -> LookupRequest<'_> {
    LookupRequest { token, now, introspected_since: None, trace: None }
}

fn hash() -> TokenHash {
    TokenHash::of("1|a")
}

async fn until(condition: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "the response does not arrive");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn name(cached: &Rc<CachedToken>) -> &str {
    cached.verdict.name.as_deref().unwrap()
}

#[test]
fn one_introspection_serves_all_waiting_requests() {
    on_a_core("", async |introspector, lookup| {
        introspector.set(|script| script.open = false);
        let waiting: Vec<_> = (0..100).map(|_| introspect(&lookup)).collect();
        until(|| introspector.calls() == 1).await;
        waiting[0].abort();
        introspector.set(|script| script.open = true);
        let mut served = 0;
        for waiting in waiting {
            served += usize::from(waiting.await.is_ok_and(|cached| cached.is_ok()));
        }
        assert_eq!((served, introspector.calls()), (99, 1));
        assert!(get_local(&lookup, Instant::now()).is_some());
    });
}

#[test]
fn front_cache_serves_no_evicted_or_expired_entry() {
    on_a_core("", async |_, lookup| {
        let cache = &lookup.shared.cache;
        let cached = introspect(&lookup).await.unwrap().unwrap();
        let ttl = cache.settings().ttl;
        assert!(get_local(&lookup, cached.introspected_at + ttl / 2).is_some());
        assert!(get_local(&lookup, cached.introspected_at + ttl).is_none());
        assert_eq!(cache.revoke(Revocation::Id("17".into())), 1);
        assert!(get_local(&lookup, cached.introspected_at).is_none());
    });
}

#[test]
fn peek_returns_cached_verdicts_without_introspection() {
    on_a_core("timeout: 1s\ncache: {ttl: 1h, stale_if_error: 1h}", async |introspector, lookup| {
        let known = |at| lookup.peek(&hash(), at).map(|known| known.map(|cached| name(&cached).to_owned()));
        assert_eq!(known(Instant::now()), None);
        let cached = introspect(&lookup).await.unwrap().unwrap();
        let ttl = lookup.shared.cache.settings().ttl;
        assert_eq!(known(Instant::now()), Some(Ok("scanner".to_owned())));
        assert_eq!(known(cached.introspected_at + ttl), None, "whatever `stale_if_error`");
        *lookup.front.borrow_mut() = vec![None; FRONT_SLOTS].into_boxed_slice();
        assert_eq!(known(Instant::now()), Some(Ok("scanner".to_owned())), "by another worker");
        lookup.shared.cache.revoke(Revocation::Token(hash()));
        assert_eq!(known(Instant::now()), None);
        introspector.set(|script| script.status = 401);
        assert_eq!(introspect(&lookup).await.unwrap().unwrap_err(), Refusal::InactiveToken);
        assert_eq!(known(Instant::now()), Some(Err(Refusal::InactiveToken)));
        assert_eq!(introspector.calls(), 2);
    });
}

#[test]
fn verdict_overtaken_by_a_revocation_is_introspected_again() {
    for revocation in [
        Revocation::Token(hash()),
        Revocation::Id("17".into()),
        Revocation::Name("scanner".into()),
        Revocation::All,
    ] {
        on_a_core("", async |introspector, lookup| {
            introspector.set(|script| script.open = false);
            let waiting = introspect(&lookup);
            until(|| introspector.calls() == 1).await;
            lookup.shared.cache.revoke(revocation.clone());
            introspector.set(|script| (script.open, script.body) = (true, RENAMED));
            let cached = waiting.await.unwrap().unwrap();
            assert_eq!((name(&cached), introspector.calls()), ("renamed", 2), "{revocation:?}");
            assert_eq!(name(&get_local(&lookup, Instant::now()).unwrap()), "renamed");
        });
    }
}

#[test]
fn rejection_overtaken_by_a_revocation_is_introspected_again() {
    on_a_core("", async |introspector, lookup| {
        introspector.set(|script| (script.open, script.status) = (false, 401));
        let waiting = introspect(&lookup);
        until(|| introspector.calls() == 1).await;
        lookup.shared.cache.revoke(Revocation::Token(hash()));
        introspector.set(|script| (script.open, script.status) = (true, 200));
        assert!(waiting.await.unwrap().is_ok());
    });
}

#[test]
fn revoked_token_gets_no_stale_verdict() {
    on_a_core("timeout: 1s\ncache: {ttl: 1ms, stale_if_error: 1h}", async |introspector, lookup| {
        introspect(&lookup).await.unwrap().unwrap();
        tokio::time::sleep(Duration::from_millis(2)).await;
        introspector.set(|script| script.status = 500);
        assert!(introspect(&lookup).await.unwrap().is_ok(), "stale_if_error applies in an outage");
        lookup.shared.cache.revoke(Revocation::Id("17".into()));
        assert_eq!(introspect(&lookup).await.unwrap().unwrap_err(), Refusal::NoVerdict);
    });
}

#[test]
fn ended_core_completes_its_introspections() {
    let introspector = Introspected::start();
    let settings = introspector.settings("");
    let shared = share(&settings);
    introspector.set(|script| script.open = false);
    let (end, ended) = mpsc::channel::<()>();
    let first = {
        let (settings, shared, introspector) =
            (Arc::clone(&settings), Arc::clone(&shared), introspector.clone());
        thread::spawn(move || {
            let core = core();
            core.block_on(async {
                introspect(&lookup(&settings, &shared));
                until(|| introspector.calls() == 1).await;
            });
            ended.recv().unwrap();
        })
    };
    core().block_on(async {
        until(|| introspector.calls() == 1).await;
        let waiting = introspect(&lookup(&settings, &shared));
        yield_now().await;
        end.send(()).unwrap();
        // The second worker introspects itself.
        until(|| introspector.calls() == 2).await;
        introspector.set(|script| script.open = true);
        assert!(tokio::time::timeout(PATIENCE, waiting).await.unwrap().unwrap().is_ok());
    });
    first.join().unwrap();
}

#[test]
fn introspection_of_a_core_that_ends_unpolled_completes() {
    let introspector = Introspected::start();
    let settings = introspector.settings("");
    let shared = share(&settings);
    let core = core();
    let flight = core.block_on(async {
        let fields = fields("1|a");
        let token = Token::from_fields(&fields, 1024).unwrap();
        let lookup = lookup(&settings, &shared);
        let request = request(token, Instant::now());
        lookup.join(hash(), None, &request, None, &mut LookupStats::default()).unwrap().in_flight
    });
    drop(core);
    assert!(shared.cache.find_in_flight(&hash()).is_none());
    assert!(flight.has_changed().is_err(), "waiting lookups get the result");
    assert_eq!(introspector.calls(), 0);
}

#[test]
fn cancelled_requests_leave_the_introspection_queue() {
    on_a_core("max_concurrent: 1", async |introspector, lookup| {
        let turn = lookup.shared.introspections.acquire(TokenHash::of("other"), Some("other".into())).await;
        let (stays, leaves) = (introspect(&lookup), introspect(&lookup));
        until(|| lookup.shared.cache.find_in_flight(&hash()).is_some()).await;
        leaves.abort();
        assert!(leaves.await.is_err());
        assert!(lookup.shared.cache.find_in_flight(&hash()).is_some(), "one lookup still waits");
        stays.abort();
        until(|| lookup.shared.cache.find_in_flight(&hash()).is_none()).await;
        drop(turn);
        assert!(introspect(&lookup).await.unwrap().is_ok());
        assert_eq!(introspector.calls(), 1);
    });
}

#[test]
fn request_without_a_permit_in_time_is_overloaded() {
    on_a_core("max_concurrent: 1\n  timeout: 20ms", async |introspector, lookup| {
        let _turn = lookup.shared.introspections.acquire(TokenHash::of("other"), Some("other".into())).await;
        assert_eq!(introspect(&lookup).await.unwrap().unwrap_err(), Refusal::Overloaded);
        assert_eq!(introspector.calls(), 0);
    });
}

#[test]
fn concurrent_denials_share_one_renewed_introspection() {
    for (status, body, expected) in [
        (200, RENAMED, Ok("renamed")),
        (401, "", Err(Refusal::InactiveToken)),
        (500, "", Err(Refusal::NoVerdict)),
    ] {
        on_a_core("", async |introspector, lookup| {
            let old = introspect(&lookup).await.unwrap().unwrap();
            let late = old.introspected_at + lookup.shared.cache.settings().negative_ttl * 2;
            let fields = fields("1|a");
            let token = Token::from_fields(&fields, 1024).unwrap();
            let (mut stats, mut others) = <(LookupStats, LookupStats)>::default();
            let (early, late) = (request(token, old.introspected_at), request(token, late));
            assert!(
                lookup.reintrospect(&early, &old, &mut stats).await.is_none(),
                "the verdict is recent enough"
            );

            introspector.set(|script| (script.open, script.status, script.body) = (false, status, body));
            let open = async {
                until(|| introspector.calls() == 2).await;
                introspector.set(|script| script.open = true);
            };
            let (first, second, ()) = tokio::join!(
                lookup.reintrospect(&late, &old, &mut stats),
                lookup.reintrospect(&late, &old, &mut others),
                open
            );
            for answer in [first, second] {
                let answer = answer.expect("the token was introspected again");
                assert_eq!(answer.as_ref().map(name).map_err(Clone::clone), expected);
            }
            assert_eq!(introspector.calls(), 2);
        });
    }
}

#[test]
fn frequently_used_token_is_refreshed_without_waiting() {
    on_a_core("", async |introspector, lookup| {
        let cached = introspect(&lookup).await.unwrap().unwrap();
        introspector.set(|script| (script.open, script.body) = (false, RENAMED));
        // The end of the shortest lifetime after jitter, in which the verdict is refreshed.
        let late = cached.introspected_at + lookup.shared.cache.settings().ttl * 89 / 100;
        for _ in 0..10 {
            assert_eq!(name(&get_local(&lookup, late).unwrap()), "scanner");
        }
        until(|| introspector.calls() == 2).await;
        assert_eq!(name(&get_local(&lookup, late).unwrap()), "scanner");
        introspector.set(|script| script.open = true);
        until(|| lookup.shared.cache.find_in_flight(&hash()).is_none()).await;
        assert!(get_local(&lookup, late).is_none(), "the old verdict is replaced");
        assert_eq!(name(&introspect(&lookup).await.unwrap().unwrap()), "renamed");
        assert_eq!(introspector.calls(), 2);
    });
}

#[test]
fn evicted_entries_leave_the_front_cache_at_the_sweep() {
    on_a_core("", async |_, lookup| {
        let cached = introspect(&lookup).await.unwrap().unwrap();
        let in_front = || lookup.front.borrow().iter().flatten().count();
        lookup.sweep();
        assert_eq!(in_front(), 1);
        lookup.shared.cache.forget_entry(&hash());
        lookup.sweep();
        assert_eq!((in_front(), Rc::strong_count(&cached)), (0, 1));
    });
}

#[test]
fn large_entries_are_served_from_the_shared_cache_only() {
    on_a_core("", async |introspector, lookup| {
        let abilities: Vec<String> = (0..100).map(|number| format!("\"{number:0100}\"")).collect();
        let body =
            format!("{{\"data\":{{\"id\":17,\"name\":\"large\",\"abilities\":[{}]}}}}", abilities.join(","));
        introspector.set(|script| script.body = Box::leak(body.into_boxed_str()));
        for _ in 0..3 {
            assert_eq!(name(&introspect(&lookup).await.unwrap().unwrap()), "large");
        }
        assert!(lookup.front.borrow().iter().all(Option::is_none));
        assert_eq!(introspector.calls(), 1);
    });
}

/// Blocks the tokens with this id as the admin listener does.
fn block(lookup: &Lookup, id: &str) {
    let (created_at, source) = (Timestamp::now(), BlockSource::Admin);
    let block = Block { name: None, until: None, reason: None, created_at, source };
    let cache = &lookup.shared.cache;
    let record = cache.blocks().block(BlockSubject::of_id(id).unwrap(), block, created_at).unwrap();
    cache.revocations().add(record.subject.revocation());
}

/// The tokens of the introspected verdicts begin with `1|`.
#[test]
fn block_and_revocation_of_the_id_in_the_text_concern_cached_verdicts() {
    for body in [ACTIVE, WITHOUT_ID] {
        on_a_core("", async |introspector, lookup| {
            introspector.set(|script| script.body = body);
            let cached = introspect(&lookup).await.unwrap().unwrap();
            lookup.shared.cache.revocations().add(Revocation::Id("1".into()));
            assert!(get_local(&lookup, Instant::now()).is_none(), "{body}");
            assert!(cached.is_gone());
            let cached = introspect(&lookup).await.unwrap().unwrap();
            block(&lookup, "2");
            assert!(get_local(&lookup, Instant::now()).is_some(), "{body}");
            block(&lookup, "1");
            assert!(get_local(&lookup, Instant::now()).is_none() && lookup.is_blocked(&cached), "{body}");
            assert_eq!(introspect(&lookup).await.unwrap().unwrap_err(), Refusal::Blocked, "{body}");
            assert_eq!(introspector.calls(), 2, "{body}");
        });
    }
}

#[test]
fn blocked_token_is_refused_as_such_after_its_expiry() {
    on_a_core("", async |introspector, lookup| {
        introspector.set(|script| script.body = WITHOUT_ID);
        introspect(&lookup).await.unwrap().unwrap();
        let fields = fields("1|a");
        let token = Token::from_fields(&fields, 1024).unwrap();
        let late = request(token, Instant::now() + Duration::from_secs(200 * 366 * 86400));
        block(&lookup, "1");
        let stats = &mut LookupStats::default();
        let refused = lookup.get_or_introspect(hash(), &late, None, stats).await.unwrap_err();
        assert_eq!(refused, Refusal::Blocked);
    });
}

/// Only Sanctum's tokens begin with their id.
#[test]
fn text_of_a_token_of_another_style_shows_no_id() {
    on_a_core(
        "style: rfc7662\n  client_id: gateway\n  client_secret: secret",
        async |introspector, lookup| {
            introspector.set(|script| script.body = r#"{"active":true,"jti":"a","scope":"items:read"}"#);
            introspect(&lookup).await.unwrap().unwrap();
            block(&lookup, "1");
            assert!(get_local(&lookup, Instant::now()).is_some());
        },
    );
}

#[test]
fn blocks_of_other_tokens_do_not_end_negative_caching() {
    on_a_core("", async |introspector, lookup| {
        introspector.set(|script| script.status = 401);
        for number in 0..20 {
            assert_eq!(introspect(&lookup).await.unwrap().unwrap_err(), Refusal::InactiveToken);
            block(&lookup, &format!("other-{number}"));
            let known = lookup.peek(&hash(), Instant::now());
            assert_eq!(known.unwrap().unwrap_err(), Refusal::InactiveToken);
        }
        assert_eq!(introspector.calls(), 1);
        block(&lookup, "1");
        assert_eq!(introspect(&lookup).await.unwrap().unwrap_err(), Refusal::Blocked);
    });
}
