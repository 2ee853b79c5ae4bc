//! `tombolo restore FILE`: puts a backup in the place of this gateway's configuration, devices and
//! credentials. Nothing is changed unless all of the archive is in order.
//!
//! | step | where it fails |
//! |---|---|
//! | the archive is read and verified | nothing was changed |
//! | it is of this gateway, or this one has no id yet, or `--take-id` | nothing was changed |
//! | no configuration is on trial; the daemon does not run, or id and certificates stay as they are | nothing was changed |
//! | the folder of the configuration can be written, or has these very files, or `--state-only` | nothing was changed |
//! | what is there becomes a backup of its own, `before-restore-TIME.tar` in the state directory; without a configuration, in that of the backup's | nothing was changed |
//! | files are written one by one, each whole or not at all; then those of `conf.d/` and `devices/` that the backup does not have are removed | what was done stays; it can be run again, or that backup restored |
//! | the daemon, if it runs, reloads | the files stay, and are named |
//!
//! Journal, rejected records, DTLS sessions, the clock's floor and the updates' floors are not
//! touched: a restore never lowers a floor.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _, lchown};
use std::path::{Path, PathBuf};

use nix::unistd::{Group, geteuid};
use serde_json::json;
use zeroize::Zeroizing;

use super::archive::{self, ARCHIVE_MAX, Manifest, Member};
use super::{Collected, MAIN, collect_of, encode, folder_of, write_new};
use crate::cli::args::RestoreArguments;
use crate::cli::error::CommandError;
use crate::cli::key::shell_word;
use crate::cli::output::plural;
use crate::cli::{Context, note};
use crate::config::inventory::BEFORE_RESTORE;
use crate::config::io::{is_read_only, texts};
use crate::config::trial::io as trial;
use crate::config::{LayerText, Origin, state_dir};
use crate::control::io::client::{Client, ClientError, SLOW_ANSWER};
use crate::control::protocol::Request;
use crate::credential::store::STATE;
use crate::durable::io::{create_directory, regular, sync_folder, write_atomically};
use crate::update::io::untrusted::Folder;

/// Folders whose files take effect by being there.
const WHOLE: [&str; 3] = ["config/conf.d", "state/devices", "state/conf.d"];
/// Backups of what was there before a restore that are kept.
const KEPT: usize = 3;

