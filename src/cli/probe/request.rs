//! The requests that the probe tries, chosen from the ability map. Pure.

use http::Method;

use super::step::{Fault, Outcome};
use crate::cli::rule_text::rule_text;
use crate::policy::ability::{Abilities, Requirement, RequirementKind};
use crate::policy::decision::{KnownCaller, RouteInputs, decide, read_request};
use crate::policy::map::{AbilityMap, RouteMatch, Unmapped};
use crate::policy::refusal::{Reason, Refusal};
use crate::policy::shadow::Mode;
use crate::response::own::status;

/// A path that no application has.
const UNMAPPED: &str = "/stockaj-gateway-probe";

/// The advice if a decision differs from the map.
const EXPLAIN: &str = "run `stockaj-gateway explain` on this request, and report it if the steps differ";

/// The response to a request of the probe.
#[derive(Debug)]
pub(super) struct ProbeAnswer {
    /// Its status.
    pub(super) status: u16,
    /// Why the gateway itself responded; `None` if the backend did.
    pub(super) refusal: Option<OwnRefusal>,
}

/// Why the gateway refused a request.
#[derive(Debug)]
pub(super) struct OwnRefusal {
    /// The reason in its log.
    pub(super) reason: Reason,
    /// The rest of the reason, such as the networks that do not include the client.
    pub(super) detail: Option<String>,
}

impl ProbeAnswer {
    /// The status, and the reason of the gateway.
    fn describe(&self) -> String {
        let status = self.status;
        match &self.refusal {
            None => status.to_string(),
            Some(OwnRefusal { reason, detail: None }) => format!("{status} ({})", reason.as_str()),
            Some(OwnRefusal { reason, detail: Some(detail) }) => {
                format!("{status} ({}: {detail})", reason.as_str())
            }
        }
    }
}

/// The advice for a refusal by the gateway that the map does not cause.
const fn help_about(reason: Reason) -> &'static str {
    match reason {
        Reason::Limited => "try again later, or raise `rate_limit`",
        Reason::NoVerdict | Reason::Overloaded => {
            "see the introspection steps, and the limits of concurrency in docs/reference/limits.md"
        }
        Reason::BackendUnreachable | Reason::BackendBroken => {
            "see the step `backend`, and the log of the application for this request"
        }
        Reason::BackendTimeout => {
            "raise `backend.timeout` or the route's `timeout`, or find out why the application is slow"
        }
        Reason::InactiveToken | Reason::ExpiredToken => {
            "the token has ended since its introspection: give another one"
        }
        _ => EXPLAIN,
    }
}

/// A request and the decision on it.
#[derive(Debug)]
pub(super) struct Trial {
    /// Its path.
    pub(super) path: String,
    /// Whether it has the given token.
    pub(super) sends_token: bool,
    /// The rule that decides it.
    rule: String,
    decision: Result<Reason, Refusal>,
    mode: Mode,
}

impl Trial {
    fn new(map: &AbilityMap, path: String, caller: &KnownCaller) -> Option<Self> {
        let (method, canonical) = read_request(map, "GET", &path).ok()?;
        let found = map.find(&method, &canonical);
        let (rule, mode) = (rule_text(map, &found, &method), map.mode(&found));
        let decision = decide(map, &found, RouteInputs::default(), caller);
        let sends_token = *caller != KnownCaller::Nobody;
        Some(Self { path, sends_token, rule, decision, mode })
    }

    /// The outcome if no request is sent.
    pub(super) fn decided(&self) -> Outcome {
        let Self { path, rule, .. } = self;
        Outcome::Passed(match &self.decision {
            Ok(_) => format!("GET {path} would be forwarded ({rule})"),
            Err(refusal) => {
                let status = status(refusal).as_u16();
                format!("GET {path} {} would get {status} ({rule})", self.with_token())
            }
        })
    }

    /// The outcome if shadow mode forwards the request although it is refused.
    pub(super) fn in_shadow_mode(&self) -> Option<Outcome> {
        let refusal = self.decision.as_ref().err().filter(|_| self.mode == Mode::Shadow)?;
        let status = status(refusal).as_u16();
        Some(Outcome::Skipped(format!("shadow mode: GET {} would get {status} ({})", self.path, self.rule)))
    }

