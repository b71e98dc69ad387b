//! The package: licences of what is linked in, versions that are named in several places.

use std::process::Command;

use crate::source::{Problems, file};

/// The licences that deny.toml allows, with their lines.
fn allowed() -> Vec<(usize, String)> {
    let deny = file("deny.toml").expect("deny.toml");
    let lines = deny.lines().skip_while(|(_, line)| *line != "allow = [").skip(1);
    let quoted = |line: &str| line.split('"').nth(1).map(str::to_owned);
    let licences = lines
        .take_while(|(_, line)| *line != "]")
        .filter_map(|(number, line)| Some((number, quoted(line)?)));
    licences.collect()
}

/// The name and licence of everything that is built, tests included.
fn dependencies() -> Vec<(String, String)> {
    let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--locked", "--filter-platform", &platform])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let text = |package: &serde_json::Value, member: &str| {
        package[member].as_str().unwrap_or_default().to_owned()
    };
    let packages = metadata["packages"].as_array().unwrap().iter();
    packages.map(|package| (text(package, "name"), text(package, "license"))).collect()
}

/// The words of a licence expression: parentheses, AND, OR, and names.
fn words(expression: &str) -> Vec<String> {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let spaced = spaced.replace(" WITH ", "+");
    spaced.split_whitespace().map(str::to_owned).collect()
}

/// Whether an expression holds: `any of` binds weaker than `all of`.
fn is_allowed(words: &mut std::slice::Iter<'_, String>, allowed: &[String]) -> bool {
    let (mut any, mut all) = (false, true);
    while let Some(word) = words.next() {
        match word.as_str() {
            "AND" => {}
            "OR" => (any, all) = (any || all, true),
            "(" => all &= is_allowed(words, allowed),
            ")" => break,
            name => all &= allowed.iter().any(|allowed| allowed == name),
        }
    }
    any || all
}

#[test]
fn a_licence_is_read_as_it_is_meant() {
    let allowed = ["MIT".to_owned(), "ISC".to_owned()];
    for (expression, expected) in [
        ("MIT", true),
        ("GPL-3.0", false),
        ("Apache-2.0 OR MIT", true),
        ("Apache-2.0/MIT", true),
        ("Apache-2.0 AND MIT", false),
        ("(Apache-2.0 OR MIT) AND ISC", true),
        ("ISC AND (Apache-2.0 OR GPL-3.0)", false),
        ("MIT WITH exception", false),
    ] {
        assert_eq!(is_allowed(&mut words(expression).iter(), &allowed), expected, "{expression}");
    }
}

#[test]
fn the_licence_of_every_dependency_is_allowed_and_every_allowed_one_occurs() {
    let (allowed, dependencies) = (allowed(), dependencies());
    let names: Vec<_> = allowed.iter().map(|(_, name)| name.clone()).collect();
    let mut problems = Problems::default();
    assert!(!names.is_empty() && dependencies.len() > 100);
    for (package, licence) in &dependencies {
        if licence.is_empty() || !is_allowed(&mut words(licence).iter(), &names) {
            problems.add(format!("Cargo.lock: {package} is under \"{licence}\""));
        }
    }
    for (line, name) in &allowed {
        if !dependencies.iter().any(|(_, licence)| words(licence).contains(name)) {
            problems.add(format!("deny.toml:{line}: nothing is under {name}"));
        }
    }
    problems.assert_none();
}

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
