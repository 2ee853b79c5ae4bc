//! The state directory's share of the configuration while the daemon runs: its problems, as
//! `status` shows them, and the gateway's id where the disk did not take it, which is tried again
//! off the path's thread.

use std::io;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use crate::config::io::settle;
use crate::config::{Finding, Loaded, Paths, State};

/// From one attempt to write to the next.
const RETRY: Duration = Duration::from_secs(60);

/// See the module.
pub struct StateKeeper {
    paths: Paths,
    state: State,
    tried_at: Instant,
    trying: Option<Receiver<(State, io::Result<()>)>>,
}

impl StateKeeper {
    /// For what was loaded at the start, or by a reload.
    pub fn new(now: Instant, loaded: &Loaded) -> StateKeeper {
        let (paths, state) = (loaded.settings.paths.clone(), loaded.state.clone());
        StateKeeper { paths, state, tried_at: now, trying: None }
    }

    /// What is wrong, one sentence each, with the way out.
    pub fn problems(&self) -> Vec<String> {
        self.state.problems.iter().map(Finding::sentence).collect()
    }

    /// Once a second: tries again what is due. Never waits for the disk.
    pub fn care(&mut self, now: Instant) {
        if let Some((state, outcome)) = self.trying.as_ref().and_then(|trying| trying.try_recv().ok()) {
            self.trying = None;
            if outcome.is_ok() {
                log::info!("the gateway's id is stored");
                self.state = state;
            }
        }
        if self.state.unsettled.is_none()
            || self.trying.is_some()
            || now.saturating_duration_since(self.tried_at) < RETRY
        {
            return;
        }
        self.tried_at = now;
        let (paths, mut state) = (self.paths.clone(), self.state.clone());
        let (sender, receiver) = channel();
        tokio::task::spawn_blocking(move || {
            let outcome = settle(&paths, &mut state);
            // Nobody waits for it after a reload, which has tried for itself.
            let _ = sender.send((state, outcome));
        });
        self.trying = Some(receiver);
    }
}
