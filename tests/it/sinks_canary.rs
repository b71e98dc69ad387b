//! Canaries in the secrets of Redis and NATS, and in payloads on their way there: nowhere in what the
//! relay says, whatever goes wrong.

use std::path::PathBuf;

use async_nats::ConnectOptions;
use nix::sys::signal::Signal;
use nkeys::KeyPair;
use outboxd::sink::NatsConfig;

use crate::support::canary::{CANARY, Ears, TOKEN};
use crate::support::nats::TempNats;
use crate::support::outlet::{Outlet, OutletSmall};
use crate::support::redis::{TempRedis, config};
use crate::support::relay::RelayOptions;
use crate::support::unique;
use crate::support::wait::{SOON, eventually};

/// How the relay logs in: keys, and what they say or, where they name a file, what it holds.
type Login<'a> = &'a [(&'a str, &'a str)];

struct Scene<O> {
    small: OutletSmall<O>,
    directory: tempfile::TempDir,
    ears: Ears,
}

impl<O: Outlet> Scene<O> {
    async fn new(server: O, name: &str) -> Self {
        let small = OutletSmall::with(server, &unique(name)).await;
        small.outlet.limit(&small.topic, 1 << 20).await;
        small.database.execute("ALTER TABLE outbox DROP CONSTRAINT outbox_payload_size").await;
        Self { small, directory: tempfile::tempdir().unwrap(), ears: Ears::default() }
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.directory.path().join(name);
        std::fs::write(&path, format!("{text}\n")).unwrap();
        path.display().to_string()
    }

    fn options(&self, login: Login<'_>) -> RelayOptions {
        let options = self
            .small
            .options()
            .set("admin.token_file", &self.file("token", TOKEN))
            .set("retry.max_attempts", "2")
            .set("retry.initial_backoff", "50ms")
            .set("dead_letter.topic", "")
            .set("dead_letter.default", "")
            .set("log.level", "trace");
        login.iter().fold(options, |options, (key, value)| match key.ends_with("_file") {
            true => options.unset(key.trim_end_matches("_file")).set(key, &self.file(key, value)),
            false => options.set(key, value),
        })
    }

    /// Writes a row with canaries in it.
    async fn emit(&self, key: &str, times: usize, headers: &str) {
        let payload = format!("{{\"card\": \"{}\"}}", "canary-payload ".repeat(times));
        let sql = "SELECT outboxd.emit('tested', $1, 'Tested', $2::text::jsonb, $3::text::jsonb, \
                   topic => $4, tenant_id => 'canary-tenant')::text";
        self.small.database.row(sql, &[&key, &payload, &headers, &self.small.topic]).await;
    }

    async fn becomes(&self, key: &str, status: &str) {
        let sql = format!(
            "SELECT count(*) FROM outbox WHERE aggregate_id = '{key}' AND status = '{status}'"
        );
        eventually(format!("{key} to be {status}"), SOON, || async {
            self.small.database.count(&sql).await == 1
        })
        .await;
    }
}

