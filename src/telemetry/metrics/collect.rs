//! Adds up the shards for a scrape.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, PoisonError};

use prometheus::core::{Collector, Desc};
use prometheus::proto::{
    Bucket, Counter, Gauge, Histogram as HistogramValue, LabelPair, Metric, MetricFamily, MetricType,
};

use super::shard::{BOUNDS, Histogram, RouteShard};
use super::{
    BLOCK_KINDS, ConnectionUse, EntryKind, EvictionCause, HandshakeFailure, IntrospectionOutcome,
    LookupResult, MetricsState, RedisMessage, RevocationSource, ShareExchange, SpanOutcome, TimedPhase,
    WebhookOutcome,
};
use super::{process, shard};

/// Name, type, help and labels of a metric.
pub(super) struct Shape {
    pub(super) name: &'static str,
    help: &'static str,
    kind: MetricType,
    labels: &'static [&'static str],
}

macro_rules! shapes {
    ($($constant:ident: $kind:ident $name:literal [$($label:literal),*] $help:literal;)+) => {
        $(pub(super) const $constant: Shape =
            Shape { name: $name, help: $help, kind: MetricType::$kind, labels: &[$($label),*] };)+
        pub(super) const SHAPES: &[&Shape] = &[$(&$constant),+];
    };
}

