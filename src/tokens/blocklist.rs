//! The block list: tokens that are refused, whatever introspection says.
//!
//! Revoking forgets, blocking bans. A block is first added to the list, and then the verdicts of its tokens are revoked.
//! So only a lookup that finds no cached verdict has to consult the list: before an introspection by what the token's
//! text shows, and after it by id, name and secret.
//!
//! Each block has one [`BlockRecord`], of which the latest version wins: in this process, in the file and on every
//! replica. A removed block leaves its record without a block, so that a replica that was cut off does not restore it.

pub mod file;
pub mod record;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use jiff::Timestamp;

use self::record::{Block, BlockRecord, BlockSource, BlockSubject, BlockVersion};
use super::hash::TokenHash;
use super::revocation::{Subject, written_id};
use crate::config::settings;

/// Largest number of blocks, without those of the configuration.
pub const MAX_BLOCKS: usize = 10_000;

/// Largest number of records of blocks that were removed or have ended. The oldest are dropped first.
const MAX_REMOVED: usize = 10_000;

/// Largest number of records.
pub const MAX_RECORDS: usize = MAX_BLOCKS + MAX_REMOVED;

/// Number of blocks that other replicas cannot use up, so that this one can always block more.
const RESERVED: usize = 1_000;

/// How long the record of a block without end is kept after it was removed. A replica that was cut off for longer may
/// restore the block.
const KEEP_REMOVED: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// How far the version of a record may be in the future: the largest difference between the clocks of two replicas.
const MAX_SKEW: Duration = Duration::from_secs(60 * 60);

/// The list has [`MAX_BLOCKS`] blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the block list is full: it has {MAX_BLOCKS} blocks")]
pub struct Full;

/// What the arrival of a record has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Merged {
    /// Nothing: the list has this version, or a later one.
    Nothing,
    /// Its tokens are blocked now.
    Blocked,
    /// Its tokens are no longer blocked by it.
    Removed,
    /// The record was rejected: its version is too far in the future, or the list is full.
    Rejected,
}

/// The blocks of the process.
#[derive(Debug, Default)]
pub struct BlockList {
    state: RwLock<State>,
    /// Whether there is any block, in force or not.
    has_blocks: AtomicBool,
    /// Incremented when tokens may no longer be blocked.
    removals: AtomicU64,
    /// Incremented when more tokens are blocked.
    additions: AtomicU64,
    /// Identifies this process in versions.
    process: u64,
}

#[derive(Debug, Default)]
struct State {
    records: HashMap<BlockSubject, Stored>,
    /// Those of the configuration, with the names.
    configured: HashMap<BlockSubject, Option<Box<str>>>,
    /// The number of records with a block.
    blocks: usize,
}

#[derive(Clone, Debug)]
struct Stored {
    version: BlockVersion,
    block: Option<Block>,
}

impl Stored {
    fn is_obsolete(&self, now: Timestamp) -> bool {
        is_without_effect(self.block.as_ref(), self.version, now)
    }
}

/// A block as reports list it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedBlock {
    /// The blocked tokens.
    pub subject: BlockSubject,
    /// The block.
    pub block: Block,
}

impl State {
    /// Whether a block of `subject` is in force.
    fn blocks(&self, subject: &BlockSubject, now: Timestamp) -> bool {
        let block = || self.records.get(subject)?.block.as_ref();
        self.configured.contains_key(subject) || block().is_some_and(|block| block.is_in_force(now))
    }

    fn has_blocks(&self) -> bool {
        self.blocks > 0 || !self.configured.is_empty()
    }

    /// Replaces a record. Returns the block of the earlier one.
    fn replace(&mut self, record: BlockRecord) -> Option<Block> {
        let BlockRecord { subject, version, block } = record;
        let is_block = block.is_some();
        let before = self.records.insert(subject, Stored { version, block }).and_then(|stored| stored.block);
        self.blocks = self.blocks + usize::from(is_block) - usize::from(before.is_some());
        before
    }

    /// Whether a block fits into a list of at most `most`.
    fn has_room(&self, subject: &BlockSubject, most: usize) -> bool {
        let is_known = self.records.get(subject).is_some_and(|stored| stored.block.is_some());
        is_known || self.blocks < most
    }

