//! The call that adds records, and what it answers.
//!
//! A script, so that what a relay has sent is known and added in one step (docs/adr/0022). Each call
//! names the one before it on its stream: a call whose predecessor was not carried out adds nothing, and
//! neither does one that arrives when another connection has begun. So nothing is ever added out of
//! order, however many calls are under way.

use redis::{Cmd, Value};

use super::batch::{Batch, Kept};
use super::errors::{Refusal, classify};
use crate::sink::{Durability, HELD_ON_THE_WAY, RedisConfig, SinkError, Trim};

/// What a call carries out.
pub(super) const ADD: &str = include_str!("add.lua");
/// As many fields as Lua takes at once, and some to spare.
pub(super) const MAX_HEADERS: usize = 3000;

/// What every call says.
#[derive(Debug, Clone)]
pub(super) struct Terms {
    remembered: usize,
    max_len: u64,
    trim: Trim,
}

impl Terms {
    /// Of what a crash repeats, twice is remembered: the last of a set, and all of the one before.
    pub(super) fn of(config: &RedisConfig) -> Self {
        let remembered = 2 * (config.in_flight_events + HELD_ON_THE_WAY);
        Self { remembered, max_len: config.max_len, trim: config.trim }
    }
}

/// A stream's keys: its own, and those of what the relay keeps beside it, in the same slot of a cluster.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    pub(super) stream: String,
    pub(super) state: String,
    ids: [String; 2],
}

impl Keys {
    pub(super) fn of(stream: &str, relay_id: &str) -> Self {
        let tagged = match hash_tag(stream) == stream {
            true => format!("{{{stream}}}"),
            false => stream.to_owned(),
        };
        let state = format!("{tagged}:outboxd:{relay_id}");
        let ids = ["a", "b"].map(|name| format!("{state}:{name}"));
        Self { stream: stream.to_owned(), state, ids }
    }

    /// Whether one node of a cluster has them all. A name with an odd brace has no such neighbours.
    fn are_together(&self) -> bool {
        slot(&self.stream) == slot(&self.state)
    }

    /// Why a cluster has no place for them, if it has none.
    pub(super) fn misplaced(&self) -> Option<SinkError> {
        let reason = || "a brace in its name keeps it from a place in a cluster".to_owned();
        (!self.are_together()).then(|| SinkError::WrongTopic(reason()))
    }
}

/// The part of a key that says its slot.
fn hash_tag(key: &str) -> &str {
    let tag = key.split_once('{').and_then(|(_, rest)| rest.split_once('}'));
    tag.map(|(tag, _)| tag).filter(|tag| !tag.is_empty()).unwrap_or(key)
}

/// A key's slot in a cluster: CRC-16 (XMODEM) of its tag.
pub(super) fn slot(key: &str) -> u16 {
    let crc = hash_tag(key).bytes().fold(0_u16, |crc, byte| {
        (0..8).fold(crc ^ u16::from(byte) << 8, |crc, _| {
            if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ 0x1021 }
        })
    });
    crc % 16_384
}

/// The command that begins a chain of calls. Calls of another chain that are still on their way to the
/// server add nothing from now on.
pub(super) fn begin(keys: &Keys, token: &str) -> Cmd {
    let mut command = redis::cmd("HSET");
    command.arg(&keys.state).arg("chain").arg(token);
    command
}

/// The command that adds a batch, after the call `before`.
pub(super) fn add(
    batch: &Batch,
    keys: &Keys,
    terms: &Terms,
    sha: &str,
    [before, this]: [&str; 2],
) -> Cmd {
    let mut command = Cmd::with_capacity(16 + batch.arguments(), 512 + 2 * batch.bytes());
    command.arg("EVALSHA").arg(sha).arg(4).arg(&keys.stream).arg(&keys.state);
    command.arg(&keys.ids).arg(before).arg(this);
    command.arg(terms.remembered).arg(terms.max_len);
    command.arg(match terms.trim {
        Trim::Read => "read",
        Trim::Force => "force",
    });
    // The chain's name is the session's: what is sent again on purpose has another id in each.
    let session = this.split(':').next().unwrap_or_default();
    let mut position = String::new();
    for record in batch.records() {
        add_record(&mut command, &record, session, &mut position);
    }
    command
}

