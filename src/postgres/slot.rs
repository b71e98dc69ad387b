//! The replication slot: what it is, how far it is, what keeps it from being created.

use std::fmt;

use serde::{Deserialize, Serialize};
use tokio_postgres::Client;

use super::Error;
use crate::lsn::Lsn;

/// A slot as `pg_replication_slots` shows it. What an older server does not know is absent.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Slot {
    /// Its output plugin; a physical slot has none.
    pub plugin: Option<String>,
    /// `logical` or `physical`.
    pub slot_type: String,
    /// Its database.
    pub database: Option<String>,
    /// Whether it vanishes with its session.
    #[serde(default)]
    pub temporary: bool,
    /// Whether it survives a failover to a standby of the server.
    #[serde(default)]
    pub failover: bool,
    /// Whether prepared transactions are decoded early.
    #[serde(default)]
    pub two_phase: bool,
    /// Whether somebody reads it now.
    pub active: bool,
    /// Who.
    pub active_pid: Option<i32>,
    /// `reserved`, `extended`, `unreserved` or `lost`.
    pub wal_status: Option<String>,
    /// WAL that can be written before the slot is in danger, in bytes; none without a limit.
    pub safe_wal_size: Option<i64>,
    confirmed_flush_lsn: Option<String>,
    restart_lsn: Option<String>,
    /// Why it was invalidated, from PostgreSQL 17 on.
    pub invalidation_reason: Option<String>,
    /// Where the server writes now.
    current_lsn: Option<String>,
}

impl Slot {
    /// Looks the slot up.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn load(client: &Client, name: &str) -> Result<Option<Self>, Error> {
        // As one JSON value, because the view's columns differ between versions.
        let row = client
            .query_opt(
                "SELECT (to_jsonb(s) || jsonb_build_object('current_lsn', \
                         CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() \
                              ELSE pg_current_wal_lsn() END))::text \
                 FROM pg_replication_slots s WHERE s.slot_name = $1",
                &[&name],
            )
            .await?;
        row.map(|row| {
            let text: String = row.get(0);
            serde_json::from_str(&text).map_err(|error| Error::Protocol(error.to_string()))
        })
        .transpose()
    }

    /// What was confirmed.
    pub fn confirmed(&self) -> Lsn {
        read(self.confirmed_flush_lsn.as_deref())
    }

    /// From where on WAL is kept.
    pub fn restart(&self) -> Lsn {
        read(self.restart_lsn.as_deref())
    }

    /// Where the server writes now.
    pub fn current(&self) -> Lsn {
        read(self.current_lsn.as_deref())
    }

    /// Everything about it, as `outboxd slot show -o json` prints it.
    pub fn document(&self, name: &str) -> serde_json::Value {
        serde_json::json!({
            "name": name,
            "plugin": self.plugin,
            "database": self.database,
            "active": self.active,
            "active_pid": self.active_pid,
            "wal_status": self.wal_status,
            "confirmed_lsn": self.confirmed().to_string(),
            "restart_lsn": self.restart().to_string(),
            "lag_bytes": self.current().bytes_since(self.confirmed()),
            "retained_bytes": self.current().bytes_since(self.restart()),
            "safe_wal_bytes": self.safe_wal_size,
            "invalidation_reason": self.invalidation_reason,
        })
    }

    /// Whether it can never be read again.
    pub fn is_lost(&self) -> bool {
        self.wal_status.as_deref() == Some("lost") || self.invalidation_reason.is_some()
    }

    /// What makes it a slot that we cannot read, if anything does.
    pub fn unsuitable(&self, database: &str) -> Option<String> {
        if self.slot_type != "logical" {
            return Some(format!("it is {}, not logical", self.slot_type));
        }
        match &self.plugin {
            Some(plugin) if plugin == "pgoutput" => {}
            plugin => {
                let plugin = plugin.as_deref().unwrap_or("none");
                return Some(format!("its plugin is {plugin}, not pgoutput"));
            }
        }
        if self.database.as_deref() != Some(database) {
            let other = self.database.as_deref().unwrap_or_default();
            return Some(format!("it belongs to database {other}, not {database}"));
        }
        if self.two_phase {
            return Some("it decodes prepared transactions early (two_phase)".to_owned());
        }
        self.temporary.then(|| "it is temporary".to_owned())
    }
}

fn read(lsn: Option<&str>) -> Lsn {
    lsn.and_then(|text| text.parse().ok()).unwrap_or_default()
}

/// A transaction that a new slot has to wait for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Blocker {
    /// The session, or nothing for a prepared transaction.
    pub pid: Option<i32>,
    /// Who and in what state, or the prepared transaction's name.
    pub what: String,
    /// For how long, in seconds, if we may see it.
    pub seconds: Option<i64>,
}

impl fmt::Display for Blocker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pid {
            Some(pid) => write!(f, "session {pid} ({})", self.what)?,
            None => write!(f, "prepared transaction {}", self.what)?,
        }
        self.seconds.map_or(Ok(()), |seconds| write!(f, ", for {seconds} s"))
    }
}

/// The transactions that keep a slot from being created, the oldest first.
///
/// # Errors
/// The connection broke.
pub async fn blockers(client: &Client) -> Result<Vec<Blocker>, Error> {
    // Of sessions of others a role without more rights sees that they are, and not since when.
    let rows = client
        .query(
            "SELECT * FROM ( \
                 SELECT pid, concat_ws(', ', usename, nullif(application_name, ''), state), \
                        extract(epoch FROM now() - xact_start)::int8 AS seconds \
                 FROM pg_stat_activity \
                 WHERE backend_xid IS NOT NULL AND pid <> pg_backend_pid() \
                 UNION ALL \
                 SELECT NULL, quote_literal(gid), extract(epoch FROM now() - prepared)::int8 \
                 FROM pg_prepared_xacts) AS open \
             ORDER BY seconds DESC NULLS LAST LIMIT 5",
            &[],
        )
        .await?;
    let blocker = |row: &tokio_postgres::Row| Blocker {
        pid: row.get(0),
        what: row.get(1),
        seconds: row.get(2),
    };
    Ok(rows.iter().map(blocker).collect())
}
