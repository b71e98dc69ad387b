//! The producer's properties: from Java's client to librdkafka.

use toml::{Table, Value};

use super::draft::Draft;
use super::parse::{Form, Options};
use crate::sink::reserved_property;

/// Properties that both clients know, by one name and meaning.
const SHARED: [&str; 14] = [
    "client.id",
    "client.rack",
    "compression.type",
    "connections.max.idle.ms",
    "linger.ms",
    "metadata.max.age.ms",
    "reconnect.backoff.max.ms",
    "reconnect.backoff.ms",
    "request.timeout.ms",
    "retry.backoff.max.ms",
    "retry.backoff.ms",
    "sasl.kerberos.service.name",
    "sasl.mechanism",
    "security.protocol",
];

/// Properties of Java's client alone, and what takes their place.
const JAVA: [(&str, &str); 10] = [
    ("key.serializer", "envelope.debezium.key says it"),
    ("value.serializer", "envelope.debezium.value says it"),
    ("buffer.memory", "kafka.in_flight_bytes bounds it"),
    ("max.request.size", "it follows what the topics take"),
    ("max.block.ms", "reading stops while Kafka does not take more"),
    ("partitioner.class", "the relay computes the partition, as Java's client does by default"),
    ("receive.buffer.bytes", "the system's default counts"),
    ("send.buffer.bytes", "the system's default counts"),
    ("interceptor.classes", "there are none"),
    ("metric.reporters", "metrics are on /metrics"),
];

/// Takes the producer's properties over.
pub(super) fn import(options: &mut Options, draft: &mut Draft) {
    let prefix = match options.form {
        Form::Connect => "producer.override.",
        Form::Server => "sink.kafka.producer.",
    };
    servers(options, draft, prefix);
    if options.form == Form::Server {
        let kind = options.take_set("sink.type");
        if let Some(kind) = kind.filter(|kind| kind != "kafka") {
            draft.differs(
                options.written("sink.type"),
                format!("{kind}: outboxd publishes to Kafka"),
            );
        }
    }
    let mut properties = Table::new();
    for option in options.names(prefix) {
        let written = options.written(&option);
        let has_expression = options.expressions.contains(&option);
        let value = options.take(&option).unwrap_or_default();
        let name = option.strip_prefix(prefix).unwrap_or_default();
        if let Some(reason) = reserved_property(name) {
            draft.pass(written, reason);
        } else if let Some((_, reason)) = JAVA.iter().find(|(java, _)| *java == name) {
            draft.pass(written, *reason);
        } else if has_expression {
            let text =
                format!("an expression gives its value: set {name} in kafka.properties_file");
            draft.differs(written, text);
        } else if SHARED.contains(&name) {
            properties.insert(name.to_owned(), Value::String(value));
        } else if name == "sasl.jaas.config" {
            let text = "not printed: set sasl.username and sasl.password in kafka.properties_file";
            draft.differs(written, text);
        } else if name.starts_with("ssl.") {
            let text = "Java's key stores are not read: set ssl.ca.location, \
                        ssl.certificate.location and ssl.key.location to files in PEM, a password in \
                        kafka.properties_file";
            draft.differs(written, text);
        } else {
            let text =
                "not known to be a property of librdkafka: if it is, set it in kafka.properties";
            draft.differs(written, text);
        }
    }
    if !properties.is_empty() {
        draft.set("kafka", "properties", properties, options.written(&format!("{prefix}*")));
    }
}

fn servers(options: &mut Options, draft: &mut Draft, prefix: &str) {
    let option = format!("{prefix}bootstrap.servers");
    let written = options.written(&option);
    let is_known = !options.expressions.contains(&option);
    match options.take_set(&option).filter(|_| is_known) {
        Some(servers) => draft.set("kafka", "bootstrap_servers", servers, written),
        None => {
            let text = "the brokers are not named here (a worker's own configuration names them): set \
                        kafka.bootstrap_servers";
            draft.differs(written, text);
            draft.set("kafka", "bootstrap_servers", "localhost:9092", "set it");
        }
    }
}
