//! What PostgreSQL makes of a JSON text: how long it prints it, and what it refuses.
//!
//! The table's check measures the text that a `jsonb` is printed as, which is not the one that was
//! given: blanks come after commas and colons, escapes become letters, `1e300` becomes 301 digits.

use super::check::Problem;

/// PostgreSQL's numbers have so many digits before the point.
const DIGITS_BEFORE: i64 = 131_072;
/// And so many behind it.
const DIGITS_BEHIND: i64 = 16_383;
/// An exponent above this is not even looked at.
const EXPONENT_MAX: i64 = 1 << 29;
/// Deeper than this, PostgreSQL's stack and most readers' are in danger.
const DEPTH_MAX: usize = 1000;

/// How many bytes `jsonb` prints `text` with, which must be JSON. An object that has a name twice is
/// printed with the last one; here both count.
///
/// # Errors
/// PostgreSQL does not take it.
pub(super) fn printed_len(text: &str) -> Result<usize, Problem> {
    let (mut rest, mut len, mut depth) = (text.as_bytes(), 0, 0usize);
    while let Some((first, after)) = rest.split_first() {
        match first {
            b'"' => {
                let (printed, behind) = string(after)?;
                len += printed + 2;
                rest = behind;
                continue;
            }
            b'-' | b'0'..=b'9' => {
                let is_part = |byte: &u8| byte.is_ascii_digit() || b"+-.eE".contains(byte);
                let end = rest.iter().position(|byte| !is_part(byte)).unwrap_or(rest.len());
                let (token, behind) = rest.split_at(end);
                len += number(token)?;
                rest = behind;
                continue;
            }
            b' ' | b'\t' | b'\n' | b'\r' => {}
            b',' | b':' => len += 2,
            b'[' | b'{' => {
                depth += 1;
                if depth > DEPTH_MAX {
                    return Err(Problem::TooDeep);
                }
                len += 1;
            }
            b']' | b'}' => {
                depth = depth.saturating_sub(1);
                len += 1;
            }
            _ => len += 1,
        }
        rest = after;
    }
    Ok(len)
}

/// The printed length of a string from behind its first quotation mark on, without the marks; and
/// what follows it.
fn string(mut rest: &[u8]) -> Result<(usize, &[u8]), Problem> {
    let mut len = 0;
    loop {
        rest = match rest {
            [] => return Ok((len, rest)),
            [b'"', after @ ..] => return Ok((len, after)),
            [b'\\', b'u', after @ ..] => {
                let (printed, after) = unicode(after)?;
                len += printed;
                after
            }
            [b'\\', b'/', after @ ..] => {
                len += 1;
                after
            }
            [b'\\', _, after @ ..] => {
                len += 2;
                after
            }
            [_, after @ ..] => {
                len += 1;
                after
            }
        };
    }
}

/// The printed length of a character that is written as `\uXXXX`, from behind the `u` on; and what
/// follows it.
fn unicode(rest: &[u8]) -> Result<(usize, &[u8]), Problem> {
    let (first, after) = four(rest);
    match first {
        0 => Err(Problem::Nul),
        0xD800..=0xDBFF => match after {
            [b'\\', b'u', low @ ..] => match four(low) {
                (0xDC00..=0xDFFF, after) => Ok((4, after)),
                _ => Err(Problem::HalfPair),
            },
            _ => Err(Problem::HalfPair),
        },
        0xDC00..=0xDFFF => Err(Problem::HalfPair),
        0x08 | 0x09 | 0x0A | 0x0C | 0x0D | 0x22 | 0x5C => Ok((2, after)),
        0x01..0x20 => Ok((6, after)),
        0x20..0x80 => Ok((1, after)),
        0x80..0x800 => Ok((2, after)),
        _ => Ok((3, after)),
    }
}

/// Four hexadecimal digits as a number, and what follows them.
fn four(rest: &[u8]) -> (u32, &[u8]) {
    let (digits, after) = rest.split_at(rest.len().min(4));
    let add = |sum: u32, byte: &u8| sum * 16 + char::from(*byte).to_digit(16).unwrap_or(0);
    (digits.iter().fold(0, add), after)
}

