//! The project's rules about itself: layers, sizes, leftovers, licences, and documents that speak
//! only of what exists. Needs no services. A broken rule is named with its file and line.

#![allow(
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

#[path = "tidy/alerts.rs"]
mod alerts;
#[path = "tidy/documents.rs"]
mod documents;
#[path = "tidy/faults.rs"]
mod faults;
#[path = "tidy/layers.rs"]
mod layers;
#[path = "tidy/package.rs"]
mod package;
#[path = "tidy/source.rs"]
mod source;
#[path = "tidy/style.rs"]
mod style;
