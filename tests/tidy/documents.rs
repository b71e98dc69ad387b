//! Documents name only what exists, and all that they have to name.

use std::collections::BTreeSet;

use crate::source::{File, Problems, exists, file, files, mentions};

const REQUIRED: [&str; 19] = [
    "CHANGELOG.md",
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "README.md",
    "docs/ARCHITECTURE.md",
    "docs/CONFIGURATION.md",
    "docs/CONSUMERS.md",
    "docs/GLOSSARY.md",
    "docs/GUARANTEES.md",
    "docs/MANAGED.md",
    "docs/MIGRATING.md",
    "docs/OPERATING.md",
    "docs/PERFORMANCE.md",
    "docs/RECORDS.md",
    "docs/SECURITY.md",
    "docs/SINKS.md",
    "docs/SIZING.md",
    "docs/TABLES.md",
    "docs/WRITING.md",
];

/// Names of PostgreSQL's that are as long as a test's.
const POSTGRES_NAMES: [&str; 6] = [
    "idle_in_transaction_session_timeout",
    "idle_replication_slot_timeout",
    "max_slot_wal_keep_size",
    "pg_copy_logical_replication_slot",
    "pg_create_logical_replication_slot",
    "pg_logical_slot_get_changes",
];

/// Topics in examples that look like keys of the section `outbox`.
const EXAMPLE_TOPICS: [&str; 2] = ["outbox.dlq", "outbox.order"];

fn documents() -> Vec<File> {
    files(&["README.md", "CHANGELOG.md", "docs"], ".md")
}

/// A line's place in a document: in running text, or in a fenced block of that language.
fn with_fences(file: &File) -> impl Iterator<Item = (usize, Option<String>, &str)> {
    let mut fence = None;
    file.lines().filter_map(move |(number, line)| {
        if let Some(language) = line.trim_start().strip_prefix("```") {
            fence = if fence.is_none() { Some(language.trim().to_owned()) } else { None };
            return None;
        }
        Some((number, fence.clone(), line))
    })
}

/// What stands between backticks in running text.
fn quoted(file: &File) -> Vec<(usize, &str)> {
    let text = with_fences(file).filter(|(_, fence, _)| fence.is_none());
    text.flat_map(|(number, _, line)| {
        line.split('`').skip(1).step_by(2).map(move |quoted| (number, quoted))
    })
    .collect()
}

fn is_made_of(text: &str, more: &str) -> bool {
    let fits = |letter: char| letter.is_ascii_lowercase() || letter == '_' || more.contains(letter);
    !text.is_empty() && text.chars().all(fits)
}

/// The names of all tests.
fn tests() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for file in files(&["src", "tests"], ".rs") {
        let mut is_test = false;
        for line in file.text.lines().map(str::trim) {
            is_test |= line.starts_with("#[test]") || line.starts_with("#[tokio::test");
            if let Some((_, rest)) = line.split_once("fn ").filter(|_| is_test) {
                names.extend(rest.split('(').next().map(str::to_owned));
                is_test = false;
            }
        }
    }
    names
}

/// The keys of the configuration, and their sections.
fn keys() -> BTreeSet<String> {
    let tables = files(&["src/config/keys"], ".rs");
    let dense: String = tables.iter().flat_map(|table| table.text.split_whitespace()).collect();
    let paths = dense.split("key(\"").skip(1).filter_map(|rest| rest.split('"').next());
    let mut keys = BTreeSet::new();
    for path in paths {
        let dots = path.match_indices('.').map(|(at, _)| &path[..at]);
        keys.extend(dots.chain([path]).map(str::to_owned));
    }
    assert!(keys.len() > 50, "the keys cannot be read: {keys:?}");
    keys
}

/// The names of all metrics.
pub fn metrics() -> BTreeSet<String> {
    let text = file("src/metrics.rs").expect("the metrics").text;
    let quoted = text.split('"').skip(1).step_by(2);
    let names = quoted.filter(|name| is_made_of(name, "") && name.contains('_'));
    let names: BTreeSet<_> = names.map(str::to_owned).collect();
    assert!(names.len() > 20, "the metrics cannot be read: {names:?}");
    names
}

