//! A Redis server of a test's own, which can be killed, frozen and started again, and a hand that drives
//! the sink without a relay.

use std::collections::{BTreeMap, HashSet};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use outboxd::outbox::HeaderList;
use outboxd::sink::{
    Durability, EventRef, NoContact, Parcel, RedisConfig, RedisSink, Report, SendError, Sink as _,
    SinkError, TopicInfo, Topology, Trim,
};
use tempfile::TempDir;
use tokio::time::{Instant, timeout_at};

use super::wait::{SOON, eventually};
use super::{free_port, setting};

/// A server. Its data is gone with it.
pub struct TempRedis {
    program: String,
    home: TempDir,
    port: u16,
    options: Vec<String>,
    process: Option<Child>,
    /// What `redis-cli` needs besides the port.
    login: Vec<String>,
}

fn redis_bin() -> String {
    std::env::var("REDIS_BIN").unwrap_or_else(|_| "redis-server".to_owned())
}

impl TempRedis {
    /// Starts a server with these options, as in `["--appendonly", "yes"]`.
    pub async fn start(options: &[&str]) -> Self {
        Self::start_for(options, &[]).await
    }

    /// A Valkey, which knows what Redis has since 7.2.
    pub async fn start_valkey(options: &[&str]) -> Self {
        Self::started(setting("VALKEY_BIN"), options, &[]).await
    }

    /// The same, where `redis-cli` needs more words to be let in.
    pub async fn start_for(options: &[&str], login: &[&str]) -> Self {
        Self::started(redis_bin(), options, login).await
    }

    async fn started(program: String, options: &[&str], login: &[&str]) -> Self {
        let server = Self::spawned(program, options, login);
        server.wait_until_it_answers().await;
        server
    }

    fn spawned(program: String, options: &[&str], login: &[&str]) -> Self {
        let home = tempfile::Builder::new().prefix("outboxd-redis-").tempdir().unwrap();
        let own = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        let port = free_port();
        let (options, login) = (own(options), own(login));
        let mut server = Self { program, home, port, options, process: None, login };
        server.spawn();
        server
    }

    fn spawn(&mut self) {
        let log = std::fs::File::create(self.home.path().join("log")).unwrap();
        let mut command = Command::new(&self.program);
        let is_sentinel = self.options.first().is_some_and(|first| first.ends_with(".conf"));
        command.args(&self.options[..usize::from(is_sentinel)]);
        let port = self.port.to_string();
        match self.options.iter().any(|option| option == "--tls-cert-file") {
            true => command.args(["--port", "0", "--tls-port", &port]),
            false => command.args(["--port", &port]),
        };
        command.args(["--bind", "127.0.0.1"]);
        command.arg("--dir").arg(self.home.path());
        if is_sentinel {
            command.arg("--sentinel");
        } else {
            command.args(["--save", "", "--repl-diskless-sync-delay", "0"]);
        }
        command.args(&self.options[usize::from(is_sentinel)..]);
        let process = command.stdin(Stdio::null()).stdout(log).spawn().expect("redis-server");
        self.process = Some(process);
    }

