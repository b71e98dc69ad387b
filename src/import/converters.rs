//! Converters: in which form key, value and headers are written.

use super::draft::Draft;
use super::parse::{Form, Options};

/// What a converter writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Written {
    Text,
    Json,
    /// JSON with its schema in each record.
    Schemas,
    /// The bytes that are there.
    Bytes,
    /// Something else.
    Other,
    /// Nobody says here.
    Unknown,
}

/// Takes converters and the payload's options over.
pub(super) fn import(options: &mut Options, draft: &mut Draft, router: &str) {
    let mut forms = Vec::new();
    for part in ["key", "value", "header"] {
        let (option, class, written) = converter(options, part);
        let origin = options.written(&option);
        let default = class.is_none();
        let ours = match written {
            Written::Json | Written::Schemas => "json",
            Written::Text | Written::Bytes | Written::Other | Written::Unknown => "text",
        };
        let key = if part == "header" { "headers" } else { part };
        let from = if default { format!("{origin}, by default") } else { origin.clone() };
        draft.set("envelope.debezium", key, ours, from);
        let class = class.unwrap_or_default();
        match written {
            Written::Schemas => draft.differs(
                origin,
                "schemas.enable is true (the default): outboxd writes JSON without a schema in each \
                 record. Consumers that expect one need schemas.enable=false first",
            ),
            Written::Other => draft.differs(
                origin,
                format!("{class} is not known: set envelope.debezium.{key} to text or json"),
            ),
            Written::Unknown => draft.differs(
                origin,
                format!(
                    "not set here, so the worker's own counts: if that is the JSON converter, set \
                     envelope.debezium.{key} = \"json\""
                ),
            ),
            Written::Text | Written::Json | Written::Bytes => {}
        }
        forms.push(ours);
    }
    let has_json_value = forms.get(1) == Some(&"json");
    let option = format!("{router}route.tombstone.on.empty.payload");
    if let Some(is_on) = options.take_flag(&option) {
        draft.set("envelope.debezium", "tombstone_on_empty", is_on, options.written(&option));
    }
    let option = format!("{router}table.expand.json.payload");
    let expands = options.take_flag(&option) == Some(true);
    let written = options.written(&option);
    if expands && has_json_value {
        draft.set("envelope.debezium", "expand", true, written.as_str());
        draft.differs(
            written,
            "the payload is embedded as it is: nulls, empty arrays, the form of numbers and the order \
             of members stay, and an array at the root does not stop the stream",
        );
    } else if expands {
        draft.differs(
            written,
            "with a string converter the payload is not expanded: JSON is written, not Struct{…}",
        );
    }
    for name in ["table.json.payload.null.behavior", "table.json.payload.empty.array.behavior"] {
        let option = format!("{router}{name}");
        if options.take(&option).is_some() {
            draft.pass(options.written(&option), "nulls and empty arrays always stay");
        }
    }
}

/// The option, the class or format if there is one, and what it writes.
fn converter(options: &mut Options, part: &str) -> (String, Option<String>, Written) {
    let option = match options.form {
        Form::Connect => format!("{part}.converter"),
        Form::Server => format!("format.{part}"),
    };
    let class = options.take_set(&option);
    let has_schemas = options.take_flag(&format!("{option}.schemas.enable")) != Some(false);
    for name in options.names(&format!("{option}.")) {
        options.take(&name);
    }
    let json = if has_schemas { Written::Schemas } else { Written::Json };
    let short = class.as_deref().map(|class| class.rsplit('.').next().unwrap_or(class));
    let written = match (options.form, short) {
        (Form::Connect, None) if part == "header" => Written::Text,
        (Form::Connect, None) => Written::Unknown,
        (Form::Server, None) => json,
        (_, Some("JsonConverter" | "json")) => json,
        (_, Some("StringConverter" | "SimpleHeaderConverter" | "simplestring")) => Written::Text,
        (
            _,
            Some("BinaryDataConverter" | "ByteArrayConverter" | "ByteBufferConverter" | "binary"),
        ) => Written::Bytes,
        (_, Some(_)) => Written::Other,
    };
    (option, class, written)
}
