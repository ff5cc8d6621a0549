//! The compiled rules of a query.

use std::fmt::{self, Display, Formatter, Write as _};

use super::parameter::{Parameter, parameters};
use crate::policy::ability::{Abilities, Requirement, RequirementKind};
use crate::policy::refusal::Refusal;
use crate::policy::source_location::SourceLocation;

/// The largest number of bytes of a listed name.
const MAX_NAME: usize = 128;

const OTHER_SPELLING: Refusal =
    Refusal::BadRequest("query parameter that PHP reads as one of the route's rules");

/// The rules of a route for the parameters of its query.
///
/// `Display` writes the YAML of the map. Locations do not count in comparisons.
#[derive(Clone, Debug)]
pub struct QueryRules {
    parameters: Box<[ParameterRule]>,
    /// The number of the requirement of parameters that are not listed; `None` if they are allowed.
    others: Option<usize>,
    requirements: Box<[NumberedRequirement]>,
    text: Box<str>,
}

/// A requirement of the rules. A refusal has its number.
#[derive(Clone, Debug)]
pub struct NumberedRequirement {
    /// What it applies to, in words of the map only: `debug`, `include=renters`, `include=(others)` or `(others)`.
    pub subject: Box<str>,
    /// The requirement.
    pub requirement: Requirement,
    /// Its location in a file.
    pub place: Option<SourceLocation>,
}

/// Writes the location and the subject of a requirement.
#[derive(Debug)]
pub struct LocatedRequirement<'a>(&'a NumberedRequirement);

/// The rule of a listed parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParameterRule {
    name: Box<str>,
    /// The length of the name before its first bracket.
    base: usize,
    check: Check,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Check {
    /// The number of the requirement, whatever the value is.
    Any(usize),
    /// The requirement depends on the value.
    Values {
        split: Option<Box<str>>,
        /// The values with the numbers of their requirements.
        values: Box<[(Box<str>, usize)]>,
        /// The number of the requirement of other values; `None` if they are allowed.
        others: Option<usize>,
    },
}

/// The rule of a parameter as it is written.
#[derive(Clone, Debug)]
pub struct RawParameter {
    /// The name, such as `fields[renters]`.
    pub name: Box<str>,
    /// The requirement, or the requirements by value.
    pub check: RawCheck,
    /// Its location.
    pub place: Option<SourceLocation>,
}

/// The check of a parameter as it is written.
#[derive(Clone, Debug)]
pub enum RawCheck {
    /// A requirement, whatever the value is.
    Requirement(Requirement),
    /// Requirements by value.
    Values {
        /// Separates the values in one parameter.
        split: Option<Box<str>>,
        /// The listed values.
        values: Vec<RawValue>,
        /// Whether other values are denied.
        deny_others: bool,
    },
}

/// The check of a listed parameter, for programs that show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WrittenCheck<'a> {
    /// A requirement, whatever the value is.
    Requirement(&'a Requirement),
    /// Requirements by value.
    Values {
        /// Separates the values in one parameter.
        split: Option<&'a str>,
        /// The listed values with their requirements.
        values: Vec<(&'a str, &'a Requirement)>,
        /// Whether other values are denied.
        deny_others: bool,
    },
}

/// A listed value.
#[derive(Clone, Debug)]
pub struct RawValue {
    /// The value, decoded.
    pub value: Box<str>,
    /// Its requirement.
    pub requirement: Requirement,
    /// Its location.
    pub place: Option<SourceLocation>,
}

/// Why a parameter cannot be listed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueryRuleError {
    /// An empty name, or one that is too long.
    #[error("the name of a parameter has 1 to {MAX_NAME} characters")]
    Length,
    /// A character that the gateway does not expect in a name.
    #[error("the name of a parameter is visible ASCII, with keys in brackets: {0:?} is not allowed")]
    Character(char),
    /// Brackets other than `name[key][key]`.
    #[error("brackets enclose keys, as in `fields[renters]`")]
    Brackets,
    /// A name that PHP reads as another.
    #[error("PHP reads this name as `{0}`")]
    Folded(Box<str>),
    /// A key that is empty or a number.
    #[error("`{0}` is an index: the rule of the name before it applies to every index")]
    Index(Box<str>),
    /// An empty separator.
    #[error("`split` is 1 to 8 visible characters")]
    Split,
    /// A value that never occurs.
    #[error("the value `{0}` never occurs: {1}")]
    Value(Box<str>, &'static str),
}

