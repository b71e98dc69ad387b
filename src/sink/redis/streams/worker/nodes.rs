//! Which server has which stream, and whether there is a connection to it.

use redis::aio::MultiplexedConnection;
use redis::{Cmd, Value};
use tokio::time::Instant;

use super::super::errors::{Refusal, classify};
use super::super::link::ask;
use super::super::node::{Node, State, Up};
use super::super::route::{self, Link, Slots, ask_slots};
use super::super::script::Keys;
use super::super::shared::Question;
use super::super::stream::backoff;
use super::super::troubles::Subject;
use super::{Done, Place, Worker};
use crate::sink::{NoContact, SinkError};

impl Worker {
    pub(super) fn is_current(&self, node: usize, generation: u64) -> bool {
        self.nodes.get(node).is_some_and(|node| node.generation == generation)
    }

    /// Finds the stream's node.
    pub(super) fn settle(&mut self, number: usize) {
        let Some(stream) = self.streams.get_mut(number) else { return };
        let node = match &self.place {
            Place::One => Some(0),
            Place::Cluster { slots, .. } => {
                let host = slots.as_ref().and_then(|slots| slots.host(stream.slot));
                host.and_then(|host| {
                    self.nodes.iter().position(|node| node.host.as_ref() == Some(host))
                })
            }
        };
        if stream.node != node {
            stream.node = node;
            // It may stand in another's line, and leaves it when it comes to its turn there.
            stream.is_in_line = false;
            stream.start_over();
        }
        self.line_up(number);
    }

    /// Asks the cluster where its slots are, when that is due.
    pub(super) fn find_slots(&mut self, now: Instant) {
        let Place::Cluster { slots, asks, ask_at, .. } = &mut self.place else { return };
        let is_due = match (ask_at.as_ref(), slots.as_ref()) {
            (Some(at), _) => *at <= now,
            (None, None) => true,
            (None, Some(_)) => false,
        };
        if *asks || !is_due {
            return;
        }
        (*asks, *ask_at) = (true, None);
        let mut hosts = self.access.hosts().to_vec();
        hosts.extend(slots.as_ref().map(Slots::hosts).unwrap_or_default());
        // Not the same one first each time: it can be the one that is cut off.
        fastrand::shuffle(&mut hosts);
        hosts.dedup();
        let access = self.access.clone();
        self.tasks.spawn(async move { Done::Slots(ask_slots(&access, &hosts).await) });
    }

    /// The slots may be elsewhere now.
    pub(super) fn doubt_slots(&mut self, at: Instant) {
        if let Place::Cluster { ask_at, .. } = &mut self.place {
            *ask_at = Some(ask_at.map_or(at, |before| before.min(at)));
        }
    }

    pub(super) fn found_slots(&mut self, result: Result<Slots, NoContact>, now: Instant) {
        let Place::Cluster { slots, asks, ask_at, failures } = &mut self.place else { return };
        *asks = false;
        match result {
            Ok(found) => {
                *failures = 0;
                for host in found.hosts() {
                    if self.nodes.iter().all(|node| node.host.as_ref() != Some(&host)) {
                        self.nodes.push(Node::new(Some(host)));
                    }
                }
                *slots = Some(found);
                self.troubles.end(Subject::Cluster);
            }
            Err(reason) => {
                *ask_at = Some(now + backoff(*failures));
                *failures = failures.saturating_add(1);
                for question in std::mem::take(&mut self.homeless) {
                    self.unanswered(question, &reason);
                }
                self.troubles.begin(Subject::Cluster, reason);
                return;
            }
        }
        (0..self.streams.len()).for_each(|number| self.settle(number));
        if let Some(lost) = self.streams.iter().find(|stream| stream.node.is_none()) {
            let text = format!("no node of the cluster has slot {}", lost.slot);
            self.troubles.begin(Subject::Cluster, NoContact::Unreachable(text));
            self.doubt_slots(now + backoff(3));
        }
        for number in 0..self.nodes.len() {
            let is_used = self.streams.iter().any(|stream| stream.node == Some(number));
            if !is_used {
                self.troubles.end(Subject::Node(number));
            }
        }
        for question in std::mem::take(&mut self.homeless) {
            self.ask(question);
        }
    }

    /// Asks servers that nothing was asked of for a while whether they are there.
    pub(super) fn check_idle(&mut self, now: Instant) {
        for number in 0..self.nodes.len() {
            let is_due =
                self.nodes.get(number).and_then(Node::check_at).is_some_and(|at| at <= now);
            if is_due {
                self.ask_node(number, Question::Reachable);
            }
        }
    }

    /// Makes the connections that are wanted.
    pub(super) fn connect(&mut self, now: Instant) {
        for (number, node) in self.nodes.iter_mut().enumerate() {
            if node.connect_at(now).is_none_or(|at| at > now) {
                continue;
            }
            node.state = State::Connecting;
            let (generation, host) = (node.generation, node.host.clone());
            let (access, config) = (self.access.clone(), self.config.clone());
            self.tasks.spawn(async move {
                let result = route::connect(&access, &config, host.as_ref()).await;
                Done::Connected { node: number, generation, result }
            });
        }
    }

    pub(super) fn connected(
        &mut self,
        number: usize,
        generation: u64,
        result: Result<Link, NoContact>,
        now: Instant,
    ) {
        if !self.is_current(number, generation) {
            return;
        }
        let link = match result {
            Ok(link) => link,
            Err(reason) => return self.lose(number, reason, now),
        };
        tracing::debug!(host = %link.host, "connected to Redis");
        let Some(node) = self.nodes.get_mut(number) else { return };
        node.state = State::Up(Up {
            connection: link.connection,
            server: link.server,
            host: link.host,
            groups: 0,
            must_load: false,
            must_end: false,
            checked: now,
            used: now,
            tasks: Vec::new(),
        });
        // Otherwise what waits to be sent says whether it gets on.
        if node.line.is_empty() {
            self.troubles.end(Subject::Node(number));
        }
        let questions = self.nodes.get_mut(number).map(|node| std::mem::take(&mut node.questions));
        for question in questions.unwrap_or_default() {
            self.ask_node(number, question);
        }
    }

