//! For services that write events: a row in the outbox, in the transaction that makes it true.
//!
//! ```no_run
//! use outboxd::{Added, Event, Outbox};
//! # #[derive(serde::Serialize)]
//! # struct OrderPlaced { total: u32 }
//! # async fn place(client: &mut tokio_postgres::Client) -> Result<(), Box<dyn std::error::Error>> {
//! let outbox = Outbox::new("public.outbox")?;
//! let transaction = client.transaction().await?;
//! transaction.execute("INSERT INTO orders (id, total) VALUES ('o-1', 42)", &[]).await?;
//! let event = Event::new("order", "o-1", "OrderPlaced", OrderPlaced { total: 42 })
//!     .dedup_key("order-o-1-placed")
//!     .header("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
//! match outbox.add(&transaction, &event).await? {
//!     Added::New(id) => println!("event {id} goes when this commits"),
//!     Added::Duplicate => println!("it was written before"),
//! }
//! transaction.commit().await?;
//! # Ok(())
//! # }
//! ```
//!
//! An event is checked before it is sent to PostgreSQL, because a statement that PostgreSQL refuses
//! ends the caller's transaction; for the same reason a duplicate is no error. Code that is written
//! against the trait [`Writer`] takes a [`MemoryOutbox`] in its unit tests. What makes a good event
//! is in `docs/WRITING.md`.

mod check;
mod event;
mod insert;
mod jsonb;
mod memory;

pub use check::{Invalid, KEY_BYTES, PAYLOAD_BYTES, Problem};
pub use event::Event;
pub use memory::MemoryOutbox;
pub use uuid::Uuid;

use std::future::Future;

use tokio_postgres::Transaction;

use crate::names::{TableName, TopicNames};

/// What became of an event that was added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[must_use = "a duplicate was not written"]
pub enum Added {
    /// It was written, with this id.
    New(Uuid),
    /// An event with its id or its dedup key is there already, and nothing was written. The
    /// transaction goes on.
    Duplicate,
}

impl Added {
    /// The id of an event that was written.
    pub const fn id(self) -> Option<Uuid> {
        match self {
            Added::New(id) => Some(id),
            Added::Duplicate => None,
        }
    }

    /// Whether it was written.
    pub const fn is_new(self) -> bool {
        matches!(self, Added::New(_))
    }
}

/// Why events were not added.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AddError {
    /// One of them cannot be written. Nothing was sent to PostgreSQL: the transaction goes on.
    #[error("check event {at} of those to add")]
    Invalid {
        /// Its place among those that were given, counted from 0.
        at: usize,
        /// What is wrong with it.
        #[source]
        problem: Invalid,
    },
    /// PostgreSQL refused, which ends the transaction.
    #[error("insert events into {table}")]
    Postgres {
        /// The table.
        table: String,
        /// Why.
        #[source]
        error: tokio_postgres::Error,
    },
}

/// A name that is no table's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the table's name {name:?} {problem}")]
pub struct BadTable {
    name: String,
    problem: &'static str,
}

/// Where events are added: the table, or its double in unit tests. `Tx` is the transaction.
///
/// ```
/// use outboxd::{AddError, Event, MemoryOutbox, Writer};
///
/// async fn cancel<Tx>(
///     outbox: &impl Writer<Tx>,
///     transaction: &Tx,
///     order: &str,
/// ) -> Result<(), AddError> {
///     let event = Event::new("order", order, "OrderCancelled", serde_json::json!({}));
///     outbox.add(transaction, &event).await?;
///     Ok(())
/// }
///
/// # fn block_on<F: Future>(future: F) -> F::Output {
/// #     let mut future = std::pin::pin!(future);
/// #     let mut context = std::task::Context::from_waker(std::task::Waker::noop());
/// #     loop {
/// #         if let std::task::Poll::Ready(it) = future.as_mut().poll(&mut context) { return it }
/// #     }
/// # }
/// // In a unit test anything can be the transaction.
/// let outbox = MemoryOutbox::new();
/// block_on(cancel(&outbox, &(), "o-1")).unwrap();
/// assert_eq!(outbox.events()[0].event_type, "OrderCancelled");
/// ```
pub trait Writer<Tx: ?Sized> {
    /// As [`Outbox::add`].
    ///
    /// # Errors
    /// As [`Outbox::add`].
    fn add(
        &self,
        transaction: &Tx,
        event: &Event,
    ) -> impl Future<Output = Result<Added, AddError>> + Send;

