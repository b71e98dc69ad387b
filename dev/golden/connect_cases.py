"""The cases for Kafka Connect. The topics of a case are its own: records are told apart by them."""

OUTBOX = """
CREATE TABLE outbox (
  id uuid PRIMARY KEY, aggregatetype varchar(255) NOT NULL, aggregateid varchar(255) NOT NULL,
  type varchar(255) NOT NULL, payload jsonb);
"""

# The default table with other columns after it.
def outbox_with(columns):
    return OUTBOX.replace("payload jsonb", f"payload jsonb,\n  {columns}")


def outbox_of(payload):
    return OUTBOX.replace("payload jsonb", f"payload {payload}")


def option(name, value):
    return {f"transforms.outbox.{name}": value}


def placement(text):
    return option("table.fields.additional.placement", text)


# Key and value as JSON without schemas.
JSON = {
    "key.converter": "org.apache.kafka.connect.json.JsonConverter",
    "key.converter.schemas.enable": "false",
    "value.converter": "org.apache.kafka.connect.json.JsonConverter",
    "value.converter.schemas.enable": "false",
}


def event_id(number):
    return f"4d47e190-0402-4048-bc2c-{number:012}"


def insert(number, kind, rest, key="'1'", event="'OrderCreated'"):
    """A row of the default columns: aggregate type, key and type, and what comes after them."""
    return f"INSERT INTO outbox VALUES ('{event_id(number)}', '{kind}', {key}, {event}, {rest});\n"


# One column of every type that somebody may place, and a row of values, of nulls and of others.
TYPES = {
    "b": ("boolean", "true", "false"),
    "i2": ("smallint", "-7", "32767"),
    "i4": ("int", "42", "-2147483648"),
    "i8": ("bigint", "9007199254740993", "-1"),
    "f4": ("real", "1.5", "1e-7"),
    "f8": ("double precision", "0.1", "1e21"),
    "n": ("numeric(10,2)", "1.50", "-0.05"),
    "nn": ("numeric", "12345678901234567890.123456789", "1e3"),
    "t": ("text", "'plain'", "''"),
    "j": ("text", "'{\"a\": 1}'", "'true'"),
    "q": ("varchar(40)", "'say \"hi\" ü \\ , :'", "'[1, 2'"),
    "u": ("uuid", "'4d47e190-0402-4048-bc2c-89dd54343cdc'", "'4d47e190-0402-4048-bc2c-89dd54343cdc'"),
    "d": ("date", "'2019-03-24'", "'1969-12-31'"),
    "ts": ("timestamp", "'2019-03-24 20:52:59.123456'", "'1969-12-31 23:59:59'"),
    "ts3": ("timestamp(3)", "'2019-03-24 20:52:59.123'", "'2019-03-24 20:52:59'"),
    "tz": ("timestamptz", "'2026-11-20 20:19:57.927154Z'", "'2026-11-20 22:19:00+02'"),
    "tm": ("time", "'20:52:59.5'", "'00:00'"),
    "js": ("json", "'{\"z\":1,  \"a\":[ ]}'", "'null'"),
    "jb": ("jsonb", "'{\"z\":1,  \"a\":[ ]}'", "'\"s\"'"),
    "en": ("mood", "'good'", "'bad'"),
}
MANY = "CREATE TYPE mood AS ENUM ('good', 'bad');\n" + outbox_with(
    ",\n  ".join(f"{name} {kind[0]}" for name, kind in TYPES.items())
)


def many_rows(kind, first):
    columns = ", ".join(["id", "aggregatetype", "aggregateid", "type", "payload", *TYPES])
    rows = ""
    for number, pick in enumerate([lambda v: v[1], lambda v: v[2], lambda v: "NULL"]):
        values = ", ".join(pick(value) for value in TYPES.values())
        rows += (
            f"INSERT INTO outbox ({columns}) VALUES ('{event_id(first + number)}', '{kind}',"
            f" '{number}', 'OrderCreated', '{{\"id\": {number}}}', {values});\n"
        )
    return rows


