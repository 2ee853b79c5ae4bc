//! The system's clocks, and the verdict on the wall clock (the shell of [`crate::clock::judge`]).
//!
//! The kernel is asked once a second whether the clock is synchronised (`adjtimex`, whoever
//! disciplines it: timesyncd, chrony, ntpd, a PTP daemon; [`mark`] where the daemon may not ask).
//! What the judge knows is kept
//! in `{state-dir}/clock`, written hourly and when something is learned, by a thread of its own: a
//! disk that hangs stops nobody.

pub mod file;
pub mod mark;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};

use crate::clock::chain::ChainValidity;
use crate::clock::judge::{Basis, Judge, Look, TrustError, Verdict, View};
use crate::clock::{Moment, UnixTime, WallClock};
use crate::control::snapshot;
use crate::durable::atomic_file::Defect;

/// When this version was made, in seconds since 1970. Set by `SOURCE_DATE_EPOCH` at build time;
/// raised with each release.
pub const BUILD_DATE: UnixTime = UnixTime::from_secs(match option_env!("SOURCE_DATE_EPOCH") {
    Some(text) => parse_seconds(text.as_bytes()),
    None => 1_795_305_600,
});

/// How often the time is written: flash wear of at most 24 small files a day, and at worst so much
/// of it is lost.
const SAVE_EVERY: Duration = Duration::from_secs(3600);
/// How often what was learned is written.
const SAVE_LEARNED_EVERY: Duration = Duration::from_secs(60);
/// From one fault to the next attempt.
const RETRY: Duration = Duration::from_secs(10);
/// One disk call may take long on an SD card; after that it is reported.
const STUCK: Duration = Duration::from_secs(120);

/// The system's clocks.
pub struct SystemClock {
    judge: Mutex<Judge>,
    saver: Mutex<Saver>,
    /// What was wrong with what an earlier process left.
    defects: Vec<Defect>,
}

/// What becomes of the file.
struct Saver {
    folder: PathBuf,
    running: Option<Running>,
    /// The judge's revision that is on disk.
    saved: u64,
    /// When a save was begun last.
    begun: Option<Instant>,
    /// Why the last one failed.
    failing: Option<String>,
}

struct Running {
    thread: JoinHandle<io::Result<()>>,
    revision: u64,
    begun: Instant,
}

impl SystemClock {
    /// Reads what an earlier process left in `state_dir`, and looks at the clocks. Changes nothing
    /// on disk.
    pub fn open(state_dir: &Path, always: bool) -> SystemClock {
        SystemClock::load(state_dir, always).0
    }

    /// The same for the daemon: what is damaged is put in order, and said so.
    pub fn start(state_dir: &Path, always: bool) -> SystemClock {
        let (clock, found) = SystemClock::load(state_dir, always);
        for defect in &found.defects {
            log::warn!(
                "{defect}; {}",
                match found.saved {
                    Some(_) => "its other copy is used",
                    None => "the clock is judged as at a first start",
                }
            );
        }
        match file::mend(state_dir, &found) {
            Ok(aside) => aside.iter().for_each(|name| log::warn!(file = name.as_str(); "set aside")),
            // There is no state directory yet, or it will be said when the file is written.
            Err(error) => log::debug!(reason:% = error; "the clock's file is not put in order"),
        }
        clock
    }

    fn load(state_dir: &Path, always: bool) -> (SystemClock, file::Found) {
        let found = file::load(state_dir);
        let mut judge = Judge::new(BUILD_DATE, crate::system::io::boot_id(), always, found.saved);
        judge.observe(look());
        let saver =
            Saver { folder: state_dir.to_owned(), running: None, saved: 0, begun: None, failing: None };
        let defects = found.defects.clone();
        (SystemClock { judge: Mutex::new(judge), saver: Mutex::new(saver), defects }, found)
    }

    /// What was wrong with what an earlier process left.
    pub fn defects(&self) -> &[Defect] {
        &self.defects
    }

    fn judge(&self) -> MutexGuard<'_, Judge> {
        // What a panic left is still a verdict on the clock.
        self.judge.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn saver(&self) -> MutexGuard<'_, Saver> {
        self.saver.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the owner vouches for the clock.
    pub fn set_always(&self, always: bool) {
        self.judge().set_always(always);
    }

    /// Asks the kernel again; once a second is enough. The verdict.
    pub fn refresh(&self) -> Verdict {
        let look = look();
        let mut judge = self.judge();
        judge.observe(look);
        judge.verdict()
    }

