//! The admin pages: health, readiness, version, status; and who may ask.

use outboxd::demo::{StopMode, TempPostgres};

use crate::support::broker::Broker;
use crate::support::database::Database;
use crate::support::kafka_proxy::KafkaProxy;
use crate::support::proxy::Cut;
use crate::support::relay::{Relay, RelayOptions, http_get};
use crate::support::small::Small;
use crate::support::wait::{SOON, eventually};
use crate::support::{pg_bin, setting};

const CHECKS: [&str; 5] = ["stream", "producer", "status writer", "publication", "slot"];

/// Waits until `/readyz?verbose` answers with this code and shows these checks as failed, and the
/// others as passed.
async fn wait_for_checks(relay: &Relay, code: u16, failed: &[&str]) {
    eventually(format!("{failed:?} to fail"), SOON, || async {
        let (answered, text) = relay.get("/readyz?verbose").await;
        let shown = |name: &str| match failed.contains(&name) {
            true => text.contains(&format!("[-] {name} failed\n")),
            false => text.contains(&format!("[+] {name} ok\n")),
        };
        answered == code && CHECKS.into_iter().all(shown)
    })
    .await;
}

#[tokio::test]
async fn readiness_is_lost_with_each_service_and_comes_back() {
    let mut server = TempPostgres::start(&pg_bin(), &[]).unwrap();
    let mut broker = Broker::start(&[]).await;
    let database = Database::new_at(&server.url("postgres"), "readiness").await;
    let relay = RelayOptions::new(&database, &broker.kafka()).start_ready().await;
    wait_for_checks(&relay, 200, &[]).await;
    let (code, text) = relay.get("/readyz").await;
    assert_eq!((code, text.as_str()), (200, "ready\n"));

    broker.kill();
    wait_for_checks(&relay, 503, &["producer"]).await;
    assert!(relay.get("/readyz").await.1.contains("not ready"));
    broker.start_again().await;
    wait_for_checks(&relay, 200, &[]).await;

    server.stop(StopMode::Fast);
    wait_for_checks(&relay, 503, &CHECKS).await;
    let (_, text) = relay.get("/readyz?verbose").await;
    assert!(text.contains("state starting") && text.contains("OBX-2001"), "{text}");
    for page in ["/livez", "/healthz"] {
        let (code, text) = relay.get(page).await;
        assert_eq!((code, text.as_str()), (200, "ok\n"), "the loop turns");
    }
    server.start_again().unwrap();
    wait_for_checks(&relay, 200, &[]).await;
    assert_eq!(relay.stop().await, 0);
}

/// While Kafka is away and events wait for it, the status says so.
#[tokio::test]
async fn the_status_says_what_the_relay_waits_for() {
    let small = Small::new("waits_for").await;
    let proxy = KafkaProxy::before(&small.kafka);
    let options = small.options().set("kafka.bootstrap_servers", &proxy.kafka().servers);
    let relay = options.start_ready().await;
    small.emit("k", 1).await;
    small.wait_for_sent(1).await;
    proxy.proxy.order(|orders| orders.refuses = true);
    proxy.proxy.cut(Cut::Reset);
    small.emit("k", 2).await;
    relay.wait_for_state("stalled").await;
    let status = relay.status().await;
    assert_eq!(status["last_error"]["code"], "OBX-4001", "{status}");
    assert!(status["last_error"]["remedy"].as_str().unwrap().contains("bootstrap_servers"));
    assert_eq!(status["in_flight"]["events"], 1);
    proxy.proxy.heal();
    small.wait_for_sent(2).await;
    relay.wait_for_state("streaming").await;
    assert_eq!(relay.status().await["last_error"], serde_json::Value::Null);
    assert_eq!(relay.stop().await, 0);
    small.clear().await;
}

#[tokio::test]
async fn version_and_status_have_stable_fields() {
    let small = Small::new("fields").await;
    let relay = small.options().set("relay.id", "named").start_ready().await;
    let (code, text) = relay.get("/version").await;
    let version: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(code, 200);
    assert_eq!(version["version"], env!("CARGO_PKG_VERSION"));
    small.emit("k", 1).await;
    small.wait_for_sent(1).await;
    let status = relay.status().await;
    assert_eq!((&status["relay"], &status["blocked_keys"]), (&"named".into(), &0.into()));
    for pointer in [
        "/state",
        "/slot/name",
        "/slot/active",
        "/slot/wal_status",
        "/slot/confirmed_lsn",
        "/slot/lag_bytes",
        "/slot/safe_wal_bytes",
        "/slot/seconds_until_limit",
        "/in_flight/events",
        "/in_flight/bytes",
        "/held/retry",
        "/held/parked",
        "/held/scheduled",
        "/held/topic",
        "/held/dead",
        "/rates/read",
        "/rates/published",
        "/rates/settled",
        "/rates/wal_bytes",
        "/rates/confirmed_bytes",
        "/latency/p50_seconds",
        "/latency/p99_seconds",
        "/lag_seconds",
        "/position",
        "/last_error",
    ] {
        assert!(status.pointer(pointer).is_some(), "{pointer} is not in {status}");
    }
    eventually("the slot to be seen", SOON, || async {
        let (_, slot) = relay.get("/api/v1/slot").await;
        let slot: serde_json::Value = serde_json::from_str(&slot).unwrap();
        slot["name"] == small.database.name.as_str() && slot["active"] == true
    })
    .await;
    assert_eq!(relay.get("/api/v1/nothing").await.0, 404);
    assert_eq!(relay.stop().await, 0);
    small.clear().await;
}

