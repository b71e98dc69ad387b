//! Settings: what was written, where, in the order of precedence; and reading it as what it means.
//!
//! Defaults, then the file, then the environment, then flags. Every problem is collected, so that
//! one look at the configuration finds all of them.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use toml::{Table, Value};

use super::key::{Key, Kind};
use super::keys::{by_path, is_section, keys, suggestion};
use super::secrets::Seen;

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Origin {
    Default,
    File(String),
    Environment(String),
    Flag,
    /// Another key leaves no choice.
    Implied(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::File(path) => write!(f, "file {path}"),
            Origin::Environment(name) => write!(f, "environment {name}"),
            Origin::Flag => f.write_str("flag"),
            Origin::Implied(key) => write!(f, "implied by {key}"),
        }
    }
}

/// A value and where it comes from.
#[derive(Debug, Clone)]
pub(super) struct Setting {
    pub(super) value: Value,
    pub(super) origin: Origin,
}

/// All values, by key.
#[derive(Debug, Default)]
pub(super) struct Settings {
    values: BTreeMap<&'static str, Setting>,
    problems: Vec<String>,
    warnings: Vec<String>,
    /// What files of secrets held.
    pub(super) seen: Seen,
}

/// The prefix of our environment variables.
const PREFIX: &str = "OUTBOXD__";

impl Settings {
    /// Every default.
    pub(super) fn with_defaults() -> Self {
        let mut settings = Self::default();
        for key in keys().filter(|key| !key.default.is_empty()) {
            let table = format!("key = {}", key.default).parse::<Table>();
            if let Some(value) = table.ok().and_then(|mut table| table.remove("key")) {
                settings.values.insert(key.path, Setting { value, origin: Origin::Default });
            }
        }
        settings
    }

    /// Something is wrong.
    pub(super) fn problem(&mut self, text: impl Into<String>) {
        self.problems.push(text.into());
    }

    /// Something works, and leaves open what could be guarded.
    pub(super) fn warn(&mut self, text: impl Into<String>) {
        self.warnings.push(text.into());
    }

    /// Everything that is left open.
    pub(super) fn take_warnings(&mut self) -> Vec<String> {
        std::mem::take(&mut self.warnings)
    }

