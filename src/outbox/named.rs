//! Names in the configuration that stand for a field of the event or, where there is no field of
//! that name, for a column of the table.

use std::borrow::Cow;

use super::MapError;
use super::binding::Row;
use super::columns::{BindError, Field, Layout, LayoutColumn, Mapping, place_of};
use crate::pgoutput::Relation;

/// What a name stands for. `C` is the column in the catalog, or its place in the rows of a layout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Named<C> {
    Field(Field),
    Column(C),
}

impl Named<LayoutColumn> {
    pub(super) fn find(name: &str, layout: &Layout) -> Option<Self> {
        let column = || layout.column(name).cloned().map(Named::Column);
        Field::by_name(name).map(Named::Field).or_else(column)
    }

    pub(super) fn bind(&self, relation: &Relation) -> Result<Named<usize>, BindError> {
        Ok(match self {
            Named::Field(field) => Named::Field(*field),
            Named::Column(column) => Named::Column(place_of(column, relation)?),
        })
    }

    /// The column that the value comes from, if it comes from one.
    pub(super) fn column<'a>(&'a self, mapping: &'a Mapping) -> Option<&'a LayoutColumn> {
        match self {
            Named::Field(field) => mapping.column(*field),
            Named::Column(column) => Some(column),
        }
    }
}

impl Named<usize> {
    /// Its value in a row; nothing for null.
    pub(super) fn text<'b: 'v, 'v>(
        &self,
        row: &Row<'b, 'v>,
    ) -> Result<Option<Cow<'v, str>>, MapError> {
        match self {
            Named::Field(field) => row.text(*field),
            Named::Column(place) => Ok(row.text_at(*place)?.map(Cow::Borrowed)),
        }
    }
}

/// An entry of a list: `source`, or `name=source`.
pub(super) fn renamed(entry: &str) -> (&str, &str) {
    entry.split_once('=').map_or((entry, entry), |(name, source)| (name.trim(), source.trim()))
}