shapes! {
    REQUESTS: COUNTER "stockaj_gateway_requests_total" ["route", "method", "status", "reason"]
        "Requests by route, method, status and reason.";
    REQUEST_DURATION: HISTOGRAM "stockaj_gateway_request_duration_seconds" ["route"]
        "Time from the request head to the end of the response, by route.";
    PHASE_DURATION: HISTOGRAM "stockaj_gateway_phase_duration_seconds" ["phase"]
        "Time that requests waited for introspection, waited for the backend, or spent in the gateway, by phase.";
    INTROSPECTIONS: COUNTER "stockaj_gateway_introspections_total" ["outcome"]
        "Completed introspections by outcome.";
    INTROSPECTIONS_IN_FLIGHT: GAUGE "stockaj_gateway_introspections_in_flight" []
        "Introspections in flight.";
    INTROSPECTIONS_LIMIT: GAUGE "stockaj_gateway_introspections_limit" []
        "Largest number of introspections in flight.";
    CACHE_LOOKUPS: COUNTER "stockaj_gateway_token_cache_lookups_total" ["result"]
        "Token cache lookups by result.";
    CACHE_ENTRIES: GAUGE "stockaj_gateway_token_cache_entries" ["kind"]
        "Verdicts in the token cache by kind.";
    OLDEST_VERDICT: GAUGE "stockaj_gateway_oldest_verdict_served_seconds" []
        "Age of the oldest verdict that allowed a request in the last 30 to 60 seconds.";
    CACHE_EVICTIONS: COUNTER "stockaj_gateway_token_cache_evictions_total" ["kind", "cause"]
        "Verdicts removed from the token cache by kind and cause.";
    CLIENT_CONNECTIONS: GAUGE "stockaj_gateway_client_connections" ["state"]
        "Open client connections by state.";
    CLIENT_CONNECTIONS_LIMIT: GAUGE "stockaj_gateway_client_connections_limit" []
        "Largest number of open client connections.";
    BACKEND_CONNECTIONS: GAUGE "stockaj_gateway_backend_connections" ["state"]
        "Open backend connections by state.";
    BACKEND_QUEUE_LENGTH: GAUGE "stockaj_gateway_backend_queue_length" []
        "Requests that wait for one of `backend.max_connections`.";
    TUNNELS: GAUGE "stockaj_gateway_tunnels_open" []
        "Open tunnels (WebSocket connections).";
    CONFIG_RELOAD_SUCCESS: GAUGE "stockaj_gateway_config_reload_success" []
        "Whether the last load of the configuration succeeded.";
    CONFIG_RELOAD_TIMESTAMP: GAUGE "stockaj_gateway_config_reload_timestamp_seconds" []
        "Time of the last successful load of the configuration.";
    CERTIFICATE_EXPIRY: GAUGE "stockaj_gateway_certificate_expiry_timestamp_seconds" ["certificate"]
        "Expiry of each certificate that the listener serves.";
    CERTIFICATE_RELOAD_SUCCESS: GAUGE "stockaj_gateway_certificate_reload_success" ["certificate"]
        "Whether the listener serves the certificate that is in the files.";
    HANDSHAKE_FAILURES: COUNTER "stockaj_gateway_tls_handshake_failures_total" ["reason"]
        "Failed TLS handshakes by reason.";
    REVOCATIONS: COUNTER "stockaj_gateway_revocations_total" ["source"]
        "Token revocations by source.";
    BLOCKED_TOKENS: GAUGE "stockaj_gateway_blocked_tokens" ["kind"]
        "Blocks in force by what they select tokens by.";
    BLOCK_WRITE_ERRORS: COUNTER "stockaj_gateway_blocked_write_errors_total" []
        "Failed writes of the file of blocks.";
    WEBHOOKS: COUNTER "stockaj_gateway_webhooks_total" ["outcome"]
        "Webhooks from the application by outcome.";
    SHADOW: COUNTER "stockaj_gateway_shadow_total" ["change", "route", "method", "map"]
        "Requests on which an unenforced rule decides differently, by change, route, method and map.";
    SHADOW_MODE: GAUGE "stockaj_gateway_shadow_mode" []
        "Whether any route is not enforced.";
    REDIS_CONNECTED: GAUGE "stockaj_gateway_redis_connected" []
        "Whether Redis is connected, through which replicas share revocations.";
    REDIS_MESSAGES: COUNTER "stockaj_gateway_redis_messages_total" ["direction"]
        "Messages between replicas by direction.";
    REPLICAS: GAUGE "stockaj_gateway_replicas" []
        "Replicas that share rate limits, as this one last saw them.";
    SHARED_LIMITS: GAUGE "stockaj_gateway_shared_limits" []
        "Rate limits of which this replica currently reports the use.";
    SHARES_EXCHANGED_AT: GAUGE "stockaj_gateway_shares_exchanged_timestamp_seconds" []
        "Time of the last successful exchange of shares; 0 if there was none.";
    SHARE_EXCHANGES: COUNTER "stockaj_gateway_share_exchanges_total" ["outcome"]
        "Exchanges of the shares of rate limits by outcome.";
    SPANS: COUNTER "stockaj_gateway_spans_total" ["outcome"]
        "Trace spans by outcome.";
    REDIRECTS: COUNTER "stockaj_gateway_redirects_total" []
        "Plain HTTP requests redirected to https.";
    USAGE_REQUESTS: COUNTER "stockaj_gateway_usage_requests_total" ["ability", "verdict"]
        "Requests in the usage ledger by required ability and verdict.";
    USAGE_TOKENS: GAUGE "stockaj_gateway_usage_tokens" []
        "Tokens in the usage ledger.";
    USAGE_FINDINGS: GAUGE "stockaj_gateway_usage_findings" ["kind", "severity"]
        "Findings about tokens by kind and severity, as of the last count.";
    USAGE_BYTES: GAUGE "stockaj_gateway_usage_ledger_bytes" []
        "Size of the records in the usage ledger, which `usage.max_size` limits.";
    USAGE_WRITTEN: GAUGE "stockaj_gateway_usage_written_timestamp_seconds" []
        "Time of the last write to the usage ledger.";
    USAGE_WRITE_ERRORS: COUNTER "stockaj_gateway_usage_write_errors_total" []
        "Failed writes to the usage ledger.";
    USAGE_DROPPED: COUNTER "stockaj_gateway_usage_requests_dropped_total" []
        "Requests missing in the usage ledger because it was full.";
    QUOTA_TOKENS: GAUGE "stockaj_gateway_quota_tokens" []
        "Tokens with a count for `rate_limit.quota`.";
    QUOTA_WRITE_ERRORS: COUNTER "stockaj_gateway_quota_write_errors_total" []
        "Failed attempts to read or write the counts of quotas.";
    BUILD_INFO: GAUGE "stockaj_gateway_build_info" ["version"]
        "Version of the gateway; always 1.";
    LOG_LINES_DROPPED: COUNTER "stockaj_gateway_log_lines_dropped_total" []
        "Log lines dropped because the reader of the log is too slow.";
    PROCESS_CPU: COUNTER "process_cpu_seconds_total" []
        "User and system CPU time.";
    PROCESS_MEMORY: GAUGE "process_resident_memory_bytes" []
        "Resident memory.";
    PROCESS_OPEN_FDS: GAUGE "process_open_fds" []
        "Open file descriptors.";
    PROCESS_MAX_FDS: GAUGE "process_max_fds" []
        "Soft limit of open file descriptors.";
    PROCESS_START_TIME: GAUGE "process_start_time_seconds" []
        "Start time of the process.";
}

