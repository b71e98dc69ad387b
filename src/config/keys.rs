//! Every key of the configuration: its name, what it takes, its default, what it does.
//!
//! The one place for defaults. `outboxd init`, `outboxd config show` and the checks against
//! misspelt keys all come from this table.

use super::key::{Key, Kind, key};
use Kind::{Boolean, Choice, Duration, Field, Fraction, List, Number, Secret, Size, Table, Text};

const MIB: u64 = 1024 * 1024;

/// All keys, in the order in which `outboxd init` writes them.
pub(super) const KEYS: &[Key] = &[
    key(
        "relay.id",
        Text,
        "\"outboxd\"",
        "Names the relay: several can share a database, each with its own slot and id.",
    ),
    key(
        "relay.shutdown_grace",
        Duration,
        "\"25s\"",
        "How long a stop may take to publish, settle and confirm what was read. A stop within it repeats nothing at the next start.",
    ),
    key(
        "relay.standby",
        Boolean,
        "true",
        "Wait as hot standby while another relay has the place; otherwise end with code 75.",
    ),
    key(
        "relay.paused",
        Boolean,
        "false",
        "Start paused: nothing is read or published until `outboxd resume`.",
    ),
    key(
        "relay.reconnect_backoff",
        Duration,
        "\"200ms\"",
        "The first wait before connecting again; it doubles with every failure.",
    ),
    key("relay.reconnect_max", Duration, "\"30s\"", "The longest wait before connecting again."),
    key(
        "postgres.url",
        Secret,
        "",
        "The database: postgres://user:password@host:port/database, or key=value pairs. Of several hosts, separated by commas, the first that is a primary is taken; host=/directory is a Unix socket. sslmode, sslrootcert, sslcert and sslkey are libpq's; without sslmode certificates are verified (verify-full) unless the host is local. DATABASE_URL counts where this is not set.",
    ),
    key("postgres.url_file", Text, "", "A file that holds the URL."),
    key("postgres.slot", Text, "\"outboxd\"", "The replication slot: one per relay."),
    key(
        "postgres.publication",
        Text,
        "\"outboxd\"",
        "The publication that contains the outbox table.",
    ),
    key(
        "postgres.create",
        Boolean,
        "true",
        "Create publication and slot, in this order, where they are missing.",
    ),
    key(
        "postgres.failover_slot",
        Choice(&["auto", "off"]),
        "\"auto\"",
        "Make the slot one that survives a failover to a standby of the server. auto: from PostgreSQL 17 on, which has them.",
    ),
    key(
        "postgres.on_slot_lost",
        Choice(&["halt", "recover"]),
        "\"halt\"",
        "When the slot is lost or missing, or the server is another one: halt, for a person to decide (`outboxd slot recover`); or recover: make a new slot and publish every unsent row.",
    ),
    key(
        "outbox.table",
        Text,
        "\"public.outbox\"",
        "The outbox table, quoted as in SQL where need be.",
    ),
    key(
        "outbox.payload_encoding",
        Choice(&["auto", "text"]),
        "\"auto\"",
        "What a payload column of type text holds: JSON (auto), or any text.",
    ),
    key(
        "outbox.max_row_bytes",
        Size(1024, 1024 * MIB),
        "\"32MiB\"",
        "The largest row that is read.",
    ),
    key(
        "outbox.start",
        Choice(&["pending", "stream"]),
        "\"pending\"",
        "pending: also publish the unsent rows that are older than the first slot. stream: only what is written from then on; status mode none needs it.",
    ),
    key(
        "outbox.sweep_order",
        List,
        "[]",
        "The columns that order the rows older than the slot. Default: seq if there is one, else occurred_at and id, with a warning.",
    ),
    key("outbox.columns.id", Field, "\"id\"", "What identifies an event for ever."),
    key(
        "outbox.columns.aggregate_type",
        Field,
        "\"aggregate_type\"",
        "The kind of the thing that changed.",
    ),
    key(
        "outbox.columns.aggregate_id",
        Field,
        "\"aggregate_id\"",
        "The thing that changed; the record's key where there is no other.",
    ),
    key("outbox.columns.event_type", Field, "\"event_type\"", "What happened."),
    key(
        "outbox.columns.payload",
        Field,
        "\"payload\"",
        "What is published: jsonb, json, text or bytea.",
    ),
    key(
        "outbox.columns.headers",
        Field,
        "\"headers\"",
        "A JSON object whose members become record headers.",
    ),
    key("outbox.columns.topic", Field, "\"topic\"", "The topic, where the row names it."),
    key(
        "outbox.columns.key",
        Field,
        "\"partition_key\"",
        "The record's key, where it is not the aggregate's id.",
    ),
    key(
        "outbox.columns.partition_by",
        Field,
        "\"\"",
        "What chooses the partition, where it is not the key.",
    ),
    key("outbox.columns.partition", Field, "\"\"", "The partition itself, an integer."),
    key("outbox.columns.tenant_id", Field, "\"tenant_id\"", "Whose event it is."),
    key(
        "outbox.columns.schema_version",
        Field,
        "\"schema_version\"",
        "The version of the payload's schema.",
    ),
    key(
        "outbox.columns.occurred_at",
        Field,
        "\"occurred_at\"",
        "When it happened; a timestamp without time zone is UTC.",
    ),
    key(
        "outbox.columns.scheduled_at",
        Field,
        "\"scheduled_at\"",
        "When it is due. An event that is not due stops this version, rather than go early.",
    ),
    key(
        "outbox.columns.dedup_key",
        Field,
        "\"dedup_key\"",
        "What else identifies the event, for the log and for envelope.headers.",
    ),
    key(
        "outbox.columns.max_attempts",
        Field,
        "\"max_attempts\"",
        "How often the event's delivery is tried, an integer; null and what is below 1 say nothing.",
    ),
    key(
        "outbox.status.mode",
        Choice(&["update", "ledger", "delete", "none"]),
        "\"update\"",
        "Where statuses go: into the row (update), into outboxd.ledger (ledger), the row is removed (delete), nowhere (none).",
    ),
    key(
        "outbox.status.status",
        Text,
        "\"status\"",
        "The status column, text or enum; \"\" if there is none.",
    ),
    key(
        "outbox.status.sent_at",
        Text,
        "\"sent_at\"",
        "The column of the time of sending; without time zone it holds UTC.",
    ),
    key(
        "outbox.status.sent_flag",
        Text,
        "\"\"",
        "The boolean column that says that the row was sent.",
    ),
    key(
        "outbox.status.attempts",
        Text,
        "\"attempts\"",
        "A number that counts failed attempts; \"\" for none.",
    ),
    key(
        "outbox.status.next_attempt_at",
        Text,
        "\"next_attempt_at\"",
        "A timestamp that says when a failed event is tried again; \"\" for none.",
    ),
    key(
        "outbox.status.last_error",
        Text,
        "\"last_error\"",
        "A text that says why the last attempt failed; \"\" for none.",
    ),
    key(
        "outbox.status.batch",
        Number(1, 100_000),
        "1000",
        "The most events in one settle transaction.",
    ),
    key(
        "outbox.status.interval",
        Duration,
        "\"20ms\"",
        "How long an acknowledged event may wait for others before it is settled.",
    ),
    key(
        "outbox.status.labels.pending",
        Text,
        "\"PENDING\"",
        "The status of a row that is to be published. A row inserted with another one is not.",
    ),
    key(
        "outbox.status.labels.sent",
        Text,
        "\"SENT\"",
        "The status of a row that Kafka acknowledged.",
    ),
    key(
        "outbox.status.labels.failed",
        Text,
        "\"FAILED\"",
        "The status of a row whose event was given up.",
    ),
    key(
        "outbox.status.labels.retrying",
        Text,
        "\"FAILED\"",
        "The status of a row whose event failed and is tried again. It may be the pending one.",
    ),
    key(
        "route.topic",
        Text,
        "\"{topic}\"",
        "The topic, if every name in braces has a value: fields of the event, or columns.",
    ),
    key("route.default", Text, "\"outbox.{aggregate_type}\"", "The topic otherwise."),
    key(
        "envelope.format",
        Choice(&["envelope", "payload"]),
        "\"envelope\"",
        "The record's value: JSON around the payload, or the payload alone.",
    ),
    key(
        "envelope.headers",
        List,
        "",
        "The record headers beside the row's own: event_id, position, content_type, fields and columns. Default: event_id; with format payload also event_type.",
    ),
    key(
        "kafka.bootstrap_servers",
        Text,
        "\"localhost:9092\"",
        "host:port of some brokers, separated by commas.",
    ),
    key(
        "kafka.properties",
        Table,
        "{}",
        "librdkafka's properties, such as security.protocol, sasl.* and compression.type.",
    ),
    key(
        "kafka.properties_file",
        Text,
        "",
        "A file with more of them, name=value in each line; for secrets.",
    ),
    key(
        "kafka.in_flight_events",
        Number(1, 10_000_000),
        "10000",
        "The most events that are read and not settled: what a crash can repeat.",
    ),
    key(
        "kafka.in_flight_bytes",
        Size(1024, 1024 * MIB),
        "\"64MiB\"",
        "The most bytes of events that are read and not acknowledged.",
    ),
    key(
        "kafka.max_in_flight_per_key",
        Number(1, 1_000_000),
        "1",
        "Events of one key that are under way at once. Above 1, order holds through everything but a record that Kafka refuses for good.",
    ),
    key(
        "kafka.create_topics",
        Boolean,
        "false",
        "Create a topic that does not exist, rather than wait for somebody to do it.",
    ),
    key(
        "kafka.partitions",
        Number(1, 100_000),
        "6",
        "How many partitions a topic has that the relay creates.",
    ),
    key(
        "kafka.replication",
        Number(-1, 1000),
        "-1",
        "How many brokers keep each partition of it; -1 for what the brokers are configured to.",
    ),
    key(
        "retry.max_attempts",
        Number(1, 1_000_000),
        "5",
        "How often an event that Kafka refuses is tried, the first attempt included. A row can say otherwise (outbox.columns.max_attempts).",
    ),
    key(
        "retry.initial_backoff",
        Duration,
        "\"1s\"",
        "The wait after the first failed attempt; it doubles with every other.",
    ),
    key("retry.max_backoff", Duration, "\"60s\"", "The longest wait between attempts."),
    key(
        "retry.jitter",
        Fraction,
        "0.2",
        "By how much of itself a wait varies, so that many events do not come back at once.",
    ),
    key(
        "retry.on_exhausted",
        Choice(&["dead_letter", "block"]),
        "\"dead_letter\"",
        "What becomes of an event without an attempt left: dead_letter sends it to the dead-letter topic, and its key goes on; block lets its key wait for an operator.",
    ),
    key(
        "held.max_events",
        Number(1, 10_000_000),
        "100000",
        "How many events can be held (retry, parked and topic). Beyond it nothing more is read.",
    ),
    key(
        "held.max_bytes",
        Size(1024, 1024 * 1024 * MIB),
        "\"1GiB\"",
        "How many bytes of events can be held.",
    ),
    key(
        "dead_letter.topic",
        Text,
        "\"{topic}.dlq\"",
        "Where dead letters go; {topic} is the event's own. \"\" keeps them in outboxd.held_event only.",
    ),
    key(
        "dead_letter.default",
        Text,
        "\"outbox.dlq\"",
        "Where dead letters go of events that have no topic; \"\" keeps them in outboxd.held_event only.",
    ),
    key(
        "reconcile.interval",
        Duration,
        "\"5m\"",
        "How often the relay looks for rows that are unsent and that it does not know of: it warns. What is new is read, and 32 MiB of the rest in turn. 0s: never.",
    ),
    key("reconcile.heal", Boolean, "false", "Publish such rows, late as they are."),
    key("reconcile.after", Duration, "\"1m\"", "How long a row may be unsent before it counts."),
    key(
        "cleanup.after",
        Duration,
        "\"\"",
        "How long ago an event was sent whose row is removed, as in \"7d\"; entries of the ledger and the audit go after the same time. \"\": never.",
    ),
    key("cleanup.interval", Duration, "\"1h\"", "From one cleanup to the next."),
    key(
        "cleanup.batch",
        Number(1, 100_000),
        "1000",
        "The most rows that a cleanup removes in one transaction. It rests after each.",
    ),
    key(
        "admin.listen",
        Text,
        "\"127.0.0.1:9464\"",
        "The address of health, metrics and status; \"\" for none.",
    ),
    key(
        "admin.token_file",
        Text,
        "\"\"",
        "A file with the token that changes over HTTP need (Authorization: Bearer). Without one they are refused, and off loopback there is no /api.",
    ),
    key(
        "admin.hosts",
        List,
        "[]",
        "More Host names that /api answers to, besides the address itself and localhost.",
    ),
    key("metrics.enabled", Boolean, "true", "Serve /metrics."),
    key(
        "log.format",
        Choice(&["auto", "text", "json"]),
        "\"auto\"",
        "auto: text on a terminal, JSON otherwise.",
    ),
    key(
        "log.level",
        Choice(&["error", "warn", "info", "debug", "trace"]),
        "\"info\"",
        "How much is logged. debug: every event, without its payload.",
    ),
];

