//! How a relay has to behave whatever a test is about: it takes no more than it may, tells of what is
//! wrong, and keeps to itself what is not for logs.

use std::path::PathBuf;

use super::relay::{Relay, RelayOptions};
use super::wait::{SOON, eventually};

/// A password that nobody asks for, and a part of every payload of a workload.
pub const SECRET: &str = "canary-of-a-secret";
pub const PAYLOAD: &str = "canary-payload";

/// The limit that is documented for the memory of a relay, and what it may be off by.
const MEMORY: u64 = 256 << 20;
const MEMORY_AT_MOST: u64 = MEMORY + MEMORY / 5;

/// A URL of the test's superuser, who is trusted, with the password.
pub fn with_secret(url: &str) -> String {
    url.replace("://postgres@", &format!("://postgres:{SECRET}@"))
}

/// The lines of a log that show what is not for logs.
pub fn leaks(log: &[String]) -> Vec<&String> {
    let shows = |line: &&String| [SECRET, PAYLOAD].iter().any(|canary| line.contains(canary));
    log.iter().filter(shows).collect()
}

/// What a process takes.
#[derive(Debug, Clone, Copy)]
pub struct Takes {
    /// The most memory that it ever had, in bytes.
    pub memory: u64,
    /// The files and connections that it has open, and those that it had when it was ready.
    pub descriptors: usize,
    pub descriptors_when_ready: usize,
}

/// A relay opens more than it had when it was ready: a client for the questions about topics, one for
/// records that go alone, a connection for a sweep or the patrol. It does so once, and not with every
/// session.
pub const DESCRIPTORS_MORE_AT_MOST: usize = 32;

impl Takes {
    /// What is more than it may be.
    pub fn excess(&self) -> Option<String> {
        let Self { memory, descriptors, descriptors_when_ready } = *self;
        if memory > MEMORY_AT_MOST {
            return Some(format!("{memory} bytes of memory, at most {MEMORY_AT_MOST}"));
        }
        let most = descriptors_when_ready + DESCRIPTORS_MORE_AT_MOST;
        (descriptors > most).then(|| format!("{descriptors} descriptors, at most {most}"))
    }
}

/// How many files and connections a process has open; nothing if it is gone.
pub fn descriptors(process: u32) -> Option<usize> {
    let path = PathBuf::from(format!("/proc/{process}/fd"));
    Some(std::fs::read_dir(path).ok()?.count())
}

/// Where a relay tells that something is wrong.
#[derive(Debug, Default)]
pub struct Told {
    pub metrics: String,
    pub log: Vec<String>,
    pub status: serde_json::Value,
}

/// Events are late for longer than a busy relay lets them be.
const LATE: f64 = 1.0;

impl Told {
    /// Whether they tell of it: a metric that is above 0 (the lag: above a second), a code in the log
    /// or in the status, or a state.
    pub fn of(&self, sign: &str) -> bool {
        if sign.starts_with("OBX-") {
            let is_logged = self.log.iter().any(|line| line.contains(sign));
            return is_logged || self.status["last_error"]["code"] == sign;
        }
        let value =
            self.metrics.lines().find_map(|line| line.strip_prefix(sign)?.trim().parse().ok());
        let usual = if sign == "outbox_relay_lag_seconds" { LATE } else { 0.0 };
        value.is_some_and(|value: f64| value > usual) || self.status["state"] == sign
    }
}

impl Relay {
    /// Waits until the relay tells of a fault by this `sign`.
    pub async fn tells(&self, sign: &str) {
        eventually(format!("{sign} to tell of the fault"), SOON, || async {
            let metrics = self.get("/metrics").await.1;
            Told { metrics, log: self.logged(), status: self.status().await }.of(sign)
        })
        .await;
    }

    /// Waits until it takes no more than it may.
    pub async fn takes_no_more_than_it_may(&self) {
        if self.takes().is_some() {
            let excess = || self.takes().and_then(|takes| takes.excess());
            let what = format!("it to take no more than it may: {:?}", excess());
            eventually(what, SOON, || async { excess().is_none() }).await;
        }
    }
}

impl RelayOptions {
    /// Waits until `outboxd status` tells of what became of a relay that has ended.
    pub async fn tells(&self, sign: &str) {
        eventually(format!("{sign} to tell of the end"), SOON, || async {
            let (_, status, _) = self.command_output(&["status", "-o", "json"]);
            let status = serde_json::from_str(&status).unwrap_or_default();
            Told { status, ..Told::default() }.of(sign)
        })
        .await;
    }
}