/// What the rules require for the parameters of one query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QueryNeeds {
    /// No token.
    Nothing,
    /// A token.
    Token,
    /// No token is sufficient.
    Denied(Refusal),
}

/// The rules of a route and the query of a request.
#[derive(Clone, Copy, Debug)]
pub struct QueryCheck<'a> {
    rules: &'a QueryRules,
    query: &'a str,
    /// Whether it is a GET or HEAD with a body, from which PHP frameworks read parameters as from the query.
    has_body: bool,
}

impl RawParameter {
    /// Checks that requests can have the parameter and its values.
    ///
    /// # Errors
    /// The first error in it.
    pub fn check(&self) -> Result<(), QueryRuleError> {
        self.parse().map(drop)
    }

    /// Validates the name. Returns the length of its base.
    fn parse(&self) -> Result<usize, QueryRuleError> {
        let name = &*self.name;
        if name.is_empty() || name.len() > MAX_NAME {
            return Err(QueryRuleError::Length);
        }
        let is_name = |it: &char| it.is_ascii_graphic() && !matches!(it, '&' | '=' | ';' | '+' | '%' | '#');
        if let Some(character) = name.chars().find(|it| !is_name(it) && *it != ' ') {
            return Err(QueryRuleError::Character(character));
        }
        let base = name.find('[').unwrap_or(name.len());
        let folded = name[..base].trim_start_matches(' ').replace([' ', '.'], "_");
        if folded != name[..base] {
            return Err(QueryRuleError::Folded(format!("{folded}{}", &name[base..]).into()));
        }
        if name.contains(' ') {
            return Err(QueryRuleError::Character(' '));
        }
        let parsed = match parameters(name).next() {
            Some(Ok(parsed)) if parsed.base() == &name[..base] => parsed,
            _ => return Err(QueryRuleError::Brackets),
        };
        if let Some(index) = parsed.keys().find(|key| is_index(key)) {
            return Err(QueryRuleError::Index(format!("[{index}]").into()));
        }
        let RawCheck::Values { split, values, .. } = &self.check else { return Ok(base) };
        let is_separator = |it: &str| {
            (1..=8).contains(&it.len()) && it.bytes().all(|it| it.is_ascii_graphic() || it == b' ')
        };
        if split.as_deref().is_some_and(|split| !is_separator(split)) {
            return Err(QueryRuleError::Split);
        }
        for RawValue { value, .. } in values {
            let problem = if value.is_empty() {
                "empty values are always allowed"
            } else if split.as_deref().is_some_and(|split| value.contains(split)) {
                "it contains the separator"
            } else {
                continue;
            };
            return Err(QueryRuleError::Value(value.clone(), problem));
        }
        Ok(base)
    }
}

/// An index of a PHP array, which `[]` may become.
fn is_index(key: &str) -> bool {
    let digits = key.strip_prefix('-').unwrap_or(key);
    digits.bytes().all(|byte| byte.is_ascii_digit())
}

