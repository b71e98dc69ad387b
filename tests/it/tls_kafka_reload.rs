//! Kafka's secrets are changed while the relay works: a real broker with a test's own authority.

use std::path::Path;
use std::sync::Arc;

use nix::sys::signal::Signal;

use crate::support::certificates::{Authority, Certificate};
use crate::support::database::Database;
use crate::support::records::Kafka;
use crate::support::relay::RelayOptions;
use crate::support::secure::{PASSWORD, SecureBroker};
use crate::support::stage::Stage;
use crate::support::wait::{SOON, eventually};

async fn scene(name: &str) -> (Arc<SecureBroker>, Stage) {
    let secure = SecureBroker::shared().await;
    let stage = Stage::at(Database::new(name).await, secure.kafka(), name, 20).await;
    (secure, stage)
}

fn write(path: &Path, properties: &[(String, String)]) {
    let lines = properties.iter().map(|(name, value)| format!("{name} = {value}\n"));
    std::fs::write(path, lines.collect::<String>()).unwrap();
}

/// A wrong password is corrected, then the user is another one, under traffic: each by SIGHUP.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rotated_credentials_of_kafka_take_effect_and_repeat_nothing() {
    let (secure, stage) = scene("kafka_rotated").await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("kafka.properties");
    let login = |mechanism, user, password| secure.login(mechanism, user, password);
    write(&file, &login("PLAIN", "plain", "canary-wrong"));
    let kafka = Kafka::at(format!("localhost:{}", secure.login));
    let options = RelayOptions::new(&stage.database, &kafka);
    let relay = options.set("kafka.properties_file", file.to_str().unwrap()).start();
    let writing = stage.workload.start(&stage.database);
    relay.tells("OBX-4012").await;
    let taken_on = async |n: usize| {
        relay.signal(Signal::SIGHUP);
        eventually(format!("session {n}"), SOON, || async {
            let lines = relay.logged();
            let count = |text: &str| lines.iter().filter(|line| line.contains(text)).count();
            count("read again, and taken on") == n && count("took the place") == n + 1
        })
        .await;
        eventually("it to be ready", SOON, || async { relay.get("/readyz").await.0 == 200 }).await;
    };
    write(&file, &login("PLAIN", "plain", PASSWORD));
    taken_on(1).await;
    write(&file, &login("SCRAM-SHA-256", "scram256", PASSWORD));
    taken_on(2).await;
    // The secret in a file of its own, without its name being a secret.
    let own = directory.path().join("password");
    std::fs::write(&own, format!("{PASSWORD}\n")).unwrap();
    let mut twin = login("SCRAM-SHA-512", "scram512", "");
    twin.retain(|(name, _)| name != "sasl.password");
    twin.push(("sasl.password_file".to_owned(), own.display().to_string()));
    write(&file, &twin);
    taken_on(3).await;
    // What is refused is not taken on, and costs nothing.
    std::fs::write(&own, "canary-wrong").unwrap();
    relay.signal(Signal::SIGHUP);
    relay.wait_until_logged("everything stays as it was").await;
    let kept = |line: &&serde_json::Value| {
        line["message"].as_str().is_some_and(|text| text.contains("everything stays"))
    };
    assert_eq!(relay.events().iter().find(kept).unwrap()["code"], "OBX-4012");
    assert_eq!(relay.get("/readyz").await.0, 200);
    writing.stop().await;
    stage.check(0).await;
    assert!(!relay.has_logged(PASSWORD) && !relay.has_logged("canary-wrong"));
    assert_eq!(relay.stop().await, 0);
    stage.clear().await;
}

/// The files stay where they are, and hold another certificate.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewed_client_certificate_takes_effect() {
    let (secure, stage) = scene("kafka_renewed").await;
    let directory = tempfile::tempdir().unwrap();
    let [cert, key] = ["cert", "key"].map(|name| directory.path().join(name));
    let show = |certificate: Certificate| {
        std::fs::copy(certificate.cert, &cert).unwrap();
        std::fs::copy(certificate.key, &key).unwrap();
    };
    show(Authority::new().issue("renewed", "DNS:relay"));
    let properties = serde_json::json!({
        "security.protocol": "SSL",
        "ssl.ca.location": secure.authority.root(),
        "ssl.certificate.location": cert,
        "ssl.key.location": key,
    });
    let kafka = Kafka::at(format!("localhost:{}", secure.mutual));
    let options = RelayOptions::new(&stage.database, &kafka);
    let relay = options.set("kafka.properties", &properties.to_string()).start();
    relay.tells("OBX-4011").await;
    stage.workload.write(&stage.database, 200).await;
    show(secure.authority.issue("renewed", "DNS:relay"));
    relay.signal(Signal::SIGHUP);
    stage.check(0).await;
    assert!(relay.has_logged("read again, and taken on"));
    assert_eq!(relay.stop().await, 0);
    stage.clear().await;
}
