//! What Prometheus makes of the metrics: rules and dashboard of deploy/, evaluated by the real one
//! against a real relay.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::support::prometheus::{Prometheus, deployed, promtool};
use crate::support::relay::http_get;
use crate::support::small::Small;
use crate::support::unique;
use crate::support::wait::{SOON, eventually};

/// What promtool says of our names: they are those of the systems that the relay replaces, and their
/// users' dashboards go on working.
const LINTED: [&str; 3] = [
    "batch_size_histogram metric name should not include type 'histogram'",
    "outbox_failed_count non-histogram and non-summary metrics should not have \"_count\" suffix",
    "outbox_new_count non-histogram and non-summary metrics should not have \"_count\" suffix",
];

#[test]
fn each_alert_fires_and_none_on_a_healthy_relay() {
    for arguments in [
        ["check", "config", "prometheus.yml"],
        ["check", "rules", "alerts.yml"],
        ["test", "rules", "alerts_test.yml"],
    ] {
        let (code, said) = promtool(&arguments, "");
        assert!(code == 0 && said.contains("SUCCESS"), "{arguments:?}: {code} {said}");
    }
}

#[tokio::test]
async fn prometheus_scrapes_a_relay_and_tells_what_happens_to_it() {
    let small = Small::new("scraped").await;
    let (narrow, missing) = (unique("scraped_narrow"), unique("scraped_missing"));
    small.kafka.create_topic(&narrow, 1, &[("max.message.bytes", "1000")]).await;
    let options = small.options().set("retry.max_attempts", "1").set("dead_letter.topic", "");
    let relay = options.start_ready().await;
    let prometheus = Prometheus::start(&relay.admin().await).await;
    prometheus.reaches("events_dlq_total", "0").await;
    rules_are_loaded(&prometheus).await;

    // In OpenMetrics a counter's family has no suffix: that is the form that was scraped.
    let families = prometheus.ask("metadata?metric=events_dlq").await;
    assert_eq!(families["events_dlq"][0]["type"], "counter", "{families}");
    names_are_as_prometheus_wants_them(&relay.get("/metrics").await.1);
    forms_are_negotiated(&relay.admin().await).await;

    small.emit("k", 1).await;
    let large = format!(r#"{{"text": "{}"}}"#, "x".repeat(5_000));
    small.database.emit("tested", "large", &narrow, &large).await;
    small.database.emit("tested", "lost", &missing, "{}").await;
    let alert = prometheus.alert("OutboxdDeadLetters", "firing").await;
    let told = alert["annotations"]["description"].as_str().unwrap();
    assert!(told.starts_with(&relay.admin().await), "{told}");
    prometheus.alert("OutboxdTopicHeld", "pending").await;
    prometheus.reaches("outbox_events_published_total > 0", "1").await;
    every_panel_has_data(&prometheus).await;

    let firing = prometheus.query("ALERTS{alertstate='firing'}").await.unwrap();
    assert_eq!(firing.len(), 1, "{firing:?}");
    // Whoever is gone is told of, too.
    relay.kill().await;
    prometheus.alert("OutboxdDown", "pending").await;
    prometheus.alert("OutboxdAbsent", "pending").await;
    small.clear().await;
}

/// Each rule is evaluated without an error, and says what a person needs.
async fn rules_are_loaded(prometheus: &Prometheus) {
    let rules = async || {
        let groups = prometheus.ask("rules").await;
        let groups = groups["groups"].as_array().cloned().unwrap_or_default();
        let rules = groups.iter().filter_map(|group| group["rules"].as_array());
        rules.flatten().cloned().collect::<Vec<Value>>()
    };
    eventually("the rules to be evaluated", SOON, || async {
        let rules = rules().await;
        rules.len() >= 10 && rules.iter().all(|rule| rule["health"] != "unknown")
    })
    .await;
    for rule in rules().await {
        assert_eq!(rule["health"], "ok", "{rule}");
        let severity = rule["labels"]["severity"].as_str().unwrap();
        assert!(["critical", "warning"].contains(&severity), "{rule}");
        for annotation in ["summary", "description", "runbook"] {
            assert!(rule["annotations"][annotation].is_string(), "{annotation}: {rule}");
        }
    }
}

fn names_are_as_prometheus_wants_them(page: &str) {
    let (_, said) = promtool(&["check", "metrics"], page);
    let said: BTreeSet<&str> = said.lines().filter(|line| !line.is_empty()).collect();
    assert_eq!(said, LINTED.into_iter().collect());
}

async fn forms_are_negotiated(admin: &str) {
    let of = async |accepted: &str| {
        let headers = [("host", "anything"), ("accept", accepted)];
        http_get(admin, "/metrics", &headers).await.unwrap().1
    };
    let (text, openmetrics) = (of("*/*").await, of("application/openmetrics-text").await);
    assert!(openmetrics.ends_with("\n# EOF\n") && !text.contains("# EOF"));
    assert!(openmetrics.contains("\n# TYPE outbox_publish counter\n"), "{openmetrics}");
    assert!(text.contains("# TYPE outbox_publish_total counter\n"), "{text}");
    assert!(openmetrics.contains("le=\"1.0\""), "{openmetrics}");
}

/// As Grafana would ask.
async fn every_panel_has_data(prometheus: &Prometheus) {
    let text = std::fs::read_to_string(deployed("grafana/outboxd.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let mut expressions = Vec::new();
    for panel in panels {
        for target in panel["targets"].as_array().into_iter().flatten() {
            expressions.push((panel["title"].as_str().unwrap(), target["expr"].as_str().unwrap()));
        }
    }
    assert!(expressions.len() > 30, "{}", expressions.len());
    for (title, expression) in expressions {
        let filled = expression
            .replace("$__rate_interval", "10s")
            .replace("$job", "outboxd")
            .replace("$instance", ".+");
        assert!(!filled.contains('$'), "{title}: {filled}");
        eventually(format!("data of {title}: {filled}"), SOON, || async {
            let samples = prometheus.query(&filled).await;
            !samples.unwrap_or_else(|error| panic!("{title}: {filled}: {error}")).is_empty()
        })
        .await;
    }
}
