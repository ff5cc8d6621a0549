//! `gateway.yaml` as it is written: one definition of its keys, their defaults and their schema.

use super::abilities::{IncludedMap, Routes};
use super::address::{BackendUrl, IntrospectionUrl, Network};
use super::cors::{FieldName, Origin, Served};
use super::decode::{Named, OneOrMore, Spanned};
use super::denials::HelpUrl;
use super::files::{PrivatePath, ReadableFile};
use super::findings::EnvironmentName;
use super::secret::{Credential, CredentialFile, Secret, SecretFile};
use super::section::section;
use super::settings::{BackendHost, JsonPointer, ListenAddress, LogFormat, LogLevel, Roots, TlsVersion};
use super::trusted_fields::TrustedField;
use super::values::{Period, Ratio, ServerName, Size, Style, Switch, Text, Timeout, Whole};
use crate::policy::cors::Preflight;
use crate::policy::identity::IdentityHeader;
use crate::policy::map::Unmapped;
use crate::policy::method::MethodOverride;
use crate::policy::shadow::Mode;

/// No bound but that of the type.
const ANY: u32 = u32::MAX;
/// More in a second than one gateway serves.
const MOST_REQUESTS: u32 = 1_000_000;

section! {
    /// The configuration of stockaj-gateway. Durations are `250ms`, `2s`, `5m`, `1h`, `90d`; sizes `64KiB`,
    /// `10MiB`. `${NAME}` and `${NAME:-default}` in a string read the environment.
    Gateway {
        /// The proxy's own listener.
        listen: Listen,
        /// The admin listener.
        admin: Admin,
        /// Where permitted requests go.
        backend: Backend,
        /// Who knows the tokens.
        introspection: Introspection,
        /// What of a token the backend is told, on routes that ask for one: `id` in X-Token-Id, `name` in
        /// X-Token-Name, `abilities` in X-Token-Abilities, `workspace_id` in X-Workspace-Id.
        identity_headers: Vec<Spanned<IdentityHeader>> = [],
        /// What browsers are told of cross-origin requests.
        cors: Cors,
        /// What a caller is told who lacks an ability.
        denials: Denials,
        /// How long a verdict lives.
        cache: Cache,
        /// Bounds on what a client may send or hold.
        limits: Limits,
        /// How often one token may come, whatever its spelling; without it, as often as it likes.
        rate_limit: Option<RateLimit>,
        /// Where replicas tell each other of revocations; without it each is alone.
        redis: Option<Spanned<Redis>>,
        /// How Stockaj tells that a token was changed or deleted: a signed POST to `/webhook` on the admin listener.
        webhook: Option<Spanned<Webhook>>,
        /// What is told of requests to those who follow them through several services.
        traces: Traces,
        /// Whether requests that the ability map refuses are refused (`enforce`), or forwarded, logged and counted
        /// (`shadow`). A token is asked for in both.
        mode: Spanned<Mode> = "enforce",
        /// A map file, `{routes: {…}}`, that is decided beside the map of `abilities` and never enforced: what it would
        /// refuse or allow other than that is logged and counted. `mode` beside a route in it means nothing.
        shadow: Option<IncludedMap>,
        /// Whether, in shadow mode, requests without a good token are forwarded, too.
        shadow_authentication: Spanned<Switch> = false,
        /// What is kept of what each token does; without it nothing is.
        usage: Option<Spanned<Usage>>,
        /// What serves.
        runtime: Runtime,
        /// What is logged.
        log: Log,
        /// The ability map.
        abilities: Spanned<Abilities>,
    }
}

