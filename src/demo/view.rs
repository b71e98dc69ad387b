//! The demo's figures while it runs: redrawn in place on a terminal, else a line every second.

use std::io;
use std::time::Duration;

use super::proof::Tally;
use crate::relay::Latencies;
use crate::terminal::{Grouped, Millis, Screen};

/// What is shown at a moment.
#[derive(Debug, Clone, Default)]
pub(super) struct Figures {
    pub(super) elapsed: Duration,
    pub(super) tally: Tally,
    pub(super) sent: u64,
    /// Over the last second.
    pub(super) pace: Pace,
}

/// Events per second, and latency.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Pace {
    written: u64,
    delivered: u64,
    sent: u64,
    p50: Option<Duration>,
    p99: Option<Duration>,
}

impl Pace {
    /// From `before` to `now`, which are some time apart.
    pub(super) fn between(before: &Figures, now: &Figures, latencies: &Latencies) -> Self {
        let millis = (now.elapsed.saturating_sub(before.elapsed)).as_millis().max(1);
        let rate = |before: u64, now: u64| {
            let rate = u128::from(now.saturating_sub(before)) * 1000 / millis;
            u64::try_from(rate).unwrap_or(u64::MAX)
        };
        Self {
            written: rate(before.tally.written, now.tally.written),
            delivered: rate(before.tally.delivered, now.tally.delivered),
            sent: rate(before.sent, now.sent),
            p50: latencies.quantile(500),
            p99: latencies.quantile(990),
        }
    }
}

/// Where the figures are shown.
pub(super) struct View {
    out: Screen,
    title: String,
    /// For how long it is meant to go on.
    length: Duration,
}

/// A terminal is redrawn this often.
pub(super) const REDRAW: Duration = Duration::from_millis(200);
/// Rates are of this long, and so far apart are lines.
pub(super) const SECOND: Duration = Duration::from_secs(1);

impl View {
    /// A view on the standard output.
    pub(super) fn new(title: String, length: Duration) -> Self {
        Self { out: Screen::new(), title, length }
    }

    /// Shows figures: on a terminal whenever it is asked, else once a second.
    ///
    /// # Errors
    /// Nobody looks any more.
    pub(super) fn show(&mut self, figures: &Figures, is_next_second: bool) -> io::Result<()> {
        if self.out.is_terminal() {
            self.out.redraw(&screen(&self.title, self.length, figures))
        } else if is_next_second {
            self.out.write(&line(figures))
        } else {
            Ok(())
        }
    }

    /// Shows the last line.
    ///
    /// # Errors
    /// Nobody looks any more.
    pub(super) fn conclude(&mut self, text: &str) -> io::Result<()> {
        self.out.conclude(&format!("{text}\n"))
    }
}

/// The figures as a block of lines.
fn screen(title: &str, length: Duration, figures: &Figures) -> String {
    let Figures { elapsed, tally, sent, pace } = figures;
    let row = |name: &str, count: u64, rate: u64| {
        let (count, rate) = (Grouped(count).to_string(), Grouped(rate).to_string());
        format!("  {name:<9}{count:>11}{rate:>9}/s")
    };
    format!(
        "{title}, {} of {} s\n\n\
         {}\n\
         {}  out of order {}, duplicates {}, phantoms {}\n\
         {}\n  \
         {:<9}{:>11}{:>13}commit to consumer p50 {}, p99 {}\n\n",
        elapsed.min(&length).as_secs(),
        length.as_secs(),
        row("written", tally.written, pace.written),
        row("delivered", tally.delivered, pace.delivered),
        Grouped(tally.out_of_order),
        Grouped(tally.duplicates),
        Grouped(tally.phantoms),
        row("SENT", *sent, pace.sent),
        "lag",
        Grouped(tally.under_way()).to_string(),
        "",
        Millis(pace.p50),
        Millis(pace.p99),
    )
}

/// The figures as one line.
fn line(figures: &Figures) -> String {
    let Figures { elapsed, tally, sent, pace } = figures;
    format!(
        "{:>3} s  written {} ({}/s)  delivered {} ({}/s)  SENT {} ({}/s)  lag {}  p50 {}  p99 {}\n",
        (*elapsed + SECOND / 2).as_secs(),
        Grouped(tally.written),
        Grouped(pace.written),
        Grouped(tally.delivered),
        Grouped(pace.delivered),
        Grouped(*sent),
        Grouped(pace.sent),
        Grouped(tally.under_way()),
        Millis(pace.p50),
        Millis(pace.p99),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(elapsed: Duration, written: u64, delivered: u64, sent: u64) -> Figures {
        let tally = Tally { written, delivered, ..Tally::default() };
        Figures { elapsed, tally, sent, pace: Pace::default() }
    }

    fn shown() -> Figures {
        let mut latencies = Latencies::default();
        latencies.record(Duration::from_micros(1280));
        let before = figures(Duration::from_secs(11), 22_000, 22_000, 21_000);
        let mut now = figures(Duration::from_millis(11_990), 24_012, 24_008, 23_960);
        now.pace = Pace::between(&before, &now, &latencies);
        now
    }

    #[test]
    fn a_line_has_totals_rates_and_latency() {
        assert_eq!(
            line(&shown()),
            " 12 s  written 24,012 (2,032/s)  delivered 24,008 (2,028/s)  SENT 23,960 (2,989/s)  \
             lag 4  p50 1.31 ms  p99 1.31 ms\n"
        );
    }

    #[test]
    fn the_screen_fits_a_terminal_of_eighty_columns() {
        let title = "outboxd demo: PostgreSQL 15.14, in-process broker";
        let screen = screen(title, Duration::from_secs(20), &shown());
        assert!(screen.lines().all(|line| line.chars().count() < 80), "{screen}");
        assert_eq!(screen.lines().count(), 7);
        for part in ["11 of 20 s", "24,012    2,032/s", "lag", "p50 1.31 ms, p99 1.31 ms"] {
            assert!(screen.contains(part), "{part} is not in\n{screen}");
        }
    }
}
