//! Topics by regular expression, with the rules of Debezium's `route.topic.regex`: the whole value
//! has to match, the first match is replaced, and a value that does not match is the topic itself.
//! Classes are those of ASCII, as Java's are.

use regex::{Captures, Regex};

/// A regular expression and what takes the place of its match.
#[derive(Debug, Clone)]
pub(super) struct Pattern {
    /// The value as a whole.
    whole: Regex,
    /// What is replaced. It can be less than the whole, as with `a|ab` in "ab".
    first: Regex,
    replacement: Vec<Piece>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Group(usize),
}

impl Pattern {
    /// Reads both; groups in `replacement` are `$1` or `${name}`, and a `\` takes the next
    /// character as it is.
    ///
    /// # Errors
    /// What is wrong with either.
    pub(super) fn new(regex: &str, replacement: &str) -> Result<Self, String> {
        let first = compiled(&of_ascii(regex))?;
        let whole = whole(regex)?;
        let replacement = pieces(replacement, &first)?;
        Ok(Self { whole, first, replacement })
    }

    /// Appends the topic of `value`.
    pub(super) fn apply(&self, value: &str, out: &mut String) {
        let captures = self.first.captures(value).filter(|_| self.whole.is_match(value));
        let Some((captures, found)) = captures.and_then(|it| it.get(0).map(|found| (it, found)))
        else {
            out.push_str(value);
            return;
        };
        out.push_str(value.get(..found.start()).unwrap_or_default());
        for piece in &self.replacement {
            out.push_str(piece.text(&captures));
        }
        out.push_str(value.get(found.end()..).unwrap_or_default());
    }
}

impl Piece {
    fn text<'a>(&'a self, captures: &'a Captures<'_>) -> &'a str {
        match self {
            Piece::Text(text) => text,
            // A group that took no part is empty.
            Piece::Group(index) => captures.get(*index).map_or("", |found| found.as_str()),
        }
    }
}

/// `regex` for a value as a whole.
///
/// # Errors
/// What is wrong with it.
pub(super) fn whole(regex: &str) -> Result<Regex, String> {
    let regex = of_ascii(regex);
    // Alone first: what only works between our brackets is none.
    compiled(&regex)?;
    compiled(&format!(r"\A(?:{regex})\z"))
}

fn compiled(regex: &str) -> Result<Regex, String> {
    Regex::new(regex).map_err(|error| told(&error))
}

/// `regex` with `\d`, `\w` and `\s` as Java understands them: they would match Unicode here, and a
/// topic has none of it.
fn of_ascii(regex: &str) -> String {
    let mut out = String::with_capacity(regex.len());
    let mut letters = regex.chars();
    while let Some(letter) = letters.next() {
        if letter != '\\' {
            out.push(letter);
            continue;
        }
        match letters.next() {
            Some('d') => out.push_str("[0-9]"),
            Some('D') => out.push_str("[^0-9]"),
            Some('w') => out.push_str("[0-9A-Za-z_]"),
            Some('W') => out.push_str("[^0-9A-Za-z_]"),
            Some('s') => out.push_str(r"[\x20\t\n\x0B\f\r]"),
            Some('S') => out.push_str(r"[^\x20\t\n\x0B\f\r]"),
            Some(other) => out.extend(['\\', other]),
            None => out.push('\\'),
        }
    }
    out
}

/// The last line of what the parser says; the others draw the expression.
fn told(error: &regex::Error) -> String {
    let text = error.to_string();
    text.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned()
}

fn pieces(replacement: &str, regex: &Regex) -> Result<Vec<Piece>, String> {
    let mut pieces = Vec::new();
    let mut text = String::new();
    let mut rest = replacement.chars().peekable();
    while let Some(letter) = rest.next() {
        match letter {
            '\\' => text.push(rest.next().ok_or("the replacement ends with a \"\\\"")?),
            '$' => {
                let group = match rest.peek() {
                    Some('{') => {
                        rest.next();
                        let mut name = String::new();
                        let is_closed = loop {
                            match rest.next() {
                                Some('}') => break true,
                                Some(letter) => name.push(letter),
                                None => break false,
                            }
                        };
                        let names = regex.capture_names();
                        let found = names.flatten().any(|known| known == name);
                        if !is_closed || !found {
                            return Err(format!("the replacement names no group of it: {name:?}"));
                        }
                        regex.capture_names().position(|known| known == Some(&name)).unwrap_or(0)
                    }
                    _ => numbered(&mut rest, regex.captures_len())?,
                };
                if !text.is_empty() {
                    pieces.push(Piece::Text(std::mem::take(&mut text)));
                }
                pieces.push(Piece::Group(group));
            }
            letter => text.push(letter),
        }
    }
    if !text.is_empty() {
        pieces.push(Piece::Text(text));
    }
    Ok(pieces)
}

