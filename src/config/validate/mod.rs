//! From the file model to the settings of each stage: checks that involve several keys.
//!
//! Every fault is reported with its line in the layer with the highest precedence. A fault of a
//! role, device, fleet or serial port disables that item; any other fault refuses the whole
//! configuration.

mod certificate;
mod device;
mod downlink;
mod family;
pub(super) use family::mute as mute_child;
mod filter;
mod firmware;
mod fleet;
mod includes;
mod judge;
mod metrics;
mod modbus;
mod mqtt;
mod reach;
mod renewal;
mod revocation;
mod role;
mod serial;
mod served;
mod stage;
mod update;
mod upstream;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::finding::{Finding, Findings, Place};
use super::layer::{dotted, from_folder};
use super::merge::{Index, Merged};
use super::settings::{Clock, ClockTrust, Gateway, IdSource, Log, LogTarget, Paths, Settings};
use super::{FileError, Known, Looked, Material, Sources, model};
use crate::credential::leaf::Usage;
use crate::gate;
use crate::message::{Lane, Name};
use crate::southbound::serial::settings::Duty;
use crate::update::settings::Source;

/// Where systemd puts the credentials of the service, as seen from outside of it.
const SERVICE_CREDENTIALS: &str = "/run/credentials/tombolo.service";
/// Longest expanded prefix, in bytes: leaves room for the rest of a topic of 1,024 bytes.
const PREFIX_MAX: usize = 512;

/// The context of every check.
pub(super) struct Context<'a> {
    pub(super) sources: &'a Sources<'a>,
    pub(super) index: &'a Index,
    pub(super) findings: &'a mut Findings,
}

