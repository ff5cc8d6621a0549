//! From a file's name to [`Settings`], or to a report of everything that is wrong.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use super::decode::{Decode, Decoder, Named, Spanned, join};
use super::effective::effective;
use super::interpolate::Environment;
use super::report::{Mistake, Report, Severity};
use super::schema::schema;
use super::settings::{self, IntrospectionStyle, ResponsePointers, Settings};
use super::source::{Source, Span};
use super::tree::{Entry, Node, Value};
use super::values::{Style, Whole, parse_pointer};
use super::written::{self, Gateway, MapFile};
use super::{
    abilities, cors, denials, freshness, listeners, redis, shadow, tls, traces, trusted_fields, usage,
    webhook,
};
use crate::policy::identity::IdentityHeader;
use crate::policy::map::AbilityMap;
use crate::policy::shadow::Mode;

/// A configuration that may be run.
#[derive(Debug)]
pub struct Loaded {
    /// What it says.
    pub settings: Settings,
    /// Warnings and notes.
    pub warnings: Report,
    /// Every file that it was read from or that it names, itself first.
    pub files: Vec<PathBuf>,
}

/// An ability map, read alone.
#[derive(Debug)]
pub struct LoadedAbilities {
    /// The map.
    pub map: AbilityMap,
    /// Warnings and notes.
    pub warnings: Report,
    /// Every file that it was read from, the named one first.
    pub files: Vec<PathBuf>,
}

/// Reads a whole `gateway.yaml` with the process's environment.
///
/// # Errors
/// Every mistake in it.
pub fn load(path: &Path) -> Result<Loaded, Report> {
    load_with(path, &|name| std::env::var(name).ok())
}

/// Reads a whole `gateway.yaml` with the given environment.
///
/// # Errors
/// Every mistake in it.
pub fn load_with(path: &Path, environment: &Environment<'_>) -> Result<Loaded, Report> {
    let mut decoder = Decoder::new(environment);
    decoder.files.push(path.to_owned());
    let tree = decoder.read_tree(path, None);
    settings(path, tree, decoder)
}

/// Reads a configuration that is in no file, called `name` in reports.
///
/// # Errors
/// Every mistake in it.
pub fn load_text(name: &str, text: String) -> Result<Loaded, Report> {
    let environment: &Environment<'_> = &|name| std::env::var(name).ok();
    let mut decoder = Decoder::new(environment);
    let tree = decoder.parse(Source::of_text(name, text));
    settings(Path::new(name), tree, decoder)
}

/// Compiles the tree of a gateway.yaml; `None` if it could not be parsed.
pub(super) fn settings(
    path: &Path,
    tree: Option<Rc<Node>>,
    mut decoder: Decoder<'_>,
) -> Result<Loaded, Report> {
    let places = tree.as_deref().map(places).unwrap_or_default();
    let written = tree.as_ref().and_then(|tree| Gateway::decode(tree, &mut decoder));
    let mut settings = written.and_then(|written| compile(written, &mut decoder));
    if let Some(settings) = &settings {
        decoder.mistakes.extend(listeners::check(settings, &places));
    }
    if let (Some(settings), Some(tree)) = (&mut settings, &tree) {
        settings.effective = effective(tree, &schema(), &mut decoder);
    }
    let (report, files) = report(path, decoder);
    match settings {
        Some(settings) if report.count(Severity::Error) == 0 => {
            Ok(Loaded { settings, warnings: report.with_places(places), files })
        }
        _ => Err(report),
    }
}

pub(super) fn compile_admin(admin: written::Admin) -> settings::Admin {
    let token = admin.token.map(|token| token.0).or(admin.token_file.map(|file| file.0));
    settings::Admin { address: admin.address, token }
}