/// The number of a group: as many digits as there are groups for, at least one.
fn numbered(
    rest: &mut std::iter::Peekable<std::str::Chars<'_>>,
    groups: usize,
) -> Result<usize, String> {
    let mut group: Option<usize> = None;
    while let Some(digit) = rest.peek().and_then(|letter| letter.to_digit(10)) {
        let longer = group.unwrap_or(0) * 10 + digit as usize;
        if group.is_some() && longer >= groups {
            break;
        }
        group = Some(longer);
        rest.next();
    }
    match group {
        Some(group) if group < groups => Ok(group),
        Some(group) => Err(format!("the replacement names no group of it: {group}")),
        None => Err("a \"$\" in the replacement without a group; \"\\$\" is the sign".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(regex: &str, replacement: &str, value: &str) -> String {
        let mut out = String::new();
        Pattern::new(regex, replacement).unwrap().apply(value, &mut out);
        out
    }

    #[test]
    fn the_whole_value_has_to_match() {
        let default = "(?<routedByValue>.*)";
        assert_eq!(topic(default, "outbox.event.${routedByValue}", "Order"), "outbox.event.Order");
        assert_eq!(topic("ord", "x", "order"), "order", "no match: the value itself");
        assert_eq!(topic(r"(\w+)-(\d+)", "$2.$1", "order-17"), "17.order");
        assert_eq!(topic("a|ab", "x", "ab"), "xb", "the first match is what is replaced");
        assert_eq!(topic("(a)?b", "<$1>", "b"), "<>", "a group that took no part");
    }

    #[test]
    fn classes_are_those_of_ascii() {
        assert_eq!(of_ascii(r"\d+[\w.]\\d\."), r"[0-9]+[[0-9A-Za-z_].]\\d\.");
        let regex = r"([\w-]+)\d\S";
        assert_eq!(topic(regex, "x", "a-b1x"), "x");
        // Letters, digits and spaces of other alphabets are none to Java.
        assert_eq!(topic(regex, "x", "ü1x"), "ü1x");
        assert_eq!(topic(r"a\d", "x", "a٣"), "a٣");
        assert_eq!(topic(r"a\s", "x", "a\u{a0}"), "a\u{a0}");
        assert_eq!(topic(r"(?x) a [\s.]", "x", "a "), "x");
        assert_eq!(topic(r"a[^\d]\W\D", "x", "a٣٣٣"), "x");
        assert_eq!(topic(r"\p{Alphabetic}\p{Nd}", "x", "ü٣"), "x", "who asks for Unicode has it");
        assert!(whole(r"\w+").unwrap().is_match("orders") && !whole(r"\w+").unwrap().is_match("ü"));
    }

    #[test]
    fn groups_are_written_as_in_java() {
        assert_eq!(topic("(.)(.)", "$21", "ab"), "b1", "there is no group 21");
        assert_eq!(topic("(.*)", r"\$1\\$1", "a"), r"$1\a");
        assert_eq!(topic("(.*)", "$0!", "a"), "a!");
        for (regex, replacement) in
            [("(.*)", "$2"), ("(.*)", "${name}"), ("(.*)", "$x"), ("(.*)", "a\\"), ("(.*)", "${a")]
        {
            let problem = Pattern::new(regex, replacement).unwrap_err();
            assert!(problem.contains("replacement"), "{problem}");
        }
        assert_eq!(Pattern::new("(", "").unwrap_err(), "unclosed group");
        assert_eq!(whole("a)(b").unwrap_err(), "unopened group");
    }
}
