//! Which bytes of a file no report shows.
//!
//! A report prints the line that it is about, and replaces everything on it that may be a secret. The rules err on the
//! side of hiding: they also cover misspelled keys, secrets in place of a key, and lines that are not YAML.

use std::ops::Range;

/// Replaces secrets.
pub(crate) const REDACTED: &str = "[redacted]";

/// The sections of a kind of file that have secrets. Names also match if they are misspelled by one letter.
#[derive(Debug)]
pub(crate) struct SecretSections {
    /// Sections with little else than secrets: a text in place of the whole section is probably one.
    pub(crate) mostly: &'static [&'static str],
    /// Other sections with secrets.
    pub(crate) partly: &'static [&'static str],
    /// Secret values, by section and key, whose keys do not sound secret.
    pub(crate) values: &'static [(&'static str, &'static str)],
}

impl SecretSections {
    /// None at all.
    pub(crate) const NONE: Self = Self { mostly: &[], partly: &[], values: &[] };

    fn is_mostly_secret(&self, section: &str) -> bool {
        self.mostly.iter().any(|known| is_near(section, known, 1))
    }

    /// Whether a section has secrets.
    pub(crate) fn has_secrets(&self, section: &str) -> bool {
        self.is_mostly_secret(section) || self.partly.iter().any(|known| is_near(section, known, 1))
    }

    /// Whether the value of this key in this section is secret.
    pub(crate) fn is_secret_value(&self, section: &str, key: &str) -> bool {
        self.values.iter().any(|(known, known_key)| is_near(section, known, 1) && is_near(key, known_key, 1))
    }
}

/// Whether two words differ by at most `most` edits.
fn is_near(word: &str, other: &str, most: usize) -> bool {
    // The lengths alone rule out most words, at a fraction of the cost.
    word.chars().count().abs_diff(other.chars().count()) <= most && strsim::osa_distance(word, other) <= most
}

/// Whether the values of a key are secret. Paths of routes are no such keys.
pub(crate) fn is_secret_key(key: &str) -> bool {
    const WORDS: [&str; 4] = ["secret", "token", "password", "passwd"];
    const WHOLE: [&str; 8] =
        ["api_key", "api-key", "apikey", "authorization", "bearer", "pass", "passphrase", "pwd"];
    let key = key.to_ascii_lowercase();
    let near = |word: &str| WORDS.iter().any(|secret| is_near(word, secret, secret.len() / 3));
    let named = WORDS.iter().any(|secret| key.contains(secret))
        || key.split(['_', '-', '.', ' ']).any(near)
        || WHOLE.contains(&&*key);
    named
        && !key.starts_with('/')
        && !key.ends_with("_file")
        && !matches!(&*key, "max_tokens" | "token_bytes" | "token_type")
}

/// Whether a text looks like a key. Other keys, such as `token:17ab` without its space, may be secrets.
pub(crate) fn is_plain_key(key: &str) -> bool {
    key.len() <= 40 && key.bytes().all(|byte| byte.is_ascii_alphabetic() || matches!(byte, b'_' | b'-'))
}

/// Whether a text looks like a secret: a key in PEM, a URL with credentials, an `Authorization` field,
/// a token of Sanctum, or a long word of random letters and digits.
pub(crate) fn is_secret_text(text: &str) -> bool {
    let lower = text.to_ascii_lowercase();
    let follows = |scheme: &str| {
        let after = lower.split_once(scheme).map(|(_, after)| after.trim_start());
        after.is_some_and(|after| after.bytes().take_while(|byte| !byte.is_ascii_whitespace()).count() >= 6)
    };
    lower.contains("-----begin")
        || lower.contains("private key")
        || user_info(text).is_some()
        || has_secret_query(text)
        || follows("bearer ")
        || follows("basic ")
        || is_sanctum_token(text)
        || is_random(text)
}

/// `17|` and at least 20 characters.
fn is_sanctum_token(text: &str) -> bool {
    text.split_once('|').is_some_and(|(id, rest)| {
        !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_digit()) && rest.len() >= 20
    })
}

/// One long word of letters and digits. Names are shorter, or have other characters between their parts.
fn is_random(text: &str) -> bool {
    let count = |is: fn(&u8) -> bool| text.bytes().filter(is).count();
    text.len() >= 20
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'='))
        && count(u8::is_ascii_digit) >= 3
        && count(u8::is_ascii_alphabetic) >= 3
}

