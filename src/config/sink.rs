//! Settings of where events go: the sink that `sink.kind` names, and how much may be under way to it.

use std::net::IpAddr;
use std::path::PathBuf;

use super::kafka::kafka;
use super::nats::nats;
use super::redis::redis;
use super::secrets::Whose;
use super::settings::Settings;
use crate::ack::Limits;
use crate::names::TopicNames;
use crate::sink::{SinkConfig, hosts_of};

/// The sink, if it can be used at all, what topics can be called there, and what may be in flight.
pub(super) fn sink(
    settings: &mut Settings,
    relay_id: &str,
) -> (Option<SinkConfig>, TopicNames, Limits) {
    let (config, names, limits) = chosen(settings, relay_id);
    if let Some(Err(problem)) = config.as_ref().map(SinkConfig::check_url) {
        settings.problem(problem);
    }
    (config, names, limits)
}

fn chosen(settings: &mut Settings, relay_id: &str) -> (Option<SinkConfig>, TopicNames, Limits) {
    match settings.choice("sink.kind").as_str() {
        "redis" => {
            // The sink itself keeps the order of all that is on its way.
            let limits = limits(settings, "redis", u32::MAX);
            let is_built = built(settings, "redis", cfg!(feature = "redis"));
            let config = is_built.then(|| redis(settings, relay_id, limits)).flatten();
            (config.map(SinkConfig::Redis), TopicNames::Redis, limits)
        }
        "nats" => {
            let limits = limits(settings, "nats", 1);
            let is_built = built(settings, "nats", cfg!(feature = "nats"));
            let config = is_built.then(|| nats(settings, limits)).flatten();
            (config.map(SinkConfig::Nats), TopicNames::Nats, limits)
        }
        _ => {
            let per_key = settings.number("kafka.max_in_flight_per_key");
            let per_key = u32::try_from(per_key).unwrap_or(u32::MAX);
            let limits = limits(settings, "kafka", per_key);
            (Some(SinkConfig::Kafka(kafka(settings, limits))), TopicNames::Kafka, limits)
        }
    }
}

fn built(settings: &mut Settings, feature: &str, is_built: bool) -> bool {
    if !is_built {
        settings.problem(format!(
            "sink.kind = \"{feature}\": this outboxd was built without the feature {feature}"
        ));
    }
    is_built
}

fn limits(settings: &mut Settings, section: &str, per_key: u32) -> Limits {
    let events = settings.number(&format!("{section}.in_flight_events"));
    let bytes = settings.size(&format!("{section}.in_flight_bytes"));
    Limits { events: usize::try_from(events).unwrap_or(usize::MAX), bytes, per_key }
}

/// A text that may be left out.
pub(super) fn optional(settings: &mut Settings, key: &str) -> Option<String> {
    Some(settings.text(key)).filter(|text| !text.is_empty())
}

/// A file that the sink's client reads.
pub(super) fn file(settings: &mut Settings, key: &str) -> Option<PathBuf> {
    let path = PathBuf::from(optional(settings, key)?);
    settings.note_file(Whose::Sink, &path);
    if let Err(error) = std::fs::metadata(&path) {
        settings.problem(format!("{key}: {}: {error}", path.display()));
    }
    Some(path)
}

/// A secret, from the configuration or from the file that its twin names.
pub(super) fn secret(settings: &mut Settings, key: &str) -> Option<String> {
    let twin = format!("{key}_file");
    let (path, text) = (optional(settings, &twin), settings.text(key));
    let Some(path) = path else {
        return Some(text).filter(|text| !text.is_empty());
    };
    if settings.is_chosen(key) {
        settings.problem(format!("{key} and {twin}: only one of them"));
    }
    let text = settings.secret_file(Whose::Sink, &twin, &path)?;
    Some(text.trim_end_matches(['\r', '\n']).to_owned())
}

/// The files of TLS: `tls_ca`, `tls_cert` and `tls_key`. Certificate and key come together.
pub(super) fn tls_files(settings: &mut Settings, section: &str) -> [Option<PathBuf>; 3] {
    let names = ["tls_ca", "tls_cert", "tls_key"];
    let files = names.map(|name| file(settings, &format!("{section}.{name}")));
    let [_, cert, key] = &files;
    if cert.is_some() != key.is_some() {
        settings.problem(format!("{section}.tls_cert and {section}.tls_key: only both of them"));
    }
    files
}

/// Whether all of these `host:port`, with or without a scheme and a login, are on this machine.
pub(super) fn are_loopback(servers: &str) -> bool {
    hosts_of(servers).split(',').all(|host| {
        let host = host.rsplit_once(':').map_or(host, |(host, _)| host);
        let host = host.trim_matches(['[', ']']);
        host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
    })
}

/// The scheme of each of several addresses.
///
/// # Errors
/// One has another scheme, or no host.
pub(super) fn schemes<'a>(url: &'a str, known: &[&str]) -> Result<Vec<&'a str>, String> {
    let scheme = |part: &'a str| {
        let (scheme, rest) = part.trim().split_once("://").unwrap_or(("", part.trim()));
        let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
        match known.contains(&scheme) && !host.is_empty() && !host.starts_with(['/', ':', '?']) {
            true => Ok(scheme),
            false => Err(format!("expected {}://host:port", known.join("://host:port or "))),
        }
    };
    url.split(',').map(scheme).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_on_this_machine_are_known() {
        for local in ["localhost:1", "redis://u:p@127.0.0.1:1/0", "nats://[::1]:1,tls://localhost"]
        {
            assert!(are_loopback(local), "{local}");
        }
        for other in ["db:1", "redis://127.0.0.1@db:1", "nats://localhost,nats://db"] {
            assert!(!are_loopback(other), "{other}");
        }
    }

    #[test]
    fn addresses_of_another_kind_are_refused() {
        assert_eq!(schemes("redis://a,rediss://u:p@b:1/2", &["redis", "rediss"]).unwrap().len(), 2);
        for bad in ["http://a", "a:6379", "redis://", "redis://:6379", "redis://a,,", ""] {
            assert!(schemes(bad, &["redis", "rediss"]).is_err(), "{bad}");
        }
    }
}
