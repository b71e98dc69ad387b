//! Statuses that cannot be written at once: they are kept, and written by and by, beside the runs
//! that go on.

use std::time::Duration;

use crate::support::database::Database;
use crate::support::records::Kafka;
use crate::support::small::Small;
use crate::support::stage::Stage;
use crate::support::wait::{LATER, SOON, eventually, stays};
use crate::support::{server_apart, unique};

/// Every third row refuses its status, in every batch, as long as the table `mood` says so.
const MOODY: &str = "\
    CREATE TABLE mood (refuses boolean); INSERT INTO mood VALUES (true); \
    CREATE FUNCTION moody() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
        IF NEW.seq % 3 = 0 AND NEW.status = 'SENT' AND (SELECT refuses FROM public.mood) \
        THEN RAISE EXCEPTION 'not in the mood'; END IF; RETURN NEW; END $$; \
    CREATE TRIGGER moody BEFORE UPDATE ON outbox FOR EACH ROW EXECUTE FUNCTION moody()";

const UNWRITTEN: &str = "SELECT count(*) FROM outboxd.ledger WHERE unwritten";

/// Catching up and settling share a session, and a run with refused rows is a transaction of many
/// statements: neither may come between the other's.
#[tokio::test]
async fn many_refused_statuses_hold_up_nothing_and_are_all_written_in_the_end() {
    let stage = Stage::new("moody", 50).await;
    stage.database.execute(MOODY).await;
    let relay = stage.options().start_ready().await;
    stage.workload.write(&stage.database, 2_500).await;
    eventually("more refused ones than one look takes", LATER, || async {
        stage.database.count(UNWRITTEN).await > 500
    })
    .await;
    stage.database.wait_until_confirmed(&stage.slot()).await;
    assert_eq!(relay.metric("outbox_replication_reconnects_total").await, 0.0);
    let sent = "SELECT count(*) FROM outbox WHERE status = 'SENT' AND seq % 3 = 0";
    assert_eq!(stage.database.count(sent).await, 0, "the rows' own rule holds");

    stage.database.execute("UPDATE mood SET refuses = false").await;
    stage.check(0).await;
    eventually("an empty ledger", SOON, || async {
        stage.database.count("SELECT count(*) FROM outboxd.ledger").await == 0
    })
    .await;
    assert_eq!(relay.stop().await, 0);
    stage.clear().await;
}

/// A constraint that is checked at the commit refuses its own row, not the run.
#[tokio::test]
async fn a_deferred_constraint_refuses_its_own_row_alone() {
    let stage = Stage::new("late_rule", 20).await;
    let rule = "CREATE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
            IF NEW.seq = 5 AND NEW.status = 'SENT' THEN RAISE EXCEPTION 'late'; END IF; \
            RETURN NULL; END $$; \
        CREATE CONSTRAINT TRIGGER late AFTER UPDATE ON outbox DEFERRABLE INITIALLY DEFERRED \
            FOR EACH ROW EXECUTE FUNCTION late()";
    stage.database.execute(rule).await;
    let relay = stage.options().start_ready().await;
    stage.workload.write(&stage.database, 200).await;
    let pending = "SELECT count(*) FROM outbox WHERE status = 'PENDING'";
    eventually("all but one", SOON, || async { stage.database.count(pending).await == 1 }).await;
    assert_eq!(stage.database.count(UNWRITTEN).await, 1);
    stage.database.wait_until_confirmed(&stage.slot()).await;
    assert_eq!(relay.stop().await, 0);
    stage.clear().await;
}

/// An application that locks the whole table for longer than any of our timeouts.
#[tokio::test]
async fn a_locked_table_ends_no_session() {
    let server = server_apart();
    let database = Database::new_at(&server.url("postgres"), "locked_table").await;
    let stage = Stage::at(database, Kafka::shared(), "locked_table", 20).await;
    let relay = stage.options().start_ready().await;
    stage.workload.write(&stage.database, 100).await;
    stage.check(0).await;
    let application = stage.database.connect().await;
    application.batch_execute("BEGIN; LOCK TABLE outbox IN ACCESS EXCLUSIVE MODE").await.unwrap();
    // Longer than the monitor waits for a lock, between two of its looks.
    let session = || async { relay.metric("outbox_replication_reconnects_total").await == 0.0 };
    stays("the session", Duration::from_secs(12), session).await;
    application.batch_execute("COMMIT").await.unwrap();
    stage.workload.write(&stage.database, 100).await;
    stage.check(0).await;
    assert_eq!(relay.metric("outbox_replication_reconnects_total").await, 0.0);
    assert_eq!(relay.stop().await, 0);
    stage.clear().await;
}

