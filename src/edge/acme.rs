//! Certificates from an ACME authority (RFC 8555): which names to order for, what is kept on disk, and one task for
//! each group of names, so that a bad name holds up nobody else's.
//!
//! `account` holds the account with the authority, `order` does one order with its challenges, `schedule` says when.
//! A failed renewal leaves the old certificate in use, says so in one line, and is tried again with growing pauses.

use std::{path::PathBuf, sync::Arc, time::Duration};

use hearth_config::edge::{Acme as Config, Challenge, Names};
use time::OffsetDateTime;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info};

use crate::{
    Error, Settings, Shared, folder, names,
    tls::{self, Certificate, Certificates, Source, disk, files},
};

mod account;
pub(crate) mod challenges;
mod order;
mod schedule;

use account::Authority;

/// The running tasks; another set takes their place at a reload.
#[derive(Debug)]
pub(crate) struct Running {
    end: CancellationToken,
    /// Changed to order now, whether due or not.
    now: watch::Sender<u64>,
}

impl Running {
    /// Orders for all groups now, whether due or not.
    pub fn order_now(&self) {
        self.now.send_modify(|n| *n += 1);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end.cancel();
    }
}

/// Names that share a certificate.
#[derive(Clone, Debug)]
pub(crate) struct Group {
    names: Vec<String>,
    /// Key and chain, together.
    file: PathBuf,
}

impl Group {
    /// How the certificate is called in the table and on the metrics.
    fn label(&self) -> &str {
        self.names.first().map_or("", String::as_str)
    }
}

/// The groups to order for: the configured ones, else each public name for itself that no file has a certificate for.
fn groups(config: &Config, settings: &Settings, certificates: &Certificates) -> Result<Vec<Group>, Error> {
    let folder = account::folder(&folder(settings), config)?;
    let listed: Vec<Vec<String>> = match &config.domains {
        Some(domains) => domains.iter().map(Names::list).collect(),
        None => {
            let open = |name: &String| is_public(name) && !certificates.covers(name, Source::File);
            names(settings).into_iter().filter(open).map(|name| vec![name]).collect()
        }
    };
    let group = |names: Vec<String>| {
        let file = folder.join(format!("{}.pem", names.first().map_or("", String::as_str)));
        Group { names, file }
    };
    Ok(listed.into_iter().map(group).collect())
}

/// Whether a public authority could know the name.
fn is_public(name: &str) -> bool {
    name.contains('.') && name.parse::<std::net::IpAddr>().is_err() && !tls::local_ca::is_local(name)
}

/// Puts the certificates kept from earlier runs into the table. One that cannot be read is ordered anew. Those that are
/// not ordered any more leave the table, once each name of theirs that still is has another.
///
/// # Errors
/// If the authority's address is none.
pub(crate) fn load_kept(settings: &Settings, into: &Certificates) -> Result<(), Error> {
    let Some(config) = config(settings) else {
        into.retain(Source::Acme, |_, _| false);
        return Ok(());
    };
    let groups = groups(config, settings, into)?;
    for group in &groups {
        let kept = disk::read(&group.file)?;
        match kept.map(|text| files::parse(&text, &text, Source::Acme)) {
            Some(Ok(certificate)) => into.put(group.label(), certificate),
            Some(Err(what)) => error!(file = %group.file.display(), what, "kept certificate cannot be used"),
            None => {}
        }
    }
    let has = |group: &Group, name: &String| into.get(group.label()).is_some_and(|c| c.names.contains(name));
    let waits = |group: &Group| group.names.iter().filter(|name| !has(group, name)).cloned().collect::<Vec<_>>();
    let waiting: Vec<String> = groups.iter().flat_map(waits).collect();
    let is_ordered = |label: &str| groups.iter().any(|group| group.label() == label);
    into.retain(Source::Acme, |label, old| is_ordered(label) || old.names.iter().any(|name| waiting.contains(name)));
    Ok(())
}

fn config(settings: &Settings) -> Option<&Config> {
    settings.edge.as_ref()?.acme.as_ref()
}

/// Whether there is an authority that cannot be ordered from as configured.
///
/// # Errors
/// Those of [`start`].
pub(crate) fn check(settings: &Settings) -> Result<(), Error> {
    config(settings).map_or(Ok(()), |config| Authority::new(config, &folder(settings)).map(drop))
}

/// Starts a task for each group, if there is an authority to order from.
///
/// # Errors
/// If the authority's address is none, or a key for it cannot be read.
pub(crate) fn start(settings: &Settings, shared: &Arc<Shared>) -> Result<Option<Running>, Error> {
    let Some(config) = config(settings) else { return Ok(None) };
    let authority = Arc::new(Authority::new(config, &folder(settings))?);
    let offered = offered(config, settings);
    let running = Running { end: shared.stopping.child_token(), now: watch::Sender::new(0) };
    for group in groups(config, settings, &shared.certificates)? {
        let work = Work {
            group,
            authority: authority.clone(),
            shared: shared.clone(),
            offered: offered.clone(),
            end: running.end.clone(),
            now: running.now.subscribe(),
        };
        let work = Arc::new(work);
        shared.supervisor.task("acme", move || {
            let work = work.clone();
            async move {
                // Dropped half-way, an order is only begun again at the next start.
                let _ = work.end.run_until_cancelled(work.run()).await;
                Ok(())
            }
        });
    }
    Ok(Some(running))
}

