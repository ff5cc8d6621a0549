//! Addresses to listen on, networks, and URLs to connect to.

use std::net::IpAddr;

use http::{HeaderValue, Uri};
use ipnet::IpNet;
use schemars::json_schema;

use crate::config::language::{Decode, Decoder, Diagnostic, FROM_ENVIRONMENT, Node, leaf_schema};
use crate::config::settings::{Destination, ListenAddress};
use crate::policy::authority::split_port;
use crate::policy::network::parse_network;

impl Decode for ListenAddress {
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        const ADDRESS: &str = "an IP address with a port such as `0.0.0.0:8080`, or `unix:/path`";
        let text = decoder.string(node, ADDRESS)?;
        if let Some(path) = text.strip_prefix("unix:").filter(|path| !path.is_empty()) {
            return Some(Self::Unix(decoder.directory(node).join(path)));
        }
        if let Ok(address) = text.parse() {
            return Some(Self::Tcp(address));
        }
        let hint = if text.starts_with("localhost:") {
            Some("write the IP address, such as `127.0.0.1:…`; host names are not resolved")
        } else if text.starts_with(':') {
            Some("write `0.0.0.0:…` or `[::]:…` for all interfaces")
        } else if text.parse::<IpAddr>().is_ok() {
            Some("add a port")
        } else {
            None
        };
        decoder.mismatch_with(node, "invalid address", ADDRESS, hint.map(str::to_owned))
    }
}

leaf_schema!(
    ListenAddress,
    json_schema!({"type": "string", "pattern": format!(r"^unix:.|^[0-9.]+:[0-9]+$|^\[[0-9a-fA-F:.%]+\]:[0-9]+$|{FROM_ENVIRONMENT}")})
);

/// A network. A single address is a network of one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Network(pub(crate) IpNet);

impl Decode for Network {
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        const NETWORK: &str = "a network such as `10.0.0.0/8` or `fd00::/8`";
        let text = decoder.string(node, NETWORK)?;
        parse_network(&text).map(Self).or_else(|| decoder.mismatch(node, "invalid network", NETWORK))
    }
}

leaf_schema!(
    Network,
    json_schema!({"type": "string", "pattern": format!(r"^[0-9a-fA-F.:]+(/[0-9]+)?$|{FROM_ENVIRONMENT}")})
);

/// An http or https URL.
#[derive(Clone, Debug)]
pub(super) struct Url {
    pub(super) destination: Destination,
    pub(super) authority: HeaderValue,
    /// Path and query.
    pub(super) target: Uri,
}

/// An http or https URL without a query, or a Unix socket.
#[derive(Clone, Debug)]
pub(super) struct BaseUrl {
    pub(super) destination: Destination,
    pub(super) authority: HeaderValue,
    /// Without a trailing `/`.
    pub(super) path_prefix: Box<str>,
}

#[derive(Debug, thiserror::Error)]
enum UrlError {
    #[error("the URL has no host")]
    NoHost,
    #[error("the URL has no scheme")]
    NoScheme,
    #[error("the scheme must be `http` or `https`")]
    Scheme,
    #[error("a URL must not contain a user name or password")]
    UserInfo,
    #[error("the port must be a number from 1 to 65535")]
    Port,
    #[error("the URL must not have a fragment (`#…`)")]
    Fragment,
    #[error("the URL must not have a query (`?…`)")]
    Query,
    #[error("{0}")]
    Uri(#[from] http::uri::InvalidUri),
    #[error("{0}")]
    Authority(#[from] http::header::InvalidHeaderValue),
}

fn parse_url(text: &str) -> Result<Url, UrlError> {
    let (scheme, rest) = text.split_once("://").ok_or(UrlError::NoScheme)?;
    let tls = match scheme.to_ascii_lowercase().as_str() {
        "http" => false,
        "https" => true,
        _ => return Err(UrlError::Scheme),
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.contains('@') {
        return Err(UrlError::UserInfo);
    }
    if text.contains('#') {
        return Err(UrlError::Fragment);
    }
    let (host, port) = split_port(authority);
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    if host.is_empty() {
        return Err(UrlError::NoHost);
    }
    let port = match port {
        Some(port) => port.parse().ok().filter(|&port| port != 0).ok_or(UrlError::Port)?,
        None if tls => 443,
        None => 80,
    };
    let uri: Uri = text.parse()?;
    let target = uri.path_and_query().map_or("/", |target| target.as_str()).parse()?;
    let authority = HeaderValue::from_str(authority)?;
    Ok(Url { destination: Destination::Tcp { host: host.into(), port, tls }, authority, target })
}

/// Records an error in a URL. Does not show a URL with a user name or a password.
fn reject<T>(node: &Node, decoder: &mut Decoder<'_>, error: &UrlError, expected: &str) -> Option<T> {
    let hint = match error {
        UrlError::NoScheme => "start the URL with `http://` or `https://`".to_owned(),
        UrlError::UserInfo => {
            decoder.hide(node);
            let error = Diagnostic::error("credentials in a URL").at(node.span, error.to_string());
            return decoder.reject(error.hint("remove them: URLs are logged"));
        }
        other => other.to_string(),
    };
    decoder.mismatch_with(node, "invalid URL", expected, Some(hint))
}

impl Decode for BaseUrl {
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        const URL: &str = "a URL such as `http://127.0.0.1:8000`, or `unix:/path`";
        let text = decoder.string(node, URL)?;
        if let Some(path) = text.strip_prefix("unix:").filter(|path| !path.is_empty()) {
            return Some(Self {
                destination: Destination::Unix(decoder.directory(node).join(path)),
                authority: HeaderValue::from_static("localhost"),
                path_prefix: "".into(),
            });
        }
        let url = parse_url(&text).and_then(|url| match url.target.query() {
            Some(_) => Err(UrlError::Query),
            None => Ok(url),
        });
        match url {
            Ok(Url { destination, authority, target }) => {
                let path_prefix = target.path().trim_end_matches('/').into();
                Some(Self { destination, authority, path_prefix })
            }
            Err(error) => reject(node, decoder, &error, URL),
        }
    }
}

impl Decode for Url {
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        const URL: &str = "a URL such as `https://stockaj.example/api/v2/token`";
        let text = decoder.string(node, URL)?;
        parse_url(&text).map_or_else(|error| reject(node, decoder, &error, URL), Some)
    }
}

leaf_schema!(
    BaseUrl,
    json_schema!({
        "type": "string",
        "pattern": format!(r"^[hH][tT][tT][pP][sS]?://[^/?#@:][^/?#@]*(/[^?#]*)?$|^unix:.|{FROM_ENVIRONMENT}"),
    })
);

leaf_schema!(
    Url,
    json_schema!({
        "type": "string",
        "pattern": format!(r"^[hH][tT][tT][pP][sS]?://[^/?#@:][^/?#@]*(/[^#]*)?$|{FROM_ENVIRONMENT}"),
    })
);
