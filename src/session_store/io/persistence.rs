//! DTLS sessions from one process to the next: resumed before READY, stored when they are
//! established, deleted when they end, handed over at a stop.
//!
//! | moment | what happens |
//! |---|---|
//! | start | the handover file is read and deleted, whether or not it can be used; the store is opened and locked; the sessions of both are resumed |
//! | a handshake is completed | at the end of the round the session is sealed and passed to the store's thread |
//! | a session ends | at the end of the round its number is passed to the store's thread, which deletes it |
//! | a device was sent the alert that its stored session is over | the same |
//! | clean stop | sessions that can be resumed are handed over or stay in the store, and no alert is sent; the others are closed |
//!
//! docs/session-store.md describes the state after a crash at any of these moments.

use std::path::{Path, PathBuf};
use std::time::Instant;

use super::{OpenError, Opened, Status, Store, clear, leave_handover, take_handover};
use crate::proto::dtls::server::export::{ImportError, Origin, Purpose, StoreKey};
use crate::proto::dtls::{Engine, SessionId, Sink};
use crate::session_store::frame::CONTENT_MAX;
use crate::session_store::session_numbers::SessionNumbers;
use crate::session_store::{Kept, Number};

/// A disk call may take so long before the store counts as stuck.
const STUCK: std::time::Duration = std::time::Duration::from_secs(120);

/// The sessions that outlive the process.
#[derive(Default)]
pub enum SessionPersistence {
    /// Not wanted, or the engine in use cannot.
    #[default]
    Off,
    /// Wanted, and not to be had: why.
    Failed(String),
    /// There.
    Open(Box<OpenStore>),
}

/// The store in use.
pub struct OpenStore {
    store: Store,
    key: StoreKey,
    numbers: SessionNumbers,
    runtime_dir: PathBuf,
    boot: Option<[u8; 16]>,
    restored: u64,
    handed_over: u64,
    refused: u64,
    ended: u64,
}

/// The sessions found at start, to be resumed.
#[derive(Default)]
pub struct FoundSessions {
    handed: Vec<(Number, Vec<u8>)>,
    kept: Vec<Kept>,
    run: u32,
}

/// How the store stands, and what became of the sessions found at the start.
#[derive(Clone, Debug, Default)]
pub struct SessionStoreView {
    /// Whether sessions are to outlive the process.
    pub is_wanted: bool,
    /// The store as of the last commit.
    pub store: Status,
    /// Sessions resumed.
    pub restored: u64,
    /// Of these, those that went on exactly where they were.
    pub handed_over: u64,
    /// Sessions not resumed.
    pub refused: u64,
    /// Sessions not resumed, but kept so that their devices can be sent a fatal alert.
    pub ended: u64,
    /// Why nothing is stored at present; `None` = it is.
    pub failing: Option<String>,
}

impl SessionPersistence {
    /// Opens the store, or empties it if it is not wanted. Never an error: without it devices
    /// handshake again. `boot` is the kernel's boot id: without one there is no handover.
    pub fn open(
        directory: &Path,
        runtime_dir: &Path,
        boot: Option<[u8; 16]>,
        is_wanted: bool,
    ) -> (SessionPersistence, FoundSessions) {
        // Taken even if the store cannot be opened: a later start must not find it, because the
        // sessions have gone on since.
        let handed = take_handover(runtime_dir, boot.as_ref());
        if !is_wanted {
            if let Err(error) = clear(directory) {
                log::warn!(reason:% = error; "the store of DTLS sessions cannot be emptied");
            }
            return (SessionPersistence::Off, FoundSessions::default());
        }
        match Store::open(directory) {
            Ok(Opened { store, key, kept, run, next, report, key_defect }) => {
                if let Some(reason) = key_defect {
                    log::warn!(reason = reason.as_str(); "the store of DTLS sessions has a new key; all devices must handshake again");
                }
                if report.damaged > 0 {
                    log::warn!(bytes = report.damaged; "the store of DTLS sessions is damaged; its undamaged parts are used");
                }
                if let Some((major, name)) = report.moved_aside {
                    log::warn!(major, file = name.as_str(); "the store of DTLS sessions has another version and was moved aside");
                }
                // Nobody has these numbers in the log: they are given anew.
                let next =
                    handed.iter().map(|(number, _)| number.saturating_add(1)).max().unwrap_or(1).max(next);
                let numbers = SessionNumbers::new(next);
                let store = OpenStore {
                    store,
                    key,
                    numbers,
                    runtime_dir: runtime_dir.to_path_buf(),
                    boot,
                    restored: 0,
                    handed_over: 0,
                    refused: 0,
                    ended: 0,
                };
                (SessionPersistence::Open(Box::new(store)), FoundSessions { handed, kept, run })
            }
            Err(error) => {
                log::warn!(reason:% = error; "DTLS sessions are not stored; after a restart devices must handshake again");
                let reason = match error {
                    OpenError::InUse(_) => "another process has the store".to_owned(),
                    other => other.to_string(),
                };
                (SessionPersistence::Failed(reason), FoundSessions::default())
            }
        }
    }

