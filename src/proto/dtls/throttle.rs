//! Rates of handshakes, public-key operations and hellos: token buckets in bounded memory.
//!
//! A client with a validated address could begin any number of handshakes. So a hello with a valid
//! cookie takes a token, and each public-key operation takes one. A completed handshake returns all
//! of them, so that devices with valid credentials are not limited, even many behind one address.
//!
//! | tokens | per | burst | per second |
//! |---|---|---|---|
//! | handshakes begun from the address of a session: a device that restarted | that address and port | 8 | 1 |
//! | handshakes begun from any other | IPv4 address, or IPv6 /64 | [`Limits::handshakes_burst`] | [`Limits::handshakes_per_second`] |
//! | public-key operations | the same | [`Limits::work_burst`]; a session's address 64 | [`Limits::work_per_second`]; 8 |
//! | hellos without a valid cookie | all | [`Limits::hellos_per_second`] | the same |
//! | | and of each IPv4 address, or IPv6 /64 | [`Limits::hellos_per_source`] | the same |
//! | | and, apart from these, of the address of a session or handshake | 8 | 1 |
//! | invalid cookies from the address of a session or handshake | that address and port | 8 | 1 |
//! | invalid cookies | all | [`Limits::hellos_per_second`] | the same |
//! | | and of each IPv4 address, or IPv6 /64 | [`Limits::hellos_per_source`] | the same |
//!
//! A public-key operation costs about one P-256 signature: 0.1 ms on a PC, some milliseconds on the
//! smallest boards. Answering a hello has a cost too, so hellos beyond the rate are dropped: a
//! flood can delay new clients, but leaves CPU time for the sessions. Hellos with a valid cookie
//! are not affected.
//!
//! A device behind the same NAT as an attacker shares its source. Its session is not affected, and
//! after a restart on the same port it has separate buckets; only a device without a session
//! competes with the attacker.
//!
//! A bucket is stored as one instant: when it will be full again. Full buckets are not stored.
//! There are two generations of buckets; when the younger has [`SOURCES`], the older is dropped. So
//! an attacker with more sources is limited only by [`Limits::half_open`], and no other source is
//! locked out. Hellos, whose source addresses may be spoofed, are counted in [`CELLS`] cells with
//! many sources each: a flood from a few addresses fills a few cells.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::engine::Limits;

/// Most buckets of one generation; 56 bytes each.
const SOURCES: usize = 2_048;
/// Cells for hellos, and as many for cookies; 2 bytes each.
const CELLS: usize = 4_096;
const SECOND: Duration = Duration::from_secs(1);
/// Handshakes, and hellos, from the address of a session.
const OWN: Rate = Rate { burst: 8, every: SECOND };
/// Public-key operations for the address of a session.
const OWN_WORK: Rate = Rate { burst: 64, every: Duration::from_millis(125) };
/// Upper bound of the time until a bucket is full, so that sums of times cannot overflow.
const FULL_WITHIN_MAX: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// The kinds of tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pool {
    /// Handshakes begun.
    Handshakes,
    /// Public-key operations.
    Work,
    /// Hellos without a valid cookie from the address of a session or handshake.
    Hellos,
    /// Invalid cookies from the address of a session or handshake.
    Looks,
}

/// The owner of a bucket: a source, or one address with a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Party {
    /// An IPv4 address, or an IPv6 /64.
    pub source: IpAddr,
    /// The port, for an address with a session.
    pub port: Option<u16>,
    /// The kind of token.
    pub pool: Pool,
}

#[derive(Clone, Copy)]
struct Rate {
    burst: u32,
    every: Duration,
}

impl Rate {
    fn new(burst: u32, per_second: u32) -> Rate {
        Rate { burst: burst.max(1), every: SECOND / per_second.max(1) }
    }

    /// When a bucket that would be full at `full` is full again if it gives `tokens` now; `None` if
    /// it has fewer.
    fn taken(self, now: Instant, full: Option<Instant>, tokens: u32) -> Option<Instant> {
        let full = full.unwrap_or(now).max(now) + (self.every * tokens).min(FULL_WITHIN_MAX);
        (full - now <= self.every.saturating_mul(self.burst).min(FULL_WITHIN_MAX)).then_some(full)
    }
}

