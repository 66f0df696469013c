//! The commands beside `serve`.

use super::*;

#[test]
fn every_command_has_help() {
    let home = Home::new();
    let told = home.run(&["--help"]);
    assert_eq!(told.code, Some(0));
    let commands = ["serve", "check-config", "generate", "generate-keys", "register-user", "hash-password", "version"];
    says(&told.stdout, &commands);
    for command in commands {
        let told = home.run(&[command, "--help"]);
        assert_eq!(told.code, Some(0), "{told:?}");
        says(&told.stdout, &["Usage:"]);
    }
    let version = concat!("hearth ", env!("CARGO_PKG_VERSION"));
    assert_eq!(home.run(&["version"]).stdout.trim(), version);
    assert_eq!(home.run(&["--version"]).stdout.trim(), version);
}

/// Its own certificates come from an authority that this machine does not know, and need not: the configuration says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn register_user_trusts_the_authority_of_its_own_server_alone() {
    let edge = |port: u16| {
        format!(
            "edge: {{ local_ca: true, listen: {{ http: false, https: {port}, federation: false, addresses: [\"127.0.0.1\"] }} }}"
        )
    };
    let (home, other, port) = (Home::new(), Home::new(), free());
    home.add(&edge(port));
    let _running = home.serve();
    let config = home.config().display().to_string();
    let register = |user: &str, more: &[&str]| {
        let mut args = vec!["register-user", "-u", user, "-p", "pass one", "--no-admin"];
        args.extend(more);
        home.run(&args)
    };
    for (user, host) in [("ada", "localhost"), ("bob", "127.0.0.1")] {
        let told = register(user, &["-c", &config, &format!("https://{host}:{port}")]);
        assert_eq!((told.code, told.stdout.contains(user)), (Some(0), true), "{told:?}");
    }
    let told = home.run(&["doctor", "-c", &config]);
    assert!(told.stdout.contains("local-ca.crt") && !told.stdout.contains("none yet"), "{told:?}");
    // Who names the secret names no server; and another server's authority says nothing of this one.
    other.add(&edge(free()));
    let _other = other.serve();
    let others = other.config().display().to_string();
    for which in [["-k", SECRET], ["-c", &others]] {
        let told = register("eve", &[which[0], which[1], &format!("https://localhost:{port}")]);
        assert_eq!((told.code, told.stderr.contains("certificate")), (Some(1), true), "{told:?}");
    }

    // Where nothing else is open, it is found unasked.
    let (home, port) = (Home::new(), free());
    let yaml = home.yaml();
    let (before, after) = (yaml.find("listeners:").unwrap(), yaml.find("database:").unwrap());
    home.write(&format!("{}listeners: []\n{}{}\n", &yaml[..before], &yaml[after..], edge(port)));
    let _alone = home.serve();
    let config = home.config().display().to_string();
    let told = home.run(&["register-user", "-u", "ada", "-p", "pass one", "-a", "-c", &config]);
    assert_eq!((told.code, told.stdout.contains("@ada:localhost")), (Some(0), true), "{told:?}");
}

