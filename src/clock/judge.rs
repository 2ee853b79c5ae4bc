//! The verdict on the wall clock, and the floor.
//!
//! The kernel reports whether the clock is synchronised, but the time server may be wrong. So after
//! a jump the clock is in doubt until the time is proven; a clock in doubt expires no records and
//! does not raise the floor.
//!
//! | verdict | condition |
//! |---|---|
//! | not synchronised | the kernel does not report it as synchronised, and `[clock] trust` is not `"always"` |
//! | impossible | it is before the build date, or before the newest notBefore of a verified upstream path |
//! | in doubt | it differs by more than a day from the time expected from `CLOCK_BOOTTIME` or from the last time saved by an earlier boot, is more than a day before a proven time, or is refuted by an upstream chain |
//! | trusted | otherwise |
//!
//! **Doubt ends** by evidence (an upstream chain that is valid at this time and whose leaf is valid
//! for at most 400 days), by 24 h of uninterrupted synchronisation, by the user's confirmation
//! (`tombolo clock trust`), or when the clock returns to the expected time.
//!
//! **Within a boot** the clock is represented by its offset from `CLOCK_BOOTTIME`. A chain seen an
//! hour ago is evidence for the offsets with which it was valid at that moment. The offset is
//! compared with the one first trusted in this boot, so that small steps do not accumulate
//! undetected.
//!
//! **Timelines.** Two wall times between two unproven jumps may be compared. Across a jump they may
//! be compared only if both sides are proven and the machine was off in between; a jump within a
//! boot means that one of the sides is wrong. [`Judge::ages_from`] is the start of the current
//! timeline.
//!
//! **The floor** is a time that has certainly passed: the latest of the build date, the newest
//! notBefore of a verified path ("certain"; only the user lowers it), and the latest time proven by
//! evidence ("proven"; 24 h of synchronisation at an earlier time or the user lower it; evidence
//! for an earlier time does not, because an attacker that sets the clock back would only have to
//! wait for the next handshake). Evidence raises it at most to the chain's notAfter, so that the
//! floor never refuses a chain that was accepted. It is never later than the build date plus
//! [`CAP`].

use std::fmt;
use std::time::Duration;

use super::chain::ChainValidity;
use super::saved::{Known, Saved, Timeline};
use super::{DAY_MS, UnixTime};

/// The floor is never later than the build date plus this: 20 years.
pub const CAP: Duration = Duration::from_secs(20 * 31_557_600);

/// Uninterrupted synchronisation for this time ends a doubt.
pub const STEADY: Duration = Duration::from_millis(DAY_MS);

/// The kernel's id of one boot.
pub type BootId = [u8; 16];

/// One reading of the kernel's clocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// `CLOCK_BOOTTIME` in milliseconds.
    pub boottime_ms: u64,
    /// The wall clock, trusted or not; times before 1970 are read as 1970.
    pub raw: UnixTime,
    /// Whether the kernel reports the clock as synchronised.
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

/// The basis of a trusted clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Basis {
    /// Only the kernel's report, less than a day after the first start.
    Kernel,
    /// 24 h of uninterrupted synchronisation, or a day since the first start without a jump.
    Duration,
    /// The user's `tombolo clock trust`.
    Owner,
    /// An upstream chain.
    Certificate,
}

impl Basis {
    /// Every basis.
    pub const ALL: [Basis; 4] = [Basis::Kernel, Basis::Duration, Basis::Owner, Basis::Certificate];

    /// The name.
    pub fn as_str(self) -> &'static str {
        match self {
            Basis::Kernel => "kernel",
            Basis::Duration => "duration",
            Basis::Owner => "owner",
            Basis::Certificate => "certificate",
        }
    }

    /// Whether it proves the time, and is not just the absence of a contradiction.
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
            Basis::Certificate => "proven by a server's certificate",
        })
    }
}

