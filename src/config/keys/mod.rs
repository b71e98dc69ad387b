//! Every key of the configuration: its name, what it takes, its default, what it does.
//!
//! The one place for defaults. `outboxd init`, `outboxd config show` and the checks against
//! misspelt keys all come from these tables.

mod flow;
mod records;
mod sink;
mod source;

use super::key::Key;

const MIB: u64 = 1024 * 1024;

/// All keys, in the order in which `outboxd init` writes them.
pub(super) fn keys() -> impl Iterator<Item = &'static Key> {
    [source::KEYS, records::KEYS, sink::KEYS, flow::KEYS].into_iter().flatten()
}

/// The key of that name.
pub(super) fn by_path(path: &str) -> Option<&'static Key> {
    keys().find(|key| key.path == path)
}

/// Whether `path` names a section.
pub(super) fn is_section(path: &str) -> bool {
    keys().any(|key| key.path.strip_prefix(path).is_some_and(|rest| rest.starts_with('.')))
}

/// The key or section that someone who wrote `path` may have meant.
pub(super) fn suggestion(path: &str) -> Option<&'static str> {
    let sections = keys().filter_map(|key| key.path.rsplit_once('.').map(|(section, _)| section));
    let candidates = keys().map(|key| key.path).chain(sections);
    let leaf = |path: &'static str| path.rsplit_once('.').map_or(path, |(_, leaf)| leaf);
    let asked = path.rsplit_once('.').map_or(path, |(_, leaf)| leaf);
    let score = |candidate: &'static str| {
        // The right name in the wrong section is as good as a misspelt one in the right section.
        let by_leaf = if leaf(candidate) == asked { 0.9 } else { 0.0 };
        strsim::jaro_winkler(path, candidate).max(by_leaf)
    };
    let best = candidates.max_by(|a, b| score(a).total_cmp(&score(b)))?;
    (score(best) > 0.8).then_some(best)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_described_once_and_has_a_default_that_can_be_read() {
        for key in keys() {
            assert!(key.doc.ends_with('.') && key.doc.len() > 10, "{}", key.path);
            assert_eq!(keys().filter(|other| other.path == key.path).count(), 1);
            if !key.default.is_empty() {
                let line = format!("key = {}", key.default);
                assert!(line.parse::<toml::Table>().is_ok(), "{line}");
            }
        }
    }

    #[test]
    fn misspelt_and_misplaced_keys_are_recognised() {
        assert_eq!(suggestion("kafka.bootstrap_server"), Some("kafka.bootstrap_servers"));
        assert_eq!(suggestion("relay.shutdown_grce"), Some("relay.shutdown_grace"));
        assert_eq!(suggestion("outbox.mode"), Some("outbox.status.mode"));
        assert_eq!(suggestion("postgress"), Some("postgres"));
        assert_eq!(suggestion("xyzzy"), None);
    }
}
