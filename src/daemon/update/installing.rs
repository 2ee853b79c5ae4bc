//! Asks the root program to install, and shows what it does. The daemon installs nothing: it writes
//! a request, and reads what root wrote.
//!
//! | meets | then |
//! |---|---|
//! | root's folder that cannot be read | what is denied is not known: nothing is asked for; a problem in `status` |
//! | a request that cannot be written | a problem in `status`; tried again after 10 min |
//! | nobody takes the request | a problem in `status` after three: the path unit is not active |
//! | a version that runs, and is not confirmed in time | a problem in `status`, with what is known of the cause |
//! | what root refused once, and a check accepts | root is asked to look again, also outside of the window |

use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::task::{spawn_blocking, spawn_local};

use crate::clock::UnixTime;
use crate::durable::io::{create_directory, write_atomically};
use crate::update::installation::{Installation, Phase};
use crate::update::io::local_time;
use crate::update::io::root::{self, Public, Refused};
use crate::update::request::{REQUEST, Requests, STANDS, Wish};
use crate::update::settings::{Backend, Settings, Source};
use crate::update::status::{State, Status};

/// Root's files are read so often; where nothing installs, for what an operator does by hand.
const READ_EVERY: Duration = Duration::from_secs(5);
const READ_SELDOM: Duration = Duration::from_secs(300);
/// Requests that nobody takes until that is named.
const UNTAKEN_MAX: u32 = 3;
/// Behind the time in which a version is judged, until it is named that it is not confirmed.
const SOON: Duration = Duration::from_secs(60);
/// The same where the broker is reached, and it only has to be concluded.
const CONCLUDED_WITHIN: Duration = Duration::from_secs(300);

/// What it knows.
pub struct Installing {
    root: PathBuf,
    folder: PathBuf,
    public: RefCell<Result<Public, String>>,
    read_at: Cell<Option<Instant>>,
    is_reading: Cell<bool>,
    requests: RefCell<Requests>,
    /// Requests since root's record changed last.
    untaken: Cell<u32>,
    failing: RefCell<Option<String>>,
    /// Why nothing can be written in root's folder.
    closed: RefCell<Option<String>>,
    /// Why a version that is ready is not installed now.
    waits: RefCell<Option<String>>,
    /// The phase that root's record is in, and since when that was seen.
    phase: RefCell<Option<(String, Phase, Instant)>>,
    /// Which version should be confirmed, and is not, one sentence.
    unconfirmed: RefCell<Option<String>>,
}

/// What the daemon knows besides.
pub struct Seen<'a> {
    /// `[update]`
    pub settings: &'a Settings,
    /// As it is without an installation.
    pub status: &'a Status,
    /// The wall time, if it is trusted.
    pub wall: Option<UnixTime>,
    /// How long the broker has been connected; `None`: it is not.
    pub connected: Option<Duration>,
    /// The owner's hold.
    pub is_held: bool,
}

impl Installing {
    /// Reads root's files. It blocks: for the start.
    pub fn open(root: PathBuf, folder: PathBuf) -> Rc<Installing> {
        let (public, closed) = (root::read(&root), root::closed(&root));
        Rc::new(Installing {
            root,
            folder,
            public: RefCell::new(public),
            read_at: Cell::new(None),
            is_reading: Cell::new(false),
            requests: RefCell::default(),
            untaken: Cell::new(0),
            failing: RefCell::new(None),
            closed: RefCell::new(closed),
            waits: RefCell::new(None),
            phase: RefCell::new(None),
            unconfirmed: RefCell::new(None),
        })
    }

    /// What root wrote; `None`: it cannot be read.
    pub fn public(&self) -> Option<Public> {
        self.public.borrow().as_ref().ok().cloned()
    }

    /// Once a second. True if what root denies changed: a check then judges by it.
    pub fn care(self: &Rc<Self>, now: Instant, seen: &Seen<'_>) {
        let every = if seen.settings.backend == Backend::None { READ_SELDOM } else { READ_EVERY };
        let is_due = self.read_at.get().is_none_or(|at| now.saturating_duration_since(at) >= every);
        if is_due && seen.settings.source != Source::None {
            self.refresh(now);
        }
        *self.unconfirmed.borrow_mut() = self.watch(now, seen);
        let wish = self.wish(now, seen);
        if self.requests.borrow_mut().poll(now, &wish) {
            self.ask(&wish);
        }
    }

