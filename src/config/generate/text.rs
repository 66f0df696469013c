//! The words of the generated files. They are configuration and first documentation in one, so each option that most
//! servers touch stands there with a sentence, and those that may stay as they are stand behind a `#`.

use super::{Plan, Secrets};

/// The text of a `homeserver.yaml`.
pub(super) fn homeserver(plan: &Plan, secrets: &Secrets) -> String {
    let sections = [
        names(plan),
        listeners(plan),
        edge(plan),
        database(plan),
        logs(plan),
        media(plan),
        accounts(plan, secrets),
        mail(),
        rooms(),
        federation(plan),
        secret(secrets),
    ];
    sections.join("\n")
}

/// A path as YAML text.
fn path(path: &std::path::Path) -> String {
    serde_json::Value::from(path.to_string_lossy().into_owned()).to_string()
}

fn names(plan: &Plan) -> String {
    let baseurl = if plan.loopback {
        "# While public_baseurl is absent, the server is meant for this machine alone.\n\
         #public_baseurl: https://chat.example.com/\n"
            .to_owned()
    } else {
        format!(
            "# Where clients reach the server. Without it: https://{}/\n#public_baseurl: https://chat.example.com/\n",
            plan.server_name
        )
    };
    format!(
        "# Configuration of a Matrix server. The options are those of Synapse's homeserver.yaml, and mean the same;\n\
         # `edge:` is added. Check a change with `hearth check-config`; what is wrong is told all at once.\n\
         #\n\
         # Durations: 30s, 5m, 12h, 7d, 2w, 1y, or milliseconds. Sizes: 512K, 50M, 1G, or bytes.\n\
         # Relative paths begin at the directory that the server is started in.\n\
         \n\
         # The part behind the colon in @user:{name}. It can never be changed.\n\
         server_name: \"{name}\"\n\
         \n\
         {baseurl}\
         \n\
         # Nothing is reported to anybody; Synapse wants the line.\n\
         report_stats: false\n",
        name = plan.server_name
    )
}

fn listeners(plan: &Plan) -> String {
    let (comment, bind, forwarded) = if plan.loopback {
        ("# Plain HTTP, for this machine.", "    bind_addresses: [\"127.0.0.1\", \"::1\"]\n", "")
    } else {
        (
            "# Plain HTTP, for a proxy on this machine that brings TLS and tells the caller's address. Where Hearth\n\
             # stands at the front itself, see edge: below.",
            "    bind_addresses: [\"127.0.0.1\", \"::1\"]\n",
            "    x_forwarded: true\n",
        )
    };
    let bind = if plan.open_private_ports { "" } else { bind };
    let metrics = if plan.metrics {
        format!("\n  # Prometheus metrics, at /_synapse/metrics.\n  - port: 19090\n    type: metrics\n{bind}")
    } else {
        String::new()
    };
    let enable = if plan.metrics { "\nenable_metrics: true\n" } else { "" };
    format!(
        "# The sockets of the homeserver.\n\
         listeners:\n  {comment}\n  - port: {port}\n    type: http\n    tls: false\n{forwarded}{bind}    resources:\n      \
         - names: [client, federation]\n        compress: false\n{metrics}{enable}",
        comment = comment.replace('\n', "\n  "),
        port = plan.http_port
    )
}

fn edge(plan: &Plan) -> String {
    if plan.loopback {
        return "# The front door. Certificates come from a local authority of the server's own, made at the first start.\n\
                # To go public: set public_baseurl, remove this section's lines, and write `acme: {}` in their place.\n\
                edge:\n  \
                  local_ca: true\n  \
                  listen:\n    \
                    http: false\n    \
                    https: false\n    \
                    federation: 8448\n    \
                    addresses: [\"127.0.0.1\", \"::1\"]\n"
            .to_owned();
    }
    "# The front door, in place of nginx: ports 80, 443 and 8448, certificates, web clients. Synapse ignores it.\n\
     #edge:\n\
     #  # Certificates from Let's Encrypt. Naming the section agrees to the authority's terms.\n\
     #  acme:\n\
     #    email: admin@example.com\n\
     #  # Element Web: the unpacked release; its config.json is made.\n\
     #  element:\n\
     #    folder: /srv/element\n"
        .to_owned()
}

fn database(plan: &Plan) -> String {
    format!(
        "# SQLite serves a small server well. For PostgreSQL, any collation will do:\n\
         #database:\n\
         #  name: psycopg2\n\
         #  args:\n\
         #    user: hearth\n\
         #    password: secret\n\
         #    database: hearth\n\
         #    host: localhost\n\
         #    cp_min: 5\n\
         #    cp_max: 10\n\
         database:\n  name: sqlite3\n  args:\n    database: {}\n",
        path(&plan.data_dir.join("homeserver.db"))
    )
}

