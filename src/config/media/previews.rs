//! Previews of links: from where pages may be fetched, how much, and whom to ask by oEmbed instead of reading the page.

use std::{borrow::Cow, path::Path};

use ipnet::IpNet;
use serde::Deserialize;
use url::Url;

use crate::{pattern::Pattern, read::At};

/// Previews of links.
#[derive(Clone, Debug)]
pub struct Previews {
    /// Ranges that may not be fetched from.
    pub deny: Vec<IpNet>,
    /// Exceptions.
    pub allow: Vec<IpNet>,
    /// Addresses that are not fetched.
    pub deny_urls: Vec<UrlPattern>,
    /// Largest page or image, bytes.
    pub max_size: u64,
    /// Languages to ask for.
    pub languages: Vec<String>,
    /// Who is asked by oEmbed about which addresses, the first that fits.
    pub oembed: Vec<OembedEndpoint>,
}

/// Patterns for parts of an address; it fits if all of them do.
#[derive(Clone, Debug, Default)]
pub struct UrlPattern {
    parts: Vec<(UrlPart, Pattern)>,
}

/// A part of an address, by the name that it has in Python's `urllib`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum UrlPart {
    Username,
    Password,
    Netloc,
    Hostname,
    Scheme,
    Path,
    Query,
    Port,
}

/// Who answers about some addresses by oEmbed.
#[derive(Clone, Debug)]
pub struct OembedEndpoint {
    /// Whom to ask; `{format}` stands for the format.
    pub url: String,
    /// Whether it answers in XML alone.
    pub xml: bool,
    addresses: Vec<Pattern>,
}

/// Sites whose pages say little to whoever is no browser, and that answer by oEmbed.
const PROVIDERS: &[(&str, &[&str])] = &[
    (
        "https://publish.twitter.com/oembed",
        &[
            "https://twitter.com/*/status/*",
            "https://*.twitter.com/*/status/*",
            "https://x.com/*/status/*",
            "https://*.x.com/*/status/*",
        ],
    ),
    ("https://www.youtube.com/oembed", &["https://youtube.com/shorts/*", "https://*.youtube.com/shorts/*"]),
    ("https://www.tiktok.com/oembed", &["https://www.tiktok.com/*/video/*", "https://vm.tiktok.com/*"]),
    (
        "https://www.reddit.com/oembed",
        &["https://reddit.com/r/*/comments/*/*", "https://www.reddit.com/r/*/comments/*/*"],
    ),
];

impl Previews {
    pub(super) fn read(root: &At<'_>) -> Option<Self> {
        let enabled = root.get("url_preview_enabled");
        let deny = root.get("url_preview_ip_range_blacklist");
        let allow = root.get("url_preview_ip_range_whitelist").nets_and_carriers();
        let mut deny_nets = deny.nets_and_carriers();
        deny_nets.extend(crate::server::nowhere());
        let deny_urls = root.get("url_preview_url_blacklist").each(UrlPattern::read);
        if !enabled.bool() {
            return None;
        }
        if !deny.is_set() {
            enabled.wrong(
                "would let everybody make this server fetch pages inside your own network",
                "set url_preview_ip_range_blacklist to the ranges that may not be fetched, \
                 such as 127.0.0.0/8, 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16, ::1/128, fe80::/10, fc00::/7",
            );
        }
        let mut oembed: Vec<OembedEndpoint> =
            root.get("oembed.additional_providers").each(OembedEndpoint::file).into_iter().flatten().collect();
        if !root.get("oembed.disable_default_providers").bool() {
            oembed.extend(PROVIDERS.iter().filter_map(|(url, schemes)| OembedEndpoint::new(url, false, schemes)));
        }
        Some(Self {
            deny: deny_nets,
            allow,
            deny_urls,
            max_size: root.get("max_spider_size").size(),
            languages: root.get("url_preview_accept_language").strings(),
            oembed,
        })
    }
}

impl UrlPattern {
    fn read(at: &At<'_>) -> Option<Self> {
        let mut parts = Vec::new();
        for (name, at) in at.entries() {
            let Some(part) = UrlPart::named(&name) else {
                let names = "username, password, netloc, hostname, scheme, path, query, port";
                at.wrong("is no part of an address", format!("choose one of: {names}"));
                return None;
            };
            match part.pattern(&at.str()) {
                Ok(pattern) => parts.push((part, pattern)),
                Err(error) => {
                    at.wrong(format!("is not a pattern: {error}"), "");
                    return None;
                }
            }
        }
        Some(Self { parts })
    }

    /// Whether it fits an address. One whose patterns cannot be decided does: it is there to keep others out.
    #[must_use]
    pub fn matches(&self, url: &Url) -> bool {
        self.parts.iter().all(|(part, pattern)| part.of(url).iter().any(|value| pattern.matches_or_gives_up(value)))
    }
}

