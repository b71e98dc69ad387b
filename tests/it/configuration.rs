//! The configuration from outside: where values come from, what is refused, what is shown; and for
//! every key the test that shows its effect.

use std::collections::BTreeSet;

use crate::support::evidence::{Evidence, assert_complete};
use crate::support::relay::RelayOptions;
use crate::support::small::Small;

const FIELDS: &str = "mapping::every_field_comes_from_the_column_that_it_is_mapped_to";
const STATUSES: &str = "mapping::statuses_go_into_the_columns_that_are_named_with_their_labels";
const SWEEP: &str = "sweep::a_sweep_says_when_it_cannot_follow_the_order";
const LARGE: &str =
    "misfits::a_row_above_the_limit_is_a_dead_letter_without_its_value_and_without_memory";
const INTERVAL: &str = "effects::an_acknowledged_event_waits_for_others_as_long_as_is_said";
const PER_KEY: &str = "effects::events_of_a_key_go_one_by_one_unless_more_are_allowed";

const SURVIVES: &str = "failover::a_slot_can_survive_a_failover_unless_that_is_switched_off";
const FAILURES: &str = "holding::failures_go_into_the_columns_that_are_named_with_their_labels";
const WAITS: &str = "holding::waits_double_from_the_first_up_to_the_longest_and_vary";
const EXHAUSTED: &str = "holding::what_is_exhausted_blocks_its_key_or_goes_where_dead_letters_go";
const BOUND: &str = "holding::no_more_is_held_than_may_be";
const PATROL: &str = "reconcile::a_patrol_warns_of_missed_rows_and_heals_them_where_it_may";

const BY_TYPE: &str = "routing::an_event_type_has_its_topic_and_others_have_none";
const BY_PATTERN: &str =
    "routing::a_pattern_makes_topics_as_debezium_does_and_only_allowed_ones_are_used";
const DEBEZIUM: &str = "formats::debezium_s_records_are_the_payload_and_an_id";
const TOMBSTONE: &str = "formats::an_empty_payload_is_a_tombstone_where_debezium_says_so";

const REDIS: &str = "sinks_configured::redis_is_reached_by_what_lies_in_files_and_takes_no_more_at_once_than_is_said";
const REDIS_TLS: &str = "sinks_configured::redis_behind_tls_keeps_as_much_as_is_said";
const SENTINEL: &str = "sinks_configured::a_sentinel_leads_to_redis";
const NATS: &str = "sinks_configured::nats_is_reached_by_what_lies_in_files_and_takes_no_more_at_once_than_is_said";
const NATS_LOGIN: &str = "nats_login::users_tokens_and_keys_log_in";
const NATS_TLS: &str = "nats_login::only_a_certificate_that_is_valid_is_taken_for_nats";
const NATS_CREATED: &str = "nats_streams::a_missing_stream_is_made_where_that_is_wanted";

