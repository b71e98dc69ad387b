//! Preflight: what must be right before anything is streamed, as findings that say how to mend it.
//! Nothing is changed here.

use tokio_postgres::Client;

use super::RelayConfig;
use super::columns;
use super::finding::{Finding, Severity};
use super::removal::Marks;
use super::unsent::Unsent;
use crate::failure::Code;
use crate::outbox::EventMap;
use crate::outbox::columns::{Layout, MapProblem};
use crate::outbox::status::{Mode, Pending, StatusMap};
use crate::postgres::{Error, OutboxTable, Publication, ServerFacts, Slot, quote_ident};

/// What preflight found out.
#[derive(Debug, Default)]
pub struct Preflight {
    /// What is not as it should be.
    pub findings: Vec<Finding>,
    /// The table, and how its rows become events; none if there is a finding about it.
    pub outbox: Option<Outbox>,
    /// The publication, if there is one.
    pub publication: Option<Publication>,
    /// The slot, if there is one.
    pub slot: Option<Slot>,
}

/// The outbox table with its compiled maps.
#[derive(Debug)]
pub struct Outbox {
    /// The table.
    pub table: OutboxTable,
    /// How its rows become events.
    pub events: EventMap,
    /// How statuses are written.
    pub status: StatusMap,
}

impl Outbox {
    /// The rows that are unsent and that this relay does not know of.
    pub fn unsent<'a>(&'a self, config: &'a RelayConfig) -> Unsent<'a> {
        Unsent {
            relay_id: &config.id,
            table: &self.table,
            map: &self.events,
            pending: &self.status.pending,
            order: &config.sweep_order,
        }
    }
}

impl Preflight {
    /// The first finding that keeps the relay from working. Not that the slot was lost: what that
    /// means depends on what else is known of the past.
    pub(super) fn first_error(&self) -> Option<&Finding> {
        let is_error = |f: &&Finding| f.severity == Severity::Error && f.code != Code::SlotLost;
        self.findings.iter().find(is_error)
    }
}

/// Looks at everything that can be seen in PostgreSQL, and changes nothing.
///
/// # Errors
/// The connection broke.
pub async fn preflight(client: &Client, config: &RelayConfig) -> Result<Preflight, Error> {
    let mut found = Preflight::default();
    let facts = ServerFacts::load(client).await?;
    found.findings.extend(server_findings(&facts, config));
    let table = OutboxTable::of(client, &config.intake).await?;
    let Some(table) = table else {
        found.findings.push(Finding::error(
            Code::TableMissing,
            "outbox table",
            format!("there is no {}", config.intake),
            "the table that outbox.table names",
            "outboxd migrate",
        ));
        return Ok(found);
    };
    found.publication = Publication::load(client, &config.publication, table.oid).await?;
    found.slot = Slot::load(client, &config.slot).await?;
    found.findings.extend(table_findings(&table));
    found.findings.extend(publication_findings(&found, &table, config));
    found.findings.extend(slot_findings(found.slot.as_ref(), config));
    match compile(&table.layout, config) {
        Ok((events, status)) => {
            let cleans = config.cleanup.is_some();
            found.findings.extend(privilege_findings(client, &table, &status, cleans).await?);
            if cleans {
                found.findings.extend(cleanup_findings(client, &table, &status, &events).await?);
            }
            let outbox = Outbox { table, events, status };
            if outbox.table.exists() {
                let published = found.publication.as_ref();
                found.findings.extend(columns::unstreamed(
                    &outbox,
                    published,
                    &config.publication,
                    facts.version,
                ));
                found.findings.extend(columns::slow_id(client, &outbox).await?);
            }
            found.outbox = Some(outbox);
        }
        Err(problems) => {
            let finding = |problem: &MapProblem| {
                let required = "a map that fits the table";
                let fix = Code::Map.remedy();
                Finding::error(Code::Map, "column map", problem.to_string(), required, fix)
            };
            found.findings.extend(problems.iter().map(finding));
        }
    }
    Ok(found)
}

