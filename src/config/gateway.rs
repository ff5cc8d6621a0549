//! `gateway.yaml`: assembles the sections into [`Settings`], or reports every error.

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use serde_json::Value as Json;

use super::language::{
    Decode, Decoder, Diagnostic, Entry, Environment, Node, OnOff, Report, Source, Span, Spanned, Value,
    effective, schema_of, section,
};
use super::listener_overlap;
use super::sections::{
    SECRETS, abilities, admin, backend, blocked, cache, cors, decision, denials, identity_headers,
    introspection, limits, listen, log, rate_limit, redis, runtime, shadow, traces, usage, webhook,
};
use super::settings::{ListenAddress, Settings};
use crate::policy::identity::IdentityHeader;
use crate::policy::shadow::Mode;

section! {
    /// The configuration of stockaj-gateway. Durations have one unit: `250ms`, `2s`, `5m`, `1h`, `90d`. Sizes are
    /// bytes, or have a unit: `64KiB`, `10MiB`. `${NAME}` and `${NAME:-default}` in a string are replaced by
    /// environment variables.
    Gateway {
        /// The proxy listener.
        listen: listen::Listen,
        /// The admin listener.
        admin: admin::Admin,
        /// The decision listener, for proxies that ask for a decision on each request and forward it themselves. Without
        /// `address` it is off.
        decision: decision::Decision,
        /// The backend, which receives permitted requests.
        backend: backend::Backend,
        /// The introspector, which validates tokens.
        introspection: introspection::Introspection,
        /// Token details that the gateway sends to the backend on routes that require a token: `id` in X-Token-Id,
        /// `name` in X-Token-Name, `abilities` in X-Token-Abilities, `workspace_id` in X-Workspace-Id.
        identity_headers: Vec<Spanned<IdentityHeader>> = [],
        /// Cross-origin requests of browsers (CORS).
        cors: cors::Cors,
        /// Additional header fields of a 403 response for a missing ability.
        denials: denials::Denials,
        /// The cache of introspected tokens.
        cache: cache::Cache,
        /// The block list: tokens that are refused, whatever introspection says.
        blocked: blocked::Blocked,
        /// Limits on the size, duration and number of requests and connections.
        limits: limits::Limits,
        /// The limits of each token. Without this section there are none.
        rate_limit: Option<rate_limit::RateLimit>,
        /// The Redis through which replicas share revocations. Without this section replicas share none.
        redis: Option<Spanned<redis::Redis>>,
        /// Receives webhooks of Stockaj about changed and deleted tokens: a signed POST to `/webhook` on the admin
        /// listener. Without this section the path does not exist.
        webhook: Option<Spanned<webhook::Webhook>>,
        /// OpenTelemetry traces of requests.
        traces: traces::Traces,
        /// `enforce`: the gateway refuses requests that the ability map denies. `shadow`: it forwards, logs and counts
        /// them. Both modes require a valid token.
        mode: Spanned<Mode> = "enforce",
        /// A candidate map file, `{routes: {…}}`. The gateway evaluates it beside the map of `abilities`, logs and
        /// counts where their decisions differ, and never enforces it. A route's `mode` has no effect in it.
        shadow: Option<abilities::IncludedMap>,
        /// Whether shadow mode also forwards requests without a valid token.
        shadow_authentication: Spanned<OnOff> = false,
        /// The usage ledger. Without this section no usage is recorded.
        usage: Option<Spanned<usage::Usage>>,
        /// The threads that serve requests.
        runtime: runtime::Runtime,
        /// The log, on standard output.
        log: log::Log,
        /// The ability map.
        abilities: Spanned<abilities::Abilities>,
    }
}

/// A valid configuration.
#[derive(Debug)]
pub struct Loaded {
    /// The compiled configuration.
    pub settings: Settings,
    /// Warnings and notes.
    pub warnings: Report,
    /// Every file that it was read from or that it names, itself first.
    pub files: Vec<PathBuf>,
}

/// Loads a gateway.yaml with the environment of the process.
///
/// # Errors
/// A report of every error in it.
pub fn load(path: &Path) -> Result<Loaded, Report> {
    load_with(path, &|name| std::env::var(name).ok())
}

/// Loads a gateway.yaml with the given environment.
///
/// # Errors
/// A report of every error in it.
pub fn load_with(path: &Path, environment: &Environment<'_>) -> Result<Loaded, Report> {
    let mut decoder = Decoder::new(environment, &SECRETS);
    let tree = decoder.read_file(path);
    compile_document(path, tree, decoder)
}

/// Loads a gateway.yaml from a text, which reports call `name`.
///
/// # Errors
/// A report of every error in it.
pub fn load_text(name: &str, text: String) -> Result<Loaded, Report> {
    let environment: &Environment<'_> = &|name| std::env::var(name).ok();
    let mut decoder = Decoder::new(environment, &SECRETS);
    let tree = decoder.parse(Source::of_text(name, text));
    compile_document(Path::new(name), tree, decoder)
}

