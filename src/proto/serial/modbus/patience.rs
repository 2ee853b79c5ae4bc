//! What a unit needs beside its time-out: to be woken, or to be waited for behind an exception.
//!
//! * A unit that sleeps is silent to the first request and answers one that comes soon after. After
//!   two failures, and at each second one from then on, a request is sent once more after a part of
//!   the time in which its answer is waited for. If that helps twice, it is done with each request
//!   that follows a longer silence, until the first one is answered again. It costs the other units
//!   nothing, and an answer to either of the two answers the same.
//! * Some units send exception 5 or 6, and then the data without being asked again. So after such
//!   an exception the rest of the time-out is waited. If nothing came three times, this is not done
//!   any more, until data comes that nothing was asked for any more. After one in vain the unit is
//!   left alone before another read, until what may come later has come: nothing would tell it
//!   from the answer to that.

use std::time::{Duration, Instant};

use super::copies::Copy;
use super::pdu::{Answer, Exception};

/// So often a repeated request must have been answered.
const WOKEN: u32 = 2;
/// So often the first request must have been answered.
const AWAKE: u32 = 5;
/// Failures after which it is tried.
const FAILURES: u32 = 2;
/// Exceptions in vain after which the data is not waited for any more.
const IN_VAIN: u32 = 3;

/// The patience with one unit.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Patience {
    woken: u32,
    awake: u32,
    in_vain: u32,
    /// The last answer was such an exception.
    is_excepted: bool,
}

impl Patience {
    /// Whether the next request may have to wake the unit. `silence`: since the last one ended.
    pub(super) fn may_sleep(&self, failures: u32, silence: Duration, timeout: Duration) -> bool {
        failures >= FAILURES && failures.is_multiple_of(2) || self.is_sleepy() && silence >= timeout
    }

    /// Whether it was found to sleep.
    pub(super) fn is_sleepy(&self) -> bool {
        self.woken >= WOKEN
    }

    /// The second of two requests was answered.
    pub(super) fn woke(&mut self) {
        (self.woken, self.awake) = (self.woken.saturating_add(1), 0);
    }

    /// The first of two requests was answered.
    pub(super) fn was_awake(&mut self) {
        self.awake = self.awake.saturating_add(1);
        if self.awake >= AWAKE {
            self.woken = 0;
        }
    }

    /// Whether data may follow this exception.
    pub(super) fn may_defer(&self, exception: Exception) -> bool {
        matches!(exception, Exception::ACKNOWLEDGE | Exception::BUSY) && self.in_vain < IN_VAIN
    }

    /// An answer came; `is_deferred`: the rest of a time-out was waited behind an exception.
    pub(super) fn answered(&mut self, is_deferred: bool, answer: Answer<'_>) {
        self.is_excepted = matches!(answer, Answer::Exception(Exception::ACKNOWLEDGE | Exception::BUSY));
        match answer {
            Answer::Exception(_) if is_deferred => self.in_vain = self.in_vain.saturating_add(1),
            Answer::Data(_) if is_deferred => self.in_vain = 0,
            _ => {}
        }
    }

    /// A frame came that nothing was asked for any more.
    pub(super) fn unasked(&mut self) {
        if self.is_excepted {
            self.in_vain = 0;
        }
    }

    /// Data came behind an exception after its timeout.
    pub(super) fn was_owed(&mut self) {
        self.in_vain = 0;
    }
}

/// Frames of a unit that nothing was asked of: another one has its address, or another master asks
/// it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Surplus {
    frames: u64,
    /// Copies of answers, and how many answers came twice, three times and so on.
    copies: u64,
    times: [u32; TIMES],
    /// When one came that looks like a copy, and how long after its answer at most.
    hint: Option<(Instant, Duration)>,
    /// The last one came so long after its answer.
    after: Duration,
    at: Option<Instant>,
}

/// So many are no accident.
const FRAMES: u64 = 3;
/// Most times of one answer that are told apart, from two on.
const TIMES: usize = 4;
/// So long one frame that looks like a copy is reckoned with.
const HINTED: Duration = Duration::from_secs(10);
/// So long one is remembered.
const REMEMBERED: Duration = Duration::from_secs(600);

impl Surplus {
    /// A frame came, so long after the unit's last answer.
    pub(super) fn came(&mut self, now: Instant, after: Duration) {
        self.note(now, after);
        self.frames += 1;
    }

    /// A copy of an answer came, so long after it.
    pub(super) fn copied(&mut self, now: Instant, copy: Copy) {
        self.note(now, copy.after);
        self.copies += 1;
        // One that came three times was one of two before.
        let at = (copy.times.saturating_sub(2) as usize).min(TIMES - 1);
        if let Some(less) = at.checked_sub(1).and_then(|at| self.times.get_mut(at)) {
            *less = less.saturating_sub(1);
        }
        if let Some(times) = self.times.get_mut(at) {
            *times = times.saturating_add(1);
        }
    }

    /// A frame came that looks like a copy, so long after its answer: more may follow.
    pub(super) fn hinted(&mut self, now: Instant, after: Duration) {
        let longest =
            self.hint.filter(|(at, _)| now <= *at + HINTED).map_or(after, |(_, known)| known.max(after));
        self.hint = Some((now, longest));
    }

    fn note(&mut self, now: Instant, after: Duration) {
        if self.at.is_some_and(|at| now > at + REMEMBERED) {
            *self = Surplus::default();
        }
        self.at = Some(now);
        if after < REMEMBERED {
            self.after = self.after.max(after);
        }
    }

    /// So many came, if that is no accident.
    pub(super) fn frames(&self) -> u64 {
        if self.frames >= FRAMES { self.frames } else { 0 }
    }

    /// How often its answers come, and how many copies came, if that is no accident.
    pub(super) fn copies(&self) -> Option<(u32, u64)> {
        let most = self.times.iter().zip(2..).max_by_key(|(count, _)| **count);
        (self.copies >= FRAMES).then_some((most.map_or(2, |(_, times)| times), self.copies))
    }

    /// How long after an answer the next request is sent at the earliest, so that a second answer
    /// comes before it.
    pub(super) fn pause(&self, now: Instant, longest: Duration) -> Duration {
        let is_known =
            self.frames + self.copies >= FRAMES && self.at.is_some_and(|at| now <= at + REMEMBERED);
        let known = if is_known { 2 * self.after } else { Duration::ZERO };
        let hint =
            self.hint.filter(|(at, _)| now <= *at + HINTED).map_or(Duration::ZERO, |(_, after)| 3 * after);
        known.max(hint).min(longest)
    }
}
