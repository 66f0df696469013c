//! Glob patterns of push rules (appendices, "Glob-style matching"): `*` for any characters, `?` for one, without regard
//! to case. Whole values, and words within a text. Time grows with text × pattern at worst, whatever the pattern.

/// A longer pattern (in bytes) is never looked for in texts.
const MAX_WORD_PATTERN: usize = 512;

/// Whether a whole value matches.
#[must_use]
pub fn matches(value: &str, pattern: &str) -> bool {
    if value.is_ascii() && pattern.is_ascii() && !has_wildcards(pattern) {
        return value.eq_ignore_ascii_case(pattern);
    }
    let value: Vec<char> = value.to_lowercase().chars().collect();
    let pattern: Vec<char> = pattern.to_lowercase().chars().collect();
    let (mut v, mut p) = (0, 0);
    // Where the last `*` stood, and how far the value had come when it took nothing.
    let mut star: Option<(usize, usize)> = None;
    while let Some(c) = value.get(v) {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, v));
                p += 1;
            }
            Some(wanted) if *wanted == '?' || wanted == c => {
                v += 1;
                p += 1;
            }
            _ => {
                let Some((at, taken)) = star else { return false };
                star = Some((at, taken + 1));
                p = at + 1;
                v = taken + 1;
            }
        }
    }
    pattern.iter().skip(p).all(|c| *c == '*')
}

/// Whether a pattern matches a part of `text` (in lower case already) that starts and ends at a word boundary.
pub(super) fn matches_word(text: &str, pattern: &str) -> bool {
    let pattern = pattern.to_lowercase();
    if has_wildcards(&pattern) { glob_word(text, &pattern) } else { literal_word(text, &pattern) }
}

/// Whether a word or phrase, both in lower case, stands in a text between word boundaries.
pub(super) fn literal_word(text: &str, word: &str) -> bool {
    if word.is_empty() || word.len() > MAX_WORD_PATTERN {
        return false;
    }
    let mut from = 0;
    while let Some(found) = text.get(from..).and_then(|rest| rest.find(word)) {
        let start = from + found;
        if is_boundary(text, start) && is_boundary(text, start + word.len()) {
            return true;
        }
        from = start + text.get(start..).and_then(|rest| rest.chars().next()).map_or(1, char::len_utf8);
    }
    false
}

/// Walks the text once, keeping every place of the pattern that some start could have reached.
fn glob_word(text: &str, pattern: &str) -> bool {
    if pattern.len() > MAX_WORD_PATTERN {
        return false;
    }
    let pattern: Vec<char> = pattern.chars().collect();
    let end = pattern.len();
    let mut reached = vec![false; end + 1];
    let places = text.char_indices().map(|(at, c)| (at, Some(c))).chain([(text.len(), None)]);
    for (at, c) in places {
        let boundary = is_boundary(text, at);
        if let Some(first) = reached.first_mut() {
            *first |= boundary;
        }
        // A `*` may take nothing.
        for (n, wanted) in pattern.iter().enumerate() {
            if *wanted == '*' && reached.get(n) == Some(&true) {
                set(&mut reached, n + 1);
            }
        }
        if boundary && reached.get(end) == Some(&true) {
            return true;
        }
        let Some(c) = c else { break };
        let mut next = vec![false; end + 1];
        for (n, wanted) in pattern.iter().enumerate().filter(|(n, _)| reached.get(*n) == Some(&true)) {
            if *wanted == '*' {
                set(&mut next, n);
            } else if *wanted == '?' || *wanted == c {
                set(&mut next, n + 1);
            }
        }
        reached = next;
    }
    false
}

fn set(places: &mut [bool], at: usize) {
    if let Some(place) = places.get_mut(at) {
        *place = true;
    }
}

fn has_wildcards(pattern: &str) -> bool {
    pattern.contains(['*', '?'])
}

/// Whether a place in a text is not inside a word: at either end, or with a character beside it that is not of a word.
fn is_boundary(text: &str, at: usize) -> bool {
    let is_word = |byte: Option<&u8>| byte.is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'_');
    let bytes = text.as_bytes();
    !(is_word(at.checked_sub(1).and_then(|before| bytes.get(before))) && is_word(bytes.get(at)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_values() {
        for (value, pattern, verdict) in [
            ("Lunch plans", "lunc?*", true),
            ("LUNCH", "lunc?*", true),
            (" lunch", "lunc?*", false),
            ("lunc", "lunc?*", false),
            ("", "", true),
            ("", "*", true),
            ("", "?", false),
            ("x", "", false),
            ("a😀b", "a?b", true),
            ("abcabd", "*ab?", true),
            ("aaa", "a*a*a*a", false),
            ("Straße", "STRASSE", false),
            ("ÄÖ", "äö", true),
            ("a\nb", "a*b", true),
        ] {
            assert_eq!(matches(value, pattern), verdict, "{value:?} {pattern:?}");
        }
    }

    #[test]
    fn words_in_texts() {
        for (text, pattern, verdict) in [
            ("An example event.", "ex*ple", true),
            ("exple", "ex*ple", true),
            ("An exciting triple-whammy", "ex*ple", true),
            ("exciting tripleplay", "ex*ple", false),
            ("it is cake time", "Cake", true),
            ("cakes", "cake", false),
            ("pancake", "cake", false),
            ("pancake cake", "cake", true),
            ("cake!", "cake", true),
            ("_cake", "cake", false),
            ("écake", "cake", true),
            ("a😀", "😀", true),
            ("foo", "", false),
            ("foo bar", "foo bar", true),
            ("foobar", "foo*", true),
            ("xfoo", "foo*", false),
            ("xfoo", "*foo", true),
            ("a b c", "?", true),
            ("aa", "a?", true),
            ("ananas", "ana", false),
            ("", "*", true),
        ] {
            assert_eq!(matches_word(&text.to_lowercase(), pattern), verdict, "{text:?} {pattern:?}");
        }
        assert!(!matches_word("aaaa", &"*a".repeat(300)));
    }

    #[test]
    fn hostile_patterns_take_no_time() {
        let text = "a".repeat(20_000);
        assert!(!matches(&text, &format!("{}b", "a*".repeat(40))));
        assert!(!matches_word(&text, "*a*a*a*a*a*b"));
        assert!(!matches_word(&format!("x{text}"), &"a".repeat(500)));
        assert!(!matches_word(&"a".repeat(600), &"a".repeat(600)));
    }
}
