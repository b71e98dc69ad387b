//! `outboxd status` and `outboxd healthcheck`: they ask the running relay, else the database.

use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use http_body_util::{BodyExt as _, Empty};
use hyper::body::Bytes;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{CommandResult, Output, print_json};
use crate::config::Config;
use crate::failure::{Code, Failure};
use crate::postgres::{Slot, SqlSession};
use crate::relay::SlotStatus;
use crate::status::RelayRow;

/// A relay that does not answer within this is not there.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

pub(super) async fn status(config: Config, output: Output) -> CommandResult {
    let document = match config.admin.listen {
        Some(address) => match get(address, "/api/v1/status").await {
            Some((StatusCode::OK, body)) => serde_json::from_slice(&body).ok(),
            _ => None,
        },
        None => None,
    };
    let document: serde_json::Value = match document {
        Some(document) => document,
        None => from_database(&config).await?,
    };
    if output.is_json() {
        print_json(&document);
    } else {
        print_text(&document);
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn healthcheck(config: Config) -> CommandResult {
    let Some(address) = config.admin.listen else {
        return Err(Failure::new(Code::Config, "admin.listen is not set: there is nothing to ask"));
    };
    match get(address, "/readyz?verbose").await {
        Some((StatusCode::OK, _)) => Ok(ExitCode::SUCCESS),
        Some((_, body)) => {
            print!("{}", String::from_utf8_lossy(&body));
            Ok(ExitCode::FAILURE)
        }
        None => {
            println!("nothing answers on {address}");
            Ok(ExitCode::FAILURE)
        }
    }
}

/// Whether the relay shows that it is paused; none if it does not answer.
pub(super) async fn is_paused(config: &Config) -> Option<bool> {
    let (code, body) = get(config.admin.listen?, "/api/v1/status").await?;
    let document: serde_json::Value = serde_json::from_slice(&body).ok()?;
    let text = |member: &str| document.get(member).and_then(serde_json::Value::as_str);
    let is_ours = code == StatusCode::OK && text("relay") == Some(&config.relay.id);
    is_ours.then(|| text("state") == Some("paused"))
}

/// One request; nothing if nobody answers.
async fn get(address: SocketAddr, path: &str) -> Option<(StatusCode, Bytes)> {
    let mut reachable = address;
    if address.ip().is_unspecified() {
        let loopback = if address.is_ipv4() { "127.0.0.1" } else { "::1" };
        reachable.set_ip(loopback.parse::<IpAddr>().ok()?);
    }
    let ask = async {
        let stream = TcpStream::connect(reachable).await.ok()?;
        let io = TokioIo::new(stream);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.ok()?;
        tokio::spawn(connection);
        let request = Request::get(path).header("host", reachable.to_string());
        let request = request.body(Empty::<Bytes>::new()).ok()?;
        let response = sender.send_request(request).await.ok()?;
        let status = response.status();
        let body = response.into_body().collect().await.ok()?.to_bytes();
        Some((status, body))
    };
    timeout(ANSWER_TIMEOUT, ask).await.ok().flatten()
}

/// What the database knows of the relay: less, but also while nothing runs.
async fn from_database(config: &Config) -> Result<serde_json::Value, Failure> {
    let relay = &config.relay;
    let session = SqlSession::open(&relay.server, "status").await;
    let session = session.map_err(|error| relay.failure_of(&error, "connect"))?;
    let read = |error| relay.failure_of(&error, "read the relay's state");
    let slot = Slot::load(&session.client, &relay.slot).await.map_err(read)?;
    let row = session
        .client
        .query_opt(
            "SELECT r.state, r.error_code, r.error_message, r.error_remedy, \
                    format('%s/%s', r.position_lsn, r.position_index), \
                    ARRAY(SELECT topic FROM unnest(r.paused_topics) topic ORDER BY topic) \
             FROM outboxd.relay r WHERE r.relay_id = $1",
            &[&relay.id],
        )
        .await
        .map_err(|error| read(error.into()))?;
    let runs = RelayRow::lock_is_held(&session.client, &relay.id).await.map_err(read)?;
    let (state, error, position, paused_topics) = match &row {
        None => ("stopped".to_owned(), serde_json::Value::Null, String::new(), Vec::new()),
        Some(row) => {
            let state: String = row.get(0);
            let code: Option<String> = row.get(1);
            let error = code.map_or(serde_json::Value::Null, |code| {
                serde_json::json!({
                    "code": code,
                    "message": row.get::<_, Option<String>>(2),
                    "remedy": row.get::<_, Option<String>>(3),
                })
            });
            let state = match (runs, state.as_str()) {
                (true, _) if slot.as_ref().is_some_and(|slot| slot.active) => "streaming",
                (true, _) => "starting",
                (false, "halted") => "halted",
                (false, _) => "stopped",
            };
            (state.to_owned(), error, row.get(4), row.get::<_, Vec<String>>(5))
        }
    };
    Ok(serde_json::json!({
        "relay": relay.id,
        "state": state,
        "slot": SlotStatus::new(&relay.slot, slot.as_ref()),
        "position": position,
        "paused_topics": paused_topics,
        "last_error": error,
        // What only a relay that runs knows. The fields are always there.
        "in_flight": null, "held": null, "blocked_keys": null, "rates": null,
        "totals": null, "lag_seconds": null, "checks": null,
    }))
}

fn print_text(document: &serde_json::Value) {
    let text = |pointer: &str| match document.pointer(pointer) {
        None | Some(serde_json::Value::Null) => "-".to_owned(),
        Some(serde_json::Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    };
    println!("relay      {}", text("/relay"));
    println!("state      {}", text("/state"));
    println!("position   {}", text("/position"));
    println!(
        "slot       {}, {}, confirmed {}, {} bytes behind",
        text("/slot/name"),
        text("/slot/wal_status"),
        text("/slot/confirmed_lsn"),
        text("/slot/lag_bytes")
    );
    if document.pointer("/in_flight/events").is_some() {
        println!(
            "in flight  {} events, {} bytes; lag {} s",
            text("/in_flight/events"),
            text("/in_flight/bytes"),
            text("/lag_seconds")
        );
        println!(
            "rates      read {}/s, published {}/s, settled {}/s",
            text("/rates/read"),
            text("/rates/published"),
            text("/rates/settled")
        );
        println!("refused    {} events, {} keys wait", text("/held/retry"), text("/blocked_keys"));
    }
    let topics = document.pointer("/paused_topics").and_then(serde_json::Value::as_array);
    let topics: Vec<_> = topics.into_iter().flatten().filter_map(|topic| topic.as_str()).collect();
    if !topics.is_empty() {
        println!("paused     topics {}", topics.join(", "));
    }
    if document.pointer("/last_error/code").is_some() {
        println!("error      {} {}", text("/last_error/code"), text("/last_error/message"));
        println!("to do      {}", text("/last_error/remedy"));
    }
}