impl UrlPart {
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "username" => Self::Username,
            "password" => Self::Password,
            "netloc" => Self::Netloc,
            "hostname" => Self::Hostname,
            "scheme" => Self::Scheme,
            "path" => Self::Path,
            "query" => Self::Query,
            "port" => Self::Port,
            _ => return None,
        })
    }

    /// A regular expression if it begins with `^`, else a glob for the whole of it. Names of hosts have no case.
    fn pattern(self, text: &str) -> Result<Pattern, String> {
        let regex = if text.starts_with('^') { text.to_owned() } else { glob(text) };
        let folded = matches!(self, Self::Netloc | Self::Hostname | Self::Scheme);
        Pattern::new(&if folded { format!("(?i){regex}") } else { regex })
    }

    /// What a pattern for this part is held against; a host also without what may stand around it, since it is the same
    /// host.
    fn of(self, url: &Url) -> Vec<Cow<'_, str>> {
        let host = url.host_str().unwrap_or_default();
        let some = |text: &'_ str| if text.is_empty() { Vec::new() } else { vec![Cow::Owned(text.to_owned())] };
        match self {
            Self::Username => some(url.username()),
            Self::Password => some(url.password().unwrap_or_default()),
            Self::Scheme => vec![url.scheme().into()],
            Self::Path => vec![url.path().into()],
            Self::Query => some(url.query().unwrap_or_default()),
            Self::Port => url.port().map(|port| port.to_string().into()).into_iter().collect(),
            Self::Hostname => vec![host.into()],
            Self::Netloc => {
                let place = url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
                let who = match url.password() {
                    Some(password) => format!("{}:{password}@{place}", url.username()),
                    None => format!("{}@{place}", url.username()),
                };
                vec![host.into(), place.into(), who.into()]
            }
        }
    }
}

impl OembedEndpoint {
    /// Those that a file describes, in the form of <https://oembed.com/providers.json>.
    fn file(at: &At<'_>) -> Option<Vec<Self>> {
        #[derive(Deserialize)]
        struct Provider {
            endpoints: Vec<Endpoint>,
        }
        #[derive(Deserialize)]
        struct Endpoint {
            url: String,
            #[serde(default)]
            schemes: Vec<String>,
            formats: Option<Vec<String>>,
        }
        let path = at.path_buf();
        let text = at.read_file(&path)?;
        let providers: Vec<Provider> = match serde_json::from_str(&text) {
            Ok(providers) => providers,
            Err(error) => {
                at.wrong(format!("names {}, which is no list of providers: {error}", path.display()), form(&path));
                return None;
            }
        };
        let endpoints = providers.into_iter().flat_map(|provider| provider.endpoints);
        Some(
            endpoints
                .filter_map(|endpoint| {
                    let speaks = |format: &str| endpoint.formats.as_ref().is_none_or(|f| f.iter().any(|f| f == format));
                    let schemes: Vec<&str> = endpoint.schemes.iter().map(String::as_str).collect();
                    Self::new(&endpoint.url, !speaks("json") && speaks("xml"), &schemes)
                })
                .collect(),
        )
    }

    /// `None` if there is no address on the web that it answers for.
    fn new(url: &str, xml: bool, schemes: &[&str]) -> Option<Self> {
        let asked = Url::parse(&url.replace("{format}", "json")).ok()?;
        let is_web = matches!(asked.scheme(), "http" | "https");
        let addresses: Vec<Pattern> = schemes.iter().filter_map(|scheme| scheme_pattern(scheme)).collect();
        (is_web && !addresses.is_empty()).then(|| Self { url: url.to_owned(), xml, addresses })
    }

    /// Whether it answers for an address.
    #[must_use]
    pub fn answers_for(&self, address: &Url) -> bool {
        self.addresses.iter().any(|pattern| pattern.matches(address.as_str()))
    }
}

fn form(path: &Path) -> String {
    format!("write {} in the form of https://oembed.com/providers.json", path.display())
}

/// `*` in the host stands for one label of it, elsewhere for anything (oEmbed, "Configuration").
fn scheme_pattern(scheme: &str) -> Option<Pattern> {
    let (protocol, rest) = scheme.split_once("://").filter(|(p, _)| matches!(*p, "http" | "https"))?;
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let piece = |text: &str, star: &str| escape(text).replace(r"\*", star);
    let (host, path) = (piece(&host.to_ascii_lowercase(), "[a-z0-9_-]+"), piece(path, ".+"));
    Pattern::new(&format!(r"{protocol}://{host}{path}\z")).ok()
}

/// A glob as Python's `fnmatch` reads it: `*`, `?`, `[abc]` and `[!abc]`, for the whole text.
fn glob(text: &str) -> String {
    let mut regex = String::from("(?s:");
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        match c {
            '*' => regex.push_str(".*"),
            '?' => regex.push('.'),
            '[' => {
                // A bracket that is the first within is one of the signs.
                let skip = usize::from(rest.starts_with('!'));
                let from = skip + usize::from(rest.get(skip..).is_some_and(|r| r.starts_with(']')));
                match rest.get(from..).and_then(|r| r.find(']')) {
                    Some(end) => {
                        let (inside, behind) = (&rest[skip..from + end], &rest[from + end + 1..]);
                        let signs = inside.replace('\\', r"\\").replace('[', r"\[").replace(']', r"\]");
                        let signs = signs.replace('^', r"\^").replace('&', r"\&").replace('~', r"\~");
                        regex.push_str(&format!("[{}{signs}]", if skip == 1 { "^" } else { "" }));
                        rest = behind;
                    }
                    None => regex.push_str(r"\["),
                }
            }
            c => regex.push_str(&escape(c.encode_utf8(&mut [0; 4]))),
        }
    }
    regex.push_str(r")\z");
    regex
}

