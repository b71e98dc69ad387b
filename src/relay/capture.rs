//! Capture: replication messages become events with a position.

use std::borrow::Cow;

use super::disposition::{Fate, of_bind, of_decode, of_map};
use crate::failure::{Code, Failure};
use crate::lsn::{Lsn, Position};
pub(super) use crate::outbox::Content;
use crate::outbox::columns::BindError;
use crate::outbox::message::{MessageRow, relation};
use crate::outbox::{EventMap, MapError, Mapper};
use crate::pgoutput::{
    Begin, Logical, Message, POSTGRES_EPOCH_MICROS, Step, TransactionReader, Tuple, decode,
    leave_out_large,
};
use crate::postgres::Intake;

/// What a message was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Captured {
    /// An event, which was handed over.
    Event,
    /// A transaction ended; everything of it lies before this.
    Commit(Lsn),
    /// An event that was settled before.
    Settled,
    /// A row that was not inserted as pending.
    NotPending,
    /// Nothing that counts.
    Nothing,
}

/// One event on its way from capture to publish.
pub(super) struct Captive<'a> {
    pub(super) content: Content<'a>,
    pub(super) position: Position,
    pub(super) xid: u32,
    /// When its transaction committed, in microseconds since 1970.
    pub(super) committed: i64,
}

impl<'a> Captive<'a> {
    fn new(content: Content<'a>, position: Position, begin: &Begin) -> Self {
        let committed = begin.commit_time + POSTGRES_EPOCH_MICROS;
        Self { content, position, xid: begin.xid, committed }
    }
}

/// Follows the stream of one connection.
pub(super) struct Capture {
    map: EventMap,
    /// The table's OID is the outbox, whatever its name is by now.
    intake: Intake<u32>,
    /// For the rows that follow; a layout that does not fit is only an error of a row that counts, since
    /// what was settled before may be read again under an older one.
    mapper: Option<Result<Mapper, BindError>>,
    reader: TransactionReader,
    begin: Option<Begin>,
    /// Everything at or before it is settled.
    settled: Position,
    /// Values of the row at hand; kept for its memory.
    values: Vec<Option<&'static [u8]>>,
    /// The last other table that was described. Partitions of the outbox are, too, although their
    /// rows come as its own.
    other: String,
    warned_of_others: bool,
    warned_of_loose: bool,
}

impl Capture {
    pub(super) fn new(map: EventMap, intake: Intake<u32>, settled: Position) -> Self {
        // A message's layout never changes.
        let mapper = matches!(intake, Intake::Messages(_)).then(|| map.bind(&relation()));
        Self {
            map,
            intake,
            mapper,
            reader: TransactionReader::default(),
            begin: None,
            settled,
            values: Vec::new(),
            other: String::new(),
            warned_of_others: false,
            warned_of_loose: false,
        }
    }

    /// Whether a transaction is open.
    pub(super) fn in_transaction(&self) -> bool {
        self.reader.in_transaction()
    }

    /// The commit of the open transaction.
    pub(super) fn open_commit(&self) -> Lsn {
        self.begin.filter(|_| self.in_transaction()).map_or(Lsn::INVALID, |begin| begin.final_lsn)
    }

    /// The id of the event that a message is, if it is one. Nothing is taken.
    pub(super) fn peek_id(&self, message: &[u8]) -> Result<Option<String>, Fate> {
        let (Message::Insert(insert), Some(Ok(mapper))) =
            (decode(message).map_err(of_decode)?, &self.mapper)
        else {
            return Ok(None);
        };
        let mut values = Vec::new();
        insert.tuple.values(&mut values).map_err(of_decode)?;
        let is_ours = self.intake == Intake::Table(insert.relation);
        Ok(mapper.id(&values).filter(|_| is_ours).map(Cow::into_owned))
    }

