//! Events that are to be published at a time.

use std::time::Duration;

use crate::reconcile::report;
use crate::support::small::Small;
use crate::support::wait::{SOON, eventually, stays};

/// Writes an event that is due in so many milliseconds; gives its id.
async fn schedule(small: &Small, key: &str, n: i64, millis: i64) -> String {
    let sql = "SELECT outboxd.emit('tested', $1, 'Tested', jsonb_build_object('n', $2::int8), \
               topic => $3, scheduled_at => now() + $4::int8 * interval '1 ms')::text";
    small.database.row(sql, &[&key, &n, &small.topic, &millis]).await.get(0)
}

async fn held(small: &Small) -> i64 {
    let sql = "SELECT count(*) FROM outboxd.held_event WHERE reason = 'scheduled'";
    small.database.count(sql).await
}

async fn wait_until_held(small: &Small, count: i64) {
    eventually(format!("{count} to be scheduled"), SOON, || async { held(small).await == count })
        .await;
}

#[tokio::test]
async fn a_scheduled_event_goes_within_100_ms_of_its_time_and_blocks_nobody() {
    let small = Small::new("scheduled").await;
    let relay = small.options().start_ready().await;
    // The topic is known by then.
    small.emit("z", 0).await;
    small.wait_for_sent(1).await;
    let mut ids = Vec::new();
    for n in 0..5 {
        ids.push(schedule(&small, "a", n, 2_000 + 300 * n).await);
    }
    let at_once = small.emit("a", 100).await;
    wait_until_held(&small, 5).await;
    eventually("the status to say so", SOON, || async {
        relay.status().await["held"]["scheduled"] == 5
    })
    .await;
    small.database.wait_until_confirmed(&small.database.name).await;
    let records = small.kafka.wait_for(&small.topic, 7).await;
    let order: Vec<&str> = records.iter().skip(1).map(|record| record.event_id()).collect();
    assert_eq!(order[0], at_once, "the key does not wait");
    assert_eq!(order[1..], ids);
    for (record, id) in records.iter().skip(2).zip(&ids) {
        let sql = "SELECT (extract(epoch FROM scheduled_at) * 1000)::int8 FROM outbox \
                   WHERE id::text = $1";
        let due: i64 = small.database.row(sql, &[id]).await.get(0);
        let late = record.timestamp - due;
        assert!((0..=100).contains(&late), "{late} ms after its time");
    }
    small.wait_for_sent(7).await;
    assert_eq!(held(&small).await, 0);
    assert_eq!(relay.stop().await, 0);
    small.clear().await;
}

#[tokio::test]
async fn schedules_survive_a_restart_and_equal_times_keep_their_order() {
    let small = Small::new("schedule_restart").await;
    let options = small.options();
    let relay = options.start_ready().await;
    let sql = format!(
        "WITH due AS (SELECT now() + interval '8 s' AS at) \
         SELECT outboxd.emit('tested', 'a', 'Tested', jsonb_build_object('n', n), \
         topic => '{}', scheduled_at => due.at) FROM due, generate_series(1, 50) n",
        small.topic
    );
    small.database.execute(&sql).await;
    wait_until_held(&small, 50).await;
    relay.kill().await;
    let relay = options.start_ready().await;
    let records = small.kafka.wait_for(&small.topic, 50).await;
    let order: Vec<i64> =
        records.iter().map(|record| record.json()["payload"]["n"].as_i64().unwrap()).collect();
    assert_eq!(order, (1..=50).collect::<Vec<_>>());
    small.wait_for_sent(50).await;
    assert_eq!(relay.stop().await, 0);
    small.clear().await;
}

