//! Alerts and dashboard name only metrics that are there, and every alert has a test and its section
//! in the runbook.

use std::collections::BTreeSet;

use crate::documents::metrics;
use crate::source::{File, Problems, file};

const ALERTS: &str = "deploy/prometheus/alerts.yml";
const TESTS: &str = "deploy/prometheus/alerts_test.yml";
const DASHBOARD: &str = "deploy/grafana/outboxd.json";
const OPERATING: &str = "docs/OPERATING.md";

/// What a histogram's series end in.
const SERIES: [&str; 3] = ["_bucket", "_sum", "_count"];
/// What a section of the runbook answers, and shows.
const ANSWERS: [&str; 4] = ["**Means.** ", "**Look at** ", "**Do.** ", "\n```sh\n"];

fn read(path: &str) -> File {
    file(path).unwrap_or_else(|| panic!("{path} is not there"))
}

/// The alerts, each with what is said of it.
fn alerts(rules: &File) -> Vec<(&str, &str)> {
    let alerts = rules.text.split("- alert: ").skip(1);
    alerts.map(|alert| alert.split_once('\n').expect("more than a name")).collect()
}

#[test]
fn every_alert_has_a_section_of_the_runbook_and_the_other_way_round() {
    let (rules, operating) = (read(ALERTS), read(OPERATING));
    let sections = operating.text.split("\n## ").find(|text| text.starts_with("Alerts\n"));
    let sections: Vec<&str> = sections.expect("the alerts").split("\n### ").skip(1).collect();
    let title = |section: &&str| section.lines().next().unwrap_or_default().to_owned();
    let alerts = alerts(&rules);
    let names: Vec<String> = alerts.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(sections.iter().map(title).collect::<Vec<_>>(), names, "in the same order");
    let mut problems = Problems::default();
    for ((name, alert), section) in alerts.iter().zip(&sections) {
        let places: Vec<_> = ANSWERS.iter().map(|answer| section.find(answer)).collect();
        if places.contains(&None) || !places.is_sorted() {
            problems.add(format!("{OPERATING}: {name}: not {ANSWERS:?}, in that order"));
        }
        let runbook = format!("runbook: {OPERATING}#{}\n", name.to_lowercase());
        if !alert.contains(&runbook) {
            problems.add(format!("{ALERTS}: {name}: without {runbook}"));
        }
    }
    problems.assert_none();
}

/// promtool runs them; here it is seen to that none is left out.
#[test]
fn every_alert_is_fired_by_a_test() {
    let (rules, tests) = (read(ALERTS), read(TESTS));
    let mut problems = Problems::default();
    for (name, _) in alerts(&rules) {
        let expected = format!("alertname=\"{name}\"");
        if !tests.text.contains(&expected) {
            problems.add(format!("{TESTS}: nothing fires {name}"));
        }
    }
    problems.assert_none();
}

#[test]
fn alerts_and_dashboard_name_metrics_that_are_there() {
    let known = metrics();
    let is_known = |name: &str| {
        let histogram = SERIES.iter().find_map(|end| name.strip_suffix(end));
        known.contains(name) || histogram.is_some_and(|name| known.contains(name))
    };
    let mut problems = Problems::default();
    let mut named = BTreeSet::new();
    for path in [ALERTS, TESTS, DASHBOARD] {
        let file = read(path);
        let words =
            file.text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
        for word in words.filter(|word| word.starts_with("outbox_") || known.contains(*word)) {
            if !is_known(word) {
                problems.add(format!("{path}: there is no {word}"));
            }
            named.insert(word.to_owned());
        }
    }
    assert!(named.len() > 30, "{named:?}");
    problems.assert_none();
}