/// Where the addresses and the `tls` sections are: whether they can be used, only a start shows.
fn places(tree: &Node) -> Vec<(String, Span)> {
    let Value::Mapping(sections) = &tree.value else { return Vec::new() };
    let keys = sections.iter().flat_map(|Entry { key: section, value }| {
        let entries = match &value.value {
            Value::Mapping(entries) => entries.as_slice(),
            _ => &[],
        };
        entries.iter().map(move |Entry { key, value }| (format!("{}.{}", section.text, key.text), key, value))
    });
    let wanted = keys.filter(|(_, key, _)| matches!(&*key.text, "address" | "redirect_address" | "tls"));
    let mut places = Vec::new();
    for (path, key, value) in wanted {
        if let Value::List(items) = &value.value {
            let numbered = items.iter().enumerate();
            places.extend(numbered.map(|(number, item)| (format!("{path}[{number}]"), item.span)));
        }
        places.push((path, if value.is_scalar() { value.span } else { key.span }));
    }
    places
}

/// Reads only the ability map of a `gateway.yaml`, or a map file `{routes: {…}}`. Needs no secret, and the
/// environment only where the map itself names it.
///
/// # Errors
/// Every mistake in it.
pub fn load_abilities(path: &Path) -> Result<LoadedAbilities, Report> {
    load_abilities_with(path, &|name| std::env::var(name).ok())
}

/// The same with the given environment.
///
/// # Errors
/// Every mistake in it.
pub fn load_abilities_with(path: &Path, environment: &Environment<'_>) -> Result<LoadedAbilities, Report> {
    let mut decoder = Decoder::new(environment);
    decoder.files.push(path.to_owned());
    let tree = decoder.read_tree(path, None);
    abilities_of(path, tree, decoder)
}

/// Compiles the map of the tree of a gateway.yaml or a map file; `None` if it could not be parsed.
pub(super) fn abilities_of(
    path: &Path,
    tree: Option<Rc<Node>>,
    mut decoder: Decoder<'_>,
) -> Result<LoadedAbilities, Report> {
    let map = tree
        .and_then(|tree| decode_abilities(&tree, &mut decoder))
        .map(|(written, mode)| abilities::compile(&written, mode, &mut decoder));
    let (report, files) = report(path, decoder);
    match map {
        Some(map) if report.count(Severity::Error) == 0 => {
            Ok(LoadedAbilities { map, warnings: report, files })
        }
        _ => Err(report),
    }
}

/// The map as it is written, and the mode of what has none of its own.
pub(super) fn decode_abilities(tree: &Node, decoder: &mut Decoder<'_>) -> Option<(written::Abilities, Mode)> {
    let Value::Mapping(entries) = &tree.value else {
        decoder.mapping(tree, "a gateway.yaml or a map file")?;
        return None;
    };
    if entries.iter().any(|entry| &*entry.key.text == "routes") {
        let MapFile { routes } = MapFile::decode(tree, decoder)?;
        let unmapped = Default::default();
        return Some((written::Abilities { file: None, unmapped, routes: routes.value }, Mode::default()));
    }
    let entry = |name: &str| entries.iter().find(|entry| &*entry.key.text == name);
    let Some(Entry { key, value }) = entry("abilities") else {
        decoder.missing(tree, "abilities");
        return None;
    };
    let abilities = decoder.within(key, |decoder| Decode::decode(value, decoder))?;
    Some((abilities, entry("mode").map_or_else(Mode::default, |entry| mode_of(&entry.value, decoder))))
}

/// The `mode` of a gateway.yaml of which only the map is read. What is wrong with it is not the map's, and neither is
/// what is not set in this environment.
fn mode_of(node: &Node, decoder: &mut Decoder<'_>) -> Mode {
    let before = decoder.mistakes.len();
    let mode = Mode::decode(node, decoder);
    decoder.mistakes.truncate(before);
    mode.unwrap_or_default()
}

pub(super) fn report(path: &Path, decoder: Decoder<'_>) -> (Report, Vec<PathBuf>) {
    let report = Report::new(path.display().to_string(), decoder.sources, decoder.mistakes);
    (report.with_files(decoder.files.clone()), decoder.files)
}

