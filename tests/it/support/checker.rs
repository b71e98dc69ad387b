//! The one checker: holds what is in Kafka and in the table against what was committed. What it
//! checks is listed in docs/GUARANTEES.md.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::database::Database;
use super::records::{Kafka, Record};
use super::workload::Workload;

/// An event that was committed.
#[derive(Debug, Clone)]
pub struct Event {
    pub topic: String,
    pub key: String,
    pub seq: i64,
    pub payload: String,
}

/// Every event that was committed, by id.
pub type Truth = HashMap<String, Event>;

/// Reads the truth that a [`Workload`] wrote beside the outbox.
pub async fn truth(database: &Database) -> Truth {
    let sql = "SELECT event_id, topic, key, seq, payload FROM truth";
    let rows = database.sql.query(sql, &[]).await.unwrap();
    let event = |row: &tokio_postgres::Row| Event {
        topic: row.get(1),
        key: row.get(2),
        seq: row.get(3),
        payload: row.get(4),
    };
    rows.iter().map(|row| (row.get(0), event(row))).collect()
}

/// Events of which not everything was promised.
#[derive(Debug, Default)]
pub struct Excused {
    /// Not to be published at all.
    pub given_up: HashSet<String>,
    /// To come, and behind later ones of their key if need be.
    pub late: HashSet<String>,
}

/// What is not as it was promised.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Committed, and not in Kafka.
    pub lost: Vec<String>,
    /// In Kafka, and not committed.
    pub phantoms: Vec<String>,
    /// First copies that came before those of earlier events of their key.
    pub overtakers: Vec<String>,
    /// Keys in more than one partition.
    pub scattered: Vec<String>,
    /// Under another topic, key or payload than was written.
    pub altered: Vec<String>,
    /// Copies beyond the first.
    pub duplicates: usize,
    /// Copies that came again without those that follow them: a crash repeats what was under way from
    /// some place on, to its end.
    pub strays: Vec<String>,
    /// Distinct events in Kafka.
    pub delivered: usize,
}

impl Verdict {
    /// Holds `records`, in the order of offsets, against the truth.
    pub fn new(truth: &Truth, records: &[Record]) -> Self {
        Self::excusing(truth, records, &Excused::default())
    }

    /// The same, but for events that are excused.
    pub fn excusing(truth: &Truth, records: &[Record], excused: &Excused) -> Self {
        let mut verdict = Self::default();
        let Excused { given_up, late } = excused;
        let excused = late.union(given_up).filter_map(|id| truth.get(id));
        let excused: HashSet<_> =
            excused.map(|event| (event.topic.as_str(), event.key.as_str(), event.seq)).collect();
        let mut seen: HashSet<&str> = HashSet::new();
        let mut last: HashMap<(&str, &str), i64> = HashMap::new();
        let mut before: BTreeMap<(&str, &str), i64> = BTreeMap::new();
        let mut homes: BTreeMap<(&str, &str), i32> = BTreeMap::new();
        for record in records {
            let id = record.event_id();
            let Some(event) = truth.get(id).filter(|_| !given_up.contains(id)) else {
                verdict.phantoms.push(id.to_owned());
                continue;
            };
            let place = (record.topic.as_str(), record.key());
            let value = record.text();
            let is_same = place == (event.topic.as_str(), event.key.as_str())
                && value.ends_with(&format!(",\"payload\":{}}}", event.payload));
            if !is_same {
                verdict.altered.push(id.to_owned());
            }
            if *homes.entry(place).or_insert(record.partition) != record.partition {
                verdict.scattered.push(record.key().to_owned());
            }
            let is_first = seen.insert(id);
            verdict.duplicates += usize::from(!is_first);
            if late.contains(id) {
                continue;
            }
            // An aggregate's events are numbered without a gap in the order of commits.
            let behind = |seq: i64| {
                let mut followers = seq + 1..;
                followers.find(|seq| !excused.contains(&(place.0, place.1, *seq))).unwrap_or(seq)
            };
            let last = last.entry(place).or_insert(0);
            let before = before.insert(place, event.seq).unwrap_or(0);
            if event.seq > behind(before) && before < *last {
                verdict.strays.push(format!("{} {}: {before}", event.topic, event.key));
            }
            if !is_first {
                continue;
            }
            if event.seq != behind(*last) {
                let text = format!("{} {}: {} after {last}", event.topic, event.key, event.seq);
                verdict.overtakers.push(text);
            }
            *last = event.seq.max(*last);
        }
        for (place, before) in before {
            if before < last[&place] {
                verdict.strays.push(format!("{} {}: {before}, the last one", place.0, place.1));
            }
        }
        verdict.delivered = seen.len();
        let is_missing = |id: &&String| !seen.contains(id.as_str()) && !given_up.contains(*id);
        verdict.lost = truth.keys().filter(is_missing).cloned().collect();
        verdict
    }