    /// The keys whose values are others than in `later`.
    pub(super) fn differing(&self, later: &Self) -> Vec<&'static str> {
        let value = |settings: &Self, path| settings.get(path).map(|found| found.value.clone());
        let paths = keys().map(|key| key.path);
        paths.filter(|path| value(self, path) != value(later, path)).collect()
    }

    /// Everything that is wrong.
    pub(super) fn take_problems(&mut self) -> Vec<String> {
        std::mem::take(&mut self.problems)
    }

    /// Reads a file's text.
    pub(super) fn read_file(&mut self, path: &str, text: &str) {
        match text.parse::<Table>() {
            Ok(table) => self.read_table("", table, &Origin::File(path.to_owned())),
            // The library quotes the line, which can hold a secret.
            Err(error) => {
                let line = error.span().map(|span| {
                    text.get(..span.start).unwrap_or_default().matches('\n').count() + 1
                });
                let at = line.map(|line| format!(", line {line}")).unwrap_or_default();
                self.problem(format!("{path}{at}: not TOML: {}", error.message()));
            }
        }
    }

    fn read_table(&mut self, section: &str, table: Table, origin: &Origin) {
        for (name, value) in table {
            let path = if section.is_empty() { name } else { format!("{section}.{name}") };
            match (by_path(&path), value) {
                (Some(key), value) => self.set(key, value, origin.clone()),
                (None, Value::Table(table)) if is_section(&path) => {
                    self.read_table(&path, table, origin);
                }
                (None, _) => self.unknown(&path, origin),
            }
        }
    }

    fn unknown(&mut self, path: &str, origin: &Origin) {
        let meant = suggestion(path).map(|path| format!("; did you mean {path}?"));
        self.problem(format!("{path} ({origin}): unknown key{}", meant.unwrap_or_default()));
    }

    fn set(&mut self, key: &'static Key, value: Value, origin: Origin) {
        self.values.insert(key.path, Setting { value, origin });
    }

    /// Reads environment variables: `OUTBOXD__SECTION__KEY`.
    pub(super) fn read_environment(&mut self, variables: impl Iterator<Item = (String, String)>) {
        for (name, text) in variables {
            let Some(rest) = name.strip_prefix(PREFIX) else {
                continue;
            };
            let path = rest.to_lowercase().replace("__", ".");
            self.read_text(&path, &text, &Origin::Environment(name.clone()));
        }
    }

    /// Reads a flag: `section.key=value`.
    pub(super) fn read_flag(&mut self, flag: &str) {
        match flag.split_once('=') {
            Some((path, text)) => self.read_text(path.trim(), text, &Origin::Flag),
            // What was written instead can be a secret.
            None => self.problem("--set: expected section.key=value, found no \"=\""),
        }
    }

    fn read_text(&mut self, path: &str, text: &str, origin: &Origin) {
        let Some(key) = by_path(path) else {
            match structured(text) {
                Some(Value::Table(table)) if is_section(path) => {
                    self.read_table(path, table, origin);
                }
                _ => self.unknown(path, origin),
            }
            return;
        };
        let value = match key.kind {
            Kind::Text | Kind::Secret | Kind::Choice(_) | Kind::Duration | Kind::Size(..) => {
                Some(Value::String(text.to_owned()))
            }
            Kind::Boolean => text.parse().ok().map(Value::Boolean),
            Kind::Number(..) => text.parse().ok().map(Value::Integer),
            Kind::Fraction => text.parse().ok().map(Value::Float),
            Kind::List | Kind::Table => structured(text),
            Kind::Field => structured(text)
                .filter(Value::is_table)
                .or_else(|| Some(Value::String(text.to_owned()))),
        };
        match value {
            Some(value) => self.set(key, value, origin.clone()),
            None => self.problem(format!("{path} ({origin}): expected {}", expected(key.kind))),
        }
    }

    /// Sets a value that nobody wrote, if there is none.
    pub(super) fn set_if_missing(&mut self, path: &'static str, text: String, origin: Origin) {
        let setting = Setting { value: Value::String(text), origin };
        self.values.entry(path).or_insert(setting);
    }

    /// Sets what another key implies, where nobody wrote anything.
    pub(super) fn imply(&mut self, path: &'static str, text: &str, by: &'static str) {
        if !self.is_chosen(path) {
            let setting =
                Setting { value: Value::String(text.to_owned()), origin: Origin::Implied(by) };
            self.values.insert(path, setting);
        }
    }

    pub(super) fn get(&self, path: &str) -> Option<&Setting> {
        self.values.get(path)
    }

    /// Whether somebody wrote it.
    pub(super) fn is_chosen(&self, path: &str) -> bool {
        self.get(path).is_some_and(|setting| setting.origin != Origin::Default)
    }

    /// The value of a key that has a default, or `fallback` after noting what is wrong with it.
    fn read<T>(&mut self, path: &str, fallback: T, read: impl Fn(&Value) -> Option<T>) -> T {
        let Some(setting) = self.get(path) else {
            return fallback;
        };
        if let Some(value) = read(&setting.value) {
            return value;
        }
        let kind = by_path(path).map_or(Kind::Text, |key| key.kind);
        let text = format!("{path} ({}): expected {}", setting.origin, expected(kind));
        self.problem(text);
        fallback
    }

    pub(super) fn text(&mut self, path: &str) -> String {
        self.read(path, String::new(), |value| value.as_str().map(str::to_owned))
    }

    pub(super) fn boolean(&mut self, path: &str) -> bool {
        self.read(path, false, Value::as_bool)
    }

    pub(super) fn number(&mut self, path: &str) -> u64 {
        u64::try_from(self.integer(path)).unwrap_or(0)
    }

    /// A number that may be below zero.
    pub(super) fn integer(&mut self, path: &str) -> i64 {
        let Some(Kind::Number(from, to)) = by_path(path).map(|key| key.kind) else {
            return 0;
        };
        self.read(path, from, |value| {
            value.as_integer().filter(|number| (from..=to).contains(number))
        })
    }

    pub(super) fn fraction(&mut self, path: &str) -> f64 {
        self.read(path, 0.0, |value| {
            let whole = || value.as_integer().map(|number| number.to_string());
            let number = value.as_float().or_else(|| whole()?.parse().ok())?;
            (0.0..=1.0).contains(&number).then_some(number)
        })
    }

    pub(super) fn duration(&mut self, path: &str) -> Duration {
        self.read(path, Duration::ZERO, |value| {
            let text = value.as_str()?;
            // A plain number would leave open what it counts.
            text.parse::<u64>().is_err().then(|| humantime::parse_duration(text).ok()).flatten()
        })
    }

    pub(super) fn size(&mut self, path: &str) -> u64 {
        let Some(Kind::Size(from, to)) = by_path(path).map(|key| key.kind) else {
            return 0;
        };
        self.read(path, from, |value| {
            let text = value.as_str().filter(|text| text.parse::<u64>().is_err())?;
            let bytes = text.parse::<bytesize::ByteSize>().ok()?.as_u64();
            (from..=to).contains(&bytes).then_some(bytes)
        })
    }

    pub(super) fn choice(&mut self, path: &str) -> String {
        let Some(Kind::Choice(words)) = by_path(path).map(|key| key.kind) else {
            return String::new();
        };
        let first = words.first().map(|word| (*word).to_owned()).unwrap_or_default();
        self.read(path, first, |value| {
            value.as_str().filter(|word| words.contains(word)).map(str::to_owned)
        })
    }

    pub(super) fn list(&mut self, path: &str) -> Vec<String> {
        self.read(path, Vec::new(), |value| {
            let items = value.as_array()?.iter();
            items.map(|item| item.as_str().map(str::to_owned)).collect()
        })
    }

    pub(super) fn table(&mut self, path: &str) -> BTreeMap<String, String> {
        self.read(path, BTreeMap::new(), |value| {
            let entries = value.as_table()?.iter();
            entries.map(|(name, value)| Some((name.clone(), plain(value)?))).collect()
        })
    }
}

