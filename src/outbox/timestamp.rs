//! PostgreSQL's timestamps as text, which every session of ours pins to ISO form and UTC.

/// Appends `text` in the form of RFC 3339: `2026-11-21 06:00:00.5+00` → `2026-11-21T06:00:00.5Z`.
pub(super) fn write_rfc3339(text: &str, out: &mut Vec<u8>) {
    rfc3339(text, |part| out.extend_from_slice(part.as_bytes()));
}

/// The same, part by part.
///
/// A timestamp without time zone is taken to be UTC. What RFC 3339 cannot say (`infinity`, years
/// before Christ) is given as PostgreSQL prints it.
pub(super) fn rfc3339(text: &str, mut push: impl FnMut(&str)) {
    let Some((date, time)) = text.split_once(' ').filter(|(_, time)| !time.contains(' ')) else {
        push(text);
        return;
    };
    push(date);
    push("T");
    match time.find(['+', '-']) {
        None => {
            push(time);
            push("Z");
        }
        Some(at) => {
            let (clock, offset) = time.split_at(at);
            push(clock);
            match offset {
                "+00" => push("Z"),
                _ => {
                    // A payload may write +0530.
                    let (hours, minutes) = offset.split_at_checked(3).unwrap_or((offset, ""));
                    push(hours);
                    if !minutes.starts_with(':') {
                        push(":");
                    }
                    push(if minutes.is_empty() { "00" } else { minutes });
                }
            }
        }
    }
}

/// The moment that `text` names, in microseconds since 1970; none if it is not a plain one. The form
/// of RFC 3339 is what payloads say it in.
pub(super) fn micros(text: &str) -> Option<i64> {
    let (clock, offset) = without_offset(text)?;
    let (seconds, fraction) = clock.split_once('.').unwrap_or((clock, ""));
    let [year, month, day, hour, minute, second] = fields(seconds)?;
    let mut micros = 0;
    if !fraction.is_empty() {
        let is_number = fraction.bytes().all(|byte| byte.is_ascii_digit());
        // What is finer is left out.
        let fraction = fraction.get(..6).unwrap_or(fraction);
        let digits: i64 = fraction.parse().ok().filter(|_| is_number)?;
        micros = digits * 10i64.pow(6u32.checked_sub(u32::try_from(fraction.len()).ok()?)?);
    }
    let days = days_since_1970(year, month, day);
    let minutes = (days * 24 + hour) * 60 + minute - offset.unwrap_or(0);
    let seconds = minutes * 60 + second;
    Some(seconds * 1_000_000 + micros)
}

/// A moment in the form that PostgreSQL would give it: `2026-11-21T06:00:00.5Z` →
/// `2026-11-21 06:00:00.5+00`; none if it is not a plain one.
pub(super) fn in_postgresql_s_form(text: &str) -> Option<String> {
    micros(text)?;
    let (clock, offset) = without_offset(text)?;
    let clock = clock.replacen('T', " ", 1);
    Some(match offset {
        None => clock,
        Some(0) => format!("{clock}+00"),
        Some(ahead) => {
            let (sign, ahead) = (if ahead < 0 { '-' } else { '+' }, ahead.abs());
            format!("{clock}{sign}{:02}:{:02}", ahead / 60, ahead % 60)
        }
    })
}

/// What stands before `Z`, `+00`, `-08:00` or `+0530`, and how many minutes that is ahead of UTC.
fn without_offset(text: &str) -> Option<(&str, Option<i64>)> {
    const SECONDS_END: usize = 19;
    if let Some(clock) = text.strip_suffix('Z') {
        return Some((clock, Some(0)));
    }
    let sign = text.get(SECONDS_END..).and_then(|rest| rest.find(['+', '-']));
    let Some((clock, offset)) = sign.map(|at| text.split_at(SECONDS_END + at)) else {
        return Some((text, None));
    };
    let digit = |byte: u8| byte.is_ascii_digit().then(|| i64::from(byte - b'0'));
    let (sign, minutes) = match *offset.as_bytes() {
        [sign, a, b] => (sign, [a, b, b'0', b'0']),
        [sign, a, b, c, d] | [sign, a, b, b':', c, d] => (sign, [a, b, c, d]),
        _ => return None,
    };
    let [a, b, c, d] = minutes.map(digit);
    let minutes = (a? * 10 + b?) * 60 + c? * 10 + d?;
    Some((clock, Some(if sign == b'-' { -minutes } else { minutes })))
}

/// `2026-11-21 06:00:00` in numbers.
fn fields(text: &str) -> Option<[i64; 6]> {
    let digit = |byte: u8| byte.is_ascii_digit().then(|| i64::from(byte - b'0'));
    let two = |tens: u8, ones: u8| Some(digit(tens)? * 10 + digit(ones)?);
    match text.as_bytes() {
        &[a, b, c, d, b'-', e, f, b'-', g, h, b' ' | b'T', i, j, b':', k, l, b':', m, n] => {
            let year = two(a, b)? * 100 + two(c, d)?;
            Some([year, two(e, f)?, two(g, h)?, two(i, j)?, two(k, l)?, two(m, n)?])
        }
        _ => None,
    }
}

/// Days from 1970-01-01 in the proleptic Gregorian calendar: years begin in March, so that the
/// leap day comes last.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = year * 365 + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    days + day_of_year - 719_468
}

