//! What a history is like: its limits, how its brokers behave, and what in it never ends.

use std::collections::HashMap;
use std::ops::Range;
use std::time::Duration;

use fastrand::Rng;
use tokio::time::Instant;

use super::script::Script;
use super::world::millis;
use crate::ack::Limits;
use crate::lsn::Lsn;
use crate::outbox::TopicNames;
use crate::relay::board::begin_clock;
use crate::relay::{
    DeadLetterConfig, FlowConfig, HeldLimits, OnExhausted, RetryConfig, SettleConfig,
};
use crate::retry::Backoff;
use crate::sink::SinkError;
use crate::sink::memory::{Brokers, Refusal, Temper, Topic};

/// One history's.
pub(super) struct Setting {
    pub(super) flow: FlowConfig,
    pub(super) brokers: Brokers,
    pub(super) began: Instant,
    pub(super) calm_at: Instant,
    pub(super) swept: usize,
    pub(super) swept_until: Lsn,
}

impl Setting {
    pub(super) fn new(script: &Script, rng: &mut Rng, is_calm: bool) -> Self {
        let began = begin_clock();
        let calm_at = began + millis(rng, 2_000..20_000);
        let flow = flow(rng);
        let swept = if rng.u8(..6) == 0 { rng.usize(..=script.transactions.len()) } else { 0 };
        let swept_until = swept.checked_sub(1).map_or(Lsn::INVALID, |last| {
            let until = rng.usize(last..script.transactions.len());
            script.transactions[until].end
        });
        let first = script.transactions.get(swept).map_or(Lsn::from_wire(u64::MAX), |t| t.begin);
        let swept = script.events.iter().take_while(|event| event.position.commit < first).count();
        let weather = Weather { began, calm_at, is_calm, per_key: flow.limits.per_key };
        let mut brokers = weather.brokers(script, rng);
        weather.what_never_ends(script, rng, &mut brokers);
        Self { flow, brokers, began, calm_at, swept, swept_until }
    }
}

fn flow(rng: &mut Rng) -> FlowConfig {
    let per_key = if rng.u8(..5) == 0 { rng.u32(2..5) } else { 1 };
    let topic = if rng.u8(..5) == 0 { "" } else { "{topic}.dlq" };
    let initial = millis(rng, 1..3_000);
    FlowConfig {
        limits: Limits { events: rng.usize(1..40), bytes: rng.u64(300..20_000), per_key },
        settle: SettleConfig { batch: rng.u64(1..20), interval: millis(rng, 0..60) },
        held: HeldLimits {
            events: if rng.bool() { rng.u64(1..7) } else { 1_000 },
            bytes: if rng.u8(..4) == 0 { rng.u64(300..3_000) } else { 1 << 30 },
        },
        retry: RetryConfig {
            max_attempts: rng.u32(1..5),
            backoff: Backoff::new(initial, Duration::from_secs(5), 0.2),
            on_exhausted: match rng.u8(..3) {
                0 => OnExhausted::Block,
                _ => OnExhausted::DeadLetter,
            },
        },
        dead_letter: DeadLetterConfig {
            topic: topic.to_owned(),
            default: if rng.bool() { "outbox.dlq".to_owned() } else { String::new() },
            names: TopicNames::Kafka,
        },
    }
}

/// What the brokers of a history are to be like.
struct Weather {
    began: Instant,
    calm_at: Instant,
    is_calm: bool,
    per_key: u32,
}

impl Weather {
    fn within(&self, rng: &mut Rng) -> Range<Instant> {
        let trouble_for = (self.calm_at - self.began).as_millis().try_into().unwrap();
        let from = self.began + millis(rng, 0..trouble_for);
        from..(from + millis(rng, 1..8_000)).min(self.calm_at)
    }

