//! `outboxd doctor` on Kafka: who is not let in, and what is wrong with each topic that events go to.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminOptions, NewTopic, TopicReplication};
use serde_json::{Value, json};

use crate::doctor::{as_relay, diagnose, find, good_server};
use crate::support::broker::{Broker, GUARDED, RELAY_LOGIN};
use crate::support::database::Database;
use crate::support::kafka_proxy::KafkaProxy;
use crate::support::records::Kafka;
use crate::support::relay::RelayOptions;
use crate::support::wait::{LATER, SOON, until};
use crate::support::{free_port, pg_bin, unique};

/// What is found about a topic, or about none: code, severity, and what is said of it.
fn about(findings: &[Value], title: &str) -> Vec<(String, String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let of_it = findings.iter().filter(|finding| finding["title"] == title);
    let told = of_it.map(|finding| {
        (text(&finding["code"]), text(&finding["severity"]), text(&finding["observed"]))
    });
    told.collect()
}

#[track_caller]
fn assert_told(findings: &[Value], title: &str, expected: &[(&str, &str, &str)]) {
    let told = about(findings, title);
    assert_eq!(told.len(), expected.len(), "{title}: {told:?} of {findings:?}");
    for ((code, severity, said), (code_of, severity_of, part)) in told.iter().zip(expected) {
        assert_eq!((code.as_str(), severity.as_str()), (*code_of, *severity_of), "{told:?}");
        assert!(said.contains(part), "{part}: {told:?}");
    }
}

/// Topics by event types, so that the configuration names them all.
fn routed(options: RelayOptions, topics: &[&str]) -> RelayOptions {
    let map: serde_json::Map<_, _> =
        topics.iter().map(|topic| ((*topic).to_owned(), json!(topic))).collect();
    options.set("route.map", &Value::from(map).to_string())
}

async fn create(kafka: &Kafka, name: &str, replicas: i32, settings: &[(&str, &str)]) {
    let topic = NewTopic::new(name, 1, TopicReplication::Fixed(replicas));
    let topic = settings.iter().fold(topic, |topic, (key, value)| topic.set(key, value));
    let options = AdminOptions::new().operation_timeout(Some(SOON));
    let created = kafka.admin().create_topics([&topic], &options).await.unwrap();
    created.into_iter().next().unwrap().unwrap();
}

const SAFE: (&str, &str) = ("min.insync.replicas", "2");
const LOOSE: (&str, &str) = ("min.insync.replicas", "1");

