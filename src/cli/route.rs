//! `outboxd route`: what a row would become, with nothing written and nothing published.

use std::io::Read as _;
use std::process::ExitCode;

use clap::Args;
use data_encoding::BASE64;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::{CommandResult, Output, complain, print_json, with_runtime};
use crate::config::{Config, Sources};
use crate::failpoint;
use crate::failure::{Code, Failure, chain};
use crate::outbox::columns::MapProblem;
use crate::outbox::{Guess, JsonRow, Placement, Stamp, message};
use crate::postgres::{Intake, OutboxTable, SampleError, SqlSession};
use crate::relay::{Preview, Previewed, Prospect, RelayConfig, Sample};

#[derive(Debug, Args)]
pub(super) struct RouteArgs {
    /// The row: a JSON object of its columns; with outbox.message_prefix, the message; "-" reads it
    /// from standard input
    #[arg(long, value_name = "JSON")]
    row: String,
    #[command(flatten)]
    output: Output,
}

/// What would become of the row, and what has to be said of that.
struct Answer {
    prospect: Prospect,
    notes: Vec<String>,
}

pub(super) fn route(sources: &Sources, args: &RouteArgs) -> CommandResult {
    let (config, has_database) = Config::load_without_database(sources)?;
    failpoint::arm().map_err(|text| Failure::new(Code::Config, text))?;
    let text = read(&args.row)?;
    with_runtime(async {
        let config = &config.relay;
        let answer = answer(config, &text, has_database).await?;
        for note in &answer.notes {
            eprintln!("note: {note}");
        }
        if args.output.is_json() {
            print_json(&document(config, &answer));
        } else {
            print_text(config, &answer.prospect);
        }
        Ok(match &answer.prospect {
            Prospect::Record(_) | Prospect::NotPending(_) => ExitCode::SUCCESS,
            Prospect::GivenUp { failure, .. } | Prospect::Halt(failure) => {
                ExitCode::from(failure.code.exit_code())
            }
        })
    })
}

fn read(row: &str) -> Result<String, Failure> {
    if row != "-" {
        return Ok(row.to_owned());
    }
    let mut text = String::new();
    let read = std::io::stdin().read_to_string(&mut text);
    read.map_err(|error| refused(format!("read the row from standard input: {error}")))?;
    Ok(text)
}

fn refused(text: String) -> Failure {
    Failure::new(Code::RequestRefused, text)
}

async fn answer(config: &RelayConfig, text: &str, has_database: bool) -> Result<Answer, Failure> {
    let mut answer = match &config.intake {
        Intake::Messages(_) => of_message(config, text)?,
        Intake::Table(_) => {
            let row: JsonRow = serde_json::from_str(text)
                .map_err(|error| refused(format!("the row is not a JSON object: {error}")))?;
            match has_database {
                true => asked(config, &row).await?,
                false => guessed(config, &row, "no database is configured")?,
            }
        }
    };
    if let Prospect::Record(record) = &answer.prospect
        && let Some(position) = &record.position
    {
        let note = format!("the position is known when it is committed: {position} stands for it");
        answer.notes.push(note);
    }
    Ok(answer)
}

fn of_message(config: &RelayConfig, text: &str) -> Result<Answer, Failure> {
    let message: Result<&RawValue, _> = serde_json::from_str(text);
    let message = message.map_err(|error| refused(format!("the message is not JSON: {error}")))?;
    let preview = Preview::new(config, &message::layout()).map_err(|found| of_map(&found))?;
    let prospect = preview.of(Sample::Message(message.get().as_bytes()))?;
    Ok(Answer { prospect, notes: Vec::new() })
}

/// With what the database knows of the table.
async fn asked(config: &RelayConfig, row: &JsonRow) -> Result<Answer, Failure> {
    let failed = |error| config.failure_of(&error, "look at the table");
    let session = match SqlSession::open(&config.server, "route").await {
        Ok(session) => session,
        Err(error) => {
            let failure = config.failure_of(&error, "ask the database");
            return match failure.code {
                Code::PostgresUnavailable => guessed(config, row, &failure.message),
                _ => Err(failure),
            };
        }
    };
    let table = OutboxTable::of(&session.client, &config.intake).await.map_err(failed)?;
    let table = table.ok_or_else(|| {
        Failure::new(Code::TableMissing, format!("there is no {}", config.intake))
    })?;
    let preview = Preview::new(config, &table.layout).map_err(|found| of_map(&found))?;
    let sample = table.sample(&session.client, row).await.map_err(|error| match error {
        SampleError::Postgres(error) => config.failure_of(&error, "read the row"),
        other => refused(format!("the row: {}", chain(&other))),
    })?;
    let prospect = preview.of(Sample::Row(&sample.values))?;
    let counts = |column: &Option<String>| column.as_deref().is_none_or(|it| preview.uses(it));
    let notes = sample.notes.into_iter().filter(|note| counts(&note.column));
    Ok(Answer { prospect, notes: notes.map(|note| note.text).collect() })
}

/// Without the database.
fn guessed(config: &RelayConfig, row: &JsonRow, why: &str) -> Result<Answer, Failure> {
    let mut guess = Guess::new(&config.events, &config.status, row);
    loop {
        match Preview::new(config, &guess.layout) {
            Ok(preview) => {
                let prospect = preview.of(Sample::Row(&guess.values))?;
                let notes = [format!("the table is not known ({why}); assumed is:")];
                let notes = notes.into_iter().chain(guess.assumed).collect();
                return Ok(Answer { prospect, notes });
            }
            Err(problems) => {
                let known = guess.layout.columns.len();
                for problem in &problems {
                    if let MapProblem::UnknownName { name, .. } = problem {
                        guess.add_unknown(name);
                    }
                }
                if guess.layout.columns.len() == known {
                    return Err(of_map(&problems));
                }
            }
        }
    }
}