/// The collector.
pub(super) struct Sum {
    shared: Arc<MetricsState>,
    descriptions: Vec<Desc>,
}

impl Sum {
    pub(super) fn new(shared: Arc<MetricsState>) -> Self {
        let description = |shape: &&Shape| {
            let labels = shape.labels.iter().map(|label| (*label).to_owned()).collect();
            Desc::new(shape.name.to_owned(), shape.help.to_owned(), labels, HashMap::new()).ok()
        };
        Self { shared, descriptions: SHAPES.iter().filter_map(description).collect() }
    }
}

impl Collector for Sum {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut families = Vec::with_capacity(SHAPES.len());
        self.requests(&mut families);
        self.workers(&mut families);
        self.tunnels(&mut families);
        self.oldest_verdict(&mut families);
        self.tokens(&mut families);
        self.shadow(&mut families);
        self.usage(&mut families);
        let quota = &self.shared.quota;
        if quota.is_kept() {
            families.push(QUOTA_TOKENS.single(read(&quota.tokens) as f64));
            families.push(QUOTA_WRITE_ERRORS.single(read(&quota.write_errors) as f64));
        }
        self.process(&mut families);
        families
    }
}

impl Sum {
    fn requests(&self, families: &mut Vec<MetricFamily>) {
        let mut requests = Vec::new();
        let mut durations = Vec::new();
        for row in &self.shared.routes().rows {
            let mut add = |shards: &[&RouteShard], listener: Option<&str>| {
                let mut counts = BTreeMap::<shard::RequestLabels, u64>::new();
                for shard in shards {
                    shard.for_each(|labels, count| *counts.entry(labels).or_default() += count);
                }
                for (labels, count) in counts {
                    let values = [&row.template, labels.method, &labels.status_text(), labels.reason];
                    requests.push(of_listener(REQUESTS.counter(&values, count as f64), listener));
                }
                let duration = HistogramSum::of(shards.iter().map(|shard| &shard.duration));
                if duration.count() > 0 {
                    let duration = REQUEST_DURATION.histogram(&[&row.template], &duration);
                    durations.push(of_listener(duration, listener));
                }
            };
            let forwarded: Vec<&RouteShard> = row.shards.iter().map(|shard| &**shard).collect();
            add(&forwarded, None);
            let described: Vec<&RouteShard> =
                row.described.iter().filter_map(|shard| Some(&**shard.get()?)).collect();
            add(&described, Some("decision"));
        }
        families.push(REQUESTS.family(requests));
        families.push(REQUEST_DURATION.family(durations));
    }

