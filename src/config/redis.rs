//! Settings of Redis Streams.

use super::settings::Settings;
use super::sink::{are_loopback, optional, schemes, secret, tls_files};
use crate::ack::Limits;
use crate::sink::{Durability, RedisConfig, Topology, Trim};

pub(super) fn redis(
    settings: &mut Settings,
    relay_id: &str,
    limits: Limits,
) -> Option<RedisConfig> {
    let url = secret(settings, "redis.url").unwrap_or_default();
    let schemes = match schemes(&url, &["redis", "rediss"]) {
        Ok(schemes) => schemes,
        Err(problem) => {
            settings.problem(format!("redis.url: {problem}"));
            return None;
        }
    };
    let is_plain = schemes.contains(&"redis");
    let username = optional(settings, "redis.username");
    let password = secret(settings, "redis.password");
    if is_plain && (password.is_some() || url.contains('@')) && !are_loopback(&url) {
        settings
            .warn("redis.url: redis:// shows the password to everybody on the way: set rediss://");
    }
    let topology = match settings.choice("redis.topology").as_str() {
        "cluster" => Topology::Cluster,
        "sentinel" => sentinel(settings),
        _ => Topology::Single,
    };
    if topology == Topology::Single && schemes.len() > 1 {
        settings.problem(
            "redis.url: several servers need redis.topology = \"cluster\" or \"sentinel\"",
        );
    }
    let [tls_ca, tls_cert, tls_key] = tls_files(settings, "redis");
    if is_plain && (tls_ca.is_some() || tls_cert.is_some()) {
        settings.problem("redis.tls_ca, redis.tls_cert: TLS needs rediss:// in redis.url");
    }
    let durability = durability(settings);
    let trim = match settings.choice("redis.trim").as_str() {
        "force" => Trim::Force,
        _ => Trim::Read,
    };
    Some(RedisConfig {
        relay_id: relay_id.to_owned(),
        username,
        password,
        topology,
        tls_ca,
        tls_cert,
        tls_key,
        durability,
        max_len: settings.number("redis.max_len"),
        trim,
        in_flight_events: limits.events,
        in_flight_bytes: limits.bytes,
        url,
    })
}

fn sentinel(settings: &mut Settings) -> Topology {
    let master = settings.text("redis.sentinel_master");
    if master.is_empty() {
        settings.problem("redis.sentinel_master: the sentinels need the name of the server");
    }
    Topology::Sentinel { master }
}

fn durability(settings: &mut Settings) -> Durability {
    let text = settings.text("redis.durability");
    let replicas = || text.strip_prefix("replicas:")?.parse().ok().filter(|count| *count > 0);
    match text.as_str() {
        "memory" => Durability::Memory,
        "aof" => Durability::Aof,
        _ => replicas().map(Durability::Replicas).unwrap_or_else(|| {
            settings.problem(format!(
                "redis.durability: {text:?}: expected \"memory\", \"aof\" or \"replicas:N\""
            ));
            Durability::Memory
        }),
    }
}
