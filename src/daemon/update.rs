//! Newer firmware: when it is looked for, what was found, and its image fetched. Network, programs
//! and files are touched on threads of their own, so that nothing here delays a reading; metadata
//! is fetched and verified by a process that ends with the check.
//!
//! | meets | then |
//! |---|---|
//! | a check or a download that hangs | one thread waits; after 15 min it is named; all else goes on |
//! | a reload in the middle | what was begun under the settings before is dropped |
//! | a clock that is not trusted | a check by TUF waits for it |
//! | an image that went bad or is gone | hashed, and fetched, anew: when asked for, or not installed |
//! | a history that cannot be read | checks go on, and nothing is fetched: what is denied is not known |

mod installing;
mod sensors;
mod turn;

use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::task::{spawn_blocking, spawn_local};

use self::installing::{Installing, Seen};
use self::sensors::Sensors;
use self::turn::Turn;
use super::clock::SystemClock;
use super::firmware::Firmware;
use super::link::Link;
use crate::clock::{UnixTime, WallClock};
use crate::config::Settings as Configuration;
use crate::control::api::{Reply, UpdateAction};
use crate::control::protocol::{Code, Failure};
use crate::control::snapshot;
use crate::durable::two_slot::TwoSlot;
use crate::https::io::stream::Pace;
use crate::message::Name;
use crate::telemetry::counters::Snapshot;
use crate::update::check::{Fault, root_ends};
use crate::update::eligibility::{Decision, Objections};
use crate::update::history::{Event, History, What};
use crate::update::image::{self, Record};
use crate::update::installation::{Installation, Phase};
use crate::update::io::answer::{self, Answer, Fetching, Found, Question};
use crate::update::io::client::client;
use crate::update::io::download::{Job, NoImage, SYNC_EVERY, Surroundings, clear, download};
use crate::update::io::firmware;
use crate::update::io::floor::on_disk;
use crate::update::io::history;
use crate::update::io::room::{free_bytes, kept_free};
use crate::update::io::root::Public;
use crate::update::io::system::PACKAGE;
use crate::update::offer::Offer;
use crate::update::schedule::Schedule;
use crate::update::settings::{Settings, Source};
use crate::update::status::{Fetch, State, Status};

/// A check that takes longer is named.
const LONG: Duration = Duration::from_secs(900);
/// The status is published at most so often.
const TELL_EVERY: Duration = Duration::from_secs(5);
/// With nothing new but the time of the check, at most so often.
const TELL_TIMES_EVERY: Duration = Duration::from_secs(3600);
/// After an interrupted download: 1 min, then twice as long each time, at most an hour.
const RETRY: Duration = Duration::from_secs(60);
const RETRY_MAX: Duration = Duration::from_secs(3600);
/// An image that was not the signed one is fetched again at the earliest after this.
const WRONG_FOR: Duration = Duration::from_secs(86_400);

/// All of it.
pub struct Updates {
    gateway: RefCell<Name>,
    folder: PathBuf,
    journal: PathBuf,
    clock: Arc<SystemClock>,
    link: Rc<Link>,
    inner: RefCell<Inner>,
    installing: Rc<Installing>,
    firmware: Rc<Firmware>,
    sensors: Rc<Sensors>,
    /// `{state-dir}/firmware`
    state_firmware: PathBuf,
    /// Of the settings; what was begun under others is dropped.
    generation: Cell<u64>,
    /// A check's thread is there since then, though its settings may be replaced already.
    asking_since: Cell<Option<Instant>>,
    /// Downloads whose threads are there, though they may be called off already.
    turn: RefCell<Turn>,
}

struct Inner {
    settings: Settings,
    /// `None`: nothing is looked for.
    schedule: Option<Schedule>,
    status: Status,
    /// When the repository's root.json expires, as far as it is known.
    root_until: Option<UnixTime>,
    offer: Option<Offer>,
    history: Result<History, String>,
    checking_since: Option<Instant>,
    waiting: Vec<Reply>,
    fetch: FetchState,
    /// What was published last, when, and on which connection.
    told: Option<(Status, Instant, u64)>,
    counts: Counts,
    /// By what versions were held back last.
    judged: Option<Objections>,
    /// What root wrote, as it was seen last.
    seen: Option<Public>,
    /// Set once the settings of the check that is under way are replaced.
    dropped: Arc<AtomicBool>,
    /// What of the floor is damaged, one sentence.
    damage: Option<String>,
}

#[derive(Default)]
struct FetchState {
    shown: Fetch,
    /// `tombolo update download` asked for it.
    is_asked: bool,
    /// What was asked for before the start, by its SHA-256: it is here, or its beginning is.
    before: Option<String>,
    /// There may be an image, or its beginning.
    has_files: bool,
    running: Option<Running>,
    retry_at: Option<Instant>,
    interruptions: u32,
    /// What interrupted it last is this machine's disk.
    is_local: bool,
    /// How much of an image was here when its download ended last.
    kept: Option<([u8; 32], u64)>,
    /// The image that is ready, by its SHA-256, as far as anybody knows: the file is hashed anew
    /// when somebody asks for it, and when root did not install it.
    ready: Option<[u8; 32]>,
    /// It was asked for, or came, since root's files changed last.
    is_newer: bool,
    /// One that was another than signed, and when.
    wrong: Option<([u8; 32], Instant)>,
}