    /// Ends blocks, and drops old records without a block. Returns whether a block has ended.
    fn expire(&mut self, now: Timestamp) -> bool {
        let before = self.blocks;
        let oldest = oldest_removal(now);
        self.records.retain(|_, stored| {
            stored.block.take_if(|block| !block.is_in_force(now));
            stored.block.is_some() || stored.version.at >= oldest
        });
        self.blocks = self.records.values().filter(|stored| stored.block.is_some()).count();
        self.drop_excess();
        self.blocks != before
    }

    fn drop_excess(&mut self) {
        let excess = (self.records.len() - self.blocks).saturating_sub(MAX_REMOVED);
        if excess == 0 {
            return;
        }
        let removed = self.records.iter().filter(|(_, stored)| stored.block.is_none());
        let mut removed: Vec<_> =
            removed.map(|(subject, stored)| (stored.version, subject.clone())).collect();
        removed.sort_unstable();
        for (_, subject) in removed.into_iter().take(excess) {
            self.records.remove(&subject);
        }
    }
}

impl BlockList {
    /// A list with these records.
    pub fn new(records: Vec<BlockRecord>) -> Self {
        let list = Self { process: fastrand::u64(..), ..Self::default() };
        let now = Timestamp::now();
        for record in records {
            list.merge(record, now);
        }
        list
    }

    /// Whether there is no block at all. Costs one load.
    pub fn is_empty(&self) -> bool {
        !self.has_blocks.load(Ordering::Acquire)
    }

    /// Incremented when tokens may no longer be blocked: what was found blocked before is looked up again.
    pub fn removals(&self) -> u64 {
        self.removals.load(Ordering::Acquire)
    }

    /// Incremented when more tokens are blocked: what was found inactive for another reason before is looked up again in
    /// the list.
    pub fn additions(&self) -> u64 {
        self.additions.load(Ordering::Acquire)
    }

    /// Whether the text of a token shows that it is blocked, so that no introspection is needed. `shows_id` says that the
    /// text before its `|` is its id, as in Sanctum's tokens.
    pub fn blocks_text(&self, token: &str, shows_id: bool, now: Timestamp) -> bool {
        if self.is_empty() {
            return false;
        }
        let state = self.read();
        let id = written_id(token).filter(|_| shows_id);
        id.and_then(BlockSubject::of_id).is_some_and(|id| state.blocks(&id, now))
            || state.blocks(&BlockSubject::Token(TokenHash::of_secret(token)), now)
    }

    /// Whether a token is blocked, by what is known of it.
    pub fn blocks_token(&self, token: Subject<'_>, now: Timestamp) -> bool {
        if self.is_empty() {
            return false;
        }
        let state = self.read();
        let blocks = |subject: Option<BlockSubject>| subject.is_some_and(|it| state.blocks(&it, now));
        blocks(token.secret.map(|secret| BlockSubject::Token(*secret)))
            || blocks(token.id.and_then(BlockSubject::of_id))
            || blocks(token.written_id.and_then(BlockSubject::of_id))
            || blocks(token.name.and_then(BlockSubject::of_name))
    }

