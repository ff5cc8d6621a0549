use std::sync::atomic::AtomicUsize;

use super::spellings::MAX_SPELLINGS;
use super::*;
use crate::policy::ability::Abilities;
use crate::policy::expected_claims::Claim;
use crate::tokens::blocklist::record::{Block, BlockSource, BlockSubject};

const TTL: Duration = Duration::from_secs(60);
const STALE: Duration = Duration::from_secs(30);
const INSTANT: Duration = Duration::from_nanos(1);

fn settings() -> settings::Cache {
    settings::Cache {
        ttl: TTL,
        negative_ttl: TTL,
        max_tokens: 1000,
        max_bytes: 64 * 1024 * 1024,
        stale_if_error: STALE,
        max_age: HashMap::new(),
    }
}

fn cache(settings: &settings::Cache) -> TokenCache {
    TokenCache::new(settings, Arc::default(), Arc::default(), Box::new(|_| {}))
}

fn hash(number: u32) -> TokenHash {
    TokenHash::of(number.to_string())
}

/// The hashes of a token without an id.
fn hashes(token: TokenHash) -> TokenHashes {
    TokenHashes { token, secret: token, written_id: None }
}

/// A token of which nothing is known.
fn unknown(hash: &TokenHash) -> Subject<'_> {
    Subject { hash, secret: None, id: None, written_id: None, name: None }
}

fn verdict(id: &str, name: &str) -> Verdict {
    Verdict {
        id: id.into(),
        name: Some(name.into()),
        abilities: Abilities::new(["items:read"]),
        expires_at: None,
        context: None,
        created_at: None,
        workspace_id: None,
        allowed_from: None,
    }
}

fn store_at(cache: &TokenCache, hash: TokenHash, verdict: Verdict, generation: u64) -> Arc<CacheEntry> {
    let now = Instant::now();
    match cache.store(hashes(hash), verdict, generation, now, now, SystemTime::now()) {
        IntrospectionResult::Active(entry) => entry,
        outcome => panic!("{outcome:?}"),
    }
}

fn store(cache: &TokenCache, hash: TokenHash, verdict: Verdict) -> Arc<CacheEntry> {
    store_at(cache, hash, verdict, cache.generation())
}

/// Caches a token that expires `after` the returned time.
fn expiring(cache: &TokenCache, after: Duration) -> (Arc<CacheEntry>, Instant) {
    let (now, wall) = (Instant::now(), SystemTime::now());
    let verdict = Verdict { expires_at: Some(wall + after), ..verdict("1", "brief") };
    match cache.store(hashes(hash(1)), verdict, cache.generation(), now, now, wall) {
        IntrospectionResult::Active(entry) => (entry, now),
        outcome => panic!("{outcome:?}"),
    }
}

#[test]
fn freshness_declines_from_fresh_to_outdated() {
    let cache = cache(&settings());
    let entry = store(&cache, hash(1), verdict("1", "one"));
    let (from, until) = (entry.introspected_at, entry.fresh_until);
    let fifth = (until - from) / 5;
    let table = [
        (from, Freshness::Fresh),
        (until - fifth - INSTANT, Freshness::Fresh),
        (until - fifth, Freshness::Refresh),
        (until - INSTANT, Freshness::Refresh),
        (until, Freshness::Stale),
        (until + STALE - INSTANT, Freshness::Stale),
        (until + STALE, Freshness::Outdated),
    ];
    for (now, freshness) in table {
        assert_eq!(cache.freshness(&entry, now), freshness, "{:?} after introspection", now - from);
    }
}

#[test]
fn verdicts_are_never_stale_by_default() {
    let cache = cache(&settings::Cache { stale_if_error: Duration::ZERO, ..settings() });
    let entry = store(&cache, hash(1), verdict("1", "one"));
    assert_eq!(cache.freshness(&entry, entry.fresh_until), Freshness::Outdated);
}

#[test]
fn token_expires_to_the_instant_in_every_freshness() {
    let cache = cache(&settings());
    let seconds = Duration::from_secs;
    for (expiry, before) in
        [(seconds(20), Freshness::Fresh), (TTL, Freshness::Refresh), (TTL + STALE / 2, Freshness::Stale)]
    {
        let (entry, now) = expiring(&cache, expiry);
        assert!(entry.fresh_until <= now + TTL.min(expiry));
        let last = cache.freshness(&entry, now + expiry - INSTANT);
        // If the expiry equals `ttl`, jitter may have ended freshness earlier.
        assert!(last == before || expiry == TTL && last == Freshness::Stale, "{last:?} at {expiry:?}");
        for after in [Duration::ZERO, INSTANT, seconds(1000)] {
            assert_eq!(cache.freshness(&entry, now + expiry + after), Freshness::Expired);
            assert!(entry.is_expired(now + expiry + after));
        }
    }
}

