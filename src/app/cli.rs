//! The command line: `serve` (also without a word), `check-config`, `generate`, `generate-keys`, `version`.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Args, Parser, Subcommand};
use hearth_config::{Config, Env, Loaded, federation::SigningKey, generate::Plan};

use super::lifecycle;

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
        #[arg(short, long)]
        output_file: Option<PathBuf>,
    },
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
    #[arg(long, env = "SYNAPSE_CONFIG_DIR")]
    config_dir: Option<PathBuf>,
    /// Folder of database and media.
    #[arg(long, env = "SYNAPSE_DATA_DIR")]
    data_dir: Option<PathBuf>,
}

/// The folder of a first start.
const FIRST: &str = "hearth-data";

/// Does what the command line says.
pub(super) fn run() -> ExitCode {
    let cli = Cli::parse();
    match cli.command {
        None => serve(cli.serve.config_path),
        Some(Command::Serve(args)) => {
            serve(if args.config_path.is_empty() { cli.serve.config_path } else { args.config_path })
        }
        Some(Command::CheckConfig(args)) => match load(&args.config_path) {
            Some(loaded) => {
                for notice in &loaded.notices {
                    say(&notice.to_string());
                }
                say("the configuration is fine");
                ExitCode::SUCCESS
            }
            None => ExitCode::FAILURE,
        },
        Some(Command::Generate(args)) => generate(args),
        Some(Command::GenerateKeys { output_file }) => generate_keys(output_file.as_deref()),
        Some(Command::Version) => {
            say(concat!("hearth ", env!("CARGO_PKG_VERSION")));
            ExitCode::SUCCESS
        }
    }
}

fn serve(mut paths: Vec<PathBuf>) -> ExitCode {
    let env = Env::of_process();
    let named = env.get("SYNAPSE_CONFIG_PATH").is_some() || env.get("SYNAPSE_CONFIG_DIR").is_some();
    let mut data_dir = None;
    if paths.is_empty() && !named {
        let dir = Path::new(FIRST);
        let written = Plan::first_start(dir).and_then(|plan| plan.write(&mut rand::rng()));
        if let Err(e) = written {
            complain(&e.to_string());
            return ExitCode::FAILURE;
        }
        paths = vec![dir.join("homeserver.yaml")];
        data_dir = Some(dir.to_owned());
    }
    let Some(mut loaded) = load(&paths) else { return ExitCode::FAILURE };
    if let Err(mistakes) = loaded.config.make_missing(&mut rand::rng()) {
        complain(&mistakes.to_string());
        return ExitCode::FAILURE;
    }
    log(&loaded);
    let data_dir = data_dir.unwrap_or_else(|| data_dir_of(&loaded.config));
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            complain(&format!("the threads of the server cannot be started: {e}"));
            return ExitCode::FAILURE;
        }
    };
    runtime.block_on(lifecycle::serve(loaded.config, paths, data_dir, |_| {}))
}

/// Certificates are kept beside the signing key, which every installation keeps safe.
fn data_dir_of(config: &Config) -> PathBuf {
    match config.federation.signing_key_path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir.to_owned(),
        _ => PathBuf::from("."),
    }
}

fn load(paths: &[PathBuf]) -> Option<Loaded> {
    match Config::load(paths, Env::of_process()) {
        Ok(loaded) => Some(loaded),
        Err(mistakes) => {
            complain(&mistakes.to_string());
            None
        }
    }
}

fn log(loaded: &Loaded) {
    let filter = tracing_subscriber::EnvFilter::try_from_env("HEARTH_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    for notice in &loaded.notices {
        tracing::info!("{notice}");
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
    match Plan::from_env(&env.into_iter().collect()).and_then(|plan| plan.write(&mut rand::rng())) {
        Ok(written) => {
            written.made.iter().for_each(|p| say(&format!("made {}", p.display())));
            written.kept.iter().for_each(|p| say(&format!("kept {}", p.display())));
            ExitCode::SUCCESS
        }
        Err(e) => {
            complain(&e.to_string());
            ExitCode::FAILURE
        }
    }
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

/// Tells the person at the terminal.
pub(super) fn say(text: &str) {
    // Nobody to tell is no fault.
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// Tells the person at the terminal what is wrong.
pub(super) fn complain(text: &str) {
    let _ = writeln!(std::io::stderr(), "hearth: {text}");
}
