//! How many wrong signatures of tokens are verified: each costs the path's thread up to a
//! millisecond.
//!
//! A signature cannot be guessed, so nobody is kept out for wrong ones: they only have a budget.
//! Each device, as one network sees it (its *account*), has [`BURST`] wrong ones and [`RATE`] a
//! second. The programs of this machine together have [`LOCAL_BURST`] and [`LOCAL_RATE`] a second;
//! other networks have what [`super::admission`] lets connect. Right ones cost nothing of it.
//!
//! | a token of | is verified |
//! |---|---|
//! | an account that had no wrong one for a minute | always |
//! | another account | within the budgets |
//! | another account, and it was right before | always |
//!
//! So a program of this machine that shows wrong tokens without a pause takes neither the processor
//! nor the tokens of other devices. The device that it names has its new tokens delayed, if they
//! come from this machine too.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hmac;

use super::admission::network;
use crate::gate::stage::DeviceIndex;

/// Wrong signatures of an account at once.
pub const BURST: u32 = 20;
/// Wrong signatures of an account a second.
pub const RATE: u32 = 2;
/// Wrong signatures of all programs of this machine at once.
pub const LOCAL_BURST: u32 = 40;
/// Wrong signatures of all programs of this machine a second.
pub const LOCAL_RATE: u32 = 20;
/// After this time without a wrong one an account is forgotten.
const FORGET_AFTER: Duration = Duration::from_secs(60);
/// Most accounts that are remembered. Beyond, a new one has what its network has.
const ACCOUNTS_MAX: usize = 4_096;
/// Most tokens that are recognised.
const KNOWN_MAX: usize = 65_536;

/// The network of an address, and a device that is named from there.
type Account = (Option<IpAddr>, DeviceIndex);

struct Budget {
    left: f64,
    since: Instant,
}

impl Budget {
    fn left(&self, now: Instant, (burst, rate): (u32, u32)) -> f64 {
        let elapsed = now.saturating_duration_since(self.since).as_secs_f64();
        (self.left + elapsed * f64::from(rate)).min(f64::from(burst))
    }

    fn take(&mut self, now: Instant, of: (u32, u32), count: usize) {
        (self.left, self.since) = ((self.left(now, of) - count as f64).max(0.0), now);
    }
}

const OF_ACCOUNT: (u32, u32) = (BURST, RATE);
const OF_THIS_MACHINE: (u32, u32) = (LOCAL_BURST, LOCAL_RATE);

/// The budgets, and the tokens that were right.
pub(super) struct SignatureRate {
    key: hmac::Key,
    known: HashMap<DeviceIndex, [u8; 32]>,
    accounts: HashMap<Account, Budget>,
    /// That of this machine.
    local: Option<Budget>,
}

impl SignatureRate {
    /// `seed`: 32 random bytes of this process alone.
    pub(super) fn new(seed: &[u8; 32]) -> SignatureRate {
        SignatureRate {
            key: hmac::Key::new(hmac::HMAC_SHA256, seed),
            known: HashMap::new(),
            accounts: HashMap::new(),
            local: None,
        }
    }

