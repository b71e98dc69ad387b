//! The relay under test: the real binary, in a process of its own.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::time::interval;

use super::conduct::{Takes, descriptors, leaks, with_secret};
use super::database::Database;
use super::records::Kafka;
use super::wait::{LATER, SOON, eventually, until};

/// How to start a relay.
#[derive(Clone)]
pub struct RelayOptions {
    environment: Vec<(String, String)>,
    file: Option<String>,
    directory: PathBuf,
    program: Vec<String>,
}

impl RelayOptions {
    /// A relay of this database's outbox. Slot and relay id are the database's name.
    pub fn new(database: &Database, kafka: &Kafka) -> Self {
        Self::of(database).set("kafka.bootstrap_servers", &kafka.servers)
    }

    /// The same without a sink.
    pub fn of(database: &Database) -> Self {
        let mut options = Self::bare().set("postgres.url", &with_secret(&database.url));
        options = options.set("postgres.slot", &database.name);
        options = options.set("admin.listen", "127.0.0.1:0");
        options.set("relay.reconnect_max", "500ms").set("log.format", "json")
    }

    /// Nothing is configured, and no outboxd.toml of whoever runs the tests is read.
    pub fn bare() -> Self {
        let program = vec![env!("CARGO_BIN_EXE_outboxd").to_owned()];
        Self { environment: Vec::new(), file: None, directory: std::env::temp_dir(), program }
    }

    /// Sets a key of the configuration, by the environment.
    pub fn set(self, key: &str, value: &str) -> Self {
        self.variable(&variable(key), value)
    }

    /// Leaves a key to the other sources.
    pub fn unset(mut self, key: &str) -> Self {
        self.environment.retain(|(other, _)| *other != variable(key));
        self
    }

    /// Sets a variable of the environment.
    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.environment.retain(|(other, _)| other != name);
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Runs there.
    pub fn directory(mut self, path: &Path) -> Self {
        self.directory = path.to_owned();
        self
    }

    /// Reads a file, too.
    pub fn file(mut self, path: &str) -> Self {
        self.file = Some(path.to_owned());
        self
    }

    /// Runs the binary by these words.
    pub fn program(mut self, words: Vec<String>) -> Self {
        self.program = words;
        self
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let (program, before) = self.program.split_first().expect("a program");
        let mut command = Command::new(program);
        command.args(before);
        command.args(self.file.iter().flat_map(|path| ["--config", path]));
        command.args(arguments).env_clear().envs(self.environment.iter().cloned());
        command.current_dir(&self.directory);
        command
    }

    /// Runs a command to its end: exit code, what it printed, what it complained about.
    pub fn command_output(&self, arguments: &[&str]) -> (i32, String, String) {
        let output = self.command(arguments).stdin(Stdio::null()).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
    }

    /// Runs a command at a terminal where somebody types `answer`: exit code, and what is shown.
    pub fn at_terminal(&self, arguments: &[&str], answer: &str) -> (i32, String) {
        use std::io::Write as _;
        let words = [&[env!("CARGO_BIN_EXE_outboxd")], arguments].concat();
        let mut command = Command::new("script");
        command.args(["-qec", &words.join(" "), "/dev/null"]).current_dir(&self.directory);
        command.envs(self.environment.iter().cloned());
        let mut running = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("util-linux's script");
        running.stdin.take().unwrap().write_all(answer.as_bytes()).unwrap();
        let output = running.wait_with_output().unwrap();
        (output.status.code().unwrap_or(-1), String::from_utf8(output.stdout).unwrap())
    }

