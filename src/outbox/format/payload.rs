//! The payload: what its bytes are, and how they get into a value. They are never parsed and
//! printed again.

use data_encoding::{BASE64, HEXLOWER};

use super::super::MapError;
use super::super::json::{is_json, write_string};
use super::Body;

/// What the payload's bytes are, and so how they are published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::outbox) enum PayloadForm {
    /// JSON for sure: PostgreSQL checked it.
    Json,
    /// JSON as the writer promises.
    JsonText,
    /// Any text.
    Text,
    /// Bytes, which PostgreSQL prints in hexadecimal.
    Bytes,
}

impl PayloadForm {
    pub(super) const fn media_type(self) -> &'static str {
        match self {
            PayloadForm::Json | PayloadForm::JsonText => "application/json",
            PayloadForm::Text => "text/plain; charset=utf-8",
            PayloadForm::Bytes => "application/octet-stream",
        }
    }

    /// The payload as a value of its own.
    pub(super) fn write_bare(
        self,
        payload: Option<&[u8]>,
        out: &mut Vec<u8>,
    ) -> Result<Body, MapError> {
        match (self, payload) {
            (_, None) => Ok(Body::None),
            (PayloadForm::Bytes, Some(hex)) => decode_hex(hex, out).map(|()| Body::Written),
            (_, Some(_)) => Ok(Body::Payload),
        }
    }

    /// The payload as a member of a JSON object: `,"name":…`, or `,"name_base64":…` for bytes.
    pub(super) fn write_member(
        self,
        name: &str,
        payload: Option<&[u8]>,
        out: &mut Vec<u8>,
    ) -> Result<(), MapError> {
        out.extend_from_slice(b",\"");
        out.extend_from_slice(name.as_bytes());
        if self == PayloadForm::Bytes {
            out.extend_from_slice(b"_base64");
        }
        out.extend_from_slice(b"\":");
        match (payload, self) {
            (None, _) => out.extend_from_slice(b"null"),
            (Some(text), PayloadForm::JsonText) if !is_json(text) => return Err(MapError::NotJson),
            (Some(json), PayloadForm::Json | PayloadForm::JsonText) => out.extend_from_slice(json),
            (Some(text), PayloadForm::Text) => {
                write_string(std::str::from_utf8(text).map_err(|_| MapError::NotUtf8)?, out);
            }
            (Some(hex), PayloadForm::Bytes) => write_base64(hex, out)?,
        }
        Ok(())
    }
}

/// Appends bytes that PostgreSQL prints in hexadecimal as a JSON string in base64.
pub(super) fn write_base64(hex: &[u8], out: &mut Vec<u8>) -> Result<(), MapError> {
    let mut bytes = Vec::new();
    decode_hex(hex, &mut bytes)?;
    out.push(b'"');
    out.extend_from_slice(BASE64.encode(&bytes).as_bytes());
    out.push(b'"');
    Ok(())
}

/// Appends the bytes that PostgreSQL prints as `\x00ff`.
pub(in crate::outbox) fn decode_hex(text: &[u8], out: &mut Vec<u8>) -> Result<(), MapError> {
    let hex = text.strip_prefix(b"\\x").ok_or(MapError::BadBytes)?;
    let len = HEXLOWER.decode_len(hex.len()).map_err(|_| MapError::BadBytes)?;
    let start = out.len();
    out.resize(start + len, 0);
    let into = out.get_mut(start..).unwrap_or_default();
    HEXLOWER.decode_mut(hex, into).map(|_| ()).map_err(|_| MapError::BadBytes)
}
