//! The flow: what lies between reading an event and settling it, whoever read it.
//!
//! The stream, a sweep and the schedule read events; all put them into a flow. It routes, in this
//! order: reports of the sink, then transactions that came to their end, then whatever is due by
//! the clock. What cannot go leaves by the held way.

use std::rc::Rc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use super::board::wall_clock;
use super::capture::{Captive, Content};
use super::disposition::{Fate, of_map, of_store};
use super::held::HeldWay;
use super::latency::Latencies;
use super::publish::{Arrival, Publisher};
use super::redeem::Redeemed;
use super::settle::{Finished, Settler};
use super::show::Shown;
use super::state::Totals;
use super::{FlowConfig, misfit};
use crate::ack::Seq;
use crate::failpoint;
use crate::failure::{Code, Failure};
use crate::lsn::{Lsn, Position};
use crate::metrics::Meters;
use crate::outbox::{Envelope, Mapper};
use crate::sink::Sink;
use crate::status::{EventTimes, HeldContent, Hold, Reason, StatusStore, StoreError};

/// Publishing and settling, side by side, and the held way around them.
pub(super) struct Flow<S, T> {
    pub(super) publisher: Publisher<S>,
    pub(super) settler: Settler<T>,
    pub(super) held: HeldWay<T>,
    /// Reads the rows of scheduled events.
    pub(super) mapper: Option<Mapper>,
    /// Operators want nothing to be published.
    pub(super) is_paused: bool,
    /// Changes when operators want something.
    pub(super) notices: Option<watch::Receiver<u64>>,
    pub(super) meters: Meters,
    pub(super) totals: Totals,
    /// Of what was acknowledged since the last sample.
    pub(super) latencies: Latencies,
    pub(super) shown: Option<Shown>,
    /// Whether somebody else waits for the store: nothing new is started.
    pub(super) gives_way: bool,
    /// Whether the held way is next to use the store.
    is_helds_turn: bool,
    pub(super) was_full: bool,
    /// One event at a time is timed from its reading to its acknowledgement.
    timed: Option<(Seq, Instant)>,
}

/// How long reports may gather.
const REPORTS_GATHER: Duration = Duration::from_millis(1);

/// What woke the flow.
pub(super) enum Woken {
    Reported,
    Finished(Finished),
    Redeemed(Result<Redeemed, StoreError>),
    Noticed,
    Due,
}