/// Takes a token of the bucket of all sources and one of the source's bucket; none if either is
/// empty.
fn take_of_all(
    rate: Rate,
    all: &mut Option<Instant>,
    cells: &mut Cells,
    now: Instant,
    source: IpAddr,
) -> bool {
    let Some(full) = rate.taken(now, *all, 1) else { return false };
    let is_free = cells.take(now, source);
    if is_free {
        *all = Some(full);
    }
    is_free
}

/// The token buckets; see the module.
pub struct Throttle {
    handshakes: Rate,
    work: Rate,
    hello: Rate,
    /// When the bucket of hellos is full again, and that of invalid cookies.
    hellos: Option<Instant>,
    looks: Option<Instant>,
    cells: Cells,
    look_cells: Cells,
    /// When a bucket will be full again.
    young: HashMap<Party, Instant>,
    old: HashMap<Party, Instant>,
}

impl Throttle {
    /// A throttle with full buckets.
    pub fn new(limits: &Limits) -> Throttle {
        Throttle {
            handshakes: Rate::new(limits.handshakes_burst, limits.handshakes_per_second),
            work: Rate::new(limits.work_burst, limits.work_per_second),
            hello: Rate::new(limits.hellos_per_second, limits.hellos_per_second),
            hellos: None,
            looks: None,
            cells: Cells::new(limits.hellos_per_source),
            look_cells: Cells::new(limits.hellos_per_source),
            young: HashMap::new(),
            old: HashMap::new(),
        }
    }

    /// Whether to answer one more hello without a valid cookie.
    pub fn take_hello(&mut self, now: Instant, source: IpAddr) -> bool {
        take_of_all(self.hello, &mut self.hellos, &mut self.cells, now, source)
    }

    /// Whether to verify one more cookie.
    pub fn take_look(&mut self, now: Instant, source: IpAddr) -> bool {
        take_of_all(self.hello, &mut self.looks, &mut self.look_cells, now, source)
    }

    /// Returns the token of a cookie that was valid.
    pub fn give_back_look(&mut self, now: Instant, source: IpAddr) {
        self.looks =
            self.looks.and_then(|full| full.checked_sub(self.hello.every)).filter(|full| *full > now);
        self.look_cells.give_back(source);
    }

    fn rate(&self, party: &Party) -> Rate {
        match (party.pool, party.port) {
            (Pool::Work, Some(_)) => OWN_WORK,
            (Pool::Work, None) => self.work,
            (Pool::Handshakes, None) => self.handshakes,
            (Pool::Handshakes, Some(_)) | (Pool::Hellos | Pool::Looks, _) => OWN,
        }
    }

    /// Takes `tokens`; `false`, and takes none, if there are fewer. More than a bucket holds counts
    /// as a full bucket.
    pub fn take(&mut self, now: Instant, party: Party, tokens: u32) -> bool {
        let (rate, known) =
            (self.rate(&party), self.young.get(&party).or_else(|| self.old.get(&party)).copied());
        let Some(full) = rate.taken(now, known, tokens.min(rate.burst)) else { return false };
        if self.young.len() >= SOURCES && !self.young.contains_key(&party) {
            self.old = std::mem::take(&mut self.young);
        }
        // One place only: what was taken before must not count again when the newer bucket is full.
        self.old.remove(&party);
        self.young.insert(party, full);
        true
    }

    /// Returns tokens.
    pub fn give_back(&mut self, now: Instant, party: Party, tokens: u32) {
        let rate = self.rate(&party);
        let every = rate.every * tokens.min(rate.burst);
        let generation = if self.young.contains_key(&party) { &mut self.young } else { &mut self.old };
        let Some(full) = generation.get_mut(&party) else { return };
        match full.checked_sub(every).filter(|full| *full > now) {
            Some(sooner) => *full = sooner,
            None => drop(generation.remove(&party)),
        }
    }
}

