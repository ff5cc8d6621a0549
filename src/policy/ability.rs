//! The abilities of a token and the requirement of a rule.

use std::fmt::{self, Display, Formatter};
use std::sync::Arc;

use http::HeaderValue;

use super::refusal::{Missing, Refusal};

/// The longest ability name, in bytes.
pub const MAX_ABILITY: usize = 128;

/// The abilities of a token as introspection reports them. They are exact strings; only a lone `*` is special, as in
/// Sanctum's `tokenCan`. A clone shares the names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Abilities {
    has_all: bool,
    names: Arc<[Box<str>]>,
}

impl Abilities {
    /// Sorts the names and removes duplicates.
    pub fn new<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        let mut names: Vec<Box<str>> = names.into_iter().map(Into::into).collect();
        names.sort_unstable();
        names.dedup();
        Self { has_all: names.iter().any(|name| &**name == "*"), names: names.into() }
    }

    /// Whether the token can do `ability`.
    pub fn can(&self, ability: &str) -> bool {
        self.has_all || self.names.binary_search_by(|name| (**name).cmp(ability)).is_ok()
    }

    /// The names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(|name| &**name)
    }
}

/// The compiled requirement of a rule.
///
/// `Display` writes the YAML of the map: `items:read`, `{any: [items:read, rents:read]}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    kind: RequirementKind,
    missing: Arc<Missing>,
}

/// The forms of a requirement in the ability map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequirementKind {
    /// No token is required.
    Public,
    /// Any active token.
    Authenticated,
    /// No token satisfies it.
    Deny,
    /// All of these abilities (Sanctum's `abilities` middleware). A single ability is a list of one.
    All(Box<[Box<str>]>),
    /// At least one of these (Sanctum's `ability` middleware).
    Any(Box<[Box<str>]>),
}

/// Why a text is not a requirement.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequirementError {
    /// An empty list.
    #[error("a list of abilities must not be empty")]
    Empty,
    /// `public`, `authenticated` or `deny` in a list of abilities.
    #[error("`{0}` is a keyword: it stands alone, not in a list of abilities")]
    Keyword(Box<str>),
    /// An empty name, or one of more than [`MAX_ABILITY`] bytes.
    #[error("an ability has 1 to {MAX_ABILITY} characters, this one has {0}")]
    Length(usize),
    /// A character that is not allowed in the `scope` of a challenge (RFC 6749 appendix A.4).
    #[error("an ability is visible ASCII without `\"` and `\\`: `{ability}` has {character:?}")]
    Character {
        /// The ability.
        ability: Box<str>,
        /// Its first invalid character.
        character: char,
    },
}

impl Requirement {
    /// `public`
    pub fn public() -> Self {
        Self::keyword(RequirementKind::Public)
    }

    /// `authenticated`
    pub fn authenticated() -> Self {
        Self::keyword(RequirementKind::Authenticated)
    }

    /// `deny`
    pub fn deny() -> Self {
        Self::keyword(RequirementKind::Deny)
    }

    /// A single word of the map: `public`, `authenticated`, `deny` or one ability.
    ///
    /// # Errors
    /// If the word is neither a keyword nor a valid ability.
    pub fn from_word(word: &str) -> Result<Self, RequirementError> {
        match keyword(word) {
            Some(kind) => Ok(Self::keyword(kind)),
            None => Self::all([word]),
        }
    }

