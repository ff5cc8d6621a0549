//! A real Laravel behind the gateway: dispatched requests, and returned responses.
//!
//! A token's name contains its abilities: `1|items:read+rents:read`.

mod ordinary;
mod queries;
mod settings;
mod site;
mod tokens;
mod tricks;

use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpStream;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use stockaj_gateway::internals::policy::ability::{Abilities, Requirement, RequirementKind};
use stockaj_gateway::internals::policy::map::AbilityMap;

use self::site::{Entry, Front, Response, Site, exchange};
use self::tricks::Case;
use crate::model::{self, Laravel};
use crate::support::{Gateway, Introspector, PATIENCE, Verdict};

/// The abilities of the token with that name.
fn abilities(token: &str) -> Abilities {
    let (_, names) = token.split_once('|').unwrap_or_default();
    Abilities::new(names.split('+').filter(|name| !name.is_empty()))
}

/// A token with exactly the abilities of a requirement.
fn token_for(requirement: &Requirement) -> String {
    let all: Vec<&str> = requirement.abilities().collect();
    let wanted = match requirement.kind() {
        RequirementKind::Any(_) => &all[..1],
        _ => &all[..],
    };
    format!("1|{}", wanted.join("+"))
}

/// The reason why a request should not have been dispatched.
fn violation(map: &AbilityMap, entry: &Entry) -> Option<String> {
    let requirement = entry.dispatched.requirement(map);
    let is_public = *requirement.kind() == RequirementKind::Public;
    let is_allowed = match &entry.token {
        Some(token) => requirement.check(&abilities(token)).is_ok(),
        None => is_public,
    };
    (!is_allowed || (entry.cookies > 0 && !is_public)).then(|| format!("{entry:?} needs `{requirement}`"))
}

/// An introspector that accepts every token of the cases.
fn introspector<'a>(tokens: impl Iterator<Item = &'a str>) -> Introspector {
    let introspector = Introspector::start();
    for token in tokens.collect::<BTreeSet<_>>() {
        let names: Vec<String> = abilities(token).names().map(str::to_owned).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        introspector.set_verdict(token, Verdict::active(&names));
    }
    introspector
}

fn gateway(site: &Site, front: Front, yaml: &str, introspector: &Introspector) -> Gateway {
    let backend = format!("backend:\n  url: {}\n", site.url(front));
    let yaml = format!("{backend}log: {{access: false}}\n{yaml}");
    Gateway::builder().introspector(introspector).yaml(&yaml).start()
}

fn connect(gateway: &Gateway) -> TcpStream {
    let stream = TcpStream::connect(gateway.address()).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Runs a function for each item on a few threads.
fn for_each<T: Sync>(all: &[T], act: impl Fn(usize, &T) + Sync) {
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let Some(it) = all.get(number) else { break };
                    act(number, it);
                }
            });
        }
    });
}

/// Sends every case.
fn send_all(cases: &[Case], send: impl Fn(&[u8], bool) -> Option<Response> + Sync) {
    for_each(cases, |number, case| {
        send(&case.bytes(number), case.sent.method == "HEAD");
    });
}

/// The dispatched request of each case. Panics if Laravel dispatched twice, or without a case.
fn by_case(cases: &[Case], entries: Vec<Entry>) -> BTreeMap<usize, (&Case, Entry)> {
    let mut by_case = BTreeMap::new();
    for entry in entries {
        let number = entry.case.unwrap_or_else(|| panic!("dispatched without a case: {entry:?}"));
        let case = &cases[number];
        let earlier = by_case.insert(number, (case, entry));
        assert!(earlier.is_none(), "two dispatches for {case:?}: {earlier:?} and {:?}", by_case[&number]);
    }
    by_case
}

#[test]
#[ignore = "needs laravel: tests/run"]
fn laravel_dispatches_no_route_without_its_ability() {
    // Tokens without abilities, and with the abilities of a map's weak rules.
    const POWERLESS: [&str; 2] = ["2|", "3|items:read"];
    let maps = model::maps();
    let strict = model::compile(&maps[0].1);
    let laravel = Laravel::with_routes_of(&strict);
    let own = tricks::all(&strict);
    let powerless: Vec<Case> = POWERLESS
        .iter()
        .flat_map(|token| own.iter().map(|case| case.clone().with_token((*token).to_owned())))
        .collect();
    let site = Site::start(&laravel);
    let introspector = introspector(own.iter().chain(&powerless).map(|case| case.token.as_str()));
    // Requests with their own token are served under every map; those with weak tokens reveal weaker rules.
    for ((name, abilities), front, method_override, cases, least) in [
        (&maps[0], Front::Cached, "pin", &own, 1000),
        (&maps[0], Front::Plain, "honour", &own, 1000),
        (&maps[0], Front::Plain, "pin", &powerless, 100),
        (&maps[1], Front::Plain, "pin", &powerless, 100),
        (&maps[2], Front::Cached, "honour", &powerless, 100),
        (&maps[2], Front::Serve, "pin", &own, 1000),
        (&maps[2], Front::Serve, "honour", &powerless, 100),
    ] {
        let yaml = format!("backend:\n  method_override: {method_override}\n{abilities}");
        let gateway = gateway(&site, front, &yaml, &introspector);
        send_all(cases, |bytes, to_head| exchange(connect(&gateway), bytes, to_head));
        let dispatched = by_case(cases, site.take_dispatches());
        let violations: Vec<String> = dispatched
            .values()
            .filter_map(|(case, entry)| Some(format!("{}: {case:?}", violation(&strict, entry)?)))
            .collect();
        println!(
            "{name}, {front:?}, {method_override}: of {} requests Laravel dispatched {}, {} of them wrongly",
            cases.len(),
            dispatched.len(),
            violations.len()
        );
        assert!(violations.is_empty(), "{name}: {}", violations.join("\n"));
        assert!(dispatched.len() > least && cases.len() - dispatched.len() > 1000, "{name}");
    }
}

