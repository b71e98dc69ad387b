"""The cases for Debezium Server, few of them: each one is a process that starts."""

from connect_cases import (
    HEADERS,
    MANY,
    OUTBOX,
    case,
    insert,
    many_rows,
    outbox_of,
    outbox_with,
)


def option(name, value):
    """In a properties file of Debezium Server, `$` is written twice."""
    return {f"debezium.transforms.outbox.{name}": value.replace("$", "$$")}


def placement(text):
    return option("table.fields.additional.placement", text)


TEXT = {
    "debezium.format.key": "simplestring",
    "debezium.format.value": "simplestring",
    "debezium.format.header.schemas.enable": "false",
}
JSON = {
    "debezium.format.key.schemas.enable": "false",
    "debezium.format.value.schemas.enable": "false",
    "debezium.format.header.schemas.enable": "false",
}

CASES = [
    case(
        "server_default",
        "every format as it is by default: JSON with schemas, which outboxd does not write",
        {},
        insert(1, "server_default", """'{"id":1,"b":[1,2.0],"total":39.98}'"""),
        1,
    ),
    case(
        "server_text",
        "key and value as strings: the headers are JSON, quotes included",
        {**TEXT, **placement("type:header:eventType")},
        insert(1, "server_text", """'{"id":1,"b":[1,2.0],"total":39.98}'""")
        + insert(2, "server_text", "NULL", key="'schlüssel ✓'"),
        2,
    ),
    case(
        "server_json",
        "key, value and headers as JSON without schemas, and a tombstone",
        {
            **JSON,
            **placement("type:header:eventType"),
            **option("route.tombstone.on.empty.payload", "true"),
        },
        insert(1, "server_json", """'{"id":1,"b":[1,2.0],"total":39.98}'""")
        + insert(2, "server_json", "NULL"),
        2,
    ),
    case(
        "server_null",
        "no payload without the option, as JSON",
        JSON,
        insert(1, "server_null", "NULL"),
        1,
    ),
    case(
        "server_headers",
        "columns of many types as headers; null is the text null",
        {**TEXT, **placement(HEADERS)},
        many_rows("server_headers", 1),
        3,
        table=MANY,
    ),
    case(
        "server_envelope",
        "placements in the envelope",
        {**JSON, **placement("type:envelope:eventType,aggregateid:envelope,type:header:t")},
        insert(1, "server_envelope", "'{\"id\": 1}'"),
        1,
    ),
    case(
        "server_partition_and_time",
        "neither the partition nor the time that was configured",
        {
            **TEXT,
            **placement("p:partition,type:header:eventType"),
            **option("table.field.event.timestamp", "at"),
        },
        insert(1, "server_partition_and_time", "'{}', 3, '2019-03-24 20:52:59.123456'")
        + insert(2, "server_partition_and_time", "'{}', 0, '2019-03-24 20:52:59.123456'"),
        2,
        table=outbox_with("p int, at timestamp"),
    ),
    case(
        "server_route",
        "an expression with groups",
        {
            **TEXT,
            **option("route.topic.regex", r"(?<kind>[a-z]+)\.(v\d)"),
            **option("route.topic.replacement", "server.${kind}-$2"),
        },
        insert(1, "order.v1", "'{}'") + insert(2, "server_route", "'{}'"),
        2,
        topics=["server.order-v1", "server_route"],
    ),
    case(
        "server_expand",
        "an expanded payload",
        {**JSON, **option("table.expand.json.payload", "true")},
        insert(1, "server_expand", """'{"z":1,"a":null,"e":[],"f":1.10}'"""),
        1,
    ),
    case(
        "server_key",
        "a key of numbers, and none",
        {**TEXT, **option("table.field.event.key", "k")},
        insert(1, "server_key", "'{}', 42") + insert(2, "server_key", "'{}', NULL"),
        2,
        table=outbox_with("k bigint"),
    ),
    case(
        "server_bytea",
        "bytes as bytes",
        {
            **TEXT,
            "debezium.sink.kafka.producer.value.serializer": "org.apache.kafka.common.serialization.ByteArraySerializer",
            "debezium.format.value": "binary",
        },
        insert(1, "server_bytea", "'\\x00ff10'"),
        1,
        table=outbox_of("bytea"),
    ),
]
