//! Redeem: what became of held events is made durable; and what the held way has to read.
//!
//! One thing at a time, over the session that settles. What became of events comes before what is
//! read of them.

use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

use super::held::HeldWay;
use super::publish::Publisher;
use crate::ack::{Moment, Ordinal};
use crate::failpoint;
use crate::sink::Sink;
use crate::status::{
    Became, Change, DueRow, HeldBody, HeldEntry, Hold, Orders, Reason, Settled, StatusStore,
    StoreError,
};

/// Events whose bodies are loaded at once.
const BODIES_AT_ONCE: usize = 200;
/// What somebody has locked is tried again after this.
const LOCKED_PAUSE: Duration = Duration::from_millis(100);
/// Changes that are made durable at once.
const CHANGES_AT_ONCE: usize = 1000;

/// What the held way does with the store.
pub(super) struct Running {
    /// How many events it makes durable.
    changes: usize,
    /// Whether it reads what operators must not change meanwhile.
    reads_requests: bool,
    work: Pin<Box<dyn Future<Output = Result<Redeemed, StoreError>>>>,
}

/// What it has done.
pub(super) enum Redeemed {
    Changes(Vec<Change>, Settled),
    Bodies(Vec<Ordinal>, Vec<HeldBody>),
    Orders(Orders),
    Page(Vec<HeldEntry>),
    Rows(Vec<HeldEntry>, Vec<DueRow>),
    Remembered,
}

impl Running {
    fn new(work: impl Future<Output = Result<Redeemed, StoreError>> + 'static) -> Self {
        Self { changes: 0, reads_requests: false, work: Box::pin(work) }
    }

    /// How many events it makes durable.
    pub(super) fn changes(&self) -> usize {
        self.changes
    }

    /// Whether it reads what operators must not change meanwhile.
    pub(super) fn reads_requests(&self) -> bool {
        self.reads_requests
    }
}

/// What follows from something that was done.
#[derive(Debug, Default)]
pub(super) struct Followed {
    /// Statuses that were deferred.
    pub(super) deferred: u64,
    /// What operators want of the relay.
    pub(super) orders: Option<Orders>,
}

