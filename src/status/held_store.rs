//! Held events in PostgreSQL: in and out of `outboxd.held_event`.

use std::collections::{BTreeMap, HashMap};

use tokio_postgres::types::{PgLsn, ToSql};
use tokio_postgres::{Client, Row, SimpleQueryMessage};

use super::held_sql::{
    BODIES, CAME_DUE, CANCEL, DECLINE, GIVE_UP, HOLD, KEEP, MOVE, REMOVE, VISIBLE, held, requested,
    scheduled,
};
use super::{
    Became, Change, DueRow, HeldBody, HeldEntry, HeldEvent, Hold, Orders, Reason, Request,
    StoreError, Verdict,
};
use crate::ack::{Moment, Ordinal};
use crate::lsn::{Lsn, Position};
use crate::outbox::{HeaderList, Placement};
use crate::postgres::{Error, TableName, quote_ident, quote_literal};

/// Inserts events in their order; gives their numbers. `shows`: whether rows can show a failure.
pub(super) async fn hold(
    client: &Client,
    relay_id: &str,
    events: &[HeldEvent],
    shows: bool,
) -> Result<Vec<Ordinal>, Error> {
    // An id that comes twice is held once, as it came last.
    let mut last = HashMap::new();
    for (place, event) in events.iter().enumerate() {
        last.insert(event.id.as_str(), place);
    }
    let is_last = |(place, event): &(usize, &HeldEvent)| last.get(event.id.as_str()) == Some(place);
    let chosen: Vec<&HeldEvent> =
        events.iter().enumerate().filter(is_last).map(|(_, event)| event).collect();
    let column = |read: fn(&HeldEvent) -> Option<&str>| -> Vec<Option<&str>> {
        chosen.iter().map(|event| read(event)).collect()
    };
    let ids: Vec<&str> = chosen.iter().map(|event| event.id.as_str()).collect();
    let lsns: Vec<PgLsn> =
        chosen.iter().map(|event| PgLsn::from(event.position.commit.to_wire())).collect();
    let indexes: Vec<i64> = chosen.iter().map(|event| i64::from(event.position.index)).collect();
    let reasons: Vec<&str> = chosen.iter().map(|event| event.hold.reason.name()).collect();
    // A member of a payload can hold what no text of PostgreSQL can.
    let types: Vec<Option<String>> = chosen
        .iter()
        .map(|event| event.content.event_type.as_deref().map(|word| word.replace('\0', "")))
        .collect();
    let topics = column(|event| event.content.parcel.topic.as_deref());
    let keys: Vec<Option<&[u8]>> =
        chosen.iter().map(|event| event.content.parcel.key.as_deref()).collect();
    let (mut partitions, mut hashes) = (Vec::new(), Vec::new());
    for event in &chosen {
        partitions.push(match event.content.placement {
            Some(Placement::Fixed(partition)) => Some(partition),
            Some(Placement::Hashed(_)) | None => None,
        });
        hashes.push(match event.content.placement {
            Some(Placement::Hashed(hash)) => Some(i64::from(hash)),
            Some(Placement::Fixed(_)) | None => None,
        });
    }
    let headers: Vec<String> =
        chosen.iter().map(|event| headers_as_json(&event.content.parcel.headers)).collect();
    let values: Vec<Option<&[u8]>> =
        chosen.iter().map(|event| event.content.parcel.value.as_deref()).collect();
    let attempts: Vec<i32> = chosen.iter().map(|event| narrow(event.hold.attempts)).collect();
    let most: Vec<Option<i32>> =
        chosen.iter().map(|event| event.content.max_attempts.map(narrow)).collect();
    let exhausted: Vec<bool> = chosen.iter().map(|event| event.hold.exhausted).collect();
    let errors = column(|event| event.hold.error.as_ref().map(|error| error.message.as_str()));
    let codes: Vec<Option<String>> =
        chosen.iter().map(|event| event.hold.error.as_ref().map(|e| e.code.to_string())).collect();
    let dues: Vec<Option<Moment>> = chosen.iter().map(|event| durable_due(&event.hold)).collect();
    let redelivery: Vec<bool> = chosen.iter().map(|event| event.content.redelivery).collect();
    let xids: Vec<i64> = chosen.iter().map(|event| i64::from(event.xid)).collect();
    let timestamps: Vec<Option<i64>> =
        chosen.iter().map(|event| event.content.parcel.timestamp).collect();
    let parameters: [&(dyn ToSql + Sync); 22] = [
        &relay_id,
        &ids,
        &lsns,
        &indexes,
        &reasons,
        &types,
        &topics,
        &keys,
        &partitions,
        &hashes,
        &headers,
        &values,
        &attempts,
        &most,
        &exhausted,
        &errors,
        &codes,
        &dues,
        &redelivery,
        &xids,
        &shows,
        &timestamps,
    ];
    let rows = client.query(HOLD, &parameters).await?;
    let by_id: HashMap<String, Ordinal> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    let missing = || Error::Protocol("an event was not held".into());
    events.iter().map(|event| by_id.get(&event.id).copied().ok_or_else(missing)).collect()
}

