//! Settings become what the modules need; what cannot be is noted.

use std::net::SocketAddr;

use super::secrets::Whose;
use super::settings::Settings;
use super::sink::sink;
use super::{AdminConfig, Config, LogConfig, LogFormat, Token, events};
use crate::ack::Limits;
use crate::names::{Intake, TopicNames};
use crate::outbox::columns::Field;
use crate::outbox::status::{Mode, StatusColumn, StatusConfig};
use crate::postgres::{Server, TableName, is_slot_name};
use crate::relay::{
    CleanupConfig, DeadLetterConfig, FlowConfig, HeldLimits, OnExhausted, OnSlotLost,
    ReconcileConfig, RelayConfig, RetryConfig, SettleConfig, Start,
};
use crate::retry::Backoff;

/// Waits between attempts to connect vary by this much of themselves.
const RECONNECT_JITTER: f64 = 0.2;

/// The configuration; none if it cannot be used at all, with the reason among the problems.
pub(super) fn config(settings: &mut Settings) -> Option<Config> {
    let admin = admin(settings);
    let log = log(settings);
    let shutdown_grace = settings.duration("relay.shutdown_grace");
    let relay = relay(settings)?;
    let warnings = settings.take_warnings();
    Some(Config { relay, shutdown_grace, admin, log, warnings })
}

fn relay(settings: &mut Settings) -> Option<RelayConfig> {
    let id = settings.text("relay.id");
    if id.is_empty() || id.len() > 200 {
        settings.problem("relay.id: expected 1 to 200 bytes of text");
    }
    let reconnect = Backoff::new(
        settings.duration("relay.reconnect_backoff"),
        settings.duration("relay.reconnect_max"),
        RECONNECT_JITTER,
    );
    let slot = settings.text("postgres.slot");
    if !is_slot_name(&slot) {
        settings.problem("postgres.slot: expected 1 to 63 of a-z, 0-9 and _");
    }
    let publication = settings.text("postgres.publication");
    if publication.is_empty() || publication.len() > 63 || publication.contains('\0') {
        settings.problem("postgres.publication: expected 1 to 63 bytes of text");
    }
    let intake = intake(settings);
    let status = status(settings);
    let start = match settings.choice("outbox.start").as_str() {
        "stream" => Start::Stream,
        _ => Start::Pending,
    };
    if status.mode == Mode::None && start == Start::Pending {
        settings.problem(
            "outbox.status.mode = \"none\" knows no unsent row: it needs outbox.start = \"stream\"",
        );
    }
    let failover_slot = settings.choice("postgres.failover_slot") == "auto";
    let on_slot_lost = match settings.choice("postgres.on_slot_lost").as_str() {
        "recover" => OnSlotLost::Recover,
        _ => OnSlotLost::Halt,
    };
    if status.mode == Mode::None && on_slot_lost == OnSlotLost::Recover {
        settings.problem(
            "outbox.status.mode = \"none\" knows no unsent row: it needs postgres.on_slot_lost = \"halt\"",
        );
    }
    if !settings.boolean("postgres.create") && on_slot_lost == OnSlotLost::Recover {
        settings.problem("postgres.on_slot_lost = \"recover\" needs postgres.create = true");
    }
    let server = server(settings);
    let database = server.as_ref().map_or("", |server| &server.database);
    // Relays of other databases can have the same name, and share a stream.
    let (sink, names, limits) = sink(settings, &format!("{id}:{database}"));
    let settle = SettleConfig {
        batch: settings.number("outbox.status.batch"),
        interval: settings.duration("outbox.status.interval"),
    };
    let events = events::events(settings, names);
    let scheduled = events.columns.get(Field::ScheduledAt);
    if intake.as_ref().is_some_and(|intake| intake.table().is_none())
        && scheduled.chosen
        && scheduled.source.is_some()
    {
        settings.problem("outbox.columns.scheduled_at: messages cannot be scheduled");
    }
    let reconcile = ReconcileConfig {
        interval: settings.duration("reconcile.interval"),
        heal: settings.boolean("reconcile.heal"),
        after: settings.duration("reconcile.after"),
    };
    let cleanup = cleanup(settings, &status);
    let flow = flow(settings, settle, limits, names);
    let standby = settings.boolean("relay.standby");
    let paused = settings.boolean("relay.paused");
    let create = settings.boolean("postgres.create");
    let max_row_bytes = settings.size("outbox.max_row_bytes");
    let sweep_order = settings.list("outbox.sweep_order");
    Some(RelayConfig {
        id,
        standby,
        takeover: false,
        reconnect,
        server: server?,
        slot,
        publication,
        create,
        failover_slot,
        on_slot_lost,
        intake: intake?,
        max_row_bytes: usize::try_from(max_row_bytes).unwrap_or(usize::MAX),
        start,
        sweep_order,
        events,
        status,
        flow,
        reconcile,
        cleanup,
        sink: sink?,
        paused,
    })
}

