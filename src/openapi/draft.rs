//! Drafts a map file from an OpenAPI document.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use http::Method;

use super::convention::ability;
use super::document::{Description, Operation, QueryParameter, Security};
use super::{ScopeRequirement, requirement_of_scopes, template};
use crate::config::language::scalar;
use crate::policy::ability::Requirement;
use crate::policy::guide;
use crate::policy::query::{QueryRules, RawCheck, RawParameter, RawValue};
use crate::policy::route::Pattern;
use crate::policy::source_location::SourceLocation;
use crate::policy::target::{METHODS, method_number};

/// A drafted map.
#[derive(Debug)]
pub struct Draft {
    /// Its routes, in the order of the document.
    pub routes: Vec<Route>,
    /// Operations that the draft does not allow as the document does.
    pub notes: Vec<Note>,
}

/// A drafted route.
#[derive(Debug)]
pub struct Route {
    /// Its pattern, with the parameter names of the document.
    pub template: String,
    /// Indexed like [`METHODS`].
    rules: [Option<Rule>; METHODS.len()],
    /// The parameters of its operations, if the convention gives an ability for one of the values.
    query: Vec<RawParameter>,
}

/// A drafted rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Its requirement.
    pub requirement: Requirement,
    /// Why, if the document does not require exactly this.
    pub comment: Option<String>,
}

/// An operation that the draft does not allow as the document does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// The place of the operation.
    pub place: Option<SourceLocation>,
    /// The rule of the draft.
    pub message: String,
    /// The reason.
    pub why: String,
}

impl Route {
    /// Its rules for the query; `None` if it has none.
    pub fn query_rules(&self) -> Option<QueryRules> {
        if self.query.is_empty() { None } else { QueryRules::new(self.query.clone(), None).ok() }
    }

    /// Its rules in the order of [`METHODS`], without a HEAD that requires the same as GET.
    pub fn rules(&self) -> impl Iterator<Item = (&'static Method, &Rule)> {
        static LISTED: [Method; METHODS.len()] = METHODS;
        let requirement = |method| {
            let rule = method_number(method).and_then(|number| self.rules[number].as_ref())?;
            Some(&rule.requirement)
        };
        let follows = move |method: &Method| {
            *method == Method::HEAD && requirement(&Method::HEAD) == requirement(&Method::GET)
        };
        let written =
            LISTED.iter().zip(&self.rules).filter_map(|(method, rule)| Some((method, rule.as_ref()?)));
        written.filter(move |(method, _)| !follows(method))
    }
}

/// Drafts a map: each operation requires its scopes, or the ability of the naming convention if it has none. Where the
/// document is ambiguous the draft denies.
pub fn draft(description: &Description) -> Draft {
    let mut draft = Draft { routes: Vec::new(), notes: Vec::new() };
    let mut known: BTreeMap<Pattern, usize> = BTreeMap::new();
    for operation in &description.operations {
        let template = template(&operation.path);
        let pattern = match Pattern::parse(&template) {
            Ok(pattern) => pattern,
            Err(error) => {
                draft.note(operation, "not in the draft, so the gateway denies it", error.to_string());
                continue;
            }
        };
        let number = *known.entry(pattern).or_insert_with(|| {
            draft.routes.push(Route { template, rules: [const { None }; METHODS.len()], query: Vec::new() });
            draft.routes.len() - 1
        });
        draft.add(number, operation);
    }
    draft
}

impl Draft {
    fn note(&mut self, operation: &Operation, message: &str, why: String) {
        let Operation { method, path, place, .. } = operation;
        let message = format!("{method} {path}: {message}");
        self.notes.push(Note { place: place.clone(), message, why });
    }

    /// Adds an operation. Paths that differ in parameter names only are one route: their operations must agree.
    fn add(&mut self, number: usize, operation: &Operation) {
        let rule = rule(operation);
        let (Some(route), Some(method)) = (self.routes.get_mut(number), method_number(&operation.method))
        else {
            return;
        };
        add_parameters(&mut route.query, &operation.parameters);
        let earlier = match &mut route.rules[method] {
            empty @ None => {
                *empty = Some(rule);
                return;
            }
            Some(earlier) => earlier,
        };
        if earlier.requirement == rule.requirement {
            return;
        }
        let both = format!("{} and {}", earlier.requirement, rule.requirement);
        *earlier = Rule {
            requirement: Requirement::deny(),
            comment: Some(format!("two operations match the same paths and require {both}")),
        };
        let template = route.template.clone();
        self.note(
            operation,
            "denied",
            format!("`{template}` matches the same paths and has another requirement"),
        );
    }
}

