//! The little that is done with JSON: writing strings, reading one member, reading headers.
//! A payload is never parsed and printed again.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// Appends `text` as a JSON string.
pub(super) fn write_string(text: &str, out: &mut Vec<u8>) {
    // Writing to memory cannot fail.
    let _ = serde_json::to_writer(out, text);
}

/// The same of text that is put together only now.
pub(super) fn write_display(text: &impl fmt::Display, out: &mut Vec<u8>) {
    // Writing to memory cannot fail.
    let _ = serde::Serializer::collect_str(&mut serde_json::Serializer::new(out), text);
}

/// Whether `bytes` are one JSON value.
pub(super) fn is_json(bytes: &[u8]) -> bool {
    serde_json::from_slice::<IgnoredAny>(bytes).is_ok()
}

/// A scalar as text: a string's content, or a number or boolean as written; null and anything
/// with members are nothing.
pub(super) fn scalar(raw: &RawValue) -> Option<Cow<'_, str>> {
    let text = raw.get();
    match text.as_bytes().first()? {
        b'"' if text.contains('\\') => serde_json::from_str(text).ok().map(Cow::Owned),
        b'"' => text.get(1..text.len() - 1).map(Cow::Borrowed),
        b'{' | b'[' | b'n' => None,
        _ => Some(Cow::Borrowed(text)),
    }
}

/// The scalar that `pointer` (RFC 6901, already split) names in `json`; nothing if there is none.
pub(super) fn pointed(json: &[u8], pointer: &[String]) -> Option<String> {
    let mut input = serde_json::Deserializer::from_slice(json);
    Pointed { path: pointer }.deserialize(&mut input).ok().flatten()
}

/// Splits a JSON pointer; nothing if it is not one.
pub(super) fn split_pointer(pointer: &str) -> Option<Vec<String>> {
    let parts = pointer.strip_prefix('/')?.split('/');
    Some(parts.map(|part| part.replace("~1", "/").replace("~0", "~")).collect())
}

/// Walks down to one member without building the rest.
struct Pointed<'p> {
    path: &'p [String],
}

impl<'de> DeserializeSeed<'de> for Pointed<'_> {
    type Value = Option<String>;

    fn deserialize<D: serde::Deserializer<'de>>(self, input: D) -> Result<Self::Value, D::Error> {
        match self.path {
            [] => <&RawValue as serde::Deserialize>::deserialize(input)
                .map(|raw| scalar(raw).map(Cow::into_owned)),
            _ => input.deserialize_any(self),
        }
    }
}

impl<'de> Visitor<'de> for Pointed<'_> {
    type Value = Option<String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(name) = map.next_key::<Cow<'_, str>>()? {
            match self.path.split_first().filter(|(first, _)| **first == *name) {
                Some((_, path)) => found = map.next_value_seed(Pointed { path })?,
                None => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(found)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let wanted = self
            .path
            .split_first()
            .and_then(|(first, path)| first.parse::<usize>().ok().map(|index| (index, path)));
        let (mut found, mut at) = (None, 0);
        loop {
            match wanted.filter(|(index, _)| *index == at) {
                Some((_, path)) => match seq.next_element_seed(Pointed { path })? {
                    Some(value) => found = value,
                    None => return Ok(found),
                },
                None => {
                    if seq.next_element::<IgnoredAny>()?.is_none() {
                        return Ok(found);
                    }
                }
            }
            at += 1;
        }
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }
}

/// Calls `each` for every member of a JSON object, in the order in which they are written. A
/// string member's value is its content, null is nothing, anything else is its JSON text.
///
/// # Errors
/// Bytes that are not a JSON object.
pub(super) fn members(
    json: &[u8],
    mut each: impl FnMut(&str, Option<&str>),
) -> Result<(), serde_json::Error> {
    raw_members(json, |name, raw| {
        let raw = raw.get();
        match raw.as_bytes().first() {
            Some(b'n') => each(name, None),
            Some(b'"') => each(name, Some(&serde_json::from_str::<Cow<'_, str>>(raw)?)),
            _ => each(name, Some(raw)),
        }
        Ok(())
    })
}

/// The same, of members as they are written.
///
/// # Errors
/// Bytes that are not a JSON object, or what `each` makes of a member.
pub(super) fn raw_members<'j>(
    json: &'j [u8],
    each: impl FnMut(&str, &'j RawValue) -> Result<(), serde_json::Error>,
) -> Result<(), serde_json::Error> {
    let mut input = serde_json::Deserializer::from_slice(json);
    serde::Deserializer::deserialize_map(&mut input, Members { each })?;
    input.end()
}

struct Members<F> {
    each: F,
}

impl<'de, F> Visitor<'de> for Members<F>
where
    F: FnMut(&str, &'de RawValue) -> Result<(), serde_json::Error>,
{
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key::<Cow<'_, str>>()? {
            let raw = map.next_value()?;
            (self.each)(&name, raw).map_err(serde::de::Error::custom)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(json: &str, pointer: &str) -> Option<String> {
        pointed(json.as_bytes(), &split_pointer(pointer).unwrap())
    }

    #[test]
    fn a_pointer_names_one_scalar() {
        let json = r#"{"a": {"b": [10, "x\n", {"c~/d": true}]}, "n": null, "s": "t", "f": 1.10}"#;
        assert_eq!(at(json, "/s").as_deref(), Some("t"));
        assert_eq!(at(json, "/a/b/0").as_deref(), Some("10"));
        assert_eq!(at(json, "/a/b/1").as_deref(), Some("x\n"));
        assert_eq!(at(json, "/a/b/2/c~0~1d").as_deref(), Some("true"));
        assert_eq!(at(json, "/f").as_deref(), Some("1.10"), "numbers are kept as written");
        for nothing in ["/n", "/a", "/a/b", "/a/b/9", "/a/b/x", "/s/t", "/missing"] {
            assert_eq!(at(json, nothing), None, "{nothing}");
        }
        assert_eq!(at("not json", "/a"), None);
        assert_eq!(split_pointer("a/b"), None);
    }

    #[test]
    fn headers_keep_their_order_and_their_text() {
        let mut seen = Vec::new();
        let json = r#" {"b":"x\"y","a":1.0,"c":null,"d":{"e": [1]},"b":true} "#;
        members(json.as_bytes(), |name, value| {
            seen.push((name.to_owned(), value.map(ToOwned::to_owned)));
        })
        .unwrap();
        let expected = [
            ("b", Some("x\"y")),
            ("a", Some("1.0")),
            ("c", None),
            ("d", Some(r#"{"e": [1]}"#)),
            ("b", Some("true")),
        ];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.map(str::to_owned)));
        assert_eq!(seen, expected);
        for bad in ["", "[]", "1", "{", r#"{"a":1} x"#] {
            assert!(members(bad.as_bytes(), |_, _| ()).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = pointed(&bytes, &["a".to_owned()]);
            let _ = members(&bytes, |_, _| ());
            let _ = is_json(&bytes);
        }

        #[test]
        fn a_written_string_reads_back(text: String) {
            let mut out = Vec::new();
            write_string(&text, &mut out);
            prop_assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
        }
    }
}
