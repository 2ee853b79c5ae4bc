//! Configuration: what the files, the environment and the device registry say, validated into each
//! stage's settings.
//!
//! ```text
//!  texts ──layer──> checked layers ──merge──> file model ──validate──> Settings
//!           │ schema: kinds, bounds,   │ `config` crate,   │ what one key      + findings
//!           │ unknown keys             │ place of each key │ alone cannot know
//!  registry files ─────────────────────────────────────────┘
//! ```
//!
//! * Layers, later wins by key: `/usr/lib/tombolo/conf.d` < `{state-dir}/conf.d` < `tombolo.toml` <
//!   `conf.d/*.toml` beside it in name order < `TOMBOLO_*`. An empty text takes a key back to its
//!   default, and `enabled = false` takes out a device, a role or a rule.
//! * Every fault names file, line and key, and what is accepted. No finding repeats a secret, nor
//!   the value of a key that may be one.
//! * Files of the state directory were written by no owner: they never refuse a configuration
//!   ([`state`], [`gateway_id`], [`registry`]).
//! * A faulty `[device.X]`, `[fleet.X]`, `[serial.X]` or `[role.X]` disables that item, a
//!   `[serial.X.unit.N]` that unit; any other fault refuses the whole configuration: a gateway does
//!   not guess what its owner meant.
//! * [`load`] is pure: texts in, settings out. Only `io` modules touch files, the environment and
//!   randomness.

pub mod certificate;
pub mod difference;
mod finding;
pub mod gateway_id;
pub mod init;
pub mod io;
mod layer;
mod merge;
mod model;
mod raw;
pub mod registry;
pub mod reload;
pub mod sandbox;
pub mod scalar;
pub mod schema;
mod settings;
pub mod state;
mod validate;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use zeroize::Zeroizing;

use crate::gate::certificate::CertificateName;

pub use certificate::Material;
pub use finding::{Finding, Level, Place, findings_to_json, findings_to_lines};
pub use layer::{LayerText, Origin, dotted};
pub use registry::Registry;
pub use settings::{Clock, ClockTrust, Gateway, IdSource, Log, LogTarget, Paths, Settings};
pub use state::State;

use finding::Findings;

/// Everything that is read before a configuration can be judged.
pub struct Sources<'a> {
    /// The main file's path, as it was named.
    pub main: PathBuf,
    /// The files' texts, the weakest first.
    pub layers: Vec<LayerText>,
    /// Environment variables; those that do not begin with `TOMBOLO_` are passed over.
    pub environment: Vec<(String, String)>,
    /// `$CREDENTIALS_DIRECTORY`, set by systemd inside the service.
    pub credentials_directory: Option<PathBuf>,
    /// The id that a start has made, if one has: see [`gateway_id`].
    pub gateway_id: Option<String>,
    /// The device registry.
    pub registry: Arc<Registry>,
    /// The certificate files of `[coap]` as last read, which stay where they cannot be read now.
    pub certificates: Option<Arc<Material>>,
    /// Where templates of Modbus devices are looked for, the first that has one wins.
    pub template_folders: Vec<PathBuf>,
    /// How files that the configuration names are looked at.
    pub files: &'a dyn Files,
}

/// Looks at the files a configuration names. The daemon's is in `io`; tests bring their own.
pub trait Files {
    /// Reads a small file, such as a key, of at most so many bytes.
    ///
    /// # Errors
    /// [`FileError`]
    fn read(&self, path: &Path, max_bytes: u64) -> Result<Content, FileError>;

    /// Looks whether a file could be read, without reading it.
    ///
    /// # Errors
    /// [`FileError`]
    fn look(&self, path: &Path) -> Result<Looked, FileError>;

    /// Whether the unit of the packaged service hides a path from it. Asked only for the packaged
    /// configuration.
    fn hidden(&self, path: &Path) -> Option<sandbox::Hidden> {
        sandbox::Sandbox::packaged().hides(path)
    }
}

/// A small file's bytes; wiped when dropped.
pub struct Content {
    /// The bytes.
    pub bytes: Zeroizing<Vec<u8>>,
    /// Who else may read them.
    pub looked: Looked,
}

/// Who may read a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Looked {
    /// Users who are neither its owner nor in its group may read or write it.
    pub exposed: bool,
    /// The user the service runs as, if that one cannot read it.
    pub closed_to: Option<String>,
}

/// Why a file cannot be read. Its words follow the file's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileError {
    /// There is none.
    Missing,
    /// This process may not.
    Denied,
    /// A folder, a device, a socket.
    NotAFile,
    /// Larger than any file of its kind.
    TooLarge,
    /// What the system says.
    Other(String),
}

