//! What is said of a unit that fails, or answers oddly.

use std::time::Duration;

use super::super::super::State;
use super::super::fault::{Failing, Failure, Medium};
use super::super::learn::Obstacle;
use super::super::misfit::Misfit;
use super::{Refusal, Unit};

/// Requests in a row whose answer came from another address, after which that is named.
const FOREIGN: u32 = 3;

impl Unit {
    /// How it failed last, if it did, and did not answer since.
    pub(in super::super) fn failing(&self) -> Option<Failing> {
        let misfit = self.misfit.filter(|_| self.failing == Some(Failure::Misfit));
        let medium = Medium::default();
        let beyond = self.lateness.beyond(self.settings.timeout).filter(|_| self.is_late);
        let (is_late, crossed, is_behind) = (self.is_late, self.crossed, self.is_behind());
        let is_displaced = self.is_displaced;
        let failure = self.failing?;
        Some(Failing { failure, misfit, is_late, is_displaced, is_behind, beyond, crossed, medium })
    }

    /// A request to it failed. `sure`: meanwhile a frame of this other address came that lateness
    /// does not explain; `maybe`: one that may be a late one. The address from which its answers
    /// come, once that is certain: then what seemed late was not.
    pub(in super::super) fn foreign(&mut self, sure: Option<u8>, maybe: Option<u8>) -> Option<u8> {
        self.foreign = match (sure, self.foreign) {
            (Some(address), Some((known, times))) if known == address => Some((known, times + 1)),
            (Some(address), _) => Some((address, 1)),
            (None, known) => known.filter(|(address, _)| maybe == Some(*address)),
        };
        let address = self.answers_from()?;
        self.lateness.forget_wait();
        Some(address)
    }

    /// The other address from which its answers come, if that is certain.
    pub(in super::super) fn answers_from(&self) -> Option<u8> {
        self.foreign.filter(|(_, times)| *times >= FOREIGN).map(|(address, _)| address)
    }

    /// An answer to it named this unit. Whether that is another one that is to be told.
    pub(in super::super) fn named(&mut self, address: u8) -> bool {
        self.answers_as = Some(address).filter(|address| *address != self.settings.address);
        let is_news = self.answers_as.is_some() && self.answers_as != self.told_as;
        self.told_as = self.answers_as.or(self.told_as);
        is_news
    }

    /// The other unit that its last answer named, if it did.
    pub(in super::super) fn answers_as(&self) -> Option<u8> {
        self.answers_as
    }

    /// Whether it answers its own requests.
    pub(in super::super) fn is_healthy(&self) -> bool {
        self.failures == 0 && self.state == State::Up
    }

    /// A frame of this unit with the function asked for, but not as long as asked for.
    pub(in super::super) fn misfit(&mut self, misfit: Misfit) {
        self.counters.misfits += 1;
        self.misfit = Some(misfit);
    }

    /// Whether an answer of this length differs from what was asked for as another one did that was
    /// no late one.
    pub(in super::super) fn is_as_odd(&self, bytes: usize, asked: usize) -> bool {
        self.misfit.is_some_and(|known| {
            let is_alike = known.function == known.asked_function && known.announced.is_none();
            let is_longer = bytes + known.asked == asked + known.bytes;
            is_alike && bytes != asked && (is_longer || (known.bytes, known.asked) == (bytes, asked))
        })
    }

    /// The shortest time after any answer on the line at which it was asked, and answered.
    pub(in super::super) fn soonest_on_line(&self) -> Option<Duration> {
        self.soonest.map(|soonest| soonest.line)
    }

    /// Whether it is silent where it may have been asked too soon: less than this after an answer
    /// on the line.
    pub(in super::super) fn may_want_rest(&self, rest: Duration) -> bool {
        let is_of_it = |known: &Refusal| matches!(known.why, Obstacle::Silence | Obstacle::Missed);
        let is_silent = self.state == State::Down && self.failing == Some(Failure::Silent);
        let is_sooner = self.ignored_after.is_some_and(|after| after < rest);
        is_sooner && (is_silent || self.refused.iter().any(is_of_it))
    }
}
