//! What is wrong with a configuration, and what is only worth a word: each with key, place, value and the way out.

use std::{fmt, path::Path, sync::Arc};

/// A line of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file, as it was named.
    pub file: Arc<Path>,
    /// The line, counted from 1.
    pub line: u32,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.line)
    }
}

/// One reason not to start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// The option, as `listeners[0].port`; empty when the file as a whole is meant.
    pub key: String,
    /// Where it stands; when the option is absent, where what it belongs to does, if that is anywhere.
    pub place: Option<Place>,
    /// What it is set to, shortened; secrets are not shown.
    pub value: Option<String>,
    /// What is wrong, as the rest of a sentence that begins with the option.
    pub fault: String,
    /// What to do about it.
    pub way_out: String,
}

impl Mistake {
    pub(crate) fn new(key: impl Into<String>, fault: impl Into<String>) -> Self {
        Self { key: key.into(), place: None, value: None, fault: fault.into(), way_out: String::new() }
    }

    pub(crate) fn at(mut self, place: Place) -> Self {
        self.place = Some(place);
        self
    }

    pub(crate) fn value(mut self, value: impl Into<String>) -> Self {
        self.value = Some(value.into());
        self
    }

    pub(crate) fn way_out(mut self, way_out: impl Into<String>) -> Self {
        self.way_out = way_out.into();
        self
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            write!(f, "{place}: ")?;
        }
        if !self.key.is_empty() {
            write!(f, "{} ", self.key)?;
        }
        if let Some(value) = &self.value {
            write!(f, "(now: {value}) ")?;
        }
        write!(f, "{}", self.fault)?;
        if !self.way_out.is_empty() {
            write!(f, "; {}", self.way_out)?;
        }
        Ok(())
    }
}

/// Everything that is wrong, by file and line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistakes(pub Vec<Mistake>);

impl fmt::Display for Mistakes {
    /// One mistake a line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, mistake) in self.0.iter().enumerate() {
            let newline = if i == 0 { "" } else { "\n" };
            write!(f, "{newline}{mistake}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Mistakes {}

impl From<Mistake> for Mistakes {
    fn from(mistake: Mistake) -> Self {
        Self(vec![mistake])
    }
}

/// What whoever uses a configuration sees of it: pairs of key path and sentence.
#[derive(Clone, Debug, Default)]
pub struct Examined {
    /// Reasons not to start.
    pub mistakes: Vec<crate::edge::Mistake>,
    /// What is told, and keeps nothing from starting.
    pub warnings: Vec<crate::edge::Mistake>,
}

/// What is worth a line in the log at start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// The option; empty when a file as a whole is meant.
    pub key: String,
    /// Where it stands.
    pub place: Option<Place>,
    /// Of which sort it is.
    pub sort: NoticeSort,
    /// The whole sentence.
    pub text: String,
}

/// The sorts of notices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoticeSort {
    /// The option is read and checked, and has no effect here.
    NoEffect,
    /// The option is known, set to something of its own, and not acted upon yet.
    NotYet,
    /// Nobody knows the option; perhaps a slip of the pen.
    Unknown,
    /// What the option names will not do as it is; the server starts all the same.
    Warning,
    /// Anything else: a skipped file, a value that was replaced.
    Other,
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            write!(f, "{place}: ")?;
        }
        f.write_str(&self.text)
    }
}
