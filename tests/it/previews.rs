//! Links and what they lead to: previews of pages on a web server of the test's own.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    response::Response,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use hearth_service::media::previews::Settings;
use http::{StatusCode, header};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::support::{Answer, Caller, Plan, TestServer, rooms::encoded};

/// One pixel.
const PNG: &str = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg==";
const HOUR: u64 = 3600 * 1000;

/// What a site answers under a path.
#[derive(Clone)]
struct Thing {
    status: StatusCode,
    headers: Vec<(header::HeaderName, String)>,
    body: Vec<u8>,
}

/// A web server. Clones are the same one.
#[derive(Clone)]
struct Site {
    base: String,
    things: Arc<Mutex<HashMap<String, Thing>>>,
    asked: Arc<Mutex<Vec<String>>>,
    /// Answers that may be given.
    gate: Arc<Semaphore>,
}

impl Site {
    async fn open() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let site = Self {
            base: format!("http://{}", listener.local_addr().unwrap()),
            things: Arc::default(),
            asked: Arc::default(),
            gate: Arc::new(Semaphore::new(10_000)),
        };
        let router = Router::new().fallback(answer).with_state(site.clone());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        site
    }

    fn puts(&self, path: &str, content_type: &str, body: impl Into<Vec<u8>>) -> &Self {
        let headers = vec![(header::CONTENT_TYPE, content_type.to_owned())];
        self.put(path, Thing { status: StatusCode::OK, headers, body: body.into() })
    }

    fn put(&self, path: &str, thing: Thing) -> &Self {
        self.things.lock().unwrap().insert(path.to_owned(), thing);
        self
    }

    fn png(&self, path: &str) -> &Self {
        self.puts(path, "image/png", STANDARD.decode(PNG).unwrap())
    }

    fn html(&self, path: &str, body: &str) -> &Self {
        self.puts(path, "text/html; charset=utf-8", body)
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    fn was_asked(&self, path: &str) -> usize {
        self.asked.lock().unwrap().iter().filter(|asked| *asked == path).count()
    }
}

async fn answer(State(site): State<Site>, request: Request) -> Response {
    let path = request.uri().path_and_query().unwrap().to_string();
    site.asked.lock().unwrap().push(path.clone());
    site.gate.acquire().await.unwrap().forget();
    let thing = site.things.lock().unwrap().get(&path).cloned();
    let Some(thing) = thing else {
        return Response::builder().status(404).body(Body::empty()).unwrap();
    };
    let mut response = Response::builder().status(thing.status);
    for (name, value) in thing.headers {
        response = response.header(name, value);
    }
    response.body(thing.body.into()).unwrap()
}

/// A server whose users may see what links lead to, on this machine too.
fn plan(change: impl FnOnce(&mut Settings) + Send + 'static) -> Plan {
    Plan::default().services(|settings| {
        let mut previews = Settings::default();
        change(&mut previews);
        settings.media.previews = Some(previews);
    })
}

/// The same on both engines.
async fn on_both() -> Vec<TestServer> {
    let mut servers = vec![plan(|_| {}).sqlite().await];
    servers.extend(plan(|_| {}).postgres().await);
    servers
}

async fn previews(user: &Caller, url: &str) -> Answer {
    user.get(&format!("/_matrix/client/v1/media/preview_url?url={}", encoded(url))).await
}

fn image_of(preview: &Value) -> String {
    preview["og:image"].as_str().unwrap_or_else(|| panic!("no image in {preview}")).to_owned()
}

