//! Networks that requests must come from: `from` of a route, and `allowed_from` of a token.

use std::fmt::{self, Display, Formatter};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net};

use super::source_location::SourceLocation;

/// The largest number of networks in a list.
pub const MOST_NETWORKS: usize = 256;

/// The largest number of networks that a log line names.
const MOST_NAMED: usize = 8;

/// The number of bits before the IPv4 address in an IPv4-mapped IPv6 address (RFC 4291 section 2.5.5.2).
const BEFORE_MAPPED: u8 = 96;

/// Parses a network such as `10.0.0.0/8`, or an address, which is a network of one. The bits after the prefix are
/// ignored, and an IPv4-mapped IPv6 network is that of IPv4. `None` for other spellings of addresses, such as
/// `010.0.0.1`, `10.1` or one with a zone: programs read them differently.
pub fn parse_network(text: &str) -> Option<IpNet> {
    let Some((address, length)) = text.split_once('/') else { return Some(parse_address(text)?.into()) };
    let address: IpAddr = address.parse().ok()?;
    let is_canonical =
        length.bytes().all(|byte| byte.is_ascii_digit()) && (length == "0" || !length.starts_with('0'));
    let length: u8 = length.parse().ok().filter(|_| is_canonical)?;
    match (address, address.to_canonical()) {
        (IpAddr::V6(_), IpAddr::V4(address)) if length >= BEFORE_MAPPED => {
            Some(Ipv4Net::new(address, length - BEFORE_MAPPED).ok()?.trunc().into())
        }
        _ => IpNet::new(address, length).ok().map(|network| network.trunc()),
    }
}

/// Parses an address. An IPv4-mapped IPv6 address is that of IPv4.
pub fn parse_address(text: &str) -> Option<IpAddr> {
    Some(text.parse::<IpAddr>().ok()?.to_canonical())
}

/// The address of a request's client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientAddress {
    /// This address.
    Known(IpAddr),
    /// An address that the gateway does not know. No network includes it.
    #[default]
    Unknown,
    /// Every address, for comparisons of maps. Every network includes it.
    Any,
}

impl From<Option<IpAddr>> for ClientAddress {
    #[inline]
    fn from(address: Option<IpAddr>) -> Self {
        address.map_or(Self::Unknown, Self::Known)
    }
}

impl Display for ClientAddress {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Known(address) => write!(formatter, "{address}"),
            Self::Unknown => formatter.write_str("an unknown address"),
            Self::Any => formatter.write_str("any address"),
        }
    }
}

/// A set of networks. Clones share it. `Display` writes the list of YAML, without its brackets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Networks(Arc<[IpNet]>);

impl Networks {
    /// Whether one of the networks includes the client. An empty list includes none.
    pub fn include(&self, client: ClientAddress) -> bool {
        match client {
            ClientAddress::Known(address) => {
                let address = address.to_canonical();
                self.0.iter().any(|network| network.contains(&address))
            }
            ClientAddress::Unknown => false,
            ClientAddress::Any => true,
        }
    }

    /// The networks in ascending order, IPv4 first, each once.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &IpNet> {
        self.0.iter()
    }

    /// The networks as they are written in a list, an address without its length.
    pub fn texts(&self) -> Vec<String> {
        self.iter().map(|network| Written(network).to_string()).collect()
    }

    /// The size on the heap, in bytes.
    pub fn heap_bytes(&self) -> usize {
        size_of_val::<[IpNet]>(&self.0)
    }

    /// The first networks, for logs.
    pub const fn summary(&self) -> Summary<'_> {
        Summary(self)
    }
}

impl FromIterator<IpNet> for Networks {
    fn from_iter<T: IntoIterator<Item = IpNet>>(networks: T) -> Self {
        let mut networks: Vec<IpNet> = networks.into_iter().collect();
        networks.sort_unstable();
        networks.dedup();
        Self(networks.into())
    }
}

/// Writes a network; one of a single address without its length.
struct Written<'a>(&'a IpNet);

impl Display for Written<'_> {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        match self.0.prefix_len() == self.0.max_prefix_len() {
            true => self.0.addr().fmt(formatter),
            false => self.0.fmt(formatter),
        }
    }
}

fn write_list<'a>(networks: impl Iterator<Item = &'a IpNet>, formatter: &mut Formatter<'_>) -> fmt::Result {
    for (number, network) in networks.enumerate() {
        let separator = if number == 0 { "" } else { ", " };
        write!(formatter, "{separator}{}", Written(network))?;
    }
    Ok(())
}

impl Display for Networks {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        write_list(self.iter(), formatter)
    }
}

/// Writes the first networks of a list, and the number of the others.
#[derive(Clone, Copy, Debug)]
pub struct Summary<'a>(&'a Networks);

