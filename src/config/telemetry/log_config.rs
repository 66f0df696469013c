//! The log file in the form of Python's `logging.config.dictConfig`, as far as it can be meant here: which handlers
//! there are, in which form they write, and from which level on whom they hear.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    env::Env,
    mistakes::{Mistake, Mistakes, Notice, NoticeSort},
    read::{At, Cx},
    units,
    yaml::{self, Node},
};

/// What is logged whither.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// The level of all that has none of its own.
    pub root: Level,
    /// Where lines go that no logger keeps to itself, as places in [`Self::handlers`].
    pub root_handlers: Vec<usize>,
    /// What single parts do otherwise; the server maps the names to its own modules.
    pub loggers: Vec<Logger>,
    /// All handlers that somebody uses; never empty.
    pub handlers: Vec<LogHandler>,
}

/// A part of the server that logs otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logger {
    /// Python's name, as `synapse.storage.SQL`.
    pub name: String,
    /// Its level; none means that of the next above.
    pub level: Option<Level>,
    /// Where its lines go besides, as places in [`LogConfig::handlers`].
    pub handlers: Vec<usize>,
    /// Whether its lines go to the handlers above as well.
    pub propagate: bool,
}

/// The levels of Python's logging.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Everything.
    Debug,
    /// What happens.
    Info,
    /// What is odd.
    Warning,
    /// What went wrong.
    Error,
    /// What ends the server.
    Critical,
}

const LEVELS: &[(&str, Level)] = &[
    ("DEBUG", Level::Debug),
    ("INFO", Level::Info),
    ("WARNING", Level::Warning),
    ("WARN", Level::Warning),
    ("ERROR", Level::Error),
    ("CRITICAL", Level::Critical),
    ("FATAL", Level::Critical),
    ("NOTSET", Level::Debug),
];

/// Where lines go, and how they look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogHandler {
    /// Its name in the file.
    pub name: String,
    /// Where lines go.
    pub target: LogTarget,
    /// How they look.
    pub format: LogFormat,
    /// Only lines of this level and above.
    pub level: Level,
}

/// Where lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogTarget {
    /// Standard error.
    Stderr,
    /// Standard output.
    Stdout,
    /// A file, opened again when somebody has moved it away.
    File {
        /// Its path.
        path: PathBuf,
        /// When a new one is begun.
        rotation: Rotation,
    },
    /// The system's log.
    Syslog {
        /// Its socket's path, or `host:port` of UDP.
        address: String,
        /// The facility's number; 1 is `user`.
        facility: u8,
    },
}

/// When a new log file is begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rotation {
    /// Never by us.
    Never,
    /// After a time.
    Timed {
        /// Which time.
        when: When,
        /// So many of them; at least 1.
        interval: u32,
        /// How many old files are kept, 0 for all.
        keep: u32,
        /// Midnight is that of UTC.
        utc: bool,
    },
    /// At a size.
    Size {
        /// The size, bytes.
        bytes: u64,
        /// How many old files are kept; with 0 the file grows on.
        keep: u32,
    },
}

/// The times of Python's `TimedRotatingFileHandler`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// `S`
    Second,
    /// `M`
    Minute,
    /// `H`
    Hour,
    /// `D`: a day after the file was begun.
    Day,
    /// `midnight`
    Midnight,
    /// `W0` (Monday) to `W6`: at the end of that day.
    Weekday(u8),
}

/// How lines look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Text.
    Text {
        /// Python's template, `%(asctime)s - %(name)s - %(levelname)s - %(message)s`.
        template: String,
        /// How `asctime` looks, in the words of `strftime`; with milliseconds if absent.
        date: Option<String>,
    },
    /// One JSON object a line.
    Json {
        /// `TerseJsonFormatter`: with the time, as seconds since 1970.
        terse: bool,
    },
}

const DEFAULT_FORMAT: &str = "%(asctime)s - %(name)s - %(lineno)d - %(levelname)s - %(request)s - %(message)s";

impl Default for LogConfig {
    /// INFO to stderr.
    fn default() -> Self {
        let handlers = vec![LogHandler::stderr("console")];
        Self { root: Level::Info, root_handlers: vec![0], loggers: Vec::new(), handlers }
    }
}

impl LogHandler {
    fn stderr(name: &str) -> Self {
        let format = text(DEFAULT_FORMAT);
        Self { name: name.to_owned(), target: LogTarget::Stderr, format, level: Level::Debug }
    }
}

