//! SIGHUP: what lies in files is read again, tried, and taken on by the relay that runs.
//!
//! All of it or nothing: a file that cannot be read, a configuration that is wrong, a password that is
//! refused leave everything as it was. The session goes on meanwhile.

use tokio::signal::unix::Signal;
use tokio::sync::watch;

use super::run::warn_of;
use crate::config::{Changes, Reading, Sources};
use crate::failure::{Code, Failure};
use crate::postgres::SqlSession;
use crate::relay::{Credentials, Fate, Status, failure_of_sink, fate_of};
use crate::sink::LOOK_WITHIN;

/// What is needed to read everything again.
pub(super) struct Reloader {
    sources: Sources,
    /// As the relay was started.
    began: Reading,
    /// As it was last taken on.
    last: Option<Reading>,
    credentials: watch::Sender<Credentials>,
    status: watch::Receiver<Status>,
}

impl Reloader {
    pub(super) fn new(
        sources: Sources,
        began: Reading,
        credentials: watch::Sender<Credentials>,
        status: watch::Receiver<Status>,
    ) -> Self {
        Self { sources, began, last: None, credentials, status }
    }

    /// Does it whenever it is asked, one after the other.
    pub(super) async fn at(mut self, mut hangup: Signal) {
        while hangup.recv().await.is_some() {
            match self.reload().await {
                Ok(Changes { postgres: false, sink: false, token: false, .. }) => {
                    tracing::info!("read again: no secret has changed");
                }
                Ok(Changes { postgres, sink, token, .. }) => {
                    tracing::info!(postgres, sink, token, "read again, and taken on");
                }
                Err(failure) => tracing::error!(
                    code = %failure.code,
                    error = failure.message,
                    remedy = failure.remedy,
                    "read again, and not taken on: everything stays as it was"
                ),
            }
        }
    }

    async fn reload(&mut self) -> Result<Changes, Failure> {
        let later = Reading::of(&self.sources)?;
        let before = self.last.as_ref().unwrap_or(&self.began);
        let changes = before.changes(&later)?;
        let new = Credentials::renewed(&self.began.config.relay, &later.config.relay);
        let is_tried = !changes.postgres || tries_postgres(&new).await?;
        let is_tried = (!changes.sink || self.tries_sink(&new).await?) && is_tried;
        if let (Some(token), Some(new)) =
            (&self.began.config.admin.token, &later.config.admin.token)
        {
            token.replace(new);
        }
        if changes.postgres || changes.sink {
            self.credentials.send_if_modified(|credentials| {
                *credentials = new;
                // Otherwise the next session uses them, whenever that is.
                is_tried
            });
        }
        let known = &before.config.warnings;
        warn_of(later.config.warnings.iter().filter(|warning| !known.contains(warning)));
        let rest = self.began.changes(&later)?.rest;
        if !rest.is_empty() {
            let keys = rest.join(", ");
            tracing::warn!(keys, "changed, and only a start takes it on: it stays as it was");
        }
        self.last = Some(later);
        Ok(changes)
    }

    /// Whether they are let in. Where nobody answers, it is tried by the session, if it has nothing to lose.
    async fn tries_sink(&self, new: &Credentials) -> Result<bool, Failure> {
        match new.sink.contact(LOOK_WITHIN).await.map_err(failure_of_sink) {
            Ok(()) => Ok(true),
            Err(failure) if failure.code == Code::SinkUnavailable => {
                untried(&failure);
                Ok(!self.status.borrow().checks.producer)
            }
            Err(failure) => Err(failure),
        }
    }
}

/// Whether they are let in. Where nobody answers, the next session tries them.
async fn tries_postgres(new: &Credentials) -> Result<bool, Failure> {
    match SqlSession::open(&new.server, "reload").await {
        Ok(_) => Ok(true),
        Err(error) => match fate_of(&error, "connect") {
            Fate::Halt(failure) => Err(failure),
            Fate::Reconnect(failure) | Fate::StandBy(failure) => {
                untried(&failure);
                Ok(false)
            }
        },
    }
}

fn untried(failure: &Failure) {
    tracing::warn!(
        code = %failure.code,
        error = failure.message,
        remedy = failure.remedy,
        "nobody answers to what was read again: the next session uses it"
    );
}
