//! Outbox tables that are partitioned by time: as they are published, and as they are cleaned up.

use std::time::Duration;

use crate::metrics::becomes;
use crate::support::database::Database;
use crate::support::records::Kafka;
use crate::support::relay::RelayOptions;
use crate::support::wait::{LATER, SOON, eventually, stays};
use crate::support::{setting, unique};

/// Our columns, by the day: four days ago, yesterday, today, and whatever comes.
const TABLE: &str = "
    CREATE TABLE outbox (
        id uuid NOT NULL DEFAULT gen_random_uuid(), seq bigint NOT NULL DEFAULT 0,
        aggregate_type text NOT NULL DEFAULT 'tested', aggregate_id text NOT NULL,
        event_type text NOT NULL DEFAULT 'Tested', payload jsonb NOT NULL DEFAULT '{}', topic text,
        occurred_at timestamptz NOT NULL DEFAULT now(), scheduled_at timestamptz,
        status text NOT NULL DEFAULT 'PENDING', attempts int NOT NULL DEFAULT 0, max_attempts int,
        next_attempt_at timestamptz, last_error text, sent_at timestamptz,
        created_at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (id, created_at)
    ) PARTITION BY RANGE (created_at);
    CREATE SEQUENCE outbox_seq; ALTER TABLE outbox ALTER seq SET DEFAULT nextval('outbox_seq');
    DO $$ DECLARE today timestamptz := date_trunc('day', now()); BEGIN
        EXECUTE format('CREATE TABLE past PARTITION OF outbox FOR VALUES FROM (%L) TO (%L)',
            today - interval '5 days', today - interval '3 days');
        EXECUTE format('CREATE TABLE lately PARTITION OF outbox FOR VALUES FROM (%L) TO (%L)',
            today - interval '1 day', today);
        EXECUTE format('CREATE TABLE now PARTITION OF outbox FOR VALUES FROM (%L) TO (%L)',
            today, today + interval '2 days');
    END $$;
    CREATE TABLE others PARTITION OF outbox DEFAULT";

struct Set {
    database: Database,
    kafka: Kafka,
    topic: String,
}

impl Set {
    async fn new(name: &str) -> Self {
        let database = Database::empty_at(&setting("DATABASE_URL"), name).await;
        let (kafka, topic) = (Kafka::shared(), unique(name));
        kafka.create_topic(&topic, 1, &[]).await;
        database.execute(TABLE).await;
        let set = Self { database, kafka, topic };
        // Only the schema: publication and slot are the relay's to make.
        let (code, said, complaint) = set.options().command_output(&["migrate"]);
        assert_eq!(code, 0, "{said}{complaint}");
        set.database.execute("DROP PUBLICATION outboxd").await;
        set
    }

    fn options(&self) -> RelayOptions {
        RelayOptions::new(&self.database, &self.kafka)
    }

    /// A relay that cleans up what was sent two days ago.
    fn cleaning(&self) -> RelayOptions {
        self.options().set("cleanup.after", "2d").set("cleanup.interval", "200ms")
    }

    /// Writes a row of so many days ago, with more columns.
    async fn insert(&self, key: &str, days: i32, columns: &str, values: &str) {
        let sql = format!(
            "INSERT INTO outbox (aggregate_id, topic, created_at{columns}) \
             VALUES ('{key}', '{}', now() - interval '{days} days'{values})",
            self.topic
        );
        self.database.execute(&sql).await;
    }

    async fn insert_sent(&self, key: &str, days: i32) {
        let sent = format!(", 'SENT', now() - interval '{days} days'");
        self.insert(key, days, ", status, sent_at", &sent).await;
    }

    async fn count(&self, condition: &str) -> i64 {
        self.database.count(&format!("SELECT count(*) FROM outbox WHERE {condition}")).await
    }

    async fn wait_for(&self, count: i64, condition: &str) {
        let what = format!("{count} with {condition}");
        eventually(what, SOON, || async { self.count(condition).await == count }).await;
    }

    async fn has(&self, partition: &str) -> bool {
        let sql = format!("SELECT count(*) FROM pg_class WHERE relname = '{partition}'");
        self.database.count(&sql).await == 1
    }

