//! Tests of the certificate table, of files and of the local authority.
#![allow(clippy::unwrap_used)]

use super::*;

fn made(names: &[&str], source: Source) -> Certificate {
    let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
    Certificate { source, ..made::self_signed(&names).unwrap() }
}

#[test]
fn the_better_source_and_the_nearer_name_win() {
    let all = Certificates::new("example.com".to_owned());
    let (poor, good) = (made(&["example.com"], Source::SelfSigned), made(&["example.com"], Source::Acme));
    let wild = made(&["*.example.com"], Source::File);
    all.put("good", good.clone());
    all.put("poor", poor);
    all.put("wild", wild.clone());
    let same = |name: &str, c: &Certificate| Arc::ptr_eq(&all.table.load().find(name).unwrap(), &c.key);
    assert!(same("example.com", &good));
    assert!(same("chat.example.com", &wild));
    assert!(all.table.load().find("a.b.example.com").is_none());
    assert!(Arc::ptr_eq(all.table.load().default.as_ref().unwrap(), &good.key));
    let renewed = made(&["example.com"], Source::Acme);
    all.put("good", renewed.clone());
    assert!(same("example.com", &renewed));
    assert!(all.covers("example.com", Source::Acme) && !all.covers("example.com", Source::File));
}

#[test]
fn a_wildcard_of_a_better_source_goes_before_a_name_of_a_worse() {
    let all = Certificates::new("chat.example.com".to_owned());
    let (stand_in, wild) = (made(&["chat.example.com"], Source::SelfSigned), made(&["*.example.com"], Source::File));
    all.put("self-signed", stand_in);
    assert!(!all.covers("chat.example.com", Source::LocalCa));
    all.put("wild", wild.clone());
    let same = |key: &Option<Arc<CertifiedKey>>| Arc::ptr_eq(key.as_ref().unwrap(), &wild.key);
    assert!(same(&all.table.load().find("chat.example.com")) && same(&all.table.load().default));
    assert!(all.covers("chat.example.com", Source::File), "nothing has to be ordered, or made, for it");
    assert!(!all.covers("example.com", Source::File) && !all.covers("a.chat.example.com", Source::File));
    let own = made(&["chat.example.com"], Source::File);
    all.put("own", own.clone());
    assert!(Arc::ptr_eq(&all.table.load().find("chat.example.com").unwrap(), &own.key));
}

#[test]
fn a_certificate_without_alternative_names_is_taken_by_its_subject() {
    let pair = |subject: &str| {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(Vec::<String>::new()).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, subject);
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    };
    let (cert, key) = pair("Old.Example.com");
    assert_eq!(files::parse(cert.as_bytes(), key.as_bytes(), Source::File).unwrap().names, ["old.example.com"]);
    let (cert, key) = pair("a friendly name");
    assert!(files::parse(cert.as_bytes(), key.as_bytes(), Source::File).unwrap_err().contains("names no host"));
}

#[test]
fn a_key_of_another_certificate_is_refused() {
    let (one, two) = (rcgen_pair("a.test"), rcgen_pair("b.test"));
    assert_eq!(files::parse(one.0.as_bytes(), one.1.as_bytes(), Source::File).unwrap().names, ["a.test"]);
    let why = files::parse(one.0.as_bytes(), two.1.as_bytes(), Source::File).unwrap_err();
    assert!(why.contains("not that of the certificate"), "{why}");
    assert!(files::parse(b"", one.1.as_bytes(), Source::File).unwrap_err().contains("no certificate"));
    assert!(files::parse(one.0.as_bytes(), b"rubbish", Source::File).unwrap_err().contains("no private key"));
    for locked in [
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
        "-----BEGIN EC PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\nMAAA\n-----END EC PRIVATE KEY-----\n",
    ] {
        let why = files::parse(one.0.as_bytes(), locked.as_bytes(), Source::File).unwrap_err();
        assert!(why.contains("passphrase"), "{why}");
    }
}

fn rcgen_pair(name: &str) -> (String, String) {
    let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    (made.cert.pem(), made.signing_key.serialize_pem())
}

