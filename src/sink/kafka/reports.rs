//! What librdkafka reports, on its threads, becomes what the relay takes in, on its own.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};
use rdkafka::producer::{DeliveryResult, ProducerContext};
use rdkafka::types::RDKafkaErrorCode;

use super::{NoContact, Parcel, Report, SinkError};
use crate::ack::Seq;
use crate::outbox::HeaderList;
use crate::sink::signal::Signal;

/// Reports from librdkafka's threads to the relay's.
#[derive(Debug, Default)]
pub(super) struct Mailbox {
    content: Mutex<Content>,
    pub(super) signal: Signal,
}

#[derive(Debug, Default)]
pub(super) struct Content {
    pub(super) delivered: Vec<Seq>,
    pub(super) reports: Vec<Report>,
    /// A producer has reported an error: perhaps its last.
    pub(super) is_suspect: bool,
    /// The last time that we were not let in, and why.
    refusal: Option<(Instant, NoContact)>,
    /// The last trouble with a connection.
    trouble: Option<String>,
}

/// A client repeats the same error of a broker every 30 s.
const REFUSED_FOR: Duration = Duration::from_secs(45);

impl Mailbox {
    pub(super) fn content(&self) -> MutexGuard<'_, Content> {
        // Nothing is left half done under this lock.
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn deliver(&self, seq: Seq) {
        self.content().delivered.push(seq);
        self.signal.give();
    }

    pub(super) fn report(&self, report: Report) {
        self.content().reports.push(report);
        self.signal.give();
    }

    /// Takes in an error of a connection, of whichever client.
    pub(super) fn connection_failed(&self, error: &KafkaError, reason: &str) {
        match no_contact(error.rdkafka_error_code(), reason) {
            NoContact::Unreachable(reason) => self.content().trouble = Some(reason),
            refusal => {
                self.content().refusal = Some((Instant::now(), refusal.clone()));
                self.report(Report::Reachable(Err(refusal)));
            }
        }
    }

    /// That nobody answers: because we are not let in, where that is known.
    pub(super) fn unreachable(&self, reason: &str) -> Report {
        let content = self.content();
        let refusal = content.refusal.as_ref().filter(|(at, _)| at.elapsed() < REFUSED_FOR);
        Report::Reachable(Err(match (refusal, &content.trouble) {
            (Some((_, refusal)), _) => refusal.clone(),
            (None, Some(trouble)) => NoContact::Unreachable(format!("{reason}: {trouble}")),
            (None, None) => NoContact::Unreachable(reason.to_owned()),
        }))
    }

    /// That somebody answers.
    pub(super) fn reached(&self) -> Report {
        let mut content = self.content();
        (content.refusal, content.trouble) = (None, None);
        Report::Reachable(Ok(()))
    }

    fn suspect(&self) {
        self.content().is_suspect = true;
        self.signal.give();
    }
}

/// librdkafka takes a batch that the broker has turned away (no leader, too few replicas) for
/// acknowledged as soon as a later one is, because the broker would have refused that one. On a
/// partition where the broker does not know the producer yet, it does not: the batch is lost. What
/// the broker has taken, it has given an offset.
const UNPROVEN: &str = "acknowledged without an offset";

/// What librdkafka calls.
pub(super) struct Context {
    pub(super) mailbox: Arc<Mailbox>,
}

impl ClientContext for Context {
    fn log(&self, _: RDKafkaLogLevel, facility: &str, message: &str) {
        log(facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        log(&error.to_string(), reason);
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::AllBrokersDown) {
            self.mailbox.report(self.mailbox.unreachable(reason));
            return;
        }
        self.mailbox.connection_failed(&error, reason);
        // A fatal error comes under the code of its cause: only the producer knows.
        self.mailbox.suspect();
    }
}

/// librdkafka says per attempt what the relay says once.
pub(super) fn log(facility: &str, message: &str) {
    tracing::debug!(facility, message, "librdkafka");
}

impl ProducerContext for Context {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, number: usize) {
        let seq = number as Seq;
        match result {
            Ok(message) if message.offset() >= 0 => self.mailbox.deliver(seq),
            Ok(message) => {
                let error = SinkError::Unavailable(UNPROVEN.to_owned());
                self.mailbox.report(Report::Failed { seq, error, parcel: parcel(message) });
            }
            Err((error, message)) => {
                let text = error.to_string();
                let error = match error.rdkafka_error_code() {
                    Some(code) => classify(code, text),
                    None => SinkError::Unknown(text),
                };
                self.mailbox.report(Report::Failed { seq, error, parcel: parcel(message) });
            }
        }
    }
}

fn parcel(message: &BorrowedMessage<'_>) -> Parcel {
    let mut headers = HeaderList::default();
    for header in message.headers().into_iter().flat_map(|headers| headers.iter()) {
        // They were text when they went in.
        let value = header.value.map(|value| std::str::from_utf8(value).unwrap_or_default());
        headers.add(header.key, value);
    }
    Parcel {
        topic: Some(message.topic().into()),
        event_id: None,
        partition: message.partition(),
        key: message.key().map(Into::into),
        headers,
        value: message.payload().map(Into::into),
        // Whoever sends it again knows; here everything has one.
        timestamp: None,
    }
}

