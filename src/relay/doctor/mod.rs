//! What `doctor` looks at beyond preflight: what does not keep the relay from starting, and will
//! hurt it, PostgreSQL or the events one day. A start does not wait for any of it.
//!
//! Nothing is written, neither to PostgreSQL nor to the sink. Each part reads facts first and judges
//! them then, so that what cannot be brought about in a test can be judged in one.

mod clock;
mod facts;
mod kafka;
#[cfg(feature = "nats")]
mod nats;
#[cfg(feature = "redis")]
mod redis;
mod retention;
mod role;
mod settings;
mod table;
mod topics;

pub use topics::Topics;

use std::time::Duration;

use tokio_postgres::Client;

use super::RelayConfig;
use super::board::wall_clock;
use super::disposition::of_postgres;
use super::finding::Finding;
use super::preflight::Preflight;
use crate::failure::{Code, chain};
use crate::postgres::{Error, quote_literal};
use crate::sink::{NoContact, SinkConfig, SinkName};
use facts::Facts;

/// What goes with a payload, in bytes: key, headers, envelope.
const AROUND: usize = 65_536;

/// Looks at PostgreSQL, beyond what preflight found. Topics that events are routed to come into
/// `topics`.
pub async fn examine_postgres(
    client: &Client,
    config: &RelayConfig,
    found: &Preflight,
    topics: &mut Topics,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut take = |result: Result<Vec<Finding>, Error>| match result {
        Ok(more) => findings.extend(more),
        Err(error) => findings.push(unseen(&error)),
    };
    // What an older server or a standby says of itself is another matter.
    let is_ours = |code| found.findings.iter().all(|finding| finding.code != code);
    if is_ours(Code::ServerVersion) && is_ours(Code::InRecovery) {
        take(server(client, config, found).await);
    }
    take(clock::examine(client, wall_clock).await);
    take(role::examine(client, config, found.outbox.as_ref()).await);
    if let Some(outbox) = found.outbox.as_ref().filter(|outbox| outbox.table.exists()) {
        take(table::examine(client, config, outbox, topics).await);
    }
    take(topics.learn(client, config, found.outbox.as_ref()).await.map(|()| Vec::new()));
    findings
}

/// Looks at the sink for at most that long: at the topics that were told of, and those of their dead
/// letters.
pub async fn examine_sink(config: &RelayConfig, topics: &Topics, within: Duration) -> Vec<Finding> {
    match &config.sink {
        SinkConfig::Kafka(kafka) => kafka::examine(kafka, config, topics, within).await,
        #[cfg(feature = "nats")]
        SinkConfig::Nats(nats) => nats::examine(nats, config, topics, within).await,
        #[cfg(not(feature = "nats"))]
        SinkConfig::Nats(_) => Vec::new(),
        #[cfg(feature = "redis")]
        SinkConfig::Redis(redis) => redis::examine(redis, config, topics, within).await,
        #[cfg(not(feature = "redis"))]
        SinkConfig::Redis(_) => Vec::new(),
    }
}

async fn server(
    client: &Client,
    config: &RelayConfig,
    found: &Preflight,
) -> Result<Vec<Finding>, Error> {
    let facts = Facts::load(client, config).await?;
    let mut findings = settings::judge(&facts, config);
    findings.extend(retention::judge(&facts, config));
    findings.extend(retention::open_transactions(client, &facts, config, found).await?);
    Ok(findings)
}

/// How the sink is reached, and what differs where it lets nobody in: what it requires, and the remedy.
struct Entrance<'a> {
    sink: SinkName,
    address: &'a str,
    tls: [&'a str; 2],
    login: [&'a str; 2],
}

impl Entrance<'_> {
    /// Why it does not let us in.
    fn closed(&self, reason: &NoContact) -> Finding {
        let name = self.sink.title;
        let refused = |code, what: &str, text: &str, [required, fix]: [&str; 2]| {
            Finding::error(code, what, format!("{}: {text}", self.address), required, fix)
        };
        match reason {
            NoContact::Config(text) => {
                let code = Code::SinkConfig;
                Finding::error(code, name, text, "a configuration", code.remedy())
            }
            NoContact::Tls(text) => {
                refused(Code::SinkTls, &format!("TLS to {name}"), text, self.tls)
            }
            NoContact::Login(text) => {
                refused(Code::SinkAuth, &format!("login to {name}"), text, self.login)
            }
            NoContact::Unreachable(text) => {
                let code = Code::SinkUnavailable;
                refused(code, name, text, ["an answer", code.remedy()])
            }
        }
    }
}

/// Sets what the server takes on without a restart.
fn alter_system(setting: &str, value: &str) -> String {
    format!("ALTER SYSTEM SET {setting} = {value}; SELECT pg_reload_conf();")
}

fn drop_slot(name: &str) -> String {
    format!("SELECT pg_drop_replication_slot({});", quote_literal(name))
}

/// A part that could not be looked at.
fn unseen(error: &Error) -> Finding {
    let code = of_postgres(error, "look at the set-up").failure().code;
    Finding::unreachable(code, "PostgreSQL", &chain(error)).warning()
}
