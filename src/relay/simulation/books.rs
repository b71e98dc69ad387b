//! What a session writes: of the events that it settles, and of those that are held.

use super::outbox::Row;
use super::witness::{Progress, Seen, Witness};
use super::world::Run;
use crate::relay::board::wall_clock;
use crate::relay::{OnExhausted, RetryConfig};
use crate::status::{
    Batch, Became, Change, DueRow, HeldEntry, HeldEvent, Hold, Orders, Reason, Request, Verdict,
};

impl Witness {
    /// It settles a run: every event of it was acknowledged to this very session, or is held.
    pub(super) fn settles(&self, batch: &Batch) -> Run {
        self.acts();
        if !self.has_place() {
            return self.nothing(batch);
        }
        let script = &self.world.script;
        let seen = &mut *self.seen.borrow_mut();
        let begin = self.first + self.settled.get();
        let sent: Vec<_> = batch.events.iter().map(|id| script.number(id)).collect();
        let held: Vec<_> =
            batch.held.iter().map(|event| (script.number(&event.id), copy(event))).collect();
        let came_due: Vec<_> = batch.came_due.iter().map(|id| script.number(id)).collect();
        let due = sent.iter().copied().filter(|number| *number < begin);
        assert!(due.eq(came_due.iter().copied()), "came due: {came_due:?} of {sent:?}");
        let mut stream: Vec<_> = sent.iter().copied().filter(|number| *number >= begin).collect();
        assert!(stream.is_sorted(), "settled: {sent:?}");
        stream.extend(held.iter().map(|(number, _)| *number).filter(|number| *number >= begin));
        stream.sort_unstable();
        let stream_end = begin + stream.len();
        assert!(stream.into_iter().eq(begin..stream_end), "not without a gap: {sent:?}, {held:?}");
        for number in &sent {
            let progress = seen.progress.get(number);
            assert_eq!(progress, Some(&Progress::Delivered), "event {number} is settled");
        }
        for (number, event) in &held {
            let progress = seen.progress.get(number).copied();
            let was_open = progress.is_some_and(|progress| !progress.may_be_there());
            assert!(was_open, "event {number} is held, and is {progress:?}");
            self.holds(seen, *number, event);
        }
        Run {
            epoch: self.epoch,
            from: batch.from,
            to: batch.to,
            confirmable: batch.confirmable,
            stream: begin..stream_end,
            sent,
            swept: batch.swept,
            came_due,
            held,
        }
    }

    /// What is settled by a relay that has lost its place.
    fn nothing(&self, batch: &Batch) -> Run {
        let (epoch, from, to, confirmable) = (self.epoch, batch.from, batch.to, batch.confirmable);
        let (sent, came_due, held) = (Vec::new(), Vec::new(), Vec::new());
        Run { epoch, from, to, confirmable, stream: 0..0, sent, swept: false, came_due, held }
    }

    /// What is held of an event is the event, and stands as what became of it.
    fn holds(&self, seen: &mut Seen, number: usize, event: &HeldEvent) {
        let inserted = &self.world.script.events[number];
        let row: &Row = seen.due.get(&number).unwrap_or(&inserted.row);
        let blamed = seen.blamed.remove(&number).unwrap_or(0);
        let Hold { reason, attempts, exhausted, due, error } = &event.hold;
        if *reason == Reason::Scheduled {
            assert_eq!(*due, row.due, "event {number} is scheduled for another time");
            assert!(event.content.parcel.value.is_none(), "what goes is its row when it is due");
            self.world.tally(|tally| tally.scheduled += 1);
            return;
        }
        assert!(row.due.is_none_or(|due| due <= wall_clock()), "event {number} is not due");
        let (parcel, expected) = (&event.content.parcel, row.content().parcel);
        assert_eq!(parcel.topic, expected.topic, "event {number}'s topic");
        assert_eq!((&parcel.key, &parcel.value), (&expected.key, &expected.value), "of {number}");
        let without = parcel.headers.view();
        let without = without.iter().filter(|(name, _)| *name != "outboxd-redelivery");
        assert!(
            row.is_odd || without.eq(expected.headers.view().iter()),
            "event {number}'s headers"
        );
        assert_eq!(event.content.max_attempts, row.max_attempts, "event {number}'s attempts");
        let retry = &self.world.flow.retry;
        match reason {
            Reason::Topic | Reason::Parked => {
                assert_eq!((*attempts, *exhausted, blamed), (0, false, 0), "event {number} waits");
                let parked = u64::from(*reason == Reason::Parked);
                self.world.tally(|tally| tally.parked += parked);
            }
            Reason::Retry => {
                assert_eq!(*attempts, if row.is_misfit() { 1 } else { blamed }, "of {number}");
                let is_hopeless = row.is_misfit() || is_last(retry, row.max_attempts, *attempts);
                assert!(*attempts > 0 && *exhausted == is_hopeless, "event {number} is exhausted");
                let blocks = *exhausted && retry.on_exhausted == OnExhausted::Block;
                assert_eq!(due.is_none(), blocks, "event {number} goes again by itself");
                assert!(error.is_some(), "event {number} is held without a reason");
                let misfit = u64::from(row.is_misfit());
                self.world.tally(|tally| tally.misfits += misfit);
            }
            Reason::Scheduled | Reason::Dead => panic!("event {number} is held as {reason:?}"),
        }
    }

