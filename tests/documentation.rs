//! The program behaves as the documentation shows; links, anchors and generated pages.

mod commands;
mod configurations;
mod generated;
mod links;
mod reference;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::BINARY;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// A page of the documentation.
struct Page {
    /// The path from the repository's root.
    path: String,
    text: String,
}

/// A fenced code block of a page.
struct Block {
    language: String,
    text: String,
}

/// README.md, SECURITY.md, CONTRIBUTING.md, and all pages below docs and deploy.
fn pages() -> Vec<Page> {
    let mut files: Vec<PathBuf> = ["README.md", "SECURITY.md", "CONTRIBUTING.md"].map(PathBuf::from).to_vec();
    for directory in ["docs", "deploy"] {
        files.extend(markdown(Path::new(directory)));
    }
    assert!(files.len() > 60, "{}", files.len());
    let page = |path: PathBuf| Page { text: read(&path), path: path.display().to_string() };
    files.into_iter().map(page).collect()
}

/// The Markdown files below a directory, by path from the repository's root.
fn markdown(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(Path::new(ROOT).join(directory)).unwrap() {
        let path = directory.join(entry.unwrap().file_name());
        if Path::new(ROOT).join(&path).is_dir() {
            found.extend(markdown(&path));
        } else if path.extension().is_some_and(|it| it == "md") {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn read(file: impl AsRef<Path>) -> String {
    fs::read_to_string(Path::new(ROOT).join(file)).unwrap()
}

impl Page {
    /// The fenced code blocks, including those in lists.
    fn all_blocks(&self) -> Vec<Block> {
        let (mut blocks, mut open) = (Vec::new(), None::<Block>);
        for line in self.text.lines() {
            match (line.strip_prefix("```"), open.take()) {
                (Some(_), Some(block)) => blocks.push(block),
                (Some(language), None) => {
                    open = Some(Block { language: language.to_owned(), text: String::new() });
                }
                (None, Some(mut block)) => {
                    block.text += &format!("{line}\n");
                    open = Some(block);
                }
                (None, None) => assert!(!line.trim_start().starts_with("```"), "{}: {line}", self.path),
            }
        }
        assert!(open.is_none(), "{}: an unterminated block", self.path);
        blocks
    }

    /// The blocks of one language.
    fn blocks(&self, language: &str) -> Vec<String> {
        let blocks = self.all_blocks().into_iter().filter(|block| block.language == language);
        blocks.map(|block| block.text).collect()
    }

    /// The text outside of blocks.
    fn prose(&self) -> String {
        let mut in_block = false;
        let outside = self.text.lines().filter(|line| {
            let is_fence = line.starts_with("```");
            in_block ^= is_fence;
            !in_block && !is_fence
        });
        outside.collect::<Vec<_>>().join("\n")
    }

    /// The text between single backticks, outside of blocks.
    fn code(&self) -> Vec<String> {
        let prose = self.prose();
        let words = prose.split("\n\n").flat_map(|paragraph| paragraph.split('`').skip(1).step_by(2));
        words.map(|word| word.replace('\n', " ")).collect()
    }

    /// The anchors of the headings, as forges and mdBook generate them.
    fn anchors(&self) -> BTreeSet<String> {
        let prose = self.prose();
        prose.lines().filter(|line| line.starts_with('#')).map(anchor).collect()
    }
}

fn anchor(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    // A heading contains the text of a link.
    let text = text.split("](").next().unwrap_or_default();
    let kept = text.chars().filter(|it| it.is_alphanumeric() || matches!(it, ' ' | '-' | '_'));
    kept.map(|it| if it == ' ' { '-' } else { it }).collect()
}

/// The output of a command of the program; panics if it fails.
fn output(arguments: &[&str]) -> String {
    let mut command = Command::new(BINARY);
    let output = command.args(arguments).env_remove("STOCKAJ_GATEWAY_CONFIG").output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The help of a command.
fn help(command: &[&str]) -> String {
    output(&[command, &["--help"]].concat())
}
