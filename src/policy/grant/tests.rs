use super::*;
use crate::policy::ability::Abilities;
use crate::policy::decision::{NextStep, RouteInputs, route};
use crate::policy::identity::{Described, Identity, IdentityHeader};
use crate::policy::map::{MapBuilder, Unmapped};
use crate::policy::path::CanonicalPath;
use crate::policy::test_fields::fields;
use crate::policy::{ability::Requirement, headers};

fn permit() -> Permit {
    let mut builder = MapBuilder::new(Unmapped::Deny);
    builder.route("/", [(Method::GET, Requirement::from_word("public").unwrap(), None)]).unwrap();
    let map = builder.build();
    let path = CanonicalPath::new("/").unwrap();
    match route(&map, &Method::GET, &path, RouteInputs::default()).next() {
        NextStep::Public(permit) => permit,
        other => panic!("{other:?}"),
    }
}

fn granted(
    lines: &[(&str, &str)],
    (method, decided): (Method, Method),
    trusted: bool,
    credentials: &Credentials,
) -> Grant {
    let trusted_fields = TrustedFields::new([HeaderName::from_static("x-our-own")]);
    let request = GrantedRequest {
        fields: &fields(lines),
        method: &method,
        decided: &decided,
        trusted,
        trusted_fields: &trusted_fields,
    };
    Grant::new(permit(), &request, credentials)
}

fn shown(lines: &[(HeaderName, HeaderValue)]) -> Vec<(&str, &str)> {
    lines.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect()
}

fn names(removed: &[HeaderName]) -> Vec<&str> {
    removed.iter().map(HeaderName::as_str).collect()
}

const SENT: [(&str, &str); 17] = [
    ("accept", "a"),
    ("authorization", "bearer  17|x"),
    ("cookie", "a=b"),
    ("cookie", "c=d"),
    ("proxy", "evil"),
    ("proxy-authorization", "Basic evil"),
    ("x-http-method-override", "DELETE"),
    ("x_http_method_override", "DELETE"),
    ("x-original-url", "/evil"),
    ("remote-user", "evil"),
    ("x-token-id", "1"),
    ("x-request-id", "5"),
    ("x-forwarded-for", "192.0.2.1"),
    ("x-forwarded-proto", "https"),
    ("x-forwarded-host", "evil"),
    ("x-our-own", "evil"),
    ("te", "trailers"),
];

fn token(cookies: bool, wanted: &[IdentityHeader]) -> Credentials {
    let abilities = Abilities::new(["a"]);
    let described = Described { id: "17", name: None, abilities: &abilities, workspace_id: None };
    let identity = (!wanted.is_empty()).then(|| Identity::new(wanted, described).unwrap());
    Credentials::Token { authorization: HeaderValue::from_static("Bearer 17|x"), identity, cookies }
}

#[test]
fn token_is_set_in_one_spelling_and_claims_are_removed() {
    let post = || (Method::POST, Method::POST);
    let grant = granted(&SENT, post(), false, &token(false, &[]));
    let authorization = ("authorization", "Bearer 17|x");
    assert_eq!(shown(&grant.set), [authorization, ("x-http-method-override", "POST")]);
    assert_eq!(shown(&grant.kept), []);
    let removed = [
        "cookie",
        "proxy",
        "proxy-authorization",
        "remote-user",
        "x-forwarded-host",
        "x-original-url",
        "x-our-own",
        "x-token-id",
        "x_http_method_override",
    ];
    assert_eq!(names(&grant.removed), removed);
    assert_eq!(grant.removed_names().unwrap(), removed.join(","));
    for (name, _) in grant.set.iter().chain(&grant.kept) {
        assert!(!grant.removed.contains(name), "Envoy removes after it has set: {name}");
    }

    let grant = granted(&SENT, (Method::GET, Method::GET), true, &token(true, &[IdentityHeader::Id]));
    assert_eq!(shown(&grant.set), [authorization, ("x-token-id", "17")]);
    assert_eq!(shown(&grant.kept), [("cookie", "a=b; c=d")]);
    let removed = [
        "proxy",
        "proxy-authorization",
        "remote-user",
        "x-http-method-override",
        "x-original-url",
        "x_http_method_override",
    ];
    assert_eq!(names(&grant.removed), removed);
}

#[test]
fn overridden_method_is_that_of_the_decision() {
    let grant = granted(&[], (Method::POST, Method::DELETE), false, &token(false, &[]));
    assert_eq!(shown(&grant.set)[1], ("x-http-method-override", "DELETE"));
    assert_eq!(grant.removed_names(), None);
}

#[test]
fn credentials_pass_as_on_the_proxy_listener() {
    let get = || (Method::GET, Method::GET);
    let sent = [("authorization", "Basic x"), ("cookie", "a=b")];
    let kept = |credentials: &headers::Credentials| {
        let grant = granted(&sent, get(), false, credentials);
        assert_eq!(shown(&grant.set), []);
        let removed: Vec<String> = names(&grant.removed).into_iter().map(str::to_owned).collect();
        let kept: Vec<String> = grant.kept.iter().map(|(name, _)| name.as_str().to_owned()).collect();
        (kept, removed)
    };
    let own = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let (authorization, cookie) = ("authorization", "cookie");
    assert_eq!(kept(&Credentials::AsSent), (own(&[authorization, cookie]), own(&[])));
    let unauthenticated = Credentials::Unauthenticated { cookies: false };
    assert_eq!(kept(&unauthenticated), (own(&[authorization]), own(&[cookie])));
    assert_eq!(kept(&Credentials::None), (own(&[]), own(&[authorization, cookie])));
}
