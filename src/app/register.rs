//! `hearth register-user`: makes an account by the shared secret, with the flags of `register_new_matrix_user`.
//!
//! Speaks `/_synapse/admin/v1/register` (Synapse's admin API, "Shared-Secret Registration") to a running server, ours or a
//! Synapse: a nonce, then an HMAC-SHA1 over nonce, name, password and role.

use std::{
    io::{BufRead, IsTerminal, Write},
    net::SocketAddr,
    path::PathBuf,
    process::ExitCode,
};

use clap::Args;
use hearth_config::{
    EdgeConfig, Env, Registering,
    server::{Listener, ListenerKind, Resource, Socket},
};
use hmac::{Hmac, Mac};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use serde_json::{Value, json};
use sha1::Sha1;

use super::{
    cli::{complain, say},
    lifecycle::{data_dir_beside, is_in_environment, usual},
};

#[derive(Args, Debug)]
pub(super) struct RegisterUser {
    /// Local part of the new user's id; asked for if absent.
    #[arg(short, long)]
    user: Option<String>,
    /// Password; asked for if absent.
    #[arg(short, long, conflicts_with = "password_file")]
    password: Option<String>,
    /// File with the password.
    #[arg(long)]
    password_file: Option<PathBuf>,
    /// Type of user, e.g. bot or support.
    #[arg(short = 't', long = "user_type", alias = "user-type", value_name = "TYPE")]
    user_type: Option<String>,
    /// Make the user an administrator of the server.
    #[arg(short, long, conflicts_with = "no_admin")]
    admin: bool,
    /// Do not make the user an administrator, and do not ask.
    #[arg(long)]
    no_admin: bool,
    /// It is fine if there is such a user already.
    #[arg(long)]
    exists_ok: bool,
    /// The server's configuration, for the secret and the address; may be given several times.
    #[arg(short, long = "config", value_name = "FILE")]
    config: Vec<PathBuf>,
    /// The registration_shared_secret, instead of a configuration.
    #[arg(short = 'k', long, conflicts_with = "config")]
    shared_secret: Option<String>,
    /// Where the server answers, which may be a Unix socket (unix:/path); by default the configuration's first plain
    /// listener, else its own HTTPS with a local authority, its Unix socket, or http://localhost:8008.
    server_url: Option<String>,
}

/// Registers as told; says how it went.
pub(super) fn run(args: RegisterUser) -> ExitCode {
    let exists_ok = args.exists_ok;
    let told = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::Other(format!("the runtime cannot be started: {e}")))
        .and_then(|runtime| {
            let wanted = Wanted::gather(args)?;
            runtime.block_on(register(wanted))
        });
    match told {
        Ok(user_id) => {
            say(&format!("registered {user_id}"));
            ExitCode::SUCCESS
        }
        Err(Failure::Exists) if exists_ok => {
            say("there is such a user already");
            ExitCode::SUCCESS
        }
        Err(Failure::Exists) => {
            complain("there is such a user already; choose another name, or say --exists-ok");
            ExitCode::FAILURE
        }
        Err(Failure::Other(why)) => {
            complain(&why);
            ExitCode::FAILURE
        }
    }
}

enum Failure {
    Exists,
    Other(String),
}

impl From<String> for Failure {
    fn from(why: String) -> Self {
        Self::Other(why)
    }
}

/// All that is needed for the two calls.
struct Wanted {
    url: String,
    secret: String,
    user: String,
    password: String,
    admin: bool,
    user_type: Option<String>,
    /// The authority of the server's own that its certificate may hang on.
    authority: Option<PathBuf>,
}

