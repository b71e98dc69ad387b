//! What the demo plays on: a server with the migrations applied, a broker with a topic.

use std::path::{Path, PathBuf};

use tokio::task::spawn_blocking;

use super::broker::Broker;
use super::postgres::TempPostgres;
use super::{DemoArgs, writer};
use crate::config::{Config, Sources};
use crate::failure::{Code, Failure};
use crate::migrations::{Names, migrations};
use crate::outbox::status::Mode;
use crate::postgres::{Server, SqlSession};
use crate::relay::{RelayConfig, fate_of};
use crate::sink::{KafkaConfig, SinkConfig};

/// Everything but the players. Server and in-process broker are gone with it.
pub(super) struct Stage {
    postgres: TempPostgres,
    owner: SqlSession,
    version: String,
    pub(super) broker: Broker,
    pub(super) topic: String,
    pub(super) config: RelayConfig,
    pub(super) kafka: KafkaConfig,
}

/// The relay streams as the role that the migrations make for it.
const RELAY_ROLE: &str = "outboxd";
/// The whole demo is in one database.
const DATABASE: &str = "postgres";

impl Stage {
    /// Starts what is needed.
    pub(super) async fn set_up(args: &DemoArgs, sources: &Sources) -> Result<Self, Failure> {
        let binaries = find_binaries(args.pg_bin.as_deref())?;
        let broker = Broker::new(args.bootstrap_servers.as_deref())?;
        let starting = spawn_blocking(move || TempPostgres::start(&binaries, &[]));
        let started = starting.await.map_err(|error| error.to_string());
        let postgres = started
            .and_then(|started| started.map_err(|error| error.to_string()))
            .map_err(|error| Failure::new(Code::DemoServer, error))?;
        let topic = format!("outboxd-demo-{}-{:08x}", std::process::id(), fastrand::u32(..));
        let (config, kafka) = relay_config(&postgres, &broker, &topic, sources)?;
        let (owner, version) = prepare(&postgres, &config, args.keys).await?;
        broker.create_topic(&kafka, &topic).await?;
        Ok(Self { postgres, owner, version, broker, topic, config, kafka })
    }

    /// How the application reaches the database.
    pub(super) fn url(&self) -> String {
        self.postgres.url(DATABASE)
    }

    /// The stage in a few words.
    pub(super) fn title(&self) -> String {
        format!("outboxd demo: PostgreSQL {}, {}", self.version, self.broker.name())
    }

    /// How many events are SENT, as the database tells it. `settled` is what the relay says.
    pub(super) async fn sent(&self, settled: u64) -> Result<u64, Failure> {
        let sql = match self.config.status.mode {
            Mode::Update => "SELECT count(*) FROM public.outbox WHERE status = 'SENT'",
            Mode::Ledger => "SELECT count(*) FROM outboxd.ledger WHERE verdict = 'sent'",
            // What is gone or was never written cannot be counted.
            Mode::Delete | Mode::None => return Ok(settled),
        };
        let count = self.owner.client.query_one(sql, &[]).await;
        let count = count.map_err(|error| failed(error.into(), "count what is SENT"))?;
        Ok(u64::try_from(count.get::<_, i64>(0)).unwrap_or(0))
    }

    /// Removes what would stay.
    pub(super) async fn clear(self) {
        self.broker.delete_topic(&self.kafka, &self.topic).await;
    }
}

fn find_binaries(given: Option<&Path>) -> Result<PathBuf, Failure> {
    let named = std::env::var_os("PG_BIN").filter(|value| !value.is_empty()).map(PathBuf::from);
    let given = given.map(Path::to_owned).or(named);
    TempPostgres::find_binaries(given.as_deref()).ok_or_else(|| {
        let text = match given {
            Some(given) => format!("there is no PostgreSQL server in {}", given.display()),
            None => "there is no PostgreSQL server on this machine that it could start".to_owned(),
        };
        Failure::new(Code::DemoServer, text)
    })
}

/// The relay's configuration: the defaults, what the command line says, and the stage.
fn relay_config(
    postgres: &TempPostgres,
    broker: &Broker,
    topic: &str,
    sources: &Sources,
) -> Result<(RelayConfig, KafkaConfig), Failure> {
    let port = postgres.port();
    let ours = [
        format!("postgres.url=postgres://{RELAY_ROLE}@127.0.0.1:{port}/{DATABASE}"),
        "sink.kind=kafka".to_owned(),
        format!("kafka.bootstrap_servers={}", broker.servers()),
        format!("route.topic={topic}"),
        "outbox.table=public.outbox".to_owned(),
    ];
    let sources = Sources {
        // Not what happens to lie in this directory or in the environment: that is for `run`.
        file: Some(sources.file.clone().unwrap_or_else(|| "/dev/null".into())),
        flags: sources.flags.iter().cloned().chain(ours).collect(),
        environment: Vec::new(),
    };
    let mut config = Config::load(&sources)?.relay;
    // It would keep every look at a topic waiting for an answer.
    let SinkConfig::Kafka(kafka) = &mut config.sink else {
        return Err(Failure::new(Code::Bug, "the demo has another sink than Kafka"));
    };
    kafka.ask_limits = matches!(broker, Broker::Real(_));
    let kafka = kafka.clone();
    Ok((config, kafka))
}

/// Applies the migrations and makes the application's table, as the database's owner.
async fn prepare(
    postgres: &TempPostgres,
    config: &RelayConfig,
    keys: u64,
) -> Result<(SqlSession, String), Failure> {
    let server = Server::parse(&postgres.url(DATABASE));
    let server = server.map_err(|error| Failure::new(Code::Bug, error.to_string()))?;
    let session = SqlSession::open(&server, "demo").await;
    let session = session.map_err(|error| failed(error, "connect"))?;
    for migration in migrations(&Names::of(config, None)) {
        let applied = session.client.batch_execute(&migration.sql).await;
        applied.map_err(|error| failed(error.into(), &format!("apply {}", migration.name)))?;
    }
    let make = async {
        session.client.batch_execute(writer::TABLE).await?;
        let keys = i64::try_from(keys).unwrap_or(i64::MAX);
        session.client.execute(writer::ACCOUNTS, &[&keys]).await?;
        let row = session.client.query_one("SHOW server_version", &[]).await?;
        let version: String = row.get(0);
        Ok::<_, tokio_postgres::Error>(version)
    };
    let version = make.await.map_err(|error| failed(error.into(), "make the demo's table"))?;
    let version = version.split_whitespace().next().unwrap_or_default().to_owned();
    Ok((session, version))
}

fn failed(error: crate::postgres::Error, doing: &str) -> Failure {
    fate_of(&error, doing).failure().clone()
}
