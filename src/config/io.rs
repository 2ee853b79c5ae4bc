//! The shell of the configuration: files, environment, credentials, and the id generated at the
//! first start.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "shell")]

use std::fs::{self, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::unistd::{AccessFlags, access};
use zeroize::Zeroizing;

use super::access_list::{self, AccessList, Asker};
use super::finding::{Finding, Level, Place};
use super::gateway_id::{self, Choice};
use super::sandbox::{Hidden, Sandbox};
use super::scalar::did_you_mean;
use super::state::{self, State};
use super::trial::{self, Standing, Trial};
use super::{Content, FileError, Files, IdSource, LayerText, Loaded, Looked, Origin, Paths, Sources};
use crate::durable::io::is_denied;
use crate::message::Name;

/// The main file unless another one is named.
pub const CONFIG_FILE: &str = "/etc/tombolo/tombolo.toml";
/// The name of its main file.
const MAIN_NAME: &str = "tombolo.toml";
/// Drop-ins of the image or the fleet, with the lowest precedence.
pub const VENDOR_CONF_D: &str = "/usr/lib/tombolo/conf.d";
/// Folders of Modbus templates: local ones, and those of the package.
const TEMPLATE_FOLDERS: [&str; 2] = ["/etc/tombolo/modbus", "/usr/share/tombolo/modbus"];
/// The folder of drop-ins in the state directory.
const STATE_CONF_D: &str = "conf.d";
/// Largest configuration file, in bytes.
pub const FILE_MAX: u64 = 16 << 20;

/// The places that configuration is read from.
#[derive(Clone, Debug)]
pub struct Options {
    /// The main file; `conf.d/` is in the same folder.
    pub config: PathBuf,
    /// The folder of drop-ins with the lowest precedence; [`VENDOR_CONF_D`].
    pub vendor_conf_d: PathBuf,
    /// The environment variables.
    pub environment: Vec<(String, String)>,
    /// `$CREDENTIALS_DIRECTORY`
    pub credentials_directory: Option<PathBuf>,
}

impl Options {
    /// Options with this main file and this process's environment.
    pub fn new(config: impl Into<PathBuf>) -> Options {
        let config = config.into();
        // Named alike by the daemon and by a command that was given another way to it.
        let config = std::path::absolute(&config).unwrap_or(config);
        let environment = std::env::vars_os()
            .filter_map(|(name, value)| {
                Some((name.into_string().ok()?, value.to_string_lossy().into_owned()))
            })
            .filter(|(name, _)| name.starts_with("TOMBOLO_"))
            .collect();
        Options {
            config,
            vendor_conf_d: VENDOR_CONF_D.into(),
            environment,
            credentials_directory: std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from),
        }
    }
}

/// Reads and validates everything. Last good versions from `previous` stay in use: for files of the
/// registry and of the state directory, and for the certificates of `[coap]`. Writes nothing.
///
/// Blocks on files; the daemon must not call it on the path's thread.
///
/// # Errors
/// All findings, if one of them refuses the whole configuration: the caller exits with 78, or keeps
/// its current configuration. A file of the state directory never causes this.
pub fn load(options: &Options, previous: Option<&Loaded>) -> Result<Loaded, Vec<Finding>> {
    read_all(options, previous, &[], false, View::Outside)
}

/// The journal's settings alone, whatever is wrong with the rest of the configuration.
///
/// # Errors
/// The findings, if a file cannot be read, or `[paths]`, `[journal]` or `[lane.*]` are wrong.
pub fn load_journal(options: &Options) -> Result<crate::journal::settings::Settings, Vec<Finding>> {
    const TABLES: [&str; 3] = ["paths", "journal", "lane"];
    let loaded = load_apart(options, &TABLES, &options.environment, &|_| Ok(()))?;
    Ok(loaded.settings.journal)
}

/// What the program that installs goes by: from files alone that nobody but root can change, and
/// from none of the state directory or the environment. Such a file refuses everything: what it
/// would say is not known.
///
/// # Errors
/// The findings, if a file is not trusted or cannot be read, or one of the tables is wrong.
pub fn load_update(options: &Options) -> Result<super::Settings, Vec<Finding>> {
    use crate::update::io::trusted::{self, Distrust};
    const TABLES: [&str; 6] = ["paths", "update", "clock", "gateway", "journal", "lane"];
    let trust = |path: &Path| match trusted::real_path(path) {
        Ok(_) | Err(Distrust::Missing) => Ok(()),
        Err(Distrust::Because(why)) => Err(why),
    };
    let loaded = load_apart(options, &TABLES, &[], &trust)?;
    let of_update = |finding: &Finding| finding.subject == "update" && finding.level == Level::Fail;
    let mut faults: Vec<Finding> = loaded.findings.into_iter().filter(of_update).collect();
    if let crate::update::settings::Source::Tuf(place) = &loaded.settings.update.source {
        for path in [Some(&place.root_file), place.ca_file.as_ref()].into_iter().flatten() {
            if let Err(why) = trust(path) {
                faults.push(distrusted(path, &why));
            }
        }
    }
    if faults.is_empty() { Ok(loaded.settings) } else { Err(faults) }
}

fn distrusted(path: &Path, why: &str) -> Finding {
    let place = Place { file: path.display().to_string().into(), line: None };
    Finding::fail("update", format!("is not read by the program that installs: {why}")).at(Some(&place))
}

