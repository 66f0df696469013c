//! Which type a file is of, and how long it may be kept, by its name.

/// The type by the extension.
pub(super) fn content_type(path: &str) -> &'static str {
    known(path).unwrap_or("application/octet-stream")
}

/// Whether a path looks like that of a file rather than of a place inside an app: there Matrix ids stand in paths, and
/// server names have dots.
pub(super) fn names_a_file(path: &str) -> bool {
    known(path).is_some() && !name(path).contains(':')
}

fn name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or_default()
}

fn known(path: &str) -> Option<&'static str> {
    let (_, extension) = name(path).rsplit_once('.')?;
    Some(match extension.to_ascii_lowercase().as_str() {
        "html" | "htm" => "text/html; charset=utf-8",
        "js" | "mjs" => "text/javascript; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "json" | "map" => "application/json",
        "webmanifest" => "application/manifest+json",
        "wasm" => "application/wasm",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "gif" => "image/gif",
        "webp" => "image/webp",
        "avif" => "image/avif",
        "ico" => "image/x-icon",
        "woff2" => "font/woff2",
        "woff" => "font/woff",
        "ttf" => "font/ttf",
        "otf" => "font/otf",
        "ogg" => "audio/ogg",
        "mp3" => "audio/mpeg",
        "mp4" => "video/mp4",
        "webm" => "video/webm",
        "txt" => "text/plain; charset=utf-8",
        "xml" => "application/xml",
        "pdf" => "application/pdf",
        "zip" => "application/zip",
        "gz" => "application/gzip",
        _ => return None,
    })
}

/// Kept for ever when the name carries a hash of the content, as build tools put them into `bundles` (Element) and
/// `assets` (Vite); asked about each time otherwise, which an ETag makes cheap.
pub(super) fn cache_control(path: &str) -> &'static str {
    let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
    let hashed_folder = folder.split('/').any(|f| f == "bundles") && folder.rsplit('/').next().is_some_and(is_hash);
    let hashed_name = folder.split('/').next_back() == Some("assets")
        && name.rsplit_once('.').is_some_and(|(stem, _)| stem.rsplit(['-', '.']).next().is_some_and(is_hash));
    if hashed_folder || hashed_name { "public, max-age=31536000, immutable" } else { "no-cache" }
}

/// Whether a word looks like a hash: eight or more letters and digits, of both kinds or of both cases.
fn is_hash(word: &str) -> bool {
    let any = |of: fn(&u8) -> bool| word.as_bytes().iter().any(of);
    word.len() >= 8
        && word.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        && (any(u8::is_ascii_digit) || (any(u8::is_ascii_uppercase) && any(u8::is_ascii_lowercase)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_hashed_names_are_kept_for_ever() {
        for kept in
            ["bundles/6c31d4ab26a0f8f1d7c9/bundle.js", "assets/index-BfX9aB3c.js", "admin/assets/a.0f31ab77.css"]
        {
            assert!(cache_control(kept).contains("immutable"), "{kept}");
        }
        for asked in ["index.html", "config.json", "sw.js", "assets/logo.svg", "i18n/en_EN.json", "bundles/x.js"] {
            assert_eq!(cache_control(asked), "no-cache", "{asked}");
        }
    }

    #[test]
    fn types_go_by_the_extension() {
        assert_eq!(content_type("a/b.JS"), "text/javascript; charset=utf-8");
        assert_eq!(content_type("a.b/c"), "application/octet-stream");
    }

    #[test]
    fn a_place_inside_an_app_is_not_a_file_for_its_dots() {
        for place in ["home/!abc:matrix.org", "user/@a:b.zip", "docs/v1.2", "a.js/b", "#x:b.js", ""] {
            assert!(!names_a_file(place), "{place}");
        }
        for file in ["missing.js", "assets/a.b.css", "img/A.PNG", "b.js.map"] {
            assert!(names_a_file(file), "{file}");
        }
    }
}
