//! The library for writers, and `outboxd.emit()`: what they write, what they refuse, and what they
//! say of duplicates.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use outboxd::writer::{PAYLOAD_BYTES, Uuid};
use outboxd::{AddError, Added, Event, MemoryOutbox, Outbox, Writer};
use serde_json::json;
use serde_json::value::RawValue;
use tokio_postgres::Client;

use crate::support::database::{Database, connect};
use crate::support::small::Small;
use crate::support::unique;

fn outbox() -> Outbox {
    Outbox::new("public.outbox").unwrap()
}

fn event(key: &str, n: i64) -> Event {
    Event::new("tested", key, "Tested", json!({"n": n}))
}

async fn drop_without_slot(database: Database) {
    database.clear().await;
}

#[tokio::test]
async fn an_event_is_written_with_all_that_it_says() {
    let mut database = Database::new("writing").await;
    let at = UNIX_EPOCH + Duration::from_micros(1_700_000_000_123_456);
    let id = Uuid::from_u128(7);
    let full = Event::new("order", "o-1", "OrderPlaced", json!({"total": 42.5}))
        .id(id)
        .header("traceparent", "00-1")
        .topic("orders.v1")
        .partition_key("k")
        .tenant_id("t")
        .schema_version(3)
        .dedup_key("d")
        .occurred_at(at)
        .scheduled_at(at + Duration::from_secs(1))
        .max_attempts(9);
    let transaction = database.sql.transaction().await.unwrap();
    assert_eq!(outbox().add(&transaction, &full).await.unwrap(), Added::New(id));
    let bare = outbox().add(&transaction, &event("o-2", 1)).await.unwrap().id().unwrap();
    transaction.commit().await.unwrap();

    let row = "SELECT (to_jsonb(o) - '{seq,created_at}'::text[])::text FROM outbox o WHERE id = $1";
    let full: serde_json::Value =
        serde_json::from_str(database.row(row, &[&id]).await.get(0)).unwrap();
    let mut expected = json!({
        "id": id.to_string(), "aggregate_type": "order", "aggregate_id": "o-1",
        "event_type": "OrderPlaced", "payload": {"total": 42.5}, "headers": {"traceparent": "00-1"},
        "topic": "orders.v1", "partition_key": "k", "tenant_id": "t", "schema_version": 3,
        "dedup_key": "d", "max_attempts": 9, "status": "PENDING", "attempts": 0,
    });
    for (name, value) in full.as_object().unwrap() {
        match name.as_str() {
            "occurred_at" => assert_eq!(value, "2023-11-14T22:13:20.123456+00:00"),
            "scheduled_at" => assert_eq!(value, "2023-11-14T22:13:21.123456+00:00"),
            _ => assert_eq!(*value, expected[name].take(), "{name}"),
        }
    }
    let default = "SELECT count(*) FROM outbox WHERE id = $1 AND headers = '{}' AND topic IS NULL \
                   AND dedup_key IS NULL AND schema_version = 1 AND occurred_at = created_at \
                   AND scheduled_at IS NULL AND max_attempts IS NULL";
    assert_eq!(database.row(default, &[&bare]).await.get::<_, i64>(0), 1);
    drop_without_slot(database).await;
}

#[tokio::test]
async fn an_event_is_there_if_and_only_if_its_transaction_commits() {
    let mut small = Small::new("writing_commit").await;
    let topic = small.topic.clone();
    let relay = small.options().start_ready().await;
    let outbox = outbox();
    let transaction = small.database.sql.transaction().await.unwrap();
    assert!(outbox.add(&transaction, &event("k", 0).topic(&topic)).await.unwrap().is_new());
    transaction.rollback().await.unwrap();
    let mut transaction = small.database.sql.transaction().await.unwrap();
    let savepoint = transaction.savepoint("s").await.unwrap();
    assert!(outbox.add(&savepoint, &event("k", 1).topic(&topic)).await.unwrap().is_new());
    savepoint.rollback().await.unwrap();
    let events: Vec<_> = (2..6).map(|n| event("k", n).topic(&topic)).collect();
    let added = outbox.add_all(&transaction, &events).await.unwrap();
    transaction.commit().await.unwrap();

    small.wait_for_sent(4).await;
    let records = small.kafka.read(&[&topic]);
    let published: Vec<_> = records.iter().map(|record| record.event_id().to_owned()).collect();
    let written: Vec<_> = added.iter().map(|added| added.id().unwrap().to_string()).collect();
    assert_eq!(published, written, "in the order in which they were given");
    assert_eq!(records[0].json()["payload"], json!({"n": 2}));
    assert_eq!(relay.stop().await, 0);
    small.clear().await;
}

