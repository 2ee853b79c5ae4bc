//! Which retained reading of a topic is the newest that was sent, so that an older one sent again
//! does not take its place.
//!
//! A record that comes again, because it was suspected, rejected and retried, or not answered on a
//! connection that is gone, keeps its retain flag only if nothing newer on its topic was sent with
//! one. What was sent before this uplink began, and what had to be forgotten (beyond 4,096 topics),
//! is not known: there a retried record is published without the flag.

use std::collections::BTreeMap;

use super::suspicion::TopicKey;

const TOPICS_MAX: usize = 4096;

/// The newest retained readings.
#[derive(Clone, Debug)]
pub struct NewestRetained {
    /// When it was received, in milliseconds of CLOCK_BOOTTIME; 0 in an earlier boot.
    newest: BTreeMap<TopicKey, u64>,
    /// What was received before this is not known.
    known_from_ms: u64,
}

/// How a record with the retain flag comes to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coming {
    /// For the first time, in its order.
    First,
    /// Again on another connection, in its order.
    Again,
    /// Out of its order: suspected, or rejected and retried.
    Late,
}

impl NewestRetained {
    /// Nothing was sent yet. `boottime_ms`: now, by CLOCK_BOOTTIME.
    pub fn new(boottime_ms: u64) -> NewestRetained {
        NewestRetained { newest: BTreeMap::new(), known_from_ms: boottime_ms }
    }

    /// Whether a record received at `received_ms` of this boot (0: of an earlier one) is sent with
    /// its retain flag.
    pub fn may_retain(&mut self, topic: TopicKey, received_ms: u64, coming: Coming) -> bool {
        let newest = self.newest.get(&topic).copied();
        let overtaken = newest.is_some_and(|newest| newest > received_ms);
        let keeps = match coming {
            Coming::First => true,
            Coming::Again => !overtaken,
            Coming::Late => !overtaken && received_ms >= self.known_from_ms,
        };
        if keeps && newest.is_none_or(|newest| newest < received_ms) {
            if newest.is_none() && self.newest.len() >= TOPICS_MAX {
                // All that is known of is older than what comes from now on.
                self.known_from_ms = self.newest.values().copied().max().unwrap_or(0).max(received_ms) + 1;
                self.newest.clear();
            }
            self.newest.insert(topic, received_ms);
        }
        keeps
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_one_that_comes_late_or_again_does_not_replace_a_newer() {
        let mut retained = NewestRetained::new(100);
        let topic = TopicKey::of("a");
        assert!(retained.may_retain(topic, 110, Coming::First));
        assert!(retained.may_retain(topic, 120, Coming::First));
        assert!(!retained.may_retain(topic, 110, Coming::Again));
        assert!(!retained.may_retain(topic, 110, Coming::Late));
        assert!(retained.may_retain(topic, 120, Coming::Again));
        assert!(retained.may_retain(TopicKey::of("b"), 110, Coming::Late));
    }

    #[test]
    fn what_happened_before_the_start_is_not_guessed() {
        let mut retained = NewestRetained::new(100);
        assert!(!retained.may_retain(TopicKey::of("a"), 99, Coming::Late));
        assert!(retained.may_retain(TopicKey::of("a"), 99, Coming::First));
    }

    #[test]
    fn what_was_forgotten_is_not_guessed_either() {
        let mut retained = NewestRetained::new(0);
        for number in 0..=TOPICS_MAX as u64 {
            assert!(retained.may_retain(TopicKey::of(&number.to_string()), 10 + number, Coming::First));
        }
        assert!(!retained.may_retain(TopicKey::of("3"), 13, Coming::Late));
    }
}
