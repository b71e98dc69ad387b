"""Debezium Server: a process for every case, since one has one connector."""

import os
import subprocess
import tempfile

import postgres
from properties import lines

BASE = {
    "debezium.sink.type": "kafka",
    "debezium.sink.kafka.producer.bootstrap.servers": "localhost:9092",
    "debezium.sink.kafka.producer.key.serializer": "org.apache.kafka.common.serialization.StringSerializer",
    "debezium.sink.kafka.producer.value.serializer": "org.apache.kafka.common.serialization.StringSerializer",
    "debezium.source.connector.class": "io.debezium.connector.postgresql.PostgresConnector",
    "debezium.source.offset.storage.file.filename": "data/offsets.dat",
    "debezium.source.offset.flush.interval.ms": "0",
    "debezium.source.plugin.name": "pgoutput",
    "debezium.source.publication.autocreate.mode": "filtered",
    "debezium.source.snapshot.mode": "no_data",
    "debezium.source.table.include.list": "public.outbox",
    "debezium.source.tombstones.on.delete": "false",
    "debezium.source.poll.interval.ms": "50",
    "debezium.source.extended.headers.enabled": "false",
    "debezium.transforms": "outbox",
    "debezium.transforms.outbox.type": "io.debezium.transforms.outbox.EventRouter",
}


def configuration(case):
    name = "golden_" + case["name"]
    properties = {
        **BASE,
        "debezium.source.database.hostname": "localhost",
        "debezium.source.database.port": "5432",
        "debezium.source.database.user": "postgres",
        "debezium.source.database.password": "secret",
        "debezium.source.database.dbname": name,
        "debezium.source.slot.name": name,
        "debezium.source.publication.name": name,
        "debezium.source.topic.prefix": name,
    }
    properties.update(case["options"])
    return {name: value for name, value in properties.items() if value is not None}


class Server:
    def __init__(self, properties):
        self.home = tempfile.mkdtemp(prefix="golden-server.")
        os.makedirs(f"{self.home}/config")
        os.makedirs(f"{self.home}/data")
        here = dict(properties)
        here["debezium.source.database.hostname"] = "127.0.0.1"
        here["debezium.source.database.port"] = postgres.port()
        here["debezium.sink.kafka.producer.bootstrap.servers"] = os.environ[
            "KAFKA_BOOTSTRAP_SERVERS"
        ]
        here["quarkus.http.port"] = "0"
        with open(f"{self.home}/config/application.properties", "w") as file:
            file.writelines(f"{line}\n" for line in lines(here))
        server = os.environ["DEBEZIUM_SERVER"]
        runner = next(name for name in os.listdir(server) if name.endswith("-runner.jar"))
        command = [os.environ["JAVA_21"], "-Xmx768m"]
        command += ["--add-opens", "java.base/java.lang=ALL-UNNAMED"]
        command += ["-cp", f"{server}/{runner}:config:{server}/lib/*"]
        command += ["io.debezium.server.Main"]
        self.log = open(f"{self.home}/log", "w")
        self.process = subprocess.Popen(
            command, cwd=self.home, stdout=self.log, stderr=self.log
        )

    def failure(self):
        if self.process.poll() is None:
            return None
        return f"Debezium Server ended: see {self.home}/log"

    def stop(self):
        self.process.terminate()
        self.process.wait(60)
        self.log.close()
