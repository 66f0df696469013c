//! What a scalar means in YAML 1.1, as PyYAML's resolver decides it: by shape, first match of boolean, float, integer,
//! null, else text. `y`, `n` and `1e3` are text there, and so they are here.

use saphyr_parser::Tag;

use super::Value;

/// The value of a scalar. `plain` is false when it was quoted or a block. The error is the fault in words.
pub(super) fn resolve(text: &str, plain: bool, tag: Option<&Tag>) -> Result<Value, String> {
    // The bare `!` changes nothing for PyYAML.
    let Some(tag) = tag.filter(|tag| tag.handle.len() + tag.suffix.len() > 1) else {
        return Ok(if plain { implicit(text) } else { Value::Str(text.to_owned()) });
    };
    let wrong = || format!("`{text}` is tagged !!{} but is none", tag.suffix);
    match (tag.is_yaml_core_schema(), tag.suffix.as_str()) {
        (true, "str") => Ok(Value::Str(text.to_owned())),
        (true, "bool") => bool(text).map(Value::Bool).ok_or_else(wrong),
        (true, "int") => int(text).ok_or_else(wrong),
        (true, "float") => float(text).or_else(|| text.parse().ok()).map(Value::Float).ok_or_else(wrong),
        (true, "null") => Ok(Value::Null),
        _ => Err(format!("the tag {}{} means nothing here", tag.handle, tag.suffix)),
    }
}

fn implicit(text: &str) -> Value {
    if matches!(text, "" | "~" | "null" | "Null" | "NULL") {
        return Value::Null;
    }
    bool(text)
        .map(Value::Bool)
        .or_else(|| float(text).map(Value::Float))
        .or_else(|| int(text))
        .unwrap_or_else(|| Value::Str(text.to_owned()))
}

fn bool(text: &str) -> Option<bool> {
    match text {
        "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => Some(true),
        "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => Some(false),
        _ => None,
    }
}

/// Binary, octal, decimal, hexadecimal and base 60, with underscores, as PyYAML takes them.
fn int(text: &str) -> Option<Value> {
    let (negative, digits) = sign(text);
    if !digits.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let bare = digits.replace('_', "");
    let magnitude = if let Some(bits) = bare.strip_prefix("0b") {
        i128::from_str_radix(bits, 2).ok()?
    } else if let Some(hex) = bare.strip_prefix("0x") {
        i128::from_str_radix(hex, 16).ok()?
    } else if bare.contains(':') {
        if bare.starts_with('0') {
            return None;
        }
        base_60(&bare)?
    } else if bare.len() > 1 && bare.starts_with('0') {
        i128::from_str_radix(&bare, 8).ok()?
    } else if bare.bytes().all(|b| b.is_ascii_digit()) {
        match bare.parse() {
            Ok(n) => n,
            Err(_) => return bare.parse().ok().map(Value::Float),
        }
    } else {
        return None;
    };
    let value = if negative { -magnitude } else { magnitude };
    #[expect(clippy::cast_precision_loss, reason = "a number beyond 64 bits is out of range wherever it is read")]
    Some(i64::try_from(value).map_or(Value::Float(value as f64), Value::Int))
}

/// `1:30` is ninety in YAML 1.1; each part but the first is below 60.
fn base_60(text: &str) -> Option<i128> {
    let mut parts = text.split(':');
    let mut sum: i128 = parts.next()?.parse().ok()?;
    for part in parts {
        let n: i128 = (part.len() <= 2).then(|| part.parse().ok()).flatten().filter(|n| *n < 60)?;
        sum = sum.checked_mul(60)?.checked_add(n)?;
    }
    Some(sum)
}

/// A float has a dot; an exponent wants its sign (`1.5e+3`).
fn float(text: &str) -> Option<f64> {
    let (negative, body) = sign(text);
    let magnitude = match body {
        ".inf" | ".Inf" | ".INF" => f64::INFINITY,
        ".nan" | ".NaN" | ".NAN" if body.len() == text.len() => f64::NAN,
        _ if body.contains(':') => float_base_60(body)?,
        _ => {
            let (whole, fraction) = body.split_once('.')?;
            // `.5` is a number, `-.5` is not.
            let whole_fits = whole.bytes().all(|b| b.is_ascii_digit() || b == b'_')
                && !whole.starts_with('_')
                && !(whole.is_empty() && body.len() < text.len());
            let (digits, exponent) = match fraction.split_once(['e', 'E']) {
                Some((digits, exponent)) => (digits, Some(exponent)),
                None => (fraction, None),
            };
            let digits_fit = digits.bytes().all(|b| b.is_ascii_digit() || b == b'_')
                && (!whole.is_empty() || digits.starts_with(|c: char| c.is_ascii_digit()));
            let exponent_fits = exponent.is_none_or(|e| {
                e.strip_prefix(['+', '-']).is_some_and(|d| !d.is_empty() && d.bytes().all(|b| b.is_ascii_digit()))
            });
            if !(whole_fits && digits_fit && exponent_fits) {
                return None;
            }
            format!("0{}", body.replace('_', "")).parse().ok()?
        }
    };
    Some(if negative { -magnitude } else { magnitude })
}

/// `1:30:5.5`: base 60 with a fraction.
fn float_base_60(text: &str) -> Option<f64> {
    let (whole, fraction) = text.split_once('.')?;
    let digits = fraction.replace('_', "");
    if !digits.bytes().all(|b| b.is_ascii_digit()) || !whole.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    #[expect(clippy::cast_precision_loss, reason = "nobody writes such long times")]
    Some(base_60(&whole.replace('_', ""))? as f64 + format!("0.{digits}0").parse::<f64>().ok()?)
}

fn sign(text: &str) -> (bool, &str) {
    match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    }
}
