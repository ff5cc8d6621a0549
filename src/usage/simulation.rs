//! Simulates a month of 500 tokens with the shipped map, counted and written as the gateway does. The report must
//! have exactly the findings that were planted.

mod population;
mod traffic;

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant, SystemTime};

use jiff::civil::Date;
use jiff::{Timestamp, ToSpan};
use tokio::sync::watch;

use self::population::{SimulatedToken, population};
use self::traffic::{Call, Traffic};
use super::batch::{CountedOutcome, CountedRequest, TokenDescription};
use super::count::{Schedule, WorkerUsage};
use super::findings::sort;
use super::ledger::{Bounds, Ledger};
use super::message::{LedgerView, Message};
use super::pending::{Pending, day};
use super::query::ReportQuery;
use super::report::{FindingKind, Report};
use super::report_stream::ReportStream;
use super::rules::Rules;
use super::source::Source;
use crate::config;
use crate::config::settings::FindingRules;
use crate::policy::ability::Abilities;
use crate::policy::decision::{KnownCaller, RouteInputs, decide, read_request};
use crate::policy::map::{AbilityMap, RouteMatch};

/// The first day, and the number of days.
const FIRST: Date = jiff::civil::date(2026, 10, 29);
const DAYS: u32 = 30;
/// The time of the report: noon of the day after the last.
const NOW: &str = "2026-11-28T12:00:00Z";

/// A time on a simulated day.
fn moment(number: u32, second: u32) -> Timestamp {
    let date = FIRST.saturating_add(i64::from(number).days());
    let start: Timestamp = format!("{date}T00:00:00Z").parse().unwrap();
    start + i64::from(second).seconds()
}

fn system_time(time: Timestamp) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(time.as_millisecond().try_into().unwrap())
}

fn now() -> Timestamp {
    NOW.parse().unwrap()
}

/// The shipped map, plus two routes with several abilities.
fn map(directory: &Path) -> AbilityMap {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/stockaj.yaml");
    let text = format!(
        "abilities:\n  file: {}\n  routes:\n    \
         /api/v2/reports/{{*rest}}: {{GET: {{any: [items:read, rents:read]}}}}\n    \
         /api/v2/exports: {{POST: {{all: [items:read, rents:read]}}}}\n",
        shipped.display()
    );
    let file = directory.join("gateway.yaml");
    fs::write(&file, text).unwrap();
    config::load_abilities(&file).unwrap().map
}

/// A gateway with its own ledger.
struct Replica {
    rules: Arc<Rules>,
    ledger: Ledger,
}

impl Replica {
    fn new(path: &Path) -> Self {
        Self { rules: Arc::default(), ledger: Ledger::open(path).unwrap() }
    }

    /// Counts and writes the calls of one day.
    fn serve(&mut self, map: &AbilityMap, tokens: &[SimulatedToken], number: u32, calls: &[&Call]) {
        let numbers = self.rules.register(map);
        let (sender, receiver) = sync_channel(8);
        let (_schedule, schedule) = watch::channel(Schedule::default());
        let worker = WorkerUsage::new(0, sender, schedule);
        let slots: Vec<Cell<u64>> = tokens.iter().map(|_| Cell::new(0)).collect();
        // The monotonic time of the start of the day.
        let start = Instant::now();
        for call in calls {
            let token = &tokens[call.token];
            let abilities = Abilities::new(token.abilities_on(number).iter().map(String::as_str));
            let (method, path) = read_request(map, call.method, &call.path).unwrap();
            let found = map.find(&method, &path);
            let route = match found {
                RouteMatch::Rule { route, .. } | RouteMatch::NoMethod { route } => Some(route),
                RouteMatch::NoRoute => None,
            };
            let outcome =
                match decide(map, &found, RouteInputs::default(), &KnownCaller::with(abilities.clone())) {
                    Ok(_) => CountedOutcome::Allowed,
                    Err(_) => CountedOutcome::Denied,
                };
            let request = CountedRequest {
                rule: numbers.number(route, &method).unwrap(),
                outcome,
                client: Some(call.client),
                plain_http: call.plain_http,
                wrong_network: false,
                now: start + Duration::from_secs(call.second.into()),
            };
            worker.count(&slots[call.token], &request, || describe(token, abilities));
        }
        drop(worker);
        let mut pending = Pending::default();
        for message in receiver {
            let Message::Batch(mut batch) = message else { continue };
            let into_the_day = batch.began.0.saturating_duration_since(start);
            batch.began.1 = system_time(moment(number, 0)) + into_the_day;
            assert_eq!(pending.add(*batch), 0);
        }
        let since = day(system_time(moment(0, 0)));
        self.ledger.write(&pending, &self.rules, Bounds { since, max_size: 1 << 30 }).unwrap();
    }

