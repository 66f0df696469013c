//! The command line: `serve` (also without a word), `check-config`, `generate`, `generate-keys`, `register-user` (also as
//! a program of the name `register_new_matrix_user`), `federation-test`, `doctor`, `version`.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use clap::{Args, Parser, Subcommand};
use hearth_base::{Doing, Error, clock::Clock, tasks::Supervisor};
use hearth_config::{
    Config, Env, Examined, Hashing, Loaded, Mistakes,
    federation::SigningKey,
    generate::{GenerateError, Plan, Written},
};
use hearth_edge::Edge;
use hearth_service::accounts::passwords::normal;

use super::{
    doctor,
    lifecycle::{self, usual},
    register, settings, telemetry,
};

/// A Matrix homeserver with its own front door.
#[derive(Debug, Parser)]
#[command(name = "hearth", version, about)]
struct Cli {
    #[command(flatten)]
    serve: Serve,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the server (the default).
    Serve(Serve),
    /// Reads the configuration and says all that is wrong with it.
    CheckConfig(Serve),
    /// Writes homeserver.yaml, the log configuration and a signing key.
    Generate(Generate),
    /// Prints a new signing key, or writes it to a file.
    GenerateKeys {
        /// The file to write; must not exist.
        #[arg(short, long, alias = "output_file")]
        output_file: Option<PathBuf>,
    },
    /// Makes an account on a running server by the shared secret.
    RegisterUser(register::RegisterUser),
    /// Prints the bcrypt hash of a password, as Synapse's databases hold it.
    HashPassword {
        /// The password; read from standard input if absent.
        #[arg(short, long)]
        password: Option<String>,
        /// The server's configuration, for pepper and cost; may be given several times.
        #[arg(short, long = "config", value_name = "FILE")]
        config: Vec<PathBuf>,
    },
    /// Says whether a server can be reached by others as it should be, and what to change if not.
    FederationTest {
        /// Its name; the server's own if absent.
        name: Option<String>,
        /// The server's configuration: its own name, trusted authorities, forbidden addresses.
        #[arg(short, long = "config", value_name = "FILE")]
        config: Vec<PathBuf>,
    },
    /// Looks at all that the server needs (database, disks, keys, ports, certificates, clock, how others reach it) and
    /// says what to change.
    Doctor(Serve),
    /// Prints the version.
    Version,
}

#[derive(Args, Clone, Debug, Default)]
struct Serve {
    /// Configuration file, or a folder of them; may be given several times, later ones win.
    #[arg(short, long = "config-path", value_name = "FILE")]
    config_path: Vec<PathBuf>,
}

#[derive(Args, Debug)]
struct Generate {
    /// Domain part of all ids, e.g. example.com.
    #[arg(short = 'H', long, env = "SYNAPSE_SERVER_NAME")]
    server_name: Option<String>,
    /// yes or no; nothing is reported either way.
    #[arg(long, env = "SYNAPSE_REPORT_STATS")]
    report_stats: Option<String>,
    /// Folder of the configuration.
    #[arg(long, alias = "config-directory", env = "SYNAPSE_CONFIG_DIR")]
    config_dir: Option<PathBuf>,
    /// Folder of database and media.
    #[arg(long, alias = "data-directory", env = "SYNAPSE_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// The configuration file, if it is not to be homeserver.yaml in its folder.
    #[arg(short, long, env = "SYNAPSE_CONFIG_PATH")]
    config_path: Option<PathBuf>,
    /// Port of plain HTTP.
    #[arg(long, env = "SYNAPSE_HTTP_PORT")]
    http_port: Option<String>,
    /// DEBUG, INFO, WARNING, ERROR or CRITICAL.
    #[arg(long, env = "SYNAPSE_LOG_LEVEL")]
    log_level: Option<String>,
    /// Metrics, on port 19090.
    #[arg(long)]
    enable_metrics: bool,
    /// Let anybody register, without a check.
    #[arg(long)]
    enable_registration: bool,
    /// Open plain HTTP and metrics on all addresses, as in a container whose ports are published.
    #[arg(long)]
    open_private_ports: bool,
}

