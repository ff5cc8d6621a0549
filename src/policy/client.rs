//! The client's address and scheme, as trusted proxies report them.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use http::HeaderMap;

use super::headers::{X_FORWARDED_FOR, X_FORWARDED_PROTO};

/// The client that an address belongs to: an IPv4 address, or an IPv6 /64 network, since one client gets a whole /64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClientNetwork {
    /// An IPv4 address.
    V4(Ipv4Addr),
    /// The upper 64 bits of an IPv6 address.
    V6(u64),
}

impl From<IpAddr> for ClientNetwork {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address),
            IpAddr::V6(address) => Self::V6((address.to_bits() >> 64) as u64),
        }
    }
}

/// The client behind a trusted proxy, by X-Forwarded-For.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ForwardedClient {
    /// The client's address, or the proxy nearest to a client whose address is not known.
    pub nearest: IpAddr,
    /// Whether `nearest` is only a proxy, since the element before it is no address.
    pub is_unknown: bool,
}

/// The client behind a trusted `peer`: the right-most address of X-Forwarded-For that is not itself `trusted`. Clients
/// can forge the addresses to the left of it. If all are trusted, it is the left-most of them. An element that is no
/// address leaves the client unknown.
pub fn forwarded(fields: &HeaderMap, peer: IpAddr, trusted: impl Fn(IpAddr) -> bool) -> ForwardedClient {
    let ReportedClient { nearest, is_unknown } = reported(fields, trusted);
    ForwardedClient { nearest: nearest.unwrap_or(peer), is_unknown }
}

/// The client behind a trusted peer without an address, such as that of a Unix socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReportedClient {
    /// As in [`ForwardedClient`]; `None` if X-Forwarded-For has no address.
    pub nearest: Option<IpAddr>,
    /// As in [`ForwardedClient`].
    pub is_unknown: bool,
}

/// The same as [`forwarded`] behind a trusted peer without an address.
pub fn reported(fields: &HeaderMap, trusted: impl Fn(IpAddr) -> bool) -> ReportedClient {
    let mut nearest = None;
    let lines = fields.get_all(X_FORWARDED_FOR).iter().rev();
    for element in lines.flat_map(|line| line.as_bytes().rsplit(|&byte| byte == b',')) {
        let element = element.trim_ascii();
        if element.is_empty() {
            // RFC 9110 section 5.6.1: recipients ignore empty list elements.
            continue;
        }
        let Some(address) = std::str::from_utf8(element).ok().and_then(parse) else {
            return ReportedClient { nearest, is_unknown: true };
        };
        nearest = Some(address);
        if !trusted(address) {
            break;
        }
    }
    ReportedClient { nearest, is_unknown: false }
}

/// Whether a request crossed the network without TLS, as far as is known. A trusted peer reports the scheme of its
/// client. Without that report, only an unencrypted request of an untrusted peer on another machine counts.
pub fn is_plain_http(fields: &HeaderMap, trusted: bool, encrypted: bool, is_local: bool) -> bool {
    match fields.get(X_FORWARDED_PROTO).filter(|_| trusted) {
        // If several proxies have added their scheme, the first is that of the client.
        Some(schemes) => {
            let first = schemes.as_bytes().split(|&byte| byte == b',').next().unwrap_or_default();
            first.trim_ascii().eq_ignore_ascii_case(b"http")
        }
        None => !trusted && !encrypted && !is_local,
    }
}

