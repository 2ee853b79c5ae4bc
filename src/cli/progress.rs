//! A line on standard error while a command takes longer than a second: what it does, and for how
//! long. Only on a terminal, never with `--json`; it is erased before anything else is written.

use std::io::{IsTerminal as _, Write as _};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A command that says nothing for this long gets the line.
const QUIET: Duration = Duration::from_secs(1);
/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(200);

/// What is on the terminal.
struct Shown {
    /// When the command began.
    begun: Option<Instant>,
    /// When something was last written.
    written: Option<Instant>,
    /// The line is there.
    line: bool,
}

static SHOWN: Mutex<Shown> = Mutex::new(Shown { begun: None, written: None, line: false });

fn shown() -> MutexGuard<'static, Shown> {
    SHOWN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The line, until it is dropped.
pub struct Progress(Option<(Sender<()>, JoinHandle<()>)>);

impl Progress {
    /// `doing`, like `checking`; nothing is shown for `None`, with `json`, or where standard error
    /// is no terminal.
    pub fn begin(doing: Option<&'static str>, json: bool) -> Progress {
        let dumb = std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
        let Some(doing) = doing.filter(|_| !json && !dumb && std::io::stderr().is_terminal()) else {
            return Progress(None);
        };
        let now = Instant::now();
        *shown() = Shown { begun: Some(now), written: Some(now), line: false };
        let (sender, ended) = channel();
        let thread = std::thread::spawn(move || {
            while let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(LOOK) {
                paint(doing, Instant::now());
            }
        });
        Progress(Some((sender, thread)))
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some((sender, thread)) = self.0.take() {
            drop(sender);
            let _ = thread.join();
            around(|| ());
            shown().begun = None;
        }
    }
}

/// Writes something, with the line erased before.
pub fn around<T>(write: impl FnOnce() -> T) -> T {
    let mut shown = shown();
    if shown.line {
        let _ = std::io::stderr().write_all(b"\r\x1b[K");
        shown.line = false;
    }
    let result = write();
    if shown.begun.is_some() {
        shown.written = Some(Instant::now());
    }
    result
}

fn paint(doing: &str, now: Instant) {
    let mut shown = shown();
    let quiet = shown.written.is_some_and(|written| now.saturating_duration_since(written) >= QUIET);
    if let Some(begun) = shown.begun.filter(|_| quiet || shown.line) {
        let seconds = now.saturating_duration_since(begun).as_secs();
        let line = format!("\r\x1b[K{doing} … {seconds} s");
        let _ = std::io::stderr().write_all(crate::telemetry::io::shown(&line).as_bytes());
        shown.line = true;
    }
}

/// A line that shows how far something has come; it is erased when this is dropped. Shown only on a
/// terminal.
pub struct Bar(bool);

/// Characters of the bar.
const WIDTH: usize = 30;

impl Bar {
    /// Nothing is shown with `json`, or where standard error is no terminal.
    pub fn begin(json: bool) -> Bar {
        let dumb = std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
        Bar(!json && !dumb && std::io::stderr().is_terminal())
    }

    /// Shows it: `percent` of `0..=100`, and what else is to be said.
    pub fn show(&self, percent: u8, what: &str) {
        if self.0 {
            let full = usize::from(percent.min(100)) * WIDTH / 100;
            let bar = format!("{}{}", "#".repeat(full), ".".repeat(WIDTH - full));
            let line = format!("\r\x1b[K[{bar}] {percent:3} % {what}");
            let _ = std::io::stderr().write_all(crate::telemetry::io::shown(&line).as_bytes());
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if self.0 {
            let _ = std::io::stderr().write_all(b"\r\x1b[K");
        }
    }
}
