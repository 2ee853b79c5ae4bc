//! One certificate on disk: the one in use, the one that is being tried, and the one before.
//!
//! ```text
//! {state-dir}/certificates/NAME/
//!   current.pem     in use: chain and key in one file, with a copy
//!   candidate.pem   staged: issued and valid, not yet proven
//!   previous.pem    the one before, for 24 h
//!   request.pem     a key and its signing request, until the answer to it is staged
//!   state           what was tried, and what happened lately; with a copy
//! ```
//!
//! Each is an [atomic file](crate::durable::atomic_file), 0600. Chain and key cannot be of two
//! certificates, because they are in one file.
//!
//! | at the moment of a power cut | what is in use afterwards |
//! |---|---|
//! | the candidate is being written | the old one; the candidate is there whole or not at all |
//! | it is being proven | the old one; the candidate is tried again |
//! | commit: the old one is being written as previous | the old one |
//! | commit: the candidate is being written as current | the old or the new one, whole |
//! | commit: the candidate is being removed | the new one |
//! | the one before is being proven again | the old one; what was to be tried is forgotten |
//! | rollback without a proof | the old or the new one, whole |
//!
//! The copy of `current.pem` is written after it; damage to one costs nothing. If both are damaged,
//! `previous.pem` takes their place. What the disk does not give (EIO) is not damage: then nothing
//! is written over it.

use std::fmt::Write as _;
use std::io;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer, PrivateKeyDer};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::candidate::{BYTES_MAX, CHAIN_MAX};
use super::decision::History;
use super::leaf::Leaf;
use super::renewal::{CLOSES_MAX, Kept, REFUSALS, Refusals, failures_after, refused_in_use};
use super::request;
use crate::clock::UnixTime;
use crate::durable::atomic_file::{AtomicFile, Retrieved, name_before, sweep};
use crate::durable::folder::StateFolder;
use crate::northbound::token_key::{self, TokenKey};

/// The file with the chain and the key in use.
pub const CURRENT: &str = "current.pem";
/// The file with those being proven.
pub const CANDIDATE: &str = "candidate.pem";
/// The file with those before.
pub const PREVIOUS: &str = "previous.pem";
const REQUEST: &str = "request.pem";
const STATE: &str = "state";
/// Longest file.
const FILE_MAX: u64 = 2 * BYTES_MAX as u64 + 32 * 1024;
/// What is said of files that were damaged.
pub const SET_ASIDE: &str = "files of it were damaged and are set aside";
/// Names of files that were set aside, told at most.
const NAMED_MAX: usize = 16;
/// Events kept.
const EVENTS_MAX: usize = 64;
/// Characters kept of one.
const EVENT_LENGTH: usize = 300;
/// For so long the certificate before can be taken back.
pub const KEPT_MS: u64 = 86_400_000;

/// What precedes the checksum of a file's other lines.
const SUM: &str = "tombolo crc32c ";

/// A chain and its key.
#[derive(Clone)]
pub struct Held {
    /// The chain, leaf first, DER.
    pub chain: Vec<Vec<u8>>,
    /// The private key, PKCS#8 DER or as it was installed, or a reference to one in a token.
    pub key: Arc<Zeroizing<Vec<u8>>>,
    /// The first certificate, read.
    pub leaf: Leaf,
}

impl std::fmt::Debug for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Held({})", self.leaf.serial_text())
    }
}

impl PartialEq for Held {
    fn eq(&self, other: &Held) -> bool {
        self.chain == other.chain && self.key == other.key
    }
}

impl Held {
    /// A chain and its key, which belong together.
    ///
    /// # Errors
    /// What is wrong with them, in half a sentence.
    pub fn new(chain: Vec<Vec<u8>>, key: Arc<Zeroizing<Vec<u8>>>) -> Result<Held, String> {
        let first = chain.first().ok_or("it has no certificate")?;
        if chain.len() > CHAIN_MAX {
            return Err(format!("it has more than {CHAIN_MAX} certificates"));
        }
        let leaf = Leaf::parse(first).ok_or("its certificate cannot be read")?;
        let public = request::public_key(&key).map_err(|error| error.to_string())?;
        match public == leaf.key {
            true => Ok(Held { chain, key, leaf }),
            false => Err("its key does not belong to its certificate".to_owned()),
        }
    }

