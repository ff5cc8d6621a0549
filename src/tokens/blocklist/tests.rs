use proptest::prelude::*;

use super::*;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

fn until(end: Option<Timestamp>) -> Block {
    Block { name: None, until: end, reason: None, created_at: at(0), source: BlockSource::Admin }
}

/// A token of which all is known.
fn known<'a>(id: &'a str, name: Option<&'a str>, secret: &'a TokenHash) -> Subject<'a> {
    Subject { hash: secret, secret: Some(secret), id: Some(id), written_id: None, name }
}

fn id(id: &str) -> BlockSubject {
    BlockSubject::of_id(id).unwrap()
}

fn list() -> BlockList {
    BlockList { process: 1, ..BlockList::default() }
}

fn configured(ids: &[&str], names: &[&str]) -> settings::Blocked {
    let texts = |texts: &[&str]| texts.iter().map(|text| Box::from(*text)).collect();
    settings::Blocked { path: "blocked.json".into(), ids: texts(ids), names: texts(names) }
}

#[test]
fn block_refuses_exactly_its_tokens() {
    let tokens = [
        ("17|one", "17", Some("scanner")),
        ("017|one", "17", Some("scanner")),
        ("one", "17", Some("scanner")),
        ("18|two", "18", Some("scanner")),
        ("19|three", "19", Some("mobile \"app\"\n")),
        ("20|four", "20", None),
    ];
    let table = [
        (BlockSubject::of_id("17"), [true, true, true, false, false, false]),
        (BlockSubject::of_id("1"), [false; 6]),
        (BlockSubject::of_name("scanner"), [true, true, true, true, false, false]),
        (BlockSubject::of_name("Scanner"), [false; 6]),
        (BlockSubject::of_name("mobile \"app\"\n"), [false, false, false, false, true, false]),
        (BlockSubject::of_token("17|one"), [true, true, true, false, false, false]),
        (BlockSubject::of_token("one"), [true, true, true, false, false, false]),
        (BlockSubject::of_token("17|on"), [false; 6]),
    ];
    for (subject, expected) in table {
        let list = list();
        list.block(subject.clone().unwrap(), until(None), at(0)).unwrap();
        for ((token, id, name), expected) in tokens.iter().zip(expected) {
            let secret = TokenHash::of_secret(token);
            assert_eq!(list.blocks_token(known(id, *name, &secret), at(0)), expected, "{subject:?}: {token}");
        }
    }
}

#[test]
fn text_of_a_token_shows_its_secret_and_its_id() {
    let list = list();
    assert!(!list.blocks_text("17|one", true, at(0)));
    list.block(id("17"), until(None), at(0)).unwrap();
    list.block(BlockSubject::of_token("18|two").unwrap(), until(None), at(0)).unwrap();
    for (token, in_bearer_style, otherwise) in [
        ("17|one", true, false),
        ("0017|other", true, false),
        ("17", false, false),
        ("170|one", false, false),
        ("one", false, false),
        ("18|two", true, true),
        ("018|two", true, true),
        ("two", true, true),
        ("18|three", false, false),
        ("|", false, false),
    ] {
        assert_eq!(list.blocks_text(token, true, at(0)), in_bearer_style, "{token}");
        assert_eq!(list.blocks_text(token, false, at(0)), otherwise, "{token}");
    }
}

#[test]
fn block_ends_by_itself() {
    let list = list();
    list.block(id("17"), until(Some(at(10))), at(0)).unwrap();
    let blocks = |now| list.blocks_text("17|a", true, now);
    assert!(blocks(at(0)) && blocks(at(9)) && !blocks(at(10)));
    list.expire(at(9));
    let before = list.removals();
    assert_eq!((list.counts(), list.is_empty(), list.list(at(9)).len()), ([1, 0, 0], false, 1));
    list.expire(at(10));
    assert_eq!((list.counts(), list.is_empty(), list.list(at(10)).len()), ([0; 3], true, 0));
    assert_ne!(list.removals(), before, "its tokens are looked up again");
    assert!(!blocks(at(5)), "a clock that is set back does not restore it");
}

