//! The connection's thread: connects, and connects again, for as long as the session lasts.
//!
//! Each connection has a runtime of its own, which ends with it: nothing of a connection that was
//! lost can still send when the next one does.

use std::sync::Arc;
use std::time::Duration;

use async_nats::ServerAddr;
use tokio::sync::mpsc::Receiver;
use tokio::time::Instant;

use super::contact::connect;
use super::flight::Flight;
use super::link::{End, Link};
use super::mailbox::Mailbox;
use super::message::Outgoing;
use super::subjects::Subjects;
use super::{NatsConfig, NoContact, Report, SinkError};
use crate::retry::Backoff;

/// The longest wait after a connection was lost, or not made, before the next is tried.
const LONGEST_WAIT: Duration = Duration::from_secs(2);
/// All of them.
const WAITS: Backoff = Backoff::new(Duration::from_millis(100), LONGEST_WAIT, 0.25);
/// Messages that are taken in at once.
const AT_ONCE: usize = 256;

/// What can be asked.
#[derive(Debug)]
pub(super) enum Question {
    Subject(String),
    /// Whether anybody answers at all.
    Reachable,
}

/// The thread's own.
pub(super) struct Worker {
    pub(super) config: NatsConfig,
    pub(super) mailbox: Arc<Mailbox>,
    pub(super) messages: Receiver<Outgoing>,
    pub(super) questions: Receiver<Question>,
    pub(super) flight: Flight,
    pub(super) subjects: Subjects,
    /// Whether somebody answers, as it was told last.
    reach: Option<Result<(), NoContact>>,
    /// Questions that wait for a connection.
    asked: Vec<Question>,
    /// Servers that others have told of.
    others: Vec<ServerAddr>,
}

impl Worker {
    pub(super) fn new(
        config: NatsConfig,
        mailbox: Arc<Mailbox>,
        messages: Receiver<Outgoing>,
        questions: Receiver<Question>,
    ) -> Self {
        Self {
            config,
            mailbox,
            messages,
            questions,
            flight: Flight::default(),
            subjects: Subjects::default(),
            reach: None,
            asked: Vec::new(),
            others: Vec::new(),
        }
    }

    /// Runs until the session ends.
    pub(super) fn run(mut self) {
        let mut failures = 0_u32;
        loop {
            let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                Err(error) => {
                    let text = format!("the system gives no runtime: {error}");
                    self.mailbox.report(Report::Fatal(text));
                    return;
                }
            };
            let started = Instant::now();
            let end = runtime.block_on(self.connection());
            if started.elapsed() > LONGEST_WAIT {
                failures = 0;
            }
            failures = failures.saturating_add(1);
            let is_over = match end {
                End::Session => true,
                End::Lost(reason) => {
                    self.lost(reason);
                    runtime.block_on(self.wait(WAITS.wait(failures, fastrand::f64())))
                }
            };
            // A look-up of a name can take its time; nobody waits for it.
            runtime.shutdown_background();
            if is_over {
                return;
            }
        }
    }

    /// One connection, from its first try to its end.
    async fn connection(&mut self) -> End {
        let config = self.config.clone();
        let others = std::mem::take(&mut self.others);
        let connected = {
            let connecting = connect(&config, &others);
            tokio::pin!(connecting);
            loop {
                tokio::select! {
                    biased;
                    is_over = self.receive() => if is_over { return End::Session },
                    connected = &mut connecting => break connected,
                }
            }
        };
        self.others = others;
        let connection = match connected {
            Ok(connection) => connection,
            Err(reason) => return End::Lost(reason),
        };
        // As this server knows them now.
        self.others = connection.others();
        let mut link = match Link::open(connection).await {
            Ok(link) => link,
            Err(reason) => return End::Lost(reason),
        };
        self.reached(Ok(()));
        for question in std::mem::take(&mut self.asked) {
            self.ask(question, &link);
        }
        self.serve(&mut link).await
    }

    /// Takes in what the relay wants while there is no connection. Whether the session is over.
    async fn receive(&mut self) -> bool {
        tokio::select! {
            message = self.messages.recv() => match message {
                Some(message) => self.flight.add(message),
                None => return true,
            },
            Some(question) = self.questions.recv() => self.asked.push(question),
        }
        for _ in 0..AT_ONCE {
            match self.messages.try_recv() {
                Ok(message) => self.flight.add(message),
                Err(_) => break,
            }
        }
        false
    }

    async fn wait(&mut self, time: Duration) -> bool {
        let until = Instant::now() + time;
        loop {
            tokio::select! {
                biased;
                is_over = self.receive() => if is_over { return true },
                () = tokio::time::sleep_until(until) => return false,
            }
        }
    }

    fn lost(&mut self, reason: NoContact) {
        self.flight.lose(Instant::now());
        self.reached(Err(reason));
        for question in std::mem::take(&mut self.asked) {
            self.unanswered(question);
        }
    }

    /// There is no answer, as things are.
    fn unanswered(&self, question: Question) {
        let reason = self.reach.clone().and_then(Result::err);
        let reason = reason.unwrap_or_else(|| NoContact::Unreachable("no connection".to_owned()));
        self.mailbox.report(match question {
            Question::Subject(name) => Report::Topic {
                name,
                result: Err(SinkError::Unavailable(reason.text().to_owned())),
            },
            Question::Reachable => Report::Reachable(Err(reason)),
        });
    }

    /// Tells whether somebody answers, if that is news.
    pub(super) fn reached(&mut self, reach: Result<(), NoContact>) {
        if self.reach.as_ref() == Some(&reach) {
            return;
        }
        self.reach = Some(reach.clone());
        self.mailbox.report(Report::Reachable(reach));
    }

    /// The relay takes what was just told it for a sign that somebody answers. Where that is not all,
    /// it is told again.
    pub(super) fn seems_well(&mut self) {
        self.reach = Some(Ok(()));
    }

    /// Tells it also if it is not.
    pub(super) fn tell_reach(&self) {
        let reach = self.reach.clone().unwrap_or(Ok(()));
        self.mailbox.report(Report::Reachable(reach));
    }
}