#[test]
fn token_at_its_expiry_is_inactive() {
    let cache = cache(&settings());
    let (now, wall) = (Instant::now(), SystemTime::now());
    for ago in [Duration::ZERO, INSTANT, TTL] {
        let verdict = Verdict { expires_at: Some(wall - ago), ..verdict("1", "late") };
        let outcome = cache.store(hashes(hash(1)), verdict, 0, now, now, wall);
        assert!(matches!(outcome, IntrospectionResult::Inactive(Inactivity::Expired)), "{outcome:?}");
        assert!(cache.active(&hash(1)).is_none());
        assert_eq!(cache.inactive(&hash(1)), Some(Inactivity::Expired));
    }
}

#[test]
fn jitter_shortens_a_ttl_by_at_most_a_tenth() {
    let lives: Vec<_> = (0..1000).map(|_| jittered(TTL)).collect();
    assert!(lives.iter().all(|life| (TTL * 9 / 10..=TTL).contains(life)), "{lives:?}");
    assert!(lives.iter().any(|life| *life != lives[0]));
}

#[test]
fn inactive_tokens_are_bounded_and_evict_no_active_one() {
    let cache = cache(&settings::Cache { max_tokens: 100, ..settings() });
    let entry = store(&cache, hash(0), verdict("0", "known"));
    for number in 1..10_000 {
        cache.store_inactive(unknown(&hash(number)), Inactivity::Inactive, 0);
    }
    cache.maintain();
    let (active, inactive) = cache.sizes();
    assert!(active == 1 && inactive <= 100, "{active} and {inactive}");
    assert_eq!(cache.freshness(&entry, Instant::now()), Freshness::Fresh);
    assert!(cache.active(&hash(0)).is_some());
}

#[test]
fn entry_evicted_by_moka_is_evicted_from_every_front_cache() {
    let evicted = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&evicted);
    let on_eviction = move |cause| {
        assert_eq!(cause, RemovalCause::Size);
        count.fetch_add(1, Ordering::Relaxed);
    };
    let small = settings::Cache { max_tokens: 10, ..settings() };
    let cache = TokenCache::new(&small, Arc::default(), Arc::default(), Box::new(on_eviction));
    let cached: Vec<_> =
        (0..500).map(|number| store(&cache, hash(number), verdict(&number.to_string(), "t"))).collect();
    cache.maintain();
    let mut kept = 0;
    for (number, entry) in (0..).zip(&cached) {
        let is_kept = cache.active(&hash(number)).is_some();
        kept += usize::from(is_kept);
        let gone = cache.freshness(entry, entry.introspected_at) == Freshness::Evicted;
        assert_eq!(gone, !is_kept, "{number}");
    }
    assert_eq!((kept, evicted.load(Ordering::Relaxed)), (10, 490));
}

#[test]
fn newest_verdict_replaces_the_cached_one() {
    let cache = cache(&settings());
    let first = store(&cache, hash(1), verdict("1", "one"));
    let second = store(&cache, hash(1), verdict("1", "one"));
    let now = Instant::now();
    assert_eq!(cache.freshness(&first, now), Freshness::Evicted);
    assert_eq!(cache.freshness(&second, now), Freshness::Fresh);

    cache.store_inactive(unknown(&hash(1)), Inactivity::Inactive, 0);
    assert_eq!(cache.freshness(&second, now), Freshness::Evicted);
    assert_eq!(cache.inactive(&hash(1)), Some(Inactivity::Inactive));

    let third = store(&cache, hash(1), verdict("1", "one"));
    assert_eq!(cache.inactive(&hash(1)), None);
    cache.forget_entry(&hash(1));
    assert_eq!(cache.freshness(&third, now), Freshness::Evicted);
    assert!(cache.active(&hash(1)).is_none());
}

