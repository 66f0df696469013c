//! `hearth doctor`: looks at all that a server needs before (or while) it runs, and says in a sentence what is wrong and
//! what to change. Writes nothing; sockets are opened and closed again.

use std::{fmt, net::IpAddr, path::Path, process::ExitCode, sync::Arc, time::Duration};

use hearth_base::{Result, clock::Clock, tasks::Supervisor};
use hearth_config::{Config, database::Engine};
use hearth_edge::Edge;
use hearth_remote::federation::Federation;
use hearth_service::federation::tester;
use hearth_store::{Store, examine::Condition};
use rustix::fs::{Access, access, statvfs};

use super::{cli, lifecycle, settings};

#[cfg(test)]
mod tests;

/// Free space below which a disk is told about, bytes.
const SMALL: u64 = 1 << 30;
/// Free space below which a server does not live long, bytes.
const FULL: u64 = 64 << 20;
/// A certificate that has less left than this is told about, s.
const SOON: i64 = 14 * 86_400;
/// A clock that is off by more makes certificates and signatures of others seem wrong, ms.
const CLOCK_OFF: u64 = 60_000;
/// A clock that is off by more shows in the times of messages, ms.
const CLOCK_ODD: u64 = 5_000;
/// How long others are waited for when the time is asked.
const PATIENCE: Duration = Duration::from_secs(10);

/// How it stands with one thing.
#[derive(Debug, PartialEq, Eq)]
enum State {
    Fine,
    /// It works, and somebody should look at it; what to do.
    Odd(String),
    /// It does not work; what to do.
    Bad(String),
    /// It could not be told.
    Unknown,
}

/// What was found.
#[derive(Debug)]
struct Finding {
    about: &'static str,
    what: String,
    state: State,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mark, remedy) = match &self.state {
            State::Fine => ("ok  ", None),
            State::Odd(remedy) => ("odd ", Some(remedy)),
            State::Bad(remedy) => ("BAD ", Some(remedy)),
            State::Unknown => ("?   ", None),
        };
        write!(f, "{mark} {:<13} {}", self.about, self.what)?;
        remedy.map_or(Ok(()), |remedy| write!(f, "\n{:19}{remedy}", ""))
    }
}

fn fine(about: &'static str, what: impl Into<String>) -> Finding {
    Finding { about, what: what.into(), state: State::Fine }
}

fn odd(about: &'static str, what: impl Into<String>, remedy: impl Into<String>) -> Finding {
    Finding { about, what: what.into(), state: State::Odd(remedy.into()) }
}

fn bad(about: &'static str, what: impl Into<String>, remedy: impl Into<String>) -> Finding {
    Finding { about, what: what.into(), state: State::Bad(remedy.into()) }
}

fn unknown(about: &'static str, what: impl Into<String>) -> Finding {
    Finding { about, what: what.into(), state: State::Unknown }
}

/// Examines the server of a configuration and tells. Succeeds if nothing is bad.
pub(super) fn run(config: &Config) -> ExitCode {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
        cli::complain("the threads of the examination cannot be started");
        return ExitCode::FAILURE;
    };
    let bad = runtime.block_on(async {
        let mut bad = 0_usize;
        let mut tell = |found: Vec<Finding>| {
            for one in found {
                cli::say(&one.to_string());
                bad += usize::from(matches!(one.state, State::Bad(_)));
            }
        };
        tell(vec![fine("configuration", format!("server name {}", config.server.name))]);
        let (database, condition) = database(config).await;
        tell(database);
        let running = condition.as_ref().is_some_and(|c| c.in_use);
        tell(disks(config));
        tell(signing_key(config));
        tell(doors(config, running));
        tell(match remote(config) {
            Ok(remote) => {
                let mut found = vec![clock(config, &remote, condition.and_then(|c| c.clock_ms)).await];
                found.extend(reachable(config, &remote, running).await);
                found
            }
            Err(e) => vec![bad_from("federation", &e, "Correct the options it names.")],
        });
        bad
    });
    match bad {
        0 => {
            cli::say("Nothing is in the way.");
            ExitCode::SUCCESS
        }
        n => {
            cli::say(&format!("To be mended: {n}."));
            ExitCode::FAILURE
        }
    }
}

fn bad_from(about: &'static str, e: &hearth_base::Error, remedy: &str) -> Finding {
    bad(about, lifecycle::sentence(e), remedy)
}

async fn database(config: &Config) -> (Vec<Finding>, Option<Condition>) {
    const ABOUT: &str = "database";
    let examined = match settings::store(config) {
        Ok(settings) => Store::examine(&settings.engine).await,
        Err(e) => Err(e),
    };
    let condition = match examined {
        Ok(condition) => condition,
        Err(e) => {
            let remedy = "Correct the section `database`, or start the database; see also its own log.";
            return (vec![bad_from(ABOUT, &e, remedy)], None);
        }
    };
    let has = match (condition.made, condition.outstanding) {
        (false, _) => "tables are made at the first start".to_owned(),
        (true, 0) => "tables are up to date".to_owned(),
        (true, n) => format!("the next start brings the tables {n} steps forward; make a backup first"),
    };
    let used = if condition.in_use { "; a running hearth has it" } else { "" };
    (vec![fine(ABOUT, format!("{}: {has}{used}", condition.software))], Some(condition))
}

