//! The tables again over HTTP/2: the gateway decides each request identically.

use super::{
    Arrives, ArrivesThenRefused, Case, Refused, RefusedAndClosed, assert_refused, authentication, blocked,
    fields, limits, methods, paths, queries, start,
};
use crate::support::TestEnv;
use crate::support::http2::{ENHANCE_YOUR_CALM, Http2Client, Outcome, PROTOCOL_ERROR};

/// A request as the fields and the body of a stream.
pub(super) struct Converted {
    pub(super) fields: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) body: Vec<u8>,
}

/// Fields that are malformed in HTTP/2, or replaced by framing.
const OF_HTTP_1: [&str; 7] =
    ["connection", "keep-alive", "proxy-connection", "te", "transfer-encoding", "upgrade", "http2-settings"];

/// The single HTTP/1.1 request of these bytes; `None` if HTTP/2 cannot express it or there are several.
pub(super) fn convert(sent: &[u8]) -> Option<Converted> {
    let end = sent.windows(4).position(|four| four == b"\r\n\r\n")?;
    let (head, body) = (&sent[..end], &sent[end + 4..]);
    let mut lines = head.split(|&byte| byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let request_line: Vec<&[u8]> = lines.next()?.split(|&byte| byte == b' ').collect();
    let [method, target, b"HTTP/1.1"] = request_line[..] else { return None };
    let mut sent_fields = Vec::new();
    for line in lines {
        let colon = line.iter().position(|&byte| byte == b':')?;
        let name = line[..colon].to_ascii_lowercase();
        if OF_HTTP_1.iter().any(|it| it.as_bytes() == name) || name.iter().any(|byte| b" \t\r".contains(byte))
        {
            return None;
        }
        let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
        let value = &line[colon + 1..];
        let start = value.iter().position(|byte| !blank(byte)).unwrap_or(value.len());
        let end = value.iter().rposition(|byte| !blank(byte)).map_or(start, |last| last + 1);
        sent_fields.push((name, value[start..end].to_vec()));
    }
    let length = sent_fields.iter().find(|(name, _)| name == b"content-length");
    let length = length.map_or(Some(0), |(_, value)| std::str::from_utf8(value).ok()?.parse().ok());
    if length != Some(body.len()) || method == b"CONNECT" {
        return None;
    }
    let mut fields = vec![(b":method".to_vec(), method.to_vec())];
    match target.windows(3).position(|three| three == b"://") {
        Some(at) if target[0] != b'/' => {
            let rest = &target[at + 3..];
            let path = rest.iter().position(|&byte| byte == b'/').unwrap_or(rest.len());
            fields.push((b":scheme".to_vec(), target[..at].to_vec()));
            fields.push((b":authority".to_vec(), rest[..path].to_vec()));
            fields.push((
                b":path".to_vec(),
                if path == rest.len() { b"/".to_vec() } else { rest[path..].to_vec() },
            ));
        }
        _ => {
            fields.push((b":scheme".to_vec(), b"http".to_vec()));
            let mut hosts = sent_fields.iter().filter(|(name, _)| name == b"host");
            if let (Some((_, host)), None) = (hosts.next(), hosts.next()) {
                fields.push((b":authority".to_vec(), host.clone()));
                sent_fields.retain(|(name, _)| name != b"host");
            }
            fields.push((b":path".to_vec(), target.to_vec()));
        }
    }
    fields.extend(sent_fields);
    Some(Converted { fields, body: body.to_vec() })
}

impl TestEnv {
    /// Runs the attacks that HTTP/2 can express; returns their number.
    pub(super) fn run_attacks_over_http2(&self, cases: &[Case]) -> usize {
        let mut made = 0;
        for case in cases {
            let Some(converted) = convert(&case.sent) else { continue };
            self.run_attack_over_http2(case, &converted);
            made += 1;
        }
        self.end();
        made
    }

    fn run_attack_over_http2(&self, case: &Case, Converted { fields, body }: &Converted) {
        let context = format!("`{}` over HTTP/2: {}", case.name, case.sent.escape_ascii());
        let mut client = Http2Client::connect(self.gateway.address());
        let stream = client.open(fields, body.is_empty());
        if !body.is_empty() {
            client.data(stream, body, true);
        }
        let outcome = client.outcome(stream);
        let expected: &[&str] = match case.outcome {
            Refused(status) | RefusedAndClosed(status) => {
                match outcome {
                    // Rejected by h2 before the gateway's own checks.
                    Outcome::Reset(PROTOCOL_ERROR) | Outcome::Away(PROTOCOL_ERROR) if status == 400 => {}
                    // Heads beyond the total size limit, which h2 checks before single fields; far beyond, it closes the connection.
                    Outcome::Away(ENHANCE_YOUR_CALM) if status == 431 => {}
                    Outcome::Answer(response) if response.status == 431 && response.body.is_empty() => {
                        assert!(matches!(status, 414 | 431), "{context}");
                    }
                    outcome => assert_refused(&outcome.answer(), status, &context),
                }
                &[]
            }
            Arrives(requests) | ArrivesThenRefused(requests, _) => {
                let response = outcome.answer();
                assert_eq!(response.status, 200, "{context}: {}", response.text());
                requests
            }
        };
        assert_eq!(self.arrived_since(&context), expected, "{context}");
    }
}

const H2C: &str = "listen:\n  h2c: true\n";

#[test]
fn attacks_fail_over_http2_as_over_http1() {
    let env = start(H2C);
    for (name, cases, least) in [
        ("paths", paths::cases(), 90),
        ("methods", methods::cases(), 30),
        ("fields", fields::cases(), 60),
        ("authentication", authentication::cases(), 60),
    ] {
        let made = env.run_attacks_over_http2(&cases);
        println!("{made} of {} {name}", cases.len());
        assert!(made >= least, "{made} of {} {name}", cases.len());
    }
    let env = start(&format!("{H2C}{}", queries::RULES));
    let made = env.run_attacks_over_http2(&queries::cases());
    assert!(made >= 55, "{made} queries");
    let env = blocked::start(H2C);
    let made = env.run_attacks_over_http2(&blocked::cases());
    assert!(made >= 25, "{made} blocked");
    let env = start(&format!("{H2C}{}", limits::LIMITS));
    let made = env.run_attacks_over_http2(&limits::cases());
    println!("{made} limits");
    assert!(made >= 5, "{made}");
}
