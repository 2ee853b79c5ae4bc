//! Images for sensors: which one is wanted, and fetched, one at a time, behind the gateway's own.
//!
//! | meets | then |
//! |---|---|
//! | a download that is interrupted | again after 1 min, 2 min … 1 h, from where it was |
//! | no room, by `firmware-disk` or on the disk | tried again each hour, and a problem in `status` |
//! | other bytes than signed | tried again a day later |
//! | an image that is damaged after it came | fetched again at once; if that is damaged too, 1 h after it came, 2 h … a day |
//! | a reload, a kill, a power cut in the middle | the next start or check goes on |
//! | the repository offers nothing to the class any more | no manifest names an image; transfers end |

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use tokio::task::{spawn_blocking, spawn_local};

use super::{Order, RETRY, RETRY_MAX, Running, WRONG_FOR, fetch};
use crate::clock::UnixTime;
use crate::daemon::firmware::{Fetching, Firmware};
use crate::message::Name;
use crate::update::firmware::choice::choose;
use crate::update::firmware::kept::Image;
use crate::update::firmware::settings::SensorFirmware;
use crate::update::io::download::NoImage;
use crate::update::io::firmware::{self, Shelf, folder_of};
use crate::update::offer::Offer;

/// Why an image is not fetched once more.
const AGAIN: &str = "it was damaged again after it had been fetched; see in `dmesg` what the disk has";

/// All classes.
pub struct Sensors {
    firmware: Rc<Firmware>,
    base: PathBuf,
    classes: RefCell<BTreeMap<Name, State>>,
}

#[derive(Default)]
struct State {
    /// What a check found last; `None`: nothing, or no check yet.
    offer: Option<Offer>,
    /// A check has ended, and offers nothing.
    is_withdrawn: bool,
    passed_over: Option<String>,
    running: Option<Running>,
    retry_at: Option<Instant>,
    interruptions: u32,
    /// The image that came last, when, and how often it had come before.
    arrived: Option<([u8; 32], Instant)>,
    repeats: u32,
    is_local: bool,
    fault: Option<String>,
}

impl State {
    /// This image is here, whole.
    fn note_arrived(&mut self, now: Instant, sha256: Option<[u8; 32]>) {
        let Some(sha256) = sha256 else { return };
        let is_again = self.arrived.is_some_and(|(before, _)| before == sha256);
        self.repeats = if is_again { self.repeats.saturating_add(1) } else { 0 };
        self.arrived = Some((sha256, now));
    }

    /// Whether what is wanted came again and again, so that, if it is not here, it is not to be
    /// fetched once more now. Once it is fetched again at once.
    fn is_again_too_soon(&self, now: Instant) -> bool {
        let Some(doublings) = self.repeats.checked_sub(1) else { return false };
        let wait = RETRY_MAX.saturating_mul(1 << doublings.min(10)).min(WRONG_FOR);
        let is_wanted = |sha256| self.offer.as_ref().is_some_and(|offer| offer.sha256 == sha256);
        self.arrived.is_some_and(|(sha256, at)| is_wanted(sha256) && now < at + wait)
    }
}

impl Sensors {
    /// Nothing is wanted before a check.
    pub fn new(base: PathBuf, firmware: &Rc<Firmware>) -> Sensors {
        Sensors { firmware: firmware.clone(), base, classes: RefCell::default() }
    }

    /// The classes are those of the settings. `is_other`: the source is another, so what was found
    /// is forgotten and what runs is called off.
    pub fn replace(&self, settings: &SensorFirmware, is_other: bool) {
        let known = settings.classes();
        self.classes.borrow_mut().retain(|class, state| {
            let stays = known.contains(class) && !is_other;
            if let Some(running) = state.running.as_ref().filter(|_| !stays) {
                running.stop.store(true, Ordering::Relaxed);
            }
            stays
        });
    }

    /// The folders with downloads, for the budget that they share.
    pub fn folders(&self) -> Vec<PathBuf> {
        let classes = self.firmware.settings().classes();
        classes.iter().map(|class| folder_of(&self.base, class.as_str())).collect()
    }

