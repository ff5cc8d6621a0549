//! The tables again in shadow mode: every outcome holds except the 403 of the map.

use super::{ArrivesThenRefused, Case, Refused, start};

/// A candidate map that makes everything public.
const OPEN: &str = "\
routes:
  /:        {GET: public, POST: public, PUT: public, PATCH: public, DELETE: public, OPTIONS: public}
  /{*rest}: {GET: public, POST: public, PUT: public, PATCH: public, DELETE: public, OPTIONS: public}
";

/// Preflights for requests that would get 400.
const REFUSED: [&str; 4] = [
    "403: a preflight for a method that is not served",
    "403: a preflight for a method in lower case",
    "403: a preflight for several methods",
    "403: a preflight for no path",
];

fn cases() -> impl Iterator<Item = Case> {
    // Limits and networks are tested with settings of their own.
    let [tables @ .., _limits, _networks] = super::tables();
    let tables: [Vec<Case>; 6] = tables;
    tables.into_iter().flatten()
}

#[test]
fn candidate_map_permits_no_attack() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), OPEN).unwrap();
    let env = start(&format!("shadow: {}\n", file.path().display()));
    env.run_attacks(&cases().collect::<Vec<_>>());
    assert!(env.gateway.metrics().metric("shadow_total{change=\"would_allow\"}") > 100.0);
}

#[test]
fn shadow_mode_permits_only_denials_of_the_map() {
    let env = start("mode: shadow\n");
    let of_the_map = |case: &Case| matches!(case.outcome, Refused(403) | ArrivesThenRefused(_, 403));
    let (forgiven, rest): (Vec<_>, Vec<_>) = cases().partition(of_the_map);
    assert!(forgiven.len() > 20 && rest.len() > 200, "{} and {}", forgiven.len(), rest.len());
    env.run_attacks(&rest);
    assert_eq!(env.gateway.metrics().metric("shadow_total"), 0.0);
    let mut refused = Vec::new();
    for case in forgiven {
        let mut client = env.gateway.client();
        client.send(&case.sent);
        let response = client.try_response(case.is_head()).unwrap();
        if response.status != 200 {
            refused.push(format!("{}: {}", response.status, case.name));
        }
    }
    assert_eq!(refused, REFUSED);
}
