//! Redis: whether it lets us in, whether each stream takes our entries, and whether a server keeps what
//! it has acknowledged.

use std::collections::BTreeMap;
use std::time::Duration;

use super::super::RelayConfig;
use super::super::finding::Finding;
use super::topics::{Topics, Use};
use super::{AROUND, Entrance};
use crate::failure::Code;
use crate::sink::redis::{RedisFacts, ServerFacts, look};
use crate::sink::{Durability, NoContact, RedisConfig, SinkError, SinkName};

/// The first version that has what the relay's script uses.
const OLDEST: (u32, u32) = (6, 2);

/// Looks at Redis, for about as long as that.
pub(super) async fn examine(
    redis: &RedisConfig,
    config: &RelayConfig,
    topics: &Topics,
    within: Duration,
) -> Vec<Finding> {
    let used = topics.all(config);
    let names: Vec<_> = used.keys().cloned().collect();
    match look(redis, &names, within).await {
        Ok(facts) => judge(&facts, redis, &used, topics.payload_limit),
        Err(reason) => vec![no_contact(&reason, redis)],
    }
}

fn no_contact(reason: &NoContact, redis: &RedisConfig) -> Finding {
    let entrance = Entrance {
        sink: SinkName::REDIS,
        address: &redis.describe(),
        tls: [
            "a TLS connection, with a certificate that is valid for the server's name",
            "correct redis.url, redis.tls_ca, redis.tls_cert or redis.tls_key",
        ],
        login: [
            "a login that the server takes",
            "correct redis.username or redis.password; or on the server: ACL SETUSER … on >…",
        ],
    };
    entrance.closed(reason)
}

fn judge(
    facts: &RedisFacts,
    redis: &RedisConfig,
    used: &BTreeMap<String, Use>,
    largest: Option<usize>,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    for server in &facts.servers {
        let judge = Judge { server, redis };
        findings.extend(judge.role());
        findings.extend(judge.version());
        findings.extend(judge.disk());
        findings.extend(judge.memory());
        findings.extend(judge.replicas());
        findings.extend(judge.size(largest));
    }
    for (name, used) in used {
        if let Some(Err(error)) = facts.streams.get(name) {
            findings.push(stream(name, used, error, redis));
        }
    }
    findings
}

fn stream(name: &str, used: &Use, error: &SinkError, redis: &RedisConfig) -> Finding {
    let title = used.title("stream", name);
    used.weigh(match error {
        SinkError::TopicDenied => {
            let user = redis.username.as_deref().unwrap_or("default");
            let fix =
                format!("ACL SETUSER {user} +@stream +@scripting ~{name} ~{{{name}}}:outboxd:*");
            let observed = "the relay may not write to it: its events are held";
            let required = "XADD on the stream, and its state beside it";
            Finding::error(Code::TopicDenied, &title, observed, required, fix)
        }
        SinkError::WrongTopic(text) => {
            let observed = format!("{text}: its events are held");
            let fix = format!("RENAME {name} …, or route the events to another name");
            Finding::error(Code::TopicDenied, &title, observed, "a stream, or nothing", fix)
        }
        other => {
            let (code, observed) = (Code::SinkUnavailable, other.to_string());
            Finding::error(code, &title, observed, "a server that takes entries", code.remedy())
        }
    })
}

/// A server, and what is asked of it.
struct Judge<'a> {
    server: &'a ServerFacts,
    redis: &'a RedisConfig,
}

