//! A PIN that a token refused is marked on disk and never tried again: tokens lock after a few
//! wrong ones, and a daemon that restarts would try for ever.
//!
//! ```text
//! trying ── written, synced ──> C_Login ──accepted──> the mark goes
//!                                       ──CKR_PIN_INCORRECT──> refused
//! ```
//!
//! | found | token says a wrong PIN was entered | what is done with this PIN |
//! |---|---|---|
//! | nothing, or the mark of another PIN | any | tried |
//! | `refused`, of this PIN | any | never tried |
//! | `trying`, of this PIN: power was cut in between | yes | never tried |
//! | `trying`, of this PIN | no | tried |
//!
//! The mark has no PIN in it but a salted PBKDF2 of it.

use std::num::NonZeroU32;

use aws_lc_rs::pbkdf2;
use serde::{Deserialize, Serialize};

/// A second on a small board is what guessing one PIN may cost.
const ITERATIONS: NonZeroU32 = NonZeroU32::new(100_000).unwrap();
/// Bytes of the salt.
pub const SALT_LENGTH: usize = 16;

/// How far it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Attempt {
    /// C_Login was called, or was about to be.
    Trying,
    /// The token refused it.
    Refused,
}

/// The mark, as it is stored: JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinMark {
    /// How far it came.
    pub attempt: Attempt,
    salt: [u8; SALT_LENGTH],
    sum: [u8; 32],
}

impl PinMark {
    /// The mark of this PIN for this token. It takes some milliseconds.
    pub fn new(attempt: Attempt, salt: [u8; SALT_LENGTH], token: &str, pin: &[u8]) -> PinMark {
        PinMark { attempt, salt, sum: sum(&salt, token, pin) }
    }

    /// Whether it is of this PIN and token.
    pub fn is_of(&self, token: &str, pin: &[u8]) -> bool {
        sum(&self.salt, token, pin) == self.sum
    }

    /// Whether the PIN may be tried. `count_low`: the token says that a wrong one was entered since
    /// the last right one (CKF_USER_PIN_COUNT_LOW).
    pub fn permits(&self, token: &str, pin: &[u8], count_low: bool) -> bool {
        !self.is_of(token, pin) || self.attempt == Attempt::Trying && !count_low
    }
}

fn sum(salt: &[u8], token: &str, pin: &[u8]) -> [u8; 32] {
    let salt = [salt, token.as_bytes()].concat();
    let mut sum = [0; 32];
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, ITERATIONS, &salt, pin, &mut sum);
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_pin_is_never_tried_again_and_another_one_is() {
        let refused = PinMark::new(Attempt::Refused, [1; 16], "token", b"1234");
        for count_low in [false, true] {
            assert!(!refused.permits("token", b"1234", count_low));
            assert!(refused.permits("token", b"1235", count_low));
            assert!(refused.permits("other", b"1234", count_low));
        }
    }

    #[test]
    fn after_a_power_cut_the_token_says_whether_the_pin_was_wrong() {
        let trying = PinMark::new(Attempt::Trying, [1; 16], "token", b"1234");
        assert!(!trying.permits("token", b"1234", true));
        assert!(trying.permits("token", b"1234", false));
    }

    #[test]
    fn what_is_stored_has_no_pin() {
        let text = serde_json::to_string(&PinMark::new(Attempt::Refused, [1; 16], "token", b"1234")).unwrap();
        assert!(!text.contains("1234") && text.contains("refused"), "{text}");
    }
}