    /// `{all: […]}`
    ///
    /// # Errors
    /// If the list is empty or contains anything but valid abilities.
    pub fn all<'a>(abilities: impl IntoIterator<Item = &'a str>) -> Result<Self, RequirementError> {
        let abilities = checked(abilities)?;
        Ok(Self { missing: missing(&abilities, ", "), kind: RequirementKind::All(abilities) })
    }

    /// `{any: […]}`
    ///
    /// # Errors
    /// If the list is empty or contains anything but valid abilities.
    pub fn any<'a>(abilities: impl IntoIterator<Item = &'a str>) -> Result<Self, RequirementError> {
        let abilities = checked(abilities)?;
        Ok(Self { missing: missing(&abilities, " | "), kind: RequirementKind::Any(abilities) })
    }

    fn keyword(kind: RequirementKind) -> Self {
        Self { kind, missing: missing(&[], "") }
    }

    /// The form of the requirement.
    pub const fn kind(&self) -> &RequirementKind {
        &self.kind
    }

    /// The fields of a response to a token that does not satisfy the requirement.
    pub(super) const fn fields(&self) -> &Arc<Missing> {
        &self.missing
    }

    /// The abilities in the order of the map; empty for a keyword.
    pub fn abilities(&self) -> impl Iterator<Item = &str> {
        let names: &[Box<str>] = match &self.kind {
            RequirementKind::All(names) | RequirementKind::Any(names) => names,
            RequirementKind::Public | RequirementKind::Authenticated | RequirementKind::Deny => &[],
        };
        names.iter().map(|name| &**name)
    }

    /// The abilities that a token with `abilities` lacks. For `any`, all of them unless the token has one. Empty for a
    /// keyword.
    pub fn missing<'a>(&'a self, abilities: &'a Abilities) -> impl Iterator<Item = &'a str> {
        let has_one =
            matches!(&self.kind, RequirementKind::Any(names) if names.iter().any(|it| abilities.can(it)));
        self.abilities().filter(move |name| !has_one && !abilities.can(name))
    }

    /// Whether a token with `abilities` satisfies the requirement through `ability`: for `all`, each of the abilities; for
    /// `any`, each one that the token has.
    pub fn is_satisfied_through(&self, ability: &str, abilities: &Abilities) -> bool {
        let has_name = |names: &[Box<str>]| names.iter().any(|name| **name == *ability);
        match &self.kind {
            RequirementKind::All(names) => has_name(names),
            RequirementKind::Any(names) => has_name(names) && abilities.can(ability),
            RequirementKind::Public | RequirementKind::Authenticated | RequirementKind::Deny => false,
        }
    }

    /// Checks that an active token with `abilities` satisfies the requirement.
    ///
    /// # Errors
    /// [`Refusal::Denied`] for `deny` with any abilities; otherwise [`Refusal::MissingAbility`].
    pub fn check(&self, abilities: &Abilities) -> Result<(), Refusal> {
        let satisfied = match &self.kind {
            RequirementKind::Public | RequirementKind::Authenticated => true,
            RequirementKind::Deny => return Err(Refusal::Denied),
            RequirementKind::All(names) => names.iter().all(|name| abilities.can(name)),
            RequirementKind::Any(names) => names.iter().any(|name| abilities.can(name)),
        };
        if satisfied { Ok(()) } else { Err(Refusal::MissingAbility(Arc::clone(&self.missing))) }
    }
}

fn keyword(word: &str) -> Option<RequirementKind> {
    match word {
        "public" => Some(RequirementKind::Public),
        "authenticated" => Some(RequirementKind::Authenticated),
        "deny" => Some(RequirementKind::Deny),
        _ => None,
    }
}

fn checked<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Box<[Box<str>]>, RequirementError> {
    let names: Box<[Box<str>]> = names
        .into_iter()
        .map(|name| {
            if keyword(name).is_some() {
                return Err(RequirementError::Keyword(name.into()));
            }
            if name.is_empty() || name.len() > MAX_ABILITY {
                return Err(RequirementError::Length(name.chars().count()));
            }
            match name.chars().find(|&character| !is_scope_character(character)) {
                Some(character) => Err(RequirementError::Character { ability: name.into(), character }),
                None => Ok(name.into()),
            }
        })
        .collect::<Result<_, _>>()?;
    if names.is_empty() { Err(RequirementError::Empty) } else { Ok(names) }
}

/// RFC 6749 appendix A.4, NQCHAR.
const fn is_scope_character(character: char) -> bool {
    character.is_ascii_graphic() && character != '"' && character != '\\'
}

fn missing(abilities: &[Box<str>], separator: &str) -> Arc<Missing> {
    let required = HeaderValue::try_from(abilities.join(separator));
    // Cannot fail: the names have been validated.
    let required = required.unwrap_or_else(|_| HeaderValue::from_static(""));
    Arc::new(Missing { challenge: challenge(abilities), required })
}

