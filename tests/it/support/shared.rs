//! What several tests use at the same time, and what is gone with the last of them.

use std::sync::{Arc, Weak};

use tokio::sync::Mutex;

/// It lives as long as a test uses it.
pub struct Shared<T>(Mutex<Weak<T>>);

impl<T> Shared<T> {
    pub const fn new() -> Self {
        Self(Mutex::const_new(Weak::new()))
    }

    /// The one that is there, or a new one.
    pub async fn get(&self, start: impl AsyncFnOnce() -> T) -> Arc<T> {
        let mut there = self.0.lock().await;
        if let Some(found) = there.upgrade() {
            return found;
        }
        let new = Arc::new(start().await);
        *there = Arc::downgrade(&new);
        new
    }
}
