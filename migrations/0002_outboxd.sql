-- What outboxd itself keeps. Several relays can share a database: every row belongs to a relay id.

CREATE SCHEMA IF NOT EXISTS outboxd;

-- One row per relay: its place in the stream and its state.
CREATE TABLE IF NOT EXISTS outboxd.relay (
    relay_id       text        PRIMARY KEY,
    -- Raised by whoever takes over; who has an older one can write nothing any more.
    epoch          bigint      NOT NULL DEFAULT 0,
    -- Every event at or before this position is settled, and none after it.
    position_lsn   pg_lsn      NOT NULL DEFAULT '0/0',
    position_index bigint      NOT NULL DEFAULT 0,
    -- The slot was confirmed up to here at most: further on, somebody else has moved it.
    confirmable_lsn pg_lsn     NOT NULL DEFAULT '0/0',
    -- The server that the position belongs to.
    system_id      text,
    timeline       int,
    slot           text,
    -- The publication as it was when the slot was first read.
    publication    text,
    -- Whether the rows older than the slot were published.
    sweep          text        NOT NULL DEFAULT 'none' CHECK (sweep IN ('none', 'incomplete', 'complete')),
    -- Where the stream has passed everything that a sweep can have seen.
    sweep_until    pg_lsn,
    paused         boolean     NOT NULL DEFAULT false,
    paused_topics  text[]      NOT NULL DEFAULT '{}',
    -- The known partition count of each topic.
    partitions     jsonb       NOT NULL DEFAULT '{}',
    state          text        NOT NULL DEFAULT 'starting',
    holder         text,
    error_code     text,
    error_message  text,
    error_remedy   text,
    error_at       timestamptz,
    started_at     timestamptz,
    settled_at     timestamptz
) WITH (fillfactor = 10);

-- Events that could not go yet. They are whole, so that they do not depend on their row any more;
-- only of scheduled ones nothing but id and time is kept: what is published is their row when due.
CREATE TABLE IF NOT EXISTS outboxd.held_event (
    relay_id       text        NOT NULL,
    event_id       text        NOT NULL,
    -- The order of reading, in which the events of a key go.
    ordinal        bigint      GENERATED ALWAYS AS IDENTITY,
    position_lsn   pg_lsn      NOT NULL DEFAULT '0/0',
    position_index bigint      NOT NULL DEFAULT 0,
    -- retry: its delivery failed. topic: its topic took no records. parked: behind a retry, topic or
    -- parked one of its key. scheduled: not due. dead: given up, and kept for whoever looks.
    reason         text        NOT NULL CHECK (reason IN ('retry', 'topic', 'parked', 'scheduled', 'dead')),
    event_type     text,
    topic          text,
    key            bytea,
    -- Where its row names the partition, or another value than the key to hash for it.
    partition      int,
    partition_hash bigint,
    -- Pairs of name and value, in order.
    headers        json        NOT NULL DEFAULT '[]',
    value          bytea,
    -- Milliseconds since 1970, where the record's timestamp is not that of publishing.
    record_timestamp bigint,
    attempts       int         NOT NULL DEFAULT 0,
    max_attempts   int,
    -- No attempt is left: a dead letter, or a matter for an operator.
    exhausted      boolean     NOT NULL DEFAULT false,
    last_error     text,
    -- Its code, as in OBX-3002.
    error_code     text,
    failed_at      timestamptz,
    due_at         timestamptz,
    since          timestamptz NOT NULL DEFAULT now(),
    -- Sent again on an operator's word: its record says so.
    redelivery     boolean     NOT NULL DEFAULT false,
    -- Of a scheduled one, the transaction that inserted its row.
    xid            xid8,
    -- The event's row does not show its failure yet.
    unwritten      boolean     NOT NULL DEFAULT false,
    -- What an operator asks the relay to do with it.
    request        text        CHECK (request IN ('retry', 'skip', 'discard', 'unblock', 'publish')),
    PRIMARY KEY (relay_id, event_id)
);
CREATE INDEX IF NOT EXISTS held_event_ordinal ON outboxd.held_event (relay_id, ordinal);
CREATE INDEX IF NOT EXISTS held_event_scheduled ON outboxd.held_event (relay_id, due_at, ordinal)
    WHERE reason = 'scheduled';
CREATE INDEX IF NOT EXISTS held_event_unwritten ON outboxd.held_event (relay_id, ordinal) WHERE unwritten;
CREATE INDEX IF NOT EXISTS held_event_request ON outboxd.held_event (relay_id, ordinal) WHERE request IS NOT NULL;

