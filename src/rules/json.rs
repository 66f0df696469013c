//! JSON in canonical form (appendices, "Canonical JSON"), as text and as a tree whose numbers are text too.
//!
//! Rooms of versions 1 to 5 never asked for canonical numbers (rooms/v6, "Canonical JSON"), and what they hold has been
//! hashed and signed: fractions and integers of any length. So a number is never made a machine's number here. The
//! form in which those numbers are hashed is what the first servers made of them, that is Python's `json`.

use std::collections::BTreeMap;

/// The greatest integer of canonical JSON; the least is its negative.
pub(crate) const MAX_INT: u64 = (1 << 53) - 1;
/// How deep a text may nest: as deep as JSON readers go elsewhere here.
const MAX_DEPTH: usize = 127;
/// Digits of an integer: beyond these, the first servers read none (`sys.int_info.default_max_str_digits`).
const MAX_DIGITS: usize = 4300;

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
        let mut reader = Reader { text, at: 0, depth: 0, numbers };
        let value = reader.value()?;
        reader.skip_space();
        if reader.at == text.len() { Ok(value) } else { reader.refuse("something stands behind the value") }
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

/// Reads a text once, from left to right.
struct Reader<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
    numbers: Numbers,
}

impl<'a> Reader<'a> {
    fn refuse<T>(&self, why: &'static str) -> Result<T, Invalid> {
        Err(Invalid { why, at: self.at })
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    /// Steps over a byte if it stands next, behind spaces.
    fn eat(&mut self, byte: u8) -> bool {
        self.skip_space();
        let is_next = self.peek() == Some(byte);
        self.at += usize::from(is_next);
        is_next
    }

    fn value(&mut self) -> Result<Value, Invalid> {
        self.skip_space();
        match self.peek() {
            Some(b'{') => self.deeper(Self::object),
            Some(b'[') => self.deeper(Self::array),
            Some(b'"') => self.string().map(Value::String),
            Some(b'-' | b'0'..=b'9') => self.number().map(Value::Number),
            Some(b't') => self.word("true", Value::Bool(true)),
            Some(b'f') => self.word("false", Value::Bool(false)),
            Some(b'n') => self.word("null", Value::Null),
            _ => self.refuse("a value is missing"),
        }
    }

    fn word(&mut self, word: &str, value: Value) -> Result<Value, Invalid> {
        if self.text.get(self.at..).is_some_and(|rest| rest.starts_with(word)) {
            self.at += word.len();
            Ok(value)
        } else {
            self.refuse("a value is missing")
        }
    }

    fn deeper(&mut self, read: fn(&mut Self) -> Result<Value, Invalid>) -> Result<Value, Invalid> {
        if self.depth == MAX_DEPTH {
            return self.refuse("it nests too deeply");
        }
        self.depth += 1;
        self.at += 1;
        let value = read(self);
        self.depth -= 1;
        value
    }

    fn object(&mut self) -> Result<Value, Invalid> {
        let mut object = Object::new();
        if self.eat(b'}') {
            return Ok(Value::Object(object));
        }
        loop {
            self.skip_space();
            if self.peek() != Some(b'"') {
                return self.refuse("a key is missing");
            }
            let key = self.string()?;
            if !self.eat(b':') {
                return self.refuse("a colon is missing");
            }
            object.insert(key, self.value()?);
            if self.eat(b'}') {
                return Ok(Value::Object(object));
            }
            if !self.eat(b',') {
                return self.refuse("an object does not end");
            }
        }
    }

    fn array(&mut self) -> Result<Value, Invalid> {
        let mut list = Vec::new();
        if self.eat(b']') {
            return Ok(Value::Array(list));
        }
        loop {
            list.push(self.value()?);
            if self.eat(b']') {
                return Ok(Value::Array(list));
            }
            if !self.eat(b',') {
                return self.refuse("a list does not end");
            }
        }
    }

    fn string(&mut self) -> Result<String, Invalid> {
        let start = self.at;
        let mut escaped = false;
        loop {
            self.at += 1;
            match self.peek() {
                Some(b'"') => break,
                Some(b'\\') => {
                    escaped = true;
                    self.at += 1;
                }
                Some(0x00..=0x1f) => return self.refuse("a control character is not escaped"),
                Some(_) => {}
                None => return self.refuse("a string does not end"),
            }
        }
        self.at += 1;
        if escaped {
            let quoted = self.text.get(start..self.at).unwrap_or_default();
            return serde_json::from_str(quoted).or_else(|_| self.refuse("an escape stands for nothing"));
        }
        Ok(self.text.get(start + 1..self.at - 1).unwrap_or_default().to_owned())
    }

    fn digits(&mut self) -> Result<usize, Invalid> {
        let start = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        if self.at == start { self.refuse("a digit is missing") } else { Ok(self.at - start) }
    }

    fn number(&mut self) -> Result<Box<str>, Invalid> {
        let start = self.at;
        self.at += usize::from(self.peek() == Some(b'-'));
        let zero = self.peek() == Some(b'0');
        let length = self.digits()?;
        if zero && length > 1 {
            return self.refuse("a number begins with zero");
        }
        let mut whole = true;
        if self.peek() == Some(b'.') {
            whole = false;
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            whole = false;
            self.at += 1;
            self.at += usize::from(matches!(self.peek(), Some(b'+' | b'-')));
            self.digits()?;
        }
        let text: &'a str = self.text.get(start..self.at).unwrap_or_default();
        match self.numbers {
            Numbers::Canonical => {
                let size = text.trim_start_matches('-').parse::<u64>();
                if whole && text != "-0" && size.is_ok_and(|n| n <= MAX_INT) {
                    return Ok(text.into());
                }
                self.refuse("a number is not canonical: no fraction, no exponent, at most 2^53 - 1")
            }
            Numbers::Any if text == "-0" => Ok("0".into()),
            Numbers::Any if whole && length > MAX_DIGITS => self.refuse("a number is too long"),
            Numbers::Any if whole => Ok(text.into()),
            Numbers::Any => match text.parse::<f64>() {
                Ok(number) if number.is_finite() => Ok(python_repr(number).into()),
                _ => self.refuse("a number is too great"),
            },
        }
    }
}

/// How Python writes a finite number that is not an integer: the fewest digits that give it back, with an exponent below
/// 10^-4 and from 10^16.
fn python_repr(number: f64) -> String {
    let short = format!("{number:e}");
    let (mantissa, exponent) = short.split_once('e').unwrap_or((&short, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if !(-4..16).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{mantissa}e{sign}{:02}", exponent.abs());
    }
    // Positional, and with a fraction always.
    let plain = format!("{number}");
    if plain.contains('.') { plain } else { plain + ".0" }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;
    use ruma::CanonicalJsonValue;
    use serde_json::value::RawValue;

    use super::*;

    fn canonical(text: &str, numbers: Numbers) -> Result<String, Invalid> {
        let mut out = String::new();
        Value::parse(text, numbers)?.write(&mut out);
        Ok(out)
    }

    #[test]
    fn loose_numbers_are_written_as_the_first_servers_do() {
        for (given, written) in [
            ("0", "0"),
            ("-0", "0"),
            ("-0.0", "-0.0"),
            ("1.0", "1.0"),
            ("1e3", "1000.0"),
            ("1E3", "1000.0"),
            ("1e+3", "1000.0"),
            ("1.10", "1.1"),
            ("0.1e1", "1.0"),
            ("123456789012345678901234567890", "123456789012345678901234567890"),
            ("-9007199254740993", "-9007199254740993"),
            ("9007199254740993.0", "9007199254740992.0"),
            ("1e15", "1000000000000000.0"),
            ("1e16", "1e+16"),
            ("12345678901234567.0", "1.2345678901234568e+16"),
            ("1e22", "1e+22"),
            ("1e100", "1e+100"),
            ("0.0001", "0.0001"),
            ("0.00001", "1e-05"),
            ("1.5e-7", "1.5e-07"),
            ("5e-324", "5e-324"),
            ("1e-400", "0.0"),
            ("1.7976931348623157e308", "1.7976931348623157e+308"),
        ] {
            assert_eq!(canonical(given, Numbers::Any).unwrap(), written, "{given}");
        }
        for given in ["1e309", "-1e309", "NaN", "Infinity", "01", "1.", ".5", "+1", "1e", "--1", "-"] {
            canonical(given, Numbers::Any).unwrap_err();
        }
        canonical(&"9".repeat(MAX_DIGITS), Numbers::Any).unwrap();
        canonical(&"9".repeat(MAX_DIGITS + 1), Numbers::Any).unwrap_err();
    }

    #[test]
    fn depth_and_form_have_limits() {
        let nested = |n: usize| "[".repeat(n) + &"]".repeat(n);
        canonical(&nested(MAX_DEPTH), Numbers::Canonical).unwrap();
        canonical(&nested(MAX_DEPTH + 1), Numbers::Any).unwrap_err();
        canonical(&"[".repeat(1_000_000), Numbers::Any).unwrap_err();
        for wrong in [
            "", " ", "{", "[", "{\"a\"}", "{\"a\":}", "[1,]", "{,}", "[1 2]", "\"", "\"\\\"", "\"\\u12\"", "\"\\ud800\"",
            "\"\n\"", "tru", "nul", "1 2", "{a:1}", "\u{a0}1",
        ] {
            canonical(wrong, Numbers::Any).unwrap_err();
        }
        let text = r#" { "b" : [ 1 , true ,false,null, "\u00e9\ud83d\ude00\/\u007f\u0001" ] , "a" : { } , "b2" : 1, "a" : 2 } "#;
        assert_eq!(
            canonical(text, Numbers::Canonical).unwrap(),
            "{\"a\":2,\"b\":[1,true,false,null,\"é😀/\u{7f}\\u0001\"],\"b2\":1}"
        );
    }

    proptest! {
        #[test]
        fn strict_reading_agrees_with_ruma(text in "[-0-9eE.+{}\\[\\]:,\"a\\\\ ]{0,24}") {
            let theirs = serde_json::from_str::<CanonicalJsonValue>(&text).ok().map(|v| v.to_string());
            prop_assert_eq!(canonical(&text, Numbers::Canonical).ok(), theirs);
        }

        #[test]
        fn canonical_text_is_read_back(number in any::<f64>(), int in any::<i128>(), text in any::<String>()) {
            prop_assume!(number.is_finite());
            let value = format!("[{number:e},{int},{}]", serde_json::to_string(&text).unwrap());
            let once = canonical(&value, Numbers::Any).unwrap();
            prop_assert_eq!(canonical(&once, Numbers::Any).unwrap(), once.clone());
            let back: (&RawValue, &RawValue, String) = serde_json::from_str(&once).unwrap();
            let (float, whole): (f64, i128) = (back.0.get().parse().unwrap(), back.1.get().parse().unwrap());
            prop_assert_eq!((float, whole, back.2), (number, int, text));
        }

        #[test]
        fn strings_are_written_as_canonical_json(s in any::<String>()) {
            let mut out = String::new();
            push_str(&mut out, &s);
            prop_assert_eq!(out, serde_json::to_string(&s).unwrap());
        }
    }
}