/// Why a synchronised clock is doubted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// It differs by more than a day from the time expected from `CLOCK_BOOTTIME`.
    Jumped {
        /// The jump in milliseconds; negative = back.
        by_ms: i64,
    },
    /// It differs by more than a day from the last time saved before this boot.
    AcrossBoots {
        /// The time it is compared with.
        known: UnixTime,
        /// The difference without the time since the boot, in milliseconds; negative = before.
        by_ms: i64,
    },
    /// It is more than a day before a time that was proven.
    Behind {
        /// The time it is compared with.
        proven: UnixTime,
    },
    /// There is no time to compare it with, and it is later than the build date plus [`CAP`].
    Implausible,
    /// An upstream chain is valid, but not at this time, and the basis of the clock is only the
    /// kernel.
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
            Doubt::Refuted => f.write_str("a server's certificate is not valid at this time"),
        }
    }
}

/// The verdict on the wall clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The clock is not synchronised.
    NotSynchronised,
    /// It is before a time that has certainly passed.
    Impossible {
        /// The time it is compared with.
        certain: UnixTime,
        /// That time is the notBefore of a certificate, and not the build date. One that was issued
        /// with a date in the future is the other explanation.
        by_certificate: bool,
    },
    /// It may be wrong.
    Doubted(Doubt),
    /// It is trusted.
    Trusted(Basis),
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::NotSynchronised => f.write_str("the kernel says it is not synchronised"),
            Verdict::Impossible { certain, by_certificate } => impossible(f, *certain, *by_certificate),
            Verdict::Doubted(doubt) => doubt.fmt(f),
            Verdict::Trusted(basis) => basis.fmt(f),
        }
    }
}

/// How a clock is called that a certificate contradicts.
pub const BEFORE_CERTIFICATE: &str =
    "before which a server's certificate, usually the broker's, is not valid";

fn impossible(f: &mut fmt::Formatter<'_>, certain: UnixTime, by_certificate: bool) -> fmt::Result {
    match by_certificate {
        true => write!(f, "it is before {certain}, {BEFORE_CERTIFICATE}"),
        false => write!(f, "it is before {certain}, when this version was made"),
    }
}

/// Why `tombolo clock trust` cannot make the clock trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrustError {
    /// The kernel reports it as not synchronised, and `[clock] trust` is not `"always"`.
    NotSynchronised,
    /// It is before a time that has certainly passed.
    Impossible {
        /// The time it is compared with.
        certain: UnixTime,
        /// That time is the notBefore of a certificate, and not the build date.
        by_certificate: bool,
    },
}

impl fmt::Display for TrustError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TrustError::NotSynchronised => f.write_str(
                "the kernel says that the clock is not synchronised; start a time service (`timedatectl set-ntp true`), \
                 or, where something else keeps it right, set [clock] trust = \"always\"",
            ),
            TrustError::Impossible { certain, by_certificate } => {
                f.write_str("the clock cannot be right: ")?;
                impossible(f, *certain, *by_certificate)?;
                write!(f, "; {}", way_out_of_impossible(*by_certificate))
            }
        }
    }
}

impl std::error::Error for TrustError {}

/// What is to be done about a clock that is before a time that has passed.
pub fn way_out_of_impossible(by_certificate: bool) -> &'static str {
    match by_certificate {
        true => {
            "set it right; or, if it is right, have that certificate issued anew, not dated in the future, then run \
             `tombolo clock reset`"
        }
        false => "set it right",
    }
}

/// What shows that the floor has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FloorSource {
    /// The program was built then.
    Build,
    /// The certificate of a server was not valid before.
    NotBefore,
    /// The certificate of a server proved a clock that said so.
    Proven,
}

impl FloorSource {
    /// The name.
    pub fn as_str(self) -> &'static str {
        match self {
            FloorSource::Build => "build",
            FloorSource::NotBefore => "not-before",
            FloorSource::Proven => "certificate",
        }
    }
}