impl<T: StatusStore + 'static> HeldWay<T> {
    /// Starts the next thing that is to be done with the store, if there is one.
    pub(super) fn start<S: Sink>(
        &mut self,
        publisher: &mut Publisher<S>,
        now: Instant,
        wall: Moment,
    ) {
        if self.running.is_some() {
            return;
        }
        let store = Rc::clone(&self.store);
        // What was answered is not to be read again.
        let is_answered = self.changes.iter().all(|change| !change.answers);
        self.running = if is_answered && std::mem::take(&mut self.has_orders) {
            let work = async move { store.orders().await.map(Redeemed::Orders) };
            Some(Running { reads_requests: true, ..Running::new(work) })
        } else if !self.changes.is_empty() && self.locked_until.is_none_or(|until| until <= now) {
            self.locked_until = None;
            let count = self.changes.len().min(CHANGES_AT_ONCE);
            let changes: Vec<Change> = self.changes.drain(..count).collect();
            let swept = self.swept;
            let work = async move {
                failpoint::pass("before_redeem");
                let done = store.redeem(&changes, swept).await;
                failpoint::pass("after_redeem");
                Ok(Redeemed::Changes(changes, done?))
            };
            Some(Running { changes: count, ..Running::new(work) })
        } else if !publisher.topics.learned.is_empty() {
            let learned = std::mem::take(&mut publisher.topics.learned);
            let work = async move {
                store.remember_partitions(&learned).await.map(|()| Redeemed::Remembered)
            };
            Some(Running::new(work))
        } else if let Some(ordinals) = self.next_to_load() {
            let work = async move {
                let bodies = store.bodies(&ordinals).await?;
                Ok(Redeemed::Bodies(ordinals, bodies))
            };
            Some(Running::new(work))
        } else if self.changes.is_empty()
            && let Some(after) = self.schedule.wants_page()
        {
            // A page has to say what became of events, also of those that somebody had locked.
            let work = async move { store.scheduled(after).await.map(Redeemed::Page) };
            Some(Running { reads_requests: true, ..Running::new(work) })
        } else if !self.is_paused && self.schedule.is_due(wall) {
            let due = self.schedule.take_due(wall);
            let work = async move {
                let rows = store.due_rows(&due).await?;
                Ok(Redeemed::Rows(due, rows))
            };
            Some(Running::new(work))
        } else {
            None
        };
    }

    /// The events whose bodies are read next. What became of an event comes first: a dead letter
    /// goes only when it is durable that no attempt is left, and says what failed.
    fn next_to_load(&mut self) -> Option<Vec<Ordinal>> {
        let is_written =
            |ordinal: &Ordinal| self.changes.iter().all(|change| change.ordinal != *ordinal);
        let (mut ready, mut later): (Vec<Ordinal>, VecDeque<Ordinal>) =
            (Vec::new(), VecDeque::new());
        for ordinal in std::mem::take(&mut self.to_load) {
            match ready.len() < BODIES_AT_ONCE && is_written(&ordinal) {
                true => ready.push(ordinal),
                false => later.push_back(ordinal),
            }
        }
        self.to_load = later;
        (!ready.is_empty()).then_some(ready)
    }

    /// Waits for what is under way; for ever if nothing is. Cancel-safe.
    pub(super) async fn finished(&mut self) -> Result<Redeemed, StoreError> {
        match &mut self.running {
            None => std::future::pending().await,
            Some(running) => running.work.as_mut().await,
        }
    }

    /// Takes in what [`HeldWay::finished`] gave.
    pub(super) fn complete<S: Sink>(
        &mut self,
        redeemed: Redeemed,
        publisher: &mut Publisher<S>,
        now: Instant,
    ) -> Followed {
        self.running = None;
        let mut followed = Followed::default();
        match redeemed {
            Redeemed::Changes(changes, settled) => {
                followed.deferred = settled.deferred;
                let mut locked = Vec::new();
                for change in changes {
                    if settled.ordinals.contains(&change.ordinal) {
                        locked.push(change);
                    } else {
                        self.redeemed(&change, publisher);
                        // There may be more than were read at once.
                        self.has_orders |= change.answers;
                    }
                }
                if !locked.is_empty() {
                    self.locked_until = Some(now + LOCKED_PAUSE);
                    self.changes.splice(0..0, locked);
                }
            }
            Redeemed::Bodies(asked, bodies) => {
                self.loaded(bodies);
                for ordinal in asked {
                    self.vanish_unless_loaded(ordinal, publisher);
                }
            }
            Redeemed::Orders(mut orders) => {
                self.requests = orders.requests.drain(..).collect();
                followed.orders = Some(orders);
            }
            Redeemed::Page(page) => self.schedule.add_page(page),
            Redeemed::Rows(due, rows) => self.schedule.rows.extend(due.into_iter().zip(rows)),
            Redeemed::Remembered => {}
        }
        followed
    }

    /// What became of an event is durable.
    fn redeemed<S: Sink>(&mut self, change: &Change, publisher: &mut Publisher<S>) {
        let ordinal = change.ordinal;
        if !change.answers {
            self.schedule.is_through(ordinal);
        }
        let is_dead = matches!(&change.became, Became::Held(hold) if hold.reason == Reason::Dead);
        self.shows_failures |= matches!(change.became, Became::Held(_) | Became::Again(_));
        match &change.became {
            Became::Held(Hold { reason: Reason::Dead, .. }) => self.dead += 1,
            Became::Sent | Became::Removed(_) => {}
            Became::Cancelled => self.scheduled = self.scheduled.saturating_sub(1),
            Became::Held(hold) if change.answers => return self.exhaust(ordinal, hold),
            Became::Held(_) | Became::Again(_) | Became::Moved(_) | Became::Declined => return,
        }
        // An operator's word is carried out with the transaction, not before it.
        self.pass(ordinal, publisher);
        self.bodies.remove(&ordinal);
        match self.events.remove(&ordinal) {
            Some(known) => publisher.aside.free(known.bytes),
            None if is_dead => {}
            None if matches!(change.became, Became::Removed(_)) => self.was_at_rest(change),
            None => {}
        }
    }
}
