//! Asks the EST server which CAs it offers, and keeps them: `trust = "est"`. It is asked at the
//! start, once a day, after each renewal, and while there is no connection to the broker, whose CA
//! may have changed.
//!
//! CAs that the disk does not take are trusted all the same, and are stored as soon as it does: the
//! broker's roll-over does not wait for a disk.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "shell")]

use std::cell::{Cell, RefCell};
use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::clock::WallClock;
use crate::credential::anchors::{Anchor, AnchorSet, FILE};
use crate::credential::schedule::Schedule;
use crate::credential::source::Source;
use crate::durable::atomic_file::{AtomicFile, sweep};
use crate::durable::folder::StateFolder;
use crate::durable::io::{OnDisk, create_directory};
use crate::northbound::io::kept;

/// How often it is asked.
const PERIOD: Duration = Duration::from_secs(86_400);
/// How often it is asked while there is no connection to the broker.
const PERIOD_AWAY: Duration = Duration::from_secs(900);
/// How often it is looked whether a CA that is not offered any more can go.
const LOOK_EVERY: Duration = Duration::from_secs(600);
/// How often it is tried to store what the disk did not take.
const STORE_EVERY: Duration = Duration::from_secs(60);
const ANCHORS: AtomicFile<'static> = AtomicFile::new(FILE, 256 * 1024, 0o600).with_copy();

/// The CAs of one EST server.
pub struct AnchorKeeper {
    name: String,
    folder: PathBuf,
    source: Arc<dyn Source>,
    clock: Arc<dyn WallClock>,
    schedule: RefCell<Schedule>,
    set: RefCell<AnchorSet>,
    problem: RefCell<Option<String>>,
    /// When it is tried again to store what the disk did not take.
    store_at: Cell<Option<Instant>>,
    busy: Cell<bool>,
    changed: Cell<bool>,
    look_at: Cell<Instant>,
    asked_at: Cell<Instant>,
}

impl AnchorKeeper {
    /// Takes up what is stored. `folder`: of the certificate with this name. It blocks.
    pub fn open(
        now: Instant,
        name: &str,
        folder: PathBuf,
        source: Arc<dyn Source>,
        clock: Arc<dyn WallClock>,
    ) -> Rc<AnchorKeeper> {
        let (set, problem) = take_up(&OnDisk::new(&folder));
        if !set.anchors().is_empty() {
            kept::put(&folder.join(FILE), &set.to_bytes());
        }
        let schedule = Schedule::new(now, PERIOD, name, !set.anchors().is_empty());
        Rc::new(AnchorKeeper {
            name: name.to_owned(),
            folder,
            source,
            clock,
            schedule: RefCell::new(schedule),
            set: RefCell::new(set),
            problem: RefCell::new(problem),
            store_at: Cell::new(None),
            busy: Cell::new(false),
            changed: Cell::new(false),
            look_at: Cell::new(now),
            asked_at: Cell::new(now),
        })
    }

    /// Those that are trusted.
    pub fn anchors(&self) -> Vec<Anchor> {
        self.set.borrow().anchors().to_vec()
    }

    /// Why the last attempt failed.
    pub fn last_error(&self) -> Option<String> {
        self.schedule.borrow().last_error().map(str::to_owned)
    }

    /// What is wrong with the file.
    pub fn problem(&self) -> Option<String> {
        self.problem.borrow().clone()
    }

    /// Whether others are trusted than when this was asked last.
    pub fn take_changed(&self) -> bool {
        self.changed.take()
    }

    /// Tries at the next care to store what the disk did not take: something was changed.
    pub fn store_soon(&self) {
        self.store_at.set(self.store_at.get().map(|_| Instant::now()));
    }

    /// Asks the server soon: a certificate was renewed, perhaps by another CA.
    pub fn ask(&self) {
        self.schedule.borrow_mut().ask(Instant::now());
    }

