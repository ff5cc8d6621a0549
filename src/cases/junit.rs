//! JUnit XML for CI systems: a `testsuite` for each file, a `testcase` for each check.

use std::fmt::Write as _;
use std::time::Duration;

/// The checks of a file.
#[derive(Debug)]
pub struct Suite {
    /// The file.
    pub name: String,
    /// Its duration.
    pub took: Duration,
    /// Its checks; if the file has errors, one that is [broken](CaseResult::Broken).
    pub cases: Vec<Case>,
}

/// A check.
#[derive(Debug)]
pub struct Case {
    /// Its name.
    pub name: String,
    /// Its line in the file.
    pub line: Option<usize>,
    /// Its result.
    pub result: CaseResult,
}

/// The result of a check.
#[derive(Debug)]
pub enum CaseResult {
    /// The decision is the expected one.
    Passed,
    /// Another decision: a line about it, and the whole report.
    Failed(String, String),
    /// Errors in the file: a line about them, and the whole report.
    Broken(String, String),
}

/// Renders the document.
pub fn document(suites: &[Suite]) -> String {
    let all = || suites.iter().flat_map(|suite| &suite.cases);
    let took: Duration = suites.iter().map(|suite| suite.took).sum();
    let mut xml = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    // Writing to a String cannot fail.
    let _ = writeln!(xml, "<testsuites name=\"stockaj-gateway test\" {}>", counts(all(), took));
    for suite in suites {
        let name = escaped(&suite.name);
        let _ = writeln!(xml, "  <testsuite name=\"{name}\" {}>", counts(suite.cases.iter(), suite.took));
        let share = suite.took.as_secs_f64() / suite.cases.len().max(1) as f64;
        for case in &suite.cases {
            let line = case.line.map(|line| format!(" line=\"{line}\"")).unwrap_or_default();
            let case_name = escaped(&case.name);
            let _ = write!(
                xml,
                "    <testcase name=\"{case_name}\" classname=\"{name}\" file=\"{name}\"{line} time=\"{share:.6}\""
            );
            let _ = match &case.result {
                CaseResult::Passed => writeln!(xml, "/>"),
                CaseResult::Failed(message, report) => problem(&mut xml, "failure", message, report),
                CaseResult::Broken(message, report) => problem(&mut xml, "error", message, report),
            };
        }
        xml.push_str("  </testsuite>\n");
    }
    xml.push_str("</testsuites>\n");
    xml
}

fn problem(xml: &mut String, element: &str, message: &str, report: &str) -> std::fmt::Result {
    let (message, report) = (escaped(message), escaped(report));
    writeln!(
        xml,
        ">\n      <{element} message=\"{message}\" type=\"{element}\">{report}</{element}>\n    </testcase>"
    )
}

fn counts<'a>(cases: impl Iterator<Item = &'a Case>, took: Duration) -> String {
    let (mut tests, mut failures, mut errors) = (0, 0, 0);
    for case in cases {
        tests += 1;
        match case.result {
            CaseResult::Passed => {}
            CaseResult::Failed(..) => failures += 1,
            CaseResult::Broken(..) => errors += 1,
        }
    }
    let time = took.as_secs_f64();
    format!("tests=\"{tests}\" failures=\"{failures}\" errors=\"{errors}\" time=\"{time:.3}\"")
}

/// Escapes text for content and attributes, and replaces characters that XML 1.0 does not allow.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&apos;"),
            '\n' | '\t' => escaped.push(character),
            '\u{fffe}' | '\u{ffff}' => escaped.push('\u{fffd}'),
            other if other.is_control() => escaped.push('\u{fffd}'),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_that_xml_does_not_allow_are_escaped_or_replaced() {
        for (text, expected) in [
            ("a<b>&\"c\" 'd'", "a&lt;b&gt;&amp;&quot;c&quot; &apos;d&apos;"),
            ("]]>", "]]&gt;"),
            ("line\n\tline", "line\n\tline"),
            ("\u{0}\u{1b}[31m\u{85}\u{ffff}\r", "\u{fffd}\u{fffd}[31m\u{fffd}\u{fffd}\u{fffd}"),
            ("übung 🦀", "übung 🦀"),
        ] {
            assert_eq!(escaped(text), expected, "{text:?}");
        }
    }

    #[test]
    fn files_are_suites_and_checks_are_cases() {
        let case = |name: &str, line, result| Case { name: name.to_owned(), line, result };
        let failed = CaseResult::Failed("a < b".to_owned(), "at\n<there>".to_owned());
        let suites = [
            Suite {
                name: "a.yaml".to_owned(),
                took: Duration::from_micros(2400),
                cases: vec![case("GET /a", Some(3), CaseResult::Passed), case("GET /b", Some(4), failed)],
            },
            Suite {
                name: "b.yaml".to_owned(),
                took: Duration::from_millis(1),
                cases: vec![case("it", None, CaseResult::Broken("no".to_owned(), "none".to_owned()))],
            },
        ];
        assert_eq!(
            document(&suites),
            r#"<?xml version="1.0" encoding="UTF-8"?>
<testsuites name="stockaj-gateway test" tests="3" failures="1" errors="1" time="0.003">
  <testsuite name="a.yaml" tests="2" failures="1" errors="0" time="0.002">
    <testcase name="GET /a" classname="a.yaml" file="a.yaml" line="3" time="0.001200"/>
    <testcase name="GET /b" classname="a.yaml" file="a.yaml" line="4" time="0.001200">
      <failure message="a &lt; b" type="failure">at
&lt;there&gt;</failure>
    </testcase>
  </testsuite>
  <testsuite name="b.yaml" tests="1" failures="0" errors="1" time="0.001">
    <testcase name="it" classname="b.yaml" file="b.yaml" time="0.001000">
      <error message="no" type="error">none</error>
    </testcase>
  </testsuite>
</testsuites>
"#
        );
        assert!(document(&[]).contains(r#" tests="0" "#));
    }
}
