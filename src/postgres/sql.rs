//! SQL connections: the same settings in each, whatever the role's defaults are.

use std::future::poll_fn;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;
use tokio_postgres::{AsyncMessage, Client, NoTls};

use super::Error;
use super::socket::Socket;
use super::url::{Address, Server};

/// Settings that change how values are printed. The decoder relies on them, in the replication
/// connection as in a sweep.
pub(super) const SESSION_PINS: &str = "-c datestyle=ISO -c timezone=UTC \
    -c intervalstyle=iso_8601 -c bytea_output=hex -c extra_float_digits=1";

/// Settings of every SQL session.
///
/// A status must be durable before its position is confirmed, whatever the role's
/// `synchronous_commit` is; row security must be an error and not an empty result; nobody may be
/// made to wait for us; and a peer that is gone must be noticed by the server, because it holds
/// our lock until then.
const SESSION_SETTINGS: &str = "\
    SET synchronous_commit = on; \
    SET row_security = off; \
    SET default_transaction_isolation = 'read committed'; \
    SET default_transaction_read_only = off; \
    SET search_path = pg_catalog; \
    SET statement_timeout = '60s'; \
    SET lock_timeout = '5s'; \
    SET idle_in_transaction_session_timeout = 0; \
    SET client_min_messages = warning; \
    SET jit = off; \
    SET tcp_keepalives_idle = 10; \
    SET tcp_keepalives_interval = 5; \
    SET tcp_keepalives_count = 3";

/// What the server says to someone without a password.
pub(super) const NO_PASSWORD: &str = "the server wants a password, and postgres.url has none";

/// A SQL session.
#[derive(Debug)]
pub struct SqlSession {
    /// To run statements with.
    pub client: Client,
    /// The address that answered.
    pub address: Address,
    ended: watch::Receiver<Option<String>>,
    notices: watch::Receiver<u64>,
}

impl SqlSession {
    /// Connects to the first of the server's addresses that answers; one that is a standby counts
    /// only if no other answers. `purpose` shows in `pg_stat_activity`.
    ///
    /// # Errors
    /// None can be reached, or it does not let us in.
    pub async fn open(server: &Server, purpose: &str) -> Result<Self, Error> {
        let mut standby = None;
        let mut failure = None;
        for address in &server.addresses {
            match Self::open_at(server, address, purpose).await {
                Err(error) => failure = Some(error),
                Ok(session) if server.addresses.len() == 1 => return Ok(session),
                Ok(session) => {
                    let row = session.client.query_one("SELECT pg_is_in_recovery()", &[]).await?;
                    if !row.get::<_, bool>(0) {
                        return Ok(session);
                    }
                    standby = Some(session);
                }
            }
        }
        standby.ok_or_else(|| failure.unwrap_or(Error::Closed))
    }

    /// Connects to one address.
    ///
    /// # Errors
    /// It cannot be reached, or does not let us in.
    pub async fn open_at(server: &Server, address: &Address, purpose: &str) -> Result<Self, Error> {
        let socket = Socket::open(server, address).await?;
        let limit = server.connect_timeout;
        let start_up = timeout(limit, Self::start_up(server, address, purpose, socket)).await;
        start_up.unwrap_or(Err(Error::Timeout { limit })).map_err(|source| Error::Connect {
            address: address.to_string(),
            source: Box::new(source),
        })
    }

    async fn start_up(
        server: &Server,
        address: &Address,
        purpose: &str,
        socket: Socket,
    ) -> Result<Self, Error> {
        let mut config = tokio_postgres::Config::new();
        let name = server.application_name();
        config.user(&server.user).dbname(&server.database);
        config.application_name(format!("{name} {purpose}"));
        let options = server.options.as_deref().unwrap_or_default();
        config.options(format!("{options} {SESSION_PINS}"));
        if let Some(password) = &server.password {
            config.password(password);
        }
        // TLS is below the socket already.
        config.ssl_mode(tokio_postgres::config::SslMode::Disable);
        let connected = config.connect_raw(socket, NoTls).await.map_err(Error::from);
        let (client, mut connection) = connected.map_err(|error| match error {
            // The library calls it an invalid configuration, and means this.
            Error::Protocol(_) if server.password.is_none() => Error::Auth(NO_PASSWORD.to_owned()),
            other => other,
        })?;
        let (end, ended) = watch::channel(None);
        let (notice, notices) = watch::channel(0);
        tokio::spawn(async move {
            let reason = loop {
                match poll_fn(|cx| connection.poll_message(cx)).await {
                    Some(Ok(AsyncMessage::Notification(_))) => {
                        notice.send_modify(|count: &mut u64| *count += 1);
                    }
                    Some(Ok(_)) => {}
                    Some(Err(error)) => break Error::from(error).to_string(),
                    None => break "it was closed".to_owned(),
                }
            };
            end.send_replace(Some(reason));
        });
        client.batch_execute(SESSION_SETTINGS).await?;
        Ok(Self { client, address: address.clone(), ended, notices })
    }

    /// Waits until the connection is gone, and says why.
    pub async fn ended(&self) -> String {
        let mut ended = self.ended.clone();
        let reason = ended.wait_for(Option::is_some).await.ok();
        reason.and_then(|reason| reason.clone()).unwrap_or_default()
    }

    /// Listens to what operators tell the relays of this database.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn listen(&self) -> Result<(), Error> {
        Ok(self.client.batch_execute("LISTEN outboxd").await?)
    }

    /// Changes with everything that is told.
    pub fn notices(&self) -> watch::Receiver<u64> {
        self.notices.clone()
    }

    /// Sets how long a statement waits for a lock.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn set_lock_timeout(&self, limit: Duration) -> Result<(), Error> {
        let sql = format!("SET lock_timeout = {}", limit.as_millis());
        Ok(self.client.batch_execute(&sql).await?)
    }
}