    /// All that is known.
    pub fn view(&self) -> View {
        self.judge().view()
    }

    /// As `status` and `clock` show it.
    pub fn snapshot(&self) -> snapshot::Clock {
        let view = self.view();
        let (trusted, state) = match view.verdict {
            Verdict::Trusted(_) => (true, "trusted"),
            Verdict::Doubted(_) => (false, "doubted"),
            Verdict::Impossible { .. } => (false, "impossible"),
            Verdict::NotSynchronised => (false, "unsynchronised"),
        };
        let is_always = self.judge().is_always();
        // Where the owner vouches for the clock, the kernel's word does not matter.
        let unread = if is_always { None } else { mark::ask().unread };
        let reason = match (view.verdict, &unread) {
            (Verdict::Trusted(Basis::Kernel), _) if is_always && !view.synchronised => {
                "[clock] trust = \"always\"".to_owned()
            }
            (Verdict::NotSynchronised, Some(unread)) => unread.clone(),
            (verdict, _) => verdict.to_string(),
        };
        snapshot::Clock {
            trusted,
            state: state.to_owned(),
            now: Some(raw().to_string()),
            synchronised: view.synchronised,
            doubted: matches!(view.verdict, Verdict::Doubted(_)),
            reason: Some(reason),
            proven_by: view
                .basis
                .filter(|basis| trusted && basis.is_proof())
                .map(|basis| basis.as_str().to_owned()),
            floor: Some(view.floor.to_string()),
            floor_from: Some(view.floor_from.as_str().to_owned()),
            floor_ahead_s: view.floor_ahead.map(|ahead| ahead.as_secs()),
            last_trusted: view.known.map(|known| known.to_string()),
            doubt_ends_in_s: view.steady_in.map(|left| left.as_secs()),
            unread,
            failing: self.saver().failing.clone(),
        }
    }

    /// The owner says that the clock is right.
    ///
    /// # Errors
    /// [`TrustError`]: it cannot be.
    pub fn trust(&self) -> Result<(), TrustError> {
        let look = look();
        self.judge().trust(look)
    }

    /// The owner says that the floor is wrong.
    pub fn reset(&self) {
        let look = look();
        self.judge().reset(look);
    }

    /// Begins to write what is due: hourly the time, and within a minute what was learned. Never
    /// waits for the disk.
    pub fn save_when_due(&self, now: Instant) {
        let (verdict, revision) = {
            let judge = self.judge();
            (judge.verdict(), judge.revision())
        };
        let mut saver = self.saver();
        saver.finish(now);
        let since = saver.begun.map(|begun| now.saturating_duration_since(begun));
        let learned = revision > saver.saved && since.is_none_or(|since| since >= SAVE_LEARNED_EVERY);
        let again = saver.failing.is_some() && since.is_none_or(|since| since >= RETRY);
        let time = matches!(verdict, Verdict::Trusted(_)) && since.is_none_or(|since| since >= SAVE_EVERY);
        if learned || again || time {
            saver.begin(now, &self.judge());
        }
    }

