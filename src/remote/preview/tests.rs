//! The browser against web servers of the tests' own on loopback, which say to the letter what is sent.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::{
    io::Write as _,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use flate2::{Compression, write::GzEncoder};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use url::Url;

use super::{Browser, MAX_REDIRECTS, Page, Settings};
use crate::{Failure, http::Proxy};

/// A web server that answers each path with the bytes that stand here.
struct Site {
    at: SocketAddr,
    saw: Arc<Mutex<Vec<String>>>,
}

impl Site {
    async fn serving(answer: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (at, saw) = (listener.local_addr().unwrap(), Arc::new(Mutex::new(Vec::new())));
        let (seen, answer) = (saw.clone(), Arc::new(answer));
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(serve(stream, seen.clone(), answer.clone()));
            }
        });
        Self { at, saw }
    }

    fn url(&self, path: &str) -> Url {
        Url::parse(&format!("http://{}{path}", self.at)).unwrap()
    }
}

async fn serve(mut stream: TcpStream, saw: Arc<Mutex<Vec<String>>>, answer: Arc<impl Fn(&str) -> Vec<u8>>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let head = String::from_utf8(head).unwrap();
    let path = head.split(' ').nth(1).unwrap().to_owned();
    saw.lock().push(head);
    let _ = stream.write_all(&answer(&path)).await;
}

fn page(headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n{headers}\r\n", body.len());
    [head.as_bytes(), body].concat()
}

fn moved(to: &str) -> Vec<u8> {
    format!("HTTP/1.1 302 Found\r\nConnection: close\r\nContent-Length: 0\r\nSet-Cookie: a=b\r\nLocation: {to}\r\n\r\n")
        .into_bytes()
}