    async fn keys(&self) -> Vec<String> {
        let records = self.kafka.read(&[&self.topic]);
        records.iter().map(|record| record.key().to_owned()).collect()
    }

    async fn clear(self) {
        self.database.clear().await;
    }
}

/// Old rows are swept from every partition, new ones streamed; a partition comes, one goes.
#[tokio::test]
async fn rows_of_every_partition_are_published_and_partitions_come_and_go() {
    let set = Set::new("partitioned").await;
    for (key, days) in [("past", 4), ("lately", 1), ("now", 0), ("others", 100)] {
        set.insert(key, days, "", "").await;
    }
    let options = set.options();
    let relay = options.start_ready().await;
    let via_root =
        "SELECT count(*) FROM pg_publication WHERE pubviaroot AND pubinsert AND NOT pubupdate";
    assert_eq!(set.database.count(via_root).await, 1);
    set.wait_for(4, "status = 'SENT' AND sent_at IS NOT NULL").await;
    assert_eq!(set.keys().await, ["past", "lately", "now", "others"]);

    // The columns of the new one are in another order.
    let attach = "CREATE TABLE ahead (created_at timestamptz NOT NULL DEFAULT now(), payload jsonb NOT NULL); \
        ALTER TABLE ahead ADD topic text, ADD aggregate_id text NOT NULL, \
            ADD id uuid NOT NULL DEFAULT gen_random_uuid(), ADD seq bigint NOT NULL DEFAULT 0, \
            ADD aggregate_type text NOT NULL DEFAULT 'tested', \
            ADD event_type text NOT NULL DEFAULT 'Tested', \
            ADD occurred_at timestamptz NOT NULL DEFAULT now(), ADD scheduled_at timestamptz, \
            ADD status text NOT NULL DEFAULT 'PENDING', ADD attempts int NOT NULL DEFAULT 0, \
            ADD max_attempts int, ADD next_attempt_at timestamptz, ADD last_error text, \
            ADD sent_at timestamptz; \
        DO $$ BEGIN EXECUTE format('ALTER TABLE outbox ATTACH PARTITION ahead FOR VALUES FROM (%L) TO (%L)', \
            date_trunc('day', now()) + interval '5 days', date_trunc('day', now()) + interval '9 days'); END $$";
    set.database.execute(attach).await;
    set.insert("ahead", -6, "", "").await;
    set.insert("now", 0, "", "").await;
    set.wait_for(6, "status = 'SENT'").await;
    set.database.execute("ALTER TABLE outbox DETACH PARTITION lately; DROP TABLE past").await;
    set.insert("ahead", -7, "", "").await;
    set.wait_for(5, "status = 'SENT'").await;
    // A publication is compared every five seconds, and at each start.
    stays("the session", Duration::from_secs(6), || async {
        !relay.has_logged("OBX-2021") && relay.state().await == "streaming"
    })
    .await;
    assert_eq!(relay.stop().await, 0);
    let relay = options.start_ready().await;
    set.insert("now", 0, "", "").await;
    set.wait_for(6, "status = 'SENT'").await;
    assert_eq!(set.keys().await.len(), 8, "each once");
    assert!(!relay.has_logged("publishes more"), "partitions are no other tables");
    assert_eq!(relay.stop().await, 0);
    set.clear().await;
}

