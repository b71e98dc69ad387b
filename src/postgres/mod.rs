//! PostgreSQL: the stream of commits, and SQL.
//!
//! Two kinds of connections to one [`Server`]: [`ReplicationConnection`] becomes a
//! [`ReplicationStream`], which only ever carries WAL one way and positions the other; a
//! [`SqlSession`] does everything else.

mod catalog;
mod error;
mod heap;
mod ident;
mod publication;
mod replication;
mod sample;
mod slot;
mod socket;
mod sql;
mod stream;
mod tls;
mod url;

pub(crate) use catalog::names_standby;
pub use catalog::{OutboxTable, ServerFacts};
pub use error::Error;
pub use heap::Heap;
pub(crate) use ident::{is_slot_name, quote_literal};
pub use publication::Publication;
pub use replication::{CreatedSlot, Identity, NewSlot, ReplicationConnection};
pub use sample::{SampleError, SampleNote, SampleRow};
pub use slot::{Blocker, Slot, blockers};
pub use sql::SqlSession;
pub use stream::ReplicationStream;
pub use url::{Address, Server, UrlError};

use std::future::Future;
use std::time::Duration;

use crate::lsn::Lsn;
pub(crate) use crate::names::quote_ident;
pub use crate::names::{Intake, TableName};

/// What the driver of the SQL sessions is called in the log.
pub(crate) const DRIVER: &str = "tokio_postgres";

/// What comes out of a replication stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WalMessage<'a> {
    /// One message of the output plugin.
    Data(&'a [u8]),
    /// One that is larger than allowed: a row without its large values, a logical message without
    /// its content, else the tag alone.
    Oversize {
        /// What was kept.
        message: &'a [u8],
        /// Its size.
        bytes: usize,
    },
    /// The server says how far it has come.
    Keepalive {
        /// Everything before this was sent.
        wal_end: Lsn,
        /// Whether it will hang up without an answer.
        reply_requested: bool,
    },
}

/// What goes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Feedback {
    /// How far the stream was received; PostgreSQL keeps nothing because of it.
    pub received: Lsn,
    /// How far PostgreSQL may forget.
    pub confirmed: Lsn,
    /// Our clock, in microseconds since 2000-01-01 UTC.
    pub time: i64,
}

/// A stream of WAL in commit order: the real one, or a script.
pub trait WalStream {
    /// Waits until there is more to read. Cancel-safe.
    fn fill(&mut self) -> impl Future<Output = Result<(), Error>>;

    /// The next message that was received whole, in place; none if more has to come.
    ///
    /// # Errors
    /// The stream ended or is not one.
    fn next(&mut self) -> Result<Option<WalMessage<'_>>, Error>;

    /// The size of the next message, 0 if that is not known yet.
    fn next_len(&self) -> usize;

    /// Whether rows arrive so fast that the stream lets them gather before it wakes its reader.
    fn gathers(&self) -> bool;

    /// Tells the server how far we are.
    fn send(&mut self, feedback: Feedback) -> impl Future<Output = Result<(), Error>>;

    /// How long the server waits for a word from us; none if it does for ever.
    fn sender_timeout(&self) -> Option<Duration>;

    /// Ends the stream in order, so that the server has taken in what was sent.
    fn close(self) -> impl Future<Output = Result<(), Error>>;
}
