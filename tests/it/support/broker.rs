//! A Kafka broker of a test's own, which can be stopped, frozen and started again.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::records::Kafka;
use super::setting;
use super::wait::{SOON, eventually};

/// One node, broker and controller in one.
pub struct Broker {
    home: TempDir,
    port: u16,
    process: Option<Child>,
}

impl Broker {
    /// Starts a broker. `settings` are added to its configuration.
    pub async fn start(settings: &[(&str, &str)]) -> Self {
        let home = tempfile::Builder::new().prefix("outboxd-kafka-").tempdir().unwrap();
        // Held until both are known, so that they differ.
        let listeners = [(); 2].map(|()| TcpListener::bind(("127.0.0.1", 0)).unwrap());
        let [port, controller] = listeners.each_ref().map(|l| l.local_addr().unwrap().port());
        drop(listeners);
        let data = home.path().join("data");
        let mut text = format!(
            "process.roles=broker,controller\nnode.id=1\n\
             controller.quorum.voters=1@127.0.0.1:{controller}\n\
             listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}\n\
             advertised.listeners=PLAINTEXT://127.0.0.1:{port}\n\
             controller.listener.names=CONTROLLER\n\
             listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT\n\
             log.dirs={}\nauto.create.topics.enable=false\ndefault.replication.factor=1\n\
             offsets.topic.replication.factor=1\ntransaction.state.log.replication.factor=1\n\
             transaction.state.log.min.isr=1\ngroup.initial.rebalance.delay.ms=0\n",
            data.display()
        );
        for (name, value) in settings {
            text.push_str(&format!("{name}={value}\n"));
        }
        let properties = home.path().join("server.properties");
        std::fs::write(&properties, text).unwrap();
        let format = java("kafka.tools.StorageTool")
            .args(["format", "-t", "MkU3OEVBNTcwNTJENDM2Qk", "-c"])
            .arg(&properties)
            .output()
            .unwrap();
        assert!(format.status.success(), "{}", String::from_utf8_lossy(&format.stderr));
        let mut broker = Self { home, port, process: None };
        broker.start_again().await;
        broker
    }

    /// Its address.
    pub fn kafka(&self) -> Kafka {
        Kafka { servers: format!("127.0.0.1:{}", self.port) }
    }

    fn log(&self) -> PathBuf {
        self.home.path().join("log")
    }

    /// Starts it on the same data.
    pub async fn start_again(&mut self) {
        let log = std::fs::File::create(self.log()).unwrap();
        let mut command = java("kafka.Kafka");
        command.arg(self.home.path().join("server.properties"));
        command.stdout(log.try_clone().unwrap()).stderr(log).stdin(Stdio::null());
        self.process = Some(command.spawn().unwrap());
        let log: &Path = &self.log();
        eventually("the broker to start", SOON, || async {
            std::fs::read_to_string(log).unwrap().contains("Kafka Server started")
        })
        .await;
    }

    fn signal(&self, signal: Signal) {
        let pid = self.process.as_ref().unwrap().id();
        kill(Pid::from_raw(i32::try_from(pid).unwrap()), signal).unwrap();
    }

    /// It stops answering, and keeps its connections.
    pub fn freeze(&self) {
        self.signal(Signal::SIGSTOP);
    }

    /// It goes on.
    pub fn thaw(&self) {
        self.signal(Signal::SIGCONT);
    }

    /// It ends without a word.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            // What has ended cannot be ended.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.kill();
    }
}

fn java(class: &str) -> Command {
    let libs = setting("KAFKA_LIBS");
    let mut command = Command::new("java");
    command.args(["-Xmx512m", "-Xms128m", "-cp", &format!("{libs}/*")]);
    command.arg(format!("-Dlog4j2.configurationFile={libs}/log4j2.properties")).arg(class);
    command
}
