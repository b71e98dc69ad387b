//! Why a configuration cannot be imported.

/// Why a configuration cannot be imported. Options are named as the file names them.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImportError {
    /// It begins like JSON, and is none.
    #[error("not JSON: line {line}, column {column}")]
    NotJson {
        /// The line, counted from 1.
        line: usize,
        /// The column, counted from 1.
        column: usize,
    },
    /// A value is an object or a list.
    #[error("{option}: expected text, a number, true or false")]
    NotAValue {
        /// The option.
        option: String,
    },
    /// It is no connector of PostgreSQL.
    #[error("connector.class is {class}: only Debezium's PostgreSQL connector can be imported")]
    OtherConnector {
        /// The connector that it is.
        class: String,
    },
    /// No transformation is the outbox event router.
    #[error(
        "none of the transforms is io.debezium.transforms.outbox.EventRouter: outboxd relays \
         outbox tables, and nothing else"
    )]
    NoRouter,
    /// `route.topic.regex` is no expression.
    #[error("{option}: not an expression that outboxd can match: {reason}")]
    BadRegex {
        /// The option.
        option: String,
        /// What is wrong with it.
        reason: String,
    },
    /// `route.topic.replacement` names a group that is not there, or is cut off.
    #[error("{option}: {reason}")]
    BadReplacement {
        /// The option.
        option: String,
        /// What is wrong with it.
        reason: String,
    },
    /// There is a list of placements, with nothing in it.
    #[error("{option}: empty; leave the option out, or list column:placement[:alias]")]
    EmptyPlacement {
        /// The option.
        option: String,
    },
    /// A placement is not `column:placement[:alias]`.
    #[error(
        "{option}: \"{placement}\" is not column:placement[:alias], with header, envelope or \
         partition as placement"
    )]
    BadPlacement {
        /// The option.
        option: String,
        /// The element of the list.
        placement: String,
    },
    /// A value is none of those that Debezium knows.
    #[error("{option}: \"{value}\" is not one of {expected}")]
    BadValue {
        /// The option.
        option: String,
        /// What it is.
        value: String,
        /// What it can be.
        expected: &'static str,
    },
}
