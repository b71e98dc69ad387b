//! A standby of a server: the hot kind, which takes over slots and can be promoted.

use std::path::Path;
use std::process::Command;

use outboxd::demo::{StopMode, TempPostgres};

use super::database::connect;
use super::wait::{SOON, eventually};

/// The physical slot by which the standby is known to its primary.
pub const STANDBY_SLOT: &str = "standby";

/// Starts a primary with a standby that synchronises its slots. PostgreSQL 17 or newer.
pub async fn pair(binaries: &Path) -> (TempPostgres, TempPostgres) {
    let mut primary = TempPostgres::start(binaries, &[]).unwrap();
    let sql = connect(&primary.url("postgres")).await;
    let create = "SELECT 1 FROM pg_create_physical_replication_slot($1, true)";
    sql.query_one(create, &[&STANDBY_SLOT]).await.unwrap();
    primary.stop(StopMode::Fast);
    let mut standby = TempPostgres::start(binaries, &[]).unwrap();
    standby.stop(StopMode::Fast);
    let data = |server: &TempPostgres| server.socket_directory().join("data");
    let (from, to) = (data(&primary), data(&standby));
    std::fs::remove_dir_all(&to).unwrap();
    let copied = Command::new("cp").arg("-a").args([&from, &to]).status().unwrap();
    assert!(copied.success());
    let settings = to.join("postgresql.auto.conf");
    let mut text = std::fs::read_to_string(&settings).unwrap();
    text = text.replace(
        &primary.socket_directory().display().to_string(),
        &standby.socket_directory().display().to_string(),
    );
    text.push_str(&format!(
        "primary_conninfo = 'host=127.0.0.1 port={} user=postgres dbname=postgres'\n\
         primary_slot_name = '{STANDBY_SLOT}'\n\
         sync_replication_slots = on\n\
         hot_standby_feedback = on\n",
        primary.port()
    ));
    std::fs::write(&settings, text).unwrap();
    std::fs::write(to.join("standby.signal"), "").unwrap();
    primary.start_again().unwrap();
    standby.start_again().unwrap();
    let sql = connect(&standby.url("postgres")).await;
    eventually("the standby to receive", SOON, || async {
        let row = sql.query_one("SELECT count(*) FROM pg_stat_wal_receiver", &[]).await.unwrap();
        row.get::<_, i64>(0) == 1
    })
    .await;
    (primary, standby)
}
