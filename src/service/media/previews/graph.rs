//! What clients are answered about a page: its OpenGraph properties, or what comes near them, as the specification has it
//! ("URL previews"): text alone, the image apart, since it is to be fetched first.

use std::time::Duration;

use serde_json::{Map, Value};

use super::{
    page::Found,
    summary::{self, in_one_line},
};

/// Letters of a property's name and of its value; longer ones are left out.
const MAX_NAME: usize = 50;
const MAX_VALUE: usize = 1000;
/// Bytes of all values.
const MAX_ALL: usize = 16 << 10;

/// What is known of a page.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Graph {
    /// Its properties.
    pub(super) properties: Map<String, Value>,
    /// Where its image is, as it was written.
    pub(super) image: Option<String>,
    /// Who made it, for what has no title.
    pub(super) author: Option<String>,
    /// How long all this is good, if somebody said so.
    pub(super) lifetime: Option<Duration>,
}

impl Graph {
    /// Sets a property, if it says something and is no longer than it should be.
    pub(super) fn set(&mut self, name: &str, value: &str) {
        self.put(name, in_one_line(value));
    }

    fn put(&mut self, name: &str, value: String) {
        let fits = value.chars().count() <= MAX_VALUE && name.chars().count() <= MAX_NAME;
        let others: usize = self.properties.values().filter_map(Value::as_str).map(str::len).sum();
        if fits && !value.is_empty() && others + value.len() <= MAX_ALL {
            self.properties.insert(name.to_owned(), value.into());
        }
    }

    fn set_summary(&mut self, summary: Option<String>) {
        self.put("og:description", summary.unwrap_or_default());
    }

    fn has(&self, name: &str) -> bool {
        self.properties.contains_key(name)
    }

    /// What a page says of itself.
    pub(super) fn of_page(found: &Found) -> Self {
        let mut graph = Self::default();
        let twitter = found.twitter.iter().filter_map(|(name, value)| Some((as_graph(name)?, value)));
        let said = found.graph.iter().map(|(name, value)| (name.as_str(), value)).chain(twitter);
        for (name, value) in said {
            match name {
                "og:image" | "og:image:url" | "og:image:secure_url" => _ = graph.image.get_or_insert(value.clone()),
                // It is measured when it is here.
                _ if name.starts_with("og:image:") && name != "og:image:alt" => {}
                _ if graph.has(name) => {}
                "og:description" => graph.set_summary(summary::of([value])),
                _ => graph.set(name, value),
            }
        }
        if !graph.has("og:title")
            && let Some(title) = found.titles.iter().flatten().next()
        {
            graph.set("og:title", title);
        }
        if !graph.has("og:description") {
            let said = found.description.as_ref().and_then(|d| summary::of([d]));
            graph.set_summary(said.or_else(|| summary::of(&found.paragraphs)));
        }
        graph.image = graph.image.or_else(|| found.meta_image.clone()).or_else(|| shown(found));
        if graph.image.is_none() {
            graph.image.clone_from(&found.icon);
        }
        graph
    }

    /// What is shown in a piece of HTML that stands for something else.
    pub(super) fn embed(&mut self, found: &Found) {
        if self.image.is_none() {
            self.image = shown(found);
        }
        if let Some(video) = &found.video {
            self.set("og:video", video);
        }
        self.set_summary(summary::of(&found.paragraphs));
    }

    /// The same with what is said more exactly elsewhere.
    pub(super) fn with(mut self, other: Self) -> Self {
        self.properties.extend(other.properties);
        Self {
            properties: self.properties,
            image: other.image.or(self.image),
            author: other.author.or(self.author),
            lifetime: other.lifetime.or(self.lifetime),
        }
    }
}

fn shown(found: &Found) -> Option<String> {
    found.largest.as_ref().map(|(_, src)| src).or(found.first.as_ref()).cloned()
}

/// The property of OpenGraph that says the same as one of a Twitter card.
fn as_graph(twitter: &str) -> Option<&'static str> {
    Some(match twitter {
        "twitter:title" => "og:title",
        "twitter:description" => "og:description",
        "twitter:image" | "twitter:image:src" => "og:image",
        "twitter:image:alt" => "og:image:alt",
        "twitter:url" => "og:url",
        "twitter:site" => "og:site_name",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;
    use crate::media::previews::page;

    fn of(html: &str) -> (Value, Option<String>) {
        let graph = Graph::of_page(&page::read(html.as_bytes(), Some("text/html; charset=utf-8")));
        (graph.properties.into(), graph.image)
    }

    #[test]
    fn a_page_that_says_all() {
        let (graph, image) = of("<title>No</title><meta property=og:title content='The Rock'>\
             <meta property=og:type content=video.movie><meta property=og:url content=http://a.test/x>\
             <meta property=og:image content=a.png><meta property=og:image:width content=12>\
             <meta property=og:image:alt content='A rock'><meta property=og:description content='Big.'><p>No");
        let want = json!({
            "og:title": "The Rock", "og:type": "video.movie", "og:url": "http://a.test/x", "og:image:alt": "A rock",
            "og:description": "Big.",
        });
        assert_eq!((graph, image.as_deref()), (want, Some("a.png")));
    }

    #[test]
    fn cards_stand_in_where_it_says_nothing() {
        let (graph, image) = of("<meta property=og:title content=T><meta name=twitter:title content=No>\
             <meta name=twitter:description content=D><meta name=twitter:image content=t.png>\
             <meta name=twitter:site content=@site><meta name=twitter:card content=summary>");
        let want = json!({ "og:title": "T", "og:description": "D", "og:site_name": "@site" });
        assert_eq!((graph, image.as_deref()), (want, Some("t.png")));
    }

    #[test]
    fn a_page_that_says_nothing_is_looked_at() {
        let (graph, image) = of("<h2>Second</h2><h1>First</h1><img src=i.png><p>Text.<p>More.");
        assert_eq!(graph, json!({ "og:title": "First", "og:description": "Second\n\nFirst\n\nText.\n\nMore." }));
        assert_eq!(image.as_deref(), Some("i.png"));
        let (graph, image) =
            of("<title>T</title><link rel=icon href=i.ico><meta name=Description content='Said.'><p>x");
        assert_eq!(graph, json!({ "og:title": "T", "og:description": "Said." }));
        assert_eq!(image.as_deref(), Some("i.ico"));
        assert_eq!(of(""), (json!({}), None));
    }

    #[test]
    fn what_is_too_long_is_left_out() {
        let long = "x".repeat(MAX_VALUE + 1);
        let (graph, _) = of(&format!(
            "<meta property=og:title content={long}><meta property=og:{long} content=x><meta property=og:ok content=y>\
             <meta property=og:description content='{long}'>"
        ));
        assert_eq!((graph.get("og:title"), &graph["og:ok"]), (None, &json!("y")));
        assert!(graph["og:description"].as_str().unwrap().ends_with('…'));
        assert_eq!(graph.as_object().unwrap().len(), 2);
    }
}