    /// A check has verified these offers. `denied`: versions that are not to be offered.
    pub fn handle_offers(&self, offers: &[Offer], denied: &[String], now: UnixTime) {
        let known = self.firmware.settings().classes();
        let mut classes = self.classes.borrow_mut();
        for class in &known {
            let choice = choose(class.as_str(), offers, denied, now);
            let state = classes.entry(class.clone()).or_default();
            state.is_withdrawn = choice.offer.is_none();
            if state.offer.as_ref() != choice.offer {
                (state.retry_at, state.interruptions, state.fault) = (None, 0, None);
                if let Some(running) = &state.running {
                    running.stop.store(true, Ordering::Relaxed);
                }
                state.offer = choice.offer.cloned();
            }
            state.passed_over = choice.reason;
        }
        let base = self.base.clone();
        spawn_blocking(move || {
            let is_wanted = |class: &str| known.iter().any(|known| known.as_str() == class);
            if let Err(error) = firmware::retain(&base, is_wanted) {
                log::warn!(reason:% = error; "firmware of a class that no role has any more cannot be deleted");
            }
        });
    }

    /// Whether a check has found something for this class.
    pub fn knows(&self, class: &Name) -> bool {
        self.classes.borrow().get(class).is_some_and(|state| state.offer.is_some())
    }

    /// Those of them that do not answer.
    pub fn silent_folders(&self, now: Instant) -> Vec<PathBuf> {
        let silent = self.firmware.silent(now);
        silent.into_iter().map(|(class, _)| folder_of(&self.base, class.as_str())).collect()
    }

    /// Which class has work to do, and on what. Once a second; `may_fetch`: nothing keeps its
    /// folder from being changed now.
    pub fn next(&self, now: Instant, may_fetch: impl Fn(&Name) -> bool) -> Option<(Name, Option<Offer>)> {
        let mut classes = self.classes.borrow_mut();
        let mut next = None;
        for (class, state) in classes.iter_mut() {
            self.show(class, state);
            if self.firmware.take_mended(class) {
                state.retry_at = None;
            }
            if state.running.is_some() {
                continue;
            }
            let Some(shelf) = self.firmware.shelf(class.as_str()) else { continue };
            let current = shelf.kept.current();
            let is_here = |offer: &Offer| current == Some(&known(offer, current));
            if state.is_again_too_soon(now) && !state.offer.as_ref().is_some_and(is_here) {
                state.is_local = true;
                state.fault = Some(AGAIN.to_owned());
                continue;
            }
            match &state.offer {
                // Also one that did not arrive, and was restored since.
                Some(offer) if is_here(offer) => {
                    (state.retry_at, state.interruptions, state.fault) = (None, 0, None);
                }
                _ if state.retry_at.is_some_and(|at| now < at) || next.is_some() || !may_fetch(class) => {}
                Some(offer) => {
                    next = Some((class.clone(), Some(offer.clone())));
                }
                None if state.is_withdrawn && current.is_some() => next = Some((class.clone(), None)),
                None => {}
            }
        }
        next
    }

    fn show(&self, class: &Name, state: &State) {
        let running = state.running.as_ref().zip(state.offer.as_ref());
        let percent = running.map(|(running, offer)| {
            (running.have.load(Ordering::Relaxed).saturating_mul(100) / offer.bytes.max(1)).min(100) as u8
        });
        let is_coming = running.is_some() || state.fault.is_some();
        self.firmware.show(
            class,
            Fetching {
                version: state.offer.as_ref().filter(|_| is_coming).map(|offer| offer.version.clone()),
                percent,
                reason: state.fault.clone().or_else(|| state.passed_over.clone()),
            },
        );
    }

    /// Begins that work; `order` is for the offer. `done` is called with the bytes that were
    /// fetched when it has ended.
    pub fn begin(self: &Rc<Self>, class: Name, order: Option<Order>, done: impl FnOnce(u64) + 'static) {
        let Some(mut shelf) = self.firmware.lend(&class) else { return done(0) };
        let folder = folder_of(&self.base, class.as_str());
        let Some(order) = order else {
            let sensors = Rc::clone(self);
            spawn_local(async move {
                shelf.kept.is_withdrawn = true;
                let written =
                    spawn_blocking(move || firmware::write(&folder, &shelf.kept).map(|()| shelf)).await;
                sensors.end(&class, written.unwrap_or_else(|_| Err(lost())));
                done(0);
            });
            return;
        };
        let running =
            Running { stop: order.stop.clone(), have: order.have.clone(), sha256: order.offer.sha256 };
        let stop = order.stop.clone();
        if let Some(state) = self.classes.borrow_mut().get_mut(&class) {
            state.running = Some(running);
        }
        let settings = self.firmware.settings();
        let disk = settings.disk;
        let others: u64 = settings
            .classes()
            .iter()
            .filter(|other| **other != class)
            .map(|other| self.firmware.shelf(other.as_str()).map_or(0, |shelf| shelf.kept.bytes()))
            .sum();
        let sensors = Rc::clone(self);
        spawn_local(async move {
            let work = move || obtain(&order, &folder, shelf, others, disk);
            let (shelf, bytes) = spawn_blocking(work).await.unwrap_or_else(|_| (Err(lost()), 0));
            // How what was called off ended says nothing about what is wanted since.
            let is_over = stop.load(Ordering::Relaxed);
            sensors.end(&class, shelf.map_err(|fault| if is_over { NoImage::Stopped } else { fault }));
            done(bytes);
        });
    }

