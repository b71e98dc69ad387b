//! `outboxd.retry()`: the same from SQL, for events that are held and for rows that no relay knows.

use tokio_postgres::error::SqlState;

use crate::support::database::{Database, connect};
use crate::support::held::{StandIn, hold};
use crate::support::records::Kafka;
use crate::support::relay::RelayOptions;

async fn with_relay(name: &str) -> Database {
    let database = Database::new(name).await;
    database.execute("INSERT INTO outboxd.relay (relay_id) VALUES ('outboxd')").await;
    database
}

async fn clear(database: Database) {
    database.clear().await;
}

/// What it did.
async fn retry(database: &Database, arguments: &str) -> String {
    database.row(&format!("SELECT outboxd.retry({arguments})"), &[]).await.get(0)
}

/// Why it did nothing.
async fn refusal(database: &Database, arguments: &str) -> (SqlState, String) {
    let sql = format!("SELECT outboxd.retry({arguments})");
    let error = database.sql.query(&sql, &[]).await.expect_err(&sql);
    let error = error.as_db_error().unwrap();
    (error.code().clone(), error.message().to_owned())
}

/// Reason and request of a held event.
async fn held(database: &Database, id: &str) -> (String, Option<String>) {
    let sql = "SELECT reason, request FROM outboxd.held_event WHERE event_id = $1";
    let row = database.row(sql, &[&id]).await;
    (row.get(0), row.get(1))
}

#[tokio::test]
async fn what_is_held_is_tried_again() {
    let database = with_relay("sql_retry_held").await;
    let mut relay = StandIn::listen(&database).await;
    for (id, reason) in [("e1", "retry"), ("e2", "dead"), ("e3", "scheduled")] {
        hold(&database, "outboxd", id, reason, "k").await;
        assert_eq!(retry(&database, &format!("'{id}'")).await, "retry");
        assert_eq!(held(&database, id).await, (reason.to_owned(), Some("retry".to_owned())));
        assert_eq!(relay.told().await, "outboxd");
    }
    let audit = "SELECT count(*) FROM outboxd.audit WHERE actor = session_user AND action = 'retry' \
                 AND relay_id = 'outboxd' AND target IN ('e1', 'e2', 'e3')";
    assert_eq!(database.count(audit).await, 3);
    // What it waits for has to be retried.
    hold(&database, "outboxd", "e4", "parked", "k").await;
    assert_eq!(retry(&database, "'e4'").await, "parked");
    assert_eq!(held(&database, "e4").await.1, None);
    assert!(relay.heard_nothing().await);
    // Nothing of it happened if the transaction did not.
    database.execute("BEGIN; SELECT outboxd.retry('e1'); ROLLBACK").await;
    assert_eq!(database.count(audit).await, 3);
    assert!(relay.heard_nothing().await);
    clear(database).await;
}

#[tokio::test]
async fn a_pending_row_that_no_relay_knows_is_to_be_published() {
    let database = with_relay("sql_retry_row").await;
    let mut relay = StandIn::listen(&database).await;
    let (first, second) =
        (database.emit("a", "1", "t", "{}").await, database.emit("a", "1", "t", "{}").await);
    // As people write it: by id, for many, in the order wanted.
    let sql = "SELECT outboxd.retry(id) FROM (SELECT id FROM outbox ORDER BY seq) AS o";
    let done = database.sql.query(sql, &[]).await.unwrap();
    assert!(done.iter().all(|row| row.get::<_, &str>(0) == "publish") && done.len() == 2);
    assert_eq!(relay.told().await, "outboxd");
    let sql = "SELECT event_id FROM outboxd.held_event WHERE reason = 'scheduled' \
               AND request = 'publish' AND due_at <= now() ORDER BY ordinal";
    let rows = database.sql.query(sql, &[]).await.unwrap();
    let ids: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(ids, [first.clone(), second]);
    // Again, and as somebody else may write an id: it stays one.
    let written = first.to_uppercase();
    assert_eq!(retry(&database, &format!("'{written}'")).await, "publish");
    assert_eq!(database.count("SELECT count(*) FROM outboxd.held_event").await, 2);
    clear(database).await;
}

