//! Any configuration is either accepted or reported, in every format of the report and with the same result twice.

use http::Method;
use stockaj_gateway::internals::config::{self, Loaded, Report, Severity};
use stockaj_gateway::internals::policy::map::RouteMatch;
use stockaj_gateway::internals::policy::path::CanonicalPath;

pub fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    // Named files are read. These may be endless or change between two reads.
    if ["/dev", "/proc", "/sys"].iter().any(|directory| text.contains(directory)) {
        return;
    }
    let load = || config::load_text("gateway.yaml", text.to_owned());
    match (load(), load()) {
        (Ok(loaded), Ok(again)) => {
            check_report(&loaded.warnings, &again.warnings);
            assert_eq!(loaded.warnings.count(Severity::Error), 0);
            check_loaded(&loaded);
        }
        (Err(report), Err(again)) => {
            check_report(&report, &again);
            assert!(report.count(Severity::Error) > 0);
        }
        _ => panic!("accepted once and rejected once"),
    }
}

fn check_report(report: &Report, again: &Report) {
    let shown = report.to_string();
    assert_eq!(shown, again.to_string());
    assert!(!shown.chars().any(|it| it.is_control() && it != '\n'), "{shown:?}");
    assert_eq!(report.lines().count(), again.lines().count());
    let _ = report.render(true);
    let _ = format!("{report:?}");
}

fn check_loaded(loaded: &Loaded) {
    let settings = &loaded.settings;
    let _ = format!("{settings:?}");
    assert!(settings.threads > 0 && settings.introspection.max_concurrent > 0);
    let map = &settings.abilities;
    for (number, route) in map.routes().enumerate() {
        let template = route.template();
        if template.contains('{') {
            continue;
        }
        // A literal route is the most specific for its own path, and that path is canonical.
        let path = CanonicalPath::new(template).expect("a template that requests can have");
        assert!(path.is_borrowed());
        let found = match map.find(&Method::GET, &path) {
            RouteMatch::Rule { route, .. } | RouteMatch::NoMethod { route } => Some(route),
            RouteMatch::NoRoute => None,
        };
        assert_eq!(found, Some(number), "{template}");
    }
}