    /// As `status` shows it.
    pub fn view(&self, now: Instant) -> SessionStoreView {
        match self {
            SessionPersistence::Off => SessionStoreView::default(),
            SessionPersistence::Failed(reason) => SessionStoreView {
                is_wanted: true,
                failing: Some(reason.clone()),
                ..SessionStoreView::default()
            },
            SessionPersistence::Open(open) => {
                let store = open.store.status();
                let failing = trouble(&store, now);
                SessionStoreView {
                    is_wanted: true,
                    store,
                    restored: open.restored,
                    handed_over: open.handed_over,
                    refused: open.refused,
                    ended: open.ended,
                    failing,
                }
            }
        }
    }

    /// The number of a session in the store; `None`: it is not stored, or not yet.
    pub fn number(&self, session: SessionId) -> Option<Number> {
        match self {
            SessionPersistence::Open(open) => open.numbers.number(session),
            SessionPersistence::Off | SessionPersistence::Failed(_) => None,
        }
    }

    /// Whether sessions are stored.
    pub fn is_open(&self) -> bool {
        matches!(self, SessionPersistence::Open(_))
    }

    /// Resumes the sessions that were found.
    pub fn restore(
        &mut self,
        now: Instant,
        found: FoundSessions,
        engine: &mut dyn Engine,
        sink: &mut dyn Sink,
    ) {
        if let SessionPersistence::Open(open) = self {
            open.restore(now, found, engine, sink);
        }
    }

    /// Hands over what a round has brought; both lists are empty afterwards.
    pub fn follow(
        &mut self,
        now: Instant,
        closed: &mut Vec<SessionId>,
        established: &mut Vec<SessionId>,
        engine: &mut dyn Engine,
    ) {
        match self {
            SessionPersistence::Open(open) if !(closed.is_empty() && established.is_empty()) => {
                open.follow(now, closed, established, engine);
            }
            _ => {
                closed.clear();
                established.clear();
            }
        }
    }

    /// The last thing done with the sessions. Where they are kept they stay as they are, silently;
    /// all others get a close_notify. `in_order`: no fault was the cause, so that what is in memory
    /// can be believed.
    pub fn leave(&mut self, now: Instant, in_order: bool, engine: &mut dyn Engine, sink: &mut dyn Sink) {
        let SessionPersistence::Open(open) = self else {
            return engine.close_all(now, sink);
        };
        if in_order {
            for session in open.leave(now, engine) {
                engine.close(now, session, sink);
            }
        }
    }

    /// Writes what there is. Takes as long as the disk takes.
    pub fn close(&mut self) {
        if let SessionPersistence::Open(open) = self {
            open.store.close();
        }
    }
}

/// Why nothing is stored at present.
fn trouble(status: &Status, now: Instant) -> Option<String> {
    let stuck = status.busy_since.is_some_and(|since| now.saturating_duration_since(since) > STUCK);
    status.trouble.clone().or_else(|| stuck.then(|| "the disk does not answer".to_owned()))
}

