//! The stateless cookie: who cannot receive at its address makes us keep nothing (RFC 6347 §4.2.1).
//!
//! A hello without a valid cookie is answered by a HelloVerifyRequest, which is shorter than any
//! hello, and forgotten. The cookie is an HMAC over the sender's address, what it must repeat of its
//! hello, and the time; so only the next hello tells whether the first one's sender was there.

use std::time::{Duration, Instant};

use aws_lc_rs::hmac;

use super::hello::ClientHello;
use super::record;
use super::registry::PeerAddress;

/// Bytes of a cookie.
pub const COOKIE: usize = 32;
/// A cookie is good for one to two of these.
const PERIOD: Duration = Duration::from_secs(30);
/// After so long every cookie has expired.
pub const LIFETIME: Duration = Duration::from_secs(60);

/// Makes cookies and knows them again.
pub struct CookieKey {
    key: hmac::Key,
    start: Instant,
}

impl CookieKey {
    /// With a secret that nobody can guess; cookies of another are invalid.
    pub fn new(now: Instant, secret: &[u8; 32]) -> CookieKey {
        CookieKey { key: hmac::Key::new(hmac::HMAC_SHA256, secret), start: now }
    }

    /// The answer to a hello without a valid cookie: 60 bytes.
    ///
    /// Its record takes its number from the hello's message, not from the hello's record as RFC 6347
    /// §4.2.1 has it: the numbers stay as unique, and the handshake that follows, which knows nothing
    /// of this record, counts on behind it. `message_sequence` is the hello's.
    pub fn hello_verify_request(
        &self,
        now: Instant,
        address: &PeerAddress,
        hello: &ClientHello<'_>,
        message_sequence: u16,
    ) -> Vec<u8> {
        let mut body = record::VERSION_1_0.to_be_bytes().to_vec();
        body.push(COOKIE as u8);
        body.extend(self.make(now, address, hello.repeated()));
        let message = record::handshake_message(record::HELLO_VERIFY_REQUEST, message_sequence, &body);
        record::plain_record(record::HANDSHAKE, message_sequence.into(), &message)
    }

    /// The cookie of a hello, if it is one of ours, for this very peer and hello, and not too old.
    pub fn check(
        &self,
        now: Instant,
        address: &PeerAddress,
        hello: &ClientHello<'_>,
    ) -> Option<[u8; COOKIE]> {
        let cookie: [u8; COOKIE] = hello.cookie.try_into().ok()?;
        self.is_good(now, address, hello.repeated(), &cookie).then_some(cookie)
    }

    /// A cookie for `parts` of a hello, in which a client may not differ when it returns it.
    pub fn make(&self, now: Instant, address: &PeerAddress, parts: [&[u8]; 2]) -> [u8; COOKIE] {
        let mut cookie = [0; COOKIE];
        cookie.copy_from_slice(self.sign(self.period(now), address, parts).as_ref());
        cookie
    }

    /// Whether `cookie` is one of ours, for this very peer and these parts, and not too old.
    pub fn is_good(&self, now: Instant, address: &PeerAddress, parts: [&[u8]; 2], cookie: &[u8]) -> bool {
        let period = self.period(now);
        [period, period.wrapping_sub(1)].into_iter().any(|period| {
            let expected = self.sign(period, address, parts);
            aws_lc_rs::constant_time::verify_slices_are_equal(expected.as_ref(), cookie).is_ok()
        })
    }

    fn period(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.start).as_secs() / PERIOD.as_secs()
    }

    fn sign(&self, period: u64, address: &PeerAddress, parts: [&[u8]; 2]) -> hmac::Tag {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(&period.to_be_bytes());
        context.update(&address.to_bytes());
        for part in parts {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        context.sign()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::Route;

    fn body(random: u8, cookie: &[u8]) -> Vec<u8> {
        let mut body = vec![0xfe, 0xfd];
        body.extend([random; 32]);
        body.push(0);
        body.push(cookie.len() as u8);
        body.extend(cookie);
        body.extend([0, 2, 0xc0, 0xa8, 1, 0]);
        body
    }

    fn address(port: u16) -> PeerAddress {
        PeerAddress::from(&Route { remote: ([192, 0, 2, 1], port).into(), local: None, socket: 0 })
    }

    #[test]
    fn a_cookie_is_good_for_its_address_its_hello_and_its_time() {
        let now = Instant::now();
        let key = CookieKey::new(now, &[1; 32]);
        let first = body(5, &[]);
        let answer = key.hello_verify_request(now, &address(1), &ClientHello::parse(&first).unwrap(), 0);
        assert_eq!(answer.len(), 60);
        assert!(answer.len() < first.len() + record::HEADER + record::HANDSHAKE_HEADER);
        let second = body(5, &answer[28..]);
        let good = ClientHello::parse(&second).unwrap();
        let secs = Duration::from_secs;
        assert!(key.check(now, &address(1), &good).is_some());
        assert!(key.check(now + secs(59), &address(1), &good).is_some());
        assert_eq!(key.check(now + LIFETIME, &address(1), &good), None);
        assert_eq!(key.check(now, &address(2), &good), None);
        assert_eq!(CookieKey::new(now, &[2; 32]).check(now, &address(1), &good), None);
        let other = body(6, &answer[28..]);
        assert_eq!(key.check(now, &address(1), &ClientHello::parse(&other).unwrap()), None);
        for wrong in [&answer[28..59], &[0; 32], &[]] {
            let wrong = body(5, wrong);
            assert_eq!(key.check(now, &address(1), &ClientHello::parse(&wrong).unwrap()), None);
        }
    }
}