impl Wanted {
    fn gather(args: RegisterUser) -> Result<Self, Failure> {
        let (secret, from_config, authority) = match args.shared_secret {
            Some(secret) => (secret, None, None),
            None => {
                let paths = usual(args.config);
                if paths.is_empty() && !is_in_environment() {
                    return Err("give the configuration by -c, or the shared secret by -k".to_owned().into());
                }
                let config = Registering::load(&paths, Env::of_process()).map_err(|e| e.to_string())?;
                let secret = config.shared_secret.as_ref().map(|s| s.expose().clone()).ok_or_else(|| {
                    "registration_shared_secret is not set; set it, restart the server and try again".to_owned()
                })?;
                let edge = config.edge.as_ref().filter(|edge| edge.local_ca);
                let url = listener_url(&config.listeners).or_else(|| edge.and_then(own_https));
                let url = url.or_else(|| for_clients(&config.listeners).find_map(unix));
                (secret, url, edge.and_then(|_| hearth_edge::local_authority(&data_dir_beside(&config.data))))
            }
        };
        let user = match args.user {
            Some(user) => user,
            None => match who_asks() {
                Some(name) => {
                    let said = ask(&format!("New user localpart [{name}]: "), false)?;
                    if said.is_empty() { name } else { said }
                }
                None => ask("New user localpart: ", true)?,
            },
        };
        let password = match (args.password, args.password_file) {
            (Some(password), _) => password,
            (None, Some(file)) => std::fs::read_to_string(&file)
                .map_err(|e| format!("{} cannot be read: {e}", file.display()))?
                .trim()
                .to_owned(),
            (None, None) => ask_password()?,
        };
        let admin = if args.admin || args.no_admin {
            args.admin
        } else {
            matches!(ask("Make admin [no]: ", false)?.to_lowercase().as_str(), "y" | "yes" | "true")
        };
        let url = args.server_url.or(from_config).unwrap_or_else(|| "http://localhost:8008".to_owned());
        let url = url.trim_end_matches('/').to_owned();
        Ok(Self { url, secret, user, password, admin, user_type: args.user_type, authority })
    }
}

/// Who is at the terminal, as the environment says (in the order of Python's `getpass.getuser`).
fn who_asks() -> Option<String> {
    let named = ["LOGNAME", "USER", "LNAME", "USERNAME"].into_iter().filter_map(|name| std::env::var(name).ok());
    named.into_iter().find(|name| !name.is_empty())
}

/// Asks; an answer that is needed must not be empty.
fn ask(question: &str, needed: bool) -> Result<String, Failure> {
    let failed = |e: std::io::Error| Failure::Other(format!("the terminal cannot be read: {e}"));
    let mut out = std::io::stdout();
    out.write_all(question.as_bytes()).and_then(|()| out.flush()).map_err(failed)?;
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line).map_err(failed)?;
    let line = line.trim_end_matches(['\r', '\n']).to_owned();
    if line.is_empty() && needed {
        return Err("nothing was said; see --help for how to say it beforehand".to_owned().into());
    }
    Ok(line)
}

/// Asks twice, unseen; once where nobody looks on, as in a script.
fn ask_password() -> Result<String, Failure> {
    if !std::io::stdin().is_terminal() {
        return ask("Password: ", true);
    }
    let unseen = Unseen::begin();
    let both = ask("Password: ", true).and_then(|once| {
        say("");
        ask("Confirm password: ", true).map(|again| (once, again))
    });
    say("");
    drop(unseen);
    match both? {
        (once, again) if once == again => Ok(once),
        _ => Err("the passwords are not the same".to_owned().into()),
    }
}

/// A terminal that does not show what is typed; as before when this is dropped.
struct Unseen(Option<Termios>);

impl Unseen {
    fn begin() -> Self {
        let stdin = std::io::stdin();
        // A terminal that cannot be asked shows what is typed, which is better than no account.
        let before = tcgetattr(&stdin).ok();
        if let Some(before) = &before {
            let mut silent = before.clone();
            silent.local_modes.remove(LocalModes::ECHO);
            let _ = tcsetattr(&stdin, OptionalActions::Flush, &silent);
        }
        Self(before)
    }
}

impl Drop for Unseen {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, before);
        }
    }
}

/// The configuration's plain listeners for clients.
fn for_clients(listeners: &[Listener]) -> impl Iterator<Item = &Listener> {
    listeners.iter().filter(|l| {
        l.kind == ListenerKind::Http
            && !l.tls
            && l.resources.iter().flat_map(|r| &r.names).any(|name| *name == Resource::Client)
    })
}

/// The address of a listener that is a Unix socket.
fn unix(listener: &Listener) -> Option<String> {
    match &listener.socket {
        Socket::Unix { path, .. } => Some(format!("{UNIX}{}", path.display())),
        Socket::Tcp { .. } => None,
    }
}

/// The configuration's first plain listener for clients that has a port.
fn listener_url(listeners: &[Listener]) -> Option<String> {
    for_clients(listeners).find_map(|l| match &l.socket {
        Socket::Tcp { port, addresses } => {
            let here = addresses.iter().any(|ip| ip.is_loopback() || ip.is_unspecified());
            Some(match addresses.first().filter(|_| !here) {
                Some(ip) => format!("http://{}", SocketAddr::new(*ip, *port)),
                None => format!("http://localhost:{port}"),
            })
        }
        Socket::Unix { .. } => None,
    })
}

