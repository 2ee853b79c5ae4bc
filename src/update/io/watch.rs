//! Whether the version that was installed stays: `tombolo health --wait`, the shell of
//! [`health`](crate::update::health). It looks at the daemon from outside, as an operator would.

use std::time::{Duration, Instant};

use super::backend::{Backend, Effect};
use super::ledger::{Ledger, event};
use super::root::Boot;
use crate::update::health::{Answered, Observation, Onlooker, Verdict, judge};
use crate::update::history::What;
use crate::update::installation::{Arrival, Installation, Phase, WENT_BACK, WENT_BACK_UNSTORED};

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
    /// It works and has reached the broker, and that could not be written down: it stays, and is
    /// confirmed later.
    Unconfirmed {
        /// Which.
        version: String,
        /// One sentence.
        why: String,
    },
    /// The version before runs again, from now on or after the next boot.
    RolledBack {
        /// Which failed.
        version: String,
        /// Why.
        cause: String,
        /// When the one before takes effect.
        effect: Effect,
        /// Why no boot may be ordered: that it was could not be written down. A boot loader that
        /// starts the same version again would otherwise have it ordered for ever.
        withheld: Option<String>,
    },
    /// It works, and the disk refuses readings: it stays, and is neither marked good nor confirmed
    /// before they are taken.
    Withheld(String),
    /// It was to be rolled back, and that failed.
    Stuck(String),
}

/// Waits until the daemon works, or the time is over; nothing is installed or judged.
pub fn wait(around: &mut Surroundings<'_>) -> End {
    let began = Instant::now();
    let mut onlooker = Onlooker::of_a_gateway(began);
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
                return End::Broken(cause(seen, around));
            }
            Verdict::Withheld => return End::Broken(unstored(seen).to_owned()),
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

/// Why a version that works is not confirmed.
fn unstored(seen: Observation) -> &'static str {
    match seen.storing {
        None => "the disk takes no readings",
        Some(_) => "the disk took no readings until a moment ago",
    }
}

fn cause(seen: Observation, around: &Surroundings<'_>) -> String {
    let timeout = humantime::format_duration(around.timeout);
    match seen.healthy {
        _ if seen.restarts >= crate::update::health::RESTARTS_MAX => {
            format!("the service was restarted {} times", seen.restarts)
        }
        None => format!("the service did not work within {timeout}"),
        Some(_) => format!(
            "the service did not work for {} without a break within {timeout}",
            humantime::format_duration(around.steady)
        ),
    }
}

/// What runs, as what installs says it. An installation that a power cut left half done is brought
/// to its end first: nothing else would, and until then no version can be told.
pub fn what_runs(ledger: &dyn Ledger, backend: &dyn Backend, record: &Installation) -> Option<String> {
    let running = backend.running();
    let wanted = match record.phase {
        Phase::Confirmed | Phase::Failed => None,
        Phase::Reverting => record.previous.as_deref(),
        _ => Some(record.version.as_str()),
    };
    let Some(wanted) = wanted.filter(|_| running.is_none()) else { return running };
    let completed = ledger.share().and_then(|_shared| backend.complete(wanted));
    let running = backend.running();
    match (completed, &running) {
        (Err(reason), _) => {
            log::error!(version = wanted, reason:% = reason; "an installation was interrupted, and cannot be completed");
        }
        (Ok(()), Some(running)) => {
            log::warn!(version = running.as_str(); "an installation was interrupted, and is completed now");
        }
        (Ok(()), None) => {}
    }
    running
}

