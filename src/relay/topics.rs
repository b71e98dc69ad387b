//! The topics of a session: each is looked up before its first record, and again after trouble.
//! Events of a topic that takes none now wait with it; the other topics do not notice.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::ack::Seq;
use crate::failure::Failure;
use crate::outbox::is_topic_name;
use crate::sink::TopicInfo;

/// A topic's number within the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct TopicId(u32);

/// How long until a topic that took no records is looked up again.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// How long a look-up may be without an answer before it is made again.
const NO_ANSWER: Duration = Duration::from_secs(30);

#[derive(Debug, Default)]
pub(super) struct Topics {
    topics: Vec<Topic>,
    by_name: HashMap<Box<str>, TopicId>,
    /// Before this, no topic is to be looked up.
    next_look: Option<Instant>,
}

#[derive(Debug)]
struct Topic {
    name: Box<str>,
    info: Option<TopicInfo>,
    failure: Option<Failure>,
    /// When to look it up; none while nothing is in doubt.
    look_at: Option<Instant>,
    waiting: Vec<Seq>,
}

impl Topics {
    pub(super) fn find(&self, name: &str) -> Option<TopicId> {
        self.by_name.get(name).copied()
    }

    /// A topic that was not seen before; none if Kafka would not take the name.
    pub(super) fn add(&mut self, name: &str, now: Instant) -> Option<TopicId> {
        if !is_topic_name(name) {
            return None;
        }
        let id = TopicId(u32::try_from(self.topics.len()).ok()?);
        self.by_name.insert(name.into(), id);
        let name = name.into();
        let look_at = Some(now);
        self.topics.push(Topic { name, info: None, failure: None, look_at, waiting: Vec::new() });
        self.look_by(now);
        Some(id)
    }

    fn get(&self, id: TopicId) -> Option<&Topic> {
        self.topics.get(id.0 as usize)
    }

    fn get_mut(&mut self, id: TopicId) -> Option<&mut Topic> {
        self.topics.get_mut(id.0 as usize)
    }

    pub(super) fn name(&self, id: TopicId) -> Option<&str> {
        self.get(id).map(|topic| &*topic.name)
    }

    /// What the topic takes, if it takes records now.
    pub(super) fn info(&self, id: TopicId) -> Option<TopicInfo> {
        self.get(id).and_then(|topic| topic.info)
    }

    /// The event goes when its topic takes records.
    pub(super) fn wait(&mut self, id: TopicId, seq: Seq) {
        if let Some(topic) = self.get_mut(id) {
            topic.waiting.push(seq);
        }
    }

    /// The topic takes records. Gives the events that waited for it.
    pub(super) fn ready(&mut self, name: &str, info: TopicInfo) -> Vec<Seq> {
        let topic = self.find(name).and_then(|id| self.get_mut(id));
        let Some(topic) = topic else {
            return Vec::new();
        };
        if topic.failure.take().is_some() {
            tracing::info!(topic = name, "the topic takes records");
        }
        topic.look_at = None;
        // Within a session a key stays in its partition.
        let partitions = topic.info.map_or(info.partitions, |before| {
            if before.partitions != info.partitions {
                tracing::warn!(
                    topic = name,
                    before = before.partitions,
                    now = info.partitions,
                    "the topic has another number of partitions; the new ones are used from the next start"
                );
            }
            before.partitions.min(info.partitions)
        });
        topic.info = Some(TopicInfo { partitions, ..info });
        // An event that waited for the sink when the topic went away came here after later ones.
        topic.waiting.sort_unstable();
        std::mem::take(&mut topic.waiting)
    }

    /// The topic takes no records now.
    pub(super) fn unavailable(&mut self, name: &str, failure: Failure, now: Instant) {
        let Some(topic) = self.find(name).and_then(|id| self.get_mut(id)) else {
            return;
        };
        if topic.failure.as_ref().map(|before| before.code) != Some(failure.code) {
            tracing::warn!(
                code = %failure.code,
                error = failure.message,
                remedy = failure.code.remedy(),
                "a topic takes no records; its events wait"
            );
        }
        topic.info = None;
        topic.failure = Some(failure);
        topic.look_at = Some(now + LOOK_AGAIN);
        self.look_by(now + LOOK_AGAIN);
    }

    /// Something about the topic is in doubt, and has to be known shortly before `at`.
    pub(super) fn look_again(&mut self, id: TopicId, now: Instant, at: Instant) {
        let look_at = at.checked_sub(LOOK_AGAIN).map_or(now, |look_at| look_at.max(now));
        if let Some(topic) = self.get_mut(id) {
            let look_at =
                *topic.look_at.insert(topic.look_at.map_or(look_at, |at| at.min(look_at)));
            self.look_by(look_at);
        }
    }

    fn look_by(&mut self, at: Instant) {
        self.next_look = Some(self.next_look.map_or(at, |next| next.min(at)));
    }

    /// The topics that are to be looked up now.
    pub(super) fn due(&mut self, now: Instant) -> Vec<Box<str>> {
        let mut due = Vec::new();
        if self.next_look.is_none_or(|at| at > now) {
            return due;
        }
        for topic in &mut self.topics {
            if topic.look_at.is_some_and(|at| at <= now) {
                topic.look_at = Some(now + NO_ANSWER);
                due.push(topic.name.clone());
            }
        }
        self.next_look = self.topics.iter().filter_map(|topic| topic.look_at).min();
        due
    }

    pub(super) fn next_due(&self) -> Option<Instant> {
        self.next_look
    }

    /// Why events wait for a topic, if any do.
    pub(super) fn stall(&self) -> Option<&Failure> {
        let mut stalled = self.topics.iter().filter(|topic| !topic.waiting.is_empty());
        stalled.find_map(|topic| topic.failure.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_leave_a_topic_in_the_order_of_reading() {
        let mut topics = Topics::default();
        let id = topics.add("a", Instant::now()).unwrap();
        for seq in [7, 3, 5] {
            topics.wait(id, seq);
        }
        let info = TopicInfo { partitions: 1, max_message_bytes: None };
        assert_eq!(topics.ready("a", info), [3, 5, 7]);
        assert!(topics.ready("a", info).is_empty());
    }
}