impl Judge<'_> {
    fn finding(&self, code: Code, observed: String, required: &str, fix: &str) -> Finding {
        let title = format!("Redis at {}", self.server.address);
        Finding::error(code, &title, observed, required, fix)
    }

    fn risky(&self, observed: String, required: &str, fix: &str) -> Finding {
        self.finding(Code::TopicRisky, observed, required, fix).warning()
    }

    fn role(&self) -> Option<Finding> {
        let observed = "it is a replica, and takes no entries".to_owned();
        let fix = "name the server that it copies in redis.url, or its sentinels with redis.topology = \
                   \"sentinel\"";
        let required = "a server that takes entries";
        let finding = || self.finding(Code::SinkUnavailable, observed, required, fix);
        self.server.is_replica.then(finding)
    }

    fn version(&self) -> Option<Finding> {
        let (major, minor) = self.server.version.filter(|version| *version < OLDEST)?;
        let observed = format!("its version is {major}.{minor}");
        let fix = "install a newer one";
        Some(self.finding(Code::SinkConfig, observed, "6.2 or newer", fix))
    }

    /// What a crash of the server takes with it.
    fn disk(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        let is_aof = self.redis.durability == Durability::Aof;
        let (appendonly, fsync) = (self.server.text("appendonly"), self.server.text("appendfsync"));
        if appendonly == Some("no") && !matches!(self.redis.durability, Durability::Replicas(_)) {
            let observed = "appendonly = no: what was acknowledged is gone when the server stops";
            let fix = "CONFIG SET appendonly yes; CONFIG REWRITE";
            let finding = self.risky(observed.to_owned(), "yes", fix);
            // Then nothing is acknowledged at all.
            let (code, severity) = match is_aof {
                true => (Code::SinkConfig, super::super::finding::Severity::Error),
                false => (finding.code, finding.severity),
            };
            findings.push(Finding { code, severity, ..finding });
        } else if is_aof
            && !self.server.has_waitaof()
            && fsync.is_some_and(|fsync| fsync != "always")
        {
            let fsync = fsync.unwrap_or_default();
            let observed = format!(
                "appendfsync = {fsync}: before 7.2 a server does not say when an entry is on disk, and \
                 nothing is acknowledged"
            );
            let fix =
                "CONFIG SET appendfsync always; CONFIG REWRITE; or install Redis 7.2 or newer";
            findings.push(self.finding(Code::SinkConfig, observed, "always", fix));
        } else if !is_aof && appendonly == Some("yes") && fsync == Some("no") {
            let observed =
                "appendfsync = no: the operating system decides when entries reach the disk";
            let fix = "CONFIG SET appendfsync everysec; CONFIG REWRITE";
            findings.push(self.risky(observed.to_owned(), "everysec or always", fix));
        }
        if !self.server.is_aof_well {
            let observed = "the append-only file could not be written: the server takes no entries";
            let fix = "make room on its disk; see its log";
            findings.push(self.finding(Code::SinkUnavailable, observed.to_owned(), "a disk", fix));
        }
        findings
    }

    fn memory(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        let policy = self.server.text("maxmemory-policy").unwrap_or_default();
        let limit = self.server.number("maxmemory").filter(|limit| *limit > 0);
        // Others drop only keys that end anyway, and streams do not.
        if policy.starts_with("allkeys-") {
            let observed = match limit {
                Some(limit) => format!(
                    "maxmemory-policy = {policy}: at {limit} bytes the server drops whole streams"
                ),
                None => {
                    format!("maxmemory-policy = {policy}: with maxmemory it would drop streams")
                }
            };
            let fix = "CONFIG SET maxmemory-policy noeviction; CONFIG REWRITE";
            findings.push(self.risky(observed, "noeviction", fix));
        }
        if let (Some(limit), Some(used)) = (limit, self.server.used_memory)
            && used > limit / 10 * 9
        {
            let observed = format!("{used} bytes of maxmemory = {limit} are in use");
            let fix = "raise maxmemory, or trim: redis.max_len, XTRIM";
            findings.push(self.risky(observed, "room: a full server takes no entries", fix));
        }
        findings
    }

    fn replicas(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        let there = self.server.replicas;
        let mut too_few = |wanted: u64, what: &str| {
            if let Some(there) = there.map(u64::from).filter(|there| *there < wanted) {
                let observed = format!("{there} replicas are connected, {what}");
                let required = format!("{wanted} replicas");
                let fix = "start the replicas that are away";
                findings.push(self.finding(Code::SinkUnavailable, observed, &required, fix));
            }
        };
        if let Durability::Replicas(wanted) = self.redis.durability {
            let what = format!("redis.durability is replicas:{wanted}: nothing is acknowledged");
            too_few(wanted.into(), &what);
        }
        if let Some(wanted) = self.server.number("min-replicas-to-write") {
            let what = format!("min-replicas-to-write is {wanted}: the server takes no entries");
            too_few(wanted, &what);
        }
        findings
    }

    fn size(&self, largest: Option<usize>) -> Option<Finding> {
        let (limit, largest) = (self.server.number("proto-max-bulk-len")?, largest?);
        if largest as u64 <= limit {
            return None;
        }
        let observed = format!(
            "proto-max-bulk-len = {limit}, and the table takes payloads of {largest} bytes: what lies \
             between is committed, fails and holds up its key"
        );
        let fix = format!("CONFIG SET proto-max-bulk-len {}; CONFIG REWRITE", largest + AROUND);
        Some(self.risky(observed, "at least what the outbox takes", &fix))
    }
}

#[cfg(test)]
mod tests {
    use super::super::topics::Known;
    use super::*;
    use crate::relay::finding::Severity;

    fn redis(durability: Durability) -> RedisConfig {
        let config = RedisConfig::at("redis://user:hunter2@h:1");
        RedisConfig { username: Some("relay".to_owned()), durability, ..config }
    }

    fn server(settings: &[(&str, &str)]) -> ServerFacts {
        let settings = settings.iter().map(|(name, value)| ((*name).into(), (*value).into()));
        ServerFacts {
            address: "h:1".to_owned(),
            version: Some((7, 0)),
            replicas: Some(1),
            used_memory: Some(950),
            is_aof_well: true,
            settings: settings.collect(),
            ..ServerFacts::default()
        }
    }

