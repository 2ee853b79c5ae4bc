//! Fetches revocation lists and keeps the last good ones on disk.
//!
//! Everything that blocks runs beside the path's thread; what `status` shows is a copy.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "shell")]

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::clock::{UnixTime, WallClock};
use crate::credential::revocation::{self, Anchors, BYTES_MAX, Fetching};
use crate::credential::schedule::Schedule;
use crate::durable::atomic_file::AtomicFile;
use crate::durable::io::{OnDisk, create_directory};
use crate::https::io::{Client, Trust, limits};
use crate::https::message::{Request, Response};
use crate::https::wording::Keys;
use crate::northbound::io::files;
use crate::northbound::revocation::parse;
use crate::proto::pem;

/// The label of a list in PEM (RFC 7468 §6).
const LABEL: &str = "X509 CRL";
/// PEM is a third longer than what it holds.
const FILE_MAX: u64 = 2 * BYTES_MAX as u64;
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
    busy: Cell<bool>,
    changed: Cell<bool>,
}

impl CrlKeeper {
    /// Takes up what is stored, and puts in order what a power cut left. It blocks.
    pub fn open(now: Instant, settings: Fetching, clock: Arc<dyn WallClock>) -> Rc<CrlKeeper> {
        let (stored, problem) = match create_directory(&settings.folder).map(|()| take_up(&settings)) {
            Ok((stored, problem)) => (stored, problem),
            Err(error) => {
                (Vec::new(), Some(format!("{} cannot be made: {error}", settings.folder.display())))
            }
        };
        let schedule = Schedule::new(now, settings.period, &settings.seed, !stored.is_empty());
        Rc::new(CrlKeeper {
            settings,
            clock,
            schedule: RefCell::new(schedule),
            stored: RefCell::new(Arc::new(stored)),
            fetched_at: Cell::new(None),
            problem: RefCell::new(problem),
            busy: Cell::new(false),
            changed: Cell::new(false),
        })
    }

    /// What it was told.
    pub fn settings(&self) -> &Fetching {
        &self.settings
    }

    /// The lists in store, DER.
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

    /// What is wrong with the file.
    pub fn problem(&self) -> Option<String> {
        self.problem.borrow().clone()
    }

    /// Whether there are other lists than when this was asked last.
    pub fn take_changed(&self) -> bool {
        self.changed.take()
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
        if self.busy.get() || !self.schedule.borrow().is_due(Instant::now()) {
            return;
        }
        self.busy.set(true);
        let keeper = Rc::clone(self);
        tokio::task::spawn_local(async move {
            let (settings, clock, stored) = (keeper.settings.clone(), keeper.clock.clone(), keeper.stored());
            let fetched = tokio::task::spawn_blocking(move || fetch(&settings, clock, &stored)).await;
            let fetched =
                fetched.unwrap_or_else(|_| Err(("the thread that fetches it failed".to_owned(), None)));
            keeper.handle_fetched(fetched);
            keeper.busy.set(false);
        });
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
                    *self.stored.borrow_mut() = Arc::new(lists);
                    *self.problem.borrow_mut() = None;
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

fn file(settings: &Fetching) -> AtomicFile<'static> {
    AtomicFile::new(settings.side.file(), FILE_MAX, 0o600).with_copy()
}

fn take_up(settings: &Fetching) -> (Vec<Vec<u8>>, Option<String>) {
    let folder = OnDisk::new(&settings.folder);
    let (file, mut problem) = (file(settings), None);
    let retrieved = file.read(&folder, parse);
    if !retrieved.is_new() && !retrieved.defects.is_empty() {
        let defects: Vec<String> = retrieved.defects.iter().map(ToString::to_string).collect();
        if let Err(error) = file.mend(&folder, &retrieved) {
            problem = Some(format!("{} and cannot be put in order: {error}", defects.join("; ")));
        }
    }
    (retrieved.value.unwrap_or_default(), problem)
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
    let Some(lists) = revocation::judge(&body, &anchors, stored).map_err(plain)? else { return Ok(None) };
    keep(settings, &lists).map_err(|error| plain(format!("the list cannot be kept: {error}")))?;
    Ok(Some(lists))
}

fn keep(settings: &Fetching, lists: &[Vec<u8>]) -> io::Result<()> {
    create_directory(&settings.folder)?;
    let mut bytes = Vec::new();
    lists.iter().for_each(|list| pem::encode(LABEL, list, &mut bytes));
    file(settings).write(&OnDisk::new(&settings.folder), &bytes)
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
