//! `log_config`: whither, how, how much, and again on SIGHUP.

use super::*;

fn lines(path: &Path) -> Vec<String> {
    fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}

/// The form of Synapse's own sample: a buffer in front of a file, and a logger with a file to itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_file_of_synapse_is_followed_and_read_again() {
    let home = Home::new();
    let (main, access, other) = (home.path("main.log"), home.path("access.log"), home.path("other.log"));
    let write = |level: &str, main: &Path| {
        fs::write(
            home.path("log.yaml"),
            format!(
                "version: 1
formatters:
  precise: {{format: '%(asctime)s - %(name)s - %(lineno)d - %(levelname)s - %(request)s - %(message)s'}}
  terse: {{class: synapse.logging.TerseJsonFormatter}}
handlers:
  file: {{class: logging.handlers.TimedRotatingFileHandler, formatter: precise, filename: {}, when: midnight, backupCount: 3}}
  buffer: {{class: synapse.logging.handlers.PeriodicallyFlushingMemoryHandler, target: file, capacity: 10, flushLevel: 30, period: 5}}
  access: {{class: logging.handlers.WatchedFileHandler, formatter: terse, filename: {}}}
  console: {{class: logging.StreamHandler, stream: ext://sys.stderr, level: ERROR}}
loggers:
  synapse.storage.SQL: {{level: INFO}}
  synapse.access.http.8008: {{level: INFO}}
  synapse.access: {{level: DEBUG, handlers: [access], propagate: false}}
  ldap3: {{level: DEBUG}}
root: {{level: {level}, handlers: [buffer, console]}}
",
                main.display(),
                access.display()
            ),
        )
        .unwrap();
    };
    write("INFO", &main);
    home.add(&format!("log_config: {}", home.path("log.yaml").display()));
    let mut running = home.serve();
    let http = http();
    http.get(running.url("/_matrix/client/versions?secret=1")).send().await.unwrap();
    let first = lines(&main);
    let listening = first.iter().find(|line| line.contains("listening on")).unwrap();
    says(listening, &[" - hearth::app::lifecycle - ", " - INFO - ", " - listening on 127.0.0.1", "tls=false"]);
    assert!(first.iter().any(|line| line.contains("WARNING") && line.contains("ldap3")), "{first:?}");
    assert!(!first.iter().any(|line| line.contains("DEBUG") || line.contains("answered")), "{first:?}");
    let request = until("an access line", async || lines(&access).first().cloned()).await;
    let request: Value = serde_json::from_str(&request).unwrap();
    assert_eq!((&request["level"], &request["status"]), (&json!("DEBUG"), &json!(200)), "{request}");
    assert_eq!(
        (&request["namespace"], &request["path"]),
        (&json!("hearth_edge::access"), &json!("/_matrix/client/versions"))
    );
    assert!(request["time"].as_f64().unwrap() > 1e9);
    assert_eq!(lines(&home.path("stderr")), Vec::<String>::new(), "the console is told of errors only");

    // Other levels and another file, without a restart.
    write("DEBUG", &other);
    running.signal("HUP");
    until("the log is read again", async || lines(&other).iter().any(|line| line.contains("read again")).then_some(()))
        .await;
    http.get(running.url("/_matrix/client/versions")).send().await.unwrap();
    let before = lines(&main).len();

    // A mistake leaves the old one in force, and says so.
    fs::write(home.path("log.yaml"), "version: 1\nroot: {level: LOUD}\n").unwrap();
    running.signal("HUP");
    until("the mistake is told", async || lines(&other).iter().any(|line| line.contains("root.level")).then_some(()))
        .await;
    assert_eq!(lines(&main).len(), before, "the first file is closed");
    running.signal("TERM");
    assert_eq!(running.ended(), Some(0));
    let told = lines(&other);
    assert!(told.last().unwrap().contains("stopped"));
    let read = told.iter().filter(|line| line.contains("log configuration read again")).count();
    assert_eq!(read, 1, "of the mistake nobody says that it was taken: {told:#?}");
}

/// `synapse.access.http.<port or tag>` are the requests of one listener.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_listener_has_a_logger_of_its_own() {
    let (home, other) = (Home::new(), free());
    let tagged = format!(
        "listeners:\n  - {{ port: {other}, type: http, tag: inner, bind_addresses: [\"127.0.0.1\"], resources: [{{ names: [client] }}] }}\n"
    );
    let log = home.path("log.yaml");
    home.write(&format!("{}log_config: {}\n", home.yaml().replace("listeners:\n", &tagged), log.display()));
    fs::write(
        log,
        "version: 1
handlers: {a: {class: logging.FileHandler, filename: all.log}, i: {class: logging.FileHandler, filename: inner.log}}
loggers:
  synapse.access.http.inner: {level: DEBUG, handlers: [i], propagate: false}
root: {level: INFO, handlers: [a]}
",
    )
    .unwrap();
    let mut running = home.serve();
    let (http, inner, all) = (http(), home.path("inner.log"), home.path("all.log"));
    for port in [home.port, other, home.port, other] {
        http.get(format!("http://127.0.0.1:{port}/_matrix/client/versions")).send().await.unwrap();
    }
    until("both requests", async || (lines(&inner).len() == 2).then_some(())).await;
    running.signal("TERM");
    assert_eq!(running.ended(), Some(0));
    let (inner, all) = (lines(&inner), lines(&all));
    assert_eq!(inner.len(), 2, "{inner:?}");
    assert!(inner.iter().all(|line| line.starts_with("answered listener=inner ")), "{inner:?}");
    assert!(!all.iter().any(|line| line.contains("answered") || line.contains("no part of")), "{all:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_logrotate_moves_is_opened_anew_on_hup() {
    let home = Home::new();
    let (log, moved) = (home.path("a.log"), home.path("a.log.1"));
    fs::write(
        home.path("log.yaml"),
        format!(
            "version: 1\nformatters: {{j: {{class: synapse.logging.JsonFormatter}}}}\n\
             handlers: {{f: {{class: logging.FileHandler, filename: {}, formatter: j}}}}\nroot: {{level: INFO, handlers: [f]}}\n",
            log.display()
        ),
    )
    .unwrap();
    home.add(&format!("log_config: {}", home.path("log.yaml").display()));
    let running = home.serve();
    fs::rename(&log, &moved).unwrap();
    running.signal("HUP");
    let line = until("the new file", async || lines(&log).into_iter().find(|line| line.contains("read again"))).await;
    let line: Value = serde_json::from_str(&line).unwrap();
    assert_eq!((&line["level"], &line["time"]), (&json!("INFO"), &Value::Null));
    assert!(lines(&moved).iter().any(|line| line.contains("listening on")));
}

#[test]
fn a_level_from_the_environment_is_stronger() {
    let home = Home::new();
    let mut command = home.command(&["serve", "-c", home.config().to_str().unwrap()]);
    command.env("HEARTH_LOG", "error,hearth_edge=debug");
    let mut running = Running::start(command, home.dir.path(), home.port);
    running.signal("TERM");
    assert_eq!(running.ended(), Some(0));
    let told = fs::read_to_string(home.path("stderr")).unwrap();
    assert!(!told.contains("hearth::app"), "{told}");
}