/// Adds the listed values of parameters with the abilities of the naming convention. A parameter without any is left out.
fn add_parameters(query: &mut Vec<RawParameter>, parameters: &[QueryParameter]) {
    for QueryParameter { name, split, values } in parameters {
        let is_known = query.iter().any(|known| *known.name == **name);
        if !is_known && values.iter().all(|value| ability_of_value(value).is_none()) {
            continue;
        }
        let value = |value: &String| RawValue {
            value: value.as_str().into(),
            requirement: ability_of_value(value).unwrap_or_else(Requirement::public),
            place: None,
        };
        let listed: Vec<RawValue> = values.iter().filter(|value| !value.is_empty()).map(value).collect();
        let known = query.iter_mut().find(|known| *known.name == **name);
        if let Some(RawParameter { check: RawCheck::Values { values, .. }, .. }) = known {
            let is_new = |value: &RawValue| !values.iter().any(|known| known.value == value.value);
            let listed: Vec<RawValue> = listed.into_iter().filter(is_new).collect();
            values.extend(listed);
            continue;
        }
        let check = RawCheck::Values { split: split.map(Into::into), values: listed, deny_others: true };
        let parameter = RawParameter { name: name.as_str().into(), check, place: None };
        if parameter.check().is_ok() {
            query.push(parameter);
        }
    }
}

/// The abilities by convention of a value such as `renters` or `rentals.renters`, as far as the guide has them.
fn ability_of_value(value: &str) -> Option<Requirement> {
    let abilities: BTreeSet<String> = value
        .split('.')
        .filter_map(|part| ability(&Method::GET, &format!("/{part}")))
        .filter(|ability| guide::abilities().any(|known| known == ability))
        .collect();
    Requirement::all(abilities.iter().map(String::as_str)).ok()
}

fn rule(operation: &Operation) -> Rule {
    const OPTIONAL: &str = "the document makes credentials optional";
    let requirement_of_scopes = |alternatives: &_| {
        let ScopeRequirement { requirement, less } = requirement_of_scopes(alternatives);
        Rule { requirement, comment: less }
    };
    match &operation.security {
        Security::Public => Rule { requirement: Requirement::public(), comment: None },
        Security::Scopes(alternatives) => requirement_of_scopes(alternatives),
        Security::Optional(alternatives) if alternatives.is_empty() => {
            by_convention(operation).because(OPTIONAL)
        }
        Security::Optional(alternatives) => requirement_of_scopes(alternatives).because(OPTIONAL),
        Security::Malformed => {
            by_convention(operation).because("the document's `security` is malformed or contradictory")
        }
        Security::Credentials | Security::Unspecified => by_convention(operation),
    }
}

impl Rule {
    /// Adds a reason to the comment.
    fn because(self, why: &str) -> Self {
        let comment = self.comment.map_or_else(|| why.to_owned(), |comment| format!("{comment}; {why}"));
        Self { comment: Some(comment), ..self }
    }
}

fn by_convention(operation: &Operation) -> Rule {
    let ability = ability(&operation.method, &operation.path);
    let (requirement, comment) = match ability.as_deref().map(|ability| Requirement::all([ability])) {
        Some(Ok(requirement)) => (requirement, "convention".to_owned()),
        Some(Err(error)) => (Requirement::deny(), format!("the convention gives no ability: {error}")),
        None => {
            (Requirement::deny(), "the convention gives no ability: the path names no resource".to_owned())
        }
    };
    Rule { requirement, comment: Some(comment) }
}

/// The draft as a map file; `source` names the document. `sends_requests`: the document has webhooks or callbacks.
pub fn written(draft: &Draft, source: &str, sends_requests: bool) -> String {
    let mut text = format!(
        "# Drafted from {}. Review it: `convention` marks abilities that the document does not name.\n\
         # Operations that are not listed are denied.\n",
        on_one_line(source)
    );
    if sends_requests {
        text += "# Webhooks and callbacks are not in the map: they are requests that the API sends.\n";
    }
    let has =
        |route: &Route, method| method_number(&method).is_some_and(|number| route.rules[number].is_some());
    if draft.routes.iter().any(|route| has(route, Method::PUT) != has(route, Method::PATCH)) {
        text += "# A route with only one of PUT and PATCH denies the other. Laravel's apiResource accepts both: if clients use \
                 both,\n# add the other to the document or here.\n";
    }
    if draft.routes.is_empty() {
        return text + "routes: {}\n";
    }
    text += "routes:\n";
    for route in &draft.routes {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  {}:", scalar(&route.template));
        for (method, rule) in route.rules() {
            // Escapes a scope that looks like a variable.
            let requirement = rule.requirement.to_string().replace("${", "$${");
            let comment =
                rule.comment.as_ref().map(|it| format!("   # {}", on_one_line(it))).unwrap_or_default();
            let _ = writeln!(text, "    {method}: {requirement}{comment}");
        }
        if !route.query.is_empty() {
            text += "    query:   # convention\n";
        }
        for RawParameter { name, check, .. } in &route.query {
            let RawCheck::Values { split, values, .. } = check else { continue };
            let split = split.as_ref().map(|split| format!("split: '{split}', ")).unwrap_or_default();
            let values = values.iter().map(|it| format!("{}: {}", scalar(&it.value), it.requirement));
            let values = values.collect::<Vec<_>>().join(", ");
            let _ = writeln!(text, "      {}: {{{split}values: {{{values}}}}}", scalar(name));
        }
    }
    text
}