    pub(super) fn has_settled(&self, run: &Run) {
        let seen = &mut *self.seen.borrow_mut();
        for number in run.sent.iter().chain(run.held.iter().map(|(number, _)| number)) {
            seen.progress.remove(number);
            seen.due.remove(number);
        }
        let came_due = run.came_due.len() as u64;
        self.world.tally(|tally| tally.came_due += came_due);
    }

    pub(super) fn hears_of_settled(&self, count: usize) {
        self.settled.set(self.settled.get() + count);
    }

    /// It writes what became of held events.
    pub(super) fn redeems(&self, changes: &[Change]) {
        self.acts();
        if !self.has_place() {
            return;
        }
        let seen = &mut *self.seen.borrow_mut();
        for change in changes {
            self.redeems_one(seen, change);
        }
    }

    fn redeems_one(&self, seen: &mut Seen, change: &Change) {
        let Change { ordinal, id, became, answers, .. } = change;
        let number = self.world.script.number(id);
        let state = self.world.state.borrow();
        let row = state.table.rows.get(ordinal);
        // Where somebody had the row locked, its event may have come due meanwhile, and be settled.
        if row.is_none() && matches!(became, Became::Moved(_) | Became::Declined) {
            return;
        }
        let row = row.unwrap_or_else(|| panic!("{became:?} of event {number}, which is not held"));
        assert_eq!(row.number, number, "a held event has the number of another one");
        let request = row.request.filter(|_| *answers);
        assert_eq!(request.is_some(), *answers, "{became:?} of {number}: nobody asked for it");
        let before = *seen.attempts.entry(*ordinal).or_insert(row.hold.attempts);
        let held = seen.held.get(ordinal);
        let is_delivered = held.is_some_and(|held| held.progress == Progress::Delivered);
        let is_letter = held.is_some_and(|held| held.is_letter);
        let reason = row.hold.reason;
        match became {
            Became::Sent => assert!(is_delivered && !is_letter, "event {number} is not in Kafka"),
            Became::Held(hold) if hold.reason == Reason::Dead => {
                assert_eq!(hold.attempts, before, "event {number}'s attempts");
                let has_letters = self.world.letters(number).is_some();
                let is_buried = is_letter && is_delivered || !has_letters;
                let is_unblocked = request == Some(Request::Unblock);
                let is_nowhere = row.content.parcel.topic.is_none();
                assert!(is_unblocked || is_buried || is_nowhere, "{number} has no dead letter");
            }
            Became::Held(hold) if *answers => {
                assert_eq!(request, Some(Request::Unblock), "event {number} is exhausted");
                assert_eq!((hold.attempts, hold.exhausted), (before, true), "of event {number}");
            }
            Became::Held(hold) => {
                let blamed = seen.blamed.entry(number).or_default();
                assert!(*blamed > 0, "an attempt of event {number} that was none");
                *blamed -= 1;
                assert_eq!(hold.attempts, before + 1, "event {number}'s attempts");
                let is_last = is_last(&self.world.flow.retry, row.content.max_attempts, before + 1);
                assert_eq!(hold.exhausted, is_last, "event {number} is exhausted");
                seen.attempts.insert(*ordinal, hold.attempts);
            }
            Became::Again(_) => {
                assert_eq!(request, Some(Request::Retry), "event {number} goes again");
                assert_ne!(reason, Reason::Scheduled, "event {number} goes again");
                seen.attempts.insert(*ordinal, 0);
            }
            Became::Removed(verdict) => {
                let expected = match reason {
                    Reason::Dead => (Request::Discard, Verdict::Discarded),
                    _ => (Request::Skip, Verdict::Skipped),
                };
                assert_eq!((request, *verdict), (Some(expected.0), expected.1), "of {number}");
            }
            Became::Cancelled => {
                let said = seen.not_due.remove(&number);
                let is_off = said.is_some_and(|row| row.is_none_or(|row| !row.is_pending));
                assert!(is_off, "event {number} is cancelled, and its row is there");
            }
            Became::Moved(_) if *answers => {
                let moves = matches!(request, Some(Request::Retry | Request::Publish));
                assert!(moves && reason == Reason::Scheduled, "event {number} is moved");
            }
            Became::Moved(due) => {
                let said = seen.not_due.remove(&number).flatten();
                assert_eq!(said.and_then(|row| row.due), Some(*due), "event {number} is moved");
            }
            Became::Declined => {
                let applies = match request {
                    Some(Request::Retry) => true,
                    Some(Request::Skip) => reason != Reason::Dead,
                    Some(Request::Discard) => reason == Reason::Dead,
                    Some(Request::Unblock) => row.is_to_go(),
                    Some(Request::Publish) => reason == Reason::Scheduled,
                    None => false,
                };
                assert!(!applies, "{request:?} of event {number} is declined");
            }
        }
        let kind = (became, reason);
        drop(state);
        self.world.tally(|tally| match kind {
            (Became::Held(hold), _) if hold.reason == Reason::Dead && *answers => {
                tally.unblocked += 1
            }
            (Became::Held(hold), _) if hold.reason == Reason::Dead => tally.dead += 1,
            (Became::Held(_), _) if *answers => tally.unblocked += 1,
            (Became::Held(_), _) => tally.refused_again += 1,
            (Became::Again(_), Reason::Dead) => tally.redriven += 1,
            (Became::Again(_), _) => tally.tried_anew += 1,
            (Became::Moved(_), _) if *answers => tally.published_by_hand += 1,
            (Became::Moved(_), _) => tally.moved += 1,
            (Became::Declined, _) => tally.declined += 1,
            (Became::Sent | Became::Removed(_) | Became::Cancelled, _) => {}
        });
    }

