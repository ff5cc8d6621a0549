//! `cors`: cross-origin requests of browsers.

use http::{HeaderName, HeaderValue};
use schemars::json_schema;

use crate::config::language::{
    Decode, Decoder, Diagnostic, FROM_ENVIRONMENT, Node, OnOff, Period, Span, Spanned, leaf_schema, section,
    words,
};
use crate::policy::authority::{is_host, split_port};
use crate::policy::cors::{self, Origins, Preflight};

section! {
    /// Cross-origin requests of browsers (CORS).
    Cors {
        /// Origins such as `https://shop.example`, or `*`, whose scripts may read the gateway's own responses. The
        /// backend sets the CORS fields of its responses itself.
        origins: Vec<Spanned<Origin>> = [],
        /// With `preflight: answer`: request header fields that scripts may set, in addition to the safelisted ones.
        /// Scripts can send a token only if this has Authorization.
        headers: Vec<Spanned<FieldName>> = [],
        /// With `preflight: answer`: methods that scripts may use. Default: the requested method, if the map has it.
        methods: Vec<Spanned<ServedMethod>> = [],
        /// Whether scripts may send cookies and other credentials.
        credentials: Spanned<OnOff> = false,
        /// With `preflight: answer`: how long browsers may cache the response to a preflight.
        max_age: Period = "10m",
        /// Where preflights are answered: by the backend, without credentials (`forward`), or by the gateway
        /// (`answer`).
        preflight: Spanned<Preflight> = "forward",
    }
}

/// An origin, or `*`.
#[derive(Clone, Debug)]
struct Origin(HeaderValue);

const ORIGIN: &str = "an origin such as `https://shop.example`, or `*`";

impl Decode for Origin {
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        let text = decoder.string(node, ORIGIN)?;
        let hint = match check_origin(&text) {
            Ok(()) => match HeaderValue::from_str(&text) {
                Ok(value) => return Some(Self(value)),
                Err(_) => None,
            },
            Err(hint) => hint,
        };
        decoder.mismatch_with(node, "invalid origin", ORIGIN, hint.map(str::to_owned))
    }
}

leaf_schema!(
    Origin,
    json_schema!({"type": "string", "pattern": format!(
        r"^(\*|[a-z][a-z0-9+.-]*://([a-z0-9._-]+|\[[0-9a-f:.]+\])(:[0-9]{{1,5}})?)$|{FROM_ENVIRONMENT}"
    )})
);

/// Whether a browser could send this as an Origin (RFC 6454 section 6.2). The error is a hint, if there is one.
fn check_origin(text: &str) -> Result<(), Option<&'static str>> {
    if text == "*" {
        return Ok(());
    }
    if text == "null" {
        return Err(Some("any sandboxed page has the origin `null`"));
    }
    if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Err(Some("use lower case, as browsers do"));
    }
    let (scheme, authority) = text.split_once("://").ok_or(None)?;
    let is_scheme_byte = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
    if !scheme.starts_with(|first: char| first.is_ascii_lowercase()) || !scheme.bytes().all(is_scheme_byte) {
        return Err(None);
    }
    if authority.contains(['/', '?', '#']) {
        return Err(Some("end the origin after the host and port, without `/`"));
    }
    let (host, port) = split_port(authority);
    if !is_host(host) {
        return Err(host.contains('*').then_some("list each origin: patterns are not supported"));
    }
    match (scheme, port) {
        ("http", Some("80")) | ("https", Some("443")) => {
            Err(Some("omit the scheme's default port, as browsers do"))
        }
        (_, Some(port)) if port.starts_with('0') || port.parse::<u16>().is_err() => {
            Err(Some("the port must be a number from 1 to 65535"))
        }
        _ => Ok(()),
    }
}

/// The name of a header field.
#[derive(Clone, Debug)]
struct FieldName(Box<str>);

impl Decode for FieldName {
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        const NAME: &str = "the name of a header field such as `Authorization`";
        let text = decoder.string(node, NAME)?;
        if text == "*" || HeaderName::from_bytes(text.as_bytes()).is_err() {
            let hint = (text == "*")
                .then(|| "list each field: for browsers `*` does not include Authorization".to_owned());
            return decoder.mismatch_with(node, "invalid field name", NAME, hint);
        }
        Some(Self(text.into()))
    }
}

