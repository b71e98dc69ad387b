//! Streams: which one has a subject, what it takes, and how one is made.

use serde::Deserialize;
use serde_json::{Value, json};

use super::answer::number;
use super::api::{Api, AskError};
use super::{NatsConfig, SinkError, StreamShape, TopicInfo};

/// What a stream is like. Durations are in nanoseconds, and of limits 0 or less is none.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct StreamFacts {
    /// Its name.
    pub name: String,
    /// The subjects that it takes.
    #[serde(default)]
    pub subjects: Vec<String>,
    /// `limits`, `interest` or `workqueue`.
    #[serde(default)]
    pub retention: String,
    /// `file` or `memory`.
    #[serde(default)]
    pub storage: String,
    /// Whether it forgets the `old` or refuses the `new` when it is full.
    #[serde(default)]
    pub discard: String,
    /// How many servers keep each message.
    #[serde(default, rename = "num_replicas")]
    pub replicas: usize,
    /// The oldest that a message gets.
    #[serde(default)]
    pub max_age: i64,
    /// The most messages.
    #[serde(default)]
    pub max_msgs: i64,
    /// The most messages of a subject.
    #[serde(default)]
    pub max_msgs_per_subject: i64,
    /// The most bytes of all messages.
    #[serde(default)]
    pub max_bytes: i64,
    /// The most bytes of a message.
    #[serde(default)]
    pub max_msg_size: i64,
    /// For how long it knows a message by its id.
    #[serde(default)]
    pub duplicate_window: u64,
    /// Whether it never acknowledges.
    #[serde(default)]
    pub no_ack: bool,
    /// Whether it takes nothing any more.
    #[serde(default)]
    pub sealed: bool,
}

impl StreamFacts {
    /// The largest message that it takes from a server whose limit that is.
    pub fn largest(&self, max_payload: usize) -> usize {
        let own = usize::try_from(self.max_msg_size).ok().filter(|limit| *limit > 0);
        own.map_or(max_payload, |own| own.min(max_payload))
    }

    /// Whether the subject is one of its.
    fn takes(&self, subject: &str) -> bool {
        self.subjects.iter().any(|pattern| matches(pattern, subject))
    }

    /// Why messages cannot be sent to it, if they cannot.
    fn problem(&self) -> Option<String> {
        let name = &self.name;
        if self.sealed {
            Some(format!("the stream {name} is sealed"))
        } else if self.no_ack {
            Some(format!("the stream {name} does not acknowledge (no_ack)"))
        } else {
            None
        }
    }
}

/// Where a subject's messages go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) stream: Box<str>,
    pub(super) info: TopicInfo,
}

