//! The verdict on the wall clock, and the floor.
//!
//! The kernel says whether the clock is synchronised; what a time server says may still be wrong.
//! So a jump is doubted until something proves the time, and what is in doubt ages nothing, expires
//! nothing and raises no floor.
//!
//! | verdict | when |
//! |---|---|
//! | not synchronised | neither the kernel nor `[clock] trust = "always"` vouches for the clock |
//! | impossible | it is before the build date, or before the newest notBefore of a verified upstream path |
//! | in doubt | it is more than a day from where `CLOCK_BOOTTIME` or the last time saved by an earlier boot puts it, more than a day before a proven time, or an upstream chain refutes it |
//! | trusted | otherwise |
//!
//! **Doubt ends** by evidence (an upstream chain that is valid at this time and whose leaf is valid
//! for at most 400 days), by 24 h of uninterrupted synchronisation, by the owner's word
//! (`tombolo clock trust`), or when the clock is back where it was expected.
//!
//! **Within a boot** the clock is one number: its offset from `CLOCK_BOOTTIME`. A chain seen an
//! hour ago is evidence for the offset that puts that hour inside the chain's validity. The offset
//! is compared with the one first trusted in this boot, so that small steps do not add up unseen.
//!
//! **Timelines.** From one unproven jump to the next, two wall stamps may be compared. Over a jump
//! they may be only where both sides are proven and the machine was off in between; within a boot a
//! jump says that one of the sides is wrong. [`Judge::ages_from`] is where the present timeline
//! begins.
//!
//! **The floor** is a time that has certainly passed: the latest of the build date, the newest
//! notBefore on a verified path ("certain"; only the owner lowers it), and what evidence has proven
//! ("proven"; 24 h of synchronisation at an earlier time lower it, or the owner; evidence for an
//! earlier time does not, because a man in the middle who sets the clock back would only have to
//! wait for the next handshake). Evidence raises it no further than the chain's own notAfter, so no
//! chain that was accepted is refused by the floor later. It is never later than the build date
//! plus [`CAP`].

use std::fmt;
use std::time::Duration;

use super::chain::ChainValidity;
use super::saved::{Known, Saved, Timeline};
use super::{DAY_MS, UnixTime};

/// The floor is never later than the build date plus so much: 20 years.
pub const CAP: Duration = Duration::from_secs(20 * 31_557_600);

/// Uninterrupted synchronisation for so long ends a doubt.
pub const STEADY: Duration = Duration::from_millis(DAY_MS);

/// The kernel's id of one boot.
pub type BootId = [u8; 16];

/// One look at the kernel's clocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// `CLOCK_BOOTTIME` in milliseconds.
    pub boottime_ms: u64,
    /// The wall clock as it stands; times before 1970 are 1970.
    pub raw: UnixTime,
    /// Whether the kernel says it is synchronised.
    pub synchronised: bool,
}

impl Look {
    fn offset(&self) -> i64 {
        offset(self.raw, self.boottime_ms)
    }
}

/// The wall clock minus `CLOCK_BOOTTIME`, in milliseconds: the time of the boot, if the clock is
/// right.
fn offset(raw: UnixTime, boottime_ms: u64) -> i64 {
    const FAR: u64 = i64::MAX as u64 / 4;
    raw.0.min(FAR) as i64 - boottime_ms.min(FAR) as i64
}

fn is_near(one: i64, other: i64) -> bool {
    one.abs_diff(other) <= DAY_MS
}

/// What speaks for a clock that is trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Basis {
    /// Nothing but the kernel, since the first start less than a day ago.
    Kernel,
    /// 24 h of uninterrupted synchronisation, or a day since the first start without a jump.
    Duration,
    /// The owner's `tombolo clock trust`.
    Owner,
    /// An upstream chain.
    Certificate,
}

impl Basis {
    /// Every basis.
    pub const ALL: [Basis; 4] = [Basis::Kernel, Basis::Duration, Basis::Owner, Basis::Certificate];

    /// One word.
    pub fn as_str(self) -> &'static str {
        match self {
            Basis::Kernel => "kernel",
            Basis::Duration => "duration",
            Basis::Owner => "owner",
            Basis::Certificate => "certificate",
        }
    }

    /// Whether it says that the time itself is right, and not only that nobody said otherwise.
    pub fn is_proof(self) -> bool {
        matches!(self, Basis::Owner | Basis::Certificate)
    }
}