impl LogConfig {
    /// Reads a file; all mistakes at once, and what is not taken over as notices.
    pub fn read(path: &Path) -> Result<(Self, Vec<Notice>), Mistakes> {
        let file: Arc<Path> = path.into();
        let text = fs::read_to_string(path).map_err(|error| {
            Mistake::new("log_config", format!("names {}, which cannot be read: {error}", path.display()))
        })?;
        let Some(node) = yaml::parse(&text, &file)? else {
            return Err(Mistake::new("log_config", format!("names {}, which is empty", path.display())).into());
        };
        Self::of(&node)
    }

    fn of(node: &Node) -> Result<(Self, Vec<Notice>), Mistakes> {
        let cx = Cx::new(Env::default(), PathBuf::new());
        let this = Self::of_tree(&At::root(&cx, node));
        match cx.finish() {
            (mistakes, notices) if mistakes.is_empty() => Ok((this, notices)),
            (mistakes, _) => Err(Mistakes(mistakes)),
        }
    }

    fn of_tree(top: &At<'_>) -> Self {
        let version = top.get("version");
        if version.node().is_none_or(|node| units::int(node) != Some(1)) {
            version.wrong("must be 1", "write version: 1");
        }
        let mut handlers: Vec<LogHandler> = Vec::new();
        let root = top.get("root");
        let mut root_handlers = used(top, &root.get("handlers"), &mut handlers);
        let logger = |(name, at): (String, At<'_>)| Logger {
            name,
            level: level(&at.get("level")),
            handlers: used(top, &at.get("handlers"), &mut handlers),
            propagate: at.get("propagate").node().and_then(units::bool).unwrap_or(true),
        };
        let loggers = top.get("loggers").entries().into_iter().map(logger).collect();
        if root_handlers.is_empty() && !root.get("handlers").is_set() {
            root_handlers.push(handlers.len());
            handlers.push(LogHandler::stderr("console"));
        }
        for (name, at) in top.get("filters").entries() {
            let class = at.get("()").opt_str().or_else(|| at.get("class").opt_str()).unwrap_or_default();
            // It adds the request to each line, which is done anyway.
            if !class.ends_with("LoggingContextFilter") {
                at.notice(NoticeSort::Other, format!("filters.{name} is Python code, which cannot run here."));
            }
        }
        Self { root: level(&root.get("level")).unwrap_or(Level::Warning), root_handlers, loggers, handlers }
    }
}

/// The handlers of these names, each once; as places in `all`.
fn used(top: &At<'_>, names: &At<'_>, all: &mut Vec<LogHandler>) -> Vec<usize> {
    let mut places = Vec::new();
    for name in names.strings() {
        let Some(handler) = handler(top, names, &name, 0) else { continue };
        let place = all.iter().position(|other| other.name == handler.name).unwrap_or_else(|| {
            all.push(handler);
            all.len() - 1
        });
        if !places.contains(&place) {
            places.push(place);
        }
    }
    places
}

fn text(template: &str) -> LogFormat {
    LogFormat::Text { template: template.to_owned(), date: None }
}

/// A level by name or by Python's number.
fn level(at: &At<'_>) -> Option<Level> {
    let node = at.node()?;
    match units::int(node) {
        Some(..=19) => Some(Level::Debug),
        Some(20..=29) => Some(Level::Info),
        Some(30..=39) => Some(Level::Warning),
        Some(40..=49) => Some(Level::Error),
        Some(50..) => Some(Level::Critical),
        None => at.word(LEVELS),
    }
}

