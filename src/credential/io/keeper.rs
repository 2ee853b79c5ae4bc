//! One certificate, kept: does what its [`Renewal`] says, one action at a time.
//!
//! It runs on the path's thread. What blocks (keys, files) runs beside it; a source answers in its
//! own time. What `status` shows is a copy, so that a disk that hangs holds nobody up.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "shell")]

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::sync::oneshot;
use zeroize::Zeroizing;

use crate::clock::WallClock;
use crate::credential::candidate::{self, Demands, Expected};
use crate::credential::chain;
use crate::credential::decision::{Clock, Validity};
use crate::credential::leaf::{Leaf, Usage};
use crate::credential::renewal::{
    Action, Event, InPlace, Kept, Refusals, Renewal, StageFault, Standing, Verdict,
};
use crate::credential::request::{self, Names};
use crate::credential::settings::Settings;
use crate::credential::source::{Identity, Order, OrderKind, Outcome, Source};
use crate::credential::store::{
    CANDIDATE, Entry, Held, Pending, Restored, SET_ASIDE, State, Store, WRITTEN_ANEW,
};
use crate::durable::atomic_file::set_aside;
use crate::durable::io::regular;
use crate::durable::io::{OnDisk, create_directory};
use crate::northbound::io::token::{self, Token};
use crate::northbound::settings::TokenSettings;
use crate::northbound::token_key::{ID_LENGTH, TokenKey};
use crate::proto::dtls::server::ServerKey;

/// Greatest file of a bootstrap certificate or key.
const FILE_MAX: u64 = 256 * 1024;

/// How often it is looked whether the certificate before can go.
const LOOK_BACK_EVERY: Duration = Duration::from_secs(600);
/// How often it is looked whether the files are still there; while the peer does not accept us
/// they are read, too, since a connection reads them.
const LOOK_AFTER_EVERY: Duration = Duration::from_secs(10);
/// How often they are read while it does.
const READ_EVERY: Duration = Duration::from_secs(600);
/// So long it is named that files had to be written anew: something removes them.
const NAMED_FOR: Duration = Duration::from_secs(3600);

/// After so long what was tried is written again, where the disk did not take it.
const SAVE_AGAIN: Duration = Duration::from_secs(60);

/// What a file that was damaged is called in a problem of the [`Store`].
const DAMAGED: &str = " is damaged: ";

/// Something that is answered on the same thread.
pub type Local<T> = Pin<Box<dyn Future<Output = T>>>;

/// Who shows whether a certificate is accepted.
pub trait Prover {
    /// Tries this file, chain and key, with the peer. `in_place`: when the connection that stands
    /// may be given up for that.
    fn probe(&self, candidate: &Path, in_place: InPlace) -> Local<Verdict>;

    /// Whether the peer accepts the certificate in use, chain and key in `present`, at this moment.
    fn try_present(&self, present: &Path) -> Local<Verdict> {
        match self.standing() {
            Standing::Accepted => Box::pin(std::future::ready(Verdict::Accepted)),
            // No connection stands that could be given up.
            Standing::Refused | Standing::Unknown => self.probe(present, InPlace::OfClientId),
        }
    }

    /// How the present certificate fares.
    fn standing(&self) -> Standing;

    /// How the peer refused the present certificate since it was accepted.
    fn refusals(&self) -> Refusals {
        Refusals::default()
    }

    /// How many connections there were.
    fn connections(&self) -> u64 {
        0
    }

    /// Connections are made with this file, chain and key, from the next attempt on.
    fn use_file(&self, _: &Path) {}

    /// Another certificate is in use from now on.
    fn handle_committed(&self);

    /// The candidate is given up.
    fn handle_given_up(&self) {}
}

/// What is known of the files, without asking the disk.
#[derive(Clone, Debug, Default)]
pub struct Shown {
    /// The certificate in use.
    pub current: Option<Leaf>,
    /// The candidate.
    pub candidate: Option<Leaf>,
    /// The one before.
    pub previous: Option<Leaf>,
    /// [`Held::print`] of the one in use.
    pub current_print: Option<u64>,
    /// [`Held::print`] of the candidate.
    pub candidate_print: Option<u64>,
    /// What was tried, and what happened lately.
    pub state: State,
    /// What is wrong with the files.
    pub problems: Vec<String>,
    /// Files that were damaged and set aside.
    pub set_aside: Vec<String>,
}

