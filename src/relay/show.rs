//! What of the flow is shown: on the board and in the gauges, now and then.

use std::time::Duration;

use tokio::time::Instant;

use super::board::{Board, float, wall_clock};
use super::flow::{Flow, seconds};
use super::state::{Held, State};
use crate::failure::{Code, Failure};
use crate::sink::Sink;
use crate::status::StatusStore;

/// The board and the gauges are brought up to date this often.
const SHOW_EVERY: Duration = Duration::from_millis(200);
/// The same while nothing happens but that time passes.
const SHOW_CHANGES: Duration = Duration::from_secs(1);
/// The same while there is nothing to show but what others see of the slot.
const SHOW_LOOKS: Duration = Duration::from_secs(5);

/// What was shown last.
pub(super) struct Shown {
    at: Instant,
    state: State,
    again_after: Duration,
}

impl Shown {
    /// When it will not be true any more.
    pub(super) fn next_due(&self) -> Instant {
        self.at + self.again_after
    }
}

impl<S: Sink, T: StatusStore + 'static> Flow<S, T> {
    /// Brings the board up to date, now and then. `state` is what the reader would show if
    /// nothing waited.
    pub(super) fn show(&mut self, board: &mut Board, state: State, now: Instant) {
        if let Some(shown) = &mut self.shown
            && now < shown.at + SHOW_EVERY
            && state == shown.state
        {
            shown.again_after = SHOW_EVERY;
            return;
        }
        let before = std::mem::take(&mut self.totals);
        self.meters.events_added.increment(before.read);
        board.totals.read += before.read;
        board.totals.published += before.published;
        board.totals.settled += before.settled;
        let is_moving = board.sample(&mut self.latencies, now);
        let window = &self.publisher.window;
        // What waits grows older, and a rate can be over.
        let changes = is_moving || window.open() > 0 || self.held.lanes.lanes() > 0;
        let again_after = if changes { SHOW_CHANGES } else { SHOW_LOOKS };
        self.shown = Some(Shown { at: now, state, again_after });
        let stall = self.stall();
        let state = match &stall {
            _ if self.is_paused => State::Paused,
            Some(_) => State::Stalled,
            None => state,
        };
        let trouble = stall.as_ref().or_else(|| self.trouble());
        board.show_state(state, trouble);
        let held = self.held.count();
        let lag = self.settler.oldest_committed().filter(|_| window.open() > 0);
        let lag = lag.map_or(0.0, |committed| seconds(wall_clock() - committed));
        board.update(|status| {
            status.totals = board.totals;
            status.in_flight.events = window.open();
            status.in_flight.bytes = window.bytes();
            status.held = held;
            status.blocked_keys = self.held.lanes.lanes();
            status.paused_topics = self.publisher.topics.paused();
            status.lag_seconds = (lag * 1e3).round() / 1e3;
            status.position = self.settler.position().to_string();
            status.checks.producer = self.publisher.is_reachable();
            status.checks.status_writer = true;
        });
        self.meters.lag_seconds.set(lag);
        self.meters.new_count.set(float(window.open()));
        self.meters.queue_depth.set(float(window.unacked()));
        self.meters.failed_count.set(float(held.retry + held.dead));
        let Held { retry, parked, scheduled, topic, dead } = held;
        self.meters.show_held([retry, parked, scheduled, topic, dead]);
        self.meters.held_ratio.set(self.publisher.aside.fullness());
        self.meters.blocked_keys.set(float(self.held.lanes.lanes() as u64));
        let blocked = self.held.oldest().map_or(0.0, |since| seconds(wall_clock() - since));
        self.meters.blocked_oldest_age.set(blocked);
    }

    /// Why nothing goes, if nothing does.
    fn stall(&self) -> Option<Failure> {
        if self.was_full {
            let text = format!("{} events are held or wait to be", self.publisher.aside.events());
            return Some(Failure::new(Code::HeldFull, text));
        }
        self.publisher.unreachable().filter(|_| self.publisher.window.unacked() > 0).cloned()
    }

    /// Why some events do not go, if some do not.
    fn trouble(&self) -> Option<&Failure> {
        let topic = self.publisher.topics.failure();
        let event = self.held.last_failure.as_ref().filter(|_| self.held.lanes.lanes() > 0);
        self.publisher.unreachable().or(event).or(topic)
    }

    /// What may be in Kafka without being settled: it can come twice.
    pub(super) fn count_redelivered(&self) {
        let held = self.held.in_doubt() as u64;
        self.meters.redelivered.increment(self.publisher.window.open() + held);
    }
}
