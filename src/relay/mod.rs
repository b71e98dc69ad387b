//! The relay: captures committed rows, publishes them, settles each, and confirms the LSN.
//!
//! In reading order: [`run`] connects a session, runs it, and decides by its end what comes next;
//! `place` takes the relay's place; `preflight` checks, `create` makes what is missing; `load` brings
//! back what is held; `sweep` publishes what is older than the slot; `session` is the loop;
//! `capture`, `publish`, `settle` and `confirm` are its verbs, and `disposition` says what every
//! error means. What cannot go leaves the fast way (`aside`), is `held`, and comes back when it is
//! due (`schedule`, `due`), or is given up; `redeem` makes that durable, `orders` are operators'.

mod aside;
mod board;
mod capture;
mod cleanup;
mod columns;
mod confirm;
mod confirmable;
mod create;
mod credentials;
mod deliver;
mod disposition;
mod doctor;
mod due;
mod expired;
mod finding;
mod flow;
mod handle;
mod held;
mod latency;
mod load;
mod misfit;
mod monitor;
mod orders;
mod pace;
mod past;
mod patrol;
mod place;
mod preflight;
mod preview;
mod publish;
mod reconcile;
mod recover;
mod redeem;
mod removal;
mod report;
mod reschedule;
mod schedule;

mod session;
mod settle;
mod show;
#[cfg(test)]
mod simulation;
mod state;
mod sweep;
mod takeover;
mod topics;
mod trial;
mod unsent;
mod words;

pub use aside::HeldLimits;
pub use board::Board;
pub use cleanup::CleanupConfig;
pub use create::create_slot;
pub use credentials::Credentials;
pub use disposition::Fate;
pub use doctor::{Topics, examine_postgres, examine_sink};
pub use finding::{Finding, Severity};
pub use handle::{Pulse, Relay};
pub use held::DeadLetterConfig;
pub(crate) use latency::Latencies;
pub(crate) use pace::Pace;
pub use preflight::{Outbox, Preflight, preflight};
pub use preview::{Preview, Previewed, Prospect, Sample};
pub use reconcile::{Reconciler, file_sweep};
pub use recover::give_up_stream;
pub use reschedule::Rescheduler;
pub use session::End;
pub use settle::SettleConfig;
pub use state::{Checks, Held, InFlight, Latency, Rates, SlotStatus, State, Status, Totals};
pub use trial::{OnExhausted, RetryConfig};

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::ack::Limits;
use crate::failure::{Code, Failure, chain};
use crate::metrics::{Meters, count_error};
use crate::outbox::EventConfig;
use crate::outbox::status::StatusConfig;
use crate::postgres::{Intake, NewSlot, Server, SqlSession, TableName};
use crate::retry::Backoff;
use crate::shutdown::Stop;
use crate::sink::{NoContact, Sink, SinkConfig};
use crate::status::{LastError, RelayRow};
use credentials::{changed, pass_on};

/// What is published, besides what the stream brings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// Also the unsent rows that are older than the slot.
    Pending,
    /// Nothing.
    Stream,
}

/// How missed rows are looked for while the relay runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReconcileConfig {
    /// How often; never if zero.
    pub interval: Duration,
    /// Whether they are published.
    pub heal: bool,
    /// How long a row may be unsent.
    pub after: Duration,
}

/// What to do when the stream cannot go on: the slot is lost or missing, or the server is another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnSlotLost {
    /// End, for a person to decide.
    Halt,
    /// Make a new slot, and sweep the unsent rows.
    Recover,
}

