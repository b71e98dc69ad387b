//! Statuses: every mode, and everything that can keep one from being written.

use std::time::Duration;

use outboxd::demo::TempPostgres;

use crate::support::database::Database;
use crate::support::pg_bin;
use crate::support::small::Small;
use crate::support::stage::Stage;
use crate::support::wait::{SOON, eventually, stays};

/// How many events are SENT, and in how many of their rows that is a version that no index points to. The
/// rows themselves say so; the server's statistics count what was tried in vain, too.
const HEAP_ONLY: &str = "\
    WITH version AS MATERIALIZED ( \
        SELECT format('(%s,%s)', page, lp)::tid AS place, t_infomask2 & x'8000'::int <> 0 AS heap_only \
        FROM generate_series(0, pg_relation_size('outbox') / 8192 - 1) AS page, \
             heap_page_items(get_raw_page('outbox', page::int))) \
    SELECT count(*), count(*) FILTER (WHERE heap_only) \
    FROM outbox JOIN version ON outbox.ctid = place WHERE status = 'SENT'";

/// No index mentions a column that is written, and the page has room: updates are heap-only ones. Where all
/// of a page are updated at once, the last of fifteen may find no room (docs/adr/0009-fillfactor-50.md).
#[tokio::test]
async fn mode_update_writes_status_and_time_heap_only() {
    let stage = Stage::new("hot", 100).await;
    let relay = stage.options().start_ready().await;
    stage.workload.write(&stage.database, 5_000).await;
    stage.check(0).await;
    assert_eq!(relay.stop().await, 0);
    stage.database.execute("CREATE EXTENSION pageinspect").await;
    let row = stage.database.row(HEAP_ONLY, &[]).await;
    let (sent, heap_only): (i64, i64) = (row.get(0), row.get(1));
    assert!(sent >= 5_000 && heap_only * 100 >= sent * 90, "{heap_only} of {sent} are heap-only");
    let early = "SELECT count(*) FROM outbox WHERE sent_at < created_at OR attempts <> 0";
    assert_eq!(stage.database.count(early).await, 0);
    stage.clear().await;
}

#[tokio::test]
async fn mode_ledger_leaves_the_row_alone() {
    let stage = Stage::new("ledger", 50).await;
    let relay = stage.options().set("outbox.status.mode", "ledger").start_ready().await;
    stage.workload.write(&stage.database, 1_000).await;
    let unsent = "SELECT count(*) FROM outboxd.event_verdict WHERE verdict IS DISTINCT FROM 'sent'";
    eventually("a verdict for each", SOON, || async { stage.database.count(unsent).await == 0 })
        .await;
    let ledger = "SELECT count(*) FROM outboxd.ledger WHERE relay_id = 'outboxd'";
    let truth = stage.database.count("SELECT count(*) FROM truth").await;
    assert_eq!(stage.database.count(ledger).await, truth);
    assert_eq!(stage.database.statuses().await.get("SENT"), None);
    assert_eq!(relay.stop().await, 0);
    let verdict =
        crate::support::checker::verdict(&stage.database, &stage.kafka, &stage.workload).await;
    verdict.assert_kept(0);
    stage.clear().await;
}

#[tokio::test]
async fn mode_delete_removes_the_row() {
    let stage = Stage::new("delete", 50).await;
    let relay = stage.options().set("outbox.status.mode", "delete").start_ready().await;
    stage.workload.write(&stage.database, 1_000).await;
    eventually("an empty table", SOON, || async {
        stage.database.count("SELECT count(*) FROM outbox").await == 0
    })
    .await;
    assert_eq!(stage.database.count("SELECT count(*) FROM outboxd.ledger").await, 0);
    assert_eq!(relay.stop().await, 0);
    let verdict =
        crate::support::checker::verdict(&stage.database, &stage.kafka, &stage.workload).await;
    verdict.assert_kept(0);
    stage.clear().await;
}

