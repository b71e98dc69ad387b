//! `outboxd demo`: it proves what it shows, and leaves nothing behind.

use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rdkafka::client::DefaultClientContext;
use tempfile::TempDir;

use crate::support::pg_bin;
use crate::support::records::Kafka;
use crate::support::wait::{LATER, until};

/// A demo, with a directory for temporary files of its own.
struct Demo {
    process: Child,
    said: Arc<Mutex<String>>,
    directory: TempDir,
}

/// How a demo ended.
struct Ended {
    code: i32,
    said: String,
    complained: String,
}

impl Demo {
    fn start(arguments: &[&str]) -> Self {
        let directory = tempfile::Builder::new().prefix("outboxd-demo-").tempdir().unwrap();
        // PostgreSQL can run as another user.
        let all = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(directory.path(), all).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_outboxd"));
        command.arg("demo").args(arguments).env_clear();
        command.env("PG_BIN", pg_bin()).env("TMPDIR", directory.path());
        command.current_dir(directory.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let said = Arc::new(Mutex::new(String::new()));
        let (mut out, heard) = (process.stdout.take().unwrap(), Arc::clone(&said));
        std::thread::spawn(move || {
            let mut some = [0; 4096];
            while let Ok(count @ 1..) = std::io::Read::read(&mut out, &mut some) {
                heard.lock().unwrap().push_str(std::str::from_utf8(&some[..count]).unwrap());
            }
        });
        Self { process, said, directory }
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.process.id()).unwrap())
    }

    fn interrupt(&self) {
        kill(self.pid(), Signal::SIGINT).unwrap();
    }

    async fn wait_until_said(&self, text: &str) {
        until(format!("{text:?} to be said"), LATER, || async {
            self.said.lock().unwrap().contains(text).then_some(())
        })
        .await;
    }

    /// Waits for its end, and asserts that it left nothing behind.
    async fn ended(self) -> Ended {
        let Self { process, said, directory } = self;
        let waiting = tokio::task::spawn_blocking(move || process.wait_with_output().unwrap());
        let limit = tokio::time::timeout(LATER, waiting);
        let Output { status, stderr, .. } = limit.await.expect("the demo to end").unwrap();
        let complained = String::from_utf8(stderr).unwrap();
        let said = said.lock().unwrap().clone();
        let left: Vec<_> =
            directory.path().read_dir().unwrap().map(|e| e.unwrap().path()).collect();
        assert!(left.is_empty(), "left behind: {left:?}");
        let processes = processes_of(&directory);
        assert!(processes.is_empty(), "left behind: {processes:?}");
        Ended { code: status.code().unwrap_or(-1), said, complained }
    }
}

/// Command lines that name the directory.
fn processes_of(directory: &TempDir) -> Vec<String> {
    let place = directory.path().to_str().unwrap();
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    entries
        .filter_map(|entry| std::fs::read_to_string(entry.path().join("cmdline")).ok())
        .filter(|line| line.contains(place))
        .collect()
}

impl Ended {
    /// A figure of the proof, which is the last line.
    fn figure(&self, name: &str) -> u64 {
        let proof = self.said.lines().last().unwrap_or_default();
        let figure = proof.split([',', ';']).collect::<Vec<_>>().join("");
        let (_, rest) = figure.split_once(&format!("{name} ")).unwrap_or_else(|| {
            panic!("no {name} in {proof:?}; it complained: {}", self.complained)
        });
        rest.split_whitespace().next().unwrap().parse().unwrap()
    }

    fn assert_proven(&self) {
        assert_eq!(self.code, 0, "{}{}", self.said, self.complained);
        assert_eq!(self.complained, "", "nothing to warn of");
        let written = self.figure("written");
        assert!(written > 0);
        assert_eq!(self.figure("delivered"), written);
        assert_eq!(self.figure("SENT"), written);
        for broken in ["lost", "out of order", "duplicates", "phantoms"] {
            assert_eq!(self.figure(broken), 0, "{broken}: {}", self.said);
        }
    }
}

#[tokio::test]
async fn the_demo_proves_that_nothing_is_lost_or_reordered() {
    let demo = Demo::start(&["--seconds", "3"]).ended().await;
    demo.assert_proven();
    assert!(demo.figure("written") <= 3 * 2000 + 100, "faster than its rate: {}", demo.said);
    let lines = demo.said.lines().count();
    assert!(lines >= 3, "a line every second and the proof: {}", demo.said);
    assert!(!demo.said.contains('\x1b'), "no terminal, no control characters");
}

#[tokio::test]
async fn the_demo_takes_a_real_kafka_and_removes_its_topic() {
    let kafka = Kafka::shared();
    let arguments = ["--seconds", "3", "--bootstrap-servers", &kafka.servers];
    let demo = Demo::start(&arguments);
    let prefix = format!("outboxd-demo-{}-", demo.pid());
    demo.wait_until_said("delivered").await;
    assert_eq!(topics(&kafka, &prefix), 1);
    demo.ended().await.assert_proven();
    until("the topic to be gone", LATER, || async { (topics(&kafka, &prefix) == 0).then_some(()) })
        .await;
}

fn topics(kafka: &Kafka, prefix: &str) -> usize {
    let admin = kafka.admin();
    let client: &rdkafka::client::Client<DefaultClientContext> = admin.inner();
    let metadata = client.fetch_metadata(None, std::time::Duration::from_secs(30)).unwrap();
    metadata.topics().iter().filter(|topic| topic.name().starts_with(prefix)).count()
}

#[tokio::test]
async fn ctrl_c_ends_the_demo_with_the_proof_of_what_was_done() {
    let demo = Demo::start(&["--seconds", "3600", "--rate", "0"]);
    demo.wait_until_said("delivered").await;
    demo.interrupt();
    demo.ended().await.assert_proven();
}

#[tokio::test]
async fn ctrl_c_before_the_demo_has_begun_cleans_up_too() {
    let demo = Demo::start(&["--seconds", "3600"]);
    until("the server's directory", LATER, || async {
        demo.directory.path().read_dir().unwrap().next().map(|_| ())
    })
    .await;
    demo.interrupt();
    let demo = demo.ended().await;
    assert_eq!((demo.code, demo.said.as_str()), (130, "stopped before anything was written\n"));
}

#[tokio::test]
async fn without_a_server_the_demo_says_what_to_do() {
    let demo = Demo::start(&["--pg-bin", "/nowhere"]).ended().await;
    assert_eq!((demo.code, demo.said.as_str()), (69, ""));
    assert!(demo.complained.starts_with("OBX-7001 there is no PostgreSQL server in /nowhere. "));
    assert!(demo.complained.contains("--pg-bin"), "{}", demo.complained);
}

#[tokio::test]
async fn a_setting_that_the_relay_refuses_ends_the_demo() {
    let arguments = ["--seconds", "3600", "--set", "outbox.columns.key=nothing"];
    let demo = Demo::start(&arguments).ended().await;
    assert_eq!((demo.code, demo.said.as_str()), (78, ""));
    assert!(demo.complained.starts_with("OBX-1002 "), "{}", demo.complained);
}
