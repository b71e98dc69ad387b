//! `outboxd reconcile`: which rows are unsent although the stream is past them; publishes them.

use std::process::ExitCode;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::slot::{confirmed, in_use};
use super::{CommandResult, Output, print_json};
use crate::ack::Ordinal;
use crate::config::Config;
use crate::failure::{Code, Failure};
use crate::lsn::Lsn;
use crate::postgres::{Publication, Slot, SqlSession};
use crate::relay::{
    Finding, Outbox, Reconciler, RelayConfig, Rescheduler, file_sweep, give_up_stream, preflight,
};
use crate::status::{RelayRow, Sweep};

/// How long the relay may take to come past what is there now.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Ids that are printed for people.
const NAMED: usize = 10;

/// What was found, and what is done about it.
#[derive(Default, serde::Serialize)]
struct Report {
    /// Unsent, and not known to the relay.
    missed: usize,
    events: Vec<String>,
    /// Scheduled events whose rows say an earlier time by now, or are gone.
    earlier: usize,
    /// Whether a relay runs. If none does, the stream may still bring some of them.
    running: bool,
    healed: bool,
}

pub(super) async fn reconcile(
    config: Config,
    heal: bool,
    yes: bool,
    output: Output,
) -> CommandResult {
    let config = config.relay;
    if config.intake.table().is_none() {
        if output.is_json() {
            print_json(&Report::default());
        } else {
            println!("messages leave no row behind: there is nothing to reconcile");
        }
        return Ok(ExitCode::SUCCESS);
    }
    if !config.status.mode.knows_unsent() && heal {
        return accept(&config, yes, output).await;
    }
    if !config.status.mode.knows_unsent() {
        let text = "status mode \"none\" knows no unsent row: there is nothing to compare with";
        return Err(Failure::new(Code::Config, text));
    }
    let session = SqlSession::open(&config.server, "reconcile").await;
    let session = session.map_err(|error| config.failure_of(&error, "connect"))?;
    let found = preflight(&session.client, &config).await;
    let found = found.map_err(|error| config.failure_of(&error, "check the set-up"))?;
    let Some(outbox) = found.outbox else {
        return Err(table_gone(&found.findings));
    };
    // If a relay runs, it has the lock.
    let row = RelayRow::take_place(&session.client, &config.id, "outboxd reconcile").await;
    let row = row.map_err(|error| config.failure_of(&error, "reconcile"))?;
    let events = find(&config, &session, &outbox, row.is_none()).await?;
    let running = row.is_none();
    let mut rescheduler = Rescheduler::new(&config, &outbox);
    let late = find_late(&config, &session, rescheduler.as_mut()).await?;
    let (missed, earlier) = (events.len(), late.len());
    let mut report = Report { missed, events, earlier, running, healed: false };
    if !output.is_json() {
        print_text(&report);
    }
    // Where no relay runs, a new publication has to be accepted even if nothing was missed.
    let is_due = heal && (report.missed + report.earlier > 0 || !running);
    if is_due && (yes || confirmed("Publish them? [y/N] ")) {
        if let Some(rescheduler) = &rescheduler {
            let asked = rescheduler.ask(&session.client, &late).await;
            asked.map_err(|error| config.failure_of(&error, "heal"))?;
        }
        match &row {
            None if report.missed == 0 => {}
            None => {
                let reconciler = Reconciler::new(&outbox.unsent(&config));
                let healed = reconciler.heal(&session.client, &report.events).await;
                healed.map_err(|error| config.failure_of(&error, "heal"))?;
            }
            Some(row) => {
                let publication = found.publication.as_ref();
                let filed = file(&config, &session, row, publication).await;
                if !filed.map_err(|error| config.failure_of(&error, "heal"))? {
                    return Err(in_use(&config));
                }
            }
        }
        report.healed = true;
    }
    if output.is_json() {
        print_json(&report);
    } else if report.healed && report.running {
        println!("the relay publishes them now");
    } else if report.healed {
        println!("the next start publishes every unsent row before it streams");
    }
    Ok(ExitCode::SUCCESS)
}

fn table_gone(findings: &[Finding]) -> Failure {
    let failure = findings.first().map(|found| Failure::new(found.code, found.observed.clone()));
    failure.unwrap_or_else(|| Failure::new(Code::TableMissing, "the outbox table is gone"))
}

