//! What can be wrong with the settings that their values alone do not tell: files that cannot be read or do not belong
//! together, folders that are not there, listeners that are in each other's way. Told as the configuration tells its own
//! mistakes: each with its key, all at once.

use std::{fs, path::Path};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use hearth_config::edge::{Acme, CertificateFiles, EdgeConfig, Mistake};
use rustls::RootCertStore;
use rustls_pki_types::{CertificateDer, pem::PemObject};
use serde_json::{Map, Value};

use crate::{Settings, listener, proxy::Upstream, tls::files};

const CERTIFICATE: &str = "tls_certificate_path";
/// The names of the edge's own listeners, open or not.
const OWN: [&str; 3] = ["http", "https", "federation"];

/// Looks at every listener, and at every file and folder that the `edge:` section names: pairs of key path and sentence,
/// empty when all is well. Reads only.
#[must_use]
pub fn examine(settings: &Settings) -> Vec<Mistake> {
    let doors = listener::plan(settings);
    let mut found = listener::clashes(&doors);
    for (part, what) in of_listeners(settings).iter().flat_map(files::faults) {
        let key = if part == "cert" { CERTIFICATE } else { "tls_private_key_path" };
        found.push((key.to_owned(), what));
    }
    let Some(edge) = &settings.edge else { return found };
    let is_door = |name: &str| OWN.contains(&name) || doors.iter().any(|planned| *planned.door.name == *name);
    for (n, name) in edge.admin_api.listeners.iter().flatten().enumerate().filter(|(_, name)| !is_door(name)) {
        let what = format!("`{name}` is no listener; its names are {}", OWN.join(", "));
        let what = format!("{what}, and the tag, port or path of each under `listeners`");
        found.push((format!("edge.admin_api.listeners[{n}]"), what));
    }
    found.extend(of_section(edge));
    found
}

/// The certificates from files that clients refuse at this time, since they have run out or hold only later: as
/// [`examine`] tells it. Nothing else depends on them, so they keep nothing from starting.
#[must_use]
pub fn out_of_time(settings: &Settings) -> Vec<Mistake> {
    let told = |key: String, pair: &CertificateFiles| files::out_of_time(pair).map(|what| (key, what));
    let named = settings.edge.iter().flat_map(|edge| &edge.certificates).enumerate();
    let named = named.filter_map(|(n, pair)| told(format!("edge.certificates[{n}].cert"), pair));
    of_listeners(settings).iter().filter_map(|pair| told(CERTIFICATE.to_owned(), pair)).chain(named).collect()
}

/// The pair that homeserver.yaml names, if a listener speaks TLS by it.
fn of_listeners(settings: &Settings) -> Option<CertificateFiles> {
    let tls = settings.listeners.iter().any(|listener| listener.tls);
    let (cert, key) = (settings.tls_certificate_path.clone()?, settings.tls_private_key_path.clone()?);
    tls.then_some(CertificateFiles { cert, key })
}

fn of_section(edge: &EdgeConfig) -> Vec<Mistake> {
    let mut found = Vec::new();
    let mut say = |key: String, what: String| found.push((format!("edge.{key}"), what));
    for (n, pair) in edge.certificates.iter().enumerate() {
        for (part, what) in files::faults(pair) {
            say(format!("certificates[{n}].{part}"), what);
        }
    }
    if let Some(acme) = &edge.acme {
        if let Some(what) = acme.ca_root.as_deref().and_then(|file| root(file).err()) {
            say("acme.ca_root".to_owned(), what);
        }
        if let Err((part, what)) = eab_key(acme) {
            say(format!("acme.eab.{part}"), what);
        }
    }
    let apps = edge.apps.iter().enumerate().map(|(n, app)| (format!("apps[{n}]"), &app.folder));
    let apps = apps.chain(edge.admin_ui.iter().map(|app| ("admin_ui".to_owned(), &app.folder)));
    for (key, folder) in apps.chain(edge.element.iter().map(|element| ("element".to_owned(), &element.folder))) {
        if let Err(what) = is_folder(folder) {
            say(format!("{key}.folder"), what);
        } else if key == "element"
            && let Err(what) = element_config(folder)
        {
            say("element.folder".to_owned(), what);
        }
    }
    for (n, upstream) in edge.upstreams.iter().enumerate() {
        if let Err(what) = Upstream::new(upstream) {
            say(format!("upstreams[{n}].to"), what);
        }
    }
    found
}

/// An external account binding: key id and HMAC key.
type Binding = (String, Vec<u8>);

/// The external account binding that an authority asked for, if it did.
///
/// # Errors
/// The part of `edge.acme.eab` that is wrong, and what is wrong with it; never the key.
pub(crate) fn eab_key(acme: &Acme) -> Result<Option<Binding>, (&'static str, String)> {
    let Some(eab) = &acme.eab else { return Ok(None) };
    let decode = |text: &str| BASE64_URL_SAFE_NO_PAD.decode(text.trim().trim_end_matches('=')).ok();
    let key = match (&eab.key, &eab.key_path) {
        (Some(key), _) => decode(key).ok_or_else(|| ("key", "is not base64url".to_owned()))?,
        (None, Some(path)) => {
            let wrong = |what: String| ("key_path", format!("`{}` {what}", path.display()));
            let text = fs::read_to_string(path).map_err(|e| wrong(format!("cannot be read: {e}")))?;
            decode(&text).ok_or_else(|| wrong("does not hold base64url".to_owned()))?
        }
        (None, None) => Vec::new(),
    };
    Ok(Some((eab.kid.clone(), key)))
}

/// Whether a file holds a root to trust, as the ACME client reads it.
fn root(file: &Path) -> Result<(), String> {
    let shown = file.display();
    let text = fs::read(file).map_err(|e| format!("`{shown}` cannot be read: {e}"))?;
    let root =
        CertificateDer::from_pem_slice(&text).map_err(|e| format!("`{shown}` does not hold a PEM certificate: {e}"))?;
    RootCertStore::empty().add(root).map_err(|e| format!("`{shown}` cannot be trusted: {e}"))
}

fn is_folder(folder: &Path) -> Result<(), String> {
    let shown = folder.display();
    match fs::metadata(folder) {
        Ok(meta) if meta.is_dir() => Ok(()),
        Ok(_) => Err(format!("`{shown}` is not a folder")),
        Err(e) => Err(format!("`{shown}` cannot be opened: {e}")),
    }
}

/// Whether Element's own `config.json`, if it has one, can be added to.
fn element_config(folder: &Path) -> Result<(), String> {
    let file = folder.join("config.json");
    let Ok(text) = fs::read(&file) else { return Ok(()) };
    let said = serde_json::from_slice::<Map<String, Value>>(&text);
    said.map(drop).map_err(|e| format!("holds a config.json that cannot be used: {e}"))
}