impl FetchState {
    /// The file may not be what it was: it is hashed anew.
    fn doubt(&mut self) {
        self.ready = None;
        if self.shown == Fetch::Ready {
            self.shown = Fetch::None;
        }
    }
}

struct Running {
    stop: Arc<AtomicBool>,
    have: Arc<AtomicU64>,
    sha256: [u8; 32],
}

#[derive(Default)]
struct Counts {
    checks: u64,
    failed: u64,
    bytes: u64,
}

impl Updates {
    /// Reads the history. It blocks: for the start.
    pub fn open(
        configuration: &Configuration,
        link: &Rc<Link>,
        clock: &Arc<SystemClock>,
        firmware: &Rc<Firmware>,
    ) -> Rc<Updates> {
        let folder = configuration.paths.update();
        let settings = configuration.update.clone();
        let history = history::read(&folder);
        if let Err(reason) = &history {
            log::error!(reason:% = reason; "the history of updates cannot be read: nothing is fetched");
        }
        let gateway = configuration.gateway.id.clone();
        let inner = Inner {
            schedule: schedule(&settings, &gateway),
            settings,
            status: Status::new(None),
            root_until: None,
            offer: None,
            history,
            checking_since: None,
            waiting: Vec::new(),
            fetch: fetch_state(&folder),
            told: None,
            counts: Counts::default(),
            judged: None,
            seen: None,
            dropped: Arc::default(),
            damage: None,
        };
        Rc::new(Updates {
            gateway: RefCell::new(gateway),
            installing: Installing::open(configuration.paths.update_root(), folder.clone()),
            firmware: firmware.clone(),
            sensors: Rc::new(Sensors::new(configuration.paths.firmware(), firmware)),
            state_firmware: configuration.paths.firmware(),
            folder,
            journal: configuration.paths.journal(),
            clock: clock.clone(),
            link: link.clone(),
            inner: RefCell::new(inner),
            generation: Cell::new(0),
            asking_since: Cell::new(None),
            turn: RefCell::default(),
        })
    }

    /// Goes on by other settings.
    pub fn replace(&self, settings: &Settings, gateway: &Name) {
        let inner = &mut *self.inner.borrow_mut();
        let is_renamed = self.gateway.replace(gateway.clone()) != *gateway;
        if inner.settings == *settings && !is_renamed {
            return;
        }
        self.firmware.replace(&settings.sensors);
        self.sensors.replace(&settings.sensors, inner.settings.source != settings.source);
        let is_other_class = inner.settings.sensors.classes() != settings.sensors.classes();
        if inner.settings.source == settings.source
            && let Some(schedule) = &mut inner.schedule
        {
            let now = Instant::now();
            schedule.set_period(now, settings.period);
            let who = |of: &Settings| (of.compatible.clone(), of.hardware.clone());
            if is_renamed || is_other_class || who(&inner.settings) != who(settings) {
                schedule.handle_request(now);
            }
            inner.settings = settings.clone();
            return;
        }
        self.generation.set(self.generation.get() + 1);
        std::mem::take(&mut inner.dropped).store(true, Ordering::Relaxed);
        if let Some(running) = inner.fetch.running.take() {
            running.stop.store(true, Ordering::Relaxed);
        }
        inner.schedule = schedule(settings, gateway);
        inner.settings = settings.clone();
        inner.status = Status::new(inner.status.installed.take());
        (inner.offer, inner.checking_since, inner.told, inner.root_until) = (None, None, None, None);
        // What was asked for is asked for under the new settings, too, if it is the same.
        inner.fetch = FetchState {
            before: inner.fetch.before.take(),
            has_files: inner.fetch.has_files,
            ..FetchState::default()
        };
        for reply in inner.waiting.drain(..) {
            reply.fail(Failure::new(Code::Failed, "[update] was changed meanwhile: ask again"));
        }
    }

    /// Once a second.
    pub fn care(self: &Rc<Self>, now: Instant) {
        let hinted = self.link.take_update_hint();
        let wanted = self.firmware.take_wanted();
        let is_missed = wanted.iter().any(|class| !self.sensors.knows(class));
        let begins = {
            let inner = &mut *self.inner.borrow_mut();
            let is_trusted = self.judges(inner);
            inner.schedule.as_mut().is_some_and(|schedule| {
                schedule.handle_clock(is_trusted);
                // Those that come too early are not told either: there may be one a second.
                if hinted && schedule.handle_hint(now) {
                    log::info!("an update hint came");
                }
                // As rarely as by hints: a disk that damages each image asks for no more checks.
                if is_missed && schedule.handle_hint(now) {
                    log::info!("an image of firmware for sensors is missed: the repository is looked at");
                }
                self.asking_since.get().is_none() && schedule.poll_check(now)
            })
        };
        if begins {
            self.begin_check(now);
        }
        self.turn.borrow_mut().care(now);
        self.care_for_fetch(now);
        self.care_for_sensors(now);
        self.care_for_installation(now);
        self.tell(now);
    }

