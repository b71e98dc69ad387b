//! What JetStream's answers mean.

use async_nats::{Message, StatusCode};
use serde::Deserialize;

/// JetStream's error, as in its answers.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct ApiError {
    /// As HTTP has it.
    #[serde(default)]
    pub(super) code: u16,
    #[serde(default)]
    pub(super) err_code: u32,
    #[serde(default)]
    pub(super) description: String,
}

/// JetStream's numbers of errors.
pub(super) mod number {
    pub(in super::super) const STREAM_NOT_FOUND: u32 = 10_059;
    pub(in super::super) const NOT_ENABLED: u32 = 10_076;
    pub(in super::super) const NOT_ENABLED_FOR_ACCOUNT: u32 = 10_039;
    pub(super) const MESSAGE_TOO_LARGE: u32 = 10_054;
    pub(super) const HEADERS_TOO_LARGE: u32 = 10_097;
    pub(super) const OTHER_STREAM: u32 = 10_060;
    pub(super) const SEALED: u32 = 10_109;
    /// The stream is full, or cannot write.
    pub(super) const NOT_STORED: u32 = 10_077;
    pub(super) const ACCOUNT_FULL: u32 = 10_002;
    pub(super) const STORAGE_FULL: u32 = 10_047;
    pub(super) const MEMORY_FULL: u32 = 10_028;
    pub(super) const STREAM_OFFLINE: u32 = 10_118;
    /// The first one with this id is not through yet.
    pub(super) const ID_IN_PROCESS: u32 = 10_158;
}

/// What became of a message.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// This stream has it, or had it already.
    Stored { stream: String, is_duplicate: bool },
    /// Not now, for a reason that is not its own.
    Later(String),
    /// Perhaps its stream is not there, or is another one.
    Lookup(String),
    /// It is too large for its stream.
    TooLarge,
    /// It is refused for what it is.
    Refused(String),
    /// Its stream takes nothing any more.
    Closed(String),
    /// Not known: not taken for an answer of the message's.
    Unknown(String),
    /// No answer of a stream: somebody else listens on the subject, too.
    Noise,
}

#[derive(Deserialize)]
struct Ack {
    stream: Option<String>,
    seq: Option<u64>,
    #[serde(default)]
    duplicate: bool,
    error: Option<ApiError>,
}

/// What an answer to a message says.
pub(super) fn verdict(answer: &Message) -> Verdict {
    match answer.status {
        Some(StatusCode::NO_RESPONDERS) => return Verdict::Lookup("no stream answers".to_owned()),
        Some(StatusCode::OK) | None => {}
        Some(other) => return Verdict::Lookup(format!("status {other}")),
    }
    match serde_json::from_slice::<Ack>(&answer.payload) {
        Ok(Ack { error: Some(error), .. }) => refusal(error),
        Ok(Ack { stream: Some(stream), seq: Some(_), duplicate: is_duplicate, .. }) => {
            Verdict::Stored { stream, is_duplicate }
        }
        Ok(_) | Err(_) => Verdict::Noise,
    }
}

fn refusal(error: ApiError) -> Verdict {
    let text = error.description;
    match (error.err_code, error.code) {
        (number::MESSAGE_TOO_LARGE, _) => Verdict::TooLarge,
        (number::HEADERS_TOO_LARGE, _) => Verdict::Refused(text),
        (number::OTHER_STREAM | number::STREAM_NOT_FOUND, _) => Verdict::Lookup(text),
        (number::SEALED, _) => Verdict::Closed(text),
        (
            number::NOT_STORED
            | number::ACCOUNT_FULL
            | number::STORAGE_FULL
            | number::MEMORY_FULL
            | number::STREAM_OFFLINE
            | number::ID_IN_PROCESS
            | number::NOT_ENABLED
            | number::NOT_ENABLED_FOR_ACCOUNT,
            _,
        )
        // Of servers that are not here: no leader, no quorum, no resources, too many requests.
        | (_, 408 | 429 | 500..=599) => Verdict::Later(text),
        (number, _) => Verdict::Unknown(format!("{text} (JetStream's error {number})")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(payload: &str, status: Option<StatusCode>) -> Verdict {
        verdict(&Message {
            subject: "_INBOX.x.1".into(),
            reply: None,
            payload: payload.to_owned().into(),
            headers: None,
            status,
            description: None,
            length: 0,
        })
    }

    fn error(code: u16, err_code: u32) -> Verdict {
        let text = format!(
            r#"{{"error":{{"code":{code},"err_code":{err_code},"description":"why"}},"stream":"S","seq":0}}"#
        );
        answer(&text, None)
    }

    #[test]
    fn only_a_streams_word_is_an_acknowledgement() {
        let stored = |is_duplicate| Verdict::Stored { stream: "S".to_owned(), is_duplicate };
        assert_eq!(answer(r#"{"stream":"S","seq":1}"#, None), stored(false));
        assert_eq!(answer(r#"{"stream":"S","seq":1,"duplicate":true}"#, None), stored(true));
        for other in ["", "ok", "{}", r#"{"stream":"S"}"#, r#"{"seq":1}"#, "[1]"] {
            assert_eq!(answer(other, None), Verdict::Noise, "{other}");
        }
        let nobody = answer("", Some(StatusCode::NO_RESPONDERS));
        assert!(matches!(nobody, Verdict::Lookup(_)), "{nobody:?}");
    }

    #[test]
    fn every_refusal_has_its_meaning() {
        let why = || "why".to_owned();
        for (code, number, expected) in [
            (400, 10_054, Verdict::TooLarge),
            (400, 10_097, Verdict::Refused(why())),
            (400, 10_060, Verdict::Lookup(why())),
            (404, 10_059, Verdict::Lookup(why())),
            (400, 10_109, Verdict::Closed(why())),
            (503, 10_077, Verdict::Later(why())),
            (400, 10_002, Verdict::Later(why())),
            (409, 10_158, Verdict::Later(why())),
            (503, 10_008, Verdict::Later(why())),
            (429, 10_167, Verdict::Later(why())),
            (500, 99_999, Verdict::Later(why())),
        ] {
            assert_eq!(error(code, number), expected, "{number}");
        }
        let unknown = error(400, 99_999);
        assert!(
            matches!(&unknown, Verdict::Unknown(text) if text.contains("99999")),
            "{unknown:?}"
        );
    }
}