    /// A number that another chain or key does not have, for comparisons within this process.
    pub fn print(&self) -> u64 {
        use std::hash::{DefaultHasher, Hash as _, Hasher as _};
        let mut hasher = DefaultHasher::new();
        (&self.chain, &self.key[..]).hash(&mut hasher);
        hasher.finish()
    }

    fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        let mut text = Zeroizing::new(String::with_capacity(FILE_MAX as usize));
        self.chain.iter().for_each(|der| push_pem(&mut text, "CERTIFICATE", der));
        push_pem(&mut text, key_label(&self.key), &self.key);
        sealed(&text)
    }

    /// Reads the content of such a file.
    ///
    /// # Errors
    /// What is wrong with it, in half a sentence.
    pub fn parse(bytes: &[u8]) -> Result<Held, String> {
        let bytes = unsealed(bytes)?;
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(bytes).collect();
        let chain = chain.map_err(|_| "its certificates cannot be read")?;
        let key = key_in(bytes)?;
        Held::new(chain.into_iter().map(|der| der.to_vec()).collect(), key)
    }
}

/// A key and the request for it.
#[derive(Clone, PartialEq, Eq)]
pub struct Pending {
    /// The private key, PKCS#8 DER.
    pub key: Arc<Zeroizing<Vec<u8>>>,
    /// The request, PKCS#10 DER.
    pub csr: Vec<u8>,
}

impl std::fmt::Debug for Pending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pending")
    }
}

impl Pending {
    fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        let mut text = Zeroizing::new(String::with_capacity(32 * 1024));
        push_pem(&mut text, "CERTIFICATE REQUEST", &self.csr);
        push_pem(&mut text, key_label(&self.key), &self.key);
        sealed(&text)
    }

    fn parse(bytes: &[u8]) -> Result<Pending, String> {
        let bytes = unsealed(bytes)?;
        let csr = CertificateSigningRequestDer::from_pem_slice(bytes).map_err(|_| "it has no request")?;
        let key = key_in(bytes)?;
        Ok(Pending { key, csr: csr.to_vec() })
    }

    /// The request in PEM.
    pub fn csr_pem(&self) -> String {
        let mut text = String::new();
        push_pem(&mut text, "CERTIFICATE REQUEST", &self.csr);
        text
    }
}

/// The key of a file, or what refers to it.
fn key_in(bytes: &[u8]) -> Result<Arc<Zeroizing<Vec<u8>>>, String> {
    let key = match TokenKey::from_pem(bytes) {
        Some(reference) => reference.to_bytes(),
        None => {
            let key = PrivateKeyDer::from_pem_slice(bytes).map_err(|_| "it has no key")?;
            key.secret_der().to_vec()
        }
    };
    Ok(Arc::new(Zeroizing::new(key)))
}

/// The label of a key in PEM, by its form.
fn key_label(der: &[u8]) -> &'static str {
    if TokenKey::parse(der).is_some() {
        return token_key::LABEL;
    }
    match PrivateKeyDer::try_from(der) {
        Ok(PrivateKeyDer::Pkcs1(_)) => "RSA PRIVATE KEY",
        Ok(PrivateKeyDer::Sec1(_)) => "EC PRIVATE KEY",
        _ => "PRIVATE KEY",
    }
}

fn push_pem(text: &mut String, label: &str, der: &[u8]) {
    let encoded = Zeroizing::new(STANDARD.encode(der));
    let _ = writeln!(text, "-----BEGIN {label}-----");
    for line in encoded.as_bytes().chunks(64) {
        text.push_str(std::str::from_utf8(line).unwrap_or_default());
        text.push('\n');
    }
    let _ = writeln!(text, "-----END {label}-----");
}

/// A chain as PEM.
pub fn chain_pem(chain: &[Vec<u8>]) -> String {
    let mut text = String::new();
    chain.iter().for_each(|der| push_pem(&mut text, "CERTIFICATE", der));
    text
}

