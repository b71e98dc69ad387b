//! A connection at work: messages go out, answers come in, and each is set against what it answers.
//!
//! Every message has a subject of its own for its answer, below one that is listened to: no future
//! and no task for each of them.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use async_nats::{Event, Message, ServerError, Subscriber};
use futures_core::Stream as _;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::answer::{Verdict, verdict};
use super::api::{denied_subject, forbids_answers};
use super::contact::{ANSWER_WITHIN, Connection, is_about_login};
use super::flight::Due;
use super::message::Outgoing;
use super::streams::{Found, find};
use super::thread::{Question, Worker};
use super::{NoContact, Report, SinkError};
use crate::ack::Seq;

/// How often it is looked at what is late.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Where a subject takes nothing and no other has taken anything for this long, it is told of NATS.
const QUIET: Duration = Duration::from_secs(2);
/// An answer that takes longer than this is worth a word.
const LATE: Duration = Duration::from_secs(5);
/// One that takes longer than this does not come any more.
const LOST: Duration = Duration::from_secs(10);
/// Messages and answers that are taken in at once.
const AT_ONCE: usize = 512;
/// Answers to look-ups that wait at once.
const LOOK_UPS: usize = 64;

/// Why a connection ended.
#[derive(Debug)]
pub(super) enum End {
    /// The session is over.
    Session,
    /// It is lost.
    Lost(NoContact),
}

/// A connection, and where answers arrive on it.
pub(super) struct Link {
    connection: Connection,
    inbox: String,
    answers: Subscriber,
    looked_up: Receiver<LookedUp>,
    tell: Sender<LookedUp>,
    /// When the last answer came.
    heard: Instant,
    /// When the last message was taken.
    delivered: Instant,
}

/// What became of a look-up, and whether the relay asked for it.
struct LookedUp {
    subject: String,
    result: Result<Found, SinkError>,
    asked: bool,
}

impl Link {
    /// Listens for answers.
    pub(super) async fn open(connection: Connection) -> Result<Self, NoContact> {
        let lost = |error: &dyn std::fmt::Display| NoContact::Unreachable(error.to_string());
        let client = &connection.client;
        let inbox = client.new_inbox();
        let answers = client.subscribe(format!("{inbox}.*")).await.map_err(|e| lost(&e))?;
        let (tell, looked_up) = channel(LOOK_UPS);
        let (heard, delivered) = (Instant::now(), Instant::now());
        Ok(Self { connection, inbox, answers, looked_up, tell, heard, delivered })
    }

    /// Looks a subject up; the answer comes to [`Worker::serve`].
    fn look_up(&self, worker: &Worker, subject: String, asked: bool) {
        let (api, config, tell) = (self.connection.api(), worker.config.clone(), self.tell.clone());
        tokio::spawn(async move {
            let result = find(&api, &config, &subject).await;
            let _ = tell.send(LookedUp { subject, result, asked }).await;
        });
    }
}

/// Waits for answers; takes all that are there, up to a bound. Whether more can come. Cancel-safe.
async fn receive(answers: &mut Subscriber, into: &mut Vec<Message>) -> bool {
    poll_fn(|context| {
        while into.len() < AT_ONCE {
            match Pin::new(&mut *answers).poll_next(context) {
                Poll::Ready(Some(answer)) => into.push(answer),
                Poll::Ready(None) => return Poll::Ready(false),
                Poll::Pending if into.is_empty() => return Poll::Pending,
                Poll::Pending => break,
            }
        }
        Poll::Ready(true)
    })
    .await
}