/// Judges the installation that the record is about, to its end; `None`: there is none to judge.
/// It blocks for as long as `timeout`. What cannot be written down keeps nothing from being done:
/// see [`ledger`](super::ledger).
///
/// # Errors
/// One sentence: the record cannot be read.
pub fn watch(
    ledger: &dyn Ledger,
    backend: &dyn Backend,
    boot: &Boot,
    around: &mut Surroundings<'_>,
) -> Result<Option<End>, String> {
    let Some(mut record) = ledger.installation()? else { return Ok(None) };
    let version = record.version.clone();
    let running = what_runs(ledger, backend, &record);
    match record.arrive(running.as_deref(), boot.id.as_deref()) {
        Arrival::Runs => {}
        Arrival::Proven => {
            let at = (around.at)();
            ledger.keep(conclude(ledger, backend, &mut record, running.as_deref(), boot, at));
            return Ok(None);
        }
        Arrival::WentBack => {
            let refuses = (around.ask)().is_some_and(|answer| answer.refuses);
            went_back(ledger, record, boot, (around.at)(), refuses);
            return Ok(None);
        }
        Arrival::Reverted => {
            reverted(ledger, record, boot, (around.at)());
            return Ok(None);
        }
        Arrival::Unreverted => return Ok(Some(take_back(ledger, backend, record, boot, (around.at)()))),
        // The next `tombolo update apply` settles it.
        _ => return Ok(None),
    }
    if record.phase != Phase::Judging {
        record.enter(Phase::Judging, boot.id.clone(), (around.at)());
        ledger.keep(ledger.write(&record));
    }
    // If that is not known, an outage takes nothing back.
    let was_rolled_back =
        ledger.history().map_or(true, |history| history.was_rolled_back_for_broker(&version));
    let began = Instant::now();
    let mut onlooker = Onlooker::new(began, record.was_connected, was_rolled_back);
    let mut is_told = false;
    loop {
        let (now, seen) = look(&mut onlooker, around);
        let verdict = judge(seen, around.steady, around.timeout);
        if seen.healthy.is_some() && seen.storing.is_none() && !record.is_unstored && !record.is_good {
            // Before the boot loader may go back.
            record.is_unstored = true;
            record.because(unstored(seen));
            ledger.keep(ledger.write(&record));
        }
        if !is_told && matches!(verdict, Verdict::MarkGood | Verdict::Confirm | Verdict::Pending) {
            is_told = true;
            mark_good(ledger, backend, &mut record);
            (around.works)();
        }
        match verdict {
            Verdict::Wait | Verdict::MarkGood => {
                let running = now.saturating_duration_since(began);
                pause(if running >= LATER { LOOK_LATER } else { LOOK_EVERY }, around.timeout, running);
            }
            Verdict::Confirm => {
                return Ok(Some(match confirm(ledger, &mut record, boot, (around.at)()) {
                    Ok(()) => End::Confirmed(version),
                    Err(why) => {
                        // `status` says it, and the next run concludes.
                        record.because(&why);
                        ledger.keep(ledger.write(&record));
                        End::Unconfirmed { version, why }
                    }
                }));
            }
            Verdict::Pending => {
                stay(ledger, record, boot, (around.at)(), "the broker was not reached in time");
                return Ok(Some(End::Pending(version)));
            }
            Verdict::Withheld => {
                stay(ledger, record, boot, (around.at)(), unstored(seen));
                return Ok(Some(End::Withheld(version)));
            }
            Verdict::RollBack { is_own_fault } => {
                let cause = match is_own_fault {
                    true => cause(seen, around),
                    false => {
                        "the broker was not reached in time, and the version before had reached it".to_owned()
                    }
                };
                let what = if is_own_fault { What::FailedItself } else { What::FailedToConnect };
                return Ok(Some(roll_back(ledger, backend, record, boot, (around.at)(), what, &cause)));
            }
        }
    }
}

fn mark_good(ledger: &dyn Ledger, backend: &dyn Backend, record: &mut Installation) {
    if record.is_good {
        return;
    }
    if std::mem::take(&mut record.is_unstored) {
        record.cause = None;
        ledger.keep(ledger.write(record));
    }
    match backend.mark_good(&record.version) {
        Ok(()) => {
            record.is_good = true;
            ledger.keep(ledger.write(record));
        }
        // It runs and works; the boot loader may still go back by itself, which is then met.
        Err(reason) => {
            log::error!(version = record.version.as_str(), reason:% = reason; "the version that works cannot be marked good");
        }
    }
}

/// It works without the broker, and waits for it: it was to be taken back, and is not. `why`.
fn kept(ledger: &dyn Ledger, record: Installation, boot: &Boot, at: Option<String>, why: &str) -> End {
    let version = record.version.clone();
    let cause = "the broker was not reached in time";
    stay_because(ledger, record, boot, at, &format!("{cause}; the version works, and stays: {why}"));
    End::Pending(version)
}

/// It works, and what else it needs is missing: `what`.
fn stay(ledger: &dyn Ledger, record: Installation, boot: &Boot, at: Option<String>, what: &str) {
    stay_because(ledger, record, boot, at, &format!("{what}; the version works, and stays"));
}