#[test]
fn revocation_evicts_named_tokens_from_every_cache() {
    // Cached are the tokens `1` to `4` with these ids and names.
    let cached = [("17", "scanner"), ("17", "scanner"), ("18", "scanner"), ("19", "report")];
    let table = [
        (Revocation::Id("17".into()), [true, true, false, false]),
        (Revocation::Name("scanner".into()), [true, true, true, false]),
        (Revocation::Token(hash(4)), [false, false, false, true]),
        (Revocation::Id("1".into()), [false; 4]),
        (Revocation::All, [true; 4]),
    ];
    for (revocation, forgotten) in table {
        let cache = cache(&settings());
        let cached: Vec<_> = (1..)
            .zip(cached)
            .map(|(number, (id, name))| store(&cache, hash(number), verdict(id, name)))
            .collect();
        let revoked = cache.revoke(revocation.clone());
        assert_eq!(revoked, forgotten.iter().filter(|it| **it).count(), "{revocation:?}");
        for ((number, entry), forgotten) in (1..).zip(&cached).zip(forgotten) {
            let gone = cache.freshness(entry, Instant::now()) == Freshness::Evicted;
            assert_eq!(gone, forgotten, "{revocation:?} of {number}");
            let is_kept = !forgotten || revocation == Revocation::All;
            assert_eq!(cache.active(&hash(number)).is_some(), is_kept, "{revocation:?} of {number}");
            assert_eq!(cache.is_known(entry, Instant::now()), is_kept, "{revocation:?} of {number}");
        }
        // A revocation evicts; later introspections are cached again.
        let again = store(&cache, hash(1), verdict("17", "scanner"));
        assert_eq!(cache.freshness(&again, Instant::now()), Freshness::Fresh);
    }
}

#[test]
fn revocation_evicts_every_spelling_of_a_token() {
    for (revoked, count) in [("17|a", 3), ("17|unseen", 3), ("0017|unseen", 3), ("a", 3), ("18|b", 1)] {
        let cache = cache(&settings());
        let spellings: Vec<_> = [("17|a", "17"), ("017|a", "17"), ("a", "17"), ("18|b", "18")]
            .map(|(token, id)| store(&cache, TokenHash::of(token), verdict(id, "scanner")))
            .into();
        let revocations = cache.revocations_of(revoked);
        assert_eq!(revocations.into_iter().map(|it| cache.revoke(it)).sum::<usize>(), count, "{revoked}");
        let gone = spellings.iter().filter(|entry| cache.is_revoked(entry)).count();
        assert_eq!(gone, count, "{revoked}");
    }
}

#[test]
fn introspection_begun_before_a_revocation_is_discarded() {
    let cache = cache(&settings());
    let before = cache.generation();
    for revocation in [
        Revocation::Id("17".into()),
        Revocation::Name("scanner".into()),
        Revocation::Token(hash(1)),
        Revocation::All,
    ] {
        let generation = cache.generation();
        cache.revoke(revocation.clone());
        let subject =
            Subject { hash: &hash(1), secret: None, id: Some("17"), written_id: None, name: Some("scanner") };
        assert!(cache.is_overtaken(generation, subject), "{revocation:?}");
        // The revocation may also arrive between that check and the insertion.
        let entry = store_at(&cache, hash(1), verdict("17", "scanner"), generation);
        assert!(cache.is_revoked(&entry), "{revocation:?}");
        assert_eq!(cache.freshness(&entry, Instant::now()), Freshness::Evicted, "{revocation:?}");
    }
    cache.store_inactive(unknown(&hash(2)), Inactivity::Inactive, before);
    assert_eq!(cache.inactive(&hash(2)), None, "the introspection began before the revocation");
    cache.store_inactive(unknown(&hash(2)), Inactivity::Inactive, cache.generation());
    assert_eq!(cache.inactive(&hash(2)), Some(Inactivity::Inactive));
    cache.revoke(Revocation::Token(hash(2)));
    assert_eq!(cache.inactive(&hash(2)), None);
}

#[test]
fn revocations_of_other_tokens_keep_a_used_verdict_fresh() {
    let cache = cache(&settings());
    let used = store(&cache, hash(1), verdict("1", "one"));
    let unused = store(&cache, hash(2), verdict("2", "two"));
    for _ in 0..3 {
        for _ in 0..1000 {
            cache.revoke(Revocation::Token(hash(9)));
        }
        assert_eq!(cache.freshness(&used, Instant::now()), Freshness::Fresh);
    }
    assert_eq!(
        cache.freshness(&unused, Instant::now()),
        Freshness::Evicted,
        "older revocations are no longer recorded"
    );
}