/// The end of the year 9999: later times than that are not needed.
const NEVER: Moment = 253_402_300_799_000_000;

/// What waits for something else than a time has none.
fn durable_due(hold: &Hold) -> Option<Moment> {
    let due = hold.due.map(|due| due.min(NEVER));
    due.filter(|_| !matches!(hold.reason, Reason::Topic | Reason::Parked | Reason::Dead))
}

fn narrow(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

fn headers_as_json(headers: &HeaderList) -> String {
    let pairs: Vec<_> = headers.view().iter().collect();
    // Texts always have a form in JSON.
    serde_json::to_string(&pairs).unwrap_or_default()
}

/// Scheduled events that were published.
pub(super) async fn came_due(client: &Client, relay: &str, ids: &[String]) -> Result<(), Error> {
    if !ids.is_empty() {
        client.execute(CAME_DUE, &[&relay, &ids]).await?;
    }
    Ok(())
}

/// Everything of `changes` but the statuses of those that were sent.
pub(super) async fn keep_books(
    client: &Client,
    relay: &str,
    changes: &[Change],
    swept: bool,
    shows: bool,
) -> Result<(), Error> {
    let numbers = |wanted: fn(&Became) -> bool| -> Vec<Ordinal> {
        changes
            .iter()
            .filter(|change| wanted(&change.became))
            .map(|change| change.ordinal)
            .collect()
    };
    for (sql, numbers) in [
        (REMOVE, numbers(|became| matches!(became, Became::Sent | Became::Removed(_)))),
        (CANCEL, numbers(|became| *became == Became::Cancelled)),
        (DECLINE, numbers(|became| *became == Became::Declined)),
    ] {
        if !numbers.is_empty() {
            client.execute(sql, &[&relay, &numbers]).await?;
        }
    }
    for verdict in [Verdict::Skipped, Verdict::Discarded] {
        // A stream that may bring a cancelled one again has to leave it out.
        let is_so = |became: &Became| match became {
            Became::Cancelled => swept && verdict == Verdict::Skipped,
            became => *became == Became::Removed(verdict),
        };
        let ids = changes.iter().filter(|change| is_so(&change.became));
        let ids: Vec<&str> = ids.map(|change| change.id.as_str()).collect();
        if !ids.is_empty() {
            client.execute(GIVE_UP, &[&relay, &ids, &verdict.name()]).await?;
        }
    }
    let (mut moved, mut times, mut answers) = (Vec::new(), Vec::new(), Vec::new());
    for change in changes {
        if let Became::Moved(due) = change.became {
            moved.push(change.ordinal);
            times.push(due.min(NEVER));
            answers.push(change.answers);
        }
    }
    if !moved.is_empty() {
        client.execute(MOVE, &[&relay, &moved, &times, &answers]).await?;
    }
    keep(client, relay, changes, shows).await
}

async fn keep(client: &Client, relay: &str, changes: &[Change], shows: bool) -> Result<(), Error> {
    // Of several changes of one event, the last counts.
    let (mut again, mut held) = (BTreeMap::new(), BTreeMap::new());
    for change in changes {
        match &change.became {
            Became::Again(due) => {
                let hold = Hold { due: Some(*due), ..Hold::waiting(Reason::Retry) };
                held.remove(&change.ordinal);
                again.insert(change.ordinal, (hold, true));
            }
            Became::Held(hold) => {
                held.insert(change.ordinal, (hold.clone(), change.answers));
            }
            _ => {}
        }
    }
    keep_as(client, relay, &again, true, shows).await?;
    keep_as(client, relay, &held, false, shows).await
}

async fn keep_as(
    client: &Client,
    relay: &str,
    kept: &BTreeMap<Ordinal, (Hold, bool)>,
    again: bool,
    shows: bool,
) -> Result<(), Error> {
    if kept.is_empty() {
        return Ok(());
    }
    let holds = || kept.values().map(|(hold, _)| hold);
    let ordinals: Vec<Ordinal> = kept.keys().copied().collect();
    let reasons: Vec<&str> = holds().map(|hold| hold.reason.name()).collect();
    let attempts: Vec<i32> = holds().map(|hold| narrow(hold.attempts)).collect();
    let exhausted: Vec<bool> = holds().map(|hold| hold.exhausted).collect();
    let errors: Vec<Option<&str>> =
        holds().map(|hold| hold.error.as_ref().map(|error| error.message.as_str())).collect();
    let codes: Vec<Option<String>> =
        holds().map(|hold| hold.error.as_ref().map(|error| error.code.to_string())).collect();
    let dues: Vec<Option<Moment>> = holds().map(durable_due).collect();
    let answers: Vec<bool> = kept.values().map(|(_, answers)| *answers).collect();
    let parameters: [&(dyn ToSql + Sync); 11] = [
        &relay, &ordinals, &reasons, &attempts, &exhausted, &errors, &codes, &dues, &answers,
        &shows, &again,
    ];
    client.execute(KEEP, &parameters).await?;
    Ok(())
}

/// A page of the events that go by themselves.
pub(super) async fn entries(
    client: &Client,
    relay: &str,
    after: Ordinal,
) -> Result<Vec<HeldEntry>, StoreError> {
    let rows = client.query(&held(), &[&relay, &after]).await.map_err(Error::from)?;
    Ok(rows.iter().map(entry).collect::<Result<_, _>>()?)
}

/// A page of the scheduled ones.
pub(super) async fn scheduled_entries(
    client: &Client,
    relay: &str,
    (due, ordinal): (Moment, Ordinal),
) -> Result<Vec<HeldEntry>, StoreError> {
    // PostgreSQL's times begin later than ours could.
    let due = due.max(0);
    #[expect(clippy::cast_precision_loss, reason = "exact for the next two centuries")]
    let due = due as f64;
    let rows = client.query(&scheduled(), &[&relay, &due, &ordinal]).await.map_err(Error::from)?;
    Ok(rows.iter().map(entry).collect::<Result<_, _>>()?)
}

fn entry(row: &Row) -> Result<HeldEntry, Error> {
    let number = |place: usize| u32::try_from(row.get::<_, i32>(place)).unwrap_or(0);
    let reason = row.get::<_, &str>(5).parse();
    let reason = reason.map_err(|_| Error::Protocol("a reason that is none".into()))?;
    let due: Option<i64> = row.get(8);
    let due = match reason {
        Reason::Topic | Reason::Parked => Some(0),
        Reason::Retry | Reason::Scheduled | Reason::Dead => due,
    };
    let lsn: PgLsn = row.get(3);
    Ok(HeldEntry {
        ordinal: row.get(0),
        id: row.get(1),
        xid: u32::try_from(row.get::<_, i64>(2)).unwrap_or(0),
        position: position(lsn, row.get(4)),
        hold: Hold { reason, attempts: number(6), exhausted: row.get(7), due, error: None },
        topic: row.get::<_, Option<String>>(9).map(Into::into),
        key: row.get::<_, Option<Vec<u8>>>(10).map(Into::into),
        max_attempts: row.get::<_, Option<i32>>(11).and_then(|most| u32::try_from(most).ok()),
        redelivery: row.get(12),
        bytes: usize::try_from(row.get::<_, i64>(13)).unwrap_or(0),
        since: row.get(15),
    })
}

/// How many are dead, and how many scheduled.
pub(super) async fn at_rest(client: &Client, relay: &str) -> Result<(u64, u64), StoreError> {
    let sql = "SELECT count(*) FILTER (WHERE reason = 'dead'), \
                      count(*) FILTER (WHERE reason = 'scheduled' AND request IS DISTINCT FROM 'publish') \
               FROM outboxd.held_event WHERE relay_id = $1";
    let row = client.query_one(sql, &[&relay]).await.map_err(Error::from)?;
    let count = |place| u64::try_from(row.get::<_, i64>(place)).unwrap_or(0);
    Ok((count(0), count(1)))
}

/// How many partitions topics have.
pub(super) async fn remember_partitions(
    client: &Client,
    relay: &str,
    epoch: i64,
    partitions: &[(String, i32)],
) -> Result<(), StoreError> {
    let (names, counts): (Vec<&str>, Vec<i32>) =
        partitions.iter().map(|(name, count)| (name.as_str(), *count)).unzip();
    let sql = "UPDATE outboxd.relay SET partitions = partitions || \
                  (SELECT jsonb_object_agg(e.name, e.count) \
                   FROM unnest($3::text[], $4::int4[]) AS e (name, count)) \
               WHERE relay_id = $1 AND epoch = $2";
    match client.execute(sql, &[&relay, &epoch, &names, &counts]).await.map_err(Error::from)? {
        1 => Ok(()),
        _ => Err(StoreError::Fenced),
    }
}

/// What is published of held events.
pub(super) async fn bodies(
    client: &Client,
    relay: &str,
    ordinals: &[Ordinal],
) -> Result<Vec<HeldBody>, StoreError> {
    let rows = client.query(BODIES, &[&relay, &ordinals]).await.map_err(Error::from)?;
    Ok(rows.iter().map(body).collect::<Result<_, _>>()?)
}

fn position(commit: PgLsn, index: i64) -> Position {
    let index = u32::try_from(index).unwrap_or(0);
    Position { commit: Lsn::from_wire(commit.into()), index }
}

fn body(row: &Row) -> Result<HeldBody, Error> {
    let pairs: Vec<(String, Option<String>)> = serde_json::from_str(row.get(4))
        .map_err(|_| Error::Protocol("headers of a held event that are none".into()))?;
    let mut headers = HeaderList::default();
    for (name, value) in &pairs {
        headers.add(name, value.as_deref());
    }
    let (partition, hash): (Option<i32>, Option<i64>) = (row.get(1), row.get(2));
    let hash = hash.and_then(|hash| u32::try_from(hash).ok());
    Ok(HeldBody {
        ordinal: row.get(0),
        event_type: row.get(10),
        position: position(row.get(11), row.get(12)),
        placement: partition.map(Placement::Fixed).or(hash.map(Placement::Hashed)),
        key: row.get::<_, Option<Vec<u8>>>(3).map(Into::into),
        headers,
        value: row.get::<_, Option<Vec<u8>>>(5).map(Into::into),
        error_code: row.get(6),
        error: row.get(7),
        failed_at: row.get(8),
        timestamp: row.get(9),
    })
}

/// What operators want of the relay and of single events.
pub(super) async fn orders(client: &Client, relay: &str) -> Result<Orders, StoreError> {
    let sql =
        "SELECT paused, paused_topics, partitions::text FROM outboxd.relay WHERE relay_id = $1";
    let row = client.query_one(sql, &[&relay]).await.map_err(Error::from)?;
    let partitions: BTreeMap<String, i32> = serde_json::from_str(row.get(2)).unwrap_or_default();
    let requested = client.query(&requested(), &[&relay]).await.map_err(Error::from)?;
    let mut requests = Vec::new();
    for row in &requested {
        let request = row.get::<_, Option<&str>>(14).and_then(Request::by_name);
        if let Some(request) = request {
            requests.push((entry(row)?, request));
        }
    }
    Ok(Orders {
        paused: row.get(0),
        paused_topics: row.get(1),
        partitions: partitions.into_iter().collect(),
        requests,
    })
}

/// Where scheduled events find their rows.
pub(super) struct RowSource<'a> {
    pub(super) table: &'a TableName,
    pub(super) columns: &'a [String],
    pub(super) id: &'a str,
    pub(super) id_type: &'a str,
}

