//! A restored session must not accept replayed records: it requires a proof that its peer is
//! present.
//!
//! It is unknown which records were received before the process ended: the file may be old, or
//! restored from a backup. So a restored session first passes on no data. Its next authentic record
//! is answered with a CoAP ping (RFC 7252 §4.3: an empty Confirmable message, which every endpoint
//! must answer with a Reset) with a random Message ID. The matching Reset, in a new record, was
//! made after the ping and so after the start. Two such proofs, together 32 bits, are required.
//! After that, only records newer than the second Reset are accepted. Earlier data are lost; the
//! sender repeats a Confirmable request.
//!
//! A record that does not match only uses up its number, and the Message IDs stay the same, so each
//! recorded Reset succeeds with probability 1/65,536, which is needed twice.

use super::amplification::AMPLIFICATION;
use super::chance::Chance;
use crate::proto::dtls::peer_address::PeerAddress;

/// Bytes of a ping.
pub(super) const PING: usize = 4;
/// Required proofs.
const PROOFS: usize = 2;
/// Most pings in answer to records that are not the newest. The peer's own new records are always
/// the newest, even if recorded ones are replayed, and always answered.
const PINGS_MAX: u8 = 32;

/// The state of the proof for a restored session.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Doubt {
    ids: [u16; PROOFS],
    proven: usize,
    asked: bool,
    /// Pings in answer to records that were not the newest.
    spent: u8,
    /// The last source address other than the session's, and the bytes that may be sent to it.
    elsewhere: Option<(PeerAddress, usize)>,
}

/// The action for a record's content.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Send this ping.
    Ping([u8; PING]),
    /// The peer is present. Only records newer than this one are accepted.
    Proven,
    /// Do nothing.
    Silent,
}

impl Doubt {
    pub fn new(chance: &mut Chance) -> Doubt {
        let ids = chance.array::<{ 2 * PROOFS }>();
        let id = |at: usize| u16::from_be_bytes([ids[2 * at], ids[2 * at + 1]]);
        Doubt { ids: [id(0), id(1)], proven: 0, asked: false, spent: 0, elsewhere: None }
    }

    /// An authentic record of `received` bytes came from another address than the session's.
    /// Whether an answer may be sent there; if so, counts it.
    pub fn affords(&mut self, address: PeerAddress, received: usize, answer: usize) -> bool {
        let before = self.elsewhere.filter(|(other, _)| *other == address).map_or(0, |(_, credit)| credit);
        let credit = before.saturating_add(AMPLIFICATION * received);
        let left = credit.checked_sub(answer);
        self.elsewhere = Some((address, left.unwrap_or(credit)));
        left.is_some()
    }

    /// Evaluates the content of an authentic record; `newest`: whether it is the newest so far.
    pub fn judge(&mut self, plaintext: &[u8], newest: bool) -> Verdict {
        // Version 1, Reset, no token, code 0.00 (RFC 7252 §3).
        if let [0x70, 0, high, low] = *plaintext
            && self.asked
            && self.ids[self.proven] == u16::from_be_bytes([high, low])
        {
            self.proven += 1;
            if self.proven == PROOFS {
                return Verdict::Proven;
            }
        }
        if !newest {
            if self.spent == PINGS_MAX {
                return Verdict::Silent;
            }
            self.spent += 1;
        }
        self.asked = true;
        let [high, low] = self.ids[self.proven].to_be_bytes();
        Verdict::Ping([0x40, 0, high, low])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_resets_in_answer_to_two_pings_prove_it() {
        let mut doubt = Doubt::new(&mut Chance::new(&[1; 32], b""));
        let mut judge = |plaintext: &[u8]| doubt.judge(plaintext, true);
        let Verdict::Ping(one) = judge(b"\x40\x02\0\0") else { panic!() };
        assert_eq!(judge(b"\x40\x02\0\0"), Verdict::Ping(one), "the same id, or tries would add up");
        assert_eq!(judge(&[0x70, 0, one[2] ^ 1, one[3]]), Verdict::Ping(one));
        let Verdict::Ping(two) = judge(&[0x70, 0, one[2], one[3]]) else { panic!() };
        assert_ne!(one, two);
        assert_eq!(judge(&[0x70, 0, two[2], two[3]]), Verdict::Proven);
    }

    #[test]
    fn old_records_are_not_answered_for_ever_and_new_ones_are() {
        let mut doubt = Doubt::new(&mut Chance::new(&[1; 32], b""));
        let pings = (0..1_000).filter(|_| doubt.judge(b"x", false) != Verdict::Silent).count();
        assert_eq!(pings, usize::from(PINGS_MAX));
        assert!((0..1_000).all(|_| doubt.judge(b"x", true) != Verdict::Silent));
    }
}