    fn workers(&self, families: &mut Vec<MetricFamily>) {
        let shards = &self.shared.shards;
        families.push(PHASE_DURATION.each(TimedPhase::ALL, |shape, phase| {
            let sum = HistogramSum::of(shards.iter().map(|shard| &shard.phases[*phase as usize]));
            shape.histogram(&[phase.as_str()], &sum)
        }));
        families.push(CACHE_LOOKUPS.each(LookupResult::ALL, |shape, result| {
            let sum: u64 = shards.iter().map(|shard| read(&shard.cache_lookups[*result as usize])).sum();
            shape.counter(&[result.as_str()], sum as f64)
        }));
        families.push(HANDSHAKE_FAILURES.each(HandshakeFailure::ALL, |shape, reason| {
            let sum: u64 = shards.iter().map(|shard| read(&shard.handshake_failures[*reason as usize])).sum();
            shape.counter(&[reason.as_str()], sum as f64)
        }));
        families.push(CLIENT_CONNECTIONS.each(ConnectionUse::ALL, |shape, state| {
            let one = |shard: &Arc<shard::Shard>| shard.client_connections[*state as usize].load(Relaxed);
            shape.gauge(&[state.as_str()], shards.iter().map(one).sum::<i64>() as f64)
        }));
        families.push(BACKEND_CONNECTIONS.each(ConnectionUse::ALL, |shape, state| {
            let one = |shard: &Arc<shard::Shard>| shard.backend_connections[*state as usize].load(Relaxed);
            shape.gauge(&[state.as_str()], shards.iter().map(one).sum::<i64>() as f64)
        }));
    }

    fn oldest_verdict(&self, families: &mut Vec<MetricFamily>) {
        let oldest = self.shared.shards.iter().flat_map(|shard| &shard.oldest_verdicts).map(read).max();
        families.push(OLDEST_VERDICT.single(oldest.unwrap_or_default() as f64 / 1e9));
    }

    fn tunnels(&self, families: &mut Vec<MetricFamily>) {
        let waiting: i64 = self.shared.shards.iter().map(|shard| shard.queue_length.load(Relaxed)).sum();
        families.push(BACKEND_QUEUE_LENGTH.single(waiting as f64));
        let open: i64 = self.shared.shards.iter().map(|shard| shard.tunnels.load(Relaxed)).sum();
        families.push(TUNNELS.single(open as f64));
    }

    fn tokens(&self, families: &mut Vec<MetricFamily>) {
        let shared = &self.shared;
        families.push(INTROSPECTIONS.each(IntrospectionOutcome::ALL, |shape, outcome| {
            shape.counter(&[outcome.as_str()], read(&shared.introspections[*outcome as usize]) as f64)
        }));
        let in_flight = shared.introspections_in_flight.load(Relaxed);
        families.push(INTROSPECTIONS_IN_FLIGHT.single(in_flight as f64));
        for (shape, limit) in [
            (INTROSPECTIONS_LIMIT, &shared.introspections_limit),
            (CLIENT_CONNECTIONS_LIMIT, &shared.client_connections_limit),
        ] {
            let limit = read(limit);
            if limit > 0 {
                families.push(shape.single(limit as f64));
            }
        }
        families.push(CACHE_ENTRIES.each(EntryKind::ALL, |shape, kind| {
            shape.gauge(&[kind.as_str()], read(&shared.cache_entries[*kind as usize]) as f64)
        }));
        let mut evictions = Vec::new();
        for kind in EntryKind::ALL {
            for cause in EvictionCause::ALL {
                let count = read(&shared.cache_evictions[*kind as usize][*cause as usize]);
                evictions.push(CACHE_EVICTIONS.counter(&[kind.as_str(), cause.as_str()], count as f64));
            }
        }
        families.push(CACHE_EVICTIONS.family(evictions));
        families.push(REVOCATIONS.each(RevocationSource::ALL, |shape, source| {
            shape.counter(&[source.as_str()], read(&shared.revocations[*source as usize]) as f64)
        }));
        families.push(BLOCKED_TOKENS.each(&BLOCK_KINDS, |shape, (index, kind)| {
            shape.gauge(&[kind], shared.blocks.get(*index).map_or(0, read) as f64)
        }));
        families.push(BLOCK_WRITE_ERRORS.single(read(&shared.block_write_errors) as f64));
        families.push(WEBHOOKS.each(WebhookOutcome::ALL, |shape, outcome| {
            shape.counter(&[outcome.as_str()], read(&shared.webhooks[*outcome as usize]) as f64)
        }));
        let connected = read(&shared.redis_connected);
        if connected < 2 {
            families.push(REDIS_CONNECTED.single(connected as f64));
            families.push(REDIS_MESSAGES.each(RedisMessage::ALL, |shape, what| {
                shape.counter(&[what.as_str()], read(&shared.redis_messages[*what as usize]) as f64)
            }));
        }
        let replicas = read(&shared.shares.replicas);
        if replicas > 0 {
            families.push(REPLICAS.single(replicas as f64));
            families.push(SHARED_LIMITS.single(read(&shared.shares.limits) as f64));
            families.push(SHARES_EXCHANGED_AT.single(read(&shared.shares.exchanged_at) as f64));
            families.push(SHARE_EXCHANGES.each(ShareExchange::ALL, |shape, outcome| {
                shape.counter(&[outcome.as_str()], read(&shared.shares.exchanges[*outcome as usize]) as f64)
            }));
        }
        if shared.traces.load(Relaxed) {
            families.push(SPANS.each(SpanOutcome::ALL, |shape, outcome| {
                shape.counter(&[outcome.as_str()], read(&shared.spans[*outcome as usize]) as f64)
            }));
        }
    }

