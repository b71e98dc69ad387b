//! The patrol: looks from time to time for missed rows, and for scheduled ones that are due earlier by
//! now, beside a session.
//!
//! It is an alarm, and must not cost what it guards: each round reads the pages that are new since
//! the last one, and a part of the others in turn, never the whole table.

use std::collections::{BTreeSet, HashMap};

use tokio::sync::watch;
use tokio::time::sleep;

use super::board::float;
use super::monitor::Sight;
use super::preflight::Outbox;
use super::reconcile::{CANDIDATES_MAX, Reconciler};
use super::reschedule::Rescheduler;
use super::{ReconcileConfig, RelayConfig};
use crate::failure::chain;
use crate::lsn::Lsn;
use crate::metrics::Meters;
use crate::postgres::{Address, Error, Heap, OutboxTable, Server, Slot, SqlSession, TableName};

/// Older pages that are looked at in a round: 32 MiB.
const PAGES_IN_TURN: i64 = 4096;
/// Pages of one statement.
const PAGES_AT_ONCE: i64 = 4096;
/// Ids that a warning names.
const NAMED: usize = 5;

/// A patrol on its way.
pub(super) struct Patrol {
    beat: Beat,
    config: ReconcileConfig,
    /// None where nothing tells which rows are unsent.
    reconciler: Option<Reconciler>,
    /// None where no row is scheduled.
    rescheduler: Option<Rescheduler>,
    meters: Meters,
    parts: HashMap<u32, Part>,
    /// What it found missing so far, and is not known to be mended.
    missed: BTreeSet<String>,
}

/// A table that holds rows: the outbox, or one of its partitions.
#[derive(Debug, Default)]
struct Part {
    /// The condition on its rows.
    holds: String,
    pages: i64,
    /// The first page that is new.
    new_from: i64,
    /// The older page whose turn it is.
    turn: i64,
}

impl Part {
    /// The pages to read in this round, `in_turn` of them old ones, and where that leaves us.
    fn ranges(&mut self, in_turn: i64) -> Vec<(i64, i64)> {
        let mut ranges = Vec::new();
        self.new_from = self.new_from.min(self.pages);
        let turn = if self.turn < self.new_from { self.turn } else { 0 };
        self.turn = (turn + in_turn).min(self.new_from);
        let mut push = |mut from: i64, until: i64| {
            while from < until {
                let next = (from + PAGES_AT_ONCE).min(until);
                ranges.push((from, next));
                from = next;
            }
        };
        push(turn, self.turn);
        push(self.new_from, self.pages);
        // The last page can take more rows.
        self.new_from = (self.pages - 1).max(0);
        ranges
    }
}

/// Where a patrol goes.
#[derive(Clone)]
struct Beat {
    server: Server,
    address: Address,
    table: u32,
}

impl Beat {
    /// A session, and the table's name now.
    async fn session(&self) -> Result<(SqlSession, Option<TableName>), Error> {
        let session = SqlSession::open_at(&self.server, &self.address, "reconcile").await?;
        let name = OutboxTable::current_name(&session.client, self.table).await?;
        Ok((session, name))
    }

    async fn look_at_scheduled(&self, rescheduler: &mut Rescheduler) -> Result<(), Error> {
        let (session, name) = self.session().await?;
        name.iter().for_each(|name| rescheduler.follow(name));
        let (late, _) = rescheduler.look(&session.client).await?;
        rescheduler.ask(&session.client, &late).await
    }
}

/// The session has eyes of its own for what is wrong with the server.
fn tell(round: Result<(), Error>, could_not: &str) {
    if let Err(error) = round {
        tracing::warn!(error = chain(&error), "{could_not}");
    }
}

impl Patrol {
    /// None where there is nothing to patrol.
    pub(super) fn new(
        config: &RelayConfig,
        address: &Address,
        outbox: &Outbox,
        meters: &Meters,
    ) -> Option<Self> {
        let knows_unsent = outbox.status.mode.knows_unsent();
        let reconciler = knows_unsent.then(|| Reconciler::new(&outbox.unsent(config)));
        let rescheduler = Rescheduler::new(config, outbox);
        let is_idle = reconciler.is_none() && rescheduler.is_none();
        if config.reconcile.interval.is_zero() || is_idle {
            return None;
        }
        Some(Self {
            beat: Beat {
                server: config.server.clone(),
                address: address.clone(),
                table: outbox.table.oid,
            },
            config: config.reconcile,
            reconciler,
            rescheduler,
            meters: meters.clone(),
            parts: HashMap::new(),
            missed: BTreeSet::new(),
        })
    }

