//! `outboxd doctor`: each thing that can be wrong is found, with its code, and what it says mends it.

use std::path::{Path, PathBuf};

use outboxd::demo::TempPostgres;
use serde_json::Value;

use crate::support::database::Database;
use crate::support::records::Kafka;
use crate::support::relay::RelayOptions;
use crate::support::{pg_bin, setting, unique};

/// What `doctor -o json` prints: exit code, whether all is well, the findings.
pub fn diagnose(options: &RelayOptions) -> (i32, bool, Vec<Value>) {
    let (code, printed, said) = options.command_output(&["doctor", "-o", "json"]);
    let document: Value = serde_json::from_str(&printed).unwrap_or_else(|_| panic!("{said}"));
    let findings = document["findings"].as_array().unwrap().clone();
    for finding in &findings {
        for field in ["code", "severity", "title", "observed", "required", "fix"] {
            assert!(finding[field].as_str().is_some_and(|text| !text.is_empty()), "{finding}");
        }
    }
    (code, document["ok"].as_bool().unwrap(), findings)
}

/// Asserts that there is such a finding, and gives it.
pub fn find(options: &RelayOptions, exit: i32, code: &str, severity: &str) -> Value {
    let (ended, ok, findings) = diagnose(options);
    let has = |finding: &&Value| finding["code"] == code && finding["severity"] == severity;
    let found = findings.iter().find(has);
    let found = found.unwrap_or_else(|| panic!("no {severity} {code} in {findings:?}")).clone();
    assert_eq!((ended, ok), (exit, severity == "warning"), "{findings:?}");
    found
}

/// Does what the findings say, as a person would, until there is none left.
async fn follow_the_advice(database: &Database, options: &RelayOptions) {
    for _ in 0..3 {
        let (_, ok, findings) = diagnose(options);
        if ok {
            return;
        }
        for finding in findings.iter().filter(|finding| finding["severity"] == "error") {
            let fix = finding["fix"].as_str().unwrap();
            match fix.strip_prefix("outboxd ") {
                Some(command) => {
                    let arguments: Vec<_> = command.split(' ').collect();
                    let (code, said, complaint) = options.command_output(&arguments);
                    assert_eq!(code, 0, "{fix}: {said}{complaint}");
                }
                None => database.execute(fix).await,
            }
        }
    }
    panic!("the advice does not help: {:?}", diagnose(options).2);
}

/// A server as it should be, with what the migrations make and nothing else.
pub fn good_server(binaries: &Path) -> TempPostgres {
    TempPostgres::start(binaries, &[("max_slot_wal_keep_size", "2GB")]).unwrap()
}

/// A relay of the role that the migrations make. Without dead letters it needs no topic of its own.
pub fn as_relay(database: &Database) -> RelayOptions {
    let url = database.url.replace("postgres://postgres@", "postgres://outboxd@");
    let options = RelayOptions::new(database, &Kafka::shared()).set("postgres.url", &url);
    options.set("dead_letter.topic", "").set("dead_letter.default", "")
}

#[tokio::test]
async fn a_healthy_set_up_has_no_findings() {
    let majors =
        ["14", "16", "17", "18"].map(|major| PathBuf::from(setting(&format!("PG_BIN_{major}"))));
    for binaries in [pg_bin()].iter().chain(&majors) {
        let server = good_server(binaries);
        let database = Database::new_at(&server.url("postgres"), "healthy").await;
        let options = as_relay(&database);
        assert_eq!(diagnose(&options), (0, true, Vec::new()), "{binaries:?}");
        let (code, said, _) = options.command_output(&["doctor"]);
        assert_eq!((code, said.as_str()), (0, "everything that the relay needs is there\n"));
        // Nor while the relay works: it is the reader of its slot, and its topics are there.
        let kafka = Kafka::shared();
        let topics = [unique("healthy"), unique("healthy"), unique("healthy")];
        for topic in &topics {
            kafka.create_topic(topic, 3, &[]).await;
        }
        let [topic, letters, misfits] = &topics;
        let options = options.set("dead_letter.topic", letters).set("dead_letter.default", misfits);
        let relay = options.start_ready().await;
        database.emit("order", "o-1", topic, "{}").await;
        kafka.wait_for(topic, 1).await;
        assert_eq!(diagnose(&options), (0, true, Vec::new()), "{binaries:?}");
        assert_eq!(relay.stop().await, 0);
        assert_eq!(diagnose(&options), (0, true, Vec::new()), "{binaries:?}");
    }
}

