//! The token of `/api`: compared, and never shown.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

/// A secret that whoever changes something over HTTP has to know. Clones are the same token, also
/// when it is replaced.
#[derive(Clone)]
pub struct Token(Arc<RwLock<String>>);

/// A token that is shorter can be guessed.
const SHORT: usize = 16;

impl Token {
    /// A token as its file holds it; none if there is nothing in it.
    pub fn read(text: &str) -> Option<Self> {
        let text = text.trim();
        (!text.is_empty()).then(|| Self(Arc::new(RwLock::new(text.to_owned()))))
    }

    /// Whether it is this one. How long that takes does not tell where it differs.
    pub fn is(&self, other: &str) -> bool {
        let own = self.text();
        let (own, other) = (own.as_bytes(), other.as_bytes());
        let differing = own.iter().zip(other).fold(0, |bits, (a, b)| bits | (a ^ b));
        own.len() == other.len() && std::hint::black_box(differing) == 0
    }

    /// What somebody who knows it says: the value of `Authorization`.
    pub fn bearer(&self) -> String {
        format!("Bearer {}", self.text())
    }

    /// Makes it another one, for everybody who has it.
    pub fn replace(&self, other: &Self) {
        let text = other.text();
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = text;
    }

    /// Whether it can be guessed.
    pub(super) fn is_short(&self) -> bool {
        self.text().len() < SHORT
    }

    fn text(&self) -> String {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl PartialEq for Token {
    fn eq(&self, other: &Self) -> bool {
        self.is(&other.text())
    }
}

impl Eq for Token {}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_compared_whole_and_never_shown() {
        let token = Token::read(" secret\n").unwrap();
        assert!(token.is("secret"));
        for other in ["", "secre", "secret ", "Secret", "secrets"] {
            assert!(!token.is(other), "{other}");
        }
        assert_eq!(format!("{token:?}"), "***");
        assert_eq!(Token::read("\n"), None);
    }

    #[test]
    fn a_token_is_replaced_for_everybody_who_has_it() {
        let (token, other) = (Token::read("old").unwrap(), Token::read("new").unwrap());
        let guards = token.clone();
        token.replace(&other);
        assert!(guards.is("new") && !guards.is("old"));
        assert!(guards == other && guards.is_short());
        assert!(!Token::read(&"x".repeat(SHORT)).unwrap().is_short());
    }
}