impl Context<'_> {
    /// The place of a key; if the key is not set, the place of its table.
    fn place(&self, key: &[&str]) -> Option<&Place> {
        (1..=key.len()).rev().find_map(|n| self.index.place(&dotted(key[..n].iter().copied())))
    }

    /// Whether a key is set.
    fn has(&self, key: &[&str]) -> bool {
        self.index.place(&dotted(key.iter().copied())).is_some()
    }

    /// Adds place, key and remedy to a finding.
    fn at(&self, finding: Finding, key: &[&str], advice: &str) -> Finding {
        finding.at(self.place(key)).key(dotted(key.iter().copied())).advice(advice)
    }

    /// A fault that refuses the whole configuration.
    fn fatal(&mut self, key: &[&str], message: impl Into<String>, advice: &str) {
        let subject = key.first().copied().unwrap_or("configuration");
        let finding = self.at(Finding::fail(subject, message), key, advice);
        self.findings.fatal(finding);
    }

    /// A fault that leaves the rest in use.
    fn fail(&mut self, subject: &str, key: &[&str], message: impl Into<String>, advice: &str) {
        let finding = self.at(Finding::fail(subject, message), key, advice);
        self.findings.push(finding);
    }

    fn warn(&mut self, subject: &str, key: &[&str], message: impl Into<String>, advice: &str) {
        let finding = self.at(Finding::warn(subject, message), key, advice);
        self.findings.push(finding);
    }

    /// Resolves the path at a key, relative to the folder of its file.
    fn path(&self, key: &[&str], text: &str) -> PathBuf {
        from_folder(self.index.base(&dotted(key.iter().copied())), text)
    }

    /// Resolves the path of a secret: a file, or a systemd credential after `credential:`.
    fn secret(&mut self, key: &[&str], text: &str) -> Option<PathBuf> {
        let path = self.secret_path(key, text);
        if path.is_none() {
            self.fail_or_fatal(key, "this is not a credential name", "use \"credential:NAME\"");
        }
        path
    }

    /// The same without a finding: `None` if it is not a credential name.
    fn secret_path(&self, key: &[&str], text: &str) -> Option<PathBuf> {
        let Some(name) = text.strip_prefix("credential:") else {
            return Some(self.path(key, text));
        };
        if name.is_empty() || name.contains('/') || name.starts_with('.') {
            return None;
        }
        let folder = self.sources.credentials_directory.as_deref();
        Some(folder.unwrap_or(Path::new(SERVICE_CREDENTIALS)).join(name))
    }

    fn fail_or_fatal(&mut self, key: &[&str], message: &str, advice: &str) {
        match key {
            [table, item, ..] if super::layer::ITEM_TABLES.contains(table) => {
                self.fail(&format!("{table} {item}"), key, message, advice);
            }
            _ => self.fatal(key, message, advice),
        }
    }

    /// Reports a file that too many users can read, or that the service cannot read.
    fn judge(&mut self, subject: &str, key: &[&str], path: &Path, looked: &Looked, secret: bool) {
        let shown = path.display();
        if self.is_hidden(subject, key, path) {
            return;
        }
        if secret && looked.exposed {
            let message = format!("{shown} can be read by every user of this machine");
            self.warn(subject, key, message, &format!("chmod 0640 {shown}"));
        }
        if let Some(user) = &looked.closed_to {
            let advice = format!(
                "put it below /etc/tombolo, chgrp it to the group of {user} and chmod 0640; run as root, `tombolo init` copies \
                 the files it is given"
            );
            let message = format!("{shown} cannot be read by the service's user, {user}");
            self.fail(subject, key, message, &advice);
        }
    }

    /// Whether the unit hides the file from the service; a gateway that is started by hand sees it.
    fn is_hidden(&mut self, subject: &str, key: &[&str], path: &Path) -> bool {
        if self.sources.main.as_path() != Path::new(PACKAGED) {
            return false;
        }
        let Some(hidden) = self.sources.files.hidden(path) else { return false };
        let message = format!(
            "{} is below {}, which the service does not see ({}= in its unit)",
            path.display(),
            hidden.folder,
            hidden.setting
        );
        let advice = "put the file below /etc/tombolo; run as root, `tombolo init` copies the files it is given. A gateway of your \
                      own, which is no service, is named with --config FILE";
        self.fail(subject, key, message, advice);
        true
    }

    /// Whether this is a credential of the service, which may be out of sight from outside it.
    fn is_out_of_sight(&self, path: &Path) -> bool {
        path.starts_with(SERVICE_CREDENTIALS) && self.sources.credentials_directory.is_none()
    }

    fn out_of_sight(&mut self, subject: &str, key: &[&str]) {
        if self.sources.main.as_path() == Path::new(PACKAGED) {
            let advice = "LoadCredential= in the unit provides it; check again with the service running";
            self.warn(subject, key, "this credential cannot be seen from outside the service", advice);
            return;
        }
        // A gateway of somebody's own: no unit is known that could provide it.
        let message = "only systemd provides credentials, and $CREDENTIALS_DIRECTORY is not set here";
        let advice = "name the file itself, without credential:, or set CREDENTIALS_DIRECTORY to the folder that it is in; \
                      in a unit of your own LoadCredential= provides it";
        self.warn(subject, key, message, advice);
    }

    /// This user may not look; the service may be able to.
    fn closed(&mut self, subject: &str, key: &[&str], path: &Path) {
        let message = format!("{} may not be read by this user, so nothing is said about it", path.display());
        self.warn(subject, key, message, "run `sudo tombolo check`");
    }

    /// Checks whether a file that a stage opens later can be read.
    fn look_at(&mut self, subject: &str, key: &[&str], path: &Path, secret: bool) {
        let shown = path.display();
        match self.sources.files.look(path) {
            Ok(looked) => self.judge(subject, key, path, &looked, secret),
            Err(_) if self.is_out_of_sight(path) => self.out_of_sight(subject, key),
            // Others may see that there is none; this user cannot even look.
            Err(FileError::Denied) if self.is_hidden(subject, key, path) => {}
            Err(FileError::Denied) if self.sources.files.is_outsider() => self.closed(subject, key, path),
            Err(error) => {
                let what = match error {
                    FileError::Denied => READABLE,
                    FileError::NotAFile | FileError::TooLarge | FileError::Other(_) => {
                        "put a file in its place"
                    }
                    FileError::Missing => "put the file there",
                };
                let when = match subject {
                    "update" => "each check for newer firmware reads it",
                    _ => "the daemon looks again at every connection",
                };
                self.fail(subject, key, format!("{shown} {error}"), &format!("{what}; {when}"));
            }
        }
    }
}

/// What there is to do about a file that is there and that the gateway may not read.
const READABLE: &str = "give it to the user that runs the gateway, or chgrp it to that user's group and chmod 0640, and let \
                        the group enter its folder";

/// What there is to do about a file that cannot be read: `put` if it is not there.
fn way_to_read(error: &FileError, put: &str) -> String {
    match error {
        FileError::Denied => READABLE.to_owned(),
        _ => format!("{put}, readable to the service's user"),
    }
}

/// The packaged main file.
const PACKAGED: &str = "/etc/tombolo/tombolo.toml";

/// The advice where this program lacks a part.
fn built_with(feature: &str) -> String {
    format!("a program built with the cargo feature {feature} (on by default)")
}
/// What a merged configuration comes to.
pub(super) struct Validated {
    pub(super) settings: Settings,
    pub(super) known: Vec<Known>,
    pub(super) certificates: Arc<Material>,
}

