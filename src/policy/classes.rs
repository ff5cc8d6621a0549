//! Divides all paths into classes for which two maps find the same routes.
//!
//! Walks the tries of both maps together. The state after some segments is the set of patterns of each map that may
//! still match. The next segment is a literal that either map has, or any other segment. All paths that lead to the same
//! states have the same routes, so that finitely many sample paths represent all paths.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use super::map::{AbilityMap, Node};
use super::path::CanonicalPath;

/// The largest number of path prefixes to visit. The map of a large API has some thousands. Literals after parameters at
/// every depth make the number exponential.
const MAX_STEPS: usize = 200_000;

/// The paths for which the old map finds one route and the new map another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathClass {
    /// The number of the old map's route; `None` if no route matches.
    pub old: Option<usize>,
    /// The number of the new map's route; `None` if no route matches.
    pub new: Option<usize>,
    /// Whether the old and the new map [refuse](AbilityMap::check_path) these paths for every route. Never both.
    pub refused: [bool; 2],
    /// A short path of the class; `*`, the target of OPTIONS, if the class has no path.
    pub sample: String,
}

/// The maps have too many classes of paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the maps tell too many kinds of paths apart")]
pub struct TooMany;

/// Lists the classes of all paths, sorted by the routes' numbers.
///
/// # Errors
/// [`TooMany`] if the walk exceeds its limit, because literals follow parameters at many depths.
pub fn classes(old: &AbilityMap, new: &AbilityMap) -> Result<Vec<PathClass>, TooMany> {
    let mut walk = Walk { maps: [old, new], found: BTreeMap::new(), path: String::new(), steps: 0 };
    walk.from(&MatcherState::root(old), &MatcherState::root(new))?;
    // `OPTIONS *` has no path, so no route matches it.
    walk.found.entry((None, None, [false; 2])).or_insert_with(|| "*".to_owned());
    let classes = walk.found.into_iter();
    Ok(classes.map(|((old, new, refused), sample)| PathClass { old, new, refused, sample }).collect())
}

/// A pattern that matches the segments so far.
#[derive(Clone, Copy)]
enum Candidate<'map> {
    /// A node of the trie, with or without a route.
    Node(&'map Node),
    /// A route whose `{*rest}` has begun: it matches any further segments.
    Rest(usize),
}

/// The candidates of one map, the most specific first. A [`Candidate::Rest`] is the last: it hides all others.
struct MatcherState<'map>(Vec<Candidate<'map>>);

impl<'map> MatcherState<'map> {
    fn root(map: &'map AbilityMap) -> Self {
        Self(vec![Candidate::Node(map.root())])
    }

    /// The state after one more segment: this literal, or a segment that is a literal of no candidate.
    fn after(&self, literal: Option<&[u8]>) -> Self {
        let mut candidates = Vec::new();
        for candidate in &self.0 {
            match candidate {
                Candidate::Rest(route) => candidates.push(Candidate::Rest(*route)),
                Candidate::Node(node) => {
                    let named = literal.and_then(|literal| node.literal(literal, false));
                    let next = named.into_iter().chain(node.parameter.as_deref());
                    candidates.extend(next.map(Candidate::Node));
                    candidates.extend(node.rest.map(Candidate::Rest));
                }
            }
            if matches!(candidates.last(), Some(Candidate::Rest(_))) {
                break;
            }
        }
        Self(candidates)
    }

    /// The route of the path that ends here.
    fn route(&self) -> Option<usize> {
        self.0.iter().find_map(|candidate| match candidate {
            Candidate::Node(node) => node.route,
            Candidate::Rest(route) => Some(*route),
        })
    }

    fn nodes(&self) -> impl Iterator<Item = &'map Node> {
        self.0.iter().filter_map(|candidate| match candidate {
            Candidate::Node(node) => Some(*node),
            Candidate::Rest(_) => None,
        })
    }
}

/// The two routes and [`PathClass::refused`].
type Class = (Option<usize>, Option<usize>, [bool; 2]);

struct Walk<'map> {
    /// The old and the new map.
    maps: [&'map AbilityMap; 2],
    /// The sample path of each class.
    found: BTreeMap<Class, String>,
    path: String,
    steps: usize,
}

impl Walk<'_> {
    fn from(&mut self, old: &MatcherState<'_>, new: &MatcherState<'_>) -> Result<(), TooMany> {
        self.steps += 1;
        if self.steps > MAX_STEPS {
            return Err(TooMany);
        }
        self.record(old.route(), new.route());
        let nodes = || old.nodes().chain(new.nodes());
        if nodes().next().is_none() {
            // Further segments do not change the routes.
            return Ok(());
        }
        let mut literals: Vec<&[u8]> = nodes().flat_map(Node::literals).collect();
        literals.sort_unstable();
        literals.dedup();
        let length = self.path.len();
        // A segment without a literal first: it is the plainest sample.
        for literal in [None].into_iter().chain(literals.iter().copied().map(Some)) {
            self.path.push('/');
            match literal {
                Some(literal) => encode(literal, &mut self.path),
                None => self.path.push_str(&other_segment(&literals)),
            }
            self.from(&old.after(literal), &new.after(literal))?;
            self.path.truncate(length);
        }
        Ok(())
    }

    fn record(&mut self, old: Option<usize>, new: Option<usize>) {
        let path = if self.path.is_empty() { "/" } else { &self.path };
        let canonical = CanonicalPath::new(path);
        let refuses = |map: &AbilityMap| canonical.as_ref().is_ok_and(|path| map.check_path(path).is_err());
        let refused = self.maps.map(refuses);
        if refused == [true; 2] {
            return;
        }
        match self.found.entry((old, new, refused)) {
            Entry::Vacant(entry) => {
                entry.insert(path.to_owned());
            }
            Entry::Occupied(mut entry) if path.len() < entry.get().len() => path.clone_into(entry.get_mut()),
            Entry::Occupied(_) => {}
        }
    }
}

