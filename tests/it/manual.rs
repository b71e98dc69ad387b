//! The manual: a page for every command, which the formatter takes without a complaint.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::deploy::read;
use crate::support::relay::RelayOptions;

/// The page as a terminal shows it, without emphasis; and what the formatter complains about.
fn formatted(path: &Path) -> (String, String) {
    let mut groff = Command::new("groff");
    groff.args(["-man", "-ww", "-Kutf8", "-Tutf8", "-P-cbou"]).arg(path).stdin(Stdio::null());
    let output = groff.output().expect("groff: run the tests with dev/test, which installs it");
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (text(output.stdout), text(output.stderr))
}

/// The commands below one, as its help names them.
fn below(words: &[&str]) -> Vec<String> {
    let (_, help, _) = RelayOptions::bare().command_output(&[words, &["--help"]].concat());
    let lines = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let lines = lines.take_while(|line| !line.is_empty());
    // What a command does may be continued on a line of its own, further in.
    let names = lines.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    names.filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

#[test]
fn every_command_has_a_page_that_the_formatter_takes() {
    let directory = tempfile::tempdir().unwrap();
    let pages = directory.path().join("man1");
    let (code, _, said) =
        RelayOptions::bare().command_output(&["man", "--output", pages.to_str().unwrap()]);
    assert_eq!((code, said.as_str()), (0, ""));
    let mut expected = BTreeSet::from(["outboxd.1".to_owned()]);
    for command in below(&[]) {
        expected
            .extend(below(&[&command]).iter().map(|deep| format!("outboxd-{command}-{deep}.1")));
        expected.insert(format!("outboxd-{command}.1"));
    }
    let entries = std::fs::read_dir(&pages).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert_eq!(names.collect::<BTreeSet<_>>(), expected);
    assert!(expected.len() > 30, "{expected:?}");

    for name in expected {
        let (text, complaints) = formatted(&pages.join(&name));
        assert_eq!(complaints, "", "{name}");
        for section in ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS"] {
            assert!(text.lines().any(|line| line == section), "{name} has no {section}:\n{text}");
        }
        assert!(text.contains(&name.replace(".1", "(1)")), "{name}:\n{text}");
    }
}

/// The first page tells what the others do not: the end of a command, the environment, the files.
#[test]
fn the_first_page_tells_every_exit_code() {
    let (code, page, said) = RelayOptions::bare().command_output(&["man"]);
    assert_eq!((code, said.as_str()), (0, ""));
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("outboxd.1");
    std::fs::write(&path, &page).unwrap();
    let (text, complaints) = formatted(&path);
    assert_eq!(complaints, "");
    let told =
        text.split("\nEXIT STATUS\n").nth(1).unwrap().split("\nENVIRONMENT\n").next().unwrap();
    let told: Vec<_> = told.lines().filter_map(|line| line.split_whitespace().next()).collect();
    let operating = read("docs/OPERATING.md");
    let table = operating.split("| Exit code | Means |").nth(1).unwrap();
    let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    let codes: Vec<_> = rows.map(|row| row.split('|').nth(1).unwrap().trim()).collect();
    assert!(codes.len() > 7, "{codes:?}");
    for code in codes {
        assert!(told.contains(&code), "{code} is not in {told:?}");
    }
    for name in ["OUTBOXD_CONFIG", "OUTBOXD__SECTION__KEY", "DATABASE_URL", "./outboxd.toml"] {
        assert!(text.contains(name), "{name} is not in the page");
    }
}
