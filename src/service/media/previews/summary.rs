//! The beginning of a text: whole paragraphs until there is enough to say what it is about, words beyond that.

/// Letters that are enough.
const ENOUGH: usize = 200;
/// Letters that are too many.
const TOO_MANY: usize = 500;

/// The beginning of these paragraphs, an empty line between them; `None` if they say nothing.
pub(super) fn of<T: AsRef<str>>(paragraphs: impl IntoIterator<Item = T>) -> Option<String> {
    let mut summary = String::new();
    let mut length = 0;
    for paragraph in paragraphs {
        let paragraph = in_one_line(paragraph.as_ref());
        if paragraph.is_empty() {
            continue;
        }
        if !summary.is_empty() {
            summary.push_str("\n\n");
            length += 2;
        }
        length += paragraph.chars().count();
        summary.push_str(&paragraph);
        if length >= ENOUGH {
            break;
        }
    }
    if length > TOO_MANY {
        summary = cut(&summary);
    }
    (!summary.is_empty()).then_some(summary)
}

/// A text without its line breaks, and with one space where there were many.
pub(super) fn in_one_line(text: &str) -> String {
    let visible = |c: &char| !c.is_control();
    let mut line = String::with_capacity(text.len());
    for word in text.split_whitespace() {
        if !line.is_empty() {
            line.push(' ');
        }
        line.extend(word.chars().filter(visible));
    }
    line
}

/// Cuts between words, or within one that is too long to be spared.
fn cut(summary: &str) -> String {
    let end = summary.char_indices().nth(TOO_MANY - 1).map_or(summary.len(), |(at, _)| at);
    let begin = summary.get(..end).unwrap_or(summary);
    let whole = begin.rfind(char::is_whitespace).and_then(|at| begin.get(..at)).map(str::trim_end);
    let kept = whole.filter(|whole| whole.chars().count() >= ENOUGH).unwrap_or(begin);
    format!("{kept}…")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn short_texts_stay_as_they_are() {
        assert_eq!(of(["one\n two\tthree", " ", "four"]).unwrap(), "one two three\n\nfour");
        assert_eq!(of(["", " \n"]), None);
        assert_eq!(of::<&str>([]), None);
    }

    #[test]
    fn paragraphs_follow_until_there_is_enough() {
        let paragraph = "word ".repeat(30);
        let summary = of(vec![paragraph.as_str(); 5]).unwrap();
        assert_eq!(summary.split("\n\n").count(), 2);
        assert!(!summary.ends_with('…'));
    }

    #[test]
    fn a_long_paragraph_ends_between_words() {
        let summary = of(["word ".repeat(200)]).unwrap();
        assert!(summary.ends_with("word…") && summary.chars().count() <= TOO_MANY, "{summary}");
    }

    #[test]
    fn an_endless_word_is_cut_and_letters_are_not() {
        let summary = of(["ä€𝄞".repeat(2000)]).unwrap();
        assert_eq!(summary.chars().count(), TOO_MANY);
        let summary = of([format!("short {}", "x".repeat(3000))]).unwrap();
        assert_eq!(summary.chars().count(), TOO_MANY);
    }
}