#[tokio::test]
async fn a_scheduled_row_is_published_as_it_is_when_due_moved_or_not_at_all() {
    let small = Small::new("schedule_edit").await;
    let relay = small.options().start_ready().await;
    let edited = schedule(&small, "a", 1, 6_000).await;
    let deleted = schedule(&small, "a", 2, 6_000).await;
    let moved = schedule(&small, "a", 3, 6_000).await;
    wait_until_held(&small, 3).await;
    let edit = format!("UPDATE outbox SET payload = '{{\"n\": 10}}' WHERE id = '{edited}'");
    let delete = format!("DELETE FROM outbox WHERE id = '{deleted}'");
    let shift = format!(
        "UPDATE outbox SET scheduled_at = scheduled_at + interval '2 s' WHERE id = '{moved}'"
    );
    for sql in [edit, delete, shift] {
        small.database.execute(&sql).await;
    }
    let records = small.kafka.wait_for(&small.topic, 1).await;
    assert_eq!(records[0].event_id(), edited);
    assert_eq!(records[0].json()["payload"]["n"], 10);
    wait_until_held(&small, 1).await;
    let audit = |action: &str, id: &str| {
        format!("SELECT count(*) FROM outboxd.audit WHERE action = '{action}' AND target = '{id}'")
    };
    for (action, id) in [("schedule cancelled", &deleted), ("schedule moved", &moved)] {
        eventually(format!("{action} to be recorded"), SOON, || async {
            small.database.count(&audit(action, id)).await == 1
        })
        .await;
    }
    let records = small.kafka.wait_for(&small.topic, 2).await;
    assert_eq!(records[1].event_id(), moved);
    stays("two records", Duration::from_millis(500), || async {
        small.kafka.read(&[&small.topic]).len() == 2
    })
    .await;
    small.wait_for_sent(2).await;
    assert_eq!(relay.stop().await, 0);
    small.clear().await;
}

const HOUR: i64 = 3_600_000;

async fn move_to(small: &Small, id: &str, time: &str) {
    let sql = format!("UPDATE outbox SET scheduled_at = {time} WHERE id = '{id}'");
    small.database.execute(&sql).await;
}

async fn holds(small: &Small, id: &str, condition: &str) -> bool {
    let sql =
        format!("SELECT count(*) FROM outboxd.held_event WHERE event_id = '{id}' AND {condition}");
    small.database.count(&sql).await == 1
}

/// The publication carries no updates: the rows of scheduled events are looked at from time to time.
/// A round for missed rows takes a minute at least, because they can be on their way.
#[tokio::test]
async fn a_row_that_is_moved_does_not_wait_behind_missed_ones() {
    let small = Small::new("schedule_beside").await;
    let options = small.options().set("reconcile.interval", "200ms");
    let relay = options.set("reconcile.after", "1h").start_ready().await;
    small.emit("b", 0).await;
    small.wait_for_sent(1).await;
    small.database.execute("UPDATE outbox SET status = 'PENDING', sent_at = NULL").await;
    let looked = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                  AND application_name LIKE '%reconcile%' AND now() - state_change > interval '1 s'";
    eventually("a round that waits", SOON, || async { small.database.count(looked).await > 0 })
        .await;
    let soon = schedule(&small, "a", 1, HOUR).await;
    wait_until_held(&small, 1).await;
    move_to(&small, &soon, "now()").await;
    let records = small.kafka.wait_for(&small.topic, 2).await;
    assert_eq!(records[1].event_id(), soon);
    assert_eq!(relay.stop().await, 0);
    small.clear().await;
}

