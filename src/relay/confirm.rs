//! Confirm: when PostgreSQL is told how far we are.
//!
//! It is told on a timer, because a walsender that hears nothing hangs up; soon after the watermark
//! has risen, so that it can forget; and at once when it asks. Never behind Kafka: nothing here
//! waits for anything.

use std::time::Duration;

use tokio::time::Instant;

use crate::lsn::Lsn;
use crate::postgres::Feedback;

/// Feedback about a risen watermark is sent no more often than this.
const SOON: Duration = Duration::from_millis(100);
/// However patient the server is, it hears from us this often.
const INTERVAL_MAX: Duration = Duration::from_secs(10);

/// What was said, and when to say more.
#[derive(Debug)]
pub(super) struct Confirmer {
    interval: Duration,
    received: Lsn,
    confirmed: Lsn,
    sent_at: Instant,
    was_asked: bool,
}

impl Confirmer {
    /// For a server that hangs up after `sender_timeout` without a word.
    pub(super) fn new(sender_timeout: Option<Duration>, now: Instant) -> Self {
        let third = sender_timeout.map_or(INTERVAL_MAX, |timeout| timeout / 3);
        Self {
            interval: third.min(INTERVAL_MAX),
            received: Lsn::INVALID,
            confirmed: Lsn::INVALID,
            sent_at: now,
            was_asked: true,
        }
    }

    /// The stream was received up to `lsn`.
    pub(super) fn received(&mut self, lsn: Lsn) {
        self.received = self.received.max(lsn);
    }

    /// Up to where the stream was received over this connection.
    pub(super) fn received_until(&self) -> Lsn {
        self.received
    }

    /// The server wants to hear from us.
    pub(super) fn asked(&mut self) {
        self.was_asked = true;
    }

    /// When to send feedback, given what may be confirmed by now.
    pub(super) fn due(&self, watermark: Lsn) -> Instant {
        if self.was_asked {
            self.sent_at
        } else if watermark > self.confirmed {
            self.sent_at + SOON.min(self.interval)
        } else {
            self.sent_at + self.interval
        }
    }

    /// The feedback to send now. `time` is in microseconds since 2000-01-01.
    pub(super) fn feedback(&mut self, watermark: Lsn, now: Instant, time: i64) -> Feedback {
        // Only what came over this connection is ever confirmed, and never less than before.
        self.confirmed = self.confirmed.max(watermark);
        self.received = self.received.max(self.confirmed);
        self.sent_at = now;
        self.was_asked = false;
        Feedback { received: self.received, confirmed: self.confirmed, time }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lsn(value: u64) -> Lsn {
        Lsn::from_wire(value)
    }

    #[test]
    fn an_impatient_server_hears_three_times_as_often_as_it_needs() {
        let now = Instant::now();
        let mut confirmer = Confirmer::new(Some(Duration::from_secs(5)), now);
        confirmer.feedback(lsn(1), now, 0);
        assert!(confirmer.due(lsn(1)) - now <= Duration::from_secs(5) / 3);
        let mut patient = Confirmer::new(None, now);
        patient.feedback(lsn(1), now, 0);
        assert_eq!(patient.due(lsn(1)) - now, INTERVAL_MAX);
    }

    #[test]
    fn a_risen_watermark_is_told_soon_and_a_question_answered_at_once() {
        let now = Instant::now();
        let mut confirmer = Confirmer::new(None, now);
        confirmer.feedback(lsn(1), now, 0);
        assert_eq!(confirmer.due(lsn(2)) - now, SOON);
        confirmer.asked();
        assert_eq!(confirmer.due(lsn(1)), now);
    }

    #[test]
    fn feedback_never_goes_back() {
        let now = Instant::now();
        let mut confirmer = Confirmer::new(None, now);
        confirmer.received(lsn(9));
        let first = confirmer.feedback(lsn(5), now, 0);
        confirmer.received(lsn(3));
        let second = confirmer.feedback(lsn(4), now, 0);
        assert_eq!((first.received, first.confirmed), (lsn(9), lsn(5)));
        assert_eq!((second.received, second.confirmed), (lsn(9), lsn(5)));
    }
}
