//! The rules of the admin listener, asked of a real relay by those who do not keep them.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::relay::http;
use crate::support::small::Small;
use crate::support::wait::{LATER, SOON, eventually};

const TOKEN: &str = "canary-of-the-listeners-token";

/// What comes back for a head and a body that need not belong together.
async fn say(address: &str, text: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut answer = vec![0; 4096];
    let read = tokio::time::timeout(SOON, stream.read(&mut answer)).await.unwrap().unwrap();
    String::from_utf8_lossy(&answer[..read]).into_owned()
}

#[tokio::test]
async fn what_changes_something_is_asked_for_as_it_has_to_be() {
    let small = Small::new("rules").await;
    let token = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(token.path(), TOKEN).unwrap();
    let options = small.options().set("admin.token_file", token.path().to_str().unwrap());
    let relay = options.start_ready().await;
    let address = relay.admin().await;
    let bearer = format!("Bearer {TOKEN}");
    let asks = async |method: &str, path: &str, more: &[(&str, &str)], body: &str| {
        let headers = [&[("host", address.as_str())], more].concat();
        http(&address, method, path, &headers, body).await.unwrap()
    };
    let trusted = [("authorization", bearer.as_str())];
    for method in ["GET", "PUT", "DELETE", "PATCH", "HEAD"] {
        for path in ["/api/v1/pause", "/api/v1/events/e1/retry", "/api/v1/dlq/discard"] {
            assert_eq!(asks(method, path, &trusted, "").await.0, 405, "{method} {path}");
        }
    }
    for path in ["/livez", "/readyz", "/metrics", "/version"] {
        assert_eq!(asks("POST", path, &trusted, "").await.0, 405, "{path}");
        assert_eq!(asks("HEAD", path, &[], "").await.0, 200, "{path}");
    }
    // The token goes nowhere but into its header.
    let beside = format!("/api/v1/pause?token={TOKEN}&access_token={TOKEN}");
    assert_eq!(asks("POST", &beside, &[], "").await.0, 401);
    for wrong in [
        format!("Basic {TOKEN}"),
        TOKEN.to_owned(),
        "Bearer".to_owned(),
        "Bearer ".to_owned(),
        format!("Bearer {TOKEN}x"),
        format!("Bearer {}", &TOKEN[1..]),
    ] {
        let header = [("authorization", wrong.as_str())];
        assert_eq!(asks("POST", "/api/v1/pause", &header, "").await.0, 401, "{wrong}");
    }
    // What a form of another site could send is no request.
    for body in ["all=true", "<a/>", "\"all\""] {
        let form = [trusted[0], ("content-type", "application/x-www-form-urlencoded")];
        let (code, said) = asks("POST", "/api/v1/dlq/discard", &form, body).await;
        assert_eq!((code, said.contains("not a JSON object")), (400, true), "{body}: {said}");
    }
    assert_ne!(relay.state().await, "paused", "nothing of that did anything");
    for (site, expected) in [("cross-site", 403), ("same-site", 403), ("same-origin", 200)] {
        let headers = [trusted[0], ("sec-fetch-site", site)];
        assert_eq!(asks("POST", "/api/v1/resume", &headers, "").await.0, expected, "{site}");
    }
    let head = format!("host: {address}\r\nauthorization: {bearer}\r\n");
    let large =
        format!("POST /api/v1/dlq/discard HTTP/1.1\r\n{head}content-length: 9000000\r\n\r\n");
    let answer = say(&address, &large).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    let long = format!("GET /livez HTTP/1.1\r\nx: {}\r\n\r\n", "x".repeat(600_000));
    let answer = say(&address, &long).await;
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    assert!(say(&address, "nonsense\r\n\r\n").await.starts_with("HTTP/1.1 400"));
    assert!(!relay.has_logged(TOKEN));
    assert_eq!(relay.stop().await, 0);
    small.clear().await;
}

/// Whoever connects and says nothing does not keep probes away for long, and no descriptor.
#[tokio::test]
async fn silent_connections_do_not_use_up_the_listener() {
    let small = Small::new("silent").await;
    let relay = small.options().start_ready().await;
    let address = relay.admin().await;
    let before = relay.descriptors();
    let mut silent = Vec::new();
    for n in 0..200 {
        let mut stream = TcpStream::connect(&address).await.unwrap();
        if n % 2 == 0 {
            stream.write_all(b"POST /api/v1/pause HTTP/1.1\r\nhost: ").await.unwrap();
        }
        silent.push(stream);
    }
    eventually("probes to be answered", LATER, || async {
        let probe = tokio::time::timeout(Duration::from_secs(1), relay.get("/livez")).await;
        probe.is_ok_and(|(code, _)| code == 200)
    })
    .await;
    eventually("them to be let go", LATER, || async { relay.descriptors() < before + 20 }).await;
    drop(silent);
    // Many that have something to say are all answered.
    let asked = (0..300).map(|_| {
        let address = address.clone();
        tokio::spawn(async move { http(&address, "GET", "/readyz", &[("host", "any")], "").await })
    });
    for answer in asked.collect::<Vec<_>>() {
        assert_eq!(answer.await.unwrap().unwrap().0, 200);
    }
    assert_eq!(relay.stop().await, 0);
    small.clear().await;
}