impl OpenStore {
    /// Resumes the sessions that were found, as far as the engine has room.
    fn restore(&mut self, now: Instant, found: FoundSessions, engine: &mut dyn Engine, sink: &mut dyn Sink) {
        let FoundSessions { handed, kept, run } = found;
        let mut taken = std::collections::HashSet::new();
        let known: std::collections::HashSet<Number> = kept.iter().map(|kept| kept.number).collect();
        let mut reasons: std::collections::BTreeMap<String, u64> = Default::default();
        for (number, sealed) in handed {
            match engine.import(now, &self.key, &sealed, Origin::Handover, sink) {
                Ok(session) => {
                    // Otherwise the engine only sends its device a fatal alert.
                    let goes_on = engine.session(session).is_some();
                    self.restored += u64::from(goes_on);
                    self.handed_over += u64::from(goes_on);
                    self.ended += u64::from(!goes_on);
                    if known.contains(&number) {
                        self.numbers.restored(session, number);
                        taken.insert(number);
                    } else {
                        self.keep(now, session, engine);
                    }
                }
                // What is only damaged may still be in the store.
                Err(ImportError::Damaged | ImportError::OtherVersion(_) | ImportError::OtherPurpose)
                    if known.contains(&number) => {}
                // What is refused is not taken from there either: that copy is older, and knows
                // less.
                Err(refusal) => {
                    self.refused += 1;
                    *reasons.entry(refusal.to_string()).or_default() += 1;
                    if known.contains(&number) {
                        self.numbers.refused(number);
                        taken.insert(number);
                    }
                }
            }
        }
        for Kept { number, run: made, sealed } in kept {
            if taken.contains(&number) {
                continue;
            }
            let origin = Origin::Store { runs: run.saturating_sub(made) };
            match engine.import(now, &self.key, &sealed, origin, sink) {
                Ok(session) => {
                    let goes_on = engine.session(session).is_some();
                    self.restored += u64::from(goes_on);
                    self.ended += u64::from(!goes_on);
                    self.numbers.restored(session, number);
                }
                Err(refusal) => {
                    self.refused += 1;
                    *reasons.entry(refusal.to_string()).or_default() += 1;
                    self.numbers.refused(number);
                }
            }
        }
        for (reason, sessions) in reasons {
            log::info!(sessions, reason = reason.as_str(); "DTLS sessions not resumed; their devices must handshake again");
        }
        if let Some(batch) = self.numbers.batch() {
            self.store.submit(batch);
        }
        if self.ended > 0 {
            log::info!(sessions = self.ended; "DTLS sessions that cannot be resumed; their devices will be told to handshake again");
        }
        if self.restored > 0 {
            log::info!(sessions = self.restored, lossless = self.handed_over; "DTLS sessions resumed");
        }
    }

    fn keep(&mut self, now: Instant, session: SessionId, engine: &mut dyn Engine) {
        if let Some(sealed) = engine.export(now, &self.key, session, Purpose::Store) {
            self.numbers.established(session, sealed);
        }
    }

    fn follow(
        &mut self,
        now: Instant,
        closed: &mut Vec<SessionId>,
        established: &mut Vec<SessionId>,
        engine: &mut dyn Engine,
    ) {
        // In this order: a session that took the place of another is written after the other's end.
        closed.drain(..).for_each(|session| self.numbers.closed(session));
        established.drain(..).for_each(|session| self.keep(now, session, engine));
        if let Some(batch) = self.numbers.batch() {
            self.store.submit(batch);
        }
    }

    /// Leaves all sessions to the next process. Those that cannot go on come back, to be ended.
    fn leave(&mut self, now: Instant, engine: &mut dyn Engine) -> Vec<SessionId> {
        let mut sessions = Vec::new();
        engine.sessions(&mut |info| sessions.push(info.session));
        let (mut handed, mut lost, mut unstored) = (Vec::new(), Vec::new(), Vec::new());
        // What has a number need not be on a disk that fails.
        let fails = trouble(&self.store.status(), now).is_some();
        for session in sessions {
            let number = self.numbers.number(session);
            let is_lost = number.is_none() || fails;
            let sealed = engine.export(now, &self.key, session, Purpose::Handover);
            match sealed.filter(|sealed| sealed.len() <= CONTENT_MAX) {
                Some(sealed) => handed.push((number.unwrap_or(0), sealed)),
                // If it is stored, the next process takes it over from there, or sends its device a
                // fatal alert.
                None => lost.extend(is_lost.then_some(session)),
            }
            unstored.extend(is_lost.then_some(session));
        }
        let boot = self.boot.as_ref();
        match boot.map_or(Ok(false), |boot| leave_handover(&self.runtime_dir, boot, &handed)) {
            Ok(true) => {
                log::debug!(sessions = handed.len(); "DTLS sessions handed over");
                return lost;
            }
            Ok(false) => log::debug!("runtime-dir is not in memory: DTLS sessions are not handed over"),
            Err(error) => log::info!(reason:% = error; "DTLS sessions are not handed over"),
        }
        // These include those that are lost.
        unstored
    }
}
