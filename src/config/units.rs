//! What a value says as a boolean, number, duration or size, as generous as Synapse's own readers are.
//!
//! Each function answers `None` when the value says no such thing; whether that is a mistake is for the caller.

use std::time::Duration;

use crate::yaml::{Node, Value};

/// A boolean: YAML's own, 0 or 1, and the words that `strtobool` knows, in quotes or not.
pub(crate) fn bool(node: &Node) -> Option<bool> {
    match &node.value {
        Value::Bool(b) => Some(*b),
        Value::Int(0) => Some(false),
        Value::Int(1) => Some(true),
        Value::Str(s) => bool_of(s),
        _ => None,
    }
}

/// A boolean as text.
pub(crate) fn bool_of(text: &str) -> Option<bool> {
    match text.trim().to_ascii_lowercase().as_str() {
        "y" | "yes" | "t" | "true" | "on" | "1" => Some(true),
        "n" | "no" | "f" | "false" | "off" | "0" => Some(false),
        _ => None,
    }
}

/// A whole number, in quotes or not; `10.0` is one too.
pub(crate) fn int(node: &Node) -> Option<i64> {
    match &node.value {
        Value::Int(n) => Some(*n),
        #[expect(clippy::cast_possible_truncation, reason = "checked to be whole and within 2^53")]
        Value::Float(f) if f.fract() == 0.0 && f.abs() < 9e15 => Some(*f as i64),
        Value::Str(s) => s.trim().parse().ok(),
        _ => None,
    }
}

/// A finite number.
pub(crate) fn number(node: &Node) -> Option<f64> {
    match &node.value {
        #[expect(clippy::cast_precision_loss, reason = "rates and factors are small")]
        Value::Int(n) => Some(*n as f64),
        Value::Float(f) => Some(*f),
        Value::Str(s) => s.trim().parse().ok(),
        _ => None,
    }
    .filter(|f: &f64| f.is_finite())
}

/// Text and nothing else.
pub(crate) fn str(node: &Node) -> Option<&str> {
    match &node.value {
        Value::Str(s) => Some(s),
        _ => None,
    }
}

/// Text, or a bare number as it was written.
pub(crate) fn text(node: &Node) -> Option<&str> {
    match &node.value {
        Value::Str(s) => Some(s),
        Value::Int(_) | Value::Float(_) => Some(&node.raw),
        _ => None,
    }
}

/// A duration: whole milliseconds, or a whole number with s, m, h, d, w or y (365 days).
pub(crate) fn duration(node: &Node) -> Option<Duration> {
    match &node.value {
        Value::Int(n) => u64::try_from(*n).ok().map(Duration::from_millis),
        Value::Str(s) => duration_of(s, 1),
        _ => None,
    }
}

/// A duration as text: a whole number with a unit, or of `bare` milliseconds.
pub(crate) fn duration_of(text: &str, bare: u64) -> Option<Duration> {
    let s = text.trim();
    let (digits, unit) = match s.as_bytes().last()? {
        b's' => (&s[..s.len() - 1], 1000),
        b'm' => (&s[..s.len() - 1], 60_000),
        b'h' => (&s[..s.len() - 1], 3_600_000),
        b'd' => (&s[..s.len() - 1], 86_400_000),
        b'w' => (&s[..s.len() - 1], 7 * 86_400_000),
        b'y' => (&s[..s.len() - 1], 365 * 86_400_000),
        _ => (s, bare),
    };
    digits.trim().parse::<u64>().ok()?.checked_mul(unit).map(Duration::from_millis)
}

/// Whether the value spells out that there is no limit in time.
pub(crate) fn is_infinite(node: &Node) -> bool {
    matches!(&node.value, Value::Str(s) if s == "infinity")
}

/// A size in bytes: a whole number, alone or with K, M, G or T (also KiB …), each 1024 times the one before.
pub(crate) fn size(node: &Node) -> Option<u64> {
    match &node.value {
        Value::Int(n) => u64::try_from(*n).ok(),
        Value::Str(s) => size_of(s),
        _ => None,
    }
}

/// A size as text.
pub(crate) fn size_of(text: &str) -> Option<u64> {
    let s = text.trim();
    let s = s.strip_suffix("iB").unwrap_or(s);
    let (digits, shift) = match s.as_bytes().last()? {
        b'K' => (&s[..s.len() - 1], 10),
        b'M' => (&s[..s.len() - 1], 20),
        b'G' => (&s[..s.len() - 1], 30),
        b'T' => (&s[..s.len() - 1], 40),
        _ => (s, 0),
    };
    digits.trim().parse::<u64>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::path::Path;

    use super::*;

    fn node(text: &str) -> Node {
        crate::yaml::parse(text, &Path::new("t").into()).unwrap().unwrap()
    }

    #[test]
    fn durations() {
        for (text, millis) in [
            ("1500", 1500),
            ("'1500'", 1500),
            ("0", 0),
            ("30s", 30_000),
            ("15m", 900_000),
            ("2h", 7_200_000),
            ("1d", 86_400_000),
            ("1w", 604_800_000),
            ("1y", 31_536_000_000),
        ] {
            assert_eq!(duration(&node(text)), Some(Duration::from_millis(millis)), "{text}");
        }
        for text in ["-1", "1.5h", "5 minutes", "m", "true", "[1]", "''", "99999999999999999999y", "1µs"] {
            assert_eq!(duration(&node(text)), None, "{text}");
        }
    }

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("17", 17),
            ("1K", 1024),
            ("50M", 50 << 20),
            ("2G", 2 << 30),
            ("1T", 1 << 40),
            ("87KiB", 87 << 10),
            ("'9'", 9),
        ] {
            assert_eq!(size(&node(text)), Some(bytes), "{text}");
        }
        for text in ["-1", "1.5M", "50 MB", "M", "yes", "{}", "99999999999T"] {
            assert_eq!(size(&node(text)), None, "{text}");
        }
    }

    #[test]
    fn booleans() {
        for text in ["true", "yes", "On", "'true'", "'True'", "1", "'1'", "y", "\"t\""] {
            assert_eq!(bool(&node(text)), Some(true), "{text}");
        }
        for text in ["false", "no", "OFF", "'false'", "0", "'0'", "n", "f"] {
            assert_eq!(bool(&node(text)), Some(false), "{text}");
        }
        for text in ["2", "maybe", "[]", "~", "1.0"] {
            assert_eq!(bool(&node(text)), None, "{text}");
        }
    }

    #[test]
    fn numbers() {
        assert_eq!(int(&node("10.0")), Some(10));
        assert_eq!(int(&node("'587'")), Some(587));
        assert_eq!(int(&node("10.5")), None);
        assert_eq!(int(&node("true")), None);
        assert_eq!(number(&node("0.17")), Some(0.17));
        assert_eq!(number(&node(".inf")), None);
        assert_eq!(text(&node("1.20")), Some("1.20"));
        assert_eq!(str(&node("1.20")), None);
    }
}
