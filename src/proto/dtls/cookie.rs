//! The stateless cookie: who cannot receive at its address makes us keep nothing (RFC 6347 §4.2.1).
//!
//! A hello without a valid cookie is answered by a HelloVerifyRequest, which is shorter than any
//! hello, and forgotten. The cookie is an HMAC over the sender's address, what it must repeat of
//! its hello, and the time; so only the next hello tells whether the first one's sender was there.

use std::time::{Duration, Instant};

use aws_lc_rs::hmac;

use super::hello::ClientHello;
use super::peer_address::PeerAddress;
use super::{handshake_type, record};

/// Bytes of a cookie.
pub const COOKIE: usize = 32;
/// Bytes of a half of one: 128 bits are enough against guessing.
const HALF: usize = COOKIE / 2;
/// Stand for what comes behind the cookie of a hello; nothing there is so short.
const START: &[u8] = b"";
const UNSEEN: &[u8] = b"?";
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
    /// Its record takes its number from the hello's message, not from the hello's record as RFC
    /// 6347 §4.2.1 has it: the numbers stay as unique, and the handshake that follows, which knows
    /// nothing of this record, counts on behind it. `message_sequence` is the hello's.
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

    /// A cookie in two halves, for a server that takes hellos in pieces: the first half is bound to
    /// what stands before the cookie (version, random, session id) and proves the address as soon
    /// as the first piece has come; the second to what stands behind it as well (suites,
    /// compression methods), or, where the hello came in pieces and `rest` was not seen, to nothing
    /// more. A client that sends its hello whole may therefore change none of RFC 6347 §4.2.1's
    /// parameters when it returns the cookie.
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

    /// Whether the first half of `cookie` is one of ours, for this very peer and start, and not too
    /// old.
    pub fn is_start_good(&self, now: Instant, address: &PeerAddress, start: &[u8], cookie: &[u8]) -> bool {
        cookie.len() == COOKIE && self.is_good(now, address, [start, START], &cookie[..HALF])
    }

    /// Whether its second half was made for this `rest`, or without having seen one.
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

    /// Whether `cookie`, or a half of one, is ours for this very peer and these parts, and not too
    /// old.
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
        // No half stands in for the other.
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