impl QueryRules {
    /// Compiles rules. `others` is the location of the rule of other parameters; `None` if they are allowed.
    ///
    /// # Errors
    /// The first error in a parameter.
    pub fn new(
        parameters: Vec<RawParameter>,
        others: Option<Option<SourceLocation>>,
    ) -> Result<Self, QueryRuleError> {
        let mut text = String::new();
        let mut requirements = Vec::new();
        let mut number = |subject: String, requirement: Requirement, place: Option<SourceLocation>| {
            requirements.push(NumberedRequirement { subject: subject.into(), requirement, place });
            requirements.len() - 1
        };
        let mut rules = Vec::with_capacity(parameters.len());
        for parameter in parameters {
            let base = parameter.parse()?;
            let RawParameter { name, check, place } = parameter;
            // Writing to a String cannot fail.
            let _ = write!(text, "{}: ", scalar(&name));
            let check = match check {
                RawCheck::Requirement(requirement) => {
                    let _ = write!(text, "{requirement}");
                    Check::Any(number(name.to_string(), requirement, place))
                }
                RawCheck::Values { split, values, deny_others } => {
                    text.push('{');
                    if let Some(split) = &split {
                        let _ = write!(text, "split: {}, ", quoted(split));
                    }
                    let written: Vec<String> = values
                        .iter()
                        .map(|it| format!("{}: {}", scalar(&it.value), it.requirement))
                        .collect();
                    let others = if deny_others { "deny" } else { "allow" };
                    let _ = write!(text, "values: {{{}}}, others: {others}}}", written.join(", "));
                    let values = values.into_iter().map(|RawValue { value, requirement, place }| {
                        let number = number(format!("{name}={value}"), requirement, place);
                        (value, number)
                    });
                    let values = values.collect();
                    let others =
                        deny_others.then(|| number(format!("{name}=(others)"), Requirement::deny(), place));
                    Check::Values { split, values, others }
                }
            };
            text.push_str(", ");
            rules.push(ParameterRule { name, base, check });
        }
        text.push_str(if others.is_some() { "others: deny" } else { "others: allow" });
        let others = others.map(|place| number("(others)".to_owned(), Requirement::deny(), place));
        Ok(Self {
            parameters: rules.into(),
            others,
            requirements: requirements.into(),
            text: format!("{{{text}}}").into(),
        })
    }

    /// The requirement with this number.
    pub fn requirement(&self, number: usize) -> Option<&NumberedRequirement> {
        self.requirements.get(number)
    }

    /// All requirements.
    pub fn requirements(&self) -> impl Iterator<Item = &NumberedRequirement> {
        self.requirements.iter()
    }

    /// The rules of the parameters by name, as they are written.
    pub fn parameters(&self) -> impl Iterator<Item = (&str, WrittenCheck<'_>)> {
        let requirement = |number: usize| self.requirements.get(number).map(|it| &it.requirement);
        self.parameters.iter().filter_map(move |ParameterRule { name, check, .. }| {
            let check = match check {
                Check::Any(number) => WrittenCheck::Requirement(requirement(*number)?),
                Check::Values { split, values, others } => WrittenCheck::Values {
                    split: split.as_deref(),
                    values: values
                        .iter()
                        .filter_map(|(value, number)| Some((&**value, requirement(*number)?)))
                        .collect(),
                    deny_others: others.is_some(),
                },
            };
            Some((&**name, check))
        })
    }

    /// Whether parameters that are not listed are denied.
    pub const fn denies_others(&self) -> bool {
        self.others.is_some()
    }

    /// The listed parameters with each of their listed values, or an empty one if the value does not count.
    pub fn listed(&self) -> impl Iterator<Item = (&str, &str)> {
        self.parameters.iter().flat_map(|ParameterRule { name, check, .. }| {
            let values: &[(Box<str>, usize)] = match check {
                Check::Any(_) => &[],
                Check::Values { values, .. } => values,
            };
            let any = values.is_empty().then_some("");
            values.iter().map(|(value, _)| &**value).chain(any).map(|value| (&**name, value))
        })
    }

    /// The listed parameters with a separator, each with a listed value twice and the separator between them.
    pub fn separated(&self) -> impl Iterator<Item = (&str, String)> {
        self.parameters.iter().filter_map(|rule| match &rule.check {
            Check::Values { split: Some(split), values, .. } => {
                let (value, _) = values.first()?;
                Some((&*rule.name, format!("{value}{split}{value}")))
            }
            Check::Values { .. } | Check::Any(_) => None,
        })
    }

    /// Whether a parameter with this name and value is denied to every token, or rejected.
    pub fn denies(&self, name: &str, value: &str) -> bool {
        self.needs_of(name, value).is_none_or(|needs| matches!(needs.kind(), RequirementKind::Deny))
    }

    /// The requirement of a parameter with this name and value, `deny` if several apply and one is that, and `public` if
    /// none applies; `None` if it is rejected.
    pub fn needs_of(&self, name: &str, value: &str) -> Option<Requirement> {
        let escaped = |text: &str| -> String { text.bytes().map(|byte| format!("%{byte:02X}")).collect() };
        let mut needs: Option<Requirement> = None;
        let read = self.visit(&format!("{}={}", escaped(name), escaped(value)), |_, it| {
            if needs.is_none() || matches!(it.requirement.kind(), RequirementKind::Deny) {
                needs = Some(it.requirement.clone());
            }
            Ok(())
        });
        read.ok().map(|()| needs.unwrap_or_else(Requirement::public))
    }