fn escape(text: &str) -> String {
    text.chars().fold(String::new(), |mut all, c| {
        if r"\.+*?()|[]{}^$#&-~".contains(c) {
            all.push('\\');
        }
        all.push(c);
        all
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn fits(part: UrlPart, pattern: &str, url: &str) -> bool {
        let pattern = UrlPattern { parts: vec![(part, part.pattern(pattern).unwrap())] };
        pattern.matches(&Url::parse(url).unwrap())
    }

    #[test]
    fn globs_fit_a_whole_part_and_expressions_begin_with_a_roof() {
        let path = |pattern, url| fits(UrlPart::Path, pattern, url);
        assert!(path("/private/*", "http://a.test/private/x/y") && !path("/private/*", "http://a.test/x/private/y"));
        assert!(path("/a?c", "http://a.test/abc") && !path("/a?c", "http://a.test/abbc"));
        assert!(path("/[ab]x", "http://a.test/bx") && !path("/[!ab]x", "http://a.test/bx"));
        assert!(path("/[!]a]x", "http://a.test/bx") && path("/[x", "http://a.test/[x"));
        assert!(path("/a.b", "http://a.test/a.b") && !path("/a.b", "http://a.test/axb"));
        assert!(path("^/v[0-9]+$", "http://a.test/v12") && !path("^/v[0-9]+$", "http://a.test/v12x"));
        assert!(path("^(?!/open)", "http://a.test/shut") && !path("^(?!/open)", "http://a.test/open"));
    }

    #[test]
    fn a_host_is_met_however_it_is_written() {
        for url in ["http://Evil.test/", "http://evil.test:8080/", "https://x@evil.test/", "http://x:y@EVIL.test:1/"] {
            assert!(fits(UrlPart::Netloc, "evil.TEST", url), "{url}");
            assert!(fits(UrlPart::Hostname, "^EVIL[.]test$", url), "{url}");
        }
        assert!(!fits(UrlPart::Netloc, "evil.test", "http://not-evil.test/"));
        assert!(fits(UrlPart::Netloc, "*.evil.test", "http://a.evil.test/"));
        assert!(fits(UrlPart::Netloc, r"^[0-9]+\.[0-9]+\.[0-9]+\.[0-9]+$", "http://0x7f000001/"));
    }

    #[test]
    fn a_part_that_is_not_there_fits_nothing() {
        assert!(fits(UrlPart::Username, "*", "http://x@a.test/") && !fits(UrlPart::Username, "*", "http://a.test/"));
        assert!(fits(UrlPart::Port, "80*", "http://a.test:8080/") && !fits(UrlPart::Port, "*", "http://a.test/"));
        assert!(fits(UrlPart::Scheme, "http", "http://a.test/") && !fits(UrlPart::Scheme, "http", "https://a.test/"));
        let both = UrlPattern {
            parts: vec![
                (UrlPart::Scheme, UrlPart::Scheme.pattern("http").unwrap()),
                (UrlPart::Netloc, UrlPart::Netloc.pattern("a.test").unwrap()),
            ],
        };
        assert!(both.matches(&Url::parse("http://a.test/").unwrap()));
        assert!(!both.matches(&Url::parse("https://a.test/").unwrap()));
    }

    #[test]
    fn a_pattern_that_cannot_be_decided_keeps_out() {
        let endless = UrlPart::Path.pattern("^/(a|b|ab)*(?=c)").unwrap();
        let url = Url::parse(&format!("http://a.test/{}", "ab".repeat(60))).unwrap();
        assert!(UrlPattern { parts: vec![(UrlPart::Path, endless)] }.matches(&url));
    }

    #[test]
    fn stars_of_providers_stand_for_labels_and_for_anything() {
        let endpoint = OembedEndpoint::new(
            "https://a.test/oembed.{format}",
            false,
            &["https://*.a.test/v/*", "spotify:*", "http://b.test/*"],
        )
        .unwrap();
        let answers = |url: &str| endpoint.answers_for(&Url::parse(url).unwrap());
        assert!(answers("https://m.a.test/v/1?x=y") && answers("HTTPS://WWW.A.test/v/1") && answers("http://b.test/x"));
        for not in ["https://a.test/v/1", "https://x.y.a.test/v/1", "http://m.a.test/v/1", "https://m.a.test/v/"] {
            assert!(!answers(not), "{not}");
        }
        assert!(!answers("https://evil.test/?https://m.a.test/v/1"));
        assert!(OembedEndpoint::new("https://a.test/", false, &["spotify:*"]).is_none());
        assert!(OembedEndpoint::new("file:///etc", false, &["http://b.test/*"]).is_none());
    }
}
