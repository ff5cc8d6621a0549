//! `demo`: a gateway in front of an embedded stand-in for Stockaj.

mod ledger;
mod month;

use std::error::Error;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::time::SystemTime;

use anstyle::{AnsiColor, Style};
use serde_json::json;

use self::ledger::LedgerDirectory;
use super::rule_text::rule_text;
use super::run::shutdown;
use super::{Exit, SHIPPED_MAP, output, report};
use crate::config;
use crate::config::settings::ListenAddress;
use crate::demo::Stockaj;
use crate::demo::tokens::{ALL, EXPIRED, READER, SCANNER, SampleToken, USER, WRITER};
use crate::listener::Inherited;
use crate::policy::decision::read_request;
use crate::policy::map::AbilityMap;
use crate::server::Server;
use crate::telemetry::{log, panics};

const ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);
const ADMIN_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9090);
const STOCKAJ_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

const BOLD: Style = Style::new().bold();
const DIM: Style = Style::new().dimmed();
const GOOD: Style = AnsiColor::Green.on_default().bold();
const BAD: Style = AnsiColor::Red.on_default().bold();

/// Run a gateway in front of an embedded stand-in for Stockaj, with sample tokens
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The address of the gateway [default: 127.0.0.1:8080, or a free port if that is taken]
    #[arg(long, value_name = "ADDRESS")]
    address: Option<SocketAddr>,
    /// The address of its admin listener [default: 127.0.0.1:9090, or a free port if that is taken]
    #[arg(long, value_name = "ADDRESS")]
    admin_address: Option<SocketAddr>,
    /// The address of the stand-in for Stockaj, whose tokens are public knowledge [default: a free port]
    #[arg(long, value_name = "ADDRESS")]
    stockaj_address: Option<SocketAddr>,
}

impl Arguments {
    pub(crate) fn execute(&self) -> Exit {
        match self.serve() {
            Ok(exit) => exit,
            Err(error) => {
                report(format_args!("error: {error}"));
                Exit::Failure
            }
        }
    }

    fn serve(&self) -> Result<Exit, Box<dyn Error>> {
        panics::log_places_only();
        let stockaj = start_stockaj(self.stockaj_address.unwrap_or(STOCKAJ_ADDRESS))?;
        let mut taken = Vec::new();
        let address = choose(self.address, ADDRESS, &mut taken);
        let admin = choose(self.admin_address, ADMIN_ADDRESS, &mut taken);
        // Lives as long as the server. The demo also runs without a ledger, if its directory cannot be created.
        let ledger = LedgerDirectory::new();
        let usage = ledger.as_ref().ok();
        let yaml = gateway_yaml(address, admin, stockaj, usage)?;
        let settings = config::load_text("the demo's gateway.yaml", yaml)?.settings;
        if let Some(usage) = usage {
            month::write(&usage.file(), &settings.abilities, SystemTime::now())?;
        }
        let log = log::init(&settings.log);
        let rules = CALLS.iter().map(|call| call.rule(&settings.abilities)).collect();
        let server = Server::bind(settings, log, Inherited::default())?;
        let welcome = Welcome {
            stockaj,
            gateway: reachable(server.proxy_address(), address),
            admin: reachable(server.admin_address(), admin),
            usage: ledger.as_ref().map(|usage| usage.admin_token.as_str()).map_err(ToString::to_string),
            taken,
            rules,
        };
        let exit = output(Exit::Success, |out| welcome.write(out));
        server.serve(shutdown)?;
        Ok(exit)
    }
}

/// Serves the stand-in on a thread of its own until the process ends. Returns an address that this machine can reach.
fn start_stockaj(requested: SocketAddr) -> io::Result<SocketAddr> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let stockaj = runtime.block_on(Stockaj::bind(requested))?;
    let address = reachable(&ListenAddress::Tcp(stockaj.address()), requested);
    std::thread::Builder::new()
        .name("stockaj".to_owned())
        .spawn(move || runtime.block_on(stockaj.serve(std::future::pending())))?;
    Ok(address)
}

