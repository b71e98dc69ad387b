//! Redis and NATS as the configuration says: secrets that lie in files, and no more at once than may
//! be.

use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use async_nats::ConnectOptions;
use tempfile::NamedTempFile;

use crate::support::certificates::Authority;
use crate::support::database::Database;
use crate::support::nats::TempNats;
use crate::support::redis::TempRedis;
use crate::support::relay::{Relay, RelayOptions};
use crate::support::wait::{SOON, eventually, stays};

fn file(text: &str) -> (NamedTempFile, String) {
    let mut file = NamedTempFile::new().unwrap();
    writeln!(file, "{text}").unwrap();
    let path = file.path().to_str().unwrap().to_owned();
    (file, path)
}

async fn emit(database: &Database, topic: &str, events: usize) {
    for n in 0..events {
        database.emit("tested", &format!("k{n}"), topic, "{}").await;
    }
}

/// While the server is frozen, no more than 5 are read.
async fn takes_5_at_once(relay: &Relay, freeze: impl Fn(bool), database: &Database, topic: &str) {
    emit(database, topic, 1).await;
    database.wait_for_sent(1).await;
    freeze(true);
    emit(database, topic, 20).await;
    let in_flight = || async { relay.status().await["in_flight"]["events"].as_u64() };
    eventually("5 in flight", SOON, || async { in_flight().await == Some(5) }).await;
    stays("5 in flight", Duration::from_secs(1), || async { in_flight().await == Some(5) }).await;
    freeze(false);
    database.wait_for_sent(21).await;
}

#[tokio::test]
async fn redis_is_reached_by_what_lies_in_files_and_takes_no_more_at_once_than_is_said() {
    let redis = TempRedis::start_for(&["--requirepass", "a:b/c@d"], &["-a", "a:b/c@d"]).await;
    let database = Database::new("redis_files").await;
    let (_url, url) = file(&redis.url());
    let (_password, password) = file("a:b/c@d");
    let options = RelayOptions::of(&database).set("sink.kind", "redis").set("redis.url_file", &url);
    let options = options.set("redis.username", "default").set("redis.in_flight_events", "5");
    let options = options.set("redis.in_flight_bytes", "64KiB");
    let (code, said, _) = options.command_output(&["doctor"]);
    assert!(code == 77 && said.contains("OBX-4012"), "{code}: {said}");
    let options = options.set("redis.password_file", &password);
    let (_, shown, _) = options.command_output(&["config", "show"]);
    assert!(!shown.contains("a:b/c@d"), "{shown}");
    let relay = options.start_ready().await;
    let freeze = |is_frozen: bool| if is_frozen { redis.freeze() } else { redis.thaw() };
    takes_5_at_once(&relay, freeze, &database, "configured").await;
    assert_eq!(redis.ids("configured").len(), 21);
    assert_eq!(relay.stop().await, 0);
    database.clear().await;
}

#[tokio::test]
async fn nats_is_reached_by_what_lies_in_files_and_takes_no_more_at_once_than_is_said() {
    let login = ConnectOptions::new().user_and_password("u".to_owned(), "a:b".to_owned());
    let users = "authorization { users: [ { user: u, password: \"a:b\" } ] }";
    let nats = TempNats::start_as(users, login).await;
    nats.create("S", &["configured"]).await;
    let database = Database::new("nats_files").await;
    let (_url, url) = file(&nats.url());
    let (_password, password) = file("a:b");
    let options = RelayOptions::of(&database).set("sink.kind", "nats").set("nats.url_file", &url);
    let options = options.set("nats.user", "u").set("nats.in_flight_events", "5");
    let options = options.set("nats.in_flight_bytes", "64KiB");
    let options = options.set("nats.password_file", &password);
    let (_, shown, _) = options.command_output(&["config", "show"]);
    assert!(!shown.contains("a:b"), "{shown}");
    let relay = options.clone().set("nats.create_streams", "true").set("nats.replicas", "3");
    let relay = relay.start_ready().await;
    let freeze = |is_frozen: bool| if is_frozen { nats.freeze() } else { nats.thaw() };
    takes_5_at_once(&relay, freeze, &database, "configured").await;
    assert_eq!(nats.messages("S").await.len(), 21);
    // One server cannot keep three copies.
    emit(&database, "another", 1).await;
    relay.tells("OBX-4002").await;
    assert_eq!(relay.stop().await, 0);
    database.clear().await;
}

