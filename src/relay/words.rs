//! The few words that many events share, kept once.

use std::collections::HashMap;

/// A table of words. The empty word is 0.
#[derive(Debug, Default)]
pub(super) struct Words {
    words: Vec<Box<str>>,
    numbers: HashMap<Box<str>, u32>,
    /// The last one asked for: mostly it is the next one too.
    last: u32,
}

/// With more than this they are hardly a few: the rest is not kept.
const MOST: usize = 10_000;

impl Words {
    /// The number of a word.
    pub(super) fn number(&mut self, word: Option<&str>) -> u32 {
        let Some(word) = word.filter(|word| !word.is_empty()) else {
            return 0;
        };
        if self.word(self.last) == Some(word) {
            return self.last;
        }
        if let Some(number) = self.numbers.get(word) {
            self.last = *number;
            return *number;
        }
        if self.words.len() >= MOST {
            return 0;
        }
        self.words.push(word.into());
        let number = u32::try_from(self.words.len()).unwrap_or(0);
        self.numbers.insert(word.into(), number);
        self.last = number;
        number
    }

    /// The word of a number.
    pub(super) fn word(&self, number: u32) -> Option<&str> {
        let place = (number as usize).checked_sub(1)?;
        self.words.get(place).map(AsRef::as_ref)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_has_one_number() {
        let mut words = Words::default();
        let a = words.number(Some("a"));
        let b = words.number(Some("b"));
        assert_eq!((words.number(Some("a")), words.number(Some("b"))), (a, b));
        assert_eq!((words.word(a), words.word(b)), (Some("a"), Some("b")));
        assert_eq!((words.number(None), words.word(0)), (0, None));
    }
}
