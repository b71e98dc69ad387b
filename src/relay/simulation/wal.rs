//! The server's end of a replication connection: it sends what the script says, from where the slot
//! is, in pieces and at moments of its own.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use fastrand::Rng;
use tokio::time::{Instant, sleep_until};
use tokio_postgres::error::SqlState;

use super::outbox::layouts;
use super::script::Message;
use super::witness::Witness;
use super::world::millis;
use crate::lsn::Lsn;
use crate::postgres::{Error, Feedback, WalMessage, WalStream};

/// A connection to the server, until it breaks.
pub(super) struct Connection {
    pub(super) cut_at: Option<Instant>,
    pub(super) witness: Rc<Witness>,
}

impl Connection {
    /// Waits until `at`.
    pub(super) async fn until(&self, at: Instant) -> Result<(), Error> {
        match self.cut_at.filter(|cut| *cut <= at) {
            Some(cut) => {
                sleep_until(cut).await;
                Err(self.breaks())
            }
            None => {
                sleep_until(at).await;
                Ok(())
            }
        }
    }

    pub(super) fn breaks(&self) -> Error {
        self.witness.fails();
        if fastrand::bool() {
            return Error::Closed;
        }
        let message = "terminating connection due to administrator command".to_owned();
        Error::Server { sqlstate: SqlState::ADMIN_SHUTDOWN, message, in_context: false }
    }
}

/// One stream.
pub(super) struct ScriptedWal {
    connection: Connection,
    rng: Rng,
    layouts: [Vec<u8>; 2],
    knows_layouts: bool,
    /// Where the stream began, and which message the server sends next.
    start: Lsn,
    next: (usize, usize),
    next_at: Instant,
    received: VecDeque<Sent>,
    /// Of the last one only the beginning has come.
    is_cut: bool,
    /// It breaks when so many messages more were sent.
    breaks_after: Option<usize>,
    sender_timeout: Option<Duration>,
    latency: u64,
    gathers: bool,
    /// How late this side learns that the server has hung up.
    deaf_for: Duration,
}

#[derive(Debug, Clone, Copy)]
enum Sent {
    Layout(usize),
    Message(usize, usize),
    Keepalive(Lsn, bool),
}

impl ScriptedWal {
    pub(super) fn start(connection: Connection, breaks_after: Option<usize>) -> Self {
        let world = &connection.witness.world;
        let mut rng = world.fork();
        let start = world.state.borrow().confirmed;
        // What the server skips: commits that start before what was confirmed.
        let first = world.script.transactions.iter().position(|t| t.begin >= start);
        let first = first.unwrap_or(world.script.transactions.len());
        let seconds = Duration::from_secs(rng.u64(2..60));
        Self {
            layouts: layouts(),
            knows_layouts: false,
            start,
            next: (first, 0),
            next_at: Instant::now() + millis(&mut rng, 0..30),
            received: VecDeque::new(),
            is_cut: false,
            breaks_after,
            sender_timeout: rng.bool().then_some(seconds),
            latency: [1, 5, 100][rng.usize(..3)],
            deaf_for: millis(&mut rng, 0..30_000),
            gathers: rng.bool(),
            connection,
            rng,
        }
    }

    fn message(&self, (transaction, message): (usize, usize)) -> &Message {
        &self.connection.witness.world.script.transactions[transaction].messages[message]
    }

    /// When a relay that was replaced learns that the server has hung up.
    fn learns_at(&self) -> Option<Instant> {
        self.connection.witness.replaced_at.get().map(|at| at + self.deaf_for)
    }

