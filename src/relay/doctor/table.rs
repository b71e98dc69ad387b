//! What makes the table dear to write to, or lets in what no topic takes.

use regex::Regex;
use tokio_postgres::Client;

use super::super::RelayConfig;
use super::super::finding::Finding;
use super::super::preflight::Outbox;
use super::topics::Topics;
use crate::failure::Code;
use crate::outbox::columns::{Field, Kind};
use crate::outbox::status::Mode;
use crate::postgres::{Error, TableName, quote_ident};

/// Fewer dead rows are everyday life.
const DEAD_ROWS: i64 = 10_000;
/// What migrations limit a payload to.
const USUAL_LIMIT: usize = 1 << 20;
/// As in `pg_trigger`.
const ON_DELETE: i16 = 8;
const ON_UPDATE: i16 = 16;

/// Everything about the table. How large a payload can be comes into `topics`.
pub(super) async fn examine(
    client: &Client,
    config: &RelayConfig,
    outbox: &Outbox,
    topics: &mut Topics,
) -> Result<Vec<Finding>, Error> {
    let mut findings = size_check(client, config, outbox, topics).await?;
    findings.extend(indexes(client, outbox).await?);
    findings.extend(triggers(client, outbox).await?);
    findings.extend(upkeep(client, outbox).await?);
    findings.extend(partition(client, outbox).await?);
    Ok(findings)
}

fn costly(title: &str, observed: String, required: &str, fix: impl Into<String>) -> Finding {
    Finding::error(Code::TableCostly, title, observed, required, fix).warning()
}

/// The bound that a condition sets to the size of something, as in `(octet_length(x) <= 1048576)`:
/// nothing if it sets none, and nothing inside if it is no plain number.
fn bound(condition: &str) -> Option<Option<usize>> {
    let size = r"(?:octet_length|char_length|length|pg_column_size)\(.*\)\s*<(=?)\s*";
    let number = r"(?:\(?'?(\d+)'?(?:::\w+)?\))?";
    let found = Regex::new(&format!("{size}{number}")).ok()?.captures(condition)?;
    let number = found.get(2).and_then(|number| number.as_str().parse::<usize>().ok());
    let is_below = found.get(1).is_some_and(|equals| equals.as_str().is_empty());
    Some(number.map(|number| if is_below { number.saturating_sub(1) } else { number }))
}

async fn size_check(
    client: &Client,
    config: &RelayConfig,
    outbox: &Outbox,
    topics: &mut Topics,
) -> Result<Vec<Finding>, Error> {
    let Some(payload) = outbox.events.mapping().column(Field::Payload) else {
        return Ok(Vec::new());
    };
    // From PostgreSQL 18 on a condition can be there and not count.
    let sql = "SELECT pg_get_constraintdef(c.oid) FROM pg_constraint c \
               JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = ANY (c.conkey) \
               WHERE c.conrelid = $1 AND c.contype = 'c' AND a.attname = $2 \
                 AND coalesce((to_jsonb(c) ->> 'conenforced')::boolean, true)";
    let rows = client.query(sql, &[&outbox.table.oid, &payload.name]).await?;
    let bounds: Vec<_> = rows.iter().filter_map(|row| bound(row.get(0))).collect();
    let limit = bounds.iter().flatten().min().copied();
    topics.payload_limit = limit;
    let (table, title) = (&outbox.table.name, "size of payloads");
    let size = match payload.kind {
        Kind::Bytes => format!("octet_length({})", quote_ident(&payload.name)),
        _ => format!("octet_length({}::text)", quote_ident(&payload.name)),
    };
    let check = |limit: usize| {
        format!("ALTER TABLE {table} ADD CONSTRAINT outbox_payload_size CHECK ({size} <= {limit});")
    };
    Ok(match limit {
        // A type with a length of its own is a limit, too.
        None if payload.type_name.contains('(') || !bounds.is_empty() => Vec::new(),
        None => {
            let observed = format!(
                "no condition limits \"{}\": a row larger than its topic takes is committed, and then \
                 fails and holds up its key",
                payload.name
            );
            let required = "a CHECK below max.message.bytes of the topics";
            vec![costly(title, observed, required, check(USUAL_LIMIT))]
        }
        Some(limit) if limit > config.max_row_bytes => {
            let observed = format!(
                "the table takes {limit} bytes, outbox.max_row_bytes is {}: a row between the two is \
                 committed, and fails",
                config.max_row_bytes
            );
            let fix = format!(
                "set outbox.max_row_bytes = {limit}; or drop that condition, and {}",
                check(USUAL_LIMIT)
            );
            vec![costly(title, observed, "no more than outbox.max_row_bytes", fix)]
        }
        Some(_) => Vec::new(),
    })
}

