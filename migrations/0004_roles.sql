-- The relay's role: it streams, writes statuses, keeps its own tables, and nothing else.
-- It has no password yet:
--   ALTER ROLE outboxd PASSWORD '…';
-- REPLICATION lets a role stream whatever any publication of the database publishes.

DO $role$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'outboxd') THEN
        CREATE ROLE outboxd LOGIN REPLICATION;
    END IF;
EXCEPTION
    -- Another database of the server is being migrated at the same moment.
    WHEN duplicate_object OR unique_violation THEN NULL;
END
$role$;

GRANT USAGE ON SCHEMA public, outboxd TO outboxd;
GRANT SELECT ON public.outbox TO outboxd;
GRANT UPDATE (status, sent_at, attempts, next_attempt_at, last_error) ON public.outbox TO outboxd;
GRANT SELECT, INSERT, UPDATE, DELETE
    ON outboxd.relay, outboxd.held_event, outboxd.ledger, outboxd.audit TO outboxd;
GRANT EXECUTE ON FUNCTION outboxd.retry(text, text, regclass), outboxd.retry(uuid, text, regclass)
    TO outboxd;