    pub(super) fn has_redeemed(&self, changes: &[Change]) {
        let seen = &mut *self.seen.borrow_mut();
        for Change { ordinal, became, .. } in changes {
            let is_through = match became {
                Became::Sent | Became::Removed(_) | Became::Cancelled => true,
                Became::Held(hold) => hold.reason == Reason::Dead,
                Became::Again(_) | Became::Moved(_) | Became::Declined => false,
            };
            if is_through {
                seen.held.remove(ordinal);
            }
        }
    }

    /// It is told what operators want.
    pub(super) fn hears_of_orders(&self, orders: &Orders) {
        let seen = &mut *self.seen.borrow_mut();
        seen.is_paused = orders.paused;
        seen.paused_topics = orders.paused_topics.iter().cloned().collect();
        seen.known_partitions = orders.partitions.iter().cloned().collect();
    }

    /// It is told what the rows of scheduled events say.
    pub(super) fn finds(&self, events: &[HeldEntry], rows: &[(DueRow, Option<Row>)]) {
        let seen = &mut *self.seen.borrow_mut();
        for (event, (answer, row)) in events.iter().zip(rows) {
            let number = self.world.script.number(&event.id);
            let due = event.hold.due.unwrap();
            assert!(due <= wall_clock(), "event {number} is looked at too early");
            if *answer == DueRow::NotYet {
                self.world.tally(|tally| tally.not_yet += 1);
                continue;
            }
            seen.not_due.insert(number, row.clone());
            if let Some(row) = row.clone().filter(|row| row.is_pending) {
                seen.progress.insert(number, Progress::Read);
                seen.due.insert(number, row);
            }
        }
    }
}

/// Whether no attempt is left.
fn is_last(retry: &RetryConfig, row_says: Option<u32>, attempts: u32) -> bool {
    attempts >= row_says.unwrap_or(retry.max_attempts)
}

fn copy(event: &HeldEvent) -> HeldEvent {
    HeldEvent {
        id: event.id.clone(),
        xid: event.xid,
        position: event.position,
        hold: event.hold.clone(),
        content: event.content.clone(),
    }
}
