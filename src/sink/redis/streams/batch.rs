//! Records on their way: copied once, next to each other, and kept until they are safe.

use crate::ack::Seq;
use crate::lsn::Position;
use crate::outbox::HeaderList;
use crate::sink::{Parcel, Record};

/// As many records go with one call: while it runs, Redis serves nobody else.
const MAX_RECORDS: usize = 256;
/// As many bytes, unless it is one record.
const MAX_BYTES: usize = 1 << 20;
/// A batch with more memory than this does not keep it.
const KEEP_BYTES: usize = 4 << 20;

/// Records of one stream, in order.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// The stream's number.
    pub(super) stream: usize,
    bytes: Vec<u8>,
    pieces: Vec<Piece>,
    entries: Vec<Entry>,
    /// Whether its only record is to have no neighbours.
    is_alone: bool,
}

/// A text or a value; its bytes begin where those of the one before end.
#[derive(Debug, Clone, Copy)]
struct Piece {
    end: usize,
    is_null: bool,
}

/// A record: its pieces are the id, the type, the key, the value, then names and values of headers.
#[derive(Debug, Clone, Copy)]
struct Entry {
    seq: Seq,
    first: usize,
    position: Option<Position>,
    partition: i32,
    timestamp: Option<i64>,
    is_redelivery: bool,
}

/// How many pieces come before the headers.
const BEFORE_HEADERS: usize = 4;

/// A record as it lies in a batch.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kept<'a> {
    batch: &'a Batch,
    entry: Entry,
    end: usize,
}

impl Batch {
    /// Whether another record of that size goes with it.
    pub(super) fn has_room(&self, size: usize, alone: bool) -> bool {
        let fits = self.entries.len() < MAX_RECORDS && self.bytes.len() + size <= MAX_BYTES;
        self.entries.is_empty() || fits && !alone && !self.is_alone
    }

    /// Whether it goes without waiting for more.
    pub(super) fn is_full(&self) -> bool {
        self.entries.len() >= MAX_RECORDS || self.bytes.len() >= MAX_BYTES / 2 || self.is_alone
    }

    pub(super) fn push(&mut self, record: &Record<'_>, seq: Seq) {
        let first = self.pieces.len();
        self.piece(Some(record.event.id.as_bytes()));
        self.piece(record.event.event_type.map(str::as_bytes));
        self.piece(record.key);
        self.piece(record.value);
        for (name, value) in record.headers.iter() {
            self.piece(Some(name.as_bytes()));
            self.piece(value.map(str::as_bytes));
        }
        self.is_alone |= record.alone;
        self.entries.push(Entry {
            seq,
            first,
            position: record.event.position.and_then(Position::known),
            partition: record.partition,
            timestamp: record.timestamp,
            is_redelivery: record.event.is_redelivery,
        });
    }

    fn piece(&mut self, bytes: Option<&[u8]>) {
        self.bytes.extend_from_slice(bytes.unwrap_or_default());
        self.pieces.push(Piece { end: self.bytes.len(), is_null: bytes.is_none() });
    }

    /// Whether another batch goes with it.
    pub(super) fn takes(&self, other: &Batch) -> bool {
        self.entries.len() + other.entries.len() <= MAX_RECORDS
            && self.bytes.len() + other.bytes.len() <= MAX_BYTES
            && !self.is_alone
            && !other.is_alone
    }

    /// Takes in the records of another one.
    pub(super) fn append(&mut self, other: &Batch) {
        let (bytes, pieces) = (self.bytes.len(), self.pieces.len());
        self.bytes.extend_from_slice(&other.bytes);
        let moved = |piece: &Piece| Piece { end: piece.end + bytes, ..*piece };
        self.pieces.extend(other.pieces.iter().map(moved));
        let moved = |entry: &Entry| Entry { first: entry.first + pieces, ..*entry };
        self.entries.extend(other.entries.iter().map(moved));
    }

    /// How many bytes its records have.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// How many records it has.
    pub(super) fn count(&self) -> usize {
        self.entries.len()
    }

    /// How many arguments its records make, at most.
    pub(super) fn arguments(&self) -> usize {
        self.pieces.len() * 2 + self.entries.len() * 8
    }

    /// The records' numbers.
    pub(super) fn numbers(&self) -> impl Iterator<Item = Seq> {
        self.entries.iter().map(|entry| entry.seq)
    }

    /// The records.
    pub(super) fn records(&self) -> impl Iterator<Item = Kept<'_>> {
        let ends = self.entries.iter().skip(1).map(|entry| entry.first);
        let ends = ends.chain(std::iter::once(self.pieces.len()));
        self.entries.iter().zip(ends).map(|(entry, end)| Kept { batch: self, entry: *entry, end })
    }

    fn bytes_of(&self, piece: usize) -> Option<&[u8]> {
        let Piece { end, is_null } = *self.pieces.get(piece)?;
        let before = piece.checked_sub(1).and_then(|before| self.pieces.get(before));
        let start = before.map_or(0, |before| before.end);
        if is_null { None } else { self.bytes.get(start..end) }
    }

    /// Makes it empty, for another stream. Whether its memory is worth keeping.
    pub(super) fn clear(&mut self) -> bool {
        self.bytes.clear();
        self.pieces.clear();
        self.entries.clear();
        self.is_alone = false;
        self.bytes.capacity() <= KEEP_BYTES
    }
}

