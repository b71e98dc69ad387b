//! Names and text in SQL statements, besides a table's name (`names`).

/// Text as SQL takes it whatever it contains and whatever the server's settings are.
pub(crate) fn quote_literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    if quoted.contains('\\') {
        format!("E'{}'", quoted.replace('\\', "\\\\"))
    } else {
        format!("'{quoted}'")
    }
}

/// Whether PostgreSQL takes `name` for a replication slot.
pub(crate) fn is_slot_name(name: &str) -> bool {
    (1..=63).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_survive_backslashes() {
        assert_eq!(quote_literal("it's"), "'it''s'");
        assert_eq!(quote_literal("a\\'b"), "E'a\\\\''b'");
    }

    #[test]
    fn slot_names_are_postgresqls() {
        assert!(is_slot_name("outboxd_1"));
        for bad in ["", "Outboxd", "a-b", "a.b", &"x".repeat(64)] {
            assert!(!is_slot_name(bad), "{bad}");
        }
    }
}
