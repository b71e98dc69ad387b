//! `outboxd slot show|create|drop|recover`.

use std::future::pending;
use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;

use super::{CommandResult, Output, SlotCommand, print_json};
use crate::config::Config;
use crate::failure::{Code, Failure, chain};
use crate::postgres::{
    Error, OutboxTable, Publication, ReplicationConnection, ServerFacts, Slot, SqlSession,
};
use crate::relay::{RelayConfig, create_slot, give_up_stream};
use crate::status::{RelayRow, Sweep};

pub(super) async fn slot(config: Config, command: SlotCommand) -> CommandResult {
    let config = config.relay;
    let session = SqlSession::open(&config.server, "slot").await;
    let session = session.map_err(|error| config.failure_of(&error, "connect"))?;
    match command {
        SlotCommand::Show { output } => show(&config, &session, &output).await,
        SlotCommand::Create => create(&config, &session).await,
        SlotCommand::Drop { yes } => drop_slot(&config, &session, yes).await,
        SlotCommand::Recover { yes } => recover(&config, &session, yes).await,
    }
}

async fn load(config: &RelayConfig, session: &SqlSession) -> Result<Option<Slot>, Failure> {
    let slot = Slot::load(&session.client, &config.slot).await;
    slot.map_err(|error| config.failure_of(&error, "look at the slot"))
}

fn missing(config: &RelayConfig) -> Failure {
    config.told(Failure::new(Code::SlotMissing, format!("there is no slot \"{}\"", config.slot)))
}

async fn show(config: &RelayConfig, session: &SqlSession, output: &Output) -> CommandResult {
    let slot = load(config, session).await?.ok_or_else(|| missing(config))?;
    let lag = slot.current().bytes_since(slot.confirmed());
    let retained = slot.current().bytes_since(slot.restart());
    if output.is_json() {
        print_json(&slot.document(&config.slot));
        return Ok(ExitCode::SUCCESS);
    }
    println!("slot        {}", config.slot);
    match slot.active_pid {
        Some(pid) => println!("active      yes, pid {pid}"),
        None => println!("active      no"),
    }
    println!("wal status  {}", slot.wal_status.as_deref().unwrap_or("unknown"));
    println!("confirmed   {} ({lag} bytes behind)", slot.confirmed());
    println!("restart     {} ({retained} bytes kept)", slot.restart());
    match slot.safe_wal_size {
        Some(bytes) => println!("safe        {bytes} more bytes of WAL"),
        None => println!("safe        without limit (max_slot_wal_keep_size = -1)"),
    }
    Ok(ExitCode::SUCCESS)
}

async fn create(config: &RelayConfig, session: &SqlSession) -> CommandResult {
    if load(config, session).await?.is_some() {
        println!("slot \"{}\" is there already", config.slot);
        return Ok(ExitCode::SUCCESS);
    }
    let doing = |error: &Error| config.failure_of(error, "create the slot");
    let table = OutboxTable::of(&session.client, &config.intake).await;
    let table = table.map_err(|error| doing(&error))?.ok_or_else(|| {
        Failure::new(Code::TableMissing, format!("there is no {}", config.intake))
    })?;
    // The publication comes first: what is written between the two is in neither otherwise.
    let publication = Publication::load(&session.client, &config.publication, table.oid).await;
    match publication.map_err(|error| doing(&error))? {
        Some(found) if found.contains_table && found.inserts || !table.exists() => {}
        Some(_) => {
            let name = &config.publication;
            let text =
                format!("publication \"{name}\" does not publish inserts into {}", table.name);
            return Err(Failure::new(Code::PublicationUnsuitable, text));
        }
        None => {
            let sql = Publication::create_sql(&config.publication, &config.intake);
            let created = session.client.batch_execute(&sql).await;
            created.map_err(|error| config.failure_of(&error.into(), "create the publication"))?;
            println!("created publication \"{}\"", config.publication);
        }
    }
    let connection =
        ReplicationConnection::open(&config.server, &session.address, config.max_row_bytes);
    let mut connection = connection.await.map_err(|error| doing(&error))?;
    let facts = ServerFacts::load(&session.client).await.map_err(|error| doing(&error))?;
    let new = config.new_slot(facts.version);
    let created = create_slot(&session.client, &mut connection, new, pending()).await;
    if let Some(created) = created.map_err(|fate| fate.failure().clone())? {
        println!("created slot \"{}\" at {}", config.slot, created.consistent_point);
    }
    Ok(ExitCode::SUCCESS)
}

