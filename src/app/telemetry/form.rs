//! How a record becomes a line: by a template of Python's logging, or as JSON in the fields of Synapse's formatters.

use std::fmt::Write as _;

use chrono::{
    DateTime, Local,
    format::{Item, StrftimeItems},
};
use hearth_config::telemetry::LogFormat;
use serde_json::{Map, Value, json};
use tracing::Level;

/// Something to be logged.
#[derive(Debug)]
pub(super) struct Record<'a> {
    pub time: DateTime<Local>,
    pub level: Level,
    pub target: &'a str,
    pub file: &'a str,
    pub line: u32,
    pub message: String,
    /// What else was said, in order.
    pub fields: Vec<(String, Value)>,
    /// In the course of what.
    pub request: String,
}

/// A form, ready to be used.
#[derive(Debug)]
pub(super) enum Form {
    Text { pieces: Vec<Piece>, date: Option<String> },
    Json { terse: bool },
}

/// A piece of a template.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece {
    Words(String),
    Field { name: String, left: bool, width: usize, most: Option<usize> },
}

impl Form {
    /// Reads a form.
    pub(super) fn new(format: &LogFormat) -> Self {
        match format {
            LogFormat::Json { terse } => Self::Json { terse: *terse },
            LogFormat::Text { template, date } => {
                // Chrono panics at what it does not know; without a date the usual one stands.
                let good = |date: &&String| !StrftimeItems::new(date).any(|item| item == Item::Error);
                Self::Text { pieces: pieces(template), date: date.as_ref().filter(good).cloned() }
            }
        }
    }

    /// The line, without its end.
    pub(super) fn line(&self, record: &Record<'_>) -> String {
        match self {
            Self::Json { terse } => json_line(record, *terse),
            Self::Text { pieces, date } => {
                let mut line = String::with_capacity(120 + record.message.len());
                for piece in pieces {
                    match piece {
                        Piece::Words(words) => line.push_str(words),
                        Piece::Field { name, left, width, most } => {
                            let value = value(record, name, date.as_deref());
                            let value: String = match most {
                                Some(most) => value.chars().take(*most).collect(),
                                None => value,
                            };
                            let _ = match left {
                                true => write!(line, "{value:<width$}"),
                                false => write!(line, "{value:>width$}"),
                            };
                        }
                    }
                }
                line
            }
        }
    }
}

/// Takes a template apart; what is no field stays as it is.
fn pieces(template: &str) -> Vec<Piece> {
    let (mut out, mut words, mut rest) = (Vec::new(), String::new(), template);
    while let Some(at) = rest.find('%') {
        let (before, from) = rest.split_at(at);
        words.push_str(before);
        if let Some(after) = from.strip_prefix("%%") {
            words.push('%');
            rest = after;
        } else if let Some((field, after)) = field(from) {
            if !words.is_empty() {
                out.push(Piece::Words(std::mem::take(&mut words)));
            }
            out.push(field);
            rest = after;
        } else {
            words.push('%');
            rest = from.get(1..).unwrap_or_default();
        }
    }
    words.push_str(rest);
    if !words.is_empty() {
        out.push(Piece::Words(words));
    }
    out
}

/// `%(name)-8.5s` and what follows it.
fn field(text: &str) -> Option<(Piece, &str)> {
    let (name, rest) = text.strip_prefix("%(")?.split_once(')')?;
    let end = rest.find(|c: char| c.is_ascii_alphabetic())?;
    let (spec, rest) = (rest.get(..end)?, rest.get(end + 1..)?);
    let (width, most) = spec.split_once('.').map_or((spec, None), |(width, most)| (width, most.parse().ok()));
    let left = width.starts_with('-');
    // A width is for columns; nobody means thousands.
    let width = width.trim_start_matches(['-', '+', ' ', '0', '#']).parse().unwrap_or(0).min(200);
    Some((Piece::Field { name: name.to_owned(), left, width, most }, rest))
}

fn value(record: &Record<'_>, name: &str, date: Option<&str>) -> String {
    match name {
        "asctime" => match date {
            Some(date) => record.time.format(date).to_string(),
            None => record.time.format("%Y-%m-%d %H:%M:%S,%3f").to_string(),
        },
        "message" => with_fields(record),
        "name" => record.target.to_owned(),
        "levelname" => level_name(record.level).to_owned(),
        "levelno" => level_number(record.level).to_string(),
        "request" => {
            if record.request.is_empty() {
                "-".to_owned()
            } else {
                one_line(&record.request)
            }
        }
        "lineno" => record.line.to_string(),
        "pathname" => record.file.to_owned(),
        "filename" => record.file.rsplit('/').next().unwrap_or_default().to_owned(),
        "module" | "funcName" => record.target.rsplit("::").next().unwrap_or_default().to_owned(),
        "created" => format!("{:.6}", seconds(record)),
        "msecs" => record.time.timestamp_subsec_millis().to_string(),
        "process" => std::process::id().to_string(),
        "processName" => "hearth".to_owned(),
        "threadName" | "thread" => std::thread::current().name().unwrap_or("-").to_owned(),
        _ => "-".to_owned(),
    }
}

