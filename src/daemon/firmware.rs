//! Firmware for sensors on the path: answers devices, has blocks read on [threads](readers), and
//! keeps how far each device is.
//!
//! | meets | then |
//! |---|---|
//! | the start | files are verified on another thread; 5.03 until then |
//! | more than 256 reads of a class, or [`DEVICE_READS_MAX`] of one device | 5.03, and the device asks again |
//! | a read that the disk does not answer | the blocks of its class wait, which is named after [`SLOW`]; other classes go on |
//! | an image that is damaged or gone | deleted, and wanted again: a check begins at once, if none has found it yet |
//! | a folder that is lost | made anew; the class is verified, and fetched again |
//! | another folder in its place, or one that something was missed in and put back | the class is verified |
//! | a folder that cannot be, because a file is there | named; tried again every [`LOOK_EVERY`] |
//! | a read that fails | 5.03; the class is verified anew, and fetched again if it is not whole |
//! | an image that is written to by somebody else | the same, when a block of it is asked for, or by the look at its folder |
//! | files that the disk does not give | 5.03; verified again every [`AGAIN`], [`ATTEMPTS`] times; then what it gives is served, and the rest is fetched |
//! | many blocks at once | at most [`ROUND_MAX`] are answered in a round: readings come in between |

mod readers;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::task::{spawn_blocking, spawn_local};

use self::readers::Readers;
use super::kept_text::{KeptText, Shape};
use crate::clock::Moment;
use crate::control::protocol::{Code as Refusal, DEVICES_MAX, Failure};
use crate::control::snapshot::{FirmwareClass, FirmwareDevice, FirmwarePage};
use crate::durable::checked_text;
use crate::durable::io::create_directory;
use crate::gate::Gate;
use crate::message::{ContentFormat, Name};
use crate::pipeline::{Pipeline, ReadingStore};
use crate::proto::coap::{Code, Response};
use crate::southbound::coap::{FirmwareFetch, Intake};
use crate::telemetry::counters::Snapshot;
use crate::update::firmware::campaign::{Campaign, Change, Stage};
use crate::update::firmware::library::{Answer, Library, MANIFEST_MAX_AGE, Piece, Question, SOON};
use crate::update::firmware::settings::SensorFirmware;
use crate::update::io::firmware::{ImageFile, PROGRESS, Shelf, folder_of, no_folder, open};

/// Most reads of one device at once.
const DEVICE_READS_MAX: usize = 4;
/// Most blocks that are answered in a round.
const ROUND_MAX: usize = 32;
/// From one attempt to verify files that the disk does not give to the next.
const AGAIN: Duration = Duration::from_secs(10);
/// So often.
const ATTEMPTS: u32 = 30;
/// A read, or a verification, that takes longer is named.
const SLOW: Duration = Duration::from_secs(15);
const SLOW_VERIFICATION: Duration = Duration::from_secs(120);
/// How often the folders are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// The same while one of them is missed, or how far devices are cannot be written to it.
const LOOK_AGAIN_EVERY: Duration = Duration::from_secs(5);
/// How far devices are is written at most so often.
const KEEP_EVERY: Duration = Duration::from_secs(10);
/// Of 100,000 devices with long names and versions.
const SHAPE: Shape = Shape { max_bytes: 64 << 20, has_copy: true };
const COST: &str = "how far devices are with their firmware is not known after a restart";

/// See the module.
pub struct Firmware {
    base: PathBuf,
    wake: Arc<Notify>,
    inner: RefCell<Inner>,
}

struct Inner {
    library: Library,
    files: BTreeMap<Name, BTreeMap<String, Arc<ImageFile>>>,
    readers: Readers<ImageFile>,
    reads: HashMap<u64, Read>,
    next_read: u64,
    progress: BTreeMap<Name, KeptText>,
    faults: BTreeMap<Name, Vec<String>>,
    /// Classes with a file that could not be read.
    doubted: BTreeSet<Name>,
    /// Classes with files that the disk did not give: how often, and when they are verified again.
    unread: BTreeMap<Name, (u32, Instant)>,
    /// Classes whose folder another thread changes: it is not verified meanwhile.
    lent: BTreeSet<Name>,
    /// Since when a class is being verified.
    loading: BTreeMap<Name, Instant>,
    /// Classes without a folder, because something else is in its place: what is wrong.
    blocked: BTreeMap<Name, String>,
    /// Classes of which that is over: what could not be stored is fetched at once.
    mended: BTreeSet<Name>,
    /// Classes whose folder was lost with an image: what is said until another is here.
    lost: BTreeMap<Name, String>,
    /// Classes of which an image was damaged or lost, until one is here that was fetched.
    wanted: BTreeSet<Name>,
    /// Those that became so since somebody asked.
    newly_wanted: BTreeSet<Name>,
    looked_after_at: Option<Instant>,
    /// Looks that have not ended, by class: a disk that does not answer below one holds up no
    /// other.
    looking: BTreeMap<Name, (Instant, Receiver<Looked>)>,
    /// What the folder of each class was when it was looked at, or verified, last.
    folders: BTreeMap<Name, FolderMark>,
    counts: Counts,
    looked_at: Option<Instant>,
    kept_at: Option<Instant>,
    /// What is shown of the fetching, by class.
    fetching: BTreeMap<Name, Fetching>,
}

