//! How a sink's thread and the relay's wake each other: once for all that has come since.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

/// Wakes the other side, once per round: waking is dearer than what it is told.
#[derive(Debug, Default)]
pub(super) struct Signal {
    is_given: AtomicBool,
    notify: Notify,
}

impl Signal {
    /// There is something to take.
    pub(super) fn give(&self) {
        if !self.is_given.swap(true, Ordering::AcqRel) {
            self.notify.notify_one();
        }
    }

    /// To be called before the content is looked at: what comes after it wakes again.
    pub(super) fn reset(&self) {
        self.is_given.store(false, Ordering::Release);
    }

    /// Waits until it is given; also if it was before the wait began. Cancel-safe.
    pub(super) async fn given(&self) {
        self.notify.notified().await;
    }
}
