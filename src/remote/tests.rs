//! Discovery and the HTTP client, against a name server and TLS servers of the tests' own on loopback ([`world`]).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod world;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use hearth_base::clock::Clock;
use http::{Method, Request, StatusCode, Version};
use ruma::ServerName;

use self::world::{Answer, Saw, World};
use crate::{
    Failure,
    discovery::{Authority, Host, Lookup, Place, dns::Dns},
    federation::Federation,
};

fn server(name: &str) -> &ServerName {
    name.try_into().unwrap()
}

async fn get(federation: &Federation, name: &str) -> Result<Saw, Failure> {
    let request = Request::builder().uri("/_matrix/test?a=b").body(Bytes::new()).unwrap();
    let answer = federation.exchange(server(name), request, federation.once()).await?;
    Ok(serde_json::from_slice(answer.body()).unwrap())
}

#[test]
fn names_of_servers() {
    let good = |text: &str| Authority::parse(text).unwrap();
    assert_eq!(*good("1.2.3.4").host(), Host::Ip([1, 2, 3, 4].into()));
    assert_eq!((good("[::1]:80").port(), good("[::1]:80").as_str().to_owned()), (Some(80), "[::1]:80".to_owned()));
    assert_eq!(*good("Example.ORG:8448").host(), Host::Name("example.org".to_owned()));
    assert_eq!(*good("localhost").host(), Host::Name("localhost".to_owned()));
    let long = "a".repeat(64);
    let longer = ["abcdefgh"; 32].join(".");
    for bad in [
        "",
        ":1",
        "a:",
        "a:0",
        "a:65536",
        "a:1:2",
        "a:+1",
        "a..b",
        "a.",
        ".a",
        "-a.org",
        "a-.org",
        "a_b.org",
        "a b",
        "user@a.org",
        "a.org/path",
        "a.org?x",
        "a.org#x",
        "a%00.org",
        "[::1",
        "[::1]x",
        "[fe80::1%eth0]",
        "::1",
        "127.1",
        "2130706433",
        "0x7f.1",
        "1.2.3.4.5",
        "1.2.3.256",
        "a.1",
        "bücher.de",
        &long,
        &longer,
    ] {
        assert!(Authority::parse(bad).is_err(), "{bad}");
    }
}

