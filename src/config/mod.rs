//! Configuration: reads the files, the environment and the device registry, and validates them to
//! the settings of each stage.
//!
//! ```text
//!  texts ──layer──> checked layers ──merge──> file model ──validate──> Settings
//!           │ schema: kinds, bounds,   │ `config` crate,   │ what one key      + findings
//!           │ unknown keys             │ place of each key │ alone cannot know
//!  registry files ─────────────────────────────────────────┘
//! ```
//!
//! * Layers; for each key the later one has precedence: `/usr/lib/tombolo/conf.d` <
//!   `{state-dir}/conf.d` < `tombolo.toml` < `conf.d/*.toml` beside it in name order < `TOMBOLO_*`.
//!   An empty text resets a key to its default, and `enabled = false` disables a device, a role or
//!   a rule.
//! * Every fault names file, line and key, and the accepted values. No finding contains a secret or
//!   the value of a key that may be one.
//! * Files of the state directory are not written by the user, so they never refuse a configuration
//!   ([`state`], [`gateway_id`], [`registry`]).
//! * A faulty `[device.X]`, `[fleet.X]`, `[serial.X]` or `[role.X]` disables that item, a
//!   `[serial.X.unit.N]` that unit; any other fault refuses the whole configuration: the gateway
//!   does not guess the intention.
//! * [`load`] is pure: texts in, settings out. Only `io` modules touch files, the environment and
//!   randomness.

mod access_list;
pub mod acl;
pub mod alias;
pub mod audit;
pub mod certificate;
pub mod difference;
mod finding;
pub mod first_boot;
pub mod gateway_id;
pub mod init;
pub mod inventory;
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
pub mod show;
pub mod source_keys;
pub mod state;
pub mod trial;
mod validate;
mod withdrawn;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use zeroize::Zeroizing;

use crate::gate::SharedDevice;
use crate::gate::certificate::CertificateName;
use crate::gate::jwt::JwtKey;
use crate::gate::tag::Tags;
use crate::message::Name;

pub use certificate::Material;
pub use finding::{Finding, Level, Place, findings_to_json, findings_to_lines};
pub use layer::{LayerText, Origin, dotted};
pub use registry::Registry;
pub use settings::{
    Certificate, Clock, ClockTrust, Gateway, IdSource, Log, LogTarget, Metrics, Paths, Settings,
};
pub use state::State;

use finding::Findings;

/// The input of [`load`].
pub struct Sources<'a> {
    /// The path of the main file, as given.
    pub main: PathBuf,
    /// The texts of the files, lowest precedence first.
    pub layers: Vec<LayerText>,
    /// Environment variables; those that do not begin with `TOMBOLO_` are ignored.
    pub environment: Vec<(String, String)>,
    /// `$CREDENTIALS_DIRECTORY`, set by systemd inside the service.
    pub credentials_directory: Option<PathBuf>,
    /// The generated id, if there is one: see [`gateway_id`].
    pub gateway_id: Option<String>,
    /// The device registry.
    pub registry: Arc<Registry>,
    /// The last good content of the certificate files of `[coap]`, which stays in use if they
    /// cannot be read now.
    pub certificates: Option<Arc<Material>>,
    /// The folders of Modbus templates; the first folder that has a template is used.
    pub template_folders: Vec<PathBuf>,
    /// Access to the files that the configuration names.
    pub files: &'a dyn Files,
}

/// Access to the files that a configuration names. The daemon's implementation is in `io`; tests
/// have their own.
pub trait Files {
    /// Reads a small file, such as a key, of at most `max_bytes`.
    ///
    /// # Errors
    /// [`FileError`]
    fn read(&self, path: &Path, max_bytes: u64) -> Result<Content, FileError>;

    /// Checks whether a file can be read, without reading it.
    ///
    /// # Errors
    /// [`FileError`]
    fn look(&self, path: &Path) -> Result<Looked, FileError>;

    /// The names of the files in a folder, some of them if there are many, for what may be meant by
    /// a name that there is not.
    fn names(&self, _folder: &Path) -> Vec<String> {
        Vec::new()
    }

    /// Whether this user may see less than the service does: what is denied here says nothing.
    fn is_outsider(&self) -> bool {
        false
    }

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
    /// Its access permissions.
    pub looked: Looked,
}