    /// Starts a command whose output another program reads while it runs.
    pub fn piped(&self, arguments: &[&str]) -> Child {
        let mut command = self.command(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    }

    /// Starts a command at a terminal.
    pub fn on_terminal(&self, arguments: &[&str]) -> Child {
        let words = [&[env!("CARGO_BIN_EXE_outboxd")], arguments].concat();
        let mut command = Command::new("script");
        // Without `exec` some shells die of Ctrl-C themselves, and their exit code is told.
        command
            .args(["-qefc", &format!("exec {}", words.join(" ")), "/dev/null"])
            .current_dir(&self.directory);
        command.envs(self.environment.iter().cloned());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("util-linux's script")
    }

    /// Starts a relay.
    pub fn start(&self) -> Relay {
        self.start_with(&["run"])
    }

    /// Starts a relay with other arguments.
    pub fn start_with(&self, arguments: &[&str]) -> Relay {
        let mut command = self.command(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let stderr = child.stderr.take().unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let written = Arc::clone(&log);
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if std::env::var_os("OUTBOXD_TEST_LOG").is_some() {
                    println!("{line}");
                }
                written.lock().unwrap().push(line);
            }
        });
        Relay { child, log, reader: Some(reader), descriptors_when_ready: None }
    }

    /// Starts a relay and waits until it can do its job.
    pub async fn start_ready(&self) -> Relay {
        let mut relay = self.start();
        relay.wait_until_ready().await;
        relay
    }

    /// The same where much is to be swept first.
    pub async fn start_sweeping(&self) -> Relay {
        let mut relay = self.start();
        relay.wait_until_ready_within(LATER).await;
        relay
    }
}

fn variable(key: &str) -> String {
    format!("OUTBOXD__{}", key.to_uppercase().replace('.', "__"))
}

/// A relay that runs, or did.
pub struct Relay {
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
    reader: Option<JoinHandle<()>>,
    descriptors_when_ready: Option<usize>,
}

impl Relay {
    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap())
    }

    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    /// Everything that it has logged so far.
    pub fn logged(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }

    pub fn has_logged(&self, text: &str) -> bool {
        self.log.lock().unwrap().iter().any(|line| line.contains(text))
    }

    /// Its log lines, where it logs JSON.
    pub fn events(&self) -> Vec<serde_json::Value> {
        let lines = self.logged();
        lines.iter().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    pub async fn wait_until_logged(&self, text: &str) {
        let what = format!("{text:?} in the log");
        eventually(what, SOON, || async { self.has_logged(text) }).await;
    }

    /// Where its admin pages are.
    pub async fn admin(&self) -> String {
        until("the admin listener", SOON, || async {
            let log = self.log.lock().unwrap();
            let line = log.iter().find(|line| line.contains("admin listener"))?;
            let line: serde_json::Value = serde_json::from_str(line).ok()?;
            Some(line.get("address")?.as_str()?.to_owned())
        })
        .await
    }

    /// A page of the admin listener: its code and text.
    pub async fn get(&self, path: &str) -> (u16, String) {
        let address = self.admin().await;
        http_get(&address, path, &[("host", &address)]).await.unwrap_or((0, String::new()))
    }

    pub async fn status(&self) -> serde_json::Value {
        serde_json::from_str(&self.get("/api/v1/status").await.1).unwrap_or_default()
    }

    pub async fn state(&self) -> String {
        self.status().await["state"].as_str().unwrap_or_default().to_owned()
    }

    pub async fn wait_for_state(&self, state: &str) {
        eventually(format!("state {state}"), SOON, || async { self.state().await == state }).await;
    }

    pub async fn metric(&self, name: &str) -> f64 {
        let (_, text) = self.get("/metrics").await;
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
        line.unwrap_or(0.0)
    }

    pub async fn wait_until_ready(&mut self) {
        self.wait_until_ready_within(SOON).await;
    }

    async fn wait_until_ready_within(&mut self, limit: Duration) {
        let deadline = Instant::now() + limit;
        let mut ticks = interval(Duration::from_millis(10));
        while self.get("/readyz").await.0 != 200 {
            let ended = self.child.try_wait().unwrap();
            if ended.is_some() || Instant::now() > deadline {
                panic!("the relay is not ready ({ended:?}):\n{}", self.logged().join("\n"));
            }
            ticks.tick().await;
        }
        self.descriptors_when_ready = descriptors(self.child.id());
    }

    /// Memory of the process in bytes: now, and the most it ever had.
    pub fn memory(&self) -> (u64, u64) {
        self.memory_if_it_runs().expect("a relay that runs")
    }

    fn memory_if_it_runs(&self) -> Option<(u64, u64)> {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).ok()?;
        let kilobytes = |name: &str| -> Option<u64> {
            let line = text.lines().find(|line| line.starts_with(name))?;
            line.split_whitespace().nth(1)?.parse().ok()
        };
        Some((kilobytes("VmRSS:")? * 1024, kilobytes("VmHWM:")? * 1024))
    }

    /// How many files and connections it has open.
    pub fn descriptors(&self) -> usize {
        descriptors(self.child.id()).expect("a relay that runs")
    }

    /// What it takes; nothing if it has ended.
    pub fn takes(&self) -> Option<Takes> {
        let (_, memory) = self.memory_if_it_runs()?;
        let descriptors = descriptors(self.child.id())?;
        let descriptors_when_ready = self.descriptors_when_ready.unwrap_or(descriptors);
        Some(Takes { memory, descriptors, descriptors_when_ready })
    }

    /// Time on a processor so far, of all its threads.
    #[allow(dead_code, reason = "the benchmark asks")]
    pub fn cpu(&self) -> Duration {
        let path = format!("/proc/{}/stat", self.child.id());
        let text = std::fs::read_to_string(path).unwrap();
        let fields: Vec<u64> = text
            .rsplit_once(')')
            .unwrap()
            .1
            .split_whitespace()
            .skip(11)
            .take(2)
            .map(|field| field.parse().unwrap())
            .collect();
        // Linux counts in hundredths of a second.
        Duration::from_millis((fields[0] + fields[1]) * 10)
    }

    /// Waits for its end.
    pub async fn wait(&mut self) -> ExitStatus {
        let child = Mutex::new(&mut self.child);
        let status = until("the relay to end", Duration::from_secs(60), || async {
            child.lock().unwrap().try_wait().unwrap()
        })
        .await;
        // Its last words are its most important ones.
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
        assert_eq!(leaks(&self.logged()), Vec::<&String>::new(), "not for logs");
        status
    }

    /// Tells it to stop and waits for that. Gives its exit code.
    pub async fn stop(mut self) -> i32 {
        self.takes_no_more_than_it_may().await;
        self.signal(Signal::SIGTERM);
        self.wait().await.code().unwrap_or(-1)
    }

    /// Ends it without a word.
    pub async fn kill(mut self) {
        self.signal(Signal::SIGKILL);
        self.wait().await;
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        // What has ended cannot be ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = self.log.lock().unwrap();
            let from = log.len().saturating_sub(40);
            println!("--- the relay's last words\n{}", log[from..].join("\n"));
        }
    }
}

