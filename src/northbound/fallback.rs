//! Which MQTT is spoken, and whether with a will: the best the broker takes.
//!
//! ```text
//! best first:  5 with will ─> 3.1.1 with will ─> 5 without ─> 3.1.1 without ─> from the top
//!
//! one below the best is accepted ──> at once, before anything is published: the better one again
//!                                        │                            │
//!                                     accepted: used              refused: the lower one is settled on
//! ```
//!
//! A load balancer whose back end restarts closes connections whatever is spoken, so a failure
//! alone proves nothing: only *the better one fails, the lower one is accepted, the better one
//! fails again at once* does. 3.1.1 that was settled on is never taken for granted: every reconnect
//! tries 5 first, once. A will that was left out is tried again after an hour.

use std::time::{Duration, Instant};

use super::settings::Protocol;
use super::wire::Version;

/// A will the broker does not take is left out for so long.
const WILL_LEFT_OUT: Duration = Duration::from_secs(3600);

/// A way to connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Variant {
    /// Which MQTT.
    pub version: Version,
    /// Whether CONNECT has a will.
    pub will: bool,
}

/// What a failed attempt says about its variant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttemptFailure {
    /// Nothing: the broker was not reached, or not reached as far as that.
    Nothing,
    /// The broker said that it does not speak this version.
    Version,
    /// It closed the connection instead of answering CONNECT.
    Closed,
    /// It refused CONNECT for a reason that may be the will.
    Will,
}

/// What to do with an accepted connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnAccepted {
    /// It is used.
    Use,
    /// It is closed at once: a better variant is tried once more first.
    TryBetter,
}

/// What was settled on, below the best.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settled {
    /// How the broker is spoken to.
    pub variant: Variant,
    /// Why 5 is not spoken; `None`: it is.
    pub why_version: Option<String>,
    /// Why there is no will; `None`: there is, or there never was one.
    pub why_will: Option<String>,
    /// Since when.
    pub since: Instant,
}

/// The memory of what the broker takes.
#[derive(Clone, Debug)]
pub struct Fallback {
    /// Best first.
    ladder: Vec<Variant>,
    at: usize,
    /// Accepted, and to be confirmed; with what is still to be tried for that.
    candidate: Option<(usize, Vec<usize>)>,
    /// What each variant failed with last.
    said: Vec<Option<String>>,
    settled: Option<Settled>,
    will_again_at: Option<Instant>,
    /// The will was accepted or suspected before: only the first time it is tried without it at
    /// once, since it may be the credentials.
    doubted_will: bool,
}

impl Fallback {
    /// `will`: whether there is one to be sent at all.
    pub fn new(protocol: Protocol, will: bool) -> Fallback {
        let versions: &[Version] = match protocol {
            Protocol::Auto => &[Version::V5, Version::V3_1_1],
            Protocol::V5 => &[Version::V5],
            Protocol::V3_1_1 => &[Version::V3_1_1],
        };
        let wills: &[bool] = if will { &[true, false] } else { &[false] };
        let ladder: Vec<Variant> = wills
            .iter()
            .flat_map(|will| versions.iter().map(|version| Variant { version: *version, will: *will }))
            .collect();
        let said = vec![None; ladder.len()];
        Fallback {
            ladder,
            at: 0,
            candidate: None,
            said,
            settled: None,
            will_again_at: None,
            doubted_will: false,
        }
    }

    /// How the next attempt connects.
    pub fn variant(&self) -> Variant {
        self.ladder[self.at]
    }

    /// What was settled on, if it is not the best.
    pub fn settled(&self) -> Option<&Settled> {
        self.settled.as_ref()
    }

    /// When a will that is left out is tried again.
    pub fn will_again_at(&self) -> Option<Instant> {
        self.will_again_at
    }

    /// The best variant that is not known to be refused lately.
    fn top(&self, now: Instant) -> usize {
        let will_left_out = self.will_again_at.is_some_and(|at| now < at);
        self.ladder.iter().position(|variant| !(will_left_out && variant.will)).unwrap_or(0)
    }

    /// The connection that was used is gone: the next attempt begins at the top.
    pub fn handle_lost(&mut self, now: Instant) {
        if self.will_again_at.is_some_and(|at| now >= at) {
            self.will_again_at = None;
        }
        self.at = self.top(now);
        self.candidate = None;
    }

