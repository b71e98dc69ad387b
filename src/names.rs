//! Names that others have to take: PostgreSQL's tables and messages, topics of the sinks.

use std::fmt;

/// A name as SQL takes it whatever it contains: `outbox` → `"outbox"`.
pub fn quote_ident(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A table's name with its schema.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TableName {
    /// The schema.
    pub schema: String,
    /// The table.
    pub name: String,
}

impl TableName {
    /// Reads a name as SQL would: `outbox`, `public.outbox`, `"My Schema"."Outbox"`. Without a
    /// schema it is `public`; without quotes, letters are lower case.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let (first, rest) = read_ident(text)?;
        let (schema, name) = match rest.strip_prefix('.') {
            None if rest.is_empty() => ("public".to_owned(), first),
            None => return Err("has text after the name"),
            Some(second) => match read_ident(second)? {
                (name, "") => (first, name),
                _ => return Err("has text after the name"),
            },
        };
        Ok(Self { schema, name })
    }
}

impl fmt::Display for TableName {
    /// The name as SQL takes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", quote_ident(&self.schema), quote_ident(&self.name))
    }
}

/// Where events are written: into a table `T`, or into the WAL alone, as logical messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Intake<T> {
    /// The rows of a table.
    Table(T),
    /// The transactional messages of this prefix.
    Messages(String),
}

impl<T> Intake<T> {
    /// The table, if there is one.
    pub fn table(&self) -> Option<&T> {
        match self {
            Intake::Table(table) => Some(table),
            Intake::Messages(_) => None,
        }
    }

    /// The same of a table that is named in another way.
    pub fn map<U>(&self, table: impl FnOnce(&T) -> U) -> Intake<U> {
        match self {
            Intake::Table(found) => Intake::Table(table(found)),
            Intake::Messages(prefix) => Intake::Messages(prefix.clone()),
        }
    }
}

impl<T: fmt::Display> fmt::Display for Intake<T> {
    /// In words.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Intake::Table(table) => write!(f, "table {table}"),
            Intake::Messages(prefix) => write!(f, "messages of prefix \"{prefix}\""),
        }
    }
}

/// One name from the front of `text`, and what follows it.
fn read_ident(text: &str) -> Result<(String, &str), &'static str> {
    let (name, rest) = match text.strip_prefix('"') {
        Some(quoted) => {
            let mut name = String::new();
            let mut letters = quoted.char_indices().peekable();
            loop {
                match letters.next() {
                    None => return Err("has a quotation mark without its second"),
                    Some((_, '"')) if letters.next_if(|(_, letter)| *letter == '"').is_some() => {
                        name.push('"');
                    }
                    Some((at, '"')) => break (name, quoted.get(at + 1..).unwrap_or_default()),
                    Some((_, letter)) => name.push(letter),
                }
            }
        }
        None => {
            let plain = |letter: char| letter.is_alphanumeric() || letter == '_' || letter == '$';
            let end = text.find(|letter| !plain(letter)).unwrap_or(text.len());
            let (name, rest) = text.split_at(end);
            (name.to_lowercase(), rest)
        }
    };
    match name.len() {
        0 => Err("has an empty name"),
        1..=63 if !name.contains('\0') => Ok((name, rest)),
        _ => Err("has a name that PostgreSQL does not take (63 bytes, no NUL)"),
    }
}

/// Who has to take the name of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TopicNames {
    /// Kafka: letters, digits, `.`, `_` and `-`, up to 249 of them.
    #[default]
    Kafka,
    /// Redis: any key of up to 512 bytes without control characters.
    Redis,
    /// NATS: a subject without wildcards, up to 249 bytes.
    Nats,
}

impl TopicNames {
    /// Whether it is a name.
    pub fn takes(self, name: &str) -> bool {
        match self {
            Self::Kafka => is_topic_name(name),
            Self::Redis => {
                (1..=512).contains(&name.len())
                    && !name.contains(|letter: char| letter.is_control())
            }
            Self::Nats => {
                let is_token = |token: &str| {
                    !token.is_empty()
                        && token
                            .bytes()
                            .all(|byte| byte.is_ascii_graphic() && byte != b'*' && byte != b'>')
                };
                name.len() <= 249 && !name.starts_with('$') && name.split('.').all(is_token)
            }
        }
    }
}

impl TopicNames {
    /// What a name has to be, in words.
    pub fn rule(self) -> &'static str {
        match self {
            Self::Kafka => "1 to 249 of A-Z a-z 0-9 . _ -",
            Self::Redis => "1 to 512 bytes of text, without control characters",
            Self::Nats => {
                "1 to 249 of visible ASCII, without * and >, no $ in front, and something on either side \
                 of each dot"
            }
        }
    }
}

impl fmt::Display for TopicNames {
    /// Who it is.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kafka => "Kafka",
            Self::Redis => "Redis",
            Self::Nats => "NATS",
        })
    }
}

/// Whether Kafka takes `name` for a topic.
fn is_topic_name(name: &str) -> bool {
    (1..=249).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
        && name != "."
        && name != ".."
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_are_read_as_sql_reads_them() {
        for (text, schema, name) in [
            ("outbox", "public", "outbox"),
            ("public.Outbox", "public", "outbox"),
            ("\"My Schema\".\"Out\"\"box\"", "My Schema", "Out\"box"),
            ("identity.outbox_event", "identity", "outbox_event"),
        ] {
            let read = TableName::parse(text).unwrap();
            assert_eq!((read.schema.as_str(), read.name.as_str()), (schema, name));
        }
        for bad in ["", ".", "a.", ".a", "a.b.c", "a b", "\"a", "a;drop", "\"\"", "a.\"b\"x"] {
            assert!(TableName::parse(bad).is_err(), "{bad}");
        }
        assert!(TableName::parse(&"x".repeat(64)).is_err());
    }

    #[test]
    fn topic_names_are_kafkas() {
        for good in ["a", "outbox.order", "A-1_b", &"x".repeat(249)] {
            assert!(is_topic_name(good), "{good}");
        }
        for bad in ["", ".", "..", "a b", "ü", "a/b", "a\0", &"x".repeat(250)] {
            assert!(!is_topic_name(bad), "{bad}");
        }
    }

    #[test]
    fn every_sink_has_names_of_its_own() {
        for (name, by) in [
            ("identity.user.v1", [true, true, true]),
            ("identity:user:v1", [false, true, true]),
            ("{orders}.new", [false, true, true]),
            ("a b", [false, true, false]),
            ("a..b", [true, true, false]),
            (".a", [true, true, false]),
            ("a.*", [false, true, false]),
            ("$JS.API", [false, true, false]),
            ("ü", [false, true, false]),
            ("a\n", [false, false, false]),
            ("", [false, false, false]),
        ] {
            let taken = [TopicNames::Kafka, TopicNames::Redis, TopicNames::Nats];
            assert_eq!(taken.map(|names| names.takes(name)), by, "{name:?}");
        }
    }

    proptest! {
        #[test]
        fn a_printed_name_reads_back(schema in "[^\0]{1,15}", name in "[^\0]{1,15}") {
            let table = TableName { schema, name };
            prop_assert_eq!(TableName::parse(&table.to_string()), Ok(table));
        }
    }
}
