//! The reference of the configuration, as Markdown: docs/CONFIGURATION.md.

use std::fmt::Write as _;

use super::key::{Key, Kind};
use super::keys::{by_path, keys};
use super::settings::expected;

/// What comes before the keys.
const HEAD: &str = include_str!("reference.md");

/// What a section is about, where its keys alone do not tell.
const INTRODUCTIONS: [(&str, &str); 21] = [
    ("relay", "The process itself: its name, its stop, its patience."),
    (
        "postgres",
        "Where the WAL comes from. What the server and the role need is in [OPERATING](OPERATING.md#install), and for \
         services that somebody else runs in [MANAGED](MANAGED.md).",
    ),
    ("outbox", "The table, or the messages that take its place, and how much of it is published."),
    (
        "outbox.columns",
        "Which column holds what ([TABLES](TABLES.md)). Each is a column, `\"\"` for none, or `{ column = \"…\" }`, \
         `{ payload = \"/json/pointer\" }`, `{ const = \"…\" }`, each with an optional `default`. `id`, `payload` and \
         `headers` must be columns. A column that is only our default may be missing in the table, one that you name \
         may not.",
    ),
    (
        "outbox.status",
        "How a row says what became of its event. Each column is optional; what it costs is in \
         [PERFORMANCE](PERFORMANCE.md).",
    ),
    ("outbox.status.labels", "What the status column says."),
    (
        "route",
        "Which topic an event goes to: by `route.map`, else by `route.topic` if the row has all that it names, else by \
         `route.regex` or `route.default`. `outboxd route --row` shows it.",
    ),
    ("envelope", "What a record looks like ([RECORDS](RECORDS.md))."),
    (
        "envelope.debezium",
        "What else Debezium's outbox event router can be told; only for its format.",
    ),
    (
        "kafka",
        "Brokers, and how much is under way at once ([SIZING](SIZING.md)).\n\n\
         These properties of librdkafka cannot be set, because promises rest on them: `acks`, `enable.idempotence`, \
         `enable.gapless.guarantee`, `message.timeout.ms`, `retries`, `transactional.id`, `partitioner`, `batch.size`, \
         `batch.num.messages`, `message.max.bytes`, `queue.buffering.max.*`, `max.in.flight`, and their aliases. Of the \
         others, `linger.ms` is 0 unless you set it: a few milliseconds make larger batches at the price of latency.",
    ),
    ("sink", "Which system takes the events ([SINKS](SINKS.md)). Only its own section is used."),
    (
        "redis",
        "Redis Streams, with `sink.kind = \"redis\"`: a topic is a stream. Certificates are verified; password and \
         certificates are read again on SIGHUP.",
    ),
    (
        "nats",
        "NATS JetStream, with `sink.kind = \"nats\"`: a topic is a subject, which a stream has to have. Certificates \
         are verified; password, token and certificates are read again on SIGHUP.",
    ),
    ("retry", "An event that the sink refuses. A sink that is away uses up no attempt."),
    (
        "held",
        "How many events may wait in `outboxd.held_event`: for another attempt, behind another one of their key, or for \
         their topic. Beyond it the relay stops reading (OBX-4010).",
    ),
    ("dead_letter", "Where events go that were given up."),
    ("reconcile", "Rows that no stream brings ([OPERATING](OPERATING.md))."),
    (
        "cleanup",
        "What is removed, and when ([OPERATING](OPERATING.md#cleanup)). Nothing, unless you say so.",
    ),
    (
        "admin",
        "Health, metrics, status and operators' requests over HTTP. Probes and `/metrics` answer to any Host. Off \
         loopback, as in a container, `/api` needs a token.",
    ),
    ("metrics", "For Prometheus ([OPERATING](OPERATING.md#metrics))."),
    ("log", "On standard error."),
];

