//! W3C Trace Context: what may be passed on. A context that is not one is left out, as the
//! recommendation asks for; see its sections 3.2 and 3.3.

/// The header that names the trace and the caller.
pub(super) const TRACEPARENT: &str = "traceparent";
/// The header with what vendors add to it.
pub(super) const TRACESTATE: &str = "tracestate";

const MEMBERS_MAX: usize = 32;
const PART_MAX: usize = 256;

/// Whether `text` is a `traceparent`: `00-<trace id>-<parent id>-<flags>`, or of a later version
/// that begins like it.
pub(super) fn is_traceparent(text: &str) -> bool {
    let mut parts = text.splitn(5, '-');
    let (Some(version), Some(trace), Some(parent), Some(flags)) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return false;
    };
    let is_complete = parts.next().is_none() || version != "00";
    is_complete
        && is_hex(version, 2)
        && version != "ff"
        && is_id(trace, 32)
        && is_id(parent, 16)
        && is_hex(flags, 2)
}

fn is_hex(text: &str, len: usize) -> bool {
    text.len() == len && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn is_id(text: &str, len: usize) -> bool {
    is_hex(text, len) && text.bytes().any(|byte| byte != b'0')
}

/// Whether `text` is a `tracestate`: members `key=value`, separated by commas.
pub(super) fn is_tracestate(text: &str) -> bool {
    let members = || text.split(',').map(|member| member.trim_matches([' ', '\t']));
    members().filter(|member| !member.is_empty()).count() <= MEMBERS_MAX
        && members().all(|member| member.is_empty() || is_member(member))
}

fn is_member(member: &str) -> bool {
    let Some((key, value)) = member.split_once('=') else {
        return false;
    };
    let is_key_byte =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-*/@".contains(&byte);
    let is_value_byte = |byte: u8| matches!(byte, b' '..=b'~') && !b",=".contains(&byte);
    (1..=PART_MAX).contains(&key.len())
        && key.starts_with(|first: char| first.is_ascii_lowercase() || first.is_ascii_digit())
        && key.bytes().all(is_key_byte)
        && (1..=PART_MAX).contains(&value.len())
        && value.bytes().all(is_value_byte)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The recommendation's own example.
    const EXAMPLE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_traceparent_is_the_recommendations() {
        assert!(is_traceparent(EXAMPLE));
        assert!(is_traceparent("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"));
        let later = "cc-12345678901234567890123456789012-1234567890123456-01";
        assert!(is_traceparent(later));
        assert!(is_traceparent(&format!("{later}-what-the-future-will-be-like")));
        for bad in [
            "",
            "00-ab",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01 ",
            "cc-12345678901234567890123456789012-1234567890123456-01.what",
        ] {
            assert!(!is_traceparent(bad), "{bad}");
        }
    }

    #[test]
    fn a_tracestate_is_the_recommendations() {
        for good in [
            "",
            "rojo=00f067aa0ba902b7",
            "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE",
            "congo=t61rcWkgMzE , ,\trojo=00f067aa0ba902b7",
            "fw529a3039@dt=FfAAAAA;k:v ",
            &format!("{}=v", "k".repeat(256)),
        ] {
            assert!(is_tracestate(good), "{good}");
        }
        let many = vec!["a=1"; 33].join(",");
        for bad in
            ["rojo", "=1", "a=", "A=1", "a=b=c", "a=ü", "a=\u{7}", &many, &format!("a={:257}", 1)]
        {
            assert!(!is_tracestate(bad), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text: String) {
            let _ = is_traceparent(&text);
            let _ = is_tracestate(&text);
        }
    }
}