async fn downloads(server: &TestServer, user: &Caller, mxc: &str) -> (u16, Vec<u8>) {
    let url = format!("{}/_matrix/client/v1/media/download/{}", server.base(), mxc.strip_prefix("mxc://").unwrap());
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let answer = client.get(url).bearer_auth(user.token.as_deref().unwrap()).send().await.unwrap();
    (answer.status().as_u16(), answer.bytes().await.unwrap().to_vec())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_and_its_image() {
    for server in on_both().await {
        let (site, alice) = (Site::open().await, server.user("alice").await);
        site.png("/img/test.png").html(
            "/test.html",
            "<html prefix='og: http://ogp.me/ns#'><head><title>The Rock (1996)</title>\
             <meta property='og:title' content='The Rock' /><meta property='og:type' content='video.movie' />\
             <meta property='og:url' content='http://www.imdb.com/title/tt0117500/' />\
             <meta property='og:image' content='img/test.png' /><meta property='og:image:width' content='no' /></head>\
             <body><p>A mild mannered chemist.</p></body></html>",
        );
        let preview = previews(&alice, &site.url("/test.html#part")).await.good();
        let image = image_of(&preview);
        assert!(image.starts_with(&format!("mxc://{}/", server.name())), "{image}");
        let want = json!({
            "og:title": "The Rock", "og:type": "video.movie", "og:url": "http://www.imdb.com/title/tt0117500/",
            "og:description": "A mild mannered chemist.", "og:image": image, "og:image:type": "image/png",
            "og:image:width": 1, "og:image:height": 1, "matrix:image:size": STANDARD.decode(PNG).unwrap().len(),
        });
        assert_eq!(preview, want);
        assert_eq!(downloads(&server, &alice, &image).await, (200, STANDARD.decode(PNG).unwrap()));
        let small = image.replace("mxc://", "/_matrix/client/v1/media/thumbnail/");
        assert_eq!(alice.get(&format!("{small}?width=32&height=32&method=crop")).await.status, 200);
        // Nobody has uploaded it.
        let bob = server.user("bob").await;
        for version in ["v3", "r0", "v1"] {
            let path = format!("/_matrix/media/{version}/preview_url?url={}", encoded(&site.url("/test.html")));
            assert_eq!(bob.get(&path).await.good(), want);
        }
        assert_eq!((site.was_asked("/test.html"), site.was_asked("/img/test.png")), (1, 1));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_preview_is_made_once_and_outlives_a_restart() {
    for server in on_both().await {
        let (site, alice) = (Site::open().await, server.user("alice").await);
        site.gate.forget_permits(10_000);
        site.html("/", "<title>First</title>");
        let mut asking = Vec::new();
        for _ in 0..10 {
            let (alice, url) = (alice.clone(), site.url("/"));
            asking.push(tokio::spawn(async move { previews(&alice, &url).await.good() }));
        }
        site.gate.add_permits(10_000);
        for asked in asking {
            assert_eq!(asked.await.unwrap(), json!({ "og:title": "First" }));
        }
        assert_eq!(site.was_asked("/"), 1);
        site.html("/", "<title>Second</title>");
        let server = plan(|_| {}).after(server).await;
        let alice = alice.on(&server);
        assert_eq!(previews(&alice, &site.url("/")).await.good()["og:title"], "First");
        assert_eq!(site.was_asked("/"), 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_old_is_fetched_anew_and_swept_away() {
    for server in on_both().await {
        let (site, alice) = (Site::open().await, server.user("alice").await);
        site.png("/i.png").html("/", "<title>First</title><img src=i.png>");
        let first = previews(&alice, &site.url("/")).await.good();
        let then = server.clock().now_ms();
        site.html("/", "<title>Second</title>");
        server.clock().advance_ms(HOUR / 2);
        assert_eq!(previews(&alice, &site.url("/")).await.good(), first);
        server.clock().advance_ms(HOUR / 2 + 1);
        assert_eq!(previews(&alice, &site.url("/")).await.good(), json!({ "og:title": "Second" }));
        // As it was when the link was posted, while that is known.
        let at = |ms: u64| format!("/_matrix/client/v1/media/preview_url?ts={ms}&url={}", encoded(&site.url("/")));
        assert_eq!(alice.get(&at(then)).await.good(), first);
        for other in [1, then - 48 * HOUR, then + 500 * HOUR] {
            assert_eq!(alice.get(&at(other)).await.good(), json!({ "og:title": "Second" }));
        }
        server.services().previews.sweep().await.unwrap();
        assert_eq!(alice.get(&at(then)).await.good(), json!({ "og:title": "Second" }));
        assert_eq!(site.was_asked("/"), 2);
        // Clients show images for longer.
        let image = image_of(&first);
        assert_eq!(downloads(&server, &alice, &image).await.0, 200);
        server.clock().advance_ms(48 * HOUR);
        server.services().previews.sweep().await.unwrap();
        assert_eq!(downloads(&server, &alice, &image).await.0, 404);
    }
}

#[tokio::test]
async fn what_is_no_address_and_who_may_not_ask() {
    let server = plan(|_| {}).services(|s| s.accounts.guests = true).start().await;
    let alice = server.user("alice").await;
    alice.get("/_matrix/client/v1/media/preview_url").await.refused(400, "M_MISSING_PARAM");
    alice.get("/_matrix/client/v1/media/preview_url?url=http://127.0.0.1&ts=now").await.refused(400, "M_INVALID_PARAM");
    let long = format!("http://127.0.0.1/{}", "x".repeat(9000));
    for wrong in
        ["", "matrix.org", "ftp://a.test/", "file:///etc/passwd", "data:text/html,x", "http://", "http://a b/", &long]
    {
        previews(&alice, wrong).await.refused(400, "M_INVALID_PARAM");
    }
    let path = "/_matrix/client/v1/media/preview_url?url=http://127.0.0.1:1/";
    server.nobody().get(path).await.refused(401, "M_MISSING_TOKEN");
    let guest = server.nobody().post("/_matrix/client/v3/register?kind=guest", json!({})).await.good();
    server.with_token(guest["access_token"].as_str().unwrap()).get(path).await.refused(403, "M_GUEST_ACCESS_FORBIDDEN");
    let capabilities = alice.get("/_matrix/client/v3/capabilities").await.good();
    assert_eq!(capabilities["capabilities"]["io.element.msc4452.preview_url"]["enabled"], true);

    let closed = TestServer::start().await;
    let bob = closed.user("bob").await;
    bob.get(path).await.refused(403, "M_FORBIDDEN");
    bob.get("/_matrix/media/v3/preview_url?url=http://127.0.0.1:1/").await.refused(403, "M_FORBIDDEN");
    let capabilities = bob.get("/_matrix/client/v3/capabilities").await.good();
    assert_eq!(capabilities["capabilities"]["io.element.msc4452.preview_url"]["enabled"], false);
}

#[tokio::test]
async fn sites_that_fail_are_left_alone_for_a_while() {
    let site = Site::open().await;
    site.puts("/text", "text/plain", "words").puts("/json", "application/json", "{}");
    site.html("/large", &"x".repeat(2001)).puts("/large.png", "image/png", vec![7; 2001]);
    site.puts("/empty.png", "image/png", "").html("/fits", &format!("<title>t</title>{}", " ".repeat(1900)));
    let headers = vec![(header::LOCATION, "/loop".to_owned())];
    site.put("/loop", Thing { status: StatusCode::FOUND, headers, body: Vec::new() });
    let server = plan(|s| s.max_size = 2000).start().await;
    let alice = server.user("alice").await;
    for path in ["/missing", "/text", "/loop", "/empty.png"] {
        previews(&alice, &site.url(path)).await.refused(502, "M_UNKNOWN");
    }
    for path in ["/large", "/large.png"] {
        previews(&alice, &site.url(path)).await.refused(502, "M_TOO_LARGE");
    }
    previews(&alice, "http://127.0.0.1:1/").await.refused(502, "M_UNKNOWN");
    assert_eq!(previews(&alice, &site.url("/json")).await.good(), json!({}));
    assert_eq!(previews(&alice, &site.url("/fits")).await.good(), json!({ "og:title": "t" }));
    previews(&alice, &site.url("/missing")).await.refused(502, "M_UNKNOWN");
    assert_eq!(site.was_asked("/missing"), 1);
    site.html("/missing", "<title>found</title>");
    server.clock().advance_ms(HOUR);
    assert_eq!(previews(&alice, &site.url("/missing")).await.good(), json!({ "og:title": "found" }));
}

#[tokio::test]
async fn forbidden_places_are_not_asked() {
    let (open, secret) = (Site::open().await, Site::open().await);
    let location =
        |to: String| Thing { status: StatusCode::FOUND, headers: vec![(header::LOCATION, to)], body: Vec::new() };
    let port = secret.base.rsplit(':').next().unwrap().to_owned();
    secret.html("/", "<title>secret</title>").png("/i.png");
    open.put("/out", location(secret.url("/"))).png("/private/i.png");
    open.html("/page", &format!("<title>t</title><img src={}>", secret.url("/i.png")));
    open.html("/own", "<title>t</title><img src=private/i.png>");
    let discovering = format!("<title>t</title><link type=application/json+oembed href={}>", secret.url("/"));
    open.html("/discovering", &discovering);
    let patterns = format!("[{{netloc: '*:{port}'}}, {{scheme: http, path: '^/private'}}]");
    let server = plan(move |settings| {
        let yaml = format!(
            "server_name: a.test\nreport_stats: false\nurl_preview_enabled: true\nurl_preview_ip_range_blacklist: []\n\
             url_preview_url_blacklist: {patterns}\n"
        );
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("homeserver.yaml");
        std::fs::write(&file, yaml).unwrap();
        let config = hearth_config::Config::load(&[file], hearth_config::Env::default()).unwrap().config;
        settings.deny_urls = config.media.previews.unwrap().deny_urls;
    })
    .start()
    .await;
    let alice = server.user("alice").await;
    for url in [secret.url("/"), secret.url("/").replace("//", "//x:y@"), open.url("/private/i.png")] {
        previews(&alice, &url).await.refused(403, "M_FORBIDDEN");
    }
    previews(&alice, &open.url("/out")).await.refused(502, "M_UNKNOWN");
    for path in ["/page", "/own", "/discovering"] {
        assert_eq!(previews(&alice, &open.url(path)).await.good(), json!({ "og:title": "t" }), "{path}");
    }
    assert_eq!((secret.asked.lock().unwrap().len(), open.was_asked("/private/i.png")), (0, 0));

    let inside = plan(|s| s.remote.remote.deny = vec!["127.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()]);
    let inside = inside.start().await;
    let bob = inside.user("bob").await;
    for host in ["127.0.0.1", "2130706433", "0x7f.1", "[::ffff:127.0.0.1]", "[::1]"] {
        previews(&bob, &format!("http://{host}:{port}/")).await.refused(403, "M_FORBIDDEN");
    }
    // A name that leads there is told as one that leads nowhere.
    let named = previews(&bob, &format!("http://localhost:{port}/")).await.refused(502, "M_UNKNOWN");
    assert_eq!(named["error"], "localhost could not be reached");
    assert_eq!(secret.asked.lock().unwrap().len(), 0);
}

#[tokio::test]
async fn images_of_all_sorts() {
    let site = Site::open().await;
    site.png("/a.png").puts("/drawing", "image/svg+xml", "<svg xmlns='http://www.w3.org/2000/svg'/>");
    let named = vec![
        (header::CONTENT_TYPE, "image/jpeg".to_owned()),
        (header::CONTENT_DISPOSITION, "inline; filename=\"holiday.png\"".to_owned()),
    ];
    site.put("/named", Thing { status: StatusCode::OK, headers: named, body: STANDARD.decode(PNG).unwrap() });
    site.html("/data", &format!("<img src='data:image/png;base64,{PNG}'>"));
    site.html("/base", "<base href='/deep/'><meta property=og:image content=../a.png>");
    site.html(
        "/gone",
        "<title>t</title><meta property=og:image content=gone.png><meta property=og:image:alt content=x>",
    );
    site.html("/odd", "<title>t</title><meta property=og:image content='http://[::1'>");
    site.html("/page", "<title>t</title><meta property=og:image content=/odd>");
    // What says of itself what no type of an image can be.
    for (n, subtype) in ["x".repeat(128), String::new(), "png, text/html".to_owned()].iter().enumerate() {
        site.puts(&format!("/typed{n}"), &format!("image/{subtype}"), STANDARD.decode(PNG).unwrap());
        site.html(&format!("/types{n}"), &format!("<title>t</title><meta property=og:image content=/typed{n}>"));
    }
    let server = plan(|_| {}).start().await;
    let alice = server.user("alice").await;
    let preview = previews(&alice, &site.url("/named")).await.good();
    let size = STANDARD.decode(PNG).unwrap().len();
    let want = json!({
        "og:description": "holiday.png", "og:image": image_of(&preview), "og:image:type": "image/png",
        "og:image:width": 1, "og:image:height": 1, "matrix:image:size": size,
    });
    assert_eq!(preview, want);
    let drawing = previews(&alice, &site.url("/drawing")).await.good();
    assert_eq!((&drawing["og:image:type"], &drawing["og:image:width"]), (&json!("image/svg+xml"), &Value::Null));
    for path in ["/data", "/base"] {
        let preview = previews(&alice, &site.url(path)).await.good();
        assert_eq!(downloads(&server, &alice, &image_of(&preview)).await.1, STANDARD.decode(PNG).unwrap(), "{path}");
        assert_eq!(preview["matrix:image:size"], size);
    }
    for path in ["/gone", "/odd", "/page", "/types0", "/types1", "/types2"] {
        assert_eq!(previews(&alice, &site.url(path)).await.good(), json!({ "og:title": "t" }), "{path}");
    }
}

#[tokio::test]
async fn images_have_no_more_room_than_they_are_given() {
    let site = Site::open().await;
    let drawing = |n: u32| format!("<svg><text>{}{n}</text></svg>", "x".repeat(980));
    for n in 0..6 {
        site.puts(&format!("/{n}"), "image/svg+xml", drawing(n));
    }
    let server = plan(|s| s.max_images = 4096).start().await;
    let alice = server.user("alice").await;
    let mut images = Vec::new();
    for n in 0..6 {
        images.push(image_of(&previews(&alice, &site.url(&format!("/{n}"))).await.good()));
        // The oldest goes first, so none is as old as another.
        server.clock().advance_ms(1);
    }
    let mut there = Vec::new();
    for image in &images {
        there.push(downloads(&server, &alice, image).await.0);
    }
    assert_eq!(there, [404, 404, 200, 200, 200, 200]);
    server.services().previews.sweep().await.unwrap();
    assert_eq!(downloads(&server, &alice, &images[2]).await.0, 200);
}

#[tokio::test]
async fn pages_that_are_told_elsewhere() {
    let site = Site::open().await;
    site.png("/thumb.png").png("/page.png");
    let about = site.url("/found?v=1");
    site.html(
        "/found?v=1",
        "<title>Page</title><meta property=og:description content='Of the page.'><meta property=og:image content=page.png>\
         <link rel=alternate type='application/json+oembed' href='/oembed?about=1'>",
    );
    let answer = json!({
        "version": "1.0", "type": "video", "title": "Film", "provider_name": "Tube", "thumbnail_url": site.url("/thumb.png"),
        "width": 640, "height": 360, "cache_age": 7200,
    });
    site.puts("/oembed?about=1", "application/json", answer.to_string());
    let xml = "<?xml version='1.0'?><oembed><version>1.0</version><type>rich</type><author_name>Ada</author_name>\
               <html>&lt;p&gt;Said &lt;b&gt;so&lt;/b&gt;&lt;/p&gt;</html></oembed>";
    site.puts("/xml", "text/xml", xml);
    site.html("/told", "<link type='text/xml+oembed' href=/xml>");
    site.html("/broken", "<title>Page</title><link type='application/json+oembed' href=/nothing>");
    let providers = tempfile::NamedTempFile::new().unwrap();
    let endpoints = json!([{ "endpoints": [
        { "schemes": [site.url("/status/*")], "url": site.url("/publish.{format}") },
        { "schemes": [site.url("/lost/*")], "url": site.url("/nothing") },
    ]}]);
    std::fs::write(providers.path(), endpoints.to_string()).unwrap();
    let asked = format!("/publish.json?url={}&format=json", encoded(&site.url("/status/7")));
    site.puts(&asked, "application/json", r#"{"type": "rich", "author_name": "Ada", "html": "<p>Hello</p>"}"#);
    site.html("/lost/1", "<title>Lost</title>");
    let path = providers.path().to_owned();
    let server = plan(move |settings| {
        let yaml = format!(
            "server_name: a.test\nreport_stats: false\nurl_preview_enabled: true\nurl_preview_ip_range_blacklist: []\n\
             oembed: {{ additional_providers: ['{}'], disable_default_providers: true }}\n",
            path.display()
        );
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("homeserver.yaml");
        std::fs::write(&file, yaml).unwrap();
        let config = hearth_config::Config::load(&[file], hearth_config::Env::default()).unwrap().config;
        settings.oembed = config.media.previews.unwrap().oembed;
    })
    .start()
    .await;
    let alice = server.user("alice").await;
    let mut preview = previews(&alice, &about).await.good();
    assert_eq!(downloads(&server, &alice, &image_of(&preview)).await.0, 200);
    assert_eq!((site.was_asked("/thumb.png"), site.was_asked("/page.png")), (1, 0));
    preview.as_object_mut().unwrap().retain(|name, _| !name.contains("image"));
    let want = json!({
        "og:title": "Film", "og:description": "Of the page.", "og:site_name": "Tube", "og:url": about,
        "og:type": "video.other", "og:video:width": 640, "og:video:height": 360,
    });
    assert_eq!(preview, want);
    // It says itself how long that is good.
    server.clock().advance_ms(HOUR + 1);
    previews(&alice, &about).await.good();
    assert_eq!(site.was_asked("/found?v=1"), 1);
    let told = previews(&alice, &site.url("/told")).await.good();
    assert_eq!(told, json!({ "og:title": "Ada", "og:description": "Said so", "og:url": site.url("/told") }));
    assert_eq!(previews(&alice, &site.url("/broken")).await.good(), json!({ "og:title": "Page" }));
    let published = previews(&alice, &site.url("/status/7")).await.good();
    assert_eq!(published, json!({ "og:title": "Ada", "og:description": "Hello", "og:url": site.url("/status/7") }));
    assert_eq!(site.was_asked("/status/7"), 0);
    assert_eq!(previews(&alice, &site.url("/lost/1")).await.good(), json!({ "og:title": "Lost" }));
}

#[tokio::test]
async fn pages_that_mean_harm() {
    let site = Site::open().await;
    let title = "<title>t</title>";
    let pages: Vec<(&str, Vec<u8>)> = vec![
        ("/deep", format!("{title}{}", "<div>".repeat(1_000_000)).into()),
        ("/wide", format!("{title}<img {}>", (0..400_000).map(|n| format!("a{n}=b ")).collect::<String>()).into()),
        ("/open", format!("{title}<!-- {}", "x".repeat(2_000_000)).into()),
        ("/signs", format!("{title}{}", "&#".repeat(1_000_000)).into()),
        ("/null", [title.as_bytes(), &[0; 100_000]].concat()),
        ("/controls", b"<title>\x01\x02t\x1b\x7f</title>".to_vec()),
    ];
    let server = plan(|_| {}).start().await;
    let alice = server.user("alice").await;
    for (path, body) in pages {
        site.puts(path, "text/html; charset=\"no such\"", body);
        assert_eq!(previews(&alice, &site.url(path)).await.good()["og:title"], "t", "{path}");
    }
    site.puts("/old", "text/html; charset=windows-1251", b"<title>\xcf\xf0\xe8\xe2\xe5\xf2</title>".to_vec());
    assert_eq!(previews(&alice, &site.url("/old")).await.good()["og:title"], "Привет");
    site.puts("/nothing", "text/html; charset=utf-16", vec![0xd8; 100_001]);
    previews(&alice, &site.url("/nothing")).await.good();
}

#[tokio::test]
async fn nobody_asks_all_too_often() {
    let plan = plan(|_| {}).api(|api| {
        api.limits.enabled = true;
        api.limits.preview = hearth_api::limits::Rate::new(0.1, 2.0);
    });
    let server = plan.start().await;
    let (site, alice) = (Site::open().await, server.user("alice").await);
    site.html("/", "<title>t</title>");
    for _ in 0..2 {
        previews(&alice, &site.url("/")).await.good();
    }
    let body = previews(&alice, &site.url("/")).await.refused(429, "M_LIMIT_EXCEEDED");
    assert!(body["retry_after_ms"].as_u64().unwrap() > 0);
}
