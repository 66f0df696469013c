//! Folders of files: apps at paths and hosts, generated configuration, caching, ranges, and the ways out of a folder.

use std::{fs, os::unix::fs::symlink, path::Path};

use serde_json::Value;

use crate::front::{Front, listener, plain, settings};

fn put(root: &Path, path: &str, content: impl AsRef<[u8]>) {
    let file = root.join(path);
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(file, content).unwrap();
}

/// An edge that serves `root` at `/app` on a plain listener, with whatever else is said.
fn serve(root: &Path, more: &str) -> (Front, String) {
    let yaml = format!("{{local_ca: true, apps: [{{folder: {:?}, at: /app, {more}}}]}}", root.display().to_string());
    let mut settings = settings(&yaml);
    settings.listeners = vec![listener("8008", false, &["client"])];
    let front = Front::open(settings);
    let base = format!("http://{}", front.at("8008"));
    (front, base)
}

#[tokio::test(flavor = "multi_thread")]
async fn files_carry_type_etag_and_cache_headers() {
    let root = tempfile::tempdir().unwrap();
    put(root.path(), "index.html", "<h1>hello</h1>");
    put(root.path(), "assets/index-BfX9aB3c.js", "let a;");
    put(root.path(), "sub/index.html", "sub");
    let (_front, base) = serve(root.path(), "headers: {X-Robots-Tag: noindex}");
    let get = async |path: &str| plain().get(format!("{base}{path}")).send().await.unwrap();

    assert_eq!(get("/app").await.headers()["location"], "/app/");
    assert_eq!(get("/app/sub?a=b").await.headers()["location"], "/app/sub/?a=b");
    assert_eq!(get("/app/sub/").await.text().await.unwrap(), "sub");
    let index = get("/app/").await;
    let head = index.headers().clone();
    assert_eq!(index.text().await.unwrap(), "<h1>hello</h1>");
    for (name, value) in [
        ("content-type", "text/html; charset=utf-8"),
        ("cache-control", "no-cache"),
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "SAMEORIGIN"),
        ("content-security-policy", "frame-ancestors 'self'"),
        ("x-robots-tag", "noindex"),
        ("content-length", "14"),
    ] {
        assert_eq!(head[name], value, "{name}");
    }
    let hashed = get("/app/assets/index-BfX9aB3c.js").await;
    assert!(hashed.headers()["cache-control"].to_str().unwrap().contains("immutable"));
    assert_eq!(get("/app/nothing").await.status(), 404);
    assert_eq!(plain().post(format!("{base}/app/")).send().await.unwrap().status(), 405);

    let again = async |name: &str, value: &str| {
        plain().get(format!("{base}/app/")).header(name, value).send().await.unwrap().status().as_u16()
    };
    let etag = head["etag"].to_str().unwrap();
    assert_eq!(again("if-none-match", etag).await, 304);
    assert_eq!(again("if-none-match", &format!("\"x\", W/{etag}")).await, 304);
    assert_eq!(again("if-none-match", "\"x\"").await, 200);
    assert_eq!(again("if-modified-since", head["last-modified"].to_str().unwrap()).await, 304);
    assert_eq!(again("if-modified-since", "Thu, 01 Jan 1970 00:00:00 GMT").await, 200);
    let head = plain().head(format!("{base}/app/")).send().await.unwrap();
    assert_eq!(head.headers()["content-length"], "14");
    assert!(head.bytes().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_of_small_and_large_files() {
    let root = tempfile::tempdir().unwrap();
    let large: Vec<u8> = (0..700_000u32).map(|n| (n % 251) as u8).collect();
    put(root.path(), "large.bin", &large);
    put(root.path(), "small.bin", &large[..1000]);
    let (front, base) = serve(root.path(), "");
    let url = format!("https://example.com:{}/app/large.bin", front.at("https").port());
    let whole = front.client("https", true).get(url).send().await.unwrap();
    assert_eq!(whole.version(), http::Version::HTTP_2);
    assert_eq!(whole.bytes().await.unwrap(), large, "cut into frames and whole again");
    for (name, all) in [("large.bin", &large[..]), ("small.bin", &large[..1000])] {
        let url = format!("{base}/app/{name}");
        let whole = plain().get(&url).send().await.unwrap();
        let etag = whole.headers()["etag"].clone();
        assert_eq!(whole.bytes().await.unwrap(), all);
        let part = plain().get(&url).header("range", "bytes=100-899").send().await.unwrap();
        assert_eq!(part.status(), 206);
        assert_eq!(part.headers()["content-range"], format!("bytes 100-899/{}", all.len()));
        assert_eq!(part.bytes().await.unwrap(), all[100..900]);
        let tail = plain().get(&url).header("range", "bytes=-7").header("if-range", &etag).send().await.unwrap();
        assert_eq!(tail.bytes().await.unwrap(), all[all.len() - 7..]);
        let other = plain().get(&url).header("range", "bytes=-7").header("if-range", "\"x\"").send().await.unwrap();
        assert_eq!(other.status(), 200);
        // Who goes on with what they began wants nothing of another file.
        for (name, value, status) in [
            ("if-match", "\"x\"", 412),
            ("if-match", "*", 206),
            ("if-match", etag.to_str().unwrap(), 206),
            ("if-unmodified-since", "Fri, 01 Jan 1999 00:00:00 GMT", 412),
            ("if-unmodified-since", "Fri, 01 Jan 2999 00:00:00 GMT", 206),
            ("if-unmodified-since", "yesterday", 206),
        ] {
            let given = plain().get(&url).header("range", "bytes=0-9").header(name, value).send().await.unwrap();
            assert_eq!(given.status(), status, "{name}: {value}");
        }
        let head = plain().head(&url).header("range", "bytes=0-9").send().await.unwrap();
        assert_eq!((head.status().as_u16(), &head.headers()["content-length"]), (200, &all.len().into()));
        let outside = plain().get(&url).header("range", "bytes=9999999-").send().await.unwrap();
        assert_eq!((outside.status().as_u16(), outside.content_length()), (416, Some(0)));
        assert_eq!(outside.headers()["content-range"], format!("bytes */{}", all.len()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn precompressed_forms_are_chosen_when_fresh() {
    let root = tempfile::tempdir().unwrap();
    put(root.path(), "a.js", "plain");
    put(root.path(), "a.js.br", "brotli");
    put(root.path(), "a.js.gz", "gzip");
    put(root.path(), "b.js.br", "stale");
    put(root.path(), "b.js", "newer");
    let old = std::time::SystemTime::now() - std::time::Duration::from_secs(100);
    fs::File::options().write(true).open(root.path().join("b.js.br")).unwrap().set_modified(old).unwrap();
    let (_front, base) = serve(root.path(), "");
    let get = async |path: &str, accept: &str| {
        let response = plain().get(format!("{base}{path}")).header("accept-encoding", accept).send().await.unwrap();
        let encoding = response.headers().get("content-encoding").map(|v| v.to_str().unwrap().to_owned());
        let (etag, kind) = (response.headers()["etag"].clone(), response.headers()["content-type"].clone());
        assert_eq!(kind, "text/javascript; charset=utf-8");
        (encoding.unwrap_or_default(), response.text().await.unwrap(), etag)
    };
    let (br, gz, raw) =
        (get("/app/a.js", "gzip, br").await, get("/app/a.js", "gzip;q=0.5").await, get("/app/a.js", "br;q=0").await);
    assert_eq!((br.0.as_str(), br.1.as_str()), ("br", "brotli"));
    assert_eq!((gz.0.as_str(), gz.1.as_str()), ("gzip", "gzip"));
    assert_eq!((raw.0.as_str(), raw.1.as_str()), ("", "plain"));
    assert!(br.2 != gz.2 && gz.2 != raw.2);
    assert_eq!(get("/app/b.js", "br").await.1, "newer");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_outside_the_folder_is_served() {
    let top = tempfile::tempdir().unwrap();
    let root = top.path().join("site");
    put(top.path(), "secret.txt", "secret");
    put(&root, "index.html", "in");
    put(&root, ".htpasswd", "secret");
    put(&root, ".well-known/ok.json", "{}");
    put(&root, "real/a.txt", "fine");
    symlink(top.path().join("secret.txt"), root.join("out.txt")).unwrap();
    symlink(top.path(), root.join("up")).unwrap();
    symlink("../secret.txt", root.join("relative.txt")).unwrap();
    symlink("real", root.join("inside")).unwrap();
    let (front, base) = serve(&root, "");
    for path in [
        "/app/../secret.txt",
        "/app/%2e%2e/secret.txt",
        "/app/..%2fsecret.txt",
        "/app/real/..%2f..%2fsecret.txt",
        "/app/out.txt",
        "/app/up/secret.txt",
        "/app/relative.txt",
        "/app/.htpasswd",
        "/app/%2ehtpasswd",
        "/app//etc/passwd",
        "/app/%2fetc/passwd",
        "/app/..\\secret.txt",
        "/app/index.html%00.js",
    ] {
        // Written by hand: a client library would tidy the path.
        let answer = front.raw("8008", &format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 4"), "{path}: {answer}");
        assert!(!answer.contains("secret\n") && !answer.ends_with("secret"), "{path}: {answer}");
    }
    let get = async |path: &str| plain().get(format!("{base}{path}")).send().await.unwrap().status().as_u16();
    assert_eq!(get("/app/inside/a.txt").await, 200, "a link that stays inside is followed");
    assert_eq!(get("/app/.well-known/ok.json").await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn single_page_apps_answer_their_own_routes() {
    let root = tempfile::tempdir().unwrap();
    put(root.path(), "index.html", "app");
    let (_front, base) = serve(root.path(), "spa: true");
    let get = async |path: &str| plain().get(format!("{base}{path}")).send().await.unwrap();
    for place in ["users/@a:b", "home/!abc:matrix.org", "home/%23room%3Aexample.com/%24event", "docs/v1.2"] {
        assert_eq!(get(&format!("/app/{place}")).await.text().await.unwrap(), "app", "{place}");
    }
    assert_eq!(get("/app/missing.js").await.status(), 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn element_and_the_admin_interface_find_their_server() {
    let (element, admin) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    put(element.path(), "index.html", "element");
    put(element.path(), "config.json", r#"{"brand": "Mine", "default_hs_url": "https://matrix.org"}"#);
    put(admin.path(), "index.html", "admin");
    let front = Front::open(settings(&format!(
        "{{local_ca: true, element: {{folder: {:?}, at: element.example.com, config: {{show_labs_settings: true}}}},
           admin_ui: {{folder: {:?}, at: example.com/admin}}}}",
        element.path().display().to_string(),
        admin.path().display().to_string()
    )));
    let client = front.client("https", true);
    let port = front.at("https").port();
    let get = async |host: &str, path: &str| client.get(format!("https://{host}:{port}{path}")).send().await.unwrap();
    assert_eq!(get("element.example.com", "/").await.text().await.unwrap(), "element");
    for path in ["/config.json", "/config.element.example.com.json"] {
        let config: Value = get("element.example.com", path).await.json().await.unwrap();
        assert_eq!(config["brand"], "Mine");
        assert_eq!(config["show_labs_settings"], true);
        assert!(config.get("default_hs_url").is_none());
        let server = &config["default_server_config"]["m.homeserver"];
        assert_eq!(
            (&server["base_url"], &server["server_name"]),
            (&"https://chat.example.com/".into(), &"example.com".into())
        );
    }
    assert_eq!(get("example.com", "/admin/").await.text().await.unwrap(), "admin");
    let config: Value = get("example.com", "/admin/config.json").await.json().await.unwrap();
    assert_eq!(config["restrictBaseUrl"], "https://chat.example.com");
    assert_eq!(get("chat.example.com", "/admin/").await.status(), 404, "only on its own host");
    assert_eq!(get("chat.example.com", "/").await.text().await.unwrap(), "status page");
    assert_eq!(get("element.example.com", "/_matrix/client/versions").await.status(), 200);
}
