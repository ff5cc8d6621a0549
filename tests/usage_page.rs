//! The usage page in a real browser.

use std::fs;
use std::process::Command;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::demo::Demo;
use crate::support::{BINARY, Browser};

/// The path where tests/run installs it.
const AXE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/axe-core/node_modules/axe-core/axe.min.js");

fn row(ability: &str, verdict: &str, count: u64) -> Value {
    json!({
        "ability": ability, "route": "/api/v2/items/{id}", "verdict": verdict, "count": count,
        "methods": {"GET": count}, "days": {"2026-11-02": count}, "requirement": ability,
    })
}

/// Findings of every kind, and names that contain markup.
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
        "deprecated_routes": {},
        "tokens": [
            token("1", "mobile-app-v2", &["*"], 0, json!({"allowed": 31})),
            token("2", "<script>document.title = 'broken'</script>", &["items:read"], 310,
                  json!({"allowed": 31, "denied": 310, "plain_http": 4, "addresses": many})),
            token("x&y \"z\"", "\u{202e}\u{1b}[2J' onmouseover='alert(1)", &["items:read", "rents:read"], 0, json!({"allowed": 31})),
            token("4", &"مفتاح-المستودع-".repeat(600), &["items:read"], 0, json!({"allowed": 31})),
        ],
    })
}

/// The violations that axe-core finds, by WCAG 2.2 AA and its best practices: the rule and the element.
fn axe(browser: &Browser) -> Value {
    let axe = fs::read_to_string(AXE).expect("tests/run installs this program");
    browser.run(&format!(
        "{axe};
         const found = await axe.run(document, {{resultTypes: ['violations']}});
         if (!found.passes.some((rule) => rule.id === 'color-contrast')) return 'contrast was not looked at';
         return found.violations.map((rule) => [rule.id, rule.nodes.map((node) => node.target.join(' ') + ': ' + node.failureSummary)]);"
    ))
}

#[test]
#[ignore = "needs browser: tests/run"]
fn usage_page_is_accessible() {
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
            // A desktop window, half of it (equal to 200 % zoom), and a phone.
            for width in [1280, 640, 320] {
                browser.show_on("screen", scheme, width);
                browser.run("for (const it of document.querySelectorAll('details')) it.open = true;");
                assert_eq!(axe(&browser), json!([]), "{name} {scheme} {width}");
                let wider = browser.run("return document.documentElement.scrollWidth - innerWidth;");
                assert!(wider.as_i64().unwrap() <= 0, "{name} {scheme} {width}: {wider} pixels overflow");
            }
            let paper = browser.run("return getComputedStyle(document.body).backgroundColor;");
            assert_eq!(paper == "rgb(255, 255, 255)", scheme == "light", "{paper}");
        }
        // In print nothing is collapsed and nothing scrolls.
        browser.show_on("print", "light", 1280);
        let hidden = browser.run(
            "for (const it of document.querySelectorAll('details')) it.open = false;
             const tables = [...document.querySelectorAll('table')];
             return tables.filter((it) => !it.checkVisibility({contentVisibilityAuto: true})).length;",
        );
        assert_eq!(hidden, 0);
        assert_eq!(browser.requests(), [url], "the page loads nothing else");
        assert_eq!(browser.faults(), [] as [String; 0]);
    }
}

/// A node of the accessibility tree: its role and its name.
fn spoken(browser: &Browser) -> Vec<(String, String)> {
    let tree = browser.devtools("Accessibility.getFullAXTree", &json!({}));
    let text = |node: &Value, key: &str| node[key]["value"].as_str().unwrap_or_default().to_owned();
    tree["nodes"].as_array().unwrap().iter().map(|node| (text(node, "role"), text(node, "name"))).collect()
}

#[test]
#[ignore = "needs browser: tests/run"]
fn operator_opens_the_usage_page_and_selects_a_token() {
    let demo = Demo::start(&["--address", "127.0.0.1:0", "--admin-address", "127.0.0.1:0"]);
    let url = demo.usage();
    let (credentials, plain) = url.strip_prefix("http://").unwrap().split_once('@').unwrap();
    let plain = format!("http://{plain}");
    let browser = Browser::start();
    browser.show_on("screen", "light", 1000);
    browser.requests();

    // Page scripts are disabled.
    browser.devtools("Emulation.setScriptExecutionDisabled", &json!({"value": true}));
    browser.open(&url);
    let spoken = spoken(&browser);
    for (role, name) in [
        ("heading", "Token usage"),
        ("main", ""),
        ("search", "Period and token"),
        ("region", "What to do"),
        ("table", "Requests by ability, most first"),
        ("table", "Sorted by findings, then by requests"),
        ("rowheader", "warehouse-scanner-prod 3"),
    ] {
        assert!(spoken.contains(&(role.to_owned(), name.to_owned())), "{role} {name}: {spoken:#?}");
    }
    assert!(spoken.iter().any(|(role, name)| role == "image" && name.starts_with("Denied: ")), "{spoken:#?}");
    browser.devtools("Emulation.setScriptExecutionDisabled", &json!({"value": false}));
    browser.open(&url);
    assert_eq!(axe(&browser), json!([]));
    keep_screenshot(&browser);

    // Tab to the first link in the list of tokens.
    const TAB: &str = "\u{e004}";
    const ENTER: &str = "\u{e007}";
    let at_a_token = "const at = document.activeElement;
        return at.matches('.tokens a') && [at.textContent.trim(), getComputedStyle(at).outlineStyle];";
    let mut found = json!(false);
    for _ in 0..100 {
        browser.press(TAB);
        found = browser.run(at_a_token);
        if found != json!(false) {
            break;
        }
    }
    assert_eq!(found[1], "solid", "the keyboard focus is not visible: {found}");
    browser.press(ENTER);
    let name = found[0].as_str().unwrap();
    let id = name.rsplit(' ').next().unwrap();
    browser.wait_for_title(&format!("Token {id}"));
    assert_eq!(axe(&browser), json!([]));

    // The browser requests only pages, with the credentials entered once.
    let requests = browser.requests();
    let requests: Vec<String> =
        requests.iter().map(|request| request.replace(&format!("{credentials}@"), "")).collect();
    assert!(requests.iter().all(|request| request.starts_with(&plain)), "{requests:?}");
    assert_eq!(requests.last(), Some(&format!("{plain}?token={id}")));
    browser.open(&format!("{plain}?since=7d"));
    assert_eq!(browser.run("return document.querySelector('select').value;"), "7d");
    assert_eq!(browser.faults(), [] as [String; 0]);
}

/// Writes the screenshot of the documentation, with `BLESS=1`.
fn keep_screenshot(browser: &Browser) {
    if std::env::var_os("BLESS").is_none() {
        return;
    }
    // Few findings, so that the charts are in the picture.
    browser.run("for (const it of [...document.querySelectorAll('details')].slice(1)) it.open = false;");
    let end = browser.run("return document.querySelector('[aria-labelledby=days] details').offsetTop;");
    let clip = json!({"x": 0, "y": 0, "width": 1000, "height": end, "scale": 0.9});
    let image =
        browser.devtools("Page.captureScreenshot", &json!({"clip": clip, "captureBeyondViewport": true}));
    let image = STANDARD.decode(image["data"].as_str().unwrap()).unwrap();
    fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/images/usage.png"), image).unwrap();
}