    /// An attempt failed; `what` says how. Whether the next one may follow at once.
    pub fn handle_failed(&mut self, now: Instant, failure: AttemptFailure, what: &str) -> bool {
        if failure == AttemptFailure::Nothing {
            if self.candidate.take().is_some() {
                // Nobody knows whether the better one would have been accepted: from the top.
                self.at = self.top(now);
            }
            return false;
        }
        self.said[self.at] = Some(what.to_owned());
        if let Some((candidate, better)) = &mut self.candidate {
            self.at = better.pop().unwrap_or(*candidate);
            return true;
        }
        let was_top = self.at == self.top(now);
        let settled = self.settled.as_ref().map(|settled| settled.variant);
        if let Some(settled) = settled.filter(|settled| was_top && *settled != self.variant())
            && let Some(known) = self.ladder.iter().position(|variant| *variant == settled)
        {
            self.at = known;
            return true;
        }
        let Variant { version, will } = self.variant();
        // Downwards only: else a broker that refuses both would be asked without end.
        let next = match failure {
            AttemptFailure::Version => {
                self.ladder.iter().position(|other| other.version != version && other.will == will)
            }
            AttemptFailure::Will if will => {
                self.ladder.iter().position(|other| other.version == version && !other.will)
            }
            _ => None,
        };
        let next = next.filter(|next| *next > self.at);
        let top = self.top(now);
        let below = Some(self.at + 1).filter(|at| *at < self.ladder.len());
        self.at = next.or(below).unwrap_or(top).max(top);
        let is_sure = failure == AttemptFailure::Version;
        let is_first =
            failure == AttemptFailure::Will && will && !std::mem::replace(&mut self.doubted_will, true);
        (is_sure || is_first) && next.is_some()
    }

    /// CONNACK came with success.
    pub fn handle_accepted(&mut self, now: Instant) -> OnAccepted {
        let variant = self.variant();
        self.doubted_will |= variant.will;
        if self.at == 0 {
            (self.settled, self.will_again_at) = (None, None);
        }
        if self.at == self.top(now) {
            // With a will left out lately, 5 is back all the same.
            if let Some(settled) = &mut self.settled
                && variant.version == self.ladder[0].version
            {
                settled.variant = variant;
                settled.why_version = None;
            }
            self.candidate = None;
            return OnAccepted::Use;
        }
        if self.settled.as_ref().is_some_and(|settled| settled.variant == variant) {
            self.candidate = None;
            return OnAccepted::Use;
        }
        if self
            .candidate
            .as_ref()
            .is_some_and(|(candidate, better)| *candidate == self.at && better.is_empty())
        {
            self.settle(now, variant);
            return OnAccepted::Use;
        }
        let top = self.top(now);
        let is_better = |other: &Variant| {
            (other.version != variant.version) != (other.will != variant.will)
                && (other.version == self.ladder[0].version || other.version == variant.version)
                && (other.will || other.will == variant.will)
        };
        let mut better: Vec<usize> =
            (top..self.ladder.len()).filter(|at| is_better(&self.ladder[*at])).collect();
        let candidate = self.at;
        match better.pop() {
            Some(at) => self.at = at,
            None => return OnAccepted::Use,
        }
        self.candidate = Some((candidate, better));
        OnAccepted::TryBetter
    }

