//! The same over HTTP. The relay under test stands by, because the test has its place: so every
//! request stays until the test, as the relay that runs, has carried it out.

use serde_json::{Value, json};

use crate::support::database::Database;
use crate::support::held::{StandIn, hold};
use crate::support::records::Kafka;
use crate::support::relay::{Relay, RelayOptions, http};

const TOKEN: &str = "canary-of-a-token";
const BEARER: (&str, &str) = ("authorization", "Bearer canary-of-a-token");

struct Scene {
    database: Database,
    place: StandIn,
    options: RelayOptions,
    _token: tempfile::NamedTempFile,
}

impl Scene {
    async fn new(name: &str) -> Self {
        let database = Database::new(name).await;
        let place = StandIn::take_place(&database, "outboxd").await;
        let token = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(token.path(), format!("{TOKEN}\n")).unwrap();
        let options = RelayOptions::new(&database, &Kafka::shared());
        let options = options.set("admin.token_file", token.path().to_str().unwrap());
        Self { database, place, options, _token: token }
    }

    async fn clear(self) {
        self.database.clear().await;
    }
}

async fn ask(relay: &Relay, method: &str, path: &str, token: bool, body: &str) -> (u16, Value) {
    let address = relay.admin().await;
    let mut headers = vec![("host", address.as_str())];
    headers.extend(token.then_some(BEARER));
    let path = format!("/api/v1/{path}");
    let (code, text) = http(&address, method, &path, &headers, body).await.unwrap();
    (code, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

fn ids(listed: &Value) -> Vec<&str> {
    let items = listed.as_array().unwrap_or_else(|| panic!("{listed}")).iter();
    items.map(|item| item["event_id"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn the_token_opens_what_it_guards() {
    let scene = Scene::new("http_token").await;
    hold(&scene.database, "outboxd", "e1", "retry", "a").await;
    let posts = [
        "pause",
        "resume",
        "events/e1/retry",
        "events/e1/skip",
        "events/retry",
        "events/skip",
        "keys/a/unblock",
        "keys/unblock",
        "dlq/e1/redrive",
        "dlq/e1/discard",
        "dlq/redrive",
        "dlq/discard",
    ];
    let gets = ["status", "events", "events/e1", "keys", "dlq"];
    // Without admin.token_file nothing can be changed, whatever is said.
    let relay = scene.options.clone().unset("admin.token_file").start_ready().await;
    for post in posts {
        for token in [true, false] {
            let (code, said) = ask(&relay, "POST", post, token, "").await;
            assert_eq!(code, 403, "{post}: {said}");
            assert!(said.as_str().unwrap().contains("admin.token_file"), "{said}");
        }
    }
    for get in gets {
        assert_eq!(ask(&relay, "GET", get, false, "").await.0, 200, "{get}");
    }
    assert_eq!(ask(&relay, "GET", "events/e1?value=true", true, "").await.0, 401);
    assert_eq!(relay.stop().await, 0);
    // With one, it has to be known.
    let relay = scene.options.clone().set("log.level", "trace").start_ready().await;
    for post in posts {
        assert_eq!(ask(&relay, "POST", post, false, "").await.0, 401, "{post}");
    }
    for get in gets {
        assert_eq!(ask(&relay, "GET", get, false, "").await.0, 200, "{get}");
    }
    assert_eq!(ask(&relay, "GET", "events/e1?value=true", false, "").await.0, 401);
    let (code, shown) = ask(&relay, "GET", "events/e1?value=true", true, "").await;
    assert_eq!((code, &shown["value"]), (200, &"{\"card\": \"4711\"}".into()));
    assert_eq!(ask(&relay, "POST", "pause", true, "").await.0, 202);
    // A token is no passport for pages of other sites.
    let address = relay.admin().await;
    let evil = [("host", address.as_str()), ("origin", "https://evil.example"), BEARER];
    assert_eq!(http(&address, "POST", "/api/v1/pause", &evil, "").await.unwrap().0, 403);
    assert!(!relay.has_logged(TOKEN) && !relay.has_logged("4711"));
    assert_eq!(relay.stop().await, 0);
    // Off loopback everybody has to know it.
    let relay = scene.options.clone().set("admin.listen", "0.0.0.0:0").start_ready().await;
    let address = relay.admin().await.replace("0.0.0.0", "127.0.0.1");
    for (token, expected) in [(false, 401), (true, 200)] {
        let mut headers = vec![("host", address.as_str())];
        headers.extend(token.then_some(BEARER));
        for page in ["/api/v1/status", "/api/v1/events"] {
            assert_eq!(http(&address, "GET", page, &headers, "").await.unwrap().0, expected);
        }
    }
    assert_eq!(relay.stop().await, 0);
    // A file without a token is not one.
    for (content, said) in [("\n", "it is empty"), ("", "it is empty")] {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), content).unwrap();
        let options = scene.options.clone().set("admin.token_file", file.path().to_str().unwrap());
        let (code, _, complaint) = options.command_output(&["check"]);
        assert_eq!((code, complaint.contains(said)), (78, true), "{complaint}");
    }
    scene.clear().await;
}

#[tokio::test]
async fn everything_that_is_held_can_be_looked_at() {
    let scene = Scene::new("http_get").await;
    let held = [("e1", "retry", "a"), ("e2", "parked", "a"), ("e3", "dead", "b/c d")];
    for (id, reason, key) in held {
        hold(&scene.database, "outboxd", id, reason, key).await;
    }
    let relay = scene.options.start_ready().await;
    for (page, expected) in [
        ("events", &["e1", "e2"][..]),
        ("events?reason=parked", &["e2"]),
        ("events?topic=orders&limit=1", &["e1"]),
        ("events?since=30m", &[]),
        ("keys", &["e1"]),
        ("dlq", &["e3"]),
        ("dlq?key=b%2Fc%20d", &["e3"]),
        ("dlq?key=a", &[]),
        // In any case, and in keys as they are.
        ("events?search=ORD", &["e1", "e2"]),
        ("events?search=E2", &["e2"]),
        ("dlq?search=too%20LARGE", &["e3"]),
        ("dlq?search=%2Fc%20", &["e3"]),
        ("dlq?search=%2FC%20", &[]),
        ("dlq?search=%25", &[]),
        ("keys?search=obx-4004", &["e1"]),
    ] {
        let (code, listed) = ask(&relay, "GET", page, false, "").await;
        assert_eq!(code, 200, "{page}: {listed}");
        assert_eq!(ids(&listed), expected, "{page}");
        assert!(!listed.to_string().contains("4711"), "{page}");
    }
    // Page by page.
    let (_, page) = ask(&relay, "GET", "events?limit=1", false, "").await;
    let next = format!("events?after={}", page[0]["ordinal"]);
    assert_eq!(ids(&ask(&relay, "GET", &next, false, "").await.1), ["e2"]);
    // By what is wrong with them, over HTTP as by command.
    for (page, command, reason) in [
        ("events?grouped=true&search=e1", &["events", "list", "--search", "e1"][..], "retry"),
        ("dlq?grouped=true", &["dlq", "list"], "dead"),
    ] {
        let (code, groups) = ask(&relay, "GET", page, false, "").await;
        assert_eq!((code, groups.as_array().unwrap().len()), (200, 1), "{groups}");
        let group = &groups[0];
        assert_eq!((&group["reason"], &group["count"]), (&reason.into(), &1.into()), "{group}");
        assert_eq!((&group["topic"], &group["error_code"]), (&"orders".into(), &"OBX-4004".into()));
        assert_eq!((&group["oldest"], &group["error"]), (&group["newest"], &"too large".into()));
        let command = [command, &["--grouped", "-o", "json"]].concat();
        let (code, printed, said) = scene.options.command_output(&command);
        assert_eq!(code, 0, "{said}");
        assert_eq!(serde_json::from_str::<Value>(&printed).unwrap(), groups);
    }
    let (_, printed, _) = scene.options.command_output(&["dlq", "list", "--grouped"]);
    assert!(printed.starts_with("COUNT") && printed.contains("OBX-4004"), "{printed}");
    let (_, shown) = ask(&relay, "GET", "events/e3", false, "").await;
    assert_eq!((&shown["reason"], &shown["value_bytes"]), (&"dead".into(), &16.into()));
    assert!(shown.get("value").is_none());
    for (page, code, said) in [
        ("events/e9", 404, "OBX-6002"),
        ("events?colour=red", 400, "colour"),
        ("events?since=soon", 400, "expected a time"),
        ("events?after=e1", 400, "expected an ordinal"),
        ("dlq?grouped=maybe", 400, "true or false"),
        ("events?reason=dead", 400, "see dlq"),
        ("slot", 404, "OBX-2030"),
        ("nothing", 404, ""),
    ] {
        let (answered, text) = ask(&relay, "GET", page, false, "").await;
        assert_eq!(answered, code, "{page}: {text}");
        assert!(text.to_string().contains(said), "{page}: {text}");
    }
    let (code, _, said) = scene.options.command_output(&["slot", "create"]);
    assert_eq!(code, 0, "{said}");
    let (code, slot) = ask(&relay, "GET", "slot", false, "").await;
    let (_, printed, _) = scene.options.command_output(&["slot", "show", "-o", "json"]);
    let printed: Value = serde_json::from_str(&printed).unwrap();
    assert_eq!((code, &slot["name"]), (200, &printed["name"]));
    let names =
        |document: &Value| document.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&slot), names(&printed));
    assert_eq!(relay.stop().await, 0);
    scene.clear().await;
}

#[tokio::test]
async fn requests_are_made_one_by_one_and_in_bulk() {
    let mut scene = Scene::new("http_post").await;
    let held =
        [("e1", "retry", "a"), ("e2", "parked", "a"), ("e3", "dead", "b"), ("e4", "dead", "b")];
    for (id, reason, key) in held {
        hold(&scene.database, "outboxd", id, reason, key).await;
    }
    let row = scene.database.emit("a", "1", "t", "{}").await;
    let retry_row = format!("events/{row}/retry");
    let relay = scene.options.start_ready().await;
    for (path, body, expected, request) in [
        ("events/e1/retry", json!(null), &["e1"][..], "retry"),
        ("events/e2/skip", json!({}), &["e2"], "skip"),
        ("events/skip", json!({"ids": ["e2", "e1"]}), &["e1", "e2"], "skip"),
        ("events/retry", json!({"topic": "orders", "error": "OBX-4004"}), &["e1"], "retry"),
        ("keys/a/unblock", json!({"topic": "orders"}), &["e1"], "unblock"),
        ("keys/unblock", json!({"all": true}), &["e1"], "unblock"),
        ("dlq/e3/redrive", json!(null), &["e3"], "retry"),
        ("dlq/redrive?all=true", json!(null), &["e3", "e4"], "retry"),
        ("dlq/discard", json!({"key": "b", "limit": 1}), &["e3"], "discard"),
        (&retry_row, json!(null), &[&row], "publish"),
    ] {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let dry = if path.contains('?') { "&dry_run=true" } else { "?dry_run=true" };
        let (code, planned) = ask(&relay, "POST", &format!("{path}{dry}"), true, &body).await;
        assert_eq!((code, &planned["count"]), (200, &expected.len().into()), "{path}: {planned}");
        let brief = format!("{path}{dry}&brief=true");
        let (_, number) = ask(&relay, "POST", &brief, true, &body).await;
        assert_eq!((&number["count"], number.get("events")), (&planned["count"], None), "{path}");
        assert!(scene.place.heard_nothing().await, "{path}");

        let answer = ask(&relay, "POST", path, true, &body);
        let carry_out = async {
            assert_eq!(scene.place.told().await, "outboxd");
            let sql = "SELECT event_id, request FROM outboxd.held_event WHERE request IS NOT NULL \
                       ORDER BY ordinal";
            let rows = scene.place.sql.query(sql, &[]).await.unwrap();
            let filed: Vec<_> = rows.iter().map(|row| row.get::<_, &str>(0)).collect();
            assert_eq!(filed, expected, "{path}");
            assert!(rows.iter().all(|row| row.get::<_, &str>(1) == request), "{path}");
            let sql = "UPDATE outboxd.held_event SET request = NULL";
            scene.place.sql.execute(sql, &[]).await.unwrap();
        };
        let ((code, answer), ()) = tokio::join!(answer, carry_out);
        assert_eq!((code, &answer["message"]), (200, &"done".into()), "{path}: {answer}");
    }
    let audit =
        "SELECT count(*), count(*) FILTER (WHERE actor = 'http:127.0.0.1') FROM outboxd.audit";
    let row = scene.database.row(audit, &[]).await;
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (12, 12));
    for (path, body, code, said) in [
        ("events/retry", "", 400, "say what is meant"),
        ("events/e1/skip", r#"{"topic": "orders"}"#, 400, "only one of them"),
        ("events/skip", "[]", 400, "not a JSON object"),
        ("events/e9/skip", "", 404, "OBX-6002"),
        ("events/e3/skip", "", 400, "dlq discard"),
        ("keys/c/unblock", "", 404, "not blocked"),
        ("pause", r#"{"key": "a"}"#, 400, "only a topic"),
        ("pause?dry_run=true", "", 400, "only a topic"),
    ] {
        let (answered, text) = ask(&relay, "POST", path, true, body).await;
        assert_eq!(answered, code, "{path}: {text}");
        assert!(text.to_string().contains(said), "{path}: {text}");
    }
    assert!(scene.place.heard_nothing().await);
    for (path, paused, topics) in [
        ("pause", true, json!([])),
        ("pause?topic=a", true, json!(["a"])),
        ("resume", false, json!(["a"])),
    ] {
        let (code, answer) = ask(&relay, "POST", path, true, "").await;
        assert!([200, 202].contains(&code), "{path}: {answer}");
        assert_eq!((&answer["paused"], &answer["paused_topics"]), (&paused.into(), &topics));
        assert_eq!(scene.place.told().await, "outboxd");
    }
    assert_eq!(relay.stop().await, 0);
    scene.clear().await;
}
