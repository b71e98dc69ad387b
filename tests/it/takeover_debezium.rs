//! Taking over from the real Debezium, on its slot and its publication, while rows are written.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::task::JoinHandle;

use crate::support::database::Database;
use crate::support::debezium::Debezium;
use crate::support::records::{Kafka, Record};
use crate::support::relay::RelayOptions;
use crate::support::wait::{LATER, SOON, eventually};
use crate::support::{setting, unique};

const TABLE: &str = "CREATE TABLE outbox (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), \
     aggregatetype varchar(255) NOT NULL, aggregateid varchar(255) NOT NULL, \
     type varchar(255) NOT NULL, payload jsonb)";

const KEYS: usize = 20;

/// Writes rows, one transaction after the other, until it is told to stop. Row n has key n % KEYS
/// and payload n.
struct Writer {
    is_over: Arc<AtomicBool>,
    written: Arc<AtomicUsize>,
    task: JoinHandle<Vec<u64>>,
}

impl Writer {
    async fn start(database: &Database) -> Self {
        Self::after(database, Vec::new()).await
    }

    /// Goes on behind rows that were written before.
    async fn after(database: &Database, mut ends: Vec<u64>) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let written = Arc::new(AtomicUsize::new(0));
        let client = database.connect().await;
        let (over, count) = (Arc::clone(&is_over), Arc::clone(&written));
        let insert = format!(
            "INSERT INTO outbox (aggregatetype, aggregateid, type, payload) \
             SELECT 'tested', n % {KEYS}, 'Tested', to_jsonb(n) \
             FROM generate_series($1::int8, $2::int8) n ORDER BY n"
        );
        let task = tokio::spawn(async move {
            while !over.load(Ordering::Relaxed) {
                let first = i64::try_from(ends.len()).unwrap();
                let last = first + first % 3;
                client.execute(&insert, &[&first, &last]).await.unwrap();
                // Past the transaction's end: nobody else writes here.
                let here = "SELECT (pg_current_wal_lsn() - '0/0')::int8";
                let end: i64 = client.query_one(here, &[]).await.unwrap().get(0);
                ends.extend((first..=last).map(|_| u64::try_from(end).unwrap()));
                count.store(ends.len(), Ordering::Relaxed);
            }
            ends
        });
        Self { is_over, written, task }
    }

    fn written(&self) -> usize {
        self.written.load(Ordering::Relaxed)
    }

    /// Stops; for each row where the WAL was after its commit.
    async fn stop(self) -> Vec<u64> {
        self.is_over.store(true, Ordering::Relaxed);
        self.task.await.unwrap()
    }
}

fn number(record: &Record) -> usize {
    record.text().parse().unwrap()
}

/// How often each row is there. Each must be; of each key the first copies must be in order.
fn copies(records: &[Record], count: usize) -> HashMap<usize, usize> {
    let mut copies: HashMap<usize, usize> = HashMap::new();
    let mut last: HashMap<&str, usize> = HashMap::new();
    for record in records {
        let number = number(record);
        let copy = copies.entry(number).or_default();
        *copy += 1;
        if *copy == 1 {
            let before = last.insert(record.key(), number);
            assert!(before.is_none_or(|before| before < number), "{number} is behind {before:?}");
        }
    }
    let lost: Vec<_> = (0..count).filter(|number| !copies.contains_key(number)).collect();
    assert!(lost.is_empty(), "of {count} rows {} are lost: {:?}…", lost.len(), lost.first());
    copies
}

async fn wait_until_all_are_there(kafka: &Kafka, topic: &str, count: usize) -> Vec<Record> {
    crate::support::wait::until(format!("{count} rows in {topic}"), LATER, || async {
        let records = kafka.read(&[topic]);
        let mut numbers: Vec<_> = records.iter().map(number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        (numbers.len() >= count).then_some(records)
    })
    .await
}

/// Debezium is killed in the middle of the stream, and outboxd goes on with its own configuration,
/// imported: nothing is lost, each key stays in order, and nothing that Debezium's last flush
/// covered comes again. And there is a way back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_slot_of_debezium_is_taken_over_in_the_middle_of_a_stream() {
    let database = Database::empty_at(&setting("DATABASE_URL"), "debezium").await;
    database.execute(TABLE).await;
    let kafka = Kafka::shared();
    let topic = unique("debezium");
    kafka.create_topic(&topic, 3, &[]).await;
    // By default its publication is of all tables, and of everything that happens to them.
    let route = [("transforms.outbox.route.topic.replacement", topic.as_str())];
    let mut debezium = Debezium::new(&database, &kafka, &route);
    debezium.start(&database).await;
    let writer = Writer::start(&database).await;
    let slot = database.name.clone();
    let first = database.confirmed(&slot).await.unwrap();
    kafka.wait_for(&topic, 1_000).await;
    eventually("Debezium to flush", SOON, || async {
        database.confirmed(&slot).await.unwrap() > first
    })
    .await;
    kafka.wait_for(&topic, kafka.read(&[&topic]).len() + 100).await;

    let imported =
        outboxd::import::debezium(&std::fs::read_to_string(debezium.properties()).unwrap());
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("outboxd.toml");
    std::fs::write(&file, imported.unwrap().toml).unwrap();
    let options = RelayOptions::new(&database, &kafka).file(file.to_str().unwrap());
    let (code, said, complaint) = options.command_output(&["migrate"]);
    assert_eq!(code, 0, "{said}{complaint}");

    debezium.kill(&database).await;
    let flushed = database.confirmed(&slot).await.unwrap();
    let published = kafka.read(&[&topic]).len();
    let relay = options.start_ready().await;
    assert!(relay.has_logged("publishes more than inserts into the outbox"));
    let so_far = writer.written();
    kafka.wait_for(&topic, published + 1_000).await;
    eventually("rows to be written", SOON, || async { writer.written() > so_far + 500 }).await;
    let ends = writer.stop().await;
    let records = wait_until_all_are_there(&kafka, &topic, ends.len()).await;
    let copies_of = copies(&records, ends.len());
    let repeated: Vec<_> = copies_of.iter().filter(|(_, copies)| **copies > 1).collect();
    let covered = repeated.iter().filter(|(number, _)| ends[**number] <= flushed).count();
    assert_eq!(covered, 0, "what Debezium's last flush covered came again");
    assert!(repeated.iter().all(|(_, copies)| **copies == 2), "once by each");
    let open = ends[..published].iter().filter(|end| **end > flushed).count();
    assert!(repeated.len() <= open, "{} came again, {open} were open", repeated.len());
    assert_eq!(relay.stop().await, 0);

    // The way back: Debezium on the slot that outboxd left. Its own offsets are older than what the
    // server still has.
    debezium.forget();
    let before = ends.len();
    let writer = Writer::after(&database, ends).await;
    debezium.start(&database).await;
    eventually("rows to be written", SOON, || async { writer.written() > before + 500 }).await;
    let ends = writer.stop().await;
    let records = wait_until_all_are_there(&kafka, &topic, ends.len()).await;
    copies(&records, ends.len());
    debezium.kill(&database).await;
    database.clear().await;
}
