//! The map as a web page: abilities against routes.

use std::collections::BTreeSet;
use std::path::Path;

use http::Method;
use maud::{Markup, html};

use super::callable::Callable;
use crate::page;
use crate::policy::ability::{Requirement, RequirementKind};
use crate::policy::guide::{self, GROUPS};
use crate::policy::map::{AbilityMap, Route, Unmapped};

/// What only these pages need.
const STYLE: &str = include_str!("matrix.css");

/// Abilities under a title, and what each is for as far as the guide says.
struct Group<'map> {
    title: &'static str,
    abilities: Vec<(&'map str, &'static str)>,
}

/// The whole map, for who chooses the abilities of a token.
pub(super) fn page(map: &AbilityMap, source: &Path) -> String {
    let asked: BTreeSet<&str> = rules(map).flat_map(|(_, requirement)| requirement.abilities()).collect();
    let groups = groups(&asked);
    let body = html! {
        p.quiet { "The ability map " code { (source.display()) } }
        p {
            "Grant a token the abilities that its integration needs, and no other. "
            "What an ability opens is in its column below; what a token with several can call, "
            code { "stockaj-gateway routes --for items:read,items:update" } " lists."
        }
        (abilities(map, &groups))
        (matrix(map, &groups))
    };
    page::page("Abilities and what they open", STYLE, &body).into_string()
}

/// What a token with some abilities can call.
pub(super) fn callable_page(callable: &Callable<'_>, source: &Path) -> String {
    let names: Vec<&str> = callable.held.names().collect();
    let body = html! {
        p.quiet { "By the ability map " code { (source.display()) } }
        @if names.is_empty() {
            p { "The token has no abilities." }
        } @else {
            p { "The token has " @for (index, name) in names.iter().enumerate() { @if index > 0 { ", " } code { (name) } } "." }
        }
        @for note in callable.notes() {
            p { span.tag.warn { "Note" } " " (note) }
        }
        table {
            caption { "What it can call: HEAD follows GET" }
            thead { tr { th scope="col" { "Route" } th scope="col" { "Method" } th scope="col" { "By" } } }
            tbody {
                @for call in &callable.calls {
                    tr { th scope="row" { code { (call.path) } } td { (tag(call.method)) } td { (call.by()) } }
                }
                @if callable.unmapped() {
                    tr { th scope="row" { "Any other path" } td { "all" } td { "any token" } }
                }
            }
        }
        p { "Everything else is denied to it." }
    };
    page::page("What a token can call", STYLE, &body).into_string()
}

fn rules(map: &AbilityMap) -> impl Iterator<Item = (&'static Method, &Requirement)> {
    map.routes().flat_map(|route| route.rules().map(|(method, rule)| (method, &rule.requirement)))
}

/// The guide's groups, and those of the map's abilities that the guide does not know.
fn groups<'map>(asked: &BTreeSet<&'map str>) -> Vec<Group<'map>> {
    let documented = |name: &str| guide::abilities().any(|known| known == name);
    let mut groups: Vec<Group<'map>> = GROUPS
        .iter()
        .map(|group| Group { title: group.title, abilities: group.abilities.to_vec() })
        .collect();
    let others: Vec<(&str, &str)> =
        asked.iter().filter(|name| !documented(name)).map(|name| (*name, "")).collect();
    if !others.is_empty() {
        groups.push(Group { title: "Other abilities of this map", abilities: others });
    }
    groups
}

