//! The oldest version of Caddy that is safe with `deploy/proxies/Caddyfile`.

use super::{behind_another, messages};
use crate::attacks::proxies::assert_attacks_fail;
use crate::support::proxies::{Kind, Protocol};

const KIND: Kind = Kind::OldCaddy;

#[test]
#[ignore = "needs caddy-2.9: tests/run"]
fn attacks_fail() {
    assert_attacks_fail(KIND, Protocol::Http1);
}

#[test]
#[ignore = "needs caddy-2.9: tests/run"]
fn fields_of_the_decision_arrive_and_those_of_clients_do_not() {
    messages::assert_fields(KIND, Protocol::Http1);
}

#[test]
#[ignore = "needs caddy-2.9: tests/run"]
fn credentials_of_public_routes_arrive_as_sent() {
    messages::assert_public(KIND, Protocol::Http1);
}

#[test]
#[ignore = "needs caddy-2.9: tests/run"]
fn targets_arrive_only_as_described() {
    messages::assert_targets(KIND, Protocol::Http1);
}

#[test]
#[ignore = "needs caddy-2.9: tests/run"]
fn bodies_of_get_do_not_arrive_on_routes_with_query_rules() {
    messages::assert_bodies_of_get(KIND);
}

#[test]
#[ignore = "needs caddy-2.9: tests/run"]
fn networks_apply_to_the_client_of_a_load_balancer() {
    behind_another::assert_networks(KIND);
}

#[test]
#[ignore = "needs caddy-2.9: tests/run"]
fn fields_that_a_load_balancer_passes_on_describe_no_other_request() {
    behind_another::assert_descriptions(KIND);
}