/// What an error of a connection says of who can mend it.
pub(super) fn no_contact(code: Option<RDKafkaErrorCode>, reason: &str) -> NoContact {
    use RDKafkaErrorCode::{Authentication, SSL, SaslAuthenticationFailed};
    // A peer that hangs up is a transport error, whatever it hangs up in the middle of. With TLS 1.3
    // a broker refuses our certificate only after the handshake: then an alert breaks the connection.
    let in_handshake = reason.contains("SSL handshake failed") || reason.contains("SSL alert");
    match code {
        _ if in_handshake => NoContact::Tls(reason.to_owned()),
        Some(SSL) => NoContact::Tls(reason.to_owned()),
        Some(Authentication | SaslAuthenticationFailed) => NoContact::Login(reason.to_owned()),
        _ => NoContact::Unreachable(reason.to_owned()),
    }
}

/// What an error of librdkafka is. Everything that is not named is unknown, and unknown is never
/// delivered.
pub(super) fn classify(code: RDKafkaErrorCode, text: String) -> SinkError {
    use RDKafkaErrorCode as Code;
    match code {
        Code::UnknownTopic | Code::UnknownTopicOrPartition | Code::UnknownPartition => {
            SinkError::TopicMissing
        }
        Code::TopicAuthorizationFailed | Code::ClusterAuthorizationFailed => SinkError::TopicDenied,
        Code::MessageSizeTooLarge
        | Code::MessageBatchTooLarge
        | Code::InvalidRecord
        | Code::InvalidMessage
        | Code::InvalidTimestamp
        | Code::PolicyViolation
        | Code::UnsupportedForMessageFormat
        | Code::InvalidTopic => SinkError::Refused(text),
        Code::PurgeQueue | Code::PurgeInflight => SinkError::Purged,
        Code::Fatal
        | Code::OutOfOrderSequenceNumber
        | Code::UnknownProducerId
        | Code::InvalidProducerEpoch
        | Code::GaplessGuarantee
        | Code::Fenced => SinkError::Fatal(text),
        Code::BrokerTransportFailure
        | Code::AllBrokersDown
        | Code::OperationTimedOut
        | Code::RequestTimedOut
        | Code::MessageTimedOut
        | Code::TimedOutQueue
        | Code::Resolve
        | Code::Authentication
        | Code::SaslAuthenticationFailed
        | Code::SSL
        | Code::LeaderNotAvailable
        | Code::NotLeaderForPartition
        | Code::BrokerNotAvailable
        | Code::ReplicaNotAvailable
        | Code::NotEnoughReplicas
        | Code::NotEnoughReplicasAfterAppend
        | Code::KafkaStorageError
        | Code::NetworkException
        | Code::ThrottlingQuotaExceeded
        // Another record of its batch was refused.
        | Code::InvalidDifferentRecord
        | Code::UnsupportedFeature => SinkError::Unavailable(text),
        _ => SinkError::Unknown(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_never_delivered() {
        let class = |code| classify(code, String::new());
        assert!(matches!(class(RDKafkaErrorCode::Unknown), SinkError::Unknown(_)));
        assert!(matches!(class(RDKafkaErrorCode::NoError), SinkError::Unknown(_)));
        assert!(matches!(class(RDKafkaErrorCode::InvalidRecord), SinkError::Refused(_)));
        assert_eq!(class(RDKafkaErrorCode::PurgeInflight), SinkError::Purged);
    }

    #[test]
    fn who_is_not_let_in_is_told_so_until_somebody_answers() {
        let mailbox = Mailbox::default();
        let why = || match mailbox.unreachable("all down") {
            Report::Reachable(Err(reason)) => reason,
            _ => panic!(),
        };
        let fails = |code, reason| mailbox.connection_failed(&KafkaError::Global(code), reason);
        fails(RDKafkaErrorCode::BrokerTransportFailure, "connection refused");
        assert_eq!(why(), NoContact::Unreachable("all down: connection refused".to_owned()));
        let alert = "bad certificate: SSL alert number 42";
        let refused = "certificate verify failed";
        for (code, reason, expected) in [
            (RDKafkaErrorCode::Authentication, "wrong password", NoContact::Login as fn(_) -> _),
            (RDKafkaErrorCode::SSL, refused, NoContact::Tls),
            (RDKafkaErrorCode::BrokerTransportFailure, alert, NoContact::Tls),
        ] {
            fails(code, reason);
            assert_eq!(why(), expected(reason.to_owned()));
            assert!(matches!(mailbox.reached(), Report::Reachable(Ok(()))));
            assert_eq!(why(), NoContact::Unreachable("all down".to_owned()));
        }
    }
}
