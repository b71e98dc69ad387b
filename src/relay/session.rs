//! THE LOOP: one stream, one flow, from the first message to the last word.
//!
//! A session owns everything that depends on its connections, and is dropped with them. Its loop
//! does what can be done, then waits for one of the branches, in this order: being told to stop,
//! a reason to end, feedback that is due, the flow (reports, settled runs, due times), and last,
//! only while the window has room, more of the stream. Not reading is the back-pressure; feedback
//! goes on regardless.

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::board::{Board, State, float, wall_clock};
use super::capture::{Capture, Captured};
use super::confirm::Confirmer;
use super::disposition::{Fate, of_postgres, of_store};
use super::flow::Flow;
use super::monitor::Sight;
use crate::lsn::Lsn;
use crate::metrics::Meters;
use crate::pgoutput::POSTGRES_EPOCH_MICROS;
use crate::postgres::{WalMessage, WalStream};
use crate::shutdown::Stop;
use crate::sink::Sink;
use crate::status::StatusStore;

/// How a session ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// It was told to stop. `drained` if everything that was read is settled and confirmed.
    Stopped {
        /// Whether the next start repeats nothing.
        drained: bool,
    },
    /// Something ended it.
    Failed(Fate),
}

/// One session of the relay.
pub(super) struct Session<W, S, T> {
    stream: W,
    capture: Capture,
    flow: Flow<S, T>,
    confirmer: Confirmer,
    /// Before this commit, the stream can bring events that a sweep has published.
    swept_until: Lsn,
    meters: Meters,
    /// Whether the stream has caught up with the server once.
    is_caught_up: bool,
    is_draining: bool,
}

/// Messages between two looks at what else there is to do.
const MESSAGES_AT_ONCE: usize = 256;