#[derive(Deserialize)]
struct Names {
    /// `null` where there are none.
    streams: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct Info {
    config: StreamFacts,
}

/// Finds the stream of a subject; makes it where it is missing and that is wanted.
pub(super) async fn find(
    api: &Api,
    config: &NatsConfig,
    subject: &str,
) -> Result<Found, SinkError> {
    let facts = match (look_at(api, config, subject).await, config.create_streams) {
        (Err(SinkError::TopicMissing), Some(shape)) => {
            make(api, config, subject, shape).await?;
            look_at(api, config, subject).await?
        }
        (facts, _) => facts?,
    };
    if let Some(problem) = facts.problem() {
        return Err(SinkError::WrongTopic(problem));
    }
    let largest = facts.largest(api.client.max_payload());
    let info = TopicInfo { partitions: 1, max_message_bytes: Some(largest) };
    Ok(Found { stream: facts.name.into(), info })
}

/// Looks at the stream of a subject.
pub(super) async fn look_at(
    api: &Api,
    config: &NatsConfig,
    subject: &str,
) -> Result<StreamFacts, SinkError> {
    if let Some(expected) = &config.stream {
        let facts = info(api, expected).await?;
        if facts.takes(subject) {
            return Ok(facts);
        }
        if config.create_streams.is_some() {
            return Err(SinkError::TopicMissing);
        }
        return Err(SinkError::WrongTopic(format!(
            "nats.stream is {expected}, which does not take the subject"
        )));
    }
    let names: Names = api.ask("STREAM.NAMES", Some(&json!({ "subject": subject }))).await?;
    match names.streams.unwrap_or_default().as_slice() {
        [] => Err(SinkError::TopicMissing),
        [name] => info(api, name).await,
        names => Err(SinkError::WrongTopic(format!(
            "several streams take the subject: {}",
            names.join(", ")
        ))),
    }
}

async fn info(api: &Api, name: &str) -> Result<StreamFacts, SinkError> {
    match api.ask::<Info>(&format!("STREAM.INFO.{name}"), None).await {
        Ok(info) => Ok(info.config),
        Err(AskError::Refused(error)) if error.err_code == number::STREAM_NOT_FOUND => {
            Err(SinkError::TopicMissing)
        }
        Err(error) => Err(error.into()),
    }
}

/// Makes the stream of a subject, or gives the subject to the one that is expected.
async fn make(
    api: &Api,
    config: &NatsConfig,
    subject: &str,
    shape: StreamShape,
) -> Result<(), SinkError> {
    let name = config.stream.clone().unwrap_or_else(|| name_for(subject));
    let made = if config.stream.is_some() && info(api, &name).await.is_ok() {
        extend(api, &name, subject).await
    } else {
        let window = u64::try_from(shape.duplicate_window.as_nanos()).unwrap_or(u64::MAX);
        let body = json!({
            "name": name,
            "subjects": [subject],
            "retention": "limits",
            "storage": "file",
            "discard": "old",
            "num_replicas": shape.replicas,
            "duplicate_window": window,
            "max_msgs": -1,
            "max_bytes": -1,
            "max_age": 0,
            "max_msg_size": -1,
            "max_consumers": -1,
        });
        api.ask::<Value>(&format!("STREAM.CREATE.{name}"), Some(&body)).await.map(drop)
    };
    match made {
        Ok(()) => {
            tracing::info!(stream = name, subject, "made the stream of a subject");
            Ok(())
        }
        Err(error @ (AskError::Refused(_) | AskError::Denied(_))) => {
            Err(SinkError::NotCreated(error.to_string()))
        }
        Err(error) => Err(error.into()),
    }
}

/// Adds a subject to a stream, all else as it is.
async fn extend(api: &Api, name: &str, subject: &str) -> Result<(), AskError> {
    let mut info: Value = api.ask(&format!("STREAM.INFO.{name}"), None).await?;
    let mut config = info.get_mut("config").map(Value::take).unwrap_or_default();
    if let Some(subjects) = config.get_mut("subjects").and_then(Value::as_array_mut) {
        subjects.push(subject.into());
    }
    api.ask::<Value>(&format!("STREAM.UPDATE.{name}"), Some(&config)).await.map(drop)
}

/// What the stream of a subject is called: a stream's name has no dots, and nothing that could be
/// part of a path.
fn name_for(subject: &str) -> String {
    subject.replace(|letter: char| !letter.is_ascii_alphanumeric() && letter != '-', "_")
}

/// Whether a stream's pattern takes a subject: `*` is any one part, `>` all that is left.
fn matches(pattern: &str, subject: &str) -> bool {
    let (mut pattern, mut subject) = (pattern.split('.'), subject.split('.'));
    loop {
        match (pattern.next(), subject.next()) {
            (Some(">"), Some(_)) | (None, None) => return true,
            (Some("*"), Some(_)) => {}
            (Some(part), Some(other)) if part == other => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_takes_what_the_server_would_give_it() {
        for (pattern, subject, taken) in [
            ("orders.new", "orders.new", true),
            ("orders.*", "orders.new", true),
            ("orders.>", "orders.new.eu", true),
            (">", "orders", true),
            ("*.new", "orders.new", true),
            ("orders.*", "orders.new.eu", false),
            ("orders.>", "orders", false),
            ("orders.new", "orders", false),
            ("orders", "orders.new", false),
            ("orders.old", "orders.new", false),
        ] {
            assert_eq!(matches(pattern, subject), taken, "{pattern} {subject}");
        }
    }

    #[test]
    fn a_stream_is_called_after_its_subject() {
        assert_eq!(name_for("identity.user.v1.dlq"), "identity_user_v1_dlq");
        assert_eq!(name_for("a/b\\c-d"), "a_b_c-d");
    }
}
