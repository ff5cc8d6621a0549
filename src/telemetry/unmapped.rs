//! Requests that the ability map does not cover: paths, methods, counts and tokens.
//!
//! Each worker records into its own table, whose lock only it and a report take. Mapped requests are not recorded.

use std::collections::HashMap;
use std::collections::hash_map::Entry as MapEntry;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use http::Method;

use crate::policy::target::{METHODS, method_number};

/// The largest number of paths per worker.
///
/// A new path evicts the one with the fewest requests and starts with its count plus one (Space-Saving, Metwally et al.
/// 2005). A path with more than 1 in 1,000 requests is therefore never evicted for long. Only another path with a known
/// token evicts a path that a known token used.
pub const MAX_PATHS: usize = 1000;

/// The largest number of tokens per path.
pub const MOST_TOKENS: usize = 8;

/// What the map lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum MissingPart {
    /// No route matches the path.
    Route,
    /// The most specific route lacks the method; its template stands for the path.
    Method,
}

/// A request that no rule covers.
#[derive(Clone, Copy, Debug)]
pub struct Uncovered<'a> {
    /// The masked path, or the route's template.
    pub path: &'a str,
    /// What the map lacks.
    pub missing: MissingPart,
    /// The method.
    pub method: &'a Method,
    /// The token's id and name, if its verdict is known.
    pub token: Option<UncoveredToken<'a>>,
    /// When it ended.
    pub now: SystemTime,
}

/// A token, as introspected.
#[derive(Clone, Copy, Debug)]
pub struct UncoveredToken<'a> {
    /// Its id.
    pub id: &'a Arc<str>,
    /// Its name.
    pub name: Option<&'a Arc<str>>,
}

/// The record of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UncoveredPath {
    /// The masked path, or the route's template.
    pub path: Box<str>,
    /// What the map lacks.
    pub missing: MissingPart,
    /// Requests, by the number of their method in [`METHODS`].
    pub methods: [u64; METHODS.len()],
    /// Requests by token. At most [`MOST_TOKENS`] have an id; `None` stands for no token, or a token without a verdict.
    pub tokens: Vec<TokenCount>,
    /// Requests of further tokens.
    pub other_tokens: u64,
    /// When its first request ended.
    pub first_seen: SystemTime,
    /// When its last request ended.
    pub last_seen: SystemTime,
}

/// The number of requests of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenCount {
    /// Its id; `None` for no token, or a token without a verdict.
    pub id: Option<Arc<str>>,
    /// Its name.
    pub name: Option<Arc<str>>,
    /// Requests.
    pub count: u64,
}

impl UncoveredPath {
    /// All requests.
    pub fn count(&self) -> u64 {
        self.methods.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }

    fn new(request: &Uncovered<'_>) -> Self {
        Self {
            path: request.path.into(),
            missing: request.missing,
            methods: [0; METHODS.len()],
            tokens: Vec::new(),
            other_tokens: 0,
            first_seen: request.now,
            last_seen: request.now,
        }
    }

    fn add(&mut self, request: &Uncovered<'_>, method: usize) {
        self.methods[method] = self.methods[method].saturating_add(1);
        self.last_seen = self.last_seen.max(request.now);
        let id = request.token.map(|token| token.id);
        self.add_token(id, request.token.and_then(|token| token.name), 1);
    }

    fn add_token(&mut self, id: Option<&Arc<str>>, name: Option<&Arc<str>>, count: u64) {
        if let Some(known) = self.tokens.iter_mut().find(|known| known.id.as_ref() == id) {
            known.count = known.count.saturating_add(count);
        } else if id.is_none() || self.tokens.iter().filter(|known| known.id.is_some()).count() < MOST_TOKENS
        {
            self.tokens.push(TokenCount { id: id.cloned(), name: name.cloned(), count });
        } else {
            self.other_tokens = self.other_tokens.saturating_add(count);
        }
    }

    fn merge(&mut self, other: Self) {
        for (sum, count) in self.methods.iter_mut().zip(other.methods) {
            *sum = sum.saturating_add(count);
        }
        for TokenCount { id, name, count } in other.tokens {
            self.add_token(id.as_ref(), name.as_ref(), count);
        }
        self.other_tokens = self.other_tokens.saturating_add(other.other_tokens);
        self.first_seen = self.first_seen.min(other.first_seen);
        self.last_seen = self.last_seen.max(other.last_seen);
    }
}

/// The requests of all workers.
pub struct UncoveredRequests(Box<[Mutex<Table>]>);

impl fmt::Debug for UncoveredRequests {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("UncoveredRequests").field(&self.0.len()).finish()
    }
}

