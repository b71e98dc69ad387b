//! Three servers of NATS that keep every stream three times, and lose one after another.

use async_nats::ConnectOptions;
use async_nats::jetstream::stream::{Config, Info};

use super::free_port;
use super::nats::TempNats;
use super::outlet::{Outlet, stream_of};
use super::records::Record;
use super::relay::RelayOptions;
use super::wait::{LATER, eventually, until};

/// A cluster. One of its servers can be away.
pub struct NatsCluster {
    servers: Vec<TempNats>,
    /// The one that is next to crash, or is away.
    turn: usize,
    is_away: bool,
    streams: Vec<String>,
}

impl NatsCluster {
    /// One that is there.
    fn server(&self) -> &TempNats {
        let place = if self.is_away { self.turn + 1 } else { self.turn };
        &self.servers[place % self.servers.len()]
    }

    /// A stream as the cluster knows it, while it has a leader.
    async fn info(&self, stream: &str) -> Option<Info> {
        let found = self.server().jetstream().await.get_stream(stream).await.ok()?;
        let info = found.cached_info().clone();
        let has_leader = info.cluster.as_ref().is_some_and(|cluster| cluster.leader.is_some());
        has_leader.then_some(info)
    }

    /// Waits until every server has all of every stream, so that any of them may go.
    async fn wait_until_whole(&self) {
        for stream in &self.streams {
            eventually(format!("three copies of {stream}"), LATER, || async {
                let Some(cluster) = self.info(stream).await.and_then(|info| info.cluster) else {
                    return false;
                };
                let others = cluster.replicas;
                others.len() == 2 && others.iter().all(|other| other.current && !other.offline)
            })
            .await;
        }
    }
}

impl Outlet for NatsCluster {
    async fn durable() -> Self {
        let ports = [free_port(), free_port(), free_port()];
        let routes = ports.map(|port| format!("\"nats-route://127.0.0.1:{port}\"")).join(", ");
        let launch = |(place, port)| {
            let options = format!(
                "server_name: \"server-{place}\"\n\
                 cluster {{ name: \"tested\", listen: \"127.0.0.1:{port}\", routes: [{routes}] }}"
            );
            TempNats::launch(&options, true, ConnectOptions::new())
        };
        let servers = (0..).zip(ports).map(launch).collect();
        Self { servers, turn: 0, is_away: false, streams: Vec::new() }
    }

    fn named(&self, options: RelayOptions) -> RelayOptions {
        let urls: Vec<_> = self.servers.iter().map(TempNats::url).collect();
        options.set("sink.kind", "nats").set("nats.url", &urls.join(","))
    }

    async fn prepare(&mut self, topics: &[String]) {
        let jetstream = self.server().jetstream().await;
        for topic in topics {
            let name = stream_of(topic);
            let subjects = vec![topic.clone()];
            let config = Config { name, subjects, num_replicas: 3, ..Config::default() };
            // It has no leader at first, or not enough servers that it knows.
            until("the cluster to make a stream", LATER, || async {
                jetstream.get_or_create_stream(config.clone()).await.ok()
            })
            .await;
            self.streams.push(config.name);
        }
        self.wait_until_whole().await;
    }

    async fn records(&self, topics: &[String]) -> Vec<Record> {
        self.server().records(topics).await
    }

    async fn limit(&self, _: &str, _: i32) {
        panic!("no test of a cluster asks for it");
    }

    fn crash(&mut self) {
        self.servers[self.turn].kill();
        self.is_away = true;
    }

    async fn start_again(&mut self) {
        self.servers[self.turn].restart().await;
        self.is_away = false;
        self.wait_until_whole().await;
        self.turn = (self.turn + 1) % self.servers.len();
    }

    fn freeze(&self, is_frozen: bool) {
        Outlet::freeze(&self.servers[self.turn], is_frozen);
    }
}
