//! What operators do: look at what is held, and ask the relay to act on it.
//!
//! Nobody but the relay changes what is held, in the order of its loop. An operator files a
//! *request*: in one transaction the event's row says what is wanted, `outboxd.audit` who wanted
//! it, and a notification wakes the relay. It is carried out at once, or when the relay next runs.
//! So everything here is SQL in a session of its own, and works whether or not a relay runs.

mod filter;
mod groups;
mod held;
mod keys;
mod pause;
mod request;

pub use filter::{Filter, LISTED, MOST};
pub use groups::Group;
pub use held::{Held, HeldEvent};
pub use keys::BlockedKey;
pub use pause::{Pause, Paused};
pub use request::{Action, Filed, Plan};

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::failure::{Code, Failure};
use crate::postgres::{Error, Server, Slot, SqlSession};
use crate::relay::{RelayConfig, fate_of};
use crate::status::RelayRow;

/// An operator's session at a relay's database.
pub struct Desk<'a> {
    config: &'a RelayConfig,
    session: SqlSession,
    /// Who it is, for the audit.
    actor: String,
}

impl<'a> Desk<'a> {
    /// Connects. `purpose` shows in `pg_stat_activity`, `actor` in the audit.
    ///
    /// # Errors
    /// The database does not answer, or does not let us in.
    pub async fn open(
        config: &'a RelayConfig,
        purpose: &str,
        actor: String,
    ) -> Result<Self, Failure> {
        Self::open_at(config, &config.server, purpose, actor).await
    }

    /// The same, let in as it is today.
    ///
    /// # Errors
    /// As above.
    pub async fn open_at(
        config: &'a RelayConfig,
        server: &Server,
        purpose: &str,
        actor: String,
    ) -> Result<Self, Failure> {
        let session = SqlSession::open(server, purpose).await;
        let session = session.map_err(|error| failure(&error, "connect"))?;
        let sql = "SELECT set_config('outboxd.actor', $1, false)";
        let named = session.client.execute(sql, &[&actor]).await;
        named.map_err(|error| failure(&error.into(), "name the actor"))?;
        Ok(Self { config, session, actor })
    }

    /// The relay's slot.
    ///
    /// # Errors
    /// There is none, or the connection broke.
    pub async fn slot(&self) -> Result<Slot, Failure> {
        let name = &self.config.slot;
        let slot = Slot::load(&self.session.client, name).await;
        let slot = slot.map_err(|error| failure(&error, "look at the slot"))?;
        let missing = || Failure::new(Code::SlotMissing, format!("there is no slot \"{name}\""));
        slot.ok_or_else(|| self.config.told(missing()))
    }

    async fn relay_runs(&self) -> Result<bool, Failure> {
        let runs = RelayRow::lock_is_held(&self.session.client, &self.config.id).await;
        runs.map_err(|error| failure(&error, "look for the relay"))
    }
}

/// How far the relay has come with what it was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// It did it.
    Done,
    /// It runs, and has not said so yet.
    Asked,
    /// It does not run.
    Waiting,
}

impl Progress {
    /// In words.
    pub const fn words(self) -> &'static str {
        match self {
            Progress::Done => "done",
            Progress::Asked => "filed; the relay has been told, and has not said that it is done",
            Progress::Waiting => "filed; it is carried out when the relay runs",
        }
    }
}

/// A relay that runs answers within this, or has something else to do.
const PATIENCE: Duration = Duration::from_secs(5);
/// It is looked for an answer this often.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Looks again and again for what the relay does, for as long as it is worth waiting.
struct Patience {
    deadline: Instant,
}

impl Patience {
    fn new() -> Self {
        Self { deadline: Instant::now() + PATIENCE }
    }

    /// Waits until it is time to look again; false if it has been long enough.
    async fn again(&mut self) -> bool {
        if Instant::now() >= self.deadline {
            return false;
        }
        sleep(LOOK_EVERY).await;
        true
    }
}

/// What an error of PostgreSQL means to an operator.
fn failure(error: &Error, doing: &str) -> Failure {
    if let Error::Server { sqlstate, message, .. } = error {
        // outboxd.retry() says no in these words.
        match sqlstate.code() {
            "P0002" => return Failure::new(Code::NotHeld, message.clone()),
            "55000" => return Failure::new(Code::RequestRefused, message.clone()),
            _ => {}
        }
    }
    fate_of(error, doing).failure().clone()
}
