//! `outboxd status --watch` and `--exit-when-ready`: on a terminal, and read by another program.

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::free_port;
use crate::support::relay::RelayOptions;
use crate::support::small::Small;
use crate::support::terminal::Watched;
use crate::support::wait::{SOON, eventually};

async fn small_at_a_port(name: &str) -> (Small, RelayOptions) {
    let small = Small::new(name).await;
    let options = small.options().set("admin.listen", &format!("127.0.0.1:{}", free_port()));
    (small, options)
}

/// How often `text` stands there.
fn times(text: &str, screen: &str) -> usize {
    screen.matches(text).count()
}

#[tokio::test]
async fn a_terminal_is_redrawn_in_place_and_left_clean() {
    let (small, options) = small_at_a_port("watched").await;
    let mut relay = options.start_ready().await;
    let watch = ["status", "--watch", "--interval", "0.2"];
    let mut watched = Watched::new(options.on_terminal(&watch));
    watched.shows("state      streaming").await;
    for n in 0..50 {
        small.emit("k", n).await;
    }
    small.wait_for_sent(50).await;
    eventually("rates and latency on the screen", SOON, || async {
        let screen = watched.screen();
        let row = |name: &str| screen.lines().find(|line| line.starts_with(name)).unwrap_or("");
        ["→ decode", "→ in flight", "→ status"].iter().all(|stage| {
            let rate = row(stage).split("/s").next().unwrap_or("").split_whitespace().last();
            rate.is_some_and(|rate| rate.parse().unwrap_or(0) > 0)
        }) && row("latency").contains(" ms, p99 ")
    })
    .await;
    watched.shows("in flight 0 events, 0 B").await;
    watched.shows(&format!("slot       {}: read, WAL reserved, ", small.database.name)).await;
    let screen = watched.screen();
    for row in ["relay  ", "state  ", "WAL  ", "→ decode ", "→ confirmed ", "held  ", "slot  "]
    {
        assert_eq!(times(&format!("\n{row}"), &format!("\n{screen}")), 1, "{row} in\n{screen}");
    }
    assert!(screen.lines().all(|line| line.chars().count() <= 80), "{screen}");

    // It goes away, and comes back.
    relay.signal(Signal::SIGTERM);
    relay.wait().await;
    watched.shows("state      stopped").await;
    let relay = options.start_ready().await;
    watched.shows("state      streaming").await;
    watched.press_ctrl_c();
    assert_eq!(watched.ended().await.0, 0);
    let screen = watched.screen();
    assert!(!screen.contains("^C") && screen.ends_with('\n'), "{screen:?}");
    assert_eq!(times("state  ", &screen), 1, "what was seen last stays\n{screen}");
    assert_eq!(relay.stop().await, 0);
    small.clear().await;
}

#[tokio::test]
async fn a_program_reads_a_document_per_line_while_the_relay_comes_and_goes() {
    let (small, options) = small_at_a_port("lines").await;
    let watch = ["status", "--watch", "-o", "json", "--interval", "100ms"];
    let mut watched = Watched::new(options.piped(&watch));
    let has = async |what: &str, holds: &dyn Fn(&Value) -> bool| {
        let from = watched.lines().len();
        eventually(what, SOON, || async {
            let documents = watched.lines().into_iter().skip(from);
            let documents = documents.map(|line| serde_json::from_str(&line).unwrap());
            documents.collect::<Vec<Value>>().iter().any(holds)
        })
        .await;
    };
    has("no relay", &|status| status["state"] == "stopped" && status["ready"] == false).await;
    let mut relay = options.start_ready().await;
    let wal = |status: &Value| status["rates"]["wal_bytes"].as_f64().unwrap_or(0.0) > 0.0;
    small.emit("k", 1).await;
    has("what it took", &|status| {
        status["latency"]["p99_seconds"].as_f64().is_some_and(|p99| p99 > 0.0 && p99 < 60.0)
            && status["rates"]["published"].as_f64().unwrap() > 0.0
    })
    .await;
    has("WAL", &wal).await;
    has("that nothing moves any more", &|status| {
        let rates = [&status["rates"]["published"], &status["rates"]["read"]];
        rates.iter().all(|rate| rate.as_f64() == Some(0.0))
            && status["latency"]["p99_seconds"].is_null()
            && status["ready"] == true
    })
    .await;
    relay.signal(Signal::SIGTERM);
    relay.wait().await;
    has("its end", &|status| status["state"] == "stopped").await;
    // The WAL goes on, and the slot keeps it: the database shows that.
    small.emit("k", 2).await;
    has("WAL without a relay", &wal).await;
    watched.signal(Signal::SIGINT);
    assert_eq!(watched.ended().await, (0, String::new()));
    small.clear().await;
}

