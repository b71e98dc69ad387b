//! `outboxd doctor` on PostgreSQL: each hazard is planted, found, and mended by what is said.

use std::process::{Child, Command, Stdio};

use outboxd::demo::{StopMode, TempPostgres};
use serde_json::Value;
use tempfile::TempDir;

use crate::doctor::{as_relay, diagnose, find, good_server};
use crate::support::database::Database;
use crate::support::relay::RelayOptions;
use crate::support::wait::{SOON, eventually, until};
use crate::support::{pg_bin, setting};

/// One hazard.
struct Hazard {
    /// What brings it about: statements, one a line; `{db}` is the database.
    plant: &'static str,
    keys: &'static [(&'static str, &'static str)],
    code: &'static str,
    /// `error` or `warning`.
    severity: &'static str,
    exit: i32,
    /// What is said of it.
    said: &'static str,
    /// What ends it, where the advice is no SQL.
    undo: Option<&'static str>,
}

const fn warns(plant: &'static str, code: &'static str, said: &'static str) -> Hazard {
    Hazard { plant, keys: &[], code, severity: "warning", exit: 0, said, undo: None }
}

const fn fails(plant: &'static str, code: &'static str, exit: i32, said: &'static str) -> Hazard {
    Hazard { severity: "error", exit, ..warns(plant, code, said) }
}

impl Hazard {
    const fn with(self, keys: &'static [(&'static str, &'static str)]) -> Self {
        Self { keys, ..self }
    }

    /// It ends by this.
    const fn ends(self, undo: &'static str) -> Self {
        Self { undo: Some(undo), ..self }
    }
}

/// It ends with the database.
const WITH_DATABASE: &str = "";
const OUR_SLOT: &str = "SELECT pg_create_logical_replication_slot('{db}', 'pgoutput')";
const MUCH_WAL: &str = "SELECT count(pg_logical_emit_message(false, 'x', repeat('x', 1000000))) \
                        FROM generate_series(1, 90)";

/// On PostgreSQL 18, which has every setting.
const OF_THE_SERVER: &[Hazard] = &[
    warns("ALTER SYSTEM SET max_slot_wal_keep_size = -1", "OBX-2036", "until the disk is full"),
    warns("ALTER SYSTEM SET max_slot_wal_keep_size = '512MB'", "OBX-2036", "loses its slot"),
    warns("ALTER SYSTEM SET idle_replication_slot_timeout = '1d'", "OBX-2036", "86400 s"),
    warns("ALTER SYSTEM SET wal_sender_timeout = 0", "OBX-2012", "no other can take over"),
    warns("ALTER SYSTEM SET wal_sender_timeout = '2s'", "OBX-2012", "the server ends the stream"),
    warns(
        "UPDATE pg_database SET encoding = 0 WHERE datname = current_database()",
        "OBX-2012",
        "SQL_ASCII",
    )
    .ends(WITH_DATABASE),
    warns(
        "SELECT pg_create_logical_replication_slot('{db}', 'pgoutput')\n\
         ALTER SYSTEM SET logical_decoding_work_mem = '64kB'\n\
         SET logical_decoding_work_mem = '64kB'\n\
         SELECT outboxd.emit('a', 'a', 'a', '{}') FROM generate_series(1, 5000)\n\
         SELECT count(*) FROM pg_logical_slot_get_binary_changes('{db}', NULL, NULL, \
            'proto_version', '1', 'publication_names', 'outboxd')\n\
         TRUNCATE outbox",
        "OBX-2012",
        "large transactions",
    ),
    // Others' slots, and those that a standby has.
    warns(
        "SELECT pg_create_physical_replication_slot('other_{db}', true)\n{much}",
        "OBX-2036",
        "is not read, and keeps",
    ),
    fails(
        "SELECT pg_create_physical_replication_slot('s' || n) FROM generate_series(1, 20) n",
        "OBX-2013",
        69,
        "20 of 20 slots",
    )
    .ends("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots"),
    warns(
        "SELECT pg_create_physical_replication_slot('s' || n) FROM generate_series(1, 19) n",
        "OBX-2013",
        "19 of 20 slots",
    )
    .ends("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots"),
    warns(
        "SELECT pg_create_logical_replication_slot('{db}', 'pgoutput', false, false, true)\n\
         SELECT pg_create_physical_replication_slot('standby')",
        "OBX-2012",
        "whose transactions are lost",
    )
    .ends("SELECT pg_drop_replication_slot('standby')"),
    warns(
        "SELECT pg_create_logical_replication_slot('{db}', 'pgoutput', false, false, true)\n\
         SELECT pg_create_physical_replication_slot('standby')\n\
         ALTER SYSTEM SET synchronized_standby_slots = 'standby'",
        "OBX-2012",
        "which no standby reads",
    )
    .ends(
        "ALTER SYSTEM RESET synchronized_standby_slots\nSELECT pg_reload_conf()\n\
         SELECT pg_drop_replication_slot('standby')",
    ),
    // Something keeps the slot from being created.
    warns(
        "BEGIN; SELECT pg_current_xact_id(); PREPARE TRANSACTION 'forgotten'",
        "OBX-2033",
        "prepared transaction 'forgotten'",
    ),
    // What a server says that the tests have none of, or that takes long to come about.
    warns(
        "ALTER FUNCTION pg_catalog.age(xid) RENAME TO real_age\n\
         CREATE FUNCTION pg_catalog.age(xid) RETURNS int LANGUAGE sql AS 'SELECT 250000000'\n{slot}",
        "OBX-2036",
        "from 250000000 transactions ago",
    )
    .ends(WITH_DATABASE),
    warns(
        "ALTER FUNCTION pg_catalog.clock_timestamp() RENAME TO real_clock\n\
         CREATE FUNCTION pg_catalog.clock_timestamp() RETURNS timestamptz LANGUAGE sql \
         AS 'SELECT now() - interval ''1 minute'''",
        "OBX-2016",
        "s behind the clock here",
    )
    .ends(WITH_DATABASE),
];