/// Failures, refused statuses and due times: all of it finds its row, in whatever partition.
#[tokio::test]
async fn statuses_find_their_rows_in_every_partition() {
    let set = Set::new("partition_rows").await;
    let narrow = unique("partition_narrow");
    set.kafka.create_topic(&narrow, 1, &[("max.message.bytes", "1000")]).await;
    let options = set.options().set("retry.max_attempts", "2").set("dead_letter.topic", "");
    let relay = options.set("retry.initial_backoff", "100ms").start_ready().await;
    for days in [0, 1, 4, 100] {
        set.insert("due", days, ", scheduled_at", ", now() + interval '2 s'").await;
    }
    for days in [0, 1, 4, 100] {
        let sql = format!(
            "INSERT INTO outbox (aggregate_id, topic, payload, created_at) VALUES ('refused', \
             '{narrow}', jsonb_build_object('text', repeat('x', 5000)), now() - interval '{days} days')"
        );
        set.database.execute(&sql).await;
    }
    let given_up = "status = 'FAILED' AND attempts = 2 AND last_error IS NOT NULL";
    set.wait_for(4, given_up).await;

    set.wait_for(4, "status = 'SENT'").await;

    // A row that refuses its status gets it later.
    let locker = set.database.connect().await;
    let refuse = "CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
            IF pg_try_advisory_xact_lock(1) THEN RETURN new; END IF; RAISE 'not now'; END $$; \
        CREATE TRIGGER hold BEFORE UPDATE ON outbox FOR EACH ROW \
            WHEN (new.aggregate_id = 'refusing') EXECUTE FUNCTION hold()";
    set.database.execute(refuse).await;
    locker.batch_execute("SELECT pg_advisory_lock(1)").await.unwrap();
    for days in [0, 1, 4, 100] {
        set.insert("refusing", days, "", "").await;
    }
    let deferred = "SELECT count(*) FROM outboxd.ledger WHERE unwritten";
    eventually("four to be deferred", SOON, || async { set.database.count(deferred).await == 4 })
        .await;
    locker.batch_execute("SELECT pg_advisory_unlock(1)").await.unwrap();
    set.wait_for(4, "aggregate_id = 'refusing' AND status = 'SENT'").await;
    assert_eq!(set.database.count(deferred).await, 0);
    assert_eq!(relay.stop().await, 0);
    set.clear().await;
}

/// Rows that somebody sets back are found by the command and by the patrol, with no rights on the
/// partitions themselves.
#[tokio::test]
async fn missed_rows_of_partitions_are_found_with_rights_on_the_root_alone() {
    let set = Set::new("partition_missed").await;
    let role = unique("partition_role");
    set.database.execute(&format!("CREATE ROLE {role} LOGIN REPLICATION IN ROLE outboxd")).await;
    let publication = "CREATE PUBLICATION outboxd FOR TABLE outbox \
                       WITH (publish = 'insert', publish_via_partition_root = true)";
    set.database.execute(publication).await;
    let url = set.database.url.replace("postgres@", &format!("{role}@"));
    let options = set.options().set("postgres.url", &url);
    let options = options.set("reconcile.interval", "200ms").set("reconcile.after", "0s");
    let relay = options.start_ready().await;
    for days in [0, 1, 4, 100] {
        set.insert("k", days, "", "").await;
    }
    set.wait_for(4, "status = 'SENT'").await;
    set.database.execute("UPDATE outbox SET status = 'PENDING'").await;
    becomes(&relay, "outbox_missed_events", 4.0).await;
    let (code, found, said) = options.command_output(&["reconcile", "-o", "json"]);
    assert!(code == 0 && found.contains("\"missed\": 4"), "{found}{said}");
    assert_eq!(options.command_output(&["reconcile", "--heal", "--yes"]).0, 0);
    set.wait_for(4, "status = 'SENT'").await;
    assert_eq!(set.keys().await.len(), 8);
    // To attach a table is no insert: what it brings is in no stream.
    let attach = format!(
        "CREATE TABLE loaded (LIKE outbox INCLUDING DEFAULTS); \
         INSERT INTO loaded (aggregate_id, topic, created_at) \
            VALUES ('loaded', '{}', now() + interval '6 days'); \
         DO $$ BEGIN EXECUTE format('ALTER TABLE outbox ATTACH PARTITION loaded \
            FOR VALUES FROM (%L) TO (%L)', now() + interval '5 days', now() + interval '9 days'); END $$",
        set.topic
    );
    set.database.execute(&attach).await;
    becomes(&relay, "outbox_missed_events", 1.0).await;
    assert!(!relay.has_logged("could not look for missed rows"));
    assert_eq!(relay.stop().await, 0);

    // A cleanup has enough with them, too, except for what only an owner may do.
    assert_eq!(set.cleaning().command_output(&["migrate"]).0, 0);
    set.database.execute("UPDATE outbox SET sent_at = now() - interval '3 days'").await;
    let relay = set.cleaning().set("postgres.url", &url).start_ready().await;
    set.wait_for(1, "true").await;
    relay.wait_until_logged("its rows are deleted one by one").await;
    relay.wait_until_logged("belongs to another role").await;
    assert!(set.has("past").await);
    assert_eq!(relay.stop().await, 0);
    set.clear().await;
}