/// Some tables of the files, whatever is wrong with the rest. `trust` is asked about each file and
/// folder before it is read.
fn load_apart(
    options: &Options,
    tables: &[&str],
    environment: &[(String, String)],
    trust: &dyn Fn(&Path) -> Result<(), String>,
) -> Result<Loaded, Vec<Finding>> {
    let (mut layers, mut faults) = (Vec::new(), Vec::new());
    let conf_d = Paths::conf_d(&options.config);
    for folder in [&options.vendor_conf_d, &conf_d] {
        faults.extend(trust(folder).err().map(|why| distrusted(folder, &why)));
    }
    if !faults.is_empty() {
        return Err(faults);
    }
    read_folder(&options.vendor_conf_d, Origin::Vendor, &mut layers, &mut faults);
    match read_layer(&options.config, Origin::Main) {
        Ok(main) => layers.push(main),
        Err(FileError::Missing) if is_packaged(&options.config) => {}
        Err(error) => faults.push(unreadable(&options.config, &error)),
    }
    read_folder(&conf_d, Origin::DropIn, &mut layers, &mut faults);
    if layers.is_empty() && faults.is_empty() {
        faults.push(unreadable(&options.config, &FileError::Missing));
    }
    for layer in &layers {
        faults.extend(trust(&layer.path).err().map(|why| distrusted(&layer.path, &why)));
    }
    if !faults.is_empty() {
        return Err(faults);
    }
    for layer in &mut layers {
        // One that does not parse is judged whole, and named.
        if let Ok(mut table) = layer.text.parse::<toml::Table>() {
            table.retain(|name, _| tables.contains(&name));
            layer.text = table.to_string();
        }
    }
    let prefixes: Vec<String> =
        tables.iter().map(|table| format!("TOMBOLO_{}__", table.to_uppercase())).collect();
    let mut environment = environment.to_vec();
    environment.retain(|(name, _)| prefixes.iter().any(|prefix| name.starts_with(prefix)));
    let loaded = super::load(&Sources {
        main: options.config.clone(),
        layers,
        environment,
        credentials_directory: None,
        gateway_id: None,
        registry: Arc::default(),
        certificates: None,
        template_folders: Vec::new(),
        files: &Disk { service: None, sandbox: None, is_outsider: false },
    });
    // The lines are those of what was kept.
    let without = |findings: &mut Vec<Finding>| findings.iter_mut().for_each(|finding| finding.line = None);
    match loaded {
        Ok(mut loaded) => {
            without(&mut loaded.findings);
            Ok(loaded)
        }
        Err(mut findings) => {
            without(&mut findings);
            Err(findings)
        }
    }
}

/// As [`load`], for a running daemon that looks at what a reload would find: it sees the files as
/// the service does, because it is the service.
///
/// # Errors
/// As [`load`].
pub fn load_to_compare(options: &Options, running: &Loaded) -> Result<Loaded, Vec<Finding>> {
    read_all(options, Some(running), &[], false, View::Service)
}

/// Who looks at the files.
#[derive(Clone, Copy, PartialEq, Eq)]
enum View {
    /// The service itself: what it can read it can read.
    Service,
    /// A command, which may be another user, outside the unit's sandbox.
    Outside,
}

/// As [`load`], with some files of another text than they have, or in place of ones that do not
/// exist yet: to try them.
pub(super) fn load_with(
    options: &Options,
    previous: Option<&Loaded>,
    instead: &[LayerText],
) -> Result<Loaded, Vec<Finding>> {
    read_all(options, previous, instead, false, View::Outside)
}

/// As [`load`], with one file that is not in place yet, or has another text.
///
/// # Errors
/// As [`load`].
pub fn load_candidate(
    options: &Options,
    origin: Origin,
    path: &Path,
    text: &str,
) -> Result<Loaded, Vec<Finding>> {
    let candidate = LayerText { origin, path: path.to_owned(), text: text.to_owned() };
    load_with(options, None, &[candidate])
}

/// As [`load`], for the start of the daemon: generates the gateway's id if there is none, and
/// repairs its files. If they cannot be written, that is reported as a problem, and [`settle`]
/// tries again.
///
/// # Errors
/// As [`load`].
pub fn load_to_run(options: &Options) -> Result<Loaded, Vec<Finding>> {
    read_all(options, None, &[], true, View::Service).map(settled)
}

/// As [`load_to_run`], for a reload of a running daemon.
///
/// # Errors
/// As [`load`].
pub fn load_to_reload(options: &Options, running: &Loaded) -> Result<Loaded, Vec<Finding>> {
    read_all(options, Some(running), &[], true, View::Service).map(settled)
}

fn settled(mut loaded: Loaded) -> Loaded {
    if let Err(error) = settle(&loaded.settings.paths, &mut loaded.state) {
        let problem = loaded.state.unsettled.as_ref().map(|decision| {
            gateway_id::unsettled(decision, &loaded.settings.paths.state_dir, &error.to_string())
        });
        loaded.state.problems.extend(problem);
    }
    loaded
}

/// Writes pending changes of the gateway's id files.
///
/// # Errors
/// The error of the system call; the pending changes stay in [`State::unsettled`].
pub fn settle(paths: &Paths, state: &mut State) -> io::Result<()> {
    let (Some(decision), Some(made)) = (&state.unsettled, &state.made_id) else { return Ok(()) };
    gateway_id::io::store(&paths.state_dir, decision, made)?;
    state.unsettled = None;
    // Damaged files have been set aside; the remaining faults are separate.
    let decision = gateway_id::io::look(&paths.state_dir, state.made_id.as_ref());
    state.problems.retain(|problem| problem.subject != gateway_id::SUBJECT);
    state.problems.extend(id_problems(paths, &decision, state.made_id.as_ref()));
    Ok(())
}