/// Does what the command line says.
pub(super) fn run() -> ExitCode {
    let mut args: Vec<std::ffi::OsString> = std::env::args_os().collect();
    let name = args.first().map(PathBuf::from).and_then(|p| p.file_name().map(ToOwned::to_owned));
    if name.is_some_and(|n| n == "register_new_matrix_user") {
        args.insert(1, "register-user".into());
    }
    let cli = Cli::parse_from(args);
    // `-c` before the word means the same as behind it.
    let paths = |args: Serve| [cli.serve.config_path, args.config_path].concat();
    match cli.command {
        None => lifecycle::run(paths(Serve::default())),
        Some(Command::Serve(args)) => lifecycle::run(paths(args)),
        Some(Command::CheckConfig(args)) => check_config(&usual(paths(args))),
        Some(Command::Generate(args)) => generate(args),
        Some(Command::GenerateKeys { output_file }) => generate_keys(output_file.as_deref()),
        Some(Command::RegisterUser(args)) => register::run(args),
        Some(Command::HashPassword { password, config }) => hash_password(password, &config),
        Some(Command::FederationTest { name, config }) => federation_test(name, &config),
        Some(Command::Doctor(args)) => match load(&usual(paths(args))) {
            Some(loaded) => doctor::run(&loaded.config),
            None => ExitCode::FAILURE,
        },
        Some(Command::Version) => {
            say(concat!("hearth ", env!("CARGO_PKG_VERSION")));
            ExitCode::SUCCESS
        }
    }
}

/// Reads all that a start reads, and writes nothing.
fn check_config(paths: &[PathBuf]) -> ExitCode {
    let Some(Loaded { config, notices }) = load_to_serve(paths) else { return ExitCode::FAILURE };
    let of_log = config.telemetry.log().map(|(_, notices)| notices).unwrap_or_default();
    notices.iter().chain(&of_log).for_each(|notice| say(&notice.to_string()));
    // Certificates that were ordered before are read as well.
    if let Err(e) = Edge::new(settings::edge(&config, lifecycle::data_dir_of(&config)), Supervisor::new()) {
        complain(&e.to_string());
        return ExitCode::FAILURE;
    }
    say("the configuration is fine");
    ExitCode::SUCCESS
}

fn federation_test(name: Option<String>, config: &[PathBuf]) -> ExitCode {
    let config = if config.is_empty() && name.is_some() {
        None
    } else {
        match load(&usual(config.to_vec())) {
            Some(loaded) => Some(loaded.config),
            None => return ExitCode::FAILURE,
        }
    };
    let settings = config.as_ref().map(|c| settings::federation(c).remote).unwrap_or_default();
    let own = config.as_ref().map(|c| c.server.name.clone());
    let Some(name) = name.or_else(|| own.as_ref().map(ToString::to_string)) else { return ExitCode::FAILURE };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let examined = runtime.doing("starting").and_then(|runtime| {
        // Nothing is signed, so any key does.
        let clock = Clock::new();
        let nobody = own.or_else(|| ruma::ServerName::parse("localhost").ok());
        let nobody = nobody.ok_or_else(|| Error::broken("localhost is no name"))?;
        let signer = hearth_rules::Signer::new(nobody, &rand::random(), "test")?;
        runtime.block_on(async {
            let remote = hearth_remote::federation::Federation::new(settings, Arc::new(signer), clock.clone())?;
            Ok(hearth_service::federation::tester::examine(&remote, &name, clock.now_ms()).await)
        })
    });
    match examined {
        Ok(report) => {
            say(report.to_string().trim_end());
            if report.is_fine { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(e) => {
            complain(&e.to_string());
            ExitCode::FAILURE
        }
    }
}

pub(super) fn load(paths: &[PathBuf]) -> Option<Loaded> {
    or_complain(Config::load(paths, Env::of_process()))
}

/// The configuration for a server, whose front door and log can use all that is named for them. Other commands do not look there:
/// they may run as somebody who may not read it.
pub(super) fn load_to_serve(paths: &[PathBuf]) -> Option<Loaded> {
    or_complain(Config::load_examined(paths, Env::of_process(), examine))
}

fn examine(config: &Config) -> Examined {
    let settings = settings::edge(config, lifecycle::data_dir_of(config));
    let mut mistakes = hearth_edge::examine(&settings);
    if let Ok((log, _)) = config.telemetry.log() {
        let wrong = telemetry::examine(&log);
        mistakes.extend((!wrong.is_empty()).then(|| ("log_config".to_owned(), wrong.join("; "))));
    }
    Examined { mistakes, warnings: hearth_edge::out_of_time(&settings) }
}

fn or_complain<T>(read: Result<T, Mistakes>) -> Option<T> {
    match read {
        Ok(read) => Some(read),
        Err(mistakes) => {
            complain(&mistakes.to_string());
            None
        }
    }
}

fn generate(args: Generate) -> ExitCode {
    let mut env: Vec<(String, String)> = std::env::vars().filter(|(k, _)| k.starts_with("SYNAPSE_")).collect();
    let mut set = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            env.retain(|(k, _)| k != name);
            env.push((name.to_owned(), value));
        }
    };
    set("SYNAPSE_SERVER_NAME", args.server_name);
    set("SYNAPSE_REPORT_STATS", args.report_stats);
    set("SYNAPSE_CONFIG_DIR", args.config_dir.map(|d| d.display().to_string()));
    set("SYNAPSE_DATA_DIR", args.data_dir.map(|d| d.display().to_string()));
    set("SYNAPSE_CONFIG_PATH", args.config_path.map(|d| d.display().to_string()));
    set("SYNAPSE_HTTP_PORT", args.http_port);
    set("SYNAPSE_LOG_LEVEL", args.log_level);
    set("SYNAPSE_ENABLE_METRICS", args.enable_metrics.then(|| "1".to_owned()));
    set("SYNAPSE_ENABLE_REGISTRATION", args.enable_registration.then(|| "1".to_owned()));
    let planned = Plan::from_env(&env.into_iter().collect())
        .map(|plan| Plan { open_private_ports: plan.open_private_ports || args.open_private_ports, ..plan });
    let written = planned.and_then(|plan| match plan.config_path.exists() {
        true => complete(&plan),
        false => plan.write(&mut rand::rng()),
    });
    match written {
        Ok(written) => {
            written.made.iter().for_each(|p| say(&format!("made {}", p.display())));
            written.kept.iter().for_each(|p| say(&format!("kept {}", p.display())));
            ExitCode::SUCCESS
        }
        Err(e) => {
            let way_out = match e {
                _ if e.is_full() => "; make room there",
                GenerateError::Io { .. } => {
                    "; name other folders by --config-dir and --data-dir, or let this user write there"
                }
                GenerateError::Plan(_) => "",
            };
            complain(&format!("{e}{way_out}"));
            ExitCode::FAILURE
        }
    }
}

