//! Events that leave the fast way: what has to be stored of them by the transaction that settles
//! them, and whether there is room for it.

use std::collections::{BTreeMap, HashMap};

use super::board::float;
use crate::ack::{Lane, Ordinal, Prefix, Seq, Window};
use crate::status::{HeldContent, Hold, Reason};

/// What may be held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeldLimits {
    /// Events, without those that are scheduled or dead.
    pub events: u64,
    /// Their bytes. One event may be larger; it is then held alone.
    pub bytes: u64,
}

/// An event that is to be held.
#[derive(Debug)]
pub(super) struct Leaving {
    pub(super) lane: Option<Lane>,
    pub(super) hold: Hold,
    pub(super) content: HeldContent,
    pub(super) bytes: u64,
    /// Its number while it was held as scheduled.
    pub(super) was_scheduled: Option<Ordinal>,
}

/// What a held event takes besides its content.
pub(super) const OVERHEAD: u64 = 256;

impl Leaving {
    pub(super) fn new(lane: Option<Lane>, hold: Hold, content: HeldContent) -> Self {
        let parcel = &content.parcel;
        let key = parcel.key.as_ref().map_or(0, |key| key.len());
        let value = parcel.value.as_ref().map_or(0, |value| value.len());
        let bytes = (key + value + parcel.headers.view().bytes()) as u64 + OVERHEAD;
        Self { lane, hold, content, bytes, was_scheduled: None }
    }

    fn counts(&self) -> bool {
        self.hold.reason != Reason::Scheduled
    }
}

/// What is special in a run, each with its place in it.
#[derive(Debug, Default)]
pub(super) struct Taken {
    /// Events that leave with it.
    pub(super) leaving: Vec<(usize, Leaving)>,
    /// Those that were scheduled, came due and are through, with their numbers.
    pub(super) through: Vec<(usize, Ordinal)>,
}

/// The events that are to be held, and what all held ones take.
#[derive(Debug)]
pub(super) struct Aside {
    limits: HeldLimits,
    events: u64,
    bytes: u64,
    /// They wait for those before them, or for room.
    wanting: BTreeMap<Seq, Leaving>,
    /// The transaction that settles them stores them.
    leaving: HashMap<Seq, Leaving>,
    /// Events that are in the window because they came due.
    came_due: HashMap<Seq, Ordinal>,
}

impl Aside {
    pub(super) fn new(limits: HeldLimits) -> Self {
        Self {
            limits,
            events: 0,
            bytes: 0,
            wanting: BTreeMap::new(),
            leaving: HashMap::new(),
            came_due: HashMap::new(),
        }
    }

    /// The event leaves the fast way.
    pub(super) fn want(&mut self, seq: Seq, leaving: Leaving) {
        self.wanting.insert(seq, leaving);
    }

    /// The event was scheduled, and came due.
    pub(super) fn note_due(&mut self, seq: Seq, ordinal: Ordinal) {
        self.came_due.insert(seq, ordinal);
    }

    /// An earlier session held an event, or one was given back.
    pub(super) fn add(&mut self, bytes: u64) {
        self.events += 1;
        self.bytes += bytes;
    }

    /// A held event is gone.
    pub(super) fn free(&mut self, bytes: u64) {
        self.events = self.events.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    /// Whether an event of so many bytes can be held besides the others.
    pub(super) fn has_room(&self, bytes: u64) -> bool {
        self.events == 0
            || self.events < self.limits.events
                && self.bytes.saturating_add(bytes) <= self.limits.bytes
    }

    /// Holds what there is room for, in order, as soon as everything before it is resolved.
    pub(super) fn hold_what_fits(&mut self, window: &mut Window) {
        while let Some((seq, leaving)) = self.wanting.first_key_value()
            && *seq == window.first_outstanding()
            && (!leaving.counts() || self.has_room(leaving.bytes))
            && let Some((seq, leaving)) = self.wanting.pop_first()
        {
            if leaving.counts() {
                self.add(leaving.bytes);
            }
            window.hold(seq);
            self.leaving.insert(seq, leaving);
        }
    }

    /// Whether the oldest event that is to be held finds no room.
    pub(super) fn is_full(&self, window: &Window) -> bool {
        let first = self.wanting.first_key_value();
        first.is_some_and(|(seq, leaving)| {
            *seq == window.first_outstanding() && leaving.counts() && !self.has_room(leaving.bytes)
        })
    }

    /// Takes out what leaves with a run, each with its place in it; and the places of those that
    /// came due and are through, each with its number.
    pub(super) fn take(&mut self, prefix: &Prefix) -> Taken {
        let mut taken = Taken::default();
        if self.leaving.is_empty() && self.came_due.is_empty() {
            return taken;
        }
        for (place, seq) in (prefix.from..prefix.until).enumerate() {
            let was_scheduled = self.came_due.remove(&seq);
            match (self.leaving.remove(&seq), was_scheduled) {
                (Some(leaving), was_scheduled) => {
                    taken.leaving.push((place, Leaving { was_scheduled, ..leaving }));
                }
                (None, Some(ordinal)) => taken.through.push((place, ordinal)),
                (None, None) => {}
            }
        }
        taken
    }

    /// How much of what may be held is held: 1 is full.
    pub(super) fn fullness(&self) -> f64 {
        let part = |taken: u64, limit: u64| float(taken) / float(limit.max(1));
        part(self.events, self.limits.events).max(part(self.bytes, self.limits.bytes)).min(1.0)
    }

    /// Events that are held or will be, without those that are scheduled or dead.
    pub(super) fn events(&self) -> u64 {
        self.events + self.wanting.len() as u64
    }
}
