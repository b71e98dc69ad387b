//! What the catalog says about the server and the outbox table.

use tokio_postgres::Client;

use super::{Error, Intake, TableName, quote_ident, quote_literal};
use crate::outbox::columns::{Kind, Layout, LayoutColumn};
use crate::outbox::message;
use crate::pgoutput::Relation;

/// What kind of server this is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerFacts {
    /// As in `server_version_num`: 150018 is 15.18.
    pub version: i32,
    /// As people say it.
    pub version_name: String,
    /// Whether it is a standby.
    pub in_recovery: bool,
    /// `wal_level`.
    pub wal_level: String,
    /// Whether it lets WAL be decoded. From PostgreSQL 19 on `replica` is enough: the first slot
    /// raises `effective_wal_level`.
    pub decodes: bool,
    /// `deadlock_timeout` in milliseconds.
    pub deadlock_timeout: i64,
    /// Whether our role may stream.
    pub may_replicate: bool,
    /// Whether `outboxd.relay` is there.
    pub has_schema: bool,
    /// `synchronous_standby_names`.
    pub synchronous_standbys: String,
}

impl ServerFacts {
    /// Asks the server.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn load(client: &Client) -> Result<Self, Error> {
        // Managed services give the right to stream by membership in a role of their own.
        let row = client
            .query_one(
                "SELECT current_setting('server_version_num')::int4, \
                        current_setting('server_version'), \
                        pg_is_in_recovery(), \
                        current_setting('wal_level'), \
                        (SELECT setting::int8 FROM pg_settings WHERE name = 'deadlock_timeout'), \
                        (SELECT rolsuper OR rolreplication FROM pg_roles WHERE rolname = current_user) \
                        OR EXISTS (SELECT FROM pg_roles \
                                   WHERE rolname IN ('rds_replication', 'cloudsqlreplica') \
                                     AND pg_has_role(current_user, oid, 'MEMBER')), \
                        to_regclass('outboxd.relay') IS NOT NULL, \
                        current_setting('synchronous_standby_names'), \
                        current_setting('wal_level') = 'logical' \
                        OR current_setting('effective_wal_level', true) IS NOT NULL \
                           AND current_setting('wal_level') <> 'minimal'",
                &[],
            )
            .await?;
        Ok(Self {
            version: row.get(0),
            version_name: row.get(1),
            in_recovery: row.get(2),
            wal_level: row.get(3),
            deadlock_timeout: row.get(4),
            may_replicate: row.get(5),
            has_schema: row.get(6),
            synchronous_standbys: row.get(7),
            decodes: row.get(8),
        })
    }

    /// Whether a walsender of that name would be a synchronous standby, now or when another ends.
    pub fn would_be_synchronous(&self, application_name: &str) -> bool {
        names_standby(&self.synchronous_standbys, application_name)
    }
}

/// Whether `setting`, as in `FIRST 1 (a, "B c")` or `*`, names a standby: exactly, or as any.
pub(crate) fn names_standby(setting: &str, application_name: &str) -> bool {
    let list = match (setting.find('('), setting.rfind(')')) {
        (Some(from), Some(to)) => setting.get(from + 1..to).unwrap_or_default(),
        _ => setting,
    };
    list.split(',')
        .map(|name| name.trim().trim_matches('"'))
        .any(|name| name == "*" || name.eq_ignore_ascii_case(application_name))
}

/// The outbox table. Messages have one that does not exist: their columns in a layout, and
/// nothing behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboxTable {
    /// What it is, whatever its name; 0, which no table has, if it does not exist.
    pub oid: u32,
    /// Its name now.
    pub name: TableName,
    /// Whether it is partitioned.
    pub is_partitioned: bool,
    /// Whether it is an ordinary or partitioned table.
    pub is_table: bool,
    /// Whether its changes are in the WAL, those of its partitions included.
    pub is_logged: bool,
    /// Its columns.
    pub layout: Layout,
    /// Each column's type as SQL takes it, without modifiers, a domain as its base type.
    type_sql: Vec<String>,
}

impl OutboxTable {
    /// The table as the stream describes it.
    pub fn relation(&self) -> Relation {
        Relation {
            oid: self.oid,
            namespace: self.name.schema.clone(),
            name: self.name.name.clone(),
            ..self.layout.relation()
        }
    }

