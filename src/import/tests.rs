//! Every option, one by one, and whole files.

use super::*;

/// A connector with the router, with these options in place of its own.
fn imported(options: &[(&str, &str)]) -> Result<Imported, ImportError> {
    let mut text = String::from(
        "connector.class=io.debezium.connector.postgresql.PostgresConnector\nplugin.name=pgoutput\n\
         transforms=outbox\ntransforms.outbox.type=io.debezium.transforms.outbox.EventRouter\n",
    );
    for (name, value) in options {
        text.push_str(&format!("{name}={}\n", value.replace('\\', "\\\\")));
    }
    debezium(&text)
}

fn router(option: &str, value: &str) -> Result<Imported, ImportError> {
    imported(&[(&format!("transforms.outbox.{option}"), value)])
}

/// The value of `section.key` in what was imported.
fn value(imported: &Imported, key: &str) -> Option<toml::Value> {
    let table: toml::Table = imported.toml.parse().unwrap();
    let mut found = toml::Value::Table(table);
    for name in key.split('.') {
        found = found.get(name)?.clone();
    }
    Some(found)
}

fn text(imported: &Imported, key: &str) -> String {
    match value(imported, key) {
        Some(toml::Value::String(text)) => text,
        Some(other) => other.to_string(),
        None => "unset".to_owned(),
    }
}

/// The comment, its lines joined, has this.
fn tells(imported: &Imported, said: &str) -> bool {
    let lines = imported.toml.lines().filter_map(|line| line.strip_prefix('#'));
    let words: Vec<_> = lines.flat_map(str::split_whitespace).collect();
    words.join(" ").contains(said)
}

#[test]
fn defaults_are_debeziums() {
    let imported = imported(&[]).unwrap();
    for (key, expected) in [
        ("postgres.slot", "debezium"),
        ("postgres.publication", "dbz_publication"),
        ("outbox.table", "public.outbox"),
        ("outbox.start", "stream"),
        ("outbox.status.mode", "none"),
        ("outbox.columns.id", "id"),
        ("outbox.columns.aggregate_type", "aggregatetype"),
        ("outbox.columns.aggregate_id", "aggregateid"),
        ("outbox.columns.event_type", "type"),
        ("outbox.columns.payload", "payload"),
        ("outbox.columns.headers", ""),
        ("outbox.columns.key", ""),
        ("route.topic", ""),
        ("route.default", "outbox.event.{aggregate_type}"),
        ("route.regex", "unset"),
        ("envelope.format", "debezium"),
        ("envelope.headers", "unset"),
        ("envelope.record_timestamp", "unset"),
        ("envelope.debezium.key", "text"),
        ("envelope.debezium.headers", "text"),
        ("kafka.bootstrap_servers", "localhost:9092"),
    ] {
        assert_eq!(text(&imported, key), expected, "{key}");
    }
    assert!(tells(&imported, "key.converter: not set here"));
    assert!(tells(&imported, "snapshot.mode: initial: rows that are older"));
    assert!(tells(&imported, "extended.headers.enabled: the headers __debezium.context.* are not"));
}

#[test]
fn columns_of_the_router_are_columns_here() {
    for (option, key) in [
        ("table.field.event.id", "outbox.columns.id"),
        ("table.field.event.key", "outbox.columns.aggregate_id"),
        ("table.field.event.type", "outbox.columns.event_type"),
        ("table.field.event.payload", "outbox.columns.payload"),
        ("route.by.field", "outbox.columns.aggregate_type"),
        ("table.field.event.timestamp", "envelope.record_timestamp"),
    ] {
        assert_eq!(text(&router(option, "mine").unwrap(), key), "mine", "{option}");
    }
}

