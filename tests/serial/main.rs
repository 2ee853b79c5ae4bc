//! Serial devices on pseudo-terminals, through `tombolo run`, to a mosquitto behind TLS.

mod asked;
mod faults;
mod framing;
mod line;
mod modbus;
mod network;
mod node;
mod plug;
mod write;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::pty::{grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};
use serde_json::Value;
use tombolo::control::io::client::Client;
use tombolo::control::protocol::Request;
use tombolo_test_support::{Daemon, Folder, Mosquitto, Pki, Subscriber};

/// The binary under test.
pub fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_tombolo"))
}

/// A role that allows `data` and `m/#` and asks for nothing else.
pub const ROLE: &str = r#"
[role.meter]
quota = { messages = 1000000, bytes = "1GiB", per = "1s", burst = 1000000 }
[role.meter.uplink.data]
path = "data"
[role.meter.uplink.more]
path = "m/#"
"#;

/// A broker, a witness and a gateway, all fresh.
pub struct Site {
    // Dropped in this order: the gateway before what it speaks to.
    pub daemon: Daemon,
    pub witness: Subscriber,
    pub broker: Mosquitto,
    pub folder: Folder,
}

impl Site {
    /// `ports` makes the configuration from the folder that the ports' names are in.
    pub fn new(name: &str, ports: impl FnOnce(&Folder) -> String) -> Site {
        let folder = Folder::new(name);
        let pki = Pki::new(folder.path());
        let broker = Mosquitto::start(folder.path(), &pki, "log_type subscribe\n");
        let witness = Subscriber::start(&broker, folder.path(), "tombolo/#", "%t %x");
        let extra = format!("{ROLE}{}", ports(&folder));
        let daemon = Daemon::start(binary(), &folder, broker.tls_port, &pki.ca(), &extra);
        Site { daemon, witness, broker, folder }
    }

    /// What arrived from a device: path below `up`, and the payload.
    pub fn arrived(&self, device: &str) -> Vec<(String, Vec<u8>)> {
        let prefix = format!("tombolo/gw/{device}/up/");
        let lines = self.witness.lines();
        let own = lines.iter().filter_map(|line| line.strip_prefix(prefix.as_str()));
        own.filter_map(|line| {
            let (path, digits) = line.split_once(' ')?;
            Some((path.to_owned(), unhex(digits)))
        })
        .collect()
    }

    pub fn payloads(&self, device: &str) -> Vec<String> {
        let arrived = self.arrived(device).into_iter();
        arrived.map(|(_, payload)| String::from_utf8_lossy(&payload).into_owned()).collect()
    }

    /// The newest retained status of a device.
    pub fn told(&self, device: &str) -> Option<Value> {
        let prefix = format!("tombolo/gw/{device}/status ");
        let lines = self.witness.lines();
        let last = lines.iter().rev().find_map(|line| line.strip_prefix(prefix.as_str()))?;
        serde_json::from_slice(&unhex(last)).ok()
    }

    /// How the daemon says its ports are; quicker than the command.
    pub fn ports(&self) -> BTreeMap<String, Value> {
        let socket = self.folder.join("run/control.sock");
        let mut client = Client::connect(&socket).expect("the daemon runs");
        let status = client.ask(&Request::Status {}, Duration::from_secs(10)).expect("it answers");
        serde_json::from_value(status["serial"].clone()).expect("ports by name")
    }

    pub fn is_open(&self, port: &str) -> bool {
        self.ports()[port]["state"] == "open"
    }

    pub fn wait_until_open(&self, port: &str) {
        tombolo_test_support::wait_for("the port", || self.is_open(port));
    }
}

fn unhex(digits: &str) -> Vec<u8> {
    let digits = digits.as_bytes().chunks(2);
    digits.filter_map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

/// A pseudo-terminal that passes bytes on as they are: its master, its slave and the slave's name.
/// No program that another test starts meanwhile inherits them: it would keep the line from hanging
/// up.
pub fn line() -> (std::fs::File, std::fs::File, PathBuf) {
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let master = posix_openpt(flags).expect("a pseudo-terminal");
    grantpt(&master).expect("its slave");
    unlockpt(&master).expect("its slave");
    let name = PathBuf::from(ptsname_r(&master).expect("its name"));
    let flags = OFlag::O_NOCTTY.bits();
    let slave =
        std::fs::File::options().read(true).write(true).custom_flags(flags).open(&name).expect("its slave");
    let mut raw = tcgetattr(&slave).expect("its settings");
    cfmakeraw(&mut raw);
    tcsetattr(&slave, SetArg::TCSANOW, &raw).expect("raw");
    // What the daemon does not read must not hold the test up: a line does not wait either.
    fcntl(&master, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).expect("flags");
    (std::fs::File::from(OwnedFd::from(master)), slave, name)
}

/// A serial device on a pseudo-terminal, plugged in under a name of its own.
pub struct Device {
    link: PathBuf,
    master: Option<std::fs::File>,
}

impl Device {
    pub fn new(link: PathBuf) -> Device {
        Device { link, master: None }
    }

    pub fn plugged_in(link: PathBuf) -> Device {
        let mut device = Device::new(link);
        device.plug_in();
        device
    }

    /// Under another number than before, as the kernel likes to do.
    pub fn plug_in(&mut self) {
        let (master, _, name) = line();
        self.master = Some(master);
        std::os::unix::fs::symlink(&name, &self.link).expect("the link");
    }

    pub fn unplug(&mut self) {
        let _ = std::fs::remove_file(&self.link);
        self.master = None;
    }

    /// Whether all of it went onto the line.
    pub fn say(&mut self, bytes: &[u8]) -> bool {
        self.master.as_mut().is_some_and(|master| master.write_all(bytes).is_ok())
    }
}

impl Drop for Device {
    /// A name left behind would come to mean the next one's number.
    fn drop(&mut self) {
        self.unplug();
    }
}
