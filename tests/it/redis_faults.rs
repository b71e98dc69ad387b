//! The sink for Redis Streams while the server fails: nothing is lost, nothing comes twice, the order
//! stays, and no event is blamed.

use std::time::Duration;

use outboxd::sink::{Durability, NoContact, SendError, Trim};

use crate::support::redis::{Hand, TempRedis, event_ids};
use crate::support::wait::{SOON, eventually};

/// How long it takes at most until a server that does not answer is given up and told of.
const TOLD: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_server_that_is_killed_loses_and_repeats_nothing_that_was_on_disk() {
    let mut redis = TempRedis::start(&["--appendonly", "yes", "--appendfsync", "always"]).await;
    let mut config = redis.config();
    config.durability = Durability::Aof;
    let mut hand = Hand::to(&config, "killed").await;
    for round in 0..5 {
        let safe = hand.delivered.len();
        hand.send("killed", round * 2000..round * 2000 + 2000).await;
        hand.until("some", |hand| hand.delivered.len() > safe).await;
        redis.kill();
        hand.until("to be told", |hand| hand.reachable.last().is_some_and(Result::is_err)).await;
        redis.restart().await;
    }
    hand.wait_for(10_000).await;
    assert!(redis.ids("killed") == event_ids(0..10_000));
    assert!(hand.failed.is_empty() && hand.fatal.is_none(), "{:?}", hand.failed.first());
    // With nothing left to send, it is for the relay to ask.
    hand.probe();
    hand.until("to be well", |hand| hand.reachable.last().is_some_and(Result::is_ok)).await;
    hand.close().await;
}

#[tokio::test]
async fn a_frozen_server_is_given_up_told_of_and_repeats_nothing() {
    let redis = TempRedis::start(&[]).await;
    let mut hand = Hand::to(&redis.config(), "frozen").await;
    hand.send("frozen", 0..100).await;
    hand.wait_for(100).await;
    redis.freeze();
    // More calls than one: all of them lie in its socket, and are carried out when it goes on.
    hand.send("frozen", 100..3000).await;
    let is_told = |hand: &Hand| hand.reachable.last().is_some_and(Result::is_err);
    hand.within("to be told", TOLD, is_told).await;
    redis.thaw();
    hand.wait_for(3000).await;
    assert!(redis.ids("frozen") == event_ids(0..3000));
    assert!(hand.failed.is_empty());
    hand.close().await;
}

#[tokio::test]
async fn a_full_server_is_back_pressure() {
    let redis = TempRedis::start(&["--maxmemory-policy", "noeviction"]).await;
    let mut config = redis.config();
    config.in_flight_events = 500;
    let mut hand = Hand::to(&config, "full").await;
    hand.send("full", 0..100).await;
    hand.wait_for(100).await;
    redis.cli(&["CONFIG", "SET", "maxmemory", "1mb"]);
    for number in 100..600 {
        hand.try_send("full", number, 1).unwrap();
    }
    assert_eq!(hand.try_send("full", 600, 1), Err(SendError::Full));
    hand.wait_for_trouble("OOM").await;
    hand.probe();
    let told = hand.reachable.len();
    hand.until("the probe's answer", |hand| hand.reachable.len() > told).await;
    assert!(hand.reachable.iter().skip(1).all(Result::is_err), "{:?}", hand.reachable);
    assert_eq!((hand.delivered.len(), hand.failed.len()), (100, 0));
    redis.cli(&["CONFIG", "SET", "maxmemory", "0"]);
    hand.send("full", 600..700).await;
    hand.wait_for(700).await;
    assert!(redis.ids("full") == event_ids(0..700));
    assert!(hand.failed.is_empty() && hand.reachable.last().is_some_and(Result::is_ok));
    hand.close().await;
}

