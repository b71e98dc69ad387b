//! What was built: the facts that `--version`, `outboxd version`, `/version` and the metrics tell alike.

use std::fmt::Write as _;

use crate::sink::librdkafka_version;

/// The version of this package.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The facts by their names, in the order in which they are shown. What could not be told is
/// "unknown".
pub fn facts() -> [(&'static str, String); 8] {
    [
        ("version", VERSION.to_owned()),
        ("commit", env!("OUTBOXD_BUILT_COMMIT").to_owned()),
        ("target", env!("OUTBOXD_BUILT_TARGET").to_owned()),
        ("profile", env!("OUTBOXD_BUILT_PROFILE").to_owned()),
        ("features", features(env!("OUTBOXD_BUILT_FEATURES"))),
        ("rust", env!("OUTBOXD_BUILT_RUST").to_owned()),
        ("librdkafka", librdkafka_version()),
        ("openssl", env!("OUTBOXD_BUILT_OPENSSL").to_owned()),
    ]
}

/// The version, and below it a line for each other fact.
pub fn text() -> String {
    let mut text = VERSION.to_owned();
    for (name, value) in facts().iter().skip(1) {
        // Writing to memory cannot fail.
        let _ = write!(text, "\n{name}: {value}");
    }
    text
}

/// The features that were chosen: that there is a default says nothing.
fn features(all: &str) -> String {
    let chosen: Vec<_> = all.split(',').filter(|name| *name != "default").collect();
    chosen.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fact_is_known_but_perhaps_the_commit() {
        for (name, value) in facts() {
            assert!(!value.is_empty(), "{name}");
            assert!(name == "commit" || value != "unknown", "{name}");
        }
        assert_eq!(text().lines().count(), facts().len());
    }

    #[test]
    fn that_there_is_a_default_is_no_feature() {
        assert_eq!(features("default,relay"), "relay");
        assert_eq!(features("default"), "");
    }
}
