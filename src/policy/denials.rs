//! `denials`: additional response fields for a 403 because of a missing ability.

use http::HeaderValue;
use http::header::{ACCESS_CONTROL_EXPOSE_HEADERS, HeaderMap, HeaderName, LINK};

use super::refusal::Refusal;

const X_REQUIRED_ABILITY: HeaderName = HeaderName::from_static("x-required-ability");
/// Cross-origin scripts can read only exposed fields.
const EXPOSED: HeaderValue = HeaderValue::from_static("X-Required-Ability, Link");

/// The configured fields; none by default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Denials {
    /// Whether to add `X-Required-Ability`.
    pub required_ability: bool,
    /// The value of `Link` (RFC 8288), which points to help.
    pub link: Option<HeaderValue>,
}

impl Denials {
    /// Adds the fields to the gateway's own response if an ability is missing. A script that may read the response may
    /// read them.
    pub fn advise(&self, refusal: &Refusal, fields: &mut HeaderMap) {
        let missing = match refusal {
            Refusal::MissingAbility(missing) => missing,
            // A parameter that is denied to every token has no abilities.
            Refusal::QueryDenied { missing, .. } if !missing.required.is_empty() => missing,
            _ => return,
        };
        if self.required_ability {
            fields.insert(X_REQUIRED_ABILITY, missing.required.clone());
        }
        if let Some(link) = &self.link {
            fields.insert(LINK, link.clone());
        }
        if (self.required_ability || self.link.is_some())
            && fields.contains_key(ACCESS_CONTROL_EXPOSE_HEADERS)
        {
            fields.append(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::ability::{Abilities, Requirement};

    #[test]
    fn configured_fields_are_added_for_a_missing_ability_only() {
        let link = HeaderValue::from_static("<https://help.example/tokens>; rel=\"help\"");
        let requirement = Requirement::any(["b", "a"]).unwrap();
        let refusal = requirement.check(&Abilities::default()).unwrap_err();
        let by_query = |it: &Requirement| Refusal::QueryDenied { rule: 0, missing: it.fields().clone() };
        let exposed = [&["a"][..], &["a", "X-Required-Ability, Link"]];
        for (required_ability, link, refusal, added, exposed) in [
            (false, None, &refusal, [None, None], exposed[0]),
            (true, None, &refusal, [Some("b | a"), None], exposed[1]),
            (false, Some(&link), &refusal, [None, link.to_str().ok()], exposed[1]),
            (true, Some(&link), &refusal, [Some("b | a"), link.to_str().ok()], exposed[1]),
            (true, Some(&link), &by_query(&requirement), [Some("b | a"), link.to_str().ok()], exposed[1]),
            (true, Some(&link), &by_query(&Requirement::deny()), [None, None], exposed[0]),
            (true, Some(&link), &Refusal::Denied, [None, None], exposed[0]),
            (true, Some(&link), &Refusal::Unmapped, [None, None], exposed[0]),
            (true, Some(&link), &Refusal::MethodNotMapped, [None, None], exposed[0]),
            (true, Some(&link), &Refusal::InactiveToken, [None, None], exposed[0]),
        ] {
            let denials = Denials { required_ability, link: link.cloned() };
            for readable in [false, true] {
                let mut fields = HeaderMap::new();
                if readable {
                    fields.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("a"));
                }
                denials.advise(refusal, &mut fields);
                let value = |name| fields.get(name).map(|value| value.to_str().unwrap());
                assert_eq!([value("x-required-ability"), value("link")], added, "{refusal:?}");
                let found: Vec<_> = fields.get_all(ACCESS_CONTROL_EXPOSE_HEADERS).iter().collect();
                assert_eq!(found, if readable { exposed } else { &[] }, "{refusal:?}");
            }
        }
    }
}