/// None: a mistake was recorded.
fn compile(written: Gateway, decoder: &mut Decoder<'_>) -> Option<Settings> {
    let map = abilities::compile(&written.abilities.value, written.mode.value, decoder);
    let shadow = shadow::compile(&written, &map, decoder);
    let introspection = compile_introspection(written.introspection, decoder)?;
    let identity_headers = compile_identity(written.identity_headers, &introspection.response, decoder);
    let cors = cors::compile(written.cors, decoder);
    let denials = denials::compile(written.denials);
    let Gateway {
        listen,
        admin,
        backend,
        cache,
        limits,
        rate_limit,
        redis,
        webhook,
        traces,
        usage,
        runtime,
        log,
        ..
    } = written;
    if backend.cookies.value.0 {
        decoder.mistakes.push(
            Mistake::warning("cookies beside a token")
                .of("backend.cookies")
                .at(backend.cookies.span, "a session is asked before the token, and may do all its user may")
                .hint("Sanctum tries the session first: what the token lacks, a cookie can add"),
        );
    }
    let is_tcp = matches!(listen.address, settings::ListenAddress::Tcp(_));
    if listen.proxy_protocol.value.0 && is_tcp && listen.trusted_proxies.is_empty() {
        decoder.mistakes.push(
            Mistake::warning("has no effect")
                .of("listen.proxy_protocol")
                .at(listen.proxy_protocol.span, "only trusted proxies are asked for a PROXY header")
                .hint("name their networks in `listen.trusted_proxies`"),
        );
    }
    let trusts = !listen.trusted_proxies.is_empty();
    let trusted_fields = trusted_fields::compile(listen.trusted_fields.clone(), trusts, decoder);
    let redis = redis.and_then(|written| redis::compile(written, decoder));
    let webhook = webhook.and_then(|written| webhook::compile(written, decoder));
    let traces = traces::compile(traces, decoder);
    let usage = usage.map(|written| usage::compile(written.value, decoder));
    let hsts = tls::strict_transport_security(&listen);
    let certificates = tls::compile_listen(&listen, decoder);
    Some(Settings {
        listen: settings::Listen {
            address: listen.address,
            tls: certificates,
            redirect_address: listen.redirect_address.map(|address| address.value),
            hsts,
            h2c: listen.h2c.0,
            trusted_proxies: listen.trusted_proxies.into_iter().map(|network| network.0).collect(),
            trusted_fields,
            proxy_protocol: listen.proxy_protocol.value.0,
            drain_delay: listen.drain_delay.0,
            drain_timeout: listen.drain_timeout.0,
        },
        admin: compile_admin(admin),
        backend: settings::Backend {
            destination: backend.url.destination,
            authority: backend.url.authority,
            path_prefix: backend.url.path_prefix,
            host: backend.host,
            method_override: backend.method_override,
            cookies: backend.cookies.value.0,
            tls: tls::compile_client(backend.tls, "backend", decoder),
            http2: backend.http2.0,
            connect_timeout: backend.connect_timeout.0,
            timeout: backend.timeout.0,
            idle_timeout: backend.idle_timeout.0,
            max_connections: Some(backend.max_connections.count()).filter(|&most| most != 0),
        },
        introspection,
        identity_headers,
        cors,
        denials,
        cache: freshness::compile(cache, &map, decoder),
        limits: settings::Limits {
            header_bytes: limits.header_bytes.length(),
            header_count: limits.header_count.count(),
            target_bytes: limits.target_bytes.length(),
            token_bytes: limits.token_bytes.length(),
            body: limits.body.0,
            connections: limits.connections.count(),
            connections_per_address: Some(limits.connections_per_address.count()).filter(|&most| most != 0),
            requests_per_address: NonZeroU32::new(limits.requests_per_address.0)
                .map(|requests| settings::Rate { requests_per_second: requests, burst: requests }),
            header_timeout: limits.header_timeout.0,
            idle_timeout: limits.idle_timeout.0,
            body_idle_timeout: limits.body_idle_timeout.0,
            tunnel_idle_timeout: limits.tunnel_idle_timeout.0,
        },
        rate_limit: rate_limit.map(|rate_limit| compile_rate_limit(rate_limit, decoder)),
        redis,
        traces,
        webhook,
        usage,
        threads: match runtime.threads.count() {
            0 => std::thread::available_parallelism().map_or(1, |cores| cores.get().min(4)),
            threads => threads,
        },
        log: settings::Log {
            level: log.level,
            format: log.format,
            access: log.access.0,
            access_sample: log.access_sample.0,
        },
        abilities: Arc::new(map),
        shadow,
        effective: serde_json::Value::Null,
    })
}

