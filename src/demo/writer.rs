//! The application: changes accounts and writes an event for every change, in one transaction.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_postgres::{Client, NoTls, Statement};

use super::proof::SharedLedger;
use crate::failure::{Code, Failure};
use crate::relay::fate_of;

/// Connections that write at once.
const CONNECTIONS: u64 = 8;
/// One transaction of so many is rolled back.
const ROLLED_BACK_OF: u32 = 10;
/// Writers wait while more events than these are on their way: the in-process broker forgets
/// what is not read for long.
const UNDER_WAY: u64 = 10_000;

/// The application's own table.
pub(super) const TABLE: &str =
    "CREATE TABLE public.account (id text PRIMARY KEY, version bigint NOT NULL DEFAULT 0)";
/// Its rows.
pub(super) const ACCOUNTS: &str =
    "INSERT INTO public.account (id) SELECT 'account-' || n FROM generate_series(1, $1::bigint) n";

/// Changes accounts `$1`, each `$2` times, with an event for each change. The lock that a change
/// takes puts the events of an account in the order of commits; taken in the order of ids, locks
/// do not end in a deadlock.
const CHANGE: &str = "\
    WITH locked AS (SELECT id FROM public.account WHERE id = ANY($1) ORDER BY id FOR UPDATE), \
    changed AS (UPDATE public.account a SET version = a.version + $2 FROM locked l \
                WHERE a.id = l.id RETURNING a.id, a.version) \
    INSERT INTO public.outbox (aggregate_type, aggregate_id, event_type, payload) \
    SELECT 'account', c.id, 'AccountChanged', \
           jsonb_build_object('version', c.version - $2 + n, 'note', repeat('x', 250)) \
    FROM changed c, generate_series(1, $2::bigint) n ORDER BY c.id, n \
    RETURNING id::text, aggregate_id";

/// Writers at work. They end with this value.
pub(super) struct Writers {
    stop: watch::Sender<bool>,
    tasks: JoinSet<Result<(), Failure>>,
}

impl Writers {
    /// Connects and starts to write `rate` events per second; 0 for as many as possible.
    pub(super) async fn start(
        url: &str,
        rate: u64,
        keys: u64,
        ledger: &SharedLedger,
    ) -> Result<Self, Failure> {
        let mut ready = Vec::new();
        for _ in 0..CONNECTIONS {
            let connected = tokio_postgres::connect(url, NoTls).await;
            let (client, connection) = connected.map_err(|error| failure(error, "connect"))?;
            // Its error is that of whatever uses the client.
            tokio::spawn(connection);
            let change = client.prepare(CHANGE).await;
            let change = change.map_err(|error| failure(error, "prepare to write"))?;
            ready.push((client, change));
        }
        let (stop, _) = watch::channel(false);
        let pace = Arc::new(Pace { rate, began: Instant::now(), events: AtomicU64::new(0) });
        let mut tasks = JoinSet::new();
        for (client, change) in ready {
            let (pace, ledger) = (Arc::clone(&pace), ledger.clone());
            let writer = Writer { client, change, keys, pace, ledger };
            tasks.spawn(writer.write(stop.subscribe()));
        }
        Ok(Self { stop, tasks })
    }

    /// Waits until one has failed. Cancel-safe.
    pub(super) async fn failed(&mut self) -> Failure {
        match self.tasks.join_next().await {
            Some(Ok(Err(failure))) => failure,
            _ => Failure::new(Code::Bug, "a writer ended before it was told to"),
        }
    }

    /// Lets each finish its transaction.
    pub(super) async fn stop(mut self) -> Result<(), Failure> {
        self.stop.send_replace(true);
        while let Some(ended) = self.tasks.join_next().await {
            ended.unwrap_or_else(|error| {
                Err(Failure::new(Code::Bug, format!("a writer: {error}")))
            })?;
        }
        Ok(())
    }
}

/// When the next transaction is due.
struct Pace {
    rate: u64,
    began: Instant,
    /// Given out so far.
    events: AtomicU64,
}

impl Pace {
    /// Waits until `events` more are due.
    async fn wait(&self, events: u64) {
        if self.rate > 0 {
            let before = self.events.fetch_add(events, Ordering::Relaxed);
            let nanos = u128::from(before) * 1_000_000_000 / u128::from(self.rate);
            let due = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
            sleep_until(self.began + due).await;
        }
    }
}

struct Writer {
    client: Client,
    change: Statement,
    keys: u64,
    pace: Arc<Pace>,
    ledger: SharedLedger,
}

impl Writer {
    async fn write(mut self, mut stop: watch::Receiver<bool>) -> Result<(), Failure> {
        loop {
            let accounts: Vec<_> = (0..fastrand::u64(1..=5))
                .map(|_| format!("account-{}", fastrand::u64(1..=self.keys)))
                .collect();
            let changes = fastrand::u32(1..=2);
            let rolls_back = fastrand::u32(..ROLLED_BACK_OF) == 0;
            let events = if rolls_back { 0 } else { accounts.len() as u64 * u64::from(changes) };
            let due = async {
                self.pace.wait(events).await;
                while self.ledger.lock().tally().under_way() > UNDER_WAY {
                    sleep(Duration::from_millis(1)).await;
                }
            };
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => return Ok(()),
                () = due => {}
            }
            let written = self.transaction(&accounts, i64::from(changes), rolls_back).await;
            written.map_err(|error| failure(error, "write"))?;
        }
    }

    async fn transaction(
        &mut self,
        accounts: &[String],
        changes: i64,
        rolls_back: bool,
    ) -> Result<(), tokio_postgres::Error> {
        let transaction = self.client.transaction().await?;
        let rows = transaction.query(&self.change, &[&accounts, &changes]).await?;
        if rolls_back {
            transaction.rollback().await?;
            self.ledger.lock().roll_back(rows.len() as u64);
            return Ok(());
        }
        // Before the commit: the event can arrive before the server's answer does.
        let now = std::time::Instant::now();
        {
            let mut ledger = self.ledger.lock();
            for row in &rows {
                ledger.commit(row.get(1), row.get(0), now);
            }
        }
        transaction.commit().await
    }
}

fn failure(error: tokio_postgres::Error, doing: &str) -> Failure {
    fate_of(&error.into(), doing).failure().clone()
}
