//! Authorities in URLs of the configuration (RFC 3986 section 3.2).

use std::net::Ipv6Addr;

/// Splits off the port, if there is one. The host keeps its brackets.
pub fn split_port(authority: &str) -> (&str, Option<&str>) {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (authority, None),
    }
}

/// Whether a host is an IPv6 address in brackets, or a name of letters, digits, `-`, `.` and `_`.
pub fn is_host(host: &str) -> bool {
    let is_host_byte = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.bytes().all(is_host_byte),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_is_split_off_outside_of_brackets() {
        for (authority, parts) in [
            ("a", ("a", None)),
            ("a:80", ("a", Some("80"))),
            ("a:", ("a", Some(""))),
            ("[::1]", ("[::1]", None)),
            ("[::1]:80", ("[::1]", Some("80"))),
            ("", ("", None)),
        ] {
            assert_eq!(split_port(authority), parts, "{authority}");
        }
    }

    #[test]
    fn hosts_are_names_or_addresses() {
        for host in ["a", "a-b.example", "a_b", "192.0.2.1", "[::1]"] {
            assert!(is_host(host), "{host}");
        }
        for host in ["", "a b", "a/b", "*.a", "[::1", "::1]", "[]", "[a]", "ä"] {
            assert!(!is_host(host), "{host}");
        }
    }
}
