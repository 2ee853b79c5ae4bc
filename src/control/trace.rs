//! The stream of bytes on serial lines for watchers. Without a watcher nothing is built or stored.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;

/// Most pieces kept for slow watchers; the oldest are dropped first.
pub const BACKLOG: usize = 256;

/// A piece of the bytes on a line, or an event of the port.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Traced {
    /// The port's name.
    pub port: String,
    /// RFC 3339 time of the clock, trusted or not.
    pub at: String,
    /// Milliseconds of `CLOCK_BOOTTIME`, which does not depend on the clock.
    pub boottime_ms: u64,
    /// `in`, `out`, or `port` for an event of the port.
    pub direction: String,
    /// The bytes, in hexadecimal.
    pub hex: String,
    /// The event of the port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event: Option<String>,
}

/// The sending end, for the ports. Cheap to clone.
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
    /// Whether there is a watcher of any port.
    pub fn is_watched(&self) -> bool {
        self.watchers.load(Ordering::Relaxed) > 0
    }

    /// Sends a piece to all watchers. Never blocks.
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

/// The receiving end of a watcher.
#[derive(Debug)]
pub struct TraceWatcher {
    receiver: broadcast::Receiver<Arc<Traced>>,
    port: String,
    watchers: Arc<AtomicUsize>,
}

impl TraceWatcher {
    /// The next piece of the watched port, or the number of missed pieces of any port; `None` if
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