section! {
    /// The proxy's own listener.
    Listen {
        /// An IP address with a port (0: any free one), or `unix:/path`.
        address: ListenAddress = "0.0.0.0:8080",
        /// The certificate to serve, or several: each client meets the first that is for the name it asks for, or
        /// the first of all. Without it plain HTTP is served.
        tls: Option<OneOrMore<ListenTls>>,
        /// A second address, where plain HTTP is answered 308 to https.
        redirect_address: Option<Spanned<ListenAddress>>,
        /// Tells browsers for how long to come by https only (Strict-Transport-Security); 0: does not.
        hsts: Spanned<Period> = "0s",
        /// Networks whose forwarding header fields are trusted: X-Forwarded-For and the like, Forwarded, X-Real-IP and
        /// X-Request-Id.
        trusted_proxies: Vec<Network> = [],
        /// Fields about the caller that trusted proxies may set as well, such as `Remote-User`. All others of their
        /// kind are dropped.
        trusted_fields: Vec<Spanned<TrustedField>> = [],
        /// Whether trusted proxies, and whoever connects to a Unix socket, begin each connection with a header of
        /// the PROXY protocol (v1 or v2), which tells whose connection it is.
        proxy_protocol: Spanned<Switch> = false,
        /// Whether clients may speak HTTP/2 without TLS, if they know beforehand that they may.
        h2c: Switch = false,
        /// From SIGTERM to closing the listener.
        drain_delay: Period = "0s",
        /// How long requests in flight may take after that.
        drain_timeout: Period = "30s",
    }
}

section! {
    /// A certificate and its key; read again when the files change.
    ListenTls {
        /// The certificate chain in PEM, leaf first.
        certificate: Spanned<ReadableFile>,
        /// The private key in PEM.
        private_key: Spanned<ReadableFile>,
        /// Clients must show a certificate of one of these authorities, in PEM.
        client_ca: Option<Spanned<ReadableFile>>,
    }
}

section! {
    /// The admin listener: `/metrics`, `/healthz` and `/readyz` are open, all else needs the token.
    Admin {
        /// An IP address with a port (0: any free one), or `unix:/path`.
        address: ListenAddress = "127.0.0.1:9090",
        /// The file with the admin token, at least 16 bytes; without a token only the three open paths are served.
        token_file: Option<CredentialFile>,
        /// The admin token itself, from the environment: `${ADMIN_TOKEN}`. At least 16 bytes.
        token: Option<Credential>,
    }
    exclusive { token, token_file }
}

section! {
    /// Where permitted requests go.
    Backend {
        /// http or https with an optional path prefix, or `unix:/path`.
        url: BackendUrl,
        /// The Host that the backend sees: the client's (`preserve`), or the URL's (`backend`).
        host: BackendHost = "preserve",
        /// A POST with X-HTTP-Method-Override is decided as a POST (`pin`), or as the PUT, PATCH or DELETE that
        /// the field names (`honour`).
        method_override: MethodOverride = "pin",
        /// Whether cookies pass on routes that ask for a token; a session may do more there than the token.
        cookies: Spanned<Switch> = false,
        /// How https is spoken.
        tls: ClientTls,
        /// Whether HTTP/2 is spoken: over TLS where the backend chooses it, else HTTP/1.1; without TLS the backend must
        /// know it.
        http2: Switch = false,
        /// For name resolution, TCP and TLS together.
        connect_timeout: Timeout = "2s",
        /// From the end of the request's body to the first byte of the answer.
        timeout: Timeout = "30s",
        /// How long an idle connection is kept. It must be shorter than the backend's own keep-alive time: Node.js and
        /// Apache close after 5 s. `Keep-Alive: timeout=N` in a response lowers it to one second less than N.
        idle_timeout: Period = "4s",
        /// The most connections, over all cores; 0: no bound.
        max_connections: Whole<0, ANY> = 0,
    }
}

section! {
    /// How https is spoken.
    ClientTls {
        /// Whose certificates are believed: Mozilla's, compiled in, or the operating system's.
        roots: Roots = "bundled",
        /// A PEM bundle that replaces the roots.
        ca_file: Option<ReadableFile>,
        /// The certificate chain in PEM, leaf first, that is shown to a server that asks for one.
        certificate: Option<Spanned<ReadableFile>>,
        /// The certificate's private key in PEM.
        private_key: Option<Spanned<ReadableFile>>,
        /// What the certificate must be for, where it is not the URL's host.
        server_name: Option<ServerName>,
        /// The oldest version of TLS that is spoken: `1.2` or `1.3`.
        minimum_version: TlsVersion = "1.2",
        /// Believes whoever answers, a stranger who reads every token included. Never in production.
        danger_accept_any_certificate: Spanned<Switch> = false,
    }
}