    fn shadow(&self, families: &mut Vec<MetricFamily>) {
        let shared = &self.shared;
        let counts = shared.shadow.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let routes = shared.routes();
        let mut metrics = Vec::with_capacity(counts.len());
        for ((change, side, route, method), count) in counts {
            if let Some(row) = routes.rows.get(route.0) {
                let values = [change.as_str(), &row.template, method, side.as_str()];
                metrics.push(SHADOW.counter(&values, count as f64));
            }
        }
        drop(routes);
        families.push(SHADOW.family(metrics));
        families.push(SHADOW_MODE.single(shared.shadow_mode.load(Relaxed).into()));
    }

    fn usage(&self, families: &mut Vec<MetricFamily>) {
        let usage = &self.shared.usage;
        if !usage.is_kept() {
            return;
        }
        let mut requests = Vec::new();
        usage.for_each_request(|ability, is_allowed, count| {
            let verdict = if is_allowed { "allowed" } else { "denied" };
            requests.push(USAGE_REQUESTS.counter(&[ability, verdict], count as f64));
        });
        families.push(USAGE_REQUESTS.family(requests));
        let findings = usage.findings();
        let findings = findings
            .iter()
            .map(|((kind, severity), count)| USAGE_FINDINGS.gauge(&[kind, severity], *count as f64));
        families.push(USAGE_FINDINGS.family(findings.collect()));
        families.push(USAGE_TOKENS.single(read(&usage.tokens) as f64));
        families.push(USAGE_BYTES.single(read(&usage.bytes) as f64));
        let written_at = read(&usage.written_at);
        if written_at > 0 {
            families.push(USAGE_WRITTEN.single(written_at as f64));
        }
        families.push(USAGE_WRITE_ERRORS.single(read(&usage.write_errors) as f64));
        families.push(USAGE_DROPPED.single(read(&usage.dropped) as f64));
    }

    fn process(&self, families: &mut Vec<MetricFamily>) {
        let shared = &self.shared;
        let version = env!("CARGO_PKG_VERSION");
        families.push(BUILD_INFO.family(vec![BUILD_INFO.gauge(&[version], 1.0)]));
        families.push(LOG_LINES_DROPPED.single(read(&shared.log_lines_dropped) as f64));
        let success = read(&shared.config_reload_success);
        if success < 2 {
            families.push(CONFIG_RELOAD_SUCCESS.single(success as f64));
        }
        let loaded_at = read(&shared.config_reload_timestamp);
        if loaded_at > 0 {
            families.push(CONFIG_RELOAD_TIMESTAMP.single(loaded_at as f64));
        }
        let certificates = shared.certificates.lock().unwrap_or_else(PoisonError::into_inner);
        families.push(
            CERTIFICATE_EXPIRY
                .each(&certificates, |shape, it| shape.gauge(&[&it.file], it.expires_at as f64)),
        );
        families.push(
            CERTIFICATE_RELOAD_SUCCESS
                .each(&certificates, |shape, it| shape.gauge(&[&it.file], it.is_current.into())),
        );
        drop(certificates);
        families.push(REDIRECTS.single(read(&shared.redirects) as f64));
        let process = process::read();
        for (shape, value) in [
            (PROCESS_CPU, process.cpu_seconds),
            (PROCESS_MEMORY, process.resident_bytes),
            (PROCESS_OPEN_FDS, process.open_fds),
            (PROCESS_MAX_FDS, process.max_fds),
            (PROCESS_START_TIME, process.start_time),
        ] {
            families.extend(value.map(|value| shape.single(value)));
        }
    }
}

