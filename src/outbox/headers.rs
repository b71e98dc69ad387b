//! The headers of a record: the chosen ones, then the row's own.

use std::fmt::Write as _;
use std::ops::Range;

use super::MapError;
use super::binding::Row;
use super::columns::{BindError, Field, Layout, LayoutColumn, MapProblem, place_of};
use super::json::members;
use crate::lsn::Position;
use crate::pgoutput::Relation;

/// A header that `envelope.headers` chose.
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

#[derive(Debug, Clone, PartialEq, Eq)]
enum Source<C> {
    Field(Field),
    Column(C),
    Position,
    ContentType(&'static str),
}

impl Chosen {
    /// Finds what `name` stands for: `event_id`, `position`, `content_type`, a field or a column.
    pub(super) fn compile(
        name: &str,
        content_type: &'static str,
        layout: &Layout,
    ) -> Result<Self, MapProblem> {
        let (name, source) = match (name, Field::by_name(name), layout.column(name)) {
            ("event_id", ..) => (name, Source::Field(Field::Id)),
            ("position", ..) => (name, Source::Position),
            ("content_type", ..) => ("content-type", Source::ContentType(content_type)),
            (_, Some(field), _) => (name, Source::Field(field)),
            (_, None, Some(column)) => (name, Source::Column(column.clone())),
            (_, None, None) => {
                let key = "envelope.headers";
                return Err(MapProblem::UnknownName { key, name: name.to_owned() });
            }
        };
        Ok(Self { name: name.to_owned(), source })
    }

    pub(super) fn bind(&self, relation: &Relation) -> Result<Bound, BindError> {
        let source = match &self.source {
            Source::Field(field) => Source::Field(*field),
            Source::Column(column) => Source::Column(place_of(column, relation)?),
            Source::Position => Source::Position,
            Source::ContentType(value) => Source::ContentType(value),
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

    /// To read them.
    pub fn view(&self) -> Headers<'_> {
        Headers { text: &self.text, spans: &self.spans }
    }

    /// Collects the headers of `row`; where some cannot be read, the others.
    pub(super) fn fill(
        &mut self,
        chosen: &[Bound],
        row: &Row<'_, '_>,
        position: Position,
    ) -> Result<(), MapError> {
        self.text.clear();
        self.spans.clear();
        let mut filled = Ok(());
        for header in chosen {
            let value = match &header.source {
                Source::Field(field) => row.text(*field),
                Source::Column(place) => row.text_at(*place).map(|text| text.map(Into::into)),
                Source::ContentType(value) => Ok(Some((*value).into())),
                Source::Position => {
                    let name = self.push(&header.name);
                    let start = self.text.len();
                    // Writing to memory cannot fail.
                    let _ = write!(self.text, "{position}");
                    self.spans.push(Span { name, value: Some(start..self.text.len()) });
                    continue;
                }
            };
            match value {
                Ok(Some(value)) => self.add(&header.name, Some(&value)),
                Ok(None) => {}
                Err(error) => filled = filled.and(Err(error)),
            }
        }
        match row.bytes(Field::Headers) {
            None | Some(b"{}") => filled,
            Some(json) => {
                let members = members(json, |name, value| self.add(name, value));
                filled.and(members.map_err(|_| MapError::BadHeaders))
            }
        }
    }

    fn push(&mut self, text: &str) -> Range<usize> {
        let start = self.text.len();
        self.text.push_str(text);
        start..self.text.len()
    }
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
