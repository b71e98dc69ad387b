//! A logical message as a row: the members of its JSON object are the columns of a table that does
//! not exist, so that everything that is made of rows can be made of messages.
//!
//! Payload and headers stay the bytes that were written. PostgreSQL has checked the values of a
//! table's row, and nobody has checked these: what no column could hold is a misfit.

use std::borrow::Cow;

use serde_json::value::RawValue;

use super::columns::{Kind, Layout, LayoutColumn};
use super::json::{raw_members, scalar};
use super::{MapError, timestamp};
use crate::lsn::Position;
use crate::pgoutput::Relation;

/// A member of the object: its name, the column that it is, and that column's kind.
type Member = (&'static str, &'static str, Kind);

/// The id stands first, the payload last.
const MEMBERS: [Member; 13] = [
    ("event_id", "id", Kind::Text),
    ("aggregate_type", "aggregate_type", Kind::Text),
    ("aggregate_id", "aggregate_id", Kind::Text),
    ("event_type", "event_type", Kind::Text),
    ("topic", "topic", Kind::Text),
    ("partition_key", "partition_key", Kind::Text),
    ("tenant_id", "tenant_id", Kind::Text),
    ("dedup_key", "dedup_key", Kind::Text),
    ("schema_version", "schema_version", Kind::Integer),
    ("max_attempts", "max_attempts", Kind::Integer),
    ("occurred_at", "occurred_at", Kind::TimestampTz),
    ("headers", "headers", Kind::Json),
    ("payload", "payload", Kind::Json),
];

/// What `outboxd.held_event` can have an index on, with room to spare.
const LONGEST_ID: usize = 1000;

const TEXT: &str = "a text, number or boolean that PostgreSQL can hold";
const ID: &str = "1 to 1000 bytes of text";
const NUMBER: &str = "a whole number";
const TIME: &str = "a time as in ISO 8601";

/// The columns that a message has.
pub fn layout() -> Layout {
    let column = |&(_, name, kind): &Member| {
        let (type_oid, type_name) = match kind {
            Kind::Integer => (20, "bigint"),
            Kind::TimestampTz => (1184, "timestamp with time zone"),
            Kind::Json => (114, "json"),
            _ => (25, "text"),
        };
        LayoutColumn::new(name, type_oid, type_name, kind)
    };
    Layout { columns: MEMBERS.iter().map(column).collect() }
}

/// The same as the stream would tell it, if there were a table. No table has this OID.
pub fn relation() -> Relation {
    layout().relation()
}

/// A message's values, in the order of [`layout`].
#[derive(Debug)]
pub struct MessageRow<'a> {
    values: [Option<Cow<'a, [u8]>>; MEMBERS.len()],
}

impl<'a> MessageRow<'a> {
    /// Reads a message's content. A message that names no id has its position for one, which is the
    /// same at every reading. With an error, the row is what can be told of a misfit: of content that
    /// is no JSON object, the content.
    pub fn read(content: &'a [u8], position: Position) -> (Self, Option<MapError>) {
        let (mut row, mut problem) = (Self::empty(), None);
        let read = raw_members(content, |name, raw| {
            if let Err(found) = row.take(name, raw) {
                problem.get_or_insert(found);
            }
            Ok(())
        });
        if read.is_err() {
            row = Self::empty();
            if let Some(payload) = row.values.last_mut() {
                *payload = Some(Cow::Borrowed(content));
            }
            problem = Some(MapError::NotAnObject);
        }
        row.identify(position);
        (row, problem)
    }

    /// What can be told of a message whose content was left out.
    pub fn without_content(position: Position) -> Self {
        let mut row = Self::empty();
        row.identify(position);
        row
    }

    /// The values, for a [`super::Mapper`].
    pub fn values(&self) -> [Option<&[u8]>; MEMBERS.len()] {
        self.values.each_ref().map(Option::as_deref)
    }

    fn empty() -> Self {
        Self { values: [const { None }; MEMBERS.len()] }
    }

    fn identify(&mut self, position: Position) {
        if let Some(id) = self.values.first_mut() {
            id.get_or_insert_with(|| Cow::Owned(position.to_string().into_bytes()));
        }
    }

    /// Takes one member; of several with a name the last one counts, as in jsonb.
    fn take(&mut self, name: &str, raw: &'a RawValue) -> Result<(), MapError> {
        let found = MEMBERS.iter().zip(&mut self.values).find(|((member, ..), _)| *member == name);
        let Some((&(member, column, kind), value)) = found else {
            return match (name, raw.get()) {
                ("scheduled_at", moment) if moment != "null" => Err(MapError::NoSchedule),
                // Whoever writes it may say more than we need.
                _ => Ok(()),
            };
        };
        *value = None;
        let bad = |expected| MapError::BadMember { member, expected };
        *value = Some(match (raw.get(), kind) {
            ("null", _) => return Ok(()),
            (json, Kind::Json) => Cow::Borrowed(json.as_bytes()),
            _ => {
                let text = scalar(raw).filter(|text| !text.contains('\0')).ok_or(bad(TEXT))?;
                match (kind, column) {
                    (Kind::TimestampTz, _) => {
                        let moment = timestamp::in_postgresql_s_form(&text).ok_or(bad(TIME))?;
                        Cow::Owned(moment.into_bytes())
                    }
                    (Kind::Integer, _) if text.parse::<i64>().is_err() => return Err(bad(NUMBER)),
                    (_, "id") if !(1..=LONGEST_ID).contains(&text.len()) => return Err(bad(ID)),
                    _ => bytes(text),
                }
            }
        });
        Ok(())
    }
}

