//! Odd rows: whatever a column holds, something can be said of the row, and nothing panics.

use super::*;
use std::sync::LazyLock;

/// What writers, tables and encodings come up with.
static ODD: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let texts = [
        "",
        " ",
        "{}",
        "[]",
        "null",
        "\"\"",
        "{",
        "1e400",
        "NaN",
        "-1",
        "0",
        "1",
        "2147483648",
        "99999999999999999999",
        "infinity",
        "-infinity",
        "2026-13-45 99:99:99+00",
        "-- ::",
        "9999999999-01-01 00:00:00+00",
        "\\x",
        "\\x0",
        "\\xzz",
        "\\x00FF",
        "ü",
        "a b",
        "..",
        "\0",
        r#"{"a": "\u0000"}"#,
        r#"{"\u0000": "\u0000"}"#,
        r#"{"a": "\ud800"}"#,
        r#"{"\udc00": 1}"#,
        r#"{"a": "2026-11-21T06:00:00Z"}"#,
        r#"{"a": null, "a": {"a": [1]}, "": ""}"#,
    ];
    let mut odd: Vec<Vec<u8>> = texts.iter().map(|text| text.as_bytes().to_vec()).collect();
    let nested =
        |open: &str, close: &str, depth| (open.repeat(depth) + &close.repeat(depth)).into();
    odd.push(nested("[", "]", 100));
    odd.push(nested("[", "]", 100_000));
    odd.push(nested("[", "", 100_000));
    odd.push((r#"{"a": "#.repeat(100) + "1" + &"}".repeat(100)).into());
    odd.push("x".repeat(100_000).into());
    odd.extend([b"\xFF\xFE".to_vec(), b"{\"a\": \"\xFF\"}".to_vec(), b"\xED\xA0\x80".to_vec()]);
    odd
});

/// Everything that a table can be to us.
fn tables() -> Vec<Table> {
    let text = || Table::ours().retyped("payload", "text", Kind::Text);
    let bytes = || Table::ours().retyped("payload", "bytea", Kind::Bytes);
    let mut any_text = text();
    any_text.config.payload_encoding = PayloadEncoding::Text;
    let mut from_payload = Table::ours();
    for field in Field::ALL {
        if !matches!(field, Field::Id | Field::Payload | Field::Headers) {
            let source = Some(Source::Payload("/a".to_owned()));
            from_payload =
                from_payload.field(field, FieldConfig { source, default: None, chosen: true });
        }
    }
    let mut chatty = Table::ours();
    let names = ["event_id", "position", "content_type", "tenant_id", "seq", "payload", "topic"];
    chatty.config.headers = names.map(str::to_owned).to_vec();
    let mut json = DebeziumConfig {
        key: Converter::Json,
        value: Converter::Json,
        headers: Converter::Json,
        members: vec!["occurred_at".to_owned(), "what=event_type".to_owned()],
        tombstone_on_empty: true,
        expand: true,
    };
    let debezium = |config: &DebeziumConfig| {
        let mut table = Table::ours().format(Format::Debezium);
        table.config.format.debezium = config.clone();
        table.config.headers = vec!["id".to_owned(), "t=scheduled_at".to_owned()];
        table
    };
    let mut tables = vec![any_text, from_payload, chatty, debezium(&json)];
    json.value = Converter::Text;
    tables.push(debezium(&json));
    for format in Format::ALL {
        tables.extend([Table::ours(), text(), bytes()].map(|table| table.format(format)));
    }
    tables
}

/// PostgreSQL fills a `char(n)` up; our statements compare, and their answers hold, what it is as a
/// text.
#[test]
fn what_fills_a_char_up_is_left_out() {
    let padded = |format| {
        Table::ours()
            .retyped("id", "character(40)", Kind::Text)
            .retyped("aggregate_id", "character(8)", Kind::Text)
            .retyped("event_type", "character(8)", Kind::Text)
            .retyped("topic", "character(8)", Kind::Text)
            .retyped("status", "character(8)", Kind::Text)
            .retyped("payload", "character(8)", Kind::Text)
            .with("id", Some("evt-1   "))
            .with("aggregate_id", Some(" o-1    "))
            .with("event_type", Some("        "))
            .with("topic", Some("orders  "))
            .with("status", Some("PENDING "))
            .with("payload", Some("1       "))
            .format(format)
    };
    let mut table = padded(Format::Payload);
    table.config.headers = ["event_id", "type=event_type", "status"].map(str::to_owned).to_vec();
    let found = table.published();
    assert_eq!((found.topic.as_str(), found.key.as_deref()), ("orders", Some(" o-1")));
    let headers: Vec<_> = found.headers.iter().map(|(_, value)| value.as_deref()).collect();
    assert_eq!(headers, [Some("evt-1"), Some(""), Some("PENDING")]);
    assert_eq!(text(&found), "1       ", "a payload is never changed");
    // Debezium publishes the blanks.
    let mut table = padded(Format::Debezium).with("topic", Some("orders"));
    table.config.headers = ["id", "event_type"].map(str::to_owned).to_vec();
    let found = table.published();
    assert_eq!(found.key.as_deref(), Some(" o-1    "));
    let headers: Vec<_> = found.headers.iter().map(|(_, value)| value.as_deref()).collect();
    assert_eq!(headers, [Some("evt-1"), Some("        ")]);
    for table in [padded(Format::Envelope), padded(Format::Debezium)] {
        let values: Vec<_> = table.columns.iter().map(|c| c.3.map(str::as_bytes)).collect();
        assert!(table.mapper().is_pending(&values));
        assert_eq!(table.mapper().id(&values).as_deref(), Some("evt-1"));
    }
}

