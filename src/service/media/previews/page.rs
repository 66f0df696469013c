//! What a page in HTML says of itself: read tag by tag, without a tree, so that neither depth nor length of it costs memory.
//!
//! Of tags few are looked at, of their attributes fewer, of text the beginning is kept; everything that is kept has a bound.
//! What becomes of it is said by `graph.rs`.

use super::{
    charset::Utf8,
    summary::in_one_line,
    tags::{self, Listener, Tag, add},
};

/// Bytes of a title or headline.
const TITLE: usize = 4 << 10;
/// Bytes of all text that is kept, for a description.
const TEXT: usize = 16 << 10;
/// Properties of one kind; a page with more of them is not sincere.
const PROPERTIES: usize = 50;

/// What was found, as it stands there.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// `og:` properties, and what was said first of each.
    pub(super) graph: Vec<(String, String)>,
    /// `twitter:` likewise.
    pub(super) twitter: Vec<(String, String)>,
    /// The title, and the first headline of each of three ranks.
    pub(super) titles: [Option<String>; 4],
    /// `<meta itemprop="image">`.
    pub(super) meta_image: Option<String>,
    /// The largest image that says its size, and its area.
    pub(super) largest: Option<(f64, String)>,
    /// The first image that is not said to be tiny.
    pub(super) first: Option<String>,
    /// The icon of the page.
    pub(super) icon: Option<String>,
    /// `<meta name="description">`.
    pub(super) description: Option<String>,
    /// Where the same is told by oEmbed, in JSON and in XML.
    pub(super) oembed: [Option<String>; 2],
    /// What addresses are relative to.
    pub(super) base: Option<String>,
    /// The first film, for what is embedded.
    pub(super) video: Option<String>,
    /// The beginning of its text.
    pub(super) paragraphs: Vec<String>,
}

/// Elements whose text is not what the page is about, or is no text.
const APART: &[&[u8]] = &[
    b"header",
    b"nav",
    b"aside",
    b"footer",
    b"script",
    b"noscript",
    b"style",
    b"svg",
    b"math",
    b"iframe",
    b"video",
    b"audio",
    b"canvas",
    b"object",
    b"picture",
    b"template",
    b"title",
    b"select",
    b"textarea",
];
/// Elements in which titles, headlines and images are no such.
const FOREIGN: &[&[u8]] = &[b"svg", b"math", b"template"];
/// Elements that stand within a line.
const INLINE: &[&[u8]] = &[
    b"a", b"abbr", b"b", b"bdi", b"bdo", b"big", b"cite", b"code", b"data", b"del", b"dfn", b"em", b"font", b"i",
    b"img", b"ins", b"kbd", b"label", b"mark", b"q", b"s", b"samp", b"small", b"span", b"strike", b"strong", b"sub",
    b"sup", b"time", b"tt", b"u", b"var", b"wbr",
];
/// What titles are in, the best first.
const TITLES: [&[u8]; 4] = [b"title", b"h1", b"h2", b"h3"];

/// Reads a page.
pub(super) fn read(bytes: &[u8], content_type: Option<&str>) -> Found {
    let mut reading = Reading::default();
    tags::read(Utf8::new(bytes, content_type), &mut reading);
    reading.end_title();
    reading.end_line();
    reading.found
}

/// Where in a page we are.
#[derive(Default)]
struct Reading {
    found: Found,
    /// The element apart that we are in, and how many of its name are open.
    apart: Option<(Vec<u8>, u32)>,
    /// The title or headline that we are in, and its text.
    title: Option<(usize, Vec<u8>)>,
    /// The line that is being read.
    line: Vec<u8>,
    /// Bytes of text kept.
    text: usize,
}

impl Listener for Reading {
    fn wants(tag: &[u8]) -> &'static [&'static str] {
        match tag {
            b"meta" => &["property", "name", "itemprop", "content"],
            b"link" => &["rel", "href", "type"],
            b"img" => &["src", "width", "height"],
            b"base" => &["href"],
            b"video" | b"embed" | b"source" => &["src"],
            _ => &[],
        }
    }

    fn start(&mut self, tag: &Tag) {
        match tag.name() {
            b"meta" => self.meta(tag),
            b"link" => self.link(tag),
            b"img" if !self.is_foreign() => self.image(tag),
            b"base" if self.found.base.is_none() => self.found.base = tag.get("href").map(str::to_owned),
            b"video" | b"embed" | b"source" if self.found.video.is_none() => {
                self.found.video = tag.get("src").map(str::to_owned);
            }
            name => {
                if let Some(rank) = TITLES.iter().position(|title| *title == name).filter(|_| !self.is_foreign()) {
                    self.end_title();
                    self.title = self.found.titles.get(rank).is_some_and(Option::is_none).then(|| (rank, Vec::new()));
                }
            }
        }
        self.enter(tag);
    }

    fn end(&mut self, name: &[u8]) {
        match &mut self.apart {
            Some((apart, depth)) if apart == name => {
                *depth -= 1;
                if *depth == 0 {
                    self.apart = None;
                }
            }
            Some(_) => {}
            None if !INLINE.contains(&name) => self.end_line(),
            None => {}
        }
        if TITLES.contains(&name) {
            self.end_title();
        }
    }

    fn text(&mut self, piece: &[u8]) {
        if let Some((_, title)) = &mut self.title {
            add(title, piece, TITLE);
        }
        if self.apart.is_none() {
            add(&mut self.line, piece, TEXT.saturating_sub(self.text));
        }
    }
}

