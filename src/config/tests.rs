//! Sources to configuration.

use std::io::Write as _;
use std::time::Duration;

use super::*;
use crate::outbox::status::Mode;
use crate::relay::Start;

fn sources(
    file: &str,
    environment: &[(&str, &str)],
    flags: &[&str],
) -> (Sources, tempfile::NamedTempFile) {
    let mut written = tempfile::NamedTempFile::new().unwrap();
    written.write_all(file.as_bytes()).unwrap();
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    let sources = Sources {
        file: Some(written.path().to_owned()),
        flags: flags.iter().map(|flag| (*flag).to_owned()).collect(),
        environment: environment.iter().map(owned).collect(),
    };
    (sources, written)
}

const URL: (&str, &str) = ("DATABASE_URL", "postgres://u@localhost/d");

fn load(file: &str, environment: &[(&str, &str)], flags: &[&str]) -> Config {
    let (sources, _file) = sources(file, environment, flags);
    Config::load(&sources).unwrap()
}

fn problems(file: &str, environment: &[(&str, &str)]) -> String {
    let (sources, _file) = sources(file, environment, &[]);
    let failure = Config::load(&sources).unwrap_err();
    assert_eq!(failure.code, Code::Config);
    failure.message
}

#[test]
fn the_environment_alone_is_enough() {
    let sources =
        Sources { environment: vec![(URL.0.to_owned(), URL.1.to_owned())], ..Sources::default() };
    let config = Config::load(&sources).unwrap();
    assert_eq!(config.relay.id, "outboxd");
    assert_eq!(config.relay.flow.limits.events, 10_000);
    assert_eq!(config.relay.flow.limits.bytes, 64 << 20);
    assert_eq!(config.relay.start, Start::Pending);
    assert_eq!(config.shutdown_grace, Duration::from_secs(25));
    assert_eq!(config.admin.listen, Some("127.0.0.1:9464".parse().unwrap()));
}

#[test]
fn text_is_checked_as_a_file_is() {
    let good = "[postgres]\nurl = \"postgres://u@localhost/d\"\n[relay]\nid = \"text\"";
    assert_eq!(good.parse::<Config>().unwrap().relay.id, "text");
    for bad in ["[kafka]\nbotstrap_servers = 1\n[outbox]\ntable = \"a b\"", "[relay\n", ""] {
        let (sources, file) = sources(bad, &[], &[]);
        let of_file = Config::load(&sources).unwrap_err().message;
        let of_text = bad.parse::<Config>().unwrap_err().message;
        let path = file.path().display().to_string();
        assert_eq!(of_text, of_file.replace(&path, "the configuration"));
    }
}

#[test]
fn what_is_sent_is_removed_only_where_that_is_said_and_known() {
    assert_eq!(load("", &[URL], &[]).relay.cleanup, None);
    let cleanup = load("[cleanup]\nafter = \"7d\"\nbatch = 5\n", &[URL], &[]).relay.cleanup;
    let cleanup = cleanup.map(|c| (c.after.as_secs() / 86_400, c.interval.as_secs(), c.batch));
    assert_eq!(cleanup, Some((7, 3600, 5)));
    let after = ("OUTBOXD__CLEANUP__AFTER", "7d");
    let none = "[outbox]\nstart = \"stream\"\nstatus = { mode = \"none\" }\n";
    assert!(problems(none, &[URL, after]).contains("knows no sent row"));
    let shared = "[outbox.status.labels]\nfailed = \"SENT\"\n";
    assert!(problems(shared, &[URL, after]).contains("the label of other rows, too"));
}

#[test]
fn flags_override_the_environment_which_overrides_the_file() {
    let file = "[relay]\nid = \"file\"\n[outbox.status]\nbatch = 5\nmode = \"ledger\"\n";
    let environment = [URL, ("OUTBOXD__RELAY__ID", "env"), ("OUTBOXD__OUTBOX__STATUS__BATCH", "6")];
    let config = load(file, &environment, &["outbox.status.batch=7"]);
    assert_eq!(config.relay.id, "env");
    assert_eq!(config.relay.flow.settle.batch, 7);
    assert_eq!(config.relay.status.mode, Mode::Ledger);
}