pub(super) fn sealed(text: &str) -> Zeroizing<Vec<u8>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(text.len() + 32));
    bytes.extend(format!("{SUM}{:08x}\n", crc32c::crc32c(text.as_bytes())).into_bytes());
    bytes.extend_from_slice(text.as_bytes());
    bytes
}

pub(super) fn unsealed(bytes: &[u8]) -> Result<&[u8], String> {
    let end = bytes.iter().position(|byte| *byte == b'\n').ok_or("it is cut short")?;
    let sum = bytes[..end].strip_prefix(SUM.as_bytes()).ok_or("it does not begin as it should")?;
    let rest = &bytes[end + 1..];
    match format!("{:08x}", crc32c::crc32c(rest)).as_bytes() == sum {
        true => Ok(rest),
        false => Err("its checksum is wrong".to_owned()),
    }
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// When, RFC 3339; `None`: the clock was not trusted.
    pub at: Option<String>,
    /// What, one line.
    pub what: String,
}

/// What is kept beside the certificates.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct State {
    version: u8,
    /// When the present certificate came into use, ms since 1970.
    pub obtained: Option<u64>,
    /// Whether a connection was made with it since.
    pub confirmed: bool,
    /// When one was asked for last.
    pub last_attempt: Option<u64>,
    /// How often in a row that failed.
    pub failures: u32,
    /// What it failed with.
    pub last_error: Option<String>,
    /// The serial number of the certificate that this is about; another one may have come into use
    /// in the moment before a power cut.
    pub of: Option<String>,
    /// A new one is wanted before it is due.
    pub asked: bool,
    /// As if it were the first.
    pub enroll_asked: bool,
    /// How often the one before came into use because the newer one was refused.
    pub returns: u32,
    /// Since when the present one is accepted after that, ms since 1970.
    pub accepted_since: Option<u64>,
    /// How often in a row the peer refused the present one.
    pub refusals: u32,
    /// How often it closed the connection before CONNACK, and said nothing.
    pub closes: u32,
    /// What it said last.
    pub refused_because: String,
    /// That was that it has expired.
    pub refused_as_expired: bool,
    /// How often it closed on the candidate.
    pub candidate_closes: u32,
    /// Turns of the candidate and the present one.
    pub alternations: u32,
    /// What happened lately, oldest first.
    pub events: Vec<Entry>,
}

const VERSION: u8 = 1;

impl State {
    /// What the renewal goes on from.
    pub fn kept(&self) -> Kept {
        Kept {
            history: History {
                obtained: self.obtained.map(UnixTime),
                last_attempt: self.last_attempt.map(UnixTime),
                failures: self.failures,
                asked: self.asked,
                ..History::default()
            },
            last_error: self.last_error.clone(),
            confirmed: self.confirmed,
            enroll_asked: self.enroll_asked,
            returns: self.returns,
            accepted_since: self.accepted_since.map(UnixTime),
            refusals: Refusals {
                times: self.refusals,
                closes: self.closes,
                why: self.refused_because.clone(),
                as_expired: self.refused_as_expired,
            },
            closes: self.candidate_closes,
            alternations: self.alternations,
        }
    }

    /// Takes what the renewal knows, about the certificate with the serial number `of`.
    pub fn keep(&mut self, kept: Kept, of: Option<String>) {
        let events = std::mem::take(&mut self.events);
        let Kept { history, refusals, .. } = kept;
        *self = State {
            version: VERSION,
            obtained: history.obtained.map(|time| time.0),
            confirmed: kept.confirmed,
            last_attempt: history.last_attempt.map(|time| time.0),
            failures: history.failures,
            last_error: kept.last_error.map(|what| cut(&what)),
            of,
            asked: history.asked,
            enroll_asked: kept.enroll_asked,
            returns: kept.returns,
            accepted_since: kept.accepted_since.map(|time| time.0),
            refusals: refusals.times,
            closes: refusals.closes,
            refused_because: cut(&refusals.why),
            refused_as_expired: refusals.as_expired,
            candidate_closes: kept.closes,
            alternations: kept.alternations,
            events,
        };
    }