    /// Takes one message. An event goes to `hand_over`. `oversize` is the size of a row whose large
    /// values were left out; `now` is in microseconds since 1970.
    ///
    /// # Errors
    /// The stream cannot be followed any further.
    pub(super) fn take<E>(
        &mut self,
        message: &[u8],
        oversize: Option<usize>,
        now: i64,
        hand_over: impl FnOnce(Captive<'_>) -> Result<(), E>,
    ) -> Result<Captured, Fate>
    where
        Fate: From<E>,
    {
        match self.reader.step(decode(message).map_err(of_decode)?).map_err(of_decode)? {
            Step::Begin(begin) => {
                self.begin = Some(begin);
                Ok(Captured::Nothing)
            }
            Step::Commit(commit) => Ok(Captured::Commit(commit.end_lsn)),
            Step::Relation(relation) if self.intake == Intake::Table(relation.oid) => {
                self.mapper = Some(self.map.bind(&relation));
                Ok(Captured::Nothing)
            }
            Step::Insert(insert) if self.intake == Intake::Table(insert.relation) => {
                self.insert(insert.tuple, oversize, now, hand_over)
            }
            Step::Relation(relation) => {
                self.other = relation.name;
                Ok(Captured::Nothing)
            }
            Step::Logical(logical) => self.logical(logical, oversize, now, hand_over),
            Step::Insert(_) => {
                self.warn_of_others();
                Ok(Captured::Nothing)
            }
            Step::Ignored(_) => Ok(Captured::Nothing),
        }
    }

    fn insert<E>(
        &mut self,
        tuple: Tuple<'_>,
        oversize: Option<usize>,
        now: i64,
        hand_over: impl FnOnce(Captive<'_>) -> Result<(), E>,
    ) -> Result<Captured, Fate>
    where
        Fate: From<E>,
    {
        let position = self.reader.next_position().map_err(of_decode)?;
        if position <= self.settled {
            return Ok(Captured::Settled);
        }
        let Some(begin) = self.begin else {
            return Ok(Captured::Nothing);
        };
        let mapper = bound(&mut self.mapper, position)?;
        let mut values = with_other_lifetime(std::mem::take(&mut self.values));
        tuple.values(&mut values).map_err(of_decode)?;
        let captured = if mapper.is_pending(&values) {
            let content = match oversize {
                None => mapper.read(&values, position, now),
                Some(bytes) => mapper.oversize(&values, position, now, bytes),
            };
            let Some(content) = content else {
                return Err(of_no_id(&format!("an event at {position}"), oversize));
            };
            hand_over(Captive::new(content, position, &begin))?;
            Captured::Event
        } else {
            Captured::NotPending
        };
        self.values = with_other_lifetime(values);
        Ok(captured)
    }

    fn logical<E>(
        &mut self,
        logical: Logical<'_>,
        oversize: Option<usize>,
        now: i64,
        hand_over: impl FnOnce(Captive<'_>) -> Result<(), E>,
    ) -> Result<Captured, Fate>
    where
        Fate: From<E>,
    {
        let Intake::Messages(prefix) = &self.intake else {
            return Ok(Captured::Nothing);
        };
        let is_ours = logical.prefix == prefix.as_bytes();
        if !logical.is_transactional {
            if is_ours && !std::mem::replace(&mut self.warned_of_loose, true) {
                tracing::warn!(
                    prefix,
                    "a message was written outside of its transaction, so nothing tells whether \
                     what it says was committed: such messages are ignored"
                );
            }
            return Ok(Captured::Nothing);
        }
        // Others count too: a prefix that is changed leaves every position as it was.
        let position = self.reader.next_position().map_err(of_decode)?;
        let Some(begin) = self.begin.filter(|_| is_ours) else {
            return Ok(Captured::Nothing);
        };
        if position <= self.settled {
            return Ok(Captured::Settled);
        }
        let mapper = bound(&mut self.mapper, position)?;
        let (row, problem) = match oversize {
            None => MessageRow::read(logical.content, position),
            Some(_) => (MessageRow::without_content(position), None),
        };
        let values = row.values();
        let content = content_of_message(mapper, &values, (oversize, problem), position, now);
        // It has one: its position at least.
        let content = content.ok_or_else(|| of_no_id(&format!("a message at {position}"), None))?;
        hand_over(Captive::new(content, position, &begin))?;
        Ok(Captured::Event)
    }

    fn warn_of_others(&mut self) {
        if !std::mem::replace(&mut self.warned_of_others, true) {
            tracing::warn!(
                table = self.other,
                "the publication publishes more than the outbox: it is decoded, sent and ignored"
            );
        }
    }
}

/// What reads the rows, once it is known how.
fn bound(
    mapper: &mut Option<Result<Mapper, BindError>>,
    position: Position,
) -> Result<&mut Mapper, Fate> {
    match mapper {
        Some(Ok(mapper)) => Ok(mapper),
        Some(Err(error)) => Err(of_bind(error)),
        None => {
            let text = format!("read the stream: a row at {position} before its table's layout");
            Err(Fate::Halt(Failure::new(Code::Protocol, text)))
        }
    }
}

/// What the values of a row hold that was read by SQL. Larger ones than allowed are left out.
pub(super) fn content_of<'a>(
    mapper: &'a mut Mapper,
    values: &'a mut [Option<&'a [u8]>],
    position: Position,
    now: i64,
    max_row_bytes: usize,
) -> Option<Content<'a>> {
    let bytes: usize = values.iter().flatten().map(|value| value.len()).sum();
    if bytes > max_row_bytes {
        leave_out_large(values);
        return mapper.oversize(values, position, now, bytes);
    }
    mapper.read(values, position, now)
}

