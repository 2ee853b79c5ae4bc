//! Where a packet ends, before it is parsed.

/// The Will Flag of a CONNECT.
pub(super) const WILL: u8 = 0x04;

/// The first packet in some bytes.
pub(super) enum Frame {
    /// Its length is not known yet.
    Incomplete,
    /// So many bytes, header included.
    Of(usize),
    /// Its length is no variable byte integer.
    Malformed,
}

/// The length of the first packet (MQTT 5.0 §2.1.4).
pub(super) fn frame(bytes: &[u8]) -> Frame {
    let mut length = 0;
    for at in 1..=4 {
        let Some(byte) = bytes.get(at) else { return Frame::Incomplete };
        length |= usize::from(byte & 0x7f) << (7 * (at - 1));
        if byte & 0x80 == 0 {
            return Frame::Of(1 + at + length);
        }
    }
    Frame::Malformed
}

/// The length of a fixed header whose remaining length is well-formed.
pub(super) fn header_length(bytes: &[u8]) -> usize {
    2 + bytes.iter().skip(1).take(3).take_while(|byte| **byte & 0x80 != 0).count()
}
