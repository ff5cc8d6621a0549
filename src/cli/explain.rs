//! `explain`: shows the steps of one decision.

mod advice;
mod nearest;
mod steps;

use std::fmt::Display;
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::Path;

use anstyle::{AnsiColor, Color, Style};
use ipnet::IpNet;

use super::token_input::bearer_fields;
use super::token_state::{TokenState, difference, holder, valid_from};
use super::{ConfigArgument, Exit, abilities, output, report, show, token_from_stdin};
use crate::config;
use crate::policy::bearer::Token;
use crate::policy::decision::{ActiveToken, KnownCaller, read_request};
use crate::policy::map::AbilityMap;
use crate::policy::network::{ClientAddress, parse_address, parse_network};
use crate::policy::refusal::Refusal;
use crate::response::own::status;
use crate::tokens::introspection::Inactive;
use crate::tokens::verdict::Verdict;

/// Explain the decision on a request; exit 0 if it is allowed, 1 if it is denied
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The method, such as GET
    method: String,
    /// The path, such as /api/v2/items, or with a query /api/v2/items?include=renters
    path: String,
    #[command(flatten)]
    config: ConfigArgument,
    /// The abilities of the token, separated by commas; without this the request has no token
    #[arg(long, value_delimiter = ',', value_name = "ABILITIES", conflicts_with = "token_stdin")]
    abilities: Option<Vec<String>>,
    /// Read a token from standard input and introspect it with the `introspection` of the configuration. Of the block
    /// list, only `blocked` of the configuration is known: `tokens blocked` asks the gateway for all blocks
    #[arg(long)]
    token_stdin: bool,
    /// The client's address, such as 10.1.2.3; without this it is unknown, and routes with `from` refuse it
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    from: Option<IpAddr>,
    /// The networks that the token may be used from, separated by commas; '' is a token that may be used from nowhere
    #[arg(long, value_delimiter = ',', value_name = "NETWORKS", value_parser = network, requires = "abilities")]
    allowed_from: Option<Vec<Listed>>,
}

/// An element of `--allowed-from`; `None` if it is empty.
type Listed = Option<IpNet>;

fn address(text: &str) -> Result<IpAddr, &'static str> {
    parse_address(text).ok_or("not an address such as 10.1.2.3 or fd00::1")
}

fn network(text: &str) -> Result<Listed, &'static str> {
    match text.trim() {
        "" => Ok(None),
        text => parse_network(text).map(Some).ok_or("not a network such as 10.0.0.0/8 or fd00::/8"),
    }
}

impl Arguments {
    pub(crate) fn execute(&self) -> Exit {
        let loaded = self.config.path().and_then(|path| Ok((config::load_abilities(&path)?, path)));
        let (loaded, path) = match loaded {
            Ok(loaded) => loaded,
            Err(mistakes) => {
                show(&mistakes);
                return Exit::Failure;
            }
        };
        let caller = match self.caller(&path) {
            Ok(caller) => caller,
            Err(exit) => return exit,
        };
        let (caller, described) = caller;
        let mut verdict = Exit::Failure;
        let printed = output(Exit::Success, |out| {
            if let Some((name, what)) = described {
                step(out, name, what)?;
            }
            verdict = explain(&loaded.map, (&self.method, &self.path), &caller, self.from.into(), out)?;
            self.decision_listener(&loaded.map, &path, out)
        });
        if printed == Exit::Success { verdict } else { printed }
    }

    /// Writes that the decision listener refuses a path that the proxy listener rewrites, if that listener is on.
    fn decision_listener(&self, map: &AbilityMap, config: &Path, output: &mut dyn Write) -> io::Result<()> {
        let is_rewritten =
            read_request(map, &self.method, &self.path).is_ok_and(|(_, path)| !path.is_borrowed());
        if is_rewritten && config::has_decision_listener(config) {
            step(output, "decision", "the decision listener answers 400: the path is not canonical")?;
        }
        Ok(())
    }

