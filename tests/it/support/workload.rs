//! A workload that knows what it wrote: concurrent writers with rollbacks and savepoints, and a
//! table of the truth beside the outbox, written in the same transactions.
//!
//! An aggregate's row lock serialises its writers, so its `seq` follows the order of commits. One
//! aggregate has a topic of one partition to itself: all of that topic is in one order.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::interval;
use tokio_postgres::Client;

use super::database::{Database, try_connect};
use super::records::{Kafka, Record};

/// What to write.
#[derive(Clone)]
pub struct Workload {
    /// Topics `{prefix}0` to `{prefix}{topics-1}`; an aggregate has one of them. And `{prefix}line`.
    pub prefix: String,
    pub topics: u64,
    /// Aggregates, and so keys.
    pub keys: u64,
    pub writers: u64,
    /// Whether events are written into the outbox with a status other than pending, too.
    pub drafts: bool,
    /// How often each writer that goes on until it is stopped writes; as often as it can if nothing
    /// is said. For tests that wait for what is read soon, however busy the machine is.
    pub pace: Option<Duration>,
}

/// Tables beside the outbox.
const TABLES: &str = "\
    CREATE TABLE aggregate (id text PRIMARY KEY, topic text NOT NULL, seq bigint NOT NULL DEFAULT 0); \
    CREATE TABLE truth (event_id text PRIMARY KEY, topic text NOT NULL, key text NOT NULL, \
                        seq bigint NOT NULL, payload text NOT NULL)";

/// Writes `$2` events of aggregate `$1`, with `$3` times the text in each.
const WRITE: &str = "\
    WITH moved AS (UPDATE aggregate SET seq = seq + $2 WHERE id = $1 RETURNING id, topic, seq), \
    written AS (INSERT INTO outbox (aggregate_type, aggregate_id, event_type, payload, topic) \
        SELECT 'tested', m.id, 'Tested', \
               jsonb_build_object('seq', m.seq - $2 + n, 'text', repeat('canary-payload-', $3)), m.topic \
        FROM moved m, generate_series(1, $2) n ORDER BY n \
        RETURNING id::text, topic, aggregate_id, (payload->>'seq')::bigint AS seq, payload::text) \
    INSERT INTO truth SELECT * FROM written RETURNING event_id";

/// How often an event repeats its text, and how long the text is.
const TEXT: i32 = 7;
const TEXT_BYTES: i32 = 15;

impl Workload {
    pub fn topic_names(&self) -> Vec<String> {
        let topics = (0..self.topics).map(|topic| format!("{}{topic}", self.prefix));
        topics.chain([self.line()]).collect()
    }

    /// What is in its topics.
    pub fn records(&self, kafka: &Kafka) -> Vec<Record> {
        let topics = self.topic_names();
        kafka.read(&topics.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// The topic of one partition and one key.
    pub fn line(&self) -> String {
        format!("{}line", self.prefix)
    }

    /// Makes the tables and the topics, with that many partitions each.
    pub async fn prepare(&self, database: &Database, kafka: &Kafka, partitions: i32) {
        self.prepare_tables(database).await;
        for topic in self.topic_names() {
            let partitions = if topic == self.line() { 1 } else { partitions };
            kafka.create_topic(&topic, partitions, &[]).await;
        }
    }

    /// Makes the tables.
    pub async fn prepare_tables(&self, database: &Database) {
        database.execute(TABLES).await;
        let sql = format!(
            "INSERT INTO aggregate (id, topic) \
             SELECT 'key-' || k, '{}' || k % {} FROM generate_series(0, {} - 1) k \
             UNION ALL SELECT 'line', '{}'",
            self.prefix,
            self.topics,
            self.keys,
            self.line()
        );
        database.execute(&sql).await;
    }

    /// Writes one event with so many bytes of text and a few more, and gives its id.
    pub async fn write_large(&self, database: &Database, key: &str, bytes: i32) -> String {
        let text = bytes / TEXT_BYTES + 1;
        database.row(WRITE, &[&key, &1_i64, &text]).await.get(0)
    }

    /// Writes until about `events` are committed.
    pub async fn write(&self, database: &Database, events: u64) {
        let left = Arc::new(AtomicU64::new(events));
        let mut writers = JoinSet::new();
        for writer in 0..self.writers {
            let (this, left) = (self.clone(), Arc::clone(&left));
            let mut sql = database.connect().await;
            writers.spawn(async move {
                let mut dice = fastrand::Rng::with_seed(writer);
                while left.load(Ordering::Relaxed) > 0 {
                    let count = this.transaction(&mut sql, &mut dice).await.unwrap();
                    let take = |left: u64| Some(left.saturating_sub(count));
                    let _ = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
                }
            });
        }
        while let Some(ended) = writers.join_next().await {
            ended.unwrap();
        }
    }

    /// Writes until it is told to stop, also while the server comes and goes.
    pub fn start(&self, database: &Database) -> Writing {
        let stop = Arc::new(AtomicBool::new(false));
        let mut writers = JoinSet::new();
        for writer in 0..self.writers {
            let (this, stop) = (self.clone(), Arc::clone(&stop));
            let url = database.url.clone();
            writers.spawn(async move {
                let mut dice = fastrand::Rng::with_seed(100 + writer);
                let mut ticks = this.pace.map(interval);
                while !stop.load(Ordering::Relaxed) {
                    let Ok(mut sql) = try_connect(&url).await else {
                        tokio::task::yield_now().await;
                        continue;
                    };
                    // A transaction whose commit was cut off is there or not; the truth knows.
                    while !stop.load(Ordering::Relaxed)
                        && this.transaction(&mut sql, &mut dice).await.is_ok()
                    {
                        if let Some(ticks) = &mut ticks {
                            ticks.tick().await;
                        }
                    }
                }
            });
        }
        Writing { stop, writers }
    }

    /// One transaction; gives how many events it committed.
    async fn transaction(
        &self,
        sql: &mut Client,
        dice: &mut fastrand::Rng,
    ) -> Result<u64, tokio_postgres::Error> {
        let mut transaction = sql.transaction().await?;
        let mut count = 0;
        // In order, so that writers do not deadlock.
        let mut keys: Vec<_> = (0..dice.u64(1..4)).map(|_| dice.u64(..self.keys)).collect();
        keys.sort_unstable();
        keys.dedup();
        for key in keys {
            let (key, events) = (format!("key-{key}"), dice.i64(1..12));
            if dice.u8(..20) == 0 {
                let savepoint = transaction.savepoint("undone").await?;
                savepoint.execute(WRITE, &[&key, &events, &TEXT]).await?;
                savepoint.rollback().await?;
            } else {
                count += transaction.execute(WRITE, &[&key, &events, &TEXT]).await?;
            }
        }
        // Last of all: whoever has it locked waits for nobody but the server.
        if dice.u8(..20) == 0 {
            count += transaction.execute(WRITE, &[&"line", &1_i64, &TEXT]).await?;
        }
        if self.drafts {
            let draft = "INSERT INTO outbox (aggregate_type, aggregate_id, event_type, payload, status, sent_at) \
                         VALUES ('tested', 'draft', 'Draft', '{}', 'SENT', now())";
            transaction.execute(draft, &[]).await?;
        }
        if dice.u8(..10) == 0 {
            transaction.rollback().await?;
            return Ok(0);
        }
        transaction.commit().await?;
        Ok(count)
    }
}

/// Writers that write until they are told to stop.
pub struct Writing {
    stop: Arc<AtomicBool>,
    writers: JoinSet<()>,
}

impl Writing {
    pub async fn stop(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.writers.join_next().await {
            ended.unwrap();
        }
    }
}
