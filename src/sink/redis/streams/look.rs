//! A look at Redis from outside: does it let us in, what are the servers and the streams like, may we
//! write to them. Nothing is written.

use std::collections::BTreeMap;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use tokio::time::timeout;

use super::address::Host;
use super::link::{Access, ask, has_waitaof, line, setting, text, value_of, version};
use super::route::{ask_slots, connect};
use super::script::{Keys, slot};
use super::worker::{judge, questions};
use crate::sink::{Durability, RedisConfig, Topology};
use crate::sink::{NoContact, SinkError};

/// The settings that say how safe entries are.
const SETTINGS: [&str; 6] = [
    "appendonly",
    "appendfsync",
    "maxmemory",
    "maxmemory-policy",
    "min-replicas-to-write",
    "proto-max-bulk-len",
];

/// What was seen.
#[derive(Debug, Default)]
pub struct RedisFacts {
    /// The servers that are written to.
    pub servers: Vec<ServerFacts>,
    /// The streams that were asked for: whether they take our entries.
    pub streams: BTreeMap<String, Result<(), SinkError>>,
}

/// What a server is like. What it does not let us see is missing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServerFacts {
    /// Its address.
    pub address: String,
    /// Its version: major and minor.
    pub version: Option<(u32, u32)>,
    /// Whether it is a replica, which takes no writes.
    pub is_replica: bool,
    /// Replicas that are connected.
    pub replicas: Option<u32>,
    /// Bytes in use.
    pub used_memory: Option<u64>,
    /// Whether the append-only file could be written the last time.
    pub is_aof_well: bool,
    /// Settings, where we may see them.
    pub settings: BTreeMap<String, String>,
}

impl ServerFacts {
    /// A setting.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.settings.get(name).map(String::as_str)
    }

    /// Whether it says when something is on disk.
    pub fn has_waitaof(&self) -> bool {
        has_waitaof(self.version)
    }

    /// A setting that is a number.
    pub fn number(&self, name: &str) -> Option<u64> {
        self.text(name)?.parse().ok()
    }
}

/// Looks at Redis, for at most that long: whether it lets us in, at its servers, and at these streams.
///
/// # Errors
/// It cannot be asked.
pub async fn look(
    config: &RedisConfig,
    streams: &[String],
    within: Duration,
) -> Result<RedisFacts, NoContact> {
    let access = Access::of(config).map_err(NoContact::Config)?;
    let late = || NoContact::Unreachable(format!("no answer within {within:?}"));
    timeout(within, ask_all(&access, config, streams)).await.map_err(|_| late())?
}

async fn ask_all(
    access: &Access,
    config: &RedisConfig,
    streams: &[String],
) -> Result<RedisFacts, NoContact> {
    let keys: Vec<_> = streams.iter().map(|name| Keys::of(name, &config.relay_id)).collect();
    let mut facts = RedisFacts::default();
    if config.topology != Topology::Cluster {
        // What keeps the sink from using it is a finding, and not the end of the look.
        let asked = RedisConfig { durability: Durability::Memory, ..config.clone() };
        let mut link = connect(access, &asked, None).await?;
        facts.servers.push(server(&mut link.connection, &link.host).await?);
        for keys in &keys {
            let found = stream(&mut link.connection, keys).await?;
            facts.streams.insert(keys.stream.clone(), found);
        }
        return Ok(facts);
    }
    let slots = ask_slots(access, access.hosts()).await?;
    for host in slots.hosts() {
        let mut connection = access.connect(&host).await?;
        facts.servers.push(server(&mut connection, &host).await?);
        let here = |keys: &&Keys| slots.host(slot(&keys.stream)) == Some(&host);
        for keys in keys.iter().filter(here) {
            let found = match keys.misplaced() {
                None => stream(&mut connection, keys).await?,
                Some(error) => Err(error),
            };
            facts.streams.insert(keys.stream.clone(), found);
        }
    }
    Ok(facts)
}

async fn server(
    connection: &mut MultiplexedConnection,
    host: &Host,
) -> Result<ServerFacts, NoContact> {
    let mut commands = vec![redis::cmd("INFO")];
    commands.extend(SETTINGS.map(setting));
    let answers = ask(connection, &commands).await?;
    let mut answers = answers.iter();
    let info = answers.next().and_then(text).unwrap_or_default();
    let number = |name: &str| line(&info, name)?.parse().ok();
    let settings = SETTINGS.iter().zip(answers);
    let settings =
        settings.filter_map(|(name, answer)| Some(((*name).to_owned(), value_of(answer)?)));
    Ok(ServerFacts {
        address: host.to_string(),
        version: version(&info),
        is_replica: line(&info, "role") == Some("slave"),
        replicas: line(&info, "connected_slaves").and_then(|count| count.parse().ok()),
        used_memory: number("used_memory"),
        is_aof_well: line(&info, "aof_last_write_status") != Some("err"),
        settings: settings.collect(),
    })
}

async fn stream(
    connection: &mut MultiplexedConnection,
    keys: &Keys,
) -> Result<Result<(), SinkError>, NoContact> {
    let answers = ask(connection, &questions(keys)).await?;
    Ok(judge(&answers))
}
