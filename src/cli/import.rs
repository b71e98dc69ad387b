//! `outboxd import`: our configuration, made of another tool's.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Subcommand;

use super::CommandResult;
use crate::failure::{Code, Failure};
use crate::import;

#[derive(Debug, Subcommand)]
pub(super) enum ImportCommand {
    /// Of Debezium's PostgreSQL connector with the outbox event router
    ///
    /// Prints outboxd.toml. Its first comment lists every option that differs in what it does, and
    /// every one that is not needed. Passwords are not printed.
    Debezium {
        /// connector.json or connector.properties of Kafka Connect, or application.properties of
        /// Debezium Server
        file: PathBuf,
    },
}

pub(super) fn import(from: &ImportCommand) -> CommandResult {
    let ImportCommand::Debezium { file } = from;
    let imported = import::debezium(&read(file)?).map_err(|error| {
        let text = format!("import {}: {error}", file.display());
        Failure::new(Code::Config, text)
    })?;
    print!("{}", imported.toml);
    eprintln!(
        "{} values; {} options differ, {} are not needed: see the comments",
        imported.taken, imported.differing, imported.passed
    );
    Ok(ExitCode::SUCCESS)
}

fn read(file: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(file).map_err(|error| {
        let text = format!("read {}: {error}", file.display());
        Failure::new(Code::Config, text)
    })
}
