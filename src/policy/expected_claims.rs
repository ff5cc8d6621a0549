//! `introspection.expect`: the claims that an introspector must report about a token (RFC 7662 section 2.2).

use std::fmt::{self, Display, Formatter};

/// A claim with an expected value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Claim {
    /// `iss`: who issued the token.
    Issuer,
    /// `aud`: the services for which it was issued.
    Audience,
    /// `client_id`: the client that requested it.
    ClientId,
    /// `token_type`: how it is used (RFC 6749 section 5.1).
    TokenType,
}

impl Claim {
    /// All claims, in the order in which they are compared: the first that differs is reported.
    pub const ALL: [Self; 4] = [Self::Issuer, Self::Audience, Self::ClientId, Self::TokenType];

    /// Its name in introspection responses and in logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Issuer => "iss",
            Self::Audience => "aud",
            Self::ClientId => "client_id",
            Self::TokenType => "token_type",
        }
    }
}

/// The expected claims. A claim without an expected value may have any value, or be absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExpectedClaims {
    /// `aud`: one of these must be among the token's audiences.
    pub audiences: Box<[Box<str>]>,
    /// `iss`
    pub issuer: Option<Box<str>>,
    /// `token_type`, in any case.
    pub token_type: Option<Box<str>>,
    /// `client_id`: one of these.
    pub client_ids: Box<[Box<str>]>,
}

impl ExpectedClaims {
    /// Whether no claim has an expected value.
    pub fn is_empty(&self) -> bool {
        Claim::ALL.into_iter().all(|claim| self.values(claim).is_empty())
    }

    /// The expected values of a claim, of which one is enough; empty if any value will do.
    pub fn values(&self, claim: Claim) -> &[Box<str>] {
        match claim {
            Claim::Issuer => self.issuer.as_slice(),
            Claim::Audience => &self.audiences,
            Claim::ClientId => &self.client_ids,
            Claim::TokenType => self.token_type.as_slice(),
        }
    }

    /// Whether the claim may have this text as its value, or for `aud` as one of its values.
    pub fn accepts(&self, claim: Claim, text: &str) -> bool {
        self.values(claim).iter().any(|expected| match claim {
            Claim::TokenType => expected.eq_ignore_ascii_case(text),
            Claim::Issuer | Claim::Audience | Claim::ClientId => **expected == *text,
        })
    }

    /// The expected values of a claim, for logs: `a or b`.
    pub const fn describe(&self, claim: Claim) -> Expectation<'_> {
        Expectation { claims: self, claim }
    }
}

/// The expected values of a claim. `Display` separates them by ` or `.
#[derive(Clone, Copy, Debug)]
pub struct Expectation<'a> {
    claims: &'a ExpectedClaims,
    /// The claim.
    pub claim: Claim,
}

impl Display for Expectation<'_> {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        for (number, value) in self.claims.values(self.claim).iter().enumerate() {
            if number > 0 {
                formatter.write_str(" or ")?;
            }
            formatter.write_str(value)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_token_types_are_compared_without_case() {
        let claims = ExpectedClaims {
            audiences: ["https://a.example".into(), "b".into()].into(),
            issuer: Some("https://issuer.example".into()),
            token_type: Some("Bearer".into()),
            client_ids: Box::default(),
        };
        for (claim, text, accepted) in [
            (Claim::Audience, "https://a.example", true),
            (Claim::Audience, "b", true),
            (Claim::Audience, "B", false),
            (Claim::Audience, "https://a.example/", false),
            (Claim::Audience, "", false),
            (Claim::Issuer, "https://issuer.example", true),
            (Claim::Issuer, "https://ISSUER.example", false),
            (Claim::TokenType, "bearer", true),
            (Claim::TokenType, "BEARER", true),
            (Claim::TokenType, "DPoP", false),
            (Claim::ClientId, "anything", false),
        ] {
            assert_eq!(claims.accepts(claim, text), accepted, "{} {text}", claim.as_str());
        }
        assert_eq!(claims.describe(Claim::Audience).to_string(), "https://a.example or b");
        assert!(!claims.is_empty());
        assert!(ExpectedClaims::default().is_empty());
    }
}