    fn begin_check(self: &Rc<Self>, now: Instant) {
        // What root did a moment ago is shown with the answer.
        self.installing.refresh(now);
        let question = {
            let inner = &mut *self.inner.borrow_mut();
            inner.checking_since = Some(now);
            inner.counts.checks += 1;
            Question {
                settings: inner.settings.clone(),
                gateway: self.gateway.borrow().clone(),
                folder: self.folder.clone(),
                objections: self.objections(&inner.history),
                clock: self.clock.clone(),
                fetching: Fetching::Apart,
                daemon: None,
                raises: true,
                dropped: inner.dropped.clone(),
            }
        };
        let (updates, generation) = (Rc::clone(self), self.generation.get());
        self.asking_since.set(Some(now));
        spawn_local(async move {
            let asked = spawn_blocking(move || answer::answer(&question)).await;
            updates.asking_since.set(None);
            let lost = || Answer::failed(Fault::Local("the thread of the check failed".to_owned()));
            if updates.generation.get() == generation {
                updates.end_check(asked.unwrap_or_else(|_| lost()));
            }
        });
    }

    fn end_check(&self, answer: Answer) {
        let now = Instant::now();
        let inner = &mut *self.inner.borrow_mut();
        inner.checking_since = None;
        let before = inner.status.clone();
        let Answer { installed, result, verified, at, damage } = answer;
        if let Some((metadata, at)) = verified.as_ref().zip(at) {
            let denied = self.objections(&inner.history).denied;
            self.sensors.handle_offers(&metadata.offers, &denied, at);
        }
        inner.root_until = verified.map(|metadata| metadata.root_until).or(inner.root_until);
        // A check that succeeds has written it anew.
        inner.damage = damage.or(inner.damage.take().filter(|_| result.is_err()));
        let is_transient = matches!(&result, Err(fault) if fault.is_transient());
        match result {
            Ok(Found::Tuf(decision)) => {
                inner.status.handle_decision(&decision, installed, at);
                inner.offer = match decision {
                    Decision::Available(offer) => Some(*offer),
                    _ => None,
                };
            }
            Ok(Found::Apt(candidate)) => {
                inner.status.handle_candidate(&candidate, PACKAGE, installed, at);
                inner.offer = None;
            }
            Err(fault) => {
                inner.counts.failed += 1;
                inner.status.handle_fault(fault.state(), fault.to_string(), at);
                inner.status.installed = installed.or_else(|| inner.status.installed.take());
            }
        }
        if let Some(schedule) = &mut inner.schedule {
            schedule.handle_end(now, !is_transient);
        }
        if !inner.status.says_the_same(&before) {
            say(&inner.status);
        }
        let shown = self.shown(inner, now);
        for reply in inner.waiting.drain(..) {
            reply.ok(&shown);
        }
    }