/// When something is due, in microseconds since 1970; none if that cannot be read. What nobody lives
/// to see is the end of time.
pub(super) fn due(text: &str) -> Option<i64> {
    let is_far = |year: &str| year.len() > 4 && year.bytes().all(|byte| byte.is_ascii_digit());
    match text {
        "-infinity" => Some(i64::MIN),
        "infinity" => Some(i64::MAX),
        _ if text.ends_with(" BC") => Some(i64::MIN),
        _ if text.split_once('-').is_some_and(|(year, _)| is_far(year)) => Some(i64::MAX),
        _ => micros(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rfc3339(text: &str) -> String {
        let mut out = Vec::new();
        write_rfc3339(text, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn both_kinds_of_timestamps_become_rfc_3339() {
        for (postgres, expected) in [
            ("2026-11-21 06:00:00.123456+00", "2026-11-21T06:00:00.123456Z"),
            ("2026-11-21 06:00:00+00", "2026-11-21T06:00:00Z"),
            ("2026-11-21 06:00:00.5", "2026-11-21T06:00:00.5Z"),
            ("2026-11-21 06:00:00+05:30", "2026-11-21T06:00:00+05:30"),
            ("2026-11-21 06:00:00-08", "2026-11-21T06:00:00-08:00"),
            ("2026-11-21 06:00:00+0530", "2026-11-21T06:00:00+05:30"),
            ("infinity", "infinity"),
            ("0044-03-15 12:00:00+00 BC", "0044-03-15 12:00:00+00 BC"),
        ] {
            assert_eq!(rfc3339(postgres), expected);
        }
    }

    #[test]
    fn moments_of_iso_8601_take_postgresql_s_form() {
        for (given, expected) in [
            ("2026-11-21T06:00:00Z", "2026-11-21 06:00:00+00"),
            ("2026-11-21T06:00:00.123456789Z", "2026-11-21 06:00:00.123456789+00"),
            ("2026-11-21T06:00:00.5+00:00", "2026-11-21 06:00:00.5+00"),
            ("2026-11-21T06:00:00-08:30", "2026-11-21 06:00:00-08:30"),
            ("2026-11-21T06:00:00+0530", "2026-11-21 06:00:00+05:30"),
            ("2026-11-21 06:00:00.5+00", "2026-11-21 06:00:00.5+00"),
            ("2026-11-21T06:00:00", "2026-11-21 06:00:00"),
        ] {
            assert_eq!(in_postgresql_s_form(given).as_deref(), Some(expected), "{given}");
        }
        for text in ["", "now", "2026-11-21", "2026-11-21T06:00:00\"Z", "2026-11-21T06:00:00+0\""] {
            assert_eq!(in_postgresql_s_form(text), None, "{text}");
        }
    }

    #[test]
    fn moments_are_counted_from_1970() {
        for (text, expected) in [
            ("1970-01-01 00:00:00+00", 0),
            ("1969-12-31 23:59:59.999999", -1),
            ("2000-01-01 00:00:00+00", crate::pgoutput::POSTGRES_EPOCH_MICROS),
            ("2000-02-29 00:00:00.5+00", 951_782_400_500_000),
            ("2024-12-31 23:59:59+00", 1_735_689_599_000_000),
            ("2000-01-01T00:00:00Z", crate::pgoutput::POSTGRES_EPOCH_MICROS),
            ("2000-02-29T00:00:00.5Z", 951_782_400_500_000),
            ("2000-02-29T00:00:00.500000999+00:00", 951_782_400_500_000),
            ("2026-11-21 06:00:00+05:30", 1_795_221_000_000_000),
            ("2026-11-21T06:00:00.5-0800", 1_795_269_600_500_000),
            ("2026-11-21 06:00:00+02", 1_795_233_600_000_000),
            ("0001-01-01 00:00:00+00", -62_135_596_800_000_000),
        ] {
            assert_eq!(micros(text), Some(expected), "{text}");
        }
        for text in [
            "",
            "infinity",
            "2026-11-21",
            "12026-01-01 00:00:00",
            "2026-11-21 06:00:00+5",
            "2026-11-21 06:00:00+05:3x",
            "2026-11-21 06:00:00.+5",
            "2026-11-21 06:00:00.5é",
            "2026-11-21 06:00:00éé+00",
        ] {
            assert_eq!(micros(text), None, "{text}");
        }
    }

    #[test]
    fn a_due_time_is_a_moment_or_the_beginning_or_the_end_of_time() {
        let moment = 1_795_240_800_000_000; // 2026-11-21 06:00:00 UTC
        for (text, expected) in [
            ("2026-11-21 06:00:00+00", Some(moment)),
            ("2026-11-21 06:00:00.000001", Some(moment + 1)),
            ("2026-11-21T06:00:00Z", Some(moment)),
            ("infinity", Some(i64::MAX)),
            ("-infinity", Some(i64::MIN)),
            ("0044-03-15 12:00:00+00 BC", Some(i64::MIN)),
            ("294276-12-31 23:59:59+00", Some(i64::MAX)),
            ("2026-11-21 06:00:00.+5+00", None),
            ("soon-ish", None),
            ("", None),
        ] {
            assert_eq!(due(text), expected, "{text}");
        }
    }
}
