//! The migrations, which are part of the binary. The files work as they are for the default names;
//! other names are put in their place here, quoted.

use crate::names::Intake;
use crate::outbox::columns::{Field, Layout, Source};
use crate::outbox::status::Mode;
use crate::postgres::{TableName, quote_ident, quote_literal};
use crate::relay::RelayConfig;

/// The names in the files.
pub struct Names {
    /// The outbox.
    pub intake: Intake<TableName>,
    /// The publication.
    pub publication: String,
    /// The relay's role.
    pub role: String,
    /// The columns that the relay writes.
    pub status_columns: Vec<String>,
    /// The column that identifies an event.
    pub id: String,
    /// Whether the relay removes rows, as they are sent or later.
    pub deletes: bool,
}

impl Names {
    /// The configured names; of the columns those that the table has, if it is there.
    pub fn of(config: &RelayConfig, layout: Option<&Layout>) -> Self {
        let status = &config.status;
        let columns = [
            &status.status,
            &status.sent_at,
            &status.sent_flag,
            &status.attempts,
            &status.next_attempt_at,
            &status.last_error,
        ];
        let mut status_columns: Vec<_> =
            columns.iter().filter_map(|column| column.name.clone()).collect();
        if let Some(layout) = layout {
            status_columns.retain(|name| layout.column(name).is_some());
        }
        let id = match &config.events.columns.get(Field::Id).source {
            Some(Source::Column(name)) => name.clone(),
            _ => "id".to_owned(),
        };
        Self {
            intake: config.intake.clone(),
            publication: config.publication.clone(),
            role: "outboxd".to_owned(),
            status_columns,
            id,
            deletes: status.mode == Mode::Delete || config.cleanup.is_some(),
        }
    }
}

/// One file with its names put in place.
pub struct Migration {
    /// The file's name.
    pub name: &'static str,
    /// Its text.
    pub sql: String,
    /// Whether it makes the outbox table.
    pub makes_table: bool,
}

const MAKES_TABLE: &str = "0001_outbox.sql";

const FILES: [(&str, &str); 4] = [
    (MAKES_TABLE, include_str!("../migrations/0001_outbox.sql")),
    ("0002_outboxd.sql", include_str!("../migrations/0002_outboxd.sql")),
    ("0003_publication.sql", include_str!("../migrations/0003_publication.sql")),
    ("0004_roles.sql", include_str!("../migrations/0004_roles.sql")),
];

/// The consumer's inbox, which belongs into another database: no other file goes with it, and no name
/// in it is configured.
pub const INBOX: (&str, &str) = ("0005_inbox.sql", include_str!("../migrations/0005_inbox.sql"));

/// Every migration, in order.
pub fn migrations(names: &Names) -> Vec<Migration> {
    let has_table = names.intake.table().is_some();
    FILES
        .iter()
        .filter(|(name, _)| has_table || *name != MAKES_TABLE)
        .map(|(name, text)| Migration {
            name,
            sql: substitute(text, names),
            makes_table: *name == MAKES_TABLE,
        })
        .collect()
}

/// The line that names the columns which the relay writes.
const UPDATE_GRANT: &str = "GRANT UPDATE (status, sent_at, attempts, next_attempt_at, last_error) \
                            ON public.outbox TO outboxd;\n";

/// What only a table has, and what takes its place where there is none.
const OF_TABLE: [(&str, &str); 5] = [
    (
        "FOR TABLE public.outbox\n            WITH (publish = 'insert', publish_via_partition_root = true)",
        "WITH (publish = 'insert')",
    ),
    (
        "place := coalesce(outbox, 'public.outbox'::regclass);",
        "IF outbox IS NULL THEN
            RAISE EXCEPTION 'event % is not held', id USING ERRCODE = 'no_data_found';
        END IF;
        place := outbox;",
    ),
    ("SCHEMA public, outboxd", "SCHEMA outboxd"),
    ("GRANT SELECT ON public.outbox TO outboxd;\n", ""),
    (UPDATE_GRANT, ""),
];

/// The part of a file between these needs the table, or writes into it.
const NEEDS_TABLE: (&str, &str) = ("-- Every event with its verdict", "-- Publishes an event now");

fn without_table(text: &str) -> String {
    let (from, until) = NEEDS_TABLE;
    let text = match (text.split_once(from), text.split_once(until)) {
        (Some((before, _)), Some((_, after))) => format!("{before}{until}{after}"),
        _ => text.to_owned(),
    };
    OF_TABLE.iter().fold(text, |text, (with, without)| text.replace(with, without))
}

