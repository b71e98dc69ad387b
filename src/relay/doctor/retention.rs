//! What keeps WAL and old rows on the server: limits, slots, open transactions.

use bytesize::ByteSize;
use tokio_postgres::Client;

use super::super::RelayConfig;
use super::super::finding::Finding;
use super::super::preflight::Preflight;
use super::facts::Facts;
use super::{alter_system, drop_slot};
use crate::failure::Code;
use crate::postgres::{Blocker, Error, blockers};

/// Below this, some minutes without the relay can cost the slot.
const KEEP_AT_LEAST: i64 = 1 << 30;
/// A relay may be away for a weekend.
const IDLE_AT_LEAST: f64 = 3.0 * 86_400.0;
/// So much WAL before what was confirmed is no matter of the relay's pace.
const HELD_BACK: i64 = 64 << 20;
/// A transaction that is older, in seconds, is not one of many that come and go.
const NOT_BRIEF: i64 = 5;
/// As `autovacuum_freeze_max_age`: from here on the server vacuums because of it.
const ROWS_AGE: i64 = 200_000_000;
/// A new slot waits for every open transaction; for longer than this, somebody has forgotten one.
const OPEN_FOR: i64 = 60;

/// Everything about limits and slots.
pub(super) fn judge(facts: &Facts, config: &RelayConfig) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.extend(limit(facts, config));
    findings.extend(idle_timeout(facts));
    findings.extend(near_limit(facts, config));
    findings.extend(old_rows(facts, config));
    findings.extend(idle_slots(facts, config));
    findings
}

fn size(bytes: i64) -> ByteSize {
    ByteSize(bytes.unsigned_abs())
}

fn kept(title: &str, observed: String, required: &str, fix: impl Into<String>) -> Finding {
    Finding::error(Code::WalKept, title, observed, required, fix).warning()
}

fn limit(facts: &Facts, config: &RelayConfig) -> Option<Finding> {
    let title = "max_slot_wal_keep_size";
    let (way_back, price) = match config.status.mode.knows_unsent() {
        true => (
            "and `outboxd slot recover` publishes what is unsent",
            "and unsent rows have to be found in the table",
        ),
        false => {
            ("and what it had not brought is to be written again", "and with it what was unread")
        }
    };
    let fix = alter_system("max_slot_wal_keep_size", "'50GB'") + " -- what the disk has room for";
    match facts.keep_limit {
        limit if limit < 0 => {
            let observed =
                "-1: while the relay is away its slot keeps WAL without a limit, until the \
                            disk is full and PostgreSQL stops"
                    .to_owned();
            let required = format!(
                "what the disk has room for; a slot that needs more is invalidated, {way_back}"
            );
            Some(kept(title, observed, &required, fix))
        }
        limit if limit < KEEP_AT_LEAST => {
            let observed = format!(
                "{}: a relay that is away while so much is written loses its slot, {price}",
                size(limit)
            );
            Some(kept(title, observed, "some hours of WAL, 1GB at least", fix))
        }
        _ => None,
    }
}

fn idle_timeout(facts: &Facts) -> Option<Finding> {
    let seconds = facts.idle_timeout.filter(|seconds| (0.1..IDLE_AT_LEAST).contains(seconds))?;
    let observed = format!("{seconds} s: a relay that is away for longer loses its slot");
    let fix = alter_system("idle_replication_slot_timeout", "0")
        + " -- max_slot_wal_keep_size protects the disk";
    Some(kept("idle_replication_slot_timeout", observed, "0, or some days", fix))
}

fn near_limit(facts: &Facts, config: &RelayConfig) -> Option<Finding> {
    let slot = facts.slot(&config.slot)?;
    let kept_now = slot.kept.filter(|_| slot.wal_status.as_deref() != Some("lost"))?;
    if facts.keep_limit < 0 || kept_now <= facts.keep_limit / 2 {
        return None;
    }
    let reader = if slot.active { "is read, and behind" } else { "is not read" };
    let observed = format!(
        "\"{}\" keeps {} of the {} that it may, and {reader}",
        config.slot,
        size(kept_now),
        size(facts.keep_limit)
    );
    let twice = format!("'{}MB'", facts.keep_limit / (1 << 19));
    let fix = format!(
        "outboxd status shows what it waits for; to gain time: {}",
        alter_system("max_slot_wal_keep_size", &twice)
    );
    Some(kept("slot", observed, "less than half of max_slot_wal_keep_size", fix))
}