/// How rows of that layout become events, and how statuses are written; or what does not fit.
pub(super) fn compile(
    layout: &Layout,
    config: &RelayConfig,
) -> Result<(EventMap, StatusMap), Vec<MapProblem>> {
    let status = config.status.compile(layout);
    let pending = status.as_ref().map_or(Pending::Always, |status| status.pending.clone());
    let events = EventMap::compile(&config.events, pending, layout);
    match (events, status) {
        (Ok(events), Ok(status)) => Ok((events, status)),
        (events, status) => {
            let mut problems = events.err().unwrap_or_default();
            problems.extend(status.err().unwrap_or_default());
            Err(problems)
        }
    }
}

fn server_findings(facts: &ServerFacts, config: &RelayConfig) -> Vec<Finding> {
    let mut findings = Vec::new();
    if facts.version < 140_000 {
        findings.push(Finding::error(
            Code::ServerVersion,
            "server version",
            facts.version_name.clone(),
            "14 or newer",
            Code::ServerVersion.remedy(),
        ));
    }
    if facts.in_recovery {
        findings.push(Finding::error(
            Code::InRecovery,
            "server role",
            "the server is a standby",
            "the primary",
            Code::InRecovery.remedy(),
        ));
    }
    if !facts.decodes {
        findings.push(Finding::error(
            Code::WalLevel,
            "wal_level",
            facts.wal_level.clone(),
            "logical",
            "ALTER SYSTEM SET wal_level = logical; -- then restart PostgreSQL",
        ));
    }
    if facts.would_be_synchronous(config.server.application_name()) {
        findings.push(synchronous_standby(&facts.synchronous_standbys));
    }
    if !facts.may_replicate {
        findings.push(Finding::error(
            Code::PostgresPermission,
            "right to stream",
            format!("role \"{}\" has no REPLICATION", config.server.user),
            "REPLICATION",
            format!("ALTER ROLE {} REPLICATION;", quote_ident(&config.server.user)),
        ));
    }
    if !facts.has_schema {
        findings.push(Finding::error(
            Code::SchemaMissing,
            "schema outboxd",
            "there is no table outboxd.relay",
            "migrations/0002_outboxd.sql",
            "outboxd migrate",
        ));
    }
    findings
}

/// Our walsender would be a synchronous standby.
pub(super) fn synchronous_standby(setting: &str) -> Finding {
    Finding::error(
        Code::SynchronousStandby,
        "synchronous_standby_names",
        format!("{setting:?} would make the relay a synchronous standby"),
        "names of real standbys",
        Code::SynchronousStandby.remedy(),
    )
}

fn table_findings(table: &OutboxTable) -> Vec<Finding> {
    let name = &table.name;
    if !table.is_table {
        let observed = format!("{name} is not a table");
        let required = "an ordinary or partitioned table";
        let fix = "name the table itself in outbox.table";
        return vec![Finding::error(
            Code::TableUnsuitable,
            "outbox table",
            observed,
            required,
            fix,
        )];
    }
    if !table.is_logged {
        let (observed, fix) = if table.is_partitioned {
            (
                format!(
                    "a partition of {name} is unlogged or foreign: its rows are not in the WAL"
                ),
                "ALTER TABLE … SET LOGGED; -- each such partition".to_owned(),
            )
        } else {
            (
                format!("{name} is unlogged or temporary: its rows are not in the WAL"),
                format!("ALTER TABLE {name} SET LOGGED;"),
            )
        };
        return vec![Finding::error(
            Code::TableUnsuitable,
            "outbox table",
            observed,
            "LOGGED",
            fix,
        )];
    }
    Vec::new()
}

/// A publication alone does not bring back what was written without it.
fn then_recover(config: &RelayConfig) -> &'static str {
    match config.status.mode.knows_unsent() {
        true => "-- then `outboxd slot recover`, so that unsent rows are published from the table",
        false => {
            "-- then `outboxd slot recover`; what the slot had not brought is to be written again"
        }
    }
}

