//! The reader of JSON texts: one pass, no recursion, numbers checked and brought into canonical form, not converted.

use super::{Invalid, MAX_INT, Numbers, Object, Value};

/// How deep a text may nest: as deep as JSON readers go elsewhere here.
pub(super) const MAX_DEPTH: usize = 127;
/// How deep a request may nest: an event that is too deep must not make the transaction unreadable that carries it.
pub(super) const MAX_REQUEST_DEPTH: usize = 1000;
/// Digits of an integer: beyond these, the first servers read none (`sys.int_info.default_max_str_digits`).
pub(super) const MAX_DIGITS: usize = 4300;

/// Reads a text that nests so deep at most.
pub(super) fn read(text: &str, deepest: usize, numbers: Numbers) -> Result<Value, Invalid> {
    Reader { text, at: 0, deepest, numbers }.read()
}

/// Reads a text once, from left to right, without calling itself: no depth ends the stack.
struct Reader<'a> {
    text: &'a str,
    at: usize,
    deepest: usize,
    numbers: Numbers,
}

/// A list or an object that has not ended yet.
enum Open {
    Array(Vec<Value>),
    /// With the key whose value comes next.
    Object(Object, String),
}

impl<'a> Reader<'a> {
    fn read(mut self) -> Result<Value, Invalid> {
        let value = self.value()?;
        self.skip_space();
        if self.at == self.text.len() { Ok(value) } else { self.refuse("something stands behind the value") }
    }

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
        let mut open: Vec<Open> = Vec::new();
        loop {
            self.skip_space();
            let first = self.peek();
            if matches!(first, Some(b'{' | b'[')) && open.len() >= self.deepest {
                return self.refuse("it nests too deeply");
            }
            let mut value = match first {
                Some(b'{') => {
                    self.at += 1;
                    if !self.eat(b'}') {
                        open.push(Open::Object(Object::new(), self.key()?));
                        continue;
                    }
                    Value::Object(Object::new())
                }
                Some(b'[') => {
                    self.at += 1;
                    if !self.eat(b']') {
                        open.push(Open::Array(Vec::new()));
                        continue;
                    }
                    Value::Array(Vec::new())
                }
                Some(b'"') => Value::String(self.string()?),
                Some(b'-' | b'0'..=b'9') => Value::Number(self.number()?),
                Some(b't') => self.word("true", Value::Bool(true))?,
                Some(b'f') => self.word("false", Value::Bool(false))?,
                Some(b'n') => self.word("null", Value::Null)?,
                _ => return self.refuse("a value is missing"),
            };
            // It goes where it belongs, which may end that, and so on outwards.
            loop {
                match open.pop() {
                    None => return Ok(value),
                    Some(Open::Array(mut list)) => {
                        list.push(value);
                        if self.eat(b',') {
                            open.push(Open::Array(list));
                            break;
                        }
                        if !self.eat(b']') {
                            return self.refuse("a list does not end");
                        }
                        value = Value::Array(list);
                    }
                    Some(Open::Object(mut object, key)) => {
                        object.insert(key, value);
                        if self.eat(b',') {
                            open.push(Open::Object(object, self.key()?));
                            break;
                        }
                        if !self.eat(b'}') {
                            return self.refuse("an object does not end");
                        }
                        value = Value::Object(object);
                    }
                }
            }
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

    fn key(&mut self) -> Result<String, Invalid> {
        self.skip_space();
        if self.peek() != Some(b'"') {
            return self.refuse("a key is missing");
        }
        let key = self.string()?;
        if self.eat(b':') { Ok(key) } else { self.refuse("a colon is missing") }
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
