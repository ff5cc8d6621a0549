//! `mode`, `shadow` and `shadow_authentication`: what is decided and not enforced.

use super::abilities;
use super::decode::Decoder;
use super::report::Mistake;
use super::settings;
use super::written::Gateway;
use crate::policy::map::AbilityMap;
use crate::policy::shadow::Mode;

/// None where all is enforced and nothing is decided beside it. Whatever is not enforced is a warning.
pub(super) fn compile(
    written: &Gateway,
    map: &AbilityMap,
    decoder: &mut Decoder<'_>,
) -> Option<settings::Shadow> {
    let Gateway { mode, shadow, shadow_authentication: authentication, .. } = written;
    if mode.value == Mode::Shadow {
        decoder.mistakes.push(
            Mistake::warning("nothing is enforced")
                .of("mode")
                .at(mode.span, "what the map refuses is forwarded, but for routes with `mode: enforce`")
                .hint("`stockaj_gateway_shadow_total` and the log tell what would be refused"),
        );
    }
    if authentication.value.0 {
        let warning = if map.is_shadowed() {
            Mistake::warning("nobody is asked who they are")
                .at(authentication.span, "in shadow mode requests go on without a good token, too")
                .hint("whatever protects the backend beside the gateway is all that does")
        } else {
            Mistake::warning("has no effect").at(authentication.span, "there is no `mode: shadow`")
        };
        decoder.mistakes.push(warning.of("shadow_authentication"));
    }
    let unmapped = written.abilities.value.unmapped;
    let candidate = shadow.as_ref().map(|shadow| abilities::compile_candidate(shadow, unmapped, decoder));
    (map.is_shadowed() || candidate.is_some()).then(|| settings::Shadow {
        authentication: if authentication.value.0 { Mode::Shadow } else { Mode::Enforce },
        candidate,
    })
}
