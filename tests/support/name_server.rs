//! A name server whose behaviour depends on the record type. It binds port 53, which requires root.

use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, UdpSocket};
use std::thread;

/// Record types (RFC 1035 section 3.2.2, RFC 3596 section 2.1).
pub const A: u16 = 1;
pub const AAAA: u16 = 28;

/// The behaviour for a query.
pub enum Reply {
    /// No response, over UDP and TCP.
    Nothing,
    /// A response with this code and these addresses.
    Answer(u8, Vec<IpAddr>),
    /// An empty, truncated response over UDP; no response over TCP.
    Truncated,
}

/// Serves port 53 of `address` for the rest of the process.
pub fn start(address: &str, reply: fn(&str, u16) -> Reply) {
    let udp = UdpSocket::bind((address, 53)).unwrap();
    let tcp = TcpListener::bind((address, 53)).unwrap();
    thread::spawn(move || {
        let mut query = [0; 512];
        while let Ok((length, peer)) = udp.recv_from(&mut query) {
            if let Some(answer) = answer(&query[..length], reply, true) {
                udp.send_to(&answer, peer).unwrap();
            }
        }
    });
    thread::spawn(move || {
        for stream in tcp.incoming() {
            let mut stream = stream.unwrap();
            thread::spawn(move || {
                let mut length = [0; 2];
                while stream.read_exact(&mut length).is_ok() {
                    let mut query = vec![0; usize::from(u16::from_be_bytes(length))];
                    stream.read_exact(&mut query).unwrap();
                    if let Some(answer) = answer(&query, reply, false) {
                        let length = u16::try_from(answer.len()).unwrap().to_be_bytes();
                        let _ = stream.write_all(&[&length[..], &answer].concat());
                    }
                }
            });
        }
    });
}

fn answer(query: &[u8], reply: fn(&str, u16) -> Reply, is_udp: bool) -> Option<Vec<u8>> {
    let mut name = String::new();
    let mut at = 12;
    while query[at] > 0 {
        let end = at + 1 + usize::from(query[at]);
        name += &String::from_utf8_lossy(&query[at + 1..end]).to_lowercase();
        name.push('.');
        at = end;
    }
    let question_end = at + 5;
    let kind = u16::from_be_bytes([query[at + 1], query[at + 2]]);
    let (flags, code, addresses) = match reply(&name, kind) {
        Reply::Nothing => return None,
        Reply::Truncated if is_udp => (0x83, 0, Vec::new()),
        Reply::Truncated => return None,
        Reply::Answer(code, addresses) => (0x81, code, addresses),
    };
    let mut answer = query[..question_end].to_vec();
    answer[2..12].copy_from_slice(&[flags, 0x80 | code, 0, 1, 0, addresses.len() as u8, 0, 0, 0, 0]);
    for address in addresses {
        let data = match address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        answer.extend([0xc0, 12]);
        answer.extend(kind.to_be_bytes());
        answer.extend([0, 1, 0, 0, 0, 60, 0, data.len() as u8]);
        answer.extend(data);
    }
    Some(answer)
}
