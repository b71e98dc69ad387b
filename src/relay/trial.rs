//! What follows from a failed attempt: another one after a while, or none.

use std::time::Duration;

use crate::ack::Moment;
use crate::failure::Failure;
use crate::retry::Backoff;
use crate::status::{Hold, Reason};

/// How often an event is tried, and what then.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RetryConfig {
    /// How often, the first attempt included, where the row does not say.
    pub max_attempts: u32,
    /// How long to wait in between.
    pub backoff: Backoff,
    /// What becomes of an event that has no attempt left.
    pub on_exhausted: OnExhausted,
}

/// What becomes of an event that has no attempt left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnExhausted {
    /// It goes to the dead-letter topic, and its key goes on.
    DeadLetter,
    /// Its key waits for an operator.
    Block,
}

impl RetryConfig {
    /// Where an event stands after its `attempts`th attempt has failed. `row_says` is the row's
    /// own number of attempts; `dice` is from 0 to 1.
    pub(super) fn failed(
        &self,
        attempts: u32,
        row_says: Option<u32>,
        error: Failure,
        now: Moment,
        dice: f64,
    ) -> Hold {
        let most = row_says.filter(|most| *most > 0).unwrap_or(self.max_attempts);
        if attempts >= most {
            return self.hopeless(attempts, error, now);
        }
        let due = Some(now.saturating_add(micros(self.backoff.wait(attempts, dice))));
        Hold { reason: Reason::Retry, attempts, exhausted: false, due, error: Some(error) }
    }

    /// Where an event stands that no attempt could help.
    pub(super) fn hopeless(&self, attempts: u32, error: Failure, now: Moment) -> Hold {
        let due = match self.on_exhausted {
            OnExhausted::DeadLetter => Some(now),
            OnExhausted::Block => None,
        };
        Hold { reason: Reason::Retry, attempts, exhausted: true, due, error: Some(error) }
    }
}

/// A duration in microseconds.
pub(super) fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Code;

    const RETRY: RetryConfig = RetryConfig {
        max_attempts: 3,
        backoff: Backoff::new(Duration::from_secs(1), Duration::from_mins(1), 0.0),
        on_exhausted: OnExhausted::DeadLetter,
    };

    fn failed(retry: RetryConfig, attempts: u32, row_says: Option<u32>) -> Hold {
        retry.failed(attempts, row_says, Failure::new(Code::EventTooLarge, "x"), 100, 0.5)
    }

    #[test]
    fn tries_are_counted_from_the_first_and_the_wait_doubles() {
        let waits = [1, 2].map(|attempts| failed(RETRY, attempts, None).due.unwrap() - 100);
        assert_eq!(waits, [1_000_000, 2_000_000]);
        let last = failed(RETRY, 3, None);
        assert!(last.exhausted);
        assert_eq!(last.due, Some(100), "the dead letter goes at once");
    }

    #[test]
    fn the_row_says_how_often_and_an_operator_when_blocked() {
        assert!(failed(RETRY, 1, Some(1)).exhausted);
        assert!(!failed(RETRY, 3, Some(4)).exhausted);
        assert!(!failed(RETRY, 1, Some(0)).exhausted, "none is no number of attempts");
        let blocks = RetryConfig { on_exhausted: OnExhausted::Block, ..RETRY };
        assert_eq!(failed(blocks, 3, None).due, None);
    }
}
