//! A configuration on trial, as the running daemon judges it once a second.

use std::time::{Duration, Instant};

use crate::config::Loaded;
use crate::config::trial::io::moment;
use crate::control::snapshot::{ConfigTrial, Uplink};

/// The uplink counts as connected after this time, so that a connection of before, or one that
/// breaks at once, proves nothing.
const STANDS: Duration = Duration::from_secs(5);

/// It is in force.
pub struct OnTrial {
    /// Since when.
    since: Instant,
    /// When it ends, in milliseconds of `CLOCK_BOOTTIME`.
    ends_ms: u64,
    file: String,
}

/// What becomes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// Nothing yet.
    Waits,
    /// It is confirmed.
    Stays,
    /// Its time is over.
    Goes,
}

impl OnTrial {
    /// The one of this configuration, if there is one.
    pub fn of(loaded: &Loaded, now: Instant) -> Option<OnTrial> {
        let trial = loaded.state.trial.as_ref()?;
        Some(OnTrial { since: now, ends_ms: trial.ends_ms(), file: trial.file.display().to_string() })
    }

    /// As `status` shows it.
    pub fn snapshot(&self) -> ConfigTrial {
        let left_s = self.ends_ms.saturating_sub(moment().now_ms) / 1_000;
        ConfigTrial { file: self.file.clone(), left_s }
    }

    /// Judges by the uplink and the time. `proven`: the connection was made with the files as they
    /// are, or these were shown to work.
    pub fn judge(&self, now: Instant, uplink: &Uplink, proven: bool) -> Judgement {
        self.judge_at(now, moment().now_ms, uplink, proven)
    }

    fn judge_at(&self, now: Instant, now_ms: u64, uplink: &Uplink, proven: bool) -> Judgement {
        let in_force = now.saturating_duration_since(self.since) >= STANDS;
        let stands = uplink.connected && uplink.since_s.is_some_and(|since| since >= STANDS.as_secs());
        match in_force && stands && proven && uplink.stalled_by_a_fault().next().is_none() {
            true => Judgement::Stays,
            false if now_ms >= self.ends_ms => Judgement::Goes,
            false => Judgement::Waits,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_that_stands_confirms_and_one_of_before_does_not() {
        let now = Instant::now();
        let trial = OnTrial { since: now, ends_ms: 1_000, file: String::new() };
        let up = |since_s| Uplink { connected: true, since_s: Some(since_s), ..Uplink::default() };
        let later = now + STANDS;
        assert_eq!(trial.judge_at(now, 0, &up(900), true), Judgement::Waits, "it was connected before");
        assert_eq!(trial.judge_at(later, 0, &up(4), true), Judgement::Waits, "it may break at once");
        assert_eq!(trial.judge_at(later, 0, &up(5), true), Judgement::Stays);
        assert_eq!(trial.judge_at(later, 2_000, &up(5), true), Judgement::Stays, "at its end too");
        assert_eq!(trial.judge_at(later, 999, &Uplink::default(), true), Judgement::Waits);
        assert_eq!(trial.judge_at(later, 1_000, &Uplink::default(), true), Judgement::Goes);
        assert_eq!(
            trial.judge_at(later, 0, &up(9), false),
            Judgement::Waits,
            "it was made before the files were changed"
        );
        let refused = Uplink { stalled: vec!["nothing is taken".into()], ..up(9) };
        assert_eq!(trial.judge_at(later, 1_000, &refused, true), Judgement::Goes);
    }
}
