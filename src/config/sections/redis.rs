//! `redis`: the connection for revocations of other replicas, from a URL.

use std::path::PathBuf;

use percent_encoding::percent_decode_str;
use secrecy::{ExposeSecret, SecretString};
use url::{Host, Url};

use super::client_tls::{self, ClientTls};
use crate::config::language::{Decoder, Diagnostic, Secret, SecretFile, Spanned, Text, section};
use crate::config::settings::{self, Destination};

section! {
    /// The Redis or Valkey through which replicas share revocations.
    Redis {
        /// `redis://`, or `rediss://` for TLS, with a host and optional user, password, port and database:
        /// `rediss://user:password@host:6379/0`. For a Unix socket `redis+unix:///path`. Take it from the environment:
        /// `${REDIS_URL}`.
        url: Option<Spanned<Secret>>,
        /// File with the URL.
        url_file: Option<Spanned<SecretFile>>,
        /// TLS of the connection, if the URL is `rediss://`.
        tls: ClientTls,
        /// Name of the Pub/Sub channel and prefix of the key. Replicas with the same name share revocations.
        channel: Text = "stockaj-gateway",
    }
    exclusive { url, url_file }
}

const PORT: u16 = 6379;

/// An error in a URL. It does not quote the URL, most of which may be a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum UrlError {
    #[error("it is not a URL")]
    Syntax,
    #[error("the scheme must be `redis`, `rediss` or `redis+unix`")]
    Scheme,
    #[error("the URL has no host")]
    Host,
    #[error("`redis+unix` needs an absolute path and no host")]
    Path,
    #[error("the path must be the number of a database")]
    Database,
    #[error("the user and password must be UTF-8")]
    Encoding,
    #[error("the URL has a user but no password")]
    Password,
    #[error("the URL must not have a query or fragment")]
    Query,
}

/// Returns `None` if it recorded an error.
pub(crate) fn compile(
    Spanned { value: raw, span }: Spanned<Redis>,
    decoder: &mut Decoder<'_>,
) -> Option<settings::Redis> {
    let url = raw.url.map(|url| (url.value.0, url.span, "redis.url"));
    let file = raw.url_file.map(|file| (file.value.0, file.span, "redis.url_file"));
    let tls = client_tls::compile(raw.tls, "redis", decoder);
    let Some((secret, at, key)) = url.or(file) else {
        let error = Diagnostic::error("missing key `url`").key("redis");
        return decoder.reject(error.at(span, "expected `url` or `url_file`"));
    };
    match parse(secret.expose_secret()) {
        Ok(Address { destination, user, password, database }) => {
            let has_tls_keys = tls.ca_file.is_some() || tls.identity.is_some() || tls.server_name.is_some();
            if has_tls_keys && !matches!(destination, Destination::Tcp { tls: true, .. }) {
                let error = Diagnostic::error("`tls` without TLS").key("redis.tls");
                decoder.record(error.at(at, "this URL does not use TLS").hint("use `rediss://` for TLS"));
            }
            Some(settings::Redis { destination, user, password, database, tls, channel: raw.channel.0 })
        }
        Err(error) => {
            let error = Diagnostic::error("invalid Redis URL").key(key).at(at, error.to_string());
            decoder.reject(error.hint("write it like `rediss://user:password@host:6379/0`"))
        }
    }
}

#[derive(Debug)]
struct Address {
    destination: Destination,
    user: Option<Box<str>>,
    password: Option<SecretString>,
    database: u16,
}