    fn report(&self) -> Report {
        let view = LedgerView { source: Some(Source::of(&self.ledger)), unwritten: None };
        ReportStream::new(&view, &ReportQuery::default(), &FindingRules::default(), now())
            .unwrap()
            .report()
            .unwrap()
    }
}

fn describe(token: &SimulatedToken, abilities: Abilities) -> TokenDescription {
    TokenDescription {
        id: token.id.to_string().into(),
        name: token.name.as_deref().map(Into::into),
        context: token.context.map(Into::into),
        workspace_id: None,
        abilities,
        created_at: token.created_at.map(system_time),
        expires_at: token.expires_at.map(system_time),
    }
}

/// Kind, token and abilities of each planted finding.
type Planted = BTreeSet<(FindingKind, String, Vec<String>)>;

/// Simulates a month with `replicas` replicas. Returns their summed report and the planted findings.
fn simulate(replicas: usize, seed: u64) -> (Report, Planted) {
    let directory = tempfile::tempdir().unwrap();
    let map = map(directory.path());
    let mut random = fastrand::Rng::with_seed(seed);
    let tokens = population(&mut random);
    let traffic = Traffic::new(&map);
    let mut served = 0;
    let mut gateways: Vec<Replica> =
        (0..replicas).map(|number| Replica::new(&directory.path().join(format!("{number}.redb")))).collect();
    for number in 0..DAYS {
        let calls = traffic.of_day(number, &tokens, &mut random);
        served += calls.len() as u64;
        let mut shares = vec![Vec::new(); replicas];
        calls.iter().for_each(|call| shares[random.usize(..replicas)].push(call));
        for (gateway, share) in gateways.iter_mut().zip(&shares) {
            gateway.serve(&map, &tokens, number, share);
        }
    }
    let mut report = Report::default();
    gateways.iter().for_each(|gateway| report.add(gateway.report()).unwrap());
    report.assess(&FindingRules::default(), now());
    let days = report.tokens.iter().flat_map(|token| token.days.values());
    assert_eq!(days.map(|day| day.allowed + day.denied).sum::<u64>(), served, "each request is counted once");
    assert_eq!((report.tokens.len(), report.ledgers.len()), (tokens.len(), replicas));
    let planted = tokens.into_iter().flat_map(SimulatedToken::into_planted).collect();
    (report, planted)
}

fn assert_planted(replicas: usize, seed: u64) {
    let (report, planted) = simulate(replicas, seed);
    let found: Planted =
        report.findings.iter().map(|it| (it.kind, it.token.clone(), it.abilities.clone())).collect();
    let missed: Vec<_> = planted.difference(&found).collect();
    let unexpected: Vec<_> = found.difference(&planted).collect();
    assert!(missed.is_empty() && unexpected.is_empty(), "missed: {missed:#?}\nunexpected: {unexpected:#?}");
    assert_eq!(found.len(), report.findings.len(), "no finding is repeated");
    let kinds: BTreeSet<FindingKind> = found.iter().map(|(kind, _, _)| *kind).collect();
    assert_eq!(kinds.len(), 9, "{kinds:?}");
    let mut sorted = report.findings.clone();
    sort(&mut sorted);
    assert_eq!(sorted, report.findings);
    for finding in &report.findings {
        assert!(finding.evidence.len() < 1000 && !finding.advice.is_empty(), "{finding:?}");
    }
}

#[test]
fn month_of_500_tokens_has_exactly_the_planted_findings() {
    assert_planted(1, 7);
}

#[test]
fn two_replicas_together_have_exactly_the_planted_findings() {
    assert_planted(2, 11);
}