/// JSON that serialising again would change or refuse.
const FRAGILE: [&str; 12] = [
    "{}",
    "null",
    r#""""#,
    "1e400",
    "-0.10",
    "12345678901234567890123",
    r#"{ "b":1,"a":"A", "a":1e400 }"#,
    r#"{"a": "\u0000", "b": "\ud800", "": null}"#,
    r#""\u2028 \/ ü \u00fc""#,
    "[[], [null], {\"x\": [1, 2.0]}]",
    " [1]\n",
    "true",
];

#[test]
fn no_format_changes_a_payloads_bytes() {
    let deep = "[".repeat(100) + &"]".repeat(100);
    for payload in FRAGILE.into_iter().chain([deep.as_str()]) {
        let payload: &'static str = Box::leak(payload.to_owned().into_boxed_str());
        for format in Format::ALL {
            let table = Table::ours().format(format).with("payload", Some(payload));
            let published = table.published();
            let (before, after) = match format {
                Format::Envelope => (",\"payload\":", "}"),
                Format::CloudEventsStructured => (",\"data\":", "}"),
                Format::Payload | Format::CloudEventsBinary | Format::Debezium => ("", ""),
            };
            let expected = format!("{before}{payload}{after}");
            assert!(text(&published).ends_with(&expected), "{format:?}: {}", text(&published));
            let is_alone = before.is_empty();
            assert_eq!(text(&published).len() == payload.len(), is_alone, "{format:?}");
        }
        let mut quoted = Table::ours().format(Format::Debezium).with("payload", Some(payload));
        quoted.config.format.debezium.value = Converter::Json;
        let value = quoted.published();
        assert_eq!(serde_json::from_str::<String>(text(&value)).unwrap(), payload);
    }
}