/// Who makes accounts may be somebody who may not read the server's key, or have a file with the secret and nothing else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_read_what_they_need_of_the_configuration() {
    let home = Home::new();
    let running = home.serve();
    // Rights do not bind root; a folder is no key that anybody could read.
    fs::create_dir(home.path("unreadable")).unwrap();
    let hidden =
        home.yaml().replace("/signing.key", "/unreadable") + "bcrypt_rounds: 4\nlog_config: /nowhere/log.yaml\n";
    fs::write(home.path("hidden.yaml"), hidden).unwrap();
    fs::write(home.path("secret.yaml"), format!("registration_shared_secret: {SECRET}\nbcrypt_rounds: 4\n")).unwrap();
    for (file, user) in [("hidden.yaml", "ada"), ("secret.yaml", "bob")] {
        let told =
            home.run(&["register-user", "-u", user, "-p", "pass one", "--no-admin", "-c", file, &running.url("")]);
        assert_eq!((told.code, told.stdout.contains(user)), (Some(0), true), "{file}: {told:?}");
        let told = home.run(&["hash-password", "-p", "pass one", "-c", file]);
        assert_eq!((told.code, told.stdout.starts_with("$2b$04$")), (Some(0), true), "{file}: {told:?}");
    }
    // What is needed has to be right.
    fs::write(home.path("wrong.yaml"), "registration_shared_secret: 5\nbcrypt_rounds: 99\n").unwrap();
    let told = home.run(&["hash-password", "-p", "x", "-c", "wrong.yaml"]);
    assert_eq!((told.code, told.stderr.contains("wrong.yaml:2: bcrypt_rounds")), (Some(1), true), "{told:?}");
    fs::write(home.path("none.yaml"), "server_name: localhost\n").unwrap();
    let told = home.run(&["register-user", "-u", "x", "-p", "x", "--no-admin", "-c", "none.yaml"]);
    assert_eq!((told.code, told.stderr.contains("registration_shared_secret is not set")), (Some(1), true), "{told:?}");
}

/// By both names, with the flags that scripts and people use with Synapse.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn register_user_has_the_flags_of_synapses_script() {
    let home = Home::new();
    let running = home.serve();
    let config = home.config().display().to_string();
    let url = running.url("");
    let script = home.path("register_new_matrix_user");
    std::os::unix::fs::symlink(BINARY, &script).unwrap();
    fs::write(home.path("password"), "from a file\n").unwrap();
    let file = home.path("password").display().to_string();
    let by_script = |args: &[&str]| {
        let mut command = Command::new(&script);
        command.args(args).current_dir(home.dir.path()).stdin(Stdio::null());
        finish(command)
    };

    let told = by_script(&["-u", "ada", "-p", "pass one", "-a", "-c", &config, &url]);
    assert_eq!((told.code, told.stdout.contains("@ada:localhost")), (Some(0), true), "{told:?}");
    let told =
        home.run(&["register-user", "--user", "bob", "--password-file", &file, "--no-admin", "-k", SECRET, &url]);
    assert_eq!(told.code, Some(0), "{told:?}");
    // The address comes from the configuration where none is given.
    let told = by_script(&["-u", "bot", "-p", "x", "--no-admin", "-t", "bot", "--config", &config]);
    assert_eq!(told.code, Some(0), "{told:?}");
    let told =
        by_script(&["-u", "bot2", "-p", "x", "--no-admin", "--user_type", "bot", "--shared-secret", SECRET, &url]);
    assert_eq!(told.code, Some(0), "{told:?}");
    let told = by_script(&["-u", "ada", "-p", "x", "--no-admin", "-c", &config, &url]);
    assert_eq!((told.code, told.stderr.contains("--exists-ok")), (Some(1), true), "{told:?}");
    let told = by_script(&["-u", "ada", "-p", "x", "--no-admin", "--exists-ok", "-c", &config, &url]);
    assert_eq!(told.code, Some(0), "{told:?}");

    // What is wrong with an address is told.
    for (address, words) in [("localhost:8008", "http://localhost:8008"), ("http://127.0.0.1:9", "refused")] {
        let told = home.run(&["register-user", "-u", "x", "-p", "x", "--no-admin", "-k", SECRET, address]);
        assert_eq!((told.code, told.stderr.contains(words)), (Some(1), true), "{told:?}");
    }

    // Where `serve` needs no word about the configuration, this needs none either.
    fs::create_dir(home.path("hearth-data")).unwrap();
    fs::copy(home.config(), home.path("hearth-data/homeserver.yaml")).unwrap();
    let told = home.run(&["register-user", "-u", "dan", "-p", "x", "--no-admin"]);
    assert_eq!(told.code, Some(0), "{told:?}");
    fs::remove_dir_all(home.path("hearth-data")).unwrap();

    // Without flags it asks, and offers the name of whoever is there.
    for (user, answers) in [("eve", "eve\neves password\n\n"), ("fay", "\nfays password\nTrue\n")] {
        let mut command = home.command(&["register-user", "-c", &config, &url]);
        fs::write(home.path("answers"), answers).unwrap();
        command.env("LOGNAME", "fay").stdin(fs::File::open(home.path("answers")).unwrap());
        let told = finish(command);
        assert_eq!(told.code, Some(0), "{told:?}");
        says(&told.stdout, &["New user localpart [fay]: ", &format!("@{user}:localhost")]);
    }

    let http = http();
    for (user, password, admin) in [
        ("ada", "pass one", true),
        ("bob", "from a file", false),
        ("eve", "eves password", false),
        ("fay", "fays password", true),
    ] {
        let login = json!({"type": "m.login.password", "identifier": {"type": "m.id.user", "user": user}, "password": password});
        let answer = http.post(running.url("/_matrix/client/v3/login")).json(&login).send().await.unwrap();
        let session: Value = answer.json().await.unwrap();
        let token = session["access_token"].as_str().unwrap_or_else(|| panic!("{user}: {session}"));
        let inspect = running.url(&format!("/_matrix/client/v1/admin/suspend/@{user}:localhost"));
        let status = http.get(inspect).bearer_auth(token).send().await.unwrap().status().as_u16();
        assert_eq!(status == 200, admin, "{user}: {status}");
    }

    // What cannot be is said and is no success.
    let wrong: [(&[&str], i32, &str); 8] = [
        (&["-u", "x", "-p", "x", "-a"], 1, "-c"),
        (&["-u", "x", "-p", "x", "-a", "--no-admin", "-k", SECRET], 2, "--no-admin"),
        (&["-u", "x", "-p", "x", "--password-file", &file, "-k", SECRET], 2, "--password-file"),
        (&["-u", "x", "-p", "x", "-a", "-k", SECRET, "-c", &config], 2, "--config"),
        (&["-u", "x", "-p", "x", "-a", "-k", "wrong", &url], 1, "HMAC"),
        (&["-u", "x y", "-p", "x", "-a", "-k", SECRET, &url], 1, "letters"),
        (&["-u", "x", "-p", "x", "-a", "-t", "king", "-k", SECRET, &url], 1, "user type"),
        (&["-u", "x", "-p", "x", "-a", "-k", SECRET, "http://127.0.0.1:1"], 1, "127.0.0.1:1"),
    ];
    for (args, code, words) in wrong {
        let told = by_script(args);
        assert_eq!(told.code, Some(code), "{args:?}: {told:?}");
        says(&told.stderr, &[words]);
    }
}

