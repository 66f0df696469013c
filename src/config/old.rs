//! Old spellings become today's before anything is read, so that no section has to know them.
//!
//! Today's spelling wins where both are present; only of two spellings of the very same option both being set is a
//! mistake, because nobody could tell which one was meant.

use crate::{
    mistakes::Mistake,
    read::Cx,
    units,
    yaml::{Map, Node, Value},
};

/// Names that are also written with another ending: `…_blocklist` for `…_blacklist`, `…_allowlist` for `…_whitelist`.
const ENDINGS: &[(&str, &str)] = &[("_blocklist", "_blacklist"), ("_allowlist", "_whitelist")];
const WITH_ENDINGS: &[&str] = &[
    "ip_range_blacklist",
    "ip_range_whitelist",
    "federation_domain_whitelist",
    "federation_ip_range_blacklist",
    "federation_certificate_verification_whitelist",
    "next_link_domain_whitelist",
    "url_preview_ip_range_blacklist",
    "url_preview_ip_range_whitelist",
    "url_preview_url_blacklist",
];

/// Other spellings of the same name, renamed before the check.
pub(crate) fn respell(root: &mut Node, cx: &Cx) {
    let Value::Map(map) = &mut root.value else { return };
    for canonical in WITH_ENDINGS {
        for (other, ending) in ENDINGS {
            let Some(stem) = canonical.strip_suffix(ending) else { continue };
            rename(map, &format!("{stem}{other}"), canonical, cx);
        }
    }
    if let Some(Node { value: Value::Map(sso), .. }) = get_mut(map, "sso") {
        rename(sso, "client_allowlist", "client_whitelist", cx);
    }
}

fn rename(map: &mut Map, from: &str, to: &str, cx: &Cx) {
    let Some(node) = map.remove(from) else { return };
    if map.get(to).is_some() {
        let fault = format!("and {to} are the same option, and both are set");
        cx.mistake(Mistake::new(from, fault).at(node.place).way_out("keep one of the two"));
        return;
    }
    map.set(to.to_owned(), node);
}

fn get_mut<'a>(map: &'a mut Map, key: &str) -> Option<&'a mut Node> {
    map.0.iter_mut().find(|(name, _)| name == key).map(|(_, node)| node)
}

/// Options that have moved or changed their form, rewritten after the check.
pub(crate) fn modernise(root: &mut Node) {
    let Value::Map(map) = &mut root.value else { return };
    presence_and_rooms(map);
    accounts(map);
    limits(map);
    keys(map);
    databases(map);
    listeners(map);
    email(map);
}

fn presence_and_rooms(map: &mut Map) {
    if let Some(node) = map.remove("use_presence") {
        fill(map, &["presence", "enabled"], node);
    }
    if let Some(node) = map.remove("restrict_public_rooms_to_local_users") {
        // One option became two of the opposite sense.
        if let Some(restricted) = units::bool(&node) {
            for key in ["allow_public_rooms_over_federation", "allow_public_rooms_without_auth"] {
                fill(map, &[key], with(&node, Value::Bool(!restricted)));
            }
        }
    }
    if let Some(node) = map.remove("room_invite_state_types") {
        // The old list stood for itself; the new one adds to defaults.
        let place = node.clone();
        fill(map, &["room_prejoin_state", "disable_default_event_types"], with(&place, Value::Bool(true)));
        fill(map, &["room_prejoin_state", "additional_event_types"], node);
    }
}

fn accounts(map: &mut Map) {
    if let Some(node) = map.remove("disable_registration")
        && let Some(disabled) = units::bool(&node)
    {
        fill(map, &["enable_registration"], with(&node, Value::Bool(!disabled)));
    }
    if let Some(node) = map.remove("oidc_config")
        && node.get("enabled").is_some_and(|enabled| units::bool(enabled) == Some(true))
        && let Value::Map(mut provider) = node.value.clone()
    {
        provider.remove("enabled");
        if provider.get("idp_id").is_none() {
            provider.set("idp_id".to_owned(), with(&node, Value::Str("oidc".to_owned())));
        }
        if provider.get("idp_name").is_none() {
            provider.set("idp_name".to_owned(), with(&node, Value::Str("OIDC".to_owned())));
        }
        let provider = with(&node, Value::Map(provider));
        match get_mut(map, "oidc_providers") {
            Some(Node { value: Value::List(providers), .. }) => providers.insert(0, provider),
            _ => map.set("oidc_providers".to_owned(), with(&node, Value::List(vec![provider]))),
        }
    }
    if let Some(Node { value: Value::Map(saml), .. }) = get_mut(map, "saml2_config") {
        for key in ["mxid_source_attribute", "mxid_mapping"] {
            if let Some(node) = saml.remove(key) {
                fill(saml, &["user_mapping_provider", "config", key], node);
            }
        }
    }
}

fn limits(map: &mut Map) {
    let moved: [(&str, &[&str]); 7] = [
        ("rc_messages_per_second", &["rc_message", "per_second"]),
        ("rc_message_burst_count", &["rc_message", "burst_count"]),
        ("federation_rc_window_size", &["rc_federation", "window_size"]),
        ("federation_rc_sleep_limit", &["rc_federation", "sleep_limit"]),
        ("federation_rc_sleep_delay", &["rc_federation", "sleep_delay"]),
        ("federation_rc_reject_limit", &["rc_federation", "reject_limit"]),
        ("federation_rc_concurrent", &["rc_federation", "concurrent"]),
    ];
    let whole = ["rc_message", "rc_federation"].map(|key| map.get(key).is_some_and(|node| !node.is_null()));
    for (from, to) in moved {
        let Some(node) = map.remove(from) else { continue };
        // Where the new form is there at all, the old one is ignored whole.
        if !whole[usize::from(to[0] == "rc_federation")] {
            fill(map, to, node);
        }
    }
}

