//! `traces`: where spans go, and what the collector is told beside them.

use http::header::{
    CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, TE, TRANSFER_ENCODING, UPGRADE, USER_AGENT,
};
use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use secrecy::ExposeSecret;

use super::address::BackendUrl;
use super::decode::Decoder;
use super::report::Mistake;
use super::{settings, tls, written};

/// What OTLP over HTTP calls the path of spans.
const PATH: &str = "/v1/traces";

/// What the gateway says by itself, or what frames a message.
const OURS: [HeaderName; 8] =
    [CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, TE, TRANSFER_ENCODING, UPGRADE, USER_AGENT];

/// What is wrong with a line. It is never shown: its value is a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum LineError {
    #[error("a line is not `Name: value`")]
    Syntax,
    #[error("a name is no name of a header field")]
    Name,
    #[error("a value cannot stand in a header field")]
    Value,
    #[error("one of the fields is the gateway's to set")]
    Ours,
}

/// None: there is no endpoint, or a mistake was recorded.
pub(super) fn compile(written: written::Traces, decoder: &mut Decoder<'_>) -> Option<settings::Traces> {
    let headers = written.secret_headers.map(|it| (it.value.0, it.span, "traces.secret_headers"));
    let file = written.secret_headers_file.map(|it| (it.value.0, it.span, "traces.secret_headers_file"));
    let headers = match headers.or(file) {
        None => HeaderMap::new(),
        Some((secret, span, key)) => fields(secret.expose_secret()).unwrap_or_else(|error| {
            let mistake = Mistake::error("not header fields").of(key).at(span, error.to_string());
            decoder.mistakes.push(mistake.hint("such as `Authorization: Bearer 17ab`, one a line"));
            HeaderMap::new()
        }),
    };
    let tls = tls::compile_client(written.tls, "traces", decoder);
    let BackendUrl { destination, authority, path_prefix } = written.otlp_endpoint?.value;
    Some(settings::Traces {
        destination,
        authority,
        // What a URL's path was read from is one with more behind it.
        target: Uri::try_from(format!("{path_prefix}{PATH}")).unwrap_or(Uri::from_static(PATH)),
        headers,
        sample_ratio: written.sample_ratio.0,
        max_per_second: written.max_per_second.0,
        service_name: written.service_name.0,
        flush_interval: written.flush_interval.0,
        timeout: written.timeout.0,
        tls,
    })
}

fn fields(text: &str) -> Result<HeaderMap, LineError> {
    let mut fields = HeaderMap::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (name, value) = line.split_once(':').ok_or(LineError::Syntax)?;
        let name = HeaderName::try_from(name.trim()).map_err(|_| LineError::Name)?;
        let mut value = HeaderValue::try_from(value.trim()).map_err(|_| LineError::Value)?;
        if OURS.contains(&name) {
            return Err(LineError::Ours);
        }
        value.set_sensitive(true);
        fields.append(name, value);
    }
    Ok(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_fields() {
        let read = fields("Authorization: Bearer a:b\r\n\n x-team :  17 \n").unwrap();
        assert_eq!(
            (read.len(), read["authorization"].as_bytes(), read["x-team"].as_bytes()),
            (2, &b"Bearer a:b"[..], &b"17"[..])
        );
        assert!(!format!("{read:?}").contains("17"), "{read:?}");
        for (text, error) in [
            ("Bearer", LineError::Syntax),
            ("a b: c", LineError::Name),
            (": c", LineError::Name),
            ("a: b\u{1}", LineError::Value),
            ("a: b\nContent-Length: 7", LineError::Ours),
            ("host: a", LineError::Ours),
        ] {
            assert_eq!(fields(text).unwrap_err(), error, "{text}");
        }
    }
}
