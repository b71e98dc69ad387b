//! The cleanup: what is sent and old goes, and nothing else.

use std::time::{Duration, Instant};

use crate::metrics::{becomes, reaches};
use crate::support::database::Database;
use crate::support::records::Kafka;
use crate::support::relay::RelayOptions;
use crate::support::small::Small;
use crate::support::wait::{LATER, SOON, eventually, stays, until};
use crate::support::{server_apart, setting, unique};

/// Cleans up all the time what is older than an hour; tests make rows older.
pub fn cleaning(options: RelayOptions) -> RelayOptions {
    options.set("cleanup.after", "1h").set("cleanup.interval", "200ms")
}

/// Whatever is sent is old, at once.
pub fn at_once(options: RelayOptions) -> RelayOptions {
    options.set("cleanup.after", "1ms").set("cleanup.interval", "50ms")
}

/// A time that is older than what is kept.
pub const OLD: &str = "now() - interval '2 h'";

/// Writes rows as they are, whatever a relay would do to them.
pub async fn write(database: &Database, values: &[(&str, &str, &str)]) {
    for (id, status, sent_at) in values {
        let sql = format!(
            "INSERT INTO outbox (aggregate_type, aggregate_id, event_type, payload, status, sent_at) \
             VALUES ('tested', '{id}', 'Tested', '{{}}', '{status}', {sent_at})"
        );
        database.execute(&sql).await;
    }
}

