//! The relay inside a service: started with a configuration, watched, stopped.
//!
//! ```no_run
//! # async fn embed() -> Result<(), Box<dyn std::error::Error>> {
//! let config = r#"
//!     [postgres]
//!     url = "postgres://outboxd@db.internal/app"
//!     [kafka]
//!     bootstrap_servers = "kafka-1:9092"
//! "#;
//! let relay = outboxd::Relay::start(config.parse()?)?;
//! println!("{:?}", relay.status().state);
//! let outcome = relay.stop().await;
//! assert_eq!(outcome, outboxd::Outcome::Stopped { drained: true });
//! # Ok(())
//! # }
//! ```
//!
//! It is the relay of `outboxd run`, on a thread of its own, without what belongs to a process: no
//! signals, no admin pages, no log of its own. `[admin]` and `[log]` of the configuration are not
//! used. Its metrics go to the recorder of the crate `metrics` that the service installs, its log to
//! the subscriber of the crate `tracing`.

use std::time::Duration;

use tokio::sync::watch;

use crate::config::Config;
use crate::failure::{Code, Failure};
use crate::relay::{self, Outcome, Status};
use crate::sink::Sink;

/// A relay inside this process.
///
/// One that is dropped ends at once, as in a crash: nothing is lost, and what was in flight comes
/// again from the next one. [`Relay::stop`] ends it in order.
pub struct Relay {
    inner: relay::Relay,
    grace: Duration,
}

impl Relay {
    /// Starts a relay. It connects and reconnects by itself; [`Relay::status`] shows how it is.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(config: Config) -> Result<Self, Failure> {
        let grace = config.shutdown_grace;
        Self::of(relay::Relay::start(config.relay), grace)
    }

    /// Starts a relay that publishes to a place of the service's own. Each session opens a sink of its
    /// own; a sink that cannot be opened halts the relay. Of the sink that the configuration names, what
    /// may be in flight is used, and nothing else.
    ///
    /// What a sink has to keep is told at [`Sink`]; all promises of the relay rest on it.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start_with_sink<S, O>(config: Config, open: O) -> Result<Self, Failure>
    where
        S: Sink + 'static,
        O: FnMut() -> Result<S, String> + Send + 'static,
    {
        let grace = config.shutdown_grace;
        Self::of(relay::Relay::start_with_sink(config.relay, open), grace)
    }

    fn of(started: std::io::Result<relay::Relay>, grace: Duration) -> Result<Self, Failure> {
        let bug = |error: std::io::Error| Failure::new(Code::Bug, format!("start: {error}"));
        Ok(Self { inner: started.map_err(bug)?, grace })
    }

    /// What it does now, as `outboxd status` shows it.
    pub fn status(&self) -> Status {
        self.watch().borrow().clone()
    }

    /// The same, for whoever wants to be told of every change.
    pub fn watch(&self) -> watch::Receiver<Status> {
        self.inner.status()
    }

    /// Waits until it has ended by itself: a halt that a person has to look at, or another relay in
    /// its place where it was not to stand by. Cancel-safe.
    pub async fn ended(&mut self) -> Outcome {
        self.inner.ended().await
    }

    /// Stops it in order: what it has read is published, settled and confirmed, within
    /// `relay.shutdown_grace`. To be called in a runtime of tokio.
    pub async fn stop(self) -> Outcome {
        self.inner.stop(self.grace).await
    }
}
