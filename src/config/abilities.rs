//! The ability map as it is written.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use http::Method;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use super::decode::{Decode, Decoder, nearest};
use super::report::Mistake;
use super::source::Span;
use super::tree::{Entry, Key, Node, Value};
use super::values::Size;
use super::written::{Abilities, MapFile};
use crate::policy::ability::{Requirement, RequirementError};
use crate::policy::guide;
use crate::policy::map::{AbilityMap, MapBuilder, Place, RouteOptions, Unmapped};
use crate::policy::route::RouteError;
use crate::policy::shadow::Mode;
use crate::policy::target::METHODS;

/// What a requirement may be instead of an ability. `Deny` is an ability, which a token with `*` has.
const KEYWORDS: [&str; 3] = ["public", "authenticated", "deny"];

/// The routes of one file, no two of which match the same paths.
#[derive(Debug, Default)]
pub(super) struct Routes(Vec<Route>);

#[derive(Debug)]
struct Route {
    pattern: Key,
    written: WrittenRoute,
}

/// What stands below a route's pattern.
#[derive(Debug, Default)]
struct WrittenRoute {
    options: RouteOptions,
    /// Where `mode` stands.
    mode: Option<Span>,
    rules: Vec<(Method, Requirement, Option<Place>)>,
}

/// The keys beside the methods.
const OPTIONS: [&str; 2] = ["body", "mode"];

impl Decode for Routes {
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        let entries = decoder.mapping(node, "a mapping of paths")?;
        let before = decoder.mistakes_so_far();
        let mut builder = MapBuilder::new(Unmapped::Deny);
        let mut routes = Self::default();
        for Entry { key, value } in entries {
            decoder.within(key, |decoder| {
                warn_of_foreign_segments(key, decoder);
                let written = decode_route(value, decoder).unwrap_or_default();
                if let Err(error) = builder.route(&key.text, written.rules.iter().cloned()) {
                    let earlier = routes.span_of(&error);
                    let mut mistake = Mistake::error("not a route").at(key.span, error.to_string());
                    if let Some(span) = earlier {
                        mistake = Mistake::error("two equal routes")
                            .at(key.span, error.to_string())
                            .see(span, "the other one");
                    }
                    decoder.record(mistake);
                }
                routes.0.push(Route { pattern: key.clone(), written });
            });
        }
        (decoder.mistakes_so_far() == before).then_some(routes)
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

/// The methods of a route and its options.
fn decode_route(node: &Node, decoder: &mut Decoder<'_>) -> Option<WrittenRoute> {
    let entries = decoder.mapping(node, "a mapping such as `{GET: items:read}`")?;
    let WrittenRoute { mut options, mut mode, mut rules } = WrittenRoute::default();
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
                        format!("methods are {}; the options are `body` and `mode`", methods.join(" "))
                    }
                };
                let mistake = Mistake::error("unknown method").at(key.span, "not a method that is served");
                decoder.record(mistake.hint(hint));
            }
        });
    }
    Some(WrittenRoute { options, mode, rules })
}

fn decode_requirement(node: &Node, decoder: &mut Decoder<'_>) -> Option<Requirement> {
    const REQUIREMENT: &str = "an ability, `{all: […]}`, `{any: […]}`, `public`, `authenticated` or `deny`";
    match &node.value {
        Value::Mapping(entries) => {
            decoder.refuse_unknown(entries, &["all", "any"]);
            let mut lists = entries.iter().filter(|entry| matches!(&*entry.key.text, "all" | "any"));
            match (lists.next(), lists.next()) {
                (Some(Entry { key, value }), None) => {
                    decoder.within(key, |decoder| decode_abilities(&key.text, value, decoder))
                }
                (Some(first), Some(second)) => {
                    let mistake = Mistake::error("`all` and `any` together")
                        .at(second.key.span, "expected only one of them")
                        .see(first.key.span, "the other one");
                    decoder.record(mistake);
                    None
                }
                (None, _) => {
                    if entries.is_empty() {
                        decoder.mismatch(node, "not a requirement", REQUIREMENT);
                    }
                    None
                }
            }
        }
        Value::List(_) => {
            let hint = "say which: `{all: […]}` or `{any: […]}`".to_owned();
            decoder.mismatch_with(node, "not a requirement", REQUIREMENT, Some(hint));
            None
        }
        Value::Scalar { .. } | Value::Broken => {
            let word = decoder.string(node, REQUIREMENT)?;
            let requirement = checked(Requirement::from_word(&word), node, decoder)?;
            requirement.abilities().for_each(|ability| warn_of_typo(ability, node, decoder));
            Some(requirement)
        }
    }
}

