//! Method overrides: the method of the decision on a request.

use http::{HeaderMap, Method};

use super::field_class::folded;
use super::headers::X_HTTP_METHOD_OVERRIDE;
use super::refusal::Refusal;

/// `backend.method_override`: the treatment of a POST with a field that overrides its method.
///
/// The request is forwarded as POST in any case, with one override field set by the gateway: PHP parses forms and files
/// of POST requests only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MethodOverride {
    /// The gateway drops the field and decides on a POST.
    #[default]
    Pin,
    /// The gateway decides on the method in the field.
    Honour,
}

/// The method to decide on instead of the request's own; `None` if it is not overridden.
///
/// Only an unambiguous `X-HTTP-Method-Override` is honoured, the one field that Symfony reads.
///
/// # Errors
/// [`Refusal::BadRequest`] if overrides are [honoured](MethodOverride::Honour) and a POST has override fields other than
/// exactly one `X-HTTP-Method-Override` with PUT, PATCH or DELETE.
pub fn overriding(
    method: &Method,
    fields: &HeaderMap,
    setting: MethodOverride,
) -> Result<Option<Method>, Refusal> {
    if setting == MethodOverride::Pin || *method != Method::POST {
        return Ok(None);
    }
    const REFUSED: Refusal = Refusal::BadRequest("method override other than one of PUT, PATCH or DELETE");
    let mut overrides = fields.iter().filter(|(name, _)| is_override(name.as_str()));
    match (overrides.next(), overrides.next()) {
        (None, _) => Ok(None),
        (Some((name, value)), None) if *name == X_HTTP_METHOD_OVERRIDE => match value.as_bytes() {
            b"PUT" => Ok(Some(Method::PUT)),
            b"PATCH" => Ok(Some(Method::PATCH)),
            b"DELETE" => Ok(Some(Method::DELETE)),
            _ => Err(REFUSED),
        },
        (Some(_), _) => Err(REFUSED),
    }
}

/// Whether backends read a method from a field of this name, which is in lower case.
fn is_override(name: &str) -> bool {
    const NAMES: [&str; 3] = ["x-http-method-override", "x-http-method", "x-method-override"];
    name.starts_with('x') && NAMES.contains(&&*folded(name))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn read(
        method: &Method,
        fields: &[(&str, &str)],
        setting: MethodOverride,
    ) -> Result<Option<Method>, Refusal> {
        let fields: HeaderMap = fields
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_bytes(value.as_bytes()).unwrap()))
            .collect();
        overriding(method, &fields, setting)
    }

    #[test]
    fn only_one_unambiguous_override_is_honoured() {
        const NAME: &str = "X-HTTP-Method-Override";
        let honour = |fields: &[(&str, &str)]| read(&Method::POST, fields, MethodOverride::Honour);
        for method in [Method::PUT, Method::PATCH, Method::DELETE] {
            assert_eq!(honour(&[("Accept", "a"), (NAME, method.as_str())]), Ok(Some(method)));
        }
        assert_eq!(honour(&[]), Ok(None));
        assert_eq!(honour(&[("X-HTTP-Method-Other", "PUT"), ("X-Requested-With", "PUT")]), Ok(None));
        for value in [
            "",
            "POST",
            "GET",
            "HEAD",
            "OPTIONS",
            "TRACE",
            "put",
            "Put",
            "PUT, DELETE",
            "PUT,",
            "PUT;",
            "PUTS",
            "\u{ff30}UT",
        ] {
            assert!(matches!(honour(&[(NAME, value)]), Err(Refusal::BadRequest(_))), "{value:?}");
        }
        for fields in [
            &[(NAME, "PUT"), (NAME, "PUT")][..],
            &[(NAME, "PUT"), ("X-HTTP-Method", "PUT")],
            &[(NAME, "PUT"), ("X_HTTP_Method_Override", "PUT")],
            &[("X-HTTP-Method", "PUT")],
            &[("X-Method-Override", "PUT")],
            &[("X_HTTP_Method_Override", "PUT")],
            &[("X.HTTP.Method.Override", "PUT")],
            &[("X-HTTP-Method+Override", "PUT")],
        ] {
            assert!(matches!(honour(fields), Err(Refusal::BadRequest(_))), "{fields:?}");
        }
    }

    #[test]
    fn pinned_post_and_other_methods_are_not_overridden() {
        let fields = [("X-HTTP-Method-Override", "DELETE"), ("X_HTTP_Method_Override", "?")];
        assert_eq!(read(&Method::POST, &fields, MethodOverride::Pin), Ok(None));
        for method in super::super::target::METHODS.iter().filter(|method| **method != Method::POST) {
            assert_eq!(read(method, &fields, MethodOverride::Honour), Ok(None), "{method}");
        }
    }
}
