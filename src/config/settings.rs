//! The validated configuration: the settings of each stage and of the daemon itself.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::credential::leaf::Usage;
use crate::message::Name;
use crate::{downlink, gate, journal, northbound, southbound, update};

/// All settings of a running gateway.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The identity of this gateway.
    pub gateway: Gateway,
    /// Roles, rules, devices.
    pub gate: gate::Settings,
    /// Commands to devices.
    pub downlink: downlink::settings::Settings,
    /// The broker; `None` if none is configured: the gateway runs anyway and stores readings.
    pub upstream: Option<northbound::Settings>,
    /// The certificates that the gateway renews by itself.
    pub certificates: Vec<Certificate>,
    /// The revocation lists that are fetched.
    pub revocation: Vec<crate::credential::revocation::Fetching>,
    /// The CoAP side.
    pub coap: southbound::coap::Settings,
    /// The local MQTT listener.
    pub mqtt: southbound::mqtt::Settings,
    /// The usable serial ports, in name order. Their devices are in [`Settings::gate`] too.
    pub serial: southbound::serial::Settings,
    /// Most bytes of PUBLISH packets of a lane in a day, by
    /// [`Lane::index`](crate::message::Lane::index); `None`: no limit, the default.
    pub daily_bytes: [Option<u64>; 2],
    /// The journal.
    pub journal: journal::Settings,
    /// When the wall clock is trusted.
    pub clock: Clock,
    /// The log level and target.
    pub log: Log,
    /// Where newer firmware of this gateway is looked for.
    pub update: update::settings::Settings,
    /// Where the metrics are exported.
    pub metrics: Metrics,
    /// The paths.
    pub paths: Paths,
}

impl Settings {
    /// The certificate that the gateway renews for this.
    pub fn certificate(&self, usage: Usage) -> Option<&Certificate> {
        self.certificates.iter().find(|certificate| certificate.settings.usage == usage)
    }
}

/// `[certificate.NAME]`, if it is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// When and how it is renewed.
    pub settings: crate::credential::settings::Settings,
    /// Where the next one comes from.
    pub source: crate::credential::source_settings::SourceSettings,
    /// `trust = "est"`: the CAs that the EST server offers are trusted as the broker's.
    pub trusts_est: bool,
}

/// The identity of this gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gateway {
    /// The id: `[gateway] id`, else the generated one, else [`Gateway::PLACEHOLDER`].
    pub id: Name,
    /// The source of the id.
    pub id_source: IdSource,
    /// A label: free text.
    pub label: Option<String>,
}

impl Gateway {
    /// Placeholder for an id that the first start will generate; never used by a running gateway.
    pub const PLACEHOLDER: &'static str = "tb-not-started";
}

/// The source of the gateway's id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdSource {
    /// `[gateway] id`.
    Configured,
    /// Generated at the first start: `{state-dir}/gateway-id`.
    Stored,
    /// There is no id yet.
    Missing,
}

/// `[clock]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    /// When the wall clock is trusted.
    pub trust: ClockTrust,
}

/// When the wall clock is trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClockTrust {
    /// While the kernel reports it as synchronised. The default.
    Kernel,
    /// Always, for machines whose clock is kept correct in another way.
    Always,
}

/// `[log]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Log {
    /// The log level; default info.
    pub level: log::LevelFilter,
    /// The log target.
    pub target: LogTarget,
}

/// `[metrics]`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metrics {
    /// Addresses for plain HTTP; empty = off, the default.
    pub listen: Vec<SocketAddr>,
}

/// The log target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogTarget {
    /// The systemd journal if stderr is connected to it, else stderr. The default.
    Auto,
    /// The systemd journal.
    Journal,
    /// Standard error.
    Stderr,
}

/// `[paths]`, and the paths derived from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    /// The main configuration file; `conf.d/` is in the same folder.
    pub config_file: PathBuf,
    /// The state directory, which must be persistent; default `/var/lib/tombolo`.
    pub state_dir: PathBuf,
    /// The runtime directory, which need not survive a reboot; default `/run/tombolo`.
    pub runtime_dir: PathBuf,
}

impl Paths {
    /// Default of `[paths] state-dir`.
    pub const STATE_DIR: &'static str = "/var/lib/tombolo";
    /// Default of `[paths] runtime-dir`.
    pub const RUNTIME_DIR: &'static str = "/run/tombolo";

    /// The name of a folder of drop-ins.
    pub const CONF_D: &'static str = "conf.d";

    /// The folder of the device registry, with one file per device.
    pub fn devices(&self) -> PathBuf {
        self.state_dir.join(super::registry::FOLDER)
    }

    /// The journal's folder.
    pub fn journal(&self) -> PathBuf {
        self.state_dir.join("journal")
    }

    /// The folder of firmware for sensors.
    pub fn firmware(&self) -> PathBuf {
        self.state_dir.join(update::io::firmware::FOLDER)
    }

    /// The folder of the update checks.
    pub fn update(&self) -> PathBuf {
        self.state_dir.join("update")
    }

    /// The folder of the programs that install: beside the state directory, and root's.
    pub fn update_root(&self) -> PathBuf {
        crate::update::installation::folder_of(&self.state_dir)
    }

    /// The file with the generated id.
    pub fn gateway_id(&self) -> PathBuf {
        self.state_dir.join("gateway-id")
    }

    /// The folder of drop-ins in the state directory, with lower precedence than the main file.
    pub fn state_conf_d(&self) -> PathBuf {
        self.state_dir.join(Paths::CONF_D)
    }

    /// The control socket.
    pub fn control_socket(&self) -> PathBuf {
        self.runtime_dir.join("control.sock")
    }

    /// The folder of drop-ins next to a main configuration file.
    pub fn conf_d(config_file: &Path) -> PathBuf {
        config_file.parent().unwrap_or(Path::new("")).join(Paths::CONF_D)
    }
}
