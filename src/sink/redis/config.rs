//! How to reach Redis, and when it has an event for good.

use std::path::PathBuf;

/// How to reach Redis, and how much may be under way.
#[derive(Clone)]
pub struct RedisConfig {
    /// Names the relay, and no other, for what it keeps beside the streams.
    pub relay_id: String,
    /// `redis://host:port/db`, or `rediss://` for TLS; several, separated by commas, of a cluster or
    /// of sentinels.
    pub url: String,
    /// What is there.
    pub topology: Topology,
    /// As whom; none for the default user.
    pub username: Option<String>,
    /// The password, if there is one.
    pub password: Option<String>,
    /// Who signs the servers' certificates; none for those whom the system trusts.
    pub tls_ca: Option<PathBuf>,
    /// The relay's own certificate, and its key.
    pub tls_cert: Option<PathBuf>,
    /// The key of `tls_cert`.
    pub tls_key: Option<PathBuf>,
    /// When an entry counts as safe.
    pub durability: Durability,
    /// How many entries a stream keeps, about; 0 for all.
    pub max_len: u64,
    /// What may be trimmed.
    pub trim: Trim,
    /// Records that can be under way at once.
    pub in_flight_events: usize,
    /// Bytes of records that can be under way at once.
    pub in_flight_bytes: u64,
}

/// What is behind an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Topology {
    /// One server.
    Single,
    /// A Redis Cluster.
    Cluster,
    /// Sentinels, which know the server.
    Sentinel {
        /// What they call it.
        master: String,
    },
}

/// When an entry counts as safe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// As soon as the server has it in memory.
    Memory,
    /// When it is in the server's append-only file, on disk.
    Aof,
    /// When as many replicas have it in memory.
    Replicas(u32),
}

/// What may be trimmed from a stream that is longer than it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trim {
    /// What every consumer group has read and acknowledged.
    Read,
    /// Whatever is oldest.
    Force,
}

impl RedisConfig {
    /// Whether its client can make something of the URL.
    ///
    /// # Errors
    /// What is wrong, without the URL: it can hold a password.
    pub(in crate::sink) fn check_url(&self) -> Result<(), String> {
        #[cfg(feature = "redis")]
        super::streams::check_url(self)?;
        Ok(())
    }

    /// Where it is, without secrets.
    pub fn describe(&self) -> String {
        super::super::hosts_of(&self.url)
    }

    /// The servers and the database, without the login.
    pub(in crate::sink) fn place(&self) -> Vec<&str> {
        self.url.split(',').map(super::super::without_login).collect()
    }

    /// Takes over from `other` how to be let in, and nothing else.
    pub(in crate::sink) fn take_credentials(&mut self, other: &Self) {
        let Self { url, username, password, tls_ca, tls_cert, tls_key, .. } = other.clone();
        (self.url, self.username, self.password) = (url, username, password);
        (self.tls_ca, self.tls_cert, self.tls_key) = (tls_ca, tls_cert, tls_key);
    }
}

#[cfg(test)]
impl RedisConfig {
    /// The server there, and otherwise what is so where nothing is said.
    pub(crate) fn at(url: &str) -> Self {
        Self {
            relay_id: "outboxd".to_owned(),
            url: url.to_owned(),
            topology: Topology::Single,
            username: None,
            password: None,
            tls_ca: None,
            tls_cert: None,
            tls_key: None,
            durability: Durability::Memory,
            max_len: 0,
            trim: Trim::Read,
            in_flight_events: 10_000,
            in_flight_bytes: 64 << 20,
        }
    }
}

impl std::fmt::Debug for RedisConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisConfig")
            .field("url", &self.describe())
            .field("topology", &self.topology)
            .field("durability", &self.durability)
            .finish_non_exhaustive()
    }
}
