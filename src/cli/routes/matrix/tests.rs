use super::*;
use crate::policy::ability::Abilities;
use crate::policy::map::{MapBuilder, RouteOptions};

fn map(unmapped: Unmapped) -> AbilityMap {
    let word = |word| Requirement::from_word(word).unwrap();
    let mut builder = MapBuilder::new(unmapped);
    builder.route("/up", [(Method::GET, word("public"), None), (Method::PUT, word("deny"), None)]).unwrap();
    builder.route("/api/v2/me", [(Method::GET, word("authenticated"), None)]).unwrap();
    let any = Requirement::any(["items:read", "<b>&"]).unwrap();
    let all = Requirement::all(["items:read", "items:update"]).unwrap();
    builder.route("/api/v2/items/{id}", [(Method::GET, any, None), (Method::POST, all, None)]).unwrap();
    let read = [(Method::GET, word("items:read"), None)];
    builder.route_with("/api/v2/items", RouteOptions::default(), read).unwrap();
    builder.build()
}

/// The text of a page: one line per table row, with a bar after each cell.
fn text(page: &str) -> String {
    let page = page.split("<body>").nth(1).unwrap();
    let page = page.replace("</tr>", "\n").replace("</th>", "|").replace("</td>", "|").replace("</p>", "\n");
    let mut text = String::new();
    let mut inside = false;
    for character in page.chars() {
        match character {
            '<' => inside = true,
            '>' => inside = false,
            _ if !inside => text.push(character),
            _ => {}
        }
    }
    text
}

#[test]
fn rules_are_in_the_cells_of_their_abilities() {
    let page = page(&map(Unmapped::Deny), Path::new("a.yaml"));
    let text = text(&page);
    for line in [
        "items:read|Items, variants, types, tags|3|",
        "items:update|Update items, variants, types, tags|1|",
        "kiosk:scan|Use kiosk scan and search endpoints|none in this map|",
        "&lt;b&gt;&amp;||1|",
        "items:read|items:update|&lt;b&gt;&amp;|",
        "/api/v2/items||GET|||",
        "/api/v2/items/{id}||GETPOST with items:update|POST with items:read|GET|",
        "/api/v2/me|GET any token||||",
        "/up|GET anyonePUT nobody||||",
        "Any other path|nobody|",
    ] {
        assert!(text.lines().any(|it| it.ends_with(line)), "{line}\n{text}");
    }
    let open = super::page(&map(Unmapped::Authenticated), Path::new("a.yaml"));
    assert!(self::text(&open).contains("Any other path|any token|"));
}

#[test]
fn routes_are_grouped_by_resource() {
    let map = map(Unmapped::Deny);
    let resources: Vec<Vec<&str>> =
        resources(&map).iter().map(|routes| routes.iter().map(|route| route.template()).collect()).collect();
    assert_eq!(resources, [&["/api/v2/items", "/api/v2/items/{id}"][..], &["/api/v2/me"], &["/up"]]);
}

#[test]
fn callable_page_lists_calls_and_the_abilities_that_allow_them() {
    let shown = |unmapped, names: &[&str]| {
        let map = map(unmapped);
        let callable = Callable::new(&map, Abilities::new(names.iter().copied()));
        text(&callable_page(&callable, Path::new("a.yaml")))
    };
    let text = shown(Unmapped::Deny, &["items:read", "items:raed"]);
    for line in [
        "The token has items:raed, items:read.",
        "Note no rule requires `items:raed`; did you mean `items:read`?",
        "/api/v2/items|GET|items:read|",
        "/api/v2/items/{id}|GET|items:read|",
        "/api/v2/me|GET|any token|",
        "/up|GET|public|",
    ] {
        assert!(text.lines().any(|it| it.ends_with(line)), "{line}\n{text}");
    }
    assert!(!text.contains("POST") && !text.contains("PUT") && !text.contains("Any other path"));
    let text = shown(Unmapped::Authenticated, &[]);
    assert!(text.contains("The token has no abilities.") && text.contains("Any other path|all|any token|"));
}
