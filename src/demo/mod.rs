//! `outboxd demo`: the whole thing in one process, with nothing installed but PostgreSQL.
//!
//! In reading order: [`run`] sets up a `stage` (a throw-away PostgreSQL, a broker, a topic) and
//! plays on it: `writer`, the relay as `run` runs it, `consumer`. `play` directs them and shows
//! the figures in `view`. Writer and consumer keep the ledger in `proof`, which ends as one line.

mod broker;
mod consumer;
mod play;
mod postgres;
mod proof;
mod stage;
mod view;
mod writer;

pub use postgres::{StopMode, TempPostgres};

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use crate::config::Sources;
use crate::failure::{Code, Failure};
use crate::relay::{Outcome, Relay};
use crate::terminal::{INTERRUPTED, Interrupt};
use consumer::Consumer;
use play::{Ending, Play};
use proof::{Proof, SharedLedger};
use stage::Stage;
use view::View;

/// What `outboxd demo` can be told.
#[derive(Debug, clap::Args)]
pub struct DemoArgs {
    /// For how long events are written
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: u64,
    /// Events per second; 0 for as many as the consumer gets
    #[arg(long, value_name = "N", default_value_t = 2000)]
    rate: u64,
    /// Keys that the events are spread over
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    keys: u64,
    /// A real Kafka instead of the broker inside; the topic is deleted afterwards
    #[arg(long, value_name = "HOST:PORT,…")]
    bootstrap_servers: Option<String>,
    /// Where initdb and postgres are; else PG_BIN, else on the usual paths
    #[arg(long, value_name = "DIR")]
    pg_bin: Option<PathBuf>,
}

/// How long the relay may take to stop, and the consumer to read to the end.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);

/// Runs the demo.
///
/// # Errors
/// It could not be run, or a promise was broken.
pub async fn run(args: DemoArgs, sources: &Sources) -> Result<ExitCode, Failure> {
    let length = Duration::from_secs(args.seconds);
    let mut interrupt = Interrupt::listen()?;
    let set_up = Box::pin(Stage::set_up(&args, sources));
    let stage = tokio::select! {
        biased;
        () = interrupt.asked() => {
            // If nobody reads it any more, the exit code still tells.
            let _ = View::new(String::new(), length).conclude("stopped before anything was written");
            return Ok(ExitCode::from(INTERRUPTED));
        }
        stage = set_up => stage?,
    };
    let mut view = View::new(stage.title(), length);
    let result = Box::pin(perform(&args, &stage, &mut view, &mut interrupt)).await;
    stage.clear().await;
    let (proof, ending) = result?;
    let _ = view.conclude(&proof.to_string());
    match proof.broken() {
        Some(broken) => Err(Failure::new(Code::DemoBroken, broken)),
        None if ending == Ending::CutShort => Ok(ExitCode::from(INTERRUPTED)),
        None => Ok(ExitCode::SUCCESS),
    }
}

/// Relay, writers and consumer on the stage, until the proof.
async fn perform(
    args: &DemoArgs,
    stage: &Stage,
    view: &mut View,
    interrupt: &mut Interrupt,
) -> Result<(Proof, Ending), Failure> {
    let ledger = SharedLedger::default();
    let (kafka, wait) = (&stage.kafka, stage.broker.fetch_wait());
    let mut consumer = Consumer::start(kafka, wait, &stage.topic, ledger.clone())?;
    let relay = Relay::start(stage.config.clone());
    let relay = relay.map_err(|error| Failure::new(Code::Bug, error.to_string()))?;
    let status = relay.status();
    let mut play = Play::new(status.clone(), &mut consumer, &ledger, view, interrupt);
    let played = play.play(args, stage).await;
    // Whatever happened, the relay ends before its server does.
    let drained = match relay.stop(STOP_TIMEOUT).await {
        // What ended it by itself comes first.
        Outcome::Halted(failure) | Outcome::Fenced(failure) => return Err(failure),
        Outcome::Stopped { drained } => drained,
    };
    let ending = played?;
    if ending == Ending::Complete && !drained {
        let text = "the relay stopped before everything that it had read was settled";
        return Err(Failure::new(Code::GraceExceeded, text));
    }
    // Now nothing can come any more, so that a late duplicate would be seen.
    consumer.finish(STOP_TIMEOUT).await?;
    let settled = status.borrow().totals.settled;
    let sent = stage.sent(settled).await?;
    let proof = ledger.lock().proof(sent, ending == Ending::CutShort);
    Ok((proof, ending))
}
