//! Booleans and whole numbers, in quotes or not; sizes and times, which are whole numbers (of bytes, of seconds) or have a
//! unit. As generous as the rest of the file.

use serde::{Deserialize, Deserializer, de};
use serde_json::Value;

use crate::units;

pub(super) fn flag<'de, D: Deserializer<'de>>(d: D) -> Result<bool, D::Error> {
    read_flag(&Value::deserialize(d)?)
}

pub(super) fn maybe_flag<'de, D: Deserializer<'de>>(d: D) -> Result<Option<bool>, D::Error> {
    Option::<Value>::deserialize(d)?.as_ref().map(read_flag).transpose()
}

pub(super) fn count<'de, D: Deserializer<'de>>(d: D) -> Result<u32, D::Error> {
    let said = Value::deserialize(d)?;
    let number = said.as_u64().and_then(|n| n.try_into().ok()).or_else(|| said.as_str()?.trim().parse().ok());
    number.ok_or_else(|| de::Error::custom(format!("{said} is no whole number that could be meant")))
}

pub(super) fn size<'de, D: Deserializer<'de>, T: TryFrom<u64>>(d: D) -> Result<T, D::Error> {
    read_size(&Value::deserialize(d)?)
}

pub(super) fn maybe_size<'de, D: Deserializer<'de>>(d: D) -> Result<Option<u64>, D::Error> {
    Option::<Value>::deserialize(d)?.as_ref().map(read_size).transpose()
}

pub(super) fn seconds<'de, D: Deserializer<'de>>(d: D) -> Result<u64, D::Error> {
    read_seconds(&Value::deserialize(d)?)
}

pub(super) fn maybe_seconds<'de, D: Deserializer<'de>>(d: D) -> Result<Option<u64>, D::Error> {
    Option::<Value>::deserialize(d)?.as_ref().map(read_seconds).transpose()
}

fn read_flag<E: de::Error>(said: &Value) -> Result<bool, E> {
    let flag = match said {
        Value::Bool(flag) => Some(*flag),
        Value::Number(number) => units::bool_of(&number.to_string()),
        Value::String(text) => units::bool_of(text),
        _ => None,
    };
    flag.ok_or_else(|| E::custom(format!("{said} is neither true nor false")))
}

fn read_size<T: TryFrom<u64>, E: de::Error>(said: &Value) -> Result<T, E> {
    let bytes = said.as_u64().or_else(|| units::size_of(said.as_str()?));
    let wrong = || E::custom(format!("{said} is no size: write bytes, or a number with K, M or G"));
    bytes.and_then(|bytes| T::try_from(bytes).ok()).ok_or_else(wrong)
}

fn read_seconds<E: de::Error>(said: &Value) -> Result<u64, E> {
    let time = || units::duration_of(said.as_str()?, 1000).map(|time| time.as_secs());
    let wrong = || E::custom(format!("{said} is no time: write seconds, or a number with s, m or h"));
    said.as_u64().or_else(time).ok_or_else(wrong)
}
