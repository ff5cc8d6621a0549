//! Measures a decision: target, map, cache hit and abilities, separately and together.
//!
//! `cargo bench --bench decision`

// Criterion's macros generate an undocumented function. Errors here panic before the measurement.
#![allow(missing_docs, clippy::expect_used)]

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use criterion::{Criterion, criterion_group, criterion_main};
use http::header::{
    ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, USER_AGENT,
};
use http::{HeaderMap, HeaderValue, Method, Uri, Version};
use stockaj_gateway::internals::client::Connector;
use stockaj_gateway::internals::client::http1::RequestHead;
use stockaj_gateway::internals::client::pool::Pool;
use stockaj_gateway::internals::config;
use stockaj_gateway::internals::policy::ability::{Abilities, Requirement};
use stockaj_gateway::internals::policy::bearer::Token;
use stockaj_gateway::internals::policy::decision::{self, NextStep, Permit, RouteInputs, TokenRights};
use stockaj_gateway::internals::policy::headers::{
    Credentials, Forwarding, UpstreamFields, prepare_response,
};
use stockaj_gateway::internals::policy::map::{AbilityMap, MapBuilder, Unmapped};
use stockaj_gateway::internals::policy::network::ClientAddress;
use stockaj_gateway::internals::policy::path::CanonicalPath;
use stockaj_gateway::internals::policy::refusal::Refusal;
use stockaj_gateway::internals::policy::target::Target;
use stockaj_gateway::internals::policy::trusted_fields::TrustedFields;
use stockaj_gateway::internals::telemetry::metrics::Metrics;
use stockaj_gateway::internals::tokens::Verdict;
use stockaj_gateway::internals::tokens::cache::TokenCache;
use stockaj_gateway::internals::tokens::hash::{TokenHash, TokenHashes};
use stockaj_gateway::internals::tokens::introspection_limiter::IntrospectionLimiter;
use stockaj_gateway::internals::tokens::introspector::Introspector;
use stockaj_gateway::internals::tokens::lookup::{
    CachedToken, Lookup, LookupRequest, LookupStats, SharedVerdicts,
};
use tokio::runtime::{self, LocalOptions};

type Failure = Box<dyn std::error::Error>;

/// A map of the size of the shipped one: the resources of Stockaj's guide, each with its items, restore, and the
/// abilities to read, create, update and delete.
fn stockaj() -> Result<AbilityMap, Failure> {
    let mut builder = MapBuilder::new(Unmapped::Deny);
    let word = Requirement::from_word;
    builder.route("/up", [(Method::GET, word("public")?, None)])?;
    builder.route("/api/v2/{*rest}", [(Method::GET, word("deny")?, None)])?;
    builder.route("/api/v2/kiosk/scan", [(Method::POST, word("kiosk:scan")?, None)])?;
    builder.route("/api/v2/kiosk/search", [(Method::GET, word("kiosk:scan")?, None)])?;
    for (resource, ability) in [
        ("items", "items"),
        ("variants", "items"),
        ("types", "items"),
        ("tags", "items"),
        ("renters", "renters"),
        ("rentals", "rents"),
        ("webhooks", "webhooks"),
        ("notifications", "notifications"),
        ("instance", "instance"),
    ] {
        let to = |verb: &str| word(&format!("{ability}:{verb}"));
        let collection = format!("/api/v2/{resource}");
        builder
            .route(&collection, [(Method::GET, to("read")?, None), (Method::POST, to("create")?, None)])?;
        builder.route(
            &format!("{collection}/{{id}}"),
            [
                (Method::GET, to("read")?, None),
                (Method::PUT, to("update")?, None),
                (Method::PATCH, to("update")?, None),
                (Method::DELETE, to("delete")?, None),
            ],
        )?;
        builder.route(&format!("{collection}/search"), [(Method::GET, to("read")?, None)])?;
        builder.route(&format!("{collection}/{{id}}/restore"), [(Method::POST, to("delete")?, None)])?;
    }
    Ok(builder.build())
}

fn scanner() -> Abilities {
    Abilities::new([
        "items:read",
        "items:update",
        "kiosk:scan",
        "notifications:read",
        "rents:read",
        "rents:update",
    ])
}

fn request_fields() -> HeaderMap {
    let mut fields = HeaderMap::new();
    for (name, value) in [
        (HOST, "app.stockaj.com"),
        (USER_AGENT, "python-requests/2.32.3"),
        (ACCEPT_ENCODING, "gzip, deflate"),
        (ACCEPT, "application/json"),
        (CONNECTION, "keep-alive"),
        (AUTHORIZATION, "Bearer 17|a1b2c3d4e5f6g7h8i9j0a1b2c3d4e5f6g7h8i9j012345678"),
        (CONTENT_TYPE, "application/json"),
        (CONTENT_LENGTH, "120"),
    ] {
        fields.insert(name, HeaderValue::from_static(value));
    }
    fields
}

