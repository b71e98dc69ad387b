//! Calls that go together, and what proves that they are safe.
//!
//! The proof goes behind the calls, on their connection: WAIT and WAITAOF speak of what that one has
//! written. So it also covers what an earlier connection has written, behind which the chain began anew.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Pipeline, RedisError, Value};
use tokio::time::timeout;

use super::link::{Server, check_fsync, fsync_questions};
use super::script::proof;
use crate::sink::NoContact;
use crate::sink::{Durability, RedisConfig};

/// As many calls go at once.
pub(super) const MAX_CALLS: usize = 64;
/// As many bytes, and one batch more.
pub(super) const MAX_BYTES: usize = 4 << 20;
/// A server that has not answered within this, and a second per MiB, is taken for gone.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a proof may take before it is asked for again.
const PROOF_MS: u128 = 2000;

/// What a group has of a stream.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) stream: usize,
    /// The stream's attempt then.
    pub(super) attempt: u64,
    /// Whether a chain begins with it.
    pub(super) begins: bool,
    /// How many calls.
    pub(super) calls: usize,
}

/// A group under way.
pub(super) struct Group {
    pub(super) node: usize,
    pub(super) generation: u64,
    pub(super) parts: Vec<Part>,
    /// Whether it begins with the script itself.
    pub(super) loads: bool,
    /// The answers to its calls, once they are there.
    pub(super) answers: Vec<Value>,
}

/// What became of a group.
pub(super) enum Outcome {
    /// Its calls were answered, and what was added is safe.
    Proven,
    /// They were answered; it is not known to be safe yet.
    Unproven(String),
    /// The server does not keep what it is told as it has to.
    Unsafe(NoContact),
    /// There is no answer.
    Lost(NoContact),
}

/// What goes behind a group's calls.
pub(super) struct Proof {
    durability: Durability,
    has_waitaof: bool,
    checks_fsync: bool,
}

impl Proof {
    pub(super) fn of(config: &RedisConfig, server: &Server, is_check_due: bool) -> Self {
        let (durability, has_waitaof) = (config.durability, server.has_waitaof);
        let checks_fsync = durability == Durability::Aof && !has_waitaof && is_check_due;
        Self { durability, has_waitaof, checks_fsync }
    }

    pub(super) fn is_check(&self) -> bool {
        self.checks_fsync
    }
}

/// Sends the calls and waits for the answers and the proof.
pub(super) async fn send(
    mut connection: MultiplexedConnection,
    mut pipeline: Pipeline,
    mut group: Group,
    proof_of: Proof,
    bytes: usize,
) -> (Group, Outcome) {
    let calls = pipeline.len();
    let wanted = proof(proof_of.durability, proof_of.has_waitaof, PROOF_MS);
    let wanted = wanted.map(|(command, count)| {
        pipeline.add_command(command);
        count
    });
    if proof_of.checks_fsync {
        for question in fsync_questions() {
            pipeline.add_command(question);
        }
    }
    let limit = ANSWER_TIMEOUT + Duration::from_secs((bytes >> 20) as u64);
    let count = pipeline.len();
    let answers = connection.send_packed_commands(&pipeline, 0, count);
    let mut answers = match answered(timeout(limit, answers).await, limit) {
        Ok(answers) => answers,
        Err(reason) => return (group, Outcome::Lost(reason)),
    };
    let behind = answers.split_off(calls.min(answers.len()));
    group.answers = answers;
    if proof_of.checks_fsync
        && let Err(reason) = check_fsync(&behind)
    {
        return (group, Outcome::Unsafe(reason));
    }
    let outcome = match wanted {
        Some(wanted) => judge(behind.first(), wanted, proof_of.durability),
        None => Outcome::Proven,
    };
    (group, outcome)
}

/// Asks for the proof of a group again.
pub(super) async fn prove(
    mut connection: MultiplexedConnection,
    group: Group,
    proof_of: Proof,
) -> (Group, Outcome) {
    let Some((command, wanted)) = proof(proof_of.durability, proof_of.has_waitaof, PROOF_MS) else {
        return (group, Outcome::Proven);
    };
    let mut pipeline = Pipeline::with_capacity(1);
    pipeline.add_command(command);
    let answers = connection.send_packed_commands(&pipeline, 0, 1);
    let outcome = match answered(timeout(ANSWER_TIMEOUT, answers).await, ANSWER_TIMEOUT) {
        Ok(answers) => judge(answers.first(), wanted, proof_of.durability),
        Err(reason) => Outcome::Lost(reason),
    };
    (group, outcome)
}

fn answered<T>(
    result: Result<Result<T, RedisError>, tokio::time::error::Elapsed>,
    limit: Duration,
) -> Result<T, NoContact> {
    let late = || NoContact::Unreachable(format!("no answer within {limit:?}"));
    result.map_err(|_| late())?.map_err(|error| super::errors::no_contact(&error))
}

/// WAIT answers with the number of replicas, WAITAOF with how many have it on disk here and elsewhere.
fn judge(answer: Option<&Value>, wanted: i64, durability: Durability) -> Outcome {
    let count = match answer {
        Some(Value::Int(count)) => *count,
        Some(Value::Array(counts)) => match counts.first() {
            Some(Value::Int(count)) => *count,
            _ => 0,
        },
        Some(Value::ServerError(error)) => {
            let text = format!("{} {}", error.code(), error.details().unwrap_or_default());
            // It is a replica by now, or has no append-only file.
            return match (error.code(), durability) {
                ("ERR", Durability::Aof) => Outcome::Unsafe(NoContact::Config(text)),
                _ => Outcome::Lost(NoContact::Unreachable(text)),
            };
        }
        _ => 0,
    };
    if count >= wanted {
        return Outcome::Proven;
    }
    Outcome::Unproven(match durability {
        Durability::Aof => "what was written is not on disk yet (WAITAOF)".to_owned(),
        _ => format!("{count} of {wanted} replicas have what was written (WAIT)"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_proven_is_not_safe() {
        let two = Durability::Replicas(2);
        let is_proven =
            |answer: Option<Value>| matches!(judge(answer.as_ref(), 2, two), Outcome::Proven);
        assert!(is_proven(Some(Value::Int(2))) && is_proven(Some(Value::Int(3))));
        for answer in [None, Some(Value::Nil), Some(Value::Int(1)), Some(Value::Okay)] {
            assert!(!is_proven(answer));
        }
        let counts = |local| Value::Array(vec![Value::Int(local), Value::Int(0)]);
        assert!(matches!(judge(Some(&counts(1)), 1, Durability::Aof), Outcome::Proven));
        assert!(matches!(judge(Some(&counts(0)), 1, Durability::Aof), Outcome::Unproven(_)));
    }
}
