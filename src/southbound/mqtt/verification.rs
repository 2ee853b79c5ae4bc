//! Passwords that are costly to verify: one at a time, off the path's thread, and damped.
//!
//! A password that was right once in this process is recognised by a fast keyed hash and costs
//! nothing again, so known clients never wait behind strangers who guess. Others wait in a queue of
//! at most [`QUEUE_MAX`] passwords.
//!
//! An *account* here is a device as one network sees it: its address and the device it names.
//!
//! | of an account | |
//! |---|---|
//! | waits | one password; further clients with the same one wait for its verdict too, [`JOINED_MAX`] of them |
//! | after [`FREE_FAILURES`] wrong ones | it has to pause, twice as long after each further one |
//!
//! So nobody is slowed down by what others get wrong, not even behind the same NAT. All places may
//! be those of one address while nobody else wants them: all programs of this machine have one. In
//! a full queue the newest account that had a wrong password gives way to one that had none, and
//! the newest of the address with the most places to one of an address with fewer. Addresses are
//! served in turn, and of each the accounts without a wrong password first.

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
/// Most clients that wait for the verdict on one password.
pub const JOINED_MAX: usize = 8;
/// Wrong passwords of an account before it has to pause.
pub const FREE_FAILURES: u32 = 5;
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(300);
/// The longest pause of programs on this machine: one that guesses keeps the right one out, too.
const PAUSE_MAX_LOCAL: Duration = Duration::from_secs(10);
/// After this time without a wrong password an account is forgotten.
const FORGET_AFTER: Duration = Duration::from_secs(900);
/// Most accounts that are remembered.
const ACCOUNTS_MAX: usize = 4_096;
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

/// The network of an address, and a device that is named from there.
type Account = (Option<IpAddr>, DeviceIndex);

struct Waiting {
    account: Account,
    tag: [u8; 32],
    verification: Verification,
    /// Connections that wait for the same password of the account.
    joined: Vec<u64>,
}

struct Running {
    account: Account,
    login: [u8; 32],
    tag: [u8; 32],
    connections: Vec<u64>,
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
    failures: HashMap<Account, Failures>,
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Requested {
    /// The password is known to be right.
    Right,
    /// [`super::Intake::poll_verification`] hands it out. The connections that gave way for it.
    Waits { displaced: Vec<u64> },
    /// Too many wait.
    Full,
    /// Another password of the account waits, or too many clients wait for this one.
    Occupied,
    /// The account has to pause.
    Paused,
}

/// What is verified of one password.
pub(super) struct Verified {
    /// The connections that wait for it.
    pub(super) connections: Vec<u64>,
    /// The device that they claim to be.
    pub(super) device: DeviceIndex,
    /// The login that it was verified by, which may be another device's or nobody's by now.
    pub(super) credential: Credential,
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
        let is_same = |other: &[u8; 32]| verify_slices_are_equal(other, &tag).is_ok();
        if self.known.get(&verification.device).is_some_and(is_same) {
            return Requested::Right;
        }
        let account = (network(address), verification.device);
        if self.is_paused(now, &account) {
            return Requested::Paused;
        }
        if let Some(running) = &mut self.running
            && running.account == account
            && is_same(&running.tag)
        {
            return join(&mut running.connections, JOINED_MAX, verification.connection);
        }
        if let Some(waiting) = self.waiting.iter_mut().find(|waiting| waiting.account == account) {
            return match is_same(&waiting.tag) {
                true => join(&mut waiting.joined, JOINED_MAX - 1, verification.connection),
                false => Requested::Occupied,
            };
        }
        let mut displaced = Vec::new();
        if self.waiting.len() >= QUEUE_MAX {
            let Some(at) = self.to_displace(&account) else { return Requested::Full };
            if let Some(waiting) = self.waiting.remove(at) {
                displaced.push(waiting.verification.connection);
                displaced.extend(waiting.joined);
            }
        }
        self.waiting.push_back(Waiting { account, tag, verification, joined: Vec::new() });
        Requested::Waits { displaced }
    }

    /// Which of a full queue gives way to one of this account; see the module.
    fn to_displace(&self, account: &Account) -> Option<usize> {
        let has_failed = |account: &Account| self.failures.contains_key(account);
        if !has_failed(account)
            && let Some(at) = self.waiting.iter().rposition(|waiting| has_failed(&waiting.account))
        {
            return Some(at);
        }
        let own = account.0;
        let places =
            |of: Option<IpAddr>| self.waiting.iter().filter(|waiting| waiting.account.0 == of).count();
        let sources = self.waiting.iter().map(|waiting| waiting.account.0);
        let greatest = sources.max_by_key(|of| (places(*of), *of == own))?;
        // It is left with no fewer than the one that asks then has.
        (greatest != own && places(greatest) > places(own) + 1)
            .then(|| self.waiting.iter().rposition(|waiting| waiting.account.0 == greatest))
            .flatten()
    }

