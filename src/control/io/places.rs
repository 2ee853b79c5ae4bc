//! How many connections and requests the control socket serves at once, by what they are for.
//!
//! | place | at most | when all are taken |
//! |---|---|---|
//! | connections | [`CONNECTIONS_MAX`], [`RESERVED`] of them for root and the daemon's user | the one that has been without a request the longest is closed; if there is none: `busy` |
//! | `tail` | [`TAILS_MAX`] | `busy` |
//! | `trace`, `serial trace` | [`TRACES_MAX`] | `busy` |
//! | `device test` | [`TESTS_MAX`] | `busy` |
//! | `send` | [`SENDS_MAX`] | `busy` |
//! | requests that wait for the disk or the network | [`SLOW_MAX`] | `busy` |
//!
//! The last five together leave places for short requests, so that `status` and `reload` are
//! answered whatever is streamed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use crate::control::protocol::{Code, Failure, Request};

/// Most connections at once.
pub const CONNECTIONS_MAX: usize = 64;
/// Connections that only root and the daemon's user may take.
pub const RESERVED: usize = 8;
/// Most `tail`s at once.
pub const TAILS_MAX: usize = 16;
/// Most traces at once, of traffic and of serial ports together.
pub const TRACES_MAX: usize = 8;
/// Most steps of `device test` at once.
pub const TESTS_MAX: usize = 8;
/// Most commands of `send` that are waited for at once.
pub const SENDS_MAX: usize = 4;
/// Most requests at once that wait for the disk or the network.
pub const SLOW_MAX: usize = 16;

const _: () = assert!(TAILS_MAX + TRACES_MAX + TESTS_MAX + SENDS_MAX + SLOW_MAX + RESERVED < CONNECTIONS_MAX);

/// All places of a socket.
#[derive(Debug)]
pub struct Places {
    connections: Arc<Semaphore>,
    tails: Arc<Semaphore>,
    traces: Arc<Semaphore>,
    tests: Arc<Semaphore>,
    sends: Arc<Semaphore>,
    slow: Arc<Semaphore>,
    idle: Mutex<Idle>,
}

/// Connections without a request, the one that has waited longest first.
#[derive(Debug, Default)]
struct Idle {
    next: u64,
    waiting: BTreeMap<u64, (OwnedSemaphorePermit, Arc<Notify>)>,
}

/// The place of a connection that waits for a request; dropping it gives the place back.
#[derive(Debug)]
pub struct Waiting {
    places: Arc<Places>,
    number: u64,
    /// Notified when the place was given to another connection.
    pub gone: Arc<Notify>,
}

impl Waiting {
    /// The place back, to serve a request; `None`: another connection has it.
    pub fn take(self) -> Option<OwnedSemaphorePermit> {
        self.places.idle().waiting.remove(&self.number).map(|(place, _)| place)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.places.idle().waiting.remove(&self.number);
    }
}

impl Places {
    /// All are free.
    pub fn new() -> Arc<Places> {
        let of = |count| Arc::new(Semaphore::new(count));
        Arc::new(Places {
            connections: of(CONNECTIONS_MAX),
            tails: of(TAILS_MAX),
            traces: of(TRACES_MAX),
            tests: of(TESTS_MAX),
            sends: of(SENDS_MAX),
            slow: of(SLOW_MAX),
            idle: Mutex::default(),
        })
    }

    fn idle(&self) -> MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a new connection; if all are taken, that of the connection which has waited
    /// longest without a request.
    ///
    /// # Errors
    /// [`Code::Busy`]: all connections have a request in progress.
    pub fn connect(&self, is_privileged: bool) -> Result<OwnedSemaphorePermit, Failure> {
        let left_for_root = if is_privileged { 0 } else { RESERVED };
        if self.connections.available_permits() > left_for_root
            && let Ok(place) = Arc::clone(&self.connections).try_acquire_owned()
        {
            return Ok(place);
        }
        match self.idle().waiting.pop_first() {
            Some((_, (place, gone))) => {
                gone.notify_one();
                Ok(place)
            }
            None => {
                let connections = CONNECTIONS_MAX - left_for_root;
                let text = format!("the gateway serves {connections} control connections already; try again");
                Err(Failure::new(Code::Busy, text))
            }
        }
    }

    /// Leaves the place of a connection until its next request.
    pub fn wait(self: &Arc<Places>, place: OwnedSemaphorePermit) -> Waiting {
        let gone = Arc::new(Notify::new());
        let mut idle = self.idle();
        let number = idle.next;
        idle.next += 1;
        idle.waiting.insert(number, (place, Arc::clone(&gone)));
        drop(idle);
        Waiting { places: Arc::clone(self), number, gone }
    }

    /// The place that a request needs while it is served; `None`: it needs none.
    ///
    /// # Errors
    /// [`Code::Busy`], with what to end.
    pub fn serve(&self, request: &Request) -> Result<Option<OwnedSemaphorePermit>, Failure> {
        let (semaphore, text) = match request {
            Request::Tail { .. } => {
                (&self.tails, format!("{TAILS_MAX} tails are open already; end one of them"))
            }
            Request::TrafficTrace { .. } | Request::SerialTrace { .. } => {
                (&self.traces, format!("{TRACES_MAX} traces are open already; end one of them"))
            }
            Request::DeviceTest { .. } | Request::DeviceTestDelivery { .. } => {
                (&self.tests, format!("{TESTS_MAX} device tests are in progress already; try again"))
            }
            Request::Send { .. } => {
                (&self.sends, format!("{SENDS_MAX} commands are waited for already; try again"))
            }
            Request::Queue {}
            | Request::RejectedList { .. }
            | Request::RejectedExport { .. }
            | Request::QueueSkip { .. }
            | Request::RejectedRetry { .. }
            | Request::RejectedDrop { .. }
            | Request::QueueImport { .. }
            | Request::Usage { .. }
            | Request::Reload {}
            | Request::ConfigCheck {}
            | Request::UplinkCheck {}
            | Request::UplinkReadings { .. }
            | Request::ClockTrust {}
            | Request::ClockReset {}
            | Request::CertRenew { .. }
            | Request::CertEnroll { .. }
            | Request::CertCsr { .. }
            | Request::CertInstall { .. }
            | Request::CertProbe { .. }
            | Request::UpdateCheck {}
            | Request::UpdateDownload {}
            | Request::UpdateHistory {}
            | Request::UpdateHold { .. }
            | Request::UpdateDeny { .. }
            | Request::UpdateAllow { .. }
            | Request::CertRollback { .. } => (
                &self.slow,
                format!(
                    "{SLOW_MAX} requests that wait for the disk or the network are in progress already; try again"
                ),
            ),
            Request::Status {}
            | Request::Sessions { .. }
            | Request::Devices { .. }
            | Request::AclExplain { .. }
            | Request::SecurityReport {}
            | Request::Clock {}
            | Request::CertStatus {}
            | Request::CertHistory { .. }
            | Request::Health {}
            | Request::UplinkHurry {}
            | Request::UplinkBeside { .. }
            | Request::UpdateStatus {}
            | Request::UpdateDevices { .. }
            | Request::MailboxList { .. }
            | Request::MailboxShow { .. }
            | Request::MailboxDrop { .. }
            | Request::SerialRelearn { .. } => return Ok(None),
        };
        let place = Arc::clone(semaphore).try_acquire_owned();
        place.map(Some).map_err(|_| Failure::new(Code::Busy, text))
    }
}
