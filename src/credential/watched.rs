//! Files that another program renews (certbot, cert-manager, ansible, a person): when what is in
//! them is offered as a candidate. Without I/O; the shell reads the files and says what it saw.
//!
//! | what is seen | what follows |
//! |---|---|
//! | the pair in use | nothing |
//! | a certificate whose key does not belong to it, half a file, none | nothing; after [`GRACE`] it is named |
//! | another pair, whole | after [`SETTLE`] without a change it is offered, once |
//! | a pair that was refused | not offered again before [`RETRY`], or before it changes |
//! | the same, and the pair in use does not serve | offered again by turns with that, and after a reload |
//! | the same, and a person asks for its proof | offered again at once |
//!
//! A program that writes the certificate first and the key later, or in several pieces, is so never
//! caught in the middle: a certificate without its own key is no pair.

use std::time::{Duration, Instant};

use super::decision::back_off;

/// So long the files must stay the same before what is in them is offered.
pub const SETTLE: Duration = Duration::from_secs(2);
/// So long they may be of no use before that is named.
pub const GRACE: Duration = Duration::from_secs(60);
/// After so long a pair that was refused is offered again: the peer may have changed its mind.
pub const RETRY: Duration = Duration::from_secs(6 * 3600);

/// What is in the files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// A certificate with its own key; a number that another pair does not have.
    Pair(u64),
    /// Why that is no pair, in one sentence.
    Unusable(String),
}

/// One pair of files.
#[derive(Debug, Default)]
pub struct Watched {
    seen: Option<(Seen, Instant)>,
    /// The pair that is in use.
    in_use: Option<u64>,
    /// The pair that is being proven.
    offered: Option<u64>,
    /// The pair that was refused last, when, and why.
    refused: Option<(u64, Instant, String)>,
    /// How often it was refused.
    times: u32,
    /// The pair in use is refused, or has expired.
    is_needed: bool,
    /// A person wants the pair proven that was refused.
    again: bool,
    /// A person says that the files are as they should be.
    asked: bool,
}

impl Watched {
    /// The pair that is in use, and the one that is being proven, if there are any.
    pub fn new(in_use: Option<u64>, offered: Option<u64>) -> Watched {
        Watched { in_use, offered, ..Watched::default() }
    }

    /// A person says that the files are done: what is of no use is named at once, and what was
    /// refused is offered again where the pair in use does not serve.
    pub fn handle_asked(&mut self) {
        self.asked = true;
        self.again |= self.is_needed;
    }

    /// A person wants what is in the files proven again. False: it was not refused.
    pub fn ask_again(&mut self) -> bool {
        let is_refused = match (&self.seen, &self.refused) {
            (Some((Seen::Pair(pair), _)), Some((refused, ..))) => pair == refused,
            _ => false,
        };
        self.again |= is_refused;
        is_refused
    }

    /// Whether the pair in use serves: nothing is known against it.
    pub fn handle_serves(&mut self, serves: bool) {
        self.is_needed = !serves;
    }

    /// Whether what was seen is not yet decided: the files are looked at again soon.
    pub fn is_unsettled(&self, now: Instant) -> bool {
        match &self.seen {
            Some((Seen::Pair(pair), _)) => {
                let waits = self
                    .refused
                    .as_ref()
                    .is_some_and(|refused| refused.0 == *pair && now < self.again_at(refused));
                Some(*pair) != self.in_use && Some(*pair) != self.offered && !waits
            }
            Some((Seen::Unusable(_), since)) => now.saturating_duration_since(*since) < GRACE,
            None => true,
        }
    }

    /// Whether a pair was seen that is not yet decided.
    pub fn is_new(&self, now: Instant) -> bool {
        matches!(self.seen, Some((Seen::Pair(_), _))) && self.is_unsettled(now)
    }

    /// When a pair that was refused is offered again.
    fn again_at(&self, (_, at, _): &(u64, Instant, String)) -> Instant {
        *at + match (self.again, self.is_needed) {
            (true, _) => Duration::ZERO,
            (false, true) => back_off(self.times, None, true),
            (false, false) => RETRY,
        }
    }