/// What the role of `0004_roles.sql` needs besides, in the mode that deletes rows, is named before
/// anything is published.
#[tokio::test]
async fn mode_delete_works_with_the_rights_that_it_names() {
    let stage = Stage::new("delete_rights", 10).await;
    stage.database.execute("ALTER ROLE outboxd PASSWORD 'test'").await;
    let (_, host) = stage.database.url.split_once('@').unwrap();
    let url = format!("postgres://outboxd:test@{host}");
    let options = stage.options().set("outbox.status.mode", "delete").set("postgres.url", &url);
    let (code, said, _) = options.command_output(&["doctor", "-o", "json"]);
    assert_eq!(code, 77, "{said}");
    let report: serde_json::Value = serde_json::from_str(&said).unwrap();
    let findings = report["findings"].as_array().unwrap();
    for finding in findings.iter().filter(|finding| finding["severity"] == "error") {
        stage.database.execute(finding["fix"].as_str().unwrap()).await;
    }
    let relay = options.start_ready().await;
    stage.workload.write(&stage.database, 200).await;
    eventually("an empty table", SOON, || async {
        stage.database.count("SELECT count(*) FROM outbox").await == 0
    })
    .await;
    assert_eq!(relay.stop().await, 0);
    stage.clear().await;
}

/// A failure is shown in the row in every mode. A right that this needs is asked for at the start, and
/// not by the first failure.
#[tokio::test]
async fn the_rights_to_show_a_failure_are_asked_for_at_the_start_in_every_mode() {
    let mut small = Small::new("failure_rights").await;
    small.topic = unique("failure_rights");
    small.kafka.create_topic(&small.topic, 1, &[("max.message.bytes", "2000")]).await;
    small.database.execute("ALTER ROLE outboxd PASSWORD 'test'").await;
    let (_, host) = small.database.url.split_once('@').unwrap();
    let options = small.options().set("postgres.url", &format!("postgres://outboxd:test@{host}"));
    let options = options.set("outbox.start", "stream").set("retry.max_attempts", "1000");
    for (failed, mode) in [(1, "ledger"), (2, "none"), (3, "delete")] {
        let options = options.clone().set("outbox.status.mode", mode);
        if mode == "delete" {
            small.database.execute("GRANT DELETE ON outbox TO outboxd").await;
        }
        // What `outboxd migrate` grants is enough.
        let (code, said, _) = options.command_output(&["doctor"]);
        assert_eq!(code, 0, "{mode}: {said}");
        small.database.execute("REVOKE UPDATE (last_error) ON outbox FROM outboxd").await;
        let grant = "GRANT UPDATE (\"last_error\") ON \"public\".\"outbox\" TO \"outboxd\";";
        let (code, said, _) = options.command_output(&["doctor"]);
        assert_eq!((code, said.contains(grant)), (77, true), "{mode}: {said}");
        let (code, _, said) = options.command_output(&["run"]);
        assert_eq!((code, said.contains("OBX-2003")), (77, true), "{mode}: {said}");
        assert!(said.contains(grant), "{mode}: {said}");
        // A column that is not written needs no right.
        let without = options.clone().set("outbox.status.last_error", "");
        assert_eq!(without.command_output(&["doctor"]).0, 0, "{mode}");

        small.database.execute(grant).await;
        let relay = options.start_ready().await;
        let payload = format!("{{\"pad\": \"{}\"}}", "x".repeat(4000));
        small.database.emit("tested", mode, &small.topic, &payload).await;
        let shown =
            "SELECT count(*) FROM outbox WHERE status = 'FAILED' AND last_error IS NOT NULL";
        eventually(format!("{mode}: the failure"), SOON, || async {
            small.database.count(shown).await == failed
        })
        .await;
        assert_eq!(relay.stop().await, 0);
    }
    small.clear().await;
}

/// What a sweep noted for the stream is forgotten once the position is past it.
#[tokio::test]
async fn what_a_sweep_noted_is_forgotten_in_the_end() {
    let stage = Stage::new("forgets", 20).await;
    stage.workload.write(&stage.database, 500).await;
    let (code, said, _) = stage.options().command_output(&["slot", "create"]);
    assert_eq!(code, 0, "{said}");
    stage.workload.write(&stage.database, 500).await;
    let relay = stage.options().start_ready().await;
    stage.workload.write(&stage.database, 500).await;
    stage.check(0).await;
    eventually("an empty ledger", SOON, || async {
        stage.database.count("SELECT count(*) FROM outboxd.ledger").await == 0
    })
    .await;
    assert_eq!(relay.stop().await, 0);
    let relay = stage.options().start_ready().await;
    stage.workload.write(&stage.database, 100).await;
    stage.check(0).await;
    assert_eq!(relay.stop().await, 0);
    stage.clear().await;
}
