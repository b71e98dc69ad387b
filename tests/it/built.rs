//! What was built: told alike by every way to ask.

use std::collections::BTreeMap;
use std::process::Command;

use crate::support::relay::RelayOptions;
use crate::support::small::Small;

type Facts = BTreeMap<String, String>;

/// `name: value` in each line after the first.
fn of_text(text: &str) -> Facts {
    let (first, rest) = text.split_once('\n').unwrap();
    let version = first.strip_prefix("outboxd ").expect("the program's name");
    let split = |line: &str| {
        let (name, value) = line.split_once(": ").unwrap();
        (name.to_owned(), value.to_owned())
    };
    rest.lines().map(split).chain([("version".to_owned(), version.to_owned())]).collect()
}

/// The labels of a series.
fn of_metrics(page: &str) -> Facts {
    let line = page.lines().find_map(|line| line.strip_prefix("outbox_build_info{")).unwrap();
    let labels = line.strip_suffix("\"} 1").unwrap();
    let split = |label: &str| {
        let (name, value) = label.split_once("=\"").unwrap();
        (name.to_owned(), value.to_owned())
    };
    labels.split("\",").map(split).collect()
}

#[tokio::test]
async fn every_way_to_ask_tells_the_same_facts() {
    let bare = RelayOptions::bare();
    let ask = |arguments: &[&str]| {
        let (code, out, said) = bare.command_output(arguments);
        assert_eq!((code, said.as_str()), (0, ""), "{arguments:?}");
        out
    };
    let facts = of_text(&ask(&["--version"]));
    assert_eq!(facts["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(facts["target"].split('-').next(), Some(std::env::consts::ARCH));
    assert_eq!(facts["profile"], if cfg!(debug_assertions) { "debug" } else { "release" });
    let mut features: Vec<_> = facts["features"].split(',').collect();
    features.sort_unstable();
    assert_eq!(features, ["nats", "redis", "relay"]);
    for name in ["rust", "librdkafka", "openssl"] {
        assert!(facts[name].split('.').count() == 3, "{name}: {facts:?}");
    }
    let commit = facts["commit"].strip_suffix("-dirty").unwrap_or(&facts["commit"]);
    let is_commit = commit.len() == 12 && commit.chars().all(|digit| digit.is_ascii_hexdigit());
    assert!(is_commit || commit == "unknown", "{commit}");
    if !cfg!(debug_assertions) && std::path::Path::new(".git").exists() {
        let git = Command::new("git").args(["rev-parse", "--short=12", "HEAD"]).output();
        let head = git.ok().filter(|output| output.status.success());
        let head = head.map(|output| String::from_utf8(output.stdout).unwrap());
        assert!(head.is_none_or(|head| head.trim() == commit), "it was built of {commit}");
    }

    assert_eq!(ask(&["-V"]), format!("outboxd {}\n", env!("CARGO_PKG_VERSION")));
    assert_eq!(of_text(&ask(&["version"])), facts);
    let document: Facts = serde_json::from_str(&ask(&["version", "-o", "json"])).unwrap();
    assert_eq!(document, facts);

    let small = Small::new("built").await;
    let relay = small.options().start_ready().await;
    let mut page: Facts = serde_json::from_str(&relay.get("/version").await.1).unwrap();
    assert_eq!(page.remove("name").as_deref(), Some("outboxd"));
    assert_eq!(page, facts);
    assert_eq!(of_metrics(&relay.get("/metrics").await.1), facts);
    assert_eq!(relay.stop().await, 0);
    small.clear().await;
}