#[tokio::test]
async fn a_duplicate_is_told_and_the_transaction_goes_on() {
    let mut database = Database::new("writing_twice").await;
    let (a, b, c) = (Uuid::from_u128(1), Uuid::from_u128(2), Uuid::from_u128(3));
    let outbox = outbox();
    let transaction = database.sql.transaction().await.unwrap();
    let first = event("k", 1).id(a).dedup_key("d1");
    assert_eq!(outbox.add(&transaction, &first).await.unwrap(), Added::New(a));
    assert_eq!(outbox.add(&transaction, &first).await.unwrap(), Added::Duplicate);
    let events = [
        event("k", 2).id(b).dedup_key("d1"), // an old key
        event("k", 3).id(b).dedup_key("d2"), // the id of the one before, which was not written
        event("k", 4).id(b).dedup_key("d2"), // the same again
        event("k", 5).id(b),                 // an id of this statement
        event("k", 6).id(c),
        event("k", 7).id(a), // an old id
    ];
    let added = outbox.add_all(&transaction, &events).await.unwrap();
    let twice = Added::Duplicate;
    assert_eq!(added, [twice, Added::New(b), twice, twice, Added::New(c), twice]);
    assert_eq!(outbox.add_all(&transaction, &[]).await.unwrap(), []);
    transaction.commit().await.unwrap();
    let written = "SELECT string_agg(payload ->> 'n', ' ' ORDER BY seq) FROM outbox";
    assert_eq!(database.row(written, &[]).await.get::<_, String>(0), "1 3 6");
    drop_without_slot(database).await;
}

/// Of two transactions with one dedup key at once, the second waits and then knows.
#[tokio::test]
async fn a_duplicate_of_an_open_transaction_waits_for_its_end() {
    let mut database = Database::new("writing_race").await;
    for (round, commits) in [(1, true), (2, false)] {
        let mut other = database.connect().await;
        let pid: i32 = other.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
        let event = event("k", round).dedup_key(round.to_string());
        let first = database.sql.transaction().await.unwrap();
        assert!(outbox().add(&first, &event).await.unwrap().is_new());
        let again = event.clone();
        let second = tokio::spawn(async move {
            let transaction = other.transaction().await.unwrap();
            let added = outbox().add(&transaction, &again).await.unwrap();
            transaction.commit().await.unwrap();
            added
        });
        let watcher = connect(&database.url).await;
        wait_until_blocked(&watcher, pid).await;
        if commits {
            first.commit().await.unwrap();
        } else {
            first.rollback().await.unwrap();
        }
        assert_eq!(second.await.unwrap().is_new(), !commits);
        assert_eq!(database.count("SELECT count(*) FROM outbox").await, round);
    }
    drop_without_slot(database).await;
}

pub async fn wait_until_blocked(watcher: &Client, pid: i32) {
    crate::support::wait::eventually("it to wait", crate::support::wait::SOON, || async {
        let blocked = "SELECT cardinality(pg_blocking_pids($1)) > 0";
        watcher.query_one(blocked, &[&pid]).await.unwrap().get(0)
    })
    .await;
}