/// Every key, with a test that shows what it does to a relay.
const KEYS: Evidence = &[
    ("relay.id", SWEEP),
    ("relay.shutdown_grace", "resumption::a_stop_that_could_not_drain_says_so"),
    ("relay.standby", "standby::a_relay_that_is_not_to_wait_ends_with_its_own_code"),
    ("relay.paused", "holding::a_relay_that_starts_paused_waits_until_it_is_resumed"),
    ("relay.reconnect_backoff", "effects::waits_between_connections_grow_up_to_their_cap"),
    ("relay.reconnect_max", "effects::waits_between_connections_grow_up_to_their_cap"),
    ("postgres.url", "statuses::s9_row_security_is_an_error_and_not_silence"),
    ("postgres.url_file", "configuration::a_url_comes_from_its_file_else_from_database_url"),
    ("postgres.slot", SWEEP),
    ("postgres.publication", "tables::tables_in_other_schemas_with_quoted_names_work"),
    ("postgres.create", "publication::nothing_is_created_where_that_is_not_allowed"),
    ("postgres.failover_slot", SURVIVES),
    ("postgres.on_slot_lost", "recovery::a_relay_that_may_recovers_by_itself"),
    ("outbox.table", "tables::tables_in_other_schemas_with_quoted_names_work"),
    ("outbox.message_prefix", "messages::another_prefix_is_read_from_where_the_first_one_ended"),
    ("outbox.payload_encoding", "mapping::any_text_is_a_payload_where_that_is_said"),
    ("outbox.max_row_bytes", LARGE),
    ("outbox.start", "sweep::start_stream_leaves_older_rows_alone"),
    ("outbox.sweep_order", SWEEP),
    ("outbox.columns.id", FIELDS),
    ("outbox.columns.aggregate_type", FIELDS),
    ("outbox.columns.aggregate_id", FIELDS),
    ("outbox.columns.event_type", FIELDS),
    ("outbox.columns.payload", FIELDS),
    ("outbox.columns.headers", FIELDS),
    ("outbox.columns.topic", FIELDS),
    ("outbox.columns.key", FIELDS),
    ("outbox.columns.partition_by", "mapping::partitions_are_chosen_by_a_column_or_named_by_one"),
    ("outbox.columns.partition", "mapping::partitions_are_chosen_by_a_column_or_named_by_one"),
    ("outbox.columns.tenant_id", FIELDS),
    ("outbox.columns.schema_version", FIELDS),
    ("outbox.columns.occurred_at", FIELDS),
    ("outbox.columns.scheduled_at", FIELDS),
    ("outbox.columns.dedup_key", FIELDS),
    ("outbox.columns.max_attempts", FIELDS),
    ("outbox.status.mode", "statuses::mode_ledger_leaves_the_row_alone"),
    ("outbox.status.status", STATUSES),
    ("outbox.status.sent_at", STATUSES),
    ("outbox.status.sent_flag", STATUSES),
    ("outbox.status.attempts", FAILURES),
    ("outbox.status.next_attempt_at", FAILURES),
    ("outbox.status.last_error", FAILURES),
    ("outbox.status.batch", "effects::a_settle_transaction_is_no_larger_than_the_batch"),
    ("outbox.status.interval", INTERVAL),
    ("outbox.status.labels.pending", STATUSES),
    ("outbox.status.labels.sent", STATUSES),
    ("outbox.status.labels.failed", FAILURES),
    ("outbox.status.labels.retrying", FAILURES),
    ("route.map", BY_TYPE),
    ("route.unmapped", BY_TYPE),
    ("route.topic", "mapping::a_template_over_fields_and_columns_makes_the_topic"),
    ("route.default", "mapping::a_template_over_fields_and_columns_makes_the_topic"),
    ("route.by", BY_PATTERN),
    ("route.regex", BY_PATTERN),
    ("route.replacement", BY_PATTERN),
    ("route.allow", BY_PATTERN),
    ("envelope.format", "records::a_payload_is_the_payload_and_nothing_else"),
    ("envelope.headers", "records::s20_positions_order_events_as_they_were_committed"),
    ("envelope.source", "formats::a_cloudevent_can_be_its_headers_and_the_payload"),
    ("envelope.record_timestamp", "formats::a_records_time_is_that_of_its_commit_or_of_a_column"),
    ("envelope.debezium.key", TOMBSTONE),
    ("envelope.debezium.value", DEBEZIUM),
    ("envelope.debezium.headers", DEBEZIUM),
    ("envelope.debezium.members", DEBEZIUM),
    ("envelope.debezium.tombstone_on_empty", TOMBSTONE),
    ("envelope.debezium.expand", DEBEZIUM),
    ("sink.kind", REDIS),
    ("kafka.bootstrap_servers", "effects::one_broker_of_several_is_enough"),
    ("kafka.properties", "effects::properties_go_to_kafkas_client"),
    ("kafka.properties_file", "effects::properties_go_to_kafkas_client"),
    ("kafka.in_flight_events", "kafka_outage::feedback_goes_on_while_kafka_stalls"),
    ("kafka.in_flight_bytes", "effects::no_more_bytes_are_in_flight_than_is_said"),
    ("kafka.max_in_flight_per_key", PER_KEY),
    ("kafka.create_topics", "topics::a_missing_topic_is_created_where_that_is_wanted"),
    ("kafka.partitions", "topics::a_missing_topic_is_created_where_that_is_wanted"),
    ("kafka.replication", "topics::a_topic_that_cannot_be_created_says_why_and_waits_for_somebody"),
    ("redis.url", REDIS_TLS),
    ("redis.url_file", REDIS),
    ("redis.topology", SENTINEL),
    ("redis.sentinel_master", SENTINEL),
    ("redis.username", REDIS),
    ("redis.password", REDIS_TLS),
    ("redis.password_file", REDIS),
    ("redis.tls_ca", REDIS_TLS),
    ("redis.tls_cert", REDIS_TLS),
    ("redis.tls_key", REDIS_TLS),
    ("redis.durability", REDIS_TLS),
    ("redis.max_len", REDIS_TLS),
    ("redis.trim", REDIS_TLS),
    ("redis.in_flight_events", REDIS),
    ("redis.in_flight_bytes", REDIS),
    ("nats.url", NATS_TLS),
    ("nats.url_file", NATS),
    ("nats.user", NATS_LOGIN),
    ("nats.password", NATS_LOGIN),
    ("nats.password_file", NATS),
    ("nats.token", NATS_LOGIN),
    ("nats.token_file", "sinks_configured::a_token_for_nats_lies_in_a_file"),
    (
        "nats.credentials_file",
        "nats_login::a_credentials_file_logs_in_where_an_operator_has_signed_it",
    ),
    ("nats.tls_ca", NATS_TLS),
    ("nats.tls_cert", NATS_TLS),
    ("nats.tls_key", NATS_TLS),
    ("nats.stream", "nats_streams::another_stream_than_expected_takes_nothing"),
    ("nats.create_streams", NATS_CREATED),
    ("nats.replicas", NATS),
    ("nats.duplicate_window", NATS_CREATED),
    ("nats.in_flight_events", NATS),
    ("nats.in_flight_bytes", NATS),
    ("retry.max_attempts", WAITS),
    ("retry.initial_backoff", WAITS),
    ("retry.max_backoff", WAITS),
    ("retry.jitter", WAITS),
    ("retry.on_exhausted", EXHAUSTED),
    ("held.max_events", BOUND),
    ("held.max_bytes", BOUND),
    ("dead_letter.topic", EXHAUSTED),
    ("dead_letter.default", "holding::an_event_without_a_topic_has_a_dead_letter_topic_too"),
    ("reconcile.interval", "reconcile::a_patrol_reads_what_is_new_and_a_part_of_the_rest"),
    ("reconcile.heal", PATROL),
    ("reconcile.after", PATROL),
    ("cleanup.after", "cleanup::old_sent_rows_go_and_every_other_row_stays"),
    ("cleanup.interval", "cleanup::old_sent_rows_go_and_every_other_row_stays"),
    ("cleanup.batch", "cleanup::batches_are_bounded_and_rows_that_refuse_stay_alone"),
    ("admin.listen", "admin::off_loopback_there_is_no_api"),
    ("admin.console", "console::the_console_is_sealed_and_there_only_where_the_api_is"),
    ("admin.token_file", "operators_http::the_token_opens_what_it_guards"),
    ("admin.hosts", "admin::the_api_answers_to_names_of_its_address_alone"),
    ("metrics.enabled", "metrics::there_are_no_metrics_where_they_are_switched_off"),
    ("log.format", "logs::lines_are_json_or_text"),
    ("log.level", "logs::a_level_leaves_out_what_is_below_it"),
];

