//! The benchmark: how fast the relay drains a backlog, what that costs, and how soon a committed
//! event is acknowledged; each beside the server's or the broker's own ceiling in the same run.
//!
//! `dev/bench` builds it, gives it the services, and keeps the figures.

#![allow(
    missing_docs,
    dead_code,
    unreachable_pub,
    reason = "a program; it shares the tests' stage"
)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_possible_wrap,
    reason = "a measurement that fails has to stop"
)]

mod backlog;
mod latency;
mod sinks;
#[path = "../../tests/it/support/mod.rs"]
mod support;

use outboxd::demo::TempPostgres;
use outboxd::outbox::Format;
use support::broker::Broker;

/// What to measure.
pub struct Plan {
    pub events: u64,
    pub shapes: Vec<backlog::Shape>,
    pub modes: Vec<String>,
    pub formats: Vec<String>,
    pub per_key: Vec<u32>,
    pub rates: Vec<u64>,
    pub seconds: u64,
    pub sinks: Vec<String>,
}

fn main() {
    // Only `cargo bench` says `--bench`; `cargo test --all-targets` shall build this, not run it.
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if !arguments.iter().any(|argument| argument == "--bench") {
        return;
    }
    let option = |name: &str| {
        let flag = format!("--{name}=");
        arguments.iter().find_map(|argument| argument.strip_prefix(&flag).map(str::to_owned))
    };
    let number =
        |name: &str, usual: u64| option(name).map_or(usual, |text| text.parse().expect("a number"));
    let words = |name: &str, usual: &str| -> Vec<String> {
        let text = option(name).unwrap_or_else(|| usual.to_owned());
        text.split(',').filter(|word| !word.is_empty()).map(str::to_owned).collect()
    };
    let plan = Plan {
        events: number("events", 1_000_000),
        shapes: words("shapes", "1x10000,10x10000,100x10000,10x10,10x100,10x1000")
            .iter()
            .map(|shape| backlog::Shape::parse(shape))
            .collect(),
        modes: words("modes", "none,ledger,update,delete"),
        formats: words("formats", &Format::NAMES.join(",")),
        per_key: words("per-key", "1").iter().map(|count| count.parse().unwrap()).collect(),
        rates: words("rates", "1000,5000").iter().map(|rate| rate.parse().unwrap()).collect(),
        seconds: number("seconds", 30),
        sinks: words("sinks", "redis,nats"),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let document = runtime.block_on(measure(&plan));
    if let Some(path) = option("json") {
        std::fs::write(&path, serde_json::to_string_pretty(&document).unwrap()).unwrap();
        eprintln!("figures: {path}");
    }
}

async fn measure(plan: &Plan) -> serde_json::Value {
    let settings = [
        ("shared_buffers", "1GB"),
        ("max_wal_size", "32GB"),
        ("checkpoint_timeout", "1h"),
        ("max_replication_slots", "60"),
        ("autovacuum", "off"),
    ];
    let server = TempPostgres::start(&support::pg_bin(), &settings).unwrap();
    let broker = Broker::start(&[("log.retention.bytes", "-1")]).await;
    let kafka = broker.kafka();
    let mut drains = Vec::new();
    if !plan.shapes.is_empty() {
        backlog::print_head();
    }
    for shape in &plan.shapes {
        drains.extend(backlog::measure(plan, *shape, &server, &kafka).await);
    }
    let mut latencies = Vec::new();
    if !plan.rates.is_empty() {
        latency::print_head();
    }
    for rate in &plan.rates {
        latencies.extend(latency::measure(*rate, plan.seconds, &server, &kafka).await);
    }
    if !plan.sinks.is_empty() {
        backlog::print_head();
        drains.extend(sinks::measure(plan.events, &plan.sinks, &server).await);
    }
    serde_json::json!({ "events": plan.events, "backlog": drains, "latency": latencies })
}
