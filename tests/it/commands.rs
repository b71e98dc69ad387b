//! Commands as people use them: what they print, what they change, how they end.

use std::io::Write as _;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::support::database::Database;
use crate::support::records::Kafka;
use crate::support::relay::RelayOptions;
use crate::support::small::Small;
use crate::support::wait::{SOON, eventually};
use crate::support::{free_port, pg_bin, setting, unique};

#[test]
fn wrong_usage_is_told_apart() {
    let bare = RelayOptions::bare();
    let wrong: [&[&str]; 6] =
        [&[], &["rnu"], &["run", "--fast"], &["slot"], &["doctor", "-o", "yaml"], &["status", "x"]];
    for arguments in wrong {
        let (code, out, said) = bare.command_output(arguments);
        assert_eq!(code, 64, "{arguments:?}: {said}");
        assert!(out.is_empty() && said.contains("--help"), "{arguments:?}: {said}");
    }
    let (code, out, said) = bare.command_output(&["--version"]);
    let expected = format!("outboxd {}\n", env!("CARGO_PKG_VERSION"));
    assert!(code == 0 && out.starts_with(&expected) && said.is_empty(), "{out}{said}");
    let (code, out, _) = bare.command_output(&["--help"]);
    assert_eq!(code, 0);
    for command in [
        "run",
        "init",
        "migrate",
        "check",
        "doctor",
        "status",
        "slot",
        "events",
        "keys",
        "dlq",
        "pause",
        "resume",
        "route",
        "healthcheck",
    ] {
        assert!(out.contains(&format!("  {command} ")), "{command} is not in {out}");
    }
}