impl fmt::Display for Basis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Basis::Kernel => "synchronised",
            Basis::Duration => "for a day without a jump",
            Basis::Owner => "confirmed by `tombolo clock trust`",
            Basis::Certificate => "proven by the broker's certificate",
        })
    }
}

/// Why a synchronised clock is doubted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// It is more than a day from where `CLOCK_BOOTTIME` puts it.
    Jumped {
        /// By how many milliseconds; negative = back.
        by_ms: i64,
    },
    /// It is more than a day from the last time that was saved before this boot.
    AcrossBoots {
        /// That time.
        known: UnixTime,
        /// How far it is from there, the time since the boot left out, in milliseconds; negative =
        /// before.
        by_ms: i64,
    },
    /// It is more than a day before a time that was proven.
    Behind {
        /// That time.
        proven: UnixTime,
    },
    /// Nothing is known to compare it with, and it is later than the build date plus [`CAP`].
    Implausible,
    /// An upstream chain is valid, but not at this time, and only the kernel speaks for the clock.
    Refuted,
}

/// `3 days forward`.
fn distance(by_ms: i64) -> String {
    let hours = by_ms.unsigned_abs() / 3_600_000;
    let length = if hours < 72 { format!("{hours} h") } else { format!("{} days", hours / 24) };
    format!("{length} {}", if by_ms < 0 { "back" } else { "forward" })
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Doubt::Jumped { by_ms } => {
                write!(f, "it was set {} while the machine was running", distance(*by_ms))
            }
            Doubt::AcrossBoots { known, by_ms } => {
                write!(f, "since {known}, the last time known before this boot, it went {}", distance(*by_ms))
            }
            Doubt::Behind { proven } => write!(f, "it is before {proven}, which was proven earlier"),
            Doubt::Implausible => f.write_str("it is more than 20 years after this version was built"),
            Doubt::Refuted => f.write_str("the broker's certificate is not valid at this time"),
        }
    }
}

/// The verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nobody vouches for the clock.
    NotSynchronised,
    /// It is before a time that has certainly passed.
    Impossible {
        /// That time.
        certain: UnixTime,
    },
    /// It may be wrong.
    Doubted(Doubt),
    /// It is believed.
    Trusted(Basis),
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::NotSynchronised => f.write_str("the kernel says it is not synchronised"),
            Verdict::Impossible { certain } => write!(f, "it is before {certain}, a time that has passed"),
            Verdict::Doubted(doubt) => doubt.fmt(f),
            Verdict::Trusted(basis) => basis.fmt(f),
        }
    }
}

/// Why the owner's word alone does not make the clock trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrustError {
    /// The kernel says it is not synchronised, and `[clock] trust` is not `"always"`.
    NotSynchronised,
    /// It is before a time that has certainly passed.
    Impossible {
        /// That time.
        certain: UnixTime,
    },
}

impl fmt::Display for TrustError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TrustError::NotSynchronised => f.write_str(
                "the kernel says that the clock is not synchronised; start a time service (`timedatectl set-ntp true`), \
                 or, where something else keeps it right, set [clock] trust = \"always\"",
            ),
            TrustError::Impossible { certain } => write!(
                f,
                "the clock is before {certain}, a time that has passed; set it right, or, if that time is wrong, run \
                 `tombolo clock reset` first"
            ),
        }
    }
}

impl std::error::Error for TrustError {}

/// All that is known, for `status` and `clock`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    /// The verdict.
    pub verdict: Verdict,
    /// What the kernel said.
    pub synchronised: bool,
    /// A time that has certainly passed.
    pub floor: UnixTime,
    /// What speaks for the present or last timeline.
    pub basis: Option<Basis>,
    /// The last time that was trusted.
    pub known: Option<UnixTime>,
    /// In doubt: how much more synchronisation ends it.
    pub steady_in: Option<Duration>,
}

/// An uninterrupted stretch of synchronisation.
#[derive(Clone, Copy, Debug)]
struct Steady {
    offset: i64,
    since_ms: u64,
}