    /// As [`Outbox::add_all`].
    ///
    /// # Errors
    /// As [`Outbox::add_all`].
    fn add_all(
        &self,
        transaction: &Tx,
        events: &[Event],
    ) -> impl Future<Output = Result<Vec<Added>, AddError>> + Send;
}

/// An outbox table with the columns of `migrations/0001_outbox.sql`.
///
/// It takes a transaction and nothing else: an event that is written outside of one can be true
/// without being sent, or sent without being true.
#[derive(Debug, Clone)]
pub struct Outbox {
    table: TableName,
    statement: String,
    limits: check::Limits,
}

impl Outbox {
    /// The table of that name, as in `outbox.table` and as SQL reads it: `outbox`,
    /// `sales.outbox`, `"My Sales"."Outbox"`. Without a schema it is in `public`.
    ///
    /// # Errors
    /// It is no name.
    pub fn new(table: &str) -> Result<Self, BadTable> {
        let parsed = TableName::parse(table);
        let table = parsed.map_err(|problem| BadTable { name: table.to_owned(), problem })?;
        let statement = insert::statement(&table);
        Ok(Self { table, statement, limits: check::Limits::default() })
    }

    /// Payloads above so many bytes are refused; for a table whose check says another size than
    /// [`PAYLOAD_BYTES`].
    pub fn payload_limit(mut self, bytes: usize) -> Self {
        self.limits.payload = bytes;
        self
    }

    /// Topics are refused that these do not take; Kafka's rule unless something else is said. For a relay
    /// whose `sink.kind` is another.
    pub fn topic_names(mut self, names: TopicNames) -> Self {
        self.limits.topics = names;
        self
    }

    /// What is wrong with an event, if anything is. It is checked when it is added, too.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(&self, event: &Event) -> Result<(), Invalid> {
        check::check(event, self.limits)
    }

    /// Adds an event in the caller's transaction. It goes when that commits, and never was if it
    /// rolls back.
    ///
    /// Where another transaction that is still open has written the same id or dedup key, this
    /// waits for its end. (At the level `REPEATABLE READ` and above PostgreSQL then refuses with
    /// SQLSTATE 40001, as it does for any write; begin the transaction again.)
    ///
    /// # Errors
    /// The event cannot be written, or PostgreSQL refused.
    pub async fn add(
        &self,
        transaction: &Transaction<'_>,
        event: &Event,
    ) -> Result<Added, AddError> {
        let added = self.add_all(transaction, std::slice::from_ref(event)).await?;
        Ok(added.into_iter().next().unwrap_or(Added::Duplicate))
    }

    /// Adds events with one statement, in their order, and says what became of each. Either all
    /// that are new are written, or none.
    ///
    /// # Errors
    /// One of the events cannot be written, or PostgreSQL refused.
    pub async fn add_all(
        &self,
        transaction: &Transaction<'_>,
        events: &[Event],
    ) -> Result<Vec<Added>, AddError> {
        check::check_all(events, self.limits)?;
        let added = insert::insert(transaction, &self.statement, events).await;
        added.map_err(|error| AddError::Postgres { table: self.table.to_string(), error })
    }
}

impl Writer<Transaction<'_>> for Outbox {
    async fn add(&self, transaction: &Transaction<'_>, event: &Event) -> Result<Added, AddError> {
        Outbox::add(self, transaction, event).await
    }

    async fn add_all(
        &self,
        transaction: &Transaction<'_>,
        events: &[Event],
    ) -> Result<Vec<Added>, AddError> {
        Outbox::add_all(self, transaction, events).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_named_as_in_sql_or_not_at_all() {
        let outbox = Outbox::new("\"My Sales\".Outbox").unwrap();
        assert!(outbox.statement.contains("INSERT INTO \"My Sales\".\"outbox\" ("));
        let bad = Outbox::new("a.b.c").unwrap_err();
        assert_eq!(bad.to_string(), "the table's name \"a.b.c\" has text after the name");
        assert!(Outbox::new("outbox; DROP TABLE orders").is_err());
    }
}
