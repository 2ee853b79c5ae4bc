//! Echo option values, by which a plain UDP peer proves that it receives at its source address (RFC
//! 9175 §2.3, §2.4 no. 3).
//!
//! A value is an HMAC over the number of the peer, which stands for its address, and the period of
//! time. So no state is kept for it, and a value of another address, of an earlier process or of
//! more than two periods ago is not valid. All requests of a peer in one period get the same value,
//! which §2.3 allows.

use std::fmt;

use aws_lc_rs::hmac;

use super::PeerId;
use super::reliability::Tick;

/// Bytes of a value: 64 bits cannot be guessed, and a short value fits where an unproven peer has
/// little credit.
pub(super) const VALUE: usize = 8;
/// A value is valid for one to two periods.
const PERIOD_TICKS: u32 = 60 * Tick::PER_SECOND;

/// Makes and verifies the values.
pub(super) struct EchoKey(hmac::Key);

impl EchoKey {
    /// A key from an unpredictable secret; values of another key are not valid.
    pub(super) fn new(secret: &[u8; 32]) -> EchoKey {
        EchoKey(hmac::Key::new(hmac::HMAC_SHA256, secret))
    }

    /// The value for a peer at this time.
    pub(super) fn value(&self, now: Tick, peer: PeerId) -> [u8; VALUE] {
        self.sign(now.0 / PERIOD_TICKS, peer)
    }

    /// Whether this is a value for the peer, and not too old.
    pub(super) fn is_valid(&self, now: Tick, peer: PeerId, value: &[u8]) -> bool {
        let period = now.0 / PERIOD_TICKS;
        value.len() == VALUE
            && [Some(period), period.checked_sub(1)].into_iter().flatten().any(|period| {
                aws_lc_rs::constant_time::verify_slices_are_equal(&self.sign(period, peer), value).is_ok()
            })
    }

    fn sign(&self, period: u32, peer: PeerId) -> [u8; VALUE] {
        let mut input = [0; 12];
        input[..4].copy_from_slice(&period.to_be_bytes());
        input[4..].copy_from_slice(&peer.0.to_be_bytes());
        let mut value = [0; VALUE];
        value.copy_from_slice(&hmac::sign(&self.0, &input).as_ref()[..VALUE]);
        value
    }
}

impl fmt::Debug for EchoKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EchoKey")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_valid_for_its_peer_and_for_one_to_two_minutes() {
        let key = EchoKey::new(&[7; 32]);
        let [made, last] = [59, 119].map(|second| Tick(second * Tick::PER_SECOND));
        let value = key.value(made, PeerId(5));
        assert!(key.is_valid(made, PeerId(5), &value) && key.is_valid(last, PeerId(5), &value));
        assert!(!key.is_valid(last.plus(Tick::PER_SECOND), PeerId(5), &value), "too old");
        assert!(!key.is_valid(made, PeerId(6), &value), "of another address");
        assert!(!EchoKey::new(&[8; 32]).is_valid(made, PeerId(5), &value), "of another process");
        for bytes in [&value[..7], &[value, value].concat()[..9], b""] {
            assert!(!key.is_valid(made, PeerId(5), bytes));
        }
        assert_eq!(key.value(Tick(0), PeerId(5)), value, "one a period");
    }
}
