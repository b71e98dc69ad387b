//! Scheduled events that are due: their rows, as they are now, become events behind what was read
//! so far.

use tokio::time::Instant;

use super::capture::Content;
use super::disposition::Fate;
use super::flow::Flow;
use super::misfit;
use super::publish::Arrival;
use super::trial::micros;
use crate::outbox::Envelope;
use crate::sink::Sink;
use crate::status::{Became, Change, DueRow, EventTimes, HeldEntry, Hold, Reason, StatusStore};
use std::time::Duration;

/// A row that cannot be seen yet is looked at again after this.
const NOT_YET: Duration = Duration::from_millis(100);

/// Publishes those whose rows were read, as long as there is room.
pub(super) fn publish_due<S: Sink, T: StatusStore + 'static>(
    flow: &mut Flow<S, T>,
    now: Instant,
    wall: i64,
) -> Result<(), Fate> {
    while let Some((entry, row)) = flow.held.schedule.rows.pop_front() {
        match row {
            DueRow::Gone => change(flow, &entry, Became::Cancelled),
            DueRow::NotYet => {
                let hold = Hold { due: Some(wall + micros(NOT_YET)), ..entry.hold.clone() };
                flow.held.schedule.put_off(HeldEntry { hold, ..entry });
            }
            DueRow::Found(values) => {
                let bytes = values.iter().flatten().map(|value| value.len()).sum();
                if !flow.publisher.has_room(bytes) {
                    flow.held.schedule.rows.push_front((entry, DueRow::Found(values)));
                    return Ok(());
                }
                let values: Vec<_> = values.iter().map(Option::as_deref).collect();
                take(flow, entry, &values, now, wall)?;
            }
        }
    }
    Ok(())
}

/// Takes a row as it is now.
fn take<S: Sink, T: StatusStore + 'static>(
    flow: &mut Flow<S, T>,
    entry: HeldEntry,
    values: &[Option<&[u8]>],
    now: Instant,
    wall: i64,
) -> Result<(), Fate> {
    let Some(mut mapper) = flow.mapper.take() else {
        return Ok(());
    };
    let taken = if mapper.is_pending(values) {
        match mapper.read(values, entry.position, wall) {
            Some(content) => put(flow, &entry, content, now),
            None => {
                change(flow, &entry, Became::Cancelled);
                Ok(())
            }
        }
    } else {
        change(flow, &entry, Became::Cancelled);
        Ok(())
    };
    flow.mapper = Some(mapper);
    taken
}

fn put<S: Sink, T: StatusStore + 'static>(
    flow: &mut Flow<S, T>,
    entry: &HeldEntry,
    content: Content<'_>,
    now: Instant,
) -> Result<(), Fate> {
    // It is settled with its neighbours: the place in the stream stays what it was.
    let last = flow.publisher.window.last_position();
    let position = last.unwrap_or_else(|| flow.settler.position());
    let arrival = Arrival {
        position,
        came_due: Some(entry.ordinal),
        redelivery: entry.redelivery,
        committed: None,
    };
    let occurred = match content {
        Content::Scheduled { due, .. } => {
            let hold = Hold { due: Some(due), ..entry.hold.clone() };
            flow.held.schedule.add(HeldEntry { hold, ..entry.clone() });
            change(flow, entry, Became::Moved(due));
            return Ok(());
        }
        Content::Envelope(envelope) => {
            let mut headers = envelope.headers.to_list();
            if entry.redelivery {
                headers.mark_redelivery();
            }
            let envelope = Envelope { headers: headers.view(), ..envelope };
            flow.publish(&envelope, arrival, now)?;
            envelope.occurred
        }
        Content::Misfit(misfit) | Content::Oversize(misfit) => {
            let failure = misfit::failure(&misfit);
            let (topic, content) = misfit::content(&misfit, &mut flow.publisher, now);
            let seq = flow.give_up(position, &entry.id, failure, topic, content);
            flow.publisher.aside.note_due(seq, entry.ordinal);
            misfit.occurred
        }
    };
    let committed = entry.hold.due.unwrap_or_default();
    flow.settler.track(&entry.id, entry.xid, EventTimes { committed, occurred });
    flow.add_read();
    Ok(())
}

fn change<S, T>(flow: &mut Flow<S, T>, entry: &HeldEntry, became: Became) {
    debug_assert_eq!(entry.hold.reason, Reason::Scheduled);
    flow.held.changes.push(Change::of(entry, became, false));
}
