//! oEmbed: who is asked about an address, and what the answer says (<https://oembed.com>), in JSON or in XML.
//!
//! Sites are lenient about it, so we are: types may be wrong, numbers may be text, the version may be missing.

use std::{collections::HashMap, time::Duration};

use hearth_config::media::previews::OembedEndpoint;
use quick_xml::{Reader, escape::resolve_html5_entity, events::Event};
use serde_json::Value;
use url::Url;

use super::{charset, graph::Graph, page};

/// Fields of an answer in XML, and bytes of one.
const FIELDS: usize = 64;
const FIELD: usize = 64 << 10;

/// What to ask an endpoint about an address.
pub(super) fn question(endpoint: &OembedEndpoint, about: &Url) -> Option<Url> {
    let format = if endpoint.xml { "xml" } else { "json" };
    let mut question = Url::parse(&endpoint.url.replace("{format}", format)).ok()?;
    question.query_pairs_mut().append_pair("url", about.as_str()).append_pair("format", format);
    Some(question)
}

/// What an answer says; `None` if it is none.
pub(super) fn read(bytes: &[u8], content_type: Option<&str>, about: &Url) -> Option<Graph> {
    let fields = Fields::read(bytes, content_type)?;
    if fields.get("version").is_some_and(|v| !matches!(v, "1" | "1.0")) {
        return None;
    }
    let mut graph = Graph::default();
    graph.set("og:url", about.as_str());
    for (field, property) in [("title", "og:title"), ("provider_name", "og:site_name")] {
        if let Some(value) = fields.get(field) {
            // Some escape it once too often.
            graph.set(property, &unescaped(value));
        }
    }
    graph.author = fields.get("author_name").map(str::to_owned);
    graph.lifetime =
        fields.get("cache_age").and_then(|age| age.parse().ok()).filter(|n| *n > 0).map(Duration::from_secs);
    graph.image = fields.get("thumbnail_url").map(str::to_owned);
    match fields.get("type") {
        Some("photo") => graph.image = fields.get("url").map(str::to_owned).or(graph.image),
        Some("link") => graph.set("og:type", "website"),
        Some("rich") => embed(&mut graph, &fields),
        Some("video") => {
            graph.set("og:type", "video.other");
            embed(&mut graph, &fields);
            for (field, property) in [("width", "og:video:width"), ("height", "og:video:height")] {
                if let Some(pixels) = fields.get(field).and_then(|n| n.parse::<u32>().ok()) {
                    graph.properties.insert(property.to_owned(), pixels.into());
                }
            }
        }
        _ => {}
    }
    Some(graph)
}

fn embed(graph: &mut Graph, fields: &Fields) {
    if let Some(html) = fields.get("html") {
        graph.embed(&page::read(html.as_bytes(), Some("text/html; charset=utf-8")));
    }
}

/// A text in which entities of HTML stand.
fn unescaped(text: &str) -> String {
    quick_xml::escape::unescape_with(text, resolve_html5_entity).map_or_else(|_| text.to_owned(), Into::into)
}

/// The fields of an answer, all of them as text.
struct Fields(HashMap<String, String>);

impl Fields {
    fn read(bytes: &[u8], content_type: Option<&str>) -> Option<Self> {
        let text = charset::text(bytes, content_type);
        let text = text.trim_start_matches('\u{feff}').trim_start();
        if text.starts_with('<') { Self::xml(text) } else { Self::json(text) }
    }

    fn json(text: &str) -> Option<Self> {
        let Value::Object(object) = serde_json::from_str(text).ok()? else { return None };
        let text = |value| match value {
            Value::String(text) => Some(text),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        };
        Some(Self(object.into_iter().filter_map(|(name, value)| Some((name, text(value)?))).collect()))
    }