/// What may be written, for keys whose default shows nothing of it.
const EXAMPLES: [(&str, &str); 51] = [
    (
        "postgres.url",
        r#""postgres://outboxd@db.internal:5432/app?sslrootcert=/etc/outboxd/ca.pem""#,
    ),
    ("postgres.url_file", r#""/run/secrets/postgres-url""#),
    ("outbox.table", r#""billing.\"Outbox\"""#),
    ("outbox.message_prefix", r#""orders""#),
    ("outbox.sweep_order", r#"["created_at", "id"]"#),
    ("outbox.columns.aggregate_type", r#"{ const = "order" }"#),
    ("outbox.columns.topic", r#"{ column = "destination", default = "orders" }"#),
    ("outbox.columns.partition_by", r#"{ payload = "/customer/id" }"#),
    ("outbox.columns.partition", r#""shard""#),
    ("outbox.status.sent_flag", r#""published""#),
    ("outbox.status.labels.retrying", r#""PENDING""#),
    ("route.map", r#"{ "UserCreated" = "identity.user.v1" }"#),
    ("route.topic", r#""{tenant_id}.{aggregate_type}""#),
    ("route.regex", r#""(?<kind>[a-z]+)-.*""#),
    ("route.replacement", r#""events.${kind}""#),
    ("route.allow", r#"["orders\\..*", "billing"]"#),
    ("envelope.headers", r#"["event_id", "position", "type=event_type"]"#),
    ("envelope.record_timestamp", r#""occurred_at""#),
    ("envelope.debezium.members", r#"["event_type", "tenant=tenant_id"]"#),
    ("kafka.bootstrap_servers", r#""kafka-1:9092,kafka-2:9092""#),
    ("kafka.properties", r#"{ "security.protocol" = "SASL_SSL", "compression.type" = "zstd" }"#),
    ("kafka.properties_file", r#""/run/secrets/kafka.properties""#),
    ("redis.url", r#""rediss://redis-1.internal:6380/0""#),
    ("redis.url_file", r#""/run/secrets/redis-url""#),
    ("redis.sentinel_master", r#""mymaster""#),
    ("redis.username", r#""outboxd""#),
    ("redis.password", r#""of the user""#),
    ("redis.password_file", r#""/run/secrets/redis-password""#),
    ("redis.tls_ca", r#""/etc/outboxd/ca.pem""#),
    ("redis.tls_cert", r#""/etc/outboxd/relay.pem""#),
    ("redis.tls_key", r#""/run/secrets/relay.key""#),
    ("redis.durability", r#""replicas:1""#),
    ("nats.url", r#""tls://nats-1.internal:4222,tls://nats-2.internal:4222""#),
    ("nats.url_file", r#""/run/secrets/nats-url""#),
    ("nats.user", r#""outboxd""#),
    ("nats.password", r#""of the user""#),
    ("nats.password_file", r#""/run/secrets/nats-password""#),
    ("nats.token", r#""of the relay""#),
    ("nats.token_file", r#""/run/secrets/nats-token""#),
    ("nats.credentials_file", r#""/run/secrets/outboxd.creds""#),
    ("nats.tls_ca", r#""/etc/outboxd/ca.pem""#),
    ("nats.tls_cert", r#""/etc/outboxd/relay.pem""#),
    ("nats.tls_key", r#""/run/secrets/relay.key""#),
    ("nats.stream", r#""ORDERS""#),
    ("dead_letter.topic", r#""dead.{topic}""#),
    ("reconcile.interval", r#""0s""#),
    ("cleanup.after", r#""7d""#),
    ("admin.listen", r#""0.0.0.0:9464""#),
    ("admin.token_file", r#""/run/secrets/admin-token""#),
    ("admin.hosts", r#"["outboxd.internal"]"#),
    ("log.level", r#""debug""#),
];

/// The whole of it.
pub(super) fn reference() -> String {
    let mut out = HEAD.to_owned();
    let mut section = "";
    for key in keys() {
        let of_key = section_of(key);
        if of_key != section {
            section = of_key;
            let _ = write!(out, "\n## `[{section}]`\n\n");
            for paragraph in introduction(section).into_iter().flat_map(|text| text.split("\n\n")) {
                let _ = writeln!(out, "{paragraph}\n");
            }
        } else {
            out.push('\n');
        }
        describe(&mut out, key);
    }
    out
}

fn section_of(key: &Key) -> &'static str {
    key.path.rsplit_once('.').map_or(key.path, |(section, _)| section)
}

fn introduction(section: &str) -> Option<&'static str> {
    INTRODUCTIONS.iter().find(|(name, _)| *name == section).map(|(_, text)| *text)
}

fn describe(out: &mut String, key: &Key) {
    let variable = key.path.replace('.', "__").to_uppercase();
    let default = match key.default {
        "" => "not set".to_owned(),
        default => format!("`{default}`"),
    };
    // Writing to memory cannot fail.
    let _ = writeln!(out, "### `{}`\n\n{}\n", key.path, in_markdown(key.doc));
    let _ = writeln!(out, "- Takes: {}", takes(key.kind));
    let _ = writeln!(out, "- Default: {default}");
    let _ = writeln!(out, "- Environment: `OUTBOXD__{variable}`");
    if let Some(twin) = by_path(&format!("{}_file", key.path)) {
        let _ = writeln!(out, "- In a file: `{}`", twin.path);
    }
    if let Some((_, example)) = EXAMPLES.iter().find(|(path, _)| *path == key.path) {
        let name = key.path.rsplit('.').next().unwrap_or(key.path);
        let _ = writeln!(out, "- Example: `{name} = {example}`");
    }
}

/// What a key takes, with words to write in code.
fn takes(kind: Kind) -> String {
    match kind {
        Kind::Secret => "text; shown without its password".to_owned(),
        Kind::Choice(words) => {
            let words: Vec<_> = words.iter().map(|word| format!("`\"{word}\"`")).collect();
            words.join(", ")
        }
        Kind::Duration => "a time with its unit".to_owned(),
        Kind::List => "a list of texts".to_owned(),
        Kind::Table => "a table of texts".to_owned(),
        Kind::Field => "a column, or what takes its place".to_owned(),
        _ => expected(kind).replace(" with its unit, as in \"64MiB\"", ""),
    }
}

/// Text in which an asterisk is one, and an angle bracket, too.
fn in_markdown(text: &str) -> String {
    text.replace('*', "\\*").replace('<', "\\<")
}

#[cfg(test)]
mod tests {
    use super::super::settings::Settings;
    use super::*;

    #[test]
    fn every_section_is_introduced_and_nothing_else() {
        for key in keys() {
            assert!(introduction(section_of(key)).is_some(), "{}", key.path);
        }
        for (section, _) in INTRODUCTIONS {
            assert!(keys().any(|key| section_of(key) == section), "there is no [{section}]");
        }
    }

    /// A key without a default, or with an empty one, says by an example what it takes; and every example
    /// is a value of its key.
    #[test]
    fn examples_are_there_where_they_are_needed_and_can_be_read() {
        for key in keys().filter(|key| matches!(key.default, "" | "\"\"" | "[]" | "{}")) {
            // Columns of other names than ours show no more than the ones that are shown.
            let has_example = EXAMPLES.iter().any(|(path, _)| *path == key.path);
            assert!(has_example, "{} has no example", key.path);
        }
        for (path, example) in EXAMPLES {
            let (section, name) = path.rsplit_once('.').unwrap();
            let mut settings = Settings::with_defaults();
            settings.read_file("example", &format!("[{section}]\n{name} = {example}\n"));
            assert_eq!(settings.take_problems(), Vec::<String>::new(), "{path}");
            assert!(settings.is_chosen(path), "{path}");
        }
    }
}