#[test]
fn backend_feedback_applies_once_per_negative_ttl() {
    let cache = cache(&settings::Cache { negative_ttl: Duration::from_millis(40), ..settings() });
    assert!(cache.claim_feedback("1", Feedback::Forbidden));
    assert!(!cache.claim_feedback("1", Feedback::Forbidden));
    assert!(cache.claim_feedback("1", Feedback::Unauthenticated));
    assert!(cache.claim_feedback("2", Feedback::Forbidden));
    std::thread::sleep(Duration::from_millis(60));
    assert!(cache.claim_feedback("1", Feedback::Forbidden));
}

#[test]
fn concurrent_lookups_join_one_introspection() {
    let cache = cache(&settings());
    let Join::Started(_flight, publisher) = cache.join(hash(1)) else {
        panic!("no introspection is in flight")
    };
    assert!(matches!(cache.join(hash(1)), Join::Joined(_)));
    assert!(matches!(cache.join(hash(2)), Join::Started(..)));
    assert!(cache.find_in_flight(&hash(1)).is_some());
    cache.complete(&hash(1), &publisher);
    assert!(cache.find_in_flight(&hash(1)).is_none());
}

#[test]
fn abandoned_introspection_completes_without_its_successor() {
    let cache = cache(&settings());
    let Join::Started(flight, first) = cache.join(hash(1)) else { panic!("no introspection is in flight") };
    assert!(!cache.complete_if_abandoned(&hash(1), &first));
    drop(flight);
    assert!(cache.complete_if_abandoned(&hash(1), &first));
    let Join::Started(_flight, second) = cache.join(hash(1)) else {
        panic!("the introspection has completed")
    };
    cache.complete(&hash(1), &first);
    assert!(matches!(cache.join(hash(1)), Join::Joined(_)));
    cache.complete(&hash(1), &second);
    assert!(cache.find_in_flight(&hash(1)).is_none());
}

#[test]
fn refresh_is_claimed_once_and_failures_are_recorded() {
    let cache = cache(&settings());
    let entry = store(&cache, hash(1), verdict("1", "one"));
    let late = entry.fresh_until - INSTANT;
    assert!(entry.claim_refresh());
    assert!(!entry.claim_refresh());
    assert_eq!(cache.freshness(&entry, late), Freshness::Fresh, "the verdict is being refreshed");
    entry.release_refresh();
    assert_eq!(cache.freshness(&entry, late), Freshness::Refresh);

    let pause = Duration::from_secs(1);
    assert!(!entry.failed_within(pause, late));
    for at in [entry.introspected_at, late] {
        entry.note_failure(at);
        assert!(entry.failed_within(pause, at + pause / 2));
        assert!(!entry.failed_within(pause, at + pause * 2));
    }
}

#[test]
fn feedback_to_an_old_cache_applies_to_its_successors() {
    let old = cache(&settings());
    for number in 1..=3 {
        store(&old, hash(number), verdict(&number.to_string(), "kept"));
    }
    let next = old.next_from(&settings(), true, Box::new(|_| {}));
    let after = next.next_from(&settings(), true, Box::new(|_| {}));
    old.forget_entry(&hash(1));
    old.store_inactive(unknown(&hash(2)), Inactivity::Inactive, old.generation());
    for cache in [&next, &after] {
        let freshness = |number| cache.freshness(&cache.active(&hash(number)).unwrap(), Instant::now());
        assert_eq!([1, 2, 3].map(freshness), [Freshness::Evicted, Freshness::Evicted, Freshness::Fresh]);
    }
}

/// Such as with another introspector. A verdict that was revoked before serves neither.
#[test]
fn tokens_are_known_in_a_next_cache_that_keeps_no_verdict() {
    for (keeps_verdicts, of_the_last) in [(true, Freshness::Fresh), (false, Freshness::Evicted)] {
        let old = cache(&settings());
        for number in 1..=3 {
            store(&old, hash(number), verdict(&number.to_string(), "kept"));
        }
        old.revoke(Revocation::Id("1".into()));
        old.revoke(Revocation::All);
        store(&old, hash(3), verdict("3", "kept"));
        let next = old.next_from(&settings(), keeps_verdicts, Box::new(|_| {}));
        assert!(next.active(&hash(1)).is_none());
        for (number, expected) in [(2, Freshness::Evicted), (3, of_the_last)] {
            let entry = next.active(&hash(number)).unwrap();
            assert_eq!(next.freshness(&entry, Instant::now()), expected, "{number}");
            assert!(next.is_known(&entry, Instant::now()), "{number}");
        }
        assert_eq!(next.revoke(Revocation::All), usize::from(keeps_verdicts), "the others are gone already");
        assert!(next.entries(Instant::now()).is_empty());
        next.revoke(Revocation::Id("2".into()));
        assert!(next.active(&hash(2)).is_none());
    }
}