#[test]
fn additions_and_removals_are_counted() {
    let list = list();
    let counts = || (list.additions(), list.removals());
    assert_eq!(counts(), (0, 0));
    list.block(id("17"), until(Some(at(10))), at(0)).unwrap();
    assert_eq!(counts(), (1, 0));
    list.configure(&configured(&["18"], &[]));
    let (additions, removals) = counts();
    assert_eq!(additions, 2);
    list.configure(&configured(&["18"], &[]));
    assert_eq!(list.additions(), 2, "none is new");
    let other = self::list();
    other.block(id("19"), until(None), at(0)).unwrap();
    let [record] = &other.records()[..] else { panic!("{:?}", other.records()) };
    assert_eq!(list.merge_received(record.clone(), at(0)), Merged::Blocked);
    assert_eq!(list.merge_received(record.clone(), at(0)), Merged::Nothing);
    assert_eq!(list.additions(), 3);
    list.expire(at(10));
    assert!(counts().0 == 3 && counts().1 > removals);
}

#[test]
fn list_is_ahead_of_records_that_lack_a_change() {
    let list = list();
    assert!(!list.is_ahead_of(&[], at(0)));
    list.block(id("17"), until(None), at(0)).unwrap();
    let first = list.records();
    assert!(list.is_ahead_of(&[], at(0)) && !list.is_ahead_of(&first, at(0)));
    list.configure(&configured(&["18"], &[]));
    assert!(!list.is_ahead_of(&first, at(0)), "the configuration has its own file");
    list.unblock(|_| true, at(1));
    let removed = list.records();
    assert!(list.is_ahead_of(&first, at(0)) && !list.is_ahead_of(&removed, at(0)));
    let other = self::list();
    other.block(id("19"), until(None), at(0)).unwrap();
    assert!(!list.is_ahead_of(&[removed, other.records()].concat(), at(0)));
}

#[test]
fn later_block_replaces_an_earlier_one_of_the_same_tokens() {
    let list = list();
    list.block(id("17"), until(None), at(0)).unwrap();
    list.block(id("17"), until(Some(at(5))), at(0)).unwrap();
    assert!(!list.blocks_text("17|a", true, at(5)));
    assert_eq!(list.records().len(), 1);
}

#[test]
fn unblocking_removes_every_selected_block_but_those_of_the_configuration() {
    let list = list();
    assert_eq!(list.configure(&configured(&["17", "18"], &["scanner"])).len(), 3);
    for number in ["17", "19"] {
        list.block(id(number), until(None), at(0)).unwrap();
    }
    assert_eq!(list.unblock(|subject| *subject == id("17"), at(0)).len(), 1);
    assert_eq!(list.unblock(|subject| *subject == id("17"), at(0)).len(), 0);
    assert!(list.is_configured(|subject| *subject == id("17")) && list.blocks_text("17|a", true, at(0)));
    assert!(!list.is_configured(|subject| *subject == id("19")) && list.blocks_text("19|a", true, at(0)));
    let before = list.removals();
    assert_eq!(list.configure(&configured(&["18", "20"], &[])), [id("20")]);
    assert_ne!(list.removals(), before);
    assert!(!list.blocks_text("17|a", true, at(0)) && list.blocks_text("20|a", true, at(0)));
    assert!(!list.blocks_token(known("1", Some("scanner"), &TokenHash::of("a")), at(0)));
    let listed: Vec<_> = list.list(at(0)).into_iter().map(|it| (it.subject, it.block.source)).collect();
    let expected = [
        (id("18"), BlockSource::Configuration),
        (id("20"), BlockSource::Configuration),
        (id("19"), BlockSource::Admin),
    ];
    assert_eq!(listed, expected);
}

#[test]
fn full_list_rejects_blocks_and_loses_none() {
    let list = list();
    for number in 0..MAX_BLOCKS {
        let end = (number == 0).then(|| at(10));
        list.block(id(&number.to_string()), until(end), at(0)).unwrap();
    }
    assert_eq!(list.block(id("x"), until(None), at(0)), Err(Full));
    assert_eq!(list.merge_received(list_of("x", 5), at(0)), Merged::Rejected);
    list.block(id("7"), until(None), at(0)).unwrap();
    assert_eq!(list.records().len(), MAX_BLOCKS);
    // A block that has ended makes room.
    list.block(id("x"), until(None), at(10)).unwrap();
    assert_eq!(list.counts(), [MAX_BLOCKS as u64, 0, 0]);
    assert!((1..MAX_BLOCKS).all(|number| list.blocks_text(&format!("{number}|a"), true, at(10))));
}

