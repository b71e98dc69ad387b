//! Tables that name, for each thing that users can see, the test that shows it. They are held
//! against the tests' own sources, so that none can name a test that is not there or is about
//! something else.

use std::collections::BTreeSet;

/// `(thing, "module::test")`
pub type Evidence = &'static [(&'static str, &'static str)];

/// Asserts that there is one entry for each of `things`, and that the test that it names is there
/// and mentions the thing.
pub fn assert_complete(evidence: Evidence, things: &BTreeSet<String>) {
    let named: BTreeSet<String> = evidence.iter().map(|(thing, _)| (*thing).to_owned()).collect();
    assert_eq!(named.len(), evidence.len(), "a thing is named twice");
    assert_eq!(&named, things, "left: has a test; right: is there");
    for (thing, test) in evidence {
        assert!(body_of(test).contains(thing), "{test} does not mention {thing}");
    }
}

/// The source of a test.
fn body_of(test: &str) -> String {
    let (module, name) = test.split_once("::").unwrap_or_else(|| panic!("{test}: no module"));
    let path = format!("{}/tests/it/{module}.rs", env!("CARGO_MANIFEST_DIR"));
    let source = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let starts = [format!("#[test]\nfn {name}("), format!("#[tokio::test]\nasync fn {name}(")];
    let start = starts.iter().find_map(|start| source.find(start));
    let body = &source[start.unwrap_or_else(|| panic!("there is no test {test}"))..];
    body[..body.find("\n}\n").unwrap()].to_owned()
}
