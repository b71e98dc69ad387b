//! Other tools' configuration becomes ours: `outboxd import`.
//!
//! What is read is only text: nothing is asked of the tool, the database or Kafka. Every option is
//! taken over, or told of: one that would change what consumers see is never passed over in silence.

mod connector;
mod converters;
mod draft;
mod error;
mod kafka;
mod parse;
mod passed;
mod placement;
mod route;
mod router;

pub use error::ImportError;

/// Our configuration, made of another tool's.
#[derive(Debug)]
pub struct Imported {
    /// The text of `outboxd.toml`: what differs is in its comments.
    pub toml: String,
    /// How many options have a counterpart.
    pub taken: usize,
    /// How many differ in what they do.
    pub differing: usize,
    /// How many have no counterpart, and need none.
    pub passed: usize,
}

/// Reads the configuration of Debezium's PostgreSQL connector with its outbox event router: a
/// `connector.json` or `connector.properties` of Kafka Connect, or the `application.properties` of
/// Debezium Server.
///
/// # Errors
/// It is none, has no outbox event router, or is one that Debezium would refuse.
pub fn debezium(text: &str) -> Result<Imported, ImportError> {
    let mut options = parse::read(text)?;
    let mut draft = draft::Draft::default();
    // The router first: without one there is nothing to import.
    router::import(&mut options, &mut draft)?;
    connector::import(&mut options, &mut draft)?;
    kafka::import(&mut options, &mut draft);
    passed::import(&mut options, &mut draft);
    Ok(draft.finish(options.form))
}

#[cfg(test)]
mod tests;