    fn tag(&self, token: &[u8]) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(b"token\0");
        context.update(token);
        let mut tag = [0; 32];
        tag.copy_from_slice(context.sign().as_ref());
        tag
    }

    /// Whether the signature of a token of a device is to be verified now.
    pub(super) fn may_verify(
        &self,
        now: Instant,
        address: Option<IpAddr>,
        device: DeviceIndex,
        token: &[u8],
    ) -> bool {
        let source = network(address);
        let own = self.accounts.get(&(source, device));
        let is_new = match own {
            Some(budget) => now >= budget.since + FORGET_AFTER,
            None => source.is_some() || self.accounts.len() < ACCOUNTS_MAX,
        };
        let has_left = own.is_none_or(|budget| budget.left(now, OF_ACCOUNT) >= 1.0);
        let local = self.local.as_ref().filter(|_| source.is_none());
        let machine_has_left = local.is_none_or(|budget| budget.left(now, OF_THIS_MACHINE) >= 1.0);
        let is_known = || {
            let known = self.known.get(&device);
            known.is_some_and(|known| verify_slices_are_equal(known, &self.tag(token)).is_ok())
        };
        is_new || has_left && machine_has_left || is_known()
    }

    /// So many signatures were verified in vain, one for each key of the device.
    pub(super) fn note_wrong(
        &mut self,
        now: Instant,
        address: Option<IpAddr>,
        device: DeviceIndex,
        keys: usize,
    ) {
        let source = network(address);
        let full = |(burst, _): (u32, u32)| Budget { left: f64::from(burst), since: now };
        if source.is_none() {
            let local = self.local.get_or_insert_with(|| full(OF_THIS_MACHINE));
            local.take(now, OF_THIS_MACHINE, keys);
        }
        let account = (source, device);
        if !self.accounts.contains_key(&account) && self.accounts.len() >= ACCOUNTS_MAX {
            self.accounts.retain(|_, budget| now < budget.since + FORGET_AFTER);
            if self.accounts.len() >= ACCOUNTS_MAX {
                return;
            }
        }
        self.accounts.entry(account).or_insert_with(|| full(OF_ACCOUNT)).take(now, OF_ACCOUNT, keys);
    }

    /// A token was right.
    pub(super) fn note_right(&mut self, device: DeviceIndex, token: &[u8]) {
        if self.known.len() < KNOWN_MAX || self.known.contains_key(&device) {
            self.known.insert(device, self.tag(token));
        }
    }

    /// Forgets what is of devices that are gone.
    pub(super) fn review(&mut self, is_there: impl Fn(DeviceIndex) -> bool) {
        self.known.retain(|device, _| is_there(*device));
        self.accounts.retain(|(_, device), _| is_there(*device));
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "virtual time begins somewhere")]
mod tests {
    use super::*;

    fn of(slot: u32) -> DeviceIndex {
        DeviceIndex::of_slot(slot)
    }

    /// How many of so many wrong tokens are verified.
    fn wrong(rate: &mut SignatureRate, now: Instant, tries: u32, device: impl Fn(u32) -> u32) -> u32 {
        (0..tries)
            .filter(|number| {
                let device = of(device(*number));
                let may = rate.may_verify(now, None, device, b"wrong");
                if may {
                    rate.note_wrong(now, None, device, 1);
                }
                may
            })
            .count() as u32
    }

    #[test]
    fn wrong_tokens_of_one_device_have_its_budget_and_cost_others_nothing() {
        let (mut rate, now) = (SignatureRate::new(&[7; 32]), Instant::now());
        rate.note_right(of(1), b"right");
        assert_eq!(wrong(&mut rate, now, 10_000, |_| 1), BURST);
        assert!(!rate.may_verify(now, None, of(1), b"new"));
        assert!(rate.may_verify(now, None, of(1), b"right"), "it was right before");
        assert!(rate.may_verify(now, None, of(2), b"new"), "another device");
        assert!(rate.may_verify(now, "192.0.2.1".parse().ok(), of(1), b"new"), "from elsewhere");
        let later = now + Duration::from_secs(10);
        assert_eq!(wrong(&mut rate, later, 10_000, |_| 1), 10 * RATE);
    }

    #[test]
    fn wrong_tokens_of_all_devices_have_the_budget_of_this_machine() {
        let (mut rate, now) = (SignatureRate::new(&[7; 32]), Instant::now());
        let first = wrong(&mut rate, now, 1_000, |number| number % 100);
        // One of each device, which had none before.
        assert_eq!(first, 100);
        let later = now + Duration::from_secs(1);
        assert_eq!(wrong(&mut rate, later, 10_000, |number| number % 100), LOCAL_RATE);
        assert!(rate.may_verify(later, None, of(200), b"new"), "a device that had none");
        let forgotten = later + FORGET_AFTER;
        assert!(rate.may_verify(forgotten, None, of(1), b"new"));
    }

    #[test]
    fn more_devices_than_are_remembered_have_the_budget_of_this_machine() {
        let (mut rate, now) = (SignatureRate::new(&[7; 32]), Instant::now());
        let devices = 4 * ACCOUNTS_MAX as u32;
        assert!(wrong(&mut rate, now, devices, |number| number) <= ACCOUNTS_MAX as u32 + LOCAL_BURST);
        assert_eq!(rate.accounts.len(), ACCOUNTS_MAX);
        assert_eq!(wrong(&mut rate, now, devices, |number| number), 0);
        rate.review(|_| false);
        assert!(rate.accounts.is_empty());
    }
}
