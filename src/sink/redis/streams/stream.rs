//! A stream's records on their way: what was sent, what waits, and what the next call follows.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::batch::Batch;
use super::script::Keys;
use crate::retry::Backoff;
use crate::sink::SinkError;

/// The waits after something that passes.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(1), 0.0);

/// A stream, from the first look at it on.
pub(super) struct Stream {
    pub(super) keys: Keys,
    /// Its slot in a cluster.
    pub(super) slot: u16,
    /// The node that has it; none while that is not known.
    pub(super) node: Option<usize>,
    /// What is not known to be safe, in order.
    queue: VecDeque<Batch>,
    /// How many of these are under way.
    sent: usize,
    /// What the next call follows; none if a chain has to begin.
    pub(super) chain: Option<String>,
    /// Counts chains: what comes of an earlier one is nobody's business.
    pub(super) attempt: u64,
    /// When it goes on, after something that passes.
    pub(super) retry_at: Option<Instant>,
    failures: u32,
    /// Whether it stands in its node's line.
    pub(super) is_in_line: bool,
    pub(super) refusing: Option<Refusing>,
}

/// A stream takes no records, until it was looked at after the relay had heard of that.
pub(super) struct Refusing {
    pub(super) error: SinkError,
    /// The number of this report among those of its kind.
    pub(super) number: u64,
    pub(super) since: Instant,
}

impl Stream {
    pub(super) fn new(keys: Keys, slot: u16) -> Self {
        Self {
            keys,
            slot,
            node: None,
            queue: VecDeque::new(),
            sent: 0,
            chain: None,
            attempt: 0,
            retry_at: None,
            failures: 0,
            is_in_line: false,
            refusing: None,
        }
    }

    /// Takes a batch in, behind what waits. Gives back the memory of one that was small.
    pub(super) fn push(&mut self, mut batch: Batch) -> Option<Batch> {
        if self.sent < self.queue.len()
            && let Some(last) = self.queue.back_mut()
            && last.takes(&batch)
        {
            last.append(&batch);
            batch.clear();
            return Some(batch);
        }
        self.queue.push_back(batch);
        None
    }

    /// Whether something waits.
    pub(super) fn has_unsent(&self) -> bool {
        self.sent < self.queue.len()
    }

    /// Whether it goes now.
    pub(super) fn is_ready(&self) -> bool {
        self.has_unsent() && self.retry_at.is_none()
    }

    /// Whether what waits is worth a call at once.
    pub(super) fn is_full(&self) -> bool {
        self.queue.get(self.sent).is_some_and(Batch::is_full)
    }

    /// The next batch that goes; it counts as sent.
    pub(super) fn send_next(&mut self) -> Option<&Batch> {
        let next = self.queue.get(self.sent)?;
        self.sent += 1;
        Some(next)
    }

    /// The oldest batch that is under way.
    pub(super) fn oldest_sent(&self) -> Option<&Batch> {
        self.queue.front().filter(|_| self.sent > 0)
    }

    /// The oldest batch is safe, or not wanted any more.
    pub(super) fn take_oldest(&mut self) -> Option<Batch> {
        self.sent = self.sent.checked_sub(1)?;
        self.queue.pop_front()
    }

    /// All batches, which nobody wants any more.
    pub(super) fn take_all(&mut self) -> VecDeque<Batch> {
        self.start_over();
        std::mem::take(&mut self.queue)
    }

    /// What is not known to be safe goes again, from the oldest on.
    pub(super) fn start_over(&mut self) {
        self.sent = 0;
        self.chain = None;
        self.attempt += 1;
    }

    /// The same, after a while.
    pub(super) fn rest(&mut self, now: Instant) {
        self.start_over();
        self.retry_at = Some(now + backoff(self.failures));
        self.failures = self.failures.saturating_add(1);
    }

    /// It gets on.
    pub(super) fn succeeded(&mut self) {
        self.failures = 0;
        self.retry_at = None;
    }
}

/// How long to wait after another failure, and so many before it.
pub(super) fn backoff(failures: u32) -> Duration {
    BACKOFF.wait(failures.saturating_add(1), 0.5)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::{EventRef, Parcel};

    fn batch(seq: u64) -> Batch {
        let mut batch = Batch::default();
        batch.push(&Parcel::default().record(EventRef::default(), "s", false), seq);
        batch
    }

    #[test]
    fn small_batches_wait_as_one_and_what_is_under_way_stays_as_it_is() {
        let mut stream = Stream::new(Keys::of("s", "r"), 0);
        assert!(stream.push(batch(1)).is_none());
        assert!(stream.push(batch(2)).is_some());
        assert_eq!(stream.send_next().unwrap().numbers().collect::<Vec<_>>(), [1, 2]);
        assert!(stream.push(batch(3)).is_none());
        stream.start_over();
        assert_eq!(stream.send_next().unwrap().count(), 2);
        assert_eq!(stream.send_next().unwrap().count(), 1);
        assert!(stream.send_next().is_none() && !stream.has_unsent());
        assert_eq!(stream.take_oldest().unwrap().count(), 2);
        assert_eq!(stream.oldest_sent().unwrap().count(), 1);
        assert_eq!(stream.take_all().len(), 1);
        assert!(!stream.has_unsent() && stream.take_oldest().is_none());
    }

    #[test]
    fn waits_grow_and_end() {
        assert_eq!(backoff(0), Duration::from_millis(20));
        assert_eq!(backoff(1), Duration::from_millis(40));
        assert_eq!(backoff(u32::MAX), Duration::from_secs(1));
    }
}
