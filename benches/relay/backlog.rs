//! Draining a backlog: the same WAL for everybody, by copies of one slot.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use outboxd::demo::TempPostgres;
use serde_json::{Value, json};

use crate::Plan;
use crate::support::database::Database;
use crate::support::pg_bin;
use crate::support::records::Kafka;
use crate::support::relay::RelayOptions;
use crate::support::wait::until;

/// Rows per transaction, and keys in all.
#[derive(Clone, Copy)]
pub struct Shape {
    rows: u64,
    keys: u64,
}

impl Shape {
    /// The one that most is compared by.
    pub const USUAL: Self = Self { rows: 10, keys: 10_000 };

    pub fn parse(text: &str) -> Self {
        let (rows, keys) = text.split_once('x').expect("ROWSxKEYS");
        Self { rows: rows.parse().unwrap(), keys: keys.parse().unwrap() }
    }
}

pub const TOPIC: &str = "bench";
const LIMIT: Duration = Duration::from_secs(1800);

pub fn print_head() {
    println!(
        "\nBacklog: rows/tx, keys, contender, events/s, of the ceiling, CPU us/event, peak RSS MB"
    );
}

/// A backlog, the figures of whoever drained it, and what the server itself takes for that.
pub struct Backlog {
    database: Database,
    base: String,
    events: u64,
    shape: Shape,
    best: f64,
    drains: usize,
    figures: Vec<Value>,
}

impl Backlog {
    /// Writes it, and has the server send it to somebody who does nothing with it.
    pub async fn load(events: u64, shape: Shape, server: &TempPostgres) -> Self {
        let database = Database::new_at(&server.url("postgres"), "bench").await;
        let base = format!("{}_base", database.name);
        database
            .row("SELECT 1 FROM pg_create_logical_replication_slot($1, 'pgoutput')", &[&base])
            .await;
        load(&database, events, shape).await;
        let end: String = database.row("SELECT pg_current_wal_lsn()::text", &[]).await.get(0);
        let slot = copy(&database, &base, "ceiling").await;
        let took = ceiling(&database, &slot, &end);
        let best = events as f64 / took.as_secs_f64();
        let mut backlog =
            Self { database, base, events, shape, best, drains: 0, figures: Vec::new() };
        backlog.report("pg_recvlogical", best, None, None);
        backlog
    }

    /// Has a relay drain it, to the sink that `configure` says.
    pub async fn drain(
        &mut self,
        name: &str,
        configure: impl FnOnce(RelayOptions) -> RelayOptions,
    ) {
        self.drains += 1;
        let slot = copy(&self.database, &self.base, &self.drains.to_string()).await;
        let options = RelayOptions::of(&self.database)
            .set("relay.id", &slot)
            .set("postgres.slot", &slot)
            .set("outbox.start", "stream");
        let options = configure(options);
        let began = Instant::now();
        let relay = options.start();
        let processed = || async {
            let count = relay.metric("events_processed_total").await;
            (count >= self.events as f64).then_some(())
        };
        until("the backlog to be settled", LIMIT, processed).await;
        let took = began.elapsed();
        let (cpu, (_, peak)) = (relay.cpu(), relay.memory());
        let rate = self.events as f64 / took.as_secs_f64();
        let cost = cpu.as_secs_f64() * 1e6 / self.events as f64;
        self.report(&format!("outboxd, {name}"), rate, Some(cost), Some(peak));
        assert_eq!(relay.stop().await, 0);
    }

    /// A rate beside the server's own.
    pub fn report(&mut self, contender: &str, rate: f64, cost: Option<f64>, peak: Option<u64>) {
        report(&mut self.figures, self.shape, contender, rate, self.best, cost, peak);
    }

    /// Cleans up, and gives the figures.
    pub async fn end(self) -> Vec<Value> {
        let drop_slots = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots";
        self.database.execute(drop_slots).await;
        self.database.clear().await;
        self.figures
    }
}

