//! The stateless cookie: a client that does not receive at its source address causes no state (RFC
//! 6347 §4.2.1).
//!
//! A hello without a valid cookie is answered with a HelloVerifyRequest, which is shorter than any
//! hello, and not stored. The cookie is an HMAC over the source address, the parts of the hello
//! that must be repeated, and the time; the next hello proves that the client received it.

use std::time::{Duration, Instant};

use aws_lc_rs::hmac;

use super::hello::ClientHello;
use super::peer_address::PeerAddress;
use super::{handshake_type, record};

/// Bytes of a cookie.
pub const COOKIE: usize = 32;
/// Bytes of half a cookie: 128 bits cannot be guessed.
const HALF: usize = COOKIE / 2;
/// Stands for an unseen rest of a hello; a real rest is never empty.
const START: &[u8] = b"";
const UNSEEN: &[u8] = b"?";
/// A cookie is valid for one to two periods.
const PERIOD: Duration = Duration::from_secs(30);
/// Time after which every cookie has expired.
pub const LIFETIME: Duration = Duration::from_secs(60);

/// Makes and verifies cookies.
pub struct CookieKey {
    key: hmac::Key,
    start: Instant,
}

impl CookieKey {
    /// A key from an unpredictable secret; cookies of another key are invalid.
    pub fn new(now: Instant, secret: &[u8; 32]) -> CookieKey {
        CookieKey { key: hmac::Key::new(hmac::HMAC_SHA256, secret), start: now }
    }

    /// The HelloVerifyRequest for a hello without a valid cookie: 60 bytes.
    ///
    /// Deviation: its record number is the `message_seq` of the hello, not the record number of the
    /// hello as in RFC 6347 §4.2.1. The numbers are still unique, and the following handshake,
    /// which does not know this record, continues after it.
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
        let message =
            record::handshake_message(handshake_type::HELLO_VERIFY_REQUEST, message_sequence, &body);
        record::plain_record(record::HANDSHAKE, message_sequence.into(), &message)
    }

    /// The cookie of a hello, if it is valid for this address and hello, and not expired.
    pub fn check(
        &self,
        now: Instant,
        address: &PeerAddress,
        hello: &ClientHello<'_>,
    ) -> Option<[u8; COOKIE]> {
        let cookie: [u8; COOKIE] = hello.cookie.try_into().ok()?;
        self.is_good(now, address, hello.repeated(), &cookie).then_some(cookie)
    }

    /// A cookie in two halves, for a server that accepts fragmented hellos. The first half is bound
    /// to the part before the cookie (version, random, session id), so that the first fragment
    /// proves the address. The second half is also bound to the part after it (suites, compression
    /// methods), unless the hello was fragmented and `rest` was not seen. So a client that sends
    /// its hello unfragmented must repeat all parameters of RFC 6347 §4.2.1.
    pub fn make_halves(
        &self,
        now: Instant,
        address: &PeerAddress,
        start: &[u8],
        rest: Option<&[u8]>,
    ) -> [u8; COOKIE] {
        let period = self.period(now);
        let mut cookie = [0; COOKIE];
        let (first, second) = cookie.split_at_mut(HALF);
        first.copy_from_slice(&self.sign(period, address, [start, START]).as_ref()[..HALF]);
        let bound = [start, rest.unwrap_or(UNSEEN)];
        second.copy_from_slice(&self.sign(period, address, bound).as_ref()[..HALF]);
        cookie
    }

    /// Whether the first half of `cookie` is valid for this address and start, and not expired.
    pub fn is_start_good(&self, now: Instant, address: &PeerAddress, start: &[u8], cookie: &[u8]) -> bool {
        cookie.len() == COOKIE && self.is_good(now, address, [start, START], &cookie[..HALF])
    }

    /// Whether its second half is valid for this `rest`, or was made without a rest.
    pub fn is_rest_good(
        &self,
        now: Instant,
        address: &PeerAddress,
        start: &[u8],
        rest: &[u8],
        cookie: &[u8],
    ) -> bool {
        let second = cookie.get(HALF..).unwrap_or_default();
        [rest, UNSEEN].into_iter().any(|rest| self.is_good(now, address, [start, rest], second))
    }

    fn make(&self, now: Instant, address: &PeerAddress, parts: [&[u8]; 2]) -> [u8; COOKIE] {
        let mut cookie = [0; COOKIE];
        cookie.copy_from_slice(self.sign(self.period(now), address, parts).as_ref());
        cookie
    }

    /// Whether `cookie`, or a half of one, is valid for this address and these parts, and not
    /// expired.
    fn is_good(&self, now: Instant, address: &PeerAddress, parts: [&[u8]; 2], cookie: &[u8]) -> bool {
        let period = self.period(now);
        [period, period.wrapping_sub(1)].into_iter().any(|period| {
            let expected = self.sign(period, address, parts);
            let expected = &expected.as_ref()[..cookie.len().clamp(HALF, COOKIE)];
            aws_lc_rs::constant_time::verify_slices_are_equal(expected, cookie).is_ok()
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
    fn a_cookie_in_halves_binds_what_was_seen() {
        let (now, here, there) = (Instant::now(), address(1), address(2));
        let key = CookieKey::new(now, &[1; 32]);
        let whole = key.make_halves(now, &here, b"start", Some(b"rest"));
        assert!(key.is_start_good(now, &here, b"start", &whole));
        assert!(!key.is_start_good(now, &there, b"start", &whole));
        assert!(!key.is_start_good(now, &here, b"other", &whole));
        assert!(!key.is_start_good(now + LIFETIME, &here, b"start", &whole));
        assert!(!key.is_start_good(now, &here, b"start", &whole[..16]));
        assert!(key.is_rest_good(now, &here, b"start", b"rest", &whole));
        assert!(!key.is_rest_good(now, &here, b"start", b"REST", &whole));
        assert!(!key.is_rest_good(now, &there, b"start", b"rest", &whole));
        assert!(!key.is_rest_good(now, &here, b"start", b"rest", b""));
        let pieces = key.make_halves(now, &here, b"start", None);
        assert!(key.is_rest_good(now, &here, b"start", b"anything", &pieces));
        assert!(!key.is_rest_good(now, &here, b"other", b"anything", &pieces));
        // One half is not valid as the other.
        let turned = [&whole[16..], &whole[..16]].concat();
        assert!(!key.is_start_good(now, &here, b"start", &turned));
        assert!(!key.is_rest_good(now, &here, b"start", b"rest", &turned));
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
