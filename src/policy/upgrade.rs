//! Upgrades of connections (RFC 9110 section 7.8). The only supported protocol is WebSocket (RFC 6455).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{
    CONNECTION, CONTENT_LENGTH, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION,
    TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderValue, Method, Version};
use sha1::{Digest, Sha1};

use super::field_values::{only, options};
use super::refusal::Refusal;

/// The name of the protocol in Upgrade fields.
pub(super) const WEBSOCKET: &str = "websocket";

/// RFC 6455 section 1.3
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// A valid WebSocket handshake of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handshake {
    /// The Sec-WebSocket-Accept that the response must have.
    accept: String,
}

/// Whether a value of the Upgrade field names WebSocket.
pub(super) fn names_websocket(value: &[u8]) -> bool {
    value.split(|&byte| byte == b',').any(|protocol| {
        let name = protocol.split(|&byte| byte == b'/').next().unwrap_or_default();
        name.trim_ascii().eq_ignore_ascii_case(WEBSOCKET.as_bytes())
    })
}

impl Handshake {
    /// The handshake of a request; `None` if the request does not ask for WebSocket.
    ///
    /// The gateway ignores other protocols, as RFC 9110 section 7.8 allows, and serves the request without an upgrade:
    /// curl `--http2` and Java's own client offer `h2c` with every request. HTTP/1.0 has no upgrades, and HTTP/2 has other
    /// ones.
    ///
    /// # Errors
    /// [`Refusal::BadRequest`] if only one of the two sides could read the request as a handshake;
    /// [`Refusal::WebSocketVersion`] if the version is not 13.
    pub fn begun(
        method: &Method,
        version: Version,
        fields: &HeaderMap,
        has_body: bool,
    ) -> Result<Option<Self>, Refusal> {
        let mut protocols = fields.get_all(UPGRADE).iter();
        if version != Version::HTTP_11 || !protocols.any(|value| names_websocket(value.as_bytes())) {
            return Ok(None);
        }
        let refuse = |why| Err(Refusal::BadRequest(why));
        let names =
            |option: &str| options(fields, &CONNECTION).any(|it| it.eq_ignore_ascii_case(option.as_bytes()));
        if !is_only(fields, WEBSOCKET) {
            return refuse("Upgrade to more than `websocket`");
        }
        if !names("upgrade") {
            return refuse("Upgrade that Connection does not name");
        }
        if names("close") {
            return refuse("Upgrade of a connection that is to be closed");
        }
        if *method != Method::GET || has_body {
            return refuse("WebSocket handshake other than a GET without a body");
        }
        if only(fields, &SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
            return Err(Refusal::WebSocketVersion);
        }
        match only(fields, &SEC_WEBSOCKET_KEY) {
            Some(key) if is_key(key.as_bytes()) => Ok(Some(Self { accept: accept(key.as_bytes()) })),
            _ => refuse("Sec-WebSocket-Key other than one of 16 bytes"),
        }
    }

    /// Checks the fields of the 101 response to this handshake.
    ///
    /// # Errors
    /// The reason why it does not upgrade to WebSocket, or why two parsers could disagree where its head ends.
    pub fn check(&self, fields: &HeaderMap) -> Result<(), &'static str> {
        if !is_only(fields, WEBSOCKET) {
            return Err("101 to another protocol than `websocket`");
        }
        if !options(fields, &CONNECTION).any(|option| option.eq_ignore_ascii_case(b"upgrade")) {
            return Err("101 whose Connection does not name Upgrade");
        }
        if only(fields, &SEC_WEBSOCKET_ACCEPT)
            .is_none_or(|accept| accept.as_bytes() != self.accept.as_bytes())
        {
            return Err("101 whose Sec-WebSocket-Accept is not what the key demands");
        }
        if fields.contains_key(CONTENT_LENGTH) || fields.contains_key(TRANSFER_ENCODING) {
            return Err("101 with a body");
        }
        Ok(())
    }

    /// Adds Connection and Upgrade to the fields of a 101, from which
    /// [`prepare_response`](super::headers::prepare_response) has removed them.
    pub fn confirm(&self, fields: &mut HeaderMap) {
        set(fields);
    }
}

fn set(fields: &mut HeaderMap) {
    fields.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    fields.insert(UPGRADE, HeaderValue::from_static(WEBSOCKET));
}

