//! Being told to stop: first in order, by a deadline; then at once.

use tokio::time::Instant;

/// Whether to stop, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Stop {
    /// Go on.
    #[default]
    No,
    /// Finish what was begun, but end by then.
    By(Instant),
    /// End.
    Now,
}

impl Stop {
    /// Whether there is no time left.
    pub fn is_over(self) -> bool {
        match self {
            Stop::No => false,
            Stop::By(deadline) => Instant::now() >= deadline,
            Stop::Now => true,
        }
    }
}