/// One certificate.
pub struct Keeper {
    settings: Settings,
    source: Option<Arc<dyn Source>>,
    prover: Rc<dyn Prover>,
    clock: Arc<dyn WallClock>,
    store: Arc<Mutex<Store<OnDisk>>>,
    renewal: RefCell<Renewal>,
    shown: RefCell<Shown>,
    entries: RefCell<VecDeque<Entry>>,
    /// What was handed to the disk last of what a restart must not forget, and the serial number
    /// that it is about.
    written: RefCell<(Kept, Option<String>)>,
    saving: Cell<bool>,
    /// What was tried cannot be kept: why, and when it is written once more.
    unsaved: RefCell<Option<(String, Instant)>>,
    /// Who waits for the certificate before.
    returning: RefCell<Option<oneshot::Sender<Result<(), String>>>>,
    /// Connections are made with the candidate, since the disk does not take the commit.
    uses_candidate: Cell<bool>,
    /// When the certificate in use came into use, since this process began.
    taken_into_use: Cell<Option<Instant>>,
    /// When the certificate before is looked at next: whether its day is over.
    look_back_at: Cell<Instant>,
    /// When it was looked last whether the files are still there, and when they were read.
    looked_after_at: Cell<Instant>,
    read_at: Cell<Instant>,
    /// They are being looked at.
    looking_after: Cell<bool>,
    /// Files that were gone or damaged while the certificate was in use: what is said of them, and
    /// until when; `None`: until they can be written.
    restored: RefCell<Option<(String, Option<Instant>)>>,
}

