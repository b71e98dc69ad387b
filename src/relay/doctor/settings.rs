//! Settings of the server that do not suit a relay, and slots and walsenders that run out.

use bytesize::ByteSize;

use super::super::RelayConfig;
use super::super::finding::Finding;
use super::facts::Facts;
use super::{alter_system, drop_slot};
use crate::failure::Code;
use crate::postgres::quote_literal;

/// Feedback goes every third of `wal_sender_timeout`; with less than this a pause of the relay's
/// machine is taken for its end.
const SENDER_TIMEOUT_AT_LEAST: f64 = 10.0;

/// Everything about settings, slots and walsenders.
pub(super) fn judge(facts: &Facts, config: &RelayConfig) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.extend(plugins(facts));
    findings.extend(encoding(facts));
    findings.extend(sender_timeout(facts));
    findings.extend(spilled(facts, config));
    findings.extend(standby_slots(facts, config));
    findings.extend(room_for_slots(facts, config));
    findings.extend(room_for_senders(facts, config));
    findings.extend(reader(facts, config));
    findings
}

fn setting(title: &str, observed: String, required: &str, fix: impl Into<String>) -> Finding {
    Finding::error(Code::ServerSetting, title, observed, required, fix)
}

/// `list` as PostgreSQL reads lists of names.
fn names(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').map(|name| name.trim().trim_matches(['"', '\''])).filter(|it| !it.is_empty())
}

fn plugins(facts: &Facts) -> Option<Finding> {
    let list = facts.plugins.as_deref()?;
    if names(list).any(|name| matches!(name, "*" | "pgoutput" | "$libdir/pgoutput")) {
        return None;
    }
    let all: Vec<_> = names(list).chain(["pgoutput"]).map(quote_literal).collect();
    let fix = alter_system("output_plugin_libraries", &all.join(", "));
    let observed = format!("output_plugin_libraries = {list:?}: pgoutput may not be loaded");
    Some(setting("output_plugin_libraries", observed, "pgoutput among them", fix))
}

fn encoding(facts: &Facts) -> Option<Finding> {
    if facts.encoding != "SQL_ASCII" {
        return None;
    }
    let observed = "SQL_ASCII: PostgreSQL stores any bytes, and cannot send those that are not \
                    UTF-8: the stream stops for good at the first such row"
        .to_owned();
    let fix =
        "CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0; -- then dump and restore into it";
    Some(setting("encoding of the database", observed, "UTF8", fix).warning())
}

fn sender_timeout(facts: &Facts) -> Option<Finding> {
    let seconds = facts.sender_timeout;
    let observed = if seconds == 0.0 {
        "wal_sender_timeout = 0: the walsender of a relay whose machine vanished keeps the slot, and no \
         other can take over"
            .to_owned()
    } else if seconds < SENDER_TIMEOUT_AT_LEAST {
        format!(
            "wal_sender_timeout = {seconds} s: the server ends the stream when the relay is silent for \
             that long, as in a pause of its machine"
        )
    } else {
        return None;
    };
    let fix = alter_system("wal_sender_timeout", "'60s'");
    Some(setting("wal_sender_timeout", observed, "10s to some minutes", fix).warning())
}

fn spilled(facts: &Facts, config: &RelayConfig) -> Option<Finding> {
    if facts.spilled == 0 {
        return None;
    }
    let bytes = ByteSize(facts.spilled_bytes.unsigned_abs());
    let observed = format!(
        "{} large transactions were decoded by way of the server's disk ({bytes}), because \
         logical_decoding_work_mem is {}",
        facts.spilled, facts.work_memory
    );
    let fix = format!(
        "{} SELECT pg_stat_reset_replication_slot({});",
        alter_system("logical_decoding_work_mem", "'256MB'"),
        quote_literal(&config.slot)
    );
    let required = "memory for the largest usual transaction";
    Some(setting("logical_decoding_work_mem", observed, required, fix).warning())
}

