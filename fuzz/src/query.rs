//! Compares the rules for queries with a reference that reads a query as PHP's `php_register_variable_ex` does.
//!
//! `data` is a query. If the rules accept it, every parameter that PHP reads has been checked.

use stockaj_gateway::internals::policy::ability::Requirement;
use stockaj_gateway::internals::policy::query::{QueryRules, RawCheck, RawParameter, RawValue};

/// A parameter as PHP reads it.
struct Read {
    base: Vec<u8>,
    keys: Vec<Vec<u8>>,
    value: Vec<u8>,
}

pub fn check(data: &[u8]) {
    let Ok(query) = std::str::from_utf8(data) else { return };
    let mut subjects = Vec::new();
    let visited = rules().visit(query, |_, it| {
        subjects.push(it.subject.to_string());
        Ok(())
    });
    if visited.is_err() {
        return;
    }
    for Read { base, keys, value } in php(query) {
        let needed: Vec<String> = match (&*base, keys.first().map(|key| &**key)) {
            (b"include", _) => value
                .split(|&byte| byte == b',')
                .filter(|value| !value.is_empty())
                .map(|value| match value {
                    b"renters" | b"variants" => format!("include={}", value.escape_ascii()),
                    _ => "include=(others)".to_owned(),
                })
                .collect(),
            (b"fields", Some(b"renters")) => vec!["fields[renters]".to_owned()],
            (b"in_clude", _) => vec!["in_clude".to_owned()],
            _ => vec!["(others)".to_owned()],
        };
        for needed in needed {
            assert!(subjects.contains(&needed), "{needed} is not checked of {query:?}: {subjects:?}");
        }
    }
}

fn rules() -> QueryRules {
    let deny = || RawCheck::Requirement(Requirement::deny());
    let value = |value: &str| RawValue { value: value.into(), requirement: Requirement::deny(), place: None };
    let values = vec![value("renters"), value("variants")];
    let include = RawCheck::Values { split: Some(",".into()), values, deny_others: true };
    let parameters = [("include", include), ("fields[renters]", deny()), ("in_clude", deny())];
    let parameter = |(name, check): (&str, RawCheck)| RawParameter { name: name.into(), check, place: None };
    QueryRules::new(parameters.into_iter().map(parameter).collect(), Some(None)).expect("valid rules")
}

/// The parameters of a query, in PHP with its default settings.
fn php(query: &str) -> Vec<Read> {
    query.split('&').filter(|pair| !pair.is_empty()).take(1000).filter_map(read).collect()
}

fn read(pair: &str) -> Option<Read> {
    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
    let name = decode(name);
    let name = name.split(|&byte| byte == 0).next().unwrap_or_default();
    let start = name.iter().position(|&byte| byte != b' ').unwrap_or(name.len());
    let name = &name[start..];
    let end = name.iter().position(|&byte| byte == b'[').unwrap_or(name.len());
    let fold = |byte: &u8| if matches!(byte, b' ' | b'.' | b'[') { b'_' } else { *byte };
    let mut base: Vec<u8> = name[..end].iter().map(fold).collect();
    if base.is_empty() {
        return None;
    }
    let mut keys = Vec::new();
    let mut rest = &name[end..];
    while let [b'[', inner @ ..] = rest {
        let Some(close) = inner.iter().position(|&byte| byte == b']') else {
            // A bracket that is not closed belongs to the name, if it is the first.
            if keys.is_empty() {
                base.extend(rest.iter().map(fold));
            }
            break;
        };
        let key = &inner[..close];
        let is_blank = matches!(key, [byte] if byte.is_ascii_whitespace() || *byte == 0x0b);
        keys.push(if is_blank { Vec::new() } else { key.to_vec() });
        rest = &inner[close + 1..];
    }
    (keys.len() <= 64).then(|| Read { base, keys, value: decode(value) })
}

/// Decodes like PHP, which keeps a stray `%`.
fn decode(text: &str) -> Vec<u8> {
    super::target::decode(text.replace('+', " ").as_bytes())
}
