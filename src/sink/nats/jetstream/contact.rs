//! Connections to NATS, and why there is none.

use std::time::Duration;

use async_nats::{Client, ConnectError, ConnectErrorKind, ConnectOptions, Event, ServerAddr};
use tokio::sync::{mpsc, watch};

use super::api::{Api, Denials};
use super::tls::{client_config, explain};
use super::{NatsConfig, NoContact};

/// A server that says nothing for this long, while we connect or ask, does not answer.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// How often an idle connection is looked at; the third time without an answer it is lost.
const PING_EVERY: Duration = Duration::from_secs(10);
/// What the client has to tell at once; nothing of it is worth more room.
const EVENTS: usize = 256;

/// A connection.
pub(super) struct Connection {
    pub(super) client: Client,
    /// What the client has to tell.
    pub(super) events: mpsc::Receiver<Event>,
    denials: watch::Sender<Denials>,
}

impl Connection {
    /// A way to ask JetStream.
    pub(super) fn api(&self) -> Api {
        let (client, denials) = (self.client.clone(), self.denials.subscribe());
        Api { client, denials, within: ANSWER_WITHIN }
    }

    /// Tells those who ask that they may not.
    pub(super) fn deny(&self, subject: &str) {
        self.denials.send_modify(|denials| *denials.entry(subject.to_owned()).or_default() += 1);
    }

    /// Other servers of the cluster, as this one knows them.
    pub(super) fn others(&self) -> Vec<ServerAddr> {
        let urls = self.client.server_info().connect_urls;
        urls.iter().filter_map(|url| url.parse().ok()).collect()
    }
}

/// Connects to one of the servers: those of the configuration, and `others`.
///
/// # Errors
/// Why there is no connection.
pub(super) async fn connect(
    config: &NatsConfig,
    others: &[ServerAddr],
) -> Result<Connection, NoContact> {
    let mut servers = servers(config).map_err(NoContact::Config)?;
    let options = options(config, &servers)?;
    for other in others {
        if !servers.iter().any(|known| known.host() == other.host() && known.port() == other.port())
        {
            servers.push(other.clone());
        }
    }
    let (tell, events) = mpsc::channel(EVENTS);
    let options = options.event_callback(move |event| {
        // What finds no room is told again by what follows from it.
        let _ = tell.try_send(event);
        std::future::ready(())
    });
    let client = options.connect(servers).await.map_err(|error| no_contact(&error))?;
    Ok(Connection { client, events, denials: watch::Sender::default() })
}

/// The servers that the configuration names.
pub(super) fn servers(config: &NatsConfig) -> Result<Vec<ServerAddr>, String> {
    let parse = |part: &str| {
        part.trim().parse::<ServerAddr>().map_err(|error| format!("nats.url: {error}"))
    };
    config.url.split(',').map(parse).collect()
}

fn options(config: &NatsConfig, servers: &[ServerAddr]) -> Result<ConnectOptions, NoContact> {
    let room = 4 * config.in_flight_events + 4096;
    let mut options = ConnectOptions::new()
        .name("outboxd")
        .connection_timeout(ANSWER_WITHIN)
        .ping_interval(PING_EVERY)
        // Subjects are looked up before anything is sent to them, and a name that is none has no stream.
        .skip_subject_validation(true)
        // As many answers as messages can be on their way, and some that are asked for twice.
        .subscription_capacity(room)
        .client_capacity(room);
    let wants_tls = servers.iter().any(ServerAddr::tls_required)
        || config.tls_ca.is_some()
        || config.tls_cert.is_some();
    // A server can want it by itself.
    match client_config(config) {
        Ok(tls) => options = options.tls_client_config(tls).require_tls(wants_tls),
        Err(problem) if wants_tls => return Err(NoContact::Tls(problem)),
        Err(_) => {}
    }
    login(config, servers, options).map_err(NoContact::Login)
}

fn login(
    config: &NatsConfig,
    servers: &[ServerAddr],
    options: ConnectOptions,
) -> Result<ConnectOptions, String> {
    if let Some(path) = &config.credentials_file {
        let wrong = |error: &dyn std::fmt::Display| {
            format!("nats.credentials_file {}: {error}", path.display())
        };
        let text = std::fs::read_to_string(path).map_err(|error| wrong(&error))?;
        // A seed alone is the user's whole login where there are no JWTs.
        if text.trim().starts_with("SU") {
            return Ok(options.nkey(text.trim().to_owned()));
        }
        return options.credentials(&text).map_err(|error| wrong(&error));
    }
    if let Some(token) = &config.token {
        return Ok(options.token(token.clone()));
    }
    if let Some(user) = &config.user {
        let password = config.password.clone().unwrap_or_default();
        return Ok(options.user_and_password(user.clone(), password));
    }
    let decoded =
        |text: &str| percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned();
    let named = servers.iter().find_map(|server| Some((server.username()?, server.password())));
    Ok(match named {
        Some((user, Some(password))) => options.user_and_password(decoded(user), decoded(password)),
        Some((token, None)) => options.token(decoded(token)),
        None => options,
    })
}

/// What an error of connecting says.
fn no_contact(error: &ConnectError) -> NoContact {
    if let Some(text) = explain(error) {
        return NoContact::Tls(text);
    }
    let text = chain(error);
    match error.kind() {
        ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation => {
            NoContact::Login(text)
        }
        ConnectErrorKind::Tls => NoContact::Tls(text),
        ConnectErrorKind::ServerParse => NoContact::Config(text),
        _ if is_about_login(&text) => NoContact::Login(text),
        _ => NoContact::Unreachable(text),
    }
}

/// Whether a complaint of the server's is about who we are.
pub(super) fn is_about_login(complaint: &str) -> bool {
    let text = complaint.to_ascii_lowercase();
    ["authorization", "authentication", "account"].iter().any(|word| text.contains(word))
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}
