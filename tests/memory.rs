//! What the token cache takes in memory, of the real process.

use std::thread;

use crate::support::{Gateway, Introspector, Upstream, Verdict};

const ITEMS: &str = "/api/v2/items";
const MIB: u64 = 1 << 20;

fn setting(yaml: &str) -> (Gateway, Upstream, Introspector) {
    let (upstream, introspector) = (Upstream::start(), Introspector::start());
    let builder = Gateway::builder().backend(&upstream).introspector(&introspector);
    let gateway = builder.yaml("log: {access: false}\n").yaml(yaml).start();
    (gateway, upstream, introspector)
}

/// Long names and many abilities, as large as introspection may answer.
#[test]
fn verdicts_of_any_size_stay_within_max_bytes() {
    const TOKENS: usize = 4000;
    let (gateway, _upstream, introspector) = setting("cache: {ttl: 1h, negative_ttl: 1h, max_bytes: 8MiB}\n");
    let abilities: Vec<String> = (0..30).map(|number| format!("items:read:{number:0>200}")).collect();
    let mut abilities: Vec<&str> = abilities.iter().map(|name| &**name).collect();
    abilities.push("items:read");
    for number in 0..TOKENS {
        let verdict = Verdict::active(&abilities).named(number, &format!("{number:n>255}"));
        introspector.know(&format!("{number}|long"), verdict);
    }
    let fill = |from: usize, to: usize| {
        thread::scope(|scope| {
            for part in 0..4 {
                let gateway = &gateway;
                scope.spawn(move || {
                    let mut client = gateway.client();
                    for number in (from..to).filter(|number| number % 4 == part) {
                        assert_eq!(client.get(ITEMS, Some(&format!("{number}|long"))).status, 200);
                    }
                });
            }
        });
    };
    // Buffers and code that the first requests bring in.
    fill(0, 100);
    let before = gateway.resident_memory();
    fill(100, TOKENS);
    // Evicted entries leave the front caches at the next sweep.
    let entries = gateway.metrics().metric("token_cache_entries{kind=\"active\"}");
    let grown = gateway.resident_memory().saturating_sub(before);
    println!("{entries} of {TOKENS} entries: {} KiB more", grown / 1024);
    assert!((500.0..1200.0).contains(&entries), "{entries}");
    assert!(grown < 8 * MIB * 5 / 4 + 4 * MIB, "{} KiB more", grown / 1024);
}
