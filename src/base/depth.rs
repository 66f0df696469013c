//! How deep JSON may nest that others send and that we hand on.

/// Much of what is sent to us is kept as text and shown to others inside of larger answers; readers that stop somewhere
/// (at 128 levels, many) would lose the whole answer.
const MAX_DEPTH: usize = 100;

/// Whether a JSON text nests deeper than 100 levels. Of what is no JSON it says nothing of use, and ends.
#[must_use]
pub fn nests_too_deep(json: &[u8]) -> bool {
    let (mut depth, mut in_text, mut escaped) = (0_usize, false, false);
    for byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = in_text,
            b'"' => in_text = !in_text,
            _ if in_text => {}
            b'{' | b'[' => {
                depth += 1;
                if depth > MAX_DEPTH {
                    return true;
                }
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brackets_in_texts_do_not_count() {
        let nested = |levels: usize, inner: &str| format!("{}{inner}{}", "[".repeat(levels), "]".repeat(levels));
        assert!(!nests_too_deep(nested(100, "1").as_bytes()) && nests_too_deep(nested(101, "1").as_bytes()));
        assert!(!nests_too_deep(nested(100, "\"[\\\"[\"").as_bytes()));
        assert!(!nests_too_deep("[],".repeat(200).as_bytes()));
    }
}
