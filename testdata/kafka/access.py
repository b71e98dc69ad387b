"""Adds or removes one rule of who may do what with topics, as Kafka's own tool does in five times the time."""

import sys
import time

from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)


def main(servers, user, password, how, permission, principal, operation, topic):
    login = {"security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": "PLAIN"}
    login |= {"sasl.username": user, "sasl.password": password}
    admin = AdminClient({"bootstrap.servers": servers} | login)
    rule = (
        ResourceType.TOPIC,
        topic,
        ResourcePatternType.LITERAL,
        f"User:{principal}",
        "*",
        getattr(AclOperation, operation),
        getattr(AclPermissionType, permission),
    )
    if how == "add":
        answers = admin.create_acls([AclBinding(*rule)])
    else:
        answers = admin.delete_acls([AclBindingFilter(*rule)])
    for answer in answers.values():
        done = answer.result(timeout=30)
        if how == "remove" and len(done) != 1:
            raise SystemExit(f"{len(done)} rules were removed")
    # The controller has it; the broker goes by it a moment later.
    deadline = time.monotonic() + 30
    expected = 1 if how == "add" else 0
    while len(admin.describe_acls(AclBindingFilter(*rule)).result(timeout=30)) != expected:
        if time.monotonic() > deadline:
            raise SystemExit("the broker does not go by the rule")


main(*sys.argv[1:])
