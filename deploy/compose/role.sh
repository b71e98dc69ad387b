#!/bin/sh
# Makes the relay's role with its password, before outboxd migrate gives it its rights. Run by PostgreSQL's
# image when the database is made.
psql -v ON_ERROR_STOP=1 -v password="$OUTBOXD_PASSWORD" -U "${POSTGRES_USER:-postgres}" -d "$POSTGRES_DB" <<'SQL'
CREATE ROLE outboxd LOGIN REPLICATION PASSWORD :'password';
SQL