/// The state of the clock, for `status` and `clock`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    /// The verdict.
    pub verdict: Verdict,
    /// Whether the kernel reports the clock as synchronised.
    pub synchronised: bool,
    /// A time that has certainly passed.
    pub floor: UnixTime,
    /// What shows that it has passed.
    pub floor_from: FloorSource,
    /// By how much it is later than the clock, if it is.
    pub floor_ahead: Option<Duration>,
    /// The basis of the current or last timeline.
    pub basis: Option<Basis>,
    /// The last time that was trusted.
    pub known: Option<UnixTime>,
    /// If in doubt: the remaining time of synchronisation that ends the doubt.
    pub steady_in: Option<Duration>,
}

/// An uninterrupted period of synchronisation.
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
    /// The newest notBefore of a verified path.
    certain: UnixTime,
    /// The latest time that evidence has proven.
    proven: UnixTime,
    /// The current or last trusted timeline.
    timeline: Option<Timeline>,
    /// The offset of the clock when it was first trusted in this boot.
    anchor: Option<i64>,
    /// The last chain of this boot that can be evidence, with the `CLOCK_BOOTTIME` at which it was
    /// seen.
    evidence: Option<(ChainValidity, u64)>,
    /// An offset that a chain has refuted.
    refuted: Option<i64>,
    steady: Option<Steady>,
    verdict: Verdict,
    look: Look,
    revision: u64,
}

impl Judge {
    /// A judge for a program built at `build`, in the boot `boot` (`None` = unknown), with the
    /// state saved by an earlier process.
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

    /// Sets whether the clock counts as synchronised regardless of the kernel
    /// (`[clock] trust = "always"`). Takes effect at the next [`Judge::observe`].
    pub fn set_always(&mut self, always: bool) {
        self.always = always;
    }

    /// Whether the clock counts as synchronised regardless of the kernel.
    pub fn is_always(&self) -> bool {
        self.always
    }