/// One HTTP request; nothing if nobody answers.
pub async fn http_get(
    address: &str,
    path: &str,
    headers: &[(&str, &str)],
) -> Option<(u16, String)> {
    http(address, "GET", path, headers, "").await
}

/// The same with any method and a body.
pub async fn http(
    address: &str,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Option<(u16, String)> {
    let (code, _, body) = http_whole(address, method, path, headers, body).await?;
    Some((code, body))
}

/// The same with the head of the answer.
pub async fn http_whole(
    address: &str,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Option<(u16, String, String)> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::TcpStream::connect(address).await.ok()?;
    let mut request = format!("{method} {path} HTTP/1.1\r\nconnection: close\r\n");
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    request.push_str(&format!("content-length: {}\r\n\r\n{body}", body.len()));
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut response = String::new();
    stream.read_to_string(&mut response).await.ok()?;
    let code = response.split_whitespace().nth(1)?.parse().ok()?;
    let (head, body) = response.split_once("\r\n\r\n")?;
    if head.to_lowercase().contains("transfer-encoding: chunked") {
        return Some((code, head.to_owned(), unchunk(body)));
    }
    Some((code, head.to_owned(), body.to_owned()))
}

fn unchunk(mut body: &str) -> String {
    let mut text = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).unwrap_or(0);
        if size == 0 || rest.len() < size {
            break;
        }
        text.push_str(&rest[..size]);
        body = rest[size..].trim_start_matches("\r\n");
    }
    text
}