#[test]
fn one_token_in_many_spellings_keeps_the_latest_few() {
    let cache = cache(&settings());
    let cached: Vec<_> =
        (0..900).map(|number| store(&cache, hash(number), verdict("17", "scanner"))).collect();
    let other = store(&cache, hash(1000), verdict("18", "other"));
    cache.maintain();
    let (active, _) = cache.sizes();
    assert_eq!(active, MAX_SPELLINGS as u64 + 1);
    for (number, entry) in cached.iter().enumerate() {
        let is_kept = number >= 900 - MAX_SPELLINGS;
        assert_eq!(cache.freshness(entry, Instant::now()) != Freshness::Evicted, is_kept, "{number}");
        assert_eq!(cache.active(&hash(number as u32)).is_some(), is_kept, "{number}");
    }
    assert_eq!(cache.freshness(&other, Instant::now()), Freshness::Fresh);
    // Using a spelling makes it one of the most recent.
    store(&cache, hash(892), verdict("17", "scanner"));
    store(&cache, hash(2000), verdict("17", "scanner"));
    assert!(cache.active(&hash(892)).is_some() && cache.active(&hash(893)).is_none());
    cache.revoke(Revocation::Id("17".into()));
    cache.forget_entry(&hash(1000));
    cache.maintain();
    assert!(cache.spellings.of("17").is_empty() && cache.spellings.of("18").is_empty());
}

#[test]
fn spellings_share_their_texts() {
    let cache = cache(&settings());
    let [one, other] = [1, 2].map(|number| store(&cache, hash(number), verdict("17", "scanner")));
    assert!(Arc::ptr_eq(&one.verdict.id, &other.verdict.id));
    let names = |entry: &Arc<CacheEntry>| entry.verdict.name.clone().unwrap();
    assert!(Arc::ptr_eq(&names(&one), &names(&other)));
    let renamed = store(&cache, hash(2), verdict("17", "renamed"));
    assert_eq!(&*names(&renamed), "renamed");
}

#[test]
fn invalidated_token_is_evicted_in_every_spelling() {
    let cache = cache(&settings());
    let [one, other] = [1, 2].map(|number| store(&cache, hash(number), verdict("17", "scanner")));
    let unrelated = store(&cache, hash(3), verdict("18", "scanner"));
    cache.forget_token(&one);
    let freshness = |entry: &Arc<CacheEntry>| cache.freshness(entry, Instant::now());
    assert_eq!(
        [&one, &other, &unrelated].map(freshness),
        [Freshness::Evicted, Freshness::Evicted, Freshness::Fresh]
    );
}

#[test]
fn both_bounds_hold_however_large_the_entries_are() {
    let long = |number: u32| Verdict {
        name: Some("n".repeat(1020).into()),
        abilities: Abilities::new(
            (0..64).map(|it| format!("{it:0255}")).collect::<Vec<_>>().iter().map(|it| &**it),
        ),
        ..verdict(&number.to_string(), "")
    };
    let small = |number: u32| verdict(&number.to_string(), "small");
    for (max_tokens, max_bytes, make, least, most) in [
        (1000, 1 << 20, &small as &dyn Fn(u32) -> Verdict, 900, 1000),
        (100, 1 << 20, &small, 100, 100),
        (10_000, 1 << 20, &small, 1000, 1700),
        (1000, 1 << 20, &long, 40, 60),
        (10, 1 << 20, &long, 10, 10),
        (u64::from(u32::MAX), 64 << 10, &small, 60, 110),
        (u64::from(u32::MAX), 64 << 10, &long, 1, 4),
    ] {
        let cache = cache(&settings::Cache { max_tokens, max_bytes, ..settings() });
        for number in 0..4000 {
            store(&cache, hash(number), make(number));
        }
        cache.maintain();
        let entries: Vec<_> = cache.active.iter().map(|(_, entry)| entry).collect();
        let bytes: u64 = entries.iter().map(|entry| u64::from(entry.bytes)).sum();
        assert!(bytes <= max_bytes, "{bytes} of {max_bytes}");
        assert!((least..=most).contains(&entries.len()), "{} of {max_tokens} in {max_bytes}", entries.len());
        let listed = cache.spellings.of(&entries[0].verdict.id);
        assert_eq!(listed.len(), 1);
    }
    // The smallest cache keeps a verdict of any permitted length.
    let cache = cache(&settings::Cache { max_bytes: 64 << 10, ..settings() });
    let names: Vec<_> = (0..1024).map(|number| format!("{number:016}")).collect();
    let largest = Verdict { abilities: Abilities::new(names.iter().map(|name| &**name)), ..long(1) };
    store(&cache, hash(1), largest);
    cache.maintain();
    assert!(cache.active(&hash(1)).is_some());
}

