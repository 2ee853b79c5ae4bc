//! Ends the time in which a device has two pre-shared keys: when it has used the new one, or when
//! that time is over.
//!
//! The device's file in the registry is written, off the path's thread, and a reload takes it up:
//! its sessions of the key before are closed then. If the file cannot be written, both keys stay
//! in use, which is a problem in `status`, and it is tried again every minute.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use crate::config::registry::io::promote_psk;
use crate::gate::Gate;
use crate::message::Name;
use crate::proto::dtls::server::Clock;

/// How often the ends are looked at, and a write that failed is tried again.
const EVERY: Duration = Duration::from_secs(60);

/// What is under way.
#[derive(Default)]
pub struct Rekeying {
    /// Devices whose file is to be written.
    due: BTreeSet<Name>,
    looked_at: Option<Instant>,
    writing: Option<Receiver<Written>>,
    failing: Option<String>,
}

/// What became of the files: whether one was changed, the ids that failed, and why.
struct Written {
    is_changed: bool,
    failed: Vec<(Name, String)>,
}

impl Rekeying {
    /// Once a second. Returns whether a reload is to take up changed files.
    pub fn care(&mut self, now: Instant, clock: Clock, gate: &mut Gate, directory: PathBuf) -> bool {
        let mut is_changed = false;
        if let Some(written) = self.writing.as_ref().and_then(|writing| writing.try_recv().ok()) {
            self.writing = None;
            is_changed = written.is_changed;
            let failing = written.failed.first().map(|(id, why)| {
                format!("device {id}: the key before the new one is still taken: {why}; it is tried again")
            });
            if let Some(text) = failing.as_ref().filter(|text| self.failing.as_ref() != Some(text)) {
                log::error!("{text}");
            }
            self.failing = failing;
            self.due.extend(written.failed.into_iter().map(|(id, _)| id));
        }
        let mut is_new = false;
        while let Some(id) = gate.poll_next_psk_used() {
            log::info!(device = id.as_str(), key = "psk", audit = "new-key-used"; "a new key was used for the first time");
            is_new |= self.due.insert(id);
        }
        let is_time = self.looked_at.is_none_or(|at| now.saturating_duration_since(at) >= EVERY);
        if is_time {
            self.looked_at = Some(now);
            self.due.extend(gate.overlaps().filter(|(_, end)| *end <= clock.time).map(|(id, _)| id.clone()));
        }
        if self.writing.is_none() && !self.due.is_empty() && (is_new || is_time) {
            let ids = std::mem::take(&mut self.due);
            let (sender, receiver) = channel();
            tokio::task::spawn_blocking(move || {
                let mut written = Written { is_changed: false, failed: Vec::new() };
                for id in ids {
                    match promote_psk(&directory, id.as_str()) {
                        Ok(changed) => {
                            written.is_changed |= changed;
                            log::info!(device = id.as_str(); "its new pre-shared key has replaced the one before");
                        }
                        Err(finding) => written.failed.push((id, finding.message)),
                    }
                }
                // Nobody waits at the stop.
                let _ = sender.send(written);
            });
            self.writing = Some(receiver);
        }
        is_changed
    }

    /// Why a key stays in use.
    pub fn problem(&self) -> Option<&str> {
        self.failing.as_deref()
    }
}