fn cleanup(settings: &mut Settings, status: &StatusConfig) -> Option<CleanupConfig> {
    let batch = settings.number("cleanup.batch");
    let interval = settings.duration("cleanup.interval");
    if interval.is_zero() {
        settings.problem("cleanup.interval: expected more than 0s");
    }
    if settings.text("cleanup.after").is_empty() {
        return None;
    }
    let after = settings.duration("cleanup.after");
    if after.is_zero() {
        settings
            .problem("cleanup.after: expected \"\" for never, or a time above 0s, as in \"7d\"");
    }
    if status.mode == Mode::None {
        settings.problem(
            "outbox.status.mode = \"none\" knows no sent row: it needs cleanup.after = \"\"",
        );
    }
    let others = [&status.label_pending, &status.label_failed, &status.label_retrying];
    if others.contains(&&status.label_sent) {
        settings.problem(
            "cleanup.after: outbox.status.labels.sent is the label of other rows, too, which must stay",
        );
    }
    let batch = u32::try_from(batch).unwrap_or(u32::MAX);
    Some(CleanupConfig { after, interval, batch })
}

/// Our own marks in the WAL have this prefix.
const OWN_PREFIX: &str = "outboxd";
const LONGEST_PREFIX: usize = 200;

/// What messages leave no choice in: they have no row to write a status into, or to sweep.
const OF_MESSAGES: [(&str, &str); 2] = [("outbox.status.mode", "none"), ("outbox.start", "stream")];

/// Sets what follows from what was chosen.
pub(super) fn imply(settings: &mut Settings) {
    let by = "outbox.message_prefix";
    if settings.is_chosen(by) && !settings.text(by).is_empty() {
        for (path, only) in OF_MESSAGES {
            settings.imply(path, only, by);
        }
    }
}

fn intake(settings: &mut Settings) -> Option<Intake<TableName>> {
    let prefix = settings.text("outbox.message_prefix");
    if !prefix.is_empty() {
        return messages(settings, prefix);
    }
    let table = settings.text("outbox.table");
    match TableName::parse(&table) {
        Ok(table) => Some(Intake::Table(table)),
        Err(problem) => {
            settings.problem(format!("outbox.table: {table:?} {problem}"));
            None
        }
    }
}

fn messages(settings: &mut Settings, prefix: String) -> Option<Intake<TableName>> {
    if prefix.len() > LONGEST_PREFIX || prefix.contains('\0') || prefix == OWN_PREFIX {
        settings.problem(
            "outbox.message_prefix: expected 1 to 200 bytes of text, and not \"outboxd\", \
             which is the relay's own",
        );
    }
    if settings.is_chosen("outbox.table") {
        settings.problem("outbox.table and outbox.message_prefix: only one of them");
    }
    for (path, only) in OF_MESSAGES {
        if settings.choice(path) != only {
            settings.problem(format!("outbox.message_prefix needs {path} = \"{only}\""));
        }
    }
    Some(Intake::Messages(prefix))
}

fn flow(
    settings: &mut Settings,
    settle: SettleConfig,
    limits: Limits,
    names: TopicNames,
) -> FlowConfig {
    let backoff = Backoff::new(
        settings.duration("retry.initial_backoff"),
        settings.duration("retry.max_backoff"),
        settings.fraction("retry.jitter"),
    );
    let on_exhausted = match settings.choice("retry.on_exhausted").as_str() {
        "block" => OnExhausted::Block,
        _ => OnExhausted::DeadLetter,
    };
    let max_attempts = settings.number("retry.max_attempts");
    let max_attempts = u32::try_from(max_attempts).unwrap_or(u32::MAX);
    let dead_letter = DeadLetterConfig {
        topic: settings.text("dead_letter.topic"),
        default: settings.text("dead_letter.default"),
        names,
    };
    for (key, topic) in [
        ("dead_letter.topic", dead_letter.topic.replace("{topic}", "t")),
        ("dead_letter.default", dead_letter.default.clone()),
    ] {
        if !topic.is_empty() && !names.takes(&topic) {
            settings.problem(format!("{key}: {topic:?} is not a name that {names} takes"));
        }
    }
    FlowConfig {
        settle,
        limits,
        held: HeldLimits {
            events: settings.number("held.max_events"),
            bytes: settings.size("held.max_bytes"),
        },
        retry: RetryConfig { max_attempts, backoff, on_exhausted },
        dead_letter,
    }
}

