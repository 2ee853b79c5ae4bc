//! What a device was refused last, for `device show`: kept for each device that was refused since
//! the start, in one allocation that is used again.

use std::time::Instant;

use super::stage::Refusal;
use crate::message::{Name, beginning};

/// Bytes of the path that are kept. A device that was refused takes about 200 bytes with it, any
/// other 8.
pub const PATH_KEPT: usize = 64;

/// The newest refusal of a device.
#[derive(Clone, Debug)]
pub struct LastRefusal {
    /// When.
    pub at: Instant,
    /// Why.
    pub refusal: Refusal,
    /// The rule that decided; `None` if no rule matches, or none was asked.
    pub rule: Option<Name>,
    path: String,
    is_cut: bool,
}

impl LastRefusal {
    /// The first one of a device.
    pub(super) fn new(now: Instant, path: &str, refusal: &Refusal, rule: Option<&Name>) -> LastRefusal {
        let mut last = LastRefusal {
            at: now,
            refusal: refusal.clone(),
            rule: None,
            path: String::with_capacity(PATH_KEPT),
            is_cut: false,
        };
        last.replace(now, path, refusal, rule);
        last
    }

    /// A later one takes its place, without an allocation.
    pub(super) fn replace(&mut self, now: Instant, path: &str, refusal: &Refusal, rule: Option<&Name>) {
        let kept = beginning(path, PATH_KEPT);
        self.path.clear();
        self.path.push_str(kept);
        (self.at, self.refusal, self.rule) = (now, refusal.clone(), rule.cloned());
        self.is_cut = kept.len() < path.len();
    }

    /// The path, or its first [`PATH_KEPT`] bytes, and whether that is all of it.
    pub fn path(&self) -> (&str, bool) {
        (&self.path, !self.is_cut)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_refusal_takes_the_place_of_the_one_before_and_a_long_path_is_cut_between_characters() {
        let now = Instant::now();
        let rule = Name::parse("telemetry").expect("a name");
        let mut last = LastRefusal::new(now, "t/env", &Refusal::NotAllowed, Some(&rule));
        assert_eq!((last.path(), last.rule.as_ref()), (("t/env", true), Some(&rule)));
        let long = "ü".repeat(100);
        last.replace(now, &long, &Refusal::NoRule, None);
        assert_eq!((last.path(), &last.rule), ((&long[..64], false), &None));
        assert_eq!(last.path.capacity(), PATH_KEPT);
        // 10,000 devices that were all refused: 1.6 MB.
        assert!(size_of::<LastRefusal>() + PATH_KEPT <= 160);
    }
}
