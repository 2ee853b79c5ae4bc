//! `tombolo backup FILE`: what makes this gateway this gateway, in one file, to put it on another
//! card or board with [`restore`].
//!
//! | in it | not in it |
//! |---|---|
//! | the main file, `conf.d/`, `secrets/`, `modbus/`, and each file below the folder of the configuration that a value names | the vendor's files, files elsewhere, systemd credentials, keys in a token |
//! | of the state directory: the gateway's id, `devices/`, `conf.d/`, `secrets/`, `certificates/` | journal, rejected records, DTLS sessions, commands, presence, the clock's floor, the updates' floors, revocation lists |
//!
//! What is not in it belongs to the card: a second copy of it would deliver readings twice, use
//! session numbers twice, or take a floor back. It works with the daemon running, with a faulty
//! configuration, and changes nothing.

pub mod archive;
pub mod restore;

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, IsTerminal as _, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde_json::json;
use zeroize::Zeroizing;

use super::args::BackupArguments;
use super::error::CommandError;
use super::output::{bytes, plural};
use super::{Context, note};
use crate::clock::UnixTime;
use crate::config::gateway_id::Choice;
use crate::config::gateway_id::io::look;
use crate::config::io::texts;
use crate::config::show::{Shown, show};
use crate::config::{Origin, Paths};
use crate::credential::settings::FOLDER as CERTIFICATES;
use crate::durable::io::{regular, sync_folder};
use crate::update::io::untrusted::open_below;
use archive::{FILE_MAX, FILES_MAX, Manifest, Member, is_kept_state, is_plain_path};

/// The main file's name in a backup, whatever it is called here.
const MAIN: &str = "config/tombolo.toml";

/// What a backup has of this gateway.
pub(crate) struct Collected {
    /// The gateway's id, if it has one.
    pub(crate) gateway: Option<String>,
    /// The state directory.
    pub(crate) state_dir: PathBuf,
    /// The files, in the order of their names.
    pub(crate) members: Vec<Member>,
    /// What is configured and not in it, and why.
    pub(crate) left_out: Vec<String>,
}

/// Writes the backup.
///
/// # Errors
/// [`CommandError::Failed`] if the file exists or cannot be written, or if something cannot be
/// read; [`CommandError::Usage`] if it would go to a terminal.
pub fn run(context: &Context, arguments: &BackupArguments) -> Result<(), CommandError> {
    let to_output = arguments.file == Path::new("-");
    if to_output && (context.out.json || io::stdout().is_terminal()) {
        let text = "with - the backup goes to standard output, which takes neither --json nor a terminal: \
                    tombolo backup - > FILE";
        return Err(CommandError::Usage(text.to_owned()));
    }
    let shown = arguments.file.display();
    if !to_output && arguments.file.symlink_metadata().is_ok() {
        return Err(CommandError::Failed(format!("{shown} exists; name another file")));
    }
    let collected = collect(context, "backup")?;
    if !collected.members.iter().any(|member| member.name.starts_with("config/")) {
        let config = context.config.display();
        return Err(CommandError::Failed(format!("there is no configuration: {config} is not there")));
    }
    let encoded = encode(&collected)?;
    if to_output {
        let mut out = io::stdout().lock();
        let written = out.write_all(&encoded).and_then(|()| out.flush());
        written.map_err(|error| CommandError::Failed(format!("the backup cannot be written: {error}")))?;
    } else {
        write_new(&arguments.file, &encoded)
            .map_err(|error| CommandError::Failed(format!("{shown} cannot be written: {error}")))?;
    }
    if context.out.json {
        let files: Vec<&str> = collected.members.iter().map(|member| member.name.as_str()).collect();
        return Ok(context.out.object(&json!({
            "file": arguments.file, "bytes": encoded.len(), "gateway": collected.gateway, "files": files,
            "left_out": collected.left_out,
        }))?);
    }
    collected.left_out.iter().for_each(|left| note(format_args!("not in the backup: {left}")));
    let of = collected.gateway.as_deref().unwrap_or("no id yet");
    let files = plural(collected.members.len() as u64, "file");
    note(format_args!(
        "{files} of gateway {of}, {}; it has keys and passwords in clear: keep it where only you can read it, or \
         encrypt it",
        bytes(encoded.len() as u64)
    ));
    if !to_output {
        context.out.line(shown)?;
    }
    Ok(())
}