    /// What stands right below the root. Entities that the document makes itself are not resolved.
    fn xml(text: &str) -> Option<Self> {
        let mut reader = Reader::from_str(text);
        let (mut fields, mut depth) = (HashMap::new(), 0_u32);
        let (mut name, mut value) = (String::new(), String::new());
        loop {
            let piece = match reader.read_event().ok()? {
                Event::Start(tag) => {
                    depth += 1;
                    match depth {
                        1 if tag.name().as_ref() != b"oembed" => return None,
                        2 => {
                            name = String::from_utf8_lossy(tag.name().as_ref()).into_owned();
                            value.clear();
                        }
                        _ => {}
                    }
                    continue;
                }
                Event::End(_) => {
                    if depth == 2 && fields.len() < FIELDS {
                        fields.insert(std::mem::take(&mut name), std::mem::take(&mut value));
                    }
                    depth = depth.saturating_sub(1);
                    continue;
                }
                Event::Text(text) => text.decode().ok()?.into_owned(),
                Event::CData(text) => text.decode().ok()?.into_owned(),
                Event::GeneralRef(entity) => match entity.resolve_char_ref() {
                    Ok(Some(c)) => c.to_string(),
                    _ => resolve_html5_entity(&entity.decode().ok()?).unwrap_or_default().to_owned(),
                },
                Event::Eof => break,
                _ => continue,
            };
            if depth == 2 && value.len() + piece.len() <= FIELD {
                value.push_str(&piece);
            }
        }
        (!fields.is_empty()).then_some(Self(fields))
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(|v| v.trim()).filter(|v| !v.is_empty())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn about() -> Url {
        Url::parse("https://a.test/v?x=1&y=2").unwrap()
    }

    fn reads(answer: &str) -> Option<Graph> {
        read(answer.as_bytes(), Some("application/json"), &about())
    }

    #[test]
    fn a_film() {
        let graph = reads(
            &json!({
                "version": "1.0", "type": "video", "title": "A &amp; B", "author_name": "Ada", "provider_name": "Tube",
                "thumbnail_url": "https://i.a.test/1.jpg", "cache_age": "600", "width": 480, "height": "360",
                "html": "<p>About <b>it</b>.<iframe src='https://a.test/e'></iframe><embed src='https://a.test/e'>",
            })
            .to_string(),
        )
        .unwrap();
        let want = json!({
            "og:url": about().as_str(), "og:title": "A & B", "og:site_name": "Tube", "og:type": "video.other",
            "og:video": "https://a.test/e", "og:description": "About it.", "og:video:width": 480, "og:video:height": 360,
        });
        assert_eq!(Value::from(graph.properties), want);
        assert_eq!((graph.author.as_deref(), graph.lifetime), (Some("Ada"), Some(Duration::from_secs(600))));
        assert_eq!(graph.image.as_deref(), Some("https://i.a.test/1.jpg"));
    }

    #[test]
    fn the_same_in_xml() {
        let graph = reads(
            "<?xml version='1.0' encoding='utf-8' standalone='yes'?>\n<oembed><version>1.0</version><type>rich</type>\
             <title>A &amp; &#66; &lt;3</title><html><![CDATA[<p>Long & wide</p>]]></html><cache_age>60</cache_age>\
             <nested><title>no</title></nested><thumbnail_url>/t.png</thumbnail_url></oembed>",
        )
        .unwrap();
        let want = json!({ "og:url": about().as_str(), "og:title": "A & B <3", "og:description": "Long & wide" });
        assert_eq!(Value::from(graph.properties), want);
        assert_eq!((graph.image.as_deref(), graph.lifetime), (Some("/t.png"), Some(Duration::from_secs(60))));
    }

    #[test]
    fn sites_are_lenient() {
        let photo = reads(r#"{"version": 1, "type": "photo", "url": "/p.png", "thumbnail_url": "/t.png"}"#).unwrap();
        assert_eq!(photo.image.as_deref(), Some("/p.png"));
        assert_eq!(reads(r#"{"type": "link", "title": 7}"#).unwrap().properties["og:title"], "7");
        let odd = reads(r#"{"version": 1.0, "type": [], "title": {}, "cache_age": -1, "html": null, "width": "x"}"#);
        assert_eq!((odd.as_ref().unwrap().properties.len(), odd.unwrap().lifetime), (1, None));
        let none = ["", "[]", "null", "{", "<html></html>", "<oembed>", "<oembed></oembed>", r#"{"version": "2.0"}"#];
        for none in none.into_iter().chain([&*"[".repeat(100_000), "<!DOCTYPE x [<!ENTITY a 'b'>]><x>&a;</x>"]) {
            assert_eq!(reads(none), None, "{:.40}", none);
        }
    }

    #[test]
    fn entities_of_a_document_stay_what_they_are() {
        let bomb = "<!DOCTYPE oembed [<!ENTITY a 'aaaaaaaaaa'><!ENTITY b '&a;&a;&a;&a;&a;'>]><oembed><title>x&b;y</title></oembed>";
        assert_eq!(reads(bomb).unwrap().properties["og:title"], "xy");
        let deep = format!("<oembed><a>{}", "<b>".repeat(200_000));
        assert_eq!(reads(&deep), None);
    }

    #[test]
    fn who_is_asked() {
        let at = tempfile::NamedTempFile::new().unwrap();
        let providers = r#"[{"provider_name": "A", "endpoints": [
            {"schemes": ["https://a.test/v*"], "url": "https://a.test/o.{format}?k=1", "formats": ["xml"]},
            {"schemes": ["https://b.test/*"], "url": "https://b.test/o"}]}]"#;
        std::fs::write(at.path(), providers).unwrap();
        let yaml = format!(
            "server_name: a.test\nreport_stats: false\nurl_preview_enabled: true\nurl_preview_ip_range_blacklist: []\n\
             oembed: {{ additional_providers: [{}] }}\n",
            at.path().display()
        );
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("homeserver.yaml");
        std::fs::write(&file, yaml).unwrap();
        let config = hearth_config::Config::load(&[file], hearth_config::Env::default()).unwrap().config;
        let endpoints = config.media.previews.unwrap().oembed;
        let endpoint = endpoints.iter().find(|e| e.answers_for(&about())).unwrap();
        let asked = question(endpoint, &about()).unwrap();
        assert_eq!(asked.as_str(), "https://a.test/o.xml?k=1&url=https%3A%2F%2Fa.test%2Fv%3Fx%3D1%26y%3D2&format=xml");
        let short = Url::parse("https://www.youtube.com/shorts/abc").unwrap();
        let endpoint = endpoints.iter().find(|e| e.answers_for(&short)).unwrap();
        assert!(question(endpoint, &short).unwrap().as_str().starts_with("https://www.youtube.com/oembed?url=https"));
    }

    proptest! {
        #[test]
        fn rubbish_is_read(text in "\\PC{0,200}") {
            let _ = reads(&text);
            let _ = reads(&format!("<oembed>{text}</oembed>"));
            let _ = reads(&format!("<oembed><title>{text}&{text}</title></oembed>"));
        }
    }
}
