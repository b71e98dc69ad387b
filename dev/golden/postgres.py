"""PostgreSQL for golden records: a database of its own for every case."""

import os
import subprocess
import time


def port():
    return os.environ["PG_PORT"]


def sql(database, text):
    """Runs SQL, statement by statement, and gives back what it printed."""
    psql = os.path.join(os.environ["PG_BIN"], "psql")
    if not os.path.exists(psql):
        psql = "psql"
    command = [psql, "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1"]
    command += ["-p", port(), "-U", "postgres", "-d", database, "-f", "-"]
    # The same rendering of times everywhere.
    environment = dict(os.environ, PGTZ="UTC")
    done = subprocess.run(command, input=text, text=True, capture_output=True, env=environment)
    if done.returncode != 0:
        raise SystemExit(f"{database}: {done.stderr}")
    return done.stdout.strip()


def create(database, table):
    """A fresh database with the case's table."""
    drop(database)
    sql("postgres", f"CREATE DATABASE {database}")
    sql(database, table)


def drop(database):
    sql(
        "postgres",
        f"SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots"
        f" WHERE database = '{database}' AND active;",
    )
    eventually(
        f"the slot of {database} to be free",
        lambda: sql(
            "postgres",
            f"SELECT count(*) FROM pg_replication_slots WHERE database = '{database}' AND active",
        )
        == "0",
    )
    sql(
        "postgres",
        f"SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots"
        f" WHERE database = '{database}';"
        f"DROP DATABASE IF EXISTS {database} WITH (FORCE);",
    )


def is_streaming(database):
    # A slot that is being made is active, too.
    asked = (
        f"SELECT count(*) FROM pg_replication_slots WHERE database = '{database}' AND active"
        f" AND confirmed_flush_lsn IS NOT NULL"
    )
    return sql("postgres", asked) == "1"


def eventually(what, is_so, seconds=90):
    """Waits until it is so; gives back what said so."""
    deadline = time.monotonic() + seconds
    while True:
        answer = is_so()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise SystemExit(f"waited in vain for {what}")
        time.sleep(0.1)