/// The list of `all` or `any`.
fn decode_abilities(kind: &str, node: &Node, decoder: &mut Decoder<'_>) -> Option<Requirement> {
    let items = decoder.list(node, "a list of abilities")?;
    let mut abilities: Vec<Cow<'_, str>> = Vec::new();
    for item in items {
        // Each one alone first, so that a mistake has its item's place.
        abilities.extend(decode_ability(item, decoder));
    }
    if abilities.len() < items.len() {
        return None;
    }
    let abilities = abilities.iter().map(|ability| &**ability);
    let requirement = if kind == "all" { Requirement::all(abilities) } else { Requirement::any(abilities) };
    checked(requirement, node, decoder)
}

/// One ability of a list.
pub(super) fn decode_ability<'node>(node: &'node Node, decoder: &mut Decoder<'_>) -> Option<Cow<'node, str>> {
    let ability = decoder.string(node, "an ability")?;
    checked(Requirement::all([&*ability]), node, decoder)?;
    warn_of_typo(&ability, node, decoder);
    Some(ability)
}

fn checked(
    requirement: Result<Requirement, RequirementError>,
    node: &Node,
    decoder: &mut Decoder<'_>,
) -> Option<Requirement> {
    let error = match requirement {
        Ok(requirement) => return Some(requirement),
        Err(error) => error,
    };
    // The error's own text may name what came from the environment.
    let label = if decoder.may_show_all(node) { error.to_string() } else { "this is no ability".to_owned() };
    decoder.record(Mistake::error("not a requirement").at(node.span, label));
    None
}

/// `/files/*` and `/items/:id` are patterns elsewhere; here they match themselves alone.
fn warn_of_foreign_segments(pattern: &Key, decoder: &mut Decoder<'_>) {
    let parameter = pattern.text.split('/').find_map(|segment| match segment.strip_prefix(':') {
        Some(name) if !name.is_empty() => Some(format!("{{{name}}}")),
        _ => matches!(segment, "*" | "**").then(|| "{*rest}".to_owned()),
    });
    if let Some(parameter) = parameter {
        let mistake = Mistake::warning("matches only itself")
            .at(pattern.span, "`*` and `:name` are no parameters")
            .hint(format!("did you mean `{parameter}`?"));
        decoder.record(mistake);
    }
}

fn warn_of_typo(ability: &str, node: &Node, decoder: &mut Decoder<'_>) {
    // An ability that nearly is one of the guide's is probably a typing error.
    if guide::abilities().any(|known| known == ability) || !decoder.may_show(node) {
        return;
    }
    let near = guide::abilities().min_by_key(|known| strsim::osa_distance(ability, known));
    let near = near.filter(|known| strsim::osa_distance(ability, known) <= 2);
    if let Some(near) = near.or_else(|| nearest(ability, KEYWORDS)) {
        let mistake = Mistake::warning("not an ability that Stockaj documents")
            .at(node.span, format!("found `{ability}`"))
            .hint(format!("did you mean `{near}`?"));
        decoder.record(mistake);
    }
}

/// The map of `abilities`, where nothing else is said in this `mode`: its own routes over those of its file. Each
/// replacement is a note.
pub(super) fn compile(abilities: &Abilities, mode: Mode, decoder: &mut Decoder<'_>) -> AbilityMap {
    let mut builder = MapBuilder::new(abilities.unmapped).in_mode(mode);
    let mut below: HashMap<&str, Span> = HashMap::new();
    let of_file = || abilities.file.iter().flat_map(|file| &file.0.routes.value.0);
    for route in of_file() {
        below.insert(&route.pattern.text, route.pattern.span);
        let WrittenRoute { options, rules, .. } = &route.written;
        take(builder.route_with(&route.pattern.text, *options, rules.iter().cloned()), route, decoder);
    }
    let mut gone: HashSet<Box<str>> = HashSet::new();
    for route in &abilities.routes.0 {
        let WrittenRoute { options, rules, .. } = &route.written;
        let replaced = builder.replace(&route.pattern.text, *options, rules.iter().cloned());
        if let Some(replaced) = take(replaced, route, decoder).flatten() {
            let mut note = Mistake::note("replaces the route of the file as a whole")
                .of(format!("abilities.routes.\"{}\"", route.pattern.text))
                .at(route.pattern.span, "this one counts");
            if let Some(span) = below.get(replaced.template()) {
                note = note.see(*span, "this one is replaced");
            }
            decoder.mistakes.push(note);
            gone.insert(replaced.template().into());
        }
    }
    if mode == Mode::Enforce {
        let of_file = of_file().filter(|route| !gone.contains(&*route.pattern.text));
        warn_of_shadow(of_file.chain(&abilities.routes.0), decoder);
    }
    builder.build()
}

