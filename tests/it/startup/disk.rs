//! Files that may not grow: what a full disk is, and what anybody can make without being root. The program is told by
//! a limit on the size of its files; the disk itself is full in `faults`.

use super::*;

/// Whether there is the tool that sets limits.
fn can_limit() -> bool {
    let there = Command::new("prlimit").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    assert!(there || std::env::var("CI").is_err(), "no prlimit");
    if !there {
        println!("skipped: no prlimit (util-linux), so nothing is tested with files that may not grow");
    }
    there
}

/// Lets no file of a running server grow, or lets them all.
fn limit(running: &Running, most: &str) {
    let id = running.child.id().to_string();
    let set = Command::new("prlimit").args(["--pid", &id, &format!("--fsize={most}:unlimited")]).status().unwrap();
    assert!(set.success());
}

/// Runs a command whose files may not grow, to its end.
fn starved(home: &Home, args: &[&str]) -> Told {
    limited(home, 0, args)
}

/// Runs a command whose files may have so many bytes, to its end.
fn limited(home: &Home, most: u64, args: &[&str]) -> Told {
    let plain = home.command(args);
    let mut command = Command::new("prlimit");
    command.arg(format!("--fsize={most}")).arg(plain.get_program()).args(plain.get_args()).current_dir(home.dir.path());
    for (name, value) in plain.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    finish(command)
}

#[test]
fn a_start_without_room_is_one_sentence_and_leaves_no_empty_files() {
    if !can_limit() {
        return;
    }
    let home = Home::new();
    let told = starved(&home, &["serve", "-c", home.config().to_str().unwrap()]);
    assert_eq!(told.code, Some(1), "{told:?}");
    says(&told.stderr, &["signing_key_path", "signing.key", "make room"]);
    home.is_untouched();

    let told = starved(&home, &[]);
    assert_eq!(told.code, Some(1), "{told:?}");
    says(&told.stderr, &["hearth-data", "make room"]);
    assert!(!home.path("hearth-data").exists(), "the next start would take it for whole");

    // There is room for the configuration, and then none: for its certificates, or for its database.
    for most in [100, 1000, 5000, 50_000] {
        let told = limited(&home, most, &[]);
        assert_eq!(told.code, Some(1), "{told:?}");
        // Or another test has the port.
        assert!(["too large", "in use", "disk"].iter().any(|why| told.stderr.contains(why)), "{told:?}");
        assert!(!home.path("hearth-data").exists(), "{told:?}");
    }
    // What was there before is nobody's to take away.
    fs::create_dir(home.path("hearth-data")).unwrap();
    fs::write(home.path("hearth-data/mine"), "").unwrap();
    assert_eq!(limited(&home, 5000, &[]).code, Some(1));
    assert!(home.path("hearth-data/mine").exists());
    fs::remove_dir_all(home.path("hearth-data")).unwrap();

    // With its key, it is the database that there is no room for.
    assert_eq!(home.run(&["generate-keys", "-o", "signing.key"]).code, Some(0));
    let told = starved(&home, &["serve", "-c", home.config().to_str().unwrap()]);
    assert_eq!(told.code, Some(1), "{told:?}");
    assert_eq!(told.stderr.lines().filter(|line| line.starts_with("hearth: ")).count(), 1, "{told:?}");
    let mut running = home.serve();
    running.signal("TERM");
    assert_eq!(running.ended(), Some(0), "nothing was left that would be in the way");

    // Nor is there room for what SQLite writes beside a database that is there.
    let told = starved(&home, &["serve", "-c", home.config().to_str().unwrap()]);
    assert_eq!(told.code, Some(1), "{told:?}");
    says(&told.stderr, &["cannot open the SQLite database", "disk is full", "make room"]);
    assert!(!told.stderr.contains("section `database`"), "{told:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_nothing_can_be_written_readers_go_on_and_then_all_do() {
    if !can_limit() {
        return;
    }
    let home = Home::new();
    home.add("rc_message: { per_second: 1000, burst_count: 1000 }");
    let mut running = home.serve();
    let told = home.run(&["register-user", "-u", "ada", "-p", "x", "--no-admin", "-k", SECRET, &running.url("")]);
    assert_eq!(told.code, Some(0), "{told:?}");
    let http = http();
    let login =
        json!({"type": "m.login.password", "identifier": {"type": "m.id.user", "user": "ada"}, "password": "x"});
    let answer = http.post(running.url("/_matrix/client/v3/login")).json(&login).send().await.unwrap();
    let session: Value = answer.json().await.unwrap();
    let token = session["access_token"].as_str().unwrap();
    let ask = async |method: reqwest::Method, path: String, body: Option<Value>| {
        let request = http.request(method, running.url(&format!("/_matrix/client/v3/{path}"))).bearer_auth(token);
        let request = body.map_or(request.try_clone().unwrap(), |body| request.json(&body));
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.json::<Value>().await.unwrap())
    };
    let get = async |path: &str| ask(reqwest::Method::GET, path.to_owned(), None).await;
    let (_, made) = ask(reqwest::Method::POST, "createRoom".to_owned(), Some(json!({}))).await;
    let room: String = url::form_urlencoded::byte_serialize(made["room_id"].as_str().unwrap().as_bytes()).collect();
    let send = async |text: &str| {
        let path = format!("rooms/{room}/send/m.room.message/{text}");
        ask(reqwest::Method::PUT, path, Some(json!({"msgtype": "m.text", "body": text}))).await
    };
    let upload = async || {
        let url = running.url("/_matrix/media/v3/upload");
        http.post(url).bearer_auth(token).body("bytes").send().await.unwrap().status().as_u16()
    };
    assert_eq!(send("before").await.0, 200);
    let since = get("sync").await.1["next_batch"].as_str().unwrap().to_owned();
    for round in ["one", "two"] {
        limit(&running, "0");
        for _ in 0..3 {
            let (status, body) = send(round).await;
            assert_eq!((status, &body["errcode"]), (503, &json!("M_UNKNOWN")), "{body}");
            assert_eq!(upload().await, 503);
            let (status, page) = get(&format!("rooms/{room}/messages?dir=b")).await;
            assert_eq!((status, page["chunk"].as_array().unwrap().len() > 1), (200, true), "{page}");
            assert_eq!(get(&format!("sync?since={since}")).await.0, 200);
            assert_eq!(get("account/whoami").await.0, 200);
        }
        limit(&running, "unlimited");
        assert_eq!(send(round).await.0, 200, "nothing has to be done for it");
        assert_eq!(upload().await, 200);
    }
    let said = |page: &Value| {
        let events = page["chunk"].as_array().unwrap().iter().map(|event| &event["content"]["body"]);
        events.filter_map(Value::as_str).map(str::to_owned).collect::<Vec<_>>()
    };
    let page = format!("rooms/{room}/messages?dir=b");
    assert_eq!(said(&get(&page).await.1), ["two", "one", "before"]);
    running.signal("TERM");
    assert_eq!(running.ended(), Some(0));
    let again = home.serve();
    let answer = http.get(again.url(&format!("/_matrix/client/v3/{page}"))).bearer_auth(token).send().await.unwrap();
    assert_eq!(said(&answer.json().await.unwrap()), ["two", "one", "before"], "what was answered with 200 is there");
}