impl std::fmt::Display for FileError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            FileError::Missing => f.write_str("does not exist"),
            FileError::Denied => f.write_str("cannot be read by this user"),
            FileError::NotAFile => f.write_str("is not a file"),
            FileError::TooLarge => f.write_str("is too large"),
            FileError::Other(text) => write!(f, "cannot be read: {text}"),
        }
    }
}

impl std::error::Error for FileError {}

/// A configuration that can be run.
pub struct Loaded {
    /// What each stage is told.
    pub settings: Settings,
    /// What was found on the way: disabled items, warnings.
    pub findings: Vec<Finding>,
    /// All devices, the disabled ones too, in id order.
    pub known: Vec<Known>,
    /// The registry as it was read; the next load keeps its good versions.
    pub registry: Arc<Registry>,
    /// The certificate files of `[coap]`; the next load keeps them where they cannot be read any
    /// more.
    pub certificates: Arc<Material>,
    /// What the state directory had for it, and what is wrong there; the next load keeps its good
    /// versions.
    pub state: State,
    outline: HashMap<String, Place>,
}

impl std::fmt::Debug for Loaded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Loaded")
            .field("settings", &self.settings)
            .field("findings", &self.findings)
            .finish_non_exhaustive()
    }
}

impl Loaded {
    /// Where a table or a key of its own stands, in the layer that won:
    /// `place(&["coap", "listen"])`. A device's place is in [`Loaded::known`].
    pub fn place(&self, key: &[&str]) -> Option<&Place> {
        self.outline.get(&dotted(key.iter().copied()))
    }

    /// A device by its id, also a disabled one.
    pub fn known(&self, id: &str) -> Option<&Known> {
        self.known.binary_search_by(|known| known.id.as_str().cmp(id)).ok().and_then(|at| self.known.get(at))
    }
}

/// A device as it stands in configuration or registry, usable or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// Its id.
    pub id: String,
    /// Its role; `None` when a fault kept it from being read.
    pub role: Option<String>,
    /// Free text for people.
    pub label: Option<String>,
    /// The identity its key goes by, if it has one.
    pub psk_identity: Option<Vec<u8>>,
    /// The certificate it proves itself with, if it has one.
    pub certificate: Option<CertificateName>,
    /// SHA-256 of the public key it proves itself with, if it has one.
    pub public_key: Option<[u8; 32]>,
    /// Where it is from.
    pub source: DeviceSource,
    /// File and line.
    pub place: Option<Place>,
    /// Whether it can be used; the findings say why not.
    pub usable: bool,
}

/// Where a device is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceSource {
    /// A `[device.X]`.
    Configuration,
    /// A file of the registry.
    Registry,
}

/// Judges a configuration.
///
/// # Errors
/// All findings, when one of them refuses the whole configuration; the caller exits with 78, or
/// keeps the configuration it has.
pub fn load(sources: &Sources<'_>) -> Result<Loaded, Vec<Finding>> {
    let mut findings = Findings::default();
    let mut layers: Vec<_> =
        sources.layers.iter().filter_map(|layer| layer::check_file(layer, &mut findings)).collect();
    let environment = layer::check_environment(&sources.environment, &layers, &mut findings);
    layers.push(environment);
    let Some(merged) = merge::merge(layers, &mut findings) else {
        return Err(findings.list);
    };
    // Faults of single keys do not keep those of several from being found in the same go.
    let Some(validated) = validate::validate(&merged, sources, &mut findings) else {
        return Err(findings.list);
    };
    let settings = validated.settings;
    let mut list = findings.list;
    list.push(Finding::ok(
        "configuration",
        format!(
            "gateway {}, files: {}, roles: {}, devices: {}",
            settings.gateway.id,
            sources.layers.len(),
            settings.gate.roles.len(),
            settings.gate.devices.len()
        ),
    ));
    Ok(Loaded {
        settings,
        findings: list,
        known: validated.known,
        registry: sources.registry.clone(),
        certificates: validated.certificates,
        state: State::default(),
        outline: merged.index.into_outline(),
    })
}

/// Where the state is kept according to some layers: needed before those kept with the state can be
/// read. Faults are left to [`load`].
pub fn state_dir(layers: &[LayerText], environment: &[(String, String)]) -> PathBuf {
    let mut ignored = Findings::default();
    let mut found = None;
    for layer in
        layers.iter().filter(|layer| layer.origin != Origin::State && layer.text.contains("state-dir"))
    {
        if let Some(layer) = layer::check_file(layer, &mut ignored) {
            found = layer.state_dir().or(found);
        }
    }
    let environment = layer::check_environment(environment, &[], &mut ignored);
    environment.state_dir().or(found).flatten().unwrap_or_else(|| PathBuf::from(Paths::STATE_DIR))
}
