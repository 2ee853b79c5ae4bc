//! What goes over serial lines, for whoever watches a port: nothing is made or kept while nobody
//! does.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;

/// How many pieces are held for watchers that are behind; the oldest go first.
pub const BACKLOG: usize = 256;

/// One piece of what went over a line, or what happened to the port.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Traced {
    /// The port.
    pub port: String,
    /// RFC 3339; the clock as it stands, believed or not.
    pub at: String,
    /// Milliseconds of `CLOCK_BOOTTIME`: right whatever the clock is.
    pub boottime_ms: u64,
    /// `in`, `out`, or `port` for what happened to it.
    pub direction: String,
    /// The bytes, in hexadecimal.
    pub hex: String,
    /// What happened.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event: Option<String>,
}

/// The ports' end. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Trace {
    sender: broadcast::Sender<Arc<Traced>>,
    watchers: Arc<AtomicUsize>,
}

impl Default for Trace {
    fn default() -> Trace {
        Trace { sender: broadcast::Sender::new(BACKLOG), watchers: Arc::new(AtomicUsize::new(0)) }
    }
}

impl Trace {
    /// Whether anybody watches any port.
    pub fn is_watched(&self) -> bool {
        self.watchers.load(Ordering::Relaxed) > 0
    }

    /// Shows a piece to all who watch its port. Never blocks.
    pub fn push(&self, traced: Traced) {
        if self.is_watched() {
            let _ = self.sender.send(Arc::new(traced));
        }
    }

    /// Watches a port from now on.
    pub fn watch(&self, port: String) -> TraceWatcher {
        self.watchers.fetch_add(1, Ordering::Relaxed);
        TraceWatcher { receiver: self.sender.subscribe(), port, watchers: Arc::clone(&self.watchers) }
    }
}

/// A watcher's end.
#[derive(Debug)]
pub struct TraceWatcher {
    receiver: broadcast::Receiver<Arc<Traced>>,
    port: String,
    watchers: Arc<AtomicUsize>,
}

impl TraceWatcher {
    /// The next piece of the port watched, or how many pieces of any port were missed; `None` when
    /// the daemon ends.
    pub async fn next(&mut self) -> Option<Result<Arc<Traced>, u64>> {
        loop {
            match self.receiver.recv().await {
                Ok(traced) if traced.port == self.port => return Some(Ok(traced)),
                Ok(_) => {}
                Err(broadcast::error::RecvError::Lagged(count)) => return Some(Err(count)),
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }
}

impl Drop for TraceWatcher {
    fn drop(&mut self) {
        self.watchers.fetch_sub(1, Ordering::Relaxed);
    }
}
