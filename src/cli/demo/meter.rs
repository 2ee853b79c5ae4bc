//! A serial meter on a pseudo-terminal: says a line now and then, and cannot be told anything.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};

/// The meter's end of the line. While it is held, the other end keeps its name.
pub struct Meter {
    line: std::fs::File,
    port: PathBuf,
    /// Lines said.
    pub said: u32,
}

impl Meter {
    /// The id of its port, and so its own.
    pub const ID: &'static str = "meter-4";

    /// Makes the line.
    ///
    /// # Errors
    /// Why there are no pseudo-terminals, in words.
    pub fn new() -> Result<Meter, String> {
        let (line, port) = line()?;
        Ok(Meter { line, port, said: 0 })
    }

    /// The device file for the gateway.
    pub fn port(&self) -> &Path {
        &self.port
    }

    /// What the gateway has to be told.
    pub fn configuration(&self) -> String {
        format!(
            "[serial.{}]\nport = \"{}\"\nbaud = 9600\nframing = \"line\"\nform = \"json\"\n\
             pattern = '^kWh=(?<kWh>[0-9.]+) n=(?<n>[0-9]+)$'\npath = \"t/energy\"\nrole = \"sensor\"\n",
            Meter::ID,
            self.port().display()
        )
    }

    /// Says the next line, if the line takes it.
    pub fn say(&mut self) {
        let next = self.said + 1;
        let energy = 1234.5 + f64::from(next) * 0.012;
        if self.line.write_all(format!("kWh={energy:.3} n={next}\r\n").as_bytes()).is_ok() {
            self.said = next;
        }
    }
}

/// A line of bytes as they are: a device's end, and the name of the gateway's.
pub(super) fn line() -> Result<(std::fs::File, PathBuf), String> {
    let failed = |error: nix::Error| format!("no pseudo-terminal can be made: {error}");
    let pair = nix::pty::openpty(None, None).map_err(failed)?;
    let mut raw = tcgetattr(&pair.slave).map_err(failed)?;
    cfmakeraw(&mut raw);
    tcsetattr(&pair.slave, SetArg::TCSANOW, &raw).map_err(failed)?;
    // A full line must not hold the demo up.
    fcntl(&pair.master, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(failed)?;
    let port = nix::unistd::ttyname(&pair.slave).map_err(failed)?;
    Ok((std::fs::File::from(pair.master), port))
}

/// Readings the gateway has committed, over several runs of it: each run counts from nothing.
#[derive(Default)]
pub struct Committed {
    before: u64,
    now: u64,
}

impl Committed {
    /// What a run says of itself.
    pub fn see(&mut self, now: u64) {
        if now < self.now {
            self.next_run();
        }
        self.now = now;
    }

    /// The run is over.
    pub fn next_run(&mut self) {
        self.before += std::mem::take(&mut self.now);
    }

    /// At least so many in all.
    pub fn total(&self) -> u64 {
        self.before + self.now
    }
}
