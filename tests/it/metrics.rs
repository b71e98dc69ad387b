//! Metrics: each one that is shown is one that was promised, and is moved by something that
//! happens.

use std::collections::BTreeSet;

use crate::support::evidence::{Evidence, assert_complete};
use crate::support::relay::Relay;
use crate::support::small::Small;
use crate::support::unique;
use crate::support::wait::{SOON, eventually};

const FLOW: &str = "metrics::what_flows_is_counted_and_timed";
const WAITING: &str = "metrics::what_waits_is_shown_and_what_may_come_twice_is_counted";
const REFUSED: &str = "metrics::what_kafka_refuses_is_counted";
const SLOT: &str = "danger::a_slot_in_danger_is_shown";

const DEAD: &str = "holding::an_event_without_a_topic_has_a_dead_letter_topic_too";
const PATROL: &str = "reconcile::a_patrol_warns_of_missed_rows_and_heals_them_where_it_may";

/// Every metric, with the test that moves it.
const METRICS: Evidence = &[
    ("batch_size_histogram", FLOW),
    ("events_dlq_total", DEAD),
    ("events_failed_total", REFUSED),
    ("events_processed_total", FLOW),
    ("outbox_blocked_keys", REFUSED),
    ("outbox_blocked_oldest_age_seconds", REFUSED),
    ("outbox_build_info", FLOW),
    ("outbox_cleaned_total", "cleanup::old_sent_rows_go_and_every_other_row_stays"),
    ("outbox_duplicates_suppressed_total", "metrics::what_was_settled_before_is_counted"),
    ("outbox_event_age_seconds", FLOW),
    ("outbox_events_added_total", FLOW),
    ("outbox_events_failed_total", REFUSED),
    ("outbox_events_published_total", FLOW),
    ("outbox_failed_count", REFUSED),
    ("outbox_held_events", DEAD),
    ("outbox_held_ratio", WAITING),
    ("outbox_memory_bytes", FLOW),
    ("outbox_missed_events", PATROL),
    ("outbox_new_count", WAITING),
    ("outbox_producer_fatal_total", "danger::a_producer_that_cannot_go_on_is_counted"),
    ("outbox_publish_latency_seconds", FLOW),
    ("outbox_publish_total", FLOW),
    ("outbox_queue_depth", WAITING),
    ("outbox_redelivered_total", WAITING),
    ("outbox_relay_errors_total", WAITING),
    ("outbox_relay_lag_seconds", WAITING),
    ("outbox_relay_processing_seconds", FLOW),
    ("outbox_relay_ready", WAITING),
    ("outbox_relay_state", WAITING),
    ("outbox_replication_reconnects_total", WAITING),
    ("outbox_retries_total", REFUSED),
    ("outbox_slot_lag_bytes", SLOT),
    ("outbox_slot_safe_wal_bytes", SLOT),
    ("outbox_slot_wal_status", SLOT),
    ("outbox_status_write_seconds", FLOW),
    ("outbox_table_bytes", FLOW),
    ("processing_duration_seconds", FLOW),
];

/// Names of labels that a sample may have: none of them tells one event or key from another.
const LABELS: [&str; 16] = [
    "status",
    "state",
    "stage",
    "kind",
    "component",
    "class",
    "le",
    "reason",
    "version",
    "commit",
    "target",
    "profile",
    "features",
    "rust",
    "librdkafka",
    "openssl",
];

async fn page(relay: &Relay) -> String {
    let (code, text) = relay.get("/metrics").await;
    assert_eq!(code, 200);
    text
}

/// Waits until a series has at least that value.
pub async fn reaches(relay: &Relay, series: &str, value: f64) {
    let what = format!("{series} to reach {value}");
    eventually(what, SOON, || async { relay.metric(series).await >= value }).await;
}

/// Waits until a series has that value.
pub async fn becomes(relay: &Relay, series: &str, value: f64) {
    let what = format!("{series} to become {value}");
    eventually(what, SOON, || async {
        page(relay).await.contains(&format!("\n{series} ")) && relay.metric(series).await == value
    })
    .await;
}