/// Validates; `None` if a fault refuses the whole configuration.
pub(super) fn validate(
    merged: &mut Merged,
    sources: &Sources<'_>,
    findings: &mut Findings,
) -> Option<Validated> {
    // Each is dropped as soon as its device is made.
    let mut tables = std::mem::take(&mut merged.file.device);
    let asked = served::tables(&mut tables, &merged.file, sources);
    let merged = &*merged;
    let file = &merged.file;
    let mut context = Context { sources, index: &merged.index, findings };
    let cx = &mut context;
    let paths = paths(cx, &file.paths);
    let gateway = gateway(cx, &file.gateway);
    let prefix = prefix(cx, &file.topics, &gateway.id);
    let mut topics = upstream::topics(cx, &file.topics, &prefix, &gateway.id);
    let own = upstream::own_topics(file, &topics, &prefix, &gateway.id);
    let reply = upstream::reply_topic(file, &prefix, &gateway.id);
    let certificates = renewal::certificates(cx, file, &gateway.id, &paths);
    let of = |usage| certificates.iter().find(|certificate| certificate.settings.usage == usage);
    let served = of(Usage::Server).map(|certificate| certificate.settings.current());
    let renewed = of(Usage::Client);
    let journal = stage::journal(cx, &file.journal, &file.lane, paths.journal());
    let update = update::update(cx, &file.update, &file.role, &journal);
    if update.source == Source::None {
        (topics.own.update, topics.own.update_hint) = (None, None);
    }
    let mut upstream =
        upstream::upstream(cx, file.upstream.as_ref(), &gateway.id, topics.own, renewed, &paths);
    let has_port = file.serial.values().any(|port| port.enabled != Some(false));
    let has_others = has_port || mqtt::is_on(&file.mqtt);
    let mut coap = stage::coap(cx, &file.coap, has_others);
    coap.reports = firmware::reports(cx, &file.role);
    let material =
        certificate::material(cx, &file.coap, served.as_deref(), &paths, file.mqtt.client_ca_file.is_some());
    let revocation = revocation::fetchings(cx, file, &gateway.id, &paths, upstream.as_ref());
    let (roles, faulty) = role::roles(cx, &file.role);
    let mut gate = gate::Settings {
        gateway: gateway.id.clone(),
        prefix,
        reading: topics.reading,
        own: Arc::new(gate::own_topic::OwnTopics::new(own)),
        reply,
        roles,
        devices: Vec::new(),
        fleets: Vec::new(),
        withheld: gate::settings::Withheld::default(),
    };
    judge::roles(cx, &mut gate, faulty, &file.role);
    let hint = upstream.as_ref().and_then(|upstream| upstream.topics.update_hint.as_deref());
    let remote = (&file.remote, hint);
    let mut downlink = downlink::downlink(cx, &file.topics, &gate.prefix, &gateway.id, &gate.roles, remote);
    if let Some(upstream) = &mut upstream {
        upstream.commands = downlink.filters.clone();
        upstream::queries(cx, upstream, &gate.roles);
    }
    let mut serial = serial::ports(cx, &file.serial);
    let found = device::devices(cx, file, tables, &merged.bad, &gate.roles, &mut serial);
    let mut known = found.known;
    (gate.devices, gate.withheld) = (found.devices, found.withheld);
    judge::devices(cx, &mut gate, &mut known);
    gate.fleets = fleet::fleets(cx, file, &merged.bad, &gate.roles);
    fleet::judge(cx, &mut gate);
    fleet::exclusions(cx, &found.bare_off, &gate.fleets);
    family::parents(cx, &gate, &known);
    let by_mqtt = file.mqtt.client_ca_file.is_some() && file.coap.client_ca_file.is_none();
    certificate::needs(cx, material.as_deref(), coap.engine, served.is_some(), by_mqtt, &gate);
    let material = material.unwrap_or_else(|| certificate::none(&file.coap));
    coap.certificates = material.certificates(gate.devices.iter().filter_map(|device| device.public_key));
    coap.certificate_files = certificate::files(cx, &file.coap);
    let usable = |id: &Name| gate.devices.binary_search_by(|device| device.id.cmp(id)).is_ok();
    serial.retain_mut(|port| match &mut port.duty {
        Duty::Modbus(bus, _) => {
            bus.units.retain(|unit| usable(&unit.id));
            !bus.units.is_empty()
        }
        Duty::Readings { .. } | Duty::Slipmux { .. } => usable(&port.name),
    });
    for port in &serial {
        if let Some(table) = file.serial.get(port.name.as_str()) {
            reach::port(cx, &gate, port, table);
        }
    }
    reach::commands(cx, &gate, &serial);
    downlink.served = served::served(cx, file, &asked, &gate);
    stage::insecure_device(cx, &coap, &gate.devices);
    let mqtt = mqtt::mqtt(cx, &file.mqtt, &file.role);
    mqtt::needs(cx, &mqtt, &gate.devices);
    let metrics = metrics::metrics(cx, &file.metrics);
    if context.findings.fatal {
        return None;
    }
    let clock = Clock {
        trust: match file.clock.trust {
            Some(model::Trust::Always) => ClockTrust::Always,
            Some(model::Trust::Kernel) | None => ClockTrust::Kernel,
        },
    };
    let log = log(&file.log);
    let mut daily_bytes = [None; 2];
    daily_bytes[Lane::High.index()] = file.lane.high.daily_bytes;
    daily_bytes[Lane::Normal.index()] = file.lane.normal.daily_bytes;
    let settings = Settings {
        daily_bytes,
        gateway,
        gate,
        downlink,
        upstream,
        certificates,
        revocation,
        coap,
        mqtt,
        serial,
        journal,
        clock,
        log,
        update,
        metrics,
        paths,
    };
    Some(Validated { settings, known, certificates: material })
}

