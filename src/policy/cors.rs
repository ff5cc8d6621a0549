//! CORS (the Fetch standard, "CORS protocol"): recognises and authorises preflights, and lets allowed origins read the
//! gateway's own responses.

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderValue, Method};

use super::ability::RequirementKind;
use super::decision::{self, Permit, RouteInputs};
use super::field_values::only;
use super::map::{AbilityMap, RouteMatch};
use super::method::MethodOverride;
use super::path::CanonicalPath;
use super::refusal::Refusal;
use super::target::METHODS;

/// The fields of the gateway's own responses that scripts may read.
const EXPOSED: &str = "WWW-Authenticate, X-Request-Id, Retry-After, X-RateLimit-Limit, X-RateLimit-Remaining, \
                       X-RateLimit-Reset, RateLimit-Policy, RateLimit";

/// The value of Access-Control-Allow-Origin for [`Origins::Any`].
static ANY: HeaderValue = HeaderValue::from_static("*");

/// `cors.preflight`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Preflight {
    /// The backend responds to preflights.
    #[default]
    Forward,
    /// The gateway responds to preflights.
    Answer,
}

/// `cors.origins`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Origins {
    /// No origin is allowed.
    #[default]
    None,
    /// Every origin except `null` is allowed.
    Any,
    /// These origins are allowed, compared byte for byte.
    These(Box<[HeaderValue]>),
}

/// The `cors` section of the configuration.
#[derive(Clone, Debug, Default)]
pub struct Cors {
    /// The origins whose scripts may read the gateway's own responses, and whose preflights it permits.
    pub origins: Origins,
    /// Whether scripts may send cookies.
    pub credentials: bool,
    /// Whether the gateway or the backend responds to preflights.
    pub preflight: Preflight,
    /// For [`Preflight::Answer`], the list of allowed methods; `None` for the requested one, which the map has.
    pub methods: Option<HeaderValue>,
    /// For [`Preflight::Answer`], the list of allowed fields; `None` for those that need no permission.
    pub headers: Option<HeaderValue>,
    /// For [`Preflight::Answer`], how long browsers may cache the response, in seconds.
    pub max_age: u64,
}

/// The method that a preflight requests; `None` if the request is no preflight.
pub fn requested_method<'a>(method: &Method, fields: &'a HeaderMap) -> Option<&'a HeaderValue> {
    if *method != Method::OPTIONS {
        return None;
    }
    only(fields, &ORIGIN)?;
    only(fields, &ACCESS_CONTROL_REQUEST_METHOD)
}

/// Looks up the request that a preflight for `path` with these `inputs` announces, and decides whether to permit the
/// preflight.
///
/// Browsers send preflights without credentials. So a preflight is permitted if some token could send the announced
/// request. That gives no access: the preflight is forwarded without a token and cookies, Laravel responds to it before
/// authentication, and Laravel reads method overrides from POST alone, so an OPTIONS stays an OPTIONS. `OPTIONS: deny`
/// in the map refuses preflights, too.
///
/// # Errors
/// The inner result is [`Refusal::Unmapped`], [`Refusal::MethodNotMapped`] or [`Refusal::Denied`]; because of the query,
/// [`Refusal::BadRequest`] or [`Refusal::QueryDenied`]; because of the route's networks, [`Refusal::WrongNetwork`].
pub fn decide<'map>(
    map: &'map AbilityMap,
    path: &CanonicalPath<'_>,
    inputs: RouteInputs<'map>,
    requested: &HeaderValue,
    overriding: MethodOverride,
) -> (RouteMatch<'map>, Result<Permit, Refusal>) {
    let options = map.find(&Method::OPTIONS, path);
    if let RouteMatch::Rule { rule, .. } = &options
        && matches!(rule.requirement.kind(), RequirementKind::Deny)
    {
        return (options, Err(Refusal::Denied));
    }
    let Some(requested) = supported_method(path, requested) else {
        return match options.route() {
            Some(route) => (RouteMatch::NoMethod { route }, Err(Refusal::MethodNotMapped)),
            None => (RouteMatch::NoRoute, Err(Refusal::Unmapped)),
        };
    };
    let decided = |method: &Method| {
        let routed = decision::route(map, method, path, inputs);
        (*routed.found(), routed.permit_preflight())
    };
    let as_sent = decided(&requested);
    // The announced POST may override its method.
    if as_sent.1.is_err() && requested == Method::POST && overriding == MethodOverride::Honour {
        for method in [Method::PUT, Method::PATCH, Method::DELETE] {
            let overridden = decided(&method);
            if overridden.1.is_ok() {
                return overridden;
            }
        }
    }
    as_sent
}