#[test]
fn every_key_has_a_test_that_shows_its_effect() {
    let (code, shown, _) = RelayOptions::bare().command_output(&["config", "show"]);
    assert_eq!(code, 0);
    let keys = shown.lines().filter_map(|line| line.split_whitespace().next());
    assert_complete(KEYS, &keys.map(str::to_owned).collect::<BTreeSet<_>>());
}

/// The line of `config show` about a key, without the padding.
fn shown(options: &RelayOptions, arguments: &[&str], key: &str) -> String {
    let (code, shown, said) = options.command_output(&[arguments, &["config", "show"]].concat());
    assert_eq!(code, 0, "{said}");
    let line = shown.lines().find(|line| line.split_whitespace().next() == Some(key));
    line.unwrap().split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn flags_win_over_the_environment_over_the_file_over_the_default() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("outboxd.toml");
    let bare = RelayOptions::bare().directory(directory.path());
    let key = "relay.id";
    assert_eq!(shown(&bare, &[], key), "relay.id = \"outboxd\" # default");
    // The file of the working directory, the one that the environment names, the one of the flag.
    std::fs::write(&file, "[relay]\nid = \"usual\"").unwrap();
    assert_eq!(shown(&bare, &[], key), "relay.id = \"usual\" # file outboxd.toml");
    let write = |name: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, format!("[relay]\nid = \"{name}\"")).unwrap();
        path.display().to_string()
    };
    let (of_environment, of_flag) = (write("b.toml"), write("c.toml"));
    let options = bare.variable("OUTBOXD_CONFIG", &of_environment);
    assert!(shown(&options, &[], key).starts_with("relay.id = \"b.toml\" # file "));
    let by_flag = ["--config", of_flag.as_str()];
    assert!(shown(&options, &by_flag, key).starts_with("relay.id = \"c.toml\" # file "));
    let options = options.set(key, "variable");
    let expected = "relay.id = \"variable\" # environment OUTBOXD__RELAY__ID";
    assert_eq!(shown(&options, &by_flag, key), expected);
    let flags = ["--config", of_flag.as_str(), "--set", "relay.id=flag"];
    assert_eq!(shown(&options, &flags, key), "relay.id = \"flag\" # flag");
    // A file that was named has to be there.
    let (code, _, said) = options.command_output(&["--config", "missing.toml", "check"]);
    assert_eq!((code, said.contains("missing.toml")), (78, true), "{said}");
}