/// The access permissions of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Looked {
    /// Whether users other than its owner and group may read or write it.
    pub exposed: bool,
    /// The service's user, if that user cannot read it.
    pub closed_to: Option<String>,
}

/// Why a file cannot be read. Its text is appended to the file's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileError {
    /// The file does not exist.
    Missing,
    /// This process has no permission.
    Denied,
    /// It is a folder, a device or a socket.
    NotAFile,
    /// It is larger than the limit.
    TooLarge,
    /// Another error of the system, as text.
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

/// A valid configuration.
#[derive(Clone)]
pub struct Loaded {
    /// The settings of each stage.
    pub settings: Settings,
    /// The findings: disabled items, warnings.
    pub findings: Vec<Finding>,
    /// All devices, including disabled ones, in id order.
    pub known: Vec<Known>,
    /// The registry as read; the next load keeps its last good versions.
    pub registry: Arc<Registry>,
    /// The content of the certificate files of `[coap]`; the next load keeps it if they cannot be
    /// read.
    pub certificates: Arc<Material>,
    /// The configuration from the state directory, and its problems; the next load keeps its last
    /// good versions.
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
    /// The place of a table or one of its keys in the layer with the highest precedence:
    /// `place(&["coap", "listen"])`. Of a device only that of `enabled`; its own is in
    /// [`Loaded::known`].
    pub fn place(&self, key: &[&str]) -> Option<&Place> {
        self.outline.get(&dotted(key.iter().copied()))
    }

    /// The file and line of the rule that decided, by an explanation.
    fn rule_place(&self, explanation: &serde_json::Value) -> Option<&Place> {
        let rule = explanation["rule"].as_str()?;
        let table = explanation["rule_from"].as_str().or(explanation["role"].as_str())?;
        if let Some(place) = self.place_of_on_behalf(explanation, table, rule) {
            return Some(place);
        }
        let kinds = ["local-publish", "local-subscribe", "downlink"];
        let other = kinds.iter().find_map(|kind| Some((*kind, rule.strip_prefix(kind)?.strip_prefix('.')?)));
        // Readings have the bare name of their rule, which may begin like a kind.
        let is_reading = explanation["matched"].as_array().is_some_and(|matched| !matched.is_empty());
        let (kind, rule) = other.filter(|_| !is_reading).unwrap_or(("uplink", rule));
        self.place_of_rule(table, kind, rule)
    }

    /// The file and line of a rule that comes nearest.
    fn nearest_place(&self, explanation: &serde_json::Value, key: &str) -> Option<&Place> {
        let nearest = explanation.get(key)?;
        let rule = nearest["rule"].as_str()?;
        let table = nearest["from"].as_str().or(explanation["role"].as_str())?;
        if let Some(place) = self.place_of_on_behalf(explanation, table, rule) {
            return Some(place);
        }
        let is_reading = matches!(explanation["method"].as_str(), Some("POST" | "PUT" | "DELETE"));
        let kinds = ["local-publish", "local-subscribe", "downlink"];
        let other = kinds.iter().find_map(|kind| Some((*kind, rule.strip_prefix(kind)?.strip_prefix('.')?)));
        let (kind, rule) = other.filter(|_| !is_reading).unwrap_or(("uplink", rule));
        self.place_of_rule(table, kind, rule)
    }

    /// The file and line of an on-behalf rule, where one is what a refusal is about.
    fn place_of_on_behalf(&self, explanation: &serde_json::Value, role: &str, rule: &str) -> Option<&Place> {
        let name = rule.strip_prefix("on-behalf.").filter(|_| explanation["reason"] == "on_behalf")?;
        self.place_of_rule(role, "on-behalf", name)
    }

    fn place_of_rule(&self, role: &str, kind: &str, rule: &str) -> Option<&Place> {
        let table = ["role", role, kind, rule];
        let keys = ["path", "topic"].map(|key| [&table[..], &[key]].concat());
        self.place(&table).or_else(|| keys.iter().find_map(|key| self.place(key)))
    }

