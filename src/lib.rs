//! stockaj-gateway: the reverse proxy that puts token abilities in front of Stockaj.
//!
//! The map of the house, one line a module:
//!
//! ```text
//! main.rs      the command line in, an exit code out; nothing else
//! cli/         one file a command
//! config/      gateway.yaml: a language below, a file per section above; every error with its place
//! policy/      PURE: framing, path, route, map, ability, bearer, headers, refusal; no I/O
//! gateway.rs   THE request path, top to bottom in one file
//! answer.rs    Refusal → status, body, header fields
//! answer_body.rs  the body of an answer, and with its end the end of the exchange
//! openapi/     OpenAPI documents: reads them, drafts maps from them, compares them with maps
//! cases/       policy tests: reads their files, compares decisions with the expected ones
//! exchange.rs  the record of one request: metrics and access line, once, however it ends
//! contain.rs   a panic ends in its request
//! peer.rs      the client's side of a connection, and what it is doing
//! listener.rs  a bound socket, of the proxy or of the admin listener
//! limits/      how often one caller may come
//! tokens/      who is calling: verdict, introspection, cache
//! replicas/    revocations from and to other replicas, by Redis
//! backend/     forward (takes a Permit), tunnel
//! client/      connections out: resolve, TLS, keep-alive pool
//! server/      listen, head (the scanner before hyper), connection, tls, drain
//! telemetry/   metrics, spans, access log
//! traces/      spans to a collector, by OTLP
//! usage/       what tokens do: counted, kept in a ledger, reported
//! admin/       the admin listener
//! page/        what the web pages share: frame and look
//! shown.rs     names that others chose, made harmless where people read them
//! demo/        the stand-in for Stockaj
//! secrets/     keys, certificates and secrets from files; errors that quote nothing
//! watch.rs     whether files have changed
//! ```
//!
//! The arrow: `main → cli → server → gateway → {tokens, backend} → {client, limits, policy}`; `config → policy`;
//! `telemetry` may be imported by all but `policy`. Siblings do not import each other, and `policy`
//! imports nothing of ours. `tests/house.rs` scans the imports and keeps it so.
//!
//! A request, as data: `Request → CanonicalPath → &Route → Token → Arc<Verdict> → Permit → upstream
//! request → answer`. Each step needs the result of the one before, so that none can be left out: [`backend`] takes a
//! [`policy::decision::Permit`], and only the state machine in [`policy::decision`] makes one.

pub mod admin;
pub mod answer;
pub mod answer_body;
pub mod backend;
pub mod cases;
pub mod cli;
pub mod client;
pub mod config;
pub mod contain;
pub mod demo;
pub mod exchange;
pub mod gateway;
pub mod limits;
pub mod listener;
pub mod openapi;
pub mod page;
pub mod peer;
pub mod policy;
pub mod replicas;
pub mod secrets;
pub mod server;
pub mod shown;
pub mod telemetry;
pub mod tokens;
pub mod traces;
pub mod usage;
pub mod watch;
