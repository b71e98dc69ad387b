//! What a key of the configuration is.

/// What a key takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Text.
    Text,
    /// Text that is never shown.
    Secret,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// `true` or `false`.
    Boolean,
    /// A number from 0 to 1.
    Fraction,
    /// A number, from the first to the last.
    Number(i64, i64),
    /// A time with its unit, as in "200ms", "25s", "5m".
    Duration,
    /// A size with its unit, as in "64MiB", from the first to the last number of bytes.
    Size(u64, u64),
    /// Texts.
    List,
    /// Names with values.
    Table,
    /// A column, `{ payload = "/pointer" }` or `{ const = "…" }`, each with an optional `default`.
    Field,
}

/// A key.
#[derive(Debug, Clone, Copy)]
pub(super) struct Key {
    /// Its name with its sections, as in `relay.id`.
    pub(super) path: &'static str,
    pub(super) kind: Kind,
    /// Its default as TOML writes it; empty if it has none.
    pub(super) default: &'static str,
    /// What it does.
    pub(super) doc: &'static str,
}

/// A line of the table.
pub(super) const fn key(
    path: &'static str,
    kind: Kind,
    default: &'static str,
    doc: &'static str,
) -> Key {
    Key { path, kind, default, doc }
}
