//! Other forms of a value: a range with those that carry it, what may be shown of a value, a tree as JSON.

use std::{iter, net::Ipv6Addr};

use ipnet::IpNet;

use crate::yaml::{Node, Value};

/// A range, and for IPv4 the three IPv6 ranges that carry its addresses.
pub(crate) fn with_carriers(net: IpNet) -> Vec<IpNet> {
    let IpNet::V4(v4) = net else { return vec![net] };
    let [a, b, c, d] = v4.network().octets();
    let (high, low) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
    let carriers = [
        (Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, high, low), 96),
        (Ipv6Addr::new(0, 0, 0, 0, 0, 0, high, low), 96),
        (Ipv6Addr::new(0x2002, high, low, 0, 0, 0, 0, 0), 16),
    ];
    let carriers = carriers.into_iter().filter_map(|(ip, bits)| IpNet::new(ip.into(), bits + v4.prefix_len()).ok());
    iter::once(net).chain(carriers).collect()
}

/// A value as it may be shown: shortened, and hidden when the key says that it is secret.
pub(crate) fn show(path: &str, node: &Node) -> String {
    const HIDDEN: &[&str] =
        &["secret", "pass", "token", "pepper", "private_key", "secret_key", "signing_key", "dsn", "jwt"];
    let key = path.rsplit('.').next().unwrap_or(path);
    match &node.value {
        Value::Null => "null".to_owned(),
        Value::List(items) => format!("a list of {}", items.len()),
        Value::Map(map) => format!("a mapping of {}", map.0.len()),
        _ if !key.ends_with("_path") && HIDDEN.iter().any(|word| key.contains(word)) => "hidden".to_owned(),
        // Elsewhere `key` is a file.
        _ if path.ends_with("eab.key") => "hidden".to_owned(),
        Value::Str(text) => {
            let short: String = text.chars().take(60).collect();
            let dots = if short.len() < text.len() { "…" } else { "" };
            format!("{:?}{dots}", short)
        }
        _ => node.raw.clone(),
    }
}

/// A tree as JSON. Numbers that JSON lacks become null.
pub(crate) fn to_json(node: &Node) -> serde_json::Value {
    use serde_json::Value as Json;
    match &node.value {
        Value::Null => Json::Null,
        Value::Bool(b) => Json::Bool(*b),
        Value::Int(n) => (*n).into(),
        Value::Float(f) => serde_json::Number::from_f64(*f).map_or(Json::Null, Json::Number),
        Value::Str(s) => Json::String(s.clone()),
        Value::List(items) => items.iter().map(to_json).collect(),
        Value::Map(map) => map.0.iter().map(|(key, node)| (key.clone(), to_json(node))).collect(),
    }
}