    /// Evaluates a reading of the clocks; once a second is enough.
    pub fn observe(&mut self, look: Look) {
        self.look = look;
        if !(look.synchronised || self.always) {
            self.steady = None;
            self.verdict = Verdict::NotSynchronised;
            return;
        }
        if look.raw < self.certain() {
            self.steady = None;
            let by_certificate = self.certain > self.build;
            self.verdict = Verdict::Impossible { certain: self.certain(), by_certificate };
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
                // Keeps the first reason, because its figures are those of the jump.
                let same = matches!(self.verdict, Verdict::Doubted(_)) && since_ms < look.boottime_ms;
                if !same {
                    self.verdict = Verdict::Doubted(doubt);
                }
            }
        }
    }

    /// Evaluates the evidence of an upstream chain that was verified, and whose key the peer has
    /// proved to possess.
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
            // The basis of this timeline is only the kernel, which is refuted: the timeline is
            // dropped.
            self.refuted = Some(look.offset());
            self.timeline = None;
            self.anchor = None;
            self.steady = None;
            self.revision += 1;
        }
        self.observe(look);
    }

    /// The user confirms that the clock is right.
    ///
    /// # Errors
    /// [`TrustError`]: the clock cannot be trusted.
    pub fn trust(&mut self, look: Look) -> Result<(), TrustError> {
        self.observe(look);
        match self.verdict {
            Verdict::NotSynchronised => return Err(TrustError::NotSynchronised),
            Verdict::Impossible { certain, by_certificate } => {
                return Err(TrustError::Impossible { certain, by_certificate });
            }
            Verdict::Doubted(_) => self.accept(Basis::Owner),
            Verdict::Trusted(Basis::Certificate | Basis::Owner) => {}
            Verdict::Trusted(Basis::Kernel | Basis::Duration) => self.settle(Basis::Owner),
        }
        Ok(())
    }

    /// The user resets the floor to the build date; the evidence of certificates is dropped. A
    /// clock in doubt stays in doubt.
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

    /// Why the clock is in doubt, if it is.
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
                // A time saved in an unknown boot may have been saved in this one, and is then not
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
        // Skipped if an earlier time was already accepted in this boot.
        let behind = self.anchor.is_none() && self.is_behind(look.raw);
        behind.then_some(Doubt::Behind { proven: self.proven })
    }

    /// Whether this time is more than a day before a proven time.
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

    /// The clock is at the expected time.
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
        // A day on one timeline is sufficient, because a machine that is off at night never runs
        // for a day.
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

    /// Updates the basis of the current timeline.
    fn settle(&mut self, basis: Basis) {
        if let Some(timeline) = &mut self.timeline
            && timeline.basis != basis
        {
            timeline.basis = basis;
            self.revision += 1;
        }
        self.verdict = Verdict::Trusted(basis);
    }

    /// Ends a doubt: a timeline begins, or the one from before the boot continues.
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

    /// Raises the floor to the current time, at most to the notAfter of the chain that proves it.
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

    /// The part of the floor that only the user lowers.
    fn certain(&self) -> UnixTime {
        self.build.max(self.certain)
    }

    /// A time that has certainly passed.
    pub fn floor(&self) -> UnixTime {
        self.certain().max(self.proven)
    }

    /// The verdict of the last [`Judge::observe`].
    pub fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// The current wall time if it is trusted; `None` also if the clock was set since the last
    /// reading.
    pub fn wall(&self, raw: UnixTime, boottime_ms: u64) -> Option<UnixTime> {
        let trusted = matches!(self.verdict, Verdict::Trusted(_))
            && raw >= self.certain()
            && self.anchor.is_some_and(|anchor| is_near(anchor, offset(raw, boottime_ms)));
        trusted.then_some(raw)
    }

    /// The current wall time if the clock is synchronised but in doubt.
    pub fn doubted(&self, raw: UnixTime, boottime_ms: u64) -> Option<UnixTime> {
        let vouched = matches!(self.verdict, Verdict::Doubted(_) | Verdict::Trusted(_));
        (vouched && raw >= self.certain() && self.wall(raw, boottime_ms).is_none()).then_some(raw)
    }

    /// The time from which wall times may be compared with the current time; `None` if none may.
    /// See [`Moment::ages_from`](super::Moment::ages_from).
    pub fn ages_from(&self) -> Option<UnixTime> {
        match self.verdict {
            Verdict::Trusted(Basis::Kernel) => None,
            Verdict::Trusted(_) => self.timeline.and_then(|timeline| timeline.since),
            _ => None,
        }
    }

    /// The state to save.
    pub fn saved(&self) -> Saved {
        Saved { certain: self.certain, proven: self.proven, timeline: self.timeline }
    }

    /// Incremented when the state should be saved without waiting for the hourly save.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The state of the clock.
    pub fn view(&self) -> View {
        let steady_in = matches!(self.verdict, Verdict::Doubted(_)).then(|| {
            let since_ms = self.steady.map_or(self.look.boottime_ms, |steady| steady.since_ms);
            STEADY.saturating_sub(Duration::from_millis(self.look.boottime_ms.saturating_sub(since_ms)))
        });
        View {
            verdict: self.verdict,
            synchronised: self.look.synchronised,
            floor: self.floor(),
            floor_from: match self.floor() {
                floor if floor == self.build => FloorSource::Build,
                floor if floor == self.certain => FloorSource::NotBefore,
                _ => FloorSource::Proven,
            },
            floor_ahead: self
                .floor()
                .0
                .checked_sub(self.look.raw.0)
                .filter(|ms| *ms > 0)
                .map(Duration::from_millis),
            basis: self.timeline.map(|timeline| timeline.basis),
            known: self.timeline.map(|timeline| timeline.known.wall),
            steady_in,
        }
    }
}

/// The latest possible floor.
fn cap(build: UnixTime) -> UnixTime {
    UnixTime(build.0.saturating_add(u64::try_from(CAP.as_millis()).unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests;
