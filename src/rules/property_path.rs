//! Dot-separated paths to a property (appendices, "Dot-separated property paths"), as filters and push rules name them.

use std::borrow::Cow;

/// The names along a path. A backslash makes a dot or a backslash part of the name, and before anything else stands for
/// itself.
pub(crate) fn names(path: &str) -> impl Iterator<Item = Cow<'_, str>> {
    let mut rest = Some(path);
    std::iter::from_fn(move || {
        let text = rest?;
        let mut escaped = false;
        let mut end = None;
        let mut name: Option<String> = None;
        for (at, c) in text.char_indices() {
            match c {
                '.' if !escaped => {
                    end = Some(at);
                    break;
                }
                '\\' if !escaped => {
                    name.get_or_insert_with(|| text.get(..at).unwrap_or_default().to_owned());
                    escaped = true;
                    continue;
                }
                _ => {}
            }
            if let Some(name) = &mut name {
                if escaped && !matches!(c, '.' | '\\') {
                    name.push('\\');
                }
                name.push(c);
            }
            escaped = false;
        }
        if let Some(name) = name.as_mut().filter(|_| escaped) {
            name.push('\\');
        }
        rest = end.and_then(|at| text.get(at + 1..));
        let plain = text.get(..end.unwrap_or(text.len())).unwrap_or_default();
        Some(name.map_or(Cow::Borrowed(plain), Cow::Owned))
    })
}

#[cfg(test)]
mod tests {
    use super::names;

    #[test]
    fn paths_split_at_bare_dots() {
        let cases: &[(&str, &[&str])] = &[
            ("type", &["type"]),
            ("content.body", &["content", "body"]),
            (r"content.m\.relates_to.rel_type", &["content", "m.relates_to", "rel_type"]),
            (r"content.m\\foo", &["content", r"m\foo"]),
            (r"a\x.b", &[r"a\x", "b"]),
            (r"a\\.b", &[r"a\", "b"]),
            (r"a\", &[r"a\"]),
            ("", &[""]),
            (".", &["", ""]),
            ("a..b", &["a", "", "b"]),
        ];
        for (path, expected) in cases {
            assert_eq!(names(path).collect::<Vec<_>>(), *expected, "{path}");
        }
    }
}
