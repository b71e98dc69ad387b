//! Faults: each test of one says what tells an operator of it.

use crate::source::{Problems, files};

/// Faults that nobody has to be told of: the relay does its work as if they were not there.
const HARMLESS: [&str; 2] = [
    "f31_changes_of_the_table_that_are_not_mapped_stop_nothing",
    "f36_rows_that_are_gone_before_they_are_read_are_published",
];

/// A metric that moves, a code, a state: the test of a fault waits for one.
#[test]
fn every_fault_is_told_of() {
    let (mut problems, mut found) = (Problems::default(), 0);
    for file in files(&["tests/it"], ".rs") {
        if !file.path.starts_with("tests/it/faults_") {
            continue;
        }
        for item in file.text.split("async fn ").skip(1) {
            let name = item.split('(').next().unwrap_or_default();
            let body = item.split("\n}\n").next().unwrap_or_default();
            let is_fault = name.strip_prefix('f').is_some_and(|rest| {
                rest.split('_').next().is_some_and(|number| number.parse::<u8>().is_ok())
            });
            found += usize::from(is_fault);
            if is_fault && !HARMLESS.contains(&name) && !body.contains(".tells(") {
                problems.add(format!("{}: {name}: nothing tells of it", file.path));
            }
        }
    }
    assert!(found > 20, "the faults cannot be read: {found}");
    problems.assert_none();
}
