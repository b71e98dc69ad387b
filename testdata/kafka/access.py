"""Adds or removes one rule of who may do what with topics, as Kafka's own tool does in five times the time."""

import sys

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


main(*sys.argv[1:])
