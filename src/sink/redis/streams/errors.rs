//! What an error of Redis means. Everything that is not named is unknown, and unknown is never delivered.

use redis::{ErrorKind, RedisError, ServerError};

use crate::sink::{NoContact, SinkError};

/// Why a server did not do something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It passes, or somebody mends it: the server is full, loads, is a replica, …
    Later(String),
    /// Another node has the stream.
    Moved(String),
    /// The server has forgotten the script.
    NoScript,
    /// It does not know us any more.
    Login(String),
    /// The stream takes no records.
    Topic(SinkError),
    /// The record is not one that the server takes.
    Record(String),
    /// Something that we do not know.
    Unknown(String),
}

/// Codes of what passes.
const LATER: [&str; 14] = [
    "OOM",
    "READONLY",
    "LOADING",
    "BUSY",
    "MASTERDOWN",
    "CLUSTERDOWN",
    "ASK",
    "TRYAGAIN",
    "NOREPLICAS",
    "MISCONF",
    "UNBLOCKED",
    "NOTREADY",
    "UNKILLABLE",
    "NOGOODSLAVE",
];
/// What the server says of an entry that is larger than a stream can keep.
const TOO_LARGE: &str = "too large";
/// What it says before it closes a connection because of one.
const TOO_LONG: &str = "Protocol error: invalid bulk length";

/// What an error is.
pub(super) fn classify(error: &ServerError) -> Refusal {
    of(error.code(), error.details().unwrap_or_default())
}

fn of(code: &str, details: &str) -> Refusal {
    let text = if details.is_empty() { code.to_owned() } else { format!("{code} {details}") };
    match code {
        "MOVED" => Refusal::Moved(text),
        "NOSCRIPT" => Refusal::NoScript,
        "WRONGTYPE" => Refusal::Topic(SinkError::WrongTopic(text)),
        "NOAUTH" | "WRONGPASS" => Refusal::Login(text),
        "NOPERM" => Refusal::Topic(SinkError::TopicDenied),
        code if LATER.contains(&code) => Refusal::Later(text),
        "ERR" => of_script(details, text),
        _ => Refusal::Unknown(text),
    }
}

/// Older servers tell an error in a script by its text.
fn of_script(details: &str, text: String) -> Refusal {
    if details.contains("The user executing the script") {
        return Refusal::Topic(SinkError::TopicDenied);
    }
    if details.contains(TOO_LONG) || details.contains(TOO_LARGE) {
        return Refusal::Record(text);
    }
    // "Error running script (call to f_…): @user_script:12: -OOM command not allowed …"
    let inner = details.rsplit_once(": -").filter(|_| details.contains("running script"));
    if let Some((_, inner)) = inner {
        let (code, details) = inner.split_once(' ').unwrap_or((inner, ""));
        if code != "ERR" {
            return of(code, details);
        }
    }
    Refusal::Unknown(text)
}

/// Why there is no connection.
pub(super) fn no_contact(error: &RedisError) -> NoContact {
    let text = text(error);
    match error.kind() {
        ErrorKind::AuthenticationFailed => return NoContact::Login(text),
        ErrorKind::InvalidClientConfig => return NoContact::Config(text),
        _ => {}
    }
    match error.code() {
        Some("NOAUTH" | "WRONGPASS" | "NOPERM") => return NoContact::Login(text),
        Some(_) => return NoContact::Unreachable(text),
        None => {}
    }
    // The crate keeps rustls's errors as texts.
    let of_tls = ["certificate", "received fatal alert", "corrupt message", "handshake"];
    match of_tls.iter().any(|word| text.contains(word)) {
        true => NoContact::Tls(text),
        false => NoContact::Unreachable(text),
    }
}

/// An error's text, without what the crate's own form adds to it.
pub(super) fn text(error: &RedisError) -> String {
    match (error.code(), error.detail()) {
        (Some(code), Some(detail)) => format!("{code} {detail}"),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_is_nobodys_fault() {
        for code in LATER {
            assert!(matches!(of(code, "for now"), Refusal::Later(_)), "{code}");
        }
        assert!(matches!(of("MOVED", "1 h:1"), Refusal::Moved(_)));
        let old = "Error running script (call to f_ab): @user_script:9: @user_script: 9: -OOM command \
                   not allowed when used memory > 'maxmemory'.";
        assert!(matches!(of("ERR", old), Refusal::Later(text) if text.starts_with("OOM ")));
        let old =
            "Error running script (call to f_ab): @user_script:9: -WRONGTYPE Operation against";
        assert!(matches!(of("ERR", old), Refusal::Topic(SinkError::WrongTopic(_))));
    }

    #[test]
    fn what_is_not_known_is_unknown() {
        for (code, details) in [
            ("ERR", "unknown command 'EVALSHA'"),
            ("ERR", ""),
            ("ERR", "Error running script (call to f_ab): @user_script:9: -ERR nonsense"),
            ("SOMETHING", "new"),
        ] {
            assert!(matches!(of(code, details), Refusal::Unknown(_)), "{code} {details}");
        }
    }

    #[test]
    fn who_may_not_write_is_denied() {
        for (code, details) in [
            ("NOPERM", "this user has no permissions to access one of the keys"),
            ("ERR", "The user executing the script can't run this command or subcommand"),
        ] {
            assert_eq!(of(code, details), Refusal::Topic(SinkError::TopicDenied));
        }
        assert!(matches!(of("ERR", "Protocol error: invalid bulk length"), Refusal::Record(_)));
    }
}