    /// Another certificate than the one it was about is in use: a commit was done, and what came of
    /// it could not be kept any more.
    fn settle(&mut self, current: Option<&Held>, previous: Option<&Held>) {
        let serial = current.map(|held| held.leaf.serial_text());
        if self.of.is_none() || self.of == serial {
            return;
        }
        let was_refused = self.refusals >= REFUSALS || self.closes >= CLOSES_MAX;
        let begin = |held: Option<&Held>| held.map(|held| held.leaf.validity.not_before);
        let is_return = was_refused
            && previous.is_some_and(|held| Some(held.leaf.serial_text()) == self.of)
            && begin(current) <= begin(previous);
        let mut settled = State { version: VERSION, of: serial, returns: self.returns, ..State::default() };
        if is_return {
            settled.returns = settled.returns.saturating_add(1);
            (settled.asked, settled.failures) = (true, failures_after(settled.returns));
            settled.last_attempt = self.last_attempt;
            settled.last_error = Some(cut(&refused_in_use(&self.refused_because)));
        }
        settled.events = std::mem::take(&mut self.events);
        *self = settled;
    }

    fn parse(bytes: &[u8]) -> Result<State, String> {
        let state: State = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        match state.version {
            VERSION => Ok(state),
            other => Err(format!("it is of version {other}")),
        }
    }
}

/// The files of one certificate.
pub struct Store<F> {
    folder: F,
    current: Option<Held>,
    candidate: Option<Held>,
    previous: Option<Held>,
    pending: Option<Pending>,
    state: State,
    /// What is wrong with the files.
    problems: Vec<String>,
}