#[test]
fn generate_follows_flags_and_the_variables_of_the_image() {
    let home = Home::new();
    let at = home.path("made");
    let mut command = home.command(&["generate"]);
    command.env("SYNAPSE_SERVER_NAME", "my-example.com").env("SYNAPSE_REPORT_STATS", "no");
    command.env("SYNAPSE_CONFIG_DIR", &at).env("SYNAPSE_DATA_DIR", home.path("data")).env("SYNAPSE_HTTP_PORT", "9009");
    let told = finish(command);
    assert_eq!(told.code, Some(0), "{told:?}");
    let mut names: Vec<String> =
        fs::read_dir(&at).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["homeserver.yaml", "my-example.com.log.config", "my-example.com.signing.key"]);
    says(&told.stdout, &["made ", "homeserver.yaml", "signing.key"]);
    let yaml = fs::read_to_string(at.join("homeserver.yaml")).unwrap();
    says(&yaml, &["server_name: \"my-example.com\"", "port: 9009"]);

    // A second time nothing is overwritten.
    let dirs = ["--config-dir", at.to_str().unwrap(), "--data-dir", at.to_str().unwrap()];
    let told = home.run(&[&["generate", "-H", "my-example.com", "--report-stats", "yes"][..], &dirs].concat());
    assert_eq!(told.code, Some(0), "{told:?}");
    says(&told.stdout, &["kept "]);
    assert!(!told.stdout.contains("made "), "{told:?}");
    assert_eq!(fs::read_to_string(at.join("homeserver.yaml")).unwrap(), yaml);

    // What it names is made if it is missing, and nothing else.
    fs::remove_file(at.join("my-example.com.signing.key")).unwrap();
    fs::write(at.join("homeserver.yaml"), yaml.replace("my-example.com.signing.key", "mine.key")).unwrap();
    let told = home.run(&[&["generate", "-H", "my-example.com", "--report-stats", "yes"][..], &dirs].concat());
    assert_eq!(told.code, Some(0), "{told:?}");
    says(&told.stdout, &["made ", "mine.key", "kept "]);
    assert!(at.join("mine.key").exists() && !at.join("my-example.com.signing.key").exists());
    let told = home.run(&[&["generate", "-H", "other.test", "--report-stats", "yes"][..], &dirs].concat());
    assert_eq!(told.code, Some(1), "{told:?}");
    says(&told.stderr, &["my-example.com", "homeserver.yaml", "--config-path"]);
    assert!(!at.join("other.test.signing.key").exists());

    let told = home.run(&[&["generate"][..], &dirs].concat());
    assert_eq!(told.code, Some(1), "{told:?}");
    says(&told.stderr, &["SYNAPSE_SERVER_NAME", "--server-name"]);
    let told = home.run(&[&["generate", "-H", "not a name", "--report-stats", "no"][..], &dirs].concat());
    assert_eq!(told.code, Some(1), "{told:?}");
}

