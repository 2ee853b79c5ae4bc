//! Reassembles handshake messages from fragments in any order (RFC 6347 §4.2.3), within a budget
//! per handshake.

use std::collections::BTreeMap;

use crate::proto::dtls::record::HandshakeFragment;

/// Most bytes of messages kept per handshake.
pub(super) const BUDGET: usize = 16 * 1024;
/// Messages kept ahead of the expected one: a client's flight has four.
const AHEAD: u16 = 4;

/// The reassembly of one handshake.
pub(super) struct Reassembly {
    /// `message_seq` of the next expected message.
    expected: u16,
    left: usize,
    parts: BTreeMap<u16, Part>,
}

struct Part {
    message_type: u8,
    body: Vec<u8>,
    /// One bit per received byte.
    present: Vec<u8>,
    missing: usize,
}

/// A complete message.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Message {
    pub message_type: u8,
    pub sequence: u16,
    pub body: Vec<u8>,
}

/// The handshake exceeds its budget.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct OverBudget;

impl Reassembly {
    pub fn new(expected: u16) -> Reassembly {
        Reassembly { expected, left: BUDGET, parts: BTreeMap::new() }
    }

    /// The next expected `message_seq`.
    pub fn expected(&self) -> u16 {
        self.expected
    }

    /// Adds a fragment. A fragment that contradicts earlier ones, is old or too far ahead is
    /// dropped.
    pub fn insert(&mut self, fragment: &HandshakeFragment<'_>) -> Result<(), OverBudget> {
        if !(self.expected..self.expected.saturating_add(AHEAD)).contains(&fragment.message_sequence) {
            return Ok(());
        }
        let length = fragment.length;
        let part = match self.parts.entry(fragment.message_sequence) {
            std::collections::btree_map::Entry::Occupied(part) => part.into_mut(),
            std::collections::btree_map::Entry::Vacant(place) => {
                self.left = self.left.checked_sub(length).ok_or(OverBudget)?;
                place.insert(Part {
                    message_type: fragment.message_type,
                    body: vec![0; length],
                    present: vec![0; length.div_ceil(8)],
                    missing: length,
                })
            }
        };
        if part.message_type != fragment.message_type || part.body.len() != length {
            return Ok(());
        }
        for (at, byte) in (fragment.offset..).zip(fragment.body) {
            let bit = 1 << (at % 8);
            if part.present[at / 8] & bit == 0 {
                part.present[at / 8] |= bit;
                part.body[at] = *byte;
                part.missing -= 1;
            }
        }
        Ok(())
    }

    /// The next message, if it is complete.
    pub fn next(&mut self) -> Option<Message> {
        let sequence = self.expected;
        let part =
            self.parts.first_entry().filter(|part| *part.key() == sequence && part.get().missing == 0)?;
        let Part { message_type, body, .. } = part.remove();
        self.expected = self.expected.saturating_add(1);
        Some(Message { message_type, sequence, body })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::dtls::handshake_type::CERTIFICATE;

    fn fragment(sequence: u16, length: usize, offset: usize, body: &[u8]) -> HandshakeFragment<'_> {
        HandshakeFragment { message_type: CERTIFICATE, length, message_sequence: sequence, offset, body }
    }

    #[test]
    fn messages_come_out_whole_and_in_order_whatever_came_first() {
        let mut messages = Reassembly::new(2);
        messages.insert(&fragment(3, 0, 0, b"")).unwrap();
        messages.insert(&fragment(2, 6, 4, b"ef")).unwrap();
        messages.insert(&fragment(2, 6, 2, b"cde")).unwrap();
        messages.insert(&fragment(2, 5, 0, b"other")).unwrap();
        assert_eq!(messages.next(), None);
        messages.insert(&fragment(2, 6, 0, b"abX")).unwrap();
        assert_eq!(messages.next().unwrap().body, b"abcdef");
        assert_eq!(messages.next().unwrap().sequence, 3);
        assert_eq!(messages.next(), None);
        messages.insert(&fragment(2, 6, 0, b"abcdef")).unwrap();
        messages.insert(&fragment(8, 1, 0, b"a")).unwrap();
        assert!(messages.parts.is_empty(), "old and far ones are dropped");
    }

    #[test]
    fn a_handshake_has_one_budget() {
        let mut messages = Reassembly::new(0);
        messages.insert(&fragment(0, BUDGET - 10, 0, b"a")).unwrap();
        messages.insert(&fragment(1, 10, 0, b"a")).unwrap();
        assert_eq!(messages.insert(&fragment(2, 1, 0, b"a")), Err(OverBudget));
        assert_eq!(messages.insert(&fragment(0, BUDGET - 10, 1, b"b")), Ok(()));
    }
}
