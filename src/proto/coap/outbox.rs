//! Datagrams ready to be sent, in one buffer that is reused.

use std::collections::VecDeque;

use super::PeerId;

/// Largest size of the buffer in bytes. A datagram beyond it is dropped, as the network may do; the
/// shell drains the buffer after every round.
const BYTES_MAX: usize = 4 << 20;
/// Capacity that an empty buffer keeps, in bytes.
const BYTES_KEPT: usize = 64 << 10;

#[derive(Debug, Default)]
pub(super) struct Outbox {
    bytes: Vec<u8>,
    /// Offset of the first datagram.
    start: usize,
    lengths: VecDeque<(PeerId, u32)>,
}

impl Outbox {
    /// Writes one datagram with `write`, and keeps it if `keep` returns true for its bytes.
    #[inline]
    pub(super) fn push(
        &mut self,
        peer: PeerId,
        write: impl FnOnce(&mut Vec<u8>),
        keep: impl FnOnce(&[u8]) -> bool,
    ) -> bool {
        let start = self.bytes.len();
        write(&mut self.bytes);
        if self.bytes.len() == start || self.bytes.len() > BYTES_MAX || !keep(&self.bytes[start..]) {
            self.bytes.truncate(start);
            return false;
        }
        self.lengths.push_back((peer, (self.bytes.len() - start) as u32));
        true
    }

    /// Moves the oldest datagram into `buffer`.
    pub(super) fn pop(&mut self, buffer: &mut Vec<u8>) -> Option<PeerId> {
        buffer.clear();
        let (peer, length) = self.lengths.pop_front()?;
        let end = self.start + length as usize;
        buffer.extend_from_slice(&self.bytes[self.start..end]);
        self.start = end;
        if self.lengths.is_empty() {
            self.start = 0;
            self.bytes.clear();
            self.bytes.shrink_to(BYTES_KEPT);
        }
        Some(peer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datagrams_leave_in_order_and_refused_ones_leave_no_trace() {
        let mut outbox = Outbox::default();
        assert!(outbox.push(PeerId(1), |b| b.extend(b"one"), |_| true));
        assert!(!outbox.push(PeerId(2), |b| b.extend(b"two"), |bytes| bytes != b"two"));
        assert!(!outbox.push(PeerId(2), |_| {}, |_| true));
        assert!(outbox.push(PeerId(3), |b| b.extend(b"three"), |_| true));
        let mut buffer = b"old".to_vec();
        assert_eq!((outbox.pop(&mut buffer), &buffer[..]), (Some(PeerId(1)), &b"one"[..]));
        assert_eq!((outbox.pop(&mut buffer), &buffer[..]), (Some(PeerId(3)), &b"three"[..]));
        assert_eq!((outbox.pop(&mut buffer), &buffer[..]), (None, &b""[..]));
    }

    #[test]
    fn what_is_never_fetched_does_not_grow_for_ever() {
        let mut outbox = Outbox::default();
        let kept = (0..100_000).filter(|_| outbox.push(PeerId(1), |b| b.extend([0; 100]), |_| true)).count();
        assert_eq!(kept, BYTES_MAX / 100);
    }
}