impl<S: Sink, T: StatusStore + 'static> Flow<S, T> {
    pub(super) fn new(
        sink: S,
        store: Rc<T>,
        config: &FlowConfig,
        position: Position,
        meters: Meters,
    ) -> Self {
        let now = Instant::now();
        let names = config.dead_letter.names;
        let publisher =
            Publisher::new(sink, config.limits, config.held, config.retry, names, meters.clone());
        Self {
            publisher,
            settler: Settler::new(Rc::clone(&store), config.settle, position, meters.clone(), now),
            held: HeldWay::new(
                store,
                config.dead_letter.clone(),
                config.limits.events,
                meters.clone(),
            ),
            mapper: None,
            is_paused: false,
            notices: None,
            meters,
            totals: Totals::default(),
            latencies: Latencies::default(),
            shown: None,
            gives_way: false,
            is_helds_turn: false,
            was_full: false,
            timed: None,
        }
    }

    /// Takes on an event.
    pub(super) fn put(&mut self, captive: &Captive<'_>, now: Instant) -> Result<(), Fate> {
        let Captive { content, position, xid, committed } = captive;
        failpoint::pass("after_read");
        let (id, occurred) = match content {
            Content::Envelope(envelope) => {
                let arrival = Arrival {
                    position: *position,
                    committed: Some(*committed),
                    ..Arrival::default()
                };
                let seq = self.publish(envelope, arrival, now)?;
                self.timed.get_or_insert((seq, now));
                (envelope.id, envelope.occurred)
            }
            Content::Scheduled { id, event_type, due } => {
                let hold = Hold { due: Some(*due), ..Hold::waiting(Reason::Scheduled) };
                let event_type = event_type.as_deref().map(Into::into);
                let content = HeldContent { event_type, ..HeldContent::default() };
                self.publisher.hold(*position, None, hold, content);
                (&**id, None)
            }
            Content::Misfit(misfit) | Content::Oversize(misfit) => {
                let failure = misfit::failure(misfit);
                let (topic, content) = misfit::content(misfit, &mut self.publisher, now);
                self.give_up(*position, &misfit.id, failure, topic, content);
                (&*misfit.id, misfit.occurred)
            }
        };
        let times = EventTimes { committed: *committed, occurred };
        self.settler.track(id, *xid, times);
        self.add_read();
        Ok(())
    }

    /// Publishes an envelope. Gives its number.
    pub(super) fn publish(
        &mut self,
        envelope: &Envelope<'_>,
        arrival: Arrival,
        now: Instant,
    ) -> Result<Seq, Fate> {
        tracing::debug!(
            lsn = %arrival.position.commit,
            event_id = envelope.id,
            event_type = envelope.event_type.as_deref(),
            dedup_key = envelope.dedup_key.as_deref(),
            topic = envelope.topic,
            trace = ["traceparent", "x-request-id", "request_id", "correlation_id"]
                .iter()
                .find_map(|name| envelope.headers.get(name)),
            "event"
        );
        let Self { publisher, held, .. } = self;
        publisher
            .publish(envelope, arrival, |lane| held.is_ending(lane), now)
            .map_err(|error| of_map(error, &format!("event {}", envelope.id)))
    }

    /// An event that no attempt could help.
    pub(super) fn give_up(
        &mut self,
        position: Position,
        id: &str,
        failure: Failure,
        topic: Option<super::topics::TopicId>,
        content: HeldContent,
    ) -> Seq {
        tracing::warn!(
            event_id = id,
            code = %failure.code,
            error = failure.message,
            remedy = failure.remedy,
            "an event cannot be published"
        );
        self.publisher.count_failed();
        let hold = self.publisher.retry.hopeless(1, failure, wall_clock());
        self.publisher.hold(position, topic, hold, content)
    }

    /// Does everything that can be done without waiting; with `at_once`, settles whatever is
    /// acknowledged.
    pub(super) fn advance(&mut self, now: Instant, at_once: bool) -> Result<(), Fate> {
        let wall = wall_clock();
        let (settler, meters, totals) = (&self.settler, &self.meters, &mut self.totals);
        let (timed, latencies) = (&mut self.timed, &mut self.latencies);
        self.publisher.advance(now, |seq| {
            failpoint::pass("after_ack");
            totals.published += 1;
            if let Some(times) = settler.times(seq) {
                let latency = wall - times.committed;
                meters.publish_latency.record(seconds(latency));
                latencies.record(Duration::from_micros(u64::try_from(latency).unwrap_or(0)));
                if let Some(occurred) = times.occurred {
                    meters.event_age.record(seconds(wall - occurred));
                }
            }
            if let Some((_, since)) = timed.take_if(|(awaited, _)| *awaited == seq) {
                meters.stage_publish.record((now - since).as_secs_f64());
                meters.processing_duration.record((now - since).as_secs_f64());
            }
        })?;
        for (seq, failure) in self.publisher.newly_failed.drain(..) {
            tracing::warn!(
                event_id = self.settler.id(seq),
                code = %failure.code,
                error = failure.message,
                remedy = failure.remedy,
                "an event was refused; its key waits"
            );
        }
        // What waits to be held and finds no room has to wait for those that are.
        self.held.is_paused = self.is_paused || self.held.is_draining && !self.was_full;
        self.totals.published += self.held.advance(&mut self.publisher, now, wall)?;
        self.publish_due(now, wall)?;
        self.publisher.aside.hold_what_fits(&mut self.publisher.window);
        self.tell_if_full();
        self.use_store(now, wall, at_once);
        Ok(())
    }

    /// Settling and the held way take turns.
    fn use_store(&mut self, now: Instant, wall: i64, at_once: bool) {
        if self.is_busy() || self.gives_way {
            return;
        }
        if std::mem::take(&mut self.held.shows_failures) {
            self.settler.catch_up_soon(now);
        }
        if self.is_helds_turn {
            self.held.start(&mut self.publisher, now, wall);
        }
        if self.held.running.is_none() {
            let Publisher { window, aside, .. } = &mut self.publisher;
            self.settler.start(window, aside, now, at_once);
        }
        if !self.settler.is_busy() {
            self.held.start(&mut self.publisher, now, wall);
        }
        self.is_helds_turn = self.settler.is_busy();
    }

    /// What may be confirmed: it is settled, and the database knows that it may be.
    pub(super) fn confirmable(&self) -> Lsn {
        self.publisher.window.watermark().min(self.settler.confirmable())
    }

    /// Whether the store is in use.
    pub(super) fn is_busy(&self) -> bool {
        self.settler.is_busy() || self.held.running.is_some()
    }

    /// Whether an event of about `bytes` may be read.
    pub(super) fn has_room(&self, bytes: usize) -> bool {
        !self.is_paused && self.publisher.has_room(bytes)
    }

    fn tell_if_full(&mut self) {
        let is_full = self.publisher.aside.is_full(&self.publisher.window);
        if is_full && !self.was_full {
            tracing::warn!(
                code = %Code::HeldFull,
                held = self.publisher.aside.events(),
                remedy = Code::HeldFull.remedy(),
                "as many events are held as may be; nothing more is read until there is room"
            );
        } else if !is_full && self.was_full {
            tracing::info!("there is room for held events again");
        }
        self.was_full = is_full;
    }

    /// Rows of scheduled events that are due take their place behind what was read so far.
    fn publish_due(&mut self, now: Instant, wall: i64) -> Result<(), Fate> {
        if self.is_paused || self.held.is_draining {
            return Ok(());
        }
        super::due::publish_due(self, now, wall)
    }

    /// Waits until there is something to do. Who is `patient`, because rows come anyway, is not woken
    /// for every few reports while hardly anything waits for them. Cancel-safe.
    pub(super) async fn woken(&mut self, patient: bool) -> Woken {
        if self.publisher.has_reports() {
            return Woken::Reported;
        }
        let show = self.shown.as_ref().map(Shown::next_due);
        let settle = self.settler.next_due().filter(|_| self.held.running.is_none());
        let locked = self.held.locked_until.filter(|_| !self.is_busy());
        let dues = [self.publisher.next_due(), settle, self.held_due(), locked, show];
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
            redeemed = self.held.finished() => Woken::Redeemed(redeemed),
            () = noticed(&mut self.notices) => Woken::Noticed,
            () = clock => Woken::Due,
        }
    }

    /// When a held or scheduled event is due.
    fn held_due(&self) -> Option<Instant> {
        if self.is_paused {
            return None;
        }
        let schedule = self.held.schedule.next_due().filter(|_| self.held.schedule.rows.is_empty());
        let due = [self.held.lanes.next_due(), schedule].into_iter().flatten().min()?;
        let wait = u64::try_from(due - wall_clock()).unwrap_or(0);
        // What is due and finds no room, or no store, is woken by those who have them.
        (wait > 0).then(|| Instant::now() + Duration::from_micros(wait))
    }

    /// Takes in what woke the flow.
    pub(super) fn take_in(&mut self, woken: Woken, now: Instant) -> Result<(), Fate> {
        match woken {
            Woken::Finished(finished) => {
                let window = &mut self.publisher.window;
                let before = window.open();
                let done = self.settler.complete(finished, window, now);
                self.totals.settled += before - window.open();
                let run = done.map_err(|error| of_store(&error))?;
                for ordinal in &run.came_due {
                    self.held.was_due(*ordinal);
                }
                for (entry, leaving) in run.held {
                    self.held.take_on(entry, &leaving, &mut self.publisher, now);
                }
            }
            Woken::Redeemed(redeemed) => {
                let redeemed = redeemed.map_err(|error| of_store(&error))?;
                let followed = self.held.complete(redeemed, &mut self.publisher, now);
                if followed.deferred > 0 {
                    self.settler.catch_up_soon(now + Duration::from_secs(1));
                }
                if let Some(orders) = followed.orders {
                    self.obey(orders.paused, &orders.paused_topics, &orders.partitions, now);
                }
            }
            Woken::Noticed => self.held.has_orders = true,
            Woken::Reported | Woken::Due => {}
        }
        Ok(())
    }

    /// What operators want of the relay.
    pub(super) fn obey(
        &mut self,
        paused: bool,
        paused_topics: &[String],
        partitions: &[(String, i32)],
        now: Instant,
    ) {
        if paused != self.is_paused {
            tracing::info!(paused, "an operator has spoken");
        }
        self.is_paused = paused;
        let newly = self.publisher.topics.order(paused_topics, partitions, now);
        self.publisher.topics_paused(&newly);
    }

    /// Nothing more is begun: the relay is to stop. What waits for held events is held itself.
    pub(super) fn wind_down(&mut self) {
        self.held.is_draining = true;
        let lanes: Vec<_> = self.held.lanes.all().collect();
        for lane in lanes {
            self.publisher.park(lane);
        }
    }

    /// One more event was taken on.
    pub(super) fn add_read(&mut self) {
        self.totals.read += 1;
    }

    /// Whether everything that was taken on is settled.
    pub(super) fn is_empty(&self) -> bool {
        self.publisher.window.open() == 0 && self.held.is_idle()
    }
}

/// Waits until operators want something. Cancel-safe.
async fn noticed(notices: &mut Option<watch::Receiver<u64>>) {
    if let Some(notices) = notices
        && notices.changed().await.is_ok()
    {
        return;
    }
    // Without a connection there is no session for long.
    std::future::pending().await
}

/// Microseconds as seconds; a clock that went back counts as none.
#[expect(clippy::cast_precision_loss, reason = "a duration for a metric")]
pub(super) fn seconds(micros: i64) -> f64 {
    micros.max(0) as f64 / 1e6
}
