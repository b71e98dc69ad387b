//! Topics that do not exist, where the relay may create them. The brokers of the tests create none by
//! themselves.

use crate::support::small::Small;
use crate::support::unique;
use crate::support::wait::{SOON, eventually};

#[tokio::test]
async fn a_missing_topic_is_created_where_that_is_wanted() {
    let small = Small::new("creates").await;
    let options = small.options().set("kafka.create_topics", "true").set("kafka.partitions", "3");
    let relay = options.start_ready().await;
    let topics = [unique("created_a"), unique("created_b")];
    for n in 0..20 {
        let topic = &topics[n % 2];
        small.database.emit("tested", &format!("k{n}"), topic, &format!("{{\"n\": {n}}}")).await;
    }
    for topic in &topics {
        assert_eq!(small.kafka.wait_for(topic, 10).await.len(), 10);
        let is_known = || async { small.kafka.partitions(topic) == 3 };
        eventually("three partitions", SOON, is_known).await;
        let created = relay.events();
        let mut created = created.iter().filter(|line| line["topic"] == topic.as_str());
        assert!(created.any(|line| line["message"] == "created the topic"), "{topic}");
    }
    small.wait_for_sent(20).await;
    assert!(!relay.has_logged("OBX-4002"), "{}", relay.logged().join("\n"));
    assert_eq!(relay.stop().await, 0);

    // Six, unless somebody says otherwise.
    let relay = small.options().set("kafka.create_topics", "true").start_ready().await;
    let topic = unique("created_c");
    small.database.emit("tested", "k", &topic, "{}").await;
    small.kafka.wait_for(&topic, 1).await;
    eventually("six partitions", SOON, || async { small.kafka.partitions(&topic) == 6 }).await;
    assert_eq!(relay.stop().await, 0);
    small.clear().await;
}

#[tokio::test]
async fn a_topic_that_cannot_be_created_says_why_and_waits_for_somebody() {
    let small = Small::new("creates_not").await;
    let options = small.options().set("kafka.create_topics", "true");
    // There are not so many brokers.
    let relay = options.set("kafka.replication", "900").start_ready().await;
    let missing = unique("not_created");
    let id = small.database.emit("tested", "k", &missing, "{}").await;
    relay.wait_until_logged("the topic does not exist and cannot be created").await;
    eventually("it to be told", SOON, || async {
        let error = &relay.status().await["last_error"];
        let text = error["message"].as_str().unwrap_or_default();
        error["code"] == "OBX-4002" && text.contains(&missing) && text.contains("replication")
    })
    .await;
    // The others do not notice, and it heals by itself.
    let other = small.emit("k", 1).await;
    assert_eq!(small.kafka.wait_for(&small.topic, 1).await[0].event_id(), other);
    small.kafka.create_topic(&missing, 1, &[]).await;
    assert_eq!(small.kafka.wait_for(&missing, 1).await[0].event_id(), id);
    small.wait_for_sent(2).await;
    assert_eq!(relay.stop().await, 0);
    small.clear().await;
}