/// The printed length of a number: all its digits, however it was written.
fn number(token: &[u8]) -> Result<usize, Problem> {
    let (is_negative, token) = match token {
        [b'-', rest @ ..] => (true, rest),
        _ => (false, token),
    };
    let mut parts = token.splitn(2, |byte| matches!(byte, b'e' | b'E'));
    let mantissa = parts.next().unwrap_or_default();
    let exponent = parts.next().map_or(0, exponent);
    let mut halves = mantissa.splitn(2, |byte| *byte == b'.');
    let (whole, fraction) = (halves.next().unwrap_or_default(), halves.next().unwrap_or_default());
    let digits = || whole.iter().chain(fraction);
    let leading = digits().take_while(|digit| **digit == b'0').count();
    let significant = whole.len() + fraction.len() - leading;
    let count = |digits: usize| i64::try_from(digits).unwrap_or(i64::MAX / 4);
    let behind = (count(fraction.len()) - exponent).max(0);
    let mut before = 1;
    if significant > 0 {
        before = before.max(count(significant) - count(fraction.len()) + exponent);
    }
    if exponent.abs() > EXPONENT_MAX || before > DIGITS_BEFORE || behind > DIGITS_BEHIND {
        return Err(Problem::Number);
    }
    // There is no negative zero.
    let sign = i64::from(is_negative && significant > 0);
    let point = i64::from(behind > 0);
    Ok(usize::try_from(sign + before + point + behind).unwrap_or(usize::MAX))
}

/// The exponent behind the `e`; one that is too large for anything is only known to be large.
fn exponent(text: &[u8]) -> i64 {
    let (is_negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        _ => (false, text),
    };
    let add = |sum: i64, byte: &u8| (sum * 10 + i64::from(byte & 0xF)).min(EXPONENT_MAX + 1);
    let size = digits.iter().fold(0, add);
    if is_negative { -size } else { size }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lengths are PostgreSQL's own answers; tests/it/writing.rs asks it about more.
    #[test]
    fn lengths_are_those_that_postgresql_prints() {
        for (text, len) in [
            ("{}", 2),
            ("[ ]", 2),
            ("{\"a\":[1,2]}", r#"{"a": [1, 2]}"#.len()),
            (r#""\u00e9\u20ac\ud83d\ude00\/""#, "\"é€😀/\"".len()),
            (r#""\u0001\u0022\b\n""#, r#""\u0001\"\b\n""#.len()),
            ("\"é\\\\u0000\"", "\"é\\\\u0000\"".len()),
            ("1e3", 4),
            ("-1.50e1", 5),
            ("12e-4", 6),
            ("-0.0", 3),
            ("0e7", 1),
            ("0.001e3", 1),
            ("true", 4),
        ] {
            assert_eq!(printed_len(text), Ok(len), "{text}");
        }
    }

    #[test]
    fn what_jsonb_does_not_take_is_found() {
        for (text, problem) in [
            (r#""a\u0000""#, Problem::Nul),
            (r#"{"\u0000":1}"#, Problem::Nul),
            (r#""\ud800""#, Problem::HalfPair),
            (r#""\ud800\u0041""#, Problem::HalfPair),
            (r#""\udc00""#, Problem::HalfPair),
            ("1e131072", Problem::Number),
            ("1e-16384", Problem::Number),
            ("1e99999999999999999999", Problem::Number),
            (&"[".repeat(1001), Problem::TooDeep),
        ] {
            assert_eq!(printed_len(text), Err(problem), "{text}");
        }
        for good in ["1e131071", "1e-16383", r#""\\u0000""#, &"[]".repeat(2000)] {
            assert!(printed_len(good).is_ok(), "{good}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_is_too_much(text in "[\\[\\]{}:,\"\\\\ue0-9.+ -]{0,40}|\\PC{0,40}") {
            let _ = printed_len(&text);
        }
    }
}
