//! What strangers try: too much, too slowly, too often, and where they should not.

use std::time::Duration;

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::front::{Front, listener, plain, settings};

fn open(limits: &str, more: &str) -> (Front, String) {
    let mut settings = settings(&format!("{{local_ca: true, limits: {{exempt: [], {limits}}}, {more}}}"));
    settings.listeners = vec![listener("8008", true, &["client"])];
    let front = Front::open(settings);
    let base = format!("http://{}", front.at("8008"));
    (front, base)
}

/// Reads until the other side closes.
async fn to_end(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_are_bounded() {
    let (front, _) = open("header_size: 8192, headers: 16", "");
    let many: String = (0..20).map(|n| format!("x-{n}: 1\r\n")).collect();
    let long = format!("x: {}\r\n", "y".repeat(9000));
    for extra in [many, long] {
        let request = format!("GET /health HTTP/1.1\r\nHost: x\r\n{extra}Connection: close\r\n\r\n");
        let answer = front.raw("8008", &request).await;
        assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    }
    let client = front.client("https", true);
    let url = format!("https://example.com:{}/health", front.at("https").port());
    let big = client.get(&url).header("x", "y".repeat(9000)).send().await;
    assert!(big.is_err() || big.unwrap().status() == 431);
    let many = (0..20).fold(client.get(&url), |asked, n| asked.header(format!("x-{n}"), "1"));
    let many = many.send().await.unwrap();
    assert_eq!((many.version(), many.status().as_u16()), (http::Version::HTTP_2, 431));
    assert_eq!(client.get(&url).send().await.unwrap().status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_are_bounded_whether_announced_or_not() {
    let (_front, base) = open("body_size: 1000", "");
    let url = format!("{base}/_matrix/client/length");
    let announced = plain().post(&url).body(vec![b'x'; 1001]).send().await.unwrap();
    assert_eq!(announced.status(), 413);
    let body: Value = announced.json().await.unwrap();
    assert_eq!(body["errcode"], "M_TOO_LARGE");
    let chunks = futures_util::stream::iter((0..20).map(|_| Ok::<_, std::io::Error>(vec![b'x'; 100])));
    let chunked = plain().post(&url).body(reqwest::Body::wrap_stream(chunks)).send().await.unwrap();
    assert_eq!(chunked.status(), 413);
    assert_eq!(plain().post(&url).body(vec![b'x'; 1000]).send().await.unwrap().text().await.unwrap(), "1000");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_address_may_ask_so_often_and_another_still() {
    let (_front, base) = open("requests_per_address: 1", "");
    let ask =
        async |ip: &str| plain().get(format!("{base}/health")).header("x-forwarded-for", ip).send().await.unwrap();
    let mut refused = None;
    for _ in 0..11 {
        let response = ask("203.0.113.1").await;
        if response.status() == 429 {
            refused = Some(response);
        }
    }
    let refused = refused.expect("ten in ten seconds, not eleven");
    assert_eq!(refused.headers()["retry-after"], "10");
    assert_eq!(refused.headers()["access-control-allow-origin"], "*");
    let body: Value = refused.json().await.unwrap();
    assert_eq!((&body["errcode"], &body["retry_after_ms"]), (&"M_LIMIT_EXCEEDED".into(), &10_000.into()));
    assert_eq!(ask("203.0.113.2").await.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_address_may_hold_so_many_connections() {
    let mut settings = settings("{local_ca: true, limits: {exempt: [], connections_per_address: 2}}");
    settings.listeners = vec![listener("8008", false, &["client"])];
    let front = Front::open(settings);
    let hello = async || {
        let mut stream = TcpStream::connect(front.at("8008")).await.unwrap();
        stream.write_all(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let mut first = [0; 8];
        (stream.read_exact(&mut first).await.is_ok(), stream)
    };
    let (one, two, three) = (hello().await, hello().await, hello().await);
    assert_eq!((one.0, two.0, three.0), (true, true, false));
    drop(one);
    // The place is free once the server has noticed; until then newcomers are still turned away.
    let again = async { while !hello().await.0 {} };
    tokio::time::timeout(Duration::from_secs(10), again).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_senders_are_cut_off() {
    let (front, _) = open("handshake_timeout: 1, header_timeout: 1, body_timeout: 1", "");
    let begun = std::time::Instant::now();
    let cut = async |listener: &str, start: &str| {
        let mut stream = TcpStream::connect(front.at(listener)).await.unwrap();
        stream.write_all(start.as_bytes()).await.unwrap();
        to_end(&mut stream).await
    };
    let half_body = "POST /_matrix/client/length HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf";
    let (silent, head, body, hello, nothing) = tokio::join!(
        cut("8008", ""),
        cut("8008", "GET /health HTTP/1.1\r\nHos"),
        cut("8008", half_body),
        cut("https", "\x16\x03\x01"),
        cut("https", ""),
    );
    assert_eq!((silent.as_str(), hello.as_str(), nothing.as_str()), ("", "", ""));
    assert!(head.is_empty() || head.starts_with("HTTP/1.1 408"), "{head}");
    assert!(body.starts_with("HTTP/1.1 4"), "{body}");
    assert!(begun.elapsed() < Duration::from_secs(8), "all are cut off at once, after a second");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_takes_nothing_is_cut_off() {
    let root = tempfile::tempdir().unwrap();
    std::fs::write(root.path().join("big"), vec![0u8; 64 << 20]).unwrap();
    let app = format!("apps: [{{folder: {:?}, at: /app}}]", root.path().display().to_string());
    let (front, _) = open("body_timeout: 1", &app);
    let mut stream = TcpStream::connect(front.at("8008")).await.unwrap();
    stream.write_all(b"GET /app/big HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    // Not reading: the server's writes fill the buffers of both kernels and stall. Stop waits for open connections,
    // so that it ends well before its deadline shows that the connection was closed.
    stream.readable().await.unwrap();
    let begun = std::time::Instant::now();
    assert!(front.edge.stop(Duration::from_secs(20)).await);
    assert!(begun.elapsed() < Duration::from_secs(10));
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_agrees_on_http2_and_says_nothing_is_cut_off() {
    let (front, _) = open("header_timeout: 1", "");
    let mut any = rustls::ClientConfig::builder().with_root_certificates(front.roots()).with_no_client_auth();
    any.alpn_protocols = vec![b"h2".to_vec()];
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(any));
    for said in [&b""[..], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &by_http2::begin(65_535)] {
        let stream = TcpStream::connect(front.at("https")).await.unwrap();
        let mut stream = connector.connect("example.com".try_into().unwrap(), stream).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        stream.write_all(said).await.unwrap();
        // Closed without a word of TLS, which is an error to whoever reads.
        let closed = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut Vec::new())).await;
        assert!(closed.is_ok(), "{} bytes", said.len());
    }
}

/// By HTTP/2 a client holds answers back without its socket ever stalling: it grants no room for them, or room for less
/// than their last piece.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_has_room_for_nothing_is_cut_off() {
    let root = tempfile::tempdir().unwrap();
    std::fs::write(root.path().join("big"), vec![0u8; 1 << 20]).unwrap();
    let app = format!("apps: [{{folder: {:?}, at: /app}}]", root.path().display().to_string());
    let (front, _) = open("body_timeout: 1", &app);
    for (room, path) in [(0, "/app/big"), (0, "/_matrix/client/long"), (1, "/_matrix/client/long"), (1000, "/app/big")]
    {
        let mut stream = TcpStream::connect(front.at("8008")).await.unwrap();
        stream.write_all(&by_http2::begin(room)).await.unwrap();
        for number in [1, 3, 5] {
            stream.write_all(&by_http2::get(number, path)).await.unwrap();
        }
        let answer = tokio::time::timeout(Duration::from_secs(10), to_end(&mut stream)).await;
        assert!(!answer.unwrap().is_empty(), "{path} with room for {room} was begun");
    }
    // Whoever takes it gets it, over the same kind of connection.
    let mut stream = TcpStream::connect(front.at("8008")).await.unwrap();
    stream.write_all(&by_http2::begin(65_535)).await.unwrap();
    stream.write_all(&by_http2::get(1, "/_matrix/client/long")).await.unwrap();
    let mut taken = vec![0; 11_001];
    stream.read_exact(&mut taken).await.unwrap();
}

/// Frames of HTTP/2 (RFC 9113), for what no client of good manners does.
mod by_http2 {
    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
    }

    /// The preface, and settings with room for so much of each answer.
    pub fn begin(room: u32) -> Vec<u8> {
        let settings = frame(4, 0, 0, &[&[0, 4][..], &room.to_be_bytes()].concat());
        [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &settings].concat()
    }

    /// A request without a body: `:method GET` and `:scheme http` by number, `:authority` and `:path` as they are.
    pub fn get(stream: u32, path: &str) -> Vec<u8> {
        let length = u8::try_from(path.len()).unwrap();
        let head = [&[0x82, 0x86, 0x01, 1, b'x', 0x04, length], path.as_bytes()].concat();
        frame(1, 0x4 | 0x1, stream, &head)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_admin_api_answers_where_it_may() {
    let (front, base) = open("", "admin_api: {allow: [203.0.113.0/24], listeners: ['8008']}");
    let path = "/_synapse/admin/v1/server_version";
    let from = async |ip: &str| {
        plain().get(format!("{base}{path}")).header("x-forwarded-for", ip).send().await.unwrap().status().as_u16()
    };
    assert_eq!((from("203.0.113.9").await, from("198.51.100.1").await), (200, 403));
    let url = format!("https://example.com:{}{path}", front.at("https").port());
    assert_eq!(front.client("https", true).get(url).send().await.unwrap().status(), 403);
    for path in [
        "/%5fsynapse/admin/v1/server_version",
        "//_synapse/admin/v1/server_version",
        "/x/../_synapse/admin/v1/server_version",
    ] {
        let answer = front.raw("8008", &format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 404"), "{path}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn media_never_runs_in_this_origin() {
    let (_front, base) = open("", "");
    let evil = plain().get(format!("{base}/_matrix/media/v3/download/evil")).send().await.unwrap();
    assert_eq!(evil.headers()["content-disposition"], "attachment");
    assert!(evil.headers()["content-security-policy"].to_str().unwrap().starts_with("sandbox"));
    assert_eq!(evil.headers()["x-content-type-options"], "nosniff");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_names_one_host() {
    let (front, _) = open("", "");
    let status = async |listener: &str, head: &str| {
        let answer = front.raw(listener, &format!("{head}\r\nConnection: close\r\n\r\n")).await;
        answer.split(' ').nth(1).unwrap_or_default().to_owned()
    };
    for (wanted, lines) in [
        ("200", "HTTP/1.1\r\nHost: example.com"),
        ("200", "HTTP/1.1\r\nHost: example.com.:8008"),
        ("200", "HTTP/1.0"),
        ("400", "HTTP/1.1"),
        ("400", "HTTP/1.1\r\nHost: example.com\r\nHost: evil.test"),
        ("400", "HTTP/1.1\r\nHost: example.com/x?"),
        ("400", "HTTP/1.1\r\nHost: example.com@evil.test"),
    ] {
        assert_eq!(status("8008", &format!("GET /health {lines}")).await, wanted, "{lines:?}");
    }
    // What is sent on to HTTPS goes to a host and a path, whatever was asked for.
    let odd = front.raw("http", "OPTIONS * HTTP/1.1\r\nHost: example.com\r\nConnection: close\r\n\r\n").await;
    let port = front.at("https").port();
    assert!(
        odd.contains(&format!("location: https://example.com:{port}/\r\n"))
            || odd.contains("location: https://example.com:0/\r\n"),
        "{odd}"
    );
    assert_eq!(status("http", "GET / HTTP/1.1\r\nHost: example.com:1:2").await, "400");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_no_listener_has_does_not_close_the_admin_api_unseen() {
    let settings = settings("{local_ca: true, admin_api: {listeners: [https, htpps]}}");
    let said = hearth_edge::Edge::new(settings, hearth_base::tasks::Supervisor::new()).err().unwrap().to_string();
    assert!(
        said.contains("edge.admin_api.listeners[1]") && said.contains("`htpps`") && said.contains("federation"),
        "{said}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_balancer_names_the_caller_and_nobody_else_does() {
    // Each connection from an address of its own, as the server may not have noticed yet that the one before has gone.
    let by = |last: u8| format!("PROXY TCP4 203.0.113.{last} 192.0.2.1 4711 80\r\n");
    let ask = "GET /_matrix/client/whoami HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let more = "redirect: false, proxy_protocol: [127.0.0.1]";
    let (front, _) = open("connections_per_address: 1", more);
    let answer = front.raw("http", &format!("{}{ask}", by(1))).await;
    assert!(answer.contains(r#""ip":"203.0.113.1""#) && answer.contains(r#""listener":"http""#), "{answer}");
    for other in [ask, "\x16\x03\x01\x02\0\x01\0\x01\x7c\x03\x03"] {
        assert_eq!(front.raw("http", other).await, "", "a balancer has to say who calls");
    }
    assert!(front.raw("8008", ask).await.contains(r#""ip":"127.0.0.1""#), "on other listeners it is not spoken");
    assert!(front.raw("8008", &format!("{}{ask}", by(2))).await.starts_with("HTTP/1.1 400"));

    // Behind the head everything is as ever: TLS, and connections counted by the caller's address.
    let mut holds = TcpStream::connect(front.at("http")).await.unwrap();
    holds.write_all(format!("{}GET /health HTTP/1.1\r\nHost: x\r\n\r\n", by(3)).as_bytes()).await.unwrap();
    holds.read_exact(&mut [0; 8]).await.unwrap();
    assert_eq!(front.raw("http", &format!("{}{ask}", by(3))).await, "", "it has its one connection");
    assert!(front.raw("http", &format!("{}{ask}", by(4))).await.contains("203.0.113.4"));
    let mut tls = TcpStream::connect(front.at("https")).await.unwrap();
    tls.write_all(by(5).as_bytes()).await.unwrap();
    let any = rustls::ClientConfig::builder().with_root_certificates(front.roots()).with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(any));
    let mut tls = connector.connect("example.com".try_into().unwrap(), tls).await.unwrap();
    tls.write_all(ask.as_bytes()).await.unwrap();
    let mut answer = String::new();
    tls.read_to_string(&mut answer).await.unwrap();
    assert!(answer.contains(r#""ip":"203.0.113.5""#) && answer.contains(r#""tls":true"#), "{answer}");

    let (front, _) = open("", "redirect: false, proxy_protocol: [192.0.2.0/24]");
    assert!(
        front.raw("http", &format!("{}{ask}", by(6))).await.starts_with("HTTP/1.1 400"),
        "a stranger's word is none"
    );
    assert!(front.raw("http", ask).await.contains(r#""ip":"127.0.0.1""#));
}

#[tokio::test(flavor = "multi_thread")]
async fn rubbish_is_not_answered_with_500() {
    let (front, _) = open("header_timeout: 1", "");
    for rubbish in [
        "\0\0\0\0\r\n\r\n",
        "GET\r\n\r\n",
        "GET / HTTP/9.9\r\n\r\n",
        "GET /health HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        "GET /health HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        "CONNECT example.com:443 HTTP/1.1\r\nHost: example.com\r\nConnection: close\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nrubbish instead of frames",
    ] {
        let answer = front.raw("8008", rubbish).await;
        assert!(!answer.contains(" 500 "), "{rubbish:?}: {answer}");
    }
    assert!(front.raw("8008", "GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.ends_with("OK"));
}