/// A block that is being read.
struct Read {
    since: Instant,
    device: Name,
    fetch: FirmwareFetch,
    piece: Piece,
}

/// Tells a folder from another one in its place, and what was put in it from outside from what was
/// there: device, inode, and when its entries changed last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FolderMark {
    identity: (u64, u64),
    changed: (i64, i64),
}

impl FolderMark {
    fn of(folder: &Path) -> Option<FolderMark> {
        let of = folder.metadata().ok()?;
        Some(FolderMark { identity: (of.dev(), of.ino()), changed: (of.mtime(), of.mtime_nsec()) })
    }
}

/// How the folder of a class was found.
enum Looked {
    Fine(Option<FolderMark>),
    /// It was not there, and is again.
    Lost,
    /// It is not there, and cannot be.
    Blocked(String),
    /// It is there, and this image in it was written to since it was verified.
    Changed(String),
}

#[derive(Default)]
struct Counts {
    manifests: u64,
    blocks: u64,
    refused: u64,
    unread: u64,
}

/// What is shown of an image that comes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fetching {
    /// Its version.
    pub version: Option<String>,
    /// How much of it is here, in percent.
    pub percent: Option<u8>,
    /// Why it does not come, or a newer one is passed over: one sentence.
    pub reason: Option<String>,
}

impl Firmware {
    /// Begins to verify what is here, on another thread.
    pub fn open(base: &Path, settings: &SensorFirmware) -> Rc<Firmware> {
        let wake = Arc::new(Notify::new());
        let inner = Inner {
            library: Library::default(),
            files: BTreeMap::new(),
            readers: Readers::new(wake.clone()),
            reads: HashMap::new(),
            next_read: 0,
            progress: BTreeMap::new(),
            faults: BTreeMap::new(),
            doubted: BTreeSet::new(),
            unread: BTreeMap::new(),
            lent: BTreeSet::new(),
            loading: BTreeMap::new(),
            blocked: BTreeMap::new(),
            mended: BTreeSet::new(),
            lost: BTreeMap::new(),
            wanted: BTreeSet::new(),
            newly_wanted: BTreeSet::new(),
            // The classes are loaded now, which makes their folders.
            looked_after_at: Some(Instant::now()),
            looking: BTreeMap::new(),
            folders: BTreeMap::new(),
            counts: Counts::default(),
            looked_at: None,
            kept_at: None,
            fetching: BTreeMap::new(),
        };
        let firmware = Rc::new(Firmware { base: base.to_owned(), wake, inner: RefCell::new(inner) });
        firmware.replace(settings);
        firmware
    }

    /// Notified when a round has something to answer.
    pub fn wake(&self) -> Arc<Notify> {
        self.wake.clone()
    }

    /// Goes on by other settings.
    pub fn replace(self: &Rc<Self>, settings: &SensorFirmware) {
        let classes = settings.classes();
        let new = {
            let inner = &mut *self.inner.borrow_mut();
            let new = inner.library.replace(settings.clone());
            inner.files.retain(|class, _| classes.contains(class));
            inner.progress.retain(|class, _| classes.contains(class));
            inner.faults.retain(|class, _| classes.contains(class));
            inner.unread.retain(|class, _| classes.contains(class));
            inner.fetching.retain(|class, _| classes.contains(class));
            inner.blocked.retain(|class, _| classes.contains(class));
            inner.doubted.retain(|class| classes.contains(class));
            inner.looking.retain(|class, _| classes.contains(class));
            inner.folders.retain(|class, _| classes.contains(class));
            inner.mended.retain(|class| classes.contains(class));
            inner.lost.retain(|class, _| classes.contains(class));
            inner.wanted.retain(|class| classes.contains(class));
            inner.readers.retain(|class| classes.contains(class));
            new
        };
        for class in new {
            self.load(class, true);
        }
    }