/// Without the root's name the stream would bring rows of tables that nobody knows.
#[tokio::test]
async fn a_publication_of_partitions_by_their_own_names_is_refused() {
    let set = Set::new("partition_names").await;
    for (publication, fix) in [
        ("TABLE outbox WITH (publish = 'insert')", "SET (publish_via_partition_root = true)"),
        ("TABLE lately, now WITH (publish = 'insert')", "ADD TABLE \\\"public\\\".\\\"outbox\\\""),
    ] {
        set.database.execute(&format!("CREATE PUBLICATION outboxd FOR {publication}")).await;
        let (code, _, said) = set.options().command_output(&["run"]);
        assert_eq!((code, said.contains("OBX-2022")), (78, true), "{said}");
        assert!(said.contains(fix), "{said}");
        set.database.execute("DROP PUBLICATION outboxd").await;
    }
    set.database.execute("ALTER TABLE lately SET UNLOGGED").await;
    let (code, _, said) = set.options().command_output(&["run"]);
    assert_eq!((code, said.contains("OBX-2009")), (78, true), "{said}");
    set.clear().await;
}

/// A partition whose time is over goes as a whole where all of it is sent; one with a row that is not, or
/// is young, stays, and so does the default one.
#[tokio::test]
async fn a_partition_goes_when_its_time_is_over_and_all_of_it_is_sent() {
    let set = Set::new("partition_drop").await;
    let older = "DO $$ BEGIN FOR n IN 1..3 LOOP \
        EXECUTE format('CREATE TABLE past%s PARTITION OF outbox FOR VALUES FROM (%L) TO (%L)', n, \
            date_trunc('day', now()) - n * interval '10 days', \
            date_trunc('day', now()) - n * interval '10 days' + interval '3 days'); \
        END LOOP; END $$";
    set.database.execute(older).await;
    for key in ["a", "b", "c"] {
        set.insert_sent(key, 4).await;
    }
    set.insert_sent("default", 100).await;
    set.insert_sent("young", 0).await;
    // One that was sent late, one that failed, and one that was never sent.
    set.insert("late", 9, ", status, sent_at", ", 'SENT', now()").await;
    set.insert("failed", 19, ", status", ", 'FAILED'").await;
    set.insert_sent("sent beside it", 19).await;
    set.insert_sent("held", 29).await;
    let hold = "INSERT INTO outboxd.held_event (relay_id, event_id, reason) \
                SELECT 'outboxd', id::text, 'dead' FROM outbox WHERE aggregate_id = 'held'";
    set.database.execute(hold).await;
    let relay = set.cleaning().start_ready().await;
    eventually("the partition to go", SOON, || async { !set.has("past").await }).await;
    becomes(&relay, "outbox_cleaned_total{kind=\"partition\"}", 1.0).await;
    // The rows beside those that stay go one by one.
    set.wait_for(0, "aggregate_id IN ('a', 'sent beside it', 'default')").await;
    stays("the others", Duration::from_secs(2), || async {
        set.count("aggregate_id IN ('late', 'failed', 'held', 'young')").await == 4
            && set.has("past1").await
            && set.has("past2").await
            && set.has("past3").await
            && set.has("lately").await
            && set.has("others").await
    })
    .await;
    let marks = "SELECT count(*) FROM pg_constraint WHERE conname = 'outboxd_cleanup'";
    eventually("no constraint to be left", SOON, || async { set.database.count(marks).await == 0 })
        .await;
    set.insert("now", 0, "", "").await;
    set.wait_for(1, "aggregate_id = 'now' AND status = 'SENT'").await;
    assert_eq!(relay.stop().await, 0);
    set.clear().await;
}

