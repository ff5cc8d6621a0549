//! Caddy with `deploy/proxies/Caddyfile`.

use super::{assert_guide, behind_another, failures, http2, limitations, messages, to_clients};
use crate::attacks::proxies::{
    assert_attacks_by_queries_fail, assert_attacks_fail, assert_attacks_on_networks_fail,
    assert_blocked_tokens_are_refused,
};
use crate::support::proxies::{Kind, Protocol};

const KIND: Kind = Kind::Caddy;

#[test]
#[ignore = "needs caddy: tests/run"]
fn requests_arrive_with_exactly_the_abilities_of_the_guide() {
    assert_guide(KIND, Protocol::Http1);
}

#[test]
#[ignore = "needs caddy: tests/run"]
fn attacks_fail() {
    assert_attacks_fail(KIND, Protocol::Http1);
}

#[test]
#[ignore = "needs caddy: tests/run"]
fn attacks_by_queries_fail() {
    assert_attacks_by_queries_fail(KIND, Protocol::Http1);
}

#[test]
#[ignore = "needs caddy: tests/run"]
fn fields_of_the_decision_arrive_and_those_of_clients_do_not() {
    messages::assert_fields(KIND, Protocol::Http1);
}

#[test]
#[ignore = "needs caddy: tests/run"]
fn credentials_of_public_routes_arrive_as_sent() {
    messages::assert_public(KIND, Protocol::Http1);
}

#[test]
#[ignore = "needs caddy: tests/run"]
fn targets_arrive_only_as_described() {
    messages::assert_targets(KIND, Protocol::Http1);
}

#[test]
#[ignore = "needs caddy: tests/run"]
fn other_spellings_of_names_do_not_arrive() {
    messages::assert_spellings(KIND, Protocol::Http1);
}

#[test]
#[ignore = "needs caddy: tests/run"]
fn bodies_of_get_do_not_arrive_on_routes_with_query_rules() {
    messages::assert_bodies_of_get(KIND);
}

#[test]
#[ignore = "needs caddy: tests/run"]
fn refused_clients_get_the_answer_of_the_gateway() {
    messages::assert_refusals(KIND, Protocol::Http1);
}

#[test]
#[ignore = "needs caddy: tests/run"]
fn revocation_takes_effect_within_a_second() {
    failures::assert_revocation(KIND);
}

#[test]
#[ignore = "needs caddy: tests/run"]
fn introspection_outage_is_a_refusal_and_visible() {
    failures::assert_outage(KIND);
}

#[test]
#[ignore = "needs caddy: tests/run"]
fn nothing_arrives_without_the_gateway() {
    failures::assert_gone(KIND);
}

#[test]
#[ignore = "needs caddy: tests/run"]
fn connection_options_remove_no_field_of_the_decision() {
    messages::assert_connection_options(KIND);
}

#[test]
#[ignore = "needs caddy: tests/run"]
fn upgrades_do_not_arrive() {
    messages::assert_upgrades(KIND);
}

#[test]
#[ignore = "needs caddy: tests/run"]
fn networks_apply_to_the_client_of_a_load_balancer() {
    behind_another::assert_networks(KIND);
}

#[test]
#[ignore = "needs caddy: tests/run"]
fn fields_that_a_load_balancer_passes_on_describe_no_other_request() {
    behind_another::assert_descriptions(KIND);
}

#[test]
#[ignore = "needs caddy: tests/run"]
fn requests_over_http2_arrive_with_exactly_the_abilities_of_the_guide() {
    assert_guide(KIND, Protocol::Http2);
}

#[test]
#[ignore = "needs caddy: tests/run"]
fn attacks_over_http2_fail() {
    assert_attacks_fail(KIND, Protocol::Http2);
}

#[test]
#[ignore = "needs caddy: tests/run"]
fn attacks_by_queries_over_http2_fail() {
    assert_attacks_by_queries_fail(KIND, Protocol::Http2);
}

#[test]
#[ignore = "needs caddy: tests/run"]
fn fields_arrive_over_http2_as_over_http1() {
    messages::assert_fields(KIND, Protocol::Http2);
}

#[test]
#[ignore = "needs caddy: tests/run"]
fn credentials_of_public_routes_arrive_over_http2_as_sent() {
    messages::assert_public(KIND, Protocol::Http2);
}

#[test]
#[ignore = "needs caddy: tests/run"]
fn targets_arrive_over_http2_only_as_described() {
    messages::assert_targets(KIND, Protocol::Http2);
}

#[test]
#[ignore = "needs caddy: tests/run"]
fn other_spellings_of_names_do_not_arrive_over_http2() {
    messages::assert_spellings(KIND, Protocol::Http2);
}

#[test]
#[ignore = "needs caddy: tests/run"]
fn bodies_of_get_over_http2_are_no_queries() {
    http2::assert_bodies_of_get(KIND);
}

#[test]
#[ignore = "needs caddy: tests/run"]
fn clients_that_are_refused_over_http2_get_the_answer_of_the_gateway() {
    messages::assert_refusals(KIND, Protocol::Http2);
}

#[test]
#[ignore = "needs caddy: tests/run"]
fn targets_of_any_bytes_do_not_arrive_over_http2() {
    http2::assert_targets(KIND);
}

#[test]
#[ignore = "needs caddy: tests/run"]
fn attacks_on_networks_fail() {
    assert_attacks_on_networks_fail(KIND);
}

#[test]
#[ignore = "needs caddy: tests/run"]
fn blocked_token_is_refused_in_every_spelling() {
    assert_blocked_tokens_are_refused(KIND);
}

#[test]
#[ignore = "needs caddy: tests/run"]
fn refusals_are_readable_by_scripts() {
    to_clients::assert_refusals_are_readable(KIND);
}

#[test]
#[ignore = "needs caddy: tests/run"]
fn long_heads_are_431() {
    to_clients::assert_long_heads_are_431(KIND);
}

#[test]
#[ignore = "needs caddy: tests/run"]
fn responses_lack_the_fields_of_the_answer() {
    to_clients::assert_allowed_responses(KIND, false);
}

#[test]
#[ignore = "needs caddy: tests/run"]
fn fields_of_one_connection_do_not_arrive() {
    messages::assert_fields_of_a_connection(KIND);
}

#[test]
#[ignore = "needs caddy: tests/run"]
fn ordinary_fields_arrive() {
    messages::assert_ordinary_fields(KIND);
}

#[test]
#[ignore = "needs caddy: tests/run"]
fn guessed_tokens_count_for_the_address_that_guesses() {
    behind_another::assert_failures(KIND);
}

#[test]
#[ignore = "needs caddy: tests/run"]
fn options_asterisk_does_not_arrive() {
    limitations::assert_options_asterisk(KIND);
}