#[test]
fn a_rows_headers_may_be_large_and_of_any_type() {
    let large = "x".repeat(64 * 1024);
    let json =
        format!(r#"{{"l": "{large}", "e": "", "n": null, "o": {{"a": [1, 1e400]}}, "b": false}}"#);
    let json: &'static str = Box::leak(json.into_boxed_str());
    for format in Format::ALL {
        let published = Table::ours().format(format).with("headers", Some(json)).published();
        let own: Vec<_> = published.headers.iter().rev().take(5).rev().collect();
        let expected = [
            ("l", Some(large.as_str())),
            ("e", Some("")),
            ("n", None),
            ("o", Some(r#"{"a": [1, 1e400]}"#)),
            ("b", Some("false")),
        ];
        let own: Vec<_> =
            own.iter().map(|(name, value)| (name.as_str(), value.as_deref())).collect();
        assert_eq!(own, expected, "{format:?}");
    }
}

/// Something can be said of every row that has an id.
fn look_at(table: &Table, mapper: &mut Mapper, values: &[Option<&[u8]>]) {
    let at = |name| table.columns.iter().position(|column| column.0 == name).unwrap();
    let (id, payload) = (values[at("id")], values[at("payload")]);
    let _ = mapper.is_pending(values);
    match mapper.read(values, POSITION, NOW) {
        None => assert_eq!(id, None),
        Some(Content::Envelope(envelope)) => {
            assert_eq!(Some(envelope.id.as_bytes()), id);
            assert!(TopicNames::Kafka.takes(envelope.topic));
            assert!(envelope.scheduled.is_none_or(|due| due <= NOW));
            assert!(envelope.max_attempts.is_none_or(|tries| tries > 0));
        }
        Some(Content::Scheduled { due, .. }) => assert!(due > NOW),
        Some(Content::Misfit(misfit)) => {
            assert_ne!(misfit.error, MapError::NoId);
            assert!(misfit.topic.as_deref().is_none_or(|topic| TopicNames::Kafka.takes(topic)));
            assert_eq!(misfit.value.is_some(), payload.is_some());
            assert_eq!(misfit.headers.view().iter().count(), misfit.headers.view().count());
        }
        Some(Content::Oversize(misfit)) => panic!("{misfit:?}"),
    }
    match mapper.oversize(values, POSITION, NOW, 7) {
        None => assert_eq!(id, None),
        Some(Content::Oversize(misfit)) => {
            assert_eq!((misfit.error, misfit.value), (MapError::TooLarge { bytes: 7 }, None));
        }
        Some(Content::Scheduled { due, .. }) => assert!(due > NOW),
        Some(other) => panic!("{other:?}"),
    }
}

#[test]
fn one_odd_value_in_any_column_of_any_table_leaves_something_to_say() {
    for table in tables() {
        let mut mapper = table.mapper();
        let usual: Vec<_> = table.columns.iter().map(|c| c.3.map(str::as_bytes)).collect();
        for place in 0..usual.len() {
            for odd in ODD.iter().map(|odd| Some(odd.as_slice())).chain([None]) {
                let mut values = usual.clone();
                values[place] = odd;
                look_at(&table, &mut mapper, &values);
            }
        }
    }
}

/// The fields that an envelope shows, and texts for them: any, and those that look like something.
const SHOWN: [Field; 6] = [
    Field::EventType,
    Field::SchemaVersion,
    Field::OccurredAt,
    Field::TenantId,
    Field::AggregateId,
    Field::AggregateType,
];

fn any_text() -> impl Strategy<Value = String> {
    const TELLING: &[&str] = &[
        "7",
        "0",
        "-12",
        "007",
        "+5",
        "-0",
        "-",
        "1.0",
        "1e3",
        " 7",
        "9223372036854775807",
        "9223372036854775808",
        "",
        "null",
        "\"",
        "\\",
        "2026-11-21 06:00:00.5+00",
        "2026-11-21T06:00:00Z",
        "in \"May\"",
        "infinity",
        "44-03-15 00:00:00+00 BC",
    ];
    prop_oneof![any::<String>(), proptest::sample::select(TELLING).prop_map(str::to_owned)]
}

/// What the envelope says of a text.
fn said(field: Field, text: Option<&str>) -> serde_json::Value {
    match (field, text) {
        (_, None) => serde_json::Value::Null,
        (Field::SchemaVersion, Some(text)) => match text.parse::<i64>() {
            Ok(number) if number.to_string() == text => number.into(),
            _ => text.into(),
        },
        (Field::OccurredAt, Some("2026-11-21 06:00:00.5+00")) => "2026-11-21T06:00:00.5Z".into(),
        (_, Some(text)) => text.into(),
    }
}

proptest! {
    #[test]
    fn an_envelope_is_json_that_says_what_went_in(
        id in any_text(),
        texts in proptest::array::uniform6(proptest::option::of(any_text())),
        is_in_payload: bool,
    ) {
        let mut table = Table::ours();
        table.config.route.default = "t".to_owned();
        let mut payload = serde_json::Map::new();
        for (field, text) in SHOWN.iter().zip(&texts) {
            if let Some(text) = text {
                payload.insert(field.name().to_owned(), text.as_str().into());
            }
            if is_in_payload {
                let source = Some(Source::Payload(format!("/{}", field.name())));
                table = table.field(*field, FieldConfig { source, default: None, chosen: true });
            }
        }
        let payload = serde_json::Value::from(payload);
        let written = payload.to_string();
        let mut values: Vec<_> = table.columns.iter().map(|c| c.3.map(str::as_bytes)).collect();
        let at = |name| table.columns.iter().position(|column| column.0 == name).unwrap();
        (values[at("id")], values[at("payload")]) = (Some(id.as_bytes()), Some(written.as_bytes()));
        for (field, text) in SHOWN.iter().zip(&texts).filter(|_| !is_in_payload) {
            values[at(field.name())] = text.as_deref().map(str::as_bytes);
        }
        let mut mapper = table.mapper();
        let value = mapper.map(&values, POSITION).unwrap().value.unwrap();
        let mut envelope: serde_json::Value = serde_json::from_slice(value).unwrap();
        for (field, text) in SHOWN.iter().zip(&texts) {
            let found = envelope[field.name()].take();
            prop_assert_eq!(found, said(*field, text.as_deref()), "{}", field.name());
        }
        prop_assert_eq!(&envelope["event_id"], &serde_json::Value::from(id));
        prop_assert_eq!(&envelope["payload"], &payload);
        prop_assert_eq!(&envelope["topic"], "t");
        prop_assert_eq!(envelope.as_object().unwrap().len(), 9);
    }

    #[test]
    fn rows_of_odd_values_alone_leave_something_to_say(
        picks in proptest::collection::vec(proptest::option::of(any::<proptest::sample::Index>()), 17),
        table in any::<proptest::sample::Index>(),
    ) {
        let tables = tables();
        let table = table.get(&tables);
        let pick = |pick: &Option<proptest::sample::Index>| {
            pick.as_ref().map(|index| index.get(&ODD).as_slice())
        };
        let values: Vec<_> = picks.iter().map(pick).collect();
        look_at(table, &mut table.mapper(), &values);
    }
}