/// Each topic with what is found about it: replicas, settings, what is told.
type Topic<'a> = (&'a str, i32, &'a [(&'a str, &'a str)], &'a [(&'a str, &'a str, &'a str)]);

const TOPICS: &[Topic<'_>] = &[
    ("good", 2, &[SAFE], &[]),
    ("letters", 2, &[SAFE], &[]),
    ("loose", 2, &[LOOSE], &[("OBX-4013", "warning", "lost with that one")]),
    ("single", 1, &[LOOSE], &[("OBX-4013", "warning", "one of 2 brokers keeps")]),
    ("closed", 1, &[SAFE], &[("OBX-4013", "error", "no record is ever taken")]),
    (
        "small",
        2,
        &[SAFE, ("max.message.bytes", "1000")],
        &[(
            "OBX-4013",
            "warning",
            "max.message.bytes = 1000, and the table takes payloads of 1048576",
        )],
    ),
    (
        "unclean",
        2,
        &[SAFE, ("unclean.leader.election.enable", "true")],
        &[("OBX-4013", "warning", "takes back records")],
    ),
    (
        "stamped",
        2,
        &[SAFE, ("message.timestamp.type", "LogAppendTime")],
        &[("OBX-4013", "warning", "is not what consumers see")],
    ),
    ("denied", 2, &[SAFE], &[("OBX-4003", "error", "may not write to it")]),
    ("hidden", 2, &[SAFE], &[("OBX-4003", "error", "may not see it")]),
    // About the topics together.
    ("veiled", 2, &[SAFE], &[]),
];

/// Two brokers that ask who somebody is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_hazard_of_kafka_is_found() {
    let server = good_server(&pg_bin());
    let database = Database::new_at(&server.url("postgres"), "topics").await;
    let mut brokers = Broker::start_cluster(2, &GUARDED).await;
    let admin = brokers[0].as_admin();
    for (name, replicas, settings, _) in TOPICS {
        create(&admin, name, *replicas, settings).await;
    }
    for (permission, operation, topic) in [
        ("ALLOW", "ALL", "*"),
        ("DENY", "WRITE", "denied"),
        ("DENY", "DESCRIBE", "hidden"),
        ("DENY", "DESCRIBE_CONFIGS", "veiled"),
    ] {
        brokers[0].access(["add", permission, "relay", operation, topic]).await;
    }

    let options = as_relay(&database).set("kafka.bootstrap_servers", &admin.servers);
    let options = options.set("kafka.properties", RELAY_LOGIN);
    let healthy = routed(options.clone(), &["good"]).set("dead_letter.default", "letters");
    until("the rights to be known", LATER, || async {
        diagnose(&healthy).2.is_empty().then_some(())
    })
    .await;
    let bare = options.clone();
    let all: Vec<_> = TOPICS.iter().map(|(name, ..)| *name).collect();
    let options = routed(options, &all).set("envelope.record_timestamp", "commit");
    // The last one that was made.
    let veiled = |findings: &[Value]| !about(findings, "settings of topics").is_empty();
    let (exit, ok, findings) = until("all rules to be known", LATER, || async {
        Some(diagnose(&options)).filter(|(_, _, findings)| veiled(findings))
    })
    .await;
    assert_eq!((exit, ok), (78, false), "a topic that takes nothing is the worst: {findings:?}");
    for (name, _, _, expected) in TOPICS {
        assert_told(&findings, &format!("topic {name}"), expected);
    }
    let veiled = [("OBX-4003", "warning", "the settings of veiled cannot be seen")];
    assert_told(&findings, "settings of topics", &veiled);
    let denied = find(&routed(options.clone(), &["denied"]), 77, "OBX-4003", "error");
    let fix = denied["fix"].as_str().unwrap();
    assert!(fix.contains("--allow-principal User:relay --operation Write"), "{fix}");
    // What dead letters need is asked of their topics.
    let letters = [("cleanup.policy", "compact"), SAFE];
    create(&admin, "good.compact", 2, &letters).await;
    let options = routed(options, &["good", "loose"]).set("dead_letter.topic", "{topic}.compact");
    let (exit, ok, findings) = diagnose(&options.set("dead_letter.default", "nowhere"));
    assert_eq!((exit, ok), (0, true), "{findings:?}");
    let expected = [("OBX-4013", "warning", "only the last stays")];
    assert_told(&findings, "dead-letter topic good.compact", &expected);
    let missing = [("OBX-4002", "warning", "it does not exist")];
    assert_told(&findings, "dead-letter topic loose.compact", &missing);
    assert_told(&findings, "dead-letter topic nowhere", &missing);

    // Who is not let in, and by whom.
    let wrong = RELAY_LOGIN.replace(r#""sasl.password": "relay""#, r#""sasl.password": "wr0ng""#);
    assert_ne!(wrong, RELAY_LOGIN);
    let scram = RELAY_LOGIN.replace(r#""PLAIN""#, r#""SCRAM-SHA-256""#);
    assert_ne!(scram, RELAY_LOGIN);
    let plain = "{}";
    let tls = r#"{"security.protocol": "ssl"}"#;
    for (properties, exit, code, said) in [
        (wrong.as_str(), 77, "OBX-4012", "Authentication failed"),
        (&scram, 77, "OBX-4012", "SCRAM-SHA-256"),
        (tls, 77, "OBX-4011", "SSL handshake failed"),
        (plain, 69, "OBX-4001", ""),
    ] {
        let options = healthy.clone().set("kafka.properties", properties);
        let found = find(&options, exit, code, "error");
        let observed = found["observed"].as_str().unwrap();
        assert!(observed.contains(said) && observed.contains(&admin.servers), "{observed}");
        assert!(!found.to_string().contains("wr0ng"), "{found}");
    }

    // One of the brokers goes: what only it has cannot be written to, nor what both must take.
    let alone =
        NewTopic::new("alone", 1, TopicReplication::Variable(&[&[2]])).set(LOOSE.0, LOOSE.1);
    admin.admin().create_topics([&alone], &AdminOptions::new()).await.unwrap();
    brokers[1].stop().await;
    let options = routed(bare, &["good", "loose", "alone"]);
    let away = |findings: &[Value]| findings.iter().any(|found| found["title"] == "topic alone");
    let (exit, ok, findings) = until("the broker to be missed", LATER, || async {
        Some(diagnose(&options)).filter(|(_, _, findings)| away(findings))
    })
    .await;
    assert_eq!((exit, ok), (69, false), "{findings:?}");
    let expected = [("OBX-4001", "error", "1 of 1 partitions have no leader")];
    assert_told(&findings, "topic alone", &expected);
    let expected = [("OBX-4001", "error", "1 replicas are in sync, min.insync.replicas is 2")];
    assert_told(&findings, "topic good", &expected);
    // What one may take alone it takes.
    assert_told(&findings, "topic loose", &[("OBX-4013", "warning", "lost with that one")]);
}

/// Nobody answers, and it is said who: where the brokers send their clients, and where the relay asks.
#[tokio::test]
async fn addresses_that_nobody_answers_at_are_found_in_time() {
    let server = good_server(&pg_bin());
    let database = Database::new_at(&server.url("postgres"), "nobody").await;
    let kafka = Kafka::shared();
    let topic = unique("nobody");
    kafka.create_topic(&topic, 1, &[]).await;
    let options = routed(as_relay(&database), &[&topic]);
    let closed = free_port();
    let proxy = KafkaProxy::advertising(&kafka, Some(closed));
    let servers = proxy.kafka().servers;
    // The connection stands, and nothing is ever said.
    let silent = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let asked = Instant::now();
    // Both at the same time: each takes as long as it may.
    let [astray, silent] = [&servers, &address].map(|servers| {
        let options = options.clone().set("kafka.bootstrap_servers", servers);
        tokio::task::spawn_blocking(move || find(&options, 69, "OBX-4001", "error"))
    });
    let (astray, silent) = (astray.await.unwrap(), silent.await.unwrap());
    assert!(asked.elapsed() < Duration::from_secs(15), "{:?}", asked.elapsed());

    let observed = astray["observed"].as_str().unwrap();
    assert!(observed.starts_with(&format!("{servers}: it answers, and sends")), "{astray}");
    assert!(observed.contains("advertised.listeners"), "{astray}");
    assert!(observed.contains(&format!("127.0.0.1:{closed}")), "{astray}");
    assert!(silent["observed"].as_str().unwrap().starts_with(&address), "{silent}");
}

/// Topics that only rows and the relay's own tables tell of.
#[tokio::test]
async fn topics_in_use_are_looked_at_and_named_ones_in_bulk() {
    let server = good_server(&pg_bin());
    let database = Database::new_at(&server.url("postgres"), "in_use").await;
    let kafka = Kafka::shared();
    let options = as_relay(&database);
    let [there, more, gone] = [unique("there"), unique("more"), unique("gone")];
    for topic in [&there, &more] {
        kafka.create_topic(topic, 2, &[]).await;
    }
    let known = json!({ &there: 2, &more: 3, &gone: 1 });
    let remember =
        format!("INSERT INTO outboxd.relay (relay_id, partitions) VALUES ('outboxd', '{known}')");
    database.execute(&remember).await;
    let (exit, ok, findings) = diagnose(&options);
    assert_eq!((exit, ok), (0, true), "{findings:?}");
    assert_told(&findings, &format!("topic {gone}"), &[("OBX-4002", "warning", "any more")]);
    let expected = [("OBX-4008", "warning", "it has 2 partitions, and had 3")];
    assert_told(&findings, &format!("topic {more}"), &expected);
    assert_told(&findings, &format!("topic {there}"), &[]);

    // A row of it, and it counts.
    database.emit("a", "1", &more, "{}").await;
    database.emit("absent", "1", "", "{}").await;
    let held = "INSERT INTO outboxd.held_event (relay_id, event_id, reason, topic) \
                VALUES ('outboxd', 'x', 'topic', 'absent.held')";
    database.execute(held).await;
    let (exit, ok, findings) = diagnose(&options);
    assert_eq!((exit, ok), (69, false), "{findings:?}");
    let expected = [("OBX-4008", "error", "it has 2 partitions, and had 3")];
    assert_told(&findings, &format!("topic {more}"), &expected);
    for topic in ["outbox.absent", "absent.held"] {
        let expected = [("OBX-4002", "error", "its events are held")];
        assert_told(&findings, &format!("topic {topic}"), &expected);
    }
    // A relay that creates topics misses none.
    let creates = options.clone().set("kafka.create_topics", "true");
    let codes: Vec<_> =
        diagnose(&creates).2.iter().map(|finding| finding["code"].clone()).collect();
    assert_eq!(codes, ["OBX-4008"]);

    database.execute("TRUNCATE outbox, outboxd.relay, outboxd.held_event").await;
    let many: Vec<_> = (0..400).map(|n| format!("absent.{n}")).collect();
    let many: Vec<_> = many.iter().map(String::as_str).collect();
    let asked = Instant::now();
    let (exit, _, findings) = diagnose(&routed(options.clone(), &many));
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
    assert_eq!((exit, findings.len()), (69, 400));
    // Without PostgreSQL, Kafka is looked at all the same.
    let alone =
        routed(options, &["absent.1"]).set("postgres.url", "postgres://postgres@127.0.0.1:1/d");
    let codes: Vec<_> = diagnose(&alone).2.iter().map(|finding| finding["code"].clone()).collect();
    assert_eq!(codes, ["OBX-2001", "OBX-4002"]);
}