/// conf/docker-entrypoint.sh, with a folder in place of `/data` and without giving up root.
#[test]
fn the_container_is_used_as_synapses() {
    let home = Home::new();
    let (data, bin) = (home.path("data"), home.path("bin"));
    fs::create_dir(&data).unwrap();
    fs::create_dir(&bin).unwrap();
    std::os::unix::fs::symlink(BINARY, bin.join("hearth")).unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let enter = |args: &[&str], variables: &[(&str, &str)]| {
        let mut command = Command::new("sh");
        command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/conf/docker-entrypoint.sh")).args(args);
        command.current_dir(&data).stdin(Stdio::null()).env("PATH", &path).env("UID", "0");
        for name in ["SYNAPSE_CONFIG_DIR", "SYNAPSE_DATA_DIR"] {
            command.env(name, &data);
        }
        command.envs(variables.iter().copied());
        finish(command)
    };
    let told = enter(&[], &[]);
    assert_eq!((told.code, told.stderr.contains("generate")), (Some(2), true), "{told:?}");
    let named = [("SYNAPSE_SERVER_NAME", "a.test"), ("SYNAPSE_REPORT_STATS", "no")];
    let told = enter(&["generate"], &named[..1]);
    assert_eq!((told.code, told.stderr.contains("SYNAPSE_REPORT_STATS")), (Some(1), true), "{told:?}");
    let told = enter(&["generate"], &named);
    assert_eq!(told.code, Some(0), "{told:?}");
    assert!(data.join("homeserver.yaml").exists() && data.join("a.test.signing.key").exists());
    let yaml = fs::read_to_string(data.join("homeserver.yaml")).unwrap();
    assert!(!yaml.contains("\n    bind_addresses"), "a published port leads to the container's own address: {yaml}");
    // What `run` runs reads what `generate` wrote.
    let told = enter(&["hearth", "check-config", "-c", data.join("homeserver.yaml").to_str().unwrap()], &[]);
    assert_eq!(told.code, Some(0), "{told:?}");
    let yaml = fs::read_to_string(data.join("homeserver.yaml")).unwrap();
    fs::write(data.join("homeserver.yaml"), yaml.replace("server_name:", "sever_name:")).unwrap();
    for run in [&["run"][..], &[], &["run", "-m", "synapse.app.homeserver"]] {
        let told = enter(run, &[]);
        assert_eq!((told.code, told.stderr.contains("server_name must be set")), (Some(1), true), "{run:?}: {told:?}");
    }
    let told = enter(&["run", "-m", "synapse.app.generic_worker"], &[]);
    assert_eq!((told.code, told.stderr.contains("no workers")), (Some(2), true), "{told:?}");
    assert_eq!(enter(&["migrate_config"], &named).code, Some(2));
    assert_eq!(enter(&["hearth", "version"], &[]).code, Some(0));
}