/// The archive of what was collected.
pub(crate) fn encode(collected: &Collected) -> Result<Zeroizing<Vec<u8>>, CommandError> {
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let made = UnixTime(u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX)).to_string();
    let manifest = Manifest::new(collected.gateway.clone(), made);
    archive::encode(&manifest, &collected.members, since_1970.as_secs())
        .map_err(|fault| CommandError::Failed(format!("a backup cannot be made: {fault}")))
}

/// Writes a new file, 0600, which belongs to the user that runs this. If it fails there is none.
pub(crate) fn write_new(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let written = file.write_all(content).and_then(|()| file.sync_all()).and_then(|()| sync_folder(folder));
    if written.is_err() {
        let _ = fs::remove_file(path);
    }
    written
}

/// Reads what a backup has.
///
/// # Errors
/// [`CommandError::Failed`] for what cannot be read.
pub(crate) fn collect(context: &Context, command: &str) -> Result<Collected, CommandError> {
    collect_of(context, command, None)
}

/// As [`collect`], where `state_dir` is the state directory, whatever is configured.
pub(super) fn collect_of(
    context: &Context,
    command: &str,
    state_dir: Option<PathBuf>,
) -> Result<Collected, CommandError> {
    let options = context.options();
    let mut texts = texts(&options);
    if let Some(state_dir) = state_dir {
        // What was read below the other one is not this gateway's.
        texts.layers.retain(|layer| layer.origin != Origin::State);
        (texts.state_dir, texts.closed) = (state_dir, None);
    }
    if let Some(closed) = &texts.closed {
        let (closed, hint) = (closed.display(), context.rights_hint(command));
        return Err(CommandError::Failed(format!(
            "nothing was done: {closed} may not be read by this user; {hint}"
        )));
    }
    let state_dir = texts.state_dir.clone();
    let (shown, _) = show(&texts.layers, &options.environment);
    let folder = folder_of(&options.config);
    let mut found = Found { paths: BTreeMap::new(), left_out: Vec::new() };
    if options.config.is_file() {
        found.paths.insert(MAIN.to_owned(), options.config.clone());
    }
    for name in ["conf.d", "secrets", "modbus"] {
        found.folder(&format!("config/{name}"), &folder.join(name))?;
    }
    named_files(&shown, &folder, &state_dir, &mut found);
    for name in ["gateway-id", "gateway-id.copy"] {
        if state_dir.join(name).is_file() {
            found.paths.insert(format!("state/{name}"), state_dir.join(name));
        }
    }
    for name in ["devices", "conf.d", "secrets"] {
        found.folder(&format!("state/{name}"), &state_dir.join(name))?;
    }
    for (name, path) in entries(&state_dir.join(CERTIFICATES))? {
        found.folder(&format!("state/{CERTIFICATES}/{name}"), &path)?;
    }
    found.paths.retain(|name, _| name.strip_prefix("state/").is_none_or(is_kept_state));
    if found.paths.len() > FILES_MAX {
        return Err(CommandError::Failed(format!(
            "{} files would be in it; a backup takes at most {FILES_MAX}",
            found.paths.len()
        )));
    }
    let read = |(name, path): (&String, &PathBuf)| {
        let failed =
            |fault: io::Error| CommandError::Failed(format!("nothing was done: {}: {fault}", path.display()));
        // What the service's user owns may be a link to what only root may read.
        let file = match name.strip_prefix("state/") {
            Some(below) => open_below(&state_dir, Path::new(below)),
            None => regular::open(path).map_err(io::Error::from),
        };
        let file = file.map_err(failed)?;
        let about = file.metadata().map_err(failed)?;
        // In one piece: a secret leaves no copies behind.
        let room = usize::try_from(about.len().min(FILE_MAX)).unwrap_or(0) + 1;
        let mut content = Zeroizing::new(Vec::with_capacity(room));
        file.take(FILE_MAX + 1).read_to_end(&mut content).map_err(failed)?;
        if content.len() as u64 > FILE_MAX {
            return Err(failed(io::Error::other(format!("it has more than {FILE_MAX} bytes"))));
        }
        let group = nix::unistd::Group::from_gid(nix::unistd::Gid::from_raw(about.gid())).ok().flatten();
        let group = group.map(|group| group.name).unwrap_or_default();
        Ok(Member { name: name.clone(), mode: about.mode() & 0o777, group, content })
    };
    let members = found.paths.iter().map(read).collect::<Result<Vec<Member>, CommandError>>()?;
    Ok(Collected { gateway: gateway(&shown, &state_dir), state_dir, members, left_out: found.left_out })
}

