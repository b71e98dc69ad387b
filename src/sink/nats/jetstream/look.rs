//! A look at NATS from outside: does it let us in, and what are the streams of our subjects like.
//! Nothing is sent and nothing is made.

use std::collections::BTreeMap;
use std::time::Duration;

use async_nats::{Event, ServerError};
use serde_json::Value;

use super::api::{AskError, denied_subject};
use super::contact::connect;
use super::streams::{StreamFacts, look_at};
use super::{NatsConfig, NoContact, SinkError};

/// What was seen.
#[derive(Debug)]
pub struct NatsFacts {
    /// The largest message that it takes.
    pub max_payload: usize,
    /// Whether it has others beside it.
    pub is_clustered: bool,
    /// The streams of the subjects that were asked for.
    pub streams: BTreeMap<String, Result<StreamFacts, SinkError>>,
}

/// Looks at NATS, for at most that long: whether it lets us in, and at the streams of these subjects.
///
/// # Errors
/// It cannot be asked.
pub async fn look(
    config: &NatsConfig,
    subjects: &[String],
    within: Duration,
) -> Result<NatsFacts, NoContact> {
    let late = || NoContact::Unreachable(format!("no answer within {within:?}"));
    tokio::time::timeout(within, ask(config, subjects)).await.unwrap_or_else(|_| Err(late()))
}

async fn ask(config: &NatsConfig, subjects: &[String]) -> Result<NatsFacts, NoContact> {
    let mut connection = connect(config, &[]).await?;
    let api = connection.api();
    let info = connection.client.server_info();
    let mut facts = NatsFacts {
        max_payload: info.max_payload,
        is_clustered: info.cluster.is_some(),
        streams: BTreeMap::new(),
    };
    let looking = async {
        // Whether there is JetStream is seen by whether it answers, whatever it answers.
        if let Err(error @ AskError::NoJetStream) = api.ask::<Value>("INFO", None).await {
            return Err(NoContact::Unreachable(error.to_string()));
        }
        for subject in subjects {
            facts.streams.insert(subject.clone(), look_at(&api, config, subject).await);
        }
        Ok(facts)
    };
    tokio::pin!(looking);
    loop {
        tokio::select! {
            looked = &mut looking => return looked,
            Some(event) = connection.events.recv() => match event {
                Event::ServerError(ServerError::Other(complaint)) => {
                    if let Some(subject) = denied_subject(&complaint) {
                        connection.deny(subject);
                    }
                }
                Event::Disconnected => {
                    return Err(NoContact::Unreachable("the connection was lost".to_owned()));
                }
                _ => {}
            }
        }
    }
}
