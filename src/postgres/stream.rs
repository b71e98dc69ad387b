//! The replication stream: bytes from the socket become messages in place, positions go back.
//!
//! Rows are handed out as slices of the receive buffer, so nothing is copied between the socket
//! and the record that is produced. While rows arrive fast, the reader lets a few tens of
//! kilobytes gather before it is woken, at most for [`GATHER_TIME`]: a wake-up per row costs both
//! ends more than the row itself. A row that is larger than allowed is never in the buffer whole: it
//! is skimmed as it passes.

use std::time::Duration;

use pgwire_replication::protocol::framing::{write_copy_data, write_copy_done};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep_until, timeout};

use super::socket::Socket;
use super::{Error, Feedback, WalMessage, WalStream};
use crate::lsn::Lsn;
use crate::pgoutput::{DecodeError, Skim};

/// The receive buffer; it grows for a larger row and shrinks after it.
const BUFFER_BYTES: usize = 256 * 1024;
/// What a message has around a row's own bytes, with room for many columns.
const FRAME_OVERHEAD: usize = 64 * 1024;
/// What comes before the output plugin's message: a header, and a head with positions and a time.
const XLOG_DATA_HEAD: usize = 5 + 25;
/// How much gathers before the reader is woken, while rows arrive fast.
const GATHER_BYTES: usize = 32 * 1024;
/// How long it may gather.
const GATHER_TIME: Duration = Duration::from_millis(1);
/// Messages in a millisecond from which on rows count as arriving fast.
const FAST_MESSAGES_PER_MS: f64 = 20.0;
/// Messages in a millisecond below which they do no more. Lower, so that a reader that is slow
/// because it is woken for every row does not take that for the rows' own pace.
const SLOW_MESSAGES_PER_MS: f64 = 10.0;
/// How long the pace is looked at.
const PACE_TIME: Duration = Duration::from_millis(5);
/// A feedback message that is not taken within this means that the server is gone.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// A replication connection that streams.
#[derive(Debug)]
pub struct ReplicationStream {
    socket: Socket,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// The largest message that is read whole.
    limit: usize,
    oversize: Option<Oversize>,
    sender_timeout: Option<Duration>,
    pace: Pace,
    gather_until: Option<Instant>,
    low_water: usize,
    is_ended: bool,
}

/// A message that is larger than allowed, as it passes.
#[derive(Debug)]
struct Oversize {
    skim: Skim,
    bytes: usize,
    /// How much of it has not passed.
    left: usize,
}

/// How fast messages arrive.
#[derive(Debug)]
struct Pace {
    since: Instant,
    messages: u32,
    is_fast: bool,
}

impl Pace {
    /// Looks again once enough time has passed to tell.
    fn observe(&mut self, now: Instant) {
        let elapsed = now - self.since;
        if elapsed >= PACE_TIME {
            let per_ms = f64::from(self.messages) / (elapsed.as_secs_f64() * 1_000.0);
            let limit = if self.is_fast { SLOW_MESSAGES_PER_MS } else { FAST_MESSAGES_PER_MS };
            self.is_fast = per_ms >= limit;
            self.since = now;
            self.messages = 0;
        }
    }
}

impl ReplicationStream {
    pub(super) fn new(
        socket: Socket,
        max_row_bytes: usize,
        sender_timeout: Option<Duration>,
    ) -> Self {
        Self {
            socket,
            buffer: vec![0; BUFFER_BYTES],
            start: 0,
            end: 0,
            limit: max_row_bytes.saturating_add(FRAME_OVERHEAD),
            oversize: None,
            sender_timeout,
            pace: Pace { since: Instant::now(), messages: 0, is_fast: false },
            gather_until: None,
            low_water: 1,
            is_ended: false,
        }
    }

    fn waiting(&self) -> &[u8] {
        self.buffer.get(self.start..self.end).unwrap_or_default()
    }

    /// The length of the message at the front, with its header, once its header is there.
    fn frame_len(&self) -> Result<Option<usize>, Error> {
        if self.oversize.as_ref().is_some_and(|oversize| oversize.left > 0) {
            return Ok(None);
        }
        let Some(length) = self.waiting().get(1..5).and_then(|bytes| bytes.first_chunk::<4>())
        else {
            return Ok(None);
        };
        let length = usize::try_from(i32::from_be_bytes(*length)).unwrap_or(0);
        if length < 4 {
            return Err(Error::Protocol(format!("a message of length {length}")));
        }
        Ok(Some(length + 1))
    }

