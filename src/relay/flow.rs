//! The flow: what lies between reading an event and settling it, whoever read it.
//!
//! The stream and a sweep read events; both put them into a flow. It routes, in this order: reports
//! of the sink, then transactions that came to their end, then whatever is due by the clock.

use std::rc::Rc;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use super::board::{Board, State, Totals, float, wall_clock};
use super::capture::Captive;
use super::disposition::{Fate, of_map, of_store};
use super::publish::Publisher;
use super::settle::{Finished, SettleConfig, Settler};
use crate::ack::{Limits, Seq};
use crate::failpoint;
use crate::lsn::Position;
use crate::metrics::Meters;
use crate::sink::Sink;
use crate::status::{EventTimes, StatusStore};

/// Publishing and settling, side by side.
pub(super) struct Flow<S, T> {
    pub(super) publisher: Publisher<S>,
    pub(super) settler: Settler<T>,
    meters: Meters,
    totals: Totals,
    shown: Option<(Instant, State)>,
    /// Whether something has happened since that is not shown yet.
    is_stale: bool,
    /// One event at a time is timed from its reading to its acknowledgement.
    timed: Option<(Seq, Instant)>,
}

/// The board and the gauges are brought up to date this often.
const SHOW_EVERY: Duration = Duration::from_millis(200);

/// How long reports may gather.
const REPORTS_GATHER: Duration = Duration::from_millis(1);

/// What woke the flow.
pub(super) enum Woken {
    Reported,
    Finished(Finished),
    Due,
}

