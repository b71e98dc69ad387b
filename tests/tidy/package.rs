//! The package: what the library links, versions that are named in several places.

use std::process::Command;

use crate::source::{Problems, file};

/// What a service links that only writes events, or only consumes them: no relay, no librdkafka, no
/// runtime of its own.
#[test]
fn the_library_without_the_relay_is_small() {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--locked", "--no-default-features", "--edges=normal", "--prefix=none"])
        .args(["--format={p} {f}"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let tree = String::from_utf8(output.stdout).unwrap();
    let has = |name: &str| tree.lines().any(|line| line.split(' ').next() == Some(name));
    assert!(has("tokio-postgres") && has("serde_json"), "{tree}");
    for name in ["rdkafka", "rdkafka-sys", "axum", "hyper", "clap", "rustls", "tracing", "toml"] {
        assert!(!has(name), "{name} is part of {tree}");
    }
    let tokio = tree.lines().find(|line| line.starts_with("tokio v")).unwrap_or_default();
    for feature in ["rt", "net", "time", "macros"] {
        let is_on = tokio.split([' ', ',']).any(|word| word == feature);
        assert!(!is_on, "{feature} is part of {tokio}");
    }
}

/// Each version has one place that rules; the others must say the same.
#[test]
fn versions_agree() {
    let mut problems = Problems::default();
    let toolchain = file("rust-toolchain.toml").unwrap().text;
    let rust = toolchain.split("channel = \"").nth(1).and_then(|rest| rest.split('"').next());
    let rust = rust.expect("a channel");
    let minor = rust.rsplit_once('.').unwrap().0;
    let script = file("dev/lib/common.sh").unwrap().text;
    let kafka = script.split("KAFKA_VERSION:-").nth(1).and_then(|rest| rest.split('}').next());
    let kafka = kafka.expect("a version of Kafka");
    for (path, begins, expected) in [
        ("Dockerfile", "FROM rust:", format!("FROM rust:{rust}-")),
        ("Cargo.toml", "rust-version", format!("rust-version = \"{minor}\"")),
        ("docker-compose.yml", "image: apache/kafka", format!("image: apache/kafka:{kafka}")),
    ] {
        let file = file(path).unwrap_or_else(|| panic!("there is no {path}"));
        let is_meant = |line: &str| line.trim_start().starts_with(begins);
        let found: Vec<_> = file.lines().filter(|(_, line)| is_meant(line)).collect();
        assert!(!found.is_empty(), "{path}: no line begins with {begins:?}");
        for (number, line) in found {
            if !line.trim_start().starts_with(&expected) {
                problems.at(&file, number, format!("expected {expected}"));
            }
        }
    }
    problems.assert_none();
}
