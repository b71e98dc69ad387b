//! TLS and SASL to Kafka: a real broker with a test's own authority, one listener for each way in.

use std::sync::Arc;

use crate::support::certificates::Authority;
use crate::support::database::Database;
use crate::support::records::Kafka;
use crate::support::relay::RelayOptions;
use crate::support::secure::{PASSWORD, SecureBroker};
use crate::support::small::Small;
use crate::support::unique;

struct Scene {
    secure: Arc<SecureBroker>,
    small: Small,
}

impl Scene {
    async fn new(name: &str) -> Self {
        let secure = SecureBroker::shared().await;
        let kafka = secure.kafka();
        let topic = unique(name);
        kafka.create_topic(&topic, 1, &[]).await;
        let database = Database::new(name).await;
        Self { secure, small: Small { database, kafka, topic } }
    }

    /// A relay that asks at `host` on one of the listeners.
    fn options(&self, host: &str, port: u16, properties: &[(&str, &str)]) -> RelayOptions {
        let table: serde_json::Map<_, _> =
            properties.iter().map(|(name, value)| ((*name).to_owned(), (*value).into())).collect();
        let options = RelayOptions::new(&self.small.database, &Kafka::at(format!("{host}:{port}")));
        options.set("kafka.properties", &serde_json::Value::Object(table).to_string())
    }
}

/// Every way in that is right, one relay after the other; nothing comes twice.
#[tokio::test]
async fn each_way_into_kafka_is_gone() {
    let scene = Scene::new("kafka_tls").await;
    let Scene { secure, small } = &scene;
    let root = secure.authority.root().display().to_string();
    let own = secure.authority.issue("ways", "DNS:relay");
    let pem = |path: &std::path::Path| std::fs::read_to_string(path).unwrap();
    let (cert, key) = (own.cert.display().to_string(), own.key.display().to_string());
    let (cert_pem, key_pem, root_pem) =
        (pem(&own.cert), pem(&own.key), pem(&secure.authority.root()));
    let locked = secure.authority.lock(&own, "key-password");
    let locked = locked.display().to_string();
    let login = |mechanism, user| {
        [
            ("security.protocol", "SASL_SSL"),
            ("ssl.ca.location", root.as_str()),
            ("sasl.mechanism", mechanism),
            ("sasl.username", user),
            ("sasl.password", PASSWORD),
        ]
    };
    let tls = [("security.protocol", "SSL"), ("ssl.ca.location", root.as_str())];
    let files =
        [&tls[..], &[("ssl.certificate.location", &cert), ("ssl.key.location", &key)]].concat();
    let texts = [
        ("security.protocol", "SSL"),
        ("ssl.ca.pem", &root_pem),
        ("ssl.certificate.pem", &cert_pem),
        ("ssl.key.pem", &key_pem),
    ];
    let locked = [
        &files[..3],
        &[("ssl.key.location", locked.as_str()), ("ssl.key.password", "key-password")],
    ]
    .concat();
    let ways = [
        (secure.tls, tls.to_vec()),
        (secure.mutual, files),
        (secure.mutual, texts.to_vec()),
        (secure.mutual, locked),
        (secure.login, login("PLAIN", "plain").to_vec()),
        (
            secure.clear,
            [&[("security.protocol", "SASL_PLAINTEXT")], &login("PLAIN", "plain")[1..]].concat(),
        ),
        (secure.login, login("SCRAM-SHA-256", "scram256").to_vec()),
        (secure.login, login("SCRAM-SHA-512", "scram512").to_vec()),
    ];
    let mut sent = 0;
    for (port, properties) in ways {
        let options = scene.options("localhost", port, &properties).set("log.level", "debug");
        let relay = options.start_ready().await;
        sent += 1;
        small.emit("k", sent).await;
        small.wait_for_sent(sent).await;
        for secret in [PASSWORD, "key-password", "BEGIN PRIVATE KEY"] {
            assert!(!relay.has_logged(secret), "{properties:?}");
        }
        assert_eq!(relay.stop().await, 0);
    }
    assert_eq!(small.kafka.wait_for(&small.topic, 8).await.len(), 8);
    scene.small.clear().await;
}

