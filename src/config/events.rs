//! Settings become what makes events of rows: columns, routing, formats.

use std::collections::BTreeMap;

use toml::Value;

use super::key::Kind;
use super::settings::{Settings, expected, plain};
use crate::outbox::columns::{ColumnMap, Field, FieldConfig, Source};
use crate::outbox::{
    Converter, DebeziumConfig, EventConfig, Format, FormatConfig, PayloadEncoding, RecordTimestamp,
    RouteConfig, TopicNames,
};

pub(super) fn events(settings: &mut Settings, names: TopicNames) -> EventConfig {
    let format = Format::by_name(&settings.choice("envelope.format")).unwrap_or(Format::Envelope);
    let headers = if settings.is_chosen("envelope.headers") {
        settings.list("envelope.headers")
    } else {
        format.usual_headers().iter().map(|name| (*name).to_owned()).collect()
    };
    let events = EventConfig {
        columns: ColumnMap::new(|field| field_config(settings, field)),
        payload_encoding: match settings.choice("outbox.payload_encoding").as_str() {
            "text" => PayloadEncoding::Text,
            _ => PayloadEncoding::Auto,
        },
        route: route(settings, names),
        format: FormatConfig {
            format,
            source: settings.text("envelope.source"),
            debezium: debezium(settings),
        },
        headers,
        record_timestamp: match settings.text("envelope.record_timestamp").as_str() {
            "publish" => RecordTimestamp::Publish,
            "commit" => RecordTimestamp::Commit,
            name => RecordTimestamp::Named(name.to_owned()),
        },
    };
    for problem in events.problems() {
        settings.problem(problem.to_string());
    }
    events
}

fn route(settings: &mut Settings, names: TopicNames) -> RouteConfig {
    RouteConfig {
        map: settings.table("route.map"),
        only_mapped: settings.choice("route.unmapped") == "error",
        topic: settings.text("route.topic"),
        default: settings.text("route.default"),
        by: settings.text("route.by"),
        regex: settings.text("route.regex"),
        replacement: settings.text("route.replacement"),
        allow: settings.list("route.allow"),
        names,
    }
}

fn debezium(settings: &mut Settings) -> DebeziumConfig {
    let mut converter = |path| match settings.choice(path).as_str() {
        "json" => Converter::Json,
        _ => Converter::Text,
    };
    let key = converter("envelope.debezium.key");
    let value = converter("envelope.debezium.value");
    let headers = converter("envelope.debezium.headers");
    DebeziumConfig {
        key,
        value,
        headers,
        members: settings.list("envelope.debezium.members"),
        tombstone_on_empty: settings.boolean("envelope.debezium.tombstone_on_empty"),
        expand: settings.boolean("envelope.debezium.expand"),
    }
}

fn field_config(settings: &mut Settings, field: Field) -> FieldConfig {
    let path = format!("outbox.columns.{}", field.name());
    let chosen = settings.is_chosen(&path);
    let Some(setting) = settings.get(&path) else {
        return FieldConfig::default();
    };
    let origin = setting.origin.clone();
    let (source, default) = match &setting.value {
        Value::String(name) if name.is_empty() => (None, None),
        Value::String(name) => (Some(Source::Column(name.clone())), None),
        Value::Table(table) => {
            let mut entries: BTreeMap<_, _> = table
                .iter()
                .filter_map(|(name, value)| Some((name.as_str(), plain(value)?)))
                .collect();
            let default = entries.remove("default");
            let source = match entries.into_iter().collect::<Vec<_>>().as_slice() {
                [("column", name)] => Some(Source::Column(name.clone())),
                [("payload", pointer)] => Some(Source::Payload(pointer.clone())),
                [("const", value)] => Some(Source::Const(value.clone())),
                _ => None,
            };
            if source.is_none() {
                settings.problem(format!("{path} ({origin}): expected {}", expected(Kind::Field)));
            }
            (source, default)
        }
        _ => {
            settings.problem(format!("{path} ({origin}): expected {}", expected(Kind::Field)));
            (None, None)
        }
    };
    FieldConfig { source, default, chosen }
}
