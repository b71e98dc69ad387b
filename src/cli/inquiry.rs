//! What the relay does, asked of the relay itself on its admin address, else of the database.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use http_body_util::{BodyExt as _, Empty};
use hyper::body::Bytes;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use crate::config::{Config, Token};
use crate::failure::Failure;
use crate::postgres::{Slot, SqlSession};
use crate::relay::{Pace, SlotStatus};
use crate::status::{LastError, RelayRow};

/// A relay that does not answer within this is not there.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

/// Asks, once or again and again.
pub(super) struct Inquiry<'a> {
    config: &'a Config,
    /// To the database, while the relay does not answer.
    session: Option<SqlSession>,
    /// How fast WAL grows, as the database shows it; none before the first look.
    pace: Option<Pace>,
}

impl<'a> Inquiry<'a> {
    pub(super) fn new(config: &'a Config) -> Self {
        Self { config, session: None, pace: None }
    }

    /// The document that `outboxd status` prints.
    ///
    /// # Errors
    /// Neither the relay nor the database answers.
    pub(super) async fn ask(&mut self) -> Result<Value, Failure> {
        if let Some(document) = of_relay(self.config).await {
            (self.session, self.pace) = (None, None);
            return Ok(document);
        }
        let session = match self.session.take().filter(|session| !session.client.is_closed()) {
            Some(session) => session,
            None => {
                let relay = &self.config.relay;
                let session = SqlSession::open(&relay.server, "status").await;
                session.map_err(|error| relay.failure_of(&error, "connect"))?
            }
        };
        let document = self.of_database(&session).await?;
        self.session = Some(session);
        Ok(document)
    }

    /// The same document where nobody answers.
    pub(super) fn unanswered(&self, failure: &Failure) -> Value {
        let error = Some(LastError::from(failure));
        json!(Known { state: "unknown", last_error: error, ..self.nothing() })
    }

    /// What the database knows of the relay: less, but also while nothing runs.
    async fn of_database(&mut self, session: &SqlSession) -> Result<Value, Failure> {
        let relay = &self.config.relay;
        let read = |error| relay.failure_of(&error, "read the relay's state");
        let slot = Slot::load(&session.client, &relay.slot).await.map_err(read)?;
        let row = session
            .client
            .query_opt(
                "SELECT r.state, r.error_code, r.error_message, r.error_remedy, \
                        format('%s/%s', r.position_lsn, r.position_index), \
                        ARRAY(SELECT topic FROM unnest(r.paused_topics) topic ORDER BY topic) \
                 FROM outboxd.relay r WHERE r.relay_id = $1",
                &[&relay.id],
            )
            .await
            .map_err(|error| read(error.into()))?;
        let runs = RelayRow::lock_is_held(&session.client, &relay.id).await.map_err(read)?;
        let mut known = self.nothing();
        if let Some(row) = &row {
            let is_active = slot.as_ref().is_some_and(|slot| slot.active);
            known.state = match (runs, row.get(0)) {
                (true, _) if is_active => "streaming",
                (true, _) => "starting",
                (false, "halted") => "halted",
                (false, _) => "stopped",
            };
            // Who streams has found Kafka, at least once.
            known.ready = runs && is_active;
            known.position = row.get(4);
            known.paused_topics = row.get(5);
            let text = |column| row.get::<_, Option<String>>(column).unwrap_or_default();
            known.last_error = row.get::<_, Option<String>>(1).map(|code| LastError {
                code,
                message: text(2),
                remedy: text(3),
            });
        }
        let now = Instant::now();
        let is_first = self.pace.is_none();
        let (rates, lasts) =
            self.pace.get_or_insert_with(|| Pace::new(now)).look(slot.as_ref(), now);
        known.slot = SlotStatus::new(&relay.slot, slot.as_ref());
        if !is_first {
            known.slot.seconds_until_limit = lasts;
            known.rates = Some(WalRates {
                wal_bytes: rates.wal_bytes,
                confirmed_bytes: rates.confirmed_bytes,
                ..WalRates::default()
            });
        }
        Ok(json!(known))
    }

    /// What is known where nobody has been asked.
    fn nothing(&self) -> Known<'a> {
        let relay = &self.config.relay;
        Known {
            relay: &relay.id,
            state: "stopped",
            slot: SlotStatus::new(&relay.slot, None),
            ..Known::default()
        }
    }
}

/// The document where the relay does not answer. The fields are always there; what only a relay that
/// runs knows is null.
#[derive(Default, Serialize)]
struct Known<'a> {
    relay: &'a str,
    state: &'static str,
    ready: bool,
    slot: SlotStatus,
    position: String,
    paused_topics: Vec<String>,
    last_error: Option<LastError>,
    rates: Option<WalRates>,
    in_flight: (),
    held: (),
    blocked_keys: (),
    latency: (),
    totals: (),
    lag_seconds: (),
    checks: (),
}

#[derive(Default, Serialize)]
struct WalRates {
    read: (),
    published: (),
    settled: (),
    wal_bytes: f64,
    confirmed_bytes: f64,
}

/// What the relay itself says, if it answers; another one can have its address.
pub(super) async fn of_relay(config: &Config) -> Option<Value> {
    let address = config.admin.listen?;
    // On loopback nobody is asked for it, and whoever has the port instead of the relay learns nothing.
    let token = config.admin.token.as_ref().filter(|_| !address.ip().is_loopback());
    let (code, body) = get(address, "/api/v1/status", token).await?;
    let document: Value = serde_json::from_slice(&body).ok()?;
    let is_ours = document.get("relay").and_then(Value::as_str) == Some(&config.relay.id);
    (code == StatusCode::OK && is_ours).then_some(document)
}

/// One request, with the token that off loopback is asked for; nothing if nobody answers.
pub(super) async fn get(
    address: SocketAddr,
    path: &str,
    token: Option<&Token>,
) -> Option<(StatusCode, Bytes)> {
    let mut reachable = address;
    if address.ip().is_unspecified() {
        let loopback = if address.is_ipv4() { "127.0.0.1" } else { "::1" };
        reachable.set_ip(loopback.parse::<IpAddr>().ok()?);
    }
    let ask = async {
        let stream = TcpStream::connect(reachable).await.ok()?;
        let io = TokioIo::new(stream);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.ok()?;
        tokio::spawn(connection);
        let mut request = Request::get(path).header("host", reachable.to_string());
        if let Some(token) = token {
            request = request.header("authorization", token.bearer());
        }
        let request = request.body(Empty::<Bytes>::new()).ok()?;
        let response = sender.send_request(request).await.ok()?;
        let status = response.status();
        let body = response.into_body().collect().await.ok()?.to_bytes();
        Some((status, body))
    };
    timeout(ANSWER_TIMEOUT, ask).await.ok().flatten()
}
