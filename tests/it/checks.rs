//! The checks that all tests share, each held against what it has to convict.

use crate::support::checker::{Event, Truth, Verdict, out_of_line};
use crate::support::conduct::{DESCRIPTORS_MORE_AT_MOST, PAYLOAD, SECRET, Takes, Told, leaks};
use crate::support::database::WAL_KEPT_AT_MOST;
use crate::support::records::Record;
use crate::support::small::Small;
use crate::support::wait::{LATER, eventually};

/// Events of one key, numbered from 1.
fn truth(events: i64) -> Truth {
    let event = |seq: i64| {
        let (topic, key) = ("topic".to_owned(), "key".to_owned());
        (format!("event-{seq}"), Event { topic, key, seq, payload: seq.to_string() })
    };
    (1..=events).map(event).collect()
}

/// Their records, as they came.
fn records(came: &[i64]) -> Vec<Record> {
    let record = |(offset, seq): (usize, &i64)| Record {
        topic: "topic".to_owned(),
        partition: 0,
        offset: offset as i64,
        key: Some(b"key".to_vec()),
        headers: vec![("event_id".to_owned(), Some(format!("event-{seq}").into_bytes()))],
        value: Some(format!("{{\"n\":0,\"payload\":{seq}}}").into_bytes()),
        timestamp: 0,
    };
    came.iter().enumerate().map(record).collect()
}

/// Whether a verdict on what came of five events convicts.
fn convicts(came: &[i64], duplicates_at_most: usize) -> bool {
    let verdict = Verdict::new(&truth(5), &records(came));
    std::panic::catch_unwind(|| verdict.assert_kept(duplicates_at_most)).is_err()
}

#[test]
fn a_replay_goes_on_to_its_end() {
    for came in [
        [1, 2, 3, 4, 5].as_slice(),
        &[1, 2, 3, 2, 3, 4, 5],
        // A crash while it is repeated, and one that repeats nothing new.
        &[1, 2, 3, 1, 2, 1, 2, 3, 4, 5],
        &[1, 2, 3, 4, 5, 4, 5],
    ] {
        assert!(!convicts(came, 5), "{came:?}");
    }
    for came in [
        // Old ones that came again alone: in the middle, twice, at the end, and with a piece of what follows.
        [1, 2, 3, 4, 2, 5].as_slice(),
        &[1, 2, 3, 2, 2, 4, 5],
        &[1, 2, 3, 4, 5, 3],
        &[1, 2, 3, 4, 1, 2, 5],
    ] {
        assert!(convicts(came, 5), "{came:?}");
        let verdict = Verdict::new(&truth(5), &records(came));
        verdict.assert_kept_with_a_zombie(5);
    }
    assert!(convicts(&[1, 2, 3, 2, 3, 4, 5], 1), "more duplicates than may be");
    assert!(convicts(&[1, 2, 3, 5, 4], 5), "overtaken");
    assert!(convicts(&[1, 2, 3, 4], 5), "lost");
}

#[test]
fn what_is_not_in_the_order_of_commits_is_out_of_line() {
    let committed: Vec<_> = (1..=4).map(|seq| format!("event-{seq}")).collect();
    for came in [[1, 2, 3, 4].as_slice(), &[1, 2, 1, 2, 3, 4], &[1, 2, 3, 4, 2]] {
        assert_eq!(out_of_line(&committed, &records(came)), None, "{came:?}");
    }
    for came in [[1, 3, 2, 4].as_slice(), &[2, 1, 3, 4], &[1, 2, 3], &[1, 2, 3, 4, 5], &[]] {
        assert!(out_of_line(&committed, &records(came)).is_some(), "{came:?}");
    }
}

#[test]
fn what_takes_too_much_is_seen() {
    let good = Takes { memory: 300 << 20, descriptors: 60, descriptors_when_ready: 40 };
    assert_eq!(good.excess(), None);
    assert!(Takes { memory: 310 << 20, ..good }.excess().unwrap().contains("memory"));
    let descriptors = good.descriptors_when_ready + DESCRIPTORS_MORE_AT_MOST + 1;
    assert!(Takes { descriptors, ..good }.excess().unwrap().contains("descriptors"));
}

#[test]
fn what_is_not_for_logs_is_found_in_them() {
    let log = ["fine", "an event of key-1", SECRET, "{\"text\": \"canary-payload-canary\"}"];
    let log = log.map(str::to_owned);
    assert_eq!(leaks(&log), [&log[2], &log[3]]);
    assert!(log[3].contains(PAYLOAD));
}

#[test]
fn a_fault_that_nothing_tells_of_is_not_told() {
    let metrics = "outbox_producer_fatal_total 0\noutbox_relay_lag_seconds 0.4\n\
                   outbox_relay_state{state=\"standby\"} 0\nevents_dlq_total 2\n";
    let told = Told {
        metrics: metrics.to_owned(),
        log: vec!["{\"code\":\"OBX-4001\"}".to_owned()],
        status: serde_json::json!({"state": "stalled", "last_error": {"code": "OBX-4010"}}),
    };
    for sign in ["events_dlq_total", "OBX-4001", "OBX-4010", "stalled"] {
        assert!(told.of(sign), "{sign}");
    }
    for sign in [
        "outbox_producer_fatal_total",
        "outbox_relay_lag_seconds",
        "outbox_relay_state{state=\"standby\"}",
        "outbox_missed_events",
        "OBX-4002",
        "halted",
    ] {
        assert!(!told.of(sign), "{sign}");
    }
}

/// A relay that has nothing to tell of tells nothing; one whose slot nobody reads keeps its WAL.
#[tokio::test]
async fn a_slot_that_keeps_its_wal_is_seen() {
    let small = Small::new("keeps_wal").await;
    let slot = small.database.name.clone();
    let create = "SELECT 1 FROM pg_create_logical_replication_slot($1, 'pgoutput')";
    small.database.row(create, &[&slot]).await;
    let write = "SELECT pg_logical_emit_message(false, 'test', repeat('x', 1000000)) \
                 FROM generate_series(1, 40)";
    small.database.sql.query(write, &[]).await.unwrap();
    small.database.execute("CHECKPOINT").await;
    assert!(small.database.kept_wal(&slot).await > WAL_KEPT_AT_MOST, "it was not seen");
    // A transaction that is open in any database holds it back for a while.
    let advance = "SELECT pg_replication_slot_advance($1, pg_current_wal_lsn())";
    eventually("the WAL to be let go", LATER, || async {
        small.database.execute("CHECKPOINT").await;
        small.database.row(advance, &[&slot]).await;
        small.database.kept_wal(&slot).await < WAL_KEPT_AT_MOST
    })
    .await;
    small.clear().await;
}
