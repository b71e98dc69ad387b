//! Faults of the publication while writers write: what no stream brings is noticed, named and
//! published.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use outboxd::demo::TempPostgres;

use crate::reconcile::report;
use crate::recovery::wait_for_settled;
use crate::support::checker::{Excused, Truth, Verdict, truth, wait_until_all_sent};
use crate::support::database::Database;
use crate::support::records::{Kafka, Record};
use crate::support::relay::RelayOptions;
use crate::support::setting;
use crate::support::stage::Stage;

/// What an incident may repeat, as configured in these tests.
const WINDOW: usize = 500;
/// How soon a change of the publication has to be noticed.
const NOTICED: Duration = Duration::from_secs(30);

const DROP: &str = "DROP PUBLICATION outboxd";
const CREATE: &str = "CREATE PUBLICATION outboxd FOR TABLE outbox WITH (publish = 'insert')";

async fn ids(stage: &Stage, sql: &str) -> HashSet<String> {
    let rows = stage.database.sql.query(sql, &[]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

/// Writes rows that no stream brings: in transactions that begin when the publication is lost and
/// end before it is restored. Gives the ids.
async fn write_in_between(stage: &Stage) -> HashSet<String> {
    // Whatever gets a transaction id from now on writes later.
    let floor = stage.database.count("SELECT pg_current_xact_id()::text::int8").await;
    stage.workload.write(&stage.database, 200).await;
    ids(stage, &format!("SELECT event_id FROM truth WHERE xmin::text::int8 > {floor}")).await
}

/// The missing events of keys of which a later one is not missing.
fn passed(committed: &Truth, missing: &HashSet<String>) -> HashSet<String> {
    let mut last: HashMap<&str, i64> = HashMap::new();
    for (_, event) in committed.iter().filter(|(id, _)| !missing.contains(*id)) {
        let last = last.entry(&event.key).or_insert(0);
        *last = event.seq.max(*last);
    }
    let is_passed = |id: &&String| {
        committed.get(*id).is_some_and(|event| last.get(event.key.as_str()) > Some(&event.seq))
    };
    missing.iter().filter(is_passed).cloned().collect()
}

/// Writers that a sweep keeps up with, however busy the machine is.
fn paced(mut stage: Stage) -> Stage {
    stage.workload.pace = Some(Duration::from_millis(20));
    stage
}

fn options(stage: &Stage) -> RelayOptions {
    stage.options().set("kafka.in_flight_events", &WINDOW.to_string())
}

/// The publication is lost, and restored if there is something to restore it with, before the relay
/// looks again. Gives what was written meanwhile.
async fn is_noticed(stage: &Stage, lose: &str, restore: &str) -> HashSet<String> {
    let options = options(stage);
    let mut relay = options.start_ready().await;
    let writing = stage.workload.start(&stage.database);
    wait_for_settled(&relay, 500.0).await;
    stage.database.execute(lose).await;
    let in_between = write_in_between(stage).await;
    assert!(in_between.len() >= 200);
    stage.database.execute(restore).await;
    let restored = Instant::now();
    assert_eq!(relay.wait().await.code(), Some(73));
    assert!(restored.elapsed() < NOTICED, "noticed after {:?}", restored.elapsed());
    assert!(relay.has_logged("OBX-2021"), "{}", relay.logged().join("\n"));
    let confirmed = stage.database.confirmed(&stage.slot()).await;
    let (code, _, said) = options.command_output(&["run"]);
    assert_eq!((code, said.contains("OBX-2021")), (73, true), "{said}");
    assert_eq!(stage.database.confirmed(&stage.slot()).await, confirmed, "nothing is confirmed");
    writing.stop().await;
    in_between
}

/// What is missing is named, and published when that is asked for. Gives how many events later ones of
/// their key had passed by then.
async fn is_healed(stage: &Stage, in_between: &HashSet<String>) -> usize {
    let options = options(stage);
    let named = report(&options, &[]);
    let named = named["events"].as_array().unwrap().iter().map(|id| id.as_str().unwrap());
    let named: HashSet<_> = named.map(str::to_owned).collect();
    // A relay that ends at once leaves statuses in the ledger that it could not write yet.
    let unsent = "SELECT id::text FROM outbox o WHERE status <> 'SENT' AND NOT EXISTS \
                  (SELECT FROM outboxd.ledger l WHERE l.event_id = o.id::text AND l.verdict = 'sent')";
    assert!(named == ids(stage, unsent).await, "{} are named", named.len());
    let records = stage.records();
    let delivered: HashSet<_> = records.iter().map(Record::event_id).collect();
    assert!(in_between.iter().all(|id| !delivered.contains(id.as_str())), "a stream brought them");
    let committed = truth(&stage.database).await;
    let is_missing = |id: &&String| !delivered.contains(id.as_str());
    let missing: HashSet<_> = committed.keys().filter(is_missing).cloned().collect();
    assert!(missing.is_superset(in_between) && named.is_superset(&missing));
    let acknowledged = named.len() - missing.len();
    assert!(acknowledged <= WINDOW, "{acknowledged} are named that were settled");
    let late = passed(&committed, &missing);

    let writing = stage.workload.start(&stage.database);
    assert_eq!(report(&options, &["--heal", "--yes"])["healed"], true);
    let relay = options.start_sweeping().await;
    wait_for_settled(&relay, 500.0).await;
    writing.stop().await;
    wait_until_all_sent(&stage.database).await;
    let excused = Excused { late: late.clone(), ..Excused::default() };
    let committed = truth(&stage.database).await;
    Verdict::excusing(&committed, &stage.records(), &excused).assert_kept(WINDOW);
    let left = report(&options, &[]);
    assert_eq!((&left["missed"], &left["running"]), (&0.into(), &true.into()), "{left}");
    assert_eq!(relay.stop().await, 0);
    late.len()
}

/// It stays away; the relay makes it anew when it is told that the rows are to be published.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f34_a_publication_that_is_dropped_is_noticed_and_what_it_missed_is_published() {
    let stage = paced(Stage::new("f34_drop", 50).await);
    let missed = is_noticed(&stage, DROP, "").await;
    options(&stage).tells("OBX-2021").await;
    assert_eq!(is_healed(&stage, &missed).await, 0, "the stream ends where it is lost");
    stage.clear().await;
}

/// By name nothing has changed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f34_a_publication_that_is_made_anew_is_noticed_and_what_it_missed_is_published() {
    let stage = paced(Stage::new("f34_anew", 50).await);
    let missed = is_noticed(&stage, DROP, CREATE).await;
    options(&stage).tells("OBX-2021").await;
    assert_eq!(is_healed(&stage, &missed).await, 0, "the stream ends where it is lost");
    stage.clear().await;
}

/// From PostgreSQL 18 on the stream goes on without a publication that is not there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f34_a_publication_that_is_made_anew_is_noticed_where_the_server_is_silent() {
    let server = TempPostgres::start(setting("PG_BIN_18").as_ref(), &[]).unwrap();
    let database = Database::new_at(&server.url("postgres"), "f34_18").await;
    let stage = paced(Stage::at(database, Kafka::shared(), "f34_18", 50).await);
    let missed = is_noticed(&stage, DROP, CREATE).await;
    options(&stage).tells("OBX-2021").await;
    is_healed(&stage, &missed).await;
}

/// The stream goes on without the rows in between, and later ones of their keys pass them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f34_a_table_that_leaves_and_comes_back_is_noticed_and_what_was_missed_is_published() {
    let stage = paced(Stage::new("f34_table", 50).await);
    let leave = "ALTER PUBLICATION outboxd DROP TABLE outbox";
    let missed = is_noticed(&stage, leave, "ALTER PUBLICATION outboxd ADD TABLE outbox").await;
    options(&stage).tells("OBX-2021").await;
    is_healed(&stage, &missed).await;
    stage.clear().await;
}