    /// Verifies the images of a class; with its campaign at the start.
    fn load(self: &Rc<Self>, class: Name, is_start: bool) {
        let (firmware, folder) = (Rc::clone(self), folder_of(&self.base, class.as_str()));
        self.inner.borrow_mut().loading.insert(class.clone(), Instant::now());
        spawn_local(async move {
            let work = move || {
                let progress = is_start.then(|| {
                    let made = look(&folder);
                    let read = |bytes: &[u8]| Campaign::parse(checked_text::open(bytes)?);
                    let kept = KeptText::open(&folder, PROGRESS, SHAPE, COST, read);
                    (made, kept)
                });
                // Of before: what is put there meanwhile is verified, too.
                let mark = FolderMark::of(&folder);
                (open(&folder), progress, mark)
            };
            let loaded = spawn_blocking(work).await;
            firmware.inner.borrow_mut().loading.remove(&class);
            let Ok((mut shelf, progress, mark)) = loaded else {
                log::error!(class = class.as_str(); "the thread that verifies firmware failed");
                return;
            };
            let inner = &mut *firmware.inner.borrow_mut();
            let Some(found) = inner.library.class_mut(class.as_str()) else { return };
            if let Some((made, (text, campaign))) = progress {
                if let Looked::Blocked(why) = made {
                    log::error!(class = class.as_str(), reason = why.as_str(); "firmware has no folder");
                    inner.blocked.insert(class.clone(), why);
                }
                found.campaign = campaign.unwrap_or_default();
                inner.progress.insert(class.clone(), text);
            }
            let attempt = inner.unread.get(&class).map_or(1, |(attempts, _)| attempts + 1);
            for fault in shelf.faults.iter().filter(|_| attempt == 1) {
                log::error!(class = class.as_str(), reason = fault.as_str(); "firmware that is here cannot be used");
            }
            if shelf.is_unread && attempt < ATTEMPTS {
                // It goes on being verified, as devices are told.
                inner.faults.insert(class.clone(), shelf.faults);
                inner.unread.insert(class, (attempt, Instant::now() + AGAIN));
                return;
            }
            inner.unread.remove(&class);
            // Once an image is here again, `put` forgets what is said; also one that was restored.
            let lost = inner.lost.remove(&class);
            let lost = lost.filter(|_| shelf.files.is_empty());
            let is_wanted = shelf.is_damaged || lost.is_some();
            shelf.faults.extend(lost);
            inner.put(&class, shelf);
            if is_wanted {
                inner.wanted.insert(class.clone());
                inner.newly_wanted.insert(class.clone());
            }
            match mark {
                Some(mark) => drop(inner.folders.insert(class, mark)),
                None => drop(inner.folders.remove(&class)),
            }
        });
    }

    /// Takes GETs and reports of devices, and answers what was read. Once a round.
    pub fn round<S: ReadingStore>(&self, moment: &Moment, coap: &mut Intake, pipeline: &Pipeline<S>) {
        let inner = &mut *self.inner.borrow_mut();
        while let Some(reported) = coap.poll_reported() {
            if let Some(view) = pipeline.gate.device(moment.now, reported.device) {
                inner.library.note_reported(view.id, view.role, &reported.version);
            }
        }
        while let Some(fetch) = coap.poll_firmware() {
            inner.take(moment, coap, &pipeline.gate, fetch);
        }
        for _ in 0..ROUND_MAX {
            let Some((number, read)) = inner.readers.poll() else { return };
            if let Some(of) = inner.reads.remove(&number) {
                inner.answer(moment, coap, &of, read);
            }
        }
        // The rest in the next round.
        self.wake.notify_one();
    }

    /// Once a second.
    pub fn care(self: &Rc<Self>, now: Instant, gate: &Gate) {
        let doubted = {
            let inner = &mut *self.inner.borrow_mut();
            let elapsed = inner.looked_at.map_or(0, |at| now.saturating_duration_since(at).as_secs());
            if elapsed > 0 || inner.looked_at.is_none() {
                // The rest of a second is not lost.
                let counted = inner.looked_at.map_or(now, |at| at + Duration::from_secs(elapsed));
                inner.looked_at = Some(counted);
            }
            inner.follow(now, elapsed, gate);
            inner.keep(now);
            inner.look_after(now, &self.base);
            let (free, lent) = std::mem::take(&mut inner.doubted)
                .into_iter()
                .partition::<Vec<_>, _>(|class| !inner.lent.contains(class));
            inner.doubted.extend(lent);
            // Not again before its answer is there.
            let later = now + AGAIN.saturating_mul(ATTEMPTS);
            let due = inner.unread.iter_mut().filter(|(_, (_, at))| now >= *at).map(|(class, (_, at))| {
                *at = later;
                class.clone()
            });
            let free: Vec<Name> = free.into_iter().chain(due).collect();
            for class in &free {
                // Nothing of it is served, or changed, meanwhile.
                if let Some(found) = inner.library.class_mut(class.as_str()) {
                    found.is_loading = true;
                }
            }
            free
        };
        for class in doubted {
            self.load(class, false);
        }
    }

