//! Splits a byte stream into lines of bounded length. Pure.

/// Collects bytes and returns them line by line; stores at most one line and one read.
#[derive(Debug)]
pub struct Lines {
    buffer: Vec<u8>,
    /// The position up to which there is no line end.
    searched: usize,
    max: usize,
}

/// A line is longer than the limit. The stream cannot be parsed any further: close it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLong;

impl Lines {
    /// Lines of at most `max` bytes without line end.
    pub fn new(max: usize) -> Lines {
        Lines { buffer: Vec::new(), searched: 0, max }
    }

    /// Adds received bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next complete line without its end (`\n` or `\r\n`); `None` if more bytes are needed.
    ///
    /// # Errors
    /// [`TooLong`] as soon as more than `max` bytes came without a line end, and at every later
    /// call.
    pub fn next_line(&mut self) -> Result<Option<Vec<u8>>, TooLong> {
        let Some(end) = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n') else {
            self.searched = self.buffer.len();
            // One more byte for a `\r` whose `\n` has not arrived yet.
            return if self.buffer.len() > self.max + 1 { Err(TooLong) } else { Ok(None) };
        };
        let end = self.searched + end;
        let length = if self.buffer[..end].ends_with(b"\r") { end - 1 } else { end };
        if length > self.max {
            self.searched = 0;
            return Err(TooLong);
        }
        let rest = self.buffer.split_off(end + 1);
        let mut line = std::mem::replace(&mut self.buffer, rest);
        line.truncate(length);
        self.searched = 0;
        Ok(Some(line))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lines_come_out_whole_however_they_came_in() {
        let mut lines = Lines::new(10);
        lines.push(b"ab");
        assert_eq!(lines.next_line(), Ok(None));
        lines.push(b"c\r\n\nx\ny");
        assert_eq!(lines.next_line(), Ok(Some(b"abc".to_vec())));
        assert_eq!(lines.next_line(), Ok(Some(b"".to_vec())));
        assert_eq!(lines.next_line(), Ok(Some(b"x".to_vec())));
        assert_eq!(lines.next_line(), Ok(None));
    }

    #[test]
    fn a_line_of_the_longest_length_passes_and_one_more_byte_does_not() {
        for end in ["\n", "\r\n"] {
            let mut lines = Lines::new(4);
            lines.push(b"abcd");
            assert_eq!(lines.next_line(), Ok(None));
            lines.push(end.as_bytes());
            assert_eq!(lines.next_line(), Ok(Some(b"abcd".to_vec())));
            lines.push(b"abcde");
            lines.push(end.as_bytes());
            assert_eq!(lines.next_line(), Err(TooLong));
            assert_eq!(lines.next_line(), Err(TooLong));
        }
    }

    #[test]
    fn an_endless_line_is_refused_before_it_fills_memory() {
        let mut lines = Lines::new(100);
        let mut held = 0;
        while lines.next_line() == Ok(None) {
            lines.push(&[b'x'; 32]);
            held += 32;
        }
        assert!(held <= 160, "{held}");
    }

    proptest! {
        #[test]
        fn the_cuts_between_reads_do_not_matter(
            text in proptest::collection::vec(prop_oneof![Just(b'\n'), Just(b'\r'), Just(b'a')], 0..60),
            cut in 1usize..7,
        ) {
            let drain = |lines: &mut Lines, out: &mut Vec<_>| loop {
                match lines.next_line() {
                    Ok(Some(line)) => out.push(Ok(line)),
                    Ok(None) => break true,
                    Err(error) => { out.push(Err(error)); break false; }
                }
            };
            let (mut at_once, mut in_parts) = (Vec::new(), Vec::new());
            let mut lines = Lines::new(20);
            lines.push(&text);
            drain(&mut lines, &mut at_once);
            let mut lines = Lines::new(20);
            for part in text.chunks(cut) {
                lines.push(part);
                if !drain(&mut lines, &mut in_parts) {
                    break;
                }
            }
            prop_assert_eq!(at_once, in_parts);
        }
    }
}