    /// Begins, goes on with, or gives up the download.
    fn care_for_fetch(self: &Rc<Self>, now: Instant) {
        let mut inner = self.inner.borrow_mut();
        let inner = &mut *inner;
        let Some(offer) = inner.offer.clone() else {
            // Without an answer nothing is thrown away, nor while a version is only held back.
            let is_over = inner.status.state == State::UpToDate;
            if !is_over && inner.status.state != State::Ineligible {
                return;
            }
            if let Some(running) = &inner.fetch.running {
                running.stop.store(true, Ordering::Relaxed);
            } else if is_over
                && self.turn.borrow().is_free(&self.folder)
                && std::mem::take(&mut inner.fetch.has_files)
            {
                inner.fetch.ready = None;
                self.clear();
            }
            (inner.fetch.shown, inner.fetch.is_asked, inner.fetch.retry_at) = (Fetch::None, false, None);
            return;
        };
        if let Some(running) = &inner.fetch.running {
            if running.sha256 != offer.sha256 {
                running.stop.store(true, Ordering::Relaxed);
            } else {
                inner.fetch.shown = Fetch::Running { have: running.have.load(Ordering::Relaxed) };
            }
            return;
        }
        if inner.fetch.ready == Some(offer.sha256) {
            inner.fetch.shown = Fetch::Ready;
            return;
        }
        if matches!(inner.fetch.shown, Fetch::Ready) {
            inner.fetch.shown = Fetch::None;
        }
        let is_begun = inner.fetch.before.as_deref() == Some(&offer.sha256_hex());
        let is_wanted = inner.fetch.is_asked || is_begun || inner.settings.fetches();
        let waits =
            !self.turn.borrow().is_free(&self.folder) || inner.fetch.retry_at.is_some_and(|at| now < at);
        let is_wrong = inner.fetch.wrong.is_some_and(|(sha256, at)| {
            sha256 == offer.sha256 && now.saturating_duration_since(at) < WRONG_FOR && !inner.fetch.is_asked
        });
        // A check that found a fault since: what it found must end first.
        if !is_wanted || waits || is_wrong || inner.status.state != State::Available || inner.history.is_err()
        {
            return;
        }
        let Source::Tuf(place) = &inner.settings.source else { return };
        let kept = inner.fetch.kept.filter(|(sha256, _)| *sha256 == offer.sha256).map_or(0, |(_, have)| have);
        let have = Arc::new(AtomicU64::new(kept));
        let running = Running { stop: Arc::default(), have, sha256: offer.sha256 };
        log::info!(version = offer.version.as_str(), bytes = offer.bytes; "the image of the newer version is fetched");
        let order = Order {
            url: place.targets.file(&offer.path()),
            ca_file: place.ca_file.clone(),
            offer,
            settings: inner.settings.clone(),
            folder: self.folder.clone(),
            budget_with: self.answering(now, self.sensors.folders()),
            spent_elsewhere: self.spent_elsewhere(),
            journal: self.journal.clone(),
            clock: self.clock.clone(),
            stop: running.stop.clone(),
            have: running.have.clone(),
        };
        inner.fetch.shown = Fetch::Running { have: kept };
        (inner.fetch.running, inner.fetch.has_files) = (Some(running), true);
        let (updates, generation) = (Rc::clone(self), self.generation.get());
        let what = format!("the download of {}", order.offer.version);
        let number = self.turn.borrow_mut().take(now, what, order.folder.clone(), order.have.clone());
        spawn_local(async move {
            let sha256 = order.offer.sha256;
            let version = order.offer.version.clone();
            let (fetched, bytes) = spawn_blocking(move || fetch(&order))
                .await
                .unwrap_or_else(|_| (Err(NoImage::Disk("the thread of the download failed".to_owned())), 0));
            updates.turn.borrow_mut().end(number);
            updates.inner.borrow_mut().counts.bytes += bytes;
            if updates.generation.get() == generation {
                updates.end_fetch(sha256, &version, fetched, bytes > 0);
            }
        });
    }

    /// These folders without those whose disk does not answer: to ask them what they have spent of
    /// the day's budget would take as long.
    fn answering(&self, now: Instant, mut folders: Vec<PathBuf>) -> Vec<PathBuf> {
        let turn = self.turn.borrow();
        let silent = self.sensors.silent_folders(now);
        folders.retain(|folder| {
            turn.hanging().all(|(hanging, _)| hanging != folder) && !silent.contains(folder)
        });
        folders
    }

    /// What these others have spent of it at most.
    fn spent_elsewhere(&self) -> u64 {
        self.turn.borrow().hanging().fold(0, |sum: u64, (_, have)| sum.saturating_add(have))
    }

    /// Fetches for sensors what they have not, behind the gateway's own image.
    fn care_for_sensors(self: &Rc<Self>, now: Instant) {
        let inner = self.inner.borrow();
        let Source::Tuf(place) = &inner.settings.source else { return };
        let is_held = self.objections(&inner.history).is_held;
        let silent = self.sensors.silent_folders(now);
        let may_fetch = |class: &Name| {
            let folder = firmware::folder_of(&self.state_firmware, class.as_str());
            !is_held && self.turn.borrow().is_free(&folder) && !silent.contains(&folder)
        };
        let Some((class, offer)) = self.sensors.next(now, may_fetch) else { return };
        let order = offer.map(|offer| {
            let folders = self.sensors.folders();
            let folder = firmware::folder_of(&self.state_firmware, class.as_str());
            let others = folders.into_iter().filter(|other| *other != folder);
            log::info!(
                class = class.as_str(), version = offer.version.as_str(), bytes = offer.bytes;
                "firmware for sensors is fetched"
            );
            Order {
                url: place.targets.file(&offer.path()),
                ca_file: place.ca_file.clone(),
                offer,
                settings: inner.settings.clone(),
                budget_with: self.answering(now, others.chain([self.folder.clone()]).collect()),
                spent_elsewhere: self.spent_elsewhere(),
                folder,
                journal: self.journal.clone(),
                clock: self.clock.clone(),
                stop: Arc::default(),
                have: Arc::default(),
            }
        });
        drop(inner);
        let have = order.as_ref().map(|order| order.have.clone()).unwrap_or_default();
        let folder = firmware::folder_of(&self.state_firmware, class.as_str());
        let what = format!("the firmware for {class}");
        let number = self.turn.borrow_mut().take(now, what, folder, have);
        let updates = Rc::clone(self);
        self.sensors.begin(class, order, move |bytes| {
            updates.turn.borrow_mut().end(number);
            updates.inner.borrow_mut().counts.bytes += bytes;
        });
    }

