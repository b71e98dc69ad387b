//! The cleanup: removes what is sent and old, beside a session.
//!
//! It must not cost what it tidies. It reads a table in pieces of a few megabytes and remembers of each
//! when the next of its rows will be old, so a piece is read again only when there is something in it
//! to remove, without an index (docs/adr/0016). Each statement removes a batch and is a transaction of
//! its own, and after each it rests for three times as long as that took.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::RelayConfig;
use super::expired::{CONSTRAINT, Dropped, Expired};
use super::preflight::Outbox;
use super::removal::{Kept, Removal, Span};
use crate::failure::chain;
use crate::metrics::{Meters, count_error};
use crate::outbox::status::Mode;
use crate::postgres::{Address, Error, Heap, OutboxTable, Server, SqlSession};
use crate::status::is_a_rows_doing;

/// What is removed, and how gently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CleanupConfig {
    /// How long ago something was sent that may go.
    pub after: Duration,
    /// From one run to the next.
    pub interval: Duration,
    /// The most rows that one statement removes.
    pub batch: u32,
}

/// Pages of one piece: 8 MiB.
pub(super) const PAGES: i64 = 1024;
/// The first run does not wait for longer than this.
const FIRST_AFTER: Duration = Duration::from_mins(1);
/// Rests are so many times as long as what they follow.
const REST: u32 = 3;
/// A rest is no shorter.
const REST_MIN: Duration = Duration::from_millis(5);
/// Who has the table locked is not waited for, and others wait behind us no longer than this.
const LOCK_WAIT: Duration = Duration::from_millis(25);
/// What is old and cannot be removed is looked at again after this part of `cleanup.after`.
const STUCK: u32 = 16;

/// When the pieces of a heap are to be read.
#[derive(Debug, Default)]
struct Pieces(Vec<Instant>);

impl Pieces {
    /// What is new is to be read at once.
    fn resize(&mut self, pages: i64, now: Instant) {
        let count = (pages + PAGES - 1) / PAGES;
        self.0.resize(usize::try_from(count).unwrap_or(0), now);
    }

    /// Those that are due.
    fn due(&self, now: Instant) -> Vec<usize> {
        let due = self.0.iter().enumerate().filter(|(_, due)| **due <= now);
        due.map(|(piece, _)| piece).collect()
    }

    fn read(&mut self, piece: usize, next: Instant) {
        if let Some(due) = self.0.get_mut(piece) {
            *due = next;
        }
    }

    /// The pages of a piece.
    fn pages(piece: usize) -> (i64, i64) {
        let first = i64::try_from(piece).unwrap_or(i64::MAX / PAGES - 1) * PAGES;
        (first, first + PAGES)
    }
}

/// What a run has removed.
#[derive(Debug, Default)]
struct Removed {
    rows: u64,
    ledger: u64,
    audit: u64,
    partitions: u64,
    /// Pages with a row that somebody refuses to let go.
    refused: u64,
}

/// A cleanup on its way.
pub(super) struct Cleanup {
    server: Server,
    address: Address,
    table: u32,
    config: CleanupConfig,
    removal: Removal,
    mode: Mode,
    expired: Expired,
    pieces: HashMap<u32, Pieces>,
    meters: Meters,
}

impl Cleanup {
    /// None where nothing is to be cleaned.
    pub(super) fn new(
        config: &RelayConfig,
        address: &Address,
        outbox: &Outbox,
        epoch: i64,
        meters: &Meters,
    ) -> Option<Self> {
        let cleanup = config.cleanup?;
        let unsent = outbox.unsent(config);
        Some(Self {
            server: config.server.clone(),
            address: address.clone(),
            table: outbox.table.oid,
            config: cleanup,
            removal: Removal::new(&unsent, &outbox.status, epoch, cleanup.after),
            mode: outbox.status.mode,
            expired: Expired::default(),
            pieces: HashMap::new(),
            meters: meters.clone(),
        })
    }

