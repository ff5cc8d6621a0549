use proptest::prelude::*;

use super::parameter::{MAX_DEPTH, MAX_PARAMETERS};
use super::*;
use crate::policy::ability::{Abilities, Requirement};
use crate::policy::refusal::Refusal;

fn word(word: &str) -> Requirement {
    Requirement::from_word(word).unwrap()
}

fn values(split: Option<&str>, values: &[(&str, &str)], deny_others: bool) -> RawCheck {
    let value = |(value, requirement): &(&str, &str)| RawValue {
        value: (*value).into(),
        requirement: word(requirement),
        place: None,
    };
    RawCheck::Values { split: split.map(Into::into), values: values.iter().map(value).collect(), deny_others }
}

fn rules(parameters: &[(&str, RawCheck)], deny_others: bool) -> QueryRules {
    let parameter = |(name, check): &(&str, RawCheck)| RawParameter {
        name: (*name).into(),
        check: check.clone(),
        place: None,
    };
    QueryRules::new(parameters.iter().map(parameter).collect(), deny_others.then_some(None)).unwrap()
}

fn requires(requirement: &str) -> RawCheck {
    RawCheck::Requirement(word(requirement))
}

/// The rules of the issue.
fn sample(deny_others: bool) -> QueryRules {
    let includes = [("variants", "items:read"), ("renters", "renters:read")];
    rules(
        &[
            ("include", values(Some(","), &includes, true)),
            ("fields[renters]", requires("renters:read")),
            ("debug", requires("deny")),
        ],
        deny_others,
    )
}

/// The subjects that apply to a query, or the reason of a 400.
fn subjects(rules: &QueryRules, query: &str) -> Result<String, &'static str> {
    let mut subjects = Vec::new();
    let visited = rules.visit(query, |_, it| {
        subjects.push(it.subject.to_string());
        Ok(())
    });
    match visited {
        Ok(()) => Ok(subjects.join(" ")),
        Err(Refusal::BadRequest(why)) => Err(why),
        Err(other) => panic!("{other:?}"),
    }
}

#[test]
fn every_occurrence_of_a_parameter_is_checked() {
    let (open, closed) = (sample(false), sample(true));
    for (query, expected) in [
        ("", ""),
        ("&&", ""),
        ("page=2&sort=name", "(others) (others)"),
        ("include=variants", "include=variants"),
        ("include=variants,renters", "include=variants include=renters"),
        ("include=variants%2Crenters", "include=variants include=renters"),
        ("include=renters&include=variants", "include=renters include=variants"),
        ("include=variants&include=renters", "include=variants include=renters"),
        ("include[]=variants&include[]=renters", "include=variants include=renters"),
        ("include[0]=renters", "include=renters"),
        ("include%5B%5D=renters", "include=renters"),
        ("include[renters]=1", "include=renters include=(others)"),
        ("include[a][b]=renters", "include=(others) include=(others) include=renters"),
        ("incl%75de=renters", "include=renters"),
        ("include=rent%65rs", "include=renters"),
        ("include=Renters", "include=(others)"),
        ("include=renters%20", "include=(others)"),
        ("include=+renters", "include=(others)"),
        ("include=renters.items", "include=(others)"),
        ("include=", ""),
        ("include", ""),
        ("include=,,variants,", "include=variants"),
        ("include=renters=1", "include=(others)"),
        ("include=renters%00", "include=(others)"),
        ("Include=renters", "(others)"),
        ("fields[renters]=name", "fields[renters]"),
        ("fields[renters][]=name", "fields[renters]"),
        ("fields[renters][a][b]=name", "fields[renters]"),
        ("fields[renters]", "fields[renters]"),
        ("fields[items]=name", "(others)"),
        ("fields=renters", "(others)"),
        ("fields[]=renters", "(others)"),
        ("fields[a][renters]=name", "(others)"),
        ("fields.renters=name", "(others)"),
        ("debug=0", "debug"),
        ("debug[]", "debug"),
        ("q=caf%E9", "(others)"),
        ("q=100%", "(others)"),
        ("q=a%0Ab", "(others)"),
    ] {
        assert_eq!(subjects(&closed, query).as_deref(), Ok(expected), "{query}");
        let of_open: Vec<&str> = expected.split(' ').filter(|it| *it != "(others)").collect();
        assert_eq!(subjects(&open, query), Ok(of_open.join(" ")), "{query}");
    }
}

