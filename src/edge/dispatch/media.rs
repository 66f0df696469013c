//! A second lock on media: apps with users' keys share this origin, so no upload may ever run as a script in it.
//!
//! The homeserver sets these headers itself; here they are put where they are missing.

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{CONTENT_DISPOSITION, CONTENT_SECURITY_POLICY, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS},
};

const POLICY: &str = "sandbox; default-src 'none'; script-src 'none'; plugin-types application/pdf; \
                      style-src 'unsafe-inline'; object-src 'self';";

/// Types that a browser may show in place (spec: client-server API, "Serving inline content").
const INLINE: [&str; 27] = [
    "text/css",
    "text/plain",
    "text/csv",
    "application/json",
    "application/ld+json",
    "image/jpeg",
    "image/gif",
    "image/png",
    "image/apng",
    "image/webp",
    "image/avif",
    "video/mp4",
    "video/webm",
    "video/ogg",
    "video/quicktime",
    "audio/mp4",
    "audio/webm",
    "audio/aac",
    "audio/mpeg",
    "audio/ogg",
    "audio/wave",
    "audio/wav",
    "audio/x-wav",
    "audio/x-pn-wav",
    "audio/flac",
    "audio/x-flac",
    "multipart/mixed",
];

/// Whether a path hands out media.
pub(super) fn is_media(path: &str) -> bool {
    path.starts_with("/_matrix/media/") || path.starts_with("/_matrix/client/v1/media/")
}

/// Sets what is missing, and turns what could run into a download.
pub(super) fn guard(headers: &mut HeaderMap) {
    let mut missing = |name: HeaderName, value: &'static str| {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    };
    missing(X_CONTENT_TYPE_OPTIONS, "nosniff");
    missing(CONTENT_SECURITY_POLICY, POLICY);
    missing(HeaderName::from_static("cross-origin-resource-policy"), "cross-origin");
    let kind = headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let attached = headers.get(CONTENT_DISPOSITION).is_some_and(|v| v.as_bytes().starts_with(b"attachment"));
    if !attached && !kind.is_empty() && !INLINE.contains(&kind.as_str()) {
        headers.insert(CONTENT_DISPOSITION, HeaderValue::from_static("attachment"));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn guarded(kind: &str, disposition: &str) -> String {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, kind.parse().unwrap());
        headers.insert(CONTENT_DISPOSITION, disposition.parse().unwrap());
        guard(&mut headers);
        assert_eq!(headers[X_CONTENT_TYPE_OPTIONS], "nosniff");
        assert!(headers[CONTENT_SECURITY_POLICY].to_str().unwrap().starts_with("sandbox"));
        headers[CONTENT_DISPOSITION].to_str().unwrap().to_owned()
    }

    #[test]
    fn what_could_run_is_only_downloaded() {
        assert_eq!(guarded("text/html; charset=utf-8", "inline"), "attachment");
        assert_eq!(guarded("image/svg+xml", "inline; filename=a.svg"), "attachment");
        assert_eq!(guarded("image/png", "inline"), "inline");
        assert_eq!(guarded("text/html", "attachment; filename=a.html"), "attachment; filename=a.html");
    }
}
