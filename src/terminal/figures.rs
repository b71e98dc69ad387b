//! Numbers as people read them.

use std::fmt;
use std::time::Duration;

/// A number with its digits in groups: 12,345.
pub(crate) struct Grouped(pub(crate) u64);

impl fmt::Display for Grouped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = self.0.to_string();
        for (index, digit) in digits.chars().enumerate() {
            if index > 0 && (digits.len() - index).is_multiple_of(3) {
                f.write_str(",")?;
            }
            write!(f, "{digit}")?;
        }
        Ok(())
    }
}

/// A latency in milliseconds: 1.23 ms; a dash if there is none.
pub(crate) struct Millis(pub(crate) Option<Duration>);

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(latency) = self.0 else {
            return f.write_str("-");
        };
        let micros = latency.as_micros();
        match micros {
            0..10_000 => write!(f, "{}.{:02} ms", micros / 1000, micros % 1000 / 10),
            10_000..100_000 => write!(f, "{}.{} ms", micros / 1000, micros % 1000 / 100),
            _ => write!(f, "{} ms", Grouped(u64::try_from(micros / 1000).unwrap_or(u64::MAX))),
        }
    }
}

/// A number of bytes: 1.2 MiB; a dash if there is none.
pub(crate) struct Bytes(pub(crate) Option<f64>);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
        let Some(mut bytes) = self.0 else {
            return f.write_str("-");
        };
        let mut units = UNITS.iter().peekable();
        while let Some(unit) = units.next() {
            // What would be rounded to the next unit is written in it.
            if bytes < 1023.5 || units.peek().is_none() {
                let digits = usize::from(bytes < 99.95 && *unit != "B");
                return write!(f, "{bytes:.digits$} {unit}");
            }
            bytes /= 1024.0;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_for_people() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(Grouped(number).to_string(), text);
        }
        for (micros, text) in
            [(0, "0.00 ms"), (1239, "1.23 ms"), (12_345, "12.3 ms"), (1_234_567, "1,234 ms")]
        {
            assert_eq!(Millis(Some(Duration::from_micros(micros))).to_string(), text);
        }
        assert_eq!(Millis(None).to_string(), "-");
        for (bytes, text) in [
            (0.0, "0 B"),
            (1023.0, "1023 B"),
            (1024.0, "1.0 KiB"),
            (150.0 * 1024.0, "150 KiB"),
            (1_048_575.0, "1.0 MiB"),
            (5.5e12, "5.0 TiB"),
        ] {
            assert_eq!(Bytes(Some(bytes)).to_string(), text);
        }
    }
}
