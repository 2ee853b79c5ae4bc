//! What systemd is told: READY, RELOADING, STOPPING, one truthful STATUS line, and the watchdog's
//! sign of life.

use std::time::Duration;

use sd_notify::NotifyState;

/// The connection to the service manager; does nothing when there is none.
#[derive(Debug, Default)]
pub struct Notify {
    last: String,
}

impl Notify {
    /// The journal is open and the listeners are bound.
    pub fn ready(&mut self, status: &str) {
        self.last = status.to_owned();
        tell(&[NotifyState::Ready, NotifyState::Status(status)]);
    }

    /// A reload begins. It ends with [`Notify::ready`], whether it was taken or refused.
    pub fn reloading(&mut self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => tell(&[NotifyState::Reloading, now]),
            Err(_) => tell(&[NotifyState::Reloading]),
        }
    }

    /// A stop begins.
    pub fn stopping(&mut self) {
        tell(&[NotifyState::Stopping, NotifyState::Status("stopping: the last readings go to disk")]);
    }

    /// The line `systemctl status` shows; sent only when it changed.
    pub fn status(&mut self, status: &str) {
        if self.last != status {
            self.last = status.to_owned();
            tell(&[NotifyState::Status(status)]);
        }
    }

    /// Every stage has answered.
    pub fn alive(&self) {
        tell(&[NotifyState::Watchdog]);
    }

    /// How often systemd wants a sign of life, if at all.
    pub fn watchdog() -> Option<Duration> {
        sd_notify::watchdog_enabled()
    }
}

/// How often systemd is asked for more time at the start, and how much.
const STARTING_EVERY: Duration = Duration::from_secs(10);
const STARTING_TIME: Duration = Duration::from_secs(60);

/// Does something at the start that may take long on a slow disk: systemd's `TimeoutStartSec`
/// begins anew as long as it goes on.
pub fn while_starting<T>(act: impl FnOnce() -> T) -> T {
    let (done, ended) = std::sync::mpsc::channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            while ended.recv_timeout(STARTING_EVERY) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                let time = u32::try_from(STARTING_TIME.as_micros()).unwrap_or(u32::MAX);
                tell(&[NotifyState::ExtendTimeoutUsec(time), NotifyState::Status("opening the journal")]);
            }
        });
        let result = act();
        drop(done);
        result
    })
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        log::debug!(reason:% = error; "the service manager cannot be told");
    }
}
