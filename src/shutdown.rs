//! Being told to stop: first in order, by a deadline; then at once.

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

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

/// Waits until the relay is told to stop; once it drains, until the grace is over.
pub async fn stopped(stop: &mut watch::Receiver<Stop>, is_draining: bool) -> Stop {
    let asked = if is_draining {
        *stop.borrow()
    } else {
        // Without anybody left who could ask, nobody asks.
        match stop.wait_for(|stop| *stop != Stop::No).await {
            Ok(stop) => return *stop,
            Err(_) => return std::future::pending().await,
        }
    };
    match asked {
        Stop::By(deadline) => {
            let at_once = async {
                // Who asked may be gone; the deadline is not.
                if stop.wait_for(|stop| *stop == Stop::Now).await.is_err() {
                    std::future::pending::<()>().await;
                }
            };
            // Told or not, there is no time left.
            let _ = timeout_at(deadline, at_once).await;
            Stop::Now
        }
        Stop::Now => Stop::Now,
        Stop::No => std::future::pending().await,
    }
}