#[test]
fn tables_and_lists_in_the_environment_are_toml_or_json() {
    let environment = [
        URL,
        ("OUTBOXD__KAFKA__PROPERTIES", r#"{"compression.type":"zstd","linger.ms":5}"#),
        ("OUTBOXD__ENVELOPE__HEADERS", "[\"event_id\", \"position\"]"),
        ("OUTBOXD__OUTBOX__COLUMNS__TENANT_ID", r#"{ payload = "/tenant" }"#),
        ("OUTBOXD__OUTBOX__COLUMNS", r#"{ id = "event_id" }"#),
    ];
    let config = load("", &environment, &[]);
    assert_eq!(config.relay.kafka.properties["compression.type"], "zstd");
    assert_eq!(config.relay.kafka.properties["linger.ms"], "5");
    assert_eq!(config.relay.events.headers, ["event_id", "position"]);
}

#[test]
fn an_unknown_key_is_refused_with_a_suggestion() {
    let text = problems("[kafka]\nbootstrap_server = \"x\"\n[rely]\nid = \"x\"\n", &[URL]);
    assert!(text.contains("kafka.bootstrap_server (file"), "{text}");
    assert!(text.contains("did you mean kafka.bootstrap_servers?"), "{text}");
    assert!(text.contains("did you mean relay?"), "{text}");
    let text = problems("", &[URL, ("OUTBOXD__RELAY__IDD", "x")]);
    assert!(text.contains("relay.idd (environment OUTBOXD__RELAY__IDD): unknown key"), "{text}");
}

#[test]
fn every_problem_is_told_at_once() {
    let text = problems(
        "[relay]\nshutdown_grace = 25\n[outbox]\nmax_row_bytes = \"32\"\n\
         [outbox.status]\nmode = \"updat\"\nbatch = 0\n[postgres]\nslot = \"Big-Slot\"\n",
        &[],
    );
    for said in [
        "relay.shutdown_grace",
        "with its unit",
        "outbox.max_row_bytes",
        "one of update, ledger, delete, none",
        "a number from 1 to 100000",
        "postgres.slot",
        "postgres.url: not set",
    ] {
        assert!(text.contains(said), "{said} is not in: {text}");
    }
}

#[test]
fn combinations_that_cannot_work_are_refused() {
    let text = problems("[outbox.status]\nmode = \"none\"\n", &[URL]);
    assert!(text.contains("outbox.start = \"stream\""), "{text}");
    let text = problems("[kafka.properties]\nacks = \"1\"\n", &[URL]);
    assert!(text.contains("acks cannot be set"), "{text}");
    let text = problems("[outbox]\ntable = \"a b\"\n", &[URL]);
    assert!(text.contains("outbox.table"), "{text}");
    let text = problems("[outbox.columns]\ntenant_id = { payloads = \"/x\" }\n", &[URL]);
    assert!(text.contains("outbox.columns.tenant_id"), "{text}");
}

#[test]
fn a_file_that_is_not_toml_is_told_by_its_line_alone() {
    let text = problems("[postgres]\nurl = \"postgres://u:hunter2@h/d\n", &[]);
    assert!(text.contains("line 2"), "{text}");
    assert!(!text.contains("hunter2"), "{text}");
}

#[test]
fn a_secret_can_be_in_a_file_of_its_own() {
    let mut secret = tempfile::NamedTempFile::new().unwrap();
    secret.write_all(b"postgres://u:hunter2@localhost/d\n").unwrap();
    let mut properties = tempfile::NamedTempFile::new().unwrap();
    properties.write_all(b"# of kafka\nsasl.password = hunter3\n").unwrap();
    let file = format!(
        "[postgres]\nurl_file = {:?}\n[kafka]\nproperties_file = {:?}\n",
        secret.path(),
        properties.path()
    );
    let config = load(&file, &[("DATABASE_URL", "postgres://other@localhost/d")], &[]);
    assert_eq!(config.relay.server.user, "u");
    assert_eq!(config.relay.kafka.properties["sasl.password"], "hunter3");
}

#[test]
fn what_is_shown_has_origins_and_no_secrets() {
    let file = "[postgres]\nurl = \"postgres://u:hunter2@localhost/d\"\n\
                [kafka.properties]\n\"sasl.password\" = \"hunter3\"\n\"linger.ms\" = 1\n";
    let (sources, _file) =
        sources(file, &[("OUTBOXD__RELAY__ID", "x")], &["metrics.enabled=false"]);
    let (shown, failure) = show(&sources);
    assert_eq!(failure, None);
    assert!(!shown.contains("hunter"), "{shown}");
    let line = |key: &str| shown.lines().find(|line| line.starts_with(key)).unwrap().to_owned();
    assert!(line("relay.id").ends_with("= \"x\"  # environment OUTBOXD__RELAY__ID"));
    assert!(line("metrics.enabled").ends_with("= false  # flag"));
    assert!(line("relay.standby").ends_with("= true  # default"));
    assert!(line("postgres.url ").contains("postgres://u:***@localhost/d"));
    assert!(line("kafka.properties ").contains("\"linger.ms\" = 1"));
    let debug = format!("{:?}", Config::load(&sources).unwrap());
    assert!(!debug.contains("hunter"), "{debug}");
}

#[test]
fn payloads_have_the_headers_that_their_format_lacks() {
    let config = load("[envelope]\nformat = \"payload\"\n", &[URL], &[]);
    assert_eq!(config.relay.events.headers, ["event_id", "event_type"]);
    let config = load("[envelope]\nformat = \"payload\"\nheaders = []\n", &[URL], &[]);
    assert!(config.relay.events.headers.is_empty());
}
