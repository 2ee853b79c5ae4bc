//! Fetches revocation lists and keeps the last good ones on disk.
//!
//! Lists that the disk does not take are in use all the same, and are stored as soon as it does:
//! what is revoked must not wait for a disk.
//!
//! Everything that blocks runs beside the path's thread; what `status` shows is a copy.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "shell")]

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::clock::{UnixTime, WallClock};
use crate::credential::revocation::{self, Anchors, BYTES_MAX, Fetching, Side};
use crate::credential::schedule::Schedule;
use crate::durable::atomic_file::{AtomicFile, sweep};
use crate::durable::folder::StateFolder;
use crate::durable::io::{OnDisk, create_directory};
use crate::https::io::{Client, Trust, limits};
use crate::https::message::{Request, Response};
use crate::https::wording::Keys;
use crate::northbound::io::{files, kept};
use crate::northbound::revocation::parse;
use crate::proto::pem;

/// The label of a list in PEM (RFC 7468 §6).
const LABEL: &str = "X509 CRL";
/// PEM is a third longer than what it holds.
const FILE_MAX: u64 = 2 * BYTES_MAX as u64;
/// How often it is tried to store what the disk did not take.
const STORE_EVERY: Duration = Duration::from_secs(60);
/// Redirects followed, to the same host.
const REDIRECTS: u8 = 3;
const KEYS: Keys = Keys { url: "crl-url", ca_file: "the CA file", certificate: "no certificate" };

/// One URL, kept.
pub struct CrlKeeper {
    settings: Fetching,
    clock: Arc<dyn WallClock>,
    schedule: RefCell<Schedule>,
    stored: RefCell<Arc<Vec<Vec<u8>>>>,
    fetched_at: Cell<Option<UnixTime>>,
    problem: RefCell<Option<String>>,
    /// When it is tried again to store what the disk did not take.
    store_at: Cell<Option<Instant>>,
    busy: Cell<bool>,
    changed: Cell<bool>,
}

impl CrlKeeper {
    /// Takes up what is stored, and puts in order what a power cut left. It blocks.
    pub fn open(now: Instant, settings: Fetching, clock: Arc<dyn WallClock>) -> Rc<CrlKeeper> {
        let file = settings.file();
        // Other settings for the same lists: what is on disk is never newer than what is in use.
        let known = kept::get(&file).and_then(|bytes| parse(&bytes).ok());
        let store_at = known.is_some().then_some(now);
        let (stored, problem) = match create_directory(&settings.folder) {
            _ if known.is_some() => (known.unwrap_or_default(), None),
            Ok(()) => take_up(&OnDisk::new(&settings.folder), settings.side),
            Err(error) => {
                (Vec::new(), Some(format!("{} cannot be made: {error}", settings.folder.display())))
            }
        };
        if !stored.is_empty() {
            kept::put(&file, &encode(&stored));
        }
        let schedule = Schedule::new(now, settings.period, &settings.seed, !stored.is_empty());
        Rc::new(CrlKeeper {
            settings,
            clock,
            schedule: RefCell::new(schedule),
            stored: RefCell::new(Arc::new(stored)),
            fetched_at: Cell::new(None),
            problem: RefCell::new(problem),
            store_at: Cell::new(store_at),
            busy: Cell::new(false),
            changed: Cell::new(false),
        })
    }

    /// What it was told.
    pub fn settings(&self) -> &Fetching {
        &self.settings
    }

    /// The lists in use, DER.
    pub fn stored(&self) -> Arc<Vec<Vec<u8>>> {
        self.stored.borrow().clone()
    }

    /// When the server was asked last with success.
    pub fn fetched_at(&self) -> Option<UnixTime> {
        self.fetched_at.get()
    }

    /// Why the last attempt failed.
    pub fn last_error(&self) -> Option<String> {
        self.schedule.borrow().last_error().map(str::to_owned)
    }

    /// After how long it is asked again, where the last attempt failed.
    pub fn retry_in(&self) -> Option<Duration> {
        let schedule = self.schedule.borrow();
        schedule.last_error().map(|_| schedule.due().saturating_duration_since(Instant::now()))
    }

    /// What is wrong with the file.
    pub fn problem(&self) -> Option<String> {
        self.problem.borrow().clone()
    }

    /// Whether there are other lists than when this was asked last.
    pub fn take_changed(&self) -> bool {
        self.changed.take()
    }

    /// Says with the next question that there are others: those in use elsewhere are not these.
    pub fn tell_again(&self) {
        self.changed.set(true);
    }

    /// Tries at the next care to store what the disk did not take: something was changed.
    pub fn store_soon(&self) {
        self.store_at.set(self.store_at.get().map(|_| Instant::now()));
    }

    /// Fetches at the next care, whatever is in store.
    pub fn ask(&self) {
        self.schedule.borrow_mut().ask(Instant::now());
    }

    /// Whether an answer is waited for.
    pub fn is_busy(&self) -> bool {
        self.busy.get()
    }

    /// Every second or so.
    pub fn care(self: &Rc<Self>) {
        let now = Instant::now();
        let (is_due, to_store) =
            (self.schedule.borrow().is_due(now), self.store_at.get().is_some_and(|at| now >= at));
        if self.busy.get() || !(is_due || to_store) {
            return;
        }
        self.busy.set(true);
        let keeper = Rc::clone(self);
        tokio::task::spawn_local(async move {
            if is_due {
                let (settings, clock, stored) =
                    (keeper.settings.clone(), keeper.clock.clone(), keeper.stored());
                let fetched = tokio::task::spawn_blocking(move || fetch(&settings, clock, &stored)).await;
                let fetched =
                    fetched.unwrap_or_else(|_| Err(("the thread that fetches it failed".to_owned(), None)));
                keeper.handle_fetched(fetched);
            }
            if keeper.store_at.get().is_some_and(|at| Instant::now() >= at) {
                keeper.store().await;
            }
            keeper.busy.set(false);
        });
    }

