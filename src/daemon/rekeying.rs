//! Ends the time in which a device has two pre-shared keys: when it has used the new one, or when
//! that time is over.
//!
//! The device's file in the registry is written, off the path's thread, and a reload takes it up:
//! its sessions of the key before are closed then. If the file cannot be written, both keys stay
//! in use, which is a problem in `status`. The first of these files is tried again every few
//! seconds, and all of them once it can be written, or every minute. A key that was replaced by
//! other means is no problem any more. At the stop it is tried once more; after a kill, or if it
//! fails then, the next use of the key is the first one.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use crate::config::Loaded;
use crate::config::registry::io::promote_psk;
use crate::config::registry::{OverlapEnd, Promoted, Registry};
use crate::gate::{Gate, NextPsk, NextPskUsed};
use crate::message::Name;
use crate::proto::dtls::server::Clock;

/// How often the ends are looked at, and all writes that failed are tried again.
const EVERY: Duration = Duration::from_secs(60);
/// How often one of them is, to see whether it can be done again.
const TRIED_EVERY: Duration = Duration::from_secs(5);

/// Files that are written at the stop at most.
const AT_STOP: usize = 100;
/// How long those that are being written are waited for at the stop.
const PATIENCE: Duration = Duration::from_secs(1);

/// Devices whose file is to be written, and why.
type Due = BTreeMap<Name, OverlapEnd>;

/// What is under way.
#[derive(Default)]
pub struct Rekeying {
    /// What is to be written as soon as nothing else is.
    due: Due,
    /// What failed, and waits.
    failed: Due,
    looked_at: Option<Instant>,
    tried_at: Option<Instant>,
    writing: Option<(Due, Receiver<Written>)>,
    /// Why the file of a device could not be written, until it is or need not be.
    failing: BTreeMap<Name, String>,
    /// The registry by which [`Rekeying::drop_settled`] judged what is in `failed` and `failing`.
    judged: Option<Arc<Registry>>,
}

/// What became of the files: whether one was changed, the ids that failed, and why.
struct Written {
    is_changed: bool,
    failed: Vec<(Name, String)>,
}

impl Rekeying {
    /// Once a second. Returns whether a reload is to take up changed files.
    pub fn care(&mut self, now: Instant, clock: Clock, gate: &mut Gate, loaded: &Loaded) -> bool {
        let is_changed = self.look_at_written(Duration::ZERO);
        while let Some(used) = gate.poll_next_psk_used() {
            self.note_used(used, loaded);
        }
        if self.looked_at.is_none_or(|at| now.saturating_duration_since(at) >= EVERY) {
            self.looked_at = Some(now);
            self.try_failed();
            let over = gate.overlaps().filter(|(_, until)| *until <= clock.time);
            for (id, _) in over {
                self.due.entry(id.clone()).or_insert(OverlapEnd::Over { now: clock.time });
            }
        }
        self.drop_settled(loaded);
        let is_time = self.tried_at.is_none_or(|at| now.saturating_duration_since(at) >= TRIED_EVERY);
        if self.writing.is_none()
            && self.due.is_empty()
            && is_time
            && let Some((id, end)) = self.failed.pop_first()
        {
            self.due.insert(id, end);
        }
        if self.writing.is_none() && !self.due.is_empty() {
            self.tried_at = Some(now);
            let due = std::mem::take(&mut self.due);
            let (sender, receiver) = channel();
            let (directory, to_write) = (loaded.settings.paths.devices(), due.clone());
            tokio::task::spawn_blocking(move || {
                // Nobody may wait any more at the stop.
                let _ = sender.send(write(&directory, to_write));
            });
            self.writing = Some((due, receiver));
        }
        is_changed
    }

    /// Has all that failed tried again.
    fn try_failed(&mut self) {
        for (id, end) in std::mem::take(&mut self.failed) {
            self.due.entry(id).or_insert(end);
        }
    }

    /// Leaves out what failed and is no matter any more: the device is gone, or has other keys.
    fn drop_settled(&mut self, loaded: &Loaded) {
        if self.failing.is_empty()
            || self.judged.as_ref().is_some_and(|judged| Arc::ptr_eq(judged, &loaded.registry))
        {
            return;
        }
        self.judged = Some(Arc::clone(&loaded.registry));
        let is_open = |id: &Name, end: &OverlapEnd| {
            let entry = loaded.registry.entry(id.as_str());
            entry.is_some_and(|entry| entry.clone().promote_psk(end, None) != Promoted::Nothing)
        };
        self.failed.retain(|id, end| is_open(id, end));
        let writing = self.writing.as_ref().map(|(due, _)| due);
        let is_pending = |id: &Name| {
            let of = [Some(&self.failed), Some(&self.due), writing];
            of.into_iter().flatten().any(|due| due.get(id).is_some_and(|end| is_open(id, end)))
        };
        self.failing.retain(|id, _| is_pending(id));
    }