/// The problems of the id's files: current ones, and those of files set aside.
fn id_problems(
    paths: &Paths,
    decision: &gateway_id::Decision,
    made: Option<&gateway_id::MadeId>,
) -> Vec<Finding> {
    let mut problems = gateway_id::findings(decision, &paths.state_dir);
    let aside = state::io::set_aside(&paths.state_dir);
    let aside: Vec<String> = aside.into_iter().filter(|name| gateway_id::is_aside(name)).collect();
    problems.extend(made.and_then(|made| gateway_id::set_aside(made, &paths.state_dir, &aside)));
    problems
}

fn read_all(
    options: &Options,
    previous: Option<&Loaded>,
    instead: &[LayerText],
    to_run: bool,
    view: View,
) -> Result<Loaded, Vec<Finding>> {
    let mut layers = Vec::new();
    let mut faults = Vec::new();
    read_folder(&options.vendor_conf_d, Origin::Vendor, &mut layers, &mut faults);
    let tried = instead.iter().find(|layer| layer.origin == Origin::Main);
    let main = tried.map_or_else(|| read_layer(&options.config, Origin::Main), |tried| Ok(tried.clone()));
    let mut after = Vec::new();
    read_folder(&Paths::conf_d(&options.config), Origin::DropIn, &mut after, &mut faults);
    for instead in instead.iter().filter(|layer| layer.origin == Origin::DropIn) {
        after.retain(|layer| layer.path != instead.path);
        after.push(instead.clone());
        after.sort_by(|a, b| a.path.cmp(&b.path));
    }
    let mut without_main = None;
    match main {
        Ok(main) => after.insert(0, main),
        // An image may have drop-ins alone. A file that is named is meant, and with its drop-ins
        // alone it would be another gateway: with the state and the ports of the packaged one.
        // Where that folder is read-only, there is nothing to be put into it.
        Err(FileError::Missing) if may_be_without_main(options, &layers, &after) => {
            let is_closed = match view {
                View::Outside => is_read_only(&options.config),
                View::Service => is_read_only_outside(&options.config),
            };
            without_main = (!is_closed).then(|| missing_main(&options.config));
        }
        Err(error) => faults.push(unreadable(&options.config, &error)),
    }
    if !faults.is_empty() {
        return Err(faults);
    }
    let state_dir = {
        let all: Vec<LayerText> = layers.iter().chain(&after).cloned().collect();
        super::state_dir(&all, &options.environment)
    };
    let paths = Paths { config_file: options.config.clone(), state_dir, runtime_dir: PathBuf::new() };
    let last = previous.map(|previous| &previous.state);
    if view == View::Outside
        && let Some(closed) = closed(&paths)
    {
        let _ = trial(&paths.state_dir, [&mut after, &mut Vec::new()], instead);
        return without_state(options, &layers, &after, &paths, closed);
    }
    let folder = paths.state_conf_d();
    let (mut of_state, mut problems) = state::assemble(&folder, state::io::read(&folder, FILE_MAX), last);
    let (on_trial, of_trial) = trial(&paths.state_dir, [&mut after, &mut of_state], instead);
    of_state.retain(|layer| !instead.iter().any(|tried| tried.path == layer.path));
    let running = last.and_then(|last| last.made_id.as_ref());
    let decision = gateway_id::io::look(&paths.state_dir, running);
    let made = match &decision.choice {
        Choice::Known(made) => Some(made.clone()),
        Choice::New(making) => to_run.then(|| gateway_id::io::draw(*making)),
    };
    let registry =
        Arc::new(super::registry::io::load(&paths.devices(), previous.map(|previous| &*previous.registry)));
    let disk = Disk::new(&options.config, &paths.state_dir, view);
    let of_files: Vec<LayerText> = layers.iter().chain(&after).cloned().collect();
    let load = |of_state: &[LayerText]| {
        super::load(&Sources {
            main: options.config.clone(),
            layers: layers.iter().chain(of_state).chain(&after).cloned().collect(),
            environment: options.environment.clone(),
            credentials_directory: options.credentials_directory.clone(),
            gateway_id: made.as_ref().map(|made| made.id.to_string()),
            registry: registry.clone(),
            certificates: previous.map(|previous| previous.certificates.clone()),
            template_folders: template_folders(&options.config),
            files: &disk,
        })
    };
    let (mut loaded, layers, unfit) = state::fit(of_state, last, load)?;
    if let Some(running) = previous {
        loaded.share_devices(running);
    }
    problems.extend(unfit);
    problems.extend(of_trial);
    let mut aside = state::io::set_aside(&paths.state_dir);
    aside.retain(|name| !gateway_id::is_aside(name));
    problems.extend(state::set_aside(&paths.state_dir, &aside));
    loaded.findings.extend(without_main);
    let is_tried = |layer: &&LayerText| instead.iter().any(|tried| tried.path == layer.path);
    let of_files = of_files.iter().filter(|layer| !is_tried(layer));
    loaded.findings.extend(closed_to_service(&disk, of_files));
    loaded.state = State { layers, problems, trial: on_trial, ..State::default() };
    // If `[gateway] id` is set, the generated id is not needed.
    if loaded.settings.gateway.id_source != IdSource::Configured {
        loaded.state.problems.extend(id_problems(&paths, &decision, made.as_ref()));
        loaded.state.events.extend(gateway_id::event(&decision, &paths.state_dir, made.as_ref()));
        loaded.state.unsettled = Some(decision).filter(|decision| !decision.is_settled());
        loaded.state.made_id = made;
    }
    Ok(loaded)
}

