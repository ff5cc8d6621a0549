//! Cross-origin requests of browsers: which are preflights, where they may go, and who may read the gateway's
//! own answers (the Fetch standard, "CORS protocol").

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderValue, Method};

use super::ability::RequirementKind;
use super::decision::{self, Permit};
use super::headers::only;
use super::map::{AbilityMap, Found};
use super::method::MethodOverride;
use super::path::CanonicalPath;
use super::refusal::Refusal;
use super::target::METHODS;

/// What of the gateway's own answers a script may read beside the body.
const EXPOSED: &str = "WWW-Authenticate, X-Request-Id, Retry-After, X-RateLimit-Limit, X-RateLimit-Remaining, X-RateLimit-Reset";

/// A value that stands for every origin.
static ANY: HeaderValue = HeaderValue::from_static("*");

/// Who answers a preflight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Preflight {
    /// The backend.
    #[default]
    Forward,
    /// The gateway.
    Answer,
}

/// Whose scripts may read answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Origins {
    /// Nobody's.
    #[default]
    None,
    /// Everybody's, but for those without an origin: `null`.
    Any,
    /// Those of these, byte for byte.
    These(Box<[HeaderValue]>),
}

/// What browsers are told.
#[derive(Clone, Debug, Default)]
pub struct Cors {
    /// Whose scripts may read the gateway's own answers, and whose preflights it answers well.
    pub origins: Origins,
    /// Whether they may send cookies.
    pub credentials: bool,
    /// Who answers preflights.
    pub preflight: Preflight,
    /// For [`Preflight::Answer`], the methods that are allowed, as a list; none: what the map has.
    pub methods: Option<HeaderValue>,
    /// For [`Preflight::Answer`], the fields that are allowed, as a list; none: those that need no permission.
    pub headers: Option<HeaderValue>,
    /// For [`Preflight::Answer`], how many seconds a browser may remember it.
    pub max_age: u64,
}

/// The method that a preflight asks about; none for every other request.
pub fn asked<'a>(method: &Method, fields: &'a HeaderMap) -> Option<&'a HeaderValue> {
    if *method != Method::OPTIONS {
        return None;
    }
    only(fields, &ORIGIN)?;
    only(fields, &ACCESS_CONTROL_REQUEST_METHOD)
}

/// What the map says of the request that a preflight for `path` asks about, and whether the preflight may go
/// on.
///
/// A browser sends it without credentials, so it is not asked for any: it may go on where the request that it
/// asks about may be allowed to somebody. That opens nothing: it goes without a token and without cookies, Laravel
/// answers it before it asks who it is, and dispatches an OPTIONS as nothing else, since overrides are read of a
/// POST alone. `OPTIONS: deny` in the map keeps preflights out as well.
///
/// # Errors
/// [`Refusal::Unmapped`], [`Refusal::MethodNotMapped`] or [`Refusal::Denied`], inside.
pub fn decide<'map>(
    map: &'map AbilityMap,
    path: &CanonicalPath<'_>,
    asked: &HeaderValue,
    overriding: MethodOverride,
) -> (Found<'map>, Result<Permit, Refusal>) {
    let options = map.find(&Method::OPTIONS, path);
    if let Found::Rule { rule, .. } = &options
        && matches!(rule.requirement.kind(), RequirementKind::Deny)
    {
        return (options, Err(Refusal::Denied));
    }
    let Some(served) = served(path, asked) else {
        return match options.route() {
            Some(route) => (Found::NoMethod { route }, Err(Refusal::MethodNotMapped)),
            None => (Found::NoRoute, Err(Refusal::Unmapped)),
        };
    };
    let decided = |method: &Method| {
        let routed = decision::route(map, method, path);
        (*routed.found(), routed.permit_preflight())
    };
    let as_sent = decided(&served);
    // The POST to come may be decided as one of these.
    if as_sent.1.is_err() && served == Method::POST && overriding == MethodOverride::Honour {
        for method in [Method::PUT, Method::PATCH, Method::DELETE] {
            let overridden = decided(&method);
            if overridden.1.is_ok() {
                return overridden;
            }
        }
    }
    as_sent
}

