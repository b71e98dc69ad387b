//! The configuration as people see it: effective values with their origin, and a file to start
//! from. Secrets are never in either.

use std::fmt::Write as _;

use percent_encoding::percent_decode_str;
use toml::Value;

use super::key::Kind;
use super::keys::keys;
use super::settings::{Origin, Settings};

/// Every key with its effective value and where it comes from.
pub(super) fn effective(settings: &Settings) -> String {
    let mut out = String::new();
    let width = keys().map(|key| key.path.len()).max().unwrap_or(0);
    for key in keys() {
        let (value, origin) = match settings.get(key.path) {
            Some(setting) => {
                let value = match key.kind {
                    Kind::Secret => Value::String(without_password(&setting.value)),
                    Kind::Table => without_secrets(&setting.value),
                    _ => setting.value.clone(),
                };
                (value.to_string(), setting.origin.to_string())
            }
            None => ("(not set)".to_owned(), Origin::Default.to_string()),
        };
        // Writing to memory cannot fail.
        let _ = writeln!(out, "{:width$} = {value}  # {origin}", key.path);
    }
    out
}

/// A connection string with its password replaced; all of it, if that cannot be told.
fn without_password(value: &Value) -> String {
    let hidden = || "***".to_owned();
    let Some(url) = value.as_str() else {
        return hidden();
    };
    if url.is_empty() {
        return String::new();
    }
    let Some((scheme, rest)) = url.split_once("://") else {
        return hidden();
    };
    let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let (base, query) = path.split_once('?').unwrap_or((path, ""));
    let secret_in_query = query.split('&').any(|pair| {
        let name = pair.split('=').next().unwrap_or_default();
        percent_decode_str(name).decode_utf8_lossy().contains("password")
    });
    if secret_in_query || base.contains('@') {
        return hidden();
    }
    match authority.rsplit_once('@') {
        Some((user, host)) => match user.split_once(':') {
            Some((user, _)) => format!("{scheme}://{user}:***@{host}{path}"),
            // A name without a password can be a token.
            None if matches!(scheme, "nats" | "tls") => format!("{scheme}://***@{host}{path}"),
            None => url.to_owned(),
        },
        None => url.to_owned(),
    }
}

/// Words in the names of properties whose values are secrets.
const SECRET_WORDS: [&str; 7] =
    ["password", "secret", "token", "jaas", "pem", "credential", "assertion"];

/// What may be told of properties that guard something: a misspelt name can be a password's.
const TOLD_ENDINGS: [&str; 6] =
    [".mechanism", ".mechanisms", ".username", ".location", ".algorithm", "_file"];

fn without_secrets(value: &Value) -> Value {
    let Value::Table(table) = value else {
        return Value::String("***".to_owned());
    };
    let hide = |(name, value): (&String, &Value)| {
        let guards = name.starts_with("sasl.") || name.starts_with("ssl.");
        let is_told = TOLD_ENDINGS.iter().any(|ending| name.ends_with(ending));
        let is_named_so = SECRET_WORDS.iter().any(|word| name.contains(word));
        // The name of a file that holds a secret is none.
        let is_named_so = is_named_so && !name.ends_with("_file");
        let is_secret = is_named_so || (guards && !is_told);
        let shown = if is_secret { Value::String("***".to_owned()) } else { value.clone() };
        (name.clone(), shown)
    };
    Value::Table(table.iter().map(hide).collect())
}

/// A file with every key: what it does, and its default, as a comment.
pub(super) fn template() -> String {
    let mut out = String::from(
        "# outboxd.toml: every key with its default. Uncomment what you change.\n\
         # OUTBOXD__SECTION__KEY in the environment overrides it.\n",
    );
    let mut section = "";
    for key in keys() {
        let (of_key, name) = key.path.rsplit_once('.').unwrap_or(("", key.path));
        if of_key != section {
            section = of_key;
            let _ = write!(out, "\n[{section}]\n");
        }
        for line in wrapped(key.doc, 98) {
            let _ = writeln!(out, "# {line}");
        }
        let _ = match (key.path, key.default) {
            ("postgres.url", _) => writeln!(out, "url = \"postgres://outboxd@localhost:5432/app\""),
            (_, "") => writeln!(out, "# {name} ="),
            (_, default) => writeln!(out, "# {name} = {default}"),
        };
    }
    out
}

fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) if line.len() + word.len() < width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use toml::Table;

    #[test]
    fn a_password_is_never_shown() {
        for (url, shown) in [
            (
                "postgres://u:hunter2@h:1/d?sslmode=require",
                "postgres://u:***@h:1/d?sslmode=require",
            ),
            ("postgres://u:hun%40ter2@h/d", "postgres://u:***@h/d"),
            ("postgres://u:hunter2@x@h/d", "postgres://u:***@h/d"),
            ("postgres://u@h/d", "postgres://u@h/d"),
            ("postgres://h/d?user=u&password=hunter2", "***"),
            ("host=h password=hunter2", "***"),
            ("postgres://u:hunter2/x@h/d", "***"),
        ] {
            assert_eq!(without_password(&Value::String(url.to_owned())), shown);
        }
    }

    #[test]
    fn of_properties_that_guard_something_only_what_is_known_is_shown() {
        for (name, is_shown) in [
            ("compression.type", true),
            ("security.protocol", true),
            ("sasl.mechanisms", true),
            ("ssl.ca.location", true),
            ("sasl.password_file", true),
            ("sasl.password", false),
            ("sasl.pasword", false),
            ("ssl.key.pem", false),
            ("some.secret", false),
        ] {
            let table = Table::from_iter([(name.to_owned(), Value::String("hunter2".to_owned()))]);
            let shown = without_secrets(&Value::Table(table)).to_string();
            assert_eq!(shown.contains("hunter2"), is_shown, "{shown}");
        }
    }

    #[test]
    fn the_template_is_a_configuration_of_defaults() {
        let text = template();
        let table: toml::Table = text.parse().unwrap();
        assert_eq!(
            table.get("postgres").unwrap().get("url").unwrap().as_str().unwrap(),
            "postgres://outboxd@localhost:5432/app"
        );
        let uncommented: String = text
            .lines()
            .map(|line| match line.strip_prefix("# ") {
                Some(line) if line.contains(" = ") && !line.contains("==") => format!("{line}\n"),
                _ => format!("{line}\n"),
            })
            .collect();
        for key in keys().filter(|key| !key.default.is_empty()) {
            let name = key.path.rsplit_once('.').unwrap().1;
            assert!(uncommented.contains(&format!("\n{name} = {}\n", key.default)), "{}", key.path);
        }
    }
}