    /// `has_come`: bytes were fetched, and not only hashed.
    fn end_fetch(
        self: &Rc<Self>,
        sha256: [u8; 32],
        version: &str,
        fetched: Result<(), NoImage>,
        has_come: bool,
    ) {
        let now = Instant::now();
        let mut inner = self.inner.borrow_mut();
        let inner = &mut *inner;
        let have = inner.fetch.running.take().map_or(0, |running| running.have.load(Ordering::Relaxed));
        let is_kept = !matches!(fetched, Ok(()) | Err(NoImage::Refused(_) | NoImage::WrongBytes));
        inner.fetch.kept = is_kept.then_some((sha256, have));
        let fault = match fetched {
            Ok(()) => {
                log::info!(version; "the image of the newer version is here and verified");
                inner.fetch.ready = Some(sha256);
                inner.fetch.before = Some(crate::hex::format_hex(&sha256));
                inner.fetch.shown = Fetch::Ready;
                inner.fetch.is_newer |= has_come;
                (inner.fetch.is_asked, inner.fetch.interruptions) = (false, 0);
                let at = self.clock.wall().map(|at| at.to_string());
                let event = Event {
                    version: version.to_owned(),
                    what: What::Downloaded,
                    at,
                    cause: None,
                    attempt: None,
                };
                let is_known = |history: &History| {
                    history
                        .events
                        .last()
                        .is_some_and(|last| last.version == event.version && last.what == event.what)
                };
                if inner.history.as_ref().is_ok_and(|history| !is_known(history)) {
                    self.change(None, move |history| {
                        history.record(event);
                        Ok(())
                    });
                }
                return;
            }
            Err(NoImage::Stopped) => {
                inner.fetch.shown = Fetch::None;
                return;
            }
            Err(fault) => fault,
        };
        log::warn!(version, reason:% = fault; "the image of the newer version is not here");
        let reason = fault.to_string();
        match fault {
            NoImage::Interrupted(_) | NoImage::Disk(_) | NoImage::NoRoom(_) | NoImage::BudgetSpent => {
                inner.fetch.interruptions += 1;
                inner.fetch.is_local = matches!(fault, NoImage::Disk(_) | NoImage::NoRoom(_));
                let wait = match fault {
                    NoImage::Interrupted(_) => {
                        RETRY.saturating_mul(1 << (inner.fetch.interruptions - 1).min(10)).min(RETRY_MAX)
                    }
                    _ => RETRY_MAX,
                };
                inner.fetch.retry_at = Some(now + wait);
                inner.fetch.shown = Fetch::Waiting { have, reason };
            }
            NoImage::Refused(_) | NoImage::WrongBytes | NoImage::Stopped => {
                inner.fetch.wrong = Some((sha256, now));
                inner.fetch.is_asked = false;
                inner.fetch.shown = Fetch::Failed(reason);
            }
        }
    }

    fn clear(&self) {
        let folder = self.folder.clone();
        spawn_blocking(move || {
            if let Err(error) = clear(&on_disk(&folder)) {
                log::warn!(reason:% = error; "an image that is not wanted any more cannot be deleted");
            }
        });
    }

    /// Publishes what changed.
    fn tell(&self, now: Instant) {
        let inner = &mut *self.inner.borrow_mut();
        if inner.schedule.is_none() {
            return;
        }
        let status = self.status(inner).coarse();
        let connection = self.link.connections();
        let is_due = inner.told.as_ref().is_none_or(|(told, at, on)| {
            let since = now.saturating_duration_since(*at);
            let is_new = if status.says_the_same(told) {
                status != *told && since >= TELL_TIMES_EVERY
            } else {
                since >= TELL_EVERY
            };
            is_new || (*on != connection && since >= TELL_EVERY)
        });
        if is_due && let Ok(json) = serde_json::to_vec(&status) {
            self.link.set_update_status(json);
            inner.told = Some((status, now, connection));
        }
    }

    fn care_for_installation(&self, now: Instant) {
        let inner = &mut *self.inner.borrow_mut();
        let before = self.objections(&inner.history);
        let uplink = self.link.snapshot(now);
        let connected = uplink.since_s.filter(|_| uplink.connected).map(Duration::from_secs);
        self.installing.care(
            now,
            &Seen {
                settings: &inner.settings,
                status: &inner.status.with_fetch(&inner.fetch.shown),
                wall: self.clock.wall(),
                connected,
                is_held: inner.history.as_ref().map_or(true, |history| history.held),
            },
        );
        self.doubt(inner);
        // What root denied since: judged by a check.
        let objections = self.objections(&inner.history);
        self.firmware.set_denied(&objections.denied);
        if before == objections && inner.judged.as_ref().is_none_or(|judged| *judged == objections) {
            inner.judged = Some(objections);
        } else {
            inner.judged = Some(objections);
            if let Some(schedule) = &mut inner.schedule {
                schedule.handle_request(now);
            }
        }
    }