/// A core with a cached verdict of the scanner's token, valid for a day.
fn lookup(fields: &HeaderMap) -> Result<Rc<Lookup>, Failure> {
    let text = "backend: {url: 'http://127.0.0.1:9'}\nintrospection: {url: 'http://127.0.0.1:9'}\n\
                cache: {ttl: 24h}\nabilities: {routes: {/up: {GET: public}}}\n";
    let loaded = config::load_text("bench", text.to_owned()).map_err(|report| report.to_string())?;
    let settings = Arc::new(loaded.settings);
    let introspection = &settings.introspection;
    let connector = Connector::new(&introspection.destination, &introspection.tls, introspection.timeout)?;
    let pool = Pool::new(Arc::new(connector), Duration::ZERO, None, introspection.timeout);
    let cache = TokenCache::new(&settings.cache, Arc::default(), Arc::default(), Box::new(|_| {}));
    let shared = Arc::new(SharedVerdicts {
        cache,
        introspections: IntrospectionLimiter::new(introspection.max_concurrent),
    });
    let introspector = Introspector::new(Arc::clone(&settings), pool);
    let lookup = Lookup::new(Arc::clone(&shared), introspector, Metrics::new(1).worker(0));

    let token = Token::from_fields(fields, 1024).map_err(|refusal| format!("{refusal:?}"))?;
    let hashes = TokenHashes::of(token.secret());
    let verdict = Verdict {
        id: "17".into(),
        name: Some("scanner".into()),
        abilities: scanner(),
        expires_at: None,
        context: None,
        created_at: None,
        workspace_id: None,
        allowed_from: None,
    };
    let now = Instant::now();
    shared.cache.store(hashes, verdict, shared.cache.generation(), now, now, SystemTime::now());
    let runtime = runtime::Builder::new_current_thread().build_local(LocalOptions::default())?;
    runtime
        .block_on(lookup.verdict(&request(token, now), None, &mut LookupStats::default()))
        .map_err(|refusal| format!("{refusal:?}"))?;
    Ok(lookup)
}

/// The cache lookup: hash, front cache, freshness.
fn verdict(lookup: &Rc<Lookup>, token: Token<'_>, now: Instant) -> Option<Rc<CachedToken>> {
    lookup.get_local(&TokenHash::of(token.as_bytes()), &request(token, now))
}

