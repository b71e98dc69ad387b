//! Confirmable: up to where the slot may be confirmed is durable before it is confirmed. Who finds
//! the slot further on knows that somebody else has moved it, and that rows were left out.
//!
//! Settling writes it along with the position. Where the outbox is idle and the database is not, it
//! is written by itself: not often, and with what writing it adds to the WAL, because an idle database
//! would else never be idle.

use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

use crate::lsn::Lsn;
use crate::status::{StatusStore, StoreError};

/// By itself it is written no more often than this.
const EVERY: Duration = Duration::from_secs(5);
/// What writing it adds to the WAL, and what the server notes about running transactions after it.
const OWN_BYTES: u64 = 512;

type Work = Pin<Box<dyn Future<Output = Result<bool, StoreError>>>>;

/// What is durable of it, and the writing of more.
#[derive(Default)]
pub(super) struct Confirmable {
    durable: Lsn,
    /// When it may be written by itself again.
    next: Option<Instant>,
    due: Option<Instant>,
    running: Option<(Lsn, Work)>,
}

impl Confirmable {
    /// Up to here the slot may be confirmed.
    pub(super) fn durable(&self) -> Lsn {
        self.durable
    }

    /// It was written along with a position.
    pub(super) fn settled(&mut self, lsn: Lsn) {
        self.durable = self.durable.max(lsn);
    }

    /// Starts to write it if the `watermark` is above it; `at_once`, if nothing comes after it.
    pub(super) fn start<T: StatusStore + 'static>(
        &mut self,
        store: &Rc<T>,
        watermark: Lsn,
        now: Instant,
        at_once: bool,
    ) {
        self.due = None;
        if watermark <= self.durable {
            return;
        }
        if let Some(next) = self.next.filter(|next| now < *next && !at_once) {
            self.due = Some(next);
            return;
        }
        self.next = Some(now + EVERY);
        let more = if at_once { 0 } else { OWN_BYTES };
        let lsn = Lsn::from_wire(watermark.to_wire().saturating_add(more));
        let store = Rc::clone(store);
        self.running = Some((lsn, Box::pin(async move { store.allow_confirming(lsn).await })));
    }

    /// When [`Confirmable::start`] has something to do that nothing else announces.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.due
    }

    /// Whether it is being written.
    pub(super) fn is_busy(&self) -> bool {
        self.running.is_some()
    }

    /// Waits for what is under way; for ever if nothing is. Cancel-safe.
    pub(super) async fn finished(&mut self) -> Result<bool, StoreError> {
        match &mut self.running {
            Some((_, work)) => work.as_mut().await,
            None => std::future::pending().await,
        }
    }

    /// Takes in what [`Confirmable::finished`] gave: whether it was written.
    pub(super) fn complete(&mut self, is_written: bool) {
        if let Some((lsn, _)) = self.running.take().filter(|_| is_written) {
            self.settled(lsn);
        }
    }
}