    /// A piece of what the server has to send arrives.
    fn receive(&mut self) {
        let world = Rc::clone(&self.connection.witness.world);
        let now = Instant::now();
        let mut left = self.rng.usize(1..40);
        if let Some(breaks_after) = &mut self.breaks_after {
            left = left.min(*breaks_after);
            *breaks_after -= left;
        }
        let mut next_at = None;
        while left > 0 {
            left -= 1;
            let (number, message) = self.next;
            let last = number.checked_sub(1).map(|last| world.script.transactions[last].end);
            let from = last.map_or(self.start, |last| last.max(self.start));
            let Some(transaction) = world.script.transactions.get(number) else {
                let wal_end = Lsn::from_wire(from.to_wire() + self.rng.u64(..500));
                self.keepalive(wal_end);
                next_at = Some(now + millis(&mut self.rng, 500..10_000));
                break;
            };
            if world.began + transaction.at > now {
                self.keepalive(self.between(from, transaction.begin));
                next_at = Some(world.began + transaction.at);
                break;
            }
            if message == 0 && self.rng.u8(..6) == 0 {
                self.keepalive(self.between(from, transaction.begin));
            } else if message > 0 && self.rng.u8(..24) == 0 {
                self.keepalive(self.between(transaction.begin, transaction.end));
            }
            if transaction.messages[message].needs_layout && !self.knows_layouts {
                self.knows_layouts = true;
                self.received.extend([Sent::Layout(0), Sent::Layout(1)]);
            }
            self.received.push_back(Sent::Message(number, message));
            let is_last = message + 1 == transaction.messages.len();
            self.next = if is_last { (number + 1, 0) } else { (number, message + 1) };
        }
        self.is_cut = self.rng.u8(..3) == 0;
        let soon = now + Duration::from_millis(self.rng.u64(..self.latency));
        self.next_at = next_at.unwrap_or(soon);
    }

    fn keepalive(&mut self, wal_end: Lsn) {
        let reply_requested = self.rng.u8(..4) == 0;
        self.received.push_back(Sent::Keepalive(wal_end, reply_requested));
    }

    fn between(&self, from: Lsn, to: Lsn) -> Lsn {
        Lsn::from_wire(fastrand::u64(from.to_wire()..=to.to_wire()))
    }
}

impl WalStream for ScriptedWal {
    async fn fill(&mut self) -> Result<(), Error> {
        self.connection.until(self.next_at).await?;
        let witness = Rc::clone(&self.connection.witness);
        if let Some(learns_at) = self.learns_at() {
            self.connection.until(learns_at).await?;
            return Err(self.connection.breaks());
        }
        if self.breaks_after == Some(0) {
            witness.world.tally(|tally| tally.torn += u64::from(self.next.1 > 0));
            return Err(self.connection.breaks());
        }
        self.receive();
        Ok(())
    }

    fn next(&mut self) -> Result<Option<WalMessage<'_>>, Error> {
        if self.is_cut && self.received.len() == 1 {
            return Ok(None);
        }
        let Some(sent) = self.received.pop_front() else {
            return Ok(None);
        };
        let witness = &self.connection.witness;
        Ok(Some(match sent {
            Sent::Layout(which) => WalMessage::Data(&self.layouts[which]),
            Sent::Keepalive(wal_end, reply_requested) => {
                witness.brings(wal_end, false);
                if reply_requested {
                    witness.is_asked();
                }
                WalMessage::Keepalive { wal_end, reply_requested }
            }
            Sent::Message(number, message) => {
                let transaction = &witness.world.script.transactions[number];
                if message + 1 == transaction.messages.len() {
                    witness.brings(transaction.end, true);
                }
                let message = self.message((number, message));
                if let Some(event) = message.event {
                    witness.reads(event, message.bytes.len());
                }
                WalMessage::Data(&message.bytes)
            }
        }))
    }

    fn next_len(&self) -> usize {
        match self.received.front() {
            None => 0,
            Some(Sent::Layout(which)) => self.layouts[*which].len(),
            Some(Sent::Keepalive(..)) => 18,
            Some(Sent::Message(number, message)) => self.message((*number, *message)).bytes.len(),
        }
    }

    fn gathers(&self) -> bool {
        self.gathers
    }

    async fn send(&mut self, feedback: Feedback) -> Result<(), Error> {
        let Connection { witness, .. } = &self.connection;
        witness.feeds_back(feedback, self.sender_timeout);
        match self.learns_at() {
            Some(learns_at) if Instant::now() < learns_at => return Ok(()),
            Some(_) => return Err(self.connection.breaks()),
            None => self.connection.until(Instant::now()).await?,
        }
        if feedback.confirmed.is_valid() {
            witness.world.confirm(feedback.confirmed);
        }
        Ok(())
    }

    fn sender_timeout(&self) -> Option<Duration> {
        self.sender_timeout
    }

    async fn close(mut self) -> Result<(), Error> {
        let Connection { witness, .. } = &self.connection;
        let breaks = witness.world.is_troubled() && self.rng.u8(..8) == 0;
        if witness.replaced_at.get().is_some() || breaks {
            return Err(self.connection.breaks());
        }
        self.connection.until(Instant::now()).await
    }
}