/// A request to try, and its expected status.
struct Call {
    status: u16,
    why: &'static str,
    token: Option<SampleToken>,
    method: &'static str,
    path: &'static str,
    body: Option<&'static str>,
}

impl Call {
    const fn get(status: u16, why: &'static str, token: Option<SampleToken>, path: &'static str) -> Self {
        Self { status, why, token, method: "GET", path, body: None }
    }

    /// The shell command that sends the request, with the variables that [`Welcome::write`] sets.
    fn curl(&self) -> String {
        let mut line = "curl -i".to_owned();
        let implied = if self.body.is_some() { "POST" } else { "GET" };
        if self.method != implied {
            let _ = write!(line, " -X {}", self.method);
        }
        let _ = write!(line, " $GATEWAY{}", self.path);
        if let Some(token) = self.token {
            let _ = write!(line, " -H \"Authorization: Bearer ${}\"", variable(&token));
        }
        if let Some(body) = self.body {
            let _ = write!(line, " -H \"$JSON\" -d '{body}'");
        }
        line
    }

    /// The rule that denies the request; empty if it is allowed.
    fn rule(&self, map: &AbilityMap) -> String {
        match read_request(map, self.method, self.path) {
            Ok((method, path)) if self.status >= 400 => rule_text(map, &map.find(&method, &path), &method),
            _ => String::new(),
        }
    }
}

/// The shell variable that holds a token. Shells set `USER` themselves.
fn variable(token: &SampleToken) -> &'static str {
    match token.id {
        id if id == USER.id => "USER_TOKEN",
        id if id == READER.id => "READER",
        id if id == SCANNER.id => "SCANNER",
        id if id == WRITER.id => "WRITER",
        _ => "EXPIRED",
    }
}