/// Puts back what was before a trial that is over, beside the main file or below the state
/// directory; the trial that is in force, and what to say.
/// One about a file in `instead` is none: another text of it is being tried.
fn trial(
    state_dir: &Path,
    [files, of_state]: [&mut Vec<LayerText>; 2],
    instead: &[LayerText],
) -> (Option<Trial>, Option<Finding>) {
    let trial = match trial::io::read(state_dir) {
        Ok(Some(trial)) if instead.iter().any(|layer| layer.path == trial.file) => return (None, None),
        Ok(Some(trial)) => trial,
        Ok(None) => return (None, None),
        Err(condition) => {
            let place =
                Place { file: state_dir.join(trial::FILE_NAME).display().to_string().into(), line: None };
            let finding =
                Finding::warn("configuration", format!("{condition}; the files are used as they are"));
            return (None, Some(finding.at(Some(&place)).advice("delete it")));
        }
    };
    let is_of_state = of_state.iter().any(|layer| layer.path == trial.file);
    let layers = if is_of_state { of_state } else { files };
    match trial.apply(layers, &trial::io::moment()) {
        Standing::Pending(_) => (Some(trial), None),
        Standing::Unrelated => {
            let text = layers.iter().find(|layer| layer.path == trial.file).map(|layer| &layer.text);
            if text == trial.before.as_ref() {
                return (None, None);
            }
            let place = Place { file: trial.file.display().to_string().into(), line: None };
            let message =
                "it was changed during its trial, so it is used as it is and nothing will put it back";
            let advice = "`tombolo config confirm` keeps it; `tombolo config revert` does so too, and writes what was \
                          there before into the state directory";
            (None, Some(Finding::warn("configuration", message).at(Some(&place)).advice(advice)))
        }
        Standing::Over => {
            let place = Place { file: trial.file.display().to_string().into(), line: None };
            let message = "it was on trial and not confirmed in time: what was there before is used";
            let advice =
                "`tombolo config revert` puts that back in place, `tombolo config confirm` uses the new file";
            (None, Some(Finding::fail("configuration", message).at(Some(&place)).advice(advice)))
        }
    }
}

/// The texts that can be read, for commands that show or complete something from them.
pub struct Texts {
    /// The files, lowest precedence first; those of the state directory too.
    pub layers: Vec<LayerText>,
    /// Files that cannot be read.
    pub unread: Vec<Finding>,
    /// The state directory.
    pub state_dir: PathBuf,
    /// What of all this exists and may not be read by this user.
    pub closed: Option<PathBuf>,
}

/// Reads the texts and judges nothing.
pub fn texts(options: &Options) -> Texts {
    let (mut layers, mut after, mut unread) = (Vec::new(), Vec::new(), Vec::new());
    let mut without = None;
    read_folder(&options.vendor_conf_d, Origin::Vendor, &mut layers, &mut unread);
    match read_layer(&options.config, Origin::Main) {
        Ok(main) => after.push(main),
        Err(error) => without = Some(error),
    }
    read_folder(&Paths::conf_d(&options.config), Origin::DropIn, &mut after, &mut unread);
    if let Some(error) = without
        && !(error == FileError::Missing && may_be_without_main(options, &layers, &after))
    {
        unread.insert(0, unreadable(&options.config, &error));
    }
    let all: Vec<LayerText> = layers.iter().chain(&after).cloned().collect();
    let state_dir = super::state_dir(&all, &options.environment);
    let folder = state_dir.join(STATE_CONF_D);
    let paths = Paths {
        config_file: options.config.clone(),
        state_dir: state_dir.clone(),
        runtime_dir: PathBuf::new(),
    };
    let denied = FileError::Denied.to_string();
    let file =
        unread.iter().find(|finding| finding.message == denied).and_then(|finding| finding.file.clone());
    let of_state = closed(&paths);
    if let Some(closed) = &of_state {
        let place = Place { file: closed.display().to_string().into(), line: None };
        let message =
            "may not be read by this user, so values that are set below the state directory are not shown";
        let finding = Finding::warn("state", message).at(Some(&place));
        unread.push(finding.advice("run this as root or as the user that the gateway runs as"));
    } else {
        let (mut found, problems) = state::assemble(&folder, state::io::read(&folder, FILE_MAX), None);
        unread.extend(problems);
        unread.extend(trial(&state_dir, [&mut after, &mut found], &[]).1);
        layers.extend(found);
    }
    layers.extend(after);
    Texts { layers, unread, state_dir, closed: of_state.or(file.map(PathBuf::from)) }
}

/// What of the state directory this user may not read, if anything.
fn closed(paths: &Paths) -> Option<PathBuf> {
    let own = nix::unistd::Uid::effective().as_raw();
    // What is closed to the service's own user is a fault.
    if fs::metadata(&paths.state_dir).is_ok_and(|metadata| metadata.uid() == own) {
        return None;
    }
    let id = |name: &str| paths.state_dir.join(name);
    let read = [
        paths.state_dir.clone(),
        paths.state_conf_d(),
        paths.devices(),
        id(gateway_id::PLAIN),
        id(gateway_id::COPY),
    ];
    let is_closed = |path: &PathBuf| is_denied(path);
    let of_devices = || {
        let entries = fs::read_dir(paths.devices()).into_iter().flatten().flatten();
        let files =
            entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|e| e == "toml"));
        files.take(1).find(&is_closed)
    };
    read.iter().find(|path| is_closed(path)).cloned().or_else(of_devices)
}

/// The configuration without what is in the state directory.
fn without_state(
    options: &Options,
    layers: &[LayerText],
    after: &[LayerText],
    paths: &Paths,
    closed: PathBuf,
) -> Result<Loaded, Vec<Finding>> {
    let mut loaded = super::load(&Sources {
        main: options.config.clone(),
        layers: layers.iter().chain(after).cloned().collect(),
        environment: options.environment.clone(),
        credentials_directory: options.credentials_directory.clone(),
        gateway_id: None,
        registry: Arc::default(),
        certificates: None,
        template_folders: template_folders(&options.config),
        files: &Disk::new(&options.config, &paths.state_dir, View::Outside),
    })?;
    // Nor is this the gateway's configuration, without its id and the devices of the registry.
    loaded.findings.retain(|finding| !(finding.level == Level::Ok && finding.subject == "configuration"));
    let partly = partly(&loaded, &closed);
    loaded.findings.push(partly);
    loaded.state.closed = Some(closed);
    Ok(loaded)
}

