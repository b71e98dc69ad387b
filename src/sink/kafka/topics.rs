//! Finding out about topics before anything is sent to them: do they exist, how many partitions
//! have they, what is the largest batch that they take. Where that is wanted, a missing one is made.
//!
//! A thread of its own, because the client's calls block. Its client outlives the questions by a
//! while: a connection of its own for each would cost more than the answer.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use rdkafka::ClientContext;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::config::{ClientConfig, FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode;
use tokio::time::{Instant, sleep};

use super::reports::{Mailbox, classify, log};
use super::{NoContact, Report, SinkError, TopicInfo, TopicShape};

/// An answer takes no longer than this, or is none.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// A client that nobody has asked for this long is given up.
const IDLE: Duration = Duration::from_secs(30);
/// A topic that was just made is known to every broker within this, or looked for later.
const KNOWN_WITHIN: Duration = Duration::from_secs(2);
/// How often it is looked for meanwhile.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Questions that can wait at once; whoever finds no room asks again.
const QUESTIONS: usize = 1024;

/// What can be asked.
pub(super) enum Question {
    Topic(String),
    /// Whether anybody answers at all.
    Reachable,
}

/// Answers come as reports; what else the client has to say is for debugging.
struct Quiet(Arc<Mailbox>);

impl ClientContext for Quiet {
    fn log(&self, _: RDKafkaLogLevel, facility: &str, message: &str) {
        log(facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        log(&error.to_string(), reason);
        self.0.connection_failed(&error, reason);
    }
}

/// How questions about topics are answered.
#[derive(Debug, Clone, Copy)]
pub(super) struct Answers {
    /// Whether they have what a topic takes.
    pub(super) ask_limits: bool,
    /// What a missing topic is made like; none if it is not.
    pub(super) create: Option<TopicShape>,
}

/// The thread and the way to it.
pub(super) struct TopicReader {
    questions: Option<SyncSender<Question>>,
    thread: Option<JoinHandle<()>>,
}

impl TopicReader {
    /// Starts the thread; answers go to `mailbox`.
    pub(super) fn start(
        config: ClientConfig,
        answers: Answers,
        mailbox: Arc<Mailbox>,
    ) -> std::io::Result<Self> {
        let (questions, inbox) = sync_channel(QUESTIONS);
        let thread = std::thread::Builder::new()
            .name("outboxd-topics".to_owned())
            .spawn(move || answer_all(&config, answers, mailbox, &inbox))?;
        Ok(Self { questions: Some(questions), thread: Some(thread) })
    }

    /// Asks; the answer comes as a report. Without room for the question the answer is at once
    /// that nobody answers, so that it is asked again.
    pub(super) fn ask(&self, question: Question, mailbox: &Mailbox) {
        let Some(questions) = &self.questions else {
            return;
        };
        if let Err(TrySendError::Full(question)) = questions.try_send(question) {
            let busy = "too many topics are being looked up";
            mailbox.report(unanswered(question, busy.to_owned()));
        }
    }

    /// Ends the thread; waits for the question that it works on.
    pub(super) fn stop(mut self) {
        self.questions = None;
        if let Some(thread) = self.thread.take() {
            // A panic there was logged by its hook, and leaves questions open: that stalls.
            let _ = thread.join();
        }
    }
}

fn unanswered(question: Question, reason: String) -> Report {
    match question {
        Question::Topic(name) => {
            Report::Topic { name, result: Err(SinkError::Unavailable(reason)) }
        }
        Question::Reachable => Report::Reachable(Err(NoContact::Unreachable(reason))),
    }
}

fn answer_all(
    config: &ClientConfig,
    answers: Answers,
    mailbox: Arc<Mailbox>,
    inbox: &Receiver<Question>,
) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    while let Ok(first) = inbox.recv() {
        let client = AdminClient::from_config_and_context(config, Quiet(Arc::clone(&mailbox)));
        let mut next = Some(first);
        while let Some(question) = next.take().or_else(|| inbox.recv_timeout(IDLE).ok()) {
            let report = match (&client, &runtime) {
                (Ok(client), Ok(runtime)) => {
                    runtime.block_on(answer(client, question, answers, &mailbox))
                }
                (Err(error), _) => unanswered(question, error.to_string()),
                (_, Err(error)) => unanswered(question, error.to_string()),
            };
            mailbox.report(report);
            if client.is_err() {
                break;
            }
        }
    }
}

