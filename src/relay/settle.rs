//! Settle: runs of events get their statuses, those that could not go are held, and the position
//! moves, in one transaction at a time. Only then does the window forget them.

use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

use super::aside::{Aside, Leaving, Taken};
use super::confirmable::Confirmable;
use crate::ack::{Ordinal, Prefix, Seq, Window};
use crate::failpoint;
use crate::lsn::{Lsn, Position};
use crate::metrics::Meters;
use crate::status::{
    Batch, CaughtUp, EventQueue, EventTimes, HeldEntry, HeldEvent, Settled, StatusStore, StoreError,
};

/// How runs are cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SettleConfig {
    /// The largest run, in events.
    pub batch: u64,
    /// How long an acknowledged event may wait for others.
    pub interval: Duration,
}

/// Between two parts of a pass over the deferred statuses, for runs that wait.
const CATCH_UP_PAUSE: Duration = Duration::from_millis(50);
/// Deferred statuses are tried again after this.
const CATCH_UP_AFTER: Duration = Duration::from_secs(1);
const CATCH_UP_AFTER_MAX: Duration = Duration::from_mins(1);

/// The events that are open, and the one settle transaction that is under way.
pub(super) struct Settler<T> {
    store: Rc<T>,
    config: SettleConfig,
    events: EventQueue,
    /// The number of the first event in `events`.
    first: Seq,
    position: Position,
    /// Since when there has been something to settle.
    since: Option<Instant>,
    /// Whether the events are read by a sweep that the stream may repeat.
    pub(super) swept: bool,
    /// Whether the stream may bring scheduled events again that a sweep has held.
    pub(super) swept_before: bool,
    running: Option<Running>,
    spare: Batch,
    confirmable: Confirmable,
    catch_up: CatchUp,
    meters: Meters,
}

type Work<R> = Pin<Box<dyn Future<Output = R>>>;

struct Running {
    prefix: Prefix,
    started: Instant,
    /// What is held of the run, in order.
    leaving: Vec<(HeldEntry, Leaving)>,
    /// Scheduled events that were published.
    came_due: Vec<Ordinal>,
    work: Work<(Batch, Result<Settled, StoreError>)>,
}

/// Statuses in the ledger that their rows do not show yet.
struct CatchUp {
    due: Option<Instant>,
    wait: Duration,
    /// Whether a pass has begun, and what is to be written may lie behind it.
    is_under_way: bool,
    again: bool,
    running: Option<Work<Result<CaughtUp, StoreError>>>,
}

