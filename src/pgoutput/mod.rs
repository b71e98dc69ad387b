//! PostgreSQL's logical replication messages: bytes in, transactions out.
//!
//! Pure: no socket, no runtime, and no idea of what an outbox is. No input panics; what is not
//! understood is an error, because skipping it would lose events. Protocol version 1, text
//! values: rows of open transactions never reach us, and what we see is committed.

mod cursor;
mod message;
mod relation;
mod skim;
mod transaction;

pub use message::{Begin, Commit, Insert, Logical, Message, Tuple, decode};
pub use relation::{Column, Relation};
pub use skim::{Skim, leave_out_large};
pub use transaction::{Step, TransactionReader};

/// Microseconds from 1970-01-01 to 2000-01-01, where PostgreSQL starts to count.
pub const POSTGRES_EPOCH_MICROS: i64 = 946_684_800_000_000;

/// Bytes that are not what protocol version 1 sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The message ends before its last field.
    #[error("the message is cut short")]
    Truncated,
    /// The message goes on after its last field.
    #[error("the message has bytes after its last field")]
    TrailingBytes,
    /// A message that protocol version 1 does not have.
    #[error("unknown message {:?}", char::from(*.0))]
    UnknownMessage(u8),
    /// A value in a form that was not asked for.
    #[error("a value of unexpected kind {:?}", char::from(*.0))]
    UnexpectedValue(u8),
    /// A length below zero.
    #[error("a length of {0}")]
    NegativeLength(i32),
    /// A name that is not UTF-8.
    #[error("a name that is not UTF-8")]
    InvalidName,
    /// A message that cannot come where it came.
    #[error("{0} where it cannot come")]
    OutOfOrder(&'static str),
    /// More than 2³² outbox rows or messages in one transaction.
    #[error("more events in one transaction than can be counted")]
    TooManyRows,
}

/// Messages as a server sends them, for tests of everything that reads them.
#[cfg(test)]
pub(crate) mod encode {
    pub(crate) fn begin(final_lsn: u64, commit_time: i64, xid: u32) -> Vec<u8> {
        let mut out = vec![b'B'];
        out.extend(final_lsn.to_be_bytes());
        out.extend(commit_time.to_be_bytes());
        out.extend(xid.to_be_bytes());
        out
    }

    pub(crate) fn commit(commit_lsn: u64, end_lsn: u64, commit_time: i64) -> Vec<u8> {
        let mut out = vec![b'C', 0];
        out.extend(commit_lsn.to_be_bytes());
        out.extend(end_lsn.to_be_bytes());
        out.extend(commit_time.to_be_bytes());
        out
    }

    pub(crate) fn relation(
        oid: u32,
        namespace: &str,
        name: &str,
        columns: &[(&str, u32)],
    ) -> Vec<u8> {
        let mut out = vec![b'R'];
        out.extend(oid.to_be_bytes());
        for text in [namespace, name] {
            out.extend(text.as_bytes());
            out.push(0);
        }
        out.push(b'd');
        out.extend(u16::try_from(columns.len()).unwrap().to_be_bytes());
        for (name, type_oid) in columns {
            out.push(0);
            out.extend(name.as_bytes());
            out.push(0);
            out.extend(type_oid.to_be_bytes());
            out.extend((-1i32).to_be_bytes());
        }
        out
    }

    pub(crate) fn logical(is_transactional: bool, prefix: &[u8], content: &[u8]) -> Vec<u8> {
        let mut out = vec![b'M', u8::from(is_transactional)];
        out.extend(7u64.to_be_bytes());
        out.extend(prefix);
        out.push(0);
        out.extend(i32::try_from(content.len()).unwrap().to_be_bytes());
        out.extend(content);
        out
    }

    pub(crate) fn insert(relation: u32, values: &[Option<&[u8]>]) -> Vec<u8> {
        let mut out = vec![b'I'];
        out.extend(relation.to_be_bytes());
        out.push(b'N');
        out.extend(u16::try_from(values.len()).unwrap().to_be_bytes());
        for value in values {
            match value {
                None => out.push(b'n'),
                Some(bytes) => {
                    out.push(b't');
                    out.extend(i32::try_from(bytes.len()).unwrap().to_be_bytes());
                    out.extend(*bytes);
                }
            }
        }
        out
    }
}
