//! Tags and text of a page, one after the other: html5gum's tokenizer with nothing kept but the tag that is being read, and of
//! that only what somebody looks at.

use std::{convert::Infallible, io::Read};

use html5gum::{Emitter, Error, IoReader, State, Tokenizer, naive_next_state};

/// Bytes of a name that is looked at.
const NAME: usize = 32;
/// Bytes of an attribute that is looked at: small images stand in such.
const VALUE: usize = 256 << 10;

/// Who is told of a page.
pub(super) trait Listener {
    /// Which attributes of an element are looked at.
    fn wants(tag: &[u8]) -> &'static [&'static str];
    /// A start tag.
    fn start(&mut self, tag: &Tag);
    /// An end tag.
    fn end(&mut self, name: &[u8]);
    /// A piece of text, which may end within a character.
    fn text(&mut self, piece: &[u8]);
}

/// A start tag.
#[derive(Debug, Default)]
pub(super) struct Tag {
    name: Name,
    is_closed: bool,
    attributes: Vec<(&'static str, String)>,
}

impl Tag {
    /// Its name in lower case; empty for one that is too long to mean anything.
    pub(super) fn name(&self) -> &[u8] {
        self.name.get()
    }

    /// Whether it ends with `/>`.
    pub(super) fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// An attribute that says something.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(n, _)| *n == name).map(|(_, value)| value.as_str())
    }
}

/// Reads a page in UTF-8.
pub(super) fn read<L: Listener>(page: impl Read, listener: &mut L) {
    let tags = Tags {
        listener,
        tag: Tag::default(),
        is_start: false,
        last_start: Name::default(),
        attribute: Name::default(),
        value: Vec::new(),
    };
    // What cannot be read ends the page.
    let _ = Tokenizer::new_with_emitter(IoReader::new(page), tags).finish();
}

/// A name, as far as it can be one that means something.
#[derive(Debug, Default, PartialEq, Eq)]
struct Name {
    bytes: Vec<u8>,
    long: bool,
}

impl Name {
    fn push(&mut self, more: &[u8]) {
        if self.bytes.len() + more.len() > NAME {
            self.long = true;
        } else {
            self.bytes.extend_from_slice(more);
        }
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.long = false;
    }

    fn get(&self) -> &[u8] {
        if self.long { b"" } else { &self.bytes }
    }
}

/// What the tokenizer is at.
struct Tags<'a, L> {
    listener: &'a mut L,
    tag: Tag,
    is_start: bool,
    last_start: Name,
    attribute: Name,
    value: Vec<u8>,
}

impl<L: Listener> Tags<'_, L> {
    fn wanted(&self) -> Option<&'static str> {
        let wants = if self.is_start { L::wants(self.tag.name()) } else { &[] };
        wants.iter().find(|name| name.as_bytes() == self.attribute.get()).copied()
    }

    fn end_attribute(&mut self) {
        if let Some(name) = self.wanted()
            // One that was too long was not kept whole; of two the first counts.
            && self.value.len() < VALUE
            && self.tag.get(name).is_none()
        {
            let value = String::from_utf8_lossy(&self.value).trim().to_owned();
            if !value.is_empty() {
                self.tag.attributes.push((name, value));
            }
        }
        self.value.clear();
        self.attribute.clear();
    }
}

/// Adds as much as there is room for.
pub(super) fn add(to: &mut Vec<u8>, more: &[u8], room: usize) {
    to.extend_from_slice(more.get(..room.saturating_sub(to.len()).min(more.len())).unwrap_or_default());
}

impl<L: Listener> Emitter for Tags<'_, L> {
    type Token = Infallible;

    fn should_emit_errors(&mut self) -> bool {
        false
    }

    fn emit_error(&mut self, _: Error) {}

    fn pop_token(&mut self) -> Option<Infallible> {
        None
    }

    fn set_last_start_tag(&mut self, last_start_tag: Option<&[u8]>) {
        self.last_start.clear();
        self.last_start.push(last_start_tag.unwrap_or_default());
    }

    fn emit_eof(&mut self) {}

    fn emit_string(&mut self, text: &[u8]) {
        self.listener.text(text);
    }

    fn init_start_tag(&mut self) {
        self.tag.name.clear();
        self.tag.attributes.clear();
        self.tag.is_closed = false;
        self.attribute.clear();
        self.value.clear();
        self.is_start = true;
    }

    fn init_end_tag(&mut self) {
        self.init_start_tag();
        self.is_start = false;
    }

    fn push_tag_name(&mut self, name: &[u8]) {
        self.tag.name.push(name);
    }

    fn set_self_closing(&mut self) {
        self.tag.is_closed = true;
    }

    fn init_attribute(&mut self) {
        self.end_attribute();
    }

    fn push_attribute_name(&mut self, name: &[u8]) {
        self.attribute.push(name);
    }

    fn push_attribute_value(&mut self, value: &[u8]) {
        if self.wanted().is_some() {
            add(&mut self.value, value, VALUE);
        }
    }

    fn emit_current_tag(&mut self) -> Option<State> {
        self.end_attribute();
        if !self.is_start {
            self.last_start.clear();
            self.listener.end(self.tag.name());
            return None;
        }
        self.listener.start(&self.tag);
        self.last_start = std::mem::take(&mut self.tag.name);
        naive_next_state(self.last_start.get())
    }

    fn current_is_appropriate_end_tag_token(&mut self) -> bool {
        !self.is_start && !self.tag.name().is_empty() && self.tag.name == self.last_start
    }

    fn init_comment(&mut self) {}
    fn push_comment(&mut self, _: &[u8]) {}
    fn emit_current_comment(&mut self) {}
    fn init_doctype(&mut self) {}
    fn push_doctype_name(&mut self, _: &[u8]) {}
    fn set_force_quirks(&mut self) {}
    fn set_doctype_public_identifier(&mut self, _: &[u8]) {}
    fn set_doctype_system_identifier(&mut self, _: &[u8]) {}
    fn push_doctype_public_identifier(&mut self, _: &[u8]) {}
    fn push_doctype_system_identifier(&mut self, _: &[u8]) {}
    fn emit_current_doctype(&mut self) {}
}