impl<T: StatusStore + 'static> Settler<T> {
    pub(super) fn new(
        store: Rc<T>,
        config: SettleConfig,
        position: Position,
        meters: Meters,
        now: Instant,
    ) -> Self {
        Self {
            store,
            config,
            events: EventQueue::default(),
            first: 0,
            position,
            since: None,
            swept: false,
            swept_before: false,
            running: None,
            spare: Batch::default(),
            confirmable: Confirmable::default(),
            // An earlier run may have left some.
            catch_up: CatchUp {
                due: Some(now),
                wait: CATCH_UP_AFTER,
                is_under_way: false,
                again: false,
                running: None,
            },
            meters,
        }
    }

    pub(super) fn store(&self) -> &T {
        &self.store
    }

    /// Everything at or before it is settled.
    pub(super) fn position(&self) -> Position {
        self.position
    }

    /// Up to here the slot may be confirmed, as far as that is durable.
    pub(super) fn confirmable(&self) -> Lsn {
        self.confirmable.durable()
    }

    /// Remembers an event, in the order of the window's numbers.
    pub(super) fn track(&mut self, id: &str, xid: u32, times: EventTimes) {
        self.events.push(id, xid, times);
    }

    /// The times of an event that no transaction has settled or is settling.
    pub(super) fn times(&self, seq: Seq) -> Option<EventTimes> {
        let place = usize::try_from(seq.checked_sub(self.first)?).ok()?;
        self.events.times(place)
    }

    /// The id of such an event.
    pub(super) fn id(&self, seq: Seq) -> Option<String> {
        let place = usize::try_from(seq.checked_sub(self.first)?).ok()?;
        self.events.id(place)
    }

    /// When the oldest of these was committed, in microseconds since 1970.
    pub(super) fn oldest_committed(&self) -> Option<i64> {
        self.events.times(0).map(|times| times.committed)
    }

    /// Starts a transaction if one is due; with `at_once`, as soon as there is anything to settle.
    pub(super) fn start(
        &mut self,
        window: &Window,
        aside: &mut Aside,
        now: Instant,
        at_once: bool,
    ) {
        // One at a time: both use one session, and a run can be a transaction of many statements.
        if self.running.is_some() || self.confirmable.is_busy() {
            return;
        }
        self.start_catching_up(now);
        if self.catch_up.running.is_some() {
            return;
        }
        let Some(prefix) = window.prefix(self.config.batch) else {
            self.since = None;
            self.confirmable.start(&self.store, window.watermark(), now, at_once);
            return;
        };
        let since = *self.since.get_or_insert(now);
        let is_due = prefix.count() >= self.config.batch || now >= since + self.config.interval;
        if !is_due && !at_once {
            return;
        }
        self.since = None;
        let mut batch = std::mem::take(&mut self.spare);
        let count = usize::try_from(prefix.count()).unwrap_or(usize::MAX);
        self.events.take(count, &mut batch.events);
        self.first = prefix.until;
        batch.from = self.position;
        batch.to = prefix.position;
        batch.confirmable = window.watermark_after(&prefix);
        let (leaving, came_due) = fill(&mut batch, aside, &prefix, window);
        batch.swept = self.swept || self.swept_before && !came_due.is_empty();
        let store = Rc::clone(&self.store);
        let work = Box::pin(async move {
            failpoint::pass("before_settle");
            let result = store.settle(&batch).await;
            failpoint::pass("after_settle");
            (batch, result)
        });
        self.running = Some(Running { prefix, started: now, leaving, came_due, work });
    }

    fn start_catching_up(&mut self, now: Instant) {
        if self.catch_up.running.is_none() && self.catch_up.due.is_some_and(|due| due <= now) {
            self.catch_up.due = None;
            self.catch_up.is_under_way = true;
            let store = Rc::clone(&self.store);
            self.catch_up.running = Some(Box::pin(async move { store.catch_up().await }));
        }
    }

    /// When [`Settler::start`] has something to do that nothing else announces.
    pub(super) fn next_due(&self) -> Option<Instant> {
        if self.is_busy() {
            return None;
        }
        let settle = self.since.map(|since| since + self.config.interval);
        // What is settled is confirmable without more ado.
        let run = settle.or(self.confirmable.next_due());
        [run, self.catch_up.due].into_iter().flatten().min()
    }

    /// Whether a transaction is under way.
    pub(super) fn is_busy(&self) -> bool {
        self.running.is_some() || self.catch_up.running.is_some() || self.confirmable.is_busy()
    }

    /// Waits for what is under way; for ever if nothing is. Cancel-safe.
    pub(super) async fn finished(&mut self) -> Finished {
        let running = async {
            match &mut self.running {
                Some(running) => running.work.as_mut().await,
                None => std::future::pending().await,
            }
        };
        let catching_up = async {
            match &mut self.catch_up.running {
                Some(work) => work.as_mut().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            (batch, result) = running => Finished::Settled(batch, result),
            result = catching_up => Finished::CaughtUp(result),
            result = self.confirmable.finished() => Finished::Allowed(result),
        }
    }

    /// Catches up on deferred statuses and on failures that rows do not show, soon.
    pub(super) fn catch_up_soon(&mut self, now: Instant) {
        self.catch_up.again |= self.catch_up.is_under_way;
        let due = self.catch_up.due.get_or_insert(now);
        *due = (*due).min(now);
    }

    /// Takes in what [`Settler::finished`] gave: the window forgets what is settled.
    ///
    /// # Errors
    /// Nothing of the run was settled.
    pub(super) fn complete(
        &mut self,
        finished: Finished,
        window: &mut Window,
        now: Instant,
    ) -> Result<SettledRun, StoreError> {
        let mut run = SettledRun::default();
        match finished {
            Finished::Allowed(result) => self.confirmable.complete(result?),
            Finished::CaughtUp(result) => {
                self.catch_up.running = None;
                match result? {
                    CaughtUp::Partly => self.catch_up.due = Some(now + CATCH_UP_PAUSE),
                    CaughtUp::All { left } => {
                        self.catch_up.is_under_way = false;
                        if std::mem::take(&mut self.catch_up.again) {
                            self.catch_up.due = Some(now);
                        } else if left > 0 {
                            self.catch_up.due = Some(now + self.catch_up.wait);
                        }
                        if left == 0 {
                            self.catch_up.wait = CATCH_UP_AFTER;
                            return Ok(run);
                        }
                        self.catch_up.wait = (self.catch_up.wait * 2).min(CATCH_UP_AFTER_MAX);
                    }
                }
            }
            Finished::Settled(batch, result) => {
                let Some(running) = self.running.take() else {
                    return Ok(run);
                };
                let settled = result?;
                window.settle(running.prefix.until);
                run.came_due = running.came_due;
                run.held = running.leaving;
                for ((entry, _), ordinal) in run.held.iter_mut().zip(&settled.ordinals) {
                    entry.ordinal = *ordinal;
                }
                self.position = batch.to;
                self.confirmable.settled(batch.confirmable);
                self.spare = batch;
                if settled.deferred > 0 {
                    self.catch_up.wait = CATCH_UP_AFTER;
                    self.catch_up.due.get_or_insert(now + CATCH_UP_AFTER);
                }
                let took = (now - running.started).as_secs_f64();
                self.meters.status_write.record(took);
                self.meters.stage_settle.record(took);
                #[expect(clippy::cast_precision_loss, reason = "a count of at most thousands")]
                self.meters.batch_size.record(running.prefix.count() as f64);
                self.meters.events_processed.increment(running.prefix.count());
            }
        }
        Ok(run)
    }
}

