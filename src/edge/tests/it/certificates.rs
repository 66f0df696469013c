//! Certificates by name, from files, swapped under open connections.

use std::{fs, path::Path, time::Duration};

use hearth_config::edge::CertificateFiles;
use hearth_edge::Source;

use crate::front::{Front, Seen, client_builder, settings};

/// Writes a self-signed pair for a name, and gives its certificate.
fn write_pair(folder: &Path, name: &str) -> (CertificateFiles, reqwest::Certificate) {
    let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    let files = CertificateFiles { cert: folder.join(format!("{name}.crt")), key: folder.join(format!("{name}.key")) };
    fs::write(&files.key, made.signing_key.serialize_pem()).unwrap();
    fs::write(&files.cert, made.cert.pem()).unwrap();
    (files, reqwest::Certificate::from_pem(made.cert.pem().as_bytes()).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn each_name_gets_its_own_certificate_and_a_swap_leaves_connections_alone() {
    let folder = tempfile::tempdir().unwrap();
    let (root, chat) = (write_pair(folder.path(), "example.com"), write_pair(folder.path(), "chat.example.com"));
    let mut settings = settings("{}");
    settings.edge.as_mut().unwrap().certificates = vec![root.0, chat.0];
    let mut front = Front::open(settings);
    let at = front.at("https");
    let trusting =
        |ca: &reqwest::Certificate, http2| client_builder(&[at], http2).tls_certs_only([ca.clone()]).build().unwrap();
    let url = |host: &str, path: &str| format!("https://{host}:{}{path}", at.port());
    let (one, two) = (trusting(&root.1, true), trusting(&chat.1, false));
    assert_eq!(one.get(url("example.com", "/health")).send().await.unwrap().status(), 200);
    assert_eq!(two.get(url("chat.example.com", "/health")).send().await.unwrap().status(), 200);
    assert!(trusting(&root.1, true).get(url("chat.example.com", "/health")).send().await.is_err());

    let poll = tokio::spawn(one.get(url("example.com", "/_matrix/client/sync")).send());
    assert_eq!(front.seen.recv().await, Some(Seen::Polling));
    let (_, renewed) = write_pair(folder.path(), "example.com");
    front.edge.reload(front.settings.clone()).unwrap();
    assert_eq!(trusting(&renewed, true).get(url("example.com", "/health")).send().await.unwrap().status(), 200);
    assert!(trusting(&root.1, true).get(url("example.com", "/health")).send().await.is_err());
    front.news.notify_waiters();
    assert_eq!(poll.await.unwrap().unwrap().status(), 200, "the long-poll lived through the swap");
    assert_eq!(one.get(url("example.com", "/health")).send().await.unwrap().status(), 200, "and so did its connection");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_certificate_for_all_hosts_of_a_domain_is_shown_for_each() {
    let folder = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["example.com".to_owned(), "*.example.com".to_owned()]).unwrap();
    let files = CertificateFiles { cert: folder.path().join("all.crt"), key: folder.path().join("all.key") };
    fs::write(&files.key, made.signing_key.serialize_pem()).unwrap();
    fs::write(&files.cert, made.cert.pem()).unwrap();
    let ca = reqwest::Certificate::from_pem(made.cert.pem().as_bytes()).unwrap();
    let mut settings = settings("{}");
    settings.edge.as_mut().unwrap().certificates = vec![files];
    let front = Front::open(settings);
    let client = client_builder(&[front.at("https")], true).tls_certs_only([ca]).build().unwrap();
    for host in ["example.com", "chat.example.com", "element.example.com"] {
        let url = format!("https://{host}:{}/health", front.at("https").port());
        assert_eq!(client.get(url).send().await.unwrap().status(), 200, "{host}");
    }
    assert_eq!(front.edge.certificates().len(), 1, "none is made of our own for a name that has one");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_reload_changes_nothing_and_a_bad_start_is_one_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let (good, ca) = write_pair(folder.path(), "example.com");
    let mut settings = settings("{}");
    settings.edge.as_mut().unwrap().certificates = vec![good.clone()];
    let front = Front::open(settings.clone());
    fs::write(&good.key, "half writt").unwrap();
    let said = front.edge.reload(front.settings.clone()).unwrap_err().to_string();
    assert!(said.contains("example.com.key") && said.contains("private key"), "{said}");
    let client = client_builder(&[front.at("https")], true).tls_certs_only([ca]).build().unwrap();
    let url = format!("https://example.com:{}/health", front.at("https").port());
    assert_eq!(client.get(url).send().await.unwrap().status(), 200);

    // Named by a file that is older than the proxy in front, with no listener that would want it.
    settings.tls_certificate_path = Some("/nowhere/old.crt".into());
    settings.tls_private_key_path = Some("/nowhere/old.key".into());
    assert!(
        hearth_edge::Edge::new(settings.clone(), front.supervisor.clone()).is_err(),
        "the pair is half written still"
    );
    settings.edge.as_mut().unwrap().certificates.clear();
    assert!(hearth_edge::Edge::new(settings.clone(), front.supervisor.clone()).is_ok());
    settings.edge.as_mut().unwrap().certificates.push(good.clone());
    settings.edge.as_mut().unwrap().certificates[0].cert = "/nowhere/x.crt".into();
    let edge = hearth_edge::Edge::new(settings, front.supervisor.clone());
    let said = edge.err().unwrap().to_string();
    assert!(said.contains("edge.certificates[0].cert") && said.contains("/nowhere/x.crt"), "{said}");
    assert!(front.edge.stop(Duration::from_secs(5)).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_needed_no_more_is_not_kept() {
    let folder = tempfile::tempdir().unwrap();
    let front = Front::open(settings("{}"));
    let sources = || front.edge.certificates().into_iter().map(|c| c.source).collect::<Vec<_>>();
    assert_eq!(sources(), [Source::SelfSigned]);
    let mut changed = front.settings.clone();
    let names = ["example.com", "chat.example.com"];
    changed.edge.as_mut().unwrap().certificates = names.map(|name| write_pair(folder.path(), name).0).to_vec();
    front.edge.reload(changed.clone()).unwrap();
    assert_eq!(sources(), [Source::File, Source::File]);
    changed.edge.as_mut().unwrap().certificates.clear();
    changed.edge.as_mut().unwrap().local_ca = true;
    front.edge.reload(changed.clone()).unwrap();
    assert_eq!(sources(), [Source::LocalCa]);
    changed.edge.as_mut().unwrap().local_ca = false;
    front.edge.reload(changed).unwrap();
    assert_eq!(sources(), [Source::SelfSigned]);
}

#[tokio::test(flavor = "multi_thread")]
async fn before_any_certificate_there_is_a_self_signed_one() {
    let front = Front::open(settings("{}"));
    let client = client_builder(&[front.at("https")], true).tls_danger_accept_invalid_certs(true).build().unwrap();
    let url = format!("https://chat.example.com:{}/health", front.at("https").port());
    assert_eq!(client.get(url).send().await.unwrap().status(), 200);
}
