//! The set-up that Hearth takes the place of (PostgreSQL, a Synapse behind nginx, certificates by cron, delegation from the
//! root domain, Element Web and an admin interface beside it), walked from `hearth generate` to a renewal, with the file
//! that such an administrator has. The authority is pebble; everybody else trusts its root alone and comes by name.

use std::{net::SocketAddr, path::PathBuf};

use hearth_test_postgres::Cluster;
use reqwest::{Certificate, Client, Method, StatusCode, tls::TlsInfo};
use serde_json::{Value, json};

use crate::support::{
    pebble::{self, Pebble},
    program::{Installation, Program},
    rooms::{V3, bodies, encoded},
};

const FILE: &str = include_str!("fixtures/tutorial-homeserver.yaml");
/// The domain of the ids, and the one that clients connect to.
const NAMES: [&str; 2] = ["my-example.com", "chat.my-example.com"];

/// What stands in for ports 80, 443 and 8448.
struct Doors {
    http: SocketAddr,
    https: SocketAddr,
    federation: SocketAddr,
}

impl Doors {
    fn free() -> Self {
        Self { http: pebble::free(), https: pebble::free(), federation: pebble::free() }
    }
}

/// A client that trusts one authority and finds both names behind a door. It makes connections of its own.
fn client(root: &Certificate, door: SocketAddr) -> Client {
    let names = Client::builder().resolve(NAMES[0], door).resolve(NAMES[1], door);
    let plain =
        names.no_proxy().redirect(reqwest::redirect::Policy::none()).timeout(std::time::Duration::from_secs(90));
    plain.tls_certs_only([root.clone()]).tls_info(true).build().unwrap()
}

/// A success with JSON; `token` may be empty.
async fn ask(client: &Client, method: Method, url: &str, token: &str, body: Option<Value>) -> Value {
    let mut request = client.request(method, url);
    if !token.is_empty() {
        request = request.bearer_auth(token);
    }
    if let Some(body) = body {
        request = request.json(&body);
    }
    let answer = request.send().await.unwrap_or_else(|e| panic!("{url}: {e:?}"));
    let (status, text) = (answer.status(), answer.text().await.unwrap());
    assert!(status.is_success(), "{url}: {status} {text}");
    serde_json::from_str(&text).unwrap()
}

/// The certificate that a new connection to a name gets, in DER.
async fn certificate(root: &Certificate, door: SocketAddr, name: &str) -> Vec<u8> {
    let answer = client(root, door).get(format!("https://{name}/_matrix/client/versions")).send().await;
    let answer = answer.unwrap_or_else(|e| panic!("{name} at {door}: {e:?}"));
    assert_eq!(answer.status(), StatusCode::OK);
    shown(&answer)
}

/// The certificate of the connection that an answer came by.
fn shown(answer: &reqwest::Response) -> Vec<u8> {
    answer.extensions().get::<TlsInfo>().unwrap().peer_certificate().unwrap().to_vec()
}

/// What is to be served beside the homeserver, in small.
fn unpack_web_apps(home: &Installation) {
    home.write("element/index.html", "<title>Element</title>");
    home.write("element/bundles/main.js", "start()");
    home.write("element/config.sample.json", "{\"brand\": \"sample\"}");
    home.write("admin/index.html", "<title>Admin</title>");
    home.write("www/index.html", "<title>My example</title>");
}