#[test]
fn query_that_two_parsers_could_read_differently_is_rejected() {
    let spelling = "query parameter that PHP reads as one of the route's rules";
    let brackets = "unbalanced brackets in the name of a query parameter";
    let control = "control character in the name of a query parameter";
    let name = "query parameter without a name";
    let key = "key of a query parameter that begins with a space";
    let escape = "percent sign without two hex digits in a query parameter";
    let deep = format!("a{}=1", "[b]".repeat(MAX_DEPTH + 1));
    let many = "a&".repeat(MAX_PARAMETERS + 1);
    let rules = rules(&[("in_clude", requires("a")), ("include", values(None, &[("a", "a")], false))], false);
    for (query, why) in [
        ("in.clude=1", spelling),
        ("in+clude=1", spelling),
        ("in%20clude=1", spelling),
        ("in%2Eclude[a]=1", spelling),
        ("+in_clude=1", spelling),
        ("%20%20include=1", spelling),
        ("include[=1", brackets),
        ("include[a=1", brackets),
        ("include[a]b=1", brackets),
        ("include[a][b=1", brackets),
        ("include[[a]]=1", brackets),
        ("include]=1", brackets),
        ("a[b=c]=1", brackets),
        ("[a]=1", name),
        ("=1", name),
        ("+=1", name),
        ("%20[a]=1", name),
        ("include%00=1", control),
        ("include%00x=1", control),
        ("a%0A=1", control),
        ("a%7F=1", control),
        ("a[%09]=1", control),
        ("a%C2%85=1", control),
        ("a[+]=1", key),
        ("a[%20b]=1", key),
        ("a%FF=1", "query parameter that is not UTF-8"),
        ("a%zz=1", escape),
        ("a%=1", escape),
        ("%4", escape),
        ("include=%4", escape),
        ("include=%FF", "query parameter that is not UTF-8"),
        ("x=1;include=renters", "query with a semicolon, which some parsers take for a separator"),
        (&deep, "query parameter with more than 64 keys"),
        (&many, "query with more than 1000 parameters"),
    ] {
        assert_eq!(subjects(&rules, query), Err(why), "{query}");
    }
    assert_eq!(subjects(&rules, &many[2..]).as_deref(), Ok(""));
}

#[test]
fn listed_values_cover_similar_spellings_if_others_are_allowed() {
    let rules = rules(&[("include", values(Some("|"), &[("renters", "a")], false))], false);
    for (query, expected) in [
        ("include=renters", "include=renters"),
        ("include=items|renters", "include=renters"),
        ("include=RENTERS", "include=renters"),
        ("include=+renters%09", "include=renters"),
        ("include=%E2%80%8Brenters", "include=renters"),
        ("include=items", ""),
        ("include=items,renters", ""),
    ] {
        assert_eq!(subjects(&rules, query).as_deref(), Ok(expected), "{query}");
    }
}

#[test]
fn similar_spellings_of_other_letters_are_covered() {
    let rules = rules(&[("tag", values(None, &[("café", "a")], false))], false);
    for query in
        ["tag=caf%C3%A9", "tag=+caf%C3%A9", "tag=caf%C3%A9%20", "tag=CAF%C3%89", "tag=%C2%A0caf%C3%A9"]
    {
        assert_eq!(subjects(&rules, query).as_deref(), Ok("tag=café"), "{query}");
    }
    assert_eq!(subjects(&rules, "tag=caf").as_deref(), Ok(""));
}

/// An index is the place of a value, unless the map lists it as one.
#[test]
fn listed_index_is_a_value() {
    let rules = rules(&[("type", values(None, &[("2", "a")], false))], false);
    for (query, expected) in
        [("type[2]=1", "type=2"), ("type[2]=", "type=2"), ("type[3]=2", "type=2"), ("type[3]=1", "")]
    {
        assert_eq!(subjects(&rules, query).as_deref(), Ok(expected), "{query}");
    }
}

