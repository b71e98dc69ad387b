//! Places where a test lets the process die or freeze, to see what the next one makes of it.
//!
//! They are in every build, so that what is tested is what runs. Unless `OUTBOXD_FAILPOINTS` names
//! one (`after_settle=kill@3`: the third time), passing one costs a load and a branch.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sys::signal::{Signal, raise};

/// The variable that arms failpoints: `name=action[@time]`, with commas between several.
pub const VARIABLE: &str = "OUTBOXD_FAILPOINTS";

static ARMED: OnceLock<Vec<Failpoint>> = OnceLock::new();

/// One that is armed.
#[derive(Debug)]
struct Failpoint {
    name: String,
    signal: Signal,
    /// It acts when it is passed for this time, and for no other.
    time: u32,
    passed: AtomicU32,
}

/// Arms what the environment names.
///
/// # Errors
/// It names something that cannot be understood.
pub fn arm() -> Result<(), String> {
    let Ok(text) = std::env::var(VARIABLE) else {
        return Ok(());
    };
    let failpoints: Result<Vec<_>, String> = text.split(',').map(parse).collect();
    // Armed once; a second relay in the same process finds what the first one armed.
    let _ = ARMED.set(failpoints?);
    tracing::warn!(failpoints = text, "armed to fail: this is for tests");
    Ok(())
}

/// The process passes the failpoint `name`.
#[inline]
pub(crate) fn pass(name: &str) {
    if let Some(failpoints) = ARMED.get() {
        act(failpoints, name);
    }
}

#[cold]
fn act(failpoints: &[Failpoint], name: &str) {
    for failpoint in failpoints.iter().filter(|failpoint| failpoint.name == name) {
        if failpoint.passed.fetch_add(1, Ordering::Relaxed) + 1 == failpoint.time {
            // As from outside: nothing is flushed, closed or said.
            let _ = raise(failpoint.signal);
        }
    }
}

fn parse(text: &str) -> Result<Failpoint, String> {
    let wrong = || format!("{VARIABLE}: \"{text}\" is not name=kill or name=freeze, with @time");
    let (name, action) = text.trim().split_once('=').ok_or_else(wrong)?;
    let (action, time) = action.split_once('@').unwrap_or((action, "1"));
    let signal = match action {
        "kill" => Signal::SIGKILL,
        "freeze" => Signal::SIGSTOP,
        _ => return Err(wrong()),
    };
    let time = time.parse().map_err(|_| wrong())?;
    Ok(Failpoint { name: name.to_owned(), signal, time, passed: AtomicU32::new(0) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failpoint_is_a_name_an_action_and_a_time() {
        let parsed = parse("after_settle=kill@3").unwrap();
        let told = (parsed.name.as_str(), parsed.signal, parsed.time);
        assert_eq!(told, ("after_settle", Signal::SIGKILL, 3));
        let parsed = parse(" in_sweep=freeze").unwrap();
        assert_eq!((parsed.signal, parsed.time), (Signal::SIGSTOP, 1));
        for wrong in ["", "x", "x=", "x=explode", "x=kill@", "x=kill@often"] {
            assert!(parse(wrong).unwrap_err().contains(VARIABLE), "{wrong}");
        }
    }

    #[test]
    fn passing_one_that_is_not_armed_does_nothing() {
        pass("after_settle");
        let other = [parse("other=kill").unwrap(), parse("again=kill@2").unwrap()];
        act(&other, "after_settle");
        act(&other, "again");
        assert_eq!(other[1].passed.load(Ordering::Relaxed), 1);
    }
}