/// The JSON Schema of gateway.yaml.
pub fn schema() -> Json {
    schema_of::<Gateway>("gateway", "gateway.yaml of stockaj-gateway")
}

/// Decodes and compiles the document of a gateway.yaml; `None` if it could not be parsed.
pub(crate) fn compile_document(
    path: &Path,
    tree: Option<Rc<Node>>,
    mut decoder: Decoder<'_>,
) -> Result<Loaded, Report> {
    let places = tree.as_deref().map(places).unwrap_or_default();
    let settings = tree.as_deref().and_then(|tree| {
        let mut settings = compile(Gateway::decode(tree, &mut decoder)?, &mut decoder);
        listener_overlap::check(&settings, &places, &mut decoder);
        warn_of_unknown_addresses(&settings, &places, &mut decoder);
        settings.effective = effective(tree, &schema(), &mut decoder);
        Some(settings)
    });
    let (settings, warnings) = decoder.finish(path, settings)?;
    let files = warnings.files().to_vec();
    Ok(Loaded { settings, warnings: warnings.with_places(places), files })
}

/// Warns if networks refuse every client of a Unix socket.
fn warn_of_unknown_addresses(settings: &Settings, places: &[(String, Span)], decoder: &mut Decoder<'_>) {
    let Settings { listen, introspection, abilities, .. } = settings;
    let of_tokens = introspection.response.allowed_from.is_some();
    let has_networks = of_tokens || abilities.routes().any(|route| route.options().from.is_some());
    let is_unknown = matches!(listen.address, ListenAddress::Unix(_)) && !listen.proxy_protocol;
    let place = places.iter().find(|(name, _)| name == "listen.address");
    if let (true, Some((_, span))) = (has_networks && is_unknown, place) {
        let warning = Diagnostic::warning("clients have no address")
            .key("listen.address")
            .at(*span, "`from` and `allowed_from` refuse every client of a Unix socket");
        decoder.record(warning.hint("set `listen.proxy_protocol`, or listen on an IP address"));
    }
}

/// The places of addresses, files of the gateway and `tls` sections, which only a start can validate completely.
fn places(tree: &Node) -> Vec<(String, Span)> {
    let keys = tree.entries().iter().flat_map(|Entry { key: section, value }| {
        let keys = value.entries().iter();
        keys.map(move |Entry { key, value }| (format!("{}.{}", section.text, key.text), key, value))
    });
    let wanted =
        keys.filter(|(_, key, _)| matches!(&*key.text, "address" | "path" | "redirect_address" | "tls"));
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

fn compile(raw: Gateway, decoder: &mut Decoder<'_>) -> Settings {
    let map = abilities::compile(&raw.abilities.value, raw.mode.value, decoder);
    let introspection = introspection::compile(raw.introspection, decoder);
    let response = &introspection.response;
    if let Some(rate_limit) = &raw.rate_limit {
        rate_limit::require_redis(rate_limit, raw.redis.is_some(), decoder);
    }
    let mut usage = raw.usage.map(|raw| usage::compile(raw.value, decoder));
    if let Some(usage) = &mut usage {
        usage.findings.deprecated = Some(usage::deprecated_routes(&map));
    }
    let limited = raw.rate_limit.map(|raw| rate_limit::compile(raw, &map, response, usage.as_ref(), decoder));
    let (rate_limit, quota) = limited.unzip();
    Settings {
        listen: listen::compile(raw.listen, decoder),
        admin: admin::compile(raw.admin),
        decision: decision::compile(raw.decision, decoder),
        backend: backend::compile(raw.backend, decoder),
        identity_headers: identity_headers::compile(raw.identity_headers, &introspection.response, decoder),
        introspection,
        cors: cors::compile(raw.cors, decoder),
        denials: denials::compile(raw.denials),
        cache: cache::compile(raw.cache, &map, decoder),
        blocked: blocked::compile(raw.blocked, decoder),
        limits: limits::compile(raw.limits),
        rate_limit,
        quota: quota.flatten(),
        redis: raw.redis.and_then(|raw| redis::compile(raw, decoder)),
        webhook: raw.webhook.and_then(|raw| webhook::compile(raw, decoder)),
        traces: traces::compile(raw.traces, decoder),
        usage,
        threads: runtime::compile(raw.runtime),
        log: log::compile(raw.log),
        shadow: shadow::compile(&raw.mode, raw.shadow.as_ref(), &raw.shadow_authentication, &map, decoder),
        abilities: Arc::new(map),
        effective: Json::Null,
    }
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

        /// Damages files in two places, loads them and renders their reports.
        #[test]
        fn damaged_files_never_panic(
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
