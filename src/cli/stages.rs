//! The status as people read it: the stages that an event passes, and what is in its way.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use serde_json::Value;

use crate::terminal::{Bytes, Grouped, Millis};

/// A document of `outboxd status`, read leniently: another version's may lack something.
struct Document<'a>(&'a Value);

impl<'a> Document<'a> {
    fn text(&self, pointer: &str) -> Option<&'a str> {
        self.0.pointer(pointer)?.as_str().filter(|text| !text.is_empty())
    }

    fn number(&self, pointer: &str) -> Option<f64> {
        self.0.pointer(pointer)?.as_f64()
    }

    fn word(&self, pointer: &str) -> &'a str {
        self.text(pointer).unwrap_or("-")
    }

    fn count(&self, pointer: &str) -> String {
        let count = self.0.pointer(pointer).and_then(Value::as_u64);
        count.map_or("-".to_owned(), |count| Grouped(count).to_string())
    }

    fn bytes(&self, pointer: &str) -> Bytes {
        Bytes(self.number(pointer))
    }

    /// Events per second.
    fn events(&self, pointer: &str) -> String {
        let rate = self.number(pointer).and_then(|rate| Duration::try_from_secs_f64(rate).ok());
        rate.map_or("-".to_owned(), |rate| {
            let rounded = rate + Duration::from_millis(500);
            format!("{}/s", Grouped(rounded.as_secs()))
        })
    }

    /// Bytes of WAL per second.
    fn flow(&self, pointer: &str) -> String {
        self.number(pointer).map_or("-".to_owned(), |rate| format!("{}/s", Bytes(Some(rate))))
    }

    fn seconds(&self, pointer: &str) -> String {
        self.number(pointer).map_or("-".to_owned(), |seconds| format!("{seconds:.3} s"))
    }

    fn latency(&self, pointer: &str) -> Millis {
        Millis(self.number(pointer).and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()))
    }

    /// How much WAL can be written, and for how long that lasts at the current rate.
    fn limit(&self) -> String {
        let Some(safe) = self.number("/slot/safe_wal_bytes") else {
            let unlimited = self.text("/slot/wal_status").is_some_and(|status| status != "lost");
            return if unlimited { "no limit of WAL" } else { "-" }.to_owned();
        };
        let lasts = self.number("/slot/seconds_until_limit");
        let lasts =
            lasts.map_or(String::new(), |seconds| format!(", {} at this rate", hours(seconds)));
        format!("{} left{lasts}", Bytes(Some(safe.max(0.0))))
    }

    fn paused_topics(&self) -> Vec<&'a str> {
        let topics = self.0.pointer("/paused_topics").and_then(Value::as_array);
        topics.into_iter().flatten().filter_map(Value::as_str).collect()
    }
}

fn hours(seconds: f64) -> String {
    let hours = seconds / 3600.0;
    match hours {
        0.0..1.0 => format!("{:.0} min", seconds / 60.0),
        1.0..48.0 => format!("{hours:.1} h"),
        _ if hours < 24_000.0 => format!("{:.0} days", hours / 24.0),
        _ => "more than 1000 days".to_owned(),
    }
}

/// Where the text of a row begins.
const INDENT: usize = 11;

/// The whole of it, as a block of lines. What is long goes on below where a line has only `width`.
pub(super) fn page(document: &Value, width: usize) -> String {
    let status = Document(document);
    let mut page = String::new();
    let mut row = |name: &str, text: String| {
        let text = wrap(&text, width.saturating_sub(INDENT));
        // Writing to memory cannot fail.
        let _ = writeln!(page, "{name:<INDENT$}{text}");
    };
    row("relay", status.word("/relay").to_owned());
    row("state", status.word("/state").to_owned());
    let stage = |rate: String, what: String| format!("{rate:>14}  {what}");
    row("WAL", stage(status.flow("/rates/wal_bytes"), "written by the server".to_owned()));
    row("→ decode", stage(status.events("/rates/read"), "read".to_owned()));
    let in_flight = format!(
        "published; in flight {} events, {}",
        status.count("/in_flight/events"),
        status.bytes("/in_flight/bytes")
    );
    row("→ in flight", stage(status.events("/rates/published"), in_flight));
    row("→ status", stage(status.events("/rates/settled"), "settled".to_owned()));
    let behind = format!(
        "{}, {} behind",
        status.word("/slot/confirmed_lsn"),
        status.bytes("/slot/lag_bytes")
    );
    row("→ confirmed", stage(status.flow("/rates/confirmed_bytes"), behind));
    row(
        "lag",
        format!("{}, position {}", status.seconds("/lag_seconds"), status.word("/position")),
    );
    row(
        "latency",
        format!(
            "p50 {}, p99 {} from commit to acknowledgement",
            status.latency("/latency/p50_seconds"),
            status.latency("/latency/p99_seconds")
        ),
    );
    let held = ["retry", "parked", "topic", "scheduled", "dead"]
        .map(|reason| format!("{reason} {}", status.count(&format!("/held/{reason}"))));
    row("held", format!("{}; waiting keys {}", held.join(", "), status.count("/blocked_keys")));
    let active = match document.pointer("/slot/active").and_then(Value::as_bool) {
        Some(true) => "read",
        Some(false) => "not read",
        None => "-",
    };
    let (name, wal_status) = (status.word("/slot/name"), status.word("/slot/wal_status"));
    row("slot", format!("{name}: {active}, WAL {wal_status}, {}", status.limit()));
    let topics = status.paused_topics();
    if !topics.is_empty() {
        row("paused", format!("topics {}", topics.join(", ")));
    }
    if let Some(code) = status.text("/last_error/code") {
        row("error", format!("{code} {}", status.word("/last_error/message")));
        row("to do", status.word("/last_error/remedy").to_owned());
    }
    page
}

