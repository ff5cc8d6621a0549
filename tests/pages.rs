//! The web pages in a real browser.

use std::path::Path;
use std::process::Command;

use serde_json::json;

use crate::support::{BINARY, Browser};

/// Writes the output of `routes --format html` with these arguments to a file, and returns its URL.
fn routes(directory: &Path, words: &[&str]) -> String {
    let output = Command::new(BINARY).args(["routes", "--format", "html"]).args(words).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let file = directory.join("page.html");
    std::fs::write(&file, output.stdout).unwrap();
    format!("file://{}", file.display())
}

#[test]
#[ignore = "needs browser: tests/run"]
fn page_check_finds_faults() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("page.html");
    let page = "<title>t</title><main><h1 style='color: #888'>h</h1><table><tr><th>a</table><img src=absent.png></main>";
    std::fs::write(&file, page).unwrap();
    let browser = Browser::start();
    browser.open(&format!("file://{}", file.display()));
    let faults = browser.faults();
    for expected in [
        "no language",
        "not allowed: <h1",
        "th without scope",
        "without caption",
        "contrast 3.5",
        "loads: <img",
        "ERR_FILE",
    ] {
        assert!(faults.iter().any(|fault| fault.contains(expected)), "{expected}: {faults:#?}");
    }
}

#[test]
#[ignore = "needs browser: tests/run"]
fn matrix_page_is_valid_and_accessible() {
    let directory = tempfile::tempdir().unwrap();
    let browser = Browser::start();
    // Every kind of rule.
    let map = directory.path().join("map.yaml");
    let routes_of = "routes: {/up: {GET: public, PUT: deny}, /me: {GET: authenticated}, \
                     /x: {GET: {any: [items:read, '<b>']}, POST: {all: [items:read, items:update]}}}\n";
    std::fs::write(&map, routes_of).unwrap();
    for words in [
        &["--config", "config/stockaj.yaml"][..],
        &["--config", "config/stockaj.yaml", "--for", "items:read,items:raed"],
        &["--config", map.to_str().unwrap()],
        &["--config", map.to_str().unwrap(), "--for", ""],
    ] {
        browser.open(&routes(directory.path(), words));
        assert_eq!(browser.faults(), [""; 0], "{words:?}");
    }
    browser.open(&routes(directory.path(), &["--config", "config/stockaj.yaml"]));
    // A window of 1280 pixels minus a scroll bar.
    for width in [1280, 1264] {
        browser.show_on("screen", "light", width);
        let wider = browser.run("return document.documentElement.scrollWidth - innerWidth;");
        assert!(wider.as_i64().is_some_and(|wider| wider <= 0), "{width}: {wider} pixels overflow");
    }
    browser.show_on("screen", "light", 600);
    let headers_stay = browser.run(
        "scrollTo(400, document.body.scrollHeight - innerHeight - 50);
         const top = document.querySelector('.matrix thead').getBoundingClientRect().top;
         const left = document.querySelector('.matrix tbody th').getBoundingClientRect().left;
         return [top, left];",
    );
    assert_eq!(headers_stay, json!([0, 0]));
    let column = browser.run(
        "const table = document.querySelector('.matrix');
         const names = [...table.tHead.rows[1].cells].map((it) => it.innerText.trim());
         const at = names.indexOf('items:delete') + 2;
         return [...table.rows].filter((row) => row.cells[at]?.innerText.includes('POST')).map((row) => row.cells[0].innerText);",
    );
    let restores = ["items", "tags", "types", "variants"].map(|it| format!("/api/v2/{it}/{{id}}/restore"));
    assert_eq!(column, json!(restores));
}
