//! `outboxd status` and `outboxd healthcheck`: once, or again and again until somebody has seen
//! enough.

use std::future::pending;
use std::io;
use std::process::ExitCode;
use std::time::Duration;

use hyper::StatusCode;
use serde_json::Value;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use super::inquiry::{Inquiry, get, of_relay};
use super::stages;
use super::{CommandResult, Output, print_json};
use crate::config::Config;
use crate::failure::{Code, Failure};
use crate::terminal::{INTERRUPTED, Interrupt, Screen};

#[derive(Debug, clap::Args)]
pub(super) struct StatusArgs {
    #[command(flatten)]
    output: Output,
    /// Show it again and again: redrawn in place on a terminal, else a line each time
    #[arg(short, long)]
    watch: bool,
    /// Wait until the relay can do its job, then exit with 0
    #[arg(long)]
    exit_when_ready: bool,
    /// Wait no longer than that for it (30s, 5m); then the exit code is 69
    #[arg(long, value_name = "TIME", requires = "exit_when_ready", value_parser = duration)]
    timeout: Option<Duration>,
    /// The time between two looks (2s, 500ms)
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = interval_of)]
    interval: Duration,
}

/// Nobody reads faster, and every look is a request.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(100);

/// A time with its unit; a bare number counts seconds.
fn duration(text: &str) -> Result<Duration, String> {
    if let Ok(seconds) = text.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string());
    }
    humantime::parse_duration(text).map_err(|error| error.to_string())
}

fn interval_of(text: &str) -> Result<Duration, String> {
    let interval = duration(text)?;
    if interval < SHORTEST_INTERVAL {
        return Err(format!("at least {}", humantime::format_duration(SHORTEST_INTERVAL)));
    }
    Ok(interval)
}

pub(super) async fn status(config: Config, args: StatusArgs) -> CommandResult {
    if args.watch || args.exit_when_ready {
        return watch(&config, &args).await;
    }
    let document = Inquiry::new(&config).ask().await?;
    print(&document, args.output);
    Ok(ExitCode::SUCCESS)
}

fn print(document: &Value, output: Output) {
    if output.is_json() {
        print_json(document);
    } else {
        print!("{}", stages::page(document, usize::MAX));
    }
}

/// What a look came to.
enum Look {
    Seen(Value),
    Asked,
    TimedOut,
}

/// Looks until it is ready, if that is what is waited for, or somebody asks for the end.
async fn watch(config: &Config, args: &StatusArgs) -> CommandResult {
    let mut inquiry = Inquiry::new(config);
    let mut interrupt = Interrupt::listen()?;
    let mut screen = Screen::new();
    let mut ticks = interval(args.interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let end = args.timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    let mut last = None;
    loop {
        let look = tokio::select! {
            biased;
            () = interrupt.asked() => Look::Asked,
            () = until(end) => Look::TimedOut,
            document = async {
                ticks.tick().await;
                let document = inquiry.ask().await;
                document.unwrap_or_else(|failure| inquiry.unanswered(&failure))
            } => Look::Seen(document),
        };
        let document = match look {
            Look::Seen(document) => document,
            Look::Asked => {
                // If nobody looks any more, the exit code still tells.
                let _ = screen.conclude("");
                let undone = args.exit_when_ready;
                return Ok(if undone { ExitCode::from(INTERRUPTED) } else { ExitCode::SUCCESS });
            }
            Look::TimedOut => return Err(not_ready(args, last.as_ref())),
        };
        if args.watch && show(&mut screen, &document, args.output).is_err() {
            return Ok(ExitCode::SUCCESS);
        }
        if args.exit_when_ready && is_ready(&document) {
            if !args.watch {
                print(&document, args.output);
            }
            return Ok(ExitCode::SUCCESS);
        }
        last = Some(document);
    }
}

fn is_ready(document: &Value) -> bool {
    document.get("ready").and_then(Value::as_bool) == Some(true)
}

async fn until(end: Option<Instant>) {
    match end {
        Some(end) => sleep_until(end).await,
        None => pending().await,
    }
}

fn show(screen: &mut Screen, document: &Value, output: Output) -> io::Result<()> {
    if output.is_json() {
        screen.write(&format!("{document}\n"))
    } else if screen.is_terminal() {
        screen.redraw(&stages::page(document, screen.width()))
    } else {
        screen.write(&stages::line(document))
    }
}

/// Why it was waited for in vain, as far as it was seen.
fn not_ready(args: &StatusArgs, last: Option<&Value>) -> Failure {
    let waited = humantime::format_duration(args.timeout.unwrap_or_default());
    let text = |pointer| last?.pointer(pointer)?.as_str();
    let state = text("/state").unwrap_or("unknown");
    let error = match (text("/last_error/code"), text("/last_error/message")) {
        (Some(code), Some(message)) => format!("; {code} {message}"),
        _ => String::new(),
    };
    Failure::new(Code::NotReady, format!("not ready within {waited}: {state}{error}"))
}

pub(super) async fn healthcheck(config: Config) -> CommandResult {
    let Some(address) = config.admin.listen else {
        return Err(Failure::new(Code::Config, "admin.listen is not set: there is nothing to ask"));
    };
    match get(address, "/readyz?verbose", None).await {
        Some((StatusCode::OK, _)) => Ok(ExitCode::SUCCESS),
        Some((_, body)) => {
            print!("{}", String::from_utf8_lossy(&body));
            Ok(ExitCode::FAILURE)
        }
        None => {
            println!("nothing answers on {address}");
            Ok(ExitCode::FAILURE)
        }
    }
}

/// Whether the relay shows that it is paused; none if it does not answer.
pub(super) async fn is_paused(config: &Config) -> Option<bool> {
    let document = of_relay(config).await?;
    Some(document.get("state").and_then(Value::as_str) == Some("paused"))
}