    /// The same, of a message that is to be in the buffer whole.
    fn whole_len(&self) -> Result<Option<usize>, Error> {
        Ok(self.frame_len()?.filter(|len| *len <= self.limit))
    }

    /// Begins to let a message of `len` bytes pass that is larger than allowed. False if its head has
    /// not come yet.
    fn begin_to_pass(&mut self, len: usize) -> Result<bool, Error> {
        let Some(head) = self.waiting().first_chunk::<XLOG_DATA_HEAD>() else {
            return Ok(false);
        };
        if head.first() != Some(&b'd') || head.get(5) != Some(&b'w') {
            return Err(Error::Protocol(format!("a message of {len} bytes that is no row")));
        }
        self.start += XLOG_DATA_HEAD;
        let bytes = len - XLOG_DATA_HEAD;
        self.oversize = Some(Oversize { skim: Skim::default(), bytes, left: bytes });
        Ok(true)
    }

    /// Lets as much pass as has come. Gives what was kept, once all has passed.
    fn let_pass(&mut self) -> Result<Option<WalMessage<'_>>, Error> {
        let Some(oversize) = &mut self.oversize else {
            return Ok(None);
        };
        let waiting = self.buffer.get(self.start..self.end).unwrap_or_default();
        let piece = waiting.get(..oversize.left).unwrap_or(waiting);
        let taken = oversize.skim.take(piece)?;
        let is_last = piece.len() == oversize.left;
        self.start += taken;
        oversize.left -= taken;
        match oversize.left {
            0 => {
                let message = oversize.skim.message()?;
                Ok(Some(WalMessage::Oversize { message, bytes: oversize.bytes }))
            }
            _ if is_last => Err(DecodeError::Truncated.into()),
            _ => Ok(None),
        }
    }

    /// Makes room for the rest of the message at the front.
    fn make_room(&mut self) -> Result<(), Error> {
        let needed = self.whole_len()?.unwrap_or(0).max(BUFFER_BYTES);
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
        if needed != self.buffer.len() && self.end - self.start <= needed {
            let mut other = vec![0; needed];
            let waiting = self.waiting();
            if let Some(front) = other.get_mut(..waiting.len()) {
                front.copy_from_slice(waiting);
            }
            (self.start, self.end) = (0, waiting.len());
            self.buffer = other;
        } else if self.end == self.buffer.len() {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        Ok(())
    }

    fn set_low_water(&mut self, bytes: usize) -> bool {
        if self.low_water != bytes && self.socket.set_receive_low_water(bytes) {
            self.low_water = bytes;
        }
        self.low_water == bytes
    }

    async fn read(&mut self) -> Result<(), Error> {
        let free = self.buffer.get_mut(self.end..).unwrap_or_default();
        let count = self.socket.read(free).await?;
        if count == 0 {
            return Err(Error::Closed);
        }
        self.end += count;
        self.gather_until = None;
        Ok(())
    }
}

impl WalStream for ReplicationStream {
    /// Cancel-safe: bytes that were read stay in the buffer, and a wait that is taken up again
    /// keeps its deadline.
    async fn fill(&mut self) -> Result<(), Error> {
        self.make_room()?;
        let now = Instant::now();
        self.pace.observe(now);
        let gathers = self.pace.is_fast || self.gather_until.is_some();
        if gathers && self.set_low_water(GATHER_BYTES) {
            let until = *self.gather_until.get_or_insert(now + GATHER_TIME);
            tokio::select! {
                biased;
                result = self.read() => return result,
                () = sleep_until(until) => {}
            }
        }
        self.set_low_water(1);
        self.read().await
    }

