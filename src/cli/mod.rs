//! The command line. Only here does the program talk to people directly.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "the command line's purpose")]

mod completions;
mod import;
mod inquiry;
mod manual;
mod migrate;
mod operators;
mod reconcile;
mod reload;
mod route;
mod run;
mod set_up;
mod slot;
mod stages;
mod status;
mod version;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::built;
use crate::config::{self, Config, LogConfig, LogFormat, Sources};
use crate::failpoint;
use crate::failure::{Code, Failure};
use crate::operate::Pause;
use operators::{DlqCommand, EventsCommand, KeysCommand, PauseArgs};

/// Relays transactional-outbox events from PostgreSQL's WAL to Kafka.
#[derive(Debug, Parser)]
#[command(name = "outboxd", version, long_version = built::text(), about)]
#[command(disable_help_subcommand = true)]
struct Cli {
    #[command(flatten)]
    sources: SourceArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Args)]
struct SourceArgs {
    /// The configuration file; else OUTBOXD_CONFIG, else ./outboxd.toml if there is one
    #[arg(short, long, global = true, value_name = "FILE", help_heading = "Configuration")]
    config: Option<PathBuf>,
    /// Override a value: section.key=value
    #[arg(long = "set", global = true, value_name = "KEY=VALUE", help_heading = "Configuration")]
    set: Vec<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the relay
    Run {
        /// End whoever has the relay's place, once, instead of waiting for it
        #[arg(long)]
        takeover: bool,
    },
    /// Write a commented outboxd.toml
    Init {
        /// Where to
        #[arg(long, default_value = "outboxd.toml", value_name = "FILE")]
        output: PathBuf,
    },
    /// Apply the migrations
    Migrate {
        /// Only print them
        #[arg(long)]
        print: bool,
        /// The consumer's inbox instead, into the database of a service that consumes events
        #[arg(long)]
        inbox: bool,
    },
    /// Print our configuration, made of another tool's
    Import {
        #[command(subcommand)]
        from: import::ImportCommand,
    },
    /// Validate the configuration, without network
    Check,
    /// Check PostgreSQL, slot, publication, rights and Kafka, live
    Doctor {
        #[command(flatten)]
        output: Output,
    },
    /// Show what the relay does
    ///
    /// Asks the relay on its admin address, else the database, which knows less. With --watch the
    /// stages that an event passes are shown with their rates, until Ctrl-C; with -o json each look
    /// is one line.
    Status(status::StatusArgs),
    /// Look at the replication slot, create, drop or recover it
    Slot {
        #[command(subcommand)]
        command: SlotCommand,
    },
    /// Look at held events, retry or skip them
    Events {
        #[command(subcommand)]
        command: EventsCommand,
    },
    /// Look at keys that wait for one of their events, unblock them
    Keys {
        #[command(subcommand)]
        command: KeysCommand,
    },
    /// Look at dead letters, redrive or discard them
    Dlq {
        #[command(subcommand)]
        command: DlqCommand,
    },
    /// Publish nothing, until resume; it survives a restart
    Pause(PauseArgs),
    /// Go on publishing
    Resume(PauseArgs),
    /// Look for rows that are unsent although the stream is past them; publish them with --heal
    Reconcile {
        /// Publish them
        #[arg(long)]
        heal: bool,
        /// Do not ask
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        output: Output,
    },
    /// Show what a row would become, with nothing written and nothing published
    ///
    /// The database says what the columns are and what a column is that the row does not name:
    /// defaults are evaluated in a transaction that is rolled back. Without a database the columns
    /// are guessed. The exit code is 0 if the relay would have no complaint.
    Route(route::RouteArgs),
    /// Exit with 0 if the relay on the admin address is ready
    Healthcheck,
    /// Look at the configuration
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Show the whole thing at work, with nothing installed but PostgreSQL
    ///
    /// Starts a throw-away PostgreSQL, and a Kafka broker inside this process; writes events,
    /// relays them, consumes them, and checks that each one arrived, once and in order.
    ///
    /// The relay is the one of `outboxd run`, with its defaults. --config and --set change them;
    /// ./outboxd.toml and the environment do not. Latency is from the application's COMMIT, the
    /// server's write to disk included, to the consumer. The last line is the proof, and the exit
    /// code is 0 if every promise was kept. Ctrl-C ends the demo early; nothing stays behind.
    Demo(crate::demo::DemoArgs),
    /// Show what was built: version, commit, target, libraries
    Version {
        #[command(flatten)]
        output: Output,
    },
    /// Print what lets a shell complete our commands
    ///
    /// bash: outboxd completions bash > /etc/bash_completion.d/outboxd
    ///
    /// zsh: outboxd completions zsh > /usr/local/share/zsh/site-functions/_outboxd
    ///
    /// fish: outboxd completions fish > ~/.config/fish/completions/outboxd.fish
    Completions {
        /// Which shell
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
    /// Print the manual's page, or write all its pages
    Man {
        /// Write outboxd.1 and a page for each command into this directory
        #[arg(long, value_name = "DIR")]
        output: Option<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Print the effective values with their origin, without secrets
    Show,
    /// Print every key: what it takes, its default, what it does
    Reference,
}

#[derive(Debug, Subcommand)]
enum SlotCommand {
    /// Show the slot
    Show {
        #[command(flatten)]
        output: Output,
    },
    /// Create the publication, if it is missing, and the slot
    Create,
    /// Drop the slot and forget the position that belongs to it
    Drop {
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// Give up a stream that cannot go on: the next start publishes every unsent row
    ///
    /// Drops the slot, if it is there, and forgets its position. The next start makes a new slot and
    /// publishes, before anything else, every row that is unsent; whoever writes may go on writing.
    Recover {
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Debug, Clone, Copy, Args)]
struct Output {
    /// The form of the answer
    #[arg(short = 'o', long = "output", value_enum, default_value = "text")]
    format: OutputFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum OutputFormat {
    /// For people
    Text,
    /// One document with stable fields
    Json,
}

impl Output {
    fn is_json(&self) -> bool {
        self.format == OutputFormat::Json
    }
}

/// The exit code of wrong usage.
const USAGE: u8 = 64;

/// Reads the command line and does what it says.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Asking for help is not wrong.
            let is_help = !error.use_stderr();
            // Nothing can be done about a closed terminal.
            let _ = error.print();
            return ExitCode::from(if is_help { 0 } else { USAGE });
        }
    };
    let sources = Sources::of_process(cli.sources.config, cli.sources.set);
    let result = match cli.command {
        Command::Run { takeover } => return run::run(&sources, takeover),
        Command::Init { output } => set_up::init(&output),
        Command::Import { from } => import::import(&from),
        Command::Check => set_up::check(&sources),
        Command::Config { command: ConfigCommand::Show } => set_up::show(&sources),
        Command::Config { command: ConfigCommand::Reference } => {
            print_bytes(config::reference().as_bytes())
        }
        Command::Demo(args) => {
            run::init_log(LogConfig { format: LogFormat::Text, level: tracing::Level::WARN });
            with_runtime(crate::demo::run(args, &sources))
        }
        Command::Version { output } => version::version(&output),
        Command::Completions { shell } => completions::completions(shell),
        Command::Man { output } => manual::manual(output.as_deref()),
        Command::Route(args) => route::route(&sources, &args),
        Command::Migrate { print, inbox: true } => {
            with_config(&sources, |config| migrate::migrate_inbox(config, print))
        }
        Command::Migrate { print, inbox: false } => {
            with_config(&sources, |config| migrate::migrate(config, print))
        }
        Command::Doctor { output } => {
            with_config(&sources, |config| set_up::doctor(config, output))
        }
        Command::Status(args) => with_config(&sources, |config| status::status(config, args)),
        Command::Reconcile { heal, yes, output } => {
            with_config(&sources, |config| reconcile::reconcile(config, heal, yes, output))
        }
        Command::Healthcheck => with_config(&sources, status::healthcheck),
        Command::Events { command } => {
            with_config(&sources, |config| operators::events(config, command))
        }
        Command::Keys { command } => {
            with_config(&sources, |config| operators::keys(config, command))
        }
        Command::Dlq { command } => with_config(&sources, |config| operators::dlq(config, command)),
        Command::Pause(args) => {
            with_config(&sources, |config| operators::pause(config, Pause::Pause, args))
        }
        Command::Resume(args) => {
            with_config(&sources, |config| operators::pause(config, Pause::Resume, args))
        }
        Command::Slot { command } => with_config(&sources, |config| slot::slot(config, command)),
    };
    match result {
        Ok(code) => code,
        Err(failure) => {
            complain(&failure);
            ExitCode::from(failure.code.exit_code())
        }
    }
}

type CommandResult = Result<ExitCode, Failure>;

fn with_config<F: Future<Output = CommandResult>>(
    sources: &Sources,
    command: impl FnOnce(Config) -> F,
) -> CommandResult {
    let config = Config::load(sources)?;
    failpoint::arm().map_err(|text| Failure::new(Code::Config, text))?;
    with_runtime(command(config))
}

fn with_runtime(command: impl Future<Output = CommandResult>) -> CommandResult {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime =
        runtime.map_err(|error| Failure::new(Code::Bug, format!("start the runtime: {error}")))?;
    runtime.block_on(command)
}

fn complain(failure: &Failure) {
    eprintln!("{failure}");
}

/// Prints what may be cut off: a reader that has seen enough is no error.
fn print_bytes(bytes: &[u8]) -> CommandResult {
    use std::io::Write as _;
    match std::io::stdout().write_all(bytes) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::new(Code::Bug, format!("print: {error}")))
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// Prints a document.
fn print_json(document: &impl serde::Serialize) {
    match serde_json::to_string_pretty(document) {
        Ok(text) => println!("{text}"),
        Err(error) => eprintln!("{error}"),
    }
}
