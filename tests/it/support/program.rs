//! The real program, installed as an administrator does it: a folder of its own, `hearth generate`, edits, `hearth serve`.
//!
//! Nothing here sleeps: a start is over when the program tells its service manager so (`READY=1`), and what happens
//! within is waited for in its log.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    net::UnixDatagram,
    process::{Child, Command},
    sync::watch,
    time::timeout,
};

use super::pebble;

/// The longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(60);

/// A folder with a configuration in it.
pub struct Installation {
    folder: TempDir,
    /// Port of plain HTTP.
    pub port: u16,
    env: Vec<(&'static str, String)>,
}

impl Installation {
    /// What `hearth generate` makes for a server name: SQLite, plain HTTP on loopback.
    pub async fn generate(server_name: &str) -> Self {
        let made = Self { folder: tempfile::tempdir().unwrap(), port: pebble::free().port(), env: Vec::new() };
        let mut generate = made.command(["generate"]);
        for (name, value) in [
            ("SYNAPSE_SERVER_NAME", server_name.to_owned()),
            ("SYNAPSE_REPORT_STATS", "no".to_owned()),
            ("SYNAPSE_CONFIG_DIR", made.path("").display().to_string()),
            ("SYNAPSE_DATA_DIR", made.path("").display().to_string()),
            ("SYNAPSE_HTTP_PORT", made.port.to_string()),
        ] {
            generate.env(name, value);
        }
        good(generate).await;
        made
    }

    /// Sets a variable of the environment that the program finds.
    pub fn set(&mut self, name: &'static str, value: impl ToString) {
        self.env.push((name, value.to_string()));
    }

    /// A path in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The configuration.
    pub fn config(&self) -> PathBuf {
        self.path("homeserver.yaml")
    }

    /// The configuration's text.
    pub fn text(&self) -> String {
        std::fs::read_to_string(self.config()).unwrap()
    }

    /// Writes a file of the folder, with the folders on the way.
    pub fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// Adds sections to the configuration.
    pub fn add(&self, sections: &str) {
        self.write("homeserver.yaml", &format!("{}\n{sections}", self.text()));
    }

    /// The value of a quoted setting, say a generated secret.
    pub fn setting(&self, key: &str) -> String {
        let (text, start) = (self.text(), format!("{key}: "));
        let line = text.lines().find_map(|line| line.strip_prefix(&start));
        line.unwrap_or_else(|| panic!("no {key} in {text}")).trim_matches('"').to_owned()
    }

    /// A call of the program, with nothing of our own environment but the path.
    fn command(&self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hearth"));
        command.args(args).env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.envs(self.env.iter().map(|(name, value)| (*name, value)));
        command.current_dir(self.folder.path()).stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    /// Runs a command of the program with `-c` and our configuration; gives what it prints if it succeeds.
    pub async fn run(&self, command: &str, args: &[&str]) -> Result<String, String> {
        let mut call = self.command([command, "-c"]);
        run(call.arg(self.config()).args(args)).await
    }

    /// Starts the server and waits until it is ready.
    pub async fn serve(&self) -> Program {
        let socket = self.path("notify");
        let _ = std::fs::remove_file(&socket);
        let told = UnixDatagram::bind(&socket).unwrap();
        let mut serve = self.command(["serve", "-c"]);
        serve.arg(self.config()).env("NOTIFY_SOCKET", &socket).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = serve.spawn().unwrap();
        let (sender, mut log) = watch::channel(Vec::new());
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                sender.send_modify(|log: &mut Vec<String>| log.push(line));
            }
        });
        let mut words = [0; 256];
        let ready = async {
            tokio::select! {
                told = told.recv(&mut words) => told.unwrap(),
                // The log ends with the program.
                _ = log.wait_for(|_| false) => 0,
            }
        };
        let length = timeout(PATIENCE, ready).await.unwrap_or_default();
        let program = Program { child, log };
        assert_eq!(words[..length].trim_ascii(), b"READY=1", "not ready:\n{}", program.told());
        program
    }
}

/// Runs a program to its end: what it prints, or what it complains about and what else it printed.
async fn run(command: &mut Command) -> Result<String, String> {
    let done = timeout(PATIENCE, command.output()).await.expect("it does not end").unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    if done.status.success() { Ok(text(done.stdout)) } else { Err(text(done.stderr) + &text(done.stdout)) }
}

async fn good(mut command: Command) -> String {
    run(&mut command).await.unwrap_or_else(|why| panic!("{command:?}: {why}"))
}

/// A running server; killed when dropped.
pub struct Program {
    child: Child,
    log: watch::Receiver<Vec<String>>,
}

impl Program {
    /// Its log so far.
    pub fn told(&self) -> String {
        self.log.borrow().join("\n")
    }

    /// How many lines the log has.
    pub fn lines(&self) -> usize {
        self.log.borrow().len()
    }

    /// Waits until a line of the log, the first `after` left out, has all these words in it.
    pub async fn says(&self, after: usize, words: &[&str]) {
        let mut log = self.log.clone();
        let there = |log: &Vec<String>| log.iter().skip(after).any(|line| words.iter().all(|w| line.contains(w)));
        let seen = matches!(timeout(PATIENCE, log.wait_for(there)).await, Ok(Ok(_)));
        assert!(seen, "{words:?} is not in the log:\n{}", self.told());
    }

    /// Sends it a signal, by name.
    pub async fn signal(&self, name: &str) {
        let mut kill = Command::new("kill");
        kill.arg(format!("-{name}")).arg(self.child.id().unwrap().to_string());
        good(kill).await;
    }

    /// Stops it as a service manager does.
    pub async fn stop(mut self) -> ExitStatus {
        self.signal("TERM").await;
        timeout(PATIENCE, self.child.wait()).await.expect("it does not stop").unwrap()
    }
}

/// Whether a program is on the path.
pub fn on_path(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder: PathBuf| Path::new(&folder).join(name).is_file())
}

/// Runs a script of the repository to its end: whether it succeeded, and all that it said.
pub async fn script(path: &str, args: &[&str], env: &[(&str, &str)]) -> (bool, String) {
    let mut bash = Command::new("bash");
    bash.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).args(args).envs(env.iter().copied());
    // Scripts bound themselves; this is for those that hang all the same.
    let done = timeout(PATIENCE * 5, bash.stdin(Stdio::null()).kill_on_drop(true).output()).await;
    let done = done.unwrap_or_else(|_| panic!("{path} does not end")).unwrap();
    let said = [done.stdout, done.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    (done.status.success(), said)
}