fn of_map(problems: &[MapProblem]) -> Failure {
    let problems: Vec<_> = problems.iter().map(ToString::to_string).collect();
    Failure::new(Code::Map, problems.join("; "))
}

fn format_name(config: &RelayConfig) -> &'static str {
    config.events.format.format.name()
}

fn print_text(config: &RelayConfig, prospect: &Prospect) {
    match prospect {
        Prospect::Record(record) => {
            if let Some(due) = &record.due {
                println!("published when it is due, at {due}, as the row is then; now it would be");
            }
            print_record(config, record);
        }
        Prospect::NotPending(why) => println!("not published: {why}"),
        Prospect::GivenUp { failure, blocks, dead_letter, .. } => {
            match (dead_letter, blocks) {
                (Some(topic), _) => println!("not published; a dead letter goes to {topic}"),
                (None, true) => println!("not published; its key waits until it is skipped"),
                (None, false) => println!("not published; it is kept in outboxd.held_event"),
            }
            complain(failure);
        }
        Prospect::Halt(failure) => {
            println!("not published; the relay would end");
            complain(failure);
        }
    }
}

fn print_record(config: &RelayConfig, record: &Previewed) {
    let line = |name: &str, value: &str| println!("{name:<10} {value}");
    line("topic", &record.topic);
    line("key", record.key.as_deref().unwrap_or("none"));
    let by = match record.placed_by {
        Some("key") => "the key",
        by => by.unwrap_or_default(),
    };
    line(
        "partition",
        &match record.placement {
            Some(Placement::Fixed(partition)) => format!("{partition}, by {by}"),
            Some(Placement::Hashed(hash)) => {
                format!("by {by}: {hash} modulo the number of partitions")
            }
            None => "any: there is no key".to_owned(),
        },
    );
    line(
        "timestamp",
        &match record.timestamp {
            Stamp::Publish => "when it is published".to_owned(),
            Stamp::Commit => "when it is committed".to_owned(),
            Stamp::At(millis) => format!("{millis} ms since 1970"),
        },
    );
    for (place, (name, value)) in record.headers.view().iter().enumerate() {
        let name = format!("{name}: {}", value.unwrap_or("null"));
        line(if place == 0 { "headers" } else { "" }, &name);
    }
    line("format", format_name(config));
    let (value, encoding) = value(record);
    line(
        "value",
        &match encoding {
            None => "none: a tombstone".to_owned(),
            Some("base64") => {
                format!("{} bytes, base64 {value}", record.value.as_ref().map_or(0, Vec::len))
            }
            Some(_) => value,
        },
    );
}

/// When the record is said to be from: of publishing or commit, or in milliseconds since 1970.
fn timestamp(record: &Previewed) -> Value {
    match record.timestamp {
        Stamp::Publish => "publish".into(),
        Stamp::Commit => "commit".into(),
        Stamp::At(millis) => millis.into(),
    }
}

/// The value as text, and how that was made of it.
fn value(record: &Previewed) -> (String, Option<&'static str>) {
    match record.value.as_deref().map(|bytes| (str::from_utf8(bytes), bytes)) {
        None => (String::new(), None),
        Some((Ok(text), _)) => (text.to_owned(), Some("utf8")),
        Some((Err(_), bytes)) => (BASE64.encode(bytes), Some("base64")),
    }
}

fn document(config: &RelayConfig, answer: &Answer) -> Value {
    let mut document = json!({
        "outcome": null, "reason": null, "due_at": null, "event_id": null, "event_type": null,
        "topic": null, "key": null, "partition": null, "partition_by": null,
        "partition_hash": null, "timestamp": null, "headers": [], "format": format_name(config),
        "value": null, "value_encoding": null, "dead_letter_topic": null, "error": null,
        "notes": answer.notes,
    });
    let error = |failure: &Failure| {
        json!({
            "code": failure.code.to_string(),
            "message": failure.message,
            "remedy": failure.code.remedy(),
        })
    };
    let said = match &answer.prospect {
        Prospect::Record(record) => of_record(record),
        Prospect::NotPending(why) => json!({ "outcome": "not_pending", "reason": why }),
        Prospect::GivenUp { event_id, event_type, failure, blocks, dead_letter } => json!({
            "outcome": if *blocks { "blocked" } else { "dead" },
            "event_id": event_id,
            "event_type": event_type,
            "dead_letter_topic": dead_letter,
            "error": error(failure),
        }),
        Prospect::Halt(failure) => json!({ "outcome": "halted", "error": error(failure) }),
    };
    if let (Value::Object(document), Value::Object(mut said)) = (&mut document, said) {
        document.append(&mut said);
    }
    document
}

fn of_record(record: &Previewed) -> Value {
    let headers = record.headers.view();
    let headers = headers.iter().map(|(name, value)| json!({ "name": name, "value": value }));
    let (value, encoding) = value(record);
    let (partition, hash) = match record.placement {
        Some(Placement::Fixed(partition)) => (Some(partition), None),
        Some(Placement::Hashed(hash)) => (None, Some(hash)),
        None => (None, None),
    };
    json!({
        "outcome": if record.due.is_some() { "scheduled" } else { "published" },
        "due_at": record.due,
        "event_id": record.event_id,
        "event_type": record.event_type,
        "topic": record.topic,
        "key": record.key,
        "partition": partition,
        "partition_by": record.placed_by,
        "partition_hash": hash,
        "timestamp": timestamp(record),
        "headers": headers.collect::<Vec<_>>(),
        "value": encoding.map(|_| value),
        "value_encoding": encoding,
    })
}
