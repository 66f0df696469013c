//! The server as a whole: its name, where clients reach it, what it tells about itself, whom it may call.
//!
//! The sockets are in `listeners`; certificates by ACME, web apps and upstreams are the edge's own section.

mod listeners;

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::PathBuf,
};

use ipnet::IpNet;
use ruma::OwnedServerName;
use serde_json::{Map, Value};
use url::Url;

pub(crate) use self::listeners::read as listeners;
pub use self::listeners::{Listener, ListenerKind, Resource, Resources, Socket};
use crate::read::At;

/// The server as a whole.
#[derive(Clone, Debug)]
pub struct Server {
    /// The domain part of all ids; can never change.
    pub name: OwnedServerName,
    /// Where clients reach the server; always ends with a slash. Default `https://<name>/`.
    pub public_baseurl: Url,
    /// Whether `public_baseurl` was written down.
    pub has_public_baseurl: bool,
    /// File to write the process id to.
    pub pid_file: Option<PathBuf>,
    /// Where `GET /` leads.
    pub web_client_location: Option<Url>,
    /// Added to the User-Agent of outgoing requests.
    pub user_agent_suffix: Option<String>,
    /// Answer `/.well-known/matrix/server` with `<name>:443`.
    pub serve_server_wellknown: bool,
    /// Added to `/.well-known/matrix/client`; what the server puts there itself stands above it.
    pub extra_well_known_client: Map<String, Value>,
    /// Limit of open files; 0 raises it to the hard limit.
    pub soft_file_limit: u64,
    /// The sockets to open.
    pub listeners: Vec<Listener>,
    /// Certificate chain for listeners with TLS, PEM.
    pub tls_certificate_path: Option<PathBuf>,
    /// Its key, PEM.
    pub tls_private_key_path: Option<PathBuf>,
    /// Whom outgoing requests may reach, and by which way.
    pub outbound: Outbound,
    /// Whether and why the server is closed to its users.
    pub closed: Closed,
    /// How many users there may be in a month.
    pub monthly: MonthlyUsers,
    /// Directory of templates that replace the built-in ones.
    pub custom_template_directory: Option<PathBuf>,
}

/// Whom outgoing requests may reach, and by which way.
#[derive(Clone, Debug)]
pub struct Outbound {
    /// Ranges that may not be reached.
    pub deny: Vec<IpNet>,
    /// Exceptions to them.
    pub allow: Vec<IpNet>,
    /// Ranges that only federation may not reach (old option); none means [`Self::deny`].
    pub federation_deny: Option<Vec<IpNet>>,
    /// Proxy for plain HTTP.
    pub http_proxy: Option<String>,
    /// Proxy for HTTPS.
    pub https_proxy: Option<String>,
    /// Hosts, addresses and ranges that are called without a proxy.
    pub no_proxy: Vec<String>,
}

/// Whether and why the server is closed to its users.
#[derive(Clone, Debug)]
pub struct Closed {
    /// Refuse all requests of clients with `M_RESOURCE_LIMIT_EXCEEDED`.
    pub disabled: bool,
    /// The text of that refusal.
    pub message: String,
    /// The contact named in it.
    pub admin_contact: Option<String>,
}

/// How many users there may be in a month.
#[derive(Clone, Debug)]
pub struct MonthlyUsers {
    /// Refuse users beyond the limit.
    pub enforce: bool,
    /// The limit.
    pub max: u64,
    /// Days before a new user counts.
    pub trial_days: u64,
    /// The same for the users of an appservice, by its id.
    pub appservice_trial_days: Vec<(String, u64)>,
    /// Tell users by a server notice.
    pub alert: bool,
    /// Count without refusing.
    pub count_only: bool,
    /// (medium, address) of accounts that are never refused.
    pub reserved: Vec<(String, String)>,
}

