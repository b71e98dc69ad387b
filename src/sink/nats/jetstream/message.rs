//! A record as a message: its subject, its headers, and what NATS takes of them.

use async_nats::header::{HeaderMap, HeaderName, HeaderValue};
use async_nats::subject::Subject;
use bytes::Bytes;

use super::{Parcel, Record, SinkError};
use crate::ack::Seq;
use crate::outbox::{HeaderList, Headers};

/// By this JetStream knows a message that it has.
const MESSAGE_ID: &str = "Nats-Msg-Id";
/// The only stream that may take the message.
const EXPECTED_STREAM: &str = "Nats-Expected-Stream";
/// Names that begin so are orders to the server: one of them empties a stream.
const ORDERS: &str = "nats-";
/// The most that a stream takes of headers, in bytes.
const HEADERS_MAX: usize = 65_535;
/// Every dead letter has headers that begin so.
const DEAD_LETTER: &str = "dlq-";

/// A message on its way out, with memory of its own: it can be sent more than once.
#[derive(Debug)]
pub(super) struct Outgoing {
    seq: Seq,
    pub(super) subject: Subject,
    event_id: Box<str>,
    key: Option<Box<[u8]>>,
    /// All but the stream that is expected: first what the sink says of the event.
    headers: HeaderList,
    /// As many of them are the sink's.
    own: usize,
    value: Option<Bytes>,
    partition: i32,
    timestamp: Option<i64>,
    bytes: usize,
}

impl Outgoing {
    /// The message of a record.
    ///
    /// # Errors
    /// It has something that no message can carry.
    pub(super) fn new(record: &Record<'_>, seq: Seq) -> Result<Self, SinkError> {
        let mut headers = own_headers(record)?;
        let own = headers.view().count();
        for (name, value) in record.headers.iter() {
            headers.add(name, value);
        }
        if let Err(problem) = check(headers.view(), own) {
            if !is_dead_letter(record.headers) {
                return Err(SinkError::Refused(problem));
            }
            // The letter says what is wrong with the event: it has to get through.
            headers = tamed(headers.view(), own);
        }
        let header_bytes = block_bytes(headers.view());
        Ok(Self {
            seq,
            subject: Subject::from(record.topic),
            event_id: record.event.id.into(),
            key: record.key.map(Into::into),
            headers,
            own,
            value: record.value.map(Bytes::copy_from_slice),
            partition: record.partition,
            timestamp: record.timestamp,
            bytes: header_bytes + record.value.map_or(0, <[u8]>::len),
        })
    }

    /// Its bytes as the server counts them, without the stream that is expected.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The same with this stream.
    pub(super) fn bytes_for(&self, stream: &str) -> usize {
        self.bytes + line_bytes(EXPECTED_STREAM, stream)
    }

    /// What it carries: the value, which is empty for a tombstone.
    pub(super) fn payload(&self) -> Bytes {
        self.value.clone().unwrap_or_default()
    }

    /// The headers, for this stream and no other.
    pub(super) fn header_map(&self, stream: &str) -> HeaderMap {
        let mut map = HeaderMap::new();
        let expected = [(EXPECTED_STREAM, Some(stream))];
        for (name, value) in self.headers.view().iter().chain(expected) {
            // They were checked when the message was made.
            let name = name.parse::<HeaderName>();
            if let (Ok(name), Ok(value)) = (name, value.unwrap_or_default().parse::<HeaderValue>())
            {
                map.append(name, value);
            }
        }
        map
    }

    pub(super) fn seq(&self) -> Seq {
        self.seq
    }

    /// The number and the record, to be given back.
    pub(super) fn into_parcel(self) -> (Seq, Parcel) {
        let mut headers = HeaderList::default();
        for (name, value) in self.headers.view().iter().skip(self.own) {
            headers.add(name, value);
        }
        let parcel = Parcel {
            topic: Some(self.subject.as_str().into()),
            event_id: Some(self.event_id),
            partition: self.partition,
            key: self.key,
            headers,
            value: self.value.map(|value| value.as_ref().into()),
            timestamp: self.timestamp,
        };
        (self.seq, parcel)
    }
}