    /// These versions are neither offered nor served, by their names `CLASS/VERSION`.
    pub fn set_denied(&self, denied: &[String]) {
        self.inner.borrow_mut().library.set_denied(denied);
    }

    /// The classes whose folder does not answer, and since when.
    pub fn silent(&self, now: Instant) -> Vec<(Name, Instant)> {
        self.inner.borrow().silent(now)
    }

    /// Forgets devices that the gate does not have any more, or that are of another class.
    pub fn forget(&self, now: Instant, gate: &Gate, settings: &SensorFirmware) {
        let inner = &mut *self.inner.borrow_mut();
        let classes: Vec<Name> = inner.library.classes().keys().cloned().collect();
        for class in classes {
            let is_of = |device: &str| {
                let view = gate.device_by_id(device).and_then(|index| gate.device(now, index));
                let role = view.and_then(|view| settings.roles.get(view.role.as_str()));
                role.is_some_and(|role| role.class == class)
            };
            if let Some(found) = inner.library.class_mut(class.as_str()) {
                found.campaign.retain(is_of);
            }
        }
    }

    /// At the stop. Blocks.
    pub fn close(&self) {
        let inner = &mut *self.inner.borrow_mut();
        for (class, text) in &mut inner.progress {
            text.finish();
            if let Some(found) = inner.library.class_mut(class.as_str())
                && (found.campaign.is_other() || text.is_failing())
            {
                text.close(&checked_text::seal(found.campaign.encode()));
            }
        }
    }

    /// The settings.
    pub fn settings(&self) -> SensorFirmware {
        self.inner.borrow().library.settings().clone()
    }

    /// Whether the folder of a class, in whose place something else was, is there again; told once.
    pub fn take_mended(&self, class: &Name) -> bool {
        self.inner.borrow_mut().mended.remove(class)
    }

    /// The classes of which an image was found damaged, or lost; each told once.
    pub fn take_wanted(&self) -> BTreeSet<Name> {
        std::mem::take(&mut self.inner.borrow_mut().newly_wanted)
    }

    /// What is here of a class; `None`: it is not verified yet, or no class.
    pub fn shelf(&self, class: &str) -> Option<Shelf> {
        let inner = self.inner.borrow();
        let found = inner.library.classes().get(class).filter(|found| !found.is_loading)?;
        if inner.doubted.contains(class) {
            return None;
        }
        let files = inner.files.get(class).cloned().unwrap_or_default();
        Some(Shelf { kept: found.kept.clone(), files, ..Shelf::default() })
    }

    /// The same, to be changed on disk, until [`Firmware::give_back`].
    pub fn lend(&self, class: &Name) -> Option<Shelf> {
        let shelf = self.shelf(class.as_str())?;
        self.inner.borrow_mut().lent.insert(class.clone()).then_some(shelf)
    }

    /// What was lent is as it is on disk again; `shelf` if it is another.
    pub fn give_back(&self, class: &Name, shelf: Option<Shelf>) {
        let inner = &mut *self.inner.borrow_mut();
        inner.lent.remove(class);
        if let Some(shelf) = shelf {
            inner.put(class, shelf);
        }
    }

    /// What is shown of the image that comes.
    pub fn show(&self, class: &Name, fetching: Fetching) {
        self.inner.borrow_mut().fetching.insert(class.clone(), fetching);
    }

    /// Goes on with a version that was stopped.
    ///
    /// # Errors
    /// There is no such class, or it is not stopped.
    pub fn resume(&self, class: &str) -> Result<(), Failure> {
        let inner = &mut *self.inner.borrow_mut();
        let Some(found) = inner.library.class_mut(class) else {
            let text = format!("no role has firmware = {class:?}");
            return Err(Failure::new(Refusal::NotFound, text));
        };
        if !found.campaign.resume() {
            let text = format!("the roll-out of firmware for {class} is not stopped");
            return Err(Failure::new(Refusal::Failed, text));
        }
        inner.kept_at = None;
        log::info!(class; "the roll-out of firmware goes on");
        Ok(())
    }

