//! NATS JetStream: its configuration, and the sink where the build has it.

mod config;
#[cfg(feature = "nats")]
mod jetstream;

pub use config::{NatsConfig, StreamShape};
#[cfg(feature = "nats")]
pub use jetstream::{NatsFacts, NatsSink, StreamFacts, look};