/// The numbers of all error codes, with the line that gives them.
fn codes(file: &File) -> Vec<(usize, String)> {
    let lines = file.lines().skip_while(|(_, line)| !line.contains("fn number("));
    let lines = lines.take_while(|(_, line)| *line != "    }");
    let number = |line: &str| {
        let digits = line.split("=> ").nth(1)?.strip_suffix(',')?;
        Some(format!("OBX-{:04}", digits.parse::<u16>().ok()?))
    };
    let codes: Vec<_> = lines.filter_map(|(line, text)| Some((line, number(text)?))).collect();
    assert!(codes.len() > 20, "the codes cannot be read: {codes:?}");
    codes
}

#[test]
fn every_document_is_there() {
    let mut problems = Problems::default();
    for path in REQUIRED.iter().filter(|path| !exists(path)) {
        problems.add(format!("there is no {path}"));
    }
    problems.assert_none();
}

/// A name of four words and more is a test's, unless it is known to be something else. Every promise
/// has one.
#[test]
fn guarantees_name_tests_that_exist() {
    let Some(file) = file("docs/GUARANTEES.md") else { return };
    let (tests, keys) = (tests(), keys());
    let is_leaf = |name: &str| keys.iter().any(|key| key.rsplit('.').next() == Some(name));
    // Names of metrics have a test of their own.
    let is_metric = |name: &str| name.starts_with("outbox_");
    let is_other = |name: &str| is_leaf(name) || is_metric(name) || POSTGRES_NAMES.contains(&name);
    let (mut problems, mut named) = (Problems::default(), Vec::new());
    for (line, text) in quoted(&file) {
        let name = text.rsplit("::").next().unwrap_or(text);
        let is_name = is_made_of(name, "0123456789") && name.matches('_').count() > 2;
        if tests.contains(name) {
            named.push(line);
        } else if is_name && !is_other(name) {
            problems.at(&file, line, format!("there is no test {name}"));
        }
    }
    let headings = file.lines().filter(|(_, line)| line.starts_with('#')).chain([(usize::MAX, "")]);
    let headings: Vec<_> = headings.collect();
    let promises = headings.windows(2).filter(|pair| pair[0].1.starts_with("### "));
    for section in promises.clone() {
        if !named.iter().any(|line| (section[0].0..section[1].0).contains(line)) {
            problems.at(&file, section[0].0, "a promise without a test");
        }
    }
    if promises.count() == 0 {
        problems.at(&file, 1, "promises nothing");
    }
    problems.assert_none();
}

#[test]
fn documents_and_code_know_the_same_error_codes() {
    let source = file("src/failure.rs").expect("the codes");
    let codes = codes(&source);
    let mut problems = Problems::default();
    for file in documents() {
        for (line, text) in file.lines() {
            for (at, _) in text.match_indices("OBX-") {
                let code: String = text[at..].chars().take("OBX-".len() + 4).collect();
                let is_code = code[4..].chars().all(|digit| digit.is_ascii_digit());
                if is_code && !codes.iter().any(|(_, known)| *known == code) {
                    problems.at(&file, line, format!("there is no {code}"));
                }
            }
        }
    }
    problems.assert_none();
}

/// What a section of the runbook answers, and shows.
const ANSWERS: [&str; 4] =
    ["**What happened.** ", "**What is safe.** ", "**What to do.** ", "\n```"];

/// Someone who is woken by a code finds what happened, what is safe and what to do, with the commands.
#[test]
fn every_error_code_has_a_section_with_all_its_answers() {
    let source = file("src/failure.rs").expect("the codes");
    let operating = file("docs/OPERATING.md").expect("the runbook");
    let mut problems = Problems::default();
    for (line, code) in codes(&source) {
        let mut sections = operating.text.split("\n### ").filter(|text| text.starts_with(&code));
        let (Some(section), None) = (sections.next(), sections.next()) else {
            problems.at(&source, line, format!("{code} has no section in {}", operating.path));
            continue;
        };
        let section = section.split("\n## ").next().unwrap_or(section);
        let places: Vec<_> = ANSWERS.iter().map(|answer| section.find(answer)).collect();
        for (answer, _) in ANSWERS.iter().zip(&places).filter(|(_, place)| place.is_none()) {
            problems.add(format!("{}: {code}: without {answer:?}", operating.path));
        }
        if !places.is_sorted() {
            problems.add(format!("{}: {code}: in another order", operating.path));
        }
    }
    problems.assert_none();
}

