-- The consumer's inbox: which events it has processed, so that a duplicate changes nothing.
--
-- Optional, and for the database of a service that consumes events, which is mostly another one than
-- the outbox's: this file needs none of the others. See docs/CONSUMERS.md.

CREATE SCHEMA IF NOT EXISTS outboxd;

CREATE TABLE IF NOT EXISTS outboxd.inbox (
    -- Who processed it: a name per consumer, for example its consumer group.
    consumer     text        NOT NULL,
    -- The record's event_id, or its dedup_key.
    event_id     text        NOT NULL,
    processed_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (consumer, event_id)
);

-- What is old is deleted by its age.
CREATE INDEX IF NOT EXISTS inbox_processed_at ON outboxd.inbox (processed_at);

COMMENT ON TABLE outboxd.inbox IS 'Events that consumers of this database have processed; see outboxd';

-- True the first time that a consumer processes an event, false for a duplicate. Call it in the
-- transaction that does what the event asks for:
--   SELECT outboxd.process_once('billing', '018f3c1e-…');
-- While another transaction processes the same event, it waits for its end.
CREATE OR REPLACE FUNCTION outboxd.process_once(consumer text, event_id text) RETURNS boolean
LANGUAGE plpgsql AS $process$
#variable_conflict use_column
BEGIN
    INSERT INTO outboxd.inbox (consumer, event_id)
    VALUES (process_once.consumer, process_once.event_id)
    ON CONFLICT DO NOTHING;
    RETURN FOUND;
END
$process$;

-- The role that consumes needs no more than this:
--   GRANT USAGE ON SCHEMA outboxd TO billing;
--   GRANT INSERT ON outboxd.inbox TO billing;
-- and to delete what is old: GRANT SELECT, DELETE ON outboxd.inbox TO billing;
