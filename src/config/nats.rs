//! Settings of NATS JetStream.

use super::settings::Settings;
use super::sink::{are_loopback, file, optional, schemes, secret, tls_files};
use crate::ack::Limits;
use crate::sink::{NatsConfig, StreamShape};

pub(super) fn nats(settings: &mut Settings, limits: Limits) -> Option<NatsConfig> {
    let url = secret(settings, "nats.url").unwrap_or_default();
    let schemes = match schemes(&url, &["nats", "tls"]) {
        Ok(schemes) => schemes,
        Err(problem) => {
            settings.problem(format!("nats.url: {problem}"));
            return None;
        }
    };
    let is_plain = schemes.contains(&"nats");
    let user = optional(settings, "nats.user");
    let password = secret(settings, "nats.password");
    let token = secret(settings, "nats.token");
    let credentials_file = file(settings, "nats.credentials_file");
    if [user.is_some(), token.is_some(), credentials_file.is_some()]
        .into_iter()
        .filter(|is| *is)
        .count()
        > 1
    {
        settings.problem("nats.user, nats.token and nats.credentials_file: only one of them");
    }
    if password.is_some() && user.is_none() {
        settings.problem("nats.password needs nats.user");
    }
    let [tls_ca, tls_cert, tls_key] = tls_files(settings, "nats");
    let has_secret = password.is_some() || token.is_some() || url.contains('@');
    // With a CA there is TLS in any case.
    if is_plain && tls_ca.is_none() && has_secret && !are_loopback(&url) {
        settings.warn("nats.url: nats:// shows the password to everybody on the way: set tls://");
    }
    let create = settings.boolean("nats.create_streams");
    let replicas = settings.number("nats.replicas");
    let shape = StreamShape {
        replicas: usize::try_from(replicas).unwrap_or(usize::MAX),
        duplicate_window: settings.duration("nats.duplicate_window"),
    };
    if shape.duplicate_window.is_zero() {
        settings.problem("nats.duplicate_window: expected more than 0s");
    }
    Some(NatsConfig {
        user,
        password,
        token,
        credentials_file,
        tls_ca,
        tls_cert,
        tls_key,
        stream: optional(settings, "nats.stream"),
        create_streams: create.then_some(shape),
        in_flight_events: limits.events,
        in_flight_bytes: limits.bytes,
        url,
    })
}
