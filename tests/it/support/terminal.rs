//! What a person at a terminal, or a program at a pipe, sees of a command that goes on.

use std::io::{Read, Write as _};
use std::process::Child;
use std::sync::{Arc, Mutex};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::wait::{SOON, eventually, until};

/// A command that runs, and what it has written so far.
pub struct Watched {
    child: Child,
    written: Arc<Mutex<Vec<u8>>>,
}

impl Watched {
    pub fn new(mut child: Child) -> Self {
        let written = Arc::new(Mutex::new(Vec::new()));
        let (mut stdout, copy) = (child.stdout.take().unwrap(), Arc::clone(&written));
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = stdout.read(&mut bytes) {
                copy.lock().unwrap().extend_from_slice(&bytes[..count]);
            }
        });
        Self { child, written }
    }

    /// Everything that it has written.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.written.lock().unwrap()).into_owned()
    }

    /// The lines that are complete.
    pub fn lines(&self) -> Vec<String> {
        let text = self.text();
        let complete = text.rfind('\n').map_or("", |end| &text[..end]);
        complete.lines().map(str::to_owned).collect()
    }

    /// What stands on the screen now.
    pub fn screen(&self) -> String {
        screen(&self.text())
    }

    pub async fn shows(&self, text: &str) {
        let what = format!("{text:?} on the screen");
        eventually(what, SOON, || async { self.screen().contains(text) }).await;
    }

    /// Presses Ctrl-C.
    pub fn press_ctrl_c(&mut self) {
        self.child.stdin.as_mut().unwrap().write_all(b"\x03").unwrap();
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
    }

    /// Waits for its end: exit code, and what it complained about.
    pub async fn ended(&mut self) -> (i32, String) {
        let child = Mutex::new(&mut self.child);
        let status =
            until("its end", SOON, || async { child.lock().unwrap().try_wait().unwrap() }).await;
        let mut said = String::new();
        if let Some(mut stderr) = self.child.stderr.take() {
            stderr.read_to_string(&mut said).unwrap();
        }
        (status.code().unwrap_or(-1), said)
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        // What has ended cannot be ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a terminal makes of the little that is used: text, new lines, returns, up, and clear below.
fn screen(written: &str) -> String {
    let (mut lines, mut row, mut column) = (vec![Vec::new()], 0usize, 0usize);
    let mut letters = written.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '\n' => row += 1,
            '\r' => column = 0,
            '\x1b' => {
                assert_eq!(letters.next(), Some('['));
                let mut count = String::new();
                while let Some(digit) = letters.next_if(char::is_ascii_digit) {
                    count.push(digit);
                }
                match letters.next() {
                    Some('A') => row -= count.parse::<usize>().unwrap(),
                    Some('J') => {
                        lines.truncate(row + 1);
                        lines[row].truncate(column);
                    }
                    // Its end is not here yet.
                    None => break,
                    other => panic!("{other:?} of {written:?}"),
                }
            }
            letter => {
                lines[row].truncate(column);
                lines[row].push(letter);
                column += 1;
            }
        }
        lines.resize(lines.len().max(row + 1), Vec::new());
    }
    let lines: Vec<String> = lines.into_iter().map(String::from_iter).collect();
    lines.join("\n")
}
