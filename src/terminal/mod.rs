//! What people see at a terminal while something goes on: a block of lines that is redrawn in place,
//! numbers as they read them, and how they end it.
//!
//! Nothing about the terminal is changed: whatever ends the process, it is left as it was.

mod figures;

use std::io::{self, IsTerminal as _, Stdout, Write as _};

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::failure::{Code, Failure};

pub(crate) use figures::{Bytes, Grouped, Millis};

/// After Ctrl-C, where that left something undone.
pub(crate) const INTERRUPTED: u8 = 130;

/// The standard output.
pub(crate) struct Screen {
    out: Stdout,
    is_terminal: bool,
    /// Lines that are on the terminal and will be drawn again.
    drawn: usize,
}

impl Screen {
    pub(crate) fn new() -> Self {
        let out = io::stdout();
        let is_terminal = out.is_terminal();
        Self { out, is_terminal, drawn: 0 }
    }

    /// Whether somebody looks, and not a file or another program.
    pub(crate) fn is_terminal(&self) -> bool {
        self.is_terminal
    }

    /// How many letters a line has.
    pub(crate) fn width(&self) -> usize {
        size().0
    }

    /// Draws a block of lines over the one that was drawn before.
    ///
    /// # Errors
    /// Nobody looks any more.
    pub(crate) fn redraw(&mut self, block: &str) -> io::Result<()> {
        let mut text = String::new();
        if self.drawn > 0 {
            text.push_str(&format!("\x1b[{}A", self.drawn));
        }
        text.push_str("\r\x1b[J");
        let block = fit(block, size());
        self.drawn = block.lines().count();
        text.push_str(&block);
        self.write(&text)
    }

    /// Shows the last line.
    ///
    /// # Errors
    /// Nobody looks any more.
    pub(crate) fn conclude(&mut self, text: &str) -> io::Result<()> {
        // Whatever the terminal echoed of Ctrl-C goes.
        let start = if self.is_terminal { "\r\x1b[J" } else { "" };
        self.write(&format!("{start}{text}"))
    }

    /// Writes text as it is.
    ///
    /// # Errors
    /// Nobody looks any more.
    pub(crate) fn write(&mut self, text: &str) -> io::Result<()> {
        self.out.write_all(text.as_bytes())?;
        self.out.flush()
    }
}

/// Columns and lines of the terminal.
fn size() -> (usize, usize) {
    let size = terminal_size::terminal_size_of(io::stdout());
    let size = size.map(|(width, height)| (usize::from(width.0), usize::from(height.0)));
    // A terminal that does not say is taken for the usual one.
    size.filter(|(width, height)| *width > 0 && *height > 0).unwrap_or((80, 24))
}

/// The part of a block that has room. A line that wraps, or scrolls away, could not be drawn over; and
/// an error from elsewhere must not steer the terminal.
fn fit(block: &str, (width, height): (usize, usize)) -> String {
    let visible = |letter: char| if letter.is_control() { ' ' } else { letter };
    let line = |line: &str| line.chars().take(width).map(visible).chain(['\n']).collect::<String>();
    block.lines().take(height.saturating_sub(1)).map(line).collect()
}

/// Ctrl-C, and what else asks the process to end.
pub(crate) struct Interrupt([Signal; 3]);

impl Interrupt {
    /// From now on nothing of that ends the process by itself.
    ///
    /// # Errors
    /// The system does not let us listen.
    pub(crate) fn listen() -> Result<Self, Failure> {
        let listen = |kind| {
            signal(kind).map_err(|error| Failure::new(Code::Bug, format!("signals: {error}")))
        };
        let [interrupt, terminate, hangup] =
            [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
        Ok(Self([listen(interrupt)?, listen(terminate)?, listen(hangup)?]))
    }

    /// Waits for the next one. Cancel-safe.
    pub(crate) async fn asked(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_room_is_cut_off_and_nothing_steers_the_terminal() {
        assert_eq!(fit("αβγδ\nab\nc\nd", (3, 4)), "αβγ\nab\nc\n");
        assert_eq!(fit("a\x1b[2Jb\tc", (80, 24)), "a [2Jb c\n");
    }
}