    /// Reads root's files now.
    pub fn refresh(self: &Rc<Self>, now: Instant) {
        if self.is_reading.get() {
            return;
        }
        self.is_reading.set(true);
        self.read_at.set(Some(now));
        let (installing, folder) = (Rc::clone(self), self.root.clone());
        spawn_local(async move {
            let read = spawn_blocking(move || (root::read(&folder), root::closed(&folder))).await;
            let (read, closed) = read.unwrap_or_else(|_| (Err("its thread failed".to_owned()), None));
            installing.is_reading.set(false);
            *installing.closed.borrow_mut() = closed;
            if installing.public.replace(read.clone()) != read {
                installing.untaken.set(0);
            }
        });
    }

    /// Which version should be confirmed by now, and is not.
    fn watch(&self, now: Instant, seen: &Seen<'_>) -> Option<String> {
        let public = self.public.borrow();
        let record = public.as_ref().ok()?.installation.as_ref()?;
        let mut phase = self.phase.borrow_mut();
        let is_same = |(version, phase, _): &&(String, Phase, Instant)| {
            *version == record.version && *phase == record.phase
        };
        let since = phase.as_ref().filter(is_same).map_or(now, |(.., since)| *since);
        *phase = Some((record.version.clone(), record.phase, since));
        let time = now.saturating_duration_since(since);
        unconfirmed(record, time, seen.connected, seen.settings.health_timeout)
    }

    fn wish(&self, now: Instant, seen: &Seen<'_>) -> Wish {
        let mut waits = None;
        let wish = self.wish_of(now, seen, &mut waits);
        *self.waits.borrow_mut() = waits;
        let public = self.public.borrow();
        let refused = public.as_ref().ok().and_then(|public| public.refusal.as_ref());
        // The repository, or the image, is in order since.
        let is_found = matches!(
            seen.status.state,
            State::Ready | State::Available | State::UpToDate | State::Ineligible
        );
        match (wish, refused.filter(|_| is_found && seen.settings.backend != Backend::None)) {
            (Wish::Nothing | Wish::Install { is_open: false, .. }, Some(refused)) => {
                Wish::LookAgain(format!("{:?} {}", refused.at, refused.reason))
            }
            (wish, _) => wish,
        }
    }

    fn wish_of(&self, now: Instant, seen: &Seen<'_>, waits: &mut Option<String>) -> Wish {
        let public = self.public.borrow();
        let Ok(public) = &*public else { return Wish::Nothing };
        if seen.settings.backend == Backend::None {
            return Wish::Nothing;
        }
        match public.installation.as_ref().map(|record| record.phase) {
            Some(Phase::Judging | Phase::Pending) => {
                let reaches = seen.connected.is_some_and(|since| since >= STANDS);
                return if reaches { Wish::Conclude } else { Wish::Nothing };
            }
            // One that was interrupted is settled by the next run.
            Some(
                Phase::Installing | Phase::Installed | Phase::Reverting | Phase::Confirmed | Phase::Failed,
            )
            | None => {}
        }
        let is_ready = match seen.settings.source {
            Source::Tuf(_) => seen.status.state == State::Ready,
            Source::Apt => seen.status.state == State::Available,
            Source::None => false,
        };
        let Some(available) = seen.status.available.as_ref().filter(|_| is_ready && !seen.is_held) else {
            return Wish::Nothing;
        };
        let local = seen.wall.and_then(local_time::at);
        let is_open = seen.settings.window.is_open(local);
        let version = available.version.clone();
        let failures = public.history.failures(&version);
        if !is_open {
            *waits = Some(match local {
                None => "it is installed once the clock is trusted: the maintenance window is in local time"
                    .to_owned(),
                Some(local) => {
                    let minutes = seen.settings.window.opens_in(local);
                    let wait = humantime::format_duration(Duration::from_secs(u64::from(minutes) * 60));
                    format!("it is installed in the maintenance window, which opens in {wait}")
                }
            });
        } else if let Some(left) = self.requests.borrow().retry_in(now, &version) {
            let wait = humantime::format_duration(Duration::from_secs(left.as_secs().div_ceil(60) * 60));
            *waits = Some(format!("it failed here, and is tried again in {wait}"));
        }
        Wish::Install { version, failures, is_open }
    }