section! {
    /// Who knows the tokens.
    Introspection {
        /// Where tokens are asked about.
        url: IntrospectionUrl,
        /// `bearer`: GET with the caller's own token. `rfc7662`: POST with client credentials.
        style: Style = "bearer",
        /// The client's name, for `rfc7662`.
        client_id: Option<Spanned<Text>>,
        /// The client's secret, from the environment: `${CLIENT_SECRET}`.
        client_secret: Option<Spanned<Secret>>,
        /// The file with the client's secret.
        client_secret_file: Option<Spanned<SecretFile>>,
        /// How https is spoken.
        tls: ClientTls,
        /// Of one call, and of the wait for its turn.
        timeout: Timeout = "2s",
        /// The most calls at once.
        max_concurrent: Whole<1, 100_000> = 32,
        /// Where in the answer things stand: JSON Pointers (RFC 6901). `rfc7662` has its own defaults:
        /// /scope /exp /jti /client_id.
        response: Response,
    }
    exclusive { client_secret, client_secret_file }
}

section! {
    /// Where in the introspector's answer things stand: JSON Pointers (RFC 6901).
    Response {
        /// The abilities: a list of strings, or one string. Default `/data/abilities`, or `/scope`.
        abilities: Option<JsonPointer>,
        /// When the token expires. Default `/data/expires_at`, or `/exp`.
        expires_at: Option<JsonPointer>,
        /// The token's id. Default `/data/id`, or `/jti`.
        id: Option<JsonPointer>,
        /// The token's name. Default `/data/name`, or `/client_id`.
        name: Option<JsonPointer>,
        /// Whether it is a user's or an instance's token.
        context: Option<JsonPointer>,
        /// When the token was made.
        created_at: Option<JsonPointer>,
        /// The workspace that it belongs to.
        workspace_id: Option<JsonPointer>,
    }
}

section! {
    /// What browsers are told of cross-origin requests.
    Cors {
        /// Whose scripts may read the gateway's own answers: origins such as `https://shop.example`, or `*`. What
        /// the backend answers is the backend's.
        origins: Vec<Spanned<Origin>> = [],
        /// For `preflight: answer`: the header fields that scripts may send, beside those that need no
        /// permission. No token is sent unless Authorization is among them.
        headers: Vec<Spanned<FieldName>> = [],
        /// For `preflight: answer`: the methods that scripts may use; none: what the map has.
        methods: Vec<Spanned<Served>> = [],
        /// Whether scripts may send cookies.
        credentials: Spanned<Switch> = false,
        /// For `preflight: answer`: how long a browser may remember the answer.
        max_age: Period = "10m",
        /// Who answers a preflight: the backend, which gets it without credentials (`forward`), or the gateway
        /// (`answer`).
        preflight: Spanned<Preflight> = "forward",
    }
}

section! {
    /// How long a verdict lives.
    Cache {
        /// Of an active token; never past the token's own expiry.
        ttl: Period = "60s",
        /// Of an inactive token.
        negative_ttl: Period = "5s",
        /// The most active tokens kept.
        max_tokens: Whole<1, ANY> = 100_000,
        /// The memory for active tokens, at least 64KiB. Inactive tokens and the bookkeeping take up to a quarter of it in
        /// addition. A token of Stockaj takes 0.7 KiB.
        max_bytes: Spanned<Size> = "64MiB",
        /// How long after `ttl` a verdict serves while the introspector is out; 0s: not at all.
        stale_if_error: Period = "0s",
        /// How old a verdict may be for a route that requires one of these abilities: `items:delete: 0s` asks anew for
        /// every request, or shares what was asked since it came. `stale_if_error` never exceeds it.
        max_age: Named<Period>,
    }
}

