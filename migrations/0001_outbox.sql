-- The outbox: services insert one row per event, in the transaction that makes it true.
-- Keep ids unique for ever, and insert a row as it is to be published: a later update of it is not.
--
-- The table and its schema can have other names (outbox.table). Columns may be added; outboxd
-- ignores what it does not map.

CREATE TABLE IF NOT EXISTS public.outbox (
    id              uuid        PRIMARY KEY DEFAULT gen_random_uuid(),
    -- Follows commit order where the writers of a key are serialised; sweeps order by it.
    seq             bigint      GENERATED ALWAYS AS IDENTITY,
    aggregate_type  text        NOT NULL,
    aggregate_id    text        NOT NULL,
    event_type      text        NOT NULL,
    payload         jsonb       NOT NULL,
    headers         jsonb       NOT NULL DEFAULT '{}',
    topic           text,
    partition_key   text,
    tenant_id       text,
    schema_version  int         NOT NULL DEFAULT 1,
    dedup_key       text        UNIQUE,
    occurred_at     timestamptz NOT NULL DEFAULT now(),
    scheduled_at    timestamptz,
    -- Written by outboxd. No index may mention status, sent_at or attempts: then every update of
    -- them stays in its page and touches no index. That needs room for a second version of each
    -- row, hence the fillfactor: with more, the table ends up as large, and updates cost twice.
    status          text        NOT NULL DEFAULT 'PENDING' CHECK (status IN ('PENDING', 'SENT', 'FAILED')),
    attempts        int         NOT NULL DEFAULT 0,
    max_attempts    int         CHECK (max_attempts > 0),
    next_attempt_at timestamptz,
    last_error      text,
    sent_at         timestamptz,
    created_at      timestamptz NOT NULL DEFAULT now(),
    -- What a topic takes by default. For more, raise max.message.bytes of the topics first, then:
    --   ALTER TABLE public.outbox DROP CONSTRAINT outbox_payload_size,
    --     ADD CONSTRAINT outbox_payload_size CHECK (octet_length(payload::text) <= 8388608);
    CONSTRAINT outbox_payload_size CHECK (octet_length(payload::text) <= 1048576)
) WITH (fillfactor = 50);

COMMENT ON TABLE public.outbox IS 'Events to be published, with the status of each; see outboxd';