    /// Cleans from time to time, until it is told to stop.
    pub(super) async fn go(mut self) {
        let mut wait = self.config.interval.min(FIRST_AFTER);
        loop {
            sleep(wait).await;
            wait = self.config.interval;
            let began = Instant::now();
            let mut removed = Removed::default();
            let done = self.run(&mut removed).await;
            let Removed { rows, ledger, audit, partitions, refused } = removed;
            let seconds = began.elapsed().as_secs_f64();
            match rows + ledger + audit + partitions {
                0 => tracing::debug!(seconds, "found nothing to clean up"),
                _ => tracing::info!(rows, ledger, audit, partitions, seconds, "cleaned up"),
            }
            if refused > 0 {
                count_error("cleanup", "refused");
                tracing::warn!(pages = refused, "rows refuse to be removed: they stay");
            }
            if let Err(error) = done {
                count_error("cleanup", "failed");
                let error = chain(&error);
                tracing::warn!(error, "could not clean up; the next run tries again");
            }
        }
    }

    async fn run(&mut self, removed: &mut Removed) -> Result<(), Error> {
        let session = SqlSession::open_at(&self.server, &self.address, "cleanup").await?;
        let client = &session.client;
        session.set_lock_timeout(LOCK_WAIT).await?;
        // What a crash undoes is removed again. A plan that was made while a table was small must not
        // read all of it later.
        let settings = "SET synchronous_commit = off; SET enable_seqscan = off";
        client.batch_execute(settings).await?;
        let Some(name) = OutboxTable::current_name(client, self.table).await? else {
            return Ok(());
        };
        self.removal.renamed(name);
        let oids = "SELECT 'outboxd.ledger'::regclass::oid, 'outboxd.audit'::regclass::oid";
        let row = client.query_one(oids, &[]).await?;
        let (ledger, audit): (u32, u32) = (row.get(0), row.get(1));

        let rows = self.heaps(&session, self.table).await?;
        let mut found = Vec::new();
        if self.mode == Mode::Update {
            let dropped = self.expired.drop_sent(client, &self.removal, &rows).await?;
            removed.partitions += self.count_partitions(&dropped);
            let stays = |heap: &&Heap| !dropped.heaps.contains(&heap.oid);
            found.extend(rows.iter().filter(stays).map(|heap| (Kept::Rows, heap.clone())));
        }
        found.extend(self.heaps(&session, ledger).await?.into_iter().map(|h| (Kept::Ledger, h)));
        found.extend(self.heaps(&session, audit).await?.into_iter().map(|h| (Kept::Audit, h)));
        self.pieces.retain(|oid, _| found.iter().any(|(_, heap)| heap.oid == *oid));
        for (kept, heap) in &found {
            let now = Instant::now();
            let pieces = self.pieces.entry(heap.oid).or_default();
            pieces.resize(heap.pages, now);
            for piece in pieces.due(now) {
                let wait = self.clean(&session, *kept, heap, piece, removed).await?;
                let next = Instant::now() + wait;
                self.pieces.entry(heap.oid).or_default().read(piece, next);
            }
        }
        if self.mode != Mode::Update {
            // The rows of these modes go by themselves; what is left is empty.
            let dropped = self.expired.drop_sent(client, &self.removal, &rows).await?;
            removed.partitions += self.count_partitions(&dropped);
        }
        Ok(())
    }

    async fn heaps(&self, session: &SqlSession, table: u32) -> Result<Vec<Heap>, Error> {
        let after = Some(self.config.after);
        Heap::load(&session.client, table, after, CONSTRAINT).await
    }

    fn count_partitions(&self, dropped: &Dropped) -> u64 {
        self.meters.cleaned_partitions.increment(dropped.count);
        dropped.count
    }