/// Restores it.
///
/// # Errors
/// [`CommandError::Failed`] as the table says; [`CommandError::Partly`] where the daemon refuses
/// what was restored.
pub fn run(context: &Context, arguments: &RestoreArguments) -> Result<(), CommandError> {
    let shown = match arguments.file == Path::new("-") {
        true => "standard input".to_owned(),
        false => arguments.file.display().to_string(),
    };
    let unchanged = |text: String| CommandError::Failed(format!("nothing was changed: {text}"));
    let archive = read(&arguments.file).map_err(|fault| unchanged(format!("{shown} {fault}")))?;
    let (manifest, mut members) =
        archive::decode(&archive).map_err(|fault| unchanged(format!("{shown}: {fault}")))?;
    drop(archive);
    let before = collect_of(context, "restore", state_dir_of(context, &members))?;
    same_gateway(context, &manifest, &before, arguments.take_id).map_err(unchanged)?;
    if trial::read(&before.state_dir).is_ok_and(|trial| trial.is_some()) {
        let text = "a configuration is on trial, and would be put back; first `tombolo config confirm` or \
                    `tombolo config revert`";
        return Err(unchanged(text.to_owned()));
    }
    let daemon = daemon(context, &before, &members)?;
    let folder = folder_of(&context.options().config);
    let is_read_only = is_read_only(&folder);
    if is_read_only && !arguments.state_only {
        let differs = differing(&members, &before);
        if let Some(first) = differs.first() {
            return Err(unchanged(closed(context, &arguments.file, &folder, first, differs.len())));
        }
    }
    // Where the folder is read-only they are there as they are in the backup.
    if is_read_only || arguments.state_only {
        members.retain(|member| !member.name.starts_with("config/"));
    }
    let writes_config = members.iter().any(|member| member.name.starts_with("config/"));
    // They are the same, and the daemon may be writing them now.
    let all = members.len();
    let running = daemon.is_some();
    // It closes a connection on which nothing is asked for a minute, and a slow card takes longer.
    drop(daemon);
    if running {
        members.retain(|member| !is_held(&member.name));
    }
    let held = all - members.len();
    let mut targets = Targets { folder, state_dir: before.state_dir.clone() };
    targets.judge(context, &members).map_err(unchanged)?;
    let kept = keep(&before).map_err(|error| match error {
        CommandError::Failed(text) => unchanged(text),
        other => other,
    })?;
    let way_back = context.hint(&format!("restore {}", shell_word(&kept.display().to_string())));
    let stopped = |text: String| {
        CommandError::Failed(format!(
            "{text}; the restore is not complete: run it again, or go back with `{way_back}`"
        ))
    };
    let (config, state): (Vec<&Member>, Vec<&Member>) =
        members.iter().partition(|member| member.name.starts_with("config/"));
    for member in config {
        targets.write(context, member).map_err(stopped)?;
    }
    let mut removed = match writes_config {
        true => targets.remove_others(&members, "config/").map_err(stopped)?,
        false => Vec::new(),
    };
    // The configuration that is there now says where the state is.
    let state_dir = texts(&context.options()).state_dir;
    if state_dir != targets.state_dir {
        targets.state_dir = state_dir;
        targets.judge(context, &members).map_err(stopped)?;
    }
    make_state_dir(&targets.state_dir).map_err(stopped)?;
    for member in state {
        targets.write(context, member).map_err(stopped)?;
    }
    removed.extend(targets.remove_others(&members, "state/").map_err(stopped)?);
    let fault = running.then(|| reload(context)).and_then(Result::err);
    let running = running && !matches!(fault, Some(ClientError::NotRunning { .. }));
    let fault = fault.filter(|_| running);
    let refused = fault.as_ref().map(ToString::to_string);
    let done = Done { members: &members, held, removed: &removed, kept: &kept, running };
    say(context, &manifest, &done, refused.as_deref())?;
    match fault {
        None => Ok(()),
        Some(ClientError::Failed(reason)) => Err(CommandError::Partly(format!(
            "restored, but the gateway goes on with the configuration it has: {reason}; go back with `{way_back}`"
        ))),
        // It did not refuse anything.
        Some(error) => Err(CommandError::Partly(format!(
            "restored, but it is not known whether the gateway has taken it up: {error}; `{}` has it do so",
            context.hint("reload")
        ))),
    }
}

/// Has the running daemon take up what is there now.
fn reload(context: &Context) -> Result<(), ClientError> {
    context.daemon()?.ask(&Request::Reload {}, SLOW_ANSWER).map(drop)
}

/// The files of the configuration, below `config/`, that are otherwise in the backup than here.
fn differing(members: &[Member], before: &Collected) -> Vec<String> {
    let of = |members: &[Member]| -> BTreeMap<String, Zeroizing<Vec<u8>>> {
        let config = members.iter().filter(|member| member.name.starts_with("config/"));
        config.map(|member| (member.name.clone(), member.content.clone())).collect()
    };
    let (theirs, ours) = (of(members), of(&before.members));
    let mut names: Vec<String> = theirs
        .iter()
        .filter(|(name, content)| ours.get(*name) != Some(*content))
        .map(|(name, _)| name.clone())
        .collect();
    // A restore would remove it.
    let is_drop_in = |name: &str| name.starts_with("config/conf.d/") && name.ends_with(".toml");
    names.extend(ours.into_keys().filter(|name| is_drop_in(name) && !theirs.contains_key(name)));
    names
}

