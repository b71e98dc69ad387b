//! Every metric, named once.
//!
//! The names of the first group are those of the systems that the relay replaces, so that their
//! dashboards and alerts go on working. No label ever holds a key, an id or a payload, and no
//! metric costs a scan of the table: the numbers are what the relay knows.

use metrics::{
    Counter, Gauge, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram,
    gauge, histogram,
};

/// Buckets of every histogram of seconds.
pub const SECONDS_BUCKETS: [f64; 16] = [
    0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 600.0,
];
/// Buckets of the batch size.
pub const BATCH_BUCKETS: [f64; 8] = [1.0, 5.0, 10.0, 50.0, 100.0, 250.0, 500.0, 1000.0];
/// The one histogram that does not count seconds.
pub const BATCH_SIZE: &str = "batch_size_histogram";

/// The relay's states, as in the label of `outbox_relay_state`.
pub const STATES: [&str; 7] =
    ["starting", "catching_up", "streaming", "paused", "standby", "stalled", "halted"];
/// What a slot's WAL can be, as in the label of `outbox_slot_wal_status`.
pub const WAL_STATUSES: [&str; 4] = ["reserved", "extended", "unreserved", "lost"];

/// What can fail, and how, as in the labels of `outbox_relay_errors_total`.
const ERRORS: [(&str, &str); 12] = [
    ("postgres", "unavailable"),
    ("kafka", "unavailable"),
    ("kafka", "fatal"),
    ("kafka", "event"),
    ("redis", "unavailable"),
    ("redis", "fatal"),
    ("redis", "event"),
    ("nats", "unavailable"),
    ("nats", "fatal"),
    ("nats", "event"),
    ("cleanup", "refused"),
    ("cleanup", "failed"),
];

