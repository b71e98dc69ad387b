//! Waiting: for a condition, with a deadline. Nothing in the tests waits for time alone, except to
//! assert that something stays as it is.

use std::fmt::Display;
use std::future::Future;
use std::time::{Duration, Instant};

use tokio::time::{MissedTickBehavior, interval};

/// How long anything may take that is not about time.
pub const SOON: Duration = Duration::from_secs(30);
/// How long anything may take that moves a lot.
pub const LATER: Duration = Duration::from_secs(180);

/// Waits until `look` finds something.
pub async fn until<T, F: Future<Output = Option<T>>>(
    what: impl Display,
    limit: Duration,
    mut look: impl FnMut() -> F,
) -> T {
    let deadline = Instant::now() + limit;
    let mut ticks = interval(Duration::from_millis(50));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {limit:?} for {what}");
    }
}

/// Waits until `holds`.
pub async fn eventually<F: Future<Output = bool>>(
    what: impl Display,
    limit: Duration,
    mut holds: impl FnMut() -> F,
) {
    until(what, limit, || {
        let holds = holds();
        async { holds.await.then_some(()) }
    })
    .await;
}

/// Asserts that it `holds`, all the time.
pub async fn stays<F: Future<Output = bool>>(
    what: impl Display,
    time: Duration,
    mut holds: impl FnMut() -> F,
) {
    let end = Instant::now() + time;
    let mut ticks = interval(Duration::from_millis(100));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while Instant::now() < end {
        ticks.tick().await;
        assert!(holds().await, "{what} did not stay so");
    }
}
