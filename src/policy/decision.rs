//! A decision as a whole, for a caller of whom all is known beforehand.
//!
//! It is made of what [`gateway`](crate::gateway) makes its own of, in the same order; there introspection comes
//! in between.

use http::Method;

use super::ability::{Abilities, Permit, Requirement, RequirementKind};
use super::map::{AbilityMap, Found};
use super::path::CanonicalPath;
use super::refusal::{Reason, Refusal};
use super::target::read_path;

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// Somebody without a token.
    Nobody,
    /// The holder of an active token.
    Active(Abilities),
    /// The holder of a token for which there is no active verdict, and why.
    Refused(Refusal),
}

/// The method and the canonical path of a request; the target's query is not decided on.
///
/// # Errors
/// [`Refusal::BadRequest`] for a method that is not served, for a path that two parsers could read differently, and
/// for one that `map` [refuses](AbilityMap::check_path).
pub fn read_request<'a>(
    map: &AbilityMap,
    method: &str,
    target: &'a str,
) -> Result<(Method, CanonicalPath<'a>), Refusal> {
    let (path, _query) = split_query(target);
    let method = Method::from_bytes(method.as_bytes())
        .map_err(|_| Refusal::BadRequest("method that is not served"))?;
    let path = read_path(&method, path)?;
    map.check_path(&path)?;
    Ok((method, path))
}

/// A target's path and its query.
pub fn split_query(target: &str) -> (&str, Option<&str>) {
    target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)))
}

