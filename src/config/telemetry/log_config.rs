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
    /// Levels by Python logger, as `synapse.storage.SQL`; the server maps them to its own modules.
    pub loggers: Vec<(String, Level)>,
    /// Where lines go; never empty.
    pub handlers: Vec<LogHandler>,
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
    /// The system's log, by its socket or `host:port`.
    Syslog(String),
}

/// When a new log file is begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rotation {
    /// Never by us.
    Never,
    /// At midnight; so many old ones are kept, 0 for all.
    Daily {
        /// How many old files are kept.
        keep: u32,
    },
    /// At a size; so many old ones are kept.
    Size {
        /// The size, bytes.
        bytes: u64,
        /// How many old files are kept.
        keep: u32,
    },
}

/// How lines look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Text; the template is Python's, `%(asctime)s - %(name)s - %(levelname)s - %(message)s`.
    Text(String),
    /// One JSON object a line; `terse` leaves the time's words out and names fewer fields.
    Json {
        /// `TerseJsonFormatter`.
        terse: bool,
    },
}

const DEFAULT_FORMAT: &str = "%(asctime)s - %(name)s - %(lineno)d - %(levelname)s - %(request)s - %(message)s";

impl Default for LogConfig {
    /// INFO to stderr.
    fn default() -> Self {
        Self { root: Level::Info, loggers: Vec::new(), handlers: vec![LogHandler::stderr("console")] }
    }
}

impl LogHandler {
    fn stderr(name: &str) -> Self {
        let format = LogFormat::Text(DEFAULT_FORMAT.to_owned());
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
        let root = top.get("root");
        let names = root.get("handlers").strings();
        let mut handlers: Vec<LogHandler> = Vec::new();
        for name in names {
            match handler(top, &name, 0) {
                Some(handler) if !handlers.iter().any(|other| other.name == handler.name) => handlers.push(handler),
                _ => {}
            }
        }
        if handlers.is_empty() {
            handlers.push(LogHandler::stderr("console"));
        }
        let level_of = |(name, at): (String, At<'_>)| Some((name, level(&at.get("level"))?));
        let loggers = top.get("loggers").entries().into_iter().filter_map(level_of).collect();
        Self { root: level(&root.get("level")).unwrap_or(Level::Warning), loggers, handlers }
    }
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
fn handler(top: &At<'_>, name: &str, depth: u8) -> Option<LogHandler> {
    let at = top.get("handlers").entries().into_iter().find(|(key, _)| key == name).map(|(_, at)| at);
    let Some(at) = at else {
        top.get("root.handlers").wrong(format!("names {name:?}, which is not under handlers"), "");
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
            return handler(top, &target.str(), depth + 1);
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
            let when = at.get("when").opt_str().unwrap_or_else(|| "h".to_owned());
            if !matches!(when.to_lowercase().as_str(), "midnight" | "d") {
                let text = format!("{} is {when:?}; the log is rotated at midnight.", at.get("when").path());
                at.notice(NoticeSort::Other, text);
            }
            LogTarget::File { path: filename(&at)?, rotation: Rotation::Daily { keep } }
        }
        "SysLogHandler" => LogTarget::Syslog(syslog_address(&at.get("address"))),
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

fn format(top: &At<'_>, handler: &At<'_>) -> LogFormat {
    let by_default = || LogFormat::Text("%(message)s".to_owned());
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
        _ => LogFormat::Text(at.get("format").opt_str().unwrap_or_else(|| "%(message)s".to_owned())),
    }
}

#[cfg(test)]
mod tests;
