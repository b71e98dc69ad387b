//! Acknowledgements: which events are open, which may go, which may be settled, what may be
//! confirmed. The heart; it is pure and has no clock.
//!
//! A [`Window`] knows neither Kafka nor PostgreSQL. It answers four questions about events that
//! are numbered in the order in which they were read:
//!
//! - May another one be read? ([`Window::has_room`]: events and bytes that are open are bounded.)
//! - May this one go to Kafka now? ([`Window::admit`], [`Window::ack`]: order per key.)
//! - Which ones may be settled? ([`Window::prefix`]: acknowledged or to be held, without a gap.)
//! - Up to where may PostgreSQL forget? ([`Window::watermark`]: whole transactions, settled.)
//!
//! [`HeldLanes`] answers one about the events that are held: which of them may go now?
//!
//! `model.rs` runs both against a small model of the world around them, with refusals, held and
//! scheduled events, operators, crashes and replays.

mod gate;
mod held;
#[cfg(test)]
mod model;
mod ring;
mod tracker;
mod window;

pub use gate::{Entrance, Entry};
pub use held::{HeldLanes, Moment, Ordinal};
pub use tracker::Prefix;
pub use window::{Limits, Window};

/// An event's number in the order of reading, from 0, within one session.
pub type Seq = u64;

/// What orders: events in one lane go one after the other. A hash of topic and key; two keys that
/// share one only wait for each other needlessly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lane(pub u64);