/// The judge. All times are arguments.
#[derive(Clone, Debug)]
pub struct Judge {
    build: UnixTime,
    boot: Option<BootId>,
    always: bool,
    /// The newest notBefore on a verified path.
    certain: UnixTime,
    /// The latest time that evidence has proven.
    proven: UnixTime,
    /// The timeline that was trusted last, now or before.
    timeline: Option<Timeline>,
    /// The offset of the clock when it was first trusted in this boot.
    anchor: Option<i64>,
    /// The last chain of this boot that can be evidence, and `CLOCK_BOOTTIME` when it was seen.
    evidence: Option<(ChainValidity, u64)>,
    /// An offset that a chain has refuted.
    refuted: Option<i64>,
    steady: Option<Steady>,
    verdict: Verdict,
    look: Look,
    revision: u64,
}

impl Judge {
    /// For a program built at `build`, in the boot `boot` (`None`: not known), with what an earlier
    /// process has saved.
    pub fn new(build: UnixTime, boot: Option<BootId>, always: bool, saved: Option<Saved>) -> Judge {
        let saved = saved.unwrap_or_default();
        let cap = cap(build);
        let anchor = saved.timeline.as_ref().map(|timeline| timeline.known).and_then(|known| {
            let same = known.boot.is_some() && known.boot == boot;
            same.then(|| offset(known.wall, known.boottime_ms))
        });
        Judge {
            build,
            boot,
            always,
            certain: saved.certain.min(cap),
            proven: saved.proven.min(cap),
            timeline: saved.timeline,
            anchor,
            evidence: None,
            refuted: None,
            steady: None,
            verdict: Verdict::NotSynchronised,
            look: Look::default(),
            revision: 0,
        }
    }

    /// Says whether the owner vouches for the clock in the kernel's place. In force with the next
    /// look.
    pub fn set_always(&mut self, always: bool) {
        self.always = always;
    }

    /// Whether the owner vouches for the clock in the kernel's place.
    pub fn is_always(&self) -> bool {
        self.always
    }

    /// Looks at the clocks; once a second is enough.
    pub fn observe(&mut self, look: Look) {
        self.look = look;
        if !(look.synchronised || self.always) {
            self.steady = None;
            self.verdict = Verdict::NotSynchronised;
            return;
        }
        if look.raw < self.certain() {
            self.steady = None;
            self.verdict = Verdict::Impossible { certain: self.certain() };
            return;
        }
        let offset = look.offset();
        let since_ms = match self.steady {
            Some(steady) if is_near(steady.offset, offset) && steady.since_ms <= look.boottime_ms => {
                steady.since_ms
            }
            _ => {
                self.steady = Some(Steady { offset, since_ms: look.boottime_ms });
                look.boottime_ms
            }
        };
        let is_steady = look.boottime_ms - since_ms >= DAY_MS;
        match self.doubt(look, offset) {
            None => self.go_on(is_steady),
            Some(_) if self.is_proven(offset) => self.accept(Basis::Certificate),
            Some(_) if is_steady => self.accept(Basis::Duration),
            Some(doubt) => {
                // The reason is the first one: its figures are those of the jump.
                let same = matches!(self.verdict, Verdict::Doubted(_)) && since_ms < look.boottime_ms;
                if !same {
                    self.verdict = Verdict::Doubted(doubt);
                }
            }
        }
    }

    /// Takes what an upstream chain says, which was verified and whose key the peer has.
    pub fn learn(&mut self, chain: ChainValidity, look: Look) {
        let before = self.certain;
        let is_refuted = self.is_refutable()
            && self.wall(look.raw, look.boottime_ms).is_some()
            && !chain.contains(look.raw);
        self.certain = self.certain.max(chain.not_before.min(cap(self.build)));
        if self.certain != before {
            self.revision += 1;
        }
        if chain.is_evidence() {
            self.evidence = Some((chain, look.boottime_ms));
        }
        if is_refuted {
            // Only the kernel vouches for this timeline, and it is wrong: it counts for nothing.
            self.refuted = Some(look.offset());
            self.timeline = None;
            self.anchor = None;
            self.steady = None;
            self.revision += 1;
        }
        self.observe(look);
    }

