//! A row that is too large to be kept: read piece by piece, its large values left out.
//!
//! What tells the event and its place in the order is small, wherever it stands in the row; so the
//! row that comes out has every column, with null for the values that were left out. A logical
//! message is one value: what comes out says whose it is, and has no content.

use super::DecodeError;

/// Values up to this are always kept: among them is what a row's status and id are told by.
const SMALL_VALUE: usize = 1024;
/// Larger values are kept as long as they do not come to more than this.
const LARGE_VALUES: usize = 64 * 1024;

/// Reads one message in pieces.
#[derive(Debug)]
pub struct Skim {
    kept: Kept,
    /// What comes next.
    next: Next,
    message: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// Tag, table, and the number of columns.
    Head,
    /// That many columns.
    Columns(u16),
    /// The rest of a value, and that many columns.
    Value { left: usize, is_kept: bool, columns: u16 },
    /// The prefix of a logical message, of which so much was kept.
    Prefix { kept: usize },
    /// How long its content is.
    Length,
    /// That much of its content.
    Content(usize),
    /// Nothing that matters: the message is neither.
    Anything,
}

/// Decides which values are kept.
#[derive(Debug, Default)]
struct Kept {
    large: usize,
}

impl Kept {
    fn keeps(&mut self, len: usize) -> bool {
        if len <= SMALL_VALUE {
            return true;
        }
        let fits = len <= LARGE_VALUES - self.large;
        if fits {
            self.large += len;
        }
        fits
    }
}

/// The same for a row that is there whole.
pub fn leave_out_large(values: &mut [Option<&[u8]>]) {
    let mut kept = Kept::default();
    for value in values {
        *value = value.filter(|bytes| kept.keeps(bytes.len()));
    }
}

impl Default for Skim {
    fn default() -> Self {
        Self { kept: Kept::default(), next: Next::Head, message: Vec::new() }
    }
}

impl Skim {
    /// Takes what there is of the message from where it was left. Gives how many bytes were taken;
    /// the others, few, have to be there again with those that follow.
    ///
    /// # Errors
    /// Bytes that are not a row, where the message is one.
    pub fn take(&mut self, mut bytes: &[u8]) -> Result<usize, DecodeError> {
        let given = bytes.len();
        while !bytes.is_empty() {
            bytes = match self.next {
                Next::Anything => &[],
                Next::Prefix { kept } => self.prefix(bytes, kept),
                Next::Length => match self.length(bytes)? {
                    Some(rest) => rest,
                    None => break,
                },
                Next::Content(left) => {
                    let passed = left.min(bytes.len());
                    self.next = Next::Content(left - passed);
                    match bytes.get(passed..) {
                        Some(rest) if passed > 0 => rest,
                        _ => return Err(DecodeError::TrailingBytes),
                    }
                }
                Next::Head => match self.head(bytes)? {
                    Some(rest) => rest,
                    None => break,
                },
                Next::Columns(columns) => match self.column(bytes, columns)? {
                    Some(rest) => rest,
                    None => break,
                },
                Next::Value { left, is_kept, columns } => {
                    let (value, rest) = bytes.split_at(left.min(bytes.len()));
                    if is_kept {
                        self.message.extend_from_slice(value);
                    }
                    self.next = match left - value.len() {
                        0 => Next::Columns(columns),
                        left => Next::Value { left, is_kept, columns },
                    };
                    rest
                }
            };
        }
        Ok(given - bytes.len())
    }

