//! Whether the kernel's clock is synchronised, for a service that may not ask the kernel.
//!
//! The system calls that ask are those that set the clock, so the daemon's unit closes them
//! (`ProtectClock=`). `tombolo-clock.service`, which has nothing but them, asks instead
//! ([`watch`]), and writes the answer into a file of one line:
//!
//! ```text
//! synchronised 8123          or unsynchronised, unknown; seconds of CLOCK_MONOTONIC
//! ```
//!
//! An answer that is older than a minute counts as none. Without one there may be the mark of
//! systemd-timesyncd, which stays when synchronisation is lost, and which no other time service
//! makes; that the kernel was not asked is then said ([`Answer::unread`]).

use std::fs;
use std::io::{self, Read as _};
use std::path::Path;
use std::time::Duration;

use nix::libc;
use nix::time::{ClockId, clock_gettime};

/// The file that `tombolo-clock.service` writes, in a folder in memory.
const STATE: &str = "/run/tombolo-clock/state";
/// The mark of systemd-timesyncd.
const TIMESYNCD: &str = "/run/systemd/timesync/synchronized";
/// How often the kernel is asked for the file: it says yes minutes after a server was reached, and
/// no hours after the last answer.
const EVERY: Duration = Duration::from_secs(5);
/// How old an answer may be, in seconds: that process is started anew within this time.
const FRESH_S: u64 = 60;
/// More than the longest line.
const STATE_MAX: u64 = 64;

/// Whether the clock is synchronised, and whether the kernel said so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub is_synchronised: bool,
    /// Why the kernel could not be asked; `None` = it was.
    pub unread: Option<String>,
}

/// What `tombolo-clock.service` wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Synchronised,
    Unsynchronised,
    /// The kernel refuses the answer to that process, too.
    Unknown,
}

impl State {
    const ALL: [State; 3] = [State::Synchronised, State::Unsynchronised, State::Unknown];

    fn word(self) -> &'static str {
        match self {
            State::Synchronised => "synchronised",
            State::Unsynchronised => "unsynchronised",
            State::Unknown => "unknown",
        }
    }

    fn encode(self, now_s: u64) -> String {
        format!("{} {now_s}\n", self.word())
    }

    /// `None` if it is damaged or too old.
    fn parse(line: &str, now_s: u64) -> Option<State> {
        let (word, written_s) = line.strip_suffix('\n')?.split_once(' ')?;
        let age_s = now_s.checked_sub(written_s.parse().ok()?)?;
        State::ALL.into_iter().find(|state| state.word() == word && age_s <= FRESH_S)
    }
}

/// Asks whoever may be asked from here.
pub(super) fn ask() -> Answer {
    kernel().map_or_else(
        |error| decide(&error, read(Path::new(STATE), monotonic_s()), Path::new(TIMESYNCD).exists()),
        |is_synchronised| Answer { is_synchronised, unread: None },
    )
}

/// The kernel does not answer this process.
fn decide(error: &io::Error, state: Option<State>, timesyncd: bool) -> Answer {
    let why = match state {
        Some(State::Synchronised) => return Answer { is_synchronised: true, unread: None },
        Some(State::Unsynchronised) => return Answer { is_synchronised: false, unread: None },
        Some(State::Unknown) => "tombolo-clock.service gets no answer from it either",
        None => "tombolo-clock.service, which asks it for the daemon, does not run",
    };
    let instead = if timesyncd { "; systemd-timesyncd says that it was" } else { "" };
    let unread =
        format!("the kernel cannot be asked whether it is synchronised ({error}), and {why}{instead}");
    Answer { is_synchronised: timesyncd, unread: Some(unread) }
}

/// Asks the kernel again and again, and writes its answer. `say` is called once where it gives
/// none.
///
/// # Errors
/// One sentence: the file cannot be written.
pub fn watch(say: impl Fn(&str)) -> Result<std::convert::Infallible, String> {
    let mut refused = false;
    loop {
        let state = match kernel() {
            Ok(true) => State::Synchronised,
            Ok(false) => State::Unsynchronised,
            Err(error) => {
                if !refused {
                    say(&format!("the kernel does not say whether the clock is synchronised: {error}"));
                }
                State::Unknown
            }
        };
        refused = state == State::Unknown;
        write(Path::new(STATE), state, monotonic_s())
            .map_err(|error| format!("{STATE}: {error}; only tombolo-clock.service runs this command"))?;
        // Not started by systemd: there is no watchdog.
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]);
        std::thread::sleep(EVERY);
    }
}

fn kernel() -> io::Result<bool> {
    let mut timex = rtime_clock::adjtime::Timex::new();
    rtime_clock::adjtime::adjtimex(&mut timex).map_err(|_| io::Error::last_os_error())?;
    Ok(timex.0.status & libc::STA_UNSYNC == 0)
}

/// Not the wall clock, which may be set, nor the time of a suspension, in which nothing is written.
fn monotonic_s() -> u64 {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |time| u64::try_from(time.tv_sec()).unwrap_or(0))
}

fn read(path: &Path, now_s: u64) -> Option<State> {
    let mut line = String::new();
    fs::File::open(path).and_then(|file| file.take(STATE_MAX).read_to_string(&mut line)).ok()?;
    State::parse(&line, now_s)
}

/// In one step, so that no half line is read.
fn write(path: &Path, state: State, now_s: u64) -> io::Result<()> {
    let new = path.with_extension("new");
    fs::write(&new, state.encode(now_s))?;
    fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_of_the_clock_service_counts_for_a_minute_and_damage_counts_as_none() {
        let folder = std::env::temp_dir().join(format!("tombolo-clock-state-{}", std::process::id()));
        let path = folder.join("state");
        assert!(write(&path, State::Synchronised, 1_000).is_err(), "there is no folder");
        fs::create_dir_all(&folder).unwrap();
        assert_eq!(read(&path, 1_000), None);
        for state in State::ALL {
            write(&path, state, 1_000).unwrap();
            assert_eq!((read(&path, 1_000), read(&path, 1_060)), (Some(state), Some(state)));
            assert_eq!(
                (read(&path, 1_061), read(&path, 999)),
                (None, None),
                "it hangs; it is of another boot"
            );
        }
        for damage in ["", "\n", "synchronised\n", "synchronised 1000", "perhaps 1000\n", "synchronised -1\n"]
        {
            fs::write(&path, damage).unwrap();
            assert_eq!(read(&path, 1_000), None, "{damage:?}");
        }
        fs::write(&path, "synchronised 1000\n".repeat(100)).unwrap();
        assert_eq!(read(&path, 1_000), None);
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn without_the_clock_service_timesyncd_decides_and_the_reason_is_said() {
        let error = || io::Error::from_raw_os_error(libc::EPERM);
        for (state, is_synchronised) in [(State::Synchronised, true), (State::Unsynchronised, false)] {
            for timesyncd in [false, true] {
                let answer = decide(&error(), Some(state), timesyncd);
                assert_eq!(answer, Answer { is_synchronised, unread: None }, "the kernel's word counts");
            }
        }
        for (state, word) in [(None, "does not run"), (Some(State::Unknown), "no answer")] {
            let nobody = decide(&error(), state, false);
            assert!(!nobody.is_synchronised && nobody.unread.as_ref().unwrap().contains(word), "{nobody:?}");
            let other = decide(&error(), state, true);
            assert!(
                other.is_synchronised && other.unread.as_ref().unwrap().contains("timesyncd"),
                "{other:?}"
            );
        }
    }
}