    /// Writes the request. What it says is for people: nobody acts on it.
    fn ask(self: &Rc<Self>, wish: &Wish) {
        let text = match wish {
            Wish::Install { version, .. } => {
                log::info!(version; "the newer version is to be installed: the root program is asked");
                format!("install {version}\n")
            }
            Wish::LookAgain(_) => "look again\n".to_owned(),
            Wish::Nothing | Wish::Conclude => "conclude\n".to_owned(),
        };
        // One that is judged is not asked for in vain: it is concluded by the judge.
        if matches!(wish, Wish::Install { .. }) {
            self.untaken.set(self.untaken.get() + 1);
        }
        let (installing, folder) = (Rc::clone(self), self.folder.clone());
        spawn_local(async move {
            let written = spawn_blocking(move || write(&folder, &text)).await;
            let written = written.unwrap_or_else(|_| Err(std::io::Error::other("its thread failed")));
            *installing.failing.borrow_mut() = written.err().map(|error| error.to_string());
        });
    }

    /// The status with what root does. `is_newer`: the image was asked for, or came, since the last
    /// attempt.
    pub fn show(&self, status: Status, settings: &Settings, is_newer: bool) -> Status {
        let public = self.public.borrow();
        let record = public.as_ref().ok().and_then(|public| public.installation.as_ref());
        let mut shown = match record {
            Some(record) if settings.source != Source::None => with_installation(status, record, is_newer),
            _ => status,
        };
        // Only apt fetches what is installed while it installs it.
        let waits = match settings.source {
            Source::Apt => shown.state == State::Available,
            Source::Tuf(_) | Source::None => shown.state == State::Ready,
        };
        if waits && shown.reason.is_none() {
            shown.reason.clone_from(&self.waits.borrow());
        }
        shown.refuse(refusal(&public, shown.state == State::Ready));
        shown
    }

    /// What is wrong and needs somebody. `has_image`: that of the version that is available is
    /// here.
    pub fn problems(&self, settings: &Settings, has_image: bool) -> Vec<String> {
        let mut problems = Vec::new();
        if settings.source == Source::None {
            return problems;
        }
        if let Err(reason) = &*self.public.borrow() {
            problems.push(format!("what was installed cannot be read, so nothing is installed: {reason}"));
        }
        if let Some(reason) = self.closed.borrow().as_ref().filter(|_| settings.backend != Backend::None) {
            let is_judged = self.public.borrow().as_ref().is_ok_and(|public| {
                let phase = public.installation.as_ref().map(|record| record.phase);
                matches!(phase, Some(Phase::Installing | Phase::Judging | Phase::Pending | Phase::Reverting))
            });
            let boots = match is_judged {
                true => {
                    "; nor is a reboot ordered for what is installed or taken back: `systemctl reboot` by hand"
                }
                false => "",
            };
            problems.push(format!(
                "nothing is installed, because nothing could be written down: {reason}{boots}"
            ));
        }
        if let Some(reason) = &*self.failing.borrow() {
            problems
                .push(format!("an installation cannot be asked for: {}: {reason}", self.folder.display()));
        }
        if let Ok(public) = &*self.public.borrow() {
            if let Some(refused) = public.refusal.as_ref().filter(|refused| refused.stands(has_image)) {
                let Refused { reason, at, .. } = refused;
                let at = at.as_ref().map(|at| format!(" at {at}")).unwrap_or_default();
                problems.push(format!(
                    "what installs refused what was offered{at}: {reason}; `sudo tombolo update apply` tries again"
                ));
            }
            let of_root = |damage: &String| format!("{}: {damage}", self.root.display());
            problems.extend(public.damage.as_ref().map(of_root));
        }
        problems.extend(self.unconfirmed.borrow().clone());
        let is_refused = refusal(&self.public.borrow(), has_image).is_some();
        if self.untaken.get() > UNTAKEN_MAX && !is_refused {
            problems.push(
                "a newer version is to be installed, and nobody does it: `systemctl status tombolo-update.service` says why; `sudo tombolo update apply` does it by hand"
                    .to_owned(),
            );
        }
        problems
    }
}

