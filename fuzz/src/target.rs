//! Compares target canonicalisation with a reference that applies the rules of the contract one by one.
//!
//! `data` is `METHOD target`, and after a line feed the Host field; `stockaj.example` without one.

use http::header::HOST;
use http::{HeaderMap, HeaderValue, Method, Uri};
use stockaj_gateway::internals::policy::map::AbilityMap;
use stockaj_gateway::internals::policy::path::CanonicalPath;
use stockaj_gateway::internals::policy::target::{METHODS, Target};

pub fn check(data: &[u8]) {
    let (line, host) = match data.iter().position(|&byte| byte == b'\n') {
        Some(end) => (&data[..end], &data[end + 1..]),
        None => (data, &b"stockaj.example"[..]),
    };
    let Some(space) = line.iter().position(|&byte| byte == b' ') else { return };
    let (method, target) = (&line[..space], &line[space + 1..]);
    let path = target.split(|&byte| byte == b'?').next().unwrap_or_default();
    if let Ok(path) = std::str::from_utf8(path) {
        check_path(path);
    }
    // As hyper parses them.
    if let (Ok(method), Ok(uri), Ok(host)) =
        (Method::from_bytes(method), Uri::try_from(target), HeaderValue::from_bytes(host))
    {
        check_request(&method, &uri, host);
    }
}

fn check_path(raw: &str) {
    let canonical = CanonicalPath::new(raw).ok();
    let expected = reference(raw.as_bytes());
    let found = canonical.as_ref().map(|it| (it.as_str(), it.names_front_controller()));
    assert_eq!(found, expected.as_ref().map(|(path, names)| (&**path, *names)), "{raw:?}");
    let Some(canonical) = canonical else { return };
    // An empty map refuses it if it matters.
    assert_eq!(AbilityMap::default().check_path(&canonical).is_err(), canonical.names_front_controller());
    assert_eq!(canonical.is_borrowed(), canonical.as_str() == raw);
    let again = CanonicalPath::new(canonical.as_str()).expect("canonical is canonical");
    assert!(again.is_borrowed() && again == canonical);
}

fn check_request(method: &Method, uri: &Uri, host: HeaderValue) {
    let fields = HeaderMap::from_iter([(HOST, host)]);
    let Ok(target) = Target::read(method, uri, &fields) else { return };
    assert!(METHODS.contains(method));
    assert_eq!(target.query, uri.query());
    match uri.path() {
        "*" => assert!(target.path.is_asterisk() && *method == Method::OPTIONS),
        path => {
            let expected = reference(path.as_bytes()).map(|(path, _)| path);
            assert_eq!(Some(target.path.as_str()), expected.as_deref());
        }
    }
    let host = target.host.as_bytes();
    assert!(!host.is_empty() && !host.iter().any(|byte| b"@/?#%,\\ ".contains(byte)));
    if let Some(authority) = uri.authority() {
        assert!(!authority.as_str().contains('@'));
        let named = authority.host().to_ascii_lowercase();
        assert!(host.to_ascii_lowercase().starts_with(named.as_bytes()), "{authority} and {host:?}");
    }
}

/// The canonical path, and whether a segment names the front controller; `None` if the target is refused.
fn reference(raw: &[u8]) -> Option<(String, bool)> {
    let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,=:@|[]%/".contains(byte);
    if !raw.starts_with(b"/") || !raw.iter().all(allowed) {
        return None;
    }
    let mut canonical = String::new();
    let mut rest = raw;
    while let [first, others @ ..] = rest {
        rest = others;
        if *first != b'%' {
            canonical.push(char::from(*first));
            continue;
        }
        let digits = rest.get(..2).filter(|digits| digits.iter().all(u8::is_ascii_hexdigit))?;
        rest = &rest[2..];
        let digits = std::str::from_utf8(digits).ok()?.to_ascii_uppercase();
        match u8::from_str_radix(&digits, 16).ok()? {
            b'/' => return None,
            byte if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) => {
                canonical.push(char::from(byte));
            }
            _ => {
                canonical.push('%');
                canonical.push_str(&digits);
            }
        }
    }
    // However often a backend decodes it, the path stays the same.
    let mut view = canonical.clone().into_bytes();
    let separators = view.iter().filter(|&&byte| byte == b'/').count();
    let mut times = 0;
    let mut names_front_controller = false;
    loop {
        let is_safe = |byte: &u8| !byte.is_ascii_control() && *byte != b'\\';
        let segments: Vec<&[u8]> = view[1..].split(|&byte| byte == b'/').collect();
        if segments.len() != separators
            || !view.iter().all(is_safe)
            || segments.iter().any(|segment| matches!(*segment, b"." | b".."))
            || segments.iter().rev().skip(1).any(|segment| segment.is_empty())
        {
            return None;
        }
        names_front_controller |=
            segments.iter().any(|segment| segment.to_ascii_lowercase().starts_with(b"index.php"));
        let next = decode(&view);
        if next == view {
            break;
        }
        view = next;
        times += 1;
        if times == 1 && std::str::from_utf8(&view).ok()?.chars().any(char::is_control) {
            return None;
        }
    }
    if canonical.len() > 1 && canonical.ends_with('/') {
        canonical.pop();
    }
    Some((canonical, names_front_controller))
}

/// Decodes once, like a backend that keeps a stray `%`.
pub(crate) fn decode(bytes: &[u8]) -> Vec<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let [first, others @ ..] = rest {
        rest = others;
        let encoded = match (*first, others) {
            (b'%', [high, low, ..]) => digit(*high).zip(digit(*low)).map(|(high, low)| high << 4 | low),
            _ => None,
        };
        decoded.push(encoded.unwrap_or(*first));
        if encoded.is_some() {
            rest = &others[2..];
        }
    }
    decoded
}