    /// Whether a block of one of `subjects` is in force.
    pub fn blocks_any<'a>(
        &self,
        mut subjects: impl Iterator<Item = &'a BlockSubject>,
        now: Timestamp,
    ) -> bool {
        !self.is_empty() && {
            let state = self.read();
            subjects.any(|subject| state.blocks(subject, now))
        }
    }

    /// Blocks tokens. An earlier block of the same tokens is replaced.
    ///
    /// # Errors
    /// [`Full`]. The list is unchanged.
    pub fn block(&self, subject: BlockSubject, block: Block, now: Timestamp) -> Result<BlockRecord, Full> {
        let mut state = self.write();
        if !state.has_room(&subject, MAX_BLOCKS) && state.expire(now) {
            self.removals.fetch_add(1, Ordering::AcqRel);
        }
        if !state.has_room(&subject, MAX_BLOCKS) {
            return Err(Full);
        }
        let record =
            BlockRecord { version: self.next_version(&state, &subject, now), subject, block: Some(block) };
        if state.replace(record.clone()).is_some() {
            // The new block may end earlier.
            self.removals.fetch_add(1, Ordering::AcqRel);
        }
        self.note_addition();
        Ok(record)
    }

    /// Removes the blocks of the subjects for which `selects` is true, except those of the configuration. Returns the
    /// records of those that were in force.
    pub fn unblock(&self, selects: impl Fn(&BlockSubject) -> bool, now: Timestamp) -> Vec<BlockRecord> {
        let mut state = self.write();
        let selected = state.records.iter().filter(|(subject, stored)| {
            stored.block.as_ref().is_some_and(|block| block.is_in_force(now)) && selects(subject)
        });
        let selected: Vec<BlockSubject> = selected.map(|(subject, _)| subject.clone()).collect();
        let records: Vec<BlockRecord> = selected
            .into_iter()
            .map(|subject| {
                let version = self.next_version(&state, &subject, now);
                let record = BlockRecord { subject, version, block: None };
                state.replace(record.clone());
                record
            })
            .collect();
        state.drop_excess();
        self.note_removal(&state);
        records
    }

    /// Whether `blocked` of the configuration blocks a subject for which `selects` is true.
    pub fn is_configured(&self, selects: impl Fn(&BlockSubject) -> bool) -> bool {
        self.read().configured.keys().any(selects)
    }

    /// Applies a record of the file, if it is later than the one that the list has. No block of the file is rejected, since
    /// that would end it silently: not by the number of blocks, nor because the clock was set back.
    pub fn merge(&self, record: BlockRecord, now: Timestamp) -> Merged {
        self.merge_within(usize::MAX, record, now)
    }

    /// The same with a record of another replica, which is rejected if there are too many or its version is too far in
    /// the future.
    pub fn merge_received(&self, mut record: BlockRecord, now: Timestamp) -> Merged {
        if record.version.at > milliseconds(now).saturating_add(MAX_SKEW.as_millis() as u64) {
            return Merged::Rejected;
        }
        if let Some(block) = &mut record.block {
            block.source = BlockSource::Replica;
        }
        self.merge_within(MAX_BLOCKS - RESERVED, record, now)
    }

    fn merge_within(&self, most: usize, mut record: BlockRecord, now: Timestamp) -> Merged {
        if record.block.as_ref().is_some_and(|block| !block.is_in_force(now)) {
            record.block = None;
        }
        let mut state = self.write();
        let known = state.records.get(&record.subject);
        if known.is_none() && is_obsolete(&record, now) {
            return Merged::Nothing;
        }
        if known.is_some_and(|known| record.version <= known.version) {
            return Merged::Nothing;
        }
        if let (Some(known), Some(block)) = (known.and_then(|known| known.block.as_ref()), &mut record.block)
        {
            // Redis does not know it.
            block.name = block.name.take().or_else(|| known.name.clone());
        }
        let is_block = record.block.is_some();
        if is_block && !state.has_room(&record.subject, most) {
            return Merged::Rejected;
        }
        let before = state.replace(record);
        if is_block {
            self.note_addition();
            if before.is_some() {
                self.removals.fetch_add(1, Ordering::AcqRel);
            }
            return Merged::Blocked;
        }
        state.drop_excess();
        self.note_removal(&state);
        if before.is_some() { Merged::Removed } else { Merged::Nothing }
    }

    /// Whether the list has a record that is not in `records`, or a later version of one. Another process may have dropped
    /// the [obsolete](is_obsolete) ones.
    pub fn is_ahead_of(&self, records: &[BlockRecord], now: Timestamp) -> bool {
        let versions: HashMap<&BlockSubject, BlockVersion> =
            records.iter().map(|record| (&record.subject, record.version)).collect();
        let state = self.read();
        let is_later = |(subject, stored): (&BlockSubject, &Stored)| {
            versions.get(subject).is_none_or(|version| *version < stored.version) && !stored.is_obsolete(now)
        };
        state.records.iter().any(is_later)
    }

    /// Replaces the blocks of the configuration. Returns those that are new.
    pub fn configure(&self, settings: &settings::Blocked) -> Vec<BlockSubject> {
        let ids = settings.ids.iter().filter_map(|id| Some((BlockSubject::of_id(id)?, None)));
        let names =
            settings.names.iter().filter_map(|name| Some((BlockSubject::of_name(name)?, Some(name.clone()))));
        let next: HashMap<BlockSubject, Option<Box<str>>> = ids.chain(names).collect();
        let mut state = self.write();
        let is_new = |subject: &&BlockSubject| !state.configured.contains_key(subject);
        let added: Vec<BlockSubject> = next.keys().filter(is_new).cloned().collect();
        state.configured = next;
        self.note_removal(&state);
        if !added.is_empty() {
            self.note_addition();
        }
        added
    }

    /// Ends blocks whose time has come, and drops old records. To be called about once a second.
    pub fn expire(&self, now: Timestamp) {
        let mut state = self.write();
        if state.expire(now) {
            self.note_removal(&state);
        }
    }

    /// All records, for the file and for other replicas.
    pub fn records(&self) -> Vec<BlockRecord> {
        let state = self.read();
        let records = state.records.iter().map(|(subject, Stored { version, block })| BlockRecord {
            subject: subject.clone(),
            version: *version,
            block: block.clone(),
        });
        let mut records: Vec<BlockRecord> = records.collect();
        records.sort_unstable_by(|one, other| one.subject.cmp(&other.subject));
        records
    }

    /// The blocks in force at `now`, those of the configuration first, each in the order of their subjects.
    pub fn list(&self, now: Timestamp) -> Vec<ListedBlock> {
        let state = self.read();
        let configured = state.configured.iter().map(|(subject, name)| ListedBlock {
            subject: subject.clone(),
            block: Block {
                name: name.clone(),
                until: None,
                reason: None,
                created_at: Timestamp::UNIX_EPOCH,
                source: BlockSource::Configuration,
            },
        });
        let made = state.records.iter().filter_map(|(subject, stored)| {
            let block = stored.block.clone().filter(|block| block.is_in_force(now))?;
            Some(ListedBlock { subject: subject.clone(), block })
        });
        let (mut configured, mut made): (Vec<_>, Vec<_>) = (configured.collect(), made.collect());
        for listed in [&mut configured, &mut made] {
            listed.sort_unstable_by(|one, other| one.subject.cmp(&other.subject));
        }
        configured.append(&mut made);
        configured
    }

    /// The number of blocks of each kind, in the order of [`BlockKind`](record::BlockKind).
    pub fn counts(&self) -> [u64; 3] {
        let mut counts = [0; 3];
        let state = self.read();
        let made =
            state.records.iter().filter(|(_, stored)| stored.block.is_some()).map(|(subject, _)| subject);
        for subject in made.chain(state.configured.keys()) {
            counts[subject.kind() as usize] += 1;
        }
        counts
    }

    /// The version of a change that is made now: later than that of every change that this process knows.
    fn next_version(&self, state: &State, subject: &BlockSubject, now: Timestamp) -> BlockVersion {
        let known = state.records.get(subject).map(|stored| stored.version.at.saturating_add(1));
        BlockVersion { at: milliseconds(now).max(known.unwrap_or_default()), by: self.process }
    }

    /// After the addition itself, and under its lock: a lookup that sees the new number also finds the block.
    fn note_addition(&self) {
        self.has_blocks.store(true, Ordering::Release);
        self.additions.fetch_add(1, Ordering::AcqRel);
    }

    /// After the removal itself: a lookup that sees the new number also sees that the block is gone.
    fn note_removal(&self, state: &State) {
        self.has_blocks.store(state.has_blocks(), Ordering::Release);
        self.removals.fetch_add(1, Ordering::AcqRel);
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a record has no effect any more, and everyone may forget it.
pub fn is_obsolete(record: &BlockRecord, now: Timestamp) -> bool {
    is_without_effect(record.block.as_ref(), record.version, now)
}

fn is_without_effect(block: Option<&Block>, version: BlockVersion, now: Timestamp) -> bool {
    !block.is_some_and(|block| block.is_in_force(now)) && version.at < oldest_removal(now)
}

/// The version of the oldest record without a block that is kept.
fn oldest_removal(now: Timestamp) -> u64 {
    milliseconds(now).saturating_sub(KEEP_REMOVED.as_millis() as u64)
}

fn milliseconds(time: Timestamp) -> u64 {
    u64::try_from(time.as_millisecond()).unwrap_or_default()
}

#[cfg(test)]
mod tests;