/// Where no row says that it is unsent, all that can be mended is that the publication changed: the next
/// start takes it as it is, and goes on with what the slot has kept.
async fn accept(config: &RelayConfig, yes: bool, output: Output) -> CommandResult {
    let session = SqlSession::open(&config.server, "reconcile").await;
    let session = session.map_err(|error| config.failure_of(&error, "connect"))?;
    let (client, doing) = (&session.client, "accept the publication");
    let failed = |error| config.failure_of(&error, doing);
    let found = preflight(client, config).await.map_err(failed)?;
    if found.outbox.is_none() {
        return Err(table_gone(&found.findings));
    }
    let row =
        RelayRow::take_place(client, &config.id, "outboxd reconcile").await.map_err(failed)?;
    let row = row.ok_or_else(|| in_use(config))?;
    if is_another(&row, found.publication.as_ref()) {
        let text = format!("publication \"{}\" is not there, or was made anew", config.publication);
        return Err(config.told(Failure::new(Code::PublicationLost, text)));
    }
    let question =
        "Take the publication as it is? What it left out meanwhile is not published [y/N] ";
    let healed = yes || confirmed(question);
    if healed {
        let detail = serde_json::json!({"publication": "accepted"});
        RelayRow::audit(client, &config.id, "reconcile", &detail).await.map_err(failed)?;
        RelayRow::forget_publication(client, &config.id, row.epoch).await.map_err(failed)?;
    }
    if output.is_json() {
        print_json(&Report { healed, ..Report::default() });
    } else if healed {
        println!("the next start takes the publication as it is");
    } else {
        println!("nothing was changed");
    }
    Ok(ExitCode::SUCCESS)
}

/// Whether the publication is not the one that the slot was read with, however it looks.
fn is_another(row: &RelayRow, publication: Option<&Publication>) -> bool {
    let oid = |fingerprint: &str| fingerprint.split(':').next().map(str::to_owned);
    let known = row.publication.as_deref().and_then(oid);
    let now = publication.and_then(|publication| oid(&publication.fingerprint));
    known.is_some() && known != now
}

/// The rows that were missed, in the order of a sweep.
async fn find(
    config: &RelayConfig,
    session: &SqlSession,
    outbox: &Outbox,
    running: bool,
) -> Result<Vec<String>, Failure> {
    let (client, doing) = (&session.client, "look for unsent rows");
    let failed = |error| config.failure_of(&error, doing);
    let reconciler = Reconciler::new(&outbox.unsent(config));
    let candidates = reconciler.candidates(client).await.map_err(failed)?;
    if candidates.is_empty() || !running {
        return Ok(candidates);
    }
    let place = Reconciler::place_behind(client).await.map_err(failed)?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let slot = Slot::load(client, &config.slot).await.map_err(failed)?;
        let confirmed = slot.map_or(Lsn::INVALID, |slot| slot.confirmed());
        if confirmed >= place {
            break;
        }
        if Instant::now() > deadline {
            let text = format!(
                "{} rows are unsent, and the relay, at {confirmed}, is not past {place} yet, where \
                 it would have read the last of them",
                candidates.len()
            );
            return Err(Failure::new(Code::RelayBehind, text));
        }
        sleep(LOOK_EVERY).await;
    }
    reconciler.missed(client, &candidates).await.map_err(failed)
}

/// The scheduled events that would be looked at too late.
async fn find_late(
    config: &RelayConfig,
    session: &SqlSession,
    rescheduler: Option<&mut Rescheduler>,
) -> Result<Vec<Ordinal>, Failure> {
    let mut found = Vec::new();
    if let Some(rescheduler) = rescheduler {
        loop {
            let part = rescheduler.look(&session.client).await;
            let (late, is_last) =
                part.map_err(|error| config.failure_of(&error, "look at scheduled events"))?;
            found.extend(late);
            if is_last {
                break;
            }
        }
    }
    Ok(found)
}

/// Leaves it to the next start. A publication that was made anew cannot be read by a slot that is
/// older; one that is the same, with the table in it again, can.
async fn file(
    config: &RelayConfig,
    session: &SqlSession,
    row: &RelayRow,
    publication: Option<&Publication>,
) -> Result<bool, crate::postgres::Error> {
    let client = &session.client;
    if !is_another(row, publication) {
        return file_sweep(client, &config.id, row.epoch).await;
    }
    let detail = serde_json::json!({"publication": "made anew"});
    RelayRow::audit(client, &config.id, "reconcile", &detail).await?;
    give_up_stream(client, &config.id, row.epoch, &config.slot, Sweep::Incomplete).await
}

fn print_text(report: &Report) {
    if report.earlier > 0 {
        println!(
            "the rows of {} scheduled events say an earlier time by now, or are gone",
            report.earlier
        );
    }
    if report.events.is_empty() {
        println!("every row that is unsent is known to the relay");
        return;
    }
    println!("{} rows are unsent and not known to the relay", report.missed);
    if !report.running {
        println!("no relay runs: the stream may still bring some of them");
    }
    for id in report.events.iter().take(NAMED) {
        println!("  {id}");
    }
    if report.missed > NAMED {
        println!("  …");
    }
}
