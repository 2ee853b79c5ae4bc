//! Return routability: whether a device receives at the address its session moved to (RFC 9146 §6).
//!
//! The engine sends to such an address no more than three times what came from it, which is enough
//! for acknowledgements and too little for a large answer. Only then the device is asked: by a CoAP
//! ping (RFC 7252 §4.3) with a random Message ID, whose Reset only somebody can send who got the
//! ping. An acknowledgement of another message of ours would prove nothing, because those are
//! numbered in sequence and so can be guessed. A Reset with the wrong id spends the ping: each
//! guess costs a new one, and hits once in 65,536.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::proto::dtls::SessionId;

/// A device is asked at most so often.
const AGAIN: Duration = Duration::from_secs(2);

/// The devices asked. One entry a session at most.
#[derive(Default)]
pub struct ReturnRoutability {
    asked: HashMap<SessionId, Asked>,
    proven: Vec<SessionId>,
}

struct Asked {
    /// Of the ping that stands; `None`: it is spent.
    id: Option<u16>,
    at: Instant,
}

impl ReturnRoutability {
    /// The ping to send, unless one was sent a moment ago. `id` is random.
    pub fn ask(&mut self, now: Instant, session: SessionId, id: u16) -> Option<[u8; 4]> {
        if self.asked.get(&session).is_some_and(|asked| now < asked.at + AGAIN) {
            return None;
        }
        self.asked.insert(session, Asked { id: Some(id), at: now });
        let [high, low] = id.to_be_bytes();
        Some([0x40, 0, high, low])
    }

    /// Whether a message of a session is a Reset of its ping; then it is dealt with here.
    pub fn take(&mut self, session: SessionId, message: &[u8]) -> bool {
        let Some(asked) = self.asked.get_mut(&session) else { return false };
        let &[0x70, 0, high, low] = message else { return false };
        let Some(id) = asked.id.take() else { return false };
        if id != u16::from_be_bytes([high, low]) {
            return false;
        }
        self.asked.remove(&session);
        self.proven.push(session);
        true
    }

    /// The session moved on, or ended: what it was asked counts no more.
    pub fn forget(&mut self, session: SessionId) {
        self.asked.remove(&session);
        self.proven.retain(|proven| *proven != session);
    }

    /// A session that has shown it.
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
        assert!(!checks.take(DEVICE, &[0x60, 0, 0x12, 0x34]), "no Reset");
        assert!(checks.take(DEVICE, &[0x70, 0, 0x12, 0x34]));
        assert_eq!((checks.poll(), checks.poll()), (Some(DEVICE), None));
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