/// Why the configuration cannot be restored here.
fn closed(context: &Context, file: &Path, folder: &Path, first: &str, count: usize) -> String {
    let file = match file == Path::new("-") {
        true => "FILE".to_owned(),
        false => shell_word(&file.display().to_string()),
    };
    let more = match count {
        1 => String::new(),
        count => format!(" and {} more", count - 1),
    };
    let (folder, name) = (folder.display(), first.strip_prefix("config/").unwrap_or(first));
    format!(
        "{folder} is on a file system that is read-only, and its {name}{more} would change; restore the rest with `{}`, \
         then take files out with `tar -xf {file} config` and apply them: `{}`",
        context.hint(&format!("restore {file} --state-only")),
        context.hint("config apply config/conf.d/NAME.toml")
    )
}

/// The state directory of the configuration in the backup, where there is none here that would name
/// one: what belongs to the gateway at the default place is none of its business.
fn state_dir_of(context: &Context, members: &[Member]) -> Option<PathBuf> {
    let options = context.options();
    if options.config.symlink_metadata().is_ok() {
        return None;
    }
    let layer = |member: &Member| {
        let (origin, path) = match member.name.strip_prefix("config/conf.d/") {
            _ if member.name == MAIN => (Origin::Main, options.config.clone()),
            Some(name) if name.ends_with(".toml") => {
                (Origin::DropIn, folder_of(&options.config).join("conf.d").join(name))
            }
            _ => return None,
        };
        let text = std::str::from_utf8(&member.content).ok()?.to_owned();
        Some(LayerText { origin, path, text })
    };
    let mut layers = texts(&options).layers;
    layers.retain(|layer| layer.origin == Origin::Vendor);
    let (main, more): (Vec<&Member>, Vec<&Member>) = members.iter().partition(|member| member.name == MAIN);
    layers.extend(main.into_iter().chain(more).filter_map(layer));
    Some(state_dir(&layers, &options.environment))
}

/// What was done.
struct Done<'d> {
    members: &'d [Member],
    /// Members that the running daemon holds, which are as in the backup.
    held: usize,
    removed: &'d [PathBuf],
    /// The backup of what was there before.
    kept: &'d Path,
    running: bool,
}

fn say(
    context: &Context,
    manifest: &Manifest,
    done: &Done<'_>,
    refused: Option<&str>,
) -> Result<(), CommandError> {
    let Done { members, held, removed, kept, running } = *done;
    if context.out.json {
        let files: Vec<&str> = members.iter().map(|member| member.name.as_str()).collect();
        return Ok(context.out.object(&json!({
            "gateway": manifest.gateway, "made": manifest.made, "version": manifest.version, "files": files,
            "unchanged": held, "removed": removed, "before": kept, "running": running,
            "reloaded": running && refused.is_none(),
        }))?);
    }
    let of = manifest.gateway.as_deref().unwrap_or("no id yet");
    let same = match held {
        0 => String::new(),
        count => format!(
            "; {} of its id and certificates, which the running gateway uses, are as in the backup",
            plural(count as u64, "file")
        ),
    };
    context.out.line(format_args!(
        "restored {} of gateway {of}, of {}{same}; removed {}",
        plural(members.len() as u64, "file"),
        manifest.made,
        plural(removed.len() as u64, "file")
    ))?;
    note(format_args!(
        "what was there before is in {}, with keys; delete it when all is well",
        kept.display()
    ));
    match (running, refused) {
        (true, None) => context.out.line("the gateway has reloaded")?,
        (true, Some(_)) => {}
        (false, _) => context.out.line(format_args!(
            "next: {}, then {}",
            context.hint("check"),
            context.start_hint()
        ))?,
    }
    Ok(())
}

