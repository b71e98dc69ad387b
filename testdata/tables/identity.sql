CREATE SCHEMA identity;
CREATE TABLE identity.outbox (
    id bigserial PRIMARY KEY, event_id uuid NOT NULL UNIQUE, event_type text NOT NULL,
    aggregate_type text NOT NULL, aggregate_id uuid NOT NULL, payload jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    published boolean NOT NULL DEFAULT false, published_at timestamptz,
    attempts int NOT NULL DEFAULT 0, next_attempt_at timestamptz, error_message text);
