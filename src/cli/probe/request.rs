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
    pub(super) fn answered(&self, answer: u16) -> Outcome {
        let Self { path, rule, .. } = self;
        let fault = |message: String, help: &str| {
            let place = format!("HEAD {path} {} ({rule})", self.with_token());
            Outcome::Failed(Fault { key: None, place, message, help: help.to_owned() })
        };
        match &self.decision {
            Err(refusal) => {
                let expected = status(refusal).as_u16();
                match answer == expected {
                    true => {
                        Outcome::Passed(format!("HEAD {path} {} gets {answer} ({rule})", self.with_token()))
                    }
                    false => fault(
                        format!("the gateway answers {answer} instead of {expected}"),
                        "run `stockaj-gateway explain` on this request, and report it if the steps differ",
                    ),
                }
            }
            Ok(_) => match answer {
                401 => fault(
                    "the backend answers 401 to a token that introspection calls active".to_owned(),
                    "the route and the introspection endpoint must use the same guard (in Laravel: `auth:sanctum`)",
                ),
                403 => fault(
                    "the backend answers 403 to a request that the map allows".to_owned(),
                    "the application checks more than the map, such as `abilities:` middlewares or policies: compare them",
                ),
                404 => fault(
                    "the backend answers 404 to a path of the map".to_owned(),
                    "correct the path in the map, or the path of `backend.url`, which precedes it",
                ),
                429 => fault(
                    "the request is rate-limited: 429".to_owned(),
                    "try again later, or raise `rate_limit` or the limit of the application",
                ),
                502 => fault(
                    "the backend's response is malformed, or it cannot be reached: 502".to_owned(),
                    "see the step `backend`, and the log of the application",
                ),
                503 => fault(
                    "the gateway has no verdict or is overloaded, or the backend is in maintenance: 503"
                        .to_owned(),
                    "see the introspection steps; in Laravel, `php artisan up` ends maintenance",
                ),
                504 => fault(
                    "the backend took too long: 504".to_owned(),
                    "raise `backend.timeout` or the route's `timeout`, or find out why the application is slow",
                ),
                500..=599 => fault(
                    format!("the backend answers {answer}"),
                    "see the log of the application for this request",
                ),
                _ => Outcome::Passed(format!("HEAD {path}: the backend answers {answer} ({rule})")),
            },
        }
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
