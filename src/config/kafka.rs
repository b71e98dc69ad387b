//! Settings of Kafka: librdkafka's properties from all places, with the secrets that lie in files.

use std::collections::BTreeMap;
use std::path::Path;

use super::secrets::Whose;
use super::settings::Settings;
use super::sink::are_loopback;
use crate::ack::Limits;
use crate::sink::{KafkaConfig, TopicShape, reserved_property};

/// `sasl.password_file` names the file that holds `sasl.password`; so with every property.
const IN_A_FILE: &str = "_file";

/// Properties that name a file which librdkafka reads.
const LOCATION: &str = ".location";

pub(super) fn kafka(settings: &mut Settings, limits: Limits) -> KafkaConfig {
    let bootstrap_servers = settings.text("kafka.bootstrap_servers");
    if bootstrap_servers.trim().is_empty() {
        settings.problem("kafka.bootstrap_servers: expected host:port of at least one broker");
    }
    let properties = properties(settings);
    warn_of_listeners(settings, &bootstrap_servers, &properties);
    let create = settings.boolean("kafka.create_topics");
    let shape = TopicShape {
        partitions: i32::try_from(settings.integer("kafka.partitions")).unwrap_or(i32::MAX),
        replication: i32::try_from(settings.integer("kafka.replication")).unwrap_or(i32::MAX),
    };
    if shape.replication == 0 {
        settings.problem("kafka.replication: expected -1 for the brokers' default, or at least 1");
    }
    KafkaConfig {
        bootstrap_servers,
        properties,
        in_flight_events: limits.events,
        in_flight_bytes: limits.bytes,
        ask_limits: true,
        create_topics: create.then_some(shape),
    }
}

/// Those of the configuration, over which those of the file go.
fn properties(settings: &mut Settings) -> BTreeMap<String, String> {
    let mut properties = settings.table("kafka.properties");
    if settings.is_chosen("kafka.properties_file") {
        let path = settings.text("kafka.properties_file");
        let text = settings.secret_file(Whose::Sink, "kafka.properties_file", &path);
        let text = text.unwrap_or_default();
        let lines = text.lines().map(str::trim);
        for line in lines.filter(|line| !line.is_empty() && !line.starts_with('#')) {
            match line.split_once('=') {
                Some((name, value)) => {
                    properties.insert(name.trim().to_owned(), value.trim().to_owned());
                }
                None => settings.problem(format!(
                    "kafka.properties_file: {path}: expected name=value in each line"
                )),
            }
        }
    }
    let in_files = properties.iter().filter_map(|(name, path)| {
        Some((name.clone(), name.strip_suffix(IN_A_FILE)?.to_owned(), path.clone()))
    });
    for (twin, name, path) in in_files.collect::<Vec<_>>() {
        properties.remove(&twin);
        if properties.contains_key(&name) {
            settings.problem(format!("kafka.properties: {name} and {twin}: only one of them"));
        }
        let key = format!("kafka.properties: {twin}");
        if let Some(text) = settings.secret_file(Whose::Sink, &key, &path) {
            properties.insert(name, text.trim_end_matches(['\r', '\n']).to_owned());
        }
    }
    for (name, value) in &properties {
        if let Some(reason) = reserved_property(name) {
            settings.problem(format!("kafka.properties: {name} cannot be set: {reason}"));
        }
        if name.ends_with(LOCATION) {
            settings.note_file(Whose::Sink, Path::new(value));
        }
    }
    properties
}

/// What a network can see, or pretend to be.
fn warn_of_listeners(
    settings: &mut Settings,
    servers: &str,
    properties: &BTreeMap<String, String>,
) {
    let is = |name: &str, value: &str| {
        properties.get(name).is_some_and(|found| found.eq_ignore_ascii_case(value))
    };
    if are_loopback(servers) {
        return;
    }
    if is("security.protocol", "sasl_plaintext") {
        settings.warn(
            "kafka.properties: security.protocol = SASL_PLAINTEXT shows the password (PLAIN), or \
             what it can be guessed from (SCRAM), to everybody on the way: set SASL_SSL",
        );
    }
    if is("enable.ssl.certificate.verification", "false") {
        settings.warn(
            "kafka.properties: enable.ssl.certificate.verification = false takes everybody for the \
             broker: set ssl.ca.location",
        );
    }
    if is("ssl.endpoint.identification.algorithm", "none") {
        settings.warn(
            "kafka.properties: ssl.endpoint.identification.algorithm = none takes whoever has a \
             certificate for the broker: leave it out",
        );
    }
}
