//! The outbox event router's options: columns, placements, payload, and what it does with the rest.

use super::draft::Draft;
use super::parse::{Form, Options};
use super::{ImportError, converters, placement, route};

const ROUTER: &str = "io.debezium.transforms.outbox.EventRouter";
const DECODE: &str =
    "io.debezium.connector.postgresql.transforms.DecodeLogicalDecodingMessageContent";

/// Takes the router's options over, and tells of other transformations.
pub(super) fn import(options: &mut Options, draft: &mut Draft) -> Result<(), ImportError> {
    let class = options.take_set("connector.class");
    if let Some(class) = class.filter(|class| !class.ends_with("PostgresConnector")) {
        return Err(ImportError::OtherConnector { class });
    }
    let list = options.take("transforms").unwrap_or_default();
    let mut router = None;
    for name in list.split(',').map(str::trim).filter(|name| !name.is_empty()) {
        let prefix = format!("transforms.{name}.");
        let class = options.take_set(&format!("{prefix}type")).unwrap_or_default();
        if class == ROUTER && router.is_none() {
            router = Some(prefix);
            continue;
        }
        for option in options.names(&prefix) {
            options.take(&option);
        }
        let text = match class.as_str() {
            DECODE => {
                "logical messages are not taken from it: this is the import of a table".to_owned()
            }
            class => format!("transformation {class} is not done"),
        };
        draft.differs(options.written(&format!("transforms.{name}")), text);
    }
    let router = router.ok_or(ImportError::NoRouter)?;
    events(options, draft, &router)?;
    behavior(options, draft, &router)?;
    for option in options.names(&router) {
        options.take(&option);
        draft.differs(
            options.written(&option),
            "no option of the outbox event router that is known",
        );
    }
    Ok(())
}

/// What a row becomes.
fn events(options: &mut Options, draft: &mut Draft, router: &str) -> Result<(), ImportError> {
    let mut column = |draft: &mut Draft, field: &'static str, option: &str, default: &str| {
        let name = format!("{router}{option}");
        let set = options.take_set(&name);
        let written = options.written(&name);
        let origin = if set.is_some() { written } else { format!("{written}, by default") };
        let column = set.unwrap_or_else(|| default.to_owned());
        draft.set("outbox.columns", field, column.as_str(), origin);
        column
    };
    let id = column(draft, "id", "table.field.event.id", "id");
    let kind = column(draft, "aggregate_type", "route.by.field", "aggregatetype");
    let key = column(draft, "aggregate_id", "table.field.event.key", "aggregateid");
    let event = column(draft, "event_type", "table.field.event.type", "type");
    let payload = column(draft, "payload", "table.field.event.payload", "payload");
    // A column of ours that happens to be in the table means nothing to Debezium.
    for name in ["headers", "key", "partition_by", "scheduled_at", "max_attempts"] {
        draft.set("outbox.columns", name, "", "Debezium knows no such column");
    }
    let fields = [
        ("id", id.as_str()),
        ("aggregate_type", kind.as_str()),
        ("aggregate_id", key.as_str()),
        ("event_type", event.as_str()),
        ("payload", payload.as_str()),
        ("event_id", id.as_str()),
        ("position", ""),
        ("content_type", ""),
        ("headers", ""),
        ("key", ""),
        ("partition_by", ""),
        ("partition", ""),
        ("scheduled_at", ""),
        ("max_attempts", ""),
    ];
    draft.set("route", "topic", "", "Debezium knows no such column");
    route::import(options, draft, router)?;
    draft.set("envelope", "format", "debezium", ROUTER);
    let option = format!("{router}table.fields.additional.placement");
    placement::import(options, draft, &option, &fields)?;
    time(options, draft, &format!("{router}table.field.event.timestamp"));
    converters::import(options, draft, router);
    Ok(())
}

fn time(options: &mut Options, draft: &mut Draft, option: &str) {
    let Some(column) = options.take_set(option) else {
        return;
    };
    let written = options.written(option);
    match options.form {
        Form::Connect => draft.set("envelope", "record_timestamp", column, written),
        Form::Server => draft.differs(
            written,
            format!(
                "Debezium Server does not write it to the record, so it is left out; set \
                 envelope.record_timestamp = \"{column}\" to have it"
            ),
        ),
    }
}

/// What the router does with what it does not like, and what it adds of its own.
fn behavior(options: &mut Options, draft: &mut Draft, router: &str) -> Result<(), ImportError> {
    let option = format!("{router}table.op.invalid.behavior");
    choice(options, &option, &["warn", "error", "fatal"], "warn, error, fatal")?.inspect(|_| {
        draft.pass(
            options.written(&option),
            "updates of a row are not published, and nobody is told",
        );
    });
    let option = format!("{router}table.field.additional.missing");
    if let Some(value) = choice(options, &option, &["error", "ignore"], "error, ignore")? {
        let text = "a column that is placed and missing is told at the start";
        match value.as_str() {
            "ignore" => draft.differs(options.written(&option), text),
            _ => draft.pass(options.written(&option), text),
        }
    }
    let option = format!("{router}table.field.event.schema.version");
    if options.take_set(&option).is_some() {
        draft.pass(
            options.written(&option),
            "records have no schema, so nobody would see its version",
        );
    }
    for name in
        ["tracing.span.context.field", "tracing.operation.name", "tracing.with.context.field.only"]
    {
        let option = format!("{router}{name}");
        if options.take(&option).is_some() {
            let text =
                "spans are not made; place a traceparent column in a header to pass a trace on";
            draft.differs(options.written(&option), text);
        }
    }
    for name in ["predicate", "negate"] {
        let option = format!("{router}{name}");
        if options.take(&option).is_some() {
            let text = "only rows of the outbox table arrive, all of them are published";
            draft.differs(options.written(&option), text);
        }
    }
    let option = "extended.headers.enabled";
    if options.take_flag(option) != Some(false) {
        let text = "the headers __debezium.context.* are not written (they are since Debezium 3.2, \
                    unless this is false)";
        draft.differs(options.written(option), text);
    }
    Ok(())
}

/// An option that has one of a few values.
fn choice(
    options: &mut Options,
    option: &str,
    values: &[&str],
    expected: &'static str,
) -> Result<Option<String>, ImportError> {
    let Some(value) = options.take(option) else {
        return Ok(None);
    };
    let lower = value.trim().to_ascii_lowercase();
    if values.contains(&lower.as_str()) {
        return Ok(Some(lower));
    }
    Err(ImportError::BadValue { option: options.written(option), value, expected })
}