    /// Stores what is in use.
    async fn store(&self) {
        let (settings, lists) = (self.settings.clone(), self.stored());
        let stored = tokio::task::spawn_blocking(move || {
            create_directory(&settings.folder)?;
            store(&OnDisk::new(&settings.folder), settings.side, &lists)
        });
        let stored = stored.await.unwrap_or_else(|_| Err(io::Error::other("its thread failed")));
        let (table, file) = (self.settings.side.table(), self.settings.file());
        match stored {
            Ok(()) => {
                self.store_at.set(None);
                *self.problem.borrow_mut() = None;
            }
            Err(error) => {
                self.store_at.set(Some(Instant::now() + STORE_EVERY));
                let problem = format!(
                    "the revocation lists of [{table}] are in use, but {} cannot be written: {error}; after a restart they \
                     would have to be fetched anew",
                    file.display()
                );
                if self.problem.borrow().as_ref() != Some(&problem) {
                    log::warn!(table, file:% = file.display(), reason:% = error;
                        "new revocation lists are in use, but cannot be stored; it is tried again every minute");
                }
                *self.problem.borrow_mut() = Some(problem);
            }
        }
    }

    fn handle_fetched(&self, fetched: Result<Option<Vec<Vec<u8>>>, Refusal>) {
        let (table, url) = (self.settings.side.table(), self.settings.url.to_string());
        let (done, after) = match fetched {
            Ok(lists) => {
                self.fetched_at.set(self.clock.wall());
                if let Some(lists) = lists {
                    let issuers: Vec<String> = lists.iter().map(|list| revocation::issuer(list)).collect();
                    let issuers = issuers.join(", ");
                    log::info!(table, url = url.as_str(), issuers = issuers.as_str(); "new revocation lists are in use");
                    kept::put(&self.settings.file(), &encode(&lists));
                    *self.stored.borrow_mut() = Arc::new(lists);
                    self.store_at.set(self.store_at.get().or_else(|| Some(Instant::now())));
                    self.changed.set(true);
                }
                (Ok(()), None)
            }
            Err((reason, after)) => {
                // Said when it begins, or changes; `status` shows it all the time.
                if self.schedule.borrow().last_error() != Some(reason.as_str()) {
                    log::warn!(table, url = url.as_str(), reason = reason.as_str();
                        "no revocation list could be fetched; those that are there stay in use");
                }
                (Err(reason), after)
            }
        };
        self.schedule.borrow_mut().handle_done(Instant::now(), done, after);
    }
}

/// Why nothing was fetched, and how long the server asks to wait.
type Refusal = (String, Option<Duration>);

const fn file(side: Side) -> AtomicFile<'static> {
    AtomicFile::new(side.file(), FILE_MAX, 0o600).with_copy()
}

/// What is stored, put in order, and what is wrong with it and stays so. It blocks.
pub fn take_up(folder: &impl StateFolder, side: Side) -> (Vec<Vec<u8>>, Option<String>) {
    let (file, mut problem) = (file(side), None);
    let retrieved = file.read(folder, parse);
    if !retrieved.is_new() && !retrieved.defects.is_empty() {
        let defects: Vec<String> = retrieved.defects.iter().map(ToString::to_string).collect();
        if let Err(error) = file.mend(folder, &retrieved) {
            problem = Some(format!("{} and cannot be put in order: {error}", defects.join("; ")));
        }
    }
    // What a writer left that was killed is in nobody's way.
    let _ = sweep(folder, side.file());
    (retrieved.value.unwrap_or_default(), problem)
}

/// Stores these lists in place of those before. It blocks.
///
/// # Errors
/// As the system says; then the old or the new ones are stored, whole.
pub fn store(folder: &impl StateFolder, side: Side, lists: &[Vec<u8>]) -> io::Result<()> {
    file(side).write(folder, &encode(lists))
}

fn encode(lists: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    lists.iter().for_each(|list| pem::encode(LABEL, list, &mut bytes));
    bytes
}

fn fetch(
    settings: &Fetching,
    clock: Arc<dyn WallClock>,
    stored: &[Vec<u8>],
) -> Result<Option<Vec<Vec<u8>>>, Refusal> {
    let plain = |text: String| (text, None);
    let anchors = anchors(&settings.anchors).map_err(plain)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| plain(format!("its thread cannot be started: {error}")))?;
    let client = Client::new(&Trust::Unverified, None, clock, limits(BYTES_MAX), KEYS);
    let client = client.map_err(|failure| plain(failure.to_string()))?;
    let mut request =
        Request::get(settings.url.clone(), "application/pkix-crl, application/x-pem-file;q=0.9, */*;q=0.5");
    request.redirects = REDIRECTS;
    let response = runtime.block_on(client.send(&request)).map_err(|failure| plain(failure.to_string()))?;
    let Response { status, retry_after, body, .. } = response;
    if status != 200 {
        return Err((format!("the server answers {status}"), retry_after));
    }
    revocation::judge(&body, &anchors, stored).map_err(plain)
}

fn anchors(anchors: &Anchors) -> Result<Vec<Vec<u8>>, String> {
    match anchors {
        Anchors::Broker(tls) => files::anchors(tls).map(|(found, _)| files::certificates(&found)),
        Anchors::File(path) => {
            let read = files::pem(path)?;
            Ok(match read.bytes.first() {
                Some(0x30) => vec![read.bytes],
                _ => files::certificates(&[read]),
            })
        }
    }
}
