//! Firmware for sensors on the path: answers devices, has blocks read on the reader's thread, and
//! keeps how far each device is.
//!
//! | meets | then |
//! |---|---|
//! | the start | files are verified on another thread; 5.03 until then |
//! | more than 256 reads, or [`DEVICE_READS_MAX`] of one device | 5.03, and the device asks again |
//! | a read that fails | 5.03; the class is verified anew, and fetched again if it is not whole |
//! | files that the disk does not give | 5.03; verified again every [`AGAIN`], [`ATTEMPTS`] times; then what it gives is served, and the rest is fetched |
//! | many blocks at once | at most [`ROUND_MAX`] are answered in a round: readings come in between |

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::task::{spawn_blocking, spawn_local};

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
use crate::update::firmware::campaign::{Campaign, Change};
use crate::update::firmware::library::{Answer, Library, MANIFEST_MAX_AGE, Piece, Question, SOON};
use crate::update::firmware::settings::SensorFirmware;
use crate::update::io::block_reader::BlockReader;
use crate::update::io::firmware::{ImageFile, PROGRESS, Shelf, folder_of, open};

/// Most reads of one device at once.
const DEVICE_READS_MAX: usize = 4;
/// Most blocks that are answered in a round.
const ROUND_MAX: usize = 32;
/// From one attempt to verify files that the disk does not give to the next.
const AGAIN: Duration = Duration::from_secs(10);
/// So often.
const ATTEMPTS: u32 = 30;
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

#[derive(Default)]
struct Inner {
    library: Library,
    files: BTreeMap<Name, BTreeMap<String, Arc<ImageFile>>>,
    reader: Option<BlockReader<ImageFile>>,
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
    counts: Counts,
    looked_at: Option<Instant>,
    kept_at: Option<Instant>,
    /// What is shown of the fetching, by class.
    fetching: BTreeMap<Name, Fetching>,
}

/// A block that is being read.
struct Read {
    device: Name,
    fetch: FirmwareFetch,
    piece: Piece,
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
        let firmware = Rc::new(Firmware {
            base: base.to_owned(),
            wake: Arc::new(Notify::new()),
            inner: RefCell::default(),
        });
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
            if inner.reader.is_none() && !classes.is_empty() {
                match BlockReader::start(self.wake.clone()) {
                    Ok(reader) => inner.reader = Some(reader),
                    Err(error) => log::error!(reason:% = error; "firmware cannot be served: no thread"),
                }
            }
            new
        };
        for class in new {
            self.load(class, true);
        }
    }

    /// Verifies the images of a class; with its campaign at the start.
    fn load(self: &Rc<Self>, class: Name, is_start: bool) {
        let (firmware, folder) = (Rc::clone(self), folder_of(&self.base, class.as_str()));
        spawn_local(async move {
            let work = move || {
                let progress = is_start.then(|| {
                    let made = create_directory(&folder);
                    let read = |bytes: &[u8]| Campaign::parse(checked_text::open(bytes)?);
                    let kept = KeptText::open(&folder, PROGRESS, SHAPE, COST, read);
                    (made, kept)
                });
                (open(&folder), progress)
            };
            let Ok((shelf, progress)) = spawn_blocking(work).await else {
                log::error!(class = class.as_str(); "the thread that verifies firmware failed");
                return;
            };
            let inner = &mut *firmware.inner.borrow_mut();
            let Some(found) = inner.library.class_mut(class.as_str()) else { return };
            if let Some((made, (text, campaign))) = progress {
                if let Err(error) = made {
                    log::error!(class = class.as_str(), reason:% = error; "the folder of firmware cannot be made");
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
            inner.put(&class, shelf);
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
            let Some((number, read)) = inner.reader.as_mut().and_then(BlockReader::poll) else { return };
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
                reason: fetching.and_then(|of| of.reason.clone()).or(denied),
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
            let whole = found.and_then(|found| found.kept.current()).map(|image| image.bytes.max(1));
            let percent = whole.filter(|_| progress.bytes > 0).map(|whole| progress.bytes * 100 / whole);
            FirmwareDevice {
                device: device.to_string(),
                class: class.to_string(),
                state: progress.stage.as_str().to_owned(),
                percent: percent.map(|percent| percent.min(100) as u8),
                reported: progress.reported,
            }
        };
        FirmwarePage { classes, devices: all.into_iter().take(DEVICES_MAX).map(shown).collect(), more }
    }

    /// What is wrong and needs somebody, one sentence each, beside what is `known`.
    pub fn problems(&self, known: &[String]) -> Vec<String> {
        let inner = self.inner.borrow();
        let stopped = inner.library.classes().iter().filter_map(|(class, found)| {
            let why = found.campaign.stopped().filter(|_| found.kept.current().is_some())?;
            Some(format!(
                "the roll-out of firmware for {class} is stopped: {why}; publish another version, or go on with \
                 `tombolo update devices --resume {class}`"
            ))
        });
        let texts = inner.progress.values().flat_map(|text| text.problems(known));
        let faults = inner.faults.values().flatten().cloned();
        stopped.chain(faults).chain(texts).collect()
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

impl Inner {
    fn put(&mut self, class: &Name, shelf: Shelf) {
        if !self.library.classes().contains_key(class) {
            return; // a reload took it away meanwhile
        }
        let Shelf { kept, files, faults, .. } = shelf;
        self.library.set_kept(class.as_str(), kept);
        self.files.insert(class.clone(), files);
        self.faults.insert(class.clone(), faults);
    }

    fn take(&mut self, moment: &Moment, coap: &mut Intake, gate: &Gate, fetch: FirmwareFetch) {
        let Some(view) = gate.device(moment.now, fetch.device) else {
            return self.refuse(moment, coap, &fetch, (Code::FORBIDDEN, "not known", None));
        };
        let answer = self.library.answer(&Question {
            device: view.id,
            role: view.role,
            class: &fetch.class,
            tag: fetch.tag.as_deref(),
            version: fetch.version.as_deref(),
            etags: &fetch.etags,
            accept: fetch.accept,
            block: fetch.block,
        });
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
                        let reader = self.reader.as_mut();
                        reader.is_some_and(|reader| reader.ask(number, &file, piece.offset, piece.length))
                    });
                if is_asked {
                    self.next_read += 1;
                    self.reads.insert(number, Read { device, fetch, piece });
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
        let Read { device, fetch, piece } = read;
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

    /// Writes how far devices are.
    fn keep(&mut self, now: Instant) {
        if self.kept_at.is_some_and(|at| now.saturating_duration_since(at) < KEEP_EVERY) {
            return;
        }
        self.kept_at = Some(now);
        for (class, text) in &mut self.progress {
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
