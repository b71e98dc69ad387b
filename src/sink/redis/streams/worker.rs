//! The sink's own thread: one loop that owns the streams and the connections.
//!
//! It does everything that needs no waiting, then waits for whatever comes first: something that was
//! sent or asked, an answer, or the time for another attempt. What the environment refuses goes again
//! from here, in order, for as long as that takes; the relay is only told.

mod calls;
mod nodes;

pub(super) use nodes::{judge, questions};

use std::sync::Arc;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::batch::Batch;
use super::group::{Group, Outcome};
use super::link::Access;
use super::node::{Node, State};
use super::route::{Link, Slots};
use super::script::{Keys, Terms, slot};
use super::shared::{Question, Shared};
use super::stream::{Refusing, Stream};
use super::troubles::{Subject, Troubles};
use crate::sink::{NoContact, Report, SinkError, TopicInfo};
use crate::sink::{RedisConfig, Topology};

/// How long a stream that the script may not write to is taken for that, whatever a look at it says.
const DENIED_FOR: std::time::Duration = std::time::Duration::from_secs(5);

/// What was waited for.
enum Done {
    Connected {
        node: usize,
        generation: u64,
        result: Result<Link, NoContact>,
    },
    Slots(Result<Slots, NoContact>),
    Group(Group, Outcome),
    Looked {
        node: usize,
        generation: u64,
        question: Question,
        result: Result<Result<(), SinkError>, NoContact>,
    },
    Answered {
        node: usize,
        generation: u64,
        result: Result<(), NoContact>,
    },
}

/// Where streams are.
enum Place {
    /// All at one server, the first node.
    One,
    /// Where the slots are; none before the cluster was asked.
    Cluster { slots: Option<Slots>, asks: bool, ask_at: Option<Instant>, failures: u32 },
}

/// The thread's state.
pub(super) struct Worker {
    config: RedisConfig,
    access: Access,
    terms: Terms,
    shared: Arc<Shared>,
    /// The session's name, and how many calls it has made.
    session: String,
    calls: u64,
    streams: Vec<Stream>,
    nodes: Vec<Node>,
    place: Place,
    tasks: JoinSet<Done>,
    troubles: Troubles,
    /// Streams that wait before another attempt.
    resting: Vec<usize>,
    /// How often a stream began to take no records.
    refusals: u64,
    /// Questions whose stream has no node yet.
    homeless: Vec<Question>,
}

impl Worker {
    pub(super) fn new(config: &RedisConfig, access: Access, shared: Arc<Shared>) -> Self {
        let place = match config.topology {
            Topology::Cluster => {
                Place::Cluster { slots: None, asks: false, ask_at: None, failures: 0 }
            }
            Topology::Single | Topology::Sentinel { .. } => Place::One,
        };
        let nodes = match place {
            Place::One => vec![Node::new(None)],
            Place::Cluster { .. } => Vec::new(),
        };
        Self {
            config: config.clone(),
            access,
            terms: Terms::of(config),
            shared,
            session: format!("{:016x}", fastrand::u64(..)),
            calls: 0,
            streams: Vec::new(),
            nodes,
            place,
            tasks: JoinSet::new(),
            troubles: Troubles::default(),
            resting: Vec::new(),
            refusals: 0,
            homeless: Vec::new(),
        }
    }

    /// Works until the sink is closed.
    pub(super) async fn run(mut self) {
        let (mut batches, mut questions) = (Vec::new(), Vec::new());
        loop {
            if !self.shared.fetch(&mut batches, &mut questions) {
                return;
            }
            let now = Instant::now();
            questions.drain(..).for_each(|question| self.ask(question));
            batches.drain(..).for_each(|batch| self.accept(batch));
            self.wake(now);
            self.find_slots(now);
            self.check_idle(now);
            self.connect(now);
            let is_eager = self.send_groups(now);
            self.tell();
            if self.shared.is_eager(is_eager) {
                continue;
            }
            let due = self.next_due(now);
            let shared = Arc::clone(&self.shared);
            tokio::select! {
                () = shared.sent() => {}
                Some(done) = self.tasks.join_next(), if !self.tasks.is_empty() => {
                    // What was given up says nothing any more; a panic was logged by its hook.
                    if let Ok(done) = done {
                        self.take(done);
                    }
                    while let Some(done) = self.tasks.try_join_next() {
                        if let Ok(done) = done {
                            self.take(done);
                        }
                    }
                }
                () = sleep_until(due.unwrap_or(now)), if due.is_some() => {}
            }
        }
    }

    /// Tells the relay what changed.
    fn tell(&mut self) {
        if let Some(news) = self.troubles.news() {
            self.shared.report(Report::Reachable(news));
        }
    }

    fn take(&mut self, done: Done) {
        let now = Instant::now();
        match done {
            Done::Connected { node, generation, result } => {
                self.connected(node, generation, result, now);
            }
            Done::Slots(result) => self.found_slots(result, now),
            Done::Group(group, outcome) => self.finish(group, outcome, now),
            Done::Looked { node, generation, question, result } => {
                if self.is_current(node, generation) {
                    match result {
                        Ok(result) => {
                            self.forget(node, &question);
                            self.looked(question, result, now);
                        }
                        // With all that was asked there.
                        Err(reason) => self.lose(node, reason, now),
                    }
                }
            }
            Done::Answered { node, generation, result } => {
                if self.is_current(node, generation) {
                    self.forget(node, &Question::Reachable);
                    match result {
                        Ok(()) => self.shared.report(Report::Reachable(self.troubles.answer())),
                        Err(reason) => self.lose(node, reason, now),
                    }
                }
            }
        }
    }

