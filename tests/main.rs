//! The integration tests: one binary, one module a topic.

// Helpers are no `#[test]`s, which is all that clippy.toml can exempt.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]
#![allow(unreachable_pub)]

mod support; // gateway, upstream, introspector and client builders, all on port 0

mod abilities; // the shipped map against the authentication guide: every ability, every route
mod access_log; // when access lines are written, and that none is lost, torn or out of order
mod activation; // sockets that somebody else listens on, and what systemd is told
mod admin_connections; // connections to the admin listener and the redirect: who keeps a place, and that probes get through
mod answers; // every answer of the gateway itself, to the byte
mod attacks; // every known way past a gateway, byte by byte, before a backend that records what arrives
mod audit; // what happens to audit lines and the log when standard output does not take them
mod autobahn; // the Autobahn test suite, through the gateway and without
mod backend_http2; // HTTP/2 to the backend: what reaches it, what comes back, and what goes wrong
mod backend_tls; // whom the gateway speaks TLS with, and what it says where it does not
mod certificates; // what clients are shown, whom they must show, and how certificates are replaced
mod check; // `check` on every kind of file, and its formats for programs
mod clients; // clients that are not ours: curl, httpx, websockets, Node, a browser
mod clock; // the wall clock is set while the gateway runs
mod completions; // completion scripts and manual pages: every command, and that shells and man take them
mod config; // what is said about a configuration: every mistake with its place, secrets never
mod continuity; // reloads, certificates and restarts under load: every request is counted
mod cors; // browsers: preflights, and who may read the gateway's own answers
mod dashboards; // rules, alerts and dashboard against a gateway that has all of it, and a real Prometheus
mod demo; // what `demo` prints is true
mod denials; // what a caller is told who lacks an ability
mod deploy; // what is shipped under deploy/
mod diff; // what a change of the map allows or denies anew, and how `diff` ends
mod documentation; // the program does what the documentation shows; links, anchors and generated pages
mod drain; // how it ends: no request is lost, and nobody is waited for too long
mod explain; // `explain`: real tokens, and hints for requests that are not in the map
mod file_limits; // output that cannot be written: files at their size limit, and pipes that nobody reads
mod forwarding; // what reaches the backend and what comes back, to the byte
mod framing; // where messages end: what the scanner refuses, and how
mod freshness; // how old a verdict may be for what
mod front_controller; // `index.php` in a path: only where the route names it
mod fuzz; // the fuzz targets over their seeds
mod headers; // which fields pass, which the gateway sets, and the method that they may name
mod house; // the arrow between modules, and other habits that a scan can check
mod http2; // HTTP/2 from clients: the same answers as over HTTP/1, and what its frames may do
mod image; // the container image: what is in it, and that it runs
mod instructions; // what a request costs in instructions, of the binary that ships
mod kept_connections; // connections to the backend that are kept, and backends that end them
mod laravel; // a real Laravel behind the gateway
mod large; // large bodies past a slow peer: what they cost in memory
mod limits; // how much, how often and how many: to the last one allowed, by token and by address
mod listening; // Unix sockets, and connections that the PROXY protocol tells about
mod log_floods; // what strangers can provoke in the log is throttled
mod memory; // what the token cache and connections that stand still take in memory
mod model; // a model of how Laravel reads a request, and the gateway against it
mod names; // backend and introspector by name: one address family unanswered, truncated or failing
mod openapi; // maps drafted from OpenAPI documents, and maps compared with them
mod pages; // the web pages in a real browser
mod policy; // policy as code: tests of maps
mod profile; // the profile that the shipped binary is optimised with belongs to it
mod reload; // another configuration while requests are served
mod replicas; // several gateways and a real Redis: what one revokes no other serves
mod request_log; // request ids, and what the access log says of each request
mod resilience; // what goes wrong around the gateway, and what its clients see of it
mod revocation; // forgetting verdicts by order
mod scripts; // the scripted servers and the raw client, against each other
mod secrets; // where tokens do not get
mod security; // every threat of the threat model names tests that exist
mod server; // connections in, signals, logs and metrics
mod shadow; // what is not enforced: what is forwarded all the same, what is told of it, and that a candidate changes no answer
mod slow; // slowhttptest in its four modes, while others are served
mod soak; // floods: what they cost in memory, and what they do to everyone else
mod spellings; // one token in many spellings, and tokens that lack an ability: what they may take from others
mod stand_in; // the demo's stand-in for Stockaj, alone
mod streaming; // bodies as they flow: events, Expect, early answers, clients that have left
mod testssl; // testssl.sh looks at the listener
mod tls; // both sides of TLS: what is served, what is believed
mod tokens; // what the admin listener shows, and `tokens`, which asks it
mod traces; // whose request is part of which: as the backend and a collector are told
mod tunnels; // WebSocket: what becomes a tunnel, and how long it lives
mod unmapped; // requests that the map does not cover: listed, and as a map to paste
mod usage; // what tokens do: counted, kept and told, whatever happens to the disk
mod usage_command; // what `usage` prints of reports
mod usage_findings; // what there is to do about tokens, from requests to the report
mod usage_page; // the web page of usage, in a real browser
mod verdicts; // whom the gateway asks about a token, how often, and how long it believes the answer
mod version; // `--version`, and where build.rs has it from
mod webhook; // what Stockaj tells by itself, signed
