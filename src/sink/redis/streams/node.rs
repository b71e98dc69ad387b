//! The servers that are written to: whether there is a connection, and what it carries.

use std::collections::VecDeque;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::address::Host;
use super::link::Server;
use super::shared::Question;

/// As many groups of calls are under way on a connection: while one is answered, the next is there.
const GROUPS: usize = 3;
/// A connection that is not used is not seen to break.
const IDLE: Duration = Duration::from_secs(2);

/// A server.
pub(super) struct Node {
    /// Its address in a cluster; none for the one that there is.
    pub(super) host: Option<Host>,
    pub(super) state: State,
    /// Counts connections: what comes of an earlier one is nobody's business.
    pub(super) generation: u64,
    /// Streams with something to send, in turn.
    pub(super) line: VecDeque<usize>,
    /// What is asked, and was not answered.
    pub(super) questions: Vec<Question>,
    pub(super) failures: u32,
}

/// Whether there is a connection.
pub(super) enum State {
    /// None; not before that.
    Down { retry_at: Option<Instant> },
    /// One is being made.
    Connecting,
    /// There is.
    Up(Up),
}

/// A connection in use.
pub(super) struct Up {
    pub(super) connection: MultiplexedConnection,
    pub(super) server: Server,
    pub(super) host: Host,
    /// How many groups are under way.
    pub(super) groups: usize,
    /// Whether the server has forgotten the script.
    pub(super) must_load: bool,
    /// Whether it is not the server to write to, or not now.
    pub(super) must_end: bool,
    /// When it was last used: one that is not is asked now and then whether it is there.
    pub(super) used: Instant,
    /// When it was last seen that "written" means "on disk".
    pub(super) checked: Instant,
    /// What uses the connection: it ends with the last of them.
    pub(super) tasks: Vec<AbortHandle>,
}

impl Node {
    pub(super) fn new(host: Option<Host>) -> Self {
        Self {
            host,
            state: State::Down { retry_at: None },
            generation: 0,
            line: VecDeque::new(),
            questions: Vec::new(),
            failures: 0,
        }
    }

    pub(super) fn up(&mut self) -> Option<&mut Up> {
        match &mut self.state {
            State::Up(up) => Some(up),
            State::Down { .. } | State::Connecting => None,
        }
    }

    /// Whether a connection is wanted.
    pub(super) fn is_wanted(&self) -> bool {
        !self.line.is_empty() || !self.questions.is_empty()
    }

    /// Whether it waits for something to do.
    pub(super) fn is_idle(&self) -> bool {
        match &self.state {
            State::Up(up) => up.groups == 0,
            State::Down { .. } => !self.is_wanted(),
            State::Connecting => false,
        }
    }

    /// When the server is to be asked whether it is there, if nothing else is asked of it.
    pub(super) fn check_at(&self) -> Option<Instant> {
        match &self.state {
            State::Up(up) if up.groups == 0 && !self.is_wanted() => Some(up.used + IDLE),
            _ => None,
        }
    }

    /// When a connection is to be made, if one is wanted.
    pub(super) fn connect_at(&self, now: Instant) -> Option<Instant> {
        match self.state {
            State::Down { retry_at } if self.is_wanted() => Some(retry_at.unwrap_or(now)),
            _ => None,
        }
    }

    /// The connection is given up, with everything that uses it.
    pub(super) fn end(&mut self, retry_at: Instant) {
        if let State::Up(up) = &mut self.state {
            up.tasks.drain(..).for_each(|task| task.abort());
        }
        self.generation += 1;
        self.state = State::Down { retry_at: Some(retry_at) };
    }
}

impl Up {
    /// Whether another group goes, if there is enough for one, and if there is little.
    pub(super) fn takes(&self, is_enough: bool) -> bool {
        !self.must_end && (self.groups == 0 || is_enough && self.groups < GROUPS)
    }

    pub(super) fn keep(&mut self, task: AbortHandle) {
        self.tasks.retain(|task| !task.is_finished());
        self.tasks.push(task);
    }
}
