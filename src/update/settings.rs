//! `[update]`, validated.

use std::path::PathBuf;
use std::time::Duration;

use super::firmware::settings::SensorFirmware;
use super::window::Window;
use crate::https::url::HttpsUrl;

/// What the update checks go by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Where newer versions are looked for.
    pub source: Source,
    /// How often; default 6 h.
    pub period: Duration,
    /// What installs them, outside this process.
    pub backend: Backend,
    /// When they may be installed; default always.
    pub window: Window,
    /// The product; `None` = RAUC's, where it is there.
    pub compatible: Option<String>,
    /// The hardware revision.
    pub hardware: Option<String>,
    /// How long a new version has to show that it works; default 30 min.
    pub health_timeout: Duration,
    /// Bytes of images a day, UTC; `None` = no limit.
    pub daily_budget: Option<u64>,
    /// Bytes of the disk that an image leaves to the journal, what that has already included.
    pub reserve: u64,
    /// Firmware for sensors.
    pub sensors: SensorFirmware,
}

impl Settings {
    /// Default of `period`.
    pub const PERIOD: Duration = Duration::from_secs(6 * 3600);
    /// Default of `health-timeout`.
    pub const HEALTH_TIMEOUT: Duration = Duration::from_secs(30 * 60);

    /// Whether an image is fetched without being asked for: something here installs it.
    pub fn fetches(&self) -> bool {
        matches!((&self.source, self.backend), (Source::Tuf(_), Backend::Rauc | Backend::Exec))
    }
}

/// Where newer versions are looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Nowhere.
    None,
    /// What apt has read of its repositories.
    Apt,
    /// A TUF repository.
    Tuf(Place),
}

impl Source {
    /// As the configuration names it.
    pub fn as_str(&self) -> &'static str {
        match self {
            Source::None => "none",
            Source::Apt => "apt",
            Source::Tuf(_) => "tuf",
        }
    }
}

/// A TUF repository, and by what it is believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The folder of the metadata.
    pub metadata: Folder,
    /// The folder of the targets.
    pub targets: Folder,
    /// A root.json of any version.
    pub root_file: PathBuf,
    /// The CAs of the server; `None` = the system's.
    pub ca_file: Option<PathBuf>,
}

/// The URL of a folder, with a `/` at its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folder(HttpsUrl);

impl Folder {
    /// Reads it; a `/` that is missing at the end is added.
    ///
    /// # Errors
    /// What is wrong with it, one sentence.
    pub fn parse(text: &str) -> Result<Folder, String> {
        let mut url = HttpsUrl::parse(text).map_err(|error| error.to_string())?;
        if url.path.contains('?') {
            return Err("a folder's URL has no '?'".to_owned());
        }
        if !url.path.ends_with('/') {
            url.path.push('/');
        }
        Ok(Folder(url))
    }

    /// A folder in it.
    pub fn below(&self, name: &str) -> Folder {
        Folder(self.0.child(&format!("{name}/")))
    }

    /// A file in it or below it.
    pub fn file(&self, path: &str) -> HttpsUrl {
        self.0.child(path)
    }
}

impl std::fmt::Display for Folder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// What installs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// Nothing.
    None,
    /// RAUC, by D-Bus.
    Rauc,
    /// apt.
    Apt,
    /// The integrator's program.
    Exec,
}

impl Backend {
    /// As [`Backend::as_str`] names it.
    pub fn parse(text: &str) -> Option<Backend> {
        [Backend::None, Backend::Rauc, Backend::Apt, Backend::Exec]
            .into_iter()
            .find(|backend| backend.as_str() == text)
    }

    /// As the configuration names it.
    pub fn as_str(self) -> &'static str {
        match self {
            Backend::None => "none",
            Backend::Rauc => "rauc",
            Backend::Apt => "apt",
            Backend::Exec => "exec",
        }
    }
}