    /// An image that root did not install may not be what it was: it is hashed anew, and fetched
    /// again if it is another.
    fn doubt(&self, inner: &mut Inner) {
        let public = self.installing.public();
        if public == inner.seen {
            return;
        }
        let refusal = |of: &Option<Public>| of.as_ref().and_then(|public| public.refusal.clone());
        let before = std::mem::replace(&mut inner.seen, public.clone());
        // The image was not there, or will be another one.
        if refusal(&public).is_some() && refusal(&public) != refusal(&before) {
            inner.fetch.doubt();
        }
        let rest = |of: &Option<Public>| {
            of.as_ref().map(|public| (public.installation.clone(), public.history.clone()))
        };
        if rest(&public) == rest(&before) {
            return;
        }
        let failed = public.as_ref().and_then(|public| public.installation.as_ref());
        let offered = inner.offer.as_ref().map(|offer| offer.version.as_str());
        let is_of = |record: &Installation| offered.is_none_or(|version| version == record.version);
        if failed.is_some_and(|record| record.phase == Phase::Failed && is_of(record)) {
            inner.fetch.doubt();
        }
        // One that was asked for meanwhile comes after what root says now.
        inner.fetch.is_newer = inner.fetch.is_asked;
    }

    /// The daemon's history with root's.
    fn merged(&self, inner: &Inner) -> Result<History, String> {
        let mut history = inner.history.clone()?;
        let root = self.installing.public().map(|public| public.history).unwrap_or_default();
        history.join(&root);
        Ok(history)
    }

    /// What the owner and root hold against versions; what cannot be read holds everything back.
    fn objections(&self, history: &Result<History, String>) -> Objections {
        let (Ok(history), Some(public)) = (history, self.installing.public()) else {
            return Objections { is_held: true, ..Objections::default() };
        };
        let mut history = history.clone();
        history.join(&public.history);
        Objections { is_held: history.held, denied: history.denied, floor: public.floor }
    }

    /// Publishes it anew: the topic changed.
    pub fn forget(&self) {
        self.inner.borrow_mut().told = None;
    }

    /// As `status` and `update` show it.
    pub fn snapshot(&self, now: Instant) -> snapshot::Update {
        self.shown(&self.inner.borrow(), now)
    }

    /// With the download, and with what root installs.
    fn status(&self, inner: &Inner) -> Status {
        let mut fetched = inner.status.with_fetch(&inner.fetch.shown);
        if fetched.state == State::Unknown && inner.schedule.is_some() && !self.judges(inner) {
            fetched.reason = Some(Fault::ClockUntrusted.to_string());
        }
        self.installing.show(fetched, &inner.settings, inner.fetch.is_newer)
    }

    /// Whether a check can begin now. What apt says was judged by apt.
    fn judges(&self, inner: &Inner) -> bool {
        self.clock.trusted() || inner.settings.source == Source::Apt
    }

    fn shown(&self, inner: &Inner, now: Instant) -> snapshot::Update {
        self.shown_as(inner, &self.status(inner), now)
    }

    fn shown_as(&self, inner: &Inner, status: &Status, now: Instant) -> snapshot::Update {
        let shown = serde_json::to_value(status).and_then(serde_json::from_value::<snapshot::Update>);
        let next = inner.schedule.as_ref().and_then(Schedule::poll_timeout);
        let history = inner.history.as_ref().ok();
        snapshot::Update {
            source: inner.settings.source.as_str().to_owned(),
            checking: inner.checking_since.is_some(),
            next_check_s: next.map(|at| at.saturating_duration_since(now).as_secs()),
            backend: inner.settings.backend.as_str().to_owned(),
            held: history.is_some_and(|history| history.held),
            denied: self.merged(inner).map(|history| history.denied).unwrap_or_default(),
            ..shown.unwrap_or_default()
        }
    }

    /// What is wrong and needs somebody, one sentence each.
    pub fn problems(&self, now: Instant) -> Vec<String> {
        let inner = self.inner.borrow();
        let mut problems = Vec::new();
        let status = &inner.status;
        let of_repository = matches!(inner.settings.source, Source::Tuf(_)) && status.state == State::Stale;
        let is_error = status.state == State::Error || of_repository;
        // A repository that cannot be reached now and then is none.
        let failures = inner.schedule.as_ref().map_or(0, Schedule::failures);
        if let Some(reason) = status.reason.as_ref().filter(|_| is_error && (failures == 0 || failures >= 10))
        {
            problems
                .push(format!("newer firmware is not found: {reason}; `tombolo update check` tries again"));
        }
        // After its end it is stale, which says more.
        problems.extend(
            inner.root_until.filter(|_| !of_repository).and_then(|until| root_ends(until, self.clock.wall())),
        );
        if let Fetch::Failed(reason) = &inner.fetch.shown
            && status.state == State::Available
        {
            problems.push(format!(
                "the image of the newer version is not fetched: {reason}; once the server is in order, \
                 `tombolo update download` tries again"
            ));
        }
        if let Fetch::Waiting { reason, .. } = &inner.fetch.shown
            && (inner.fetch.interruptions >= 10 || inner.fetch.is_local)
        {
            problems.push(format!(
                "the image of the newer version does not arrive: {reason}; it is tried again by itself, and at once by \
                 `tombolo update download`"
            ));
        }
        if let Some(since) =
            self.asking_since.get().filter(|since| now.saturating_duration_since(*since) >= LONG)
        {
            let minutes = now.saturating_duration_since(since).as_secs() / 60;
            problems.push(format!("the check for newer firmware has not ended for {minutes} min"));
        }
        problems.extend(inner.damage.clone());
        problems.extend(self.turn.borrow().problems(now));
        problems.extend(self.sensors.problems());
        let has_image = inner.fetch.shown == Fetch::Ready;
        problems.extend(self.installing.problems(&inner.settings, has_image));
        problems.extend(
            inner.history.as_ref().err().map(|reason| {
                format!("the history of updates cannot be read, so nothing is fetched: {reason}")
            }),
        );
        problems
    }

