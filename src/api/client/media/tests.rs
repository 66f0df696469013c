//! Media over HTTP: every path there is, headers as a browser needs them, ranges, limits, and who may see what.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{sync::Arc, time::Duration};

use axum::{Router, body::Body};
use bytes::Bytes;
use hearth_base::{clock::Clock, tasks::Supervisor};
use hearth_service::{Services, login::token_hash, media::Settings};
use hearth_store::{
    Store,
    accounts::{Created, NewAccount},
    db::Engine,
    devices::NewDevice,
    login::NewToken,
};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::BodyExt;
use ruma::{ServerName, UserId};
use serde_json::{Value, json};
use tempfile::TempDir;
use tower::ServiceExt;

struct World {
    router: Router,
    services: Arc<Services>,
    _dir: TempDir,
}

struct Answer {
    status: u16,
    headers: HeaderMap,
    body: Bytes,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    fn code(&self) -> (u16, String) {
        (self.status, self.json()["errcode"].as_str().unwrap_or_default().to_owned())
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |v| v.to_str().unwrap())
    }
}

async fn world(change: impl FnOnce(&mut Settings)) -> World {
    let dir = tempfile::tempdir().unwrap();
    let supervisor = Supervisor::new();
    let engine = Engine::Sqlite { path: dir.path().join("t.db") };
    let store = Store::open(&hearth_store::Settings::new(engine), &supervisor).await.unwrap();
    let mut settings = hearth_service::Settings::new(ServerName::parse("localhost").unwrap());
    change(&mut settings.media);
    let services = Services::start(settings, store, Clock::new(), supervisor).await.unwrap();
    let router = crate::router(services.clone(), crate::Settings::default());
    let world = World { router, services, _dir: dir };
    world.user("ada", false).await;
    world.user("bob", false).await;
    world.user("guest", true).await;
    world
}

impl World {
    /// An account whose token is its name.
    async fn user(&self, name: &str, guest: bool) {
        let id = UserId::parse(format!("@{name}:localhost")).unwrap();
        let user = self.services.store.intern_user(&id).await.unwrap();
        let device = NewDevice {
            user,
            device_id: "PHONE".to_owned(),
            display_name: None,
            created_ms: 1,
            ip: None,
            user_agent: None,
        };
        let token = NewToken {
            token_hash: token_hash(name),
            user,
            device_id: Some("PHONE".to_owned()),
            created_ms: 1,
            expires_ms: None,
            refresh: None,
            puppet_of: None,
        };
        let new = NewAccount {
            user,
            password_hash: None,
            admin: false,
            guest,
            was_guest: false,
            user_type: None,
            appservice_id: None,
            created_ms: 1,
            displayname: None,
            registration_token: None,
            consent_version: None,
            session: Some((device, token)),
        };
        assert_eq!(self.services.store.create_account(new).await.unwrap(), Created::Yes);
    }

    async fn send(&self, request: Request<Body>) -> Answer {
        let answer: Response<Body> = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = answer.into_parts();
        assert_eq!(parts.headers["access-control-allow-origin"], "*");
        let hint = http_body::Body::size_hint(&body).exact();
        let body = body.collect().await.unwrap().to_bytes();
        assert_eq!(hint, Some(body.len() as u64), "the length of every answer is known");
        Answer { status: parts.status.as_u16(), headers: parts.headers, body }
    }

    async fn get(&self, path: &str, token: Option<&str>, headers: &[(&str, &str)]) -> Answer {
        let mut request = Request::builder().uri(path);
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request.body(Body::empty()).unwrap()).await
    }

    async fn put(&self, method: &str, path: &str, token: Option<&str>, kind: &str, body: impl Into<Body>) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        if !kind.is_empty() {
            request = request.header("content-type", kind);
        }
        self.send(request.body(body.into()).unwrap()).await
    }

    /// Uploads as Ada; gives `localhost/<id>`.
    async fn upload(&self, query: &str, kind: &str, body: impl Into<Body>) -> String {
        let answer = self.put("POST", &format!("/_matrix/media/v3/upload{query}"), Some("ada"), kind, body).await;
        assert_eq!(answer.status, 200, "{:?}", answer.body);
        answer.json()["content_uri"].as_str().unwrap().strip_prefix("mxc://").unwrap().to_owned()
    }
}

fn code(status: u16, errcode: &str) -> (u16, String) {
    (status, errcode.to_owned())
}