fn refusal(public: &Result<Public, String>, has_image: bool) -> Option<&str> {
    let refused = public.as_ref().ok()?.refusal.as_ref().filter(|refused| refused.stands(has_image));
    refused.map(|refused| refused.reason.as_str())
}

/// Why the version of `record`, which has been in its phase for `time`, should be confirmed by now.
/// `connected`: how long the broker has been.
fn unconfirmed(
    record: &Installation,
    time: Duration,
    connected: Option<Duration>,
    timeout: Duration,
) -> Option<String> {
    let is_late = match record.phase {
        // It works, and only what is written down of that is missing.
        Phase::Judging if record.is_proven => time >= SOON,
        Phase::Judging => time >= timeout + SOON,
        // Without a broker it waits for it, which is said elsewhere.
        Phase::Pending => time.min(connected?) >= CONCLUDED_WITHIN,
        _ => false,
    };
    let (version, minutes) = (&record.version, time.as_secs() / 60);
    let cause = record.cause.as_ref().map(|cause| format!(": {cause}")).unwrap_or_default();
    is_late.then(|| {
        format!(
            "version {version} has been installed for {minutes} min and is not confirmed{cause}; `sudo tombolo \
             health --wait` judges it, and says what keeps it from that"
        )
    })
}

fn write(folder: &Path, text: &str) -> std::io::Result<()> {
    create_directory(folder)?;
    write_atomically(&folder.join(REQUEST), text.as_bytes(), 0o600)
}