impl Reading {
    fn is_foreign(&self) -> bool {
        self.apart.as_ref().is_some_and(|(name, _)| FOREIGN.contains(&name.as_slice()))
    }

    /// What an element does to the text around it.
    fn enter(&mut self, tag: &Tag) {
        let name = tag.name();
        // An empty element of another language is closed; of this one it would be open.
        let is_empty = tag.is_closed() && FOREIGN.contains(&name);
        match &mut self.apart {
            Some((apart, depth)) => *depth += u32::from(apart == name && !is_empty),
            None if APART.contains(&name) && !is_empty => {
                self.end_line();
                self.apart = Some((name.to_vec(), 1));
            }
            None if name == b"br" => self.text(b" "),
            None if !INLINE.contains(&name) => self.end_line(),
            None => {}
        }
    }

    fn meta(&mut self, tag: &Tag) {
        let Some(content) = tag.get("content") else { return };
        for name in ["property", "name"].into_iter().filter_map(|n| tag.get(n)).map(str::to_ascii_lowercase) {
            let properties = match name.split_once(':') {
                Some(("og", _)) => &mut self.found.graph,
                Some(("twitter", _)) => &mut self.found.twitter,
                _ => {
                    if name == "description" && self.found.description.is_none() && content.len() <= TEXT {
                        self.found.description = Some(content.to_owned());
                    }
                    continue;
                }
            };
            // Images may stand in their addresses.
            let is_image = matches!(name.as_str(), "og:image" | "twitter:image" | "twitter:image:src");
            let fits = is_image || content.len() <= TEXT;
            if fits && properties.len() < PROPERTIES && properties.iter().all(|(n, _)| *n != name) {
                properties.push((name, content.to_owned()));
            }
        }
        if self.found.meta_image.is_none() && tag.get("itemprop").is_some_and(|i| i.eq_ignore_ascii_case("image")) {
            self.found.meta_image = Some(content.to_owned());
        }
    }

    fn link(&mut self, tag: &Tag) {
        let Some(href) = tag.get("href") else { return };
        let sort = tag.get("type").map(str::to_ascii_lowercase).unwrap_or_default();
        let oembed = match sort.as_str() {
            "application/json+oembed" => Some(0),
            "text/xml+oembed" | "application/xml+oembed" => Some(1),
            _ => None,
        };
        if let Some(oembed) = oembed.and_then(|n| self.found.oembed.get_mut(n)) {
            oembed.get_or_insert(href.to_owned());
        } else if self.found.icon.is_none() && tag.get("rel").is_some_and(|r| r.to_ascii_lowercase().contains("icon")) {
            self.found.icon = Some(href.to_owned());
        }
    }

    /// Images of ten pixels and less are there to count visitors.
    fn image(&mut self, tag: &Tag) {
        let Some(src) = tag.get("src") else { return };
        let side = |name| tag.get(name).and_then(|v| v.trim_end_matches("px").parse::<f64>().ok());
        let (width, height) = (side("width"), side("height"));
        if [width, height].into_iter().flatten().any(|side| side <= 10.0) {
            return;
        }
        let area = width.zip(height).map(|(w, h)| w * h).filter(|a| a.is_finite());
        if let Some(area) = area
            && self.found.largest.as_ref().is_none_or(|(largest, _)| area > *largest)
        {
            self.found.largest = Some((area, src.to_owned()));
        }
        if self.found.first.is_none() {
            self.found.first = Some(src.to_owned());
        }
    }

    fn end_title(&mut self) {
        let Some((rank, text)) = self.title.take() else { return };
        let text = in_one_line(&String::from_utf8_lossy(&text));
        if let Some(title) = self.found.titles.get_mut(rank).filter(|_| !text.is_empty()) {
            *title = Some(text);
        }
    }

