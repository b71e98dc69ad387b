"""Adds up accounts: each event once, although Kafka can bring it twice."""

import json
import os
import signal

import psycopg
from confluent_kafka import Consumer, KafkaException

# Under this name the inbox knows us. It outlives the consumer group and its offsets.
NAME = "accounts"

running = True


def stop(_signal, _frame):
    global running
    running = False


def header(record, name):
    for key, value in record.headers() or []:
        if key == name:
            return value.decode()
    return None


def handle(database, payload):
    database.execute(
        "UPDATE accounts SET balance = balance + %s WHERE id = %s",
        (payload["amount"], payload["account"]),
    )


def process(database, record):
    # Where producers say what is the same event, that counts; else the event's own id.
    event_id = header(record, "dedup_key") or header(record, "event_id")
    # One transaction: the event is noted as processed if and only if its effect is there.
    with database.transaction():
        asked = database.execute("SELECT outboxd.process_once(%s, %s)", (NAME, event_id))
        if asked.fetchone()[0]:
            handle(database, json.loads(record.value())["payload"])
        else:
            print("skipped", event_id, flush=True)


def main():
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    database = psycopg.connect(os.environ["DATABASE_URL"], autocommit=True)
    consumer = Consumer(
        {
            "bootstrap.servers": os.environ["KAFKA_BOOTSTRAP_SERVERS"],
            "group.id": os.environ["CONSUMER_GROUP"],
            "auto.offset.reset": "earliest",
            # Offsets that we have stored are committed in the background and at the end, and only
            # those: what is committed is always processed.
            "enable.auto.offset.store": False,
            # One that was killed keeps its partitions for this long.
            "session.timeout.ms": 6000,
        }
    )
    consumer.subscribe([os.environ["TOPIC"]])
    try:
        while running:
            record = consumer.poll(0.5)
            if record is None:
                continue
            if record.error():
                raise KafkaException(record.error())
            process(database, record)
            # The transaction is durable: now, and not before.
            consumer.store_offsets(message=record)
    finally:
        consumer.close()


main()