/// What is known of a gateway without what is in its state directory.
fn partly(loaded: &Loaded, closed: &Path) -> Finding {
    let settings = &loaded.settings;
    let id = match settings.gateway.id_source {
        IdSource::Missing => String::new(),
        _ => format!("gateway {}, ", settings.gateway.id),
    };
    let message = format!(
        "{id}roles: {}, devices in the configuration files: {}; {} may not be read by this user, so this is not all",
        settings.gate.roles.len(),
        settings.gate.devices.len(),
        closed.display()
    );
    Finding::ok("configuration", message)
}

/// `modbus/` next to the main file, so that everything can be in one folder, and then the system's
/// folders.
fn template_folders(main: &Path) -> Vec<PathBuf> {
    let beside = main.parent().unwrap_or(Path::new("")).join("modbus");
    // A folder that is not there is not named either.
    let others =
        TEMPLATE_FOLDERS.map(PathBuf::from).into_iter().filter(|folder| *folder != beside && folder.is_dir());
    std::iter::once(beside.clone()).chain(others).collect()
}

/// Generates the gateway's id, `tb-` and 8 characters of base32, and stores it, unless one is
/// stored already.
///
/// # Errors
/// The state directory cannot be written.
pub fn make_gateway_id(paths: &Paths) -> io::Result<Name> {
    gateway_id::io::find_or_make(paths)
}

/// A link that leads nowhere.
fn dangling(path: &Path) -> Finding {
    let place = Place { file: path.display().to_string().into(), line: None };
    let finding = Finding::fail("configuration", "is a link to a file that does not exist");
    finding.at(Some(&place)).advice("make that file, or remove the link")
}

fn unreadable(path: &Path, error: &FileError) -> Finding {
    if *error == FileError::Missing && path.is_symlink() {
        return dangling(path);
    }
    let place = Place { file: path.display().to_string().into(), line: None };
    let advice = match error {
        FileError::Missing => missing_advice(near(path).as_deref()),
        FileError::Denied => denied_advice(path),
        // Of a link that leads to itself nothing is to be put anywhere.
        _ if path.is_symlink() && !path.exists() => {
            "remove the link, or let it lead to a text file".to_owned()
        }
        _ => "put a text file there".to_owned(),
    };
    Finding::fail("configuration", error.to_string()).at(Some(&place)).advice(advice)
}

/// What there is to do about a main file that does not exist. `near`: one that may be meant.
pub fn missing_advice(near: Option<&Path>) -> String {
    match near {
        Some(near) => format!("did you mean --config {}?", near.display()),
        None => "name another one with --config, or make it: tombolo init --url mqtts://HOST".to_owned(),
    }
}

/// Whether that is the main file's place unless `--config` names another one.
pub fn is_packaged(config: &Path) -> bool {
    config == Path::new(CONFIG_FILE)
}

/// Whether the packaged gateway does without its main file: an image may have drop-ins alone, those
/// of its vendor, or what `init` wrote below the state directory. `layers`: the vendor's;
/// `after`: those beside the main file.
fn may_be_without_main(options: &Options, layers: &[LayerText], after: &[LayerText]) -> bool {
    if !is_packaged(&options.config) || options.config.is_symlink() {
        return false;
    }
    let is_left = || {
        let state_dir = super::state_dir(layers, &options.environment);
        let files = fs::read_dir(state_dir.join(STATE_CONF_D)).into_iter().flatten().flatten();
        files.map(|entry| entry.path()).any(|path| path.extension().is_some_and(|e| e == "toml"))
    };
    // The package itself has one for `[update]`, which makes no gateway.
    let is_more = |layer: &LayerText| {
        layer.text.parse::<toml::Table>().is_ok_and(|table| table.keys().any(|name| name != "update"))
    };
    !after.is_empty() || layers.iter().any(is_more) || is_left()
}

/// Whether a path, or its next folder that exists, is on a file system that is read-only. A right
/// that is missing is not that.
pub fn is_read_only(path: &Path) -> bool {
    let there = path.ancestors().find(|path| path.symlink_metadata().is_ok());
    there.is_some_and(|there| access(there, AccessFlags::W_OK) == Err(Errno::EROFS))
}

/// The same for a process in the service's sandbox, which shows it nearly all as read-only: whether
/// the file system is so by itself.
fn is_read_only_outside(path: &Path) -> bool {
    let there = path.ancestors().find_map(|folder| fs::canonicalize(folder).ok());
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    there.is_some_and(|there| crate::system::mounts::is_read_only(&mounts, &there) == Some(true))
}

/// The file that may be meant by the name of one that does not exist: in the same folder, with a
/// similar name, or else `tombolo.toml`.
pub fn near(path: &Path) -> Option<PathBuf> {
    let (folder, name) = (path.parent()?, path.file_name()?.to_str()?);
    let entries = fs::read_dir(if folder.as_os_str().is_empty() { Path::new(".") } else { folder }).ok()?;
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|other| other != name && other.ends_with(".toml") && !other.starts_with('.'))
        .filter(|other| folder.join(other).is_file())
        .collect();
    names.sort();
    let found = did_you_mean(name, names.iter().map(String::as_str));
    let found = found.or_else(|| names.iter().map(String::as_str).find(|name| *name == MAIN_NAME))?;
    Some(folder.join(found))
}

