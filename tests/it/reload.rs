//! SIGHUP: secrets that lie in files are read again while the relay works.

use std::path::Path;

use nix::sys::signal::Signal;

use crate::support::certificates::{Authority, secure_server};
use crate::support::database::Database;
use crate::support::records::Kafka;
use crate::support::relay::{Relay, RelayOptions, http};
use crate::support::small::Small;
use crate::support::stage::Stage;
use crate::support::wait::{LATER, SOON, eventually};

pub const TAKEN_ON: &str = "read again, and taken on";
pub const KEPT: &str = "everything stays as it was";

pub fn count(relay: &Relay, text: &str) -> usize {
    relay.logged().iter().filter(|line| line.contains(text)).count()
}

/// Has everything read again, and waits for `text`.
pub async fn reload(relay: &Relay, text: &str) {
    let before = count(relay, text);
    relay.signal(Signal::SIGHUP);
    eventually(format!("{text:?} again"), SOON, || async { count(relay, text) > before }).await;
}

/// Replaces a file as whoever rotates secrets does.
pub fn write(path: &Path, text: &str) {
    let next = path.with_extension("next");
    std::fs::write(&next, text).unwrap();
    std::fs::rename(next, path).unwrap();
}

/// Passwords are changed under traffic: nothing comes twice. What is wrong changes nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotated_password_of_postgresql_takes_effect_and_repeats_nothing() {
    let authority = Authority::new();
    let certificate = authority.issue("localhost", "DNS:localhost");
    let rules = "host all outboxd 127.0.0.1/32 scram-sha-256";
    let server = secure_server(&authority, &certificate, rules).await;
    let database = Database::new_at(&server.url("postgres"), "rotated").await;
    let stage = Stage::at(database, Kafka::shared(), "rotated", 20).await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("url");
    let url = |password: &str, database: &str| {
        format!("postgres://outboxd:{password}@127.0.0.1:{}/{database}\n", server.port())
    };
    let name = stage.database.name.clone();
    let change = |password: String| {
        let sql = format!("ALTER ROLE outboxd PASSWORD '{password}'");
        let database = &stage.database;
        async move { database.execute(&sql).await }
    };
    change("canary-0".to_owned()).await;
    write(&file, &url("canary-0", &name));
    let options = RelayOptions::new(&stage.database, &stage.kafka).unset("postgres.url");
    let options = options.set("postgres.url_file", file.to_str().unwrap());
    let relay = options.start_ready().await;
    let writing = stage.workload.start(&stage.database);
    for n in 1..=3 {
        // The next password opens before the relay knows it: from then on only the new one does.
        change(format!("canary-{n}")).await;
        write(&file, &url(&format!("canary-{n}"), &name));
        reload(&relay, TAKEN_ON).await;
        eventually("the next session", SOON, || async { count(&relay, "took the place") == n + 1 })
            .await;
        relay.wait_for_state("streaming").await;
    }
    assert_eq!(count(&relay, "\"drained\":true"), 3);
    // Nothing changed, then mistakes: the session stays.
    reload(&relay, "read again: no secret has changed").await;
    for (text, code) in [
        (Some(url("canary-wrong", &name)), "OBX-2002"),
        (Some(url("canary-3", "elsewhere")), "OBX-1001"),
        (Some("canary-nonsense".to_owned()), "OBX-1001"),
        (None, "OBX-1001"),
    ] {
        match &text {
            Some(text) => write(&file, text),
            None => std::fs::remove_file(&file).unwrap(),
        }
        reload(&relay, KEPT).await;
        let line = relay
            .events()
            .into_iter()
            .rfind(|line| line["message"].as_str().is_some_and(|m| m.contains(KEPT)));
        assert_eq!(line.unwrap()["code"], code, "{code}");
    }
    assert_eq!(count(&relay, "took the place"), 4);
    relay.wait_for_state("streaming").await;
    writing.stop().await;
    stage.check(0).await;
    assert!(!relay.has_logged("canary-"));
    assert_eq!(relay.stop().await, 0);
}

/// The token of `/api`, at once; and what only a start takes on.
#[tokio::test]
async fn a_rotated_token_takes_effect_at_once_and_the_session_stays() {
    let small = Small::new("token").await;
    let directory = tempfile::tempdir().unwrap();
    let (token, settings) = (directory.path().join("token"), directory.path().join("outboxd.toml"));
    write(&token, "canary-of-the-old-token");
    write(&settings, "[retry]\nmax_attempts = 5\n");
    let options = small.options().set("admin.token_file", token.to_str().unwrap());
    let relay = options.file(settings.to_str().unwrap()).start_ready().await;
    let address = relay.admin().await;
    let answer = async |token: &str| {
        let bearer = format!("Bearer {token}");
        let headers = [("host", address.as_str()), ("authorization", bearer.as_str())];
        http(&address, "POST", "/api/v1/resume", &headers, "").await.unwrap().0
    };
    assert_eq!(answer("canary-of-the-old-token").await, 200);
    assert_eq!(answer("canary-of-the-new-token").await, 401);
    write(&token, "canary-of-the-new-token");
    reload(&relay, TAKEN_ON).await;
    assert_eq!(answer("canary-of-the-old-token").await, 401);
    assert_eq!(answer("canary-of-the-new-token").await, 200);
    // An empty file is no token, and would be a door without a key.
    write(&token, "");
    reload(&relay, KEPT).await;
    assert_eq!(answer("canary-of-the-new-token").await, 200);
    write(&token, "canary-of-the-new-token");
    write(&settings, "[retry]\nmax_attempts = 7\n");
    reload(&relay, "only a start takes it on").await;
    assert!(relay.has_logged("\"keys\":\"retry.max_attempts\""));
    write(&settings, "[retry\n");
    reload(&relay, KEPT).await;
    assert_eq!(count(&relay, "took the place"), 1, "none of it needs another session");
    small.emit("k", 1).await;
    small.wait_for_sent(1).await;
    assert!(!relay.has_logged("canary-of-the"));
    assert_eq!(relay.stop().await, 0);
    small.clear().await;
}

/// A standby takes on what it is given, too, and keeps standing by.
#[tokio::test]
async fn a_standby_is_let_in_anew_and_goes_on_waiting() {
    let small = Small::new("standby_reload").await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("url");
    write(&file, &small.database.url);
    let first = small.options().start_ready().await;
    let options = small.options().unset("postgres.url");
    let second = options.set("postgres.url_file", file.to_str().unwrap()).start_ready().await;
    second.wait_for_state("standby").await;
    write(&file, &format!("{}?connect_timeout=7", small.database.url));
    reload(&second, TAKEN_ON).await;
    second.wait_until_logged("for the sake of new credentials").await;
    second.wait_for_state("standby").await;
    assert_eq!(first.stop().await, 0);
    eventually("the standby to take over", LATER, || async {
        ["catching_up", "streaming"].contains(&second.state().await.as_str())
    })
    .await;
    small.emit("k", 1).await;
    small.wait_for_sent(1).await;
    assert_eq!(second.stop().await, 0);
    small.clear().await;
}
