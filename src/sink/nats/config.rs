//! How to reach NATS, and what its streams are like.

use std::path::PathBuf;
use std::time::Duration;

/// How to reach NATS, and how much may be under way.
#[derive(Clone)]
pub struct NatsConfig {
    /// `nats://host:port`, or `tls://`; several, separated by commas, of one cluster.
    pub url: String,
    /// As whom, if by name.
    pub user: Option<String>,
    /// The user's password.
    pub password: Option<String>,
    /// In place of a user: a token.
    pub token: Option<String>,
    /// In place of both: a file with a user's JWT and seed.
    pub credentials_file: Option<PathBuf>,
    /// Who signs the servers' certificates; none for those whom the system trusts.
    pub tls_ca: Option<PathBuf>,
    /// The relay's own certificate.
    pub tls_cert: Option<PathBuf>,
    /// The key of `tls_cert`.
    pub tls_key: Option<PathBuf>,
    /// The stream that every subject has to be in; none for whichever has it.
    pub stream: Option<String>,
    /// What a missing stream is made like; none if it is not.
    pub create_streams: Option<StreamShape>,
    /// Messages that can be under way at once.
    pub in_flight_events: usize,
    /// Bytes of messages that can be under way at once.
    pub in_flight_bytes: u64,
}

/// What a stream is made like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamShape {
    /// How many servers keep each message.
    pub replicas: usize,
    /// For how long a message is known by its id.
    pub duplicate_window: Duration,
}

impl NatsConfig {
    /// Whether its client can make something of the URL.
    ///
    /// # Errors
    /// What is wrong, without the URL: it can hold a password.
    pub(in crate::sink) fn check_url(&self) -> Result<(), String> {
        #[cfg(feature = "nats")]
        super::jetstream::check_url(self)?;
        Ok(())
    }

    /// Where it is, without secrets.
    pub fn describe(&self) -> String {
        super::super::hosts_of(&self.url)
    }

    /// Takes over from `other` how to be let in, and nothing else.
    pub(in crate::sink) fn take_credentials(&mut self, other: &Self) {
        let Self { url, user, password, token, credentials_file, .. } = other.clone();
        (self.url, self.credentials_file) = (url, credentials_file);
        (self.user, self.password, self.token) = (user, password, token);
        let Self { tls_ca, tls_cert, tls_key, .. } = other.clone();
        (self.tls_ca, self.tls_cert, self.tls_key) = (tls_ca, tls_cert, tls_key);
    }
}

impl std::fmt::Debug for NatsConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NatsConfig")
            .field("url", &self.describe())
            .field("stream", &self.stream)
            .finish_non_exhaustive()
    }
}