impl Keeper {
    /// Takes up what is on disk. It blocks.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub fn open(
        now: Instant,
        settings: Settings,
        source: Option<Arc<dyn Source>>,
        prover: Rc<dyn Prover>,
        clock: Arc<dyn WallClock>,
    ) -> io::Result<Rc<Keeper>> {
        let store = open_store(&settings.folder)?;
        Ok(Keeper::of(now, settings, store, source, prover, clock))
    }

    /// Goes on from what [`open_store`] found.
    pub fn of(
        now: Instant,
        settings: Settings,
        store: Store<OnDisk>,
        source: Option<Arc<dyn Source>>,
        prover: Rc<dyn Prover>,
        clock: Arc<dyn WallClock>,
    ) -> Rc<Keeper> {
        let renewal = Renewal::new(
            now,
            settings.decision(),
            store.current().map(|held| held.leaf.validity),
            store.state().kept(),
            store.candidate().is_some(),
        );
        let shown = shown(&store);
        let certificate = settings.name.as_str();
        for problem in &shown.problems {
            log::warn!(certificate, problem = problem.as_str(); "a file of a certificate was not in order");
        }
        if !shown.set_aside.is_empty() {
            let (files, folder) = (shown.set_aside.join(", "), settings.folder.display());
            log::warn!(certificate, files, folder:% = folder; "damaged files of a certificate are set aside");
        }
        let shown = RefCell::new(shown);
        let written = RefCell::new((store.state().kept(), store.state().of.clone()));
        Rc::new(Keeper {
            settings,
            source,
            prover,
            clock,
            store: Arc::new(Mutex::new(store)),
            renewal: RefCell::new(renewal),
            shown,
            entries: RefCell::default(),
            written,
            saving: Cell::new(false),
            unsaved: RefCell::default(),
            returning: RefCell::default(),
            uses_candidate: Cell::new(false),
            taken_into_use: Cell::new(None),
            look_back_at: Cell::new(now),
            looked_after_at: Cell::new(now),
            read_at: Cell::new(now),
            looking_after: Cell::new(false),
            restored: RefCell::default(),
        })
    }

    /// What it was told.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// What is known of the files.
    pub fn shown(&self) -> Shown {
        self.shown.borrow().clone()
    }

    /// Looks at the renewal.
    pub fn with_renewal<T>(&self, look: impl FnOnce(&Renewal) -> T) -> T {
        look(&self.renewal.borrow())
    }

    /// One word for what is being done.
    pub fn state(&self) -> &'static str {
        self.renewal.borrow().state(self.clock())
    }

    /// After how long the next attempt follows by itself.
    pub fn retry_in(&self) -> Option<Duration> {
        self.renewal.borrow().retry_in(Instant::now(), self.clock())
    }

    /// When the certificate in use came into use, if that was since this process began.
    pub fn taken_into_use(&self) -> Option<Instant> {
        self.taken_into_use.get()
    }

    /// Whether nothing is known against the certificate in use.
    pub fn serves(&self) -> bool {
        self.renewal.borrow().serves(self.clock())
    }

    fn clock(&self) -> Clock {
        Clock { now: self.clock.raw(), trusted: self.clock.trusted() }
    }

    /// Every second or so, and after each answer.
    pub fn care(self: &Rc<Self>) {
        let (clock, standing) = (self.clock(), self.prover.standing());
        let [previous, candidate] = {
            let shown = self.shown.borrow();
            [&shown.previous, &shown.candidate].map(|leaf| leaf.as_ref().map(|leaf| leaf.validity))
        };
        {
            let mut renewal = self.renewal.borrow_mut();
            renewal.handle_files(previous, candidate);
            renewal.handle_refusals(self.prover.refusals());
            renewal.handle_connections(self.prover.connections());
            renewal.handle_timeout(Instant::now(), clock, standing);
        }
        self.pump();
        self.look_back(Instant::now(), standing);
        self.look_after(Instant::now(), standing);
        self.save_again(Instant::now());
    }

    /// What is wrong with the files, one sentence each.
    pub fn problems(&self) -> Vec<String> {
        let unsaved = self.unsaved.borrow();
        let unsaved = unsaved.as_ref().map(|(why, _)| {
            format!("what was tried is not kept over a restart: {why}; it is written again every minute")
        });
        let shown = self.shown.borrow();
        let aside = (!shown.set_aside.is_empty()).then(|| {
            format!(
                "{SET_ASIDE} ({} in {}); a copy or an earlier version is in use, and what was tried before may be forgotten; see \
                 in `dmesg` whether the disk fails, then delete them; the next certificate that comes into use does that too",
                shown.set_aside.join(", "),
                self.settings.folder.display()
            )
        });
        // That they were damaged is said with what became of them.
        let is_known = |problem: &&String| aside.is_some() && problem.contains(DAMAGED);
        let others: Vec<String> = shown.problems.iter().filter(|it| !is_known(it)).cloned().collect();
        let restored = self.restored.borrow();
        let now = Instant::now();
        let is_named = |until: &Option<Instant>| until.is_none_or(|until| now < until);
        let restored = restored.as_ref().filter(|(_, until)| is_named(until)).map(|(what, _)| what.clone());
        others.into_iter().chain(aside).chain(restored).chain(unsaved).collect()
    }

    /// Writes what the disk did not take.
    fn save_again(self: &Rc<Self>, now: Instant) {
        let is_due = self.unsaved.borrow().as_ref().is_some_and(|(_, at)| now >= *at);
        if !is_due || self.saving.replace(true) {
            return;
        }
        let keeper = Rc::clone(self);
        tokio::task::spawn_local(async move {
            let saved = keeper.with_store(|store| store.keep_state().map_err(|error| error.to_string()));
            keeper.note_saved(saved.await);
        });
    }

    fn note_saved(&self, saved: Result<(), String>) {
        let certificate = self.settings.name.as_str();
        if let Err(reason) = &saved
            && self.unsaved.borrow().is_none()
        {
            log::warn!(certificate, reason; "what was tried cannot be kept");
        }
        self.unsaved.replace(saved.err().map(|why| (why, Instant::now() + SAVE_AGAIN)));
        self.saving.set(false);
    }

    /// Restores files if somebody removed or damaged them: what was in them is known here.
    fn look_after(self: &Rc<Self>, now: Instant, standing: Standing) {
        if now.saturating_duration_since(self.looked_after_at.get()) < LOOK_AFTER_EVERY
            || self.looking_after.replace(true)
        {
            return;
        }
        self.looked_after_at.set(now);
        // What was set aside may be gone by now.
        let has_failed = self.restored.borrow().as_ref().is_some_and(|(_, until)| until.is_none());
        let is_quiet =
            standing == Standing::Accepted && self.shown.borrow().set_aside.is_empty() && !has_failed;
        let reads = !is_quiet || now.saturating_duration_since(self.read_at.get()) >= READ_EVERY;
        if reads {
            self.read_at.set(now);
        }
        let keeper = Rc::clone(self);
        tokio::task::spawn_local(async move {
            keeper.restore_files(reads).await;
            keeper.looking_after.set(false);
        });
    }

    /// The last look, before the process ends: it would take with it what no file has.
    pub async fn leave(self: &Rc<Self>) {
        self.restore_files(true).await;
    }

    async fn restore_files(self: &Rc<Self>, reads: bool) {
        let looked = self.with_store(move |store| {
            let wanted = reads || store.lacks_files();
            Ok(if wanted { store.restore_files() } else { Restored::default() })
        });
        let Ok(Restored { written, failed }) = looked.await else { return };
        let certificate = self.settings.name.as_str();
        if !failed.is_empty() {
            let reason = failed.join("; ");
            let what = format!(
                "files of it are gone or damaged, and cannot be written anew ({reason}); it is tried again every 10 s; until \
                 then a restart would lose what was in them"
            );
            let is_known = self.restored.borrow().as_ref().is_some_and(|(known, _)| *known == what);
            if !is_known {
                log::error!(certificate, reason = reason.as_str(); "files of a certificate are gone or damaged, and cannot be written");
            }
            self.restored.replace(Some((what, None)));
        } else if !written.is_empty() {
            let files = written.join(", ");
            log::warn!(certificate, files = files.as_str(); "files of a certificate were gone or damaged, and are written anew");
            let place = self.settings.folder.display();
            self.note(format!("files that were gone or damaged are written anew: {files}"));
            let what = format!(
                "{WRITTEN_ANEW}, and are written anew ({files} in {place}); nothing but the gateway may change them: look for \
                 what does"
            );
            self.restored.replace(Some((what, Some(Instant::now() + NAMED_FOR))));
        } else {
            // Those that could not be written are in order again.
            self.restored.borrow_mut().take_if(|(_, until)| until.is_none());
        }
    }

    /// Removes the certificate before once its day is over and the present one is accepted.
    fn look_back(self: &Rc<Self>, now: Instant, standing: Standing) {
        let may = standing == Standing::Accepted && self.shown.borrow().previous.is_some();
        let wall = self.clock.wall().filter(|_| may);
        let Some(wall) = wall.filter(|_| now >= self.look_back_at.get()) else { return };
        self.look_back_at.set(now + LOOK_BACK_EVERY);
        let keeper = Rc::clone(self);
        tokio::task::spawn_local(async move {
            let looked = keeper.with_store(move |store| {
                store.forget_previous(wall);
                Ok(())
            });
            let _ = looked.await; // what stays is removed another time
        });
    }

    /// Asks for the next certificate now. False: one is on its way.
    pub fn ask(self: &Rc<Self>) -> bool {
        let asked = self.renewal.borrow_mut().ask();
        self.care();
        asked
    }

    /// Takes the enrolment back that a person asked for.
    ///
    /// # Errors
    /// Why that is not possible.
    pub fn cancel_enroll(self: &Rc<Self>) -> Result<(), &'static str> {
        let cancelled = self.renewal.borrow_mut().cancel_enroll();
        self.care();
        cancelled
    }

    /// Asks for a certificate as if it were the first, now. False: one is on its way.
    pub fn ask_enroll(self: &Rc<Self>) -> bool {
        let asked = self.renewal.borrow_mut().ask_enroll();
        self.care();
        asked
    }

    /// The signing request that is open, PEM; one is made if there is none.
    ///
    /// # Errors
    /// The key or the request cannot be made or kept.
    pub async fn csr(self: &Rc<Self>) -> Result<String, String> {
        let settings = self.settings.clone();
        let made = self.with_store(move |store| have_request(store, &settings));
        made.await
    }

    /// Takes a chain that a person brings, PEM, for the open request or for the key in use. It is
    /// judged, stored and proven like one of a source.
    ///
    /// # Errors
    /// What is wrong with it; nothing is changed then.
    pub async fn install(self: &Rc<Self>, pem: String) -> Result<(), String> {
        if pem.contains("PRIVATE KEY-----") {
            return Err("it has a private key; the gateway has made its own, so take it out".to_owned());
        }
        let chain: Result<Vec<_>, _> =
            CertificateDer::pem_slice_iter(pem.as_bytes()).map(|der| der.map(|der| der.to_vec())).collect();
        let chain = chain.map_err(|_| "the certificates cannot be read (PEM is expected)".to_owned())?;
        let (usage, now) = (self.settings.usage, self.clock.wall());
        let name = self.settings.name.clone();
        let mut demands = self.renewal.borrow().demands_by_hand(self.clock());
        self.offered(true, move |store| {
            if chain.is_empty() {
                return Err("it holds no certificate (PEM is expected)".to_owned());
            }
            let of_request = store.pending().map(|pending| pending.key.clone());
            let keys = of_request.into_iter().chain(store.current().map(|held| held.key.clone()));
            // In whatever order the CA put them.
            let ordered = keys.filter_map(|key| {
                let public = request::public_key(&key).ok()?;
                Some((chain::order_for(&public, &chain, &[]).ok()?, key))
            });
            let (chain, key) = ordered.into_iter().next().ok_or_else(|| {
                format!(
                    "its key is neither that of the open request nor that of the certificate in use; `tombolo cert csr \
                     {name}` prints the request"
                )
            })?;
            // The one in use again, with another chain, ends no later.
            if let Some(present) = store.current().filter(|present| present.chain.first() == chain.first()) {
                if present.chain == chain {
                    return Err("it is in use already, with this chain".to_owned());
                }
                demands.longer = false;
            }
            judge_and_stage(store, &chain, &[], usage, (demands, now), key).map_err(|fault| match fault {
                StageFault::Flaw(what) | StageFault::Disk(what) => what,
            })
        })
        .await
    }

    /// Takes a chain and its key that another program has written: stored and proven, not judged by
    /// what was before.
    ///
    /// # Errors
    /// It cannot be stored now.
    pub async fn offer(self: &Rc<Self>, held: Held) -> Result<(), String> {
        self.offered(false, move |store| {
            store.stage(held).map_err(|error| format!("{CANDIDATE} cannot be written: {error}"))
        })
        .await
    }

    async fn offered(
        self: &Rc<Self>,
        is_compared: bool,
        stage: impl FnOnce(&mut Store<OnDisk>) -> Result<(), String> + Send + 'static,
    ) -> Result<(), String> {
        if !self.renewal.borrow().may_be_offered() {
            return Err(format!("another certificate is being proven ({}): try again", self.state()));
        }
        self.with_store(stage).await?;
        self.renewal.borrow_mut().handle_offered(Instant::now(), is_compared);
        self.care();
        Ok(())
    }

    /// The chain and the key in use.
    pub async fn held(self: &Rc<Self>) -> Option<Held> {
        let held = self.with_store(|store| Ok(store.current().cloned()));
        held.await.ok().flatten()
    }

    /// Probes the candidate now. False: there is none that waits for it.
    pub fn ask_probe(self: &Rc<Self>) -> bool {
        let asked = self.renewal.borrow_mut().ask_probe();
        self.care();
        asked
    }

    /// Takes the certificate before into use again, once its dates and its key are in order and a
    /// connection with it is accepted.
    ///
    /// # Errors
    /// There is none, or why it is not taken; then the present one stays in use.
    pub async fn roll_back(self: &Rc<Self>) -> Result<(), String> {
        let (token, now) = (self.settings.token.clone(), self.clock.wall());
        let judged = self.with_store(move |store| {
            let previous = store.previous().ok_or("there is no certificate before this one")?;
            judge_again(previous, token.as_ref(), now)
        });
        judged.await?;
        let (tell, told) = oneshot::channel();
        if !self.renewal.borrow_mut().ask_previous() {
            return Err(format!("something else is under way ({}): try again", self.state()));
        }
        self.returning.replace(Some(tell));
        self.pump();
        told.await.unwrap_or_else(|_| Err("it was not tried".to_owned()))
    }

    /// Takes the certificate before into use again as it is, without a proof.
    ///
    /// # Errors
    /// There is none, or the disk refuses it.
    pub async fn roll_back_unproven(self: &Rc<Self>) -> Result<(), String> {
        if !self.renewal.borrow().may_be_offered() {
            return Err(format!("another certificate is being proven ({}): try again", self.state()));
        }
        let now = self.clock.wall();
        let rolled = self.with_store(move |store| {
            let rolled = store.roll_back(now).map_err(|error| error.to_string())?;
            let waited = rolled && store.candidate().is_some();
            // A restart would bring it into use.
            let discarded = if waited { store.discard() } else { Ok(()) };
            let discarded = discarded.map_err(|error| format!("{CANDIDATE} cannot be removed: {error}"));
            Ok((rolled, waited, discarded, store.current().map(|held| held.leaf.validity)))
        });
        match rolled.await? {
            (false, ..) => Err("there is no certificate before this one".to_owned()),
            (true, waited, discarded, present) => {
                if waited {
                    self.note(Event::Rejected("a person took the one before".to_owned()).to_string());
                    self.prover.handle_given_up();
                }
                if let Err(reason) = discarded {
                    let certificate = self.settings.name.as_str();
                    log::warn!(certificate, reason; "the candidate would be tried again after a restart");
                }
                if self.uses_candidate.take() {
                    self.prover.use_file(&self.settings.current());
                }
                self.renewal.borrow_mut().handle_replaced(Instant::now(), self.clock(), present);
                self.note("the certificate before is in use again".to_owned());
                self.prover.handle_committed();
                self.pump();
                Ok(())
            }
        }
    }

    /// Logs, keeps and does what the renewal says.
    fn pump(self: &Rc<Self>) {
        loop {
            let event = self.renewal.borrow_mut().poll_event();
            let Some(event) = event else { break };
            self.say(&event);
            if matches!(event, Event::Committed | Event::Returned) {
                self.taken_into_use.set(Some(Instant::now()));
                if self.uses_candidate.take() {
                    self.prover.use_file(&self.settings.current());
                }
            }
            let returned = match event {
                Event::Returned => Ok(()),
                Event::NotReturned(why) | Event::Failed(why) => Err(why),
                Event::Committed => {
                    self.prover.handle_committed();
                    Err("another certificate came into use instead".to_owned())
                }
                _ => continue,
            };
            if returned.is_ok() {
                self.prover.handle_committed();
            }
            if let Some(waiting) = self.returning.take() {
                let _ = waiting.send(returned); // whoever waited may be gone
            }
        }
        loop {
            let action = self.renewal.borrow_mut().poll_action();
            let Some(action) = action else { break };
            tokio::task::spawn_local(Rc::clone(self).act(action));
        }
        self.save();
    }

    fn say(&self, event: &Event) {
        let certificate = self.settings.name.as_str();
        match event {
            Event::Expired => log::error!(certificate; "{event}"),
            Event::Failed(_)
            | Event::Rejected(_)
            | Event::Refused(_)
            | Event::EnrollGivenUp
            | Event::FallingBack(_)
            | Event::NotReturned(_) => log::warn!(certificate; "{event}"),
            _ => log::info!(certificate; "{event}"),
        }
        self.note(event.to_string());
    }

    fn note(&self, what: String) {
        let at = self.clock.wall().map(|time| time.to_string());
        self.entries.borrow_mut().push_back(Entry { at, what });
    }

    /// Keeps what was tried and what happened; one save at a time.
    fn save(self: &Rc<Self>) {
        let entries: Vec<Entry> = self.entries.borrow().iter().cloned().collect();
        let kept = self.renewal.borrow().kept();
        let of = self.shown.borrow().current.as_ref().map(Leaf::serial_text);
        let is_known = {
            let written = self.written.borrow();
            (&written.0, &written.1) == (&kept, &of)
        };
        if entries.is_empty() && is_known || self.saving.replace(true) {
            return;
        }
        self.entries.borrow_mut().clear();
        self.written.replace((kept.clone(), of.clone()));
        let keeper = Rc::clone(self);
        tokio::task::spawn_local(async move {
            let saved = keeper.with_store(move |store| {
                let changed = store.change(|state| {
                    state.keep(kept, of);
                    state.events.extend(entries);
                });
                changed.map_err(|error| error.to_string())
            });
            keeper.note_saved(saved.await);
        });
    }

    async fn with_store<T: Send + 'static>(
        self: &Rc<Self>,
        act: impl FnOnce(&mut Store<OnDisk>) -> Result<T, String> + Send + 'static,
    ) -> Result<T, String> {
        let (store, folder) = (Arc::clone(&self.store), self.settings.folder.clone());
        let done = tokio::task::spawn_blocking(move || {
            // Somebody may have removed it; what follows says if it cannot be made.
            let _ = create_folder(&folder);
            let mut store = store.lock().unwrap_or_else(PoisonError::into_inner);
            let result = act(&mut store);
            (result, shown(&store))
        });
        match done.await {
            Ok((result, shown)) => {
                *self.shown.borrow_mut() = shown;
                result
            }
            Err(_) => Err("the thread that works on the files failed".to_owned()),
        }
    }

    async fn act(self: Rc<Self>, action: Action) {
        match action {
            Action::Prepare => {
                let prepared = self.prepare().await;
                self.renewal.borrow_mut().handle_prepared(Instant::now(), self.clock(), prepared);
            }
            Action::Order { kind } => {
                let outcome = self.order(kind).await;
                self.renewal.borrow_mut().handle_outcome(Instant::now(), self.clock(), outcome);
            }
            Action::Stage { chain } => {
                let staged = self.stage(chain).await;
                self.renewal.borrow_mut().handle_staged(Instant::now(), self.clock(), staged);
            }
            Action::StagePrevious => {
                let (token, now) = (self.settings.token.clone(), self.clock.wall());
                let staged = self.with_store(move |store| {
                    let previous = store.previous().ok_or("there is no certificate before this one")?;
                    judge_again(previous, token.as_ref(), now)?;
                    let staged = store.stage_previous();
                    staged.map(|_| ()).map_err(|error| format!("{CANDIDATE} cannot be written: {error}"))
                });
                let staged: Result<(), String> = staged.await;
                let staged = staged.map_err(StageFault::Disk);
                self.renewal.borrow_mut().handle_staged(Instant::now(), self.clock(), staged);
            }
            Action::TryPresent => {
                let verdict = self.prover.try_present(&self.settings.current()).await;
                self.renewal.borrow_mut().handle_present(Instant::now(), self.clock(), verdict);
            }
            Action::Probe { in_place } => {
                let verdict = self.prover.probe(&self.settings.folder.join(CANDIDATE), in_place).await;
                self.renewal.borrow_mut().handle_probed(Instant::now(), self.clock(), verdict);
            }
            Action::Commit => {
                let now = self.clock.wall();
                let committed = self.with_store(move |store| {
                    let committed = store.commit(now).map_err(|error| error.to_string());
                    committed.map(|()| store.current().map(|held| held.leaf.validity))
                });
                let committed: Result<Option<Validity>, String> = committed.await;
                self.renewal.borrow_mut().handle_committed(Instant::now(), self.clock(), committed);
            }
            Action::UseCandidate => {
                self.uses_candidate.set(true);
                self.prover.use_file(&self.settings.folder.join(CANDIDATE));
            }
            Action::Discard => {
                self.prover.handle_given_up();
                let discarded = self.with_store(|store| {
                    store.drop_request();
                    store.discard().map_err(|error| error.to_string())
                });
                if let Err(reason) = discarded.await {
                    let certificate = self.settings.name.as_str();
                    log::warn!(certificate, reason; "the candidate cannot be removed");
                }
            }
            Action::Unstage => {
                self.prover.handle_given_up();
                let discarded = self.with_store(|store| store.discard().map_err(|error| error.to_string()));
                let _ = discarded.await; // one that stays is forgotten at the next start
            }
            Action::Forget => {
                let forgotten = self.with_store(|store| {
                    store.drop_request();
                    Ok(())
                });
                let _ = forgotten.await; // a request that stays is used once more
            }
        }
        self.pump();
    }

    /// Has a key and a request on disk; those that are there are used again.
    async fn prepare(self: &Rc<Self>) -> Result<(), String> {
        if self.source.is_none() {
            return Err("it has no source; `tombolo cert install NAME FILE` installs one by hand".to_owned());
        }
        let settings = self.settings.clone();
        self.with_store(move |store| have_request(store, &settings)).await.map(drop)
    }

    async fn order(self: &Rc<Self>, kind: OrderKind) -> Outcome {
        let Some(source) = self.source.clone() else {
            return Outcome::Failed { cause: "it has no source".to_owned() };
        };
        let (bootstrap, token) = (self.settings.bootstrap.clone(), self.settings.token.clone());
        let made = self.with_store(move |store| {
            let csr = store.pending().map(|pending| pending.csr.clone()).ok_or("the request is gone")?;
            // One for devices may not be for TLS clients.
            let is_client = store.current().is_some_and(|held| held.leaf.allows(Usage::Client));
            let kind = if is_client || bootstrap.is_none() { kind } else { OrderKind::Enroll };
            let identity = match (kind, bootstrap) {
                (OrderKind::Reenroll, _) => store.current().map(|held| identity(held, token)),
                (OrderKind::Enroll, Some((certificate, key))) => Some(read_identity(&certificate, &key)?),
                (OrderKind::Enroll, None) => None,
            };
            Ok((csr, kind, identity))
        });
        match made.await {
            Ok((csr, kind, identity)) => {
                let name = self.settings.name.clone();
                source.order(Order { name, csr, kind, identity }).await
            }
            Err(cause) => Outcome::Failed { cause },
        }
    }

    async fn stage(self: &Rc<Self>, chain: Vec<Vec<u8>>) -> Result<(), StageFault> {
        let offered = match &self.source {
            // What it does not offer does not complete the chain; the chain may be whole.
            Some(source) => source.anchors().await.ok().flatten().unwrap_or_default(),
            None => Vec::new(),
        };
        let (usage, now) = (self.settings.usage, self.clock.wall());
        let demands = self.renewal.borrow().demands(self.clock());
        let staged = self.with_store(move |store| {
            let Some(pending) = store.pending().cloned() else {
                return Ok(Err(StageFault::Flaw("the request is gone".to_owned())));
            };
            Ok(judge_and_stage(store, &chain, &offered, usage, (demands, now), pending.key))
        });
        staged.await.unwrap_or_else(|reason| Err(StageFault::Disk(reason)))
    }
}

