//! The formats: against the examples of the specifications, and byte for byte.

use super::*;

const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// The event of the CloudEvents specification's examples.
fn example(format: Format) -> Table {
    let mut table = Table::ours()
        .format(format)
        .with("id", Some("C234-1234-1234"))
        .with("event_type", Some("com.example.someevent"))
        .with("aggregate_type", Some("mycontext"))
        .with("aggregate_id", Some("9"))
        .with("topic", Some("t"))
        .with("occurred_at", Some("2018-04-05 17:31:00+00"))
        .with("payload", Some(r#"{"appinfoA" : "abc", "appinfoB" : 123, "appinfoC" : true}"#));
    table.config.format.source = "https://example.com/storage/tenant/container".to_owned();
    table.config.headers = Vec::new();
    table
}

fn headers(published: &Published) -> Vec<(&str, Option<&str>)> {
    published.headers.iter().map(|(name, value)| (name.as_str(), value.as_deref())).collect()
}

#[test]
fn a_cloudevent_in_binary_mode_is_the_bindings() {
    let published = example(Format::CloudEventsBinary).published();
    assert_eq!(
        headers(&published),
        [
            ("ce_specversion", Some("1.0")),
            ("ce_id", Some("C234-1234-1234")),
            ("ce_source", Some("https://example.com/storage/tenant/container")),
            ("ce_type", Some("com.example.someevent")),
            ("ce_time", Some("2018-04-05T17:31:00Z")),
            ("ce_subject", Some("mycontext/9")),
            ("content-type", Some("application/json")),
        ]
    );
    let payload = r#"{"appinfoA" : "abc", "appinfoB" : 123, "appinfoC" : true}"#;
    assert_eq!(text(&published), payload);
    assert_eq!(published.key.as_deref(), Some("9"));
    // The binding calls a value of null a tombstone.
    let tombstone = example(Format::CloudEventsBinary).with("payload", None).published();
    assert_eq!(tombstone.value, None);
}

#[test]
fn a_cloudevent_in_structured_mode_is_json() {
    let published = example(Format::CloudEventsStructured).published();
    let content_type = "application/cloudevents+json; charset=UTF-8";
    assert_eq!(headers(&published), [("content-type", Some(content_type))]);
    assert_eq!(
        text(&published),
        concat!(
            r#"{"specversion":"1.0","id":"C234-1234-1234","#,
            r#""source":"https://example.com/storage/tenant/container","#,
            r#""type":"com.example.someevent","subject":"mycontext/9","#,
            r#""time":"2018-04-05T17:31:00Z","datacontenttype":"application/json","#,
            r#""data":{"appinfoA" : "abc", "appinfoB" : 123, "appinfoC" : true}}"#
        )
    );
    let nothing = example(Format::CloudEventsStructured)
        .with("payload", None)
        .with("occurred_at", Some("infinity"))
        .with("aggregate_type", None)
        .published();
    assert_eq!(
        text(&nothing).split_once(r#""type""#).unwrap().1,
        r#":"com.example.someevent","subject":"9"}"#,
        "what there is not is not there"
    );
}

#[test]
fn bytes_and_text_are_what_a_cloudevent_says_they_are() {
    let bytes = |format| {
        example(format).retyped("payload", "bytea", Kind::Bytes).with("payload", Some("\\x00ff10"))
    };
    let structured = bytes(Format::CloudEventsStructured).published();
    let data = r#""datacontenttype":"application/octet-stream","data_base64":"AP8Q"}"#;
    assert!(text(&structured).ends_with(data), "{}", text(&structured));
    let binary = bytes(Format::CloudEventsBinary).published();
    assert_eq!(header(&binary, "content-type"), Some("application/octet-stream"));
    assert_eq!(binary.value, Some(vec![0, 0xFF, 0x10]));
    let mut words = example(Format::CloudEventsStructured)
        .retyped("payload", "text", Kind::Text)
        .with("payload", Some("say \"hi\""));
    assert_eq!(words.map(), Err(MapError::NotJson));
    words.config.payload_encoding = PayloadEncoding::Text;
    let data = r#""datacontenttype":"text/plain; charset=utf-8","data":"say \"hi\""}"#;
    assert!(text(&words.published()).ends_with(data));
}

#[test]
fn what_cannot_be_a_cloudevent_is_an_error_of_that_event() {
    for format in [Format::CloudEventsBinary, Format::CloudEventsStructured] {
        for (column, value, error) in [
            ("event_type", None, MapError::NoType),
            ("event_type", Some(""), MapError::NoType),
            ("event_type", Some("a\u{7}"), MapError::BadAttribute),
            ("id", Some(""), MapError::BadAttribute),
            ("aggregate_id", Some("a\u{85}"), MapError::BadAttribute),
            ("aggregate_type", Some("\u{FDD0}"), MapError::BadAttribute),
            ("id", Some("\u{1FFFF}"), MapError::BadAttribute),
        ] {
            assert_eq!(example(format).with(column, value).map(), Err(error), "{column} {value:?}");
        }
    }
    let good = example(Format::CloudEventsBinary).with("aggregate_id", Some("grün/✓"));
    assert_eq!(header(&good.published(), "ce_subject"), Some("mycontext/grün/✓"));
}

#[test]
fn a_source_is_a_uri_or_a_reference() {
    let problems = |source: &str| {
        let mut table = example(Format::CloudEventsBinary);
        table.config.format.source = source.to_owned();
        table.config.problems().len()
    };
    for good in ["/outboxd", "https://a.b/c?d=e#f", "urn:uuid:1", "orders"] {
        assert_eq!(problems(good), 0, "{good}");
    }
    for bad in ["", "a b", "ü", "a\n", "<a>"] {
        assert_eq!(problems(bad), 1, "{bad}");
    }
}

#[test]
fn a_trace_context_is_passed_on_in_every_format_unless_it_is_none() {
    let own = |text: &str| -> String { format!(r#"{{"a": 1, {text}, "z": true}}"#) };
    let passed = |format, text: &str| {
        let headers: &'static str = Box::leak(own(text).into_boxed_str());
        let published = Table::ours().format(format).with("headers", Some(headers)).published();
        let names = published.headers.into_iter().map(|(name, _)| name);
        names.filter(|name| name.to_lowercase().starts_with("trace")).collect::<Vec<_>>()
    };
    for format in Format::ALL {
        let parent = format!(r#""traceparent": "{TRACEPARENT}""#);
        assert_eq!(passed(format, &parent), ["traceparent"], "{format:?}");
        let both = format!(r#""tracestate": "a=1,b=2", {parent}"#);
        assert_eq!(passed(format, &both), ["tracestate", "traceparent"]);
        for (text, left) in [
            (r#""traceparent": "00-ab""#.to_owned(), &[] as &[&str]),
            (r#""traceparent": null, "tracestate": "a=1""#.to_owned(), &[]),
            (r#""tracestate": "a=1""#.to_owned(), &[]),
            (format!(r#""tracestate": "no", {parent}"#), &["traceparent"]),
            (format!(r#""Traceparent": "x", {parent}"#), &[]),
        ] {
            assert_eq!(passed(format, &text), left, "{text}");
        }
    }
}

#[test]
fn a_row_cannot_say_again_what_the_format_says() {
    let headers = r#"{"ce_id": "forged", "content-type": "text/html", "event_id": "x", "own": 1}"#;
    let names = |format| -> Vec<String> {
        let published = Table::ours().format(format).with("headers", Some(headers)).published();
        published
            .headers
            .into_iter()
            .map(|(name, _)| name)
            .skip_while(|name| name != "own")
            .collect()
    };
    for format in [Format::CloudEventsBinary, Format::Envelope] {
        let published = Table::ours().format(format).with("headers", Some(headers)).published();
        assert_eq!(header(&published, "event_id"), Some(ID));
        assert_ne!(
            header(&published, "ce_id"),
            Some("forged").filter(|_| format != Format::Envelope)
        );
        assert_eq!(names(format), ["own"]);
    }
}

#[test]
fn a_header_can_have_another_name_than_its_source() {
    let mut table = Table::ours();
    table.config.headers = ["type=event_type", "where = position", "ct=content_type", "n=seq"]
        .map(str::to_owned)
        .into();
    let published = table.published();
    assert_eq!(
        headers(&published),
        [
            ("type", Some("OrderCreated")),
            ("where", Some("1/AB/3")),
            ("ct", Some("application/json")),
            ("n", Some("17")),
        ]
    );
}

#[test]
fn a_records_timestamp_is_the_one_that_is_configured() {
    let stamp = |config: RecordTimestamp, occurred| {
        let mut table = Table::ours().with("occurred_at", occurred);
        table.config.record_timestamp = config;
        table.published().timestamp
    };
    let column = || RecordTimestamp::Named("occurred_at".to_owned());
    assert_eq!(stamp(RecordTimestamp::Publish, None), Stamp::Publish);
    assert_eq!(stamp(RecordTimestamp::Commit, None), Stamp::Commit);
    assert_eq!(stamp(column(), Some("2019-03-24 20:52:59.123456")), Stamp::At(1_553_460_779_123));
    for nothing in [None, Some("infinity"), Some("1969-12-31 23:59:59")] {
        assert_eq!(stamp(column(), nothing), Stamp::Publish, "{nothing:?}");
    }
    let mut wrong = Table::ours();
    wrong.config.record_timestamp = RecordTimestamp::Named("seq".to_owned());
    assert_eq!(
        wrong.problems(),
        [
            "envelope.record_timestamp: column \"seq\" is of type bigint; expected timestamptz or timestamp"
        ]
    );
    wrong.config.record_timestamp = RecordTimestamp::Named("when".to_owned());
    assert_eq!(
        wrong.problems(),
        [
            "envelope.record_timestamp: \"when\" is neither a field of the event nor a column of the table"
        ]
    );
}