/// The key of that name.
pub(super) fn by_path(path: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.path == path)
}

/// Whether `path` names a section.
pub(super) fn is_section(path: &str) -> bool {
    KEYS.iter().any(|key| key.path.strip_prefix(path).is_some_and(|rest| rest.starts_with('.')))
}

/// The key or section that someone who wrote `path` may have meant.
pub(super) fn suggestion(path: &str) -> Option<&'static str> {
    let sections =
        KEYS.iter().filter_map(|key| key.path.rsplit_once('.').map(|(section, _)| section));
    let candidates = KEYS.iter().map(|key| key.path).chain(sections);
    let leaf = |path: &'static str| path.rsplit_once('.').map_or(path, |(_, leaf)| leaf);
    let asked = path.rsplit_once('.').map_or(path, |(_, leaf)| leaf);
    let score = |candidate: &'static str| {
        // The right name in the wrong section is as good as a misspelt one in the right section.
        let by_leaf = if leaf(candidate) == asked { 0.9 } else { 0.0 };
        strsim::jaro_winkler(path, candidate).max(by_leaf)
    };
    let best = candidates.max_by(|a, b| score(a).total_cmp(&score(b)))?;
    (score(best) > 0.8).then_some(best)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_described_once_and_has_a_default_that_can_be_read() {
        for key in KEYS {
            assert!(key.doc.ends_with('.') && key.doc.len() > 10, "{}", key.path);
            assert_eq!(KEYS.iter().filter(|other| other.path == key.path).count(), 1);
            if !key.default.is_empty() {
                let line = format!("key = {}", key.default);
                assert!(line.parse::<toml::Table>().is_ok(), "{line}");
            }
        }
    }

    #[test]
    fn misspelt_and_misplaced_keys_are_recognised() {
        assert_eq!(suggestion("kafka.bootstrap_server"), Some("kafka.bootstrap_servers"));
        assert_eq!(suggestion("relay.shutdown_grce"), Some("relay.shutdown_grace"));
        assert_eq!(suggestion("outbox.mode"), Some("outbox.status.mode"));
        assert_eq!(suggestion("postgress"), Some("postgres"));
        assert_eq!(suggestion("xyzzy"), None);
    }
}
