//! Whether a server can be reached as the specification says: delegation, addresses, certificates, keys, version. Every
//! fault is told in one sentence, and what to change in another.

use std::{collections::BTreeMap, fmt};

use hearth_remote::{
    Failure,
    discovery::{Authority, Host, well_known::Delegation},
    federation::Federation as Remote,
    http::inspect::Inspection,
};
use http::StatusCode;
use ruma::ServerName;
use serde::Serialize;

use crate::server_keys;

/// A certificate that has a smaller part of its life left than one in so many is told about: it should have been renewed
/// when a third was left.
const SOON: i64 = 5;
const KEYS: &str = "/_matrix/key/v2/server";
const VERSION: &str = "/_matrix/federation/v1/version";
/// Addresses that are looked at.
const MAX_ADDRESSES: usize = 16;

/// What was found.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Whose.
    pub server_name: String,
    /// Whether other servers reach it everywhere they may try.
    pub is_fine: bool,
    /// What `.well-known/matrix/server` says: a name, or why nothing.
    pub well_known: Option<WellKnown>,
    /// In whose name it is spoken to: the `Host` header, and the name in the certificate.
    pub host: Option<String>,
    /// What each address has.
    pub addresses: Vec<Address>,
    /// What is wrong.
    pub faults: Vec<Fault>,
    /// What will be wrong soon if nobody looks.
    pub warnings: Vec<Fault>,
}

/// A document of delegation.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum WellKnown {
    /// The server it names.
    Server(String),
    /// Why there is none.
    Error(String),
}

/// One address.
#[derive(Debug, Serialize)]
pub struct Address {
    /// Where.
    pub address: String,
    /// Whether all is well here.
    pub is_fine: bool,
    /// The version of TLS.
    pub tls: Option<String>,
    /// Names in the certificate.
    pub certificate_names: Vec<String>,
    /// Who signed it.
    pub certificate_issuer: Option<String>,
    /// When it runs out, s since 1970.
    pub certificate_expires: Option<i64>,
    /// Ids of the keys it publishes.
    pub key_ids: Vec<String>,
    /// The keys, unpadded base64.
    #[serde(skip)]
    pub keys: BTreeMap<String, String>,
    /// Name and version of the program.
    pub software: Option<String>,
}

/// Something that is wrong.
#[derive(Debug, Serialize)]
pub struct Fault {
    /// What.
    pub what: String,
    /// What to change.
    pub remedy: String,
}

impl Report {
    fn fault(&mut self, what: impl Into<String>, remedy: impl Into<String>) {
        self.faults.push(Fault { what: what.into(), remedy: remedy.into() });
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.server_name)?;
        match &self.well_known {
            Some(WellKnown::Server(to)) => writeln!(f, "  .well-known/matrix/server delegates to {to}")?,
            Some(WellKnown::Error(why)) => writeln!(f, "  .well-known/matrix/server: none ({why})")?,
            None => {}
        }
        if let Some(host) = &self.host {
            writeln!(f, "  spoken to as {host}")?;
        }
        for a in &self.addresses {
            let mark = if a.is_fine { "ok  " } else { "BAD " };
            writeln!(
                f,
                "  {mark}{}  {}  {}",
                a.address,
                a.tls.as_deref().unwrap_or("-"),
                a.software.as_deref().unwrap_or("-")
            )?;
        }
        for fault in self.faults.iter().chain(&self.warnings) {
            writeln!(f, "- {}\n  {}", fault.what, fault.remedy)?;
        }
        writeln!(
            f,
            "{}",
            if self.is_fine { "Other servers can reach it." } else { "Other servers cannot always reach it." }
        )
    }
}

