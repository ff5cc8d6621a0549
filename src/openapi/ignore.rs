//! Paths that a comparison leaves out, as the command line names them.

use super::template;
use crate::config::nearest;

/// A path, or all paths below one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IgnoredPath {
    written: String,
    /// Its segments, with `{}` for each parameter.
    segments: Vec<String>,
    /// Whether it ends with `/*`.
    is_prefix: bool,
}

/// Why a path cannot be ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IgnoredPathError {
    /// The path does not start with `/`.
    #[error("a path starts with `/`")]
    NotAbsolute,
    /// A `*` that is not the last segment.
    #[error("`*` can only be the last segment, as in `/internal/*`")]
    Wildcard,
}

impl std::str::FromStr for IgnoredPath {
    type Err = IgnoredPathError;

    fn from_str(written: &str) -> Result<Self, IgnoredPathError> {
        if !written.starts_with('/') {
            return Err(IgnoredPathError::NotAbsolute);
        }
        let (path, is_prefix) = match written.strip_suffix("/*") {
            Some(prefix) => (prefix, true),
            None => (written, false),
        };
        let is_wildcard = |segment: &str| segment.contains('*') && !segment.starts_with("{*");
        if path.split('/').any(is_wildcard) {
            return Err(IgnoredPathError::Wildcard);
        }
        Ok(Self { written: written.to_owned(), segments: segments(path), is_prefix })
    }
}

impl IgnoredPath {
    fn matches(&self, segments: &[String]) -> bool {
        if self.is_prefix {
            segments.len() > self.segments.len() && segments.starts_with(&self.segments)
        } else {
            self.segments == segments
        }
    }
}

/// Parameters match whatever their names are, and a trailing slash does not count.
fn segments(path: &str) -> Vec<String> {
    let template = template(path);
    let segments = template.trim_start_matches('/').split('/').filter(|segment| !segment.is_empty());
    let segments = segments.map(|segment| match segment.strip_prefix('{') {
        Some(name) if name.starts_with('*') && name.ends_with('}') => "{*}",
        Some(name) if name.find('}') == Some(name.len() - 1) => "{}",
        _ => segment,
    });
    segments.map(str::to_owned).collect()
}

/// The paths to ignore, and which of them exist.
#[derive(Debug, Default)]
pub struct IgnoredPaths {
    paths: Vec<(IgnoredPath, bool)>,
    known: Vec<String>,
}

impl IgnoredPaths {
    /// Ignores these paths.
    pub fn new(paths: &[IgnoredPath]) -> Self {
        Self { paths: paths.iter().map(|path| (path.clone(), false)).collect(), ..Self::default() }
    }

    /// Whether a path is ignored. Remembers that the path exists.
    pub fn contains(&mut self, path: &str) -> bool {
        if self.paths.is_empty() {
            return false;
        }
        self.known.push(path.to_owned());
        let segments = segments(path);
        let mut is_ignored = false;
        for (ignored, is_used) in &mut self.paths {
            if ignored.matches(&segments) {
                *is_used = true;
                is_ignored = true;
            }
        }
        is_ignored
    }

    /// Whether no path is to be ignored.
    pub fn is_empty(&self) -> bool {
        self.paths.is_empty()
    }

    /// Paths that matched nothing, each with the known path that it may have meant.
    pub fn unknown(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        let unknown = self.paths.iter().filter(|(_, is_used)| !is_used);
        unknown.map(|(path, _)| {
            let ends_alike = self.known.iter().find(|known| {
                let known = segments(known);
                path.segments.len() < known.len()
                    && known.ends_with(&path.segments)
                    && !path.segments.is_empty()
            });
            let near = || nearest(&path.written, self.known.iter().map(String::as_str));
            (&*path.written, ends_alike.map(String::as_str).or_else(near))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> IgnoredPath {
        text.parse().unwrap()
    }

    #[test]
    fn ignored_path_is_exact_or_everything_below() {
        for (ignored, path, expected) in [
            ("/a/b", "/a/b", true),
            ("/a/b", "/a/b/", true),
            ("/a/b/", "/a/b", true),
            ("/a/b", "/a/b/c", false),
            ("/a/b", "/a/bc", false),
            ("/a/{id}", "/a/{item-id}", true),
            ("/a/{id}", "/a/5", false),
            ("/a/{id}", "/a/{*rest}", false),
            ("/a/{*all}", "/a/{*rest}", true),
            ("/a/{id}.json", "/a/{id}.json", true),
            ("/a/*", "/a", false),
            ("/a/*", "/a/b", true),
            ("/a/*", "/a/b/{c}", true),
            ("/a/*", "/a/{*rest}", true),
            ("/a/*", "/ab/c", false),
            ("/a/{x}/*", "/a/{y}/b", true),
            ("/*", "/a", true),
            ("/*", "/", false),
            ("/", "/", true),
        ] {
            assert_eq!(parse(ignored).matches(&segments(path)), expected, "{ignored} {path}");
        }
        for (text, error) in [
            ("a", IgnoredPathError::NotAbsolute),
            ("", IgnoredPathError::NotAbsolute),
            ("*", IgnoredPathError::NotAbsolute),
            ("/a*", IgnoredPathError::Wildcard),
            ("/*/b", IgnoredPathError::Wildcard),
            ("/a/**", IgnoredPathError::Wildcard),
            ("/*/*", IgnoredPathError::Wildcard),
        ] {
            assert_eq!(text.parse::<IgnoredPath>(), Err(error), "{text}");
        }
    }

    #[test]
    fn unknown_ignored_path_names_the_nearest_one() {
        let mut ignored = IgnoredPaths::new(&["/items", "/api/v2/itens", "/nowhere", "/api/*"].map(parse));
        assert!(ignored.contains("/api/v2/items"));
        assert!(!ignored.contains("/other"));
        let unknown: Vec<_> = ignored.unknown().collect();
        assert_eq!(
            unknown,
            [("/items", Some("/api/v2/items")), ("/api/v2/itens", Some("/api/v2/items")), ("/nowhere", None)]
        );
    }
}