/// Nothing that the check lets through is refused by PostgreSQL, and nothing else is refused by the
/// check: the measure is PostgreSQL's own.
#[tokio::test]
async fn what_is_checked_is_what_postgresql_would_refuse() {
    let mut database = Database::new("writing_checks").await;
    let mut random = fastrand::Rng::with_seed(5);
    let mut texts: Vec<String> = [
        r#""\u0000""#,
        r#""\\u0000""#,
        r#"{"\u0000": 1}"#,
        r#""\ud800""#,
        r#""\ud83d\ude00""#,
        r#""\udc00x""#,
        r#""\u00e9\u0001\u001f\u0022\u005c\u002f\/\b\f\n\r\t\u0008\u007f\u0080""#,
        "1e400",
        "1e131071",
        "1e131072",
        "1e-16383",
        "1e-16384",
        "0e131072",
        "-0",
        "-0.0",
        "-0e-3",
        "1.50",
        "12.5e1",
        "12.5e-1",
        "0.001e2",
        "100e-2",
        "123456789e-4",
        "null",
        "true",
        " [ ] ",
        "[1 ,2 , {\"a\" : { } , \"b\":[]}]",
        "\"é€😀\"",
        "0.0001e9",
        "9.99e20",
        "0e-5",
        "00",
        "1E+2",
    ]
    .map(str::to_owned)
    .into();
    texts.extend([100, 1000].map(|levels| "[".repeat(levels) + &"]".repeat(levels)));
    texts.extend((0..400).map(|_| random_json(&mut random, 4)));
    for text in texts {
        // What is no JSON does not come this far.
        let Ok(raw) = RawValue::from_string(text.clone()) else { continue };
        let sql = "SELECT octet_length($1::text::jsonb::text)::int4";
        let asked = database.sql.query_one(sql, &[&text]).await;
        let printed = asked.ok().map(|row| usize::try_from(row.get::<_, i32>(0)).unwrap());
        let event = Event::new("tested", "k", "Tested", raw);
        match printed {
            None => assert!(outbox().check(&event).is_err(), "{text} was let through"),
            Some(bytes) => {
                let exactly = outbox().payload_limit(bytes);
                assert!(exactly.check(&event).is_ok(), "{text}: {:?}", exactly.check(&event));
                assert!(outbox().payload_limit(bytes - 1).check(&event).is_err(), "{text}");
            }
        }
    }

    // The largest of everything.
    let letters: String = (0..2048).map(|_| random.alphanumeric()).collect();
    let largest = Event::new(&letters, &letters, &letters, "x".repeat(PAYLOAD_BYTES - 2))
        .dedup_key(&letters)
        .partition_key(&letters)
        .header(&letters, "\u{1}\"");
    let transaction = database.sql.transaction().await.unwrap();
    assert!(outbox().add(&transaction, &largest).await.unwrap().is_new());
    let small = event("k", 1);
    let larger = Event::new("tested", "k", "Tested", "x".repeat(PAYLOAD_BYTES - 1));
    let error = outbox().add_all(&transaction, &[small.clone(), larger.clone()]).await;
    assert!(matches!(error, Err(AddError::Invalid { at: 1, .. })), "{error:?}");
    // Nothing was sent, and the transaction is as good as before.
    assert!(outbox().add(&transaction, &small).await.unwrap().is_new());
    // PostgreSQL itself is of the same opinion.
    let unchecked = outbox().payload_limit(usize::MAX);
    let refused = unchecked.add(&transaction, &larger).await.unwrap_err();
    let AddError::Postgres { error, .. } = refused else { panic!("{refused}") };
    let refused = error.as_db_error().unwrap();
    assert_eq!(refused.constraint(), Some("outbox_payload_size"));
    drop(transaction);
    drop_without_slot(database).await;
}