fn publication_findings(
    found: &Preflight,
    table: &OutboxTable,
    config: &RelayConfig,
) -> Vec<Finding> {
    let name = quote_ident(&config.publication);
    let create = format!("{};", Publication::create_sql(&config.publication, &config.intake));
    let title = "publication";
    let Some(publication) = &found.publication else {
        if found.slot.is_some() {
            let observed = format!("slot \"{}\" is there, publication {name} is not", config.slot);
            let required = "the publication that the slot was made for";
            let fix = format!("{create} {}", then_recover(config));
            return vec![Finding::error(Code::PublicationLost, title, observed, required, fix)];
        }
        if config.create {
            return Vec::new();
        }
        let observed = format!("there is no publication {name}");
        let required = "one for the outbox";
        return vec![Finding::error(Code::PublicationMissing, title, observed, required, create)];
    };
    let mut findings = Vec::new();
    if !table.exists() {
        if publication.contains_others {
            let observed = format!(
                "{name} publishes tables, and messages are in none: all of it is decoded, sent and \
                 ignored"
            );
            let required = "a publication without a table";
            let fix = "name another one in postgres.publication; outboxd migrate --print shows it";
            let code = Code::PublicationUnsuitable;
            findings.push(Finding::error(code, title, observed, required, fix).warning());
        }
        return findings;
    }
    if !publication.contains_table {
        let add = format!("ALTER PUBLICATION {name} ADD TABLE {};", table.name);
        let (code, fix) = match found.slot {
            Some(_) => (Code::PublicationLost, format!("{add} {}", then_recover(config))),
            None => (Code::PublicationUnsuitable, add),
        };
        let observed = format!("{name} does not contain {}", table.name);
        findings.push(Finding::error(code, title, observed, "the outbox table in it", fix));
    }
    if !publication.inserts {
        let observed = format!("{name} does not publish inserts");
        let fix = format!("ALTER PUBLICATION {name} SET (publish = 'insert');");
        let code = Code::PublicationUnsuitable;
        findings.push(Finding::error(code, title, observed, "publish = 'insert'", fix));
    }
    if publication.filters_rows {
        let observed = format!("{name} has a row filter: what it leaves out is never published");
        let fix = format!("ALTER PUBLICATION {name} SET TABLE {};", table.name);
        let code = Code::PublicationUnsuitable;
        findings.push(Finding::error(code, title, observed, "no row filter", fix));
    }
    if table.is_partitioned && !publication.via_root {
        let observed = format!("{name} publishes partitions under their own names");
        let fix = format!("ALTER PUBLICATION {name} SET (publish_via_partition_root = true);");
        let required = "publish_via_partition_root = true";
        findings.push(Finding::error(Code::PublicationUnsuitable, title, observed, required, fix));
    }
    if publication.publishes_more || publication.contains_others {
        let observed = format!(
            "{name} publishes more than inserts into the outbox: all of it is decoded, sent and \
             ignored, also each status that the relay writes"
        );
        let required = "inserts of the outbox alone";
        let fix = "outboxd migrate --print shows the publication as it should be";
        let finding = Finding::error(Code::PublicationUnsuitable, title, observed, required, fix);
        findings.push(finding.warning());
    }
    findings
}

fn slot_findings(slot: Option<&Slot>, config: &RelayConfig) -> Vec<Finding> {
    let name = &config.slot;
    let mut findings = Vec::new();
    let Some(slot) = slot else {
        if !config.create {
            let observed = format!("there is no slot \"{name}\"");
            let fix = "outboxd slot create";
            findings.push(Finding::error(Code::SlotMissing, "slot", observed, "a slot", fix));
        }
        return findings;
    };
    if let Some(reason) = slot.unsuitable(&config.server.database) {
        let observed = format!("\"{name}\" cannot be read: {reason}");
        let required = "a logical pgoutput slot of this database";
        let fix = Code::SlotUnsuitable.remedy();
        findings.push(Finding::error(Code::SlotUnsuitable, "slot", observed, required, fix));
    } else if slot.is_lost() {
        let reason = slot.invalidation_reason.as_deref().unwrap_or("wal_removed");
        let observed = format!("\"{name}\" was invalidated ({reason})");
        let fix = "outboxd slot recover, then start again";
        findings.push(Finding::error(Code::SlotLost, "slot", observed, "a valid slot", fix));
    } else if slot.wal_status.as_deref() == Some("unreserved") {
        let observed = format!("\"{name}\" keeps more WAL than max_slot_wal_keep_size");
        let fix = "let the relay catch up, or raise max_slot_wal_keep_size";
        let finding = Finding::error(Code::SlotLost, "slot", observed, "wal_status reserved", fix);
        findings.push(finding.warning());
    }
    findings
}

