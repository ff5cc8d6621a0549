//! The requests of the simulated tokens, day by day.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::population::{SimulatedToken, address};
use crate::policy::map::AbilityMap;

/// One request.
pub(super) struct Call {
    /// The index of the token.
    pub(super) token: usize,
    pub(super) method: &'static str,
    pub(super) path: String,
    /// The second of the day.
    pub(super) second: u32,
    pub(super) client: IpAddr,
    pub(super) plain_http: bool,
}

/// The routes that each ability alone allows.
pub(super) struct Traffic {
    by_ability: BTreeMap<String, Vec<(&'static str, String)>>,
}

impl Traffic {
    pub(super) fn new(map: &AbilityMap) -> Self {
        let mut by_ability: BTreeMap<String, Vec<(&'static str, String)>> = BTreeMap::new();
        for route in map.routes() {
            for (method, rule) in route.rules() {
                let abilities: Vec<&str> = rule.requirement.abilities().collect();
                if let [ability] = &*abilities {
                    let call = (method.as_str(), route.template().to_owned());
                    by_ability.entry((*ability).to_owned()).or_default().push(call);
                }
            }
        }
        assert_eq!(by_ability.len(), 19, "each ability of the guide: {by_ability:?}");
        Self { by_ability }
    }

    /// A random request that `ability` allows.
    fn any_of(&self, ability: &str, random: &mut fastrand::Rng) -> (&'static str, String) {
        let calls = &self.by_ability[ability];
        let (method, template) = &calls[random.usize(..calls.len())];
        (method, template.replace("{id}", &random.u32(1..10_000).to_string()))
    }

    /// All requests of a day in the order of their time.
    pub(super) fn of_day(
        &self,
        day: u32,
        tokens: &[SimulatedToken],
        random: &mut fastrand::Rng,
    ) -> Vec<Call> {
        let mut calls = Vec::new();
        for (index, token) in tokens.iter().enumerate() {
            self.of_token(day, index, token, random, &mut calls);
        }
        calls.sort_by_key(|call| call.second);
        calls
    }

    fn of_token(
        &self,
        day: u32,
        index: usize,
        token: &SimulatedToken,
        random: &mut fastrand::Rng,
        calls: &mut Vec<Call>,
    ) {
        let mut call = |(method, path): (&'static str, String), random: &mut fastrand::Rng| {
            let client = address(token.id, random.u32(0..token.spread));
            let second = random.u32(token.hours.clone());
            calls.push(Call { token: index, method, path, second, client, plain_http: false });
        };
        if token.days.contains(&day) {
            if day == token.days.start {
                token.uses.iter().for_each(|ability| call(self.any_of(ability, random), random));
            }
            // Few requests on most days, many on some.
            let most = if random.u8(..10) == 0 { 60 } else { 9 };
            for _ in 0..if token.uses.is_empty() { 0 } else { random.u32(1..most) } {
                let ability = token.uses[random.usize(..token.uses.len())];
                call(self.any_of(ability, random), random);
            }
        }
        for (_, ability) in token.denials.iter().filter(|(on, _)| *on == day) {
            match ability {
                Some(ability) => call(self.any_of(ability, random), random),
                None => call(("GET", "/api/v2/invoices".to_owned()), random),
            }
        }
        calls.extend(token.calls.iter().filter(|(on, _)| *on == day).map(|(_, planted)| Call {
            token: index,
            method: planted.method,
            path: planted.path.to_owned(),
            second: planted.second,
            client: planted.client,
            plain_http: planted.plain_http,
        }));
    }
}
