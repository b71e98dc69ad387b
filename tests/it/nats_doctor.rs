//! `outboxd doctor` on NATS: what is wrong with the streams that events go to.

use async_nats::jetstream::stream::{RetentionPolicy, StorageType};
use serde_json::{Value, json};
use std::time::Duration;

use crate::doctor::diagnose;
use crate::support::database::Database;
use crate::support::nats::TempNats;
use crate::support::relay::RelayOptions;

/// What is found of that title: code, severity, what is seen and how it is mended.
fn about(findings: &[Value], title: &str) -> Vec<[String; 4]> {
    let of_it = findings.iter().filter(|finding| finding["title"] == title);
    let text = |finding: &Value, field: &str| finding[field].as_str().unwrap().to_owned();
    of_it.map(|it| ["code", "severity", "observed", "fix"].map(|field| text(it, field))).collect()
}

#[track_caller]
fn assert_told(findings: &[Value], title: &str, expected: [&str; 4]) {
    let told = about(findings, title);
    let is_told = |told: &[String; 4]| {
        told[0] == expected[0]
            && told[1] == expected[1]
            && told[2].contains(expected[2])
            && told[3].contains(expected[3])
    };
    assert!(told.iter().any(is_told), "{title} {expected:?}: {told:?} of {findings:?}");
}

fn routed(options: RelayOptions, subjects: &[&str]) -> RelayOptions {
    let map: serde_json::Map<_, _> =
        subjects.iter().map(|subject| ((*subject).to_owned(), json!(subject))).collect();
    options.set("route.map", &Value::from(map).to_string())
}

#[tokio::test]
async fn each_hazard_of_a_stream_is_found() {
    let database = Database::new("nats_doctor").await;
    let nats = TempNats::start("max_payload: 4MB").await;
    nats.create("GOOD", &["good.>"]).await;
    nats.create_with("MEMORY", &["memory.>"], |config| config.storage = StorageType::Memory).await;
    nats.create_with("WORK", &["work.>"], |config| config.retention = RetentionPolicy::WorkQueue)
        .await;
    nats.create_with("SHORT", &["short.>"], |config| {
        config.duplicate_window = Duration::from_secs(30);
    })
    .await;
    nats.create_with("SMALL", &["small.>"], |config| config.max_message_size = 1000).await;
    nats.create_with("MUTE", &["mute.>"], |config| config.no_ack = true).await;
    let bare = nats.options(&database).set("relay.reconnect_max", "30s");
    let bare = bare.set("dead_letter.topic", "").set("dead_letter.default", "");
    let plain = routed(bare.clone(), &["good.a", "good.b"]);
    let (_, ok, findings) = diagnose(&plain);
    assert!(ok, "{findings:?}");
    let of_nats = |finding: &&Value| {
        let title = finding["title"].as_str().unwrap();
        ["NATS", "stream", "subject"].iter().any(|word| title.contains(word))
    };
    let told: Vec<_> = findings.iter().filter(of_nats).collect();
    assert_eq!(told.len(), 1, "{findings:?}");
    assert_told(&findings, "stream GOOD", ["OBX-4013", "warning", "one server", "--replicas=3"]);

    let subjects = ["memory.a", "work.a", "short.a", "small.a", "mute.a", "missing.a"];
    let (exit, ok, findings) = diagnose(&routed(bare.clone(), &subjects));
    assert_eq!((exit, ok), (77, false), "{findings:?}");
    for (title, expected) in [
        ("stream MEMORY", ["OBX-4013", "warning", "storage = memory", "--storage=file"]),
        ("stream WORK", ["OBX-4013", "warning", "retention = workqueue", "--retention=limits"]),
        (
            "stream SHORT",
            [
                "OBX-4013",
                "warning",
                "duplicate_window = 30s",
                "nats stream edit SHORT --dupe-window=120s",
            ],
        ),
        (
            "stream SMALL",
            [
                "OBX-4013",
                "warning",
                "max_msg_size = 1000",
                "nats stream edit SMALL --max-msg-size=",
            ],
        ),
        ("subject mute.a", ["OBX-4003", "error", "no_ack", "nats stream edit MUTE --ack"]),
        ("subject missing.a", ["OBX-4002", "error", "no stream takes it", "--subjects=missing.a"]),
    ] {
        assert_told(&findings, title, expected);
    }
    // Longer waits want a longer window, and whoever has them made needs none.
    let patient = plain.clone().set("retry.max_backoff", "10m");
    let (_, _, findings) = diagnose(&patient);
    assert_told(&findings, "stream GOOD", ["OBX-4013", "warning", "take 640s", "window=640s"]);
    let making = routed(bare.clone(), &["missing.a"]).set("nats.create_streams", "true");
    assert!(diagnose(&making).1);
    let wrong = plain.set("nats.stream", "SHORT");
    let (_, _, findings) = diagnose(&wrong);
    let expected = ["OBX-4003", "error", "nats.stream is SHORT", "nats.stream"];
    assert_told(&findings, "subject good.a", expected);
    drop(nats);

    let nats = TempNats::start("").await;
    nats.create("GOOD", &["good.>"]).await;
    let small = routed(nats.options(&database), &["good.a"]).set("dead_letter.default", "gone");
    let (_, _, findings) = diagnose(&small);
    assert_told(
        &findings,
        "NATS",
        ["OBX-4013", "warning", "max_payload = 1048576", "max_payload:"],
    );
    let title = "dead-letter subject gone";
    assert_told(
        &findings,
        title,
        ["OBX-4002", "warning", "the key of a dead letter waits", "gone"],
    );
    nats.freeze();
    let (_, _, findings) = diagnose(&small);
    assert_told(&findings, "NATS", ["OBX-4001", "error", "", ""]);
    nats.thaw();
    drop(nats);
    let (exit, _, findings) = diagnose(&small);
    assert_eq!(exit, 69);
    assert_told(&findings, "NATS", ["OBX-4001", "error", "refused", ""]);

    let nats = TempNats::start_bare("").await;
    let none = routed(nats.options(&database), &["good.a"]);
    assert_told(&diagnose(&none).2, "NATS", ["OBX-4001", "error", "is it enabled", ""]);
    database.clear().await;
}
