//! What runs elsewhere: HTTP and WebSocket through us, and who the caller is said to be.

use std::sync::Arc;

use axum::{Router, extract::Request, routing::any};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UnixListener},
};

use crate::front::{Front, Seen, listener, plain, settings};

/// An upstream that tells what it was asked.
fn mirror() -> Router {
    Router::new().fallback(any(|request: Request| async move {
        let headers: serde_json::Map<String, Value> =
            request.headers().iter().map(|(name, value)| (name.to_string(), json!(value.to_str().unwrap()))).collect();
        let (method, uri) = (request.method().to_string(), request.uri().to_string());
        let body = axum::body::to_bytes(request.into_body(), 1 << 20).await.unwrap();
        let told = json!({"method": method, "uri": uri, "headers": headers, "body": body.len()}).to_string();
        ([("x-method", method), ("x-body", body.len().to_string())], told)
    }))
}

fn open(yaml: &str) -> (Front, String) {
    let mut settings = settings(yaml);
    settings.listeners = vec![listener("8008", true, &["client"]), listener("bare", false, &["client"])];
    let front = Front::open(settings);
    let base = format!("http://{}", front.at("8008"));
    (front, base)
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_passed_on_with_their_caller() {
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = tcp.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(tcp, mirror()).await });
    let (front, base) = open(&format!(
        "{{local_ca: true, upstreams: [{{at: /hooks, to: 'http://{to}', strip: true}}, {{at: /_matrix/client/v3/login, to: 'http://{to}', preserve_host: false}}]}}"
    ));
    let ask = |url: String| {
        let asked = plain().post(url).header("x-forwarded-for", "203.0.113.5").header("x-forwarded-port", "4711");
        asked.header("x_forwarded_for", "203.0.113.6").header("connection", "x-drop").header("x-drop", "1")
    };
    let told: Value = serde_json::from_str(
        &ask(format!("{base}/hooks/a?b=c")).body("four").send().await.unwrap().text().await.unwrap(),
    )
    .unwrap();
    assert_eq!((&told["method"], &told["uri"], &told["body"]), (&"POST".into(), &"/a?b=c".into(), &4.into()));
    let headers = &told["headers"];
    assert_eq!(headers["x-forwarded-for"], "203.0.113.5, 127.0.0.1");
    assert_eq!(headers["x-forwarded-proto"], "http");
    assert_eq!(headers["host"], base.trim_start_matches("http://"));
    assert_eq!(headers["x-forwarded-port"], "4711");
    assert!(headers.get("x-drop").is_none() && headers.get("x_forwarded_for").is_none());

    let bare = format!("http://{}/hooks", front.at("bare"));
    let told: Value = serde_json::from_str(&ask(bare).send().await.unwrap().text().await.unwrap()).unwrap();
    assert_eq!(told["headers"]["x-forwarded-for"], "127.0.0.1", "a stranger's word is not passed on");
    for name in ["x-forwarded-port", "x_forwarded_for"] {
        assert!(told["headers"].get(name).is_none(), "{name} of a stranger");
    }
    assert_eq!(told["uri"], "/");

    let login = format!("{base}/_matrix/client/v3/login");
    let told: Value = serde_json::from_str(&ask(login).send().await.unwrap().text().await.unwrap()).unwrap();
    assert_eq!((&told["uri"], &told["headers"]["host"]), (&"/_matrix/client/v3/login".into(), &to.to_string().into()));
    let own = plain().get(format!("{base}/_matrix/client/versions")).send().await.unwrap();
    assert!(own.text().await.unwrap().contains("versions"), "the rest of /_matrix stays ours");

    let client = front.client("https", true);
    let url = format!("https://chat.example.com:{}/hooks/x", front.at("https").port());
    let asked = client.get(url).header("cookie", "a=1").header("cookie", "b=2");
    let told: Value = serde_json::from_str(&asked.send().await.unwrap().text().await.unwrap()).unwrap();
    assert_eq!(told["headers"]["x-forwarded-proto"], "https");
    assert_eq!(told["headers"]["cookie"], "a=1; b=2", "in one line, as HTTP/1 has it");
    assert!(told["headers"]["host"].as_str().unwrap().starts_with("chat.example.com"));
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_are_passed_on_whatever_the_method_and_however_they_come() {
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = tcp.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(tcp, mirror()).await });
    let (front, _) = open(&format!("{{local_ca: true, upstreams: [{{at: /up, to: 'http://{to}'}}]}}"));
    let http2 = front.client("https", true);
    let url = format!("https://chat.example.com:{}/up/x", front.at("https").port());
    for method in ["GET", "HEAD", "DELETE", "OPTIONS", "PROPFIND", "POST"] {
        let told = |answer: &str| {
            let answer = answer.to_ascii_lowercase();
            assert!(answer.contains(&format!("x-method: {}\r\n", method.to_ascii_lowercase())), "{method}: {answer}");
            answer.contains("x-body: 4\r\n")
        };
        let head = format!("{method} /up/x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n");
        for rest in [
            "Content-Length: 4\r\n\r\nfour",
            "Transfer-Encoding: chunked\r\n\r\n4\r\nfour\r\n0\r\n\r\n",
            // What is said twice is said by the chunks.
            "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nfour\r\n0\r\n\r\n",
            "Transfer-Encoding: chunked\r\nTrailer: x-t\r\n\r\n2\r\nfo\r\n2\r\nur\r\n0\r\nx-t: 1\r\n\r\n",
            "Expect: 100-continue\r\nContent-Length: 4\r\n\r\nfour",
        ] {
            assert!(told(&front.raw("bare", &format!("{head}{rest}")).await), "{method} {rest}");
        }
        assert!(!told(&front.raw("bare", &format!("{head}\r\n")).await), "{method} without a body");
        let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
        let chunks = futures_util::stream::iter(["fo", "ur"].map(Ok::<_, std::io::Error>));
        let asked = http2.request(method.clone(), &url).body(reqwest::Body::wrap_stream(chunks));
        let answer = asked.send().await.unwrap();
        assert_eq!(
            (answer.version(), &answer.headers()["x-body"]),
            (http::Version::HTTP_2, &"4".parse().unwrap()),
            "{method}"
        );
    }
    // Another coding would be taken off the head and left on the body; and we are no tunnel.
    let coded = "POST /up/x HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: gzip, chunked\r\n\r\n4\r\nfour\r\n0\r\n\r\n";
    let tunnel = "CONNECT /up/x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    for refused in [coded, tunnel] {
        let answer = front.raw("bare", refused).await;
        assert!(answer.starts_with("HTTP/1.1 501"), "{refused}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dots_are_not_passed_on_and_a_missing_upstream_is_502() {
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let (front, base) = open(&format!("{{local_ca: true, upstreams: [{{at: /gone, to: 'http://{closed}'}}]}}"));
    assert_eq!(plain().get(format!("{base}/gone/x")).send().await.unwrap().status(), 502);
    for path in ["/gone/../admin", "/gone/%2e%2e/admin", "/gone/.%2E/x"] {
        let answer = front.raw("8008", &format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{path}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whose_fault_it_is_that_nothing_came_through() {
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = tcp.local_addr().unwrap();
    // Begins an answer and says no more.
    let silent = Router::new().route(
        "/silent",
        any(|| async {
            let begun = futures_util::stream::once(async { Ok::<_, std::io::Error>("begun") });
            axum::body::Body::from_stream(futures_util::StreamExt::chain(begun, futures_util::stream::pending()))
        }),
    );
    tokio::spawn(async move { axum::serve(tcp, silent.merge(mirror())).await });
    let (_front, base) = open(&format!(
        "{{local_ca: true, limits: {{body_size: 1000, body_timeout: 1}}, upstreams: [{{at: /up, to: 'http://{to}', strip: true, timeout: 1}}]}}"
    ));
    let chunks = futures_util::stream::iter((0..20).map(|_| Ok::<_, std::io::Error>(vec![b'x'; 100])));
    let much = plain().post(format!("{base}/up/x")).body(reqwest::Body::wrap_stream(chunks)).send().await.unwrap();
    assert_eq!(much.status(), 413);
    let stalls = futures_util::stream::pending::<Result<Vec<u8>, std::io::Error>>();
    let slow = plain().post(format!("{base}/up/x")).body(reqwest::Body::wrap_stream(stalls)).send().await.unwrap();
    assert!(matches!(slow.status().as_u16(), 408 | 504), "{}", slow.status());
    // Who sends slowly and goes on is not cut off by the patience that there is with the upstream.
    let slowly = futures_util::stream::unfold(0, |sent| async move {
        tokio::time::sleep(std::time::Duration::from_millis(700)).await;
        (sent < 3).then_some((Ok::<_, std::io::Error>(vec![b'x'; 100]), sent + 1))
    });
    let slow = plain().post(format!("{base}/up/x")).body(reqwest::Body::wrap_stream(slowly)).send().await.unwrap();
    assert_eq!(slow.status(), 200);
    let told: Value = slow.json().await.unwrap();
    assert_eq!(told["body"], 300);
    let begun = plain().get(format!("{base}/up/silent")).send().await.unwrap();
    assert_eq!(begun.status(), 200);
    assert!(begun.text().await.is_err(), "an upstream that falls silent is not waited for, for ever");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_admin_api_is_closed_to_others_wherever_it_runs() {
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = tcp.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(tcp, mirror()).await });
    let (_front, base) = open(&format!(
        "{{local_ca: true, admin_api: {{allow: [203.0.113.0/24]}}, upstreams: [{{at: /_synapse, to: 'http://{to}'}}]}}"
    ));
    let from = async |ip: &str, path: &str| {
        plain().get(format!("{base}{path}")).header("x-forwarded-for", ip).send().await.unwrap().status().as_u16()
    };
    for path in ["/_synapse/admin/v1/users", "/_synapse/%61dmin/v1/users"] {
        assert_eq!((from("203.0.113.9", path).await, from("198.51.100.1", path).await), (200, 403), "{path}");
    }
    assert_eq!(from("198.51.100.1", "/_synapse/client/x").await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unix_socket_is_reached() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("up.sock");
    let socket = UnixListener::bind(&path).unwrap();
    tokio::spawn(async move { axum::serve(socket, mirror()).await });
    let (_front, base) = open(&format!("{{local_ca: true, upstreams: [{{at: /u, to: 'unix:{}'}}]}}", path.display()));
    assert_eq!(plain().get(format!("{base}/u")).send().await.unwrap().status(), 200);
}

const UPGRADE: &str = "GET /ws HTTP/1.1\r\nHost: example.com\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                       Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

async fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let mut text = Vec::new();
    while !String::from_utf8_lossy(&text).ends_with(end) {
        let mut byte = [0];
        assert_eq!(stream.read(&mut byte).await.unwrap(), 1, "ended after {:?}", String::from_utf8_lossy(&text));
        text.push(byte[0]);
    }
    String::from_utf8(text).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_goes_both_ways_and_ends_with_the_server() {
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = tcp.local_addr().unwrap();
    let upstream = tokio::spawn(async move {
        let (mut stream, _) = tcp.accept().await.unwrap();
        let head = read_until(&mut stream, "\r\n\r\n").await.to_ascii_lowercase();
        assert!(head.contains("upgrade: websocket") && head.contains("sec-websocket-key: "), "{head}");
        let switch = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
        stream.write_all(switch.as_bytes()).await.unwrap();
        assert_eq!(read_until(&mut stream, "ping").await, "ping");
        stream.write_all(b"pong").await.unwrap();
        // Ends when our side goes.
        assert_eq!(stream.read(&mut [0]).await.unwrap_or(0), 0);
    });
    let (front, _) = open(&format!("{{local_ca: true, upstreams: [{{at: /ws, to: 'http://{to}'}}]}}"));
    let mut client = TcpStream::connect(front.at("bare")).await.unwrap();
    client.write_all(UPGRADE.as_bytes()).await.unwrap();
    let head = read_until(&mut client, "\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    client.write_all(b"ping").await.unwrap();
    assert_eq!(read_until(&mut client, "pong").await, "pong");
    assert!(front.edge.stop(std::time::Duration::from_secs(5)).await, "an open WebSocket does not hold up the stop");
    upstream.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_are_known_through_a_trusted_proxy_and_a_unix_socket() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("front.sock");
    let mut settings = settings("{}");
    settings.edge = None;
    settings.listeners = vec![listener("8008", true, &["client"]), listener("unix", true, &["client"])];
    settings.listeners[1].place = hearth_edge::settings::Place::Unix(path.clone(), 0o660);
    let front = Front::open(settings);
    let url = format!("http://{}/_matrix/client/whoami", front.at("8008"));
    let ask = plain().get(&url).header("x-forwarded-for", "1.1.1.1, 203.0.113.5").header("x-forwarded-proto", "https");
    let body: Value = ask.send().await.unwrap().json().await.unwrap();
    assert_eq!(body, json!({"ip": "203.0.113.5", "tls": true, "listener": "8008"}));

    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o660);
    let mut stream = tokio::net::UnixStream::connect(&path).await.unwrap();
    let request =
        "GET /_matrix/client/whoami HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 203.0.113.6\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.contains(r#""ip":"203.0.113.6""#), "{answer}");

    let second = hearth_edge::Edge::new(front.settings.clone(), front.supervisor.clone());
    let mut only_unix = front.settings.clone();
    only_unix.listeners.remove(0);
    drop(second);
    let second = hearth_edge::Edge::new(only_unix, front.supervisor.clone()).unwrap();
    assert!(second.bind().unwrap_err().to_string().contains("in use"), "a living socket is not taken away");
    drop(stream);
    assert!(front.edge.stop(std::time::Duration::from_secs(5)).await);
    assert!(!path.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_whose_client_left_ends_at_the_upstream() {
    let (tell, mut seen) = tokio::sync::mpsc::unbounded_channel();
    let tell = Arc::new(tell);
    struct Told(Arc<tokio::sync::mpsc::UnboundedSender<Seen>>);
    impl Drop for Told {
        fn drop(&mut self) {
            let _ = self.0.send(Seen::Dropped);
        }
    }
    let slow = Router::new().fallback(any(move || {
        let tell = tell.clone();
        async move {
            let _told = Told(tell.clone());
            let _ = tell.send(Seen::Polling);
            std::future::pending::<()>().await;
        }
    }));
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = tcp.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(tcp, slow).await });
    let (_front, base) = open(&format!("{{local_ca: true, upstreams: [{{at: /slow, to: 'http://{to}'}}]}}"));
    let poll = tokio::spawn(plain().get(format!("{base}/slow")).send());
    assert_eq!(seen.recv().await, Some(Seen::Polling));
    poll.abort();
    assert_eq!(seen.recv().await, Some(Seen::Dropped));
}
