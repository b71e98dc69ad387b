//! The session loop under a clock that only the waiting turns: thousands of histories, each from a
//! seed, each with a database, a relay that is stopped, killed, cut off and replaced, and Kafka.
//!
//! `script` writes the database; `wal`, `store` and [`crate::sink::memory`] are the three edges of a
//! session, and misbehave; `witness` watches what a session does at them; `world` keeps what
//! outlives it, `mishap` says what goes wrong, and `history` runs session after session, as
//! `relay::run` does. The promises are those of `ack/model.rs`, checked here on the loop itself:
//!
//! - nothing is lost, invented or altered, and first copies are in order per key and topic;
//! - a record is SENT only when its session has heard the acknowledgement, in runs without a gap;
//! - nothing is confirmed that is not SENT, or that this stream did not bring;
//! - a copy comes twice only after a fault, never more than a window of them, and never after a
//!   stop that drained;
//! - a relay that lost its place writes nothing and ends;
//! - open events and bytes stay within the window, and the server is never left without a word;
//! - what waits for ever is the bad event or topic alone, and the board says so;
//! - every session ends for a reason that it was given, at once, and every history comes to an end.

mod books;
mod deliveries;
mod history;
mod mishap;
mod people;
mod rest;
mod script;
mod setting;
mod sink;
mod state;
mod store;
mod table;
mod tally;
mod wal;
mod witness;
mod world;

use tokio::time::Instant;
use tracing_subscriber::fmt::format::Writer;

use history::run;
use tally::Tally;

/// How many histories a test run is.
const HISTORIES: u64 = 5_000;

/// `OUTBOXD_SEED` runs one history alone and shows it (with `--nocapture`); `OUTBOXD_HISTORIES`
/// runs another number of them.
#[test]
fn promises_hold_over_sessions_with_faults() {
    let number = |name| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    if let Some(seed) = number("OUTBOXD_SEED") {
        show_log();
        println!("{:#?}", run(seed));
        return;
    }
    let histories = number("OUTBOXD_HISTORIES").unwrap_or(HISTORIES);
    let mut total = Tally::default();
    for seed in 0..histories {
        match std::panic::catch_unwind(|| run(seed)) {
            Ok((tally, _)) => total.add(&tally),
            Err(_) => panic!(
                "the history of seed {seed} broke a promise; see above. OUTBOXD_SEED={seed} \
                 runs it alone"
            ),
        }
    }
    println!("{total:#?}");
    if histories < HISTORIES {
        return;
    }
    assert!(total.missing().is_empty(), "never happened: {:?}", total.missing());
}

/// What the relay logs, with the history's own time.
fn show_log() {
    let time = |out: &mut Writer<'_>| {
        thread_local! {
            static BEGAN: Instant = Instant::now();
        }
        write!(out, "{:>7} ms", BEGAN.with(Instant::elapsed).as_millis())
    };
    let log = tracing_subscriber::fmt().with_max_level(tracing::Level::DEBUG);
    log.with_timer::<fn(&mut Writer<'_>) -> std::fmt::Result>(time).with_test_writer().init();
}

#[test]
fn a_seed_is_one_history() {
    for seed in 0..40 {
        assert_eq!(run(seed), run(seed), "seed {seed}");
    }
}