/// The rights that the relay will need.
async fn privilege_findings(
    client: &Client,
    table: &OutboxTable,
    status: &StatusMap,
    cleans: bool,
) -> Result<Vec<Finding>, Error> {
    let mut needed: Vec<(String, String, String)> = Vec::new();
    let outbox = table.name.to_string();
    let mut need = |right: &str, column: &str| {
        let right = (outbox.clone(), right.to_owned(), column.to_owned());
        if !needed.contains(&right) {
            needed.push(right);
        }
    };
    // Failures are shown in every mode: the first one is no time to find out.
    let written = status.written();
    for column in &written {
        need("UPDATE", &column.name);
    }
    if !written.is_empty() {
        need("SELECT", "");
    }
    if cleans || status.mode == Mode::Delete {
        need("SELECT", "");
        need("DELETE", "");
        // To lock a row, PostgreSQL asks for UPDATE of some column.
        if written.is_empty() {
            need("UPDATE", "");
        }
    }
    let mut findings = Vec::new();
    for (name, right, column) in needed {
        let row = client
            .query_one(
                "SELECT current_user, CASE $3 WHEN '' THEN has_table_privilege($1::oid, $2) \
                            OR $2 = 'UPDATE' AND has_any_column_privilege($1::oid, $2) \
                        ELSE has_column_privilege($1::oid, $3, $2) END",
                &[&table.oid, &right, &column],
            )
            .await?;
        let (role, has): (String, bool) = (row.get(0), row.get(1));
        if !has {
            let on_column = if column.is_empty() {
                String::new()
            } else {
                format!(" ({})", quote_ident(&column))
            };
            findings.push(Finding::error(
                Code::PostgresPermission,
                "right to write statuses",
                format!("role \"{role}\" has no {right}{on_column} on {name}"),
                format!("{right}{on_column}"),
                format!("GRANT {right}{on_column} ON {name} TO {};", quote_ident(&role)),
            ));
        }
    }
    Ok(findings)
}

/// What a cleanup needs besides rights on rows: a time to go by, and partitions that are ours.
async fn cleanup_findings(
    client: &Client,
    table: &OutboxTable,
    status: &StatusMap,
    events: &EventMap,
) -> Result<Vec<Finding>, Error> {
    let mut findings = Vec::new();
    if status.mode == Mode::Update && Marks::of(status, events).is_none() {
        let fix = "map outbox.status.sent_at to the column of the time of sending, else \
                   outbox.columns.occurred_at to one of the time when it happened; or set \
                   cleanup.after = \"\"";
        findings.push(Finding::error(
            Code::Map,
            "cleanup",
            "no column that is mapped tells when a row was sent",
            "a column of type timestamptz or timestamp",
            fix,
        ));
    }
    if table.is_partitioned {
        let sql = "SELECT current_user, pg_get_userbyid(c.relowner), \
                          pg_has_role(c.relowner, 'USAGE') FROM pg_class c WHERE c.oid = $1";
        let row = client.query_one(sql, &[&table.oid]).await?;
        let (role, owner, is_ours): (String, String, bool) = (row.get(0), row.get(1), row.get(2));
        if !is_ours {
            let finding = Finding::error(
                Code::PostgresPermission,
                "right to drop partitions",
                format!("{} belongs to \"{owner}\": its rows are deleted one by one", table.name),
                format!("role \"{role}\" as owner of the partitions, or as its member"),
                format!("GRANT {} TO {};", quote_ident(&owner), quote_ident(&role)),
            );
            findings.push(finding.warning());
        }
    }
    Ok(findings)
}
