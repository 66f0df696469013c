//! Certificates from an ACME authority, with pebble as the authority.

use std::{
    io::Write,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use hearth_config::edge::{Acme, Challenge, Eab, Names, Ports};
use hearth_edge::{Settings, Source};
use serde_json::{Value, json};

use crate::{
    front::{Front, Seen, client_builder, settings},
    pebble::{self, Pebble},
};

const NAMES: [&str; 2] = ["my-example.com", "chat.my-example.com"];

/// Settings for the tutorial's two names, one certificate each.
fn tutorial() -> Settings {
    let mut settings = settings("{}");
    settings.server_name = NAMES[0].to_owned();
    settings.public_baseurl = Some(format!("https://{}/", NAMES[1]));
    settings
}

/// An edge with its ports, and an authority that knows them; not serving yet.
async fn prepare(mut settings: Settings, acme: Acme, more: Value) -> (Front, Pebble) {
    let (http, https) = (pebble::free().port(), pebble::free().port());
    let pebble = Pebble::start(http, https, more).await;
    let acme = Acme { directory: Some(pebble.directory.clone()), ca_root: Some(pebble.ca_root.clone()), ..acme };
    let edge = settings.edge.as_mut().unwrap();
    edge.acme = Some(acme);
    let keep = |ports: &Ports, port: u16| if ports.0.is_empty() { Ports::none() } else { Ports::one(port) };
    (edge.listen.http, edge.listen.https) = (keep(&edge.listen.http, http), keep(&edge.listen.https, https));
    (Front::bound(settings, tempfile::tempdir().unwrap()), pebble)
}

/// Waits until something is so; what it waits for happens in tasks of the edge and in the authority.
async fn until(what: &str, mut so: impl FnMut() -> bool) {
    let waiting = async {
        while !so() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(40), waiting).await.unwrap_or_else(|_| panic!("never: {what}"));
}

fn has(front: &Front, name: &str) -> bool {
    front.edge.certificates().iter().any(|c| c.source == Source::Acme && c.names.iter().any(|n| n == name))
}

fn kept(front: &Front) -> PathBuf {
    let acme = front.data.path().join("edge/acme");
    std::fs::read_dir(acme).unwrap().next().unwrap().unwrap().path()
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test(flavor = "multi_thread")]
async fn both_names_of_the_tutorial_get_certificates_and_renew_under_a_long_poll() {
    if !pebble::found() {
        return;
    }
    let acme = Acme { email: Some("ops@my-example.com".to_owned()), ..Acme::default() };
    let (mut front, mut pebble) = prepare(tutorial(), acme, json!({})).await;
    front.serve();
    until("certificates", || NAMES.iter().all(|name| has(&front, name))).await;

    let root = pebble.issuing_root().await;
    for listener in ["https", "federation"] {
        let client = client_builder(&[front.at(listener)], true).tls_certs_only([root.clone()]).build().unwrap();
        for name in NAMES {
            let url = format!("https://{name}:{}/_matrix/client/versions", front.at(listener).port());
            assert_eq!(client.get(url).send().await.unwrap().status(), 200, "{listener} {name}");
        }
    }
    let folder = kept(&front);
    let file = folder.join("my-example.com.pem");
    assert_eq!((mode(&folder.join("account.json")), mode(&file), mode(&folder)), (0o600, 0o600, 0o700));

    let client = client_builder(&[front.at("https")], true).tls_certs_only([root.clone()]).build().unwrap();
    let url = |path: &str| format!("https://my-example.com:{}{path}", front.at("https").port());
    let poll = tokio::spawn(client.get(url("/_matrix/client/sync")).send());
    assert_eq!(front.seen.recv().await, Some(Seen::Polling));
    let before = std::fs::read(&file).unwrap();
    front.edge.renew_now();
    until("renewal", || std::fs::read(&file).unwrap() != before).await;
    front.news.notify_waiters();
    assert_eq!(poll.await.unwrap().unwrap().status(), 200, "the long-poll lived through the renewal");

    // Another start needs no authority: all is kept.
    pebble.stop();
    assert!(front.edge.stop(Duration::from_secs(5)).await);
    let again = Front::bound(front.settings.clone(), front.data);
    assert!(NAMES.iter().all(|name| has(&again, name)));
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_alpn_needs_no_plain_port_and_one_order_may_hold_several_names() {
    if !pebble::found() {
        return;
    }
    let mut settings = tutorial();
    settings.edge.as_mut().unwrap().listen.http = Ports::none();
    let acme = Acme {
        domains: Some(vec![Names::Many(NAMES.map(str::to_owned).to_vec())]),
        challenges: Some(vec![Challenge::TlsAlpn01]),
        ..Acme::default()
    };
    let (front, _pebble) = prepare(settings, acme, json!({})).await;
    front.serve();
    until("certificate", || NAMES.iter().all(|name| has(&front, name))).await;
    let ordered: Vec<_> = front.edge.certificates().into_iter().filter(|c| c.source == Source::Acme).collect();
    assert_eq!(ordered.len(), 1);
    assert_eq!(ordered[0].names.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_ordered_no_more_is_served_no_more() {
    if !pebble::found() {
        return;
    }
    let domains = |names: &[&str]| Some(names.iter().map(|name| Names::One((*name).to_owned())).collect());
    let acme = Acme { domains: domains(&NAMES), ..Acme::default() };
    let (front, mut pebble) = prepare(tutorial(), acme, json!({})).await;
    front.serve();
    until("certificates", || NAMES.iter().all(|name| has(&front, name))).await;
    let self_signed = || front.edge.certificates().iter().any(|c| c.source == Source::SelfSigned);
    until("the stand-in's end", || !self_signed()).await;
    pebble.stop();
    let reload = |domains: Option<Vec<Names>>| {
        let mut settings = front.settings.clone();
        settings.edge.as_mut().unwrap().acme.as_mut().unwrap().domains = domains;
        front.edge.reload(settings).unwrap();
    };
    reload(Some(vec![Names::Many(NAMES.map(str::to_owned).to_vec())]));
    assert!(NAMES.iter().all(|name| has(&front, name)), "until one for both is there, each keeps its own");
    reload(domains(&NAMES[..1]));
    assert_eq!((has(&front, NAMES[0]), has(&front, NAMES[1])), (true, false));
    assert!(self_signed());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_external_account_is_bound() {
    if !pebble::found() {
        return;
    }
    let key = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W";
    let more = json!({"externalAccountBindingRequired": true, "externalAccountMACKeys": {"kid-1": key}});
    let eab = Eab { kid: "kid-1".to_owned(), key: Some(key.to_owned()), key_path: None };
    let acme = Acme { eab: Some(eab), domains: Some(vec![Names::One(NAMES[0].to_owned())]), ..Acme::default() };
    let (front, _pebble) = prepare(tutorial(), acme, more).await;
    front.serve();
    until("certificate", || has(&front, NAMES[0])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_that_asks_for_renewal_gets_it_at_the_next_look() {
    if !pebble::found() {
        return;
    }
    let acme = Acme { domains: Some(vec![Names::One(NAMES[0].to_owned())]), ..Acme::default() };
    let (front, pebble) = prepare(tutorial(), acme, json!({})).await;
    front.serve();
    until("certificate", || has(&front, NAMES[0])).await;
    let file = kept(&front).join("my-example.com.pem");
    let before = std::fs::read_to_string(&file).unwrap();
    let leaf = &before[before.find("-----BEGIN CERTIFICATE").unwrap()..];
    pebble.ask_renewal(leaf, "2020-01-01T00:00:00Z", "2020-01-02T00:00:00Z").await;
    assert!(front.edge.stop(Duration::from_secs(5)).await);
    let again = Front::open_in(front.settings.clone(), front.data);
    until("renewal", || std::fs::read_to_string(&file).unwrap() != before).await;
    assert!(has(&again, NAMES[0]));
}

/// What was logged, for tests of log lines.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_name_holds_up_nobody_and_a_failed_renewal_keeps_the_old_certificate() {
    if !pebble::found() {
        return;
    }
    let log = Log::default();
    let writer = log.clone();
    // The only test that sets these, as a process has one of each.
    tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).init();
    let metrics = metrics_exporter_prometheus::PrometheusBuilder::new().install_recorder().unwrap();

    let blocked = "blocked.example";
    let domains = vec![Names::One(blocked.to_owned()), Names::One(NAMES[0].to_owned())];
    let (front, mut pebble) = prepare(tutorial(), Acme { domains: Some(domains), ..Acme::default() }, json!({})).await;
    front.serve();
    until("the good certificate", || has(&front, NAMES[0])).await;
    until("the bad one's line", || log.text().contains("no certificate yet")).await;
    let line = |about: &str| log.text().lines().find(|l| l.contains(about)).unwrap().to_owned();
    let said = line("no certificate yet");
    assert!(said.contains(blocked) && said.contains("cause=") && said.contains("next_try_minutes="), "{said}");
    assert!(!has(&front, blocked));

    let file = kept(&front).join("my-example.com.pem");
    let before = std::fs::read(&file).unwrap();
    pebble.stop();
    front.edge.renew_now();
    until("the failure's line", || log.text().contains("could not be renewed")).await;
    let said = line("could not be renewed");
    assert!(said.contains("days_left=89") && said.contains(NAMES[0]), "{said}");
    assert_eq!(std::fs::read(&file).unwrap(), before);
    assert!(has(&front, NAMES[0]));
    let shown = metrics.render();
    let days = shown
        .lines()
        .find(|l| l.starts_with("hearth_certificate_expiry_days") && l.contains("\"my-example.com\""))
        .unwrap_or_else(|| panic!("{shown}"));
    let days: f64 = days.rsplit(' ').next().unwrap().parse().unwrap();
    assert!((89.0..91.0).contains(&days));
    assert!(shown.lines().any(|l| l.starts_with("hearth_acme_orders_total{result=\"failed\"}")));
}