/// What is known of a caller while others may yet be asked.
#[derive(Clone, Copy, Debug)]
pub enum Known<'a> {
    /// There is no good token, and why.
    Refused(&'a Refusal),
    /// The token is active.
    Active(&'a Abilities),
    /// The token is well-formed, and nobody has been asked about it.
    Token,
}

/// What becomes of the request of `caller`, of which the map says `found`: [`Reason::Public`] or
/// [`Reason::Allowed`].
///
/// # Errors
/// The refusal, in the order of a decision: no well-formed token, nobody may, no active token, an ability is missing.
pub fn decide(map: &AbilityMap, found: &Found<'_>, caller: &Caller) -> Result<Reason, Refusal> {
    let known = match caller {
        Caller::Nobody => Known::Refused(&Refusal::MissingToken),
        Caller::Active(abilities) => Known::Active(abilities),
        Caller::Refused(refusal) => Known::Refused(refusal),
    };
    decide_by(map, found, known).unwrap_or(Err(Refusal::NoVerdict))
}

/// The same by what is known so far; none where that depends on the token.
pub fn decide_by(map: &AbilityMap, found: &Found<'_>, known: Known<'_>) -> Option<Result<Reason, Refusal>> {
    let requirement = map.requirement(found);
    if let Ok(requirement) = requirement
        && Permit::public(requirement).is_some()
    {
        return Some(Ok(Reason::Public));
    }
    Some(match (requirement, known) {
        (_, Known::Refused(refusal @ (Refusal::MissingToken | Refusal::MalformedToken))) => {
            Err(refusal.clone())
        }
        (Err(refusal), _) => Err(refusal),
        (Ok(_), Known::Refused(refusal)) => Err(refusal.clone()),
        (Ok(requirement), Known::Active(abilities)) => {
            requirement.permit(abilities).map(|_permit| Reason::Allowed)
        }
        (Ok(_), Known::Token) => return None,
    })
}

/// Of a requirement that wants all of its abilities, those that are not among `abilities`.
pub fn missing<'a>(requirement: &'a Requirement, abilities: &Abilities) -> Vec<&'a str> {
    match requirement.kind() {
        RequirementKind::All(names) => {
            names.iter().map(|name| &**name).filter(|name| !abilities.can(name)).collect()
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http::HeaderValue;

    use super::super::ability::Missing;
    use super::super::map::{MapBuilder, Unmapped};
    use super::*;

    #[test]
    fn the_query_is_no_part_of_what_is_decided_on() {
        for (method, target, expected) in [
            ("GET", "/a/b?c=/../d", Ok("/a/b")),
            ("GET", "/a?", Ok("/a")),
            ("OPTIONS", "*", Ok("*")),
            ("GET", "*", Err(Refusal::BadRequest("path does not begin with a slash"))),
            ("G T", "/a", Err(Refusal::BadRequest("method that is not served"))),
            ("TRACE", "/a", Err(Refusal::BadRequest("method that is not served"))),
        ] {
            let read = read_request(&AbilityMap::default(), method, target);
            let path = read.as_ref().map(|(_, path)| path.as_str()).map_err(Clone::clone);
            assert_eq!(path, expected, "{method} {target}");
        }
    }

    #[test]
    fn each_refusal_has_its_turn() {
        let word = |word| Requirement::from_word(word).unwrap();
        let mut builder = MapBuilder::new(Unmapped::Deny);
        let both = Requirement::all(["a", "b"]).unwrap();
        let rules = [
            (Method::GET, both, None),
            (Method::PUT, word("public"), None),
            (Method::POST, word("deny"), None),
        ];
        builder.route("/x", rules).unwrap();
        let map = builder.build();
        let (inactive, malformed) = (Refusal::InactiveToken, Refusal::MalformedToken);
        let holder = |names: &[&str]| Caller::Active(Abilities::new(names.iter().copied()));
        let challenge = r#"Bearer realm="stockaj", error="insufficient_scope", scope="a b""#;
        let missing_ability = Refusal::MissingAbility(Arc::new(Missing {
            challenge: HeaderValue::from_static(challenge),
            required: HeaderValue::from_static("a, b"),
        }));
        for (method, caller, expected) in [
            ("PUT", Caller::Refused(inactive.clone()), Ok(Reason::Public)),
            ("DELETE", Caller::Nobody, Err(Refusal::MissingToken)),
            ("DELETE", Caller::Refused(malformed.clone()), Err(malformed)),
            ("DELETE", Caller::Refused(inactive.clone()), Err(Refusal::MethodNotMapped)),
            ("POST", holder(&["*"]), Err(Refusal::Denied)),
            ("GET", Caller::Refused(inactive.clone()), Err(inactive)),
            ("GET", holder(&["a"]), Err(missing_ability)),
            ("GET", holder(&["a", "b"]), Ok(Reason::Allowed)),
            ("HEAD", holder(&["*"]), Ok(Reason::Allowed)),
        ] {
            let (read, path) = read_request(&map, method, "/x").unwrap();
            assert_eq!(decide(&map, &map.find(&read, &path), &caller), expected, "{method} {caller:?}");
        }
    }

    #[test]
    fn where_nobody_was_asked_only_what_the_token_decides_is_open() {
        let word = |word| Requirement::from_word(word).unwrap();
        let mut builder = MapBuilder::new(Unmapped::Deny);
        let rules = [(Method::GET, "a"), (Method::PUT, "public"), (Method::POST, "deny")];
        let rules = rules.map(|(method, text)| (method, word(text), None));
        builder.route("/x", rules).unwrap();
        let map = builder.build();
        for (method, path, expected) in [
            (Method::GET, "/x", None),
            (Method::PUT, "/x", Some(Ok(Reason::Public))),
            (Method::POST, "/x", Some(Err(Refusal::Denied))),
            (Method::DELETE, "/x", Some(Err(Refusal::MethodNotMapped))),
            (Method::GET, "/y", Some(Err(Refusal::Unmapped))),
        ] {
            let found = map.find(&method, &CanonicalPath::new(path).unwrap());
            assert_eq!(decide_by(&map, &found, Known::Token), expected, "{method} {path}");
        }
    }

    #[test]
    fn what_is_missing_is_named_where_all_is_wanted() {
        let has = Abilities::new(["a"]);
        let all = Requirement::all(["a", "b", "c"]).unwrap();
        assert_eq!(missing(&all, &has), ["b", "c"]);
        assert_eq!(missing(&all, &Abilities::new(["*"])), [""; 0]);
        assert_eq!(missing(&Requirement::any(["b", "c"]).unwrap(), &has), [""; 0]);
    }
}