    /// Looks at what events are written into.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn of(client: &Client, intake: &Intake<TableName>) -> Result<Option<Self>, Error> {
        match intake {
            Intake::Table(name) => Self::by_name(client, name).await,
            Intake::Messages(prefix) => Ok(Some(Self::of_messages(prefix))),
        }
    }

    fn of_messages(prefix: &str) -> Self {
        let layout = message::layout();
        Self {
            oid: 0,
            name: TableName { schema: "messages".to_owned(), name: prefix.to_owned() },
            is_partitioned: false,
            is_table: true,
            is_logged: true,
            type_sql: layout.columns.iter().map(|column| column.type_name.clone()).collect(),
            layout,
        }
    }

    /// Whether there is such a table; otherwise no statement may name it.
    pub fn exists(&self) -> bool {
        self.oid != 0
    }

    /// Looks the table up by name.
    ///
    /// # Errors
    /// The connection broke.
    async fn by_name(client: &Client, name: &TableName) -> Result<Option<Self>, Error> {
        let row = client
            .query_opt(
                "SELECT c.oid, c.relkind = 'p', c.relkind IN ('r', 'p'), \
                        c.relpersistence = 'p' AND NOT EXISTS ( \
                            SELECT FROM pg_partition_tree(c.oid) t JOIN pg_class p ON p.oid = t.relid \
                            WHERE p.relpersistence <> 'p' OR p.relkind = 'f') \
                 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
                 WHERE n.nspname = $1 AND c.relname = $2",
                &[&name.schema, &name.name],
            )
            .await?;
        let Some(row) = row else { return Ok(None) };
        let oid: u32 = row.get(0);
        let columns = client.query(COLUMNS, &[&oid]).await?;
        let (mut layout, mut type_sql) = (Layout { columns: Vec::new() }, Vec::new());
        for column in columns {
            let (schema, base): (String, String) = (column.get(3), column.get(4));
            layout.columns.push(LayoutColumn {
                name: column.get(0),
                type_oid: column.get(1),
                type_name: column.get(2),
                kind: kind(&schema, &base, column.get(5), column.get(6)),
                is_padded: schema == "pg_catalog" && base == "bpchar",
                is_generated: column.get(7),
                labels: column.get(8),
            });
            type_sql.push(format!("{}.{}", quote_ident(&schema), quote_ident(&base)));
        }
        Ok(Some(Self {
            oid,
            name: name.clone(),
            is_partitioned: row.get(1),
            is_table: row.get(2),
            is_logged: row.get(3),
            layout,
            type_sql,
        }))
    }

    /// The SQL condition that the table `oid` still has this name.
    pub fn is_called(oid: u32, TableName { schema, name }: &TableName) -> String {
        let (schema, name) = (quote_literal(schema), quote_literal(name));
        format!(
            "EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
             WHERE c.oid = {oid} AND c.relname = {name} AND n.nspname = {schema})"
        )
    }

    /// The name that the table has now.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn current_name(client: &Client, oid: u32) -> Result<Option<TableName>, Error> {
        let row = client
            .query_opt(
                "SELECT n.nspname, c.relname FROM pg_class c \
                 JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = $1",
                &[&oid],
            )
            .await?;
        Ok(row.map(|row| TableName { schema: row.get(0), name: row.get(1) }))
    }

    /// A column's type as SQL takes it in a cast.
    pub fn type_sql(&self, column: &str) -> Option<&str> {
        let place = self.layout.columns.iter().position(|found| found.name == column)?;
        self.type_sql.get(place).map(String::as_str)
    }
}

/// Columns with their types, domains followed to what they are made of.
const COLUMNS: &str = "\
    SELECT a.attname, a.atttypid, format_type(a.atttypid, a.atttypmod), \
           n.nspname, b.typname, b.typtype::text, b.typcategory::text, \
           a.attgenerated <> '', ARRAY( \
               SELECT e.enumlabel::text FROM pg_enum e WHERE e.enumtypid = b.oid ORDER BY e.enumsortorder) \
    FROM pg_attribute a \
    CROSS JOIN LATERAL ( \
        WITH RECURSIVE base AS ( \
            SELECT t.oid, t.typtype, t.typbasetype FROM pg_type t WHERE t.oid = a.atttypid \
            UNION ALL \
            SELECT t.oid, t.typtype, t.typbasetype FROM pg_type t JOIN base ON t.oid = base.typbasetype) \
        SELECT oid FROM base WHERE typtype <> 'd') base \
    JOIN pg_type b ON b.oid = base.oid \
    JOIN pg_namespace n ON n.oid = b.typnamespace \
    WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped \
    ORDER BY a.attnum";

fn kind(schema: &str, name: &str, typtype: &str, category: &str) -> Kind {
    match (schema, name) {
        ("pg_catalog", "int2" | "int4" | "int8") => Kind::Integer,
        ("pg_catalog", "text" | "varchar" | "bpchar" | "name" | "char") => Kind::Text,
        ("pg_catalog", "json" | "jsonb") => Kind::Json,
        ("pg_catalog", "bytea") => Kind::Bytes,
        ("pg_catalog", "bool") => Kind::Boolean,
        ("pg_catalog", "timestamp") => Kind::Timestamp,
        ("pg_catalog", "timestamptz") => Kind::TimestampTz,
        _ if typtype == "e" => Kind::Enum,
        // Arrays, composite types, ranges and pseudo-types have no single value.
        _ if typtype != "b" || matches!(category, "A" | "C" | "P" | "R") => Kind::Other,
        _ if category == "S" => Kind::Text,
        _ => Kind::Scalar,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_synchronous_standby_is_recognised_in_every_form() {
        for setting in
            ["*", "a, OutboxD", "FIRST 1 (a, outboxd)", "ANY 2 (\"outboxd\", b)", "2 (*)"]
        {
            assert!(names_standby(setting, "outboxd"), "{setting}");
        }
        for setting in ["", "a", "FIRST 1 (a, b)", "outboxd2"] {
            assert!(!names_standby(setting, "outboxd"), "{setting}");
        }
    }
}
