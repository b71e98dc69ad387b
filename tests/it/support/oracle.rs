//! An independent reader of the same WAL, through PostgreSQL's own test plugin: it knows which events
//! were committed before an LSN, and in which order.

use std::collections::HashSet;

use super::database::Database;
use super::records::Record;

pub struct Oracle {
    slot: String,
    /// Topic and id of each event, in the order of commits.
    committed: Vec<(String, String)>,
}

impl Oracle {
    /// Knows of everything that is committed from now on.
    pub async fn new(database: &Database) -> Self {
        let slot = format!("{}_oracle", database.name);
        let sql = "SELECT 1 FROM pg_create_logical_replication_slot($1, 'test_decoding')";
        database.row(sql, &[&slot]).await;
        Self { slot, committed: Vec::new() }
    }

    /// Reads up to `lsn`, or all that there is.
    async fn read(&mut self, database: &Database, lsn: Option<u64>) {
        let lsn = lsn.map(|lsn| format!("{:X}/{:X}", lsn >> 32, lsn & 0xFFFF_FFFF));
        let sql = "SELECT substring(data from $$event_id.text.:'([^']*)'$$), \
                          substring(data from $$topic.text.:'([^']*)'$$) \
                   FROM pg_logical_slot_get_changes($1, $2::text::pg_lsn, NULL) \
                   WHERE data LIKE 'table public.truth: INSERT:%'";
        let rows = database.sql.query(sql, &[&self.slot, &lsn]).await.unwrap();
        self.committed.extend(rows.iter().map(|row| (row.get(1), row.get(0))));
    }

    /// The events that were committed at or before `lsn` and are not in Kafka.
    pub async fn confirmed_too_early(
        &mut self,
        database: &Database,
        lsn: u64,
        records: &[Record],
    ) -> Vec<String> {
        self.read(database, Some(lsn)).await;
        let delivered: HashSet<_> = records.iter().map(Record::event_id).collect();
        let committed = self.committed.iter().map(|(_, id)| id);
        committed.filter(|id| !delivered.contains(id.as_str())).cloned().collect()
    }

    /// The events of a topic, in the order of their commits.
    pub async fn committed_to(&mut self, database: &Database, topic: &str) -> Vec<String> {
        self.read(database, None).await;
        let of_topic = self.committed.iter().filter(|(other, _)| other == topic);
        of_topic.map(|(_, id)| id.clone()).collect()
    }

    pub async fn drop(self, database: &Database) {
        database.row("SELECT 1 FROM pg_drop_replication_slot($1)", &[&self.slot]).await;
    }
}
