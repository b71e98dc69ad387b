//! Who may know whom. Arrows point down; docs/ARCHITECTURE.md tells why.

use crate::source::{File, Problems, mentions, product};

/// What each module may import, from the bottom up.
const LAYERS: [(&str, &[&str]); 17] = [
    // Words.
    ("certificates", &[]),
    ("failpoint", &[]),
    ("failure", &[]),
    ("lsn", &[]),
    ("metrics", &[]),
    ("names", &[]),
    ("shutdown", &[]),
    // Pure: no input, no output, no clock.
    ("retry", &[]),
    ("pgoutput", &["lsn"]),
    ("outbox", &["lsn", "names", "pgoutput"]),
    ("ack", &["lsn"]),
    // Edges.
    ("postgres", &["certificates", "lsn", "names", "outbox", "pgoutput"]),
    ("sink", &["ack", "certificates", "lsn", "names", "outbox", "retry"]),
    ("status", &["ack", "failpoint", "failure", "lsn", "outbox", "postgres", "sink"]),
    // For services: nothing of the relay, which they may leave out.
    ("inbox", &[]),
    ("writer", &["names"]),
    // Verbs.
    (
        "relay",
        &[
            "ack",
            "failpoint",
            "failure",
            "lsn",
            "metrics",
            "outbox",
            "pgoutput",
            "postgres",
            "retry",
            "shutdown",
            "sink",
            "status",
        ],
    ),
];

/// The shell: may import anything, and nothing below imports it.
const SHELL: [&str; 10] = [
    "admin",
    "built",
    "cli",
    "config",
    "demo",
    "embed",
    "import",
    "migrations",
    "operate",
    "terminal",
];

/// Modules that hold the hard thinking, and no more: they run without a database, a broker, a
/// runtime or a clock.
const PURE: [&str; 7] = ["ack", "failure", "lsn", "names", "outbox", "pgoutput", "retry"];

/// What reaches out of a pure module.
const IMPURE: [&str; 18] = [
    "Instant",
    "SystemTime",
    "axum",
    "fastrand",
    "hyper",
    "metrics",
    "nix",
    "pgwire_replication",
    "postgres_protocol",
    "rdkafka",
    "std::env",
    "std::fs",
    "std::net",
    "std::process",
    "std::thread",
    "tokio",
    "tokio_postgres",
    "tracing",
];

/// The only modules that know these crates, or ask these questions.
const OWNERS: [(&str, &[&str]); 11] = [
    ("anyhow", &[]),
    ("async_nats", &["sink"]),
    ("axum", &["admin"]),
    ("clap", &["cli", "demo"]),
    ("pgwire_replication", &["postgres"]),
    ("postgres_protocol", &["postgres"]),
    ("rdkafka", &["demo", "sink"]),
    ("std::env", &["config", "demo", "failpoint"]),
    ("std::process::exit", &[]),
    ("tokio_rustls", &["certificates", "postgres"]),
    ("tokio_postgres", &["demo", "inbox", "operate", "postgres", "relay", "status", "writer"]),
];

/// The module that a file belongs to; none for the two roots.
fn module(file: &File) -> Option<&str> {
    let path = file.path.strip_prefix("src/")?;
    let module = path.split('/').next()?.trim_end_matches(".rs");
    (!matches!(module, "lib" | "main")).then_some(module)
}

#[test]
fn modules_import_only_what_lies_below_them() {
    let mut problems = Problems::default();
    for file in product() {
        let Some(module) = module(&file) else { continue };
        if SHELL.contains(&module) {
            continue;
        }
        let Some((_, allowed)) = LAYERS.iter().find(|(name, _)| *name == module) else {
            problems.at(&file, 1, format!("give the module {module} its place in LAYERS"));
            continue;
        };
        for (number, line) in file.product_lines() {
            for (_, rest) in
                line.match_indices("crate::").map(|(at, it)| line.split_at(at + it.len()))
            {
                let end = rest.find(|letter: char| !letter.is_alphanumeric() && letter != '_');
                let name = &rest[..end.unwrap_or(rest.len())];
                if name != module && !allowed.contains(&name) {
                    problems.at(&file, number, format!("{module} may not import \"{name}\""));
                }
            }
        }
    }
    problems.assert_none();
}

#[test]
fn pure_modules_reach_for_nothing_outside() {
    let mut problems = Problems::default();
    let mut seen = Vec::new();
    for file in product() {
        let Some(module) = module(&file).filter(|module| PURE.contains(module)) else { continue };
        for (number, line) in file.product_lines() {
            for name in IMPURE.iter().filter(|name| mentions(line, name)) {
                problems.at(&file, number, format!("{module} is pure and knows no {name}"));
            }
        }
        seen.push(module.to_owned());
    }
    for module in PURE.iter().filter(|module| !seen.iter().any(|seen| seen == *module)) {
        problems.add(format!("there is no module {module}"));
    }
    problems.assert_none();
}

#[test]
fn a_crate_is_known_to_its_owners_only() {
    let mut problems = Problems::default();
    for file in product() {
        let Some(module) = module(&file) else { continue };
        for (number, line) in file.product_lines() {
            for (name, owners) in OWNERS.iter().filter(|(name, _)| mentions(line, name)) {
                if !owners.contains(&module) {
                    problems.at(&file, number, format!("{name} belongs to {owners:?}"));
                }
            }
        }
    }
    problems.assert_none();
}