fn parse(text: &str) -> Result<Address, UrlError> {
    let url = Url::parse(text).map_err(|_| UrlError::Syntax)?;
    let tls = match url.scheme() {
        "redis" | "valkey" => false,
        "rediss" | "valkeys" => true,
        "redis+unix" | "unix" => return parse_unix(&url),
        _ => return Err(UrlError::Scheme),
    };
    if url.query().is_some() || url.fragment().is_some() {
        return Err(UrlError::Query);
    }
    let host = match url.host().ok_or(UrlError::Host)? {
        Host::Domain("") => return Err(UrlError::Host),
        // The URL standard does not parse IPv4 addresses for schemes that are not special.
        Host::Domain(name) => decoded(name)?,
        Host::Ipv4(address) => address.to_string().into(),
        Host::Ipv6(address) => address.to_string().into(),
    };
    let database = match url.path() {
        "" | "/" => 0,
        path => path[1..].parse().map_err(|_| UrlError::Database)?,
    };
    let user = Some(decoded(url.username())?).filter(|user| !user.is_empty());
    let password = url.password().map(decoded).transpose()?;
    if user.is_some() && password.is_none() {
        return Err(UrlError::Password);
    }
    let destination = Destination::Tcp { host, port: url.port().unwrap_or(PORT), tls };
    Ok(Address {
        destination,
        user,
        password: password.map(|password| SecretString::from(password.into_string())),
        database,
    })
}

fn parse_unix(url: &Url) -> Result<Address, UrlError> {
    if url.query().is_some() || url.fragment().is_some() {
        return Err(UrlError::Query);
    }
    let has_no_host = url.host_str().is_none_or(str::is_empty) && url.username().is_empty();
    if !has_no_host || url.cannot_be_a_base() || url.path().len() < 2 {
        return Err(UrlError::Path);
    }
    let path = PathBuf::from(&*decoded(url.path())?);
    Ok(Address { destination: Destination::Unix(path), user: None, password: None, database: 0 })
}

fn decoded(text: &str) -> Result<Box<str>, UrlError> {
    let text = percent_decode_str(text).decode_utf8().map_err(|_| UrlError::Encoding)?;
    Ok(text.as_ref().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_have_a_destination_and_credentials() {
        let tcp = |host: &str, port, tls| Destination::Tcp { host: host.into(), port, tls };
        for (text, destination, user, password, database) in [
            ("redis://localhost", tcp("localhost", 6379, false), None, None, 0),
            ("rediss://redis.example:7000/3", tcp("redis.example", 7000, true), None, None, 3),
            ("redis://:p%40ss@10.0.0.1/", tcp("10.0.0.1", 6379, false), None, Some("p@ss"), 0),
            ("redis://gate:p%3Aw@[::1]:1", tcp("::1", 1, false), Some("gate"), Some("p:w"), 0),
            ("valkeys://a:b@host", tcp("host", 6379, true), Some("a"), Some("b"), 0),
            ("redis+unix:///run/redis.sock", Destination::Unix("/run/redis.sock".into()), None, None, 0),
            ("unix:/run/redis%20.sock", Destination::Unix("/run/redis .sock".into()), None, None, 0),
        ] {
            let address = parse(text).unwrap();
            assert_eq!(address.destination, destination, "{text}");
            assert_eq!((address.user.as_deref(), address.database), (user, database), "{text}");
            assert_eq!(address.password.as_ref().map(|it| it.expose_secret()), password, "{text}");
        }
        for (text, error) in [
            ("localhost:6379", UrlError::Scheme),
            ("127.0.0.1:6379", UrlError::Syntax),
            ("http://localhost", UrlError::Scheme),
            ("redis://", UrlError::Host),
            ("redis:/localhost", UrlError::Host),
            ("redis://:password@", UrlError::Syntax),
            ("redis://localhost/one", UrlError::Database),
            ("redis://localhost/0/1", UrlError::Database),
            ("redis://localhost/-1", UrlError::Database),
            ("redis://localhost?db=1", UrlError::Query),
            ("redis://user@localhost", UrlError::Password),
            ("redis://user:@localhost", UrlError::Password),
            ("redis://:%ff@localhost", UrlError::Encoding),
            ("redis+unix://host/path", UrlError::Path),
            ("redis+unix:///", UrlError::Path),
            ("unix:relative", UrlError::Path),
        ] {
            assert_eq!(parse(text).unwrap_err(), error, "{text}");
        }
    }
}