/// Has the server say that a setting is what it is not.
fn pretend(name: &str, value: &str) -> String {
    format!(
        "ALTER FUNCTION pg_catalog.current_setting(text) RENAME TO real_setting\n\
         ALTER FUNCTION pg_catalog.current_setting(text, boolean) RENAME TO real_setting\n\
         CREATE FUNCTION pg_catalog.current_setting(text) RETURNS text LANGUAGE sql \
         AS 'SELECT CASE $1 WHEN ''{name}'' THEN ''{value}'' ELSE real_setting($1) END'\n\
         CREATE FUNCTION pg_catalog.current_setting(text, boolean) RETURNS text LANGUAGE sql \
         AS 'SELECT CASE $1 WHEN ''{name}'' THEN ''{value}'' ELSE real_setting($1, $2) END'"
    )
}

async fn run(database: &Database, statements: &str) {
    let much = statements.replace("{much}", MUCH_WAL).replace("{slot}", OUR_SLOT);
    for statement in much.lines().filter(|line| !line.trim().is_empty()) {
        database.execute(&statement.replace("{db}", &database.name)).await;
    }
    // What was set counts for who connects from now on.
    database.execute("SELECT pg_reload_conf()").await;
}

/// Does what a finding says, as a person would in psql.
async fn follow(database: &Database, finding: &Value) {
    let fix = finding["fix"].as_str().unwrap();
    let (sql, _) = fix.split_once(" -- ").unwrap_or((fix, ""));
    for statement in sql.split_inclusive("; ") {
        database.execute(statement).await;
    }
}

/// Plants a hazard, finds it, mends it by what is said, and finds nothing any more.
async fn is_found_and_mended(server: &TempPostgres, hazard: &Hazard) {
    let database = Database::new_at(&server.url("postgres"), "hazard").await;
    let mut options = as_relay(&database);
    for (key, value) in hazard.keys {
        options = options.set(key, value);
    }
    run(&database, hazard.plant).await;
    let has = |finding: &Value| {
        finding["code"] == hazard.code
            && finding["observed"].as_str().unwrap().contains(hazard.said)
    };
    // Settings and statistics take a moment.
    let (exit, ok, findings) = until(hazard.said, SOON, || async {
        Some(diagnose(&options)).filter(|(_, _, findings)| findings.iter().any(has))
    })
    .await;
    assert_eq!((exit, ok), (hazard.exit, hazard.severity == "warning"), "{findings:?}");
    let found = findings.iter().find(|finding| has(finding)).unwrap();
    assert_eq!(found["severity"], hazard.severity, "{found}");
    assert_eq!(findings.len(), 1, "{findings:?}");
    match hazard.undo {
        None => follow(&database, found).await,
        Some(undo) => run(&database, undo).await,
    }
    if hazard.undo != Some(WITH_DATABASE) {
        eventually(format!("none of {}", hazard.said), SOON, || async {
            diagnose(&options) == (0, true, Vec::new())
        })
        .await;
    }
    database.execute("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots").await;
}