#[tokio::test]
async fn a_server_that_becomes_a_replica_is_waited_for() {
    let redis = TempRedis::start(&[]).await;
    let other = TempRedis::start(&[]).await;
    let mut hand = Hand::to(&redis.config(), "replica").await;
    hand.send("replica", 0..100).await;
    hand.wait_for(100).await;
    let port = other.port().to_string();
    // First it gets what it has to have, or it would lose it as a replica.
    other.cli(&["REPLICAOF", "127.0.0.1", &redis.port().to_string()]);
    eventually("the copy", SOON, || async { other.cli(&["XLEN", "replica"]) == "100" }).await;
    other.cli(&["REPLICAOF", "NO", "ONE"]);
    redis.cli(&["REPLICAOF", "127.0.0.1", &port]);
    hand.send("replica", 100..200).await;
    hand.wait_for_trouble("READONLY").await;
    redis.cli(&["REPLICAOF", "NO", "ONE"]);
    hand.wait_for(200).await;
    assert_eq!(redis.ids("replica"), event_ids(0..200));
    assert!(hand.failed.is_empty());
    hand.close().await;
}

#[tokio::test]
async fn what_has_no_replica_is_not_safe() {
    let redis = TempRedis::start(&[]).await;
    let port = redis.port().to_string();
    let mut replica = TempRedis::start(&["--replicaof", "127.0.0.1", &port]).await;
    let mut config = redis.config();
    config.durability = Durability::Replicas(1);
    let mut hand = Hand::to(&config, "safe").await;
    hand.send("safe", 0..1000).await;
    hand.wait_for(1000).await;
    assert!(replica.ids("safe") == event_ids(0..1000), "acknowledged before the replica had it");
    replica.kill();
    hand.send("safe", 1000..1100).await;
    hand.wait_for_trouble("0 of 1 replicas").await;
    assert_eq!((hand.delivered.len(), hand.failed.len()), (1000, 0));
    replica.restart().await;
    hand.wait_for(1100).await;
    assert!(replica.ids("safe") == event_ids(0..1100) && redis.ids("safe").len() == 1100);
    hand.close().await;
}

/// A server that can say what is on disk, and one that cannot.
#[tokio::test]
async fn on_disk_is_not_taken_on_trust() {
    let options = ["--appendonly", "yes", "--appendfsync", "everysec"];
    let (old, new) = (TempRedis::start(&options), TempRedis::start_valkey(&options));
    on_disk(old.await).await;
    on_disk(new.await).await;
}

async fn on_disk(redis: TempRedis) {
    let mut config = redis.config();
    let has_waitaof = redis.cli(&["COMMAND", "INFO", "WAITAOF"]).contains("waitaof");
    config.durability = Durability::Aof;
    let mut hand = Hand::open(&config);
    if has_waitaof {
        redis.cli(&["CONFIG", "SET", "appendonly", "no"]);
    }
    let looked = hand.look_up("disk").await;
    if !has_waitaof {
        assert!(looked.is_err(), "{looked:?}");
        let last = hand.reachable.last().unwrap().clone().unwrap_err();
        assert!(matches!(&last, NoContact::Config(said) if said.contains("everysec")), "{last:?}");
    }
    for (name, value) in [("appendfsync", "always"), ("appendonly", "yes")] {
        redis.cli(&["CONFIG", "SET", name, value]);
    }
    hand.may_send("disk").await;
    hand.send("disk", 0..100).await;
    hand.wait_for(100).await;
    // What was right at the connection need not stay so.
    redis.cli(&["CONFIG", "SET", "appendonly", "no"]);
    let mut number = 100;
    while !hand.reachable.last().is_some_and(Result::is_err) {
        let told = hand.reachable.len();
        hand.send("disk", [number]).await;
        number += 1;
        let before = hand.delivered.len();
        hand.until("an answer", |hand| {
            hand.delivered.len() > before || hand.reachable.len() > told
        })
        .await;
    }
    redis.cli(&["CONFIG", "SET", "appendonly", "yes"]);
    hand.wait_for(usize::try_from(number).unwrap()).await;
    assert!(redis.ids("disk") == event_ids(0..number));
    hand.close().await;
}

