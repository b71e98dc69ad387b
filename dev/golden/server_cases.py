"""The cases for Debezium Server."""

CASES = []