/// A block of this id that another process made.
fn list_of(subject: &str, seconds: i64) -> BlockRecord {
    let version = BlockVersion { at: milliseconds(at(seconds)), by: 9 };
    BlockRecord { subject: id(subject), version, block: Some(until(None)) }
}

/// Between the end of a block of more than a week and its removal from the list.
#[test]
fn list_is_not_ahead_by_an_obsolete_record() {
    let (list, week) = (list(), 7 * 24 * 3600);
    list.block(id("17"), until(Some(at(week + 10))), at(0)).unwrap();
    assert!(list.is_ahead_of(&[], at(week + 9)));
    assert!(!list.is_ahead_of(&[], at(week + 10)));
    list.block(id("18"), until(Some(at(10))), at(0)).unwrap();
    assert!(list.is_ahead_of(&[], at(week - 1)), "a replica may have the block");
}

#[test]
fn other_replicas_cannot_fill_the_list() {
    let list = list();
    for number in 0..MAX_BLOCKS - RESERVED {
        let record = list_of(&number.to_string(), 0);
        assert_eq!(list.merge_received(record, at(0)), Merged::Blocked);
    }
    assert_eq!(list.merge_received(list_of("x", 0), at(0)), Merged::Rejected);
    assert_eq!(
        list.merge_received(list_of("7", 1), at(0)),
        Merged::Blocked,
        "a later version of a known one"
    );
    list.block(id("x"), until(None), at(0)).unwrap();
    assert!(
        list.list(at(0)).iter().all(|it| it.block.source == BlockSource::Replica || it.subject == id("x"))
    );
}

#[test]
fn records_of_removed_blocks_are_bounded_and_forgotten_after_a_week() {
    let list = list();
    for number in 0..MAX_REMOVED + 10 {
        list.block(id(&number.to_string()), until(None), at(number as i64)).unwrap();
        list.unblock(|_| true, at(number as i64));
    }
    let records = list.records();
    assert_eq!(records.len(), MAX_REMOVED);
    assert!(!records.iter().any(|record| record.subject == id("0")), "the oldest are dropped");
    list.expire(at(8 * 24 * 3600));
    assert_eq!(list.records(), []);
}

#[test]
fn latest_change_wins_whatever_the_order_of_arrival() {
    let made = list_of("17", 0);
    let removed =
        BlockRecord { version: BlockVersion { at: milliseconds(at(1)), by: 2 }, block: None, ..made.clone() };
    let again = BlockRecord { version: BlockVersion { at: milliseconds(at(1)), by: 3 }, ..made.clone() };
    let list = list();
    assert_eq!(list.merge(made.clone(), at(9)), Merged::Blocked);
    assert_eq!(list.merge(made.clone(), at(9)), Merged::Nothing);
    assert_eq!(list.merge(removed.clone(), at(9)), Merged::Removed);
    assert_eq!(list.merge(made.clone(), at(9)), Merged::Nothing, "an earlier block does not return");
    assert_eq!(list.merge(again.clone(), at(9)), Merged::Blocked);
    assert_eq!(list.merge(removed, at(9)), Merged::Nothing);
    let ours = list.unblock(|_| true, at(0)).pop().unwrap();
    assert!(ours.version > again.version, "a clock that is behind does not matter: {ours:?}");
    assert_eq!(list.merge(again, at(9)), Merged::Nothing);
    assert!(list.is_empty());
}

#[test]
fn record_from_the_future_is_rejected() {
    let list = list();
    assert_eq!(list.merge_received(list_of("17", 3599), at(0)), Merged::Blocked);
    assert_eq!(list.merge_received(list_of("18", 3601), at(0)), Merged::Rejected);
    let version = BlockVersion { at: u64::MAX, by: 0 };
    assert_eq!(list.merge_received(BlockRecord { version, ..list_of("18", 0) }, at(0)), Merged::Rejected);
}

