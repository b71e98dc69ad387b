//! Whether everything has come to rest: what is not through waits for a reason that does not pass.

use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::state::{Standing, State};
use super::table::HeldRow;
use super::world::World;
use crate::relay::OnExhausted;
use crate::relay::board::wall_clock;
use crate::relay::topics::NO_ANSWER;
use crate::sink::memory::Refusal;
use crate::status::{Reason, Request};

const A_DAY: i64 = 86_400_000_000;
/// By then the board is up to date, and who was only slow has gone on.
const RESTS_FOR: Duration = Duration::from_secs(3);

impl World {
    /// What still has to happen; nothing if all is at rest.
    pub(super) fn unrest(&self) -> Option<String> {
        self.look_at_kafka();
        let state = &*self.state.borrow();
        for (ordinal, row) in &state.table.rows {
            if let Some(why) = self.unrest_of(state, *ordinal, row) {
                return Some(format!("event {}: {why}; {:?}", row.number, row.hold));
            }
        }
        if state.settled < self.script.events.len() && !self.is_full() {
            return Some(format!("event {} is not settled", state.settled));
        }
        // One that came due and waits for room is before the commits that were read after it.
        let is_confirmed = state.confirmed >= self.script.end();
        (!is_confirmed && !self.is_full()).then(|| "not everything is confirmed".to_owned())
    }

    /// Whether an event that is to be held finds no room.
    pub(super) fn is_full(&self) -> bool {
        let state = &*self.state.borrow();
        let is_due = |row: &&HeldRow| {
            let is_due = row.hold.due.is_some_and(|due| due <= wall_clock());
            row.hold.reason == Reason::Scheduled && is_due
        };
        let due = state.table.rows.values().filter(is_due).map(|row| row.number);
        let next = (state.settled < self.script.events.len()).then_some(state.settled);
        due.chain(next).any(|number| self.finds_no_room(state, number))
    }

    fn finds_no_room(&self, state: &State, number: usize) -> bool {
        let row = &self.script.events[number].row;
        let (count, bytes) = state.held();
        let held = self.flow.held;
        let size = (row.payload.len() + "event_id".len() + row.id.len() + 256) as u64;
        // The keys count too.
        let size = size + 16 * (count as u64 + 1);
        if count == 0 || count < self.most_held() && bytes + size <= held.bytes {
            return false;
        }
        // What is to be held waits for room, even where its key goes on meanwhile.
        let lane = self.lane(number);
        let is_same =
            |other: &usize| *other == number || lane.is_some() && self.lane(*other) == lane;
        (0..self.script.events.len()).filter(is_same).any(|other| self.had_trouble(state, other))
    }

    /// Whether there was ever a reason to hold an event.
    fn had_trouble(&self, state: &State, number: usize) -> bool {
        let row = &self.script.events[number].row;
        let brokers = self.brokers.borrow();
        let topic_had = row.topic.as_ref().is_some_and(|name| {
            let topic = &brokers.topics[name];
            let is_limited = topic.limit.1 > self.began;
            let was_paused = state.were_paused.contains(name);
            topic.closed.is_some() || topic.grows.is_some() || is_limited || was_paused
        });
        let was_refused = brokers.refusals.contains_key(&(row.id.clone(), Refusal::Event));
        state.was_held[number] || was_refused || topic_had || row.is_misfit()
    }

    /// Whether a topic takes no records.
    fn is_away(&self, state: &State, name: &str) -> bool {
        let (brokers, now) = (self.brokers.borrow(), Instant::now());
        let topic = &brokers.topics[name];
        let has_grown = state.partitions.get(name).is_some_and(|n| *n != topic.partitions_at(now));
        topic.is_closed_at(now) || has_grown || state.paused_topics.contains(name)
    }

    /// Why a held event is to go on.
    fn unrest_of(&self, state: &State, ordinal: i64, row: &HeldRow) -> Option<&'static str> {
        let is_full = self.is_full();
        let (count, bytes) = state.held();
        let size = row.bytes() + 16 * (count as u64 + 1);
        let has_room = count < self.most_held() && bytes + size <= self.flow.held.bytes;
        match (row.hold.reason, row.request) {
            (Reason::Dead, Some(Request::Retry)) if !has_room => return None,
            (Reason::Scheduled, Some(_)) if is_full => return None,
            (_, Some(_)) => return Some("an operator wants something of it"),
            (Reason::Dead, None) => return None,
            (Reason::Scheduled, None) => {
                // Nobody waits for the end of time.
                let will_be_due = row.hold.due.is_some_and(|due| due < wall_clock() + A_DAY);
                return (will_be_due && !is_full).then_some("it is scheduled");
            }
            (Reason::Retry | Reason::Topic | Reason::Parked, None) => {}
        }
        let lane = self.lane(row.number);
        let mut before = state.table.to_go().filter(|(other, _)| *other < ordinal);
        if lane.is_some() && before.any(|(_, other)| self.lane(other.number) == lane) {
            return None;
        }
        let blocks = self.flow.retry.on_exhausted == OnExhausted::Block;
        if row.hold.exhausted && row.hold.due.is_none() {
            return (!blocks).then_some("it is blocked");
        }
        if row.hold.due.is_some_and(|due| due > wall_clock()) && row.hold.reason == Reason::Retry {
            return Some("it goes again");
        }
        if !row.hold.exhausted {
            let topic = row.content.parcel.topic.as_deref();
            let is_away = topic.is_some_and(|name| self.is_away(state, name));
            return (!is_away).then_some("it is to go");
        }
        let id = self.script.events[row.number].row.id.clone();
        let letter = self.brokers.borrow().refusals.get(&(id, Refusal::Letter)).copied();
        if letter == Some(u32::MAX) {
            return None;
        }
        let name = self.letters(row.number);
        let is_away = name.as_deref().is_some_and(|name| self.is_away(state, name));
        (!is_away).then_some("it is to be given up")
    }

    /// Whether some events wait.
    pub(super) fn has_some_waiting(&self) -> bool {
        let state = self.state.borrow();
        let is_open = |standing: &Standing| *standing == Standing::Open;
        state.table.to_go().next().is_some() && state.standing.iter().any(is_open)
    }

    /// All that nothing goes wrong with any more has come to rest, and rests.
    pub(super) async fn at_rest(&self) {
        sleep_until(self.calm_at).await;
        loop {
            while !self.state.borrow().is_left_alone || self.unrest().is_some() {
                // Some things only take their time.
                let _ = timeout(RESTS_FOR, self.changed.notified()).await;
            }
            let before = self.state.borrow().marks();
            let is_full = self.is_full();
            // What seems to find no room may only wait for what nobody says of its topic, and that is
            // asked again after a while. Where hardly any can be read at once, it takes its time.
            sleep(if is_full { NO_ANSWER + RESTS_FOR } else { RESTS_FOR }).await;
            if self.unrest().is_none() && self.state.borrow().marks() == before {
                return;
            }
        }
    }
}
