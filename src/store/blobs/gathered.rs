//! Bytes that gather in memory until the disk gets them, where a disk can take them from: on the border of a block.

/// What a write past the page cache begins and ends on, in memory and on disk: enough for every disk that is sold.
pub(super) const BLOCK: usize = 4096;

/// Room for bytes at first; it grows fourfold as they come, so that a body which stalls holds little more than it sent,
/// and a long one is seldom moved.
const FIRST: usize = 16 * 1024;
const GROWTH: usize = 4;

/// Bytes that came, in one piece.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    buf: Vec<u8>,
    /// Where they begin: what is before only brings them onto the border.
    start: usize,
}

impl Gathered {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.buf.len() - self.start
    }

    /// All of them.
    pub(super) fn bytes(&self) -> &[u8] {
        self.buf.get(self.start..).unwrap_or_default()
    }

    /// Room for so many bytes, of which some are about to come.
    pub(super) fn more(room: usize) -> Self {
        let mut gathered = Self::default();
        gathered.grow(room);
        gathered
    }

    /// Takes as many bytes as there may be, and gives back the others.
    pub(super) fn take<'b>(&mut self, bytes: &'b [u8], most: usize) -> &'b [u8] {
        let (taken, left) = bytes.split_at(bytes.len().min(most.saturating_sub(self.len())));
        let needed = self.len() + taken.len();
        if self.start + needed > self.buf.capacity() {
            self.grow(needed.max(GROWTH * self.len()).clamp(FIRST, most.max(FIRST)));
        }
        self.buf.extend_from_slice(taken);
        left
    }

    fn grow(&mut self, room: usize) {
        let mut buf: Vec<u8> = Vec::with_capacity(room + BLOCK);
        let start = buf.as_ptr().align_offset(BLOCK).min(BLOCK);
        buf.resize(start, 0);
        buf.extend_from_slice(self.bytes());
        *self = Self { buf, start };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_gather_on_the_border_of_a_block_and_no_further_than_they_may() {
        for (piece, most) in [(1, 100), (999, 20_000), (5_000, 1 << 20), (70_000, 100_000), (200_000, 100_000)] {
            let content: Vec<u8> = (0..300_000_u32).map(|n| n.to_le_bytes()[0]).collect();
            let (mut gathered, mut left) = (Gathered::default(), &content[..]);
            while !left.is_empty() && gathered.len() < most {
                let now = left.len().min(piece);
                let not_taken = gathered.take(&left[..now], most).len();
                left = &left[now - not_taken..];
                assert_eq!(gathered.bytes().as_ptr().align_offset(BLOCK), 0);
                assert!(gathered.buf.capacity() <= (GROWTH * gathered.len()).max(FIRST) + BLOCK);
            }
            assert_eq!(gathered.len(), most.min(content.len()));
            assert!(gathered.bytes() == &content[..gathered.len()]);
            assert_eq!(gathered.take(b"more", gathered.len()), b"more");
        }
    }
}