/// The range of the user name and password of a URL.
fn user_info(text: &str) -> Option<Range<usize>> {
    let start = text.find("://")? + 3;
    let authority = text[start..].split(['/', '?', '#', ' ', '"', '\'']).next()?;
    Some(start..start + authority.rfind('@')?)
}

/// Whether a URL has a parameter such as `api_key=17ab` in its query.
fn has_secret_query(text: &str) -> bool {
    let query = text.split_once("://").and_then(|(_, rest)| rest.split_once('?'));
    let mut parameters = query.map_or("", |(_, query)| query).split(['&', ';']);
    parameters.any(|parameter| {
        let name = parameter.split_once('=').map_or("", |(name, _)| name).to_ascii_lowercase();
        is_secret_key(&name) || name.ends_with("key") || matches!(&*name, "sig" | "signature" | "auth")
    })
}

/// The range of a value, extended by what may be a part of it: an anchor or tag before it, if the secret begins with
/// `&` or `!`, and a comment after it, if the secret contains ` #`.
pub(crate) fn with_decoration(text: &str, value: Range<usize>) -> Range<usize> {
    let Some(shown) = text.get(value.clone()) else { return value };
    // The range of a block reaches to the next key.
    let (mut start, mut end) = (value.start, value.start + shown.trim_end().len());
    loop {
        let before = text[..start].trim_end_matches([' ', '\t']);
        let word = before.rfind(|character: char| " \t\n,[{:".contains(character)).map_or(0, |at| at + 1);
        if !before[word..].starts_with(['&', '!']) {
            break;
        }
        start = word;
    }
    let rest = text[end..].split('\n').next().unwrap_or_default();
    if rest.trim_start().starts_with(['#', '&', '!']) {
        end += rest.trim_end().len();
    }
    start..end
}

/// Sorts ranges, trims white space off their ends, and joins those that overlap or touch.
pub(crate) fn merge(text: &str, ranges: impl IntoIterator<Item = Range<usize>>) -> Vec<Range<usize>> {
    let trimmed = ranges.into_iter().filter_map(|range| {
        let shown = text.get(range.clone())?;
        let start = range.start + shown.len() - shown.trim_start().len();
        (start < range.end).then(|| start..range.start + shown.trim_end().len())
    });
    let mut ranges: Vec<Range<usize>> = trimmed.collect();
    ranges.sort_unstable_by_key(|range| range.start);
    let mut merged: Vec<Range<usize>> = Vec::new();
    for range in ranges {
        match merged.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => merged.push(range),
        }
    }
    merged
}

/// Comments that may hold a secret: those in a section with secrets, as YAML takes `#17ab` in `token: #17ab` for a
/// comment, those after a secret's key, and those with a word that looks like a secret.
pub(crate) fn secret_comments(text: &str, sections: &SecretSections) -> Vec<Range<usize>> {
    let mut in_section = false;
    let comments = lines(text).filter_map(|(start, line)| {
        if let Some(key) = top_key(line) {
            in_section = sections.has_secrets(key);
        }
        let comment = if line.starts_with('#') { 0 } else { line.find(" #")? + 1 };
        let (before, words) = line.split_at(comment);
        let shown = if in_section || after_secret_key(before).is_some() {
            Some(1)
        } else {
            after_secret_key(words).or_else(|| words.split(' ').any(is_secret_text).then_some(1))
        };
        Some(start + comment + shown?..start + line.len())
    });
    comments.collect()
}

/// The key of a line without indentation.
fn top_key(line: &str) -> Option<&str> {
    let (key, _) = line.split_once(':')?;
    let key = key.trim_end().trim_matches(['"', '\'']);
    (is_plain_key(key) && !key.is_empty()).then_some(key)
}

