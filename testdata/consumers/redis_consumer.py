"""Adds up accounts: each event once, although a Redis stream can bring it twice."""

import json
import os
import signal

import psycopg
import redis

# Under this name the inbox knows us. It outlives the group and what it has acknowledged.
NAME = "accounts"
STREAM = os.environ["STREAM"]
GROUP = os.environ["CONSUMER_GROUP"]
# A name of this process that it has again when it is started again: what it had not acknowledged comes
# first then, in order.
ME = os.environ["CONSUMER_NAME"]
# What another process has had for so long, in milliseconds, is taken from it: it has died. Longer than a
# hundred entries take, or two are at the same one, and the second waits for nothing.
LEFT_AFTER = int(os.environ.get("LEFT_AFTER", "60000"))

running = True


def stop(_signal, _frame):
    global running
    running = False


def handle(database, payload):
    database.execute(
        "UPDATE accounts SET balance = balance + %s WHERE id = %s",
        (payload["amount"], payload["account"]),
    )


def process(database, fields):
    event_id = fields[b"event_id"].decode()
    # One transaction: the event is noted as processed if and only if its effect is there.
    with database.transaction():
        asked = database.execute("SELECT outboxd.process_once(%s, %s)", (NAME, event_id))
        if asked.fetchone()[0]:
            handle(database, json.loads(fields[b"data"])["payload"])
        else:
            print("skipped", event_id, flush=True)


def process_all(server, database, entries):
    for entry, fields in entries:
        if not running:
            return
        # Of an entry that was deleted only its number is left.
        if fields:
            process(database, fields)
        # The transaction is durable: now, and not before.
        server.xack(STREAM, GROUP, entry)


def read(server, after):
    """Entries for us: ours that we have not acknowledged after one of them, or new ones after ">"."""
    found = server.xreadgroup(GROUP, ME, {STREAM: after}, count=100, block=500)
    return found[0][1] if found else []


def main():
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    database = psycopg.connect(os.environ["DATABASE_URL"], autocommit=True)
    server = redis.Redis.from_url(os.environ["REDIS_URL"])
    try:
        # From the first entry on, and also before there is one.
        server.xgroup_create(STREAM, GROUP, id="0", mkstream=True)
    except redis.ResponseError as error:
        if not str(error).startswith("BUSYGROUP"):
            raise
    while running and (entries := read(server, "0")):
        process_all(server, database, entries)
    cursor = "0-0"
    while running:
        cursor, entries, *_ = server.xautoclaim(STREAM, GROUP, ME, LEFT_AFTER, cursor, count=100)
        process_all(server, database, entries)
        process_all(server, database, read(server, ">"))


main()