leaf_schema!(
    FieldName,
    json_schema!({"type": "string", "pattern": format!(
        r"^(\*[!#$%&'*+.^_`|~0-9A-Za-z-]|[!#$%&'+.^_`|~0-9A-Za-z-])[!#$%&'*+.^_`|~0-9A-Za-z-]*$|{FROM_ENVIRONMENT}"
    )})
);

/// A method that the gateway serves.
#[derive(Clone, Copy, Debug)]
struct ServedMethod(&'static str);

words!(ServedMethod {
    "GET" => Self("GET"), "HEAD" => Self("HEAD"), "POST" => Self("POST"), "PUT" => Self("PUT"),
    "PATCH" => Self("PATCH"), "DELETE" => Self("DELETE"), "OPTIONS" => Self("OPTIONS"),
});

words!(Preflight { "forward" => Self::Forward, "answer" => Self::Answer });

pub(crate) fn compile(raw: Cors, decoder: &mut Decoder<'_>) -> cors::Cors {
    let Cors { origins, headers, methods, credentials, max_age, preflight } = raw;
    let mut warn = |key: &str, span: Span, message: &'static str, label: &'static str| {
        decoder.record(Diagnostic::warning(message).key(format!("cors.{key}")).at(span, label));
    };
    match preflight.value {
        Preflight::Forward => {
            let unused = [
                ("headers", headers.first().map(|it| it.span)),
                ("methods", methods.first().map(|it| it.span)),
            ];
            for (key, span) in unused {
                if let Some(span) = span {
                    warn(key, span, "has no effect", "used only with `preflight: answer`");
                }
            }
        }
        Preflight::Answer if origins.is_empty() => {
            warn(
                "preflight",
                preflight.span,
                "no origin is allowed",
                "every preflight is refused, because `origins` is empty",
            );
        }
        Preflight::Answer => {
            if !headers.iter().any(|it| it.value.0.eq_ignore_ascii_case("authorization")) {
                let label = "browsers send a token only if `headers` has Authorization";
                warn("preflight", preflight.span, "tokens are not allowed", label);
            }
        }
    }
    let any = origins.iter().find(|origin| origin.value.0 == "*").map(|origin| origin.span);
    if let Some(span) = any {
        let other = origins.iter().find(|origin| origin.value.0 != "*").map(|origin| origin.span);
        if let Some(other) = other {
            let error = Diagnostic::error("`*` together with other origins").key("cors.origins");
            decoder
                .record(error.at(span, "`*` already allows every origin").related(other, "another origin"));
        }
        if credentials.value.0 {
            let error = Diagnostic::error("`*` with credentials").key("cors.origins");
            decoder.record(
                error
                    .at(span, "any site could send requests with the cookies of its visitors")
                    .related(credentials.span, "allowed here")
                    .hint("list the origins instead"),
            );
        }
    }
    let list = |words: Vec<&str>| match words.is_empty() {
        true => None,
        // A list of names or methods is always a valid field value.
        false => HeaderValue::try_from(words.join(", ")).ok(),
    };
    cors::Cors {
        origins: match (any, origins.is_empty()) {
            (Some(_), _) => Origins::Any,
            (None, true) => Origins::None,
            (None, false) => Origins::These(origins.into_iter().map(|origin| origin.value.0).collect()),
        },
        credentials: credentials.value.0,
        preflight: preflight.value,
        methods: list(methods.iter().map(|method| method.value.0).collect()),
        headers: list(headers.iter().map(|header| &*header.value.0).collect()),
        max_age: max_age.0.as_secs(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_that_no_browser_sends_are_rejected() {
        for good in [
            "*",
            "https://shop.example",
            "http://localhost:3000",
            "http://127.0.0.1",
            "https://[2001:db8::1]:8443",
            "capacitor://localhost",
            "chrome-extension://abcdef",
            "https://xn--bcher-kva.example",
            "http://a:443",
        ] {
            assert_eq!(check_origin(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "null",
            "shop.example",
            "https://",
            "https:shop.example",
            "https://Shop.example",
            "HTTPS://shop.example",
            "https://shop.example/",
            "https://shop.example/path",
            "https://shop.example?x",
            "https://shop.example:443",
            "http://shop.example:80",
            "https://shop.example:",
            "https://shop.example:0",
            "https://shop.example:65536",
            "https://shop.example:0443",
            "https://u@shop.example",
            "https://*.shop.example",
            "https://bücher.example",
            "https://[::1",
            "https://[shop]",
            "https://a b",
            "https://a, https://b",
            "1http://a",
        ] {
            assert!(check_origin(bad).is_err(), "{bad}");
        }
    }
}
