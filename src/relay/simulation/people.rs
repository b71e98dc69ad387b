//! What people do meanwhile: operators pause, retry, skip and publish, applications edit and delete
//! the rows of events that are scheduled.

use std::rc::Rc;

use fastrand::Rng;
use tokio::time::{Instant, sleep};

use super::state::{Standing, State};
use super::table::HeldRow;
use super::world::{World, millis};
use crate::lsn::Position;
use crate::relay::board::wall_clock;
use crate::status::{HeldContent, Hold, Reason, Request};

/// Acts now and then until all is calm; what an operator has paused goes on then, or never.
pub(super) async fn act(world: Rc<World>) {
    let mut rng = world.fork();
    let (has_operators, edits) = (rng.bool(), rng.bool());
    let pause = [300, 3_000][rng.usize(..2)];
    while Instant::now() < world.calm_at {
        sleep(millis(&mut rng, 0..pause)).await;
        if edits {
            edit(&world, &mut rng);
        }
        if has_operators {
            operate(&world, &mut rng);
        }
    }
    let state = &mut *world.state.borrow_mut();
    state.is_left_alone = true;
    state.is_paused = false;
    if rng.bool() {
        state.paused_topics.clear();
    }
    if rng.bool() {
        state.accept_partitions(&world);
    }
    world.notify();
}

impl State {
    fn accept_partitions(&mut self, world: &World) {
        let (brokers, now) = (world.brokers.borrow(), Instant::now());
        self.partitions.retain(|name, count| brokers.topics[name].partitions_at(now) == *count);
    }
}

fn operate(world: &World, rng: &mut Rng) {
    let state = &mut *world.state.borrow_mut();
    match rng.u8(..10) {
        0 => {
            state.is_paused = !state.is_paused;
            state.tally.paused += 1;
        }
        1 => {
            let name = format!("topic-{}", rng.usize(..world.script.topics));
            let name = if rng.u8(..4) == 0 { format!("{name}.dlq") } else { name };
            if !state.paused_topics.remove(&name) {
                state.were_paused.insert(name.clone());
                state.paused_topics.insert(name);
                state.tally.paused_topics += 1;
            }
        }
        2 => state.accept_partitions(world),
        3 => publish(world, state, rng),
        _ => {
            let nth = rng.usize(..state.table.rows.len().max(1));
            let Some(row) = state.table.rows.values_mut().nth(nth) else { return };
            let all = [Request::Retry, Request::Skip, Request::Discard, Request::Unblock];
            row.request.get_or_insert(all[rng.usize(..4)]);
        }
    }
    // Somebody asks for several things at once, or twice.
    if rng.u8(..4) > 0 {
        world.notify();
    }
}

/// A row that was sent is to be published once more.
fn publish(world: &World, state: &mut State, rng: &mut Rng) {
    let number = rng.usize(..world.script.events.len().max(1));
    let is_sent = state.standing.get(number) == Some(&Standing::Sent);
    if !is_sent || state.table.has(number) || number < world.swept {
        return;
    }
    let Some(row) = state.rows[number].as_mut() else { return };
    row.is_pending = true;
    state.asked_for += 1;
    let redelivery = rng.bool();
    state.table.file(HeldRow {
        number,
        xid: 0,
        position: Position::ORIGIN,
        hold: Hold { due: Some(wall_clock()), ..Hold::waiting(Reason::Scheduled) },
        content: HeldContent { redelivery, ..HeldContent::default() },
        failed_at: None,
        since: wall_clock(),
        request: Some(Request::Publish),
    });
}

/// An application changes its mind about an event that is scheduled.
fn edit(world: &World, rng: &mut Rng) {
    let state = &mut *world.state.borrow_mut();
    let number = rng.usize(..world.script.events.len().max(1));
    let Some(event) = world.script.events.get(number) else { return };
    let commit = event.position.commit;
    let written = world.script.transactions.iter().find(|t| t.begin == commit);
    let is_written = written.is_some_and(|t| world.began + t.at <= Instant::now());
    if event.row.due.is_none() || !is_written {
        return;
    }
    let Some(row) = &mut state.rows[number] else { return };
    match rng.u8(..8) {
        0 => state.rows[number] = None,
        1 => row.is_pending = false,
        2 => row.due = Some(wall_clock() + rng.i64(0..10_000) * 1_000),
        3 => row.due = None,
        _ => row.payload = format!("{{\"edited\": {}}}", rng.u32(..)),
    }
}