/// A restart would lose it.
#[test]
fn no_block_of_the_file_is_rejected() {
    let list = list();
    for number in 0..MAX_BLOCKS + 10 {
        assert_eq!(list.merge(list_of(&number.to_string(), 999_999), at(0)), Merged::Blocked);
    }
    assert_eq!(list.block(id("x"), until(None), at(0)), Err(Full));
    // A change after the clock was set back is still the later one.
    assert_eq!(list.unblock(|subject| *subject == id("7"), at(0)).len(), 1);
    assert_eq!(list.merge(list_of("7", 999_999), at(0)), Merged::Nothing);
}

#[test]
fn block_that_has_ended_elsewhere_replaces_an_endless_one() {
    let list = list();
    list.merge(list_of("17", 0), at(0));
    let ended = BlockRecord { block: Some(until(Some(at(5)))), ..list_of("17", 1) };
    assert_eq!(list.merge(ended, at(9)), Merged::Removed);
    assert_eq!(list.merge(list_of("17", 0), at(9)), Merged::Nothing);
}

#[test]
fn name_stays_known_if_a_replica_changes_the_block() {
    let list = list();
    let subject = BlockSubject::of_name("scanner").unwrap();
    let named = Block { name: Some("scanner".into()), ..until(None) };
    let ours = list.block(subject.clone(), named, at(0)).unwrap();
    assert_eq!(ours.without_name().block.unwrap().name, None);
    let theirs = BlockRecord {
        subject,
        version: BlockVersion { at: milliseconds(at(1)), by: 7 },
        block: Some(until(None)),
    };
    assert_eq!(list.merge(theirs, at(1)), Merged::Blocked);
    assert_eq!(list.list(at(1)).pop().unwrap().block.name.as_deref(), Some("scanner"));
}

proptest! {
    /// Replicas that received the same records in any order agree.
    #[test]
    fn replicas_converge(
        changes in prop::collection::vec((0..3_u8, 0..5_i64, 0..3_u64, any::<bool>()), 0..20),
        shuffle in any::<prop::sample::Index>(),
    ) {
        let records = changes.iter().enumerate().map(|(index, (subject, seconds, by, is_block))| BlockRecord {
            subject: id(&subject.to_string()),
            // A process never gives a version twice.
            version: BlockVersion { at: milliseconds(at(*seconds)) + index as u64, by: *by },
            block: is_block.then(|| until(None)),
        });
        let mut records: Vec<_> = records.collect();
        let (one, other) = (list(), list());
        for record in &records {
            one.merge(record.clone(), at(9));
        }
        if !records.is_empty() {
            let middle = shuffle.index(records.len());
            records.rotate_left(middle);
            records.reverse();
        }
        for record in &records {
            other.merge(record.clone(), at(9));
        }
        prop_assert_eq!(one.records(), other.records());
        prop_assert_eq!(one.is_empty(), one.counts() == [0; 3]);
    }

    #[test]
    fn records_survive_json(text in ".{1,40}", reason in proptest::option::of(".{0,40}"), seconds in 0..1000_i64) {
        let block = Block { reason: reason.as_deref().and_then(record::reason), until: Some(at(seconds)), ..until(None) };
        let named = Block { name: Some(text.as_str().into()), ..block.clone() };
        for (subject, block) in [
            (BlockSubject::of_id(&text), Some(block.clone())),
            (BlockSubject::of_name(&text), Some(named)),
            (BlockSubject::of_name(&text), Some(block.clone())),
            (BlockSubject::of_token(&format!("x{text}")), Some(block)),
            (BlockSubject::of_id(&text), None),
        ] {
            let Some(subject) = subject else { continue };
            let record = BlockRecord { subject, version: BlockVersion { at: 7, by: u64::MAX }, block };
            let json = serde_json::to_string(&record).unwrap();
            prop_assert_eq!(serde_json::from_str::<BlockRecord>(&json).unwrap(), record);
        }
    }
}
