//! The least abilities that would have sufficed.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap};

use crate::policy::ability::{Requirement, RequirementKind};
use crate::usage::report::UsageRow;

/// Up to so many abilities, of which requests need one or another, every choice is tried.
const EXACT: usize = 16;

/// The abilities of which one suffices, for one kind of requests.
pub(super) type Need = BTreeSet<String>;

/// What the requests of `row` need. Of an `any` it is not only the ability that they were counted for.
pub(super) fn needs(row: &UsageRow) -> Vec<Need> {
    let need = |name: &str| Need::from([name.to_owned()]);
    // As most rows are: there is nothing to read.
    if let Some(ability) = row.ability.as_deref().filter(|ability| *ability == row.requirement) {
        return vec![need(ability)];
    }
    let requirement = Requirement::read(&row.requirement);
    match requirement.as_ref().map(Requirement::kind) {
        Some(RequirementKind::All(names)) => names.iter().map(|name| need(name)).collect(),
        Some(RequirementKind::Any(names)) => vec![names.iter().map(|name| String::from(&**name)).collect()],
        _ => row.ability.iter().map(|name| need(name)).collect(),
    }
}

/// The fewest abilities of which every need has one; of several such lists one with the most that only read, and always
/// the same. A minimal hitting set: whatever is alone in its need first; then, for up to 16 abilities, the best
/// of all choices. For more the one that serves the most needs is taken again and again, and what that made superfluous
/// is left out: none of it can be spared, but there may be a shorter list.
pub(super) fn least(needs: &BTreeSet<Need>) -> BTreeSet<String> {
    let mut least: BTreeSet<String> =
        needs.iter().filter(|need| need.len() == 1).flatten().cloned().collect();
    let open: Vec<&Need> = needs.iter().filter(|need| !need.is_empty() && need.is_disjoint(&least)).collect();
    // What only reads first, so that it is preferred.
    let mut choices: Vec<&String> = open.iter().copied().flatten().collect();
    choices.sort_unstable_by_key(|name| (!only_reads(name), *name));
    choices.dedup();
    least.extend(if choices.len() <= EXACT { best(&open, &choices) } else { greedy(&open, &choices) });
    least
}

/// Whether an ability is one of the guide's read-only ones, by its name.
pub(super) fn only_reads(ability: &str) -> bool {
    ability.ends_with(":read")
}

/// Each choice is a bit.
fn best(open: &[&Need], choices: &[&String]) -> Vec<String> {
    let names = |set: u32| {
        let numbered = choices.iter().enumerate();
        numbered.filter(move |(number, _)| set & (1 << number) != 0).map(|(_, name)| (*name).clone())
    };
    let bits = |need: &&Need| {
        let numbered = choices.iter().enumerate();
        numbered.filter(|(_, name)| need.contains(**name)).map(|(number, _)| 1_u32 << number).sum::<u32>()
    };
    let open: Vec<u32> = open.iter().map(bits).collect();
    let writes = |set: u32| names(set).filter(|name| !only_reads(name)).count();
    (0..1_u32 << choices.len())
        .filter(|set| open.iter().all(|need| need & set != 0))
        .min_by_key(|set| (set.count_ones(), writes(*set), *set))
        .map(|set| names(set).collect())
        .unwrap_or_default()
}

