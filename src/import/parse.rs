//! Debezium's options, of whichever file they were written in.
//!
//! Options have the names that the connector knows. Debezium Server writes them behind prefixes
//! (`debezium.source.`), and doubles each `$`, which would otherwise begin an expression.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::ImportError;

/// What Debezium runs in. Its records differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// A plug-in of Kafka Connect.
    Connect,
    /// A process of its own.
    Server,
}

/// All options, by the connector's names. Those of Debezium Server's own keep a prefix: `sink.`,
/// `format.`.
#[derive(Debug)]
pub(super) struct Options {
    pub(super) form: Form,
    values: BTreeMap<String, String>,
    /// Those whose value an expression gives, which only Debezium can evaluate.
    pub(super) expressions: BTreeSet<String>,
}

impl Options {
    /// The option's value, which is thereby dealt with.
    pub(super) fn take(&mut self, name: &str) -> Option<String> {
        self.values.remove(name)
    }

    /// The option's value, if it is not empty.
    pub(super) fn take_set(&mut self, name: &str) -> Option<String> {
        self.take(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
    }

    /// Whether the option is `true`.
    pub(super) fn take_flag(&mut self, name: &str) -> Option<bool> {
        self.take(name).map(|value| value.trim().eq_ignore_ascii_case("true"))
    }

    /// The names that begin with `prefix`, and have not been dealt with.
    pub(super) fn names(&self, prefix: &str) -> Vec<String> {
        self.values.keys().filter(|name| name.starts_with(prefix)).cloned().collect()
    }

    /// The option's name as the file has it.
    pub(super) fn written(&self, name: &str) -> String {
        written(self.form, name)
    }
}

const SOURCE: &str = "debezium.source.";
const PREFIX: &str = "debezium.";
/// What Debezium Server writes behind `debezium.` alone.
const PARTS: [&str; 4] = ["format.", "predicates", "sink.", "transforms"];

pub(super) fn written(form: Form, name: &str) -> String {
    match form {
        Form::Connect => name.to_owned(),
        Form::Server if PARTS.iter().any(|part| name.starts_with(part)) => {
            format!("{PREFIX}{name}")
        }
        Form::Server if name.starts_with("quarkus.") || name.starts_with(PREFIX) => name.to_owned(),
        Form::Server => format!("{SOURCE}{name}"),
    }
}

/// Reads a file's text.
///
/// # Errors
/// It begins like JSON and is none, or a value in it is no value.
pub(super) fn read(text: &str) -> Result<Options, ImportError> {
    let text = text.trim_start_matches('\u{feff}').trim_start();
    let lines = if text.starts_with('{') { json(text)? } else { properties(text) };
    let is_server = |name: &String| name.starts_with(SOURCE) || name.starts_with("debezium.sink.");
    if !lines.keys().any(is_server) {
        let is_provided = |value: &str| {
            // A configuration provider of Kafka Connect: ${file:/path:key}.
            value.split("${").skip(1).any(|rest| {
                let name = rest.split_once(':').map(|(name, _)| name);
                name.is_some_and(|name| name.chars().all(|letter| letter.is_ascii_alphanumeric()))
            })
        };
        let expressions = names_where(&lines, is_provided);
        return Ok(Options { form: Form::Connect, values: lines, expressions });
    }
    let lines = lines.into_iter().map(|(name, value)| {
        let part = name
            .strip_prefix(PREFIX)
            .filter(|rest| PARTS.iter().any(|part| rest.starts_with(part)));
        let plain = name.strip_prefix(SOURCE).or(part).unwrap_or(&name).to_owned();
        (plain, value)
    });
    let lines: BTreeMap<_, _> = lines.collect();
    let expressions = names_where(&lines, |value| value.replace("$$", "").contains("${"));
    let values = lines.into_iter().map(|(name, value)| (name, value.replace("$$", "$")));
    Ok(Options { form: Form::Server, values: values.collect(), expressions })
}

fn names_where(
    values: &BTreeMap<String, String>,
    is_so: impl Fn(&str) -> bool,
) -> BTreeSet<String> {
    let found = values.iter().filter(|(_, value)| is_so(value));
    found.map(|(name, _)| name.clone()).collect()
}

/// What a `POST /connectors` takes, or its `config` alone.
fn json(text: &str) -> Result<BTreeMap<String, String>, ImportError> {
    let document: Value = serde_json::from_str(text)
        .map_err(|error| ImportError::NotJson { line: error.line(), column: error.column() })?;
    let Value::Object(mut members) = document else {
        return Err(ImportError::NotJson { line: 1, column: 1 });
    };
    let name = members.get("name").cloned();
    if let Some(Value::Object(config)) = members.remove("config") {
        members = config;
        if let Some(name) = name {
            members.entry("name").or_insert(name);
        }
    }
    let mut values = BTreeMap::new();
    for (option, value) in members {
        let text = match value {
            Value::String(text) => text,
            Value::Number(number) => number.to_string(),
            Value::Bool(flag) => flag.to_string(),
            Value::Null => continue,
            Value::Array(_) | Value::Object(_) => return Err(ImportError::NotAValue { option }),
        };
        values.insert(option, text);
    }
    Ok(values)
}

/// Java's `.properties`: comments, `=`, `:` or a space behind the name, escapes, and lines that go
/// on behind a backslash.
fn properties(text: &str) -> BTreeMap<String, String> {
    let mut values = BTreeMap::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let mut whole = line.trim_start().to_owned();
        if whole.is_empty() || whole.starts_with(['#', '!']) {
            continue;
        }
        while whole.chars().rev().take_while(|letter| *letter == '\\').count() % 2 == 1 {
            whole.pop();
            match lines.next() {
                Some(next) => whole.push_str(next.trim_start()),
                None => break,
            }
        }
        let mut is_escaped = false;
        let end = whole.find(|letter: char| {
            let ends = !is_escaped && (letter == '=' || letter == ':' || letter.is_whitespace());
            is_escaped = letter == '\\' && !is_escaped;
            ends
        });
        let (name, rest) = whole.split_at(end.unwrap_or(whole.len()));
        let rest = rest.trim_start();
        let rest = rest.strip_prefix(['=', ':']).unwrap_or(rest).trim_start();
        values.insert(unescaped(name), unescaped(rest));
    }
    values
}