/// The method that a preflight requests, if the gateway supports it for `path`.
pub fn supported_method(path: &CanonicalPath<'_>, requested: &HeaderValue) -> Option<Method> {
    let is_requested = |method: &Method| method.as_str().as_bytes() == requested.as_bytes();
    METHODS.into_iter().find(is_requested).filter(|_| !path.is_asterisk())
}

impl Cors {
    /// The value of Access-Control-Allow-Origin for a request; `None` if its origin is not allowed.
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

    /// Adds the fields that let scripts of the [allowed](Self::allowed) origin read a response.
    pub fn expose(&self, origin: &HeaderValue, fields: &mut HeaderMap) {
        self.allow_origin(origin, fields);
        fields.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED));
        self.vary(fields);
    }

    /// Adds the names of fields that the gateway has added to a response of the backend, which sets all other CORS
    /// fields of it, so that scripts of the [allowed](Self::allowed) origin can read them. If the names depend on the
    /// origin, the response says so to caches, whatever the origin is.
    pub fn expose_also(&self, origin: Option<&HeaderValue>, names: &HeaderValue, fields: &mut HeaderMap) {
        let is_exposed = match self.origins {
            Origins::None => return,
            Origins::Any => true,
            Origins::These(_) => origin.is_some(),
        };
        if is_exposed {
            fields.append(ACCESS_CONTROL_EXPOSE_HEADERS, names.clone());
        }
        self.vary(fields);
    }

    /// Adds the fields of the response to a preflight for the method `requested`, which the map has. `origin` is the
    /// [allowed](Self::allowed) origin.
    pub fn answer(&self, origin: Option<&HeaderValue>, requested: &HeaderValue, fields: &mut HeaderMap) {
        self.vary(fields);
        let Some(origin) = origin else { return };
        self.allow_origin(origin, fields);
        fields.insert(ACCESS_CONTROL_ALLOW_METHODS, self.methods.as_ref().unwrap_or(requested).clone());
        if let Some(headers) = &self.headers {
            fields.insert(ACCESS_CONTROL_ALLOW_HEADERS, headers.clone());
        }
        fields.insert(ACCESS_CONTROL_MAX_AGE, self.max_age.into());
    }

    fn allow_origin(&self, origin: &HeaderValue, fields: &mut HeaderMap) {
        fields.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        if self.credentials {
            fields.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
    }

    /// Adds `Vary: Origin` to a response that depends on it, unless the response has that, or `*`.
    fn vary(&self, fields: &mut HeaderMap) {
        let names_origin = |value: &HeaderValue| {
            let mut names = value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
            names.any(|name| name == b"*" || name.eq_ignore_ascii_case(b"origin"))
        };
        if self.origins != Origins::Any && !fields.get_all(VARY).iter().any(names_origin) {
            fields.append(VARY, HeaderValue::from_static("Origin"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::ability::Requirement;
    use crate::policy::map::{MapBuilder, Unmapped};
    use crate::policy::test_fields::fields;

    const ORIGIN: (&str, &str) = ("Origin", "https://shop.example");
    const REQUESTED: (&str, &str) = ("Access-Control-Request-Method", "PUT");

    #[test]
    fn preflight_is_options_with_one_origin_and_one_requested_method() {
        for (method, lines, expected) in [
            (Method::OPTIONS, &[ORIGIN, REQUESTED][..], Some("PUT")),
            (Method::OPTIONS, &[("origin", "null"), ("access-control-request-method", "x")], Some("x")),
            (Method::OPTIONS, &[ORIGIN, REQUESTED, ("Access-Control-Request-Headers", "a, b")], Some("PUT")),
            (Method::OPTIONS, &[], None),
            (Method::OPTIONS, &[ORIGIN], None),
            (Method::OPTIONS, &[REQUESTED], None),
            (Method::OPTIONS, &[ORIGIN, ORIGIN, REQUESTED], None),
            (Method::OPTIONS, &[ORIGIN, REQUESTED, REQUESTED], None),
            (Method::OPTIONS, &[ORIGIN, ("Access_Control_Request_Method", "PUT")], None),
            (Method::GET, &[ORIGIN, REQUESTED], None),
            (Method::POST, &[ORIGIN, REQUESTED], None),
            (Method::HEAD, &[ORIGIN, REQUESTED], None),
        ] {
            let fields = fields(lines);
            let found = requested_method(&method, &fields).map(|value| value.to_str().unwrap());
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
    fn preflight_is_permitted_if_some_token_may_send_its_request() {
        use MethodOverride::{Honour, Pin};
        let (unmapped, denied) = (Err(Refusal::Unmapped), Err(Refusal::Denied));
        let no_method = Err(Refusal::MethodNotMapped);
        for (setting, overriding, path, requested, expected) in [
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
            let requested = HeaderValue::from_static(requested);
            let found =
                decide(&map, &path, RouteInputs::default(), &requested, overriding).1.map(|_permit| ());
            assert_eq!(found, expected, "{requested:?} {} of {setting:?}, {overriding:?}", path.as_str());
        }
        let map = map(Unmapped::Authenticated);
        let requested = HeaderValue::from_static("GET");
        let (_, found) = decide(&map, &CanonicalPath::asterisk(), RouteInputs::default(), &requested, Pin);
        assert!(found.is_err(), "browsers send no preflight for `*`");
    }

    #[test]
    fn requested_method_is_compared_byte_for_byte() {
        let path = CanonicalPath::new("/items").unwrap();
        for (requested, expected) in
            [("PUT", Some(Method::PUT)), ("put", None), ("PURGE", None), ("", None), ("GET, PUT", None)]
        {
            assert_eq!(
                supported_method(&path, &HeaderValue::from_static(requested)),
                expected,
                "{requested}"
            );
        }
        assert_eq!(supported_method(&CanonicalPath::asterisk(), &HeaderValue::from_static("GET")), None);
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
    fn origins_are_compared_byte_for_byte() {
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
    fn fields_of_exposed_responses_and_preflights() {
        let shop = HeaderValue::from_static("https://shop.example");
        let put = HeaderValue::from_static("PUT");
        let exposed = format!("access-control-expose-headers: {EXPOSED}");
        let added = |add: &dyn Fn(&mut HeaderMap)| {
            let mut fields = HeaderMap::new();
            add(&mut fields);
            lines(&fields)
        };

        let these = cors(&["https://shop.example"], false);
        let read = ["access-control-allow-origin: https://shop.example", &exposed, "vary: Origin"];
        assert_eq!(added(&|fields| these.expose(&shop, fields)), read);
        let answer = [
            "access-control-allow-methods: PUT",
            "access-control-allow-origin: https://shop.example",
            "access-control-max-age: 600",
            "vary: Origin",
        ];
        assert_eq!(added(&|fields| these.answer(Some(&shop), &put, fields)), answer);
        assert_eq!(added(&|fields| these.answer(None, &put, fields)), ["vary: Origin"]);

        let names = HeaderValue::from_static("Sunset");
        let also = ["access-control-expose-headers: Sunset", "vary: Origin"];
        assert_eq!(added(&|fields| these.expose_also(Some(&shop), &names, fields)), also);
        assert_eq!(added(&|fields| these.expose_also(None, &names, fields)), also[1..]);
        assert_eq!(added(&|fields| cors(&[], false).expose_also(None, &names, fields)), [""; 0]);

        let any = cors(&["*"], false);
        assert_eq!(added(&|fields| any.expose_also(None, &names, fields)), also[..1]);
        let read = ["access-control-allow-origin: *", &exposed];
        assert_eq!(added(&|fields| any.expose(&ANY, fields)), read);

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
        assert_eq!(added(&|fields| more.answer(Some(&shop), &put, fields)), answer);
        let read = added(&|fields| more.expose(&shop, fields));
        assert!(read.contains(&"access-control-allow-credentials: true".to_owned()), "{read:?}");
    }
}