fn server(settings: &mut Settings) -> Option<Server> {
    let url = match (settings.is_chosen("postgres.url"), settings.is_chosen("postgres.url_file")) {
        (true, true) => {
            settings.problem("postgres.url and postgres.url_file: only one of them");
            return None;
        }
        (false, true) => {
            let path = settings.text("postgres.url_file");
            let text = settings.secret_file(Whose::Postgres, "postgres.url_file", &path)?;
            text.trim().to_owned()
        }
        _ => settings.text("postgres.url"),
    };
    if url.is_empty() {
        settings.problem("postgres.url: not set (nor postgres.url_file, nor DATABASE_URL)");
        return None;
    }
    match Server::parse(&url) {
        Ok(server) => {
            for path in server.tls_files() {
                settings.note_file(Whose::Postgres, path);
            }
            Some(server)
        }
        Err(error) => {
            settings.problem(format!("postgres.url: {error}"));
            None
        }
    }
}

fn status(settings: &mut Settings) -> StatusConfig {
    let mut column = |path: &str| {
        let name = settings.text(path);
        let chosen = settings.is_chosen(path);
        StatusColumn { name: (!name.is_empty()).then_some(name), chosen }
    };
    let status = column("outbox.status.status");
    let sent_at = column("outbox.status.sent_at");
    let sent_flag = column("outbox.status.sent_flag");
    let attempts = column("outbox.status.attempts");
    let next_attempt_at = column("outbox.status.next_attempt_at");
    let last_error = column("outbox.status.last_error");
    let mode = match settings.choice("outbox.status.mode").as_str() {
        "ledger" => Mode::Ledger,
        "delete" => Mode::Delete,
        "none" => Mode::None,
        _ => Mode::Update,
    };
    StatusConfig {
        mode,
        status,
        sent_at,
        sent_flag,
        attempts,
        next_attempt_at,
        last_error,
        label_pending: settings.text("outbox.status.labels.pending"),
        label_sent: settings.text("outbox.status.labels.sent"),
        label_failed: settings.text("outbox.status.labels.failed"),
        label_retrying: settings.text("outbox.status.labels.retrying"),
    }
}

fn admin(settings: &mut Settings) -> AdminConfig {
    let listen = settings.text("admin.listen");
    let address = match listen.parse::<SocketAddr>() {
        Ok(address) => Some(address),
        Err(_) if listen.is_empty() => None,
        Err(_) => {
            settings.problem(format!("admin.listen: {listen:?} is not address:port"));
            None
        }
    };
    AdminConfig {
        listen: address,
        token: token(settings),
        hosts: settings.list("admin.hosts"),
        console: settings.boolean("admin.console"),
        metrics: settings.boolean("metrics.enabled"),
    }
}

fn token(settings: &mut Settings) -> Option<Token> {
    let path = settings.text("admin.token_file");
    if path.is_empty() {
        return None;
    }
    let text = settings.secret_file(Whose::Admin, "admin.token_file", &path)?;
    let token = Token::read(&text);
    match &token {
        None => settings.problem(format!("admin.token_file: {path}: it is empty")),
        Some(token) if token.is_short() => settings.warn(format!(
            "admin.token_file: {path}: the token can be guessed: `openssl rand -hex 32` makes a better one"
        )),
        Some(_) => {}
    }
    token
}

fn log(settings: &mut Settings) -> LogConfig {
    let format = match settings.choice("log.format").as_str() {
        "text" => LogFormat::Text,
        "json" => LogFormat::Json,
        _ => LogFormat::Auto,
    };
    let level = settings.choice("log.level").parse().unwrap_or(tracing::Level::INFO);
    LogConfig { format, level }
}