/// A slot that survives a failover must not be ahead of the standby that takes over: what the relay
/// has published of it would be of transactions that then never were.
fn standby_slots(facts: &Facts, config: &RelayConfig) -> Vec<Finding> {
    let (Some(list), Some(slot)) = (&facts.standby_slots, facts.slot(&config.slot)) else {
        return Vec::new();
    };
    let title = "synchronized_standby_slots";
    let physical: Vec<_> = facts.slots.iter().filter(|slot| slot.slot_type == "physical").collect();
    if !slot.failover {
        return Vec::new();
    }
    if names(list).next().is_none() {
        let Some(standby) = physical.first() else { return Vec::new() };
        let observed = format!(
            "it is empty, and slot \"{}\" survives a failover: after one, events can have been published \
             whose transactions are lost",
            config.slot
        );
        let fix = alter_system(title, &quote_literal(&standby.slot_name));
        let required = "the slots of the standbys that may take over";
        return vec![setting(title, observed, required, fix).warning()];
    }
    let is_away = |name: &&str| !physical.iter().any(|slot| slot.slot_name == *name && slot.active);
    let finding = |name: &str| {
        let observed = format!(
            "it names {name:?}, which no standby reads: the stream waits for it, and nothing is \
             published"
        );
        let fix = format!(
            "start the standby, or take its slot from the list: {}",
            alter_system(title, "…")
        );
        setting(title, observed, "slots of standbys that run", fix).warning()
    };
    names(list).filter(is_away).map(finding).collect()
}

/// Whether one of `max` is left where one is needed; a warning if it would be the last.
fn room(used: usize, max: usize, is_needed: bool) -> Option<bool> {
    let left = max.saturating_sub(used);
    match (left, is_needed) {
        (0, true) => Some(true),
        (0, false) | (1, true) => Some(false),
        _ => None,
    }
}

fn no_room(title: &str, observed: String, required: &str, fix: String, is_error: bool) -> Finding {
    let finding = Finding::error(Code::NoRoom, title, observed, required, fix);
    if is_error { finding } else { finding.warning() }
}

fn room_for_slots(facts: &Facts, config: &RelayConfig) -> Option<Finding> {
    let (used, max) = (facts.slots.len(), facts.slots_max);
    let is_error = room(used, max, facts.slot(&config.slot).is_none())?;
    let observed = format!("{used} of {max} slots are there");
    let required = "one for the relay, and one more in reserve";
    let idle = facts.others(&config.slot).find(|slot| !slot.active);
    let idle =
        idle.map(|slot| format!(" -- or: {} if nothing needs it", drop_slot(&slot.slot_name)));
    let fix = format!(
        "ALTER SYSTEM SET max_replication_slots = {}; -- then restart PostgreSQL{}",
        max + 10,
        idle.unwrap_or_default()
    );
    Some(no_room("max_replication_slots", observed, required, fix, is_error))
}

fn room_for_senders(facts: &Facts, config: &RelayConfig) -> Option<Finding> {
    let (used, max) = (facts.senders, facts.senders_max);
    let is_reading = facts.slot(&config.slot).is_some_and(|slot| slot.active);
    let is_error = room(used, max, !is_reading)?;
    let observed = format!("{used} of {max} walsenders run");
    let required = "one for the relay, and one more in reserve";
    let fix =
        format!("ALTER SYSTEM SET max_wal_senders = {}; -- then restart PostgreSQL", max + 10);
    Some(no_room("max_wal_senders", observed, required, fix, is_error))
}

/// Somebody else reads our slot. A relay of ours has our name, and its lock.
fn reader(facts: &Facts, config: &RelayConfig) -> Option<Finding> {
    let reader = facts.reader.as_ref()?;
    let application = reader.application.as_deref();
    if facts.runs && application == Some(config.server.application_name()) {
        return None;
    }
    let role = reader.role.as_deref().unwrap_or("unknown");
    let name = application.map(|name| format!(", {name:?}")).unwrap_or_default();
    let observed =
        format!("session {} (role {role:?}{name}) reads slot \"{}\"", reader.pid, config.slot);
    let required = "no reader but this relay: two split the events between them";
    let fix = format!(
        "another postgres.slot for one of them; or, if it is not to read it: SELECT \
         pg_terminate_backend({});",
        reader.pid
    );
    Some(Finding::error(Code::SlotInUse, "slot", observed, required, fix).warning())
}
