//! stockaj-gateway: a reverse proxy that enforces token abilities in front of Stockaj.
//!
//! The modules, one line each:
//!
//! ```text
//! main.rs      command line in, exit code out
//! cli/         one file per command
//! config/      gateway.yaml: a language below, a file per section above; every error with its place
//! policy/      PURE: framing, path, route, map, ability, bearer, headers, refusal, decision; no I/O
//! gateway.rs   the phases of a request; gateway/ has token verdicts, preflights, shadow mode, tunnels, decisions, responses
//! response/    the gateway's own responses, response bodies, and the record of each request
//! openapi/     OpenAPI documents: reads them, drafts maps from them, compares them with maps
//! cases/       policy tests: reads their files, compares decisions with the expected ones
//! catch_panic.rs  limits a panic to its request
//! downstream.rs a client's connection: address, TLS, state
//! listener.rs  a bound socket of a listener
//! limits/      limits on requests and tunnels, by token and address
//! tokens/      verdict, introspection, cache, revocation, block list
//! replicas/    revocations, blocks and shares of rate limits from and to other replicas, through Redis
//! backend/     request (writes the upstream request), forward (takes a Permit), tunnel
//! client/      connections out: resolve, connect, TLS, HTTP/1.1 and HTTP/2, pool
//! server/      acceptor, dispatcher, worker, connection, scanners before hyper and h2, TLS, reload
//! telemetry/   metrics, spans, access log
//! traces/      exports spans to a collector by OTLP
//! usage/       counts what tokens use, keeps it in a ledger, reports it
//! admin/       the admin listener
//! page/        frame and style of the web pages
//! sanitize.rs  makes names from outside harmless for terminals
//! demo/        the stand-in for Stockaj
//! internals.rs  the items of the crate that benchmarks, fuzz targets and integration tests use
//! secrets/     keys, certificates and secrets from files; errors quote nothing of them
//! watch.rs     detects changed files
//! ```
//!
//! Layers, from top to bottom. A module imports only from the layers below its own, and `policy` imports no other module.
//! `tests/house.rs` reads this list and enforces it, and that files import each other only if one is the parent of the
//! other.
//!
//! ```text
//! layer: cli internals
//! layer: server
//! layer: admin gateway replicas traces
//! layer: cases openapi
//! layer: response
//! layer: backend tokens usage
//! layer: client limits
//! layer: listener telemetry
//! layer: config
//! layer: catch_panic demo downstream page policy sanitize secrets watch
//! ```
//!
//! A request as data: `Request → CanonicalPath → &Route → Token → Arc<Verdict> → Permit → upstream request →
//! response`. Each step needs the result of the one before, so that none can be left out: [`backend`] takes a
//! [`policy::decision::Permit`], and only the state machine in [`policy::decision`] makes one.

mod admin;
mod backend;
mod cases;
mod catch_panic;
mod cli;
mod client;
mod config;
mod demo;
mod downstream;
mod gateway;
#[doc(hidden)]
pub mod internals;
mod limits;
mod listener;
mod openapi;
mod page;
mod policy;
mod replicas;
mod response;
mod sanitize;
mod secrets;
mod server;
mod telemetry;
mod tokens;
mod traces;
mod usage;
mod watch;

pub use cli::CommandLine;
