//! What can go wrong with PostgreSQL, with the SQLSTATE kept as it came.

use std::io;
use std::time::Duration;

use pgwire_replication::PgWireError;
use pgwire_replication::protocol::messages::ErrorFields;
use tokio_postgres::error::SqlState;

use super::tls;
use crate::pgoutput::DecodeError;

/// A failure of a connection to PostgreSQL, of either kind.
///
/// A server's DETAIL is dropped on purpose: it can quote a row.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No connection came about.
    #[error("connect to {address}")]
    Connect {
        /// Where to.
        address: String,
        /// Why not.
        source: Box<Error>,
    },
    /// The server took too long.
    #[error("no answer within {limit:?}")]
    Timeout {
        /// How long it had.
        limit: Duration,
    },
    /// The connection broke.
    #[error(transparent)]
    Io(io::Error),
    /// The server closed the connection without a word.
    #[error("the server closed the connection")]
    Closed,
    /// TLS could not be agreed on.
    #[error("TLS: {0}")]
    Tls(String),
    /// The server wants an authentication that we cannot give.
    #[error("authentication: {0}")]
    Auth(String),
    /// The server said no.
    #[error("{message} (SQLSTATE {})", sqlstate.code())]
    Server {
        /// Its code.
        sqlstate: SqlState,
        /// Its words.
        message: String,
        /// Whether it was something that our statement set off, a trigger for instance.
        in_context: bool,
    },
    /// The server sent something that cannot come here.
    #[error("unexpected answer from the server: {0}")]
    Protocol(String),
    /// The server sent a replication message that we do not understand.
    #[error("the replication stream cannot be read")]
    Decode(#[from] DecodeError),
    /// A row is larger than `outbox.max_row_bytes`.
    #[error("a row of {bytes} bytes, outbox.max_row_bytes is {limit}")]
    RowTooLarge {
        /// The row's size on the wire.
        bytes: usize,
        /// What is allowed.
        limit: usize,
    },
}

impl Error {
    /// The server's code, if it was the server that said no.
    pub fn sqlstate(&self) -> Option<&SqlState> {
        match self {
            Error::Server { sqlstate, .. } => Some(sqlstate),
            Error::Connect { source, .. } => source.sqlstate(),
            Error::Timeout { .. }
            | Error::Io(_)
            | Error::Closed
            | Error::Tls(_)
            | Error::Auth(_)
            | Error::Protocol(_)
            | Error::Decode(_)
            | Error::RowTooLarge { .. } => None,
        }
    }

    /// An `ErrorResponse`.
    pub(super) fn from_response(payload: &[u8]) -> Self {
        let fields = ErrorFields::parse(payload);
        Error::Server {
            sqlstate: SqlState::from_code(fields.code.as_deref().unwrap_or("XX000")),
            message: fields.message.unwrap_or_default(),
            in_context: false,
        }
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        match tls::explain(&error) {
            Some(text) => Error::Tls(text),
            None => Error::Io(error),
        }
    }
}

/// The same of an error that somebody else holds.
fn of_io(error: &io::Error) -> Error {
    match tls::explain(error) {
        Some(text) => Error::Tls(text),
        None => Error::Io(io::Error::new(error.kind(), error.to_string())),
    }
}

impl From<tokio_postgres::Error> for Error {
    fn from(error: tokio_postgres::Error) -> Self {
        if let Some(db) = error.as_db_error() {
            return Error::Server {
                sqlstate: db.code().clone(),
                message: db.message().to_owned(),
                in_context: db.where_().is_some(),
            };
        }
        if error.is_closed() {
            return Error::Closed;
        }
        let source = std::error::Error::source(&error);
        match source.and_then(|source| source.downcast_ref::<io::Error>()) {
            Some(io) => of_io(io),
            None => Error::Protocol(error.to_string()),
        }
    }
}

impl From<PgWireError> for Error {
    fn from(error: PgWireError) -> Self {
        match error {
            PgWireError::Io(io) => of_io(&io),
            PgWireError::Auth(text) => Error::Auth(text),
            PgWireError::MessageTooLarge { payload_bytes, limit_bytes } => {
                Error::RowTooLarge { bytes: payload_bytes, limit: limit_bytes }
            }
            other => Error::Protocol(other.to_string()),
        }
    }
}