/// Each of them once.
fn compile_identity(
    written: Vec<Spanned<IdentityHeader>>,
    response: &ResponsePointers,
    decoder: &mut Decoder<'_>,
) -> Box<[IdentityHeader]> {
    for wanted in &written {
        if wanted.value == IdentityHeader::WorkspaceId && response.workspace_id.is_none() {
            decoder.mistakes.push(
                Mistake::error("not known")
                    .of("identity_headers")
                    .at(wanted.span, "nothing says where the introspector's answer has it")
                    .hint("`introspection.response.workspace_id` is the place"),
            );
        }
    }
    let mut wanted: Vec<IdentityHeader> = written.into_iter().map(|it| it.value).collect();
    wanted.sort_unstable();
    wanted.dedup();
    wanted.into()
}

fn compile_rate_limit(written: written::RateLimit, decoder: &mut Decoder<'_>) -> settings::RateLimit {
    let default = settings::Rate {
        requests_per_second: at_least_one(written.requests_per_second),
        burst: at_least_one(written.burst),
    };
    let rate = |written: &written::RateOverride| settings::Rate {
        requests_per_second: written.requests_per_second.map_or(default.requests_per_second, at_least_one),
        burst: written.burst.map_or(default.burst, at_least_one),
    };
    let rates = |named: &Named<written::RateOverride>| {
        named.0.iter().map(|(key, written)| (key.text.clone(), rate(written))).collect()
    };
    let by_id: HashMap<Box<str>, settings::Rate> = rates(&written.by_id);
    for (name, written) in &written.by_name.0 {
        let lowered = rate(written);
        if [&default].into_iter().chain(by_id.values()).all(|rate| rate.min(lowered) == *rate) {
            let mut path = "rate_limit.by_name".to_owned();
            join(&mut path, &name.text);
            let mistake = Mistake::warning("has no effect")
                .of(path)
                .at(name.span, "names are their owners' choice: this can only lower a limit")
                .hint("`by_id` can raise it");
            decoder.mistakes.push(mistake);
        }
    }
    settings::RateLimit { default, by_name: rates(&written.by_name), by_id }
}

fn at_least_one<const LEAST: u32, const MOST: u32>(number: Whole<LEAST, MOST>) -> NonZeroU32 {
    NonZeroU32::new(number.0).unwrap_or(NonZeroU32::MIN)
}

pub(super) fn compile_introspection(
    written: written::Introspection,
    decoder: &mut Decoder<'_>,
) -> Option<settings::Introspection> {
    let response = compile_response(written.response, written.style)?;
    let client_id = written.client_id;
    let secret = written
        .client_secret
        .map(|secret| (secret.value.0, secret.span, "client_secret"))
        .or(written.client_secret_file.map(|file| (file.value.0, file.span, "client_secret_file")));
    let style = match written.style {
        Style::Rfc7662 => {
            if let (None, Some((_, span, key))) = (&client_id, &secret) {
                let mistake = Mistake::error("a secret without a client");
                decoder.mistakes.push(
                    mistake.of(format!("introspection.{key}")).at(*span, "expected `client_id` beside it"),
                );
            }
            IntrospectionStyle::Rfc7662 {
                client_id: client_id.map(|id| id.value.0),
                client_secret: secret.map(|(secret, ..)| secret),
            }
        }
        Style::Bearer => {
            let unused = client_id.map(|id| (id.span, "client_id"));
            for (span, key) in unused.into_iter().chain(secret.map(|(_, span, key)| (span, key))) {
                decoder.mistakes.push(
                    Mistake::warning("has no effect")
                        .of(format!("introspection.{key}"))
                        .at(span, "used by `style: rfc7662` alone"),
                );
            }
            IntrospectionStyle::Bearer
        }
    };
    Some(settings::Introspection {
        destination: written.url.destination,
        authority: written.url.authority,
        target: written.url.target,
        style,
        tls: tls::compile_client(written.tls, "introspection", decoder),
        timeout: written.timeout.0,
        max_concurrent: written.max_concurrent.count(),
        response,
    })
}