/// Parses an address, with or without a port or brackets: proxies write all of these.
fn parse(text: &str) -> Option<IpAddr> {
    let bare = || text.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    let with_port = || text.parse().ok().map(|address: SocketAddr| address.ip());
    let address: IpAddr = text.parse().ok().or_else(with_port).or_else(bare)?;
    Some(address.to_canonical())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn plain_http_is_recognised_by_peer_and_reported_scheme() {
        for (trusted, encrypted, reported, expected) in [
            (false, false, None, true),
            (false, true, None, false),
            (false, false, Some("https"), true),
            (false, true, Some("http"), false),
            (true, false, None, false),
            (true, false, Some("https"), false),
            (true, false, Some("https, http"), false),
            (true, false, Some("HTTP"), true),
            (true, true, Some("http , https"), true),
            (true, false, Some(""), false),
        ] {
            let fields = reported.map(|scheme| (X_FORWARDED_PROTO, HeaderValue::from_static(scheme)));
            let fields = fields.into_iter().collect();
            let is_plain = |is_local| is_plain_http(&fields, trusted, encrypted, is_local);
            assert_eq!(is_plain(false), expected, "{trusted} {encrypted} {reported:?}");
            // A local request crossed no network, unless a trusted peer reports its client's scheme.
            assert_eq!(is_plain(true), expected && trusted, "{trusted} {encrypted} {reported:?}");
        }
    }

    #[test]
    fn peer_that_describes_a_request_is_not_its_client() {
        for (line, nearest, is_unknown) in [
            ("", None, false),
            (" , ", None, false),
            ("unknown", None, true),
            ("198.51.100.7, unknown", None, true),
            ("198.51.100.7, 10.0.0.2", Some("198.51.100.7"), false),
            ("10.0.0.3, 10.0.0.2", Some("10.0.0.3"), false),
            ("unknown, 10.0.0.2", Some("10.0.0.2"), true),
        ] {
            let fields = HeaderMap::from_iter([(X_FORWARDED_FOR, HeaderValue::from_static(line))]);
            let found = reported(&fields, |address| address.to_string().starts_with("10."));
            let nearest = nearest.map(|address| address.parse().unwrap());
            assert_eq!(found, ReportedClient { nearest, is_unknown }, "{line}");
        }
        let none = reported(&HeaderMap::new(), |_| true);
        assert_eq!(none, ReportedClient { nearest: None, is_unknown: false });
    }

    #[test]
    fn client_is_the_right_most_untrusted_address_or_unknown() {
        for (lines, expected) in [
            (&[][..], "10.0.0.1"),
            (&["198.51.100.7"], "198.51.100.7"),
            (&["203.0.113.9, 198.51.100.7"], "198.51.100.7"),
            (&["203.0.113.9, 198.51.100.7, 10.0.0.2,10.0.0.3"], "198.51.100.7"),
            (&["203.0.113.9", "198.51.100.7", "10.0.0.2"], "198.51.100.7"),
            (&["203.0.113.9", "198.51.100.7 , 10.0.0.2", "10.0.0.3"], "198.51.100.7"),
            // The client itself may have sent the addresses on the left.
            (&["127.0.0.1, 10.0.0.9, 198.51.100.7"], "198.51.100.7"),
            // All are trusted: the left-most.
            (&["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
            // An element that is no address: unknown, behind the last address to the right of it.
            (&["unknown"], "unknown behind 10.0.0.1"),
            (&["198.51.100.7, unknown, 10.0.0.2"], "unknown behind 10.0.0.2"),
            (&["198.51.100.7, _hidden"], "unknown behind 10.0.0.1"),
            (&["198.51.100.7", "unknown"], "unknown behind 10.0.0.1"),
            (&["198.51.100.7, \u{e9}"], "unknown behind 10.0.0.1"),
            (&["198.51.100.7, 1.2.3.4.5"], "unknown behind 10.0.0.1"),
            (&["198.51.100.7, 010.1.2.3"], "unknown behind 10.0.0.1"),
            (&["198.51.100.7, fe80::1%eth0"], "unknown behind 10.0.0.1"),
            (&["198.51.100.7, unix:"], "unknown behind 10.0.0.1"),
            (&["198.51.100.7, [::1"], "unknown behind 10.0.0.1"),
            // Not read: the client is known already.
            (&["unknown, 198.51.100.7"], "198.51.100.7"),
            // Empty elements, ports and brackets.
            (&["", "198.51.100.7,, ,"], "198.51.100.7"),
            (&["198.51.100.7:4711"], "198.51.100.7"),
            (&["2001:db8::7"], "2001:db8::7"),
            (&["[2001:db8::7]"], "2001:db8::7"),
            (&["[2001:db8::7]:443"], "2001:db8::7"),
            (&["::ffff:198.51.100.7"], "198.51.100.7"),
            (&["198.51.100.7, ::ffff:10.0.0.2"], "198.51.100.7"),
        ] {
            let mut fields = HeaderMap::new();
            for line in lines {
                fields.append(
                    X_FORWARDED_FOR,
                    HeaderValue::from_str(line)
                        .unwrap_or_else(|_| HeaderValue::from_bytes(line.as_bytes()).unwrap()),
                );
            }
            let trusted = |address: IpAddr| address.to_string().starts_with("10.");
            let ForwardedClient { nearest, is_unknown } =
                forwarded(&fields, "10.0.0.1".parse().unwrap(), trusted);
            let prefix = if is_unknown { "unknown behind " } else { "" };
            assert_eq!(format!("{prefix}{nearest}"), expected, "{lines:?}");
        }
    }

    #[test]
    fn ipv6_addresses_of_one_64_network_are_one_client() {
        for (one, other, same) in [
            ("192.0.2.1", "192.0.2.1", true),
            ("192.0.2.1", "192.0.2.2", false),
            ("192.0.2.1", "::ffff:192.0.2.1", true),
            ("2001:db8::1", "2001:db8::ffff:ffff:ffff:ffff", true),
            ("2001:db8::1", "2001:db8:0:1::1", false),
            ("::192.0.2.1", "192.0.2.1", false),
        ] {
            let [first, second] =
                [one, other].map(|text| ClientNetwork::from(text.parse::<IpAddr>().unwrap()));
            assert_eq!(first == second, same, "{one} {other}");
        }
    }
}
