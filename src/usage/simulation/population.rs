//! The simulated tokens and their planted findings.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;

use jiff::{Timestamp, ToSpan};

use super::{DAYS, moment, now};
use crate::usage::report::FindingKind::{self, *};

/// The addresses of a token; number 0 is its usual one.
pub(super) fn address(token: u32, number: u32) -> IpAddr {
    Ipv4Addr::from(0x0a00_0000 + token * 1024 + number).into()
}

/// Every ability of the guide.
const GUIDE: [&str; 19] = [
    "instance:manage",
    "instance:read",
    "items:create",
    "items:delete",
    "items:read",
    "items:update",
    "kiosk:scan",
    "notifications:manage",
    "notifications:read",
    "renters:create",
    "renters:delete",
    "renters:read",
    "renters:update",
    "rents:create",
    "rents:delete",
    "rents:read",
    "rents:update",
    "webhooks:manage",
    "webhooks:read",
];

/// The purposes of integrations, and the abilities they use.
const PURPOSES: [(&str, &[&str]); 10] = [
    ("mobile-app", &["items:read", "renters:read", "rents:create", "rents:read"]),
    ("warehouse-scanner", &["items:read", "kiosk:scan"]),
    ("inventory-sync", &["items:create", "items:read", "items:update"]),
    ("rental-desk", &["renters:create", "renters:read", "renters:update", "rents:create", "rents:update"]),
    ("reporting", &["items:read", "renters:read", "rents:read"]),
    ("webhook-setup", &["webhooks:manage", "webhooks:read"]),
    ("pager", &["notifications:manage", "notifications:read"]),
    ("settings", &["instance:manage", "instance:read"]),
    ("archive", &["items:delete", "renters:delete", "rents:delete"]),
    ("ci", &["items:read"]),
];

const REPORT: (&str, &str) = ("GET", "/api/v2/reports/2026/11");
const EXPORT: (&str, &str) = ("POST", "/api/v2/exports");
const UPDATE: (&str, &str) = ("PATCH", "/api/v2/items/5");

/// Eight in the morning.
const EIGHT: u32 = 8 * 60 * 60;
const NOON: u32 = 12 * 60 * 60;

pub(super) struct SimulatedToken {
    pub(super) id: u32,
    pub(super) name: Option<String>,
    pub(super) context: Option<&'static str>,
    pub(super) created_at: Option<Timestamp>,
    pub(super) expires_at: Option<Timestamp>,
    abilities: Vec<String>,
    /// The abilities before the given day, if they were different.
    earlier: Option<(u32, Vec<String>)>,
    /// The abilities that the token uses regularly.
    pub(super) uses: Vec<&'static str>,
    /// The days with regular use.
    pub(super) days: Range<u32>,
    /// The seconds of a day with regular use.
    pub(super) hours: Range<u32>,
    /// The number of client addresses.
    pub(super) spread: u32,
    /// Days with a denied request: for a missing ability, or for an unmapped path.
    pub(super) denials: Vec<(u32, Option<&'static str>)>,
    /// Additional requests by day.
    pub(super) calls: Vec<(u32, PlantedCall)>,
    planted: Vec<(FindingKind, Vec<String>)>,
}

pub(super) struct PlantedCall {
    pub(super) method: &'static str,
    pub(super) path: &'static str,
    pub(super) second: u32,
    pub(super) client: IpAddr,
    pub(super) plain_http: bool,
}

pub(super) fn population(random: &mut fastrand::Rng) -> Vec<SimulatedToken> {
    (1..=500)
        .map(|id| {
            let mut token = SimulatedToken::usual(id, random);
            plant(&mut token);
            token
        })
        .collect()
}

fn owned(abilities: &[&str]) -> Vec<String> {
    abilities.iter().map(|it| (*it).to_owned()).collect()
}

impl SimulatedToken {
    /// A token without findings, except that a user token has the wildcard.
    fn usual(id: u32, random: &mut fastrand::Rng) -> Self {
        let (purpose, uses) = PURPOSES[id as usize % PURPOSES.len()];
        let environment = ["prod", "staging", "testing", "dev", "v2", "v13"][random.usize(..6)];
        let is_user = id.is_multiple_of(10);
        let denials = |random: &mut fastrand::Rng| {
            let ability = GUIDE[random.usize(..GUIDE.len())];
            let lacking = !is_user && !uses.contains(&ability);
            (random.u32(10..DAYS), lacking.then_some(ability))
        };
        Self {
            id,
            name: (random.u8(..20) > 0).then(|| format!("{purpose}-{environment}")),
            context: Some(if is_user { "user" } else { "instance" }),
            created_at: (random.u8(..20) > 0).then(|| now() - random.i64(31..90).hours() * 24),
            expires_at: Some(now() + random.i64(1..365 * 24).hours()),
            abilities: owned(if is_user { &["*"] } else { uses }),
            earlier: None,
            uses: uses.to_vec(),
            days: random.u32(0..9)..random.u32(20..=DAYS),
            hours: EIGHT..EIGHT + 10 * 60 * 60,
            spread: random.u32(1..10),
            // Too few for a finding.
            denials: (0..random.usize(..5)).map(|_| denials(random)).collect(),
            calls: Vec::new(),
            planted: if is_user { vec![(Wildcard, owned(uses))] } else { Vec::new() },
        }
    }