#[test]
fn generate_has_flags_for_what_the_variables_say() {
    let home = Home::new();
    let at = home.path("made");
    let dirs = ["--config-directory", at.to_str().unwrap(), "--data-directory", at.to_str().unwrap()];
    let flags = ["generate", "-H", "a.test", "--report-stats", "no", "--http-port", "9009", "--log-level", "warning"];
    let told = home.run(&[&flags[..], &dirs, &["--enable-metrics", "--enable-registration"]].concat());
    assert_eq!(told.code, Some(0), "{told:?}");
    use std::os::unix::fs::PermissionsExt as _;
    assert_eq!(fs::metadata(&at).unwrap().permissions().mode() & 0o777, 0o700, "a new folder is nobody else's");
    let yaml = fs::read_to_string(at.join("homeserver.yaml")).unwrap();
    says(&yaml, &["port: 9009", "enable_metrics: true", "enable_registration: true"]);
    says(&fs::read_to_string(at.join("a.test.log.config")).unwrap(), &["level: WARNING"]);
    fs::write(home.path("file"), "").unwrap();
    let told =
        home.run(&["generate", "-H", "a.test", "--report-stats", "no", "--config-dir", "file/x", "--data-dir", "."]);
    assert_eq!((told.code, told.stderr.contains("--config-dir")), (Some(1), true), "{told:?}");
}

#[test]
fn what_is_generated_means_the_same_from_everywhere() {
    let home = Home::new();
    let mut command = home.command(&["generate", "-H", "a.test", "--report-stats", "no", "--data-dir", "data"]);
    command.env("SYNAPSE_CONFIG_PATH", "conf/mine.yaml");
    let told = finish(command);
    assert_eq!(told.code, Some(0), "{told:?}");
    // Only the file was named: the key stands beside it.
    assert!(home.path("conf/a.test.signing.key").exists() && home.path("conf/a.test.log.config").exists());
    let yaml = fs::read_to_string(home.path("conf/mine.yaml")).unwrap();
    let whole = |name: &str| home.path(name).canonicalize().unwrap_or(home.path(name)).display().to_string();
    for name in ["conf/a.test.signing.key", "conf/a.test.log.config", "data/homeserver.db", "data/media_store"] {
        assert!(yaml.contains(&home.path(name).display().to_string()) || yaml.contains(&whole(name)), "{name}: {yaml}");
    }
    let told = home.run(&["check-config", "-c", home.path("conf/mine.yaml").to_str().unwrap()]);
    assert_eq!(told.code, Some(0), "{told:?}");
}

/// Named before or behind the word, by the environment, or by nobody.
#[test]
fn every_command_finds_the_configuration_that_serve_would() {
    let home = Home::new();
    let config = home.config().display().to_string();
    for args in [&["-c", &config, "check-config"][..], &["check-config", "--config-path", &config]] {
        assert_eq!(home.run(args).code, Some(0), "{args:?}");
    }
    let told = home.run(&["check-config"]);
    assert_eq!((told.code, told.stderr.contains("-c")), (Some(1), true), "{told:?}");
    fs::create_dir(home.path("hearth-data")).unwrap();
    fs::write(home.path("hearth-data/homeserver.yaml"), "max_upload_size: plenty").unwrap();
    for command in ["check-config", "doctor", "federation-test"] {
        let told = home.run(&[command]);
        assert_eq!((told.code, told.stderr.contains("hearth-data")), (Some(1), true), "{command}: {told:?}");
        let mut by_environment = home.command(&[command]);
        by_environment.env("SYNAPSE_CONFIG_PATH", home.path("other.yaml"));
        let told = finish(by_environment);
        assert_eq!((told.code, told.stderr.contains("other.yaml")), (Some(1), true), "{command}: {told:?}");
    }
}

