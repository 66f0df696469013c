//! The `edge:` section: what Hearth's own front door serves beyond the homeserver's `listeners`.
//!
//! Synapse ignores the key, so one file serves both servers. Everything has a default: `edge: {}` opens 80, 443 and
//! 8448. Unknown keys are refused here (a typing error must not open a door), [`EdgeConfig::check`] names the rest of
//! what can be wrong. How long each thing takes effect and why is told in the crate `hearth-edge`.

use std::{collections::BTreeMap, fmt, net::IpAddr, path::PathBuf};

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, de};
use serde_json::{Map, Value};

mod amounts;
mod at;
mod check;
mod listen;
mod nets;

pub use at::At;
pub use listen::{Bind, Ports};

/// The section with every key and what it is for, as operators read it.
pub const SAMPLE: &str = include_str!("edge/sample.yaml");

/// A mistake: key path below `edge`, and what is wrong with it in a sentence.
pub type Mistake = (String, String);

/// The whole section.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct EdgeConfig {
    /// Ports to open.
    pub listen: Listen,
    /// Certificates from an ACME authority such as Let's Encrypt. Naming it here agrees to the authority's terms.
    #[serde(deserialize_with = "given")]
    pub acme: Option<Acme>,
    /// Certificates from files, chosen by the names inside them; read again when they change.
    pub certificates: Vec<CertificateFiles>,
    /// Issue certificates from a certificate authority of our own, kept in the data directory; for a laptop or a
    /// closed network.
    #[serde(deserialize_with = "amounts::flag")]
    pub local_ca: bool,
    /// Send plain HTTP on `listen.http` to HTTPS (ACME challenges excepted).
    #[serde(deserialize_with = "amounts::maybe_flag")]
    pub redirect: Option<bool>,
    /// Whose `X-Forwarded-For` and `X-Forwarded-Proto` are believed on listeners with `x_forwarded`; private and
    /// loopback addresses when absent.
    #[serde(deserialize_with = "nets::given")]
    pub trusted_proxies: Option<Vec<IpNet>>,
    /// Balancers that pass TCP on: what comes from there to the ports of `listen` has to begin with the PROXY protocol
    /// (version 1 or 2), which names the caller.
    #[serde(deserialize_with = "nets::list")]
    pub proxy_protocol: Vec<IpNet>,
    /// Answer in gzip on `listen`, to clients that take it; `listeners` have an option of their own.
    #[serde(deserialize_with = "amounts::flag")]
    pub compress: bool,
    /// Element Web.
    #[serde(deserialize_with = "given")]
    pub element: Option<Element>,
    /// The admin web interface (synapse-admin and its kin).
    #[serde(deserialize_with = "given")]
    pub admin_ui: Option<WebApp>,
    /// Any other folder of files.
    pub apps: Vec<WebApp>,
    /// What runs elsewhere and is reached through us, by HTTP and WebSocket.
    pub upstreams: Vec<Upstream>,
    /// Who may call `/_synapse/admin`.
    pub admin_api: AdminApi,
    /// What is refused before it costs anything.
    pub limits: Limits,
    /// Additions to the documents under `/.well-known/matrix`.
    pub well_known: WellKnown,
}

/// `edge.listen`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Listen {
    /// Plain HTTP: ACME challenges and the redirect. 80 unless said otherwise, `false` for none.
    pub http: Ports,
    /// HTTPS for clients, 443.
    pub https: Ports,
    /// HTTPS for other servers, 8448.
    pub federation: Ports,
    /// Addresses for those ports that do not name one themselves.
    pub addresses: Vec<IpAddr>,
}

impl Default for Listen {
    fn default() -> Self {
        Self {
            http: Ports::one(80),
            https: Ports::one(443),
            federation: Ports::one(8448),
            addresses: vec![IpAddr::from([0u16; 8]), IpAddr::from([0u8; 4])],
        }
    }
}

/// `edge.acme`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Acme {
    /// Where the authority may write to.
    pub email: Option<String>,
    /// The directory's URL, or `letsencrypt` (the default), `letsencrypt-staging`, `zerossl`.
    pub directory: Option<String>,
    /// External account binding, for authorities that ask for it.
    #[serde(deserialize_with = "given")]
    pub eab: Option<Eab>,
    /// A PEM file with the root that the directory's own certificate hangs on; for test authorities.
    pub ca_root: Option<PathBuf>,
    /// Names to order for. An entry of several names gets one certificate for all of them. When absent: one
    /// certificate each for the server name, the host of `public_baseurl` and every host that an app names.
    #[serde(deserialize_with = "given")]
    pub domains: Option<Vec<Names>>,
    /// Which challenges may be used; both when absent.
    #[serde(deserialize_with = "given")]
    pub challenges: Option<Vec<Challenge>>,
}

/// An ACME challenge type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub enum Challenge {
    /// Over plain HTTP on port 80.
    #[serde(rename = "http-01")]
    Http01,
    /// Inside a TLS handshake on port 443.
    #[serde(rename = "tls-alpn-01")]
    TlsAlpn01,
}

/// One name, or several for one certificate.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(untagged, expecting = "a name or a list of names")]
pub enum Names {
    /// A certificate for this name alone.
    One(String),
    /// One certificate for all of these.
    Many(Vec<String>),
}

impl Names {
    /// The names, lower case.
    #[must_use]
    pub fn list(&self) -> Vec<String> {
        match self {
            Self::One(name) => vec![name.to_ascii_lowercase()],
            Self::Many(names) => names.iter().map(|n| n.to_ascii_lowercase()).collect(),
        }
    }
}

/// `edge.acme.eab`.
#[derive(Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Eab {
    /// Key id given by the authority.
    pub kid: String,
    /// The HMAC key, base64url as given.
    pub key: Option<String>,
    /// A file holding it.
    pub key_path: Option<PathBuf>,
}