const NEW: &str = "/_matrix/client/v1/media";

#[tokio::test]
async fn a_file_comes_back_with_headers_that_tame_it() {
    let w = world(|_| {}).await;
    let bytes: Vec<u8> = (0..900_000u32).map(|i| (i % 251) as u8).collect();
    let id = w.upload("?filename=War%20and%20Peace.pdf", "application/pdf", bytes.clone()).await;
    let answer = w.get(&format!("{NEW}/download/{id}"), Some("bob"), &[]).await;
    assert_eq!(answer.status, 200);
    assert!(answer.body == bytes);
    for (name, value) in [
        ("content-type", "application/pdf"),
        ("content-length", "900000"),
        ("content-disposition", "attachment; filename=\"War and Peace.pdf\""),
        (
            "content-security-policy",
            "sandbox; default-src 'none'; script-src 'none'; plugin-types application/pdf; style-src 'unsafe-inline'; object-src 'self';",
        ),
        ("x-content-type-options", "nosniff"),
        ("cross-origin-resource-policy", "cross-origin"),
        ("accept-ranges", "bytes"),
        ("cache-control", "private, max-age=31536000, immutable"),
    ] {
        assert_eq!(answer.header(name), value, "{name}");
    }
    let again = w.get(&format!("{NEW}/download/{id}"), Some("bob"), &[("if-none-match", answer.header("etag"))]).await;
    assert_eq!((again.status, again.body.len(), again.header("etag")), (304, 0, answer.header("etag")));

    let head = Request::builder().method("HEAD").uri(format!("{NEW}/download/{id}"));
    let head = head.header("authorization", "Bearer bob").body(Body::empty()).unwrap();
    let head = w.router.clone().oneshot(head).await.unwrap();
    assert_eq!(head.status(), StatusCode::OK);
    assert_eq!(head.headers()["content-length"], "900000");
}

#[tokio::test]
async fn names_and_types_are_what_the_uploader_or_the_path_says() {
    let w = world(|_| {}).await;
    for (query, kind, content_type, disposition) in [
        ("", "", "application/octet-stream", "attachment"),
        ("", "rubbish", "application/octet-stream", "attachment"),
        ("?filename=a.png", "image/png", "image/png", "inline; filename=a.png"),
        ("?filename=%D1%84.txt", "text/plain", "text/plain", "inline; filename*=utf-8''%D1%84.txt"),
        ("?filename=a%22%0D%0AX:b", "text/html", "text/html", "attachment; filename=\"a\\\"X:b\""),
        ("?filename=x.svg", "image/svg+xml", "image/svg+xml", "attachment; filename=x.svg"),
    ] {
        let id = w.upload(query, kind, "x").await;
        let answer = w.get(&format!("{NEW}/download/{id}"), Some("ada"), &[]).await;
        assert_eq!((answer.header("content-type"), answer.header("content-disposition")), (content_type, disposition));
        let answer = w.get(&format!("{NEW}/download/{id}/my%20file"), Some("ada"), &[]).await;
        assert!(answer.header("content-disposition").ends_with("; filename=\"my file\""));
    }
}

#[tokio::test]
async fn parts_of_a_file_are_given() {
    let w = world(|_| {}).await;
    let id = w.upload("", "text/plain", "0123456789").await;
    let path = format!("{NEW}/download/{id}");
    for (range, body, content_range) in
        [("bytes=2-4", "234", "bytes 2-4/10"), ("bytes=-3", "789", "bytes 7-9/10"), ("bytes=8-", "89", "bytes 8-9/10")]
    {
        let answer = w.get(&path, Some("ada"), &[("range", range)]).await;
        assert_eq!((answer.status, answer.header("content-range")), (206, content_range));
        assert_eq!((&answer.body[..], answer.header("content-length")), (body.as_bytes(), &*body.len().to_string()));
    }
    let answer = w.get(&path, Some("ada"), &[("range", "bytes=10-")]).await;
    assert_eq!((answer.code(), answer.header("content-range")), (code(416, "M_INVALID_PARAM"), "bytes */10"));
    let answer = w.get(&path, Some("ada"), &[("range", "bytes=0-1"), ("if-range", "\"other\"")]).await;
    assert_eq!((answer.status, answer.body.len()), (200, 10));
}

