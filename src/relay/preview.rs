//! What a row would become: its way from capture to the window, without a stream, a window or Kafka,
//! for people who ask before they write it.

use super::RelayConfig;
use super::board::wall_clock;
use super::capture::{content_of, content_of_message, of_no_id};
use super::disposition::of_bind;
use super::misfit;
use super::preflight::compile;
use super::trial::OnExhausted;
use crate::failure::{Code, Failure};
use crate::lsn::Position;
use crate::outbox::columns::{Layout, LayoutColumn, MapProblem};
use crate::outbox::message::MessageRow;
use crate::outbox::status::Pending;
use crate::outbox::{Content, Envelope, EventMap, HeaderList, Mapper, Placement, Stamp};
use crate::pgoutput::Relation;

/// What was not written yet has no position.
const POSITION: Position = Position::ORIGIN;

/// Shows what rows of one layout would become.
#[derive(Debug)]
pub struct Preview<'a> {
    config: &'a RelayConfig,
    relation: Relation,
    events: EventMap,
    pending: Pending<LayoutColumn>,
}

/// What is to be looked at.
#[derive(Debug, Clone, Copy)]
pub enum Sample<'a> {
    /// A row's values as the stream would bring them, in the order of the layout.
    Row(&'a [Option<Vec<u8>>]),
    /// A logical message's content.
    Message(&'a [u8]),
}

/// What would become of it.
#[derive(Debug)]
pub enum Prospect {
    /// A record, at once or when it is due.
    Record(Box<Previewed>),
    /// Nothing: it is inserted with another status than pending. Why it is not.
    NotPending(String),
    /// It can never become an event.
    GivenUp {
        /// The event's id.
        event_id: String,
        /// What happened.
        event_type: Option<String>,
        /// Why it cannot.
        failure: Failure,
        /// Whether its key waits for an operator, instead of a dead letter.
        blocks: bool,
        /// The topic of its dead letter; none if it is only kept in the database.
        dead_letter: Option<String>,
    },
    /// The relay would end.
    Halt(Failure),
}

/// A record that would be published.
#[derive(Debug)]
pub struct Previewed {
    /// The event's id.
    pub event_id: String,
    /// What happened.
    pub event_type: Option<String>,
    /// The topic.
    pub topic: String,
    /// The record's key.
    pub key: Option<String>,
    /// What chooses the partition; nothing if any will do.
    pub placement: Option<Placement>,
    /// The field that this comes from.
    pub placed_by: Option<&'static str>,
    /// The record's headers.
    pub headers: HeaderList,
    /// The record's value; none is a tombstone.
    pub value: Option<Vec<u8>>,
    /// What the record's timestamp is.
    pub timestamp: Stamp,
    /// When it is published, if that is later than now. What is published then is what the row says
    /// then.
    pub due: Option<String>,
    /// What stands for its position, if the record tells that.
    pub position: Option<String>,
}

impl<'a> Preview<'a> {
    /// Prepares for the rows of a layout.
    ///
    /// # Errors
    /// Everything in the configuration that does not fit it.
    pub fn new(config: &'a RelayConfig, layout: &Layout) -> Result<Self, Vec<MapProblem>> {
        let (events, status) = compile(layout, config)?;
        Ok(Self { config, relation: layout.relation(), events, pending: status.pending })
    }

    /// Whether anything depends on that column.
    pub fn uses(&self, column: &str) -> bool {
        let mut relation = self.relation.clone();
        relation.columns.retain(|found| found.name != column);
        self.events.bind(&relation).is_err()
    }

    /// What a row or message would become if it were committed now.
    ///
    /// # Errors
    /// The relay could not read it.
    pub fn of(&self, sample: Sample<'_>) -> Result<Prospect, Failure> {
        self.at(sample, wall_clock())
    }

    fn at(&self, sample: Sample<'_>, now: i64) -> Result<Prospect, Failure> {
        let mapper = self.events.bind(&self.relation);
        let mut mapper = mapper.map_err(|error| of_bind(&error).failure().clone())?;
        let most = self.config.max_row_bytes;
        match sample {
            Sample::Row(row) => {
                let mut values: Vec<_> = row.iter().map(Option::as_deref).collect();
                if !mapper.is_pending(&values) {
                    return Ok(Prospect::NotPending(why_not(&self.pending)));
                }
                let due = due_later(&mapper, &values, now);
                // As of the time that it is due.
                let content = content_of(&mut mapper, &mut values, POSITION, i64::MAX, most);
                self.prospect(content, due)
            }
            Sample::Message(text) => {
                let oversize = (text.len() > most).then_some(text.len());
                let (row, problem) = match oversize {
                    None => MessageRow::read(text, POSITION),
                    Some(_) => (MessageRow::without_content(POSITION), None),
                };
                let (values, told) = (row.values(), (oversize, problem));
                let content = content_of_message(&mut mapper, &values, told, POSITION, i64::MAX);
                self.prospect(content, None)
            }
        }
    }

    fn prospect(
        &self,
        content: Option<Content<'_>>,
        due: Option<String>,
    ) -> Result<Prospect, Failure> {
        match content {
            Some(Content::Envelope(envelope)) => {
                Ok(Prospect::Record(Box::new(Previewed::new(&envelope, due))))
            }
            Some(Content::Misfit(misfit) | Content::Oversize(misfit)) => {
                let flow = &self.config.flow;
                let blocks = flow.retry.on_exhausted == OnExhausted::Block;
                let dead_letter = flow.dead_letter.destination(misfit.topic.as_deref());
                Ok(Prospect::GivenUp {
                    failure: misfit::failure(&misfit),
                    event_id: misfit.id.into_owned(),
                    event_type: misfit.event_type.map(Into::into),
                    blocks,
                    dead_letter: dead_letter.filter(|_| !blocks),
                })
            }
            Some(Content::Scheduled { .. }) => {
                Err(Failure::new(Code::Bug, "nothing is due after the end of time"))
            }
            None => Ok(Prospect::Halt(of_no_id("such an event", None).failure().clone())),
        }
    }
}

/// When the row is due, if that is later than now.
fn due_later(mapper: &Mapper, values: &[Option<&[u8]>], now: i64) -> Option<String> {
    mapper.due(values).filter(|due| *due > now)?;
    mapper.due_text(values)
}

/// Why a row that is not pending is not.
fn why_not(pending: &Pending<LayoutColumn>) -> String {
    match pending {
        Pending::Always => String::new(),
        Pending::Label(column, label) => format!("{} is not {label:?}", column.name),
        Pending::NotFlagged(column) => format!("{} is true", column.name),
        Pending::IsNull(column) => format!("{} is not null", column.name),
    }
}

impl Previewed {
    fn new(envelope: &Envelope<'_>, due: Option<String>) -> Self {
        let placed_by = match envelope {
            Envelope { partition: Some(_), .. } => Some("partition"),
            Envelope { partition_by: Some(_), .. } => Some("partition_by"),
            Envelope { key: Some(_), .. } => Some("key"),
            _ => None,
        };
        let position = POSITION.to_string();
        let tells_it = |text: Option<&str>| text == Some(position.as_str());
        let told = envelope.headers.iter().any(|(_, value)| tells_it(value));
        let position = (told || tells_it(Some(envelope.id))).then(|| position.clone());
        Self {
            event_id: envelope.id.to_owned(),
            event_type: envelope.event_type.as_deref().map(Into::into),
            topic: envelope.topic.to_owned(),
            key: envelope.key.as_deref().map(Into::into),
            placement: envelope.placement(),
            placed_by,
            headers: envelope.headers.to_list(),
            value: envelope.value.map(Into::into),
            timestamp: envelope.timestamp,
            due,
            position,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::outbox::{Guess, JsonRow};

    const NOON: i64 = 1_795_262_400_000_000; // 2026-11-21 12:00 UTC

    fn at_noon(settings: &str, row: &str) -> Prospect {
        let text = format!("postgres.url = \"postgres://u@localhost/d\"\n{settings}");
        let config = Config::from_toml(&text).unwrap().relay;
        let row: JsonRow = serde_json::from_str(row).unwrap();
        let guess = Guess::new(&config.events, &config.status, &row);
        let preview = Preview::new(&config, &guess.layout).unwrap();
        preview.at(Sample::Row(&guess.values), NOON).unwrap()
    }

    fn due(at: &str) -> Option<String> {
        let row = format!(r#"{{"aggregate_type": "t", "payload": {{}}, "scheduled_at": "{at}"}}"#);
        match at_noon("", &row) {
            Prospect::Record(record) => record.due,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_due_now_is_published_now() {
        assert_eq!(due("2026-11-21T12:00:00Z"), None);
        assert_eq!(due("-infinity"), None);
        assert_eq!(due("2026-11-21T12:00:00.5Z").as_deref(), Some("2026-11-21T12:00:00.5Z"));
        assert_eq!(due("infinity").as_deref(), Some("infinity"));
    }

    #[test]
    fn what_chooses_the_partition_is_named() {
        let placed = |more: &str| {
            let settings =
                "outbox.columns.partition_by = \"lane\"\noutbox.columns.partition = \"p\"";
            let row = format!(r#"{{"aggregate_type": "t", "payload": {{}}{more}}}"#);
            match at_noon(settings, &row) {
                Prospect::Record(record) => (record.placed_by, record.placement),
                other => panic!("{other:?}"),
            }
        };
        let hashed = |text: &str| Some(Placement::of_key(text.as_bytes()));
        assert_eq!(placed(""), (None, None));
        assert_eq!(placed(r#", "aggregate_id": "a""#), (Some("key"), hashed("a")));
        let lane = r#", "aggregate_id": "a", "lane": "l""#;
        assert_eq!(placed(lane), (Some("partition_by"), hashed("l")));
        let fixed = format!(r#"{lane}, "p": 3"#);
        assert_eq!(placed(&fixed), (Some("partition"), Some(Placement::Fixed(3))));
    }

    #[test]
    fn every_way_to_say_that_a_row_was_sent_is_told() {
        for (settings, more, why) in [
            ("", r#""status": "SENT""#, "status is not \"PENDING\""),
            ("outbox.status.sent_flag = \"done\"", r#""done": true"#, "done is true"),
            ("outbox.status.sent_at = \"at\"", r#""at": "2026-01-01""#, "at is not null"),
        ] {
            let row = format!(r#"{{"aggregate_type": "t", "payload": {{}}, {more}}}"#);
            match at_noon(settings, &row) {
                Prospect::NotPending(told) => assert_eq!(told, why),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn a_row_without_an_id_ends_the_relay() {
        let prospect = at_noon("", r#"{"id": null, "aggregate_type": "t", "payload": {}}"#);
        assert!(matches!(prospect, Prospect::Halt(failure) if failure.code == Code::Unpublishable));
    }
}