#[test]
fn longest_name_applies() {
    let rules = rules(&[("fields", requires("deny")), ("fields[items]", requires("public"))], false);
    for (query, expected) in [
        ("fields=a", "fields"),
        ("fields[renters]=a", "fields"),
        ("fields[items]=a", "fields[items]"),
        ("fields[items][x]=a", "fields[items]"),
    ] {
        assert_eq!(subjects(&rules, query).as_deref(), Ok(expected), "{query}");
    }
}

#[test]
fn token_must_satisfy_the_requirement_of_every_parameter() {
    let rules = sample(true);
    let held = Abilities::new(["items:read"]);
    for (query, needs, allowed) in [
        ("", "nothing", true),
        ("include=variants", "token", true),
        ("include=variants,renters", "token", false),
        ("fields[renters]=name", "token", false),
        ("debug=1", "denied", false),
        ("include=other", "denied", false),
        ("page=2", "denied", false),
        ("include=renters&page=2", "denied", false),
    ] {
        let check = QueryCheck::new(&rules, Some(query), false);
        let found = match check.needs().unwrap() {
            QueryNeeds::Nothing => "nothing",
            QueryNeeds::Token => "token",
            QueryNeeds::Denied(_) => "denied",
        };
        assert_eq!((found, check.authorize(&held).is_ok()), (needs, allowed), "{query}");
    }
    let all = Abilities::new(["*"]);
    assert!(QueryCheck::new(&rules, Some("include=renters"), false).authorize(&all).is_ok());
    assert!(QueryCheck::new(&rules, Some("debug"), false).authorize(&all).is_err());
    assert!(QueryCheck::new(&rules, None, true).needs().is_err());
}

#[test]
fn name_or_value_that_never_occurs_is_an_error() {
    for (name, check, message) in [
        ("", requires("a"), "the name of a parameter has 1 to 128 characters"),
        (
            "a=b",
            requires("a"),
            "the name of a parameter is visible ASCII, with keys in brackets: '=' is not allowed",
        ),
        (
            "é",
            requires("a"),
            "the name of a parameter is visible ASCII, with keys in brackets: 'é' is not allowed",
        ),
        ("in.clude", requires("a"), "PHP reads this name as `in_clude`"),
        (" a b[c]", requires("a"), "PHP reads this name as `a_b[c]`"),
        (
            "a[b c]",
            requires("a"),
            "the name of a parameter is visible ASCII, with keys in brackets: ' ' is not allowed",
        ),
        ("a[", requires("a"), "brackets enclose keys, as in `fields[renters]`"),
        ("a[b]c", requires("a"), "brackets enclose keys, as in `fields[renters]`"),
        ("[a]", requires("a"), "brackets enclose keys, as in `fields[renters]`"),
        ("a[]", requires("a"), "`[]` is an index: the rule of the name before it applies to every index"),
        (
            "a[b][-1]",
            requires("a"),
            "`[-1]` is an index: the rule of the name before it applies to every index",
        ),
        ("a", values(Some(""), &[("a", "a")], true), "`split` is 1 to 8 visible characters"),
        (
            "a",
            values(Some(","), &[("a,b", "a")], true),
            "the value `a,b` never occurs: it contains the separator",
        ),
        ("a", values(None, &[("", "a")], true), "the value `` never occurs: empty values are always allowed"),
    ] {
        let raw = RawParameter { name: name.into(), check, place: None };
        assert_eq!(raw.check().unwrap_err().to_string(), message, "{name}");
    }
}

#[test]
fn display_writes_the_rules() {
    assert_eq!(
        sample(true).to_string(),
        "{include: {split: ',', values: {variants: items:read, renters: renters:read}, others: deny}, \
         'fields[renters]': renters:read, debug: deny, others: deny}"
    );
    assert_eq!(sample(true), sample(true));
    assert_ne!(sample(true), sample(false));
}

