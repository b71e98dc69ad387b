//! Confirm: when PostgreSQL is told how far we are.
//!
//! It is told on a timer, because a walsender that hears nothing hangs up; soon after the watermark
//! has risen, so that it can forget; and at once when it asks. Never behind Kafka: nothing here
//! waits for anything.
//!
//! A slot that a standby of the server takes over with the server's place must not be ahead of what
//! the standby knows. There, a watermark is confirmed only when the stream, which such a server sends
//! no faster than its standbys receive, has passed the transaction that settled it.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::sync::watch;

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
    /// Where the slot can be taken over by a standby of the server.
    settlements: Option<Settlements>,
}

/// A watermark, and an LSN at or after the end of the transaction that settled what lies before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Settlement {
    pub(super) watermark: Lsn,
    pub(super) end: Lsn,
}

/// Watermarks wait here until the stream has passed the transactions that settled them.
#[derive(Debug)]
pub(super) struct Settlements {
    /// Watermarks whose settlement is to be found out.
    questions: watch::Sender<Lsn>,
    answers: watch::Receiver<Settlement>,
    waiting: VecDeque<Settlement>,
    passed: Lsn,
}

impl Settlements {
    pub(super) fn new(questions: watch::Sender<Lsn>, answers: watch::Receiver<Settlement>) -> Self {
        Self { questions, answers, waiting: VecDeque::new(), passed: Lsn::INVALID }
    }

    /// What of `watermark` may be confirmed where the stream was received up to `received`.
    fn passed(&mut self, watermark: Lsn, received: Lsn) -> Lsn {
        if self.answers.has_changed().unwrap_or(false) {
            self.waiting.push_back(*self.answers.borrow_and_update());
        }
        while let Some(settlement) = self.waiting.pop_front_if(|s| s.end <= received) {
            self.passed = self.passed.max(settlement.watermark);
        }
        // One question at a time: the next one is about all that was settled meanwhile.
        let answered = self.answers.borrow().watermark;
        if watermark > answered && *self.questions.borrow() == answered {
            self.questions.send_replace(watermark);
        }
        self.passed
    }
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
            settlements: None,
        }
    }

    /// Confirms nothing before the stream has passed its settlement.
    pub(super) fn wait_for(&mut self, settlements: Settlements) {
        self.settlements = Some(settlements);
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
        let watermark = match &mut self.settlements {
            Some(settlements) => settlements.passed(watermark, self.received),
            None => watermark,
        };
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
    fn a_slot_that_survives_waits_until_the_stream_has_passed_the_settlement() {
        let now = Instant::now();
        let (questions, asked) = watch::channel(Lsn::INVALID);
        let (answer, answers) = watch::channel(Settlement::default());
        let mut confirmer = Confirmer::new(None, now);
        confirmer.wait_for(Settlements::new(questions, answers));
        confirmer.received(lsn(5));
        let confirmed = |confirmer: &mut Confirmer, watermark| {
            confirmer.feedback(lsn(watermark), now, 0).confirmed
        };
        assert_eq!(confirmed(&mut confirmer, 5), Lsn::INVALID);
        assert_eq!(*asked.borrow(), lsn(5));
        // More is settled before the answer comes: it is asked about next.
        assert_eq!(confirmed(&mut confirmer, 6), Lsn::INVALID);
        assert_eq!(*asked.borrow(), lsn(5));
        answer.send_replace(Settlement { watermark: lsn(5), end: lsn(8) });
        assert_eq!(confirmed(&mut confirmer, 6), Lsn::INVALID);
        assert_eq!(*asked.borrow(), lsn(6));
        confirmer.received(lsn(7));
        assert_eq!(confirmed(&mut confirmer, 7), Lsn::INVALID);
        confirmer.received(lsn(8));
        assert_eq!(confirmed(&mut confirmer, 7), lsn(5));
        answer.send_replace(Settlement { watermark: lsn(6), end: lsn(8) });
        assert_eq!(confirmed(&mut confirmer, 7), lsn(6));
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