    /// Whether the requirement of the listed parameter `name` depends on its value.
    pub fn has_values(&self, name: &str) -> bool {
        let is_by_value = |it: &ParameterRule| *it.name == *name && matches!(it.check, Check::Values { .. });
        self.parameters.iter().any(is_by_value)
    }

    /// Calls `visit` with the number of each requirement on the parameters of `query`, in its order.
    ///
    /// # Errors
    /// [`Refusal::BadRequest`] for a query that two parsers could read differently; that of `visit`.
    pub fn visit(
        &self,
        query: &str,
        mut visit: impl FnMut(usize, &NumberedRequirement) -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        let mut visit = |number: usize| match self.requirements.get(number) {
            Some(requirement) => visit(number, requirement),
            None => Ok(()),
        };
        for parameter in parameters(query) {
            let parameter = parameter?;
            match self.find(&parameter)? {
                None => self.others.map_or(Ok(()), &mut visit)?,
                Some(ParameterRule { check: Check::Any(number), .. }) => visit(*number)?,
                Some(rule @ ParameterRule { check: Check::Values { split, values, others }, .. }) => {
                    // Some applications take the keys of `include[renters]=1` as values. An index is one if it is listed.
                    let is_value =
                        |key: &&str| !is_index(key) || values.iter().any(|(listed, _)| **listed == **key);
                    for key in parameter.keys().skip(rule.keys().count()).filter(is_value) {
                        check_value(key, values, *others, &mut visit)?;
                    }
                    let value = parameter.value()?;
                    match split.as_deref() {
                        None => check_value(&value, values, *others, &mut visit)?,
                        Some(split) => {
                            for value in value.split(split) {
                                check_value(value, values, *others, &mut visit)?;
                            }
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// The rule with the longest name that covers a parameter: `fields` and `fields[renters]` both cover
    /// `fields[renters][]`.
    fn find(&self, parameter: &Parameter<'_>) -> Result<Option<&ParameterRule>, Refusal> {
        let mut longest: Option<&ParameterRule> = None;
        for rule in &self.parameters {
            if rule.base() != parameter.base() {
                if parameter.folds_to(rule.base()) {
                    return Err(OTHER_SPELLING);
                }
                continue;
            }
            let mut keys = parameter.keys();
            let covers = rule.keys().all(|key| keys.next() == Some(key));
            if covers && longest.is_none_or(|other| other.name.len() < rule.name.len()) {
                longest = Some(rule);
            }
        }
        Ok(longest)
    }
}

/// A name or a value as a YAML scalar, quoted if a plain scalar in a flow mapping would have another meaning.
fn scalar(text: &str) -> String {
    let is_plain = |character: char| character.is_alphanumeric() || "-_./".contains(character);
    let is_text = text.starts_with(char::is_alphabetic) && text.parse::<f64>().is_err();
    let is_word = !matches!(&*text.to_ascii_lowercase(), "true" | "false" | "null");
    if is_text && is_word && text.chars().all(is_plain) { text.to_owned() } else { quoted(text) }
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// Checks a value. Empty ones are allowed: they select nothing.
///
/// If other values are denied, a listed value is exact. If they are allowed, it also covers spellings that applications
/// usually accept: with spaces around it and in another case.
fn check_value(
    value: &str,
    values: &[(Box<str>, usize)],
    others: Option<usize>,
    visit: &mut impl FnMut(usize) -> Result<(), Refusal>,
) -> Result<(), Refusal> {
    if value.is_empty() {
        return Ok(());
    }
    let listed = values.iter().find(|(listed, _)| **listed == *value).map(|(_, number)| *number);
    match listed.or(others) {
        Some(number) => visit(number),
        None => {
            let folded = |text: &str| {
                let is_blank = |it: char| !it.is_ascii_graphic() && !it.is_alphanumeric();
                text.trim_matches(is_blank).to_lowercase()
            };
            let sent = folded(value);
            let mut similar = values.iter().filter(|(listed, _)| folded(listed) == sent);
            similar.try_for_each(|(_, number)| visit(*number))
        }
    }
}

impl ParameterRule {
    fn base(&self) -> &str {
        &self.name[..self.base]
    }

    fn keys(&self) -> impl Iterator<Item = &str> {
        self.name[self.base..].split_terminator(']').map(|key| key.strip_prefix('[').unwrap_or(key))
    }
}

impl<'a> QueryCheck<'a> {
    /// The check of a request. `has_body`: it is a GET or HEAD with a body.
    pub const fn new(rules: &'a QueryRules, query: Option<&'a str>, has_body: bool) -> Self {
        let query = match query {
            Some(query) => query,
            None => "",
        };
        Self { rules, query, has_body }
    }

    /// What the rules require.
    ///
    /// # Errors
    /// [`Refusal::BadRequest`] for a query that two parsers could read differently, and for a GET or HEAD with a body:
    /// Laravel reads parameters from a body before those of the query.
    pub fn needs(&self) -> Result<QueryNeeds, Refusal> {
        if self.has_body {
            return Err(Refusal::BadRequest("GET or HEAD with a body on a route with rules for its query"));
        }
        let mut needs = QueryNeeds::Nothing;
        self.rules.visit(self.query, |number, NumberedRequirement { requirement, .. }| {
            match (requirement.kind(), &needs) {
                (_, QueryNeeds::Denied(_)) | (RequirementKind::Public, _) => {}
                (RequirementKind::Deny, _) => needs = QueryNeeds::Denied(denied(number, requirement)),
                _ => needs = QueryNeeds::Token,
            }
            Ok(())
        })?;
        Ok(needs)
    }

    /// Checks that a token with `abilities` satisfies every requirement.
    ///
    /// # Errors
    /// [`Refusal::QueryDenied`] with the first one that it does not.
    pub fn authorize(&self, abilities: &Abilities) -> Result<(), Refusal> {
        self.rules.visit(self.query, |number, NumberedRequirement { requirement, .. }| {
            requirement.check(abilities).map_err(|_| denied(number, requirement))
        })
    }

    /// Whether a token with `abilities` satisfies a requirement [through](Requirement::is_satisfied_through) `ability`.
    pub fn is_satisfied_through(&self, ability: &str, abilities: &Abilities) -> bool {
        let mut is_satisfied = false;
        self.requirements(|requirement| is_satisfied |= requirement.is_satisfied_through(ability, abilities));
        is_satisfied
    }

    /// The numbers of the requirements with abilities, without equal ones.
    pub fn numbers(&self) -> Vec<usize> {
        let mut numbers = Vec::new();
        let mut found: Vec<&Requirement> = Vec::new();
        // A query with an error is refused before.
        let _ = self.rules.visit(self.query, |number, _| {
            if let Some(it) = self.rules.requirement(number)
                && it.requirement.abilities().next().is_some()
                && !found.contains(&&it.requirement)
            {
                found.push(&it.requirement);
                numbers.push(number);
            }
            Ok(())
        });
        numbers
    }

    /// Calls `visit` with every requirement.
    pub fn requirements(&self, mut visit: impl FnMut(&Requirement)) {
        // A query with an error is refused before.
        let _ = self.rules.visit(self.query, |_, it| {
            visit(&it.requirement);
            Ok(())
        });
    }
}

fn denied(number: usize, requirement: &Requirement) -> Refusal {
    Refusal::QueryDenied { rule: number, missing: requirement.fields().clone() }
}

impl Display for QueryRules {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        formatter.pad(&self.text)
    }
}

impl NumberedRequirement {
    /// The location and the subject, for the log: `gateway.yaml:7:9 query include=renters`.
    pub const fn located(&self) -> LocatedRequirement<'_> {
        LocatedRequirement(self)
    }
}

impl Display for LocatedRequirement<'_> {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        let NumberedRequirement { subject, place, .. } = self.0;
        if let Some(place) = place {
            write!(formatter, "{place} ")?;
        }
        write!(formatter, "query {subject}")
    }
}

impl PartialEq for QueryRules {
    fn eq(&self, other: &Self) -> bool {
        // Equal numbers refer to equal requirements.
        let mut pairs = self.requirements.iter().zip(&other.requirements);
        self.parameters == other.parameters
            && self.others == other.others
            && self.requirements.len() == other.requirements.len()
            && pairs.all(|(one, other)| one.requirement == other.requirement)
    }
}

impl Eq for QueryRules {}