impl Worker {
    /// Works over a connection until it ends.
    pub(super) async fn serve(&mut self, link: &mut Link) -> End {
        let mut ticks = interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut answers, mut messages) = (Vec::new(), Vec::new());
        let mut delivered = Vec::new();
        loop {
            while let Some(message) = self.flight.next() {
                self.send(message, link).await;
            }
            tokio::select! {
                biased;
                Some(event) = link.connection.events.recv() => {
                    if let Some(end) = self.heard_of(&event, link) {
                        return end;
                    }
                }
                is_open = receive(&mut link.answers, &mut answers) => {
                    if !is_open {
                        return End::Lost(NoContact::Unreachable("the client ended".to_owned()));
                    }
                    link.heard = Instant::now();
                    let mut known = 0;
                    for answer in answers.drain(..) {
                        known += u64::from(self.answered(&answer, link, &mut delivered));
                    }
                    if known > 0 {
                        tracing::debug!(known, "messages were in their stream already");
                        self.mailbox.report(Report::Suppressed(known));
                    }
                    if !delivered.is_empty() {
                        self.mailbox.deliver(&mut delivered);
                        link.delivered = Instant::now();
                        self.seems_well();
                    }
                }
                Some(looked_up) = link.looked_up.recv() => self.looked_up(looked_up),
                Some(question) = self.questions.recv() => self.ask(question, link),
                count = self.messages.recv_many(&mut messages, AT_ONCE) => {
                    if count == 0 {
                        return End::Session;
                    }
                    messages.drain(..).for_each(|message| self.flight.add(message));
                }
                _ = ticks.tick() => {
                    if let Some(end) = self.look_at_the_clock(link).await {
                        return end;
                    }
                }
            }
        }
    }

    /// Answers a question of the relay's, or sees to that.
    pub(super) fn ask(&mut self, question: Question, link: &Link) {
        match question {
            Question::Reachable => self.tell_reach(),
            Question::Subject(name) if self.subjects.is_denied(&name, Instant::now()) => {
                self.mailbox.report(Report::Topic { name, result: Err(SinkError::TopicDenied) });
            }
            Question::Subject(name) => link.look_up(self, name, true),
        }
    }

    async fn send(&mut self, message: Outgoing, link: &Link) {
        let number = self.flight.number();
        self.send_as(number, message, link).await;
    }

    async fn send_as(&mut self, number: u64, message: Outgoing, link: &Link) {
        let now = Instant::now();
        let Some(found) = self.subjects.get(&message.subject) else {
            self.flight.sent(number, message, now);
            self.flight.stall(number, "its stream is not known".to_owned(), true, now);
            return;
        };
        let (bytes, limit) = (message.bytes_for(&found.stream), found.info.max_message_bytes);
        // Another server can take less than the one that was asked.
        let limit = limit.unwrap_or(usize::MAX).min(link.connection.client.max_payload());
        if bytes > limit {
            self.flight.taken(&message.subject);
            self.mailbox.fail(message, SinkError::TooLarge { bytes, limit });
            return;
        }
        let (subject, headers) = (message.subject.clone(), message.header_map(&found.stream));
        let (payload, reply) = (message.payload(), format!("{}.{number}", link.inbox));
        self.flight.sent(number, message, now);
        let client = &link.connection.client;
        // There is room for it, so that this does not wait; where it fails the connection has ended,
        // and an event says so.
        let sent = client.publish_with_reply_and_headers(subject, reply, headers, payload).await;
        if let Err(error) = sent {
            self.flight.stall(number, error.to_string(), true, now);
        }
    }

    /// Takes in what the server says to a message. Whether its stream had it already.
    fn answered(&mut self, answer: &Message, link: &Link, delivered: &mut Vec<Seq>) -> bool {
        let number = answer.subject.rsplit('.').next().and_then(|number| number.parse().ok());
        let Some((number, message)) =
            number.and_then(|number| Some((number, self.flight.look(number)?)))
        else {
            return false;
        };
        let subject = message.subject.clone();
        let expected = self.subjects.get(&subject).map(|found| &*found.stream);
        match verdict(answer) {
            Verdict::Stored { stream, is_duplicate } if Some(stream.as_str()) == expected => {
                if let Some(message) = self.flight.end(number) {
                    self.mailbox.ended(1, message.bytes() as u64);
                    delivered.push(message.seq());
                }
                self.flight.taken(&subject);
                return is_duplicate;
            }
            Verdict::Stored { .. } | Verdict::Noise => {
                // Somebody else listens on the subject, and answers, too.
                tracing::debug!(subject = subject.as_str(), "an answer that is not the stream's");
            }
            Verdict::Later(why) => self.flight.stall(number, why, false, Instant::now()),
            Verdict::Lookup(why) => self.flight.stall(number, why, true, Instant::now()),
            Verdict::TooLarge => {
                // The stream's limit is another one by now.
                let bytes = message.bytes_for(expected.unwrap_or_default());
                let limit = link.connection.client.max_payload().min(bytes.saturating_sub(1));
                self.fail(number, SinkError::TooLarge { bytes, limit });
            }
            Verdict::Refused(why) => self.fail(number, SinkError::Refused(why)),
            Verdict::Closed(why) => self.give_up(&subject, &SinkError::WrongTopic(why)),
            Verdict::Unknown(why) => self.fail(number, SinkError::Unknown(why)),
        }
        false
    }

    /// The message of that sending goes back; others of its subject go on.
    fn fail(&mut self, number: u64, error: SinkError) {
        if let Some(message) = self.flight.end(number) {
            self.flight.taken(&message.subject);
            self.mailbox.fail(message, error);
        }
    }

    /// All that is for that subject goes back.
    fn give_up(&mut self, subject: &str, error: &SinkError) {
        for message in self.flight.give_up(subject) {
            self.mailbox.fail(message, error.clone());
        }
    }

    fn looked_up(&mut self, looked_up: LookedUp) {
        let LookedUp { subject, result, asked } = looked_up;
        match &result {
            Ok(found) => {
                self.subjects.learn(&subject, Some(found.clone()));
                self.flight.looked_up(&subject, true, Instant::now());
            }
            Err(SinkError::Unavailable(_)) => {
                self.flight.looked_up(&subject, false, Instant::now());
            }
            Err(error) => {
                self.subjects.learn(&subject, None);
                self.give_up(&subject, error);
            }
        }
        if asked || !matches!(result, Ok(_) | Err(SinkError::Unavailable(_))) {
            let result = result.map(|found| found.info);
            self.mailbox.report(Report::Topic { name: subject, result });
            self.seems_well();
        }
    }

    /// What the client has to tell. Whether the connection has ended.
    fn heard_of(&mut self, event: &Event, link: &Link) -> Option<End> {
        match event {
            Event::Disconnected | Event::Closed => {
                let text = "the connection was lost".to_owned();
                Some(End::Lost(NoContact::Unreachable(text)))
            }
            Event::LameDuckMode => {
                Some(End::Lost(NoContact::Unreachable("the server stops".to_owned())))
            }
            Event::ServerError(ServerError::Other(complaint)) => {
                if let Some(subject) = denied_subject(complaint) {
                    link.connection.deny(subject);
                    self.subjects.deny(subject, Instant::now());
                    self.give_up(subject, &SinkError::TopicDenied);
                    None
                } else if forbids_answers(complaint) || is_about_login(complaint) {
                    Some(End::Lost(NoContact::Login(complaint.clone())))
                } else {
                    tracing::debug!(complaint, "NATS complains");
                    None
                }
            }
            Event::ServerError(ServerError::AuthorizationViolation) => {
                Some(End::Lost(NoContact::Login("authorization violation".to_owned())))
            }
            // An answer that was dropped is one that is late.
            Event::ServerError(_)
            | Event::ClientError(_)
            | Event::SlowConsumer(_)
            | Event::Connected
            | Event::Draining => None,
        }
    }

    /// What is due, and what is late. Whether the connection is given up.
    async fn look_at_the_clock(&mut self, link: &Link) -> Option<End> {
        let now = Instant::now();
        for due in self.flight.due(now) {
            match due {
                Due::Look(subject) => link.look_up(self, subject.to_string(), false),
                Due::Try(subject) => {
                    let number = self.flight.number();
                    if let Some(message) = self.flight.trial(&subject, number) {
                        self.send_as(number, message, link).await;
                    }
                }
            }
        }
        let waited = self.flight.oldest().map(|sent| now.duration_since(sent));
        let silent = now.duration_since(link.heard);
        if waited.is_some_and(|waited| waited > LOST) {
            if silent > LOST {
                let text = format!("no answer within {LOST:?}");
                return Some(End::Lost(NoContact::Unreachable(text)));
            }
            // Others get answers: it is their stream that is silent.
            if let Some(before) = now.checked_sub(LOST) {
                for number in self.flight.sent_before(before) {
                    let why = format!("its stream did not answer within {LOST:?}");
                    self.flight.stall(number, why, true, now);
                }
            }
        }
        // While other subjects get on, NATS as a whole is well.
        let is_quiet = now.duration_since(link.delivered) > QUIET;
        let reach = match self.flight.stalled().filter(|_| is_quiet) {
            Some(why) => Err(NoContact::Unreachable(why)),
            None if waited.is_some_and(|waited| waited > LATE) && silent > LATE => {
                Err(NoContact::Unreachable(format!("no answer within {LATE:?}")))
            }
            None => Ok(()),
        };
        self.reached(reach);
        None
    }
}

const _: () = assert!(ANSWER_WITHIN.as_secs() <= LOST.as_secs());
