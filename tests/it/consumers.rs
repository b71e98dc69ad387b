//! The consumer that docs/CONSUMERS.md shows, run as it is, on what a relay publishes.

use std::io::Read as _;
use std::ops::RangeInclusive;
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
pub struct Consumer(Child);

impl Consumer {
    /// One of the programs that the document shows.
    pub fn start(program: &str, accounts: &Database, variables: &[(&str, &str)]) -> Self {
        let home = env!("CARGO_MANIFEST_DIR");
        let mut command = Command::new(setting("CONSUMER_PYTHON"));
        command.arg(format!("{home}/testdata/consumers/{program}")).env_clear();
        command.env("DATABASE_URL", &accounts.url).envs(variables.iter().copied());
        Self(command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap())
    }

    /// Nothing is finished, nobody is told.
    pub fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    /// Ends it in order, and gives the ids that it skipped.
    pub fn stop(mut self) -> Vec<String> {
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

/// Writes an event for each amount, for the accounts a-0 and a-1 in turn.
pub async fn pay(database: &mut Database, topic: &str, amounts: RangeInclusive<i64>) {
    let events: Vec<_> = amounts
        .map(|amount| {
            let payload = json!({"account": format!("a-{}", amount % 2), "amount": amount});
            let key = format!("payment-{amount}");
            Event::new("account", "a", "Paid", payload).topic(topic).dedup_key(key)
        })
        .collect();
    let transaction = database.sql.transaction().await.unwrap();
    let added = Outbox::new("outbox").unwrap().add_all(&transaction, &events).await.unwrap();
    assert!(added.iter().all(|added| added.is_new()));
    transaction.commit().await.unwrap();
}

pub async fn wait_for_processed(accounts: &Database, count: i64) {
    eventually(format!("{count} to be processed"), LATER, || async {
        accounts.count("SELECT count(*) FROM outboxd.inbox").await == count
    })
    .await;
}

pub async fn balances(accounts: &Database) -> i64 {
    accounts.count("SELECT sum(balance)::int8 FROM accounts").await
}

/// The database of a service with two accounts and an inbox.
pub async fn accounts(name: &str) -> Database {
    let accounts = Database::empty_at(&setting("DATABASE_URL"), name).await;
    let inbox = concat!(env!("CARGO_MANIFEST_DIR"), "/migrations/0005_inbox.sql");
    accounts.execute(&std::fs::read_to_string(inbox).unwrap()).await;
    accounts
        .execute(
            "CREATE TABLE accounts (id text PRIMARY KEY, balance int8 NOT NULL);
             INSERT INTO accounts VALUES ('a-0', 0), ('a-1', 0)",
        )
        .await;
    accounts
}

/// Writes more, and kills the consumer in the middle of the first of them, which is for a-1: noted as
/// processed, its effect not there, not committed.
pub async fn kill_in_the_middle(
    consumer: Consumer,
    accounts: &Database,
    (database, topic): (&mut Database, &str),
    amounts: RangeInclusive<i64>,
) {
    let before = balances(accounts).await;
    let mut holder = accounts.connect().await;
    let lock = holder.transaction().await.unwrap();
    lock.execute("SELECT FROM accounts WHERE id = 'a-1' FOR UPDATE", &[]).await.unwrap();
    pay(database, topic, amounts).await;
    eventually("it to wait for the account", SOON, || async {
        let waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                     AND wait_event_type = 'Lock'";
        accounts.count(waits).await > 0
    })
    .await;
    consumer.kill();
    lock.rollback().await.unwrap();
    assert_eq!(balances(accounts).await, before);
}

fn start(small: &Small, accounts: &Database, group: &str) -> Consumer {
    let servers = ("KAFKA_BOOTSTRAP_SERVERS", small.kafka.servers.as_str());
    let topic = ("TOPIC", small.topic.as_str());
    Consumer::start("consumer.py", accounts, &[servers, topic, ("CONSUMER_GROUP", group)])
}

#[tokio::test]
async fn the_documented_consumer_processes_each_event_once_through_a_kill() {
    let mut small = Small::new("consumers").await;
    let accounts = accounts("consumers_own").await;
    let with_key = small.options().set("envelope.headers", r#"["event_id", "dedup_key"]"#);
    let relay = with_key.start_ready().await;
    let group = unique("consumers");

    pay(&mut small.database, &small.topic, 1..=100).await;
    let first = start(&small, &accounts, &group);
    wait_for_processed(&accounts, 100).await;
    let outbox = (&mut small.database, small.topic.as_str());
    kill_in_the_middle(first, &accounts, outbox, 101..=200).await;

    let second = start(&small, &accounts, &group);
    wait_for_processed(&accounts, 200).await;
    second.stop();
    assert_eq!(balances(&accounts).await, (1..=200).sum::<i64>());

    // Without its offsets it gets everything again, and changes nothing.
    let third = start(&small, &accounts, &unique("consumers"));
    pay(&mut small.database, &small.topic, 201..=201).await;
    wait_for_processed(&accounts, 201).await;
    let skipped = third.stop();
    let expected: Vec<_> = (1..=200).map(|amount| format!("payment-{amount}")).collect();
    assert_eq!(skipped, expected);
    assert_eq!(balances(&accounts).await, (1..=201).sum::<i64>());

    assert_eq!(relay.stop().await, 0);
    accounts.clear().await;
    small.clear().await;
}