#[tokio::test]
async fn mode_none_writes_nothing_but_the_position() {
    let stage = Stage::new("none", 50).await;
    let options = stage.options().set("outbox.status.mode", "none").set("outbox.start", "stream");
    let relay = options.start_ready().await;
    stage.workload.write(&stage.database, 1_000).await;
    stage.database.wait_until_confirmed(&stage.slot()).await;
    assert_eq!(stage.database.statuses().await.get("SENT"), None);
    assert_eq!(stage.database.count("SELECT count(*) FROM outboxd.ledger").await, 0);
    assert_eq!(relay.stop().await, 0);
    let verdict =
        crate::support::checker::verdict(&stage.database, &stage.kafka, &stage.workload).await;
    verdict.assert_kept(0);
    stage.clear().await;
}

/// An application holds a row that was sent: nobody waits for anybody. Opposite lock order makes
/// nobody a deadlock victim.
#[tokio::test]
async fn s8_a_locked_row_holds_up_neither_the_relay_nor_the_application() {
    let small = Small::new("s8").await;
    // The slot is made before: it would have to wait for the application's transaction.
    assert_eq!(small.options().start_ready().await.stop().await, 0);
    let ids = {
        let mut ids = Vec::new();
        for n in 0..20 {
            ids.push(small.emit(&format!("k{n}"), n).await);
        }
        ids
    };
    let application = small.database.connect().await;
    application.batch_execute("BEGIN").await.unwrap();
    let lock = |id: &str| format!("SELECT FROM outbox WHERE id = '{id}' FOR UPDATE");
    application.batch_execute(&lock(&ids[19])).await.unwrap();
    let relay = small.options().start_ready().await;
    small.wait_for_sent(19).await;
    small.database.wait_until_confirmed(&small.database.name).await;
    let kept = "SELECT count(*) FROM outboxd.ledger WHERE unwritten AND verdict = 'sent'";
    assert_eq!(small.database.count(kept).await, 1, "its status is durable elsewhere");
    // The application goes on in the other direction, without waiting long.
    let began = std::time::Instant::now();
    application.batch_execute(&lock(&ids[0])).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(3), "the application waited for us");
    application.batch_execute("COMMIT").await.unwrap();
    small.wait_for_sent(20).await;
    eventually("the ledger to be clear", SOON, || async { small.database.count(kept).await == 0 })
        .await;
    assert_eq!(small.kafka.read(&[&small.topic]).len(), 20);
    assert_eq!(relay.stop().await, 0);
    small.clear().await;
}

/// Many statuses that are late are all written, and none waits for those that cannot be.
#[tokio::test]
async fn s8_late_statuses_are_written_however_many_they_are() {
    let small = Small::new("s8_many").await;
    assert_eq!(small.options().start_ready().await.stop().await, 0);
    let insert = format!(
        "INSERT INTO outbox (aggregate_type, aggregate_id, event_type, payload, topic) \
         SELECT 'tested', 'k' || n, 'Tested', jsonb_build_object('n', n), '{}' \
         FROM generate_series(1, 400) n",
        small.topic
    );
    small.database.execute(&insert).await;
    let application = small.database.connect().await;
    application.batch_execute("BEGIN; SELECT FROM outbox FOR UPDATE").await.unwrap();
    let relay = small.options().start_ready().await;
    small.database.wait_until_confirmed(&small.database.name).await;
    let late = "SELECT count(*) FROM outboxd.ledger WHERE unwritten AND verdict = 'sent'";
    assert_eq!(small.database.count(late).await, 400);
    // The first hundred and some go on being refused.
    let check = "ALTER TABLE outbox ADD CONSTRAINT odd \
                 CHECK (status <> 'SENT' OR (payload->>'n')::int > 150) NOT VALID";
    application.batch_execute(check).await.unwrap();
    application.batch_execute("COMMIT").await.unwrap();
    small.wait_for_sent(250).await;
    eventually("the ledger to keep the refused ones", SOON, || async {
        small.database.count(late).await == 150
    })
    .await;
    assert_eq!(small.kafka.read(&[&small.topic]).len(), 400);
    assert_eq!(relay.stop().await, 0);
    small.clear().await;
}