fn request(token: Token<'_>, now: Instant) -> LookupRequest<'_> {
    LookupRequest { token, now, introspected_since: None, trace: None }
}

/// The address of a client.
fn client() -> ClientAddress {
    black_box(Some(IpAddr::from(Ipv4Addr::LOCALHOST))).into()
}

/// The decision with a cache lookup and a clock read.
fn decide_with_verdict(
    map: &AbilityMap,
    method: &Method,
    uri: &Uri,
    fields: &HeaderMap,
    lookup: &Rc<Lookup>,
) -> Result<Permit, Refusal> {
    let target = Target::read(method, uri, fields)?;
    let token = Token::from_fields(fields, 1024);
    let inputs = RouteInputs::of(target.query, client());
    match decision::route(map, method, &target.path, inputs).next() {
        NextStep::Public(permit) => Ok(permit),
        NextStep::Refused(refusal) => Err(refusal),
        NextStep::NeedsToken(needs_token) => {
            let (token, needs_verdict) = needs_token.with_token(token)?;
            let caller = verdict(lookup, token, Instant::now()).ok_or(Refusal::NoVerdict)?;
            needs_verdict.authorize(caller.verdict.rights(), &inputs.client)
        }
    }
}

/// The decision without a cache lookup.
fn decide(
    map: &AbilityMap,
    method: &Method,
    uri: &Uri,
    fields: &HeaderMap,
    abilities: &Abilities,
) -> Result<Permit, Refusal> {
    let target = Target::read(method, uri, fields)?;
    let token = Token::from_fields(fields, 1024);
    let inputs = RouteInputs::of(target.query, client());
    match decision::route(map, method, &target.path, inputs).next() {
        NextStep::Public(permit) => Ok(permit),
        NextStep::Refused(refusal) => Err(refusal),
        NextStep::NeedsToken(needs_token) => {
            let (token, needs_verdict) = needs_token.with_token(token)?;
            black_box(token.secret());
            needs_verdict.authorize(TokenRights { abilities, allowed_from: None }, &inputs.client)
        }
    }
}

fn decision(criterion: &mut Criterion) {
    let map = stockaj().expect("the map");
    let fields = request_fields();
    let abilities = scanner();

    let mut group = criterion.benchmark_group("path");
    for (name, path) in [
        ("canonical", "/api/v2/items/12345"),
        ("canonical, long", "/api/v2/items/0f8fad5b-d9cb-469f-a165-70867728950e/restore"),
        ("encoded, canonical", "/api/v2/items/caf%C3%A9%20noir"),
        ("rewritten", "/api/v2/items/%61bc/"),
        ("refused", "/api/v2/items/..%2Fusers"),
    ] {
        group.bench_function(name, |bencher| bencher.iter(|| CanonicalPath::new(black_box(path)).is_ok()));
    }
    group.finish();

    let mut group = criterion.benchmark_group("map");
    for (name, path) in [
        ("literal", "/api/v2/items/search"),
        ("parameter", "/api/v2/rentals/12345"),
        ("back to the rest", "/api/v2/items/search/unknown"),
        ("none", "/login"),
    ] {
        let path = CanonicalPath::new(path).expect("a path");
        group.bench_function(name, |bencher| {
            bencher.iter(|| map.find(black_box(&Method::GET), black_box(&path)))
        });
    }
    group.finish();

    let mut group = criterion.benchmark_group("decision");
    for (name, method, target) in [
        ("allowed", Method::GET, "/api/v2/items/12345?include=tags"),
        ("allowed, HEAD", Method::HEAD, "/api/v2/items"),
        ("missing ability", Method::DELETE, "/api/v2/items/12345"),
    ] {
        let uri: Uri = target.parse().expect("a target");
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                decide(black_box(&map), &method, black_box(&uri), black_box(&fields), &abilities).is_ok()
            });
        });
    }
    group.finish();

    let lookup = lookup(&fields).expect("a core");
    let token = Token::from_fields(&fields, 1024).expect("a token");
    let now = Instant::now();
    assert!(verdict(&lookup, token, now).is_some(), "the verdict is cached");
    let mut group = criterion.benchmark_group("verdict");
    group.bench_function("hash", |bencher| bencher.iter(|| TokenHash::of(black_box(token).as_bytes())));
    group.bench_function("front-cache hit", |bencher| {
        bencher.iter(|| verdict(&lookup, black_box(token), black_box(now)).is_some());
    });
    group.finish();

    let uri = Uri::from_static("/api/v2/items/12345?include=tags");
    assert!(decide_with_verdict(&map, &Method::GET, &uri, &fields, &lookup).is_ok());
    criterion.bench_function("decision/allowed, with its verdict", |bencher| {
        bencher.iter(|| {
            decide_with_verdict(black_box(&map), &Method::GET, black_box(&uri), black_box(&fields), &lookup)
                .is_ok()
        });
    });

    let trusted_fields = TrustedFields::default();
    let client = HeaderValue::from_static("192.0.2.1");
    let request_id = HeaderValue::from_static("0123456789abcdef0123456789abcdef");
    let authorization =
        HeaderValue::from_static("Bearer 17|a1b2c3d4e5f6g7h8i9j0a1b2c3d4e5f6g7h8i9j012345678");
    let mut group = criterion.benchmark_group("headers");
    group.bench_function("request", |bencher| {
        bencher.iter(|| {
            let forwarding = Forwarding {
                method: &Method::POST,
                decided: &Method::POST,
                version: Version::HTTP_11,
                client: &client,
                encrypted: true,
                trusted: false,
                trusted_fields: &trusted_fields,
                request_id: &request_id,
                host: None,
                credentials: Credentials::Token {
                    authorization: authorization.clone(),
                    identity: None,
                    cookies: false,
                },
                trace: None,
                chunked: false,
                expects_continue: false,
                upgrades: false,
            };
            let mut head = RequestHead::new(&Method::POST, ["/api/v2/items"]);
            let fields = UpstreamFields::new(black_box(&fields), forwarding);
            fields.is_ok_and(|fields| fields.write(&mut head).untrusted)
        });
    });
    group.bench_function("answer", |bencher| {
        bencher.iter_batched_ref(
            || fields.clone(),
            |fields| prepare_response(http::StatusCode::OK, fields),
            criterion::BatchSize::SmallInput,
        );
    });
    group.finish();
}

criterion_group!(benches, decision);
criterion_main!(benches);
