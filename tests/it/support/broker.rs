//! A Kafka broker of a test's own, which can be stopped, frozen and started again.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::records::Kafka;
use super::setting;
use super::wait::{LATER, eventually};

/// Settings of a broker that asks who somebody is, and lets him do only what he may. "admin" may do
/// everything, "relay" nothing at first; their passwords are their names.
pub const GUARDED: [(&str, &str); 6] = [
    ("listener.security.protocol.map", "PLAINTEXT:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT"),
    ("sasl.enabled.mechanisms", "PLAIN"),
    ("sasl.mechanism.inter.broker.protocol", "PLAIN"),
    (
        "listener.name.plaintext.plain.sasl.jaas.config",
        "org.apache.kafka.common.security.plain.PlainLoginModule required \
         username=\"admin\" password=\"admin\" user_admin=\"admin\" user_relay=\"relay\";",
    ),
    ("authorizer.class.name", "org.apache.kafka.metadata.authorizer.StandardAuthorizer"),
    ("super.users", "User:ANONYMOUS;User:admin"),
];

/// The relay's properties for such a broker.
pub const RELAY_LOGIN: &str = r#"{"security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": "PLAIN",
                                  "sasl.username": "relay", "sasl.password": "relay"}"#;

/// One node, broker and controller in one.
pub struct Broker {
    home: TempDir,
    port: u16,
    process: Option<Child>,
}

impl Broker {
    /// Starts a broker. `settings` are added to its configuration.
    pub async fn start(settings: &[(&str, &str)]) -> Self {
        Self::start_cluster(1, settings).await.remove(0)
    }

    /// Starts brokers that replicate everything to each other; one may be away.
    pub async fn start_cluster(count: usize, settings: &[(&str, &str)]) -> Vec<Self> {
        // Held until all are known, so that they differ.
        let listeners: Vec<_> = std::iter::repeat_with(|| TcpListener::bind(("127.0.0.1", 0)))
            .take(2 * count)
            .map(Result::unwrap)
            .collect();
        let ports: Vec<_> = listeners.iter().map(|l| l.local_addr().unwrap().port()).collect();
        drop(listeners);
        let (ports, controllers) = ports.split_at(count);
        let voters = (1..).zip(controllers).map(|(node, port)| format!("{node}@127.0.0.1:{port}"));
        let voters = voters.collect::<Vec<_>>().join(",");
        let in_sync = count.div_ceil(2);
        let mut brokers = Vec::new();
        for ((node, port), controller) in (1..).zip(ports).zip(controllers) {
            let home = tempfile::Builder::new().prefix("outboxd-kafka-").tempdir().unwrap();
            let data = home.path().join("data");
            let mut text = format!(
                "process.roles=broker,controller\nnode.id={node}\n\
                 controller.quorum.voters={voters}\n\
                 listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}\n\
                 advertised.listeners=PLAINTEXT://127.0.0.1:{port}\n\
                 controller.listener.names=CONTROLLER\n\
                 listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT\n\
                 log.dirs={}\nauto.create.topics.enable=false\n\
                 default.replication.factor={count}\nmin.insync.replicas={in_sync}\n\
                 offsets.topic.replication.factor={count}\n\
                 transaction.state.log.replication.factor={count}\n\
                 transaction.state.log.min.isr={in_sync}\ngroup.initial.rebalance.delay.ms=0\n",
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
            let mut broker = Self { home, port: *port, process: None };
            broker.spawn();
            brokers.push(broker);
        }
        for broker in &brokers {
            broker.wait_until_started().await;
        }
        brokers
    }

    /// Its address.
    pub fn kafka(&self) -> Kafka {
        Kafka::at(format!("127.0.0.1:{}", self.port))
    }

    /// A guarded broker, as its administrator sees it.
    pub fn as_admin(&self) -> Kafka {
        Kafka { user: Some("admin"), ..self.kafka() }
    }

    /// Changes who may do what on a guarded broker, by Kafka's own tool.
    pub async fn access(&self, arguments: &[&str]) {
        let login = self.home.path().join("admin.properties");
        let module = "org.apache.kafka.common.security.plain.PlainLoginModule";
        let text = format!(
            "security.protocol=SASL_PLAINTEXT\nsasl.mechanism=PLAIN\n\
             sasl.jaas.config={module} required username=\"admin\" password=\"admin\";\n"
        );
        std::fs::write(&login, text).unwrap();
        let mut command = java("org.apache.kafka.tools.AclCommand");
        command.args(["--bootstrap-server", &self.kafka().servers, "--command-config"]);
        command.arg(login).args(arguments).stdin(Stdio::null());
        // Others go on meanwhile.
        let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    }

    fn log(&self) -> PathBuf {
        self.home.path().join("log")
    }

    /// Starts it on the same data.
    pub async fn start_again(&mut self) {
        self.spawn();
        self.wait_until_started().await;
    }

    fn spawn(&mut self) {
        let log = std::fs::File::create(self.log()).unwrap();
        let mut command = java("kafka.Kafka");
        command.arg(self.home.path().join("server.properties"));
        command.stdout(log.try_clone().unwrap()).stderr(log).stdin(Stdio::null());
        self.process = Some(command.spawn().unwrap());
    }

    async fn wait_until_started(&self) {
        let log: &Path = &self.log();
        eventually("the broker to start", LATER, || async {
            std::fs::read_to_string(log).unwrap().contains("Kafka Server started")
        })
        .await;
    }

    /// It hands over what it leads, and ends.
    pub async fn stop(&mut self) {
        self.signal(Signal::SIGTERM);
        let process = Mutex::new(self.process.take().unwrap());
        eventually("the broker to end", LATER, || async {
            process.lock().unwrap().try_wait().unwrap().is_some()
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

/// A class of Kafka's own jars.
pub fn java(class: &str) -> Command {
    let libs = setting("KAFKA_LIBS");
    let mut command = Command::new("java");
    command.args(["-Xmx512m", "-Xms128m", "-cp", &format!("{libs}/*")]);
    command.arg(format!("-Dlog4j2.configurationFile={libs}/log4j2.properties")).arg(class);
    command
}