    /// Cleans a piece. Gives when it is to be read again.
    async fn clean(
        &self,
        session: &SqlSession,
        kept: Kept,
        heap: &Heap,
        piece: usize,
        removed: &mut Removed,
    ) -> Result<Duration, Error> {
        let (from, until) = Pieces::pages(piece);
        let look = self.removal.look(kept, heap, &Span::of(from, until));
        let row = gently(session.client.query_one(&look, &[])).await?;
        let (old, wait): (i64, Option<f64>) = (row.get(0), row.get(1));
        let after = self.config.after;
        let wait = match wait {
            // A row that is past its time and was not sent.
            Some(wait) if wait < 0.0 => after / STUCK,
            Some(wait) => Duration::try_from_secs_f64(wait).unwrap_or(after).min(after),
            None => after,
        };
        if old == 0 {
            return Ok(wait);
        }
        let mut gone = 0;
        let mut ranges = VecDeque::from([(from, until.min(heap.pages))]);
        while let Some((from, until)) = ranges.pop_front() {
            match self.clean_pages(session, kept, heap, (from, until), removed).await {
                Ok(count) => gone += count,
                // The halves without the row that refuses are not its prisoners.
                Err(error) if is_a_rows_doing(&error) && until - from > 1 => {
                    let middle = from + (until - from) / 2;
                    ranges.extend([(from, middle), (middle, until)]);
                }
                Err(error) if is_a_rows_doing(&error) => {
                    removed.refused += 1;
                    tracing::debug!(error = chain(&error), "a row refuses to be removed");
                }
                Err(error) => return Err(error),
            }
        }
        let is_stuck = gone < u64::try_from(old).unwrap_or(0);
        Ok(if is_stuck { wait.min(after / STUCK) } else { wait })
    }

    /// Removes what is old of some pages. Gives how much that was.
    async fn clean_pages(
        &self,
        session: &SqlSession,
        kept: Kept,
        heap: &Heap,
        (from, until): (i64, i64),
        removed: &mut Removed,
    ) -> Result<u64, Error> {
        let (mut span, mut gone) = (Span::of(from, until), 0);
        loop {
            let sql = self.removal.remove(kept, heap, &span, self.config.batch);
            let row = gently(session.client.query_one(&sql, &[])).await?;
            let count = |place| u64::try_from(row.get::<_, i64>(place)).unwrap_or(0);
            let (chosen, rows, others) = (count(0), count(1), count(2));
            removed.rows += rows;
            self.meters.cleaned_rows.increment(rows);
            match kept {
                Kept::Rows => gone += rows,
                Kept::Audit => {
                    gone += others;
                    removed.audit += others;
                    self.meters.cleaned_audit.increment(others);
                }
                Kept::Ledger => {
                    gone += others;
                    removed.ledger += others;
                    self.meters.cleaned_ledger.increment(others);
                }
            }
            match row.get::<_, Option<String>>(3) {
                Some(last) if chosen >= u64::from(self.config.batch) => span.after = last,
                _ => return Ok(gone),
            }
        }
    }
}

/// Runs a statement, and rests: of the server's time, others get the most.
pub(super) async fn gently<T>(
    work: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, Error> {
    let began = Instant::now();
    let done = work.await;
    sleep((began.elapsed() * REST).max(REST_MIN)).await;
    Ok(done?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_is_read_when_it_is_new_and_when_something_in_it_is_old() {
        let now = Instant::now();
        let later = now + Duration::from_secs(1);
        let mut pieces = Pieces::default();
        pieces.resize(2 * PAGES + 1, now);
        assert_eq!(pieces.due(now), [0, 1, 2]);
        for (piece, next) in [(0, later), (1, now), (2, later)] {
            pieces.read(piece, next);
        }
        assert_eq!(pieces.due(now), [1]);
        pieces.resize(4 * PAGES, now);
        assert_eq!(pieces.due(now), [1, 3], "what was added is new");
        assert_eq!(pieces.due(later), [0, 1, 2, 3]);
        pieces.resize(PAGES, later);
        assert_eq!(pieces.due(later), [0], "a table that became smaller");
        assert_eq!(Pieces::pages(2), (2 * PAGES, 3 * PAGES));
    }
}
