//! The trie that finds the most specific route of a path.

use crate::policy::path::decoded;
use crate::policy::route::Segment;

/// A node of the trie of patterns: the patterns with the same first segments.
#[derive(Debug, Default)]
pub(in crate::policy) struct Node {
    /// The route whose pattern ends here.
    pub(in crate::policy) route: Option<usize>,
    /// The decoded literals that may follow, sorted.
    literals: Vec<(Box<[u8]>, Node)>,
    pub(in crate::policy) parameter: Option<Box<Node>>,
    /// The route whose pattern ends here with `{*rest}`.
    pub(in crate::policy) rest: Option<usize>,
}

impl Node {
    pub(super) fn insert(&mut self, segments: &[Segment], route: usize) {
        match segments {
            [] => self.route = Some(route),
            [Segment::Literal(literal), others @ ..] => {
                let index = match self.literals.binary_search_by(|(known, _)| known.cmp(literal)) {
                    Ok(index) => index,
                    Err(index) => {
                        self.literals.insert(index, (literal.clone(), Self::default()));
                        index
                    }
                };
                self.literals[index].1.insert(others, route);
            }
            [Segment::Parameter, others @ ..] => self.parameter.get_or_insert_default().insert(others, route),
            [Segment::Rest, ..] => self.rest = Some(route),
        }
    }

    /// The most specific route for the remaining segments, `None` at the end of the path. Visits each node at most once,
    /// since the trie has one path to it.
    pub(super) fn find(&self, remaining: Option<&[u8]>) -> Option<usize> {
        let Some(remaining) = remaining else { return self.route };
        let mut is_encoded = false;
        let end = remaining.iter().position(|&byte| {
            is_encoded |= byte == b'%';
            byte == b'/'
        });
        let (segment, others) = match end {
            Some(end) => (&remaining[..end], Some(&remaining[end + 1..])),
            None => (remaining, None),
        };
        self.literal(segment, is_encoded)
            .and_then(|node| node.find(others))
            .or_else(|| self.parameter.as_ref().and_then(|node| node.find(others)))
            .or(self.rest)
    }

    /// The decoded literals that may follow.
    pub(in crate::policy) fn literals(&self) -> impl Iterator<Item = &[u8]> {
        self.literals.iter().map(|(literal, _)| &**literal)
    }

    pub(in crate::policy) fn literal(&self, segment: &[u8], is_encoded: bool) -> Option<&Self> {
        let index = if is_encoded {
            self.literals.binary_search_by(|(literal, _)| literal.iter().copied().cmp(decoded(segment)))
        } else {
            self.literals.binary_search_by(|(literal, _)| (**literal).cmp(segment))
        };
        Some(&self.literals[index.ok()?].1)
    }
}