    /// The owner says that the clock is right.
    ///
    /// # Errors
    /// [`TrustError`]: it cannot be.
    pub fn trust(&mut self, look: Look) -> Result<(), TrustError> {
        self.observe(look);
        match self.verdict {
            Verdict::NotSynchronised => return Err(TrustError::NotSynchronised),
            Verdict::Impossible { certain } => return Err(TrustError::Impossible { certain }),
            Verdict::Doubted(_) => self.accept(Basis::Owner),
            Verdict::Trusted(Basis::Certificate | Basis::Owner) => {}
            Verdict::Trusted(Basis::Kernel | Basis::Duration) => self.settle(Basis::Owner),
        }
        Ok(())
    }

    /// The owner says that the floor is wrong: it is the build date again, and what certificates
    /// had proven is forgotten. A clock in doubt stays so.
    pub fn reset(&mut self, look: Look) {
        self.certain = UnixTime(0);
        self.proven = UnixTime(0);
        self.evidence = None;
        if let Some(timeline) = &mut self.timeline
            && timeline.basis == Basis::Certificate
        {
            timeline.basis = Basis::Kernel;
        }
        self.revision += 1;
        self.observe(look);
    }

    /// Why the clock is doubted, if it is.
    fn doubt(&self, look: Look, offset: i64) -> Option<Doubt> {
        if self.refuted.is_some_and(|refuted| is_near(refuted, offset)) {
            return Some(Doubt::Refuted);
        }
        match (self.anchor, &self.timeline) {
            (Some(anchor), _) => {
                if !is_near(anchor, offset) {
                    return Some(Doubt::Jumped { by_ms: offset.saturating_sub(anchor) });
                }
            }
            (None, Some(Timeline { known, .. })) => {
                let wall = self::offset(known.wall, 0);
                // What was saved in an unknown boot may have been saved in this one: then it is not
                // before the boot.
                let low = if known.boot.is_some() && self.boot.is_some() {
                    offset
                } else {
                    self::offset(look.raw, 0)
                };
                let by_ms = if offset > wall { offset - wall } else { (low - wall).min(0) };
                if by_ms.unsigned_abs() > DAY_MS {
                    return Some(Doubt::AcrossBoots { known: known.wall, by_ms });
                }
            }
            (None, None) => {
                if look.raw > cap(self.build) {
                    return Some(Doubt::Implausible);
                }
            }
        }
        // In this boot an earlier time was accepted already.
        let behind = self.anchor.is_none() && self.is_behind(look.raw);
        behind.then_some(Doubt::Behind { proven: self.proven })
    }

    /// Whether this time is more than a day before one that was proven.
    fn is_behind(&self, raw: UnixTime) -> bool {
        raw.0.saturating_add(DAY_MS) < self.proven.0
    }

    /// Whether a chain of this boot is evidence for this offset.
    fn is_proven(&self, offset: i64) -> bool {
        self.evidence.is_some_and(|(chain, seen_ms)| {
            let then = offset.saturating_add(self::offset(UnixTime(seen_ms), 0));
            chain.contains(UnixTime(u64::try_from(then).unwrap_or(0)))
        })
    }

    /// The clock is where it is expected.
    fn go_on(&mut self, is_steady: bool) {
        let Look { raw, boottime_ms, .. } = self.look;
        let known = Known { boot: self.boot, boottime_ms, wall: raw };
        let first = Timeline { since: None, basis: Basis::Kernel, known };
        let timeline = self.timeline.get_or_insert(first);
        timeline.known = known;
        if timeline.since.is_none() {
            timeline.since = Some(raw);
            self.revision += 1;
        }
        // A day on one timeline is enough here: a machine that is off at night is never up for a
        // day.
        let since = timeline.since.unwrap_or(raw);
        let is_old = is_steady || raw.0.saturating_sub(since.0) >= DAY_MS;
        let is_young = timeline.basis == Basis::Kernel;
        self.anchor.get_or_insert(self.look.offset());
        if self.is_proven(self.look.offset()) {
            self.settle(Basis::Certificate);
            self.raise();
        } else if is_young && is_old {
            self.settle(Basis::Duration);
        }
        if is_steady && self.is_behind(raw) {
            self.proven = raw;
            self.revision += 1;
        }
        self.verdict = Verdict::Trusted(self.timeline.map_or(Basis::Kernel, |timeline| timeline.basis));
    }