/// What the values of a message hold; with the size of one whose content was left out, and with what
/// is wrong with it.
pub(super) fn content_of_message<'a>(
    mapper: &'a mut Mapper,
    values: &'a [Option<&'a [u8]>],
    (oversize, problem): (Option<usize>, Option<MapError>),
    position: Position,
    now: i64,
) -> Option<Content<'a>> {
    match (oversize, problem) {
        (Some(bytes), _) => mapper.oversize(values, position, now, bytes),
        (None, Some(error)) => mapper.misfit(values, position, error).map(Content::Misfit),
        (None, None) => mapper.read(values, position, now),
    }
}

/// A row without an id that could be read.
pub(super) fn of_no_id(event: &str, oversize: Option<usize>) -> Fate {
    match oversize {
        None => of_map(MapError::NoId, event),
        Some(bytes) => {
            let text = format!("{event} has {bytes} bytes, and its id is not among the small ones");
            Fate::Halt(Failure::new(Code::RowTooLarge, text))
        }
    }
}

/// An empty vector with the same memory, for values of another lifetime.
fn with_other_lifetime<'to>(mut values: Vec<Option<&[u8]>>) -> Vec<Option<&'to [u8]>> {
    values.clear();
    values.into_iter().map(|_| None).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::outbox::message::layout;
    use crate::outbox::status::Pending;
    use crate::pgoutput::encode;

    fn capture(settled: Position) -> Capture {
        let text = "outbox.message_prefix = \"orders\"\npostgres.url = \"postgres://u@localhost/d\"\n\
                    kafka.bootstrap_servers = \"localhost:9092\"";
        let config = Config::from_toml(text).unwrap().relay;
        let map = EventMap::compile(&config.events, Pending::Always, &layout()).unwrap();
        Capture::new(map, config.intake.map(|_| 0), settled)
    }

    /// What becomes of a transaction of such messages, and the ids of its events.
    fn read(
        capture: &mut Capture,
        messages: &[(bool, &[u8], Option<usize>)],
    ) -> (Vec<Captured>, Vec<String>) {
        let mut ids = Vec::new();
        let mut take = |message: &[u8], oversize| {
            let hand_over = |captive: Captive<'_>| {
                ids.push(match captive.content {
                    Content::Envelope(envelope) => envelope.id.to_owned(),
                    Content::Misfit(misfit) => format!("misfit {}", misfit.id),
                    Content::Oversize(misfit) => format!("oversize {}", misfit.id),
                    Content::Scheduled { .. } => "scheduled".to_owned(),
                });
                Ok::<_, Fate>(())
            };
            capture.take(message, oversize, 0, hand_over).unwrap()
        };
        take(&encode::begin(0x10, 0, 1), None);
        let captured = messages
            .iter()
            .map(|(is_transactional, prefix, oversize)| {
                let content = br#"{"topic": "t"}"#;
                take(&encode::logical(*is_transactional, prefix, content), *oversize)
            })
            .collect();
        take(&encode::commit(0x10, 0x20, 0), None);
        (captured, ids)
    }

    #[test]
    fn every_transactional_message_counts_and_ours_are_events() {
        let messages: [(bool, &[u8], Option<usize>); 6] = [
            (true, b"orders", None),
            (false, b"orders", None),
            (true, b"others", None),
            (true, b"Orders", None),
            (true, b"orders", Some(1 << 30)),
            (true, b"orders", None),
        ];
        let (captured, ids) = read(&mut capture(Position::ORIGIN), &messages);
        use Captured::{Event, Nothing, Settled};
        assert_eq!(captured, [Event, Nothing, Nothing, Nothing, Event, Event]);
        assert_eq!(ids, ["0/10/0", "oversize 0/10/3", "0/10/4"]);
        let settled = Position { commit: Lsn::from_wire(0x10), index: 3 };
        let (captured, ids) = read(&mut capture(settled), &messages);
        assert_eq!(captured, [Settled, Nothing, Nothing, Nothing, Settled, Event]);
        assert_eq!(ids, ["0/10/4"]);
    }

    #[test]
    fn messages_are_nothing_to_a_relay_of_a_table() {
        let mut capture = capture(Position::ORIGIN);
        capture.intake = Intake::Table(7);
        let (captured, _) = read(&mut capture, &[(true, b"orders", None)]);
        assert_eq!(captured, [Captured::Nothing]);
    }
}
