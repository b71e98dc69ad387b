//! What is under way: messages that go next, those that the server has, and those whose subject
//! takes none for a while.
//!
//! What the surroundings refuse is sent again from here, and not by the relay: a stream that is full
//! would give it back ten thousand messages a second. One of them tries whether there is room; the
//! others follow it.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use super::message::Outgoing;
use crate::retry::Backoff;

/// The longest that a subject that takes nothing is left alone.
const LONGEST_WAIT: Duration = Duration::from_secs(2);
/// The waits after its tries.
const WAITS: Backoff = Backoff::new(Duration::from_millis(100), LONGEST_WAIT, 0.0);

/// After as many tries it is worth a word.
const LONG: u32 = 2;

/// Messages on their way, for one session.
#[derive(Debug, Default)]
pub(super) struct Flight {
    ready: VecDeque<Outgoing>,
    /// By the number of their sending, so that the first is the one that was sent first.
    sent: BTreeMap<u64, Sent>,
    stalls: HashMap<Box<str>, Stall>,
    last: u64,
}

#[derive(Debug)]
struct Sent {
    message: Outgoing,
    at: Instant,
}

/// A subject that takes nothing for a while.
#[derive(Debug)]
struct Stall {
    waiting: VecDeque<Outgoing>,
    why: String,
    /// How often it was tried.
    tries: u32,
    turn: Turn,
    /// Whether the stream is to be looked up before the next try.
    looks: bool,
}

#[derive(Debug, PartialEq)]
enum Turn {
    Waits(Instant),
    Looks,
    /// Waits for what becomes of the sending with this number.
    Tries(u64),
}

impl Stall {
    /// Whether that is more than a moment.
    fn is_long(&self) -> bool {
        self.tries >= LONG
    }
}

/// What a stalled subject does when it is its turn.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// Its stream is to be looked up; then [`Flight::looked_up`].
    Look(Box<str>),
    /// Its first message is to be sent: [`Flight::trial`].
    Try(Box<str>),
}

impl Flight {
    /// Takes in a message.
    pub(super) fn add(&mut self, message: Outgoing) {
        match self.stalls.get_mut(message.subject.as_str()) {
            Some(stall) => stall.waiting.push_back(message),
            None => self.ready.push_back(message),
        }
    }

    /// The next message that can go.
    pub(super) fn next(&mut self) -> Option<Outgoing> {
        while let Some(message) = self.ready.pop_front() {
            match self.stalls.get_mut(message.subject.as_str()) {
                Some(stall) => stall.waiting.push_back(message),
                None => return Some(message),
            }
        }
        None
    }

