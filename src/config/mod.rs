//! Configuration in two steps: as it was written (`settings`), then as it is meant ([`Config`]).
//!
//! `outboxd.toml`, overridden by `OUTBOXD__SECTION__KEY`, overridden by flags. Nothing else reads
//! the environment. Every module's part is a struct of that module; this one only builds them.

mod build;
mod events;
mod kafka;
mod key;
mod keys;
mod nats;
mod reading;
mod redis;
mod reference;
mod secrets;
mod settings;
mod show;
mod sink;
mod token;

#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use crate::failure::{Code, Failure};
use crate::relay::RelayConfig;
pub use reading::{Changes, Reading};
use settings::{Origin, Settings};
pub use token::Token;

/// The configuration as it is meant.
#[derive(Debug, Clone)]
pub struct Config {
    /// The relay's.
    pub relay: RelayConfig,
    /// How long a stop may take.
    pub shutdown_grace: Duration,
    /// The admin listener's.
    pub admin: AdminConfig,
    /// The log's.
    pub log: LogConfig,
    /// What it leaves open that could be guarded.
    pub warnings: Vec<String>,
}

/// What the admin listener needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminConfig {
    /// Where it listens; none for not at all.
    pub listen: Option<SocketAddr>,
    /// What has to be known to change something; none if nothing can be.
    pub token: Option<Token>,
    /// More Host names that `/api` answers to.
    pub hosts: Vec<String>,
    /// Whether there is a console, where there is an `/api`.
    pub console: bool,
    /// Whether `/metrics` is served.
    pub metrics: bool,
}

/// How to log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogConfig {
    /// The form of a line.
    pub format: LogFormat,
    /// What is left out.
    pub level: tracing::Level,
}

/// The form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, JSON otherwise.
    Auto,
    /// For people.
    Text,
    /// For machines.
    Json,
}

/// Where to look for a configuration.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// `--config`: this file, which must be there.
    pub file: Option<PathBuf>,
    /// `--set`: values that win over everything.
    pub flags: Vec<String>,
    /// The environment.
    pub environment: Vec<(String, String)>,
}

impl Sources {
    /// The process's own environment, with what the command line says.
    pub fn of_process(file: Option<PathBuf>, flags: Vec<String>) -> Self {
        Self { file, flags, environment: std::env::vars().collect() }
    }

    fn variable(&self, name: &str) -> Option<&str> {
        let found = self.environment.iter().find(|(other, _)| other == name);
        found.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }

    /// The file to read: the one that was named, else `./outboxd.toml` if there is one.
    fn path(&self) -> Option<PathBuf> {
        let named = self.file.clone().or_else(|| self.variable("OUTBOXD_CONFIG").map(Into::into));
        let usual = PathBuf::from("outboxd.toml");
        named.or_else(|| usual.exists().then_some(usual))
    }

    fn settings(&self) -> Settings {
        let mut settings = Settings::with_defaults();
        if let Some(path) = self.path() {
            match std::fs::read_to_string(&path) {
                Ok(text) => settings.read_file(&path.display().to_string(), &text),
                Err(error) => settings.problem(format!("{}: {error}", path.display())),
            }
        }
        settings.read_environment(self.environment.iter().cloned());
        for flag in &self.flags {
            settings.read_flag(flag);
        }
        if !settings.is_chosen("postgres.url_file")
            && let Some(url) = self.variable("DATABASE_URL")
        {
            let origin = Origin::Environment("DATABASE_URL".to_owned());
            settings.set_if_missing("postgres.url", url.to_owned(), origin);
        }
        build::imply(&mut settings);
        settings
    }
}

impl Config {
    /// Reads and checks the configuration.
    ///
    /// # Errors
    /// Everything that is wrong with it, in one failure.
    pub fn load(sources: &Sources) -> Result<Self, Failure> {
        Self::of(&mut sources.settings())
    }

    /// The same for what can do without a database. Whether there is one to ask, too.
    ///
    /// # Errors
    /// Everything that is wrong with it, but not that no database is named.
    pub fn load_without_database(sources: &Sources) -> Result<(Self, bool), Failure> {
        let mut settings = sources.settings();
        let is_named =
            settings.is_chosen("postgres.url_file") || !settings.text("postgres.url").is_empty();
        if !is_named {
            settings.read_flag("postgres.url=postgres://nobody@localhost/none");
        }
        Ok((Self::of(&mut settings)?, is_named))
    }

    /// Reads and checks the text of an `outboxd.toml`, and nothing else: no file but those that it
    /// names, no environment. The same as `text.parse()`.
    ///
    /// ```
    /// let config = outboxd::Config::from_toml(
    ///     "[postgres]\nurl = \"postgres://outboxd@localhost/app\"\n[kafka]\nbootstrap_servers = \"kafka-1:9092\"",
    /// );
    /// assert_eq!(config.unwrap().relay.id, "outboxd");
    /// let failure = outboxd::Config::from_toml("[kafka]\nbotstrap_servers = \"\"").unwrap_err();
    /// assert!(failure.message.contains("did you mean kafka.bootstrap_servers?"));
    /// ```
    ///
    /// # Errors
    /// Everything that is wrong with it, in one failure.
    pub fn from_toml(text: &str) -> Result<Self, Failure> {
        let mut settings = Settings::with_defaults();
        settings.read_file("the configuration", text);
        build::imply(&mut settings);
        Self::of(&mut settings)
    }

    fn of(settings: &mut Settings) -> Result<Self, Failure> {
        let config = build::config(settings);
        let problems = settings.take_problems();
        match config {
            Some(config) if problems.is_empty() => Ok(config),
            _ => Err(Failure::new(Code::Config, problems.join("; "))),
        }
    }
}

impl FromStr for Config {
    type Err = Failure;

    fn from_str(text: &str) -> Result<Self, Failure> {
        Self::from_toml(text)
    }
}

/// The effective values with their origin, without secrets, one per line; and what is wrong, if
/// anything is.
pub fn show(sources: &Sources) -> (String, Result<Config, Failure>) {
    let mut settings = sources.settings();
    let text = show::effective(&settings);
    (text, Config::of(&mut settings))
}

/// Every key with what it takes, its default and what it does, as Markdown.
pub fn reference() -> String {
    reference::reference()
}

/// A configuration file with every key, its default, and what it does.
pub fn template() -> String {
    show::template()
}