/// JSON without a name twice in an object, in odd forms.
fn random_json(random: &mut fastrand::Rng, levels: usize) -> String {
    let blank = ["", " ", "\n\t"][random.usize(..3)];
    let kinds = if levels == 0 { 3 } else { 5 };
    let text = match random.usize(..kinds) {
        0 => ["true", "false", "null"][random.usize(..3)].to_owned(),
        1 => {
            let mut number = String::new();
            number += ["", "-"][random.usize(..2)];
            number += &random.u32(..2000).to_string();
            if random.bool() {
                number += &format!(".{:03}", random.u32(..1000));
            }
            if random.bool() {
                number += &format!("{}{}", ["e", "E+", "e-"][random.usize(..3)], random.u8(..30));
            }
            number
        }
        2 => {
            let parts =
                ["a", "é", "😀", "\\n", "\\u001f", "\\u00e9", "\\/", "\\\"", "\\ud83d\\ude00"];
            let text: String = (0..random.usize(..6)).map(|_| parts[random.usize(..9)]).collect();
            format!("\"{text}\"")
        }
        3 => {
            let items: Vec<_> =
                (0..random.usize(..4)).map(|_| random_json(random, levels - 1)).collect();
            format!("[{}]", items.join(","))
        }
        _ => {
            let member = |n: usize| format!("\"n{n}\"{blank}:{}", random_json(random, levels - 1));
            let members: Vec<_> = (0..3).map(member).collect();
            format!("{{{}}}", members.join(","))
        }
    };
    format!("{blank}{text}{blank}")
}

/// What unit tests with the double show is what the table does.
#[tokio::test]
async fn the_double_takes_and_refuses_what_the_table_does() {
    let mut database = Database::new("writing_double").await;
    let mut random = fastrand::Rng::with_seed(11);
    let (table, double) = (outbox(), MemoryOutbox::new());
    let transaction = database.sql.transaction().await.unwrap();
    for _ in 0..60 {
        let events: Vec<_> = (0..random.usize(1..8))
            .map(|n| {
                let mut event = event("k", n as i64);
                if random.bool() {
                    event = event.id(Uuid::from_u128(1 << 100 | random.u128(..20)));
                }
                if random.bool() {
                    event = event.dedup_key(random.u32(..20).to_string());
                }
                if random.u8(..40) == 0 {
                    event = event.tenant_id("");
                }
                event
            })
            .collect();
        let real = Writer::add_all(&table, &transaction, &events).await;
        let doubled = Writer::add_all(&double, &transaction, &events).await;
        match (real, doubled) {
            (Ok(real), Ok(doubled)) => {
                let is_new =
                    |added: Vec<Added>| added.iter().map(|a| a.is_new()).collect::<Vec<_>>();
                assert_eq!(is_new(real), is_new(doubled), "{events:?}");
            }
            (Err(real), Err(doubled)) => assert_eq!(real.to_string(), doubled.to_string()),
            (real, doubled) => panic!("{events:?}: {real:?}, {doubled:?}"),
        }
    }
    let count = transaction.query_one("SELECT count(*) FROM outbox", &[]).await.unwrap();
    assert_eq!(count.get::<_, i64>(0), double.events().len() as i64);
    assert!(double.events().len() > 50);
    drop(transaction);
    drop_without_slot(database).await;
}

/// Writers need little: docs/WRITING.md tells the rights.
#[tokio::test]
async fn a_writer_needs_only_the_rights_that_are_documented() {
    let database = Database::new("writing_rights").await;
    let role = unique("writer");
    database
        .execute(&format!(
            "CREATE ROLE {role} LOGIN; GRANT INSERT, SELECT (id, dedup_key) ON public.outbox TO {role};
             CREATE ROLE {role}_sql LOGIN; GRANT INSERT ON public.outbox TO {role}_sql;
             GRANT USAGE ON SCHEMA outboxd TO {role}_sql"
        ))
        .await;
    let (_, place) = database.url.split_once('@').unwrap();
    let mut rust = connect(&format!("postgres://{role}@{place}")).await;
    let transaction = rust.transaction().await.unwrap();
    let event = event("k", 1).dedup_key("d");
    assert!(outbox().add(&transaction, &event).await.unwrap().is_new());
    assert!(!outbox().add(&transaction, &event).await.unwrap().is_new());
    transaction.commit().await.unwrap();
    let sql = connect(&format!("postgres://{role}_sql@{place}")).await;
    let emit = "SELECT outboxd.emit('a', 'b', 'c', '{}', dedup_key => 'e') IS NULL";
    for is_twice in [false, true] {
        assert_eq!(sql.query_one(emit, &[]).await.unwrap().get::<_, bool>(0), is_twice);
    }
    drop((rust, sql));
    database
        .execute(&format!("DROP OWNED BY {role}, {role}_sql; DROP ROLE {role}, {role}_sql"))
        .await;
    drop_without_slot(database).await;
}