    /// Takes what is in the files now. True: it is to be offered.
    pub fn handle_seen(&mut self, now: Instant, seen: Seen) -> bool {
        if self.seen.as_ref().is_none_or(|(before, _)| *before != seen) {
            self.seen = Some((seen, now));
            return false;
        }
        let at_again = self.refused.as_ref().map(|refused| self.again_at(refused));
        let Some((Seen::Pair(pair), since)) = self.seen else { return false };
        self.asked = false;
        if Some(pair) == self.in_use || Some(pair) == self.offered {
            return false;
        }
        let is_refused = self.refused.as_ref().is_some_and(|(refused, ..)| *refused == pair);
        let at = at_again.filter(|_| is_refused).unwrap_or(since + SETTLE);
        if now < at {
            return false;
        }
        self.again = false;
        self.offered = Some(pair);
        true
    }

    /// What was offered could not be stored: it is offered again after [`SETTLE`].
    pub fn handle_undone(&mut self, now: Instant) {
        self.offered = None;
        if let Some((_, since)) = &mut self.seen {
            *since = now;
        }
    }

    /// This pair is in use now.
    pub fn handle_in_use(&mut self, pair: u64) {
        self.in_use = Some(pair);
        self.offered = self.offered.filter(|offered| *offered != pair);
        self.refused = self.refused.take().filter(|(refused, ..)| *refused != pair);
        if self.refused.is_none() {
            (self.times, self.again) = (0, false);
        }
    }

    /// This pair was given up, or a person does not want it.
    pub fn handle_refused(&mut self, now: Instant, pair: u64, why: String) {
        self.offered = self.offered.filter(|offered| *offered != pair);
        let is_same = self.refused.as_ref().is_some_and(|(refused, ..)| *refused == pair);
        self.times = if is_same { self.times.saturating_add(1) } else { 1 };
        self.again = false;
        self.refused = Some((pair, now, why));
    }

    /// The pair that is being proven.
    pub fn offered(&self) -> Option<u64> {
        self.offered
    }

    /// Whether the files have the pair that is in use.
    pub fn is_in_use(&self) -> bool {
        matches!(self.seen, Some((Seen::Pair(pair), _)) if Some(pair) == self.in_use)
    }

