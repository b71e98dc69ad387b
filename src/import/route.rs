//! `route.topic.regex` and `route.topic.replacement`: written here as there, if we can match it.

use regex::Regex;

use super::ImportError;
use super::draft::Draft;
use super::parse::Options;

/// Debezium's defaults.
const REGEX: &str = "(?<routedByValue>.*)";
const REPLACEMENT: &str = "outbox.event.${routedByValue}";

/// Takes the routing over. `prefix` is that of the router's options.
pub(super) fn import(
    options: &mut Options,
    draft: &mut Draft,
    prefix: &str,
) -> Result<(), ImportError> {
    let regex_option = format!("{prefix}route.topic.regex");
    let replacement_option = format!("{prefix}route.topic.replacement");
    let origin = |options: &Options, name: &str, is_set: bool| {
        let written = options.written(name);
        if is_set { written } else { format!("{written}, by default") }
    };
    let (regex, replacement) = (options.take(&regex_option), options.take(&replacement_option));
    let regex_origin = origin(options, &regex_option, regex.is_some());
    let replacement_origin = origin(options, &replacement_option, replacement.is_some());
    let regex = regex.unwrap_or_else(|| REGEX.to_owned());
    let replacement = replacement.unwrap_or_else(|| REPLACEMENT.to_owned());

    let compiled = Regex::new(&format!("^(?:{regex})$")).map_err(|error| {
        // The last line says what is wrong, those before it show where.
        let said = error.to_string();
        let reason = said.lines().last().unwrap_or_default().trim_start_matches("error: ");
        ImportError::BadRegex { option: options.written(&regex_option), reason: reason.to_owned() }
    })?;
    let bad = |reason: String| ImportError::BadReplacement {
        option: options.written(&replacement_option),
        reason,
    };
    let parts = parts(&replacement, &compiled).map_err(bad)?;
    // Where the whole value is what a group holds, a template says the same, and is easier to read.
    let is_whole = ["(?<routedByValue>.*)", "(.*)", ".*", "(.+)", ".+"].contains(&regex.as_str());
    if is_whole {
        let topic: String = parts.iter().map(Part::in_template).collect();
        draft.set("route", "default", topic, replacement_origin);
    } else {
        // Both are written as Java has them, here too.
        draft.set("route", "regex", regex, regex_origin);
        draft.set("route", "replacement", replacement, replacement_origin);
    }
    Ok(())
}

/// A piece of a replacement.
#[derive(Debug, PartialEq, Eq)]
enum Part {
    Text(char),
    Group(String),
}

impl Part {
    fn in_template(&self) -> String {
        match self {
            Part::Text(letter) => letter.to_string(),
            Part::Group(_) => "{aggregate_type}".to_owned(),
        }
    }
}

/// Reads a replacement as Java's `Matcher` does.
fn parts(replacement: &str, regex: &Regex) -> Result<Vec<Part>, String> {
    let mut parts = Vec::new();
    let mut rest = replacement.chars().peekable();
    while let Some(letter) = rest.next() {
        match letter {
            '\\' => match rest.next() {
                Some(letter) => parts.push(Part::Text(letter)),
                None => return Err("ends in a backslash".to_owned()),
            },
            '$' if rest.peek() == Some(&'{') => {
                rest.next();
                let name: String = rest.by_ref().take_while(|letter| *letter != '}').collect();
                if !regex.capture_names().flatten().any(|known| known == name) {
                    return Err(format!("the expression has no group <{name}>"));
                }
                parts.push(Part::Group(name));
            }
            '$' => {
                let mut number = match rest.next().and_then(|letter| letter.to_digit(10)) {
                    Some(digit) => digit as usize,
                    None => return Err("\"$\" without a group".to_owned()),
                };
                if number >= regex.captures_len() {
                    return Err(format!("the expression has no group {number}"));
                }
                // Further digits belong to the number as long as there is such a group.
                while let Some(digit) = rest.peek().and_then(|letter| letter.to_digit(10)) {
                    let longer = number * 10 + digit as usize;
                    if longer >= regex.captures_len() {
                        break;
                    }
                    number = longer;
                    rest.next();
                }
                parts.push(Part::Group(number.to_string()));
            }
            letter => parts.push(Part::Text(letter)),
        }
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The groups are in brackets.
    fn replaced(regex: &str, replacement: &str) -> Result<String, String> {
        let regex = Regex::new(regex).unwrap();
        let shown = |part: &Part| match part {
            Part::Text(letter) => letter.to_string(),
            Part::Group(name) => format!("<{name}>"),
        };
        Ok(parts(replacement, &regex)?.iter().map(shown).collect())
    }

    #[test]
    fn a_replacement_is_read_as_java_reads_it() {
        for (regex, replacement, read) in [
            ("(a)(?<b>b)", "x.$1.${b}", "x.<1>.<b>"),
            ("(a)", "$1a", "<1>a"),
            ("(a)", "$12", "<1>2"),
            ("(a)(b)(c)(d)(e)(f)(g)(h)(i)(j)(k)(l)", "$12", "<12>"),
            ("a", "$0", "<0>"),
            ("a", r"\$0\\", "$0\\"),
        ] {
            assert_eq!(replaced(regex, replacement).as_deref(), Ok(read), "{replacement}");
        }
        for (replacement, said) in [
            ("$2", "the expression has no group 2"),
            ("${c}", "the expression has no group <c>"),
            ("$x", "\"$\" without a group"),
            ("$", "\"$\" without a group"),
            ("a\\", "ends in a backslash"),
        ] {
            assert_eq!(replaced("(a)", replacement), Err(said.to_owned()), "{replacement}");
        }
    }
}