/// Why this user may not read a file, and who may.
fn denied_advice(path: &Path) -> String {
    let own = nix::unistd::Uid::effective().as_raw();
    let unit = sandbox();
    let service = unit.user.as_deref().and_then(|name| nix::unistd::User::from_name(name).ok().flatten());
    let service = service.map(|user| Service::with(user.uid.as_raw(), user.gid.as_raw()));
    denied_way_out(path, own, service.as_ref())
}

/// As [`denied_advice`], to the user `own`. `service`: the user of the packaged service, if there
/// is one.
fn denied_way_out(path: &Path, own: u32, service: Option<&Service>) -> String {
    match fs::metadata(path) {
        // The owner, or a file that the service may not read either: another user would not help.
        Ok(file)
            if file.mode() & 0o044 == 0
                || file.uid() == own
                || service.map_or(file.gid() == 0 && file.mode() & 0o004 == 0, |service| {
                    !service.reads(path, &file)
                }) =>
        {
            let shown = path.display();
            format!(
                "it is of {} with mode {:04o}: `chmod 0644 {shown}`, or run this as a user who may read it",
                user_name(file.uid()),
                file.mode() & 0o7777
            )
        }
        _ => "run this as root or as the service's user".to_owned(),
    }
}

/// Files of the configuration that this user reads, and the service does not: it does not start.
fn closed_to_service<'l>(
    disk: &'l Disk,
    layers: impl Iterator<Item = &'l LayerText> + 'l,
) -> impl Iterator<Item = Finding> + 'l {
    layers.filter_map(move |layer| {
        let metadata = fs::metadata(&layer.path).ok()?;
        let user = disk.judge(&layer.path, &metadata).closed_to?;
        let place = Place { file: layer.path.display().to_string().into(), line: None };
        let message =
            format!("cannot be read by the service's user, {user}: it refuses a reload, and does not start");
        let advice = format!("`chmod 0644 {}`, and let that user enter its folder", layer.path.display());
        Some(Finding::fail("configuration", message).at(Some(&place)).advice(advice))
    })
}

/// There are drop-ins, and no file that they are beside.
fn missing_main(path: &Path) -> Finding {
    let place = Place { file: path.display().to_string().into(), line: None };
    let advice = "put the package's file there, or roles into the drop-ins";
    Finding::warn("configuration", "does not exist; only the drop-ins beside it are read")
        .at(Some(&place))
        .advice(advice)
}

fn read_layer(path: &Path, origin: Origin) -> Result<LayerText, FileError> {
    Ok(LayerText { origin, path: path.to_owned(), text: read_text(path, FILE_MAX)? })
}

/// The `*.toml` of a folder in name order; hidden files are ignored, and a folder that does not
/// exist is empty.
fn read_folder(folder: &Path, origin: Origin, layers: &mut Vec<LayerText>, faults: &mut Vec<Finding>) {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return;
        }
        Err(error) => return faults.push(unreadable(folder, &error.into())),
    };
    let mut paths: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|e| e == "toml"))
        .filter(|path| path.file_name().is_some_and(|name| !name.as_encoded_bytes().starts_with(b".")))
        .collect();
    paths.sort();
    for path in paths {
        match read_layer(&path, origin) {
            Ok(layer) => layers.push(layer),
            // It is named in the folder, so it is a link that leads nowhere.
            Err(FileError::Missing) => faults.push(dangling(&path)),
            Err(error) => faults.push(unreadable(&path, &error)),
        }
    }
}

impl From<io::Error> for FileError {
    fn from(error: io::Error) -> FileError {
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => FileError::Missing,
            io::ErrorKind::PermissionDenied => FileError::Denied,
            _ => FileError::Other(error.to_string()),
        }
    }
}

fn open(path: &Path, limit: u64) -> Result<(fs::File, fs::Metadata), FileError> {
    // O_NONBLOCK: opening a named pipe must not wait for a writer.
    let file = OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(FileError::NotAFile);
    }
    if metadata.len() > limit {
        return Err(FileError::TooLarge);
    }
    Ok((file, metadata))
}

fn read_text(path: &Path, limit: u64) -> Result<String, FileError> {
    let (file, _) = open(path, limit)?;
    let mut bytes = Vec::new();
    file.take(limit).read_to_end(&mut bytes)?;
    String::from_utf8(bytes).map_err(|_| FileError::Other("it is not UTF-8".to_owned()))
}

/// The user that the service runs as, as far as it can be known from outside.
#[derive(Clone, Debug)]
struct Service {
    uid: u32,
    groups: Vec<u32>,
}

impl Service {
    /// The owner of the state directory; before there is one, the user of the unit.
    fn find(state_dir: &Path, sandbox: Option<&Sandbox>) -> Option<Service> {
        if let Ok(metadata) = fs::metadata(state_dir) {
            return Some(Service::with(metadata.uid(), metadata.gid()));
        }
        let user = nix::unistd::User::from_name(sandbox?.user.as_deref()?).ok()??;
        Some(Service::with(user.uid.as_raw(), user.gid.as_raw()))
    }

