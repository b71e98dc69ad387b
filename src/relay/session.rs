//! THE LOOP: one stream, one flow, from the first message to the last word.
//!
//! A session owns everything that depends on its connections, and is dropped with them. Its loop
//! does what can be done, then waits for one of the branches, in this order: being told to stop,
//! a reason to end, feedback that is due, the flow (reports, settled runs, due times), and last,
//! only while the window has room, more of the stream. Not reading is the back-pressure; feedback
//! goes on regardless.

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::board::{Board, float, wall_clock};
use super::capture::{Captive, Capture, Captured};
use super::confirm::{Confirmer, Settlements};
use super::disposition::{Fate, of_postgres, of_store};
use super::flow::Flow;
use super::monitor::Sight;
use super::state::State;
use crate::failpoint;
use crate::lsn::Lsn;
use crate::metrics::Meters;
use crate::pgoutput::POSTGRES_EPOCH_MICROS;
use crate::postgres::{WalMessage, WalStream};
use crate::shutdown::{Stop, stopped};
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
    before: Before,
    /// While the stored position is before it, a stream can bring again what a sweep has held.
    swept_until: Lsn,
    /// A message whose event a sweep may have published; it waits for the store to be asked.
    in_question: Option<(Vec<u8>, Option<usize>)>,
    meters: Meters,
    is_draining: bool,
}

/// What was there before the stream. Each is [`Lsn::INVALID`] once the stream is past it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Before {
    /// Before this commit, the stream can bring events that a sweep has published.
    pub(super) swept_until: Lsn,
    /// Up to here the server had flushed its WAL. What comes after it is new.
    pub(super) flushed: Lsn,
}

/// Messages between two looks at what else there is to do.
const MESSAGES_AT_ONCE: usize = 256;

