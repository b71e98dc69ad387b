//! The connector's options: database, slot, publication, table, and where it begins.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::ImportError;
use super::draft::Draft;
use super::parse::Options;

/// What stays as it is in a URL.
const PLAIN: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b':').remove(b'/');

/// Takes the connector's options over.
pub(super) fn import(options: &mut Options, draft: &mut Draft) -> Result<(), ImportError> {
    url(options, draft)?;
    slot(options, draft);
    publication(options, draft);
    table(options, draft);
    draft.set("outbox", "start", "stream", "the table does not tell what was sent");
    draft.set("outbox.status", "mode", "none", "the table has no column for it");
    snapshot(options, draft);
    Ok(())
}

/// The address, without the password: what is printed ends up in files and terminals.
fn url(options: &mut Options, draft: &mut Draft) -> Result<(), ImportError> {
    let mut part = |name: &str, default: &str| {
        let option = format!("database.{name}");
        if options.expressions.contains(&option) {
            let text = "an expression gives its value: write it here, or set postgres.url_file";
            draft.differs(options.written(&option), text);
            options.take(&option);
        }
        let value = options.take_set(&option).unwrap_or_else(|| default.to_owned());
        utf8_percent_encode(&value, PLAIN).to_string()
    };
    let (host, port) = (part("hostname", "localhost"), part("port", "5432"));
    let (user, database) = (part("user", "postgres"), part("dbname", "postgres"));
    // An address of IPv6 has colons, too.
    let host = if host.contains(':') { format!("[{host}]") } else { host };
    let mut url = format!("postgres://{user}@{host}:{port}/{database}");
    let mut separator = '?';
    for (option, ours) in [
        ("database.sslmode", "sslmode"),
        ("database.sslrootcert", "sslrootcert"),
        ("database.sslcert", "sslcert"),
        ("database.sslkey", "sslkey"),
    ] {
        let Some(value) = options.take_set(option) else {
            continue;
        };
        let value = match (ours, value.as_str()) {
            // Libpq's `allow` tries without first: nobody wants that.
            ("sslmode", "allow") => "prefer".to_owned(),
            ("sslmode", "disable" | "prefer" | "require" | "verify-ca" | "verify-full") => value,
            ("sslmode", _) => {
                return Err(ImportError::BadValue {
                    option: options.written(option),
                    value,
                    expected: "disable, allow, prefer, require, verify-ca, verify-full",
                });
            }
            _ => value,
        };
        if ours == "sslkey" {
            draft.differs(options.written(option), "a key in PEM is expected, Java's is in DER");
        }
        url.push(separator);
        separator = '&';
        url.push_str(&format!("{ours}={}", utf8_percent_encode(&value, PLAIN)));
    }
    if separator == '?' {
        draft.differs(
            options.written("database.sslmode"),
            "not set, with which Debezium takes any connection; outboxd verifies the server's \
             certificate unless the host is local: add ?sslmode=prefer to the URL to have it as before",
        );
    }
    draft.set("postgres", "url", url, options.written("database.*"));
    let password = options.written("database.password");
    if options.take("database.password").is_some() {
        let text = "not printed: set OUTBOXD__POSTGRES__URL to the URL with the password, or put it \
                    into a file and set postgres.url_file in place of postgres.url";
        draft.differs(password, text);
    }
    if options.take("database.sslpassword").is_some() {
        draft.differs(options.written("database.sslpassword"), "a key with a password is not read");
    }
    Ok(())
}

fn slot(options: &mut Options, draft: &mut Draft) {
    let written = options.written("slot.name");
    match options.take_set("slot.name") {
        Some(name) => draft.set("postgres", "slot", name, written),
        None => draft.set("postgres", "slot", "debezium", format!("{written}, by default")),
    }
    let written = options.written("plugin.name");
    if options.take_set("plugin.name").as_deref() != Some("pgoutput") {
        draft.differs(
            written,
            "not pgoutput: the slot is decoded by decoderbufs, which outboxd does not read. Its slot \
             cannot be taken over; stop the writers, let Debezium catch up, and begin with a new slot",
        );
    }
    if options.take_flag("slot.drop.on.stop") == Some(true) {
        draft.differs(
            options.written("slot.drop.on.stop"),
            "Debezium drops its slot when it stops: set it to false before the take-over",
        );
    }
    if options.take_flag("slot.failover") == Some(true) {
        let text =
            "a slot that is made anew is one that survives a failover, from PostgreSQL 17 on";
        draft.pass(options.written("slot.failover"), text);
    }
}

