//! The topics of a session: each is looked up before its first record, and again after trouble, and
//! now and then.
//!
//! While nobody answers, a topic's events wait with it. While it takes none (it is missing, denied,
//! paused, or has another number of partitions than before) they are held; the other topics do not
//! notice.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tokio::time::Instant;

use crate::ack::Seq;
use crate::failure::{Code, Failure};
use crate::outbox::TopicNames;
use crate::sink::TopicInfo;

/// A topic's number within the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct TopicId(u32);

/// How long until a topic that took no records is looked up again.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// How often a topic is looked up while all is well: the number of its partitions could change.
const LOOK_ANYWAY: Duration = Duration::from_secs(30);
/// How long a look-up may be without an answer before it is made again.
pub(super) const NO_ANSWER: Duration = Duration::from_secs(30);

#[derive(Debug, Default)]
pub(super) struct Topics {
    /// What they can be called.
    names: TopicNames,
    topics: Vec<Topic>,
    by_name: HashMap<Box<str>, TopicId>,
    /// Before this, no topic is to be looked up.
    next_look: Option<Instant>,
    /// How many partitions topics had when they were first seen.
    partitions: HashMap<Box<str>, i32>,
    /// The ones seen for the first time, to be remembered.
    pub(super) learned: Vec<(String, i32)>,
    /// Topics that an operator has paused.
    paused: HashSet<Box<str>>,
    /// Topics that take records now and did not before.
    pub(super) healed: Vec<TopicId>,
}

#[derive(Debug)]
struct Topic {
    name: Box<str>,
    info: Option<TopicInfo>,
    failure: Option<Failure>,
    /// Whether its events are held, because of `failure`.
    refuses: bool,
    /// When to look it up; none while nothing is in doubt.
    look_at: Option<Instant>,
    waiting: Vec<Seq>,
}

impl Topics {
    pub(super) fn new(names: TopicNames) -> Self {
        Self { names, ..Self::default() }
    }

    /// What a topic can be called.
    pub(super) fn names(&self) -> TopicNames {
        self.names
    }

    pub(super) fn find(&self, name: &str) -> Option<TopicId> {
        self.by_name.get(name).copied()
    }

