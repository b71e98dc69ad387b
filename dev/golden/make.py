"""Runs the cases through the real Debezium and writes down what arrives in Kafka."""

import json
import os
import shutil
import sys

import connect
import connect_cases
import postgres
import records
import server
import server_cases
from properties import lines

# So many connectors run at a time: each one has three connections and a slot.
AT_ONCE = 12


def main():
    kind, folder, wanted = sys.argv[1], sys.argv[2], sys.argv[3:]
    cases = connect_cases.CASES if kind == "connect" else server_cases.CASES
    names = [case["name"] for case in cases]
    topics = [topic for case in cases for topic in case.get("topics", [])]
    for what in (names, topics):
        twice = {name for name in what if what.count(name) > 1}
        assert not twice, f"{twice}: records are told apart by their topics"
    if wanted:
        cases = [case for case in cases if case["name"] in wanted]
    else:
        shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder, exist_ok=True)
    if kind == "connect":
        through_connect(cases, folder)
    else:
        for case in cases:
            through_server(case, folder)


def through_connect(cases, folder):
    worker = connect.Worker()
    try:
        run_connectors(worker, cases, folder)
    finally:
        worker.stop()
    shutil.rmtree(worker.home)


def run_connectors(worker, cases, folder):
    for start in range(0, len(cases), AT_ONCE):
        some = [(case, connect.configuration(case)) for case in cases[start : start + AT_ONCE]]
        refused = {}
        for case, properties in some:
            name = properties["name"]
            postgres.create(name, case["table"])
            if case.get("topics"):
                records.create_topics(case["topics"])
            if "before" in case:
                postgres.sql(name, case["before"])
            refused[name] = worker.start(case, properties)
        for case, properties in some:
            name = properties["name"]
            failure = refused[name]
            if failure is None and case["rows"]:
                postgres.eventually(
                    f"{name} to stream",
                    lambda: postgres.is_streaming(name) or worker.failure(name),
                )
                postgres.sql(name, case["rows"])
        for case, properties in some:
            name = properties["name"]
            failure = refused[name]
            if failure is None and "fails" in case:
                failure = postgres.eventually(f"{name} to fail", lambda: worker.failure(name))
            if failure is None:
                arrived(case, name, lambda: worker.failure(name))
            write(folder, case, properties, failure)
        for case, properties in some:
            worker.remove(properties["name"])
        for case, properties in some:
            postgres.drop(properties["name"])


def through_server(case, folder):
    properties = server.configuration(case)
    name = "golden_" + case["name"]
    postgres.create(name, case["table"])
    records.create_topics(case["topics"])
    process = server.Server(properties)
    try:
        postgres.eventually(
            f"{name} to stream",
            lambda: process.failure() or postgres.is_streaming(name),
        )
        postgres.sql(name, case["rows"])
        arrived(case, name, process.failure)
    finally:
        process.stop()
    write(folder, case, properties, None)
    postgres.drop(name)
    shutil.rmtree(process.home)


def arrived(case, name, failure):
    """Waits for as many records as the case expects."""

    def is_there():
        text = failure()
        if text:
            raise SystemExit(f"{name}: {text}")
        return records.count(case["topics"]) >= case["records"]

    postgres.eventually(f"{case['records']} records of {name}", is_there)


def write(folder, case, properties, failure):
    written = records.read(case.get("topics", []), case)
    if len(written) != case.get("records", 0):
        raise SystemExit(f"{case['name']}: {json.dumps(written, indent=1)}")
    if (failure is not None) != ("fails" in case):
        raise SystemExit(f"{case['name']}: {failure}")
    golden = {
        "name": case["name"],
        "about": case["about"],
        "table": case["table"].strip().splitlines(),
        "before": case.get("before", "").strip().splitlines(),
        "rows": case["rows"].strip().splitlines(),
        "properties": lines(properties),
        "fails": causes(failure, case),
        "records": written,
    }
    with open(os.path.join(folder, case["name"] + ".json"), "w") as file:
        json.dump(golden, file, indent=2, ensure_ascii=False)
        file.write("\n")
    print(f"{case['name']}: {len(written)} records", file=sys.stderr)


def causes(failure, case):
    """What a stack trace says, without the stack."""
    if failure is None:
        return None
    lines = [line.strip() for line in failure.splitlines()]
    said = [line for line in lines if line and not line.startswith(("at ", "... "))]
    if not any(case["fails"] in line for line in said):
        raise SystemExit(f"{case['name']}: {failure}")
    return said


main()