impl Server {
    pub(crate) fn read(root: &At<'_>) -> Option<Self> {
        let name_at = root.get("server_name");
        let name: Option<OwnedServerName> = if name_at.is_set() {
            name_at.parse("the domain of the ids, such as example.com")
        } else {
            root.lacks("server_name", "it is the part after the colon in @user:example.com, and can never be changed");
            None
        };
        let baseurl_at = root.get("public_baseurl");
        let baseurl = baseurl_at.opt_url().map(|url| with_slash(&baseurl_at, url));
        let extra = match root.get("extra_well_known_client_content").json() {
            Value::Object(map) => map,
            _ => Map::new(),
        };
        let listeners = listeners::read(root);
        let outbound = Outbound::read(root);
        let closed = Closed {
            disabled: root.get("hs_disabled").bool(),
            message: root.get("hs_disabled_message").str(),
            admin_contact: root.get("admin_contact").opt_str(),
        };
        let monthly = MonthlyUsers::read(root);
        let has_public_baseurl = baseurl.is_some();
        // In the place of a name that could not be read, so that the rest is.
        let name = name.or_else(|| "nobody.invalid".try_into().ok())?;
        let baseurl = baseurl.or_else(|| format!("https://{name}/").parse().ok());
        Some(Self {
            public_baseurl: baseurl?,
            has_public_baseurl,
            name,
            pid_file: root.get("pid_file").opt_path(),
            web_client_location: root.get("web_client_location").opt_url(),
            user_agent_suffix: root.get("user_agent_suffix").opt_str(),
            serve_server_wellknown: root.get("serve_server_wellknown").bool(),
            extra_well_known_client: extra,
            soft_file_limit: root.get("soft_file_limit").int(),
            listeners,
            tls_certificate_path: root.get("tls_certificate_path").opt_path(),
            tls_private_key_path: root.get("tls_private_key_path").opt_path(),
            outbound,
            closed,
            monthly,
            custom_template_directory: root.get("templates.custom_template_directory").opt_path(),
        })
    }
}

impl Outbound {
    fn read(root: &At<'_>) -> Self {
        // The environment comes second, and its small letters before its capitals, as curl has it; the container
        // image had names of its own, which went first.
        let env = |name: &str| {
            let env = &root.cx().env;
            let image = env.get(&format!("SYNAPSE_{}", name.to_uppercase()));
            image.or_else(|| env.get(name)).or_else(|| env.get(&name.to_uppercase())).map(str::to_owned)
        };
        let no_proxy = root.get("no_proxy_hosts");
        let from_env = || env("no_proxy").map(|list| list.split(',').map(|host| host.trim().to_owned()).collect());
        let federation_deny = root.get("federation_ip_range_blacklist");
        let deny = |at: &At<'_>| {
            let mut deny = at.nets_and_carriers();
            deny.extend(nowhere());
            deny
        };
        Self {
            deny: deny(&root.get("ip_range_blacklist")),
            allow: root.get("ip_range_whitelist").nets_and_carriers(),
            federation_deny: federation_deny.is_set().then(|| deny(&federation_deny)),
            http_proxy: root.get("http_proxy").opt_str().or_else(|| env("http_proxy")),
            https_proxy: root.get("https_proxy").opt_str().or_else(|| env("https_proxy")),
            no_proxy: if no_proxy.is_set() { no_proxy.strings() } else { from_env().unwrap_or_default() },
        }
    }
}

impl MonthlyUsers {
    fn read(root: &At<'_>) -> Self {
        let days = |(id, at): (String, At<'_>)| (id, at.int());
        Self {
            enforce: root.get("limit_usage_by_mau").bool(),
            max: root.get("max_mau_value").int(),
            trial_days: root.get("mau_trial_days").int(),
            appservice_trial_days: root.get("mau_appservice_trial_days").entries().into_iter().map(days).collect(),
            alert: root.get("mau_limit_alerting").bool(),
            count_only: root.get("mau_stats_only").bool(),
            reserved: root
                .get("mau_limit_reserved_threepids")
                .each(|at| Some((at.get("medium").str(), at.get("address").str()))),
        }
    }
}

/// The addresses that mean "this machine" to the system's `connect`; never reached, whatever the file says.
pub(crate) fn nowhere() -> Vec<IpNet> {
    let v4 = crate::read::with_carriers(IpNet::from(IpAddr::from(Ipv4Addr::UNSPECIFIED)));
    v4.into_iter().chain([IpNet::from(IpAddr::from(Ipv6Addr::UNSPECIFIED))]).collect()
}

fn with_slash(at: &At<'_>, mut url: Url) -> Url {
    if url.query().is_some() || url.fragment().is_some() {
        at.wrong(
            "has parameters (`?`, `#`), which a base address cannot have",
            "write it as https://chat.example.com/",
        );
    }
    if !url.path().ends_with('/') {
        let path = format!("{}/", url.path());
        url.set_path(&path);
    }
    url
}
