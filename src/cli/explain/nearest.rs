//! Finds the method and the route that an unmapped request probably meant.

use http::Method;

use crate::config::nearest;
use crate::policy::map::AbilityMap;
use crate::policy::target::METHODS;

/// The largest difference between the numbers of segments of a path and a route.
const MAX_SEGMENT_DIFFERENCE: usize = 2;
/// The weight of a missing or additional segment, in edits.
const SEGMENT_WEIGHT: usize = 4;

/// The supported method nearest to `method`; `None` if none is near, or if `method` is supported.
pub(super) fn method(method: &str) -> Option<&'static str> {
    static SERVED: [Method; METHODS.len()] = METHODS;
    nearest(method, SERVED.iter().map(Method::as_str)).filter(|near| *near != method)
}

/// The template of the route nearest to `path`; `None` if none is near. Prefers a route with `method` among equally
/// near ones.
pub(super) fn route<'map>(map: &'map AbilityMap, method: &Method, path: &str) -> Option<&'map str> {
    let segments = split(path);
    let routes = map.routes().filter_map(|route| {
        let distance = distance(&segments, &split(route.template()))?;
        let lacks_method = !route.rules().any(|(it, _)| it == method);
        Some(((distance, lacks_method), route.template()))
    });
    routes.min_by_key(|(distance, _)| *distance).map(|(_, template)| template)
}

fn split(path: &str) -> Vec<&str> {
    path.split('/').filter(|segment| !segment.is_empty()).collect()
}

/// The number of edits from a path to a template: typos in segments, and missing or additional segments at either end.
/// `None` if they are not near, or share no literal segment.
fn distance(path: &[&str], template: &[&str]) -> Option<usize> {
    // `{*rest}` matches any number of segments.
    let path = match template.last() {
        Some(last) if last.starts_with("{*") && path.len() > template.len() => &path[..template.len()],
        _ => path,
    };
    let (shorter, longer) = if path.len() < template.len() { (path, template) } else { (template, path) };
    let apart = longer.len() - shorter.len();
    if shorter.is_empty() || apart > MAX_SEGMENT_DIFFERENCE {
        return None;
    }
    let at_start = &longer[..shorter.len()];
    let at_end = &longer[apart..];
    let edits = [at_start, at_end].into_iter().filter_map(|part| {
        let (path, template) = if path.len() < template.len() { (path, part) } else { (part, template) };
        edits(path, template)
    });
    Some(edits.min()? + apart * SEGMENT_WEIGHT)
}

/// The number of edits from segments to the same number of template segments; `None` if a segment differs too much, or
/// if the template has no literal.
fn edits(path: &[&str], template: &[&str]) -> Option<usize> {
    let mut sum = 0;
    let mut has_literal = false;
    for (segment, expected) in path.iter().zip(template) {
        if expected.starts_with('{') {
            continue;
        }
        has_literal = true;
        if segment != expected {
            // Segments that differ only in case have one edit.
            let edits = strsim::osa_distance(&segment.to_lowercase(), &expected.to_lowercase()).max(1);
            if edits > (expected.chars().count() / 3).max(1) {
                return None;
            }
            sum += edits;
        }
    }
    has_literal.then_some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::ability::Requirement;
    use crate::policy::map::{MapBuilder, Unmapped};

    #[test]
    fn nearest_route_differs_by_a_typo_or_by_missing_segments() {
        let mut builder = MapBuilder::new(Unmapped::Deny);
        for (template, method) in [
            ("/up", Method::GET),
            ("/api/v2/items", Method::GET),
            ("/api/v2/items/{id}", Method::GET),
            ("/api/v2/itemz/{id}", Method::PUT),
            ("/api/v2/rentals/{id}", Method::PATCH),
            ("/api/v2/kiosk/scan", Method::POST),
            ("/files/{*rest}", Method::GET),
        ] {
            let rule = (method, Requirement::public(), None);
            builder.route(template, [rule]).unwrap();
        }
        let map = builder.build();
        for (method, path, expected) in [
            ("GET", "/api/v2/item/5", Some("/api/v2/items/{id}")),
            ("PUT", "/api/v2/item/5", Some("/api/v2/itemz/{id}")),
            ("GET", "/api/v2/Items/5", Some("/api/v2/items/{id}")),
            ("GET", "/api/v1/items/5", Some("/api/v2/items/{id}")),
            ("GET", "/api/v2/items/5/history", Some("/api/v2/items/{id}")),
            ("GET", "/api/v2/itmes", Some("/api/v2/items")),
            ("GET", "/items/5", Some("/api/v2/items/{id}")),
            ("GET", "/items", Some("/api/v2/items")),
            ("GET", "/v2/items", Some("/api/v2/items")),
            ("PATCH", "/api/v2/rental/5", Some("/api/v2/rentals/{id}")),
            ("POST", "/api/v2/kiosk/scam", Some("/api/v2/kiosk/scan")),
            ("POST", "/api/v2/kiosk", Some("/api/v2/kiosk/scan")),
            ("GET", "/file/a/b/c", Some("/files/{*rest}")),
            ("GET", "/files", Some("/files/{*rest}")),
            ("GET", "/upp", Some("/up")),
            ("GET", "/api/v2/zebras", None),
            ("GET", "/5", None),
            ("GET", "/", None),
            ("GET", "/wholly/else", None),
        ] {
            let method: Method = method.parse().unwrap();
            assert_eq!(route(&map, &method, path), expected, "{method} {path}");
        }
    }

    #[test]
    fn nearest_method_corrects_case_and_typos() {
        for (written, expected) in [
            ("get", Some("GET")),
            ("Delete", Some("DELETE")),
            ("POTS", Some("POST")),
            ("GET", None),
            ("TRACE", None),
            ("/api", None),
        ] {
            assert_eq!(method(written), expected, "{written}");
        }
    }
}