const CALLS: [Call; 11] = [
    Call::get(200, "the reader may read items", Some(READER), "/api/v2/items"),
    Call {
        status: 200,
        why: "the scanner may scan",
        token: Some(SCANNER),
        method: "POST",
        path: "/api/v2/kiosk/scan",
        body: Some(r#"{"code":"DRILL-01"}"#),
    },
    Call {
        status: 200,
        why: "and take a rental back",
        token: Some(SCANNER),
        method: "PATCH",
        path: "/api/v2/rentals/1",
        body: Some(r#"{"status":"returned"}"#),
    },
    Call {
        status: 201,
        why: "the writer may create an item",
        token: Some(WRITER),
        method: "POST",
        path: "/api/v2/items",
        body: Some(r#"{"name":"Ladder","code":"LADDER-01"}"#),
    },
    Call::get(200, "a User token may do everything", Some(USER), "/api/v2/instance"),
    Call::get(200, "a public route needs no token", None, "/up"),
    Call::get(401, "no token", None, "/api/v2/items"),
    Call::get(401, "an expired token", Some(EXPIRED), "/api/v2/items"),
    Call {
        status: 403,
        why: "the reader may not create items",
        token: Some(READER),
        method: "POST",
        path: "/api/v2/items",
        body: Some(r#"{"name":"Ladder"}"#),
    },
    Call {
        status: 403,
        why: "the scanner may not delete items",
        token: Some(SCANNER),
        method: "DELETE",
        path: "/api/v2/items/1",
        body: None,
    },
    Call::get(403, "a path that the map lacks is denied", Some(READER), "/api/v2/internals"),
];

/// The text that the demo prints when it has started.
struct Welcome<'a> {
    stockaj: SocketAddr,
    gateway: SocketAddr,
    admin: SocketAddr,
    /// The admin token, for the usage page; or why there is no ledger.
    usage: Result<&'a str, String>,
    /// The default addresses that were in use.
    taken: Vec<SocketAddr>,
    /// The rules that deny [`CALLS`], empty for those that are allowed.
    rules: Vec<String>,
}

impl Welcome<'_> {
    fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let Self { stockaj, gateway, admin, .. } = self;
        writeln!(out, "{BOLD}A stand-in for Stockaj behind a gateway.{BOLD:#} Ctrl-C ends both.\n")?;
        for taken in &self.taken {
            writeln!(out, "  {taken} is taken: a free port is used instead.\n")?;
        }
        writeln!(out, "  gateway  http://{gateway}")?;
        writeln!(out, "  metrics  http://{admin}/metrics")?;
        match &self.usage {
            Ok(token) => writeln!(
                out,
                "  usage    http://demo:{token}@{admin}/usage {DIM}(the month before today is made up){DIM:#}"
            )?,
            Err(error) => {
                writeln!(out, "  usage    {DIM}not recorded: no directory for the ledger: {error}{DIM:#}")?
            }
        }
        writeln!(out, "  Stockaj  http://{stockaj} {DIM}(bypasses the gateway){DIM:#}\n")?;

        writeln!(out, "{BOLD}Tokens{BOLD:#}\n")?;
        let longest = ALL.iter().map(|token| token.name.len()).max().unwrap_or_default();
        for token in ALL {
            let abilities = token.abilities.join(" ");
            let expired = if token.id == EXPIRED.id { " (expired)" } else { "" };
            writeln!(
                out,
                "  {:10}  {:longest$}  {DIM}{abilities}{expired}{DIM:#}",
                variable(&token),
                token.name
            )?;
        }

        writeln!(out, "\n{BOLD}Paste into a second terminal{BOLD:#}\n")?;
        writeln!(out, "GATEWAY=http://{gateway}")?;
        writeln!(out, "JSON='Content-Type: application/json'")?;
        for token in ALL {
            writeln!(out, "{}='{}'", variable(&token), token.plain_text())?;
        }

        writeln!(out, "\n{BOLD}Try{BOLD:#}\n")?;
        for (call, rule) in CALLS.iter().zip(&self.rules) {
            let style = if call.status < 400 { GOOD } else { BAD };
            let rule = if rule.is_empty() { String::new() } else { format!(" {DIM}({rule}){DIM:#}") };
            writeln!(out, "  {style}{}{style:#}  {}{rule}", call.status, call.why)?;
            writeln!(out, "       {}", call.curl())?;
        }
        writeln!(out)
    }
}

/// A gateway.yaml for the backend `stockaj`, with the shipped map.
fn gateway_yaml(
    address: SocketAddr,
    admin: SocketAddr,
    stockaj: SocketAddr,
    usage: Option<&LedgerDirectory>,
) -> Result<String, serde_yaml::SerializeError> {
    let mut configuration = json!({
        "listen": {"address": address, "drain_timeout": "2s"},
        "admin": {"address": admin},
        "backend": {"url": format!("http://{stockaj}")},
        "introspection": {"url": format!("http://{stockaj}/api/v2/token")},
        "log": {"format": "text"},
    });
    if let Some(usage) = usage {
        configuration["admin"]["token"] = json!(usage.admin_token);
        configuration["usage"] = json!({"path": usage.file()});
        configuration["blocked"] = json!({"path": usage.file().with_file_name("blocked.json")});
    }
    let mut text = serde_yaml::to_string(&configuration)?;
    text.push_str("abilities:\n");
    for line in SHIPPED_MAP.lines() {
        let _ = writeln!(text, "  {line}");
    }
    Ok(text)
}

/// The requested address, or the default. If the default is in use, adds it to `taken` and returns its IP address with
/// port 0.
fn choose(requested: Option<SocketAddr>, default: SocketAddr, taken: &mut Vec<SocketAddr>) -> SocketAddr {
    match requested {
        Some(address) => address,
        None if TcpListener::bind(default).is_ok() => default,
        None => {
            taken.push(default);
            SocketAddr::new(default.ip(), 0)
        }
    }
}

/// The address at which a client on this machine reaches a listener. `bound` has the port if `requested` has port 0.
fn reachable(bound: &ListenAddress, requested: SocketAddr) -> SocketAddr {
    let mut address = match bound {
        ListenAddress::Tcp(address) => *address,
        ListenAddress::Unix(_) => requested,
    };
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    address
}
