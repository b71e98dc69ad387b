//! Canaries: a word that occurs nowhere else is in every secret and in every payload, and nowhere in
//! what the relay says, whatever goes wrong.

use std::sync::Arc;

use nix::sys::signal::Signal;

use crate::support::canary::{CANARY, Ears, TOKEN};
use crate::support::database::Database;
use crate::support::records::Kafka;
use crate::support::relay::RelayOptions;
use crate::support::secure::{PASSWORD, SecureBroker};
use crate::support::small::Small;
use crate::support::unique;
use crate::support::wait::{SOON, eventually};

struct Scene {
    secure: Arc<SecureBroker>,
    small: Small,
    directory: tempfile::TempDir,
    ears: Ears,
}

impl Scene {
    async fn new() -> Self {
        let secure = SecureBroker::shared().await;
        let kafka = secure.kafka();
        let topic = unique("canaries");
        kafka.create_topic(&topic, 1, &[("max.message.bytes", "2000")]).await;
        let database = Database::new("canaries").await;
        let small = Small { database, kafka, topic };
        Self { secure, small, directory: tempfile::tempdir().unwrap(), ears: Ears::default() }
    }

    /// A file with a secret in it.
    fn file(&self, name: &str, text: &str) -> String {
        let path = self.directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    fn options(&self) -> RelayOptions {
        let url = self.small.database.url.replace("://postgres@", "://postgres:canary-of-the-url@");
        let url = self.file("url", &url);
        let own = self.secure.authority.issue("canary", "DNS:relay");
        let key = self.secure.authority.lock(&own, "canary-of-the-key");
        let mut properties = self.secure.login("SCRAM-SHA-256", "scram256", PASSWORD);
        properties.retain(|(name, _)| name != "sasl.password");
        let lines = properties.iter().map(|(name, value)| format!("{name}={value}\n"));
        let text = format!(
            "{}sasl.password_file={}\nssl.certificate.location={}\nssl.key.location={}\n\
             ssl.key.password=canary-of-the-key\ndebug=all\n",
            lines.collect::<String>(),
            self.file("password", PASSWORD),
            own.cert.display(),
            key.display(),
        );
        let kafka = Kafka::at(format!("localhost:{}", self.secure.login));
        RelayOptions::new(&self.small.database, &kafka)
            .unset("postgres.url")
            .set("postgres.url_file", &url)
            .set("kafka.properties_file", &self.file("properties", &text))
            .set("admin.token_file", &self.file("token", TOKEN))
            .set("retry.max_attempts", "2")
            .set("retry.initial_backoff", "50ms")
            .set("dead_letter.topic", "")
            .set("dead_letter.default", "")
            .set("log.level", "trace")
    }

    /// Writes a row with canaries in it; `topic` and `headers` as SQL.
    async fn emit(&self, key: &str, size: usize, headers: &str) {
        let payload = format!("{{\"card\": \"{}\"}}", "canary-payload ".repeat(size));
        let sql = "SELECT outboxd.emit('tested', $1, 'Tested', $2::text::jsonb, $3::text::jsonb, \
                   topic => $4, tenant_id => 'canary-tenant')::text";
        self.small.database.row(sql, &[&key, &payload, &headers, &self.small.topic]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_secret_and_no_payload_is_ever_shown() {
    assert!(PASSWORD.starts_with(CANARY));
    let mut scene = Scene::new().await;
    let options = scene.options();
    let relay = options.start_ready().await;
    // Sent; refused for its size, tried again and given up; misfits; one whose status is refused.
    scene.emit("good", 1, r#"{"h": "canary-header", "traceparent": "canary-trace"}"#).await;
    scene.small.wait_for_sent(1).await;
    scene.emit("large", 300, "{}").await;
    let dead = "SELECT count(*) FROM outboxd.held_event WHERE reason = 'dead'";
    eventually("it to be dead", SOON, || async { scene.small.database.count(dead).await == 1 })
        .await;
    scene.emit("misfit", 1, r#"["canary-header"]"#).await;
    scene.emit("misfit-2", 1, r#"{"bad-name\u0001": {"a": "canary-header"}}"#).await;
    let check =
        "ALTER TABLE outbox ADD CHECK (status <> 'SENT' OR aggregate_id <> 'stuck') NOT VALID";
    scene.small.database.execute(check).await;
    scene.emit("stuck", 1, "{}").await;
    relay.wait_until_logged("a row refused its status").await;
    scene.ears.ask_all(&relay, "while it runs").await;
    scene.ears.run_all(&options, "while it runs");
    // The stream breaks; then what is read again is wrong, and then right.
    let end = format!(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
         WHERE datname = '{}' AND backend_type = 'walsender'",
        scene.small.database.name
    );
    scene.small.database.execute(&end).await;
    relay.wait_until_logged("OBX-2001").await;
    eventually("it to be ready again", SOON, || async { relay.get("/readyz").await.0 == 200 })
        .await;
    scene.file("password", "canary-wrong");
    relay.signal(Signal::SIGHUP);
    relay.wait_until_logged("OBX-4012").await;
    scene.file("url", "postgres://postgres:canary-of-the-url@127.0.0.1:1/x y?sslmode=allow");
    relay.signal(Signal::SIGHUP);
    relay.wait_until_logged("OBX-1001").await;
    scene.ears.hear_log(&relay, "of the first relay");
    assert!(relay.has_logged("TRACE") && relay.has_logged("librdkafka"));
    relay.kill().await;

    // From the start with a wrong password.
    let options = scene.options();
    scene.file("password", "canary-wrong");
    let relay = options.start();
    relay.tells("OBX-4012").await;
    scene.ears.ask_all(&relay, "while it is not let in").await;
    scene.ears.run_all(&options, "while it is not let in");
    scene.ears.hear_log(&relay, "of the second relay");
    relay.kill().await;

    // Mistakes in the configuration itself.
    for (key, value) in [
        ("postgres.url_file", "/canary-is-no-file"),
        ("kafka.properties", r#"{"sasl.pasword": "canary-"}"#),
        ("kafka.properties", r#"{"ssl.key.pem": "canary-"}"#),
        ("kafka.properties", r#"{"sasl.password": "canary-"}"#),
        ("kafka.properties", "{canary-"),
        ("postgres.url", "postgres://u:canary-@h:canary/d"),
        ("postgres.url", "host=h password='canary-"),
        ("nothing.known", "canary-"),
    ] {
        let wrong = match key {
            "postgres.url" => scene.options().unset("postgres.url_file").set(key, value),
            _ => scene.options().set(key, value),
        };
        scene.ears.run_with_mistake(&wrong, "run", &format!("{key} = {value}"));
    }
    scene.ears.read_tables(&scene.small.database).await;
    scene.ears.have_heard_none(&[CANARY], 60);
    scene.small.database.clear().await;
}
