//! The legal order of messages: `Begin`, rows, `Commit`, and commits in the order of their LSNs.
//!
//! Everything that follows relies on this order; a stream that breaks it is not one that we
//! understand, so it is an error and never repaired.

use super::{Begin, Commit, DecodeError, Insert, Logical, Message, Relation};
use crate::lsn::{Lsn, Position};

/// What a message means once it is known to be in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step<'a> {
    /// A transaction begins.
    Begin(Begin),
    /// A row of the transaction that is open.
    Insert(Insert<'a>),
    /// A message: of the transaction that is open, or of none.
    Logical(Logical<'a>),
    /// The open transaction ends.
    Commit(Commit),
    /// A table's layout, from here on.
    Relation(Relation),
    /// Nothing to act on.
    Ignored(u8),
}

/// Follows the order of messages over one connection.
#[derive(Debug, Default)]
pub struct TransactionReader {
    open: Option<Begin>,
    last_commit: Lsn,
    /// Events of the open transaction so far.
    index: u32,
}

impl TransactionReader {
    /// Whether a transaction is open: nothing may be confirmed past its rows' commit.
    pub fn in_transaction(&self) -> bool {
        self.open.is_some()
    }

    /// Takes the next message.
    ///
    /// # Errors
    /// A message that cannot come here.
    pub fn step<'a>(&mut self, message: Message<'a>) -> Result<Step<'a>, DecodeError> {
        match message {
            Message::Begin(begin) => {
                if self.open.is_some() || begin.final_lsn <= self.last_commit {
                    return Err(DecodeError::OutOfOrder("Begin"));
                }
                self.open = Some(begin);
                self.last_commit = begin.final_lsn;
                self.index = 0;
                Ok(Step::Begin(begin))
            }
            Message::Commit(commit) => {
                let begin = self.open.take().ok_or(DecodeError::OutOfOrder("Commit"))?;
                if commit.commit_lsn != begin.final_lsn || commit.end_lsn <= commit.commit_lsn {
                    return Err(DecodeError::OutOfOrder("Commit"));
                }
                Ok(Step::Commit(commit))
            }
            Message::Insert(_) if self.open.is_none() => Err(DecodeError::OutOfOrder("Insert")),
            Message::Insert(insert) => Ok(Step::Insert(insert)),
            Message::Logical(logical) if logical.is_transactional && self.open.is_none() => {
                Err(DecodeError::OutOfOrder("Message"))
            }
            Message::Logical(logical) => Ok(Step::Logical(logical)),
            Message::Relation(relation) => Ok(Step::Relation(relation)),
            Message::Ignored(tag) => Ok(Step::Ignored(tag)),
        }
    }

    /// The position of the next event of the open transaction. Each call counts one, so it is
    /// called for every inserted row of the outbox, published or not, or for every transactional
    /// message, whatever its prefix: only then does a second reading give the same positions.
    ///
    /// # Errors
    /// No transaction is open, or it has more of them than can be counted.
    pub fn next_position(&mut self) -> Result<Position, DecodeError> {
        let begin = self.open.ok_or(DecodeError::OutOfOrder("Insert"))?;
        let position = Position { commit: begin.final_lsn, index: self.index };
        self.index = self.index.checked_add(1).ok_or(DecodeError::TooManyRows)?;
        Ok(position)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{decode, encode};
    use super::*;

    fn feed(reader: &mut TransactionReader, bytes: &[u8]) -> Result<(), DecodeError> {
        reader.step(decode(bytes).unwrap()).map(|_| ())
    }

    #[test]
    fn a_transaction_is_begin_rows_commit() {
        let mut reader = TransactionReader::default();
        feed(&mut reader, &encode::begin(0x10, 0, 1)).unwrap();
        assert!(reader.in_transaction());
        feed(&mut reader, &encode::relation(5, "public", "outbox", &[("id", 2950)])).unwrap();
        for index in 0..3 {
            feed(&mut reader, &encode::insert(5, &[Some(b"x".as_slice())])).unwrap();
            let expected = Position { commit: Lsn::from_wire(0x10), index };
            assert_eq!(reader.next_position(), Ok(expected));
        }
        feed(&mut reader, &encode::commit(0x10, 0x20, 0)).unwrap();
        assert!(!reader.in_transaction());
        feed(&mut reader, &encode::begin(0x20, 0, 2)).unwrap();
        let first = Position { commit: Lsn::from_wire(0x20), index: 0 };
        assert_eq!(reader.next_position(), Ok(first), "counting starts anew");
    }

    #[test]
    fn a_commit_may_end_where_the_next_begins() {
        let mut reader = TransactionReader::default();
        feed(&mut reader, &encode::begin(0x10, 0, 1)).unwrap();
        feed(&mut reader, &encode::commit(0x10, 0x20, 0)).unwrap();
        feed(&mut reader, &encode::begin(0x20, 0, 1)).unwrap();
    }

    #[test]
    fn a_message_that_belongs_to_no_transaction_may_come_anywhere() {
        let mut reader = TransactionReader::default();
        let message = encode::logical(false, b"p", b"{}");
        feed(&mut reader, &message).unwrap();
        feed(&mut reader, &encode::begin(0x10, 0, 1)).unwrap();
        feed(&mut reader, &message).unwrap();
        feed(&mut reader, &encode::logical(true, b"p", b"{}")).unwrap();
    }

    #[test]
    fn every_other_order_is_refused() {
        let insert = encode::insert(5, &[]);
        let cases: [(&str, Vec<Vec<u8>>); 8] = [
            ("rows without a transaction", vec![insert.clone()]),
            ("its messages without a transaction", vec![encode::logical(true, b"p", b"{}")]),
            ("a commit without a transaction", vec![encode::commit(1, 2, 0)]),
            ("a transaction inside another", vec![encode::begin(1, 0, 1), encode::begin(2, 0, 2)]),
            ("another transaction's commit", vec![encode::begin(1, 0, 1), encode::commit(2, 3, 0)]),
            ("a commit that ends before it starts", {
                vec![encode::begin(5, 0, 1), encode::commit(5, 5, 0)]
            }),
            ("a commit that was there before", {
                vec![encode::begin(5, 0, 1), encode::commit(5, 6, 0), encode::begin(5, 0, 2)]
            }),
            ("commits that go back", {
                vec![encode::begin(5, 0, 1), encode::commit(5, 6, 0), encode::begin(4, 0, 2)]
            }),
        ];
        for (what, messages) in cases {
            let mut reader = TransactionReader::default();
            let (last, before) = messages.split_last().unwrap();
            for message in before {
                feed(&mut reader, message).unwrap();
            }
            assert!(
                matches!(feed(&mut reader, last), Err(DecodeError::OutOfOrder(_))),
                "{what} was accepted"
            );
        }
    }
}
