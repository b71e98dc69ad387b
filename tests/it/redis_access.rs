//! Whether Redis lets the relay in: certificates, users, and what they may write to.

use std::time::Duration;

use outboxd::sink::redis::look as look_at_redis;
use outboxd::sink::{NoContact, RedisConfig, SinkError};

use crate::support::certificates::Authority;
use crate::support::redis::{Hand, TempRedis, config, event_ids};

const WITHIN: Duration = Duration::from_secs(10);

async fn contact(config: &RedisConfig) -> Result<(), NoContact> {
    look_at_redis(config, &[], WITHIN).await.map(drop)
}

#[tokio::test]
async fn a_server_that_is_not_the_one_that_is_meant_is_refused() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let [certificate, own] =
        ["server", "client"].map(|name| authority.issue(name, "DNS:localhost"));
    let path = |path: &std::path::Path| path.to_str().unwrap().to_owned();
    let [cert, key] = [path(&certificate.cert), path(&certificate.key)];
    let root = path(&authority.root());
    let words = ["--tls-cert-file", &cert, "--tls-key-file", &key, "--tls-ca-cert-file", &root];
    let optional = [&words[..], &["--tls-auth-clients", "optional"]].concat();
    let login = ["--tls", "--insecure"];
    let redis = TempRedis::start_for(&optional, &login).await;
    let mut right = config(&format!("rediss://localhost:{}", redis.port()));
    right.tls_ca = Some(authority.root());
    assert_eq!(contact(&right).await, Ok(()));
    let mut hand = Hand::to(&right, "secret").await;
    hand.send("secret", 0..100).await;
    hand.wait_for(100).await;
    assert_eq!(redis.ids("secret"), event_ids(0..100));
    hand.close().await;

    let another_name =
        RedisConfig { url: format!("rediss://127.0.0.1:{}", redis.port()), ..right.clone() };
    let another_authority = RedisConfig { tls_ca: Some(stranger.root()), ..right.clone() };
    let the_systems = RedisConfig { tls_ca: None, ..right.clone() };
    for wrong in [another_name, another_authority, the_systems] {
        let refused = contact(&wrong).await;
        assert!(
            matches!(&refused, Err(NoContact::Tls(said)) if said.contains("certificate")),
            "{refused:?}"
        );
        let mut hand = Hand::open(&wrong);
        assert!(matches!(hand.look_up("secret").await, Err(SinkError::Unavailable(_))));
        assert!(
            matches!(hand.reachable.last(), Some(Err(NoContact::Tls(_)))),
            "{:?}",
            hand.reachable
        );
        hand.close().await;
    }
    let missing = RedisConfig { tls_ca: Some("/nowhere".into()), ..right.clone() };
    assert!(
        matches!(contact(&missing).await, Err(NoContact::Config(said)) if said.contains("/nowhere"))
    );

    // A server that wants to know us, too.
    redis.cli(&["CONFIG", "SET", "tls-auth-clients", "yes"]);
    assert!(contact(&right).await.is_err());
    let known =
        RedisConfig { tls_cert: Some(own.cert.clone()), tls_key: Some(own.key.clone()), ..right };
    assert_eq!(contact(&known).await, Ok(()));
}

#[tokio::test]
async fn a_user_writes_where_he_may() {
    let redis = TempRedis::start(&[]).await;
    // What docs/SINKS.md asks for.
    const COMMANDS: &str = "-@all +@connection +@stream +info +config|get +script|load +evalsha +type +hset \
                            +hmget +smismember +sadd +scard +unlink +wait";
    let allow = |keys: &str| {
        let start = ["ACL", "SETUSER", "relay", "reset", "on", ">secret"];
        let words = start.into_iter().chain(COMMANDS.split(' ')).chain(keys.split(' '));
        let words: Vec<_> = words.collect();
        assert_eq!(redis.cli(&words), "OK");
    };
    allow("~mine ~{mine}:outboxd:*");
    let mut right = redis.config();
    (right.username, right.password) = (Some("relay".to_owned()), Some("secret".to_owned()));
    let wrong = RedisConfig { password: Some("hunter2".to_owned()), ..right.clone() };
    let refused = contact(&wrong).await;
    assert!(
        matches!(&refused, Err(NoContact::Login(said)) if !said.contains("hunter2")),
        "{refused:?}"
    );
    let mut hand = Hand::open(&wrong);
    assert!(hand.look_up("mine").await.is_err());
    assert!(
        matches!(hand.reachable.last(), Some(Err(NoContact::Login(_)))),
        "{:?}",
        hand.reachable
    );
    hand.close().await;

    let facts =
        look_at_redis(&right, &["mine".to_owned(), "yours".to_owned()], WITHIN).await.unwrap();
    assert!(facts.streams["mine"].is_ok());
    assert_eq!(facts.streams["yours"], Err(SinkError::TopicDenied));
    let mut hand = Hand::to(&right, "mine").await;
    assert_eq!(hand.look_up("yours").await, Err(SinkError::TopicDenied));
    hand.send("mine", 0..100).await;
    hand.wait_for(100).await;
    // He loses the right, and gets it back.
    allow("~yours ~{yours}:outboxd:*");
    hand.send("mine", 100..200).await;
    hand.until("them to come back", |hand| hand.failed.len() == 100).await;
    assert!(hand.failed.iter().all(|(_, error)| *error == SinkError::TopicDenied));
    assert_eq!(hand.look_up("mine").await, Err(SinkError::TopicDenied));
    allow("~mine ~{mine}:outboxd:*");
    hand.may_send("mine").await;
    hand.send("mine", 100..200).await;
    hand.wait_for(200).await;
    assert_eq!(redis.ids("mine"), event_ids(0..200));
    hand.close().await;
}