    fn brokers(&self, script: &Script, rng: &mut Rng) -> Brokers {
        // A record that fails may be overtaken by one of its key that is in flight with it, so where
        // there can be such, none fails.
        let fails = !self.is_calm && self.per_key == 1;
        let chance = |rng: &mut Rng, most: u8, can_be: bool| {
            if can_be && rng.bool() { rng.u8(..most) } else { 0 }
        };
        let slow = [3, 30, 300][rng.usize(..3)];
        let temper = Temper {
            arrival: millis(rng, 0..slow),
            answer: millis(rng, 0..slow),
            queue: if rng.bool() { rng.usize(1..8) } else { 1_000 },
            joined: chance(rng, 200, true),
            unavailable: chance(rng, 20, fails),
            misreported: chance(rng, 8, fails),
            unknown: chance(rng, 3, fails),
            unanswered: chance(rng, 60, true),
            calm_at: self.calm_at,
            stalls: (0..rng.usize(..3)).map(|_| self.within(rng)).collect(),
        };
        let mut topics = HashMap::new();
        for number in 0..script.topics {
            topics.insert(format!("topic-{number}"), self.topic(rng, fails));
            topics.insert(format!("topic-{number}.dlq"), self.letters(rng));
        }
        topics.insert("outbox.dlq".to_owned(), self.letters(rng));
        let mut brokers = Brokers::new(temper, topics, rng.fork());
        for _ in 0..rng.usize(..5) {
            if self.per_key == 1 && !script.events.is_empty() {
                let event = &script.events[rng.usize(..script.events.len())];
                let id = event.row.id.clone();
                brokers.refusals.insert((id.clone(), Refusal::Event), rng.u32(1..7));
                match rng.u8(..6) {
                    0 => {
                        let times = if rng.u8(..4) == 0 { u32::MAX } else { rng.u32(1..5) };
                        brokers.refusals.insert((id, Refusal::Letter), times)
                    }
                    1 => brokers.refusals.insert((id, Refusal::WholeLetter), u32::MAX),
                    _ => None,
                };
            }
        }
        brokers
    }

    fn topic(&self, rng: &mut Rng, fails: bool) -> Topic {
        let partitions = rng.i32(1..4);
        let limited = fails && rng.u8(..6) == 0;
        let limit = if limited { (rng.usize(1_000..4_000), self.calm_at) } else { (0, self.began) };
        let closed = (rng.u8(..4) == 0).then(|| match self.per_key {
            1 => (self.within(rng), away(rng)),
            _ => (self.began..self.within(rng).end, away(rng)),
        });
        let grows = (self.per_key == 1 && rng.u8(..16) == 0)
            .then(|| (self.within(rng).end, partitions + rng.i32(1..3)));
        Topic { partitions, grows, limit, closed }
    }

    fn letters(&self, rng: &mut Rng) -> Topic {
        let limited = rng.u8(..6) == 0;
        let until = self.calm_at + Duration::from_hours(10_000);
        // Enough for a record without its value.
        let limit = if limited { (rng.usize(400..1_000), until) } else { (0, self.began) };
        let closed = (rng.u8(..6) == 0).then(|| (self.within(rng), away(rng)));
        Topic { partitions: rng.i32(1..4), grows: None, limit, closed }
    }

    /// Now and then a topic stays away, or an event is refused for good.
    fn what_never_ends(&self, script: &Script, rng: &mut Rng, brokers: &mut Brokers) {
        if rng.u8(..5) > 0 || script.events.is_empty() {
            return;
        }
        let row = &script.events[rng.usize(..script.events.len())].row;
        let choice = rng.u8(..3);
        if self.per_key == 1 && choice == 0 {
            brokers.refusals.insert((row.id.clone(), Refusal::Event), u32::MAX);
        } else if let Some(name) = &row.topic {
            let name = if choice == 1 { format!("{name}.dlq") } else { name.clone() };
            let always = self.began..self.calm_at + Duration::from_hours(10_000);
            brokers.topics.get_mut(&name).unwrap().closed = Some((always, SinkError::TopicMissing));
        }
    }
}

fn away(rng: &mut Rng) -> SinkError {
    if rng.bool() { SinkError::TopicMissing } else { SinkError::TopicDenied }
}
