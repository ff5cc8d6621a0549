//! The records in the ledger: protobuf messages, which later versions may extend.

use prost::Message;

use super::rules::Rule;

/// A rule.
#[derive(Clone, PartialEq, Message)]
pub(super) struct RuleRecord {
    #[prost(string, tag = "1")]
    pub(super) route: String,
    #[prost(string, tag = "2")]
    pub(super) method: String,
    #[prost(string, tag = "3")]
    pub(super) requirement: String,
    #[prost(string, repeated, tag = "4")]
    pub(super) abilities: Vec<String>,
    #[prost(bool, tag = "5")]
    pub(super) is_any: bool,
    #[prost(string, optional, tag = "6")]
    pub(super) parameter: Option<String>,
}

/// The latest description of a token.
#[derive(Clone, PartialEq, Message)]
pub(super) struct TokenRecord {
    #[prost(string, optional, tag = "1")]
    pub(super) name: Option<String>,
    #[prost(string, optional, tag = "2")]
    pub(super) context: Option<String>,
    #[prost(string, optional, tag = "3")]
    pub(super) workspace_id: Option<String>,
    #[prost(string, repeated, tag = "4")]
    pub(super) abilities: Vec<String>,
    /// This and the following times are in milliseconds since 1970.
    #[prost(int64, optional, tag = "5")]
    pub(super) created_at: Option<i64>,
    #[prost(int64, optional, tag = "6")]
    pub(super) expires_at: Option<i64>,
    #[prost(int64, tag = "7")]
    pub(super) first_seen: i64,
    #[prost(int64, tag = "8")]
    pub(super) last_seen: i64,
}

/// The requests of a token on one day.
#[derive(Clone, PartialEq, Message)]
pub(super) struct DayRecord {
    /// Rules and outcomes, packed by [`super::batch::key`], with the rule numbers of the ledger.
    #[prost(uint32, repeated, tag = "1")]
    pub(super) keys: Vec<u32>,
    /// The number of requests for each key.
    #[prost(uint64, repeated, tag = "2")]
    pub(super) counts: Vec<u64>,
    #[prost(uint64, tag = "3")]
    pub(super) plain_http: u64,
    #[prost(fixed32, repeated, tag = "4")]
    pub(super) addresses: Vec<u32>,
    #[prost(uint64, tag = "5")]
    pub(super) wrong_network: u64,
}

impl DayRecord {
    /// Adds `count` to the counter of `key`.
    pub(super) fn add(&mut self, key: u32, count: u64) {
        match self.keys.iter().position(|known| *known == key) {
            Some(index) if index < self.counts.len() => {
                self.counts[index] = self.counts[index].saturating_add(count);
            }
            _ => {
                self.counts.resize(self.keys.len(), 0);
                self.keys.push(key);
                self.counts.push(count);
            }
        }
    }
}

impl From<&Rule> for RuleRecord {
    fn from(rule: &Rule) -> Self {
        Self {
            route: rule.route.to_string(),
            method: rule.method.to_string(),
            requirement: rule.requirement.to_string(),
            abilities: rule.abilities.iter().map(ToString::to_string).collect(),
            is_any: rule.is_any,
            parameter: rule.parameter.as_deref().map(str::to_owned),
        }
    }
}

impl From<RuleRecord> for Rule {
    fn from(record: RuleRecord) -> Self {
        Self {
            route: record.route.into(),
            method: record.method.into(),
            requirement: record.requirement.into(),
            abilities: record.abilities.into_iter().map(Into::into).collect(),
            is_any: record.is_any,
            parameter: record.parameter.map(Into::into),
        }
    }
}

/// The longest id that is recorded, in bytes. Ids of Stockaj are shorter.
pub(super) const MAX_ID_BYTES: usize = 512;

/// The key of a token. Numeric ids come first and in numeric order.
pub(super) fn token_key(id: &str) -> Vec<u8> {
    match id.parse::<u64>() {
        // Canonical numbers only: `07` is another id than `7`.
        Ok(number) if number.to_string() == id => [&[0], &number.to_be_bytes()[..]].concat(),
        _ => [&[1], id.as_bytes()].concat(),
    }
}

/// The id in a key; `None` if the key is damaged.
pub(super) fn token_id(key: &[u8]) -> Option<String> {
    match key.split_first()? {
        (0, number) => Some(u64::from_be_bytes(number.try_into().ok()?).to_string()),
        (1, id) => String::from_utf8(id.to_vec()).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_sort_numeric_ids_in_numeric_order() {
        let mut ids = ["10", "9", "07", "abc", "18446744073709551615", "0", "", "-1"].map(String::from);
        for id in &ids {
            assert_eq!(token_id(&token_key(id)).as_ref(), Some(id));
        }
        ids.sort_by_key(|id| token_key(id));
        assert_eq!(ids, ["0", "9", "10", "18446744073709551615", "", "-1", "07", "abc"]);
        for broken in [&[][..], &[0], &[0, 1, 2], &[1, 0xff], &[2, 1]] {
            assert_eq!(token_id(broken), None);
        }
    }

    #[test]
    fn record_of_an_earlier_version_has_no_requests_from_wrong_networks() {
        // Keys, counts, `plain_http` and an address.
        let written = [0x0a, 1, 4, 0x12, 1, 2, 0x18, 3, 0x22, 4, 1, 0, 0, 0];
        let day = DayRecord::decode(&written[..]).unwrap();
        let expected =
            DayRecord { keys: vec![4], counts: vec![2], plain_http: 3, addresses: vec![1], wrong_network: 0 };
        assert_eq!(day, expected);
        assert_eq!(day.encode_to_vec(), written);
    }

    #[test]
    fn counts_of_a_day_are_summed_and_saturate() {
        let mut day = DayRecord::default();
        for (key, count) in [(4, 1), (8, 2), (4, u64::MAX)] {
            day.add(key, count);
        }
        assert_eq!((day.keys, day.counts), (vec![4, 8], vec![u64::MAX, 2]));
        // A damaged record may lack counts.
        let mut short = DayRecord { keys: vec![4, 8], ..DayRecord::default() };
        short.add(8, 3);
        assert_eq!(short.keys.len(), short.counts.len());
    }
}