    /// The classes in numbers.
    pub fn snapshot(&self) -> Vec<FirmwareClass> {
        let inner = self.inner.borrow();
        let (rollout, classes) = (&inner.library.settings().rollout, inner.library.classes());
        let shown = |(name, class): (&Name, &crate::update::firmware::library::Class)| {
            let current = class.kept.current();
            let previous = class.kept.images.iter().find(|image| Some(*image) != current);
            let (counts, fetching) = (class.campaign.counts(), inner.fetching.get(name));
            // Before the first check nothing else says so.
            let denied = current.map(|image| &image.version);
            let denied = denied.filter(|version| inner.library.is_denied(name.as_str(), version));
            let denied = denied.map(|version| {
                format!(
                    "version {version}, which is here, is denied; `tombolo update denied clear {name}/{version}` allows it again"
                )
            });
            let lost = inner.faults_of(name).filter(|_| inner.wanted.contains(name));
            let lost = lost.and_then(|faults| faults.into_iter().next());
            FirmwareClass {
                class: name.to_string(),
                version: current.map(|image| image.version.clone()),
                path: current.map(|image| format!("/firmware/{name}/{}", image.tag())),
                bytes: current.map(|image| image.bytes),
                previous: previous.map(|image| image.version.clone()),
                share_percent: current.map(|image| class.campaign.share(image, rollout).percent()),
                stopped: class.campaign.stopped().filter(|_| current.is_some()).map(str::to_owned),
                coming: fetching.and_then(|of| of.version.clone()),
                coming_percent: fetching.and_then(|of| of.percent),
                reason: fetching.and_then(|of| of.reason.clone()).or(denied).or(lost),
                offered: counts.offered,
                fetching: counts.fetching,
                fetched: counts.fetched,
                reported: counts.reported,
                late: counts.late,
            }
        };
        classes.iter().map(shown).collect()
    }

    /// The classes, and how far each device is, by its id from behind `after` on.
    pub fn page(&self, gate: &Gate, now: Instant, after: Option<&str>) -> FirmwarePage {
        let classes = self.snapshot();
        let inner = self.inner.borrow();
        let mut all: Vec<(&Name, &Name)> = gate
            .devices(now)
            .filter(|view| after.is_none_or(|after| view.id.as_str() > after))
            .filter_map(|view| Some((view.id, inner.library.class_of(view.role.as_str())?)))
            .collect();
        all.sort();
        let more = all.len() > DEVICES_MAX;
        let shown = |(device, class): (&Name, &Name)| {
            let found = inner.library.classes().get(class);
            let progress = found.and_then(|found| found.campaign.devices().get(device.as_str()));
            let progress = progress.cloned().unwrap_or_default();
            let image = found.and_then(|found| found.kept.current());
            let why = found.zip(image).and_then(|(found, image)| found.campaign.too_old(device, image));
            let whole = image.map(|image| image.bytes.max(1));
            let percent = whole.filter(|_| progress.bytes > 0).map(|whole| progress.bytes * 100 / whole);
            FirmwareDevice {
                device: device.to_string(),
                class: class.to_string(),
                state: progress.stage.as_str().to_owned(),
                percent: percent.map(|percent| percent.min(100) as u8),
                why: why.filter(|_| progress.stage == Stage::Waiting),
                reported: progress.reported,
            }
        };
        FirmwarePage { classes, devices: all.into_iter().take(DEVICES_MAX).map(shown).collect(), more }
    }

    /// What is wrong and needs somebody, one sentence each, beside what is `known`.
    pub fn problems(&self, known: &[String], now: Instant) -> Vec<String> {
        let inner = self.inner.borrow();
        let hanging = inner.hanging(now);
        let blocked: BTreeSet<String> =
            inner.blocked.iter().map(|(class, why)| inner.without(class, why)).collect();
        let stopped = inner.library.classes().iter().filter_map(|(class, found)| {
            let why = found.campaign.stopped().filter(|_| found.kept.current().is_some())?;
            Some(format!(
                "the roll-out of firmware for {class} is stopped: {why}; publish another version, or go on with \
                 `tombolo update devices --resume {class}`"
            ))
        });
        let texts = inner.progress.values().flat_map(|text| text.problems(known));
        let faults = inner.faults.keys().filter_map(|class| inner.faults_of(class)).flatten();
        hanging.into_iter().chain(blocked).chain(stopped).chain(faults).chain(texts).collect()
    }

    /// Its numbers.
    pub fn count(&self, snapshot: &mut Snapshot) {
        let Counts { manifests, blocks, refused, unread } = self.inner.borrow().counts;
        snapshot.put("tombolo_firmware_sent_manifests_total", manifests);
        snapshot.put("tombolo_firmware_sent_blocks_total", blocks);
        snapshot.put("tombolo_firmware_refused_requests_total", refused);
        snapshot.put("tombolo_firmware_unreadable_blocks_total", unread);
    }
}