#[tokio::test]
async fn what_cannot_be_published_is_refused_with_the_reason() {
    let database = with_relay("sql_retry_not").await;
    let id = database.emit("a", "1", "t", "{}").await;
    let quoted = format!("'{id}'");
    let state = SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE;
    for status in ["SENT", "FAILED"] {
        database.execute(&format!("UPDATE outbox SET status = '{status}'")).await;
        let (code, said) = refusal(&database, &quoted).await;
        assert_eq!((code, said), (state.clone(), format!("event {id} is {status}, not PENDING")));
    }
    database.execute("UPDATE outbox SET status = 'PENDING'").await;
    for verdict in ["sent", "skipped", "discarded"] {
        let write = format!(
            "INSERT INTO outboxd.ledger (relay_id, event_id, verdict) VALUES ('outboxd', '{id}', \
             '{verdict}') ON CONFLICT (relay_id, event_id) DO UPDATE SET verdict = excluded.verdict"
        );
        database.execute(&write).await;
        let (code, said) = refusal(&database, &quoted).await;
        assert_eq!(code, state);
        assert!(said.contains(&format!("is {verdict} (outboxd.ledger")), "{said}");
    }
    for nobody in ["'00000000-0000-0000-0000-000000000000'", "'no uuid'"] {
        let (code, said) = refusal(&database, nobody).await;
        assert_eq!(code, SqlState::NO_DATA_FOUND);
        assert!(said.contains("there is no event") && said.contains("outbox"), "{said}");
    }
    assert_eq!(database.count("SELECT count(*) FROM outboxd.held_event").await, 0);
    assert_eq!(database.count("SELECT count(*) FROM outboxd.audit").await, 0);
    clear(database).await;
}

#[tokio::test]
async fn the_relay_is_found_or_has_to_be_named() {
    let database = Database::new("sql_retry_relay").await;
    let id = database.emit("a", "1", "t", "{}").await;
    let quoted = format!("'{id}'");
    let state = SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE;
    assert_eq!(refusal(&database, &quoted).await.0, state, "none has run yet");
    database.execute("INSERT INTO outboxd.relay (relay_id) VALUES ('one'), ('two')").await;
    let (code, said) = refusal(&database, &quoted).await;
    assert_eq!(code, state);
    assert!(said.contains("which relay"), "{said}");
    assert_eq!(retry(&database, &format!("{quoted}, relay_id => 'two'")).await, "publish");
    // The one that holds it.
    assert_eq!(retry(&database, &quoted).await, "publish");
    hold(&database, "one", "e1", "dead", "k").await;
    assert_eq!(retry(&database, "'e1'").await, "retry");
    let audit = "SELECT string_agg(relay_id, ',' ORDER BY id) FROM outboxd.audit";
    assert_eq!(database.row(audit, &[]).await.get::<_, &str>(0), "two,two,one");
    clear(database).await;
}

