//! How Debezium shows a column's values, by the column's type.

use data_encoding::BASE64;

use super::super::columns::{Kind, LayoutColumn};
use super::super::json::is_json;
use super::super::timestamp;
use super::java::write_java_string;
use super::payload::decode_hex;

/// The form of a value; JSON needs quotes for some.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::outbox) enum Shown {
    /// As PostgreSQL prints it.
    Text,
    /// The same, without quotes.
    Number,
    /// As Java prints a `double`.
    Float,
    /// `true` and `false`.
    Boolean,
    /// `2026-11-21T06:00:00.500000Z`
    Utc,
    /// Microseconds since 1970.
    Micros,
    /// Milliseconds since 1970.
    Millis,
    /// Days since 1970.
    Days,
    /// Microseconds since midnight.
    TimeOfDay,
    /// Bytes, in base64.
    Bytes,
}

/// PostgreSQL's OIDs of `date`, `time`, `real` and `double precision`.
const DATE: u32 = 1082;
const TIME: u32 = 1083;
const FLOATS: [u32; 2] = [700, 701];

impl Shown {
    pub(in crate::outbox) fn of(column: Option<&LayoutColumn>) -> Self {
        let Some(column) = column else {
            return Shown::Text;
        };
        // As SQL writes it, `timestamp(3) without time zone`.
        let is_coarse = || (0..=3).any(|digits| column.type_name.contains(&format!("({digits})")));
        match (column.kind, column.type_oid) {
            (Kind::Integer, _) => Shown::Number,
            (Kind::Boolean, _) => Shown::Boolean,
            (Kind::TimestampTz, _) => Shown::Utc,
            (Kind::Timestamp, _) if is_coarse() => Shown::Millis,
            (Kind::Timestamp, _) => Shown::Micros,
            (Kind::Bytes, _) => Shown::Bytes,
            (_, DATE) => Shown::Days,
            (_, TIME) => Shown::TimeOfDay,
            (_, oid) if FLOATS.contains(&oid) => Shown::Float,
            _ => Shown::Text,
        }
    }

    /// Whether it is nothing but PostgreSQL's text.
    pub(super) fn is_plain(self) -> bool {
        matches!(self, Shown::Text | Shown::Number)
    }

    /// Appends a value as text.
    pub(in crate::outbox) fn push_text(self, value: &str, out: &mut String) {
        let number = match self {
            Shown::Text | Shown::Number => return out.push_str(value),
            Shown::Boolean => return out.push_str(if value == "t" { "true" } else { "false" }),
            Shown::Float => return push_float(value, out),
            Shown::Utc => return push_instant(value, out),
            Shown::Bytes => {
                let mut bytes = Vec::new();
                return match decode_hex(value.as_bytes(), &mut bytes) {
                    Ok(()) => out.push_str(&BASE64.encode(&bytes)),
                    Err(_) => out.push_str(value),
                };
            }
            Shown::Micros => timestamp::micros(value),
            Shown::Millis => timestamp::micros(value).map(|micros| micros.div_euclid(1000)),
            Shown::Days => timestamp::micros(&format!("{value} 00:00:00"))
                .map(|micros| micros.div_euclid(86_400_000_000)),
            Shown::TimeOfDay => timestamp::micros(&format!("1970-01-01 {value}")),
        };
        match number {
            Some(number) => out.push_str(&number.to_string()),
            // Such as infinity.
            None => out.push_str(value),
        }
    }

    /// Appends a value as JSON.
    pub(in crate::outbox) fn push_json(self, value: &str, out: &mut String) {
        let mut text = String::new();
        self.push_text(value, &mut text);
        let is_string = matches!(self, Shown::Text | Shown::Utc | Shown::Bytes);
        // What is no JSON by itself, such as NaN, is a string, too.
        if is_string || !is_json(text.as_bytes()) {
            let mut json = Vec::new();
            write_java_string(&text, &mut json);
            text = String::from_utf8(json).unwrap_or_default();
        }
        out.push_str(&text);
    }
}

