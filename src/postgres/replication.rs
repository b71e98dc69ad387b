//! A replication connection up to the point where it streams: start-up, authentication, commands.
//!
//! Framing is pgwire-replication's, authentication is postgres-protocol's; both are used as parts.
//! The ready-made replication client is not used: it hides SQLSTATEs, confirms nothing on a graceful
//! end, and copies every row between tasks (docs/adr/0002).

use std::time::Duration;

use bytes::Bytes;
use pgwire_replication::protocol::framing::{
    MessageReader, write_password_message, write_query, write_startup_message,
};
use pgwire_replication::protocol::messages::{auth, parse_auth_request};
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};
use tokio::time::timeout;

use super::socket::Socket;
use super::sql::{NO_PASSWORD, SESSION_PINS};
use super::stream::ReplicationStream;
use super::url::{Address, Server};
use super::{Error, quote_ident, quote_literal};
use crate::lsn::Lsn;

/// A command other than creating a slot is answered within this.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(20);

/// A connection that can stream, and does not yet.
pub struct ReplicationConnection {
    socket: Socket,
    reader: MessageReader,
    /// The server process behind it.
    pub backend_pid: i32,
    max_row_bytes: usize,
}

/// Which server this is: what a stored position belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The cluster's identifier, the same for its standbys and copies.
    pub system_id: String,
    /// Its time line, which a promotion changes.
    pub timeline: i32,
}

/// A slot to be created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewSlot<'a> {
    /// Its name.
    pub name: &'a str,
    /// Whether it is to survive a failover to a standby of the server. Not before PostgreSQL 17.
    pub failover: bool,
}

/// A slot that was just created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreatedSlot {
    /// The first position that it can stream.
    pub consistent_point: Lsn,
    /// The snapshot of everything before it, valid until the connection's next command.
    pub snapshot: String,
}

impl ReplicationConnection {
    /// Connects and authenticates.
    ///
    /// # Errors
    /// The server cannot be reached or does not let us in.
    pub async fn open(
        server: &Server,
        address: &Address,
        max_row_bytes: usize,
    ) -> Result<Self, Error> {
        let mut connection = Self {
            socket: Socket::open(server, address).await?,
            reader: MessageReader::new(),
            backend_pid: 0,
            max_row_bytes,
        };
        let limit = server.connect_timeout;
        let started = timeout(limit, connection.start_up(server)).await;
        started.unwrap_or(Err(Error::Timeout { limit })).map_err(|source| Error::Connect {
            address: address.to_string(),
            source: Box::new(source),
        })?;
        Ok(connection)
    }

    async fn start_up(&mut self, server: &Server) -> Result<(), Error> {
        let options = match &server.options {
            Some(options) => format!("{options} {SESSION_PINS}"),
            None => SESSION_PINS.to_owned(),
        };
        let parameters = [
            ("user", server.user.as_str()),
            ("database", server.database.as_str()),
            ("replication", "database"),
            ("application_name", server.application_name()),
            ("client_encoding", "UTF8"),
            ("options", options.as_str()),
        ];
        const PROTOCOL_3: i32 = 196_608;
        write_startup_message(&mut self.socket, PROTOCOL_3, &parameters).await?;
        loop {
            let (tag, payload) = self.message().await?;
            match tag {
                b'R' => self.authenticate(server, &payload).await?,
                b'K' => {
                    let pid = payload.first_chunk::<4>().copied();
                    self.backend_pid = pid.map_or(0, i32::from_be_bytes);
                }
                b'Z' => return Ok(()),
                b'S' | b'N' => {}
                b'E' => return Err(Error::from_response(&payload)),
                _ => return Err(unexpected(tag)),
            }
        }
    }

    async fn authenticate(&mut self, server: &Server, request: &[u8]) -> Result<(), Error> {
        let (method, data) = parse_auth_request(request)?;
        if method == auth::OK {
            return Ok(());
        }
        let password = server.password.as_deref();
        let password = password.ok_or_else(|| Error::Auth(NO_PASSWORD.to_owned()))?;
        match method {
            auth::CLEARTEXT_PASSWORD => self.send_password(password).await,
            auth::MD5_PASSWORD => {
                let salt = data.first_chunk::<4>().copied();
                let salt = salt.ok_or_else(|| Error::Protocol("a short salt".into()))?;
                let hash = md5_hash(server.user.as_bytes(), password, salt);
                self.send_password(hash.as_bytes()).await
            }
            auth::SASL => self.scram(password, data).await,
            other => Err(Error::Auth(format!("the server wants method {other}, not a password"))),
        }
    }

