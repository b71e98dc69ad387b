//! The sink for Redis Streams in a cluster and behind sentinels, while streams and servers change places.

use outboxd::sink::{Durability, Topology};

use crate::support::redis::{Hand, TempRedis, event_ids};
use crate::support::wait::{LATER, SOON, eventually};

#[tokio::test]
async fn a_cluster_has_each_stream_where_its_slot_is() {
    let mut nodes = Vec::new();
    for _ in 0..3 {
        let options = ["--cluster-enabled", "yes", "--cluster-node-timeout", "2000"];
        nodes.push(TempRedis::start(&options).await);
    }
    let addresses: Vec<_> = nodes.iter().map(|node| format!("127.0.0.1:{}", node.port())).collect();
    let mut words = vec!["--cluster", "create"];
    words.extend(addresses.iter().map(String::as_str));
    words.push("--cluster-yes");
    let said = nodes[0].cli(&words);
    assert!(said.contains("All 16384 slots covered"), "{said}");
    eventually("the cluster", SOON, || async {
        nodes.iter().all(|node| node.cli(&["CLUSTER", "INFO"]).contains("cluster_state:ok"))
    })
    .await;
    let mut config = nodes[0].config();
    config.topology = Topology::Cluster;
    let mut hand = Hand::open(&config);
    let streams: Vec<_> = (0..6).map(|n| format!("stream-{n}")).collect();
    for stream in &streams {
        hand.may_send(stream).await;
    }
    let mut sent = 0;
    let mut write = async |hand: &mut Hand, count: u64| {
        for _ in 0..count {
            for (place, stream) in streams.iter().enumerate() {
                hand.send(stream, [place as u64 * 100_000 + sent]).await;
            }
            sent += 1;
        }
    };
    write(&mut hand, 300).await;
    hand.wait_for(1800).await;
    let ids = |stream: &str| {
        let found = nodes.iter().find_map(|node| {
            let printed = node.cli(&["--json", "XLEN", stream]);
            printed.parse::<u64>().is_ok().then(|| node.ids(stream))
        });
        found.expect("one node has it")
    };
    let homes = |stream: &str| {
        nodes.iter().position(|node| node.cli(&["XLEN", stream]).parse::<u64>().is_ok()).unwrap()
    };
    let used: std::collections::BTreeSet<_> = streams.iter().map(|stream| homes(stream)).collect();
    assert!(used.len() > 1, "the streams are on different nodes");
    // A slot moves while its stream is written to.
    let moved = &streams[0];
    let (from, to) = (homes(moved), (homes(moved) + 1) % 3);
    let slot = nodes[0].cli(&["CLUSTER", "KEYSLOT", moved]);
    let names: Vec<_> = nodes.iter().map(|node| node.cli(&["CLUSTER", "MYID"])).collect();
    let (source, target) = (&nodes[from], &nodes[to]);
    target.cli(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &names[from]]);
    source.cli(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &names[to]]);
    write(&mut hand, 100).await;
    let keys = source.cli(&["CLUSTER", "GETKEYSINSLOT", &slot, "100"]);
    for key in keys.lines() {
        let said =
            source.cli(&["MIGRATE", "127.0.0.1", &target.port().to_string(), key, "0", "5000"]);
        assert_eq!(said, "OK", "{key}");
    }
    write(&mut hand, 100).await;
    for node in [target, source] {
        node.cli(&["CLUSTER", "SETSLOT", &slot, "NODE", &names[to]]);
    }
    write(&mut hand, 100).await;
    hand.wait_for(3600).await;
    assert_eq!(homes(moved), to);
    for (place, stream) in (0..).zip(&streams) {
        assert!(ids(stream) == event_ids(place * 100_000..place * 100_000 + 600), "{stream}");
    }
    assert!(hand.failed.is_empty() && hand.fatal.is_none());
    hand.close().await;
}

#[tokio::test]
async fn sentinels_say_which_server_is_written_to() {
    // A sentinel that was held up may give the first one back its place, with what it has on disk.
    let kept = ["--appendonly", "yes"];
    let mut first = TempRedis::start(&kept).await;
    let port = first.port().to_string();
    let second =
        TempRedis::start(&[&kept[..], &["--replicaof", "127.0.0.1", &port]].concat()).await;
    let home = tempfile::Builder::new().prefix("outboxd-sentinel-").tempdir().unwrap();
    let file = home.path().join("sentinel.conf");
    let text = format!(
        "sentinel monitor main 127.0.0.1 {port} 1\nsentinel down-after-milliseconds main 1000\n\
         sentinel failover-timeout main 3000\n"
    );
    std::fs::write(&file, text).unwrap();
    let sentinel = TempRedis::start(&[file.to_str().unwrap()]).await;
    eventually("the sentinel to know the replica", SOON, || async {
        sentinel.cli(&["SENTINEL", "REPLICAS", "main"]).contains(&second.port().to_string())
    })
    .await;
    let mut config = sentinel.config();
    config.topology = Topology::Sentinel { master: "main".to_owned() };
    config.durability = Durability::Replicas(1);
    let mut hand = Hand::to(&config, "failover").await;
    hand.send("failover", 0..1000).await;
    hand.wait_for(1000).await;
    first.kill();
    hand.send("failover", 1000..1100).await;
    eventually("the other one to take over", SOON, || async {
        second.cli(&["ROLE"]).starts_with("master")
    })
    .await;
    assert!(hand.delivered.len() <= 1000, "no replica has it");
    first.restart().await;
    hand.within("the rest", LATER, |hand| hand.delivered.len() == 1100).await;
    for server in [&first, &second] {
        eventually("both to have everything", SOON, || async {
            server.cli(&["XLEN", "failover"]) == "1100"
        })
        .await;
        assert!(server.ids("failover") == event_ids(0..1100));
    }
    assert!(hand.failed.is_empty() && hand.fatal.is_none());
    hand.close().await;
}
