//! The messages of pgoutput's protocol version 1, with the protocol's own field names.
//!
//! Reference: PostgreSQL documentation, "Logical Replication Message Formats". Payloads are not
//! copied: a [`Tuple`] borrows from the bytes that were received.

use super::cursor::Cursor;
use super::{DecodeError, Relation};
use crate::lsn::Lsn;

/// One message of the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message<'a> {
    /// A transaction begins; everything up to its `Commit` belongs to it.
    Begin(Begin),
    /// The transaction ends.
    Commit(Commit),
    /// The layout of a table, before its first row and after every change.
    Relation(Relation),
    /// A row was inserted.
    Insert(Insert<'a>),
    /// A logical message, which belongs to no table.
    Logical(Logical<'a>),
    /// Something that an insert-only consumer ignores: its tag.
    Ignored(u8),
}

/// Start of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Begin {
    /// Where the commit record *starts*: names the transaction, must never be confirmed.
    pub final_lsn: Lsn,
    /// When it was committed, in microseconds since 2000-01-01 UTC.
    pub commit_time: i64,
    /// The transaction's id, without its epoch.
    pub xid: u32,
}

/// End of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Commit {
    /// The same as in its `Begin`.
    pub commit_lsn: Lsn,
    /// Where the commit record *ends*: what may be confirmed once the transaction is settled.
    pub end_lsn: Lsn,
}

/// An inserted row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Insert<'a> {
    /// The table's OID (the root's, for a partitioned table published via its root).
    pub relation: u32,
    /// The row's values.
    pub tuple: Tuple<'a>,
}

/// What `pg_logical_emit_message` wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Logical<'a> {
    /// Whether it belongs to its transaction. One that does not comes even if that is rolled back.
    pub is_transactional: bool,
    /// Whom it is for. Of others' prefixes not even the encoding matters.
    pub prefix: &'a [u8],
    /// What it says.
    pub content: &'a [u8],
}

/// The values of a row, in the order of the [`Relation`]'s columns, still encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tuple<'a> {
    column_count: u16,
    data: &'a [u8],
}

impl<'a> Tuple<'a> {
    /// Reads every value into `out`, which is cleared first: `None` is SQL's null.
    ///
    /// # Errors
    /// Bytes that are not the values of a row, or values in a form that was not asked for.
    pub fn values(&self, out: &mut Vec<Option<&'a [u8]>>) -> Result<(), DecodeError> {
        out.clear();
        let mut cursor = Cursor::new(self.data);
        for _ in 0..self.column_count {
            out.push(match cursor.u8()? {
                b'n' => None,
                b't' => {
                    let len = cursor.len()?;
                    Some(cursor.bytes(len)?)
                }
                kind => return Err(DecodeError::UnexpectedValue(kind)),
            });
        }
        if cursor.is_empty() { Ok(()) } else { Err(DecodeError::TrailingBytes) }
    }
}

/// Decodes one message.
///
/// # Errors
/// Bytes that are not a message of protocol version 1. The stream cannot be followed any further:
/// skipping what is not understood would lose events.
pub fn decode(bytes: &[u8]) -> Result<Message<'_>, DecodeError> {
    let mut cursor = Cursor::new(bytes);
    let message = match cursor.u8()? {
        b'B' => Message::Begin(Begin {
            final_lsn: Lsn::from_wire(cursor.u64()?),
            commit_time: cursor.i64()?,
            xid: cursor.u32()?,
        }),
        b'C' => {
            let _flags = cursor.u8()?;
            let commit = Commit {
                commit_lsn: Lsn::from_wire(cursor.u64()?),
                end_lsn: Lsn::from_wire(cursor.u64()?),
            };
            let _commit_time = cursor.i64()?;
            Message::Commit(commit)
        }
        b'R' => Message::Relation(Relation::decode(&mut cursor)?),
        b'I' => {
            let relation = cursor.u32()?;
            match cursor.u8()? {
                b'N' => {}
                kind => return Err(DecodeError::UnexpectedValue(kind)),
            }
            let tuple = Tuple { column_count: cursor.u16()?, data: cursor.rest() };
            return Ok(Message::Insert(Insert { relation, tuple }));
        }
        b'M' => {
            let is_transactional = cursor.u8()? & 1 == 1;
            let _lsn = cursor.u64()?;
            let prefix = cursor.c_bytes()?;
            let len = cursor.len()?;
            let content = cursor.bytes(len)?;
            Message::Logical(Logical { is_transactional, prefix, content })
        }
        // Update, Delete, Truncate: a publication that was taken over may still publish them.
        // Origin, Type: nothing that an insert depends on.
        tag @ (b'U' | b'D' | b'T' | b'O' | b'Y') => return Ok(Message::Ignored(tag)),
        tag => return Err(DecodeError::UnknownMessage(tag)),
    };
    if cursor.is_empty() { Ok(message) } else { Err(DecodeError::TrailingBytes) }
}

