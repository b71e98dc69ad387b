//! What the relay's thread and the sink's own give each other. One lock, held for moments; each side is
//! woken once for many.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::batch::{Batch, size};
use crate::ack::Seq;
use crate::sink::signal::Signal;
use crate::sink::{Record, Report};

/// Batches kept for the next ones.
const SPARE: usize = 64;

/// What can be asked.
#[derive(Debug)]
pub(super) enum Question {
    /// What a stream's key is. `taken` says how many of the reports that it refuses had been taken.
    Stream { stream: usize, name: String, taken: u64 },
    /// Whether anybody answers.
    Reachable,
}

/// Both directions.
#[derive(Debug)]
pub(super) struct Shared {
    content: Mutex<Content>,
    limits: (usize, u64),
    to_worker: Signal,
    pub(super) to_relay: Signal,
}

#[derive(Debug, Default)]
pub(super) struct Content {
    /// What was sent and not fetched yet, in order per stream.
    pub(super) batches: Vec<Batch>,
    /// Per stream, the batch above that takes more.
    open: Vec<Option<usize>>,
    spare: Vec<Batch>,
    pub(super) questions: Vec<Question>,
    pub(super) is_closing: bool,
    /// Whether less than a full batch could go at once.
    is_eager: bool,
    /// What was sent and not reported yet.
    events: usize,
    bytes: u64,
    pub(super) delivered: Vec<Seq>,
    pub(super) reports: Vec<Report>,
    /// How often a stream began to take no records, as far as these reports say.
    pub(super) refusals: u64,
}

impl Shared {
    pub(super) fn new(events: usize, bytes: u64) -> Self {
        Self {
            content: Mutex::default(),
            limits: (events, bytes),
            to_worker: Signal::default(),
            to_relay: Signal::default(),
        }
    }

    pub(super) fn content(&self) -> MutexGuard<'_, Content> {
        // Nothing is left half done under this lock.
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a record, if there is room; one larger than all the room goes alone.
    pub(super) fn push(&self, stream: usize, record: &Record<'_>, seq: Seq) -> bool {
        let size = size(record);
        let is_wanted = {
            let mut content = self.content();
            let (events, bytes) = self.limits;
            let is_full = content.events >= events || content.bytes + size as u64 > bytes;
            if is_full && content.events > 0 {
                return false;
            }
            let batch = content.batch(stream, size, record.alone);
            batch.push(record, seq);
            let is_full = batch.is_full();
            content.events += 1;
            content.bytes += size as u64;
            is_full || content.is_eager
        };
        if is_wanted {
            self.to_worker.give();
        }
        true
    }

    pub(super) fn ask(&self, question: Question) {
        self.content().questions.push(question);
        self.to_worker.give();
    }

    pub(super) fn close(&self) {
        self.content().is_closing = true;
        self.to_worker.give();
    }

    /// Fetches what was sent and asked. Whether to go on.
    pub(super) fn fetch(&self, batches: &mut Vec<Batch>, questions: &mut Vec<Question>) -> bool {
        self.to_worker.reset();
        let mut content = self.content();
        batches.append(&mut content.batches);
        content.open.fill(None);
        questions.append(&mut content.questions);
        !content.is_closing
    }

    /// Says whether less than a full batch could go at once. Whether there is some already.
    pub(super) fn is_eager(&self, is_eager: bool) -> bool {
        let mut content = self.content();
        content.is_eager = is_eager;
        is_eager && !content.batches.is_empty()
    }

    pub(super) async fn sent(&self) {
        self.to_worker.given().await;
    }

    /// The records of a batch are safe.
    pub(super) fn deliver(&self, batch: Batch) {
        let mut content = self.content();
        content.delivered.extend(batch.numbers());
        content.finish(batch);
    }

    /// A batch whose records went into another one.
    pub(super) fn keep(&self, batch: Batch) {
        let mut content = self.content();
        if content.spare.len() < SPARE {
            content.spare.push(batch);
        }
    }

    /// What became of the records of a batch, otherwise.
    pub(super) fn fail(&self, batch: Batch, reports: Vec<Report>) {
        let mut content = self.content();
        content.reports.extend(reports);
        content.finish(batch);
    }

    pub(super) fn report(&self, report: Report) {
        self.content().reports.push(report);
        self.to_relay.give();
    }
}

impl Content {
    fn batch(&mut self, stream: usize, size: usize, alone: bool) -> &mut Batch {
        if self.open.len() <= stream {
            self.open.resize(stream + 1, None);
        }
        let open = self.open.get(stream).copied().flatten();
        let open = open
            .filter(|at| self.batches.get(*at).is_some_and(|batch| batch.has_room(size, alone)));
        let at = open.unwrap_or_else(|| {
            let mut batch = self.spare.pop().unwrap_or_default();
            batch.stream = stream;
            self.batches.push(batch);
            self.batches.len() - 1
        });
        if let Some(open) = self.open.get_mut(stream) {
            *open = Some(at);
        }
        #[expect(clippy::indexing_slicing, reason = "found or made above")]
        &mut self.batches[at]
    }

    fn finish(&mut self, mut batch: Batch) {
        self.events = self.events.saturating_sub(batch.count());
        self.bytes = self.bytes.saturating_sub(batch.bytes() as u64);
        if self.spare.len() < SPARE && batch.clear() {
            self.spare.push(batch);
        }
    }
}
