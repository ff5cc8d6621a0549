//! `routes --for`: the requests that a token's abilities allow.

use std::io::{self, Write};

use http::Method;
use serde_json::{Value, json};

use super::{HEADING, lines, options, requirement_json};
use crate::config::nearest;
use crate::policy::ability::{Abilities, Requirement, RequirementKind};
use crate::policy::map::{AbilityMap, RouteOptions, Unmapped};

/// The methods and routes that a token with the abilities `held` can call.
pub(super) struct Callable<'map> {
    map: &'map AbilityMap,
    pub(super) held: Abilities,
    /// In matching order, without implied HEAD.
    pub(super) calls: Vec<Call<'map>>,
}

/// A method of a route.
pub(super) struct Call<'map> {
    pub(super) method: &'static Method,
    pub(super) path: &'map str,
    /// The options of the route.
    pub(super) options: &'map RouteOptions,
    requirement: &'map Requirement,
    /// The abilities of the token that satisfy the requirement; empty if the requirement names no ability.
    by: Vec<String>,
}

impl<'map> Callable<'map> {
    pub(super) fn new(map: &'map AbilityMap, held: Abilities) -> Self {
        let rules = map.routes().flat_map(|route| route.rules().map(move |rule| (route, rule)));
        let calls = rules
            .filter(|(_, (_, rule))| rule.requirement.check(&held).is_ok())
            .map(|(route, (method, rule))| Call {
                method,
                path: route.template(),
                options: route.options(),
                requirement: &rule.requirement,
                by: satisfying(&rule.requirement, &held),
            })
            .collect();
        Self { map, held, calls }
    }

    /// Whether the token can call unmapped paths.
    pub(super) fn unmapped(&self) -> bool {
        self.map.unmapped() == Unmapped::Authenticated
    }

    /// Notes about abilities that no rule requires, and about shadow mode, which forwards more than is listed.
    pub(super) fn notes(&self) -> Vec<String> {
        let required = || self.map.requirements().flat_map(Requirement::abilities);
        let unused = self.held.names().filter(|held| *held != "*" && !required().any(|name| name == *held));
        let unused = unused.map(|name| {
            let hint = nearest(name, required()).map(|nearest| format!("; did you mean `{nearest}`?"));
            format!("no rule requires `{name}`{}", hint.unwrap_or_default())
        });
        let shadow =
            self.map.is_shadowed().then(|| "shadow mode forwards more requests than these".to_owned());
        unused.chain(shadow).collect()
    }

    pub(super) fn table(&self, output: &mut dyn Write) -> io::Result<()> {
        let unmapped = self.unmapped().then_some(("*", "(unmapped)", ANY_TOKEN.to_owned()));
        let calls = self.calls.iter().map(|call| {
            let texts = options::texts(call.options).into_iter().map(|text| format!("  {text}"));
            (call.method.as_str(), call.path, call.by() + &texts.collect::<String>())
        });
        let rows: Vec<(&str, &str, String)> = calls.chain(unmapped).collect();
        let width = rows.iter().map(|(_, path, _)| path.chars().count()).max().unwrap_or_default().max(4);
        writeln!(output, "{HEADING}{:7}  {:width$}  BY{HEADING:#}", "METHOD", "PATH")?;
        for (method, path, by) in rows {
            writeln!(output, "{method:7}  {path:width$}  {by}")?;
        }
        Ok(())
    }

    /// Writes the same list as without `--for`, with `by` added.
    pub(super) fn json(&self, output: &mut dyn Write) -> io::Result<()> {
        let calls = self.calls.iter().map(|Call { method, path, options, requirement, by }| {
            format!(
                r#"  {{"path": {}, "method": {}, "requirement": {}{}, "by": {}}}"#,
                Value::from(*path),
                Value::from(method.as_str()),
                requirement_json(requirement),
                options::members(options),
                json!(by),
            )
        });
        lines(calls, output)
    }
}

const ANY_TOKEN: &str = "any token";

