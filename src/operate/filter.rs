//! Which of the held events are meant.

use std::time::SystemTime;

use data_encoding::HEXLOWER_PERMISSIVE;

use crate::failure::{Code, Failure};
use crate::status::Reason;

/// How many are listed where nobody says how many.
pub const LISTED: u32 = 1_000;
/// The most that are listed, or acted on, at once.
pub const MOST: u32 = 100_000;

/// As in `outboxd.held_event`.
pub(super) fn names(reasons: &[Reason]) -> Vec<&'static str> {
    reasons.iter().map(|reason| reason.name()).collect()
}

/// Conditions on held events; all of them must hold, and one that is not set always does.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Filter {
    /// One of these ids.
    pub ids: Vec<String>,
    /// This topic.
    pub topic: Option<String>,
    /// This key: its text, or `\x` and its bytes in hexadecimal.
    pub key: Option<String>,
    /// This reason.
    pub reason: Option<Reason>,
    /// This event type.
    pub event_type: Option<String>,
    /// This error code, as in OBX-4004.
    pub error: Option<String>,
    /// This text in its id, type, topic, error or the error's code, in any case, or in its key.
    pub search: Option<String>,
    /// Behind this ordinal, in the order of reading.
    pub after: Option<i64>,
    /// Held since this moment or a later one.
    pub since: Option<SystemTime>,
    /// Held since an earlier moment.
    pub before: Option<SystemTime>,
    /// At most so many, in the order of reading.
    pub limit: Option<u32>,
}

impl Filter {
    /// Whether every event is meant.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Checks that somebody said what is meant: events by their ids, or conditions, or `all`.
    ///
    /// # Errors
    /// Nobody did, or it was said twice.
    pub fn check(&self, all: bool) -> Result<(), Failure> {
        let conditions = Self { ids: Vec::new(), ..self.clone() };
        let ways = [!self.ids.is_empty(), !conditions.is_empty(), all];
        match ways.into_iter().filter(|said| *said).count() {
            1 => Ok(()),
            0 => Err(refused("say what is meant: ids, conditions, or all")),
            _ => Err(refused("ids, conditions, or all: only one of them")),
        }
    }

    /// Sets a condition by its name, as flags and queries write it; false if there is none of that
    /// name.
    ///
    /// # Errors
    /// What is wrong with the value.
    pub fn set(&mut self, name: &str, value: &str) -> Result<bool, Failure> {
        let wrong = |reason: String| {
            Failure::new(Code::RequestRefused, format!("{name} \"{value}\": {reason}"))
        };
        let text = || Some(value.to_owned());
        match name {
            "id" | "ids" => self.ids.push(value.to_owned()),
            "topic" => self.topic = text(),
            "key" => self.key = text(),
            "reason" => self.reason = Some(value.parse().map_err(wrong)?),
            "type" => self.event_type = text(),
            "error" => self.error = text(),
            "search" => self.search = text().filter(|text| !text.is_empty()),
            "after" => {
                let ordinal = value.parse().map_err(|_| wrong("expected an ordinal".to_owned()))?;
                self.after = Some(ordinal);
            }
            "since" => self.since = Some(moment(value).map_err(wrong)?),
            "before" => self.before = Some(moment(value).map_err(wrong)?),
            "limit" => {
                let number = value.parse().ok().filter(|number| *number <= MOST);
                let number =
                    number.ok_or_else(|| wrong(format!("expected a number up to {MOST}")))?;
                self.limit = Some(number);
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// What a key that is written so can be.
    pub(super) fn keys(&self) -> Option<Vec<Vec<u8>>> {
        let text = self.key.as_ref()?;
        let digits = text.strip_prefix("\\x");
        let bytes = digits.and_then(|digits| HEXLOWER_PERMISSIVE.decode(digits.as_bytes()).ok());
        Some(bytes.into_iter().chain([text.as_bytes().to_owned()]).collect())
    }
}

fn refused(text: &str) -> Failure {
    Failure::new(Code::RequestRefused, text)
}

/// A key as people read it.
pub(super) fn readable(key: Vec<u8>) -> String {
    String::from_utf8(key)
        .unwrap_or_else(|error| format!("\\x{}", data_encoding::HEXLOWER.encode(error.as_bytes())))
}

/// A time as people write it: `2026-03-01`, `2026-03-01T12:00:00Z`, or how long ago, as in `90m`.
fn moment(text: &str) -> Result<SystemTime, String> {
    let at = humantime::parse_rfc3339_weak(text).ok();
    let at = at.or_else(|| humantime::parse_rfc3339(&format!("{text}T00:00:00Z")).ok());
    let ago = || SystemTime::now().checked_sub(humantime::parse_duration(text).ok()?);
    at.or_else(ago).ok_or_else(|| {
        "expected a time, as in 2026-03-01T12:00:00Z, or how long ago, as in 90m".to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_key_is_text_or_bytes() {
        let keys = |key: &str| Filter { key: Some(key.to_owned()), ..Filter::default() }.keys();
        assert_eq!(keys("o-1"), Some(vec![b"o-1".to_vec()]));
        assert_eq!(keys("\\xFf00"), Some(vec![vec![255, 0], b"\\xFf00".to_vec()]));
        assert_eq!(keys("\\xyz"), Some(vec![b"\\xyz".to_vec()]));
        assert_eq!(readable(vec![255, 0]), "\\xff00");
        assert_eq!(readable(b"o-1".to_vec()), "o-1");
    }

    #[test]
    fn a_moment_is_a_time_or_how_long_ago() {
        let at = humantime::parse_rfc3339("2026-03-01T12:00:00Z").unwrap();
        assert_eq!(moment("2026-03-01T12:00:00Z"), Ok(at));
        assert_eq!(moment("2026-03-01 12:00:00"), Ok(at));
        assert_eq!(moment("2026-03-01"), Ok(at - Duration::from_secs(12 * 3600)));
        let at = moment("1h 30m").unwrap();
        let ago = SystemTime::now().duration_since(at).unwrap();
        assert!((5400..5410).contains(&ago.as_secs()));
        for wrong in ["", "yesterday", "12:00", "2026-13-01"] {
            assert!(moment(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn conditions_are_set_by_name() {
        let mut filter = Filter::default();
        assert!(filter.is_empty() && filter.check(true).is_ok() && filter.check(false).is_err());
        for (name, value) in [("topic", "t"), ("reason", "dead"), ("limit", "5"), ("id", "a")] {
            assert_eq!(filter.set(name, value), Ok(true));
        }
        assert_eq!((filter.reason, filter.limit), (Some(Reason::Dead), Some(5)));
        assert!(!filter.is_empty());
        assert_eq!(filter.set("colour", "red"), Ok(false));
        assert!(filter.check(false).is_err(), "ids and conditions");
        for (name, value) in [
            ("reason", "lost"),
            ("limit", "-1"),
            ("limit", "100001"),
            ("since", "soon"),
            ("after", "x"),
        ] {
            assert_eq!(filter.set(name, value).unwrap_err().code, Code::RequestRefused, "{name}");
        }
    }
}
