//! The library for consumers: an event changes something once, whatever comes twice.

use std::time::Duration;

use outboxd::inbox::{self, InboxError};
use tokio_postgres::Client;

use crate::support::database::{Database, connect};
use crate::support::records::Kafka;
use crate::support::relay::RelayOptions;
use crate::support::{setting, unique};
use crate::writing::wait_until_blocked;

/// A consumer's database, which has nothing of the outbox.
async fn consumer(name: &str) -> Database {
    let database = Database::empty_at(&setting("DATABASE_URL"), name).await;
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/migrations/0005_inbox.sql");
    database.execute(&std::fs::read_to_string(path).unwrap()).await;
    database.execute("CREATE TABLE effects (event_id text)").await;
    database
}

async fn process(client: &mut Client, id: &str) -> Result<bool, InboxError> {
    let transaction = client.transaction().await?;
    let is_first = inbox::process_once(&transaction, "billing", id).await?;
    if is_first {
        transaction.execute("INSERT INTO effects VALUES ($1)", &[&id]).await?;
    }
    transaction.commit().await?;
    Ok(is_first)
}

#[tokio::test]
async fn an_event_is_processed_once_per_consumer() {
    let mut database = consumer("inbox_once").await;
    let largest = "x".repeat(inbox::ID_BYTES);
    for (id, expected) in [("e1", true), ("e1", false), ("e2", true), (&largest, true)] {
        assert_eq!(process(&mut database.sql, id).await.unwrap(), expected, "{id}");
    }
    assert_eq!(database.count("SELECT count(*) FROM effects").await, 3);

    let transaction = database.sql.transaction().await.unwrap();
    let other = "x".repeat(inbox::CONSUMER_BYTES);
    assert!(inbox::process_once(&transaction, &other, "e1").await.unwrap());
    assert!(inbox::process_once(&transaction, &other, &largest).await.unwrap());
    let invalid = inbox::process_once(&transaction, "billing", "").await.unwrap_err();
    assert!(matches!(invalid, InboxError::Invalid { what: "event id", .. }));
    assert!(!inbox::process_once(&transaction, "billing", "e1").await.unwrap(), "it goes on");
    transaction.rollback().await.unwrap();

    // The same in SQL, and what was rolled back was not processed.
    let sql = format!("SELECT outboxd.process_once('{other}', 'e1')");
    for expected in [true, false] {
        assert_eq!(database.row(&sql, &[]).await.get::<_, bool>(0), expected);
    }
    database.clear().await;
}

#[tokio::test]
async fn the_second_of_two_at_once_waits_for_the_first() {
    let mut database = consumer("inbox_race").await;
    let watcher = connect(&database.url).await;
    for commits in [true, false] {
        let id = format!("e-{commits}");
        let mut other = database.connect().await;
        let pid: i32 = other.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
        let first = database.sql.transaction().await.unwrap();
        assert!(inbox::process_once(&first, "billing", &id).await.unwrap());
        let again = id.clone();
        let second = tokio::spawn(async move { process(&mut other, &again).await.unwrap() });
        wait_until_blocked(&watcher, pid).await;
        if commits {
            first.commit().await.unwrap();
        } else {
            first.rollback().await.unwrap();
        }
        assert_eq!(second.await.unwrap(), !commits);
    }

    // In a transaction that sees only its beginning, it is refused instead of being processed twice.
    let mut late = database.connect().await;
    let serial = late
        .build_transaction()
        .isolation_level(tokio_postgres::IsolationLevel::RepeatableRead)
        .start()
        .await
        .unwrap();
    serial.query_one("SELECT count(*) FROM effects", &[]).await.unwrap();
    assert!(process(&mut database.sql, "e-serial").await.unwrap());
    let refused = inbox::process_once(&serial, "billing", "e-serial").await.unwrap_err();
    let InboxError::Postgres(error) = refused else { panic!("{refused}") };
    assert_eq!(error.code().unwrap().code(), "40001");
    drop(serial);
    drop((late, watcher));
    database.clear().await;
}

#[tokio::test]
async fn what_is_old_is_forgotten_in_batches() {
    let database = consumer("inbox_clean").await;
    database
        .execute(
            "INSERT INTO outboxd.inbox SELECT 'c', n::text, now() - n * interval '1 hour'
             FROM generate_series(1, 100) n",
        )
        .await;
    let age = Duration::from_secs(50 * 3600 + 1800);
    for expected in [20, 20, 10, 0] {
        assert_eq!(inbox::clean(&database.sql, age, 20).await.unwrap(), expected);
    }
    let left = "SELECT max(event_id::int)::int8 FROM outboxd.inbox";
    assert_eq!(database.count(left).await, 50);
    assert_eq!(inbox::clean(&database.sql, Duration::MAX, 1000).await.unwrap(), 0);
    assert_eq!(inbox::clean(&database.sql, Duration::ZERO, 1000).await.unwrap(), 50);
    database.clear().await;
}

#[tokio::test]
async fn migrate_makes_the_inbox_alone_and_its_role_needs_little() {
    let database = Database::empty_at(&setting("DATABASE_URL"), "inbox_migrate").await;
    let options = RelayOptions::new(&database, &Kafka::shared());
    for _ in 0..2 {
        let (code, said, complaint) = options.command_output(&["migrate", "--inbox"]);
        assert_eq!((code, said.as_str()), (0, "0005_inbox.sql: applied\n"), "{complaint}");
    }
    let tables = "SELECT count(*) FROM pg_tables WHERE schemaname IN ('outboxd', 'public')";
    assert_eq!(database.count(tables).await, 1);
    let (code, printed, _) = options.command_output(&["migrate", "--inbox", "--print"]);
    assert!(code == 0 && printed.contains("CREATE TABLE IF NOT EXISTS outboxd.inbox"), "{printed}");
    let (_, printed, _) = options.command_output(&["migrate", "--print"]);
    assert!(!printed.contains("outboxd.inbox"), "{printed}");

    let role = unique("consumer");
    database
        .execute(&format!(
            "CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA outboxd TO {role};
             GRANT INSERT ON outboxd.inbox TO {role}; CREATE TABLE effects (event_id text);
             GRANT INSERT ON effects TO {role}"
        ))
        .await;
    let (_, place) = database.url.split_once('@').unwrap();
    let mut client = connect(&format!("postgres://{role}@{place}")).await;
    assert!(process(&mut client, "e1").await.unwrap());
    assert!(!process(&mut client, "e1").await.unwrap());
    assert!(inbox::clean(&client, Duration::ZERO, 1).await.is_err());
    database.execute(&format!("GRANT SELECT, DELETE ON outboxd.inbox TO {role}")).await;
    assert_eq!(inbox::clean(&client, Duration::ZERO, 1).await.unwrap(), 1);
    drop(client);
    database.execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await;
    database.clear().await;
}
