//! Which server has a stream: the one of the URL, the one that sentinels name, or the node of a cluster
//! that has its slot.

use redis::Value;
use redis::aio::MultiplexedConnection;

use super::address::Host;
use super::errors::classify;
use super::link::{Access, Server, ask, of_host, prepare, refused, text};
use crate::sink::NoContact;
use crate::sink::{Durability, RedisConfig, Topology};

/// A connection that can be written to.
pub(super) struct Link {
    pub(super) connection: MultiplexedConnection,
    pub(super) server: Server,
    pub(super) host: Host,
}

/// Which node has which slots: first, last, and where.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Slots(Vec<(u16, u16, Host)>);

impl Slots {
    pub(super) fn host(&self, slot: u16) -> Option<&Host> {
        self.0
            .iter()
            .find(|(first, last, _)| (*first..=*last).contains(&slot))
            .map(|(.., host)| host)
    }

    /// Every node that has slots, once.
    pub(super) fn hosts(&self) -> Vec<Host> {
        let mut hosts: Vec<_> = self.0.iter().map(|(.., host)| host.clone()).collect();
        hosts.sort();
        hosts.dedup();
        hosts
    }
}

/// Connects to the server that is to be written to: to that node, or to the one that there is.
pub(super) async fn connect(
    access: &Access,
    config: &RedisConfig,
    node: Option<&Host>,
) -> Result<Link, NoContact> {
    if let Some(host) = node {
        return link(access, host, config.durability).await;
    }
    match &config.topology {
        Topology::Sentinel { master } => {
            let host = ask_sentinels(access, master).await?;
            let link = link(access, &host, config.durability).await?;
            match link.server.is_replica {
                true => Err(NoContact::Unreachable(format!("{host}: it is a replica still"))),
                false => Ok(link),
            }
        }
        Topology::Single | Topology::Cluster => first(access, config.durability).await,
    }
}

async fn link(access: &Access, host: &Host, durability: Durability) -> Result<Link, NoContact> {
    let mut connection = access.connect(host).await?;
    let server = prepare(&mut connection, durability).await;
    let server = server.map_err(|reason| of_host(host, reason))?;
    Ok(Link { connection, server, host: host.clone() })
}

/// The first of the hosts that is no replica, or else the first that answers.
async fn first(access: &Access, durability: Durability) -> Result<Link, NoContact> {
    let (mut replica, mut reason) = (None, None);
    for host in access.hosts() {
        match link(access, host, durability).await {
            Ok(link) if !link.server.is_replica => return Ok(link),
            Ok(link) => replica = replica.or(Some(link)),
            Err(no) => reason = reason.or(Some(no)),
        }
    }
    let nowhere = || NoContact::Config("redis.url names no host".to_owned());
    replica.ok_or_else(|| reason.unwrap_or_else(nowhere))
}

/// Where the sentinels say that the server is.
async fn ask_sentinels(access: &Access, master: &str) -> Result<Host, NoContact> {
    let mut reason = None;
    for host in access.hosts() {
        match ask_sentinel(access, host, master).await {
            Ok(Some(found)) => return Ok(found),
            Ok(None) => {
                let text = format!("the sentinel knows no server {master:?}");
                reason = reason.or(Some(of_host(host, NoContact::Config(text))));
            }
            Err(no) => reason = reason.or(Some(of_host(host, no))),
        }
    }
    Err(reason.unwrap_or_else(|| NoContact::Config("redis.url names no sentinel".to_owned())))
}

/// Sentinels have logins of their own, or none.
async fn ask_sentinel(
    access: &Access,
    host: &Host,
    master: &str,
) -> Result<Option<Host>, NoContact> {
    let mut question = redis::cmd("SENTINEL");
    question.arg("get-master-addr-by-name").arg(master);
    let mut connection = access.connect_as(host, false).await?;
    let mut answers = ask(&mut connection, std::slice::from_ref(&question)).await?;
    let is_closed = |answers: &[Value]| matches!(answers, [Value::ServerError(error)] if matches!(error.code(), "NOAUTH" | "NOPERM"));
    if is_closed(&answers) {
        let mut connection = access.connect(host).await?;
        answers = ask(&mut connection, std::slice::from_ref(&question)).await?;
    }
    match answers.first() {
        Some(Value::ServerError(error)) => Err(refused(classify(error))),
        Some(Value::Array(parts)) => Ok(host_of(parts.first(), parts.get(1), host)),
        _ => Ok(None),
    }
}

/// Which node has which slots: as the first of these says that answers.
pub(super) async fn ask_slots(access: &Access, hosts: &[Host]) -> Result<Slots, NoContact> {
    let mut reason = None;
    for host in hosts {
        match slots_of(access, host).await {
            Ok(slots) => return Ok(slots),
            Err(no) => reason = reason.or(Some(of_host(host, no))),
        }
    }
    Err(reason.unwrap_or_else(|| NoContact::Config("redis.url names no host".to_owned())))
}

async fn slots_of(access: &Access, host: &Host) -> Result<Slots, NoContact> {
    let mut question = redis::cmd("CLUSTER");
    question.arg("SLOTS");
    let mut connection = access.connect(host).await?;
    let answers = ask(&mut connection, &[question]).await?;
    match answers.first() {
        Some(Value::ServerError(error)) if error.code() == "ERR" => {
            Err(NoContact::Config(error.details().unwrap_or("it is no cluster").to_owned()))
        }
        Some(Value::ServerError(error)) => Err(refused(classify(error))),
        Some(Value::Array(ranges)) => {
            Ok(Slots(ranges.iter().filter_map(|range| range_of(range, host)).collect()))
        }
        _ => Err(NoContact::Unreachable("no answer to CLUSTER SLOTS".to_owned())),
    }
}

/// First and last slot, then the node that is written to, then its replicas.
fn range_of(range: &Value, asked: &Host) -> Option<(u16, u16, Host)> {
    let Value::Array(parts) = range else { return None };
    let [Value::Int(first), Value::Int(last), Value::Array(node), ..] = parts.as_slice() else {
        return None;
    };
    let host = host_of(node.first(), node.get(1), asked)?;
    Some((u16::try_from(*first).ok()?, u16::try_from(*last).ok()?, host))
}

/// A node that does not know its own name has the one that it was asked by.
fn host_of(name: Option<&Value>, port: Option<&Value>, asked: &Host) -> Option<Host> {
    let port = text(port?)?.parse().ok()?;
    let name = name.and_then(text).filter(|name| !name.is_empty() && name != "?");
    Some(Host { name: name.unwrap_or_else(|| asked.name.clone()), port })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_where_the_cluster_says() {
        let node = |name: Value, port| Value::Array(vec![name, Value::Int(port)]);
        let range = |first, last, node| {
            Value::Array(vec![Value::Int(first), Value::Int(last), node, Value::Nil])
        };
        let asked = Host { name: "asked".to_owned(), port: 1 };
        let named = node(Value::BulkString(b"n1".to_vec()), 7000);
        let ranges = [range(0, 99, named), range(100, 16_383, node(Value::Nil, 7001))];
        let slots = Slots(ranges.iter().filter_map(|range| range_of(range, &asked)).collect());
        assert_eq!(slots.host(99).unwrap().to_string(), "n1:7000");
        assert_eq!(slots.host(100).unwrap().to_string(), "asked:7001");
        assert_eq!(slots.hosts().len(), 2);
        assert_eq!(Slots::default().host(0), None);
    }
}