#[tokio::test]
async fn who_may_do_what() {
    let w = world(|_| {}).await;
    let id = w.upload("", "text/plain", "x").await;
    let thumb = format!("{NEW}/thumbnail/{id}?width=32&height=32");
    for path in [&format!("{NEW}/download/{id}"), &format!("{NEW}/download/{id}/a"), &thumb, &format!("{NEW}/config")] {
        assert_eq!(w.get(path, None, &[]).await.code(), code(401, "M_MISSING_TOKEN"), "{path}");
        assert_eq!(w.get(path, Some("wrong"), &[]).await.code(), code(401, "M_UNKNOWN_TOKEN"), "{path}");
        assert_ne!(w.get(path, Some("guest"), &[]).await.status, 403, "{path}");
    }
    for (method, path) in [
        ("POST", "/_matrix/media/v3/upload".to_owned()),
        ("POST", "/_matrix/media/v1/create".to_owned()),
        ("PUT", format!("/_matrix/media/v3/upload/{id}")),
    ] {
        assert_eq!(w.put(method, &path, None, "", "x").await.code(), code(401, "M_MISSING_TOKEN"), "{path}");
        let guest = w.put(method, &path, Some("guest"), "", Body::empty()).await;
        assert_eq!(guest.code(), code(403, "M_GUEST_ACCESS_FORBIDDEN"), "{path}");
    }
}

#[tokio::test]
async fn the_older_paths_show_what_is_older_than_the_freeze() {
    let frozen = world(|_| {}).await;
    let open = world(|s| s.authenticated_media = false).await;
    let (new, old) = (frozen.upload("", "text/plain", "new").await, open.upload("", "text/plain", "old").await);
    for version in ["v3", "r0", "v1"] {
        let path = format!("/_matrix/media/{version}");
        for suffix in ["", "/name.txt"] {
            let hidden = frozen.get(&format!("{path}/download/{new}{suffix}"), None, &[]).await;
            assert_eq!(hidden.code(), code(404, "M_NOT_FOUND"));
            let shown = open.get(&format!("{path}/download/{old}{suffix}"), None, &[]).await;
            assert_eq!((shown.status, &shown.body[..]), (200, b"old".as_slice()));
            assert!(shown.header("cache-control").starts_with("public"));
            assert_eq!(shown.header("content-disposition").contains("filename=name.txt"), !suffix.is_empty());
        }
        let hidden = frozen.get(&format!("{path}/thumbnail/{new}?width=9&height=9"), None, &[]).await;
        assert_eq!(hidden.code(), code(404, "M_NOT_FOUND"));
        let text = open.get(&format!("{path}/thumbnail/{old}?width=9&height=9"), None, &[]).await;
        assert_eq!(text.code(), code(400, "M_UNKNOWN"));
        assert_eq!(open.get(&format!("{path}/config"), None, &[]).await.code(), code(401, "M_MISSING_TOKEN"));
        let config = open.get(&format!("{path}/config"), Some("ada"), &[]).await;
        assert_eq!(config.json(), json!({"m.upload.size": 50 << 20}));
        let up = open.put("POST", &format!("{path}/upload"), Some("ada"), "", "x").await;
        assert_eq!(up.status, 200);
    }
    let config = open.get(&format!("{NEW}/config"), Some("ada"), &[]).await;
    assert_eq!(config.json(), json!({"m.upload.size": 50 << 20}));
}

#[tokio::test]
async fn ids_that_lead_elsewhere_lead_nowhere() {
    let w = world(|_| {}).await;
    let id = w.upload("", "", "x").await;
    let own = id.strip_prefix("localhost/").unwrap();
    for path in [
        "localhost/..%2f..%2ft.db".to_owned(),
        "localhost/%2e%2e".to_owned(),
        "localhost/%00".to_owned(),
        "localhost/a%20b".to_owned(),
        "localhost/%c3%a9".to_owned(),
        format!("..%2flocalhost/{own}"),
        format!("%2e%2e/{own}"),
        format!("127.0.0.1:port/{own}"),
        format!("localhost%2f..%2f/{own}"),
        format!("localhost/{own}x"),
    ] {
        for path in [format!("{NEW}/download/{path}"), format!("{NEW}/thumbnail/{path}?width=1&height=1")] {
            let answer = w.get(&path, Some("ada"), &[]).await;
            assert!(matches!(answer.status, 400 | 404), "{path}: {}", answer.status);
            assert!(matches!(&*answer.code().1, "M_NOT_FOUND" | "M_INVALID_PARAM" | "M_UNRECOGNIZED"), "{path}");
        }
    }
    assert_eq!(w.get(&format!("{NEW}/download/{id}"), Some("ada"), &[]).await.status, 200);
}

