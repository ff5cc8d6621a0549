use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::Duration;

use http::{Method, StatusCode};

use super::*;
use crate::policy::refusal::Reason;

const ITEMS: &str = "/api/v2/items/{id}";

/// Every sample of a render by its name and labels as written.
fn samples(text: &str) -> BTreeMap<String, f64> {
    let mut samples = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').unwrap();
        let before = samples.insert(name.to_owned(), value.parse().unwrap());
        assert!(before.is_none(), "twice: {name}");
    }
    samples
}

fn sum(samples: &BTreeMap<String, f64>, prefix: &str) -> f64 {
    samples.iter().filter(|(name, _)| name.starts_with(prefix)).map(|(_, value)| value).sum()
}

/// Metrics in which every value is set.
fn all() -> Arc<Metrics> {
    let metrics = Metrics::new(2);
    let numbers = metrics.routes(["/up", ITEMS].into_iter());
    for index in 0..2 {
        let worker = metrics.worker(index);
        worker.request(
            numbers.label(1),
            &Method::GET,
            StatusCode::OK,
            Reason::Allowed,
            Duration::from_millis(3),
        );
        worker.request(
            RouteLabel::Unmapped,
            &Method::PUT,
            StatusCode::FORBIDDEN,
            Reason::Unmapped,
            Duration::ZERO,
        );
        worker.phase(TimedPhase::Backend, Duration::from_millis(2));
        worker.cache_lookup(LookupResult::Coalesced);
        worker.client_connections(ConnectionUse::Idle, 1);
        worker.backend_connections(ConnectionUse::Active, 2);
    }
    for index in [0, 1, 1] {
        let (label, duration) = (numbers.label(1), Duration::from_millis(1));
        metrics.worker(index).described_request(
            label,
            &Method::GET,
            StatusCode::OK,
            Reason::Allowed,
            duration,
        );
    }
    let brew = Method::from_bytes(b"BREW").unwrap();
    let worker = metrics.worker(0);
    worker.request(
        RouteLabel::None,
        &brew,
        StatusCode::BAD_REQUEST,
        Reason::BadRequest,
        Duration::from_secs(31),
    );
    worker.introspection(IntrospectionOutcome::NoVerdict);
    metrics.cache_eviction(EntryKind::Inactive, EvictionCause::Size);
    metrics.block_write_failed();
    metrics.redis_connected(Some(true));
    metrics.shares().set(3, 2);
    metrics.shares().exchanged(ShareExchange::Succeeded);
    metrics.shares().set_exchanged_at(SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000));
    metrics.set_traces(true);
    worker.shadow(Change::WouldDeny, MapRole::Candidate, numbers.label(1), &Method::PUT);
    metrics.config_reload(true, SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000));
    metrics.set_certificates(vec![CertificateState {
        file: "/tls/tls.crt".to_owned(),
        expires_at: 1_800_000_000,
        is_current: true,
    }]);
    metrics.on_scrape(Box::new(|metrics| {
        metrics.set_cache_entries(EntryKind::Active, 12);
        metrics.set_log_lines_dropped(7);
        metrics.set_limits(32, 10_000);
        metrics.set_blocks([3, 1, 2]);
    }));
    metrics
}