fn old_rows(facts: &Facts, config: &RelayConfig) -> Option<Finding> {
    let age = facts.slot(&config.slot)?.rows_age.filter(|age| *age > ROWS_AGE)?;
    let observed = format!(
        "\"{}\" keeps rows of the catalogs from {age} transactions ago: they grow, and at 2 billion \
         PostgreSQL takes no more writes",
        config.slot
    );
    let fix = "outboxd run; a slot that no relay needs: outboxd slot drop";
    Some(kept("age of the slot's catalog rows", observed, "below 200 million", fix))
}

/// Slots of others that nobody reads keep WAL, too, and it is one disk.
fn idle_slots(facts: &Facts, config: &RelayConfig) -> Vec<Finding> {
    let idle = facts.others(&config.slot).filter(|slot| !slot.active);
    let keeps = idle.filter_map(|slot| {
        let bytes = slot.kept.filter(|bytes| *bytes > facts.segment)?;
        let name = &slot.slot_name;
        let observed = format!("slot {name:?} is not read, and keeps {} of WAL", size(bytes));
        let fix = drop_slot(name) + " -- if nothing needs it";
        Some(kept("slot of another", observed, "slots that are read", fix))
    });
    keeps.collect()
}

/// Transactions that are open: a slot cannot let go of WAL behind the oldest, and a new one cannot
/// begin before they end.
pub(super) async fn open_transactions(
    client: &Client,
    facts: &Facts,
    config: &RelayConfig,
    found: &Preflight,
) -> Result<Option<Finding>, Error> {
    let open = blockers(client).await?;
    let slot = facts.slot(&config.slot);
    Ok(match slot {
        Some(slot) => held_back(slot.before_confirmed.unwrap_or_default(), &open, config),
        None if found.slot.is_none() => in_the_way(&open, config),
        None => None,
    })
}

/// Those that are older; prepared ones, and those whose age we may not see, whatever it is.
fn older_than(open: &[Blocker], seconds: i64) -> Vec<Blocker> {
    let is_old = |blocker: &&Blocker| {
        blocker.pid.is_none() || blocker.seconds.is_none_or(|age| age >= seconds)
    };
    open.iter().filter(is_old).cloned().collect()
}

fn ending(open: &[Blocker]) -> String {
    let end = open.iter().map(|blocker| match blocker.pid {
        Some(pid) => format!("SELECT pg_terminate_backend({pid});"),
        None => format!("ROLLBACK PREPARED {};", blocker.what),
    });
    end.collect::<Vec<_>>().join(" ")
}

fn told(open: &[Blocker]) -> String {
    open.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

fn held_back(bytes: i64, open: &[Blocker], config: &RelayConfig) -> Option<Finding> {
    let open = older_than(open, NOT_BRIEF);
    if bytes < HELD_BACK || open.is_empty() {
        return None;
    }
    let observed = format!(
        "slot \"{}\" keeps {} that were confirmed, because transactions are open: {}",
        config.slot,
        size(bytes),
        told(&open)
    );
    let fix = format!("{} -- the oldest first, or let it end", ending(&open));
    Some(kept("open transactions", observed, "transactions that end within minutes", fix))
}

fn in_the_way(open: &[Blocker], config: &RelayConfig) -> Option<Finding> {
    let is_stuck = |blocker: &Blocker| blocker.pid.is_none() || blocker.seconds.is_some();
    let mut open = older_than(open, OPEN_FOR);
    open.retain(is_stuck);
    if open.is_empty() {
        return None;
    }
    let observed =
        format!("slot \"{}\" cannot be created before they end: {}", config.slot, told(&open));
    let required = "no transaction that stays open";
    let fix = ending(&open);
    Some(Finding::error(Code::SlotBlocked, "open transactions", observed, required, fix).warning())
}
