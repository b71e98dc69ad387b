//! The records of Debezium's outbox event router, as its String and its schemaless JSON converters
//! write them.
//!
//! What differs on purpose: JSON that is expanded is embedded as it is, where Debezium drops nulls
//! and empty arrays and prints numbers anew; and bytes in text are bytes.

use super::super::MapError;
use super::super::binding::Row;
use super::super::columns::{BindError, Field, Layout, LayoutColumn, MapProblem, Mapping};
use super::super::json::is_json;
use super::super::named::{Named, renamed};
use super::Body;
use super::java::write_java_string;
use super::payload::{PayloadForm, write_base64};
use super::shown::Shown;
use crate::pgoutput::Relation;

/// A converter of Kafka Connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Converter {
    /// `StringConverter`, or `SimpleHeaderConverter` for headers.
    #[default]
    Text,
    /// `JsonConverter` without schemas.
    Json,
}

/// How Debezium was configured: `[envelope.debezium]`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DebeziumConfig {
    /// The key's converter.
    pub key: Converter,
    /// The value's converter.
    pub value: Converter,
    /// The headers' converter.
    pub headers: Converter,
    /// What is placed beside the payload: `name=source`.
    pub members: Vec<String>,
    /// Whether an empty text is a tombstone.
    pub tombstone_on_empty: bool,
    /// Whether the JSON converter embeds a payload that is JSON, rather than quote it.
    pub expand: bool,
}

/// Writes keys and values. `C` is a column in the catalog, or its place in the rows of a layout.
#[derive(Debug)]
pub(in crate::outbox) struct Writer<C> {
    config: DebeziumConfig,
    key: Shown,
    members: Vec<Member<C>>,
}

#[derive(Debug)]
struct Member<C> {
    name: String,
    source: Named<C>,
    shown: Shown,
}

impl DebeziumConfig {
    pub(super) fn writer(
        &self,
        mapping: &Mapping,
        layout: &Layout,
    ) -> Result<Writer<LayoutColumn>, MapProblem> {
        let member = |entry: &String| {
            let (name, source) = renamed(entry);
            let source = Named::find(source, layout).ok_or_else(|| {
                let key = "envelope.debezium.members";
                MapProblem::UnknownName { key, name: source.to_owned() }
            })?;
            let shown = Shown::of(source.column(mapping));
            Ok(Member { name: name.to_owned(), source, shown })
        };
        let key = mapping.column(Field::Key).or_else(|| mapping.column(Field::AggregateId));
        Ok(Writer {
            config: self.clone(),
            key: Shown::of(key),
            members: self.members.iter().map(member).collect::<Result<_, _>>()?,
        })
    }
}

impl Writer<LayoutColumn> {
    pub(super) fn bind(&self, relation: &Relation) -> Result<Writer<usize>, BindError> {
        let member = |member: &Member<LayoutColumn>| {
            let source = member.source.bind(relation)?;
            Ok(Member { name: member.name.clone(), source, shown: member.shown })
        };
        Ok(Writer {
            config: self.config.clone(),
            key: self.key,
            members: self.members.iter().map(member).collect::<Result<_, _>>()?,
        })
    }
}

impl Writer<usize> {
    pub(super) fn write(
        &self,
        row: &Row<'_, '_>,
        form: PayloadForm,
        out: &mut Vec<u8>,
    ) -> Result<Body, MapError> {
        let payload = row.bytes(Field::Payload);
        // Bytes are never empty to Debezium.
        let is_empty = form != PayloadForm::Bytes
            && payload.is_some_and(|payload| payload.trim_ascii().is_empty());
        if self.config.tombstone_on_empty && (is_empty || payload.is_none()) {
            return Ok(Body::None);
        }
        match (self.config.value, self.members.is_empty()) {
            (Converter::Text, true) => return form.write_bare(payload, out),
            (Converter::Json, true) => self.write_payload(payload, form, out)?,
            (Converter::Text, false) => self.write_struct(row, payload, out)?,
            (Converter::Json, false) => self.write_object(row, payload, form, out)?,
        }
        Ok(Body::Written)
    }

    /// The payload by the JSON converter.
    fn write_payload(
        &self,
        payload: Option<&[u8]>,
        form: PayloadForm,
        out: &mut Vec<u8>,
    ) -> Result<(), MapError> {
        let Some(payload) = payload else {
            out.extend_from_slice(b"null");
            return Ok(());
        };
        let is_nested = || matches!(payload.trim_ascii_start().first(), Some(b'{' | b'['));
        match form {
            PayloadForm::Bytes => write_base64(payload, out)?,
            PayloadForm::Json if self.config.expand && is_nested() => {
                out.extend_from_slice(payload);
            }
            PayloadForm::JsonText | PayloadForm::Text
                if self.config.expand && is_nested() && is_json(payload) =>
            {
                out.extend_from_slice(payload);
            }
            PayloadForm::Json | PayloadForm::JsonText | PayloadForm::Text => {
                write_java_string(
                    std::str::from_utf8(payload).map_err(|_| MapError::NotUtf8)?,
                    out,
                );
            }
        }
        Ok(())
    }

    fn write_object(
        &self,
        row: &Row<'_, '_>,
        payload: Option<&[u8]>,
        form: PayloadForm,
        out: &mut Vec<u8>,
    ) -> Result<(), MapError> {
        out.extend_from_slice(b"{\"payload\":");
        self.write_payload(payload, form, out)?;
        for member in &self.members {
            out.push(b',');
            write_java_string(&member.name, out);
            out.push(b':');
            match member.source.text(row)? {
                Some(value) => {
                    let mut json = String::new();
                    member.shown.push_json(&value, &mut json);
                    out.extend_from_slice(json.as_bytes());
                }
                None => out.extend_from_slice(b"null"),
            }
        }
        out.push(b'}');
        Ok(())
    }

    /// What a Java `Struct` says of itself: members without a value are left out.
    fn write_struct(
        &self,
        row: &Row<'_, '_>,
        payload: Option<&[u8]>,
        out: &mut Vec<u8>,
    ) -> Result<(), MapError> {
        let mut separator = b"Struct{".as_slice();
        if let Some(payload) = payload {
            out.extend_from_slice(separator);
            out.extend_from_slice(b"payload=");
            out.extend_from_slice(payload);
            separator = b",";
        }
        for member in &self.members {
            if let Some(value) = member.source.text(row)? {
                out.extend_from_slice(separator);
                out.extend_from_slice(member.name.as_bytes());
                out.push(b'=');
                let mut text = String::new();
                member.shown.push_text(&value, &mut text);
                out.extend_from_slice(text.as_bytes());
                separator = b",";
            }
        }
        if separator != b"," {
            out.extend_from_slice(separator);
        }
        out.push(b'}');
        Ok(())
    }

    /// The key, where it is not the text of its column. Whether it is not.
    pub(super) fn write_key(&self, row: &Row<'_, '_>, out: &mut String) -> Result<bool, MapError> {
        if self.config.key == Converter::Text && self.key.is_plain() {
            return Ok(false);
        }
        match (self.config.key, row.key()?) {
            (Converter::Text, None) => return Ok(false),
            (Converter::Text, Some(key)) => self.key.push_text(&key, out),
            (Converter::Json, None) => out.push_str("null"),
            (Converter::Json, Some(key)) => self.key.push_json(&key, out),
        }
        Ok(true)
    }
}
