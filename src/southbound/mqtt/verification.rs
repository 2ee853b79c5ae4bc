//! Passwords that are costly to verify: one at a time, off the path's thread, and damped.
//!
//! A password that was right once in this process is recognised by a fast keyed hash and costs
//! nothing again, so known clients never wait behind strangers who guess. Others wait in a queue of
//! at most [`QUEUE_MAX`], of one address at most [`QUEUE_PER_ADDRESS`]. After
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
/// Most of them from one address.
pub const QUEUE_PER_ADDRESS: usize = 4;
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
    /// [`super::Intake::poll_verification`] hands it out.
    Waits,
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
        let of_source = self.waiting.iter().filter(|waiting| waiting.source == source).count();
        if self.waiting.len() >= QUEUE_MAX || of_source >= QUEUE_PER_ADDRESS {
            return Requested::Full;
        }
        self.waiting.push_back(Waiting { source, verification });
        Requested::Waits
    }

    /// Whether an address has to wait, after wrong passwords.
    pub(super) fn is_paused(&self, now: Instant, address: Option<IpAddr>) -> bool {
        let source = network(address);
        self.failures.get(&source).is_some_and(|failures| {
            failures.count >= FREE_FAILURES && now < failures.last + pause(source, failures.count)
        })
    }

    /// A token of this address has a wrong signature.
    pub(super) fn note_wrong(&mut self, now: Instant, address: Option<IpAddr>) {
        self.note_failure(now, network(address));
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