/// What someone who runs the relay may look for. Keys have a page of their own, made of the code.
#[test]
fn operating_names_every_metric() {
    let Some(file) = file("docs/OPERATING.md") else { return };
    let mut problems = Problems::default();
    let of_ours =
        |name: &&String| ["outbox_", "events_"].iter().any(|begin| name.starts_with(begin));
    for name in metrics().iter().filter(of_ours) {
        if !file.lines().any(|(_, line)| mentions(line, name)) {
            problems.add(format!("src/metrics.rs: {name} is not in {}", file.path));
        }
    }
    problems.assert_none();
}

#[test]
fn documents_name_keys_that_exist() {
    let keys = keys();
    let is_ours = |path: &str| path.split('.').next().is_some_and(|first| keys.contains(first));
    let mut problems = Problems::default();
    for file in documents() {
        for (line, text) in quoted(&file) {
            let path = text.split(" = ").next().unwrap_or(text);
            let path = path.trim_matches(['[', ']']).trim_end_matches(".*");
            let is_file = [".rs", ".toml", ".md", ".sql", ".yml", ".sh"].iter();
            let is_key = is_made_of(path, ".")
                && path.contains('.')
                && is_ours(path)
                && !is_file.clone().any(|end| path.ends_with(end))
                && !EXAMPLE_TOPICS.contains(&path);
            if is_key && !keys.contains(path) {
                problems.at(&file, line, format!("there is no key {path}"));
            }
        }
        let toml = with_fences(&file).filter(|(_, fence, _)| fence.as_deref() == Some("toml"));
        for (line, path) in written_keys(toml) {
            if is_ours(&path) && !keys.contains(&path) {
                problems.at(&file, line, format!("there is no key {path}"));
            }
        }
    }
    problems.assert_none();
}

/// The keys that blocks of TOML set, with their sections.
fn written_keys<'a>(
    lines: impl Iterator<Item = (usize, Option<String>, &'a str)>,
) -> Vec<(usize, String)> {
    let (mut section, mut last, mut found) = (String::new(), 0, Vec::new());
    for (number, _, line) in lines {
        // Another block begins without a section.
        if number > last + 1 {
            section.clear();
        }
        last = number;
        let line = line.split(" #").next().unwrap_or(line).trim();
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            section = name.to_owned();
            found.push((number, section.clone()));
        } else if let Some((name, _)) = line.split_once('=').filter(|_| !line.starts_with('#')) {
            let name = name.trim();
            let path =
                if section.is_empty() { name.to_owned() } else { format!("{section}.{name}") };
            if is_made_of(name, ".") && section != "kafka.properties" {
                found.push((number, path));
            }
        }
    }
    found
}

#[test]
fn environments_set_keys_that_exist() {
    let keys = keys();
    let (mut problems, mut found) = (Problems::default(), 0);
    let deployments = files(&["docker-compose.yml", "deploy", "Dockerfile"], "");
    for file in documents().iter().chain(&deployments) {
        for (line, text) in file.lines() {
            for rest in text.split("OUTBOXD__").skip(1) {
                let end = rest.find(|letter: char| !letter.is_ascii_uppercase() && letter != '_');
                let name = &rest[..end.unwrap_or(rest.len())];
                // The pattern itself, as in OUTBOXD__SECTION__KEY or OUTBOXD__….
                if name.is_empty() || name.starts_with("SECTION") {
                    continue;
                }
                found += 1;
                let path = name.to_lowercase().replace("__", ".");
                if !keys.contains(&path) {
                    problems.at(file, line, format!("there is no key {path}"));
                }
            }
        }
    }
    assert!(found > 0, "docker-compose.yml sets nothing");
    problems.assert_none();
}