impl Display for Summary<'_> {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        write_list(self.0.iter().take(MOST_NAMED), formatter)?;
        match self.0.iter().len().saturating_sub(MOST_NAMED) {
            0 => Ok(()),
            more => write!(formatter, " and {more} more"),
        }
    }
}

/// `from`: the networks of a route. Lists of the same networks are equal.
#[derive(Clone, Debug)]
pub struct RouteNetworks {
    /// The networks.
    pub networks: Networks,
    /// The location of `from` in a file.
    pub place: Option<SourceLocation>,
}

impl PartialEq for RouteNetworks {
    fn eq(&self, other: &Self) -> bool {
        self.networks == other.networks
    }
}

impl Eq for RouteNetworks {}

/// The list that does not include a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetworkRule {
    /// `from` of the route.
    Route,
    /// `allowed_from` of the token.
    Token,
}

/// Writes why a request comes from a wrong network, for logs: `203.0.113.9 is outside the route's networks 10.0.0.0/8
/// (gateway.yaml:9:13)`. The length is bounded.
#[derive(Clone, Copy, Debug)]
pub struct WrongNetwork<'a> {
    /// The client.
    pub client: ClientAddress,
    /// The list that does not include it.
    pub rule: NetworkRule,
    /// The networks of the request's route.
    pub route: Option<&'a RouteNetworks>,
    /// The networks of the request's token.
    pub token: Option<&'a Networks>,
}

