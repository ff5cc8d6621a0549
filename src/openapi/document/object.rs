//! Objects of a document, with their references and YAML merge keys resolved.

use std::collections::HashMap;
use std::rc::Rc;

use percent_encoding::percent_decode_str;

use super::start_of;
use crate::config::language::{Decoder, Diagnostic, Entry, Node, Value, find_entry};

/// The most references from one object to the next.
const MAX_REFERENCES: usize = 16;
/// The most keys and scopes that are read of a document, with references and aliases resolved.
const MAX_READ: usize = 2_000_000;
/// References through mappings with at least this many keys use an index.
const INDEXED: usize = 16;

/// The entry of a key, also from a merge key (`<<`).
pub(super) fn entry<'node>(node: &'node Node, name: &str) -> Option<&'node Entry> {
    let own = find_entry(node.entries(), name);
    own.or_else(|| merge_sources(node.entries()).find_map(|source| entry(source, name)))
}

/// All entries of a mapping; those of merge keys follow its own. The first of equal keys counts.
pub(super) fn merged(node: &Node) -> Vec<&Entry> {
    let own = node.entries().iter().filter(|entry| !is_merge(entry));
    own.chain(merge_sources(node.entries()).flat_map(|source| merged(source))).collect()
}

fn is_merge(entry: &Entry) -> bool {
    &*entry.key.text == "<<" && !entry.value.is_scalar()
}

/// The mappings that merge keys name. Their nesting is bounded, as that of all values.
fn merge_sources(entries: &[Entry]) -> impl Iterator<Item = &Node> {
    entries.iter().filter(|entry| is_merge(entry)).flat_map(|entry| match &entry.value.value {
        Value::List(items) => items.iter().map(|item| &**item).collect(),
        _ => vec![&*entry.value],
    })
}

pub(super) fn text(node: &Node) -> Option<&str> {
    match &node.value {
        Value::Scalar { text, .. } => Some(text),
        _ => None,
    }
}

/// A field of an object with its references resolved.
pub(super) struct Field {
    pub(super) entry: Entry,
    /// It is next to a `$ref`: programs disagree about which of them counts.
    pub(super) is_beside_reference: bool,
    /// The object that the `$ref` refers to has it, too.
    pub(super) is_contested: bool,
}

/// The fields of an object with its references resolved, in the order of the document.
#[derive(Default)]
pub(super) struct Object {
    fields: Vec<Field>,
    numbers: HashMap<Box<str>, usize>,
}

impl Object {
    pub(super) fn get(&self, name: &str) -> Option<&Field> {
        self.fields.get(*self.numbers.get(name)?)
    }

    pub(super) fn fields(&self) -> impl Iterator<Item = &Field> {
        self.fields.iter()
    }

    /// Adds the entries of a mapping, except those that exist already.
    fn add(&mut self, node: &Node, is_beside_reference: bool, decoder: &mut Decoder<'_>) {
        let earlier = self.fields.len();
        for entry in merged(node) {
            let Some(&number) = self.numbers.get(&entry.key.text) else {
                self.numbers.insert(entry.key.text.clone(), self.fields.len());
                self.fields.push(Field { entry: entry.clone(), is_beside_reference, is_contested: false });
                continue;
            };
            let name = &*entry.key.text;
            let decides_nothing =
                matches!(name, "$ref" | "summary" | "description") || name.starts_with("x-");
            if number < earlier
                && !decides_nothing
                && let Some(field) = self.fields.get_mut(number)
                && !std::mem::replace(&mut field.is_contested, true)
            {
                let warning = Diagnostic::warning("duplicate field")
                    .at(field.entry.key.span, "this one, next to the `$ref`, applies")
                    .related(entry.key.span, "the target of the `$ref` has the field too")
                    .hint("remove one of the two: OpenAPI does not define which one applies");
                decoder.record_within(&entry.key, warning);
            }
        }
    }
}

/// A document, and a count of what was read.
pub(super) struct Document<'node> {
    root: &'node Rc<Node>,
    read: usize,
    is_exhausted: bool,
    /// Entries by their keys, of mappings with many keys. The root keeps the nodes alive, so that their addresses are
    /// unique.
    indexes: HashMap<*const Node, HashMap<Box<str>, Rc<Node>>>,
}

impl<'node> Document<'node> {
    pub(super) fn new(root: &'node Rc<Node>) -> Self {
        Self { root, read: 0, is_exhausted: false, indexes: HashMap::new() }
    }