    async fn send_password(&mut self, password: &[u8]) -> Result<(), Error> {
        let mut payload = password.to_vec();
        payload.push(0);
        Ok(write_password_message(&mut self.socket, &payload).await?)
    }

    async fn scram(&mut self, password: &[u8], mechanisms: &[u8]) -> Result<(), Error> {
        let scram_sha_256 = SCRAM_SHA_256.as_bytes();
        if !mechanisms.split(|byte| *byte == 0).any(|offered| offered == scram_sha_256) {
            return Err(Error::Auth("the server offers no SCRAM-SHA-256".into()));
        }
        let mut scram = ScramSha256::new(password, ChannelBinding::unsupported());
        let mut first = [scram_sha_256, &[0]].concat();
        let length = i32::try_from(scram.message().len()).unwrap_or(i32::MAX);
        first.extend(length.to_be_bytes());
        first.extend(scram.message());
        write_password_message(&mut self.socket, &first).await?;
        let challenge = self.sasl(auth::SASL_CONTINUE).await?;
        scram.update(&challenge).map_err(|error| Error::Auth(error.to_string()))?;
        write_password_message(&mut self.socket, scram.message()).await?;
        let proof = self.sasl(auth::SASL_FINAL).await?;
        scram.finish(&proof).map_err(|error| Error::Auth(error.to_string()))
    }

    async fn sasl(&mut self, expected: i32) -> Result<Vec<u8>, Error> {
        match self.message().await? {
            (b'R', payload) => match parse_auth_request(&payload)? {
                (method, data) if method == expected => Ok(data.to_vec()),
                (method, _) => Err(Error::Protocol(format!("authentication step {method}"))),
            },
            (b'E', payload) => Err(Error::from_response(&payload)),
            (tag, _) => Err(unexpected(tag)),
        }
    }

    async fn message(&mut self) -> Result<(u8, Bytes), Error> {
        let message = self.reader.read(&mut self.socket).await?;
        Ok((message.tag, message.payload))
    }

    /// Runs a command and gives its rows as text.
    async fn query(&mut self, sql: &str) -> Result<Vec<Vec<Option<String>>>, Error> {
        write_query(&mut self.socket, sql).await?;
        let (mut rows, mut failure) = (Vec::new(), None);
        loop {
            let (tag, payload) = self.message().await?;
            match tag {
                b'D' => rows.push(data_row(&payload)?),
                b'E' => failure = Some(Error::from_response(&payload)),
                b'Z' => return failure.map_or(Ok(rows), Err),
                b'T' | b'C' | b'S' | b'N' | b'I' => {}
                _ => return Err(unexpected(tag)),
            }
        }
    }

    async fn command(&mut self, sql: &str) -> Result<Vec<Vec<Option<String>>>, Error> {
        let limit = COMMAND_TIMEOUT;
        timeout(limit, self.query(sql)).await.unwrap_or(Err(Error::Timeout { limit }))
    }

    /// Asks the server who it is, and up to where its WAL is flushed.
    ///
    /// # Errors
    /// The connection broke, or the answer is not one.
    pub async fn identify(&mut self) -> Result<(Identity, Lsn), Error> {
        let rows = self.command("IDENTIFY_SYSTEM").await?;
        let identity = rows.first().and_then(|row| match row.as_slice() {
            [Some(system_id), Some(timeline), Some(flushed), ..] => {
                let timeline = timeline.parse().ok()?;
                let identity = Identity { system_id: system_id.clone(), timeline };
                Some((identity, flushed.parse().ok()?))
            }
            _ => None,
        });
        identity.ok_or_else(|| Error::Protocol("an identity without a system id".into()))
    }