impl fmt::Debug for Eab {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Eab").field("kid", &self.kid).field("key_path", &self.key_path).finish_non_exhaustive()
    }
}

/// An entry of `edge.certificates`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CertificateFiles {
    /// PEM file with the certificate and its chain.
    pub cert: PathBuf,
    /// PEM file with the private key.
    pub key: PathBuf,
}

/// `edge.element`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Element {
    /// The unpacked release.
    pub folder: PathBuf,
    /// Where it appears: `/element`, `element.example.com` or `example.com/element`. The root of every host when
    /// absent.
    #[serde(default)]
    pub at: At,
    /// Laid over the `config.json` that is generated.
    #[serde(default)]
    pub config: Map<String, Value>,
}

/// A folder of files to serve.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct WebApp {
    /// The folder.
    pub folder: PathBuf,
    /// Where it appears: `/path`, `host` or `host/path`.
    pub at: At,
    /// Answer unknown paths with `index.html`, for apps that route in the browser.
    #[serde(default, deserialize_with = "amounts::flag")]
    pub spa: bool,
    /// Headers to add to each answer.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
}

/// An entry of `edge.upstreams`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Upstream {
    /// Named in logs and metrics; its place when absent.
    #[serde(default)]
    pub name: Option<String>,
    /// Where it appears: `/path`, `host` or `host/path`. More exact than a path of our own, it goes first.
    pub at: At,
    /// `http://host:port`, `https://host:port` or `unix:/path`.
    pub to: String,
    /// Take the path of `at` away before passing on.
    #[serde(default, deserialize_with = "amounts::flag")]
    pub strip: bool,
    /// Pass the caller's `Host` on (default) or the upstream's own.
    #[serde(default = "yes", deserialize_with = "amounts::flag")]
    pub preserve_host: bool,
    /// Seconds without a byte from the upstream before it counts as dead; 120 when absent.
    #[serde(default, deserialize_with = "amounts::maybe_seconds")]
    pub timeout: Option<u64>,
}

fn yes() -> bool {
    true
}

/// `edge.admin_api`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdminApi {
    /// Address ranges that may call it; everybody (with an admin's token) when absent.
    #[serde(deserialize_with = "nets::given")]
    pub allow: Option<Vec<IpNet>>,
    /// Listeners it answers on (`http`, `https`, `federation`, or a listener's `tag`, port or path); all when absent.
    #[serde(deserialize_with = "listen::names")]
    pub listeners: Option<Vec<String>>,
}

/// `edge.limits`. Times are in seconds and sizes in bytes, if they have no unit.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Connections in total.
    #[serde(deserialize_with = "amounts::count")]
    pub connections: u32,
    /// Connections of one address (an IPv6 /64 counts as one).
    #[serde(deserialize_with = "amounts::count")]
    pub connections_per_address: u32,
    /// Requests a second of one address, averaged over ten seconds.
    #[serde(deserialize_with = "amounts::count")]
    pub requests_per_address: u32,
    /// Not counted: addresses that stand for many (a proxy without `x_forwarded`), loopback when absent.
    #[serde(deserialize_with = "nets::given")]
    pub exempt: Option<Vec<IpNet>>,
    /// Largest head of a request.
    #[serde(deserialize_with = "amounts::size")]
    pub header_size: u32,
    /// Most header lines.
    #[serde(deserialize_with = "amounts::count")]
    pub headers: u32,
    /// Largest body; what `max_upload_size` asks for when absent.
    #[serde(deserialize_with = "amounts::maybe_size")]
    pub body_size: Option<u64>,
    /// For a TLS handshake to be done.
    #[serde(deserialize_with = "amounts::seconds")]
    pub handshake_timeout: u64,
    /// For the head of a request to arrive, and for a connection to stay open between two.
    #[serde(deserialize_with = "amounts::seconds")]
    pub header_timeout: u64,
    /// For a body to go on, either way.
    #[serde(deserialize_with = "amounts::seconds")]
    pub body_timeout: u64,
    /// Requests at once on one HTTP/2 connection.
    #[serde(deserialize_with = "amounts::count")]
    pub h2_streams: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 16_384,
            connections_per_address: 512,
            requests_per_address: 200,
            exempt: None,
            header_size: 32 * 1024,
            headers: 100,
            body_size: None,
            handshake_timeout: 10,
            header_timeout: 60,
            body_timeout: 60,
            h2_streams: 128,
        }
    }
}

/// `edge.well_known`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct WellKnown {
    /// `m.server` of `/.well-known/matrix/server`; the host of `public_baseurl` with its port when absent.
    pub server: Option<String>,
    /// Laid over `/.well-known/matrix/client`.
    pub client: Map<String, Value>,
    /// `/.well-known/matrix/support` (spec: "Server Discovery", `contacts` and `support_page`).
    #[serde(deserialize_with = "given")]
    pub support: Option<Map<String, Value>>,
}

/// Reads a list or a section that may be absent. Written down without anything below it (all of it commented out) it must
/// not mean the same: what was to be allowed there alone would be allowed to everybody.
fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(d: D) -> Result<Option<T>, D::Error> {
    let empty =
        || de::Error::custom("has nothing below it: fill it, write [] or {} for an empty one, or remove the line");
    Option::deserialize(d)?.map(Some).ok_or_else(empty)
}

/// Reads a value by its text form, with the text form's own complaint.
fn from_text<'de, D: Deserializer<'de>, T: std::str::FromStr<Err = String>>(d: D) -> Result<T, D::Error> {
    String::deserialize(d)?.parse().map_err(de::Error::custom)
}

#[cfg(test)]
mod tests;
