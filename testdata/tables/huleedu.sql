CREATE TABLE event_outbox (
    id uuid PRIMARY KEY, aggregate_id varchar(255) NOT NULL, aggregate_type varchar(100) NOT NULL,
    event_type varchar(255) NOT NULL, event_data json NOT NULL,
    event_key varchar(255), topic varchar(255) NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(), published_at timestamptz,
    retry_count int NOT NULL DEFAULT 0, last_error text);
CREATE INDEX ix_event_outbox_unpublished ON event_outbox (published_at, created_at)
    WHERE published_at IS NULL;
