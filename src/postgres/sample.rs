//! What the values of a row would be, asked of the server without writing the row.
//!
//! Every value is read as the column's type reads it and printed as the stream prints it. Defaults
//! are evaluated in a transaction that cannot write and is rolled back, so that no sequence moves.

use tokio_postgres::{Client, SimpleQueryMessage};

use super::{Error, OutboxTable, quote_literal};
use crate::outbox::JsonRow;
use crate::outbox::columns::Kind;

/// The values of a row that was not written.
#[derive(Debug, Default)]
pub struct SampleRow {
    /// As the stream would bring them, in the order of the layout.
    pub values: Vec<Option<Vec<u8>>>,
    /// What would be otherwise if the row were written.
    pub notes: Vec<SampleNote>,
}

/// What would be otherwise if a row were written.
#[derive(Debug)]
pub struct SampleNote {
    /// Where this only counts if that column does: its name.
    pub column: Option<String>,
    /// In words.
    pub text: String,
}

/// Why there is no such row.
#[derive(Debug, thiserror::Error)]
pub enum SampleError {
    /// A member that is none of its columns.
    #[error("the table has no column \"{0}\"")]
    NoColumn(String),
    /// A value that the column's type does not take.
    #[error("column \"{column}\"")]
    BadValue {
        /// The column.
        column: String,
        /// What the server says.
        source: Error,
    },
    /// The connection broke, or the server refused more than a value.
    #[error(transparent)]
    Postgres(#[from] Error),
}

/// What is to be known of a column to have its value.
struct Column {
    name: String,
    kind: Kind,
    /// As SQL takes it, with its modifiers.
    type_sql: String,
    default: Option<String>,
    is_identity: bool,
    is_generated: bool,
    is_not_null: bool,
}

/// Which number stands for one that a sequence would give.
const STAND_IN: &[u8] = b"1";

impl OutboxTable {
    /// What the table would make of a row that is inserted so, if it has no triggers.
    ///
    /// # Errors
    /// The table does not take the row, or the connection broke.
    pub async fn sample(&self, client: &Client, row: &JsonRow) -> Result<SampleRow, SampleError> {
        let columns = &self.layout.columns;
        let unknown = row.keys().find(|name| columns.iter().all(|column| column.name != **name));
        if let Some(name) = unknown {
            return Err(SampleError::NoColumn(name.clone()));
        }
        let begun = client.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await;
        begun.map_err(Error::from)?;
        let mut sample = SampleRow::default();
        for column in self.sampled_columns(client).await? {
            let value = match row.get(&column.name).map(|raw| raw.get()) {
                Some("null") => None,
                Some(json) => {
                    let value = scalar(client, &column.of_json(json)).await;
                    value.map_err(|error| of_value(error, &column))?
                }
                None => column.by_itself(client, &mut sample.notes).await?,
            };
            sample.values.push(value);
        }
        sample.notes.extend(self.trigger_note(client).await?);
        client.batch_execute("ROLLBACK").await.map_err(Error::from)?;
        Ok(sample)
    }

    async fn sampled_columns(&self, client: &Client) -> Result<Vec<Column>, Error> {
        let rows = client.query(COLUMNS, &[&self.oid]).await?;
        let found = rows.iter().zip(&self.layout.columns).map(|(row, known)| Column {
            name: known.name.clone(),
            kind: known.kind,
            type_sql: row.get(0),
            default: row.get(1),
            is_identity: row.get(2),
            is_generated: row.get(3),
            is_not_null: row.get(4),
        });
        Ok(found.collect())
    }

