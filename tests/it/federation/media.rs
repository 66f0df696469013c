//! Files of other servers: fetched once, served like our own, bounded like our own.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    extract::Request,
    response::{IntoResponse, Response},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use futures_util::FutureExt;
use hearth_base::tasks::Supervisor;
use http::{HeaderMap, StatusCode, header};
use ruma::{OwnedServerName, ServerName};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::support::{Door, Peer, Peers, authority};
use crate::support::{User, rooms::encoded};

/// One pixel.
const PNG: &str = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg==";

/// A file as it was given.
#[derive(Debug)]
struct Given {
    status: u16,
    headers: HeaderMap,
    bytes: Vec<u8>,
}

impl Given {
    #[track_caller]
    fn good(self) -> Self {
        assert_eq!(self.status, 200, "{self:?}");
        self
    }

    #[track_caller]
    fn refused(&self, status: u16, errcode: &str) {
        let body: Value = serde_json::from_slice(&self.bytes).unwrap_or_default();
        assert_eq!((self.status, body["errcode"].as_str()), (status, Some(errcode)), "{self:?}");
    }
}

fn http() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().build().unwrap()
}

async fn uploads(at: &Peer, user: &User, bytes: &[u8], content_type: &str) -> String {
    let url = format!("{}/_matrix/media/v3/upload?filename=a%20%C3%A4.png", at.base());
    let request = http().post(url).bearer_auth(user.token()).header(header::CONTENT_TYPE, content_type);
    let answer: Value =
        serde_json::from_str(&request.body(bytes.to_vec()).send().await.unwrap().text().await.unwrap()).unwrap();
    media_id(&answer)
}

fn media_id(answer: &Value) -> String {
    answer["content_uri"].as_str().unwrap().rsplit('/').next().unwrap().to_owned()
}

async fn downloads(at: &Peer, user: &User, of: &ServerName, id: &str, query: &str) -> Given {
    gets(at, user, &format!("/_matrix/client/v1/media/download/{of}/{id}?{query}")).await
}

async fn gets(at: &Peer, user: &User, path: &str) -> Given {
    let answer = http().get(format!("{}{path}", at.base())).bearer_auth(user.token()).send().await.unwrap();
    let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
    Given { status, headers, bytes: answer.bytes().await.unwrap().to_vec() }
}