    /// Writes now, and waits for it, but not for longer than `within`.
    ///
    /// # Errors
    /// What went wrong, in one sentence.
    pub async fn save_within(&self, within: Duration) -> Result<(), String> {
        let give_up = Instant::now() + within;
        // One that runs already may have begun before the last change: it is waited for, and does
        // not count.
        let mut begun = false;
        loop {
            let now = Instant::now();
            {
                let mut saver = self.saver();
                saver.finish(now);
                match (&saver.running, begun) {
                    (None, true) => return saver.failing.clone().map_or(Ok(()), Err),
                    (None, false) => {
                        saver.begin(now, &self.judge());
                        begun = true;
                    }
                    (Some(_), _) => {}
                }
            }
            if now >= give_up {
                return Err("the disk does not answer".to_owned());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Writes here and now: for commands.
    ///
    /// # Errors
    /// What the system said.
    pub fn save(&self) -> io::Result<()> {
        let saved = self.judge().saved();
        file::store(&self.saver().folder, &saved)
    }

    /// All clocks at once.
    pub fn moment(&self) -> Moment {
        let (boottime_ms, raw) = (boottime_ms(), raw());
        let judge = self.judge();
        let wall = judge.wall(raw, boottime_ms);
        let ages_from = wall.and_then(|_| judge.ages_from());
        Moment { now: Instant::now(), boottime_ms, wall, ages_from }
    }
}

impl Saver {
    fn begin(&mut self, now: Instant, judge: &Judge) {
        if self.running.is_some() {
            return;
        }
        self.begun = Some(now);
        let (folder, saved) = (self.folder.clone(), judge.saved());
        let thread = std::thread::Builder::new()
            .name("tombolo-clock".to_owned())
            .spawn(move || file::store(&folder, &saved));
        match thread {
            Ok(thread) => self.running = Some(Running { thread, revision: judge.revision(), begun: now }),
            Err(error) => self.fail(format!("no thread can be started: {error}")),
        }
    }

    /// Takes the result of a save that has ended.
    fn finish(&mut self, now: Instant) {
        let Some(running) = self.running.take() else { return };
        if !running.thread.is_finished() {
            if now.saturating_duration_since(running.begun) >= STUCK {
                self.fail("the disk does not answer".to_owned());
            }
            self.running = Some(running);
            return;
        }
        match running.thread.join() {
            Ok(Ok(())) => {
                self.saved = running.revision;
                if self.failing.take().is_some() {
                    log::info!("the clock's file is written again");
                }
            }
            Ok(Err(error)) => self.fail(error.to_string()),
            Err(_) => self.fail("the thread that writes it failed".to_owned()),
        }
    }

    fn fail(&mut self, reason: String) {
        if self.failing.is_none() {
            log::warn!(reason = reason.as_str(); "the clock's file cannot be written: after a restart the clock may be doubted");
        }
        self.failing = Some(reason);
    }
}

impl WallClock for SystemClock {
    fn raw(&self) -> UnixTime {
        raw()
    }

    fn trusted(&self) -> bool {
        self.wall().is_some()
    }

    fn floor(&self) -> UnixTime {
        self.judge().floor()
    }

    fn wall(&self) -> Option<UnixTime> {
        let (boottime_ms, raw) = (boottime_ms(), raw());
        self.judge().wall(raw, boottime_ms)
    }

    fn doubted(&self) -> Option<UnixTime> {
        let (boottime_ms, raw) = (boottime_ms(), raw());
        self.judge().doubted(raw, boottime_ms)
    }

    fn is_refutable(&self) -> bool {
        self.judge().is_refutable()
    }

    fn learn(&self, chain: ChainValidity) {
        let look = look();
        self.judge().learn(chain, look);
    }
}

fn look() -> Look {
    Look { boottime_ms: boottime_ms(), raw: raw(), synchronised: mark::ask().is_synchronised }
}

fn raw() -> UnixTime {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixTime(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

fn boottime_ms() -> u64 {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(0, |time| {
        let seconds = u64::try_from(time.tv_sec()).unwrap_or(0);
        seconds * 1000 + u64::try_from(time.tv_nsec()).unwrap_or(0) / 1_000_000
    })
}

const fn parse_seconds(text: &[u8]) -> u64 {
    let mut value = 0;
    let mut i = 0;
    while i < text.len() {
        assert!(text[i].is_ascii_digit(), "SOURCE_DATE_EPOCH is whole seconds since 1970");
        value = value * 10 + (text[i] - b'0') as u64;
        i += 1;
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_fault_the_file_is_tried_again_soon() {
        let folder = std::env::temp_dir().join(format!("tombolo-clock-again-{}", std::process::id()));
        let clock = SystemClock::open(&folder, true);
        let is_done = || clock.saver().running.as_ref().is_none_or(|running| running.thread.is_finished());
        let start = Instant::now();
        clock.save_when_due(start);
        while !is_done() {
            std::thread::yield_now();
        }
        clock.save_when_due(start);
        assert!(clock.snapshot().failing.is_some(), "there is no such folder");
        std::fs::create_dir_all(&folder).unwrap();
        clock.save_when_due(start + RETRY - Duration::from_secs(1));
        assert!(clock.saver().running.is_none(), "not yet");
        clock.save_when_due(start + RETRY);
        while !is_done() {
            std::thread::yield_now();
        }
        clock.save_when_due(start + RETRY);
        assert_eq!(clock.snapshot().failing, None);
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn without_a_state_directory_the_floor_is_the_build_date() {
        let clock = SystemClock::open(Path::new("/nonexistent"), true);
        assert_eq!(clock.floor(), BUILD_DATE);
        assert!(clock.save().is_err());
    }
}
