//! Sources to configuration.

use std::io::Write as _;
use std::time::Duration;

use super::*;
use crate::outbox::status::Mode;
use crate::relay::Start;
use crate::sink::{Durability, SinkConfig, Topology, Trim};

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

fn kafka_of(config: &Config) -> &crate::sink::KafkaConfig {
    match &config.relay.sink {
        SinkConfig::Kafka(kafka) => kafka,
        other => panic!("{other:?}"),
    }
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
    assert_eq!(kafka_of(&config).properties["compression.type"], "zstd");
    assert_eq!(kafka_of(&config).properties["linger.ms"], "5");
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
    assert_eq!(kafka_of(&config).properties["sasl.password"], "hunter3");
}

#[test]
fn every_property_of_kafka_has_a_twin_in_a_file() {
    let mut secret = tempfile::NamedTempFile::new().unwrap();
    secret.write_all(b"hunter3 \n").unwrap();
    let path = secret.path();
    let file = format!("[kafka.properties]\n\"sasl.password_file\" = {path:?}\n");
    let config = load(&file, &[URL], &[]);
    let properties = &kafka_of(&config).properties;
    assert_eq!(properties["sasl.password"], "hunter3 ", "a space can belong to a password");
    assert!(!properties.contains_key("sasl.password_file"));
    let text = problems(&format!("{file}\"sasl.password\" = \"x\"\n"), &[URL]);
    assert!(text.contains("sasl.password and sasl.password_file: only one of them"), "{text}");
    let text = problems("[kafka.properties]\n\"sasl.password_file\" = \"/none\"\n", &[URL]);
    assert!(text.contains("kafka.properties: sasl.password_file: /none: No such file"), "{text}");
    let text = problems(&format!("[kafka.properties]\nacks_file = {path:?}\n"), &[URL]);
    assert!(text.contains("acks cannot be set"), "{text}");
}

#[test]
fn what_is_left_unprotected_is_told() {
    use std::os::unix::fs::PermissionsExt as _;
    let file = |servers: &str, property: &str| {
        format!("[kafka]\nbootstrap_servers = \"{servers}\"\n[kafka.properties]\n{property}\n")
    };
    for property in [
        "\"security.protocol\" = \"sasl_plaintext\"",
        "\"enable.ssl.certificate.verification\" = false",
        "\"ssl.endpoint.identification.algorithm\" = \"none\"",
    ] {
        let told = |servers: &str| load(&file(servers, property), &[URL], &[]).warnings.len();
        assert_eq!(told("kafka-1:9092,localhost:9092"), 1, "{property}");
        assert_eq!(told("localhost:9092, 127.0.0.1:9092,[::1]:9092"), 0, "{property}");
    }
    let token = tempfile::NamedTempFile::new().unwrap();
    let environment = [URL, ("OUTBOXD__ADMIN__TOKEN_FILE", token.path().to_str().unwrap())];
    for (text, mode, told) in [
        ("x".repeat(16), 0o640, ""),
        ("x".repeat(15), 0o600, "can be guessed"),
        ("x".repeat(16), 0o644, "everybody on this machine can read"),
    ] {
        std::fs::write(token.path(), text).unwrap();
        std::fs::set_permissions(token.path(), std::fs::Permissions::from_mode(mode)).unwrap();
        let warnings = load("", &environment, &[]).warnings.concat();
        assert!(warnings.contains(told) && warnings.is_empty() == told.is_empty(), "{warnings}");
    }
}