    /// Its numbers.
    pub fn count(&self, snapshot: &mut Snapshot) {
        let inner = self.inner.borrow();
        let Counts { checks, failed, bytes } = inner.counts;
        snapshot.put("tombolo_update_begun_checks_total", checks);
        snapshot.put("tombolo_update_failed_checks_total", failed);
        snapshot.put("tombolo_update_fetched_bytes_total", bytes);
    }

    /// Does what `update` asks for.
    pub fn act(self: &Rc<Self>, action: UpdateAction, reply: Reply) {
        let now = Instant::now();
        match action {
            UpdateAction::Show => reply.ok(&self.snapshot(now)),
            UpdateAction::Check => self.check(now, reply),
            UpdateAction::Download => self.ask_for_image(now, reply),
            UpdateAction::History => match self.merged(&self.inner.borrow()) {
                Ok(history) => reply.ok(&history),
                Err(reason) => reply.fail(Failure::new(Code::Failed, reason.clone())),
            },
            UpdateAction::Hold(held) => self.change(Some(reply), move |history| {
                history.held = held;
                Ok(())
            }),
            UpdateAction::Deny(version) => self.change(Some(reply), move |history| {
                history.deny(&version).map_err(|why| format!("{version:?} is not denied: {why}"))
            }),
            UpdateAction::Allow(version) => self.change(Some(reply), move |history| {
                history.clear(version.as_deref());
                Ok(())
            }),
        }
    }

    fn check(&self, now: Instant, reply: Reply) {
        let inner = &mut *self.inner.borrow_mut();
        let is_trusted = self.judges(inner);
        if inner.schedule.is_none() {
            return reply.fail(no_source());
        }
        if !is_trusted {
            // As without a daemon; what an earlier check found stays.
            let (fault, mut status) = (Fault::ClockUntrusted, self.status(inner));
            status.handle_fault(fault.state(), fault.to_string(), None);
            return reply.ok(&self.shown_as(inner, &status, now));
        }
        if let Some(schedule) = &mut inner.schedule {
            schedule.handle_request(now);
        }
        self.sensors.hurry();
        inner.waiting.push(reply);
    }

    fn ask_for_image(&self, now: Instant, reply: Reply) {
        let inner = &mut *self.inner.borrow_mut();
        let failed = |text: &str| Failure::new(Code::Failed, text);
        match (&inner.settings.source, &inner.offer, inner.status.state) {
            (Source::None, ..) => reply.fail(no_source()),
            (Source::Apt, ..) => reply.fail(failed("apt fetches its packages itself, when it installs them")),
            (Source::Tuf(_), Some(_), State::Available) if inner.history.is_err() => {
                reply.fail(failed(
                    "the history of updates cannot be read, so nothing is fetched; see `tombolo check`",
                ));
            }
            (Source::Tuf(_), Some(_), State::Available) => {
                (inner.fetch.is_asked, inner.fetch.retry_at) = (true, None);
                inner.fetch.doubt();
                // What was said of the try before is over.
                if inner.fetch.running.is_none() {
                    inner.fetch.shown = Fetch::None;
                }
                inner.fetch.is_newer = true;
                self.installing.refresh(now);
                reply.ok(&self.shown(inner, now));
            }
            (Source::Tuf(_), _, state) => {
                let reason = inner.status.reason.clone().unwrap_or_else(|| match state {
                    State::UpToDate => "nothing newer is offered".to_owned(),
                    _ => "no check has ended yet; `tombolo update check`".to_owned(),
                });
                reply.fail(Failure::new(Code::Failed, format!("there is nothing to fetch: {reason}")));
            }
        }
    }

    /// Changes the history, on disk first; then a check judges by it. `act` may refuse, and then
    /// has changed nothing.
    fn change(
        self: &Rc<Self>,
        reply: Option<Reply>,
        act: impl FnOnce(&mut History) -> Result<(), String> + Send + 'static,
    ) {
        let (updates, folder) = (Rc::clone(self), self.folder.clone());
        spawn_local(async move {
            let done = spawn_blocking(move || history::change(&folder, act)).await;
            let done = done.unwrap_or_else(|_| Err("its thread failed".to_owned()));
            let done = done.and_then(|(history, acted)| acted.map(|()| history));
            if let Ok(history) = &done {
                let inner = &mut *updates.inner.borrow_mut();
                let is_other = updates.objections(&inner.history) != updates.objections(&Ok(history.clone()));
                inner.history = Ok(history.clone());
                // Before it is answered: from then on no device is served a block of it.
                updates.firmware.set_denied(&updates.objections(&inner.history).denied);
                if let Some(schedule) = inner.schedule.as_mut().filter(|_| is_other) {
                    schedule.handle_request(Instant::now());
                }
            }
            match (reply, done) {
                (Some(reply), Ok(history)) => reply.ok(&history),
                (Some(reply), Err(reason)) => reply.fail(Failure::new(Code::Failed, reason)),
                (None, Ok(_)) => {}
                (None, Err(reason)) => {
                    log::error!(reason:% = reason; "the history of updates cannot be written");
                }
            }
        });
    }
}

