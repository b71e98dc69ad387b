//! The cleanup of the ledger and the audit, and of rows whose status is in the ledger: nothing is published
//! again because of it.

use std::time::Duration;

use crate::cleanup::{OLD, at_once, cleaning, left, stays_left, wait_until_left, write};
use crate::metrics::becomes;
use crate::support::small::Small;
use crate::support::unique;
use crate::support::wait::{SOON, eventually, stays};

const LEDGER: &str = "SELECT count(*) FROM outboxd.ledger";

/// In mode `ledger` it is the ledger that says what was sent: row and entry go together.
#[tokio::test]
async fn rows_of_mode_ledger_go_with_their_entries() {
    let small = Small::new("cleanup_ledger").await;
    let options = small.options().set("outbox.status.mode", "ledger");
    let relay = options.start_ready().await;
    for key in ["old", "locked", "young", "gone"] {
        small.emit(key, 1).await;
    }
    eventually("four entries", SOON, || async { small.database.count(LEDGER).await == 4 }).await;
    assert_eq!(relay.stop().await, 0);
    // Somebody else's of the same name, another verdict whose row would be published without it, and one
    // that a row is to show yet.
    let prepare = format!(
        "DELETE FROM outbox WHERE aggregate_id = 'gone'; \
         UPDATE outboxd.ledger SET at = {OLD} WHERE event_id NOT IN \
            (SELECT id::text FROM outbox WHERE aggregate_id = 'young'); \
         INSERT INTO outboxd.ledger (relay_id, event_id, verdict, at) \
         SELECT 'other', event_id, verdict, at FROM outboxd.ledger"
    );
    small.database.execute(&prepare).await;
    write(&small.database, &[("discarded", "PENDING", "NULL"), ("unwritten", "PENDING", "NULL")])
        .await;
    let entries = format!(
        "INSERT INTO outboxd.ledger (relay_id, event_id, verdict, at, unwritten) \
         SELECT 'outboxd', id::text, CASE aggregate_id WHEN 'discarded' THEN 'discarded' ELSE 'sent' END, \
            {OLD}, aggregate_id = 'unwritten' \
         FROM outbox WHERE aggregate_id IN ('discarded', 'unwritten')"
    );
    small.database.execute(&entries).await;
    let locker = small.database.connect().await;
    let lock = "BEGIN; SELECT FROM outbox WHERE aggregate_id = 'locked' FOR UPDATE";
    locker.batch_execute(lock).await.unwrap();
    let relay = cleaning(options.clone()).start_ready().await;
    let expected = ["discarded", "locked", "unwritten", "young"];
    wait_until_left(&small.database, &expected).await;
    let ours = format!("{LEDGER} WHERE relay_id = 'outboxd'");
    eventually("the entry without a row to go", SOON, || async {
        small.database.count(&ours).await == 4
    })
    .await;
    stays_left(&small.database, &expected).await;
    assert_eq!(small.database.count(&format!("{LEDGER} WHERE relay_id = 'other'")).await, 4);
    let (code, found, said) = options.command_output(&["reconcile", "-o", "json"]);
    assert!(code == 0 && found.contains("\"missed\": 0"), "{found}{said}");
    assert_eq!(relay.stop().await, 0);
    locker.batch_execute("ROLLBACK").await.unwrap();
    // What the ledger says is heeded by a sweep, whatever was cleaned up.
    let (code, _, said) = options.command_output(&["slot", "recover", "--yes"]);
    assert_eq!(code, 0, "{said}");
    let relay = cleaning(options).start_sweeping().await;
    wait_until_left(&small.database, &["discarded", "unwritten", "young"]).await;
    assert_eq!(small.kafka.read(&[&small.topic]).len(), 4);
    assert_eq!(relay.stop().await, 0);
    small.clear().await;
}

