//! Computes the smallest set of abilities that would have sufficed.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap};

use super::requirement::requirement;
use crate::policy::ability::{Requirement, RequirementKind};
use crate::usage::report::UsageRow;

/// Up to this number of candidate abilities, all subsets are tried.
const MAX_EXHAUSTIVE: usize = 16;

/// A set of abilities of which one suffices for a request.
pub(super) type Need = BTreeSet<String>;

/// The needs of the requests in `row`. For `any`, the need has all its abilities, not only the one in the row.
pub(super) fn needs(row: &UsageRow) -> Vec<Need> {
    let need = |name: &str| Need::from([name.to_owned()]);
    // The most common case: the requirement is the ability, and needs no parsing.
    if let Some(ability) = row.ability.as_deref().filter(|ability| *ability == row.requirement) {
        return vec![need(ability)];
    }
    match requirement(&row.requirement).as_ref().map(Requirement::kind) {
        Some(RequirementKind::All(names)) => names.iter().map(|name| need(name)).collect(),
        Some(RequirementKind::Any(names)) => vec![names.iter().map(|name| String::from(&**name)).collect()],
        _ => row.ability.iter().map(|name| need(name)).collect(),
    }
}

/// The smallest set with an ability of each need, a minimum hitting set. Among sets of equal size, it prefers
/// read-only abilities, and is deterministic. Needs of a single ability are taken first. Up to 16 candidates are
/// searched exhaustively. For more, a greedy search takes the ability that meets the most needs, and then removes
/// redundant ones. Its result cannot be reduced further, but a smaller set may exist.
pub(super) fn minimal(needs: &BTreeSet<Need>) -> BTreeSet<String> {
    let mut minimal: BTreeSet<String> =
        needs.iter().filter(|need| need.len() == 1).flatten().cloned().collect();
    let open: Vec<&Need> =
        needs.iter().filter(|need| !need.is_empty() && need.is_disjoint(&minimal)).collect();
    // Read-only abilities first, so that they are preferred.
    let mut candidates: Vec<&String> = open.iter().copied().flatten().collect();
    candidates.sort_unstable_by_key(|name| (!only_reads(name), *name));
    candidates.dedup();
    minimal.extend(if candidates.len() <= MAX_EXHAUSTIVE {
        exhaustive(&open, &candidates)
    } else {
        greedy(&open, &candidates)
    });
    minimal
}

/// Whether the name of an ability marks it as read-only in the guide.
pub(super) fn only_reads(ability: &str) -> bool {
    ability.ends_with(":read")
}

/// Represents subsets as bit sets.
fn exhaustive(open: &[&Need], candidates: &[&String]) -> Vec<String> {
    let names = |set: u32| {
        let numbered = candidates.iter().enumerate();
        numbered.filter(move |(number, _)| set & (1 << number) != 0).map(|(_, name)| (*name).clone())
    };
    let bits = |need: &&Need| {
        let numbered = candidates.iter().enumerate();
        numbered.filter(|(_, name)| need.contains(**name)).map(|(number, _)| 1_u32 << number).sum::<u32>()
    };
    let open: Vec<u32> = open.iter().map(bits).collect();
    let writes = |set: u32| names(set).filter(|name| !only_reads(name)).count();
    (0..1_u32 << candidates.len())
        .filter(|set| open.iter().all(|need| need & set != 0))
        .min_by_key(|set| (set.count_ones(), writes(*set), *set))
        .map(|set| names(set).collect())
        .unwrap_or_default()
}

