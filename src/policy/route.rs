//! The patterns of routes and their precedence.

use std::cmp::Ordering;
use std::fmt::{self, Display, Formatter};

use http::Method;

use super::path::{CanonicalPath, decoded, is_front_controller};
use super::refusal::Refusal;
use super::source_location::SourceLocation;

/// The largest number of segments of a pattern. It bounds the depth of the map, and so the recursion of a lookup.
pub const MAX_SEGMENTS: usize = 64;

/// The pattern of a route, such as `/api/v2/items/{id}`.
///
/// `Ord` is precedence: the least of the matching patterns wins. From the left, a literal precedes `{name}`, which
/// precedes `{*rest}`. Patterns that match the same paths are equal; the names of parameters do not count.
#[derive(Clone, Debug)]
pub struct Pattern {
    template: Box<str>,
    segments: Box<[Segment]>,
}

/// One segment of a pattern, in the order of precedence.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Segment {
    /// An exact segment, percent-decoded: a backend decodes before it compares, so `a%3Ab` is `a:b`.
    Literal(Box<[u8]>),
    /// `{name}`: any single segment.
    Parameter,
    /// `{*rest}`: one or more segments.
    Rest,
}

/// Why a route cannot be added to the map.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// The pattern does not begin with `/`.
    #[error("a path begins with `/`")]
    NotAbsolute,
    /// Two consecutive `/`.
    #[error("a path has no empty segment")]
    EmptySegment,
    /// A `/` at the end, which is removed from requests before matching.
    #[error("a path has no `/` at its end: `{0}` matches both spellings")]
    TrailingSlash(Box<str>),
    /// More than [`MAX_SEGMENTS`].
    #[error("a path has at most {MAX_SEGMENTS} segments, this one has {0}")]
    TooDeep(usize),
    /// Braces other than a whole segment `{name}` or `{*rest}`.
    #[error(
        "`{0}` is no parameter: one is a whole segment, `{{name}}` or at the end `{{*rest}}`, of letters, digits and `_`"
    )]
    Braces(Box<str>),
    /// `{*rest}` before the end.
    #[error("`{0}` matches the remainder of a path, so nothing can follow it")]
    RestNotLast(Box<str>),
    /// Two parameters with the same name.
    #[error("the parameter `{0}` is there twice")]
    DuplicateParameter(Box<str>),
    /// A literal that is not in its canonical spelling.
    #[error("`{literal}` never matches, since requests are matched with `{canonical}`")]
    NotCanonical {
        /// The literal as written.
        literal: Box<str>,
        /// Its canonical spelling.
        canonical: Box<str>,
    },
    /// A literal that is refused in a request.
    #[error("`{literal}` never matches, since requests with it are refused: {why}")]
    Refused {
        /// The literal as written.
        literal: Box<str>,
        /// The reason of the refusal.
        why: &'static str,
    },
    /// An unsupported method.
    #[error("the method `{0}` is not served")]
    Method(Method),
    /// A duplicate method.
    #[error("the method `{0}` is there twice")]
    DuplicateMethod(Method),
    /// Another route of the same file matches the same paths.
    #[error("`{earlier}` matches the same paths")]
    Equal {
        /// The template of the other route.
        earlier: Box<str>,
        /// The location of its first method.
        place: Option<SourceLocation>,
    },
}

impl Pattern {
    /// Parses a pattern of the map.
    ///
    /// # Errors
    /// The first error in it.
    pub fn parse(template: &str) -> Result<Self, RouteError> {
        let path = template.strip_prefix('/').ok_or(RouteError::NotAbsolute)?;
        if let Some(shorter) = template.strip_suffix('/')
            && !shorter.is_empty()
            && !shorter.ends_with('/')
        {
            return Err(RouteError::TrailingSlash(shorter.into()));
        }
        let written: Vec<&str> = if path.is_empty() { Vec::new() } else { path.split('/').collect() };
        if written.len() > MAX_SEGMENTS {
            return Err(RouteError::TooDeep(written.len()));
        }
        let mut names = Vec::new();
        let mut segments = Vec::with_capacity(written.len());
        for (index, text) in written.iter().enumerate() {
            let segment = if text.contains(['{', '}']) {
                let (segment, name) = parameter(text).ok_or_else(|| RouteError::Braces((*text).into()))?;
                if names.contains(&name) {
                    return Err(RouteError::DuplicateParameter(name.into()));
                }
                names.push(name);
                segment
            } else {
                literal(text)?
            };
            if segment == Segment::Rest && index + 1 < written.len() {
                return Err(RouteError::RestNotLast((*text).into()));
            }
            segments.push(segment);
        }
        Ok(Self { template: template.into(), segments: segments.into() })
    }

