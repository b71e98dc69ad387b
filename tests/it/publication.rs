//! Publication and slot: what is missing, lost, changed or of another kind.

use crate::support::database::Database;
use crate::support::records::Kafka;
use crate::support::relay::RelayOptions;
use crate::support::unique;
use crate::support::wait::{SOON, eventually};

struct Set {
    database: Database,
    kafka: Kafka,
    topic: String,
}

async fn set(name: &str) -> Set {
    let kafka = Kafka::shared();
    let topic = unique(name);
    kafka.create_topic(&topic, 1, &[]).await;
    Set { database: Database::new(name).await, kafka, topic }
}

impl Set {
    fn options(&self) -> RelayOptions {
        RelayOptions::new(&self.database, &self.kafka)
    }

    async fn emit(&self, n: i64) {
        self.database.emit("tested", "k", &self.topic, &format!("{{\"n\": {n}}}")).await;
    }

    async fn arrived(&self, count: usize) -> Vec<i64> {
        let records = self.kafka.wait_for(&self.topic, count).await;
        records.iter().map(|record| record.json()["payload"]["n"].as_i64().unwrap()).collect()
    }

    async fn clear(self) {
        self.database.clear().await;
    }
}

/// Publication and slot are made in this order, where they are missing.
#[tokio::test]
async fn what_is_missing_is_created() {
    let set = set("creates").await;
    set.database.execute("DROP PUBLICATION outboxd").await;
    let relay = set.options().start_ready().await;
    assert!(relay.has_logged("created the publication"));
    assert!(relay.has_logged("created the slot"));
    let inserts_only = "SELECT count(*) FROM pg_publication WHERE pubname = 'outboxd' \
                        AND pubinsert AND NOT (pubupdate OR pubdelete OR pubtruncate)";
    assert_eq!(set.database.count(inserts_only).await, 1);
    set.emit(1).await;
    assert_eq!(set.arrived(1).await, [1]);
    assert_eq!(relay.stop().await, 0);
    set.clear().await;
}

#[tokio::test]
async fn nothing_is_created_where_that_is_not_allowed() {
    let set = set("no_create").await;
    let options = set.options().set("postgres.create", "false");
    let (code, _, said) = options.command_output(&["run"]);
    assert_eq!(code, 73, "{said}");
    assert!(said.contains("OBX-2030") && said.contains("outboxd slot create"), "{said}");
    set.database.execute("DROP PUBLICATION outboxd").await;
    let (code, _, said) = options.command_output(&["run"]);
    assert_eq!(code, 78, "{said}");
    assert!(said.contains("CREATE PUBLICATION \"outboxd\" FOR TABLE"), "{said}");
    let database = set.database;
    assert_eq!(database.count("SELECT count(*) FROM pg_publication").await, 0);
    let slots =
        format!("SELECT count(*) FROM pg_replication_slots WHERE slot_name = '{}'", database.name);
    assert_eq!(database.count(&slots).await, 0);
}

/// The publication is dropped, events are written, and `create = true` could make it again: the
/// events in between would be lost without a word. It is never made while the slot exists.
#[tokio::test]
async fn s13_a_lost_publication_is_a_halt_and_never_made_again() {
    let set = set("s13").await;
    let mut relay = set.options().start_ready().await;
    set.emit(1).await;
    set.arrived(1).await;
    set.database.execute("DROP PUBLICATION outboxd").await;
    assert_eq!(relay.wait().await.code(), Some(73));
    assert!(relay.has_logged("OBX-2021"), "{}", relay.logged().join("\n"));
    set.emit(2).await;
    set.emit(3).await;
    let (code, _, said) = set.options().command_output(&["run"]);
    assert_eq!((code, said.contains("OBX-2021")), (73, true), "{said}");
    assert_eq!(set.database.count("SELECT count(*) FROM pg_publication").await, 0);

    // The remedy that it names: nothing is lost.
    let publication = std::fs::read_to_string(format!(
        "{}/migrations/0003_publication.sql",
        env!("CARGO_MANIFEST_DIR")
    ));
    set.database.execute(&publication.unwrap()).await;
    let (code, _, said) = set.options().command_output(&["run"]);
    assert_eq!((code, said.contains("OBX-2021")), (73, true), "made again is not the same: {said}");
    let (code, said, _) = set.options().command_output(&["slot", "drop", "--yes"]);
    assert_eq!(code, 0, "{said}");
    let relay = set.options().start_ready().await;
    set.emit(4).await;
    assert_eq!(set.arrived(4).await, [1, 2, 3, 4]);
    assert_eq!(relay.stop().await, 0);
    set.clear().await;
}

