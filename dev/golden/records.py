"""Reading what Debezium wrote, with a client that shares no code with outboxd."""

import base64
import os

from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

PARTITIONS = 4

# Differs from run to run: the id of a run of the connector.
VARYING_HEADERS = ["__debezium.context.connectorRunId", "__debezium.context.runId"]


def create_topics(names):
    """Fresh topics; the broker makes none by itself."""
    admin = AdminClient(
        {"bootstrap.servers": os.environ["KAFKA_BOOTSTRAP_SERVERS"], "log_level": 3}
    )
    topics = [NewTopic(name, PARTITIONS, 1) for name in names]
    for name, created in admin.create_topics(topics).items():
        created.result()


def ends(consumer, topic):
    partitions = [TopicPartition(topic, number, 0) for number in range(PARTITIONS)]
    return [
        (partition, consumer.get_watermark_offsets(partition, timeout=10)[1])
        for partition in partitions
    ]


def count(topics):
    """How many records these topics have."""
    consumer = open_consumer()
    total = sum(end for topic in topics for _, end in ends(consumer, topic))
    consumer.close()
    return total


def open_consumer():
    return Consumer(
        {
            "bootstrap.servers": os.environ["KAFKA_BOOTSTRAP_SERVERS"],
            "group.id": "golden",
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "log_level": 3,
        }
    )


def read(topics, case):
    """All records of these topics, topic by topic, partition by partition, in order."""
    consumer = open_consumer()
    found = []
    for topic in topics:
        for partition, end in ends(consumer, topic):
            if end == 0:
                continue
            consumer.assign([partition])
            for _ in range(end):
                message = consumer.poll(10)
                if message is None or message.error():
                    raise SystemExit(f"{topic}: {message and message.error()}")
                found.append(as_case(message, case))
    consumer.close()
    return found


def as_case(message, case):
    headers = message.headers() or []
    record = {"topic": message.topic(), "partition": message.partition()}
    if message.key() is None and not case.get("places"):
        # A record without key and partition goes wherever its producer's batch happens to go.
        record["partition"] = {"varies": True}
    record["key"] = told(message.key())
    record["value"] = told(message.value())
    record["headers"] = [
        [name, {"varies": True} if name in VARYING_HEADERS else told(value)]
        for name, value in headers
    ]
    stamp = message.timestamp()[1]
    record["timestamp"] = stamp if case.get("timestamps") else {"varies": True}
    return record


def told(value):
    """Bytes as JSON: text as it is, null as null, anything else in base64."""
    if value is None:
        return None
    try:
        return value.decode("utf-8", "strict")
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(value).decode()}