/// The nearest folder above (or at) a path that is there.
fn standing(path: &Path) -> Option<&Path> {
    path.ancestors().map(|p| if p.as_os_str().is_empty() { Path::new(".") } else { p }).find(|p| p.is_dir())
}

fn disks(config: &Config) -> Vec<Finding> {
    const ABOUT: &str = "disk";
    let edge = lifecycle::data_dir_of(config);
    let mut places = vec![("certificates", edge), ("media", config.media.store_path.clone())];
    if let Engine::Sqlite { path } = &config.database.main {
        places.push(("the database", path.parent().unwrap_or(Path::new("")).to_owned()));
    }
    let mut found = Vec::new();
    for (whose, path) in places {
        let Some(folder) = standing(&path) else {
            found.push(bad(
                ABOUT,
                format!("{} for {whose} cannot be", path.display()),
                "Name a folder that can be made.",
            ));
            continue;
        };
        let shown = folder.display();
        if access(folder, Access::WRITE_OK | Access::EXEC_OK).is_err() {
            let remedy = "Give it to the user that runs the server (chown), or name another.";
            found.push(bad(ABOUT, format!("{shown}, for {whose}, may not be written by this user"), remedy));
            continue;
        }
        found.push(match statvfs(folder) {
            Err(e) => unknown(ABOUT, format!("{shown}, for {whose}: free space cannot be told: {e}")),
            Ok(on) => {
                let free = on.f_bavail.saturating_mul(on.f_frsize);
                let what = format!("{shown}, for {whose}: {:.1} GiB free", gibibytes(free));
                match free {
                    ..FULL => bad(ABOUT, what, "Make room: writes fail when it is full."),
                    FULL..SMALL => odd(ABOUT, what, "Make room before it is full."),
                    _ => fine(ABOUT, what),
                }
            }
        });
    }
    found
}

/// For people; a number this size loses nothing that is shown.
#[expect(clippy::cast_precision_loss, reason = "shown with one digit")]
fn gibibytes(bytes: u64) -> f64 {
    bytes as f64 / (1_u64 << 30) as f64
}

fn signing_key(config: &Config) -> Vec<Finding> {
    let path = &config.federation.signing_key_path;
    vec![match std::fs::metadata(path) {
        Ok(_) if access(path, Access::READ_OK).is_err() => bad(
            "signing key",
            format!("{} may not be read by this user", path.display()),
            "Give it to that user (chown).",
        ),
        Ok(meta) => {
            use std::os::unix::fs::PermissionsExt as _;
            let what = path.display().to_string();
            match meta.permissions().mode() & 0o007 {
                0 => fine("signing key", what),
                _ => odd(
                    "signing key",
                    format!("{what} may be read by every user of this machine"),
                    format!("chmod o-rwx {what}"),
                ),
            }
        }
        Err(_) => fine("signing key", format!("{} is made at the first start", path.display())),
    }]
}

/// Sockets and certificates.
fn doors(config: &Config, running: bool) -> Vec<Finding> {
    let edge = match Edge::new(settings::edge(config, lifecycle::data_dir_of(config)), Supervisor::new()) {
        Ok(edge) => edge,
        Err(e) => return vec![bad("certificates", e.to_string(), "Correct the option or the file it names.")],
    };
    let mut found = Vec::new();
    for hearth_edge::Trial { listener: name, opened } in edge.try_bind() {
        found.push(match opened {
            Ok(labels) => fine("port", format!("{name}: {} can be listened on", labels.join(", "))),
            Err(e @ hearth_edge::Error::Busy(..)) if running => {
                let hers = e.to_string();
                let address = hers.split(' ').next().unwrap_or_default();
                fine("port", format!("{name}: {address} is taken, as it should be while hearth runs"))
            }
            // The sentence tells the way out.
            Err(e) => bad("port", e.to_string(), "Until then hearth does not start."),
        });
    }
    let now = i64::try_from(Clock::new().now_ms() / 1000).unwrap_or(i64::MAX);
    let certificates = edge.certificates();
    for one in &certificates {
        let (names, days) = (one.names.join(", "), (one.not_after - now) / 86_400);
        let what = format!("{} ({names}): {days} days left", one.label);
        found.push(match one.not_after - now {
            _ if now < one.not_before => bad(
                "certificates",
                format!("{} ({names}) does not hold yet", one.label),
                "Put one there that does, or look whether the clock is right.",
            ),
            ..=0 => bad("certificates", format!("{} ({names}) has run out", one.label), RENEW),
            1..SOON => odd("certificates", what, RENEW),
            _ => fine("certificates", what),
        });
    }
    let authority = config.edge.as_ref().filter(|edge| edge.local_ca);
    let authority = authority.and_then(|_| hearth_edge::local_authority(&lifecycle::data_dir_of(config)));
    if let Some(authority) = authority {
        let what = format!("those of its own authority, {}, are made and renewed by the server", authority.display());
        found.push(fine("certificates", what));
    } else if certificates.is_empty() {
        found.push(unknown("certificates", "none yet: they are ordered, or made, when the server starts"));
    }
    found
}