fn stay_because(ledger: &dyn Ledger, mut record: Installation, boot: &Boot, at: Option<String>, cause: &str) {
    ledger.keep(ledger.record(&record, What::Pending, at.as_deref(), None));
    record.because(cause);
    (record.ending, record.is_noted) = (None, false);
    record.enter(Phase::Pending, boot.id.clone(), at);
    ledger.keep(ledger.write(&record));
}

/// Writes down what is missing of a version that is proven, whatever runs.
///
/// # Errors
/// As [`confirm`].
pub fn conclude(
    ledger: &dyn Ledger,
    backend: &dyn Backend,
    record: &mut Installation,
    running: Option<&str>,
    boot: &Boot,
    at: Option<String>,
) -> Result<(), String> {
    if running == Some(record.version.as_str()) {
        mark_good(ledger, backend, record);
    }
    confirm(ledger, record, boot, at)
}

/// Concludes that a version works and has reached the broker. That comes first in the record: from
/// then on nothing takes it back, so nothing goes below the floor that rises next. Its end in the
/// record comes last: what a power cut took of the rest is done again.
///
/// # Errors
/// One sentence: it is not confirmed yet.
pub fn confirm(
    ledger: &dyn Ledger,
    record: &mut Installation,
    boot: &Boot,
    at: Option<String>,
) -> Result<(), String> {
    if !record.is_proven {
        record.is_proven = true;
        ledger.write(record)?;
    }
    ledger.raise(&record.version, &record.scheme)?;
    ledger.record(record, What::Confirmed, at.as_deref(), None)?;
    record.cause = None;
    record.enter(Phase::Confirmed, boot.id.clone(), at);
    ledger.write(record)
}

/// The version before runs though nobody here went back. It is over once it is counted, and not
/// before. True if it is. One that worked and was not marked good, because its disk took no
/// readings, was taken back by a boot loader for that alone: no failure of its own. Nor is it one
/// while the disk still takes none (`refuses`): whether it would have worked cannot be told, and
/// that it worked may not have been written down.
pub fn went_back(
    ledger: &dyn Ledger,
    mut record: Installation,
    boot: &Boot,
    at: Option<String>,
    refuses: bool,
) -> bool {
    let is_pending = record.phase == Phase::Pending;
    let (what, cause) = match &record.cause {
        Some(cause) if is_pending && !record.is_good => {
            (What::FailedToConnect, format!("{cause}; then the version before was booted"))
        }
        _ if (record.is_unstored || refuses) && !record.is_good => {
            (What::FailedToConnect, WENT_BACK_UNSTORED.to_owned())
        }
        _ => (What::FailedItself, WENT_BACK.to_owned()),
    };
    record.because(&cause);
    let is_counted = ledger.keep(ledger.record(&record, what, at.as_deref(), Some(&cause)));
    record.enter(Phase::Failed, boot.id.clone(), at);
    is_counted && ledger.keep(ledger.write(&record))
}

/// The version before runs, as it was to. True if that is written down.
pub fn reverted(ledger: &dyn Ledger, mut record: Installation, boot: &Boot, at: Option<String>) -> bool {
    let what = record.ending.unwrap_or(What::FailedItself);
    let is_noted = record.is_noted || ledger.keep(note(ledger, &record, what, at.as_deref()));
    record.is_noted = is_noted;
    record.enter(Phase::Failed, boot.id.clone(), at);
    is_noted && ledger.keep(ledger.write(&record))
}

/// Goes on with a way back that was begun, and did not come to its end.
pub fn take_back(
    ledger: &dyn Ledger,
    backend: &dyn Backend,
    record: Installation,
    boot: &Boot,
    at: Option<String>,
) -> End {
    let what = record.ending.unwrap_or(What::FailedItself);
    let cause = record.cause.clone().unwrap_or_default();
    roll_back(ledger, backend, record, boot, at, what, &cause)
}

/// What the history is to say of one that is taken back, once an attempt.
fn note(ledger: &dyn Ledger, record: &Installation, what: What, at: Option<&str>) -> Result<(), String> {
    let event = event(record, what, at, record.cause.as_deref());
    ledger.change(&|history| {
        history.record(event.clone());
        if what == What::RolledBack {
            // That it could not be is told by the command.
            let _ = history.deny_failed(&event.version);
        }
    })
}

