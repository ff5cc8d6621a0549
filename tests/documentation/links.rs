//! Links, anchors, the length of pages, and the table of contents.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use super::{Page, ROOT, pages, read};

const LONGEST_README: usize = 150;
const LONGEST_PAGE: usize = 400;
/// The generated page with the help of every command.
const COMMANDS: &str = "docs/reference/commands.md";
const LONGEST_COMMANDS: usize = 500;

/// The targets of the links of a page.
fn targets(page: &Page) -> Vec<String> {
    let prose = page.prose();
    prose.split("](").skip(1).map(|rest| rest.split(')').next().unwrap().to_owned()).collect()
}

/// The path of a link's target from the repository's root.
fn resolve(page: &Page, target: &str) -> PathBuf {
    let mut path = Path::new(&page.path).parent().unwrap().to_owned();
    for part in Path::new(target).components() {
        match part {
            Component::ParentDir => assert!(path.pop(), "{}: {target} leaves the repository", page.path),
            Component::Normal(name) => path.push(name),
            _ => {}
        }
    }
    path
}

#[test]
fn every_link_and_anchor_resolves() {
    let pages = pages();
    let mut count = 0;
    for page in &pages {
        for target in targets(page) {
            if target.contains("://") {
                continue;
            }
            let (file, anchor) = target.split_once('#').unwrap_or((&target, ""));
            let path = if file.is_empty() { PathBuf::from(&page.path) } else { resolve(page, file) };
            assert!(Path::new(ROOT).join(&path).exists(), "{}: {target}", page.path);
            if !anchor.is_empty() {
                let other = pages.iter().find(|it| Path::new(&it.path) == path);
                let other = other.unwrap_or_else(|| panic!("{}: {target} is not a page", page.path));
                assert!(other.anchors().contains(anchor), "{}: {target}: {:?}", page.path, other.anchors());
            }
            count += 1;
        }
    }
    assert!(count > 200, "{count}");
}

/// Pages of the book link only to each other, since the book contains nothing else.
#[test]
fn pages_of_the_book_link_only_to_each_other() {
    for page in pages().iter().filter(|page| page.path.starts_with("docs/")) {
        for target in targets(page).iter().filter(|target| !target.contains("://")) {
            let path = resolve(page, target.split('#').next().unwrap());
            assert!(path.starts_with("docs"), "{}: {target}: name the file instead", page.path);
        }
    }
}

#[test]
fn every_page_is_in_the_table_of_contents_once() {
    let summary = Page { path: "docs/SUMMARY.md".to_owned(), text: read("docs/SUMMARY.md") };
    let listed = targets(&summary);
    let unique: BTreeSet<String> = listed.iter().map(|target| format!("docs/{target}")).collect();
    assert_eq!(listed.len(), unique.len(), "a page is listed twice");
    let all: BTreeSet<String> = pages().into_iter().map(|page| page.path).collect();
    let expected: BTreeSet<String> =
        all.into_iter().filter(|path| path.starts_with("docs/") && *path != summary.path).collect();
    assert_eq!(unique, expected);
}

#[test]
fn pages_are_short() {
    for page in pages() {
        let longest = match page.path.as_str() {
            "README.md" => LONGEST_README,
            COMMANDS => LONGEST_COMMANDS,
            _ => LONGEST_PAGE,
        };
        let lines = page.text.lines().count();
        assert!(lines <= longest, "{} has {lines} lines; at most {longest}", page.path);
    }
}

/// Every page is at most two clicks from the README.
#[test]
fn operators_topics_are_linked_near_the_readme() {
    let pages = pages();
    let readme = pages.iter().find(|page| page.path == "README.md").unwrap();
    let mut near: BTreeSet<PathBuf> = targets(readme)
        .iter()
        .filter(|target| !target.contains("://"))
        .map(|target| resolve(readme, target.split('#').next().unwrap()))
        .collect();
    for page in pages.iter().filter(|page| near.contains(Path::new(&page.path))).collect::<Vec<_>>() {
        let local = targets(page).into_iter().filter(|target| !target.contains("://"));
        near.extend(local.map(|target| resolve(page, target.split('#').next().unwrap())));
    }
    for (file, anchor) in [
        ("docs/concepts/decision.md", "add-a-route"),
        ("docs/concepts/decision.md", "why-a-403"),
        ("docs/operations/revocation.md", "revoke-a-token-now"),
        ("docs/operations/tls.md", "rotate-a-certificate"),
        ("docs/operations/replicas.md", "several-replicas"),
        ("docs/guides/behind-an-ingress.md", "behind-an-ingress-or-load-balancer"),
        ("docs/concepts/decision.md", "abilities-for-a-new-token"),
        ("docs/operations/upgrade.md", "upgrade-to-a-new-version"),
        ("docs/reference/log-fields-and-reasons.md", "access-log"),
    ] {
        assert!(near.contains(Path::new(file)), "{file} is more than two clicks away");
        let page = pages.iter().find(|page| page.path == file).unwrap();
        assert!(page.anchors().contains(anchor), "{file}#{anchor}");
    }
}