    fn end(&self, class: &Name, shelf: Result<Shelf, NoImage>) {
        let now = Instant::now();
        if let Ok(shelf) = &shelf {
            let version = shelf.kept.current().map_or("none", |image| image.version.as_str());
            log::info!(class = class.as_str(), version; "firmware for sensors is offered");
        }
        let arrived = shelf.as_ref().ok().and_then(|shelf| Some(shelf.kept.current()?.sha256));
        let (shelf, failed) = match shelf {
            Ok(shelf) => (Some(shelf), Ok(())),
            Err(fault) => (None, Err(fault)),
        };
        self.firmware.give_back(class, shelf);
        let mut classes = self.classes.borrow_mut();
        match (failed, classes.get_mut(class)) {
            (Ok(()), state) => {
                if let Some(state) = state {
                    (state.running, state.retry_at, state.fault) = (None, None, None);
                    state.interruptions = 0;
                    state.note_arrived(now, arrived);
                }
            }
            // It was called off.
            (Err(NoImage::Stopped), Some(state)) => state.running = None,
            (Err(fault), Some(state)) => {
                log::warn!(class = class.as_str(), reason:% = fault; "firmware for sensors is not here");
                state.running = None;
                state.interruptions += 1;
                state.is_local = matches!(fault, NoImage::Disk(_) | NoImage::NoRoom(_));
                let wait = match fault {
                    NoImage::Interrupted(_) => {
                        RETRY.saturating_mul(1 << (state.interruptions - 1).min(10)).min(RETRY_MAX)
                    }
                    NoImage::Refused(_) | NoImage::WrongBytes => WRONG_FOR,
                    _ => RETRY_MAX,
                };
                state.retry_at = Some(now + wait);
                state.fault = Some(fault.to_string());
            }
            (Err(_), None) => {}
        }
    }

    /// What is wrong and needs somebody, one sentence each.
    pub fn problems(&self) -> Vec<String> {
        let classes = self.classes.borrow();
        let faulty = classes.iter().filter(|(_, state)| state.is_local || state.interruptions >= 10);
        let mut problems: Vec<String> = faulty
            .filter_map(|(class, state)| {
                let fault = state.fault.as_ref()?;
                Some(format!("firmware for {class} does not arrive: {fault}; it is tried again by itself"))
            })
            .collect();
        problems.extend(classes.values().filter_map(|state| {
            state.passed_over.clone().filter(|reason| reason.contains("are for gateways"))
        }));
        problems
    }

    /// Somebody asks for newer firmware: what failed is tried at once.
    pub fn hurry(&self) {
        for state in self.classes.borrow_mut().values_mut() {
            (state.retry_at, state.repeats) = (None, 0);
        }
    }
}

fn lost() -> NoImage {
    NoImage::Disk("the thread of the download failed".to_owned())
}

/// The image of an offer, as it is if `current` is the same file.
fn known(offer: &Offer, current: Option<&Image>) -> Image {
    Image::of(offer, current.is_some_and(|image| image.is_suit))
}

/// Makes an offer the image that is served: fetches it where it is not here. The bytes that came.
fn obtain(
    order: &Order,
    folder: &Path,
    mut shelf: Shelf,
    others: u64,
    disk: u64,
) -> (Result<Shelf, NoImage>, u64) {
    let offer = &order.offer;
    if shelf.kept.images.iter().any(|image| image.sha256 == offer.sha256) || firmware::has(folder, offer) {
        return (firmware::take(folder, offer, shelf), 0);
    }
    let wanted = |shelf: &Shelf| offer.bytes.saturating_add(others).saturating_add(shelf.kept.bytes());
    if wanted(&shelf) > disk
        && let Err(fault) = firmware::drop_oldest(folder, &mut shelf)
    {
        return (Err(fault), 0);
    }
    if wanted(&shelf) > disk {
        let taken = wanted(&shelf) - offer.bytes;
        let why = format!(
            "it needs {} bytes, and [update] firmware-disk is {disk}, of which {taken} are taken",
            offer.bytes
        );
        return (Err(NoImage::NoRoom(why)), 0);
    }
    let (fetched, bytes) = fetch(order);
    (fetched.and_then(|()| firmware::take(folder, offer, shelf)), bytes)
}
