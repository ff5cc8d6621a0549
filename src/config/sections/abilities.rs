//! `abilities`, and map files: the ability map.

pub(crate) mod deprecated;
mod from;
mod query;
mod requirement;

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use http::Method;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

pub(crate) use self::requirement::decode_ability;
use self::requirement::{RequirementSchema, decode_requirement};
use crate::config::language::{
    Decode, Decoder, Diagnostic, Entry, FilePath, Key, Node, Size, Span, Spanned, Timeout, find_entry, join,
    leaf_schema, nearest, section, words,
};
use crate::policy::ability::Requirement;
use crate::policy::map::{AbilityMap, MapBuilder, RouteOptions, Unmapped};
use crate::policy::route::RouteError;
use crate::policy::shadow::Mode;
use crate::policy::source_location::SourceLocation;
use crate::policy::target::METHODS;

section! {
    /// The ability map: the abilities that each route requires.
    Abilities {
        /// A map file: `{routes: {…}}`. A route in `routes` replaces the whole route with the same pattern in the file.
        file: Option<IncludedMap>,
        /// Paths that no route matches: `deny` refuses them, `authenticated` forwards them with any valid token.
        unmapped: Unmapped = "deny",
        /// Path patterns, each with the requirement of every method.
        routes: Routes,
    }
}

section! {
    /// A map file.
    MapFile {
        /// Path patterns, each with the requirement of every method.
        routes: Spanned<Routes>,
    }
}

words!(Unmapped { "deny" => Self::Deny, "authenticated" => Self::Authenticated });

/// The routes of one file. No two match the same paths.
#[derive(Debug, Default)]
pub(crate) struct Routes(Vec<Route>);

#[derive(Debug)]
struct Route {
    pattern: Key,
    raw: RawRoute,
}

/// The methods and options of a route.
#[derive(Debug, Default)]
struct RawRoute {
    options: RouteOptions,
    /// The place of `mode`.
    mode: Option<Span>,
    rules: Vec<(Method, Requirement, Option<SourceLocation>)>,
}

/// The options of a route.
const OPTIONS: [&str; 6] = ["body", "mode", "query", "timeout", "from", "deprecated"];

impl Decode for Routes {
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        let entries = decoder.mapping(node, "a mapping of path patterns")?;
        let before = decoder.error_count();
        let mut builder = MapBuilder::new(Unmapped::Deny);
        let mut routes = Self::default();
        for Entry { key, value } in entries {
            decoder.within(key, |decoder| {
                warn_of_foreign_segments(key, decoder);
                let raw = decode_route(value, decoder).unwrap_or_default();
                if let Err(error) = builder.route(&key.text, raw.rules.iter().cloned()) {
                    let label = error.to_string();
                    decoder.record(match routes.span_of(&error) {
                        Some(earlier) => Diagnostic::error("duplicate route")
                            .at(key.span, label)
                            .related(earlier, "first defined here"),
                        None => Diagnostic::error("invalid route").at(key.span, label),
                    });
                }
                routes.0.push(Route { pattern: key.clone(), raw });
            });
        }
        (decoder.error_count() == before).then_some(routes)
    }

    fn absent(_decoder: &mut Decoder<'_>) -> Option<Self> {
        Some(Self::default())
    }
}

impl Routes {
    fn span_of(&self, error: &RouteError) -> Option<Span> {
        let RouteError::Equal { earlier, .. } = error else { return None };
        self.0.iter().find(|route| route.pattern.text == *earlier).map(|route| route.pattern.span)
    }
}

fn decode_route(node: &Node, decoder: &mut Decoder<'_>) -> Option<RawRoute> {
    let entries = decoder.mapping(node, "a mapping such as `{GET: items:read}`")?;
    let RawRoute { mut options, mut mode, mut rules } = RawRoute::default();
    for Entry { key, value } in entries {
        match &*key.text {
            "body" => {
                options.body = decoder.within(key, |decoder| Size::decode(value, decoder)).map(|size| size.0);
                continue;
            }
            "mode" => {
                options.mode = decoder.within(key, |decoder| Mode::decode(value, decoder));
                mode = Some(value.span);
                continue;
            }
            "query" => {
                options.query = decoder.within(key, |decoder| query::decode(value, decoder)).map(Arc::new);
                continue;
            }
            "timeout" => {
                let timeout = decoder.within(key, |decoder| Timeout::decode(value, decoder));
                options.timeout = timeout.map(|timeout| timeout.0);
                continue;
            }
            "from" => {
                options.from = decoder.within(key, |decoder| from::decode(value, key, decoder)).map(Arc::new);
                continue;
            }
            "deprecated" => {
                options.deprecated = decoder.within(key, |decoder| deprecated::decode(value, decoder));
                continue;
            }
            _ => {}
        }
        decoder.within(key, |decoder| match METHODS.iter().find(|method| method.as_str() == &*key.text) {
            Some(method) => {
                if let Some(requirement) = decode_requirement(value, decoder) {
                    rules.push((method.clone(), requirement, decoder.place(key.span)));
                }
            }
            None => {
                let methods = METHODS.each_ref().map(Method::as_str);
                let hint = match nearest(&key.text, methods.into_iter().chain(OPTIONS)) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => {
                        format!(
                            "the methods are {}, the options `body`, `mode`, `query`, `timeout`, `from` and `deprecated`",
                            methods.join(" ")
                        )
                    }
                };
                let error = Diagnostic::error("unknown method")
                    .at(key.span, "the gateway does not serve this method");
                decoder.record(error.hint(hint));
            }
        });
    }
    Some(RawRoute { options, mode, rules })
}