/// An index of a table or partition that mentions one of the columns `$2`: as a key, in an
/// expression, in its condition. From 16 on BRIN ones do not matter. One that belongs to a
/// constraint goes with it.
const INDEXES: &str = "\
    SELECT x.oid::regclass::text, x.relkind = 'I', k.conname::text, i.indrelid::regclass::text, \
           string_agg(DISTINCT a.attname, ', ' ORDER BY a.attname) \
    FROM (SELECT $1::oid AS oid UNION SELECT relid FROM pg_partition_tree($1)) t \
    JOIN pg_index i ON i.indrelid = t.oid \
    JOIN pg_class x ON x.oid = i.indexrelid AND NOT x.relispartition \
    JOIN pg_am m ON m.oid = x.relam \
    JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attname = ANY ($2) \
     AND (a.attnum = ANY (i.indkey) OR EXISTS ( \
        SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = i.indexrelid \
         AND d.refclassid = 'pg_class'::regclass AND d.refobjid = i.indrelid \
         AND d.refobjsubid = a.attnum)) \
    LEFT JOIN pg_constraint k ON k.conindid = i.indexrelid AND k.contype IN ('p', 'u', 'x') \
    WHERE NOT (m.amname = 'brin' AND current_setting('server_version_num')::int4 >= 160000) \
    GROUP BY 1, 2, 3, 4 ORDER BY 1";

async fn indexes(client: &Client, outbox: &Outbox) -> Result<Vec<Finding>, Error> {
    if outbox.status.mode != Mode::Update {
        return Ok(Vec::new());
    }
    let written: Vec<_> = outbox.status.written().iter().map(|it| it.name.clone()).collect();
    let rows = client.query(INDEXES, &[&outbox.table.oid, &written]).await?;
    let finding = |row: &tokio_postgres::Row| {
        let (index, is_partitioned): (String, bool) = (row.get(0), row.get(1));
        let (constraint, table): (Option<String>, String) = (row.get(2), row.get(3));
        let columns: String = row.get(4);
        let observed = format!(
            "index {index} has {columns} in it, which the relay writes: each status moves the row and \
             touches every index of the table, which costs several times as much"
        );
        let fix = match constraint {
            Some(name) => format!("ALTER TABLE {table} DROP CONSTRAINT {};", quote_ident(&name)),
            None if is_partitioned => format!("DROP INDEX {index};"),
            None => format!("DROP INDEX CONCURRENTLY {index};"),
        };
        costly("index of a status column", observed, "no index of these columns", fix)
    };
    Ok(rows.iter().map(finding).collect())
}

/// A trigger that fires on `$2` of one of the columns `$3`.
const TRIGGERS: &str = "\
    SELECT g.tgname::text, g.tgrelid::regclass::text \
    FROM (SELECT $1::oid AS oid UNION SELECT relid FROM pg_partition_tree($1)) t \
    JOIN pg_trigger g ON g.tgrelid = t.oid \
    WHERE NOT g.tgisinternal AND g.tgparentid = 0 AND g.tgenabled IN ('O', 'A') \
      AND g.tgtype & $2 <> 0 AND (cardinality(g.tgattr::int2[]) = 0 OR EXISTS ( \
        SELECT FROM pg_attribute a WHERE a.attrelid = g.tgrelid AND a.attname = ANY ($3) \
          AND a.attnum = ANY (g.tgattr))) \
    ORDER BY 2, 1";

async fn triggers(client: &Client, outbox: &Outbox) -> Result<Vec<Finding>, Error> {
    let (event, verb) = match outbox.status.mode {
        Mode::Update => (ON_UPDATE, "UPDATE"),
        Mode::Delete => (ON_DELETE, "DELETE"),
        Mode::Ledger | Mode::None => return Ok(Vec::new()),
    };
    let written: Vec<_> = outbox.status.written().iter().map(|it| it.name.clone()).collect();
    let rows = client.query(TRIGGERS, &[&outbox.table.oid, &event, &written]).await?;
    let finding = |row: &tokio_postgres::Row| {
        let (name, table): (String, String) = (row.get(0), row.get(1));
        let name = quote_ident(&name);
        let observed = format!(
            "trigger {name} fires on {verb}: it runs for every status that the relay writes, and an \
             error in it stops the relay"
        );
        let fix = format!(
            "ALTER TABLE {table} DISABLE TRIGGER {name}; -- or make it for other columns than these: {}",
            written.join(", ")
        );
        costly("trigger", observed, "no trigger on what the relay writes", fix)
    };
    Ok(rows.iter().map(finding).collect())
}