#[test]
fn inactive_tokens_and_feedback_are_bounded_in_bytes() {
    let small = settings::Cache { max_tokens: 1_000_000, max_bytes: 1 << 20, ..settings() };
    let cache = cache(&small);
    for number in 0..20_000 {
        cache.store_inactive(unknown(&hash(number)), Inactivity::Inactive, 0);
        assert!(cache.claim_feedback(&number.to_string(), Feedback::Forbidden));
        assert!(
            !cache.claim_feedback(&number.to_string(), Feedback::Forbidden),
            "the newest entry is always kept"
        );
    }
    cache.maintain();
    cache.feedback.run_pending_tasks();
    let bytes = |cache: &TokenCache| -> u64 {
        cache.inactive.iter().map(|(_, entry)| u64::from(entry.bytes())).sum()
    };
    assert!(cache.sizes().1 > 300, "{:?}", cache.sizes());
    assert!(bytes(&cache) + cache.feedback.entry_count() * FEEDBACK_BYTES <= (1 << 20) / 4);
}

#[test]
fn inactive_tokens_are_bounded_by_their_ids_and_in_number() {
    let long = "i".repeat(255);
    for (max_tokens, least, most) in [(1_000_000, 150, 250), (20, 20, 20)] {
        let cache = cache(&settings::Cache { max_tokens, max_bytes: 1 << 20, ..settings() });
        for number in 0..4000 {
            let hash = hash(number);
            let token = Subject { id: Some(&long), written_id: Some(&long), ..unknown(&hash) };
            cache.store_inactive(token, Inactivity::Inactive, 0);
        }
        cache.maintain();
        let bytes: u64 = cache.inactive.iter().map(|(_, entry)| u64::from(entry.bytes())).sum();
        let count = cache.inactive.iter().count();
        assert!((least..=most).contains(&count) && bytes <= (1 << 20) / 16 * 3, "{count}: {bytes}");
    }
}

fn block(cache: &TokenCache, id: &str) {
    let (created_at, source) = (Timestamp::now(), BlockSource::Admin);
    let block = Block { name: None, until: None, reason: None, created_at, source };
    cache.blocks().block(BlockSubject::of_id(id).unwrap(), block, created_at).unwrap();
}

#[test]
fn inactive_entries_do_not_outlast_a_change_of_the_block_list_that_may_concern_them() {
    let cache = cache(&settings());
    let token = Subject { hash: &hash(1), secret: None, id: Some("17"), written_id: None, name: None };
    assert_eq!(cache.store_inactive(token, Inactivity::Expired, 0), Inactivity::Expired);
    assert_eq!(cache.inactive(token.hash), Some(Inactivity::Expired));
    block(&cache, "18");
    assert_eq!(cache.inactive(token.hash), Some(Inactivity::Expired), "a block of another token");
    block(&cache, "17");
    assert_eq!(cache.inactive(token.hash), None, "it may be blocked");
    assert_eq!(cache.store_inactive(token, Inactivity::Expired, 0), Inactivity::Blocked);
    block(&cache, "18");
    assert_eq!(cache.inactive(token.hash), Some(Inactivity::Blocked), "another block does not end this one");
    cache.blocks().unblock(|subject| *subject == BlockSubject::of_id("18").unwrap(), Timestamp::now());
    assert_eq!(cache.inactive(token.hash), Some(Inactivity::Blocked), "nor does the end of another one");
    cache.blocks().unblock(|_| true, Timestamp::now());
    assert_eq!(cache.inactive(token.hash), None, "it may not be blocked any more");
    assert_eq!(cache.store_inactive(token, Inactivity::Expired, 0), Inactivity::Expired);
    cache.blocks().unblock(|_| true, Timestamp::now());
    assert_eq!(cache.inactive(token.hash), Some(Inactivity::Expired));
}

