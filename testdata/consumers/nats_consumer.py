"""Adds up accounts: each event once, although JetStream can bring it twice."""

import asyncio
import json
import os
import signal

import nats
import psycopg
from nats.js.api import ConsumerConfig

# Under this name the inbox knows us. It outlives the durable consumer and what it has acknowledged.
NAME = "accounts"
# What is not acknowledged for so long, in seconds, comes again. Longer than processing takes.
ACK_WAIT = float(os.environ.get("ACK_WAIT", "60"))


async def handle(database, payload):
    await database.execute(
        "UPDATE accounts SET balance = balance + %s WHERE id = %s",
        (payload["amount"], payload["account"]),
    )


async def process(database, message):
    # Not Nats-Msg-Id: of an event that an operator sent again, that is another one.
    event_id = message.headers["event_id"]
    # One transaction: the event is noted as processed if and only if its effect is there.
    async with database.transaction():
        asked = await database.execute("SELECT outboxd.process_once(%s, %s)", (NAME, event_id))
        if (await asked.fetchone())[0]:
            await handle(database, json.loads(message.data)["payload"])
        else:
            print("skipped", event_id, flush=True)


async def main():
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    database = await psycopg.AsyncConnection.connect(os.environ["DATABASE_URL"], autocommit=True)
    connection = await nats.connect(os.environ["NATS_URL"])
    subscription = await connection.jetstream().pull_subscribe(
        os.environ["SUBJECT"],
        durable=os.environ["DURABLE"],
        config=ConsumerConfig(
            ack_wait=ACK_WAIT,
            # One at a time, of all processes together: what comes again comes before what is behind it.
            max_ack_pending=1,
        ),
    )
    while not stopped.is_set():
        try:
            messages = await subscription.fetch(1, timeout=0.5)
        except nats.errors.TimeoutError:
            continue
        for message in messages:
            await process(database, message)
            # The transaction is durable: now, and not before.
            await message.ack()
    # The last acknowledgement is on its way.
    await connection.flush()
    await connection.close()
    await database.close()


asyncio.run(main())
