//! A gateway between an upstream and an introspector.

use super::{Gateway, Introspector, Upstream};

/// The field of the one token that the introspector of [`setting`] knows: it may do everything.
pub const WRITER: (&str, &str) = ("Authorization", "Bearer 1|writer");

/// The three together.
pub struct Setting {
    pub upstream: Upstream,
    pub introspector: Introspector,
    pub gateway: Gateway,
}

/// A gateway with these sections beside its backend and introspector.
pub fn setting(yaml: &str) -> Setting {
    let upstream = Upstream::start();
    let introspector = Introspector::knowing([("1|writer", &["*"][..])]);
    let gateway = Gateway::builder().backend(&upstream).introspector(&introspector).yaml(yaml).start();
    Setting { upstream, introspector, gateway }
}