    fn next(&mut self) -> Result<Option<WalMessage<'_>>, Error> {
        self.oversize.take_if(|oversize| oversize.left == 0);
        loop {
            if self.oversize.is_some() {
                return self.let_pass();
            }
            let Some(len) = self.frame_len()? else {
                return Ok(None);
            };
            if len > self.limit {
                match self.begin_to_pass(len)? {
                    true => continue,
                    false => return Ok(None),
                }
            }
            if self.end - self.start < len {
                return Ok(None);
            }
            let at = self.start;
            self.start += len;
            self.pace.messages += 1;
            let tag = self.buffer.get(at).copied().unwrap_or_default();
            match tag {
                b'd' => {
                    let payload = self.buffer.get(at + 5..at + len).unwrap_or_default();
                    return copy_data(payload).map(Some);
                }
                b'E' => {
                    let payload = self.buffer.get(at + 5..at + len).unwrap_or_default();
                    return Err(Error::from_response(payload));
                }
                b'c' => self.is_ended = true,
                b'N' | b'S' | b'C' | b'Z' => {}
                other => return Err(Error::Protocol(format!("message {:?}", char::from(other)))),
            }
            if self.is_ended {
                return Err(Error::Closed);
            }
        }
    }

    fn next_len(&self) -> usize {
        self.whole_len().ok().flatten().unwrap_or(0)
    }

    fn gathers(&self) -> bool {
        self.pace.is_fast
    }

    async fn send(&mut self, feedback: Feedback) -> Result<(), Error> {
        let message = encode(feedback);
        let write = timeout(WRITE_TIMEOUT, write_copy_data(&mut self.socket, &message)).await;
        Ok(write.unwrap_or(Err(timed_out()))?)
    }

    fn sender_timeout(&self) -> Option<Duration> {
        self.sender_timeout
    }

    /// Ends the stream in order: the server has taken in all feedback before it answers.
    async fn close(mut self) -> Result<(), Error> {
        let end = async {
            write_copy_done(&mut self.socket).await?;
            loop {
                match self.next() {
                    Ok(Some(_)) => {}
                    Ok(None) => {
                        self.make_room()?;
                        self.set_low_water(1);
                        self.read().await?;
                    }
                    Err(Error::Closed) => break,
                    Err(other) => return Err(other),
                }
            }
            Ok(self.socket.shutdown().await?)
        };
        timeout(WRITE_TIMEOUT, end).await.unwrap_or(Err(Error::Timeout { limit: WRITE_TIMEOUT }))
    }
}

fn timed_out() -> pgwire_replication::PgWireError {
    std::io::Error::from(std::io::ErrorKind::TimedOut).into()
}

/// Takes the replication message out of a `CopyData`.
fn copy_data(payload: &[u8]) -> Result<WalMessage<'_>, Error> {
    let short = || Error::Protocol("a short replication message".into());
    let (kind, rest) = payload.split_first().ok_or_else(short)?;
    let (position, rest) = rest.split_first_chunk::<8>().ok_or_else(short)?;
    let position = Lsn::from_wire(u64::from_be_bytes(*position));
    match kind {
        b'w' => Ok(WalMessage::Data(rest.get(16..).ok_or_else(short)?)),
        b'k' => Ok(WalMessage::Keepalive {
            wal_end: position,
            reply_requested: *rest.get(8).ok_or_else(short)? != 0,
        }),
        other => Err(Error::Protocol(format!("replication message {:?}", char::from(*other)))),
    }
}

