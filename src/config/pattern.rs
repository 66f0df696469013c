//! Regular expressions as Python's `re.match` means them: from the beginning, with look-around and back-references.

use std::fmt;

/// A pattern that fits from the beginning of a text.
#[derive(Clone)]
pub struct Pattern {
    source: String,
    regex: fancy_regex::Regex,
}

impl Pattern {
    /// Reads one; the error is a sentence.
    pub fn new(source: &str) -> Result<Self, String> {
        // Python's sign for the very end has another letter here.
        let regex = format!(r"\A(?:{})", source.replace(r"\Z", r"\z"));
        match fancy_regex::Regex::new(&regex) {
            Ok(regex) => Ok(Self { source: source.to_owned(), regex }),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Whether it fits. A pattern that backtracks beyond all bounds on a text does not.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        self.regex.is_match(text).unwrap_or(false)
    }

    /// The same for what is to keep out: a pattern that backtracks beyond all bounds fits.
    #[must_use]
    pub fn matches_or_gives_up(&self, text: &str) -> bool {
        self.regex.is_match(text).unwrap_or(true)
    }

    /// As it was written.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pattern({:?})", self.source)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn it_fits_from_the_beginning() {
        let pattern = Pattern::new("@irc_|@bot").unwrap();
        assert!(pattern.matches("@irc_x:a") && pattern.matches("@bot:a"));
        assert!(!pattern.matches("x@irc_") && !pattern.matches("x@bot"));
        assert!(Pattern::new(r"@a\Z").unwrap().matches("@a") && !Pattern::new(r"@a\Z").unwrap().matches("@ab"));
    }

    #[test]
    fn look_around_is_possible_and_rubbish_is_not() {
        let pattern = Pattern::new("@(?!bot)[a-z]+:").unwrap();
        assert!(pattern.matches("@irc:a") && !pattern.matches("@bot:a"));
        assert!(Pattern::new("(").is_err());
    }

    #[test]
    fn endless_backtracking_ends() {
        let pattern = Pattern::new("(a|b|ab)*(?=c)").unwrap();
        let text = "ab".repeat(60);
        assert!(!pattern.matches(&text) && pattern.matches_or_gives_up(&text));
    }
}
