//! The PROXY protocol: a trusted proxy sends the client's address at the start of a connection.
//!
//! The specification is haproxy's `proxy-protocol.txt`. The gateway only receives it.

use std::io;
use std::net::IpAddr;

use proxy_header::{ParseConfig, Protocol, ProxyHeader};
use rustix::net::RecvFlags;
use tokio::io::{AsyncRead, AsyncReadExt, Interest};
use tokio::net::{TcpStream, UnixStream};

/// Largest accepted header, in bytes: some proxies add a client certificate.
const LONGEST: usize = 4096;
/// Largest header of version 1 with its line end, in bytes (section 2.1).
const LONGEST_V1: usize = 107;
/// The start of every header of version 2.
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// Why a connection has no usable header.
#[derive(Debug, thiserror::Error)]
pub(super) enum HeaderError {
    /// The connection starts with something else.
    #[error("the connection does not start with a PROXY header")]
    Missing,
    /// The connection starts like a PROXY header.
    #[error("the PROXY header is malformed")]
    Malformed,
    /// The header is longer than [`LONGEST`].
    #[error("the PROXY header is too long")]
    TooLong,
    /// The connection ended within the header.
    #[error("the connection ended within its PROXY header")]
    Ended,
    /// The connection ended without a byte, as some health checks do.
    #[error("the connection ended before its PROXY header")]
    Empty,
    /// Reading failed.
    #[error("cannot read a PROXY header: {0}")]
    Io(#[from] io::Error),
}

/// The client that a PROXY header reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ProxiedClient {
    /// The client has this address.
    Address(IpAddr),
    /// The proxy does not know its client's address: `UNKNOWN`, `AF_UNSPEC`, or another family than IP.
    Unknown,
    /// The proxy connects for itself, as in health checks: `LOCAL`.
    Proxy,
}

/// Reads the header of a connection, and nothing after it.
pub(super) async fn take_header(stream: &mut impl Peek) -> Result<ProxiedClient, HeaderError> {
    let mut buffer = vec![0; LONGEST];
    let mut taken = 0;
    loop {
        // The bytes after the header belong to TLS or HTTP, so the header is peeked at before it is read.
        let seen = taken + stream.peek(&mut buffer[taken..]).await?;
        if seen == taken {
            return Err(if taken == 0 { HeaderError::Empty } else { HeaderError::Ended });
        }
        let (end, client) = match parse(&buffer[..seen])? {
            Some((length, client)) => (length, Some(client)),
            // All of it is header so far; after reading it, more can arrive.
            None if seen < LONGEST => (seen, None),
            None => return Err(HeaderError::TooLong),
        };
        stream.read_exact(&mut buffer[taken..end]).await?;
        taken = end;
        if let Some(client) = client {
            return Ok(client);
        }
    }
}

/// A connection whose bytes can be peeked at.
pub(super) trait Peek: AsyncRead + Unpin {
    /// Copies unread bytes without consuming them. Returns 0 at the end of the connection.
    async fn peek(&self, buffer: &mut [u8]) -> io::Result<usize>;
}

impl Peek for TcpStream {
    async fn peek(&self, buffer: &mut [u8]) -> io::Result<usize> {
        Self::peek(self, buffer).await
    }
}

impl Peek for UnixStream {
    async fn peek(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let peek = || Ok(rustix::net::recv(self, &mut *buffer, RecvFlags::PEEK)?.1);
        self.async_io(Interest::READABLE, peek).await
    }
}

/// The length of the header at the start of `bytes`, and its client. `None` if the header is incomplete.
fn parse(bytes: &[u8]) -> Result<Option<(usize, ProxiedClient)>, HeaderError> {
    const V1: &[u8] = b"PROXY ";
    let begins = |with: &[u8]| bytes.iter().zip(with).all(|(byte, expected)| byte == expected);
    if !begins(V1) && !begins(SIGNATURE) {
        return Err(HeaderError::Missing);
    }
    let longest = if begins(V1) { LONGEST_V1 } else { LONGEST };
    if let Some(length) = length_of_v2(bytes)
        && length > LONGEST
    {
        return Err(HeaderError::TooLong);
    }
    match ProxyHeader::parse(bytes, ParseConfig { include_tlvs: false, ..ParseConfig::default() }) {
        Ok((_, length)) if length > longest => Err(HeaderError::Malformed),
        Ok((header, length)) => {
            let reported = header.proxied_address().filter(|it| it.protocol == Protocol::Stream);
            let client = match reported {
                Some(reported) => ProxiedClient::Address(reported.source.ip()),
                None if is_local(bytes) => ProxiedClient::Proxy,
                None => ProxiedClient::Unknown,
            };
            Ok(Some((length, client)))
        }
        // The header's length is too small for its address, for which the parser would wait.
        Err(proxy_header::Error::BufferTooShort)
            if length_of_v2(bytes).is_some_and(|length| bytes.len() >= length) =>
        {
            Err(HeaderError::Malformed)
        }
        Err(proxy_header::Error::BufferTooShort) => Ok(None),
        Err(_) => Err(HeaderError::Malformed),
    }
}

/// Whether a header of version 2 has the command `LOCAL` (section 2.2).
fn is_local(bytes: &[u8]) -> bool {
    let command = bytes.strip_prefix(SIGNATURE).and_then(|rest| rest.first());
    command.is_some_and(|command| command & 0x0f == 0)
}