#[test]
fn placements_are_headers_members_or_the_partition() {
    let list =
        " type:header:eventType, payload:header,p : partition,type:envelope:kind,at:Envelope";
    let imported = router("table.fields.additional.placement", list).unwrap();
    assert_eq!(text(&imported, "envelope.headers"), r#"["id", "eventType=type", "payload"]"#);
    assert_eq!(text(&imported, "envelope.debezium.members"), r#"["kind=type", "at"]"#);
    assert_eq!(text(&imported, "outbox.columns.partition"), "p");
    // Here, `headers` and `event_type` are fields, and other columns than these.
    let hidden = router("table.fields.additional.placement", "event_type:header").unwrap();
    assert!(tells(&hidden, "column event_type cannot be placed"));
}

#[test]
fn a_placement_that_is_none_is_refused() {
    let option = "transforms.outbox.table.fields.additional.placement".to_owned();
    for list in ["type", "type:header,", "type:footer", "a:header:b:c", ":header"] {
        let error = router("table.fields.additional.placement", list).unwrap_err();
        assert!(matches!(error, ImportError::BadPlacement { option: ref of, .. } if *of == option));
    }
    let error = router("table.fields.additional.placement", " ").unwrap_err();
    assert_eq!(error, ImportError::EmptyPlacement { option });
}

#[test]
fn the_topic_is_routed_as_before() {
    let whole = router("route.topic.replacement", "x.${routedByValue}.y").unwrap();
    assert_eq!(text(&whole, "route.default"), "x.{aggregate_type}.y");
    let constant = router("route.topic.replacement", "events").unwrap();
    assert_eq!(text(&constant, "route.default"), "events");
    let regex = imported(&[
        ("transforms.outbox.route.topic.regex", r"(?<kind>[a-z]+)\.(v\d)"),
        ("transforms.outbox.route.topic.replacement", "events.${kind}-$2"),
    ]);
    let regex = regex.unwrap();
    assert_eq!(text(&regex, "route.regex"), r"(?<kind>[a-z]+)\.(v\d)");
    assert_eq!(text(&regex, "route.replacement"), "events.${kind}-$2");
    assert_eq!(text(&regex, "route.default"), "unset");
    let error = router("route.topic.regex", "[").unwrap_err();
    assert!(matches!(error, ImportError::BadRegex { .. }));
    assert_eq!(
        error.to_string(),
        "transforms.outbox.route.topic.regex: not an expression that outboxd can match: unclosed \
         character class"
    );
    let error = router("route.topic.replacement", "${nope}").unwrap_err();
    assert!(matches!(error, ImportError::BadReplacement { .. }));
}

#[test]
fn what_the_router_does_with_the_rest_is_told() {
    let error = router("table.op.invalid.behavior", "invalidOption").unwrap_err();
    assert!(matches!(error, ImportError::BadValue { .. }));
    assert_eq!(
        error.to_string(),
        "transforms.outbox.table.op.invalid.behavior: \"invalidOption\" is not one of warn, error, fatal"
    );
    for (option, value, said) in [
        ("table.op.invalid.behavior", "fatal", "updates of a row are not published"),
        ("table.field.additional.missing", "ignore", "placed and missing is told at the start"),
        ("table.field.event.schema.version", "v", "records have no schema"),
        (
            "table.json.payload.null.behavior",
            "optional_bytes",
            "nulls and empty arrays always stay",
        ),
        ("table.json.payload.empty.array.behavior", "ignore", "nulls and empty arrays always stay"),
        ("tracing.span.context.field", "t", "spans are not made"),
        ("tracing.operation.name", "t", "spans are not made"),
        ("tracing.with.context.field.only", "true", "spans are not made"),
        ("predicate", "p", "only rows of the outbox table arrive"),
        ("nope", "x", "no option of the outbox event router that is known"),
    ] {
        let imported = router(option, value).unwrap();
        assert!(tells(&imported, &format!("transforms.outbox.{option}: ")), "{option}");
        assert!(tells(&imported, said), "{option}");
    }
}

#[test]
fn converters_say_in_which_form_records_are_written() {
    const JSON: &str = "org.apache.kafka.connect.json.JsonConverter";
    const STRING: &str = "org.apache.kafka.connect.storage.StringConverter";
    for part in ["key", "value", "header"] {
        let option = format!("{part}.converter");
        let key = format!("envelope.debezium.{}", if part == "header" { "headers" } else { part });
        for (class, schemas, ours, said) in [
            (STRING, "", "text", None),
            (JSON, "false", "json", None),
            (JSON, "", "json", Some("schemas.enable is true (the default)")),
            ("io.debezium.converters.BinaryDataConverter", "", "text", None),
            ("io.confluent.connect.avro.AvroConverter", "", "text", Some("is not known: set")),
        ] {
            let schemas_option = format!("{option}.schemas.enable");
            let mut options = vec![(option.as_str(), class)];
            if !schemas.is_empty() {
                options.push((schemas_option.as_str(), schemas));
            }
            let imported = imported(&options).unwrap();
            assert_eq!(text(&imported, &key), ours, "{option}={class}");
            assert!(said.is_none_or(|said| tells(&imported, said)), "{option}={class}");
        }
    }
    let json = [("value.converter", JSON), ("value.converter.schemas.enable", "false")];
    let expand = ("transforms.outbox.table.expand.json.payload", "true");
    let tombstone = ("transforms.outbox.route.tombstone.on.empty.payload", "true");
    let both = imported(&[json[0], json[1], expand, tombstone]).unwrap();
    assert_eq!(text(&both, "envelope.debezium.expand"), "true");
    assert_eq!(text(&both, "envelope.debezium.tombstone_on_empty"), "true");
    let as_text = imported(&[("value.converter", STRING), expand]).unwrap();
    assert_eq!(text(&as_text, "envelope.debezium.expand"), "unset");
    assert!(tells(&as_text, "the payload is not expanded"));
}

#[test]
fn the_connectors_options_are_the_databases() {
    let imported = imported(&[
        ("database.hostname", "db.example"),
        ("database.port", "6000"),
        ("database.user", "re lay@x"),
        ("database.password", "hunter2"),
        ("database.dbname", "app"),
        ("database.sslmode", "verify-full"),
        ("database.sslrootcert", "/etc/ca.pem"),
        ("slot.name", "s"),
        ("slot.drop.on.stop", "true"),
        ("publication.name", "p"),
        ("publication.autocreate.mode", "disabled"),
        ("table.include.list", r"shop\.OutboxEvent,public.heartbeat"),
        ("snapshot.mode", "no_data"),
        ("heartbeat.interval.ms", "1000"),
        ("producer.override.bootstrap.servers", "k:9092"),
        ("producer.override.compression.type", "lz4"),
        ("producer.override.acks", "1"),
        ("producer.override.sasl.jaas.config", "x password=\"hunter3\";"),
        ("producer.override.ssl.truststore.password", "hunter4"),
        ("extended.headers.enabled", "false"),
        ("what.is.this", "hunter5"),
    ]);
    let imported = imported.unwrap();
    for (key, expected) in [
        (
            "postgres.url",
            "postgres://re%20lay%40x@db.example:6000/app?sslmode=verify-full&sslrootcert=/etc/ca.pem",
        ),
        ("postgres.slot", "s"),
        ("postgres.publication", "p"),
        ("postgres.create", "false"),
        ("outbox.table", "shop.\"OutboxEvent\""),
        ("kafka.bootstrap_servers", "k:9092"),
        ("kafka.properties", "{ \"compression.type\" = \"lz4\" }"),
    ] {
        assert_eq!(text(&imported, key), expected, "{key}");
    }
    for said in [
        "database.password: not printed",
        "slot.drop.on.stop: Debezium drops its slot when it stops",
        "table.include.list: one outbox table per relay: public.heartbeat",
        "heartbeat.interval.ms: an idle outbox holds back no WAL",
        "producer.override.acks: it is always all",
        "producer.override.sasl.jaas.config: not printed",
        "producer.override.ssl.truststore.password: Java's key stores are not read",
        "what.is.this: not known, and not taken over",
    ] {
        assert!(tells(&imported, said), "{said}\n{}", imported.toml);
    }
    assert!(!imported.toml.contains("hunter"), "{}", imported.toml);
    assert!(!tells(&imported, "snapshot.mode") && !tells(&imported, "__debezium.context"));
}

#[test]
fn debezium_servers_own_form_is_kept() {
    let text_of = "debezium.sink.type=kafka\n\
        debezium.sink.kafka.producer.bootstrap.servers=k:9092\n\
        debezium.source.connector.class=io.debezium.connector.postgresql.PostgresConnector\n\
        debezium.source.plugin.name=pgoutput\n\
        debezium.format.key=simplestring\ndebezium.format.value=simplestring\n\
        debezium.format.header.schemas.enable=false\ndebezium.transforms=outbox\n\
        debezium.transforms.outbox.type=io.debezium.transforms.outbox.EventRouter\n\
        debezium.transforms.outbox.table.field.event.timestamp=at\n\
        debezium.transforms.outbox.table.fields.additional.placement=p:partition,type:header\n\
        debezium.transforms.outbox.route.topic.replacement=out.$${routedByValue}\n\
        debezium.source.database.password=${PASSWORD}\nquarkus.log.level=INFO\n";
    let imported = debezium(text_of).unwrap();
    for (key, expected) in [
        ("envelope.debezium.key", "text"),
        ("envelope.debezium.value", "text"),
        ("envelope.debezium.headers", "json"),
        ("envelope.record_timestamp", "unset"),
        ("outbox.columns.partition", "unset"),
        ("route.default", "out.{aggregate_type}"),
        ("kafka.bootstrap_servers", "k:9092"),
    ] {
        assert_eq!(text(&imported, key), expected, "{key}");
    }
    assert!(tells(&imported, "writes no record to the partition of p, so it is left out"));
    assert!(tells(&imported, "Debezium Server does not write it to the record"));
    assert!(tells(&imported, "quarkus.log.level: [log] and [admin] say it"));
    assert!(tells(&imported, "Imported from the configuration of Debezium Server"));
}

#[test]
fn what_is_no_outbox_is_refused() {
    assert_eq!(debezium("slot.name=s").unwrap_err(), ImportError::NoRouter);
    let error = debezium("connector.class=io.debezium.connector.mysql.MySqlConnector").unwrap_err();
    assert!(matches!(error, ImportError::OtherConnector { .. }));
    let other =
        imported(&[("transforms.other.type", "x.Y"), ("transforms", "other,outbox")]).unwrap();
    assert!(tells(&other, "transforms.other: transformation x.Y is not done"));
}

/// A line that ends a comment would become configuration.
#[test]
fn nothing_that_is_told_becomes_configuration() {
    let text = "{\"transforms\": \"outbox\", \"transforms.outbox.type\": \
                \"io.debezium.transforms.outbox.EventRouter\", \"x\\n[kafka]\\ny\": \"z\", \
                \"slot.name\": \"a\\n# b\\\"\"}";
    let imported = debezium(text).unwrap();
    assert_eq!(super::tests::text(&imported, "postgres.slot"), "a\n# b\"");
    assert!(tells(&imported, "x [kafka] y: not known"));
}

/// Configurations that the real Debezium ran with, and those that it refused.
#[test]
fn what_debezium_takes_is_imported_and_what_it_refuses_is_not() {
    let mut count = 0;
    for form in ["connect", "server"] {
        let folder = format!("{}/testdata/debezium/{form}", env!("CARGO_MANIFEST_DIR"));
        for entry in std::fs::read_dir(folder).unwrap() {
            let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
            let golden: serde_json::Value = serde_json::from_str(&text).unwrap();
            let lines = golden["properties"].as_array().unwrap();
            let lines: Vec<_> = lines.iter().map(|line| line.as_str().unwrap()).collect();
            let imported = debezium(&lines.join("\n"));
            let expected = match golden["name"].as_str().unwrap() {
                "bad_regex" => "transforms.outbox.route.topic.regex: not an expression",
                "bad_placement" => "transforms.outbox.table.fields.additional.placement: \"type\"",
                "empty_placement" => "transforms.outbox.table.fields.additional.placement: empty",
                "bad_behavior" => "transforms.outbox.table.op.invalid.behavior: \"invalidOption\"",
                name => {
                    let imported = imported.unwrap_or_else(|error| panic!("{name}: {error}"));
                    assert!(
                        !tells(&imported, "not known, and not taken over"),
                        "{}",
                        imported.toml
                    );
                    count += 1;
                    continue;
                }
            };
            let said = imported.unwrap_err().to_string();
            assert!(said.starts_with(expected), "{said}");
        }
    }
    assert!(count > 60, "{count}");
}