/// One warning for all routes that are in shadow mode by themselves.
fn warn_of_shadow<'a>(routes: impl Iterator<Item = &'a Route>, decoder: &mut Decoder<'_>) {
    let is_shadowed = |route: &&Route| route.written.options.mode == Some(Mode::Shadow);
    let mut shadowed = routes.filter(is_shadowed).filter_map(|route| Some((route, route.written.mode?)));
    if let Some((route, span)) = shadowed.next() {
        let label = match shadowed.count() {
            0 => "what the map refuses here is forwarded".to_owned(),
            others => {
                format!("what the map refuses on {} routes, this one first, is forwarded", others + 1)
            }
        };
        let warning = Mistake::warning("not enforced")
            .of(format!("abilities.routes.\"{}\".mode", route.pattern.text))
            .at(span, label);
        decoder.mistakes.push(warning);
    }
}

/// The map of `shadow`, which is decided as if it were enforced, whatever its routes' `mode` says.
pub(super) fn compile_candidate(
    candidate: &IncludedMap,
    unmapped: Unmapped,
    decoder: &mut Decoder<'_>,
) -> AbilityMap {
    let mut builder = MapBuilder::new(unmapped);
    for route in &candidate.0.routes.value.0 {
        let WrittenRoute { options, rules, .. } = &route.written;
        let options = RouteOptions { mode: None, ..*options };
        take(builder.route_with(&route.pattern.text, options, rules.iter().cloned()), route, decoder);
    }
    builder.build()
}

/// Every route was taken by a builder when it was read, so there is an error here only if that and this
/// disagree; the configuration is refused then.
fn take<T>(added: Result<T, RouteError>, route: &Route, decoder: &mut Decoder<'_>) -> Option<T> {
    added
        .map_err(|error| {
            decoder.record(Mistake::error("not a route").at(route.pattern.span, error.to_string()));
        })
        .ok()
}

/// `abilities.file` or `shadow`: read where it is named, so that its mistakes are in the same report.
#[derive(Debug)]
pub(super) struct IncludedMap(MapFile);

impl Decode for IncludedMap {
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        let super::files::FilePath(path) = Decode::decode(node, decoder)?;
        let tree = decoder.read_tree(&path, Some(node))?;
        decoder.at_top(|decoder| MapFile::decode(&tree, decoder)).map(Self)
    }
}

super::values::leaf_schema!(IncludedMap, json_schema!({"type": "string", "minLength": 1}));

/// What a method asks of a token.
struct WrittenRequirement;

impl JsonSchema for WrittenRequirement {
    fn schema_name() -> Cow<'static, str> {
        "Requirement".into()
    }

    fn json_schema(_generator: &mut SchemaGenerator) -> Schema {
        let abilities = json_schema!({
            "type": "array", "minItems": 1,
            "items": {"type": "string", "minLength": 1, "not": {"enum": KEYWORDS}},
        });
        json_schema!({
            "description": "An ability; all or any of several; `public`, `authenticated` or `deny`.",
            "anyOf": [
                {"enum": KEYWORDS},
                {"enum": guide::abilities().collect::<Vec<_>>()},
                {"type": "string", "minLength": 1},
                {
                    "type": "object", "minProperties": 1, "maxProperties": 1, "additionalProperties": false,
                    "properties": {"all": abilities, "any": abilities},
                },
            ],
        })
    }
}

impl JsonSchema for Routes {
    fn schema_name() -> Cow<'static, str> {
        "Routes".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let requirement = generator.subschema_for::<WrittenRequirement>();
        let mut body = generator.subschema_for::<Size>();
        body.insert("description".to_owned(), "Of a request's body, instead of `limits.body`.".into());
        let mut properties: serde_json::Map<String, serde_json::Value> = METHODS
            .iter()
            .map(|method| (method.as_str().to_owned(), requirement.clone().to_value()))
            .collect();
        let mut mode = generator.subschema_for::<Mode>();
        mode.insert("description".to_owned(), "Of this route, instead of the global `mode`.".into());
        properties.insert("body".to_owned(), body.to_value());
        properties.insert("mode".to_owned(), mode.to_value());
        json_schema!({
            "type": "object",
            "patternProperties": {
                "^/": {"type": "object", "properties": properties, "additionalProperties": false},
            },
            "additionalProperties": false,
        })
    }
}
