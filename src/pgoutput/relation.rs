//! The layout of a table as the stream tells it.

use super::DecodeError;
use super::cursor::Cursor;

/// A table's name and columns at one moment of the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relation {
    /// The table's OID, which a rename does not change.
    pub oid: u32,
    /// Its schema.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The published columns, in the order of every row's values.
    pub columns: Vec<Column>,
}

/// A column of a [`Relation`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// The OID of its type; a domain's is its base type's.
    pub type_oid: u32,
}

impl Relation {
    pub(super) fn decode(cursor: &mut Cursor<'_>) -> Result<Self, DecodeError> {
        let oid = cursor.u32()?;
        let namespace = cursor.c_str()?;
        let name = cursor.c_str()?;
        let _replica_identity = cursor.u8()?;
        let column_count = cursor.u16()?;
        let mut columns = Vec::new();
        for _ in 0..column_count {
            let _flags = cursor.u8()?;
            let name = cursor.c_str()?.to_owned();
            let type_oid = cursor.u32()?;
            let _type_modifier = cursor.i32()?;
            columns.push(Column { name, type_oid });
        }
        // The empty namespace stands for pg_catalog.
        let namespace = if namespace.is_empty() { "pg_catalog" } else { namespace };
        Ok(Self { oid, namespace: namespace.to_owned(), name: name.to_owned(), columns })
    }
}
