//! A simulated serial meter on a pseudo-terminal: sends a line from time to time and receives
//! nothing.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};

/// The meter's end of the line. Until it is dropped, the other end keeps its name.
pub struct Meter {
    line: std::fs::File,
    port: PathBuf,
    /// Lines sent.
    pub said: u32,
}

impl Meter {
    /// The id of its port and of its device.
    pub const ID: &'static str = "meter-4";

    /// Creates the pseudo-terminal.
    ///
    /// # Errors
    /// The error as text.
    pub fn new() -> Result<Meter, String> {
        let (line, port) = line()?;
        Ok(Meter { line, port, said: 0 })
    }

    /// The device file for the gateway.
    pub fn port(&self) -> &Path {
        &self.port
    }

    /// The configuration for the gateway.
    pub fn configuration(&self) -> String {
        format!(
            "[serial.{}]\nport = \"{}\"\nbaud = 9600\nframing = \"line\"\nform = \"json\"\n\
             pattern = '^kWh=(?<kWh>[0-9.]+) n=(?<n>[0-9]+)$'\npath = \"t/energy\"\nrole = \"sensor\"\n",
            Meter::ID,
            self.port().display()
        )
    }

    /// Sends the next line, unless the terminal's buffer is full.
    pub fn say(&mut self) {
        let next = self.said + 1;
        let energy = 1234.5 + f64::from(next) * 0.012;
        if self.line.write_all(format!("kWh={energy:.3} n={next}\r\n").as_bytes()).is_ok() {
            self.said = next;
        }
    }
}

/// A raw pseudo-terminal: the device's end, and the name of the gateway's end.
pub(super) fn line() -> Result<(std::fs::File, PathBuf), String> {
    let failed = |error: nix::Error| format!("no pseudo-terminal can be made: {error}");
    let pair = nix::pty::openpty(None, None).map_err(failed)?;
    let mut raw = tcgetattr(&pair.slave).map_err(failed)?;
    cfmakeraw(&mut raw);
    tcsetattr(&pair.slave, SetArg::TCSANOW, &raw).map_err(failed)?;
    // A full buffer must not block the demo.
    fcntl(&pair.master, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(failed)?;
    let port = nix::unistd::ttyname(&pair.slave).map_err(failed)?;
    Ok((std::fs::File::from(pair.master), port))
}

/// Readings committed by the gateway over several runs; each run counts from 0.
#[derive(Default)]
pub struct Committed {
    before: u64,
    now: u64,
}

impl Committed {
    /// Updates the count of the current run.
    pub fn see(&mut self, now: u64) {
        if now < self.now {
            self.next_run();
        }
        self.now = now;
    }

    /// Ends the current run.
    pub fn next_run(&mut self) {
        self.before += std::mem::take(&mut self.now);
    }

    /// The total, which is a lower bound.
    pub fn total(&self) -> u64 {
        self.before + self.now
    }
}
