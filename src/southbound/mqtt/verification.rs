//! Passwords that are costly to verify: one at a time, off the path's thread, and damped.
//!
//! A password that was right once in this process is recognised by a fast keyed hash and costs
//! nothing again, so known clients never wait behind strangers who guess. Others wait in a queue of
//! at most [`QUEUE_MAX`], which one address may fill while nobody else wants it: all programs of
//! this machine, or those behind a NAT, have one address. In a full queue the newest of the address
//! with the most places gives way to one of an address with fewer, and within one address so do
//! accounts. Addresses are served in turn, and so are the accounts of each. After
//! [`FREE_FAILURES`] wrong ones an address has to pause, twice as long after each further one. A
//! wrong password counts against the address that sent it, never against the device it named.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hmac;
use zeroize::Zeroizing;

use super::admission::network;
use super::credential::Credential;
use crate::gate::login::Login;
use crate::gate::stage::DeviceIndex;

/// Most passwords that wait to be verified.
pub const QUEUE_MAX: usize = 32;
/// Wrong passwords of an address before it has to pause.
pub const FREE_FAILURES: u32 = 5;
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(300);
/// The longest pause of programs on this machine, which have one address together.
const PAUSE_MAX_LOCAL: Duration = Duration::from_secs(10);
/// After this time without a wrong password an address is forgotten.
const FORGET_AFTER: Duration = Duration::from_secs(900);
/// Most addresses that are remembered.
const ADDRESSES_MAX: usize = 1_024;
/// Most passwords that are recognised.
const KNOWN_MAX: usize = 65_536;

/// A password to be verified, off the path's thread.
pub struct Verification {
    /// The connection that waits.
    pub connection: u64,
    /// The device it claims to be.
    pub device: DeviceIndex,
    /// Its user name and the hash of its password.
    pub login: Login,
    /// The password to be verified.
    pub password: Zeroizing<Vec<u8>>,
}

struct Waiting {
    source: Option<IpAddr>,
    verification: Verification,
}

struct Running {
    connection: u64,
    source: Option<IpAddr>,
    device: DeviceIndex,
    login: [u8; 32],
    tag: [u8; 32],
}

struct Failures {
    count: u32,
    last: Instant,
}

/// The queue, and what is remembered.
pub(super) struct Verifications {
    key: hmac::Key,
    known: HashMap<DeviceIndex, [u8; 32]>,
    waiting: VecDeque<Waiting>,
    /// The one that is being verified.
    running: Option<Running>,
    failures: HashMap<Option<IpAddr>, Failures>,
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Requested {
    /// The password is known to be right.
    Right,
    /// [`super::Intake::poll_verification`] hands it out. The connection that gave way for it, if
    /// one did.
    Waits { displaced: Option<u64> },
    /// Too many wait.
    Full,
    /// The address has to pause.
    Paused,
}

impl Verifications {
    pub(super) fn new(seed: &[u8; 32]) -> Verifications {
        Verifications {
            key: hmac::Key::new(hmac::HMAC_SHA256, seed),
            known: HashMap::new(),
            waiting: VecDeque::new(),
            running: None,
            failures: HashMap::new(),
        }
    }

    /// Of a password, with the hash that it was verified by: of a device that gets another one the
    /// password of before is not recognised.
    fn tag(&self, login: &[u8; 32], password: &[u8]) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(login);
        context.update(password);
        let mut tag = [0; 32];
        tag.copy_from_slice(context.sign().as_ref());
        tag
    }