/// Whether there is one Upgrade field, with this protocol and no other.
fn is_only(fields: &HeaderMap, protocol: &str) -> bool {
    only(fields, &UPGRADE).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(protocol.as_bytes()))
}

/// 16 bytes in base64 (RFC 6455 section 4.1).
fn is_key(key: &[u8]) -> bool {
    key.len() == 24 && STANDARD.decode(key).is_ok_and(|bytes| bytes.len() == 16)
}

/// Computes Sec-WebSocket-Accept (RFC 6455 section 4.2.2). It proves that the server understood the handshake and needs
/// no secure hash.
fn accept(key: &[u8]) -> String {
    STANDARD.encode(Sha1::new().chain_update(key).chain_update(GUID).finalize())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::policy::test_fields::fields;

    /// RFC 6455 section 1.3
    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
    const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

    /// The fields of a valid handshake without the lines `without`, and with the lines `with`.
    fn changed(without: &[&str], with: &[(&str, &str)]) -> HeaderMap {
        let good = [
            ("host", "a"),
            ("connection", "Upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", KEY),
        ];
        let lines: Vec<_> = good
            .into_iter()
            .filter(|(name, _)| !without.contains(name))
            .chain(with.iter().copied())
            .collect();
        fields(&lines)
    }

    fn begun(fields: &HeaderMap) -> Result<Option<Handshake>, Refusal> {
        Handshake::begun(&Method::GET, Version::HTTP_11, fields, false)
    }

    #[test]
    fn accept_matches_the_example_of_rfc_6455() {
        assert_eq!(begun(&changed(&[], &[])).unwrap().unwrap().accept, ACCEPT);
    }

    #[test]
    fn ambiguous_handshakes_are_refused_and_other_upgrades_ignored() {
        enum Is {
            Handshake,
            Ordinary,
            Refused,
            OtherVersion,
        }
        use Is::{Handshake, Ordinary, OtherVersion, Refused};
        let key = "sec-websocket-key";
        let version = "sec-websocket-version";
        for (name, fields, expected) in [
            ("good", changed(&[], &[]), Handshake),
            (
                "any case",
                changed(&["upgrade", "connection"], &[("upgrade", "WebSocket"), ("connection", "UPGRADE")]),
                Handshake,
            ),
            (
                "beside keep-alive",
                changed(&["connection"], &[("connection", "keep-alive, Upgrade")]),
                Handshake,
            ),
            ("in a second line", changed(&[], &[("connection", "keep-alive")]), Handshake),
            (
                "with all that may come with it",
                changed(
                    &[],
                    &[
                        ("sec-websocket-protocol", "a"),
                        ("sec-websocket-protocol", "b"),
                        ("sec-websocket-extensions", "permessage-deflate"),
                        ("origin", "https://a"),
                    ],
                ),
                Handshake,
            ),
            ("no Upgrade", changed(&["upgrade"], &[]), Ordinary),
            ("h2c", changed(&["upgrade"], &[("upgrade", "h2c")]), Ordinary),
            (
                "others",
                changed(&["upgrade"], &[("upgrade", "TLS/1.0, HTTP/2.0"), ("upgrade", "websockets")]),
                Ordinary,
            ),
            ("empty", changed(&["upgrade"], &[("upgrade", "")]), Ordinary),
            ("beside another", changed(&["upgrade"], &[("upgrade", "websocket, h2c")]), Refused),
            ("behind another", changed(&["upgrade"], &[("upgrade", "h2c ,\tWebSocket")]), Refused),
            ("beside another line", changed(&[], &[("upgrade", "h2c")]), Refused),
            ("twice", changed(&[], &[("upgrade", "websocket")]), Refused),
            ("of a version", changed(&["upgrade"], &[("upgrade", "websocket/13")]), Refused),
            ("no Connection", changed(&["connection"], &[]), Refused),
            ("Connection without it", changed(&["connection"], &[("connection", "keep-alive")]), Refused),
            (
                "Connection that is like it",
                changed(&["connection"], &[("connection", "upgrade-insecure")]),
                Refused,
            ),
            ("closing", changed(&[], &[("connection", "close")]), Refused),
            ("no version", changed(&[version], &[]), OtherVersion),
            ("two versions", changed(&[], &[(version, "13")]), OtherVersion),
            ("old version", changed(&[version], &[(version, "8")]), OtherVersion),
            ("list of versions", changed(&[version], &[(version, "13, 8")]), OtherVersion),
            ("no key", changed(&[key], &[]), Refused),
            ("two keys", changed(&[], &[(key, KEY)]), Refused),
            ("empty key", changed(&[key], &[(key, "")]), Refused),
            ("short key", changed(&[key], &[(key, "dGhlIHNhbXBsZSBub25j")]), Refused),
            ("long key", changed(&[key], &[(key, "dGhlIHNhbXBsZSBub25jZXM=")]), Refused),
            ("key without its end", changed(&[key], &[(key, "dGhlIHNhbXBsZSBub25jZQ")]), Refused),
            ("key that is no base64", changed(&[key], &[(key, "dGhlIHNhbXBsZSBub25jZ!==")]), Refused),
        ] {
            let found = begun(&fields);
            let is_expected = match expected {
                Handshake => matches!(found, Ok(Some(_))),
                Ordinary => found == Ok(None),
                Refused => matches!(found, Err(Refusal::BadRequest(_))),
                OtherVersion => found == Err(Refusal::WebSocketVersion),
            };
            assert!(is_expected, "{name}: {found:?}");
        }
    }

    #[test]
    fn handshake_is_a_get_over_http_1_1_without_a_body() {
        let good = changed(&[], &[]);
        for method in [Method::HEAD, Method::POST, Method::OPTIONS, Method::DELETE] {
            let found = Handshake::begun(&method, Version::HTTP_11, &good, false);
            assert!(matches!(found, Err(Refusal::BadRequest(_))), "{method}");
        }
        let found = Handshake::begun(&Method::GET, Version::HTTP_11, &good, true);
        assert!(matches!(found, Err(Refusal::BadRequest(_))));
        for version in [Version::HTTP_10, Version::HTTP_2] {
            assert_eq!(Handshake::begun(&Method::GET, version, &good, false), Ok(None));
        }
    }

    #[test]
    fn only_a_101_that_accepts_this_handshake_is_valid() {
        let handshake = begun(&changed(&[], &[])).unwrap().unwrap();
        let accept = "sec-websocket-accept";
        let upgrade = ("upgrade", "WebSocket");
        let connection = ("connection", "upgrade");
        let accepted = (accept, ACCEPT);
        for (lines, good) in [
            (&[upgrade, connection, accepted][..], true),
            (
                &[upgrade, ("connection", "keep-alive, Upgrade"), accepted, ("sec-websocket-protocol", "a")],
                true,
            ),
            (&[], false),
            (&[connection, accepted], false),
            (&[upgrade, accepted], false),
            (&[upgrade, ("connection", "close"), accepted], false),
            (&[upgrade, connection], false),
            (&[upgrade, connection, accepted, accepted], false),
            (&[upgrade, connection, (accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOO=")], false),
            (&[upgrade, connection, (accept, "")], false),
            (&[("upgrade", "h2c"), connection, accepted], false),
            (&[("upgrade", "websocket, h2c"), connection, accepted], false),
            (&[upgrade, upgrade, connection, accepted], false),
            (&[upgrade, connection, accepted, ("content-length", "0")], false),
            (&[upgrade, connection, accepted, ("transfer-encoding", "chunked")], false),
        ] {
            assert_eq!(handshake.check(&fields(lines)).is_ok(), good, "{lines:?}");
        }
    }

    #[test]
    fn confirmed_handshake_has_connection_and_upgrade_of_the_gateway() {
        let handshake = begun(&changed(&[], &[])).unwrap().unwrap();
        let mut confirmed = fields(&[("sec-websocket-accept", ACCEPT)]);
        handshake.confirm(&mut confirmed);
        assert_eq!(confirmed.len(), 3);
        assert_eq!(handshake.check(&confirmed), Ok(()));
    }

    proptest! {
        #[test]
        fn every_key_of_16_bytes_is_accepted(bytes: [u8; 16]) {
            let key = STANDARD.encode(bytes);
            let fields = changed(&["sec-websocket-key"], &[("sec-websocket-key", &key)]);
            prop_assert!(begun(&fields).unwrap().is_some());
        }
    }
}
