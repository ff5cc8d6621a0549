use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use super::*;
use crate::config;
use crate::tokens::blocklist::record::BlockSource;
use crate::tokens::cache::TokenCache;
use crate::tokens::introspection_limiter::IntrospectionLimiter;
use crate::tokens::lookup::SharedVerdicts;

/// The blocker of a process that starts with the file at `path`.
fn start(path: &Path) -> Blocker {
    let text = "backend: {url: http://127.0.0.1:9}\nintrospection: {url: http://127.0.0.1:9}\n\
                abilities: {routes: {/up: {GET: public}}}\n";
    let settings = config::load_text("test", text.to_owned()).unwrap().settings;
    let (file, records) = BlockFile::open(path).unwrap();
    let (blocks, metrics) = (Arc::new(BlockList::new(records)), Metrics::new(1));
    let shared = SharedVerdicts {
        cache: TokenCache::new(&settings.cache, Arc::default(), Arc::clone(&blocks), Box::new(|_| {})),
        introspections: IntrospectionLimiter::new(1),
    };
    let revoker = Arc::new(Revoker::new(Arc::new(shared), Arc::clone(&metrics)));
    Blocker::new(blocks, file, revoker, metrics)
}

fn block(blocker: &Blocker, id: &str) -> Result<(), BlockFileError> {
    let (created_at, source) = (Timestamp::now(), BlockSource::Admin);
    let block = Block { name: None, until: None, reason: None, created_at, source };
    blocker.block(BlockSubject::of_id(id).unwrap(), block).unwrap();
    blocker.save()
}

fn maintain(blocker: &Blocker) {
    blocker.maintain(Instant::now() + RETRY_PAUSE);
}

/// The ids of the blocks in the file, or of its process.
fn ids(records: Vec<BlockRecord>) -> Vec<String> {
    let blocked = records.into_iter().filter(|record| record.block.is_some());
    let ids = blocked.filter_map(|record| match record.subject {
        BlockSubject::Id(id) => Some(id.into_string()),
        _ => None,
    });
    ids.collect()
}

fn stored(path: &Path) -> Vec<String> {
    ids(BlockFile::open(path).unwrap().1)
}

/// During a rolling update the newer version may already have written it.
#[test]
fn file_of_another_format_is_not_overwritten() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("blocked.json");
    let blocker = start(&path);
    block(&blocker, "17").unwrap();
    let newer = "{\"format\": 2, \"blocks\": [], \"more\": {}}\n";
    fs::write(&path, newer).unwrap();
    maintain(&blocker);
    assert!(block(&blocker, "18").is_err());
    maintain(&blocker);
    assert_eq!(fs::read_to_string(&path).unwrap(), newer);
    assert_eq!(ids(blocker.records()), ["17", "18"], "both are in force");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    fs::remove_file(&path).unwrap();
    maintain(&blocker);
    assert_eq!(stored(&path), ["17", "18"]);
}

/// As by EIO or EMFILE: the file has blocks of another process.
#[test]
fn file_that_cannot_be_read_is_merged_once_it_can() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let path = at("blocked.json");
    let blocker = start(&path);
    block(&blocker, "17").unwrap();
    let other = start(&path);
    block(&other, "18").unwrap();
    fs::rename(&path, at("readable")).unwrap();
    symlink("/proc/self/mem", &path).unwrap();
    maintain(&blocker);
    assert!(block(&blocker, "19").is_err());
    assert!(fs::symlink_metadata(&path).unwrap().is_symlink(), "it is not overwritten");
    fs::rename(at("readable"), &path).unwrap();
    maintain(&blocker);
    assert_eq!(stored(&path), ["17", "18", "19"]);
    assert_eq!(ids(blocker.records()), ["17", "18", "19"]);
}

#[test]
fn file_of_a_process_without_blocks_is_not_created() {
    let directory = tempfile::tempdir().unwrap();
    let blocker = start(&directory.path().join("blocked.json"));
    blocker.probe_file();
    maintain(&blocker);
    maintain(&blocker);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    block(&blocker, "17").unwrap();
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
}

#[test]
fn latest_damaged_file_is_kept() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("blocked.json");
    let blocker = start(&path);
    block(&blocker, "17").unwrap();
    for (number, text) in ["{", "", "{\"format\": 1, \"blocks\": [}"].into_iter().enumerate() {
        fs::write(&path, text).unwrap();
        if number == 1 {
            block(&blocker, "18").unwrap()
        } else {
            maintain(&blocker)
        }
        assert_eq!(fs::read_to_string(directory.path().join("blocked.json.damaged")).unwrap(), text);
        assert_eq!(stored(&path), ids(blocker.records()));
    }
    assert_eq!(ids(blocker.records()), ["17", "18"]);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
}