/// The rows of scheduled events, in the same order.
pub(super) async fn due_rows(
    client: &Client,
    relay: &str,
    source: &RowSource<'_>,
    events: &[HeldEntry],
) -> Result<Vec<DueRow>, StoreError> {
    let mut rows = vec![DueRow::NotYet; events.len()];
    look(client, source, events, &mut rows).await?;
    let missing: Vec<Ordinal> = events
        .iter()
        .zip(&rows)
        .filter(|(_, row)| **row == DueRow::NotYet)
        .map(|(event, _)| event.ordinal)
        .collect();
    if missing.is_empty() {
        return Ok(rows);
    }
    // Who can be seen by now and is still not there is gone.
    let visible = client.query(VISIBLE, &[&relay, &missing]).await.map_err(Error::from)?;
    let visible: Vec<Ordinal> = visible.iter().map(|row| row.get(0)).collect();
    look(client, source, events, &mut rows).await?;
    for (event, row) in events.iter().zip(&mut rows) {
        if *row == DueRow::NotYet && visible.contains(&event.ordinal) {
            *row = DueRow::Gone;
        }
    }
    Ok(rows)
}

/// Fills in the rows that are there, of those that were not found before.
async fn look(
    client: &Client,
    source: &RowSource<'_>,
    events: &[HeldEntry],
    rows: &mut [DueRow],
) -> Result<(), StoreError> {
    let RowSource { table, columns, id, id_type } = source;
    let wanted: Vec<_> = events
        .iter()
        .zip(rows.iter())
        .filter(|(_, row)| **row == DueRow::NotYet)
        .map(|(event, _)| format!("{}::{id_type}", quote_literal(&event.id)))
        .collect();
    let list: Vec<_> = columns.iter().map(|name| format!("o.{}", quote_ident(name))).collect();
    let sql = format!(
        "SELECT o.{id}::text, {} FROM {table} o WHERE o.{id} IN ({})",
        list.join(", "),
        wanted.join(", ")
    );
    for message in client.simple_query(&sql).await.map_err(Error::from)? {
        let SimpleQueryMessage::Row(found) = message else {
            continue;
        };
        let values = (1..=columns.len()).map(|place| found.get(place).map(|v| v.as_bytes().into()));
        let place = events.iter().position(|event| found.get(0) == Some(event.id.as_str()));
        if let Some(row) = place.and_then(|place| rows.get_mut(place)) {
            *row = DueRow::Found(values.collect());
        }
    }
    Ok(())
}