    /// Creates the slot and exports the snapshot of everything before it. Waits for every
    /// transaction that is open, without a limit: the caller has one.
    ///
    /// # Errors
    /// The server does not create it.
    pub async fn create_slot(&mut self, slot: NewSlot<'_>) -> Result<CreatedSlot, Error> {
        let options = match slot.failover {
            true => "(SNAPSHOT 'export', FAILOVER true)",
            // PostgreSQL 14 does not know the newer form.
            false => "EXPORT_SNAPSHOT",
        };
        let name = quote_ident(slot.name);
        let sql = format!("CREATE_REPLICATION_SLOT {name} LOGICAL pgoutput {options}");
        let rows = self.query(&sql).await?;
        let created = rows.first().and_then(|row| match row.as_slice() {
            [_, Some(point), Some(snapshot), ..] => Some(CreatedSlot {
                consistent_point: point.parse().ok()?,
                snapshot: snapshot.clone(),
            }),
            _ => None,
        });
        created.ok_or_else(|| Error::Protocol("a slot without a snapshot".into()))
    }

    /// Starts to stream from where the slot is.
    ///
    /// # Errors
    /// The slot is in use, missing or lost.
    pub async fn start(
        mut self,
        slot: &str,
        publication: &str,
        with_messages: bool,
    ) -> Result<ReplicationStream, Error> {
        let rows = self.command("SHOW wal_sender_timeout").await?;
        let setting = rows.first().and_then(|row| row.first()?.clone()).unwrap_or_default();
        // The name stands in a list inside a literal, so it is quoted for both.
        let names = quote_literal(&quote_ident(publication));
        let messages = if with_messages { ", messages 'true'" } else { "" };
        let sql = format!(
            "START_REPLICATION SLOT {} LOGICAL 0/0 \
             (proto_version '1', publication_names {names}{messages})",
            quote_ident(slot),
        );
        let limit = COMMAND_TIMEOUT;
        timeout(limit, async {
            write_query(&mut self.socket, &sql).await?;
            loop {
                match self.message().await? {
                    (b'W', _) => return Ok(()),
                    (b'E', payload) => return Err(Error::from_response(&payload)),
                    (b'N' | b'S', _) => {}
                    (tag, _) => return Err(unexpected(tag)),
                }
            }
        })
        .await
        .unwrap_or(Err(Error::Timeout { limit }))?;
        Ok(ReplicationStream::new(self.socket, self.max_row_bytes, milliseconds(&setting)))
    }
}

/// A setting such as `1min`, `30s`, `500ms` or `0`; nothing where there is no limit.
fn milliseconds(setting: &str) -> Option<Duration> {
    let digits = setting.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(setting.len());
    let (number, unit) = setting.split_at(digits);
    let number: u64 = number.parse().ok().filter(|number| *number > 0)?;
    Some(match unit {
        "d" => Duration::from_hours(24 * number),
        "h" => Duration::from_hours(number),
        "min" => Duration::from_mins(number),
        "s" => Duration::from_secs(number),
        _ => Duration::from_millis(number),
    })
}

fn data_row(payload: &[u8]) -> Result<Vec<Option<String>>, Error> {
    let short = || Error::Protocol("a short row".into());
    let (count, mut rest) = payload.split_first_chunk::<2>().ok_or_else(short)?;
    let mut values = Vec::new();
    for _ in 0..u16::from_be_bytes(*count) {
        let (length, after) = rest.split_first_chunk::<4>().ok_or_else(short)?;
        let length = usize::try_from(i32::from_be_bytes(*length)).ok();
        let (value, after) = match length {
            None => (None, after),
            Some(length) => {
                let (value, after) = after.split_at_checked(length).ok_or_else(short)?;
                (Some(String::from_utf8_lossy(value).into_owned()), after)
            }
        };
        values.push(value);
        rest = after;
    }
    Ok(values)
}

fn unexpected(tag: u8) -> Error {
    Error::Protocol(format!("message {:?}", char::from(tag)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_with_their_units() {
        for (setting, expected) in [
            ("1min", Some(Duration::from_mins(1))),
            ("5s", Some(Duration::from_secs(5))),
            ("1500ms", Some(Duration::from_millis(1500))),
            ("0", None),
            ("", None),
        ] {
            assert_eq!(milliseconds(setting), expected, "{setting}");
        }
    }
}