/// The challenges that our listeners can answer, the one to try first at the front.
fn offered(config: &Config, settings: &Settings) -> Vec<Challenge> {
    let listen = settings.edge.as_ref().map(|e| e.listen.clone()).unwrap_or_default();
    let mut all = Vec::new();
    if !listen.http.0.is_empty() || settings.listeners.iter().any(|l| !l.tls) {
        all.push(Challenge::Http01);
    }
    if !listen.https.0.is_empty() {
        all.push(Challenge::TlsAlpn01);
    }
    if let Some(allowed) = &config.challenges {
        all.retain(|c| allowed.contains(c));
    }
    all
}

/// One group's task.
struct Work {
    group: Group,
    authority: Arc<Authority>,
    shared: Arc<Shared>,
    offered: Vec<Challenge>,
    end: CancellationToken,
    now: watch::Receiver<u64>,
}

impl Work {
    /// Orders when due, until another set of tasks takes this one's place.
    async fn run(&self) {
        let mut asked = self.now.clone();
        let mut failures = 0u32;
        let mut forced = false;
        loop {
            let pause = match self.wait_before_order().await {
                Some(wait) if !forced && failures == 0 => wait,
                _ => match self.order(failures).await {
                    Ok(()) => {
                        failures = 0;
                        // Look at the schedule of the new certificate at once.
                        Duration::ZERO
                    }
                    Err(e) => {
                        failures += 1;
                        let pause = schedule::pause(failures, e.is_rate_limit(), rand::random());
                        self.tell_failure(&e, pause);
                        pause
                    }
                },
            };
            forced = tokio::select! {
                changed = asked.changed() => match changed {
                    Ok(()) => true,
                    // Another set of tasks has taken our place: one more order would be in its way.
                    Err(_) => return,
                },
                () = tokio::time::sleep(pause) => false,
            };
        }
    }

    /// How long the certificate may stay as it is; none when it is time for another, or when its file was taken away,
    /// which is how an administrator asks for a new one (a key that leaked).
    async fn wait_before_order(&self) -> Option<Duration> {
        let current = self.shared.certificates.get(self.group.label()).filter(|c| c.source == Source::Acme)?;
        if !self.group.names.iter().all(|n| current.names.contains(n))
            || matches!(self.group.file.try_exists(), Ok(false))
        {
            return None;
        }
        let told = self.authority.renewal_window(&current).await;
        let wait = schedule::wait(&current, told, OffsetDateTime::now_utc().unix_timestamp());
        if let Some(wait) = wait {
            debug!(
                names = self.group.names.join(", "),
                hours = wait.as_secs() / 3600,
                "certificate is looked at again"
            );
        }
        wait
    }

    async fn order(&self, failures: u32) -> Result<(), order::Failed> {
        // With both challenges on offer, each failure tries the other one.
        let turn = usize::try_from(failures).unwrap_or(0).checked_rem(self.offered.len());
        let Some(challenge) = turn.and_then(|n| self.offered.get(n)) else {
            return Err(order::Failed::said("no open listener can answer a challenge: it needs port 80 or 443"));
        };
        disk::has_room(&self.group.file).map_err(|e| order::Failed::said(format!("nothing could be kept: {e}")))?;
        let current = self.shared.certificates.get(self.group.label()).filter(|c| c.source == Source::Acme);
        let text = order::certificate(&self.authority, &self.shared, &self.group.names, *challenge, current).await?;
        let certificate = files::parse(text.as_bytes(), text.as_bytes(), Source::Acme).map_err(order::Failed::said)?;
        disk::write(&self.group.file, text.as_bytes(), 0o600).map_err(|e| order::Failed::said(e.to_string()))?;
        let days = days_left(&certificate);
        self.shared.certificates.put(self.group.label(), certificate);
        tls::report(&self.shared.certificates);
        metrics::counter!("hearth_acme_orders_total", "result" => "ok").increment(1);
        info!(names = self.group.names.join(", "), days, "new certificate, now in use");
        Ok(())
    }

    fn tell_failure(&self, why: &order::Failed, pause: Duration) {
        metrics::counter!("hearth_acme_orders_total", "result" => "failed").increment(1);
        let names = self.group.names.join(", ");
        let minutes = pause.as_secs().div_ceil(60);
        match self.shared.certificates.get(self.group.label()).filter(|c| c.source == Source::Acme) {
            Some(old) => error!(
                names, days_left = days_left(&old), cause = %why, next_try_minutes = minutes,
                "certificate could not be renewed, the old one stays in use"
            ),
            None => error!(
                names, cause = %why, next_try_minutes = minutes,
                "no certificate yet, a self-signed one stands in"
            ),
        }
    }
}

fn days_left(certificate: &Certificate) -> i64 {
    (certificate.not_after - OffsetDateTime::now_utc().unix_timestamp()) / 86_400
}
