//! The root program: `tombolo update apply`. It decides by itself, from what nobody but root can
//! change, whether something is to be installed now, and installs it.
//!
//! What the daemon found is not asked. The metadata is fetched and verified anew, against a
//! root.json and a floor that are root's; the image is the daemon's file, copied while it is
//! hashed, and the copy is what is installed. The request's content is not read.
//!
//! | the daemon's user | then |
//! |---|---|
//! | writes another image, a link, a pipe, or exchanges it meanwhile | the copy has not the signed SHA-256, and is deleted |
//! | asks outside the window, or all the time | nothing is installed; what was refused before is looked at again; a version that fails is tried once a minute |
//! | lowers its own floor, clears its history | root's count |
//! | has a floor that what is offered is below, or a fork of | nothing is installed: it may refuse, not allow |
//! | puts something else in the place of its floor | nothing is installed; one that is gone or damaged is none |
//! | holds or denies | nothing is installed: it may refuse, not allow |

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::answer::{self, Answer, Fetching, Found, Question};
use super::backend::{Backend, Effect, Wanted};
use super::ledger::Ledger as _;
use super::room::free_bytes;
use super::root::{Boot, Public, Root};
use super::system::PACKAGE;
use super::watch::{self, End};
use super::{history, untrusted};
use crate::clock::WallClock;
use crate::message::Name;
use crate::update::apt::Candidate;
use crate::update::check::Metadata;
use crate::update::eligibility::{Decision, Objections, Reason};
use crate::update::floor::{FORMAT, Floor};
use crate::update::health::{Answered, STEADY};
use crate::update::history::What;
use crate::update::installation::{Arrival, Installation, Phase};
use crate::update::offer::Offer;
use crate::update::settings::{Settings, Source};
use crate::update::version::Scheme;
use crate::update::window::WeekTime;

/// Between two attempts at one version that were asked for.
const PAUSE_S: u64 = 60;
/// Longest history of the daemon's that is read, in bytes.
const HISTORY_MAX: u64 = 256 * 1024;
const NO_IMAGE: &str = "its image is not here; `tombolo update download` fetches it";
/// Kept free beside the copy of an image.
const SPARE: u64 = 16 << 20;

/// What is to be installed.
struct Chosen {
    version: String,
    scheme: Scheme,
    /// Of a repository.
    offer: Option<Offer>,
    /// By what it was found there.
    verified: Option<Metadata>,
}

/// What it works with.
pub struct Work<'a> {
    /// Root's folder.
    pub root: &'a Root,
    /// What installs.
    pub backend: &'a dyn Backend,
    /// `[update]`, of files of root's.
    pub settings: &'a Settings,
    /// The gateway's id; `None`: not known.
    pub gateway: Option<Name>,
    /// The daemon's state directory.
    pub state_dir: &'a Path,
    /// Judges expiry and certificates.
    pub clock: Arc<dyn WallClock>,
    /// This boot.
    pub boot: Boot,
    /// The local time, if the clock is trusted.
    pub local: Option<WeekTime>,
    /// Asked for by the daemon, not by root: the window and the pause count.
    pub is_requested: bool,
    /// The version that runs was connected to the broker within the last hour.
    pub was_connected: bool,
    /// What the daemon says of its health; `None`: it does not answer.
    pub daemon: Option<Answered>,
    /// Told what is done, and how far it is.
    pub progress: &'a mut dyn FnMut(&str, Option<u8>),
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing is to be done now: why.
    Nothing(String),
    /// There is a newer version, and the owner or its failures here withhold it: why.
    Withheld(String),
    /// A version that runs is still to be judged: by `tombolo health`.
    Judged(String),
    /// A version that ran unconfirmed works and has reached the broker, if it has one to reach.
    Confirmed(String),
    /// It was installed and runs.
    Runs(String),
    /// It was installed, and runs after the next boot.
    AtBoot(String),
}

