//! The headers of a record: the chosen ones, then the row's own.

use std::fmt::Write as _;
use std::ops::Range;

use super::MapError;
use super::binding::Row;
use super::columns::{BindError, Field, Layout, LayoutColumn, MapProblem, Mapping};
use super::format::{Converter, Shown, subject, time};
use super::json::members;
use super::named::{Named, renamed};
use super::timestamp;
use super::trace::{TRACEPARENT, TRACESTATE, is_traceparent, is_tracestate};
use crate::lsn::Position;
use crate::pgoutput::Relation;

/// The header of records that consumers may have had before.
const REDELIVERY: &str = "outboxd-redelivery";

/// A header that the format or `envelope.headers` chose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Chosen {
    name: String,
    source: Source<LayoutColumn>,
}

/// The same over the rows of one layout.
#[derive(Debug)]
pub(super) struct Bound {
    name: String,
    source: Source<usize>,
}

/// Where a header's value comes from. `C` is a column in the catalog, or its place in the rows of a
/// layout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source<C> {
    /// As PostgreSQL prints it; where it is null there is no header.
    Named(Named<C>),
    /// As Debezium shows it; null is a value, too.
    Shown(Named<C>, Shown, Converter),
    Position,
    Text(String),
    /// A CloudEvent's time.
    Time,
    /// A CloudEvent's subject.
    Subject,
}

/// What the entries of `envelope.headers` are checked against.
pub(super) struct Choice<'a> {
    pub(super) layout: &'a Layout,
    pub(super) mapping: &'a Mapping,
    pub(super) content_type: &'static str,
    pub(super) converter: Option<Converter>,
}

impl Choice<'_> {
    /// Finds what an entry stands for: `event_id`, `position`, `content_type`, a field or a column,
    /// or `name=` and one of them.
    pub(super) fn compile(&self, entry: &str) -> Result<Chosen, MapProblem> {
        let (name, source) = renamed(entry);
        let named = match source {
            "event_id" => Some(Named::Field(Field::Id)),
            other => Named::find(other, self.layout),
        };
        let (name, source) = match (source, named, self.converter) {
            ("position", ..) => (name, Source::Position),
            ("content_type", ..) => {
                let name = if name == source { "content-type" } else { name };
                (name, Source::Text(self.content_type.to_owned()))
            }
            (_, Some(named), None) => (name, Source::Named(named)),
            (_, Some(named), Some(converter)) => {
                let shown = Shown::of(named.column(self.mapping));
                (name, Source::Shown(named, shown, converter))
            }
            (_, None, _) => {
                let key = "envelope.headers";
                return Err(MapProblem::UnknownName { key, name: source.to_owned() });
            }
        };
        Ok(Chosen::new(name, source))
    }
}

impl Chosen {
    pub(super) fn new(name: &str, source: Source<LayoutColumn>) -> Self {
        Self { name: name.to_owned(), source }
    }

    pub(super) fn bind(&self, relation: &Relation) -> Result<Bound, BindError> {
        let source = match &self.source {
            Source::Named(named) => Source::Named(named.bind(relation)?),
            Source::Shown(named, shown, converter) => {
                Source::Shown(named.bind(relation)?, *shown, *converter)
            }
            Source::Position => Source::Position,
            Source::Text(text) => Source::Text(text.clone()),
            Source::Time => Source::Time,
            Source::Subject => Source::Subject,
        };
        Ok(Bound { name: self.name.clone(), source })
    }
}

/// The headers of one event, put together; its memory is reused for the next.
#[derive(Debug, Clone, Default)]
pub struct HeaderList {
    text: String,
    spans: Vec<Span>,
}

#[derive(Debug, Clone)]
struct Span {
    name: Range<usize>,
    value: Option<Range<usize>>,
}

impl HeaderList {
    /// Appends a header.
    pub fn add(&mut self, name: &str, value: Option<&str>) {
        let name = self.push(name);
        let value = value.map(|value| self.push(value));
        self.spans.push(Span { name, value });
    }

    /// Says that consumers may have had the record before, if nothing says so yet.
    pub fn mark_redelivery(&mut self) {
        if self.view().get(REDELIVERY).is_none() {
            self.add(REDELIVERY, Some("true"));
        }
    }

