//! What people are told when something is wrong: a stable code, what happened, what to do.
//!
//! A code never changes its meaning; `docs/OPERATING.md` has a section for each. Texts carry names
//! and numbers, never a payload or a secret.

mod lost;

use std::fmt;

/// A kind of failure. Its number is `OBX-` and four digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Code {
    /// The configuration cannot be used.
    Config,
    /// The column or status map does not fit the table.
    Map,
    /// PostgreSQL does not answer.
    PostgresUnavailable,
    /// PostgreSQL does not let us in.
    PostgresAuth,
    /// PostgreSQL does not let us do something.
    PostgresPermission,
    /// The server does not decode its WAL logically.
    WalLevel,
    /// The server is older than we support.
    ServerVersion,
    /// Our own connection would be a synchronous standby.
    SynchronousStandby,
    /// Our schema is not there.
    SchemaMissing,
    /// The outbox table is not there.
    TableMissing,
    /// The table cannot be an outbox as it is.
    TableUnsuitable,
    /// The server is a standby.
    InRecovery,
    /// PostgreSQL refused something for a reason that we do not know.
    PostgresRefused,
    /// The publication is not there.
    PublicationMissing,
    /// The publication was dropped or changed while the slot existed.
    PublicationLost,
    /// The publication does not publish what is needed.
    PublicationUnsuitable,
    /// The slot is not there.
    SlotMissing,
    /// The slot was invalidated.
    SlotLost,
    /// Somebody moved the slot past what the relay confirmed.
    SlotMoved,
    /// The slot is of another kind.
    SlotUnsuitable,
    /// Something keeps the slot from being created.
    SlotBlocked,
    /// Somebody else reads the slot.
    SlotInUse,
    /// The position belongs to another server or time line.
    IdentityChanged,
    /// The position belongs to a table's rows, and messages are to be read; or the other way round.
    IntakeChanged,
    /// The stream is not one that we understand.
    Protocol,
    /// The table's layout changed under the map.
    LayoutChanged,
    /// A row is larger than allowed.
    RowTooLarge,
    /// A row cannot become an event.
    Unpublishable,
    /// Kafka does not answer.
    KafkaUnavailable,
    /// A topic does not exist.
    TopicMissing,
    /// Kafka does not let us write to a topic.
    TopicDenied,
    /// An event is larger than its topic takes.
    EventTooLarge,
    /// Kafka refused an event.
    EventRefused,
    /// The producer cannot go on.
    ProducerFatal,
    /// A topic has another number of partitions than before.
    PartitionsChanged,
    /// An operator paused a topic.
    TopicPaused,
    /// As many events are held as may be.
    HeldFull,
    /// Kafka's client refuses its configuration.
    KafkaConfig,
    /// Another relay took over.
    Fenced,
    /// Statuses cannot be written.
    StatusWrite,
    /// The stop took longer than its grace.
    GraceExceeded,
    /// The relay has not come far enough yet to tell.
    RelayBehind,
    /// The admin address cannot be listened on.
    AdminListen,
    /// Nothing is held as it was named.
    NotHeld,
    /// A request cannot be carried out as it was made.
    RequestRefused,
    /// The demo finds no PostgreSQL that it could start.
    DemoServer,
    /// The demo saw a promise broken.
    DemoBroken,
    /// A broken invariant.
    Bug,
}