#[test]
fn documents_name_metrics_that_exist() {
    let metrics = metrics();
    let mut problems = Problems::default();
    for file in documents() {
        for (line, text) in quoted(&file) {
            let name = text.split('{').next().unwrap_or(text);
            let of_histogram = ["_bucket", "_count", "_sum"];
            let base = of_histogram.iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
            let is_metric = is_made_of(name, "")
                && ["outbox_", "events_"].iter().any(|begin| name.starts_with(begin));
            if is_metric && !metrics.contains(name) && !metrics.contains(base) {
                problems.at(&file, line, format!("there is no metric {name}"));
            }
        }
    }
    problems.assert_none();
}

/// Links between documents, and documents that the code refers to.
#[test]
fn documents_that_are_referred_to_exist() {
    let mut problems = Problems::default();
    for file in documents() {
        let (folder, _) = file.path.rsplit_once('/').unwrap_or_default();
        for (line, _, text) in with_fences(&file).filter(|(_, fence, _)| fence.is_none()) {
            for rest in text.split("](").skip(1) {
                let target = rest.split([')', '#']).next().unwrap_or_default();
                let is_here = !target.is_empty() && !target.contains("://");
                if is_here && !exists(&format!("{folder}/{target}")) && !exists(target) {
                    problems.at(&file, line, format!("there is no {target}"));
                }
            }
        }
    }
    let adrs = files(&["docs/adr"], ".md");
    for file in files(&["src", "tests", "benches", "dev", "Cargo.toml"], "") {
        for (line, text) in file.lines() {
            for rest in text.split("docs/").skip(1) {
                let end = rest.find(|letter: char| {
                    !letter.is_ascii_alphanumeric() && !"./-_".contains(letter)
                });
                let path =
                    format!("docs/{}", rest[..end.unwrap_or(rest.len())].trim_end_matches('.'));
                let is_adr = adrs.iter().any(|adr| adr.path.starts_with(&format!("{path}-")));
                if path != "docs/" && !is_adr && !exists(&path) {
                    problems.at(&file, line, format!("there is no {path}"));
                }
            }
        }
    }
    problems.assert_none();
}

/// What is shown is what a test runs.
#[test]
fn the_python_consumers_are_shown_as_they_are() {
    let shown = file("docs/CONSUMERS.md").expect("the document");
    let program = |name: &str| file(&format!("testdata/consumers/{name}.py")).expect(name).text;
    let programs = ["consumer", "redis_consumer", "nats_consumer"].map(program);
    let python = with_fences(&shown).filter(|(_, fence, _)| fence.as_deref() == Some("python"));
    let block: String = python.map(|(_, _, line)| format!("{line}\n")).collect();
    assert_eq!(block, programs.concat(), "docs/CONSUMERS.md shows another program");
}

#[test]
fn the_tables_are_shown_with_their_configurations() {
    let shown = file("docs/TABLES.md").expect("the document");
    let mut problems = Problems::default();
    for table in files(&["testdata/tables"], ".toml") {
        let lines = table.text.lines().skip_while(|line| line.starts_with('#'));
        let settings: String = lines.map(|line| format!("{line}\n")).collect();
        if !shown.text.contains(&format!("```toml\n{settings}```")) {
            problems.add(format!("{}: {} is not shown as it is", shown.path, table.path));
        }
    }
    problems.assert_none();
}

/// In these a test is named where a promise is made.
#[test]
fn documents_name_tests_that_exist() {
    let tests = tests();
    let mut problems = Problems::default();
    for path in [
        "docs/CONSUMERS.md",
        "docs/MIGRATING.md",
        "docs/RECORDS.md",
        "docs/SECURITY.md",
        "docs/SINKS.md",
        "docs/TABLES.md",
    ] {
        let file = file(path).expect("the document");
        for (line, name) in quoted(&file) {
            let is_name = is_made_of(name, "0123456789") && name.matches('_').count() > 2;
            // Names of metrics have a test of their own.
            if is_name && !name.starts_with("outbox_") && !tests.contains(name) {
                problems.at(&file, line, format!("there is no test {name}"));
            }
        }
    }
    problems.assert_none();
}