    /// To read them.
    pub fn view(&self) -> Headers<'_> {
        Headers { text: &self.text, spans: &self.spans }
    }

    /// Collects the headers of `row`; where some cannot be read, the others.
    pub(super) fn fill<'b: 'v, 'v>(
        &mut self,
        chosen: &[Bound],
        row: &Row<'b, 'v>,
        position: Position,
    ) -> Result<(), MapError> {
        self.text.clear();
        self.spans.clear();
        let mut filled = Ok(());
        for header in chosen {
            if let Err(error) = self.fill_one(header, row, position) {
                filled = filled.and(Err(error));
            }
        }
        match row.bytes(Field::Headers).map(<[u8]>::trim_ascii) {
            // Writers without headers leave any of these.
            None | Some(b"" | b"null" | b"{}") => filled,
            Some(json) => filled.and(self.fill_own(json)),
        }
    }

    fn fill_one<'b: 'v, 'v>(
        &mut self,
        header: &Bound,
        row: &Row<'b, 'v>,
        position: Position,
    ) -> Result<(), MapError> {
        let before = self.text.len();
        let name = self.push(&header.name);
        let start = self.text.len();
        let text = &mut self.text;
        let is_there = match &header.source {
            Source::Named(named) => named.text(row)?.map(|value| text.push_str(&value)).is_some(),
            Source::Shown(named, shown, converter) => match (named.text(row)?, converter) {
                (None, Converter::Text) => {
                    self.spans.push(Span { name, value: None });
                    return Ok(());
                }
                (None, Converter::Json) => {
                    text.push_str("null");
                    true
                }
                (Some(value), Converter::Text) => {
                    shown.push_text(&value, text);
                    true
                }
                (Some(value), Converter::Json) => {
                    shown.push_json(&value, text);
                    true
                }
            },
            Source::Position => write!(text, "{position}").is_ok(),
            Source::Text(value) => {
                text.push_str(value);
                true
            }
            Source::Time => time(row)?
                .map(|moment| timestamp::rfc3339(&moment, |part| text.push_str(part)))
                .is_some(),
            Source::Subject => match subject(row)? {
                Some(subject) => write!(text, "{subject}").is_ok(),
                None => false,
            },
        };
        if is_there {
            let value = Some(start..self.text.len());
            self.spans.push(Span { name, value });
        } else {
            self.text.truncate(before);
        }
        Ok(())
    }

    /// The row's own headers. What was chosen cannot be said again, and a trace context that is not
    /// one is left out.
    fn fill_own(&mut self, json: &[u8]) -> Result<(), MapError> {
        let chosen = self.spans.len();
        let mut has_trace = false;
        let members = members(json, |name, value| {
            has_trace |= is(name, TRACEPARENT) || is(name, TRACESTATE);
            let is_taken = self.view().iter().take(chosen).any(|(taken, _)| taken == name);
            if !is_taken {
                self.add(name, value);
            }
        });
        if has_trace {
            self.check_trace(chosen);
        }
        members.map_err(|_| MapError::BadHeaders)
    }

    /// Leaves out what is no trace context from the header number `from` on.
    fn check_trace(&mut self, from: usize) {
        let values = |wanted| -> Vec<Option<&str>> {
            let own = self.view().iter().skip(from);
            own.filter(|(name, _)| is(name, wanted)).map(|(_, value)| value).collect()
        };
        // Of two nobody knows which is meant.
        let is_traced = matches!(*values(TRACEPARENT), [Some(parent)] if is_traceparent(parent));
        let is_stated =
            is_traced && matches!(*values(TRACESTATE), [Some(state)] if is_tracestate(state));
        let (text, mut place) = (&self.text, 0);
        self.spans.retain(|span| {
            place += 1;
            let name = text.get(span.name.clone()).unwrap_or_default();
            place <= from
                || (is_traced || !is(name, TRACEPARENT)) && (is_stated || !is(name, TRACESTATE))
        });
    }

    fn push(&mut self, text: &str) -> Range<usize> {
        let start = self.text.len();
        self.text.push_str(text);
        start..self.text.len()
    }
}

/// Whether that is the name of a header of the trace context, in whatever case it is written.
fn is(name: &str, wanted: &str) -> bool {
    name.eq_ignore_ascii_case(wanted)
}

/// The headers of one record, in order; a name can come twice, a value can be null.
#[derive(Debug, Clone, Copy)]
pub struct Headers<'a> {
    text: &'a str,
    spans: &'a [Span],
}

impl<'a> Headers<'a> {
    /// Name and value of each.
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, Option<&'a str>)> + use<'a> {
        let text = self.text;
        self.spans.iter().map(move |span| {
            let part = |range: &Range<usize>| text.get(range.clone()).unwrap_or_default();
            (part(&span.name), span.value.as_ref().map(part))
        })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.spans.len()
    }

    /// The first value of that name.
    pub fn get(&self, name: &str) -> Option<&'a str> {
        self.iter().find(|(other, _)| *other == name).and_then(|(_, value)| value)
    }

    /// Bytes of all names and values.
    pub fn bytes(&self) -> usize {
        self.text.len()
    }

    /// A list of its own.
    pub fn to_list(&self) -> HeaderList {
        HeaderList { text: self.text.to_owned(), spans: self.spans.to_vec() }
    }
}
