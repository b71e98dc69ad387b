//! What every error means. The one place that decides; everything else only carries errors here.
//!
//! What is not known stops the relay with a code: it is never skipped, and never taken for success.

#![warn(clippy::wildcard_enum_match_arm)] // a new kind of error must be given its fate

use crate::failure::{Code, Failure, chain};
use crate::outbox::MapError;
use crate::outbox::columns::BindError;
use crate::pgoutput::DecodeError;
use crate::postgres::Error;
use crate::sink::SinkError;
use crate::status::StoreError;

/// What happens to the session because of an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// It ends; another one is tried after a while.
    Reconnect(Failure),
    /// It ends; somebody else has the place, and this relay waits for it.
    StandBy(Failure),
    /// The process ends; a person has to do something.
    Halt(Failure),
}

impl Fate {
    /// What happened.
    pub fn failure(&self) -> &Failure {
        match self {
            Fate::Reconnect(failure) | Fate::StandBy(failure) | Fate::Halt(failure) => failure,
        }
    }
}

/// What happens to a record because of an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum RecordFate {
    /// It is sent again: nothing was wrong with it.
    Again(Failure),
    /// Its topic takes no records now; it waits with it.
    Topic(Failure),
    /// It was refused for what it is; its key waits.
    Event(Failure),
    /// The session ends.
    Session(Fate),
}

/// An error of a connection to PostgreSQL while `doing` something.
pub(super) fn of_postgres(error: &Error, doing: &str) -> Fate {
    let failure = |code| Failure::new(code, format!("{doing}: {}", chain(error)));
    match error {
        Error::Connect { source, .. } => match of_postgres(source, doing) {
            Fate::Reconnect(_) => Fate::Reconnect(failure(Code::PostgresUnavailable)),
            Fate::StandBy(other) => Fate::StandBy(failure(other.code)),
            Fate::Halt(other) => Fate::Halt(failure(other.code)),
        },
        Error::Timeout { .. } | Error::Io(_) | Error::Closed => {
            Fate::Reconnect(failure(Code::PostgresUnavailable))
        }
        Error::Tls(_) | Error::Auth(_) => Fate::Halt(failure(Code::PostgresAuth)),
        Error::Protocol(_) | Error::Decode(_) => Fate::Halt(failure(Code::Protocol)),
        Error::RowTooLarge { .. } => Fate::Halt(failure(Code::RowTooLarge)),
        Error::Server { sqlstate, .. } => match sqlstate.code() {
            // The server stops, starts, is full or was told to end us.
            "57P01" | "57P02" | "57P03" | "57P05" | "57014" | "25P03" | "53000" | "53100"
            | "53200" | "53300" | "53400" | "08000" | "08003" | "08006" | "08001" | "08004"
            | "08P01" | "40001" | "40P01" | "55P03" | "58030" => {
                Fate::Reconnect(failure(Code::PostgresUnavailable))
            }
            "25006" => Fate::Reconnect(failure(Code::InRecovery)),
            "55006" => Fate::StandBy(failure(Code::SlotInUse)),
            "28000" | "28P01" | "3D000" => Fate::Halt(failure(Code::PostgresAuth)),
            "42501" => Fate::Halt(failure(Code::PostgresPermission)),
            "42P01" | "42703" | "3F000" => Fate::Halt(failure(Code::SchemaMissing)),
            // In a stream that started: the publication that the WAL was written under.
            "42704" => Fate::Halt(failure(Code::PublicationLost)),
            "55000" => Fate::Halt(failure(Code::SlotLost)),
            _ => Fate::Halt(failure(Code::PostgresRefused)),
        },
    }
}

/// An error of settling.
pub(super) fn of_store(error: &StoreError) -> Fate {
    match error {
        StoreError::Fenced => Fate::StandBy(Failure::new(Code::Fenced, error.to_string())),
        StoreError::TableGone => Fate::Halt(Failure::new(Code::TableMissing, error.to_string())),
        StoreError::Postgres(error) => match of_postgres(error, "write statuses") {
            // What these mean to a stream, they do not mean here.
            Fate::Halt(failure)
                if matches!(
                    failure.code,
                    Code::PostgresRefused
                        | Code::SlotLost
                        | Code::PublicationLost
                        | Code::SchemaMissing
                ) =>
            {
                Fate::Halt(Failure::new(Code::StatusWrite, failure.message))
            }
            Fate::StandBy(failure) => Fate::Halt(Failure::new(Code::StatusWrite, failure.message)),
            fate @ (Fate::Reconnect(_) | Fate::Halt(_)) => fate,
        },
    }
}