macro_rules! meters {
    ($($(#[doc = $doc:literal])+ $field:ident: $kind:ident = $name:literal $(, $label:literal = $value:literal)*;)*) => {
        /// The relay's meters, looked up once.
        #[derive(Clone)]
        pub struct Meters {
            $($(#[doc = $doc])+ pub $field: $kind,)*
        }

        impl Meters {
            /// Registers every meter with the process's recorder.
            pub fn new() -> Self {
                $(describe!($kind, $name, concat!($($doc),+));)*
                describe_shared();
                Self { $($field: register!($kind, $name $(, $label => $value)*),)* }
            }
        }

        /// The names of all meters that [`Meters`] holds.
        pub const NAMES: &[&str] = &[$($name),*];
    };
}

macro_rules! describe {
    (Counter, $name:literal, $doc:expr) => {
        describe_counter!($name, Unit::Count, $doc.trim_start())
    };
    (Gauge, $name:literal, $doc:expr) => {
        describe_gauge!($name, $doc.trim_start())
    };
    (Histogram, $name:literal, $doc:expr) => {
        describe_histogram!($name, $doc.trim_start())
    };
}

macro_rules! register {
    (Counter, $name:literal $(, $label:literal => $value:literal)*) => {
        counter!($name $(, $label => $value)*)
    };
    (Gauge, $name:literal $(, $label:literal => $value:literal)*) => {
        gauge!($name $(, $label => $value)*)
    };
    (Histogram, $name:literal $(, $label:literal => $value:literal)*) => {
        histogram!($name $(, $label => $value)*)
    };
}

meters! {
    /// Events that were read and are not settled.
    new_count: Gauge = "outbox_new_count";
    /// Events that Kafka refused and that are tried again.
    failed_count: Gauge = "outbox_failed_count";
    /// Outcomes of publishing: acknowledged by Kafka.
    publish_sent: Counter = "outbox_publish_total", "status" = "sent";
    /// Outcomes of publishing: refused by Kafka.
    publish_failed: Counter = "outbox_publish_total", "status" = "failed";
    /// Outcomes of publishing: sent again after a refusal.
    publish_retried: Counter = "outbox_publish_total", "status" = "retried";
    /// Outcomes of publishing: left out, because the row was not inserted as pending.
    publish_skipped: Counter = "outbox_publish_total", "status" = "skipped";
    /// Outcomes of publishing: left out, because it was settled before.
    publish_suppressed: Counter = "outbox_publish_total", "status" = "suppressed";
    /// Age of the oldest commit that is not settled; 0 when there is none.
    lag_seconds: Gauge = "outbox_relay_lag_seconds";
    /// Events that were read and are not acknowledged.
    queue_depth: Gauge = "outbox_queue_depth";
    /// Events read from the stream or by a sweep.
    events_added: Counter = "outbox_events_added_total";
    /// Events acknowledged by Kafka.
    events_published: Counter = "outbox_events_published_total";
    /// Events refused by Kafka.
    events_failed: Counter = "outbox_events_failed_total";
    /// From the event's occurred_at to Kafka's acknowledgement.
    event_age: Histogram = "outbox_event_age_seconds";
    /// From commit to Kafka's acknowledgement.
    publish_latency: Histogram = "outbox_publish_latency_seconds";
    /// Time of one settle transaction, as a stage of the relay.
    stage_settle: Histogram = "outbox_relay_processing_seconds", "stage" = "settle";
    /// Time from reading an event to its acknowledgement, as a stage of the relay.
    stage_publish: Histogram = "outbox_relay_processing_seconds", "stage" = "publish";
    /// Events per settle transaction.
    batch_size: Histogram = "batch_size_histogram";
    /// Events that are settled.
    events_processed: Counter = "events_processed_total";
    /// Events refused by Kafka.
    events_failed_alias: Counter = "events_failed_total";
    /// Time from reading an event to its acknowledgement.
    processing_duration: Histogram = "processing_duration_seconds";
    /// Records sent again after a refusal.
    retries: Counter = "outbox_retries_total";
    /// Size of the outbox table with its indexes.
    table_bytes: Gauge = "outbox_table_bytes";
    /// WAL that is not confirmed.
    slot_lag_confirmed: Gauge = "outbox_slot_lag_bytes", "kind" = "confirmed";
    /// WAL that the slot keeps.
    slot_lag_restart: Gauge = "outbox_slot_lag_bytes", "kind" = "restart";
    /// WAL that was not received.
    slot_lag_received: Gauge = "outbox_slot_lag_bytes", "kind" = "received";
    /// WAL that can be written before the slot is in danger; +Inf without a limit.
    slot_safe_wal: Gauge = "outbox_slot_safe_wal_bytes";
    /// Keys that wait for an event that Kafka refused.
    blocked_keys: Gauge = "outbox_blocked_keys";
    /// For how long the oldest refused event has waited.
    blocked_oldest_age: Gauge = "outbox_blocked_oldest_age_seconds";
    /// Time of one settle transaction.
    status_write: Histogram = "outbox_status_write_seconds";
    /// Records that may be in Kafka twice: under way when a session ended.
    redelivered: Counter = "outbox_redelivered_total";
    /// Events that came again and were left out: they were settled, or the sink had them.
    duplicates_suppressed: Counter = "outbox_duplicates_suppressed_total";
    /// Producers that could not go on.
    producer_fatal: Counter = "outbox_producer_fatal_total";
    /// Replication connections made anew.
    reconnects: Counter = "outbox_replication_reconnects_total";
    /// Events that were given up: dead letters, in their topic or only in the database.
    dead_letters: Counter = "events_dlq_total";
    /// Held events: refused, and tried again.
    held_retry: Gauge = "outbox_held_events", "reason" = "retry";
    /// Held events: behind one of their key.
    held_parked: Gauge = "outbox_held_events", "reason" = "parked";
    /// Held events: their topic takes none.
    held_topic: Gauge = "outbox_held_events", "reason" = "topic";
    /// Held events: not due.
    held_scheduled: Gauge = "outbox_held_events", "reason" = "scheduled";
    /// Held events: given up.
    held_dead: Gauge = "outbox_held_events", "reason" = "dead";
    /// How much of what may be held is held, of events or of bytes: 1 is full.
    held_ratio: Gauge = "outbox_held_ratio";
    /// Whether the relay can do its job, as /readyz tells; a standby can.
    ready: Gauge = "outbox_relay_ready";
    /// Rows that are unsent and that the relay does not know of, as it last found.
    missed_events: Gauge = "outbox_missed_events";
    /// What was cleaned up: rows of the outbox.
    cleaned_rows: Counter = "outbox_cleaned_total", "kind" = "row";
    /// What was cleaned up: entries of the ledger.
    cleaned_ledger: Counter = "outbox_cleaned_total", "kind" = "ledger";
    /// What was cleaned up: entries of the audit.
    cleaned_audit: Counter = "outbox_cleaned_total", "kind" = "audit";
    /// What was cleaned up: partitions, dropped with their rows.
    cleaned_partitions: Counter = "outbox_cleaned_total", "kind" = "partition";
    /// Memory of the process.
    memory: Gauge = "outbox_memory_bytes";
}

/// Describes what several series share, and what is looked up where it is shown.
fn describe_shared() {
    describe_counter!("outbox_publish_total", Unit::Count, "Outcomes of publishing, by status.");
    describe_histogram!("outbox_relay_processing_seconds", "Time of a stage of the relay.");
    describe_gauge!(
        "outbox_slot_lag_bytes",
        "WAL that was not confirmed, that was not received, and that the slot keeps (restart)."
    );
    describe_counter!(
        "outbox_cleaned_total",
        Unit::Count,
        "What was cleaned up: rows, entries of ledger and audit, and partitions, which count as one."
    );
    describe_gauge!("outbox_held_events", "Events that are held, by reason.");
    describe_gauge!("outbox_slot_wal_status", "What the slot's WAL is: exactly one is 1.");
    describe_gauge!("outbox_relay_state", "What the relay does: exactly one is 1.");
    describe_counter!(
        "outbox_relay_errors_total",
        Unit::Count,
        "Failures, by the part of the relay and their class."
    );
    describe_gauge!("outbox_build_info", "What was built: always 1.");
}

impl Default for Meters {
    fn default() -> Self {
        Self::new()
    }
}

impl Meters {
    /// Shows how many events are held, in the order of their reasons' names in `status`.
    pub fn show_held(&self, held: [u64; 5]) {
        #[expect(clippy::cast_precision_loss, reason = "shown to people")]
        let [retry, parked, scheduled, topic, dead] = held.map(|count| count as f64);
        self.held_retry.set(retry);
        self.held_parked.set(parked);
        self.held_scheduled.set(scheduled);
        self.held_topic.set(topic);
        self.held_dead.set(dead);
    }
}

/// Counts a failure of a part of the relay.
pub fn count_error(component: &'static str, class: &'static str) {
    counter!("outbox_relay_errors_total", "component" => component, "class" => class).increment(1);
}

/// Shows the state: exactly one is 1.
pub fn show_state(current: &str) {
    for state in STATES {
        gauge!("outbox_relay_state", "state" => state).set(f64::from(u8::from(state == current)));
    }
}

/// Shows what the slot's WAL is: exactly one is 1.
pub fn show_wal_status(current: &str) {
    for status in WAL_STATUSES {
        let shown = f64::from(u8::from(status == current));
        gauge!("outbox_slot_wal_status", "status" => status).set(shown);
    }
}

/// Shows what was built, by the names of the facts.
pub fn show_build(facts: &[(&'static str, String)]) {
    gauge!("outbox_build_info", facts).set(1.0);
    // What appears only when it happens, has not increased.
    for (component, class) in ERRORS {
        counter!("outbox_relay_errors_total", "component" => component, "class" => class)
            .increment(0);
    }
}