/// A large partition goes without anybody waiting: not those who write events, nor their statuses, nor
/// who reads; and while somebody has the table in use for long, it stays.
#[tokio::test]
async fn a_partition_is_dropped_without_holding_up_anybody() {
    let set = Set::new("partition_gentle").await;
    // The topic is known by then, and there is a slot.
    let relay = set.options().start_ready().await;
    set.insert("first", 0, "", "").await;
    set.wait_for(1, "status = 'SENT'").await;
    assert_eq!(relay.stop().await, 0);
    let fill = "INSERT INTO outbox (aggregate_id, payload, status, created_at, sent_at) \
        SELECT n::text, jsonb_build_object('text', repeat('x', 300)), 'SENT', \
            now() - interval '4 days', now() - interval '4 days' FROM generate_series(1, 150000) n";
    set.database.execute(fill).await;
    // A long look at the table: the partition can be proven, and cannot be dropped.
    let reader = set.database.connect().await;
    reader.batch_execute("BEGIN; SELECT FROM outbox LIMIT 1").await.unwrap();
    let relay = set.cleaning().set("log.level", "debug").start_ready().await;
    // What was filled in is behind the stream by then.
    set.insert("second", 0, "", "").await;
    set.wait_for(1, "aggregate_id = 'second' AND status = 'SENT'").await;
    let mut written = 0;
    let mut write = || {
        written += 1;
        let n = written;
        let set = &set;
        async move { set.insert(&format!("k{n}"), 0, "", "").await }
    };
    eventually("the partition to be in use", LATER, || {
        let writing = write();
        async {
            writing.await;
            relay.has_logged("a partition is in use")
        }
    })
    .await;
    assert!(set.has("past").await);
    reader.batch_execute("COMMIT").await.unwrap();
    eventually("the partition to go", LATER, || {
        let writing = write();
        async {
            writing.await;
            !set.has("past").await
        }
    })
    .await;
    set.wait_for(written + 2, "status = 'SENT'").await;
    let late = "aggregate_id LIKE 'k%' AND sent_at - created_at > interval '3 s'";
    assert_eq!(set.count(late).await, 0, "their statuses were late");
    assert_eq!(relay.stop().await, 0);
    set.clear().await;
}

/// What a relay left behind that was cut off is taken away; and a row that comes while a partition is
/// looked at is refused, not lost.
#[tokio::test]
async fn a_constraint_that_was_left_behind_is_taken_away() {
    let set = Set::new("partition_mark").await;
    set.insert("failed", 4, ", status", ", 'FAILED'").await;
    let mark = "ALTER TABLE past ADD CONSTRAINT outboxd_cleanup CHECK (status = 'SENT') NOT VALID";
    set.database.execute(mark).await;
    let relay = set.cleaning().start_ready().await;
    let marks = "SELECT count(*) FROM pg_constraint WHERE conname = 'outboxd_cleanup'";
    eventually("the constraint to go", SOON, || async { set.database.count(marks).await == 0 })
        .await;
    set.insert("late", 4, "", "").await;
    set.wait_for(1, "aggregate_id = 'late' AND status = 'SENT'").await;
    assert!(set.has("past").await);
    assert_eq!(relay.stop().await, 0);
    set.clear().await;
}

/// The other modes: rows go by themselves, and then the partition, which is empty.
#[tokio::test]
async fn empty_partitions_go_where_rows_do_not_show_their_status() {
    for mode in ["ledger", "delete"] {
        let set = Set::new(&format!("partition_{mode}")).await;
        set.insert("past", 4, "", "").await;
        set.insert("now", 0, "", "").await;
        let options = set.cleaning().set("outbox.status.mode", mode);
        let relay = options.start_ready().await;
        eventually("both records", SOON, || async { set.keys().await.len() == 2 }).await;
        if mode == "ledger" {
            assert!(set.has("past").await);
            let old = "UPDATE outboxd.ledger SET at = now() - interval '3 days' WHERE event_id = \
                       (SELECT id::text FROM outbox WHERE aggregate_id = 'past')";
            eventually("its entry", SOON, || async {
                set.database.sql.execute(old, &[]).await.unwrap() == 1
            })
            .await;
        }
        assert_eq!(relay.stop().await, 0);
        let relay = options.start_ready().await;
        eventually("the partition to go", SOON, || async { !set.has("past").await }).await;
        assert_eq!(set.count("aggregate_id = 'now'").await, i64::from(mode == "ledger"));
        assert_eq!(relay.stop().await, 0);
        set.clear().await;
    }
}