    /// At the stop, when nothing is received any more: of what a device has used, its file tells
    /// the next start. What is under way is waited for a moment; of more than [`AT_STOP`] devices,
    /// and where a file cannot be written, both keys stay.
    pub fn close(&mut self, gate: &mut Gate, loaded: &Loaded) {
        while let Some(used) = gate.poll_next_psk_used() {
            self.note_used(used, loaded);
        }
        self.look_at_written(PATIENCE);
        let due = std::mem::take(&mut self.failed).into_iter().chain(std::mem::take(&mut self.due));
        let used = due.filter(|(_, end)| matches!(end, OverlapEnd::Used { .. })).take(AT_STOP).collect();
        for (id, why) in write(&loaded.settings.paths.devices(), used).failed {
            log::error!("{}", still_taken(&id, &why));
        }
    }

    /// Takes up what became of the files, for which it waits so long. Returns whether one was
    /// changed.
    fn look_at_written(&mut self, patience: Duration) -> bool {
        let Some((_, writing)) = &self.writing else { return false };
        let Ok(written) = writing.recv_timeout(patience) else { return false };
        let (mut due, _) = self.writing.take().unzip();
        let was_tried = due.iter().flatten().map(|(id, _)| id);
        let is_failed = |id: &Name| written.failed.iter().any(|(failed, _)| failed == id);
        let done: Vec<Name> = was_tried.filter(|id| !is_failed(id)).cloned().collect();
        // What could be done for one may be possible for all.
        if done.iter().any(|id| self.failing.remove(id).is_some()) {
            self.try_failed();
        }
        let first = written.failed.first();
        if let Some((id, why)) = first.filter(|(id, why)| self.failing.get(id) != Some(why)) {
            log::error!("{}; it is tried again", still_taken(id, why));
        }
        for (id, why) in written.failed {
            self.judged = None;
            self.failing.insert(id.clone(), why);
            if let Some(end) = due.as_mut().and_then(|due| due.remove(&id)) {
                self.failed.insert(id, end);
            }
        }
        written.is_changed
    }

    fn note_used(&mut self, event: NextPskUsed, loaded: &Loaded) {
        let NextPskUsed { id, used, before } = event;
        // A client that comes again and again is no news.
        if self.ends(&id).any(|end| matches!(end, OverlapEnd::Used { used: known, .. } if *known == used)) {
            return;
        }
        log::info!(device = id.as_str(), key = "psk", audit = "new-key-used"; "a new key was used for the first time");
        let entry = loaded.registry.entry(id.as_str());
        let is_it = |next: &NextPsk| next.psk == used;
        let since = entry
            .filter(|entry| entry.device.next_psk.as_deref().is_some_and(is_it))
            .and_then(|entry| entry.next_psk_since);
        self.failed.remove(&id);
        self.due.insert(id, OverlapEnd::Used { used, before, since });
    }

    /// What is to be done, or is being done, for a device; the newest first.
    fn ends<'s>(&'s self, id: &Name) -> impl Iterator<Item = &'s OverlapEnd> {
        let writing = self.writing.as_ref().and_then(|(due, _)| due.get(id));
        self.due.get(id).into_iter().chain(self.failed.get(id)).chain(writing)
    }

    /// The identity of the new key that a device has used, while its file is not written yet.
    pub fn used<'r>(&'r self, gate: &'r Gate, id: &str) -> Option<&'r [u8]> {
        let name = Name::parse(id).ok()?;
        let pending = self.ends(&name).find_map(|end| match end {
            OverlapEnd::Used { used, .. } => Some(used),
            OverlapEnd::Over { .. } => None,
        });
        gate.next_psk_used(id).or(pending).map(|psk| psk.identity.as_slice())
    }

    /// Why a key stays in use.
    pub fn problem(&self) -> Option<String> {
        let (id, why) = self.failing.first_key_value()?;
        Some(format!("{}; it is tried again", still_taken(id, why)))
    }
}

/// Writes the files of these devices.
fn write(directory: &Path, due: Due) -> Written {
    let mut written = Written { is_changed: false, failed: Vec::new() };
    for (id, end) in due {
        match promote_psk(directory, id.as_str(), &end) {
            Ok(promoted) => {
                written.is_changed |= promoted != Promoted::Nothing;
                tell(&id, promoted);
            }
            Err(finding) => written.failed.push((id, finding.message)),
        }
    }
    written
}

fn still_taken(id: &Name, why: &str) -> String {
    format!("device {id}: the key before the new one is still taken: {why}")
}

/// Logs what became of a device's keys.
fn tell(id: &Name, promoted: Promoted) {
    let device = id.as_str();
    match promoted {
        Promoted::Nothing => {}
        Promoted::Next => log::info!(device; "its new pre-shared key has replaced the one before"),
        Promoted::NewerKept => log::info!(
            device;
            "the new pre-shared key that it has used has replaced the one before; one that was made meanwhile is taken \
             beside it"
        ),
        Promoted::NewerDropped => log::warn!(
            device;
            "the new pre-shared key that it has used has replaced the one before; one that was made meanwhile with the \
             same identity is not taken: make another one with `tombolo device rekey {device} --psk --overlap 7d`"
        ),
    }
}
