//! Redis Streams.

mod config;
#[cfg(feature = "redis")]
mod streams;

pub use config::{Durability, RedisConfig, Topology, Trim};
#[cfg(feature = "redis")]
pub use streams::{RedisFacts, RedisSink, ServerFacts, look};
