//! `mode`, `shadow` and `shadow_authentication`: decisions that are not enforced.

use super::abilities::{self, IncludedMap};
use crate::config::language::{Decoder, Diagnostic, OnOff, Spanned, words};
use crate::config::settings;
use crate::policy::map::AbilityMap;
use crate::policy::shadow::Mode;

words!(Mode { "enforce" => Self::Enforce, "shadow" => Self::Shadow });

/// Returns `None` if everything is enforced and there is no candidate map. Warns of everything that is not enforced.
pub(crate) fn compile(
    mode: &Spanned<Mode>,
    candidate: Option<&IncludedMap>,
    authentication: &Spanned<OnOff>,
    map: &AbilityMap,
    decoder: &mut Decoder<'_>,
) -> Option<settings::Shadow> {
    if mode.value == Mode::Shadow {
        decoder.record(
            Diagnostic::warning("the ability map is not enforced")
                .key("mode")
                .at(mode.span, "denied requests are forwarded, except on routes with `mode: enforce`")
                .hint("`stockaj_gateway_shadow_total` and the log show which requests would be refused"),
        );
    }
    if authentication.value.0 {
        let warning = if map.is_shadowed() {
            Diagnostic::warning("authentication is not enforced")
                .at(authentication.span, "shadow mode also forwards requests without a valid token")
                .hint("keep another protection in front of the backend")
        } else {
            Diagnostic::warning("has no effect").at(authentication.span, "used only with `mode: shadow`")
        };
        decoder.record(warning.key("shadow_authentication"));
    }
    let candidate =
        candidate.map(|candidate| abilities::compile_candidate(candidate, map.unmapped(), decoder));
    (map.is_shadowed() || candidate.is_some()).then(|| settings::Shadow {
        authentication: if authentication.value.0 { Mode::Shadow } else { Mode::Enforce },
        candidate,
    })
}
