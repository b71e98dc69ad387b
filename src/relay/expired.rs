//! Partitions whose time is over: dropped as a whole, where everything in them is sent.
//!
//! To look at every row takes long, and what was looked at could change behind our back; to keep it from
//! changing by a lock would keep the status writer waiting, because its statements touch every
//! partition. A constraint does it: added without looking, which takes a moment, it refuses whatever
//! is not sent from then on; validated, which stops nobody, it proves that nothing else is there. What
//! then has to be locked is dropped in a moment (docs/adr/0016).

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use tokio::time::sleep;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::cleanup::{PAGES, gently};
use super::removal::{Removal, Span};
use crate::postgres::{Error, Heap, quote_ident};

/// What keeps everything out of a partition that was not sent, for the time that it takes to look.
pub(super) const CONSTRAINT: &str = "outboxd_cleanup";
/// How often a lock is tried for that is not to be waited for.
const TRIES: u32 = 10;
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(200);

/// What is remembered from run to run.
#[derive(Debug, Default)]
pub(super) struct Expired {
    /// Of a partition, the first page of those with a row that keeps it.
    kept_by: HashMap<u32, i64>,
    /// Partitions that are not ours, of which that was said.
    told: BTreeSet<u32>,
}

/// What became of partitions.
#[derive(Debug, Default)]
pub(super) struct Dropped {
    /// How many were dropped.
    pub(super) count: u64,
    /// Those, and the ones that are to be dropped as soon as nobody uses them: their rows are not
    /// worth being deleted.
    pub(super) heaps: BTreeSet<u32>,
}

impl Expired {
    /// Drops those of the heaps that are over and whose rows are all sent and old.
    pub(super) async fn drop_sent(
        &mut self,
        client: &Client,
        removal: &Removal,
        heaps: &[Heap],
    ) -> Result<Dropped, Error> {
        let mut dropped = Dropped::default();
        for heap in heaps {
            if heap.is_marked && heap.is_ours {
                // Left behind by a relay that was cut off.
                unmark(client, heap).await?;
            }
            if !heap.is_over {
                continue;
            }
            if !heap.is_ours {
                if self.told.insert(heap.oid) {
                    tracing::warn!(
                        partition = %heap.name,
                        "a partition that is over belongs to another role, so it cannot be dropped: \
                         its rows are deleted; ALTER TABLE … OWNER TO the relay's role to change that"
                    );
                }
                continue;
            }
            if self.is_kept(client, removal, heap).await? {
                continue;
            }
            match drop_proven(client, removal, heap).await {
                Ok(true) => {
                    tracing::info!(partition = %heap.name, "dropped a partition: all of it was sent");
                    dropped.count += 1;
                    dropped.heaps.insert(heap.oid);
                }
                Ok(false) => {}
                Err(error) if is_in_use(&error) => {
                    tracing::debug!(partition = %heap.name, "a partition is in use");
                    dropped.heaps.insert(heap.oid);
                }
                Err(error) => {
                    // Whatever it was, the application must not run into the constraint.
                    unmark(client, heap).await?;
                    return Err(error);
                }
            }
        }
        Ok(dropped)
    }

    /// Whether a row keeps it. The page where one was found last is looked at first.
    async fn is_kept(
        &mut self,
        client: &Client,
        removal: &Removal,
        heap: &Heap,
    ) -> Result<bool, Error> {
        let known = self.kept_by.get(&heap.oid).copied();
        let all = (0..heap.pages).step_by(usize::try_from(PAGES).unwrap_or(1));
        for from in known.into_iter().chain(all) {
            let sql = removal.other_rows(heap, &Span::of(from, from + PAGES));
            if gently(client.query_one(&sql, &[])).await?.get(0) {
                self.kept_by.insert(heap.oid, from);
                return Ok(true);
            }
        }
        self.kept_by.remove(&heap.oid);
        Ok(false)
    }
}

/// Proves that every row is sent and old, and drops the partition. Whether it did.
async fn drop_proven(client: &Client, removal: &Removal, heap: &Heap) -> Result<bool, Error> {
    let (name, constraint) = (&heap.name, quote_ident(CONSTRAINT));
    let limit: String = client.query_one(&removal.limit(), &[]).await?.get(0);
    let check = removal.constraint(&limit);
    let mark = format!("ALTER TABLE {name} ADD CONSTRAINT {constraint} CHECK ({check}) NOT VALID");
    in_a_moment(client, &mark).await?;
    client.batch_execute("SET statement_timeout = 0").await?;
    let validate = format!("ALTER TABLE {name} VALIDATE CONSTRAINT {constraint}");
    let proof = client.batch_execute(&validate).await.map_err(Error::from);
    client.batch_execute("RESET statement_timeout").await?;
    let dropped = match proof {
        Ok(()) => in_a_moment(client, &removal.drop(heap, CONSTRAINT)).await,
        Err(error) => Err(error),
    };
    match dropped {
        Ok(()) => Ok(true),
        Err(error) => {
            unmark(client, heap).await?;
            // A row came meanwhile that keeps it.
            let is_refuted = error.sqlstate() == Some(&SqlState::CHECK_VIOLATION);
            if is_refuted { Ok(false) } else { Err(error) }
        }
    }
}

/// Takes the constraint away, if there is one.
async fn unmark(client: &Client, heap: &Heap) -> Result<(), Error> {
    let (name, constraint) = (&heap.name, quote_ident(CONSTRAINT));
    let sql = format!("ALTER TABLE IF EXISTS {name} DROP CONSTRAINT IF EXISTS {constraint}");
    match in_a_moment(client, &sql).await {
        // The next run does it.
        Err(error) if is_in_use(&error) => Ok(()),
        done => done,
    }
}

/// Runs a statement that needs a lock which nobody may have to wait for: it is tried often, and gives
/// up each time at once.
async fn in_a_moment(client: &Client, sql: &str) -> Result<(), Error> {
    let mut tries = 1;
    loop {
        match client.batch_execute(sql).await.map_err(Error::from) {
            Err(error) if is_in_use(&error) && tries < TRIES => tries += 1,
            done => return done,
        }
        sleep(PAUSE).await;
    }
}

fn is_in_use(error: &Error) -> bool {
    error.sqlstate() == Some(&SqlState::LOCK_NOT_AVAILABLE)
}