    fn with(uid: u32, gid: u32) -> Service {
        let mut groups = vec![gid];
        let user = nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(uid)).ok().flatten();
        if let Some(user) = user
            && let Ok(name) = std::ffi::CString::new(user.name)
            && let Ok(all) = nix::unistd::getgrouplist(&name, user.gid)
        {
            groups.extend(all.into_iter().map(nix::unistd::Gid::as_raw));
        }
        Service { uid, groups }
    }

    /// Whether the mode bits, or the access list, grant this user what `bit` (4 read, 1 search)
    /// stands for.
    fn may(&self, path: &Path, metadata: &fs::Metadata, bit: u32) -> bool {
        let mode = metadata.mode();
        let (owner, group) = (metadata.uid(), metadata.gid());
        let asker = Asker { uid: self.uid, groups: &self.groups, owner, group };
        if self.uid != 0
            && let Some(list) = access_list(path)
        {
            return list.grants(&asker, bit);
        }
        match () {
            () if self.uid == 0 => true,
            () if self.uid == metadata.uid() => mode & (bit << 6) != 0,
            () if self.groups.contains(&metadata.gid()) => mode & (bit << 3) != 0,
            () => mode & bit != 0,
        }
    }

    /// Whether every folder on the way lets it pass, and the file lets it read.
    fn reads(&self, path: &Path, metadata: &fs::Metadata) -> bool {
        let whole = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let passes =
            |folder: &Path| fs::metadata(folder).map_or(true, |metadata| self.may(folder, &metadata, 1));
        self.may(&whole, metadata, 4) && whole.ancestors().skip(1).all(passes)
    }
}

/// The access list of a file, if it has one that can be read.
fn access_list(path: &Path) -> Option<AccessList> {
    let mut value = Vec::new();
    // The usual list has few entries.
    for size in [256, access_list::ATTRIBUTE_MAX] {
        value.resize(size, 0);
        match rustix::fs::getxattr(path, access_list::ATTRIBUTE, &mut value[..]) {
            Ok(length) => return AccessList::parse(value.get(..length)?),
            Err(rustix::io::Errno::RANGE) => {}
            Err(_) => return None,
        }
    }
    None
}

/// The sandbox of the unit that is installed, with its drop-ins; of the packaged one where none is.
pub fn sandbox() -> Sandbox {
    sandbox_in(&UNIT_FOLDERS.map(PathBuf::from))
}

/// Most names of a folder that are looked at for what may be meant.
const NAMES_MAX: usize = 1_000;
/// Where systemd looks for units (systemd.unit(5)).
const UNIT_FOLDERS: [&str; 5] = [
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];

/// The text of the unit that is installed and of its drop-ins, in their order; empty where none is.
pub fn unit_texts() -> Vec<String> {
    unit_texts_in(&UNIT_FOLDERS.map(PathBuf::from))
}

/// The unit of the first folder that has one; drop-ins of all, by name, the first of a name wins
/// (systemd.unit(5)).
fn sandbox_in(folders: &[PathBuf]) -> Sandbox {
    let texts = unit_texts_in(folders);
    match texts.is_empty() {
        true => Sandbox::packaged(),
        false => Sandbox::parse(texts.iter().map(String::as_str)),
    }
}

fn unit_texts_in(folders: &[PathBuf]) -> Vec<String> {
    let unit = folders.iter().find_map(|folder| fs::read_to_string(folder.join("tombolo.service")).ok());
    let mut drop_ins = std::collections::BTreeMap::new();
    for folder in folders {
        let Ok(entries) = fs::read_dir(folder.join("tombolo.service.d")) else { continue };
        for entry in entries.flatten() {
            let path = entry.path();
            if path.extension().is_some_and(|extension| extension == "conf") {
                drop_ins.entry(entry.file_name()).or_insert(path);
            }
        }
    }
    let mut texts: Vec<String> = unit.into_iter().collect();
    texts.extend(drop_ins.into_values().filter_map(|path| fs::read_to_string(path).ok()));
    texts
}

/// The real files.
struct Disk {
    /// Who reads them later, where that is another user than this process's.
    service: Option<Service>,
    /// What the unit keeps from it.
    sandbox: Option<Sandbox>,
    /// This process is a command of a user who may see less than the service.
    is_outsider: bool,
}

impl Disk {
    fn new(config: &Path, state_dir: &Path, view: View) -> Disk {
        let outside = view == View::Outside;
        let sandbox = (outside && config == Path::new(CONFIG_FILE)).then(sandbox);
        let own = nix::unistd::Uid::effective().as_raw();
        let service = Service::find(state_dir, sandbox.as_ref());
        // Without a state directory nobody else is known to be the service.
        let is_outsider = outside && own != 0 && service.as_ref().is_some_and(|service| service.uid != own);
        Disk { service: service.filter(|service| outside && service.uid != own), sandbox, is_outsider }
    }

    fn judge(&self, path: &Path, metadata: &fs::Metadata) -> Looked {
        // Credentials are handed over by systemd.
        let is_credential = path.starts_with("/run/credentials");
        let closed = |service: &&Service| !is_credential && !service.reads(path, metadata);
        let closed_to = self.service.as_ref().filter(closed).map(|service| user_name(service.uid));
        Looked { exposed: metadata.mode() & 0o007 != 0, closed_to }
    }
}

/// The name of the user that the service runs as, and its group, if a file is closed to it or out
/// of its sight.
///
/// `config` and `state_dir` as the service has them.
pub fn withheld(path: &Path, config: &Path, state_dir: &Path) -> Option<Withheld> {
    let disk = Disk::new(config, state_dir, View::Outside);
    let whole = fs::canonicalize(path).ok()?;
    let metadata = fs::metadata(&whole).ok()?;
    let hidden = disk.sandbox.as_ref().and_then(|sandbox| sandbox.hides(&whole));
    let looked = disk.judge(&whole, &metadata);
    if hidden.is_none() && looked.closed_to.is_none() {
        return None;
    }
    let service = disk.service.or_else(|| Service::find(state_dir, disk.sandbox.as_ref()));
    let group = service.as_ref().and_then(|service| service.groups.first().copied());
    Some(Withheld { hidden, closed_to: looked.closed_to, group })
}