/// Looks at a server as others would; `now_ms` is ms since 1970.
pub async fn examine(remote: &Remote, server: &str, now_ms: u64) -> Report {
    let mut report = Report {
        server_name: server.to_owned(),
        is_fine: false,
        well_known: None,
        host: None,
        addresses: Vec::new(),
        faults: Vec::new(),
        warnings: Vec::new(),
    };
    let name = ServerName::parse(server).ok().zip(Authority::parse(server).ok());
    let Some((name, mut authority)) = name else {
        report.fault(
            format!("`{server}` is not the name of a server."),
            "A name is what stands behind the colon of a user's id, such as example.org or example.org:8448.",
        );
        return report;
    };
    if let (Host::Name(host), None) = (authority.host().clone(), authority.port()) {
        match remote.discovery().delegation(&host).await {
            Delegation::To(to) => {
                report.well_known = Some(WellKnown::Server(to.to_string()));
                authority = to;
            }
            Delegation::None(why) => {
                report.well_known = Some(WellKnown::Error(why.to_string()));
                if matches!(&*why, Failure::Nonsense(_) | Failure::Name(_) | Failure::TooLarge(_)) {
                    report.fault(
                        format!("https://{host}/.well-known/matrix/server cannot be used: {why}."),
                        format!(r#"Answer {{"m.server": "matrix.{host}:443"}} there with your server's own name and port, or 404."#),
                    );
                } else if matches!(&*why, Failure::TimedOut(_)) {
                    report.warnings.push(Fault {
                        what: format!("https://{host}/.well-known/matrix/server does not answer in time: {why}."),
                        remedy: "Whoever looks for the server waits for it: have something answer there, 404 if nothing else, or refuse connections.".to_owned(),
                    });
                }
            }
        }
    }
    report.host = Some(authority.to_string());
    let places = match remote.http().dialer().places(&authority).await {
        Ok(places) => places,
        Err(e) => {
            let remedy = "Make an A or AAAA record for that name, or correct the name it is delegated to.";
            report.fault(format!("{authority} leads to no address: {e}."), remedy);
            return report;
        }
    };
    let addresses: Vec<_> = places.into_iter().flat_map(|p| p.addresses).take(MAX_ADDRESSES).collect();
    for address in addresses {
        let before = report.faults.len();
        let mut one = Address {
            address: address.to_string(),
            is_fine: false,
            tls: None,
            certificate_names: Vec::new(),
            certificate_issuer: None,
            certificate_expires: None,
            key_ids: Vec::new(),
            keys: BTreeMap::new(),
            software: None,
        };
        match remote.http().dialer().inspect(&authority, address, &[KEYS, VERSION]).await {
            Ok(found) => look(&mut report, &mut one, &name, &authority, found, now_ms),
            Err(Failure::Forbidden(why)) => report.fault(
                format!("{why}."),
                "If it is meant to be reached from here, add it to ip_range_whitelist; others are not kept from it by this.",
            ),
            Err(e) => report.fault(
                format!("There is no answer by TLS at {address}: {e}."),
                format!("Have the server listen on port {} there and open it in the firewall, or take the address out of DNS.", address.port()),
            ),
        }
        one.is_fine = report.faults.len() == before;
        report.addresses.push(one);
    }
    report.is_fine = report.faults.is_empty();
    report
}

/// What one address showed.
fn look(
    report: &mut Report,
    one: &mut Address,
    name: &ServerName,
    authority: &Authority,
    found: Inspection,
    now_ms: u64,
) {
    let (at, host) = (
        one.address.clone(),
        match authority.host() {
            Host::Ip(ip) => ip.to_string(),
            Host::Name(name) => name.clone(),
        },
    );
    let now = i64::try_from(now_ms / 1000).unwrap_or(i64::MAX);
    let (from, until) = found.certificate.holds;
    let left = until.saturating_sub(now);
    match &found.distrust {
        Some(_) if now < from => report.fault(
            format!("The certificate at {at} does not hold yet."),
            "Set the clock of the machine right, or that of whoever made the certificate.",
        ),
        Some(_) if left < 0 => {
            report.fault(
                format!("The certificate at {at} has run out."),
                "Renew it, and see why that did not happen by itself.",
            );
        }
        Some(why) => report.fault(
            format!(
                "The certificate at {at} is not trusted for {host}: {why}. It is for {}.",
                found.certificate.names.join(", ")
            ),
            format!("Use a certificate for {host} from an authority that systems trust, with the whole chain."),
        ),
        None if left < until.saturating_sub(from) / SOON => report.warnings.push(Fault {
            what: format!("The certificate at {at} runs out in {} hours.", left / 3600),
            remedy: "See why it was not renewed: Hearth renews when a third of its life is left.".to_owned(),
        }),
        None => {}
    }
    one.tls = Some(found.tls);
    one.certificate_issuer = Some(found.certificate.issuer).filter(|i| !i.is_empty());
    one.certificate_expires = Some(found.certificate.holds.1);
    one.certificate_names = found.certificate.names;
    let mut answers = found.answers.into_iter();
    let pass = |what: &str| {
        format!(
            "If a proxy stands before the homeserver, have it pass {what} on; the listener needs the resource `federation`."
        )
    };
    let mut answer = |report: &mut Report, path: &str| match answers.next() {
        Some(Ok((StatusCode::OK, body))) => Some(body),
        Some(Ok((status, _))) => {
            report.fault(format!("{at} answers {status} to {path}."), pass(path));
            None
        }
        Some(Err(e)) => {
            report.fault(format!("{at} does not answer to {path}: {e}."), pass(path));
            None
        }
        None => None,
    };
    if let Some(body) = answer(report, KEYS) {
        match server_keys::examine(&body, i64::try_from(now_ms).unwrap_or(i64::MAX)) {
            Ok((whose, _, _)) if whose != name => report.fault(
                format!("{at} publishes the keys of {whose}."),
                format!("server_name must be {name} there, or the delegation leads to the wrong server."),
            ),
            Ok((_, _, until)) if until / 1000 < now => {
                report
                    .fault(format!("The keys at {at} have run out."), "Set the clock of that server, or of this one.");
            }
            Ok((_, keys, _)) => {
                one.key_ids = keys.keys().cloned().collect();
                one.keys = keys;
            }
            Err(why) => report.fault(
                format!("What {at} publishes as its keys cannot be used: {why}."),
                "Restore the signing key of that server, and let nothing on the way change the document.",
            ),
        }
    }
    if let Some(body) = answer(report, VERSION) {
        let version: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
        let text = |key: &str| version["server"][key].as_str().unwrap_or("?").chars().take(100).collect::<String>();
        if version["server"].is_object() {
            one.software = Some(format!("{} {}", text("name"), text("version")));
        } else {
            let what = format!("{at} answers something else to {VERSION} than the name and version of a homeserver.");
            report.fault(what, pass("/_matrix/federation"));
        }
    }
}
