//! Columns that a map may name and that do not do what it takes: PostgreSQL does not stream them, or
//! has no index to find a row by.

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::finding::Finding;
use super::preflight::Outbox;
use crate::failure::Code;
use crate::outbox::columns::{Field, LayoutColumn};
use crate::outbox::status::Mode;
use crate::postgres::{Error, Publication, quote_ident};

/// The first server that can stream generated columns, if the publication says so.
const STREAMS_GENERATED: i32 = 180_000;

/// The columns that the map needs and the stream does not bring. Without this the first row would
/// tell.
pub(super) fn unstreamed(
    outbox: &Outbox,
    publication: Option<&Publication>,
    name: &str,
    version: i32,
) -> Vec<Finding> {
    let Outbox { table, events, .. } = outbox;
    let published = publication.map_or(&[][..], |publication| &publication.columns);
    let is_streamed = |column: &LayoutColumn| match (column.is_generated, published) {
        (true, _) if version < STREAMS_GENERATED => false,
        (false, []) => true,
        (_, published) => published.contains(&column.name),
    };
    let is_needed = |column: &&LayoutColumn| {
        let mut rest = table.relation();
        rest.columns.retain(|other| other.name != column.name);
        events.bind(&rest).is_err()
    };
    let finding = |column: &LayoutColumn| {
        let is_it = |field: &Field| {
            events.mapping().column(*field).is_some_and(|mapped| mapped.name == column.name)
        };
        let field = Field::ALL.into_iter().find(is_it);
        let key = field.map(|field| format!("outbox.columns.{}: ", field.name()));
        let LayoutColumn { name: column_name, type_name, is_generated, .. } = column;
        let (reason, fix) = if *is_generated {
            let fix = "map the columns that it is made of, or one that is written; PostgreSQL 18 \
                       publishes stored ones with publish_generated_columns = stored";
            ("is generated, and such a column is not in the stream", fix.to_owned())
        } else {
            let fix = format!("ALTER PUBLICATION {} SET TABLE {};", quote_ident(name), table.name);
            ("is not among those that the publication has of the table", fix)
        };
        let key = key.unwrap_or_default();
        let observed = format!("{key}column \"{column_name}\" of type {type_name} {reason}");
        let required = "a column that PostgreSQL streams";
        Finding::error(Code::Map, "column map", observed, required, fix)
    };
    let columns = table.layout.columns.iter();
    columns.filter(|column| !is_streamed(column)).filter(is_needed).map(finding).collect()
}

/// A table or partition `r` without an index that serves to find rows by the column `$2`: first in
/// it, of every row, and by an operator that our sessions see.
const WITHOUT_INDEX: &str = "\
    SELECT count(*) FROM ( \
        SELECT $1::oid AS oid UNION SELECT relid FROM pg_partition_tree($1)) t \
    JOIN pg_class r ON r.oid = t.oid AND r.relkind = 'r' \
    WHERE NOT EXISTS ( \
        SELECT FROM pg_index i \
        JOIN pg_class x ON x.oid = i.indexrelid \
        JOIN pg_am m ON m.oid = x.relam AND m.amname IN ('btree', 'hash') \
        JOIN pg_opclass c ON c.oid = i.indclass[0] \
        JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0] \
        WHERE i.indrelid = r.oid AND a.attname = $2 AND i.indpred IS NULL AND i.indisvalid \
          AND i.indcollation[0] IN (0, a.attcollation) \
          AND EXISTS ( \
              SELECT FROM pg_amop e JOIN pg_operator o ON o.oid = e.amopopr \
              WHERE e.amopfamily = c.opcfamily AND o.oprname = '=' \
                AND o.oprnamespace = 'pg_catalog'::regnamespace))";

/// Whether rows can be found by the id, and fast.
pub(super) async fn slow_id(client: &Client, outbox: &Outbox) -> Result<Option<Finding>, Error> {
    let Outbox { table, events, status } = outbox;
    let writes_rows = matches!(status.mode, Mode::Update | Mode::Delete) || status.shows_failures();
    let Some(id) = events.mapping().column(Field::Id) else {
        return Ok(None);
    };
    if !writes_rows && events.mapping().column(Field::ScheduledAt).is_none() {
        return Ok(None);
    }
    let (name, type_name) = (&id.name, &id.type_name);
    let type_sql = table.type_sql(name).unwrap_or("text");
    let compared = client.prepare(&format!("SELECT NULL::{type_sql} = NULL::{type_sql}")).await;
    if compared.is_err_and(|error| error.code() == Some(&SqlState::UNDEFINED_FUNCTION)) {
        let observed = format!(
            "outbox.columns.id: column \"{name}\" is of type {type_name}, which has no \"=\" in the \
             schema pg_catalog"
        );
        let required = "a scalar of PostgreSQL's own, such as text, uuid or bigint";
        let fix = "map another column that identifies the event";
        return Ok(Some(Finding::error(Code::Map, "column map", observed, required, fix)));
    }
    let row = client.query_one(WITHOUT_INDEX, &[&table.oid, name]).await?;
    if row.get::<_, i64>(0) == 0 {
        return Ok(None);
    }
    // A type of an extension is compared as text: its own operators are in no schema that we search.
    let is_foreign = !type_sql.starts_with("\"pg_catalog\".") && id.labels.is_empty();
    let class = if is_foreign { " text_ops" } else { "" };
    // Of a partitioned table an index cannot be made without a lock.
    let way = if table.is_partitioned { "" } else { "CONCURRENTLY " };
    let observed = format!(
        "no index serves to find a row of {} by its id, \"{name}\" of type {type_name}: each run of \
         statuses reads the whole table",
        table.name
    );
    let required = "an index that begins with the id, without a condition";
    let fix = format!("CREATE INDEX {way}ON {} ({}{class});", table.name, quote_ident(name));
    let finding = Finding::error(Code::TableUnsuitable, "index of the id", observed, required, fix);
    Ok(Some(finding.warning()))
}