fn read(file: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
    if file != Path::new("-") {
        return regular::read(file, ARCHIVE_MAX as u64)
            .map(Zeroizing::new)
            .map_err(|fault| fault.to_string());
    }
    let mut bytes = Zeroizing::new(Vec::new());
    let read = io::stdin().lock().take(ARCHIVE_MAX as u64 + 1).read_to_end(&mut bytes);
    read.map(|_| bytes).map_err(|error| format!("cannot be read: {error}"))
}

/// Two gateways with one id disconnect each other and mix their readings.
fn same_gateway(
    context: &Context,
    manifest: &Manifest,
    before: &Collected,
    take_id: bool,
) -> Result<(), String> {
    match (&manifest.gateway, &before.gateway) {
        (Some(theirs), Some(ours)) if theirs != ours && !take_id => Err(format!(
            "the backup is of gateway {theirs}, this is gateway {ours}; if {theirs} is out of service for good, and this \
             machine takes its place, add --take-id: `{}`",
            context.hint("restore FILE --take-id")
        )),
        _ => Ok(()),
    }
}

/// What a running daemon holds: it writes what it holds.
fn is_held(name: &str) -> bool {
    name.starts_with("state/gateway-id") || name.starts_with("state/certificates/")
}

/// What of that changes from day to day, while certificates and id stay: what was tried and when.
fn is_of_the_day(name: &str) -> bool {
    let (folder, file) = name.rsplit_once('/').unwrap_or_default();
    // And its copy.
    file.split('.').next() == Some(STATE) && folder.starts_with("state/certificates/")
}

/// The running daemon, if it may stay running.
fn daemon(context: &Context, before: &Collected, members: &[Member]) -> Result<Option<Client>, CommandError> {
    let client = match context.daemon() {
        Ok(client) => client,
        Err(ClientError::NotRunning { .. } | ClientError::NoConfiguration { .. }) => return Ok(None),
        Err(ClientError::Denied { socket, .. }) => {
            let (shown, hint) = (socket.display(), context.rights_hint("restore"));
            return Err(CommandError::Failed(format!(
                "nothing was changed: {shown} may not be opened by this user, so it is not known whether the gateway \
                 runs; {hint}"
            )));
        }
        Err(error) => return Err(error.into()),
    };
    let held = |member: &&Member| is_held(&member.name) && !is_of_the_day(&member.name);
    let of = |members: &[Member]| -> BTreeMap<String, Zeroizing<Vec<u8>>> {
        let held = members.iter().filter(held);
        held.map(|member| (member.name.clone(), member.content.clone())).collect()
    };
    let (theirs, ours) = (of(members), of(&before.members));
    match theirs == ours {
        true => Ok(Some(client)),
        false => {
            let stop = if context.is_packaged() { "systemctl stop tombolo" } else { "stop it" };
            Err(CommandError::Failed(format!(
                "nothing was changed: the gateway runs, and the backup has another gateway id or other certificates than \
                 it uses now; first {stop}"
            )))
        }
    }
}

/// Writes what is there as a backup of its own, and forgets the oldest of those.
fn keep(before: &Collected) -> Result<PathBuf, CommandError> {
    let encoded = encode(before)?;
    let failed = |path: &Path, error: io::Error| {
        CommandError::Failed(format!("{} cannot be written: {error}", path.display()))
    };
    make_state_dir(&before.state_dir).map_err(CommandError::Failed)?;
    let stamp = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ").to_string();
    let name = |n: u32| {
        if n == 0 {
            format!("{BEFORE_RESTORE}{stamp}.tar")
        } else {
            format!("{BEFORE_RESTORE}{stamp}-{n}.tar")
        }
    };
    let free =
        (0..1000).map(|n| before.state_dir.join(name(n))).find(|path| path.symlink_metadata().is_err());
    let path = free.ok_or_else(|| CommandError::failed("there are too many backups of this second"))?;
    // Not the service's user's: by a link, what it may not read could be in it.
    write_new(&path, &encoded).map_err(|error| failed(&path, error))?;
    let listed = fs::read_dir(&before.state_dir).into_iter().flatten().flatten();
    let mut old: Vec<PathBuf> = listed
        .filter(|entry| entry.file_name().to_str().is_some_and(|name| name.starts_with(BEFORE_RESTORE)))
        .map(|entry| entry.path())
        .filter(|other| *other != path)
        .collect();
    old.sort();
    let surplus = old.len().saturating_sub(KEPT - 1);
    // One that cannot be removed takes room and does no other harm.
    old[..surplus].iter().for_each(|path| drop(fs::remove_file(path)));
    Ok(path)
}