/// What a device of this role asks by a GET.
pub fn question<'q>(device: &'q Name, role: &'q Name, fetch: &'q FirmwareFetch) -> Question<'q> {
    Question {
        device,
        role,
        class: &fetch.class,
        tag: fetch.tag.as_deref(),
        version: fetch.version.as_deref(),
        etags: &fetch.etags,
        accept: fetch.accept,
        block: fetch.block,
    }
}

/// Looks at a folder, and makes it if it is not there. Blocks.
fn look(folder: &Path) -> Looked {
    if folder.is_dir() {
        return Looked::Fine(FolderMark::of(folder));
    }
    match create_directory(folder) {
        Ok(()) => Looked::Lost,
        Err(error) => Looked::Blocked(no_folder(folder).unwrap_or_else(|| {
            format!("{} cannot be made: {error}; no firmware for sensors is kept", folder.display())
        })),
    }
}

/// The first of these images that was written to since it was verified. Blocks.
fn changed(files: &BTreeMap<String, Arc<ImageFile>>) -> Option<String> {
    // One of which the system says nothing is found out by reading it.
    let is_changed = |file: &ImageFile| matches!(file.is_as_verified(), Ok(false));
    files.iter().find(|(_, file)| is_changed(file)).map(|(tag, _)| tag.clone())
}

impl Inner {
    /// What is wrong with the files of a class, and when what was damaged is here again.
    fn faults_of(&self, class: &Name) -> Option<Vec<String>> {
        let faults = self.faults.get(class)?;
        if !self.wanted.contains(class) {
            return Some(faults.clone());
        }
        let fetching = self.fetching.get(class).filter(|of| of.version.is_some());
        let again = match fetching.map(|of| (of.percent, &of.reason)) {
            Some((Some(percent), _)) => format!("it is being fetched again, {percent} % of it is here"),
            Some((None, Some(reason))) => format!("it is not here again yet: {reason}"),
            _ => "it is fetched again once a check has found what the repository offers; `tombolo update check` checks \
                  at once"
                .to_owned(),
        };
        // That of the newest image, which is the only one that is fetched.
        let (first, rest) = faults.split_first()?;
        Some([format!("{first}; {again}")].into_iter().chain(rest.iter().cloned()).collect())
    }

    fn put(&mut self, class: &Name, shelf: Shelf) {
        if !self.library.classes().contains_key(class) {
            return; // a reload took it away meanwhile
        }
        let Shelf { kept, files, faults, .. } = shelf;
        self.library.set_kept(class.as_str(), kept);
        self.files.insert(class.clone(), files);
        self.faults.insert(class.clone(), faults);
        self.wanted.remove(class);
    }

    fn take(&mut self, moment: &Moment, coap: &mut Intake, gate: &Gate, fetch: FirmwareFetch) {
        let Some(view) = gate.device(moment.now, fetch.device) else {
            return self.refuse(moment, coap, &fetch, (Code::FORBIDDEN, "not known", None));
        };
        let answer = self.library.answer(&question(view.id, view.role, &fetch));
        match answer {
            Answer::Manifest { format, body, etag } => {
                self.counts.manifests += 1;
                let response = Response::content(format, &body).max_age(MANIFEST_MAX_AGE);
                coap.answer_firmware(moment.now, &fetch, &Response { etag: Some(&etag), ..response });
            }
            Answer::Valid(etag) => {
                let response = Response::new(Code::VALID).max_age(MANIFEST_MAX_AGE);
                coap.answer_firmware(moment.now, &fetch, &Response { etag: Some(&etag), ..response });
            }
            Answer::Refused { code, text, max_age } => {
                self.refuse(moment, coap, &fetch, (code, text, max_age));
            }
            Answer::Read(piece) => {
                let device = view.id.clone();
                let file = self.files.get(&piece.class).and_then(|files| files.get(&piece.tag)).cloned();
                let count = self.reads.values().filter(|read| read.device == device).count();
                let number = self.next_read;
                let is_asked = count < DEVICE_READS_MAX
                    && file.is_some_and(|file| {
                        self.readers.ask(&piece.class, number, &file, piece.offset, piece.length)
                    });
                if is_asked {
                    self.next_read += 1;
                    self.reads.insert(number, Read { since: moment.now, device, fetch, piece });
                } else {
                    self.refuse(
                        moment,
                        coap,
                        &fetch,
                        (Code::SERVICE_UNAVAILABLE, "too many reads", Some(SOON)),
                    );
                }
            }
        }
    }