    fn settle(&mut self, now: Instant, variant: Variant) {
        self.candidate = None;
        let said = |wanted: &dyn Fn(&Variant) -> bool| {
            let at = self.ladder.iter().position(wanted)?;
            self.said[at].clone()
        };
        let why_version = (variant.version != self.ladder[0].version)
            .then(|| said(&|other| other.version != variant.version && other.will == variant.will))
            .flatten();
        let why_will = (variant.will != self.ladder[0].will)
            .then(|| said(&|other| other.version == variant.version && other.will))
            .flatten();
        if variant.will != self.ladder[0].will {
            self.will_again_at = Some(now + WILL_LEFT_OUT);
        }
        self.settled = Some(Settled { variant, why_version, why_will, since: now });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use AttemptFailure::{Closed, Nothing, Will};
    use Version::{V3_1_1, V5};

    const fn variant(version: Version, will: bool) -> Variant {
        Variant { version, will }
    }

    fn auto(will: bool) -> (Fallback, Instant) {
        (Fallback::new(Protocol::Auto, will), Instant::now())
    }

    /// Connects to a broker that takes what `takes` says, until a connection is used. The variants
    /// tried.
    fn connect(
        fallback: &mut Fallback,
        now: Instant,
        failure: AttemptFailure,
        takes: impl Fn(Variant) -> bool,
    ) -> Vec<Variant> {
        let mut tried = Vec::new();
        for _ in 0..12 {
            tried.push(fallback.variant());
            if takes(fallback.variant()) {
                if fallback.handle_accepted(now) == OnAccepted::Use {
                    return tried;
                }
            } else {
                fallback.handle_failed(now, failure, "no");
            }
        }
        panic!("{tried:?}");
    }

    #[test]
    fn a_broker_that_takes_the_best_gets_it() {
        let (mut fallback, now) = auto(true);
        assert_eq!(connect(&mut fallback, now, Closed, |_| true), [variant(V5, true)]);
        assert_eq!(fallback.settled(), None);
    }

    #[test]
    fn the_older_version_is_settled_on_only_after_5_failed_once_more_and_5_is_tried_at_every_reconnect() {
        for failure in [Closed, AttemptFailure::Version] {
            let (mut fallback, now) = auto(true);
            let old = |variant: Variant| variant.version == V3_1_1;
            let (five, three) = (variant(V5, true), variant(V3_1_1, true));
            assert_eq!(connect(&mut fallback, now, failure, old), [five, three, five, three]);
            let settled = fallback.settled().unwrap();
            assert_eq!((settled.variant, settled.why_version.as_deref()), (three, Some("no")));
            assert_eq!(settled.why_will, None);
            fallback.handle_lost(now);
            assert_eq!(connect(&mut fallback, now, failure, old), [five, three]);
            fallback.handle_lost(now);
            assert_eq!(connect(&mut fallback, now, failure, |_| true), [five]);
            assert_eq!(fallback.settled(), None);
        }
    }

    #[test]
    fn a_load_balancer_that_closes_for_a_while_changes_nothing() {
        for closes in 0..20 {
            let (mut fallback, now) = auto(true);
            for _ in 0..closes {
                fallback.handle_failed(now, Closed, "no");
            }
            let tried = connect(&mut fallback, now, Closed, |_| true);
            assert_eq!(tried.last(), Some(&variant(V5, true)), "{closes}");
            assert_eq!(fallback.settled(), None);
        }
    }

    #[test]
    fn a_failure_that_says_nothing_changes_nothing_and_makes_a_confirmation_begin_again() {
        let (mut fallback, now) = auto(false);
        for _ in 0..10 {
            assert!(!fallback.handle_failed(now, Nothing, "unreachable"));
            assert_eq!(fallback.variant(), variant(V5, false));
        }
        fallback.handle_failed(now, Closed, "closed");
        assert_eq!(fallback.handle_accepted(now), OnAccepted::TryBetter);
        fallback.handle_failed(now, Nothing, "unreachable");
        assert_eq!(fallback.variant(), variant(V5, false));
        assert_eq!(connect(&mut fallback, now, Closed, |_| true), [variant(V5, false)]);
    }

    #[test]
    fn a_will_that_is_refused_is_found_left_out_and_tried_again_after_an_hour() {
        for failure in [Closed, Will] {
            let (mut fallback, now) = auto(true);
            connect(&mut fallback, now, failure, |variant| !variant.will);
            let settled = fallback.settled().unwrap().clone();
            assert_eq!(settled.variant, variant(V5, false));
            assert_eq!((settled.why_version, settled.why_will.as_deref()), (None, Some("no")));
            fallback.handle_lost(now);
            assert_eq!(fallback.variant(), variant(V5, false));
            fallback.handle_lost(now + WILL_LEFT_OUT);
            assert_eq!(fallback.variant(), variant(V5, true));
            connect(&mut fallback, now, failure, |_| true);
            assert_eq!(fallback.settled(), None);
        }
    }

    #[test]
    fn an_old_broker_without_wills_is_spoken_to_without_either() {
        let (mut fallback, now) = auto(true);
        let takes = |other: Variant| other == variant(V3_1_1, false);
        connect(&mut fallback, now, Closed, takes);
        let settled = fallback.settled().unwrap();
        assert_eq!(settled.variant, variant(V3_1_1, false));
        assert!(settled.why_version.is_some() && settled.why_will.is_some());
        fallback.handle_lost(now);
        assert_eq!(connect(&mut fallback, now, Closed, takes), [variant(V5, false), variant(V3_1_1, false)]);
    }

    #[test]
    fn a_broker_that_refuses_every_version_is_not_asked_without_end() {
        let (mut fallback, now) = auto(true);
        let at_once = (0..100).filter(|_| fallback.handle_failed(now, AttemptFailure::Version, "no")).count();
        assert!(at_once <= 50, "{at_once}");
    }

    #[test]
    fn a_version_the_owner_named_is_kept() {
        let now = Instant::now();
        for (protocol, version) in [(Protocol::V5, V5), (Protocol::V3_1_1, V3_1_1)] {
            let mut fallback = Fallback::new(protocol, false);
            for _ in 0..5 {
                assert!(!fallback.handle_failed(now, AttemptFailure::Version, "no"));
                assert_eq!(fallback.variant(), variant(version, false));
            }
        }
    }
}
