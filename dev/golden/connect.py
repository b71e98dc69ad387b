"""Debezium in Kafka Connect: one worker, to which connectors are given over its REST address."""

import json
import os
import socket
import subprocess
import tempfile
import urllib.error
import urllib.request

import postgres

BASE = {
    "connector.class": "io.debezium.connector.postgresql.PostgresConnector",
    "plugin.name": "pgoutput",
    "publication.autocreate.mode": "filtered",
    "snapshot.mode": "no_data",
    "table.include.list": "public.outbox",
    "tombstones.on.delete": "false",
    "poll.interval.ms": "50",
    "extended.headers.enabled": "false",
    "key.converter": "org.apache.kafka.connect.storage.StringConverter",
    "value.converter": "org.apache.kafka.connect.storage.StringConverter",
    "transforms": "outbox",
    "transforms.outbox.type": "io.debezium.transforms.outbox.EventRouter",
}


def configuration(case):
    """The connector's properties, in the order of their file."""
    name = "golden_" + case["name"]
    properties = {
        "name": name,
        **BASE,
        "database.hostname": "localhost",
        "database.port": "5432",
        "database.user": "postgres",
        "database.password": "secret",
        "database.dbname": name,
        "slot.name": name,
        "publication.name": name,
        # Connectors of one worker and one prefix would share their metrics.
        "topic.prefix": name,
    }
    properties.update(case["options"])
    return {name: value for name, value in properties.items() if value is not None}


class Worker:
    def __init__(self):
        self.home = tempfile.mkdtemp(prefix="golden-connect.")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        properties = os.path.join(self.home, "worker.properties")
        with open(properties, "w") as file:
            file.write(
                f"bootstrap.servers={os.environ['KAFKA_BOOTSTRAP_SERVERS']}\n"
                f"listeners=http://127.0.0.1:{self.port}\n"
                f"plugin.path={os.environ['DEBEZIUM_PLUGINS']}\n"
                f"offset.storage.file.filename={self.home}/offsets\n"
                "offset.flush.interval.ms=1000\n"
                "key.converter=org.apache.kafka.connect.json.JsonConverter\n"
                "value.converter=org.apache.kafka.connect.json.JsonConverter\n"
                "plugin.discovery=only_scan\n"
            )
        libs = os.environ["KAFKA_LIBS"]
        command = [os.environ["JAVA"], "-Xmx768m", "-cp", f"{libs}/*"]
        command += [f"-Dlog4j2.configurationFile={libs}/log4j2.properties"]
        command += ["org.apache.kafka.connect.cli.ConnectStandalone", properties]
        self.log = open(os.path.join(self.home, "log"), "w")
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log)
        postgres.eventually("Kafka Connect", self.answers)

    def answers(self):
        if self.process.poll() is not None:
            raise SystemExit(f"Kafka Connect ended: see {self.home}/log")
        try:
            return self.ask("GET", "/connectors") is not None
        except (OSError, urllib.error.URLError):
            return False

    def ask(self, method, path, body=None):
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}",
            method=method,
            data=json.dumps(body).encode() if body else None,
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read() or "null")

    def start(self, case, properties):
        """Gives the worker a connector. None, or why it was refused."""
        # The addresses of this run.
        here = dict(properties)
        here["database.hostname"] = "127.0.0.1"
        here["database.port"] = postgres.port()
        body = {"name": here["name"], "config": here}
        try:
            self.ask("POST", "/connectors", body)
            return None
        except urllib.error.HTTPError as error:
            return json.loads(error.read())["message"]

    def failure(self, name):
        """Why its task failed; None while it runs."""
        try:
            status = self.ask("GET", f"/connectors/{name}/status")
        except urllib.error.HTTPError:
            return None
        for part in [status["connector"], *status["tasks"]]:
            if part["state"] == "FAILED":
                return part["trace"]
        return None

    def remove(self, name):
        try:
            self.ask("DELETE", f"/connectors/{name}")
        except urllib.error.HTTPError:
            pass

    def stop(self):
        self.process.terminate()
        self.process.wait(60)
        self.log.close()
