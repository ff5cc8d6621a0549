//! Rejects listeners whose addresses overlap.

use std::net::{IpAddr, SocketAddr};
use std::path::{Component, Path, PathBuf};

use super::language::{Decoder, Diagnostic, Span};
use super::settings::{ListenAddress, Settings};

/// Records an error for each listener whose address is, or contains, that of another one: binding the second would
/// fail, or the two would share connections. `places` are those of the keys in the file.
pub(super) fn check(settings: &Settings, places: &[(String, Span)], decoder: &mut Decoder<'_>) {
    let listeners = [
        ("listen.address", Some(&settings.listen.address)),
        // A redirect address without TLS is an error of its own.
        (
            "listen.redirect_address",
            settings.listen.redirect_address.as_ref().filter(|_| !settings.listen.tls.is_empty()),
        ),
        ("admin.address", Some(&settings.admin.address)),
        ("decision.address", settings.decision.address.as_ref()),
    ];
    let listeners: Vec<(&str, &ListenAddress)> =
        listeners.into_iter().filter_map(|(key, address)| Some((key, address?))).collect();
    let place = |key: &str| places.iter().find(|(name, _)| name == key).map(|(_, span)| *span);
    for (number, (key, address)) in listeners.iter().enumerate() {
        let Some((other, _)) = listeners[..number].iter().find(|(_, other)| overlap(address, other)) else {
            continue;
        };
        let error = Diagnostic::error("overlapping listener addresses").key(*key);
        let label = format!("overlaps with `{other}`");
        decoder.record(match (place(key), place(other)) {
            (Some(own), Some(other)) => error.at(own, label).related(other, "the other listener"),
            // A key that is not in the file has its default.
            (Some(own), None) => error.at(own, format!("{label}, which has this default")),
            (None, Some(other)) => error.at(other, format!("overlaps with the default of `{key}`")),
            (None, None) => error.hint(label),
        });
    }
}

fn overlap(one: &ListenAddress, other: &ListenAddress) -> bool {
    match (one, other) {
        (ListenAddress::Tcp(one), ListenAddress::Tcp(other)) => overlap_tcp(one, other),
        (ListenAddress::Unix(one), ListenAddress::Unix(other)) => resolved(one) == resolved(other),
        _ => false,
    }
}

fn overlap_tcp(one: &SocketAddr, other: &SocketAddr) -> bool {
    // Port 0 gives each listener its own port.
    if one.port() != other.port() || one.port() == 0 {
        return false;
    }
    let scopes_differ = match (one, other) {
        (SocketAddr::V6(one), SocketAddr::V6(other)) => {
            let (one, other) = (one.scope_id(), other.scope_id());
            one != other && one != 0 && other != 0
        }
        _ => false,
    };
    let contains = |all: IpAddr, ip: IpAddr| match all {
        // Also IPv4: the socket is not limited to IPv6.
        IpAddr::V6(_) => all.is_unspecified(),
        IpAddr::V4(_) => all.is_unspecified() && ip.is_ipv4(),
    };
    let (one, other) = (one.ip().to_canonical(), other.ip().to_canonical());
    (one == other && !scopes_differ) || contains(one, other) || contains(other, one)
}

/// Resolves the links in the directory of a socket, which may not exist yet.
fn resolved(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut plain = PathBuf::new();
    for part in path.components() {
        if part == Component::ParentDir {
            // Like the system, resolve a link before `..`.
            plain = plain.canonicalize().unwrap_or(plain);
            plain.pop();
        } else {
            plain.push(part);
        }
    }
    match (plain.parent().and_then(|parent| parent.canonicalize().ok()), plain.file_name()) {
        (Some(parent), Some(name)) => parent.join(name),
        _ => plain,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tcp_addresses_overlap_if_a_connection_could_reach_both() {
        for (one, other, expected) in [
            ("127.0.0.1:80", "127.0.0.1:80", true),
            ("127.0.0.1:80", "127.0.0.1:81", false),
            ("127.0.0.1:80", "127.0.0.2:80", false),
            ("0.0.0.0:80", "127.0.0.1:80", true),
            ("0.0.0.0:80", "0.0.0.0:80", true),
            ("0.0.0.0:80", "[::1]:80", false),
            ("[::]:80", "127.0.0.1:80", true),
            ("[::]:80", "0.0.0.0:80", true),
            ("[::]:80", "[::1]:80", true),
            ("[::1]:80", "127.0.0.1:80", false),
            ("[::ffff:127.0.0.1]:80", "127.0.0.1:80", true),
            ("[::ffff:0.0.0.0]:80", "127.0.0.1:80", true),
            ("[fe80::1%1]:80", "[fe80::1%2]:80", false),
            ("[fe80::1%1]:80", "[fe80::1%1]:80", true),
            ("0.0.0.0:0", "0.0.0.0:0", false),
            ("127.0.0.1:0", "0.0.0.0:0", false),
        ] {
            let [one, other] = [one, other].map(|it| it.parse::<SocketAddr>().unwrap());
            assert_eq!(overlap_tcp(&one, &other), expected, "{one} {other}");
            assert_eq!(overlap_tcp(&other, &one), expected, "{other} {one}");
        }
    }

    #[test]
    fn unix_sockets_overlap_if_their_paths_name_one_file() {
        let directory = tempfile::tempdir().unwrap();
        let at = |path: &str| directory.path().join(path);
        std::fs::create_dir(at("real")).unwrap();
        std::os::unix::fs::symlink(at("real"), at("link")).unwrap();
        for (one, other, expected) in [
            ("real/a", "real/a", true),
            ("real/a", "real/./a", true),
            ("real/a", "link/a", true),
            ("real/a", "link/../real/a", true),
            ("nowhere/a", "nowhere/b/../a", true),
            ("real/a", "real/b", false),
            ("real/a", "a", false),
        ] {
            let [one, other] = [one, other].map(|path| ListenAddress::Unix(at(path)));
            assert_eq!(overlap(&one, &other), expected, "{one} {other}");
        }
        assert!(!overlap(&ListenAddress::Unix(at("a")), &ListenAddress::Tcp("0.0.0.0:80".parse().unwrap())));
    }
}
