//! Whether the version that was installed stays: `tombolo health --wait`, the shell of
//! [`health`](crate::update::health). It looks at the daemon from outside, as an operator would.

use std::time::{Duration, Instant};

use super::backend::{Backend, Effect};
use super::root::{Boot, Root};
use crate::update::health::{Answered, Observation, Onlooker, Verdict, judge};
use crate::update::history::What;
use crate::update::installation::{Arrival, Installation, Phase, WENT_BACK};

/// Between two looks, at first and later.
const LOOK_EVERY: Duration = Duration::from_secs(1);
const LOOK_LATER: Duration = Duration::from_secs(5);
/// From then on it is later.
const LATER: Duration = Duration::from_secs(180);

/// What it sees and tells.
pub struct Surroundings<'a> {
    /// Asks the daemon.
    pub ask: &'a mut dyn FnMut() -> Option<Answered>,
    /// Restarts of the unit.
    pub restarts: &'a mut dyn FnMut() -> u32,
    /// Told once the version works, before the broker is waited for.
    pub works: &'a mut dyn FnMut(),
    /// The wall time as text, if it is trusted.
    pub at: &'a dyn Fn() -> Option<String>,
    /// For so long it must work.
    pub steady: Duration,
    /// For so long it may take.
    pub timeout: Duration,
}

/// How it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// It works; nothing was to be judged.
    Works,
    /// It does not work; nothing was to be judged.
    Broken(String),
    /// It works and has reached the broker, if it has one to reach.
    Confirmed(String),
    /// It works and has not reached the broker.
    Pending(String),
    /// The version before runs again, from now on or after the next boot.
    RolledBack {
        /// Which failed.
        version: String,
        /// Why.
        cause: String,
        /// When the one before takes effect.
        effect: Effect,
    },
    /// It was to be rolled back, and that failed.
    Stuck(String),
}

/// Waits until the daemon works, or the time is over; nothing is installed or judged.
pub fn wait(around: &mut Surroundings<'_>) -> End {
    let began = Instant::now();
    let mut onlooker = Onlooker::new(began, false, false);
    loop {
        let (now, seen) = look(&mut onlooker, around);
        match judge(seen, around.steady, around.timeout) {
            Verdict::MarkGood
            | Verdict::Confirm
            | Verdict::Pending
            | Verdict::RollBack { is_own_fault: false } => {
                (around.works)();
                return End::Works;
            }
            Verdict::RollBack { is_own_fault: true } => {
                return End::Broken(cause(seen.restarts, around.timeout));
            }
            Verdict::Wait => pause(LOOK_EVERY, around.timeout, now.saturating_duration_since(began)),
        }
    }
}

/// Asks, and what was seen then: an answer that took long took of the time.
fn look(onlooker: &mut Onlooker, around: &mut Surroundings<'_>) -> (Instant, Observation) {
    let (answer, restarts) = ((around.ask)(), (around.restarts)());
    let now = Instant::now();
    (now, onlooker.look(now, answer, restarts))
}

/// Until the next look; the last one begins when the time is over, and not later.
fn pause(every: Duration, timeout: Duration, running: Duration) {
    std::thread::sleep(every.min(timeout.saturating_sub(running)));
}

fn cause(restarts: u32, timeout: Duration) -> String {
    match restarts >= crate::update::health::RESTARTS_MAX {
        true => format!("the service was restarted {restarts} times"),
        false => format!("the service did not work within {}", humantime::format_duration(timeout)),
    }
}