impl Code {
    /// Every code.
    pub const ALL: [Code; 48] = [
        Code::Config,
        Code::Map,
        Code::PostgresUnavailable,
        Code::PostgresAuth,
        Code::PostgresPermission,
        Code::WalLevel,
        Code::ServerVersion,
        Code::SynchronousStandby,
        Code::SchemaMissing,
        Code::TableMissing,
        Code::TableUnsuitable,
        Code::InRecovery,
        Code::PostgresRefused,
        Code::PublicationMissing,
        Code::PublicationLost,
        Code::PublicationUnsuitable,
        Code::SlotMissing,
        Code::SlotLost,
        Code::SlotMoved,
        Code::SlotUnsuitable,
        Code::SlotBlocked,
        Code::SlotInUse,
        Code::IdentityChanged,
        Code::IntakeChanged,
        Code::Protocol,
        Code::LayoutChanged,
        Code::RowTooLarge,
        Code::Unpublishable,
        Code::KafkaUnavailable,
        Code::TopicMissing,
        Code::TopicDenied,
        Code::EventTooLarge,
        Code::EventRefused,
        Code::ProducerFatal,
        Code::PartitionsChanged,
        Code::TopicPaused,
        Code::HeldFull,
        Code::KafkaConfig,
        Code::Fenced,
        Code::StatusWrite,
        Code::GraceExceeded,
        Code::RelayBehind,
        Code::AdminListen,
        Code::NotHeld,
        Code::RequestRefused,
        Code::DemoServer,
        Code::DemoBroken,
        Code::Bug,
    ];

    /// The number that is printed as `OBX-nnnn`.
    pub const fn number(self) -> u16 {
        match self {
            Code::Config => 1001,
            Code::Map => 1002,
            Code::PostgresUnavailable => 2001,
            Code::PostgresAuth => 2002,
            Code::PostgresPermission => 2003,
            Code::WalLevel => 2004,
            Code::ServerVersion => 2005,
            Code::SynchronousStandby => 2006,
            Code::SchemaMissing => 2007,
            Code::TableMissing => 2008,
            Code::TableUnsuitable => 2009,
            Code::InRecovery => 2010,
            Code::PostgresRefused => 2011,
            Code::PublicationMissing => 2020,
            Code::PublicationLost => 2021,
            Code::PublicationUnsuitable => 2022,
            Code::SlotMissing => 2030,
            Code::SlotLost => 2031,
            Code::SlotUnsuitable => 2032,
            Code::SlotBlocked => 2033,
            Code::SlotInUse => 2034,
            Code::SlotMoved => 2035,
            Code::IdentityChanged => 2040,
            Code::IntakeChanged => 2041,
            Code::Protocol => 3001,
            Code::LayoutChanged => 3002,
            Code::RowTooLarge => 3003,
            Code::Unpublishable => 3004,
            Code::KafkaUnavailable => 4001,
            Code::TopicMissing => 4002,
            Code::TopicDenied => 4003,
            Code::EventTooLarge => 4004,
            Code::EventRefused => 4005,
            Code::ProducerFatal => 4006,
            Code::KafkaConfig => 4007,
            Code::PartitionsChanged => 4008,
            Code::TopicPaused => 4009,
            Code::HeldFull => 4010,
            Code::Fenced => 5001,
            Code::StatusWrite => 5002,
            Code::GraceExceeded => 5003,
            Code::RelayBehind => 5004,
            Code::AdminListen => 6001,
            Code::NotHeld => 6002,
            Code::RequestRefused => 6003,
            Code::DemoServer => 7001,
            Code::DemoBroken => 7002,
            Code::Bug => 9001,
        }
    }