#[tokio::test]
async fn a_token_for_nats_lies_in_a_file() {
    let login = ConnectOptions::new().token("t0ken".to_owned());
    let nats = TempNats::start_as("authorization { token: \"t0ken\" }", login).await;
    nats.create("S", &["configured"]).await;
    let database = Database::new("nats_token").await;
    let (_token, token) = file("t0ken");
    let options = nats.options(&database).set("nats.token_file", &token);
    let relay = options.start_ready().await;
    emit(&database, "configured", 1).await;
    database.wait_for_sent(1).await;
    assert_eq!(relay.stop().await, 0);
    database.clear().await;
}

/// What the keys say of a server behind TLS, which asks for a certificate and a password.
#[tokio::test]
async fn redis_behind_tls_keeps_as_much_as_is_said() {
    let authority = Authority::new();
    let [server, own] = ["server", "relay"].map(|name| authority.issue(name, "DNS:localhost"));
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    let [cert, key] = [path(&server.cert), path(&server.key)];
    let root = path(&authority.root());
    let words = ["--tls-cert-file", &cert, "--tls-key-file", &key, "--tls-ca-cert-file", &root];
    let guarded = [&words[..], &["--requirepass", "guarded"]].concat();
    let [cert, key] = [path(&own.cert), path(&own.key)];
    let login = ["--tls", "--insecure", "-a", "guarded", "--cert", &cert, "--key", &key];
    let redis = TempRedis::start_for(&guarded, &login).await;
    let database = Database::new("redis_tls").await;
    let url = format!("rediss://localhost:{}", redis.port());
    let options = RelayOptions::of(&database).set("sink.kind", "redis").set("redis.url", &url);
    let options = options.set("redis.tls_ca", &root).set("redis.password", "guarded");
    let doctor = |options: &RelayOptions, expected: &str| {
        let (_, said, _) = options.command_output(&["doctor"]);
        assert!(said.contains(expected), "{expected}: {said}");
    };
    doctor(&options, "OBX-4011");
    let options = options.set("redis.tls_cert", &cert).set("redis.tls_key", &key);
    let on_disk = options.clone().set("redis.durability", "aof");
    doctor(&on_disk, "appendonly");
    let relay = options.set("redis.max_len", "100").set("redis.trim", "force").start_ready().await;
    redis.cli(&["XGROUP", "CREATE", "configured", "readers", "0", "MKSTREAM"]);
    emit(&database, "configured", 500).await;
    database.wait_for_sent(500).await;
    let left = redis.ids("configured").len();
    assert!((100..300).contains(&left), "{left}");
    assert_eq!(relay.stop().await, 0);
    database.clear().await;
}

/// The relay asks a sentinel which server to write to.
#[tokio::test]
async fn a_sentinel_leads_to_redis() {
    let redis = TempRedis::start(&[]).await;
    let home = tempfile::Builder::new().prefix("outboxd-sentinel-").tempdir().unwrap();
    let file = home.path().join("sentinel.conf");
    let text = format!("sentinel monitor main 127.0.0.1 {} 1\n", redis.port());
    std::fs::write(&file, text).unwrap();
    let sentinel = TempRedis::start(&[file.to_str().unwrap()]).await;
    let database = Database::new("redis_sentinel").await;
    let options = RelayOptions::of(&database).set("sink.kind", "redis");
    let options = options.set("redis.url", &sentinel.url()).set("redis.topology", "sentinel");
    let relay = options.set("redis.sentinel_master", "main").start_ready().await;
    emit(&database, "configured", 1).await;
    database.wait_for_sent(1).await;
    assert_eq!(redis.ids("configured").len(), 1);
    assert_eq!(relay.stop().await, 0);
    database.clear().await;
}
