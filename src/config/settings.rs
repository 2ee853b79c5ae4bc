//! The whole configuration, validated: each stage's own settings, and what the daemon itself goes
//! by.

use std::path::{Path, PathBuf};

use crate::message::Name;
use crate::{gate, journal, northbound, southbound};

/// Everything a running gateway goes by.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Who this gateway is.
    pub gateway: Gateway,
    /// Roles, rules, devices.
    pub gate: gate::Settings,
    /// The broker; `None` until one is configured: the gateway runs all the same and keeps what
    /// comes.
    pub upstream: Option<northbound::Settings>,
    /// The CoAP side.
    pub coap: southbound::coap::Settings,
    /// The serial ports that can be used, in name order; each is a device of [`Settings::gate`]
    /// too.
    pub serial: southbound::serial::Settings,
    /// The journal.
    pub journal: journal::Settings,
    /// What time may be believed.
    pub clock: Clock,
    /// What is logged and where to.
    pub log: Log,
    /// Where things are.
    pub paths: Paths,
}

/// Who this gateway is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gateway {
    /// Its id: `[gateway] id`, else the one made by the first start, else [`Gateway::PLACEHOLDER`].
    pub id: Name,
    /// Where the id is from.
    pub id_source: IdSource,
    /// Free text for people.
    pub label: Option<String>,
}

impl Gateway {
    /// Stands for an id that the first start has yet to make; never used by a running gateway.
    pub const PLACEHOLDER: &'static str = "tb-not-started";
}

/// Where the gateway's id is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdSource {
    /// `[gateway] id`.
    Configured,
    /// A start of this gateway: `{state-dir}/gateway-id`.
    Stored,
    /// Nowhere yet.
    Missing,
}

/// `[clock]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    /// When the wall clock is believed.
    pub trust: ClockTrust,
}

/// When the wall clock is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClockTrust {
    /// While the kernel says it is synchronised. The default.
    Kernel,
    /// Always: for machines whose clock something else keeps right.
    Always,
}

/// `[log]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Log {
    /// What is logged; default info.
    pub level: log::LevelFilter,
    /// Where to.
    pub target: LogTarget,
}

/// Where log lines go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogTarget {
    /// The systemd journal when stderr leads there, else stderr. The default.
    Auto,
    /// The systemd journal.
    Journal,
    /// Standard error.
    Stderr,
}

/// `[paths]`, and what lies where by them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    /// The main configuration file; `conf.d/` is beside it.
    pub config_file: PathBuf,
    /// What must survive: default `/var/lib/tombolo`.
    pub state_dir: PathBuf,
    /// What need not survive a reboot: default `/run/tombolo`.
    pub runtime_dir: PathBuf,
}

impl Paths {
    /// Default of `[paths] state-dir`.
    pub const STATE_DIR: &'static str = "/var/lib/tombolo";
    /// Default of `[paths] runtime-dir`.
    pub const RUNTIME_DIR: &'static str = "/run/tombolo";

    /// The device registry, one file a device.
    pub fn devices(&self) -> PathBuf {
        self.state_dir.join("devices")
    }

    /// The journal's folder.
    pub fn journal(&self) -> PathBuf {
        self.state_dir.join("journal")
    }

    /// The id made by the first start.
    pub fn gateway_id(&self) -> PathBuf {
        self.state_dir.join("gateway-id")
    }

    /// Configuration kept with the state, weaker than the main file.
    pub fn state_conf_d(&self) -> PathBuf {
        self.state_dir.join("conf.d")
    }

    /// The control socket.
    pub fn control_socket(&self) -> PathBuf {
        self.runtime_dir.join("control.sock")
    }

    /// The drop-ins beside a main configuration file.
    pub fn conf_d(config_file: &Path) -> PathBuf {
        config_file.parent().unwrap_or(Path::new("")).join("conf.d")
    }
}
