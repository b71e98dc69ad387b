//! What a sweep has left before the first session begins.

use super::state::Standing;
use super::world::World;
use crate::lsn::Position;
use crate::sink::memory::Appended;
use crate::status::{HeldContent, HeldEvent, Hold, Reason};

impl World {
    /// What a sweep has left: what could go is in Kafka, the rest is held.
    pub(super) fn sweep(&self) {
        let mut rng = self.fork();
        let state = &mut *self.state.borrow_mut();
        let mut is_closed = vec![false; self.members.len()];
        for (number, event) in self.script.events.iter().enumerate().take(self.swept) {
            let Appended { topic, parcel } = event.row.appended();
            let lane = self.lanes[number].map(|(lane, _)| lane);
            let is_behind = lane.is_some_and(|lane| is_closed[lane]);
            let hold = if event.row.due.is_some() {
                Hold { due: event.row.due, ..Hold::waiting(Reason::Scheduled) }
            } else if event.row.is_misfit() {
                Hold { exhausted: true, ..Hold::waiting(Reason::Dead) }
            } else if is_behind {
                Hold::waiting(Reason::Parked)
            } else if rng.u8(..10) == 0 {
                Hold::waiting(Reason::Topic)
            } else {
                self.brokers.borrow_mut().log.push(Appended { topic, parcel });
                continue;
            };
            // A sweep that finds no room goes on later; these histories begin after it.
            let (count, bytes) = state.held();
            let size = event.row.payload.len() as u64 + 300;
            let has_room = count < self.most_held() && bytes + size <= self.flow.held.bytes;
            let hold = match hold.reason {
                Reason::Topic | Reason::Parked if !has_room => {
                    Hold { exhausted: true, ..Hold::waiting(Reason::Dead) }
                }
                _ => hold,
            };
            if let (Some(lane), Reason::Topic | Reason::Parked) = (lane, hold.reason) {
                is_closed[lane] = true;
            }
            state.passed[number] = hold.reason == Reason::Dead;
            state.was_held[number] = hold.reason != Reason::Scheduled;
            let content = match hold.reason {
                Reason::Scheduled => HeldContent::default(),
                _ => event.row.content(),
            };
            let id = event.row.id.clone();
            let event = HeldEvent { id, xid: 0, position: Position::ORIGIN, hold, content };
            state.table.hold(number, &event);
        }
        for number in 0..self.swept {
            if !state.table.has(number) {
                state.standing[number] = Standing::Sent;
                state.rows[number].as_mut().unwrap().is_pending = false;
                state.noted[number] = true;
            }
        }
        state.settled = self.swept;
    }
}