/// With a right login and a wrong one, and with mistakes in the configuration.
async fn nothing_is_shown<O: Outlet>(
    server: O,
    name: &str,
    right: Login<'_>,
    wrong: Login<'_>,
    mistakes: Login<'_>,
) {
    let mut scene = Scene::new(server, name).await;
    let options = scene.options(right);
    let relay = options.start_ready().await;
    // Sent; refused for its size, tried again and given up; misfits.
    scene.emit("good", 1, r#"{"h": "canary-header", "traceparent": "canary-trace"}"#).await;
    scene.becomes("good", "SENT").await;
    scene.emit("large", 80_000, "{}").await;
    scene.emit("misfit", 1, r#"["canary-header"]"#).await;
    scene.emit("odd", 1, r#"{"bad-name\u0001": {"a": "canary-header"}}"#).await;
    scene.becomes("large", "FAILED").await;
    scene.becomes("misfit", "FAILED").await;
    scene.ears.ask_all(&relay, "while it runs").await;
    scene.ears.run_all(&options, "while it runs");
    scene.small.outlet.crash();
    relay.tells("OBX-4001").await;
    scene.emit("away", 1, "{}").await;
    scene.ears.ask_all(&relay, "while nobody answers").await;
    scene.ears.run_all(&options, "while nobody answers");
    scene.small.outlet.start_again().await;
    scene.becomes("away", "SENT").await;
    // What is read again is wrong, and is not even one.
    let wrong_options = scene.options(wrong);
    relay.signal(Signal::SIGHUP);
    relay.wait_until_logged("OBX-4012").await;
    let (key, _) = wrong.last().unwrap();
    std::fs::remove_file(scene.directory.path().join(key)).unwrap();
    relay.signal(Signal::SIGHUP);
    relay.wait_until_logged("OBX-1001").await;
    scene.ears.hear_log(&relay, "of the first relay");
    assert!(relay.has_logged("DEBUG"));
    relay.kill().await;

    scene.options(wrong);
    let relay = wrong_options.start();
    relay.tells("OBX-4012").await;
    scene.emit("not let in", 1, "{}").await;
    scene.ears.ask_all(&relay, "while it is not let in").await;
    scene.ears.run_all(&wrong_options, "while it is not let in");
    scene.ears.hear_log(&relay, "of the second relay");
    relay.kill().await;

    for (key, value) in mistakes {
        let options = match key.ends_with(".url") {
            true => options.clone().unset(&format!("{key}_file")),
            false => options.clone(),
        };
        scene.ears.run_with_mistake(
            &options.set(key, value),
            "doctor",
            &format!("{key} = {value}"),
        );
    }
    scene.ears.read_tables(&scene.small.database).await;
    let secrets: Vec<&str> = right.iter().chain(wrong).map(|(_, value)| *value).collect();
    let seeds = secrets.into_iter().filter(|value| value.starts_with("SU"));
    scene.ears.have_heard_none(&[CANARY].into_iter().chain(seeds).collect::<Vec<_>>(), 60);
    scene.small.clear().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_secret_of_redis_and_no_payload_is_ever_shown() {
    let guarded =
        ["--appendonly", "yes", "--appendfsync", "always", "--requirepass", "canary-right"];
    let login = ["-a", "canary-right", "--no-auth-warning"];
    let redis = TempRedis::start_for(&guarded, &login).await;
    // The password in the file goes before the one in the URL.
    let url = format!("redis://default:canary-of-the-url@127.0.0.1:{}", redis.port());
    let right = [("redis.url_file", &*url), ("redis.password_file", "canary-right")];
    let wrong = [("redis.url_file", &*url), ("redis.password_file", "canary-wrong")];
    let mistakes = [
        ("redis.url", "http://u:canary-@h"),
        ("redis.url", "redis://u:canary-@"),
        ("redis.url", "redis://u:canary-%zz@h"),
        ("redis.url", "redis://u:canary-@h:canary"),
        ("redis.url", "redis://h,rediss://u:canary-@h"),
        ("redis.url_file", "/canary-is-no-file"),
        ("redis.password", "canary-"),
        ("redis.pasword", "canary-"),
        ("redis.tls_cert", "/canary-is-no-file"),
    ];
    nothing_is_shown(redis, "redis_canaries", &right, &wrong, &mistakes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_password_of_nats_and_no_payload_is_ever_shown() {
    let users = "max_payload: 8MB\n\
                 authorization { users: [ { user: relay, password: \"canary-right\" } ] }";
    let login = ConnectOptions::new().user_and_password("relay".into(), "canary-right".into());
    let nats = TempNats::start_as(users, login).await;
    let url = |password: &str| format!("nats://relay:{password}@{}", nats.address());
    let (right, wrong) = (url("canary-right"), url("canary-wrong"));
    let mistakes = [
        ("nats.url", "http://u:canary-@h"),
        ("nats.url", "nats://u:canary-@"),
        ("nats.url", "nats://u:canary-%zz@h"),
        ("nats.url", "nats://u:canary-@h:canary"),
        ("nats.url_file", "/canary-is-no-file"),
        ("nats.password", "canary-"),
        ("nats.pasword", "canary-"),
        ("nats.tls_key", "/canary-is-no-file"),
    ];
    let (right, wrong) = ([("nats.url_file", &*right)], [("nats.url_file", &*wrong)]);
    nothing_is_shown(nats, "nats_canaries", &right, &wrong, &mistakes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_token_of_nats_and_no_payload_is_ever_shown() {
    let login = ConnectOptions::new().token("canary-right".into());
    let known = "max_payload: 8MB\nauthorization { token: \"canary-right\" }";
    let nats = TempNats::start_as(known, login).await;
    let (right, wrong) =
        ([("nats.token_file", "canary-right")], [("nats.token_file", "canary-wrong")]);
    let mistakes = [("nats.token", "canary-"), ("nats.token_file", "/canary-is-no-file")];
    nothing_is_shown(nats, "nats_token_canaries", &right, &wrong, &mistakes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_seed_of_nats_and_no_payload_is_ever_shown() {
    let [key, stranger] = [(); 2].map(|()| KeyPair::new_user());
    let (seed, strange) = (key.seed().unwrap(), stranger.seed().unwrap());
    let known = format!(
        "max_payload: 8MB\nauthorization {{ users: [ {{ nkey: {} }} ] }}",
        key.public_key()
    );
    let nats = TempNats::start_as(&known, ConnectOptions::with_nkey(seed.clone())).await;
    let right = [("nats.credentials_file", &*seed)];
    let wrong = [("nats.credentials_file", &*strange)];
    let mistakes = [("nats.credentials_file", "/canary-is-no-file"), ("nats.token", "canary-")];
    nothing_is_shown(nats, "nats_seed_canaries", &right, &wrong, &mistakes).await;
}

#[test]
fn a_configuration_is_shown_without_its_secrets() {
    let mut redis = config("rediss://u:canary-@h:1/2");
    (redis.username, redis.password) = (Some("u".to_owned()), Some("canary-".to_owned()));
    let nats = NatsConfig {
        url: "nats://u:canary-@h:1,nats://canary-@i".to_owned(),
        user: Some("u".to_owned()),
        password: Some("canary-".to_owned()),
        token: Some("canary-".to_owned()),
        credentials_file: Some(PathBuf::from("/a")),
        tls_ca: None,
        tls_cert: None,
        tls_key: None,
        stream: None,
        create_streams: None,
        in_flight_events: 1,
        in_flight_bytes: 1,
    };
    for shown in [format!("{redis:?}"), format!("{nats:?}")] {
        assert!(!shown.contains(CANARY) && shown.contains("h:1"), "{shown}");
    }
    assert_eq!((redis.describe(), nats.describe()), ("h:1".to_owned(), "h:1,i".to_owned()));
}