    /// The outcome of a HEAD request through the gateway.
    pub(super) fn answered(&self, answer: &ProbeAnswer) -> Outcome {
        let Self { path, rule, .. } = self;
        match (&self.decision, &answer.refusal) {
            (Ok(_), None) => self.answered_by_backend(answer.status),
            (Ok(_), Some(refusal)) if refusal.reason == Reason::WrongNetwork => {
                // Neither the configuration nor the token is wrong.
                let answer = answer.describe();
                Outcome::Skipped(format!("HEAD {path}: the gateway answers {answer} to the probe ({rule})"))
            }
            (Ok(_), Some(refusal)) => self.fault(
                format!("the gateway itself answers {}", answer.describe()),
                help_about(refusal.reason),
            ),
            (Err(expected), Some(refusal)) if expected.reason() == refusal.reason => {
                let status = answer.status;
                Outcome::Passed(format!("HEAD {path} {} gets {status} ({rule})", self.with_token()))
            }
            (Err(expected), refusal) => {
                let (status, reason) = (status(expected).as_u16(), expected.reason().as_str());
                let server = if refusal.is_some() { "gateway" } else { "backend" };
                let message =
                    format!("the {server} answers {} instead of {status} ({reason})", answer.describe());
                let help = refusal.as_ref().map_or(EXPLAIN, |refusal| help_about(refusal.reason));
                self.fault(message, help)
            }
        }
    }

    /// The outcome of a request that the map allows and the backend answered with this status.
    fn answered_by_backend(&self, status: u16) -> Outcome {
        let Self { path, rule, .. } = self;
        let (what, help) = match status {
            401 => (
                " to a token that introspection calls active",
                "the route and the introspection endpoint must use the same guard (in Laravel: `auth:sanctum`)",
            ),
            403 => (
                " to a request that the map allows",
                "the application checks more than the map, such as `abilities:` middlewares or policies: compare them",
            ),
            404 => (
                " to a path of the map",
                "correct the path in the map, or the path of `backend.url`, which precedes it",
            ),
            429 => {
                (": the request is rate-limited", "try again later, or raise the limit of the application")
            }
            503 => (
                ": it is overloaded or in maintenance",
                "see the log of the application; in Laravel, `php artisan up` ends maintenance",
            ),
            500..=599 => ("", "see the log of the application for this request"),
            _ => return Outcome::Passed(format!("HEAD {path}: the backend answers {status} ({rule})")),
        };
        self.fault(format!("the backend answers {status}{what}"), help)
    }

    fn fault(&self, message: String, help: &str) -> Outcome {
        let place = format!("HEAD {} {} ({})", self.path, self.with_token(), self.rule);
        Outcome::Failed(Fault { key: None, place, message, help: help.to_owned() })
    }

    const fn with_token(&self) -> &'static str {
        if self.sends_token { "with the given token" } else { "without a token" }
    }
}

/// A request that is allowed with these abilities, or without a given token with every ability.
///
/// # Errors
/// The outcome if there is none.
pub(super) fn allowed(map: &AbilityMap, abilities: Option<&Abilities>) -> Result<Trial, Outcome> {
    let every = Abilities::new(["*"]);
    let abilities = abilities.unwrap_or(&every);
    let satisfies = |requirement: &Requirement| requirement.check(abilities).is_ok();
    let needs_token = |requirement: &Requirement| !is_public(requirement) && satisfies(requirement);
    let caller = KnownCaller::with(abilities.clone());
    let trial = sample(map, needs_token)
        .or_else(|| sample(map, is_public))
        .and_then(|path| Trial::new(map, path, &caller));
    trial.ok_or_else(|| {
        let mut rules = map.routes().flat_map(|route| route.rules().map(|(_, rule)| &rule.requirement));
        if map.unmapped() == Unmapped::Authenticated || rules.any(satisfies) {
            return Outcome::Skipped("no GET rule allows a request: only GET and HEAD are tried".to_owned());
        }
        let is_given = abilities != &every;
        let (message, help) = match is_given {
            true => (
                "the map allows no request with the given token",
                "give the token an ability that the map names: `stockaj-gateway routes` lists them",
            ),
            false => (
                "the map allows no request",
                "add a rule that is not `deny`, such as `/api/v2/items: {GET: items:read}`",
            ),
        };
        let (message, help) = (message.to_owned(), help.to_owned());
        Outcome::Failed(Fault { key: Some("abilities"), place: String::new(), message, help })
    })
}