-- Verdicts that the event's row cannot show, or does not show yet.
CREATE TABLE IF NOT EXISTS outboxd.ledger (
    relay_id  text        NOT NULL,
    event_id  text        NOT NULL,
    verdict   text        NOT NULL CHECK (verdict IN ('sent', 'skipped', 'discarded')),
    at        timestamptz NOT NULL DEFAULT now(),
    -- To be written into the row, by and by; the transaction that inserted the row tells whether
    -- a row that is not found is gone or not visible yet.
    unwritten boolean     NOT NULL DEFAULT false,
    xid       xid8,
    -- Published by a sweep: the stream, where it brings the event again, leaves it out.
    swept     boolean     NOT NULL DEFAULT false,
    PRIMARY KEY (relay_id, event_id)
);
CREATE INDEX IF NOT EXISTS ledger_unwritten ON outboxd.ledger (relay_id, at, event_id) WHERE unwritten;
CREATE INDEX IF NOT EXISTS ledger_swept ON outboxd.ledger (relay_id, event_id) WHERE swept;

-- What operators did.
CREATE TABLE IF NOT EXISTS outboxd.audit (
    id       bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at       timestamptz NOT NULL DEFAULT now(),
    relay_id text        NOT NULL,
    actor    text        NOT NULL DEFAULT session_user,
    action   text        NOT NULL,
    target   text,
    detail   jsonb
);

-- Every event with its verdict: what the ledger knows beside the row.
CREATE OR REPLACE VIEW outboxd.event_verdict AS
    SELECT o.id::text AS event_id, l.relay_id, l.verdict, l.at AS verdict_at
    FROM public.outbox o LEFT JOIN outboxd.ledger l ON l.event_id = o.id::text;

-- Writes an event from any language, in one call and in the caller's transaction:
--   SELECT outboxd.emit('order', 'o-1', 'OrderCreated', '{"total": 10}');
--   SELECT outboxd.emit('order', 'o-1', 'OrderPaid', '{}', topic => 'orders.v2', dedup_key => 'p-7');
-- Another table with the same columns: outbox => 'sales.outbox'.
-- It gives the event's id. With a dedup_key it gives NULL where an event with that key (or that id) is
-- there already: nothing is written, and the transaction goes on. Without one, an id that is given
-- twice is a mistake and raises unique_violation.
CREATE OR REPLACE FUNCTION outboxd.emit(
    aggregate_type text,
    aggregate_id   text,
    event_type     text,
    payload        jsonb,
    headers        jsonb       DEFAULT '{}',
    topic          text        DEFAULT NULL,
    partition_key  text        DEFAULT NULL,
    tenant_id      text        DEFAULT NULL,
    schema_version int         DEFAULT 1,
    dedup_key      text        DEFAULT NULL,
    occurred_at    timestamptz DEFAULT now(),
    scheduled_at   timestamptz DEFAULT NULL,
    max_attempts   int         DEFAULT NULL,
    id             uuid        DEFAULT gen_random_uuid(),
    outbox         regclass    DEFAULT NULL
) RETURNS uuid
LANGUAGE plpgsql AS $emit$
#variable_conflict use_variable
DECLARE
    written bigint;
BEGIN
    IF outbox IS NULL AND dedup_key IS NULL THEN
        INSERT INTO public.outbox (
            id, aggregate_type, aggregate_id, event_type, payload, headers, topic, partition_key,
            tenant_id, schema_version, dedup_key, occurred_at, scheduled_at, max_attempts)
        VALUES (
            id, aggregate_type, aggregate_id, event_type, payload, headers, topic, partition_key,
            tenant_id, schema_version, dedup_key, occurred_at, scheduled_at, max_attempts);
        RETURN id;
    END IF;
    -- Without a target, so that it works where dedup_key has no index of its own, and without the
    -- right to read the table.
    EXECUTE format(
        'INSERT INTO %s (
            id, aggregate_type, aggregate_id, event_type, payload, headers, topic, partition_key,
            tenant_id, schema_version, dedup_key, occurred_at, scheduled_at, max_attempts)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14) %s',
        coalesce(outbox, 'public.outbox'::regclass),
        CASE WHEN dedup_key IS NOT NULL THEN 'ON CONFLICT DO NOTHING' END)
    USING
        id, aggregate_type, aggregate_id, event_type, payload, headers, topic, partition_key,
        tenant_id, schema_version, dedup_key, occurred_at, scheduled_at, max_attempts;
    GET DIAGNOSTICS written = ROW_COUNT;
    RETURN CASE WHEN written > 0 THEN id END;
END
$emit$;

-- Publishes an event now, on an operator's word: one that is held, dead letters included, or a
-- pending row that the relay does not know. Gives what the relay is asked for: retry or publish;
-- or parked, and nothing is asked, where it waits for another event of its key.
--   SELECT outboxd.retry('018f3c1e-…');
--   SELECT outboxd.retry(id) FROM public.outbox WHERE aggregate_id = 'o-1' AND status = 'PENDING';
-- With several relays in the database, say which: relay_id => 'orders'. Another table than the
-- configured one: outbox => 'sales.outbox'; its id is the column id, else its primary key.
-- It runs with the caller's rights; the role of the relay has what it needs.
CREATE OR REPLACE FUNCTION outboxd.retry(
    id       text,
    relay_id text     DEFAULT NULL,
    outbox   regclass DEFAULT NULL
) RETURNS text
LANGUAGE plpgsql AS $retry$
#variable_conflict use_variable
DECLARE
    relays    text[];
    asked     text;
    verdict   record;
    place     regclass;
    id_column record;
    found_id  text;
    status    text;