    async fn wait_until_it_answers(&self) {
        eventually("redis-server to answer", SOON, || async { self.cli(&["PING"]) == "PONG" })
            .await;
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// What `redis-cli` prints.
    pub fn cli(&self, arguments: &[&str]) -> String {
        let mut command = Command::new("redis-cli");
        command.args(["-p", &self.port.to_string()]).args(&self.login).args(arguments);
        let output = command.stdin(Stdio::null()).output().expect("redis-cli");
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    }

    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// Starts it again on what it has on disk, and mends that, as docs/SINKS.md says.
    pub async fn restart(&mut self) {
        self.kill();
        self.spawn();
        self.wait_until_it_answers().await;
        if self.options.iter().any(|option| option == "--appendonly") {
            self.cli(&["BGREWRITEAOF"]);
            let ended = ["aof_rewrite_in_progress:0", "aof_rewrite_scheduled:0"];
            eventually("its file to be written anew", SOON, || async {
                let said = self.cli(&["INFO", "persistence"]);
                ended.iter().all(|line| said.contains(line))
            })
            .await;
        }
    }

    pub fn freeze(&self) {
        self.signal(Signal::SIGSTOP);
    }

    pub fn thaw(&self) {
        self.signal(Signal::SIGCONT);
    }

    fn signal(&self, signal: Signal) {
        let process = self.process.as_ref().expect("a running server").id();
        kill(Pid::from_raw(process.try_into().unwrap()), signal).unwrap();
    }

    /// The stream's entries: of each its fields, in order.
    pub fn entries(&self, stream: &str) -> Vec<Vec<(String, String)>> {
        self.stamped_entries(stream).into_iter().map(|(_, fields)| fields).collect()
    }

    /// The same, with when each was stored, in milliseconds since 1970.
    pub fn stamped_entries(&self, stream: &str) -> Vec<(i64, Vec<(String, String)>)> {
        let printed = self.cli(&["--json", "XRANGE", stream, "-", "+"]);
        let entries: Vec<(String, Vec<String>)> = serde_json::from_str(&printed).unwrap();
        let pairs = |fields: Vec<String>| {
            fields.chunks(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect()
        };
        // An entry's id begins with its time.
        let time = |id: &str| id.split('-').next().unwrap().parse().unwrap();
        entries.into_iter().map(|(id, fields)| (time(&id), pairs(fields))).collect()
    }

    /// The ids of the stream's events, in order.
    pub fn ids(&self, stream: &str) -> Vec<String> {
        let entries = self.entries(stream).into_iter();
        entries
            .map(|fields| fields.into_iter().find(|(name, _)| name == "event_id").unwrap().1)
            .collect()
    }

    pub fn config(&self) -> RedisConfig {
        config(&self.url())
    }
}

impl Drop for TempRedis {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A configuration with nothing special in it.
pub fn config(url: &str) -> RedisConfig {
    RedisConfig {
        relay_id: "tested".to_owned(),
        url: url.to_owned(),
        topology: Topology::Single,
        username: None,
        password: None,
        tls_ca: None,
        tls_cert: None,
        tls_key: None,
        durability: Durability::Memory,
        max_len: 0,
        trim: Trim::Read,
        in_flight_events: 10_000,
        in_flight_bytes: 64 << 20,
    }
}

/// Drives a sink as a relay does: what it has not delivered can be sent again.
pub struct Hand {
    sink: RedisSink,
    pub delivered: HashSet<u64>,
    /// Numbers and errors of what came back.
    pub failed: Vec<(u64, SinkError)>,
    pub topics: BTreeMap<String, Result<TopicInfo, SinkError>>,
    /// What it said of being reachable, in order.
    pub reachable: Vec<Result<(), NoContact>>,
    /// How many of the delivered ones it had already.
    pub suppressed: u64,
    pub fatal: Option<String>,
}

impl Hand {
    pub fn open(config: &RedisConfig) -> Self {
        Self {
            sink: RedisSink::open(config).unwrap(),
            delivered: HashSet::new(),
            failed: Vec::new(),
            topics: BTreeMap::new(),
            reachable: Vec::new(),
            suppressed: 0,
            fatal: None,
        }
    }

    /// The same, and waits until it may send to the stream.
    pub async fn to(config: &RedisConfig, stream: &str) -> Self {
        let mut hand = Self::open(config);
        hand.may_send(stream).await;
        hand
    }

    pub async fn look_up(&mut self, stream: &str) -> Result<TopicInfo, SinkError> {
        self.topics.remove(stream);
        self.sink.look_up(stream);
        self.until("an answer to the look-up", |hand| hand.topics.contains_key(stream)).await;
        self.topics[stream].clone()
    }

    /// Looks the stream up until it takes records.
    pub async fn may_send(&mut self, stream: &str) {
        let deadline = Instant::now() + SOON;
        while self.look_up(stream).await.is_err() {
            assert!(Instant::now() < deadline, "{:?}", self.topics);
        }
    }

    pub fn probe(&mut self) {
        self.sink.probe();
    }

    /// Sends the event of that number: its id, key and value are made of it.
    pub fn try_send(&mut self, stream: &str, number: u64, size: usize) -> Result<(), SendError> {
        let id = event_id(number);
        let mut headers = HeaderList::default();
        headers.add("event_id", Some(&id));
        let parcel = Parcel {
            key: Some(format!("key-{}", number % 3).into_bytes().into()),
            value: Some([number.to_string(), "-".repeat(size)].concat().into_bytes().into()),
            headers,
            ..Parcel::default()
        };
        let event = EventRef { id: &id, event_type: Some("Tested"), ..EventRef::default() };
        self.send_parcel(stream, &parcel, event, number)
    }

    pub fn send_parcel(
        &mut self,
        stream: &str,
        parcel: &Parcel,
        event: EventRef<'_>,
        number: u64,
    ) -> Result<(), SendError> {
        self.sink.send(&parcel.record(event, stream, false), number)
    }

    /// Sends these events, and waits for room where there is none.
    pub async fn send(&mut self, stream: &str, numbers: impl IntoIterator<Item = u64>) {
        for number in numbers {
            while self.try_send(stream, number, 1) == Err(SendError::Full) {
                let before = self.delivered.len();
                self.until("room", |hand| hand.delivered.len() > before).await;
            }
        }
    }

    pub fn take(&mut self) {
        let (mut delivered, mut reports) = (Vec::new(), Vec::new());
        self.sink.take(&mut delivered, &mut reports);
        for number in delivered {
            assert!(self.delivered.insert(number), "{number} was reported twice");
        }
        for report in reports {
            match report {
                Report::Failed { seq, error, parcel } => {
                    assert_eq!(parcel.event_id.as_deref(), Some(&*event_id(seq)));
                    self.failed.push((seq, error));
                }
                Report::Topic { name, result } => {
                    self.topics.insert(name, result);
                }
                Report::Reachable(result) => self.reachable.push(result),
                Report::Suppressed(count) => self.suppressed += count,
                Report::Fatal(reason) => self.fatal = Some(reason),
            }
        }
    }

    /// Takes reports in until `holds`.
    pub async fn until(&mut self, what: &str, mut holds: impl FnMut(&Self) -> bool) {
        self.within(what, SOON, &mut holds).await;
    }

    pub async fn within(
        &mut self,
        what: &str,
        limit: Duration,
        mut holds: impl FnMut(&Self) -> bool,
    ) {
        let deadline = Instant::now() + limit;
        loop {
            self.take();
            if holds(self) {
                return;
            }
            let reported = timeout_at(deadline, self.sink.reported()).await;
            assert!(
                reported.is_ok(),
                "waited {limit:?} for {what}: {} delivered, {:?}, {:?}",
                self.delivered.len(),
                self.failed.first(),
                self.reachable
            );
        }
    }

    pub async fn wait_for(&mut self, count: usize) {
        self.until("acknowledgements", |hand| hand.delivered.len() >= count).await;
    }

    /// The last that it said of being reachable is trouble that says this.
    pub async fn wait_for_trouble(&mut self, said: &str) {
        self.until(said, |hand| {
            let last = hand.reachable.last();
            last.is_some_and(|last| {
                last.as_ref().is_err_and(|error| format!("{error:?}").contains(said))
            })
        })
        .await;
    }

    /// Ends as a relay that crashes does: what it has sent may arrive or not.
    pub async fn close(self) {
        self.sink.close().await;
    }
}

/// The id of the event of that number.
pub fn event_id(number: u64) -> String {
    format!("00000000-0000-4000-8000-{number:012}")
}

/// The ids of these events.
pub fn event_ids(numbers: impl IntoIterator<Item = u64>) -> Vec<String> {
    numbers.into_iter().map(event_id).collect()
}