fn make_state_dir(state_dir: &Path) -> Result<(), String> {
    create_directory(state_dir).map_err(|error| format!("{} cannot be made: {error}", state_dir.display()))
}

/// Where members go.
struct Targets {
    /// The folder of the configuration.
    folder: PathBuf,
    state_dir: PathBuf,
}

impl Targets {
    /// Root of the member's place, and the way from there.
    fn split<'m>(&self, name: &'m str) -> (&Path, &'m str) {
        match name.split_once('/') {
            Some(("state", path)) => (&self.state_dir, path),
            Some((_, path)) => (&self.folder, path),
            None => (&self.folder, name),
        }
    }

    fn place(&self, context: &Context, name: &str) -> PathBuf {
        if name == MAIN {
            return context.options().config;
        }
        let (root, path) = self.split(name);
        root.join(path)
    }

    /// Refuses members that would lead elsewhere: over a link, or from the configuration into the
    /// state directory.
    fn judge(&self, context: &Context, members: &[Member]) -> Result<(), String> {
        let whole = |path: &Path| fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let (folder, state) = (whole(&self.folder), whole(&self.state_dir));
        for member in members {
            let (root, path) = self.split(&member.name);
            if member.name.starts_with("config/") && folder.join(path).starts_with(&state) && state != folder
            {
                return Err(format!("{:?} of the backup would be in the state directory", member.name));
            }
            let mut at = root.to_owned();
            let parents = path.rsplit_once('/').map_or("", |(parents, _)| parents);
            for level in parents.split('/').filter(|level| !level.is_empty()) {
                at.push(level);
                match at.symlink_metadata() {
                    Ok(about) if !about.is_dir() => {
                        return Err(format!(
                            "{} is no folder, so {:?} of the backup is not put there; a link is not followed",
                            at.display(),
                            member.name
                        ));
                    }
                    _ => {}
                }
            }
            let place = self.place(context, &member.name);
            if place.is_dir() {
                return Err(format!("{} is a folder; the backup has a file there", place.display()));
            }
        }
        Ok(())
    }

    fn write(&self, context: &Context, member: &Member) -> Result<(), String> {
        let place = self.place(context, &member.name);
        let failed = |error: io::Error| format!("{} cannot be written: {error}", place.display());
        let parent = place.parent().unwrap_or(Path::new("."));
        if let Some(path) = member.name.strip_prefix("state/") {
            // The daemon's own; others read the id.
            let mode = if path.starts_with("gateway-id") { 0o644 } else { 0o600 };
            let (parents, name) = path.rsplit_once('/').unwrap_or(("", path));
            let folder = self.held(parents, Folder::make).map_err(failed)?;
            let folder = folder.as_ref().map_or(self.state_dir.as_path(), Folder::path);
            return write_atomically(&folder.join(name), &member.content, mode).map_err(failed);
        }
        self.make_folder(parent).map_err(failed)?;
        let mode = (member.mode & 0o644) | 0o600;
        write_atomically(&place, &member.content, mode).map_err(failed)?;
        // A key that root writes and the service reads by its group. In a folder of that group the
        // file has it already.
        let group =
            Group::from_name(&member.group).ok().flatten().filter(|_| mode & 0o040 != 0 && mode & 0o004 == 0);
        match group {
            Some(group) if geteuid().is_root() => {
                lchown(&place, None, Some(group.gid.as_raw())).map_err(failed)
            }
            _ => Ok(()),
        }
    }

    /// A folder below the state directory, held open: its user may put a link in its place
    /// meanwhile. `None` is the state directory itself.
    fn held(
        &self,
        path: &str,
        open: impl Fn(&Path, &str) -> io::Result<Folder>,
    ) -> io::Result<Option<Folder>> {
        let mut held: Option<Folder> = None;
        for level in path.split('/').filter(|level| !level.is_empty()) {
            held = Some(open(held.as_ref().map_or(self.state_dir.as_path(), Folder::path), level)?);
        }
        Ok(held)
    }

    /// A folder of the configuration. That of secrets gets the group of the state directory, which
    /// is the service's.
    fn make_folder(&self, folder: &Path) -> io::Result<()> {
        if folder.is_dir() {
            return Ok(());
        }
        if let Some(parent) = folder.parent() {
            self.make_folder(parent)?;
        }
        let secrets = folder == self.folder.join("secrets");
        fs::DirBuilder::new().mode(if secrets { 0o750 } else { 0o755 }).create(folder)?;
        if secrets && geteuid().is_root() {
            if let Ok(about) = fs::metadata(&self.state_dir) {
                lchown(folder, None, Some(about.gid()))?;
            }
            fs::set_permissions(folder, fs::Permissions::from_mode(0o2750))?;
        }
        sync_folder(folder.parent().unwrap_or(Path::new(".")))
    }

    /// Removes what the backup does not have where presence counts. The backup before has it.
    fn remove_others(&self, members: &[Member], under: &str) -> Result<Vec<PathBuf>, String> {
        let names: BTreeSet<&str> = members.iter().map(|member| member.name.as_str()).collect();
        let certificates =
            names.iter().filter_map(|name| name.strip_prefix("state/certificates/")?.split_once('/'));
        let certificates: BTreeSet<String> =
            certificates.map(|(name, _)| format!("state/certificates/{name}")).collect();
        let mut removed = Vec::new();
        // A copy of another id must not be believed over a damaged file.
        let copy = self.state_dir.join("gateway-id.copy");
        if under == "state/"
            && names.contains("state/gateway-id")
            && !names.contains("state/gateway-id.copy")
            && copy.exists()
        {
            fs::remove_file(&copy)
                .map_err(|error| format!("{} cannot be removed: {error}", copy.display()))?;
        }
        for folder in WHOLE.iter().map(|name| (*name).to_owned()).chain(certificates) {
            if !folder.starts_with(under) {
                continue;
            }
            let (root, path) = self.split(&folder);
            let shown = root.join(path);
            let held = match folder.strip_prefix("state/").map(|path| self.held(path, Folder::open)) {
                Some(Err(error)) if error.kind() == io::ErrorKind::NotFound => continue,
                Some(Err(error)) => return Err(format!("{}: {error}", shown.display())),
                Some(Ok(held)) => held,
                None => None,
            };
            let place = held.as_ref().map_or(shown.as_path(), Folder::path);
            let entries = super::entries(place).map_err(|error| match error {
                CommandError::Failed(text) => text,
                other => format!("{}: {other:?}", shown.display()),
            })?;
            for (name, path) in entries {
                let inside = format!("{folder}/{name}");
                let counts = folder.starts_with("state/certificates/") || name.ends_with(".toml");
                if names.contains(inside.as_str()) || !counts || path.is_dir() {
                    continue;
                }
                let shown = shown.join(&name);
                fs::remove_file(&path)
                    .map_err(|error| format!("{} cannot be removed: {error}", shown.display()))?;
                removed.push(shown);
            }
            if place.is_dir() {
                sync_folder(place).map_err(|error| format!("{}: {error}", place.display()))?;
            }
        }
        Ok(removed)
    }
}