#[tokio::test]
async fn what_flows_is_counted_and_timed() {
    let small = Small::new("flow").await;
    let relay = small.options().start_ready().await;
    becomes(&relay, "outbox_events_added_total", 0.0).await;
    let before = {
        reaches(&relay, "outbox_table_bytes", 1.0).await;
        relay.metric("outbox_table_bytes").await
    };
    let write = format!(
        "SELECT outboxd.emit('tested', 'canary-key-' || n, 'CanaryType', \
            jsonb_build_object('text', repeat('canary-payload', 100)), topic => '{}') \
         FROM generate_series(1, 300) n",
        small.topic
    );
    small.database.execute(&write).await;
    small.wait_for_sent(300).await;
    let draft = "INSERT INTO outbox (aggregate_type, aggregate_id, event_type, payload, status) \
                 VALUES ('tested', 'k', 'Draft', '{}', 'SENT')";
    small.database.execute(draft).await;
    for counter in [
        "outbox_events_added_total",
        "outbox_events_published_total",
        "outbox_publish_total{status=\"sent\"}",
        "events_processed_total",
        "batch_size_histogram_sum",
        "outbox_event_age_seconds_count",
        "outbox_publish_latency_seconds_count",
    ] {
        becomes(&relay, counter, 300.0).await;
    }
    becomes(&relay, "outbox_publish_total{status=\"skipped\"}", 1.0).await;
    for seconds in [
        "outbox_event_age_seconds_sum",
        "outbox_publish_latency_seconds_sum",
        "outbox_status_write_seconds_sum",
        "outbox_relay_processing_seconds_sum{stage=\"settle\"}",
        "outbox_relay_processing_seconds_sum{stage=\"publish\"}",
        "processing_duration_seconds_sum",
    ] {
        let value = relay.metric(seconds).await;
        assert!(value > 0.0 && value < 300.0 * 60.0, "{seconds} {value}");
    }
    reaches(&relay, "outbox_table_bytes", before + 100_000.0).await;
    reaches(&relay, "outbox_memory_bytes", f64::from(1 << 20)).await;
    let version = format!("version=\"{}\"", env!("CARGO_PKG_VERSION"));
    let built = page(&relay).await;
    let built = built.lines().find(|line| line.starts_with("outbox_build_info{")).unwrap();
    assert!(built.contains(&version) && built.ends_with("} 1"), "{built}");

    // Everything that is shown is known, described, and tells no event from another.
    let text = page(&relay).await;
    assert!(!text.to_lowercase().contains("canary"), "{text}");
    let described = |kind: &str| -> BTreeSet<String> {
        let lines = text.lines().filter_map(|line| line.strip_prefix(kind));
        lines.filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
    };
    let samples = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let (shown, documented) = (described("# TYPE "), described("# HELP "));
    let undocumented: Vec<_> = shown.difference(&documented).collect();
    assert_eq!(undocumented, [""; 0], "what it means is said of each");
    for line in samples.clone() {
        let name = &line[..line.find(['{', ' ']).unwrap()];
        let ends = ["", "_bucket", "_sum", "_count"].iter();
        let mut metric = ends.filter_map(|end| name.strip_suffix(end));
        assert!(metric.any(|name| shown.contains(name)), "{line} has no type");
    }
    assert_complete(METRICS, &shown);
    for line in samples {
        let labels = line.split_once('{').map_or("", |(_, rest)| rest.split_once('}').unwrap().0);
        // A value can have a comma.
        for label in labels.split("\",").filter(|label| !label.is_empty()) {
            assert!(LABELS.contains(&label.split('=').next().unwrap()), "{line}");
        }
    }
    assert_eq!(relay.stop().await, 0);
    small.clear().await;
}