/// What the sink says of the event, where the record does not say it by that name.
fn own_headers(record: &Record<'_>) -> Result<HeaderList, SinkError> {
    let event = &record.event;
    let mut headers = HeaderList::default();
    if !event.id.is_empty() {
        if event.is_redelivery {
            // The stream may have the event, and is to take it again.
            let again = format!("{}/{:016x}", event.id, fastrand::u64(..));
            headers.add(MESSAGE_ID, Some(&again));
        } else {
            headers.add(MESSAGE_ID, Some(event.id));
        }
    }
    let mut add = |name: &str, value: Option<&str>| {
        if value.is_some() && record.headers.get(name).is_none() {
            headers.add(name, value);
        }
    };
    add("event_type", event.event_type);
    match record.key.map(str::from_utf8) {
        Some(Ok(key)) => add("key", Some(key)),
        Some(Err(_)) => return Err(SinkError::Refused("its key is not text".to_owned())),
        None => {}
    }
    add("position", event.position.map(|position| position.to_string()).as_deref());
    if record.value.is_none() {
        add("tombstone", Some("true"));
    }
    Ok(headers)
}

fn is_dead_letter(headers: Headers<'_>) -> bool {
    headers.iter().any(|(name, _)| name.starts_with(DEAD_LETTER))
}

fn is_order(name: &str) -> bool {
    name.get(..ORDERS.len()).is_some_and(|start| start.eq_ignore_ascii_case(ORDERS))
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_graphic() && byte != b':'
}

fn check(headers: Headers<'_>, own: usize) -> Result<(), String> {
    for (index, (name, value)) in headers.iter().enumerate() {
        if name.is_empty() || !name.bytes().all(is_name_byte) {
            return Err(format!("NATS takes no header of the name {name:?}"));
        }
        if index >= own && is_order(name) {
            return Err(format!(
                "the header {name} is an order to the server, not part of an event"
            ));
        }
        if value.is_some_and(|value| value.contains(['\r', '\n'])) {
            return Err(format!("NATS takes no line break in a header, and {name} has one"));
        }
    }
    match block_bytes(headers) {
        bytes if bytes > HEADERS_MAX => {
            Err(format!("its headers take {bytes} bytes, NATS takes {HEADERS_MAX}"))
        }
        _ => Ok(()),
    }
}

/// The headers of a dead letter, as NATS takes them: the event keeps its own in `held_event`.
fn tamed(headers: Headers<'_>, own: usize) -> HeaderList {
    let mut tamed = HeaderList::default();
    let is_too_large = block_bytes(headers) > HEADERS_MAX;
    for (index, (name, value)) in headers.iter().enumerate() {
        let is_own = index < own;
        if is_too_large && !is_own && !name.starts_with(DEAD_LETTER) {
            continue;
        }
        let mut name: String = name.replace(|letter: char| !is_name(letter), "_");
        if name.is_empty() || !is_own && is_order(&name) {
            name.insert_str(0, "event-");
        }
        let value = value.map(|value| value.replace(['\r', '\n'], " "));
        tamed.add(&name, value.as_deref());
    }
    tamed
}

fn is_name(letter: char) -> bool {
    u8::try_from(letter).is_ok_and(is_name_byte)
}

/// The bytes of a block of headers: a line that says so, one for each, and an empty one.
fn block_bytes(headers: Headers<'_>) -> usize {
    let lines = headers.iter().map(|(name, value)| line_bytes(name, value.unwrap_or_default()));
    "NATS/1.0\r\n\r\n".len() + lines.sum::<usize>()
}