    /// Whether an account has to wait, after wrong passwords.
    fn is_paused(&self, now: Instant, account: &Account) -> bool {
        self.failures.get(account).is_some_and(|failures| {
            failures.count >= FREE_FAILURES && now < failures.last + pause(account.0, failures.count)
        })
    }

    /// Whether one waits and none is being verified.
    pub(super) fn is_next(&self) -> bool {
        self.running.is_none() && !self.waiting.is_empty()
    }

    /// Passwords that wait; the one that is being verified does not.
    pub(super) fn waiting_count(&self) -> usize {
        self.waiting.len()
    }

    /// The next one, while none is being verified.
    pub(super) fn poll(&mut self) -> Option<Verification> {
        if self.running.is_some() {
            return None;
        }
        let Waiting { account, tag, verification, joined } = self.waiting.pop_front()?;
        let login = verification.login.fingerprint();
        // The others of its address are behind all others now, and those that failed last.
        let failures = &self.failures;
        self.waiting.make_contiguous().sort_by_key(|waiting| {
            let is_own = waiting.account.0 == account.0;
            (is_own, is_own && failures.contains_key(&waiting.account))
        });
        let connections = std::iter::once(verification.connection).chain(joined).collect();
        self.running = Some(Running { account, login, tag, connections });
        Some(verification)
    }

    /// The one that was handed out is verified.
    pub(super) fn complete(&mut self, now: Instant, right: bool) -> Option<Verified> {
        let Running { account, login, tag, connections } = self.running.take()?;
        let device = account.1;
        if right {
            if self.known.len() < KNOWN_MAX || self.known.contains_key(&device) {
                self.known.insert(device, tag);
            }
            self.failures.remove(&account);
        } else {
            self.note_failure(now, account);
        }
        Some(Verified { connections, device, credential: Credential::Password(login) })
    }

    /// A connection does not wait any more.
    pub(super) fn forget(&mut self, connection: u64) {
        if let Some(running) = &mut self.running {
            running.connections.retain(|other| *other != connection);
        }
        for waiting in &mut self.waiting {
            waiting.joined.retain(|other| *other != connection);
            if waiting.verification.connection == connection && !waiting.joined.is_empty() {
                waiting.verification.connection = waiting.joined.remove(0);
            }
        }
        self.waiting.retain(|waiting| waiting.verification.connection != connection);
    }

    /// Forgets passwords of devices that are gone.
    pub(super) fn review(&mut self, is_there: impl Fn(DeviceIndex) -> bool) {
        self.known.retain(|device, _| is_there(*device));
        self.failures.retain(|(_, device), _| is_there(*device));
    }

    fn note_failure(&mut self, now: Instant, account: Account) {
        if self.failures.len() >= ACCOUNTS_MAX && !self.failures.contains_key(&account) {
            self.failures.retain(|_, failures| now < failures.last + FORGET_AFTER);
            if self.failures.len() >= ACCOUNTS_MAX
                && let Some(oldest) =
                    self.failures.iter().min_by_key(|(_, failures)| failures.last).map(|(of, _)| *of)
            {
                self.failures.remove(&oldest);
            }
        }
        let failures = self.failures.entry(account).or_insert(Failures { count: 0, last: now });
        if now >= failures.last + FORGET_AFTER {
            failures.count = 0;
        }
        (failures.count, failures.last) = (failures.count.saturating_add(1), now);
    }
}

/// One more connection waits for a verdict that is due.
fn join(connections: &mut Vec<u64>, most: usize, connection: u64) -> Requested {
    if connections.len() >= most {
        return Requested::Occupied;
    }
    connections.push(connection);
    Requested::Waits { displaced: Vec::new() }
}

fn pause(source: Option<IpAddr>, count: u32) -> Duration {
    let longest = if source.is_some() { PAUSE_MAX } else { PAUSE_MAX_LOCAL };
    Duration::from_secs(1 << (count - FREE_FAILURES).min(16)).min(longest)
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "virtual time begins somewhere")]
mod tests {
    use super::*;
    use crate::gate::login::PasswordHash;

    const WAITS: Requested = Requested::Waits { displaced: Vec::new() };

    fn gave_way(connection: u64) -> Requested {
        Requested::Waits { displaced: vec![connection] }
    }

    fn with(
        queue: &mut Verifications,
        now: Instant,
        at: u8,
        (device, password): (u32, &str),
        connection: u64,
    ) -> Requested {
        let hash = PasswordHash::of_generated(b"any", [0; 16]);
        let verification = Verification {
            connection,
            device: DeviceIndex::of_slot(device),
            login: Login { username: format!("d{device}"), password: hash },
            password: Zeroizing::new(password.as_bytes().to_vec()),
        };
        queue.request(now, Some(IpAddr::from([192, 0, 2, at])), verification)
    }

    fn ask(queue: &mut Verifications, now: Instant, at: u8, device: u32, connection: u64) -> Requested {
        with(queue, now, at, (device, "any"), connection)
    }