    /// A client claims to be a device.
    pub(super) fn request(
        &mut self,
        now: Instant,
        address: Option<IpAddr>,
        verification: Verification,
    ) -> Requested {
        let tag = self.tag(&verification.login.fingerprint(), &verification.password);
        if self
            .known
            .get(&verification.device)
            .is_some_and(|known| verify_slices_are_equal(known, &tag).is_ok())
        {
            return Requested::Right;
        }
        let source = network(address);
        if self.is_paused(now, address) {
            return Requested::Paused;
        }
        let mut displaced = None;
        if self.waiting.len() >= QUEUE_MAX {
            let Some(at) = self.to_displace(source, verification.device) else { return Requested::Full };
            displaced = self.waiting.remove(at).map(|waiting| waiting.verification.connection);
        }
        self.waiting.push_back(Waiting { source, verification });
        Requested::Waits { displaced }
    }

    /// Which of a full queue gives way to one of this address and device: the newest of whoever has
    /// the most places, if that leaves him no fewer than the one who asks then has.
    fn to_displace(&self, source: Option<IpAddr>, device: DeviceIndex) -> Option<usize> {
        let places = |of: Option<IpAddr>, account: Option<DeviceIndex>| {
            let is_of = |waiting: &&Waiting| {
                waiting.source == of && account.is_none_or(|account| waiting.verification.device == account)
            };
            self.waiting.iter().filter(is_of).count()
        };
        let greatest = self.waiting.iter().map(|waiting| waiting.source);
        let greatest = greatest.max_by_key(|of| (places(*of, None), *of == source))?;
        let own = (source, Some(device));
        let is_own = greatest == source;
        if !is_own && places(greatest, None) <= places(source, None) + 1 {
            return None;
        }
        let accounts = self.waiting.iter().filter(|waiting| waiting.source == greatest);
        let accounts = accounts.map(|waiting| waiting.verification.device);
        let account = accounts.max_by_key(|account| places(greatest, Some(*account)))?;
        if is_own && places(greatest, Some(account)) <= places(own.0, own.1) + 1 {
            return None;
        }
        self.waiting
            .iter()
            .rposition(|waiting| waiting.source == greatest && waiting.verification.device == account)
    }

    /// Whether an address has to wait, after wrong passwords.
    fn is_paused(&self, now: Instant, address: Option<IpAddr>) -> bool {
        let source = network(address);
        self.failures.get(&source).is_some_and(|failures| {
            failures.count >= FREE_FAILURES && now < failures.last + pause(source, failures.count)
        })
    }

    /// Whether one waits and none is being verified.
    pub(super) fn is_next(&self) -> bool {
        self.running.is_none() && !self.waiting.is_empty()
    }

    /// The next one, while none is being verified.
    pub(super) fn poll(&mut self) -> Option<Verification> {
        if self.running.is_some() {
            return None;
        }
        let Waiting { source, verification } = self.waiting.pop_front()?;
        let login = verification.login.fingerprint();
        let tag = self.tag(&login, &verification.password);
        let Verification { connection, device, .. } = verification;
        // The others of its address are behind all others now, and those of its account last.
        self.waiting.make_contiguous().sort_by_key(|waiting| {
            (waiting.source == source, waiting.source == source && waiting.verification.device == device)
        });
        self.running = Some(Running { connection, source, device, login, tag });
        Some(verification)
    }

    /// The one that was handed out is verified. Returns the connection that waits for it, its
    /// device and the login that it was verified by, which may be another device's or nobody's by
    /// now.
    pub(super) fn complete(&mut self, now: Instant, right: bool) -> Option<(u64, DeviceIndex, Credential)> {
        let Running { connection, source, device, login, tag } = self.running.take()?;
        if right {
            if self.known.len() < KNOWN_MAX || self.known.contains_key(&device) {
                self.known.insert(device, tag);
            }
        } else {
            self.note_failure(now, source);
        }
        Some((connection, device, Credential::Password(login)))
    }

    /// A connection does not wait any more.
    pub(super) fn forget(&mut self, connection: u64) {
        self.waiting.retain(|waiting| waiting.verification.connection != connection);
    }

    /// Forgets passwords of devices that are gone.
    pub(super) fn review(&mut self, is_there: impl Fn(DeviceIndex) -> bool) {
        self.known.retain(|device, _| is_there(*device));
    }