/// A list or table written as TOML or JSON.
fn structured(text: &str) -> Option<Value> {
    let json = || serde_json::from_str::<Value>(text).ok();
    let toml = || format!("value = {text}").parse::<Table>().ok()?.remove("value");
    json().or_else(toml).filter(|value| value.is_array() || value.is_table())
}

/// A scalar as text.
pub(super) fn plain(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Integer(number) => Some(number.to_string()),
        Value::Float(number) => Some(number.to_string()),
        Value::Boolean(flag) => Some(flag.to_string()),
        Value::Datetime(_) | Value::Array(_) | Value::Table(_) => None,
    }
}

/// What a kind of key takes, in words.
pub(super) fn expected(kind: Kind) -> String {
    match kind {
        Kind::Text | Kind::Secret => "text".to_owned(),
        Kind::Choice(words) => format!("one of {}", words.join(", ")),
        Kind::Boolean => "true or false".to_owned(),
        Kind::Fraction => "a number from 0 to 1".to_owned(),
        Kind::Number(from, to) => format!("a number from {from} to {to}"),
        Kind::Duration => "a time with its unit, as in \"200ms\", \"25s\", \"5m\"".to_owned(),
        Kind::Size(from, to) => format!(
            "a size with its unit, as in \"64MiB\", from {} to {}",
            bytesize::ByteSize(from),
            bytesize::ByteSize(to)
        ),
        Kind::List => "a list of texts, as in [\"a\", \"b\"]".to_owned(),
        Kind::Table => "a table of texts, as in { \"a.b\" = \"c\" }".to_owned(),
        Kind::Field => "a column, { payload = \"/pointer\" } or { const = \"…\" }".to_owned(),
    }
}