/// A stream that cannot be followed.
pub(super) fn of_decode(error: DecodeError) -> Fate {
    Fate::Halt(Failure::new(Code::Protocol, format!("read the stream: {error}")))
}

/// A layout that does not fit the map.
pub(super) fn of_bind(error: &BindError) -> Fate {
    Fate::Halt(Failure::new(Code::LayoutChanged, error.to_string()))
}

/// A row that cannot become an event: this version stops at it.
pub(super) fn of_map(error: MapError, event: &str) -> Fate {
    Fate::Halt(Failure::new(Code::Unpublishable, format!("{event}: {error}")))
}

/// An error of the sink, about a record or a topic.
pub(super) fn of_sink(error: &SinkError, topic: &str) -> RecordFate {
    let failure = |code| Failure::new(code, format!("topic {topic}: {error}"));
    match error {
        SinkError::TopicMissing | SinkError::NotCreated(_) => {
            RecordFate::Topic(failure(Code::TopicMissing))
        }
        SinkError::TopicDenied | SinkError::WrongTopic(_) => {
            RecordFate::Topic(failure(Code::TopicDenied))
        }
        SinkError::TooLarge { .. } => RecordFate::Event(failure(Code::EventTooLarge)),
        SinkError::NoPartition { .. } | SinkError::Refused(_) => {
            RecordFate::Event(failure(Code::EventRefused))
        }
        SinkError::Unavailable(_) => RecordFate::Again(failure(Code::SinkUnavailable)),
        SinkError::Purged | SinkError::Fatal(_) => {
            RecordFate::Session(Fate::Reconnect(failure(Code::ProducerFatal)))
        }
        SinkError::Unknown(_) => RecordFate::Session(Fate::Halt(failure(Code::EventRefused))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio_postgres::error::SqlState;

    fn server(code: &str) -> Error {
        Error::Server {
            sqlstate: SqlState::from_code(code),
            message: "said no".to_owned(),
            in_context: false,
        }
    }

    #[test]
    fn what_passes_by_itself_is_waited_for() {
        for code in ["57P01", "57P03", "53300", "08006", "25006"] {
            assert!(matches!(of_postgres(&server(code), "x"), Fate::Reconnect(_)), "{code}");
        }
        assert!(matches!(of_postgres(&Error::Closed, "x"), Fate::Reconnect(_)));
        let standby = of_postgres(&server("55006"), "x");
        assert!(matches!(standby, Fate::StandBy(failure) if failure.code == Code::SlotInUse));
    }

    #[test]
    fn what_a_person_has_to_mend_stops_the_relay() {
        for (code, expected) in [
            ("28P01", Code::PostgresAuth),
            ("42501", Code::PostgresPermission),
            ("55000", Code::SlotLost),
            ("42704", Code::PublicationLost),
            ("XX000", Code::PostgresRefused),
            ("22021", Code::PostgresRefused),
            ("ABCDE", Code::PostgresRefused),
        ] {
            let fate = of_postgres(&server(code), "x");
            assert!(matches!(&fate, Fate::Halt(failure) if failure.code == expected), "{fate:?}");
        }
    }

    #[test]
    fn a_status_that_is_refused_is_no_lost_slot() {
        for code in ["55000", "42704", "55006", "42P01", "XX000"] {
            let fate = of_store(&StoreError::Postgres(server(code)));
            let is_status = |failure: &Failure| failure.code == Code::StatusWrite;
            assert!(matches!(&fate, Fate::Halt(failure) if is_status(failure)), "{code}: {fate:?}");
        }
    }

    #[test]
    fn a_failure_to_connect_is_what_its_cause_is() {
        let connect =
            |source| Error::Connect { address: "h:1".to_owned(), source: Box::new(source) };
        let fate = of_postgres(&connect(server("28P01")), "connect");
        assert!(matches!(&fate, Fate::Halt(failure) if failure.code == Code::PostgresAuth));
        let text = &fate.failure().message;
        assert_eq!(text, "connect: connect to h:1: said no (SQLSTATE 28P01)");
        let refused = Error::Io(std::io::ErrorKind::ConnectionRefused.into());
        assert!(matches!(of_postgres(&connect(refused), "x"), Fate::Reconnect(_)));
    }

    #[test]
    fn an_unknown_error_of_the_sink_is_not_delivered_and_not_dropped() {
        let fate = of_sink(&SinkError::Unknown("?".to_owned()), "t");
        assert!(matches!(fate, RecordFate::Session(Fate::Halt(_))));
    }
}