/// What each is for, and how much it opens.
fn abilities(map: &AbilityMap, groups: &[Group<'_>]) -> Markup {
    let opens =
        |ability: &str| rules(map).filter(|(_, it)| it.abilities().any(|name| name == ability)).count();
    html! {
        h2 { "Abilities" }
        table {
            caption { "What they are for, in the words of Stockaj's authentication guide" }
            thead { tr { th scope="col" { "Ability" } th scope="col" { "For" } th.number scope="col" { "Calls it opens" } } }
            @for Group { title, abilities } in groups {
                tbody {
                    tr.group { th colspan="3" scope="rowgroup" { (title) } }
                    @for (ability, purpose) in abilities {
                        tr {
                            th scope="row" { code { (ability) } }
                            td { (purpose) }
                            td.number { @match opens(ability) { 0 => { "none in this map" } calls => { (calls) } } }
                        }
                    }
                }
            }
        }
    }
}

fn matrix(map: &AbilityMap, groups: &[Group<'_>]) -> Markup {
    let asked = |ability: &str| rules(map).any(|(_, it)| it.abilities().any(|name| name == ability));
    let columns: Vec<(&str, Vec<&str>)> = groups
        .iter()
        .map(|group| {
            let abilities = group.abilities.iter().map(|(ability, _)| *ability);
            (group.title, abilities.filter(|ability| asked(ability)).collect::<Vec<_>>())
        })
        .filter(|(_, abilities)| !abilities.is_empty())
        .collect();
    let width = 1 + columns.iter().map(|(_, abilities)| abilities.len()).sum::<usize>();
    html! {
        h2 { "What they open" }
        ul {
            li { "A cell has the methods that a token with the ability can use on the route; HEAD follows GET." }
            li { "“with …”: the token needs that ability, too. A method in several columns without it: any of them is enough." }
            li { "Without an ability: “anyone” needs no token, “any token” is one that is active, “nobody” is nobody, whatever the token." }
            li { "A token with " code { "*" } " can do all that is not for nobody. What is in no cell is denied." }
        }
        table.matrix {
            caption { "Routes and the abilities that open them" }
            colgroup { col; }
            colgroup { col; }
            @for (_, abilities) in &columns { colgroup span=(abilities.len()) {} }
            thead {
                tr {
                    th.route scope="col" rowspan="2" { "Route" }
                    th.ability scope="col" rowspan="2" { span { "Without an ability" } }
                    @for (title, abilities) in &columns { th scope="colgroup" colspan=(abilities.len()) { (title) } }
                }
                tr { @for ability in columns.iter().flat_map(|(_, it)| it) { th.ability scope="col" { span { (ability) } } } }
            }
            @for resource in resources(map) {
                tbody {
                    @for route in resource {
                        tr {
                            th.route scope="row" { code { (route.template()) } }
                            td { (without(route)) }
                            @for ability in columns.iter().flat_map(|(_, it)| it) { td { (cell(route, ability)) } }
                        }
                    }
                }
            }
            tbody {
                tr {
                    th.route scope="row" { "Any other path" }
                    td.all colspan=(width) {
                        @match map.unmapped() { Unmapped::Deny => { "nobody" } Unmapped::Authenticated => { "any token" } }
                    }
                }
            }
        }
    }
}

/// The methods of a route that ask for no ability.
fn without(route: &Route) -> Markup {
    let who = |kind: &RequirementKind| match kind {
        RequirementKind::Public => Some("anyone"),
        RequirementKind::Authenticated => Some("any token"),
        RequirementKind::Deny => Some("nobody"),
        RequirementKind::All(_) | RequirementKind::Any(_) => None,
    };
    html! {
        @for (method, rule) in route.rules() {
            @if let Some(who) = who(rule.requirement.kind()) { div { (tag(method)) " " (who) } }
        }
    }
}

/// The methods of a route that an ability opens, and what else they ask for.
fn cell(route: &Route, ability: &str) -> Markup {
    html! {
        @for (method, rule) in route.rules() {
            @if rule.requirement.abilities().any(|name| name == ability) {
                div {
                    (tag(method))
                    @if let RequirementKind::All(names) = rule.requirement.kind() {
                        @for other in names.iter().filter(|name| &***name != ability) { " with " (other) }
                    }
                }
            }
        }
    }
}

/// Its colour tells at a glance what the word says.
fn tag(method: &Method) -> Markup {
    let class = match *method {
        Method::GET | Method::HEAD | Method::OPTIONS => "tag good",
        Method::DELETE => "tag bad",
        _ => "tag warn",
    };
    html! { span class=(class) { (method.as_str()) } }
}

/// The routes in matching order, those of a resource together.
fn resources(map: &AbilityMap) -> Vec<Vec<&Route>> {
    let mut resources: Vec<Vec<&Route>> = Vec::new();
    for route in map.routes() {
        match resources.last_mut() {
            Some(others) if others.iter().all(|it| resource(it) == resource(route)) => others.push(route),
            _ => resources.push(vec![route]),
        }
    }
    resources
}

/// What of a template names the resource: `/api/v2/items` of `/api/v2/items/{id}/restore`.
fn resource(route: &Route) -> &str {
    let template = route.template();
    let is_version = |segment: &str| {
        segment
            .strip_prefix('v')
            .is_some_and(|it| !it.is_empty() && it.bytes().all(|byte| byte.is_ascii_digit()))
    };
    let mut end = 0;
    for segment in template.split('/').skip(1) {
        end += 1 + segment.len();
        if segment != "api" && !is_version(segment) {
            break;
        }
    }
    &template[..end]
}

#[cfg(test)]
mod tests;