/// The port of `edge.listen` that speaks TLS to this machine with a certificate of the local authority.
fn own_https(edge: &EdgeConfig) -> Option<String> {
    let listen = &edge.listen;
    let here = |socket: &SocketAddr| socket.ip().is_loopback() || socket.ip().is_unspecified();
    let sockets = [&listen.https, &listen.federation].map(|ports| ports.sockets(&listen.addresses));
    sockets.iter().flatten().find(|socket| here(socket)).map(|socket| format!("https://localhost:{}", socket.port()))
}

/// With what the address of a Unix socket begins.
const UNIX: &str = "unix:";

/// What makes the calls. It trusts the server's own authority as well; where that counts, it is sent on to nobody else.
fn client(wanted: &Wanted) -> Result<reqwest::Client, String> {
    // Installed once; a second time is no fault.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut http = reqwest::Client::builder().no_proxy();
    if let Some(path) = wanted.url.strip_prefix(UNIX) {
        http = http.unix_socket(path);
    }
    if let Some(path) = wanted.authority.as_ref().filter(|_| wanted.url.starts_with("https://")) {
        let wrong = |why: String| format!("the server's own authority, {}, cannot be used: {why}", path.display());
        let text = std::fs::read(path).map_err(|e| wrong(e.to_string()))?;
        let authority = reqwest::Certificate::from_pem(&text).map_err(|e| wrong(e.to_string()))?;
        http = http.tls_certs_merge([authority]).redirect(reqwest::redirect::Policy::none());
    }
    http.build().map_err(|e| format!("no HTTP client: {e}"))
}

/// Why a call failed, down to the last cause: a client's own words are that it failed.
fn causes(e: &reqwest::Error) -> String {
    let mut last: &dyn std::error::Error = e;
    while let Some(cause) = last.source() {
        last = cause;
    }
    let hint = match e.is_connect() && last.to_string().contains("certificate") {
        true => "; use its plain HTTP address, or have this machine trust its authority",
        false => "",
    };
    format!("{last}{hint}")
}

async fn register(wanted: Wanted) -> Result<String, Failure> {
    if !["http://", "https://", UNIX].iter().any(|start| wanted.url.starts_with(start)) {
        return Err(format!("{} is no address of a server: write it as http://localhost:8008", wanted.url).into());
    }
    let base = if wanted.url.starts_with(UNIX) { "http://localhost" } else { wanted.url.as_str() };
    let url = format!("{base}/_synapse/admin/v1/register");
    let http = client(&wanted)?;
    let answer = http.get(&url).send().await.map_err(|e| format!("{} does not answer: {}", wanted.url, causes(&e)))?;
    let status = answer.status();
    let nonce: Value = answer.json().await.map_err(|e| format!("{url} answers {status}, and no JSON: {e}"))?;
    let nonce = nonce
        .get("nonce")
        .and_then(Value::as_str)
        .ok_or_else(|| format!("{url} gives no nonce: {status} {nonce}"))?
        .to_owned();
    let role = if wanted.admin { "admin" } else { "notadmin" };
    let mut mac = Hmac::<Sha1>::new_from_slice(wanted.secret.as_bytes())
        .map_err(|e| format!("the shared secret cannot be used: {e}"))?;
    let mut parts = vec![nonce.as_str(), wanted.user.as_str(), wanted.password.as_str(), role];
    parts.extend(wanted.user_type.as_deref());
    mac.update(parts.join("\0").as_bytes());
    let mac: String = mac.finalize().into_bytes().iter().map(|b| format!("{b:02x}")).collect();
    let mut body = json!({
        "nonce": nonce,
        "username": wanted.user,
        "password": wanted.password,
        "admin": wanted.admin,
        "mac": mac,
    });
    if let (Some(user_type), Some(body)) = (wanted.user_type, body.as_object_mut()) {
        body.insert("user_type".to_owned(), user_type.into());
    }
    let answer = http
        .post(&url)
        .json(&body)
        .send()
        .await
        .map_err(|e| format!("{} does not answer: {}", wanted.url, causes(&e)))?;
    let status = answer.status();
    let told: Value = answer.json().await.map_err(|e| format!("{url} answers {status}, and no JSON: {e}"))?;
    let text = |key: &str| told.get(key).and_then(Value::as_str).map(str::to_owned);
    match (text("user_id"), text("errcode").as_deref()) {
        (Some(user_id), _) => Ok(user_id),
        (None, Some("M_USER_IN_USE")) => Err(Failure::Exists),
        _ => Err(format!("the server refused: {status} {}", text("error").unwrap_or_default()).into()),
    }
}
