//! The publication: what it publishes, and whether it is still the one that the slot was made for.
//!
//! Messages are in no publication; pgoutput wants one all the same, and an empty one will do.

use tokio_postgres::Client;

use super::{Error, Intake, TableName, quote_ident};

/// A publication as it concerns one table, or none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publication {
    /// Whether inserts are published.
    pub inserts: bool,
    /// Whether anything else is.
    pub publishes_more: bool,
    /// Whether a partitioned table's rows come under the root's name.
    pub via_root: bool,
    /// Whether the table is in it.
    pub contains_table: bool,
    /// Whether it leaves out rows of the table by a condition.
    pub filters_rows: bool,
    /// The table's columns that are in it; none of them where that is not known.
    pub columns: Vec<String>,
    /// Whether other tables are, too.
    pub contains_others: bool,
    /// What changes whenever the publication or the table's membership was changed or made anew,
    /// also where both look the same by name. For messages only that it was made anew matters:
    /// until then pgoutput could not go on without it.
    pub fingerprint: String,
}

impl Publication {
    /// Looks the publication up; `table` is its OID, or 0.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn load(client: &Client, name: &str, table: u32) -> Result<Option<Self>, Error> {
        // A row's xmin changes with every change of it; a membership's oid, when it is made anew.
        let row = client
            .query_opt(
                "SELECT p.pubinsert, p.pubupdate OR p.pubdelete OR p.pubtruncate, p.pubviaroot, \
                        t.found, \
                        p.puballtables OR EXISTS ( \
                            SELECT FROM pg_publication_rel o \
                            WHERE o.prpubid = p.oid AND o.prrelid <> $2) OR ( \
                            SELECT count(*) > 0 FROM pg_publication_tables o \
                            WHERE o.pubname = p.pubname \
                              AND (o.schemaname, o.tablename) IS DISTINCT FROM (n.nspname, c.relname) \
                              AND c.relkind IS DISTINCT FROM 'p'), \
                        EXISTS (SELECT FROM pg_publication_rel r \
                                WHERE r.prpubid = p.oid AND r.prrelid = $2 \
                                  AND to_jsonb(r) ->> 'prqual' IS NOT NULL), \
                        CASE $2 WHEN 0 THEN concat(p.oid, ' messages') \
                        ELSE concat(p.oid, ':', p.xmin, ' ', \
                               (SELECT string_agg(concat(r.oid, ':', r.xmin), ',' ORDER BY r.oid) \
                                FROM pg_publication_rel r \
                                WHERE r.prpubid = p.oid AND r.prrelid = $2)) END, \
                        ARRAY(SELECT jsonb_array_elements_text(to_jsonb(v) -> 'attnames') \
                              FROM pg_publication_tables v \
                              WHERE v.pubname = p.pubname AND v.schemaname = n.nspname \
                                AND v.tablename = c.relname) \
                 FROM pg_publication p \
                 LEFT JOIN pg_class c ON c.oid = $2 \
                 LEFT JOIN pg_namespace n ON n.oid = c.relnamespace \
                 CROSS JOIN LATERAL (SELECT p.puballtables \
                     OR EXISTS (SELECT FROM pg_publication_rel r \
                                WHERE r.prpubid = p.oid AND r.prrelid = $2) \
                     OR EXISTS (SELECT FROM pg_publication_tables v \
                                WHERE v.pubname = p.pubname AND v.schemaname = n.nspname \
                                  AND v.tablename = c.relname) AS found) t \
                 WHERE p.pubname = $1",
                &[&name, &table],
            )
            .await?;
        Ok(row.map(|row| Self {
            inserts: row.get(0),
            publishes_more: row.get(1),
            via_root: row.get(2),
            contains_table: row.get(3),
            contains_others: row.get(4),
            filters_rows: row.get(5),
            fingerprint: row.get(6),
            columns: row.get(7),
        }))
    }

    /// Whether a fingerprint is that of a relay of messages.
    pub fn is_of_messages(fingerprint: &str) -> bool {
        fingerprint.ends_with(" messages")
    }

    /// The statement that makes it as it should be.
    pub fn create_sql(name: &str, intake: &Intake<TableName>) -> String {
        let name = quote_ident(name);
        match intake {
            Intake::Table(table) => format!(
                "CREATE PUBLICATION {name} FOR TABLE {table} \
                 WITH (publish = 'insert', publish_via_partition_root = true)"
            ),
            Intake::Messages(_) => format!("CREATE PUBLICATION {name} WITH (publish = 'insert')"),
        }
    }
}
