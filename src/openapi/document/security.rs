//! Security requirements: alternatives, each of which names security schemes and their scopes.

use std::collections::BTreeSet;
use std::rc::Rc;

use super::object::{Document, entry, merged, text};
use super::{Security, start_of};
use crate::config::language::{Decoder, Diagnostic, Entry, Node, Value, nearest};

/// The most scopes and alternatives of an operation.
const MAX_SCOPES: usize = 100;

/// The security schemes of a document.
pub(super) struct Schemes<'node> {
    /// `None` if the document has no `components.securitySchemes`.
    names: Option<BTreeSet<&'node str>>,
    has_warned: bool,
}

impl<'node> Schemes<'node> {
    pub(super) fn new(root: &'node Node) -> Self {
        let section = entry(root, "components").and_then(|it| entry(&it.value, "securitySchemes"));
        let names =
            section.map(|section| merged(&section.value).into_iter().map(|it| &*it.key.text).collect());
        Self { names, has_warned: false }
    }

    /// Warns about a scheme that the document does not define; once if it defines none.
    fn check(&mut self, Entry { key, .. }: &Entry, decoder: &mut Decoder<'_>) {
        let diagnostic = match &self.names {
            Some(names) if names.contains(&*key.text) => return,
            Some(names) => Diagnostic::warning("unknown security scheme")
                .at(key.span, "not one of `components.securitySchemes`")
                .suggest(nearest(&key.text, names.iter().copied())),
            None if std::mem::replace(&mut self.has_warned, true) => return,
            None => Diagnostic::warning("unknown security scheme")
                .at(key.span, "the document has no `components.securitySchemes`"),
        };
        decoder.record(diagnostic);
    }

    /// Reads a `security` field. Malformed fields are warnings and never make an operation public.
    pub(super) fn security(
        &mut self,
        node: &Rc<Node>,
        document: &mut Document<'_>,
        decoder: &mut Decoder<'_>,
    ) -> Security {
        let Value::List(alternatives) = &node.value else {
            decoder.warn_mismatch(node, "malformed `security`", "a list of alternatives");
            return Security::Malformed;
        };
        let size: usize = alternatives.iter().map(|alternative| size(alternative)).sum();
        if size > MAX_SCOPES {
            let label = format!("more than {MAX_SCOPES} scopes and alternatives");
            decoder.record(Diagnostic::error("too many scopes").at(start_of(node), label));
            return Security::Malformed;
        }
        // The alternatives are compared with each other below.
        if document.count(size * size, node, decoder).is_none() {
            return Security::Malformed;
        }
        let mut required = Vec::new();
        let (mut has_empty, mut is_malformed) = (false, false);
        for alternative in alternatives {
            match self.alternative(alternative, decoder) {
                Some(None) => has_empty = true,
                Some(Some(scopes)) => required.push(scopes),
                None => is_malformed = true,
            }
        }
        match (required.is_empty(), is_malformed, has_empty) {
            (true, true, _) => Security::Malformed,
            (true, false, _) => Security::Public,
            (false, _, true) => Security::Optional(least(required)),
            (false, _, false) => match least(required) {
                scopes if scopes.is_empty() => Security::Credentials,
                scopes => Security::Scopes(scopes),
            },
        }
    }

    /// The scopes of an alternative; `Some(None)` if it requires nothing. Returns `None` if it recorded a warning.
    fn alternative(
        &mut self,
        node: &Rc<Node>,
        decoder: &mut Decoder<'_>,
    ) -> Option<Option<BTreeSet<String>>> {
        const EXPECTED: &str = "a mapping of security schemes such as `{oauth: [items:read]}`";
        if !matches!(node.value, Value::Mapping(_)) {
            decoder.warn_mismatch(node, "malformed `security`", EXPECTED);
            return None;
        }
        let schemes = merged(node);
        if schemes.is_empty() {
            return Some(None);
        }
        let mut wanted = BTreeSet::new();
        let mut is_malformed = false;
        for scheme in schemes {
            self.check(scheme, decoder);
            decoder.within(&scheme.key, |decoder| {
                let Value::List(scopes) = &scheme.value.value else {
                    decoder.warn_mismatch(&scheme.value, "malformed `security`", "a list of scopes");
                    is_malformed = true;
                    return;
                };
                for scope in scopes {
                    match text(scope).filter(|_| !scope.is_null()) {
                        Some(text) => drop(wanted.insert(text.to_owned())),
                        None => {
                            decoder.warn_mismatch(scope, "malformed `security`", "a scope");
                            is_malformed = true;
                        }
                    }
                }
            });
        }
        (!is_malformed).then_some(Some(wanted))
    }
}

fn size(alternative: &Node) -> usize {
    let scopes = merged(alternative).into_iter().map(|scheme| match &scheme.value.value {
        Value::List(scopes) => scopes.len().max(1),
        _ => 1,
    });
    scopes.sum::<usize>().max(1)
}

/// The alternatives with scopes that contain no other one. An alternative without scopes does not specify the abilities
/// that its credentials need.
fn least(mut alternatives: Vec<BTreeSet<String>>) -> Vec<BTreeSet<String>> {
    alternatives.retain(|scopes| !scopes.is_empty());
    let is_least = |(number, scopes): &(usize, &BTreeSet<String>)| {
        !alternatives
            .iter()
            .enumerate()
            .any(|(other, it)| it.is_subset(scopes) && (it.len() < scopes.len() || other < *number))
    };
    alternatives.iter().enumerate().filter(is_least).map(|(_, scopes)| scopes.clone()).collect()
}

/// The memory of a copy, in scopes.
pub(super) fn weight(security: &Security) -> usize {
    match security {
        Security::Scopes(alternatives) | Security::Optional(alternatives) => {
            alternatives.iter().map(BTreeSet::len).sum::<usize>() + 1
        }
        _ => 1,
    }
}