impl Call<'_> {
    /// The abilities that allow the call, or `public` or `any token`.
    pub(super) fn by(&self) -> String {
        match self.requirement.kind() {
            RequirementKind::Public => "public".to_owned(),
            RequirementKind::Authenticated => ANY_TOKEN.to_owned(),
            RequirementKind::All(_) | RequirementKind::Any(_) | RequirementKind::Deny => self.by.join(", "),
        }
    }
}

/// The abilities in `held` that satisfy a satisfied requirement; `*` if it is satisfied only by that.
fn satisfying(requirement: &Requirement, held: &Abilities) -> Vec<String> {
    let has = |name: &&str| held.names().any(|held| held == *name);
    let named: Vec<String> = requirement.abilities().filter(has).map(str::to_owned).collect();
    let enough = match requirement.kind() {
        RequirementKind::All(names) => named.len() == names.len(),
        RequirementKind::Any(_) => !named.is_empty(),
        RequirementKind::Public | RequirementKind::Authenticated | RequirementKind::Deny => true,
    };
    if enough { named } else { vec!["*".to_owned()] }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::map::MapBuilder;

    fn map(unmapped: Unmapped) -> AbilityMap {
        let word = |word| Requirement::from_word(word).unwrap();
        let mut builder = MapBuilder::new(unmapped);
        let all = Requirement::all(["a:read", "b:read"]).unwrap();
        let any = Requirement::any(["a:read", "b:read", "c"]).unwrap();
        builder
            .route("/a", [(Method::GET, word("a:read"), None), (Method::PUT, word("deny"), None)])
            .unwrap();
        builder.route("/b", [(Method::GET, any, None), (Method::POST, all, None)]).unwrap();
        builder.route("/c", [(Method::GET, word("authenticated"), None)]).unwrap();
        builder.route("/up", [(Method::GET, word("public"), None)]).unwrap();
        builder.build()
    }

    fn printed(unmapped: Unmapped, names: &[&str]) -> String {
        let map = map(unmapped);
        let mut output = anstream::StripStream::new(Vec::new());
        Callable::new(&map, Abilities::new(names.iter().copied())).table(&mut output).unwrap();
        String::from_utf8(output.into_inner()).unwrap()
    }

    #[test]
    fn table_lists_calls_and_the_abilities_that_allow_them() {
        for (unmapped, names, expected) in [
            (Unmapped::Deny, &[][..], "GET      /c    any token\nGET      /up   public\n"),
            (
                Unmapped::Deny,
                &["a:read", "b:read"],
                "GET      /a    a:read\nGET      /b    a:read, b:read\nPOST     /b    a:read, b:read\n\
                 GET      /c    any token\nGET      /up   public\n",
            ),
            (
                Unmapped::Deny,
                &["*", "a:read"],
                "GET      /a    a:read\nGET      /b    a:read\nPOST     /b    *\n\
                 GET      /c    any token\nGET      /up   public\n",
            ),
        ] {
            let text = printed(unmapped, names);
            assert_eq!(text.split_once('\n').unwrap(), ("METHOD   PATH  BY", expected), "{names:?}");
        }
        assert!(printed(Unmapped::Authenticated, &[]).ends_with("\n*        (unmapped)  any token\n"));
    }

    #[test]
    fn json_has_the_abilities_that_allow_each_call() {
        let map = map(Unmapped::Deny);
        let mut output = Vec::new();
        Callable::new(&map, Abilities::new(["c"])).json(&mut output).unwrap();
        assert_eq!(
            String::from_utf8(output).unwrap(),
            r#"[
  {"path": "/b", "method": "GET", "requirement": {"any":["a:read","b:read","c"]}, "by": ["c"]},
  {"path": "/c", "method": "GET", "requirement": "authenticated", "by": []},
  {"path": "/up", "method": "GET", "requirement": "public", "by": []}
]
"#
        );
    }

    #[test]
    fn ability_that_no_rule_requires_has_a_note() {
        let map = map(Unmapped::Deny);
        let notes = |names: &[&str]| Callable::new(&map, Abilities::new(names.iter().copied())).notes();
        assert_eq!(notes(&["a:read", "*"]), [""; 0]);
        assert_eq!(
            notes(&["a:raed", "other:thing"]),
            ["no rule requires `a:raed`; did you mean `a:read`?", "no rule requires `other:thing`",]
        );
    }
}