    /// A wrong password of an account that does not have to pause.
    fn fail(queue: &mut Verifications, now: Instant, at: u8, device: u32) {
        assert_eq!(with(queue, now, at, (device, "wrong"), 900), WAITS);
        assert!(queue.poll().is_some());
        queue.complete(now, false);
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
            assert_eq!(ask(&mut queue, now, 1, number as u32, number), WAITS, "{number}");
        }
        assert_eq!(ask(&mut queue, now, 1, 99, 99), Requested::Full);
        assert_eq!(ask(&mut queue, now, 2, 100, 100), gave_way(QUEUE_MAX as u64 - 1));
        let order = served(&mut queue, now);
        assert_eq!((order.len(), &order[..3]), (QUEUE_MAX, &[0, 100, 1][..]));
    }

    #[test]
    fn an_account_has_one_place_however_often_it_asks() {
        let (mut queue, now) = (Verifications::new(&[7; 32]), Instant::now());
        assert_eq!(with(&mut queue, now, 1, (1, "first"), 0), WAITS);
        for number in 1..100 {
            let password = format!("guess {number}");
            assert_eq!(with(&mut queue, now, 1, (1, &password), number), Requested::Occupied);
        }
        assert_eq!((ask(&mut queue, now, 1, 2, 101), queue.waiting_count()), (WAITS, 2));
        // One more may wait while the first is verified.
        assert!(queue.poll().is_some());
        assert_eq!(with(&mut queue, now, 1, (1, "second"), 102), WAITS);
        assert_eq!(with(&mut queue, now, 1, (1, "third"), 103), Requested::Occupied);
    }

    #[test]
    fn clients_with_the_same_password_wait_for_one_verdict() {
        let (mut queue, now) = (Verifications::new(&[7; 32]), Instant::now());
        for number in 0..4 {
            assert_eq!(ask(&mut queue, now, 1, 1, number), WAITS);
        }
        queue.forget(0);
        queue.forget(2);
        assert_eq!(queue.poll().map(|next| next.connection), Some(1));
        assert_eq!(ask(&mut queue, now, 1, 1, 4), WAITS, "while it is verified");
        for number in 5..10 {
            assert_eq!(ask(&mut queue, now, 1, 1, number), WAITS);
        }
        assert_eq!(ask(&mut queue, now, 1, 1, 11), Requested::Occupied);
        queue.forget(3);
        let connections = queue.complete(now, true).expect("it runs").connections;
        assert_eq!(connections, [1, 4, 5, 6, 7, 8, 9]);
        assert_eq!(ask(&mut queue, now, 1, 1, 12), Requested::Right);
    }

    #[test]
    fn wrong_passwords_damp_their_account_at_their_address_and_no_other() {
        let (mut queue, now) = (Verifications::new(&[7; 32]), Instant::now());
        for _ in 0..FREE_FAILURES {
            fail(&mut queue, now, 1, 1);
        }
        assert_eq!(ask(&mut queue, now, 1, 1, 1), Requested::Paused);
        assert_eq!(ask(&mut queue, now, 1, 2, 2), WAITS, "a neighbour behind the same NAT");
        assert_eq!(ask(&mut queue, now, 2, 1, 3), WAITS, "the device from elsewhere");
        served(&mut queue, now);
        // It is right now, and what was wrong before is forgotten.
        let later = now + Duration::from_secs(1);
        assert_eq!(with(&mut queue, later, 1, (1, "changed"), 4), WAITS);
        served(&mut queue, later);
        fail(&mut queue, later, 1, 1);
        assert_eq!(with(&mut queue, later, 1, (1, "x"), 5), WAITS);
    }

    #[test]
    fn accounts_that_had_wrong_passwords_give_way_to_one_that_had_none_and_are_served_after_it() {
        let (mut queue, now) = (Verifications::new(&[7; 32]), Instant::now());
        // Somebody behind a NAT tries as many accounts as there are places.
        (0..QUEUE_MAX as u32).for_each(|device| fail(&mut queue, now, 1, device));
        for number in 0..QUEUE_MAX as u64 {
            assert_eq!(ask(&mut queue, now, 1, number as u32, number), WAITS);
        }
        assert_eq!(ask(&mut queue, now, 1, 99, 99), gave_way(QUEUE_MAX as u64 - 1), "its neighbour");
        assert_eq!(served(&mut queue, now)[..2], [0, 99]);
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

    #[test]
    fn the_accounts_that_are_remembered_are_bounded() {
        let (mut queue, now) = (Verifications::new(&[7; 32]), Instant::now());
        for device in 0..2 * ACCOUNTS_MAX as u32 {
            queue.note_failure(now, (None, DeviceIndex::of_slot(device)));
        }
        assert_eq!(queue.failures.len(), ACCOUNTS_MAX);
        queue.review(|_| false);
        assert!(queue.failures.is_empty());
    }
}