/// What is wrong is told by its code, by all who ask, and no event goes anywhere. It is not the
/// relay's end: whoever corrects the broker need not start it again.
#[tokio::test]
async fn who_is_not_let_into_kafka_says_so() {
    let scene = Scene::new("kafka_refused").await;
    let Scene { secure, small } = &scene;
    let stranger = Authority::new();
    let root = secure.authority.root().display().to_string();
    let other_root = stranger.root().display().to_string();
    let strange = stranger.issue("relay", "DNS:relay");
    let (cert, key) = (strange.cert.display().to_string(), strange.key.display().to_string());
    let tls = [("security.protocol", "SSL"), ("ssl.ca.location", root.as_str())];
    let login = |mechanism, user, password| {
        vec![
            ("security.protocol", "SASL_SSL"),
            ("ssl.ca.location", root.as_str()),
            ("sasl.mechanism", mechanism),
            ("sasl.username", user),
            ("sasl.password", password),
        ]
    };
    small.emit("k", 1).await;
    let strange = [&tls[..], &[("ssl.certificate.location", &cert), ("ssl.key.location", &key)]];
    for (host, port, properties, said) in [
        ("127.0.0.1", secure.tls, tls.to_vec(), "certificate verify failed"),
        (
            "localhost",
            secure.tls,
            vec![("security.protocol", "SSL"), ("ssl.ca.location", &other_root)],
            "certificate verify failed",
        ),
        ("localhost", secure.tls, vec![("security.protocol", "SSL")], "certificate verify failed"),
        ("localhost", secure.mutual, tls.to_vec(), "certificate"),
        ("localhost", secure.mutual, strange.concat(), "certificate"),
        (
            "localhost",
            secure.login,
            login("PLAIN", "plain", "canary-wrong"),
            "Authentication failed",
        ),
        (
            "localhost",
            secure.login,
            login("SCRAM-SHA-256", "scram256", "canary-wrong"),
            "uthentication failed",
        ),
        (
            "localhost",
            secure.login,
            login("SCRAM-SHA-512", "nobody", PASSWORD),
            "uthentication failed",
        ),
        ("localhost", secure.login, login("GSSAPIX", "plain", PASSWORD), ""),
    ] {
        let options = scene.options(host, port, &properties).set("log.level", "debug");
        if said.is_empty() {
            let (code, _, complaint) = options.command_output(&["run"]);
            assert_eq!((code, complaint.contains("OBX-4007")), (78, true), "{complaint}");
            continue;
        }
        let relay = options.start();
        relay.wait_for_state("stalled").await;
        let expected = if said.starts_with("cert") { "OBX-4011" } else { "OBX-4012" };
        relay.tells(expected).await;
        let status = relay.status().await;
        let error = &status["last_error"];
        assert_eq!(error["code"], expected, "{properties:?}: {status}");
        assert!(error["message"].as_str().unwrap().contains(said), "{properties:?}: {error}");
        assert!(error["remedy"].as_str().unwrap().contains("SIGHUP"), "{error}");
        let (code, ready) = relay.get("/readyz?verbose").await;
        assert_eq!(code, 503);
        assert!(ready.contains("[-] producer failed\n") && ready.contains(expected), "{ready}");
        assert!(!relay.has_logged("canary-wrong"));
        assert_eq!(small.database.statuses().await["PENDING"], 1);
        relay.kill().await;
    }
    // The one-shot check says the same.
    let wrong = login("PLAIN", "plain", "canary-wrong");
    for (port, properties, expected) in [
        (secure.login, wrong, "OBX-4012"),
        (secure.mutual, tls.to_vec(), "OBX-4011"),
        (secure.tls, vec![("security.protocol", "SSL")], "OBX-4011"),
    ] {
        let options = scene.options("localhost", port, &properties);
        let (code, findings, _) = options.command_output(&["doctor", "-o", "json"]);
        assert_eq!((code, findings.contains(expected)), (77, true), "{findings}");
    }
    assert!(small.kafka.read(&[&small.topic]).is_empty());
    scene.small.clear().await;
}