fn greedy(open: &[&Need], choices: &[&String]) -> Vec<String> {
    let numbers: HashMap<&String, usize> =
        choices.iter().enumerate().map(|(number, name)| (*name, number)).collect();
    let of = |need: usize| open[need].iter().filter_map(|name| numbers.get(name).copied());
    // Which needs each choice serves.
    let mut serves = vec![Vec::new(); choices.len()];
    for need in 0..open.len() {
        of(need).for_each(|choice| serves[choice].push(need));
    }
    let mut left = vec![true; open.len()];
    let mut counts: Vec<usize> = serves.iter().map(Vec::len).collect();
    // The first of those that serve the most comes first. Counts only fall: one that is out of date is put back.
    let mut queue: BinaryHeap<(usize, Reverse<usize>)> =
        counts.iter().enumerate().map(|(choice, count)| (*count, Reverse(choice))).collect();
    let mut taken = Vec::new();
    while let Some((count, Reverse(choice))) = queue.pop() {
        match counts[choice] {
            0 => {}
            now if now < count => queue.push((now, Reverse(choice))),
            _ => {
                for need in serves[choice].iter().copied() {
                    if std::mem::take(&mut left[need]) {
                        of(need).for_each(|other| counts[other] -= 1);
                    }
                }
                taken.push(choice);
            }
        }
    }
    // By how many each need is served: whatever serves none alone can be spared.
    let mut served = vec![0_usize; open.len()];
    taken.iter().flat_map(|choice| &serves[*choice]).for_each(|need| served[*need] += 1);
    taken.retain(|choice| {
        let spared = serves[*choice].iter().all(|need| served[*need] > 1);
        if spared {
            serves[*choice].iter().for_each(|need| served[*need] -= 1);
        }
        !spared
    });
    taken.into_iter().map(|choice| choices[choice].clone()).collect()
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
    fn the_least_that_suffices() {
        let least = |needs: &[&[&str]]| least(&sets(needs));
        assert_eq!(least(&[]), set(&[]));
        assert_eq!(least(&[&["a"], &["b"]]), set(&["a", "b"]));
        assert_eq!(least(&[&["b", "a"], &["b"]]), set(&["b"]), "what is alone serves the others");
        assert_eq!(least(&[&["a", "b"]]), set(&["a"]));
        assert_eq!(least(&[&["a:delete", "b:read"]]), set(&["b:read"]), "reading is preferred");
        assert_eq!(least(&[&["a", "b"], &["b", "c"], &["c", "d"]]), set(&["a", "c"]));
        assert_eq!(least(&[&["a", "x"], &["b", "x"], &["c", "x"]]), set(&["x"]));
        assert_eq!(least(&[&[]]), set(&[]), "nothing helps");
    }

    #[test]
    fn many_choices_are_not_all_tried() {
        let hub: Vec<Need> = (0..40).map(|number| set(&[&format!("a{number}"), "hub"])).collect();
        assert_eq!(least(&hub.into_iter().collect()), set(&["hub"]));
    }

    /// Each with many abilities that no other has: as no map has it, but a file may.
    #[test]
    fn very_many_choices_take_no_time() {
        let all: BTreeSet<Need> = (0..2000_usize)
            .map(|number| (0..40).map(|choice| format!("c{}", (number * 7 + choice * 13) % 19_997)).collect())
            .collect();
        let found = least(&all);
        assert!(all.iter().all(|need| !need.is_disjoint(&found)));
    }

    #[test]
    fn what_is_alone_is_no_choice() {
        let alone: Vec<Need> = (0..EXACT).map(|number| set(&[&format!("s{number}")])).collect();
        let open: &[&[&str]] = &[
            &["p", "x", "1"],
            &["p", "x", "2"],
            &["q", "x", "3"],
            &["q", "x", "4"],
            &["p", "b"],
            &["q", "c"],
        ];
        let found = least(&alone.iter().cloned().chain(sets(open)).collect());
        let expected: BTreeSet<String> = alone.into_iter().flatten().chain(set(&["p", "q"])).collect();
        assert_eq!(found, expected, "the one that serves the most is not in the best list");
    }

    #[test]
    fn what_rows_need() {
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
        fn no_shorter_list_suffices(needs in needs_of(4)) {
            let names: Vec<&String> = needs.iter().flatten().collect::<BTreeSet<_>>().into_iter().collect();
            prop_assert!(names.len() <= 8);
            let suffices = |list: &BTreeSet<String>| needs.iter().all(|need| !need.is_disjoint(list));
            let found = least(&needs);
            prop_assert!(suffices(&found));
            for choice in 0..1_u32 << names.len() {
                let list: BTreeSet<String> = names.iter().enumerate()
                    .filter(|(number, _)| choice & (1 << number) != 0).map(|(_, name)| (*name).clone()).collect();
                prop_assert!(!suffices(&list) || list.len() >= found.len(), "{list:?} is shorter than {found:?}");
            }
        }

        #[test]
        fn of_many_none_can_be_spared(needs in needs_of(60)) {
            let found = least(&needs);
            prop_assert!(needs.iter().all(|need| !need.is_disjoint(&found)));
            for name in &found {
                let mut without = found.clone();
                without.remove(name);
                prop_assert!(needs.iter().any(|need| need.is_disjoint(&without)), "{name} of {found:?}");
            }
        }
    }
}
