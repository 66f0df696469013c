//! Registration files of application services: who they are, by which tokens we know each other, and which ids
//! belong to them.

use std::{collections::HashSet, path::Path, sync::Arc};

use ipnet::IpNet;
use url::Url;

use crate::{
    mistakes::Mistake,
    pattern::Pattern,
    read::{At, Cx},
    secret::Secret,
    units,
    yaml::{self, Node, Value},
};

/// An application service.
#[derive(Clone, Debug)]
pub struct Appservice {
    /// Its id.
    pub id: String,
    /// Where transactions go; none means that none are sent. Without a slash at the end.
    pub url: Option<Url>,
    /// Its token towards us.
    pub as_token: Secret<String>,
    /// Our token towards it.
    pub hs_token: Secret<String>,
    /// Localpart of the user it acts as itself.
    pub sender_localpart: String,
    /// Users that are its own.
    pub users: Vec<AppserviceNamespace>,
    /// Rooms it hears of.
    pub rooms: Vec<AppserviceNamespace>,
    /// Aliases that are its own.
    pub aliases: Vec<AppserviceNamespace>,
    /// Whether its users are held back by rate limits.
    pub rate_limited: bool,
    /// Third-party protocols it knows.
    pub protocols: Vec<String>,
    /// Ranges it may be reached at although outgoing requests may not go there.
    pub allow_ranges: Vec<IpNet>,
    /// Typing, receipts and presence are part of its transactions.
    pub ephemeral: bool,
    /// Device lists and key counts are part of them, and it may act as a device.
    pub device_lists: bool,
    /// It makes devices by `PUT /devices`, and registers without a token.
    pub manages_devices: bool,
}

/// Ids that an application service is interested in.
#[derive(Clone, Debug)]
pub struct AppserviceNamespace {
    /// Fits from the beginning of the id.
    pub regex: Pattern,
    /// Whether nobody else may use such ids.
    pub exclusive: bool,
}

/// All registration files; each is checked on its own, then ids and tokens across all.
pub(super) fn read(root: &At<'_>) -> Vec<Appservice> {
    let (mut ids, mut tokens) = (HashSet::new(), HashSet::new());
    root.get("app_service_config_files").each(|at| {
        let path = at.path_buf();
        let text = at.read_file(&path)?;
        let file: Arc<Path> = path.into();
        let node = match yaml::parse(&text, &file) {
            Ok(Some(node)) => node,
            Ok(None) => {
                at.wrong("is empty", "let the application service write its registration again");
                return None;
            }
            Err(mistake) => {
                at.cx().mistake(mistake);
                return None;
            }
        };
        let service = File { cx: at.cx(), node: &node, name: file.display().to_string() }.read()?;
        if !ids.insert(service.id.clone()) {
            at.wrong(format!("has the id {:?} of another registration", service.id), "give it an id of its own");
        }
        if !tokens.insert(service.as_token.expose().clone()) {
            at.wrong("has the as_token of another registration", "make new tokens for one of them");
        }
        Some(service)
    })
}

struct File<'a> {
    cx: &'a Cx,
    node: &'a Node,
    name: String,
}