fn greedy(open: &[&Need], candidates: &[&String]) -> Vec<String> {
    let numbers: HashMap<&String, usize> =
        candidates.iter().enumerate().map(|(number, name)| (*name, number)).collect();
    let candidates_of = |need: usize| open[need].iter().filter_map(|name| numbers.get(name).copied());
    // The needs that each candidate meets.
    let mut meets = vec![Vec::new(); candidates.len()];
    for need in 0..open.len() {
        candidates_of(need).for_each(|candidate| meets[candidate].push(need));
    }
    let mut unmet = vec![true; open.len()];
    let mut counts: Vec<usize> = meets.iter().map(Vec::len).collect();
    // A max-heap by count, then by index. Counts only decrease, so an outdated entry is pushed back.
    let mut queue: BinaryHeap<(usize, Reverse<usize>)> =
        counts.iter().enumerate().map(|(candidate, count)| (*count, Reverse(candidate))).collect();
    let mut chosen = Vec::new();
    while let Some((count, Reverse(candidate))) = queue.pop() {
        match counts[candidate] {
            0 => {}
            now if now < count => queue.push((now, Reverse(candidate))),
            _ => {
                for need in meets[candidate].iter().copied() {
                    if std::mem::take(&mut unmet[need]) {
                        candidates_of(need).for_each(|other| counts[other] -= 1);
                    }
                }
                chosen.push(candidate);
            }
        }
    }
    // How often each need is met. A candidate is redundant if all its needs are met by others, too.
    let mut times_met = vec![0_usize; open.len()];
    chosen.iter().flat_map(|candidate| &meets[*candidate]).for_each(|need| times_met[*need] += 1);
    chosen.retain(|candidate| {
        let redundant = meets[*candidate].iter().all(|need| times_met[*need] > 1);
        if redundant {
            meets[*candidate].iter().for_each(|need| times_met[*need] -= 1);
        }
        !redundant
    });
    chosen.into_iter().map(|candidate| candidates[candidate].clone()).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn set(names: &[&str]) -> Need {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn sets(needs: &[&[&str]]) -> BTreeSet<Need> {
        needs.iter().map(|need| set(need)).collect()
    }

    #[test]
    fn minimal_set_meets_every_need() {
        let minimal = |needs: &[&[&str]]| minimal(&sets(needs));
        assert_eq!(minimal(&[]), set(&[]));
        assert_eq!(minimal(&[&["a"], &["b"]]), set(&["a", "b"]));
        assert_eq!(minimal(&[&["b", "a"], &["b"]]), set(&["b"]), "a single ability also meets other needs");
        assert_eq!(minimal(&[&["a", "b"]]), set(&["a"]));
        assert_eq!(
            minimal(&[&["a:delete", "b:read"]]),
            set(&["b:read"]),
            "read-only abilities are preferred"
        );
        assert_eq!(minimal(&[&["a", "b"], &["b", "c"], &["c", "d"]]), set(&["a", "c"]));
        assert_eq!(minimal(&[&["a", "x"], &["b", "x"], &["c", "x"]]), set(&["x"]));
        assert_eq!(minimal(&[&[]]), set(&[]), "an empty need cannot be met");
    }

    #[test]
    fn more_than_16_candidates_are_searched_greedily() {
        let hub: Vec<Need> = (0..40).map(|number| set(&[&format!("a{number}"), "hub"])).collect();
        assert_eq!(minimal(&hub.into_iter().collect()), set(&["hub"]));
    }

    /// Each need has many abilities of its own. No map is like this, but a report file may be.
    #[test]
    fn very_many_candidates_are_searched_fast() {
        let all: BTreeSet<Need> = (0..2000_usize)
            .map(|number| {
                (0..40).map(|candidate| format!("c{}", (number * 7 + candidate * 13) % 19_997)).collect()
            })
            .collect();
        let found = minimal(&all);
        assert!(all.iter().all(|need| !need.is_disjoint(&found)));
    }

    #[test]
    fn needs_of_a_single_ability_do_not_count_as_candidates() {
        let alone: Vec<Need> = (0..MAX_EXHAUSTIVE).map(|number| set(&[&format!("s{number}")])).collect();
        let open: &[&[&str]] = &[
            &["p", "x", "1"],
            &["p", "x", "2"],
            &["q", "x", "3"],
            &["q", "x", "4"],
            &["p", "b"],
            &["q", "c"],
        ];
        let found = minimal(&alone.iter().cloned().chain(sets(open)).collect());
        let expected: BTreeSet<String> = alone.into_iter().flatten().chain(set(&["p", "q"])).collect();
        assert_eq!(found, expected, "the ability that meets the most needs is not in the smallest set");
    }

    #[test]
    fn needs_of_rows_follow_their_requirement() {
        let row = |ability: Option<&str>, requirement: &str| UsageRow {
            ability: ability.map(str::to_owned),
            requirement: requirement.to_owned(),
            ..crate::usage::findings::tests::row(None, "/a", 1)
        };
        for (row, needs) in [
            (row(Some("a"), "a"), vec![set(&["a"])]),
            (row(Some("a"), "{all: [a, b]}"), vec![set(&["a"]), set(&["b"])]),
            (row(Some("a"), "{any: [a, b]}"), vec![set(&["a", "b"])]),
            (row(Some("a"), ""), vec![set(&["a"])]),
            (row(Some("a"), "{some: [a]}"), vec![set(&["a"])]),
            (row(None, "authenticated"), vec![]),
            (row(None, ""), vec![]),
        ] {
            assert_eq!(super::needs(&row), needs, "{row:?}");
        }
    }

    fn needs_of(abilities: usize) -> impl Strategy<Value = BTreeSet<Need>> {
        let name = (0..abilities, any::<bool>())
            .prop_map(|(number, reads)| format!("{number}:{}", if reads { "read" } else { "update" }));
        prop::collection::btree_set(prop::collection::btree_set(name, 1..5), 0..12)
    }

    proptest! {
        #[test]
        fn exhaustive_search_finds_a_smallest_set(needs in needs_of(4)) {
            let names: Vec<&String> = needs.iter().flatten().collect::<BTreeSet<_>>().into_iter().collect();
            prop_assert!(names.len() <= 8);
            let suffices = |list: &BTreeSet<String>| needs.iter().all(|need| !need.is_disjoint(list));
            let found = minimal(&needs);
            prop_assert!(suffices(&found));
            for candidate in 0..1_u32 << names.len() {
                let list: BTreeSet<String> = names.iter().enumerate()
                    .filter(|(number, _)| candidate & (1 << number) != 0).map(|(_, name)| (*name).clone()).collect();
                prop_assert!(!suffices(&list) || list.len() >= found.len(), "{list:?} is shorter than {found:?}");
            }
        }

        #[test]
        fn greedy_search_finds_an_irreducible_set(needs in needs_of(60)) {
            let found = minimal(&needs);
            prop_assert!(needs.iter().all(|need| !need.is_disjoint(&found)));
            for name in &found {
                let mut without = found.clone();
                without.remove(name);
                prop_assert!(needs.iter().any(|need| need.is_disjoint(&without)), "{name} of {found:?}");
            }
        }
    }
}