fn needs_quotes(c: char) -> bool {
    c.is_whitespace() || c.is_control() || c == '"'
}

/// The message and, behind it, what else was said.
fn with_fields(record: &Record<'_>) -> String {
    let mut text = one_line(&record.message);
    for (name, value) in &record.fields {
        let _ = match value {
            Value::String(words) if !words.is_empty() && !words.contains(needs_quotes) => {
                write!(text, " {name}={words}")
            }
            // What JSON leaves as it is may still speak to a terminal.
            value => write!(text, " {name}={}", one_line(&value.to_string())),
        };
    }
    text
}

/// What strangers send must not begin a line of its own, nor speak to the terminal.
fn one_line(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            // Our own sentences may have several lines; they are set in.
            '\n' => out.push_str("\n    "),
            c if c.is_control() && c != '\t' => {
                let _ = write!(out, "\\u{{{:x}}}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out
}

fn json_line(record: &Record<'_>, terse: bool) -> String {
    let mut line = Map::new();
    line.insert("log".to_owned(), json!(record.message));
    line.insert("namespace".to_owned(), json!(record.target));
    line.insert("level".to_owned(), json!(level_name(record.level)));
    if terse {
        line.insert("time".to_owned(), json!((seconds(record) * 100.0).round() / 100.0));
    }
    if !record.request.is_empty() {
        line.insert("request".to_owned(), json!(record.request));
    }
    for (name, value) in &record.fields {
        line.entry(name.clone()).or_insert_with(|| value.clone());
    }
    Value::Object(line).to_string()
}

fn seconds(record: &Record<'_>) -> f64 {
    record.time.timestamp_micros() as f64 / 1e6
}

/// Python's words.
fn level_name(level: Level) -> &'static str {
    match level {
        Level::TRACE | Level::DEBUG => "DEBUG",
        Level::INFO => "INFO",
        Level::WARN => "WARNING",
        Level::ERROR => "ERROR",
    }
}

fn level_number(level: Level) -> u8 {
    match level {
        Level::TRACE | Level::DEBUG => 10,
        Level::INFO => 20,
        Level::WARN => 30,
        Level::ERROR => 40,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use chrono::TimeZone as _;

    use super::*;

    fn record() -> Record<'static> {
        Record {
            time: Local.timestamp_millis_opt(1_700_000_000_123).unwrap(),
            level: Level::WARN,
            target: "hearth_store::log",
            file: "src/store/log.rs",
            line: 7,
            message: "a \"word\"".to_owned(),
            fields: vec![
                ("room.id".to_owned(), json!("!r:x")),
                ("n".to_owned(), json!(3)),
                ("why".to_owned(), json!("a b")),
            ],
            request: "task(x)".to_owned(),
        }
    }

    fn text(template: &str, date: Option<&str>) -> String {
        let format = LogFormat::Text { template: template.to_owned(), date: date.map(str::to_owned) };
        Form::new(&format).line(&record())
    }

    #[test]
    fn a_template_of_python() {
        let line = text("%(name)s - %(lineno)d - %(levelname)s - %(request)s - %(message)s", None);
        assert_eq!(line, "hearth_store::log - 7 - WARNING - task(x) - a \"word\" room.id=!r:x n=3 why=\"a b\"");
        assert_eq!(
            text("[%(levelname)-9s|%(lineno)3d|%(name).6s] 100%% %(nothing)s %z", None),
            "[WARNING  |  7|hearth] 100% - %z"
        );
        assert_eq!(text("%(filename)s %(module)s %(levelno)s %(msecs)d", None), "log.rs log 30 123");
        let stamp = text("%(asctime)s", None);
        assert!(stamp.ends_with(",123") && stamp.len() == 23, "{stamp}");
        assert_eq!(text("%(asctime)s", Some("%Y")), "2023");
        assert_eq!(text("%(asctime)s", Some("%!")), stamp, "a date that cannot be is left out");
    }

    #[test]
    fn json_in_the_fields_of_synapse() {
        let read = |terse| serde_json::from_str::<Value>(&Form::Json { terse }.line(&record())).unwrap();
        let line = read(false);
        assert_eq!((&line["log"], &line["namespace"]), (&json!("a \"word\""), &json!("hearth_store::log")));
        assert_eq!((&line["level"], &line["room.id"], &line["n"]), (&json!("WARNING"), &json!("!r:x"), &json!(3)));
        assert!(line["time"].is_null());
        assert_eq!(read(true)["time"], json!(1_700_000_000.12));
    }

    #[test]
    fn a_line_is_a_line() {
        let mut record = record();
        record.message = "a\u{1b}[2J\nb\r".to_owned();
        record.fields = vec![("x".to_owned(), json!("\u{1b}[31m\u{9b}2J"))];
        let form = Form::new(&LogFormat::Text { template: "%(message)s".to_owned(), date: None });
        assert_eq!(form.line(&record), "a\\u{1b}[2J\n    b\\u{d} x=\"\\u001b[31m\\u{9b}2J\"");
    }
}
