//! Sending what waits, and taking in what became of it.

use std::time::Duration;

use redis::{Pipeline, Value};
use tokio::time::Instant;

use super::super::errors::{Refusal, classify};
use super::super::group::{self, Group, MAX_BYTES, MAX_CALLS, Outcome, Part, Proof};
use super::super::node::Node;
use super::super::script::{self, ADD, Answer};
use super::super::troubles::Subject;
use super::{Done, Place, Worker};
use crate::sink::{NoContact, Report, SinkError};

/// How often it is looked whether "written" still means "on disk".
const CHECK_EVERY: Duration = Duration::from_secs(5);

impl Worker {
    /// Sends what may go. Whether anything that comes now could go at once.
    pub(super) fn send_groups(&mut self, now: Instant) -> bool {
        let mut is_eager = false;
        for number in 0..self.nodes.len() {
            while self.send_group(number, now) {}
            is_eager |= self.nodes.get(number).is_some_and(Node::is_idle);
        }
        is_eager
    }

    /// Sends a group to the node, if it takes one. Whether it did.
    fn send_group(&mut self, number: usize, now: Instant) -> bool {
        let Some(node) = self.nodes.get_mut(number) else { return false };
        let Some(first) = node.line.front() else { return false };
        let is_enough = self.streams.get(*first).is_some_and(super::Stream::is_full);
        let generation = node.generation;
        let Some(up) = node.up().filter(|up| up.takes(is_enough)) else { return false };
        let (server, loads) = (up.server.clone(), up.must_load);
        let is_check_due = up.checked + CHECK_EVERY <= now;
        let mut pipeline = Pipeline::with_capacity(8);
        if loads {
            pipeline.cmd("SCRIPT").arg("LOAD").arg(ADD);
        }
        let (mut parts, mut bytes) = (Vec::new(), 0);
        while pipeline.len() < MAX_CALLS && bytes < MAX_BYTES {
            let Some(stream) = self.nodes.get_mut(number).and_then(|node| node.line.pop_front())
            else {
                break;
            };
            parts.extend(self.add_part(number, stream, &server.sha, &mut pipeline, &mut bytes));
        }
        if parts.is_empty() {
            return false;
        }
        let proof = Proof::of(&self.config, &server, is_check_due);
        let group = Group { node: number, generation, parts, loads, answers: Vec::new() };
        let Some(up) = self.nodes.get_mut(number).and_then(Node::up) else { return false };
        up.groups += 1;
        up.used = now;
        up.must_load = false;
        if proof.is_check() {
            up.checked = now;
        }
        let connection = up.connection.clone();
        let task = self.tasks.spawn(async move {
            let (group, outcome) = group::send(connection, pipeline, group, proof, bytes).await;
            Done::Group(group, outcome)
        });
        if let Some(up) = self.nodes.get_mut(number).and_then(Node::up) {
            up.keep(task);
        }
        true
    }

    /// Adds what waits of a stream, as far as there is room.
    fn add_part(
        &mut self,
        node: usize,
        number: usize,
        sha: &str,
        pipeline: &mut Pipeline,
        bytes: &mut usize,
    ) -> Option<Part> {
        let stream = self.streams.get_mut(number)?;
        if stream.node != Some(node) {
            return None;
        }
        stream.is_in_line = false;
        if !stream.is_ready() {
            return None;
        }
        let mut token = || {
            self.calls += 1;
            format!("{}:{}", self.session, self.calls)
        };
        let mut part = Part { stream: number, attempt: stream.attempt, begins: false, calls: 0 };
        let mut chain = stream.chain.take().unwrap_or_else(|| {
            let begun = token();
            pipeline.add_command(script::begin(&stream.keys, &begun));
            part.begins = true;
            begun
        });
        let keys = stream.keys.clone();
        while pipeline.len() < MAX_CALLS && *bytes < MAX_BYTES {
            let Some(batch) = stream.send_next() else { break };
            let this = token();
            *bytes += batch.bytes();
            part.calls += 1;
            pipeline.add_command(script::add(batch, &keys, &self.terms, sha, [&chain, &this]));
            chain = this;
        }
        stream.chain = Some(chain);
        self.line_up(number);
        Some(part)
    }

