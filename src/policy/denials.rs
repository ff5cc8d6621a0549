//! What a caller is told who lacks an ability, beside what every 403 says.

use http::HeaderValue;
use http::header::{ACCESS_CONTROL_EXPOSE_HEADERS, HeaderMap, HeaderName, LINK};

use super::refusal::Refusal;

/// The abilities that were required.
const X_REQUIRED_ABILITY: HeaderName = HeaderName::from_static("x-required-ability");
/// For scripts, which may read only what is named.
const EXPOSED: HeaderValue = HeaderValue::from_static("X-Required-Ability, Link");

/// What is told; by default nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Denials {
    /// Whether `X-Required-Ability` is.
    pub required_ability: bool,
    /// The value of `Link` (RFC 8288), where a person finds help.
    pub link: Option<HeaderValue>,
}

impl Denials {
    /// Adds the advice to the gateway's own answer, if it is for a missing ability. A script that may read the answer
    /// may read the advice.
    pub fn advise(&self, refusal: &Refusal, fields: &mut HeaderMap) {
        let Refusal::MissingAbility(missing) = refusal else { return };
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
    fn only_of_a_missing_ability_and_only_what_is_set() {
        let link = HeaderValue::from_static("<https://help.example/tokens>; rel=\"help\"");
        let refusal = Requirement::any(["b", "a"]).unwrap().check(&Abilities::default()).unwrap_err();
        let exposed = [&["a"][..], &["a", "X-Required-Ability, Link"]];
        for (required_ability, link, refusal, told, exposed) in [
            (false, None, &refusal, [None, None], exposed[0]),
            (true, None, &refusal, [Some("b | a"), None], exposed[1]),
            (false, Some(&link), &refusal, [None, link.to_str().ok()], exposed[1]),
            (true, Some(&link), &refusal, [Some("b | a"), link.to_str().ok()], exposed[1]),
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
                assert_eq!([value("x-required-ability"), value("link")], told, "{refusal:?}");
                let said: Vec<_> = fields.get_all(ACCESS_CONTROL_EXPOSE_HEADERS).iter().collect();
                assert_eq!(said, if readable { exposed } else { &[] }, "{refusal:?}");
            }
        }
    }
}
