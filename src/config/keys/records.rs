//! Keys of what is published: topics, formats, headers.

use super::super::key::{Key, Kind, key};
use crate::outbox::Format;
use Kind::{Boolean, Choice, List, Table, Text};

const CONVERTERS: &[&str] = &["text", "json"];

pub(super) const KEYS: &[Key] = &[
    key(
        "route.map",
        Table,
        "{}",
        "Topics by event type, before anything else: { \"UserCreated\" = \"identity.user.v1\" }.",
    ),
    key(
        "route.unmapped",
        Choice(&["default", "error"]),
        "\"default\"",
        "An event whose type is not in route.map: the other settings say where it goes (default), or it is a dead letter (error).",
    ),
    key(
        "route.topic",
        Text,
        "\"{topic}\"",
        "The topic, if every name in braces has a value: fields of the event, or columns.",
    ),
    key("route.default", Text, "\"outbox.{aggregate_type}\"", "The topic otherwise."),
    key("route.by", Text, "\"aggregate_type\"", "The field or column that route.regex looks at."),
    key(
        "route.regex",
        Text,
        "\"\"",
        "In place of route.default, as Debezium does it: the value of route.by has to match it as a whole, else the value itself is the topic.",
    ),
    key(
        "route.replacement",
        Text,
        "\"\"",
        "The topic of a value that matches route.regex, with its groups as $1 or ${name}.",
    ),
    key(
        "route.allow",
        List,
        "[]",
        "The topics that events may have: regular expressions of whole names. Any, if there are none.",
    ),
    key(
        "envelope.format",
        Choice(&Format::NAMES),
        "\"envelope\"",
        "The record: JSON around the payload (envelope), the payload alone (payload), a CloudEvent in either mode, or what Debezium's outbox event router makes (debezium).",
    ),
    key(
        "envelope.source",
        Text,
        "\"/outboxd\"",
        "A CloudEvent's source: a URI or a reference that names the service.",
    ),
    key(
        "envelope.headers",
        List,
        "",
        "The record headers beside the row's own: event_id, position, content_type, fields and columns, or \"name=source\". Default: event_id; with format payload also event_type; with debezium id.",
    ),
    key(
        "envelope.record_timestamp",
        Text,
        "\"publish\"",
        "The record's timestamp: when it is published (publish), when its transaction committed (commit), or a field or column. Kafka's retention deletes records with old ones.",
    ),
    key(
        "envelope.debezium.key",
        Choice(CONVERTERS),
        "\"text\"",
        "The key's converter in format debezium: String (text), or JSON without schemas.",
    ),
    key(
        "envelope.debezium.value",
        Choice(CONVERTERS),
        "\"text\"",
        "The value's converter in format debezium.",
    ),
    key(
        "envelope.debezium.headers",
        Choice(CONVERTERS),
        "\"text\"",
        "The headers' form in format debezium: Kafka Connect's (text), or Debezium Server's (json).",
    ),
    key(
        "envelope.debezium.members",
        List,
        "[]",
        "What Debezium places in its envelope, beside the payload: \"column\" or \"alias=column\".",
    ),
    key(
        "envelope.debezium.tombstone_on_empty",
        Boolean,
        "false",
        "In format debezium, an empty payload is a tombstone.",
    ),
    key(
        "envelope.debezium.expand",
        Boolean,
        "false",
        "In format debezium with JSON values, a payload that is JSON is embedded as it is, rather than as a string.",
    ),
];