#[tokio::test]
async fn what_waits_is_shown_and_what_may_come_twice_is_counted() {
    let small = Small::new("waiting").await;
    let missing = unique("waiting_missing");
    // One of them is held, the others find no room.
    let relay = small.options().set("held.max_events", "1").start_ready().await;
    becomes(&relay, "outbox_relay_state{state=\"stalled\"}", 0.0).await;
    let write = format!(
        "SELECT outboxd.emit('tested', 'k' || n, 'Tested', '{{}}', topic => '{missing}') \
         FROM generate_series(1, 21) n"
    );
    small.database.execute(&write).await;
    becomes(&relay, "outbox_relay_state{state=\"stalled\"}", 1.0).await;
    becomes(&relay, "outbox_relay_state{state=\"streaming\"}", 0.0).await;
    becomes(&relay, "outbox_new_count", 20.0).await;
    becomes(&relay, "outbox_queue_depth", 20.0).await;
    becomes(&relay, "outbox_held_ratio", 1.0).await;
    becomes(&relay, "outbox_relay_ready", 0.0).await;
    reaches(&relay, "outbox_relay_lag_seconds", 0.5).await;

    let errors = "outbox_relay_errors_total{component=\"postgres\",class=\"unavailable\"}";
    becomes(&relay, errors, 0.0).await;
    becomes(&relay, "outbox_redelivered_total", 0.0).await;
    let ours = format!("datname = '{}' AND backend_type = 'walsender'", small.database.name);
    let end = format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {ours}");
    small.database.execute(&end).await;
    becomes(&relay, "outbox_redelivered_total", 20.0).await;
    becomes(&relay, errors, 1.0).await;
    becomes(&relay, "outbox_replication_reconnects_total", 1.0).await;

    small.kafka.create_topic(&missing, 1, &[]).await;
    small.wait_for_sent(21).await;
    for gauge in [
        "outbox_new_count",
        "outbox_queue_depth",
        "outbox_relay_lag_seconds",
        "outbox_held_ratio",
        "outbox_held_events{reason=\"topic\"}",
    ] {
        becomes(&relay, gauge, 0.0).await;
    }
    becomes(&relay, "outbox_relay_ready", 1.0).await;
    assert_eq!(relay.stop().await, 0);
    small.clear().await;
}

#[tokio::test]
async fn what_kafka_refuses_is_counted() {
    let small = Small::new("refused").await;
    let narrow = unique("refused_narrow");
    small.kafka.create_topic(&narrow, 1, &[("max.message.bytes", "1000")]).await;
    let relay = small.options().start_ready().await;
    let large = format!(r#"{{"text": "{}"}}"#, "x".repeat(5_000));
    for (key, payload) in [("a", large.as_str()), ("a", "{}"), ("b", large.as_str())] {
        small.database.emit("tested", key, &narrow, payload).await;
    }
    becomes(&relay, "outbox_failed_count", 2.0).await;
    becomes(&relay, "outbox_blocked_keys", 2.0).await;
    reaches(&relay, "outbox_blocked_oldest_age_seconds", 0.5).await;
    for counter in [
        "outbox_events_failed_total",
        "events_failed_total",
        "outbox_publish_total{status=\"failed\"}",
        "outbox_relay_errors_total{component=\"kafka\",class=\"event\"}",
        "outbox_retries_total",
        "outbox_publish_total{status=\"retried\"}",
    ] {
        reaches(&relay, counter, 2.0).await;
    }
    relay.kill().await;
    small.clear().await;
}

#[tokio::test]
async fn what_was_settled_before_is_counted() {
    let small = Small::new("suppressed").await;
    let (code, said, _) = small.options().command_output(&["slot", "create"]);
    assert_eq!(code, 0, "{said}");
    for n in 0..10 {
        small.emit("k", n).await;
    }
    // The slot is older than the rows: sweep and stream both bring them.
    let relay = small.options().start_ready().await;
    becomes(&relay, "outbox_duplicates_suppressed_total", 10.0).await;
    becomes(&relay, "outbox_publish_total{status=\"suppressed\"}", 10.0).await;
    assert_eq!(small.kafka.read(&[&small.topic]).len(), 10);
    assert_eq!(relay.stop().await, 0);
    small.clear().await;
}

#[tokio::test]
async fn there_are_no_metrics_where_they_are_switched_off() {
    let small = Small::new("no_metrics").await;
    let relay = small.options().set("metrics.enabled", "false").start_ready().await;
    assert_eq!(relay.get("/metrics").await.0, 404);
    assert_eq!(relay.get("/livez").await.0, 200);
    assert_eq!(relay.stop().await, 0);
    small.clear().await;
}