/// A request that is refused: for a missing ability, else for a missing token, else for a path that the map lacks.
///
/// # Errors
/// The outcome if there is none.
pub(super) fn refused(map: &AbilityMap, abilities: Option<&Abilities>) -> Result<Trial, Outcome> {
    let refused = |trial: &Trial| trial.decision.is_err();
    let lacking = abilities.and_then(|abilities| {
        let path = sample(map, |requirement| {
            requirement.check(abilities).is_err() && !matches!(requirement.kind(), RequirementKind::Deny)
        })?;
        Trial::new(map, path, &KnownCaller::with(abilities.clone()))
    });
    let nobody = |path: String| Trial::new(map, path, &KnownCaller::Nobody).filter(refused);
    let trial = lacking
        .filter(refused)
        .or_else(|| nobody(sample(map, |requirement| !is_public(requirement))?))
        .or_else(|| nobody(UNMAPPED.to_owned()));
    trial.ok_or_else(|| {
        Outcome::Failed(Fault {
            key: Some("abilities"),
            place: String::new(),
            message: "the map refuses nothing".to_owned(),
            help: "a `public` route matches every path: make it narrower, or require an ability".to_owned(),
        })
    })
}

/// The path of a public route; `None` if there is none without parameters.
pub(super) fn public_path(map: &AbilityMap) -> Option<String> {
    sample(map, is_public).filter(|path| map.templates().any(|template| template == path))
}

const fn is_public(requirement: &Requirement) -> bool {
    matches!(requirement.kind(), RequirementKind::Public)
}

/// A path whose GET rule has a requirement that `accepts`, without parameters if possible, on a route without `from`: the
/// address from which the gateway sees the probe is not known.
fn sample(map: &AbilityMap, accepts: impl Fn(&Requirement) -> bool) -> Option<String> {
    let paths = || {
        map.routes().enumerate().filter_map(|(number, route)| {
            let is_for_anyone = route.options().from.is_none();
            route.rule(&Method::GET).filter(|rule| is_for_anyone && accepts(&rule.requirement))?;
            let (path, has_parameters) = fill(route.template());
            let (method, canonical) = read_request(map, "GET", &path).ok()?;
            // Another route may match the filled path.
            let is_same =
                matches!(map.find(&method, &canonical), RouteMatch::Rule { route, .. } if route == number);
            is_same.then_some((path, has_parameters))
        })
    };
    let fixed = paths().find(|(_, has_parameters)| !has_parameters);
    fixed.or_else(|| paths().next()).map(|(path, _)| path)
}

/// A path that a template matches, and whether the template has parameters.
fn fill(template: &str) -> (String, bool) {
    let segments = template.split('/').map(|segment| if segment.starts_with('{') { "1" } else { segment });
    (segments.collect::<Vec<_>>().join("/"), template.contains('{'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::map::MapBuilder;

    fn answer(status: u16, reason: Option<Reason>) -> ProbeAnswer {
        let detail = Some("why".to_owned());
        ProbeAnswer { status, refusal: reason.map(|reason| OwnRefusal { reason, detail }) }
    }

    fn trial(held: &str) -> Trial {
        let mut builder = MapBuilder::new(Unmapped::Deny);
        let rule = [(Method::GET, Requirement::from_word("items:read").unwrap(), None)];
        builder.route("/items", rule).unwrap();
        Trial::new(&builder.build(), "/items".to_owned(), &KnownCaller::with(Abilities::new([held]))).unwrap()
    }

    #[test]
    fn refused_request_passes_only_for_its_own_reason() {
        let outcome = |status, reason| trial("rents:read").answered(&answer(status, reason));
        assert!(matches!(outcome(403, Some(Reason::MissingAbility)), Outcome::Passed(_)));
        for (status, reason, expected) in [
            (403, None, "the backend answers 403 instead of 403 (missing_ability)"),
            (200, None, "the backend answers 200 instead of 403 (missing_ability)"),
            (
                403,
                Some(Reason::WrongNetwork),
                "the gateway answers 403 (wrong_network: why) instead of 403 (missing_ability)",
            ),
            (
                503,
                Some(Reason::NoVerdict),
                "the gateway answers 503 (no_verdict: why) instead of 403 (missing_ability)",
            ),
        ] {
            let Outcome::Failed(Fault { message, .. }) = outcome(status, reason) else {
                panic!("{status} {reason:?}")
            };
            assert_eq!(message, expected);
        }
    }

    #[test]
    fn allowed_request_fails_for_a_refusal_of_the_gateway() {
        for reason in Reason::ALL.into_iter().filter(|it| !matches!(it, Reason::Allowed | Reason::Public)) {
            let outcome = trial("items:read").answered(&answer(503, Some(reason)));
            match (reason, outcome) {
                (Reason::WrongNetwork, Outcome::Skipped(text)) => {
                    assert!(text.contains("(wrong_network: why)"))
                }
                (_, Outcome::Failed(fault)) => {
                    let expected = format!("the gateway itself answers 503 ({}: why)", reason.as_str());
                    assert_eq!(fault.message, expected);
                }
                (_, outcome) => panic!("{reason:?}: {outcome:?}"),
            }
        }
    }
}