fn unescaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        if letter != '\\' {
            out.push(letter);
            continue;
        }
        match letters.next() {
            Some('t') => out.push('\t'),
            Some('n') => out.push('\n'),
            Some('r') => out.push('\r'),
            Some('f') => out.push('\u{c}'),
            Some('u') => {
                let digits: String = letters.by_ref().take(4).collect();
                let code = u32::from_str_radix(&digits, 16).ok().and_then(char::from_u32);
                out.push(code.unwrap_or(char::REPLACEMENT_CHARACTER));
            }
            Some(other) => out.push(other),
            None => {}
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(text: &str, name: &str) -> Option<String> {
        read(text).unwrap().take(name)
    }

    #[test]
    fn a_connector_is_read_whole_or_its_config_alone() {
        let whole = r#"{"name": "c", "config": {"slot.name": "s", "tasks.max": 1, "x": true}}"#;
        assert_eq!(taken(whole, "slot.name").as_deref(), Some("s"));
        assert_eq!(taken(whole, "name").as_deref(), Some("c"));
        assert_eq!(taken(whole, "tasks.max").as_deref(), Some("1"));
        assert_eq!(taken(r#"{"slot.name": "s", "x": null}"#, "slot.name").as_deref(), Some("s"));
        let nested = read(r#"{"slot.name": {}}"#).unwrap_err();
        assert_eq!(nested, ImportError::NotAValue { option: "slot.name".to_owned() });
        assert!(matches!(read("{").unwrap_err(), ImportError::NotJson { line: 1, .. }));
    }

    #[test]
    fn properties_are_read_as_java_reads_them() {
        let text = "# comment\n! another\n\n a = 1 \nb:2\nc 3\nd\\ e=f\\=g\\u00fc\\\n    h\\n\nlast=\\\\d\\\n";
        for (name, value) in [
            ("a", "1 "),
            ("b", "2"),
            ("c", "3"),
            ("d e", "f=gühn".replace("hn", "h\n").as_str()),
            ("last", "\\d"),
        ] {
            assert_eq!(taken(text, name).as_deref(), Some(value), "{name}");
        }
    }

    #[test]
    fn debezium_server_is_told_by_its_prefixes() {
        let text = "debezium.source.slot.name=s\ndebezium.transforms=outbox\n\
                    debezium.transforms.outbox.route.topic.replacement=x.$${routedByValue}\n\
                    debezium.source.database.password=${PASSWORD}\nquarkus.log.level=INFO\n";
        let mut options = read(text).unwrap();
        assert_eq!(options.form, Form::Server);
        assert_eq!(options.take("slot.name").as_deref(), Some("s"));
        assert_eq!(
            options.take("transforms.outbox.route.topic.replacement").as_deref(),
            Some("x.${routedByValue}")
        );
        assert_eq!(options.expressions.iter().collect::<Vec<_>>(), ["database.password"]);
        assert_eq!(options.written("slot.name"), "debezium.source.slot.name");
        assert_eq!(options.written("transforms.outbox.type"), "debezium.transforms.outbox.type");
        assert_eq!(options.written("quarkus.log.level"), "quarkus.log.level");
        let text = "database.password=${file:/etc/secret:password}\nslot.name=s";
        let options = read(text).unwrap();
        assert_eq!((options.form, options.expressions.len()), (Form::Connect, 1));
    }
}
