//! Keys of what may go wrong on the way, and who looks on.

use super::super::key::{Key, Kind, key};
use super::MIB;
use Kind::{Boolean, Choice, Duration, Fraction, List, Number, Size, Text};

pub(super) const KEYS: &[Key] = &[
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
        "How often the relay looks for rows that are unsent and that it does not know of: it warns. What is new is read, and 32 MiB of the rest in turn. Also for scheduled rows that say an earlier time by now: they are taken at it. 0s: never.",
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
        "More Host names that /api and the console answer to, besides the address itself and localhost.",
    ),
    key(
        "admin.console",
        Boolean,
        "true",
        "Serve the console, a web page, at /console/. Where there is no /api there is none.",
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