fn packed(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn browser(change: impl FnOnce(&mut Settings)) -> Browser {
    let mut settings = Settings { languages: vec!["en".to_owned(), "de;q=0.5".to_owned()], ..Settings::default() };
    change(&mut settings);
    Browser::new(&settings).unwrap()
}

async fn get(browser: &Browser, url: &Url) -> Result<Page, Failure> {
    browser.get(url, "text/html", 1000, &|_| true).await
}

async fn whole(browser: &Browser, url: &Url) -> Result<Vec<u8>, Failure> {
    get(browser, url).await?.body.whole().await
}

#[tokio::test]
async fn a_page_is_asked_for_without_saying_who_asks() {
    let site = Site::serving(|path| match path {
        "/a?b=c" => moved("/d#e"),
        _ => page("Content-Type: text/html\r\nContent-Disposition: inline\r\n", b"hello"),
    })
    .await;
    let mut url = site.url("/a?b=c#f");
    url.set_username("ada").unwrap();
    url.set_password(Some("secret")).unwrap();
    let page = get(&browser(|_| {}), &url).await.unwrap();
    assert_eq!(page.url, site.url("/d"));
    assert_eq!((page.content_type.as_deref(), page.disposition.as_deref()), (Some("text/html"), Some("inline")));
    assert_eq!(page.body.whole().await.unwrap(), b"hello");
    let saw = site.saw.lock().iter().map(|s| s.to_ascii_lowercase()).collect::<Vec<_>>();
    assert_eq!(saw.len(), 2);
    for request in &saw {
        assert!(request.contains("accept-language: en, de;q=0.5\r\n") && request.contains("accept: text/html\r\n"));
        assert!(request.contains(&format!("host: {}\r\n", site.at)), "{request}");
        for secret in ["cookie", "authorization", "ada", "secret", "referer", "#"] {
            assert!(!request.contains(secret), "{secret}: {request}");
        }
    }
}

#[tokio::test]
async fn redirects_end_and_each_is_looked_at() {
    let site = Site::serving(|path| match path {
        "/loop" => moved("/loop"),
        "/file" => moved("file:///etc/passwd"),
        "/nowhere" => moved("http://[::1"),
        "/out" => moved("//127.0.0.2:1/secret"),
        _ => page("", b"in"),
    })
    .await;
    let browser = browser(|_| {});
    assert!(matches!(get(&browser, &site.url("/loop")).await, Err(Failure::Nonsense(_))));
    assert_eq!(site.saw.lock().len(), MAX_REDIRECTS + 1);
    assert!(matches!(get(&browser, &site.url("/file")).await, Err(Failure::Forbidden(_))));
    assert!(matches!(get(&browser, &site.url("/nowhere")).await, Err(Failure::Nonsense(_))));
    let asked = AtomicUsize::new(0);
    let may = |url: &Url| {
        asked.fetch_add(1, Ordering::Relaxed);
        url.path() != "/secret"
    };
    let refused = browser.get(&site.url("/out"), "*/*", 1000, &may).await;
    assert!(matches!(refused, Err(Failure::Forbidden(_))), "{refused:?}");
    assert_eq!(asked.into_inner(), 2);
}

#[tokio::test]
async fn what_is_no_page() {
    let site = Site::serving(|path| match path {
        "/404" => b"HTTP/1.1 404 Not Found\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno".to_vec(),
        "/304" => b"HTTP/1.1 304 Not Modified\r\nConnection: close\r\n\r\n".to_vec(),
        "/cut" => b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf".to_vec(),
        "/rubbish" => b"HELLO\r\n\r\n".to_vec(),
        _ => Vec::new(),
    })
    .await;
    let browser = browser(|_| {});
    for (path, status) in [("/404", 404), ("/304", 304)] {
        let refused = get(&browser, &site.url(path)).await.unwrap_err();
        assert_eq!(refused.refusal().unwrap().status.as_u16(), status);
    }
    assert!(matches!(whole(&browser, &site.url("/cut")).await, Err(Failure::Unreachable(_))));
    assert!(matches!(whole(&browser, &site.url("/rubbish")).await, Err(Failure::Unreachable(_))));
    assert!(matches!(whole(&browser, &site.url("/nothing")).await, Err(Failure::Unreachable(_))));
}

#[tokio::test]
async fn a_body_is_counted_as_it_comes() {
    let bomb = packed(&vec![0; 64 << 20]);
    // Blocks of no bytes, which unpack to nothing however many there are.
    let hollow = [b"\x1f\x8b\x08\0\0\0\0\0\0\xff".to_vec(), b"\0\0\0\xff\xff".repeat(100_000)].concat();
    let long_tail = [packed(b"all"), vec![0; 500_000]].concat();
    let site = Site::serving(move |path| match path {
        "/fits" => page("", &[7; 1000]),
        "/large" => page("", &[7; 1001]),
        "/endless" => {
            let mut answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
            (0..1000).for_each(|_| answer.extend_from_slice(b"a\r\n0123456789\r\n"));
            answer
        }
        "/bomb" => page("Content-Encoding: gzip\r\n", &bomb),
        "/hollow" => page("Content-Encoding: gzip\r\n", &hollow),
        "/long-tail" => page("Content-Encoding: gzip\r\n", &long_tail),
        "/packed" => page("Content-Encoding: GZIP\r\n", &packed(&[7; 1000])),
        "/trailing" => page("Content-Encoding: gzip\r\n", &[packed(b"all"), b"more".to_vec()].concat()),
        "/half" => page("Content-Encoding: gzip\r\n", &packed(b"a text that is cut in its midst")[..20]),
        "/broken" => page("Content-Encoding: gzip\r\n", b"\x1f\x8b\x08rubbish and more rubbish"),
        _ => page("Content-Encoding: br\r\n", b"x"),
    })
    .await;
    let browser = browser(|_| {});
    assert_eq!(whole(&browser, &site.url("/fits")).await.unwrap(), [7; 1000]);
    assert_eq!(whole(&browser, &site.url("/packed")).await.unwrap(), [7; 1000]);
    assert_eq!(whole(&browser, &site.url("/trailing")).await.unwrap(), b"all");
    for path in ["/large", "/endless", "/bomb", "/hollow", "/long-tail"] {
        let refused = whole(&browser, &site.url(path)).await;
        assert!(matches!(refused, Err(Failure::TooLarge(1000))), "{path}: {refused:?}");
    }
    for path in ["/half", "/broken", "/other"] {
        let refused = whole(&browser, &site.url(path)).await;
        assert!(matches!(refused, Err(Failure::Nonsense(_))), "{path}: {refused:?}");
    }
}

#[tokio::test]
async fn forbidden_addresses_are_not_dialled_by_whatever_name() {
    let site = Site::serving(|_| page("", b"secret")).await;
    let port = site.at.port();
    let deny = ["127.0.0.0/8", "::ffff:127.0.0.0/104", "::1/128"];
    let closed = browser(|s| s.remote.deny = deny.iter().map(|net| net.parse().unwrap()).collect());
    for host in ["127.0.0.1", "127.1", "2130706433", "0x7f.1", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::1]"] {
        let url = Url::parse(&format!("http://{host}:{port}/")).unwrap();
        assert!(!closed.may_try(&url), "{host}");
        assert!(matches!(get(&closed, &url).await, Err(Failure::Forbidden(_))), "{host}");
    }
    let named = Url::parse(&format!("http://localhost:{port}/")).unwrap();
    assert!(closed.may_try(&named));
    assert!(matches!(get(&closed, &named).await, Err(Failure::Forbidden(_))));
    // What is open may lead to what is not.
    let open = Site::serving(move |_| moved(&format!("http://localhost:{port}/"))).await;
    let half = browser(|s| {
        s.remote.deny = deny.iter().map(|net| net.parse().unwrap()).collect();
        s.remote.allow = vec!["127.0.0.9/32".parse().unwrap()];
    });
    let listener = TcpListener::bind("127.0.0.9:0").await.unwrap();
    let entrance = Url::parse(&format!("http://{}/", listener.local_addr().unwrap())).unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut to = TcpStream::connect(open.at).await.unwrap();
        let _ = tokio::io::copy_bidirectional(&mut stream, &mut to).await;
    });
    assert!(matches!(get(&half, &entrance).await, Err(Failure::Forbidden(_))));
    assert_eq!(site.saw.lock().len(), 0);
    assert_eq!(whole(&browser(|_| {}), &named).await.unwrap(), b"secret");
}

