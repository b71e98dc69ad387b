//! What to do about each kind of failure, in a sentence.

use super::Code;

impl Code {
    /// What to do, in a sentence.
    pub const fn remedy(self) -> &'static str {
        match self {
            Code::Config => "correct the configuration; `outboxd check` validates it offline",
            Code::Unprotected => "change the setting as said, or know who can listen in or read it",
            Code::Map => "correct [outbox.columns] or [outbox.status] so that they fit the table",
            Code::PostgresUnavailable => {
                "check that PostgreSQL runs and that postgres.url leads to it; the relay keeps trying"
            }
            Code::PostgresAuth => {
                "correct the user, password, certificates or sslmode in postgres.url, or pg_hba.conf"
            }
            Code::PostgresPermission => {
                "grant the relay's role what migrations/0004_roles.sql grants"
            }
            Code::WalLevel => "set wal_level = logical and restart PostgreSQL",
            Code::ServerVersion => "use PostgreSQL 14 or newer",
            Code::SynchronousStandby => {
                "leave application_name of the relay out of synchronous_standby_names: commits would \
                 wait for the relay, and the relay for its own commits"
            }
            Code::SchemaMissing => "run `outboxd migrate` as the owner of the database",
            Code::TableMissing => "run `outboxd migrate`, or name your table in outbox.table",
            Code::TableUnsuitable => "change the table as said",
            Code::InRecovery => "let postgres.url lead to the primary; the relay keeps trying",
            Code::PostgresRefused => "see the reason and the server's log",
            Code::ServerSetting => "change the setting as said",
            Code::NoRoom => {
                "raise max_replication_slots or max_wal_senders and restart PostgreSQL, or drop a slot \
                 that nothing needs"
            }
            Code::TableCostly => "change the table as said",
            Code::RoleTooStrong => {
                "let the relay use a role like that of migrations/0004_roles.sql"
            }
            Code::ClockSkew => "have both machines follow the same time, by NTP for instance",
            Code::PublicationMissing => {
                "run `outboxd migrate` as the table's owner, or create the publication as said"
            }
            Code::PublicationLost => {
                "rows that were written meanwhile may be missing in the stream: put the publication \
                 right (`outboxd doctor`), run `outboxd slot recover`, and start again, which publishes \
                 every row that is unsent"
            }
            Code::PublicationUnsuitable => "change the publication as said",
            Code::SlotMissing => {
                "if the slot was dropped, run `outboxd slot recover`, then start again, which \
                 publishes every row that is unsent; if it never existed, set postgres.create = true \
                 or run `outboxd slot create`"
            }
            Code::SlotLost => {
                "run `outboxd slot recover`, then start again, which publishes every row that is \
                 unsent; raise max_slot_wal_keep_size"
            }
            Code::SlotMoved => {
                "rows were left out: run `outboxd slot recover`, then start again, which publishes every \
                 row that is unsent; let nothing else read or advance the slot"
            }
            Code::WalKept => "change the setting, end the transaction or drop the slot as said",
            Code::SlotUnsuitable => "name another slot in postgres.slot, or drop this one",
            Code::SlotBlocked => {
                "end the transactions named above, or wait for them; the relay keeps trying"
            }
            Code::SlotInUse => {
                "nothing, if that is another relay: this one waits as standby; otherwise stop what \
                 reads the slot"
            }
            Code::IdentityChanged => {
                "let postgres.url lead to the server of before; if this one replaces it for good, run \
                 `outboxd slot recover` and start again, which publishes every row that is unsent"
            }
            Code::IntakeChanged => {
                "give it a relay.id and a postgres.slot of its own; or, once the old one has published \
                 everything, run `outboxd slot drop` and start again"
            }
            Code::Protocol => "report this with the message; nothing was skipped or confirmed",
            Code::LayoutChanged => {
                "restore the column, or correct [outbox.columns] and start the relay again"
            }
            Code::RowTooLarge => "raise outbox.max_row_bytes, memory allowing, and write it again",
            Code::Unpublishable => {
                "correct what is said in the configuration (routing, columns, encoding) or the writer; \
                 the event is kept (`outboxd dlq list`)"
            }
            Code::SinkUnavailable => {
                "check that it runs and that kafka.bootstrap_servers (redis.url, nats.url) leads to it; the \
                 relay keeps trying and loses nothing"
            }
            Code::TopicMissing => "create the topic; the relay sees it within seconds",
            Code::TopicDenied => {
                "allow the relay's principal to write to and describe the topic; the relay keeps trying"
            }
            Code::EventTooLarge => {
                "raise what it takes (Kafka: the topic's max.message.bytes; Redis: proto-max-bulk-len; \
                 NATS: max_payload, the stream's max_msg_size); the relay looks before every attempt"
            }
            Code::EventRefused => {
                "see the reason and correct the topic's configuration; an event is tried again by \
                 itself, an answer that is not known stops the relay: report it"
            }
            Code::ProducerFatal => "nothing: the relay has replaced its producer",
            Code::PartitionsChanged => {
                "if the change is meant, run `outboxd resume --topic NAME`: from then on keys go to \
                 the partitions that the new number gives them"
            }
            Code::TopicPaused => "run `outboxd resume --topic NAME` when it may go on",
            Code::HeldFull => {
                "mend what the events are held for, skip or discard some (`outboxd events list`), or \
                 raise held.max_events and held.max_bytes; until then nothing more is read"
            }
            Code::SinkTls => {
                "correct the CA or the client's certificate (ssl.* in kafka.properties, redis.tls_*, \
                 nats.tls_*), or the server's certificate; after a change of files send SIGHUP; the \
                 relay keeps trying"
            }
            Code::SinkAuth => {
                "correct user and password (sasl.* in kafka.properties, [redis], [nats]), or the server's \
                 users; after a change of files send SIGHUP; the relay keeps trying"
            }
            Code::TopicRisky => "change the topic as said",
            Code::SinkConfig => "correct kafka.properties ([redis], [nats]) as said",
            Code::Fenced => {
                "nothing, if another relay took over; with relay.standby = true this one waits for its turn"
            }
            Code::StatusWrite => {
                "see the reason; until statuses can be written nothing is confirmed, and nothing is lost"
            }
            Code::GraceExceeded => {
                "nothing is lost: events that were not settled are sent again at the next start; \
                 raise relay.shutdown_grace to avoid it"
            }
            Code::RelayBehind => {
                "wait until the relay has caught up (`outboxd status`), or find out why it does not"
            }
            Code::NotReady => {
                "see state and last error in `outboxd status`; `/readyz?verbose` names the check that fails"
            }
            Code::AdminListen => "choose another admin.listen, or free the port",
            Code::NotHeld => {
                "see `outboxd events list`, `outboxd keys list` and `outboxd dlq list`; it may have \
                 been published meanwhile"
            }
            Code::RequestRefused => "correct the request as said; nothing was changed",
            Code::DemoServer => {
                "install PostgreSQL's server (on Debian: apt-get install postgresql), or say with \
                 --pg-bin or PG_BIN where its initdb and postgres are"
            }
            Code::DemoBroken => "report this with the proof line and the log",
            Code::Bug => "report this with the log; nothing was confirmed that was not settled",
        }
    }
}