impl File<'_> {
    fn read(&self) -> Option<Appservice> {
        let Value::Map(_) = self.node.value else {
            self.wrong("", self.node, "is not a mapping of keys to values", "");
            return None;
        };
        let id = self.required("id");
        let as_token = self.required("as_token");
        let hs_token = self.required("hs_token");
        let sender = self.required("sender_localpart");
        let url = self.url();
        let namespaces = self.node.get("namespaces");
        if namespaces.is_none_or(|node| !matches!(node.value, Value::Map(_))) {
            self.wrong(
                "namespaces",
                namespaces.unwrap_or(self.node),
                "must be a mapping",
                "write namespaces: {} for none",
            );
        }
        for key in ["io.element.msc4512.proxy_prefix", "io.element.msc4512.proxy_url"] {
            if let Some(node) = self.node.get(key) {
                self.wrong(
                    key,
                    node,
                    "is not possible here: requests are not passed on to application services",
                    "remove it",
                );
            }
        }
        let flag = |key: &str| self.node.get(key).and_then(units::bool);
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'~' | b'/' | b'=' | b'+');
        if !sender.iter().all(|sender| sender.bytes().all(plain)) {
            let node = self.node.get("sender_localpart").unwrap_or(self.node);
            self.wrong("sender_localpart", node, "has characters that an id cannot have", "use a-z, 0-9, . _ = - /");
        }
        let [users, rooms, aliases] = ["users", "rooms", "aliases"].map(|key| self.namespace(key));
        Some(Appservice {
            id: id?,
            url: url?,
            as_token: Secret::new(as_token?),
            hs_token: Secret::new(hs_token?),
            sender_localpart: sender?,
            users,
            rooms,
            aliases,
            // Whatever is no boolean counts as true.
            rate_limited: !matches!(self.node.get("rate_limited").map(|node| &node.value), Some(Value::Bool(false))),
            protocols: self.strings("protocols"),
            allow_ranges: self.strings("ip_range_whitelist").iter().filter_map(|range| self.range(range)).collect(),
            ephemeral: flag("receive_ephemeral").or(flag("de.sorunome.msc2409.push_ephemeral")).unwrap_or(false),
            device_lists: flag("org.matrix.msc3202").unwrap_or(false),
            manages_devices: flag("io.element.msc4190").unwrap_or(false),
        })
    }

    fn wrong(&self, key: &str, node: &Node, fault: &str, way_out: &str) {
        let key = if key.is_empty() { self.name.clone() } else { format!("{} {key}", self.name) };
        self.cx.mistake(Mistake::new(key, fault).at(node.place.clone()).way_out(way_out));
    }

    fn required(&self, key: &str) -> Option<String> {
        let node = self.node.get(key);
        let text = node.and_then(units::str).filter(|text| !text.is_empty()).map(str::to_owned);
        if text.is_none() {
            self.wrong(
                key,
                node.unwrap_or(self.node),
                "must be set to a text",
                "let the application service write it again",
            );
        }
        text
    }

    /// The outer `Option` is none where there was a mistake.
    #[expect(clippy::option_option, reason = "absent by mistake and absent by wish differ")]
    fn url(&self) -> Option<Option<Url>> {
        let Some(node) = self.node.get("url") else {
            self.wrong("url", self.node, "must be set", "write url: null if nothing is to be sent to it");
            return None;
        };
        if node.is_null() || units::str(node) == Some("") {
            return Some(None);
        }
        let text = units::str(node).unwrap_or_default().trim_end_matches('/');
        match Url::parse(text) {
            Ok(url) if matches!(url.scheme(), "http" | "https") => Some(Some(url)),
            _ => {
                self.wrong(
                    "url",
                    node,
                    "must be an http or https URL, or null",
                    "Unix sockets cannot be written there",
                );
                None
            }
        }
    }

    fn namespace(&self, key: &str) -> Vec<AppserviceNamespace> {
        let path = format!("namespaces.{key}");
        let Some(node) = self.node.get("namespaces").and_then(|node| node.get(key)).filter(|node| !node.is_null())
        else {
            return Vec::new();
        };
        let Value::List(items) = &node.value else {
            self.wrong(&path, node, "must be a list", "");
            return Vec::new();
        };
        let one = |(i, node): (usize, &Node)| {
            let path = format!("{path}[{i}]");
            let regex = node.get("regex").and_then(units::str).map(Pattern::new);
            let exclusive = match node.get("exclusive").map(|node| &node.value) {
                Some(Value::Bool(exclusive)) => Some(*exclusive),
                _ => None,
            };
            match (regex, exclusive) {
                (Some(Ok(regex)), Some(exclusive)) => Some(AppserviceNamespace { regex, exclusive }),
                (Some(Err(error)), _) => {
                    self.wrong(&path, node, &format!("has a regex that cannot be read: {error}"), "");
                    None
                }
                _ => {
                    self.wrong(&path, node, "must hold regex, a text, and exclusive, true or false", "");
                    None
                }
            }
        };
        items.iter().enumerate().filter_map(one).collect()
    }

    fn strings(&self, key: &str) -> Vec<String> {
        let Some(node) = self.node.get(key).filter(|node| !node.is_null()) else { return Vec::new() };
        let Value::List(items) = &node.value else {
            self.wrong(key, node, "must be a list of texts", "");
            return Vec::new();
        };
        let one = |node: &Node| {
            let text = units::str(node).map(str::to_owned);
            if text.is_none() {
                self.wrong(key, node, "must be a list of texts", "");
            }
            text
        };
        items.iter().filter_map(one).collect()
    }

    fn range(&self, text: &str) -> Option<IpNet> {
        let net = text.parse::<IpNet>().ok().or_else(|| text.parse::<std::net::IpAddr>().ok().map(IpNet::from));
        if net.is_none() {
            let node = self.node.get("ip_range_whitelist").unwrap_or(self.node);
            self.wrong(
                "ip_range_whitelist",
                node,
                &format!("holds {text:?}, which is no address range"),
                "write 10.0.0.0/8",
            );
        }
        net
    }
}
