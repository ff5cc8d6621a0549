use std::os::unix::fs::MetadataExt;

use jiff::Timestamp;

use super::*;
use crate::tokens::blocklist::record::{Block, BlockSource, BlockSubject, BlockVersion};

fn records() -> Vec<BlockRecord> {
    let at = |seconds| Timestamp::from_second(seconds).unwrap();
    let block = Block {
        name: None,
        until: Some(at(2_000_000_000)),
        reason: Some("leaked \"on\" a \\ page".into()),
        created_at: at(1_800_000_000),
        source: BlockSource::Admin,
    };
    let named = Block { name: Some("warehouse \u{e9}\n".into()), until: None, reason: None, ..block.clone() };
    let record = |subject: Option<BlockSubject>, block| BlockRecord {
        subject: subject.unwrap(),
        version: BlockVersion { at: 1_800_000_000_000, by: u64::MAX },
        block,
    };
    vec![
        record(BlockSubject::of_id("17"), Some(block.clone())),
        record(BlockSubject::of_id("18"), None),
        record(BlockSubject::of_name("warehouse \u{e9}\n"), Some(named.clone())),
        record(
            BlockSubject::of_name("other"),
            Some(Block { name: None, source: BlockSource::Replica, ..named }),
        ),
        record(BlockSubject::of_token("17|a-secret"), Some(block)),
        record(BlockSubject::of_token("18|b-secret"), None),
    ]
}

fn open(path: &Path) -> Result<Vec<BlockRecord>, BlockFileError> {
    BlockFile::open(path).map(|(_, records)| records)
}

#[test]
fn file_restores_every_record_and_has_no_token() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("below/blocked.json");
    let (mut file, none) = BlockFile::open(&path).unwrap();
    assert_eq!((none, file.has_changed()), (Vec::new(), false));
    for records in [records(), Vec::new(), records()] {
        let _lock = file.lock().unwrap();
        file.write(&records).unwrap();
        assert!(!file.has_changed());
        assert_eq!(open(&path).unwrap(), records);
    }
    let text = fs::read_to_string(&path).unwrap();
    assert!(!text.contains("secret"), "{text}");
    assert_eq!(text.lines().count(), 2 + records().len(), "one record in a line: {text}");
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
    assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
    assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "no other file is left");
}

#[test]
fn missing_file_has_no_blocks_and_an_unreadable_one_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("blocked.json");
    assert_eq!(open(&path).unwrap(), []);
    fs::write(directory.path().join("file"), "").unwrap();
    assert_eq!(open(&directory.path().join("file/blocked.json")).unwrap(), [], "no directory");
    fs::create_dir(&path).unwrap();
    assert!(matches!(open(&path), Err(BlockFileError::Io { .. })));
}

#[test]
fn damaged_file_is_an_error_with_its_place() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("blocked.json");
    let good = String::from_utf8(encode(&records()).unwrap()).unwrap();
    let version = "00000000000000ff-00000000000000ff";
    let record = |fields: &str| {
        format!("{{\"format\": 1, \"blocks\": [\n{{{fields},\"version\":\"{version}\"}}\n]}}\n")
    };
    let made = r#""created_at":"2026-01-01T00:00:00Z","source":"admin""#;
    let table = [
        (String::new(), 1),
        ("{".to_owned(), 1),
        ("[]".to_owned(), 1),
        (good.replace("\n]}\n", "\n"), 8),
        (good.replace("\"17\"", "17"), 2),
        (good.replacen("T08", "T25", 1), 2),
        (good.replacen("\"until\"", "\"untill\"", 1), 2),
        (good.replacen("-ffff", "-fff", 1), 2),
        (record(r#""id":"17""#).replace("]}", "]} x"), 3),
        (record(made).replace('\n', ""), 1),
        (record(&format!(r#""id":"",{made}"#)), 2),
        (record(&format!(r#""id":"17","name":"a",{made}"#)), 2),
        (record(made), 2),
        (record(r#""id":"17","reason":"a removed block has none""#), 2),
        (record(r#""id":"17","created_at":"2026-01-01T00:00:00Z""#), 2),
        (record(&format!(r#""id":"{}",{made}"#, "1".repeat(256))), 2),
        (record(&format!(r#""id":"17","reason":"{}",{made}"#, "r".repeat(256))), 2),
        (record(&format!(r#""token_sha256":"ab",{made}"#)), 2),
    ];
    for (text, expected) in table {
        fs::write(&path, &text).unwrap();
        match open(&path) {
            Err(BlockFileError::Content { line, message, .. }) => {
                assert_eq!(line, expected, "{text}: {message}");
                assert!(!message.contains(" at line "), "{message}");
            }
            other => panic!("{text}: {other:?}"),
        }
    }
    fs::write(&path, record(&format!(r#""id":"17",{made}"#))).unwrap();
    assert_eq!(open(&path).unwrap().len(), 1);
}

#[test]
fn other_format_is_told_from_damage() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("blocked.json");
    for text in ["{\"format\": 2, \"blocks\": []}", "{\"format\": 2, \"more\": [{}]}"] {
        fs::write(&path, text).unwrap();
        let error = open(&path).unwrap_err();
        assert!(matches!(error, BlockFileError::Format { format: 2, .. }), "{error}");
        assert!(error.to_string().ends_with(":1:1: the format is 2; this version supports 1"), "{error}");
    }
}

#[test]
fn failed_write_leaves_the_previous_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("blocked.json");
    let (mut file, _) = BlockFile::open(&path).unwrap();
    file.write(&records()).unwrap();
    file.probe().unwrap();
    fs::create_dir(directory.path().join("blocked.json.new")).unwrap();
    assert!(file.probe().is_err() && file.write(&[]).is_err());
    assert_eq!(open(&path).unwrap(), records());
    let below = BlockFile { path: path.join("blocked.json"), seen: None, is_unreadable: false };
    assert!(below.probe().is_err() && below.lock().is_err());
}

#[test]
fn change_of_another_process_is_noticed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("blocked.json");
    let (mut one, _) = BlockFile::open(&path).unwrap();
    let (mut other, _) = BlockFile::open(&path).unwrap();
    one.write(&records()).unwrap();
    assert!(other.has_changed() && !one.has_changed());
    assert_eq!(other.read().unwrap(), records());
    assert!(!other.has_changed());
}

#[test]
fn locked_file_is_not_written_by_another_process() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("blocked.json");
    let (one, _) = BlockFile::open(&path).unwrap();
    let (other, _) = BlockFile::open(&path).unwrap();
    let lock = one.lock().unwrap();
    assert!(lock.is_some() && other.lock().is_err());
    drop(lock);
    assert!(other.lock().unwrap().is_some());
}