fn line_bytes(name: &str, value: &str) -> usize {
    name.len() + ": \r\n".len() + value.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::EventRef;

    fn record<'a>(id: &'a str, headers: &'a HeaderList) -> Record<'a> {
        Record {
            event: EventRef { id, event_type: Some("Made"), position: None, is_redelivery: false },
            topic: "orders.new",
            partition: 0,
            key: Some(b"k"),
            headers: headers.view(),
            value: Some(b"{}"),
            timestamp: Some(7),
            alone: false,
        }
    }

    fn headers(pairs: &[(&str, &str)]) -> HeaderList {
        let mut list = HeaderList::default();
        for (name, value) in pairs {
            list.add(name, Some(value));
        }
        list
    }

    #[test]
    fn a_message_says_what_it_is_of_and_comes_back_as_it_went() {
        let own = headers(&[("event_type", "theirs"), ("trace", "1")]);
        let message = Outgoing::new(&record("id-1", &own), 9).unwrap();
        let map = message.header_map("ORDERS");
        let get = |name: &str| map.get(name).map(|value| value.as_str().to_owned());
        assert_eq!(get("Nats-Msg-Id").as_deref(), Some("id-1"));
        assert_eq!(get("Nats-Expected-Stream").as_deref(), Some("ORDERS"));
        assert_eq!(get("event_type").as_deref(), Some("theirs"), "the record's goes first");
        assert_eq!(get("key").as_deref(), Some("k"));
        assert_eq!(get("tombstone"), None);
        let wire = map.iter().flat_map(|(name, values)| {
            values.iter().map(|value| line_bytes(AsRef::<str>::as_ref(name), value.as_str()))
        });
        assert_eq!(message.bytes_for("ORDERS"), 12 + wire.sum::<usize>() + 2);
        let (seq, parcel) = message.into_parcel();
        assert_eq!((seq, parcel.topic.as_deref()), (9, Some("orders.new")));
        let back: Vec<_> = parcel.headers.view().iter().collect();
        assert_eq!(back, own.view().iter().collect::<Vec<_>>());
        assert_eq!((parcel.key.as_deref(), parcel.timestamp), (Some(&b"k"[..]), Some(7)));
    }

    #[test]
    fn a_redelivery_is_new_to_the_stream_and_a_tombstone_says_so() {
        let none = HeaderList::default();
        let mut again = record("id-1", &none);
        (again.event.is_redelivery, again.value) = (true, None);
        let id = |message: &Outgoing| {
            message.header_map("S").get(MESSAGE_ID).map(|id| id.as_str().to_owned()).unwrap()
        };
        let (first, second) =
            (Outgoing::new(&again, 1).unwrap(), Outgoing::new(&again, 2).unwrap());
        assert!(id(&first).starts_with("id-1/") && id(&first) != id(&second));
        assert_eq!(id(&first), id(&first), "sent twice it is the same");
        assert!(first.header_map("S").get("tombstone").is_some() && first.payload().is_empty());
    }

    #[test]
    fn what_no_header_can_be_is_told_and_a_dead_letter_gets_through() {
        let long = "x".repeat(HEADERS_MAX);
        for (name, value, said) in [
            ("a b", "1", "name"),
            ("a:b", "1", "name"),
            ("ü", "1", "name"),
            ("", "1", "name"),
            ("note", "a\r\nNats-Rollup: all", "line break"),
            ("Nats-Rollup", "all", "order"),
            ("NATS-TTL", "1s", "order"),
            ("long", long.as_str(), "bytes"),
        ] {
            let bad = headers(&[(name, value)]);
            let error = Outgoing::new(&record("id", &bad), 1).unwrap_err();
            assert!(matches!(&error, SinkError::Refused(text) if text.contains(said)), "{error}");

            let letter = headers(&[(name, value), ("dlq-topic", "orders.new")]);
            let message = Outgoing::new(&record("id", &letter), 1).unwrap();
            assert_eq!(check(message.headers.view(), message.own), Ok(()));
            assert!(message.header_map("S").get("dlq-topic").is_some());
        }
        let none = HeaderList::default();
        let error = Outgoing::new(&record("id\r\n", &none), 1).unwrap_err();
        assert!(matches!(error, SinkError::Refused(_)), "{error}");
        let binary = Record { key: Some(b"\xff"), ..record("id", &none) };
        assert!(matches!(Outgoing::new(&binary, 1), Err(SinkError::Refused(_))));
    }
}