/// Everything that a relay needs to know.
#[derive(Debug, Clone)]
pub struct RelayConfig {
    /// Names the relay in its database: several can share one.
    pub id: String,
    /// Whether to wait while another relay has the place; otherwise the process ends.
    pub standby: bool,
    /// Whether to end, once, whoever has the place. No setting: a person says so for one run.
    pub takeover: bool,
    /// How long to wait between attempts to connect.
    pub reconnect: Backoff,
    /// The database.
    pub server: Server,
    /// The replication slot.
    pub slot: String,
    /// The publication.
    pub publication: String,
    /// Whether to create publication and slot where they are missing.
    pub create: bool,
    /// Whether a new slot is to survive a failover, where the server can do that.
    pub failover_slot: bool,
    /// What to do when the stream cannot go on.
    pub on_slot_lost: OnSlotLost,
    /// The outbox.
    pub intake: Intake<TableName>,
    /// Rows above this are refused, in bytes.
    pub max_row_bytes: usize,
    /// What is published, besides what the stream brings.
    pub start: Start,
    /// The columns that order a sweep; none for the default.
    pub sweep_order: Vec<String>,
    /// How rows become events.
    pub events: EventConfig,
    /// How statuses are written.
    pub status: StatusConfig,
    /// What lies between reading and settling.
    pub flow: FlowConfig,
    /// How missed rows are looked for.
    pub reconcile: ReconcileConfig,
    /// How what is sent and old is removed, if it is.
    pub cleanup: Option<CleanupConfig>,
    /// Where events go.
    pub sink: SinkConfig,
    /// Whether to start paused.
    pub paused: bool,
}

/// What lies between reading and settling.
#[derive(Debug, Clone)]
pub struct FlowConfig {
    /// How runs are settled.
    pub settle: SettleConfig,
    /// What may be in flight.
    pub limits: Limits,
    /// What may be held.
    pub held: HeldLimits,
    /// How often an event is tried.
    pub retry: RetryConfig,
    /// Where dead letters go.
    pub dead_letter: DeadLetterConfig,
}

impl RelayConfig {
    /// How a new slot is made on such a server.
    pub fn new_slot(&self, server_version: i32) -> NewSlot<'_> {
        let failover = self.failover_slot && server_version >= FAILOVER_SLOTS_FROM;
        NewSlot { name: &self.slot, failover }
    }

    /// The failure, with what can be done about it where this relay works.
    pub fn told(&self, failure: Failure) -> Failure {
        match self.status.mode.knows_unsent() {
            true => failure,
            false => failure.without_unsent_rows(),
        }
    }

    /// Whether the relay recovers from such a failure by itself.
    fn recovers(&self, code: Code) -> bool {
        self.on_slot_lost == OnSlotLost::Recover
            && matches!(
                code,
                Code::SlotLost | Code::SlotMissing | Code::SlotMoved | Code::IdentityChanged
            )
    }
}

/// How a relay ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It was told to stop. `drained` if the next start repeats nothing.
    Stopped {
        /// Whether everything that was read is settled and confirmed.
        drained: bool,
    },
    /// A person has to do something.
    Halted(Failure),
    /// Another relay has the place, and this one was not to wait.
    Fenced(Failure),
}