section! {
    /// Webhooks of Stockaj, signed with HMAC-SHA256 of the body.
    Webhook {
        /// The secret that signs them, from the environment: `${WEBHOOK_SECRET}`. At least 16 bytes. Several are valid
        /// at once while one replaces the other.
        secret: Option<OneOrMore<Credential>>,
        /// The file with the secret, or several.
        secret_file: Option<OneOrMore<CredentialFile>>,
        /// The events, by X-Stockaj-Event, after which a token's verdict is forgotten. Others are taken and ignored.
        events: OneOrMore<Text> = ["token.updated", "token.deleted"],
        /// Where in the body the token's id stands.
        id: JsonPointer = "/data/id",
    }
    exclusive { secret, secret_file }
}

section! {
    /// The usage ledger: requests by token, ability, route and day.
    Usage {
        /// The file, which one gateway alone writes; where its directory is missing, it is made.
        path: PrivatePath = "/var/lib/stockaj-gateway/usage.redb",
        /// How much may be lost at most when the gateway is killed.
        flush_interval: Spanned<Timeout> = "10s",
        /// How long it is kept, in whole days.
        retention: Timeout = "90d",
        /// The most that is kept; the oldest days go first.
        max_size: Size = "1GiB",
        /// From when on something is worth a finding.
        findings: Findings,
    }
}

section! {
    /// From when on something is worth a finding.
    Findings {
        /// How old a token may get before it is to be replaced; 0s: as old as it likes.
        rotation_age: Period = "90d",
        /// For how long a token may go unused before it is to be revoked; 0s: for as long as it likes.
        silent_after: Period = "30d",
        /// From how many addresses (IPv6: of how many /64) in one day on a token is shared; 0: no number says so.
        addresses: Whole<0, ANY> = 10,
        /// From how many denied requests on it is no accident; 0: no number says so.
        denials: Whole<0, ANY> = 5,
        /// How old a token is before it is judged, by its creation or else by its first request, and for how long it has
        /// been seen before it is said what it does not use; 0s: every token is judged.
        least_age: Period = "7d",
        /// Whether names must say purpose and environment or version: `warehouse-scanner-prod`, `mobile-app-v2`.
        naming: Switch = true,
        /// Environments beside the usual ones, such as `canary`.
        environments: Vec<EnvironmentName> = [],
    }
}

section! {
    /// A Redis or Valkey where replicas tell each other of revocations.
    Redis {
        /// `redis://`, or `rediss://` for TLS, with a host and, where needed, user, password, port and database:
        /// `rediss://user:password@host:6379/0`; or `redis+unix:///path`. From the environment: `${REDIS_URL}`.
        url: Option<Spanned<Secret>>,
        /// The file with the URL.
        url_file: Option<Spanned<SecretFile>>,
        /// How TLS is spoken.
        tls: ClientTls,
        /// What replicas have in common that tell each other: a channel, and the prefix of a key.
        channel: Text = "stockaj-gateway",
    }
    exclusive { url, url_file }
}

section! {
    /// Bounds on what a client may send or hold.
    Limits {
        /// Of a request's head.
        header_bytes: Size = "16KiB",
        /// Fields in a request's head.
        header_count: Whole<1, 10_000> = 100,
        /// Of a request's target.
        target_bytes: Size = "8KiB",
        /// Of a bearer token.
        token_bytes: Size = "1KiB",
        /// Of a request's body, inclusive.
        body: Size = "100MiB",
        /// Of all clients.
        connections: Whole<1, ANY> = 10_000,
        /// Of one client address (IPv6: of one /64); 0: no bound. Trusted proxies have none.
        connections_per_address: Whole<0, ANY> = 0,
        /// In a second, and at once, of one client address (IPv6: of one /64); 0: no bound. Behind a trusted
        /// proxy the address is the right-most in X-Forwarded-For that is not itself trusted.
        requests_per_address: Whole<0, MOST_REQUESTS> = 0,
        /// From a head's first byte to its last.
        header_timeout: Timeout = "10s",
        /// Of a client's connection between requests.
        idle_timeout: Timeout = "75s",
        /// Between two pieces of a body, in either direction.
        body_idle_timeout: Timeout = "30s",
        /// Of a tunnel (WebSocket) through which nothing comes, from either side.
        tunnel_idle_timeout: Timeout = "5m",
    }
}