fn read(value: &AtomicU64) -> u64 {
    value.load(Relaxed)
}

/// Adds the label `listener`, which the series of the proxy listener lack.
fn of_listener(mut metric: Metric, listener: Option<&str>) -> Metric {
    if let Some(listener) = listener {
        let mut labels = metric.take_label();
        labels.push(pair("listener", listener));
        metric.set_label(labels);
    }
    metric
}

fn pair(name: &str, value: &str) -> LabelPair {
    let mut pair = LabelPair::default();
    pair.set_name(name.to_owned());
    pair.set_value(value.to_owned());
    pair
}

/// One histogram, added up over the workers.
struct HistogramSum {
    buckets: [u64; BOUNDS.len() + 1],
    nanoseconds: u128,
}

impl HistogramSum {
    fn of<'a>(histograms: impl Iterator<Item = &'a Histogram>) -> Self {
        let mut sum = Self { buckets: [0; BOUNDS.len() + 1], nanoseconds: 0 };
        for histogram in histograms {
            for (total, bucket) in sum.buckets.iter_mut().zip(&histogram.buckets) {
                *total += read(bucket);
            }
            sum.nanoseconds += u128::from(read(&histogram.sum));
        }
        sum
    }

    fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }
}

impl Shape {
    fn family(&self, metrics: Vec<Metric>) -> MetricFamily {
        let mut family = MetricFamily::default();
        family.set_name(self.name.to_owned());
        family.set_help(self.help.to_owned());
        family.set_field_type(self.kind);
        family.set_metric(metrics);
        family
    }

    /// A family with one metric for each of `values`.
    fn each<T>(&self, values: &[T], metric: impl Fn(&Self, &T) -> Metric) -> MetricFamily {
        self.family(values.iter().map(|value| metric(self, value)).collect())
    }

    /// A family of one counter or gauge without labels.
    fn single(&self, value: f64) -> MetricFamily {
        let metric = match self.kind {
            MetricType::COUNTER => self.counter(&[], value),
            _ => self.gauge(&[], value),
        };
        self.family(vec![metric])
    }

    fn metric(&self, values: &[&str]) -> Metric {
        debug_assert_eq!(self.labels.len(), values.len());
        Metric::from_label(self.labels.iter().zip(values).map(|(name, value)| pair(name, value)).collect())
    }

    fn counter(&self, values: &[&str], value: f64) -> Metric {
        let mut counter = Counter::default();
        counter.set_value(value);
        let mut metric = self.metric(values);
        metric.set_counter(counter);
        metric
    }

    fn gauge(&self, values: &[&str], value: f64) -> Metric {
        let mut gauge = Gauge::default();
        gauge.set_value(value);
        let mut metric = self.metric(values);
        metric.set_gauge(gauge);
        metric
    }

    fn histogram(&self, values: &[&str], sum: &HistogramSum) -> Metric {
        let mut cumulative = 0;
        let bucket = |(bound, count): (&u64, &u64)| {
            cumulative += count;
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(*bound as f64 / 1e9);
            bucket.set_cumulative_count(cumulative);
            bucket
        };
        let mut histogram = HistogramValue::default();
        histogram.set_bucket(BOUNDS.iter().zip(&sum.buckets).map(bucket).collect());
        histogram.set_sample_count(sum.count());
        histogram.set_sample_sum(sum.nanoseconds as f64 / 1e9);
        let mut metric = self.metric(values);
        metric.set_histogram(histogram);
        metric
    }
}