impl Work<'_> {
    fn at(&self) -> Option<String> {
        self.clock.wall().map(|at| at.to_string())
    }

    /// Does it. It blocks.
    ///
    /// # Errors
    /// One sentence: why nothing was installed though something was to be.
    pub fn apply(&mut self) -> Result<Outcome, String> {
        let public = self.root.read()?;
        let running = match &public.installation {
            Some(record) => watch::what_runs(self.root, self.backend, record),
            None => self.backend.running(),
        };
        if let Some(outcome) = self.settle(&public, running.as_deref())? {
            return Ok(outcome);
        }
        // What was read before may have changed by what was settled.
        let public = self.root.read()?;
        let is_closed = self.is_requested && !self.settings.window.is_open(self.local);
        let closed = || {
            Outcome::Nothing(match self.local {
                Some(_) => "it is outside of the maintenance window".to_owned(),
                None => "the clock is not trusted, so the maintenance window is closed".to_owned(),
            })
        };
        // What was refused may be in order: that is looked at, and said, at any time.
        if is_closed && (public.refusal.is_none() || self.local.is_none()) {
            return Ok(closed());
        }
        (self.progress)("verifying", None);
        let mut lacks_image = false;
        let chosen = self.choose(&public).and_then(|chosen| match &chosen {
            Ok(Chosen { offer: Some(_), .. }) if self.has_no_image() => {
                lacks_image = true;
                Err(NO_IMAGE.to_owned())
            }
            _ => Ok(chosen),
        });
        // Nothing was begun that could have failed; it is shown all the same.
        self.root.show_refusal(chosen.as_ref().err().map(String::as_str), self.at(), lacks_image);
        let Chosen { version, scheme, offer, verified } = match chosen? {
            Ok(_) if is_closed => return Ok(closed()),
            Ok(chosen) => chosen,
            Err(outcome) => return Ok(outcome),
        };
        let boot = self.boot.clone();
        let since = self.root.since_attempt(&boot, &version);
        if let Some(since) = since.filter(|since| self.is_requested && *since < PAUSE_S) {
            return Ok(Outcome::Nothing(format!("version {version} was tried {since} s ago")));
        }
        self.root.reserve()?;
        self.root.note_attempt(&boot, &version);
        let mut record = Installation::begin(&version, scheme, running.clone(), self.backend.name());
        record.was_connected = self.was_connected;
        record.attempt = crate::system::io::random()
            .map(u64::from_ne_bytes)
            .map_or_else(|_| String::new(), |number| format!("{number:016x}"));
        record.enter(Phase::Installing, boot.id.clone(), self.at());
        self.root.write(&record)?;
        self.root.record(&record, What::Installing, self.at().as_deref(), None)?;
        let installed = self.install(&mut record, offer.as_ref(), verified.as_ref(), running);
        self.root.forget_image();
        match installed {
            Ok(effect) => {
                let phase = if effect == Effect::Now { Phase::Judging } else { Phase::Installed };
                record.enter(phase, boot.id, self.at());
                match (effect, self.root.write(&record)) {
                    // It is judged: what runs says so to the next run, too.
                    (Effect::Now, written) => {
                        self.root.keep(written);
                        Ok(Outcome::Runs(version))
                    }
                    (Effect::AtBoot, Ok(())) => Ok(Outcome::AtBoot(version)),
                    (Effect::AtBoot, Err(why)) => Err(format!(
                        "version {version} is installed, and that cannot be written down: {why}; so no reboot is \
                         ordered: give it room, then `systemctl reboot`"
                    )),
                }
            }
            Err(reason) => {
                let failed = self.fail(&mut record, What::NotInstalled, &reason);
                let unwritten = failed.err().map(|why| format!("; and {why}")).unwrap_or_default();
                Err(format!("version {version} was not installed: {reason}{unwritten}"))
            }
        }
    }

    /// What is wanted; or why nothing is.
    fn choose(&self, public: &Public) -> Result<Result<Chosen, Outcome>, String> {
        let of_daemon = |name: &str, max| {
            untrusted::read_below(self.state_dir, &Path::new(answer::FOLDER).join(name), max)
        };
        let floor = match of_daemon(FORMAT.name, FORMAT.file_bytes()) {
            Err(error) if self.settings.source != Source::Apt && error.kind() != ErrorKind::NotFound => {
                let shown = self.state_dir.join(answer::FOLDER).join(FORMAT.name);
                return Err(format!(
                    "{} is refused: {error}, so what the daemon saw of the repository is not known; move it away",
                    shown.display()
                ));
            }
            read => read.ok(),
        };
        let theirs = of_daemon(history::NAME, HISTORY_MAX);
        let theirs = theirs.ok().and_then(|bytes| history::parse_untrusted(&bytes)).unwrap_or_default();
        let mut denied = public.history.denied.clone();
        denied.extend(theirs.denied);
        let is_held = public.history.held || theirs.held;
        // apt rolls nothing out in stages.
        let of_apt = || Name::parse("gateway").ok().filter(|_| self.settings.source == Source::Apt);
        let gateway = self.gateway.clone().or_else(of_apt).ok_or(
            "the gateway's id is not known, and with it its stage of the roll-out; set [gateway] id, or start the gateway once",
        )?;
        let question = Question {
            settings: self.settings.clone(),
            gateway,
            folder: self.root.folder().to_owned(),
            objections: Objections { is_held, denied, floor: public.floor.clone() },
            clock: self.clock.clone(),
            fetching: Fetching::Within,
            daemon: floor.and_then(|file| Floor::parse_untrusted(&file)),
            // By what is installed alone: what a run meets that installs nothing is not kept.
            raises: false,
            dropped: Arc::default(),
        };
        let Answer { result, verified, .. } = answer::answer(&question);
        let nothing = || Outcome::Nothing("nothing newer is offered".to_owned());
        let ineligible = |version: &str, reason: &Reason| {
            let text = format!("version {version}: {reason}");
            match reason {
                Reason::Held | Reason::Denied => Outcome::Withheld(text),
                _ => Outcome::Nothing(text),
            }
        };
        match result.map_err(|fault| fault.to_string())? {
            Found::Tuf(Decision::Available(offer)) => {
                let (version, scheme) = (offer.version.clone(), offer.scheme);
                Ok(Ok(Chosen { version, scheme, offer: Some(*offer), verified }))
            }
            Found::Tuf(Decision::UpToDate) => Ok(Err(nothing())),
            Found::Tuf(Decision::Ineligible { version, reason }) => Ok(Err(ineligible(&version, &reason))),
            Found::Apt(Candidate::Available(version)) => {
                Ok(Ok(Chosen { version, scheme: Scheme::Debian, offer: None, verified }))
            }
            Found::Apt(Candidate::Ineligible { version, reason }) => Ok(Err(ineligible(&version, &reason))),
            Found::Apt(Candidate::UpToDate | Candidate::Stale(_)) => Ok(Err(nothing())),
            Found::Apt(Candidate::Unknown) => Err(format!("apt knows no package {PACKAGE}")),
        }
    }

    fn install(
        &mut self,
        record: &mut Installation,
        offer: Option<&Offer>,
        verified: Option<&Metadata>,
        previous: Option<String>,
    ) -> Result<Effect, String> {
        let file = match offer {
            Some(offer) => {
                (self.progress)("copying the image", None);
                Some(self.take_image(offer)?)
            }
            None => None,
        };
        if let Some(metadata) = verified {
            self.root.learn(metadata)?;
        }
        let wanted = Wanted {
            version: record.version.clone(),
            file,
            target: offer.map_or_else(|| PACKAGE.to_owned(), |offer| offer.target.clone()),
            sha256: offer.map(Offer::sha256_hex).unwrap_or_default(),
            previous,
        };
        (self.progress)("installing", Some(0));
        let root = self.root;
        // A second one that installs at the same time would be the worst there is.
        let _shared = root.share()?;
        let progress = &mut self.progress;
        self.backend.install(&wanted, &mut |percent| {
            progress("installing", Some(percent));
            let step = Some(percent / 10 * 10);
            if record.progress != step {
                record.progress = step;
                // The installation does not depend on it.
                root.show(record);
            }
        })
    }

    /// There is nothing in its place; what else may be there is refused by its name.
    fn has_no_image(&self) -> bool {
        let name = Path::new(answer::FOLDER).join(crate::update::image::IMAGE);
        let opened = untrusted::open_below(self.state_dir, &name);
        opened.is_err_and(|error| error.kind() == ErrorKind::NotFound)
    }

    /// The daemon's image, if it is the one that was signed, copied to where nobody else writes.
    fn take_image(&self, offer: &Offer) -> Result<PathBuf, String> {
        let name = Path::new(answer::FOLDER).join(crate::update::image::IMAGE);
        let shown = self.state_dir.join(&name).display().to_string();
        let mut source =
            untrusted::open_below(self.state_dir, &name).map_err(|error| match error.kind() {
                ErrorKind::NotFound => NO_IMAGE.to_owned(),
                _ => format!("{shown} is refused: {error}"),
            })?;
        if let Some(free) =
            free_bytes(self.root.folder()).filter(|free| *free < offer.bytes.saturating_add(SPARE))
        {
            let folder = self.root.folder().display();
            return Err(format!(
                "{folder} has {free} bytes free, and needs {} for a copy of the image, and {SPARE} to spare",
                offer.bytes
            ));
        }
        let target = self.root.image();
        match untrusted::copy(&mut source, &target, offer.bytes, &offer.sha256) {
            Ok(true) => Ok(target),
            Ok(false) => Err(format!(
                "{shown} is not the image that was signed; `tombolo update download` fetches it anew"
            )),
            Err(error) => Err(format!("{shown} cannot be copied: {error}")),
        }
    }

    /// What an earlier run or boot left; `Some`: nothing else is to be done now.
    fn settle(&mut self, public: &Public, running: Option<&str>) -> Result<Option<Outcome>, String> {
        let Some(mut record) = public.installation.clone() else { return Ok(None) };
        let version = record.version.clone();
        match record.arrive(running, self.boot.id.as_deref()) {
            Arrival::Over => Ok(None),
            Arrival::Unknown => {
                Err("the version that runs is not known, so nothing is concluded about the last installation; a package that dpkg has half installed is completed by `apt-get install --reinstall tombolo`"
                    .to_owned())
            }
            Arrival::AwaitsReboot => Ok(Some(match record.phase {
                Phase::Installed => Outcome::AtBoot(version),
                _ => Outcome::Nothing("the next boot brings back the version before".to_owned()),
            })),
            Arrival::Proven => {
                let at = self.at();
                watch::conclude(self.root, self.backend, &mut record, running, &self.boot, at)?;
                // Where another one runs, a boot loader went back: the newest is installed again.
                Ok((running == Some(&*version)).then_some(Outcome::Confirmed(version)))
            }
            Arrival::Runs => {
                if matches!(record.phase, Phase::Installing | Phase::Installed) {
                    record.enter(Phase::Judging, self.boot.id.clone(), self.at());
                    self.root.keep(self.root.write(&record));
                }
                let is_steady = |daemon: Answered| record.phase == Phase::Pending || daemon.uptime >= STEADY;
                let concludes = |daemon: Answered| {
                    daemon.works && !daemon.refuses && (daemon.is_connected || !daemon.has_broker) && is_steady(daemon)
                };
                if !self.daemon.is_some_and(concludes) {
                    return Ok(Some(Outcome::Judged(version)));
                }
                if !record.is_good {
                    self.backend.mark_good(&version)?;
                    record.is_good = true;
                }
                let at = self.at();
                watch::confirm(self.root, &mut record, &self.boot, at)?;
                Ok(Some(Outcome::Confirmed(version)))
            }
            Arrival::Interrupted => {
                self.fail(&mut record, What::NotInstalled, "the installation was interrupted")?;
                Ok(None)
            }
            // A failure that is not counted could be met for ever.
            Arrival::WentBack => {
                let refuses = self.daemon.is_some_and(|daemon| daemon.refuses);
                match watch::went_back(self.root, record, &self.boot, self.at(), refuses) {
                    true => Ok(None),
                    false => Err(self.root.unwritten().unwrap_or_default()),
                }
            }
            Arrival::Reverted => match watch::reverted(self.root, record, &self.boot, self.at()) {
                true => Ok(None),
                false => Err(self.root.unwritten().unwrap_or_default()),
            },
            Arrival::Unreverted => {
                match watch::take_back(self.root, self.backend, record, &self.boot, self.at()) {
                    End::RolledBack { effect: Effect::Now, .. } => {
                        Ok(Some(Outcome::Nothing(format!("version {version} was taken back"))))
                    }
                    End::RolledBack { .. } => {
                        Ok(Some(Outcome::Nothing("the next boot brings back the version before".to_owned())))
                    }
                    End::Stuck(why) => Err(why),
                    _ => Ok(None),
                }
            }
            Arrival::NotReverted => {
                let cause = record.cause.clone().unwrap_or_default();
                record.because(&format!("{cause}; the version before was to boot, and did not"));
                record.enter(Phase::Failed, self.boot.id.clone(), self.at());
                self.root.write(&record)?;
                Ok(None)
            }
            Arrival::Superseded => {
                record.because("another version was installed by somebody else");
                record.enter(Phase::Failed, self.boot.id.clone(), self.at());
                self.root.write(&record)?;
                Ok(None)
            }
        }
    }

    fn fail(&self, record: &mut Installation, what: What, reason: &str) -> Result<(), String> {
        record.because(reason);
        record.enter(Phase::Failed, self.boot.id.clone(), self.at());
        // The event first: a failure that is not counted could be met for ever.
        self.root.record(record, what, self.at().as_deref(), record.cause.as_deref())?;
        self.root.write(record)
    }
}
