//! `table.fields.additional.placement`: columns that go into headers, the envelope or the partition.

use super::ImportError;
use super::draft::Draft;
use super::parse::{Form, Options};

/// Our fields that a column could be mistaken for, with the columns that they are.
pub(super) type Fields<'a> = [(&'static str, &'a str)];

/// Takes the placements over. `fields` come before columns of the same name, where ours names them.
pub(super) fn import(
    options: &mut Options,
    draft: &mut Draft,
    option: &str,
    fields: &Fields<'_>,
) -> Result<(), ImportError> {
    let written = options.written(option);
    let Some(list) = options.take(option) else {
        return Ok(());
    };
    if list.trim().is_empty() {
        return Err(ImportError::EmptyPlacement { option: written });
    }
    let (mut headers, mut members) = (vec!["id".to_owned()], Vec::new());
    let mut partition = None;
    for placement in list.split(',') {
        let bad = || ImportError::BadPlacement {
            option: written.clone(),
            placement: placement.trim().to_owned(),
        };
        let parts: Vec<_> = placement.split(':').map(str::trim).collect();
        let (column, place, alias) = match parts.as_slice() {
            [column, place] => (*column, *place, *column),
            [column, place, alias] => (*column, *place, *alias),
            _ => return Err(bad()),
        };
        if column.is_empty() || alias.is_empty() {
            return Err(bad());
        }
        let entry = || {
            let source = source_of(column, fields)?;
            Some(if source == alias { source } else { format!("{alias}={source}") })
        };
        let hidden = |draft: &mut Draft| {
            draft.differs(
                written.as_str(),
                format!(
                    "column {column} cannot be placed, since {column} is the name of a field here, \
                     which is another column"
                ),
            );
        };
        match place.to_ascii_lowercase().as_str() {
            "header" => match entry() {
                Some(entry) => headers.push(entry),
                None => hidden(draft),
            },
            "envelope" => match entry() {
                Some(entry) => members.push(entry),
                None => hidden(draft),
            },
            "partition" => partition = Some(column.to_owned()),
            _ => return Err(bad()),
        }
    }
    let option = "decimal.handling.mode";
    let is_placed = headers.len() > 1 || !members.is_empty();
    if is_placed && options.take_set(option).as_deref() != Some("string") {
        draft.differs(
            options.written(option),
            "a numeric that is placed is written as PostgreSQL prints it, as if this were string",
        );
    }
    if headers.len() > 1 {
        draft.set("envelope", "headers", headers, written.as_str());
    }
    if !members.is_empty() {
        draft.set("envelope.debezium", "members", members, written.as_str());
    }
    match (partition, options.form) {
        (Some(column), Form::Connect) => {
            draft.set("outbox.columns", "partition", column, written);
        }
        (Some(column), Form::Server) => draft.differs(
            written,
            format!(
                "Debezium Server writes no record to the partition of {column}, so it is left out; \
                 set outbox.columns.partition to have it"
            ),
        ),
        (None, _) => {}
    }
    Ok(())
}

/// What names the column here: itself, unless a field of that name is another column.
fn source_of(column: &str, fields: &Fields<'_>) -> Option<String> {
    match fields.iter().find(|(field, _)| *field == column) {
        Some((_, of_field)) if *of_field != column => None,
        _ => Some(column.to_owned()),
    }
}
