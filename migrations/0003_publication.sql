-- What the stream carries: inserts into the outbox and nothing else. Created before the slot, and
-- never dropped or changed while the slot exists: rows written meanwhile would not be streamed.

DO $publication$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_publication WHERE pubname = 'outboxd') THEN
        CREATE PUBLICATION outboxd FOR TABLE public.outbox
            WITH (publish = 'insert', publish_via_partition_root = true);
    END IF;
END
$publication$;
