CREATE TABLE outbox_event (
    id bigserial PRIMARY KEY, dedup_key text NOT NULL UNIQUE, event_type text NOT NULL,
    aggregate_type text, aggregate_id text, payload jsonb NOT NULL, headers jsonb,
    status text NOT NULL DEFAULT 'NEW' CHECK (status IN ('NEW', 'SENT', 'FAILED')),
    retry_count int NOT NULL DEFAULT 0, next_retry_at timestamptz, last_error text,
    created_at timestamptz NOT NULL DEFAULT now(), sent_at timestamptz);