fn add_record(command: &mut Cmd, record: &Kept<'_>, session: &str, position: &mut String) {
    use std::fmt::Write as _;
    position.clear();
    if let Some(place) = record.position() {
        // Into a String nothing fails.
        let _ = write!(position, "{place}");
    }
    let place = (!position.is_empty()).then_some(position.as_bytes());
    let own: [(&[u8], Option<&[u8]>); 5] = [
        (b"event_id", Some(record.id())),
        (b"event_type", record.event_type()),
        (b"key", record.key()),
        (b"data", record.value()),
        (b"position", place),
    ];
    let taken = |name: &[u8]| own.iter().find(|(own, _)| *own == name);
    let is_said = |name: &[u8], value: Option<&[u8]>| {
        taken(name).is_some_and(|(_, own)| own.is_some() && *own == value)
    };
    if record.is_redelivery() {
        let seq = record.seq();
        let id = [record.id(), format!("/{session}/{seq}").as_bytes()].concat();
        command.arg(id.as_slice());
    } else {
        command.arg(record.id());
    }
    let headers = || record.headers().filter(|(name, value)| !is_said(name, *value));
    let fields = own.iter().filter(|(_, value)| value.is_some()).count() + headers().count();
    command.arg(fields * 2);
    for (name, value) in own {
        if let Some(value) = value {
            command.arg(name).arg(value);
        }
    }
    for (name, value) in headers() {
        match taken(name) {
            Some(_) => command.arg([b"header:", name].concat().as_slice()),
            None => command.arg(name),
        };
        command.arg(value.unwrap_or_default());
    }
}

/// What became of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    /// Its records are in the stream; so many were there before.
    Added { known: u64 },
    /// It came after something else than it should have. Nothing was added.
    Gap,
    /// It was refused.
    Refused(Refusal),
}

/// What the answer to [`add`] says.
pub(super) fn answer(value: &Value) -> Answer {
    match value {
        Value::ServerError(error) => Answer::Refused(classify(error)),
        Value::Array(parts) => match parts.as_slice() {
            [Value::Int(-1), ..] => Answer::Gap,
            [Value::Int(_), Value::Int(known)] => {
                Answer::Added { known: u64::try_from(*known).unwrap_or_default() }
            }
            _ => Answer::Refused(Refusal::Unknown("the script's answer is none".to_owned())),
        },
        _ => Answer::Refused(Refusal::Unknown("the script's answer is none".to_owned())),
    }
}

/// What proves that everything before it on its connection is as safe as it has to be, and how many have
/// to say so; none where the answers themselves do.
pub(super) fn proof(
    durability: Durability,
    has_waitaof: bool,
    within_ms: u128,
) -> Option<(Cmd, i64)> {
    let within = u64::try_from(within_ms).unwrap_or_default();
    let mut command;
    match durability {
        Durability::Replicas(count) => {
            command = redis::cmd("WAIT");
            command.arg(count).arg(within);
            Some((command, count.into()))
        }
        Durability::Aof if has_waitaof => {
            command = redis::cmd("WAITAOF");
            command.arg(1).arg(0).arg(within);
            Some((command, 1))
        }
        Durability::Memory | Durability::Aof => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lsn::{Lsn, Position};
    use crate::outbox::HeaderList;
    use crate::sink::{EventRef, Parcel};

    #[test]
    fn slots_are_those_of_a_cluster() {
        // From the cluster's specification, and CLUSTER KEYSLOT.
        assert_eq!(slot("123456789"), 0x31C3);
        assert_eq!(slot("{user1000}.following"), slot("{user1000}.followers"));
        assert_eq!(slot("foo{}{bar}"), 8363);
        assert_eq!(slot("foo"), 12182);
    }

    #[test]
    fn what_is_kept_beside_a_stream_is_in_its_slot() {
        for stream in ["s", "identity.user.v1", "a{b}c", "{a}", "a{b", "x{y}{z}"] {
            let keys = Keys::of(stream, "relay");
            assert!(keys.are_together(), "{stream}: {keys:?}");
            assert!(keys.ids.iter().all(|ids| slot(ids) == slot(stream)), "{stream}");
        }
        for stream in ["a}b", "{}a"] {
            assert!(!Keys::of(stream, "relay").are_together(), "{stream}");
        }
    }

    #[test]
    fn an_entry_says_what_is_known_and_its_headers() {
        let mut headers = HeaderList::default();
        for (name, value) in [
            ("event_id", Some("e1")),
            ("key", Some("other")),
            ("traceparent", Some("00-1")),
            ("position", None),
            ("empty", None),
        ] {
            headers.add(name, value);
        }
        let parcel = Parcel { headers, key: Some(b"k"[..].into()), ..Parcel::default() };
        let position = Some(Position { commit: Lsn::from_wire(0x1_0000_0002), index: 3 });
        let event = EventRef { id: "e1", event_type: None, position, is_redelivery: true };
        let mut batch = Batch::default();
        batch.push(&parcel.record(event, "s", false), 5);
        let terms = Terms { remembered: 10, max_len: 0, trim: Trim::Read };
        let command = add(&batch, &Keys::of("s", "r"), &terms, "sha", ["1f:1", "1f:2"]);
        let words: Vec<_> = command
            .args_iter()
            .map(|arg| match arg {
                redis::Arg::Simple(bytes) => String::from_utf8_lossy(bytes).into_owned(),
                _ => panic!(),
            })
            .collect();
        let expected = "EVALSHA sha 4 s {s}:outboxd:r {s}:outboxd:r:a {s}:outboxd:r:b 1f:1 1f:2 10 0 read \
                        e1/1f/5 14 event_id e1 key k position 1/2/3 header:key other traceparent 00-1 \
                        header:position  empty ";
        assert_eq!(words.join(" "), expected);
    }
}
