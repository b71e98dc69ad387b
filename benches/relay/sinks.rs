//! Draining the same backlog to Redis Streams and NATS JetStream, beside what each takes by itself from
//! a client that does nothing else, in the same run.

use std::collections::VecDeque;
use std::process::Command;
use std::time::Instant;

use async_nats::HeaderMap;
use outboxd::demo::TempPostgres;
use serde_json::Value;

use crate::backlog::{Backlog, Shape, TOPIC};
use crate::support::nats::TempNats;
use crate::support::redis::TempRedis;

/// About as many bytes as an envelope of the backlog has.
const BYTES: usize = 560;
/// The client lets no more than 5,000 be under way.
const UNDER_WAY: usize = 4_000;

pub async fn measure(events: u64, sinks: &[String], server: &TempPostgres) -> Vec<Value> {
    let mut backlog = Backlog::load(events, Shape::USUAL, server).await;
    for sink in sinks {
        match sink.as_str() {
            "redis" => {
                let redis = TempRedis::start(&[]).await;
                backlog.report("XADD, pipelined", xadd(events, redis.port()), None, None);
                let to = |url: String| {
                    move |options: crate::support::relay::RelayOptions| {
                        options
                            .set("outbox.status.mode", "none")
                            .set("sink.kind", "redis")
                            .set("redis.url", &url)
                    }
                };
                backlog.drain("none, redis", to(redis.url())).await;
            }
            "nats" => {
                let nats = TempNats::start("").await;
                nats.create("CEILING", &["ceiling"]).await;
                nats.create("BENCH", &[TOPIC]).await;
                let rate = publishes(events, &nats).await;
                backlog.report("JetStream publishes, pipelined", rate, None, None);
                let url = nats.url();
                backlog
                    .drain("none, nats", |options| {
                        options
                            .set("outbox.status.mode", "none")
                            .set("sink.kind", "nats")
                            .set("nats.url", &url)
                    })
                    .await;
            }
            other => panic!("there is no sink {other}"),
        }
    }
    backlog.end().await
}

/// How many entries a second Redis takes from its own benchmark, 256 at a time.
fn xadd(events: u64, port: u16) -> f64 {
    let mut command = Command::new("redis-benchmark");
    command.args([
        "-p",
        &port.to_string(),
        "-n",
        &events.to_string(),
        "-c",
        "1",
        "-P",
        "256",
        "-q",
    ]);
    command.args(["XADD", "ceiling", "*", "event_id", "0192d1f0-0000-7000-8000-000000000000"]);
    command.args(["event_type", "OrderCreated", "key", "order-4711", "data", &"x".repeat(BYTES)]);
    let output = command.output().expect("redis-benchmark");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let words: Vec<_> = text.split_whitespace().collect();
    let at = words.iter().rposition(|word| *word == "requests").unwrap_or_else(|| panic!("{text}"));
    words[at - 1].parse().unwrap()
}

/// How many messages a second a stream takes from the client library, with as many under way.
async fn publishes(events: u64, nats: &TempNats) -> f64 {
    let jetstream = nats.jetstream().await;
    let payload = bytes_of(BYTES);
    let mut under_way = VecDeque::new();
    let began = Instant::now();
    for number in 0..events {
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Msg-Id", format!("id-{number}"));
        headers.insert("event_type", "OrderCreated");
        headers.insert("key", "order-4711");
        let sent = jetstream.publish_with_headers("ceiling", headers, payload.clone().into());
        under_way.push_back(sent.await.unwrap());
        if under_way.len() >= UNDER_WAY {
            under_way.pop_front().unwrap().await.unwrap();
        }
    }
    for acknowledged in under_way {
        acknowledged.await.unwrap();
    }
    events as f64 / began.elapsed().as_secs_f64()
}

fn bytes_of(count: usize) -> Vec<u8> {
    vec![b'x'; count]
}