BEGIN
    IF relay_id IS NULL THEN
        SELECT array_agg(r.relay_id ORDER BY r.relay_id) INTO relays FROM outboxd.relay r;
        IF cardinality(relays) > 1 THEN
            SELECT array_agg(h.relay_id) INTO relays FROM outboxd.held_event h
            WHERE h.relay_id = ANY (relays) AND h.event_id = id;
        END IF;
        IF relays IS NULL OR cardinality(relays) <> 1 THEN
            RAISE EXCEPTION 'it is not clear which relay is to publish event %', id
                USING ERRCODE = 'object_not_in_prerequisite_state',
                      HINT = 'say it: outboxd.retry(id, relay_id => ''…'')';
        END IF;
        relay_id := relays[1];
    END IF;
    SELECT h.reason INTO asked FROM outboxd.held_event h
    WHERE h.relay_id = relay_id AND h.event_id = id AND h.reason = 'parked';
    IF FOUND THEN
        RETURN asked;
    END IF;
    UPDATE outboxd.held_event h
    SET request = CASE h.request WHEN 'publish' THEN h.request ELSE 'retry' END
    WHERE h.relay_id = relay_id AND h.event_id = id
    RETURNING h.request INTO asked;

    IF asked IS NULL THEN
        place := coalesce(outbox, 'public.outbox'::regclass);
        -- Without its length: a "character" alone would be one letter.
        SELECT a.attname AS name, format_type(a.atttypid, -1) AS type INTO id_column
        FROM pg_catalog.pg_attribute a
        LEFT JOIN pg_catalog.pg_index i
            ON i.indrelid = a.attrelid AND i.indisprimary AND i.indnkeyatts = 1
               AND a.attnum = i.indkey[0]
        WHERE a.attrelid = place AND a.attnum > 0 AND NOT a.attisdropped
          AND (a.attname = 'id'::name OR i.indrelid IS NOT NULL)
        ORDER BY a.attname = 'id'::name DESC LIMIT 1;
        IF id_column IS NULL THEN
            RAISE EXCEPTION '% has no column that identifies an event', place
                USING ERRCODE = 'undefined_column';
        END IF;
        BEGIN
            -- Of a table with other labels than ours the caller knows what is pending.
            EXECUTE format(
                'SELECT o.%1$I::text, rtrim(to_jsonb(o) ->> ''status'')
                 FROM %2$s o WHERE o.%1$I = $1::%3$s', id_column.name, place, id_column.type)
            INTO found_id, status USING id;
        EXCEPTION WHEN data_exception THEN
            found_id := NULL;
        END;
        IF found_id IS NULL THEN
            RAISE EXCEPTION 'there is no event % in %, and none is held', id, place
                USING ERRCODE = 'no_data_found';
        ELSIF found_id <> id THEN
            RETURN outboxd.retry(found_id, relay_id, outbox);
        END IF;
        SELECT l.verdict AS word, l.at INTO verdict FROM outboxd.ledger l
        WHERE l.relay_id = relay_id AND l.event_id = id;
        IF verdict.word IS NOT NULL THEN
            RAISE EXCEPTION 'event % is % (outboxd.ledger, %)', id, verdict.word, verdict.at
                USING ERRCODE = 'object_not_in_prerequisite_state';
        ELSIF status IN ('SENT', 'FAILED') THEN
            RAISE EXCEPTION 'event % is %, not PENDING', id, status
                USING ERRCODE = 'object_not_in_prerequisite_state';
        END IF;
        INSERT INTO outboxd.held_event (relay_id, event_id, reason, due_at, request)
        VALUES (relay_id, id, 'scheduled', now(), 'publish') ON CONFLICT DO NOTHING;
        asked := 'publish';
    END IF;
    INSERT INTO outboxd.audit (relay_id, actor, action, target, detail)
    VALUES (relay_id, coalesce(nullif(current_setting('outboxd.actor', true), ''), session_user),
            'retry', id, jsonb_build_object('request', asked));
    PERFORM pg_notify('outboxd', relay_id);
    RETURN asked;
END
$retry$;

CREATE OR REPLACE FUNCTION outboxd.retry(
    id       uuid,
    relay_id text     DEFAULT NULL,
    outbox   regclass DEFAULT NULL
) RETURNS text
LANGUAGE sql AS $retry$ SELECT outboxd.retry(id::text, relay_id, outbox) $retry$;
