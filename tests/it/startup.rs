//! The program itself, run as an administrator runs it: what it says to what is wrong, that it leaves nothing half done,
//! how it begins, reloads and ends.

use std::{
    fs,
    io::Write as _,
    net::TcpListener,
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

mod commands;
mod disk;
mod first_account;
mod logs;
mod reload;

const BINARY: &str = env!("CARGO_BIN_EXE_hearth");
const SECRET: &str = "the shared secret";
/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A folder with a configuration, to be started.
struct Home {
    dir: tempfile::TempDir,
    port: u16,
}

impl Home {
    fn new() -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let home = Self { dir: tempfile::tempdir().unwrap(), port };
        home.write(&home.yaml());
        home
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn config(&self) -> PathBuf {
        self.path("homeserver.yaml")
    }

    fn yaml(&self) -> String {
        let dir = self.dir.path().display();
        format!(
            "server_name: localhost\nreport_stats: false\nlisteners:\n  - port: {}\n    type: http\n    \
             bind_addresses: [\"127.0.0.1\"]\n    resources: [{{ names: [client, federation] }}]\ndatabase:\n  name: sqlite3\n  \
             args: {{ database: {dir}/homeserver.db }}\nmedia_store_path: {dir}/media\nsigning_key_path: {dir}/signing.key\n\
             registration_shared_secret: {SECRET}\ntrusted_key_servers: []\n",
            self.port
        )
    }

    fn write(&self, yaml: &str) {
        fs::write(self.config(), yaml).unwrap();
    }

    fn add(&self, yaml: &str) {
        self.write(&format!("{}{yaml}\n", self.yaml()));
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(BINARY);
        command.args(args).current_dir(self.dir.path()).stdin(Stdio::null());
        for name in ["SYNAPSE_CONFIG_PATH", "SYNAPSE_CONFIG_DIR", "HEARTH_LOG", "NOTIFY_SOCKET"] {
            command.env_remove(name);
        }
        command
    }

    /// Runs to the end.
    fn run(&self, args: &[&str]) -> Told {
        finish(self.command(args))
    }

    /// Runs `serve`, which has to fail.
    fn fails(&self) -> String {
        let told = self.run(&["serve", "-c", self.config().to_str().unwrap()]);
        assert_ne!(told.code, Some(0), "{told:?}");
        assert!(told.code.is_some(), "killed: {told:?}");
        assert!(!told.stderr.contains("panicked"), "{told:?}");
        assert!(!told.stderr.contains("src/"), "a place in the code is no help: {told:?}");
        told.stderr
    }

    /// Serves until it is ready.
    fn serve(&self) -> Running {
        Running::start(self.command(&["serve", "-c", self.config().to_str().unwrap()]), self.dir.path(), self.port)
    }

    fn is_untouched(&self) {
        for name in ["homeserver.db", "signing.key", "edge", "media"] {
            assert!(!self.path(name).exists(), "{name} was left behind");
        }
    }
}

/// How a run ended.
#[derive(Debug)]
struct Told {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

fn finish(mut command: Command) -> Told {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let id = child.id();
    let (tell, done) = std::sync::mpsc::channel();
    std::thread::spawn(move || tell.send(child.wait_with_output()));
    let Ok(output) = done.recv_timeout(PATIENCE) else {
        signal(id, "KILL");
        panic!("it runs on");
    };
    let Output { status, stdout, stderr } = output.unwrap();
    Told { code: status.code(), stdout: text(stdout), stderr: text(stderr) }
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap()
}

fn signal(id: u32, name: &str) {
    Command::new("kill").args([format!("-{name}"), id.to_string()]).status().unwrap();
}

/// A server that said READY=1.
struct Running {
    child: Child,
    port: u16,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Running {
    fn start(mut command: Command, dir: &Path, port: u16) -> Self {
        let socket = dir.join("notify");
        let _ = fs::remove_file(&socket);
        let notify = UnixDatagram::bind(&socket).unwrap();
        notify.set_read_timeout(Some(PATIENCE)).unwrap();
        let out = fs::File::create(dir.join("stdout")).unwrap();
        let err = fs::File::create(dir.join("stderr")).unwrap();
        let child = command.env("NOTIFY_SOCKET", &socket).stdout(out).stderr(err).spawn().unwrap();
        let running = Self { child, port };
        let mut said = [0; 256];
        let length = notify.recv(&mut said).unwrap_or_else(|e| {
            panic!("not ready ({e}): {}", fs::read_to_string(dir.join("stderr")).unwrap());
        });
        assert!(said[..length].starts_with(b"READY=1"), "{:?}", &said[..length]);
        running
    }

    fn signal(&self, name: &str) {
        signal(self.child.id(), name);
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// The exit code.
    fn ended(&mut self) -> Option<i32> {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(begun.elapsed() < PATIENCE, "it does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

fn free() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn http() -> reqwest::Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().unwrap()
}

/// Asks again until it is so.
async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "never: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[track_caller]
fn says(told: &str, words: &[&str]) {
    for word in words {
        assert!(told.contains(word), "no {word:?} in: {told}");
    }
}

#[test]
fn a_busy_port_leaves_nothing_behind() {
    let home = Home::new();
    let _taken = TcpListener::bind(("127.0.0.1", home.port)).unwrap();
    home.add("edge: { local_ca: true, listen: { http: false, https: false, federation: false } }");
    let told = home.fails();
    says(&told, &[&format!("127.0.0.1:{}", home.port), "in use", "choose another port"]);
    assert_eq!(told.lines().filter(|line| line.starts_with("hearth: ")).count(), 1, "{told}");
    home.is_untouched();
}

#[test]
fn a_first_start_on_a_busy_port_leaves_no_folder() {
    let home = Home::new();
    // Whoever has the port, it is taken.
    let _taken = TcpListener::bind("127.0.0.1:8008");
    let told = home.run(&[]);
    assert_eq!(told.code, Some(1), "{told:?}");
    says(&told.stderr, &["127.0.0.1:8008", "in use"]);
    assert!(!home.path("hearth-data").exists());
}

#[test]
fn what_is_wrong_with_the_configuration_is_told_with_place_and_way_out() {
    let home = Home::new();
    home.add("max_upload_size: plenty\nenable_registration: perhaps\nmodules: [{module: a.b}]");
    let told = home.fails();
    says(&told, &["homeserver.yaml:15: max_upload_size (now: \"plenty\")", "enable_registration", "modules"]);
    home.write("server_name: [\n");
    says(&home.fails(), &["homeserver.yaml:"]);
    for nothing in ["listeners: []\n", "", "just text"] {
        home.write(nothing);
        says(&home.fails(), &["homeserver.yaml:1: server_name must be set"]);
    }
    fs::remove_file(home.config()).unwrap();
    says(&home.fails(), &["homeserver.yaml"]);
    home.is_untouched();
}

#[test]
fn unknown_flags_and_words_are_refused() {
    let home = Home::new();
    for args in [&["--colour"][..], &["sevre"], &["serve", "--port", "1"], &["serve", "-c"]] {
        let told = home.run(args);
        assert_eq!(told.code, Some(2), "{told:?}");
        says(&told.stderr, &["--help"]);
    }
    home.is_untouched();
}

#[test]
fn a_key_that_cannot_be_used_is_named() {
    let home = Home::new();
    fs::write(home.path("signing.key"), "ed25519 a_1 rubbish!\n").unwrap();
    says(&home.fails(), &["signing_key_path", "signing.key"]);
    assert!(!home.path("homeserver.db").exists());
    fs::remove_file(home.path("signing.key")).unwrap();
    fs::create_dir(home.path("signing.key")).unwrap();
    says(&home.fails(), &["signing_key_path", "signing.key", "cannot be read"]);
    fs::remove_dir(home.path("signing.key")).unwrap();
    home.write(&home.yaml().replace("/signing.key", "/nowhere/signing.key"));
    says(&home.fails(), &["signing_key_path", "nowhere/signing.key", "make its directory"]);
    assert!(!home.path("homeserver.db").exists());
}

#[test]
fn a_database_that_may_not_be_used_is_one_sentence() {
    let home = Home::new();
    let Some(cluster) = tokio::runtime::Runtime::new().unwrap().block_on(async {
        let cluster = hearth_test_postgres::Cluster::start_on(free()).await?;
        for statement in [
            "CREATE ROLE guest LOGIN PASSWORD 'hush'",
            "CREATE DATABASE theirs",
            "CREATE DATABASE western OWNER guest ENCODING 'LATIN1' TEMPLATE template0",
            "CREATE DATABASE bytes OWNER guest ENCODING 'SQL_ASCII' TEMPLATE template0",
        ] {
            cluster.admin(statement).await;
        }
        Some(cluster)
    }) else {
        return;
    };
    let port = cluster.options("theirs").get_port();
    let start = home.yaml().find("database:").unwrap();
    let end = home.yaml().find("media_store_path").unwrap();
    for (user, password, database, words) in [
        ("guest", "hush", "theirs", "GRANT CREATE ON DATABASE"),
        ("guest", "wrong", "theirs", "password authentication failed"),
        ("guest", "hush", "nobodys", "does not exist"),
        ("guest", "hush", "western", "has the encoding LATIN1, and has to have UTF8"),
        ("guest", "hush", "bytes", "has the encoding SQL_ASCII, and has to have UTF8"),
    ] {
        let mut yaml = home.yaml();
        let args = format!("user: {user}, password: {password}, database: {database}, host: 127.0.0.1, port: {port}");
        yaml.replace_range(start..end, &format!("database: {{ name: psycopg2, args: {{ {args} }} }}\n"));
        home.write(&yaml);
        let told = home.fails();
        says(&told, &[words]);
        assert_eq!(told.lines().filter(|line| line.starts_with("hearth: ")).count(), 1, "{told}");
        assert!(!told.contains(password) && !told.contains(".rs:"), "{told}");
    }
}

#[test]
fn a_database_that_is_not_there_is_one_sentence() {
    let home = Home::new();
    let dir = home.dir.path().display().to_string();
    home.write(&home.yaml().replace(&format!("{dir}/homeserver.db"), &format!("{dir}/nowhere/homeserver.db")));
    let told = home.fails();
    says(&told, &["nowhere/homeserver", "folder"]);
    // A port that nobody listens on.
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let start = home.yaml().find("database:").unwrap();
    let end = home.yaml().find("media_store_path").unwrap();
    let postgres =
        format!("database: {{ name: psycopg2, args: {{ user: u, password: hush, host: 127.0.0.1, port: {free} }} }}\n");
    let mut yaml = home.yaml();
    yaml.replace_range(start..end, &postgres);
    home.write(&yaml);
    let told = home.fails();
    says(&told, &["database", "127.0.0.1", &free.to_string(), "refused"]);
    assert!(!told.contains("hush"), "{told}");
}

#[test]
fn a_file_that_is_no_database_is_named() {
    let home = Home::new();
    fs::write(
        home.path("homeserver.db"),
        "not a database, by any means; long enough to have a header of its own".repeat(9),
    )
    .unwrap();
    says(&home.fails(), &["homeserver.db"]);
}

#[test]
fn certificates_that_cannot_be_read_are_named() {
    let home = Home::new();
    let tls = home.yaml().replace("    type: http\n", "    type: http\n    tls: true\n");
    home.write(&format!("{tls}tls_certificate_path: /nowhere/a.crt\ntls_private_key_path: /nowhere/a.key\n"));
    says(&home.fails(), &["/nowhere/a.crt"]);
    fs::write(home.path("a.crt"), "rubbish").unwrap();
    let crt = home.path("a.crt").display().to_string();
    home.write(&format!("{tls}tls_certificate_path: {crt}\ntls_private_key_path: {crt}\n"));
    says(&home.fails(), &["a.crt"]);
    home.write(&tls);
    says(&home.fails(), &["tls_certificate_path"]);
    home.is_untouched();
}

/// Files and folders of `edge:` are looked at with all the rest, and told like it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_that_the_edge_cannot_use_is_told_at_once_with_key_and_line() {
    let home = Home::new();
    let pair = |name: &str| {
        let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
        fs::write(home.path(&format!("{name}.crt")), made.cert.pem()).unwrap();
        fs::write(home.path(&format!("{name}.key")), made.signing_key.serialize_pem()).unwrap();
    };
    pair("a.test");
    pair("b.test");
    fs::write(home.path("file"), "no certificate").unwrap();
    fs::write(home.path("hmac"), "*wrong secret*").unwrap();
    fs::create_dir_all(home.path("element")).unwrap();
    fs::write(home.path("element/config.json"), "no JSON").unwrap();
    let right = "max_upload_size: 1M
edge:
  listen: { http: false, https: false, federation: false }
  local_ca: true
  certificates:
    - { cert: a.test.crt, key: a.test.key }
  element: { folder: apps }
";
    let edge = "max_upload_size: plenty
edge:
  listen: { http: false, https: false, federation: false }
  certificates:
    - cert: a.test.crt
      key: a.test.key
    - cert: /nowhere/a.crt
      key: /nowhere/a.key
    - cert: a.test.crt
      key: b.test.key
    - cert: file
      key: b.test.key
  acme:
    directory: letsencript
    ca_root: file
    eab:
      kid: a
      key_path: hmac
  element:
    folder: element
    at: /chat
  admin_ui: { folder: /nowhere/admin, at: /admin }
  apps:
    - folder: file
      at: /file
";
    home.add(edge);
    let check = |home: &Home| home.run(&["check-config", "-c", home.config().to_str().unwrap()]);
    let checked = check(&home);
    assert_eq!(checked.code, Some(1), "{checked:?}");
    for said in [checked.stderr, home.fails()] {
        let told: Vec<&str> = said.lines().collect();
        let wanted = [
            (15, "max_upload_size", "plenty"),
            (21, "edge.certificates[1].cert", "/nowhere/a.crt"),
            (22, "edge.certificates[1].key", "/nowhere/a.key"),
            (24, "edge.certificates[2].key", "not that of the certificate"),
            (25, "edge.certificates[3].cert", "holds no certificate"),
            (28, "edge.acme.directory", "letsencript"),
            (29, "edge.acme.ca_root", "certificate"),
            (32, "edge.acme.eab.key_path", "base64url"),
            (34, "edge.element.folder", "config.json"),
            (36, "edge.admin_ui.folder", "/nowhere/admin"),
            (38, "edge.apps[0].folder", "is not a folder"),
        ];
        assert_eq!(told.len(), wanted.len(), "{told:#?}");
        for (told, (line, key, words)) in told.iter().zip(wanted) {
            says(told, &[&format!("homeserver.yaml:{line}: {key} "), words]);
            assert!(!told.contains("wrong secret"), "{told}");
        }
    }
    home.add("edge: { acme: { eab: { kid: a, key: '*wrong secret*' } } }");
    let told = home.fails();
    says(&told, &["homeserver.yaml:15: edge.acme.eab.key ", "hidden", "base64url"]);
    assert!(!told.contains("wrong secret"), "{told}");
    home.is_untouched();

    // A running server is told at its reload, and goes on with what it has.
    fs::create_dir_all(home.path("apps")).unwrap();
    home.add(right);
    assert_eq!(check(&home).code, Some(0), "{:?}", check(&home));
    let mut running = home.serve();
    fs::remove_file(home.path("a.test.key")).unwrap();
    running.signal("HUP");
    let stays = "the old configuration stays in force";
    let log = || fs::read_to_string(home.path("stderr")).unwrap();
    let line = || log().lines().find(|line| line.contains(stays)).map(str::to_owned);
    let line = until("the mistake is told", async || line()).await;
    says(&line, &["edge.certificates[0].key", "a.test.key", "cannot be read"]);
    running.signal("TERM");
    assert_eq!(running.ended(), Some(0));
}

#[test]
fn a_log_file_that_is_wrong_stops_the_start() {
    let home = Home::new();
    home.add("log_config: /nowhere/log.yaml");
    says(&home.fails(), &["log_config", "/nowhere/log.yaml"]);
    let log = home.path("log.yaml");
    home.add(&format!("log_config: {}", log.display()));
    fs::write(&log, "version: 1\nroot: { level: LOUD, handlers: [nobody] }\n").unwrap();
    says(&home.fails(), &["log.yaml", "root.level", "nobody"]);
    fs::write(
        &log,
        "version: 1\nhandlers: { f: { class: logging.FileHandler, filename: /nowhere/x.log } }\nroot: { level: INFO, handlers: [f] }\n",
    )
    .unwrap();
    let told = home.run(&["check-config", "-c", home.config().to_str().unwrap()]);
    assert_eq!(told.code, Some(1), "{told:?}");
    for told in [home.fails(), told.stderr] {
        says(&told, &["homeserver.yaml:15: log_config", "/nowhere/x.log"]);
    }
    home.is_untouched();
}

/// As the signing key is: whoever was given a configuration without the files beside it can start.
#[test]
fn a_log_file_that_is_missing_is_made_as_generate_makes_it() {
    let home = Home::new();
    let log = home.path("my.log.config");
    home.add(&format!("log_config: {}", log.display()));
    let told = home.run(&["check-config", "-c", home.config().to_str().unwrap()]);
    assert_eq!((told.code, told.stdout.contains("is made at the start")), (Some(0), true), "{told:?}");
    assert!(!log.exists());
    let mut running = home.serve();
    assert!(fs::read_to_string(&log).unwrap().contains("logging.StreamHandler"));
    running.signal("TERM");
    assert_eq!(running.ended(), Some(0));
    assert_eq!(
        home.run(&["check-config", "-c", home.config().to_str().unwrap()]).stdout,
        "the configuration is fine\n"
    );
}

#[test]
fn a_folder_that_may_not_be_written_is_named() {
    let home = Home::new();
    // Rights do not bind root, so a file stands where a folder is needed.
    fs::write(home.path("media"), "").unwrap();
    says(&home.fails(), &["media"]);
    let blocked = Home::new();
    fs::write(blocked.path("hearth-data"), "").unwrap();
    let told = blocked.run(&[]);
    assert_eq!(told.code, Some(1), "{told:?}");
    says(&told.stderr, &["hearth-data", "-c"]);
}

#[test]
fn the_first_word_is_that_all_is_well() {
    let home = Home::new();
    let told = home.run(&["check-config", "-c", home.config().to_str().unwrap()]);
    assert_eq!((told.code, told.stdout.trim_end().ends_with("the configuration is fine")), (Some(0), true), "{told:?}");
    home.is_untouched();
    home.add("retention: { enabled: true }\nunheard_of: 1");
    let told = home.run(&["check-config", "-c", home.config().to_str().unwrap()]);
    assert_eq!(told.code, Some(0), "{told:?}");
    says(&told.stdout, &["homeserver.yaml:15: retention", "homeserver.yaml:16: unheard_of"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_ready_when_it_answers_and_ends_when_it_is_told_to() {
    for stop in ["TERM", "INT"] {
        let home = Home::new();
        home.add(&format!("pid_file: {}", home.path("pid").display()));
        let mut running = home.serve();
        let answer = http().get(running.url("/health")).send().await.unwrap();
        assert_eq!((answer.status().as_u16(), answer.text().await.unwrap().as_str()), (200, "OK"));
        let pid = fs::read_to_string(home.path("pid")).unwrap();
        assert_eq!(pid.trim(), running.child.id().to_string());
        running.signal(stop);
        assert_eq!(running.ended(), Some(0));
        assert!(!home.path("pid").exists());
        // Nothing that runs by itself holds the stop up.
        let last = fs::read_to_string(home.path("stderr")).unwrap();
        assert!(last.trim_end().ends_with(" - stopped"), "{last}");
    }
}

/// Neither clients that wait for news nor connections on which nothing was asked yet hold the stop up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_is_answered_at_the_stop() {
    let home = Home::new();
    let https = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    home.add(&format!(
        "edge: {{ local_ca: true, listen: {{ https: '127.0.0.1:{https}', http: false, federation: false }} }}"
    ));
    let mut running = home.serve();
    let told = home.run(&["register-user", "-u", "ada", "-p", "x", "--no-admin", "-k", SECRET, &running.url("")]);
    assert_eq!(told.code, Some(0), "{told:?}");
    let login =
        json!({ "type": "m.login.password", "identifier": { "type": "m.id.user", "user": "ada" }, "password": "x" });
    let session = http().post(running.url("/_matrix/client/v3/login")).body(login.to_string()).send().await.unwrap();
    let session: Value = serde_json::from_str(&session.text().await.unwrap()).unwrap();
    let token = session["access_token"].as_str().unwrap().to_owned();
    let sync = |query: String| {
        let url = running.url(&format!("/_matrix/client/v3/sync?{query}"));
        let request = http().get(url).bearer_auth(&token).send();
        async move { serde_json::from_str::<Value>(&request.await.unwrap().text().await.unwrap()).unwrap() }
    };
    let since = sync("timeout=0".to_owned()).await["next_batch"].as_str().unwrap().to_owned();
    let waiting = tokio::spawn(sync(format!("timeout=60000&since={since}")));
    // Half a head, and a connection that does not begin its TLS.
    let mut half = std::net::TcpStream::connect(("127.0.0.1", running.port)).unwrap();
    write!(half, "GET /health HT").unwrap();
    let _silent = std::net::TcpStream::connect(("127.0.0.1", https)).unwrap();
    // They have been taken in once later requests are answered.
    for _ in 0..3 {
        http().get(running.url("/health")).send().await.unwrap();
    }
    let begun = Instant::now();
    running.signal("TERM");
    let answer = waiting.await.unwrap();
    assert!(answer["next_batch"].is_string(), "{answer}");
    assert_eq!(running.ended(), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(7), "{:?}", begun.elapsed());
    let last = fs::read_to_string(home.path("stderr")).unwrap();
    assert!(last.trim_end().ends_with(" - stopped"), "{last}");
}

/// A request holds the first stop up; a second signal does not wait for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_does_not_wait() {
    let home = Home::new();
    let mut running = home.serve();
    // A request whose body never ends is under way for as long as it likes.
    let mut slow = std::net::TcpStream::connect(("127.0.0.1", running.port)).unwrap();
    write!(slow, "POST /_matrix/client/v3/login HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{{").unwrap();
    // The server has read the beginning once a later request is answered.
    http().get(running.url("/health")).send().await.unwrap();
    running.signal("TERM");
    let address = ("127.0.0.1", running.port);
    until("the port is closed", async || std::net::TcpStream::connect(address).is_err().then_some(())).await;
    assert!(running.child.try_wait().unwrap().is_none(), "it did not wait for the request");
    let begun = Instant::now();
    running.signal("TERM");
    assert_eq!(running.ended(), Some(1));
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}

/// Of a body that is refused unread the kernel would make a reset, which takes the answer along.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_is_too_large_is_refused_to_whoever_sends_all_of_it_first() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let home = Home::new();
    let _running = home.serve();
    let (large, count) = (vec![b'x'; 1 << 20], 20);
    let signed = r#"X-Matrix origin="127.0.0.9:1",destination="localhost",key="ed25519:a",sig="AAAA""#;
    for (framing, sends) in [
        (format!("Content-Length: {}", count << 20), true),
        ("Transfer-Encoding: chunked".to_owned(), true),
        (format!("Content-Length: {}\r\nExpect: 100-continue", count << 20), false),
    ] {
        let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", home.port)).await.unwrap();
        let head = format!(
            "PUT /_matrix/federation/v1/send/t HTTP/1.1\r\nHost: localhost\r\nAuthorization: {signed}\r\n{framing}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        for _ in 0..if sends { count } else { 0 } {
            let size = format!("{:x}\r\n", large.len());
            let (before, after) = if framing.contains("chunked") { (&size[..], "\r\n") } else { ("", "") };
            stream.write_all(before.as_bytes()).await.unwrap();
            stream.write_all(&large).await.unwrap();
            stream.write_all(after.as_bytes()).await.unwrap();
        }
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 413 ") && answer.contains("M_TOO_LARGE"), "{framing}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_are_on_their_listener_alone() {
    let home = Home::new();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let listeners = format!("listeners:\n  - {{ port: {port}, type: metrics, bind_addresses: [\"127.0.0.1\"] }}\n");
    home.write(&format!("{}enable_metrics: true\n", home.yaml().replace("listeners:\n", &listeners)));
    let running = home.serve();
    let http = http();
    http.get(running.url("/_matrix/client/versions")).send().await.unwrap();
    for path in ["/metrics", "/_synapse/metrics"] {
        let answer = http.get(format!("http://127.0.0.1:{port}{path}")).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        assert!(answer.headers()["content-type"].to_str().unwrap().starts_with("text/plain"), "{answer:?}");
        let text = answer.text().await.unwrap();
        says(&text, &["# TYPE hearth_api_request_seconds", "hearth_edge_connections", "hearth_build_info{version="]);
        says(&text, &["process_resident_memory_bytes", "process_cpu_seconds_total", "process_open_fds"]);
        // What is called a total only grows, and says so: rates are made of it.
        let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
        let totals: Vec<_> = types.filter(|(name, _)| name.ends_with("_total")).collect();
        assert!(totals.contains(&("process_cpu_seconds_total", "counter")), "{text}");
        assert!(totals.iter().all(|(_, kind)| *kind == "counter"), "{totals:?}");
    }
    assert_eq!(http.get(running.url("/_synapse/metrics")).send().await.unwrap().status(), 404);
    assert_eq!(http.get(running.url("/metrics")).send().await.unwrap().status(), 404);
    for (path, status) in [("/_matrix/client/versions", 404), ("/health", 200)] {
        let answer = http.get(format!("http://127.0.0.1:{port}{path}")).send().await.unwrap();
        assert_eq!(answer.status(), status, "{path}");
    }
}