    fn head<'b>(&mut self, bytes: &'b [u8]) -> Result<Option<&'b [u8]>, DecodeError> {
        match bytes.first() {
            Some(b'I') => {}
            // Its tag, its flags and where it was written.
            Some(b'M') => {
                let head = bytes.split_first_chunk::<10>();
                return Ok(head.map(|(head, rest)| {
                    self.message.extend_from_slice(head);
                    self.next = Next::Prefix { kept: 0 };
                    rest
                }));
            }
            tag => {
                self.message.extend(tag);
                self.next = Next::Anything;
                return Ok(Some(bytes));
            }
        }
        let Some((head, rest)) = bytes.split_first_chunk::<8>() else {
            return Ok(None);
        };
        let [.., kind, high, low] = *head;
        if kind != b'N' {
            return Err(DecodeError::UnexpectedValue(kind));
        }
        self.message.extend_from_slice(head);
        self.next = Next::Columns(u16::from_be_bytes([high, low]));
        Ok(Some(rest))
    }

    /// Keeps so much of a prefix that no other is taken for it.
    fn prefix<'b>(&mut self, bytes: &'b [u8], kept: usize) -> &'b [u8] {
        let end = bytes.iter().position(|byte| *byte == 0);
        let (prefix, rest) = bytes.split_at(end.unwrap_or(bytes.len()));
        let keep = prefix.len().min(SMALL_VALUE.saturating_sub(kept));
        self.message.extend(prefix.iter().take(keep));
        match rest.split_first() {
            Some((end, rest)) => {
                self.message.push(*end);
                self.next = Next::Length;
                rest
            }
            None => {
                self.next = Next::Prefix { kept: kept + keep };
                rest
            }
        }
    }

    fn length<'b>(&mut self, bytes: &'b [u8]) -> Result<Option<&'b [u8]>, DecodeError> {
        let Some((length, rest)) = bytes.split_first_chunk::<4>() else {
            return Ok(None);
        };
        let length = i32::from_be_bytes(*length);
        let left = usize::try_from(length).map_err(|_| DecodeError::NegativeLength(length))?;
        self.message.extend_from_slice(&[0; 4]);
        self.next = Next::Content(left);
        Ok(Some(rest))
    }

    fn column<'b>(
        &mut self,
        bytes: &'b [u8],
        columns: u16,
    ) -> Result<Option<&'b [u8]>, DecodeError> {
        let columns = columns.checked_sub(1).ok_or(DecodeError::TrailingBytes)?;
        match bytes {
            [b'n', rest @ ..] => {
                self.message.push(b'n');
                self.next = Next::Columns(columns);
                Ok(Some(rest))
            }
            [b't', a, b, c, d, rest @ ..] => {
                let length = i32::from_be_bytes([*a, *b, *c, *d]);
                let left =
                    usize::try_from(length).map_err(|_| DecodeError::NegativeLength(length))?;
                let is_kept = self.kept.keeps(left);
                if is_kept {
                    self.message.extend_from_slice(&[b't', *a, *b, *c, *d]);
                } else {
                    self.message.push(b'n');
                }
                self.next = match left {
                    0 => Next::Columns(columns),
                    left => Next::Value { left, is_kept, columns },
                };
                Ok(Some(rest))
            }
            [b't', ..] => Ok(None),
            [kind, ..] => Err(DecodeError::UnexpectedValue(*kind)),
            [] => Ok(None),
        }
    }

    /// The message without its large values, once all of it was taken. One that is neither a row
    /// nor a logical message is its tag alone.
    ///
    /// # Errors
    /// It ended early.
    pub fn message(&self) -> Result<&[u8], DecodeError> {
        match self.next {
            Next::Anything | Next::Columns(0) | Next::Content(0) => Ok(&self.message),
            Next::Head
            | Next::Columns(_)
            | Next::Value { .. }
            | Next::Prefix { .. }
            | Next::Length
            | Next::Content(_) => Err(DecodeError::Truncated),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Logical, Message, decode, encode};
    use super::*;
    use proptest::prelude::*;

    /// Skims `message` as it comes in pieces of such lengths.
    fn skim(message: &[u8], pieces: &[usize]) -> Result<Vec<u8>, DecodeError> {
        let mut skim = Skim::default();
        let mut pieces = pieces.iter().copied().cycle();
        let (mut taken, mut come) = (0, 0);
        while come < message.len() {
            come = (come + pieces.next().unwrap()).min(message.len());
            taken += skim.take(&message[taken..come])?;
            assert!(come - taken < 10, "it leaves more than it has to");
        }
        if taken < come { Err(DecodeError::Truncated) } else { skim.message().map(<[u8]>::to_vec) }
    }

    fn values(message: &[u8]) -> Vec<Option<&[u8]>> {
        let Ok(Message::Insert(insert)) = decode(message) else { panic!("not an insert") };
        let mut values = Vec::new();
        insert.tuple.values(&mut values).unwrap();
        values
    }

    #[test]
    fn small_values_are_kept_wherever_they_stand() {
        let (large, middling) = (vec![b'x'; 1 << 20], vec![b'y'; 40_000]);
        let row = [
            Some(b"id".as_slice()),
            Some(&middling),
            Some(&large),
            None,
            Some(&middling),
            Some(b""),
            Some(b"PENDING"),
        ];
        let message = encode::insert(7, &row);
        let skimmed = skim(&message, &[4096]).unwrap();
        let expected =
            [row[0], row[1], None, None, None, Some(b"".as_slice()), Some(b"PENDING".as_slice())];
        assert_eq!(values(&skimmed), expected);
    }

    #[test]
    fn of_what_is_no_row_only_the_tag_is_kept() {
        let mut update = vec![b'U'];
        update.resize(1 << 20, 0);
        assert_eq!(skim(&update, &[1000]).unwrap(), b"U");
        assert_eq!(decode(b"U"), Ok(Message::Ignored(b'U')));
    }

    #[test]
    fn of_a_prefix_that_is_too_long_so_much_is_kept_that_it_is_no_other() {
        let prefix = "é".repeat(100_000);
        let message = encode::logical(true, prefix.as_bytes(), b"{}");
        let skimmed = skim(&message, &[7000]).unwrap();
        let Ok(Message::Logical(logical)) = decode(&skimmed) else { panic!("no message") };
        assert_eq!(logical.prefix.len(), SMALL_VALUE);
    }

    proptest! {
        #[test]
        fn of_a_logical_message_all_but_the_content_is_kept(
            is_transactional: bool,
            prefix in "[a-z]{0,100}",
            content in proptest::collection::vec(any::<u8>(), 1..3000),
            pieces in proptest::collection::vec(1usize..500, 1..20),
        ) {
            let message = encode::logical(is_transactional, prefix.as_bytes(), &content);
            let skimmed = skim(&message, &pieces).unwrap();
            let expected = Logical { is_transactional, prefix: prefix.as_bytes(), content: b"" };
            prop_assert_eq!(decode(&skimmed), Ok(Message::Logical(expected)));
            prop_assert!(skim(&message[..message.len() - 1], &pieces).is_err());
            prop_assert!(skim(&[message.as_slice(), b"x"].concat(), &pieces).is_err());
        }

        #[test]
        fn pieces_do_not_matter(
            sizes in proptest::collection::vec(proptest::option::of(0usize..3000), 0..60),
            pieces in proptest::collection::vec(1usize..5000, 1..20),
        ) {
            let owned: Vec<_> = sizes.iter().map(|size| size.map(|size| vec![b'v'; size])).collect();
            let mut row: Vec<_> = owned.iter().map(|value| value.as_deref()).collect();
            let message = encode::insert(7, &row);
            let skimmed = skim(&message, &pieces).unwrap();
            leave_out_large(&mut row);
            prop_assert_eq!(values(&skimmed), row);
            prop_assert!(skimmed.len() < LARGE_VALUES + 60 * (SMALL_VALUE + 5) + 8);
            for len in [1, message.len() / 2, message.len() - 1] {
                prop_assert!(skim(&message[..len], &pieces).is_err() || len == message.len());
            }
        }

        #[test]
        fn no_input_panics(
            bytes in proptest::collection::vec(any::<u8>(), 0..300),
            pieces in proptest::collection::vec(1usize..20, 1..5),
        ) {
            let _ = skim(&bytes, &pieces);
            let _ = skim(&[b"I\0\0\0\x07N\0\x09", bytes.as_slice()].concat(), &pieces);
            let _ = skim(&[b"M\x01\0\0\0\0\0\0\0\x07p", bytes.as_slice()].concat(), &pieces);
        }
    }
}