/// By WAITAOF: nothing is safe until the server has told its disk.
#[tokio::test]
async fn what_is_not_on_disk_yet_is_not_safe() {
    let redis = TempRedis::start_valkey(&["--appendonly", "yes", "--appendfsync", "no"]).await;
    let mut config = redis.config();
    config.durability = Durability::Aof;
    let mut hand = Hand::to(&config, "later").await;
    hand.send("later", 0..1100).await;
    hand.until("to be told", |hand| hand.reachable.last().is_some_and(Result::is_err)).await;
    let told = hand.reachable.last().unwrap().clone().unwrap_err();
    assert!(told.text().contains("WAITAOF"), "{told:?}");
    assert!(hand.delivered.is_empty() && hand.failed.is_empty());

    redis.cli(&["CONFIG", "SET", "appendfsync", "everysec"]);
    hand.wait_for(1100).await;
    assert!(redis.ids("later") == event_ids(0..1100));
    hand.close().await;
}

#[tokio::test]
async fn trimming_spares_what_a_group_needs_unless_it_is_forced() {
    let redis = TempRedis::start(&[]).await;
    let mut config = redis.config();
    config.max_len = 500;
    let mut hand = Hand::to(&config, "trimmed").await;
    hand.send("trimmed", 0..2000).await;
    hand.wait_for(2000).await;
    let length = |redis: &TempRedis| redis.ids("trimmed").len();
    assert!((500..900).contains(&length(&redis)), "{}", length(&redis));
    // A group has read a part of what is there, and acknowledged less.
    redis.cli(&["XGROUP", "CREATE", "trimmed", "readers", "0"]);
    let oldest = redis.ids("trimmed").remove(0);
    redis.cli(&["XREADGROUP", "GROUP", "readers", "me", "COUNT", "200", "STREAMS", "trimmed", ">"]);
    hand.send("trimmed", 2000..5000).await;
    hand.wait_for(5000).await;
    assert_eq!(
        redis.ids("trimmed")[0],
        oldest,
        "an entry that nobody has acknowledged was trimmed"
    );
    assert!(length(&redis) >= 3500);
    // It acknowledges what it has read.
    let pending = redis.cli(&["--json", "XPENDING", "trimmed", "readers", "-", "+", "1000"]);
    let pending: Vec<serde_json::Value> = serde_json::from_str(&pending).unwrap();
    assert_eq!(pending.len(), 200);
    for entry in &pending {
        redis.cli(&["XACK", "trimmed", "readers", entry[0].as_str().unwrap()]);
    }
    let unread = redis.ids("trimmed")[200].clone();
    hand.send("trimmed", 5000..5300).await;
    hand.wait_for(5300).await;
    let ids = redis.ids("trimmed");
    assert!(
        ids[0] != oldest && ids.contains(&unread),
        "what was acknowledged went, what was not read stays"
    );
    hand.close().await;
    config.trim = Trim::Force;
    let mut hand = Hand::to(&config, "trimmed").await;
    hand.send("trimmed", 6000..6500).await;
    hand.wait_for(500).await;
    assert!((500..900).contains(&length(&redis)), "{}", length(&redis));
    hand.close().await;
}

/// Nothing else is under way that could show it: the next look-up is made over another connection.
#[tokio::test]
async fn a_connection_that_is_gone_is_noticed_by_who_only_asks() {
    let redis = TempRedis::start(&[]).await;
    let mut hand = Hand::to(&redis.config(), "asked").await;
    for _ in 0..3 {
        redis.cli(&["CLIENT", "KILL", "TYPE", "normal"]);
        hand.may_send("asked").await;
    }
    hand.send("asked", 0..10).await;
    hand.wait_for(10).await;
    assert_eq!(redis.ids("asked"), event_ids(0..10));
    hand.close().await;
}