/// The id of a token without an introspected one.
#[test]
fn block_of_a_hash_ends_the_inactive_entry_of_its_token() {
    let cache = cache(&settings());
    let (hash, id) = (hash(1), String::from(hash(1)));
    let token = Subject { id: Some(&id), ..unknown(&hash) };
    cache.store_inactive(token, Inactivity::Inactive, 0);
    block(&cache, &id);
    assert_eq!(cache.inactive(&hash), None);
    assert_eq!(cache.store_inactive(token, Inactivity::Inactive, 0), Inactivity::Blocked);
}

#[test]
fn token_is_inactive_until_its_nbf_and_not_longer() {
    let cache = cache(&settings());
    let now = SystemTime::now();
    for (number, valid_from, expected) in [
        (1, now + TTL, Some(Inactivity::NotYetValid)),
        (2, now - INSTANT, None),
        (3, SystemTime::UNIX_EPOCH, None),
    ] {
        cache.store_not_yet_valid(unknown(&hash(number)), valid_from, cache.generation());
        assert_eq!(cache.inactive(&hash(number)), expected, "{number}");
    }
    let mismatch = Inactivity::UnexpectedClaim(Claim::Audience);
    let entry = store(&cache, hash(1), verdict("1", "one"));
    assert_eq!(cache.inactive(&hash(1)), None);
    cache.store_inactive(unknown(&hash(1)), mismatch, cache.generation());
    assert_eq!(cache.inactive(&hash(1)), Some(mismatch));
    assert_eq!(cache.freshness(&entry, Instant::now()), Freshness::Evicted);
}

#[test]
fn token_expires_by_the_wall_clock_when_that_is_set_forward() {
    let (cache, hour) =
        (cache(&settings::Cache { ttl: TTL * 1000, ..settings() }), Duration::from_secs(3600));
    let (entry, now) = expiring(&cache, 2 * hour);
    let wall = entry.verdict.expires_at.unwrap() - 2 * hour;
    assert_eq!(cache.freshness(&entry, now + hour), Freshness::Fresh);
    // The wall clock jumps ahead by an hour after a minute.
    let minute = hour / 60;
    assert!(cache.follow_wall_clock(Reading { now: now + minute, wall: wall + minute }).is_none());
    assert!(cache.follow_wall_clock(Reading { now: now + minute, wall: wall + minute + hour }).is_some());
    assert_eq!(cache.freshness(&entry, now + hour - INSTANT), Freshness::Fresh);
    assert_eq!(cache.freshness(&entry, now + hour), Freshness::Expired);
    // The wall clock jumps back: the deadline stays.
    assert!(cache.follow_wall_clock(Reading { now: now + 2 * minute, wall: wall + 2 * minute }).is_some());
    assert_eq!(cache.freshness(&entry, now + hour), Freshness::Expired);
    // A token without an expiry is unaffected.
    let lasting = store(&cache, hash(2), verdict("2", "lasting"));
    let later = Instant::now() + minute;
    cache.follow_wall_clock(Reading { now: later, wall: wall + 1000 * hour });
    assert_eq!(cache.freshness(&lasting, later), Freshness::Fresh);
}

#[test]
fn token_expires_by_the_monotonic_clock_when_the_wall_clock_is_set_back() {
    let cache = cache(&settings::Cache { ttl: TTL * 1000, ..settings() });
    let hour = Duration::from_secs(3600);
    let (entry, now) = expiring(&cache, hour);
    let wall = entry.verdict.expires_at.unwrap() - hour;
    assert!(cache.follow_wall_clock(Reading { now, wall: wall - 100 * hour }).is_some());
    assert_eq!(cache.freshness(&entry, now + hour), Freshness::Expired);
}

#[test]
fn setting_the_clock_during_a_reload_is_not_lost() {
    let old = cache(&settings());
    let hour = Duration::from_secs(3600);
    let (entry, now) = expiring(&old, hour);
    let wall = entry.verdict.expires_at.unwrap() - hour;
    let next = old.next_from(&settings(), true, Box::new(|_| {}));
    assert!(next.follow_wall_clock(Reading { now, wall: wall + hour }).is_some());
    let copy = next.active(&hash(1)).unwrap();
    assert_eq!(next.freshness(&copy, now), Freshness::Expired);
}
