//! `outboxd events`, `keys`, `dlq`, `pause`, `resume`: what operators look at and ask for.

use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::slot::confirmed;
use super::{CommandResult, Output, print_json, status};
use crate::config::Config;
use crate::failure::Failure;
use crate::operate::{Action, Desk, Filter, Group, Held, HeldEvent, LISTED, MOST, Pause};

#[derive(Debug, Subcommand)]
pub(super) enum EventsCommand {
    /// List events that are held; dead letters are in `dlq list`
    List(HeldArgs),
    /// Show everything about a held event or a dead letter
    Show {
        /// Its id
        #[arg(value_name = "ID")]
        id: String,
        /// Also its value, which is the payload
        #[arg(long)]
        value: bool,
        #[command(flatten)]
        output: Output,
    },
    /// Try events again now, with all their attempts; also a pending row that no relay knows
    Retry(BulkArgs),
    /// Never publish events; what waits behind them goes on
    Skip(BulkArgs),
}

#[derive(Debug, Subcommand)]
pub(super) enum KeysCommand {
    /// List keys that wait for one of their events
    List(ListArgs),
    /// Give up the event that a key waits for: it becomes a dead letter, and the key goes on
    Unblock {
        /// The key: its text, or \x and its bytes in hexadecimal
        #[arg(value_name = "KEY", conflicts_with = "key")]
        name: Option<String>,
        #[command(flatten)]
        bulk: BulkFlags,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum DlqCommand {
    /// List dead letters
    List(HeldArgs),
    /// Publish dead letters after all, in the order of reading
    Redrive(BulkArgs),
    /// Forget dead letters; their rows stay FAILED
    Discard(BulkArgs),
}

#[derive(Debug, Args)]
pub(super) struct PauseArgs {
    /// Only this topic
    #[arg(long)]
    topic: Option<String>,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
struct FilterArgs {
    /// Of this topic
    #[arg(long, help_heading = "Conditions")]
    topic: Option<String>,
    /// Of this key: its text, or \x and its bytes in hexadecimal
    #[arg(long, help_heading = "Conditions")]
    key: Option<String>,
    /// Held for this reason: retry, topic, parked, scheduled, dead
    #[arg(long, help_heading = "Conditions")]
    reason: Option<String>,
    /// Of this event type
    #[arg(long = "type", value_name = "TYPE", help_heading = "Conditions")]
    event_type: Option<String>,
    /// With this error code, as in OBX-4004
    #[arg(long, value_name = "CODE", help_heading = "Conditions")]
    error: Option<String>,
    /// With this text in id, type, topic or error, in any case, or in the key
    #[arg(long, value_name = "TEXT", help_heading = "Conditions")]
    search: Option<String>,
    /// Behind the event with this ordinal, in the order of reading
    #[arg(long, value_name = "ORDINAL", help_heading = "Conditions")]
    after: Option<String>,
    /// Held since then or later: 2026-03-01T12:00:00Z, or how long ago, as in 90m
    #[arg(long, value_name = "TIME", help_heading = "Conditions")]
    since: Option<String>,
    /// Held since before then
    #[arg(long, value_name = "TIME", help_heading = "Conditions")]
    before: Option<String>,
    /// At most so many, the oldest first
    #[arg(long, value_name = "COUNT", help_heading = "Conditions")]
    limit: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct ListArgs {
    #[command(flatten)]
    filter: FilterArgs,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
pub(super) struct HeldArgs {
    #[command(flatten)]
    list: ListArgs,
    /// How many there are of each reason, topic and error
    #[arg(long)]
    grouped: bool,
}

#[derive(Debug, Args)]
pub(super) struct BulkArgs {
    /// The events
    #[arg(value_name = "ID")]
    ids: Vec<String>,
    #[command(flatten)]
    bulk: BulkFlags,
}

#[derive(Debug, Args)]
pub(super) struct BulkFlags {
    #[command(flatten)]
    filter: FilterArgs,
    /// Without a condition
    #[arg(long)]
    all: bool,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    output: Output,
}

impl FilterArgs {
    fn read(&self) -> Result<Filter, Failure> {
        let mut filter = Filter::default();
        for (name, value) in [
            ("topic", &self.topic),
            ("key", &self.key),
            ("reason", &self.reason),
            ("type", &self.event_type),
            ("error", &self.error),
            ("search", &self.search),
            ("after", &self.after),
            ("since", &self.since),
            ("before", &self.before),
            ("limit", &self.limit),
        ] {
            if let Some(value) = value {
                filter.set(name, value)?;
            }
        }
        Ok(filter)
    }
}

/// Who it is, for the audit.
fn actor() -> String {
    let user = nix::unistd::User::from_uid(nix::unistd::getuid()).ok().flatten();
    format!("cli:{}", user.map_or_else(|| nix::unistd::getuid().to_string(), |user| user.name))
}

async fn desk(config: &Config) -> Result<Desk<'_>, Failure> {
    Desk::open(&config.relay, "operator", actor()).await
}

pub(super) async fn events(config: Config, command: EventsCommand) -> CommandResult {
    match command {
        EventsCommand::List(args) => list(&config, Held::Events, &args).await,
        EventsCommand::Show { id, value, output } => {
            let document = desk(&config).await?.show(&id, value).await?;
            if output.is_json() {
                print_json(&document);
            } else if let Some(members) = document.as_object() {
                for (name, value) in members {
                    println!("{name:<14} {}", plain(value));
                }
            }
            Ok(ExitCode::SUCCESS)
        }
        EventsCommand::Retry(args) => act(&config, Action::Retry, args.ids, &args.bulk).await,
        EventsCommand::Skip(args) => act(&config, Action::Skip, args.ids, &args.bulk).await,
    }
}

pub(super) async fn dlq(config: Config, command: DlqCommand) -> CommandResult {
    match command {
        DlqCommand::List(args) => list(&config, Held::DeadLetters, &args).await,
        DlqCommand::Redrive(args) => act(&config, Action::Redrive, args.ids, &args.bulk).await,
        DlqCommand::Discard(args) => act(&config, Action::Discard, args.ids, &args.bulk).await,
    }
}

pub(super) async fn keys(config: Config, command: KeysCommand) -> CommandResult {
    match command {
        KeysCommand::List(args) => {
            let keys = desk(&config).await?.keys(&args.filter.read()?).await?;
            if args.output.is_json() {
                print_json(&keys);
            } else {
                let rows = keys.iter().map(|key| {
                    let event = &key.event;
                    let key_name = shown(event.key.as_deref());
                    [
                        key_name,
                        shown(event.topic.as_deref()),
                        event.reason.clone(),
                        key.waiting.to_string(),
                        shown(event.since.as_deref()),
                        event.event_id.clone(),
                        shown(event.last_error.as_deref()),
                    ]
                });
                let heads = ["KEY", "TOPIC", "REASON", "WAIT", "SINCE", "EVENT", "ERROR"];
                print_table(heads, rows.collect());
                note_the_rest(keys.len(), &args.filter);
            }
            Ok(ExitCode::SUCCESS)
        }
        KeysCommand::Unblock { name, mut bulk } => {
            bulk.filter.key = bulk.filter.key.or(name);
            act(&config, Action::Unblock, Vec::new(), &bulk).await
        }
    }
}

async fn list(config: &Config, held: Held, args: &HeldArgs) -> CommandResult {
    let HeldArgs { list: args, grouped } = args;
    if *grouped {
        let groups = desk(config).await?.groups(held, &args.filter.read()?).await?;
        if args.output.is_json() {
            print_json(&groups);
        } else {
            print_groups(&groups);
        }
        return Ok(ExitCode::SUCCESS);
    }
    let events = desk(config).await?.held(held, &args.filter.read()?).await?;
    if args.output.is_json() {
        print_json(&events);
    } else {
        print_events(&events);
        note_the_rest(events.len(), &args.filter);
    }
    Ok(ExitCode::SUCCESS)
}

/// Says that there may be more than was listed.
fn note_the_rest(listed: usize, filter: &FilterArgs) {
    if filter.limit.is_none() && u32::try_from(listed) == Ok(LISTED) {
        println!("only the first {LISTED} are listed; --limit COUNT lists up to {MOST}");
    }
}

/// Plans, asks, files, and waits for what the relay makes of it.
async fn act(config: &Config, action: Action, ids: Vec<String>, bulk: &BulkFlags) -> CommandResult {
    let mut filter = bulk.filter.read()?;
    filter.ids = ids;
    filter.check(bulk.all)?;
    let desk = desk(config).await?;
    let plan = desk.plan(action, &filter).await?;
    let (name, count) = (action.name(), plan.count());
    if bulk.dry_run {
        if bulk.output.is_json() {
            print_json(&plan.document(None));
        } else {
            print_events(&plan.events);
            for id in &plan.unknown {
                println!("{id} is a pending row that no relay knows");
            }
            println!("{name}: {} would be", counted(count));
        }
        return Ok(ExitCode::SUCCESS);
    }
    let question = format!("{name} {}? [y/N] ", counted(count));
    if count > 0 && !bulk.yes && !confirmed(&question) {
        println!("nothing was changed");
        return Ok(ExitCode::SUCCESS);
    }
    let filed = desk.file(&plan).await?;
    let progress = desk.progress(&filed).await?;
    if bulk.output.is_json() {
        print_json(&plan.document(Some((&filed, progress))));
    } else {
        println!("{name}: {}: {}", counted(filed.events.len()), progress.words());
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn pause(config: Config, pause: Pause, args: PauseArgs) -> CommandResult {
    let (name, topic) = (pause.name(), args.topic.as_deref());
    let what = topic.map_or_else(
        || format!("relay \"{}\"", config.relay.id),
        |topic| format!("topic \"{topic}\""),
    );
    if !args.yes && !confirmed(&format!("{name} {what}? [y/N] ")) {
        println!("nothing was changed");
        return Ok(ExitCode::SUCCESS);
    }
    let desk = desk(&config).await?;
    let paused = desk.pause(pause, topic).await?;
    let is_paused = || status::is_paused(&config);
    let progress = desk.heeds(pause, topic, is_paused).await?;
    if args.output.is_json() {
        print_json(&paused.document(pause, topic, progress));
        return Ok(ExitCode::SUCCESS);
    }
    println!("{name} {what}: {}", progress.words());
    if pause == Pause::Resume && topic.is_none() && !paused.topics.is_empty() {
        println!("still paused: topics {}", paused.topics.join(", "));
    }
    if pause == Pause::Resume && topic.is_some() && paused.all {
        println!("the relay itself is still paused");
    }
    Ok(ExitCode::SUCCESS)
}

fn counted(count: usize) -> String {
    if count == 1 { "1 event".to_owned() } else { format!("{count} events") }
}

fn print_events(events: &[HeldEvent]) {
    let rows = events.iter().map(|event| {
        [
            event.event_id.clone(),
            event.reason.clone(),
            shown(event.topic.as_deref()),
            shown(event.key.as_deref()),
            event.attempts.to_string(),
            shown(event.due_at.as_deref()),
            shown(event.request.as_deref().or(event.last_error.as_deref())),
        ]
    });
    let heads = ["EVENT", "REASON", "TOPIC", "KEY", "TRIES", "DUE", "ERROR"];
    print_table(heads, rows.collect());
}

fn print_groups(groups: &[Group]) {
    let rows = groups.iter().map(|group| {
        [
            group.count.to_string(),
            group.reason.clone(),
            shown(group.topic.as_deref()),
            shown(group.error_code.as_deref()),
            shown(Some(&group.oldest)),
            shown(group.error.as_deref()),
        ]
    });
    print_table(["COUNT", "REASON", "TOPIC", "CODE", "SINCE", "ERROR"], rows.collect());
}

/// A value as a terminal takes it: a key can hold anything.
fn shown(text: Option<&str>) -> String {
    text.map_or_else(|| "-".to_owned(), |text| text.escape_debug().to_string())
}

fn plain(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::Null => "-".to_owned(),
        serde_json::Value::String(text) => shown(Some(text)),
        other => other.to_string(),
    }
}

fn print_table<const N: usize>(heads: [&str; N], rows: Vec<[String; N]>) {
    let heads = heads.map(str::to_owned);
    let mut widths = heads.each_ref().map(|head| head.chars().count());
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    for row in std::iter::once(&heads).chain(&rows) {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        println!("{}", cells.collect::<Vec<_>>().join("  ").trim_end());
    }
}