section! {
    /// How often one token may come. Tokens are known by the id that introspection names.
    RateLimit {
        /// In the long run.
        requests_per_second: Whole<1, MOST_REQUESTS> = 50,
        /// At once, after a pause.
        burst: Whole<1, MOST_REQUESTS> = 100,
        /// By the token's name, which is its owner's choice: lower values hold, higher ones do not.
        by_name: Named<RateOverride>,
        /// By the token's id: values that hold instead of those above, lower or higher.
        by_id: Named<RateOverride>,
    }
}

section! {
    /// For some tokens; what is left out is as for all.
    RateOverride {
        /// In the long run.
        requests_per_second: Option<Whole<1, MOST_REQUESTS>>,
        /// At once, after a pause.
        burst: Option<Whole<1, MOST_REQUESTS>>,
    }
}

section! {
    /// What a caller is told whose token lacks an ability, beside the 403 of every answer.
    Denials {
        /// Whether `X-Required-Ability` names the abilities: `a, b` where all of them are required, `a | b` where any is.
        required_ability: Switch = false,
        /// The URL of a page that helps, for `Link: <…>; rel="help"`.
        link: Option<HelpUrl>,
    }
}

section! {
    /// Spans of OpenTelemetry, of which requests and where they go.
    Traces {
        /// The base URL of a collector that takes OTLP over HTTP: http or https, or `unix:/path`. Spans go to
        /// `/v1/traces` below it. Without it nothing is traced.
        otlp_endpoint: Option<Spanned<BackendUrl>>,
        /// Of the requests with which a trace begins, how many are traced, from 0 to 1. A trusted proxy has decided
        /// for those that it sends a `traceparent` with.
        sample_ratio: Ratio = 1,
        /// The most requests that are traced in a second, whoever decided so; each core has its share, and at least one.
        max_per_second: Whole<1, MOST_REQUESTS> = 100,
        /// `service.name` of the spans.
        service_name: Text = "stockaj-gateway",
        /// Header fields for the collector, `Name: value`, one a line, from the environment: `${OTLP_HEADERS}`.
        secret_headers: Option<Spanned<Secret>>,
        /// The file with the header fields.
        secret_headers_file: Option<Spanned<SecretFile>>,
        /// How long spans are gathered before they are sent.
        flush_interval: Timeout = "1s",
        /// Of one attempt to send them.
        timeout: Timeout = "5s",
        /// How https is spoken.
        tls: ClientTls,
    }
    exclusive { secret_headers, secret_headers_file }
}

section! {
    /// What serves.
    Runtime {
        /// Threads that serve requests; 0: the available cores, 4 at most.
        threads: Whole<0, 256> = 0,
    }
}

section! {
    /// What is logged, on standard output.
    Log {
        /// The least severity.
        level: LogLevel = "info",
        /// JSON, or text for people.
        format: LogFormat = "json",
        /// One line a request.
        access: Switch = true,
        /// Of forwarded requests that ended well, one in this many has its line.
        access_sample: Whole<1, ANY> = 1,
    }
}

section! {
    /// The ability map: which abilities open which path.
    Abilities {
        /// A map file: `{routes: {…}}`. A route in `routes` replaces its equal one as a whole.
        file: Option<IncludedMap>,
        /// What becomes of paths that no route matches.
        unmapped: Unmapped = "deny",
        /// Patterns and, for each method, what it asks of a token.
        routes: Routes,
    }
}

section! {
    /// A map file.
    MapFile {
        /// Patterns and, for each method, what it asks of a token.
        routes: Spanned<Routes>,
    }
}
