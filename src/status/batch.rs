//! The events between reading and settling: ids in one run of bytes, no allocation each.

use std::collections::VecDeque;
use std::error::Error;

use bytes::{BufMut, BytesMut};
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};

/// The ids of the events that are open, in the order of reading.
#[derive(Debug, Default)]
pub struct EventQueue {
    bytes: VecDeque<u8>,
    events: VecDeque<Entry>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    id_len: u32,
    xid: u32,
    times: EventTimes,
}

/// When things happened to an event, in microseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EventTimes {
    /// When its transaction committed.
    pub committed: i64,
    /// When it happened, if its row says so.
    pub occurred: Option<i64>,
}

impl EventQueue {
    /// Adds an event, inserted by the transaction `xid`.
    pub fn push(&mut self, id: &str, xid: u32, times: EventTimes) {
        self.bytes.extend(id.as_bytes());
        let id_len = u32::try_from(id.len()).unwrap_or(u32::MAX);
        self.events.push_back(Entry { id_len, xid, times });
    }

    /// Moves the first `count` events into `out`, which is cleared first.
    pub fn take(&mut self, count: usize, out: &mut EventIds) {
        out.clear();
        for entry in self.events.drain(..count.min(self.events.len())) {
            out.ends.push(out.ends.last().copied().unwrap_or(0) + entry.id_len as usize);
            out.xids.push(entry.xid);
        }
        let len = out.ends.last().copied().unwrap_or(0).min(self.bytes.len());
        // By slices: byte by byte it would show in a profile.
        let (front, back) = self.bytes.as_slices();
        let from_front = len.min(front.len());
        out.bytes.extend_from_slice(front.get(..from_front).unwrap_or_default());
        out.bytes.extend_from_slice(back.get(..len - from_front).unwrap_or_default());
        self.bytes.drain(..len);
    }

    /// The times of the event at `place`, counted from the first.
    pub fn times(&self, place: usize) -> Option<EventTimes> {
        self.events.get(place).map(|entry| entry.times)
    }

    /// The id of the event at `place`. It is looked for from the first: only failures ask.
    pub fn id(&self, place: usize) -> Option<String> {
        let len = self.events.get(place)?.id_len as usize;
        let start = self.events.iter().take(place).map(|entry| entry.id_len as usize).sum();
        String::from_utf8(self.bytes.iter().skip(start).take(len).copied().collect()).ok()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.events.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }
}

/// A run of events: their ids, and the transactions that inserted them.
#[derive(Debug, Default)]
pub struct EventIds {
    bytes: Vec<u8>,
    ends: Vec<usize>,
    xids: Vec<u32>,
}

impl EventIds {
    fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
        self.xids.clear();
    }

    /// Adds one, inserted by the transaction `xid`.
    pub fn push(&mut self, id: &str, xid: u32) {
        self.bytes.extend_from_slice(id.as_bytes());
        self.ends.push(self.bytes.len());
        self.xids.push(xid);
    }

    /// Takes out those at `places`, in order, each with its transaction.
    pub fn take_out(&mut self, places: &[usize]) -> Vec<(String, u32)> {
        let (mut rest, mut taken) = (EventIds::default(), Vec::with_capacity(places.len()));
        for (place, (id, xid)) in self.iter().zip(&self.xids).enumerate() {
            match places.binary_search(&place) {
                Ok(_) => taken.push((id.to_owned(), *xid)),
                Err(_) => rest.push(id, *xid),
            }
        }
        *self = rest;
        taken
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The ids' bytes, in order.
    fn raw(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, end)| self.bytes.get(start..*end).unwrap_or_default())
    }

    /// The ids, in order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        // They were text when they went in.
        self.raw().map(|id| std::str::from_utf8(id).unwrap_or_default())
    }

    /// The transactions' ids without their epoch, in the same order.
    pub(super) fn xids(&self) -> &[u32] {
        &self.xids
    }

    /// The events from `start` to before `end`.
    pub(super) fn slice(&self, start: usize, end: usize) -> EventIds {
        let mut part = EventIds::default();
        let chosen = self.raw().zip(&self.xids).skip(start).take(end.saturating_sub(start));
        for (id, xid) in chosen {
            part.push(std::str::from_utf8(id).unwrap_or_default(), *xid);
        }
        part
    }
}

/// As a parameter of type `text[]`, written straight from the bytes.
impl ToSql for EventIds {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        out.put_i32(1); // dimensions
        out.put_i32(0); // no nulls
        out.put_u32(Type::TEXT.oid());
        out.put_i32(i32::try_from(self.len())?);
        out.put_i32(1); // counted from 1
        for id in self.raw() {
            out.put_i32(i32::try_from(id.len())?);
            out.put_slice(id);
        }
        Ok(IsNull::No)
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::TEXT_ARRAY
    }

    to_sql_checked!();
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn runs_come_out_as_they_went_in(ids: Vec<String>, cuts: Vec<u8>) {
            let mut queue = EventQueue::default();
            for (xid, id) in (0..).zip(&ids) {
                queue.push(id, xid, EventTimes::default());
            }
            for (place, id) in ids.iter().enumerate() {
                prop_assert_eq!(queue.id(place), Some(id.clone()));
            }
            let (mut run, mut seen, mut xids) = (EventIds::default(), Vec::new(), Vec::new());
            for count in cuts.into_iter().map(usize::from).chain([usize::MAX]) {
                queue.take(count, &mut run);
                prop_assert!(run.len() <= count);
                let half = run.len() / 2;
                for part in [run.slice(0, half), run.slice(half, run.len())] {
                    seen.extend(part.iter().map(str::to_owned));
                    xids.extend_from_slice(part.xids());
                }
            }
            prop_assert!(queue.is_empty());
            let in_order = xids.iter().copied().eq(0..u32::try_from(ids.len()).unwrap());
            prop_assert!(in_order);
            prop_assert_eq!(seen, ids);
        }
    }

    #[test]
    fn the_parameter_is_an_array_of_texts() {
        let mut queue = EventQueue::default();
        queue.push("a", 1, EventTimes::default());
        queue.push("bc", 1, EventTimes::default());
        let mut run = EventIds::default();
        queue.take(2, &mut run);
        let mut out = BytesMut::new();
        run.to_sql(&Type::TEXT_ARRAY, &mut out).unwrap();
        let expected: &[u8] =
            b"\0\0\0\x01\0\0\0\0\0\0\0\x19\0\0\0\x02\0\0\0\x01\0\0\0\x01a\0\0\0\x02bc";
        assert_eq!(&out[..], expected);
    }
}