/// What is installed or judged comes before what was found; what failed until something else is
/// found, or its image is fetched anew: then it is told beside that.
fn with_installation(mut status: Status, record: &Installation, is_newer: bool) -> Status {
    let of = |version: &str| format!("version {version}");
    let cause = record.cause.clone();
    match record.phase {
        Phase::Installing => {
            (status.state, status.progress) = (State::Installing, record.progress);
            status.reason = Some(of(&record.version));
        }
        Phase::Installed => {
            status.state = State::Installing;
            status.reason = Some(format!("{} runs after the next boot", of(&record.version)));
        }
        Phase::Reverting => {
            status.state = State::Failed;
            let cause = cause.unwrap_or_default();
            let is_back = record.previous.is_some() && status.installed == record.previous;
            let when = if is_back { "again" } else { "after the next boot" };
            status.reason = Some(format!("{}: {cause}; the version before runs {when}", of(&record.version)));
        }
        Phase::Judging | Phase::Pending => {
            status.state = State::Pending;
            let cause = cause.unwrap_or_else(|| "it is judged by its health".to_owned());
            status.reason = Some(format!("{}: {cause}", of(&record.version)));
        }
        Phase::Failed => {
            let is_other = status.available.as_ref().is_some_and(|found| found.version != record.version);
            // A denial, a fault of the check, and that it is offered no more, say more; unless it
            // could not be rolled back.
            let is_stuck = status.installed.as_deref() == Some(record.version.as_str());
            let is_of_found = !is_other && !is_stuck;
            let is_shown = match status.state {
                State::Unknown | State::UpToDate if is_stuck => true,
                State::Unknown => is_of_found,
                State::Available | State::Ready => is_of_found && !is_newer,
                _ => false,
            };
            let is_beside = matches!(status.state, State::Available | State::Ready | State::Downloading);
            let cause = cause.unwrap_or_default();
            if is_of_found && is_beside && !is_shown {
                status.failure = Some(cause);
            } else if is_shown {
                status.state = State::Failed;
                status.reason = Some(format!("{}: {cause}", of(&record.version)));
            }
        }
        Phase::Confirmed => {}
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::update::status::Available;
    use crate::update::version::Scheme;

    fn found(version: &str) -> Status {
        let available = Available {
            version: version.to_owned(),
            target: "t".to_owned(),
            bytes: None,
            sha256: None,
            notes: None,
        };
        let state = State::Ready;
        Status { state, available: Some(available), ..Status::new(Some("1".to_owned())) }
    }

    fn record(phase: Phase) -> Installation {
        let mut record = Installation::begin("2", Scheme::Debian, Some("1".to_owned()), "exec");
        record.enter(phase, None, None);
        record
    }

    #[test]
    fn a_version_that_is_not_confirmed_in_time_is_named_and_one_that_waits_for_a_broker_is_not() {
        let (minute, timeout) = (Duration::from_secs(60), Duration::from_secs(1800));
        let late = |record: &Installation, minutes: u32, connected: Option<u32>| {
            unconfirmed(record, minutes * minute, connected.map(|minutes| minutes * minute), timeout)
        };
        let judged = record(Phase::Judging);
        assert_eq!(late(&judged, 30, Some(30)), None);
        let said = late(&judged, 31, None).expect("late");
        assert!(said.starts_with("version 2 has been installed for 31 min and is not confirmed; "), "{said}");
        let mut proven = Installation { is_proven: true, ..judged };
        proven.because("the floor is held");
        assert_eq!(late(&proven, 0, Some(1)), None);
        assert!(
            late(&proven, 1, Some(1)).is_some_and(|said| said.contains("confirmed: the floor is held; "))
        );
        let pending = record(Phase::Pending);
        for (minutes, connected, is_late) in
            [(600, None, false), (600, Some(4), false), (4, Some(600), false), (5, Some(5), true)]
        {
            assert_eq!(late(&pending, minutes, connected).is_some(), is_late, "{minutes} {connected:?}");
        }
        for phase in [Phase::Installing, Phase::Installed, Phase::Reverting, Phase::Confirmed, Phase::Failed]
        {
            assert_eq!(late(&record(phase), 6000, Some(6000)), None, "{phase:?}");
        }
    }

    #[test]
    fn what_root_does_comes_before_what_was_found() {
        for (phase, state) in [
            (Phase::Installing, State::Installing),
            (Phase::Installed, State::Installing),
            (Phase::Judging, State::Pending),
            (Phase::Pending, State::Pending),
            (Phase::Reverting, State::Failed),
            (Phase::Failed, State::Failed),
            (Phase::Confirmed, State::Ready),
        ] {
            assert_eq!(with_installation(found("2"), &record(phase), false).state, state, "{phase:?}");
        }
        let mut installing = record(Phase::Installing);
        installing.progress = Some(40);
        assert_eq!(with_installation(found("2"), &installing, false).progress, Some(40));
    }

    #[test]
    fn a_failure_is_told_with_its_cause_until_another_version_is_found() {
        let mut failed = record(Phase::Failed);
        failed.because("no room");
        let shown = with_installation(found("2"), &failed, false);
        assert_eq!(shown.reason.as_deref(), Some("version 2: no room"));
        assert_eq!(with_installation(found("3"), &failed, false), found("3"));
        let stuck = Status { available: None, state: State::UpToDate, ..Status::new(Some("2".to_owned())) };
        assert_eq!(with_installation(stuck.clone(), &failed, false).state, State::Failed, "it still runs");
        let gone = Status { installed: Some("1".to_owned()), ..stuck };
        assert_eq!(with_installation(gone, &failed, false).state, State::UpToDate, "it is offered no more");
        let mut refused = found("2");
        refused.state = State::Error;
        assert_eq!(with_installation(refused.clone(), &failed, false), refused);
    }

    #[test]
    fn an_image_that_comes_after_a_failure_is_told_with_the_failure_beside_it() {
        let mut failed = record(Phase::Failed);
        failed.because("its image is not here");
        for state in [State::Available, State::Downloading, State::Ready] {
            let newer = Status { state, ..found("2") };
            let shown = with_installation(newer.clone(), &failed, true);
            assert_eq!(shown, Status { failure: Some("its image is not here".to_owned()), ..newer });
        }
        let fetched = Status { state: State::Downloading, ..found("2") };
        assert!(with_installation(fetched, &failed, false).failure.is_some());
        assert_eq!(with_installation(found("3"), &failed, true), found("3"));
    }
}