/// Under its configured name, and as another table that the caller names.
#[tokio::test]
async fn other_tables_have_other_names_ids_and_labels() {
    let database =
        Database::empty_at(&crate::support::setting("DATABASE_URL"), "sql_retry_table").await;
    database
        .execute(
            "CREATE SCHEMA \"It's\"; \
             CREATE TABLE \"It's\".\"Out\" (\"Event Id\" bigint PRIMARY KEY, state text); \
             INSERT INTO \"It's\".\"Out\" VALUES (7, 'NEW'); \
             CREATE TABLE second (number int PRIMARY KEY, status text); \
             INSERT INTO second VALUES (8, 'new'); \
             CREATE TABLE third (name text)",
        )
        .await;
    let options = RelayOptions::new(&database, &Kafka::shared())
        .set("outbox.table", "\"It's\".\"Out\"")
        .set("outbox.columns.id", "Event Id");
    let (code, said, complaint) = options.command_output(&["migrate"]);
    assert_eq!(code, 0, "{said}{complaint}");
    database.execute("INSERT INTO outboxd.relay (relay_id) VALUES ('outboxd')").await;
    assert_eq!(retry(&database, "'7'").await, "publish");
    assert_eq!(refusal(&database, "'9'").await.0, SqlState::NO_DATA_FOUND);
    assert_eq!(refusal(&database, "'x'").await.0, SqlState::NO_DATA_FOUND);
    assert_eq!(retry(&database, "'8', outbox => 'second'").await, "publish");
    assert_eq!(refusal(&database, "'11', outbox => 'third'").await.0, SqlState::UNDEFINED_COLUMN);
    // The command line knows the table.
    database.execute("INSERT INTO \"It's\".\"Out\" VALUES (10, 'NEW')").await;
    let (code, said, complaint) = options.command_output(&["events", "retry", "10", "--dry-run"]);
    assert_eq!(code, 0, "{complaint}");
    assert!(said.contains("10 is a pending row that no relay knows"), "{said}");
    let held = "SELECT count(*) FROM outboxd.held_event WHERE event_id = '10'";
    assert_eq!(database.count(held).await, 0);
    let (code, said, complaint) = options.command_output(&["events", "retry", "10"]);
    assert_eq!((code, said.starts_with("retry: 1 event: filed")), (0, true), "{said}{complaint}");
    assert_eq!(database.count(held).await, 1);
    let actor = "SELECT count(*) FROM outboxd.audit WHERE actor LIKE 'cli:%' AND target = '10'";
    assert_eq!(database.count(actor).await, 1);
    clear(database).await;
}

/// With the caller's rights: the relay's role has them, an application's has not, and what
/// docs/OPERATING.md grants to an operator is enough.
#[tokio::test]
async fn it_needs_the_rights_of_an_operator() {
    let database = with_relay("sql_retry_rights").await;
    let held = database.emit("a", "1", "t", "{}").await;
    hold(&database, "outboxd", &held, "dead", "k").await;
    let row = database.emit("a", "1", "t", "{}").await;
    let operator = crate::support::unique("operator");
    let path = format!("{}/docs/OPERATING.md", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).unwrap();
    let grants = text.split("```sql").find(|block| block.contains("ROLE support")).unwrap();
    let grants = grants.split("```").next().unwrap().replace("support", &operator);
    database.execute(&grants).await;
    let application = crate::support::unique("application");
    database
        .execute(&format!("CREATE ROLE {application}; GRANT SELECT ON outbox TO {application}"))
        .await;
    for (role, allowed) in [("outboxd", true), (&operator, true), (&application, false)] {
        let session = connect(&database.url).await;
        session.batch_execute(&format!("SET ROLE {role}")).await.unwrap();
        for id in [&held, &row] {
            let done = session.query("SELECT outboxd.retry($1::text)", &[id]).await;
            assert_eq!(done.is_ok(), allowed, "{role}: {done:?}");
        }
        let pause =
            "UPDATE outboxd.relay SET paused = false, paused_topics = '{}', partitions = '{}'";
        assert_eq!(session.batch_execute(pause).await.is_ok(), allowed, "{role}");
        let moves = session.batch_execute("UPDATE outboxd.relay SET epoch = epoch + 1").await;
        assert_eq!(moves.is_ok(), role == "outboxd", "{role}");
    }
    // The commands need no more.
    database.execute("UPDATE outboxd.held_event SET request = NULL").await;
    let options = RelayOptions::new(&database, &Kafka::shared());
    let url = database.url.replace("postgres@", &format!("{operator}@"));
    let options = options.set("postgres.url", &url);
    let commands: [&[&str]; 7] = [
        &["events", "list"],
        &["events", "show", &held, "--value"],
        &["events", "retry", &held, &row],
        &["keys", "list"],
        &["dlq", "redrive", "--all"],
        &["pause", "--topic", "t"],
        &["resume"],
    ];
    for command in commands {
        let (code, _, said) = options.command_output(command);
        assert_eq!(code, 0, "{command:?}: {said}");
    }
    let drop = |role: &str| format!("DROP OWNED BY {role}; DROP ROLE {role};");
    database.execute(&(drop(&operator) + &drop(&application))).await;
    clear(database).await;
}
