//! The configuration as it is being made: values with the options that they come from, and notes on
//! what differs.

use std::fmt::Write as _;

use toml::Value;

use super::Imported;
use super::parse::Form;

/// What becomes of an option that has no exact counterpart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Weight {
    /// Somebody has to look at it.
    Differs,
    /// It needs none.
    Passed,
}

/// A value of ours.
#[derive(Debug)]
struct Entry {
    section: &'static str,
    key: &'static str,
    value: Value,
    /// The option that it comes from, or why it is there.
    origin: String,
}

/// The configuration as it is being made.
#[derive(Debug, Default)]
pub(super) struct Draft {
    entries: Vec<Entry>,
    notes: Vec<(Weight, String, String)>,
}

/// Our sections, in the order of `outboxd init`.
const SECTIONS: [&str; 8] = [
    "postgres",
    "outbox",
    "outbox.columns",
    "outbox.status",
    "route",
    "envelope",
    "envelope.debezium",
    "kafka",
];

impl Draft {
    /// Sets a value.
    pub(super) fn set(
        &mut self,
        section: &'static str,
        key: &'static str,
        value: impl Into<Value>,
        origin: impl Into<String>,
    ) {
        // What was configured must not end the comment.
        let origin = origin.into().replace(char::is_control, " ");
        let value = value.into();
        self.entries.push(Entry { section, key, value, origin });
    }

    /// Tells of an option that differs.
    pub(super) fn differs(&mut self, option: impl Into<String>, text: impl Into<String>) {
        self.notes.push((Weight::Differs, option.into(), text.into()));
    }

    /// Tells of an option that is not needed.
    pub(super) fn pass(&mut self, option: impl Into<String>, text: impl Into<String>) {
        self.notes.push((Weight::Passed, option.into(), text.into()));
    }

    /// Writes it down.
    pub(super) fn finish(self, form: Form) -> Imported {
        let name = match form {
            Form::Connect => "Debezium in Kafka Connect",
            Form::Server => "Debezium Server",
        };
        let mut toml = format!(
            "# Imported from the configuration of {name}. Behind each value is the option that it\n\
             # comes from. docs/MIGRATING.md says how to take over its slot.\n"
        );
        let of = |weight| self.notes.iter().filter(move |(of, _, _)| *of == weight);
        for (weight, title) in [
            (Weight::Differs, "What differs, and wants a look:"),
            (Weight::Passed, "Options that are not needed:"),
        ] {
            if of(weight).next().is_some() {
                let _ = write!(toml, "#\n# {title}\n");
            }
            for (_, option, text) in of(weight) {
                comment(&mut toml, &format!("{option}: {text}"));
            }
        }
        for section in SECTIONS {
            let mut entries =
                self.entries.iter().filter(|entry| entry.section == section).peekable();
            if entries.peek().is_some() {
                let _ = write!(toml, "\n[{section}]\n");
            }
            for Entry { key, value, origin, .. } in entries {
                let _ = writeln!(toml, "{key} = {value}  # {origin}");
            }
        }
        Imported {
            toml,
            taken: self.entries.len(),
            differing: of(Weight::Differs).count(),
            passed: of(Weight::Passed).count(),
        }
    }
}

/// An item of a list, in lines of at most 100 characters.
fn comment(out: &mut String, text: &str) {
    let mut line = "#  -".to_owned();
    for word in text.split_whitespace() {
        if line.len() + word.len() > 99 {
            out.push_str(&line);
            out.push('\n');
            line = "#   ".to_owned();
        }
        line.push(' ');
        line.push_str(word);
    }
    out.push_str(&line);
    out.push('\n');
}