/// Why a file is of no use to the service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Withheld {
    /// It does not see it.
    pub hidden: Option<Hidden>,
    /// It may not read it.
    pub closed_to: Option<String>,
    /// The service's group, if it is known.
    pub group: Option<u32>,
}

/// The name of a user; `user 1000` if the system has none.
pub fn user_name(uid: u32) -> String {
    let user = nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(uid)).ok().flatten();
    user.map_or_else(|| format!("user {uid}"), |user| user.name)
}

impl Files for Disk {
    fn read(&self, path: &Path, max_bytes: u64) -> Result<Content, FileError> {
        let (file, metadata) = open(path, max_bytes)?;
        let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or(0) + 1));
        file.take(max_bytes).read_to_end(&mut bytes)?;
        Ok(Content { bytes, looked: self.judge(path, &metadata) })
    }

    fn look(&self, path: &Path) -> Result<Looked, FileError> {
        let (_, metadata) = open(path, FILE_MAX)?;
        Ok(self.judge(path, &metadata))
    }

    fn names(&self, folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten().take(NAMES_MAX);
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }

    fn is_outsider(&self) -> bool {
        self.is_outsider
    }

    fn hidden(&self, path: &Path) -> Option<Hidden> {
        let sandbox = self.sandbox.as_ref()?;
        let whole = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        sandbox.hides(path).or_else(|| sandbox.hides(&whole))
    }
}

/// For tests: devices `a` of role `r`, with a password, and `b` of role `s` behind it, under these
/// rules.
#[cfg(test)]
pub(crate) fn test_device_rules(rules: &str) -> Loaded {
    let text = format!(
        "[gateway]\nid = \"gw\"\n[paths]\nstate-dir = \"state\"\nruntime-dir = \"run\"\n[mqtt]\ninsecure-listen = [\"127.0.0.1:1883\"]\n\
         {rules}\n[device.a]\nrole = \"r\"\npassword-file = \"a.password\"\ntags = {{ site = \"north\" }}\n[device.b]\nrole = \"s\"\nparent = \"a\"\n"
    );
    static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let folder = std::env::temp_dir().join(format!("tombolo-acl-{}-{number}", std::process::id()));
    fs::create_dir_all(&folder).expect("a folder");
    let config = folder.join("tombolo.toml");
    fs::write(&config, text).expect("a file");
    fs::write(folder.join("a.password"), "text:secret").expect("a file");
    let options = Options {
        config,
        vendor_conf_d: folder.join("vendor"),
        environment: Vec::new(),
        credentials_directory: None,
    };
    let loaded = load(&options, None).expect("a configuration");
    let _ = fs::remove_dir_all(&folder);
    loaded
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn the_first_unit_counts_and_drop_ins_of_every_folder_by_name() {
        let top = std::env::temp_dir().join(format!("tombolo-units-{}", std::process::id()));
        let folders = [top.join("etc"), top.join("lib")];
        for folder in &folders {
            fs::create_dir_all(folder.join("tombolo.service.d")).unwrap();
        }
        assert_eq!(sandbox_in(&folders), Sandbox::packaged(), "none is installed");
        fs::write(folders[1].join("tombolo.service"), "[Service]\nProtectHome=yes\nUser=other\n").unwrap();
        assert_eq!(sandbox_in(&folders).user.as_deref(), Some("other"));
        let drop_in = |folder: usize, name: &str, text: &str| {
            fs::write(folders[folder].join("tombolo.service.d").join(name), text).unwrap();
        };
        drop_in(1, "20.conf", "[Service]\nProtectHome=no\n");
        assert_eq!(sandbox_in(&folders).hides(Path::new("/home/a")), None);
        drop_in(0, "20.conf", "[Service]\nUser=third\n");
        let masked = sandbox_in(&folders);
        assert!(masked.hides(Path::new("/home/a")).is_some(), "the one in /etc takes its place");
        assert_eq!(masked.user.as_deref(), Some("third"));
        fs::remove_dir_all(&top).unwrap();
    }

    #[test]
    fn a_file_of_the_configuration_that_the_service_may_not_read_is_judged_as_by_the_service() {
        let folder = std::env::temp_dir().join(format!("tombolo-closed-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
        let path = folder.join("30-rules.toml");
        fs::write(&path, "").unwrap();
        let set = |mode: u32| fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let group = fs::metadata(&path).unwrap().gid();
        let (stranger, other) = (4_000_000, 4_000_001);
        let service = |gid: u32| Service { uid: stranger, groups: vec![gid] };
        let layer = LayerText { origin: Origin::DropIn, path: path.clone(), text: String::new() };
        let judged = |service: Service| -> Vec<String> {
            let disk = Disk { service: Some(service), sandbox: None, is_outsider: false };
            closed_to_service(&disk, [&layer].into_iter()).map(|finding| finding.to_string()).collect()
        };
        // As root's `cp` leaves it: nobody but root and its group reads it.
        set(0o640);
        let said = judged(service(other));
        assert!(said.len() == 1 && said[0].contains("does not start; `chmod 0644 "), "{said:?}");
        let advice = denied_way_out(&path, other, Some(&service(other)));
        assert!(advice.contains("mode 0640: `chmod 0644 ") && advice.contains("30-rules.toml"), "{advice}");
        // The service reads it by its group: another user is to be used.
        assert!(judged(service(group)).is_empty());
        let advice = denied_way_out(&path, other, Some(&service(group)));
        assert_eq!(advice, "run this as root or as the service's user");
        set(0o644);
        assert!(judged(service(other)).is_empty());
        fs::remove_dir_all(&folder).unwrap();
    }
}