    fn found(server: ServerFacts, durability: Durability) -> Vec<(Code, Severity, String)> {
        let facts = RedisFacts { servers: vec![server], ..RedisFacts::default() };
        let findings = judge(&facts, &redis(durability), &BTreeMap::new(), Some(1000));
        findings.into_iter().map(|f| (f.code, f.severity, f.observed)).collect()
    }

    const SAFE: [(&str, &str); 4] = [
        ("appendonly", "yes"),
        ("appendfsync", "always"),
        ("maxmemory-policy", "volatile-lru"),
        ("maxmemory", "0"),
    ];

    #[test]
    fn a_server_that_keeps_what_it_has_is_well() {
        for durability in [Durability::Memory, Durability::Aof, Durability::Replicas(1)] {
            assert_eq!(found(server(&SAFE), durability), []);
        }
        // What it does not show, nobody can judge.
        assert_eq!(found(server(&[]), Durability::Aof), []);
    }

    #[test]
    fn what_can_lose_entries_is_told() {
        use Severity::{Error, Warning};
        let one = |change: (&'static str, &'static str), durability| {
            let mut server = server(&SAFE);
            server.settings.insert(change.0.to_owned(), change.1.to_owned());
            let found = found(server, durability);
            assert_eq!(found.len(), 1, "{change:?}: {found:?}");
            let (code, severity, observed) = found.into_iter().next().unwrap();
            assert!(observed.contains(change.0), "{observed}");
            (code, severity)
        };
        let memory = Durability::Memory;
        assert_eq!(one(("appendonly", "no"), memory), (Code::TopicRisky, Warning));
        assert_eq!(one(("appendonly", "no"), Durability::Aof), (Code::SinkConfig, Error));
        assert_eq!(one(("appendfsync", "no"), memory), (Code::TopicRisky, Warning));
        assert_eq!(one(("appendfsync", "everysec"), Durability::Aof), (Code::SinkConfig, Error));
        assert_eq!(one(("maxmemory-policy", "allkeys-lru"), memory), (Code::TopicRisky, Warning));
        assert_eq!(one(("maxmemory", "1000"), memory), (Code::TopicRisky, Warning));
        assert_eq!(one(("min-replicas-to-write", "2"), memory), (Code::SinkUnavailable, Error));
        assert_eq!(one(("proto-max-bulk-len", "999"), memory), (Code::TopicRisky, Warning));
        let newer = ServerFacts { version: Some((7, 2)), ..server(&[("appendfsync", "everysec")]) };
        assert_eq!(found(newer, Durability::Aof), []);
    }

    #[test]
    fn a_server_that_takes_nothing_is_an_error() {
        for (server, durability) in [
            (ServerFacts { is_replica: true, ..server(&SAFE) }, Durability::Memory),
            (ServerFacts { version: Some((6, 0)), ..server(&SAFE) }, Durability::Memory),
            (ServerFacts { is_aof_well: false, ..server(&SAFE) }, Durability::Memory),
            (server(&SAFE), Durability::Replicas(2)),
        ] {
            let found = found(server, durability);
            assert!(matches!(found.as_slice(), [(_, Severity::Error, _)]), "{found:?}");
        }
    }

    #[test]
    fn a_stream_that_takes_nothing_is_told_and_no_secret_is() {
        let used = |known| Use { known, partitions: None };
        let names = [("a", used(Known::Routed)), ("a.dlq", used(Known::DeadLetters))];
        let names: BTreeMap<_, _> =
            names.into_iter().map(|(name, used)| (name.to_owned(), used)).collect();
        let wrong = SinkError::WrongTopic("the key holds a string, no stream".to_owned());
        let streams = [("a", SinkError::TopicDenied), ("a.dlq", wrong)];
        let streams = streams.map(|(name, error)| (name.to_owned(), Err(error)));
        let facts = RedisFacts { servers: Vec::new(), streams: streams.into() };
        let redis = redis(Durability::Memory);
        let found = judge(&facts, &redis, &names, None);
        assert_eq!(
            found.iter().map(|finding| finding.severity).collect::<Vec<_>>(),
            [Severity::Error, Severity::Warning]
        );
        assert!(found[0].fix.contains("ACL SETUSER relay") && found[1].observed.contains("string"));
        let refused = no_contact(&NoContact::Unreachable("gone".to_owned()), &redis);
        assert!(!format!("{refused:?}").contains("hunter2") && refused.observed.contains("h:1"));
        let refused = no_contact(&NoContact::Config("no such thing".to_owned()), &redis);
        assert_eq!((refused.code, &*refused.observed), (Code::SinkConfig, "no such thing"));
    }
}