/// Makes what a configuration names that is there already, and is missing.
fn complete(plan: &Plan) -> Result<Written, GenerateError> {
    let path = &plan.config_path;
    let bad = |why: String| GenerateError::Plan(why);
    let loaded = Config::load(std::slice::from_ref(path), Env::of_process()).map_err(|e| bad(e.to_string()))?;
    let (mut config, name) = (loaded.config, &plan.server_name);
    if config.server.name != *name {
        return Err(bad(format!(
            "{} is there already, for the server {}; name another file by --config-path, or that server by --server-name, to make what it lacks",
            path.display(),
            config.server.name
        )));
    }
    let made = config.make_missing(&mut rand::rng()).map_err(|e| bad(e.to_string()))?;
    Ok(Written { made, kept: vec![path.clone()] })
}

fn generate_keys(file: Option<&Path>) -> ExitCode {
    let key = SigningKey::generate(&mut rand::rng());
    match file {
        None => say(&key.line()),
        Some(file) => {
            if let Err(e) = key.create(file) {
                complain(&format!("{} cannot be written: {e}", file.display()));
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}

fn hash_password(password: Option<String>, config: &[PathBuf]) -> ExitCode {
    let (mut pepper, mut rounds) = (String::new(), 12);
    if !config.is_empty() {
        let Some(hashing) = or_complain(Hashing::load(config, Env::of_process())) else { return ExitCode::FAILURE };
        pepper = hashing.pepper.map(|p| p.expose().clone()).unwrap_or_default();
        rounds = hashing.bcrypt_rounds;
    }
    let password = match password {
        Some(password) => password,
        None => {
            let mut line = String::new();
            if std::io::stdin().read_line(&mut line).is_err() || line.trim_end().is_empty() {
                complain("no password: give it by -p or on standard input");
                return ExitCode::FAILURE;
            }
            line.trim_end_matches(['\r', '\n']).to_owned()
        }
    };
    // bcrypt sees 72 bytes and no more, in Synapse as here.
    match bcrypt::hash(format!("{}{pepper}", normal(&password)), rounds) {
        Ok(hash) => {
            say(&hash);
            ExitCode::SUCCESS
        }
        Err(e) => {
            complain(&format!("the password cannot be hashed: {e}"));
            ExitCode::FAILURE
        }
    }
}

/// Tells the person at the terminal.
pub(super) fn say(text: &str) {
    // Nobody to tell is no fault.
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// Tells the person at the terminal what is wrong.
pub(super) fn complain(text: &str) {
    let _ = writeln!(std::io::stderr(), "hearth: {text}");
}
