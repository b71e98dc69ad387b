//! What the server says about its settings, its slots and who reads them, in one question.

use serde::Deserialize;
use tokio_postgres::Client;

use super::super::RelayConfig;
use crate::postgres::Error;
use crate::status::RelayRow;

/// Settings, slots and readers. What a server does not know is absent.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Facts {
    /// `max_slot_wal_keep_size` in bytes; negative for no limit.
    pub(super) keep_limit: i64,
    /// `idle_replication_slot_timeout` in seconds; 0 for never.
    pub(super) idle_timeout: Option<f64>,
    /// `wal_sender_timeout` in seconds; 0 for never.
    pub(super) sender_timeout: f64,
    /// `logical_decoding_work_mem`, as people write it.
    pub(super) work_memory: String,
    /// The output plugins that may be loaded.
    pub(super) plugins: Option<String>,
    /// `synchronized_standby_slots`.
    pub(super) standby_slots: Option<String>,
    /// The database's encoding.
    pub(super) encoding: String,
    /// The size of a WAL file in bytes.
    pub(super) segment: i64,
    /// `max_replication_slots`
    pub(super) slots_max: usize,
    /// `max_wal_senders`
    pub(super) senders_max: usize,
    /// How many walsenders there are.
    pub(super) senders: usize,
    pub(super) slots: Vec<SlotFacts>,
    /// Who reads our slot.
    pub(super) reader: Option<Reader>,
    /// Whether a relay of our id runs.
    #[serde(skip)]
    pub(super) runs: bool,
    /// Transactions of our slot that did not fit into memory, and their bytes.
    pub(super) spilled: i64,
    pub(super) spilled_bytes: i64,
}

/// A slot, ours or another one.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct SlotFacts {
    pub(super) slot_name: String,
    pub(super) slot_type: String,
    pub(super) active: bool,
    pub(super) failover: bool,
    pub(super) wal_status: Option<String>,
    /// How much WAL the server keeps for it, in bytes.
    pub(super) kept: Option<i64>,
    /// How much of that lies before what was confirmed.
    pub(super) before_confirmed: Option<i64>,
    /// How many transactions ago the rows of catalogs were deleted that it keeps.
    pub(super) rows_age: Option<i64>,
}

/// A walsender.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Reader {
    pub(super) pid: i32,
    pub(super) role: Option<String>,
    pub(super) application: Option<String>,
}

/// Durations come as `1min`, sizes as `64MB`: PostgreSQL itself knows best what they mean. `$1`: our
/// slot.
const FACTS: &str = "\
    SELECT jsonb_strip_nulls(jsonb_build_object( \
        'keep_limit', pg_size_bytes(current_setting('max_slot_wal_keep_size')), \
        'idle_timeout', \
            extract(epoch FROM current_setting('idle_replication_slot_timeout', true)::interval), \
        'sender_timeout', extract(epoch FROM current_setting('wal_sender_timeout')::interval), \
        'work_memory', current_setting('logical_decoding_work_mem'), \
        'plugins', current_setting('output_plugin_libraries', true), \
        'standby_slots', current_setting('synchronized_standby_slots', true), \
        'encoding', current_setting('server_encoding'), \
        'segment', pg_size_bytes(current_setting('wal_segment_size')), \
        'slots_max', current_setting('max_replication_slots')::int8, \
        'senders_max', current_setting('max_wal_senders')::int8, \
        'senders', (SELECT count(*) FROM pg_stat_replication), \
        'slots', (SELECT coalesce(jsonb_agg(to_jsonb(s) || jsonb_build_object( \
                'kept', (pg_current_wal_lsn() - s.restart_lsn)::int8, \
                'before_confirmed', (s.confirmed_flush_lsn - s.restart_lsn)::int8, \
                'rows_age', greatest(age(s.catalog_xmin), age(s.xmin)))), '[]') \
            FROM pg_replication_slots s), \
        'reader', (SELECT jsonb_build_object('pid', r.pid, 'role', r.usename, \
                                             'application', nullif(r.application_name, '')) \
            FROM pg_replication_slots s JOIN pg_stat_replication r ON r.pid = s.active_pid \
            WHERE s.slot_name::text = $1), \
        'spilled', (SELECT spill_txns FROM pg_stat_replication_slots WHERE slot_name = $1), \
        'spilled_bytes', (SELECT spill_bytes FROM pg_stat_replication_slots WHERE slot_name = $1) \
    ))::text";

impl Facts {
    pub(super) async fn load(client: &Client, config: &RelayConfig) -> Result<Self, Error> {
        let text: String = client.query_one(FACTS, &[&config.slot]).await?.get(0);
        let facts: Self =
            serde_json::from_str(&text).map_err(|error| Error::Protocol(error.to_string()))?;
        Ok(Self { runs: RelayRow::lock_is_held(client, &config.id).await?, ..facts })
    }

    /// A slot by its name.
    pub(super) fn slot(&self, name: &str) -> Option<&SlotFacts> {
        self.slots.iter().find(|slot| slot.slot_name == name)
    }

    /// The slots that are not of that name.
    pub(super) fn others(&self, name: &str) -> impl Iterator<Item = &SlotFacts> {
        self.slots.iter().filter(move |slot| slot.slot_name != name)
    }
}
