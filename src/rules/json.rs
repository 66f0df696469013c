//! JSON in canonical form (appendices, "Canonical JSON"), as text and as a tree whose numbers are text too.
//!
//! Rooms of versions 1 to 5 never asked for canonical numbers (rooms/v6, "Canonical JSON"), and what they hold has been
//! hashed and signed: fractions and integers of any length. So a number is never made a machine's number here. The
//! form in which those numbers are hashed is what the first servers made of them, that is Python's `json`.

use std::collections::BTreeMap;

mod reader;

/// The greatest integer of canonical JSON; the least is its negative.
pub(crate) const MAX_INT: u64 = (1 << 53) - 1;
/// Keys in the order of their code points, which is that of their bytes.
pub type Object = BTreeMap<String, Value>;

/// A JSON value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number in canonical form.
    Number(Box<str>),
    /// A string.
    String(String),
    /// A list.
    Array(Vec<Self>),
    /// An object.
    Object(Object),
}

/// Which numbers a text may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Numbers {
    /// Integers from -(2^53 - 1) to 2^53 - 1, without fraction, exponent or negative zero.
    Canonical,
    /// All that are finite.
    Any,
}

/// Why a text is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{why} at byte {at}")]
pub struct Invalid {
    why: &'static str,
    at: usize,
}

impl Value {
    /// Reads a text. The last of equal keys wins.
    pub fn parse(text: &str, numbers: Numbers) -> Result<Self, Invalid> {
        reader::read(text, reader::MAX_DEPTH, numbers)
    }

    /// Reads the body of a request, whatever numbers it has.
    pub(crate) fn parse_body(text: &str) -> Result<Self, Invalid> {
        reader::read(text, reader::MAX_REQUEST_DEPTH, Numbers::Any)
    }

    /// The string, if it is one.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(s) => Some(s),
            _ => None,
        }
    }

    /// The list, if it is one.
    #[must_use]
    pub fn as_array(&self) -> Option<&[Self]> {
        match self {
            Self::Array(list) => Some(list),
            _ => None,
        }
    }

    /// The object, if it is one.
    #[must_use]
    pub fn as_object(&self) -> Option<&Object> {
        match self {
            Self::Object(object) => Some(object),
            _ => None,
        }
    }

    /// The number, if it is an integer from 0 to 2^63 - 1.
    #[must_use]
    pub fn as_u63(&self) -> Option<u64> {
        match self {
            Self::Number(n) => n.parse().ok().filter(|n| i64::try_from(*n).is_ok()),
            _ => None,
        }
    }

    /// Appends the canonical text.
    pub fn write(&self, out: &mut String) {
        match self {
            Self::Null => out.push_str("null"),
            Self::Bool(true) => out.push_str("true"),
            Self::Bool(false) => out.push_str("false"),
            Self::Number(n) => out.push_str(n),
            Self::String(s) => push_str(out, s),
            Self::Array(list) => {
                out.push('[');
                for (n, value) in list.iter().enumerate() {
                    if n > 0 {
                        out.push(',');
                    }
                    value.write(out);
                }
                out.push(']');
            }
            Self::Object(object) => write_object(out, object),
        }
    }
}

impl From<&str> for Value {
    fn from(s: &str) -> Self {
        Self::String(s.to_owned())
    }
}

/// Reads a text that is an object.
pub fn parse_object(text: &str, numbers: Numbers) -> Result<Object, Invalid> {
    match Value::parse(text, numbers)? {
        Value::Object(object) => Ok(object),
        _ => Err(Invalid { why: "this is no object", at: 0 }),
    }
}

/// Appends the canonical text of an object.
pub fn write_object(out: &mut String, object: &Object) {
    let mut members = Members::begin(out);
    for (key, value) in object {
        value.write(members.key(key));
    }
    members.end();
}

/// An object being written.
pub(crate) struct Members<'a> {
    out: &'a mut String,
    empty: bool,
}

impl<'a> Members<'a> {
    pub(crate) fn begin(out: &'a mut String) -> Self {
        out.push('{');
        Self { out, empty: true }
    }

    /// Writes a key; its value is to follow.
    pub(crate) fn key(&mut self, key: &str) -> &mut String {
        if !self.empty {
            self.out.push(',');
        }
        self.empty = false;
        push_str(self.out, key);
        self.out.push(':');
        self.out
    }

    pub(crate) fn end(self) {
        self.out.push('}');
    }
}

/// Appends a JSON string with its quotes.
pub(crate) fn push_str(out: &mut String, s: &str) {
    out.push('"');
    let mut from = 0;
    for (at, byte) in s.bytes().enumerate() {
        let escape = match byte {
            b'"' => "\\\"",
            b'\\' => "\\\\",
            0x08 => "\\b",
            0x09 => "\\t",
            0x0a => "\\n",
            0x0c => "\\f",
            0x0d => "\\r",
            0x00..=0x1f => "",
            _ => continue,
        };
        out.push_str(s.get(from..at).unwrap_or_default());
        from = at + 1;
        if escape.is_empty() {
            out.push_str("\\u00");
            for nibble in [byte >> 4, byte & 15] {
                out.push(char::from_digit(u32::from(nibble), 16).unwrap_or('0'));
            }
        } else {
            out.push_str(escape);
        }
    }
    out.push_str(s.get(from..).unwrap_or_default());
    out.push('"');
}

/// Appends an unsigned number.
pub(crate) fn push_int(out: &mut String, n: u64) {
    out.push_str(itoa::Buffer::new().format(n));
}

#[cfg(test)]
mod tests;