#[tokio::test]
async fn without_a_terminal_each_look_is_a_line() {
    // Nobody answers: neither a relay nor a database.
    let away = RelayOptions::bare().set("postgres.url", "postgres://u@127.0.0.1:1/d");
    let watch = ["status", "--watch", "--interval", "100ms"];
    let mut watched = Watched::new(away.piped(&watch));
    eventually("three lines", SOON, || async { watched.lines().len() >= 3 }).await;
    for line in watched.lines() {
        let (time, rest) = line.split_once(' ').unwrap();
        assert!(humantime::parse_rfc3339(time).is_ok(), "{line}");
        assert!(rest.starts_with("unknown  WAL -  read -") && rest.contains("OBX-2001"), "{line}");
        assert!(!line.contains('\x1b'), "{line}");
    }
    watched.signal(Signal::SIGTERM);
    assert_eq!(watched.ended().await, (0, String::new()));
    // Whoever reads has seen enough.
    let mut child = away.piped(&watch);
    drop(child.stdout.take());
    let status = tokio::task::spawn_blocking(move || child.wait().unwrap()).await.unwrap();
    assert_eq!(status.code(), Some(0));
}

#[tokio::test]
async fn a_script_waits_until_the_relay_is_ready() {
    let (small, options) = small_at_a_port("awaited").await;
    let waits = |more: &[&str]| {
        let arguments = [&["status", "--exit-when-ready", "--interval", "100ms"], more].concat();
        options.piped(&arguments)
    };
    let (code, printed, said) =
        options.command_output(&["status", "--exit-when-ready", "--timeout", "1s"]);
    assert_eq!((code, printed.as_str()), (69, ""), "{said}");
    assert!(said.contains("OBX-5005") && said.contains("not ready within 1s: stopped"), "{said}");

    let mut silent = Watched::new(waits(&["--timeout", "60", "-o", "json"]));
    let mut watching = Watched::new(waits(&["--watch", "-o", "json"]));
    eventually("a look", SOON, || async { !watching.lines().is_empty() }).await;
    let relay = options.start_ready().await;
    assert_eq!(silent.ended().await, (0, String::new()));
    assert_eq!(watching.ended().await, (0, String::new()));
    let document: Value = serde_json::from_str(&silent.text()).unwrap();
    assert_eq!((&document["ready"], &document["relay"]), (&true.into(), &"outboxd".into()));
    let documents: Vec<Value> =
        watching.lines().iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let (last, before) = documents.split_last().unwrap();
    assert!(last["ready"] == true && before.iter().all(|status| status["ready"] == false));

    // Not interested any more.
    relay.kill().await;
    eventually("the database to notice", SOON, || async {
        options.command_output(&["status", "-o", "json"]).1.contains("\"stopped\"")
    })
    .await;
    let mut impatient = Watched::new(waits(&["--watch"]));
    eventually("a look", SOON, || async { !impatient.lines().is_empty() }).await;
    impatient.signal(Signal::SIGINT);
    assert_eq!(impatient.ended().await.0, 130);
    for wrong in [["--timeout", "5s"], ["--interval", "0"], ["--interval", "soon"]] {
        let arguments = [&["status", "--watch"], &wrong[..]].concat();
        assert_eq!(options.command_output(&arguments).0, 64, "{wrong:?}");
    }
    small.clear().await;
}