    /// What is wrong with the files at present, and lasts, in one sentence.
    pub fn problem(&self, now: Instant) -> Option<String> {
        match self.seen.as_ref()? {
            (Seen::Pair(pair), _) => {
                let (.., why) = self.refused.as_ref().filter(|(refused, ..)| refused == pair)?;
                Some(format!("the new files are not used: {why}"))
            }
            (Seen::Unusable(why), since) => {
                let lasts = now.saturating_duration_since(*since) >= GRACE;
                (lasts || self.asked).then(|| why.clone())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct World {
        begin: Instant,
        seconds: u64,
        watched: Watched,
    }

    impl World {
        fn new() -> World {
            World { begin: Instant::now(), seconds: 0, watched: Watched::new(Some(1), None) }
        }

        fn now(&self) -> Instant {
            self.begin + Duration::from_secs(self.seconds)
        }

        /// Looks each second for so long; whether something was offered.
        fn sees(&mut self, seen: &Seen, seconds: u64) -> bool {
            let mut offered = false;
            for _ in 0..seconds {
                offered |= self.watched.handle_seen(self.now(), seen.clone());
                self.seconds += 1;
            }
            offered
        }
    }

    fn mismatch() -> Seen {
        Seen::Unusable("the key does not belong to the certificate".to_owned())
    }

    #[test]
    fn a_certificate_that_comes_before_its_key_is_offered_once_both_are_there() {
        let mut world = World::new();
        assert!(!world.sees(&Seen::Pair(1), 100), "it is in use");
        assert!(!world.sees(&mismatch(), 30));
        assert_eq!(world.watched.problem(world.now()), None, "a window of seconds is no problem");
        assert!(!world.sees(&Seen::Pair(2), 2));
        assert!(world.sees(&Seen::Pair(2), 2));
        assert!(!world.sees(&Seen::Pair(2), 1_000), "once");
        world.watched.handle_in_use(2);
        assert!(!world.sees(&Seen::Pair(2), 1_000));
        assert_eq!(world.watched.problem(world.now()), None);
    }

    #[test]
    fn files_that_change_all_the_time_are_not_offered_and_those_of_no_use_are_named_after_a_minute() {
        let mut world = World::new();
        for pair in 2..100 {
            assert!(!world.sees(&Seen::Pair(pair), 2));
        }
        assert!(!world.sees(&mismatch(), 59));
        assert_eq!(world.watched.problem(world.now()), None);
        assert!(!world.sees(&mismatch(), 2));
        assert!(world.watched.problem(world.now()).is_some_and(|why| why.contains("belong")));
        assert!(!world.sees(&Seen::Pair(1), 2), "the old pair is back");
        assert_eq!(world.watched.problem(world.now()), None);
    }

    #[test]
    fn a_refused_pair_is_named_and_offered_again_when_it_changes_or_after_six_hours() {
        let mut world = World::new();
        assert!(world.sees(&Seen::Pair(2), 4));
        world.watched.handle_refused(world.now(), 2, "unknown CA".to_owned());
        assert!(!world.watched.is_unsettled(world.now()));
        assert!(!world.sees(&Seen::Pair(2), 6 * 3600 - 5));
        assert!(world.watched.problem(world.now()).is_some_and(|why| why.contains("unknown CA")));
        assert!(world.sees(&Seen::Pair(2), 10), "after six hours");
        world.watched.handle_refused(world.now(), 2, "unknown CA".to_owned());
        assert!(world.sees(&Seen::Pair(3), 4), "another one");
        world.watched.handle_in_use(3);
        assert!(!world.watched.is_unsettled(world.now()));
    }

    #[test]
    fn a_refused_pair_is_tried_by_turns_where_the_one_in_use_does_not_serve_and_at_once_by_a_reload() {
        let mut world = World::new();
        assert!(world.sees(&Seen::Pair(2), 4));
        world.watched.handle_refused(world.now(), 2, "not authorized".to_owned());
        world.watched.handle_asked();
        assert!(!world.sees(&Seen::Pair(2), 3600), "the one in use serves: a reload costs no connection");
        world.watched.handle_serves(false);
        assert!(world.watched.is_unsettled(world.now()));
        assert!(world.sees(&Seen::Pair(2), 2));
        for wait in [120, 240, 480, 900, 900] {
            world.watched.handle_refused(world.now(), 2, "not authorized".to_owned());
            assert!(!world.watched.is_unsettled(world.now()));
            assert!(!world.sees(&Seen::Pair(2), wait), "{wait}");
            assert!(world.sees(&Seen::Pair(2), 2), "{wait}");
        }
        world.watched.handle_refused(world.now(), 2, "not authorized".to_owned());
        world.watched.handle_asked();
        assert!(world.sees(&Seen::Pair(2), 2), "after a reload");
        world.watched.handle_in_use(2);
        world.watched.handle_serves(true);
        assert!(!world.sees(&Seen::Pair(2), 3600));
    }

    #[test]
    fn a_refused_pair_is_tried_at_once_where_a_person_asks_for_its_proof() {
        let mut world = World::new();
        assert!(world.sees(&Seen::Pair(2), 4));
        assert!(!world.watched.ask_again(), "it was not refused");
        world.watched.handle_refused(world.now(), 2, "not authorized".to_owned());
        assert!(world.watched.ask_again());
        assert!(world.sees(&Seen::Pair(2), 2));
        world.watched.handle_refused(world.now(), 2, "not authorized".to_owned());
        assert!(!world.sees(&Seen::Pair(2), 3600), "once");
    }

    #[test]
    fn after_a_reload_what_is_of_no_use_is_named_at_once() {
        let mut world = World::new();
        assert!(!world.sees(&Seen::Pair(1), 100));
        world.watched.handle_asked();
        assert!(!world.sees(&mismatch(), 1));
        assert!(world.watched.problem(world.now()).is_some_and(|why| why.contains("belong")));
        assert!(!world.sees(&Seen::Pair(1), 2), "the old pair is back");
        assert!(!world.sees(&mismatch(), 2));
        assert_eq!(world.watched.problem(world.now()), None, "and later a window is no problem again");
    }

    #[test]
    fn what_could_not_be_stored_is_offered_again() {
        let mut world = World::new();
        assert!(world.sees(&Seen::Pair(2), 4));
        world.watched.handle_undone(world.now());
        assert!(!world.sees(&Seen::Pair(2), 2));
        assert!(world.sees(&Seen::Pair(2), 2));
    }
}
