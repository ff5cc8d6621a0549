//! The ability of an operation by Stockaj's naming convention: that of REST and of its authentication guide.

use http::Method;

/// The ability of a method on a path, such as `items:read`; `None` if the path names no resource.
pub fn ability(method: &Method, path: &str) -> Option<String> {
    let literals = || path.split('/').filter(|segment| !segment.is_empty() && !segment.starts_with('{'));
    let resource = literals().find(|segment| *segment != "api" && !is_version(segment))?;
    // The guide's tables: items:* covers items, variants, types and tags, and rents:* is about rentals.
    let resource = match resource {
        "variants" | "types" | "tags" => "items",
        "rentals" => "rents",
        "kiosk" => return Some("kiosk:scan".to_owned()),
        other => other,
    };
    let action = match *method {
        Method::GET | Method::HEAD | Method::OPTIONS => "read",
        _ if matches!(resource, "webhooks" | "notifications" | "instance") => "manage",
        // Restoring requires the ability to delete.
        Method::DELETE => "delete",
        _ if literals().next_back() == Some("restore") => "delete",
        Method::POST => "create",
        _ => "update",
    };
    Some(format!("{resource}:{action}"))
}

/// `v2`, `v2.1`
fn is_version(segment: &str) -> bool {
    segment.strip_prefix('v').is_some_and(|rest| {
        rest.starts_with(|it: char| it.is_ascii_digit())
            && rest.bytes().all(|it| it.is_ascii_digit() || it == b'.')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ability_follows_from_method_and_path_by_convention() {
        for (method, path, expected) in [
            ("GET", "/api/v2/items", Some("items:read")),
            ("HEAD", "/v2.1/items/{id}", Some("items:read")),
            ("OPTIONS", "/items", Some("items:read")),
            ("POST", "/api/v2/items", Some("items:create")),
            ("PUT", "/api/v2/items/{id}", Some("items:update")),
            ("PATCH", "/api/v2/items/{id}", Some("items:update")),
            ("DELETE", "/api/v2/items/{id}", Some("items:delete")),
            ("POST", "/api/v2/items/{id}/restore", Some("items:delete")),
            ("POST", "/api/v2/items/{id}/variants", Some("items:create")),
            ("GET", "/api/v2/variants/{id}", Some("items:read")),
            ("POST", "/api/v2/tags", Some("items:create")),
            ("DELETE", "/api/v2/types/{id}", Some("items:delete")),
            ("PATCH", "/api/v2/rentals/{id}", Some("rents:update")),
            ("POST", "/api/v2/renters", Some("renters:create")),
            ("GET", "/api/v2/kiosk/search", Some("kiosk:scan")),
            ("POST", "/api/v2/kiosk/scan", Some("kiosk:scan")),
            ("GET", "/api/v2/webhooks", Some("webhooks:read")),
            ("POST", "/api/v2/webhooks", Some("webhooks:manage")),
            ("DELETE", "/api/v2/notifications/{id}", Some("notifications:manage")),
            ("PUT", "/api/v2/instance", Some("instance:manage")),
            ("GET", "/vendors", Some("vendors:read")),
            ("GET", "/v/x", Some("v:read")),
            ("GET", "/", None),
            ("GET", "/api/v2", None),
            ("GET", "/api/v2/{kind}", None),
        ] {
            let method: Method = method.parse().unwrap();
            assert_eq!(ability(&method, path).as_deref(), expected, "{method} {path}");
        }
    }
}