fn on_one_line(text: &str) -> String {
    text.replace(|it: char| it.is_control() || matches!(it, '\u{2028}' | '\u{2029}' | '\u{feff}'), " ")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::sample;
    use super::super::tests::{operation, scopes};
    use super::*;
    use crate::config::load_abilities;
    use crate::policy::decision::read_request;
    use crate::policy::map::RouteMatch;

    fn described(operations: Vec<Operation>) -> Description {
        Description { title: String::new(), operations, sends_requests: false }
    }

    #[test]
    fn draft_has_scopes_or_convention_and_never_more_than_the_document() {
        let draft = draft(&described(vec![
            operation("GET", "/api/v2/items", Security::Credentials),
            operation("HEAD", "/api/v2/items", Security::Unspecified),
            operation("POST", "/api/v2/items", scopes(&["items:create"])),
            operation("GET", "/api/v2/items/{id}", scopes(&["items:read", "rents:read"])),
            operation("DELETE", "/api/v2/items/{itemId}", scopes(&["items:delete items:read"])),
            operation("PUT", "/api/v2/items/{id}", scopes(&["a b", "c"])),
            operation("GET", "/up", Security::Public),
            operation("HEAD", "/up", scopes(&["${HOME}"])),
            operation("GET", "/", Security::Unspecified),
            operation("PATCH", "/a:b/{x y}", scopes(&["public"])),
            operation("GET", "/files/{name}.json", Security::Unspecified),
            operation("PUT", "/x/{a}", scopes(&["a"])),
            operation("PUT", "/x/{b}", scopes(&["b"])),
            operation("GET", "/x/{b}/c", scopes(&["a"])),
            operation("GET", "/x/{c}/c", scopes(&["a"])),
            operation("GET", "/api/v2/tags", Security::Optional(Vec::new())),
            operation("PUT", "/api/v2/tags", Security::Optional(vec![BTreeSet::from(["t".to_owned()])])),
            operation("POST", "/api/v2/tags", Security::Malformed),
            operation("POST", "/", Security::Optional(Vec::new())),
        ]));
        assert_eq!(
            written(&draft, "api.yaml\n(An API)", false),
            "\
# Drafted from api.yaml (An API). Review it: `convention` marks abilities that the document does not name.
# Operations that are not listed are denied.
# A route with only one of PUT and PATCH denies the other. Laravel's apiResource accepts both: if clients use both,
# add the other to the document or here.
routes:
  /api/v2/items:
    GET: items:read   # convention
    POST: items:create
  /api/v2/items/{id}:
    GET: {any: [items:read, rents:read]}
    PUT: c   # narrower than a and b, or c
    DELETE: {all: [items:delete, items:read]}
  /up:
    GET: public
    HEAD: '$${HOME}'
  /:
    GET: deny   # the convention gives no ability: the path names no resource
    POST: deny   # the convention gives no ability: the path names no resource; the document makes credentials optional
  /a:b/{x_y}:
    PATCH: deny   # a scope is not an ability: `public` is a keyword: it stands alone, not in a list of abilities
  /x/{a}:
    PUT: deny   # two operations match the same paths and require a and b
  /x/{b}/c:
    GET: a
  /api/v2/tags:
    GET: items:read   # convention; the document makes credentials optional
    POST: items:create   # convention; the document's `security` is malformed or contradictory
    PUT: t   # the document makes credentials optional
"
        );
        let notes: Vec<(&str, &str)> = draft.notes.iter().map(|it| (&*it.message, &*it.why)).collect();
        assert_eq!(notes.len(), 2, "{notes:?}");
        assert_eq!(notes[0].0, "GET /files/{name}.json: not in the draft, so the gateway denies it");
        assert_eq!(notes[1].0, "PUT /x/{b}: denied");
        let both = [Method::PUT, Method::PATCH]
            .map(|method| operation(method.as_str(), "/items/{id}", Security::Unspecified));
        let both = written(&super::draft(&described(both.into())), "a", false);
        assert!(!both.contains("apiResource"), "{both}");
        let empty = written(&super::draft(&described(Vec::new())), "a", true);
        assert!(empty.contains("\n# Webhooks and callbacks are not in the map"), "{empty}");
        assert_eq!(empty.lines().last(), Some("routes: {}"));
    }

    #[test]
    fn listed_values_of_parameters_get_the_abilities_of_the_convention() {
        let parameter = |name: &str, split, values: &[&str]| QueryParameter {
            name: name.to_owned(),
            split,
            values: values.iter().map(|value| (*value).to_owned()).collect(),
        };
        let mut get = operation("GET", "/items", scopes(&["items:read"]));
        get.parameters = vec![
            parameter("include", Some(","), &["variants", "renters", "rentals.renters", "a: b", "stock"]),
            parameter("sort", None, &["name", "-name"]),
            parameter("fields.x", None, &["renters"]),
        ];
        let mut post = operation("POST", "/items", scopes(&["items:create"]));
        post.parameters = vec![parameter("include", Some(","), &["renters", "tags"])];
        let draft = draft(&described(vec![get, post]));
        let text = written(&draft, "a", false);
        let expected = "\
routes:
  /items:
    GET: items:read
    POST: items:create
    query:   # convention
      include: {split: ',', values: {variants: items:read, renters: renters:read, rentals.renters: {all: [renters:read, rents:read]}, \"a: b\": public, stock: public, tags: items:read}}
";
        assert!(text.ends_with(expected), "{text}");
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("draft.yaml");
        std::fs::write(&file, text).unwrap();
        assert!(load_abilities(&file).is_ok());
    }

    fn path() -> impl Strategy<Value = String> {
        let segment = prop_oneof![
            3 => "[abv'#:$ ]{1,2}",
            3 => prop_oneof![Just("items"), Just("api"), Just("v2"), Just("restore")].prop_map(str::to_owned),
            3 => "[{][a-z-]{1,2}[}]",
            1 => "[{]x[}].[a-z]",
        ];
        proptest::collection::vec(segment, 0..5).prop_map(|segments| format!("/{}", segments.join("/")))
    }

    fn security() -> impl Strategy<Value = Security> {
        let scope = prop_oneof![8 => "[a-c$#'{},:*]{1,3}", 1 => Just("deny".to_owned()), 1 => Just("true".to_owned())];
        let alternative = proptest::collection::btree_set(scope, 1..4);
        prop_oneof![
            Just(Security::Unspecified),
            Just(Security::Credentials),
            Just(Security::Public),
            Just(Security::Malformed),
            Just(Security::Optional(Vec::new())),
            proptest::collection::vec(alternative, 1..4).prop_map(Security::Scopes),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]

        /// The file is valid, and its map has the drafted rule for every operation.
        #[test]
        fn drafted_map_matches_every_drafted_operation(
            operations in proptest::collection::vec((0..METHODS.len(), path(), security()), 0..12),
        ) {
            let operations = operations.into_iter().map(|(method, path, security)| {
                Operation { method: METHODS[method].clone(), path, security, parameters: Vec::new(), place: None }
            });
            let description = described(operations.collect());
            let draft = draft(&description);
            let directory = tempfile::tempdir().unwrap();
            let file = directory.path().join("draft.yaml");
            std::fs::write(&file, written(&draft, "a document", false)).unwrap();
            let map = match load_abilities(&file) {
                Ok(loaded) => loaded.map,
                Err(report) => return Err(TestCaseError::fail(report.render(false))),
            };
            let left_out: Vec<&str> = draft.notes.iter().filter_map(|it| it.message.strip_suffix(": not in the draft, so the gateway denies it")).collect();
            for Operation { method, path, .. } in &description.operations {
                let sample = sample(path);
                let request = read_request(&map, method.as_str(), &sample);
                if left_out.contains(&&*format!("{method} {path}")) {
                    continue;
                }
                let (method, read) = request.unwrap();
                let found = map.find(&method, &read);
                let RouteMatch::Rule { route, rule } = found else {
                    return Err(TestCaseError::fail(format!("{method} {path}: {found:?}")));
                };
                let route = map.route(route).unwrap();
                let drafted = draft.routes.iter().find(|it| it.template == route.template()).unwrap();
                prop_assert_eq!(route.pattern(), &Pattern::parse(&template(path)).unwrap());
                let number = method_number(&method).unwrap();
                prop_assert_eq!(&rule.requirement, &drafted.rules[number].as_ref().unwrap().requirement);
            }
        }
    }
}
