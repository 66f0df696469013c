//! Log files as people have them.

#![allow(clippy::unwrap_used)]

use super::*;

fn read(text: &str) -> Result<(LogConfig, Vec<Notice>), Mistakes> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log.config");
    fs::write(&path, text).unwrap();
    LogConfig::read(&path)
}

/// The file that Synapse's container image writes: a buffer in front of a file, and the console.
const OF_SYNAPSE: &str = r"
version: 1
formatters:
  precise:
    format: '%(asctime)s - %(name)s - %(lineno)d - %(levelname)s - %(request)s - %(message)s'
filters:
  context: {(): synapse.util.logcontext.LoggingContextFilter}
handlers:
  file:
    class: logging.handlers.TimedRotatingFileHandler
    formatter: precise
    filename: /data/homeserver.log
    when: midnight
    backupCount: 3
    encoding: utf8
  buffer:
    class: synapse.logging.handlers.PeriodicallyFlushingMemoryHandler
    target: file
    capacity: 10
    flushLevel: 30
    period: 5
  console:
    class: logging.StreamHandler
    formatter: precise
    level: WARNING
loggers:
  synapse.storage.SQL: {level: INFO}
  shared_secret_authenticator: {level: 20}
root:
  level: INFO
  handlers: [console, buffer]
disable_existing_loggers: false
";

#[test]
fn a_file_of_synapse() {
    let (log, notices) = read(OF_SYNAPSE).unwrap();
    assert_eq!(notices, []);
    assert_eq!(log.root, Level::Info);
    let loggers: Vec<_> = log.loggers.iter().map(|l| (l.name.as_str(), l.level, l.propagate)).collect();
    let info = Some(Level::Info);
    assert_eq!(loggers, [("synapse.storage.SQL", info, true), ("shared_secret_authenticator", info, true)]);
    assert_eq!(log.root_handlers, [0, 1]);
    let [console, file] = &log.handlers[..] else { unreachable!("{:?}", log.handlers) };
    assert_eq!((&console.target, console.level), (&LogTarget::Stderr, Level::Warning));
    let path = PathBuf::from("/data/homeserver.log");
    let rotation = Rotation::Timed { when: When::Midnight, interval: 1, keep: 3, utc: false };
    assert_eq!(file.target, LogTarget::File { path, rotation });
    assert_eq!(file.format, text(DEFAULT_FORMAT));
}

#[test]
fn json_stdout_sizes_and_syslog() {
    let text = "
version: 1
formatters:
  json: {class: synapse.logging.JsonFormatter}
  terse: {class: synapse.logging.TerseJsonFormatter}
handlers:
  out: {class: logging.StreamHandler, stream: 'ext://sys.stdout', formatter: json}
  file: {class: logging.handlers.RotatingFileHandler, filename: a.log, maxBytes: 1000, backupCount: 2, formatter: terse}
  sys: {class: logging.handlers.SysLogHandler, address: [127.0.0.1, 1514], facility: local3}
root: {level: DEBUG, handlers: [out, file, sys]}
";
    let (log, _) = read(text).unwrap();
    assert_eq!(log.handlers[0].target, LogTarget::Stdout);
    assert_eq!(log.handlers[0].format, LogFormat::Json { terse: false });
    let rotation = Rotation::Size { bytes: 1000, keep: 2 };
    assert_eq!(log.handlers[1].target, LogTarget::File { path: "a.log".into(), rotation });
    assert_eq!(log.handlers[1].format, LogFormat::Json { terse: true });
    assert_eq!(log.handlers[2].target, LogTarget::Syslog { address: "127.0.0.1:1514".to_owned(), facility: 19 });
}

#[test]
fn loggers_with_handlers_of_their_own() {
    let (log, notices) = read(
        "version: 1
formatters: {short: {format: '%(message)s', datefmt: '%H:%M'}}
filters: {mine: {(): a.b.C}}
handlers:
  a: {class: logging.StreamHandler}
  b: {class: logging.handlers.TimedRotatingFileHandler, filename: b.log, when: W6, interval: 2, utc: true, formatter: short}
loggers:
  twisted: {handlers: [b], propagate: false}
  synapse: {level: DEBUG}
root: {level: WARNING, handlers: [a]}
",
    )
    .unwrap();
    assert_eq!((&log.root_handlers, &log.loggers[0].handlers), (&vec![0], &vec![1]));
    assert!(!log.loggers[0].propagate && log.loggers[0].level.is_none() && log.loggers[1].propagate);
    let rotation = Rotation::Timed { when: When::Weekday(6), interval: 2, keep: 0, utc: true };
    assert_eq!(log.handlers[1].target, LogTarget::File { path: "b.log".into(), rotation });
    let date = Some("%H:%M".to_owned());
    assert_eq!(log.handlers[1].format, LogFormat::Text { template: "%(message)s".to_owned(), date });
    assert!(matches!(&notices[..], [one] if one.text.contains("filters.mine")), "{notices:?}");
    for wrong in ["when: W7", "when: often"] {
        let text = format!(
            "version: 1\nhandlers: {{f: {{class: logging.handlers.TimedRotatingFileHandler, filename: x, {wrong}}}}}\nroot: {{handlers: [f]}}\n"
        );
        assert_eq!(read(&text).unwrap_err().0[0].key, "handlers.f.when");
    }
}

#[test]
fn an_unknown_handler_writes_to_stderr_and_says_so() {
    let (log, notices) = read(
        "version: 1\nhandlers:\n  r: {class: synapse.logging.RemoteHandler, host: h, port: 1}\nroot: {handlers: [r]}\n",
    )
    .unwrap();
    assert_eq!(log.handlers[0].target, LogTarget::Stderr);
    assert!(notices[0].text.contains("stderr"), "{notices:?}");
    assert_eq!(notices[0].place.as_ref().unwrap().line, 3);
}

#[test]
fn without_a_file_it_is_info_to_stderr() {
    let log = LogConfig::default();
    assert_eq!((log.root, &log.handlers[0].target), (Level::Info, &LogTarget::Stderr));
}

#[test]
fn all_mistakes_at_once() {
    let mistakes =
        read("version: 2\nhandlers:\n  f: {class: logging.FileHandler}\nloggers:\n  x: {level: LOUD}\nroot: {level: INFO, handlers: [f, g]}\n")
            .unwrap_err();
    let keys: Vec<_> = mistakes.0.iter().map(|mistake| mistake.key.as_str()).collect();
    assert_eq!(keys, ["version", "handlers.f.filename", "root.handlers", "loggers.x.level"]);
    assert_eq!(mistakes.0[3].place.as_ref().unwrap().line, 5);
}

#[test]
fn a_missing_file_is_one_sentence() {
    let mistakes = LogConfig::read(Path::new("/nonexistent/log.config")).unwrap_err();
    assert!(mistakes.to_string().contains("/nonexistent/log.config, which cannot be read"), "{mistakes}");
}