/// Warns of `/files/*` and `/items/:id`, which are patterns in other routers.
fn warn_of_foreign_segments(pattern: &Key, decoder: &mut Decoder<'_>) {
    let parameter = pattern.text.split('/').find_map(|segment| match segment.strip_prefix(':') {
        Some(name) if !name.is_empty() => Some(format!("{{{name}}}")),
        _ => matches!(segment, "*" | "**").then(|| "{*rest}".to_owned()),
    });
    if let Some(parameter) = parameter {
        let warning = Diagnostic::warning("segment matches only literally")
            .at(pattern.span, "`*` and `:name` are not parameters")
            .hint(format!("did you mean `{parameter}`?"));
        decoder.record(warning);
    }
}

/// Builds the map: `routes` replace equal ones of `file`, each with a note. `mode` applies to routes without their own.
pub(crate) fn compile(abilities: &Abilities, mode: Mode, decoder: &mut Decoder<'_>) -> AbilityMap {
    let mut builder = MapBuilder::new(abilities.unmapped).in_mode(mode);
    let mut below: HashMap<&str, Span> = HashMap::new();
    let of_file = || abilities.file.iter().flat_map(|file| &file.0.routes.value.0);
    for route in of_file() {
        below.insert(&route.pattern.text, route.pattern.span);
        let RawRoute { options, rules, .. } = &route.raw;
        recorded(
            builder.route_with(&route.pattern.text, options.clone(), rules.iter().cloned()),
            route,
            decoder,
        );
    }
    let mut replaced_templates: HashSet<Box<str>> = HashSet::new();
    for route in &abilities.routes.0 {
        let RawRoute { options, rules, .. } = &route.raw;
        let replaced = builder.replace(&route.pattern.text, options.clone(), rules.iter().cloned());
        if let Some(replaced) = recorded(replaced, route, decoder).flatten() {
            let mut note = Diagnostic::note("replaces a route of the file")
                .key(format!("abilities.routes.\"{}\"", route.pattern.text))
                .at(route.pattern.span, "the whole of this route applies");
            if let Some(span) = below.get(replaced.template()) {
                note = note.related(*span, "replaced");
            }
            decoder.record(note);
            replaced_templates.insert(replaced.template().into());
        }
    }
    if mode == Mode::Enforce {
        let of_file = of_file().filter(|route| !replaced_templates.contains(&*route.pattern.text));
        warn_of_shadow(of_file.chain(&abilities.routes.0), decoder);
    }
    builder.build()
}

/// Warns once of all routes that have `mode: shadow`.
fn warn_of_shadow<'a>(routes: impl Iterator<Item = &'a Route>, decoder: &mut Decoder<'_>) {
    let is_shadowed = |route: &&Route| route.raw.options.mode == Some(Mode::Shadow);
    let mut shadowed = routes.filter(is_shadowed).filter_map(|route| Some((route, route.raw.mode?)));
    if let Some((route, span)) = shadowed.next() {
        let label = match shadowed.count() {
            0 => "requests that the map denies here are forwarded".to_owned(),
            more => format!("requests that the map denies on this and {} more routes are forwarded", more),
        };
        let key = format!("abilities.routes.\"{}\".mode", route.pattern.text);
        decoder.record(Diagnostic::warning("route not enforced").key(key).at(span, label));
    }
}

/// Builds the candidate map of `shadow`, and ignores the `mode` of its routes.
pub(crate) fn compile_candidate(
    candidate: &IncludedMap,
    unmapped: Unmapped,
    decoder: &mut Decoder<'_>,
) -> AbilityMap {
    let mut builder = MapBuilder::new(unmapped);
    for route in &candidate.0.routes.value.0 {
        let RawRoute { options, rules, .. } = &route.raw;
        let options = RouteOptions { mode: None, ..options.clone() };
        recorded(builder.route_with(&route.pattern.text, options, rules.iter().cloned()), route, decoder);
    }
    builder.build()
}