    fn end_line(&mut self) {
        let line = std::mem::take(&mut self.line);
        if line.iter().any(|b| !b.is_ascii_whitespace()) {
            self.text += line.len();
            self.found.paragraphs.push(String::from_utf8_lossy(&line).into_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn page(html: &str) -> Found {
        read(html.as_bytes(), Some("text/html; charset=utf-8"))
    }

    #[test]
    fn properties_and_what_stands_for_them() {
        let found = page(
            "<html><head><TITLE>A &amp; B</TITLE>\
             <meta property='og:title' content='The &quot;Rock&quot;'><meta property=og:title content=second>\
             <meta name=OG:Type content=video.movie><meta property='og:empty' content=''>\
             <meta name='twitter:card' content=summary /><meta name=description content=' What it is. '>\
             <link rel='shortcut icon' href=/i.ico><link rel=alternate type='application/json+oembed' href='/o?a=1&amp;b=2'>\
             <link type='text/xml+oembed' href=/x><base href='/deep/'><meta itemprop=IMAGE content=/m.png>",
        );
        let pair = |(a, b): (&str, &str)| (a.to_owned(), b.to_owned());
        assert_eq!(found.graph, [("og:title", "The \"Rock\""), ("og:type", "video.movie")].map(pair));
        assert_eq!(found.twitter, [("twitter:card", "summary")].map(pair));
        assert_eq!(found.titles[0].as_deref(), Some("A & B"));
        assert_eq!(found.description.as_deref(), Some("What it is."));
        assert_eq!((found.icon.as_deref(), found.base.as_deref()), (Some("/i.ico"), Some("/deep/")));
        assert_eq!(found.oembed.map(Option::unwrap), ["/o?a=1&b=2", "/x"]);
        assert_eq!(found.meta_image.as_deref(), Some("/m.png"));
    }

    #[test]
    fn text_is_what_the_page_is_about() {
        let found = page(
            "<head><style>p { }</style><script>if (a < b) document.write('<p>no</p>')</script></head><body>\
             <header><h1>Head</h1>no<header>no</header>no</header><nav>no</nav><!-- no --><noscript>no</noscript>\
             <p>One <b>bo</b>ld<br>line &lt;3</p><svg/><svg><title>no</title><svg/><text>no</text></svg>\
             <div>Two<picture>no<img src=p.png></picture>Three</div><footer>no</footer>Four",
        );
        let lines: Vec<String> = found.paragraphs.iter().map(|p| in_one_line(p)).collect();
        assert_eq!(lines, ["One bold line <3", "Two", "Three", "Four"]);
        assert_eq!(found.titles.map(Option::unwrap_or_default), ["", "Head", "", ""]);
        assert_eq!(found.first.as_deref(), Some("p.png"));
    }

    #[test]
    fn the_largest_image_is_the_image() {
        let found = page(
            "<img src=dot.png width=1 height=1><img src=first.png><img src=small.png width=20 height=20px>\
             <img src=large.png width=300 height=200><img src=bad.png width=100% height=1e400><img width=900 height=900>\
             <svg><img src=no.png width=999 height=999></svg><noscript><img src=no.png width=999 height=999></noscript>",
        );
        assert_eq!(found.largest, Some((60_000.0, "large.png".to_owned())));
        assert_eq!(found.first.as_deref(), Some("first.png"));
    }

    #[test]
    fn what_is_kept_of_a_hostile_page_is_bounded() {
        let found = page(&"<div>".repeat(500_000));
        assert!(found.paragraphs.is_empty());
        let found = page(&format!("<p {}>x", "a=b ".repeat(500_000)));
        assert_eq!(found.paragraphs, ["x"]);
        let many: String = (0..10_000).map(|n| format!("<meta property=og:{n} content=x>")).collect();
        assert_eq!(page(&many).graph.len(), PROPERTIES);
        let long = "x".repeat(2 << 20);
        let found = page(&format!(
            "<meta property=og:image content={long}><meta property=og:title content={long}><{long} {long}={long}>\
             <title>{long}</title><p>{long}</p><img src={long}><br{long}><!--{long}--></{long}>"
        ));
        assert!(found.graph.is_empty() && found.first.is_none());
        assert_eq!(found.titles[0].as_ref().unwrap().len(), TITLE);
        assert_eq!(found.paragraphs.iter().map(String::len).sum::<usize>(), TEXT);
        let found = page(&"<br>".repeat(1_000_000));
        assert!(found.paragraphs.is_empty());
        let found = page(&"a<p>".repeat(1_000_000));
        assert_eq!(found.paragraphs.len(), TEXT);
        assert!(page("<nav>").paragraphs.is_empty() && page("</nav></nav>x").paragraphs == ["x"]);
    }

    proptest! {
        #[test]
        fn rubbish_is_read(bytes: Vec<u8>, label in "[ -~]{0,20}") {
            read(&bytes, Some(&format!("text/html; charset={label}")));
        }

        #[test]
        fn broken_tags_are_read(parts in proptest::collection::vec(prop_oneof![
            Just("<"), Just(">"), Just("</"), Just("/>"), Just("<!--"), Just("-->"), Just("<![CDATA["), Just("]]>"),
            Just("<script>"), Just("</script"), Just("<title"), Just("</title>"), Just("<svg"), Just("<!doctype"),
            Just("&amp"), Just("&#x"), Just("&#99999999999;"), Just("=\""), Just("'"), Just(" content"), Just("<meta"),
            Just(" property=og:x"), Just("x"), Just("\0"), Just("ä"),
        ], 0..60)) {
            read(parts.concat().as_bytes(), None);
        }
    }
}
