//! A row, read through the column map.

use std::borrow::Cow;

use super::columns::{BindError, Field, LayoutColumn, MappedSource, Mapping, place_of};
use super::json::pointed;
use super::{MapError, timestamp};
use crate::pgoutput::Relation;

/// The column map over the rows of one layout.
#[derive(Debug)]
pub(super) struct Binding {
    fields: [Bound; Field::ALL.len()],
    /// Where blanks at the end mean nothing.
    padded: Vec<usize>,
}

#[derive(Debug)]
struct Bound {
    source: BoundSource,
    default: Option<String>,
}

#[derive(Debug)]
enum BoundSource {
    Place(usize),
    Pointer(Vec<String>),
    Const(String),
    Nothing,
}

impl Binding {
    /// Finds every mapped column in the rows that follow `relation`, and those of `padded` that are
    /// there.
    ///
    /// # Errors
    /// A column is missing or has another type.
    pub(super) fn new(
        mapping: &Mapping,
        padded: &[LayoutColumn],
        relation: &Relation,
    ) -> Result<Self, BindError> {
        let mut failure = None;
        let fields = Field::ALL.map(|field| {
            let mapped = mapping.get(field);
            let source = match &mapped.source {
                MappedSource::Column(column) => match place_of(column, relation) {
                    Ok(place) => BoundSource::Place(place),
                    Err(error) => {
                        failure.get_or_insert(error);
                        BoundSource::Nothing
                    }
                },
                MappedSource::Pointer(path) => BoundSource::Pointer(path.clone()),
                MappedSource::Const(value) => BoundSource::Const(value.clone()),
                MappedSource::Nothing => BoundSource::Nothing,
            };
            Bound { source, default: mapped.default.clone() }
        });
        let padded = padded.iter().filter_map(|column| place_of(column, relation).ok()).collect();
        failure.map_or(Ok(Self { fields, padded }), Err)
    }

    /// Where a field that is a column stands.
    #[expect(clippy::indexing_slicing, reason = "one entry per field")]
    pub(super) fn place(&self, field: Field) -> Option<usize> {
        match self.fields[field as usize].source {
            BoundSource::Place(place) => Some(place),
            BoundSource::Pointer(_) | BoundSource::Const(_) | BoundSource::Nothing => None,
        }
    }

    /// The bytes of a field that is a column; nothing for null.
    pub(super) fn value<'v>(
        &self,
        field: Field,
        values: &'v [Option<&'v [u8]>],
    ) -> Option<&'v [u8]> {
        self.place(field).and_then(|place| self.value_at(place, values))
    }

    /// The bytes of a column by its place; nothing for null. Of a `char(n)` they are what
    /// PostgreSQL makes of it as a text, so that they equal what our statements compare.
    pub(super) fn value_at<'v>(
        &self,
        place: usize,
        values: &'v [Option<&'v [u8]>],
    ) -> Option<&'v [u8]> {
        let mut bytes = values.get(place).copied().flatten()?;
        if self.padded.contains(&place) {
            while let [rest @ .., b' '] = bytes {
                bytes = rest;
            }
        }
        Some(bytes)
    }
}

/// One row and how to read it.
#[derive(Clone, Copy)]
pub(super) struct Row<'b, 'v> {
    pub(super) binding: &'b Binding,
    pub(super) values: &'v [Option<&'v [u8]>],
}

impl<'b, 'v> Row<'b, 'v>
where
    'b: 'v,
{
    /// The bytes of a field that is a column, as PostgreSQL prints them; nothing for null.
    pub(super) fn bytes(&self, field: Field) -> Option<&'v [u8]> {
        self.binding.value(field, self.values)
    }

    /// A field's value; nothing for null, unless a default was configured.
    pub(super) fn text(&self, field: Field) -> Result<Option<Cow<'v, str>>, MapError> {
        let bound: &'b Bound = self.bound(field);
        let value = match &bound.source {
            BoundSource::Place(place) => self.text_at(*place)?.map(Cow::Borrowed),
            BoundSource::Pointer(path) => {
                self.bytes(Field::Payload).and_then(|json| pointed(json, path)).map(Cow::Owned)
            }
            BoundSource::Const(value) => Some(Cow::Borrowed(value.as_str())),
            BoundSource::Nothing => None,
        };
        Ok(value.or_else(|| bound.default.as_deref().map(Cow::Borrowed)))
    }

    /// A column's value by its place.
    pub(super) fn text_at(&self, place: usize) -> Result<Option<&'v str>, MapError> {
        let bytes = self.binding.value_at(place, self.values);
        bytes.map(std::str::from_utf8).transpose().map_err(|_| MapError::NotUtf8)
    }

    /// The id, whatever its bytes are.
    pub(super) fn any_id(&self) -> Option<Cow<'v, str>> {
        self.bytes(Field::Id).map(String::from_utf8_lossy)
    }

    /// The record's key.
    pub(super) fn key(&self) -> Result<Option<Cow<'v, str>>, MapError> {
        match self.text(Field::Key)? {
            None => self.text(Field::AggregateId),
            key => Ok(key),
        }
    }

    /// When it is due, in microseconds since 1970.
    pub(super) fn scheduled(&self) -> Result<Option<i64>, MapError> {
        let due = self.text(Field::ScheduledAt)?;
        due.map(|due| timestamp::due(&due).ok_or(MapError::BadSchedule)).transpose()
    }

    /// How often its delivery is tried; what is no such number says nothing.
    pub(super) fn max_attempts(&self) -> Option<i32> {
        let number = self.text(Field::MaxAttempts).ok()??;
        number.parse().ok().filter(|number| *number > 0)
    }

    #[expect(clippy::indexing_slicing, reason = "one entry per field")]
    fn bound(&self, field: Field) -> &'b Bound {
        &self.binding.fields[field as usize]
    }
}
