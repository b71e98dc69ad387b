//! The session loop under a clock that only the waiting turns: thousands of histories, each from a
//! seed, each with a database, a relay that is stopped, killed, cut off and replaced, and Kafka.
//!
//! `script` writes the database, into the `outbox`, and `swept` says what a sweep has left of it;
//! `wal`, `store` (with the held events of `table`) and [`crate::sink::memory`] are the three edges of
//! a session, and misbehave; `witness` watches what a session does at them, with `deliveries` and
//! `books`; `world` keeps what outlives it, in a `state`; `setting` and `mishap` say what goes wrong,
//! `people` what operators and applications do meanwhile; and `history` runs session after session,
//! as `relay::run` does, until `rest`. The promises are those of `ack/model`, checked here on the
//! loop itself:
//!
//! - nothing is lost, invented or altered, and first copies are in order per key and topic: before one
//!   goes, those before it are in Kafka, or their dead letters are, or an operator has given them up;
//! - an event is SENT, held or given up if and only if it lies at or before the stored position, and
//!   SENT only when its session has heard the acknowledgement;
//! - what is held goes as it was stored, when it is due, in the order of its key; an attempt counts
//!   only when the event was refused alone, and who has none left goes to its dead-letter topic, with
//!   what is to be said of it, or waits for an operator;
//! - what is scheduled is what its row says when it is due, never early, and not if it was cancelled;
//! - what operators ask for is done if it applies, and is durable before anything follows from it;
//! - no more is held than may be; who finds no room waits, and the board says so;
//! - nothing is confirmed that is not settled, or that this stream did not bring;
//! - a copy comes twice only after a fault, never more than a window of them, and never after a
//!   stop that drained, which every stop does that has time, and room for what has to be held;
//! - a relay that lost its place writes nothing and ends;
//! - open events and bytes stay within the window, and the server is never left without a word;
//! - what waits for ever is the key of a bad event or a bad topic, and nothing else;
//! - every session ends for a reason that it was given, at once, and every history comes to rest.

mod books;
mod deliveries;
mod history;
mod mishap;
mod outbox;
mod people;
mod rest;
mod script;
mod setting;
mod sink;
mod state;
mod store;
mod swept;
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