HEADERS = ",".join(f"{name}:header" for name in TYPES)
ENVELOPE = ",".join(f"{name}:envelope" for name in TYPES)
# As a string, a numeric without a scale is an address in Java's memory.
TEXT_ENVELOPE = ENVELOPE.replace("nn:envelope,", "")


def case(name, about, options, rows, records, table=OUTBOX, topics=None, **more):
    """Its topic is the default one, of an aggregate type that has the case's name."""
    return {
        "name": name,
        "about": about,
        "table": table,
        "options": options,
        "rows": rows,
        "topics": topics or [f"outbox.event.{name}"],
        "records": records,
        **more,
    }


def failing(name, about, options, rows, fails, table=OUTBOX, records=0):
    return case(name, about, options, rows, records, table, fails=fails)


CASES = [
    # What is written by default.
    case(
        "default",
        "every option as it is by default; the updated and the deleted rows are dropped",
        {},
        insert(1, "order", """'{"id":1,"b":[1,2.0],"total":39.98}'""")
        + insert(2, "Order", "'\"text\"'", key="'schlüssel ✓'")
        + insert(3, "order", "'[1, null, {}]'", key="''")
        + "UPDATE outbox SET aggregateid = 'changed' WHERE aggregateid = '1';\n"
        + "BEGIN;\n"
        + insert(4, "order", "'{}'", event="'OrderDeleted'")
        + "DELETE FROM outbox;\nCOMMIT;\n"
        + "BEGIN;\n"
        + insert(5, "order", "'{}'", event="'RolledBack'")
        + "ROLLBACK;\n",
        4,
        topics=["outbox.event.order", "outbox.event.Order"],
    ),
    case(
        "json",
        "key, value and headers as JSON without schemas: the payload becomes a JSON string",
        {
            **JSON,
            "header.converter": "org.apache.kafka.connect.json.JsonConverter",
            "header.converter.schemas.enable": "false",
            **placement("type:header:eventType"),
        },
        insert(1, "json", """'{"id":1,"b":[1,2.0],"total":39.98}'""")
        + insert(2, "json", """'"a \\" \\u00fc \\u2028 / \\n b"'""", key="'k\"ü'")
        + insert(3, "json", "NULL"),
        3,
    ),
    case(
        "json_schemas",
        "key, value and headers as JSON with schemas, which outboxd does not write",
        {
            "key.converter": "org.apache.kafka.connect.json.JsonConverter",
            "value.converter": "org.apache.kafka.connect.json.JsonConverter",
            "header.converter": "org.apache.kafka.connect.json.JsonConverter",
        },
        insert(1, "json_schemas", """'{"id":1,"b":[1,2.0],"total":39.98}'""")
        + insert(2, "json_schemas", "NULL"),
        2,
    ),
    case(
        "extended_headers",
        "the four headers that Debezium 3.2 and later write about themselves, and the placements",
        {"extended.headers.enabled": "true", **placement("type:header:eventType")},
        insert(1, "extended_headers", "'{}'"),
        1,
    ),
    case(
        "snapshot",
        "snapshot.mode=initial: the rows that are there are published again, then the stream",
        {"snapshot.mode": "initial"},
        insert(3, "snapshot", "'{\"n\": 3}'"),
        3,
        before=insert(1, "snapshot", "'{\"n\": 1}'") + insert(2, "snapshot", "'{\"n\": 2}'"),
    ),
    case(
        "renamed",
        "every column has another name",
        {
            **option("table.field.event.id", "event_id"),
            **option("table.field.event.key", "subject"),
            **option("table.field.event.type", "event_type"),
            **option("table.field.event.payload", "body"),
            **option("route.by.field", "kind"),
            **placement("event_type:header:eventType"),
        },
        f"INSERT INTO outbox VALUES ('{event_id(1)}', 'renamed', 'k', 'T', '{{}}');\n",
        1,
        table="""
CREATE TABLE outbox (
  event_id uuid PRIMARY KEY, kind text NOT NULL, subject text, event_type text, body json);
""",
    ),
    # Headers.
    case(
        "type_header",
        "the event's type as a header",
        placement("type:header:eventType"),
        insert(1, "type_header", "'{}'"),
        1,
    ),
    case(
        "several_headers",
        "in the order of the list, with spaces, a column twice, and one without an alias",
        placement("type:header:eventType, aggregatetype:header ,payload:header:copy,type:header"),
        insert(1, "several_headers", "'{\"id\": 1}'"),
        1,
    ),
    case(
        "header_types",
        "columns of many types as headers, with Connect's default header converter",
        placement(HEADERS),
        many_rows("header_types", 1),
        3,
        table=MANY,
    ),
    case(
        "header_types_json",
        "columns of many types as headers, as JSON without schemas",
        {
            "header.converter": "org.apache.kafka.connect.json.JsonConverter",
            "header.converter.schemas.enable": "false",
            **placement(HEADERS),
        },
        many_rows("header_types_json", 1),
        3,
        table=MANY,
    ),
    case(
        "header_bytea",
        "bytes as a header",
        placement("raw:header"),
        insert(1, "header_bytea", "'{}', '\\x00ff10'") + insert(2, "header_bytea", "'{}', ''"),
        2,
        table=outbox_with("raw bytea"),
    ),
    case(
        "id_bigint",
        "an id that is a number",
        {},
        "INSERT INTO outbox VALUES (42, 'id_bigint', 'k', 'T', '{}');\n",
        1,
        table=OUTBOX.replace("id uuid", "id bigint"),
    ),
    case(
        "missing_ignored",
        "a placement of a column that is not there, with table.field.additional.missing=ignore",
        {
            **placement("nope:header,type:header:eventType"),
            **option("table.field.additional.missing", "ignore"),
        },
        insert(1, "missing_ignored", "'{}'"),
        1,
    ),
    failing(
        "missing",
        "a placement of a column that is not there",
        placement("nope:header"),
        insert(1, "missing", "'{}'"),
        "nope is not a valid field name",
    ),
    # The envelope.
    case(
        "envelope_text",
        "placements in the envelope, written as a string",
        placement("type:envelope:eventType, aggregateid:envelope"),
        insert(1, "envelope_text", "'{\"id\": 1}'") + insert(2, "envelope_text", "NULL"),
        2,
    ),
    case(
        "envelope_json",
        "placements in the envelope, as JSON",
        {**JSON, **placement("type:envelope:eventType, aggregateid:envelope,type:header:t")},
        insert(1, "envelope_json", "'{\"id\": 1}'") + insert(2, "envelope_json", "NULL"),
        2,
    ),
    case(
        "envelope_types_text",
        "columns of many types in the envelope, written as a string",
        placement(TEXT_ENVELOPE),
        many_rows("envelope_types_text", 1),
        3,
        table=MANY,
    ),
    case(
        "envelope_types_json",
        "columns of many types in the envelope, as JSON",
        {**JSON, **placement(ENVELOPE)},
        many_rows("envelope_types_json", 1),
        3,
        table=MANY,
    ),
    case(
        "envelope_version",
        "a schema version, which nobody sees without schemas",
        {
            **JSON,
            **placement("type:envelope:eventType"),
            **option("table.field.event.schema.version", "version"),
        },
        insert(1, "envelope_version", "'{}', 3") + insert(2, "envelope_version", "'{}', 1"),
        2,
        table=outbox_with("version int NOT NULL"),
    ),
    case(
        "envelope_expanded",
        "an expanded payload in the envelope",
        {
            **JSON,
            **placement("type:envelope:eventType"),
            **option("table.expand.json.payload", "true"),
        },
        insert(1, "envelope_expanded", """'{"id": 1, "n": {"k": [1, 2]}}'"""),
        1,
    ),
    # The partition.
    case(
        "partition",
        "an int column chooses the partition; null leaves it to the key",
        placement("p:partition,type:header:eventType"),
        insert(1, "partition", "'{}', 3")
        + insert(2, "partition", "'{}', 0")
        + insert(3, "partition", "'{}', NULL"),
        3,
        table=outbox_with("p int"),
        places=True,
    ),
    failing(
        "partition_bigint",
        "a partition that is not an int",
        placement("p:partition"),
        insert(1, "partition_bigint", "'{}', 3"),
        "Field 'p' is not of type INT32",
        table=outbox_with("p bigint"),
    ),
    # The time.
    case(
        "timestamp",
        "a timestamp column gives the record's time, in milliseconds",
        option("table.field.event.timestamp", "at"),
        insert(1, "timestamp", "'{}', '2019-03-24 20:52:59.123456'")
        + insert(2, "timestamp", "'{}', '2019-03-24 20:52:59.9999'")
        + insert(3, "timestamp", "'{}', '1970-01-01 00:00:00'"),
        3,
        table=outbox_with("at timestamp"),
        timestamps=True,
    ),
    case(
        "timestamp_3",
        "a timestamp of milliseconds",
        option("table.field.event.timestamp", "at"),
        insert(1, "timestamp_3", "'{}', '2019-03-24 20:52:59.123456'"),
        1,
        table=outbox_with("at timestamp(3)"),
        timestamps=True,
    ),
    case(
        "timestamp_null",
        "no timestamp: the time of Debezium's processing",
        option("table.field.event.timestamp", "at"),
        insert(1, "timestamp_null", "'{}', NULL"),
        1,
        table=outbox_with("at timestamp"),
    ),
    failing(
        "timestamp_before_1970",
        "a time that Kafka does not take stops the task",
        option("table.field.event.timestamp", "at"),
        insert(1, "timestamp_before_1970", "'{}', '1969-12-31 23:59:59'"),
        "Invalid record timestamp",
        table=outbox_with("at timestamp"),
    ),
    failing(
        "timestamptz",
        "a timestamp with time zone stops the task",
        option("table.field.event.timestamp", "at"),
        insert(1, "timestamptz", "'{}', '2019-03-24 20:52:59Z'"),
        "Field 'at' is not of type INT64",
        table=outbox_with("at timestamptz"),
    ),
    # The key.
    case(
        "key_column",
        "the key is another column",
        option("table.field.event.key", "type"),
        insert(1, "key_column", "'{}'"),
        1,
    ),
    case(
        "key_bigint",
        "a number as key, and no key, as strings",
        option("table.field.event.key", "k"),
        insert(1, "key_bigint", "'{}', 42") + insert(2, "key_bigint", "'{}', NULL"),
        2,
        table=outbox_with("k bigint"),
    ),
    case(
        "key_bigint_json",
        "a number as key, and no key, as JSON",
        {**JSON, **option("table.field.event.key", "k")},
        insert(1, "key_bigint_json", "'{}', 42") + insert(2, "key_bigint_json", "'{}', NULL"),
        2,
        table=outbox_with("k bigint"),
    ),
    case(
        "key_uuid_json",
        "a UUID as key, as JSON",
        {**JSON, **option("table.field.event.key", "id")},
        insert(1, "key_uuid_json", "'{}'"),
        1,
    ),
    case(
        "key_uuid",
        "a UUID as key, as a string",
        option("table.field.event.key", "id"),
        insert(1, "key_uuid", "'{}'"),
        1,
    ),
    case(
        "key_bytea",
        "bytes as key, as a string: no bytes of it",
        option("table.field.event.key", "k"),
        insert(1, "key_bytea", "'{}', '\\x616200'"),
        1,
        table=outbox_with("k bytea"),
    ),
    # The payload.
    case(
        "payload_null",
        "no payload is no value",
        placement("type:header:eventType"),
        insert(1, "payload_null", "NULL"),
        1,
    ),
    case(
        "payload_empty",
        "an empty text without the option",
        {},
        insert(1, "payload_empty", "''") + insert(2, "payload_empty", "' '"),
        2,
        table=outbox_of("text"),
    ),
    case(
        "tombstone",
        "route.tombstone.on.empty.payload: null, empty and blank text become tombstones",
        {**option("route.tombstone.on.empty.payload", "true"), **placement("type:header:eventType")},
        insert(1, "tombstone", "NULL")
        + insert(2, "tombstone", "''")
        + insert(3, "tombstone", "E' \\t\\n'")
        + insert(4, "tombstone", "E'\\u00a0'")
        + insert(5, "tombstone", "'{}'"),
        5,
        table=outbox_of("text"),
    ),
    case(
        "tombstone_json",
        "the same as JSON",
        {**JSON, **option("route.tombstone.on.empty.payload", "true")},
        insert(1, "tombstone_json", "NULL")
        + insert(2, "tombstone_json", "''")
        + insert(3, "tombstone_json", "'{}'"),
        3,
        table=outbox_of("text"),
    ),
    case(
        "tombstone_envelope",
        "an empty payload in the envelope",
        {
            **JSON,
            **option("route.tombstone.on.empty.payload", "true"),
            **placement("type:envelope:eventType"),
        },
        insert(1, "tombstone_envelope", "NULL")
        + insert(2, "tombstone_envelope", "''")
        + insert(3, "tombstone_envelope", "'{}'"),
        3,
        table=outbox_of("text"),
    ),
    case(
        "tombstone_bytea",
        "bytes of no length are a payload",
        {
            **option("route.tombstone.on.empty.payload", "true"),
            "value.converter": "io.debezium.converters.BinaryDataConverter",
        },
        insert(1, "tombstone_bytea", "''") + insert(2, "tombstone_bytea", "NULL"),
        2,
        table=outbox_of("bytea"),
    ),
    case(
        "payload_json",
        "json, as it was written",
        {},
        insert(1, "payload_json", """'{"z":1,  "a" : [ 1.10, 1e400 ],"z":"\\u0000 \\ud800"}'""")
        + insert(2, "payload_json", "'\n null '"),
        2,
        table=outbox_of("json"),
    ),
    case(
        "payload_text",
        "text of any kind",
        {},
        insert(1, "payload_text", "'plain \"text\" ü ✓ 𝄞'") + insert(2, "payload_text", "'{\"a\":'"),
        2,
        table=outbox_of("text"),
    ),
    case(
        "payload_text_json",
        "text of any kind, as JSON",
        JSON,
        insert(1, "payload_text_json", "E'plain \"text\" \\\\ / ü ✓ 𝄞 \\t\\n\\u0001\\u001f\\b\\f\\u007f\\u2028 <>&'''")
        + insert(2, "payload_text_json", "'{\"a\":'"),
        2,
        table=outbox_of("text"),
    ),
    case(
        "payload_varchar",
        "varchar",
        {},
        insert(1, "payload_varchar", "'{\"a\":  1}'"),
        1,
        table=outbox_of("varchar(100)"),
    ),
    case(
        "payload_bytea",
        "bytes as a string: no bytes of it",
        {},
        insert(1, "payload_bytea", "'\\x00ff10'"),
        1,
        table=outbox_of("bytea"),
    ),
    case(
        "payload_bytea_json",
        "bytes as JSON: base64",
        JSON,
        insert(1, "payload_bytea_json", "'\\x00ff10'") + insert(2, "payload_bytea_json", "''"),
        2,
        table=outbox_of("bytea"),
    ),
    case(
        "payload_bytea_binary",
        "bytes as bytes",
        {"value.converter": "io.debezium.converters.BinaryDataConverter"},
        insert(1, "payload_bytea_binary", "'\\x00ff10'") + insert(2, "payload_bytea_binary", "''"),
        2,
        table=outbox_of("bytea"),
    ),
    case(
        "payload_int_json",
        "a number as payload, as JSON",
        JSON,
        insert(1, "payload_int_json", "42"),
        1,
        table=outbox_of("int"),
    ),
    failing(
        "payload_binary_text",
        "a binary converter refuses text",
        {"value.converter": "io.debezium.converters.BinaryDataConverter"},
        insert(1, "payload_binary_text", "'{}'"),
        "delegate.converter.type",
    ),
    # Expansion.
    case(
        "expand",
        "an expanded payload: nulls and empty arrays go, numbers are printed anew",
        {**JSON, **option("table.expand.json.payload", "true")},
        insert(1, "expand", """'{"z":1,"a":null,"e":[],"n":{"k":12345678901},"f":1.10,"o":[{"x":1},{"y":2}]}'""")
        + insert(2, "expand", """'{"m":[1,2.0]}'""")
        + insert(3, "expand", "'\"str\"'")
        + insert(4, "expand", "'[]'")
        + insert(5, "expand", "'{}'")
        + insert(6, "expand", "NULL")
        + insert(7, "expand", """'{"s":"ü \\" /","b":true,"i":-3,"n":{"a":"b"},"l":["x","y"],"t":"2019-03-24"}'"""),
        7,
    ),
    case(
        "expand_text",
        "an expanded payload that is written as a string",
        option("table.expand.json.payload", "true"),
        insert(1, "expand_text", """'{"z":1,"n":{"k":2}}'"""),
        1,
    ),
    case(
        "expand_nulls",
        "table.json.payload.null.behavior=optional_bytes keeps nulls",
        {
            **JSON,
            **option("table.expand.json.payload", "true"),
            **option("table.json.payload.null.behavior", "optional_bytes"),
        },
        insert(1, "expand_nulls", """'{"z":1,"a":null,"e":[],"l":[{"x":null}]}'"""),
        1,
    ),
    failing(
        "expand_root_array",
        "an array as payload stops the task",
        {**JSON, **option("table.expand.json.payload", "true")},
        insert(1, "expand_root_array", "'[1, 2]'"),
        "Invalid type for ARRAY: class java.lang.String",
    ),
    # Routing.
    case(
        "route_by_field",
        "another column routes",
        option("route.by.field", "type"),
        insert(1, "order", "'{}'", event="'route_by_field'"),
        1,
    ),
    case(
        "route_regex",
        "groups of the expression in the replacement; what does not match as a whole goes to the value itself",
        {
            **option("route.topic.regex", r"(?<kind>[a-z]+)\.(v\d)(?:\..*)?"),
            **option("route.topic.replacement", "events.${kind}-$2"),
        },
        insert(1, "order.v1", "'{}'")
        + insert(2, "order.v2.eu", "'{}'")
        + insert(3, "Order.v1", "'{}'")
        + insert(4, "xorder.v1.", "'{}'"),
        4,
        topics=["events.order-v1", "events.order-v2", "Order.v1", "events.xorder-v1"],
    ),
    case(
        "route_part",
        "an expression that matches a part of the value does not match",
        {
            **option("route.topic.regex", "ord"),
            **option("route.topic.replacement", "events.part"),
        },
        insert(1, "route_part_order", "'{}'") + insert(2, "ord", "'{}'"),
        2,
        topics=["route_part_order", "events.part"],
    ),
    case(
        "route_constant",
        "one topic for all",
        option("route.topic.replacement", "route_constant"),
        insert(1, "order", "'{}'") + insert(2, "customer", "'{}'"),
        2,
        topics=["route_constant"],
    ),
    failing(
        "route_null",
        "nothing to route by stops the task",
        option("route.by.field", "r"),
        insert(1, "route_null", "'{}', NULL"),
        "NullPointerException",
        table=outbox_with("r text"),
    ),
    # What is refused.
    failing(
        "update_fatal",
        "an update of a row, with table.op.invalid.behavior=fatal",
        option("table.op.invalid.behavior", "fatal"),
        insert(1, "update_fatal", "'{}'") + "UPDATE outbox SET type = 'x';\n",
        "Unexpected update message received",
        records=1,
    ),
    failing(
        "key_missing",
        "a key column that is not there",
        option("table.field.event.key", "nope"),
        insert(1, "key_missing", "'{}'"),
        "nope is not a valid field name",
    ),
    failing(
        "bad_regex",
        "an expression that is none",
        option("route.topic.regex", "["),
        "",
        "Invalid value",
    ),
    failing(
        "bad_placement",
        "a column without a place",
        placement("type"),
        "",
        "Invalid value",
    ),
    failing("empty_placement", "an empty list of placements", placement(""), "", "Invalid value"),
    failing(
        "bad_behavior",
        "a behaviour that is none",
        option("table.op.invalid.behavior", "invalidOption"),
        "",
        "Invalid value",
    ),
]