/// Judges the installation that the record is about, to its end; `None`: there is none to judge.
/// It blocks for as long as `timeout`.
///
/// # Errors
/// One sentence: a file of root's cannot be read or written.
pub fn watch(
    root: &Root,
    backend: &dyn Backend,
    boot: &Boot,
    around: &mut Surroundings<'_>,
) -> Result<Option<End>, String> {
    let public = root.read()?;
    let Some(mut record) = public.installation else { return Ok(None) };
    let version = record.version.clone();
    match record.arrive(backend.running().as_deref(), boot.id.as_deref()) {
        Arrival::Runs => {}
        Arrival::WentBack => {
            record.because(WENT_BACK);
            record.enter(Phase::Failed, boot.id.clone(), (around.at)());
            root.record(&version, What::FailedItself, (around.at)(), Some(WENT_BACK))?;
            root.write(&record)?;
            return Ok(None);
        }
        Arrival::Reverted => {
            record.enter(Phase::Failed, boot.id.clone(), (around.at)());
            root.write(&record)?;
            return Ok(None);
        }
        // The next `tombolo update apply` settles it.
        _ => return Ok(None),
    }
    if record.phase != Phase::Judging {
        record.enter(Phase::Judging, boot.id.clone(), (around.at)());
        root.write(&record)?;
    }
    let was_rolled_back = public.history.was_rolled_back_for_broker(&version);
    let began = Instant::now();
    let mut onlooker = Onlooker::new(began, record.was_connected, was_rolled_back);
    let mut is_told = false;
    loop {
        let (now, seen) = look(&mut onlooker, around);
        let verdict = judge(seen, around.steady, around.timeout);
        if !is_told && matches!(verdict, Verdict::MarkGood | Verdict::Confirm | Verdict::Pending) {
            is_told = true;
            mark_good(root, backend, &mut record)?;
            (around.works)();
        }
        match verdict {
            Verdict::Wait | Verdict::MarkGood => {
                let running = now.saturating_duration_since(began);
                pause(if running >= LATER { LOOK_LATER } else { LOOK_EVERY }, around.timeout, running);
            }
            Verdict::Confirm => {
                confirm(root, &mut record, boot, (around.at)())?;
                return Ok(Some(End::Confirmed(version)));
            }
            Verdict::Pending => {
                record.because("the broker was not reached in time; the version works, and stays");
                record.enter(Phase::Pending, boot.id.clone(), (around.at)());
                root.write(&record)?;
                root.record(&version, What::Pending, (around.at)(), None)?;
                return Ok(Some(End::Pending(version)));
            }
            Verdict::RollBack { is_own_fault } => {
                let cause = match is_own_fault {
                    true => cause(seen.restarts, around.timeout),
                    false => {
                        "the broker was not reached in time, and the version before had reached it".to_owned()
                    }
                };
                let what = if is_own_fault { What::FailedItself } else { What::FailedToConnect };
                return roll_back(root, backend, record, boot, (around.at)(), what, &cause).map(Some);
            }
        }
    }
}

fn mark_good(root: &Root, backend: &dyn Backend, record: &mut Installation) -> Result<(), String> {
    if record.is_good {
        return Ok(());
    }
    match backend.mark_good(&record.version) {
        Ok(()) => {
            record.is_good = true;
            root.write(record)
        }
        // It runs and works; the boot loader may still go back by itself, which is then met.
        Err(reason) => {
            log::error!(version = record.version.as_str(), reason:% = reason; "the version that works cannot be marked good");
            Ok(())
        }
    }
}

/// Concludes that a version works and has reached the broker.
///
/// # Errors
/// One sentence.
pub fn confirm(
    root: &Root,
    record: &mut Installation,
    boot: &Boot,
    at: Option<String>,
) -> Result<(), String> {
    root.raise(&record.version, &record.scheme)?;
    record.cause = None;
    record.enter(Phase::Confirmed, boot.id.clone(), at.clone());
    root.write(record)?;
    root.record(&record.version, What::Confirmed, at, None)
}

/// Goes back to the version before: what was recorded comes first, so that a power cut does not
/// have it tried without end.
///
/// # Errors
/// One sentence: a file of root's cannot be written.
pub fn roll_back(
    root: &Root,
    backend: &dyn Backend,
    mut record: Installation,
    boot: &Boot,
    at: Option<String>,
    what: What,
    cause: &str,
) -> Result<End, String> {
    let version = record.version.clone();
    root.record(&version, what, at.clone(), Some(cause))?;
    if what == What::RolledBack {
        root.change(|history| {
            history.deny(&version);
        })?;
    }
    record.because(cause);
    record.enter(Phase::Reverting, boot.id.clone(), at.clone());
    root.write(&record)?;
    let back = root.share().and_then(|_shared| backend.roll_back(&version, record.previous.as_deref()));
    match back {
        Ok(Effect::AtBoot) => {
            Ok(End::RolledBack { version, cause: cause.to_owned(), effect: Effect::AtBoot })
        }
        Ok(Effect::Now) => {
            record.enter(Phase::Failed, boot.id.clone(), at);
            root.write(&record)?;
            Ok(End::RolledBack { version, cause: cause.to_owned(), effect: Effect::Now })
        }
        Err(reason) => {
            let text = format!("{cause}; and the version before cannot be brought back: {reason}");
            record.because(&text);
            record.enter(Phase::Failed, boot.id.clone(), at);
            root.write(&record)?;
            Ok(End::Stuck(text))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_that_uses_up_the_time_for_one_answer_is_not_asked_again() {
        let timeout = Duration::from_millis(20);
        let mut asked = 0;
        let end = wait(&mut Surroundings {
            ask: &mut || {
                asked += 1;
                std::thread::sleep(timeout);
                None
            },
            restarts: &mut || 0,
            works: &mut || (),
            at: &|| None,
            steady: Duration::ZERO,
            timeout,
        });
        assert!(matches!(end, End::Broken(_)), "{end:?}");
        assert_eq!(asked, 1);
    }
}