fn download_path(id: &str) -> String {
    format!("/_matrix/federation/v1/media/download/{id}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_of_another_server_is_fetched_once() {
    let [here, there] = Peers::two().await;
    let (alice, bob) = (here.user("alice").await, there.user("bob").await);
    // Larger than a piece, with what looks like a boundary in it.
    let bytes: Vec<u8> = b"\r\n--x\r\n".iter().copied().cycle().take(900_001).collect();
    let id = uploads(&here, &alice, &bytes, "text/html").await;
    let mut all = Vec::new();
    for _ in 0..8 {
        let (here, there, bob, id) = (here.clone(), there.clone(), bob.clone(), id.clone());
        all.push(tokio::spawn(async move { downloads(&there, &bob, here.name(), &id, "").await }));
    }
    for given in all {
        let given = given.await.unwrap().good();
        assert!(given.bytes == bytes);
        assert_eq!(given.headers[header::CONTENT_TYPE], "text/html");
        let disposition = given.headers[header::CONTENT_DISPOSITION].to_str().unwrap().to_owned();
        assert!(disposition.starts_with("attachment") && disposition.contains("a%20%C3%A4.png"), "{disposition}");
        assert!(given.headers[header::CONTENT_SECURITY_POLICY].to_str().unwrap().starts_with("sandbox"));
    }
    assert_eq!(here.was_asked(&download_path(&id)), 1);
    // It is here now, whether its server is or not.
    here.goes_away();
    assert!(downloads(&there, &bob, here.name(), &id, "").await.good().bytes == bytes);
    // The older endpoints show nothing that came after authentication was asked for.
    let open = format!("/_matrix/media/v3/download/{}/{id}", here.name());
    gets(&there, &bob, &open).await.refused(404, "M_NOT_FOUND");
}

#[tokio::test]
async fn images_of_other_servers_have_thumbnails() {
    let [here, there] = Peers::two().await;
    let (alice, bob) = (here.user("alice").await, there.user("bob").await);
    let png = STANDARD.decode(PNG).unwrap();
    let id = uploads(&here, &alice, &png, "image/png").await;
    let path = format!("/_matrix/client/v1/media/thumbnail/{}/{id}?width=64&height=64", here.name());
    let given = gets(&there, &bob, &path).await.good();
    assert_eq!((&given.headers[header::CONTENT_TYPE], given.bytes), (&"image/png".parse().unwrap(), png));
    // Other servers may ask for one as well.
    let answer = there.asks(&here, &format!("/_matrix/federation/v1/media/thumbnail/{id}?width=64&height=64")).await;
    assert_eq!(answer.status, 200);
    there
        .asks(&here, &format!("/_matrix/federation/v1/media/thumbnail/{id}?width=0&height=64"))
        .await
        .refused(400, "M_UNKNOWN");
    // Only ours.
    let foreign = format!("/_matrix/federation/v1/media/download/{id}");
    here.asks(&there, &foreign).await.refused(404, "M_NOT_FOUND");
}

#[tokio::test]
async fn what_is_not_to_be_had() {
    let [here, _] = Peers::two().await;
    let small = Peers::one(5, |plan| plan.services(|s| s.media.max_upload_size = 1000)).await;
    let (alice, bob) = (here.user("alice").await, small.user("bob").await);
    downloads(&small, &bob, here.name(), "nothing", "").await.refused(404, "M_NOT_FOUND");
    downloads(&small, &bob, here.name(), "nothing", "").await.refused(404, "M_NOT_FOUND");
    assert_eq!(here.was_asked(&download_path("nothing")), 1, "a refusal is remembered");
    let id = uploads(&here, &alice, &[7; 1001], "image/png").await;
    downloads(&small, &bob, here.name(), &id, "").await.refused(502, "M_TOO_LARGE");
    let id = uploads(&here, &alice, &[7; 1000], "image/png").await;
    assert_eq!(downloads(&small, &bob, here.name(), &id, "").await.good().bytes.len(), 1000);
    // Announced, and not there yet.
    let id = media_id(&alice.post("/_matrix/media/v1/create", json!({})).await.good());
    downloads(&small, &bob, here.name(), &id, "timeout_ms=1").await.refused(504, "M_NOT_YET_UPLOADED");
    let url = format!("{}/_matrix/media/v3/upload/{}/{id}", here.base(), here.name());
    assert_eq!(http().put(url).bearer_auth(alice.token()).body("late").send().await.unwrap().status(), 200);
    assert_eq!(downloads(&small, &bob, here.name(), &id, "").await.good().bytes, b"late");
    // Withdrawn here, whatever its server says.
    let services = small.services();
    assert!(services.store.quarantine_media(here.name(), &id, Some("@mod:x".to_owned())).await.unwrap());
    downloads(&small, &bob, here.name(), &id, "").await.refused(404, "M_NOT_FOUND");
    // That it has no time is no word about the file, and not remembered.
    here.tricks(Some(Arc::new(|path| {
        let busy = || async { StatusCode::TOO_MANY_REQUESTS.into_response() };
        path.contains("/media/download/").then(|| busy().boxed())
    })));
    let busy = uploads(&here, &alice, &[7; 10], "image/png").await;
    let told = downloads(&small, &bob, here.name(), &busy, "").await;
    assert!(told.status == 429 || told.status >= 500, "{told:?}");
    here.tricks(None);
    let comes = async { while downloads(&small, &bob, here.name(), &busy, "").await.status != 200 {} };
    assert!(tokio::time::timeout(Duration::from_secs(20), comes).await.is_ok(), "it is remembered as missing");
    here.goes_away();
    let away = downloads(&small, &bob, here.name(), "another", "").await;
    assert_eq!(away.status, 502, "{away:?}");
    // Servers whose media are not wanted.
    let blocked = here.name().to_owned();
    let closed = Peers::one(6, |plan| plan.services(move |s| s.media.blocked_servers = vec![blocked])).await;
    let carol = closed.user("carol").await;
    here.comes_back();
    downloads(&closed, &carol, here.name(), &id, "").await.refused(404, "M_NOT_FOUND");
    assert_eq!(here.was_asked(&download_path(&id)), 2);
}

/// A server that answers as `answer` says, with a name for whatever it is, and remembers what it was asked.
struct Fake {
    name: OwnedServerName,
    asked: Arc<Mutex<Vec<String>>>,
    supervisor: Supervisor,
}

impl Fake {
    async fn start(last: u8, answer: fn(&str) -> (StatusCode, &'static str, String)) -> Self {
        let address = format!("127.0.0.{last}");
        let listener = TcpListener::bind((address.as_str(), 0)).await.unwrap();
        let name = listener.local_addr().unwrap().to_string().try_into().unwrap();
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let seen = asked.clone();
        let router = Router::new().fallback(move |request: Request| {
            let path = request.uri().path_and_query().unwrap().to_string();
            let (status, content_type, body) = answer(&path);
            seen.lock().unwrap().push(path);
            async move {
                let response = Response::builder().status(status).header(header::CONTENT_TYPE, content_type);
                let response = response.header(header::CONTENT_DISPOSITION, "inline; filename=outside.png");
                response.body(axum::body::Body::from(body)).unwrap()
            }
        });
        let supervisor = Supervisor::new();
        Door::open().serve(listener, authority().certifies(&[&address]), router, &supervisor);
        Self { name, asked, supervisor }
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.supervisor.begin_stop();
    }
}

const UNKNOWN: (StatusCode, &str, &str) =
    (StatusCode::NOT_FOUND, "application/json", r#"{"errcode":"M_UNRECOGNIZED","error":"?"}"#);

#[tokio::test]
async fn older_servers_are_asked_as_everybody_may() {
    let old = Fake::start(7, |path| {
        if path.starts_with("/_matrix/media/v3/download/") && !path.contains("none") {
            return (StatusCode::OK, "image/png", "the file".to_owned());
        }
        if path.ends_with("odd") || path.contains("/odd?") {
            return (StatusCode::OK, "text/plain", "no two parts".to_owned());
        }
        (UNKNOWN.0, UNKNOWN.1, UNKNOWN.2.to_owned())
    })
    .await;
    let [here, _] = Peers::two().await;
    let alice = here.user("alice").await;
    let given = downloads(&here, &alice, &old.name, "file", "").await.good();
    assert_eq!(
        (given.bytes, &given.headers[header::CONTENT_TYPE]),
        (b"the file".to_vec(), &"image/png".parse().unwrap())
    );
    let asked = old.asked();
    assert!(asked.iter().any(|p| p.starts_with(&download_path("file"))));
    let open = asked.iter().find(|p| p.starts_with("/_matrix/media/v3/")).unwrap();
    assert!(open.contains("allow_remote=false"), "{open}");
    downloads(&here, &alice, &old.name, "none", "").await.refused(404, "M_NOT_FOUND");
    // So are those that answer something else than was asked for.
    assert_eq!(downloads(&here, &alice, &old.name, "odd", "").await.good().bytes, b"the file");
}

#[tokio::test]
async fn a_file_is_named_with_it_or_outside() {
    let naming = Fake::start(11, |path| {
        let own = if path.contains("inside") { "Content-Disposition: inline; filename=inside.png\r\n" } else { "" };
        let body = format!("--b\r\n\r\n{{}}\r\n--b\r\nContent-Type: image/png\r\n{own}\r\nx\r\n--b--");
        (StatusCode::OK, "multipart/mixed; boundary=b", body)
    })
    .await;
    let [here, _] = Peers::two().await;
    let alice = here.user("alice").await;
    for name in ["inside", "outside"] {
        let given = downloads(&here, &alice, &naming.name, name, "").await.good();
        assert_eq!(given.headers[header::CONTENT_DISPOSITION], format!("inline; filename={name}.png"));
        assert_eq!(given.bytes, b"x");
    }
}

#[tokio::test]
async fn a_file_may_be_elsewhere_but_not_anywhere() {
    let store = Fake::start(8, |_| (StatusCode::OK, "image/gif", "from elsewhere".to_owned())).await;
    let inside = Fake::start(9, |_| (StatusCode::OK, "image/gif", "a secret".to_owned())).await;
    let turning = Fake::start(10, |path| {
        // The id says where: the address's last number and port.
        let id = path.split('?').next().unwrap().rsplit('/').next().unwrap();
        let location = match id.split_once('-') {
            Some(("plain", rest)) => format!("http://127.0.0.{}", rest.replace('-', ":")),
            Some((last, port)) => format!("https://127.0.0.{last}:{port}/file?signed=yes"),
            None => {
                return (
                    StatusCode::OK,
                    "multipart/mixed; boundary=b",
                    "--b\r\n\r\n{}\r\n--b\r\n\r\nhalf a f".to_owned(),
                );
            }
        };
        let body = format!(
            "--b\r\nContent-Type: application/json\r\n\r\n{{}}\r\n--b\r\nLocation: {location}\r\n\r\n\r\n--b--"
        );
        (StatusCode::OK, "multipart/mixed; boundary=b", body)
    })
    .await;
    let here =
        Peers::one(2, |plan| plan.services(|s| s.federation.remote.deny = vec!["127.0.0.9/32".parse().unwrap()])).await;
    let alice = here.user("alice").await;
    let port = |fake: &Fake| fake.name.port().unwrap();
    let id = format!("8-{}", port(&store));
    let given = downloads(&here, &alice, &turning.name, &id, "").await.good();
    assert_eq!(
        (given.bytes, &given.headers[header::CONTENT_TYPE]),
        (b"from elsewhere".to_vec(), &"image/gif".parse().unwrap())
    );
    assert_eq!(store.asked(), ["/file?signed=yes"]);
    for id in [format!("9-{}", port(&inside)), format!("plain-8-{}", port(&store)), "half".to_owned()] {
        let given = downloads(&here, &alice, &turning.name, &id, "").await;
        assert!((400..=502).contains(&given.status), "{id}: {given:?}");
        assert!(here.services().store.media(&turning.name, &id).await.unwrap().is_none(), "nothing is kept of {id}");
    }
    assert!(inside.asked().is_empty() && store.asked().len() == 1);
    let name = encoded(turning.name.as_str());
    assert_eq!(gets(&here, &alice, &format!("/_matrix/client/v1/media/download/{name}/a%2Fb")).await.status, 404);
}
