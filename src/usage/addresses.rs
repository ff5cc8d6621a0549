//! Estimates the number of client addresses of a token in bounded memory.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// The number of addresses up to which the count is exact.
const EXACT: usize = 32;

/// A sketch of distinct client addresses: the [`EXACT`] least of their hashes ("k minimum values"). Up to that number
/// the count is exact; above, it is an estimate with a standard error of a sixth. A sketch has at most 128 bytes, and
/// 4 for most tokens.
///
/// Merged sketches equal the sketch of the union, so that days, workers and replicas can be summed. An address cannot
/// be computed from its hash, but anyone who reads the ledger can test a guess.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<u32>", into = "Vec<u32>")]
pub struct AddressSketch {
    /// Sorted, without duplicates.
    least: Vec<u32>,
}

impl AddressSketch {
    /// Inserts an address. Of an IPv6 address only the /64 network counts, since one client has all of it.
    pub fn insert(&mut self, address: IpAddr) {
        self.insert_hash(hash(address));
    }

    /// Inserts all addresses of `other`.
    pub fn merge(&mut self, other: &Self) {
        other.least.iter().for_each(|hash| self.insert_hash(*hash));
    }

    /// The approximate number of addresses.
    pub fn estimate(&self) -> u64 {
        match self.least.last() {
            // The hashes are uniformly distributed, so the k-th least of n is expected at k/n of the range.
            Some(greatest) if self.least.len() == EXACT => {
                ((EXACT as u64 - 1) << 32) / (u64::from(*greatest) + 1)
            }
            _ => self.least.len() as u64,
        }
    }

    /// The hashes in ascending order.
    pub fn hashes(&self) -> &[u32] {
        &self.least
    }

    fn insert_hash(&mut self, hash: u32) {
        let Err(index) = self.least.binary_search(&hash) else { return };
        if index < EXACT {
            self.least.truncate(EXACT - 1);
            self.least.insert(index, hash);
        }
    }
}

impl From<Vec<u32>> for AddressSketch {
    fn from(hashes: Vec<u32>) -> Self {
        let mut addresses = Self::default();
        hashes.into_iter().for_each(|hash| addresses.insert_hash(hash));
        addresses
    }
}

impl From<AddressSketch> for Vec<u32> {
    fn from(addresses: AddressSketch) -> Self {
        addresses.least
    }
}

/// FNV-1a with 64 bits, finished by the mixer of MurmurHash3 for a uniform distribution. Ledgers are kept and summed,
/// so the hash must never change between versions or machines.
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

    fn of(range: std::ops::Range<u32>) -> AddressSketch {
        let mut addresses = AddressSketch::default();
        range.for_each(|number| addresses.insert(Ipv4Addr::from(0x0a00_0000 + number).into()));
        addresses
    }

    #[test]
    fn few_addresses_are_counted_exactly_and_many_estimated() {
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
    fn merged_sketches_equal_the_sketch_of_the_union() {
        for (one, other) in [(0..5, 3..9), (0..40, 20..400), (0..0, 0..3)] {
            let mut sum = of(one.clone());
            sum.merge(&of(other.clone()));
            let mut all = of(one);
            other.for_each(|number| all.insert(Ipv4Addr::from(0x0a00_0000 + number).into()));
            assert_eq!(sum, all);
        }
    }

    #[test]
    fn ipv6_addresses_count_by_64_network() {
        let mut addresses = AddressSketch::default();
        for text in ["2001:db8::1", "2001:db8::2", "2001:db8:0:1::1", "::ffff:192.0.2.1", "192.0.2.1"] {
            addresses.insert(text.parse().unwrap());
        }
        assert_eq!(addresses.estimate(), 3);
        assert_ne!(hash(Ipv6Addr::LOCALHOST.into()), hash(Ipv4Addr::LOCALHOST.into()));
    }

    #[test]
    fn sketch_is_serialised_as_its_hashes() {
        let addresses = of(0..3);
        let text = serde_json::to_string(&addresses).unwrap();
        assert_eq!(serde_json::from_str::<AddressSketch>(&text).unwrap(), addresses);
        // Input is sorted, truncated and deduplicated.
        let many: Vec<u32> = (0..100).rev().chain(0..100).collect();
        assert_eq!(AddressSketch::from(many).hashes(), (0..32).collect::<Vec<_>>());
    }
}
