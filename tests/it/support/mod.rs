//! What the tests stand on: real services, the real binary, and one checker.

pub mod broker;
pub mod browser;
pub mod canary;
pub mod certificates;
pub mod checker;
pub mod conduct;
pub mod database;
pub mod debezium;
pub mod deploy;
pub mod evidence;
pub mod held;
pub mod kafka_proxy;
pub mod messages;
pub mod nats;
pub mod nats_cluster;
pub mod oracle;
pub mod outlet;
pub mod progress;
pub mod prometheus;
pub mod proxy;
pub mod records;
#[cfg(feature = "redis")]
pub mod redis;
pub mod relay;
pub mod secure;
pub mod shared;
pub mod small;
pub mod stage;
pub mod standby;
pub mod terminal;
pub mod wait;
pub mod workload;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use outboxd::demo::TempPostgres;

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

/// A server for a test that others would wait for: a new slot waits for every transaction of its server that
/// is open, and every slot reads all that is written to it.
pub fn server_apart() -> TempPostgres {
    let settings = [("fsync", "off"), ("shared_buffers", "256MB"), ("max_wal_size", "4GB")];
    TempPostgres::start(&pg_bin(), &settings).unwrap()
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
