//! Acknowledgements: which events are open, which may go, which may be settled, what may be
//! confirmed. The heart; it is pure and has no clock.
//!
//! A [`Window`] knows neither Kafka nor PostgreSQL. It answers four questions about events that
//! are numbered in the order in which they were read:
//!
//! - May another one be read? ([`Window::has_room`]: events and bytes that are open are bounded.)
//! - May this one go to Kafka now? ([`Window::admit`], [`Window::ack`]: order per key.)
//! - Which ones may be settled? ([`Window::prefix`]: acknowledged, without a gap.)
//! - Up to where may PostgreSQL forget? ([`Window::watermark`]: whole transactions, settled.)
//!
//! `model.rs` runs it against a small model of the world around it, with refusals, crashes and
//! replays.

mod gate;
#[cfg(test)]
mod model;
mod ring;
mod tracker;
mod window;

pub use tracker::Prefix;
pub use window::{Admitted, Limits, Window};

/// An event's number in the order of reading, from 0, within one session.
pub type Seq = u64;

/// What orders: events in one lane go one after the other. A hash of topic and key; two keys that
/// share one only wait for each other needlessly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Lane(pub u64);
