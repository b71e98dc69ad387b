//! outboxd: a relay that brings transactional-outbox events from PostgreSQL's WAL to Kafka, in
//! commit order, and writes back what became of each.
//!
//! What a service needs of it lies here at the root: [`Outbox`] and [`Event`] to write events
//! ([`writer`]), [`inbox`] to process each one once, and with the feature `relay` (a default) `Relay`
//! and `Config` to run the relay inside a service (`embed`). Without that feature neither the relay
//! nor librdkafka is compiled.
//!
//! The modules in the order of an event's path. Each layer knows only those above it.
//!
//! | Layer | Module | What it is |
//! |---|---|---|
//! | words | [`lsn`] | positions in the WAL; an event's place in the order of commits |
//! | | [`failure`] | codes, and what people are told |
//! | | `metrics` | every metric, named once |
//! | | `failpoint` | where tests let the process die |
//! | | [`names`] | names of tables and topics |
//! | | `certificates` | certificates in files |
//! | | `shutdown` | being told to stop |
//! | pure | [`pgoutput`] | replication messages: bytes in, transactions out |
//! | | `outbox` | rows become envelopes: column and status maps, routing, formats |
//! | | [`ack`] | what is open, what may go, what may be settled, what may be confirmed |
//! | | [`retry`] | when to try again |
//! | edges | `postgres` | the replication stream, SQL, the catalog, slot and publication |
//! | | `sink` | Kafka, Redis Streams and NATS JetStream, behind the trait `Sink` |
//! | | `status` | statuses and the stored position, behind the trait `StatusStore` |
//! | library | [`writer`] | events into the outbox, in the caller's transaction |
//! | | [`inbox`] | events processed once, in the consumer's transaction |
//! | verbs | `relay` | captures, publishes, settles, confirms: the session and its loop |
//! | shell | `built` | what was built |
//! | | `config` | file, environment and flags become what the modules need |
//! | | `import` | another tool's configuration becomes ours |
//! | | `migrations` | the SQL files, with the configured names |
//! | | `operate` | what operators look at and ask for |
//! | | `admin` | health, metrics, status and operators' requests over HTTP |
//! | | `embed` | the relay inside a service |
//! | | `cli` | the command line |
//! | | `demo` | the whole thing on one machine |
//!
//! Without the feature `relay` only the modules that are linked above are there. The path of one
//! event, file by file, is in `docs/ARCHITECTURE.md`, the words in `docs/GLOSSARY.md`.

pub mod ack;
#[cfg(feature = "relay")]
pub mod admin;
#[cfg(feature = "relay")]
pub mod built;
#[cfg(feature = "relay")]
mod certificates;
#[cfg(feature = "relay")]
pub mod cli;
#[cfg(feature = "relay")]
pub mod config;
#[cfg(feature = "relay")]
pub mod demo;
#[cfg(feature = "relay")]
pub mod embed;
#[cfg(feature = "relay")]
pub mod failpoint;
pub mod failure;
#[cfg(feature = "relay")]
pub mod import;
pub mod inbox;
pub mod lsn;
#[cfg(feature = "relay")]
pub mod metrics;
#[cfg(feature = "relay")]
pub mod migrations;
pub mod names;
#[cfg(feature = "relay")]
pub mod operate;
#[cfg(feature = "relay")]
pub mod outbox;
pub mod pgoutput;
#[cfg(feature = "relay")]
pub mod postgres;
#[cfg(feature = "relay")]
pub mod relay;
pub mod retry;
#[cfg(feature = "relay")]
pub mod shutdown;
#[cfg(feature = "relay")]
pub mod sink;
#[cfg(feature = "relay")]
pub mod status;
#[cfg(feature = "relay")]
mod terminal;
pub mod writer;

#[cfg(feature = "relay")]
pub use config::Config;
#[cfg(feature = "relay")]
pub use embed::Relay;
pub use names::TopicNames;
#[cfg(feature = "relay")]
pub use relay::{Outcome, State, Status};
#[cfg(feature = "relay")]
pub use sink::Sink;
pub use writer::{AddError, Added, Event, MemoryOutbox, Outbox, Writer};

/// The examples in these documents compile.
#[cfg(doctest)]
#[doc = include_str!("../docs/CONSUMERS.md")]
#[doc = include_str!("../docs/WRITING.md")]
mod documents {}
