//! JSON strings as Java's serializer writes them, where it and ours differ: it escapes what takes
//! two of Java's characters, and its hexadecimal digits are large.

use super::super::json::write_string;

/// Appends `text` as a JSON string.
pub(super) fn write_java_string(text: &str, out: &mut Vec<u8>) {
    if text.bytes().all(|byte| (b' '..0xF0).contains(&byte)) {
        return write_string(text, out);
    }
    let escape = |unit: u16, out: &mut Vec<u8>| {
        out.extend_from_slice(format!("\\u{unit:04X}").as_bytes());
    };
    out.push(b'"');
    for letter in text.chars() {
        let short = match letter {
            '"' | '\\' => Some(letter),
            '\u{8}' => Some('b'),
            '\t' => Some('t'),
            '\n' => Some('n'),
            '\u{c}' => Some('f'),
            '\r' => Some('r'),
            _ => None,
        };
        let mut buffer = [0; 4];
        match short {
            Some(short) => {
                out.push(b'\\');
                out.extend_from_slice(short.encode_utf8(&mut buffer).as_bytes());
            }
            None if !(' '..='\u{ffff}').contains(&letter) => {
                let mut units = [0; 2];
                letter.encode_utf16(&mut units).iter().for_each(|unit| escape(*unit, out));
            }
            None => out.extend_from_slice(letter.encode_utf8(&mut buffer).as_bytes()),
        }
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_escaped_as_java_does() {
        for (text, json) in [
            ("plain ü ✓ /", r#""plain ü ✓ /""#),
            ("𝄞", r#""\uD834\uDD1E""#),
            (
                "\"\\\u{8}\t\n\u{c}\r\u{1}\u{1f}\u{7f}",
                "\"\\\"\\\\\\b\\t\\n\\f\\r\\u0001\\u001F\u{7f}\"",
            ),
        ] {
            let mut out = Vec::new();
            write_java_string(text, &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), json);
            let read: String = serde_json::from_str(json).unwrap();
            assert_eq!(read, text);
        }
    }
}
