//! What a start and a reload say of what will not do, though nothing stands in their way.

use super::*;

/// Writes a pair of files for `localhost`, good between two years.
fn pair(home: &Home, from: i32, to: i32) {
    let mut params = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
    params.not_before = rcgen::date_time_ymd(from, 3, 1);
    params.not_after = rcgen::date_time_ymd(to, 3, 1);
    let key = rcgen::KeyPair::generate().unwrap();
    fs::write(home.path("a.crt"), params.self_signed(&key).unwrap().pem()).unwrap();
    fs::write(home.path("a.key"), key.serialize_pem()).unwrap();
}

fn log(home: &Home) -> String {
    fs::read_to_string(home.path("stderr")).unwrap()
}

/// Waits until a line of the log has these words, as often as that.
async fn told(home: &Home, times: usize, words: &[&str]) {
    let is_told = |line: &str| words.iter().all(|word| line.contains(word));
    let what = format!("{words:?}, {times} times");
    until(&what, async || (log(home).lines().filter(|line| is_told(line)).count() == times).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_clients_refuse_is_told_and_keeps_nothing_from_starting() {
    let home = Home::new();
    let tls = home.yaml().replace("    type: http\n", "    type: http\n    tls: true\n");
    let files = "tls_certificate_path: a.crt\ntls_private_key_path: a.key\n";
    let edge = "edge:\n  listen: { http: false, https: false, federation: false }\n  certificates:\n    - { cert: a.crt, key: a.key }\n";
    home.write(&format!("{tls}{files}{edge}"));
    let check = || home.run(&["check-config", "-c", home.config().to_str().unwrap()]);
    let expired = ["`a.crt` ran out on 2020-03-01", "put a renewed one there"];
    for (from, to, words) in
        [(2019, 2020, expired), (2999, 3000, ["`a.crt` holds from 2999-03-01 on and not yet", "clock"])]
    {
        pair(&home, from, to);
        let checked = check();
        assert_eq!(checked.code, Some(0), "{checked:?}");
        let lines: Vec<&str> = checked.stdout.lines().filter(|line| line.contains("a.crt")).collect();
        assert_eq!(lines.len(), 2, "{checked:?}");
        says(lines[0], &["homeserver.yaml:16: tls_certificate_path: ", words[0], words[1]]);
        says(lines[1], &["homeserver.yaml:21: edge.certificates[0].cert: ", words[0], words[1]]);
    }
    pair(&home, 2019, 2020);
    let mut running = home.serve();
    told(&home, 1, &[" - WARNING - ", "tls_certificate_path: ", expired[0]]).await;
    // A reload reads the file again, and looks again: of each pair that names it.
    running.signal("HUP");
    told(&home, 2, &[" - WARNING - ", "certificate `a.crt` ran out on 2020-03-01"]).await;
    pair(&home, 2019, 2999);
    running.signal("HUP");
    told(&home, 2, &["certificates and static configuration read again"]).await;
    told(&home, 2, &[" - WARNING - ", "certificate `a.crt` ran out on 2020-03-01"]).await;
    running.signal("TERM");
    assert_eq!(running.ended(), Some(0));
    assert!(!check().stdout.contains("a.crt"), "{:?}", check());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_sockets_take_a_restart_and_a_reload_says_so() {
    let home = Home::new();
    let (plain, tls, other) = (free(), free(), free());
    let edge = |https: u16, more: &str| {
        format!(
            "edge: {{ local_ca: true, listen: {{ http: '127.0.0.1:{plain}', https: '127.0.0.1:{https}', federation: false }}, {more} }}"
        )
    };
    home.add(&edge(tls, ""));
    let mut running = home.serve();
    let http = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    let leads_to = async || {
        let answer = http.get(format!("http://127.0.0.1:{plain}/_matrix/client/versions")).send().await.unwrap();
        answer.headers().get("location").map(|to| to.to_str().unwrap().to_owned())
    };
    let port = format!(":{tls}/");
    assert!(leads_to().await.unwrap().contains(&port));
    let needs = ["changed, which takes a restart"];

    // A listener more, and another port: named, each time, and nothing leads where nobody listens.
    let more = format!("listeners:\n  - {{ port: {other}, type: metrics, bind_addresses: [\"127.0.0.1\"] }}\n");
    home.write(&format!("{}{}\n", home.yaml().replace("listeners:\n", &more), edge(other - 1, "")));
    for times in 1..3 {
        running.signal("HUP");
        let words = [" - WARNING - ", &format!("listener {other}, edge.listen.https: "), needs[0]];
        told(&home, times, &words).await;
    }
    assert!(leads_to().await.unwrap().contains(&port), "{:?}", leads_to().await);

    // What is not of the sockets themselves is in force at once.
    home.add(&edge(tls, "redirect: false"));
    running.signal("HUP");
    told(&home, 3, &["certificates and static configuration read again"]).await;
    assert_eq!(leads_to().await, None);
    told(&home, 2, &needs).await;
    running.signal("TERM");
    assert_eq!(running.ended(), Some(0));
}

/// Who waits for a database that does not answer can be told to stop, and is not ended by what means "read again".
#[test]
fn signals_count_before_the_start_is_over() {
    let home = Home::new();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let (start, end) = (home.yaml().find("database:").unwrap(), home.yaml().find("media_store_path").unwrap());
    let mut yaml = home.yaml();
    let port = silent.local_addr().unwrap().port();
    yaml.replace_range(
        start..end,
        &format!("database: {{ name: psycopg2, args: {{ user: u, database: d, host: 127.0.0.1, port: {port} }} }}\n"),
    );
    home.write(&yaml);
    let mut command = home.command(&["serve", "-c", home.config().to_str().unwrap()]);
    let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let mut running = Running { child, port: home.port };
    // It has come to the database once it calls there.
    let _called = silent.accept().unwrap();
    running.signal("HUP");
    running.signal("TERM");
    assert_eq!(running.ended(), Some(0));
}
