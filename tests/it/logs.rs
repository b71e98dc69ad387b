//! The log: its form, what each level has in it, and what none has.

use std::time::{Duration, SystemTime};

use serde_json::Value;

use crate::support::small::Small;
use crate::support::unique;
use crate::support::wait::{SOON, eventually};

fn is_message(line: &Value, message: &str) -> bool {
    line["message"] == message
}

#[tokio::test]
async fn every_event_is_logged_at_debug_with_what_identifies_it() {
    let small = Small::new("debug").await;
    let options = small.options().set("log.level", "debug");
    let options = options.set("envelope.headers", r#"["event_id", "position"]"#);
    let relay = options.start_ready().await;
    let traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    for (n, headers) in [
        (1, format!(r#"{{"traceparent": "{traceparent}", "x-request-id": "r-0"}}"#)),
        (2, r#"{"x-request-id": "r-2"}"#.to_owned()),
        (3, r#"{"correlation_id": "c-3"}"#.to_owned()),
        (4, "{}".to_owned()),
    ] {
        let sql = "SELECT outboxd.emit('order', 'o-1', 'OrderPlaced', '{}', $1::text::jsonb, \
                   topic => $2, dedup_key => $3)::text";
        small.database.row(sql, &[&headers, &small.topic, &format!("d-{n}")]).await;
    }
    small.wait_for_sent(4).await;
    let records = small.kafka.read(&[&small.topic]);
    let lines: Vec<_> =
        relay.events().into_iter().filter(|line| is_message(line, "event")).collect();
    assert_eq!((records.len(), lines.len()), (4, 4));
    let traces = [Some(traceparent), Some("r-2"), Some("c-3"), None];
    for (n, ((line, record), trace)) in lines.iter().zip(&records).zip(traces).enumerate() {
        assert_eq!(line["level"], "DEBUG");
        assert_eq!(line["event_id"], record.event_id());
        assert_eq!(line["event_type"], "OrderPlaced");
        assert_eq!(line["dedup_key"], format!("d-{}", n + 1));
        assert_eq!(line["topic"], small.topic.as_str());
        assert_eq!(line["trace"].as_str(), trace, "{line}");
        let position = record.header("position").unwrap();
        assert_eq!(line["lsn"], position.rsplit_once('/').unwrap().0);
    }
    assert_eq!(relay.stop().await, 0);
    small.clear().await;
}

fn time(line: &Value) -> SystemTime {
    humantime::parse_rfc3339_weak(line["timestamp"].as_str().unwrap()).unwrap()
}

/// However many events there are, their counts come every other second at most.
#[tokio::test]
async fn counts_are_logged_at_info_now_and_then() {
    let small = Small::new("counts").await;
    let relay = small.options().start_ready().await;
    let counts = |name: &str| -> u64 {
        let lines = relay.events();
        let lines = lines.iter().filter(|line| is_message(line, "events in the last seconds"));
        lines.map(|line| line[name].as_u64().unwrap()).sum()
    };
    let mut written = 0;
    eventually("three lines of counts", SOON, || {
        written += 1;
        let (database, topic) = (&small.database, &small.topic);
        let lines = relay.events();
        let lines = lines.iter().filter(|line| is_message(line, "events in the last seconds"));
        let enough = lines.count() >= 3;
        async move {
            database.emit("tested", "k", topic, "{}").await;
            enough
        }
    })
    .await;
    small.wait_for_sent(written).await;
    let written = u64::try_from(written).unwrap();
    for name in ["read", "published", "settled"] {
        // The last ones are told when the next line is due.
        assert!((written / 3..=written).contains(&counts(name)), "{name}: {}", counts(name));
    }
    let lines: Vec<_> = relay.events();
    let told: Vec<_> =
        lines.iter().filter(|line| is_message(line, "events in the last seconds")).collect();
    for pair in told.windows(2) {
        let apart = time(pair[1]).duration_since(time(pair[0])).unwrap();
        assert!(apart >= Duration::from_millis(1_900), "{apart:?} apart");
        assert_eq!(pair[0]["level"], "INFO");
    }
    assert!(!lines.iter().any(|line| is_message(line, "event")), "single events are for debug");
    assert_eq!(relay.stop().await, 0);
    small.clear().await;
}

/// Each failure is told once, with code, error and what to do, and with the event if it is one's.
#[tokio::test]
async fn failures_are_logged_at_warn_with_their_error() {
    let small = Small::new("failures").await;
    let (missing, narrow) = (unique("failures_missing"), unique("failures_narrow"));
    small.kafka.create_topic(&narrow, 1, &[("max.message.bytes", "1000")]).await;
    let relay = small.options().start_ready().await;
    small.database.emit("tested", "a", &missing, "{}").await;
    let large = format!(r#"{{"text": "{}"}}"#, "x".repeat(5_000));
    let refused = small.database.emit("tested", "b", &narrow, &large).await;
    // The stream breaks, and the relay takes it up again.
    relay.wait_until_logged("OBX-4002").await;
    relay.wait_until_logged("OBX-4004").await;
    let ours = format!("datname = '{}' AND backend_type = 'walsender'", small.database.name);
    let end = format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {ours}");
    small.database.execute(&end).await;
    relay.wait_until_logged("OBX-2001").await;
    let away = small.options().set("kafka.bootstrap_servers", "127.0.0.1:1");
    let away = away.set("relay.id", "away").set("postgres.slot", &unique("away")).start();
    away.wait_until_logged("OBX-4001").await;
    let lines: Vec<_> = relay.events().into_iter().chain(away.events()).collect();
    for (code, said) in [
        ("OBX-4002", missing.as_str()),
        ("OBX-4004", "the topic takes 1000"),
        ("OBX-2001", "read the stream"),
        ("OBX-4001", ""),
    ] {
        let line = lines.iter().find(|line| line["code"] == code).unwrap();
        assert_eq!(line["level"], "WARN", "{line}");
        assert!(line["error"].as_str().unwrap().contains(said), "{line}");
        assert!(!line["remedy"].as_str().unwrap().is_empty(), "{line}");
    }
    let told: Vec<_> = lines.iter().filter(|line| line["code"] == "OBX-4004").collect();
    assert!(told.iter().all(|line| line["event_id"] == refused.as_str()), "{told:?}");
    // Once in each session, however often it is tried.
    assert!(told.len() <= 2, "{told:?}");
    away.kill().await;
    relay.kill().await;
    let slots = "SELECT count(pg_drop_replication_slot(slot_name)) FROM pg_replication_slots \
                 WHERE database = current_database() AND slot_name LIKE 'away%'";
    eventually("the slot to be free", SOON, || async {
        small.database.sql.query(slots, &[]).await.is_ok()
    })
    .await;
    small.clear().await;
}

#[tokio::test]
async fn lines_are_json_or_text() {
    let small = Small::new("format").await;
    // Not a terminal: auto is JSON.
    for (format, is_json) in [("json", true), ("auto", true), ("text", false)] {
        let options = small.options().set("log.format", format).set("admin.listen", "");
        let relay = options.start();
        relay.wait_until_logged("streaming").await;
        assert_eq!(relay.logged().len() == relay.events().len(), is_json, "{format}");
        let first = relay.logged().remove(0);
        assert_eq!(first.contains("\"level\":\"INFO\""), is_json, "{first}");
        assert!(first.contains("INFO") && !first.contains('\u{1b}'), "no colours: {first}");
        assert_eq!(relay.stop().await, 0);
    }
    small.clear().await;
}

#[tokio::test]
async fn a_level_leaves_out_what_is_below_it() {
    let small = Small::new("level").await;
    let severities = ["ERROR", "WARN", "INFO", "DEBUG", "TRACE"];
    for (level, expected) in [("error", 1), ("warn", 2), ("info", 3), ("debug", 4), ("trace", 5)] {
        let options = small.options().set("log.level", level).set("admin.listen", "");
        // A warning, then the reason of the end.
        let options = options.set("kafka.bootstrap_servers", "127.0.0.1:1");
        let mut relay = options.start();
        let runs = "SELECT count(*) FROM outboxd.relay WHERE state = 'running'";
        eventually("it to run", SOON, || async { small.database.count(runs).await == 1 }).await;
        if level != "error" {
            relay.wait_until_logged("OBX-4001").await;
        }
        let wrong = "ALTER PUBLICATION outboxd SET (publish = 'insert, delete'); \
                     ALTER PUBLICATION outboxd SET (publish = 'insert')";
        small.database.execute(wrong).await;
        assert_eq!(relay.wait().await.code(), Some(73));
        let lines = relay.events();
        for (n, severity) in severities.iter().enumerate() {
            let has = lines.iter().any(|line| line["level"] == *severity);
            assert_eq!(has, n < expected, "{level}: {severity}");
        }
        let (code, said, _) = small.options().command_output(&["slot", "drop", "--yes"]);
        assert_eq!(code, 0, "{said}");
    }
    small.clear().await;
}

/// Payloads, keys of aggregates and header values are nobody's business but the consumers', also
/// when something is wrong with them.
#[tokio::test]
async fn no_level_logs_a_payload() {
    let small = Small::new("canary").await;
    let narrow = unique("canary_narrow");
    small.kafka.create_topic(&narrow, 1, &[("max.message.bytes", "1000")]).await;
    let payload = format!(r#"{{"text": "{}"}}"#, "canary-payload".repeat(200));
    // Older than the slot, by the stream, refused for its size, and one whose status is refused.
    small.database.emit("tested", "a", &small.topic, &payload).await;
    let options = small.options().set("log.level", "trace");
    let relay = options.start_ready().await;
    small.database.emit("tested", "b", &small.topic, &payload).await;
    small.wait_for_sent(2).await;
    let check = "ALTER TABLE outbox ADD CHECK (status <> 'SENT' OR aggregate_id <> 'c') NOT VALID";
    small.database.execute(check).await;
    small.database.emit("tested", "c", &small.topic, &payload).await;
    relay.wait_until_logged("a row refused its status").await;
    small.database.emit("tested", "d", &narrow, &payload).await;
    relay.wait_until_logged("OBX-4004").await;
    relay.kill().await;
    let relay = options.start();
    let due = format!(
        "SELECT outboxd.emit('tested', 'e', 'Tested', '{payload}', '{{\"h\": \"canary-header\"}}', \
            topic => '{}', scheduled_at => now() + interval '1 day')",
        small.topic
    );
    small.database.execute(&due).await;
    let held = "SELECT count(*) FROM outboxd.held_event WHERE reason = 'scheduled'";
    eventually("it to be held", SOON, || async { small.database.count(held).await == 1 }).await;
    assert!(relay.has_logged("TRACE"));
    relay.signal(nix::sys::signal::Signal::SIGKILL);
    let told: Vec<_> = relay.logged().into_iter().filter(|line| line.contains("canary-")).collect();
    assert!(told.is_empty(), "{told:?}");
    small.clear().await;
}