fn newest() -> TempPostgres {
    good_server(setting("PG_BIN_18").as_ref())
}

#[tokio::test]
async fn each_hazard_of_the_server_is_found() {
    let server = newest();
    for hazard in OF_THE_SERVER {
        is_found_and_mended(&server, hazard).await;
    }
    for (name, value, code, exit, severity, said) in [
        ("output_plugin_libraries", "wal2json", "OBX-2012", 78, "error", "may not be loaded"),
        ("max_wal_senders", "0", "OBX-2013", 69, "error", "0 of 0 walsenders"),
        ("max_wal_senders", "1", "OBX-2013", 0, "warning", "0 of 1 walsenders"),
        ("wal_level", "replica", "OBX-2004", 78, "error", "replica"),
    ] {
        let database = Database::new_at(&server.url("postgres"), "says").await;
        run(&database, &pretend(name, value)).await;
        let found = find(&as_relay(&database), exit, code, severity);
        assert!(found["observed"].as_str().unwrap().contains(said), "{found}");
    }
    // From 19 on the first slot raises the level, and a list can have more than one plugin.
    for (name, value) in
        [("effective_wal_level", "replica"), ("output_plugin_libraries", "wal2json, pgoutput")]
    {
        let database = Database::new_at(&server.url("postgres"), "says").await;
        run(&database, &pretend(name, value)).await;
        assert_eq!(diagnose(&as_relay(&database)), (0, true, Vec::new()), "{name}");
    }
}

/// One that streams WAL, as a backup does.
fn receive_wal(server: &TempPostgres) -> (Child, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(pg_bin().join("pg_receivewal"));
    command.args(["--no-loop", "-d", &server.url("postgres"), "-D"]).arg(folder.path());
    (command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap(), folder)
}

#[tokio::test]
async fn walsenders_that_run_out_are_found() {
    let settings = [("max_wal_senders", "2"), ("max_slot_wal_keep_size", "2GB")];
    let mut server = TempPostgres::start(&pg_bin(), &settings).unwrap();
    let mut database = Database::new_at(&server.url("postgres"), "senders").await;
    let options = as_relay(&database);
    assert_eq!(diagnose(&options), (0, true, Vec::new()));
    let mut receivers = Vec::new();
    for (exit, severity, said) in
        [(0, "warning", "1 of 2 walsenders run"), (69, "error", "2 of 2 walsenders run")]
    {
        receivers.push(receive_wal(&server));
        let count = i64::try_from(receivers.len()).unwrap();
        eventually("it to stream", SOON, || async {
            database.count("SELECT count(*) FROM pg_stat_replication").await == count
        })
        .await;
        let found = find(&options, exit, "OBX-2013", severity);
        assert_eq!(found["observed"], said, "{found}");
    }
    follow(&database, &find(&options, 69, "OBX-2013", "error")).await;
    server.stop(StopMode::Fast);
    server.start_again().unwrap();
    database.reconnect().await;
    for (mut receiver, _folder) in receivers {
        receiver.wait().unwrap();
    }
    assert_eq!(diagnose(&options), (0, true, Vec::new()));
}

