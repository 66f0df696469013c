//! What can be wrong with the section although each value has its form: told with its key path, all at once.

use std::net::IpAddr;

use super::{Acme, At, EdgeConfig, Limits, Mistake};

/// The directories that are known by a word.
const AUTHORITIES: [&str; 3] = ["letsencrypt", "letsencrypt-staging", "zerossl"];

impl EdgeConfig {
    /// What serde cannot see: pairs of key path and sentence, empty when all is well.
    #[must_use]
    pub fn check(&self) -> Vec<Mistake> {
        let mut found = Vec::new();
        let mut say = |key: String, what: String| found.push((format!("edge.{key}"), what));
        if let Some(acme) = &self.acme {
            acme.check(&mut say);
        }
        let apps = self.apps.iter().enumerate().map(|(n, app)| (format!("apps[{n}]"), app));
        for (key, app) in apps.chain(self.admin_ui.iter().map(|app| ("admin_ui".to_owned(), app))) {
            for (name, value) in &app.headers {
                if !header_ok(name, value) {
                    say(format!("{key}.headers"), format!("`{name}: {value}` is not a header"));
                }
            }
        }
        for (n, upstream) in self.upstreams.iter().enumerate() {
            if let Err(what) = check_upstream(&upstream.to) {
                say(format!("upstreams[{n}].to"), what);
            }
        }
        let places = self.places();
        for (n, (key, at)) in places.iter().enumerate() {
            if places.iter().take(n).any(|(_, other)| other == at) {
                say(format!("{key}.at"), format!("two things stand at `{at}`: give one of them another place"));
            }
        }
        self.limits.check(&mut say);
        self.well_known.check(&mut say);
        found
    }

    /// Where each app and upstream stands, by its key.
    fn places(&self) -> Vec<(String, &At)> {
        let element = self.element.iter().map(|element| ("element".to_owned(), &element.at));
        let admin_ui = self.admin_ui.iter().map(|app| ("admin_ui".to_owned(), &app.at));
        let apps = self.apps.iter().enumerate().map(|(n, app)| (format!("apps[{n}]"), &app.at));
        let upstreams =
            self.upstreams.iter().enumerate().map(|(n, upstream)| (format!("upstreams[{n}]"), &upstream.at));
        element.chain(admin_ui).chain(apps).chain(upstreams).collect()
    }
}

impl Acme {
    fn check(&self, say: &mut impl FnMut(String, String)) {
        if let Some(directory) = &self.directory
            && !AUTHORITIES.contains(&directory.as_str())
            && !url::Url::parse(directory).is_ok_and(|url| url.scheme() == "https" && url.has_host())
        {
            say("acme.directory".to_owned(), format!("must be an https address, or one of {}", AUTHORITIES.join(", ")));
        }
        for (n, names) in self.domains.iter().flatten().enumerate() {
            let names = names.list();
            if names.is_empty() {
                say(format!("acme.domains[{n}]"), "names nothing".to_owned());
            }
            for name in names {
                let why = if !name.is_ascii() {
                    "has to be written in the letters of DNS, as xn--…"
                } else if name.contains('*') {
                    "wildcards need DNS challenges, which are not offered"
                } else if name.parse::<IpAddr>().is_ok() || !name.contains('.') || name.contains(['/', ':', ' ']) {
                    "is not a public domain name"
                } else {
                    continue;
                };
                say(format!("acme.domains[{n}]"), format!("`{name}`: {why}"));
            }
        }
        if self.challenges.as_ref().is_some_and(Vec::is_empty) {
            say("acme.challenges".to_owned(), "leaves no challenge to use".to_owned());
        }
        if let Some(eab) = &self.eab
            && eab.key.is_some() == eab.key_path.is_some()
        {
            say("acme.eab".to_owned(), "needs either `key` or `key_path`".to_owned());
        }
    }
}

impl super::WellKnown {
    /// What other servers and clients would not take.
    fn check(&self, say: &mut impl FnMut(String, String)) {
        if let Some(server) = &self.server
            && <&ruma::ServerName>::try_from(server.as_str()).is_err()
        {
            say("well_known.server".to_owned(), format!("`{server}` must be a host, or a host with a port"));
        }
        for key in ["m.homeserver", "m.identity_server"] {
            let base_url = |value: &serde_json::Value| url::Url::parse(value.get("base_url")?.as_str()?).ok();
            let is_web = |url: &url::Url| matches!(url.scheme(), "http" | "https") && url.has_host();
            if self.client.get(key).is_some_and(|value| !base_url(value).is_some_and(|url| is_web(&url))) {
                say("well_known.client".to_owned(), format!("`{key}` needs a `base_url`, an http or https address"));
            }
        }
        if let Some(support) = &self.support
            && !support.contains_key("contacts")
            && !support.contains_key("support_page")
        {
            say("well_known.support".to_owned(), "needs `contacts` or `support_page`".to_owned());
        }
    }
}

impl Limits {
    fn check(&self, say: &mut impl FnMut(String, String)) {
        let zero = [
            ("connections", u64::from(self.connections)),
            ("connections_per_address", self.connections_per_address.into()),
            ("requests_per_address", self.requests_per_address.into()),
            ("handshake_timeout", self.handshake_timeout),
            ("header_timeout", self.header_timeout),
            ("body_timeout", self.body_timeout),
            ("h2_streams", self.h2_streams.into()),
        ];
        for (key, value) in zero {
            if value == 0 {
                say(format!("limits.{key}"), "must be more than 0".to_owned());
            }
        }
        if !(8 * 1024..=1024 * 1024).contains(&self.header_size) {
            say("limits.header_size".to_owned(), "must be between 8192 and 1048576 bytes".to_owned());
        }
        if !(16..=1000).contains(&self.headers) {
            say("limits.headers".to_owned(), "must be between 16 and 1000".to_owned());
        }
    }
}

fn header_ok(name: &str, value: &str) -> bool {
    !name.is_empty()
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
        && value.bytes().all(|b| (b' '..127).contains(&b))
}

fn check_upstream(to: &str) -> Result<(), String> {
    if let Some(path) = to.strip_prefix("unix:") {
        return if path.starts_with('/') { Ok(()) } else { Err("a unix socket needs an absolute path".to_owned()) };
    }
    let url = url::Url::parse(to).map_err(|e| format!("`{to}` is not an address: {e}"))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err(format!("`{to}` must begin with http://, https:// or unix:/"));
    }
    if url.path() != "/" || url.query().is_some() || !url.username().is_empty() {
        return Err(format!("`{to}` must be scheme, host and port alone; `strip` decides about the path"));
    }
    Ok(())
}