impl<S: Sink, T: StatusStore + 'static> Flow<S, T> {
    pub(super) fn new(
        sink: S,
        store: Rc<T>,
        limits: Limits,
        settle: SettleConfig,
        position: Position,
        meters: Meters,
    ) -> Self {
        let now = Instant::now();
        Self {
            publisher: Publisher::new(sink, limits, meters.clone()),
            settler: Settler::new(store, settle, position, meters.clone(), now),
            meters,
            totals: Totals::default(),
            shown: None,
            is_stale: false,
            timed: None,
        }
    }

    /// Takes on an event.
    pub(super) fn put(&mut self, captive: &Captive<'_>, now: Instant) -> Result<(), Fate> {
        let Captive { envelope, position, xid, committed } = captive;
        failpoint::pass("after_read");
        tracing::debug!(
            lsn = %position.commit,
            event_id = envelope.id,
            event_type = envelope.event_type.as_deref(),
            dedup_key = envelope.dedup_key.as_deref(),
            topic = envelope.topic,
            trace = ["traceparent", "x-request-id", "request_id", "correlation_id"]
                .iter()
                .find_map(|name| envelope.headers.get(name)),
            "event"
        );
        let seq = self
            .publisher
            .publish(envelope, *position, now)
            .map_err(|error| of_map(error, &format!("event {} at {position}", envelope.id)))?;
        let times = EventTimes { committed: *committed, occurred: envelope.occurred };
        self.settler.track(envelope.id, *xid, times);
        self.timed.get_or_insert((seq, now));
        self.totals.read += 1;
        Ok(())
    }

    /// Does everything that can be done without waiting; with `at_once`, settles whatever is
    /// acknowledged.
    pub(super) fn advance(&mut self, now: Instant, at_once: bool) -> Result<(), Fate> {
        let wall = wall_clock();
        let (settler, meters, totals) = (&self.settler, &self.meters, &mut self.totals);
        let timed = &mut self.timed;
        self.publisher.advance(now, |seq| {
            failpoint::pass("after_ack");
            totals.published += 1;
            if let Some(times) = settler.times(seq) {
                meters.publish_latency.record(seconds(wall - times.committed));
                if let Some(occurred) = times.occurred {
                    meters.event_age.record(seconds(wall - occurred));
                }
            }
            if let Some((_, since)) = timed.take_if(|(awaited, _)| *awaited == seq) {
                meters.stage_publish.record((now - since).as_secs_f64());
                meters.processing_duration.record((now - since).as_secs_f64());
            }
        })?;
        for (seq, failure) in self.publisher.newly_refused.drain(..) {
            tracing::warn!(
                event_id = self.settler.id(seq),
                code = %failure.code,
                error = failure.message,
                remedy = failure.code.remedy(),
                "an event was refused; its key waits"
            );
        }
        self.settler.start(&self.publisher.window, now, at_once);
        Ok(())
    }

    /// Waits until there is something to do. Who is `patient`, because rows come anyway, is not woken
    /// for every few reports while hardly anything waits for them. Cancel-safe.
    pub(super) async fn woken(&mut self, patient: bool) -> Woken {
        if self.publisher.has_reports() {
            return Woken::Reported;
        }
        let show = self.shown.filter(|_| self.is_stale).map(|(at, _)| at + SHOW_EVERY);
        let dues = [self.publisher.next_due(), self.settler.next_due(), show];
        let due = dues.into_iter().flatten().min();
        let clock = async {
            match due {
                Some(due) => sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        let later = patient && !self.publisher.is_crowded();
        let reported = async {
            if later {
                sleep(REPORTS_GATHER).await;
            }
            self.publisher.sink.reported().await;
        };
        tokio::select! {
            biased;
            () = reported => Woken::Reported,
            finished = self.settler.finished() => Woken::Finished(finished),
            () = clock => Woken::Due,
        }
    }

    /// Takes in what woke the flow.
    pub(super) fn take_in(&mut self, woken: Woken, now: Instant) -> Result<(), Fate> {
        if let Woken::Finished(finished) = woken {
            let window = &mut self.publisher.window;
            let before = window.open();
            let done = self.settler.complete(finished, window, now);
            self.totals.settled += before - window.open();
            done.map_err(|error| of_store(&error))?;
        }
        Ok(())
    }

    /// Whether everything that was taken on is settled.
    pub(super) fn is_empty(&self) -> bool {
        self.publisher.window.open() == 0
    }

    /// Brings the board up to date, now and then. `state` is what the reader would show if
    /// nothing waited.
    pub(super) fn show(&mut self, board: &mut Board, state: State, now: Instant) {
        if self.shown.is_some_and(|(at, shown)| now < at + SHOW_EVERY && state == shown) {
            self.is_stale = true;
            return;
        }
        self.shown = Some((now, state));
        self.is_stale = false;
        let before = std::mem::take(&mut self.totals);
        self.meters.events_added.increment(before.read);
        board.totals.read += before.read;
        board.totals.published += before.published;
        board.totals.settled += before.settled;
        board.sample(now);
        let window = &self.publisher.window;
        let stall = self.publisher.stall();
        let state = if stall.is_some() { State::Stalled } else { state };
        board.show_state(state, stall);
        let lag = self.settler.oldest_committed().filter(|_| window.open() > 0);
        let lag = lag.map_or(0.0, |committed| seconds(wall_clock() - committed));
        board.update(|status| {
            status.totals = board.totals;
            status.in_flight.events = window.open();
            status.in_flight.bytes = window.bytes();
            status.held.retry = window.refused();
            status.blocked_keys = window.blocked_keys();
            status.lag_seconds = (lag * 1e3).round() / 1e3;
            status.position = self.settler.position().to_string();
            status.checks.producer = self.publisher.is_reachable();
            status.checks.status_writer = true;
        });
        self.meters.lag_seconds.set(lag);
        self.meters.new_count.set(float(window.open()));
        self.meters.queue_depth.set(float(window.unacked()));
        self.meters.failed_count.set(float(window.refused()));
        self.meters.blocked_keys.set(float(window.blocked_keys() as u64));
        let blocked = self.publisher.refused_since();
        self.meters
            .blocked_oldest_age
            .set(blocked.map_or(0.0, |since| (now - since).as_secs_f64()));
    }

    /// What may be in Kafka without being settled: it can come twice.
    pub(super) fn count_redelivered(&self) {
        self.meters.redelivered.increment(self.publisher.window.open());
    }
}

/// Microseconds as seconds; a clock that went back counts as none.
#[expect(clippy::cast_precision_loss, reason = "a duration for a metric")]
pub(super) fn seconds(micros: i64) -> f64 {
    micros.max(0) as f64 / 1e6
}