#[test]
fn what_the_edge_names_is_looked_at_without_a_start() {
    let home = Home::new();
    let check = || home.run(&["check-config", "-c", home.config().to_str().unwrap()]);
    for (edge, words) in [
        ("apps: [{ folder: /nowhere/app, at: /app }]", "/nowhere/app"),
        ("certificates: [{ cert: /nowhere/a.crt, key: /nowhere/a.key }]", "/nowhere/a.crt"),
        ("admin_api: { listeners: [door] }", "`door`"),
        ("proxy_protocol: [10.0.0.0/8, balancer]", "edge.proxy_protocol[1]"),
    ] {
        home.add(&format!("edge: {{ {edge} }}"));
        let told = check();
        assert_eq!((told.code, told.stderr.contains(words)), (Some(1), true), "{edge}: {told:?}");
    }
    home.add("edge: { trusted_proxies: [192.0.2.1], admin_api: { allow: [\"::1\"] }, local_ca: true }");
    assert_eq!(check().code, Some(0), "{:?}", check());
    home.is_untouched();
}

/// What the values alone do not tell stands among all other mistakes, with its line.
#[test]
fn check_config_tells_everything_at_once() {
    let home = Home::new();
    fs::write(home.path("log.yaml"), "version: 1\nroot: { level: LOUD }\n").unwrap();
    home.add(
        "enable_search: sometimes
log_config: log.yaml
edge:
  listen: { http: 9081, https: 9081, federation: false }
  local_ca: perhaps
  apps:
    - { folder: /nowhere, at: /a }
    - { folder: ., at: /a }
  admin_api: { listeners: [https, nope] }",
    );
    let yaml = fs::read_to_string(home.config()).unwrap();
    home.write(&yaml.replace("server_name:", "sever_name:"));
    let told = home.run(&["check-config", "-c", home.config().to_str().unwrap()]);
    assert_eq!(told.code, Some(1), "{told:?}");
    let places: Vec<_> = told.stderr.lines().filter_map(|line| line.split("homeserver.yaml:").nth(1)).collect();
    let wanted = [
        "1: server_name must",
        "15: enable_search",
        "18: edge.listen.https",
        "19: edge.local_ca",
        "21: edge.apps[0].folder",
        "22: edge.apps[1].at",
        "23: edge.admin_api.listeners[1]",
    ];
    for (place, wanted) in places.iter().zip(wanted) {
        assert!(place.starts_with(wanted), "{wanted}: {told:#?}");
    }
    assert_eq!(places.len(), wanted.len(), "{told:#?}");
    says(&told.stderr, &["log.yaml:2: root.level", "wanted by two listeners"]);
    home.is_untouched();
}

#[test]
fn keys_and_passwords() {
    let home = Home::new();
    let key = home.run(&["generate-keys"]);
    assert_eq!((key.code, key.stdout.starts_with("ed25519 a_")), (Some(0), true), "{key:?}");
    assert_ne!(home.run(&["generate-keys"]).stdout, key.stdout);
    let told = home.run(&["generate-keys", "--output_file", "a.key"]);
    assert_eq!(told.code, Some(0), "{told:?}");
    use std::os::unix::fs::PermissionsExt as _;
    assert_eq!(fs::metadata(home.path("a.key")).unwrap().permissions().mode() & 0o777, 0o600);
    let told = home.run(&["generate-keys", "-o", "a.key"]);
    assert_eq!((told.code, told.stderr.contains("a.key")), (Some(1), true), "a key is not overwritten: {told:?}");

    home.add("bcrypt_rounds: 4\npassword_config: { pepper: salt }");
    let told = home.run(&["hash-password", "-p", "secret", "-c", home.config().to_str().unwrap()]);
    assert_eq!((told.code, told.stdout.starts_with("$2b$04$")), (Some(0), true), "{told:?}");
    let told = home.run(&["hash-password"]);
    assert_eq!((told.code, told.stderr.contains("-p")), (Some(1), true), "{told:?}");
}