    /// The caller, and a step with what the introspector said about its token.
    fn caller(&self, path: &Path) -> Result<(KnownCaller, Option<TokenStep>), Exit> {
        if self.token_stdin {
            return introspect(path);
        }
        let caller = match &self.abilities {
            // `--abilities ''` is a token without abilities.
            Some(names) => {
                let networks = self.allowed_from.as_ref();
                let allowed_from = networks.map(|list| list.iter().flatten().copied().collect());
                KnownCaller::Active(ActiveToken { abilities: abilities(names), allowed_from })
            }
            None => KnownCaller::Nobody,
        };
        Ok((caller, None))
    }
}

/// The name and text of the step that describes an introspected token.
type TokenStep = (&'static str, String);

/// Introspects the token on standard input with the configuration at `path`.
fn introspect(path: &Path) -> Result<(KnownCaller, Option<TokenStep>), Exit> {
    let fail = |error: &dyn Display| {
        report(format_args!("error: {error}"));
        Exit::Failure
    };
    let line = token_from_stdin().map_err(|error| fail(&error))?;
    let loaded = config::load_introspection(path).and_then(|it| Ok((it, config::load_blocked(path)?)));
    let ((introspection, token_bytes), blocked) = match loaded {
        Ok(loaded) => loaded,
        Err(mistakes) => {
            show(&mistakes);
            return Err(Exit::Failure);
        }
    };
    let Some(fields) = bearer_fields(line.trim()) else {
        return Ok((KnownCaller::Refused(Refusal::MalformedToken), None));
    };
    let token = match Token::from_fields(&fields, token_bytes) {
        Ok(token) => token,
        Err(refusal) => return Ok((KnownCaller::Refused(refusal), None)),
    };
    let state = TokenState::introspect(&introspection, &blocked, &token).map_err(|error| fail(&*error))?;
    let of = |verdict: &Verdict| Some(("token of", holder(verdict)));
    let (refusal, described) = match state {
        TokenState::Active(verdict) => {
            let described = of(&verdict);
            let Verdict { abilities, allowed_from, .. } = verdict;
            return Ok((KnownCaller::Active(ActiveToken { abilities, allowed_from }), described));
        }
        TokenState::Expired(verdict) => (Refusal::ExpiredToken, of(&verdict)),
        TokenState::Blocked(verdict) => (Refusal::Blocked, verdict.as_ref().and_then(of)),
        TokenState::Inactive(Inactive::Reported) => (Refusal::InactiveToken, None),
        TokenState::Inactive(Inactive::NotYetValid(from)) => {
            (Refusal::NotYetValid, Some(("nbf", valid_from(from))))
        }
        TokenState::Inactive(Inactive::UnexpectedClaim(mismatch)) => {
            let differs = difference(&mismatch, &introspection.expect);
            (Refusal::UnexpectedClaim(mismatch.claim), Some(("claim", differs)))
        }
        TokenState::NoVerdict(why) => {
            fail(&why);
            (Refusal::NoVerdict, None)
        }
    };
    Ok((KnownCaller::Refused(refusal), described))
}

/// Writes the steps of a decision in the gateway's order.
fn explain(
    map: &AbilityMap,
    request: (&str, &str),
    caller: &KnownCaller,
    client: ClientAddress,
    output: &mut dyn Write,
) -> io::Result<Exit> {
    let verdict = |output: &mut dyn Write, colour, text: String| {
        let style = Style::new().bold().fg_color(Some(Color::Ansi(colour)));
        step(output, "verdict", format_args!("{style}{text}{style:#}"))
    };
    match steps::steps(map, request, caller, client, output)? {
        Ok(reason) => {
            verdict(output, AnsiColor::Green, format!("allowed ({})", reason.as_str()))?;
            Ok(Exit::Success)
        }
        Err(refusal) => {
            let why = match &refusal {
                Refusal::BadRequest(why) => format!(": {why}"),
                _ => String::new(),
            };
            let text =
                format!("denied with {} ({}){why}", status(&refusal).as_u16(), refusal.reason().as_str());
            verdict(output, AnsiColor::Red, text)?;
            Ok(Exit::Failure)
        }
    }
}

fn step(output: &mut dyn Write, name: &str, what: impl Display) -> io::Result<()> {
    writeln!(output, "{name:11}  {what}")
}

#[cfg(test)]
mod tests;
