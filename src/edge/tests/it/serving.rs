//! Listening, TLS, HTTP/1.1 and HTTP/2, the homeserver in-process, discovery documents, stopping.

use std::{sync::Arc, time::Duration};

use http::StatusCode;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::front::{Front, Seen, listener, plain, settings};

const LOCAL: &str = "{local_ca: true}";

#[tokio::test(flavor = "multi_thread")]
async fn the_homeserver_answers_over_tls_by_either_protocol() {
    let front = Front::open(settings(LOCAL));
    for (http2, version) in [(false, http::Version::HTTP_11), (true, http::Version::HTTP_2)] {
        let client = front.client("https", http2);
        let url = format!("https://chat.example.com:{}/_matrix/client/whoami", front.at("https").port());
        let response = client.get(url).send().await.unwrap();
        assert_eq!(response.version(), version);
        let body: Value = response.json().await.unwrap();
        assert_eq!(body, serde_json::json!({"ip": "127.0.0.1", "tls": true, "listener": "https"}));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_edge_section_only_the_listeners_are_open() {
    let mut settings = settings("{}");
    settings.edge = None;
    settings.listeners = vec![listener("8008", false, &["client"]), listener("fed", false, &["federation"])];
    let front = Front::open(settings);
    assert_eq!(front.edge.addresses().len(), 2);
    let get = async |name: &str, path: &str| {
        plain().get(format!("http://{}{path}", front.at(name))).send().await.unwrap().status().as_u16()
    };
    assert_eq!(get("8008", "/_matrix/client/versions").await, 200);
    assert_eq!(get("8008", "/_matrix/federation/v1/version").await, 404);
    assert_eq!(get("fed", "/_matrix/federation/v1/version").await, 200);
    assert_eq!(get("fed", "/_matrix/client/versions").await, 404);
    assert_eq!(get("fed", "/health").await, 200);
    assert_eq!(get("8008", "/").await, 200);
    assert_eq!(get("8008", "/elsewhere").await, 404);
    assert_eq!(get("8008", "/.well-known/matrix/server").await, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn discovery_documents_are_open_to_all_on_both_hosts() {
    let front = Front::open(settings("{local_ca: true, well_known: {support: {support_page: 'https://x.test'}}}"));
    let client = front.client("https", true);
    let port = front.at("https").port();
    for host in ["example.com", "chat.example.com"] {
        let base = format!("https://{host}:{port}/.well-known/matrix");
        let response = client.get(format!("{base}/client")).send().await.unwrap();
        assert_eq!(response.headers()["access-control-allow-origin"], "*");
        assert_eq!(response.headers()["content-type"], "application/json");
        let body: Value = response.json().await.unwrap();
        assert_eq!(body["m.homeserver"]["base_url"], "https://chat.example.com/");
        let body: Value = client.get(format!("{base}/server")).send().await.unwrap().json().await.unwrap();
        assert_eq!(body["m.server"], "chat.example.com:443");
        let body: Value = client.get(format!("{base}/support")).send().await.unwrap().json().await.unwrap();
        assert_eq!(body["support_page"], "https://x.test");
    }
    let base = format!("https://example.com:{port}/.well-known/matrix/client");
    let options = client.request(http::Method::OPTIONS, &base).send().await.unwrap();
    assert_eq!(
        (options.status().as_u16(), &options.headers()["access-control-allow-origin"]),
        (200, &"*".parse().unwrap())
    );
    assert_eq!(client.delete(&base).send().await.unwrap().status(), StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test(flavor = "multi_thread")]
async fn head_is_answered_as_get_is_without_its_body() {
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let front = Front::open(settings(&format!(
        "{{local_ca: true, admin_api: {{allow: []}}, upstreams: [{{at: /gone, to: 'http://{closed}'}}]}}"
    )));
    let port = front.at("https").port();
    for http2 in [false, true] {
        let client = front.client("https", http2);
        for (path, status) in [
            ("/.well-known/matrix/client", 200),
            ("/.well-known/matrix/support", 404),
            ("/.well-known/acme-challenge/nothing", 404),
            ("/_synapse/admin/v1/server_version", 403),
            ("/_matrix/client/versions", 200),
            ("/gone", 502),
            ("/nothing", 404),
        ] {
            let url = format!("https://example.com:{port}{path}");
            let (get, head) = (client.get(&url).send().await.unwrap(), client.head(&url).send().await.unwrap());
            assert_eq!((get.status().as_u16(), head.status().as_u16()), (status, status), "{path}");
            for name in ["content-type", "content-length"] {
                assert_eq!(head.headers().get(name), get.headers().get(name), "{path}: {name}");
            }
            assert!(!get.bytes().await.unwrap().is_empty() && head.bytes().await.unwrap().is_empty(), "{path}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_http_is_sent_on_to_https() {
    let front = Front::open(settings(LOCAL));
    let at = front.at("http");
    let client = plain();
    let response = client.get(format!("http://{at}/a/b?c=d")).header("host", "chat.example.com").send().await.unwrap();
    assert_eq!(response.status(), StatusCode::MOVED_PERMANENTLY);
    let to = response.headers()["location"].to_str().unwrap().to_owned();
    assert!(to.starts_with("https://chat.example.com") && to.ends_with("/a/b?c=d"), "{to}");
    let response = client.post(format!("http://{at}/x")).header("host", "example.com").send().await.unwrap();
    assert_eq!(response.status(), StatusCode::PERMANENT_REDIRECT);
    let challenge = format!("http://{at}/.well-known/acme-challenge/nothing");
    assert_eq!(client.get(challenge).send().await.unwrap().status(), StatusCode::NOT_FOUND);
    // A balancer may know this port alone.
    assert_eq!(client.get(format!("http://{at}/health")).send().await.unwrap().status(), StatusCode::OK);
}

/// curl takes a stream that is reset behind its answer for a failure, while it still sends.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_still_sends_gets_the_answer_all_the_same() {
    let front = Front::open(settings(LOCAL));
    let port = front.at("https").port();
    let dir = tempfile::tempdir().unwrap();
    let large = dir.path().join("large");
    std::fs::write(&large, vec![b'x'; 6 << 20]).unwrap();
    let resolve = format!("example.com:{port}:{}", front.at("https").ip());
    let url = format!("https://example.com:{port}/.well-known/matrix/client");
    for body in ["x".to_owned(), format!("@{}", large.display())] {
        for _ in 0..5 {
            let mut curl = tokio::process::Command::new("curl");
            curl.args([
                "-sk",
                "--http2",
                "--max-time",
                "20",
                "-X",
                "POST",
                "--data-binary",
                &body,
                "--resolve",
                &resolve,
            ]);
            curl.args(["-o", "/dev/null", "-w", "%{http_version} %{http_code} %{exitcode}", &url]);
            let Ok(done) = curl.output().await else {
                assert!(std::env::var("CI").as_deref() != Ok("true"), "no curl");
                #[expect(clippy::print_stderr, reason = "the one line that says the test was skipped")]
                {
                    eprintln!("skipped: no curl");
                }
                return;
            };
            assert_eq!(String::from_utf8_lossy(&done.stdout), "2 405 0", "{} bytes", body.len());
        }
    }
}

/// Many clients read nothing before they have sent all.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_too_large_is_refused_to_whoever_sends_all_of_it_first() {
    let front = Front::open(settings("{local_ca: true, limits: {body_size: 1000}}"));
    const MEBIBYTES: usize = 20;
    let large = vec![b'x'; 1 << 20];
    let any = rustls::ClientConfig::builder().with_root_certificates(front.roots()).with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(any));
    for chunked in [false, true] {
        let framing = match chunked {
            true => "Transfer-Encoding: chunked".to_owned(),
            false => format!("Content-Length: {}", MEBIBYTES << 20),
        };
        let stream = tokio::net::TcpStream::connect(front.at("https")).await.unwrap();
        let mut stream = connector.connect("example.com".try_into().unwrap(), stream).await.unwrap();
        let head = format!("POST /_matrix/client/length HTTP/1.1\r\nHost: example.com\r\n{framing}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        for _ in 0..MEBIBYTES {
            if chunked {
                stream.write_all(format!("{:x}\r\n", large.len()).as_bytes()).await.unwrap();
            }
            stream.write_all(&large).await.unwrap();
            if chunked {
                stream.write_all(b"\r\n").await.unwrap();
            }
        }
        stream.write_all(if chunked { b"0\r\n\r\n" } else { b"" }).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        // What is announced is refused by the edge itself, what is not by the stand-in.
        let words = if chunked { "length limit exceeded" } else { "M_TOO_LARGE" };
        assert!(answer.starts_with("HTTP/1.1 413 ") && answer.contains(words), "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_asks_first_is_refused_before_the_body() {
    let mut settings = settings("{local_ca: true, limits: {body_size: 1000}}");
    settings.listeners = vec![listener("8008", false, &["client"])];
    let front = Front::open(settings);
    let ask = "POST /_matrix/client/length HTTP/1.1\r\nHost: x\r\nContent-Length: 2000\r\nExpect: 100-continue\r\n\r\n";
    let answer = front.raw("8008", ask).await;
    assert!(answer.starts_with("HTTP/1.1 413 ") && !answer.contains("100 Continue"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_listened_to_for_ever_once_refused() {
    let mut settings = settings("{local_ca: true, limits: {body_size: 1000}}");
    settings.listeners = vec![listener("8008", false, &["client"])];
    let front = Front::open(settings);
    let head = "POST /_matrix/client/length HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n";
    let begins = async || {
        let mut stream = tokio::net::TcpStream::connect(front.at("8008")).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
        stream
    };
    let mut stream = begins().await;
    let (large, mut sent) = (vec![b'x'; 1 << 20], 0);
    let cut = async {
        while stream.write_all(&large).await.is_ok() {
            sent += 1;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), cut).await.expect("it takes in everything");
    assert!((100..200).contains(&sent), "{sent} MiB");
    // Nor does a stop wait for it.
    let _silent = begins().await;
    let begun = std::time::Instant::now();
    assert!(front.edge.stop(Duration::from_secs(20)).await);
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_stream_both_ways() {
    let mut settings = settings("{}");
    settings.edge = None;
    settings.listeners = vec![listener("8008", false, &["client"])];
    let front = Front::open(settings);
    let url = format!("http://{}/_matrix/client/echo", front.at("8008"));
    // The second half is sent only once the first has come back: nothing on the way waits for the whole body.
    let (send, receive) = tokio::sync::mpsc::unbounded_channel::<Result<&'static str, std::io::Error>>();
    let body = reqwest::Body::wrap_stream(futures_util::stream::unfold(receive, |mut r| async {
        r.recv().await.map(|item| (item, r))
    }));
    send.send(Ok("first ")).unwrap();
    let mut response = plain().post(url).body(body).send().await.unwrap();
    assert_eq!(response.chunk().await.unwrap().unwrap(), "first ");
    send.send(Ok("second")).unwrap();
    drop(send);
    assert_eq!(response.chunk().await.unwrap().unwrap(), "second");
    assert!(response.chunk().await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_whose_client_left_is_dropped() {
    let mut front = Front::open(settings(LOCAL));
    for http2 in [false, true] {
        let client = front.client("https", http2);
        let url = format!("https://example.com:{}/_matrix/client/sync", front.at("https").port());
        let poll = tokio::spawn(client.get(url).send());
        assert_eq!(front.seen.recv().await, Some(Seen::Polling));
        poll.abort();
        drop(client);
        assert_eq!(front.seen.recv().await, Some(Seen::Dropped), "http2: {http2}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_lets_running_requests_end_and_begins_none() {
    let mut front = Front::open(settings(LOCAL));
    let url = format!("https://example.com:{}/_matrix/client/sync", front.at("https").port());
    let (h1, h2) = (front.client("https", false), front.client("https", true));
    let polls = [tokio::spawn(h1.get(&url).send()), tokio::spawn(h2.get(&url).send())];
    for _ in &polls {
        assert_eq!(front.seen.recv().await, Some(Seen::Polling));
    }
    let edge = front.edge.clone();
    let stop = tokio::spawn(async move { edge.stop(Duration::from_secs(10)).await });
    // Refused once the listener is closed; before that, a connection may still come into the kernel's queue.
    let refused = async {
        while tokio::net::TcpStream::connect(front.at("https")).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), refused).await.unwrap();
    front.news.notify_waiters();
    for poll in polls {
        assert_eq!(poll.await.unwrap().unwrap().status(), 200);
    }
    drop((h1, h2));
    assert!(stop.await.unwrap(), "all ended by themselves");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_deadline_ends_what_does_not_end() {
    let mut front = Front::open(settings(LOCAL));
    let client = front.client("https", true);
    let url = format!("https://example.com:{}/_matrix/client/sync", front.at("https").port());
    let poll = tokio::spawn(client.get(url).send());
    assert_eq!(front.seen.recv().await, Some(Seen::Polling));
    assert!(!front.edge.stop(Duration::from_millis(50)).await);
    assert!(poll.await.unwrap().is_err());
    assert_eq!(front.seen.recv().await, Some(Seen::Dropped));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_port_is_one_sentence() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let at = taken.local_addr().unwrap();
    let mut settings = settings("{}");
    settings.edge = None;
    settings.listeners = vec![listener("clients", false, &["client"])];
    settings.listeners[0].place = hearth_edge::settings::Place::Tcp(vec![at]);
    let edge = hearth_edge::Edge::new(settings, hearth_base::tasks::Supervisor::new());
    let said = edge.unwrap().bind().unwrap_err().to_string();
    assert!(said.contains(&at.to_string()) && said.contains("in use") && said.contains("clients"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_compressed_where_a_listener_wants_it_and_the_client_takes_it() {
    let mut settings = settings("{local_ca: true, compress: true}");
    settings.listeners = vec![listener("8008", false, &["client"]), listener("small", false, &["client"])];
    settings.listeners[1].compress = true;
    let front = Front::open(settings);
    let length = async |client: reqwest::Client, base: String, takes: &str| {
        let request = client.get(format!("{base}/_matrix/client/long")).header("accept-encoding", takes);
        let answer = request.send().await.unwrap();
        let encoding = answer.headers().get("content-encoding").map(|v| v.to_str().unwrap().to_owned());
        let bytes = answer.bytes().await.unwrap();
        assert_eq!(encoding.is_some(), bytes.starts_with(&[0x1f, 0x8b]), "{encoding:?}");
        bytes.len()
    };
    let https = format!("https://example.com:{}", front.at("https").port());
    let (plain_one, small) = (format!("http://{}", front.at("8008")), format!("http://{}", front.at("small")));
    assert_eq!(length(plain(), plain_one, "gzip").await, 11_001);
    assert_eq!(length(plain(), small.clone(), "br").await, 11_001);
    assert!(length(plain(), small, "gzip").await < 500);
    assert!(length(front.client("https", true), https, "gzip, br").await < 500);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_listeners_at_one_place_are_told_apart_from_a_busy_port() {
    let mut settings = settings("{listen: {http: 1080}}");
    settings.edge.as_mut().unwrap().listen.http = hearth_config::edge::Ports::one(1080);
    settings.listeners = vec![listener("clients", false, &["client"])];
    settings.listeners[0].place = hearth_edge::settings::Place::Tcp(vec!["0.0.0.0:1080".parse().unwrap()]);
    let edge = hearth_edge::Edge::new(settings.clone(), hearth_base::tasks::Supervisor::new());
    let said = edge.err().unwrap().to_string();
    assert!(said.contains("0.0.0.0:1080") && said.contains("`clients`") && said.contains("`http`"), "{said}");
    settings.listeners.clear();
    settings.edge.as_mut().unwrap().listen.http = serde_yaml::from_str("[1080, '127.0.0.1:1080']").unwrap();
    let said = hearth_edge::examine(&settings);
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].0 == "edge.listen.http" && said[0].1.contains("127.0.0.1:1080 is wanted twice"), "{said:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_takes_new_documents_and_folders_without_closing_connections() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("index.html"), "app").unwrap();
    let front = Front::open(settings(LOCAL));
    let client = front.client("https", true);
    let url = |path: &str| format!("https://example.com:{}{path}", front.at("https").port());
    assert_eq!(client.get(url("/docs/")).send().await.unwrap().status(), StatusCode::NOT_FOUND);
    let mut changed = front.settings.clone();
    changed.public_baseurl = Some("https://other.example.com/".to_owned());
    let app = format!("{{folder: {:?}, at: /docs}}", folder.path().display().to_string());
    changed.edge.as_mut().unwrap().apps = vec![serde_yaml::from_str(&app).unwrap()];
    front.edge.reload(changed.clone()).unwrap();
    assert_eq!(client.get(url("/docs/")).send().await.unwrap().text().await.unwrap(), "app");
    let body: Value = client.get(url("/.well-known/matrix/server")).send().await.unwrap().json().await.unwrap();
    assert_eq!(body["m.server"], "other.example.com:443");
    changed.edge.as_mut().unwrap().apps[0].folder = "/nowhere".into();
    let said = front.edge.reload(changed).unwrap_err().to_string();
    assert!(said.contains("/nowhere"), "{said}");
    assert_eq!(client.get(url("/docs/")).send().await.unwrap().status(), 200, "a bad reload changes nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_answer_on_their_listener_and_where_listed() {
    let mut settings = settings("{}");
    settings.edge = None;
    settings.listeners = vec![
        listener("m", false, &[]),
        listener("8008", false, &["client"]),
        listener("both", false, &["client", "metrics"]),
    ];
    settings.listeners[0].serves = hearth_edge::settings::Serves::Metrics;
    let front = Front::open(settings);
    let get = async |name: &str| {
        plain().get(format!("http://{}/_synapse/metrics", front.at(name))).send().await.unwrap().status().as_u16()
    };
    assert_eq!((get("m").await, get("8008").await, get("both").await), (200, 404, 200));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_web_client_location_is_where_the_root_leads() {
    let mut settings = settings("{}");
    settings.edge = None;
    settings.web_client_location = Some("https://element.example.com/".to_owned());
    settings.listeners = vec![listener("8008", false, &["client"])];
    let front = Front::open(settings);
    let response = plain().get(format!("http://{}/", front.at("8008"))).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::FOUND);
    assert_eq!(response.headers()["location"], "https://element.example.com/");
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_is_spoken_without_tls_to_those_who_begin_with_it() {
    let mut settings = settings("{}");
    settings.edge = None;
    settings.listeners = vec![listener("8008", false, &["client"])];
    let front = Front::open(settings);
    let client = crate::front::client_builder(&[], true).http2_prior_knowledge().build().unwrap();
    let response = client.get(format!("http://{}/health", front.at("8008"))).send().await.unwrap();
    assert_eq!((response.version(), response.status()), (http::Version::HTTP_2, StatusCode::OK));
}
