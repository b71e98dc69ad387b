//! A configuration with what it was read from, to be compared with a later reading: of what has
//! changed, some can be taken on by a relay that runs.

use super::secrets::Whose;
use super::settings::Settings;
use super::{Config, Sources};
use crate::failure::{Code, Failure};

/// A configuration as it was read once.
pub struct Reading {
    /// What it means.
    pub config: Config,
    settings: Settings,
}

/// What is different in a later reading.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changes {
    /// How to get into PostgreSQL.
    pub postgres: bool,
    /// How to get into the sink.
    pub sink: bool,
    /// The token of `/api`.
    pub token: bool,
    /// Keys that only a start takes on.
    pub rest: Vec<&'static str>,
}

/// The keys that a relay that runs takes on, and whose they are.
const TAKEN_ON: [(&str, Whose); 24] = [
    ("postgres.url", Whose::Postgres),
    ("postgres.url_file", Whose::Postgres),
    ("kafka.properties", Whose::Sink),
    ("kafka.properties_file", Whose::Sink),
    ("redis.url", Whose::Sink),
    ("redis.url_file", Whose::Sink),
    ("redis.username", Whose::Sink),
    ("redis.password", Whose::Sink),
    ("redis.password_file", Whose::Sink),
    ("redis.tls_ca", Whose::Sink),
    ("redis.tls_cert", Whose::Sink),
    ("redis.tls_key", Whose::Sink),
    ("nats.url", Whose::Sink),
    ("nats.url_file", Whose::Sink),
    ("nats.user", Whose::Sink),
    ("nats.password", Whose::Sink),
    ("nats.password_file", Whose::Sink),
    ("nats.token", Whose::Sink),
    ("nats.token_file", Whose::Sink),
    ("nats.credentials_file", Whose::Sink),
    ("nats.tls_ca", Whose::Sink),
    ("nats.tls_cert", Whose::Sink),
    ("nats.tls_key", Whose::Sink),
    ("admin.token_file", Whose::Admin),
];

impl Reading {
    /// Reads and checks the configuration.
    ///
    /// # Errors
    /// Everything that is wrong with it, in one failure.
    pub fn of(sources: &Sources) -> Result<Self, Failure> {
        let mut settings = sources.settings();
        let config = Config::of(&mut settings)?;
        Ok(Self { config, settings })
    }

    /// What is different in a `later` one.
    ///
    /// # Errors
    /// It is for another database, which is another outbox with a position of its own, or for another
    /// server of Redis or NATS; or `/api` would come or go.
    pub fn changes(&self, later: &Self) -> Result<Changes, Failure> {
        let (before, after) = (&self.config, &later.config);
        let refused = |text: &str| {
            let text = format!("{text}: that takes a restart");
            Err(Failure::new(Code::Config, text))
        };
        if before.relay.server.database != after.relay.server.database {
            return refused("postgres.url names another database");
        }
        let (old, new) = (&before.relay.sink, &after.relay.sink);
        if let Some(key) = old.elsewhere(new) {
            return refused(&format!("{key} names another place than {}", old.describe()));
        }
        if before.admin.token.is_some() != after.admin.token.is_some() {
            return refused("admin.token_file was set, or is not set any more");
        }
        let mut differing = self.settings.differing(&later.settings);
        let changed = |whose: Whose| {
            let of = |settings: &Settings| -> Vec<_> {
                let files = settings.seen.iter().filter(|((of, _), _)| *of == whose);
                files.map(|((_, path), held)| (path.clone(), *held)).collect()
            };
            let keys = TAKEN_ON.iter().filter(|(_, of)| *of == whose);
            let by_key = keys.filter(|(key, _)| differing.contains(key)).count() > 0;
            by_key || of(&self.settings) != of(&later.settings)
        };
        // Of another kind of sink nothing is taken on.
        let sink = old.name() == new.name() && changed(Whose::Sink);
        let (postgres, token) = (changed(Whose::Postgres), changed(Whose::Admin));
        differing.retain(|key| TAKEN_ON.iter().all(|(taken_on, _)| taken_on != key));
        Ok(Changes { postgres, sink, token, rest: differing })
    }
}
