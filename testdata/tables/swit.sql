-- The outbox of a Go library: text ids, raw bytes, headers as JSON text, a processed_at marker
-- without time zone.
CREATE TABLE outbox (
  id varchar(255) PRIMARY KEY, aggregate_id varchar(255) NOT NULL, event_type varchar(255) NOT NULL,
  topic varchar(255) NOT NULL, payload bytea NOT NULL, headers text,
  created_at timestamp NOT NULL, processed_at timestamp, retry_count int DEFAULT 0, last_error text);
CREATE INDEX idx_processed_at ON outbox (processed_at);
CREATE INDEX idx_created_at ON outbox (created_at);
