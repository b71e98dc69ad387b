//! What is known of subjects: their streams, and those that may not be published to.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use super::streams::Found;

/// For how long a subject that may not be published to is taken for one. Nothing can be asked of that
/// but by a message.
const DENIED_FOR: Duration = Duration::from_secs(10);

/// What is known of subjects, for one session.
#[derive(Debug, Default)]
pub(super) struct Subjects {
    found: HashMap<Box<str>, Found>,
    denied: HashMap<Box<str>, Instant>,
}

impl Subjects {
    /// Where its messages go, if that is known.
    pub(super) fn get(&self, subject: &str) -> Option<&Found> {
        self.found.get(subject)
    }

    /// It was looked up.
    pub(super) fn learn(&mut self, subject: &str, found: Option<Found>) {
        match found {
            Some(found) => self.found.insert(subject.into(), found),
            None => self.found.remove(subject),
        };
    }

    /// The server does not let us publish to it.
    pub(super) fn deny(&mut self, subject: &str, now: Instant) {
        self.denied.insert(subject.into(), now);
    }

    /// Whether it was so a moment ago.
    pub(super) fn is_denied(&mut self, subject: &str, now: Instant) -> bool {
        self.denied.retain(|_, at| now.duration_since(*at) < DENIED_FOR);
        self.denied.contains_key(subject)
    }
}
