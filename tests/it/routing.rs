//! Topics by event type, by pattern, and those that are not allowed, on the real services.

use crate::support::small::Small;
use crate::support::unique;
use crate::support::wait::{SOON, eventually};

async fn insert(small: &Small, event_type: &str, aggregate_type: &str, topic: Option<&str>) {
    let insert = "INSERT INTO outbox (aggregate_type, aggregate_id, event_type, payload, topic) \
                  VALUES ($1, 'k', $2, '{}', $3)";
    small.database.sql.execute(insert, &[&aggregate_type, &event_type, &topic]).await.unwrap();
}

async fn wait_for_dead(small: &Small, error: &str) {
    let dead = format!(
        "SELECT count(*) FROM outboxd.held_event WHERE reason = 'dead' AND error_code = 'OBX-3004' \
         AND last_error LIKE '%{error}%'"
    );
    eventually(format!("a dead letter: {error}"), SOON, || async {
        small.database.count(&dead).await == 1
    })
    .await;
}

#[tokio::test]
async fn an_event_type_has_its_topic_and_others_have_none() {
    let small = Small::new("route_map").await;
    let map = format!(r#"{{"search_click" = "{}"}}"#, small.topic);
    let options = small
        .options()
        .set("route.map", &map)
        .set("route.unmapped", "error")
        .set("dead_letter.topic", "")
        .set("dead_letter.default", "");
    let relay = options.start_ready().await;
    insert(&small, "search_unheard_of", "search", Some(&small.topic)).await;
    insert(&small, "search_click", "search", None).await;
    let record = small.kafka.wait_for(&small.topic, 1).await.remove(0);
    assert_eq!(record.json()["event_type"], "search_click");
    wait_for_dead(&small, "route.map").await;
    assert_eq!(small.database.statuses().await["FAILED"], 1);
    assert_eq!(relay.stop().await, 0);
    // By default the other settings say where it goes.
    let options = small.options().set("route.map", &map);
    let relay = options.start_ready().await;
    insert(&small, "search_else", "search", Some(&small.topic)).await;
    small.kafka.wait_for(&small.topic, 2).await;
    assert_eq!(relay.stop().await, 0);
    small.clear().await;
}

#[tokio::test]
async fn a_pattern_makes_topics_as_debezium_does_and_only_allowed_ones_are_used() {
    let small = Small::new("route_regex").await;
    let kind = unique("kind");
    let (made, raw) = (format!("made.{kind}.v2"), format!("raw-{kind}"));
    for topic in [&made, &raw] {
        small.kafka.create_topic(topic, 1, &[]).await;
    }
    let options = small
        .options()
        .set("route.by", "aggregate_type")
        .set("route.regex", r"(?<name>\w+):v(\d)")
        .set("route.replacement", "made.${name}.v$2")
        .set("route.allow", r#"["made\\..*", "raw-.*"]"#)
        .set("dead_letter.topic", "")
        .set("dead_letter.default", "");
    let relay = options.start_ready().await;
    insert(&small, "A", &format!("{kind}:v2"), None).await;
    insert(&small, "B", &raw, None).await;
    insert(&small, "C", "forbidden", None).await;
    for topic in [&made, &raw] {
        small.kafka.wait_for(topic, 1).await;
    }
    wait_for_dead(&small, "route.allow").await;
    assert_eq!(relay.stop().await, 0);
    small.clear().await;
}
