//! How a relay proves to others who it is, which can be given anew while it runs.
//!
//! A session keeps what it began with. New credentials end it in order, as a stop would: what was read
//! is published, settled and confirmed, and the next session begins with the new ones at once. So
//! nothing comes twice, unless that takes longer than [`RENEW_WITHIN`].

use std::convert::Infallible;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::{RelayConfig, Status};
use crate::postgres::Server;
use crate::shutdown::Stop;
use crate::sink::SinkConfig;

/// What a relay needs to be let in.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// The database, and as whom.
    pub server: Server,
    /// The sink, and as whom.
    pub sink: SinkConfig,
}

/// A session that is not through with what it has read by then is ended all the same.
const RENEW_WITHIN: Duration = Duration::from_secs(10);

impl Credentials {
    /// Those of a configuration.
    pub fn of(config: &RelayConfig) -> Self {
        Self { server: config.server.clone(), sink: config.sink.clone() }
    }

    /// What a relay that `began` so works with when these are taken on.
    pub fn renewed(began: &RelayConfig, later: &RelayConfig) -> Self {
        let mut renewed = Self { server: later.server.clone(), sink: began.sink.clone() };
        renewed.sink.take_credentials(&later.sink);
        renewed
    }

    /// Has a configuration say the same.
    pub(super) fn apply(&self, config: &mut RelayConfig) {
        config.server = self.server.clone();
        config.sink.take_credentials(&self.sink);
    }
}

/// Passes a stop on to one session, and ends the session in order when there are new credentials.
pub(super) async fn pass_on(
    stop: &mut watch::Receiver<Stop>,
    credentials: &mut watch::Receiver<Credentials>,
    session: &watch::Sender<Stop>,
    status: &watch::Receiver<Status>,
) -> Infallible {
    loop {
        tokio::select! {
            biased;
            () = changed(stop) => {
                session.send_replace(*stop.borrow_and_update());
            }
            () = changed(credentials) => {
                credentials.mark_unchanged();
                // A sink that cannot be reached takes nothing more from this session.
                let is_hopeless = !status.borrow().checks.producer;
                let by = Stop::By(Instant::now() + RENEW_WITHIN);
                let renew = if is_hopeless { Stop::Now } else { by };
                session.send_if_modified(|stop| {
                    let goes_on = *stop == Stop::No;
                    if goes_on {
                        *stop = renew;
                    }
                    goes_on
                });
            }
        }
    }
}

/// Waits for a change; for ever, without anybody left who could make one. Cancel-safe.
pub(super) async fn changed<T>(receiver: &mut watch::Receiver<T>) {
    if receiver.changed().await.is_err() {
        std::future::pending().await
    }
}