fn keys(map: &mut Map) {
    let Some(node) = map.remove("perspectives") else { return };
    let Some(Value::Map(servers)) = node.get("servers").map(|servers| &servers.value) else { return };
    let server = |(name, settings): &(String, Node)| {
        let mut entry = Map::default();
        entry.set("server_name".to_owned(), with(settings, Value::Str(name.clone())));
        if let Some(Value::Map(keys)) = settings.get("verify_keys").map(|keys| &keys.value) {
            // {id: {key: base64}} became {id: base64}.
            let flat = |(id, key): &(String, Node)| Some((id.clone(), key.get("key")?.clone()));
            let flat = Map(keys.0.iter().filter_map(flat).collect());
            entry.set("verify_keys".to_owned(), with(settings, Value::Map(flat)));
        }
        with(settings, Value::Map(entry))
    };
    let servers = Value::List(servers.0.iter().map(server).collect());
    fill(map, &["trusted_key_servers"], with(&node, servers));
}

fn databases(map: &mut Map) {
    if let Some(node) = map.remove("database_path")
        && map.get("database").is_none_or(|db| db.get("name").is_none_or(|name| units::str(name) == Some("sqlite3")))
    {
        fill(map, &["database", "args", "database"], node);
    }
}

/// Before there was `listeners`, one TLS port, one plain port and one for metrics were told by options of their own.
fn listeners(map: &mut Map) {
    let old = [
        "bind_port",
        "unsecure_port",
        "bind_host",
        "bind_address",
        "no_tls",
        "gzip_responses",
        "metrics_port",
        "metrics_bind_host",
    ]
    .map(|key| map.remove(key).filter(|node| !node.is_null()));
    let [bind_port, unsecure_port, bind_host, bind_address, no_tls, gzip, metrics_port, metrics_host] = old;
    let Some(at) = bind_port.as_ref().or(unsecure_port.as_ref()).or(metrics_port.as_ref()).cloned() else { return };
    if map.get("listeners").is_some_and(|node| !node.is_null()) {
        return;
    }
    let text = |s: &str| with(&at, Value::Str(s.to_owned()));
    let boolean = |b: bool| with(&at, Value::Bool(b));
    let host = bind_host.or(bind_address).unwrap_or_else(|| text(""));
    let compress = gzip.as_ref().and_then(units::bool).unwrap_or(true);
    let http = |port: Node, tls: bool| {
        let names = ["client", "federation"].map(text).to_vec();
        let resource = with(
            &at,
            Value::Map(Map(vec![
                ("names".to_owned(), with(&at, Value::List(names))),
                ("compress".to_owned(), boolean(compress)),
            ])),
        );
        with(
            &at,
            Value::Map(Map(vec![
                ("port".to_owned(), port),
                ("tls".to_owned(), boolean(tls)),
                ("bind_addresses".to_owned(), with(&at, Value::List(vec![host.clone()]))),
                ("type".to_owned(), text("http")),
                ("resources".to_owned(), with(&at, Value::List(vec![resource]))),
            ])),
        )
    };
    let is_open = |port: &Node| units::int(port).is_none_or(|port| port > 0);
    let tls = !no_tls.as_ref().and_then(units::bool).unwrap_or(false);
    let mut all = Vec::new();
    all.extend(bind_port.filter(|port| tls && is_open(port)).map(|port| http(port, true)));
    all.extend(unsecure_port.filter(is_open).map(|port| http(port, false)));
    all.extend(metrics_port.filter(is_open).map(|port| {
        let host = metrics_host.unwrap_or_else(|| text("127.0.0.1"));
        with(
            &at,
            Value::Map(Map(vec![
                ("port".to_owned(), port),
                ("bind_addresses".to_owned(), with(&at, Value::List(vec![host]))),
                ("type".to_owned(), text("metrics")),
            ])),
        )
    }));
    map.set("listeners".to_owned(), with(&at, Value::List(all)));
}

fn email(map: &mut Map) {
    if let Some(Node { value: Value::Map(email), .. }) = get_mut(map, "email")
        && let Some(node) = email.remove("riot_base_url")
    {
        fill(email, &["client_base_url"], node);
    }
}

/// Sets what stands under `path` if nothing does, and makes the mappings on the way.
fn fill(map: &mut Map, path: &[&str], node: Node) {
    let Some((first, rest)) = path.split_first() else { return };
    if rest.is_empty() {
        if map.get(first).is_none_or(Node::is_null) {
            map.set((*first).to_owned(), node);
        }
        return;
    }
    if map.get(first).is_none_or(Node::is_null) {
        map.set((*first).to_owned(), with(&node, Value::Map(Map::default())));
    }
    if let Some(Node { value: Value::Map(inner), .. }) = get_mut(map, first) {
        fill(inner, rest, node);
    }
}

/// A value that stands where another one does.
fn with(place: &Node, value: Value) -> Node {
    Node { value, raw: place.raw.clone(), place: place.place.clone() }
}