/// The same requests sent to Laravel directly: the model predicts each dispatch, and many of them are requests that the
/// gateway has to reject.
#[test]
#[ignore = "needs laravel: tests/run"]
fn model_predicts_the_dispatch_of_laravel() {
    let strict = model::compile(&model::maps()[0].1);
    let laravel = Laravel::with_routes_of(&strict);
    let cases = tricks::all(&strict);
    let site = Site::start(&laravel);
    for front in [Front::Plain, Front::Cached] {
        send_all(&cases, |bytes, to_head| exchange(site.connect(front), bytes, to_head));
        let dispatched = by_case(&cases, site.take_dispatches());
        let unlawful = dispatched.values().filter(|(_, entry)| violation(&strict, entry).is_some()).count();
        println!(
            "{front:?}: of {} requests Laravel dispatched {}, {unlawful} of them without the ability",
            cases.len(),
            dispatched.len()
        );
        assert!(unlawful > 300, "{front:?}: no case shows that the gateway is needed");

        let disagreements: Vec<String> = cases
            .iter()
            .enumerate()
            .filter_map(|(number, case)| {
                let expected = laravel.dispatches(&case.sent);
                let seen = dispatched.get(&number).map(|(_, entry)| &entry.dispatched);
                (expected.as_ref() != seen).then(|| format!("{expected:?} was {seen:?}: {:?}", case.sent))
            })
            .collect();
        assert!(
            disagreements.is_empty(),
            "{front:?}, {} disagreements:\n{}",
            disagreements.len(),
            disagreements.join("\n")
        );
    }
}

#[test]
#[ignore = "needs laravel: tests/run"]
fn ordinary_requests_get_the_response_of_laravel_unchanged() {
    const TOKEN: &str = "9|*";
    let maps = model::maps();
    let laravel = Laravel::with_routes_of(&model::compile(&maps[0].1));
    let requests = ordinary::all(&laravel);
    let site = Site::start(&laravel);
    let introspector = introspector([TOKEN].into_iter());
    let options = "    /api/v2/tags: {GET: items:read, POST: items:create, OPTIONS: authenticated}\n";
    let gateway = gateway(&site, Front::Plain, &format!("{}{options}", maps[1].1), &introspector);
    let statuses = Mutex::new(BTreeMap::<u16, u32>::new());
    for_each(&requests, |_, request| {
        let (bytes, to_head) = (request.bytes(TOKEN), request.method == "HEAD");
        let straight = exchange(site.connect(Front::Plain), &bytes, to_head).map(comparable);
        let through = exchange(connect(&gateway), &bytes, to_head).map(comparable);
        assert_eq!(through, straight, "{request:?}");
        let (status, fields, _) = straight.unwrap_or_else(|| panic!("no response to {request:?}"));
        let is_compressed = fields.iter().any(|(name, _)| name == "content-encoding");
        assert_eq!(is_compressed, request.fields.contains(&ordinary::COMPRESSED), "{request:?}");
        *statuses.lock().unwrap().entry(status).or_default() += 1;
    });
    let count = requests.len();
    gateway.wait_for_metric("requests_total", count as f64);
    let passed = ["allowed", "public"].map(|reason| format!("requests_total{{reason=\"{reason}\"}}"));
    let metrics = gateway.metrics();
    assert_eq!(passed.iter().map(|it| metrics.metric(it)).sum::<f64>(), count as f64);
    println!("{count} requests, answered with {:?}", statuses.lock().unwrap());
    assert!(count > 400 && statuses.lock().unwrap().len() > 40);
}

/// Status, fields and body of a response, without hop-by-hop and time-dependent fields and without the gateway's
/// request id.
fn comparable(response: Response) -> (u16, Vec<(String, String)>, Vec<u8>) {
    const OWN: [&str; 5] = ["connection", "date", "keep-alive", "transfer-encoding", "x-request-id"];
    let fields = response.fields.0.into_iter().map(|(name, value)| (name.to_ascii_lowercase(), value));
    let mut fields: Vec<_> = fields.filter(|(name, _)| !OWN.contains(&name.as_str())).collect();
    // The order of fields with the same name is kept.
    fields.sort_by(|(one, _), (other, _)| one.cmp(other));
    (response.status, fields, response.body)
}