    /// Every second or so. `is_away`: there is no connection to the broker. `proves`: whether the
    /// broker's chain of a connection that stands leads to one of these.
    pub fn care(self: &Rc<Self>, is_away: bool, proves: impl Fn(&[Vec<u8>]) -> bool) {
        let now = Instant::now();
        if self.busy.get() {
            return;
        }
        if is_away && now.saturating_duration_since(self.asked_at.get()) >= PERIOD_AWAY {
            self.ask();
        }
        if self.store_at.get().is_some_and(|at| now >= at) {
            self.busy.set(true);
            let keeper = Rc::clone(self);
            tokio::task::spawn_local(async move {
                keeper.store().await;
                keeper.busy.set(false);
            });
        } else if self.schedule.borrow().is_due(now) {
            self.asked_at.set(now);
            self.busy.set(true);
            let keeper = Rc::clone(self);
            tokio::task::spawn_local(async move {
                let offered = keeper.source.anchors().await;
                keeper.handle_offered(offered).await;
                keeper.busy.set(false);
            });
        } else if now >= self.look_at.get() {
            self.look_at.set(now + LOOK_EVERY);
            let wanted = self.clock.wall().and_then(|wall| self.set.borrow().to_prove(wall));
            let Some(kept) = wanted.filter(|kept| proves(kept)) else { return };
            let mut next = self.set.borrow().clone();
            let gone = next.keep(&kept);
            self.busy.set(true);
            let keeper = Rc::clone(self);
            tokio::task::spawn_local(async move {
                keeper.keep(next).await;
                let (certificate, gone) = (keeper.name.as_str(), gone.join(", "));
                log::info!(certificate, gone = gone.as_str(); "a CA that the EST server does not offer any more is not trusted any more");
                keeper.busy.set(false);
            });
        }
    }

    async fn handle_offered(&self, offered: Result<Option<Vec<Vec<u8>>>, String>) {
        let certificate = self.name.as_str();
        let done = match offered {
            Ok(offered) => {
                let mut next = self.set.borrow().clone();
                match next.offer(self.clock.wall(), &offered.unwrap_or_default()) {
                    Err(reason) => Err(reason),
                    Ok(change) => {
                        let (added, withdrawn) = (change.added.join(", "), change.withdrawn.join(", "));
                        if next != *self.set.borrow() {
                            self.keep(next).await;
                        }
                        if !added.is_empty() {
                            log::info!(certificate, added = added.as_str(); "the EST server offers a CA, which is trusted from now on");
                        }
                        if !withdrawn.is_empty() {
                            log::info!(certificate, withdrawn = withdrawn.as_str();
                                "the EST server does not offer this CA any more; it stays trusted for 30 days, and until the others have been proven");
                        }
                        Ok(())
                    }
                }
            }
            Err(reason) => Err(reason),
        };
        if let Err(reason) = &done {
            log::warn!(certificate, reason = reason.as_str(); "the CAs of the EST server could not be asked for; those that are known stay trusted");
        }
        self.schedule.borrow_mut().handle_done(Instant::now(), done, None);
    }

    /// These are trusted from now on.
    async fn keep(&self, next: AnchorSet) {
        kept::put(&self.folder.join(FILE), &next.to_bytes());
        *self.set.borrow_mut() = next;
        self.changed.set(true);
        self.store().await;
    }

    /// Stores what is in use.
    async fn store(&self) {
        let (folder, set) = (self.folder.clone(), self.set.borrow().clone());
        let stored = tokio::task::spawn_blocking(move || {
            create_directory(&folder)?;
            store(&OnDisk::new(&folder), &set)
        });
        match stored.await.unwrap_or_else(|_| Err(io::Error::other("its thread failed"))) {
            Ok(()) => {
                self.store_at.set(None);
                *self.problem.borrow_mut() = None;
            }
            Err(error) => {
                self.store_at.set(Some(Instant::now() + STORE_EVERY));
                let problem = format!(
                    "the CAs that the EST server offers are trusted, but {FILE} cannot be written: {error}; after a restart \
                     they would have to be asked for anew"
                );
                if self.problem.borrow().as_ref() != Some(&problem) {
                    log::warn!(certificate = self.name.as_str(), reason:% = error;
                        "the CAs of the EST server are trusted, but cannot be stored; it is tried again every minute");
                }
                *self.problem.borrow_mut() = Some(problem);
            }
        }
    }
}

/// What is stored, put in order, and what is wrong with it and stays so. It blocks.
pub fn take_up(folder: &impl StateFolder) -> (AnchorSet, Option<String>) {
    let mut problem = None;
    let retrieved = ANCHORS.read(folder, AnchorSet::parse);
    if !retrieved.is_new()
        && !retrieved.defects.is_empty()
        && let Err(error) = ANCHORS.mend(folder, &retrieved)
    {
        problem = Some(format!("{FILE} is damaged and cannot be put in order: {error}"));
    }
    // What a writer left that was killed is in nobody's way.
    let _ = sweep(folder, FILE);
    (retrieved.value.unwrap_or_default(), problem)
}

/// Stores these in place of those before. It blocks.
///
/// # Errors
/// As the system says; then the old or the new ones are stored, whole.
pub fn store(folder: &impl StateFolder, set: &AnchorSet) -> io::Result<()> {
    ANCHORS.write(folder, &set.to_bytes())
}