impl Display for WrongNetwork<'_> {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} is outside the ", self.client)?;
        let (subject, networks, place) = match self.rule {
            NetworkRule::Token => ("token's networks", self.token, None),
            NetworkRule::Route => {
                let place = self.route.and_then(|route| route.place.as_ref());
                ("route's networks", self.route.map(|route| &route.networks), place)
            }
        };
        formatter.write_str(subject)?;
        match networks {
            Some(networks) if networks.iter().len() == 0 => formatter.write_str(", an empty list")?,
            Some(networks) => write!(formatter, " {}", networks.summary())?,
            None => {}
        }
        place.map_or(Ok(()), |place| write!(formatter, " ({place})"))
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;

    fn networks(list: &[&str]) -> Networks {
        list.iter().map(|text| parse_network(text).unwrap()).collect()
    }

    #[test]
    fn network_is_an_address_or_cidr_in_its_one_spelling() {
        for (text, expected) in [
            ("10.0.0.0/8", Some("10.0.0.0/8")),
            ("10.1.2.3", Some("10.1.2.3")),
            ("10.1.2.3/32", Some("10.1.2.3")),
            ("10.1.2.3/8", Some("10.0.0.0/8")),
            ("::ffff:10.1.2.3/104", Some("10.0.0.0/8")),
            ("0.0.0.0/0", Some("0.0.0.0/0")),
            ("fd00::/8", Some("fd00::/8")),
            ("2001:DB8::1", Some("2001:db8::1")),
            ("::/0", Some("::/0")),
            ("::ffff:10.1.2.3", Some("10.1.2.3")),
            ("::ffff:a01:203", Some("10.1.2.3")),
            ("::ffff:10.0.0.0/104", Some("10.0.0.0/8")),
            ("::ffff:0:0/96", Some("0.0.0.0/0")),
            ("::ffff:0:0/95", Some("::fffe:0:0/95")),
            ("", None),
            ("/8", None),
            ("10.0.0.0/", None),
            ("10.0.0.0/33", None),
            ("10.0.0.0/08", None),
            ("10.0.0.0/+8", None),
            ("10.0.0.0/-8", None),
            ("10.0.0.0/ 8", None),
            ("10.0.0.0/8/8", None),
            ("10.0.0.0/255.0.0.0", None),
            ("10.0.0.0/256", None),
            (" 10.0.0.0/8", None),
            ("10.0.0.0/8\n", None),
            ("10.0.0.0/8,10.1.0.0/16", None),
            ("010.0.0.0/8", None),
            ("0x0a.0.0.0/8", None),
            ("0xa000000/8", None),
            ("10.1", None),
            ("10/8", None),
            ("10.*", None),
            ("167772160", None),
            ("10.0.0.0-10.0.0.9", None),
            ("10.0.0.1:80", None),
            ("256.0.0.0/8", None),
            ("[fd00::1]", None),
            ("fe80::1%eth0", None),
            ("fe80::1%eth0/64", None),
            ("fd00::/129", None),
            ("1::2::3", None),
            ("localhost", None),
            ("１０.0.0.0/8", None),
        ] {
            assert_eq!(parse_network(text).map(|it| Written(&it).to_string()).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn list_includes_the_addresses_of_its_networks() {
        for (list, address, expected) in [
            (&["10.0.0.0/8"][..], "10.255.0.1", true),
            (&["10.0.0.0/8"], "11.0.0.1", false),
            (&["10.0.0.0/8"], "::ffff:10.1.2.3", true),
            (&["::ffff:10.0.0.0/104"], "10.1.2.3", true),
            (&["::ffff:10.0.0.0/104"], "::ffff:11.1.2.3", false),
            (&["10.1.2.3/8"], "10.9.9.9", true),
            (&["192.0.2.7"], "192.0.2.7", true),
            (&["192.0.2.7"], "192.0.2.8", false),
            (&["192.0.2.7", "10.0.0.0/8"], "10.0.0.1", true),
            (&["fd00::/8"], "fdff::1", true),
            (&["fd00::/8"], "fe00::1", false),
            // The lists of one family include no address of the other.
            (&["::/0"], "10.0.0.1", false),
            (&["::/0"], "::ffff:10.0.0.1", false),
            (&["0.0.0.0/0"], "::1", false),
            // IPv4-compatible addresses (deprecated) and those of NAT64 are IPv6.
            (&["10.0.0.0/8"], "::10.0.0.1", false),
            (&["10.0.0.0/8"], "64:ff9b::10.0.0.1", false),
            (&[], "10.0.0.1", false),
        ] {
            let client = ClientAddress::Known(address.parse().unwrap());
            assert_eq!(networks(list).include(client), expected, "{list:?} {address}");
        }
        assert!(!networks(&["0.0.0.0/0", "::/0"]).include(None.into()));
        assert!(networks(&[]).include(ClientAddress::Any));
    }

    #[test]
    fn log_text_is_bounded() {
        let place = SourceLocation { file: "gateway.yaml".into(), line: 9, column: 13 };
        let route = RouteNetworks { networks: networks(&["10.0.0.0/8", "::1"]), place: Some(place) };
        let client = ClientAddress::Known("203.0.113.9".parse().unwrap());
        let token = networks(&["192.0.2.7", "10.0.0.0/8"]);
        let mut wrong =
            WrongNetwork { client, rule: NetworkRule::Route, route: Some(&route), token: Some(&token) };
        assert_eq!(
            wrong.to_string(),
            "203.0.113.9 is outside the route's networks 10.0.0.0/8, ::1 (gateway.yaml:9:13)"
        );
        wrong.client = ClientAddress::Unknown;
        wrong.rule = NetworkRule::Token;
        let expected = "an unknown address is outside the token's networks 10.0.0.0/8, 192.0.2.7";
        assert_eq!(wrong.to_string(), expected);
        let many: Networks = (0..MOST_NETWORKS)
            .map(|number| parse_network(&format!("fd00:{number:x}::/32")).unwrap())
            .collect();
        assert!(many.summary().to_string().ends_with("fd00:7::/32 and 248 more"));
        wrong.token = Some(&many);
        assert!(wrong.to_string().len() < 600, "{wrong}");
        let none = networks(&[]);
        wrong.token = Some(&none);
        assert_eq!(wrong.to_string(), "an unknown address is outside the token's networks, an empty list");
    }

    #[test]
    fn lists_of_the_same_networks_are_equal() {
        let one = networks(&["10.0.0.0/8", "::1", "192.0.2.7"]);
        assert_eq!(one, networks(&["192.0.2.7", "::1", "10.1.2.3/8", "::ffff:10.0.0.0/104", "::1"]));
        assert_ne!(one, networks(&["10.0.0.0/8", "::1"]));
        assert_eq!(one.to_string(), "10.0.0.0/8, 192.0.2.7, ::1");
    }

    proptest! {
        #[test]
        fn written_network_is_parsed_again(text in "[0-9a-f.:/%x ]{0,24}|[0-9]{1,3}(\\.[0-9]{1,3}){3}/[0-9]{1,3}") {
            if let Some(network) = parse_network(&text) {
                prop_assert_eq!(parse_network(&Written(&network).to_string()), Some(network));
            }
        }

        #[test]
        fn network_includes_exactly_the_addresses_with_its_bits(
            address: u32, other: u32, length in 0_u8..=32, as_mapped: [bool; 2]
        ) {
            let written = |address: u32, is_mapped| {
                let address = Ipv4Addr::from_bits(address);
                if is_mapped { address.to_ipv6_mapped().into() } else { address.into() }
            };
            let network = written(address, as_mapped[0]);
            let length_of = if as_mapped[0] { length + BEFORE_MAPPED } else { length };
            let list = networks(&[&format!("{network}/{length_of}")]);
            let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
            let expected = address & mask == other & mask;
            prop_assert_eq!(list.include(ClientAddress::Known(written(other, as_mapped[1]))), expected);
        }
    }
}