    /// A topic that was not seen before; none if the sink would not take the name.
    pub(super) fn add(&mut self, name: &str, now: Instant) -> Option<TopicId> {
        if !self.names.takes(name) {
            return None;
        }
        let id = TopicId(u32::try_from(self.topics.len()).ok()?);
        self.by_name.insert(name.into(), id);
        let name = name.into();
        self.topics.push(Topic {
            name,
            info: None,
            failure: None,
            refuses: false,
            look_at: Some(now),
            waiting: Vec::new(),
        });
        self.look_by(now);
        // Of a paused topic there is nothing to be known.
        if self.paused.contains(self.name(id).unwrap_or_default()) {
            self.pause(id);
        }
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

    /// The topic was found. Gives the events that waited for it.
    ///
    /// # Errors
    /// It has another number of partitions: its events are to be held.
    pub(super) fn found(
        &mut self,
        name: &str,
        info: TopicInfo,
        now: Instant,
    ) -> Result<Vec<Seq>, Failure> {
        let known = self.partitions.get(name).copied();
        let Some(id) = self.find(name) else {
            return Ok(Vec::new());
        };
        if known.is_some_and(|known| known != info.partitions) {
            let known = known.unwrap_or_default();
            let text = format!(
                "topic {name} had {known} partitions and has {}: keys would change partitions",
                info.partitions
            );
            return Err(Failure::new(Code::PartitionsChanged, text));
        }
        if known.is_none() {
            self.partitions.insert(name.into(), info.partitions);
            self.learned.push((name.to_owned(), info.partitions));
        }
        let is_paused = self.paused.contains(name);
        let Some(topic) = self.get_mut(id) else {
            return Ok(Vec::new());
        };
        topic.look_at = Some(now + LOOK_ANYWAY);
        if is_paused {
            return Ok(Vec::new());
        }
        if topic.failure.take().is_some() {
            tracing::info!(topic = name, "the topic takes records");
        }
        topic.refuses = false;
        let was_away = topic.info.replace(info).is_none();
        // An event that waited for the sink when the topic went away came here after later ones.
        topic.waiting.sort_unstable();
        let waiting = std::mem::take(&mut topic.waiting);
        if was_away {
            self.healed.push(id);
        }
        self.look_by(now + LOOK_ANYWAY);
        Ok(waiting)
    }

    /// Nobody says whether the topic takes records: its events wait.
    pub(super) fn unknown(&mut self, name: &str, failure: Failure, now: Instant) {
        let Some(topic) = self.find(name).and_then(|id| self.get_mut(id)) else {
            return;
        };
        topic.look_at = Some(now + LOOK_AGAIN);
        // What was known of it is the best there is.
        if topic.info.is_none() && !topic.refuses {
            topic.failure = Some(failure);
        }
        self.look_by(now + LOOK_AGAIN);
    }

    /// The topic takes no records. Gives the events that waited for it: they are to be held.
    pub(super) fn refuse(&mut self, name: &str, failure: Failure, now: Instant) -> Vec<Seq> {
        let Some(topic) = self.find(name).and_then(|id| self.get_mut(id)) else {
            return Vec::new();
        };
        if topic.failure.as_ref().map(|before| before.code) != Some(failure.code) {
            tracing::warn!(
                code = %failure.code,
                error = failure.message,
                remedy = failure.remedy,
                "a topic takes no records; its events are held"
            );
        }
        topic.info = None;
        topic.refuses = true;
        topic.failure = Some(failure);
        topic.look_at = Some(now + LOOK_AGAIN);
        topic.waiting.sort_unstable();
        let waiting = std::mem::take(&mut topic.waiting);
        self.look_by(now + LOOK_AGAIN);
        waiting
    }

    /// Whether the topic's events are held.
    pub(super) fn refuses(&self, id: TopicId) -> bool {
        self.get(id).is_some_and(|topic| topic.refuses)
    }

    /// What operators want of topics, and how many partitions they had. Gives the topics that are
    /// paused from now on.
    pub(super) fn order(
        &mut self,
        paused: &[String],
        partitions: &[(String, i32)],
        now: Instant,
    ) -> Vec<TopicId> {
        self.partitions =
            partitions.iter().map(|(name, count)| ((&**name).into(), *count)).collect();
        for (name, count) in &self.learned {
            self.partitions.entry((&**name).into()).or_insert(*count);
        }
        let before = std::mem::take(&mut self.paused);
        self.paused = paused.iter().map(|name| (&**name).into()).collect();
        let ids = |names: &mut dyn Iterator<Item = &Box<str>>| -> Vec<TopicId> {
            names.filter_map(|name| self.find(name)).collect()
        };
        let newly = ids(&mut self.paused.difference(&before));
        let resumed = ids(&mut before.difference(&self.paused));
        for id in &newly {
            self.pause(*id);
        }
        // Also those whose partitions an operator has accepted.
        for topic in self.topics.iter_mut().filter(|topic| topic.refuses) {
            topic.look_at = topic.look_at.map(|at| at.min(now));
        }
        for id in resumed {
            if let Some(topic) = self.get_mut(id) {
                topic.look_at = Some(now);
            }
        }
        self.look_by(now);
        newly
    }

    /// The topics that an operator has paused, also those of which nothing was read yet.
    pub(super) fn paused(&self) -> Vec<String> {
        let mut names: Vec<_> = self.paused.iter().map(|name| name.to_string()).collect();
        names.sort_unstable();
        names
    }

    fn pause(&mut self, id: TopicId) {
        if let Some(topic) = self.get_mut(id) {
            let text = format!("topic {} is paused by an operator", topic.name);
            topic.info = None;
            topic.refuses = true;
            topic.failure = Some(Failure::new(Code::TopicPaused, text));
        }
    }

    /// Takes the events that wait for a topic.
    pub(super) fn take_waiting(&mut self, id: TopicId) -> Vec<Seq> {
        self.get_mut(id).map(|topic| std::mem::take(&mut topic.waiting)).unwrap_or_default()
    }

    /// What is known of the topic may be out of date: nothing goes to it until it was looked up.
    pub(super) fn doubt(&mut self, id: TopicId, now: Instant) {
        if let Some(topic) = self.get_mut(id).filter(|topic| !topic.refuses) {
            topic.info = None;
            topic.look_at = Some(now);
        }
        self.look_by(now);
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

    /// Why a topic takes no records, if one does not.
    pub(super) fn failure(&self) -> Option<&Failure> {
        self.topics.iter().find_map(|topic| topic.failure.as_ref())
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
        let now = Instant::now();
        assert_eq!(topics.found("a", info, now).unwrap(), [3, 5, 7]);
        assert!(topics.found("a", info, now).unwrap().is_empty());
        assert_eq!(topics.healed, [id]);
    }

    #[test]
    fn a_topic_with_another_number_of_partitions_waits_for_an_operator() {
        let mut topics = Topics::default();
        let now = Instant::now();
        let info = |partitions| TopicInfo { partitions, max_message_bytes: None };
        topics.order(&[], &[("a".to_owned(), 2)], now);
        topics.add("a", now).unwrap();
        let failure = topics.found("a", info(3), now).unwrap_err();
        assert_eq!(failure.code, Code::PartitionsChanged);
        topics.order(&[], &[], now);
        assert!(topics.found("a", info(3), now).is_ok(), "the operator accepts them");
        assert_eq!(topics.learned, [("a".to_owned(), 3)]);
    }

    #[test]
    fn a_paused_topic_takes_nothing_until_it_is_resumed() {
        let mut topics = Topics::default();
        let now = Instant::now();
        topics.order(&["a".to_owned()], &[], now);
        let id = topics.add("a", now).unwrap();
        assert!(topics.refuses(id));
        assert_eq!(topics.paused(), ["a"]);
        let info = TopicInfo { partitions: 1, max_message_bytes: None };
        topics.found("a", info, now).unwrap();
        assert!(topics.info(id).is_none(), "found, and paused all the same");
        topics.order(&[], &[], now);
        assert!(topics.paused().is_empty());
        topics.found("a", info, now).unwrap();
        assert!(topics.info(id).is_some() && !topics.refuses(id));
    }
}