/// The length of a header of version 2; `None` if its length field is incomplete.
fn length_of_v2(bytes: &[u8]) -> Option<usize> {
    let rest = bytes.strip_prefix(SIGNATURE)?.get(2..4)?;
    Some(SIGNATURE.len() + 4 + usize::from(u16::from_be_bytes(rest.try_into().ok()?)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A header of version 2.
    fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [SIGNATURE, &[command, family], &length, rest].concat()
    }

    const V4: [u8; 12] = [192, 0, 2, 1, 10, 0, 0, 1, 0x12, 0x34, 0, 80];

    fn v6() -> Vec<u8> {
        let address = |last| [&[0x20, 1, 0xd, 0xb8][..], &[0; 11], &[last]].concat();
        [address(7), address(8), vec![0x12, 0x34, 0, 80]].concat()
    }

    #[test]
    fn valid_proxy_headers_name_the_client() {
        let with_tlvs = [&V4[..], &[0x05, 0, 3, 1, 2, 3]].concat();
        for (header, expected) in [
            (b"PROXY TCP4 192.0.2.1 10.0.0.1 4711 80\r\n".to_vec(), Some("192.0.2.1")),
            (b"PROXY TCP6 2001:db8::7 ::1 4711 80\r\n".to_vec(), Some("2001:db8::7")),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n".to_vec(), None),
            (b"PROXY UNKNOWN 192.0.2.1 10.0.0.1 4711 80\r\n".to_vec(), None),
            (v2(0x21, 0x11, &V4), Some("192.0.2.1")),
            (v2(0x21, 0x11, &with_tlvs), Some("192.0.2.1")),
            (v2(0x21, 0x21, &v6()), Some("2001:db8::7")),
            // LOCAL with any address; UNSPEC; a Unix socket; datagrams.
            (v2(0x20, 0x00, b""), Some("LOCAL")),
            (v2(0x20, 0x11, &V4), Some("LOCAL")),
            (v2(0x21, 0x00, b"whatever"), None),
            (v2(0x21, 0x31, &[0; 216]), None),
            (v2(0x21, 0x12, &V4), None),
            (v2(0x21, 0x11, &[&V4[..], &[4; LONGEST - 28]].concat()), Some("192.0.2.1")),
        ] {
            let expected = match expected {
                Some("LOCAL") => ProxiedClient::Proxy,
                Some(address) => ProxiedClient::Address(address.parse().unwrap()),
                None => ProxiedClient::Unknown,
            };
            let shown = String::from_utf8_lossy(&header);
            for after in [&b""[..], b"GET / HTTP/1.1\r\n", b"PROXY ", b"\r\n", SIGNATURE] {
                let all = [&header, after].concat();
                assert_eq!(parse(&all).unwrap(), Some((header.len(), expected)), "{shown:?}");
            }
            for length in 1..header.len() {
                assert_eq!(parse(&header[..length]).unwrap(), None, "{:?}", &header[..length]);
            }
        }
    }

    #[test]
    fn missing_and_malformed_proxy_headers_are_errors() {
        let missing =
            [&b"GET / HTTP/1.1\r\n"[..], b"\x16\x03\x01", b"PROXI ", b"PROXYTCP4 ", b"\r\n\r\nG", b"proxy "];
        for bytes in missing {
            assert!(matches!(parse(bytes), Err(HeaderError::Missing)), "{bytes:?}");
        }
        for bytes in [
            b"PROXY TCP4 192.0.2.256 10.0.0.1 4711 80\r\n".to_vec(),
            b"PROXY TCP4 2001:db8::7 10.0.0.1 4711 80\r\n".to_vec(),
            b"PROXY TCP4  192.0.2.1 10.0.0.1 4711 80\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.1 10.0.0.1 4711 80\rX".to_vec(),
            b"PROXY TCP4 192.0.2.1 10.0.0.1 4711 65536\r\n".to_vec(),
            b"PROXY UDP4 192.0.2.1 10.0.0.1 4711 80\r\n".to_vec(),
            [&b"PROXY UNKNOWN "[..], &[b'a'; 200], b"\r\n"].concat(),
            [&b"PROXY UNKNOWN "[..], &[b'a'; 200]].concat(),
            v2(0x11, 0x11, &V4),
            v2(0x22, 0x11, &V4),
            v2(0x21, 0x44, &V4),
            v2(0x21, 0x11, &V4[..11]),
            v2(0x21, 0x21, &V4),
            v2(0x21, 0x31, &V4),
        ] {
            assert!(matches!(parse(&bytes), Err(HeaderError::Malformed)), "{bytes:?}: {:?}", parse(&bytes));
        }
        let long = v2(0x21, 0x11, &[0; LONGEST]);
        assert!(matches!(parse(&long), Err(HeaderError::TooLong)));
        assert!(
            matches!(parse(&long[..16]), Err(HeaderError::TooLong)),
            "rejected as soon as the length is known"
        );
    }

    proptest! {
        /// For any bytes, a header lies within the received bytes, and later bytes do not change it.
        #[test]
        fn arbitrary_proxy_headers_do_not_panic(
            start in prop::sample::select(vec![&b""[..], b"PROXY ", b"PROXY TCP4 ", b"PROXY TCP6 ::1 ", SIGNATURE]),
            bytes in prop::collection::vec(any::<u8>(), 0..300),
            after in prop::collection::vec(any::<u8>(), 0..20),
        ) {
            let all = [start, &bytes[..]].concat();
            if let Ok(Some((length, address))) = parse(&all) {
                prop_assert!(length <= all.len());
                prop_assert_eq!(parse(&[&all[..], &after].concat()).unwrap(), Some((length, address)));
            }
        }
    }
}