#[test]
fn init_writes_a_file_that_check_accepts_and_overwrites_none() {
    let directory = tempfile::tempdir().unwrap();
    let bare = RelayOptions::bare().directory(directory.path());
    let (code, said, _) = bare.command_output(&["init"]);
    assert_eq!(code, 0);
    assert!(said.contains("wrote outboxd.toml") && said.contains("outboxd migrate"), "{said}");
    let path = directory.path().join("outboxd.toml");
    let written = std::fs::read_to_string(&path).unwrap();
    assert!(written.lines().filter(|line| line.starts_with("# ")).count() > 50, "no comments");
    let (code, shown, said) = bare.command_output(&["check"]);
    assert_eq!(code, 0, "{said}");
    let chosen = shown.lines().filter(|line| line.contains("# file"));
    let chosen: Vec<_> = chosen.filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(chosen, ["postgres.url"], "everything else is a default");
    // With every default written out it says the same.
    let uncommented = |line: &str| match line.strip_prefix("# ") {
        Some(rest) if rest.contains(" = ") && rest.parse::<toml::Table>().is_ok() => {
            rest.to_owned()
        }
        _ => line.to_owned(),
    };
    let all: Vec<_> = written.lines().map(uncommented).collect();
    std::fs::write(&path, all.join("\n")).unwrap();
    let (code, shown, said) = bare.command_output(&["check"]);
    assert_eq!(code, 0, "{said}");
    assert!(shown.lines().filter(|line| line.contains("# file")).count() > 40, "{shown}");

    let (code, _, said) = bare.command_output(&["init"]);
    assert_eq!((code, said.contains("is there already")), (78, true), "{said}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), all.join("\n"), "it was overwritten");
    let (code, _, _) = bare.command_output(&["init", "--output", "other.toml"]);
    assert_eq!(code, 0);
    assert_eq!(std::fs::read_to_string(directory.path().join("other.toml")).unwrap(), written);
}

fn assert_healthy(options: &RelayOptions) {
    let (code, said, complaint) = options.command_output(&["doctor"]);
    assert_eq!(code, 0, "{said}{complaint}");
}

#[tokio::test]
async fn migrate_can_be_run_again() {
    // The role belongs to the whole server; another test's database makes it first.
    let other = Database::new("migrate_role").await;
    let database = Database::empty_at(&setting("DATABASE_URL"), "migrate").await;
    // The events' topic need not be there, which doctor would tell of.
    let options = RelayOptions::new(&database, &Kafka::shared()).set("kafka.create_topics", "true");
    let files = ["0001_outbox.sql", "0002_outboxd.sql", "0003_publication.sql", "0004_roles.sql"];
    for round in 0..2 {
        let (code, said, complaint) = options.command_output(&["migrate"]);
        assert_eq!(code, 0, "{said}{complaint}");
        assert!(files.iter().all(|file| said.contains(file)), "{said}");
        assert_eq!(said.contains("is there already"), round == 1, "{said}");
        assert_healthy(&options);
        database.execute("SELECT outboxd.emit('order', 'o-1', 'OrderPlaced', '{}')").await;
    }
    assert_eq!(database.count("SELECT count(*) FROM outbox").await, 2);
    for database in [database, other] {
        database.clear().await;
    }
}

fn psql(database: &Database, sql: &str) {
    let own = pg_bin().join("psql");
    let program = if own.exists() { own } else { "psql".into() };
    let mut command = Command::new(program);
    command.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", &database.url, "-f", "-"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut running = command.spawn().unwrap();
    running.stdin.take().unwrap().write_all(sql.as_bytes()).unwrap();
    let output = running.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Also under names that have to be quoted, and in another database than it could look at.
#[tokio::test]
async fn what_migrate_prints_psql_applies() {
    let other = Database::new("printed_role").await;
    let names: [&[(&str, &str)]; 2] = [
        &[],
        &[
            ("outbox.table", "\"My Sales\".\"Out\"\"box\""),
            ("postgres.publication", "Sales's \"Pub\""),
        ],
    ];
    for keys in names {
        let database = Database::empty_at(&setting("DATABASE_URL"), "printed").await;
        let mut options = RelayOptions::new(&database, &Kafka::shared());
        for (key, value) in keys {
            options = options.set(key, value);
        }
        let offline = options.clone().set("postgres.url", "postgres://u@127.0.0.1:1/d");
        let (code, printed, said) = offline.command_output(&["migrate", "--print"]);
        assert_eq!(code, 0, "{said}");
        psql(&database, &printed);
        psql(&database, &printed);
        assert_healthy(&options);
        assert_eq!(database.count("SELECT count(*) FROM pg_publication_tables").await, 1);
        database.clear().await;
    }
    other.clear().await;
}

#[tokio::test]
async fn a_slot_is_made_shown_and_dropped() {
    let small = Small::new("slot").await;
    let slot = small.database.name.clone();
    let options = small.options();
    let run = |arguments: &[&str]| options.command_output(arguments);
    let (code, _, said) = run(&["slot", "show"]);
    assert_eq!((code, said.contains("OBX-2030")), (73, true), "{said}");
    let (code, said, _) = run(&["slot", "create"]);
    assert_eq!((code, said.contains(&format!("created slot \"{slot}\" at "))), (0, true), "{said}");
    let (code, said, _) = run(&["slot", "create"]);
    assert_eq!((code, said.contains("is there already")), (0, true), "{said}");

    let shown =
        || -> Value { serde_json::from_str(&run(&["slot", "show", "-o", "json"]).1).unwrap() };
    let before = shown();
    assert_eq!((&before["name"], &before["plugin"]), (&slot.as_str().into(), &"pgoutput".into()));
    assert_eq!((&before["active"], &before["wal_status"]), (&false.into(), &"reserved".into()));
    small.emit("k", 1).await;
    assert!(shown()["lag_bytes"].as_u64() > before["lag_bytes"].as_u64());
    let (code, text, _) = run(&["slot", "show"]);
    assert_eq!(code, 0);
    for said in [&format!("slot        {slot}"), "active      no", "wal status  reserved"] {
        assert!(text.contains(said), "{said} is not in {text}");
    }

    let relay = options.start_ready().await;
    small.wait_for_sent(1).await;
    small.database.wait_until_confirmed(&slot).await;
    let after = shown();
    assert_eq!(after["active"], true);
    assert_ne!(after["confirmed_lsn"], before["confirmed_lsn"]);
    let (code, _, said) = run(&["slot", "drop", "--yes"]);
    assert_eq!((code, said.contains("OBX-2034")), (69, true), "it is in use: {said}");
    assert_eq!(relay.stop().await, 0);
    // Without a terminal nobody is asked.
    for said in [format!("dropped slot \"{slot}\""), format!("there is no slot \"{slot}\"")] {
        let (code, out, _) = run(&["slot", "drop"]);
        assert_eq!((code, out.contains(&said)), (0, true), "{out}");
        assert!(out.contains("forgot the position"), "{out}");
    }
    let position = "SELECT count(*) FROM outboxd.relay WHERE position_lsn > '0/0'";
    assert_eq!(small.database.count(position).await, 0);
    small.clear().await;
}

fn status(options: &RelayOptions) -> Value {
    let (code, printed, said) = options.command_output(&["status", "-o", "json"]);
    assert_eq!(code, 0, "{said}");
    serde_json::from_str(&printed).unwrap()
}

fn fields(document: &Value) -> Vec<&String> {
    document.as_object().unwrap().keys().collect()
}

#[tokio::test]
async fn status_and_healthcheck_ask_the_relay_else_the_database() {
    let small = Small::new("status").await;
    let port = free_port();
    let options = small.options().set("admin.listen", &format!("127.0.0.1:{port}"));
    let healthcheck = || options.command_output(&["healthcheck"]);
    // Before its first run.
    assert_eq!(status(&options)["state"], "stopped");
    let (code, said, _) = healthcheck();
    assert_eq!(code, 1);
    assert!(said.contains(&format!("nothing answers on 127.0.0.1:{port}")), "{said}");

    let relay = options.start_ready().await;
    small.emit("k", 1).await;
    small.wait_for_sent(1).await;
    relay.wait_for_state("streaming").await;
    let running = status(&options);
    assert_eq!(running["state"], "streaming");
    assert!(running["in_flight"]["events"].is_u64(), "{running}");
    assert_eq!(healthcheck().0, 0);
    eventually("nothing to be in flight", SOON, || async {
        status(&options)["in_flight"]["events"] == 0
    })
    .await;
    let (code, text, _) = options.command_output(&["status"]);
    assert_eq!(code, 0);
    for said in ["state      streaming", "slot       ", "in flight 0 events", "waiting keys 0"] {
        assert!(text.contains(said), "{said} is not in {text}");
    }
    // Where the relay cannot be asked, the database knows that it runs.
    let elsewhere = options.clone().set("admin.listen", &format!("127.0.0.1:{}", free_port()));
    let known = status(&elsewhere);
    assert_eq!(known["state"], "streaming", "{known}");
    assert_eq!(fields(&known), fields(&running), "the fields are the same");
    assert_eq!(elsewhere.command_output(&["healthcheck"]).0, 1);
    let unasked = options.clone().set("admin.listen", "");
    assert_eq!(unasked.command_output(&["healthcheck"]).0, 78);

    // A topic is missing: it is told, and the relay does its job all the same.
    small.database.emit("tested", "k", &unique("status_missing"), "{}").await;
    eventually("the status to say so", SOON, || async {
        relay.status().await["last_error"]["code"] == "OBX-4002"
    })
    .await;
    assert_eq!(healthcheck().0, 0);
    let (_, text, _) = options.command_output(&["status"]);
    assert!(
        text.contains("error      OBX-4002") && text.contains("to do      create the"),
        "{text}"
    );
    relay.kill().await;
    eventually("the database to notice", SOON, || async { status(&options)["state"] == "stopped" })
        .await;

    let drop = format!("SELECT pg_drop_replication_slot('{}')", small.database.name);
    eventually("the slot to be free", SOON, || async {
        small.database.sql.batch_execute(&drop).await.is_ok()
    })
    .await;
    assert_eq!(options.command_output(&["run"]).0, 73);
    assert_eq!(status(&options)["state"], "halted");
    let (code, text, _) = options.command_output(&["status"]);
    assert_eq!(code, 0);
    assert!(text.contains("state      halted") && text.contains("error      OBX-2030"), "{text}");
    small.clear().await;
}

/// One-shot commands do not wait.
#[test]
fn a_command_that_needs_the_database_says_that_it_is_away() {
    let options = RelayOptions::bare().set("postgres.url", "postgres://u@127.0.0.1:1/d");
    let commands: [&[&str]; 10] = [
        &["migrate"],
        &["status"],
        &["slot", "show"],
        &["slot", "create"],
        &["slot", "drop"],
        &["events", "list"],
        &["keys", "unblock", "k"],
        &["dlq", "redrive", "--all"],
        &["pause"],
        &["resume"],
    ];
    for command in commands {
        let (code, _, said) = options.command_output(command);
        assert_eq!((code, said.contains("OBX-2001")), (69, true), "{command:?}: {said}");
    }
}
