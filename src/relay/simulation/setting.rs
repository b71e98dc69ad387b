//! How a history's brokers behave, and what in it never ends.

use std::time::Duration;

use fastrand::Rng;
use tokio::time::Instant;

use super::script::{Event, Script};
use super::world::millis;
use crate::sink::SinkError;
use crate::sink::memory::{Brokers, Temper, Topic};

pub(super) fn brokers(
    script: &Script,
    rng: &mut Rng,
    began: Instant,
    calm_at: Instant,
    is_calm: bool,
    per_key: u32,
) -> Brokers {
    let trouble_for = (calm_at - began).as_millis().try_into().unwrap();
    let within = |rng: &mut Rng| {
        let from = began + millis(rng, 0..trouble_for);
        from..(from + millis(rng, 1..8_000)).min(calm_at)
    };
    // A record that fails may be overtaken by one of its key that is in flight with it, so where
    // there can be such, none fails.
    let fails = !is_calm && per_key == 1;
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
        calm_at,
        stalls: (0..rng.usize(..3)).map(|_| within(rng)).collect(),
    };
    let topics = (0..script.topics).map(|number| {
        let partitions = rng.i32(1..4);
        let limited = fails && rng.u8(..6) == 0;
        let limit = if limited { (rng.usize(1_000..4_000), calm_at) } else { (0, began) };
        let error = if rng.bool() { SinkError::TopicMissing } else { SinkError::TopicDenied };
        let closed = (rng.u8(..4) == 0).then(|| match per_key {
            1 => (within(rng), error),
            _ => (began..within(rng).end, error),
        });
        (format!("topic-{number}"), Topic { partitions, limit, closed })
    });
    let topics = topics.collect();
    let mut brokers = Brokers::new(temper, topics, rng.fork());
    for _ in 0..rng.usize(..4) {
        if per_key == 1 && !script.events.is_empty() {
            let event = &script.events[rng.usize(..script.events.len())];
            brokers.refusals.insert(event.id.clone(), rng.u32(1..4));
        }
    }
    brokers
}

/// Now and then a topic stays away, or an event is refused for good.
pub(super) fn what_never_ends(
    script: &Script,
    rng: &mut Rng,
    brokers: &mut Brokers,
    is_calm: bool,
    per_key: u32,
    swept: usize,
) -> Option<usize> {
    if is_calm || rng.u8(..8) > 0 || swept == script.events.len() {
        return None;
    }
    let victim = rng.usize(swept..script.events.len());
    let event = &script.events[victim];
    if per_key == 1 && rng.bool() {
        brokers.refusals.insert(event.id.clone(), u32::MAX);
    } else if let Some(topic) = brokers.topics.get_mut(&event.topic) {
        let always = Instant::now()..Instant::now() + Duration::from_hours(10_000);
        topic.closed = Some((always, SinkError::TopicMissing));
    }
    Some(victim)
}

pub(super) fn blocked(
    victim: &Option<usize>,
    lanes: &[Option<(usize, usize)>],
    brokers: &Brokers,
    script: &Script,
    swept: usize,
    calm_at: Instant,
) -> Vec<bool> {
    let Some(victim) = *victim else {
        return vec![false; script.events.len()];
    };
    let lane = lanes[victim];
    let is_blocked = |(number, event): (usize, &Event)| {
        let closed = &brokers.topics[&event.topic].closed;
        let is_closed = closed.as_ref().is_some_and(|(when, _)| when.end > calm_at);
        let is_behind = match (lane, lanes[number]) {
            (Some((lane, place)), Some((other, behind))) => lane == other && behind >= place,
            _ => number == victim,
        };
        number >= swept && (is_closed || is_behind)
    };
    script.events.iter().enumerate().map(is_blocked).collect()
}
