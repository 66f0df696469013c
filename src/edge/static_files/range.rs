//! One range of a file (RFC 9110, "Range Requests").

use std::ops::Range;

/// What a Range header asks for, of something that long.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// Everything: no range, several of them, or a unit we do not know.
    Whole,
    /// These bytes.
    Part(Range<u64>),
    /// Bytes that are not there.
    Outside,
}

/// Reads a Range header's value.
pub(super) fn read(value: &str, length: u64) -> Asked {
    let Some(set) = value.trim().strip_prefix("bytes=") else { return Asked::Whole };
    let Some((first, last)) = set.split_once('-').filter(|_| !set.contains(',')) else { return Asked::Whole };
    let number = |text: &str| text.trim().parse::<u64>().ok();
    let range = match (first.trim().is_empty(), last.trim().is_empty()) {
        (true, true) => return Asked::Whole,
        (true, false) => match number(last) {
            Some(0) => return Asked::Outside,
            Some(n) => length.saturating_sub(n)..length,
            None => return Asked::Whole,
        },
        (false, open) => {
            let Some(first) = number(first) else { return Asked::Whole };
            let end = if open { Some(length) } else { number(last).map(|n| n.saturating_add(1).min(length)) };
            match end {
                Some(_) if first >= length => return Asked::Outside,
                Some(end) if first < end => first..end,
                _ => return Asked::Whole,
            }
        }
    };
    if length == 0 { Asked::Outside } else { Asked::Part(range) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_the_rfc_has_it() {
        for (value, asked) in [
            ("bytes=0-4", Asked::Part(0..5)),
            ("bytes=5-", Asked::Part(5..10)),
            ("bytes=-3", Asked::Part(7..10)),
            ("bytes=-30", Asked::Part(0..10)),
            ("bytes=8-99", Asked::Part(8..10)),
            ("bytes=10-", Asked::Outside),
            ("bytes=-0", Asked::Outside),
            ("bytes=4-2", Asked::Whole),
            ("bytes=0-1,3-4", Asked::Whole),
            ("lines=1-2", Asked::Whole),
            ("bytes=x-", Asked::Whole),
            ("bytes=-", Asked::Whole),
        ] {
            assert_eq!(read(value, 10), asked, "{value}");
        }
        assert_eq!(read("bytes=0-", 0), Asked::Outside);
    }
}