/// The method that a preflight for `path` asks about, where a request of it could be served.
pub fn served(path: &CanonicalPath<'_>, asked: &HeaderValue) -> Option<Method> {
    let is_asked = |method: &Method| method.as_str().as_bytes() == asked.as_bytes();
    METHODS.into_iter().find(is_asked).filter(|_| !path.is_asterisk())
}

impl Cors {
    /// What Access-Control-Allow-Origin says to a request of these fields; none: nothing.
    pub fn allowed(&self, fields: &HeaderMap) -> Option<&HeaderValue> {
        match &self.origins {
            Origins::None => None,
            Origins::Any => only(fields, &ORIGIN).filter(|origin| *origin != "null").map(|_| &ANY),
            Origins::These(origins) => {
                let origin = only(fields, &ORIGIN)?;
                origins.iter().find(|allowed| *allowed == origin)
            }
        }
    }

    /// Lets a script of the [allowed](Self::allowed) origin read an answer.
    pub fn let_read(&self, origin: &HeaderValue, fields: &mut HeaderMap) {
        self.name_origin(origin, fields);
        fields.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED));
        self.vary(fields);
    }

    /// The answer to a preflight of an [allowed](Self::allowed) origin, or of another, that asks about the
    /// method `asked`, which the map has.
    pub fn answer(&self, origin: Option<&HeaderValue>, asked: &HeaderValue, fields: &mut HeaderMap) {
        self.vary(fields);
        let Some(origin) = origin else { return };
        self.name_origin(origin, fields);
        fields.insert(ACCESS_CONTROL_ALLOW_METHODS, self.methods.as_ref().unwrap_or(asked).clone());
        if let Some(headers) = &self.headers {
            fields.insert(ACCESS_CONTROL_ALLOW_HEADERS, headers.clone());
        }
        fields.insert(ACCESS_CONTROL_MAX_AGE, self.max_age.into());
    }

    fn name_origin(&self, origin: &HeaderValue, fields: &mut HeaderMap) {
        fields.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        if self.credentials {
            fields.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
    }

    fn vary(&self, fields: &mut HeaderMap) {
        if self.origins != Origins::Any {
            fields.append(VARY, HeaderValue::from_static("Origin"));
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderName;

    use super::*;
    use crate::policy::ability::Requirement;
    use crate::policy::map::{MapBuilder, Unmapped};

    fn fields(lines: &[(&str, &str)]) -> HeaderMap {
        let line = |(name, value): &(&str, &str)| {
            (name.parse::<HeaderName>().unwrap(), HeaderValue::from_bytes(value.as_bytes()).unwrap())
        };
        lines.iter().map(line).collect()
    }

    const ORIGIN: (&str, &str) = ("Origin", "https://shop.example");
    const ASKED: (&str, &str) = ("Access-Control-Request-Method", "PUT");

    #[test]
    fn a_preflight_is_options_with_one_origin_and_one_method_asked_about() {
        for (method, lines, expected) in [
            (Method::OPTIONS, &[ORIGIN, ASKED][..], Some("PUT")),
            (Method::OPTIONS, &[("origin", "null"), ("access-control-request-method", "x")], Some("x")),
            (Method::OPTIONS, &[ORIGIN, ASKED, ("Access-Control-Request-Headers", "a, b")], Some("PUT")),
            (Method::OPTIONS, &[], None),
            (Method::OPTIONS, &[ORIGIN], None),
            (Method::OPTIONS, &[ASKED], None),
            (Method::OPTIONS, &[ORIGIN, ORIGIN, ASKED], None),
            (Method::OPTIONS, &[ORIGIN, ASKED, ASKED], None),
            (Method::OPTIONS, &[ORIGIN, ("Access_Control_Request_Method", "PUT")], None),
            (Method::GET, &[ORIGIN, ASKED], None),
            (Method::POST, &[ORIGIN, ASKED], None),
            (Method::HEAD, &[ORIGIN, ASKED], None),
        ] {
            let fields = fields(lines);
            let found = asked(&method, &fields).map(|value| value.to_str().unwrap());
            assert_eq!(found, expected, "{method} {lines:?}");
        }
    }

    fn map(unmapped: Unmapped) -> AbilityMap {
        let mut builder = MapBuilder::new(unmapped);
        let word = |(method, word): (Method, &str)| (method, Requirement::from_word(word).unwrap(), None);
        for (pattern, methods) in [
            ("/up", vec![(Method::GET, "public")]),
            ("/items", vec![(Method::GET, "items:read"), (Method::POST, "items:create")]),
            ("/items/{id}", vec![(Method::PUT, "items:update"), (Method::DELETE, "deny")]),
            ("/open", vec![(Method::GET, "public"), (Method::OPTIONS, "items:read")]),
            ("/closed", vec![(Method::GET, "public"), (Method::OPTIONS, "deny")]),
            ("/internal", vec![(Method::GET, "deny")]),
        ] {
            builder.route(pattern, methods.into_iter().map(word)).unwrap();
        }
        builder.build()
    }

    #[test]
    fn a_preflight_may_go_where_its_request_may() {
        use MethodOverride::{Honour, Pin};
        let (unmapped, denied) = (Err(Refusal::Unmapped), Err(Refusal::Denied));
        let no_method = Err(Refusal::MethodNotMapped);
        for (setting, overriding, path, asked, expected) in [
            (Unmapped::Deny, Pin, "/up", "GET", Ok(())),
            (Unmapped::Deny, Pin, "/up", "HEAD", Ok(())),
            (Unmapped::Deny, Pin, "/up", "POST", no_method.clone()),
            (Unmapped::Deny, Pin, "/items", "POST", Ok(())),
            (Unmapped::Deny, Pin, "/items", "post", no_method.clone()),
            (Unmapped::Deny, Pin, "/items", "TRACE", no_method.clone()),
            (Unmapped::Deny, Pin, "/items", "", no_method.clone()),
            (Unmapped::Deny, Pin, "/items", "GET, POST", no_method.clone()),
            (Unmapped::Deny, Pin, "/items", "OPTIONS", no_method.clone()),
            (Unmapped::Deny, Pin, "/items/5", "PUT", Ok(())),
            (Unmapped::Deny, Pin, "/items/5", "DELETE", denied.clone()),
            (Unmapped::Deny, Pin, "/items/5", "POST", no_method.clone()),
            (Unmapped::Deny, Honour, "/items/5", "POST", Ok(())),
            (Unmapped::Deny, Honour, "/items/5", "GET", no_method.clone()),
            (Unmapped::Deny, Honour, "/up", "POST", no_method.clone()),
            (Unmapped::Deny, Pin, "/open", "GET", Ok(())),
            (Unmapped::Deny, Pin, "/closed", "GET", denied.clone()),
            (Unmapped::Deny, Pin, "/internal", "GET", denied.clone()),
            (Unmapped::Deny, Pin, "/nowhere", "GET", unmapped.clone()),
            (Unmapped::Authenticated, Pin, "/nowhere", "GET", Ok(())),
            (Unmapped::Authenticated, Pin, "/nowhere", "TRACE", unmapped),
            (Unmapped::Authenticated, Pin, "/internal", "GET", denied),
            (Unmapped::Authenticated, Pin, "/items/5", "GET", no_method),
        ] {
            let (map, path) = (map(setting), CanonicalPath::new(path).unwrap());
            let asked = HeaderValue::from_static(asked);
            let found = decide(&map, &path, &asked, overriding).1.map(|_permit| ());
            assert_eq!(found, expected, "{asked:?} {} of {setting:?}, {overriding:?}", path.as_str());
        }
        let map = map(Unmapped::Authenticated);
        let asked = HeaderValue::from_static("GET");
        let (_, found) = decide(&map, &CanonicalPath::asterisk(), &asked, Pin);
        assert!(found.is_err(), "`*` is nothing that a browser asks for");
    }

    #[test]
    fn a_method_that_is_served_is_named_byte_for_byte() {
        let path = CanonicalPath::new("/items").unwrap();
        for (asked, expected) in
            [("PUT", Some(Method::PUT)), ("put", None), ("PURGE", None), ("", None), ("GET, PUT", None)]
        {
            assert_eq!(served(&path, &HeaderValue::from_static(asked)), expected, "{asked}");
        }
        assert_eq!(served(&CanonicalPath::asterisk(), &HeaderValue::from_static("GET")), None);
    }

    fn cors(origins: &[&'static str], credentials: bool) -> Cors {
        let origins = match origins {
            [] => Origins::None,
            ["*"] => Origins::Any,
            these => Origins::These(these.iter().map(|it| HeaderValue::from_static(it)).collect()),
        };
        Cors { origins, credentials, max_age: 600, ..Cors::default() }
    }

    #[test]
    fn origins_are_equal_byte_for_byte() {
        const SHOP: &str = "https://shop.example";
        for (origins, sent, expected) in [
            (&[][..], &[SHOP][..], None),
            (&[SHOP], &[], None),
            (&[SHOP], &[SHOP], Some(SHOP)),
            (&["http://a:81", SHOP], &[SHOP], Some(SHOP)),
            (&[SHOP], &["https://SHOP.example"], None),
            (&[SHOP], &["http://shop.example"], None),
            (&[SHOP], &["https://shop.example:443"], None),
            (&[SHOP], &["https://shop.example/"], None),
            (&[SHOP], &["https://shop.example.evil"], None),
            (&[SHOP], &["https://evil.shop.example"], None),
            (&[SHOP], &["https://shop.example, https://shop.example"], None),
            (&[SHOP], &["null"], None),
            (&[SHOP], &["*"], None),
            (&[SHOP], &[""], None),
            (&[SHOP], &[SHOP, SHOP], None),
            (&["*"], &[SHOP], Some("*")),
            (&["*"], &["null"], None),
            (&["*"], &[], None),
            (&["*"], &[SHOP, SHOP], None),
        ] {
            let lines: Vec<_> = sent.iter().map(|origin| ("Origin", *origin)).collect();
            let cors = cors(origins, false);
            let found = cors.allowed(&fields(&lines)).map(|value| value.to_str().unwrap().to_owned());
            assert_eq!(found.as_deref(), expected, "{sent:?} of {origins:?}");
        }
    }

    fn lines(fields: &HeaderMap) -> Vec<String> {
        let mut lines: Vec<_> =
            fields.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        lines.sort();
        lines
    }

    #[test]
    fn what_browsers_are_told() {
        let shop = HeaderValue::from_static("https://shop.example");
        let put = HeaderValue::from_static("PUT");
        let exposed = format!("access-control-expose-headers: {EXPOSED}");
        let told = |tell: &dyn Fn(&mut HeaderMap)| {
            let mut fields = HeaderMap::new();
            tell(&mut fields);
            lines(&fields)
        };

        let these = cors(&["https://shop.example"], false);
        let read = ["access-control-allow-origin: https://shop.example", &exposed, "vary: Origin"];
        assert_eq!(told(&|fields| these.let_read(&shop, fields)), read);
        let answer = [
            "access-control-allow-methods: PUT",
            "access-control-allow-origin: https://shop.example",
            "access-control-max-age: 600",
            "vary: Origin",
        ];
        assert_eq!(told(&|fields| these.answer(Some(&shop), &put, fields)), answer);
        assert_eq!(told(&|fields| these.answer(None, &put, fields)), ["vary: Origin"]);

        let any = cors(&["*"], false);
        let read = ["access-control-allow-origin: *", &exposed];
        assert_eq!(told(&|fields| any.let_read(&ANY, fields)), read);

        let more = Cors {
            methods: Some(HeaderValue::from_static("GET, PUT")),
            headers: Some(HeaderValue::from_static("Authorization, X-Own")),
            ..cors(&["https://shop.example"], true)
        };
        let answer = [
            "access-control-allow-credentials: true",
            "access-control-allow-headers: Authorization, X-Own",
            "access-control-allow-methods: GET, PUT",
            "access-control-allow-origin: https://shop.example",
            "access-control-max-age: 600",
            "vary: Origin",
        ];
        assert_eq!(told(&|fields| more.answer(Some(&shop), &put, fields)), answer);
        let read = told(&|fields| more.let_read(&shop, fields));
        assert!(read.contains(&"access-control-allow-credentials: true".to_owned()), "{read:?}");
    }
}