/// What a settled run leaves to the held way.
#[derive(Default)]
pub(super) struct SettledRun {
    /// The events that are held now, in order.
    pub(super) held: Vec<(HeldEntry, Leaving)>,
    /// Scheduled events that were published.
    pub(super) came_due: Vec<Ordinal>,
}

/// Takes what is held out of a run; the rest of it was sent. Gives what is held, and the numbers
/// of those that were sent and had been scheduled.
fn fill(
    batch: &mut Batch,
    aside: &mut Aside,
    prefix: &Prefix,
    window: &Window,
) -> (Vec<(HeldEntry, Leaving)>, Vec<Ordinal>) {
    batch.held.clear();
    batch.came_due.clear();
    let Taken { leaving, through } = aside.take(prefix);
    if !through.is_empty() {
        let ids: Vec<&str> = batch.events.iter().collect();
        let due = through.iter().filter_map(|(place, _)| ids.get(*place));
        batch.came_due = due.map(|id| (*id).to_owned()).collect();
    }
    let came_due = through.into_iter().map(|(_, ordinal)| ordinal).collect();
    if leaving.is_empty() {
        return (Vec::new(), came_due);
    }
    let places: Vec<usize> = leaving.iter().map(|(place, _)| *place).collect();
    let taken = batch.events.take_out(&places);
    let mut left = Vec::with_capacity(leaving.len());
    for ((id, xid), (place, mut leaving)) in taken.into_iter().zip(leaving) {
        let content = std::mem::take(&mut leaving.content);
        let position = window.position(prefix.from + place as u64);
        let entry = HeldEntry {
            ordinal: 0,
            id: id.clone(),
            xid,
            position,
            hold: leaving.hold.clone(),
            topic: content.parcel.topic.clone(),
            key: None,
            max_attempts: content.max_attempts,
            redelivery: content.redelivery,
            bytes: 0,
            since: super::board::wall_clock(),
        };
        let hold = leaving.hold.clone();
        batch.held.push(HeldEvent { id, xid, position, hold, content });
        left.push((entry, leaving));
    }
    (left, came_due)
}

/// What came to its end.
pub(super) enum Finished {
    Settled(Batch, Result<Settled, StoreError>),
    CaughtUp(Result<CaughtUp, StoreError>),
    Allowed(Result<bool, StoreError>),
}