    /// Goes round until it is told to stop. Scheduled rows are looked at beside: a round for missed
    /// ones waits for what may yet be on its way, and theirs is a matter of time.
    pub(super) async fn go(mut self, mut sights: watch::Receiver<Sight>) {
        let rescheduler = self.rescheduler.take();
        let (beat, interval) = (self.beat.clone(), self.config.interval);
        let reschedules = async {
            let Some(mut rescheduler) = rescheduler else { return };
            loop {
                sleep(interval).await;
                tell(
                    beat.look_at_scheduled(&mut rescheduler).await,
                    "could not look at scheduled rows",
                );
            }
        };
        let reconciles = async {
            let Some(mut reconciler) = self.reconciler.take() else { return };
            loop {
                sleep(interval).await;
                let round = self.round(&mut reconciler, &mut sights).await;
                tell(round, "could not look for missed rows");
            }
        };
        tokio::join!(reschedules, reconciles);
    }

    async fn round(
        &mut self,
        reconciler: &mut Reconciler,
        sights: &mut watch::Receiver<Sight>,
    ) -> Result<(), Error> {
        let (session, name) = self.beat.session().await?;
        name.iter().for_each(|name| reconciler.follow(name));
        let candidates = self.candidates(reconciler, &session).await?;
        if candidates.is_empty() {
            self.meters.missed_events.set(0.0);
            return Ok(());
        }
        let place = Reconciler::place_behind(&session.client).await?;
        sleep(self.config.after).await;
        let is_past =
            |sight: &Sight| sight.slot.as_ref().map_or(Lsn::INVALID, Slot::confirmed) >= place;
        if sights.wait_for(is_past).await.is_err() {
            return Ok(());
        }
        let missed = reconciler.missed(&session.client, &candidates).await?;
        self.report(&missed);
        if self.config.heal && !missed.is_empty() {
            reconciler.heal(&session.client, &missed).await?;
        }
        Ok(())
    }

    fn report(&mut self, missed: &[String]) {
        self.meters.missed_events.set(float(missed.len() as u64));
        let new: Vec<_> = missed.iter().filter(|id| !self.missed.contains(*id)).collect();
        if !new.is_empty() {
            tracing::warn!(
                rows = new.len(),
                first = ?new.iter().take(NAMED).collect::<Vec<_>>(),
                heals = self.config.heal,
                "rows are unsent that the stream is past: `outboxd reconcile --heal` publishes them"
            );
        }
        self.missed = missed.iter().cloned().collect();
    }

    /// Unsent and unknown rows of this round's pages, and those that were missed before.
    async fn candidates(
        &mut self,
        reconciler: &Reconciler,
        session: &SqlSession,
    ) -> Result<Vec<String>, Error> {
        let client = &session.client;
        // A round that takes long is to be a gentle one, not a failure.
        client.batch_execute("SET statement_timeout = '5min'").await?;
        let is_first = self.parts.is_empty();
        let mut parts = HashMap::new();
        for heap in Heap::load(client, self.beat.table, None, "").await? {
            let (holds, pages) = (heap.holds(), heap.pages);
            let known = self.parts.remove(&heap.oid);
            // At first all of it is old; a partition that was added later is new.
            let new_from = if is_first { pages } else { 0 };
            let known = known.unwrap_or(Part { new_from, ..Part::default() });
            parts.insert(heap.oid, Part { holds, pages, ..known });
        }
        self.parts = parts;
        let in_turn = (PAGES_IN_TURN / i64::try_from(self.parts.len()).unwrap_or(1).max(1)).max(1);
        let mut found: Vec<_> = self.missed.iter().cloned().collect();
        for part in self.parts.values_mut() {
            for range in part.ranges(in_turn) {
                found.extend(reconciler.candidates_of(client, &part.holds, range).await?);
                if found.len() > CANDIDATES_MAX {
                    // Far behind, or much is missing: enough for one round.
                    return Ok(found);
                }
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_reads_what_is_new_and_a_part_of_what_is_old() {
        let mut part = Part { pages: 10, new_from: 10, ..Part::default() };
        assert_eq!(part.ranges(4), [(0, 4)]);
        part.pages = 12;
        assert_eq!(part.ranges(4), [(4, 8), (9, 12)]);
        assert_eq!(part.ranges(4), [(8, 11), (11, 12)]);
        assert_eq!(part.ranges(4), [(0, 4), (11, 12)], "and again from the first");
        part.pages = 5;
        assert_eq!(part.ranges(4), [(4, 5)], "a table that became smaller");
        part.pages = 0;
        assert_eq!(part.ranges(4), []);
        part.pages = 2 * PAGES_AT_ONCE + 1;
        assert_eq!(part.ranges(1).len(), 3);
    }
}