    /// Whether the limit is exceeded.
    pub(super) const fn is_exhausted(&self) -> bool {
        self.is_exhausted
    }

    /// Counts what is read. Returns `None` if it recorded an error because the limit is exceeded.
    pub(super) fn count(&mut self, amount: usize, at: &Node, decoder: &mut Decoder<'_>) -> Option<()> {
        self.read = self.read.saturating_add(amount);
        if self.read <= MAX_READ {
            return Some(());
        }
        if !std::mem::replace(&mut self.is_exhausted, true) {
            let label =
                format!("more than {MAX_READ} keys and scopes, including those of references and aliases");
            decoder.record(Diagnostic::error("document too large").at(start_of(at), label));
        }
        None
    }

    /// The fields of an object, with its `$ref` resolved. Returns `None` if it recorded an error.
    pub(super) fn object(
        &mut self,
        node: &Rc<Node>,
        expected: &str,
        decoder: &mut Decoder<'_>,
    ) -> Option<Object> {
        let mut object = Object::default();
        let mut node = Rc::clone(node);
        for _ in 0..=MAX_REFERENCES {
            let Value::Mapping(entries) = &node.value else {
                return decoder.mismatch(&node, "wrong type", expected);
            };
            for merge in entries.iter().filter(|entry| &*entry.key.text == "<<") {
                let is_mapping = |node: &Node| matches!(node.value, Value::Mapping(_));
                let is_mergeable = match &merge.value.value {
                    Value::List(items) => items.iter().all(|item| is_mapping(item)),
                    _ => is_mapping(&merge.value),
                };
                if !is_mergeable {
                    return decoder.within(&merge.key, |decoder| {
                        decoder.mismatch(&merge.value, "wrong type", "a mapping to merge")
                    });
                }
            }
            self.count(merged(&node).len() + 1, &node, decoder)?;
            let reference = entry(&node, "$ref").cloned();
            object.add(&node, reference.is_some(), decoder);
            let Some(reference) = reference else { return Some(object) };
            node = decoder.within(&reference.key, |decoder| self.follow(&reference.value, decoder))?;
        }
        let label = format!("more than {MAX_REFERENCES} references in a row, or a circular reference");
        decoder.reject(Diagnostic::error("too many references").at(start_of(&node), label))
    }

    /// Resolves a reference: a URI fragment (RFC 3986) with a JSON Pointer (RFC 6901) into this document.
    fn follow(&mut self, reference: &Node, decoder: &mut Decoder<'_>) -> Option<Rc<Node>> {
        let Some(written) = text(reference) else {
            return decoder.mismatch(
                reference,
                "wrong type",
                "a reference such as `#/components/pathItems/item`",
            );
        };
        let Some(fragment) = written.strip_prefix('#') else {
            let error = Diagnostic::error("reference to another document")
                .at(reference.span, "expected a reference into this document, which starts with `#/`")
                .hint("bundle the documents into one first; most API tools can");
            return decoder.reject(error);
        };
        let fragment = percent_decode_str(fragment).decode_utf8().unwrap_or_default();
        if !fragment.is_empty() && !fragment.starts_with('/') {
            let label = "expected a JSON Pointer, which starts with `#/`";
            return decoder.reject(Diagnostic::error("unsupported reference").at(reference.span, label));
        }
        let mut node = Rc::clone(self.root);
        for step in fragment.split('/').skip(1) {
            self.count(1, &node, decoder)?;
            let step = step.replace("~1", "/").replace("~0", "~");
            let Some(next) = self.child(&node, &step) else {
                let label = format!("the document has no `{step}` here");
                return decoder.reject(Diagnostic::error("unresolved reference").at(reference.span, label));
            };
            node = next;
        }
        Some(node)
    }

    /// The value of a key, or the item of a list.
    fn child(&mut self, node: &Rc<Node>, step: &str) -> Option<Rc<Node>> {
        match &node.value {
            Value::List(items) => {
                let index: usize = step.parse().ok().filter(|index: &usize| index.to_string() == step)?;
                items.get(index).map(Rc::clone)
            }
            Value::Mapping(entries) if entries.len() >= INDEXED => {
                let index = self.indexes.entry(Rc::as_ptr(node)).or_insert_with(|| {
                    let entries = merged(node).into_iter().rev();
                    entries.map(|entry| (entry.key.text.clone(), Rc::clone(&entry.value))).collect()
                });
                index.get(step).map(Rc::clone)
            }
            _ => entry(node, step).map(|entry| Rc::clone(&entry.value)),
        }
    }
}