#[cfg(test)]
mod tests {
    use super::super::encode;
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn begin_and_commit_carry_different_lsns() {
        let begin = encode::begin(0x90, 7, 42);
        assert_eq!(
            decode(&begin),
            Ok(Message::Begin(Begin { final_lsn: Lsn::from_wire(0x90), commit_time: 7, xid: 42 }))
        );
        let commit = encode::commit(0x90, 0xC0, 7);
        assert_eq!(
            decode(&commit),
            Ok(Message::Commit(Commit {
                commit_lsn: Lsn::from_wire(0x90),
                end_lsn: Lsn::from_wire(0xC0)
            }))
        );
    }

    #[test]
    fn insert_borrows_its_values() {
        let bytes = encode::insert(16384, &[Some(b"a".as_slice()), None, Some(b"")]);
        let Ok(Message::Insert(insert)) = decode(&bytes) else { panic!("not an insert") };
        let mut values = Vec::new();
        insert.tuple.values(&mut values).unwrap();
        assert_eq!(insert.relation, 16384);
        assert_eq!(values, [Some(b"a".as_slice()), None, Some(b"".as_slice())]);
    }

    #[test]
    fn a_logical_message_borrows_its_content() {
        for is_transactional in [true, false] {
            let bytes = encode::logical(is_transactional, b"orders", b"{\0}");
            let expected = Logical { is_transactional, prefix: b"orders", content: b"{\0}" };
            assert_eq!(decode(&bytes), Ok(Message::Logical(expected)));
        }
    }

    #[test]
    fn a_value_in_binary_or_unchanged_form_is_refused() {
        for kind in [b'b', b'u', b'x'] {
            let mut bytes = encode::insert(1, &[Some(b"a".as_slice())]);
            bytes[8] = kind;
            let Ok(Message::Insert(insert)) = decode(&bytes) else { panic!("not an insert") };
            let refused = insert.tuple.values(&mut Vec::new());
            assert_eq!(refused, Err(DecodeError::UnexpectedValue(kind)));
        }
    }

    #[test]
    fn an_unknown_message_is_never_skipped() {
        for tag in [b'S', b'E', b'c', b'A', b'b', b'P', b'K', b'r', b'p', 0, 255] {
            assert_eq!(decode(&[tag, 0, 0]), Err(DecodeError::UnknownMessage(tag)));
        }
    }

    #[test]
    fn every_prefix_of_a_message_is_an_error_not_a_message() {
        for whole in [
            encode::begin(1, 2, 3),
            encode::commit(1, 2, 3),
            encode::relation(1, "s", "t", &[("id", 2950), ("payload", 3802)]),
            encode::logical(true, b"prefix", b"content"),
        ] {
            assert!(decode(&whole).is_ok());
            for len in 0..whole.len() {
                assert!(decode(&whole[..len]).is_err(), "{len} bytes of {whole:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn no_input_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(Message::Insert(insert)) = decode(&bytes) {
                let _ = insert.tuple.values(&mut Vec::new());
            }
        }

        #[test]
        fn no_damaged_message_panics(
            values in proptest::collection::vec(
                proptest::option::of(proptest::collection::vec(any::<u8>(), 0..20)), 0..8),
            at in any::<proptest::sample::Index>(),
            with: u8,
        ) {
            let borrowed: Vec<_> = values.iter().map(|value| value.as_deref()).collect();
            let mut bytes = encode::insert(7, &borrowed);
            let at = at.index(bytes.len());
            bytes[at] = with;
            if let Ok(Message::Insert(insert)) = decode(&bytes) {
                let _ = insert.tuple.values(&mut Vec::new());
            }
        }

        #[test]
        fn no_damaged_logical_message_panics(
            content in proptest::collection::vec(any::<u8>(), 0..40),
            at in any::<proptest::sample::Index>(),
            with: u8,
        ) {
            let mut bytes = encode::logical(true, b"prefix", &content);
            let at = at.index(bytes.len());
            bytes[at] = with;
            let _ = decode(&bytes);
        }

        #[test]
        fn logical_messages_come_back_as_they_were_sent(
            is_transactional: bool,
            prefix in proptest::collection::vec(1u8.., 0..20),
            content in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            let bytes = encode::logical(is_transactional, &prefix, &content);
            let expected = Logical { is_transactional, prefix: &prefix, content: &content };
            prop_assert_eq!(decode(&bytes), Ok(Message::Logical(expected)));
        }

        #[test]
        fn rows_come_back_as_they_were_sent(
            values in proptest::collection::vec(
                proptest::option::of(proptest::collection::vec(any::<u8>(), 0..300)), 0..20),
        ) {
            let borrowed: Vec<_> = values.iter().map(|value| value.as_deref()).collect();
            let bytes = encode::insert(7, &borrowed);
            let Ok(Message::Insert(insert)) = decode(&bytes) else { panic!("not an insert") };
            let mut decoded = Vec::new();
            insert.tuple.values(&mut decoded).unwrap();
            prop_assert_eq!(decoded, borrowed);
        }
    }
}