fn substitute(text: &str, names: &Names) -> String {
    let publication = quote_ident(&names.publication);
    let with_publication = text
        .replace("pubname = 'outboxd'", &format!("pubname = {}", quote_literal(&names.publication)))
        .replace("CREATE PUBLICATION outboxd ", &format!("CREATE PUBLICATION {publication} "));
    match &names.intake {
        Intake::Table(table) => with_table(&with_publication, names, table),
        Intake::Messages(_) => without_table(&with_publication),
    }
}

fn with_table(text: &str, names: &Names, name: &TableName) -> String {
    let table = name.to_string();
    let schema = quote_ident(&name.schema);
    let mut columns: Vec<_> = names.status_columns.iter().map(|name| quote_ident(name)).collect();
    if columns.is_empty() && names.deletes {
        // To lock a row, PostgreSQL asks for UPDATE of some column.
        columns.push(quote_ident(&names.id));
    }
    let grant = if columns.is_empty() {
        String::new()
    } else {
        format!("GRANT UPDATE ({}) ON public.outbox TO outboxd;\n", columns.join(", "))
    };
    let mut sql = text
        .replace("SCHEMA public, outboxd", &format!("SCHEMA {schema}, outboxd"))
        .replace("o.id::text", &format!("o.{}::text", quote_ident(&names.id)))
        .replace("'id'::name", &format!("{}::name", quote_literal(&names.id)))
        .replace("'public.outbox'::regclass", &format!("{}::regclass", quote_literal(&table)))
        .replace(UPDATE_GRANT, &grant)
        .replace("public.outbox", &table);
    if name.schema != "public" && sql.contains("CREATE TABLE IF NOT EXISTS") {
        sql = sql.replacen(
            &format!("CREATE TABLE IF NOT EXISTS {table}"),
            &format!("CREATE SCHEMA IF NOT EXISTS {schema};\nCREATE TABLE IF NOT EXISTS {table}"),
            1,
        );
    }
    if names.deletes {
        sql = sql.replace(
            &format!("GRANT SELECT ON {table}"),
            &format!("GRANT SELECT, DELETE ON {table}"),
        );
    }
    sql
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(table: &str) -> Names {
        Names {
            intake: Intake::Table(TableName::parse(table).unwrap()),
            publication: "outboxd".to_owned(),
            role: "outboxd".to_owned(),
            status_columns: vec!["sent".to_owned()],
            id: "id".to_owned(),
            deletes: false,
        }
    }

    #[test]
    fn the_files_have_what_is_replaced() {
        let roles = FILES[3].1;
        assert!(roles.contains(UPDATE_GRANT));
    }

    #[test]
    fn a_relay_of_messages_has_no_table() {
        let names = Names {
            intake: Intake::Messages("orders".to_owned()),
            publication: "m".to_owned(),
            ..names("outbox")
        };
        let all: Vec<_> = migrations(&names).into_iter().map(|migration| migration.sql).collect();
        let all = all.join("\n");
        assert!(all.contains("CREATE PUBLICATION \"m\" WITH (publish = 'insert');"), "{all}");
        assert!(all.contains("GRANT USAGE ON SCHEMA outboxd TO outboxd;"), "{all}");
        for gone in ["CREATE TABLE IF NOT EXISTS public", "VIEW", "emit(", "'public.outbox'"] {
            assert!(!all.contains(gone), "{gone} is in {all}");
        }
        assert!(!all.contains("ON public.outbox"), "{all}");
        assert!(all.contains("FUNCTION outboxd.retry("), "what is held can be retried");
    }

    #[test]
    fn other_names_are_put_in_place_quoted() {
        let all: String = migrations(&Names {
            publication: "it's".to_owned(),
            id: "Event Id".to_owned(),
            deletes: true,
            ..names("\"My Sales\".\"Out\"")
        })
        .iter()
        .map(|migration| migration.sql.clone())
        .collect();
        assert!(!all.contains("public.outbox") && !all.contains("SCHEMA public"), "{all}");
        for part in [
            "CREATE SCHEMA IF NOT EXISTS \"My Sales\";",
            "CREATE TABLE IF NOT EXISTS \"My Sales\".\"Out\" (",
            "pubname = 'it''s'",
            "CREATE PUBLICATION \"it's\" FOR TABLE \"My Sales\".\"Out\"",
            "GRANT UPDATE (\"sent\") ON \"My Sales\".\"Out\"",
            "GRANT SELECT, DELETE ON \"My Sales\".\"Out\"",
            "o.\"Event Id\"::text",
            "a.attname = 'Event Id'::name",
            "'\"My Sales\".\"Out\"'::regclass",
            "GRANT USAGE ON SCHEMA \"My Sales\", outboxd",
        ] {
            assert!(all.contains(part), "{part} is not in {all}");
        }
    }
}