/// The first version that has slots that survive a failover.
const FAILOVER_SLOTS_FROM: i32 = 170_000;
/// How long to wait before the place or the slot is tried again.
const STANDBY_WAIT: Duration = Duration::from_millis(500);
/// A session that lasted this long was a good one: the next failure is a first one.
const GOOD_SESSION: Duration = Duration::from_secs(30);
/// What is written about the end must not delay it for longer.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// Runs a relay until it is told to stop, or must. Sessions come and go within, each with the
/// credentials of its time.
pub async fn run<S: Sink + 'static>(
    config: &RelayConfig,
    mut credentials: watch::Receiver<Credentials>,
    open: &mut impl FnMut(&SinkConfig) -> Result<S, String>,
    board: &mut Board,
    mut stop: watch::Receiver<Stop>,
    meters: &Meters,
) -> Outcome {
    let mut config = config.clone();
    let mut failures = 0u32;
    let mut said = None;
    let mut takes_over = config.takeover;
    loop {
        let began = Instant::now();
        credentials.borrow_and_update().apply(&mut config);
        let config = &config;
        let (asks, asked) = watch::channel(*stop.borrow_and_update());
        let status = board.watch();
        let mut open = || open(&config.sink);
        let session = place::session(config, &mut open, board, asked, meters, &mut takes_over);
        let end = tokio::select! {
            biased;
            end = Box::pin(session) => end,
            never = pass_on(&mut stop, &mut credentials, &asks, &status) => match never {},
        };
        let fate = match end {
            End::Stopped { drained } if *stop.borrow() == Stop::No => {
                tracing::info!(drained, "the session ended for the sake of new credentials");
                board.in_doubt |= !drained;
                // Whoever has the place for a moment can be this session: it is waited for.
                failures = failures.max(1);
                continue;
            }
            End::Stopped { drained } => {
                let drained = drained && !board.in_doubt;
                remember(config, "stopped", None).await;
                return Outcome::Stopped { drained };
            }
            End::Failed(fate) => fate,
        };
        if began.elapsed() >= GOOD_SESSION {
            failures = 0;
        }
        let wait = match fate {
            Fate::Halt(failure) => {
                let failure = config.told(failure);
                board.show_state(State::Halted, Some(&failure));
                remember(config, "halted", Some(&failure)).await;
                return Outcome::Halted(failure);
            }
            // After a failure, whoever reads the slot can be our own last session: it is waited for.
            Fate::StandBy(failure) if !config.standby && failures == 0 => {
                return Outcome::Fenced(Failure::new(Code::Fenced, failure.message));
            }
            Fate::StandBy(failure) => {
                if said.as_ref() != Some(&failure) {
                    tracing::info!(code = %failure.code, reason = failure.message, "standing by");
                }
                board.stand_by();
                said = Some(failure);
                STANDBY_WAIT
            }
            Fate::Reconnect(failure) => {
                failures += 1;
                // The producer's own end was counted where it was reported.
                if failure.code != Code::ProducerFatal {
                    count_error("postgres", "unavailable");
                }
                meters.reconnects.increment(1);
                let wait = config.reconnect.wait(failures, fastrand::f64());
                tracing::warn!(
                    code = %failure.code,
                    error = failure.message,
                    remedy = failure.remedy,
                    wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
                    "the session ended; trying again"
                );
                board.show_state(State::Starting, Some(&failure));
                wait
            }
        };
        tokio::select! {
            () = sleep(wait) => {}
            () = changed(&mut credentials) => {}
            _ = stop.wait_for(|stop| *stop != Stop::No) => {
                remember(config, "stopped", None).await;
                return Outcome::Stopped { drained: !board.in_doubt };
            }
        }
    }
}

/// Tells the database how the relay ended, for those who ask there. Nothing depends on it.
async fn remember(config: &RelayConfig, state: &str, failure: Option<&Failure>) {
    let error = failure.map(LastError::from);
    let write = async {
        let session = SqlSession::open(&config.server, "last words").await?;
        // Not worth waiting for a standby, perhaps for ever, with the relay's row locked.
        session.client.batch_execute("SET synchronous_commit = local").await?;
        RelayRow::remember_state(&session.client, &config.id, state, error.as_ref()).await?;
        Ok::<_, crate::postgres::Error>(())
    };
    match tokio::time::timeout(LAST_WORDS, write).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(error = chain(&error), "could not record the state"),
        Err(_) => tracing::debug!("could not record the state in time"),
    }
}

/// What an error of PostgreSQL means to a command that was `doing` something.
pub fn fate_of(error: &crate::postgres::Error, doing: &str) -> Fate {
    disposition::of_postgres(error, doing)
}

/// What it means that the sink cannot be used as it is configured.
pub fn failure_of_sink(reason: NoContact) -> Failure {
    match reason {
        NoContact::Config(text) => Failure::new(Code::SinkConfig, text),
        NoContact::Tls(text) => Failure::new(Code::SinkTls, text),
        NoContact::Login(text) => Failure::new(Code::SinkAuth, text),
        NoContact::Unreachable(text) => Failure::new(Code::SinkUnavailable, text),
    }
}

/// The failure of a relay that was fenced.
fn fenced(config: &RelayConfig) -> Failure {
    Failure::new(Code::Fenced, format!("another session has the place of relay \"{}\"", config.id))
}