    /// The number under which a message is about to be sent.
    pub(super) fn number(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// The message was sent under that number.
    pub(super) fn sent(&mut self, number: u64, message: Outgoing, at: Instant) {
        self.sent.insert(number, Sent { message, at });
    }

    /// What was sent under that number, if it is still waited for.
    pub(super) fn look(&self, number: u64) -> Option<&Outgoing> {
        self.sent.get(&number).map(|sent| &sent.message)
    }

    /// The sending with that number has its answer.
    pub(super) fn end(&mut self, number: u64) -> Option<Outgoing> {
        self.sent.remove(&number).map(|sent| sent.message)
    }

    /// The subject of that sending takes messages: those that wait for it go.
    pub(super) fn taken(&mut self, subject: &str) {
        if self.stalls.is_empty() {
            return;
        }
        if let Some(stall) = self.stalls.remove(subject) {
            if stall.is_long() {
                tracing::info!(subject, "the subject takes messages again");
            }
            self.ready.extend(stall.waiting);
        }
    }

    /// The sending with that number was refused for no reason of its own. With `looks` its stream may
    /// not be there any more.
    pub(super) fn stall(&mut self, number: u64, why: String, looks: bool, now: Instant) {
        let Some(message) = self.end(number) else {
            return;
        };
        let stall = self.stalls.entry(message.subject.as_str().into()).or_insert_with(|| Stall {
            waiting: VecDeque::new(),
            why: String::new(),
            tries: 0,
            turn: Turn::Waits(now + wait(0)),
            looks,
        });
        (stall.why, stall.looks) = (why, stall.looks || looks);
        if stall.turn == Turn::Tries(number) {
            if stall.tries == LONG {
                let (subject, error) = (message.subject.as_str(), &stall.why);
                tracing::warn!(subject, error, "a subject takes no messages; its events wait");
            }
            stall.turn = Turn::Waits(now + wait(stall.tries));
            stall.waiting.push_front(message);
        } else {
            stall.waiting.push_back(message);
        }
    }

    /// The stalled subjects whose turn it is.
    pub(super) fn due(&mut self, now: Instant) -> Vec<Due> {
        let mut due = Vec::new();
        for (subject, stall) in &mut self.stalls {
            if !matches!(stall.turn, Turn::Waits(at) if at <= now) {
                continue;
            }
            if stall.looks {
                stall.turn = Turn::Looks;
                due.push(Due::Look(subject.clone()));
            } else {
                due.push(Due::Try(subject.clone()));
            }
        }
        due
    }

    /// The message that tries whether its subject takes anything; the number is the sending's.
    pub(super) fn trial(&mut self, subject: &str, number: u64) -> Option<Outgoing> {
        let stall = self.stalls.get_mut(subject)?;
        let message = stall.waiting.pop_front();
        if message.is_some() {
            stall.tries += 1;
            stall.turn = Turn::Tries(number);
        } else {
            self.stalls.remove(subject);
        }
        message
    }

    /// The stream of a stalled subject was found, or nobody says whether it is there.
    pub(super) fn looked_up(&mut self, subject: &str, is_there: bool, now: Instant) {
        let Some(stall) = self.stalls.get_mut(subject) else {
            return;
        };
        if stall.turn == Turn::Looks {
            stall.looks = !is_there;
            stall.tries += u32::from(!is_there);
            stall.turn = Turn::Waits(if is_there { now } else { now + wait(stall.tries) });
        }
    }

    /// Takes out what is for that subject, whether it was sent or not.
    pub(super) fn give_up(&mut self, subject: &str) -> Vec<Outgoing> {
        let is_for = |message: &Outgoing| message.subject.as_str() == subject;
        let numbers = self.sent.iter().filter(|(_, sent)| is_for(&sent.message));
        let numbers: Vec<_> = numbers.map(|(number, _)| *number).collect();
        let mut messages: Vec<_> =
            numbers.into_iter().filter_map(|number| self.end(number)).collect();
        messages.extend(self.stalls.remove(subject).into_iter().flat_map(|stall| stall.waiting));
        let (gone, left) = self.ready.drain(..).partition(is_for);
        self.ready = left;
        messages.extend::<VecDeque<_>>(gone);
        messages
    }

    /// The connection is lost, and nobody knows what became of what was sent: it goes again, first.
    pub(super) fn lose(&mut self, now: Instant) {
        let sent = std::mem::take(&mut self.sent);
        for stall in self.stalls.values_mut() {
            if !matches!(stall.turn, Turn::Waits(_)) {
                stall.turn = Turn::Waits(now);
            }
        }
        for sent in sent.into_values().rev() {
            self.ready.push_front(sent.message);
        }
    }

    /// Since when the server owes an answer; none if it owes none.
    pub(super) fn oldest(&self) -> Option<Instant> {
        self.sent.values().next().map(|sent| sent.at)
    }

    /// The sendings from before that time.
    pub(super) fn sent_before(&self, time: Instant) -> Vec<u64> {
        let late = self.sent.iter().take_while(|(_, sent)| sent.at < time);
        late.map(|(number, _)| *number).collect()
    }

    /// Why a subject takes nothing, if one has taken nothing for more than a moment.
    pub(super) fn stalled(&self) -> Option<String> {
        let (subject, stall) = self.stalls.iter().find(|(_, stall)| stall.is_long())?;
        Some(format!("subject {subject}: {}", stall.why))
    }
}

/// How long to wait after so many tries.
fn wait(tries: u32) -> Duration {
    WAITS.wait(tries.saturating_add(1), 0.5)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::{EventRef, Parcel};

    fn message(subject: &str, seq: u64) -> Outgoing {
        let parcel = Parcel::default();
        let event = EventRef { id: "x", ..EventRef::default() };
        Outgoing::new(&parcel.record(event, subject, false), seq).unwrap()
    }

    fn send_all(flight: &mut Flight, at: Instant) -> Vec<u64> {
        let mut seqs = Vec::new();
        while let Some(message) = flight.next() {
            seqs.push(message.seq());
            let number = flight.number();
            flight.sent(number, message, at);
        }
        seqs
    }

    #[test]
    fn a_full_subject_is_tried_with_one_message_while_others_go() {
        let (mut flight, now) = (Flight::default(), Instant::now());
        for (subject, seq) in [("full", 1), ("full", 2), ("free", 3)] {
            flight.add(message(subject, seq));
        }
        assert_eq!(send_all(&mut flight, now), [1, 2, 3]);
        flight.stall(1, "maximum messages exceeded".to_owned(), false, now);
        flight.stall(2, "maximum messages exceeded".to_owned(), false, now);
        flight.add(message("full", 4));
        flight.add(message("free", 5));
        assert_eq!(send_all(&mut flight, now), [5], "the others wait");
        assert!(flight.due(now).is_empty());
        let (full, mut at): (Box<str>, _) = ("full".into(), now);
        for tries in 1..=3 {
            at += LONGEST_WAIT;
            assert_eq!(flight.due(at), [Due::Try(full.clone())]);
            let number = flight.number();
            let trial = flight.trial(&full, number).unwrap();
            assert_eq!(trial.seq(), 1);
            flight.sent(number, trial, at);
            assert!(flight.due(at + LONGEST_WAIT).is_empty(), "one at a time");
            if tries < 3 {
                flight.stall(number, "maximum messages exceeded".to_owned(), false, at);
                assert_eq!(flight.stalled().is_some(), tries > 1, "a moment is not worth a word");
            } else {
                assert_eq!(flight.end(number).unwrap().seq(), 1);
                flight.taken(&full);
            }
        }
        assert_eq!(send_all(&mut flight, at), [2, 4]);
        assert!(flight.stalled().is_none());
    }

    #[test]
    fn a_subject_whose_stream_may_be_gone_is_looked_up_before_it_is_tried() {
        let (mut flight, now) = (Flight::default(), Instant::now());
        flight.add(message("a", 1));
        send_all(&mut flight, now);
        flight.stall(1, "no stream answers".to_owned(), true, now);
        let (subject, later): (Box<str>, _) = ("a".into(), now + LONGEST_WAIT);
        assert_eq!(flight.due(later), [Due::Look(subject.clone())]);
        flight.looked_up(&subject, false, later);
        let later = later + LONGEST_WAIT;
        assert_eq!(flight.due(later), [Due::Look(subject.clone())], "nobody knew");
        flight.looked_up(&subject, true, later);
        assert_eq!(flight.due(later), [Due::Try(subject.clone())]);
        assert_eq!(flight.give_up(&subject).len(), 1);
        assert!(flight.due(later + LONGEST_WAIT).is_empty());
    }

    #[test]
    fn what_was_sent_over_a_lost_connection_goes_again_first_and_in_order() {
        let (mut flight, now) = (Flight::default(), Instant::now());
        for seq in 1..=3 {
            flight.add(message("a", seq));
        }
        send_all(&mut flight, now);
        flight.end(1);
        flight.add(message("a", 4));
        flight.lose(now);
        assert!(flight.oldest().is_none() && flight.end(2).is_none(), "late answers mean nothing");
        assert_eq!(send_all(&mut flight, now), [2, 3, 4]);
        assert_eq!(flight.sent_before(now + LONGEST_WAIT).len(), 3);
        assert_eq!(flight.give_up(&Box::from("a")).len(), 3);
    }
}
