//! What people are told when something is wrong: a stable code, what happened, what to do.
//!
//! A code never changes its meaning; `docs/OPERATING.md` has a section for each. Texts carry names
//! and numbers, never a payload or a secret.

mod lost;
mod remedy;

use std::fmt;

/// A kind of failure. Its number is `OBX-` and four digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Code {
    /// The configuration cannot be used.
    Config,
    /// The column or status map does not fit the table.
    Map,
    /// A setting leaves something open that could be guarded.
    Unprotected,
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
    /// A setting of the server does not suit the relay.
    ServerSetting,
    /// The server has no slot or walsender left.
    NoRoom,
    /// The table makes the relay's work dearer than it needs to be, or puts it at risk.
    TableCostly,
    /// The relay's role may do more than it needs.
    RoleTooStrong,
    /// The relay's clock and PostgreSQL's differ.
    ClockSkew,
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
    /// The server keeps much WAL or old rows, or may do so without a limit.
    WalKept,
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
    /// The sink does not answer.
    SinkUnavailable,
    /// A topic does not exist.
    TopicMissing,
    /// The sink does not let us write to a topic.
    TopicDenied,
    /// An event is larger than its topic takes.
    EventTooLarge,
    /// The sink refused an event.
    EventRefused,
    /// The producer cannot go on.
    ProducerFatal,
    /// A topic has another number of partitions than before.
    PartitionsChanged,
    /// An operator paused a topic.
    TopicPaused,
    /// As many events are held as may be.
    HeldFull,
    /// There is no TLS connection to the sink.
    SinkTls,
    /// The sink does not let us in.
    SinkAuth,
    /// A topic's settings put its records at risk, or keep them out.
    TopicRisky,
    /// The sink's client refuses its configuration.
    SinkConfig,
    /// Another relay took over.
    Fenced,
    /// Statuses cannot be written.
    StatusWrite,
    /// The stop took longer than its grace.
    GraceExceeded,
    /// The relay has not come far enough yet to tell.
    RelayBehind,
    /// The relay did not become ready in time.
    NotReady,
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
    pub const ALL: [Code; 59] = [
        Code::Config,
        Code::Map,
        Code::Unprotected,
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
        Code::ServerSetting,
        Code::NoRoom,
        Code::TableCostly,
        Code::RoleTooStrong,
        Code::ClockSkew,
        Code::PublicationMissing,
        Code::PublicationLost,
        Code::PublicationUnsuitable,
        Code::SlotMissing,
        Code::SlotLost,
        Code::SlotMoved,
        Code::WalKept,
        Code::SlotUnsuitable,
        Code::SlotBlocked,
        Code::SlotInUse,
        Code::IdentityChanged,
        Code::IntakeChanged,
        Code::Protocol,
        Code::LayoutChanged,
        Code::RowTooLarge,
        Code::Unpublishable,
        Code::SinkUnavailable,
        Code::TopicMissing,
        Code::TopicDenied,
        Code::EventTooLarge,
        Code::EventRefused,
        Code::ProducerFatal,
        Code::PartitionsChanged,
        Code::TopicPaused,
        Code::HeldFull,
        Code::SinkTls,
        Code::SinkAuth,
        Code::TopicRisky,
        Code::SinkConfig,
        Code::Fenced,
        Code::StatusWrite,
        Code::GraceExceeded,
        Code::RelayBehind,
        Code::NotReady,
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
            Code::Unprotected => 1003,
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
            Code::ServerSetting => 2012,
            Code::NoRoom => 2013,
            Code::TableCostly => 2014,
            Code::RoleTooStrong => 2015,
            Code::ClockSkew => 2016,
            Code::PublicationMissing => 2020,
            Code::PublicationLost => 2021,
            Code::PublicationUnsuitable => 2022,
            Code::SlotMissing => 2030,
            Code::SlotLost => 2031,
            Code::SlotUnsuitable => 2032,
            Code::SlotBlocked => 2033,
            Code::SlotInUse => 2034,
            Code::SlotMoved => 2035,
            Code::WalKept => 2036,
            Code::IdentityChanged => 2040,
            Code::IntakeChanged => 2041,
            Code::Protocol => 3001,
            Code::LayoutChanged => 3002,
            Code::RowTooLarge => 3003,
            Code::Unpublishable => 3004,
            Code::SinkUnavailable => 4001,
            Code::TopicMissing => 4002,
            Code::TopicDenied => 4003,
            Code::EventTooLarge => 4004,
            Code::EventRefused => 4005,
            Code::ProducerFatal => 4006,
            Code::SinkConfig => 4007,
            Code::PartitionsChanged => 4008,
            Code::TopicPaused => 4009,
            Code::HeldFull => 4010,
            Code::SinkTls => 4011,
            Code::SinkAuth => 4012,
            Code::TopicRisky => 4013,
            Code::Fenced => 5001,
            Code::StatusWrite => 5002,
            Code::GraceExceeded => 5003,
            Code::RelayBehind => 5004,
            Code::NotReady => 5005,
            Code::AdminListen => 6001,
            Code::NotHeld => 6002,
            Code::RequestRefused => 6003,
            Code::DemoServer => 7001,
            Code::DemoBroken => 7002,
            Code::Bug => 9001,
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
            | Code::SinkUnavailable
            | Code::TopicMissing
            | Code::PartitionsChanged
            | Code::TopicPaused
            | Code::HeldFull
            | Code::GraceExceeded
            | Code::RelayBehind
            | Code::NoRoom
            | Code::NotReady
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
            Code::PostgresAuth
            | Code::PostgresPermission
            | Code::RoleTooStrong
            | Code::SinkTls
            | Code::SinkAuth
            | Code::TopicDenied => 77,
            Code::Config
            | Code::Map
            | Code::Unprotected
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
            | Code::SinkConfig
            | Code::ServerSetting
            | Code::TableCostly
            | Code::ClockSkew
            | Code::WalKept
            | Code::TopicRisky
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
