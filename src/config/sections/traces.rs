//! `traces`: spans for an OpenTelemetry collector.

use http::header::{
    CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, TE, TRANSFER_ENCODING, UPGRADE, USER_AGENT,
};
use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use secrecy::ExposeSecret;

use super::address::BaseUrl;
use super::client_tls::{self, ClientTls};
use super::rate_limit::MAX_REQUESTS;
use crate::config::language::{
    Decoder, Diagnostic, Ratio, Secret, SecretFile, Spanned, Text, Timeout, Whole, section,
};
use crate::config::settings;

section! {
    /// OpenTelemetry traces of requests.
    Traces {
        /// Base URL of a collector with OTLP over HTTP: http or https, or `unix:/path`. Spans are sent to `/v1/traces`
        /// below it. Without it nothing is traced.
        otlp_endpoint: Option<Spanned<BaseUrl>>,
        /// Fraction of the requests without a trusted `traceparent` that start a trace, from 0 to 1. A trusted proxy
        /// that sends a `traceparent` decides for its requests.
        sample_ratio: Ratio = 1,
        /// Largest number of traced requests per second, divided among the workers, at least one each. It also bounds
        /// those that a trusted proxy decided to trace.
        max_per_second: Whole<1, MAX_REQUESTS> = 100,
        /// `service.name` of the spans.
        service_name: Text = "stockaj-gateway",
        /// Header fields for the collector, one `Name: value` per line. Take them from the environment:
        /// `${OTLP_HEADERS}`.
        secret_headers: Option<Spanned<Secret>>,
        /// File with header fields for the collector.
        secret_headers_file: Option<Spanned<SecretFile>>,
        /// How long spans are collected before they are sent.
        flush_interval: Timeout = "1s",
        /// Longest time of one export attempt.
        timeout: Timeout = "5s",
        /// TLS of connections to the collector, if `otlp_endpoint` is https.
        tls: ClientTls,
    }
    exclusive { secret_headers, secret_headers_file }
}

/// The path for spans in OTLP over HTTP.
const PATH: &str = "/v1/traces";

/// Fields that the gateway sets itself, or that frame a message.
const OURS: [HeaderName; 8] =
    [CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, TE, TRANSFER_ENCODING, UPGRADE, USER_AGENT];

/// An error in a line. It does not quote the line, whose value is a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum LineError {
    #[error("a line is not `Name: value`")]
    Syntax,
    #[error("a line does not start with a valid field name")]
    Name,
    #[error("a line has an invalid field value")]
    Value,
    #[error("one of the fields is reserved: the gateway sets it")]
    Ours,
}

/// Returns `None` if there is no endpoint.
pub(crate) fn compile(raw: Traces, decoder: &mut Decoder<'_>) -> Option<settings::Traces> {
    let headers = raw.secret_headers.map(|it| (it.value.0, it.span, "traces.secret_headers"));
    let file = raw.secret_headers_file.map(|it| (it.value.0, it.span, "traces.secret_headers_file"));
    let headers = match headers.or(file) {
        None => HeaderMap::new(),
        Some((secret, span, key)) => fields(secret.expose_secret()).unwrap_or_else(|error| {
            let error = Diagnostic::error("invalid header fields").key(key).at(span, error.to_string());
            decoder.record(error.hint("write one field per line, such as `Authorization: Bearer 17ab`"));
            HeaderMap::new()
        }),
    };
    let tls = client_tls::compile(raw.tls, "traces", decoder);
    let BaseUrl { destination, authority, path_prefix } = raw.otlp_endpoint?.value;
    Some(settings::Traces {
        destination,
        authority,
        // The path of a valid URL stays valid with a path appended.
        target: Uri::try_from(format!("{path_prefix}{PATH}")).unwrap_or(Uri::from_static(PATH)),
        headers,
        sample_ratio: raw.sample_ratio.0,
        max_per_second: raw.max_per_second.0,
        service_name: raw.service_name.0,
        flush_interval: raw.flush_interval.0,
        timeout: raw.timeout.0,
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
    fn header_fields_are_lines_of_name_and_value() {
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