    /// The connection is gone, or there is none.
    pub(super) fn lose(&mut self, number: usize, reason: NoContact, now: Instant) {
        self.troubles.begin(Subject::Node(number), reason.clone());
        // Before the answers to those who asked.
        self.tell();
        self.give_up(number, &reason, now);
    }

    /// The connection is not used any more. Everything that was under way on it goes again.
    pub(super) fn give_up(&mut self, number: usize, reason: &NoContact, now: Instant) {
        let Some(node) = self.nodes.get_mut(number) else { return };
        let retry_at = now + backoff(node.failures);
        node.failures = node.failures.saturating_add(1);
        node.end(retry_at);
        tracing::debug!(?reason, "no connection to Redis");
        let questions = std::mem::take(&mut node.questions);
        for stream in 0..self.streams.len() {
            let here = self.streams.get_mut(stream).filter(|stream| stream.node == Some(number));
            if let Some(stream) = here {
                stream.start_over();
            }
            self.line_up(stream);
        }
        for question in questions {
            self.unanswered(question, reason);
        }
        self.doubt_slots(now);
    }

    /// Asks now, or when there is a connection.
    pub(super) fn ask_node(&mut self, number: usize, question: Question) {
        let Some(node) = self.nodes.get_mut(number) else { return };
        let generation = node.generation;
        let asked = match &question {
            Question::Stream { stream, name, taken } => {
                Question::Stream { stream: *stream, name: name.clone(), taken: *taken }
            }
            Question::Reachable => Question::Reachable,
        };
        node.questions.push(asked);
        let Some(up) = node.up() else { return };
        let connection = up.connection.clone();
        let task = match question {
            Question::Stream { stream, .. } => {
                let Some(keys) = self.streams.get(stream).map(|stream| stream.keys.clone()) else {
                    return;
                };
                self.tasks.spawn(async move {
                    let result = look_at(connection, &keys).await;
                    Done::Looked { node: number, generation, question, result }
                })
            }
            Question::Reachable => self.tasks.spawn(async move {
                let mut connection = connection;
                let result = ask(&mut connection, &[redis::cmd("PING")]).await.map(drop);
                Done::Answered { node: number, generation, result }
            }),
        };
        if let Some(up) = self.nodes.get_mut(number).and_then(Node::up) {
            up.used = Instant::now();
            up.keep(task);
        }
    }

    /// A question was answered.
    pub(super) fn forget(&mut self, number: usize, answered: &Question) {
        let is_it = |question: &Question| match (question, answered) {
            (Question::Stream { stream, .. }, Question::Stream { stream: other, .. }) => {
                stream == other
            }
            (Question::Reachable, Question::Reachable) => true,
            _ => false,
        };
        if let Some(node) = self.nodes.get_mut(number)
            && let Some(at) = node.questions.iter().position(is_it)
        {
            node.questions.swap_remove(at);
        }
    }
}

/// What a server says of an entry that no stream can have, once it would let us add one.
const NO_ENTRY: &str = "must be greater than 0-0";
/// What it says of half a field, once it would let us write one.
const HALF_A_FIELD: &str = "wrong number of arguments";

/// The questions of [`judge`]. Nothing is written: what would be is not possible.
pub(in super::super) fn questions(keys: &Keys) -> [Cmd; 3] {
    let mut kind = redis::cmd("TYPE");
    kind.arg(&keys.stream);
    let mut entry = redis::cmd("XADD");
    entry.arg(&keys.stream).arg("0-0").arg("no").arg("entry");
    let mut field = redis::cmd("HSET");
    field.arg(&keys.state).arg("half").arg("a").arg("field");
    [kind, entry, field]
}

/// Whether the stream takes entries from us.
pub(in super::super) fn judge(answers: &[Value]) -> Result<(), SinkError> {
    let [kind, writes @ ..] = answers else {
        return Err(SinkError::Unavailable("no answer".to_owned()));
    };
    match kind {
        Value::ServerError(error) => return Err(refused(classify(error))),
        kind => match super::super::link::text(kind).as_deref() {
            Some("none" | "stream") => {}
            Some(other) => {
                let text = format!("the key holds a {other}, no stream");
                return Err(SinkError::WrongTopic(text));
            }
            None => return Err(SinkError::Unavailable("no answer".to_owned())),
        },
    }
    for answer in writes {
        let Value::ServerError(error) = answer else { continue };
        let details = error.details().unwrap_or_default();
        let is_allowed = details.contains(NO_ENTRY) || details.contains(HALF_A_FIELD);
        if !is_allowed {
            return Err(refused(classify(error)));
        }
    }
    Ok(())
}

fn refused(refusal: Refusal) -> SinkError {
    match refusal {
        Refusal::Topic(error) => error,
        Refusal::Later(text) | Refusal::Moved(text) | Refusal::Login(text) => {
            SinkError::Unavailable(text)
        }
        Refusal::NoScript => SinkError::Unavailable("it has forgotten the script".to_owned()),
        Refusal::Record(text) | Refusal::Unknown(text) => SinkError::Unknown(text),
    }
}

async fn look_at(
    mut connection: MultiplexedConnection,
    keys: &Keys,
) -> Result<Result<(), SinkError>, NoContact> {
    ask(&mut connection, &questions(keys)).await.map(|answers| judge(&answers))
}
