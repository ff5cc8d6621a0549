//! The web page of usage, in a real browser.

use std::fs;
use std::process::Command;

use serde_json::{Value, json};

use crate::support::{BINARY, Browser};

/// Where tests/run puts it.
const AXE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/axe-core/node_modules/axe-core/axe.min.js");

fn row(ability: &str, verdict: &str, count: u64) -> Value {
    json!({
        "ability": ability, "route": "/api/v2/items/{id}", "verdict": verdict, "count": count,
        "methods": {"GET": count}, "days": {"2026-11-02": count}, "requirement": ability,
    })
}

/// Findings of every kind, and names that would rather be something else.
fn report() -> Value {
    let token = |id: &str, name: &str, abilities: &[&str], denied: u64, day: Value| {
        json!({
            "id": id, "name": name, "context": "instance", "workspace_id": "7", "abilities": abilities,
            "created_at": "2024-01-01T00:00:00Z", "first_seen": "2026-08-01T10:00:00Z",
            "last_seen": "2026-11-02T11:30:00Z", "addresses": 3, "days": {"2026-10-05": {"allowed": 9}, "2026-11-02": day},
            "usage": [row("items:read", "allowed", 40), row("items:delete", "denied", denied)],
        })
    };
    let many: Vec<u32> = (0..20).collect();
    json!({
        "ledgers": ["a"],
        "tokens": [
            token("1", "mobile-app-v2", &["*"], 0, json!({"allowed": 31})),
            token("2", "<script>document.title = 'broken'</script>", &["items:read"], 310,
                  json!({"allowed": 31, "denied": 310, "plain_http": 4, "addresses": many})),
            token("x&y \"z\"", "\u{202e}\u{1b}[2J' onmouseover='alert(1)", &["items:read", "rents:read"], 0, json!({"allowed": 31})),
            token("4", &"مفتاح-المستودع-".repeat(600), &["items:read"], 0, json!({"allowed": 31})),
        ],
    })
}

/// What axe-core finds wrong, by WCAG 2.2 AA and its own advice: the rule and where.
fn axe(browser: &Browser) -> Value {
    let axe = fs::read_to_string(AXE).expect("it is installed by tests/run");
    browser.run(&format!(
        "{axe};
         const found = await axe.run(document, {{resultTypes: ['violations']}});
         if (!found.passes.some((rule) => rule.id === 'color-contrast')) return 'contrast was not looked at';
         return found.violations.map((rule) => [rule.id, rule.nodes.map((node) => node.target.join(' ') + ': ' + node.failureSummary)]);"
    ))
}

#[test]
#[ignore = "needs browser: tests/run"]
fn everybody_can_read_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    fs::write(path("a.json"), report().to_string()).unwrap();
    let browser = Browser::start();
    for (name, words) in [("all.html", &[][..]), ("token.html", &["--token", "2"])] {
        let output = Command::new(BINARY)
            .args(["usage", "--format", "html", "--add", &path("a.json")])
            .args(words)
            .env_remove("STOCKAJ_GATEWAY_CONFIG")
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        fs::write(path(name), output.stdout).unwrap();
        let url = format!("file://{}", path(name));
        browser.requests();
        browser.open(&url);
        for scheme in ["light", "dark"] {
            // A window, half of it (or twice the size in it), and a telephone.
            for width in [1280, 640, 320] {
                browser.show_on("screen", scheme, width);
                browser.run("for (const it of document.querySelectorAll('details')) it.open = true;");
                assert_eq!(axe(&browser), json!([]), "{name} {scheme} {width}");
                let wider = browser.run("return document.documentElement.scrollWidth - innerWidth;");
                assert!(wider.as_i64().unwrap() <= 0, "{name} {scheme} {width}: {wider} pixels are outside");
            }
            let paper = browser.run("return getComputedStyle(document.body).backgroundColor;");
            assert_eq!(paper == "rgb(255, 255, 255)", scheme == "light", "{paper}");
        }
        // On paper nothing is folded up, and nothing scrolls.
        browser.show_on("print", "light", 1280);
        let hidden = browser.run(
            "for (const it of document.querySelectorAll('details')) it.open = false;
             const tables = [...document.querySelectorAll('table')];
             return tables.filter((it) => !it.checkVisibility({contentVisibilityAuto: true})).length;",
        );
        assert_eq!(hidden, 0);
        assert_eq!(browser.requests(), [url], "it is all there is");
        assert_eq!(browser.faults(), [] as [String; 0]);
    }
}