    /// Adds what the gate does not know to its explanation about a device: that a fault disables
    /// it, that it is on a serial port, and where the rule that decided is written.
    pub fn complete_explanation(&self, device: &str, explanation: &mut serde_json::Value) {
        let on_port = |port: &crate::southbound::serial::settings::Port| {
            port.name.as_str() == device || port.table_of(device).is_some()
        };
        if self.settings.serial.iter().any(on_port) {
            explanation["serial"] = true.into();
        }
        if let Some(place) = self.rule_place(explanation) {
            explanation["rule_place"] = place.to_string().into();
        }
        if let Some(speaks) = explanation.get("on_behalf").filter(|speaks| speaks.is_object())
            && let Some(rule) = speaks["rule"].as_str()
            && let Some(role) = speaks["from"].as_str().or(speaks["role"].as_str())
            && let Some(place) = self.place_of_rule(role, "on-behalf", rule).map(ToString::to_string)
        {
            explanation["on_behalf"]["place"] = place.into();
        }
        // Of a reading the gate says which of the rules that match lack a tag.
        let lacking = explanation["matched"]
            .as_array()
            .and_then(|rules| rules.first().filter(|rule| rule["lacks_tag"].is_string()).cloned());
        if let Some(mut lacking) = lacking.filter(|_| explanation["reason"] == "no_rule") {
            let tag = lacking["lacks_tag"].take();
            explanation["lacks_tag"] = serde_json::json!({
                "rule": lacking["rule"], "from": lacking["from"], "tag": tag,
            });
        }
        for key in ["nearest", "nearest_other", "lacks_tag"] {
            if let Some(place) = self.nearest_place(explanation, key).map(ToString::to_string) {
                explanation[key]["place"] = place.into();
            }
        }
        if let Some(why) = self.why_unusable(device) {
            explanation["why"] = why.into();
        } else if let Some(why) = self.why_child_is_unusable(device, explanation) {
            explanation["why"] = why.into();
        }
        let near = || scalar::did_you_mean(device, self.known.iter().map(|known| known.id.as_str()));
        if explanation["reason"] == "unknown_device"
            && self.known(device).is_none()
            && let Some(near) = near()
        {
            let why = explanation["why"].as_str().unwrap_or_default();
            explanation["why"] = format!("{why}; did you mean {near}?").into();
        }
    }

    /// Why a device that is known cannot be used, and the way out.
    fn why_unusable(&self, device: &str) -> Option<String> {
        let known = self.known(device).filter(|known| !known.usable)?;
        let (is_off, all) = (known.switched_off, "`tombolo check` shows all");
        Some(match (self.disabling(device), self.place(&["device", device, "enabled"])) {
            (Some(finding), _) => format!("a fault disables device {device}: {}; {all}", finding.sentence()),
            (None, Some(by)) if is_off => {
                format!("device {device} is switched off by {by} (enabled = false); {all}")
            }
            (None, _) if is_off => format!(
                "device {device} was disabled by a command; `tombolo device enable {device}` lets it connect again"
            ),
            (None, _) => format!("device {device} is disabled; {all}"),
        })
    }

    /// The same of the child that a refused reading of `device` is of: the gate does not have it.
    fn why_child_is_unusable(&self, device: &str, explanation: &serde_json::Value) -> Option<String> {
        let path = explanation["path"].as_str().filter(|_| explanation["reason"] == "on_behalf")?;
        let (child, _) = path.strip_prefix('~')?.split_once('/')?;
        let parent = self.known(child)?.device.as_ref()?.parent.as_ref()?;
        let why = self.why_unusable(child).filter(|_| parent.as_str() == device)?;
        Some(format!("{child} is behind {device}, but {why}"))
    }

    /// Why nothing would forward the readings of a device that is behind another, if nothing would.
    pub fn mute_child(&self, child: &crate::gate::Device) -> Option<String> {
        validate::mute_child(&self.settings.gate, &self.known, child)
    }

    /// Takes what `running` has of each device that is unchanged, so that two configurations of
    /// 10,000 devices are hardly larger than one while a reload is under way.
    fn share_devices(&mut self, running: &Loaded) {
        let before = &running.settings.gate.devices;
        let find = |device: &SharedDevice| {
            let at = before.binary_search_by(|known| known.id.cmp(&device.id)).ok()?;
            before.get(at).filter(|known| known.is_same(device) || *known == device)
        };
        for device in &mut self.settings.gate.devices {
            if let Some(known) = find(device) {
                *device = known.clone();
            }
        }
        for device in self.known.iter_mut().filter_map(|known| known.device.as_mut()) {
            if let Some(known) = find(device) {
                *device = known.clone();
            }
        }
    }