fn compile_response(written: written::Response, style: Style) -> Option<ResponsePointers> {
    let [abilities, expires_at, id, name] = match style {
        Style::Bearer => ["/data/abilities", "/data/expires_at", "/data/id", "/data/name"],
        // RFC 7662 section 2.2
        Style::Rfc7662 => ["/scope", "/exp", "/jti", "/client_id"],
    }
    .map(parse_pointer);
    Some(ResponsePointers {
        abilities: written.abilities.or(abilities)?,
        expires_at: written.expires_at.or(expires_at)?,
        id: written.id.or(id)?,
        name: written.name.or(name)?,
        context: written.context,
        created_at: written.created_at,
        workspace_id: written.workspace_id,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;

    /// Every file of tests/config.
    fn corpus() -> Vec<String> {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config");
        let files = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
        let yaml = files.filter(|path| path.extension().is_some_and(|it| it == "yaml"));
        yaml.map(|path| std::fs::read_to_string(path).unwrap()).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        /// A file that was damaged in two places is reported or taken, and every form of the report is made.
        #[test]
        fn nothing_panics(
            text in select(corpus()),
            edits in prop::collection::vec(
                (any::<prop::sample::Index>(), 0_usize..8, "[\\[\\]{}:,\"'&*?|>\\-#%!$ \\n\ta1é🦀\u{85}\u{feff}]{0,3}"),
                2,
            ),
        ) {
            let mut characters: Vec<char> = text.chars().collect();
            for (index, removed, inserted) in edits {
                let start = index.index(characters.len());
                let end = (start + removed).min(characters.len());
                characters.splice(start..end, inserted.chars());
                characters.push('\n');
            }
            let report = match load_text("edited.yaml", characters.into_iter().collect()) {
                Ok(loaded) => loaded.warnings,
                Err(report) => report,
            };
            prop_assert!(report.lines().count() < 1000 && report.render(true).ends_with("edited.yaml\n"));
        }
    }

    #[test]
    fn debug_shows_no_secret() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("gateway.yaml");
        std::fs::write(directory.path().join("token"), "hunter2-in-the-file\n").unwrap();
        let text = "\
            backend: {url: 'http://127.0.0.1:8000'}\n\
            admin: {token_file: token}\n\
            introspection: {url: 'http://127.0.0.1:8000/', client_id: a, client_secret: SECRET, style: rfc7662}\n\
            abilities: {routes: {/up: {GET: item:read}}}\n";
        let environment: &Environment<'_> = &|_| Some("hunter2-environment".to_owned());
        for secret in ["hunter2-literal", "'${NAME}'"] {
            std::fs::write(&file, text.replace("SECRET", secret)).unwrap();
            let loaded = load_with(&file, environment).unwrap();
            assert!(loaded.settings.admin.token.is_some() && !loaded.warnings.is_empty());
            let shown = format!("{loaded:?} {:#?}", loaded.settings);
            assert!(shown.contains("127.0.0.1") && !shown.contains("hunter2"), "{shown}");

            std::fs::write(&file, text.replace("SECRET", secret).replace("url", "uri")).unwrap();
            let refused = load_with(&file, environment).unwrap_err();
            let lines: Vec<String> = refused.lines().collect();
            let shown = format!("{refused:?} {refused} {} {lines:?}", refused.render(true));
            assert!(shown.contains("introspection.uri") && !shown.contains("hunter2"), "{shown}");
        }
    }
}