/// Goes back to the version before. It is written down first, so that a power cut does not have it
/// tried without end; but it is done also if that cannot be written: a version that does not work
/// and stays would be worse. What is missing is written afterwards, or by the next run.
///
/// Not so where the version works and only the broker is missing: unless that can be written down,
/// it would be counted as a failure of its own by whoever finds the version before. Then it stays,
/// as where there is no way back any more.
pub fn roll_back(
    ledger: &dyn Ledger,
    backend: &dyn Backend,
    mut record: Installation,
    boot: &Boot,
    at: Option<String>,
    what: What,
    cause: &str,
) -> End {
    let version = record.version.clone();
    record.because(cause);
    (record.ending, record.is_ordered) = (Some(what), false);
    let noted = note(ledger, &record, what, at.as_deref());
    record.is_noted = noted.is_ok();
    record.enter(Phase::Reverting, boot.id.clone(), at.clone());
    let written = noted.and_then(|()| ledger.write(&record));
    if what == What::FailedToConnect && !ledger.keep(written) {
        let why = "an outage that cannot be written down takes nothing back";
        return kept(ledger, record, boot, at, why);
    }
    let shared = ledger.share();
    ledger.keep(shared.as_ref().map(|_| ()).map_err(Clone::clone));
    let back = backend.roll_back(&version, record.previous.as_deref());
    drop(shared);
    if !record.is_noted {
        record.is_noted = ledger.keep(note(ledger, &record, what, at.as_deref()));
    }
    let cause = cause.to_owned();
    match back {
        Ok(Effect::AtBoot) => {
            record.is_ordered = true;
            let written = ledger.write(&record);
            let withheld = written.clone().err();
            ledger.keep(written);
            End::RolledBack { version, cause, effect: Effect::AtBoot, withheld }
        }
        // Over once it is counted.
        Ok(Effect::Now) => {
            if record.is_noted {
                record.enter(Phase::Failed, boot.id.clone(), at);
            }
            ledger.keep(ledger.write(&record));
            End::RolledBack { version, cause, effect: Effect::Now, withheld: None }
        }
        // It works, and is confirmed once the broker is reached.
        Err(reason) if what == What::FailedToConnect => {
            let why = format!("the version before cannot be brought back: {reason}");
            kept(ledger, record, boot, at, &why)
        }
        Err(reason) => {
            let text = format!("{cause}; and the version before cannot be brought back: {reason}");
            record.because(&text);
            if record.is_noted {
                record.enter(Phase::Failed, boot.id.clone(), at);
            }
            ledger.keep(ledger.write(&record));
            End::Stuck(text)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;
    use crate::update::history::History;
    use crate::update::io::backend::Wanted;
    use crate::update::io::ledger::Shared;
    use crate::update::version::Scheme;

    /// The records, in memory.
    #[derive(Default)]
    struct Memory {
        record: RefCell<Option<Installation>>,
        history: RefCell<History>,
    }

    impl Ledger for Memory {
        fn installation(&self) -> Result<Option<Installation>, String> {
            Ok(self.record.borrow().clone())
        }
        fn history(&self) -> Result<History, String> {
            Ok(self.history.borrow().clone())
        }
        fn write(&self, record: &Installation) -> Result<(), String> {
            self.record.replace(Some(record.clone()));
            Ok(())
        }
        fn change(&self, act: &dyn Fn(&mut History)) -> Result<(), String> {
            act(&mut self.history.borrow_mut());
            Ok(())
        }
        fn raise(&self, _version: &str, _scheme: &str) -> Result<(), String> {
            Ok(())
        }
        fn share(&self) -> Result<Option<Shared>, String> {
            Ok(None)
        }
        fn keep(&self, written: Result<(), String>) -> bool {
            written.is_ok()
        }
    }

    /// A backend of which this version runs.
    struct Runs(&'static str);

    impl Backend for Runs {
        fn name(&self) -> &'static str {
            "rauc"
        }
        fn install(&self, _wanted: &Wanted, _progress: &mut dyn FnMut(u8)) -> Result<Effect, String> {
            Err("nothing is installed".to_owned())
        }
        fn mark_good(&self, _version: &str) -> Result<(), String> {
            Ok(())
        }
        fn roll_back(&self, _from: &str, _to: Option<&str>) -> Result<Effect, String> {
            Err("nothing is taken back".to_owned())
        }
        fn running(&self) -> Option<String> {
            Some(self.0.to_owned())
        }
    }

    fn watched(
        ledger: &Memory,
        running: &'static str,
        boot: &str,
        ask: &mut dyn FnMut() -> Option<Answered>,
    ) -> Option<End> {
        let boot = Boot { id: Some(boot.to_owned()), seconds: 60 };
        let mut around = Surroundings {
            ask,
            restarts: &mut || 0,
            works: &mut || (),
            at: &|| None,
            steady: Duration::ZERO,
            timeout: Duration::from_millis(20),
        };
        watch(ledger, &Runs(running), &boot, &mut around).expect("the record is read")
    }

    fn installed(phase: Phase) -> Memory {
        let mut record = Installation::begin("2", Scheme::Debian, Some("1".to_owned()), "rauc");
        record.attempt = "a".to_owned();
        record.enter(phase, Some("boot-1".to_owned()), None);
        Memory { record: RefCell::new(Some(record)), ..Memory::default() }
    }

    fn answer(refuses: bool) -> Option<Answered> {
        let uptime = Duration::from_secs(60);
        Some(Answered { uptime, works: true, refuses, ..Answered::default() })
    }

    /// The kinds of events, and the cause of the record.
    fn ended(ledger: &Memory) -> (Vec<What>, String) {
        let record = ledger.record.borrow().clone().expect("it is there");
        assert_eq!(record.phase, Phase::Failed);
        let what = ledger.history.borrow().events.iter().map(|event| event.what).collect();
        (what, record.cause.unwrap_or_default())
    }

    #[test]
    fn a_boot_loader_that_goes_back_while_the_disk_is_full_makes_no_failure_of_the_version() {
        // The power is cut, or a watchdog bites, while it is judged: what is written down by then.
        let (judged, cut) = (installed(Phase::Judging), Memory::default());
        let _ = watched(&judged, "2", "boot-1", &mut || {
            cut.record.replace(judged.record.borrow().clone());
            answer(true)
        });
        assert_eq!(cut.record.borrow().as_ref().map(|record| record.phase), Some(Phase::Judging));
        assert_eq!(watched(&cut, "1", "boot-2", &mut || None), None);
        let (what, cause) = ended(&cut);
        assert_eq!(what, [What::FailedToConnect], "{cause}");
        assert!(cause.contains("the disk took no readings"), "{cause}");

        // That it worked could not be written down, and the disk still takes nothing.
        let unwritten = installed(Phase::Judging);
        assert_eq!(watched(&unwritten, "1", "boot-2", &mut || answer(true)), None);
        assert_eq!(ended(&unwritten).0, [What::FailedToConnect]);

        // With a disk in order it is its own failure; also if it was marked good since.
        let broken = installed(Phase::Judging);
        assert_eq!(watched(&broken, "1", "boot-2", &mut || answer(false)), None);
        assert_eq!(ended(&broken), (vec![What::FailedItself], WENT_BACK.to_owned()));
        let good = installed(Phase::Judging);
        let begun = Instant::now();
        let has_room =
            |answered: Option<Answered>| answered.map(|answered| Answered { has_broker: true, ..answered });
        let _ = watched(&good, "2", "boot-1", &mut || {
            has_room(answer(begun.elapsed() < Duration::from_millis(10)))
        });
        assert!(!good.record.borrow().as_ref().expect("it is there").is_unstored);
        good.record.borrow_mut().as_mut().expect("it is there").enter(Phase::Judging, None, None);
        assert_eq!(watched(&good, "1", "boot-2", &mut || answer(true)), None);
        assert_eq!(ended(&good).0.last(), Some(&What::FailedItself));
    }

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

    #[test]
    fn a_gateway_that_has_worked_for_longer_than_is_asked_is_looked_at_once() {
        let mut asked = 0;
        let end = wait(&mut Surroundings {
            ask: &mut || {
                asked += 1;
                let uptime = Duration::from_secs(3600);
                Some(Answered { uptime, works: true, ..Answered::default() })
            },
            restarts: &mut || 0,
            works: &mut || (),
            at: &|| None,
            steady: Duration::from_secs(600),
            timeout: Duration::from_secs(900),
        });
        assert_eq!((end, asked), (End::Works, 1));
    }
}