/// What is done to the database, keys that are set, the finding's code, the exit code.
type Planted = (&'static str, &'static [(&'static str, &'static str)], &'static str, i32);

const NO_CREATE: &[(&str, &str)] = &[("postgres.create", "false")];
const MENDED_BY_ADVICE: &[Planted] = &[
    ("DROP PUBLICATION outboxd", NO_CREATE, "OBX-2020", 78),
    ("SELECT", NO_CREATE, "OBX-2030", 73),
    ("ALTER PUBLICATION outboxd DROP TABLE outbox", &[], "OBX-2022", 78),
    ("ALTER PUBLICATION outboxd SET (publish = 'update')", &[], "OBX-2022", 78),
    ("DROP PUBLICATION outboxd; ALTER TABLE outbox SET UNLOGGED", &[], "OBX-2009", 78),
    ("DROP SCHEMA outboxd CASCADE", &[], "OBX-2007", 78),
    ("SELECT", &[("outbox.table", "public.\"Other\"")], "OBX-2008", 78),
    (
        "DROP TABLE outbox CASCADE; CREATE TABLE outbox (id int, payload jsonb, status text) \
            PARTITION BY HASH (id); CREATE TABLE outbox_0 PARTITION OF outbox \
            FOR VALUES WITH (modulus 1, remainder 0); DROP PUBLICATION outboxd; \
            CREATE PUBLICATION outboxd FOR TABLE outbox WITH (publish = 'insert')",
        &[],
        "OBX-2022",
        78,
    ),
    // The slot is made first: what was written without the publication is not in the stream.
    (
        "SELECT pg_create_logical_replication_slot(current_database(), 'pgoutput'); \
            DROP PUBLICATION outboxd",
        &[],
        "OBX-2021",
        73,
    ),
    (
        "SELECT pg_create_logical_replication_slot(current_database(), 'pgoutput'); \
            ALTER PUBLICATION outboxd DROP TABLE outbox",
        &[],
        "OBX-2021",
        73,
    ),
];

fn with(mut options: RelayOptions, keys: &[(&str, &str)]) -> RelayOptions {
    for (key, value) in keys {
        options = options.set(key, value);
    }
    options
}

#[tokio::test]
async fn what_doctor_says_mends_what_it_found() {
    for (plant, keys, code, exit) in MENDED_BY_ADVICE {
        let database = Database::new("advice").await;
        let options = with(RelayOptions::new(&database, &Kafka::shared()), keys);
        database.execute(plant).await;
        find(&options, *exit, code, "error");
        let (ended, said, _) = options.command_output(&["doctor"]);
        assert_eq!(ended, *exit, "{plant}");
        assert!(said.contains(&format!("error {code} ")) && said.contains("  fix:"), "{said}");
        follow_the_advice(&database, &options).await;
        database.clear().await;
    }
}

/// Another name or another server is what helps, or a decision.
const OTHERS: &[Planted] = &[
    ("CREATE VIEW seen AS SELECT * FROM outbox", &[("outbox.table", "seen")], "OBX-2009", 78),
    (
        "SELECT pg_create_logical_replication_slot(current_database(), 'test_decoding')",
        &[],
        "OBX-2032",
        78,
    ),
    ("SELECT pg_create_physical_replication_slot(current_database())", &[], "OBX-2032", 78),
    ("SELECT", &[("outbox.columns.topic", "nowhere")], "OBX-1002", 78),
    ("SELECT", &[("kafka.bootstrap_servers", "127.0.0.1:1")], "OBX-4001", 69),
    ("SELECT", &[("kafka.properties", r#"{"no.such": "1"}"#)], "OBX-4007", 78),
    ("SELECT", &[("postgres.url", "postgres://postgres@127.0.0.1:1/d")], "OBX-2001", 69),
];

#[tokio::test]
async fn what_only_a_person_can_decide_is_found() {
    for (plant, keys, code, exit) in OTHERS {
        let database = Database::new("others").await;
        let options = with(RelayOptions::new(&database, &Kafka::shared()), keys);
        database.execute(plant).await;
        find(&options, *exit, code, "error");
        database.clear().await;
    }
    let database = Database::new("others").await;
    let options = RelayOptions::new(&database, &Kafka::shared());
    // The server answers: what is wrong is who asks, or for what.
    let absent = options.clone().set("postgres.url", &format!("{}_absent", database.url));
    find(&absent, 77, "OBX-2002", "error");
    for more in ["SET (publish = 'insert, update')", "ADD TABLE other"] {
        let sql = format!(
            "CREATE TABLE IF NOT EXISTS other (id int); \
             ALTER PUBLICATION outboxd SET (publish = 'insert'); ALTER PUBLICATION outboxd {more}"
        );
        database.execute(&sql).await;
        let found = find(&options, 0, "OBX-2022", "warning");
        assert!(found["observed"].as_str().unwrap().contains("publishes more"), "{found}");
    }
    database.clear().await;
}

#[tokio::test]
async fn a_server_that_cannot_serve_a_relay_is_found() {
    let server = TempPostgres::start(&pg_bin(), &[("wal_level", "replica")]).unwrap();
    let database = Database::new_at(&server.url("postgres"), "server").await;
    let options = RelayOptions::new(&database, &Kafka::shared());
    let found = find(&options, 78, "OBX-2004", "error");
    assert_eq!((&found["observed"], &found["required"]), (&"replica".into(), &"logical".into()));
    let (code, _, said) = options.command_output(&["run"]);
    assert_eq!((code, said.contains("OBX-2004")), (78, true), "{said}");

    let server = TempPostgres::start(&pg_bin(), &[]).unwrap();
    let database = Database::new_at(&server.url("postgres"), "server").await;
    let options = RelayOptions::new(&database, &Kafka::shared());
    // A role with less than the migrations give.
    database
        .execute("ALTER ROLE outboxd NOREPLICATION; REVOKE SELECT ON outbox FROM outboxd")
        .await;
    let url = database.url.replace("postgres://postgres@", "postgres://outboxd@");
    let weak = options.clone().set("postgres.url", &url);
    let (code, ok, findings) = diagnose(&weak);
    assert_eq!((code, ok), (77, false));
    let errors = findings.iter().filter(|finding| finding["severity"] == "error");
    let fixes: Vec<_> = errors.map(|finding| finding["fix"].as_str().unwrap()).collect();
    let outbox = r#""public"."outbox""#;
    let grant = format!("GRANT SELECT ON {outbox} TO \"outboxd\";");
    assert_eq!(fixes, ["ALTER ROLE \"outboxd\" REPLICATION;", grant.as_str()]);
    follow_the_advice(&database, &weak).await;
    // Its commits would wait for itself.
    database.execute("ALTER SYSTEM SET synchronous_standby_names = '*'").await;
    database.execute("SELECT pg_reload_conf()").await;
    crate::support::wait::eventually("the setting", crate::support::wait::SOON, || async {
        diagnose(&options).2.iter().any(|finding| finding["code"] == "OBX-2006")
    })
    .await;
    find(&options, 78, "OBX-2006", "error");
}