/// Dropped from the publication and added again, between two looks: by name nothing has changed.
#[tokio::test]
async fn s13_a_membership_that_was_made_anew_is_noticed() {
    let set = set("s13_anew").await;
    let mut relay = set.options().start_ready().await;
    set.emit(1).await;
    set.arrived(1).await;
    let again =
        "ALTER PUBLICATION outboxd DROP TABLE outbox; ALTER PUBLICATION outboxd ADD TABLE outbox";
    set.database.execute(again).await;
    assert_eq!(relay.wait().await.code(), Some(73));
    assert!(relay.has_logged("OBX-2021"));
    // While it was down, too.
    let (code, _, said) = set.options().command_output(&["run"]);
    assert_eq!((code, said.contains("since the last run")), (73, true), "{said}");
    set.clear().await;
}

/// The same while a sweep holds up the stream: the slot is there, and nobody reads it yet.
#[tokio::test]
async fn s13_a_change_during_the_sweep_is_noticed() {
    let set = set("s13_sweep").await;
    let missing = unique("s13_sweep_missing");
    set.database.emit("tested", "k", &missing, "{}").await;
    let mut relay = set.options().start();
    relay.wait_until_logged("OBX-4002").await;
    set.database.execute("ALTER PUBLICATION outboxd DROP TABLE outbox").await;
    set.emit(1).await;
    set.database.execute("ALTER PUBLICATION outboxd ADD TABLE outbox").await;
    set.kafka.create_topic(&missing, 1, &[]).await;
    assert_eq!(relay.wait().await.code(), Some(73), "the row in between is not in the stream");
    assert!(relay.has_logged("OBX-2021"));
    let (code, _, _) = set.options().command_output(&["slot", "drop", "--yes"]);
    assert_eq!(code, 0);
    let relay = set.options().start_ready().await;
    assert_eq!(set.arrived(1).await, [1]);
    assert_eq!(relay.stop().await, 0);
    set.clear().await;
}

/// A publication that leaves out rows would lose them without a word.
#[tokio::test]
async fn a_publication_with_a_row_filter_is_refused() {
    let set = set("filter").await;
    let filter = "DROP PUBLICATION outboxd; CREATE PUBLICATION outboxd FOR TABLE outbox \
                  WHERE (event_type <> 'Secret') WITH (publish = 'insert')";
    set.database.execute(filter).await;
    let mut relay = set.options().start();
    assert_eq!(relay.wait().await.code(), Some(78));
    assert!(relay.has_logged("OBX-2022") && relay.has_logged("row filter"));
    let (code, said, _) = set.options().command_output(&["doctor", "-o", "json"]);
    assert_eq!(code, 78);
    let report: serde_json::Value = serde_json::from_str(&said).unwrap();
    set.database.execute(report["findings"][0]["fix"].as_str().unwrap()).await;
    let relay = set.options().start_ready().await;
    set.emit(1).await;
    assert_eq!(set.arrived(1).await, [1]);
    assert_eq!(relay.stop().await, 0);
    set.clear().await;
}

#[tokio::test]
async fn a_slot_that_is_gone_is_a_halt_with_a_way_back() {
    let set = set("slot_gone").await;
    let relay = set.options().start_ready().await;
    set.emit(1).await;
    set.arrived(1).await;
    assert_eq!(relay.stop().await, 0);
    let drop = format!("SELECT pg_drop_replication_slot('{}')", set.database.name);
    set.database.execute(&drop).await;
    set.emit(2).await;
    let (code, _, said) = set.options().command_output(&["run"]);
    assert_eq!((code, said.contains("OBX-2030")), (73, true), "{said}");
    let (code, shown, _) = set.options().command_output(&["status", "-o", "json"]);
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(code, 0);
    assert_eq!(shown["state"], "halted");
    assert_eq!(shown["last_error"]["code"], "OBX-2030");
    assert!(shown["last_error"]["remedy"].as_str().unwrap().contains("slot recover"));

    let (code, _, _) = set.options().command_output(&["slot", "drop", "--yes"]);
    assert_eq!(code, 0);
    let relay = set.options().start_ready().await;
    assert_eq!(set.arrived(2).await, [1, 2]);
    assert_eq!(relay.stop().await, 0);
    set.clear().await;
}