/// The file as it is, but for the folder and the port that this test has for itself, and our section below it.
fn edited(home: &Installation, doors: &Doors, authority: &Pebble) -> String {
    let folder = |name: &str| home.path(name).display().to_string();
    let edge = json!({
        "listen": {
            "http": doors.http.to_string(),
            "https": doors.https.to_string(),
            "federation": doors.federation.to_string(),
        },
        "acme": {"email": "ops@my-example.com", "directory": authority.directory, "ca_root": authority.ca_root},
        "element": {"folder": folder("element"), "at": NAMES[1], "config": {"brand": "Our chat"}},
        "admin_ui": {"folder": folder("admin"), "at": format!("{}/admin", NAMES[1])},
        "apps": [{"folder": folder("www"), "at": NAMES[0]}],
    });
    let own = FILE.replace("/data", &folder("")).replace("port: 8008", &format!("port: {}", home.port));
    let changed = FILE.lines().zip(own.lines()).filter(|(theirs, ours)| theirs != ours).count();
    assert_eq!((changed, FILE.lines().count()), (5, own.lines().count()), "{own}");
    // JSON is YAML.
    format!("{own}\nedge: {edge}\n")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_generate_to_a_renewal() {
    if !pebble::found() {
        return;
    }
    let port = pebble::free().port();
    let Some(database) = Cluster::start_on(port).await else { return };
    database.admin("CREATE USER synapse_user PASSWORD 'password'").await;
    let words = "ENCODING 'UTF8' LC_COLLATE='C' LC_CTYPE='C' TEMPLATE template0 OWNER synapse_user";
    database.admin(&format!("CREATE DATABASE synapse {words}")).await;
    let doors = Doors::free();
    let mut authority = Pebble::start(doors.http.port(), doors.https.port(), json!({})).await;

    // Generate, then edit: the signing key and the log's file stay those that were generated.
    let mut home = Installation::generate(NAMES[0]).await;
    home.run("check-config", &[]).await.unwrap();
    unpack_web_apps(&home);
    home.write("homeserver.yaml", &edited(&home, &doors, &authority));
    // As the file names none.
    home.set("PGPORT", port);
    let said = home.run("check-config", &[]).await.unwrap();
    assert!(said.ends_with("the configuration is fine\n"), "{said}");

    let server = home.serve().await;
    for name in NAMES {
        server.says(0, &["new certificate, now in use", &format!("names={name}")]).await;
    }
    let root = authority.issuing_root().await;
    let one = everyone_finds_their_way(&root, &doors).await;
    an_administrator_is_made(&home).await;
    let token = they_chat(&one).await;
    assert!(!server.told().contains("ruma_state_res"), "what no operator wants to know:\n{}", server.told());
    renewal_is_not_noticed(&home, &server, &authority, &root, &doors, &token).await;

    // Stopped and started while the authority is away: all that is needed was kept.
    let before = certificate(&root, doors.https, NAMES[1]).await;
    assert!(server.stop().await.success());
    assert!(!home.path("homeserver.pid").exists());
    authority.stop();
    let _again = home.serve().await;
    assert_eq!(certificate(&root, doors.https, NAMES[1]).await, before);
    let me = ask(&client(&root, doors.https), Method::GET, &format!("{BASE}{V3}/account/whoami"), &token, None).await;
    assert_eq!(me["user_id"], "@alice:my-example.com");
}

/// The homeserver's address for clients, without its last slash.
const BASE: &str = "https://chat.my-example.com";

/// Clients, other servers and browsers, from nothing but the domain in an id. Gives a client.
async fn everyone_finds_their_way(root: &Certificate, doors: &Doors) -> Client {
    for door in [doors.https, doors.federation] {
        let own = [certificate(root, door, NAMES[0]).await, certificate(root, door, NAMES[1]).await];
        assert_ne!(own[0], own[1], "each name has a certificate of its own");
    }
    let one = client(root, doors.https);
    let get = async |url: &str| one.get(url).send().await.unwrap();

    let answer = get("https://my-example.com/.well-known/matrix/client").await;
    assert_eq!(answer.headers()["access-control-allow-origin"], "*");
    let told: Value = answer.json().await.unwrap();
    assert_eq!(told["m.homeserver"]["base_url"], format!("{BASE}/"));
    let told: Value = get("https://my-example.com/.well-known/matrix/server").await.json().await.unwrap();
    assert_eq!(told, json!({"m.server": "chat.my-example.com:443"}));
    // Another server comes to 443 by delegation; one that knows no delegation, to 8448 of the root domain.
    for (door, name) in [(doors.https, NAMES[1]), (doors.federation, NAMES[0])] {
        let url = format!("https://{name}/_matrix/key/v2/server");
        let keys = ask(&client(root, door), Method::GET, &url, "", None).await;
        assert_eq!(keys["server_name"], NAMES[0]);
        assert!(keys["signatures"][NAMES[0]].is_object(), "{keys}");
    }

    let page = async |url: &str| get(url).await.text().await.unwrap();
    assert!(page("https://my-example.com/").await.contains("My example"));
    assert!(page(&format!("{BASE}/")).await.contains("Element"));
    assert!(page(&format!("{BASE}/bundles/main.js")).await.contains("start()"));
    assert!(page(&format!("{BASE}/admin/")).await.contains("Admin"));
    for file in ["config.json", "config.chat.my-example.com.json"] {
        let config = ask(&one, Method::GET, &format!("{BASE}/{file}"), "", None).await;
        let server = json!({"base_url": format!("{BASE}/"), "server_name": NAMES[0]});
        assert_eq!(config["default_server_config"]["m.homeserver"], server);
        assert_eq!(config["brand"], "Our chat");
    }
    let plain = client(root, doors.http).get("http://chat.my-example.com/admin/").send().await.unwrap();
    assert!(plain.status().is_redirection());
    assert_eq!(plain.headers()["location"], format!("{BASE}:{}/admin/", doors.https.port()));
    one
}

/// `hearth register-user` with the file alone, as `register_new_matrix_user` is called.
async fn an_administrator_is_made(home: &Installation) {
    let flags = ["-u", "alice", "-p", "wonderland", "-a"];
    assert!(home.run("register-user", &flags).await.unwrap().contains("@alice:my-example.com"));
    assert!(home.run("register-user", &flags).await.unwrap_err().contains("--exists-ok"));
    home.run("register-user", &[&flags[..], &["--exists-ok"]].concat()).await.unwrap();
}

/// Logs in, makes a room, says something, and finds it by /sync. Gives the token.
async fn they_chat(one: &Client) -> String {
    let login = json!({
        "type": "m.login.password",
        "identifier": {"type": "m.id.user", "user": "alice"},
        "password": "wonderland",
    });
    let session = ask(one, Method::POST, &format!("{BASE}{V3}/login"), "", Some(login)).await;
    assert_eq!(session["user_id"], "@alice:my-example.com");
    assert_eq!(session["well_known"]["m.homeserver"]["base_url"], format!("{BASE}/"));
    let token = session["access_token"].as_str().unwrap().to_owned();
    // Only administrators may ask this.
    let moderation = format!("{BASE}/_matrix/client/v1/admin/suspend/@alice:my-example.com");
    assert_eq!(ask(one, Method::GET, &moderation, &token, None).await["suspended"], false);
    let room = ask(one, Method::POST, &format!("{BASE}{V3}/createRoom"), &token, Some(json!({"name": "Hearth"}))).await;
    let room = room["room_id"].as_str().unwrap().to_owned();
    say(one, &token, &room, "the first").await;
    let sync = ask(one, Method::GET, &format!("{BASE}{V3}/sync"), &token, None).await;
    assert_eq!(bodies(&sync["rooms"]["join"][&room]["timeline"]["events"]), ["the first"]);
    token
}

async fn say(one: &Client, token: &str, room: &str, text: &str) {
    let url = format!("{BASE}{V3}/rooms/{}/send/m.room.message/{}", encoded(room), encoded(text));
    ask(one, Method::PUT, &url, token, Some(json!({"msgtype": "m.text", "body": text}))).await;
}

/// Both certificates are renewed before their time while somebody waits in a long-poll: one since its file was taken
/// away, the other since the authority asks for it. The poll goes on, over its own certificate; who comes anew sees
/// the new ones.
async fn renewal_is_not_noticed(
    home: &Installation,
    server: &Program,
    authority: &Pebble,
    root: &Certificate,
    doors: &Doors,
    token: &str,
) {
    let one = client(root, doors.https);
    let sync = ask(&one, Method::GET, &format!("{BASE}{V3}/sync"), token, None).await;
    let room = sync["rooms"]["join"].as_object().unwrap().keys().next().unwrap().clone();
    let since = sync["next_batch"].as_str().unwrap();
    let url = format!("{BASE}{V3}/sync?timeout=60000&since={}", encoded(since));
    let mut poll = std::pin::pin!(one.get(url).bearer_auth(token).send());
    let old = [certificate(root, doors.https, NAMES[0]).await, certificate(root, doors.https, NAMES[1]).await];

    let renewal = async {
        // Asked after the poll on the poll's own connection: once this is answered, the poll is with the server.
        ask(&one, Method::GET, &format!("{BASE}/_matrix/client/versions"), token, None).await;
        let before = server.lines();
        let kept: PathBuf = std::fs::read_dir(home.path("edge/acme")).unwrap().next().unwrap().unwrap().path();
        std::fs::remove_file(kept.join("chat.my-example.com.pem")).unwrap();
        let text = std::fs::read_to_string(kept.join("my-example.com.pem")).unwrap();
        let leaf = &text[text.find("-----BEGIN CERTIFICATE").unwrap()..];
        authority.ask_renewal(leaf, "2020-01-01T00:00:00Z", "2020-01-02T00:00:00Z").await;
        server.signal("HUP").await;
        for name in NAMES {
            server.says(before, &["new certificate, now in use", &format!("names={name}")]).await;
        }
        assert!(kept.join("chat.my-example.com.pem").exists());
    };
    tokio::select! {
        // First of the two, so that it is sent first.
        biased;
        answer = &mut poll => panic!("the poll ended during the renewal: {answer:?}\n{}", server.told()),
        () = renewal => {}
    }
    for (name, old) in NAMES.iter().zip(&old) {
        for door in [doors.https, doors.federation] {
            assert_ne!(&certificate(root, door, name).await, old, "{name} has its new certificate at {door}");
        }
    }
    say(&client(root, doors.https), token, &room, "behind the new certificate").await;
    let answer = poll.await.unwrap();
    assert_eq!((answer.status(), shown(&answer)), (StatusCode::OK, old[1].clone()));
    let news: Value = answer.json().await.unwrap();
    assert_eq!(bodies(&news["rooms"]["join"][&room]["timeline"]["events"]), ["behind the new certificate"]);
}
