//! Measures the memory and disk usage of very many tokens: `cargo bench --bench ledger`.
//!
//! 100,000 tokens use 25 abilities each in one flush interval, the worst case for a ledger. It is a separate program,
//! since it measures the memory of the process.

#![allow(clippy::expect_used, clippy::print_stdout)]

use std::cell::Cell;
use std::fs;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::Method;
use jiff::Timestamp;
use stockaj_gateway::internals::config::settings::{self, FindingRules};
use stockaj_gateway::internals::policy::ability::{Abilities, Requirement};
use stockaj_gateway::internals::policy::map::{MapBuilder, Unmapped};
use stockaj_gateway::internals::telemetry::metrics::Metrics;
use stockaj_gateway::internals::usage::batch::{CountedOutcome, CountedRequest, TokenDescription};
use stockaj_gateway::internals::usage::query::ReportQuery;
use stockaj_gateway::internals::usage::report_stream::ReportStream;
use stockaj_gateway::internals::usage::writer::Usage;
use tokio::task::LocalSet;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const TOKENS: usize = 100_000;
const ABILITIES: usize = 25;

fn main() {
    // `cargo test --benches` also runs it.
    let tokens = if std::env::args().any(|argument| argument == "--bench") { TOKENS } else { 100 };
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("usage.redb");
    let settings = settings::Usage {
        path: path.clone(),
        flush_interval: Duration::from_secs(10),
        retention: Duration::from_secs(90 * 24 * 60 * 60),
        max_size: 1 << 30,
        findings: FindingRules::default(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    LocalSet::new().block_on(&runtime, measure(&settings, tokens));
}

async fn measure(settings: &settings::Usage, tokens: usize) {
    let names: Vec<String> = (0..ABILITIES).map(|number| format!("resource-{number}:manage")).collect();
    let mut builder = MapBuilder::new(Unmapped::Deny);
    for name in &names {
        let requirement = Requirement::from_word(name).expect("an ability");
        builder
            .route(&format!("/api/v2/{name}/{{id}}"), [(Method::GET, requirement, None)])
            .expect("a route");
    }
    let map = builder.build();
    let metrics = Metrics::new(1);
    let usage = Usage::new(Arc::clone(&metrics), 1);
    let rules = usage.rules(&map);
    usage.apply(Some(settings)).expect("a thread");
    let core = usage.worker(0);
    let handing_over = tokio::task::spawn_local(std::rc::Rc::clone(&core).run());

    let abilities = Abilities::new(names.iter().map(String::as_str));
    let described: Vec<TokenDescription> = (0..tokens)
        .map(|number| TokenDescription {
            id: number.to_string().into(),
            name: Some(format!("integration-{number}-prod").into()),
            context: Some("instance".into()),
            workspace_id: None,
            abilities: abilities.clone(),
            created_at: None,
            expires_at: None,
        })
        .collect();
    let slots: Vec<Cell<u64>> = (0..tokens).map(|_| Cell::new(0)).collect();
    let numbers: Vec<u32> =
        (0..ABILITIES).filter_map(|route| rules.number(Some(route), &Method::GET)).collect();
    println!("{tokens} tokens × {ABILITIES} abilities");
    for round in ["first", "again, all of them once more"] {
        let before = resident();
        let begun = Instant::now();
        for (number, (slot, token)) in slots.iter().zip(&described).enumerate() {
            for rule in &numbers {
                let client = Some(std::net::Ipv4Addr::from(number as u32).into());
                let (outcome, now) = (CountedOutcome::Allowed, begun);
                let request = CountedRequest {
                    rule: *rule,
                    outcome,
                    client,
                    plain_http: false,
                    wrong_network: false,
                    now,
                };
                core.count(slot, &request, || token.clone());
            }
            if number % 1000 == 0 {
                // Until the counts are taken, no more can be counted.
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        let counted = begun.elapsed();
        let in_memory = resident();
        let begun = Instant::now();
        let (view, _turn) = usage.view().await.expect("a ledger");
        println!(
            "{round}: counted in {:.1} s, {:.0} MiB more; written in {:.1} s, {:.0} MiB more; {:.1} MiB on disk",
            counted.as_secs_f64(),
            in_memory - before,
            begun.elapsed().as_secs_f64(),
            resident() - before,
            mebibytes(fs::metadata(&settings.path).map_or(0, |file| file.len())),
        );
        let (begun, before) = (Instant::now(), resident());
        let (mut told, mut requests) = (0, 0);
        let now = Timestamp::now();
        let telling =
            ReportStream::new(&view, &ReportQuery::default(), &settings.findings, now).expect("a ledger");
        let count = |token: stockaj_gateway::internals::usage::report::TokenUsage| {
            told += 1;
            requests += token.usage.iter().map(|row| row.count).sum::<u64>();
            ControlFlow::Continue(())
        };
        telling.tokens(count).expect("tokens");
        println!(
            "  told {told} tokens, {requests} requests in {:.1} s, {:.0} MiB more",
            begun.elapsed().as_secs_f64(),
            resident() - before
        );
    }
    let scrape = metrics.render();
    for line in
        scrape.lines().filter(|line| line.contains("_dropped_total ") || line.contains("ledger_bytes "))
    {
        println!("  {line}");
    }
    handing_over.abort();
    let _ = handing_over.await;
    drop(core);
    usage.stop();
}

/// Resident memory of the process, in MiB.
fn resident() -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok());
    kibibytes.unwrap_or_default() / 1024.0
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / (1024.0 * 1024.0)
}
