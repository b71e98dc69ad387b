//! Rows that the stream is past and that are unsent: found, named, published.

use std::time::Duration;

use crate::metrics::becomes;
use crate::support::relay::RelayOptions;
use crate::support::small::Small;
use crate::support::unique;
use crate::support::wait::{LATER, SOON, eventually, stays, until};

/// What `outboxd reconcile` reports.
pub fn report(options: &RelayOptions, arguments: &[&str]) -> serde_json::Value {
    let arguments = [&["reconcile", "-o", "json"], arguments].concat();
    let (code, said, complaint) = options.command_output(&arguments);
    assert_eq!(code, 0, "{complaint}");
    serde_json::from_str(&said).unwrap()
}

async fn numbers(small: &Small, count: usize) -> Vec<i64> {
    let records = small.kafka.wait_for(&small.topic, count).await;
    records.iter().map(|record| record.json()["payload"]["n"].as_i64().unwrap()).collect()
}

/// The table leaves the publication and comes back; or the publication is made anew. What was
/// written meanwhile no stream brings.
#[tokio::test]
async fn what_a_lost_publication_missed_is_named_and_published_in_order() {
    for (lose, restore) in [
        (
            "ALTER PUBLICATION outboxd DROP TABLE outbox",
            "ALTER PUBLICATION outboxd ADD TABLE outbox",
        ),
        (
            "DROP PUBLICATION outboxd",
            "CREATE PUBLICATION outboxd FOR TABLE outbox WITH (publish = 'insert')",
        ),
    ] {
        let small = Small::new("missed").await;
        let mut relay = small.options().start_ready().await;
        small.emit("k", 1).await;
        small.wait_for_sent(1).await;
        small.database.execute(lose).await;
        let missed = [small.emit("k", 2).await, small.emit("k", 3).await];
        small.database.execute(restore).await;
        assert_eq!(relay.wait().await.code(), Some(73));
        assert!(relay.has_logged("OBX-2021"), "{}", relay.logged().join("\n"));
        let (code, _, said) = small.options().command_output(&["run"]);
        assert_eq!((code, said.contains("OBX-2021")), (73, true), "{said}");

        let found = report(&small.options(), &[]);
        assert_eq!(found["events"], serde_json::json!(missed), "{found}");
        assert_eq!((&found["missed"], &found["running"]), (&2.into(), &false.into()), "{found}");
        small.emit("k", 4).await;
        let found = report(&small.options(), &["--heal", "--yes"]);
        assert_eq!(found["healed"], true, "{found}");
        let relay = small.options().start_ready().await;
        small.emit("k", 5).await;
        small.wait_for_sent(5).await;
        assert_eq!(numbers(&small, 5).await, [1, 2, 3, 4, 5]);
        assert_eq!(report(&small.options(), &[])["missed"], 0);
        assert_eq!(relay.stop().await, 0);
        small.clear().await;
    }
}

const HELD_OR_SENT: &str = "SELECT count(*) FROM outbox o WHERE status = 'SENT' OR EXISTS \
    (SELECT FROM outboxd.held_event h WHERE h.event_id = o.id::text AND h.reason = 'scheduled')";

/// Somebody sets rows back by SQL: the running relay is asked to publish them.
#[tokio::test]
async fn a_running_relay_is_asked_to_publish_what_it_does_not_know() {
    let small = Small::new("set_back").await;
    let options = small.options();
    let relay = options.start_ready().await;
    for n in 1..=3 {
        small.emit("k", n).await;
    }
    small.wait_for_sent(3).await;
    assert_eq!(report(&options, &[])["missed"], 0);
    let back = "UPDATE outbox SET status = 'PENDING' WHERE (payload->>'n')::int > 1";
    small.database.execute(back).await;
    let found = report(&options, &[]);
    assert_eq!((&found["missed"], &found["running"]), (&2.into(), &true.into()), "{found}");
    assert_eq!(small.database.count(HELD_OR_SENT).await, 1, "without --heal nothing is changed");
    assert_eq!(report(&options, &["--heal", "--yes"])["healed"], true);
    eventually("it to be filed", SOON, || async { small.database.count(HELD_OR_SENT).await == 3 })
        .await;
    assert_eq!(report(&options, &[])["missed"], 0, "what is held is known");
    assert_eq!(relay.stop().await, 0);
    small.clear().await;
}