/// Opens the files of a certificate; the folder is made. It blocks.
///
/// # Errors
/// The folder cannot be made.
pub fn open_store(folder: &Path) -> io::Result<Store<OnDisk>> {
    create_folder(folder)?;
    Ok(Store::open(OnDisk::new(folder).without_links()))
}

/// What stands there and is no folder is set aside: it holds no certificate.
fn create_folder(folder: &Path) -> io::Result<()> {
    if let Some(above) = folder.parent() {
        create_directory(above)?;
        let in_the_way = std::fs::symlink_metadata(folder).is_ok() && !folder.is_dir();
        if let Some(name) = folder.file_name().and_then(|name| name.to_str()).filter(|_| in_the_way) {
            let aside = set_aside(&OnDisk::new(above), name)?;
            let aside = aside.as_deref().unwrap_or("nothing");
            log::warn!(folder:% = folder.display(), aside; "what is in the place of the folder of a certificate is set aside");
        }
    }
    create_directory(folder)
}

/// Whether a certificate that was in use may be so again. `now`: the time, if it is trusted.
fn judge_again(
    held: &Held,
    token: Option<&TokenSettings>,
    now: Option<crate::clock::UnixTime>,
) -> Result<(), String> {
    let validity = held.leaf.validity;
    if let Some(now) = now {
        if validity.has_expired(now) {
            return Err(format!("the certificate before expired on {}", validity.not_after));
        }
        if validity.not_before > now {
            return Err(format!("the certificate before is not valid before {}", validity.not_before));
        }
    }
    match (TokenKey::parse(&held.key), token) {
        (None, _) => Ok(()),
        (Some(_), None) => {
            Err("the key of the certificate before is in a token, and none is configured".to_owned())
        }
        (Some(key), Some(token)) => token::signing_key(token, key)
            .map(drop)
            .map_err(|why| format!("the key of the certificate before cannot be used: {why}")),
    }
}