/// Counts of hellos in the current second, by a keyed hash of the source.
struct Cells {
    most: u32,
    counts: Box<[u16; CELLS]>,
    until: Option<Instant>,
    hasher: RandomState,
}

impl Cells {
    fn new(most: u32) -> Cells {
        Cells { most, counts: Box::new([0; CELLS]), until: None, hasher: RandomState::new() }
    }

    fn take(&mut self, now: Instant, source: IpAddr) -> bool {
        if self.most >= u32::from(u16::MAX) {
            return true;
        }
        if self.until.is_none_or(|until| until <= now) {
            self.counts.fill(0);
            self.until = Some(now + SECOND);
        }
        let most = self.most;
        let count = self.count(source);
        let is_free = u32::from(*count) < most;
        *count += u16::from(is_free);
        is_free
    }

    /// Returns the token just taken.
    fn give_back(&mut self, source: IpAddr) {
        let count = self.count(source);
        *count = count.saturating_sub(1);
    }

    fn count(&mut self, source: IpAddr) -> &mut u16 {
        &mut self.counts[self.hasher.hash_one(source) as usize % CELLS]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn party(n: u32) -> Party {
        Party { source: IpAddr::from(n.to_be_bytes()), port: None, pool: Pool::Handshakes }
    }

    fn throttle(burst: u32, per_second: u32) -> Throttle {
        let (handshakes_burst, handshakes_per_second) = (burst, per_second);
        Throttle::new(&Limits { handshakes_burst, handshakes_per_second, ..Limits::default() })
    }

    fn taken(throttle: &mut Throttle, now: Instant, party: Party, of: usize) -> usize {
        (0..of).filter(|_| throttle.take(now, party, 1)).count()
    }

    #[test]
    fn a_bucket_holds_its_burst_and_fills_at_its_rate() {
        let (now, mut throttle) = (Instant::now(), throttle(10, 4));
        assert_eq!(taken(&mut throttle, now, party(1), 100), 10);
        assert_eq!(taken(&mut throttle, now, party(2), 100), 10, "another source has its own");
        assert_eq!(taken(&mut throttle, now + Duration::from_millis(249), party(1), 100), 0);
        assert_eq!(taken(&mut throttle, now + Duration::from_millis(250), party(1), 100), 1);
        assert_eq!(taken(&mut throttle, now + Duration::from_secs(2), party(1), 100), 7);
        assert_eq!(taken(&mut throttle, now + Duration::from_secs(1_000), party(1), 100), 10);
    }

    #[test]
    fn strangers_hellos_are_answered_at_their_rate() {
        let limits = Limits { hellos_per_second: 100, ..Limits::default() };
        let (now, mut throttle) = (Instant::now(), Throttle::new(&limits));
        let mut answered = |now| (0..1_000u32).filter(|n| throttle.take_hello(now, party(*n).source)).count();
        assert_eq!(answered(now), 100);
        assert_eq!(answered(now + Duration::from_millis(9)), 0);
        assert_eq!(answered(now + Duration::from_millis(10)), 1);
        assert_eq!(answered(now + Duration::from_secs(9)), 100);
    }

    #[test]
    fn one_source_of_hellos_does_not_take_what_all_have() {
        let limits = Limits { hellos_per_second: 1_000, hellos_per_source: 100, ..Limits::default() };
        let (now, mut throttle) = (Instant::now(), Throttle::new(&limits));
        let flood = (0..5_000).filter(|_| throttle.take_hello(now, party(1).source)).count();
        assert_eq!(flood, 100);
        // With any hash, few of the others share its cell.
        let others = (2..802u32).filter(|n| throttle.take_hello(now, party(*n).source)).count();
        assert!(others > 780, "{others}");
        assert!(
            throttle.take_hello(now + Duration::from_secs(1), party(1).source),
            "the next second it is heard again"
        );
    }

    #[test]
    fn good_cookies_do_not_count() {
        let limits = Limits { hellos_per_second: 10, hellos_per_source: 4, ..Limits::default() };
        let (now, mut throttle) = (Instant::now(), Throttle::new(&limits));
        let source = |n| party(n).source;
        for _ in 0..1_000 {
            assert!(throttle.take_look(now, source(1)));
            throttle.give_back_look(now, source(1));
        }
        assert_eq!((0..1_000).filter(|_| throttle.take_look(now, source(1))).count(), 4, "of one source");
        assert_eq!((0..1_000).filter(|n| throttle.take_look(now, source(*n))).count(), 6, "and in all");
    }

    #[test]
    fn work_is_taken_and_given_back_by_its_amount() {
        let limits = Limits { work_burst: 20, work_per_second: 2, ..Limits::default() };
        let (now, mut throttle) = (Instant::now(), Throttle::new(&limits));
        let party = Party { pool: Pool::Work, ..party(1) };
        assert!(throttle.take(now, party, 15));
        assert!(!throttle.take(now, party, 6));
        assert!(throttle.take(now, party, 5));
        throttle.give_back(now, party, 15);
        assert!(!throttle.take(now, party, 16) && throttle.take(now, party, 15));
        assert!(throttle.take(now + Duration::from_secs(3), party, 6));
        assert!(!throttle.take(now + Duration::from_secs(3), party, u32::MAX));
    }

    #[test]
    fn what_costs_more_than_a_bucket_holds_takes_a_full_one() {
        let (now, mut throttle) = (Instant::now(), Throttle::new(&Limits::default()));
        let party = Party { pool: Pool::Work, ..party(1) };
        assert!(throttle.take(now, party, u32::MAX));
        assert!(!throttle.take(now, party, 1));
        throttle.give_back(now, party, u32::MAX);
        assert!(throttle.take(now, party, u32::MAX), "as large lists of revoked certificates may have it");
    }

    #[test]
    fn a_token_that_is_given_back_can_be_taken_again() {
        let (now, mut throttle) = (Instant::now(), throttle(3, 1));
        for _ in 0..100 {
            assert!(throttle.take(now, party(1), 1));
            throttle.give_back(now, party(1), 1);
        }
        assert!(throttle.young.is_empty() && throttle.old.is_empty(), "what is full is not kept");
        throttle.give_back(now, party(1), 1);
        assert_eq!(taken(&mut throttle, now, party(1), 9), 3, "and never more than the burst");
    }

    #[test]
    fn a_bucket_does_not_come_back_as_it_was_when_generations_change() {
        let (now, mut throttle) = (Instant::now(), throttle(3, 1));
        assert_eq!(taken(&mut throttle, now, party(1), 2), 2);
        for n in 0..SOURCES as u32 {
            throttle.take(now, party(10 + n), 1);
        }
        assert!(throttle.old.contains_key(&party(1)), "another generation began");
        // All is given back: those of before, and one more.
        assert!(throttle.take(now, party(1), 1));
        throttle.give_back(now, party(1), 3);
        assert_eq!(taken(&mut throttle, now, party(1), 9), 3);
    }

    #[test]
    fn the_address_of_a_session_has_a_bucket_of_its_own() {
        let (now, mut throttle) = (Instant::now(), throttle(3, 1));
        assert_eq!(taken(&mut throttle, now, party(1), 9), 3);
        let own = Party { port: Some(5_684), ..party(1) };
        assert_eq!(taken(&mut throttle, now, own, 99), 8);
        assert_eq!(taken(&mut throttle, now + Duration::from_secs(2), own, 99), 2);
    }

    #[test]
    fn memory_is_bounded_however_many_sources_come() {
        let (now, mut throttle) = (Instant::now(), throttle(1, 1));
        for n in 0..100_000 {
            assert!(throttle.take(now, party(n), 1), "a source not seen before is let in");
            assert!(throttle.young.len() <= SOURCES && throttle.old.len() <= SOURCES);
        }
        assert!(!throttle.take(now, party(99_999), 1));
    }
}