/// PHP's reading of a query, written from the source of `php_register_variable_ex` with its default settings: the
/// names of the top level, folded.
fn names_of_php(query: &str) -> Vec<Vec<u8>> {
    let decode = |text: &str| {
        let bytes = text.as_bytes();
        let (mut decoded, mut at) = (Vec::new(), 0);
        while at < bytes.len() {
            let escape = bytes.get(at + 1..at + 3).filter(|it| it.iter().all(u8::is_ascii_hexdigit));
            match (bytes[at], escape) {
                (b'+', _) => decoded.push(b' '),
                (b'%', Some(digits)) => {
                    decoded.push(u8::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).unwrap());
                    at += 2;
                }
                (byte, _) => decoded.push(byte),
            }
            at += 1;
        }
        decoded
    };
    let name = |text: &str| {
        let name: Vec<u8> =
            decode(text.split('=').next().unwrap()).into_iter().take_while(|it| *it != 0).collect();
        let name: Vec<u8> = name.into_iter().skip_while(|it| *it == b' ').collect();
        let end = name.iter().position(|it| *it == b'[').unwrap_or(name.len());
        let is_array = name[end..].contains(&b']');
        let length = if is_array { end } else { name.len() };
        let fold = |it: &u8| if matches!(it, b' ' | b'.' | b'[') { b'_' } else { *it };
        (end > 0).then(|| name[..length].iter().map(fold).collect())
    };
    query.split('&').filter(|it| !it.is_empty()).filter_map(name).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// A parameter that PHP reads as the listed one has been checked, or the query is rejected.
    #[test]
    fn no_spelling_of_a_listed_parameter_is_missed(
        query in "([ab]|in|clude|in_clude|[._+%\\[\\]&=;]|%20|%5B|%5D|%2E|%00|%5F){0,12}",
    ) {
        let rules = rules(&[("in_clude", requires("deny"))], false);
        let php = names_of_php(&query).iter().filter(|name| **name == b"in_clude").count();
        match subjects(&rules, &query) {
            Ok(found) => prop_assert_eq!(found.split(' ').filter(|it| !it.is_empty()).count(), php, "{}", query),
            Err(_rejected) => {}
        }
    }

    #[test]
    fn any_query_is_read_without_panic(query in "\\PC{0,60}") {
        let _ = subjects(&sample(true), &query);
    }
}

#[test]
fn requirements_of_a_query_count_once_each() {
    let listed = [
        ("variants", "authenticated"),
        ("renters", "renters:read"),
        ("owners", "renters:read"),
        ("rents", "rents:read"),
    ];
    let rules = rules(&[("include", values(Some(","), &listed, true))], false);
    let subjects = |query| -> Vec<String> {
        let numbers = QueryCheck::new(&rules, Some(query), false).numbers();
        numbers.iter().map(|number| rules.requirement(*number).unwrap().subject.to_string()).collect()
    };
    for (query, expected) in [
        ("", &[][..]),
        ("page=2", &[]),
        ("include=variants", &[]),
        ("include=renters,variants,owners&include=renters", &["include=renters"]),
        ("include=rents,owners", &["include=rents", "include=owners"]),
    ] {
        assert_eq!(subjects(query), expected, "{query}");
    }
    let has = |names: &[&str]| Abilities::new(names.iter().copied());
    for (query, ability, held, expected) in [
        ("include=renters", "renters:read", &["renters:read"][..], true),
        ("include=renters", "rents:read", &["*"], false),
        ("include=rents", "rents:read", &["rents:read"], true),
        ("include=variants", "renters:read", &["renters:read"], false),
    ] {
        let check = QueryCheck::new(&rules, Some(query), false);
        assert_eq!(check.is_satisfied_through(ability, &has(held)), expected, "{query} {ability} {held:?}");
    }
}

/// Joined without quotes, both would be `{a: x, b: deny, others: allow}`.
#[test]
fn rules_with_odd_names_and_values_differ() {
    let listed = |names: &[&str]| {
        let listed: Vec<(&str, &str)> = names.iter().map(|name| (*name, "deny")).collect();
        rules(&[("a", values(None, &listed, true))], false)
    };
    let (one, two) = (listed(&["x: deny, y"]), listed(&["x", "y"]));
    assert_ne!(one, two);
    assert_eq!(one.to_string(), "{a: {values: {'x: deny, y': deny}, others: deny}, others: allow}");
    assert_eq!(two.to_string(), "{a: {values: {x: deny, y: deny}, others: deny}, others: allow}");
    for odd in ["1", "true", "it's", "a b", "[x]", "-", "\u{e4}:"] {
        assert!(listed(&[odd]).to_string().contains(&format!("'{}'", odd.replace('\'', "''"))), "{odd}");
    }
}
