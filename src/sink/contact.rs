//! Why a sink cannot be used: what its client complains about, told apart by who can mend it.

/// Why a sink cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoContact {
    /// The client does not take its configuration.
    Config(String),
    /// There is no TLS connection: one side does not take the other for what it says it is.
    Tls(String),
    /// The servers do not know us, or not with this password.
    Login(String),
    /// Nobody answers.
    Unreachable(String),
}

impl NoContact {
    /// What is said of it.
    pub fn text(&self) -> &str {
        match self {
            Self::Config(text) | Self::Tls(text) | Self::Login(text) | Self::Unreachable(text) => {
                text
            }
        }
    }

    /// The same reason in other words.
    #[must_use]
    pub fn map(self, words: impl FnOnce(String) -> String) -> Self {
        match self {
            Self::Config(text) => Self::Config(words(text)),
            Self::Tls(text) => Self::Tls(words(text)),
            Self::Login(text) => Self::Login(words(text)),
            Self::Unreachable(text) => Self::Unreachable(words(text)),
        }
    }
}