fn publication(options: &mut Options, draft: &mut Draft) {
    let written = options.written("publication.name");
    match options.take_set("publication.name") {
        Some(name) => draft.set("postgres", "publication", name, written),
        None => {
            draft.set(
                "postgres",
                "publication",
                "dbz_publication",
                format!("{written}, by default"),
            );
        }
    }
    let written = options.written("publication.autocreate.mode");
    let mode = options.take_set("publication.autocreate.mode");
    match mode.as_deref() {
        Some("disabled") => draft.set("postgres", "create", false, written),
        Some("filtered") => draft.differs(
            written,
            "the publication that Debezium made publishes updates and deletes, too: it is taken over \
             with a warning; while neither of the two runs, ALTER PUBLICATION … SET (publish = 'insert')",
        ),
        _ => draft.differs(
            written,
            "the publication that Debezium made is of all tables: it is taken over with a warning; \
             it costs the decoding of the whole database",
        ),
    }
    let option = "publish.via.partition.root";
    if options.take(option).is_some() {
        draft.pass(options.written(option), "checked at the start, where the table is partitioned");
    }
}

fn table(options: &mut Options, draft: &mut Draft) {
    let option = "table.include.list";
    let written = options.written(option);
    let list = options.take_set(option).or_else(|| options.take_set("table.whitelist"));
    let Some(list) = list else {
        let text = "not set: public.outbox is assumed";
        draft.differs(written.as_str(), text);
        draft.set("outbox", "table", "public.outbox", format!("{written}, by default"));
        return;
    };
    let mut tables = list.split(',').map(str::trim).filter(|table| !table.is_empty());
    let first = tables.next().unwrap_or("public.outbox");
    let others: Vec<_> = tables.collect();
    if !others.is_empty() {
        let text = format!(
            "one outbox table per relay: {} needs one of its own, with its own slot, or is a table \
             for heartbeats, which are not needed",
            others.join(", ")
        );
        draft.differs(written.as_str(), text);
    }
    let plain = first.replace("\\.", ".");
    let name: Vec<_> = plain.split('.').map(quoted).collect();
    if plain.contains(|letter: char| "\\*+?[](){}|^$".contains(letter)) {
        draft.differs(
            written.as_str(),
            "an expression: set outbox.table to the table that it means",
        );
    }
    draft.set("outbox", "table", name.join("."), written);
}

/// A name as SQL has it: Debezium's are matched as they are written.
fn quoted(name: &str) -> String {
    let begins = name.starts_with(|letter: char| letter.is_ascii_lowercase() || letter == '_');
    let is_plain = |letter: char| {
        letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '_' || letter == '$'
    };
    match begins && name.chars().all(is_plain) {
        true => name.to_owned(),
        false => format!("\"{}\"", name.replace('"', "\"\"")),
    }
}

fn snapshot(options: &mut Options, draft: &mut Draft) {
    let written = options.written("snapshot.mode");
    let mode = options.take_set("snapshot.mode").unwrap_or_else(|| "initial".to_owned());
    if !["no_data", "never", "schema_only"].contains(&mode.as_str()) {
        draft.differs(
            written,
            format!(
                "{mode}: rows that are older than the slot are not published. A slot that is taken \
                 over has none; with a new one, outbox.start = \"pending\" publishes them, which needs \
                 a status (outbox.status)"
            ),
        );
    }
    for option in options.names("snapshot.") {
        options.take(&option);
        draft.pass(options.written(&option), "there is no snapshot");
    }
}