fn bytes(text: Cow<'_, str>) -> Cow<'_, [u8]> {
    match text {
        Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
        Cow::Owned(text) => Cow::Owned(text.into_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lsn::Lsn;
    use proptest::prelude::*;

    const POSITION: Position = Position { commit: Lsn::from_wire(0x10), index: 3 };

    /// The column's value, and what is wrong with the message.
    fn read(content: &[u8], column: &str) -> (Option<String>, Option<MapError>) {
        let (row, problem) = MessageRow::read(content, POSITION);
        let place = layout().columns.iter().position(|found| found.name == column).unwrap();
        let value = row.values()[place].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        (value, problem)
    }

    #[test]
    fn members_are_columns_and_nulls_are_null() {
        let content = br#" {"event_id": "e-1", "aggregate_id": 7, "tenant_id": "a\"b",
            "schema_version": 2, "topic": null, "more": [1], "event_type": "x", "event_type": "y",
            "headers": {"h":  1}, "payload": {"n": 1.10, "n": "\ud800"}} "#;
        for (column, expected) in [
            ("id", Some("e-1")),
            ("aggregate_id", Some("7")),
            ("tenant_id", Some("a\"b")),
            ("schema_version", Some("2")),
            ("topic", None),
            ("partition_key", None),
            ("event_type", Some("y")),
            ("headers", Some(r#"{"h":  1}"#)),
            ("payload", Some(r#"{"n": 1.10, "n": "\ud800"}"#)),
        ] {
            assert_eq!(read(content, column), (expected.map(str::to_owned), None), "{column}");
        }
    }

    #[test]
    fn a_message_without_an_id_has_its_position() {
        assert_eq!(read(b"{}", "id"), (Some("0/10/3".to_owned()), None));
        assert_eq!(read(br#"{"event_id": null}"#, "id"), (Some("0/10/3".to_owned()), None));
    }

    #[test]
    fn what_no_column_could_hold_is_a_misfit_that_keeps_the_rest() {
        for bad in [
            r#""event_id": """#.to_owned(),
            format!(r#""event_id": "{}""#, "x".repeat(LONGEST_ID + 1)),
            r#""event_id": "a\u0000b""#.to_owned(),
            r#""topic": {"a": 1}"#.to_owned(),
            r#""event_type": "\ud800""#.to_owned(),
            r#""schema_version": "two""#.to_owned(),
            r#""max_attempts": 1.5"#.to_owned(),
            r#""occurred_at": 1795240800"#.to_owned(),
            r#""occurred_at": "2026-11-21T06:00:00+0\"""#.to_owned(),
            r#""scheduled_at": "2026-11-21T06:00:00Z""#.to_owned(),
        ] {
            let content = format!(r#"{{{bad}, "aggregate_id": "a"}}"#);
            let (key, problem) = read(content.as_bytes(), "aggregate_id");
            assert_eq!(key.as_deref(), Some("a"));
            let expected =
                matches!(problem, Some(MapError::BadMember { .. } | MapError::NoSchedule));
            assert!(expected, "{bad}: {problem:?}");
        }
        let fine = br#"{"scheduled_at": null}"#;
        assert_eq!(read(fine, "payload"), (None, None));
    }

    #[test]
    fn of_what_is_no_object_the_content_is_kept() {
        for content in
            [b"".as_slice(), b"[]", b"7", b"{\"event_id\":\"e\"} x", b"{", b"{\"a\":\"\xff\"}"]
        {
            let text = String::from_utf8_lossy(content).into_owned();
            let problem = Some(MapError::NotAnObject);
            assert_eq!(read(content, "payload"), (Some(text), problem));
            assert_eq!(read(content, "id"), (Some("0/10/3".to_owned()), problem));
        }
    }

    proptest! {
        #[test]
        fn no_content_panics(content in proptest::collection::vec(any::<u8>(), 0..200)) {
            let (row, _) = MessageRow::read(&content, POSITION);
            prop_assert!(row.values()[0].is_some());
        }

        #[test]
        fn a_payload_keeps_its_bytes(text: String, space in "[ \t\n]{0,3}") {
            let text = serde_json::to_string(&text).unwrap();
            let payload = format!("{{\"a\":{space}[1e400,{space}{text}]}}");
            let content = format!("{{\"payload\":{space}{payload}{space}}}");
            prop_assert_eq!(read(content.as_bytes(), "payload"), (Some(payload), None));
        }

        #[test]
        fn texts_come_back_as_they_were(text in "[^\0]{1,100}") {
            let content = serde_json::to_vec(&serde_json::json!({"partition_key": text})).unwrap();
            prop_assert_eq!(read(&content, "partition_key"), (Some(text), None));
        }
    }
}