/// A heap of the table: its name, whether updates have room in a page, whether it is vacuumed, its
/// dead and live rows.
const UPKEEP: &str = "\
    SELECT n.nspname::text, r.relname::text, \
           coalesce((SELECT option_value::int4 FROM pg_options_to_table(r.reloptions) \
                     WHERE option_name = 'fillfactor'), 100) <= 90, \
           current_setting('autovacuum')::boolean AND coalesce( \
               (SELECT option_value::boolean FROM pg_options_to_table(r.reloptions) \
                WHERE option_name = 'autovacuum_enabled'), true), \
           coalesce(s.n_dead_tup, 0), coalesce(s.n_live_tup, 0) \
    FROM (SELECT $1::oid AS oid UNION SELECT relid FROM pg_partition_tree($1)) t \
    JOIN pg_class r ON r.oid = t.oid AND r.relkind = 'r' \
    JOIN pg_namespace n ON n.oid = r.relnamespace \
    LEFT JOIN pg_stat_all_tables s ON s.relid = r.oid ORDER BY r.oid";

async fn upkeep(client: &Client, outbox: &Outbox) -> Result<Vec<Finding>, Error> {
    let rows = client.query(UPKEEP, &[&outbox.table.oid]).await?;
    let name = |row: &tokio_postgres::Row| TableName { schema: row.get(0), name: row.get(1) };
    let which = |place: usize| rows.iter().filter(move |row| !row.get::<_, bool>(place)).map(name);
    let all = |names: &[TableName], make: &dyn Fn(&TableName) -> String| {
        names.iter().map(make).collect::<Vec<_>>().join(" ")
    };
    let list =
        |names: &[TableName]| names.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let mut findings = Vec::new();
    let full: Vec<_> = which(2).collect();
    if outbox.status.mode == Mode::Update && !full.is_empty() {
        let observed = format!(
            "pages of {} are filled up: an update finds no room beside its row, and touches every index",
            list(&full)
        );
        let fix = all(&full, &|name| format!("ALTER TABLE {name} SET (fillfactor = 50);"));
        findings.push(costly("fillfactor", observed, "50 to 90; it counts for new pages", fix));
    }
    let untended: Vec<_> = which(3).collect();
    if !untended.is_empty() && outbox.status.mode != Mode::None {
        let observed =
            format!("autovacuum is off for {}: dead rows are never removed", list(&untended));
        let fix = all(&untended, &|name| format!("ALTER TABLE {name} RESET (autovacuum_enabled);"));
        let fix = format!("{fix} -- and of the server: autovacuum = on");
        findings.push(costly("autovacuum", observed, "autovacuum on", fix));
    }
    let dead = rows.iter().filter(|row| {
        let (dead, live): (i64, i64) = (row.get(4), row.get(5));
        dead > DEAD_ROWS && dead > live
    });
    findings.extend(dead.map(|row| {
        let (name, dead, live): (_, i64, i64) = (name(row), row.get(4), row.get(5));
        let observed = format!("{name} has {dead} dead rows and {live} live ones");
        let fix = format!("VACUUM {name};");
        costly("dead rows", observed, "fewer dead rows than live ones", fix)
    }));
    Ok(findings)
}

/// Rows of a partitioned table go where its partitions say: a relay of one of them misses the rest.
async fn partition(client: &Client, outbox: &Outbox) -> Result<Option<Finding>, Error> {
    let sql = "SELECT inhparent::regclass::text FROM pg_inherits i \
               JOIN pg_class c ON c.oid = i.inhrelid \
               WHERE inhrelid = $1 AND c.relispartition AND NOT inhdetachpending";
    let row = client.query_opt(sql, &[&outbox.table.oid]).await?;
    Ok(row.map(|row| {
        let root: String = row.get(0);
        let observed = format!(
            "{} is a partition of {root}: rows of its other partitions are not published",
            outbox.table.name
        );
        let fix = format!("set outbox.table = {root:?}, with a publication of it");
        let required = "the partitioned table itself";
        Finding::error(Code::TableUnsuitable, "outbox table", observed, required, fix).warning()
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_of_a_condition_is_read() {
        for (condition, expected) in [
            ("CHECK ((octet_length((payload)::text) <= 1048576))", Some(Some(1_048_576))),
            ("CHECK ((length(payload) < 1000))", Some(Some(999))),
            ("CHECK ((pg_column_size(payload) <= '500'::bigint))", Some(Some(500))),
            ("CHECK ((octet_length((payload)::text) <= (8 * 1024)))", Some(None)),
            ("CHECK ((jsonb_typeof(payload) = 'object'::text))", None),
            ("CHECK ((octet_length(payload) > 0))", None),
        ] {
            assert_eq!(bound(condition), expected, "{condition}");
        }
    }
}
