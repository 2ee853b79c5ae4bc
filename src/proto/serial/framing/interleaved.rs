//! Messages of another kind that a device sends in the midst of its frames: VE.Direct sends HEX
//! messages (`:7F0ED0071` and LF) between two bytes of a text block, whose checksum does not cover
//! them.
//!
//! Such a message is printable ASCII between a first and a last byte. Anything else, another first
//! byte or more than [`LENGTH_MAX`] bytes show that it is none, or was cut short: then what came of
//! it is data of the frame, whose checksum decides. Between the end of a frame and its checksum
//! ([`Settings::keep`](super::Settings::keep)) none begins, because the checksum can be any byte.

/// Longest such message, in bytes with the first and the last.
pub const LENGTH_MAX: usize = 256;

/// The bytes that such a message begins and ends with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interleaved {
    /// The first; none of the others is like it.
    pub start: u8,
    /// The last.
    pub end: u8,
}

/// What a byte is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// A byte of the frame.
    Data,
    /// One of a message, at least for now.
    Held,
    /// What was held is data, and this byte is to be taken again.
    Broken(Vec<u8>),
}

/// Takes such messages out of a stream.
#[derive(Debug)]
pub(super) struct Filter {
    of: Interleaved,
    /// What came of the present one.
    held: Vec<u8>,
}

impl Filter {
    pub(super) fn new(of: Interleaved) -> Filter {
        Filter { of, held: Vec::new() }
    }

    pub(super) fn take(&mut self, byte: u8) -> Taken {
        if self.held.is_empty() && byte != self.of.start {
            return Taken::Data;
        }
        // The first and the last with nothing between them are no message.
        if byte == self.of.end && self.held.len() > 1 {
            self.held.clear();
            return Taken::Held;
        }
        let is_next =
            byte != self.of.start && matches!(byte, b' '..=b'~') && self.held.len() < LENGTH_MAX - 1;
        if self.held.is_empty() || is_next {
            self.held.push(byte);
            return Taken::Held;
        }
        Taken::Broken(std::mem::take(&mut self.held))
    }

    /// What came of a message is dropped; how many bytes.
    pub(super) fn clear(&mut self) -> usize {
        std::mem::take(&mut self.held).len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What of these bytes is data.
    fn data(bytes: &[u8]) -> Vec<u8> {
        let mut filter = Filter::new(Interleaved { start: b':', end: b'\n' });
        let mut data = Vec::new();
        for byte in bytes {
            loop {
                match filter.take(*byte) {
                    Taken::Data => data.push(*byte),
                    Taken::Held => {}
                    Taken::Broken(held) => {
                        data.extend(held);
                        continue;
                    }
                }
                break;
            }
            assert!(filter.held.len() < LENGTH_MAX);
        }
        data
    }

    #[test]
    fn whole_messages_are_taken_out_wherever_they_stand() {
        assert_eq!(data(b":7F0ED0071\n\r\nV\t1:7F0ED0071\n2\r:451\n\nI\t0"), b"\r\nV\t12\r\nI\t0");
    }

    #[test]
    fn one_that_is_cut_short_or_is_none_is_data() {
        for bytes in [&b":7F0\r\nV\t12"[..], b":7F\x80\nV", b":\nV\t12\n", b":7F0:\nV", b"V\t1:2\r\n"] {
            assert_eq!(data(bytes), bytes);
        }
        // The next one is whole.
        assert_eq!(data(b":7F0:7F0ED0071\nV"), b":7F0V");
    }

    #[test]
    fn one_that_does_not_end_holds_nothing_back_for_ever() {
        let endless = [b":", &[b'7'; 2 * LENGTH_MAX][..], b"\n"].concat();
        assert_eq!(data(&endless), endless);
        let longest = [b":", &[b'7'; LENGTH_MAX - 2][..], b"\n"].concat();
        assert_eq!(data(&longest), b"");
    }
}