fn paths(cx: &Context<'_>, table: &model::Paths) -> Paths {
    let path = |name: &str, text: &Option<String>, default: &str| match text {
        Some(text) => cx.path(&["paths", name], text),
        None => PathBuf::from(default),
    };
    Paths {
        config_file: cx.sources.main.clone(),
        state_dir: path("state-dir", &table.state_dir, Paths::STATE_DIR),
        runtime_dir: path("runtime-dir", &table.runtime_dir, Paths::RUNTIME_DIR),
    }
}

fn gateway(cx: &mut Context<'_>, table: &model::Gateway) -> Gateway {
    let label = table.label.clone();
    let stored = cx.sources.gateway_id.as_deref().map(str::trim);
    let (made, id_source) = match (&table.id, stored) {
        (Some(id), _) => (Name::parse(id), IdSource::Configured),
        (None, Some(id)) => (Name::parse(id), IdSource::Stored),
        (None, None) => (Ok(placeholder()), IdSource::Missing),
    };
    match made {
        Ok(id) => Gateway { id, id_source, label },
        // The schema accepts no other configured id.
        Err(error) => {
            let message = format!("the id in the state directory is invalid: {error}");
            cx.fail("gateway", &["gateway", "id"], message, "set [gateway] id, or have a new one made");
            Gateway { id: placeholder(), id_source: IdSource::Missing, label }
        }
    }
}

fn placeholder() -> Name {
    Name::parse(Gateway::PLACEHOLDER).expect("the placeholder is written as a name")
}

fn prefix(cx: &mut Context<'_>, table: &model::Topics, gateway: &Name) -> String {
    let text = table.prefix.as_deref().unwrap_or("tombolo/{gateway}");
    let prefix = text.replace("{gateway}", gateway.as_str());
    let wrong = if prefix.is_empty() {
        Some("the prefix is empty")
    } else if prefix.len() > PREFIX_MAX {
        Some("the prefix has more than 512 bytes")
    } else if prefix.starts_with('$') {
        Some("topics that begin with '$' are reserved for the broker")
    } else if prefix.contains(['{', '}']) {
        Some("the only placeholder in a prefix is {gateway}")
    } else if prefix.split('/').any(str::is_empty) {
        Some("the prefix has no empty level and no '/' at either end")
    } else if !prefix.chars().all(|c| c == '/' || crate::message::is_topic_character(c)) {
        Some("the prefix has no '+', no '#' and no control character")
    } else {
        None
    };
    if let Some(wrong) = wrong {
        cx.fatal(&["topics", "prefix"], wrong, "use levels joined by '/', like \"tombolo/{gateway}\"");
    }
    prefix
}

fn log(table: &model::Log) -> Log {
    use model::LogLevel as L;
    let level = match table.level.unwrap_or(L::Info) {
        L::Error => log::LevelFilter::Error,
        L::Warn => log::LevelFilter::Warn,
        L::Info => log::LevelFilter::Info,
        L::Debug => log::LevelFilter::Debug,
        L::Trace => log::LevelFilter::Trace,
    };
    let target = match table.target {
        Some(model::LogTarget::Journal) => LogTarget::Journal,
        Some(model::LogTarget::Stderr) => LogTarget::Stderr,
        Some(model::LogTarget::Auto) | None => LogTarget::Auto,
    };
    Log { level, target }
}