/// The handler of that name, or the one that it buffers for.
fn handler(top: &At<'_>, named_by: &At<'_>, name: &str, depth: u8) -> Option<LogHandler> {
    let at = top.get("handlers").entries().into_iter().find(|(key, _)| key == name).map(|(_, at)| at);
    let Some(at) = at else {
        named_by.wrong(format!("names {name:?}, which is not under handlers"), "add it there, or take the name away");
        return None;
    };
    let class = at.get("class").opt_str().unwrap_or_default();
    let simple = class.rsplit('.').next().unwrap_or_default();
    let keep = at.get("backupCount").opt_int().unwrap_or(0);
    let target = match simple {
        "MemoryHandler" | "PeriodicallyFlushingMemoryHandler" => {
            // A buffer in front of another handler; lines are written at once here.
            if depth > 8 {
                at.get("target").wrong("goes round in a circle", "");
                return None;
            }
            let target = at.get("target");
            if !target.is_set() {
                target.wrong("must be set", "name the handler that it buffers for");
                return None;
            }
            return handler(top, &target, &target.str(), depth + 1);
        }
        "StreamHandler" => match at.get("stream").opt_str().as_deref() {
            Some("ext://sys.stdout") => LogTarget::Stdout,
            None | Some("ext://sys.stderr") => LogTarget::Stderr,
            Some(_) => {
                at.get("stream").wrong("is no stream", "write ext://sys.stdout or ext://sys.stderr");
                return None;
            }
        },
        "FileHandler" | "WatchedFileHandler" => LogTarget::File { path: filename(&at)?, rotation: Rotation::Never },
        "RotatingFileHandler" => {
            let bytes = at.get("maxBytes").opt_int().unwrap_or(0);
            let rotation = if bytes == 0 { Rotation::Never } else { Rotation::Size { bytes, keep } };
            LogTarget::File { path: filename(&at)?, rotation }
        }
        "TimedRotatingFileHandler" => {
            let utc = at.get("utc").node().and_then(units::bool).unwrap_or(false);
            let interval = at.get("interval").opt_int().unwrap_or(1).max(1);
            let rotation = Rotation::Timed { when: when(&at.get("when"))?, interval, keep, utc };
            LogTarget::File { path: filename(&at)?, rotation }
        }
        "SysLogHandler" => {
            LogTarget::Syslog { address: syslog_address(&at.get("address")), facility: facility(&at.get("facility")) }
        }
        "NullHandler" => return None,
        _ => {
            let text = format!("{}: {class:?} is not known here; its lines go to stderr.", at.path());
            at.notice(NoticeSort::Other, text);
            LogTarget::Stderr
        }
    };
    Some(LogHandler {
        name: name.to_owned(),
        target,
        format: format(top, &at),
        level: level(&at.get("level")).unwrap_or(Level::Debug),
    })
}

fn filename(at: &At<'_>) -> Option<PathBuf> {
    let at = at.get("filename");
    if !at.is_set() {
        at.wrong("must be set", "name the log file");
    }
    at.opt_path()
}

fn syslog_address(at: &At<'_>) -> String {
    match at.node().map(|node| &node.value) {
        Some(yaml::Value::List(_)) => at.strings().join(":"),
        Some(_) => at.str(),
        None => "localhost:514".to_owned(),
    }
}

/// When a timed file is begun anew; Python's default is every hour.
fn when(at: &At<'_>) -> Option<When> {
    let word = at.opt_str().unwrap_or_else(|| "h".to_owned()).to_lowercase();
    Some(match word.as_str() {
        "s" => When::Second,
        "m" => When::Minute,
        "h" => When::Hour,
        "d" => When::Day,
        "midnight" => When::Midnight,
        _ => {
            let day = word.strip_prefix('w').and_then(|day| day.parse().ok()).filter(|day| *day < 7);
            let Some(day) = day else {
                at.wrong("is no time", "write S, M, H, D, midnight, or W0 (Monday) to W6");
                return None;
            };
            When::Weekday(day)
        }
    })
}

/// A facility by name or number.
fn facility(at: &At<'_>) -> u8 {
    const NAMES: [&str; 12] =
        ["kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp"];
    let Some(node) = at.node() else { return 1 };
    if let Some(number) = units::int(node).and_then(|n| u8::try_from(n).ok()).filter(|n| *n < 24) {
        return number;
    }
    let word = at.str().to_lowercase();
    let word = word.trim_start_matches("log_");
    let local = word.strip_prefix("local").and_then(|n| n.parse::<u8>().ok()).filter(|n| *n < 8).map(|n| n + 16);
    let named = NAMES.iter().position(|name| *name == word).and_then(|n| u8::try_from(n).ok());
    local.or(named).unwrap_or_else(|| {
        at.wrong("is no facility", "write user, daemon or local0 to local7");
        1
    })
}

fn format(top: &At<'_>, handler: &At<'_>) -> LogFormat {
    let by_default = || text("%(message)s");
    let Some(name) = handler.get("formatter").opt_str() else { return by_default() };
    let found = top.get("formatters").entries().into_iter().find(|(key, _)| *key == name);
    let Some((_, at)) = found else {
        handler.get("formatter").wrong("is not under formatters", "");
        return by_default();
    };
    let class = at.get("class").opt_str().or_else(|| at.get("()").opt_str()).unwrap_or_default();
    match class.rsplit('.').next().unwrap_or_default() {
        "TerseJsonFormatter" => LogFormat::Json { terse: true },
        "JsonFormatter" => LogFormat::Json { terse: false },
        _ => {
            if at.get("style").opt_str().is_some_and(|style| style != "%") {
                at.get("style").wrong("is not understood here", "write the format in the % style");
            }
            let template = at.get("format").opt_str().unwrap_or_else(|| "%(message)s".to_owned());
            LogFormat::Text { template, date: at.get("datefmt").opt_str() }
        }
    }
}

#[cfg(test)]
mod tests;