fn no_source() -> Failure {
    let text = "nobody looks for newer firmware: set [update] source to \"apt\" or \"tuf\"";
    Failure::new(Code::Failed, text)
}

fn schedule(settings: &Settings, gateway: &Name) -> Option<Schedule> {
    if settings.source == Source::None {
        return None;
    }
    // The fleet's gateways are spread; one and the same is not, from one start to the next.
    let seed = gateway.as_str().bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    Some(Schedule::new(Instant::now(), settings.period, seed))
}

fn fetch_state(folder: &Path) -> FetchState {
    let before = begun(folder);
    FetchState { has_files: before.is_some(), before, ..FetchState::default() }
}

/// The image that is here, or whose beginning is.
fn begun(folder: &Path) -> Option<String> {
    let slots = TwoSlot::open(on_disk(folder), image::FORMAT).ok()?;
    Record::parse(slots.read().ok()??).map(|record| record.sha256)
}

/// How much of a day's budget the downloads into that folder have taken.
fn spent(folder: &Path, limit: u64, now: UnixTime) -> u64 {
    let record = || Record::parse(TwoSlot::open(on_disk(folder), image::FORMAT).ok()?.read().ok()??);
    record().map_or(0, |mut record| limit.saturating_sub(record.budget.left(Some(limit), now)))
}

/// A change, in the log.
fn say(status: &Status) {
    let state = serde_json::to_value(status.state).ok();
    let state = state.as_ref().and_then(serde_json::Value::as_str).unwrap_or_default();
    let installed = status.installed.as_deref().unwrap_or("not known");
    let version = status.available.as_ref().map_or("", |available| available.version.as_str());
    let reason = status.reason.as_deref().unwrap_or_default();
    match status.state {
        State::Error | State::Stale | State::Failed => {
            log::warn!(state, installed, version, reason; "no answer about newer firmware");
        }
        _ => log::info!(state, installed, version, reason; "newer firmware was looked for"),
    }
}

/// All that a download needs on its thread.
struct Order {
    offer: Offer,
    url: crate::https::url::HttpsUrl,
    ca_file: Option<PathBuf>,
    settings: Settings,
    folder: PathBuf,
    /// Folders of other downloads, which have the day's budget with this one.
    budget_with: Vec<PathBuf>,
    /// What others have spent of it that cannot be asked.
    spent_elsewhere: u64,
    journal: PathBuf,
    clock: Arc<SystemClock>,
    stop: Arc<AtomicBool>,
    have: Arc<AtomicU64>,
}

/// Fetches, and says how many bytes came.
fn fetch(order: &Order) -> (Result<(), NoImage>, u64) {
    let first = AtomicU64::new(u64::MAX);
    let progress = |have: u64| {
        let _ = first.compare_exchange(u64::MAX, have, Ordering::Relaxed, Ordering::Relaxed);
        order.have.store(have, Ordering::Relaxed);
    };
    let fetched = (|| {
        let clock: Arc<dyn WallClock> = order.clock.clone();
        let client = client(order.ca_file.as_deref(), &clock)
            .map_err(|fault| NoImage::Interrupted(fault.to_string()))?;
        crate::durable::io::create_directory(&order.folder)
            .map_err(|error| NoImage::Disk(error.to_string()))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| NoImage::Interrupted(error.to_string()))?;
        let begun = order.clock.raw();
        let now = || order.clock.wall().unwrap_or(begun);
        let free = || free_bytes(&order.folder);
        let job = Job {
            offer: order.offer.clone(),
            url: order.url.clone(),
            client,
            pace: Pace::SLOWEST,
            daily_budget: order.settings.daily_budget.map(|limit| {
                let spent = order.budget_with.iter().map(|folder| spent(folder, limit, now()));
                limit.saturating_sub(spent.fold(order.spent_elsewhere, u64::saturating_add))
            }),
            reserve: kept_free(order.settings.reserve, &order.journal),
            sync_every: SYNC_EVERY,
        };
        let around = Surroundings {
            storage: || on_disk(&order.folder),
            free: &free,
            now: &now,
            progress: &progress,
            stop: &order.stop,
        };
        let result = runtime.block_on(download(&job, &around));
        runtime.shutdown_background();
        result
    })();
    let begun = first.load(Ordering::Relaxed);
    (fetched, order.have.load(Ordering::Relaxed).saturating_sub(begun))
}