#[tokio::test]
async fn emit_writes_every_column_and_tells_a_duplicate_with_null() {
    let database = Database::new("writing_emit").await;
    database
        .execute("CREATE SCHEMA sales; CREATE TABLE sales.\"Out\" (LIKE outbox INCLUDING ALL)")
        .await;
    for table in ["public.outbox", "sales.\"Out\""] {
        let emit = |options: &str| {
            format!(
                "SELECT outboxd.emit('order', 'o-1', 'OrderPlaced', '{{\"n\": 1}}', outbox => '{table}'{options})"
            )
        };
        let id = "00000000-0000-0000-0000-000000000009";
        let all = format!(
            ", headers => '{{\"h\": \"v\"}}', topic => 't', partition_key => 'k', tenant_id => 'x', \
             schema_version => 2, dedup_key => 'd', occurred_at => '2020-01-01Z', \
             scheduled_at => '2020-01-02Z', max_attempts => 3, id => '{id}'"
        );
        let written: Option<Uuid> = database.row(&emit(&all), &[]).await.get(0);
        assert_eq!(written.map(|id| id.to_string()).as_deref(), Some(id));
        let as_said = format!(
            "SELECT count(*) FROM {table} WHERE (id::text, aggregate_type, aggregate_id, event_type, \
             payload, headers, topic, partition_key, tenant_id, schema_version, dedup_key, \
             occurred_at, scheduled_at, max_attempts) = ('{id}', 'order', 'o-1', 'OrderPlaced', \
             '{{\"n\": 1}}'::jsonb, '{{\"h\": \"v\"}}'::jsonb, 't', 'k', 'x', 2, 'd', \
             '2020-01-01Z'::timestamptz, '2020-01-02Z'::timestamptz, 3)"
        );
        assert_eq!(database.count(&as_said).await, 1);

        // The same dedup key, under whatever id: NULL, and the transaction goes on.
        let twice = format!("BEGIN; {}; {}; COMMIT", emit(&all), emit(", dedup_key => 'd'"));
        database.execute(&twice).await;
        let again: Option<Uuid> = database.row(&emit(", dedup_key => 'd'"), &[]).await.get(0);
        assert_eq!(again, None);
        // Without a dedup key, an id that is used again is a mistake.
        let error =
            database.sql.batch_execute(&emit(&format!(", id => '{id}'"))).await.unwrap_err();
        assert_eq!(error.code().unwrap().code(), "23505");
        assert_eq!(database.count(&format!("SELECT count(*) FROM {table}")).await, 1);
        let other: Option<Uuid> = database.row(&emit(", dedup_key => 'e'"), &[]).await.get(0);
        assert!(other.is_some());
    }
    // Without any option: the table of the configuration.
    let id: Option<Uuid> =
        database.row("SELECT outboxd.emit('a', 'b', 'c', '1')", &[]).await.get(0);
    assert!(id.is_some());
    drop_without_slot(database).await;
}

#[tokio::test]
async fn an_event_that_is_due_later_goes_when_it_is_due() {
    let mut small = Small::new("writing_due").await;
    let topic = small.topic.clone();
    let due = SystemTime::now() + Duration::from_secs(2);
    let transaction = small.database.sql.transaction().await.unwrap();
    let later = event("later", 1).topic(&topic).scheduled_at(due);
    let events = [later, event("now", 2).topic(&topic)];
    let added = outbox().add_all(&transaction, &events).await.unwrap();
    assert!(added.iter().all(|added| added.is_new()));
    transaction.commit().await.unwrap();
    let relay = small.options().start_ready().await;
    let records = small.kafka.wait_for(&topic, 2).await;
    let keys: Vec<_> = records.iter().map(|record| record.key()).collect();
    assert_eq!(keys, ["now", "later"]);
    assert_eq!(relay.stop().await, 0);
    small.clear().await;
}