#[tokio::test]
async fn a_row_that_is_moved_to_an_earlier_time_goes_then() {
    for mode in ["update", "none"] {
        let small = Small::new("schedule_earlier").await;
        let options = small.options().set("outbox.status.mode", mode);
        let options = options.set("outbox.start", "stream").set("reconcile.interval", "200ms");
        let relay = options.start_ready().await;
        let soon = schedule(&small, "a", 1, HOUR).await;
        let never = schedule(&small, "a", 2, HOUR).await;
        let at_once = schedule(&small, "a", 3, HOUR).await;
        let deleted = schedule(&small, "a", 4, HOUR).await;
        let nearer = schedule(&small, "a", 5, 2 * HOUR).await;
        let left_alone = schedule(&small, "a", 6, HOUR).await;
        wait_until_held(&small, 6).await;
        move_to(&small, &never, "'infinity'").await;
        let sql = format!("SELECT outboxd.retry('{never}')");
        small.database.execute(&sql).await;
        eventually("it to be put off for ever", SOON, || {
            holds(&small, &never, "due_at > '9999-01-01' AND request IS NULL")
        })
        .await;
        move_to(&small, &soon, "now() + interval '1 s'").await;
        move_to(&small, &never, "now() + interval '2 s'").await;
        move_to(&small, &at_once, "NULL").await;
        move_to(&small, &nearer, "scheduled_at - interval '1 hour'").await;
        let sql = format!("DELETE FROM outbox WHERE id = '{deleted}'");
        small.database.execute(&sql).await;
        let records = small.kafka.wait_for(&small.topic, 3).await;
        let order: Vec<&str> = records.iter().map(|record| record.event_id()).collect();
        assert_eq!(order, [&at_once, &soon, &never], "{mode}");
        wait_until_held(&small, 2).await;
        for id in [&nearer, &left_alone] {
            eventually("an hour from now", SOON, || {
                holds(&small, id, "due_at < now() + interval '1 hour'")
            })
            .await;
        }
        let audit = format!(
            "SELECT count(*) FROM outboxd.audit \
             WHERE action = 'schedule cancelled' AND target = '{deleted}'"
        );
        assert_eq!(small.database.count(&audit).await, 1);
        // What was looked at once is not looked at again and again.
        let asked = "SELECT count(*) FROM outboxd.audit WHERE action = 'reconcile'";
        let count = small.database.count(asked).await;
        stays("the audit", Duration::from_secs(1), || async {
            small.database.count(asked).await == count
        })
        .await;
        assert_eq!(relay.stop().await, 0);
        small.clear().await;
    }
}

#[tokio::test]
async fn reconcile_finds_scheduled_rows_that_say_an_earlier_time() {
    let small = Small::new("schedule_reconcile").await;
    let options = small.options().set("reconcile.interval", "0s");
    let relay = options.start_ready().await;
    let moved = schedule(&small, "a", 1, HOUR).await;
    schedule(&small, "a", 2, HOUR).await;
    wait_until_held(&small, 2).await;
    assert_eq!(report(&options, &[])["earlier"], 0);
    move_to(&small, &moved, "now()").await;
    let found = report(&options, &[]);
    assert_eq!((&found["missed"], &found["earlier"]), (&0.into(), &1.into()), "{found}");
    assert_eq!(held(&small).await, 2, "it only looks");
    assert_eq!(report(&options, &["--heal", "--yes"])["healed"], true);
    let records = small.kafka.wait_for(&small.topic, 1).await;
    assert_eq!(records[0].event_id(), moved);
    small.wait_for_sent(1).await;
    assert_eq!(held(&small).await, 1);
    assert_eq!(relay.stop().await, 0);
    small.clear().await;
}

/// More than are kept in memory at once, all due at one time.
#[tokio::test]
async fn tens_of_thousands_of_due_times_take_bounded_memory_and_all_go() {
    let small = Small::new("schedule_many").await;
    let relay = small.options().start_ready().await;
    let sql = format!(
        "SELECT count(outboxd.emit('tested', 'k' || n % 100, 'Tested', jsonb_build_object('n', n), \
         topic => '{}', scheduled_at => now() + interval '20 s' + (n % 50) * interval '10 ms')) \
         FROM generate_series(1, 30000) n",
        small.topic
    );
    small.database.execute(&sql).await;
    wait_until_held(&small, 30_000).await;
    let before = relay.memory().0;
    assert!(before < 128 << 20, "{before} bytes");
    small.kafka.wait_for(&small.topic, 30_000).await;
    small.wait_for_sent(30_000).await;
    assert_eq!(held(&small).await, 0);
    assert_eq!(relay.stop().await, 0);
    small.clear().await;
}