/// A segment that differs from all `literals`, which are sorted.
fn other_segment(literals: &[&[u8]]) -> String {
    // There are more numbers than literals, so one differs.
    let mut numbers = (1..=literals.len() + 1).map(|number| number.to_string());
    numbers.find(|text| literals.binary_search(&text.as_bytes()).is_err()).unwrap_or_default()
}

/// Appends a decoded segment in its canonical form.
fn encode(segment: &[u8], path: &mut String) {
    for &byte in segment {
        if byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,=:@".contains(&byte) {
            path.push(char::from(byte));
        } else {
            path.push_str(&format!("%{byte:02X}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::ability::Requirement;
    use crate::policy::map::{MapBuilder, Unmapped};

    fn map(templates: &[&str]) -> AbilityMap {
        let mut builder = MapBuilder::new(Unmapped::Deny);
        for template in templates {
            builder.route(template, [(http::Method::GET, Requirement::public(), None)]).unwrap();
        }
        builder.build()
    }

    /// `old new sample` of each class.
    fn listed(old: &[&str], new: &[&str]) -> Vec<String> {
        let (old, new) = (map(old), map(new));
        let template = |map: &AbilityMap, route: Option<usize>| {
            route.and_then(|route| map.templates().nth(route)).unwrap_or("-").to_owned()
        };
        classes(&old, &new)
            .unwrap()
            .iter()
            .map(|it| format!("{} {} {}", template(&old, it.old), template(&new, it.new), it.sample))
            .collect()
    }

    #[test]
    fn each_pair_of_routes_that_share_a_path_is_a_class() {
        for (old, new, expected) in [
            (&[][..], &[][..], &["- - /"][..]),
            (&["/{*r}", "/"], &["/{*r}", "/"], &["- - *", "/ / /", "/{*r} /{*r} /1"]),
            (
                &["/items/{id}"],
                &["/items/{id}", "/items/search"],
                &["- - /", "/items/{id} /items/search /items/search", "/items/{id} /items/{id} /items/1"],
            ),
            // `/a/{*rest}` is more specific than `/{x}/b`.
            (&["/{x}/b"], &["/a/{*r}"], &["- - /", "- /a/{*r} /a/1", "/{x}/b - /1/b", "/{x}/b /a/{*r} /a/b"]),
            // Backtracks from the literal to the parameter.
            (&["/{x}/1/c"], &["/a/{y}"], &["- - /", "- /a/{y} /a/2", "/{x}/1/c - /1/1/c"]),
            (&["/a%3Fb"], &["/caf%C3%A9"], &["- - /", "- /caf%C3%A9 /caf%C3%A9", "/a%3Fb - /a%3Fb"]),
            (
                &["/{*r}"],
                &["/{*r}", "/index.php"],
                &["- - /", "/{*r} /index.php /index.php", "/{*r} /{*r} /1"],
            ),
            // Both maps refuse `index.php` unless a route has it as a literal.
            (
                &["/{x}/a"],
                &["/{*r}", "/index.php/b"],
                &["- - /", "- /index.php/b /index.php/b", "- /{*r} /1", "/{x}/a /{*r} /1/a"],
            ),
            (&["/1", "/2"], &["/{x}"], &["- - /", "- /{x} /3", "/1 /{x} /1", "/2 /{x} /2"]),
        ] {
            assert_eq!(listed(old, new), expected, "{old:?} {new:?}");
        }
    }

    #[test]
    fn every_sample_is_canonical() {
        let literals = ["/a:b", "/a|b", "/a%25zz", "/%E2%82%AC", "/a%3Bb", "/a@b", "/[0]"];
        for PathClass { sample, .. } in classes(&map(&literals), &map(&[])).unwrap() {
            assert!(CanonicalPath::new(&sample).unwrap().is_borrowed(), "{sample}");
        }
    }

    #[test]
    fn walk_over_its_limit_is_an_error() {
        let templates: Vec<String> = (0..40)
            .map(|literal| {
                (0..40)
                    .map(|at| if at == literal { "/a".to_owned() } else { format!("/{{p{at}}}") })
                    .collect()
            })
            .collect();
        let templates: Vec<&str> = templates.iter().map(String::as_str).collect();
        assert_eq!(classes(&map(&templates), &map(&[])), Err(TooMany));
    }
}