/// The gateway's id: the configured one, else the generated one.
fn gateway(shown: &[Shown], state_dir: &Path) -> Option<String> {
    let configured = shown.iter().find(|one| one.key == "gateway.id" && one.place.is_some());
    let configured = configured.and_then(|one| one.value.as_ref()?.as_str().map(str::to_owned));
    configured.or_else(|| match look(state_dir, None).choice {
        Choice::Known(made) => Some(made.id.to_string()),
        Choice::New(_) => None,
    })
}

/// The folder that the configuration is in.
pub(crate) fn folder_of(config: &Path) -> PathBuf {
    Paths::conf_d(config).parent().map(Path::to_owned).unwrap_or_default()
}

/// Files by the names they have in a backup.
struct Found {
    paths: BTreeMap<String, PathBuf>,
    left_out: Vec<String>,
}

impl Found {
    /// The files of a folder.
    fn folder(&mut self, name: &str, folder: &Path) -> Result<(), CommandError> {
        for (file, path) in entries(folder)? {
            // A link that leads nowhere, a pipe: nothing that was configured.
            if !path.is_file() {
                continue;
            }
            self.paths.insert(format!("{name}/{file}"), path);
        }
        Ok(())
    }
}

/// The entries of a folder whose names a backup keeps; none if there is no folder. Others are what
/// writers leave behind.
fn entries(folder: &Path) -> Result<Vec<(String, PathBuf)>, CommandError> {
    let failed = |error: io::Error| {
        CommandError::Failed(format!("nothing was done: {} cannot be read: {error}", folder.display()))
    };
    let listed = match fs::read_dir(folder) {
        Ok(listed) => listed,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        Err(error) => return Err(failed(error)),
    };
    let mut found = Vec::new();
    for entry in listed {
        let entry = entry.map_err(failed)?;
        if let Some(name) = entry.file_name().to_str().filter(|name| is_plain_path(name)) {
            found.push((name.to_owned(), entry.path()));
        }
        if found.len() > FILES_MAX {
            return Err(CommandError::Failed(format!(
                "nothing was done: {} has more than {FILES_MAX} entries",
                folder.display()
            )));
        }
    }
    Ok(found)
}

/// The files that values name.
fn named_files(shown: &[Shown], folder: &Path, state_dir: &Path, found: &mut Found) {
    let (inside, state) = (whole(folder), whole(state_dir));
    for one in shown.iter().filter(|one| one.key.ends_with("-file")) {
        let (Some(text), Some(place)) = (one.value.as_ref().and_then(|value| value.as_str()), &one.place)
        else {
            continue;
        };
        let key = &one.key;
        if text.starts_with("credential:") {
            found.left_out.push(format!("{key}: {text} is a credential of the unit"));
            continue;
        }
        let path = Path::new(&*place.file).parent().unwrap_or(Path::new("")).join(text);
        let real = match fs::canonicalize(&path) {
            Ok(real) => real,
            Err(error) => {
                found.left_out.push(format!("{key}: {} cannot be read: {error}", path.display()));
                continue;
            }
        };
        // With the rest of the state directory, as far as it is kept.
        if real.starts_with(&state) {
            continue;
        }
        // The way to it may lead over links: what it leads to must be inside as well.
        let direct = whole(path.parent().unwrap_or(Path::new(""))).join(path.file_name().unwrap_or_default());
        let relative = direct.strip_prefix(&inside).ok().filter(|_| real.starts_with(&inside));
        match relative.and_then(Path::to_str).filter(|relative| is_plain_path(relative)) {
            Some(relative) => {
                found.paths.entry(format!("config/{relative}")).or_insert(real);
            }
            None if real.starts_with(&inside) && direct.starts_with(&inside) => {
                found
                    .left_out
                    .push(format!("{key}: {}: a backup has no file of such a name", path.display()));
            }
            None => {
                let leads = match direct.starts_with(&inside) {
                    true => format!("is a link to {}, which is", real.display()),
                    false => "is".to_owned(),
                };
                found.left_out.push(format!(
                    "{key}: {} {leads} outside of {inside}; a backup has only the files below that folder: copy this one \
                     yourself, or move it there and change {key}",
                    path.display(),
                    inside = inside.display()
                ));
            }
        }
    }
}

fn whole(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}
