//! A NATS server of a test's own, which can be killed, frozen and started again, and what is in its
//! streams.

use std::collections::BTreeMap;
use std::process::{Child, Command, Stdio};

use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::stream::Config;
use async_nats::jetstream::{self, Context};
use async_nats::{Client, ConnectOptions};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::database::Database;
use super::free_port;
use super::relay::RelayOptions;
use super::wait::{SOON, eventually, until};

/// How many messages are asked for at once.
const AT_ONCE: usize = 256;

/// A server with JetStream and a store of its own.
pub struct TempNats {
    home: TempDir,
    port: u16,
    process: Child,
    /// How the test itself logs in.
    login: ConnectOptions,
}

/// A message of a stream.
#[derive(Debug, Clone)]
pub struct Message {
    pub subject: String,
    pub headers: BTreeMap<String, String>,
    pub data: Vec<u8>,
    /// When it was stored, in milliseconds since 1970.
    pub time: i64,
}

impl Message {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// What it carries, where that is JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.data).unwrap()
    }
}

impl From<StreamMessage> for Message {
    fn from(message: StreamMessage) -> Self {
        let headers = message.headers.iter().map(|(name, values)| {
            let values: Vec<_> = values.iter().map(|value| value.as_str()).collect();
            (name.to_string(), values.join(","))
        });
        Self {
            subject: message.subject.to_string(),
            headers: headers.collect(),
            data: message.payload.to_vec(),
            time: i64::try_from(message.time.unix_timestamp_nanos() / 1_000_000).unwrap(),
        }
    }
}

impl TempNats {
    /// Starts a server; `options` are lines of its configuration.
    pub async fn start(options: &str) -> Self {
        Self::start_as(options, ConnectOptions::new()).await
    }

    /// The same where the test itself has to log in.
    pub async fn start_as(options: &str, login: ConnectOptions) -> Self {
        let server = Self::launch(options, true, login);
        server.client().await;
        server
    }

    /// A server without JetStream.
    pub async fn start_bare(options: &str) -> Self {
        let server = Self::launch(options, false, ConnectOptions::new());
        server.client().await;
        server
    }

    /// A server that the test itself does not talk to.
    pub async fn start_unasked(options: &str) -> Self {
        let server = Self::launch(options, false, ConnectOptions::new());
        let address = server.address();
        eventually("the NATS server to listen", SOON, || async {
            tokio::net::TcpStream::connect(&address).await.is_ok()
        })
        .await;
        server
    }

    pub(super) fn launch(options: &str, with_jetstream: bool, login: ConnectOptions) -> Self {
        let home = tempfile::Builder::new().prefix("outboxd-nats-").tempdir().unwrap();
        let port = free_port();
        let store = home.path().join("store");
        let mut text = format!("listen: \"127.0.0.1:{port}\"\n{options}\n");
        if with_jetstream {
            text.push_str(&format!("jetstream {{ store_dir: \"{}\" }}\n", store.display()));
        }
        std::fs::write(home.path().join("server.conf"), text).unwrap();
        let process = spawn(&home);
        Self { home, port, process, login }
    }

    pub fn url(&self) -> String {
        format!("nats://{}", self.address())
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.process.id()).unwrap()), signal).unwrap();
    }

    /// Ends it at once, as a crash does.
    pub fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
        self.process.wait().unwrap();
    }

    /// Starts it again on what it has stored.
    pub async fn restart(&mut self) {
        self.process = spawn(&self.home);
        self.client().await;
    }

    /// Reads its configuration anew, with these lines in place of the former.
    pub fn reconfigure(&self, before: &str, after: &str) {
        let path = self.home.path().join("server.conf");
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(before), "{text}");
        std::fs::write(&path, text.replace(before, after)).unwrap();
        self.signal(Signal::SIGHUP);
    }

    /// It stays, and does nothing any more.
    pub fn freeze(&self) {
        self.signal(Signal::SIGSTOP);
    }

    pub fn thaw(&self) {
        self.signal(Signal::SIGCONT);
    }

    /// From now on the test itself logs in like this.
    pub fn log_in_as(&mut self, login: ConnectOptions) {
        self.login = login;
    }

    /// A connection of the test's own.
    pub async fn client(&self) -> Client {
        until("the NATS server to answer", SOON, || async {
            self.login.clone().connect(self.url()).await.ok()
        })
        .await
    }

    pub async fn jetstream(&self) -> Context {
        jetstream::new(self.client().await)
    }

    /// Makes a stream.
    pub async fn create(&self, name: &str, subjects: &[&str]) {
        self.create_with(name, subjects, |_| {}).await;
    }

    /// Makes a stream with more settings.
    pub async fn create_with(&self, name: &str, subjects: &[&str], more: impl FnOnce(&mut Config)) {
        let subjects = subjects.iter().map(ToString::to_string).collect();
        let mut config = Config { name: name.to_owned(), subjects, ..Config::default() };
        more(&mut config);
        self.jetstream().await.create_stream(config).await.unwrap();
    }

    /// Every message of a stream, in its order.
    pub async fn messages(&self, stream: &str) -> Vec<Message> {
        let stream = self.jetstream().await.get_stream(stream).await.unwrap();
        let state = stream.cached_info().state.clone();
        let sequences: Vec<_> = (state.first_sequence..=state.last_sequence).collect();
        let mut messages = Vec::with_capacity(sequences.len());
        for some in sequences.chunks(AT_ONCE) {
            let ask = |sequence: &u64| {
                let (stream, sequence) = (stream.clone(), *sequence);
                tokio::spawn(async move { stream.get_raw_message(sequence).await })
            };
            for asked in some.iter().map(ask).collect::<Vec<_>>() {
                // One that was removed is not there.
                let Ok(message) = asked.await.unwrap() else { continue };
                messages.push(Message::from(message));
            }
        }
        messages
    }

    /// How many messages a stream has.
    pub async fn count(&self, stream: &str) -> u64 {
        let found = self.jetstream().await.get_stream(stream).await;
        found.map_or(0, |stream| stream.cached_info().state.messages)
    }

    /// A relay of this database's outbox to this server.
    pub fn options(&self, database: &Database) -> RelayOptions {
        RelayOptions::of(database).set("sink.kind", "nats").set("nats.url", &self.url())
    }
}

impl Drop for TempNats {
    fn drop(&mut self) {
        self.thaw();
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn spawn(home: &TempDir) -> Child {
    let program = std::env::var("NATS_BIN").unwrap_or_else(|_| "nats-server".to_owned());
    let log = std::fs::File::create(home.path().join("log")).unwrap();
    Command::new(program)
        .arg("-c")
        .arg(home.path().join("server.conf"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("nats-server: dev/services --nats installs it")
}