#[tokio::test]
async fn what_others_do_to_the_slot_is_found() {
    let server = newest();
    let database = Database::new_at(&server.url("postgres"), "others").await;
    let options = as_relay(&database);
    run(&database, OUR_SLOT).await;
    let other = options.clone().set("relay.id", "other").set("postgres.url", &database.url);
    let other = other.start_ready().await;
    let found = find(&options, 0, "OBX-2034", "warning");
    assert!(found["observed"].as_str().unwrap().contains(r#"role "postgres""#), "{found}");
    assert_eq!(other.stop().await, 0);
    eventually("the slot to be free", SOON, || async { diagnose(&options).2.is_empty() }).await;

    // A transaction stays open while much is written and confirmed.
    let forgetful = database.connect().await;
    let begin = "BEGIN; SELECT outboxd.emit('a', 'a', 'a', '{}')";
    forgetful.batch_execute(begin).await.unwrap();
    let advance = "SELECT pg_replication_slot_advance('{db}', pg_current_wal_lsn())";
    run(&database, &format!("{MUCH_WAL}\n{advance}")).await;
    eventually("it to be no brief one", SOON, || async { !diagnose(&options).2.is_empty() }).await;
    let found = find(&options, 0, "OBX-2036", "warning");
    let observed = found["observed"].as_str().unwrap();
    assert!(observed.contains("transactions are open: session"), "{found}");
    follow(&database, &found).await;
    run(&database, advance).await;
    eventually("the WAL to be let go", SOON, || async {
        run(&database, &format!("CHECKPOINT\n{advance}")).await;
        diagnose(&options).2.is_empty()
    })
    .await;

    // Half of what it may keep, with nobody who reads it.
    run(&database, "ALTER SYSTEM SET max_slot_wal_keep_size = '100MB'").await;
    run(&database, MUCH_WAL).await;
    let near = |finding: &Value| {
        finding["observed"].as_str().unwrap().contains("that it may, and is not read")
    };
    eventually("it to be near", SOON, || async { diagnose(&options).2.iter().any(near) }).await;
    assert_eq!(find(&options, 0, "OBX-2036", "warning")["severity"], "warning");
}

const DELETES: &[(&str, &str)] = &[("outbox.status.mode", "delete")];
const GRANT_DELETE: &str = "GRANT DELETE ON outbox TO outboxd";

const OF_THE_TABLE: &[Hazard] = &[
    warns("ALTER TABLE outbox DROP CONSTRAINT outbox_payload_size", "OBX-2014", "no condition limits"),
    warns("SELECT", "OBX-2014", "outbox.max_row_bytes is 65536")
        .with(&[("outbox.max_row_bytes", "64KiB")])
        .ends("ALTER TABLE outbox DROP CONSTRAINT outbox_payload_size, \
               ADD CHECK (octet_length(payload::text) < 60000)"),
    warns("CREATE INDEX due ON outbox (created_at) WHERE status <> 'SENT'", "OBX-2014", "has status"),
    warns("CREATE INDEX sent ON outbox (coalesce(sent_at, created_at))", "OBX-2014", "has sent_at"),
    warns("ALTER TABLE outbox ADD CONSTRAINT odd UNIQUE (id, attempts)", "OBX-2014", "has attempts"),
    warns(
        "CREATE FUNCTION noted() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'\n\
         CREATE TRIGGER noted BEFORE UPDATE OF status ON outbox FOR EACH ROW EXECUTE FUNCTION noted()\n\
         CREATE TRIGGER other AFTER INSERT OR UPDATE OF topic ON outbox \
         FOR EACH ROW EXECUTE FUNCTION noted()",
        "OBX-2014",
        "\"noted\" fires on UPDATE",
    ),
    warns(
        "GRANT DELETE ON outbox TO outboxd\n\
         CREATE FUNCTION noted() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN OLD; END'\n\
         CREATE TRIGGER noted BEFORE DELETE ON outbox FOR EACH ROW EXECUTE FUNCTION noted()",
        "OBX-2014",
        "\"noted\" fires on DELETE",
    )
    .with(DELETES),
    warns("ALTER TABLE outbox RESET (fillfactor)", "OBX-2014", "are filled up"),
    warns("ALTER TABLE outbox SET (autovacuum_enabled = off)", "OBX-2014", "autovacuum is off"),
    fails("ALTER TABLE outbox ENABLE ROW LEVEL SECURITY", "OBX-2003", 77, "row security"),
    // The right that the one before it got is not needed any more.
    warns("SELECT", "OBX-2015", "has BYPASSRLS"),
    warns("ALTER ROLE outboxd CREATEDB CREATEROLE", "OBX-2015", "has CREATEDB, CREATEROLE"),
    warns("GRANT pg_write_server_files TO outboxd", "OBX-2015", "a member of pg_write_server_files"),
    warns(GRANT_DELETE, "OBX-2015", "has DELETE"),
    warns("GRANT INSERT, UPDATE, TRUNCATE ON outbox TO outboxd", "OBX-2015", "INSERT, TRUNCATE, UPDATE"),
    warns("GRANT UPDATE (payload) ON outbox TO outboxd", "OBX-2015", "UPDATE (payload)"),
    warns("ALTER TABLE outbox OWNER TO outboxd", "OBX-2015", "owns")
        .ends("ALTER TABLE outbox OWNER TO postgres\nGRANT SELECT ON outbox TO outboxd\n\
               GRANT UPDATE (status, sent_at, attempts, next_attempt_at, last_error) ON outbox TO outboxd\n\
               REVOKE INSERT, DELETE, TRUNCATE, TRIGGER ON outbox FROM outboxd"),
];

#[tokio::test]
async fn each_hazard_of_the_table_and_the_role_is_found() {
    let server = newest();
    for hazard in OF_THE_TABLE {
        is_found_and_mended(&server, hazard).await;
    }
    // Rights that a mode needs are not too many.
    let database = Database::new_at(&server.url("postgres"), "deletes").await;
    database.execute(GRANT_DELETE).await;
    let options = as_relay(&database);
    for key in [("outbox.status.mode", "delete"), ("cleanup.after", "1d")] {
        assert_eq!(diagnose(&options.clone().set(key.0, key.1)).2, Vec::<Value>::new(), "{key:?}");
    }
    let as_superuser: RelayOptions = options.set("postgres.url", &database.url);
    let found = find(&as_superuser, 0, "OBX-2015", "warning");
    assert!(found["observed"].as_str().unwrap().contains("is a superuser"), "{found}");
}

#[tokio::test]
async fn dead_rows_and_partitions_are_found() {
    let server = newest();
    let database = Database::new_at(&server.url("postgres"), "rows").await;
    let options = as_relay(&database);
    run(
        &database,
        "ALTER SYSTEM SET autovacuum = off\n\
         SELECT outboxd.emit('a', 'a', 'a', '{}') FROM generate_series(1, 11000)\n\
         UPDATE outbox SET payload = '{\"more\": \"of it\"}'\n\
         DELETE FROM outbox WHERE seq > 1000",
    )
    .await;
    let text = |finding: &Value| finding["observed"].as_str().unwrap().to_owned();
    let dead = |finding: &Value| text(finding).contains("dead rows and 1000 live ones");
    eventually("dead rows", SOON, || async { diagnose(&options).2.iter().any(dead) }).await;
    let (exit, _, findings) = diagnose(&options);
    assert_eq!(exit, 69, "the topic of these rows is not there: {findings:?}");
    assert!(findings.iter().any(|finding| text(finding).contains("autovacuum is off")));
    follow(&database, findings.iter().find(|finding| dead(finding)).unwrap()).await;
    run(&database, "ALTER SYSTEM RESET autovacuum\nTRUNCATE outbox").await;
    eventually("none", SOON, || async { diagnose(&options).2.is_empty() }).await;

    // A relay of one partition, with an index and a trigger that only that one has.
    run(
        &database,
        "DROP TABLE outbox CASCADE\n\
         CREATE TABLE outbox (id int PRIMARY KEY, topic text, payload jsonb, status text, \
            CHECK (octet_length(payload::text) < 1000)) PARTITION BY HASH (id)\n\
         CREATE TABLE outbox_0 PARTITION OF outbox FOR VALUES WITH (modulus 1, remainder 0)\n\
         CREATE INDEX odd ON outbox_0 (status)\n\
         CREATE PUBLICATION one FOR TABLE outbox_0 WITH (publish = 'insert')\n\
         GRANT SELECT, UPDATE (status) ON outbox, outbox_0 TO outboxd",
    )
    .await;
    let options = options.set("outbox.columns.aggregate_id", "id");
    for (table, expected) in [
        ("outbox_0", ["index public.odd", "are filled up", "is a partition of public.outbox"]),
        ("outbox", ["index public.odd", "are filled up", ""]),
    ] {
        let options = options.clone().set("outbox.table", table).set("postgres.publication", "one");
        let said: Vec<_> = diagnose(&options).2.iter().map(text).collect();
        for expected in expected {
            assert!(said.iter().any(|said| said.contains(expected)), "{expected}: {said:?}");
        }
    }
}