    /// The pattern as written.
    pub fn template(&self) -> &str {
        &self.template
    }

    /// The paths that both this and `other` match, as a pattern. The patterns must have common paths.
    pub fn meet(&self, other: &Self) -> String {
        let (mut mine, mut theirs) = (self.written(), other.written());
        let mut template = String::new();
        loop {
            let (segment, rest_of) = match (mine.next(), theirs.next()) {
                (None, None) => break,
                (Some((Segment::Rest, _)), Some((_, text))) => (text, Some(&mut theirs)),
                (Some((_, text)), Some((Segment::Rest, _)) | None) => (text, Some(&mut mine)),
                (None, Some((_, text))) => (text, Some(&mut theirs)),
                (Some((Segment::Parameter, _)), Some((Segment::Literal(_), text)))
                | (Some((_, text)), Some(_)) => (text, None),
            };
            template.push('/');
            template.push_str(segment);
            if let Some(rest) = rest_of {
                rest.for_each(|(_, text)| {
                    template.push('/');
                    template.push_str(text);
                });
                break;
            }
        }
        if template.is_empty() { "/".to_owned() } else { template }
    }

    /// The segments with their text.
    fn written(&self) -> impl Iterator<Item = (&Segment, &str)> {
        self.segments.iter().zip(self.template[1..].split('/'))
    }

    /// Whether every segment of `path`, which the pattern matches, that names the front controller matches a literal.
    pub(super) fn names_front_controllers(&self, path: &CanonicalPath<'_>) -> bool {
        let segments = path.as_str().split('/').skip(1);
        let named = self.segments.iter().map(Some).chain(std::iter::repeat(None));
        segments.zip(named).all(|(segment, named)| {
            matches!(named, Some(Segment::Literal(_))) || !is_front_controller(segment.as_bytes())
        })
    }

    pub(super) fn segments(&self) -> &[Segment] {
        &self.segments
    }
}

/// Parses `{name}` or `{*rest}`. Returns the segment and the name.
fn parameter(text: &str) -> Option<(Segment, &str)> {
    let inner = text.strip_prefix('{')?.strip_suffix('}')?;
    let (segment, name) = match inner.strip_prefix('*') {
        Some(name) => (Segment::Rest, name),
        None => (Segment::Parameter, inner),
    };
    let named = name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    named.then_some((segment, name))
}

fn literal(text: &str) -> Result<Segment, RouteError> {
    if text.is_empty() {
        return Err(RouteError::EmptySegment);
    }
    let path = format!("/{text}");
    match CanonicalPath::new(&path) {
        Ok(canonical) if canonical.is_borrowed() => Ok(Segment::Literal(decoded(text.as_bytes()).collect())),
        Ok(canonical) => Err(RouteError::NotCanonical {
            literal: text.into(),
            canonical: canonical.as_str().trim_start_matches('/').into(),
        }),
        Err(Refusal::BadRequest(why)) => Err(RouteError::Refused { literal: text.into(), why }),
        Err(_) => Err(RouteError::Refused { literal: text.into(), why: "no path" }),
    }
}

impl Display for Pattern {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        formatter.pad(&self.template)
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.segments == other.segments
    }
}

impl Eq for Pattern {}