#[tokio::test]
async fn what_is_too_large_is_refused_by_its_length_and_by_its_bytes() {
    let w = world(|s| s.max_upload_size = 1000).await;
    let path = "/_matrix/media/v3/upload";
    assert_eq!(w.put("POST", path, Some("ada"), "", vec![0; 1001]).await.code(), code(413, "M_TOO_LARGE"));
    let chunks = (0..3).map(|_| Ok::<_, std::io::Error>(Bytes::from(vec![0; 400])));
    let unknown = Body::from_stream(futures_util::stream::iter(chunks));
    assert_eq!(w.put("POST", path, Some("ada"), "", unknown).await.code(), code(413, "M_TOO_LARGE"));
    let broken = Body::from_stream(futures_util::stream::iter([Err::<Bytes, _>(std::io::Error::other("gone"))]));
    assert_eq!(w.put("POST", path, Some("ada"), "", broken).await.code(), code(400, "M_UNKNOWN"));
    assert_eq!(w.put("POST", path, Some("ada"), "", vec![0; 1000]).await.status, 200);
}

#[tokio::test]
async fn a_file_may_come_after_its_id() {
    let w = world(|_| {}).await;
    let create = "/_matrix/media/v1/create";
    let announced = w.put("POST", create, Some("ada"), "", "{}").await.json();
    assert!(announced["unused_expires_at"].as_u64().unwrap() > w.services.clock.now_ms());
    let id = announced["content_uri"].as_str().unwrap().strip_prefix("mxc://").unwrap().to_owned();
    let (get, put) = (format!("{NEW}/download/{id}?timeout_ms=20"), format!("/_matrix/media/v3/upload/{id}"));
    assert_eq!(w.get(&get, Some("bob"), &[]).await.code(), code(504, "M_NOT_YET_UPLOADED"));
    assert_eq!(w.put("PUT", &put, Some("bob"), "", "x").await.code(), code(403, "M_FORBIDDEN"));
    let patient = format!("{NEW}/download/{id}?timeout_ms=30000");
    let (got, put_answer) = tokio::join!(w.get(&patient, Some("bob"), &[]), async {
        tokio::time::sleep(Duration::from_millis(30)).await;
        w.put("PUT", &format!("{put}?filename=late.txt"), Some("ada"), "text/plain", "late").await
    });
    assert_eq!((put_answer.status, put_answer.json()), (200, json!({})));
    assert_eq!((got.status, &got.body[..]), (200, b"late".as_slice()));
    assert_eq!(got.header("content-disposition"), "inline; filename=late.txt");
    assert_eq!(w.put("PUT", &put, Some("ada"), "", "y").await.code(), code(409, "M_CANNOT_OVERWRITE_MEDIA"));
    let unknown = w.put("PUT", "/_matrix/media/v3/upload/localhost/unknown", Some("ada"), "", "x").await;
    assert_eq!(unknown.code(), code(404, "M_NOT_FOUND"));
    for _ in 0..5 {
        assert_eq!(w.put("POST", create, Some("ada"), "", Body::empty()).await.status, 200);
    }
    let answer = w.put("POST", create, Some("ada"), "", "").await;
    assert_eq!(answer.code(), code(429, "M_LIMIT_EXCEEDED"));
    assert!(answer.headers.contains_key("retry-after"));
}

fn png(width: u32, height: u32) -> Vec<u8> {
    // A grey image, uncompressed: as small an encoder as a test may have.
    fn chunk(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
        let body = [kind.as_slice(), data].concat();
        let crc = !body.iter().fold(!0u32, |crc, b| {
            (0..8).fold(crc ^ u32::from(*b), |c, _| if c & 1 == 1 { c >> 1 ^ 0xedb8_8320 } else { c >> 1 })
        });
        [&u32::try_from(data.len()).unwrap().to_be_bytes(), &body[..], &crc.to_be_bytes()].concat()
    }
    let rows: Vec<u8> = (0..height).flat_map(|_| [vec![0], vec![128; width as usize]].concat()).collect();
    let (mut a, mut b) = (1u32, 0u32);
    for byte in &rows {
        a = (a + u32::from(*byte)) % 65_521;
        b = (b + a) % 65_521;
    }
    let mut zlib = vec![0x78, 1];
    let blocks = rows.chunks(60_000).count();
    for (n, block) in rows.chunks(60_000).enumerate() {
        let len = u16::try_from(block.len()).unwrap();
        zlib.push(u8::from(n + 1 == blocks));
        zlib.extend([len.to_le_bytes(), (!len).to_le_bytes()].concat());
        zlib.extend(block);
    }
    zlib.extend((b << 16 | a).to_be_bytes());
    let header = [&width.to_be_bytes()[..], &height.to_be_bytes(), &[8, 0, 0, 0, 0]].concat();
    [&b"\x89PNG\r\n\x1a\n"[..], &chunk(b"IHDR", &header), &chunk(b"IDAT", &zlib), &chunk(b"IEND", &[])].concat()
}