const RENEW: &str = "Put a new one there; one that hearth orders itself is renewed by the running server, whose log says \
                     why if not.";

fn remote(config: &Config) -> Result<Federation> {
    // Nothing is signed, so any key does.
    let signer = hearth_rules::Signer::new(config.server.name.clone(), &rand::random(), "doctor")?;
    Federation::new(settings::federation(config).remote, Arc::new(signer), Clock::new())
}

/// Whether our clock is that of others: by what servers of the web say the time is, else by the database.
async fn clock(config: &Config, remote: &Federation, database_ms: Option<i64>) -> Finding {
    const ABOUT: &str = "clock";
    let ours = Clock::new();
    let mut theirs = None;
    for notary in config.federation.trusted_key_servers.iter().take(2) {
        let url = format!("https://{}/.well-known/matrix/server", notary.name.host());
        let answer = tokio::time::timeout(PATIENCE, remote.fetch(&url, &[])).await;
        let date = answer.ok().and_then(std::result::Result::ok).and_then(|answer| date_ms(answer.headers()));
        if let Some(date) = date {
            theirs = Some((date, notary.name.to_string()));
            break;
        }
    }
    let database = database_ms.and_then(|ms| u64::try_from(ms).ok()).map(|ms| (ms, "the database".to_owned()));
    let Some((theirs, whose)) = theirs.or(database) else {
        return unknown(ABOUT, "nobody could be asked for the time");
    };
    judge_clock(ours.now_ms(), theirs, &whose)
}

fn judge_clock(ours: u64, theirs: u64, whose: &str) -> Finding {
    const ABOUT: &str = "clock";
    const REMEDY: &str = "Have it set by NTP: systemctl enable --now systemd-timesyncd, or chrony.";
    let apart = ours.abs_diff(theirs);
    let way = if ours > theirs { "ahead of" } else { "behind" };
    let what = format!("{} s {way} that of {whose}", apart / 1000);
    match apart {
        ..CLOCK_ODD => fine(ABOUT, format!("agrees with that of {whose}")),
        CLOCK_ODD..CLOCK_OFF => odd(ABOUT, what, REMEDY),
        _ => bad(ABOUT, what, REMEDY),
    }
}

fn date_ms(headers: &http::HeaderMap) -> Option<u64> {
    let text = headers.get(http::header::DATE)?.to_str().ok()?;
    let date = httpdate::parse_http_date(text).ok()?.duration_since(std::time::UNIX_EPOCH).ok()?;
    u64::try_from(date.as_millis()).ok()
}

/// As other servers see us: names, addresses, certificates, keys.
async fn reachable(config: &Config, remote: &Federation, running: bool) -> Vec<Finding> {
    const ABOUT: &str = "federation";
    let name = &config.server.name;
    if name.host() == "localhost" {
        return vec![unknown(ABOUT, format!("{name} is no public name: other servers do not look for it"))];
    }
    let literal = name.host().trim_matches(['[', ']']).parse::<IpAddr>().ok();
    if literal.is_some_and(|ip| !remote.http().dialer().may_dial(ip)) {
        let why = "is an address that is not asked from here; if others are to reach it, add it to ip_range_whitelist";
        return vec![unknown(ABOUT, format!("{name} {why}"))];
    }
    if !running {
        return vec![unknown(
            ABOUT,
            format!("not looked at, since no server runs; later: hearth federation-test {name}"),
        )];
    }
    let report = tester::examine(remote, name.as_str(), Clock::new().now_ms()).await;
    if let Some(other) = stranger(config, &report) {
        return vec![other];
    }
    let mut found: Vec<Finding> = report.faults.into_iter().map(|fault| bad(ABOUT, fault.what, fault.remedy)).collect();
    found.extend(report.warnings.into_iter().map(|warning| odd(ABOUT, warning.what, warning.remedy)));
    if report.is_fine {
        found.push(fine(ABOUT, "other servers reach this one"));
    } else if found.is_empty() {
        found.push(bad(
            ABOUT,
            "other servers cannot always reach this one",
            format!("See hearth federation-test {name}."),
        ));
    }
    found
}

/// Whether another server answers under our name: it may be the one of before, or a copy that nobody stopped.
fn stranger(config: &Config, report: &tester::Report) -> Option<Finding> {
    let key = config.federation.signing_keys.first()?;
    let signer = hearth_rules::Signer::new(config.server.name.clone(), key.seed.expose(), &key.version).ok()?;
    let (id, ours) = (format!("ed25519:{}", key.version), signer.public_key());
    let other = report.addresses.iter().find(|one| !one.keys.is_empty() && one.keys.get(&id) != Some(&ours))?;
    Some(bad(
        "federation",
        format!("at {} another server answers for {}: its keys are not ours", other.address, config.server.name),
        "Stop it, or lead the name here; if it is this one, restore the signing key it had.",
    ))
}