    /// What to do, in a sentence.
    pub const fn remedy(self) -> &'static str {
        match self {
            Code::Config => "correct the configuration; `outboxd check` validates it offline",
            Code::Map => "correct [outbox.columns] or [outbox.status] so that they fit the table",
            Code::PostgresUnavailable => {
                "check that PostgreSQL runs and that postgres.url leads to it; the relay keeps trying"
            }
            Code::PostgresAuth => {
                "correct the user, password, certificates or sslmode in postgres.url, or pg_hba.conf"
            }
            Code::PostgresPermission => {
                "grant the relay's role what migrations/0004_roles.sql grants"
            }
            Code::WalLevel => "set wal_level = logical and restart PostgreSQL",
            Code::ServerVersion => "use PostgreSQL 14 or newer",
            Code::SynchronousStandby => {
                "leave application_name of the relay out of synchronous_standby_names: commits would \
                 wait for the relay, and the relay for its own commits"
            }
            Code::SchemaMissing => "run `outboxd migrate` as the owner of the database",
            Code::TableMissing => "run `outboxd migrate`, or name your table in outbox.table",
            Code::TableUnsuitable => "change the table as said",
            Code::InRecovery => "let postgres.url lead to the primary; the relay keeps trying",
            Code::PostgresRefused => "see the reason and the server's log",
            Code::PublicationMissing => {
                "run `outboxd migrate` as the table's owner, or create the publication as said"
            }
            Code::PublicationLost => {
                "rows that were written meanwhile may be missing in the stream: put the publication \
                 right (`outboxd doctor`), run `outboxd slot recover`, and start again, which publishes \
                 every row that is unsent"
            }
            Code::PublicationUnsuitable => "change the publication as said",
            Code::SlotMissing => {
                "if the slot was dropped, run `outboxd slot recover`, then start again, which \
                 publishes every row that is unsent; if it never existed, set postgres.create = true \
                 or run `outboxd slot create`"
            }
            Code::SlotLost => {
                "run `outboxd slot recover`, then start again, which publishes every row that is \
                 unsent; raise max_slot_wal_keep_size"
            }
            Code::SlotMoved => {
                "rows were left out: run `outboxd slot recover`, then start again, which publishes every \
                 row that is unsent; let nothing else read or advance the slot"
            }
            Code::SlotUnsuitable => "name another slot in postgres.slot, or drop this one",
            Code::SlotBlocked => {
                "end the transactions named above, or wait for them; the relay keeps trying"
            }
            Code::SlotInUse => {
                "nothing, if that is another relay: this one waits as standby; otherwise stop what \
                 reads the slot"
            }
            Code::IdentityChanged => {
                "let postgres.url lead to the server of before; if this one replaces it for good, run \
                 `outboxd slot recover` and start again, which publishes every row that is unsent"
            }
            Code::IntakeChanged => {
                "give it a relay.id and a postgres.slot of its own; or, once the old one has published \
                 everything, run `outboxd slot drop` and start again"
            }
            Code::Protocol => "report this with the message; nothing was skipped or confirmed",
            Code::LayoutChanged => {
                "restore the column, or correct [outbox.columns] and start the relay again"
            }
            Code::RowTooLarge => "raise outbox.max_row_bytes, memory allowing, and write it again",
            Code::Unpublishable => {
                "correct what is said in the configuration (routing, columns, encoding) or the writer; \
                 the event is kept (`outboxd dlq list`)"
            }
            Code::KafkaUnavailable => {
                "check that Kafka runs and that kafka.bootstrap_servers leads to it; the relay keeps \
                 trying and loses nothing"
            }
            Code::TopicMissing => "create the topic; the relay sees it within seconds",
            Code::TopicDenied => {
                "allow the relay's principal to write to and describe the topic; the relay keeps trying"
            }
            Code::EventTooLarge => {
                "raise the topic's max.message.bytes; the relay looks before every attempt"
            }
            Code::EventRefused => {
                "see the reason and correct the topic's configuration; an event is tried again by \
                 itself, an answer that is not known stops the relay: report it"
            }
            Code::ProducerFatal => "nothing: the relay has replaced its producer",
            Code::PartitionsChanged => {
                "if the change is meant, run `outboxd resume --topic NAME`: from then on keys go to \
                 the partitions that the new number gives them"
            }
            Code::TopicPaused => "run `outboxd resume --topic NAME` when it may go on",
            Code::HeldFull => {
                "mend what the events are held for, skip or discard some (`outboxd events list`), or \
                 raise held.max_events and held.max_bytes; until then nothing more is read"
            }
            Code::KafkaConfig => "correct kafka.properties",
            Code::Fenced => {
                "nothing, if another relay took over; with relay.standby = true this one waits for its turn"
            }
            Code::StatusWrite => {
                "see the reason; until statuses can be written nothing is confirmed, and nothing is lost"
            }
            Code::GraceExceeded => {
                "nothing is lost: events that were not settled are sent again at the next start; \
                 raise relay.shutdown_grace to avoid it"
            }
            Code::RelayBehind => {
                "wait until the relay has caught up (`outboxd status`), or find out why it does not"
            }
            Code::AdminListen => "choose another admin.listen, or free the port",
            Code::NotHeld => {
                "see `outboxd events list`, `outboxd keys list` and `outboxd dlq list`; it may have \
                 been published meanwhile"
            }
            Code::RequestRefused => "correct the request as said; nothing was changed",
            Code::DemoServer => {
                "install PostgreSQL's server (on Debian: apt-get install postgresql), or say with \
                 --pg-bin or PG_BIN where its initdb and postgres are"
            }
            Code::DemoBroken => "report this with the proof line and the log",
            Code::Bug => "report this with the log; nothing was confirmed that was not settled",
        }
    }

    /// The exit code of a process that ends because of it.
    pub const fn exit_code(self) -> u8 {
        match self {
            Code::NotHeld | Code::RequestRefused => 64,
            Code::PostgresUnavailable
            | Code::InRecovery
            | Code::SlotBlocked
            | Code::SlotInUse
            | Code::KafkaUnavailable
            | Code::TopicMissing
            | Code::PartitionsChanged
            | Code::TopicPaused
            | Code::HeldFull
            | Code::GraceExceeded
            | Code::RelayBehind
            | Code::StatusWrite
            | Code::DemoServer => 69,
            Code::PostgresRefused
            | Code::Protocol
            | Code::ProducerFatal
            | Code::DemoBroken
            | Code::Bug => 70,
            Code::PublicationLost
            | Code::SlotMissing
            | Code::SlotLost
            | Code::SlotMoved
            | Code::IdentityChanged => 73,
            Code::Fenced => 75,
            Code::PostgresAuth | Code::PostgresPermission | Code::TopicDenied => 77,
            Code::Config
            | Code::Map
            | Code::WalLevel
            | Code::ServerVersion
            | Code::SynchronousStandby
            | Code::SchemaMissing
            | Code::TableMissing
            | Code::TableUnsuitable
            | Code::PublicationMissing
            | Code::PublicationUnsuitable
            | Code::SlotUnsuitable
            | Code::IntakeChanged
            | Code::LayoutChanged
            | Code::RowTooLarge
            | Code::Unpublishable
            | Code::EventTooLarge
            | Code::EventRefused
            | Code::KafkaConfig
            | Code::AdminListen => 78,
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OBX-{:04}", self.number())
    }
}