    /// Takes in what became of a group.
    pub(super) fn finish(&mut self, group: Group, outcome: Outcome, now: Instant) {
        let (number, generation) = (group.node, group.generation);
        if !self.is_current(number, generation) {
            return;
        }
        match outcome {
            Outcome::Proven => {
                self.troubles.end(Subject::Node(number));
                if let Some(node) = self.nodes.get_mut(number) {
                    node.failures = 0;
                }
                self.answered(group, now);
                let Some(up) = self.nodes.get_mut(number).and_then(Node::up) else { return };
                up.groups = up.groups.saturating_sub(1);
                if up.must_end {
                    let reason = format!("{}: it takes nothing from us now", up.host);
                    self.give_up(number, &NoContact::Unreachable(reason), now);
                }
            }
            Outcome::Unproven(text) => {
                self.troubles.begin(Subject::Node(number), NoContact::Unreachable(text));
                let Some(up) = self.nodes.get_mut(number).and_then(Node::up) else { return };
                let connection = up.connection.clone();
                let proof = Proof::of(&self.config, &up.server, false);
                let task = self.tasks.spawn(async move {
                    let (group, outcome) = group::prove(connection, group, proof).await;
                    Done::Group(group, outcome)
                });
                if let Some(up) = self.nodes.get_mut(number).and_then(Node::up) {
                    up.keep(task);
                }
            }
            Outcome::Unsafe(reason) | Outcome::Lost(reason) => self.lose(number, reason, now),
        }
    }

    /// Takes in the answers to a group's calls, part by part.
    fn answered(&mut self, group: Group, now: Instant) {
        let mut answers = group.answers.into_iter().skip(usize::from(group.loads));
        for part in group.parts {
            let begun = part.begins.then(|| answers.next()).flatten();
            // All of them: the next part's come behind.
            let calls: Vec<_> = answers.by_ref().take(part.calls).collect();
            let attempt = self.streams.get(part.stream).map(|stream| stream.attempt);
            if attempt != Some(part.attempt) {
                continue;
            }
            if let Some(Value::ServerError(error)) = begun {
                self.refused(group.node, part.stream, classify(&error), now);
                continue;
            }
            let mut known = 0;
            let mut is_whole = true;
            for call in &calls {
                match script::answer(call) {
                    Answer::Added { known: more } => {
                        known += more;
                        self.delivered(part.stream);
                    }
                    Answer::Gap => {
                        self.gap(part.stream, now);
                        is_whole = false;
                    }
                    Answer::Refused(refusal) => {
                        self.refused(group.node, part.stream, refusal, now);
                        is_whole = false;
                    }
                }
                if !is_whole {
                    break;
                }
            }
            if is_whole {
                self.troubles.end(Subject::Stream(part.stream));
                if let Some(stream) = self.streams.get_mut(part.stream) {
                    stream.succeeded();
                }
            }
            if known > 0 {
                tracing::debug!(known, "records were in their stream already");
                self.shared.report(Report::Suppressed(known));
            }
        }
        self.shared.to_relay.give();
    }

    fn delivered(&mut self, number: usize) {
        if let Some(batch) = self.streams.get_mut(number).and_then(super::Stream::take_oldest) {
            self.shared.deliver(batch);
        }
    }

    /// A call came behind something else: another chain has begun, or what was kept is gone.
    fn gap(&mut self, number: usize, now: Instant) {
        tracing::debug!(stream = number, "a call did not follow the one before it");
        self.rest(number, now);
    }

    fn rest(&mut self, number: usize, now: Instant) {
        if let Some(stream) = self.streams.get_mut(number) {
            stream.rest(now);
            if !self.resting.contains(&number) {
                self.resting.push(number);
            }
        }
    }

    /// A call was refused. Nothing behind it was carried out.
    fn refused(&mut self, node: usize, number: usize, refusal: Refusal, now: Instant) {
        let trouble = |worker: &mut Self, reason| {
            worker.troubles.begin(Subject::Stream(number), reason);
            worker.rest(number, now);
        };
        match refusal {
            Refusal::Later(text) => {
                if text.starts_with("READONLY")
                    && let Some(up) = self.nodes.get_mut(node).and_then(Node::up)
                {
                    up.must_end = true;
                }
                trouble(self, NoContact::Unreachable(text));
            }
            Refusal::Moved(text) => match self.place {
                Place::Cluster { .. } => {
                    self.doubt_slots(now);
                    self.rest(number, now);
                }
                Place::One => {
                    let text = format!("{text}: a cluster takes redis.topology = \"cluster\"");
                    trouble(self, NoContact::Config(text));
                }
            },
            Refusal::NoScript => {
                if let Some(up) = self.nodes.get_mut(node).and_then(Node::up) {
                    up.must_load = true;
                }
                self.rest(number, now);
            }
            Refusal::Login(text) => {
                if let Some(up) = self.nodes.get_mut(node).and_then(Node::up) {
                    up.must_end = true;
                }
                trouble(self, NoContact::Login(text));
            }
            Refusal::Topic(error) => self.refuse(number, &error, now),
            Refusal::Record(text) => {
                let oldest = self.streams.get(number).and_then(super::Stream::oldest_sent);
                if oldest.is_some_and(|batch| batch.count() == 1) {
                    let batch = self.streams.get_mut(number).and_then(super::Stream::take_oldest);
                    self.fail(number, batch, &SinkError::Refused(text));
                    self.rest(number, now);
                } else {
                    self.refuse(number, &SinkError::Unknown(text), now);
                }
            }
            Refusal::Unknown(text) => self.refuse(number, &SinkError::Unknown(text), now),
        }
    }
}