#[tokio::test]
async fn an_image_is_made_small() {
    let w = world(|s| s.max_image_pixels = 100_000).await;
    let image = png(300, 200);
    let id = w.upload("?filename=secret.png", "application/octet-stream", image.clone()).await;
    let small = w.get(&format!("{NEW}/thumbnail/{id}?width=30&height=30&method=crop"), Some("guest"), &[]).await;
    assert_eq!((small.status, small.header("content-type")), (200, "image/png"));
    assert_eq!(small.header("content-disposition"), "inline; filename=thumbnail.png");
    assert_eq!(&small.body[..4], b"\x89PNG");
    let whole =
        w.get(&format!("{NEW}/thumbnail/{id}?width=300&height=200&method=scale&animated=true"), Some("ada"), &[]).await;
    assert!(whole.header("content-type") == "image/png" && whole.body == image);

    let huge = w.upload("", "image/png", png(1001, 100)).await;
    let answer = w.get(&format!("{NEW}/thumbnail/{huge}?width=30&height=30"), Some("ada"), &[]).await;
    assert_eq!(answer.code(), code(413, "M_TOO_LARGE"));
    for query in [
        "",
        "?width=30",
        "?width=a&height=30",
        "?width=-1&height=30",
        "?width=1.5&height=2",
        "?width=0&height=1",
        "?width=9&height=9&method=stretch",
    ] {
        let answer = w.get(&format!("{NEW}/thumbnail/{id}{query}"), Some("ada"), &[]).await;
        assert_eq!(answer.status, 400, "{query}");
        assert!(answer.code().1.starts_with("M_"), "{query}");
    }
}

#[tokio::test]
async fn what_is_withdrawn_is_gone_even_for_those_who_have_it() {
    let w = world(|_| {}).await;
    let id = w.upload("", "text/plain", "bad").await;
    let path = format!("{NEW}/download/{id}");
    let etag = w.get(&path, Some("ada"), &[]).await.header("etag").to_owned();
    let nid = w.services.store.intern_user(&UserId::parse("@bob:localhost").unwrap()).await.unwrap();
    let bob = hearth_base::requester::Requester::internal(UserId::parse("@bob:localhost").unwrap(), nid);
    let (server, media) = id.split_once('/').unwrap();
    assert!(w.services.media.quarantine(&bob, server, media).await.unwrap());
    let answer = w.get(&path, Some("ada"), &[("if-none-match", &etag)]).await;
    assert_eq!(answer.code(), code(404, "M_NOT_FOUND"));
}

#[tokio::test]
async fn a_server_that_keeps_no_media_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let supervisor = Supervisor::new();
    let engine = Engine::Sqlite { path: dir.path().join("t.db") };
    let settings = hearth_store::Settings { media: None, ..hearth_store::Settings::new(engine) };
    let store = Store::open(&settings, &supervisor).await.unwrap();
    let settings = hearth_service::Settings::new(ServerName::parse("localhost").unwrap());
    let services = Services::start(settings, store, Clock::new(), supervisor).await.unwrap();
    let router = crate::router(services.clone(), crate::Settings::default());
    let w = World { router, services, _dir: dir };
    w.user("ada", false).await;
    assert_eq!(
        w.put("POST", "/_matrix/media/v3/upload", Some("ada"), "", "x").await.code(),
        code(404, "M_UNRECOGNIZED")
    );
    assert_eq!(
        w.get(&format!("{NEW}/download/localhost/a"), Some("ada"), &[]).await.code(),
        code(404, "M_UNRECOGNIZED")
    );
}