/// A check that one row breaks does not keep the others of its batch from being SENT, and no
/// message quotes its payload.
#[tokio::test]
async fn s8_a_row_that_refuses_its_status_is_found_alone() {
    let small = Small::new("s8_check").await;
    for n in 0..50 {
        let payload = format!(r#"{{"n": {n}, "secret": "canary-payload"}}"#);
        small.database.emit("tested", &format!("k{n}"), &small.topic, &payload).await;
    }
    let check = "ALTER TABLE outbox ADD CONSTRAINT odd CHECK (status <> 'SENT' OR payload->>'n' <> '17') NOT VALID";
    small.database.execute(check).await;
    let relay = small.options().start_ready().await;
    small.wait_for_sent(49).await;
    small.database.wait_until_confirmed(&small.database.name).await;
    assert!(relay.has_logged("a row refused its status"));
    assert!(!relay.has_logged("canary-payload"), "a payload is in the log");
    let kept = "SELECT count(*) FROM outboxd.ledger WHERE unwritten";
    assert_eq!(small.database.count(kept).await, 1);
    // Others go on, and when the check is gone the row is SENT.
    small.emit("after", 100).await;
    small.wait_for_sent(50).await;
    small.database.execute("ALTER TABLE outbox DROP CONSTRAINT odd").await;
    small.wait_for_sent(51).await;
    assert_eq!(relay.stop().await, 0);
    small.clear().await;
}

/// A trigger that raises an error of its own is a row's doing, too.
#[tokio::test]
async fn a_trigger_that_refuses_a_status_stops_nothing() {
    let small = Small::new("trigger").await;
    small
        .database
        .execute(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
                IF NEW.aggregate_id = 'bad' THEN RAISE EXCEPTION 'no' USING ERRCODE = 'MY001'; END IF; \
                IF NEW.aggregate_id = 'lost' THEN PERFORM FROM nowhere_to_be_found; END IF; \
                RETURN NEW; END $$; \
             CREATE TRIGGER refuse BEFORE UPDATE ON outbox FOR EACH ROW EXECUTE FUNCTION refuse()",
        )
        .await;
    let relay = small.options().start_ready().await;
    for (n, key) in ["a", "bad", "lost", "b"].into_iter().enumerate() {
        small.emit(key, n as i64).await;
    }
    small.wait_for_sent(2).await;
    small.database.wait_until_confirmed(&small.database.name).await;
    assert_eq!(relay.stop().await, 0);
    small.clear().await;
}

/// Row security would make an update of nothing look like success. It is an error here, and
/// nothing is confirmed until it is mended.
#[tokio::test]
async fn s9_row_security_is_an_error_and_not_silence() {
    let server = TempPostgres::start(&pg_bin(), &[]).unwrap();
    let database = Database::new_at(&server.url("postgres"), "s9").await;
    let small = Small::at(database, "s9").await;
    small.database.execute("CREATE TABLE ids (id text)").await;
    // A role that is subject to row security, as a superuser is not.
    let url = small.database.url.replace("postgres://postgres@", "postgres://outboxd@");
    let options = small.options().set("postgres.url", &url);
    let relay = options.start_ready().await;
    small.emit("a", 1).await;
    small.wait_for_sent(1).await;
    small.database.execute("ALTER TABLE outbox ENABLE ROW LEVEL SECURITY").await;
    small.emit("b", 2).await;
    let mut relay = relay;
    assert_eq!(relay.wait().await.code(), Some(77));
    assert!(relay.has_logged("OBX-2003"), "{}", relay.logged().join("\n"));
    assert_eq!(small.database.statuses().await.get("PENDING"), Some(&1));
    small.database.execute("ALTER TABLE outbox DISABLE ROW LEVEL SECURITY").await;
    let relay = options.start_ready().await;
    small.wait_for_sent(2).await;
    assert_eq!(relay.stop().await, 0);
}

/// A commit that waits for a synchronous standby reaches us before anybody can see its row. "No
/// row" is not "deleted": the status is kept until the row can be seen.
#[tokio::test]
async fn s10_an_invisible_row_is_not_taken_for_a_deleted_one() {
    let server = TempPostgres::start(&pg_bin(), &[]).unwrap();
    let database = Database::new_at(&server.url("postgres"), "s10").await;
    let small = Small::at(database, "s10").await;
    let relay = small.options().start_ready().await;
    small.emit("warm", 0).await;
    small.wait_for_sent(1).await;
    // From now on commits wait for a standby that does not exist, the relay's own, too.
    small.database.execute("ALTER SYSTEM SET synchronous_standby_names = 'nosuch'").await;
    let local = "ALTER ROLE postgres SET synchronous_commit = on";
    small.database.execute(local).await;
    let writer = small.database.connect().await;
    let watcher = small.database.connect().await;
    small.database.execute("SELECT pg_reload_conf()").await;
    eventually("the setting", SOON, || async {
        let row = watcher.query_one("SHOW synchronous_standby_names", &[]).await.unwrap();
        row.get::<_, String>(0) == "nosuch"
    })
    .await;
    // A session shows it before commits heed it: that is the checkpointer's doing, which has read it
    // when it has made a checkpoint.
    watcher.batch_execute("CHECKPOINT").await.unwrap();
    let emit = format!(
        "SELECT outboxd.emit('tested', 'k', 'Tested', '{{\"n\": 1}}', topic => '{}')",
        small.topic
    );
    let commit = tokio::spawn(async move { writer.batch_execute(&emit).await });
    // It is in Kafka, and nobody can see it.
    small.kafka.wait_for(&small.topic, 2).await;
    let visible = "SELECT count(*) FROM outbox WHERE aggregate_id = 'k'";
    stays("the row invisible", Duration::from_secs(3), || async {
        watcher.query_one(visible, &[]).await.unwrap().get::<_, i64>(0) == 0
    })
    .await;
    // The standby is given up: the commit returns, and the row gets its status.
    watcher.batch_execute("ALTER SYSTEM RESET synchronous_standby_names").await.unwrap();
    watcher.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    commit.await.unwrap().unwrap();
    small.wait_for_sent(2).await;
    eventually("the ledger to be clear", SOON, || async {
        small.database.count("SELECT count(*) FROM outboxd.ledger WHERE unwritten").await == 0
    })
    .await;
    assert_eq!(small.kafka.read(&[&small.topic]).len(), 2);
    assert_eq!(relay.stop().await, 0);
}

/// A row that was deleted in its own transaction, or before its status was written, is published
/// all the same, and leaves nothing behind.
#[tokio::test]
async fn a_deleted_row_is_published_and_forgotten() {
    let small = Small::new("deleted").await;
    let relay = small.options().start_ready().await;
    let both = format!(
        "BEGIN; SELECT outboxd.emit('tested', 'k', 'Tested', '{{\"n\": 1}}', topic => '{}'); \
         DELETE FROM outbox; COMMIT",
        small.topic
    );
    small.database.execute(&both).await;
    small.emit("k", 2).await;
    let records = small.kafka.wait_for(&small.topic, 2).await;
    let order: Vec<_> =
        records.iter().map(|r| r.json()["payload"]["n"].as_i64().unwrap()).collect();
    assert_eq!(order, [1, 2]);
    small.wait_for_sent(1).await;
    eventually("the ledger to be clear", SOON, || async {
        small.database.count("SELECT count(*) FROM outboxd.ledger").await == 0
    })
    .await;
    assert_eq!(relay.stop().await, 0);
    small.clear().await;
}

/// Statuses go by the table's OID: a renamed table goes on being written, one that was swapped in
/// never is.
#[tokio::test]
async fn s16_a_renamed_table_is_written_a_swapped_one_is_not() {
    let small = Small::new("s16").await;
    let mut relay = small.options().start_ready().await;
    let id = small.emit("a", 1).await;
    small.wait_for_sent(1).await;
    // The swap, with a row of the same id in the new table, and an event between the two.
    let swap = format!(
        "BEGIN; CREATE TABLE fresh (LIKE outbox INCLUDING ALL); \
         INSERT INTO outbox (aggregate_type, aggregate_id, event_type, payload, topic) \
            VALUES ('tested', 'b', 'Tested', '{{\"n\": 2}}', '{}'); \
         INSERT INTO fresh (id, aggregate_type, aggregate_id, event_type, payload) \
            SELECT id, 'tested', 'x', 'Other', '{{}}' FROM outbox; \
         ALTER TABLE outbox RENAME TO outbox_old; ALTER TABLE fresh RENAME TO outbox; COMMIT",
        small.topic
    );
    small.database.execute(&swap).await;
    eventually("the old table's row to be SENT", SOON, || async {
        small.database.count("SELECT count(*) FROM outbox_old WHERE status = 'SENT'").await == 2
    })
    .await;
    assert!(relay.has_logged("the outbox table was renamed"));
    assert_eq!(small.kafka.read(&[&small.topic])[0].event_id(), id);
    assert_eq!(relay.wait().await.code(), Some(78), "the new table's rows are nobody's");
    assert!(relay.has_logged("OBX-2009") && relay.has_logged("another table is called"));
    let touched = "SELECT count(*) FROM outbox WHERE status <> 'PENDING'";
    assert_eq!(small.database.count(touched).await, 0);
    small.clear().await;
}

/// A table partitioned by status: our own update moves the row, which arrives as an insert with
/// status SENT. It is no new event.
#[tokio::test]
async fn s16_our_own_update_that_arrives_as_an_insert_is_no_event() {
    let database = Database::new("s16_parts").await;
    database
        .execute(
            "DROP PUBLICATION outboxd; DROP TABLE outbox CASCADE; \
             CREATE TABLE outbox (id uuid NOT NULL DEFAULT gen_random_uuid(), seq bigserial, \
                aggregate_type text NOT NULL, aggregate_id text NOT NULL, event_type text NOT NULL, \
                payload jsonb NOT NULL, topic text, status text NOT NULL DEFAULT 'PENDING', \
                sent_at timestamptz) PARTITION BY LIST (status); \
             CREATE TABLE outbox_pending PARTITION OF outbox FOR VALUES IN ('PENDING'); \
             CREATE TABLE outbox_sent PARTITION OF outbox FOR VALUES IN ('SENT'); \
             CREATE PUBLICATION outboxd FOR TABLE outbox \
                WITH (publish = 'insert', publish_via_partition_root = true)",
        )
        .await;
    let small = Small::at(database, "s16_parts").await;
    let relay = small.options().start_ready().await;
    for n in 0..10 {
        let sql = format!(
            "INSERT INTO outbox (aggregate_type, aggregate_id, event_type, payload, topic) \
             VALUES ('tested', 'k', 'Tested', '{{\"n\": {n}}}', '{}')",
            small.topic
        );
        small.database.execute(&sql).await;
    }
    small.wait_for_sent(10).await;
    small.database.wait_until_confirmed(&small.database.name).await;
    assert_eq!(small.kafka.read(&[&small.topic]).len(), 10);
    let skipped = relay.metric("outbox_publish_total{status=\"skipped\"}").await;
    assert_eq!(skipped, 10.0);
    assert_eq!(relay.stop().await, 0);
    small.clear().await;
}

/// Statuses cannot be written for a while: nothing is confirmed, nothing is lost, and it heals.
#[tokio::test]
async fn without_the_right_to_write_statuses_nothing_is_confirmed() {
    let server = TempPostgres::start(&pg_bin(), &[]).unwrap();
    let database = Database::new_at(&server.url("postgres"), "revoked").await;
    let small = Small::at(database, "revoked").await;
    let url = small.database.url.replace("postgres://postgres@", "postgres://outboxd@");
    let options = small.options().set("postgres.url", &url);
    let mut relay = options.start_ready().await;
    small.emit("a", 1).await;
    small.wait_for_sent(1).await;
    small.database.execute("REVOKE UPDATE (status) ON outbox FROM outboxd").await;
    let before = small.database.count("SELECT (pg_current_wal_lsn() - '0/0')::int8").await;
    small.emit("b", 2).await;
    assert_eq!(relay.wait().await.code(), Some(77));
    let confirmed = small.database.confirmed(&small.database.name).await.unwrap();
    assert!(confirmed <= u64::try_from(before).unwrap(), "{confirmed} is behind {before}");
    let (code, _, said) = options.command_output(&["run"]);
    assert_eq!(code, 77);
    assert!(said.contains("GRANT UPDATE (\"status\")"), "{said}");
    small.database.execute("GRANT UPDATE (status) ON outbox TO outboxd").await;
    let relay = options.start_ready().await;
    small.wait_for_sent(2).await;
    assert_eq!(relay.stop().await, 0);
}