fn logs(plan: &Plan) -> String {
    if plan.loopback {
        return "# What is logged whither. Without it: INFO to stderr.\n#log_config: /etc/hearth/log.config\n"
            .to_owned();
    }
    format!("# What is logged whither. Read again on SIGHUP.\nlog_config: {}\n", path(&plan.log_config_path()))
}

fn media(plan: &Plan) -> String {
    format!(
        "# Uploaded files, and copies of those of others.\n\
         media_store_path: {}\n\
         #max_upload_size: 50M\n\
         #media_retention:\n\
         #  remote_media_lifetime: 90d\n\
         \n\
         # Previews of links. The server fetches pages for its users then, so it must be told where it may not go.\n\
         #url_preview_enabled: true\n\
         #url_preview_ip_range_blacklist:\n\
         #  [127.0.0.0/8, 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16, 100.64.0.0/10, 169.254.0.0/16, \"::1/128\", \"fe80::/10\", \
         \"fc00::/7\"]\n",
        path(&plan.data_dir.join("media_store"))
    )
}

fn accounts(plan: &Plan, secrets: &Secrets) -> String {
    let open = if plan.open_registration {
        "enable_registration: true\nenable_registration_without_verification: true\n"
    } else {
        "#enable_registration: true\n#registration_requires_token: true\n"
    };
    format!(
        "# Who may make an account. Open registration wants a check: registration_requires_token,\n\
         # registrations_require_3pid, enable_registration_captcha; without one spammers come within days.\n\
         {open}\
         \n\
         # Whoever knows it may make accounts, admins too: `hearth register-user` does.\n\
         {lead}registration_shared_secret: \"{registration}\"\n\
         \n\
         #password_config:\n\
         #  policy:\n\
         #    enabled: true\n\
         #    minimum_length: 12\n\
         \n\
         # How long a login lasts. Without it: until somebody logs out.\n\
         #session_lifetime: 52w\n",
        lead = secrets.lead,
        registration = secrets.registration
    )
}

fn mail() -> String {
    "# Outgoing mail: proofs of addresses, new passwords, missed messages.\n\
     #email:\n\
     #  smtp_host: mail.example.com\n\
     #  smtp_port: 587\n\
     #  smtp_user: matrix\n\
     #  smtp_pass: secret\n\
     #  require_transport_security: true\n\
     #  notif_from: \"%(app)s <noreply@example.com>\"\n"
        .to_owned()
}

fn rooms() -> String {
    "# New rooms.\n\
     #default_room_version: \"12\"\n\
     #encryption_enabled_by_default_for_room_type: invite\n\
     #auto_join_rooms: [\"#welcome:example.com\"]\n\
     \n\
     # Who is online. It costs much where many rooms are shared.\n\
     #presence:\n\
     #  enabled: true\n"
        .to_owned()
}

fn federation(plan: &Plan) -> String {
    format!(
        "# Only these servers; [] for nobody. Without it: all.\n\
         #federation_domain_whitelist: [example.org]\n\
         \n\
         # By this key other servers know this one. Keep a copy in a safe place.\n\
         signing_key_path: {}\n\
         \n\
         # Asked for keys of servers that cannot be reached themselves; [] for nobody.\n\
         trusted_key_servers:\n  - server_name: \"matrix.org\"\n",
        path(&plan.signing_key_path())
    )
}

fn secret(secrets: &Secrets) -> String {
    format!(
        "# Signs links that the server gives out. Whoever knows it can forge such; changing it ends those given out.\n\
         {lead}macaroon_secret_key: \"{macaroon}\"\n",
        lead = secrets.lead,
        macaroon = secrets.macaroon
    )
}

/// The text of a log file.
pub(super) fn log_config(level: &str, sql: bool) -> String {
    let sql = if sql { level } else { "INFO" };
    format!(
        "# What is logged whither, in the form of Python's logging.config.dictConfig. Read again on SIGHUP.\n\
         version: 1\n\
         \n\
         formatters:\n  \
           text:\n    \
             format: '%(asctime)s - %(name)s - %(lineno)d - %(levelname)s - %(request)s - %(message)s'\n  \
           # One JSON object a line:\n  \
           #json:\n  \
           #  class: synapse.logging.JsonFormatter\n\
         \n\
         handlers:\n  \
           console:\n    \
             class: logging.StreamHandler\n    \
             formatter: text\n  \
           #file:\n  \
           #  class: logging.handlers.TimedRotatingFileHandler\n  \
           #  formatter: text\n  \
           #  filename: /var/log/hearth/homeserver.log\n  \
           #  when: midnight\n  \
           #  backupCount: 7\n\
         \n\
         # Single parts may be louder or quieter. At DEBUG the SQL log shows secrets.\n\
         loggers:\n  \
           synapse.storage.SQL:\n    \
             level: {sql}\n\
         \n\
         root:\n  \
           level: {level}\n  \
           handlers: [console]\n"
    )
}
