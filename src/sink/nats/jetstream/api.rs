//! Questions to JetStream, over a connection that is there.

use std::collections::HashMap;
use std::time::Duration;

use async_nats::{Client, RequestErrorKind};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::watch;

use super::SinkError;
use super::answer::{ApiError, number};

/// What the server has refused us to publish to, and how often.
pub(super) type Denials = HashMap<String, u64>;

/// Where JetStream takes questions.
const PREFIX: &str = "$JS.API.";

/// A way to ask.
#[derive(Clone)]
pub(super) struct Api {
    pub(super) client: Client,
    pub(super) denials: watch::Receiver<Denials>,
    /// An answer takes no longer, or is none.
    pub(super) within: Duration,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum AskError {
    /// We may not ask.
    #[error("the user may not publish to {PREFIX}{0}")]
    Denied(String),
    /// There is nobody to be asked.
    #[error("JetStream does not answer: is it enabled, for the server and the account?")]
    NoJetStream,
    /// It is not done.
    #[error("{}", .0.description)]
    Refused(ApiError),
    /// Nothing is known.
    #[error("{0}")]
    Unanswered(String),
}

impl From<AskError> for SinkError {
    fn from(error: AskError) -> Self {
        match error {
            AskError::Denied(_) => Self::TopicDenied,
            other => Self::Unavailable(other.to_string()),
        }
    }
}

#[derive(Deserialize)]
struct Failed {
    error: ApiError,
}

impl Api {
    /// Asks, and reads the answer.
    pub(super) async fn ask<T: DeserializeOwned>(
        &self,
        what: &str,
        body: Option<&Value>,
    ) -> Result<T, AskError> {
        let subject = format!("{PREFIX}{what}");
        let mut denials = self.denials.clone();
        let count = |denials: &Denials| denials.get(&subject).copied().unwrap_or_default();
        let before = count(&denials.borrow());
        let body = body.map(ToString::to_string).unwrap_or_default();
        let answer = self.client.request(subject.clone(), body.into());
        let answer = tokio::select! {
            answer = tokio::time::timeout(self.within, answer) => answer,
            // A refusal comes by itself, without saying what for.
            Ok(_) = denials.wait_for(|denials| count(denials) > before) => {
                return Err(AskError::Denied(what.to_owned()));
            }
        };
        let late = || AskError::Unanswered(format!("no answer within {:?}", self.within));
        let message = match answer {
            Err(_) => return Err(late()),
            Ok(Err(error)) => {
                return Err(match error.kind() {
                    RequestErrorKind::NoResponders => AskError::NoJetStream,
                    RequestErrorKind::TimedOut => late(),
                    _ => AskError::Unanswered(error.to_string()),
                });
            }
            Ok(Ok(message)) => message,
        };
        if let Ok(Failed { error }) = serde_json::from_slice(&message.payload) {
            return Err(match error.err_code {
                number::NOT_ENABLED | number::NOT_ENABLED_FOR_ACCOUNT => AskError::NoJetStream,
                _ => AskError::Refused(error),
            });
        }
        let odd = |error| AskError::Unanswered(format!("an answer that is none: {error}"));
        serde_json::from_slice(&message.payload).map_err(odd)
    }
}

/// The subject that a complaint of the server's forbids to publish to.
pub(super) fn denied_subject(complaint: &str) -> Option<&str> {
    let start = "permissions violation for publish to \"";
    let at = complaint.to_ascii_lowercase().find(start)? + start.len();
    complaint.get(at..)?.split('"').next()
}

/// Whether a complaint of the server's forbids to listen for answers.
pub(super) fn forbids_answers(complaint: &str) -> bool {
    let text = complaint.to_ascii_lowercase();
    text.contains("permissions violation for subscription to \"_inbox.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_its_subject() {
        let complaint = "Permissions Violation for Publish to \"Orders.new\"";
        assert_eq!(denied_subject(complaint), Some("Orders.new"));
        assert_eq!(denied_subject("Permissions Violation for Subscription to \"a\""), None);
        assert!(forbids_answers("Permissions Violation for Subscription to \"_INBOX.a.*\""));
        assert!(!forbids_answers(complaint));
    }
}