/// What the rows say is not in need of an entry; what they do not say is.
#[tokio::test]
async fn entries_of_the_ledger_stay_as_long_as_a_row_depends_on_them() {
    let small = Small::new("cleanup_entries").await;
    write(
        &small.database,
        &[("a", "PENDING", "NULL"), ("b", "FAILED", "NULL"), ("c", "PENDING", "NULL")],
    )
    .await;
    let entries = format!(
        "INSERT INTO outboxd.ledger (relay_id, event_id, verdict, at, swept) \
         SELECT 'outboxd', id::text, 'discarded', {OLD}, aggregate_id = 'c' FROM outbox \
         UNION ALL SELECT 'outboxd', gen_random_uuid()::text, 'skipped', {OLD}, false \
         UNION ALL SELECT 'outboxd', gen_random_uuid()::text, 'skipped', now(), false; \
         INSERT INTO outboxd.audit (relay_id, action, at) VALUES \
            ('outboxd', 'old', {OLD}), ('outboxd', 'young', now()), ('other', 'old', {OLD})"
    );
    small.database.execute(&entries).await;
    let options = cleaning(small.options());
    let relay = options.start_ready().await;
    // Those of the discarded one that shows FAILED, and of the one that is gone.
    becomes(&relay, "outbox_cleaned_total{kind=\"ledger\"}", 2.0).await;
    becomes(&relay, "outbox_cleaned_total{kind=\"audit\"}", 1.0).await;
    stays("the others", Duration::from_secs(1), || async {
        small.database.count(&format!("{LEDGER} WHERE verdict = 'discarded'")).await == 2
            && small.database.count("SELECT count(*) FROM outboxd.audit").await == 2
    })
    .await;
    assert_eq!(left(&small.database, "outbox").await, ["a", "b", "c"], "no row was SENT");
    for arguments in [&["reconcile", "--heal", "--yes"][..], &["reconcile", "-o", "json"]] {
        assert_eq!(options.command_output(arguments).0, 0);
    }
    assert_eq!(relay.stop().await, 0);
    // While the stream may bring what a sweep has seen, also what was skipped is left out by its entry.
    let skip = format!(
        "INSERT INTO outboxd.ledger (relay_id, event_id, verdict, at) \
         VALUES ('outboxd', gen_random_uuid()::text, 'skipped', {OLD}); \
         UPDATE outboxd.relay SET sweep_until = 'FFFFFFFF/0'"
    );
    small.database.execute(&skip).await;
    let skipped = format!("{LEDGER} WHERE verdict = 'skipped' AND at < now() - interval '1 h'");
    let relay = options.start_ready().await;
    stays("its entry", Duration::from_secs(1), || async {
        small.database.count(&skipped).await == 1
    })
    .await;
    assert_eq!(relay.stop().await, 0);
    small.database.execute("UPDATE outboxd.relay SET sweep_until = NULL").await;
    let relay = options.start_ready().await;
    eventually("its entry to go", SOON, || async { small.database.count(&skipped).await == 0 })
        .await;
    assert_eq!(relay.stop().await, 0);
    let (code, _, said) = options.command_output(&["slot", "recover", "--yes"]);
    assert_eq!(code, 0, "{said}");
    let relay = options.start_sweeping().await;
    small.emit("k", 1).await;
    small.kafka.wait_for(&small.topic, 1).await;
    assert_eq!(small.kafka.read(&[&small.topic]).len(), 1, "nothing was published again");
    assert_eq!(relay.stop().await, 0);
    small.clear().await;
}

/// While the stream can bring again what a sweep has published, the ledger says what to leave out.
#[tokio::test]
async fn what_a_sweep_published_is_remembered_until_the_stream_has_passed_it() {
    let small = Small::new("cleanup_swept").await;
    let (code, said, _) = small.options().command_output(&["slot", "create"]);
    assert_eq!(code, 0, "{said}");
    for n in 0..20 {
        small.emit(&format!("k{n}"), n).await;
    }
    // Everything that is sent is old at once.
    let options = at_once(small.options());
    let relay = options.start_ready().await;
    eventually("all rows to go", SOON, || async {
        small.database.count("SELECT count(*) FROM outbox").await == 0
    })
    .await;
    becomes(&relay, "outbox_duplicates_suppressed_total", 20.0).await;
    assert_eq!(small.kafka.read(&[&small.topic]).len(), 20, "the stream brought them again");
    assert_eq!(relay.stop().await, 0);
    small.clear().await;
}

/// An event that is given up and discarded leaves its row, which says so, and nothing else.
#[tokio::test]
async fn what_is_left_of_a_discarded_event_goes() {
    let small = Small::new("cleanup_discarded").await;
    let narrow = unique("cleanup_narrow");
    small.kafka.create_topic(&narrow, 1, &[("max.message.bytes", "1000")]).await;
    let options = cleaning(small.options()).set("retry.max_attempts", "1");
    let options = options.set("dead_letter.topic", "");
    let relay = options.start_ready().await;
    let large = format!(r#"{{"text": "{}"}}"#, "x".repeat(5_000));
    let id = small.database.emit("tested", "k", &narrow, &large).await;
    let dead = "SELECT count(*) FROM outboxd.held_event WHERE reason = 'dead'";
    eventually("it to be dead", SOON, || async { small.database.count(dead).await == 1 }).await;
    let (code, _, said) = options.command_output(&["dlq", "discard", &id, "--yes"]);
    assert_eq!(code, 0, "{said}");
    eventually("it to be discarded", SOON, || async {
        small.database.count(dead).await == 0 && small.database.count(LEDGER).await == 1
    })
    .await;
    let age = format!("UPDATE outboxd.ledger SET at = {OLD}; UPDATE outboxd.audit SET at = {OLD}");
    small.database.execute(&age).await;
    assert_eq!(relay.stop().await, 0);
    let relay = options.start_ready().await;
    eventually("ledger and audit to be empty", SOON, || async {
        small.database.count(LEDGER).await == 0
            && small.database.count("SELECT count(*) FROM outboxd.audit").await == 0
    })
    .await;
    assert_eq!(small.database.statuses().await.get("FAILED"), Some(&1), "no FAILED row goes");
    assert_eq!(relay.stop().await, 0);
    small.clear().await;
}
