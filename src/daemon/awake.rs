//! The daemon's thread: whether it was there all the time to read what came on a serial line.
//!
//! | what | how it is known |
//! |---|---|
//! | one task holds the thread | the runtime says when the thread waits for events, and rounds of the hub say when they are over |
//! | the process was stopped and goes on | SIGCONT |
//! | it was frozen (`systemctl freeze`) | the tick of a second is late |

use std::cell::{Cell, RefCell};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::southbound::serial::awake::Awake;

/// What nothing says the length of: longer than any pause between messages.
const LONG: Duration = Duration::from_secs(3600);
/// The daemon's tick.
pub const TICK: Duration = Duration::from_secs(1);

thread_local! {
    static AWAKE: Cell<Option<Awake>> = const { Cell::new(None) };
    static CONTINUED: RefCell<Option<Signal>> = const { RefCell::new(None) };
    static TICKED: Cell<Option<Instant>> = const { Cell::new(None) };
}

fn with(act: impl FnOnce(&mut Awake, Instant)) {
    let now = Instant::now();
    let mut awake = AWAKE.get().unwrap_or_else(|| Awake::new(now));
    act(&mut awake, now);
    AWAKE.set(Some(awake));
}

/// Listens for SIGCONT; within the runtime.
pub fn listen() {
    // Without it the tick tells of all stops but short ones.
    let listener = signal(SignalKind::from_raw(nix::libc::SIGCONT)).ok();
    CONTINUED.with_borrow_mut(|continued| *continued = listener);
}

/// The thread begins to wait for events.
pub fn parks() {
    with(Awake::parks);
}

/// Events came.
pub fn woken() {
    with(Awake::woken);
}

/// A task has done a part of its work.
pub fn turns() {
    with(Awake::turns);
}

/// The tick of a second.
pub fn ticks() {
    with(|awake, now| {
        let late = TICKED.get().map(|at| now.saturating_duration_since(at).saturating_sub(TICK));
        late.into_iter().for_each(|late| awake.stood(late));
        TICKED.set(Some(now));
    });
}

/// Bytes that are read now have waited for so long at most, however long the line was silent.
pub fn waited(now: Instant) -> Duration {
    let mut waited = Duration::ZERO;
    with(|awake, _| {
        let was_stopped = CONTINUED.with_borrow_mut(|continued| {
            let mut context = Context::from_waker(Waker::noop());
            let heard = continued.as_mut().map(|signal| signal.poll_recv(&mut context));
            matches!(heard, Some(Poll::Ready(Some(()))))
        });
        if was_stopped {
            awake.stood(LONG);
        }
        let late = TICKED.get().map(|at| now.saturating_duration_since(at).saturating_sub(TICK));
        waited = awake.waited(now).max(late.unwrap_or_default());
    });
    waited
}