/// A report of all workers.
#[derive(Clone, Debug, Default)]
pub struct UncoveredReport {
    /// The paths, most requests first.
    pub paths: Vec<UncoveredPath>,
    /// The number of paths that did not fit into the tables.
    pub evicted: u64,
}

impl UncoveredRequests {
    /// Empty tables for `workers` workers.
    pub fn new(workers: usize) -> Arc<Self> {
        Arc::new(Self((0..workers).map(|_| Mutex::default()).collect()))
    }

    /// The recorder of one worker.
    pub fn worker(self: &Arc<Self>, index: usize) -> WorkerUncovered {
        WorkerUncovered { all: Arc::clone(self), index }
    }

    /// What all workers have recorded so far.
    pub fn report(&self) -> UncoveredReport {
        let mut merged: HashMap<(MissingPart, Box<str>), UncoveredPath> = HashMap::new();
        let mut evicted = 0_u64;
        for table in &self.0 {
            // A worker that records at the same time waits for this copy.
            let (paths, of_core) = {
                let table = lock(table);
                (table.paths.clone(), table.evicted)
            };
            evicted = evicted.saturating_add(of_core);
            for path in paths {
                match merged.entry((path.missing, path.path.clone())) {
                    MapEntry::Vacant(entry) => {
                        entry.insert(path);
                    }
                    MapEntry::Occupied(mut entry) => entry.get_mut().merge(path),
                }
            }
        }
        let mut paths: Vec<UncoveredPath> = merged.into_values().collect();
        paths.sort_by(|one, other| {
            other
                .count()
                .cmp(&one.count())
                .then_with(|| (&one.path, one.missing).cmp(&(&other.path, other.missing)))
        });
        UncoveredReport { paths, evicted }
    }
}

fn lock(table: &Mutex<Table>) -> MutexGuard<'_, Table> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One worker's recorder.
#[derive(Clone, Debug)]
pub struct WorkerUncovered {
    all: Arc<UncoveredRequests>,
    index: usize,
}

impl WorkerUncovered {
    /// Records a request.
    #[cold]
    pub fn record(&self, request: &Uncovered<'_>) {
        if let (Some(table), Some(method)) = (self.all.0.get(self.index), method_number(request.method)) {
            lock(table).record(request, method);
        }
    }
}

/// The paths of one worker.
#[derive(Default)]
struct Table {
    paths: Vec<UncoveredPath>,
    /// The weight of each path for eviction, at the same index.
    weights: Vec<Weight>,
    /// The index of each path, by kind.
    routes: HashMap<Box<str>, usize>,
    methods: HashMap<Box<str>, usize>,
    evicted: u64,
}

/// Paths with known tokens weigh more than all others; among their kind, those with more requests.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Weight {
    has_token: bool,
    count: u64,
}

impl Table {
    fn record(&mut self, request: &Uncovered<'_>, method: usize) {
        let Some(index) = self.index(request) else { return };
        let weight = &mut self.weights[index];
        weight.count = weight.count.saturating_add(1);
        weight.has_token |= request.token.is_some();
        self.paths[index].add(request, method);
    }

    /// The index of the request's path, which evicts another if necessary; `None` if there is no space.
    fn index(&mut self, request: &Uncovered<'_>) -> Option<usize> {
        if let Some(index) = self.indexes(request.missing).get(request.path) {
            return Some(*index);
        }
        if self.paths.len() < MAX_PATHS {
            let index = self.paths.len();
            self.paths.push(UncoveredPath::new(request));
            self.weights.push(Weight { has_token: false, count: 0 });
            self.indexes(request.missing).insert(request.path.into(), index);
            return Some(index);
        }
        self.evicted = self.evicted.saturating_add(1);
        let (index, lightest) = self.weights.iter().copied().enumerate().min_by_key(|(_, weight)| *weight)?;
        if lightest.has_token && request.token.is_none() {
            return None;
        }
        let evicted = std::mem::replace(&mut self.paths[index], UncoveredPath::new(request));
        self.indexes(evicted.missing).remove(&evicted.path);
        self.weights[index].has_token = false;
        self.indexes(request.missing).insert(request.path.into(), index);
        Some(index)
    }