/// A standby status update.
fn encode(feedback: Feedback) -> [u8; 34] {
    let mut message = [0; 34];
    let fields = [
        feedback.received.to_wire(),
        feedback.confirmed.to_wire(),
        feedback.confirmed.to_wire(),
        feedback.time.cast_unsigned(),
    ];
    let (head, body) = message.split_at_mut(1);
    head.copy_from_slice(b"r");
    for (place, field) in body.chunks_exact_mut(8).zip(fields) {
        place.copy_from_slice(&field.to_be_bytes());
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pgoutput::encode;
    use tokio::net::UnixStream;

    /// A message of the output plugin as the server sends it.
    fn frame(message: &[u8]) -> Vec<u8> {
        let mut frame = vec![b'd'];
        frame.extend(u32::try_from(4 + 25 + message.len()).unwrap().to_be_bytes());
        frame.push(b'w');
        frame.extend([0; 24]);
        frame.extend(message);
        frame
    }

    /// A stream over a socket that brings `bytes` and no more.
    fn stream(bytes: Vec<u8>, max_row_bytes: usize) -> ReplicationStream {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        tokio::spawn(async move {
            theirs.write_all(&bytes).await.unwrap();
            std::future::pending::<()>().await;
        });
        ReplicationStream::new(Socket::Unix(ours), max_row_bytes, None)
    }

    /// The next message: how long it was, and what came of it.
    async fn next(stream: &mut ReplicationStream) -> (usize, Vec<u8>) {
        loop {
            match stream.next().unwrap() {
                Some(WalMessage::Data(data)) => return (data.len(), data.to_vec()),
                Some(WalMessage::Oversize { message, bytes }) => return (bytes, message.to_vec()),
                Some(other) => panic!("{other:?}"),
                None => stream.fill().await.unwrap(),
            }
        }
    }

    #[tokio::test]
    async fn a_row_that_is_too_large_passes_and_the_next_one_is_as_it_was() {
        const LIMIT: usize = 1024;
        let row = |len: usize| {
            let payload = vec![b'x'; len];
            encode::insert(7, &[Some(b"id"), Some(&payload), Some(b"PENDING")])
        };
        let skimmed = encode::insert(7, &[Some(b"id"), None, Some(b"PENDING")]);
        let small = row(100);
        // Around the sizes of limit and buffer, one behind the other, and far above both.
        let mut sizes = vec![100_000_000, LIMIT + FRAME_OVERHEAD + 100, 70_000];
        sizes.extend((BUFFER_BYTES - 200..BUFFER_BYTES + 100).step_by(13));
        let mut bytes = Vec::new();
        for size in &sizes {
            bytes.extend(frame(&row(*size)));
            bytes.extend(frame(&small));
        }
        bytes.extend(frame(&row(80_000)));
        bytes.extend(frame(&row(90_000)));
        let mut stream = stream(bytes, LIMIT);
        for size in sizes {
            assert_eq!(next(&mut stream).await, (row(size).len(), skimmed.clone()), "{size}");
            assert_eq!(next(&mut stream).await, (small.len(), small.clone()));
            assert_eq!(stream.buffer.len(), BUFFER_BYTES);
        }
        for size in [80_000, 90_000] {
            assert_eq!(next(&mut stream).await.0, row(size).len());
        }
    }

    #[tokio::test]
    async fn what_is_too_large_and_no_whole_row_is_an_error() {
        let row = encode::insert(7, &[Some(&vec![b'x'; 200_000])]);
        let cut = &row[..row.len() - 1];
        let long = [row.as_slice(), b"n"].concat();
        let mut notice = frame(&row);
        notice[0] = b'N';
        for bytes in [frame(cut), frame(&long), notice] {
            let mut stream = stream(bytes, 1024);
            let error = loop {
                match stream.next() {
                    Ok(None) => stream.fill().await.unwrap(),
                    Ok(Some(message)) => panic!("{message:?}"),
                    Err(error) => break error,
                }
            };
            assert!(matches!(error, Error::Decode(_) | Error::Protocol(_)), "{error}");
        }
    }

    #[test]
    fn feedback_is_laid_out_as_the_server_reads_it() {
        let message =
            encode(Feedback { received: Lsn::from_wire(1), confirmed: Lsn::from_wire(2), time: 3 });
        let mut expected = vec![b'r'];
        for field in [1u64, 2, 2, 3] {
            expected.extend(field.to_be_bytes());
        }
        expected.push(0);
        assert_eq!(message.as_slice(), expected);
    }

    #[test]
    fn replication_messages_are_told_apart_and_checked() {
        let mut data = vec![b'w'];
        data.extend([0; 24]);
        data.extend(b"row");
        assert_eq!(copy_data(&data).unwrap(), WalMessage::Data(b"row"));
        let mut keepalive = vec![b'k'];
        keepalive.extend(7u64.to_be_bytes());
        keepalive.extend([0; 8]);
        keepalive.push(1);
        let expected = WalMessage::Keepalive { wal_end: Lsn::from_wire(7), reply_requested: true };
        assert_eq!(copy_data(&keepalive).unwrap(), expected);
        for short in [&[][..], b"w", b"k", &data[..20], &keepalive[..17], b"x\0\0\0\0\0\0\0\0"] {
            assert!(copy_data(short).is_err());
        }
    }
}