    async fn trigger_note(&self, client: &Client) -> Result<Option<SampleNote>, Error> {
        let row = client.query_one(TRIGGERS, &[&self.oid]).await?;
        let names: Option<String> = row.get(0);
        Ok(names.map(|names| SampleNote {
            column: None,
            text: format!(
                "triggers may change the row when it is inserted, and did not run: {names}"
            ),
        }))
    }
}

impl Column {
    /// SQL that gives the value which a member of that text becomes. JSON is taken as it is written;
    /// anything else is read as `json_populate_record` does.
    fn of_json(&self, json: &str) -> String {
        let type_sql = &self.type_sql;
        if self.kind == Kind::Json {
            return format!("SELECT CAST({} AS {type_sql})", quote_literal(json));
        }
        let object = quote_literal(&format!("{{\"v\":{json}}}"));
        format!("SELECT v FROM json_to_record({object}::json) AS given(v {type_sql})")
    }

    /// The value where the row says nothing.
    async fn by_itself(
        &self,
        client: &Client,
        notes: &mut Vec<SampleNote>,
    ) -> Result<Option<Vec<u8>>, Error> {
        let name = &self.name;
        let mut note = |text: String| {
            let text = format!("column \"{name}\" {text}");
            notes.push(SampleNote { column: Some(name.clone()), text });
        };
        if self.is_generated {
            note("is generated: it is null here".to_owned());
            return Ok(None);
        }
        if self.is_identity {
            note("gets its number when it is inserted: 1 stands for it".to_owned());
            return Ok(Some(STAND_IN.into()));
        }
        let Some(default) = &self.default else {
            if self.is_not_null {
                let text =
                    format!("the table takes no such row: column \"{name}\" may not be null");
                notes.push(SampleNote { column: None, text });
            }
            return Ok(None);
        };
        client.batch_execute("SAVEPOINT before_default").await?;
        match scalar(client, &format!("SELECT CAST(({default}) AS {})", self.type_sql)).await {
            Ok(value) => Ok(value),
            Err(error) => {
                let Some(sqlstate) = error.sqlstate() else {
                    return Err(error);
                };
                let writes = WRITES.contains(&sqlstate.code());
                client.batch_execute("ROLLBACK TO SAVEPOINT before_default").await?;
                if writes && self.kind == Kind::Integer {
                    note(format!("gets its number by {default}: 1 stands for it"));
                    return Ok(Some(STAND_IN.into()));
                }
                note(format!("is null here, {default} when it is inserted: {error}"));
                Ok(None)
            }
        }
    }
}

/// What is said to a default that takes a number of a sequence: nothing is written here; or, before
/// that, that the relay's role may not, which needs no right to insert.
const WRITES: [&str; 2] = ["25006", "42501"];

/// The one value that a statement gives, as the stream would print it.
async fn scalar(client: &Client, sql: &str) -> Result<Option<Vec<u8>>, Error> {
    let messages = client.simple_query(sql).await?;
    let row = messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    Ok(row.and_then(|row| row.get(0)).map(|text| text.as_bytes().to_vec()))
}

/// An error about a value, or about something else.
fn of_value(error: Error, column: &Column) -> SampleError {
    // Data exceptions, and what a domain does not allow.
    let is_about_it =
        error.sqlstate().is_some_and(|state| matches!(state.code().get(..2), Some("22" | "23")));
    match is_about_it {
        true => SampleError::BadValue { column: column.name.clone(), source: error },
        false => error.into(),
    }
}

/// In the order of the layout: type, default, identity, generated, not null.
const COLUMNS: &str = "\
    SELECT format_type(a.atttypid, a.atttypmod), \
           coalesce(pg_get_expr(d.adbin, d.adrelid), pg_get_expr(t.typdefaultbin, 0)), \
           a.attidentity <> '', a.attgenerated <> '', a.attnotnull \
    FROM pg_attribute a \
    JOIN pg_type t ON t.oid = a.atttypid \
    LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum \
    WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped \
    ORDER BY a.attnum";

/// Triggers before the insert of a row: 1 is for each row, 2 before, 4 on insert.
const TRIGGERS: &str = "\
    SELECT string_agg(tgname::text, ', ' ORDER BY tgname) FROM pg_trigger \
    WHERE tgrelid = $1 AND NOT tgisinternal AND tgenabled IN ('O', 'A') AND tgtype & 7 = 7";
