//! The shell of the configuration: files, environment, credentials, and the id generated at the
//! first start.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "shell")]

use std::fs::{self, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::fcntl::OFlag;
use zeroize::Zeroizing;

use super::finding::{Finding, Place};
use super::gateway_id::{self, Choice};
use super::state::{self, State};
use super::{Content, FileError, Files, IdSource, LayerText, Loaded, Looked, Origin, Paths, Sources};
use crate::message::Name;

/// The main file unless another one is named.
pub const CONFIG_FILE: &str = "/etc/tombolo/tombolo.toml";
/// Drop-ins of the image or the fleet, with the lowest precedence.
pub const VENDOR_CONF_D: &str = "/usr/lib/tombolo/conf.d";
/// Folders of Modbus templates: local ones, and those of the package.
const TEMPLATE_FOLDERS: [&str; 2] = ["/etc/tombolo/modbus", "/usr/share/tombolo/modbus"];
/// Largest configuration file, in bytes.
const FILE_MAX: u64 = 16 << 20;

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
        let environment = std::env::vars_os()
            .filter_map(|(name, value)| {
                Some((name.into_string().ok()?, value.to_string_lossy().into_owned()))
            })
            .filter(|(name, _)| name.starts_with("TOMBOLO_"))
            .collect();
        Options {
            config: config.into(),
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
    read_all(options, previous, None, false)
}

/// As [`load`], but with another text for one drop-in, which need not exist yet, to try it.
pub(super) fn load_with(
    options: &Options,
    previous: Option<&Loaded>,
    instead: Option<&LayerText>,
) -> Result<Loaded, Vec<Finding>> {
    read_all(options, previous, instead, false)
}

/// As [`load`], for the start of the daemon: generates the gateway's id if there is none, and
/// repairs its files. If they cannot be written, that is reported as a problem, and [`settle`]
/// tries again.
///
/// # Errors
/// As [`load`].
pub fn load_to_run(options: &Options) -> Result<Loaded, Vec<Finding>> {
    read_all(options, None, None, true).map(settled)
}

/// As [`load_to_run`], for a reload of a running daemon.
///
/// # Errors
/// As [`load`].
pub fn load_to_reload(options: &Options, running: &Loaded) -> Result<Loaded, Vec<Finding>> {
    read_all(options, Some(running), None, true).map(settled)
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
    instead: Option<&LayerText>,
    to_run: bool,
) -> Result<Loaded, Vec<Finding>> {
    let mut layers = Vec::new();
    let mut faults = Vec::new();
    read_folder(&options.vendor_conf_d, Origin::Vendor, &mut layers, &mut faults);
    let main = read_layer(&options.config, Origin::Main);
    let mut after = Vec::new();
    read_folder(&Paths::conf_d(&options.config), Origin::DropIn, &mut after, &mut faults);
    if let Some(instead) = instead {
        after.retain(|layer| layer.path != instead.path);
        after.push(instead.clone());
        after.sort_by(|a, b| a.path.cmp(&b.path));
    }
    match main {
        Ok(main) => after.insert(0, main),
        // A folder of drop-ins without a main file is sufficient: `init` creates that in an empty
        // folder.
        Err(FileError::Missing) if !after.is_empty() => {}
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
    let folder = paths.state_conf_d();
    let (of_state, mut problems) = state::assemble(&folder, state::io::read(&folder, FILE_MAX), last);
    let running = last.and_then(|last| last.made_id.as_ref());
    let decision = gateway_id::io::look(&paths.state_dir, running);
    let made = match &decision.choice {
        Choice::Known(made) => Some(made.clone()),
        Choice::New(making) => to_run.then(|| gateway_id::io::draw(*making)),
    };
    let registry =
        Arc::new(super::registry::io::load(&paths.devices(), previous.map(|previous| &*previous.registry)));
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
            files: &Disk { service: owner(&paths.state_dir) },
        })
    };
    let (mut loaded, layers, unfit) = state::fit(of_state, last, load)?;
    problems.extend(unfit);
    let mut aside = state::io::set_aside(&paths.state_dir);
    aside.retain(|name| !gateway_id::is_aside(name));
    problems.extend(state::set_aside(&paths.state_dir, &aside));
    loaded.state = State { layers, problems, ..State::default() };
    // If `[gateway] id` is set, the generated id is not needed.
    if loaded.settings.gateway.id_source != IdSource::Configured {
        loaded.state.problems.extend(id_problems(&paths, &decision, made.as_ref()));
        loaded.state.events.extend(gateway_id::event(&decision, &paths.state_dir, made.as_ref()));
        loaded.state.unsettled = Some(decision).filter(|decision| !decision.is_settled());
        loaded.state.made_id = made;
    }
    Ok(loaded)
}

/// `modbus/` next to the main file, so that everything can be in one folder, and then the system's
/// folders.
fn template_folders(main: &Path) -> Vec<PathBuf> {
    let beside = main.parent().unwrap_or(Path::new("")).join("modbus");
    let others = TEMPLATE_FOLDERS.map(PathBuf::from).into_iter().filter(|folder| *folder != beside);
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

fn unreadable(path: &Path, error: &FileError) -> Finding {
    let place = Place { file: path.display().to_string().into(), line: None };
    let advice = match error {
        FileError::Missing => "name another one with --config, or make it: tombolo init --url mqtts://HOST",
        FileError::Denied => "run this as root or as the service's user",
        _ => "put a text file there",
    };
    Finding::fail("configuration", error.to_string()).at(Some(&place)).advice(advice)
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

/// User and group of a folder; for the state directory, those of the service.
fn owner(folder: &Path) -> Option<(u32, u32)> {
    fs::metadata(folder).ok().map(|metadata| (metadata.uid(), metadata.gid()))
}

/// The real files.
struct Disk {
    /// User and group of the state directory, which the service runs as.
    service: Option<(u32, u32)>,
}

impl Disk {
    fn judge(&self, path: &Path, metadata: &fs::Metadata) -> Looked {
        let mode = metadata.mode();
        let closed_to = self.service.filter(|(uid, gid)| {
            let readable = match () {
                () if *uid == 0 => true,
                () if *uid == metadata.uid() => mode & 0o400 != 0,
                () if *gid == metadata.gid() => mode & 0o040 != 0,
                () => mode & 0o004 != 0,
            };
            // Supplementary groups and ACLs are unknown here, so only files of root are judged.
            !readable && metadata.uid() == 0 && metadata.gid() == 0 && !path.starts_with("/run/credentials")
        });
        Looked { exposed: mode & 0o007 != 0, closed_to: closed_to.map(|(uid, _)| user_name(uid)) }
    }
}

fn user_name(uid: u32) -> String {
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
}