impl<W: WalStream, S: Sink, T: StatusStore + 'static> Session<W, S, T> {
    pub(super) fn new(
        stream: W,
        capture: Capture,
        flow: Flow<S, T>,
        before: Before,
        meters: Meters,
    ) -> Self {
        let confirmer = Confirmer::new(stream.sender_timeout(), Instant::now());
        Self {
            stream,
            capture,
            flow,
            confirmer,
            before,
            swept_until: before.swept_until,
            in_question: None,
            meters,
            is_draining: false,
        }
    }

    /// Confirms nothing before the stream has passed its settlement.
    pub(super) fn wait_for(&mut self, settlements: Settlements) {
        self.confirmer.wait_for(settlements);
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
                board.show_slot(sight.slot.as_ref(), Instant::now());
                if let Some(slot) = &sight.slot {
                    let received = self.confirmer.received_until().max(slot.confirmed());
                    self.meters.slot_lag_received.set(float(slot.current().bytes_since(received)));
                }
            }
            if self.is_draining && self.is_empty() {
                break End::Stopped { drained: true };
            }
            let feedback_due = self.confirmer.due(self.flow.confirmable());
            let reads = self.reads();
            let patient = reads && self.stream.gathers();
            tokio::select! {
                biased;
                asked = stopped(&mut stop, self.is_draining) => {
                    self.is_draining = true;
                    self.flow.wind_down();
                    if asked.is_over() {
                        break End::Stopped { drained: self.is_empty() };
                    }
                }
                fate = &mut trouble => break End::Failed(fate),
                () = sleep_until(feedback_due) => {
                    if let Err(fate) = self.feed_back().await {
                        break End::Failed(fate);
                    }
                }
                woken = self.flow.woken(patient) => {
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
        self.finish(end, board).await
    }

    /// Whether everything that was read is settled, and can be confirmed.
    fn is_empty(&self) -> bool {
        let watermark = self.flow.publisher.window.watermark();
        self.in_question.is_none() && self.flow.is_empty() && self.flow.confirmable() == watermark
    }

    /// Whether there is a question, and room for the event that it is about.
    fn can_ask(&self) -> bool {
        let message = self.in_question.as_ref();
        message.is_some_and(|(data, _)| self.flow.publisher.has_room(data.len()))
    }

    /// Whether to wait for more of the stream.
    fn reads(&self) -> bool {
        !self.is_draining
            && self.in_question.is_none()
            && self.flow.has_room(self.stream.next_len())
    }

    /// Everything that can be done without waiting.
    async fn work(&mut self, board: &mut Board) -> Result<(), Fate> {
        let mut more = true;
        while more {
            let now = Instant::now();
            self.flow.gives_way = self.can_ask();
            let may_repeat = self.flow.settler.position().commit < self.swept_until;
            self.flow.held.swept = may_repeat;
            self.flow.settler.swept_before = may_repeat;
            self.flow.advance(now, self.is_draining)?;
            more = self.answer(now).await? && !self.is_draining && self.read(now).await?;
            let is_behind = self.before.flushed.is_valid();
            let state = if is_behind { State::CatchingUp } else { State::Streaming };
            self.flow.show(board, state, now);
            if more && self.confirmer.due(self.flow.confirmable()) <= now {
                self.feed_back().await?;
            }
        }
        Ok(())
    }

    /// Reads messages that were received. Whether there may be more of them.
    async fn read(&mut self, now: Instant) -> Result<bool, Fate> {
        let wall = wall_clock();
        for _ in 0..MESSAGES_AT_ONCE {
            if !self.answer(now).await? || !self.flow.has_room(self.stream.next_len()) {
                return Ok(false);
            }
            let Self { stream, capture, flow, confirmer, .. } = self;
            let message = stream.next().map_err(|error| of_postgres(&error, "read the stream"))?;
            let (data, oversize) = match message {
                None => return Ok(false),
                Some(WalMessage::Keepalive { wal_end, reply_requested }) => {
                    confirmer.received(wal_end);
                    if reply_requested {
                        confirmer.asked();
                    }
                    if !capture.in_transaction() {
                        flow.publisher.window.fence(wal_end);
                        self.passed(wal_end);
                    }
                    continue;
                }
                Some(WalMessage::Data(data)) => (data, None),
                Some(WalMessage::Oversize { message, bytes }) => (message, Some(bytes)),
            };
            if self.before.swept_until.is_valid() {
                self.in_question = Some((data.to_vec(), oversize));
            } else {
                let hand_over = |captive: Captive<'_>| flow.put(&captive, now);
                let captured = capture.take(data, oversize, wall, hand_over)?;
                self.note(captured);
            }
        }
        Ok(true)
    }

    /// Takes the message in question, if there is one and the store can be asked. Whether there is
    /// none left.
    async fn answer(&mut self, now: Instant) -> Result<bool, Fate> {
        // The question goes over the session that settles; and what came due meanwhile may have
        // taken the room that there was.
        if self.flow.is_busy() || !self.can_ask() {
            return Ok(self.in_question.is_none());
        }
        if let Some((data, oversize)) = self.in_question.take() {
            let captured = self.take_unless_swept(&data, oversize, wall_clock(), now).await?;
            self.note(captured);
        }
        Ok(true)
    }

    /// Takes a message where a sweep may have published its event already.
    async fn take_unless_swept(
        &mut self,
        data: &[u8],
        oversize: Option<usize>,
        wall: i64,
        now: Instant,
    ) -> Result<Captured, Fate> {
        let Self { capture, flow, before, .. } = self;
        if let Some(id) = capture.peek_id(data)?
            && capture.open_commit() < before.swept_until
            && flow.settler.store().was_swept(&id).await.map_err(|error| of_store(&error))?
        {
            capture.take(data, oversize, wall, |_| Ok::<_, Fate>(()))?;
            return Ok(Captured::Settled);
        }
        capture.take(data, oversize, wall, |captive| flow.put(&captive, now))
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

    /// The stream is past `lsn`.
    fn passed(&mut self, lsn: Lsn) {
        for before in [&mut self.before.swept_until, &mut self.before.flushed] {
            if lsn >= *before {
                *before = Lsn::INVALID;
            }
        }
    }

    /// Tells the server how far we are.
    async fn feed_back(&mut self) -> Result<(), Fate> {
        let time = wall_clock() - POSTGRES_EPOCH_MICROS;
        let feedback = self.confirmer.feedback(self.flow.confirmable(), Instant::now(), time);
        failpoint::pass("before_confirm");
        let sent = self.stream.send(feedback).await;
        failpoint::pass("after_confirm");
        sent.map_err(|error| of_postgres(&error, "send feedback"))
    }

    /// The last word: what is settled is confirmed, then the stream and the sink are closed.
    async fn finish(mut self, end: End, board: &mut Board) -> End {
        failpoint::pass("in_shutdown");
        let told = match &end {
            End::Stopped { .. } => self.feed_back().await.is_ok(),
            End::Failed(_) => false,
        };
        let Self { stream, flow, .. } = self;
        let end = match end {
            End::Stopped { drained } => {
                let told = told && stream.close().await.is_ok();
                if !drained {
                    flow.count_redelivered();
                }
                board.in_doubt = !(drained && told);
                End::Stopped { drained: drained && told }
            }
            failed @ End::Failed(_) => {
                // A server that stops waits for the stream, not for Kafka.
                drop(stream);
                flow.count_redelivered();
                board.in_doubt |= !flow.is_empty();
                failed
            }
        };
        flow.publisher.sink.close().await;
        end
    }
}