fn judge_and_stage(
    store: &mut Store<OnDisk>,
    chain: &[Vec<u8>],
    offered: &[Vec<u8>],
    usage: Usage,
    (demands, now): (Demands, Option<crate::clock::UnixTime>),
    key: Arc<Zeroizing<Vec<u8>>>,
) -> Result<(), StageFault> {
    let flaw = |what: String| StageFault::Flaw(what);
    let public = request::public_key(&key).map_err(|error| flaw(error.to_string()))?;
    let present = store.current().map(|held| held.chain.clone()).unwrap_or_default();
    let expected = Expected { key: &public, present: &present, demands, offered, usage, now };
    let chain = candidate::judge(chain, &expected).map_err(|error| flaw(error.to_string()))?;
    let held = Held::new(chain, key).map_err(flaw)?;
    if usage == Usage::Server {
        server_key(&held).map_err(flaw)?;
    }
    store.stage(held).map_err(|error| StageFault::Disk(format!("{CANDIDATE} cannot be written: {error}")))
}

/// The key towards devices, proven: it signs, and its certificate verifies that.
///
/// # Errors
/// Why a device would refuse it.
pub fn server_key(held: &Held) -> Result<ServerKey, String> {
    let key = ServerKey::new(held.chain.clone(), &held.key).map_err(|error| error.to_string())?;
    key.prove().map_err(|error| error.to_string())?;
    Ok(key)
}