async fn drop_slot(config: &RelayConfig, session: &SqlSession, yes: bool) -> CommandResult {
    let question = format!(
        "Drop slot \"{}\" and forget its position? Unsent rows are published again only by a sweep \
         (outbox.start = \"pending\") [y/N] ",
        config.slot
    );
    if !yes && !confirmed(&question) {
        println!("nothing was changed");
        return Ok(ExitCode::SUCCESS);
    }
    give_up(config, session, "slot drop", Sweep::Never).await?;
    Ok(ExitCode::SUCCESS)
}

async fn recover(config: &RelayConfig, session: &SqlSession, yes: bool) -> CommandResult {
    let knows_unsent = config.status.mode.knows_unsent();
    let outcome = if knows_unsent {
        "The next start publishes every unsent row"
    } else {
        "Status mode \"none\" knows no unsent row: what the slot has not brought is not published"
    };
    let question = format!("Give up slot \"{}\" and its position? {outcome} [y/N] ", config.slot);
    if !yes && !confirmed(&question) {
        println!("nothing was changed");
        return Ok(ExitCode::SUCCESS);
    }
    let sweep = if knows_unsent { Sweep::Incomplete } else { Sweep::Never };
    give_up(config, session, "slot recover", sweep).await?;
    println!("{outcome}");
    Ok(ExitCode::SUCCESS)
}

/// Drops the slot and forgets its position, in the relay's place.
async fn give_up(
    config: &RelayConfig,
    session: &SqlSession,
    action: &str,
    sweep: Sweep,
) -> Result<(), Failure> {
    let client = &session.client;
    let doing = |error: Error| config.failure_of(&error, action);
    let had_slot = load(config, session).await?.is_some();
    let row = take_place(config, session, action).await?;
    let detail = serde_json::json!({
        "slot": config.slot,
        "position": row.position.to_string(),
        "sweep": sweep == Sweep::Incomplete,
    });
    RelayRow::audit(client, &config.id, action, &detail).await.map_err(doing)?;
    let given_up = give_up_stream(client, &config.id, row.epoch, &config.slot, sweep).await;
    if !given_up.map_err(doing)? {
        return Err(in_use(config));
    }
    if had_slot {
        println!("dropped slot \"{}\"", config.slot);
    } else {
        println!("there is no slot \"{}\"", config.slot);
    }
    println!("forgot the position {} of relay \"{}\"", row.position, config.id);
    Ok(())
}

/// Takes the relay's place, so that no relay works meanwhile. It is free again when the session ends.
async fn take_place(
    config: &RelayConfig,
    session: &SqlSession,
    action: &str,
) -> Result<RelayRow, Failure> {
    let row = RelayRow::take_place(&session.client, &config.id, &format!("outboxd {action}")).await;
    row.map_err(|error| config.failure_of(&error, action))?.ok_or_else(|| in_use(config))
}

pub(super) fn in_use(config: &RelayConfig) -> Failure {
    Failure::new(Code::SlotInUse, format!("relay \"{}\" is running: stop it first", config.id))
}

/// Asks, if there is somebody to ask.
pub(super) fn confirmed(question: &str) -> bool {
    if !std::io::stdin().is_terminal() {
        return true;
    }
    print!("{question}");
    // If the question cannot be seen, the answer will not be yes.
    let _ = std::io::stdout().flush();
    let mut answer = String::new();
    let read = std::io::stdin().read_line(&mut answer);
    read.is_ok() && matches!(answer.trim(), "y" | "Y" | "yes")
}

impl RelayConfig {
    /// What an error of PostgreSQL means to a command.
    pub(super) fn failure_of(&self, error: &Error, doing: &str) -> Failure {
        let fate = crate::relay::fate_of(error, doing);
        let failure = fate.failure();
        tracing::debug!(error = chain(error), doing, relay = self.id, "command failed");
        self.told(failure.clone())
    }
}
