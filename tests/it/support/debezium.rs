//! The real Debezium, in a worker of Kafka Connect: a process of its own.

use std::path::PathBuf;
use std::process::{Child, Stdio};

use tempfile::TempDir;

use super::broker::java;
use super::database::Database;
use super::records::Kafka;
use super::wait::{LATER, eventually};
use super::{free_port, setting};

/// A connector that relays a database's outbox, and its worker, if it runs.
pub struct Debezium {
    home: TempDir,
    slot: String,
    process: Option<Child>,
}

impl Debezium {
    /// Not started yet. Slot and publication have the database's name; everything else is as
    /// Debezium has it by default, or `options` say.
    pub fn new(database: &Database, kafka: &Kafka, options: &[(&str, &str)]) -> Self {
        let home = tempfile::Builder::new().prefix("outboxd-debezium-").tempdir().unwrap();
        let worker = format!(
            "bootstrap.servers={}\nlisteners=http://127.0.0.1:{}\nplugin.path={}\n\
             plugin.discovery=only_scan\noffset.storage.file.filename={}\n\
             offset.flush.interval.ms=1000\n\
             key.converter=org.apache.kafka.connect.storage.StringConverter\n\
             value.converter=org.apache.kafka.connect.storage.StringConverter\n",
            kafka.servers,
            free_port(),
            setting("DEBEZIUM_PLUGINS"),
            home.path().join("offsets").display(),
        );
        std::fs::write(home.path().join("worker.properties"), worker).unwrap();
        let (_, address) = database.url.rsplit_once('@').unwrap();
        let (host, port) = address.split_once('/').unwrap().0.split_once(':').unwrap();
        let name = &database.name;
        let mut connector = format!(
            "name={name}\nconnector.class=io.debezium.connector.postgresql.PostgresConnector\n\
             tasks.max=1\nplugin.name=pgoutput\ndatabase.hostname={host}\ndatabase.port={port}\n\
             database.user=postgres\ndatabase.password=none\ndatabase.dbname={name}\n\
             topic.prefix={name}\nslot.name={name}\npublication.name={name}\n\
             table.include.list=public.outbox\nsnapshot.mode=no_data\npoll.interval.ms=50\n\
             extended.headers.enabled=false\n\
             key.converter=org.apache.kafka.connect.storage.StringConverter\n\
             value.converter=org.apache.kafka.connect.storage.StringConverter\n\
             producer.override.bootstrap.servers={}\ntransforms=outbox\n\
             transforms.outbox.type=io.debezium.transforms.outbox.EventRouter\n",
            kafka.servers
        );
        for (option, value) in options {
            connector.push_str(&format!("{option}={value}\n"));
        }
        std::fs::write(home.path().join("connector.properties"), connector).unwrap();
        Self { home, slot: name.clone(), process: None }
    }

    /// The connector's configuration.
    pub fn properties(&self) -> PathBuf {
        self.home.path().join("connector.properties")
    }

    /// Starts it, and waits until it streams.
    pub async fn start(&mut self, database: &Database) {
        let log = std::fs::File::create(self.home.path().join("log")).unwrap();
        let mut command = java("org.apache.kafka.connect.cli.ConnectStandalone");
        command.arg(self.home.path().join("worker.properties")).arg(self.properties());
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.process = Some(command.spawn().unwrap());
        eventually("Debezium to stream", LATER, || async {
            let log = || std::fs::read_to_string(self.home.path().join("log")).unwrap();
            assert!(!log().contains("unrecoverable exception"), "{}", log());
            is_active(database, &self.slot).await
        })
        .await;
    }

    /// Forgets its offsets, as `DELETE /connectors/NAME/offsets` does: it goes on from where the
    /// slot is.
    pub fn forget(&self) {
        std::fs::remove_file(self.home.path().join("offsets")).unwrap();
    }

    /// Ends it at once, as a crash would; its slot is free afterwards.
    pub async fn kill(&mut self, database: &Database) {
        let mut process = self.process.take().unwrap();
        process.kill().unwrap();
        process.wait().unwrap();
        eventually("the slot to be free", LATER, || async {
            !is_active(database, &self.slot).await
        })
        .await;
    }
}

async fn is_active(database: &Database, slot: &str) -> bool {
    let sql = "SELECT count(*) FROM pg_replication_slots WHERE slot_name = $1 AND active \
         AND confirmed_flush_lsn IS NOT NULL";
    database.row(sql, &[&slot]).await.get::<_, i64>(0) == 1
}

impl Drop for Debezium {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            // Nothing can be done about one that is gone.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}
