//! A relay on a thread of its own: started, watched, stopped.
//!
//! The relay's loop has a thread and a runtime to itself, so that nothing of the process around it,
//! and nothing of the admin pages, can hold it up.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::{oneshot, watch};

use super::{Board, Credentials, Outcome, RelayConfig, Status, run};
use crate::failure::{Code, Failure};
use crate::metrics::Meters;
use crate::shutdown::Stop;
use crate::sink::{AnySink, Sink, SinkConfig};

/// A running relay. One that is dropped ends at once.
pub struct Relay {
    status: watch::Receiver<Status>,
    credentials: watch::Sender<Credentials>,
    reins: Reins,
    pulse: Pulse,
    outcome: oneshot::Receiver<Outcome>,
    /// How it ended, once that is known.
    ended: Option<Outcome>,
    thread: JoinHandle<()>,
}

/// Who lets them go, stops the relay.
struct Reins(watch::Sender<Stop>);

impl Drop for Reins {
    fn drop(&mut self) {
        self.0.send_replace(Stop::Now);
    }
}

/// Shows that the relay's thread turns: a task beside the loop beats, unless something holds the
/// thread up.
#[derive(Debug, Clone)]
pub struct Pulse {
    began: Instant,
    beats_at: Arc<AtomicU64>,
}

/// It beats this often.
const BEAT: Duration = Duration::from_millis(500);

impl Pulse {
    fn new() -> Self {
        Self { began: Instant::now(), beats_at: Arc::new(AtomicU64::new(0)) }
    }

    fn beat(&self) {
        let millis = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.beats_at.store(millis, Ordering::Relaxed);
    }

    /// How long ago it last beat.
    pub fn age(&self) -> Duration {
        let beat = Duration::from_millis(self.beats_at.load(Ordering::Relaxed));
        self.began.elapsed().saturating_sub(beat)
    }
}

impl Relay {
    /// Starts a relay on a thread of its own.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(config: RelayConfig) -> std::io::Result<Self> {
        Self::spawn(config, AnySink::open)
    }

    /// The same with another sink, which is opened anew for every session.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start_with_sink<S: Sink + 'static>(
        config: RelayConfig,
        mut open: impl FnMut() -> Result<S, String> + Send + 'static,
    ) -> std::io::Result<Self> {
        Self::spawn(config, move |_: &SinkConfig| open())
    }

    fn spawn<S: Sink + 'static>(
        config: RelayConfig,
        mut open: impl FnMut(&SinkConfig) -> Result<S, String> + Send + 'static,
    ) -> std::io::Result<Self> {
        let meters = Meters::new();
        let mut board = Board::new(&config.id, &config.slot, meters.clone());
        let status = board.watch();
        let (stop, stopped) = watch::channel(Stop::No);
        let (credentials, renewed) = watch::channel(Credentials::of(&config));
        let (done, outcome) = oneshot::channel();
        let pulse = Pulse::new();
        let beating = pulse.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread =
            std::thread::Builder::new().name("outboxd-relay".to_owned()).spawn(move || {
                let outcome = runtime.block_on(async {
                    tokio::spawn(async move {
                        let mut beats = tokio::time::interval(BEAT);
                        loop {
                            beats.tick().await;
                            beating.beat();
                        }
                    });
                    run(&config, renewed, &mut open, &mut board, stopped, &meters).await
                });
                // Nobody listening is no reason to fail.
                let _ = done.send(outcome);
            })?;
        let reins = Reins(stop);
        Ok(Self { status, credentials, reins, pulse, outcome, ended: None, thread })
    }

    /// What the relay shows of itself.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// What it is let in with. Whoever sends others ends the session, in order, for one that uses them.
    pub fn credentials(&self) -> watch::Sender<Credentials> {
        self.credentials.clone()
    }

    /// Shows that its loop turns.
    pub fn pulse(&self) -> Pulse {
        self.pulse.clone()
    }

    /// Tells it to finish what it has begun within `grace`.
    pub fn stop_within(&self, grace: Duration) {
        self.reins.0.send_replace(Stop::By(tokio::time::Instant::now() + grace));
    }

    /// Tells it to end.
    pub fn stop_now(&self) {
        self.reins.0.send_replace(Stop::Now);
    }

    /// Waits until it has ended. Cancel-safe.
    pub async fn ended(&mut self) -> Outcome {
        if let Some(outcome) = &self.ended {
            return outcome.clone();
        }
        let outcome = (&mut self.outcome).await.unwrap_or_else(|_| {
            let text = "the relay's thread ended without an outcome";
            Outcome::Halted(Failure::new(Code::Bug, text))
        });
        self.ended.insert(outcome).clone()
    }

    /// Stops it in order and waits for its end.
    pub async fn stop(mut self, grace: Duration) -> Outcome {
        self.stop_within(grace);
        let outcome = self.ended().await;
        // Its outcome was its last act.
        let _ = tokio::task::spawn_blocking(move || self.thread.join()).await;
        outcome
    }
}