async fn code(address: &str, path: &str, headers: &[(&str, &str)]) -> u16 {
    http_get(address, path, headers).await.unwrap().0
}

#[tokio::test]
async fn the_api_answers_to_names_of_its_address_alone() {
    let small = Small::new("guard").await;
    let options = small.options().set("admin.hosts", r#"["relay.internal"]"#);
    let relay = options.start_ready().await;
    let address = relay.admin().await;
    let port = address.rsplit_once(':').unwrap().1;
    let local = format!("localhost:{port}");
    let evil = [("host", "evil.example")];
    for page in ["/livez", "/readyz", "/healthz", "/metrics", "/version"] {
        assert_eq!(code(&address, page, &evil).await, 200, "probes ask with any Host: {page}");
    }
    let api = "/api/v1/status";
    for host in [address.as_str(), &local, "relay.internal"] {
        assert_eq!(code(&address, api, &[("host", host)]).await, 200, "{host}");
    }
    for host in ["evil.example", "127.0.0.1:1", "relay.internal.evil.example"] {
        assert_eq!(code(&address, api, &[("host", host)]).await, 403, "{host}");
    }
    // A page of another site, in a browser on this machine.
    let host = ("host", local.as_str());
    let own = format!("http://{local}");
    for (header, expected) in [
        (("origin", own.as_str()), 200),
        (("origin", "https://evil.example"), 403),
        (("origin", "null"), 403),
        (("sec-fetch-site", "cross-site"), 403),
        (("sec-fetch-site", "same-origin"), 200),
    ] {
        assert_eq!(code(&address, api, &[host, header]).await, expected, "{header:?}");
    }
    assert_eq!(relay.stop().await, 0);
    let relay = small.options().start_ready().await;
    let address = relay.admin().await;
    assert_eq!(code(&address, api, &[("host", "relay.internal")]).await, 403, "not by default");
    assert_eq!(relay.stop().await, 0);
    small.clear().await;
}

#[tokio::test]
async fn off_loopback_there_is_no_api() {
    let small = Small::new("off_loopback").await;
    let relay = small.options().set("admin.listen", "0.0.0.0:0").start_ready().await;
    let address = relay.admin().await.replace("0.0.0.0", "127.0.0.1");
    let host = [("host", address.as_str())];
    assert_eq!(code(&address, "/readyz", &host).await, 200);
    for page in ["/api/v1/status", "/api/v1/slot"] {
        assert_eq!(code(&address, page, &host).await, 404, "there is no token to ask for: {page}");
    }
    assert_eq!(relay.stop().await, 0);
    // With one there is, for those who know it: whoever has the configuration does.
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("token");
    std::fs::write(&file, "a token of twenty bytes").unwrap();
    let token = ("admin.token_file", file.to_str().unwrap());
    let open = small.options().set(token.0, token.1).set("admin.listen", "0.0.0.0:0");
    let relay = open.clone().start_ready().await;
    let listens = relay.admin().await;
    let address = listens.replace("0.0.0.0", "127.0.0.1");
    let host = [("host", address.as_str())];
    assert_eq!(code(&address, "/api/v1/status", &host).await, 401);
    let (ended, said, _) =
        open.set("admin.listen", &listens).command_output(&["status", "-o", "json"]);
    let status: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!((ended, status["checks"]["stream"].as_bool()), (0, Some(true)), "{status}");
    assert_eq!(relay.stop().await, 0);
    // Not at all.
    let relay = small.options().set("admin.listen", "").start();
    small.emit("k", 1).await;
    small.wait_for_sent(1).await;
    assert!(!relay.has_logged("admin listener"));
    assert_eq!(relay.stop().await, 0);
    // Taken.
    let taken = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let (code, _, said) = small.options().set("admin.listen", &address).command_output(&["run"]);
    assert_eq!((code, said.contains("OBX-6001")), (78, true), "{said}");
    assert!(said.contains(&address) && !said.contains(&setting("DATABASE_URL")), "{said}");
    small.clear().await;
}