    pub(super) fn abilities_on(&self, day: u32) -> &[String] {
        match &self.earlier {
            Some((until, abilities)) if day < *until => abilities,
            _ => &self.abilities,
        }
    }

    pub(super) fn into_planted(self) -> impl Iterator<Item = (FindingKind, String, Vec<String>)> {
        let id = self.id.to_string();
        self.planted.into_iter().map(move |(kind, abilities)| (kind, id.clone(), abilities))
    }

    /// Sets the granted and the used abilities, without denied requests.
    fn has(&mut self, abilities: &[&str], uses: &[&'static str]) -> &mut Self {
        self.abilities = owned(abilities);
        self.uses = uses.to_vec();
        self.without_denials()
    }

    fn had(&mut self, until: u32, abilities: &[&str]) -> &mut Self {
        self.earlier = Some((until, owned(abilities)));
        self
    }

    fn without_denials(&mut self) -> &mut Self {
        self.denials.clear();
        self
    }

    fn named(&mut self, named: &'static str) -> &mut Self {
        self.name = Some(named.to_owned());
        self
    }

    /// Adds `times` requests on a day.
    fn calls(&mut self, day: u32, times: u32, (method, path): (&'static str, &'static str)) -> &mut Self {
        (0..times).fold(self, |token, number| {
            let client = address(token.id, 0);
            let call = PlantedCall { method, path, second: EIGHT + number, client, plain_http: false };
            token.call(day, call)
        })
    }

    /// Adds an allowed request from each client.
    fn comes_from(&mut self, day: u32, clients: impl IntoIterator<Item = IpAddr>) -> &mut Self {
        self.has(&["items:read"], &["items:read"]).spread = 1;
        clients.into_iter().fold(self, |token, client| {
            let (method, path) = ("GET", "/api/v2/items");
            token.call(day, PlantedCall { method, path, second: EIGHT, client, plain_http: false })
        })
    }

    fn by_plain_http(&mut self, day: u32, times: u32) -> &mut Self {
        self.has(&["items:read"], &["items:read"]);
        (0..times).fold(self, |token, number| {
            let (method, path, client) = ("GET", "/api/v2/items", address(token.id, 0));
            token.call(day, PlantedCall { method, path, second: EIGHT + number, client, plain_http: true })
        })
    }

    /// Makes the token silent after this second of the first day.
    fn falls_silent(&mut self, second: u32) -> &mut Self {
        let (method, path, client) = ("GET", "/api/v2/items", address(self.id, 0));
        self.has(&["items:read"], &["items:read"]);
        self.days = 0..1;
        self.hours = EIGHT..EIGHT + 60;
        self.call(0, PlantedCall { method, path, second, client, plain_http: false })
    }

    fn call(&mut self, day: u32, call: PlantedCall) -> &mut Self {
        self.calls.push((day, call));
        self
    }

    fn found(&mut self, kind: FindingKind, abilities: &[&str]) -> &mut Self {
        self.planted.push((kind, owned(abilities)));
        self
    }
}

/// Plants findings, and cases that narrowly miss one.
fn plant(token: &mut SimulatedToken) {
    match token.id {
        11..=29 => abilities(token),
        31..=39 => wildcards(token),
        41..=49 => addresses(token),
        51..=59 => ages(token),
        61..=69 => silences(token),
        71..=79 => names(token),
        81..=89 => plain_http(token),
        91..=99 => repeated_denials(token),
        101..=109 => expired(token),
        _ => {}
    }
}

fn abilities(token: &mut SimulatedToken) {
    const BOTH: [&str; 2] = ["items:read", "rents:read"];
    let rest: Vec<&str> = GUIDE.into_iter().filter(|it| *it != "items:read").collect();
    match token.id {
        11 => token
            .has(&["items:delete", "items:read"], &["items:read"])
            .found(UnusedAbilities, &["items:delete"]),
        12 => token
            .has(&["items:read", "renters:read"], &["items:read"])
            .found(UnusedAbilities, &["renters:read"]),
        13 => token.has(&GUIDE, &["items:read"]).found(UnusedAbilities, &rest),
        // One use in a month suffices.
        14 => token.has(&["items:delete", "items:read"], &["items:read"]).calls(
            17,
            1,
            ("DELETE", "/api/v2/items/5"),
        ),
        15 => token.has(&BOTH, &["rents:read"]).calls(3, 1, ("HEAD", "/api/v2/items/5")),
        // For `any`, one ability suffices: one that is needed anyway, or either.
        16 => token.has(&BOTH, &["rents:read"]).calls(9, 3, REPORT).found(UnusedAbilities, &["items:read"]),
        17 => token
            .has(&BOTH, &[])
            .calls(9, 3, REPORT)
            .calls(28, 1, REPORT)
            .found(UnusedAbilities, &["rents:read"]),
        18 => token.has(&BOTH, &[]).calls(9, 3, EXPORT),
        // Denied requests do not count as use.
        19 => token
            .has(&["items:read", "webhooks:read"], &["webhooks:read"])
            .calls(9, 4, EXPORT)
            .found(UnusedAbilities, &["items:read"]),
        21 => token.has(&["items:read"], &[]).calls(20, 4, UPDATE).found(UnusedAbilities, &["items:read"]),
        22 => token
            .has(&["exports:run", "items:read"], &["items:read"])
            .found(UnusedAbilities, &["exports:run"]),
        // Abilities that the token has lost, used or not.
        23 => token.has(&["items:read"], &["items:read"]).had(15, &["items:delete", "items:read"]),
        24 => token.has(&["items:read"], &["items:read"]).had(15, &["items:delete", "items:read"]).calls(
            9,
            1,
            ("DELETE", "/api/v2/items/5"),
        ),
        // Abilities that the token lacked at first.
        25 => token
            .has(&BOTH, &["items:read"])
            .had(10, &["items:read"])
            .calls(5, 50, ("GET", "/api/v2/rentals"))
            .calls(12, 1, ("GET", "/api/v2/rentals")),
        26 => token.has(&[], &[]).calls(20, 4, REPORT),
        // For `any`, a lost ability cannot be chosen.
        27 => token.has(&["rents:read"], &[]).had(15, &BOTH).calls(9, 3, REPORT).calls(20, 1, REPORT),
        _ => token,
    };
}

fn wildcards(token: &mut SimulatedToken) {
    match token.id {
        31 => token.has(&["*"], &["items:read", "kiosk:scan"]).found(Wildcard, &["items:read", "kiosk:scan"]),
        32 => {
            token.context = None;
            token.has(&["*", "rents:read"], &["items:read"]).found(Wildcard, &["items:read"])
        }
        33 => token.has(&["*"], &[]).calls(20, 1, REPORT).found(Wildcard, &["items:read"]),
        34 => token.has(&["*"], &[]).calls(20, 4, ("GET", "/api/v2/nothing")).found(Wildcard, &[]),
        35 => token.has(&["**", "items:read"], &["items:read"]).found(UnusedAbilities, &["**"]),
        36 => token.has(&["*"], &GUIDE).found(Wildcard, &GUIDE),
        _ => token,
    };
}

fn addresses(token: &mut SimulatedToken) {
    let id = token.id;
    let v4 = move |range: Range<u32>| range.map(move |number| address(id, number));
    let v6 = |network: u32, host: u32| {
        IpAddr::from(Ipv6Addr::from(0x2001_0db8_u128 << 96 | u128::from(network) << 64 | u128::from(host)))
    };
    match id {
        // The usual address is the first of them.
        41 => token.comes_from(15, v4(1..10)).found(ManyAddresses, &[]),
        42 => token.comes_from(15, v4(1..9)),
        43 => (0..DAYS).fold(token, |token, day| token.comes_from(day, v4(day * 9 + 1..day * 9 + 9))),
        44 => token.comes_from(15, v4(1..400)).comes_from(16, v4(1..400)).found(ManyAddresses, &[]),
        45 => token.comes_from(15, (0..300).map(|host| v6(1, host))),
        46 => token.comes_from(15, (1..10).map(|network| v6(network, 1))).found(ManyAddresses, &[]),
        47 => token.comes_from(15, v4(1..9)).comes_from(
            15,
            v4(1..9).map(|address| match address {
                IpAddr::V4(address) => address.to_ipv6_mapped().into(),
                IpAddr::V6(_) => address,
            }),
        ),
        _ => token,
    };
}

fn ages(token: &mut SimulatedToken) {
    let rotation = 90 * 24;
    match token.id {
        51 => {
            token.expires_at = None;
            token.found(NoExpiry, &[]);
        }
        52 => token.expires_at = Some(now() + (10 * 365 * 24).hours()),
        53 => token.expires_at = Some(now() + 1.second()),
        54 => {
            token.created_at = Some(now() - rotation.hours());
            token.found(OldToken, &[]);
        }
        55 => token.created_at = Some(now() - rotation.hours() + 1.second()),
        56 => token.created_at = None,
        57 => {
            token.created_at = Some(now() - (5 * 365 * 24).hours());
            token.found(OldToken, &[]);
        }
        _ => {}
    }
}

fn silences(token: &mut SimulatedToken) {
    match token.id {
        61 => token.falls_silent(NOON - 2).found(Silent, &[]),
        62 => token.falls_silent(NOON + 2),
        63 => token.falls_silent(EIGHT).found(Silent, &[]),
        // Only denied requests for a month.
        64 => token.falls_silent(EIGHT).calls(25, 4, UPDATE),
        _ => token,
    };
}

fn names(token: &mut SimulatedToken) {
    match token.id {
        71 => token.named("Warehouse-Scanner-Prod").found(Naming, &[]),
        72 => token.named("warehouse_scanner_prod").found(Naming, &[]),
        73 => token.named("scanner").found(Naming, &[]),
        74 => token.named("prod-scanner").found(Naming, &[]),
        75 => token.named("scanner-prod\u{1b}[2J").found(Naming, &[]),
        76 => token.named("mobile-app-v2"),
        77 => token.named("ci-testing"),
        78 => token.named("3pl-uat"),
        _ => {
            token.name = None;
            token
        }
    };
}

fn plain_http(token: &mut SimulatedToken) {
    match token.id {
        81 => token.by_plain_http(15, 1).found(PlainHttp, &[]),
        82 => token.by_plain_http(0, 40).by_plain_http(29, 1).found(PlainHttp, &[]),
        _ => token,
    };
}

fn repeated_denials(token: &mut SimulatedToken) {
    let lacked: Vec<&str> = GUIDE.into_iter().filter(|it| *it != "items:read").collect();
    token.has(&["items:read"], &["items:read"]);
    match token.id {
        91 => token.calls(15, 5, UPDATE).found(RepeatedDenials, &["items:update"]),
        92 => token.calls(15, 4, UPDATE),
        93 => token
            .calls(15, 3, UPDATE)
            .calls(20, 2, ("GET", "/api/v2/renters"))
            .found(RepeatedDenials, &["items:update", "renters:read"]),
        94 => token.calls(15, 5, ("GET", "/api/v2/nothing")).found(RepeatedDenials, &[]),
        // A method that the path lacks.
        95 => token.calls(15, 5, ("POST", "/api/v2/items/5")).found(RepeatedDenials, &[]),
        96 => token.calls(15, 5, EXPORT).found(RepeatedDenials, &["rents:read"]),
        97 => token
            .has(&["kiosk:scan"], &["kiosk:scan"])
            .calls(15, 5, REPORT)
            .found(RepeatedDenials, &["items:read"]),
        // Probing.
        98 => {
            token.denials = GUIDE.into_iter().cycle().take(57).map(|ability| (15, Some(ability))).collect();
            token.found(RepeatedDenials, &lacked)
        }
        // The token lacks two abilities for the same four requests.
        _ => token.has(&["kiosk:scan"], &["kiosk:scan"]).calls(15, 4, EXPORT),
    };
}

fn expired(token: &mut SimulatedToken) {
    let everything = |token: &mut SimulatedToken, expires_at: Option<Timestamp>| {
        token.falls_silent(EIGHT).named("x").has(&["*"], &["items:read"]);
        token.created_at = Some(now() - (400 * 24).hours());
        token.expires_at = expires_at;
    };
    match token.id {
        101 => everything(token, Some(now())),
        102 => everything(token, Some(moment(1, 0))),
        103 => {
            token.by_plain_http(15, 1).found(PlainHttp, &[]);
            everything(token, Some(now()));
        }
        104 => {
            everything(token, None);
            token
                .planted
                .extend([NoExpiry, OldToken, Silent, Naming].into_iter().map(|kind| (kind, Vec::new())));
            token.found(Wildcard, &["items:read"]);
        }
        _ => {}
    }
}