/// The aggregates that have rows, in order.
pub async fn left(database: &Database, table: &str) -> Vec<String> {
    let sql = format!("SELECT aggregate_id FROM {table} ORDER BY 1");
    database.sql.query(&sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

pub async fn wait_until_left(database: &Database, expected: &[&str]) {
    let what = format!("{expected:?} to be left");
    eventually(what, SOON, || async { left(database, "outbox").await == expected }).await;
}

pub async fn stays_left(database: &Database, expected: &[&str]) {
    stays("what is left", Duration::from_secs(1), || async {
        left(database, "outbox").await == expected
    })
    .await;
}

#[tokio::test]
async fn old_sent_rows_go_and_every_other_row_stays() {
    let small = Small::new("cleanup").await;
    write(
        &small.database,
        &[
            ("old", "SENT", OLD),
            ("young", "SENT", "now() - interval '30 min'"),
            ("unknown", "SENT", "NULL"),
            ("failed", "FAILED", OLD),
            ("held", "SENT", OLD),
            ("held elsewhere", "SENT", OLD),
        ],
    )
    .await;
    let hold = "INSERT INTO outboxd.relay (relay_id) VALUES ('other'); \
         INSERT INTO outboxd.held_event (relay_id, event_id, reason) \
         SELECT CASE aggregate_id WHEN 'held' THEN 'outboxd' ELSE 'other' END, id::text, 'dead' \
         FROM outbox WHERE aggregate_id LIKE 'held%'";
    small.database.execute(hold).await;
    // Tried again, not due, and of no topic: all of them written a day ago.
    let missing = unique("cleanup_missing");
    for (key, topic, due) in [
        ("retrying", missing.as_str(), "NULL"),
        ("scheduled", small.topic.as_str(), "now() + interval '1 h'"),
    ] {
        let emit = format!(
            "SELECT outboxd.emit('tested', '{key}', 'Tested', '{{}}', topic => '{topic}', \
                scheduled_at => {due}, occurred_at => now() - interval '1 day')"
        );
        small.database.execute(&emit).await;
    }
    let expected =
        ["failed", "held", "held elsewhere", "retrying", "scheduled", "unknown", "young"];
    // Without a word, nothing goes.
    let relay = small.options().set("cleanup.interval", "100ms").start_ready().await;
    stays("all of it", Duration::from_secs(1), || async {
        left(&small.database, "outbox").await.len() == expected.len() + 1
    })
    .await;
    assert_eq!(relay.stop().await, 0);

    let options = small.options().set("cleanup.after", "1h").set("cleanup.interval", "200ms");
    let relay = options.start_ready().await;
    wait_until_left(&small.database, &expected).await;
    becomes(&relay, "outbox_cleaned_total{kind=\"row\"}", 1.0).await;
    relay.wait_until_logged("cleaned up").await;
    stays_left(&small.database, &expected).await;
    // A row that was young grows old.
    let age = format!("UPDATE outbox SET sent_at = {OLD} WHERE aggregate_id = 'young'");
    small.database.execute(&age).await;
    assert_eq!(relay.stop().await, 0);
    let relay = cleaning(small.options()).start_ready().await;
    wait_until_left(&small.database, &expected[..6]).await;
    assert_eq!(relay.stop().await, 0);
    small.clear().await;
}

/// Rows that the relay itself has sent, once they are old by the database's clock; and those that come
/// later, piece by piece as their time comes.
#[tokio::test]
async fn what_was_sent_goes_when_it_is_old() {
    let small = Small::new("cleanup_due").await;
    let options = small.options().set("cleanup.after", "2s").set("cleanup.interval", "100ms");
    let relay = options.start_ready().await;
    for round in 0..3 {
        let id = small.emit("k", round).await;
        let sent = format!("SELECT count(*) FROM outbox WHERE id = '{id}' AND status = 'SENT'");
        eventually("it to be SENT", SOON, || async { small.database.count(&sent).await == 1 })
            .await;
        let seen = Instant::now();
        eventually("it to go", SOON, || async {
            small.database.count("SELECT count(*) FROM outbox").await == 0
        })
        .await;
        assert!(seen.elapsed() > Duration::from_millis(1500), "it went after {:?}", seen.elapsed());
    }
    assert_eq!(relay.stop().await, 0);
    small.clear().await;
}

/// A table whose marker is a `timestamp` without time zone, and one that has a flag alone.
#[tokio::test]
async fn tables_with_other_marks_are_cleaned_by_them() {
    let database = Database::empty_at(&setting("DATABASE_URL"), "cleanup_marks").await;
    database
        .execute(
            "CREATE TABLE outbox (id text PRIMARY KEY, aggregate_id text NOT NULL, event_type text, \
                topic text, payload bytea, created_at timestamp NOT NULL, processed_at timestamp); \
             ALTER DATABASE CURRENT SET timezone = 'Asia/Tokyo'"
                .replace("CURRENT", &database.name)
                .as_str(),
        )
        .await;
    let utc = "(now() AT TIME ZONE 'UTC')";
    let fill = format!(
        "INSERT INTO outbox (id, aggregate_id, created_at, processed_at) VALUES \
            ('1', 'old', {utc}, {utc} - interval '61 min'), \
            ('2', 'young', {utc} - interval '1 day', {utc} - interval '59 min'), \
            ('3', 'unsent', {utc} - interval '1 day', NULL)"
    );
    database.execute(&fill).await;
    let options = cleaning(RelayOptions::new(&database, &Kafka::shared()));
    let options = options.set("outbox.start", "stream").set("envelope.format", "payload");
    let by_time = options.set("outbox.status.sent_at", "processed_at");
    assert_eq!(by_time.command_output(&["migrate"]).0, 0);
    let relay = by_time.start_ready().await;
    wait_until_left(&database, &["unsent", "young"]).await;
    stays_left(&database, &["unsent", "young"]).await;
    assert_eq!(relay.stop().await, 0);

    let flagged = format!(
        "ALTER TABLE outbox ADD COLUMN published boolean NOT NULL DEFAULT false, \
            ADD COLUMN due timestamptz; \
         UPDATE outbox SET published = true WHERE aggregate_id = 'young'; \
         INSERT INTO outbox (id, aggregate_id, created_at, published, due) VALUES \
            ('4', 'fresh', {utc}, true, NULL), \
            ('5', 'was scheduled', {utc} - interval '1 day', true, now())"
    );
    database.execute(&flagged).await;
    let by_flag =
        by_time.set("outbox.status.sent_at", "").set("outbox.status.sent_flag", "published");
    // A flag does not tell for how long.
    let (code, _, said) = by_flag.command_output(&["run"]);
    assert_eq!((code, said.contains("outbox.columns.occurred_at")), (78, true), "{said}");
    let by_flag = by_flag.set("outbox.columns.occurred_at", "created_at");
    let relay = by_flag.set("outbox.columns.scheduled_at", "due").start_ready().await;
    wait_until_left(&database, &["fresh", "unsent", "was scheduled"]).await;
    stays_left(&database, &["fresh", "unsent", "was scheduled"]).await;
    assert_eq!(relay.stop().await, 0);
    database.clear().await;
}

/// No transaction removes more, whatever there is to remove; and who refuses to go keeps
/// nobody else.
#[tokio::test]
async fn batches_are_bounded_and_rows_that_refuse_stay_alone() {
    let small = Small::new("cleanup_batch").await;
    let fill = format!(
        "INSERT INTO outbox (aggregate_type, aggregate_id, event_type, payload, status, sent_at) \
         SELECT 'tested', n::text, 'Tested', jsonb_build_object('text', repeat('x', 300)), 'SENT', {OLD} \
         FROM generate_series(1, 5000) n; \
         CREATE TABLE batches (count bigint); \
         CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
            INSERT INTO batches SELECT count(*) FROM gone; RETURN NULL; END $$; \
         CREATE TRIGGER note AFTER DELETE ON outbox REFERENCING OLD TABLE AS gone \
            FOR EACH STATEMENT EXECUTE FUNCTION note(); \
         CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
            RAISE 'not this one'; END $$; \
         CREATE TRIGGER refuse BEFORE DELETE ON outbox \
            FOR EACH ROW WHEN (old.aggregate_id = '2500') EXECUTE FUNCTION refuse()"
    );
    // The triggers are in another schema than the session's.
    small.database.execute(&fill.replace("batches", "public.batches")).await;
    let relay = cleaning(small.options()).set("cleanup.batch", "70").start_ready().await;
    relay.wait_until_logged("rows refuse to be removed").await;
    // Those of its page stay with it.
    let left = small.database.count("SELECT count(*) FROM outbox").await;
    assert!((1..100).contains(&left), "{left} rows are left");
    reaches(&relay, "outbox_relay_errors_total{component=\"cleanup\",class=\"refused\"}", 1.0)
        .await;
    let batches = "SELECT max(count) FROM public.batches";
    assert_eq!(small.database.count(batches).await, 70);
    small.database.execute("DROP TRIGGER refuse ON outbox").await;
    assert_eq!(relay.stop().await, 0);
    small.clear().await;
}

/// Nobody waits for a cleanup, and it waits for nobody: the application has rows locked, then the table;
/// events flow through all of it.
#[tokio::test]
async fn a_cleanup_holds_up_neither_the_statuses_nor_the_application() {
    const ROWS: i64 = 60_000;
    let server = server_apart();
    let database = Database::new_at(&server.url("postgres"), "cleanup_gentle").await;
    let small = Small::at(database, "cleanup_gentle").await;
    let fill = format!(
        "INSERT INTO outbox (aggregate_type, aggregate_id, event_type, payload, status, sent_at) \
         SELECT 'old', n::text, 'Tested', jsonb_build_object('text', repeat('x', 300)), 'SENT', {OLD} \
         FROM generate_series(1, {ROWS}) n"
    );
    small.database.execute(&fill).await;
    // The slot is made before anything is locked, which it would have to wait for.
    assert_eq!(small.options().start_ready().await.stop().await, 0);
    let locker = small.database.connect().await;
    let lock = "BEGIN; SELECT FROM outbox WHERE aggregate_id IN ('1', '30000') FOR UPDATE";
    locker.batch_execute(lock).await.unwrap();
    let options = cleaning(small.options());
    let relay = options.start_ready().await;
    let old = "SELECT count(*) FROM outbox WHERE aggregate_type = 'old'";
    let mut written = 0;
    until("all but the locked ones to go", LATER, || {
        written += 1;
        let n = written;
        let small = &small;
        async move {
            small.emit(&format!("k{n}"), n).await;
            (small.database.count(old).await == 2).then_some(())
        }
    })
    .await;
    assert!(written > 10, "{written} events were written meanwhile");
    // A disk that stands still for a second is not the cleanup's doing.
    let late = "SELECT (1000 * extract(epoch FROM percentile_disc(0.9) WITHIN GROUP \
                (ORDER BY sent_at - occurred_at)))::int8 FROM outbox WHERE aggregate_type = 'tested'";
    small.wait_for_sent(written + 2).await;
    let late = small.database.count(late).await;
    assert!(late < 1_000, "statuses came {late} ms after their events");
    assert!(!relay.has_logged("refused its status"));
    locker.batch_execute("ROLLBACK").await.unwrap();
    // Somebody has the table itself: the cleanup gives up at once and comes again.
    let lock = "BEGIN; LOCK TABLE outbox IN SHARE ROW EXCLUSIVE MODE";
    locker.batch_execute(lock).await.unwrap();
    let age = format!("UPDATE outbox SET sent_at = {OLD} WHERE aggregate_type = 'tested'");
    locker.batch_execute(&age).await.unwrap();
    locker.batch_execute("COMMIT").await.unwrap();
    assert_eq!(relay.stop().await, 0);
    small.clear().await;
}

/// Only who has the place cleans, and only as long: a standby waits, and who was replaced removes nothing.
#[tokio::test]
async fn only_the_relay_that_has_the_place_cleans() {
    let small = Small::new("cleanup_place").await;
    let first = small.options().start_ready().await;
    let standby = at_once(small.options()).start();
    standby.wait_for_state("standby").await;
    write(&small.database, &[("old", "SENT", OLD)]).await;
    stays_left(&small.database, &["old"]).await;
    assert_eq!(first.stop().await, 0);
    wait_until_left(&small.database, &[]).await;
    // Whoever takes over raises the epoch.
    small.database.execute("UPDATE outboxd.relay SET epoch = epoch + 1").await;
    write(&small.database, &[("old", "SENT", OLD)]).await;
    stays_left(&small.database, &["old"]).await;
    standby.kill().await;
    small.clear().await;
}

/// Without a right that it needs it says which, and cleans when it has it.
#[tokio::test]
async fn a_missing_right_to_remove_rows_is_told_and_granted_by_migrate() {
    let small = Small::new("cleanup_rights").await;
    let role = unique("cleaner");
    let create = format!("CREATE ROLE {role} LOGIN REPLICATION IN ROLE outboxd");
    small.database.execute(&create).await;
    write(&small.database, &[("old", "SENT", OLD)]).await;
    let url = small.database.url.replace("postgres@", &format!("{role}@"));
    let options = at_once(small.options());
    let limited = options.clone().set("postgres.url", &url);
    let (code, _, said) = limited.command_output(&["run"]);
    let grant = format!("GRANT DELETE ON \"public\".\"outbox\" TO \"{role}\"");
    assert_eq!((code, said.contains(&grant)), (77, true), "{said}");
    let delete = "SELECT count(*) FROM information_schema.table_privileges \
                  WHERE grantee = 'outboxd' AND table_name = 'outbox' AND privilege_type = 'DELETE'";
    assert_eq!(small.options().command_output(&["migrate"]).0, 0);
    assert_eq!(small.database.count(delete).await, 0, "who does not clean has no need of it");
    let (code, said, complaint) = options.command_output(&["migrate"]);
    assert_eq!(code, 0, "{said}{complaint}");
    assert_eq!(small.database.count(delete).await, 1);
    let relay = limited.start_ready().await;
    wait_until_left(&small.database, &[]).await;
    // It is taken away while the relay runs: a matter for the log, and for the next run.
    small.database.execute("REVOKE DELETE ON outbox FROM outboxd").await;
    write(&small.database, &[("old", "SENT", OLD)]).await;
    relay.wait_until_logged("could not clean up").await;
    reaches(&relay, "outbox_relay_errors_total{component=\"cleanup\",class=\"failed\"}", 1.0).await;
    small.database.execute("GRANT DELETE ON outbox TO outboxd").await;
    wait_until_left(&small.database, &[]).await;
    small.emit("k", 1).await;
    small.kafka.wait_for(&small.topic, 1).await;
    assert_eq!(relay.stop().await, 0);
    let server = small.database.url.clone();
    small.database.clear().await;
    let (base, _) = server.rsplit_once('/').unwrap();
    let server = crate::support::database::connect(&format!("{base}/postgres")).await;
    server.batch_execute(&format!("DROP ROLE {role}")).await.unwrap();
}

/// A large table: once it was read, it is not read again as long as nothing in it is old.
#[tokio::test]
async fn a_table_is_not_read_again_until_something_in_it_is_old() {
    const ROWS: i64 = 100_000;
    let small = Small::new("cleanup_reads").await;
    let fill = format!(
        "INSERT INTO outbox (aggregate_type, aggregate_id, event_type, payload, status, sent_at) \
         SELECT 'tested', n::text, 'Tested', jsonb_build_object('text', repeat('x', 300)), 'SENT', \
            now() - CASE WHEN n <= 100 THEN interval '2 h' ELSE interval '0' END \
         FROM generate_series(1, {ROWS}) n"
    );
    small.database.execute(&fill).await;
    small.database.execute("VACUUM ANALYZE outbox").await;
    let relay = cleaning(small.options()).set("reconcile.interval", "0s").start_ready().await;
    becomes(&relay, "outbox_cleaned_total{kind=\"row\"}", 100.0).await;
    let read = "SELECT seq_tup_read + coalesce(idx_tup_fetch, 0) FROM pg_stat_user_tables \
                WHERE relname = 'outbox'";
    // The figures of a session are told when it ends, and a run has one of its own.
    // The sweep has read all of it before.
    let first = until("the first run to be counted", SOON, || async {
        let read = small.database.count(read).await;
        (read >= 2 * ROWS).then_some(read)
    })
    .await;
    stays("what was read", Duration::from_secs(2), || async {
        small.database.count(read).await - first < ROWS / 2
    })
    .await;
    assert_eq!(relay.stop().await, 0);
    small.clear().await;
}
