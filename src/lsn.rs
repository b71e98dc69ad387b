//! Positions in PostgreSQL's write-ahead log.
//!
//! Two things are easily confused, and mixing them up loses events: *where a commit record starts*
//! (`Begin` tells it, it names the transaction) and *where it ends* (`Commit` tells it, it is what
//! may be confirmed). Rows have LSNs too, but these are not in commit order: a transaction that
//! wrote first can commit last. So an event's [`Position`] is made of its commit and its place in
//! that commit, and nothing here compares row LSNs.

use std::fmt;
use std::str::FromStr;

/// A byte position in the WAL, written `16/B374D848`.
///
/// There is no arithmetic on it: a position is only ever one that the server told us.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(u64);

impl Lsn {
    /// `0/0`: no position.
    pub const INVALID: Lsn = Lsn(0);

    /// A position as the replication protocol carries it.
    pub const fn from_wire(value: u64) -> Self {
        Self(value)
    }

    /// The position as the replication protocol carries it.
    pub const fn to_wire(self) -> u64 {
        self.0
    }

    /// Whether this is a position at all.
    pub const fn is_valid(self) -> bool {
        self.0 != 0
    }

    /// Bytes of WAL from `earlier` to here; 0 if `earlier` is not earlier.
    pub const fn bytes_since(self, earlier: Lsn) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl fmt::Debug for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Text that is not an LSN.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an LSN: {0:?}; expected two hexadecimal numbers, as in 16/B374D848")]
pub struct ParseLsnError(String);

impl FromStr for Lsn {
    type Err = ParseLsnError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let half = |digits: &str| {
            let plain = (1..=8).contains(&digits.len())
                && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
            plain.then(|| u64::from_str_radix(digits, 16).ok()).flatten()
        };
        text.split_once('/')
            .and_then(|(high, low)| Some(Self(half(high)? << 32 | half(low)?)))
            .ok_or_else(|| ParseLsnError(text.to_owned()))
    }
}

/// Where an event stands in the order of commits: its transaction, and its place among the rows
/// that the transaction inserted into the outbox.
///
/// Known as soon as the row is read. Two runs over the same slot give an event the same position,
/// which is what lets a restart skip what was settled before.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Position {
    /// Where the commit record starts, as `Begin` tells it.
    pub commit: Lsn,
    /// The event's place among the transaction's inserts, from 0.
    pub index: u32,
}

impl Position {
    /// Before every event: nothing was settled yet.
    pub const ORIGIN: Position = Position { commit: Lsn::INVALID, index: 0 };

    /// Itself, if it is a place in the stream.
    pub fn known(self) -> Option<Self> {
        self.commit.is_valid().then_some(self)
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.commit, self.index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn text_form_is_postgresqls() {
        assert_eq!(Lsn::from_wire(0x16_B374_D848).to_string(), "16/B374D848");
        assert_eq!(Lsn::from_wire(0xFF).to_string(), "0/FF");
        assert_eq!("16/b374d848".parse(), Ok(Lsn::from_wire(0x16_B374_D848)));
    }

    #[test]
    fn malformed_text_is_refused() {
        for text in ["", "/", "0", "0/", "/0", "0/1/2", "g/0", "0/ 1", "+0/1", "123456789/0"] {
            assert!(text.parse::<Lsn>().is_err(), "{text:?} was taken for an LSN");
        }
    }

    #[test]
    fn order_is_numeric_not_textual() {
        let lsn = |text: &str| text.parse::<Lsn>().unwrap();
        assert!(lsn("0/FFFFFFFF") < lsn("1/0"), "at the 4 GiB boundary");
        assert!(lsn("9/0") < lsn("10/0"), "more digits is more");
    }

    proptest! {
        #[test]
        fn text_and_number_agree_on_order(a: u64, b: u64) {
            let (x, y) = (Lsn::from_wire(a), Lsn::from_wire(b));
            prop_assert_eq!(x.cmp(&y), a.cmp(&b));
            prop_assert_eq!(x.to_string().parse::<Lsn>().unwrap(), x);
            prop_assert_eq!(x.bytes_since(y), a.saturating_sub(b));
        }

        #[test]
        fn positions_order_by_commit_first(a: (u64, u32), b: (u64, u32)) {
            let position = |(commit, index)| Position { commit: Lsn::from_wire(commit), index };
            prop_assert_eq!(position(a).cmp(&position(b)), a.cmp(&b));
        }
    }
}