/// The open request in PEM; one is made and kept if there is none.
fn have_request(store: &mut Store<OnDisk>, settings: &Settings) -> Result<String, String> {
    if let Some(pending) = store.pending() {
        return Ok(pending.csr_pem());
    }
    let pending = make_request(store, settings)?;
    let text = pending.csr_pem();
    store.keep_request(pending).map_err(|error| format!("the request cannot be kept: {error}"))?;
    Ok(text)
}

fn make_request(store: &Store<OnDisk>, settings: &Settings) -> Result<Pending, String> {
    let current = store.current();
    let names = current.map_or_else(|| settings.names.clone(), |held| Names::of(&held.leaf));
    // A key that is not where keys are kept now is not used again.
    let stays = |held: &&Held| TokenKey::parse(&held.key).is_some() == settings.token.is_some();
    let reused = current.filter(|_| settings.reuse_key).filter(stays).map(|held| held.key.clone());
    if let Some(token) = &settings.token {
        let key = match reused.as_ref().and_then(|key| TokenKey::parse(key)) {
            Some(key) => key,
            None => make_in_token(store, settings, token)?,
        };
        let signer = token::signing_key(token, key.clone())?;
        let csr = request::make_by(&*signer, &names).map_err(|error| error.to_string())?;
        return Ok(Pending { key: Arc::new(Zeroizing::new(key.to_bytes())), csr });
    }
    let key = match reused {
        Some(key) => key,
        None => {
            let key = rcgen::KeyPair::generate().map_err(|error| format!("no key can be made: {error}"))?;
            Arc::new(Zeroizing::new(key.serialize_der()))
        }
    };
    let csr = request::make(&key, &names).map_err(|error| error.to_string())?;
    Ok(Pending { key, csr })
}

