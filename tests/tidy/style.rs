//! Sizes, names and leftovers.

use crate::source::{Problems, files, is_comment, mentions};

const LINES_MAX: usize = 500;

/// Names that say nothing about what a module is.
const EMPTY_NAMES: [&str; 8] =
    ["common", "helper", "helpers", "manager", "misc", "util", "utils", "stuff"];

/// What is written to be taken away again. In halves, so that this line is none.
const LEFTOVERS: [&str; 6] = [
    concat!("to", "do!"),
    concat!("unimpl", "emented!"),
    concat!("d", "bg!"),
    concat!("FIX", "ME"),
    concat!("TO", "DO"),
    concat!("HA", "CK"),
];

/// What a test says that runs only with those of faults that take long.
const LONG: &str = "\"long: dev/test --faults\"";

#[test]
fn no_file_is_too_long_to_be_read() {
    let mut problems = Problems::default();
    for file in files(&["src", "tests", "benches"], ".rs") {
        let count = file.lines().count();
        if count > LINES_MAX {
            problems.at(&file, LINES_MAX + 1, format!("{count} lines, at most {LINES_MAX}"));
        }
    }
    problems.assert_none();
}

#[test]
fn every_file_says_what_it_is() {
    let mut problems = Problems::default();
    for file in files(&["src", "tests", "benches"], ".rs") {
        let first = file.text.lines().next().unwrap_or_default();
        if first.strip_prefix("//! ").is_none_or(|text| text.len() <= 10) {
            problems.at(&file, 1, "begins without a sentence about the module");
        }
    }
    problems.assert_none();
}

#[test]
fn modules_have_names_that_say_something() {
    let mut problems = Problems::default();
    for file in files(&["src", "tests", "benches"], ".rs") {
        let mut parts = file.path.trim_end_matches(".rs").split('/');
        if let Some(name) = parts.find(|part| EMPTY_NAMES.contains(part)) {
            problems.at(&file, 1, format!("\"{name}\" says nothing"));
        }
    }
    problems.assert_none();
}

#[test]
fn nothing_is_left_over() {
    let mut problems = Problems::default();
    let sources = files(&["src", "tests", "benches"], ".rs");
    let scripts = files(&["migrations", "dev", "docs", "README.md"], "");
    for file in sources.iter().chain(&scripts) {
        for (number, line) in file.lines() {
            for word in LEFTOVERS.iter().filter(|word| line.contains(**word)) {
                problems.at(file, number, format!("{word} is left over"));
            }
            let runs = line.contains(LONG);
            if line.trim_start().starts_with(concat!("#[ig", "nore")) && !runs {
                problems.at(file, number, "a test that does not run proves nothing");
            }
        }
    }
    problems.assert_none();
}

#[test]
fn tests_wait_for_what_happens_and_never_for_time() {
    let mut problems = Problems::default();
    for file in files(&["tests"], ".rs") {
        for (number, line) in file.lines().filter(|(_, line)| !is_comment(line)) {
            let waits = [concat!("sl", "eep"), concat!("sl", "eep_until")];
            if waits.iter().any(|name| mentions(line, name)) {
                problems.at(&file, number, "wait on a condition (tests/it/support/wait.rs)");
            }
        }
    }
    problems.assert_none();
}

/// The one file that may (docs/adr/0021).
const UNSAFE: &str = "src/sink/kafka/describe.rs";

#[test]
fn only_one_file_is_unsafe() {
    let mut problems = Problems::default();
    for file in files(&["src", "tests", "benches"], ".rs") {
        let allows = concat!("uns", "afe_code");
        let of_it = file.lines().filter(|(_, line)| !is_comment(line) && line.contains(allows));
        for (number, _) in of_it.filter(|_| file.path != UNSAFE) {
            problems.at(&file, number, format!("only {UNSAFE} may"));
        }
    }
    problems.assert_none();
}
