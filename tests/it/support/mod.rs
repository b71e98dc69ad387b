//! What the tests stand on: real services, the real binary, and one checker.

pub mod broker;
pub mod certificates;
pub mod checker;
pub mod conduct;
pub mod database;
pub mod debezium;
pub mod evidence;
pub mod held;
pub mod kafka_proxy;
pub mod messages;
pub mod oracle;
pub mod proxy;
pub mod records;
pub mod relay;
pub mod small;
pub mod stage;
pub mod standby;
pub mod wait;
pub mod workload;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

/// A variable that `dev/test` sets. Without services there is no test: the run fails.
pub fn setting(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| {
        panic!("{name} is not set: run the tests with dev/test, which starts the services")
    })
}

/// The binaries of the PostgreSQL server that the tests use.
pub fn pg_bin() -> PathBuf {
    setting("PG_BIN").into()
}

/// A port of loopback that nobody listens on.
pub fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    listener.local_addr().unwrap().port()
}

/// A name that no other test and no earlier run uses: slots, databases and topics outlive a test
/// that failed.
pub fn unique(name: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let name: String = name.chars().take(30).collect();
    format!("{name}_{}_{count}", std::process::id())
}