#[tokio::test]
async fn a_name_is_found_in_the_order_of_the_specification() {
    let world = World::start().await;
    let there = world.server("127.0.0.12", &["named.test", "far.test", "own.test", "old.test"], Answer::Seen).await;
    let port = there.port;
    world.address("named.test", "127.0.0.12");
    world.address("box.test", "127.0.0.12");
    let federation = world.federation(|_| ());
    let saw = |host: &str, sni: Option<&str>| Saw { host: host.to_owned(), sni: sni.map(str::to_owned) };

    // 1. A literal address: no SNI, and the certificate is for the address.
    let literal = world.server("127.0.0.11", &["127.0.0.11"], Answer::Seen).await;
    let name = format!("127.0.0.11:{}", literal.port);
    assert_eq!(get(&federation, &name).await.unwrap(), saw(&name, None));
    // 2. A port: nothing else is asked.
    let name = format!("named.test:{port}");
    assert_eq!(get(&federation, &name).await.unwrap(), saw(&name, Some("named.test")));
    assert_eq!(world.asked_web("named.test"), 0);

    // 3. Delegation, to an address, a port, and a name with SRV records.
    world.delegates("to-ip.test", &format!(r#"{{"m.server":"127.0.0.11:{}"}}"#, literal.port));
    assert_eq!(get(&federation, "to-ip.test").await.unwrap(), saw(&format!("127.0.0.11:{}", literal.port), None));
    world.delegates("to-port.test", &format!(r#"{{"m.server":"named.test:{port}"}}"#));
    assert_eq!(get(&federation, "to-port.test").await.unwrap(), saw(&format!("named.test:{port}"), Some("named.test")));
    world.delegates("to-name.test", r#"{"m.server":"far.test"}"#);
    world.service("_matrix-fed._tcp.far.test", "box.test", port);
    assert_eq!(get(&federation, "to-name.test").await.unwrap(), saw("far.test", Some("far.test")));

    // 4 and 5. No document: SRV records of the name itself, the new before the old.
    world.address("own.test", world::WEB);
    world.service("_matrix-fed._tcp.own.test", "box.test", port);
    world.service("_matrix._tcp.own.test", "box.test", 1);
    assert_eq!(get(&federation, "own.test").await.unwrap(), saw("own.test", Some("own.test")));
    world.address("old.test", world::WEB);
    world.service("_matrix._tcp.old.test", "box.test", port);
    assert_eq!(get(&federation, "old.test").await.unwrap(), saw("old.test", Some("old.test")));
    // An SRV record that says that there is none.
    world.address("none.test", world::WEB);
    world.service("_matrix-fed._tcp.none.test", "", 0);
    assert!(matches!(get(&federation, "none.test").await, Err(Failure::Unreachable(_))));

    // 6. Port 8448.
    let dns = Dns::at(world.name_server()).unwrap();
    let find = async |text: &str| Place::find(&Authority::parse(text).unwrap(), Lookup::Server, &dns).await;
    assert_eq!(find("named.test").await.unwrap()[0].addresses, ["127.0.0.12:8448".parse().unwrap()]);
    assert_eq!(find("[::1]").await.unwrap()[0].addresses, ["[::1]:8448".parse().unwrap()]);
    let unknown = find("unknown.test").await.unwrap_err();
    assert!(matches!(&unknown, Failure::Unreachable(why) if why.contains("not known to DNS")), "{unknown}");
}

#[tokio::test]
async fn documents_are_kept_and_outlive_their_web_server() {
    let world = World::start().await;
    let there = world.server("127.0.0.12", &["named.test"], Answer::Seen).await;
    world.address("named.test", "127.0.0.12");
    let document = format!(r#"{{"m.server":"named.test:{}"}}"#, there.port);
    let clock = Clock::new();
    let federation = world.federation_at(&clock, |_| ());
    let discovery = federation.discovery();
    let authority = async |name: &str| discovery.authority(server(name)).await.unwrap().to_string();
    let delegated = format!("named.test:{}", there.port);

    world.delegates("a.test", &document);
    let (one, two) = tokio::join!(authority("a.test"), authority("a.test"));
    assert_eq!((one, two, world.asked_web("a.test")), (delegated.clone(), delegated.clone(), 1));
    assert_eq!(authority("a.test").await, delegated);
    assert_eq!(world.asked_web("a.test"), 1);
    clock.advance_ms(25 * 3600 * 1000);
    assert_eq!(authority("a.test").await, delegated);
    assert_eq!(world.asked_web("a.test"), 2);
    // The web server falls over: what was good stays good for two days.
    world.web("a.test", Answer::Body(StatusCode::BAD_GATEWAY, Vec::new(), String::new()));
    clock.advance_ms(25 * 3600 * 1000);
    assert_eq!(authority("a.test").await, delegated);
    assert_eq!(world.asked_web("a.test"), 3);
    clock.advance_ms(25 * 3600 * 1000);
    assert_eq!(authority("a.test").await, "a.test");
    // An administrator who takes it away is believed at once.
    world.delegates("b.test", &document);
    assert_eq!(authority("b.test").await, delegated);
    world.web("b.test", Answer::Body(StatusCode::NOT_FOUND, Vec::new(), String::new()));
    clock.advance_ms(25 * 3600 * 1000);
    assert_eq!(authority("b.test").await, "b.test");
    // Its absence is asked about less and less often.
    let before = world.asked_web("b.test");
    for _ in 0..60 {
        authority("b.test").await;
        clock.advance_ms(60 * 1000);
    }
    let asked = world.asked_web("b.test") - before;
    assert!((3..=6).contains(&asked), "{asked}");
}

#[tokio::test]
async fn documents_of_strangers() {
    let world = World::start().await;
    let federation = world.federation(|_| ());
    let authority = async |name: &str| federation.discovery().authority(server(name)).await.unwrap().to_string();
    let location = |to: &str| vec![("location".to_owned(), to.to_owned())];
    let redirect = |to: &str| Answer::Body(StatusCode::FOUND, location(to), String::new());
    for (n, bad) in [
        "",
        "[]",
        r#"["x.org"]"#,
        "{}",
        r#"{"m.server":5}"#,
        r#"{"m.server":""}"#,
        r#"{"m.server":"user@x.org"}"#,
        r#"{"m.server":"x.org/path"}"#,
        r#"{"m.server":"127.1"}"#,
        r#"{"m.server":"https://x.org"}"#,
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("bad{n}.test");
        world.delegates(&name, bad);
        assert_eq!(authority(&name).await, name, "{bad}");
    }
    let large = format!(r#"{{"m.server":"x.org","padding":"{}"}}"#, "x".repeat(60 << 10));
    world.delegates("large.test", &large);
    assert_eq!(authority("large.test").await, "large.test");
    world.delegates("good.test", r#"{"m.server":"x.org"}"#);
    let web = world.web_port();
    world.web("moved.test", redirect(&format!("https://good.test:{web}/.well-known/matrix/server")));
    assert_eq!(authority("moved.test").await, "x.org");
    world.web("plain.test", redirect(&format!("http://good.test:{web}/.well-known/matrix/server")));
    assert_eq!(authority("plain.test").await, "plain.test");
    world.web("loop.test", redirect("/again"));
    assert_eq!(authority("loop.test").await, "loop.test");
    assert_eq!(world.asked_web("loop.test"), 11);
}

#[tokio::test]
async fn certificates_and_addresses() {
    let world = World::start().await;
    let there = world.server("127.0.0.12", &["right.test"], Answer::Seen).await;
    for name in ["right.test", "wrong.test", "odd.wrong.test"] {
        world.address(name, "127.0.0.12");
    }
    let named = |name: &str| format!("{name}:{}", there.port);
    let federation = world.federation(|_| ());
    get(&federation, &named("right.test")).await.unwrap();
    let wrong = get(&federation, &named("wrong.test")).await.unwrap_err();
    assert!(matches!(&wrong, Failure::Unreachable(why) if why.contains("TLS")), "{wrong}");
    let lenient = world.federation(|s| s.unverified_hosts = vec!["*.wrong.test".to_owned()]);
    get(&lenient, &named("odd.wrong.test")).await.unwrap();
    assert!(get(&lenient, &named("wrong.test")).await.is_err());
    let careless = world.federation(|s| s.verify_certificates = false);
    get(&careless, &named("wrong.test")).await.unwrap();
    let others = world.federation(|s| s.custom_ca = Vec::new());
    assert!(get(&others, &named("right.test")).await.is_err(), "the system does not know this authority");
    // Who signed their own is known by being listed, under the names in it.
    let (alone, listed) = world.own_authority("127.0.0.13", &["127.0.0.13"]).await;
    world.address("right.test", "127.0.0.13");
    let knows = world.federation(|s| s.custom_ca = vec![listed.path().to_owned()]);
    get(&knows, &format!("127.0.0.13:{}", alone.port)).await.unwrap();
    assert!(get(&knows, &format!("right.test:{}", alone.port)).await.is_err(), "not in its name");
    assert!(get(&federation, &format!("127.0.0.13:{}", alone.port)).await.is_err(), "nobody listed it");

    let denied = world.federation(|s| s.deny = vec!["127.0.0.0/8".parse().unwrap()]);
    assert!(matches!(get(&denied, &named("right.test")).await, Err(Failure::Forbidden(_))));
    let literal = format!("127.0.0.12:{}", there.port);
    assert!(matches!(get(&denied, &literal).await, Err(Failure::Forbidden(_))));
    let mapped = format!("[::ffff:127.0.0.12]:{}", there.port);
    assert!(matches!(get(&denied, &mapped).await, Err(Failure::Forbidden(_))));
    let allowed = world.federation(|s| {
        s.deny = vec!["127.0.0.0/8".parse().unwrap()];
        s.allow = vec!["127.0.0.12/32".parse().unwrap()];
    });
    get(&allowed, &named("right.test")).await.unwrap();
}

#[tokio::test]
async fn answers_have_bounds() {
    let world = World::start().await;
    let large =
        world.server("127.0.0.12", &["127.0.0.12"], Answer::Body(StatusCode::OK, Vec::new(), "x".repeat(2000))).await;
    let federation = world.federation(|s| s.timeout = Duration::from_millis(300));
    let ask = async |port: u16, limit: usize| {
        let request = Request::builder().uri("/").body(Bytes::new()).unwrap();
        let name = format!("127.0.0.12:{port}");
        federation.exchange(server(&name), request, federation.once().up_to(limit)).await
    };
    assert_eq!(ask(large.port, 2000).await.unwrap().body().len(), 2000);
    assert!(matches!(ask(large.port, 1999).await, Err(Failure::TooLarge(1999))));
    let silent = world.server("127.0.0.12", &["127.0.0.12"], Answer::Never).await;
    assert!(matches!(ask(silent.port, 10).await, Err(Failure::TimedOut(_))));
    let moved = vec![("location".to_owned(), format!("https://127.0.0.12:{}/", large.port))];
    let moved =
        world.server("127.0.0.12", &["127.0.0.12"], Answer::Body(StatusCode::FOUND, moved, String::new())).await;
    let refused = ask(moved.port, 10).await.unwrap_err();
    assert_eq!(refused.refusal().map(|r| r.status), Some(StatusCode::FOUND));
}

#[tokio::test]
async fn quick_tries_while_it_may_pass() {
    let world = World::start().await;
    let busy = Answer::Body(StatusCode::SERVICE_UNAVAILABLE, Vec::new(), "{}".to_owned());
    let there = world.server("127.0.0.12", &["127.0.0.12"], busy).await;
    let federation = world.federation(|s| s.short = (2, Duration::from_millis(5)));
    let name = format!("127.0.0.12:{}", there.port);
    let request = || Request::builder().uri("/").body(Bytes::new()).unwrap();
    assert!(federation.exchange(server(&name), request(), federation.short()).await.is_err());
    assert_eq!(there.asked(), 3);
    assert!(federation.exchange(server(&name), request(), federation.once()).await.is_err());
    assert_eq!(there.asked(), 4);
    // One connection served them all.
    assert_eq!(there.connections(), 1);
}

#[tokio::test]
async fn one_connection_speaks_http_1_and_a_second_is_shared_by_http_2() {
    let world = World::start().await;
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let there = world
        .answering("127.0.0.12", move |request| {
            tell.send(request.version()).unwrap();
            if request.uri().path() == "/never" { Answer::Never } else { Answer::Seen }
        })
        .await;
    let federation = Arc::new(world.federation(|_| {}));
    let name = format!("127.0.0.12:{}", there.port);
    for _ in 0..3 {
        get(&federation, &name).await.unwrap();
        assert_eq!(told.recv().await, Some(Version::HTTP_11));
    }
    assert_eq!(there.connections(), 1);

    let (asking, asked) = (federation.clone(), name.clone());
    let long = tokio::spawn(async move {
        let request = Request::builder().uri("/never").body(Bytes::new()).unwrap();
        asking.exchange(server(&asked), request, asking.once()).await.map(drop)
    });
    assert_eq!(told.recv().await, Some(Version::HTTP_11));
    for _ in 0..2 {
        let (a, b, c) = tokio::join!(get(&federation, &name), get(&federation, &name), get(&federation, &name));
        assert!(a.is_ok() && b.is_ok() && c.is_ok());
    }
    for _ in 0..6 {
        assert_eq!(told.recv().await, Some(Version::HTTP_2));
    }
    // All three may have begun a connection before there was one that could be shared.
    assert!(there.connections() <= 4, "{}", there.connections());
    long.abort();
}

#[tokio::test]
async fn what_may_be_asked_twice_is_when_a_connection_was_just_closed() {
    let world = World::start().await;
    let closes = Arc::new(AtomicBool::new(false));
    let is_closing = closes.clone();
    let there = world
        .answering(
            "127.0.0.12",
            move |_| if is_closing.swap(false, Ordering::SeqCst) { Answer::HangUp } else { Answer::Seen },
        )
        .await;
    let federation = world.federation(|_| {});
    let name = format!("127.0.0.12:{}", there.port);
    let ask = async |method: Method| {
        let request = Request::builder().method(method).uri("/").body(Bytes::new()).unwrap();
        federation.exchange(server(&name), request, federation.once()).await.map(drop)
    };
    ask(Method::POST).await.unwrap();
    for method in [Method::GET, Method::PUT] {
        closes.store(true, Ordering::SeqCst);
        ask(method).await.unwrap();
    }
    assert_eq!((there.asked(), there.connections()), (5, 3));
    closes.store(true, Ordering::SeqCst);
    assert!(matches!(ask(Method::POST).await, Err(Failure::Unreachable(_))), "whether it was done nobody knows");
    assert_eq!(there.asked(), 6);
}