/// Records the error if a route is rejected. Does not happen: decoding has added every route to a builder before.
fn recorded<T>(added: Result<T, RouteError>, route: &Route, decoder: &mut Decoder<'_>) -> Option<T> {
    let reject = |error: RouteError| {
        decoder.reject(Diagnostic::error("invalid route").at(route.pattern.span, error.to_string()))
    };
    added.map_or_else(reject, Some)
}

/// Decodes the abilities of a gateway.yaml, and nothing else of it, or those of a map file. Also returns the mode of
/// routes without their own.
pub(crate) fn decode_document(tree: &Node, decoder: &mut Decoder<'_>) -> Option<(Abilities, Mode)> {
    let entries = decoder.mapping(tree, "a gateway.yaml or a map file")?;
    if find_entry(entries, "routes").is_some() {
        let MapFile { routes } = MapFile::decode(tree, decoder)?;
        let abilities = Abilities { file: None, unmapped: Unmapped::default(), routes: routes.value };
        return Some((abilities, Mode::default()));
    }
    let Some(Entry { key, value }) = find_entry(entries, "abilities") else {
        decoder.missing(tree, "abilities");
        return None;
    };
    let abilities = decoder.within(key, |decoder| Abilities::decode(value, decoder))?;
    let mode = find_entry(entries, "mode").map(|entry| decode_mode(&entry.value, decoder));
    Some((abilities, mode.unwrap_or_default()))
}

/// Decodes the `mode` of a gateway.yaml without its errors: they are not about the map, and the variables that it reads
/// may be set elsewhere.
fn decode_mode(node: &Node, decoder: &mut Decoder<'_>) -> Mode {
    let before = decoder.diagnostics.len();
    let mode = Mode::decode(node, decoder);
    decoder.diagnostics.truncate(before);
    mode.unwrap_or_default()
}

/// `abilities.file` or `shadow`: decoded with the file that names it, so that their errors are in one report.
#[derive(Debug)]
pub(crate) struct IncludedMap(MapFile);

impl Decode for IncludedMap {
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        let FilePath(path) = Decode::decode(node, decoder)?;
        let tree = decoder.read_included(&path, node)?;
        decoder.at_top(|decoder| MapFile::decode(&tree, decoder)).map(Self)
    }
}

leaf_schema!(IncludedMap, json_schema!({"type": "string", "minLength": 1}));

impl JsonSchema for Routes {
    fn schema_name() -> Cow<'static, str> {
        "Routes".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let requirement = generator.subschema_for::<RequirementSchema>();
        let mut body = generator.subschema_for::<Size>();
        body.insert(
            "description".to_owned(),
            "Largest request body on this route, in bytes; overrides `limits.body`.".into(),
        );
        let mut properties: serde_json::Map<String, serde_json::Value> = METHODS
            .iter()
            .map(|method| (method.as_str().to_owned(), requirement.clone().to_value()))
            .collect();
        let mut mode = generator.subschema_for::<Mode>();
        mode.insert("description".to_owned(), "Mode of this route; overrides the global `mode`.".into());
        properties.insert("body".to_owned(), body.to_value());
        properties.insert("mode".to_owned(), mode.to_value());
        properties.insert("query".to_owned(), query::schema(&requirement).to_value());
        let mut timeout = generator.subschema_for::<Timeout>();
        timeout.insert(
            "description".to_owned(),
            "Longest time from the end of the request body to the first byte of the response on this route; overrides `backend.timeout`.".into(),
        );
        properties.insert("timeout".to_owned(), timeout.to_value());
        properties.insert("from".to_owned(), from::schema(generator).to_value());
        properties.insert("deprecated".to_owned(), deprecated::schema(generator).to_value());
        json_schema!({
            "type": "object",
            "patternProperties": {
                "^/": {"type": "object", "properties": properties, "additionalProperties": false},
            },
            "additionalProperties": false,
        })
    }
}

/// Warns of each of the `abilities` at `section` that no route requires. Its value has no effect, and is probably a
/// typing error.
pub(super) fn warn_of_unrequired<'a>(
    section: &str,
    abilities: impl Iterator<Item = &'a Key>,
    map: &AbilityMap,
    decoder: &mut Decoder<'_>,
) {
    let required: BTreeSet<&str> = map.requirements().flat_map(Requirement::abilities).collect();
    for ability in abilities.filter(|ability| !required.contains(&*ability.text)) {
        let mut path = section.to_owned();
        join(&mut path, &ability.text);
        let warning =
            Diagnostic::warning("has no effect").key(path).at(ability.span, "no route requires this ability");
        decoder.record(warning.suggest(nearest(&ability.text, required.iter().copied())));
    }
}