    /// The fault that disables a device: of its role, where that is why.
    pub fn disabling(&self, device: &str) -> Option<&Finding> {
        let failing = || self.findings.iter().filter(|finding| finding.level == Level::Fail);
        let about = |subject: String| failing().find(|finding| finding.subject == subject);
        let own = about(format!("device {device}")).or_else(|| about(format!("serial {device}")))?;
        // One that only says that its role has faults leads to that fault.
        let of_role = |finding: &&Finding| {
            finding
                .subject
                .strip_prefix("role ")
                .is_some_and(|role| own.message.contains(&format!("{role:?}")))
        };
        failing().find(of_role).or(Some(own))
    }

    /// A device by its id, also a disabled one.
    pub fn known(&self, id: &str) -> Option<&Known> {
        self.known.binary_search_by(|known| known.id.as_str().cmp(id)).ok().and_then(|at| self.known.get(at))
    }
}

/// A device in the configuration or the registry, usable or not.
#[derive(Clone, Debug)]
pub struct Known {
    /// Its id.
    pub id: String,
    /// All about it; `None` if it could not be read because of a fault. The gate has the same one.
    pub device: Option<SharedDevice>,
    /// Where it is configured.
    pub source: DeviceSource,
    /// The file and line.
    pub place: Option<Place>,
    /// Whether it can be used; the findings say why not.
    pub usable: bool,
    /// It is in the registry, and disabled there, or a `[device.ID]` with `enabled = false`
    /// switches it off.
    pub switched_off: bool,
}

impl Known {
    /// Its role; `None` if it could not be read because of a fault.
    pub fn role(&self) -> Option<&Name> {
        self.device.as_ref().map(|device| &device.role)
    }

    /// Its label: free text.
    pub fn label(&self) -> Option<&str> {
        self.device.as_ref()?.label.as_deref()
    }

    /// Its tags, if it has any.
    pub fn tags(&self) -> Option<&Tags> {
        self.device.as_ref().map(|device| &device.tags).filter(|tags| !tags.is_empty())
    }

    /// The device that it is behind.
    pub fn parent(&self) -> Option<&Name> {
        self.device.as_ref()?.parent.as_ref()
    }

    /// Its PSK identity, if it has one.
    pub fn psk_identity(&self) -> Option<&[u8]> {
        self.device.as_ref()?.psk.as_ref().map(|psk| &psk.identity[..])
    }

    /// The identity of the PSK that is to replace it.
    pub fn next_psk_identity(&self) -> Option<&[u8]> {
        self.device.as_ref()?.next_psk.as_ref().map(|next| &next.psk.identity[..])
    }

    /// The public keys of its tokens.
    pub fn jwt_keys(&self) -> &[JwtKey] {
        self.device.as_ref().map_or(&[], |device| &device.jwt_keys)
    }

    /// Its MQTT user name, if it has a password.
    pub fn mqtt_username(&self) -> Option<&str> {
        self.device.as_ref()?.login.as_ref().map(|login| login.username.as_str())
    }

    /// Its certificate, if it has one.
    pub fn certificate(&self) -> Option<&CertificateName> {
        self.device.as_ref()?.certificate.as_ref()
    }

    /// SHA-256 of its public key, if it has one.
    pub fn public_key(&self) -> Option<&[u8; 32]> {
        self.device.as_ref()?.public_key.as_ref()
    }
}

/// Where a device is configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceSource {
    /// A `[device.X]`.
    Configuration,
    /// A file of the registry.
    Registry,
}

/// Validates a configuration.
///
/// # Errors
/// All findings, if one of them refuses the whole configuration; the caller exits with 78, or keeps
/// its current configuration.
pub fn load(sources: &Sources<'_>) -> Result<Loaded, Vec<Finding>> {
    let mut findings = Findings::default();
    let mut layers: Vec<_> =
        sources.layers.iter().filter_map(|layer| layer::check_file(layer, &mut findings)).collect();
    let environment = layer::check_environment(&sources.environment, &layers, &mut findings);
    layers.push(environment);
    let Some(mut merged) = merge::merge(layers, &mut findings) else {
        return Err(findings.list);
    };
    // Faults that concern several keys are found in the same run as faults of single keys.
    let Some(validated) = validate::validate(&mut merged, sources, &mut findings) else {
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

/// The state directory according to these layers, which is needed before the layers in it can be
/// read. Faults are reported by [`load`].
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
