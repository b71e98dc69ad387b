//! The sink of one session, under the eyes of its witness.

use std::rc::Rc;

use super::witness::Witness;
use crate::ack::Seq;
use crate::sink::memory::MemorySink;
use crate::sink::{Record, Report, SendError, Sink, SinkError};

/// A sink that is watched.
pub(super) struct WatchedSink {
    pub(super) inner: MemorySink,
    pub(super) witness: Rc<Witness>,
}

impl Sink for WatchedSink {
    fn probe(&mut self) {
        self.inner.probe();
    }

    fn look_up(&mut self, topic: &str) {
        self.inner.look_up(topic);
    }

    fn send(&mut self, record: &Record<'_>, seq: Seq) -> Result<(), SendError> {
        let sent = self.inner.send(record, seq);
        if let Err(SendError::Refused(error)) = &sent {
            self.witness.is_refused(seq, record, error);
        }
        match &sent {
            Ok(()) => self.witness.hands_over(seq, record),
            Err(SendError::Full) => self.witness.world.tally(|tally| tally.full += 1),
            Err(SendError::Refused(SinkError::TooLarge { .. })) => {
                self.witness.world.tally(|tally| tally.too_large += 1);
            }
            Err(SendError::Refused(_)) => {
                self.witness.world.tally(|tally| tally.topics_away += 1);
            }
        }
        sent
    }

    fn take(&mut self, delivered: &mut Vec<Seq>, reports: &mut Vec<Report>) {
        let (before, known) = (delivered.len(), reports.len());
        self.inner.take(delivered, reports);
        self.witness.hears(&delivered[before..], &reports[known..]);
    }

    async fn reported(&self) {
        self.inner.reported().await;
    }

    async fn close(self) {
        self.inner.close().await;
    }
}