    fn note_failure(&mut self, now: Instant, source: Option<IpAddr>) {
        if self.failures.len() >= ADDRESSES_MAX && !self.failures.contains_key(&source) {
            self.failures.retain(|_, failures| now < failures.last + FORGET_AFTER);
            if self.failures.len() >= ADDRESSES_MAX
                && let Some(oldest) =
                    self.failures.iter().min_by_key(|(_, failures)| failures.last).map(|(source, _)| *source)
            {
                self.failures.remove(&oldest);
            }
        }
        let failures = self.failures.entry(source).or_insert(Failures { count: 0, last: now });
        if now >= failures.last + FORGET_AFTER {
            failures.count = 0;
        }
        (failures.count, failures.last) = (failures.count.saturating_add(1), now);
    }
}

fn pause(source: Option<IpAddr>, count: u32) -> Duration {
    let longest = if source.is_some() { PAUSE_MAX } else { PAUSE_MAX_LOCAL };
    Duration::from_secs(1 << (count - FREE_FAILURES).min(16)).min(longest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::login::PasswordHash;

    fn ask(queue: &mut Verifications, now: Instant, at: u8, device: u32, connection: u64) -> Requested {
        let password = PasswordHash::of_generated(b"any", [0; 16]);
        let verification = Verification {
            connection,
            device: DeviceIndex::of_slot(device),
            login: Login { username: format!("d{device}"), password },
            password: Zeroizing::new(b"any".to_vec()),
        };
        queue.request(now, Some(IpAddr::from([192, 0, 2, at])), verification)
    }

    fn served(queue: &mut Verifications, now: Instant) -> Vec<u64> {
        let mut served = Vec::new();
        while let Some(next) = queue.poll() {
            served.push(next.connection);
            queue.complete(now, true);
        }
        served
    }

    #[test]
    fn one_address_may_have_all_places_and_gives_way_to_another_which_is_served_in_turn() {
        let (mut queue, now) = (Verifications::new(&[7; 32]), Instant::now());
        for number in 0..QUEUE_MAX as u64 {
            let asked = ask(&mut queue, now, 1, number as u32, number);
            assert_eq!(asked, Requested::Waits { displaced: None }, "{number}");
        }
        assert_eq!(ask(&mut queue, now, 1, 99, 99), Requested::Full);
        let asked = ask(&mut queue, now, 2, 100, 100);
        assert_eq!(asked, Requested::Waits { displaced: Some(QUEUE_MAX as u64 - 1) });
        let order = served(&mut queue, now);
        assert_eq!((order.len(), &order[..3]), (QUEUE_MAX, &[0, 100, 1][..]));
    }

    #[test]
    fn who_guesses_at_one_account_of_an_address_gives_way_to_the_other_accounts_there() {
        let (mut queue, now) = (Verifications::new(&[7; 32]), Instant::now());
        for number in 0..QUEUE_MAX as u64 {
            assert_eq!(ask(&mut queue, now, 1, 1, number), Requested::Waits { displaced: None });
        }
        assert_eq!(ask(&mut queue, now, 1, 1, 50), Requested::Full);
        let asked = ask(&mut queue, now, 1, 2, 51);
        assert_eq!(asked, Requested::Waits { displaced: Some(QUEUE_MAX as u64 - 1) });
        assert_eq!(served(&mut queue, now)[..2], [0, 51]);
    }

    #[test]
    fn two_who_share_the_queue_evenly_do_not_displace_each_other() {
        let (mut queue, now) = (Verifications::new(&[7; 32]), Instant::now());
        for number in 0..QUEUE_MAX as u64 {
            ask(&mut queue, now, (number % 2) as u8, number as u32, number);
        }
        assert_eq!(ask(&mut queue, now, 0, 90, 90), Requested::Full);
        assert_eq!(ask(&mut queue, now, 1, 91, 91), Requested::Full);
    }
}
