//! Where a table's rows lie: in the table itself, or in its partitions.
//!
//! Whoever reads a large table piece by piece does so by pages, and pages belong to a heap. A
//! partition is read by its parent's name all the same: the rights are the parent's, and the
//! partition's own condition keeps the server from looking at the others.

use std::time::Duration;

use tokio_postgres::Client;

use super::{Error, TableName};

/// A table that holds rows: the one that was asked for, or one of its partitions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heap {
    /// What it is.
    pub oid: u32,
    /// Its name.
    pub name: TableName,
    /// Its size.
    pub pages: i64,
    /// Whether it is a partition by time whose time is over.
    pub is_over: bool,
    /// Whether it may be dropped, because it belongs to our role.
    pub is_ours: bool,
    /// Whether it has the constraint of that name.
    pub is_marked: bool,
    partition: Option<String>,
}

/// The heaps of `$1`; those are over that end `$2` seconds ago or earlier. `$3`: a constraint.
const HEAPS: &str = "\
    SELECT c.oid, n.nspname, c.relname, \
           pg_relation_size(c.oid) / current_setting('block_size')::int8, \
           CASE WHEN c.relispartition THEN pg_get_partition_constraintdef(c.oid) END, \
           coalesce(CASE WHEN i.inhrelid IS NOT NULL \
              THEN substring(pg_get_expr(c.relpartbound, c.oid) FROM ' TO \\(''([^'']+)''\\)$') \
                 ::timestamptz <= now() - $2::float8 * interval '1 second' END, false), \
           pg_has_role(c.relowner, 'USAGE'), \
           EXISTS (SELECT FROM pg_constraint k WHERE k.conrelid = c.oid AND k.conname = $3) \
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
    LEFT JOIN pg_inherits i ON i.inhrelid = c.oid AND i.inhparent = $1 AND NOT i.inhdetachpending \
       AND EXISTS (SELECT FROM pg_partitioned_table p JOIN pg_attribute a \
                   ON a.attrelid = p.partrelid AND a.attnum = p.partattrs[0] \
                   WHERE p.partrelid = $1 AND p.partstrat = 'r' AND p.partnatts = 1 \
                   AND a.atttypid IN ('timestamptz'::regtype, 'timestamp'::regtype, 'date'::regtype)) \
    WHERE c.relkind = 'r' AND (c.oid = $1 \
       OR c.oid IN (SELECT relid FROM pg_partition_tree($1::oid::regclass))) \
    ORDER BY c.oid";

impl Heap {
    /// The heaps of a table. Without `after`, none is over.
    ///
    /// # Errors
    /// The connection broke, or somebody has one of them locked for long.
    pub async fn load(
        client: &Client,
        table: u32,
        after: Option<Duration>,
        constraint: &str,
    ) -> Result<Vec<Self>, Error> {
        let after = after.map(|after| after.as_secs_f64());
        let rows = client.query(HEAPS, &[&table, &after, &constraint]).await?;
        let heap = |row: &tokio_postgres::Row| Self {
            oid: row.get(0),
            name: TableName { schema: row.get(1), name: row.get(2) },
            pages: row.get(3),
            partition: row.get(4),
            is_over: row.get(5),
            is_ours: row.get(6),
            is_marked: row.get(7),
        };
        Ok(rows.iter().map(heap).collect())
    }

    /// The condition on a row `o` of the table that was asked for: that it lies here, whatever
    /// the names are by now.
    pub fn holds(&self) -> String {
        let oid = self.oid;
        match self.partition.as_deref().filter(|condition| !condition.is_empty()) {
            Some(condition) => format!("o.tableoid = {oid} AND ({condition})"),
            None => format!("o.tableoid = {oid}"),
        }
    }
}