    fn refuse(
        &mut self,
        moment: &Moment,
        coap: &mut Intake,
        fetch: &FirmwareFetch,
        (code, text, max_age): (Code, &'static str, Option<u32>),
    ) {
        self.counts.refused += 1;
        let response = Response { max_age, ..Response::new(code).diagnostic(text) };
        coap.answer_firmware(moment.now, fetch, &response);
    }

    /// A block was read.
    fn answer(&mut self, moment: &Moment, coap: &mut Intake, read: &Read, bytes: std::io::Result<Vec<u8>>) {
        let Read { device, fetch, piece, .. } = read;
        match bytes {
            Ok(bytes) => {
                self.counts.blocks += 1;
                let response =
                    Response::content(ContentFormat::OCTET_STREAM, &bytes).max_age(MANIFEST_MAX_AGE);
                let response = Response { etag: Some(&piece.etag), whole: Some(piece.whole), ..response };
                coap.answer_firmware(moment.now, fetch, &response);
                self.library.note_sent(device, piece);
            }
            Err(error) => {
                self.counts.unread += 1;
                if self.doubted.insert(piece.class.clone()) {
                    log::error!(
                        class = piece.class.as_str(), image = piece.tag.as_str(), reason:% = error;
                        "a block of firmware cannot be read: the image is verified anew"
                    );
                }
                self.refuse(moment, coap, fetch, (Code::SERVICE_UNAVAILABLE, "cannot be read", Some(SOON)));
            }
        }
    }

    /// What is said of a class without a folder: what its devices are answered, too.
    fn without(&self, class: &Name, why: &str) -> String {
        match self.files.get(class).is_some_and(|files| !files.is_empty()) {
            true => format!("{why}; the image that was verified before is served until the gateway ends"),
            false => format!("{why}; until then devices are answered 4.04"),
        }
    }

    fn follow(&mut self, now: Instant, elapsed_s: u64, gate: &Gate) {
        let has = |is_it: &mut dyn FnMut(&Name, &Name) -> bool| {
            gate.devices(now).any(|view| is_it(view.role, view.id))
        };
        for (class, change) in self.library.care(elapsed_s, has) {
            let class = class.as_str();
            match change {
                Change::Step(share) => {
                    log::info!(class, percent = share.percent(); "firmware goes to more devices");
                }
                Change::Stopped(why) => {
                    self.kept_at = None;
                    log::error!(class, reason = why.as_str(); "the roll-out of firmware is stopped");
                }
            }
        }
    }

    /// The classes whose folder was looked at, and that look has not ended.
    fn silent(&self, now: Instant) -> Vec<(Name, Instant)> {
        let is_late = |since: &Instant| now.saturating_duration_since(*since) >= SLOW;
        let late = self.looking.iter().filter(|(_, (since, _))| is_late(since));
        late.map(|(class, (since, _))| (class.clone(), *since)).collect()
    }

    /// The classes whose disk does not answer, one sentence each.
    fn hanging(&self, now: Instant) -> Vec<String> {
        let mut oldest: BTreeMap<&Name, Instant> = BTreeMap::new();
        // Nobody waits for a class that is in the configuration no more.
        let is_class = |class: &Name| self.library.classes().contains_key(class);
        for read in self.reads.values().filter(|read| is_class(&read.piece.class)) {
            let since = oldest.entry(&read.piece.class).or_insert(read.since);
            *since = read.since.min(*since);
        }
        let age = |since: Instant| now.saturating_duration_since(since);
        // One sentence a class: what its devices feel says more.
        let silent = self.silent(now).into_iter().filter(|(class, _)| {
            oldest.get(class).is_none_or(|since| age(*since) < SLOW) && !self.loading.contains_key(class)
        });
        let silent: Vec<String> = silent
            .map(|(class, since)| {
                format!(
                    "the disk has not answered for the folder of the firmware for {class} for {} s: it is not changed \
                     until then",
                    age(since).as_secs()
                )
            })
            .collect();
        let reads = oldest.into_iter().filter(|(_, since)| age(*since) >= SLOW).map(|(class, since)| {
            format!(
                "the disk has not given a block of the firmware for {class} for {} s: its devices wait, those of other \
                 classes do not",
                age(since).as_secs()
            )
        });
        let slow = self.loading.iter().filter(|(class, _)| is_class(class));
        let slow = slow.filter(|(_, since)| age(**since) >= SLOW_VERIFICATION);
        let slow = slow.map(|(class, since)| {
            format!(
                "the firmware for {class} has been read from the disk for {} s to verify it: none is offered until then",
                age(*since).as_secs()
            )
        });
        reads.chain(slow).chain(silent).collect()
    }

    /// Looks at the folders, each on a thread of its own, and takes what was found.
    fn look_after(&mut self, now: Instant, base: &Path) {
        let mut found = Vec::new();
        self.looking.retain(|class, (_, looking)| match looking.try_recv() {
            Ok(looked) => {
                found.push((class.clone(), looked));
                false
            }
            Err(error) => error == TryRecvError::Empty,
        });
        found.into_iter().for_each(|(class, looked)| self.take_looked(class, looked, base));
        let is_missed = !self.blocked.is_empty() || self.progress.values().any(KeptText::is_missed);
        let every = if is_missed { LOOK_AGAIN_EVERY } else { LOOK_EVERY };
        let is_due = self.looked_after_at.is_none_or(|at| now.saturating_duration_since(at) >= every);
        if !is_due || self.library.classes().is_empty() {
            return;
        }
        self.looked_after_at = Some(now);
        for class in self.library.classes().keys() {
            if self.looking.contains_key(class) {
                continue;
            }
            let (sender, receiver) = channel();
            let folder = folder_of(base, class.as_str());
            let files = self.files.get(class).cloned().unwrap_or_default();
            spawn_blocking(move || {
                let looked = match (look(&folder), changed(&files)) {
                    (Looked::Fine(_), Some(tag)) => Looked::Changed(tag),
                    (looked, _) => looked,
                };
                sender.send(looked)
            });
            self.looking.insert(class.clone(), (now, receiver));
        }
    }

    /// Whether a folder has other contents than were verified. The gateway's own writes change it,
    /// too, so that it is looked at for changes only while something is missed in it.
    fn is_other(&self, class: &Name, mark: FolderMark) -> bool {
        let has_trouble = self.lost.contains_key(class)
            || self.faults.get(class).is_some_and(|faults| !faults.is_empty())
            || self.files.get(class).is_none_or(BTreeMap::is_empty);
        self.folders
            .get(class)
            .is_some_and(|before| before.identity != mark.identity || (has_trouble && *before != mark))
    }

    fn take_looked(&mut self, class: Name, looked: Looked, base: &Path) {
        if !matches!(looked, Looked::Blocked(_)) && self.blocked.remove(&class).is_some() {
            self.mended.insert(class.clone());
        }
        // It could not be written because there was no folder, which there is now.
        if !matches!(looked, Looked::Blocked(_))
            && let Some(text) = self.progress.get_mut(&class)
            && text.hurry()
        {
            self.kept_at = None;
        }
        match looked {
            Looked::Fine(mark) => {
                // One that is being verified, or changed by a download, is looked at again later.
                let is_idle = !self.loading.contains_key(&class) && !self.lent.contains(&class);
                if let Some(mark) = mark.filter(|mark| is_idle && self.is_other(&class, *mark)) {
                    log::info!(class = class.as_str(); "the folder of firmware is another one: its images are verified");
                    self.folders.insert(class.clone(), mark);
                    self.doubted.insert(class);
                }
            }
            Looked::Changed(tag) => {
                let is_idle = !self.loading.contains_key(&class) && !self.lent.contains(&class);
                if is_idle && self.doubted.insert(class.clone()) {
                    log::warn!(
                        class = class.as_str(), image = tag.as_str();
                        "an image of firmware was changed since it was verified: it is verified anew"
                    );
                }
            }
            Looked::Lost => {
                let images = self.files.get(&class).map_or(0, BTreeMap::len);
                if images > 0 {
                    let folder = folder_of(base, class.as_str());
                    let said =
                        format!("{}: the folder was lost with the firmware for {class}", folder.display());
                    log::error!("{said}");
                    self.lost.insert(class.clone(), said);
                }
                self.doubted.insert(class);
            }
            Looked::Blocked(why) => {
                if self.blocked.insert(class.clone(), why.clone()).is_none() {
                    log::error!(class = class.as_str(), reason = why.as_str(); "firmware has no folder");
                }
            }
        }
    }

    /// Writes how far devices are.
    fn keep(&mut self, now: Instant) {
        if self.kept_at.is_some_and(|at| now.saturating_duration_since(at) < KEEP_EVERY) {
            return;
        }
        self.kept_at = Some(now);
        for (class, text) in &mut self.progress {
            let parse = |bytes: &[u8]| Campaign::parse(checked_text::open(bytes)?);
            if let Some(campaign) = text.retry(now, parse)
                && let Some(found) = self.library.class_mut(class.as_str())
            {
                found.campaign = campaign;
            }
            // What became of the last write is known only then.
            let is_ready = text.is_ready(now);
            if let Some(found) = self.library.class_mut(class.as_str())
                && is_ready
                && (found.campaign.is_changed() || text.is_failing())
            {
                text.write(now, checked_text::seal(found.campaign.encode()));
            }
        }
    }
}