#[test]
fn recorded_events_are_the_rendered_samples() {
    let metrics = all();
    let in_flight = metrics.introspection_started();
    let samples = samples(&metrics.render());
    for (name, value) in [
        (r#"requests_total{route="/api/v2/items/{id}",method="GET",status="200",reason="allowed"}"#, 2.0),
        (
            r#"requests_total{route="/api/v2/items/{id}",method="GET",status="200",reason="allowed",listener="decision"}"#,
            3.0,
        ),
        (r#"request_duration_seconds_count{route="/api/v2/items/{id}",listener="decision"}"#, 3.0),
        (r#"requests_total{route="unmapped",method="PUT",status="403",reason="unmapped"}"#, 2.0),
        (r#"requests_total{route="none",method="other",status="400",reason="bad_request"}"#, 1.0),
        (r#"request_duration_seconds_bucket{route="/api/v2/items/{id}",le="0.0025"}"#, 0.0),
        (r#"request_duration_seconds_bucket{route="/api/v2/items/{id}",le="0.005"}"#, 2.0),
        (r#"request_duration_seconds_bucket{route="/api/v2/items/{id}",le="+Inf"}"#, 2.0),
        (r#"request_duration_seconds_sum{route="/api/v2/items/{id}"}"#, 0.006),
        (r#"request_duration_seconds_count{route="/api/v2/items/{id}"}"#, 2.0),
        (r#"request_duration_seconds_bucket{route="none",le="30"}"#, 0.0),
        (r#"request_duration_seconds_bucket{route="none",le="+Inf"}"#, 1.0),
        (r#"phase_duration_seconds_count{phase="backend"}"#, 2.0),
        (r#"phase_duration_seconds_count{phase="gateway"}"#, 0.0),
        (r#"introspections_total{outcome="no_verdict"}"#, 1.0),
        ("introspections_in_flight", 1.0),
        (r#"token_cache_lookups_total{result="coalesced"}"#, 2.0),
        (r#"token_cache_entries{kind="active"}"#, 12.0),
        (r#"token_cache_evictions_total{kind="inactive",cause="size"}"#, 1.0),
        (r#"client_connections{state="idle"}"#, 2.0),
        (r#"backend_connections{state="active"}"#, 4.0),
        (r#"shadow_total{change="would_deny",route="/api/v2/items/{id}",method="PUT",map="candidate"}"#, 1.0),
        ("shadow_mode", 0.0),
        (r#"blocked_tokens{kind="id"}"#, 3.0),
        (r#"blocked_tokens{kind="token"}"#, 2.0),
        ("blocked_write_errors_total", 1.0),
        ("config_reload_success", 1.0),
        ("config_reload_timestamp_seconds", 1_700_000_000.0),
        ("certificate_expiry_timestamp_seconds{certificate=\"/tls/tls.crt\"}", 1_800_000_000.0),
        ("certificate_reload_success{certificate=\"/tls/tls.crt\"}", 1.0),
        (concat!(r#"build_info{version=""#, env!("CARGO_PKG_VERSION"), r#""}"#), 1.0),
        ("log_lines_dropped_total", 7.0),
    ] {
        assert_eq!(samples.get(&format!("stockaj_gateway_{name}")), Some(&value), "{name}");
    }
    assert!(!samples.keys().any(|name| name.contains("/up")), "without requests there is no series");
    drop(in_flight);
    assert!(metrics.render().contains("stockaj_gateway_introspections_in_flight 0\n"));
}

#[test]
fn every_metric_has_help_and_type() {
    let metrics = all();
    metrics.quota().set_enabled(true);
    metrics.usage().set_enabled(true);
    metrics.usage().set_findings([(("naming", "low"), 1)].into());
    metrics.usage().counted(&["items:read".into()], true, 1);
    metrics.usage().written(SystemTime::UNIX_EPOCH + Duration::from_secs(1), 2, 3);
    let text = metrics.render();
    for shape in collect::SHAPES {
        assert!(text.contains(&format!("# HELP {} ", shape.name)), "{}", shape.name);
        assert!(text.contains(&format!("# TYPE {} ", shape.name)), "{}", shape.name);
    }
}

#[test]
fn unknown_gauges_are_omitted() {
    let metrics = Metrics::new(1);
    let text = metrics.render();
    for name in ["config_reload_success", "config_reload_timestamp", "certificate_expiry"] {
        assert!(!text.contains(name), "{name}");
    }
    metrics.config_reload(true, SystemTime::UNIX_EPOCH + Duration::from_secs(5));
    metrics.config_reload(false, SystemTime::UNIX_EPOCH + Duration::from_secs(9));
    let samples = samples(&metrics.render());
    assert_eq!(samples["stockaj_gateway_config_reload_success"], 0.0);
    assert_eq!(samples["stockaj_gateway_config_reload_timestamp_seconds"], 5.0);
}

#[test]
fn route_template_keeps_its_counters_across_maps() {
    let metrics = Metrics::new(1);
    let worker = metrics.worker(0);
    let count = |label| worker.request(label, &Method::GET, StatusCode::OK, Reason::Public, Duration::ZERO);
    let before = metrics.routes([ITEMS, "/up"].into_iter());
    count(before.label(0));
    let after = metrics.routes(["/new", "/up", ITEMS].into_iter());
    assert_eq!(after.label(2), before.label(0));
    count(after.label(2));
    count(after.label(0));
    count(before.label(0));
    let samples = samples(&metrics.render());
    let requests = |route| sum(&samples, &format!("stockaj_gateway_requests_total{{route={route:?}"));
    assert_eq!((requests(ITEMS), requests("/new"), requests("/up")), (3.0, 1.0, 0.0));
}

#[test]
fn route_missing_from_the_map_counts_as_unmapped() {
    let numbers = Metrics::new(1).routes(["/up"].into_iter());
    assert_eq!(numbers.label(1), RouteLabel::Unmapped);
    assert_eq!(RouteNumbers::default().label(0), RouteLabel::Unmapped);
}

#[test]
fn histogram_bounds_are_inclusive_and_ascending() {
    assert!(shard::BOUNDS.is_sorted());
    let histogram = shard::Histogram::default();
    let bounds = shard::BOUNDS;
    for (bucket, bound) in bounds.into_iter().enumerate() {
        histogram.observe(bound);
        histogram.observe(bound + 1);
        assert_eq!(histogram.buckets[bucket].load(Relaxed), if bucket == 0 { 1 } else { 2 });
    }
    histogram.observe(u64::MAX);
    assert_eq!(histogram.buckets[bounds.len()].load(Relaxed), 2);
}

#[test]
fn series_beyond_the_table_are_counted_as_other() {
    let metrics = Metrics::new(1);
    let worker = metrics.worker(0);
    for round in 1..=2 {
        for status in 100..1000 {
            let status = StatusCode::from_u16(status).unwrap();
            worker.request(RouteLabel::Unmapped, &Method::GET, status, Reason::Allowed, Duration::ZERO);
        }
        let samples = samples(&metrics.render());
        let requests = "stockaj_gateway_requests_total";
        assert_eq!(sum(&samples, requests), f64::from(900 * round));
        assert_eq!(samples.keys().filter(|name| name.starts_with(requests)).count(), 64 + 1);
        let other =
            format!(r#"{requests}{{route="unmapped",method="other",status="other",reason="allowed"}}"#);
        assert_eq!(samples[&other], f64::from((900 - 64) * round));
    }
}

#[test]
fn scrape_during_writes_loses_no_count() {
    const CORES: usize = 4;
    const ROUNDS: usize = 20_000;
    let metrics = Metrics::new(CORES);
    let routes: Vec<String> = (0..5).map(|route| format!("/{route}")).collect();
    let numbers = metrics.routes(routes.iter().map(String::as_str));
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let scraper = scope.spawn(|| {
            let mut last = 0.0;
            let mut scrapes = 0;
            while !stop.load(Relaxed) {
                let now = sum(&samples(&metrics.render()), "stockaj_gateway_requests_total");
                assert!(now >= last, "{now} after {last}");
                last = now;
                scrapes += 1;
            }
            scrapes
        });
        let writers: Vec<_> = (0..CORES)
            .map(|index| {
                let (metrics, numbers) = (&metrics, &numbers);
                scope.spawn(move || {
                    let worker = metrics.worker(index);
                    for round in 0..ROUNDS {
                        let status = StatusCode::from_u16(200 + (round % 7) as u16).unwrap();
                        let label = numbers.label(round % 5);
                        worker.request(
                            label,
                            &Method::GET,
                            status,
                            Reason::Allowed,
                            Duration::from_micros(1),
                        );
                        worker.cache_lookup(LookupResult::Hit);
                        worker.client_connections(ConnectionUse::Active, if round % 2 == 0 { 1 } else { -1 });
                        worker.introspection(IntrospectionOutcome::Active);
                    }
                })
            })
            .collect();
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        stop.store(true, Relaxed);
        assert!(scraper.join().unwrap() > 0);
    });
    let samples = samples(&metrics.render());
    let all = (CORES * ROUNDS) as f64;
    assert_eq!(sum(&samples, "stockaj_gateway_requests_total"), all);
    assert_eq!(sum(&samples, "stockaj_gateway_request_duration_seconds_count"), all);
    assert_eq!(samples[r#"stockaj_gateway_token_cache_lookups_total{result="hit"}"#], all);
    assert_eq!(samples[r#"stockaj_gateway_introspections_total{outcome="active"}"#], all);
    assert_eq!(samples[r#"stockaj_gateway_client_connections{state="active"}"#], 0.0);
}

#[test]
#[cfg(target_os = "linux")]
fn process_metrics_are_present() {
    let process = process::read();
    let now = epoch_seconds(SystemTime::now()) as f64;
    assert!(process.cpu_seconds.is_some_and(|seconds| seconds < 100_000.0), "{process:?}");
    assert!(process.resident_bytes.is_some_and(|bytes| bytes > 100_000.0), "{process:?}");
    assert!(process.open_fds.is_some_and(|fds| fds >= 3.0), "{process:?}");
    assert!(process.start_time.is_some_and(|time| (now - time).abs() < 86_400.0), "{process:?}");
}

#[test]
#[ignore = "needs promtool: tests/run"]
fn promtool_accepts_all_metrics() {
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    promtool.stdin.take().unwrap().write_all(all().render().as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}");
}
