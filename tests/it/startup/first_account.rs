//! The printed link and the page behind it.

use super::*;

/// The link that the server printed.
fn link(home: &Home) -> Option<String> {
    let told = fs::read_to_string(home.path("stdout")).unwrap();
    told.lines().find(|line| line.contains("/_hearth/first?token=")).map(|line| line.trim().to_owned())
}

fn form(token: &str, fields: &[(&str, &str)]) -> String {
    let mut form = url::form_urlencoded::Serializer::new(String::new());
    form.append_pair("token", token);
    form.extend_pairs(fields).finish()
}

async fn send(http: &reqwest::Client, running: &Running, form: String) -> (u16, String) {
    let request = http.post(running.url("/_hearth/first")).header("content-type", "application/x-www-form-urlencoded");
    let answer = request.body(form).send().await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

async fn get(http: &reqwest::Client, url: &str) -> (u16, String) {
    let answer = http.get(url).send().await.unwrap();
    for (name, value) in [("cache-control", "no-store"), ("referrer-policy", "no-referrer")] {
        assert_eq!(answer.headers()[name], value, "{url}");
    }
    let policy = answer.headers()["content-security-policy"].to_str().unwrap();
    says(policy, &["default-src 'none'", "frame-ancestors 'none'", "form-action 'self'"]);
    (answer.status().as_u16(), answer.text().await.unwrap())
}

const GOOD: &[(&str, &str)] = &[("username", "Ada"), ("password", "correct horse"), ("repeat", "correct horse")];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_printed_link_makes_one_administrator() {
    let home = Home::new();
    let running = home.serve();
    let http = http();
    let link = link(&home).expect("no link was printed");
    assert!(link.starts_with(&format!("http://localhost:{}/_hearth/first?token=", home.port)), "{link}");
    let (url, token) = link.split_once("?token=").map(|(url, token)| (url.to_owned(), token.to_owned())).unwrap();
    assert_eq!(token.len(), 43, "256 bits");

    let (status, page) = get(&http, &running.url("/")).await;
    assert_eq!(status, 200);
    says(&page, &["localhost", "running", "no account yet", "Element", &format!("http://127.0.0.1:{}", home.port)]);
    assert!(!page.contains(&token), "the page that all may see tells the token");

    // Without the token: no form.
    for (n, wrong) in ["".to_owned(), "?token=".to_owned(), format!("?token={}x", token)].iter().enumerate() {
        let (status, page) = get(&http, &format!("{url}{wrong}")).await;
        assert_eq!(status, 403, "{n}");
        assert!(!page.contains("<form"), "{page}");
    }
    let (status, page) = get(&http, &link).await;
    assert_eq!(status, 200);
    says(&page, &["<form method=post", "name=username", "type=password"]);
    assert!(!page.contains("<script"), "{page}");

    // What is wrong is said, and what was entered is text.
    let wrong: &[(&[(&str, &str)], &str)] = &[
        (&[("username", "ada"), ("password", "a"), ("repeat", "b")], "not the same"),
        (&[("username", "ada"), ("password", ""), ("repeat", "")], "password"),
        (&[("username", "<b>x\"</b>"), ("password", "a"), ("repeat", "a")], "letters a-z"),
        (&[], "empty"),
    ];
    for (fields, says_so) in wrong {
        let (status, page) = send(&http, &running, form(&token, fields)).await;
        assert_eq!(status, 400, "{page}");
        says(&page, &["role=alert", says_so]);
        assert!(!page.contains("<b>x"), "{page}");
    }
    // A form from elsewhere does not know the token.
    let (status, _) = send(&http, &running, form("guessed", GOOD)).await;
    assert_eq!(status, 403);

    let (one, two) = tokio::join!(
        send(&http, &running, form(&token, GOOD)),
        send(&http, &running, form(&token, &[("username", "eve"), ("password", "x"), ("repeat", "x")])),
    );
    let mut both = [one.0, two.0];
    both.sort_unstable();
    assert!(both == [200, 403] || both == [200, 410], "{both:?}");
    let (name, password) = if one.0 == 200 { ("ada", "correct horse") } else { ("eve", "x") };

    let login =
        json!({"type": "m.login.password", "identifier": {"type": "m.id.user", "user": name}, "password": password});
    let answer = http.post(running.url("/_matrix/client/v3/login")).json(&login).send().await.unwrap();
    let session: Value = answer.json().await.unwrap();
    assert_eq!(session["user_id"], format!("@{name}:localhost"), "{session}");
    // An administrator may ask what others may not.
    let inspect = running.url(&format!("/_matrix/client/v1/admin/suspend/@{name}:localhost"));
    let token_of = session["access_token"].as_str().unwrap();
    assert_eq!(http.get(inspect).bearer_auth(token_of).send().await.unwrap().status(), 200);

    // The link has done its work, and no start prints it again.
    assert_eq!(get(&http, &link).await.0, 410);
    assert_eq!(send(&http, &running, form(&token, GOOD)).await.0, 410);
    assert!(get(&http, &running.url("/")).await.1.contains("made by the administrator"));
    let log = fs::read_to_string(home.path("stderr")).unwrap();
    assert!(!log.contains(&token), "the token is in the log");
    drop(running);
    let again = home.serve();
    assert_eq!(super::first_account::link(&home), None);
    assert_eq!(get(&http, &again.url(&format!("/_hearth/first?token={token}"))).await.0, 410);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_link_outlives_a_restart_and_guessing_is_slow() {
    let home = Home::new();
    let running = home.serve();
    let first = link(&home).unwrap();
    drop(running);
    let running = home.serve();
    assert_eq!(link(&home).unwrap(), first);
    let http = http();
    let mut told = Vec::new();
    for n in 0..8 {
        told.push(get(&http, &running.url(&format!("/_hearth/first?token=guess{n}"))).await.0);
    }
    assert_eq!(told[0], 403);
    assert_eq!(told[7], 429, "{told:?}");
    assert_eq!(http.get(&first).send().await.unwrap().status(), 429, "an address that guesses waits");
    let long = "x".repeat(20_000);
    assert_eq!(send(&http, &running, form(&long, GOOD)).await.0, 413);
    let answer = http.put(running.url("/_hearth/first")).send().await.unwrap();
    assert_eq!(answer.status(), 405);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_answers_over_tls_of_the_local_authority() {
    let home = Home::new();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    home.add(&format!(
        "edge: {{ local_ca: true, listen: {{ http: false, https: false, federation: {port}, addresses: [\"127.0.0.1\"] }} }}"
    ));
    let _running = home.serve();
    let ca = fs::read(home.path("edge/local-ca.crt")).unwrap();
    let ca = reqwest::Certificate::from_pem(&ca).unwrap();
    let _ = http();
    let https = reqwest::Client::builder().no_proxy().tls_certs_only([ca]).build().unwrap();
    let plain = link(&home).unwrap();
    let secure = plain.replace(&format!("http://localhost:{}", home.port), &format!("https://localhost:{port}"));
    assert!(get(&https, &secure).await.1.contains("<form"));
    let front = get(&https, &format!("https://localhost:{port}/")).await.1;
    says(&front, &[&format!("https://localhost:{port}</code>")]);
}

/// Behind a Unix socket there is no address for a browser on this machine, and there are two ways all the same.
#[test]
fn with_a_unix_socket_alone_it_is_told_how_the_first_account_is_made() {
    let home = Home::new();
    let start = home.yaml().find("listeners:").unwrap();
    let end = home.yaml().find("database:").unwrap();
    let mut yaml = home.yaml();
    let socket = home.path("hearth.sock").display().to_string();
    let listener = format!("listeners: [{{ path: {socket}, type: http, resources: [{{ names: [client] }}] }}]\n");
    yaml.replace_range(start..end, &format!("{listener}public_baseurl: https://chat.example.com/\n"));
    home.write(&yaml);
    let _running = home.serve();
    let link = link(&home).expect("no link was printed");
    assert!(link.starts_with("https://chat.example.com/_hearth/first?token="), "{link}");
    let said = fs::read_to_string(home.path("stdout")).unwrap();
    let config = home.config().display().to_string();
    says(&said, &[&socket, "pass /_hearth on", &format!("hearth register-user -a -c {config}")]);
    let told = home.run(&["register-user", "-a", "-c", &config, "-u", "ada", "-p", "x"]);
    assert_eq!((told.code, &*told.stdout), (Some(0), "registered @ada:localhost\n"), "{told:?}");
    let by_name = format!("unix:{socket}");
    let told = home.run(&["register-user", "--no-admin", "-k", SECRET, "-u", "eve", "-p", "x", &by_name]);
    assert_eq!(told.code, Some(0), "{told:?}");
    let told = home.run(&["register-user", "--no-admin", "-k", SECRET, "-u", "eve", "-p", "x", "unix:/nowhere/s"]);
    assert_eq!(told.code, Some(1));
    says(&told.stderr, &["unix:/nowhere/s does not answer"]);
}