    /// Something new speaks for the present timeline.
    fn settle(&mut self, basis: Basis) {
        if let Some(timeline) = &mut self.timeline
            && timeline.basis != basis
        {
            timeline.basis = basis;
            self.revision += 1;
        }
        self.verdict = Verdict::Trusted(basis);
    }

    /// The doubt is over: a timeline begins, or the one of before the boot goes on.
    fn accept(&mut self, basis: Basis) {
        let Look { raw, boottime_ms, .. } = self.look;
        let goes_on = self.timeline.filter(|before| {
            self.anchor.is_none() && raw >= before.known.wall && before.basis.is_proof() && basis.is_proof()
        });
        let since = goes_on.and_then(|before| before.since).unwrap_or(raw);
        let known = Known { boot: self.boot, boottime_ms, wall: raw };
        self.timeline = Some(Timeline { since: Some(since), basis, known });
        self.anchor = Some(self.look.offset());
        self.refuted = None;
        match basis {
            Basis::Certificate => self.raise(),
            _ => self.proven = self.proven.min(raw),
        }
        self.revision += 1;
        self.verdict = Verdict::Trusted(basis);
    }

    /// Raises the floor to the present time, as far as the chain that proves it is valid.
    fn raise(&mut self) {
        if let Some((chain, _)) = self.evidence {
            let time = self.look.raw.min(chain.not_after).min(cap(self.build));
            self.proven = self.proven.max(time);
        }
    }

    /// See [`WallClock::is_refutable`](super::WallClock::is_refutable).
    pub fn is_refutable(&self) -> bool {
        self.verdict == Verdict::Trusted(Basis::Kernel)
    }

    /// The floor that only the owner lowers.
    fn certain(&self) -> UnixTime {
        self.build.max(self.certain)
    }

    /// A time that has certainly passed.
    pub fn floor(&self) -> UnixTime {
        self.certain().max(self.proven)
    }

    /// The verdict of the last look.
    pub fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// The wall clock's time at this moment, if it may be trusted: also if the clock was set since
    /// the last look, it may not.
    pub fn wall(&self, raw: UnixTime, boottime_ms: u64) -> Option<UnixTime> {
        let trusted = matches!(self.verdict, Verdict::Trusted(_))
            && raw >= self.certain()
            && self.anchor.is_some_and(|anchor| is_near(anchor, offset(raw, boottime_ms)));
        trusted.then_some(raw)
    }

    /// The wall clock's time at this moment, if it is vouched for and in doubt.
    pub fn doubted(&self, raw: UnixTime, boottime_ms: u64) -> Option<UnixTime> {
        let vouched = matches!(self.verdict, Verdict::Doubted(_) | Verdict::Trusted(_));
        (vouched && raw >= self.certain() && self.wall(raw, boottime_ms).is_none()).then_some(raw)
    }

    /// From when on wall stamps may be compared with the present time; `None`: none may. See
    /// [`Moment::ages_from`](super::Moment::ages_from).
    pub fn ages_from(&self) -> Option<UnixTime> {
        match self.verdict {
            Verdict::Trusted(Basis::Kernel) => None,
            Verdict::Trusted(_) => self.timeline.and_then(|timeline| timeline.since),
            _ => None,
        }
    }

    /// What is to be saved.
    pub fn saved(&self) -> Saved {
        Saved { certain: self.certain, proven: self.proven, timeline: self.timeline }
    }

    /// Grows when there is something to save that should not wait for the hour.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// All that is known.
    pub fn view(&self) -> View {
        let steady_in = matches!(self.verdict, Verdict::Doubted(_)).then(|| {
            let since_ms = self.steady.map_or(self.look.boottime_ms, |steady| steady.since_ms);
            STEADY.saturating_sub(Duration::from_millis(self.look.boottime_ms.saturating_sub(since_ms)))
        });
        View {
            verdict: self.verdict,
            synchronised: self.look.synchronised,
            floor: self.floor(),
            basis: self.timeline.map(|timeline| timeline.basis),
            known: self.timeline.map(|timeline| timeline.known.wall),
            steady_in,
        }
    }
}

/// The latest floor there may be.
fn cap(build: UnixTime) -> UnixTime {
    UnixTime(build.0.saturating_add(u64::try_from(CAP.as_millis()).unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests;
