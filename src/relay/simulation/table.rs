//! `outboxd.held_event`, with the rules of its statements.

use std::collections::BTreeMap;

use crate::ack::{Moment, Ordinal};
use crate::lsn::Position;
use crate::relay::board::wall_clock;
use crate::status::{
    Became, Change, HeldBody, HeldContent, HeldEntry, HeldEvent, Hold, Reason, Request,
};

/// A row of it.
#[derive(Debug, Clone)]
pub(super) struct HeldRow {
    /// The event's number in the script.
    pub(super) number: usize,
    pub(super) xid: u32,
    pub(super) position: Position,
    pub(super) hold: Hold,
    pub(super) content: HeldContent,
    pub(super) failed_at: Option<Moment>,
    pub(super) since: Moment,
    pub(super) request: Option<Request>,
}

/// The table.
#[derive(Debug, Default)]
pub(super) struct HeldTable {
    pub(super) rows: BTreeMap<Ordinal, HeldRow>,
    last: Ordinal,
}

/// The end of the year 9999.
const NEVER: Moment = 253_402_300_799_000_000;

/// What waits for something else than a time has none.
fn durable(hold: &Hold) -> Hold {
    let has_due = matches!(hold.reason, Reason::Retry | Reason::Scheduled);
    let due = hold.due.filter(|_| has_due).map(|due| due.min(NEVER));
    Hold { due, ..hold.clone() }
}

impl HeldRow {
    /// Whether it goes by itself, and holds back its key.
    pub(super) fn is_to_go(&self) -> bool {
        !matches!(self.hold.reason, Reason::Scheduled | Reason::Dead)
    }

    /// What is counted of it at least.
    pub(super) fn bytes(&self) -> u64 {
        let parcel = &self.content.parcel;
        let value = parcel.value.as_ref().map_or(0, |value| value.len());
        (value + parcel.headers.view().bytes() + 256) as u64
    }
}

impl HeldTable {
    /// Whether an event is held.
    pub(super) fn has(&self, number: usize) -> bool {
        self.find(number).is_some()
    }

    pub(super) fn find(&self, number: usize) -> Option<Ordinal> {
        let found = self.rows.iter().find(|(_, row)| row.number == number);
        found.map(|(ordinal, _)| *ordinal)
    }

    /// Those that go by themselves.
    pub(super) fn to_go(&self) -> impl Iterator<Item = (Ordinal, &HeldRow)> {
        let rows = self.rows.iter().filter(|(_, row)| row.is_to_go());
        rows.map(|(ordinal, row)| (*ordinal, row))
    }

    /// Holds an event; one that is held already is held anew, behind all others.
    pub(super) fn hold(&mut self, number: usize, event: &HeldEvent) -> Ordinal {
        let before = self.find(number).and_then(|ordinal| self.rows.remove(&ordinal));
        self.last += 1;
        let now = wall_clock();
        let mut content = event.content.clone();
        content.redelivery |= before.as_ref().is_some_and(|row| row.content.redelivery);
        let row = HeldRow {
            number,
            xid: event.xid,
            position: event.position,
            hold: durable(&event.hold),
            content,
            failed_at: event.hold.error.as_ref().map(|_| now),
            since: before.as_ref().map_or(now, |row| row.since),
            request: before.and_then(|row| row.request),
        };
        self.rows.insert(self.last, row);
        self.last
    }

    /// Somebody else puts a row there.
    pub(super) fn file(&mut self, row: HeldRow) {
        if !self.has(row.number) {
            self.last += 1;
            self.rows.insert(self.last, row);
        }
    }

    /// Those that were scheduled are through.
    pub(super) fn came_due(&mut self, numbers: &[usize]) {
        self.rows.retain(|_, row| !numbers.contains(&row.number));
    }

    /// What became of events, in the order of the statements.
    pub(super) fn keep_books(&mut self, changes: &[Change]) {
        for Change { ordinal, became, .. } in changes {
            let Some(row) = self.rows.get_mut(ordinal) else { continue };
            match became {
                Became::Sent | Became::Removed(_) | Became::Cancelled => {
                    self.rows.remove(ordinal);
                }
                Became::Declined => row.request = None,
                Became::Moved(due) if row.hold.reason == Reason::Scheduled => {
                    row.hold.due = Some((*due).min(NEVER));
                    if matches!(row.request, Some(Request::Publish | Request::Retry)) {
                        row.request = None;
                    }
                }
                Became::Moved(_) | Became::Again(_) | Became::Held(_) => {}
            }
        }
        // Of several changes of one event, the last counts.
        let (mut again, mut held) = (BTreeMap::new(), BTreeMap::new());
        for Change { ordinal, became, answers, .. } in changes {
            match became {
                Became::Again(due) => {
                    held.remove(ordinal);
                    let hold = Hold { due: Some(*due), ..Hold::waiting(Reason::Retry) };
                    again.insert(*ordinal, (hold, true));
                }
                Became::Held(hold) => {
                    held.insert(*ordinal, (hold.clone(), *answers));
                }
                _ => {}
            }
        }
        for (kept, is_again) in [(again, true), (held, false)] {
            for (ordinal, (hold, answers)) in kept {
                self.keep(ordinal, &hold, answers, is_again);
            }
        }
    }

    fn keep(&mut self, ordinal: Ordinal, hold: &Hold, answers: bool, again: bool) {
        let Some(row) = self.rows.get_mut(&ordinal) else { return };
        if hold.error.is_some() {
            row.failed_at = Some(wall_clock());
        }
        let error = hold.error.clone().or(row.hold.error.take());
        row.hold = Hold { error, ..durable(hold) };
        row.content.redelivery |= again;
        if answers {
            row.request = None;
        }
    }

    /// What the relay reads of a row.
    pub(super) fn entry(&self, ordinal: Ordinal) -> Option<HeldEntry> {
        let row = self.rows.get(&ordinal)?;
        let parcel = &row.content.parcel;
        let due = match row.hold.reason {
            Reason::Topic | Reason::Parked => Some(0),
            Reason::Retry | Reason::Scheduled | Reason::Dead => row.hold.due,
        };
        let value = parcel.value.as_ref().map_or(0, |value| value.len());
        Some(HeldEntry {
            ordinal,
            id: format!("event-{}", row.number),
            xid: row.xid,
            position: row.position,
            hold: Hold { due, error: None, ..row.hold.clone() },
            topic: parcel.topic.clone(),
            key: parcel.key.clone(),
            max_attempts: row.content.max_attempts,
            redelivery: row.content.redelivery,
            bytes: value + parcel.headers.view().bytes(),
            since: row.since,
        })
    }

    /// What is published of a row.
    pub(super) fn body(&self, ordinal: Ordinal) -> Option<HeldBody> {
        let row = self.rows.get(&ordinal)?;
        let error = row.hold.error.as_ref();
        Some(HeldBody {
            ordinal,
            event_type: row.content.event_type.as_deref().map(str::to_owned),
            position: row.position,
            placement: row.content.placement,
            key: row.content.parcel.key.clone(),
            headers: row.content.parcel.headers.clone(),
            value: row.content.parcel.value.clone(),
            timestamp: row.content.parcel.timestamp,
            error_code: error.map(|error| error.code.to_string()),
            error: error.map(|error| error.message.clone()),
            failed_at: row.failed_at.map(|at| at.to_string()),
        })
    }
}
