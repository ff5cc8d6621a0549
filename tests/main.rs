//! The integration tests: one binary, one module a topic.

// Helpers are not `#[test]` functions, and clippy.toml can exempt only those.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]
#![allow(unreachable_pub)]

mod support; // gateway, upstream, introspector and client builders, all on port 0

mod abilities; // the shipped map permits exactly the requests of the authentication guide
mod access_log; // when access lines are written, and that none is lost, torn or out of order
mod activation; // socket activation by systemd, and notifications to systemd
mod admin_connections; // connections to the admin listener and the redirect: which are evicted, and that probes get a slot
mod answers; // every response of the gateway itself, to the byte
mod attacks; // known attacks on gateways, byte by byte, before a backend that records every request
mod audit; // audit lines and the log if standard output is stuck or full
mod autobahn; // the Autobahn test suite of WebSocket, through the gateway and without it
mod backend_http2; // HTTP/2 to the backend: translation, limits and failures
mod backend_tls; // TLS with the backend and the introspector: accepted servers, and logged errors
mod blocking; // the block list: what it refuses, how blocks end, and that they survive restarts and crashes
mod certificates; // TLS from clients: selection and renewal of certificates, and client certificates
mod check; // `check` on every kind of file, and its formats for programs
mod claims; // `introspection.expect` and `nbf`: tokens for other services and before their time
mod clients; // foreign clients: curl, httpx, websockets, Node.js and a browser
mod clock; // the wall clock is set while the gateway runs
mod completions; // completion scripts and manual pages: every command, and that shells and man accept them
mod config; // reports about configurations, to the byte: every error with its location, and no secret
mod continuity; // reloads, renewed certificates and restarts under load: no request fails
mod cors; // CORS: preflights, and which origins can read the gateway's own responses
mod dashboards; // rules, alerts and dashboard against a gateway with all features, and a real Prometheus
mod decision; // the decision listener: descriptions, answers and gRPC, and that it decides as the proxy does
mod demo; // the output of `demo` holds
mod denials; // the fields of a 403 for a missing ability, over both versions of HTTP
mod deploy; // the files under `deploy/`, checked by the tools that read them
mod deprecated; // `deprecated` of a route: the fields of its responses, and findings about its callers
mod diff; // `diff`: which requests a changed map denies or allows, and its exit codes
mod documentation; // the program does what the documentation shows; links, anchors and generated pages
mod drain; // draining: no request is lost, and the drain ends within its timeout
mod explain; // `explain`: real tokens, and hints for requests that are not in the map
mod fair_sharing; // the queue in front of the backend: one caller cannot keep the connections from others
mod file_limits; // output that cannot be written: files at their size limit, and closed pipes
mod forwarding; // forwarded requests and returned responses, byte by byte
mod framing; // framing of requests: what the scanner rejects, and how
mod freshness; // `cache.max_age`: how old a verdict may be for an ability
mod front_controller; // `index.php` in a path: only if the route names it
mod fuzz; // the fuzz targets over their seeds
mod headers; // header fields: which are forwarded, which the gateway sets, and method overrides
mod house; // conventions that a scan of the sources can check, such as the layers
mod http2; // HTTP/2 from clients: translation, limits, memory and conformance
mod image; // the container image: its content, and that it runs
mod init; // `init` and `check --online`: each step of the probe, and its correction
mod instructions; // instructions per request of the shipped binary
mod kept_connections; // reused backend connections, and backends that close them
mod laravel; // a real Laravel behind the gateway
mod large; // large bodies with a slow peer: bounded memory
mod limits; // rate limits, connection limits and body limits, by token, address and route
mod listening; // Unix sockets and the PROXY protocol
mod log_floods; // log lines that clients can provoke are throttled
mod memory; // memory of the token cache and of stalled connections
mod model; // a model of how Laravel reads a request, checked against the gateway's decision
mod names; // backend and introspector by name: one address family unanswered, truncated or failing
mod networks; // the networks of routes and tokens, and the addresses that count
mod oauth; // a real authorization server as introspector: tokens for other services, revoked, expired and early ones
mod openapi; // `openapi`: maps drafted from OpenAPI documents, and maps compared with them
mod pages; // the web pages in a real browser
mod policy; // `test`: policy tests of maps
mod profile; // the shipped binary was optimised with the profile of its own training run
mod proxies; // nginx, Traefik, Caddy and Envoy with the shipped files, before the decision listener
mod queries; // rules for the parameters of a query, against the real PHP and Laravel too
mod read_ahead; // responses that their clients do not read: when the backend's connection is free, and what arrives later
mod reload; // reloading the configuration while requests are served
mod replicas; // several replicas and a real Redis: a revocation reaches all of them
mod request_log; // request ids, and the access line of a request
mod resilience; // outages and faults around the gateway, as clients see them
mod revocation; // revocation: who may revoke, what is evicted, and that nothing restores it
mod scripts; // the scripted servers and the raw client, against each other
mod secrets; // tokens and secrets are in no log, metric, error or core dump
mod security; // every threat of the threat model names tests that exist and run
mod server; // connections, signals, logs and metrics
mod shadow; // shadow mode and candidate maps
mod slow; // slowhttptest in its four modes, while other clients are served
mod soak; // floods of tokens and connections: bounded memory, and other clients are served
mod spellings; // many spellings of one token, and tokens without the ability: how they affect other clients
mod stand_in; // the demo's stand-in for Stockaj
mod streaming; // streamed bodies: events, `Expect`, early responses, and clients that disconnect
mod testssl; // testssl.sh against the listener
mod timeouts; // `timeout` of a route: over both versions of HTTP on both sides
mod tls; // TLS on both sides: what `listen.tls` serves, and which servers a connector trusts
mod tokens; // tokens and configuration on the admin listener, and the `tokens` command
mod traces; // spans at a collector, and the trace context that backend and introspector receive
mod tunnels; // WebSocket tunnels: handshakes, authorization and lifetime
mod unmapped; // requests without a rule: their list, and the snippet for the map
mod upload_rate; // `limits.body_rate`: slow uploads are ended, and others are not
mod usage; // the usage ledger: what is counted, restarts, full disks and reloads
mod usage_command; // the output of `usage`
mod usage_findings; // findings about tokens, from requests to the report
mod usage_page; // the usage page in a real browser
mod verdicts; // introspection: how often a token is introspected, and how long its verdict is used
mod version; // `--version`, and its sources in build.rs
mod webhook; // signed webhooks of Stockaj on the admin listener