/// The words of a text on lines that begin where the first one does.
fn wrap(text: &str, width: usize) -> String {
    let mut wrapped = String::new();
    let mut used = 0;
    for (index, word) in text.split(' ').enumerate() {
        let takes = word.chars().count();
        if used > 0 && used + 1 + takes > width {
            wrapped.push('\n');
            wrapped.push_str(&" ".repeat(INDENT));
            used = 0;
        } else if index > 0 {
            wrapped.push(' ');
            used += 1;
        }
        wrapped.push_str(word);
        used += takes;
    }
    wrapped
}

/// The same as one line, with the time.
pub(super) fn line(document: &Value) -> String {
    let status = Document(document);
    let mut line = format!(
        "{} {}  WAL {}  read {}  published {}  settled {}  confirmed {}  in flight {}  lag {} {}  \
         p99 {}  held {}+{}+{}+{}+{}  blocked {}  slot {}, {}",
        humantime::format_rfc3339_seconds(SystemTime::now()),
        status.word("/state"),
        status.flow("/rates/wal_bytes"),
        status.events("/rates/read"),
        status.events("/rates/published"),
        status.events("/rates/settled"),
        status.flow("/rates/confirmed_bytes"),
        status.count("/in_flight/events"),
        status.seconds("/lag_seconds"),
        status.bytes("/slot/lag_bytes"),
        status.latency("/latency/p99_seconds"),
        status.count("/held/retry"),
        status.count("/held/parked"),
        status.count("/held/topic"),
        status.count("/held/scheduled"),
        status.count("/held/dead"),
        status.count("/blocked_keys"),
        status.word("/slot/wal_status"),
        status.limit(),
    );
    if let Some(code) = status.text("/last_error/code") {
        let _ = write!(line, "  {code} {}", status.word("/last_error/message"));
    }
    line = line.replace(['\n', '\r'], " ");
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn running() -> Value {
        json!({
            "relay": "orders", "state": "streaming", "position": "0/2000/1",
            "slot": {
                "name": "orders", "active": true, "wal_status": "extended",
                "confirmed_lsn": "0/1F00", "lag_bytes": 4_200, "safe_wal_bytes": 9_663_676_416_i64,
                "seconds_until_limit": 44_280.0,
            },
            "in_flight": {"events": 1234, "bytes": 1_258_291},
            "held": {"retry": 1, "parked": 3, "topic": 0, "scheduled": 12, "dead": 2},
            "blocked_keys": 1,
            "rates": {
                "read": 1234.4, "published": 1230.0, "settled": 1228.6,
                "wal_bytes": 1_258_291.2, "confirmed_bytes": 0.0,
            },
            "latency": {"p50_seconds": 0.00131, "p99_seconds": 0.0123},
            "lag_seconds": 0.012,
            "paused_topics": ["a", "b"],
            "last_error": {
                "code": "OBX-4002", "message": "topic x: the topic does not exist",
                "remedy": "create the topic; the relay sees it within seconds, and goes on where it was",
            },
        })
    }

    #[test]
    fn a_page_shows_the_stages_and_what_is_in_their_way() {
        let expected = "\
relay      orders
state      streaming
WAL             1.2 MiB/s  written by the server
→ decode          1,234/s  read
→ in flight       1,230/s  published; in flight 1,234 events, 1.2 MiB
→ status          1,229/s  settled
→ confirmed         0 B/s  0/1F00, 4.1 KiB behind
lag        0.012 s, position 0/2000/1
latency    p50 1.31 ms, p99 12.3 ms from commit to acknowledgement
held       retry 1, parked 3, topic 0, scheduled 12, dead 2; waiting keys 1
slot       orders: read, WAL extended, 9.0 GiB left, 12.3 h at this rate
paused     topics a, b
error      OBX-4002 topic x: the topic does not exist
to do      create the topic; the relay sees it within seconds, and goes on where
           it was
";
        assert_eq!(page(&running(), 80), expected);
    }

    #[test]
    fn a_line_has_the_same_in_short() {
        let line = line(&running());
        let (time, rest) = line.split_once(' ').unwrap();
        assert!(humantime::parse_rfc3339(time).is_ok(), "{time}");
        assert_eq!(
            rest,
            "streaming  WAL 1.2 MiB/s  read 1,234/s  published 1,230/s  settled 1,229/s  \
             confirmed 0 B/s  in flight 1,234  lag 0.012 s 4.1 KiB  p99 12.3 ms  held 1+3+0+12+2  \
             blocked 1  slot extended, 9.0 GiB left, 12.3 h at this rate  \
             OBX-4002 topic x: the topic does not exist\n"
        );
    }

    #[test]
    fn what_is_not_known_is_a_dash() {
        let nothing = json!({"state": "stopped", "rates": null, "slot": {"wal_status": null}});
        let page = page(&nothing, 80);
        assert!(page.contains("→ decode                -  read"), "{page}");
        assert!(page.contains("slot       -: -, WAL -, -\n"), "{page}");
        assert!(line(&nothing).contains("stopped  WAL -  read -"));
    }

    #[test]
    fn time_that_is_left_is_told_in_what_people_count() {
        for (seconds, text) in [
            (0.0, "0 min"),
            (1800.0, "30 min"),
            (7200.0, "2.0 h"),
            (864_000.0, "10 days"),
            (1e12, "more than 1000 days"),
        ] {
            assert_eq!(hours(seconds), text);
        }
    }
}