    /// Asserts that every promise was kept.
    pub fn assert_kept(&self, duplicates_at_most: usize) {
        self.assert_kept_with_a_zombie(duplicates_at_most);
        assert!(self.strays.is_empty(), "came again alone: {:?}: {}", self.strays, self.summary());
    }

    /// The same where a relay that was replaced may still have sent what it had queued.
    pub fn assert_kept_with_a_zombie(&self, duplicates_at_most: usize) {
        let count = |what: &[String]| what.len();
        let broken = [
            ("lost", count(&self.lost)),
            ("phantoms", count(&self.phantoms)),
            ("overtakers", count(&self.overtakers)),
            ("scattered keys", count(&self.scattered)),
            ("altered", count(&self.altered)),
        ];
        for (what, number) in broken {
            assert_eq!(number, 0, "{what}: {}", self.summary());
        }
        assert!(
            self.duplicates <= duplicates_at_most,
            "{} duplicates, at most {duplicates_at_most} are allowed: {}",
            self.duplicates,
            self.summary()
        );
    }

    fn summary(&self) -> String {
        let some = |what: &[String]| what.iter().take(3).cloned().collect::<Vec<_>>().join(", ");
        format!(
            "{} delivered, {} lost ({}), {} phantoms ({}), {} overtakers ({}), {} duplicates",
            self.delivered,
            self.lost.len(),
            some(&self.lost),
            self.phantoms.len(),
            some(&self.phantoms),
            self.overtakers.len(),
            some(&self.overtakers),
            self.duplicates
        )
    }
}

/// Where the first copies differ from `committed`, in a topic whose order is one.
pub fn out_of_line(committed: &[String], records: &[Record]) -> Option<String> {
    let mut seen = HashSet::new();
    let arrived = records.iter().map(Record::event_id);
    let arrived: Vec<_> = arrived.filter(|id| seen.insert(*id)).collect();
    let places = 0..committed.len().max(arrived.len());
    let (expected, found) = places
        .map(|place| (committed.get(place).map(String::as_str), arrived.get(place).copied()))
        .find(|(expected, found)| expected != found)?;
    Some(format!("{expected:?} was committed, {found:?} is in its place"))
}

/// The events whose first copy says that an operator had it published again.
pub fn redelivered(records: &[Record]) -> HashSet<String> {
    let mut seen = HashSet::new();
    let first = records.iter().filter(|record| seen.insert(record.event_id()));
    let flagged = first.filter(|record| record.header("outboxd-redelivery").is_some());
    flagged.map(|record| record.event_id().to_owned()).collect()
}

/// Holds Kafka against the truth, as they are now.
pub async fn verdict(database: &Database, kafka: &Kafka, workload: &Workload) -> Verdict {
    let truth = truth(database).await;
    Verdict::new(&truth, &workload.records(kafka))
}

/// Waits until no committed event of the workload is without its SENT.
pub async fn wait_until_all_sent(database: &Database) {
    super::wait::eventually("every event to be SENT", super::wait::LATER, || async {
        let unsent = "SELECT count(*) FROM truth t LEFT JOIN outbox o ON o.id = t.event_id::uuid \
                      WHERE o.status IS DISTINCT FROM 'SENT' OR o.sent_at IS NULL";
        database.count(unsent).await == 0
    })
    .await;
}