#[test]
fn what_is_shown_has_origins_and_no_secrets() {
    let file = "[postgres]\nurl = \"postgres://u:hunter2@localhost/d\"\n\
                [kafka.properties]\n\"sasl.password\" = \"hunter3\"\n\"linger.ms\" = 1\n";
    let (sources, _file) =
        sources(file, &[("OUTBOXD__RELAY__ID", "x")], &["metrics.enabled=false"]);
    let (shown, config) = show(&sources);
    assert!(config.is_ok());
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

#[test]
fn the_sink_is_the_one_that_is_named() {
    let mut secret = tempfile::NamedTempFile::new().unwrap();
    secret.write_all(b"hunter4\n").unwrap();
    let file = format!(
        "[sink]\nkind = \"redis\"\n[redis]\nurl = \"redis://a:1,redis://b:2\"\ntopology = \"sentinel\"\n\
         sentinel_master = \"m\"\npassword_file = {:?}\ndurability = \"replicas:2\"\ntrim = \"force\"\n\
         in_flight_events = 7\n[route]\ndefault = \"identity:user\"\n",
        secret.path()
    );
    let config = load(&file, &[URL], &["relay.id=r"]);
    let SinkConfig::Redis(redis) = &config.relay.sink else { panic!("{:?}", config.relay.sink) };
    assert_eq!(redis.password.as_deref(), Some("hunter4"));
    assert_eq!(redis.topology, Topology::Sentinel { master: "m".to_owned() });
    assert_eq!((redis.durability, redis.trim), (Durability::Replicas(2), Trim::Force));
    assert_eq!((&*redis.relay_id, redis.in_flight_events), ("r:d", 7));
    assert_eq!(config.relay.flow.limits.events, 7);
    assert_eq!(config.relay.sink.describe(), "a:1,b:2");
    assert!(!format!("{config:?}").contains("hunter4"));

    let file = "[sink]\nkind = \"nats\"\n[nats]\nurl = \"nats://token@h:1\"\ncreate_streams = true\n\
                duplicate_window = \"5m\"\nreplicas = 3\nstream = \"S\"\n";
    let config = load(file, &[URL], &[]);
    let SinkConfig::Nats(nats) = &config.relay.sink else { panic!("{:?}", config.relay.sink) };
    let shape = nats.create_streams.unwrap();
    assert_eq!((shape.replicas, shape.duplicate_window), (3, Duration::from_secs(300)));
    assert_eq!(nats.stream.as_deref(), Some("S"));
    assert_eq!(config.relay.flow.limits.per_key, 1);
    assert!(!format!("{config:?}").contains("token@"));
}

#[test]
fn what_a_sink_cannot_use_is_told() {
    for (kind, lines, expected) in [
        ("redis", "url = \"http://a\"", "redis.url: expected redis://host:port"),
        ("redis", "url = \"redis://a:port\"", "redis.url: a server is host, host:port"),
        ("redis", "url = \"redis://u:%ff@a\"", "redis.url: user and password are UTF-8"),
        ("redis", "url = \"redis://a,rediss://b\"", "redis.url: all of it begins with redis://"),
        ("redis", "topology = \"cluster\"\nurl = \"redis://a/1\"", "no database but 0"),
        ("redis", "url = \"redis://a,redis://b\"", "several servers need redis.topology"),
        ("redis", "topology = \"sentinel\"", "redis.sentinel_master: the sentinels need"),
        ("redis", "durability = \"replicas:0\"", "redis.durability: \"replicas:0\""),
        ("redis", "tls_cert = \"/dev/null\"", "redis.tls_cert and redis.tls_key: only both"),
        ("redis", "tls_ca = \"/dev/null\"", "TLS needs rediss://"),
        ("nats", "url = \"localhost\"", "nats.url: expected nats://host:port"),
        ("nats", "url = \"nats://a:port\"", "nats.url: NATS server URL is invalid"),
        ("nats", "password = \"x\"", "nats.password needs nats.user"),
        ("nats", "user = \"x\"\ntoken = \"y\"", "nats.user, nats.token and nats.credentials_file"),
        ("nats", "duplicate_window = \"0s\"", "nats.duplicate_window: expected more than 0s"),
        (
            "nats",
            "credentials_file = \"/nowhere\"",
            "nats.credentials_file: /nowhere: No such file",
        ),
    ] {
        let file = format!("[sink]\nkind = \"{kind}\"\n[{kind}]\n{lines}\n");
        let mut settings = Settings::with_defaults();
        settings.read_file("test", &format!("{file}[postgres]\nurl = \"postgres://u@h/d\"\n"));
        let failure = Config::of(&mut settings).unwrap_err();
        assert!(failure.message.contains(expected), "{lines}: {}", failure.message);
    }
    let mut settings = Settings::with_defaults();
    let text = "[sink]\nkind = \"nats\"\n[route]\nmap = { \"A\" = \"a..b\" }\n\
                [postgres]\nurl = \"postgres://u@h/d\"\n";
    settings.read_file("test", text);
    let failure = Config::of(&mut settings).unwrap_err();
    assert!(failure.message.contains("is not a name that NATS takes"), "{}", failure.message);
}