impl<'a> Kept<'a> {
    pub(super) fn seq(&self) -> Seq {
        self.entry.seq
    }

    pub(super) fn id(&self) -> &'a [u8] {
        self.batch.bytes_of(self.entry.first).unwrap_or_default()
    }

    pub(super) fn event_type(&self) -> Option<&'a [u8]> {
        self.batch.bytes_of(self.entry.first + 1)
    }

    pub(super) fn key(&self) -> Option<&'a [u8]> {
        self.batch.bytes_of(self.entry.first + 2)
    }

    pub(super) fn value(&self) -> Option<&'a [u8]> {
        self.batch.bytes_of(self.entry.first + 3)
    }

    pub(super) fn position(&self) -> Option<Position> {
        self.entry.position
    }

    pub(super) fn is_redelivery(&self) -> bool {
        self.entry.is_redelivery
    }

    /// Name and value of each header.
    pub(super) fn headers(&self) -> impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)> + use<'a> {
        let batch = self.batch;
        let names = (self.entry.first + BEFORE_HEADERS..self.end).step_by(2);
        names.map(|name| (batch.bytes_of(name).unwrap_or_default(), batch.bytes_of(name + 1)))
    }

    /// The record as it was handed over.
    pub(super) fn parcel(&self, topic: &str) -> Parcel {
        // They were text when they came.
        let text = |bytes: &'a [u8]| std::str::from_utf8(bytes).unwrap_or_default();
        let mut headers = HeaderList::default();
        for (name, value) in self.headers() {
            headers.add(text(name), value.map(text));
        }
        Parcel {
            topic: Some(topic.into()),
            event_id: Some(text(self.id()).into()),
            partition: self.entry.partition,
            key: self.key().map(Into::into),
            headers,
            value: self.value().map(Into::into),
            timestamp: self.entry.timestamp,
        }
    }
}

/// What a record takes in a batch.
pub(super) fn size(record: &Record<'_>) -> usize {
    let event = record.event.id.len() + record.event.event_type.map_or(0, str::len);
    let key = record.key.map_or(0, <[u8]>::len);
    event + key + record.value.map_or(0, <[u8]>::len) + record.headers.bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::EventRef;

    fn parcel(headers: &[(&str, Option<&str>)], value: Option<&[u8]>) -> Parcel {
        let mut list = HeaderList::default();
        headers.iter().for_each(|(name, value)| list.add(name, *value));
        Parcel { headers: list, value: value.map(Into::into), ..Parcel::default() }
    }

    #[test]
    fn a_record_comes_back_as_it_went_in() {
        let mut batch = Batch::default();
        let parcels = [
            parcel(&[("event_id", Some("e")), ("none", None)], None),
            parcel(&[], Some(b"")),
            parcel(&[("a", Some(""))], Some(b"value")),
        ];
        for (seq, parcel) in (7..).zip(&parcels) {
            let event = EventRef { id: "e", event_type: Some("T"), ..EventRef::default() };
            let record = parcel.record(event, "t", false);
            batch.push(&record, seq);
        }
        assert_eq!(batch.numbers().collect::<Vec<_>>(), [7, 8, 9]);
        for (kept, parcel) in batch.records().zip(&parcels) {
            let back = kept.parcel("t");
            assert_eq!(back.topic.as_deref(), Some("t"));
            assert_eq!(back.event_id.as_deref(), Some("e"));
            assert_eq!((back.key, back.value), (None, parcel.value.clone()));
            let (back, gone): (Vec<_>, Vec<_>) =
                (back.headers.view().iter().collect(), parcel.headers.view().iter().collect());
            assert_eq!(format!("{back:?}"), format!("{gone:?}"));
        }
    }

    #[test]
    fn a_batch_is_bounded_and_who_is_alone_is_alone() {
        let mut batch = Batch::default();
        let (large, small) = (vec![0; 3 * MAX_BYTES], Parcel::default());
        let large = Parcel { value: Some(large.into()), ..Parcel::default() };
        assert!(batch.has_room(3 * MAX_BYTES, false), "one larger record goes");
        batch.push(&large.record(EventRef::default(), "t", false), 1);
        assert!(!batch.has_room(1, false) && batch.is_full());
        assert!(batch.clear() || batch.count() == 0);
        for seq in 0..MAX_RECORDS as Seq {
            assert!(batch.has_room(10, false) && !batch.is_full(), "{seq}");
            assert!(seq == 0 || !batch.has_room(10, true));
            batch.push(&small.record(EventRef::default(), "t", false), seq);
        }
        assert!(!batch.has_room(10, false) && batch.is_full());
        batch.clear();
        batch.push(&small.record(EventRef::default(), "t", true), 1);
        assert!(!batch.has_room(1, false) && batch.is_full());
    }
}