#[test]
fn tables_and_lists_in_the_environment_are_toml_or_json() {
    let (properties, headers) = ("kafka.properties", "envelope.headers");
    for (text, list) in [
        (r#"{"compression.type": "zstd", "linger.ms": 5}"#, r#"["event_id","topic"]"#),
        (r#"{ "compression.type" = "zstd", "linger.ms" = 5 }"#, "['event_id', 'topic']"),
    ] {
        let options = RelayOptions::bare().set(properties, text).set(headers, list);
        let line = shown(&options, &[], properties);
        assert!(line.contains("\"compression.type\" = \"zstd\""), "{line}");
        assert!(line.contains("\"linger.ms\" = 5"), "{line}");
        let line = shown(&options, &[], headers);
        assert!(line.contains(r#"["event_id", "topic"]"#), "{line}");
    }
    let column = RelayOptions::bare().set("outbox.columns", r#"{ tenant_id = { const = "x" } }"#);
    assert!(shown(&column, &[], "outbox.columns.tenant_id").contains("const = \"x\""));
}

const URL: &str = "postgres://u@127.0.0.1:1/d";

/// outboxd config reference > docs/CONFIGURATION.md makes it so.
#[test]
fn the_page_of_the_keys_is_what_the_code_says() {
    let (code, said, _) = RelayOptions::bare().command_output(&["config", "reference"]);
    assert_eq!(code, 0);
    let page = std::fs::read_to_string("docs/CONFIGURATION.md").unwrap();
    for (line, (said, page)) in said.lines().zip(page.lines()).enumerate() {
        assert_eq!(page, said, "docs/CONFIGURATION.md, line {}", line + 1);
    }
    assert_eq!(page, said, "docs/CONFIGURATION.md is shorter or longer");
    assert!(page.matches("\n### `").count() > 80, "not every key is there");
}

#[test]
fn check_says_whether_the_configuration_is_valid_without_a_network() {
    let valid = RelayOptions::bare().variable("DATABASE_URL", URL);
    let (code, said, _) = valid.command_output(&["check"]);
    assert_eq!(code, 0);
    assert!(said.contains("the configuration is valid"), "{said}");
    assert!(said.contains("# environment DATABASE_URL"), "it prints the same as config show");
    for (options, expected) in [
        (RelayOptions::bare(), "postgres.url: not set"),
        (valid.clone().set("relay.shutdown_grace", "25"), "a time with its unit"),
        (valid.clone().set("outbox.status.mode", "upsert"), "one of update, ledger, delete, none"),
        (valid.clone().set("outbox.status.mode", "none"), "outbox.start = \"stream\""),
        (valid.clone().set("kafka.properties", r#"{"acks":"1"}"#), "acks cannot be set: it is"),
        (valid.clone().set("postgres.slot", "No-Slot"), "postgres.slot: expected"),
        (valid.clone().set("cleanup.after", "0s"), "\"\" for never, or a time above 0s"),
        (valid.clone().set("cleanup.after", "7"), "a time with its unit"),
        (valid.clone().set("cleanup.interval", "0s"), "cleanup.interval: expected more than 0s"),
        (valid.clone().set("kafka.replication", "0"), "-1 for the brokers' default"),
        (valid.clone().set("kafka.partitions", "-1"), "a number from 1 to 100000"),
        (valid.clone().set("admin.listen", "9464"), "is not address:port"),
        (valid.clone().set("rely.id", "x"), "did you mean relay.id?"),
        (valid.clone().set("kafka.bootstrap_server", "x"), "did you mean kafka.bootstrap_servers?"),
    ] {
        for command in ["check", "run"] {
            let (code, _, said) = options.command_output(&[command]);
            assert_eq!(code, 78, "{expected}: {said}");
            assert!(said.contains("OBX-1001") && said.contains(expected), "{expected}: {said}");
        }
    }
    let (code, _, said) = valid.command_output(&["check", "--set", "outbox.batch=5"]);
    assert_eq!(code, 78);
    assert!(said.contains("outbox.batch (flag): unknown key"), "{said}");
}

#[tokio::test]
async fn a_url_comes_from_its_file_else_from_database_url() {
    let small = Small::new("url_file").await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("url");
    std::fs::write(&path, format!("{}\n", small.database.url)).unwrap();
    let options = small.options().unset("postgres.url");
    let by_file = options.clone().set("postgres.url_file", path.to_str().unwrap());
    // The file was chosen for us; DATABASE_URL is there for somebody else.
    let by_file = by_file.variable("DATABASE_URL", URL);
    let by_variable = options.variable("DATABASE_URL", &small.database.url);
    for (n, options) in [by_file, by_variable].into_iter().enumerate() {
        let relay = options.start_ready().await;
        small.emit("k", n as i64).await;
        small.wait_for_sent(n as i64 + 1).await;
        assert_eq!(relay.stop().await, 0);
    }
    small.clear().await;
}

const CANARY: &str = "canary-of-a-secret";

fn assert_no_canary(options: &RelayOptions, arguments: &[&str]) {
    let (_, out, complaint) = options.command_output(arguments);
    assert!(!(out.clone() + &complaint).contains(CANARY), "{arguments:?}: {out}{complaint}");
}

/// Passwords in every place that can hold one, right and wrong, and every command.
#[tokio::test]
async fn no_command_prints_a_secret() {
    let small = Small::new("secrets").await;
    let url = small.database.url.replace("postgres@", &format!("postgres:{CANARY}@"));
    let properties = format!(r#"{{"sasl.password": "{CANARY}", "ssl.key.password": "{CANARY}"}}"#);
    let good = small.options().set("postgres.url", &url).set("kafka.properties", &properties);
    assert!(shown(&good, &[], "postgres.url").contains("postgres:***@"));
    assert!(shown(&good, &[], "kafka.properties").contains("\"sasl.password\" = \"***\""));
    let commands: [&[&str]; 9] = [
        &["check"],
        &["config", "show"],
        &["doctor"],
        &["doctor", "-o", "json"],
        &["migrate", "--print"],
        &["migrate"],
        &["slot", "create"],
        &["slot", "show"],
        &["status"],
    ];
    for command in commands {
        let (code, out, said) = good.command_output(command);
        assert_eq!(code, 0, "{command:?}: {out}{said}");
        assert_no_canary(&good, command);
    }
    let relay = good.clone().set("log.level", "trace").start_ready().await;
    small.emit("k", 1).await;
    small.wait_for_sent(1).await;
    let pages = ["/readyz?verbose", "/metrics", "/version", "/api/v1/status", "/api/v1/slot"];
    for page in pages {
        let (code, text) = relay.get(page).await;
        assert!(code == 200 && !text.contains(CANARY), "{page}: {code} {text}");
    }
    assert!(relay.has_logged("TRACE") && !relay.has_logged(CANARY));
    assert_eq!(relay.stop().await, 0);

    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&file, format!("[postgres]\nurl = \"postgres://u:{CANARY}@h/d\n")).unwrap();
    let path = file.path().to_str().unwrap();
    assert_no_canary(&RelayOptions::bare(), &["--config", path, "check"]);
    let flag = format!("postgres.url postgres://u:{CANARY}@h/d");
    assert_no_canary(&good, &["--set", &flag, "check"]);
    let refused = good.clone().set("postgres.url", &url.replace("postgres:", "nobody:"));
    let unreachable = good.clone().set("postgres.url", &format!("postgres://u:{CANARY}@[::1]:1/d"));
    let malformed = good.clone().set("postgres.url", &format!("postgres://u:{CANARY}@h:port/d"));
    let unknown = good.set("kafka.properties", &format!(r#"{{"sasl.pasword": "{CANARY}"}}"#));
    for options in [refused, unreachable, malformed, unknown] {
        for command in ["check", "doctor", "status", "migrate"] {
            assert_no_canary(&options, &[command]);
        }
    }
    small.clear().await;
}

/// The file that a relay is started with is all that it needs.
#[tokio::test]
async fn a_file_alone_is_enough() {
    let small = Small::new("file_alone").await;
    let directory = tempfile::tempdir().unwrap();
    let text = format!(
        "[postgres]\nurl = \"{}\"\nslot = \"{}\"\n[kafka]\nbootstrap_servers = \"{}\"\n\
         [admin]\nlisten = \"127.0.0.1:0\"\n",
        small.database.url, small.database.name, small.kafka.servers
    );
    std::fs::write(directory.path().join("outboxd.toml"), text).unwrap();
    let relay = RelayOptions::bare().directory(directory.path()).start_ready().await;
    small.emit("k", 1).await;
    small.wait_for_sent(1).await;
    assert_eq!(relay.stop().await, 0);
    small.clear().await;
}
