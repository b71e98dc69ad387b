//! Why Kafka cannot be used: what its client complains about, told apart by who can mend it.

use rdkafka::types::RDKafkaErrorCode;

/// Why Kafka cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoContact {
    /// The client does not take its configuration.
    Config(String),
    /// There is no TLS connection: one side does not take the other for what it says it is.
    Tls(String),
    /// The brokers do not know us, or not with this password.
    Login(String),
    /// Nobody answers.
    Unreachable(String),
}

impl NoContact {
    /// What an error of a connection says.
    pub(super) fn of(code: Option<RDKafkaErrorCode>, reason: &str) -> Self {
        use RDKafkaErrorCode::{Authentication, SSL, SaslAuthenticationFailed};
        // A peer that hangs up is a transport error, whatever it hangs up in the middle of. With TLS 1.3
        // a broker refuses our certificate only after the handshake: then an alert breaks the connection.
        let in_handshake = reason.contains("SSL handshake failed") || reason.contains("SSL alert");
        match code {
            _ if in_handshake => Self::Tls(reason.to_owned()),
            Some(SSL) => Self::Tls(reason.to_owned()),
            Some(Authentication | SaslAuthenticationFailed) => Self::Login(reason.to_owned()),
            _ => Self::Unreachable(reason.to_owned()),
        }
    }
}