pub async fn measure(
    plan: &Plan,
    shape: Shape,
    server: &TempPostgres,
    kafka: &Kafka,
) -> Vec<Value> {
    if !kafka.exists(TOPIC) {
        let small = [("retention.bytes", "100000000"), ("segment.bytes", "50000000")];
        kafka.create_topic(TOPIC, 6, &small).await;
    }
    let mut backlog = Backlog::load(plan.events, shape, server).await;
    for (name, settings) in contenders(plan, shape) {
        let configure = |options: RelayOptions| {
            let options = options.set("kafka.bootstrap_servers", &kafka.servers);
            settings.iter().fold(options, |options, (key, value)| options.set(key, value))
        };
        backlog.drain(&name, configure).await;
    }
    backlog.end().await
}

/// What is compared, and how each is configured.
fn contenders(plan: &Plan, shape: Shape) -> Vec<(String, Vec<(&'static str, String)>)> {
    let mut found = Vec::new();
    for mode in &plan.modes {
        for per_key in &plan.per_key {
            let name = match per_key {
                1 => mode.clone(),
                more => format!("{mode}, {more} per key"),
            };
            let per_key = ("kafka.max_in_flight_per_key", per_key.to_string());
            found.push((name, vec![("outbox.status.mode", mode.clone()), per_key]));
        }
    }
    // What a format costs is the same in every shape, and shows best without statuses.
    if (shape.rows, shape.keys) == (10, 10_000) {
        let none = ("outbox.status.mode", "none".to_owned());
        let as_format =
            |it: &String| (it.clone(), vec![none.clone(), ("envelope.format", it.clone())]);
        found.extend(plan.formats.iter().map(as_format));
    }
    found
}

fn report(
    figures: &mut Vec<Value>,
    shape: Shape,
    contender: &str,
    rate: f64,
    best: f64,
    cost: Option<f64>,
    peak: Option<u64>,
) {
    let cell = |number: Option<f64>| number.map_or("-".to_owned(), |number| format!("{number:.1}"));
    println!(
        "{:>5} {:>6}  {contender:<32} {:>8.0} {:>6.2} {:>6} {:>6}",
        shape.rows,
        shape.keys,
        rate,
        rate / best,
        cell(cost),
        cell(peak.map(|bytes| bytes as f64 / 1e6)),
    );
    figures.push(json!({
        "rows_per_transaction": shape.rows,
        "keys": shape.keys,
        "contender": contender,
        "events_per_second": rate,
        "of_ceiling": rate / best,
        "cpu_us_per_event": cost,
        "peak_rss_bytes": peak,
    }));
}

/// Writes the backlog: about 500 bytes a row.
async fn load(database: &Database, events: u64, shape: Shape) {
    let transactions = events / shape.rows;
    let sql = format!(
        "DO $load$ BEGIN \
            SET LOCAL synchronous_commit = off; \
            FOR t IN 0 .. {transactions} - 1 LOOP \
                INSERT INTO outbox (aggregate_type, aggregate_id, event_type, payload, topic) \
                SELECT 'order', 'order-' || (t::int8 * {rows} + n) * 7919 % {keys}, 'OrderCreated', \
                       jsonb_build_object('n', t::int8 * {rows} + n, 'total', 39.98, 'pad', repeat('x', 280)), \
                       '{TOPIC}' \
                FROM generate_series(1, {rows}) n; \
                COMMIT; SET LOCAL synchronous_commit = off; \
            END LOOP; END $load$",
        rows = shape.rows,
        keys = shape.keys,
    );
    database.execute(&sql).await;
    database.execute("VACUUM ANALYZE outbox").await;
    database.execute("CHECKPOINT").await;
}

async fn copy(database: &Database, base: &str, name: &str) -> String {
    let slot = format!("{}_{name}", database.name);
    let sql = "SELECT 1 FROM pg_copy_logical_replication_slot($1, $2)";
    database.row(sql, &[&base, &slot]).await;
    slot
}

/// How long the server needs to send it all to somebody who does nothing with it.
fn ceiling(database: &Database, slot: &str, end: &str) -> Duration {
    let program = pg_bin().join("pg_recvlogical");
    let mut command = Command::new(program);
    command.args(["--start", "--slot", slot, "--endpos", end, "-f", "/dev/null", "--no-loop"]);
    command.args(["-o", "proto_version=1", "-o", "publication_names=outboxd", "-d", &database.url]);
    let began = Instant::now();
    let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
    assert!(status.success(), "pg_recvlogical failed");
    began.elapsed()
}
