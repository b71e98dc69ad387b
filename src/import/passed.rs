//! What is left: options that need no counterpart, with the reason, and those that nobody knows.

use super::draft::{Draft, Weight};
use super::parse::Options;

/// Options by the beginning of their names, and why they are not taken over.
const KNOWN: &[(&str, Weight, &str)] = &[
    ("name", Weight::Passed, "relay.id names the relay"),
    ("tasks.max", Weight::Passed, "there is one relay per slot"),
    ("topic.prefix", Weight::Passed, "it is in no record without schemas"),
    ("database.server.name", Weight::Passed, "it is in no record without schemas"),
    ("heartbeat.", Weight::Passed, "an idle outbox holds back no WAL"),
    ("topic.heartbeat.", Weight::Passed, "an idle outbox holds back no WAL"),
    ("tombstones.on.delete", Weight::Passed, "deletes are not published"),
    ("skipped.operations", Weight::Passed, "only inserts are published"),
    ("poll.interval.ms", Weight::Passed, "rows are read as they come"),
    ("max.batch.size", Weight::Passed, "kafka.in_flight_events bounds what is under way"),
    ("max.queue.size", Weight::Passed, "kafka.in_flight_bytes bounds what is under way"),
    ("offset", Weight::Passed, "the position is in PostgreSQL: the slot's, and outboxd.relay's"),
    ("lsn.flush.", Weight::Passed, "what Kafka has acknowledged is confirmed, nothing else"),
    ("flush.lsn.source", Weight::Passed, "what Kafka has acknowledged is confirmed, nothing else"),
    ("status.update.interval.ms", Weight::Passed, "it follows the server's wal_sender_timeout"),
    ("slot.", Weight::Passed, "a slot that is not there is asked for again"),
    (
        "errors.",
        Weight::Passed,
        "[retry] and [dead_letter] say what becomes of an event that fails",
    ),
    ("event.processing.failure.", Weight::Passed, "[retry] and [dead_letter] say it"),
    ("retriable.restart.", Weight::Passed, "relay.reconnect_backoff says it"),
    (
        "exactly.once.support",
        Weight::Differs,
        "delivery is at least once; the header id tells copies",
    ),
    ("transaction.boundary", Weight::Passed, "delivery is at least once"),
    ("provide.transaction.metadata", Weight::Differs, "there is no topic of transactions"),
    (
        "decimal.handling.mode",
        Weight::Differs,
        "look at the form of numerics in headers and envelope",
    ),
    ("time.precision.mode", Weight::Differs, "look at the form of times in headers and envelope"),
    (
        "interval.handling.mode",
        Weight::Differs,
        "look at the form of intervals in headers and envelope",
    ),
    ("hstore.handling.mode", Weight::Differs, "look at the form of hstore in headers and envelope"),
    ("binary.handling.mode", Weight::Differs, "a payload of bytea is published byte for byte"),
    ("converters", Weight::Differs, "values are printed as PostgreSQL prints them"),
    ("column.", Weight::Differs, "columns are not left out, masked or cut"),
    ("message.key.columns", Weight::Passed, "the router sets the key"),
    ("message.prefix.", Weight::Differs, "logical messages are not imported"),
    ("predicates", Weight::Passed, "only rows of the outbox table arrive"),
    (
        "topic.creation.",
        Weight::Differs,
        "kafka.create_topics, partitions and replication make topics",
    ),
    ("topic.naming.strategy", Weight::Passed, "the router names the topic"),
    ("topic.", Weight::Passed, "the router names the topic"),
    ("schema.include.list", Weight::Passed, "outbox.table names the table"),
    ("schema.exclude.list", Weight::Passed, "outbox.table names the table"),
    ("table.exclude.list", Weight::Passed, "outbox.table names the table"),
    ("table.ignore.builtin", Weight::Passed, "outbox.table names the table"),
    ("schema.", Weight::Passed, "records have no schema"),
    ("field.name.adjustment.mode", Weight::Passed, "names stay as they are"),
    ("include.", Weight::Passed, "records have no schema, and no value that did not change"),
    ("replica.identity.", Weight::Passed, "inserts need none"),
    (
        "signal.",
        Weight::Differs,
        "there are no signals: outboxd events, slot and reconcile do their work",
    ),
    ("incremental.snapshot.", Weight::Passed, "there is no snapshot"),
    (
        "notification.",
        Weight::Differs,
        "there are no notifications: the state is on /metrics and /api",
    ),
    ("read.only", Weight::Differs, "outboxd writes its position to the database"),
    ("statistics.", Weight::Passed, "metrics are on /metrics"),
    ("custom.metric.tags", Weight::Passed, "metrics are on /metrics"),
    ("openlineage.", Weight::Differs, "lineage is not told"),
    ("sanitize.field.names", Weight::Passed, "names stay as they are"),
    ("database.", Weight::Differs, "set it in the URL, if libpq knows it"),
    ("config.providers", Weight::Passed, "secrets come from files or the environment"),
    ("key.", Weight::Passed, "records have no schema"),
    ("value.", Weight::Passed, "records have no schema"),
    ("quarkus.", Weight::Passed, "[log] and [admin] say it"),
    ("sink.", Weight::Differs, "outboxd publishes to Kafka"),
    ("format.", Weight::Passed, "records have no schema"),
    ("xmin.fetch.interval.ms", Weight::Passed, "the slot holds back what it needs"),
    ("min.row.count.to.stream.results", Weight::Passed, "rows are not buffered"),
    ("query.fetch.size", Weight::Passed, "rows are not buffered"),
    ("unavailable.value.placeholder", Weight::Passed, "an inserted row is always whole"),
    ("executor.shutdown.timeout.ms", Weight::Passed, "relay.shutdown_grace says it"),
];

/// Tells of every option that nobody has taken.
pub(super) fn import(options: &mut Options, draft: &mut Draft) {
    for option in options.names("") {
        options.take(&option);
        let written = options.written(&option);
        match KNOWN.iter().find(|(begins, _, _)| is_of(&option, begins)) {
            Some((_, Weight::Passed, text)) => draft.pass(written, *text),
            Some((_, Weight::Differs, text)) => draft.differs(written, *text),
            None => draft.differs(written, "not known, and not taken over"),
        }
    }
}

/// Whether the option is that one, or below it.
fn is_of(option: &str, begins: &str) -> bool {
    match option.strip_prefix(begins) {
        Some(rest) => begins.ends_with('.') || rest.is_empty() || rest.starts_with('.'),
        None => false,
    }
}
