//! What the relay's role may do beyond what it needs. What it lacks, preflight says.

use tokio_postgres::Client;

use super::super::RelayConfig;
use super::super::finding::Finding;
use super::super::preflight::Outbox;
use crate::failure::Code;
use crate::outbox::status::Mode;
use crate::postgres::{Error, quote_ident};

/// Roles whose members can do more than any relay needs: of PostgreSQL's own, and of services.
const MIGHTY: [&str; 8] = [
    "pg_execute_server_program",
    "pg_read_server_files",
    "pg_write_server_files",
    "pg_write_all_data",
    "rds_superuser",
    "cloudsqlsuperuser",
    "azure_pg_admin",
    "alloydbsuperuser",
];

/// The columns that migrations let the relay write, whatever the mode: not all of them are in use.
const GRANTED: [&str; 5] = ["status", "sent_at", "attempts", "next_attempt_at", "last_error"];

/// Everything about the role.
pub(super) async fn examine(
    client: &Client,
    config: &RelayConfig,
    outbox: Option<&Outbox>,
) -> Result<Vec<Finding>, Error> {
    let sql = "SELECT rolname::text, rolsuper, rolcreatedb, rolcreaterole, rolbypassrls, \
                   ARRAY(SELECT m.rolname::text FROM pg_roles m WHERE m.rolname = ANY ($1) \
                         AND pg_has_role(current_user, m.oid, 'MEMBER') ORDER BY 1) \
               FROM pg_roles WHERE rolname = current_user";
    let row = client.query_one(sql, &[&MIGHTY.as_slice()]).await?;
    let role = quote_ident(row.get(0));
    if row.get(1) {
        let observed = format!("{role} is a superuser: whoever has its password has everything");
        let fix = "name the role outboxd, which `outboxd migrate` makes, in postgres.url; its password: \
                   ALTER ROLE outboxd PASSWORD '…';";
        return Ok(vec![too_strong("rights of the role", observed, "LOGIN REPLICATION", fix)]);
    }
    let table = outbox.filter(|outbox| outbox.table.exists());
    let secured = match table {
        Some(outbox) => row_security(client, outbox).await?,
        None => Secured::default(),
    };
    let mut findings = Vec::new();
    let attributes = [
        (row.get(2), "CREATEDB"),
        (row.get(3), "CREATEROLE"),
        // Where rows have policies, this is what lets the relay see them all.
        (row.get::<_, bool>(4) && !secured.is_on, "BYPASSRLS"),
    ];
    let extra: Vec<_> = attributes.iter().filter(|(has, _)| *has).map(|(_, name)| *name).collect();
    if !extra.is_empty() {
        let observed = format!("{role} has {}", extra.join(", "));
        let fix = format!("ALTER ROLE {role} NO{};", extra.join(" NO"));
        findings.push(too_strong("rights of the role", observed, "LOGIN REPLICATION", fix));
    }
    let mighty: Vec<String> = row.get(5);
    for other in mighty {
        let observed = format!("{role} is a member of {other}");
        let fix = format!("REVOKE {} FROM {role};", quote_ident(&other));
        findings.push(too_strong("rights of the role", observed, "no such membership", fix));
    }
    if let Some(outbox) = table {
        if secured.applies {
            let name = &outbox.table.name;
            let observed = format!(
                "row security of {name} applies to {role}: the relay would not see every row"
            );
            let fix = format!(
                "ALTER ROLE {role} BYPASSRLS; -- or ALTER TABLE {name} DISABLE ROW LEVEL SECURITY;"
            );
            let (code, title) = (Code::PostgresPermission, "row security");
            findings.push(Finding::error(code, title, observed, "every row is seen", fix));
        }
        findings.extend(on_table(client, config, outbox, &role).await?);
    }
    Ok(findings)
}

fn too_strong(title: &str, observed: String, required: &str, fix: impl Into<String>) -> Finding {
    Finding::error(Code::RoleTooStrong, title, observed, required, fix).warning()
}

/// Row security of the table.
#[derive(Default)]
struct Secured {
    is_on: bool,
    /// Whether it counts for our role.
    applies: bool,
}

async fn row_security(client: &Client, outbox: &Outbox) -> Result<Secured, Error> {
    let sql = "SELECT relrowsecurity, row_security_active(oid) FROM pg_class WHERE oid = $1";
    let row = client.query_one(sql, &[&outbox.table.oid]).await?;
    Ok(Secured { is_on: row.get(0), applies: row.get(1) })
}

/// What the role may do with the table and needs not.
async fn on_table(
    client: &Client,
    config: &RelayConfig,
    outbox: &Outbox,
    role: &str,
) -> Result<Option<Finding>, Error> {
    let cleans = config.cleanup.is_some();
    let deletes = cleans || outbox.status.mode == Mode::Delete;
    let written: Vec<_> = outbox.status.written().iter().map(|it| it.name.clone()).collect();
    let usual = written.iter().cloned().chain(GRANTED.map(str::to_owned));
    let usual: Vec<_> = usual.collect();
    // Without a column of its own to write, it needs any one, to lock rows.
    let any_column = deletes && written.is_empty();
    let sql = "SELECT pg_has_role(c.relowner, 'USAGE'), \
                   ARRAY(SELECT r FROM unnest(ARRAY['INSERT', 'DELETE', 'TRUNCATE', 'TRIGGER']) r \
                         WHERE has_table_privilege(c.oid, r) AND NOT (r = 'DELETE' AND $2)), \
                   has_table_privilege(c.oid, 'UPDATE') AND NOT $4, \
                   ARRAY(SELECT quote_ident(a.attname) FROM pg_attribute a \
                         WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped \
                           AND a.attname <> ALL ($3) AND NOT $4 \
                           AND has_column_privilege(c.oid, a.attnum, 'UPDATE') ORDER BY a.attnum) \
               FROM pg_class c WHERE c.oid = $1";
    let row = client.query_one(sql, &[&outbox.table.oid, &deletes, &usual, &any_column]).await?;
    let (name, title) = (&outbox.table.name, "rights on the outbox");
    if row.get(0) {
        // Whoever is to drop partitions has to own them.
        if cleans && outbox.table.is_partitioned {
            return Ok(None);
        }
        let observed =
            format!("{role} owns {name}, or is a member of its owner: it may do anything with it");
        let fix =
            format!("ALTER TABLE {name} OWNER TO …; -- then GRANT what docs/OPERATING.md lists");
        return Ok(Some(too_strong(title, observed, "a role that may write statuses alone", fix)));
    }
    let mut rights: Vec<String> = row.get(1);
    let (whole, columns): (bool, Vec<String>) = (row.get(2), row.get(3));
    let mut regrant = String::new();
    if whole {
        rights.push("UPDATE".to_owned());
        if !written.is_empty() {
            let written: Vec<_> = written.iter().map(|name| quote_ident(name)).collect();
            regrant = format!(" GRANT UPDATE ({}) ON {name} TO {role};", written.join(", "));
        }
    } else if !columns.is_empty() {
        rights.push(format!("UPDATE ({})", columns.join(", ")));
    }
    if rights.is_empty() {
        return Ok(None);
    }
    let rights = rights.join(", ");
    let observed = format!("{role} has {rights} on {name}");
    let fix = format!("REVOKE {rights} ON {name} FROM {role};{regrant}");
    let required = "SELECT, and UPDATE of the columns of statuses; DELETE where rows are deleted";
    Ok(Some(too_strong(title, observed, required, fix)))
}
