CREATE TYPE outboxstatus AS ENUM ('PENDING', 'SENDING', 'SENT', 'FAILED');
CREATE TABLE event_outbox (
    id uuid PRIMARY KEY, topic text NOT NULL, key text, partition_key text,
    payload jsonb NOT NULL, headers jsonb,
    status outboxstatus NOT NULL DEFAULT 'PENDING',
    retry_count int NOT NULL DEFAULT 0, max_retries int NOT NULL DEFAULT 5, last_error text,
    scheduled_at timestamptz, sent_at timestamptz, created_at timestamptz NOT NULL DEFAULT now(),
    CHECK (retry_count >= 0 AND retry_count <= max_retries),
    CHECK (status <> 'SENT' OR sent_at IS NOT NULL),
    CHECK (scheduled_at IS NULL OR scheduled_at >= created_at));
CREATE INDEX ix_event_outbox_status ON event_outbox (status);
CREATE INDEX ix_event_outbox_topic ON event_outbox (topic);
CREATE INDEX ix_event_outbox_status_scheduled ON event_outbox (status, scheduled_at);
CREATE INDEX ix_event_outbox_retry_count ON event_outbox (retry_count);
CREATE INDEX ix_event_outbox_key ON event_outbox (key);
CREATE INDEX ix_event_outbox_partition_key ON event_outbox (partition_key);