/// RFC 6750 section 3. The value is always well-formed, since the names have been validated. The fallback is a challenge
/// without a scope.
fn challenge(abilities: &[Box<str>]) -> HeaderValue {
    const INSUFFICIENT: &str = r#"Bearer realm="stockaj", error="insufficient_scope""#;
    if abilities.is_empty() {
        return HeaderValue::from_static(INSUFFICIENT);
    }
    HeaderValue::try_from(format!(r#"{INSUFFICIENT}, scope="{}""#, abilities.join(" ")))
        .unwrap_or_else(|_| HeaderValue::from_static(INSUFFICIENT))
}

impl Display for Requirement {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        let (word, names) = match &self.kind {
            RequirementKind::Public => return formatter.pad("public"),
            RequirementKind::Authenticated => return formatter.pad("authenticated"),
            RequirementKind::Deny => return formatter.pad("deny"),
            RequirementKind::All(names) => match &**names {
                [name] => return formatter.pad(&scalar(name)),
                _ => ("all", names),
            },
            RequirementKind::Any(names) => ("any", names),
        };
        let names: Vec<String> = names.iter().map(|name| scalar(name)).collect();
        formatter.pad(&format!("{{{word}: [{}]}}", names.join(", ")))
    }
}

/// Whether a requirement in the form of ledgers and reports needs several abilities.
pub fn is_all(requirement: &str) -> bool {
    requirement.starts_with("{all:")
}

/// A name as a YAML scalar, quoted if a plain scalar would have another meaning. Ledgers and reports store this form.
fn scalar(name: &str) -> String {
    let plain = name.starts_with(|first: char| first.is_ascii_alphabetic())
        && !name.ends_with(':')
        && !name.contains([',', '[', ']', '{', '}', '#'])
        && !matches!(name, "true" | "false" | "null" | "True" | "False" | "Null" | "TRUE" | "FALSE" | "NULL");
    if plain { name.to_owned() } else { format!("'{}'", name.replace('\'', "''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn abilities(names: &[&str]) -> Abilities {
        Abilities::new(names.iter().copied())
    }

    #[test]
    fn requirement_is_satisfied_by_its_abilities_only() {
        let all = Requirement::all(["b:read", "a:read"]).unwrap();
        let any = Requirement::any(["b:read", "a:read"]).unwrap();
        let one = Requirement::from_word("a:read").unwrap();
        for (requirement, held, permitted) in [
            (&Requirement::public(), &[][..], true),
            (&Requirement::authenticated(), &[], true),
            (&one, &[], false),
            (&one, &["a:read"], true),
            (&one, &["a:rea", "a:reads", "A:READ", "a:*", "**", "", "a:read "], false),
            (&one, &["*"], true),
            (&all, &["a:read"], false),
            (&all, &["b:read"], false),
            (&all, &["c", "a:read", "b:read"], true),
            (&all, &["*"], true),
            (&any, &["c"], false),
            (&any, &["a:read"], true),
            (&any, &["b:read"], true),
            (&any, &["x", "*"], true),
        ] {
            assert_eq!(requirement.check(&abilities(held)).is_ok(), permitted, "{requirement} with {held:?}");
        }
    }

    #[test]
    fn deny_refuses_every_token() {
        for held in [&[][..], &["*"], &["deny"]] {
            assert_eq!(Requirement::deny().check(&abilities(held)).unwrap_err(), Refusal::Denied);
        }
    }

    #[test]
    fn refusal_names_the_whole_requirement_in_its_order() {
        for (requirement, scope, required) in [
            (Requirement::from_word("items:read"), "items:read", "items:read"),
            (Requirement::all(["z", "a"]), "z a", "z, a"),
            (Requirement::any(["z", "a"]), "z a", "z | a"),
        ] {
            let refusal = requirement.unwrap().check(&abilities(&["other"])).unwrap_err();
            let Refusal::MissingAbility(missing) = refusal else { panic!("{refusal:?}") };
            let challenge = format!(r#"Bearer realm="stockaj", error="insufficient_scope", scope="{scope}""#);
            assert_eq!(missing.challenge, challenge);
            assert_eq!(missing.required, required);
        }
    }

    #[test]
    fn invalid_requirement_is_an_error() {
        let long = "a".repeat(MAX_ABILITY + 1);
        for (names, message) in [
            (&[][..], "a list of abilities must not be empty"),
            (&["a", "deny"], "`deny` is a keyword: it stands alone, not in a list of abilities"),
            (&["public"], "`public` is a keyword: it stands alone, not in a list of abilities"),
            (&["authenticated"], "`authenticated` is a keyword: it stands alone, not in a list of abilities"),
            (&[""], "an ability has 1 to 128 characters, this one has 0"),
            (&[long.as_str()], "an ability has 1 to 128 characters, this one has 129"),
            (&["a b"], "an ability is visible ASCII without `\"` and `\\`: `a b` has ' '"),
            (&["a\"b"], "an ability is visible ASCII without `\"` and `\\`: `a\"b` has '\"'"),
            (&["a\\b"], "an ability is visible ASCII without `\"` and `\\`: `a\\b` has '\\\\'"),
            (&["é"], "an ability is visible ASCII without `\"` and `\\`: `é` has 'é'"),
            (&["a\n"], "an ability is visible ASCII without `\"` and `\\`: `a\n` has '\\n'"),
        ] {
            for result in [Requirement::all(names.to_vec()), Requirement::any(names.to_vec())] {
                assert_eq!(result.unwrap_err().to_string(), message, "{names:?}");
            }
        }
        assert!(Requirement::from_word(&long[1..]).is_ok());
        assert!(Requirement::from_word("").is_err());
    }

    #[test]
    fn display_writes_the_yaml_of_the_map() {
        for (requirement, text) in [
            (Requirement::from_word("public"), "public"),
            (Requirement::from_word("authenticated"), "authenticated"),
            (Requirement::from_word("deny"), "deny"),
            (Requirement::from_word("items:read"), "items:read"),
            (Requirement::all(["items:read"]), "items:read"),
            (Requirement::all(["b", "a"]), "{all: [b, a]}"),
            (Requirement::any(["a"]), "{any: [a]}"),
            (Requirement::any(["*", "a,b", "it's", "null"]), "{any: ['*', 'a,b', it's, 'null']}"),
        ] {
            assert_eq!(requirement.unwrap().to_string(), text);
            assert_eq!(is_all(text), text.starts_with("{all: ["), "{text}");
        }
        let padded = format!("{:8}|{:8}|", Requirement::deny(), Requirement::from_word("a").unwrap());
        assert_eq!(padded, "deny    |a       |");
    }

    #[test]
    fn abilities_are_sorted_without_duplicates() {
        assert_eq!(abilities(&["b", "a", "b"]).names().collect::<Vec<_>>(), ["a", "b"]);
    }
}