#[tokio::test]
async fn a_slot_of_another_kind_is_refused() {
    let set = set("other_slot").await;
    let slot = set.database.name.clone();
    let create = |sql: String| format!("SELECT {sql}");
    for (made, said) in [
        (format!("pg_create_logical_replication_slot('{slot}', 'test_decoding')"), "test_decoding"),
        (format!("pg_create_physical_replication_slot('{slot}')"), "physical"),
        (
            format!("pg_create_logical_replication_slot('{slot}', 'pgoutput', false, true)"),
            "two_phase",
        ),
    ] {
        set.database.execute(&create(made)).await;
        let (code, _, complaint) = set.options().command_output(&["run"]);
        assert_eq!((code, complaint.contains("OBX-2032")), (78, true), "{complaint}");
        assert!(complaint.contains(said), "{complaint}");
        set.database.execute(&create(format!("pg_drop_replication_slot('{slot}')"))).await;
    }
    let other = Database::new("other_slot_db").await;
    other
        .execute(&create(format!("pg_create_logical_replication_slot('{slot}', 'pgoutput')")))
        .await;
    let (code, _, complaint) = set.options().command_output(&["run"]);
    assert_eq!((code, complaint.contains("belongs to database")), (78, true), "{complaint}");
    other.execute(&create(format!("pg_drop_replication_slot('{slot}')"))).await;
}

/// A publication that another tool made publishes more: it is ignored, with a warning.
#[tokio::test]
async fn a_publication_that_publishes_more_is_taken_with_a_warning() {
    let set = set("more").await;
    set.database
        .execute(
            "DROP PUBLICATION outboxd; CREATE TABLE other (id int PRIMARY KEY, name text); \
             CREATE PUBLICATION outboxd FOR TABLE outbox, other",
        )
        .await;
    let relay = set.options().start_ready().await;
    assert!(relay.has_logged("publishes more than inserts into the outbox"));
    set.database
        .execute("INSERT INTO other VALUES (1, 'a'); UPDATE other SET name = 'b'; TRUNCATE other")
        .await;
    set.emit(1).await;
    set.database.execute("DELETE FROM outbox WHERE status = 'SENT'").await;
    set.emit(2).await;
    assert_eq!(set.arrived(2).await, [1, 2]);
    eventually("SENT", SOON, || async { set.database.statuses().await.get("SENT") >= Some(&1) })
        .await;
    set.database.wait_until_confirmed(&set.database.name).await;
    assert_eq!(relay.stop().await, 0);
    set.clear().await;
}

#[tokio::test]
async fn a_publication_without_inserts_or_without_the_table_is_refused() {
    let set = set("unsuitable").await;
    set.database.execute("ALTER PUBLICATION outboxd SET (publish = 'update')").await;
    let (code, _, said) = set.options().command_output(&["run"]);
    assert_eq!((code, said.contains("SET (publish = 'insert')")), (78, true), "{said}");
    set.database
        .execute(
            "DROP PUBLICATION outboxd; CREATE TABLE other (id int); \
             CREATE PUBLICATION outboxd FOR TABLE other WITH (publish = 'insert')",
        )
        .await;
    let (code, _, said) = set.options().command_output(&["run"]);
    assert_eq!((code, said.contains("ADD TABLE \"public\".\"outbox\"")), (78, true), "{said}");
}

/// A position that belongs to another server is not used on this one.
#[tokio::test]
async fn a_position_of_another_server_or_time_line_is_a_halt() {
    let set = set("identity").await;
    let relay = set.options().start_ready().await;
    set.emit(1).await;
    set.arrived(1).await;
    assert_eq!(relay.stop().await, 0);
    for change in ["timeline = timeline + 1", "timeline = timeline - 1, system_id = '1'"] {
        set.database.execute(&format!("UPDATE outboxd.relay SET {change}")).await;
        let (code, _, said) = set.options().command_output(&["run"]);
        assert_eq!((code, said.contains("OBX-2040")), (73, true), "{said}");
    }
    set.clear().await;
}