impl PartialOrd for Pattern {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Pattern {
    fn cmp(&self, other: &Self) -> Ordering {
        self.segments.cmp(&other.segments)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn valid_patterns_are_parsed() {
        for template in [
            "/",
            "/up",
            "/{id}",
            "/{*rest}",
            "/api/v2/items/{id}",
            "/a/{_b2}/c/{*rest}",
            "/a/index.php",
            "/index.php/api/{*rest}",
            "/.well-known/%C3%A9",
            "/items:scan/100%25",
        ] {
            assert_eq!(Pattern::parse(template).unwrap().to_string(), template);
        }
        assert!(Pattern::parse(&"/a".repeat(MAX_SEGMENTS)).is_ok());
    }

    #[test]
    fn invalid_patterns_are_errors() {
        let deep = "/a".repeat(MAX_SEGMENTS + 1);
        for (template, message) in [
            ("", "a path begins with `/`"),
            ("api", "a path begins with `/`"),
            ("{id}", "a path begins with `/`"),
            ("*", "a path begins with `/`"),
            ("//", "a path has no empty segment"),
            ("/a//b", "a path has no empty segment"),
            ("/a//", "a path has no empty segment"),
            ("/a/", "a path has no `/` at its end: `/a` matches both spellings"),
            ("/{*rest}/", "a path has no `/` at its end: `/{*rest}` matches both spellings"),
            (&deep, "a path has at most 64 segments, this one has 65"),
            ("/{*rest}/a", "`{*rest}` matches the remainder of a path, so nothing can follow it"),
            ("/{id}/{id}", "the parameter `id` is there twice"),
            ("/{id}/{*id}", "the parameter `id` is there twice"),
            ("/%61", "`%61` never matches, since requests are matched with `a`"),
            ("/x/%c3%a9", "`%c3%a9` never matches, since requests are matched with `%C3%A9`"),
            ("/x/-%2d", "`-%2d` never matches, since requests are matched with `--`"),
            (
                "/a%2Fb",
                "`a%2Fb` never matches, since requests with it are refused: encoded separator in the path",
            ),
            ("/a/..", "`..` never matches, since requests with it are refused: dot segment in the path"),
            ("/%2e", "`%2e` never matches, since requests with it are refused: dot segment in the path"),
            (
                "/é",
                "`é` never matches, since requests with it are refused: raw byte beyond ASCII in the path",
            ),
            ("/a;b", "`a;b` never matches, since requests with it are refused: path parameter"),
            ("/a?b", "`a?b` never matches, since requests with it are refused: query in the path"),
        ] {
            assert_eq!(Pattern::parse(template).unwrap_err().to_string(), message, "{template}");
        }
        for text in [
            "{}", "{*}", "{", "}", "a{id}", "{id}a", "{id?}", "{**a}", "{a-b}", "{1}", "{{a}}", "{a}{b}",
            "*}",
        ] {
            let expected = if text == "*}" { "*}" } else { text };
            assert_eq!(
                Pattern::parse(&format!("/{text}/b")).unwrap_err(),
                RouteError::Braces(expected.into()),
                "{text}"
            );
        }
    }

    #[test]
    fn patterns_sort_by_precedence() {
        let ascending = [
            "/",
            "/a",
            "/a/b/{x}",
            "/a/b/{*x}",
            "/a/{x}/b",
            "/a/{x}/c",
            "/a/{x}/{y}",
            "/a/{*x}",
            "/b",
            "/{x}",
            "/{x}/a",
            "/{*x}",
        ];
        let mut sorted = ascending.map(|template| Pattern::parse(template).unwrap());
        sorted.reverse();
        sorted.sort();
        assert_eq!(sorted.each_ref().map(Pattern::template), ascending);
    }

    #[test]
    fn patterns_for_the_same_paths_are_equal() {
        let equal = |one, other| Pattern::parse(one).unwrap() == Pattern::parse(other).unwrap();
        assert!(equal("/a/{id}", "/a/{item}"));
        assert!(equal("/{*rest}", "/{*all}"));
        assert!(equal("/a:b", "/a%3Ab"));
        assert!(!equal("/a/{id}", "/a/{*id}"));
        assert!(!equal("/a", "/A"));
        assert!(!equal("/a", "/a/{id}"));
    }
}