async fn answer(
    client: &AdminClient<Quiet>,
    question: Question,
    answers: Answers,
    mailbox: &Mailbox,
) -> Report {
    match question {
        Question::Reachable => match client.inner().fetch_cluster_id(ANSWER_TIMEOUT) {
            Some(_) => mailbox.reached(),
            None => mailbox.unreachable(&format!("no answer within {ANSWER_TIMEOUT:?}")),
        },
        Question::Topic(name) => {
            let mut result = look_at(client, &name, answers.ask_limits).await;
            if let (Err(SinkError::TopicMissing), Some(shape)) = (&result, answers.create) {
                result = match create(client, &name, shape).await {
                    Ok(()) => look_for(client, &name, answers.ask_limits).await,
                    Err(error) => Err(error),
                };
            }
            Report::Topic { name, result }
        }
    }
}

/// Makes a topic. Somebody else may have made it meanwhile.
async fn create(
    client: &AdminClient<Quiet>,
    name: &str,
    shape: TopicShape,
) -> Result<(), SinkError> {
    let TopicShape { partitions, replication } = shape;
    let topic = NewTopic::new(name, partitions, TopicReplication::Fixed(replication));
    let options = AdminOptions::new()
        .request_timeout(Some(ANSWER_TIMEOUT))
        .operation_timeout(Some(ANSWER_TIMEOUT));
    match client.create_topics(&[topic], &options).await.map(|mut results| results.pop()) {
        Ok(Some(Ok(_))) => {
            tracing::info!(topic = name, partitions, "created the topic");
            Ok(())
        }
        Ok(Some(Err((_, RDKafkaErrorCode::TopicAlreadyExists)))) => Ok(()),
        Ok(Some(Err((_, code)))) => Err(not_created(code)),
        Ok(None) => Err(SinkError::NotCreated("no answer".to_owned())),
        Err(error) => {
            let code = error.rdkafka_error_code();
            Err(code.map_or_else(|| SinkError::NotCreated(error.to_string()), not_created))
        }
    }
}

/// Why a topic was not made: nobody answers, or a person has to do something about it.
fn not_created(code: RDKafkaErrorCode) -> SinkError {
    match classify(code, code.to_string()) {
        unavailable @ SinkError::Unavailable(_) => unavailable,
        _ => SinkError::NotCreated(code.to_string()),
    }
}

/// Looks for a topic that was made a moment ago.
async fn look_for(
    client: &AdminClient<Quiet>,
    name: &str,
    ask_limits: bool,
) -> Result<TopicInfo, SinkError> {
    let until = Instant::now() + KNOWN_WITHIN;
    loop {
        let found = look_at(client, name, ask_limits).await;
        if found != Err(SinkError::TopicMissing) || Instant::now() > until {
            return found;
        }
        sleep(LOOK_EVERY).await;
    }
}

async fn look_at(
    client: &AdminClient<Quiet>,
    name: &str,
    ask_limits: bool,
) -> Result<TopicInfo, SinkError> {
    let metadata = client.inner().fetch_metadata(Some(name), ANSWER_TIMEOUT).map_err(|error| {
        let code = error.rdkafka_error_code();
        code.map_or_else(
            || SinkError::Unknown(error.to_string()),
            |code| classify(code, error.to_string()),
        )
    })?;
    let topic = metadata.topics().iter().find(|topic| topic.name() == name);
    let topic = topic.ok_or(SinkError::TopicMissing)?;
    if let Some(error) = topic.error() {
        let code = RDKafkaErrorCode::from(error);
        return Err(classify(code, code.to_string()));
    }
    let partitions = i32::try_from(topic.partitions().len()).unwrap_or(i32::MAX);
    if partitions == 0 {
        return Err(SinkError::TopicMissing);
    }
    let max_message_bytes = if ask_limits { largest_batch(client, name).await } else { None };
    Ok(TopicInfo { partitions, max_message_bytes })
}

/// The topic's `max.message.bytes`, where we are allowed to read it.
async fn largest_batch(client: &AdminClient<Quiet>, name: &str) -> Option<usize> {
    let options = AdminOptions::new().request_timeout(Some(ANSWER_TIMEOUT));
    let topic = [ResourceSpecifier::Topic(name)];
    let answer = client.describe_configs(&topic, &options).await.ok()?;
    let resource = answer.into_iter().next()?.ok()?;
    resource.get("max.message.bytes")?.value.as_ref()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_that_cannot_be_made_is_a_persons_matter_unless_nobody_answers() {
        for code in [
            RDKafkaErrorCode::TopicAuthorizationFailed,
            RDKafkaErrorCode::ClusterAuthorizationFailed,
            RDKafkaErrorCode::InvalidReplicationFactor,
            RDKafkaErrorCode::InvalidPartitions,
            RDKafkaErrorCode::PolicyViolation,
            RDKafkaErrorCode::Unknown,
        ] {
            assert_eq!(not_created(code), SinkError::NotCreated(code.to_string()));
        }
        for code in [RDKafkaErrorCode::RequestTimedOut, RDKafkaErrorCode::BrokerTransportFailure] {
            assert!(matches!(not_created(code), SinkError::Unavailable(_)), "{code}");
        }
    }
}
