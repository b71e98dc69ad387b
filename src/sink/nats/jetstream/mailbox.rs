//! What the connection's thread has to say becomes what the relay takes in, on its own.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::message::Outgoing;
use super::{Report, SinkError};
use crate::ack::Seq;
use crate::sink::signal::Signal;

/// Reports from the connection's thread to the relay's, and how much is under way between them.
#[derive(Debug, Default)]
pub(super) struct Mailbox {
    content: Mutex<Content>,
    signal: Signal,
    events: AtomicUsize,
    bytes: AtomicU64,
}

#[derive(Debug, Default)]
struct Content {
    delivered: Vec<Seq>,
    reports: Vec<Report>,
}

impl Mailbox {
    fn content(&self) -> MutexGuard<'_, Content> {
        // Nothing is left half done under this lock.
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Messages and bytes that are under way.
    pub(super) fn under_way(&self) -> (usize, u64) {
        (self.events.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed))
    }

    /// A message starts on its way.
    pub(super) fn starts(&self, bytes: usize) {
        self.events.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// As many messages are not under way any more.
    pub(super) fn ended(&self, events: usize, bytes: u64) {
        self.events.fetch_sub(events, Ordering::Relaxed);
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// These are safe.
    pub(super) fn deliver(&self, delivered: &mut Vec<Seq>) {
        self.content().delivered.append(delivered);
        self.signal.give();
    }

    /// The message was not delivered; it goes back.
    pub(super) fn fail(&self, message: Outgoing, error: SinkError) {
        self.ended(1, message.bytes() as u64);
        let (seq, parcel) = message.into_parcel();
        self.report(Report::Failed { seq, error, parcel });
    }

    pub(super) fn report(&self, report: Report) {
        self.content().reports.push(report);
        self.signal.give();
    }

    pub(super) fn take(&self, delivered: &mut Vec<Seq>, reports: &mut Vec<Report>) {
        self.signal.reset();
        let mut content = self.content();
        delivered.append(&mut content.delivered);
        reports.append(&mut content.reports);
    }

    pub(super) async fn reported(&self) {
        self.signal.given().await;
    }
}