/// A new key in the token. Those that no file refers to any more go first, so that a token is never
/// full of them.
fn make_in_token(store: &Store<OnDisk>, settings: &Settings, of: &TokenSettings) -> Result<TokenKey, String> {
    let (token, label) = (Token::of(of)?, settings.token_label());
    let held = [store.current(), store.candidate(), store.previous()];
    let held = held.into_iter().flatten().filter_map(|held| TokenKey::parse(&held.key));
    let removed = token.keep(&label, held.map(|key| key.id).collect());
    if let Err(reason) = removed {
        log::warn!(certificate = settings.name.as_str(), reason; "keys that are not used any more stay in the token");
    }
    let mut id = [0; ID_LENGTH];
    aws_lc_rs::rand::fill(&mut id).map_err(|_| "no random numbers".to_owned())?;
    token.generate(&label, id)
}

fn identity(held: &Held, token: Option<TokenSettings>) -> Identity {
    Identity { chain: held.chain.clone(), key: held.key.clone(), token }
}

/// The bootstrap certificate and its key.
fn read_identity(certificate: &Path, key: &Path) -> Result<Identity, String> {
    let chain: Result<Vec<_>, _> =
        CertificateDer::pem_slice_iter(&read(certificate)?).map(|der| der.map(|der| der.to_vec())).collect();
    let chain = chain.map_err(|_| format!("{}: the certificates cannot be read", certificate.display()))?;
    if chain.is_empty() {
        return Err(format!("{}: holds no certificate (PEM is expected)", certificate.display()));
    }
    let secret = read(key)?;
    let secret = PrivateKeyDer::from_pem_slice(&secret)
        .map_err(|_| format!("{}: holds no private key (PEM is expected)", key.display()))?;
    Ok(Identity { chain, key: Arc::new(Zeroizing::new(secret.secret_der().to_vec())), token: None })
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
    regular::read(path, FILE_MAX).map(Zeroizing::new).map_err(|fault| match fault {
        regular::Fault::TooLarge(_) => {
            format!("{}: is too large for a certificate or key", path.display())
        }
        other => format!("{}: {other}", path.display()),
    })
}

fn shown(store: &Store<OnDisk>) -> Shown {
    Shown {
        current: store.current().map(|held| held.leaf.clone()),
        candidate: store.candidate().map(|held| held.leaf.clone()),
        previous: store.previous().map(|held| held.leaf.clone()),
        current_print: store.current().map(Held::print),
        candidate_print: store.candidate().map(Held::print),
        state: store.state().clone(),
        problems: store.problems().to_vec(),
        set_aside: store.set_aside(),
    }
}

#[cfg(test)]
mod tests;