    const fn indexes(&mut self, missing: MissingPart) -> &mut HashMap<Box<str>, usize> {
        match missing {
            MissingPart::Route => &mut self.routes,
            MissingPart::Method => &mut self.methods,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    fn record(worker: &WorkerUncovered, path: &str, method: Method, token: Option<&str>, second: u64) {
        let id = token.map(Arc::from);
        let name = token.map(|token| Arc::from(format!("name of {token}")));
        let token = id.as_ref().map(|id| UncoveredToken { id, name: name.as_ref() });
        let now = UNIX_EPOCH + Duration::from_secs(second);
        worker.record(&Uncovered { path, missing: MissingPart::Route, method: &method, token, now });
    }

    #[test]
    fn cores_are_merged_and_the_most_frequent_come_first() {
        let all = UncoveredRequests::new(2);
        let workers = [all.worker(0), all.worker(1)];
        record(&workers[0], "/a", Method::GET, Some("17"), 5);
        record(&workers[1], "/a", Method::GET, Some("17"), 3);
        record(&workers[1], "/a", Method::POST, None, 9);
        record(&workers[0], "/b", Method::GET, None, 1);
        record(&workers[0], "/c", Method::GET, None, 1);
        let template = Uncovered {
            path: "/a",
            missing: MissingPart::Method,
            method: &Method::DELETE,
            token: None,
            now: UNIX_EPOCH,
        };
        workers[0].record(&template);
        let report = all.report();
        let found: Vec<_> =
            report.paths.iter().map(|path| (&*path.path, path.missing, path.count())).collect();
        let expected = [
            ("/a", MissingPart::Route, 3),
            ("/a", MissingPart::Method, 1),
            ("/b", MissingPart::Route, 1),
            ("/c", MissingPart::Route, 1),
        ];
        assert_eq!(found, expected);
        let path = &report.paths[0];
        assert_eq!(path.methods, [2, 0, 1, 0, 0, 0, 0]);
        assert_eq!(path.first_seen, UNIX_EPOCH + Duration::from_secs(3));
        assert_eq!(path.last_seen, UNIX_EPOCH + Duration::from_secs(9));
        let tokens: Vec<_> = path.tokens.iter().map(|token| (token.id.as_deref(), token.count)).collect();
        assert_eq!(tokens, [(Some("17"), 2), (None, 1)]);
        assert_eq!(path.tokens[0].name.as_deref(), Some("name of 17"));
        assert_eq!(report.evicted, 0);
    }

    #[test]
    fn tokens_of_a_path_are_bounded() {
        let all = UncoveredRequests::new(1);
        let worker = all.worker(0);
        for token in 0..MOST_TOKENS + 3 {
            record(&worker, "/a", Method::GET, Some(&token.to_string()), 0);
        }
        record(&worker, "/a", Method::GET, None, 0);
        let path = &all.report().paths[0];
        assert_eq!(path.tokens.len(), MOST_TOKENS + 1);
        assert_eq!((path.other_tokens, path.count()), (3, MOST_TOKENS as u64 + 4));
    }

    #[test]
    fn flood_of_paths_neither_grows_the_table_nor_displaces_what_matters() {
        let all = UncoveredRequests::new(1);
        let worker = all.worker(0);
        record(&worker, "/with-token", Method::GET, Some("17"), 0);
        for _ in 0..100 {
            record(&worker, "/frequent", Method::GET, None, 0);
        }
        for number in 0..20 * MAX_PATHS {
            record(&worker, &format!("/path-{number}"), Method::GET, None, 0);
            record(&worker, "/frequent", Method::GET, None, 0);
        }
        let report = all.report();
        assert_eq!(report.paths.len(), MAX_PATHS);
        assert_eq!(report.evicted, 20 * MAX_PATHS as u64 + 2 - MAX_PATHS as u64);
        assert_eq!(
            (&*report.paths[0].path, report.paths[0].count()),
            ("/frequent", 20 * MAX_PATHS as u64 + 100)
        );
        assert!(report.paths.iter().any(|path| &*path.path == "/with-token"));
        let table = lock(&all.0[0]);
        assert_eq!((table.routes.len(), table.weights.len()), (MAX_PATHS, MAX_PATHS));
    }

    #[test]
    fn unknown_token_displaces_no_path_of_a_known_one() {
        let all = UncoveredRequests::new(1);
        let worker = all.worker(0);
        for number in 0..MAX_PATHS {
            record(&worker, &format!("/path-{number}"), Method::GET, Some("17"), 0);
        }
        record(&worker, "/of-a-stranger", Method::GET, None, 0);
        assert!(all.report().paths.iter().all(|path| &*path.path != "/of-a-stranger"));
        record(&worker, "/of-a-token", Method::GET, Some("18"), 0);
        let report = all.report();
        assert!(report.paths.iter().any(|path| &*path.path == "/of-a-token"));
        assert_eq!((report.paths.len(), report.evicted), (MAX_PATHS, 2));
    }
}