#[tokio::test]
async fn a_proxy_stands_between_and_the_ranges_still_hold() {
    let proxy = Site::serving(|_| page("", b"by proxy")).await;
    let browser = browser(|s| {
        s.http_proxy = Proxy::parse(&format!("http://me:pw@{}", proxy.at), &["direct.test".to_owned()]);
        s.remote.deny = vec!["10.0.0.0/8".parse().unwrap()];
    });
    let url = Url::parse("http://name.test/x?y").unwrap();
    assert_eq!(whole(&browser, &url).await.unwrap(), b"by proxy");
    let saw = proxy.saw.lock()[0].to_ascii_lowercase();
    assert!(saw.starts_with("get http://name.test/x?y http/1.1\r\n"), "{saw}");
    assert!(saw.contains("proxy-authorization: basic bwu6chc=\r\n"), "{saw}");
    let forbidden = Url::parse("http://10.1.2.3/").unwrap();
    assert!(matches!(get(&browser, &forbidden).await, Err(Failure::Forbidden(_))));
    assert_eq!(proxy.saw.lock().len(), 1);
}

#[tokio::test]
async fn tls_is_checked() {
    let (certificate, key) = {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        (made.cert, made.signing_key)
    };
    let tls = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            rustls_pki_types::PrivateKeyDer::Pkcs8(key.serialize_der().into()),
        )
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = Url::parse(&format!("https://localhost:{}/", listener.local_addr().unwrap().port())).unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            stream.write_all(&page("", b"safe")).await.unwrap();
            let _ = stream.shutdown().await;
        }
    });
    assert!(matches!(whole(&browser(|_| {}), &url).await, Err(Failure::Unreachable(_))));
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), certificate.pem()).unwrap();
    let trusting = browser(|s| s.remote.custom_ca = vec![file.path().to_owned()]);
    assert_eq!(whole(&trusting, &url).await.unwrap(), b"safe");
}

#[tokio::test]
async fn a_server_that_says_nothing_is_not_waited_for_longer_than_its_caller_wants() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = Url::parse(&format!("http://{}/", listener.local_addr().unwrap())).unwrap();
    let browser = browser(|_| {});
    let asked = tokio::time::timeout(Duration::from_millis(100), get(&browser, &url)).await;
    assert!(asked.is_err());
}