impl<W: WalStream, S: Sink, T: StatusStore + 'static> Session<W, S, T> {
    pub(super) fn new(
        stream: W,
        capture: Capture,
        flow: Flow<S, T>,
        swept_until: Lsn,
        meters: Meters,
    ) -> Self {
        let confirmer = Confirmer::new(stream.sender_timeout(), Instant::now());
        Self {
            stream,
            capture,
            flow,
            confirmer,
            swept_until,
            meters,
            is_caught_up: false,
            is_draining: false,
        }
    }

    /// Runs until it is told to stop, or `trouble` comes.
    pub(super) async fn run(
        mut self,
        board: &mut Board,
        mut stop: watch::Receiver<Stop>,
        trouble: impl Future<Output = Fate>,
        mut sights: Option<watch::Receiver<Sight>>,
    ) -> End {
        let mut trouble = std::pin::pin!(trouble);
        let end = loop {
            if let Err(fate) = self.work(board).await {
                break End::Failed(fate);
            }
            if let Some(sights) = &mut sights
                && sights.has_changed().unwrap_or(false)
            {
                let sight = sights.borrow_and_update();
                board.show_slot(sight.slot.as_ref());
                if let Some(slot) = &sight.slot {
                    let received = self.confirmer.received_until().max(slot.confirmed());
                    self.meters.slot_lag_received.set(float(slot.current().bytes_since(received)));
                }
            }
            if self.is_draining && self.flow.is_empty() {
                break End::Stopped { drained: true };
            }
            let watermark = self.flow.publisher.window.watermark();
            let feedback_due = self.confirmer.due(watermark);
            let reads = self.reads();
            tokio::select! {
                biased;
                asked = stopped(&mut stop, self.is_draining) => {
                    self.is_draining = true;
                    if asked.is_over() {
                        break End::Stopped { drained: self.flow.is_empty() };
                    }
                }
                fate = &mut trouble => break End::Failed(fate),
                () = sleep_until(feedback_due) => {
                    if let Err(fate) = self.feed_back().await {
                        break End::Failed(fate);
                    }
                }
                woken = self.flow.woken() => {
                    if let Err(fate) = self.flow.take_in(woken, Instant::now()) {
                        break End::Failed(fate);
                    }
                }
                filled = self.stream.fill(), if reads => {
                    if let Err(error) = filled {
                        break End::Failed(of_postgres(&error, "read the stream"));
                    }
                }
            }
        };
        self.finish(end).await
    }

    /// Whether to wait for more of the stream.
    fn reads(&self) -> bool {
        !self.is_draining && self.flow.publisher.has_room(self.stream.next_len())
    }

    /// Everything that can be done without waiting.
    async fn work(&mut self, board: &mut Board) -> Result<(), Fate> {
        let mut more = true;
        while more {
            let now = Instant::now();
            self.flow.advance(now, self.is_draining)?;
            more = !self.is_draining && self.read(now).await?;
            let state = if self.is_caught_up { State::Streaming } else { State::CatchingUp };
            self.flow.show(board, state, now);
            if more && self.confirmer.due(self.flow.publisher.window.watermark()) <= now {
                self.feed_back().await?;
            }
        }
        Ok(())
    }

    /// Reads messages that were received. Whether there may be more of them.
    async fn read(&mut self, now: Instant) -> Result<bool, Fate> {
        let wall = wall_clock();
        for _ in 0..MESSAGES_AT_ONCE {
            if !self.flow.publisher.has_room(self.stream.next_len()) {
                return Ok(false);
            }
            let Self { stream, capture, flow, confirmer, .. } = self;
            let message = stream.next().map_err(|error| of_postgres(&error, "read the stream"))?;
            match message {
                None => return Ok(false),
                Some(WalMessage::Keepalive { wal_end, reply_requested }) => {
                    confirmer.received(wal_end);
                    if reply_requested {
                        confirmer.asked();
                    }
                    if !capture.in_transaction() {
                        flow.publisher.window.fence(wal_end);
                        self.is_caught_up = true;
                        self.passed(wal_end);
                    }
                }
                Some(WalMessage::Data(data)) if self.swept_until.is_valid() => {
                    let data = data.to_vec();
                    let captured = self.take_unless_swept(&data, wall, now).await?;
                    self.note(captured);
                }
                Some(WalMessage::Data(data)) => {
                    let captured = capture.take(data, wall, |captive| flow.put(&captive, now))?;
                    self.note(captured);
                }
            }
        }
        Ok(true)
    }

    /// Takes a message where a sweep may have published its event already.
    async fn take_unless_swept(
        &mut self,
        data: &[u8],
        wall: i64,
        now: Instant,
    ) -> Result<Captured, Fate> {
        let Self { capture, flow, swept_until, .. } = self;
        if let Some(id) = capture.peek_id(data)?
            && capture.open_commit() < *swept_until
            && flow.settler.store().was_swept(&id).await.map_err(|error| of_store(&error))?
        {
            capture.take(data, wall, |_| Ok::<_, Fate>(()))?;
            return Ok(Captured::Settled);
        }
        capture.take(data, wall, |captive| flow.put(&captive, now))
    }

    fn note(&mut self, captured: Captured) {
        match captured {
            Captured::Commit(end) => {
                self.confirmer.received(end);
                self.flow.publisher.window.fence(end);
                self.passed(end);
            }
            Captured::Settled => {
                self.meters.duplicates_suppressed.increment(1);
                self.meters.publish_suppressed.increment(1);
            }
            Captured::NotPending => self.meters.publish_skipped.increment(1),
            Captured::Event | Captured::Nothing => {}
        }
    }

    /// The stream is past `lsn`: from there on no sweep has published anything.
    fn passed(&mut self, lsn: Lsn) {
        if lsn >= self.swept_until {
            self.swept_until = Lsn::INVALID;
        }
    }

    /// Tells the server how far we are.
    async fn feed_back(&mut self) -> Result<(), Fate> {
        let watermark = self.flow.publisher.window.watermark();
        let time = wall_clock() - POSTGRES_EPOCH_MICROS;
        let feedback = self.confirmer.feedback(watermark, Instant::now(), time);
        self.stream.send(feedback).await.map_err(|error| of_postgres(&error, "send feedback"))
    }

    /// The last word: what is settled is confirmed, then the stream and the sink are closed.
    async fn finish(mut self, end: End) -> End {
        let end = match end {
            End::Stopped { drained } => {
                let told = match self.feed_back().await {
                    Ok(()) => self.stream.close().await.is_ok(),
                    Err(_) => false,
                };
                End::Stopped { drained: drained && told }
            }
            failed @ End::Failed(_) => {
                self.flow.count_redelivered();
                failed
            }
        };
        self.flow.publisher.sink.close().await;
        end
    }
}

/// Waits until the relay is told to stop; once it drains, until the grace is over.
async fn stopped(stop: &mut watch::Receiver<Stop>, is_draining: bool) -> Stop {
    let asked = if is_draining {
        *stop.borrow()
    } else {
        // Without anybody left who could ask, nobody asks.
        match stop.wait_for(|stop| *stop != Stop::No).await {
            Ok(stop) => return *stop,
            Err(_) => return std::future::pending().await,
        }
    };
    match asked {
        Stop::By(deadline) => {
            let now = stop.wait_for(|stop| *stop == Stop::Now);
            match timeout_at(deadline, now).await {
                Ok(Err(_)) => std::future::pending().await,
                _ => Stop::Now,
            }
        }
        Stop::Now => Stop::Now,
        Stop::No => std::future::pending().await,
    }
}