/// The secrets of a file with broken syntax: everything after a secret's key on its line, and its possible
/// continuation on the lines below, which are deeper or have no key; everything that looks like a secret; and all
/// values of sections with little else.
pub(crate) fn secrets_by_line(text: &str, sections: &SecretSections) -> Vec<Range<usize>> {
    let mut secrets = Vec::new();
    let (mut below, mut in_section, mut in_block) = (None, false, false);
    for (start, line) in lines(text) {
        let end = start + line.len();
        let content = line.trim_start();
        let indent = line.len() - content.len();
        let key_end = content.find(':');
        let nested = key_end.map(|end| content[..end].trim_matches(['"', '\'', '{', ' ']));
        if let Some(key) = top_key(line).or(nested.filter(|key| sections.is_mostly_secret(key))) {
            in_section = sections.is_mostly_secret(key);
        }
        if in_section && !content.is_empty() && !content.starts_with('#') {
            // Shows the key, if it is one.
            let key = key_end.filter(|&end| is_plain_key(&content[..end]));
            secrets.push(start + indent + key.map_or(0, |end| end + 1)..end);
        }
        in_block |= line.contains("-----BEGIN");
        let goes_on = |key| indent > key || content.starts_with(':') || !line.contains(':');
        if in_block || below.is_some_and(goes_on) {
            secrets.push(start..end);
            in_block &= !line.contains("-----END");
            continue;
        }
        let value = after_secret_key(line);
        let explicit = content.strip_prefix('?').is_some_and(|key| is_secret_key(key.trim()));
        below = (explicit || value.is_some()).then_some(indent);
        if let Some(value) = value {
            secrets.push(start + value..end);
        }
        if let Some(found) = user_info(line) {
            secrets.push(start + found.start..start + found.end);
        }
        // An alias may use the value as a secret elsewhere.
        if let Some(anchor) = line.find(" &") {
            secrets.push(start + anchor + 1..end);
        }
        if let Some(word) =
            line.split([' ', '\t', '"', '\'', ',', '[', ']', '{', '}']).find(|it| is_secret_text(it))
            && let Some(at) = line.find(word)
        {
            secrets.push(start + at..end);
        }
    }
    secrets
}

/// Lines without white space at their ends, each with its start.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut next = 0;
    text.split_inclusive('\n').map(move |line| {
        let start = next;
        next += line.len();
        (start, line.trim_end())
    })
}

/// Where the value of the first secret key on a line starts: after its `:` or `=`, or after the key if the line begins
/// with it.
fn after_secret_key(line: &str) -> Option<usize> {
    let mut separators = line.char_indices().filter(|&(_, character)| matches!(character, ':' | '='));
    let separated = separators.find(|&(at, _)| {
        let key = line[..at].trim_end_matches(|last: char| last.is_whitespace() || "\"'".contains(last));
        let word = key.rfind(['"', '\'', ' ', '\t', '{', '[', ',', '#', '-', '?']);
        let word_with_dashes = key.rfind(['"', '\'', ' ', '\t', '{', '[', ',', '#']);
        let names = |before: Option<usize>| is_secret_key(before.map_or(key, |before| &key[before + 1..]));
        names(word) || names(word_with_dashes)
    });
    let first = line.trim_start_matches([' ', '\t', '-', '?', '#']);
    let first_end = line.len() - first.len() + first.find([' ', '\t']).unwrap_or(first.len());
    let is_first = !first.contains(':') && is_secret_key(first.split([' ', '\t']).next().unwrap_or_default());
    separated.map(|(at, _)| at + 1).or(is_first.then_some(first_end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_recognised_by_their_shape() {
        for (text, expected) in [
            ("-----BEGIN PRIVATE KEY-----\nMIIE", true),
            ("redis://:hunter2@127.0.0.1", true),
            ("https://host/introspect?api_key=17", true),
            ("https://host/introspect?page=17", false),
            ("Authorization: Bearer 17abcdef", true),
            ("17|x0123456789012345678901234567890123456789", true),
            ("9f86d081884c7d659a2feaa0c55ad015", true),
            ("stockaj-gateway-prod-2026-eu-1", false),
            ("/api/v2/items/{id}", false),
            ("items:read", false),
            ("http://127.0.0.1:8000/api/v2/token", false),
            ("250ms", false),
        ] {
            assert_eq!(is_secret_text(text), expected, "{text}");
        }
    }

    #[test]
    fn value_of_a_secret_key_is_found_on_any_line() {
        for (line, shown) in [
            ("token: hunter2", "token:"),
            ("  token : hunter2", "  token :"),
            ("{a: 1, \"token\": hunter2", "{a: 1, \"token\":"),
            ("[token: hunter2", "[token:"),
            ("- token: hunter2", "- token:"),
            ("client-secret: hunter2", "client-secret:"),
            ("token hunter2", "token"),
            ("token=hunter2", "token="),
            ("# the old token: hunter2", "# the old token:"),
            ("\ttoken\t: hunter2", "\ttoken\t:"),
        ] {
            let found = after_secret_key(line).map(|end| &line[..end]);
            assert_eq!(found, Some(shown), "{line}");
        }
        for line in ["backend: {url: x}", "/api/v2/tokens: {GET: public}", "token_file: x", "max_tokens: 1"] {
            assert_eq!(after_secret_key(line), None, "{line}");
        }
    }
}
