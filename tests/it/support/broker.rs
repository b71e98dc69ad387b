//! A Kafka broker of a test's own, which can be stopped, frozen and started again.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::records::Kafka;
use super::setting;
use super::shared::Shared;
use super::wait::{LATER, eventually};

/// Settings of a broker that asks who somebody is, and lets him do only what he may. "admin" may do
/// everything, "relay" and the other two nothing at first; their passwords are their names.
pub const GUARDED: [(&str, &str); 6] = [
    ("listener.security.protocol.map", "PLAINTEXT:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT"),
    ("sasl.enabled.mechanisms", "PLAIN"),
    ("sasl.mechanism.inter.broker.protocol", "PLAIN"),
    (
        "listener.name.plaintext.plain.sasl.jaas.config",
        "org.apache.kafka.common.security.plain.PlainLoginModule required \
         username=\"admin\" password=\"admin\" user_admin=\"admin\" user_relay=\"relay\" \
         user_second=\"second\" user_third=\"third\";",
    ),
    ("authorizer.class.name", "org.apache.kafka.metadata.authorizer.StandardAuthorizer"),
    ("super.users", "User:ANONYMOUS;User:admin"),
];

/// The relay's properties for such a broker.
pub const RELAY_LOGIN: &str = r#"{"security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": "PLAIN",
                                  "sasl.username": "relay", "sasl.password": "relay"}"#;

/// The same for another user.
pub fn login_of(user: &str) -> String {
    RELAY_LOGIN.replace("\"relay\"", &format!("\"{user}\""))
}

/// The guarded one that runs.
static GUARDED_RUNS: Shared<Broker> = Shared::new();

/// One node, broker and controller in one.
pub struct Broker {
    home: TempDir,
    port: u16,
    process: Option<Child>,
}

impl Broker {
    /// Starts a broker. `settings` are added to its configuration; in their values `{port}` and
    /// `{controller}` are its ports.
    pub async fn start(settings: &[(&str, &str)]) -> Self {
        Self::start_cluster(1, settings).await.remove(0)
    }

    /// A guarded broker, which the tests that run share: each has a user of its own.
    pub async fn guarded() -> Arc<Self> {
        GUARDED_RUNS.get(async || Self::start(&GUARDED).await).await
    }

    /// The same with users that log in by SCRAM, each as Kafka's StorageTool takes them.
    pub async fn start_with_users(settings: &[(&str, &str)], users: &[&str]) -> Self {
        Self::start_all(1, settings, users).await.remove(0)
    }

    /// Starts brokers that replicate everything to each other; one may be away, of two the second.
    pub async fn start_cluster(count: usize, settings: &[(&str, &str)]) -> Vec<Self> {
        Self::start_all(count, settings, &[]).await
    }

    async fn start_all(count: usize, settings: &[(&str, &str)], users: &[&str]) -> Vec<Self> {
        // Held until all are known, so that they differ.
        let listeners: Vec<_> =
            std::iter::repeat_with(own_port).flatten().take(2 * count).collect();
        let ports: Vec<_> = listeners.iter().map(|l| l.local_addr().unwrap().port()).collect();
        drop(listeners);
        let (ports, controllers) = ports.split_at(count);
        // Two that vote could do nothing without each other.
        let controllers = if count == 2 { &controllers[..1] } else { controllers };
        let voters = (1..).zip(controllers).map(|(node, port)| format!("{node}@127.0.0.1:{port}"));
        let voters = voters.collect::<Vec<_>>().join(",");
        let in_sync = count.div_ceil(2);
        let mut brokers = Vec::new();
        for (node, port) in (1..).zip(ports) {
            let controller = controllers.get(node - 1);
            let (roles, listener) = match controller {
                Some(port) => ("broker,controller", format!(",CONTROLLER://127.0.0.1:{port}")),
                None => ("broker", String::new()),
            };
            let home = tempfile::Builder::new().prefix("outboxd-kafka-").tempdir().unwrap();
            let data = home.path().join("data");
            let mut text = format!(
                "process.roles={roles}\nnode.id={node}\n\
                 controller.quorum.voters={voters}\n\
                 listeners=PLAINTEXT://127.0.0.1:{port}{listener}\n\
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
                let value = value.replace("{port}", &port.to_string());
                let value = match controller {
                    Some(port) => value.replace("{controller}", &port.to_string()),
                    None => value,
                };
                text.push_str(&format!("{name}={value}\n"));
            }
            let properties = home.path().join("server.properties");
            std::fs::write(&properties, text).unwrap();
            format(&data, node, &properties, users);
            let mut broker = Self { home, port: *port, process: None };
            broker.spawn();
            brokers.push(broker);
        }
        for broker in &mut brokers {
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

    /// Changes who may do what on a guarded broker: `add` or `remove`, `ALLOW` or `DENY`, whom, what, and the
    /// topic.
    pub async fn access(&self, rule: [&str; 5]) {
        let mut command = Command::new(setting("CONSUMER_PYTHON"));
        command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/kafka/access.py"));
        command.args([&self.kafka().servers, "admin", "admin"]).args(rule).stdin(Stdio::null());
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

    async fn wait_until_started(&mut self) {
        let log = self.log();
        let process = Mutex::new(self.process.as_mut().unwrap());
        eventually("the broker to start", LATER, || async {
            let said = std::fs::read_to_string(&log).unwrap();
            let ended = process.lock().unwrap().try_wait().unwrap();
            assert_eq!(ended, None, "the broker ended: {said}");
            said.contains("Kafka Server started")
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

/// Makes a node's storage. Without users it is that of the services' node but for the number: Kafka's own
/// tool takes as long for it as a broker to start.
fn format(data: &Path, node: usize, properties: &Path, users: &[&str]) {
    const CLUSTER: &str = "MkU3OEVBNTcwNTJENDM2Qk";
    let made = PathBuf::from(setting("KAFKA_DIR")).join("node-1/data/bootstrap.checkpoint");
    if users.is_empty() {
        std::fs::create_dir(data).unwrap();
        std::fs::copy(made, data.join("bootstrap.checkpoint")).unwrap();
        let text = format!("version=1\ncluster.id={CLUSTER}\nnode.id={node}\n");
        std::fs::write(data.join("meta.properties"), text).unwrap();
        return;
    }
    let mut command = java("kafka.tools.StorageTool");
    command.args(["format", "-t", CLUSTER, "-c"]).arg(properties);
    command.args(users.iter().flat_map(|user| ["--add-scram", user]));
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// A class of Kafka's own jars.
pub fn java(class: &str) -> Command {
    let libs = setting("KAFKA_LIBS");
    let mut command = Command::new("java");
    command.args(["-Xmx512m", "-Xms128m", "-XX:+UseSerialGC", "-cp", &format!("{libs}/*")]);
    // What `dev/services` keeps of a start: the next takes half as long.
    let archive = Path::new(&libs).with_file_name("classes.jsa");
    if archive.exists() {
        command.arg(format!("-XX:SharedArchiveFile={}", archive.display()));
    }
    command.arg(format!("-Dlog4j2.configurationFile={libs}/log4j2.properties")).arg(class);
    command
}

/// A port that nobody has, and that nobody is given: a broker that is away for a while, or is not there yet,
/// would find it taken by a connection of somebody else.
fn own_port() -> std::io::Result<TcpListener> {
    TcpListener::bind(("127.0.0.1", fastrand::u16(10_000..32_000)))
}