/// With six digits of a second.
fn push_instant(value: &str, out: &mut String) {
    let start = out.len();
    timestamp::rfc3339(value, |part| out.push_str(part));
    let instant = out.get(start..).unwrap_or_default();
    let Some(clock) = instant.strip_suffix('Z').filter(|_| timestamp::micros(value).is_some())
    else {
        return;
    };
    let digits = clock.split_once('.').map_or(0, |(_, fraction)| fraction.len());
    let point = if digits == 0 { "." } else { "" };
    let zeros = "000000".get(digits.min(6)..).unwrap_or_default();
    out.pop();
    for part in [point, zeros, "Z"] {
        out.push_str(part);
    }
}

/// `Double.toString`: a point always, and powers of ten outside 10^-3 to 10^7.
fn push_float(value: &str, out: &mut String) {
    let (sign, number) = value.strip_prefix('-').map_or(("", value), |rest| ("-", rest));
    let (mantissa, power) = number.split_once('e').unwrap_or((number, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{fraction}");
    let is_number = !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit());
    let (Ok(power), true) = (power.parse::<i32>(), is_number) else {
        // NaN and Infinity are called the same.
        return out.push_str(value);
    };
    let significant = digits.trim_start_matches('0');
    let leading = digits.len() - significant.len();
    out.push_str(sign);
    if significant.is_empty() {
        return out.push_str("0.0");
    }
    // The number is 0.<significant> x 10^point.
    let point =
        i32::try_from(whole.len()).unwrap_or(0) - i32::try_from(leading).unwrap_or(0) + power;
    let significant = match significant.trim_end_matches('0') {
        "" => "0",
        trimmed => trimmed,
    };
    let (head, tail, power) = if (-2..=7).contains(&point) {
        let zeros = usize::try_from(-point).unwrap_or(0);
        let padded = format!("{}{significant}", "0".repeat(zeros));
        let at = usize::try_from(point).unwrap_or(0);
        let padded = format!("{padded:0<at$}");
        (
            padded.get(..at).unwrap_or_default().to_owned(),
            padded.get(at..).unwrap_or_default().to_owned(),
            None,
        )
    } else {
        let (head, tail) = significant.split_at(1);
        (head.to_owned(), tail.to_owned(), Some(point - 1))
    };
    out.push_str(if head.is_empty() { "0" } else { &head });
    out.push('.');
    out.push_str(if tail.is_empty() { "0" } else { &tail });
    if let Some(power) = power {
        out.push('E');
        out.push_str(&power.to_string());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(shown: Shown, value: &str) -> String {
        let mut out = String::new();
        shown.push_text(value, &mut out);
        out
    }

    #[test]
    fn floats_are_javas() {
        for (postgres, java) in [
            ("1.5", "1.5"),
            ("0.1", "0.1"),
            ("-0", "-0.0"),
            ("0", "0.0"),
            ("42", "42.0"),
            ("1e-07", "1.0E-7"),
            ("1e+21", "1.0E21"),
            ("0.001", "0.001"),
            ("0.0001234", "1.234E-4"),
            ("9999999", "9999999.0"),
            ("10000000", "1.0E7"),
            ("12345678.9", "1.23456789E7"),
            ("-1.25e-10", "-1.25E-10"),
            ("1234560", "1234560.0"),
            ("NaN", "NaN"),
            ("-Infinity", "-Infinity"),
        ] {
            assert_eq!(text(Shown::Float, postgres), java, "{postgres}");
        }
    }

    #[test]
    fn times_are_counted_or_in_full() {
        assert_eq!(text(Shown::Utc, "2026-11-20 20:19:00+00"), "2026-11-20T20:19:00.000000Z");
        assert_eq!(text(Shown::Utc, "2026-11-20 20:19:00.5+00"), "2026-11-20T20:19:00.500000Z");
        assert_eq!(text(Shown::Utc, "infinity"), "infinity");
        assert_eq!(text(Shown::Micros, "1969-12-31 23:59:59"), "-1000000");
        assert_eq!(text(Shown::Millis, "2019-03-24 20:52:59.123"), "1553460779123");
        assert_eq!(text(Shown::Days, "1969-12-31"), "-1");
        assert_eq!(text(Shown::TimeOfDay, "20:52:59.5"), "75179500000");
        assert_eq!(text(Shown::Bytes, "\\x00ff10"), "AP8Q");
    }
}
