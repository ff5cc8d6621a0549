//! From how many addresses a token comes: a bounded estimate.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// How many addresses are told apart exactly.
const EXACT: usize = 32;

/// Distinct client addresses, as the least [`EXACT`] of their hashes ("k minimum values"): up to that many are counted
/// exactly, more are estimated, with a standard error of a sixth. 128 bytes at most, most tokens have four.
///
/// The hashes of two are those of both together, so that days, cores and replicas can be added. An address cannot be
/// read out of its hash, but whoever has the ledger can test whether one that he guesses was among them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<u32>", into = "Vec<u32>")]
pub struct Addresses {
    /// Sorted, each once.
    least: Vec<u32>,
}

impl Addresses {
    /// Notes an address: of IPv6 its network of 64 bits, since a client has all of it.
    pub fn note(&mut self, address: IpAddr) {
        self.insert(hash(address));
    }

    /// Adds all of another's.
    pub fn add(&mut self, other: &Self) {
        other.least.iter().for_each(|hash| self.insert(*hash));
    }

    /// How many there are, about.
    pub fn estimate(&self) -> u64 {
        match self.least.last() {
            // Evenly spread, the k-th least of n is at k of n parts of the whole.
            Some(greatest) if self.least.len() == EXACT => {
                ((EXACT as u64 - 1) << 32) / (u64::from(*greatest) + 1)
            }
            _ => self.least.len() as u64,
        }
    }

    /// The hashes, least first.
    pub fn hashes(&self) -> &[u32] {
        &self.least
    }

    fn insert(&mut self, hash: u32) {
        let Err(index) = self.least.binary_search(&hash) else { return };
        if index < EXACT {
            self.least.truncate(EXACT - 1);
            self.least.insert(index, hash);
        }
    }
}

impl From<Vec<u32>> for Addresses {
    fn from(hashes: Vec<u32>) -> Self {
        let mut addresses = Self::default();
        hashes.into_iter().for_each(|hash| addresses.insert(hash));
        addresses
    }
}

impl From<Addresses> for Vec<u32> {
    fn from(addresses: Addresses) -> Self {
        addresses.least
    }
}

/// The same on every machine and in every version, since ledgers are kept and added: FNV-1a of 64 bits, and
/// MurmurHash3's finish, which spreads it evenly.
fn hash(address: IpAddr) -> u32 {
    let hash = |bytes: &[u8]| {
        let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
        let hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
        let hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        (hash >> 32) as u32
    };
    match address.to_canonical() {
        IpAddr::V4(address) => hash(&address.octets()),
        IpAddr::V6(address) => hash(&address.octets()[..8]),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    fn of(range: std::ops::Range<u32>) -> Addresses {
        let mut addresses = Addresses::default();
        range.for_each(|number| addresses.note(Ipv4Addr::from(0x0a00_0000 + number).into()));
        addresses
    }

    #[test]
    fn few_are_counted_exactly_and_many_estimated() {
        for count in [0, 1, 2, 5, 17, 31] {
            assert_eq!(of(0..count).estimate(), u64::from(count));
        }
        for count in [40, 100, 1_000, 10_000, 100_000] {
            let ratio = of(0..count).estimate() as f64 / f64::from(count);
            assert!((0.5..2.0).contains(&ratio), "{count}: {ratio}");
        }
        assert_eq!(of(0..100_000).hashes().len(), EXACT);
    }

    #[test]
    fn adding_is_as_noting_all() {
        for (one, other) in [(0..5, 3..9), (0..40, 20..400), (0..0, 0..3)] {
            let mut sum = of(one.clone());
            sum.add(&of(other.clone()));
            let mut all = of(one);
            other.for_each(|number| all.note(Ipv4Addr::from(0x0a00_0000 + number).into()));
            assert_eq!(sum, all);
        }
    }

    #[test]
    fn a_place_of_ipv6_is_its_network() {
        let mut addresses = Addresses::default();
        for text in ["2001:db8::1", "2001:db8::2", "2001:db8:0:1::1", "::ffff:192.0.2.1", "192.0.2.1"] {
            addresses.note(text.parse().unwrap());
        }
        assert_eq!(addresses.estimate(), 3);
        assert_ne!(hash(Ipv6Addr::LOCALHOST.into()), hash(Ipv4Addr::LOCALHOST.into()));
    }

    #[test]
    fn it_is_written_as_its_hashes() {
        let addresses = of(0..3);
        let text = serde_json::to_string(&addresses).unwrap();
        assert_eq!(serde_json::from_str::<Addresses>(&text).unwrap(), addresses);
        // Whatever a file says, it is sorted, bounded and without duplicates.
        let many: Vec<u32> = (0..100).rev().chain(0..100).collect();
        assert_eq!(Addresses::from(many).hashes(), (0..32).collect::<Vec<_>>());
    }
}