    /// A stream's number is its place; the sink numbers them in the order of asking.
    fn stream_of(&mut self, number: usize, name: &str) {
        if number == self.streams.len() {
            let keys = Keys::of(name, &self.config.relay_id);
            let slot = slot(&keys.stream);
            self.streams.push(Stream::new(keys, slot));
            self.settle(number);
        }
    }

    fn ask(&mut self, question: Question) {
        let node = match &question {
            Question::Stream { stream, name, .. } => {
                self.stream_of(*stream, name);
                let found = self.streams.get(*stream);
                if let Place::Cluster { .. } = self.place
                    && let Some(error) = found.and_then(|stream| stream.keys.misplaced())
                {
                    self.shared.report(topic(name, Err(error)));
                    return;
                }
                found.and_then(|stream| stream.node)
            }
            Question::Reachable if self.troubles.is_any() => {
                self.shared.report(Report::Reachable(self.troubles.answer()));
                // Whoever has no connection and nothing to send tries again.
                for node in &mut self.nodes {
                    if matches!(node.state, State::Down { .. }) && !node.is_wanted() {
                        node.questions.push(Question::Reachable);
                    }
                }
                return;
            }
            Question::Reachable => (!self.nodes.is_empty()).then_some(0),
        };
        match node {
            Some(node) => self.ask_node(node, question),
            None => self.homeless.push(question),
        }
    }

    /// Nobody can be asked.
    fn unanswered(&mut self, question: Question, reason: &NoContact) {
        match question {
            Question::Stream { name, .. } => {
                let reason = SinkError::Unavailable(reason.text().to_owned());
                self.shared.report(topic(&name, Err(reason)));
            }
            Question::Reachable => {
                self.shared.report(Report::Reachable(Err(reason.clone())));
            }
        }
    }

    fn looked(&mut self, question: Question, result: Result<(), SinkError>, now: Instant) {
        let Question::Stream { stream: number, name, taken } = question else { return };
        let Some(stream) = self.streams.get_mut(number) else { return };
        let result = result.and_then(|()| match &stream.refusing {
            Some(refusing) if refusing.is_over(taken, now) => {
                stream.refusing = None;
                Ok(())
            }
            Some(refusing) => Err(refusing.error.clone()),
            None => Ok(()),
        });
        let node = stream.node;
        let largest =
            node.and_then(|node| self.nodes.get_mut(node)?.up()).map(|up| up.server.largest);
        let info = TopicInfo { partitions: 1, max_message_bytes: largest };
        self.shared.report(topic(&name, result.map(|()| info)));
    }

    /// Takes in what was sent.
    fn accept(&mut self, batch: Batch) {
        let number = batch.stream;
        let Some(stream) = self.streams.get_mut(number) else { return };
        if let Some(refusing) = &stream.refusing {
            let error = refusing.error.clone();
            self.fail(number, [batch], &error);
            return;
        }
        if let Some(spare) = stream.push(batch) {
            self.shared.keep(spare);
        }
        self.line_up(number);
    }

    /// The stream stands in its node's line, if it has something to send.
    fn line_up(&mut self, number: usize) {
        let Some(stream) = self.streams.get_mut(number) else { return };
        if stream.is_ready()
            && !stream.is_in_line
            && let Some(node) = stream.node.and_then(|node| self.nodes.get_mut(node))
        {
            stream.is_in_line = true;
            node.line.push_back(number);
        }
    }

    /// The stream takes no records: all that are on their way come back.
    fn refuse(&mut self, number: usize, error: &SinkError, now: Instant) {
        let Some(stream) = self.streams.get_mut(number) else { return };
        self.refusals += 1;
        stream.refusing =
            Some(Refusing { error: error.clone(), number: self.refusals, since: now });
        stream.succeeded();
        let batches = stream.take_all();
        self.troubles.end(Subject::Stream(number));
        self.shared.content().refusals = self.refusals;
        self.fail(number, batches, error);
    }

    fn fail(&mut self, number: usize, batches: impl IntoIterator<Item = Batch>, error: &SinkError) {
        let Some(stream) = self.streams.get(number) else { return };
        for batch in batches {
            let reports: Vec<_> = batch
                .records()
                .map(|record| Report::Failed {
                    seq: record.seq(),
                    error: error.clone(),
                    parcel: record.parcel(&stream.keys.stream),
                })
                .collect();
            self.shared.fail(batch, reports);
        }
        self.shared.to_relay.give();
    }

    /// Streams whose rest is over.
    fn wake(&mut self, now: Instant) {
        let mut resting = std::mem::take(&mut self.resting);
        resting.retain(|number| {
            let Some(stream) = self.streams.get_mut(*number) else { return false };
            if stream.retry_at.is_some_and(|at| at > now) {
                return true;
            }
            stream.retry_at = None;
            self.line_up(*number);
            false
        });
        self.resting = resting;
    }

    fn next_due(&self, now: Instant) -> Option<Instant> {
        let streams = self.resting.iter().filter_map(|number| self.streams.get(*number)?.retry_at);
        let nodes = self.nodes.iter();
        let nodes = nodes.filter_map(|node| node.connect_at(now).or_else(|| node.check_at()));
        let cluster = match &self.place {
            Place::Cluster { ask_at, asks: false, .. } => *ask_at,
            Place::Cluster { .. } | Place::One => None,
        };
        streams.chain(nodes).chain(cluster).min()
    }
}

impl Refusing {
    /// Whether a look that found nothing wrong is believed.
    fn is_over(&self, taken: u64, now: Instant) -> bool {
        // What a look cannot see, only the script can.
        let is_seen = self.error != SinkError::TopicDenied || self.since + DENIED_FOR <= now;
        self.number <= taken && is_seen
    }
}

fn topic(name: &str, result: Result<TopicInfo, SinkError>) -> Report {
    Report::Topic { name: name.to_owned(), result }
}
