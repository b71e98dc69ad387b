//! Capture: replication messages become events with a position.

use std::borrow::Cow;

use super::disposition::{Fate, of_bind, of_decode, of_map};
use crate::failure::{Code, Failure};
use crate::lsn::{Lsn, Position};
pub(super) use crate::outbox::Content;
use crate::outbox::columns::BindError;
use crate::outbox::{EventMap, MapError, Mapper};
use crate::pgoutput::{
    Begin, Message, POSTGRES_EPOCH_MICROS, Step, TransactionReader, Tuple, decode, leave_out_large,
};

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

/// Follows the stream of one connection.
pub(super) struct Capture {
    map: EventMap,
    /// The outbox, whatever its name is by now.
    table: u32,
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
}

impl Capture {
    pub(super) fn new(map: EventMap, table: u32, settled: Position) -> Self {
        Self {
            map,
            table,
            mapper: None,
            reader: TransactionReader::default(),
            begin: None,
            settled,
            values: Vec::new(),
            other: String::new(),
            warned_of_others: false,
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
        let is_ours = insert.relation == self.table;
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
            Step::Relation(relation) if relation.oid == self.table => {
                self.mapper = Some(self.map.bind(&relation));
                Ok(Captured::Nothing)
            }
            Step::Insert(insert) if insert.relation == self.table => {
                self.insert(insert.tuple, oversize, now, hand_over)
            }
            Step::Relation(relation) => {
                self.other = relation.name;
                Ok(Captured::Nothing)
            }
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
        let mapper = match &mut self.mapper {
            Some(Ok(mapper)) => mapper,
            Some(Err(error)) => return Err(of_bind(error)),
            None => {
                let text =
                    format!("read the stream: a row at {position} before its table's layout");
                return Err(Fate::Halt(Failure::new(Code::Protocol, text)));
            }
        };
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
            let committed = begin.commit_time + POSTGRES_EPOCH_MICROS;
            hand_over(Captive { content, position, xid: begin.xid, committed })?;
            Captured::Event
        } else {
            Captured::NotPending
        };
        self.values = with_other_lifetime(values);
        Ok(captured)
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
