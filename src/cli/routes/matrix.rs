//! The ability map as a web page.

use std::collections::BTreeSet;
use std::path::Path;

use http::Method;
use maud::{Markup, html};

use super::callable::Callable;
use super::options;
use crate::page;
use crate::policy::ability::{Requirement, RequirementKind};
use crate::policy::guide::{self, GROUPS};
use crate::policy::map::{AbilityMap, Route, RouteOptions, Unmapped};
use crate::policy::query::NumberedRequirement;

/// Styles in addition to those of all pages.
const STYLE: &str = include_str!("matrix.css");

struct Group<'map> {
    title: &'static str,
    /// Abilities, and their purposes according to the guide; empty if it does not mention them.
    abilities: Vec<(&'map str, &'static str)>,
}

/// The whole map, for choosing the abilities of a token.
pub(super) fn page(map: &AbilityMap, source: &Path) -> String {
    let required: BTreeSet<&str> = map.requirements().flat_map(Requirement::abilities).collect();
    let groups = groups(&required);
    let body = html! {
        p.quiet { "The ability map " code { (source.display()) } }
        p {
            "Grant a token only the abilities that its integration needs. "
            "The column of an ability below has the requests that it allows. For a token with several abilities, run "
            code { "stockaj-gateway routes --for items:read,items:update" } "."
        }
        (abilities(map, &groups))
        (matrix(map, &groups))
    };
    page::page("Abilities and the requests that they allow", STYLE, &body).into_string()
}

/// The requests that a token can send.
pub(super) fn callable_page(callable: &Callable<'_>, source: &Path) -> String {
    let names: Vec<&str> = callable.held.names().collect();
    let body = html! {
        p.quiet { "The ability map " code { (source.display()) } }
        @if names.is_empty() {
            p { "The token has no abilities." }
        } @else {
            p { "The token has " @for (index, name) in names.iter().enumerate() { @if index > 0 { ", " } code { (name) } } "." }
        }
        @for note in callable.notes() {
            p { span.tag.warn { "Note" } " " (note) }
        }
        table {
            caption { "Allowed requests; HEAD follows GET" }
            thead { tr { th scope="col" { "Route" } th scope="col" { "Method" } th scope="col" { "Allowed by" } } }
            tbody {
                @for call in &callable.calls {
                    tr { th scope="row" { code { (call.path) } (options(call.options)) } td { (tag(call.method)) } td { (call.by()) } }
                }
                @if callable.unmapped() {
                    tr { th scope="row" { "Any other path" } td { "all" } td { "any token" } }
                }
            }
        }
        p { "All other requests of this token are denied." }
    };
    page::page("Requests that a token can send", STYLE, &body).into_string()
}

/// The requirements of the parameters of a route's query.
fn parameters(route: &Route) -> impl Iterator<Item = &NumberedRequirement> {
    route.options().query.iter().flat_map(|rules| rules.requirements())
}

/// The guide's groups, and one with the abilities that only the map has.
fn groups<'map>(required: &BTreeSet<&'map str>) -> Vec<Group<'map>> {
    let documented = |name: &str| guide::abilities().any(|known| known == name);
    let mut groups: Vec<Group<'map>> = GROUPS
        .iter()
        .map(|group| Group { title: group.title, abilities: group.abilities.to_vec() })
        .collect();
    let others: Vec<(&str, &str)> =
        required.iter().filter(|name| !documented(name)).map(|name| (*name, "")).collect();
    if !others.is_empty() {
        groups.push(Group { title: "Other abilities of this map", abilities: others });
    }
    groups
}

/// The abilities with their purposes and the number of rules that require them.
fn abilities(map: &AbilityMap, groups: &[Group<'_>]) -> Markup {
    let rule_count =
        |ability: &str| map.requirements().filter(|it| it.abilities().any(|name| name == ability)).count();
    html! {
        h2 { "Abilities" }
        table {
            caption { "Their purposes, quoted from Stockaj's authentication guide" }
            thead { tr { th scope="col" { "Ability" } th scope="col" { "Purpose" } th.number scope="col" { "Rules" } } }
            @for Group { title, abilities } in groups {
                tbody {
                    tr.group { th colspan="3" scope="rowgroup" { (title) } }
                    @for (ability, purpose) in abilities {
                        tr {
                            th scope="row" { code { (ability) } }
                            td { (purpose) }
                            td.number { @match rule_count(ability) { 0 => { "none in this map" } count => { (count) } } }
                        }
                    }
                }
            }
        }
    }
}

fn matrix(map: &AbilityMap, groups: &[Group<'_>]) -> Markup {
    let is_required = |ability: &str| map.requirements().any(|it| it.abilities().any(|name| name == ability));
    let columns: Vec<(&str, Vec<&str>)> = groups
        .iter()
        .map(|group| {
            let abilities = group.abilities.iter().map(|(ability, _)| *ability);
            (group.title, abilities.filter(|ability| is_required(ability)).collect::<Vec<_>>())
        })
        .filter(|(_, abilities)| !abilities.is_empty())
        .collect();
    let width = 1 + columns.iter().map(|(_, abilities)| abilities.len()).sum::<usize>();
    html! {
        h2 { "Allowed requests" }
        ul {
            li { "A cell has the methods that a token with the ability can use on the route; HEAD follows GET." }
            li { "“with …”: the token needs that ability as well. If a method is in several columns without “with”, each of these abilities is enough." }
            li { "“query”: in addition to its method, a request with this parameter needs the ability." }
            li { "Without an ability: “anyone” needs no token, “any token” is any active token, “nobody” denies every token." }
            li { "A token with " code { "*" } " can send every request in the table except those for “nobody”. Requests in no cell are denied." }
        }
        table.matrix {
            caption { "Routes and the abilities that allow them" }
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
                            th.route scope="row" { code { (route.template()) } (options(route.options())) }
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

/// The methods of a route that require no ability.
fn without(route: &Route) -> Markup {
    let callers = |kind: &RequirementKind| match kind {
        RequirementKind::Public => Some("anyone"),
        RequirementKind::Authenticated => Some("any token"),
        RequirementKind::Deny => Some("nobody"),
        RequirementKind::All(_) | RequirementKind::Any(_) => None,
    };
    html! {
        @for (method, rule) in route.rules() {
            @if let Some(callers) = callers(rule.requirement.kind()) { div { (tag(method)) " " (callers) } }
        }
    }
}

/// The methods of a route that require an ability, and the other abilities that they require. Then the parameters of its
/// query that require it.
fn cell(route: &Route, ability: &str) -> Markup {
    html! {
        @for NumberedRequirement { subject, requirement, .. } in parameters(route) {
            @if requirement.abilities().any(|name| name == ability) {
                div { span.tag { "query" } " " (subject) }
            }
        }
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

/// The options of a route.
fn options(options: &RouteOptions) -> Markup {
    html! { @for text in options::texts(options) { " " span.quiet { (text) } } }
}

/// A method, coloured by its risk.
fn tag(method: &Method) -> Markup {
    let class = match *method {
        Method::GET | Method::HEAD | Method::OPTIONS => "tag good",
        Method::DELETE => "tag bad",
        _ => "tag warn",
    };
    html! { span class=(class) { (method.as_str()) } }
}

/// The routes in matching order, grouped by resource.
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

/// The part of a template that names the resource: `/api/v2/items` of `/api/v2/items/{id}/restore`.
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