#[test]
fn the_local_authority_is_kept_and_bound_to_its_names() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let first = local_ca::certificate(folder.path(), &["box.test".to_owned()]).unwrap();
    let again = local_ca::certificate(folder.path(), &["box.test".to_owned()]).unwrap();
    assert_eq!(first.key.cert, again.key.cert, "kept over a restart");
    let mode = std::fs::metadata(folder.path().join("local-ca.key")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let ca = std::fs::read(local_ca::certificate_path(folder.path())).unwrap();
    // Another local name needs no other authority; a public one does, and its constraint names it.
    local_ca::certificate(folder.path(), &["other.internal".to_owned()]).unwrap();
    assert_eq!(ca, std::fs::read(local_ca::certificate_path(folder.path())).unwrap());
    local_ca::certificate(folder.path(), &["chat.example.com".to_owned()]).unwrap();
    assert_ne!(ca, std::fs::read(local_ca::certificate_path(folder.path())).unwrap());

    let verify = |leaf: &Certificate, ca: &[u8], name: &str| {
        use rustls_pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject};
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(ca).unwrap()).unwrap();
        let verifier = rustls::client::WebPkiServerVerifier::builder_with_provider(
            Arc::new(roots),
            Arc::new(ring::default_provider()),
        )
        .build()
        .unwrap();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        rustls::client::danger::ServerCertVerifier::verify_server_cert(
            &*verifier,
            &leaf.key.cert[0],
            &leaf.key.cert[1..],
            &name,
            &[],
            UnixTime::now(),
        )
        .is_ok()
    };
    assert!(verify(&first, &ca, "box.test") && verify(&first, &ca, "localhost") && verify(&first, &ca, "127.0.0.1"));
    assert!(!verify(&first, &ca, "example.com"));
}

#[test]
fn room_is_looked_for_before_it_is_needed() {
    let folder = tempfile::tempdir().unwrap();
    let (new, taken) = (folder.path().join("a/b"), folder.path().join("taken"));
    disk::has_room(&new.join("one.pem")).unwrap();
    assert_eq!(std::fs::read_dir(&new).unwrap().count(), 0, "and nothing of it stays");
    std::fs::write(&taken, "").unwrap();
    assert!(disk::has_room(&taken.join("acme/one.pem")).unwrap_err().to_string().contains("taken"));
    // A folder stands where the file is to be: the old one stays, and nothing lies about.
    std::fs::create_dir(new.join("x.pem")).unwrap();
    assert!(disk::write(&new.join("x.pem"), b"key", 0o600).is_err());
    assert_eq!(std::fs::read_dir(&new).unwrap().count(), 1);
}

#[test]
fn certificates_of_one_folder_are_ordered_at_the_same_time() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (folder.path().join("one.pem"), folder.path().join("two.pem"));
    std::thread::scope(|scope| {
        // One of them twice, as when a task has not ended yet that another has taken the place of.
        for file in [&one, &two, &two] {
            scope.spawn(move || {
                for _ in 0..50 {
                    disk::has_room(file).unwrap();
                    disk::write(file, b"key", 0o600).unwrap();
                }
            });
        }
    });
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 2, "and nothing else lies about");
}

#[test]
fn files_are_read_again_when_they_change_and_kept_while_they_are_bad() {
    use hearth_config::edge::CertificateFiles;
    let folder = tempfile::tempdir().unwrap();
    let pair = CertificateFiles { cert: folder.path().join("c.pem"), key: folder.path().join("k.pem") };
    let write = |(cert, key): &(String, String)| {
        std::fs::write(&pair.cert, cert).unwrap();
        std::fs::write(&pair.key, key).unwrap();
    };
    let (one, two) = (rcgen_pair("a.test"), rcgen_pair("a.test.longer-so-that-the-size-differs.test"));
    write(&one);
    let all = Certificates::new("a.test".to_owned());
    let watched = files::Files::load(vec![pair.clone()], &all).unwrap();
    let names = || all.list()[0].names.join(" ");
    assert_eq!(names(), "a.test");
    std::fs::write(&pair.cert, "half").unwrap();
    watched.refresh(&all);
    assert_eq!(names(), "a.test", "a half-written file changes nothing");
    write(&two);
    watched.refresh(&all);
    assert!(names().contains("longer"));
    watched.replace(Vec::new(), &all).unwrap();
    assert!(all.list().is_empty());
}
