//! The two forms of `/metrics`: OpenMetrics for who asks for it, as Prometheus does, else the older
//! text form.
//!
//! The recorder writes the older form. OpenMetrics names a counter's family without `_total`, wants
//! bounds written as floats, has no empty lines, and ends with a mark, so that what was cut off is
//! known to be.

use std::fmt::Write as _;

use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};

const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What was rendered, in the form that is asked for.
pub(super) fn answer(headers: &HeaderMap, rendered: String) -> Response {
    let accepts = headers.get_all(header::ACCEPT);
    let accepted: Vec<&str> = accepts.iter().filter_map(|value| value.to_str().ok()).collect();
    let (form, body) = if wants_openmetrics(&accepted.join(",")) {
        (OPENMETRICS, openmetrics(&rendered))
    } else {
        (TEXT, rendered)
    };
    ([(header::CONTENT_TYPE, form), (header::VARY, "accept")], body).into_response()
}

/// Whether somebody asks for OpenMetrics by name, and for nothing of ours more than for that.
fn wants_openmetrics(accepted: &str) -> bool {
    let (mut openmetrics, mut text) = (0.0f64, 0.0f64);
    for range in accepted.split(',') {
        let mut parts = range.split(';').map(str::trim);
        let media = parts.next().unwrap_or_default().to_ascii_lowercase();
        let (mut weight, mut is_ours) = (1.0, true);
        for part in parts {
            match part.split_once('=').map(|(name, value)| (name.trim(), value.trim())) {
                Some((name, value)) if name.eq_ignore_ascii_case("q") => {
                    weight = value.parse().unwrap_or(0.0);
                }
                Some((name, value)) if name.eq_ignore_ascii_case("version") => {
                    let value = value.trim_matches('"');
                    is_ours = ["1.0.0", "1.0", "1", "0.0.4"].contains(&value);
                }
                _ => {}
            }
        }
        match media.as_str() {
            "application/openmetrics-text" if is_ours => openmetrics = openmetrics.max(weight),
            "text/plain" if is_ours => text = text.max(weight),
            _ => {}
        }
    }
    openmetrics > 0.0 && openmetrics >= text
}

/// The same metrics as OpenMetrics 1.0. What ends in `_total` is a counter, and nothing else is.
fn openmetrics(text: &str) -> String {
    let mut written = String::with_capacity(text.len() + 64);
    for line in text.lines().filter(|line| !line.is_empty()) {
        // Writing to memory cannot fail.
        let _ = if let Some((name, help)) = described(line, "# HELP ") {
            writeln!(written, "# HELP {name} {}", help.replace('"', "\\\""))
        } else if let Some((name, kind)) = described(line, "# TYPE ") {
            writeln!(written, "# TYPE {name} {kind}")
        } else if let Some((start, bound, end)) = bound(line) {
            writeln!(written, "{start}{bound}.0{end}")
        } else {
            writeln!(written, "{line}")
        };
    }
    written.push_str("# EOF\n");
    written
}

/// The family that a line tells of, and what it tells.
fn described<'a>(line: &'a str, mark: &str) -> Option<(&'a str, &'a str)> {
    let (name, told) = line.strip_prefix(mark)?.split_once(' ')?;
    Some((name.strip_suffix("_total").unwrap_or(name), told))
}

/// A bucket's bound that is written as an integer, and what is around it. It is the last label.
fn bound(line: &str) -> Option<(&str, &str, &str)> {
    let (start, end) = line.split_at_checked(line.rfind("le=\"")? + "le=\"".len())?;
    let (bound, end) = end.split_at_checked(end.find('"')?)?;
    let is_integer = !bound.is_empty() && bound.bytes().all(|byte| byte.is_ascii_digit());
    is_integer.then_some((start, bound, end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openmetrics_is_for_who_asks_for_it() {
        let prometheus = "application/openmetrics-text;version=1.0.0,\
                          application/openmetrics-text;version=0.0.1;q=0.75,\
                          text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        for (accepted, wanted) in [
            (prometheus, true),
            ("application/openmetrics-text", true),
            ("Application/OpenMetrics-Text; charset=utf-8; version=\"1.0.0\"", true),
            ("application/openmetrics-text;q=0.4, text/plain;q=0.5", false),
            ("application/openmetrics-text; Q=0", false),
            ("application/openmetrics-text; version=0.0.1", false),
            ("application/openmetrics-text; version=2.0.0, text/plain", false),
            ("text/plain; version=0.0.4", false),
            ("*/*", false),
            ("", false),
        ] {
            assert_eq!(wants_openmetrics(accepted), wanted, "{accepted}");
        }
    }

    #[test]
    fn families_bounds_and_the_end_are_as_openmetrics_wants_them() {
        let text = "# HELP events_total Events that are \"settled\".\n\
                    # TYPE events_total counter\n\
                    events_total{status=\"sent\"} 7\n\
                    \n\
                    # TYPE outbox_new_count gauge\n\
                    outbox_new_count 0\n\
                    \n\
                    # TYPE took histogram\n\
                    took_bucket{stage=\"settle\",le=\"0.5\"} 1\n\
                    took_bucket{stage=\"settle\",le=\"10\"} 1\n\
                    took_bucket{stage=\"settle\",le=\"+Inf\"} 1\n\
                    took_sum{stage=\"settle\"} 0.25\n\
                    took_count{stage=\"settle\"} 1\n\n";
        let expected = "# HELP events Events that are \\\"settled\\\".\n\
                        # TYPE events counter\n\
                        events_total{status=\"sent\"} 7\n\
                        # TYPE outbox_new_count gauge\n\
                        outbox_new_count 0\n\
                        # TYPE took histogram\n\
                        took_bucket{stage=\"settle\",le=\"0.5\"} 1\n\
                        took_bucket{stage=\"settle\",le=\"10.0\"} 1\n\
                        took_bucket{stage=\"settle\",le=\"+Inf\"} 1\n\
                        took_sum{stage=\"settle\"} 0.25\n\
                        took_count{stage=\"settle\"} 1\n\
                        # EOF\n";
        assert_eq!(openmetrics(text), expected);
    }
}
