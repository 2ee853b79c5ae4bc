//! Asks the EST server which CAs it offers, once a day and after each renewal, and keeps them:
//! `trust = "est"`.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "shell")]

use std::cell::{Cell, RefCell};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::clock::WallClock;
use crate::credential::anchors::{Anchor, AnchorSet, FILE};
use crate::credential::schedule::Schedule;
use crate::credential::source::Source;
use crate::durable::atomic_file::AtomicFile;
use crate::durable::io::{OnDisk, create_directory};

/// How often it is asked.
const PERIOD: Duration = Duration::from_secs(86_400);
/// How often it is looked whether a CA that is not offered any more can go.
const LOOK_EVERY: Duration = Duration::from_secs(600);
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
    busy: Cell<bool>,
    changed: Cell<bool>,
    look_at: Cell<Instant>,
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
        let mut problem = None;
        let disk = OnDisk::new(&folder);
        let retrieved = ANCHORS.read(&disk, AnchorSet::parse);
        if !retrieved.is_new()
            && !retrieved.defects.is_empty()
            && let Err(error) = ANCHORS.mend(&disk, &retrieved)
        {
            problem = Some(format!("{FILE} is damaged and cannot be put in order: {error}"));
        }
        let set = retrieved.value.unwrap_or_default();
        let schedule = Schedule::new(now, PERIOD, name, !set.anchors().is_empty());
        Rc::new(AnchorKeeper {
            name: name.to_owned(),
            folder,
            source,
            clock,
            schedule: RefCell::new(schedule),
            set: RefCell::new(set),
            problem: RefCell::new(problem),
            busy: Cell::new(false),
            changed: Cell::new(false),
            look_at: Cell::new(now),
        })
    }

    /// Those that are trusted.
    pub fn anchors(&self) -> Vec<Anchor> {
        self.set.borrow().anchors().to_vec()
    }

    /// Why the last attempt failed, or what is wrong with the file.
    pub fn last_error(&self) -> Option<String> {
        self.problem.borrow().clone().or_else(|| self.schedule.borrow().last_error().map(str::to_owned))
    }

    /// Whether others are trusted than when this was asked last.
    pub fn take_changed(&self) -> bool {
        self.changed.take()
    }

    /// Asks the server soon: a certificate was renewed, perhaps by another CA.
    pub fn ask(&self) {
        self.schedule.borrow_mut().ask(Instant::now());
    }

    /// Every second or so. `proves`: whether the broker's chain of a connection that stands leads
    /// to one of these.
    pub fn care(self: &Rc<Self>, proves: impl Fn(&[Vec<u8>]) -> bool) {
        let now = Instant::now();
        if self.busy.get() {
            return;
        }
        if self.schedule.borrow().is_due(now) {
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
                if keeper.keep(next).await.is_ok() {
                    let (certificate, gone) = (keeper.name.as_str(), gone.join(", "));
                    log::info!(certificate, gone = gone.as_str(); "a CA that the EST server does not offer any more is not trusted any more");
                }
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
                        let is_news = next != *self.set.borrow();
                        let kept = if is_news { self.keep(next).await } else { Ok(()) };
                        if kept.is_ok() && !added.is_empty() {
                            log::info!(certificate, added = added.as_str(); "the EST server offers a CA, which is trusted from now on");
                        }
                        if kept.is_ok() && !withdrawn.is_empty() {
                            log::info!(certificate, withdrawn = withdrawn.as_str();
                                "the EST server does not offer this CA any more; it stays trusted for 30 days, and until the others have been proven");
                        }
                        kept
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

    async fn keep(&self, next: AnchorSet) -> Result<(), String> {
        let (folder, bytes) = (self.folder.clone(), next.to_bytes());
        let written = tokio::task::spawn_blocking(move || {
            create_directory(&folder)?;
            ANCHORS.write(&OnDisk::new(&folder), &bytes)
        });
        match written.await {
            Ok(Ok(())) => {
                *self.set.borrow_mut() = next;
                *self.problem.borrow_mut() = None;
                self.changed.set(true);
                Ok(())
            }
            Ok(Err(error)) => Err(format!("{FILE} cannot be written: {error}")),
            Err(_) => Err("the thread that writes them failed".to_owned()),
        }
    }
}
