//! The consumer that docs/CONSUMERS.md shows, run as it is, on what a relay publishes.

use std::io::Read as _;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use outboxd::{Event, Outbox};
use serde_json::json;

use crate::support::database::Database;
use crate::support::small::Small;
use crate::support::wait::{LATER, SOON, eventually};
use crate::support::{setting, unique};

/// The process of a consumer, and where it finds things.
struct Consumer(Child);

impl Consumer {
    fn start(small: &Small, accounts: &Database, group: &str) -> Self {
        let program = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/consumers/consumer.py");
        let mut command = Command::new(setting("CONSUMER_PYTHON"));
        command.arg(program).env_clear().env("DATABASE_URL", &accounts.url);
        command.env("KAFKA_BOOTSTRAP_SERVERS", &small.kafka.servers);
        command.env("TOPIC", &small.topic).env("CONSUMER_GROUP", group);
        Self(command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap())
    }

    /// Nothing is finished, nobody is told.
    fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    /// Ends it in order, and gives the ids that it skipped.
    fn stop(mut self) -> Vec<String> {
        kill(Pid::from_raw(i32::try_from(self.0.id()).unwrap()), Signal::SIGTERM).unwrap();
        let mut said = String::new();
        self.0.stdout.take().unwrap().read_to_string(&mut said).unwrap();
        assert!(self.0.wait().unwrap().success(), "{said}");
        said.lines().filter_map(|line| line.strip_prefix("skipped ")).map(str::to_owned).collect()
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        // After a failed assertion nothing stays behind; one that has ended does not mind.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn pay(small: &mut Small, amounts: std::ops::RangeInclusive<i64>) {
    let topic = small.topic.clone();
    let events: Vec<_> = amounts
        .map(|amount| {
            let payload = json!({"account": format!("a-{}", amount % 2), "amount": amount});
            let key = format!("payment-{amount}");
            Event::new("account", "a", "Paid", payload).topic(&topic).dedup_key(key)
        })
        .collect();
    let transaction = small.database.sql.transaction().await.unwrap();
    let added = Outbox::new("outbox").unwrap().add_all(&transaction, &events).await.unwrap();
    assert!(added.iter().all(|added| added.is_new()));
    transaction.commit().await.unwrap();
}

async fn wait_for_processed(accounts: &Database, count: i64) {
    eventually(format!("{count} to be processed"), LATER, || async {
        accounts.count("SELECT count(*) FROM outboxd.inbox").await == count
    })
    .await;
}

async fn balances(accounts: &Database) -> i64 {
    accounts.count("SELECT sum(balance)::int8 FROM accounts").await
}

#[tokio::test]
async fn the_documented_consumer_processes_each_event_once_through_a_kill() {
    let mut small = Small::new("consumers").await;
    let accounts = Database::empty_at(&setting("DATABASE_URL"), "consumers_own").await;
    let inbox = concat!(env!("CARGO_MANIFEST_DIR"), "/migrations/0005_inbox.sql");
    accounts.execute(&std::fs::read_to_string(inbox).unwrap()).await;
    accounts
        .execute(
            "CREATE TABLE accounts (id text PRIMARY KEY, balance int8 NOT NULL);
             INSERT INTO accounts VALUES ('a-0', 0), ('a-1', 0)",
        )
        .await;
    let with_key = small.options().set("envelope.headers", r#"["event_id", "dedup_key"]"#);
    let relay = with_key.start_ready().await;
    let group = unique("consumers");

    pay(&mut small, 1..=100).await;
    let first = Consumer::start(&small, &accounts, &group);
    wait_for_processed(&accounts, 100).await;
    // It is killed in the middle of the 101st: noted as processed, its effect not there, not committed.
    let mut holder = accounts.connect().await;
    let lock = holder.transaction().await.unwrap();
    lock.execute("SELECT FROM accounts WHERE id = 'a-1' FOR UPDATE", &[]).await.unwrap();
    pay(&mut small, 101..=200).await;
    eventually("it to wait for the account", SOON, || async {
        let waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                     AND wait_event_type = 'Lock'";
        accounts.count(waits).await > 0
    })
    .await;
    first.kill();
    lock.rollback().await.unwrap();
    drop(holder);
    assert_eq!(balances(&accounts).await, (1..=100).sum::<i64>());

    let second = Consumer::start(&small, &accounts, &group);
    wait_for_processed(&accounts, 200).await;
    second.stop();
    assert_eq!(balances(&accounts).await, (1..=200).sum::<i64>());

    // Without its offsets it gets everything again, and changes nothing.
    let third = Consumer::start(&small, &accounts, &unique("consumers"));
    pay(&mut small, 201..=201).await;
    wait_for_processed(&accounts, 201).await;
    let skipped = third.stop();
    let expected: Vec<_> = (1..=200).map(|amount| format!("payment-{amount}")).collect();
    assert_eq!(skipped, expected);
    assert_eq!(balances(&accounts).await, (1..=201).sum::<i64>());

    assert_eq!(relay.stop().await, 0);
    let slot = accounts.name.clone();
    accounts.drop(&slot).await;
    small.clear().await;
}
