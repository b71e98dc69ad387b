//! `outboxd migrate`: the files in `migrations/`, with the configured names.

use std::process::ExitCode;

use super::CommandResult;
use crate::config::Config;
use crate::failure::{Code, Failure};
use crate::migrations::{INBOX, Names, migrations};
use crate::postgres::{Error, OutboxTable, SqlSession};

/// Only the consumer's inbox, which is for another database than the outbox's.
pub(super) async fn migrate_inbox(config: Config, print: bool) -> CommandResult {
    let (relay, (name, sql)) = (config.relay, INBOX);
    if print {
        println!("-- {name}\n\n{sql}");
        return Ok(ExitCode::SUCCESS);
    }
    let session = SqlSession::open(&relay.server, "migrate").await;
    let session = session.map_err(|error| relay.failure_of(&error, "connect"))?;
    let applied = session.client.batch_execute(sql).await.map_err(Error::from);
    applied.map_err(|error| refused(relay.failure_of(&error, &format!("apply {name}"))))?;
    println!("{name}: applied");
    Ok(ExitCode::SUCCESS)
}

/// What is missing is what the migrations are there for: it is not the user who has to bring it.
fn refused(failure: Failure) -> Failure {
    match failure.code {
        Code::SchemaMissing | Code::PostgresRefused | Code::SlotLost => {
            Failure::new(Code::PostgresRefused, failure.message)
        }
        _ => failure,
    }
}

pub(super) async fn migrate(config: Config, print: bool) -> CommandResult {
    let relay = config.relay;
    if print {
        for migration in migrations(&Names::of(&relay, None)) {
            println!("-- {}\n\n{}", migration.name, migration.sql);
        }
        return Ok(ExitCode::SUCCESS);
    }
    let session = SqlSession::open(&relay.server, "migrate").await;
    let session = session.map_err(|error| relay.failure_of(&error, "connect"))?;
    let table = OutboxTable::of(&session.client, &relay.intake).await;
    let table = table.map_err(|error| relay.failure_of(&error, "look at the table"))?;
    let has_table = table.is_some();
    let names = Names::of(&relay, table.as_ref().map(|table| &table.layout));
    for migration in migrations(&names) {
        // A table that is there is the user's own, whatever its columns.
        if migration.makes_table && has_table {
            println!("{}: the {} is there already", migration.name, relay.intake);
            continue;
        }
        let applied = session.client.batch_execute(&migration.sql).await.map_err(Error::from);
        applied.map_err(|error| {
            refused(relay.failure_of(&error, &format!("apply {}", migration.name)))
        })?;
        println!("{}: applied", migration.name);
    }
    println!("\nGive the role \"{}\" a password: ALTER ROLE … PASSWORD '…';", names.role);
    Ok(ExitCode::SUCCESS)
}