const fn pem(name: &'static str) -> AtomicFile<'static> {
    AtomicFile::new(name, FILE_MAX, 0o600)
}

const CURRENT_FILE: AtomicFile<'static> = pem(CURRENT).with_copy();
const STATE_FILE: AtomicFile<'static> = AtomicFile::new(STATE, 256 * 1024, 0o600).with_copy();

impl<F: StateFolder> Store<F> {
    /// Reads what is there, and puts in order what a power cut left. What cannot be put in order is
    /// a problem, not an error.
    pub fn open(folder: F) -> Store<F> {
        let mut problems = Vec::new();
        let current = take(&folder, CURRENT_FILE, Held::parse, &mut problems);
        let previous = take(&folder, pem(PREVIOUS), Held::parse, &mut problems);
        let candidate = take(&folder, pem(CANDIDATE), Held::parse, &mut problems);
        let pending = take(&folder, pem(REQUEST), Pending::parse, &mut problems);
        let state = take(&folder, STATE_FILE, State::parse, &mut problems);
        for name in [CURRENT, PREVIOUS, CANDIDATE, REQUEST, STATE] {
            // What a writer left that was killed; it is in nobody's way.
            let _ = sweep(&folder, name);
        }
        let mut store = Store {
            folder,
            current: current.value,
            candidate: candidate.value,
            previous: previous.value,
            pending: pending.value,
            state: state.value.unwrap_or(State { version: VERSION, ..State::default() }),
            problems,
        };
        if store.current.is_none() && current.may_be_replaced {
            store.restore();
        }
        if store.candidate.is_some() && store.candidate == store.current {
            // The commit was done but for its end.
            store.finish_commit();
        } else if store.candidate.is_some() && store.candidate == store.previous {
            // It was to be taken back; that begins anew where it is wanted.
            let _ = store.discard();
        }
        let Store { state, current, previous, .. } = &mut store;
        state.settle(current.as_ref(), previous.as_ref());
        store
    }

    /// Nothing else is left: the certificate before is in use again.
    fn restore(&mut self) {
        let Some(previous) = self.previous.clone() else { return };
        match CURRENT_FILE.write(&self.folder, &previous.to_bytes()) {
            Ok(()) => {
                self.problems.push(format!("{CURRENT} was lost: the certificate before is in use again"))
            }
            Err(error) => self.problems.push(format!("{CURRENT} cannot be written: {error}")),
        }
        self.current = Some(previous);
    }

    /// The one in use.
    pub fn current(&self) -> Option<&Held> {
        self.current.as_ref()
    }

    /// The one that is being proven.
    pub fn candidate(&self) -> Option<&Held> {
        self.candidate.as_ref()
    }

    /// The one before.
    pub fn previous(&self) -> Option<&Held> {
        self.previous.as_ref()
    }

    /// The request that is open.
    pub fn pending(&self) -> Option<&Pending> {
        self.pending.as_ref()
    }

    /// What was tried, and what happened lately.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// What is wrong with the files, one sentence each.
    pub fn problems(&self) -> &[String] {
        &self.problems
    }

    /// The names under which damaged files were set aside, now or earlier. They stay until the
    /// next certificate comes into use or somebody removes them.
    pub fn set_aside(&self) -> Vec<String> {
        let names = self.folder.names().unwrap_or_default();
        let mut aside: Vec<String> =
            names.into_iter().filter(|name| name_before(name).is_some()).take(NAMED_MAX).collect();
        aside.sort();
        aside
    }

    /// Keeps a key and its request, before the request leaves.
    ///
    /// # Errors
    /// As the system says; then there is no request.
    pub fn keep_request(&mut self, pending: Pending) -> io::Result<()> {
        pem(REQUEST).write(&self.folder, &pending.to_bytes())?;
        self.pending = Some(pending);
        Ok(())
    }

    /// Forgets the request: the next has a new key.
    pub fn drop_request(&mut self) {
        if self.pending.take().is_some() {
            // One that stays is used once more, which does no harm.
            let _ = self.folder.remove(REQUEST).and_then(|()| self.folder.sync_names());
        }
    }

    /// Keeps a chain and its key as the candidate, in place of an earlier one.
    ///
    /// # Errors
    /// As the system says; the one in use is untouched.
    pub fn stage(&mut self, held: Held) -> io::Result<()> {
        pem(CANDIDATE).write(&self.folder, &held.to_bytes())?;
        self.candidate = Some(held);
        Ok(())
    }

    /// Keeps the one before as the candidate, too. False: there is none before.
    ///
    /// # Errors
    /// As the system says; the one in use is untouched.
    pub fn stage_previous(&mut self) -> io::Result<bool> {
        let Some(previous) = self.previous.clone() else { return Ok(false) };
        self.stage(previous)?;
        Ok(true)
    }

    /// Gives the candidate up.
    ///
    /// # Errors
    /// As the system says; it would be tried again after a restart.
    pub fn discard(&mut self) -> io::Result<()> {
        self.candidate = None;
        self.folder.remove(CANDIDATE)?;
        self.folder.sync_names()
    }

    /// Puts the candidate in the place of the one in use, which becomes the one before. Without a
    /// candidate nothing happens.
    ///
    /// # Errors
    /// As the system says. Then the old or the new one is in use, whole, and calling this again is
    /// safe.
    pub fn commit(&mut self, now: Option<UnixTime>) -> io::Result<()> {
        let Some(candidate) = self.candidate.clone() else { return Ok(()) };
        if let Some(current) = &self.current {
            named(PREVIOUS, pem(PREVIOUS).write(&self.folder, &current.to_bytes()))?;
            self.previous = Some(current.clone());
        }
        named(CURRENT, CURRENT_FILE.write(&self.folder, &candidate.to_bytes()))?;
        self.current = Some(candidate);
        self.state.obtained = now.map(|now| now.0);
        (self.state.confirmed, self.state.failures) = (false, 0);
        (self.state.last_attempt, self.state.last_error) = (None, None);
        self.finish_commit();
        self.problems.clear();
        for name in self.set_aside() {
            // A folder stays, and is named until somebody looks at it.
            let _ = self.folder.remove(&name);
        }
        Ok(())
    }

    /// What is left over does no harm: it is recognised at the next start.
    fn finish_commit(&mut self) {
        self.candidate = None;
        let removed = self.folder.remove(CANDIDATE);
        let key = self.current.as_ref().map(|current| &current.key);
        // The request of another key still waits for its answer.
        let removed = match self.pending.take_if(|pending| Some(&pending.key) == key) {
            Some(_) => removed.and_then(|()| self.folder.remove(REQUEST)),
            None => removed,
        };
        let _ = removed.and_then(|()| self.folder.sync_names());
    }

    /// Takes the certificate before into use again; the present one becomes the one before. False:
    /// there is none before.
    ///
    /// # Errors
    /// As the system says. Then the old or the new one is in use, whole.
    pub fn roll_back(&mut self, now: Option<UnixTime>) -> io::Result<bool> {
        let (Some(previous), current) = (self.previous.clone(), self.current.clone()) else {
            return Ok(false);
        };
        named(CURRENT, CURRENT_FILE.write(&self.folder, &previous.to_bytes()))?;
        self.current = Some(previous);
        self.previous = None;
        self.state.obtained = now.map(|now| now.0);
        if let Some(current) = current {
            named(PREVIOUS, pem(PREVIOUS).write(&self.folder, &current.to_bytes()))?;
            self.previous = Some(current);
        }
        Ok(true)
    }

    /// Puts the file of the one in use in order if it is gone or damaged: it is known here. False:
    /// nothing was wrong.
    ///
    /// # Errors
    /// As the system says. What the disk does not give is not written over.
    pub fn restore_current(&mut self) -> io::Result<bool> {
        let Some(current) = &self.current else { return Ok(false) };
        let retrieved = CURRENT_FILE.read(&self.folder, Held::parse);
        let is_whole = retrieved.value.is_some();
        if is_whole && retrieved.defects.is_empty() {
            return Ok(false);
        }
        CURRENT_FILE.mend(&self.folder, &retrieved)?;
        if !is_whole && retrieved.may_be_replaced() {
            CURRENT_FILE.write(&self.folder, &current.to_bytes())?;
        }
        Ok(true)
    }

    /// Removes the certificate before, a day after the present one came into use and a connection
    /// was made with it.
    pub fn forget_previous(&mut self, now: UnixTime) {
        let obtained = self.state.obtained.unwrap_or(u64::MAX);
        if self.previous.is_some() && self.state.confirmed && now.0.saturating_sub(KEPT_MS) >= obtained {
            self.previous = None;
            let _ = self.folder.remove(PREVIOUS).and_then(|()| self.folder.sync_names());
        }
    }

    /// Changes what is kept beside the certificates.
    ///
    /// # Errors
    /// As the system says; it is known until the next restart.
    pub fn change(&mut self, change: impl FnOnce(&mut State)) -> io::Result<()> {
        let before = self.state.clone();
        change(&mut self.state);
        if self.state == before {
            return Ok(());
        }
        let surplus = self.state.events.len().saturating_sub(EVENTS_MAX);
        self.state.events.drain(..surplus);
        self.state.events.iter_mut().for_each(|entry| entry.what = cut(&entry.what));
        self.keep_state()
    }

    /// Writes what is kept beside the certificates once more.
    ///
    /// # Errors
    /// As the system says; it is known until the next restart.
    pub fn keep_state(&self) -> io::Result<()> {
        let bytes = serde_json::to_vec(&self.state)?;
        named(STATE, STATE_FILE.write(&self.folder, &bytes))
    }
}

/// No longer than is kept of an event.
fn cut(text: &str) -> String {
    text.chars().take(EVENT_LENGTH).collect()
}

/// The error, with the file it is about.
fn named(name: &str, written: io::Result<()>) -> io::Result<()> {
    written.map_err(|error| io::Error::new(error.kind(), format!("{name} cannot be written: {error}")))
}

struct Taken<T> {
    value: Option<T>,
    may_be_replaced: bool,
}

fn take<T>(
    folder: &impl StateFolder,
    file: AtomicFile<'_>,
    parse: impl Fn(&[u8]) -> Result<T, String>,
    problems: &mut Vec<String>,
) -> Taken<T> {
    let retrieved: Retrieved<T> = file.read(folder, parse);
    let may_be_replaced = retrieved.may_be_replaced();
    if !retrieved.is_new() {
        problems.extend(retrieved.defects.iter().filter(|d| !is_missing_copy(d)).map(ToString::to_string));
        if let Err(error) = file.mend(folder, &retrieved) {
            problems.push(format!("what is damaged cannot be put in order: {error}"));
        }
    }
    Taken { value: retrieved.value, may_be_replaced }
}

/// The copy is written after the file; a power cut between the two is no problem.
fn is_missing_copy(defect: &crate::durable::atomic_file::Defect) -> bool {
    use crate::durable::atomic_file::Condition;
    defect.condition == Condition::Missing && defect.name.ends_with(".copy")
}