/// What a relay has not read yet, because it is behind, was not missed.
#[tokio::test]
async fn what_is_not_read_yet_is_not_missed() {
    let small = Small::new("behind").await;
    let options = small.options().set("kafka.in_flight_events", "5").set("held.max_events", "1");
    let options = options.set("reconcile.interval", "200ms").set("reconcile.after", "0s");
    let relay = options.start_ready().await;
    let missing = unique("behind_missing");
    for n in 0..30 {
        small.database.emit("tested", &format!("k{n}"), &missing, "{}").await;
    }
    relay.wait_for_state("stalled").await;
    stays("no alarm", Duration::from_secs(3), || async {
        !relay.has_logged("rows are unsent that the stream is past")
    })
    .await;
    small.kafka.create_topic(&missing, 1, &[]).await;
    small.wait_for_sent(30).await;
    becomes(&relay, "outbox_missed_events", 0.0).await;
    assert!(!relay.has_logged("rows are unsent that the stream is past"));
    assert_eq!(relay.stop().await, 0);
    small.clear().await;
}

#[tokio::test]
async fn a_patrol_warns_of_missed_rows_and_heals_them_where_it_may() {
    let small = Small::new("patrol").await;
    let options = small.options().set("reconcile.interval", "200ms");
    let patient = options.set("reconcile.after", "1h");
    let relay = patient.start_ready().await;
    for n in 1..=3 {
        small.emit("k", n).await;
    }
    small.wait_for_sent(3).await;
    let back = "UPDATE outbox SET status = 'PENDING' WHERE (payload->>'n')::int > 1";
    small.database.execute(back).await;
    stays("patient", Duration::from_secs(2), || async {
        relay.metric("outbox_missed_events").await == 0.0
    })
    .await;
    assert_eq!(relay.stop().await, 0);
    let relay = patient.set("reconcile.after", "0s").start_ready().await;
    becomes(&relay, "outbox_missed_events", 2.0).await;
    relay.wait_until_logged("rows are unsent that the stream is past").await;
    assert_eq!(small.database.count(HELD_OR_SENT).await, 1);
    assert_eq!(relay.stop().await, 0);
    let healing = small.options().set("reconcile.interval", "200ms").set("reconcile.after", "0s");
    let relay = healing.set("reconcile.heal", "true").start_ready().await;
    eventually("them to be filed", SOON, || async {
        small.database.count(HELD_OR_SENT).await == 3
    })
    .await;
    becomes(&relay, "outbox_missed_events", 0.0).await;
    assert_eq!(relay.stop().await, 0);
    small.clear().await;
}

/// A large table: no round reads all of it, and in the end a row that was set back is found.
#[tokio::test]
async fn a_patrol_reads_what_is_new_and_a_part_of_the_rest() {
    const ROWS: i64 = 150_000;
    let small = Small::new("large_patrol").await;
    let fill = format!(
        "INSERT INTO outbox (aggregate_type, aggregate_id, event_type, payload, status, sent_at) \
         SELECT 'tested', n::text, 'Tested', jsonb_build_object('text', repeat('x', 300)), 'SENT', \
                now() FROM generate_series(1, {ROWS}) n"
    );
    small.database.execute(&fill).await;
    small.database.execute("VACUUM ANALYZE outbox").await;
    let pages = "SELECT pg_relation_size('outbox') / 8192";
    let pages = small.database.count(pages).await;
    assert!(pages > 3 * 4096, "{pages} pages are not many");
    let relay = small.options().set("reconcile.interval", "2s").set("reconcile.after", "0s");
    let relay = relay.start_ready().await;
    let read = "SELECT seq_tup_read FROM pg_stat_user_tables WHERE relname = 'outbox'";
    let mut last = small.database.count(read).await;
    for _ in 0..3 {
        small.emit("k", 1).await;
        let now = until("the next round", SOON, || async {
            let now = small.database.count(read).await;
            (now > last).then_some(now)
        })
        .await;
        assert!(now - last < ROWS / 3, "{} of {ROWS} rows were read", now - last);
        last = now;
    }
    let back = "UPDATE outbox SET status = 'PENDING' WHERE ctid = '(5000,1)'";
    small.database.execute(back).await;
    eventually("it to be found", LATER, || async {
        relay.metric("outbox_missed_events").await == 1.0
    })
    .await;
    assert_eq!(relay.stop().await, 0);
    small.clear().await;
}
