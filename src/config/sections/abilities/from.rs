//! `from`: the networks that requests of a route must come from.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use crate::config::language::{Decode, Decoder, Diagnostic, Key, Node};
use crate::config::sections::address::Network;
use crate::policy::network::{MOST_NETWORKS, RouteNetworks};

/// Decodes the list at `key`.
pub(super) fn decode(node: &Node, key: &Key, decoder: &mut Decoder<'_>) -> Option<RouteNetworks> {
    let items = decoder.list(node, "a list of networks such as `[10.0.0.0/8]`")?;
    if items.is_empty() {
        let error = Diagnostic::error("empty list").at(node.span, "it would refuse every request");
        return decoder.reject(
            error.hint("remove `from` to allow every address; to refuse every request, require `deny`"),
        );
    }
    if items.len() > MOST_NETWORKS {
        let label = format!("{} networks; the limit is {MOST_NETWORKS}", items.len());
        return decoder.reject(Diagnostic::error("too many networks").at(node.span, label));
    }
    let networks = Vec::<Network>::decode(node, decoder)?.into_iter().map(|network| network.0).collect();
    Some(RouteNetworks { networks, place: decoder.place(key.span) })
}

pub(super) fn schema(generator: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "description": "Networks that requests of this route must come from, for all of its methods. The address is the \
                        client's, as trusted proxies report it; requests from an unknown address are refused.",
        "type": "array",
        "minItems": 1,
        "maxItems": MOST_NETWORKS,
        "items": Network::json_schema(generator),
    })
}