/// One failure: what happened, by its code and in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Its kind.
    pub code: Code,
    /// What happened, without a final stop.
    pub message: String,
    /// What to do, in a sentence: that of the code, where it holds.
    pub remedy: &'static str,
}

impl Failure {
    /// A failure with what happened.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), remedy: code.remedy() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}. {}", self.code, self.message, Sentence(self.remedy))
    }
}

impl std::error::Error for Failure {}

/// An error with its causes: `connect to db:5432: connection refused`.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// A clause as a sentence of its own.
struct Sentence<'a>(&'a str);

impl fmt::Display for Sentence<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut letters = self.0.chars();
        match letters.next() {
            Some(first) => write!(f, "{}{}.", first.to_uppercase(), letters.as_str()),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn numbers_are_distinct_and_four_digits() {
        let numbers: HashSet<_> = Code::ALL.iter().map(|code| code.number()).collect();
        assert_eq!(numbers.len(), Code::ALL.len());
        assert!(numbers.iter().all(|number| (1000..10_000).contains(number)));
    }

    #[test]
    fn a_failure_says_what_happened_and_what_to_do() {
        let failure = Failure::new(Code::WalLevel, "wal_level is \"replica\"");
        assert_eq!(
            failure.to_string(),
            "OBX-2004 wal_level is \"replica\". Set wal_level = logical and restart PostgreSQL."
        );
    }
}
