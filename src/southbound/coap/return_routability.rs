//! Return routability check: whether a device receives datagrams at the new peer address of its
//! session (RFC 9146 §6).
//!
//! Until an address is validated, the engine sends to it at most three times the bytes received
//! from it, which is enough for acknowledgements but not for a large response. Only when that limit
//! is reached, a CoAP ping (RFC 7252 §4.3) with a random Message ID is sent; its Reset proves that
//! the device received it; so does an acknowledgement of the ping, with or without a response,
//! which is what some devices send. An acknowledgement of another message proves nothing, because
//! those Message IDs are sequential and can be guessed. A Reset with a wrong Message ID invalidates
//! the ping, and so does the acknowledgement of a few other messages. So each ping is worth a few
//! guesses, which succeed with probability 1/65,536.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::proto::dtls::SessionId;

/// Least time between two pings to one device.
const AGAIN: Duration = Duration::from_secs(2);

/// Acknowledgements of other messages that invalidate a ping.
const OTHERS: u8 = 4;

/// The outstanding pings. At most one entry per session.
#[derive(Default)]
pub struct ReturnRoutability {
    asked: HashMap<SessionId, Asked>,
    proven: Vec<SessionId>,
}

struct Asked {
    /// The Message ID of the outstanding ping; `None` if it was invalidated.
    id: Option<u16>,
    /// How many acknowledgements of other messages came meanwhile.
    others: u8,
    at: Instant,
}

impl ReturnRoutability {
    /// The ping to send; `None` if one was sent less than 2 s ago. `id` must be random.
    pub fn ask(&mut self, now: Instant, session: SessionId, id: u16) -> Option<[u8; 4]> {
        if self.asked.get(&session).is_some_and(|asked| now < asked.at + AGAIN) {
            return None;
        }
        self.asked.insert(session, Asked { id: Some(id), others: 0, at: now });
        let [high, low] = id.to_be_bytes();
        Some([0x40, 0, high, low])
    }

    /// Returns whether a message is the answer to the session's ping, which needs no further
    /// handling.
    pub fn take(&mut self, session: SessionId, message: &[u8]) -> bool {
        let Some(asked) = self.asked.get_mut(&session) else { return false };
        let (Some(id), &[first, _, high, low, ..]) = (asked.id, message) else { return false };
        let is_reset = message.len() == 4 && message.starts_with(&[0x70, 0]);
        // Version 1, type ACK.
        if !is_reset && first >> 4 != 0b0110 {
            return false;
        }
        if id != u16::from_be_bytes([high, low]) {
            asked.others += 1;
            if is_reset || asked.others >= OTHERS {
                asked.id = None;
            }
            return false;
        }
        self.asked.remove(&session);
        self.proven.push(session);
        true
    }

    /// Drops the ping of a session that was closed or whose address changed again.
    pub fn forget(&mut self, session: SessionId) {
        self.asked.remove(&session);
        self.proven.retain(|proven| *proven != session);
    }

    /// The next session whose address passed the check.
    pub fn poll(&mut self) -> Option<SessionId> {
        self.proven.pop()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEVICE: SessionId = SessionId(7);

    #[test]
    fn the_reset_of_the_ping_proves_it() {
        let (now, mut checks) = (Instant::now(), ReturnRoutability::default());
        assert!(!checks.take(DEVICE, &[0x70, 0, 0, 1]), "nobody asked");
        assert_eq!(checks.ask(now, DEVICE, 0x1234), Some([0x40, 0, 0x12, 0x34]));
        assert_eq!(checks.ask(now, DEVICE, 1), None, "not again at once");
        assert!(!checks.take(SessionId(8), &[0x70, 0, 0x12, 0x34]), "another device");
        assert!(!checks.take(DEVICE, &[0x50, 0, 0x12, 0x34]), "no answer");
        assert!(checks.take(DEVICE, &[0x70, 0, 0x12, 0x34]));
        assert_eq!((checks.poll(), checks.poll()), (Some(DEVICE), None));
    }

    #[test]
    fn an_acknowledgement_of_the_ping_proves_it_too_and_is_no_guess() {
        for answer in [&[0x60, 0, 0x12, 0x34][..], &[0x64, 0x44, 0x12, 0x34, 1, 2, 3, 4, 0xff, b'x']] {
            let (now, mut checks) = (Instant::now(), ReturnRoutability::default());
            checks.ask(now, DEVICE, 0x1234);
            for other in 1..OTHERS {
                assert!(!checks.take(DEVICE, &[0x60, 0, 0x77, other]), "of another message");
            }
            assert!(checks.take(DEVICE, answer));
            assert_eq!(checks.poll(), Some(DEVICE));
            checks.ask(now, DEVICE, 0x1234);
            for other in 0..OTHERS {
                assert!(!checks.take(DEVICE, &[0x60, 0, 0x77, other]));
            }
            assert!(!checks.take(DEVICE, answer), "too many guesses");
        }
    }

    #[test]
    fn a_wrong_guess_spends_the_ping() {
        let (now, mut checks) = (Instant::now(), ReturnRoutability::default());
        checks.ask(now, DEVICE, 5);
        for id in 0..=255 {
            assert!(!checks.take(DEVICE, &[0x70, 0, 0, id]) || id == 0);
        }
        assert_eq!(checks.poll(), None);
        assert!(checks.ask(now + AGAIN, DEVICE, 6).is_some());
        checks.forget(DEVICE);
        assert!(!checks.take(DEVICE, &[0x70, 0, 0, 6]), "it moved on meanwhile");
    }
}
